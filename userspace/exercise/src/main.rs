// SPDX-License-Identifier: GPL-2.0

//! `vremote-exercise`: run by all nodes at once, on one shared file; see the library.
//!
//! Exit status: 0 all as it should be; 1 the file was not coherent, here or at another party; 2 wrong usage; 3 the run could not be
//! finished (time, network, a failed call, another party).

use std::{process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};

use vremote_exercise::{
    ending::Ending, figures::Figures, fsx, litmus, parties::Parties, watch::Watch, words,
};

/// Exercises for a file that several nodes share. Run it on all of them at the same time.
#[derive(Parser)]
#[command(
    version,
    after_help = "Exit status: 0 all as it should be; 1 the file was not coherent; 2 wrong usage; 3 the run could not be finished."
)]
struct Arguments {
    #[command(subcommand)]
    exercise: Exercise,
}

#[derive(Subcommand)]
enum Exercise {
    /// Random operations by all in turns, each compared with a model
    Fsx(fsx::Options),
    /// Tiny concurrent programs, whose outcomes must be those of some order of their steps
    Litmus(litmus::Options),
    /// Concurrent reads and writes of a few words, which must be linearizable
    Words(words::Options),
}

impl Exercise {
    fn parties(&self) -> &Parties {
        match self {
            Exercise::Fsx(options) => &options.parties,
            Exercise::Litmus(options) => &options.parties,
            Exercise::Words(options) => &options.parties,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Exercise::Fsx(_) => "fsx",
            Exercise::Litmus(_) => "litmus",
            Exercise::Words(_) => "words",
        }
    }

    fn run(&self, watch: &Watch, figures: &mut Figures) -> Result<(), Ending> {
        match self {
            Exercise::Fsx(options) => fsx::run::run(options, watch, figures),
            Exercise::Litmus(options) => litmus::run::run(options, watch, figures),
            Exercise::Words(options) => words::run::run(options, watch, figures),
        }
    }
}

fn main() -> ExitCode {
    let exercise = Arguments::parse().exercise;
    let parties = exercise.parties();
    let watch = Watch::start(Duration::from_secs(parties.limit));
    let mut figures = Figures::default();
    let result = exercise.run(&watch, &mut figures);
    watch.clear_progress();
    if let Err(ending) = &result {
        eprintln!("vremote-exercise: {ending}");
    }
    if !figures.is_empty() {
        println!("{}", figures.line(exercise.name(), parties.json));
    }
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(ending) => ExitCode::from(ending.exit_status()),
    }
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
