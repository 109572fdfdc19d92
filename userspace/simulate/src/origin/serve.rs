// SPDX-License-Identifier: GPL-2.0

//! What remotes ask of a node: `rust/origin/serve.rs`.
//!
//! Left out: names, permissions, locks, attributes but the size, draining.

use std::rc::Rc;

use nix::errno::Errno;
use vremote_proto::{
    directory::{Event, Requester, Want},
    limits::{MAX_REPLIES, PAGE_BYTES},
    nodes::Node as Slot,
    reliable::{Begin, ReplyCache},
    wire::{flags, Attributes, Credentials, Header, Kind},
};

use super::share::{Opens, Share};
use crate::{
    bug::Bug,
    folio::{stamp_of, Stamp},
    net::peer::Peer,
    node::Node,
    wait::Result,
};

#[derive(Clone)]
struct Answer {
    header: Header,
    payload: Vec<u8>,
}

/// Replies to one peer's requests that must not run twice.
pub struct Replies {
    cache: ReplyCache,
    kept: Vec<Option<Answer>>,
    /// For [`Bug::RepliesForgotten`].
    count: u32,
}

impl Replies {
    fn new() -> Box<Replies> {
        Box::new(Replies {
            cache: ReplyCache::new(),
            kept: vec![None; MAX_REPLIES],
            count: 0,
        })
    }
}

/// The session with this peer is over: its requests start anew.
pub fn forget(node: &Node, slot: Slot) {
    node.replies.borrow_mut()[usize::from(slot)] = None;
}

/// A request of a remote arrived. Receive thread.
pub fn receive(peer: &Rc<Peer>, header: &Header, payload: &[u8]) {
    match header.kind {
        Kind::GetShared | Kind::GetModified => get(peer, header, payload),
        Kind::Put => put(peer, header, payload),
        _ => control(peer, header, payload),
    }
}

fn by_id(node: &Node, id: u64) -> Option<Rc<Share>> {
    node.shares.borrow().get(&id).cloned()
}

fn get(peer: &Rc<Peer>, header: &Header, missing: &[u8]) {
    let want = if header.kind == Kind::GetModified {
        Want::Write
    } else {
        Want::Read
    };
    let refusal = match by_id(&peer.node(), header.file) {
        None => Some(Errno::ESTALE),
        Some(share) => {
            let access = share
                .state
                .borrow_mut()
                .opens_of(peer.slot)
                .map(|opens| (opens.readers, opens.writers));
            match access {
                None | Some((0, 0)) => Some(Errno::EBADF),
                Some((_, 0)) if want == Want::Write => Some(Errno::EBADF),
                Some(_) => {
                    for at in 0..header.count as usize {
                        let asked = missing.is_empty()
                            || missing
                                .get(at / 8)
                                .is_some_and(|byte| byte & (1 << (at % 8)) != 0);
                        let index = header.index + at as u64;
                        if !asked || share.state.borrow().is_frozen(index) {
                            continue;
                        }
                        let requester = Requester::Remote {
                            node: peer.slot,
                            request: header.request,
                            want,
                            held: header.seq,
                            have: header.has(flags::HAVE),
                        };
                        share.drive(index, Event::Request(requester), None);
                    }
                    None
                }
            }
        }
    };
    if let Some(status) = refusal {
        for at in 0..u64::from(header.count) {
            let refusal = Header {
                request: header.request,
                file: header.file,
                index: header.index + at,
                status: status as u16,
                ..Header::new(Kind::Grant)
            };
            let _ = peer.send(&refusal, &[]);
        }
    }
}

fn put(peer: &Rc<Peer>, header: &Header, payload: &[u8]) {
    let Some(share) = by_id(&peer.node(), header.file) else {
        let reply = Header {
            request: header.request,
            file: header.file,
            index: header.index,
            status: Errno::ESTALE as u16,
            ..Header::new(Kind::Reply)
        };
        let _ = peer.send(&reply, &[]);
        return;
    };
    let event = Event::Put {
        node: peer.slot,
        request: header.request,
        seq: header.seq,
        keep: header.has(flags::KEEP),
    };
    share.drive(header.index, event, Some(payload.into()));
}

/// Anything else: runs in a work item, at most once if it must not run twice.
fn control(peer: &Rc<Peer>, header: &Header, payload: &[u8]) {
    let node = peer.node();
    let mut slot = None;
    if header.kind.once() {
        let begun = {
            let mut all = node.replies.borrow_mut();
            let replies = all[peer.number()].get_or_insert_with(Replies::new);
            if node.world.has(Bug::RepliesForgotten) && replies.count == 8 {
                *replies = Replies::new();
            }
            let begun = replies.cache.begin(header.request);
            let kept = match begun {
                Begin::Done(old) => replies.kept[old].clone(),
                _ => None,
            };
            replies.count += u32::from(matches!(begun, Begin::New(_)));
            (begun, kept)
        };
        match begun {
            (Begin::New(new), _) => slot = Some(new),
            (Begin::Done(_), kept) => {
                if let Some(answer) = kept {
                    let _ = peer.send(&answer.header, &answer.payload);
                }
                return;
            }
            (Begin::Running, _) => {
                let working = Header {
                    request: header.request,
                    file: header.file,
                    peer_epoch: header.epoch,
                    ..Header::new(Kind::Working)
                };
                let _ = peer.send(&working, &[]);
                return;
            }
            (Begin::TooOld, _) => return,
        }
    }
    let (peer, header, payload) = (peer.clone(), *header, payload.to_vec());
    let home = node.home();
    let sim = node.world.sim.clone();
    sim.spawn(home, async move {
        let answer = answer(&peer, &header, &payload).await;
        if let Some(slot) = slot {
            if let Some(replies) = &mut node.replies.borrow_mut()[peer.number()] {
                if node.world.has(Bug::RunsTwice) {
                    replies.cache.cancel(slot, header.request);
                } else if replies.cache.done(slot, header.request) {
                    replies.kept[slot] = Some(answer.clone());
                }
            }
        }
        let _ = peer.send(&answer.header, &answer.payload);
    });
}

