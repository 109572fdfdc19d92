// SPDX-License-Identifier: GPL-2.0

//! What can go wrong, in words, and what to do about it.

use std::{io, path::PathBuf};

/// Why a command was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    /// There is no `/sys/module/vremote`.
    #[error("the kernel module vremote is not loaded")]
    NotLoaded,
    /// configfs or debugfs is not where it should be.
    #[error("{kind} is not mounted at {}", place.display())]
    NotMounted {
        /// Its name.
        kind: &'static str,
        /// Where it should be.
        place: PathBuf,
    },
    /// The kernel did not let us.
    #[error("{} is for root only", .0.display())]
    NotRoot(PathBuf),
    /// The module or the kernel refused it, or it is not there.
    #[error("{what}")]
    Refused {
        /// What and why.
        what: String,
        /// What to do.
        fix: Option<String>,
    },
    /// The status document is not what this tool understands.
    #[error("the module's status cannot be read: {0}")]
    Document(String),
    /// A key file does not do.
    #[error("{0}")]
    Key(#[from] vremote_channel::Error),
    /// Output failed.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl Problem {
    /// A refusal with advice.
    pub(crate) fn refused(what: impl Into<String>, fix: impl Into<String>) -> Problem {
        Problem::Refused {
            what: what.into(),
            fix: Some(fix.into()),
        }
    }

    /// A refusal that explains itself.
    pub(crate) fn plain(what: impl Into<String>) -> Problem {
        Problem::Refused {
            what: what.into(),
            fix: None,
        }
    }

    /// What to do about it.
    pub(crate) fn fix(&self) -> Option<String> {
        match self {
            Problem::NotLoaded => {
                Some("insmod vremote.ko (or modprobe vremote, if it is installed)".into())
            }
            Problem::NotMounted { kind, place } => {
                Some(format!("mount -t {kind} {kind} {}", place.display()))
            }
            Problem::NotRoot(_) => Some("run it as root".into()),
            Problem::Refused { fix, .. } => fix.clone(),
            Problem::Document(_) => Some("use the module and the tool of the same release".into()),
            Problem::Key(error) => error.fix(),
            Problem::Io(_) => None,
        }
    }

    /// Exit status for it.
    pub(crate) fn exit_status(&self) -> u8 {
        match self {
            Problem::NotLoaded | Problem::NotMounted { .. } | Problem::NotRoot(_) => 3,
            Problem::Refused { .. } | Problem::Document(_) | Problem::Key(_) | Problem::Io(_) => 1,
        }
    }
}
