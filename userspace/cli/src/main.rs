// SPDX-License-Identifier: GPL-2.0

//! `vremote`: peers and their keys, exports and status of the kernel module of the same name.
//!
//! It reads and writes the module's files in configfs (`/sys/kernel/config/vremote`) and debugfs
//! (`/sys/kernel/debug/vremote`), and the keys of peers (`/etc/vremote/keys`), and says what to do when they are not there.
//!
//! Exit status: 0 done; 1 refused or not found; 2 wrong usage; 3 the module cannot be reached (not loaded, a file system not
//! mounted, not root).

mod control;
mod drain;
mod events;
mod jobs;
mod problem;
mod stats;
mod status;

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use clap::{Parser, Subcommand};

use control::Control;
use problem::Problem;
use vremote_channel::Key;

/// Peers, exports and status of VRemote, the coherent distributed page cache.
#[derive(Parser)]
#[command(
    version,
    after_help = "Exit status: 0 done; 1 refused or not found; 2 wrong usage; 3 the module cannot be reached."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a key for a pair of nodes, in a new file
    Keygen {
        /// The file, which must not exist; it has to come to the other node by a safe way
        file: PathBuf,
    },
    /// Nodes that this one talks to
    #[command(subcommand)]
    Peer(Peer),
    /// Directories that peers may open files in
    #[command(subcommand)]
    Export(Export),
    /// Everything that the module shows
    Status {
        /// The module's own document, for programs
        #[arg(long)]
        json: bool,
    },
    /// What happens in a second: messages, bytes, round trips of each peer
    Stats {
        /// How long to count, in seconds
        #[arg(long, default_value_t = 1.0, value_parser = seconds)]
        interval: f64,
        /// All counters since the module was loaded, for Prometheus, in place of that
        #[arg(long, conflicts_with = "interval")]
        prometheus: bool,
    },
    /// The same again and again, until Ctrl-C
    Top {
        /// Seconds between two looks
        #[arg(long, default_value_t = 1.0, value_parser = seconds)]
        interval: f64,
        /// End after so many
        #[arg(long)]
        count: Option<u64>,
    },
    /// What happens as it happens, until Ctrl-C: sessions with peers, and states of pages
    Events {
        /// Every message as well
        #[arg(long)]
        messages: bool,
        /// An object a line, for programs
        #[arg(long)]
        json: bool,
        /// End after so many
        #[arg(long)]
        count: Option<u64>,
    },
    /// Processes that have been moved here, or away from here
    #[command(args_conflicts_with_subcommands = true)]
    Jobs {
        #[command(subcommand)]
        command: Option<Jobs>,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Before this node is taken down: bring home and to disk what other nodes have written; they write nothing more
    Drain {
        /// Let them write again
        #[arg(long)]
        end: bool,
    },
    /// Remove all exports and peers, so that the module can be unloaded; keys stay
    Clear,
}

#[derive(Subcommand)]
enum Peer {
    /// Make a node a peer; it must do the same with this one
    Add {
        /// Its name: `uname -n` there, and the directory below /vremote here
        name: String,
        /// Its IPv4 address or host name, with :PORT if that is not the port of this node
        address: String,
        /// File of the key that both nodes have; a copy is kept in /etc/vremote/keys. Without it the copy of before is used
        key: Option<PathBuf>,
    },
    /// End the session with a peer, forget it and its key
    Del {
        /// Name of the peer
        name: String,
    },
    /// All peers and their condition
    Show,
}

#[derive(Subcommand)]
enum Export {
    /// Let peers open the files below a directory
    Add {
        /// The directory
        path: PathBuf,
        /// Root on a peer is root here, instead of nobody
        #[arg(long)]
        no_root_squash: bool,
    },
    /// Take it back
    Del {
        /// The directory
        path: PathBuf,
    },
    /// All exported directories
    Show,
}

#[derive(Subcommand)]
enum Jobs {
    /// End the processes of a job that is here or stands still here, or refuse one that arrives
    Stop {
        /// Its name, as `vremote jobs` shows it
        name: String,
    },
    /// Let an undecided job go on here, or take an unconfirmed one for this node's
    ///
    /// Only if you know that it does not run at the other node, or never will again: that node cannot be asked, and until it can, nothing keeps it
    /// from running the job as well. Both would then write to the same files. When the other node is back it ends what it has of the job,
    /// with all that was done there. An undecided job goes on from where it was frozen: what it did elsewhere since then is not undone.
    Resume {
        /// Its name, as `vremote jobs` shows it
        name: String,
    },
    /// Let go what is kept for a job that has moved to a node, or came from one, that never comes back
    ///
    /// Files that are shared for it are shared no more: if it still runs there, it gets errors. An unconfirmed job that has ended here is not run
    /// again by the node that it came from. One that is unsure is let go on there, from where it was, once that node asks: as by resume there.
    Forget {
        /// Its name, as `vremote jobs` shows it
        name: String,
    },
}

