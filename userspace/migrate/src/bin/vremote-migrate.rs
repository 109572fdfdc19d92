// SPDX-License-Identifier: GPL-2.0

//! `vremote-migrate PID ADDRESS`: moves a running process and its descendants to another node.

use std::{net::Ipv4Addr, process::ExitCode};

use clap::Parser;
use vremote_migrate::{
    problem::Problem,
    source::{Mode, Move, Order, Outcome},
};

/// Moves a running process, and all that it has started, to another node. Its files follow page by page.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The process
    pid: i32,
    /// Address of the node to move it to
    address: Ipv4Addr,
    /// How memory moves [default: precopy for large processes, stop for small ones]
    #[arg(long)]
    mode: Option<Mode>,
    /// Move connections by TCP, too: the address has to move with them
    #[arg(long)]
    tcp_established: bool,
}

fn run(arguments: &Arguments) -> Result<Outcome, Problem> {
    let order = Order {
        pid: arguments.pid,
        address: arguments.address,
        mode: arguments.mode,
        tcp_established: arguments.tcp_established,
    };
    let prepared = Move::prepare(&order)?;
    for blocker in prepared.report().blockers {
        eprintln!("blocker: {blocker} ({:?})", blocker.fix);
    }
    prepared.run(&mut |event| eprintln!("{event:?}"))
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(outcome) => {
            println!("{outcome:?}");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("vremote-migrate: error: {problem}");
            if let Some(fix) = problem.fix {
                eprintln!("vremote-migrate:   to fix: {fix}");
            }
            ExitCode::FAILURE
        }
    }
}
