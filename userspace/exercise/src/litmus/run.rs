// SPDX-License-Identifier: GPL-2.0

//! A run: all parties go from round to round together, which they arrange in the shared file itself.
//!
//! Party 0 writes the number of the round into the first page when all others have written, each into a page of its own, that they are
//! through with the last one. Whoever waits for a word has a copy of its page, and learns of the change as it does of any other.

use std::{
    fs::File,
    io::Write,
    sync::atomic::{fence, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::{
    plan::{Instance, Part, Plan, Spot, BYTES},
    shape::{Shape, Step},
    tally::{Log, Tally},
    value::{decode, encode, FIRST_ROUND, IMPOSSIBLE},
    Options,
};
use crate::{
    ending::Ending,
    figures::Figures,
    file,
    mapping::{Mapping, PAGE},
    meeting::Meeting,
    parties::Parties,
    watch::Watch,
};

/// Said instead of a round: there are no more.
const OVER: u64 = u64::MAX;
/// How often a waiting party looks before it sleeps between looks: others need the processor.
const SPINS: u32 = 20;
const SLEEP: Duration = Duration::from_micros(40);
/// How often it looks for what else there is.
const LOOK: Duration = Duration::from_millis(50);

struct Run<'a> {
    options: &'a Options,
    parties: &'a Parties,
    watch: &'a Watch,
    meeting: &'a Meeting,
    shapes: &'a [Shape],
    file: File,
    map: Mapping,
    log: Log,
    impossible: u64,
}

/// How many impossible values are told one by one.
const TOLD: u64 = 10;

/// Makes a run.
pub fn run(options: &Options, watch: &Watch, figures: &mut Figures) -> Result<(), Ending> {
    let parties = &options.parties;
    parties.check()?;
    let (shapes, left_out) = shapes(options)?;
    if !left_out.is_empty() {
        println!("litmus: not enough parties for {}", left_out.join(", "));
    }
    let path = parties.path.display().to_string();
    let length = words(parties.count()) + BYTES;
    let open = || {
        file::open(&parties.path, parties.access(), false)
            .map_err(Ending::call(format!("opening {path}")))
    };
    // Shared before the others come, who open it after that.
    let mut first = None;
    if parties.is_first() {
        file::create(&parties.path).map_err(Ending::call(format!("making {path}")))?;
        let file = open()?;
        file.set_len(length)
            .map_err(Ending::call(format!("lengthening {path}")))?;
        first = Some(file);
    }
    let meeting = Meeting::begin(parties, watch, &options.common())?;
    let take_part = || {
        let file = match first {
            Some(file) => file,
            None => open()?,
        };
        let map = Mapping::new(&file, length).map_err(Ending::call(format!("mapping {path}")))?;
        meeting.together()?;
        let mut run = Run {
            options,
            parties,
            watch,
            meeting: &meeting,
            shapes: &shapes,
            file,
            map,
            log: Log::default(),
            impossible: 0,
        };
        run.whole(figures)
    };
    let result = take_part();
    watch.clear_progress();
    match &result {
        Ok(()) => meeting.leave(),
        Err(why) => meeting.stop(why, None),
    }
    result
}

/// The shapes that were asked for and have parties for all of their threads, and the names of the others.
fn shapes(options: &Options) -> Result<(Vec<Shape>, Vec<&'static str>), Ending> {
    let all = Shape::all(&options.shapes).map_err(Ending::Usage)?;
    let (fit, rest): (Vec<Shape>, Vec<Shape>) = all
        .into_iter()
        .partition(|shape| shape.threads.len() <= options.parties.count());
    if fit.is_empty() {
        return Err(Ending::Usage("no shape for so few parties".to_owned()));
    }
    Ok((fit, rest.iter().map(|shape| shape.name).collect()))
}

/// Where the word of a party is; party 0's is the round.
fn word(party: usize) -> u64 {
    party as u64 * PAGE
}

/// Bytes that the words of all parties need.
fn words(parties: usize) -> u64 {
    parties as u64 * PAGE
}

impl<'a> Run<'a> {
    fn plan(&self) -> Plan<'a> {
        let count = self.parties.count();
        Plan::new(self.parties.seed, self.shapes, count, words(count))
    }

    fn whole(&mut self, figures: &mut Figures) -> Result<(), Ending> {
        let start = self.watch.elapsed();
        let mut plan = self.plan();
        let mut last: Vec<Instance> = Vec::new();
        let mut round = FIRST_ROUND;
        loop {
            let instances = plan.next_round();
            self.prepare(&instances)?;
            if !self.next_round(round, start)? {
                break;
            }
            self.bodies(round, &instances)?;
            // All have ended the last round, and nobody begins the next before this party has ended this one.
            self.read_last(round - 1, &last)?;
            last = instances;
            round += 1;
        }
        self.read_last(round - 1, &last)?;
        let rounds = round - FIRST_ROUND;
        let seconds = (self.watch.elapsed() - start).as_secs_f64();
        self.judge(rounds, seconds, figures)
    }

    /// What is read before the round: then this party has copies, which the stores of others must end.
    fn prepare(&self, instances: &[Instance]) -> Result<(), Ending> {
        for instance in instances {
            let Some(part) = &instance.parts[self.parties.party] else {
                continue;
            };
            for &location in &part.loaded {
                self.load(instance.spots[location].at, true)?;
            }
        }
        Ok(())
    }

    /// Tells that this party is through with the last round, and waits for the next. False, if there is none.
    fn next_round(&self, round: u64, start: Duration) -> Result<bool, Ending> {
        let me = self.parties.party;
        self.watch.progress(|| format!("litmus: round {round}"));
        if !self.parties.is_first() {
            self.map.store(word(me), round);
            return Ok(self.wait(0, round)? != OVER);
        }
        for party in 1..self.parties.count() {
            self.wait(party, round)?;
        }
        let seconds = Duration::from_secs(self.options.seconds);
        let over = round - FIRST_ROUND >= self.options.rounds
            || self.options.seconds != 0 && self.watch.elapsed() - start >= seconds;
        self.map.store(word(me), if over { OVER } else { round });
        Ok(!over)
    }

    /// Until a party's word is a round, or a later one.
    fn wait(&self, party: usize, round: u64) -> Result<u64, Ending> {
        let mut look = Instant::now() + LOOK;
        let mut spins = 0;
        loop {
            let value = self.map.load(word(party));
            if value >= round {
                return Ok(value);
            }
            spins += 1;
            if spins < SPINS {
                std::hint::spin_loop();
                continue;
            }
            thread::sleep(SLEEP);
            let now = Instant::now();
            if now >= look {
                look = now + LOOK;
                self.meeting.check(|| {
                    format!("{} to be ready for round {round}", self.parties.name(party))
                })?;
            }
        }
    }

    fn bodies(&mut self, round: u64, instances: &[Instance]) -> Result<(), Ending> {
        self.watch.enter(round);
        for instance in instances {
            if let Some(part) = &instance.parts[self.parties.party] {
                self.body(round, instance, part)?;
            }
        }
        self.watch.leave();
        Ok(())
    }

    fn body(&mut self, round: u64, instance: &Instance, part: &Part) -> Result<(), Ending> {
        let shapes = self.shapes;
        let steps = &shapes[instance.test.shape].threads[part.thread];
        for (step, &(delay, mapped)) in steps.iter().zip(&part.steps) {
            pause(delay);
            let spot = instance.spots[step.location()];
            match *step {
                Step::Store(_, value) => self.store(spot.at, encode(round, value), mapped)?,
                Step::Load(_) => {
                    let value = self.see(round, spot, mapped)?;
                    self.log.loads.push(value);
                }
            }
        }
        Ok(())
    }

    /// The locations of a round that has ended, as far as this party is to read them.
    fn read_last(&mut self, round: u64, instances: &[Instance]) -> Result<(), Ending> {
        for instance in instances {
            if instance.reader != self.parties.party {
                continue;
            }
            for &spot in &instance.spots {
                let value = self.see(round, spot, instance.reader_mapped)?;
                self.log.last.push(value);
            }
        }
        Ok(())
    }

    /// The shape's value that is in a location.
    fn see(&mut self, round: u64, spot: Spot, mapped: bool) -> Result<u8, Ending> {
        let word = self.load(spot.at, mapped)?;
        let value = decode(round, spot.before, word);
        if value != IMPOSSIBLE {
            return Ok(value);
        }
        self.impossible += 1;
        if self.impossible <= TOLD {
            // The log has no room for what is there.
            println!(
                "litmus: {} sees value {} of round {} at {:#x} in round {round}, which was last written in round {}",
                self.parties.name(self.parties.party),
                word & 0xff,
                word >> 8,
                spot.at,
                spot.before,
            );
        }
        Ok(value)
    }

    fn load(&self, at: u64, mapped: bool) -> Result<u64, Ending> {
        let value = match mapped {
            true => self.map.load(at),
            false => file::read_word(&self.file, at).map_err(Ending::call("pread"))?,
        };
        // What the processor itself may do late is not what is tested.
        fence(Ordering::SeqCst);
        Ok(value)
    }

    fn store(&self, at: u64, value: u64, mapped: bool) -> Result<(), Ending> {
        match mapped {
            true => self.map.store(at, value),
            false => file::write_word(&self.file, at, value).map_err(Ending::call("pwrite"))?,
        }
        fence(Ordering::SeqCst);
        Ok(())
    }

    /// Party 0 puts all logs together; all learn what came of it.
    fn judge(&mut self, rounds: u64, seconds: f64, figures: &mut Figures) -> Result<(), Ending> {
        let mut tally = None;
        let judge = |logs: &[Vec<u8>]| {
            let logs: Vec<Log> = logs.iter().map(|log| Log::decode(log)).collect();
            tally = Tally::of(self.shapes, self.plan(), rounds, &logs);
            let forbidden = tally.as_ref().map_or(u64::MAX, |tally| tally.forbidden);
            forbidden.to_le_bytes().to_vec()
        };
        let answer = self.meeting.round(self.log.encode(), judge, || ())?;
        let forbidden = answer
            .as_slice()
            .try_into()
            .map_or(u64::MAX, u64::from_le_bytes);
        figures
            .add("rounds", rounds)
            .add("forbidden", forbidden)
            .add_seconds(seconds)
            .add("seed", self.parties.seed)
            .add("parties", self.parties.count() as u64);
        if let Some(tally) = &tally {
            for line in tally.lines(self.shapes) {
                println!("{line}");
            }
            for example in &tally.examples {
                println!("litmus: FORBIDDEN: seed {}, {example}", self.parties.seed);
            }
            let (tests, seen, allowed) = tally.variety(self.shapes);
            figures
                .add("instances", tally.instances)
                .add("tests", tests as u64)
                .add("outcomes", seen as u64)
                .add("allowed", allowed as u64);
            // Others end their output now; ours comes before that.
            let _ = std::io::stdout().flush();
        }
        match forbidden {
            0 => Ok(()),
            u64::MAX => Err(Ending::Trouble("the parties' logs do not fit".to_owned())),
            _ if self.parties.is_first() => Err(Ending::Violation(format!(
                "{forbidden} forbidden outcomes, seed {}",
                self.parties.seed
            ))),
            _ => Err(Ending::Elsewhere(format!("{forbidden} forbidden outcomes"))),
        }
    }
}

/// Waits for so many microseconds: short times by turning, since sleeping takes longer.
fn pause(microseconds: u32) {
    let time = Duration::from_micros(u64::from(microseconds));
    if microseconds > 200 {
        thread::sleep(time);
        return;
    }
    let start = Instant::now();
    while microseconds != 0 && start.elapsed() < time {
        std::hint::spin_loop();
    }
}