/// From a hundredth of a second to an hour.
fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok();
    let good = seconds.filter(|seconds| (0.01..=3600.0).contains(seconds));
    good.ok_or_else(|| "a number of seconds from 0.01 to 3600 is wanted".into())
}

/// Shows what happens in each of `count` intervals, for ever if there is none; on a terminal each in the place of the one before.
fn watch(
    control: &Control,
    interval: f64,
    count: Option<u64>,
    out: &mut impl Write,
) -> Result<(), Problem> {
    let clear = io::stdout().is_terminal() && count != Some(1);
    let (mut before, mut since) = (control.status()?, Instant::now());
    let mut left = count;
    while left != Some(0) {
        thread::sleep(Duration::from_secs_f64(interval));
        let after = control.status()?;
        let time = since.elapsed();
        since = Instant::now();
        if clear {
            // Home, and nothing below.
            out.write_all(b"\x1b[H\x1b[2J")?;
        }
        out.write_all(stats::rates(&before, &after, time).as_bytes())?;
        left = left.map(|left| left - 1);
        if !clear && left != Some(0) {
            out.write_all(b"\n")?;
        }
        out.flush()?;
        before = after;
    }
    Ok(())
}

fn run(command: &Command, out: &mut impl Write) -> Result<(), Problem> {
    let control = Control::new();
    match command {
        Command::Keygen { file } => Key::generate().create(file)?,
        Command::Peer(Peer::Add { name, address, key }) => {
            control.add_peer(name, address, key.as_deref())?;
        }
        Command::Peer(Peer::Del { name }) => control.del_peer(name)?,
        Command::Peer(Peer::Show) => {
            let peers = control.peers()?;
            // The condition of the peers is in debugfs; their addresses are known without.
            let document = control.status().ok();
            out.write_all(status::peers(&peers, document.as_ref()).as_bytes())?;
        }
        Command::Export(Export::Add {
            path,
            no_root_squash,
        }) => {
            control.add_export(path, !no_root_squash)?;
        }
        Command::Export(Export::Del { path }) => control.del_export(path)?,
        Command::Export(Export::Show) => {
            out.write_all(status::exports(&control.exports()?).as_bytes())?;
        }
        Command::Status { json: true } => {
            // As the module wrote it, once it is known to be whole.
            control.status()?;
            out.write_all(control.status_text()?.as_bytes())?;
        }
        Command::Status { json: false } => {
            out.write_all(status::document(&control.status()?).as_bytes())?;
        }
        Command::Stats {
            prometheus: true, ..
        } => out.write_all(stats::prometheus(&control.status()?).as_bytes())?,
        Command::Stats { interval, .. } => watch(&control, *interval, Some(1), out)?,
        Command::Top { interval, count } => watch(&control, *interval, *count, out)?,
        Command::Events {
            messages,
            json,
            count,
        } => {
            let wanted = events::Wanted {
                messages: *messages,
                json: *json,
                count: *count,
            };
            events::follow(&wanted, out)?;
        }
        Command::Jobs {
            command: Some(Jobs::Stop { name }),
            ..
        } => jobs::order(name, jobs::Command::Stop)?,
        Command::Jobs {
            command: Some(Jobs::Resume { name }),
            ..
        } => jobs::order(name, jobs::Command::Resume)?,
        Command::Jobs {
            command: Some(Jobs::Forget { name }),
            ..
        } => jobs::order(name, jobs::Command::Forget)?,
        Command::Jobs {
            command: None,
            json: true,
        } => serde_json::to_writer_pretty(&mut *out, &jobs::list()?)
            .map_err(io::Error::from)
            .and_then(|()| writeln!(out))?,
        Command::Jobs { .. } => out.write_all(status::jobs(&jobs::list()?).as_bytes())?,
        Command::Drain { end: true } => control.drain(false)?,
        Command::Drain { end: false } => out.write_all(drain::begin(&control)?.as_bytes())?,
        Command::Clear => control.clear()?,
    }
    out.flush()?;
    Ok(())
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments.command, &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        // `vremote status | head`: nobody reads on, which is no failure.
        Err(Problem::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("vremote: error: {problem}");
            if let Some(fix) = problem.fix() {
                eprintln!("vremote:   to fix: {fix}");
            }
            ExitCode::from(problem.exit_status())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn intervals_have_bounds() {
        assert_eq!(seconds("0.5"), Ok(0.5));
        for bad in ["0", "-1", "nan", "inf", "3601", "", "x"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
