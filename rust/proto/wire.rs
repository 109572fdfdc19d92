// SPDX-License-Identifier: GPL-2.0

//! Messages as they are on the network, version 1: header and payloads.
//!
//! Every datagram is an envelope ([`super::envelope`], 40 bytes), one [`Header`] (60 bytes) and then one fragment of the message's payload;
//! header and fragment are encrypted. All integers are little-endian. A message of more than [`FRAGMENT_BYTES`] is sent as several datagrams with
//! equal headers but for `offset`; IP never has to fragment. Padding may follow a fragment and is ignored.
//!
//! | bytes of the header | what |
//! |---|---|
//! | 0 | [`Kind`] |
//! | 1 | 0 |
//! | 2..4, 4..6, 6..8 | `flags`, `status`, `fragment` |
//! | 8.., 16.., 24.., 32.., 40..48 | `seq`, `request`, `file`, `index`, `size` |
//! | 48.., 52.., 56..60 | `length`, `offset`, `count` |
//!
//! Both epochs are not in it: the session that a datagram belongs to tells them, or its envelope if it is `Open`.
//!
//! | seed's operator | message here | meaning |
//! |---|---|---|
//! | `r` read | [`Kind::GetShared`], answered by [`Kind::Grant`] | a node wants to read a page |
//! | `w` write | [`Kind::GetModified`] answered by [`Kind::Grant`]; [`Kind::Put`] brings the bytes home | a node wants to write a page |
//! | `i` invalidate | [`Kind::Invalidate`], answered by [`Kind::Ack`] | a node must drop its copy |
//!
//! # If you add a message
//!
//! 1. a variant of [`Kind`] with its number (never reuse one) and the fields it uses in its doc;
//! 2. its line in `Kind::from_u8` and in `Kind::ALL`;
//! 3. the handler in the origin's or the remote's dispatch, and a counter appears by itself;
//! 4. if it must not run twice, `Kind::once` says so and the reply cache keeps its reply;
//! 5. a generator in the property tests and a line in the corpus.

use core::cmp::Ordering;

use super::envelope::{Envelope, Malformed, What, CLEAR_BYTES, ENVELOPE_BYTES};
use super::limits::{
    FRAGMENT_BYTES, MAX_BATCH_PAGES, MAX_PAGES, MAX_PAYLOAD, MAX_SEQ, MAX_SIZE, MAX_XATTR,
    PAGE_BYTES,
};

/// Bytes of a header without its envelope.
pub const BODY_BYTES: usize = 60;

/// Bytes of an envelope and a header.
pub const HEADER_BYTES: usize = ENVELOPE_BYTES + BODY_BYTES;

/// A datagram of a full fragment.
pub const DATAGRAM_BYTES: usize = HEADER_BYTES + FRAGMENT_BYTES;

const _: () = assert!(
    DATAGRAM_BYTES + 8 + 20 <= 1500,
    "a datagram must fit Ethernet's MTU"
);

/// In [`Kind::Open`], in place of open flags: a program is to be run. Whoever may run it need not be able to read it.
pub const OPEN_TO_RUN: u64 = 1 << 32;

