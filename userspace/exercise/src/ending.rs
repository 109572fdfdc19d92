// SPDX-License-Identifier: GPL-2.0

//! Why a run ended before its time.

use std::{fmt::Display, io};

use thiserror::Error;

/// Why a run ended before its time.
#[derive(Debug, Error)]
pub enum Ending {
    /// What was shared was not coherent; the text has all that is known.
    #[error("{0}")]
    Violation(String),
    /// Another party saw such a thing.
    #[error("stopped by {0}")]
    Elsewhere(String),
    /// The run could not go on: time, network, another party.
    #[error("{0}")]
    Trouble(String),
    /// A system call failed that had no reason to.
    #[error("{what}: {error}")]
    Call {
        /// The call, and what it was for
        what: String,
        /// What the system said
        error: io::Error,
    },
    /// The options do not fit together.
    #[error("{0}")]
    Usage(String),
}

impl Ending {
    /// Makes a failed call an ending.
    pub fn call(what: impl Display) -> impl FnOnce(io::Error) -> Self {
        move |error| Ending::Call {
            what: what.to_string(),
            error,
        }
    }

    /// The program's exit status.
    pub fn exit_status(&self) -> u8 {
        match self {
            Ending::Violation(_) | Ending::Elsewhere(_) => 1,
            Ending::Usage(_) => 2,
            Ending::Trouble(_) | Ending::Call { .. } => 3,
        }
    }
}
