// SPDX-License-Identifier: GPL-2.0

//! Opens with `O_REMOTE`: which node a path belongs to, and then the very file that the mount point shows.
//!
//! - A path below [`MOUNT_POINT`] names the node: `/vremote/<node>/<path>`, whether anything is mounted there or not; also a path relative
//!   to a directory of ours, wherever that is mounted. This node's own name means the local file.
//! - A path that this node shares itself is opened here.
//! - Any other path is asked of all peers at once; the first that has it wins. With `O_CREAT`, if none has it, the first that has its
//!   directory.
//!
//! Paths are made absolute as the caller sees them and then normalised as text: `..` takes away the component before it, whatever that is.

use kernel::{
    bindings::{file, path, umode_t},
    ffi::c_int,
    prelude::*,
    str::CStr,
    sync::{new_spinlock, Arc, SpinLock},
};

use super::{
    fs::{Root, MOUNT_POINT},
    inode as names,
};
use crate::bindings;
use crate::net::{
    self,
    exchange::{self, Exchange},
    peer::{self, Peer},
};
use crate::proto::{
    limits::{MAX_PATH, RTO_MAX_US, STOOD_STILL_US},
    wire::{Attributes, Header, Kind},
};
use crate::wait::Event;

/// Opens `path`, relative to `dfd`, of whichever node has it; called for opens with `O_REMOTE` and without `O_ORIGIN`. Returns an open file,
/// or an errno as `ERR_PTR`. Process context, sleeps.
///
/// # Errors
///
/// `ENOTCONN`: there is no peer. `ENOENT`: nobody has it. `EACCES`: a node has it and refuses, and no other has it. `ETIMEDOUT`: a peer is
/// silent and no other has it. `EISDIR`: a directory. `ENXIO`: neither file nor directory. `ELOOP`: a symbolic link. `ENAMETOOLONG`,
/// `ENOMEM`, `EINTR`, and those of the origin.
pub(crate) fn open(dfd: c_int, path: &CStr, open_flags: c_int, mode: umode_t) -> *mut file {
    match open_path(dfd, path.to_bytes(), open_flags, mode) {
        Ok(file) => file,
        Err(error) => error.to_ptr(),
    }
}

kernel::sync::global_lock! {
    // SAFETY: Initialised in `init`, before anything can be opened.
    /// Tasks that are opening something in our file system with `O_REMOTE`. The flag itself is not passed on, see `vremote_open_below`.
    unsafe(uninit) static OPENING: SpinLock<KVec<usize>> = KVec::new();
}

/// Prepares the list. Called once, at load.
pub(super) fn init() {
    // SAFETY: Called once, before any use of the lock.
    unsafe { OPENING.init() };
}

/// Frees the list. Nothing is opened any more.
pub(super) fn exit() {
    let list = core::mem::take(&mut *OPENING.lock());
    drop(list);
}

/// A number that tells the running task from all others.
fn task() -> usize {
    // SAFETY: No precondition.
    unsafe { bindings::vremote_origin_task() }
}

/// Whether the running task is opening something with `O_REMOTE`. Any context but interrupts.
pub(super) fn is_opening() -> bool {
    OPENING.lock().contains(&task())
}

/// The running task in [`OPENING`].
struct Opening;

impl Opening {
    fn begin() -> Result<Opening> {
        OPENING.lock().push(task(), GFP_ATOMIC)?;
        Ok(Opening)
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        let mut list = OPENING.lock();
        if let Some(at) = list.iter().position(|other| *other == task()) {
            let _ = list.remove(at);
        }
    }
}

