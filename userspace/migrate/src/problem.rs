// SPDX-License-Identifier: GPL-2.0

//! What can go wrong, in words, and what to do about it.

use std::io;

use serde::{Deserialize, Serialize};

/// Why something was not done, or cannot be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{what}")]
pub struct Problem {
    /// What, where and why.
    pub what: String,
    /// What to do about it.
    pub fix: Option<String>,
}

impl Problem {
    /// A problem with advice.
    pub fn new(what: impl Into<String>, fix: impl Into<String>) -> Problem {
        Problem {
            what: what.into(),
            fix: Some(fix.into()),
        }
    }

    /// A problem that explains itself.
    pub fn plain(what: impl Into<String>) -> Problem {
        Problem {
            what: what.into(),
            fix: None,
        }
    }

    /// The same, with what it happened in before it.
    pub fn within(self, context: &str) -> Problem {
        Problem {
            what: format!("{context}: {}", self.what),
            fix: self.fix,
        }
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Problem {
        Problem::plain(error.to_string())
    }
}

impl From<vremote_channel::Error> for Problem {
    fn from(error: vremote_channel::Error) -> Problem {
        Problem::plain(error.to_string())
    }
}

impl From<procfs::ProcError> for Problem {
    fn from(error: procfs::ProcError) -> Problem {
        Problem::plain(error.to_string())
    }
}
