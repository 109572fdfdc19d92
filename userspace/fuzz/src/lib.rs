// SPDX-License-Identifier: GPL-2.0

//! What the fuzzer feeds, and what must hold for any bytes whatever.
//!
//! Each target takes bytes and panics if the protocol does, or if something that must hold does not. It returns a
//! signature of the way that the bytes took; inputs with a new signature are kept to be mutated further.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use vremote_proto::copy::{Copy, GrantVerdict, Pending, RecallVerdict, State};
use vremote_proto::directory::{self, Action, Event, Page, Requester, Tx, Want};
use vremote_proto::envelope::{CLEAR_BYTES, ENVELOPE_BYTES};
use vremote_proto::limits::{MAX_GROUPS, MAX_PAYLOAD, MAX_REPLIES, MAX_WAITERS};
use vremote_proto::reliable::{Assembly, Begin, ReplyCache};
use vremote_proto::wire::{Attributes, Credentials, FileAttr, Header, Xattr, HEADER_BYTES};

/// A way to feed bytes to the protocol.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Bytes in, signature out.
    pub run: fn(&[u8]) -> u64,
    /// Longest input that is worth its time, bytes.
    pub longest: usize,
    /// How many inputs it gets in a round; fewer if it is slow.
    pub round: usize,
}

const fn target(name: &'static str, run: fn(&[u8]) -> u64, longest: usize, round: usize) -> Target {
    Target {
        name,
        run,
        longest,
        round,
    }
}

/// All targets.
pub const TARGETS: [Target; 5] = [
    target("packet", packet, 2048, 1000),
    target("stream", stream, 8192, 500),
    target("directory", directory, 600, 500),
    target("copy", copy, 200, 500),
    target("replies", replies, 3 * MAX_REPLIES, 20),
];

fn signature(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// A name for an input that failed.
pub fn name_of(bytes: &[u8]) -> u64 {
    signature(bytes)
}

/// One datagram, and its payload taken for everything that a payload can be.
pub fn packet(bytes: &[u8]) -> u64 {
    let (header, fragment) = match Header::decode(bytes) {
        Ok(decoded) => decoded,
        Err(malformed) => return signature(malformed as u8),
    };
    let again = header.encode();
    for part in [0..CLEAR_BYTES, ENVELOPE_BYTES..HEADER_BYTES] {
        assert_eq!(
            again[part.clone()],
            bytes[part],
            "a header changed on the way"
        );
    }
    assert!(fragment.len() <= MAX_PAYLOAD);
    let mut assembly = Assembly::new(&header);
    let range = assembly
        .accept(&header)
        .expect("the first fragment to arrive belongs somewhere");
    assert_eq!(range.len(), fragment.len());
    assert!(range.end <= MAX_PAYLOAD && range.end <= assembly.length());
    assert_eq!(assembly.accept(&header), None, "a fragment was taken twice");
    assert_eq!(assembly.complete(), range.len() == assembly.length());

    let credentials = Credentials::decode(fragment).map(|(credentials, path)| {
        let groups: Vec<u32> = credentials.groups().collect();
        assert!(groups.len() <= MAX_GROUPS);
        let mut again = vec![0; fragment.len()];
        let at = Credentials::encode(credentials.uid, credentials.gid, &groups, &mut again)
            .expect("it was there");
        again[at..].copy_from_slice(path);
        assert_eq!(again, fragment, "credentials changed on the way");
        groups.len()
    });
    let xattr = Xattr::decode(fragment).map(|xattr| {
        let head = xattr.head().expect("a name that was there");
        let again = [&head[..], xattr.name, xattr.value].concat();
        assert_eq!(again, fragment, "an extended attribute changed on the way");
    });
    let attributes = Attributes::decode(fragment).map(|attributes| {
        let again = attributes.encode();
        assert_eq!(
            again,
            fragment[..again.len()],
            "attributes changed on the way"
        );
    });
    if let Some(attr) = FileAttr::decode(fragment) {
        let again = attr.encode();
        assert_eq!(again, fragment[..again.len()], "flags changed on the way");
    }
    signature((
        header.kind.name(),
        header.flags,
        credentials,
        attributes,
        xattr,
        assembly.complete(),
        header.status != 0,
    ))
}

/// Several datagrams, each behind two bytes of length, that may be fragments of one message.
pub fn stream(bytes: &[u8]) -> u64 {
    let mut rest = bytes;
    let mut message: Option<(Assembly, Vec<bool>)> = None;
    let mut steps = Vec::new();
    while let Some((length, tail)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(*length)).min(tail.len());
        let (datagram, tail) = tail.split_at(length);
        rest = tail;
        let Ok((header, fragment)) = Header::decode(datagram) else {
            steps.push(0);
            continue;
        };
        let (assembly, filled) = message.get_or_insert_with(|| {
            let assembly = Assembly::new(&header);
            (assembly, vec![false; assembly.length()])
        });
        match assembly.accept(&header) {
            Some(range) => {
                assert_eq!(range.len(), fragment.len());
                let place = filled
                    .get_mut(range)
                    .expect("a fragment lies in its message");
                assert!(place.iter().all(|byte| !byte), "fragments overlap");
                place.fill(true);
                steps.push(1);
            }
            None => steps.push(2),
        }
        assert!(
            !assembly.complete() || filled.iter().all(|byte| *byte),
            "a message with a hole is complete"
        );
    }
    let complete = message.map(|(assembly, _)| assembly.complete());
    steps.truncate(8);
    signature((steps, complete))
}

