// SPDX-License-Identifier: GPL-2.0

//! The module's trace events as a stream, for people and for programs.
//!
//! They are read from a trace instance of this process's own, `/sys/kernel/tracing/instances/vremote-PID`, so that nobody else's
//! tracing is disturbed and nobody disturbs this. It is removed at the end, and those of processes that are no more at the next start.

use std::{
    fs,
    io::{self, BufRead, BufReader, Write},
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{fcntl, FcntlArg, OFlag},
    poll::{poll, PollFd, PollFlags, PollTimeout},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};
use serde_json::{Map, Value};

use crate::problem::Problem;

const TRACING: &str = "/sys/kernel/tracing";

/// Instances of this tool begin so.
const PREFIX: &str = "vremote-";

/// What is wanted of the events.
pub(crate) struct Wanted {
    /// Every message, too.
    pub(crate) messages: bool,
    /// As JSON, one object a line.
    pub(crate) json: bool,
    /// End after so many.
    pub(crate) count: Option<u64>,
}

/// A trace instance that exists as long as this.
struct Instance(PathBuf);

impl Instance {
    fn new(wanted: &Wanted) -> Result<Instance, Problem> {
        let instances = Path::new(TRACING).join("instances");
        if !Path::new("/sys/module/vremote").exists() {
            return Err(Problem::NotLoaded);
        }
        if !instances.exists() {
            return Err(Problem::NotMounted {
                kind: "tracefs",
                place: TRACING.into(),
            });
        }
        remove_abandoned(&instances);
        let instance = instances.join(format!("{PREFIX}{}", std::process::id()));
        fs::create_dir(&instance).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => Problem::NotRoot(instances),
            _ => error.into(),
        })?;
        let instance = Instance(instance);
        for event in ["peer", "directory", "copy", "message"] {
            if event == "message" && !wanted.messages {
                continue;
            }
            let switch = format!("events/vremote/vremote_{event}/enable");
            fs::write(instance.0.join(switch), "1").map_err(|error| {
                Problem::refused(
                    format!("the module has no event vremote_{event}: {error}"),
                    "use the module and the tool of the same release, on a kernel with CONFIG_TRACEPOINTS",
                )
            })?;
        }
        Ok(instance)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // It fails while somebody else reads there; then the next start removes it.
        let _ = fs::remove_dir(&self.0);
    }
}

