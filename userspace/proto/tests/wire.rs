// SPDX-License-Identifier: GPL-2.0

//! The wire format: what is encoded is decoded, and no bytes whatever do harm.

use proptest::collection::vec;
use proptest::prelude::*;
use vremote_proto::envelope::Malformed;
use vremote_proto::limits::*;
use vremote_proto::reliable::Assembly;
use vremote_proto::secure::TAG_BYTES;
use vremote_proto::wire::*;

/// Any header that may be sent. `length` is that of the payload, of which this is the first fragment.
fn header() -> impl Strategy<Value = Header> {
    let session = (
        0..Kind::ALL.len(),
        0..=flags::ALL,
        1..=u64::MAX,
        1..=u64::MAX,
        0..=MAX_SEQ,
        1..=u64::MAX,
    );
    let place = (
        any::<u64>(),
        0..MAX_PAGES - MAX_BATCH_PAGES as u64,
        0..=MAX_SIZE,
    );
    let payload = (
        0..=PAGE_BYTES as u32,
        1..=MAX_BATCH_PAGES as u32,
        256..=FRAGMENT_BYTES as u16,
        0..4096_u16,
    );
    (session, place, payload).prop_map(
        |(
            (kind, flags, epoch, peer_epoch, seq, request),
            (file, index, size),
            (length, count, fragment, status),
        )| {
            Header {
                kind: Kind::ALL[kind],
                flags,
                epoch,
                peer_epoch,
                seq,
                request,
                file,
                index,
                size,
                length,
                offset: 0,
                count,
                fragment,
                status,
            }
        },
    )
}

/// The datagrams of a message.
fn datagrams(header: &Header, payload: &[u8]) -> Vec<Vec<u8>> {
    let fragment = usize::from(header.fragment);
    let pieces = payload.len().div_ceil(fragment).max(1);
    (0..pieces)
        .map(|piece| {
            let offset = piece * fragment;
            let header = Header {
                offset: offset as u32,
                length: payload.len() as u32,
                ..*header
            };
            let mut datagram = header.encode().to_vec();
            datagram.extend_from_slice(&payload[offset..payload.len().min(offset + fragment)]);
            datagram
        })
        .collect()
}

