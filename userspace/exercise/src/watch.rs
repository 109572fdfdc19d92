// SPDX-License-Identifier: GPL-2.0

//! The time that a run may take. Whoever waits asks it; a thread ends the program when a system call does not return.

use std::{
    io::{stderr, IsTerminal},
    sync::{
        atomic::{AtomicU64, Ordering::Relaxed},
        Arc,
    },
    thread,
    time::{Duration, Instant},
};

use crate::ending::Ending;

/// What the others get, beyond the limit, to say what they waited for before this program is ended from outside.
const GRACE: Duration = Duration::from_secs(5);

/// The time that a run may take, and what it is doing.
#[derive(Clone)]
pub struct Watch {
    start: Instant,
    limit: Duration,
    /// The number of the operation that is being made, plus 1; 0: none.
    inside: Arc<AtomicU64>,
    shown: Arc<AtomicU64>,
    terminal: bool,
}

impl Watch {
    /// Starts it. The program ends with status 3 if it is still there when the limit has been over for a few seconds.
    pub fn start(limit: Duration) -> Self {
        let watch = Watch {
            start: Instant::now(),
            limit,
            inside: Arc::default(),
            shown: Arc::default(),
            terminal: stderr().is_terminal(),
        };
        let late = watch.clone();
        thread::spawn(move || {
            thread::sleep(late.limit + GRACE);
            match late.inside.load(Relaxed) {
                0 => eprintln!("exercise: not at its end after {:?}", late.limit),
                n => eprintln!(
                    "exercise: operation {} has not returned after {:?}",
                    n - 1,
                    late.limit
                ),
            }
            std::process::exit(3);
        });
        watch
    }

    /// Since the start.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// The same in seconds.
    pub fn seconds(&self) -> f64 {
        self.elapsed().as_secs_f64()
    }

    /// An error, if the time is up; `what` says what is being waited for.
    pub fn check(&self, what: impl FnOnce() -> String) -> Result<(), Ending> {
        if self.elapsed() < self.limit {
            return Ok(());
        }
        Err(Ending::Trouble(format!(
            "the limit of {} s is over while waiting for {}",
            self.limit.as_secs(),
            what()
        )))
    }

    /// Until the limit; never nothing, which would mean "for ever" to some calls.
    pub fn left(&self) -> Duration {
        self.limit
            .saturating_sub(self.elapsed())
            .max(Duration::from_millis(1))
    }

    /// From here on, until `leave`, this operation is being made.
    pub fn enter(&self, operation: u64) {
        self.inside.store(operation + 1, Relaxed);
    }

    /// No operation is being made.
    pub fn leave(&self) {
        self.inside.store(0, Relaxed);
    }

    /// Shows progress, once a second, if somebody looks.
    pub fn progress(&self, text: impl FnOnce() -> String) {
        if !self.terminal {
            return;
        }
        let second = self.elapsed().as_secs();
        if self.shown.swap(second, Relaxed) != second {
            eprint!("\r[{:3}:{:02}] {}\x1b[K", second / 60, second % 60, text());
        }
    }

    /// Takes the line of progress away.
    pub fn clear_progress(&self) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
    }
}
