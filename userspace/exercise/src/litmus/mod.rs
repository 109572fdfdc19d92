// SPDX-License-Identifier: GPL-2.0

//! Litmus tests of the memory that nodes share: what several of them do to a few words at the same time must be what some order of all
//! steps would give (sequential consistency). Between the steps of a thread are fences, so that processors add nothing of their own.

pub mod plan;
pub mod run;
pub mod shape;
pub mod tally;
pub mod value;

use clap::Args;

use crate::parties::Parties;

/// Options of `litmus`. All but those that `Parties` excepts must be the same for all parties.
#[derive(Args, Clone)]
pub struct Options {
    /// Who takes part
    #[command(flatten)]
    pub parties: Parties,
    /// How many rounds, of several tests each
    #[arg(long, default_value_t = 10_000)]
    pub rounds: u64,
    /// End earlier, after so many seconds (0: do not)
    #[arg(long, default_value_t = 0)]
    pub seconds: u64,
    /// Only these tests: MP, SB, LB, 2+2W, S, R, WRC, ISA2, RWC, 3SB, IRIW, CoRR, CoWR, CoRR2
    #[arg(long, value_delimiter = ',')]
    pub shapes: Vec<String>,
}

impl Options {
    /// What must be the same for all parties.
    fn common(&self) -> String {
        format!(
            "litmus {} --rounds {} --seconds {} --shapes {}",
            self.parties.common(),
            self.rounds,
            self.seconds,
            self.shapes.join(",")
        )
    }
}
