// SPDX-License-Identifier: GPL-2.0

//! What remotes ask of this node: look-ups, opens, sizes, writes, and pages.
//!
//! Page messages are served in the receive thread as far as that goes (`pages.rs`); all else in work items.
//!
//! Paths are absolute paths of this node, normalised by the sender. A file shared by a descriptor is found by its present
//! path and takes the opener's ids as they are; below an export they may be squashed. Above both lie directories of which
//! a remote sees nothing but the way to what is shared.

use kernel::{
    prelude::*,
    sync::{atomic::ordering::Relaxed, Arc},
};

use super::{
    drain,
    export::{self, Acting},
    fileattr,
    lookup::Object,
    namespace,
    pages::{Context, Outbox},
    quota, settle,
    share::{self, Incoming, Opens, Share},
    xattr, CLOSING, REQUESTS,
};
use crate::bindings;
use crate::net::peer::Peer;
use crate::proto::{
    directory::{Event, Requester, Want},
    limits::{MAX_NODES, MAX_PATH, MAX_REPLIES, PAGE_BYTES},
    nodes::Node,
    reliable::{Begin, ReplyCache},
    wire::{
        flags, Attributes, Credentials, Header, Kind, Lock, LockKind, ATTRIBUTES_BYTES,
        FILE_ATTR_BYTES, LOCK_BYTES, OPEN_TO_RUN, SPACE_BYTES,
    },
};

/// Shares that nobody has open are kept for their remotes' caches, up to so many.
const IDLE_SHARES: usize = 1024;

/// Open flags that a remote may send; all others are ignored.
const OPEN_FLAGS: u32 = bindings::O_ACCMODE
    | bindings::O_CREAT
    | bindings::O_EXCL
    | bindings::O_TRUNC
    | bindings::O_APPEND;

/// Permission bits of a directory that only shows the way.
const WAY_MODE: u32 = bindings::S_IFDIR | 0o555;

/// The answer to one request.
#[derive(Clone, Copy)]
struct Answer {
    header: Header,
    payload: [u8; ATTRIBUTES_BYTES],
    length: usize,
}

/// Replies to one peer's requests that must not run twice.
struct Replies {
    cache: ReplyCache,
    kept: [Option<Answer>; MAX_REPLIES],
}

kernel::sync::global_lock! {
    // SAFETY: Initialised in `init`, before the receive thread exists.
    unsafe(uninit) static REPLIES: Mutex<[Option<KVBox<Replies>>; MAX_NODES]> = [const { None }; MAX_NODES];
}

/// Prepares the reply caches. Called once, at load.
pub(super) fn init() {
    // SAFETY: Called once, before any use of the lock.
    unsafe { REPLIES.init() };
}

/// Frees the reply caches.
pub(super) fn exit() {
    for slot in REPLIES.lock().iter_mut() {
        *slot = None;
    }
}

/// The session with this peer is over: its requests start anew.
pub(super) fn forget(node: Node) {
    let old = REPLIES.lock()[usize::from(node)].take();
    drop(old);
}

/// A request of a remote arrived. Receive thread.
pub(crate) fn receive(peer: &Arc<Peer>, header: &Header, payload: &mut KVVec<u8>) {
    match header.kind {
        Kind::GetShared | Kind::GetModified => get(peer, header, payload),
        Kind::Put => put(peer, header, payload),
        _ => control(peer, header, payload),
    }
}

