// SPDX-License-Identifier: GPL-2.0

//! Random operations on one file, by all nodes in turns; after each, the file must be what a model says.
//!
//! Every party goes through the same pseudo-random sequence and keeps the model; it makes only its own operations on the real file,
//! when all earlier ones have been made. The idea is that of Apple's and SGI's `fsx`.

pub mod bytes;
pub mod hands;
pub mod history;
pub mod model;
pub mod operation;
pub mod report;
pub mod run;
pub mod sequence;

use clap::Args;

use crate::{ending::Ending, parties::Parties};
use operation::Weights;

/// Options of `fsx`. All but those that `Parties` excepts must be the same for all parties.
#[derive(Args, Clone)]
pub struct Options {
    /// Who takes part
    #[command(flatten)]
    pub parties: Parties,
    /// How many operations all parties make together
    #[arg(long, default_value_t = 100_000)]
    pub count: u64,
    /// End earlier, after so many seconds (0: do not)
    #[arg(long, default_value_t = 0)]
    pub seconds: u64,
    /// The largest size of the file
    #[arg(long, default_value_t = 256 << 10)]
    pub largest: u64,
    /// Most bytes of one operation
    #[arg(long, default_value_t = 64 << 10)]
    pub longest: u64,
    /// Most bytes of one load or store operation, whose pages come one by one
    #[arg(long, default_value_t = 16 << 10)]
    pub longest_mapped: u64,
    /// Mean number of operations of one turn
    #[arg(long, default_value_t = 8)]
    pub turn: u64,
    /// Kinds of operations: `kind[=weight],…` only these, `-kind,…` all but these; read, write, append, truncate, mapread,
    /// mapwrite, punch, sync, size, reopen, forget
    #[arg(long, default_value_t, allow_hyphen_values = true)]
    pub ops: Weights,
}

impl Options {
    fn check(&self) -> Result<(), Ending> {
        let wrong = |what: &str| Err(Ending::Usage(what.to_owned()));
        if !(1..=1 << 30).contains(&self.largest) {
            return wrong("--largest must be 1 to 1073741824");
        }
        if self.longest == 0 || self.longest_mapped == 0 {
            return wrong("--longest and --longest-mapped must be at least 1");
        }
        if self.turn == 0 {
            return wrong("--turn must be at least 1");
        }
        Ok(())
    }

    /// What must be the same for all parties.
    fn common(&self) -> String {
        format!("{} --seconds {}", self.replay(self.count), self.seconds)
    }

    /// What makes the same sequence again, up to an operation.
    fn replay(&self, count: u64) -> String {
        format!(
            "vremote-exercise fsx {} --count {count} --largest {} --longest {} --longest-mapped {} --turn {} --ops {} --party …",
            self.parties.common(),
            self.largest,
            self.longest,
            self.longest_mapped,
            self.turn,
            self.ops
        )
    }
}
