// SPDX-License-Identifier: GPL-2.0

//! `vremoted`: receives processes of other nodes, and shares the files of those that have left.

use std::process::ExitCode;

use clap::Parser;
use vremote_migrate::first::First;

/// Receives processes that vremote-migrate moves here, and shares the files of those that have left.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// TCP port
    #[arg(long, default_value_t = vremote_channel::node::PORT)]
    port: u16,
    #[command(subcommand)]
    first: Option<First>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.first {
        Some(first) => first.run(),
        None => vremote_migrate::daemon::run(arguments.port),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("vremoted: error: {problem}");
            if let Some(fix) = problem.fix {
                eprintln!("vremoted:   to fix: {fix}");
            }
            ExitCode::FAILURE
        }
    }
}