/// What a message is. `req` below is [`Header::request`]; every request is retransmitted until its answer comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Session: "I am `epoch`, you are `peer_epoch` (0: unknown)"; payload: the sender's name. Answered by `HelloAck`.
    Hello = 1,
    /// Answer to `Hello`; same fields, and `size`: the lease that it grants, in microseconds from when the hello was sent; 0: none.
    HelloAck = 2,
    /// Answer to any control request and to `Put`: `status`, `seq` and `size` of the file, more by kind.
    Reply = 3,

    /// `index`: the rights that are asked about, as access(2) has them (4 to read, 2 to write, 1 to run or search; 0: none); without them
    /// the answer is `EACCES`. `payload`: [`Credentials`] and a path. Reply payload: [`Attributes`].
    Lookup = 16,
    /// `index`: open flags, or [`OPEN_TO_RUN`]; `size`: creation mode, `payload`: [`Credentials`] and a path. Reply: `file`, [`Attributes`],
    /// `count`: as in `Commit`.
    Open = 17,
    /// The last descriptor of this node closed `file`. Its cached pages stay valid. Flag `WRITE`: it had been opened for
    /// writing.
    Close = 18,
    /// Attributes of `file`. Reply: [`Attributes`].
    GetAttr = 19,
    /// Sets the size of `file` to `size`. Reply: [`Attributes`].
    SetSize = 20,
    /// Writes `payload` at byte `index` of `file`, or at its end with flag `APPEND`, through the origin's own write path.
    /// Reply: `index` where it was written, `count` bytes, `size` after it. With flag `TOUCHED` nothing is written: the sender has done that
    /// in its page cache, and the times of `file` become now. Reply: [`Attributes`].
    Write = 21,
    /// fsync of `file` at the origin, after this node's `Put`s. `count`: the errors of writing it to disk that this node has been told of, as
    /// the origin counts them. Reply: their new `count`; `index`: the errno of a new one, 0 for none. With `file` 0 of the directory
    /// with inode number `index` (0: any); `payload`: [`Credentials`] and a path.
    Commit = 22,

    /// What a directory has, from position `size` on (0: the start). `payload`: [`Credentials`] and a path. Reply: [`Entry`]s as
    /// payload, none if there are no more.
    List = 23,
    /// Where a symlink leads. `payload`: [`Credentials`] and a path. Reply payload: the target as it is written; with `index` 1 the
    /// absolute path of what it leads to at last, below the export; there need not be anything.
    ReadLink = 24,
    /// A new directory, symlink, FIFO, socket or empty file. `index`: mode, type included; `payload`: [`Credentials`], path and target ([`Names`]).
    /// Reply: [`Attributes`].
    Make = 25,
    /// A second name for a file. `payload`: [`Credentials`], present path and new path ([`Names`]). Reply: [`Attributes`].
    Link = 26,
    /// Removes a name; `index`: 1 for a directory. `payload`: [`Credentials`] and a path.
    Remove = 27,
    /// Gives a file another name. `index`: flags of renameat2(2); `payload`: [`Credentials`], present path and new path
    /// ([`Names`]).
    Rename = 28,
    /// Sets mode, owner or times of the file with inode number `index` (0: any), or of `file` if that is not 0, whatever its path has become;
    /// and in any case the time of its change. `payload`: [`Credentials`], path and [`Change`]
    /// ([`Names`]). Reply: [`Attributes`].
    SetAttr = 29,

    /// Locks a range of `file`, unlocks it, or asks who holds it. `payload`: a [`Lock`]. A `status` of `EAGAIN` says that somebody
    /// else holds it. Reply to a test, as payload: the [`Lock`] in the way, or one of kind [`LockKind::Unlock`].
    Lock = 30,
    /// fallocate(2) of `file`: `size` bytes from byte `index` on; `count`: the mode. Reply: [`Attributes`].
    Allocate = 31,

    /// Wants to read `count` pages from `index`. `seq`: the grant given up by asking (0: none). `payload`, if any: a
    /// bitmap of the pages still missing (bit 0 of byte 0 is page `index`).
    GetShared = 32,
    /// Wants to write; fields as `GetShared`. Flag `HAVE`: the sender's copies are valid, no data needed
    /// (`seq` is 0).
    GetModified = 33,
    /// Gives page `index`: `seq`, `size` of the file, flag `WRITE` for ownership, flag `DATA` if the page follows: not when the owner on record asks again.
    /// `request` is that of the Get. A `status` other than 0 refuses the page.
    Grant = 34,
    /// Drop the copy of page `index`; `seq` orders it against grants. Answered by `Ack` with the same `request`.
    Invalidate = 35,
    /// Give page `index` back; flag `KEEP`: a read copy may stay. Answered by a `Put`, or by `Ack` if nothing is held.
    Recall = 36,
    /// Done with `Invalidate`, or for `Recall`: nothing is held.
    Ack = 37,
    /// Brings page `index` home: `seq` of the grant it was held under, flag `KEEP`, payload the page (up to EOF), flag `TOUCHED`: the origin
    /// was not told before that the file was written to. Answered by `Reply`.
    Put = 38,

    /// Value of an extended attribute of what has inode number `index` (0: any), or of `file` as in `SetAttr`. `size`: room for the value, 0: only its length is
    /// wanted. `payload`: [`Credentials`], path and [`Xattr`] without a value ([`Names`]). Reply: `count`: bytes of the value, which
    /// is the payload.
    GetXattr = 39,
    /// Sets or removes an extended attribute of what has inode number `index` (0: any), or of `file` as in `SetAttr`. `size`: bits of [`xattr`]. `payload`:
    /// [`Credentials`], path and [`Xattr`] ([`Names`]). Reply: [`Attributes`].
    SetXattr = 40,
    /// Names of the extended attributes of what has inode number `index` (0: any), or of `file` as in `SetAttr`. `payload`: [`Credentials`] and a path. Reply
    /// payload: the names, each with a NUL behind it.
    ListXattr = 41,

    /// From the origin, not answered: something that a lock of this node on `file` waited for may be free. Lost ones are made up
    /// for by asking again.
    Unlocked = 42,

    /// Answer to a request that came again while it is being worked on: it is no silence.
    Working = 43,

    /// How much room there is on the file system that a path lies on. `payload`: [`Credentials`] and a path. Reply payload: [`Space`].
    StatFs = 44,

    /// Flags of the file or directory with inode number `index` (0: any), or of `file` as in `SetAttr`. `payload`: [`Credentials`] and a
    /// path. Reply payload: [`FileAttr`].
    GetFileAttr = 45,
    /// Sets flags of the file or directory with inode number `index` (0: any), or of `file` as in `SetAttr`. `size`: which fields count, one
    /// of [`file_attr`]. `payload`: [`Credentials`], path and [`FileAttr`] ([`Names`]). Reply: [`Attributes`].
    SetFileAttr = 46,
}