proptest! {
    #[test]
    fn a_header_arrives_as_it_was_sent(header in header(), fill: u8, padding in 0..32_usize) {
        let fragment = header.fragment_bytes();
        let mut datagram = header.encode().to_vec();
        datagram.resize(HEADER_BYTES + fragment, fill);
        datagram.resize(HEADER_BYTES + fragment + padding, !fill);
        let (arrived, bytes) = Header::decode(&datagram).unwrap();
        prop_assert_eq!(arrived, header);
        prop_assert_eq!(bytes, &vec![fill; fragment][..]);
    }

    #[test]
    fn decoding_never_panics(bytes in vec(any::<u8>(), 0..256)) {
        _ = Header::decode(&bytes);
        _ = Credentials::decode(&bytes).map(|(credentials, _)| credentials.groups().count());
        _ = Attributes::decode(&bytes);
    }

    #[test]
    fn decoding_a_spoilt_header_never_panics(
        header in header(),
        spoilt in vec((0..HEADER_BYTES, any::<u8>()), 1..4),
        length in 0..2 * HEADER_BYTES,
    ) {
        let mut datagram = header.encode().to_vec();
        for (at, byte) in spoilt {
            datagram[at] = byte;
        }
        datagram.resize(length, 0);
        if let Ok((header, bytes)) = Header::decode(&datagram) {
            prop_assert!(bytes.len() <= FRAGMENT_BYTES);
            let mut assembly = Assembly::new(&header);
            let range = assembly.accept(&header).unwrap();
            prop_assert_eq!(range.len(), bytes.len());
            prop_assert!(range.end <= MAX_PAYLOAD);
        }
    }

    #[test]
    fn a_cut_datagram_is_truncated(header in header(), cut in 1..HEADER_BYTES + PAGE_BYTES) {
        let mut datagram = header.encode().to_vec();
        datagram.resize(HEADER_BYTES + header.fragment_bytes(), 0);
        let left = datagram.len().saturating_sub(cut);
        prop_assert_eq!(Header::decode(&datagram[..left]), Err(Malformed::Truncated));
    }

    #[test]
    fn fragments_in_any_order_give_the_payload(
        payload in vec(any::<u8>(), 0..=MAX_PAYLOAD),
        fragment in 256..=FRAGMENT_BYTES as u16,
        order in vec(any::<prop::sample::Index>(), 0..64),
        padding in 0..64_usize,
    ) {
        let header = Header { kind: Kind::Write, epoch: 1, peer_epoch: 2, request: 3, fragment, ..Header::default() };
        let mut sent = datagrams(&header, &payload);
        // Some twice, all of them at least once, in an order of their own; each with padding.
        let some: Vec<_> = order.iter().map(|index| index.get(&sent).clone()).collect();
        sent.extend(some);
        let places = sent.len();
        for (at, index) in order.iter().enumerate() {
            sent.swap(at % places, index.index(places));
        }
        let mut assembly: Option<Assembly> = None;
        let mut arrived = vec![0; payload.len()];
        let mut taken = 0;
        for mut datagram in sent {
            datagram.resize(datagram.len() + padding, 0xee);
            let (header, bytes) = Header::decode(&datagram).unwrap();
            let assembly = assembly.get_or_insert_with(|| Assembly::new(&header));
            if let Some(range) = assembly.accept(&header) {
                prop_assert!(!assembly.complete() || taken + range.len() == payload.len());
                taken += range.len();
                arrived[range].copy_from_slice(bytes);
            }
        }
        prop_assert!(assembly.unwrap().complete());
        prop_assert_eq!(taken, payload.len());
        prop_assert_eq!(arrived, payload);
    }

    #[test]
    fn a_message_with_a_missing_fragment_is_not_complete(
        length in 1..=MAX_PAYLOAD,
        missing in any::<prop::sample::Index>(),
    ) {
        let header = Header { kind: Kind::Write, epoch: 1, peer_epoch: 2, request: 3, ..Header::default() };
        let mut sent = datagrams(&header, &vec![0; length]);
        let first = Header::decode(&sent[0]).unwrap().0;
        sent.remove(missing.index(sent.len()));
        let mut assembly = Assembly::new(&first);
        for datagram in sent {
            assembly.accept(&Header::decode(&datagram).unwrap().0);
            prop_assert!(!assembly.complete());
        }
    }

    #[test]
    fn credentials_and_any_path_arrive(
        uid: u32,
        gid: u32,
        groups in vec(any::<u32>(), 0..=MAX_GROUPS),
        path in vec(any::<u8>(), 0..=MAX_PATH),
    ) {
        let mut payload = vec![0; Credentials::encoded_bytes(groups.len()) + path.len()];
        let at = Credentials::encode(uid, gid, &groups, &mut payload).unwrap();
        payload[at..].copy_from_slice(&path);
        let (credentials, rest) = Credentials::decode(&payload).unwrap();
        prop_assert_eq!((credentials.uid, credentials.gid), (uid, gid));
        prop_assert_eq!(credentials.groups().collect::<Vec<_>>(), groups);
        prop_assert_eq!(rest, path);
        prop_assert!(Credentials::decode(&payload[..at - 1]).is_none());
    }

    #[test]
    fn attributes_arrive(
        numbers: [u32; 8],
        size in 0..=MAX_SIZE,
        seconds: i64,
        nanoseconds in 0..1_000_000_000_u32,
    ) {
        let time = Time { seconds, nanoseconds };
        let [ino, generation, device, blocks, mode, nlink, uid, gid] = numbers;
        let attributes = Attributes {
            ino: ino.into(),
            generation: generation.into(),
            device: device.into(),
            size,
            blocks: blocks.into(),
            mode,
            nlink,
            uid,
            gid,
            atime: time,
            mtime: Time::default(),
            ctime: time,
        };
        let bytes = attributes.encode();
        prop_assert_eq!(Attributes::decode(&bytes), Some(attributes));
        prop_assert_eq!(Attributes::decode(&bytes[1..]), None);
    }

    #[test]
    fn changes_arrive(
        valid in 0..=change::ALL,
        mode in 0..0o10000_u32,
        ids: [u32; 2],
        seconds: i64,
        nanoseconds in 0..1_000_000_000_u32,
    ) {
        let [uid, gid] = ids;
        let atime = Time { seconds, nanoseconds };
        let change = Change { valid, mode, uid, gid, atime, mtime: Time::default() };
        let bytes = change.encode();
        prop_assert_eq!(Change::decode(&bytes), Some(change));
        prop_assert_eq!(Change::decode(&bytes[1..]), None);
        prop_assert_eq!(Change::decode(&Change { valid: valid | (1 << 20), ..change }.encode()), None);
        prop_assert_eq!(Change::decode(&Change { mode: mode | 0o10000, ..change }.encode()), None);
    }

    #[test]
    fn space_arrives(numbers: [u64; 5], block_bytes in 1..=1_u64 << 30) {
        let [blocks, free, available, files, files_free] = numbers;
        let space = Space { block_bytes, blocks, free, available, files, files_free };
        prop_assert_eq!(Space::decode(&space.encode()), Some(space));
        prop_assert_eq!(Space::decode(&space.encode()[1..]), None);
        prop_assert_eq!(Space::decode(&Space { block_bytes: 0, ..space }.encode()), None);
    }

    #[test]
    fn file_attributes_arrive(numbers: [u32; 6], cut in 0..FILE_ATTR_BYTES) {
        let [flags, xflags, extent_bytes, extents, project, cow_extent_bytes] = numbers;
        let attr = FileAttr { flags, xflags, extent_bytes, extents, project, cow_extent_bytes };
        prop_assert_eq!(FileAttr::decode(&attr.encode()), Some(attr));
        prop_assert_eq!(FileAttr::decode(&attr.encode()[..cut]), None);
    }

    #[test]
    fn locks_arrive(
        numbers: (u64, u64, u64),
        pid in 0..=i32::MAX as u32,
        kind in prop::sample::select(vec![LockKind::Unlock, LockKind::Read, LockKind::Write]),
        bits: (bool, bool, bool),
        garbage: Vec<u8>,
    ) {
        let (owner, one, other) = (numbers.0, numbers.1 & MAX_SIZE, numbers.2 & MAX_SIZE);
        let (start, end) = (one.min(other), one.max(other));
        let (flock, test, wait) = (bits.0, bits.1 && !bits.0, bits.2);
        let lock = Lock { owner, start, end, pid, kind, flock, test, wait };
        let bytes = lock.encode();
        prop_assert_eq!(Lock::decode(&bytes), Some(lock));
        prop_assert_eq!(Lock::decode(&bytes[1..]), None);
        prop_assert_eq!(Lock::decode(&Lock { flock: true, test: true, ..lock }.encode()), None);
        prop_assert_eq!(Lock::decode(&Lock { end: MAX_SIZE + 1, ..lock }.encode()), None);
        if start < end {
            prop_assert_eq!(Lock::decode(&Lock { start: end, end: start, ..lock }.encode()), None);
        }
        for at in 28..LOCK_BYTES {
            let mut wrong = bytes;
            wrong[at] = 0xff;
            prop_assert_eq!(Lock::decode(&wrong), None);
        }
        // Whatever comes is a lock within its limits, or none.
        if let Some(lock) = Lock::decode(&garbage) {
            prop_assert!(lock.start <= lock.end && lock.end <= MAX_SIZE);
        }
    }

    #[test]
    fn entries_arrive(
        entries in prop::collection::vec((0..=MAX_SIZE, any::<u64>(), any::<u16>(), "[^/\\x00]{1,60}"), 0..20),
        garbage: Vec<u8>,
    ) {
        let mut bytes = Vec::new();
        for (next, ino, kind, name) in &entries {
            let entry = Entry { next: *next, ino: *ino, kind: *kind, name: name.as_bytes() };
            bytes.extend_from_slice(&entry.head());
            bytes.extend_from_slice(name.as_bytes());
        }
        let mut rest = &bytes[..];
        for (next, ino, kind, name) in &entries {
            let (entry, behind) = Entry::decode(rest).unwrap();
            prop_assert_eq!(entry, Entry { next: *next, ino: *ino, kind: *kind, name: name.as_bytes() });
            rest = behind;
        }
        prop_assert!(rest.is_empty());
        prop_assert_eq!(Entry::decode(&[]), None);
        // Whatever comes is an entry of so many bytes, or none.
        if let Some((entry, behind)) = Entry::decode(&garbage) {
            prop_assert_eq!(Entry::HEAD_BYTES + entry.name.len() + behind.len(), garbage.len());
        }
    }

    #[test]
    fn extended_attributes_arrive(
        name in vec(1..=u8::MAX, 1..=MAX_NAME),
        value in vec(any::<u8>(), 0..300),
        garbage: Vec<u8>,
    ) {
        let sent = Xattr { name: &name, value: &value };
        let bytes = [&sent.head().unwrap()[..], &name, &value].concat();
        prop_assert_eq!(Xattr::decode(&bytes), Some(sent));
        prop_assert_eq!(Xattr::decode(&bytes[..name.len()]), None);
        prop_assert_eq!(Xattr { name: b"", value: &value }.head(), None);
        prop_assert_eq!(Xattr { name: &[b'x'; 256], value: &value }.head(), None);
        // Whatever comes is one with so many bytes, or none.
        if let Some(xattr) = Xattr::decode(&garbage) {
            prop_assert_eq!(1 + xattr.name.len() + xattr.value.len(), garbage.len());
            prop_assert!(!xattr.name.is_empty() && !xattr.name.contains(&0));
        }
    }

    #[test]
    fn names_are_cut_where_the_header_says(count: u32, bytes: Vec<u8>) {
        let header = Header { count, ..Header::new(Kind::Rename) };
        match Names::decode(&header, &bytes) {
            Some(names) => prop_assert_eq!([names.first, names.second].concat(), bytes),
            None => prop_assert!(count as usize > bytes.len()),
        }
    }
}