fn open_path(dfd: c_int, path: &[u8], open_flags: c_int, mode: umode_t) -> Result<*mut file> {
    if path.is_empty() {
        return Err(ENOENT);
    }
    let directory = wants_directory(path);
    let place = Place::of(dfd, path)?;
    let (text, node) = match &place {
        Place::Inside(inside) => (&inside[..], true),
        Place::Outside(text) => match below(text, MOUNT_POINT) {
            Some(inside) => (inside, true),
            None => (&text[..], false),
        },
    };
    let file = if node {
        open_inside(text, directory, open_flags, mode)?
    } else if crate::origin::local_share(text) {
        open_local(text, directory, open_flags, mode)?
    } else {
        let peer = who_has(text, open_flags)?;
        let inside = join(&[b"/", peer.name(), text], MAX_PATH + 2 + peer.name().len())?;
        open_inside(&inside, directory, open_flags, mode)?
    };
    // SAFETY: The file is open and ours.
    if unsafe { bindings::vremote_file_is_directory(file) } {
        // SAFETY: As above.
        unsafe { bindings::fput(file) };
        return Err(EISDIR);
    }
    Ok(file)
}

/// Where a path leads, normalised, without a slash at its end.
enum Place {
    /// Into our file system: from its root, `/<node>/<path>`.
    Inside(KVec<u8>),
    /// Anywhere, from the caller's root.
    Outside(KVec<u8>),
}

impl Place {
    fn of(dfd: c_int, name: &[u8]) -> Result<Place> {
        if name[0] == b'/' {
            return Ok(Place::Outside(normalise(&[name])?.0));
        }
        let base = Base::of(dfd)?;
        if base.is_ours() {
            let (inside, escaped) = normalise(&[base.inside()?.as_bytes(), name])?;
            if !escaped {
                return Ok(Place::Inside(inside));
            }
        }
        Ok(Place::Outside(
            normalise(&[base.outside()?.as_bytes(), name])?.0,
        ))
    }
}

/// The directory that a path is relative to.
struct Base(path);

impl Base {
    fn of(dfd: c_int) -> Result<Base> {
        let mut base = path::default();
        // SAFETY: The place is ours.
        kernel::error::to_result(unsafe { bindings::vremote_base_path(dfd, &mut base) })?;
        Ok(Base(base))
    }

    fn is_ours(&self) -> bool {
        // SAFETY: The path is referenced.
        unsafe { bindings::vremote_path_is_ours(&self.0) }
    }

    /// Its path from the root of its superblock.
    fn inside(&self) -> Result<Text> {
        Text::of(|buffer, bytes| {
            // SAFETY: The path is referenced, the buffer has so many bytes.
            unsafe { bindings::dentry_path_raw(self.0.dentry, buffer, bytes) }
        })
    }

    /// Its path from the caller's root. `ENOENT`: it has none, because it was removed or lies outside.
    fn outside(&self) -> Result<Text> {
        // SAFETY: The path is referenced.
        if unsafe { bindings::vremote_path_is_deleted(&self.0) } {
            return Err(ENOENT);
        }
        let text = Text::of(|buffer, bytes| {
            // SAFETY: As above; the buffer has so many bytes.
            unsafe { bindings::d_path(&self.0, buffer, bytes) }
        })?;
        if text.as_bytes().first() == Some(&b'/') {
            Ok(text)
        } else {
            Err(ENOENT)
        }
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        // SAFETY: Referenced in `of`.
        unsafe { bindings::path_put(&self.0) };
    }
}

/// What the kernel's path functions write at the end of a buffer.
struct Text {
    buffer: KVec<u8>,
    start: usize,
}

impl Text {
    fn of(
        write: impl FnOnce(*mut kernel::ffi::c_char, c_int) -> *mut kernel::ffi::c_char,
    ) -> Result<Text> {
        let bytes = MAX_PATH + 1;
        let mut buffer = KVec::<u8>::zeroed(bytes, GFP_KERNEL)?;
        let base = buffer.as_mut_ptr();
        let start = kernel::error::from_err_ptr(write(base.cast(), bytes as c_int))?;
        Ok(Text {
            buffer,
            start: start as usize - base as usize,
        })
    }

    fn as_bytes(&self) -> &[u8] {
        let text = &self.buffer[self.start..];
        &text[..text
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(text.len())]
    }
}

/// Whether a path can only mean a directory.
fn wants_directory(path: &[u8]) -> bool {
    let last = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
    last.is_empty() || last == b"." || last == b".."
}