impl Kind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Kind; 34] = [
        Kind::Hello,
        Kind::HelloAck,
        Kind::Reply,
        Kind::Lookup,
        Kind::Open,
        Kind::Close,
        Kind::GetAttr,
        Kind::SetSize,
        Kind::Write,
        Kind::Commit,
        Kind::List,
        Kind::ReadLink,
        Kind::Make,
        Kind::Link,
        Kind::Remove,
        Kind::Rename,
        Kind::SetAttr,
        Kind::Lock,
        Kind::Allocate,
        Kind::GetShared,
        Kind::GetModified,
        Kind::Grant,
        Kind::Invalidate,
        Kind::Recall,
        Kind::Ack,
        Kind::Put,
        Kind::GetXattr,
        Kind::SetXattr,
        Kind::ListXattr,
        Kind::Unlocked,
        Kind::Working,
        Kind::StatFs,
        Kind::GetFileAttr,
        Kind::SetFileAttr,
    ];

    /// The kind with this number, or `None` for one that version 1 does not know.
    pub fn from_u8(number: u8) -> Option<Kind> {
        Kind::ALL.iter().copied().find(|kind| *kind as u8 == number)
    }

    /// Position in [`Kind::ALL`], for tables of counters.
    pub fn index(self) -> usize {
        Kind::ALL.iter().position(|kind| *kind == self).unwrap_or(0)
    }

    /// Name for counters and traces.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Hello => "Hello",
            Kind::HelloAck => "HelloAck",
            Kind::Reply => "Reply",
            Kind::Lookup => "Lookup",
            Kind::Open => "Open",
            Kind::Close => "Close",
            Kind::GetAttr => "GetAttr",
            Kind::SetSize => "SetSize",
            Kind::Write => "Write",
            Kind::Commit => "Commit",
            Kind::List => "List",
            Kind::ReadLink => "ReadLink",
            Kind::Make => "Make",
            Kind::Link => "Link",
            Kind::Remove => "Remove",
            Kind::Rename => "Rename",
            Kind::SetAttr => "SetAttr",
            Kind::Lock => "Lock",
            Kind::Allocate => "Allocate",
            Kind::GetShared => "GetShared",
            Kind::GetModified => "GetModified",
            Kind::Grant => "Grant",
            Kind::Invalidate => "Invalidate",
            Kind::Recall => "Recall",
            Kind::Ack => "Ack",
            Kind::Put => "Put",
            Kind::GetXattr => "GetXattr",
            Kind::SetXattr => "SetXattr",
            Kind::ListXattr => "ListXattr",
            Kind::Unlocked => "Unlocked",
            Kind::Working => "Working",
            Kind::StatFs => "StatFs",
            Kind::GetFileAttr => "GetFileAttr",
            Kind::SetFileAttr => "SetFileAttr",
        }
    }

    /// Whether the message answers a request, so that `request` names one of the receiver's own.
    pub fn is_answer(self) -> bool {
        matches!(self, Kind::Reply | Kind::Grant | Kind::Ack | Kind::Working)
    }

    /// Whether running the request twice would be wrong: its reply is kept and repeated to duplicates.
    pub fn once(self) -> bool {
        matches!(
            self,
            Kind::Open
                | Kind::Close
                | Kind::SetSize
                | Kind::Write
                | Kind::Commit
                | Kind::Make
                | Kind::Link
                | Kind::Remove
                | Kind::Rename
                | Kind::SetAttr
                | Kind::Lock
                | Kind::Allocate
                | Kind::SetXattr
                | Kind::SetFileAttr
        )
    }

    /// Whether the request changes a file or a name when it is done. (An `Open` does if its flags say so.)
    pub fn changes(self) -> bool {
        matches!(
            self,
            Kind::Write
                | Kind::SetSize
                | Kind::Allocate
                | Kind::Make
                | Kind::Link
                | Kind::Remove
                | Kind::Rename
                | Kind::SetAttr
                | Kind::SetXattr
                | Kind::SetFileAttr
        )
    }
}

/// Bits of [`Header::flags`].
pub mod flags {
    /// Ownership: the page may be written.
    pub const WRITE: u16 = 1 << 0;
    /// The page's bytes are the payload.
    pub const DATA: u16 = 1 << 1;
    /// The sender's copy is valid; or, on Recall and Put, a read copy stays with the remote.
    pub const KEEP: u16 = 1 << 2;
    /// The sender of `GetModified` has a valid read copy.
    pub const HAVE: u16 = 1 << 3;
    /// Write at the end of the file.
    pub const APPEND: u16 = 1 << 4;
    /// A retransmission (for counters; the receiver decides by `request`).
    pub const RETRY: u16 = 1 << 5;
    /// `Commit`: data only (fdatasync).
    pub const DATASYNC: u16 = 1 << 6;
    /// `Write`, `Put`: the file was written to, and its times are to say so.
    pub const TOUCHED: u16 = 1 << 7;
    /// All bits that version 1 knows; others are a counted drop.
    pub const ALL: u16 = (1 << 8) - 1;
}

