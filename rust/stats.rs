// SPDX-License-Identifier: GPL-2.0

//! Counters, and the file that shows them: `/sys/kernel/debug/vremote/status`, one JSON document. Beside it, if keys are kept, is
//! [`keylog`]'s.
//!
//! The document's `version` changes when a field goes or changes its meaning, not when one is added.

use kernel::{
    debugfs, fmt,
    fmt::Write,
    prelude::*,
    sync::atomic::{Atomic, Relaxed},
};

use crate::{
    net::{self, keylog, peer},
    proto::{envelope::Malformed, wire::Kind},
};

/// Why something that was received, or was to be sent, went nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Reason {
    /// Shorter than a header or than its fragment.
    Truncated,
    /// Does not start with our magic number.
    Magic,
    /// Another version of the wire format.
    Version,
    /// An unknown kind of message.
    Kind,
    /// Unknown flags, or a field outside its limits.
    Field,
    /// The sender is no peer.
    UnknownSender,
    /// Of another session than the current one.
    WrongEpoch,
    /// An answer to a request that is not in flight: late, or a duplicate.
    LateAnswer,
    /// A message of several fragments that never became complete.
    Incomplete,
    /// No memory to take it.
    NoMemory,
    /// The socket did not take it: its buffer was full, or there is no route.
    NotSent,
    /// The socket failed to receive.
    ReceiveError,
    /// Not made with the key of the pair.
    Forged,
    /// Genuine, but seen before, or too old to tell.
    Replayed,
    /// Of a session that there is not, or no more.
    UnknownSession,
    /// Not encrypted, from a peer with a key; or encrypted, from one without.
    Open,
    /// More handshakes than are made in a second.
    TooMany,
}

impl Reason {
    /// All reasons, in the order of their numbers, with their names in the document.
    pub const ALL: [(Reason, &'static str); 17] = [
        (Reason::Truncated, "truncated"),
        (Reason::Magic, "magic"),
        (Reason::Version, "version"),
        (Reason::Kind, "kind"),
        (Reason::Field, "field"),
        (Reason::UnknownSender, "unknown_sender"),
        (Reason::WrongEpoch, "wrong_epoch"),
        (Reason::LateAnswer, "late_answer"),
        (Reason::Incomplete, "incomplete"),
        (Reason::NoMemory, "no_memory"),
        (Reason::NotSent, "not_sent"),
        (Reason::ReceiveError, "receive_error"),
        (Reason::Forged, "forged"),
        (Reason::Replayed, "replayed"),
        (Reason::UnknownSession, "unknown_session"),
        (Reason::Open, "open"),
        (Reason::TooMany, "too_many"),
    ];
}

impl From<Malformed> for Reason {
    fn from(malformed: Malformed) -> Reason {
        match malformed {
            Malformed::Truncated => Reason::Truncated,
            Malformed::Magic => Reason::Magic,
            Malformed::Version => Reason::Version,
            Malformed::Kind => Reason::Kind,
            Malformed::Field => Reason::Field,
        }
    }
}

/// A counter: atomic, never read for a decision.
pub struct Counter(Atomic<u64>);

impl Counter {
    /// A counter at 0.
    pub const fn new() -> Counter {
        Counter(Atomic::new(0))
    }
    /// Counts `by` more. Any context.
    pub fn add(&self, by: u64) {
        self.0.add(by, Relaxed);
    }
    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// One counter for each kind of message.
pub struct ByKind([Counter; Kind::ALL.len()]);

impl ByKind {
    /// All at 0.
    pub const fn new() -> ByKind {
        ByKind([const { Counter::new() }; Kind::ALL.len()])
    }
    /// The counter of this kind.
    pub fn of(&self, kind: Kind) -> &Counter {
        &self.0[kind.index()]
    }
    /// Writes `{"Name":n,…}` with the kinds that have been counted.
    pub fn write(&self, out: &mut impl Write) -> fmt::Result {
        out.write_char('{')?;
        let mut first = true;
        for kind in Kind::ALL {
            let count = self.of(kind).get();
            if count != 0 {
                let comma = if first { "" } else { "," };
                write!(out, "{comma}\"{}\":{count}", kind.name())?;
                first = false;
            }
        }
        out.write_char('}')
    }
}

/// What is counted for each peer.
pub struct PeerCounters {
    /// Messages sent, retransmissions included.
    pub tx: ByKind,
    /// Messages received whole.
    pub rx: ByKind,
    /// Bytes of datagrams sent.
    pub tx_bytes: Counter,
    /// Bytes of datagrams received.
    pub rx_bytes: Counter,
    /// Requests sent again.
    pub retransmits: Counter,
    /// How often its session was ended because others wanted what it held and its lease had run out.
    pub fences: Counter,
    /// Of these, how often it was because it kept a page although it answered.
    pub revocations: Counter,
    /// Bytes written here to its files that will never reach it.
    pub lost_bytes: Counter,
    /// Datagrams of this peer, or for it, that went nowhere.
    pub drops: Counter,
}

impl PeerCounters {
    /// All at 0.
    pub const fn new() -> PeerCounters {
        PeerCounters {
            tx: ByKind::new(),
            rx: ByKind::new(),
            tx_bytes: Counter::new(),
            rx_bytes: Counter::new(),
            retransmits: Counter::new(),
            fences: Counter::new(),
            revocations: Counter::new(),
            lost_bytes: Counter::new(),
            drops: Counter::new(),
        }
    }
}

static DROPS: [Counter; Reason::ALL.len()] = [const { Counter::new() }; Reason::ALL.len()];

/// Counts something that went nowhere. Any context.
pub fn dropped(reason: Reason) {
    DROPS[reason as usize].add(1);
}

/// Writes `text` as a JSON string, quotes included. Bytes that are not UTF-8 become U+FFFD.
pub fn write_json_string(out: &mut impl Write, text: &[u8]) -> fmt::Result {
    out.write_char('"')?;
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => out.write_str("\\\"")?,
                '\\' => out.write_str("\\\\")?,
                c if c < ' ' => write!(out, "\\u{:04x}", c as u32)?,
                c => out.write_char(c)?,
            }
        }
        if !chunk.invalid().is_empty() {
            out.write_char('\u{fffd}')?;
        }
    }
    out.write_char('"')
}

