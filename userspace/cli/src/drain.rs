// SPDX-License-Identifier: GPL-2.0

//! `vremote drain`: hands the files of this node over to its disks, before it is taken down on purpose.

use std::{
    fs::File,
    io,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use crate::{control::Control, problem::Problem};

/// How often the progress is drawn anew, in a second.
const DRAWS: u8 = 5;

/// KiB in a page.
const PAGE_KIB: u64 = 4;

/// Pages that remotes may have written and that are not home yet.
fn away(document: &Value) -> u64 {
    let shares = document["shares"].as_array().into_iter().flatten();
    shares
        .filter_map(|share| share["pages_owned"].as_u64())
        .sum()
}

fn bar(total: u64) -> ProgressBar {
    let target = ProgressDrawTarget::stderr_with_hz(DRAWS);
    let bar = ProgressBar::with_draw_target(Some(total), target);
    if let Ok(style) = ProgressStyle::with_template("[{bar:24}] {pos}/{len} pages home {elapsed}") {
        bar.set_style(style);
    }
    bar
}

/// Brings home what other nodes have written, and has all of it, and all names, written to disk. What was done, in words.
pub(crate) fn begin(control: &Control) -> Result<String, Problem> {
    let document = control.status()?;
    let total = away(&document);
    let bar = bar(total);
    let done = thread::scope(|scope| {
        let (send, done) = mpsc::channel();
        scope.spawn(move || send.send(control.drain(true)));
        loop {
            match done.recv_timeout(Duration::from_millis(1000 / u64::from(DRAWS))) {
                Ok(result) => return result,
                Err(RecvTimeoutError::Timeout) => {
                    if let Ok(document) = control.status() {
                        bar.set_position(total.saturating_sub(away(&document)));
                    }
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Problem::plain("the work ended without a result"))
                }
            }
        }
    });
    bar.finish_and_clear();
    done?;
    for export in control.exports()? {
        let synced = File::open(&export.path)
            .and_then(|directory| nix::unistd::syncfs(&directory).map_err(io::Error::from));
        synced.map_err(|error| {
            Problem::refused(
                format!("{}: not written to disk: {error}", export.path.display()),
                "see to the disk; then vremote drain again",
            )
        })?;
    }
    Ok(format!(
        "{} files, {total} pages ({} KiB) brought home. What other nodes have written is on disk.\nThey may read here, and change nothing \
         (EROFS), until `vremote drain --end`, or until the module is loaded anew.\n",
        document["shares"].as_array().map_or(0, Vec::len),
        total * PAGE_KIB
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn counts_what_is_away() {
        assert_eq!(away(&json!({})), 0);
        assert_eq!(
            away(&json!({"shares": [{"pages_owned": 3}, {"pages_owned": 4}, {}]})),
            7
        );
    }
}