/// The fixed header. `Default` is all zero, with kind `Hello`; fields that a kind does not name are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the message is.
    pub kind: Kind,
    /// Bits of [`flags`].
    pub flags: u16,
    /// Session of the sender: random, nonzero, new each time that it makes the receiver a peer.
    pub epoch: u64,
    /// Session of the receiver as the sender knows it; 0 while unknown, allowed only in `Hello` and `HelloAck`.
    pub peer_epoch: u64,
    /// Order of the origin's decisions on `file`: grants, invalidations, recalls, sizes.
    pub seq: u64,
    /// Request id: chosen by who asks, increasing over a session, never 0 in a request.
    pub request: u64,
    /// File id: chosen by the origin, unique in its session.
    pub file: u64,
    /// Page index, or byte offset where the kind says so.
    pub index: u64,
    /// Size of the file in bytes, where the kind says so.
    pub size: u64,
    /// Bytes of the whole message's payload, all fragments together.
    pub length: u32,
    /// Offset of this fragment in the payload; a multiple of `fragment`.
    pub offset: u32,
    /// Pages or bytes, where the kind says so.
    pub count: u32,
    /// Payload bytes of every fragment but the last one.
    pub fragment: u16,
    /// An errno as a positive number, 0 for success.
    pub status: u16,
}

impl Default for Header {
    fn default() -> Header {
        Header {
            kind: Kind::Hello,
            flags: 0,
            epoch: 0,
            peer_epoch: 0,
            seq: 0,
            request: 0,
            file: 0,
            index: 0,
            size: 0,
            length: 0,
            offset: 0,
            count: 0,
            fragment: FRAGMENT_BYTES as u16,
            status: 0,
        }
    }
}

/// Writes integers one after another; the reverse of [`Reader`].
struct Writer<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Writer<'_> {
    fn put<const N: usize>(&mut self, value: [u8; N]) {
        self.bytes[self.at..self.at + N].copy_from_slice(&value);
        self.at += N;
    }
}

/// Reads integers one after another, `None` past the end.
struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        if count > self.bytes.len() {
            return None;
        }
        let (head, tail) = self.bytes.split_at(count);
        self.bytes = tail;
        Some(head)
    }
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }
    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }
    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }
    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}

impl Header {
    /// A header of this kind, all else zero.
    pub fn new(kind: Kind) -> Header {
        Header {
            kind,
            ..Header::default()
        }
    }

    /// It as it is sent: marked, if that is not the first time.
    pub fn sent(self, retry: bool) -> Header {
        Header {
            flags: self.flags | if retry { flags::RETRY } else { 0 },
            ..self
        }
    }

    /// Whether all bits of `mask` are set in the flags.
    pub fn has(&self, mask: u16) -> bool {
        self.flags & mask == mask
    }