/// Removes the instances of processes of this tool that were killed.
fn remove_abandoned(instances: &Path) {
    for entry in fs::read_dir(instances).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let id = id.and_then(|id| id.parse::<u32>().ok());
        if id.is_some_and(|id| !Path::new("/proc").join(id.to_string()).exists()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// Writes events as they come, until Ctrl-C, a signal to end, or the wanted number.
pub(crate) fn follow(wanted: &Wanted, out: &mut impl Write) -> Result<(), Problem> {
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGINT);
    ends.add(Signal::SIGTERM);
    ends.thread_block().map_err(io::Error::from)?;
    let signals = SignalFd::with_flags(&ends, SfdFlags::SFD_CLOEXEC).map_err(io::Error::from)?;

    let instance = Instance::new(wanted)?;
    let pipe = fs::File::open(instance.0.join("trace_pipe"))?;
    fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(io::Error::from)?;
    let mut lines = BufReader::new(pipe);
    let mut line = String::new();
    let mut left = wanted.count;
    while left != Some(0) {
        match lines.read_line(&mut line) {
            Ok(0) => {}
            Ok(_) => {
                if let Some(event) = Event::parse(&line) {
                    event.write(wanted.json, out)?;
                    left = left.map(|left| left - 1);
                }
                line.clear();
                continue;
            }
            // What was read of a line stays in `line`.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        out.flush()?;
        let mut wait = [
            PollFd::new(lines.get_ref().as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut wait, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
        if wait[1].any() == Some(true) {
            break;
        }
    }
    out.flush()?;
    Ok(())
}

/// One event: what it is called, and its fields in order.
#[derive(Debug, PartialEq)]
struct Event<'a> {
    /// Seconds of the kernel's trace clock.
    time: f64,
    name: &'a str,
    fields: Vec<(&'a str, &'a str)>,
}

impl<'a> Event<'a> {
    /// Reads a line of `trace_pipe`: task, CPU, flags, `time: vremote_NAME: fields`. `None`: it is none of ours.
    fn parse(line: &'a str) -> Option<Event<'a>> {
        let (before, event) = line.trim_end().split_once(": vremote_")?;
        let time = before.split_whitespace().next_back()?.parse().ok()?;
        let (name, mut rest) = event.split_once(": ")?;
        let mut fields = Vec::new();
        if name == "message" {
            for field in ["way", "peer", "kind"] {
                let (value, behind) = rest.split_once(' ')?;
                fields.push((field, value));
                rest = behind;
            }
        }
        while let Some((field, value)) = rest.split_once('=') {
            // What happened is told in words, and comes last.
            let (value, behind) = match field {
                "what" => (value, ""),
                _ => value.split_once(' ').unwrap_or((value, "")),
            };
            fields.push((field, value));
            rest = behind;
        }
        Some(Event { time, name, fields })
    }

    fn write(&self, json: bool, out: &mut impl Write) -> io::Result<()> {
        if json {
            let mut object = Map::new();
            object.insert("time".into(), self.time.into());
            object.insert("event".into(), self.name.into());
            for (field, value) in &self.fields {
                // Request ids are hexadecimal, whatever their digits.
                let number = value.parse::<i64>().ok().filter(|_| *field != "request");
                let value = number.map_or_else(|| Value::from(*value), Value::from);
                object.insert((*field).into(), value);
            }
            return writeln!(out, "{}", Value::Object(object));
        }
        let of = |wanted: &str| {
            let found = self.fields.iter().find(|(field, _)| *field == wanted);
            found.map_or("", |(_, value)| value)
        };
        write!(out, "{:>14.6}  ", self.time)?;
        match self.name {
            "peer" => writeln!(out, "peer {}: {}", of("peer"), of("what")),
            "copy" => writeln!(
                out,
                "file {} page {}: {} here",
                of("file"),
                of("page"),
                state(of("state"))
            ),
            "directory" => {
                write!(
                    out,
                    "file {} page {}: {} at home",
                    of("file"),
                    of("page"),
                    state(of("home"))
                )?;
                if of("owner") != "-1" {
                    write!(out, ", owned by peer {}", of("owner"))?;
                }
                if of("sharers") != "0" {
                    write!(out, ", {} sharers", of("sharers"))?;
                }
                writeln!(out)
            }
            _ => {
                write!(out, "{} {} {}", of("way"), of("peer"), of("kind"))?;
                for (field, value) in self.fields.iter().skip(3) {
                    if !matches!(*value, "0" | "") {
                        write!(out, " {field} {value}")?;
                    }
                }
                writeln!(out)
            }
        }
    }
}

/// A state's letter in words.
fn state(letter: &str) -> &str {
    match letter {
        "M" => "modified",
        "S" => "shared",
        "I" => "invalid",
        "W" => "on its way home",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(line: &str, json: bool) -> String {
        let mut out = Vec::new();
        Event::parse(line).unwrap().write(json, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    const COPY: &str =
        "          python3-431     [000] .....    71.250000: vremote_copy: file=3 page=7 state=M seq=12\n";
    const MESSAGE: &str = "     vremote_rx-99      [001] d.h1.     5.000001: vremote_message: from node2 Recall file=3 page=7 \
                           seq=12 request=10 flags=KEEP|RETRY count=0 bytes=0 status=0\n";
    const PEER: &str =
        "  kworker/u4:1-9       [000] .....     9.500000: vremote_peer: peer=node2 what=started anew\n";
    const DIRECTORY: &str =
        " x-1 [000] ..... 2.0: vremote_directory: file=1 page=2 home=I owner=4 sharers=0 seq=9\n";

    #[test]
    fn events_for_people() {
        assert_eq!(
            shown(COPY, false),
            "     71.250000  file 3 page 7: modified here\n"
        );
        assert_eq!(
            shown(MESSAGE, false),
            "      5.000001  from node2 Recall file 3 page 7 seq 12 request 10 flags KEEP|RETRY\n"
        );
        assert_eq!(
            shown(PEER, false),
            "      9.500000  peer node2: started anew\n"
        );
        assert_eq!(
            shown(DIRECTORY, false),
            "      2.000000  file 1 page 2: invalid at home, owned by peer 4\n"
        );
    }

    #[test]
    fn events_for_programs() {
        assert_eq!(
            shown(COPY, true),
            "{\"time\":71.25,\"event\":\"copy\",\"file\":3,\"page\":7,\"state\":\"M\",\"seq\":12}\n"
        );
        let message: Value = serde_json::from_str(&shown(MESSAGE, true)).unwrap();
        assert_eq!(message["kind"], "Recall");
        assert_eq!(message["request"], "10");
        assert_eq!(message["status"], 0);
    }

    #[test]
    fn other_lines_are_none() {
        for line in [
            "",
            "CPU:0 [LOST 12 EVENTS]\n",
            "x: vremote_copy\n",
            ": vremote_copy: a=1",
            "a 1.0: sched_switch: x=1",
        ] {
            assert_eq!(Event::parse(line), None, "{line:?}");
        }
    }
}