/// The whole document.
fn write_status(port: u16, out: &mut impl Write) -> fmt::Result {
    write!(out, "{{\"version\":2,\"node\":")?;
    write_json_string(out, net::own_name())?;
    let keys = keylog::is_on();
    write!(out, ",\"port\":{port},\"keylog\":{keys},\"peers\":[")?;
    let peers = peer::snapshot().map_err(|_| fmt::Error)?;
    for (i, peer) in peers.iter().enumerate() {
        if i != 0 {
            out.write_char(',')?;
        }
        peer.write_status(out)?;
    }
    write!(out, "],\"drops\":{{")?;
    for (i, (reason, name)) in Reason::ALL.iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        write!(out, "{comma}\"{name}\":{}", DROPS[*reason as usize].get())?;
    }
    write!(out, "}},")?;
    crate::origin::status(out)?;
    write!(out, ",\"remote_files\":")?;
    crate::remote::status(out)?;
    writeln!(out, "}}")
}

/// The data behind the status file.
struct Status {
    port: u16,
}

/// The debugfs directory, whose files only root can read; it goes when this value is dropped, after the last reader has gone.
pub struct Stats {
    _status: Pin<KBox<debugfs::File<Status>>>,
    _keylog: Option<Pin<KBox<debugfs::File<()>>>>,
}

impl Stats {
    /// Shows the files. Call when every part is able to answer. `ENOMEM`.
    pub fn new(port: u16) -> Result<Stats> {
        let directory = debugfs::Dir::new(c"vremote");
        let status = KBox::pin_init(
            directory.read_callback_file(
                c"status",
                Status { port },
                &|status: &Status, out: &mut fmt::Formatter<'_>| write_status(status.port, out),
            ),
            GFP_KERNEL,
        )?;
        let keylog = match keylog::is_on() {
            true => Some(KBox::pin_init(
                directory.read_callback_file(
                    c"keylog",
                    (),
                    &|(): &(), out: &mut fmt::Formatter<'_>| keylog::write(out),
                ),
                GFP_KERNEL,
            )?),
            false => None,
        };
        Ok(Stats {
            _status: status,
            _keylog: keylog,
        })
    }
}
