// SPDX-License-Identifier: GPL-2.0

//! The fuzzer's targets on the corpus, and the fuzzer itself for a moment.

use std::path::PathBuf;
use std::process::Command;

use vremote_fuzz::TARGETS;

fn corpus() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "proto", "tests", "corpus"]
        .iter()
        .collect()
}

fn fuzzer() -> Command {
    Command::new(env!("CARGO_BIN_EXE_vremote-fuzz"))
}

/// Every byte of every header in the corpus spoilt in some ways, and every file cut everywhere in it.
#[test]
fn one_spoilt_byte_anywhere() {
    let mut count = 0;
    for entry in std::fs::read_dir(corpus()).unwrap() {
        let input = std::fs::read(entry.unwrap().path()).unwrap();
        let feed = |input: &[u8]| TARGETS.iter().for_each(|target| _ = (target.run)(input));
        feed(&input);
        for at in 0..input.len().min(160) {
            for change in [1, 0x80, 0xff] {
                let mut input = input.clone();
                input[at] ^= change;
                feed(&input);
            }
            feed(&input[..at]);
        }
        count += 1;
    }
    assert!(count > 50, "there are only {count} files in the corpus");
}

#[test]
fn the_fuzzer_runs() {
    let output = fuzzer()
        .args(["--seconds", "2", "--seed", "1", "--corpus"])
        .arg(corpus())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(
        text.lines().last().unwrap().ends_with(", 0 failures"),
        "{text}"
    );
}

#[test]
fn the_fuzzer_refuses_what_it_does_not_know() {
    let status = |arguments: &[&str]| fuzzer().args(arguments).output().unwrap().status.code();
    assert_eq!(status(&["--colour"]), Some(2));
    assert_eq!(status(&["--seconds"]), Some(2));
    assert_eq!(status(&["--seconds", "soon"]), Some(2));
    assert_eq!(status(&["--corpus", "/nowhere"]), Some(2));
    assert_eq!(status(&["--help"]), Some(0));
}
