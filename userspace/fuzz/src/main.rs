// SPDX-License-Identifier: GPL-2.0

//! `vremote-fuzz`: feeds mutated inputs to the protocol for a given time.
//!
//! It needs no instrumentation and no nightly compiler: instead of coverage it goes by the signatures that the targets
//! return. An input that makes a target panic is written to a file and ends the run with status 1.

use std::collections::HashSet;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use vremote_fuzz::{Target, TARGETS};

const USAGE: &str =
    "usage: vremote-fuzz [--seconds N] [--corpus DIR] [--crashes DIR] [--seed N] [FILE ...]

Feeds mutations of the files in the corpus to the protocol core for N seconds (default 60).
FILE: only runs these inputs, for example one that a run has written.

  --corpus DIR    where to start from (default: nothing, random bytes only)
  --crashes DIR   where an input that fails is written (default: the current directory)
  --seed N        the same N, the same inputs on one processor (default: the time)";

/// Inputs kept for each target; a full pool replaces one at random.
const POOL: usize = 4096;

struct Options {
    time: Duration,
    corpus: Option<PathBuf>,
    crashes: PathBuf,
    seed: u64,
    files: Vec<PathBuf>,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        time: Duration::from_secs(60),
        corpus: None,
        crashes: PathBuf::from("."),
        seed: std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(1, |t| t.as_nanos() as u64),
        files: Vec::new(),
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        let number = |text: String| {
            text.parse::<u64>()
                .map_err(|_| format!("'{text}' is not a number"))
        };
        match argument.as_str() {
            "--seconds" => options.time = Duration::from_secs(number(value()?)?),
            "--seed" => options.seed = number(value()?)?,
            "--corpus" => options.corpus = Some(value()?.into()),
            "--crashes" => options.crashes = value()?.into(),
            "--help" | "-h" => {
                println!("{USAGE}");
                std::process::exit(0);
            }
            other if other.starts_with('-') => return Err(format!("what is '{other}'?\n{USAGE}")),
            file => options.files.push(file.into()),
        }
    }
    Ok(options)
}

fn read_corpus(directory: &Path) -> Result<Vec<Vec<u8>>, String> {
    let say = |error| format!("cannot read the corpus {}: {error}", directory.display());
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .map_err(say)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    files
        .iter()
        .map(|path| std::fs::read(path).map_err(say))
        .collect()
}

/// xorshift64*
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 33) as usize % limit.max(1)
    }
}

/// Numbers that sit on the edge of something.
const EDGES: [u64; 12] = [
    0,
    1,
    255,
    256,
    1366,
    4096,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0xffff_ffff,
    i64::MAX as u64,
    u64::MAX,
];

/// Changes an input in a few places.
fn mutate(input: &mut Vec<u8>, longest: usize, other: &[u8], random: &mut Random) {
    for _ in 0..=random.below(4) {
        let at = random.below(input.len());
        match random.below(9) {
            0 if !input.is_empty() => input[at] ^= 1 << random.below(8),
            1 if !input.is_empty() => input[at] = random.next() as u8,
            2 if !input.is_empty() => {
                input[at] = input[at]
                    .wrapping_add(random.below(5) as u8)
                    .wrapping_sub(2)
            }
            3 => input.truncate(at),
            4 => {
                let more = random.below(64);
                input.extend((0..more).map(|_| random.next() as u8));
            }
            5 => {
                // A field of 1, 2, 4 or 8 bytes gets an interesting number.
                let width = 1 << random.below(4);
                let value = EDGES[random.below(EDGES.len())]
                    .wrapping_add(random.below(3) as u64)
                    .wrapping_sub(1);
                let at = at / width * width;
                if let Some(field) = input.get_mut(at..at + width) {
                    field.copy_from_slice(&value.to_le_bytes()[..width]);
                }
            }
            6 if !other.is_empty() => {
                // The head of this one, the tail of another.
                input.truncate(at);
                input.extend_from_slice(&other[random.below(other.len())..]);
            }
            7 if !input.is_empty() => {
                let end = (at + random.below(128)).min(input.len());
                let part = input[at..end].to_vec();
                input.splice(at..at, part);
            }
            8 if !input.is_empty() => {
                let end = (at + random.below(32)).min(input.len());
                input.drain(at..end);
            }
            _ => {}
        }
    }
    input.truncate(longest);
}

/// A datagram as `stream` expects it.
fn framed(datagram: &[u8]) -> Vec<u8> {
    let length = datagram.len().min(usize::from(u16::MAX)) as u16;
    let mut framed = length.to_le_bytes().to_vec();
    framed.extend_from_slice(&datagram[..usize::from(length)]);
    framed
}