    /// The header's bytes in an envelope of kind `Open`; who seals it replaces the envelope.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let envelope = Envelope {
            what: What::Open,
            length: (BODY_BYTES + self.fragment_bytes()) as u16,
            session: self.peer_epoch,
            counter: self.epoch,
        };
        let mut bytes = [0; HEADER_BYTES];
        bytes[..CLEAR_BYTES].copy_from_slice(&envelope.encode());
        let mut w = Writer {
            bytes: &mut bytes[ENVELOPE_BYTES..],
            at: 0,
        };
        w.put([self.kind as u8, 0]);
        w.put(self.flags.to_le_bytes());
        w.put(self.status.to_le_bytes());
        w.put(self.fragment.to_le_bytes());
        w.put(self.seq.to_le_bytes());
        w.put(self.request.to_le_bytes());
        w.put(self.file.to_le_bytes());
        w.put(self.index.to_le_bytes());
        w.put(self.size.to_le_bytes());
        w.put(self.length.to_le_bytes());
        w.put(self.offset.to_le_bytes());
        w.put(self.count.to_le_bytes());
        debug_assert!(w.at == BODY_BYTES);
        bytes
    }

    /// Splits a datagram that is not encrypted into its header and its fragment, without the padding.
    ///
    /// # Errors
    ///
    /// Says why the datagram must be dropped. No bytes make it panic.
    pub fn decode(datagram: &[u8]) -> Result<(Header, &[u8]), Malformed> {
        let envelope = Envelope::decode(datagram, datagram.len())?;
        if envelope.what != What::Open {
            return Err(Malformed::Kind);
        }
        let text = &datagram[ENVELOPE_BYTES..][..usize::from(envelope.length)];
        Header::decode_text(text, envelope.counter, envelope.session)
    }

    /// Splits what was in an envelope into a header with these epochs, of the sender and of this node, and its fragment.
    ///
    /// # Errors
    ///
    /// As [`Header::decode`].
    pub fn decode_text(
        text: &[u8],
        epoch: u64,
        peer_epoch: u64,
    ) -> Result<(Header, &[u8]), Malformed> {
        let header = Header::parse(text, epoch, peer_epoch)?;
        let fragment = &text[BODY_BYTES..];
        match fragment.len().cmp(&header.fragment_bytes()) {
            Ordering::Less => Err(Malformed::Truncated),
            Ordering::Equal => Ok((header, fragment)),
            Ordering::Greater => Err(Malformed::Field),
        }
    }

    /// Bytes of payload that this datagram carries.
    pub fn fragment_bytes(&self) -> usize {
        (self.length.saturating_sub(self.offset) as usize).min(self.fragment as usize)
    }

    fn parse(text: &[u8], epoch: u64, peer_epoch: u64) -> Result<Header, Malformed> {
        if text.len() < BODY_BYTES {
            return Err(Malformed::Truncated);
        }
        let mut r = Reader { bytes: text };
        let short = Malformed::Truncated;
        let kind = Kind::from_u8(r.u8().ok_or(short)?).ok_or(Malformed::Kind)?;
        if r.u8().ok_or(short)? != 0 {
            return Err(Malformed::Field);
        }
        let (flags, status, fragment) = (
            r.u16().ok_or(short)?,
            r.u16().ok_or(short)?,
            r.u16().ok_or(short)?,
        );
        let header = Header {
            kind,
            flags,
            status,
            fragment,
            epoch,
            peer_epoch,
            seq: r.u64().ok_or(short)?,
            request: r.u64().ok_or(short)?,
            file: r.u64().ok_or(short)?,
            index: r.u64().ok_or(short)?,
            size: r.u64().ok_or(short)?,
            length: r.u32().ok_or(short)?,
            offset: r.u32().ok_or(short)?,
            count: r.u32().ok_or(short)?,
        };
        header.check()?;
        Ok(header)
    }

    /// Whether [`Header::index`] is that of a page.
    fn of_page(&self) -> bool {
        matches!(
            self.kind,
            Kind::GetShared
                | Kind::GetModified
                | Kind::Grant
                | Kind::Invalidate
                | Kind::Recall
                | Kind::Ack
                | Kind::Put
        )
    }

    /// What must hold in every header. Who computes with these fields relies on it: nothing here can overflow.
    fn check(&self) -> Result<(), Malformed> {
        let fragment = u32::from(self.fragment);
        let session = matches!(self.kind, Kind::Hello | Kind::HelloAck);
        let get = matches!(self.kind, Kind::GetShared | Kind::GetModified);
        let carries_page = matches!(self.kind, Kind::Grant | Kind::Put);
        let pages = if get { u64::from(self.count) } else { 1 };
        let sane = self.flags & !flags::ALL == 0
            && self.epoch != 0
            && self.length as usize <= MAX_PAYLOAD
            && self.fragment as usize <= FRAGMENT_BYTES
            && fragment >= 256
            && self.offset % fragment == 0
            && (self.offset < self.length || self.offset == 0)
            && self.status < 4096
            && self.seq <= MAX_SEQ
            && self.size <= MAX_SIZE
            && self.index <= MAX_SIZE - u64::from(self.length)
            && (!self.of_page() || self.index <= MAX_PAGES - pages)
            && (!get || (self.count >= 1 && self.count as usize <= MAX_BATCH_PAGES))
            && (!carries_page || self.length as usize <= PAGE_BYTES)
            && (session || (self.request != 0 && self.peer_epoch != 0));
        if sane {
            Ok(())
        } else {
            Err(Malformed::Field)
        }
    }
}

/// Who opens: travels with `Lookup` and `Open`, before the path.
///
/// Layout: uid u32, gid u32, number of groups u16, then a u32 for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials<'a> {
    /// fsuid of the opener, in its initial user namespace.
    pub uid: u32,
    /// fsgid of the opener.
    pub gid: u32,
    /// Supplementary groups, four little-endian bytes each.
    groups: &'a [u8],
}

impl<'a> Credentials<'a> {
    /// Reads credentials and the path behind them.
    pub fn decode(payload: &'a [u8]) -> Option<(Credentials<'a>, &'a [u8])> {
        let mut r = Reader { bytes: payload };
        let uid = r.u32()?;
        let gid = r.u32()?;
        let count = usize::from(r.u16()?);
        if count > super::limits::MAX_GROUPS {
            return None;
        }
        let groups = r.take(count * 4)?;
        Some((Credentials { uid, gid, groups }, r.bytes))
    }

    /// The supplementary groups.
    pub fn groups(&self) -> impl Iterator<Item = u32> + 'a {
        self.groups
            .chunks_exact(4)
            .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    /// Bytes that [`Credentials::encode`] writes for this many groups.
    pub const fn encoded_bytes(groups: usize) -> usize {
        10 + 4 * groups
    }

    /// Writes credentials into the start of `out`; the path goes behind them. `None` if `out` is too small or there
    /// are more than [`super::limits::MAX_GROUPS`] groups.
    pub fn encode(uid: u32, gid: u32, groups: &[u32], out: &mut [u8]) -> Option<usize> {
        let bytes = Credentials::encoded_bytes(groups.len());
        if out.len() < bytes || groups.len() > super::limits::MAX_GROUPS {
            return None;
        }
        let mut w = Writer { bytes: out, at: 0 };
        w.put(uid.to_le_bytes());
        w.put(gid.to_le_bytes());
        w.put((groups.len() as u16).to_le_bytes());
        for group in groups {
            w.put(group.to_le_bytes());
        }
        Some(bytes)
    }
}

/// A point in time: seconds since 1970 and nanoseconds (0 to 999,999,999).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    /// Seconds; negative before 1970.
    pub seconds: i64,
    /// Nanoseconds in the second.
    pub nanoseconds: u32,
}