/// Takes bytes as small numbers.
struct Numbers<'a>(&'a [u8]);

impl Numbers<'_> {
    fn next(&mut self) -> Option<u64> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(u64::from(*first))
    }

    fn below(&mut self, limit: u64) -> Option<u64> {
        Some(self.next()? % limit)
    }

    fn flag(&mut self) -> Option<bool> {
        Some(self.next()? & 1 == 1)
    }

    fn want(&mut self) -> Option<Want> {
        Some(if self.flag()? {
            Want::Write
        } else {
            Want::Read
        })
    }
}

fn event(numbers: &mut Numbers<'_>, seqs: u64) -> Option<Event> {
    let node = |n: &mut Numbers<'_>| Some(n.below(12)? as u8);
    Some(match numbers.below(10)? {
        0 | 1 => Event::Request(Requester::Remote {
            node: node(numbers)?,
            request: numbers.below(32)?,
            want: numbers.want()?,
            held: numbers.below(seqs)?,
            have: numbers.flag()?,
        }),
        2 => Event::Request(Requester::Local {
            ticket: numbers.below(16)?,
            want: numbers.want()?,
        }),
        3 => Event::Acked {
            node: node(numbers)?,
            seq: numbers.below(seqs)?,
        },
        4 => Event::Put {
            node: node(numbers)?,
            request: numbers.below(32)?,
            seq: numbers.below(seqs)?,
            keep: numbers.flag()?,
        },
        5 => Event::Installed {
            status: if numbers.flag()? { 0 } else { 28 },
        },
        6 => Event::Granted,
        7 => match numbers.below(3)? {
            0 => Event::GrantFailed { status: 5 },
            1 => Event::Taken,
            _ => Event::Request(Requester::WriteBack {
                node: node(numbers)?,
                request: 1,
                keep: numbers.flag()?,
            }),
        },
        8 => Event::Unreachable {
            seq: numbers.below(seqs)?,
        },
        _ => Event::Gone {
            node: node(numbers)?,
        },
    })
}

