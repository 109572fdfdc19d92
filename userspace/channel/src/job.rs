// SPDX-License-Identifier: GPL-2.0

//! Which connections belong together.

use serde::{Deserialize, Serialize};

/// Name of a job that nobody can guess: 128 random bits. Made by the responder, told inside the channel of the job's first
/// connection, repeated by the first message of each later one. Who finds a job by it still checks that the peer is the job's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct JobId([u8; 16]);

impl JobId {
    /// A new one.
    pub fn new() -> JobId {
        let mut id = [0; 16];
        // Fails only on kernels without getrandom(2), older than any that this project supports.
        getrandom::fill(&mut id).expect("getrandom(2) is there");
        JobId(id)
    }
}

impl Default for JobId {
    fn default() -> JobId {
        JobId::new()
    }
}

/// Not shown: whoever reads a log must not be able to join.
impl std::fmt::Debug for JobId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JobId(…)")
    }
}