/// The largest value with the longest path is what a message must have room for.
#[test]
fn the_largest_extended_attribute() {
    let bytes = [&[1, b'a'][..], &vec![0; MAX_XATTR]].concat();
    assert_eq!(Xattr::decode(&bytes).unwrap().value.len(), MAX_XATTR);
    assert_eq!(
        Xattr::decode(&[&bytes[..], &[0]].concat()),
        None,
        "a value that is too large"
    );
    let most = Credentials::encoded_bytes(MAX_GROUPS) + MAX_PATH + 1 + MAX_NAME + MAX_XATTR;
    assert!(most <= MAX_PAYLOAD);
}

#[test]
fn every_kind_has_its_number_and_name() {
    for (index, kind) in Kind::ALL.into_iter().enumerate() {
        assert_eq!(Kind::from_u8(kind as u8), Some(kind));
        assert_eq!(kind.index(), index);
        assert_eq!(kind.name(), format!("{kind:?}"));
    }
    assert_eq!((0..=255).filter_map(Kind::from_u8).count(), Kind::ALL.len());
}

#[test]
fn fields_have_the_places_that_version_1_gave_them() {
    let header = Header {
        kind: Kind::Put,
        flags: 0x0201,
        epoch: 0x11,
        peer_epoch: 0x12,
        seq: 0x13,
        request: 0x14,
        file: 0x15,
        index: 0x16,
        size: 0x17,
        length: 0x18,
        offset: 0x19,
        count: 0x1a,
        fragment: 0x1b,
        status: 0x1c,
    };
    let mut expected = b"VRMT\x01\x00\x3c\x00".to_vec();
    for number in [0x12, 0x11_u64] {
        expected.extend_from_slice(&number.to_le_bytes());
    }
    expected.extend_from_slice(&[0; TAG_BYTES]);
    expected.extend_from_slice(b"\x26\x00\x01\x02\x1c\x00\x1b\x00");
    for number in 0x13..=0x17_u64 {
        expected.extend_from_slice(&number.to_le_bytes());
    }
    for number in 0x18..=0x1a_u32 {
        expected.extend_from_slice(&number.to_le_bytes());
    }
    assert_eq!(header.encode()[..], expected);
}

