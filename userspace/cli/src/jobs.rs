// SPDX-License-Identifier: GPL-2.0

//! Processes that have been moved, as the daemon of this node knows them.

pub(crate) use vremote_migrate::control::Command;
use vremote_migrate::{
    control::{Job, Line, Reply},
    problem::Problem as Refusal,
    protocol::Name,
};

use crate::problem::Problem;

/// All jobs.
pub(crate) fn list() -> Result<Vec<Job>, Problem> {
    match Line::connect()?.ask(&Command::List)? {
        Reply::Jobs(jobs) => Ok(jobs),
        _ => Err(Problem::plain("vremoted's answer is not understood")),
    }
}

/// Has something done with the one of this name.
pub(crate) fn order(name: &str, command: fn(Name) -> Command) -> Result<(), Problem> {
    let name = Name::try_from(name.to_string()).map_err(|why| {
        Problem::refused(format!("'{name}': {why}"), "vremote jobs lists the names")
    })?;
    Line::connect()?.ask(&command(name))?;
    Ok(())
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        Problem::Refused {
            what: refusal.what,
            fix: refusal.fix,
        }
    }
}
