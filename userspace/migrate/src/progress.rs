// SPDX-License-Identifier: GPL-2.0

//! Progress for people: a line on the terminal with the phase, rounds and bytes.

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::source::{Event, Report};

/// How often the line is drawn anew, in a second.
const DRAWS: u8 = 10;

/// Without a colour, so that it is legible everywhere. The template is this program's own.
const TEMPLATE: &str = "{prefix} [{bar:24}] {bytes}/{total_bytes} {bytes_per_sec} {elapsed} {msg}";

/// The line. Nothing is drawn if stderr is no terminal.
#[derive(Debug)]
pub struct Progress(ProgressBar);

impl Progress {
    /// For a move; `quiet`: draws nothing.
    pub fn new(report: &Report, quiet: bool) -> Progress {
        let target = if quiet {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr_with_hz(DRAWS)
        };
        let bar = ProgressBar::with_draw_target(Some(report.resident), target);
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style);
        }
        bar.set_prefix(format!("{} → {}", report.title, report.node));
        Progress(bar)
    }

    /// Shows an event.
    pub fn show(&self, event: &Event) {
        match event {
            Event::Phase(phase) => self.0.set_message(*phase),
            Event::Round {
                number,
                pages,
                still,
            } => self.0.set_message(format!(
                "round {number}: {}; it would stand still for about {:.2} s",
                HumanBytes(pages * 4096),
                still.as_secs_f64()
            )),
            Event::Bytes(bytes) => {
                // What was written again comes again: more than the memory may be on the way.
                self.0.set_length(self.0.length().unwrap_or(0).max(*bytes));
                self.0.set_position(*bytes);
            }
        }
    }

    /// Clears the line.
    pub fn end(&self) {
        self.0.finish_and_clear();
    }
}