/// Joins parts of a path and normalises them: absolute, without `.`, `..` and empty components. Also says whether `..` led out of the
/// root, where it stays. `ENAMETOOLONG`, `ENOMEM`.
fn normalise(parts: &[&[u8]]) -> Result<(KVec<u8>, bool)> {
    let mut text = KVec::new();
    let mut escaped = false;
    for component in parts
        .iter()
        .flat_map(|part| part.split(|byte| *byte == b'/'))
    {
        match component {
            b"" | b"." => {}
            b".." => match text.iter().rposition(|byte| *byte == b'/') {
                Some(slash) => text.truncate(slash),
                None => escaped = true,
            },
            name => {
                text.push(b'/', GFP_KERNEL)?;
                text.extend_from_slice(name, GFP_KERNEL)?;
            }
        }
    }
    if text.is_empty() {
        text.push(b'/', GFP_KERNEL)?;
    }
    if text.len() > MAX_PATH {
        return Err(ENAMETOOLONG);
    }
    Ok((text, escaped))
}

/// The part of `text` behind `root`, from its slash on, or `/` for `root` itself.
fn below<'a>(text: &'a [u8], root: &[u8]) -> Option<&'a [u8]> {
    match text.strip_prefix(root)? {
        b"" => Some(b"/"),
        rest if rest[0] == b'/' => Some(rest),
        _ => None,
    }
}

/// Puts parts one after another. `ENAMETOOLONG`, `ENOMEM`.
fn join(parts: &[&[u8]], limit: usize) -> Result<KVec<u8>> {
    let mut text = KVec::new();
    for part in parts {
        text.extend_from_slice(part, GFP_KERNEL)?;
    }
    if text.len() > limit {
        return Err(ENAMETOOLONG);
    }
    Ok(text)
}

/// As the kernel wants names: with a slash at the end if a directory is meant, and a NUL.
fn terminated(text: &[u8], directory: bool) -> Result<KVec<u8>> {
    let slash: &[u8] = if directory && text != b"/" { b"/" } else { b"" };
    join(&[text, slash, b"\0"], usize::MAX)
}

/// Opens a file of this node.
fn open_local(text: &[u8], directory: bool, open_flags: c_int, mode: umode_t) -> Result<*mut file> {
    let name = terminated(text, directory)?;
    // SAFETY: The name ends in NUL.
    kernel::error::from_err_ptr(unsafe {
        bindings::vremote_open_local(name.as_ptr().cast(), open_flags, mode)
    })
}

/// Opens `/<node>/<path>` below the root of our superblock: on the user's mount if there is one, so that the descriptor is the same as if it
/// had been opened there.
fn open_inside(
    inside: &[u8],
    directory: bool,
    open_flags: c_int,
    mode: umode_t,
) -> Result<*mut file> {
    if let Some(own) = below(&inside[1..], net::own_name()) {
        return open_local(own, directory, open_flags, mode);
    }
    let name = terminated(inside, directory)?;
    let mut mounted = path::default();
    let mount_point = terminated(MOUNT_POINT, false)?;
    // SAFETY: The name ends in NUL, the place is ours.
    if unsafe { bindings::vremote_mounted_at(mount_point.as_ptr().cast(), &mut mounted) } == 0 {
        let mounted = Base(mounted);
        return open_below(&mounted.0, &name, open_flags, mode);
    }
    open_below(Root::pin()?.path(), &name, open_flags, mode)
}

/// `name` is absolute and ends in NUL.
fn open_below(root: &path, name: &[u8], open_flags: c_int, mode: umode_t) -> Result<*mut file> {
    // Relative to the given root; the root itself is `.`.
    let relative = if name == b"/\0" { b".\0" } else { &name[1..] };
    let _opening = Opening::begin()?;
    // SAFETY: The root is referenced, the name ends in NUL.
    kernel::error::from_err_ptr(unsafe {
        bindings::vremote_open_below(root, relative.as_ptr().cast(), open_flags, mode)
    })
}

/// A question to all peers.
#[pin_data]
struct Search {
    #[pin]
    state: SpinLock<Answers>,
    #[pin]
    done: Event,
}