/// What `stat` shows; the payload of most replies. The size is in the header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Inode number at the origin.
    pub ino: u64,
    /// Generation of that inode number and device: (ino, generation, device) never names two files.
    pub generation: u64,
    /// Device number at the origin.
    pub device: u64,
    /// Size in bytes.
    pub size: u64,
    /// 512-byte blocks.
    pub blocks: u64,
    /// Type and permission bits.
    pub mode: u32,
    /// Links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last access.
    pub atime: Time,
    /// Last change of the data.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
}

/// Bytes of encoded [`Attributes`].
pub const ATTRIBUTES_BYTES: usize = 5 * 8 + 4 * 4 + 3 * 12;

impl Attributes {
    /// The attributes' bytes.
    pub fn encode(&self) -> [u8; ATTRIBUTES_BYTES] {
        let mut bytes = [0; ATTRIBUTES_BYTES];
        let mut w = Writer {
            bytes: &mut bytes,
            at: 0,
        };
        for value in [
            self.ino,
            self.generation,
            self.device,
            self.size,
            self.blocks,
        ] {
            w.put(value.to_le_bytes());
        }
        for value in [self.mode, self.nlink, self.uid, self.gid] {
            w.put(value.to_le_bytes());
        }
        for time in [self.atime, self.mtime, self.ctime] {
            w.put(time.seconds.to_le_bytes());
            w.put(time.nanoseconds.to_le_bytes());
        }
        bytes
    }

    /// Reads attributes; `None` if there are too few bytes or a field is out of its range.
    pub fn decode(payload: &[u8]) -> Option<Attributes> {
        let mut r = Reader { bytes: payload };
        let mut attributes = Attributes {
            ino: r.u64()?,
            generation: r.u64()?,
            device: r.u64()?,
            size: r.u64()?,
            blocks: r.u64()?,
            mode: r.u32()?,
            nlink: r.u32()?,
            uid: r.u32()?,
            gid: r.u32()?,
            ..Attributes::default()
        };
        for time in [
            &mut attributes.atime,
            &mut attributes.mtime,
            &mut attributes.ctime,
        ] {
            time.seconds = r.u64()? as i64;
            time.nanoseconds = r.u32()?;
            if time.nanoseconds >= 1_000_000_000 {
                return None;
            }
        }
        (attributes.size <= MAX_SIZE).then_some(attributes)
    }
}

/// What follows the credentials where a message has two byte strings: the header's `count` says how long the first one is.
pub struct Names<'a> {
    /// A path.
    pub first: &'a [u8],
    /// What the message's kind says.
    pub second: &'a [u8],
}

impl<'a> Names<'a> {
    /// `None` if there are not as many bytes as the header says.
    pub fn decode(header: &Header, behind_credentials: &'a [u8]) -> Option<Names<'a>> {
        let (first, second) = behind_credentials.split_at_checked(header.count as usize)?;
        Some(Names { first, second })
    }
}

/// What a [`Kind::SetAttr`] sets: bits of [`change`], and a field for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Which of the other fields count.
    pub valid: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last access.
    pub atime: Time,
    /// Last change of the data.
    pub mtime: Time,
}

/// Bits of [`Change::valid`].
pub mod change {
    /// [`Change::mode`](super::Change::mode).
    pub const MODE: u32 = 1 << 0;
    /// [`Change::uid`](super::Change::uid).
    pub const UID: u32 = 1 << 1;
    /// [`Change::gid`](super::Change::gid).
    pub const GID: u32 = 1 << 2;
    /// The access time becomes the origin's present time.
    pub const ATIME_NOW: u32 = 1 << 3;
    /// The access time becomes [`Change::atime`](super::Change::atime).
    pub const ATIME: u32 = 1 << 4;
    /// The time of the last change becomes the origin's present time.
    pub const MTIME_NOW: u32 = 1 << 5;
    /// The time of the last change becomes [`Change::mtime`](super::Change::mtime).
    pub const MTIME: u32 = 1 << 6;
    /// The change is that of chown(2), which takes set-id bits away even if it gives neither owner nor group.
    pub const CHOWN: u32 = 1 << 7;
    /// All bits that version 1 knows.
    pub const ALL: u32 = (1 << 8) - 1;
}

/// Bytes of an encoded [`Change`].
pub const CHANGE_BYTES: usize = 4 * 4 + 2 * 12;

impl Change {
    /// The change's bytes.
    pub fn encode(&self) -> [u8; CHANGE_BYTES] {
        let mut bytes = [0; CHANGE_BYTES];
        let mut w = Writer {
            bytes: &mut bytes,
            at: 0,
        };
        for value in [self.valid, self.mode, self.uid, self.gid] {
            w.put(value.to_le_bytes());
        }
        for time in [self.atime, self.mtime] {
            w.put(time.seconds.to_le_bytes());
            w.put(time.nanoseconds.to_le_bytes());
        }
        bytes
    }