/// Any events in any order at the origin of a page: remotes may lie.
pub fn directory(bytes: &[u8]) -> u64 {
    let mut numbers = Numbers(bytes);
    let mut page = Page::default();
    let mut tx: Option<Tx> = None;
    let mut next_seq = 1;
    let mut way = 0;
    while let Some(event) = event(&mut numbers, next_seq + 1) {
        let before = next_seq;
        let mut actions = 0;
        directory::step(&mut page, &mut tx, &mut next_seq, event, &mut |action| {
            actions += 1;
            if let Action::Invalidate { to, .. } = action {
                assert!(!to.is_empty(), "a round without anybody in it");
            }
        });
        assert!(
            actions <= MAX_WAITERS + 4,
            "{actions} actions from one step"
        );
        assert!(
            page.owner.is_none() || page.sharers.is_empty(),
            "owner and sharers"
        );
        assert!(next_seq >= before);
        if let Some(tx) = &tx {
            let mut asked = vremote_proto::nodes::NodeSet::new();
            for requester in tx.queue.iter() {
                if let Requester::Remote { node, .. } = requester {
                    assert!(asked.insert(*node), "a node waits twice");
                }
            }
        }
        let home = (
            directory::home_may_read(&page, &tx),
            directory::home_may_write(&page, &tx),
        );
        assert!(
            home.0 || !home.1,
            "the origin may write what it may not read"
        );
        way = signature((
            way,
            page.owner.is_some(),
            page.sharers.is_empty(),
            tx.map(|tx| (tx.phase, tx.queue.len().min(2), tx.gone)),
        ));
    }
    way
}

/// Any messages in any order at a remote: the origin may lie.
pub fn copy(bytes: &[u8]) -> u64 {
    let mut numbers = Numbers(bytes);
    let mut copy = Copy::default();
    let mut pending: Option<Pending> = None;
    let mut dirty = false;
    let mut way = 0;
    while let Some(kind) = numbers.below(9) {
        let (Some(seq), Some(flag)) = (numbers.next(), numbers.flag()) else {
            break;
        };
        match kind {
            0 if copy.held().is_some() => pending = Some(Pending::new(seq + 1, Want::Write)),
            1 | 2 => {
                let request = pending.map_or(seq, |pending| pending.request);
                let kept = dirty;
                if copy.grant(pending.as_ref(), request, seq + 1, flag, kind == 1, flag)
                    == GrantVerdict::Accept
                {
                    assert!(!kept, "a grant replaced a page that was written here");
                    pending = None;
                }
            }
            3 => _ = copy.invalidate(pending.as_mut(), seq),
            4 => match copy.recall(pending.as_mut(), seq, flag, dirty) {
                RecallVerdict::WriteBack { .. } => dirty = false,
                RecallVerdict::Drop => {
                    assert!(!dirty, "a recall dropped a page that was written here")
                }
                RecallVerdict::Ack | RecallVerdict::InFlight => {}
            },
            5 if dirty => dirty = !copy.write_back(flag),
            6 => copy.put_done(),
            7 => {
                dirty |= matches!(copy.state, State::WritingBack { .. });
                copy.put_failed();
            }
            8 if copy.may_write() => dirty = true,
            _ if !dirty => _ = copy.lost(),
            _ => {}
        }
        assert!(
            !dirty || copy.state == State::Modified,
            "a page that was written here is {:?}",
            copy.state
        );
        assert_eq!(Copy::from_word(copy.word()), copy);
        assert!(copy.word() >> 63 == 0);
        way = signature((way, copy.state, pending.is_some(), dirty));
    }
    // Not made by `word`, still no panic.
    if let Some(word) = bytes.first_chunk::<8>() {
        _ = Copy::from_word(u64::from_le_bytes(*word));
    }
    way
}

/// Requests in any order at the cache of replies: none runs twice.
pub fn replies(bytes: &[u8]) -> u64 {
    let mut cache = ReplyCache::new();
    let mut ran = std::collections::HashSet::new();
    let mut way = [0_u32; 4];
    for pair in bytes.chunks_exact(2) {
        // Mostly rising, as a peer sends them.
        let request = u64::from(u16::from_le_bytes([pair[0], pair[1]])) % 4096 + 1;
        let took = match cache.begin(request) {
            Begin::New(slot) => {
                assert!(ran.insert(request), "request {request} ran twice");
                if request % 7 != 0 {
                    assert!(cache.done(slot, request));
                }
                0
            }
            Begin::Running => 1,
            Begin::Done(_) => 2,
            Begin::TooOld => 3,
        };
        way[took] += 1;
    }
    signature(way.map(u32::leading_zeros))
}
