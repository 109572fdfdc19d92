// SPDX-License-Identifier: GPL-2.0

//! `vremote-simulate`: runs schedules of the simulation, or one of them again; see the library.
//!
//! Exit status: 0 nothing is wrong; 1 something is; 2 wrong usage.

use std::{
    io::{self, Write},
    process::ExitCode,
    sync::{
        atomic::{AtomicU64, Ordering},
        Mutex, PoisonError,
    },
    thread,
};

use clap::Parser;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use vremote_simulate::{
    executor::Sink,
    profile::Profile,
    world::{run, Outcome},
};

/// How often the progress is drawn anew, in a second.
const DRAWS: u8 = 10;

const TEMPLATE: &str = "{prefix} [{bar:24}] {pos}/{len} schedules {elapsed} {msg}";

/// Nodes, network and disks in one process, through failures, as a seed says; the protocol is the kernel module's.
#[derive(Parser)]
#[command(
    version,
    after_help = "Exit status: 0 nothing is wrong; 1 something is; 2 wrong usage."
)]
struct Arguments {
    /// The first schedule; alone: only that one
    #[arg(long)]
    seed: Option<u64>,
    /// How many schedules
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    runs: Option<u64>,
    /// What goes wrong in them
    #[arg(long, value_enum, default_value_t = Profile::All)]
    profile: Profile,
    /// How many at a time; not with --trace
    #[arg(long, default_value_t = thread::available_parallelism().map_or(1, |n| n.get()))]
    jobs: usize,
    /// Print all that happens
    #[arg(long)]
    trace: bool,
    /// One object as the result, for programs
    #[arg(long)]
    json: bool,
}

/// What came of all schedules.
#[derive(Default)]
struct Sum {
    runs: u64,
    events: u64,
    calls: u64,
    fences: u64,
    crashes: u64,
    time: u64,
    /// All hashes in one, whatever the order.
    hash: u64,
    /// The first that failed.
    failed: Option<(u64, Outcome)>,
}

impl Sum {
    fn add(&mut self, seed: u64, outcome: Outcome) {
        self.runs += 1;
        self.events += outcome.events;
        self.calls += outcome.calls;
        self.fences += outcome.fences;
        self.crashes += outcome.crashes;
        self.time += outcome.time;
        self.hash ^= outcome.hash;
        let first = self.failed.as_ref().is_none_or(|(other, _)| seed < *other);
        if outcome.failure.is_some() && first {
            self.failed = Some((seed, outcome));
        }
    }

    fn show(&self, profile: Profile, json: bool) {
        let name = profile.name();
        let failed = self
            .failed
            .as_ref()
            .and_then(|(seed, outcome)| Some((seed, outcome.time, outcome.failure.as_ref()?)));
        if json {
            let failure = failed.map(|(seed, time, what)| {
                serde_json::json!({ "seed": seed, "time_us": time, "what": what })
            });
            let document = serde_json::json!({
                "profile": name,
                "runs": self.runs,
                "calls": self.calls,
                "events": self.events,
                "fences": self.fences,
                "crashes": self.crashes,
                "time_us": self.time,
                "hash": format!("{:016x}", self.hash),
                "failure": failure,
            });
            println!("{document}");
            return;
        }
        println!(
            "{} schedules ({name}): {} calls, {} events, {} fences, {} crashes in {} s of virtual time; hash {:016x}",
            self.runs,
            self.calls,
            self.events,
            self.fences,
            self.crashes,
            self.time / 1_000_000,
            self.hash
        );
        if let Some((seed, time, what)) = failed {
            let (seconds, micros) = (time / 1_000_000, time % 1_000_000);
            eprintln!("vremote-simulate: seed {seed}, after {seconds}.{micros:06} s: {what}");
            eprintln!(
                "vremote-simulate:   to see it again: vremote-simulate --profile {name} --seed {seed} --trace"
            );
        }
    }
}

fn sink() -> Sink {
    let mut out = io::stdout();
    // Nobody reads it: no reason to fail.
    Box::new(move |line| _ = writeln!(out, "{line}"))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let first = arguments.seed.unwrap_or(0);
    let runs = arguments
        .runs
        .unwrap_or(if arguments.seed.is_some() { 1 } else { 1000 });
    let profile = arguments.profile;
    let target = if arguments.json || arguments.trace || runs == 1 {
        ProgressDrawTarget::hidden()
    } else {
        ProgressDrawTarget::stderr_with_hz(DRAWS)
    };
    let bar = ProgressBar::with_draw_target(Some(runs), target);
    if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
        bar.set_style(style);
    }
    bar.set_prefix(profile.name());

    let seeds = AtomicU64::new(first);
    let end = first.saturating_add(runs);
    let sum = Mutex::new(Sum::default());
    let work = || loop {
        let seed = seeds.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return;
        }
        let outcome = run(profile, seed, None, arguments.trace.then(sink));
        if outcome.failure.is_some() {
            // Those that others have begun are finished, so that the first one is found.
            seeds.fetch_max(end, Ordering::Relaxed);
        }
        bar.inc(1);
        sum.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .add(seed, outcome);
    };
    let jobs = if arguments.trace { 1 } else { arguments.jobs };
    thread::scope(|scope| {
        for _ in 1..jobs {
            scope.spawn(work);
        }
        work();
    });
    bar.finish_and_clear();
    let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    sum.show(profile, arguments.json);
    ExitCode::from(u8::from(sum.failed.is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn arguments_are_consistent() {
        Arguments::command().debug_assert();
    }
}
