// SPDX-License-Identifier: GPL-2.0

//! `vremote-migrate PID ADDRESS`: moves a running process and its descendants to another node.

use std::{
    net::Ipv4Addr,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser;
use serde_json::{json, Value};
use vremote_migrate::{
    images::Place,
    problem::Problem,
    progress::Progress,
    source::{holds_locks, Failure, Mode, Move, Order, Outcome, Report},
    timeline::Timeline,
    tree::Identity,
};

/// Moves a running process, and all that it has started, to another node. Its files follow page by page.
///
/// Exit status: 0 it runs there (with --check: it can be moved); 1 it goes on here; 2 wrong arguments; 3 it is not known whether it runs there: it
/// stands still here until it is, and vremote jobs says what to do.
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
    /// Only say what is in the way
    #[arg(long)]
    check: bool,
    /// Also say what would be done with each file, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// For programs: one JSON document on stdout
    #[arg(long)]
    json: bool,
    /// Draw phases and pages over time
    #[arg(long, value_name = "FILE.svg")]
    timeline: Option<PathBuf>,
    /// Move connections by TCP, too: the address has to move with them
    #[arg(long)]
    tcp_established: bool,
}

fn problem_json(problem: &Problem) -> Value {
    json!({"what": problem.what, "fix": problem.fix})
}

fn report_json(report: &Report) -> Value {
    let files = report.files.iter().map(|(path, place)| {
        let (kind, there) = describe(path, place);
        json!({"path": String::from_utf8_lossy(path), "place": kind, "there": there})
    });
    json!({
        "node": report.node,
        "title": report.title,
        "processes": report.processes,
        "threads": report.threads,
        "resident": report.resident,
        "mode": report.mode.as_str(),
        "blockers": report.blockers.iter().map(problem_json).collect::<Vec<_>>(),
        "warnings": report.warnings,
        "files": files.collect::<Vec<_>>(),
    })
}

fn outcome_json(outcome: &Outcome) -> Value {
    json!({
        "node": outcome.node,
        "pid": outcome.pid,
        "job": outcome.job,
        "mode": outcome.mode.as_str(),
        "rounds": outcome.rounds,
        "bytes": outcome.bytes,
        "bytes_of_rounds": outcome.copied,
        "bytes_before_it_runs": outcome.early,
        "downtime_ms": outcome.downtime.as_millis() as u64,
        "total_ms": outcome.total.as_millis() as u64,
    })
}

/// What happens to a file, in a word, and its path on the target.
fn describe(path: &[u8], place: &Place) -> (&'static str, String) {
    let shown = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    match place {
        Place::Same => ("local", shown(path)),
        Place::Home(there) => ("home", shown(there)),
        Place::Remote(there) | Place::RemoteDirectory(there) => ("remote", shown(there)),
    }
}

fn print_report(report: &Report, files: bool) {
    println!(
        "'{}': {} processes, {} threads, {} MiB, to {} by {}",
        report.title,
        report.processes,
        report.threads,
        report.resident >> 20,
        report.node,
        report.mode.as_str()
    );
    if files {
        for (path, place) in &report.files {
            let (kind, there) = describe(path, place);
            println!("  {kind:6}  {there}");
        }
    }
    for warning in &report.warnings {
        println!("note: {warning}");
    }
    for blocker in &report.blockers {
        println!("blocked: {blocker}");
        if let Some(fix) = &blocker.fix {
            println!("  to fix: {fix}");
        }
    }
    if report.blockers.is_empty() {
        println!("nothing is in the way");
    }
}

/// Whether it has been done, or can be.
fn run(arguments: &Arguments) -> Result<bool, Failure> {
    let order = Order {
        root: Identity::of(arguments.pid).ok_or_else(|| {
            Problem::new(
                format!("there is no process {}", arguments.pid),
                "ps -e lists the processes",
            )
        })?,
        address: arguments.address,
        mode: arguments.mode,
        tcp_established: arguments.tcp_established,
        child: false,
        owner: None,
    };
    let (begun, mut tries) = (Instant::now(), 0);
    loop {
        match attempt(arguments, &order) {
            // Programs hold most locks for a moment only.
            Err(failure)
                if holds_locks(&failure.problem)
                    && tries < LOCK_TRIES
                    && begun.elapsed() < LOCK_LIMIT =>
            {
                tries += 1;
                std::thread::sleep(LOCK_PAUSE);
            }
            done => return done,
        }
    }
}

/// So often a tree that holds locks on files is tried again …
const LOCK_TRIES: u32 = 20;

/// … for no longer than this …
const LOCK_LIMIT: Duration = Duration::from_secs(60);

/// … with this between.
const LOCK_PAUSE: Duration = Duration::from_millis(100);

fn attempt(arguments: &Arguments, order: &Order) -> Result<bool, Failure> {
    let mut timeline = Timeline::new();
    let prepared = Move::prepare(order)?;
    let report = prepared.report();
    let only_look = arguments.check || arguments.dry_run;
    if only_look || !report.blockers.is_empty() {
        if arguments.json {
            println!("{}", report_json(&report));
        } else {
            print_report(&report, arguments.dry_run);
        }
        prepared.abandon();
        return Ok(report.blockers.is_empty());
    }
    let progress = Progress::new(&report, arguments.json);
    let moved = prepared.run(&mut |event| {
        timeline.note(&event);
        progress.show(&event);
    });
    progress.end();
    timeline.end();
    if let Some(path) = &arguments.timeline {
        let title = format!("{} to {}", report.title, report.node);
        if let Err(error) = std::fs::write(path, timeline.draw(&title)) {
            // What became of the process matters more.
            eprintln!("vremote-migrate: no timeline: {}: {error}", path.display());
        }
    }
    let outcome = moved?;
    if arguments.json {
        println!("{}", outcome_json(&outcome));
    } else {
        println!(
            "process {} runs on {}: it stood still for {:.3} s of {:.3} s, {} KiB of memory moved",
            outcome.pid,
            outcome.node,
            outcome.downtime.as_secs_f64(),
            outcome.total.as_secs_f64(),
            outcome.bytes >> 10
        );
    }
    Ok(true)
}

/// The exit status if it is not known whether the tree runs at the target.
const UNDECIDED: u8 = 3;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(Failure {
            problem,
            undecided,
            also,
        }) => {
            if arguments.json {
                let also: Vec<_> = also.iter().map(problem_json).collect();
                println!(
                    "{}",
                    json!({"error": problem_json(&problem), "undecided": undecided, "blockers": also})
                );
            }
            eprintln!("vremote-migrate: error: {problem}");
            if let Some(fix) = problem.fix {
                eprintln!("vremote-migrate:   to fix: {fix}");
            }
            for blocker in also {
                eprintln!("vremote-migrate: also in the way: {blocker}");
                if let Some(fix) = blocker.fix {
                    eprintln!("vremote-migrate:   to fix: {fix}");
                }
            }
            ExitCode::from(if undecided { UNDECIDED } else { 1 })
        }
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
