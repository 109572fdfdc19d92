// SPDX-License-Identifier: GPL-2.0

//! The exercises with all parties on this machine and an ordinary file: they are content with it, and notice when it is tampered with.

use std::{
    fs::OpenOptions,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

/// Tests run at the same time, each with ports of its own. Below the ports that the system gives away.
static PORT: AtomicU16 = AtomicU16::new(20_300);

struct Run {
    path: PathBuf,
    parties: Vec<Child>,
}

impl Run {
    fn start(exercise: &str, parties: usize, options: &[&str]) -> Self {
        Self::start_first(exercise, parties, parties, options)
    }

    /// Starts only the first `started` of the parties.
    fn start_first(exercise: &str, started: usize, parties: usize, options: &[&str]) -> Self {
        let port = PORT.fetch_add(20, Ordering::Relaxed);
        let directory = std::env::temp_dir();
        let path = directory.join(format!("vremote-exercise-{}-{port}", std::process::id()));
        let at = vec!["127.0.0.1"; parties].join(",");
        let start = |party: usize| {
            Command::new(env!("CARGO_BIN_EXE_vremote-exercise"))
                .args([exercise, "--local", "--limit", "60", "--at", &at])
                .args(["--port", &port.to_string(), "--path"])
                .arg(&path)
                .args(["--party", &party.to_string()])
                .args(options)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        };
        Run {
            parties: (0..started).map(start).collect(),
            path,
        }
    }

    fn end(self) -> Vec<Output> {
        let outputs = self.parties.into_iter().map(Child::wait_with_output);
        let outputs = outputs.collect::<Result<_, _>>().unwrap();
        let _ = std::fs::remove_file(self.path);
        outputs
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn all_end_with(outputs: &[Output], status: i32) {
    for output in outputs {
        assert_eq!(output.status.code(), Some(status), "{}", text(output));
    }
}

/// Changes the file again and again until a party ends.
fn tamper(run: &mut Run, change: impl Fn(&Path)) {
    let end = Instant::now() + Duration::from_secs(50);
    while run
        .parties
        .iter_mut()
        .all(|party| party.try_wait().unwrap().is_none())
    {
        assert!(Instant::now() < end, "nobody notices");
        sleep(Duration::from_millis(20));
        change(&run.path);
    }
}

#[test]
fn fsx_is_content_and_all_agree() {
    let outputs = Run::start("fsx", 3, &["--count", "20000", "--seed", "3"]).end();
    all_end_with(&outputs, 0);
    let line = text(&outputs[0]);
    assert!(line.starts_with("fsx ops=20000 mismatches=0 "), "{line}");
    // Everybody counts all operations, whoever made them.
    let kinds = |output: &Output| {
        let text = text(output);
        text[text.find(" read=").unwrap()..].to_owned()
    };
    assert_eq!(kinds(&outputs[0]), kinds(&outputs[1]));
    assert_eq!(kinds(&outputs[0]), kinds(&outputs[2]));
}

#[test]
fn fsx_ends_in_time_at_one_operation() {
    let options = ["--count", "1000000000", "--seconds", "1", "--json"];
    let outputs = Run::start("fsx", 4, &options).end();
    all_end_with(&outputs, 0);
    let ops = |output: &Output| {
        let text = text(output);
        assert!(text.starts_with(r#"{"what":"fsx","ops":"#), "{text}");
        text.split([':', ',']).nth(3).unwrap().to_owned()
    };
    for output in &outputs[1..] {
        assert_eq!(ops(output), ops(&outputs[0]));
    }
}

#[test]
fn fsx_sees_changed_bytes() {
    let options = ["--count", "1000000000", "--ops", "read,write,append"];
    let mut run = Run::start("fsx", 3, &options);
    tamper(&mut run, |path| {
        if let Ok(file) = OpenOptions::new().write(true).open(path) {
            for page in 0..32 {
                file.write_all_at(b"tampered", page * 4096 + 100).unwrap();
            }
        }
    });
    let outputs = run.end();
    all_end_with(&outputs, 1);
    let found: Vec<String> = outputs.iter().map(text).collect();
    let report = found
        .iter()
        .find(|text| text.contains("operations that touched these bytes"))
        .expect("a report");
    assert!(report.contains("to replay, on each node: "), "{report}");
    assert!(report.contains("MISMATCH: seed 1, operation "), "{report}");
    assert!(found.iter().any(|text| text.contains("stopped by party")));
}

#[test]
fn fsx_sees_a_changed_size() {
    let options = ["--count", "1000000000", "--ops", "read,write,size"];
    let mut run = Run::start("fsx", 2, &options);
    tamper(&mut run, |path| {
        if let Ok(file) = OpenOptions::new().write(true).open(path) {
            file.set_len(5).unwrap();
        }
    });
    all_end_with(&run.end(), 1);
}

#[test]
fn parties_that_end_are_missed() {
    let mut run = Run::start("fsx", 3, &["--count", "1000000000"]);
    sleep(Duration::from_millis(500));
    run.parties[1].kill().unwrap();
    let outputs = run.end();
    all_end_with(&[outputs[0].clone(), outputs[2].clone()], 3);
    assert!(text(&outputs[2]).contains("party 1 (127.0.0.1) has ended"));
}

#[test]
fn different_options_are_refused() {
    let run = Run::start_first("fsx", 1, 2, &["--count", "10"]);
    let port = PORT.load(Ordering::Relaxed);
    // The second one has another seed.
    let port_of_run: u16 = run
        .path
        .to_string_lossy()
        .rsplit('-')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!(port_of_run < port);
    let other = Command::new(env!("CARGO_BIN_EXE_vremote-exercise"))
        .args([
            "fsx",
            "--local",
            "--limit",
            "60",
            "--at",
            "127.0.0.1,127.0.0.1",
        ])
        .args(["--port", &port_of_run.to_string(), "--path"])
        .arg(&run.path)
        .args(["--party", "1", "--count", "10", "--seed", "2"])
        .output()
        .unwrap();
    assert_eq!(other.status.code(), Some(3), "{}", text(&other));
    assert!(text(&other).contains("other options"), "{}", text(&other));
    all_end_with(&run.end(), 2);
}

#[test]
fn nobody_waits_for_ever() {
    let output = Command::new(env!("CARGO_BIN_EXE_vremote-exercise"))
        .args([
            "fsx",
            "--local",
            "--limit",
            "1",
            "--at",
            "127.0.0.1,127.0.0.1",
        ])
        .args(["--port", "20200", "--party", "1", "--path", "/nowhere"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output).contains("the limit of 1 s is over while waiting for party 0"));
}

#[test]
fn litmus_is_content() {
    let options = ["--rounds", "300", "--seconds", "20"];
    let outputs = Run::start("litmus", 4, &options).end();
    all_end_with(&outputs, 0);
    assert!(
        text(&outputs[0]).contains("\nlitmus rounds="),
        "{}",
        text(&outputs[0])
    );
}

#[test]
fn litmus_sees_what_nobody_wrote() {
    let options = ["--rounds", "100000", "--seconds", "2"];
    let mut run = Run::start("litmus", 2, &options);
    tamper(&mut run, |path| {
        if let Ok(file) = OpenOptions::new().write(true).open(path) {
            // The pages behind the parties' own words.
            if file.metadata().unwrap().len() > 50 * 4096 - 1 {
                for page in 2..50 {
                    for word in 0..8 {
                        file.write_all_at(&[0x55; 8], page * 4096 + word * 8)
                            .unwrap();
                    }
                }
            }
        }
    });
    let outputs = run.end();
    all_end_with(&outputs, 1);
    assert!(
        text(&outputs[0]).contains("FORBIDDEN"),
        "{}",
        text(&outputs[0])
    );
}

#[test]
fn words_are_content() {
    let outputs = Run::start("words", 3, &["--count", "5000"]).end();
    all_end_with(&outputs, 0);
    assert!(
        text(&outputs[0]).contains(" violations=0 "),
        "{}",
        text(&outputs[0])
    );
}

#[test]
fn words_see_an_old_value() {
    let options = [
        "--count",
        "1000000",
        "--seconds",
        "2",
        "--pages",
        "1",
        "--writes",
        "5",
    ];
    let mut run = Run::start("words", 2, &options);
    tamper(&mut run, |path| {
        if let Ok(file) = OpenOptions::new().read(true).write(true).open(path) {
            let mut old = [0; 8];
            if file.read_exact_at(&mut old, 1024).is_ok() {
                sleep(Duration::from_millis(30));
                file.write_all_at(&old, 1024).unwrap();
            }
        }
    });
    let outputs = run.end();
    all_end_with(&outputs, 1);
    let report = text(&outputs[0]);
    assert!(report.contains("VIOLATION: seed 1, word 1"), "{report}");
}