/// The longest payload with the shortest fragments is what an assembly must have room for.
#[test]
fn the_shortest_fragments_of_the_longest_message() {
    let header = Header {
        kind: Kind::Write,
        epoch: 1,
        peer_epoch: 2,
        request: 3,
        fragment: 256,
        ..Header::default()
    };
    let sent = datagrams(&header, &vec![0; MAX_PAYLOAD]);
    assert_eq!(sent.len(), MAX_PAYLOAD / 256);
    let mut assembly = Assembly::new(&Header::decode(sent.last().unwrap()).unwrap().0);
    for datagram in sent.iter().rev() {
        assert!(!assembly.complete());
        assembly
            .accept(&Header::decode(datagram).unwrap().0)
            .unwrap();
    }
    assert!(assembly.complete());
}

/// A second message under the same request id, cut otherwise, does not get into the first.
#[test]
fn a_fragment_of_another_message_is_refused() {
    let header = Header {
        kind: Kind::Put,
        epoch: 1,
        peer_epoch: 2,
        request: 3,
        length: 4096,
        ..Header::default()
    };
    let mut assembly = Assembly::new(&header);
    assert_eq!(
        assembly.accept(&Header {
            length: 4095,
            ..header
        }),
        None
    );
    assert_eq!(
        assembly.accept(&Header {
            fragment: 1000,
            ..header
        }),
        None
    );
    assert_eq!(assembly.accept(&header), Some(0..1366));
    assert_eq!(assembly.accept(&header), None);
    assert_eq!(
        assembly.accept(&Header {
            offset: 2732,
            ..header
        }),
        Some(2732..4096)
    );
    assert_eq!(
        assembly.accept(&Header {
            offset: 1366,
            ..header
        }),
        Some(1366..2732)
    );
    assert!(assembly.complete());
}
