// SPDX-License-Identifier: GPL-2.0

//! The protocol of VRemote in a world of a few nodes and a bad network, to be explored.
//!
//! The origin of a file, `R` remotes and `P` pages; every node reads and writes. The origin runs `directory.rs`, the
//! remotes run `copy.rs`: the files that the kernel module compiles. What the kernel does around them is modelled in
//! [`world`]. The network loses, duplicates and reorders as it likes, within a [`world::Budget`].
//!
//! Three ways to explore:
//!
//! - `tests/exhaustive.rs`: stateright visits every state within a budget;
//! - `tests/random.rs`: thousands of long random schedules, each named by a seed ([`simulate`]);
//! - `tests/mutations.rs`: both, on worlds with a planted bug ([`mutation`]) that must be found.
//!
//! What must hold in every state is in [`checks`]. Time, which that world does not have, is in [`lease`]: when what a silent node holds may be
//! taken from it. Requests that must not run twice are in [`once`].

use std::fmt::{Debug, Display};

pub mod checks;
pub mod lease;
pub mod mutation;
pub mod once;
pub mod simulate;
pub mod world;

/// Plants one bug after another. `find`: the schedule that shows it, and what the checks said; `None`: none does, which is a failure.
///
/// # Panics
///
/// A bug was not found.
pub fn expect_all_found<M: Copy + Debug, E: Display>(
    mutations: &[M],
    find: impl Fn(M) -> Option<(u64, E)>,
) {
    let mut missed = Vec::new();
    for &mutation in mutations {
        match find(mutation) {
            Some((schedule, error)) => {
                let name = format!("{mutation:?}");
                report(&format!("    {name:24} {schedule:>8}  {error}"));
            }
            None => missed.push(mutation),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}

/// Prints a line of results. Unlike `println!` it is not held back when a test passes.
pub fn report(line: &str) {
    use std::io::Write;
    // Nobody reads it: no reason to fail.
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}
