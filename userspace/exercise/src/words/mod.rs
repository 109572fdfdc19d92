// SPDX-License-Identifier: GPL-2.0

//! Random reads and writes of a few hot words by all nodes at once, each noted with its time; afterwards, what was noted of each word
//! must be linearizable: in some order, with every operation inside its time, each read gives the last write.

pub mod check;
pub mod clock;
pub mod event;
pub mod exchange;
pub mod run;

use clap::Args;

use crate::{ending::Ending, parties::Parties};

/// Options of `words`. All but those that `Parties` excepts must be the same for all parties.
#[derive(Args, Clone)]
pub struct Options {
    /// Who takes part
    #[command(flatten)]
    pub parties: Parties,
    /// How many operations each party makes
    #[arg(long, default_value_t = 20_000)]
    pub count: u64,
    /// End earlier, after so many seconds (0: do not)
    #[arg(long, default_value_t = 0)]
    pub seconds: u64,
    /// How many pages, of four words each
    #[arg(long, default_value_t = 3)]
    pub pages: u64,
    /// How many of 100 operations are writes
    #[arg(long, default_value_t = 40)]
    pub writes: u64,
}

impl Options {
    fn check(&self) -> Result<(), Ending> {
        if !(1..=1000).contains(&self.pages) || self.writes > 100 || self.count > 2_000_000 {
            return Err(Ending::Usage(
                "--pages must be 1 to 1000, --writes at most 100, --count at most 2000000"
                    .to_owned(),
            ));
        }
        Ok(())
    }

    /// What must be the same for all parties.
    fn common(&self) -> String {
        format!(
            "words {} --count {} --seconds {} --pages {} --writes {}",
            self.parties.common(),
            self.count,
            self.seconds,
            self.pages,
            self.writes
        )
    }
}