/// A remote wants pages.
fn get(peer: &Arc<Peer>, header: &Header, missing: &[u8]) {
    let want = if header.kind == Kind::GetModified {
        Want::Write
    } else {
        Want::Read
    };
    let mut out = Outbox::default();
    let refusal = match share::by_id(header.file) {
        None => Some(bindings::ESTALE),
        Some(share) => {
            let access = share
                .state
                .lock()
                .opens_of(peer.slot)
                .map(|opens| (opens.readers, opens.writers));
            match access {
                None | Some((0, 0)) => Some(bindings::EBADF),
                Some((_, 0)) if want == Want::Write => Some(bindings::EBADF),
                Some(_) => {
                    for at in 0..header.count as usize {
                        let asked = missing.is_empty()
                            || missing
                                .get(at / 8)
                                .is_some_and(|byte| byte & (1 << (at % 8)) != 0);
                        let Some(index) = header.index.checked_add(at as u64).filter(|_| asked)
                        else {
                            continue;
                        };
                        let (frozen, active) = {
                            let state = share.state.lock();
                            (state.is_frozen(index), state.active.get(&index).is_some())
                        };
                        let place = if active {
                            None
                        } else {
                            quota::GETS.take(peer.slot)
                        };
                        if frozen || !(active || place.is_some()) {
                            // It comes again.
                            continue;
                        }
                        let requester = Requester::Remote {
                            node: peer.slot,
                            request: header.request,
                            want,
                            held: header.seq,
                            have: header.has(flags::HAVE),
                        };
                        share.drive(
                            index,
                            Event::Request(requester),
                            None,
                            Context::Receive,
                            &mut out,
                        );
                        if let Some(active) = share.state.lock().active.get_mut(&index) {
                            // Should it be another one by now, that is as good: each ends.
                            active.place = active.place.take().or(place);
                        }
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
                index: header.index.saturating_add(at),
                status: status as u16,
                ..Header::new(Kind::Grant)
            };
            let _ = peer.send(&refusal, &[]);
        }
    }
}

/// A remote brings a page home.
fn put(peer: &Arc<Peer>, header: &Header, payload: &mut KVVec<u8>) {
    let Some(share) = share::by_id(header.file) else {
        let reply = Header {
            request: header.request,
            file: header.file,
            index: header.index,
            status: bindings::ESTALE as u16,
            ..Header::new(Kind::Reply)
        };
        let _ = peer.send(&reply, &[]);
        return;
    };
    if payload.len() > PAGE_BYTES {
        return;
    }
    if header.has(flags::TOUCHED) {
        share.state.lock().touch(peer.slot, header.request);
    }
    let place = quota::INSTALLS.take(peer.slot);
    if place.is_none() && !share.is_active(header.index) {
        // It comes again. One that others wait for is always taken.
        return;
    }
    let event = Event::Put {
        node: peer.slot,
        request: header.request,
        seq: header.seq,
        keep: header.has(flags::KEEP),
    };
    share.drive(
        header.index,
        event,
        Some(Incoming {
            bytes: core::mem::take(payload),
            _place: place,
        }),
        Context::Receive,
        &mut Outbox::default(),
    );
}

/// Anything else: runs in a work item, at most once if it must not run twice.
fn control(peer: &Arc<Peer>, header: &Header, payload: &mut KVVec<u8>) {
    let mut slot = None;
    if header.kind.once() {
        match begin(peer.slot, header.request) {
            Some(Begin::New(new)) => slot = Some(new),
            Some(Begin::Done(old)) => {
                let kept = REPLIES.lock()[usize::from(peer.slot)]
                    .as_ref()
                    .and_then(|replies| replies.kept[old]);
                if let Some(answer) = kept {
                    let _ = peer.send(&answer.header, &answer.payload[..answer.length]);
                }
                return;
            }
            Some(Begin::Running) => {
                let working = Header {
                    request: header.request,
                    file: header.file,
                    peer_epoch: header.epoch,
                    ..Header::new(Kind::Working)
                };
                let _ = peer.send(&working, &[]);
                return;
            }
            _ => return,
        }
    }
    let work = quota::WORK.take(peer.slot).and_then(|place| {
        let (peer, header) = (peer.clone(), *header);
        let payload = core::mem::take(payload);
        let work = move || {
            let _place = place;
            let mut bulk = KVVec::new();
            let answer = answer(&peer, &header, &payload, &mut bulk);
            if let Some(slot) = slot {
                if let Some(replies) = REPLIES.lock()[usize::from(peer.slot)].as_mut() {
                    if replies.cache.done(slot, header.request) {
                        replies.kept[slot] = Some(answer);
                    }
                }
            }
            let payload = if bulk.is_empty() {
                &answer.payload[..answer.length]
            } else {
                &bulk
            };
            let _ = peer.send(&answer.header, payload);
        };
        REQUESTS.queue().try_spawn(GFP_NOWAIT, work).ok()
    });
    if let (None, Some(slot)) = (work, slot) {
        if let Some(replies) = REPLIES.lock()[usize::from(peer.slot)].as_mut() {
            replies.cache.cancel(slot, header.request);
        }
    }
}

static EMPTY: ReplyCache = ReplyCache::new();

/// Notes a request that must not run twice.
#[inline(never)]
fn begin(node: Node, request: u64) -> Option<Begin> {
    let mut all = REPLIES.lock();
    let place = &mut all[usize::from(node)];
    if place.is_none() {
        let fresh = KVBox::init(
            init!(Replies {
                // In place: on the stack it would overflow.
                // SAFETY: The slot is valid for writes, and `EMPTY` is a valid value.
                cache <- unsafe {
                    pin_init::init_from_closure(|slot: *mut ReplyCache| {
                        core::ptr::copy_nonoverlapping(&raw const EMPTY, slot, 1);
                        Ok::<(), core::convert::Infallible>(())
                    })
                },
                kept <- pin_init::init_array_from_fn(|_| None),
            }),
            GFP_KERNEL,
        );
        *place = fresh.ok();
    }
    place.as_mut().map(|replies| replies.cache.begin(request))
}

/// Runs a request. Work item. `bulk`: a payload that is too long to be kept; only of requests that may run twice.
fn answer(peer: &Arc<Peer>, header: &Header, payload: &[u8], bulk: &mut KVVec<u8>) -> Answer {
    let mut answer = Answer {
        header: Header {
            request: header.request,
            file: header.file,
            // A reply to a session that is over must not reach the next one.
            peer_epoch: header.epoch,
            ..Header::new(Kind::Reply)
        },
        payload: [0; ATTRIBUTES_BYTES],
        length: 0,
    };
    let result = match header.kind {
        kind if kind.changes() && drain::is_drained() => Err(EROFS),
        Kind::Lookup => look_up(header, payload).map(|attributes| answer.attach(&attributes)),
        Kind::Open => open(peer, header, payload, &mut answer),
        Kind::List => namespace::list(header, payload, bulk),
        Kind::ReadLink => namespace::read_link(header, payload, bulk),
        Kind::Make | Kind::Link | Kind::Remove | Kind::Rename | Kind::SetAttr => {
            namespace::change(peer.slot, header, payload).map(|attributes| {
                if let Some(attributes) = attributes {
                    answer.attach(&attributes);
                }
            })
        }
        Kind::GetXattr => xattr::get(peer.slot, header, payload, &mut answer.header, bulk),
        Kind::ListXattr => xattr::list(peer.slot, header, payload, bulk),
        Kind::StatFs => namespace::space(payload).map(|space| {
            answer.payload[..SPACE_BYTES].copy_from_slice(&space.encode());
            answer.length = SPACE_BYTES;
        }),
        Kind::Commit if header.file == 0 => namespace::commit(header, payload),
        Kind::SetXattr => {
            xattr::set(peer.slot, header, payload).map(|attributes| answer.attach(&attributes))
        }
        Kind::GetFileAttr => fileattr::get(peer.slot, header, payload).map(|attr| {
            answer.payload[..FILE_ATTR_BYTES].copy_from_slice(&attr.encode());
            answer.length = FILE_ATTR_BYTES;
        }),
        Kind::SetFileAttr => {
            fileattr::set(peer.slot, header, payload).map(|attributes| answer.attach(&attributes))
        }
        _ => with_file(peer, header, payload, &mut answer),
    };
    if let Err(error) = result {
        answer.header.status = error.to_errno().unsigned_abs() as u16;
        answer.length = 0;
        bulk.clear();
    }
    answer
}

impl Answer {
    fn attach(&mut self, attributes: &Attributes) {
        self.payload = attributes.encode();
        self.length = ATTRIBUTES_BYTES;
        self.header.size = attributes.size;
    }

    /// Attributes, size and order of a shared file.
    fn describe(&mut self, share: &Share) -> Result {
        let (seq, size) = share.stamp();
        let mut attributes = Object::of(share).attributes()?;
        attributes.size = size;
        self.attach(&attributes);
        self.header.seq = seq;
        self.header.size = size;
        self.header.file = share.id;
        Ok(())
    }
}

/// Requests about an open file.
fn with_file(peer: &Arc<Peer>, header: &Header, payload: &[u8], answer: &mut Answer) -> Result {
    let share = share::by_id(header.file).ok_or(ESTALE)?;
    let opens = share
        .state
        .lock()
        .opens_of(peer.slot)
        .copied()
        .ok_or(ESTALE)?;
    let writable = || {
        if opens.writers > 0 {
            Ok(())
        } else {
            Err(EBADF)
        }
    };
    match header.kind {
        Kind::Close => {
            close(&share, peer, header);
            Ok(())
        }
        Kind::GetAttr => answer.describe(&share),
        Kind::SetSize => {
            writable()?;
            // SAFETY: The file is open; we hold no lock.
            kernel::error::to_result(unsafe {
                bindings::vremote_origin_truncate(share.file.as_ptr(), header.size as i64)
            })?;
            answer.describe(&share)
        }
        Kind::Allocate => {
            writable()?;
            // SAFETY: The file is open; we hold no lock. Mode and range are for the function to check.
            kernel::error::to_result(unsafe {
                bindings::vremote_origin_allocate(
                    share.file.as_ptr(),
                    header.count as c_int,
                    header.index as i64,
                    header.size as i64,
                )
            })?;
            answer.describe(&share)
        }
        Kind::Write => {
            writable()?;
            if header.has(flags::TOUCHED) {
                // SAFETY: The file is open; we hold no lock.
                unsafe { bindings::vremote_origin_touch(share.file.as_ptr()) };
                return answer.describe(&share);
            }
            let append = header.has(flags::APPEND);
            let mut pos = if append {
                0
            } else {
                i64::try_from(header.index).map_err(|_| EFBIG)?
            };
            // SAFETY: The file is open, `payload` and `pos` are ours; we hold no lock.
            let written = unsafe {
                bindings::vremote_origin_write(
                    share.file.as_ptr(),
                    payload.as_ptr().cast(),
                    payload.len(),
                    &mut pos,
                    append,
                )
            };
            if written < 0 {
                return Err(Error::from_errno(written as i32));
            }
            let (seq, size) = share.stamp();
            answer.header.index = pos as u64 - written as u64;
            answer.header.count = written as u32;
            answer.header.seq = seq;
            answer.header.size = size;
            Ok(())
        }
        Kind::Lock => {
            let lock = Lock::decode(payload).ok_or(EINVAL)?;
            // As of a local descriptor. An unlock may come after the close.
            match lock.kind {
                LockKind::Unlock => {}
                LockKind::Write if !lock.flock && !lock.test => writable()?,
                _ if opens.readers + opens.writers == 0 => return Err(EBADF),
                _ => {}
            }
            let found = share.lock(peer, header, &lock)?;
            answer.payload[..LOCK_BYTES].copy_from_slice(&found.encode());
            answer.length = LOCK_BYTES;
            Ok(())
        }
        Kind::Commit => {
            let mut known = header.count;
            let lost = share.sync_since(&mut known, header.has(flags::DATASYNC))?;
            answer.header.count = known;
            answer.header.index = u64::from(lost);
            (answer.header.seq, answer.header.size) = share.stamp();
            Ok(())
        }
        _ => Err(EOPNOTSUPP),
    }
}

/// The share that a descriptor with `O_ORIGIN` holds at this path.
pub(super) fn by_descriptor(path: &[u8]) -> Option<Arc<Share>> {
    share::all().find(|share| {
        is_by_descriptor(share) && Object::of(share).path().is_ok_and(|of| of[..] == *path)
    })
}

/// Whether a local descriptor shares the file.
pub(super) fn is_by_descriptor(share: &Share) -> bool {
    // A statement of its own: the lock must not be held over what follows in the caller's condition.
    let descriptors = share.state.lock().descriptors;
    descriptors > 0
}

/// Reads credentials and path of a `Lookup` or `Open`.
pub(super) fn who_and_where(payload: &[u8]) -> Result<(Credentials<'_>, &[u8])> {
    let (user, path) = Credentials::decode(payload).ok_or(EINVAL)?;
    check_path(path)?;
    Ok((user, path))
}

/// Whether a path is absolute and normalised.
pub(super) fn check_path(path: &[u8]) -> Result {
    if path.len() > MAX_PATH {
        return Err(ENAMETOOLONG);
    }
    let normal = path == b"/"
        || (path.first() == Some(&b'/')
            && path[1..]
                .split(|byte| *byte == b'/')
                .all(|part| !matches!(part, b"" | b"." | b"..")));
    if !normal || path.contains(&0) {
        return Err(EINVAL);
    }
    Ok(())
}

fn look_up(header: &Header, payload: &[u8]) -> Result<Attributes> {
    let (user, path) = who_and_where(payload)?;
    let rights =
        header.index as u32 & (bindings::MAY_READ | bindings::MAY_WRITE | bindings::MAY_EXEC);
    if let Some(share) = by_descriptor(path) {
        let _acting = Acting::begin(&user, false)?;
        let object = Object::of(&share);
        object.check(rights)?;
        let mut attributes = object.attributes()?;
        attributes.size = share.size();
        return Ok(attributes);
    }
    if let Some((export, rest)) = export::containing(path) {
        let _acting = Acting::begin(&user, export.root_squash)?;
        let object = export.look_up(rest)?;
        let attributes = object.attributes()?;
        object.check(rights)?;
        return Ok(attributes);
    }
    if is_way(path)? {
        if rights & bindings::MAY_WRITE != 0 {
            return Err(EACCES);
        }
        return Ok(Attributes {
            ino: way_ino(path),
            generation: u64::MAX,
            mode: WAY_MODE,
            nlink: 2,
            ..Attributes::default()
        });
    }
    Err(refused(path))
}

/// Whether something that is shared lies below `path`.
pub(super) fn is_way(path: &[u8]) -> Result<bool> {
    for export in export::snapshot()? {
        if export::is_above(path, &export.path) {
            return Ok(true);
        }
    }
    for share in share::all() {
        if is_by_descriptor(&share) && export::is_above(path, &Object::of(&share).path()?) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// An inode number for a directory that only shows the way: FNV-1a of its path, as far as an index of a message may be.
fn way_ino(path: &[u8]) -> u64 {
    let hash = path.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    });
    hash >> 2 | 1
}

fn open(peer: &Arc<Peer>, header: &Header, payload: &[u8], answer: &mut Answer) -> Result {
    if CLOSING.load(Relaxed) {
        return Err(ESHUTDOWN);
    }
    let (user, path) = who_and_where(payload)?;
    let place = quota::OPENS.take(peer.slot).ok_or(ENFILE)?;
    let run = header.index == OPEN_TO_RUN;
    let open_flags = header.index as u32 & OPEN_FLAGS;
    let write = open_flags & bindings::O_ACCMODE != bindings::O_RDONLY;
    let creates = !run && open_flags & bindings::O_CREAT != 0;
    let mode = header.size as u16 & 0o7777;
    let drained = drain::is_drained();
    if drained && (write || open_flags & bindings::O_TRUNC != 0) {
        return Err(EROFS);
    }
    let open_object = |object: Object| {
        if run {
            object.open_to_run()
        } else {
            object.open(open_flags & !(bindings::O_CREAT | bindings::O_EXCL))
        }
    };
    let file = if let Some(share) = by_descriptor(path) {
        let _acting = Acting::begin(&user, false)?;
        let object = export::root().ok_or(ENOENT)?.look_up(&path[1..])?;
        if !object.is(&share) {
            // Renamed over at this moment: what has the name now is nobody's to open.
            return Err(ESTALE);
        }
        open_object(object)?
    } else {
        let (export, rest) = export::containing(path).ok_or_else(|| refused(path))?;
        let _acting = Acting::begin(&user, export.root_squash)?;
        // The export itself is a directory, and has no name here.
        if creates && !rest.is_empty() {
            let name = export.name(rest)?;
            match name.look_up() {
                Ok(object) => check_type(object.attributes()?.mode)?,
                Err(error) if error == ENOENT && !drained => {}
                Err(error) if error == ENOENT => return Err(EROFS),
                Err(error) => return Err(error),
            }
            name.create(open_flags, mode)?
        } else {
            let object = export.look_up(rest)?;
            check_type(object.attributes()?.mode)?;
            open_object(object)?
        }
    };
    loop {
        // SAFETY: `file` is open.
        let share = match unsafe { Share::of(file.as_ptr()) } {
            Ok(share) => share,
            Err(error) => {
                if crate::net::may_log() {
                    pr_info!(
                        "{}: cannot be shared: {:?}\n",
                        kernel::str::BStr::from_bytes(path),
                        error
                    );
                }
                return Err(error);
            }
        };
        // SAFETY: The file is open.
        if write && !unsafe { bindings::vremote_origin_writable(share.file.as_ptr()) } {
            return Err(EROFS);
        }
        if write {
            share.begin_writing()?;
        }
        let counted = count_open(&share, peer, header, write);
        if write && !matches!(counted, Ok(true)) {
            share.end_writing();
        }
        if !counted.inspect_err(|_| settle_if_idle(&share))? {
            continue;
        }
        crate::pin::pin();
        place.keep();
        answer.header.count = share.errors();
        return answer.describe(&share);
    }
}

/// Only regular files can be opened from afar.
fn check_type(mode: u32) -> Result {
    match mode & bindings::S_IFMT {
        bindings::S_IFREG => Ok(()),
        bindings::S_IFDIR => Err(EISDIR),
        bindings::S_IFLNK => Err(ELOOP),
        _ => Err(ENXIO),
    }
}

pub(super) fn refused(path: &[u8]) -> Error {
    if crate::net::may_log() {
        pr_info!(
            "{}: refused: neither shared nor exported\n",
            kernel::str::BStr::from_bytes(path)
        );
    }
    ENOENT
}

/// Whether the session in which this was asked lasts: a work item may come to it only after that has ended. With the lock of a share's
/// state (or locks) held, what is noted there if so is found by [`super::peer_gone`]. In this order: the peer's epoch may come into force again
/// after a fence, under another one of ours.
pub(super) fn is_current(peer: &Peer, header: &Header) -> bool {
    header.epoch == peer.epoch() && header.peer_epoch == peer.own_epoch()
}

/// Counts one open of a remote. Says no if the share ended at this moment.
///
/// # Errors
///
/// `ESTALE`: the session is over, and nobody would take the open back. `ENOMEM`.
fn count_open(share: &Share, peer: &Peer, header: &Header, write: bool) -> Result<bool> {
    let node = peer.slot;
    // Other nodes may take the room that was found, or made, before the lock is held again; it must not be held while memory is allocated.
    let mut room = KVec::new();
    let mut state = loop {
        let state = share.state.lock();
        let used = state.opens.len();
        if used < state.opens.capacity().max(room.capacity()) {
            break state;
        }
        drop(state);
        room = KVec::with_capacity(used + 4, GFP_KERNEL)?;
    };
    if state.dead {
        return Ok(false);
    }
    if !is_current(peer, header) {
        return Err(ESTALE);
    }
    if state.opens_of(node).is_none() {
        if state.opens.len() == state.opens.capacity() {
            core::mem::swap(&mut state.opens, &mut room);
            for opens in room.iter() {
                state
                    .opens
                    .push_within_capacity(*opens)
                    .map_err(|_| ENOMEM)?;
            }
        }
        state
            .opens
            .push_within_capacity(Opens {
                node,
                readers: 0,
                writers: 0,
                touched: 0,
            })
            .map_err(|_| ENOMEM)?;
    }
    if let Some(opens) = state.opens_of(node) {
        let counter = if write {
            &mut opens.writers
        } else {
            &mut opens.readers
        };
        *counter += 1;
    }
    Ok(true)
}

/// A remote closed a descriptor.
fn close(share: &Arc<Share>, peer: &Peer, header: &Header) {
    let (node, write) = (peer.slot, header.has(flags::WRITE));
    let last = {
        let mut state = share.state.lock();
        if !is_current(peer, header) {
            // It is none of those that are open now.
            return;
        }
        let Some(opens) = state.opens_of(node) else {
            return;
        };
        let counter = if write {
            &mut opens.writers
        } else {
            &mut opens.readers
        };
        if *counter == 0 {
            return;
        }
        *counter -= 1;
        opens.readers + opens.writers == 0
    };
    if write {
        share.end_writing();
    }
    if last {
        // Its owners have unlocked before, unless that message is lost still.
        share.unlock_all(node);
    }
    settle_if_idle(share);
    quota::OPENS.give_back(node, 1);
    crate::pin::unpin();
}

/// Ends a share that nobody has open, unless it is worth keeping for the caches of its remotes: it is, below an export.
pub(super) fn settle_if_idle(share: &Arc<Share>) {
    let idle = {
        let state = share.state.lock();
        state.descriptors == 0
            && state
                .opens
                .iter()
                .all(|opens| opens.readers + opens.writers == 0)
    };
    let keep = || {
        !share.deleted()
            && Object::of(share)
                .path()
                .is_ok_and(|path| export::containing(&path).is_some())
            && share::all().nth(IDLE_SHARES).is_none()
    };
    if !idle || keep() {
        return;
    }
    {
        // One at a time: with a large file it takes longer than the pauses between those who want it.
        let mut state = share.state.lock();
        if let Some(again) = &mut state.settling {
            *again = true;
            return;
        }
        state.settling = Some(false);
    }
    let share_of_work = share.clone();
    let spawned = REQUESTS.queue().try_spawn(GFP_KERNEL, move || {
        settle(&share_of_work);
        let again = share_of_work.state.lock().settling.take() == Some(true);
        if again {
            settle_if_idle(&share_of_work);
        }
    });
    if spawned.is_err() {
        share.state.lock().settling = None;
    }
}