async fn answer(peer: &Rc<Peer>, header: &Header, payload: &[u8]) -> Answer {
    let mut answer = Answer {
        header: Header {
            request: header.request,
            file: header.file,
            // A reply to a session that is over must not reach the next one.
            peer_epoch: header.epoch,
            ..Header::new(Kind::Reply)
        },
        payload: Vec::new(),
    };
    let result = match header.kind {
        Kind::Open => open(peer, header, payload, &mut answer).await,
        _ => with_file(peer, header, payload, &mut answer).await,
    };
    if let Err(error) = result {
        answer.header.status = error as u16;
        answer.payload.clear();
    }
    answer
}

impl Answer {
    fn describe(&mut self, share: &Share) {
        let (seq, size) = share.stamp();
        let attributes = Attributes {
            ino: share.file.number as u64 + 1,
            size,
            ..Attributes::default()
        };
        self.payload = attributes.encode().to_vec();
        self.header.seq = seq;
        self.header.size = size;
        self.header.file = share.id;
    }
}

async fn with_file(
    peer: &Rc<Peer>,
    header: &Header,
    payload: &[u8],
    answer: &mut Answer,
) -> Result {
    let share = by_id(&peer.node(), header.file).ok_or(Errno::ESTALE)?;
    let opens = share
        .state
        .borrow_mut()
        .opens_of(peer.slot)
        .copied()
        .ok_or(Errno::ESTALE)?;
    let writable = if opens.writers > 0 {
        Ok(())
    } else {
        Err(Errno::EBADF)
    };
    match header.kind {
        Kind::Close => {
            close(&share, peer, header);
            Ok(())
        }
        Kind::GetAttr => {
            answer.describe(&share);
            Ok(())
        }
        Kind::SetSize => {
            writable?;
            share.file.truncate(header.size).await?;
            answer.describe(&share);
            Ok(())
        }
        Kind::Write => {
            writable?;
            let stamps: Vec<Stamp> = payload.chunks(PAGE_BYTES).filter_map(stamp_of).collect();
            if stamps.len() * PAGE_BYTES != payload.len() {
                peer.node().world.fail("a Write has torn pages".into());
            }
            let at = (!header.has(flags::APPEND)).then_some(header.index / PAGE_BYTES as u64);
            let (first, pages) = share.file.write(at, &stamps, peer.number()).await?;
            let (seq, size) = share.stamp();
            answer.header.index = first * PAGE_BYTES as u64;
            answer.header.count = (pages * PAGE_BYTES) as u32;
            answer.header.seq = seq;
            answer.header.size = size;
            Ok(())
        }
        Kind::Commit => {
            let mut known = header.count;
            let synced = share.file.sync().await;
            let unseen = share.file.check(&mut known);
            if unseen.is_none() {
                synced?;
            }
            answer.header.count = known;
            answer.header.index = unseen.map_or(0, |error| error as u64);
            (answer.header.seq, answer.header.size) = share.stamp();
            Ok(())
        }
        _ => Err(Errno::EOPNOTSUPP),
    }
}

/// The path of a file, with somebody's credentials before it.
pub fn path(file: usize) -> Vec<u8> {
    let mut payload = vec![0; Credentials::encoded_bytes(0)];
    let encoded = Credentials::encode(0, 0, &[], &mut payload);
    debug_assert!(encoded.is_some());
    payload.extend_from_slice(format!("/{file}").as_bytes());
    payload
}

async fn open(peer: &Rc<Peer>, header: &Header, payload: &[u8], answer: &mut Answer) -> Result {
    let node = peer.node();
    let (_, path) = Credentials::decode(payload).ok_or(Errno::EINVAL)?;
    let name = path.strip_prefix(b"/").ok_or(Errno::EINVAL)?;
    let number = std::str::from_utf8(name).ok().and_then(|n| n.parse().ok());
    let file = number
        .and_then(|number: usize| node.files.get(number))
        .ok_or(Errno::ENOENT)?;
    let share = Share::of(file).await;
    let write = header.index & OPEN_TO_WRITE != 0;
    {
        let mut state = share.state.borrow_mut();
        if !is_current(peer, header) {
            // Nobody would take it back.
            return Err(Errno::ESTALE);
        }
        if state.opens_of(peer.slot).is_none() {
            state.opens.push(Opens {
                node: peer.slot,
                readers: 0,
                writers: 0,
            });
        }
        if let Some(opens) = state.opens_of(peer.slot) {
            *(if write {
                &mut opens.writers
            } else {
                &mut opens.readers
            }) += 1;
        }
    }
    answer.header.count = share.file.errors();
    answer.describe(&share);
    Ok(())
}

/// `O_RDWR`.
pub const OPEN_TO_WRITE: u64 = 2;

/// Whether the session in which this was asked lasts: requests are carried out later than they arrive.
fn is_current(peer: &Peer, header: &Header) -> bool {
    (header.peer_epoch, header.epoch) == peer.session()
}

fn close(share: &Share, peer: &Peer, header: &Header) {
    let mut state = share.state.borrow_mut();
    if !is_current(peer, header) {
        return;
    }
    let Some(opens) = state.opens_of(peer.slot) else {
        return;
    };
    let counter = if header.has(flags::WRITE) {
        &mut opens.writers
    } else {
        &mut opens.readers
    };
    *counter = counter.saturating_sub(1);
}