struct Answers {
    /// Peers that have not answered.
    waiting: usize,
    /// The first that has what was asked for.
    found: Option<Arc<Peer>>,
    refused: bool,
    silent: Option<Error>,
    other: Option<Error>,
}

/// The question to one peer.
struct Probe {
    search: Arc<Search>,
    header: Header,
    payload: KVec<u8>,
    /// Only a directory counts.
    directory: bool,
}

impl Probe {
    fn end(&self, outcome: Result<Arc<Peer>>) {
        let over = {
            let mut answers = self.search.state.lock();
            answers.waiting = answers.waiting.saturating_sub(1);
            match outcome {
                Ok(peer) => {
                    answers.found.get_or_insert(peer);
                }
                Err(error) if error == ENOENT || error == ENOTDIR => {}
                Err(error) if error == EACCES || error == EPERM => answers.refused = true,
                Err(error) if error == ETIMEDOUT || error == ENOTCONN || error == ESTALE => {
                    answers.silent.get_or_insert(error);
                }
                Err(error) => {
                    answers.other.get_or_insert(error);
                }
            }
            answers.found.is_some() || answers.waiting == 0
        };
        if over {
            self.search.done.happen();
        }
    }
}

impl Exchange for Probe {
    fn answer(&self, peer: &Arc<Peer>, header: &Header, payload: &[u8]) -> bool {
        self.end(match (header.status, Attributes::decode(payload)) {
            (0, Some(attributes)) => {
                let is_directory = attributes.mode & bindings::S_IFMT == bindings::S_IFDIR;
                if self.directory && !is_directory {
                    Err(ENOTDIR)
                } else {
                    Ok(peer.clone())
                }
            }
            (0, None) => Err(EPROTO),
            (status, _) => Err(exchange::error_of(status)),
        });
        true
    }

    fn send(&self, peer: &Arc<Peer>, retry: bool) -> Result {
        peer.send(&self.header.sent(retry), &self.payload)
    }

    fn expired(&self, error: Error) {
        self.end(Err(error));
    }
}

/// Asks all peers for a path. Sleeps.
fn ask_all(text: &[u8], directory: bool) -> Result<Arc<Peer>> {
    let peers = peer::snapshot()?;
    if peers.is_empty() {
        return Err(ENOTCONN);
    }
    let answers = Answers {
        waiting: peers.len(),
        found: None,
        refused: false,
        silent: None,
        other: None,
    };
    let search = Arc::pin_init(
        pin_init!(Search { state <- new_spinlock!(answers), done <- Event::new() }),
        GFP_KERNEL,
    )?;
    let mut requests = KVec::with_capacity(peers.len(), GFP_KERNEL)?;
    for peer in &peers {
        let request = exchange::next_request();
        let probe = Probe {
            search: search.clone(),
            header: Header {
                request,
                ..Header::new(Kind::Lookup)
            },
            payload: names::credentials_and(text)?,
            directory,
        };
        let probe = Arc::new(probe, GFP_KERNEL)?;
        match exchange::start(peer, request, probe.clone(), Some(net::timeout_us())) {
            Ok(()) => requests.push(request, GFP_KERNEL)?,
            Err(error) => probe.end(Err(error)),
        }
    }
    // Probes end before that.
    let waited = search
        .done
        .wait(net::timeout_us() + STOOD_STILL_US + RTO_MAX_US);
    for request in requests {
        exchange::finish(request);
    }
    let mut answers = search.state.lock();
    if let Some(peer) = answers.found.take() {
        return Ok(peer);
    }
    waited?;
    if answers.refused {
        return Err(EACCES);
    }
    Err(answers.silent.or(answers.other).unwrap_or(ENOENT))
}

/// The peer that a path belongs to.
fn who_has(text: &[u8], open_flags: c_int) -> Result<Arc<Peer>> {
    let found = ask_all(text, false);
    let creates = open_flags & bindings::O_CREAT as c_int != 0;
    match found {
        Err(error) if creates && error == ENOENT => {
            let parent = match text.iter().rposition(|byte| *byte == b'/') {
                Some(slash) if slash > 0 => &text[..slash],
                _ => b"/",
            };
            ask_all(parent, true)
        }
        found => found,
    }
}