struct Pool {
    target: Target,
    inputs: Vec<Vec<u8>>,
    seen: HashSet<u64>,
}

impl Pool {
    fn new(target: Target, corpus: &[Vec<u8>]) -> Pool {
        let mut inputs: Vec<Vec<u8>> = corpus.to_vec();
        if target.name == "stream" {
            inputs = corpus.iter().map(|datagram| framed(datagram)).collect();
        }
        inputs.push(Vec::new());
        Pool {
            target,
            inputs,
            seen: HashSet::new(),
        }
    }

    fn step(&mut self, random: &mut Random, input: &mut Vec<u8>) {
        input.clear();
        input.extend_from_slice(&self.inputs[random.below(self.inputs.len())]);
        let other = random.below(self.inputs.len());
        mutate(input, self.target.longest, &self.inputs[other], random);
        if self.seen.len() < 1 << 20 && self.seen.insert((self.target.run)(input)) {
            if self.inputs.len() < POOL {
                self.inputs.push(input.clone());
            } else {
                let at = random.below(POOL);
                self.inputs[at].clone_from(input);
            }
        }
    }
}

/// Runs until the time is up or somebody finds something. Returns what it found: the target and the input.
fn work(
    corpus: &[Vec<u8>],
    seed: u64,
    end: Instant,
    stop: &AtomicBool,
    count: &AtomicU64,
) -> Option<(&'static str, Vec<u8>)> {
    let mut random = Random(seed | 1);
    let mut pools: Vec<Pool> = TARGETS.map(|target| Pool::new(target, corpus)).into();
    let mut input = Vec::new();
    while Instant::now() < end && !stop.load(Ordering::Relaxed) {
        for pool in &mut pools {
            let round = pool.target.round;
            let mut run = || (0..round).for_each(|_| pool.step(&mut random, &mut input));
            if catch_unwind(AssertUnwindSafe(&mut run)).is_err() {
                stop.store(true, Ordering::Relaxed);
                return Some((pool.target.name, input));
            }
            count.fetch_add(round as u64, Ordering::Relaxed);
        }
    }
    None
}

fn run_files(files: &[PathBuf]) -> Result<(), String> {
    for file in files {
        let bytes = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
        for target in TARGETS {
            println!(
                "{}: {}: {:016x}",
                file.display(),
                target.name,
                (target.run)(&bytes)
            );
        }
    }
    Ok(())
}

fn run(options: &Options) -> Result<bool, String> {
    let corpus = options
        .corpus
        .as_deref()
        .map_or(Ok(Vec::new()), read_corpus)?;
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let start = Instant::now();
    let end = start + options.time;
    let stop = AtomicBool::new(false);
    let count = AtomicU64::new(0);
    println!(
        "vremote-fuzz: {} s on {threads} processors, {} inputs to start from, seed {}",
        options.time.as_secs(),
        corpus.len(),
        options.seed
    );
    let found: Vec<_> = std::thread::scope(|scope| {
        let mut workers = Vec::new();
        for thread in 0..threads as u64 {
            let seed = options
                .seed
                .wrapping_add(thread)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let (corpus, stop, count) = (&corpus, &stop, &count);
            workers.push(scope.spawn(move || work(corpus, seed, end, stop, count)));
        }
        let mut next = start + Duration::from_secs(60);
        while Instant::now() < end && !stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(100));
            if Instant::now() >= next {
                next += Duration::from_secs(60);
                println!(
                    "  {} s: {} inputs",
                    start.elapsed().as_secs(),
                    count.load(Ordering::Relaxed)
                );
            }
        }
        workers
            .into_iter()
            .filter_map(|worker| worker.join().ok().flatten())
            .collect()
    });
    for (target, input) in &found {
        let path = options.crashes.join(format!(
            "crash-{target}-{:016x}",
            vremote_fuzz::name_of(input)
        ));
        std::fs::write(&path, input)
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        eprintln!(
            "vremote-fuzz: target {target} failed; again with: vremote-fuzz {}",
            path.display()
        );
    }
    println!(
        "vremote-fuzz: {} inputs in {} s, {} failures",
        count.load(Ordering::Relaxed),
        start.elapsed().as_secs(),
        found.len()
    );
    Ok(found.is_empty())
}

fn main() -> std::process::ExitCode {
    let result = options().and_then(|options| {
        if options.files.is_empty() {
            run(&options)
        } else {
            run_files(&options.files).map(|()| true)
        }
    });
    match result {
        Ok(true) => std::process::ExitCode::SUCCESS,
        Ok(false) => std::process::ExitCode::FAILURE,
        Err(message) => {
            eprintln!("vremote-fuzz: {message}");
            std::process::ExitCode::from(2)
        }
    }
}