    /// Reads a change; `None` if there are too few bytes or a field is out of its range.
    pub fn decode(bytes: &[u8]) -> Option<Change> {
        let mut r = Reader { bytes };
        let mut change = Change {
            valid: r.u32()?,
            mode: r.u32()?,
            uid: r.u32()?,
            gid: r.u32()?,
            ..Change::default()
        };
        for time in [&mut change.atime, &mut change.mtime] {
            time.seconds = r.u64()? as i64;
            time.nanoseconds = r.u32()?;
            if time.nanoseconds >= 1_000_000_000 {
                return None;
            }
        }
        (change.valid & !change::ALL == 0 && change.mode & !0o7777 == 0).then_some(change)
    }
}

/// What a [`Lock`] is to be, or is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum LockKind {
    /// Nobody's: what is locked is to be free, or is.
    #[default]
    Unlock = 0,
    /// Shared with other readers.
    Read = 1,
    /// Exclusive.
    Write = 2,
}

/// A lock of a byte range (fcntl) or of a whole file (flock).
///
/// Layout: owner u64, start u64, end u64, pid u32, kind u8, bits u8, zero u16.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lock {
    /// Who locks, as its node calls it: a process or an open file description.
    pub owner: u64,
    /// First byte.
    pub start: u64,
    /// Last byte; [`MAX_SIZE`]: to the end of the file, wherever that will be.
    pub end: u64,
    /// Process id on the node of the owner.
    pub pid: u32,
    /// What it is to be, or is.
    pub kind: LockKind,
    /// By flock(2), of the whole file: of no effect on locks by fcntl(2).
    pub flock: bool,
    /// Only asks who is in the way. Not with `flock`.
    pub test: bool,
    /// The owner waits: it wants to hear when something becomes free.
    pub wait: bool,
}

/// Bytes of an encoded [`Lock`].
pub const LOCK_BYTES: usize = 32;

impl Lock {
    const FLOCK: u8 = 1 << 0;
    const TEST: u8 = 1 << 1;
    const WAIT: u8 = 1 << 2;

    /// The lock's bytes.
    pub fn encode(&self) -> [u8; LOCK_BYTES] {
        let mut bytes = [0; LOCK_BYTES];
        let mut w = Writer {
            bytes: &mut bytes,
            at: 0,
        };
        for value in [self.owner, self.start, self.end] {
            w.put(value.to_le_bytes());
        }
        w.put(self.pid.to_le_bytes());
        let bits = if self.flock { Lock::FLOCK } else { 0 }
            | if self.test { Lock::TEST } else { 0 }
            | if self.wait { Lock::WAIT } else { 0 };
        w.put([self.kind as u8, bits, 0, 0]);
        bytes
    }

    /// Reads a lock; `None` if there are too few bytes or a field is out of its range.
    pub fn decode(bytes: &[u8]) -> Option<Lock> {
        let mut r = Reader { bytes };
        let (owner, start, end, pid) = (r.u64()?, r.u64()?, r.u64()?, r.u32()?);
        let kind = match r.u8()? {
            0 => LockKind::Unlock,
            1 => LockKind::Read,
            2 => LockKind::Write,
            _ => return None,
        };
        let bits = r.u8()?;
        let lock = Lock {
            owner,
            start,
            end,
            pid,
            kind,
            flock: bits & Lock::FLOCK != 0,
            test: bits & Lock::TEST != 0,
            wait: bits & Lock::WAIT != 0,
        };
        let sane = r.u16()? == 0
            && bits & !(Lock::FLOCK | Lock::TEST | Lock::WAIT) == 0
            && start <= end
            && end <= MAX_SIZE
            && pid <= i32::MAX as u32
            && !(lock.flock && lock.test);
        sane.then_some(lock)
    }
}

/// An extended attribute, behind the path of a [`Kind::GetXattr`] or [`Kind::SetXattr`].
///
/// Layout: bytes of the name u8, the name, the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Xattr<'a> {
    /// 1 to 255 bytes without NUL, the part before the first dot included.
    pub name: &'a [u8],
    /// 0 to [`MAX_XATTR`] bytes.
    pub value: &'a [u8],
}

impl<'a> Xattr<'a> {
    /// `None` if that is not one.
    pub fn decode(bytes: &'a [u8]) -> Option<Xattr<'a>> {
        let mut r = Reader { bytes };
        let length = usize::from(r.u8()?);
        let name = r.take(length)?;
        let value = r.bytes;
        let sane = length != 0 && !name.contains(&0) && value.len() <= MAX_XATTR;
        sane.then_some(Xattr { name, value })
    }

    /// What goes before the name. `None`: a name cannot be so long.
    pub fn head(&self) -> Option<[u8; 1]> {
        let length = u8::try_from(self.name.len()).ok()?;
        (length != 0).then_some([length])
    }
}

/// Bits of [`Header::size`] in a [`Kind::SetXattr`]; the first two are those of setxattr(2).
pub mod xattr {
    /// The attribute must not be there.
    pub const CREATE: u64 = 1 << 0;
    /// The attribute must be there.
    pub const REPLACE: u64 = 1 << 1;
    /// It is removed; there is no value.
    pub const REMOVE: u64 = 1 << 2;
    /// All bits that version 1 knows.
    pub const ALL: u64 = (1 << 3) - 1;
}

/// What lsattr(1) shows of a file, in both forms that Linux has: those of `FS_IOC_GETFLAGS` and of `FS_IOC_FSGETXATTR`.
///
/// Layout: all fields in their order, each a u32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileAttr {
    /// `FS_*_FL`.
    pub flags: u32,
    /// `FS_XFLAG_*`.
    pub xflags: u32,
    /// Extent size hint, in bytes.
    pub extent_bytes: u32,
    /// Extents; of no meaning when it is to be set.
    pub extents: u32,
    /// Project, for quotas.
    pub project: u32,
    /// Extent size hint for copies on write, in bytes.
    pub cow_extent_bytes: u32,
}

