// SPDX-License-Identifier: GPL-2.0

//! `vremote drain`: hands the files of this node over to its disks, before it is taken down on purpose.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::unix::ffi::OsStringExt,
    path::PathBuf,
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

/// How often what a node held was taken back.
fn fences(document: &Value) -> u64 {
    let peers = document["peers"].as_array().into_iter().flatten();
    peers.filter_map(|peer| peer["fences"].as_u64()).sum()
}

/// Where file systems of the kind that can be shared are mounted, from the text of mountinfo. All of them: what was shared a moment ago
/// may be shared no more.
fn origins(mountinfo: &str) -> Vec<PathBuf> {
    let mount = |line: &str| {
        let (mount, kind) = line.split_once(" - ")?;
        let place = mount.split(' ').nth(4)?;
        (kind.split(' ').next()? == "ext4").then(|| unescaped(place))
    };
    mountinfo.lines().filter_map(mount).collect()
}

/// A path with blanks and the like as three octal digits.
fn unescaped(text: &str) -> PathBuf {
    let mut parts = text.split('\\');
    let mut bytes = parts.next().unwrap_or("").as_bytes().to_vec();
    for part in parts {
        let byte = part
            .get(..3)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match byte {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend_from_slice(&part.as_bytes()[3..]);
            }
            None => bytes.extend_from_slice(part.as_bytes()),
        }
    }
    OsString::from_vec(bytes).into()
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
    for place in origins(&fs::read_to_string("/proc/self/mountinfo")?) {
        let synced = File::open(&place)
            .and_then(|directory| nix::unistd::syncfs(&directory).map_err(io::Error::from));
        synced.map_err(|error| {
            Problem::refused(
                format!("{}: not written to disk: {error}", place.display()),
                "see to the disk; then vremote drain again",
            )
        })?;
    }
    if fences(&control.status()?) != fences(&document) {
        return Err(Problem::refused(
            "another node did not answer, or did not give up a page, and was given up: what it had written and not synced is lost; all else is on disk",
            "vremote status and dmesg say which one",
        ));
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
    fn finds_what_can_be_shared() {
        let mountinfo = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
            23 22 0:20 / /sys rw - sysfs sysfs rw\n\
            24 22 7:0 / /srv/a\\040b rw - ext4 /dev/loop0 rw,errors=continue\n\
            25 22 0:40 / /vremote rw - vremote vremote rw\n";
        assert_eq!(
            origins(mountinfo),
            [PathBuf::from("/"), PathBuf::from("/srv/a b")]
        );
        assert!(origins("nonsense - \n - ext4\n").is_empty());
    }

    #[test]
    fn counts_what_is_away() {
        assert_eq!(away(&json!({})), 0);
        assert_eq!(
            away(&json!({"shares": [{"pages_owned": 3}, {"pages_owned": 4}, {}]})),
            7
        );
    }
}
