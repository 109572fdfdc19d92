// SPDX-License-Identifier: GPL-2.0

//! Who takes part in a run: the options that all exercises have.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    path::PathBuf,
    time::Duration,
};

use clap::Args;

use crate::{ending::Ending, file::Access};

/// Most parties of a run.
pub const MOST: usize = 16;

/// Who takes part in a run, and how long it may take. All but `--party`, `--limit` and `--json` must be the same for all.
#[derive(Args, Clone)]
pub struct Parties {
    /// The file; party 0 makes it, on its own node, and shares it
    #[arg(long)]
    pub path: PathBuf,
    /// Addresses of all parties, in order; several may be of one node
    #[arg(long, value_delimiter = ',', required = true)]
    pub at: Vec<Ipv4Addr>,
    /// Which of them this is, from 0
    #[arg(long)]
    pub party: usize,
    /// TCP port of party 0; party K has the UDP port behind that by K
    #[arg(long, default_value_t = 7700)]
    pub port: u16,
    /// What the pseudo-random numbers begin with: the same seed makes the same choices
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Give up after so many seconds
    #[arg(long, default_value_t = 600)]
    pub limit: u64,
    /// The last line of output as JSON
    #[arg(long)]
    pub json: bool,
    /// Open a file of this machine, without flags: all parties run here, which tests this program and not the file
    #[arg(long)]
    pub local: bool,
}

impl Parties {
    /// An error, if the options do not fit together.
    pub fn check(&self) -> Result<(), Ending> {
        let count = self.at.len();
        if !(2..=MOST).contains(&count) {
            return Err(Ending::Usage(format!(
                "{count} parties; there must be 2 to {MOST} addresses behind --at"
            )));
        }
        if self.party >= count {
            return Err(Ending::Usage(format!(
                "--party {} of {count} parties; they count from 0",
                self.party
            )));
        }
        if usize::from(self.port) + count > 65536 {
            return Err(Ending::Usage("--port leaves no room for all".to_owned()));
        }
        Ok(())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.at.len()
    }

    /// Whether this is the one that makes and shares the file, and that the others meet at.
    pub fn is_first(&self) -> bool {
        self.party == 0
    }

    /// Where the others meet party 0, by TCP.
    pub fn meeting_address(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.at[0], self.port)
    }

    /// A party's UDP socket.
    pub fn address(&self, party: usize) -> SocketAddrV4 {
        SocketAddrV4::new(self.at[party], self.port + party as u16)
    }

    /// How this party opens the file.
    pub fn access(&self) -> Access {
        match (self.local, self.is_first()) {
            (true, _) => Access::Plain,
            (false, true) => Access::Origin,
            (false, false) => Access::Remote,
        }
    }

    /// The time that the run may take.
    pub fn limit(&self) -> Duration {
        Duration::from_secs(self.limit)
    }

    /// What is said of a party.
    pub fn name(&self, party: usize) -> String {
        format!("party {party} ({})", self.at[party])
    }

    /// What must be the same for all parties, as text.
    pub fn common(&self) -> String {
        let at: Vec<String> = self.at.iter().map(Ipv4Addr::to_string).collect();
        format!(
            "--path {} --at {} --port {} --seed {}{}",
            self.path.display(),
            at.join(","),
            self.port,
            self.seed,
            if self.local { " --local" } else { "" }
        )
    }
}