/// [`Header::size`] in a [`Kind::SetFileAttr`].
pub mod file_attr {
    /// [`FileAttr::flags`](super::FileAttr::flags) alone.
    pub const FLAGS: u64 = 1;
    /// All but that.
    pub const XFLAGS: u64 = 2;
}

/// Bytes of an encoded [`FileAttr`].
pub const FILE_ATTR_BYTES: usize = 6 * 4;

impl FileAttr {
    /// Its bytes.
    pub fn encode(&self) -> [u8; FILE_ATTR_BYTES] {
        let mut bytes = [0; FILE_ATTR_BYTES];
        let mut w = Writer {
            bytes: &mut bytes,
            at: 0,
        };
        for value in [
            self.flags,
            self.xflags,
            self.extent_bytes,
            self.extents,
            self.project,
            self.cow_extent_bytes,
        ] {
            w.put(value.to_le_bytes());
        }
        bytes
    }

    /// `None` if there are too few bytes.
    pub fn decode(bytes: &[u8]) -> Option<FileAttr> {
        let mut r = Reader { bytes };
        Some(FileAttr {
            flags: r.u32()?,
            xflags: r.u32()?,
            extent_bytes: r.u32()?,
            extents: r.u32()?,
            project: r.u32()?,
            cow_extent_bytes: r.u32()?,
        })
    }
}

/// What statfs(2) shows of a file system.
///
/// Layout: all fields in their order, each a u64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Bytes of a block, 1 to 2^30.
    pub block_bytes: u64,
    /// Blocks in all.
    pub blocks: u64,
    /// Blocks that are free.
    pub free: u64,
    /// Blocks that are free for users.
    pub available: u64,
    /// Inodes in all.
    pub files: u64,
    /// Inodes that are free.
    pub files_free: u64,
}

/// Bytes of encoded [`Space`].
pub const SPACE_BYTES: usize = 6 * 8;

impl Space {
    /// Its bytes.
    pub fn encode(&self) -> [u8; SPACE_BYTES] {
        let mut bytes = [0; SPACE_BYTES];
        let mut w = Writer {
            bytes: &mut bytes,
            at: 0,
        };
        for value in [
            self.block_bytes,
            self.blocks,
            self.free,
            self.available,
            self.files,
            self.files_free,
        ] {
            w.put(value.to_le_bytes());
        }
        bytes
    }

    /// `None` if there are too few bytes or a field is out of its range.
    pub fn decode(bytes: &[u8]) -> Option<Space> {
        let mut r = Reader { bytes };
        let space = Space {
            block_bytes: r.u64()?,
            blocks: r.u64()?,
            free: r.u64()?,
            available: r.u64()?,
            files: r.u64()?,
            files_free: r.u64()?,
        };
        (1..=1 << 30).contains(&space.block_bytes).then_some(space)
    }
}

/// One entry of a directory, in the reply to [`Kind::List`].
///
/// Layout: position behind it u64, inode number u64, type (as in `linux_dirent64`) u16, bytes of the name u16, the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Where to go on listing.
    pub next: u64,
    /// Inode number at the origin.
    pub ino: u64,
    /// `DT_DIR` and so on.
    pub kind: u16,
    /// 1 to 255 bytes without NUL and `/`.
    pub name: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Bytes before the name.
    pub const HEAD_BYTES: usize = 20;

    /// Takes the first entry; gives what follows it. `None` if that is not one.
    pub fn decode(bytes: &'a [u8]) -> Option<(Entry<'a>, &'a [u8])> {
        let mut r = Reader { bytes };
        let (next, ino, kind) = (r.u64()?, r.u64()?, r.u16()?);
        let length = usize::from(r.u16()?);
        let name = r.take(length)?;
        let sane = (1..=super::limits::MAX_NAME).contains(&length)
            && next <= MAX_SIZE
            && !name.iter().any(|byte| matches!(byte, 0 | b'/'));
        sane.then_some((
            Entry {
                next,
                ino,
                kind,
                name,
            },
            r.bytes,
        ))
    }

    /// The bytes before the name.
    pub fn head(&self) -> [u8; Entry::HEAD_BYTES] {
        let mut bytes = [0; Entry::HEAD_BYTES];
        let mut w = Writer {
            bytes: &mut bytes,
            at: 0,
        };
        w.put(self.next.to_le_bytes());
        w.put(self.ino.to_le_bytes());
        w.put(self.kind.to_le_bytes());
        w.put((self.name.len() as u16).to_le_bytes());
        bytes
    }
}
