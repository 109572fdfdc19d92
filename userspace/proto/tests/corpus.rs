// SPDX-License-Identifier: GPL-2.0

//! Datagrams on file, good and hostile: `tests/corpus`. The first word of a file's name says what becomes of it: `ok`, or
//! the reason for which it is dropped; `crash`: an input of the fuzzer, for any of its targets, that once failed. The fuzzer
//! starts from these files.
//!
//! The files are made from the table here: after a change of it, run this test once with `VREMOTE_WRITE_CORPUS=1`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use vremote_proto::envelope::Malformed;
use vremote_proto::limits::*;
use vremote_proto::wire::*;

fn directory() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "corpus"]
        .iter()
        .collect()
}

/// A header that is in order, for everything but the session.
fn good(kind: Kind) -> Header {
    Header {
        epoch: 0x0123_4567_89ab_cdef,
        peer_epoch: 0xfedc_ba98_7654_3210,
        request: 7,
        file: 3,
        ..Header::new(kind)
    }
}

fn datagram(header: Header, payload: &[u8]) -> Vec<u8> {
    let header = Header {
        length: payload.len() as u32,
        ..header
    };
    let mut bytes = header.encode().to_vec();
    let start = header.offset as usize;
    bytes.extend_from_slice(&payload[start..start + header.fragment_bytes()]);
    bytes
}

fn with_path(path: &[u8]) -> Vec<u8> {
    let groups = [4, 20, 24, 1000];
    let mut payload = vec![0; Credentials::encoded_bytes(groups.len())];
    Credentials::encode(1000, 1000, &groups, &mut payload).unwrap();
    payload.extend_from_slice(path);
    payload
}

fn two(kind: Kind, first: &[u8], second: &[u8]) -> Vec<u8> {
    let header = Header {
        count: first.len() as u32,
        ..good(kind)
    };
    datagram(header, &[&with_path(first), second].concat())
}

/// A header with as much behind it as it says.
fn whole(header: Header) -> Vec<u8> {
    let mut bytes = header.encode().to_vec();
    bytes.resize(bytes.len() + header.fragment_bytes(), 0);
    bytes
}

fn spoilt(at: usize, byte: u8) -> Vec<u8> {
    let mut bytes = datagram(good(Kind::GetAttr), &[]);
    bytes[at] = byte;
    bytes
}

fn cases() -> BTreeMap<String, Vec<u8>> {
    let page: Vec<u8> = (0..PAGE_BYTES).map(|at| (at % 251) as u8).collect();
    let attributes = Attributes {
        ino: 42,
        size: 4096,
        blocks: 8,
        mode: 0o100_644,
        nlink: 1,
        mtime: Time {
            seconds: 1_700_000_000,
            nanoseconds: 999_999_999,
        },
        ..Attributes::default()
    };
    let bare = |header: Header| datagram(header, &[]);
    let get = |count, index| {
        bare(Header {
            count,
            index,
            ..good(Kind::GetShared)
        })
    };
    let mut cases: Vec<(&str, Vec<u8>)> = vec![
        (
            "ok-hello",
            datagram(
                Header {
                    peer_epoch: 0,
                    request: 0,
                    ..good(Kind::Hello)
                },
                b"node1",
            ),
        ),
        ("ok-hello-ack", datagram(good(Kind::HelloAck), b"node2")),
        (
            "ok-reply",
            datagram(
                Header {
                    seq: 9,
                    size: 4096,
                    ..good(Kind::Reply)
                },
                &attributes.encode(),
            ),
        ),
        (
            "ok-reply-error",
            bare(Header {
                status: 2,
                ..good(Kind::Reply)
            }),
        ),
        (
            "ok-lookup",
            datagram(good(Kind::Lookup), &with_path(b"srv/data/file")),
        ),
        (
            "ok-lookup-any-bytes",
            datagram(good(Kind::Lookup), &with_path(b"a,b/%s%n/\n\xff\xfe/,,,")),
        ),
        (
            "ok-lookup-no-path",
            datagram(good(Kind::Lookup), &with_path(b"")),
        ),
        (
            "ok-lookup-longest-path",
            datagram(good(Kind::Lookup), &with_path(&[b'x'; 1300])),
        ),
        (
            "ok-lookup-cut-credentials",
            datagram(good(Kind::Lookup), &with_path(b"")[..20]),
        ),
        (
            "ok-open",
            datagram(
                Header {
                    index: 0o102,
                    size: 0o644,
                    ..good(Kind::Open)
                },
                &with_path(b"new file"),
            ),
        ),
        (
            "ok-close",
            bare(Header {
                flags: flags::WRITE,
                ..good(Kind::Close)
            }),
        ),
        ("ok-getattr", bare(good(Kind::GetAttr))),
        (
            "ok-setsize",
            bare(Header {
                size: MAX_SIZE,
                ..good(Kind::SetSize)
            }),
        ),
        (
            "ok-allocate",
            bare(Header {
                index: 4096,
                size: 1 << 20,
                count: 3,
                ..good(Kind::Allocate)
            }),
        ),
        (
            "ok-allocate-beyond-the-end",
            bare(Header {
                index: MAX_SIZE,
                size: MAX_SIZE,
                count: u32::MAX,
                ..good(Kind::Allocate)
            }),
        ),
        (
            "ok-write",
            datagram(
                Header {
                    index: 4090,
                    ..good(Kind::Write)
                },
                b"some\0bytes,%s",
            ),
        ),
        (
            "ok-write-append",
            datagram(
                Header {
                    flags: flags::APPEND,
                    ..good(Kind::Write)
                },
                &[0xff; 100],
            ),
        ),
        (
            "ok-write-touched",
            bare(Header {
                flags: flags::TOUCHED,
                ..good(Kind::Write)
            }),
        ),
        (
            "ok-write-last-byte",
            datagram(
                Header {
                    index: MAX_SIZE - 1,
                    ..good(Kind::Write)
                },
                b"x",
            ),
        ),
        (
            "ok-write-longest",
            datagram(good(Kind::Write), &[0; MAX_WRITE]),
        ),
        (
            "ok-commit",
            bare(Header {
                flags: flags::DATASYNC,
                ..good(Kind::Commit)
            }),
        ),
        ("ok-list", datagram(good(Kind::List), &with_path(b"/srv"))),
        (
            "ok-read-link",
            datagram(good(Kind::ReadLink), &with_path(b"/srv/link")),
        ),
        (
            "ok-remove",
            datagram(good(Kind::Remove), &with_path(b"/srv/file")),
        ),
        ("ok-make", two(Kind::Make, b"/srv/link", b"target")),
        ("ok-link", two(Kind::Link, b"/srv/file", b"/srv/other")),
        ("ok-rename", two(Kind::Rename, b"/srv/file", b"/srv/other")),
        (
            "ok-set-attr",
            two(Kind::SetAttr, b"/srv/file", &Change::default().encode()),
        ),
        (
            "ok-get-xattr",
            two(Kind::GetXattr, b"/srv/file", b"\x0buser.a name"),
        ),
        (
            "ok-set-xattr",
            two(Kind::SetXattr, b"/srv/file", b"\x06user.aany\0bytes"),
        ),
        (
            "ok-set-xattr-cut-name",
            two(Kind::SetXattr, b"/srv/file", b"\xffuser.a"),
        ),
        (
            "ok-set-xattr-unknown-bits",
            datagram(
                Header {
                    size: MAX_SIZE,
                    count: 9,
                    ..good(Kind::SetXattr)
                },
                &with_path(b"/srv/file\x06user.a"),
            ),
        ),
        (
            "ok-list-xattr",
            datagram(good(Kind::ListXattr), &with_path(b"/srv/file")),
        ),
        (
            "ok-stat-fs",
            datagram(good(Kind::StatFs), &with_path(b"/srv/file")),
        ),
        (
            "ok-get-file-attr",
            datagram(good(Kind::GetFileAttr), &with_path(b"/srv/file")),
        ),
        (
            "ok-set-file-attr",
            datagram(
                Header {
                    size: file_attr::FLAGS,
                    count: 9,
                    ..good(Kind::SetFileAttr)
                },
                &[&with_path(b"/srv/file")[..], &FileAttr::default().encode()].concat(),
            ),
        ),
        (
            "ok-set-file-attr-cut",
            datagram(
                Header {
                    size: MAX_SIZE,
                    count: 9,
                    ..good(Kind::SetFileAttr)
                },
                &[&with_path(b"/srv/file")[..], &[0xff; FILE_ATTR_BYTES - 1]].concat(),
            ),
        ),
        ("ok-working", bare(good(Kind::Working))),
        (
            "ok-names-cut-behind-the-end",
            datagram(
                Header {
                    count: u32::MAX,
                    ..good(Kind::Rename)
                },
                &with_path(b"/srv/file"),
            ),
        ),
        (
            "ok-lock",
            datagram(
                good(Kind::Lock),
                &Lock {
                    end: MAX_SIZE,
                    kind: LockKind::Write,
                    wait: true,
                    ..Lock::default()
                }
                .encode(),
            ),
        ),
        ("ok-lock-without-a-lock", bare(good(Kind::Lock))),
        ("ok-unlocked", bare(good(Kind::Unlocked))),
        ("ok-get-shared", get(32, 100)),
        (
            "ok-get-shared-missing",
            datagram(
                Header {
                    count: 16,
                    ..good(Kind::GetShared)
                },
                &[0x55, 0xaa],
            ),
        ),
        ("ok-get-shared-last-page", get(1, MAX_PAGES - 1)),
        (
            "ok-get-modified",
            bare(Header {
                seq: 5,
                count: 1,
                flags: flags::HAVE,
                ..good(Kind::GetModified)
            }),
        ),
        (
            "ok-grant-upgrade",
            bare(Header {
                seq: 6,
                size: 1 << 20,
                flags: flags::WRITE,
                ..good(Kind::Grant)
            }),
        ),
        (
            "ok-invalidate",
            bare(Header {
                seq: 7,
                index: 12,
                ..good(Kind::Invalidate)
            }),
        ),
        (
            "ok-recall",
            bare(Header {
                seq: 8,
                flags: flags::KEEP,
                ..good(Kind::Recall)
            }),
        ),
        (
            "ok-ack",
            bare(Header {
                seq: 8,
                ..good(Kind::Ack)
            }),
        ),
        (
            "ok-put",
            datagram(
                Header {
                    seq: 6,
                    flags: flags::KEEP,
                    ..good(Kind::Put)
                },
                &page[..100],
            ),
        ),
        (
            "ok-largest-seq",
            bare(Header {
                seq: MAX_SEQ,
                ..good(Kind::Ack)
            }),
        ),
        ("truncated-empty", Vec::new()),
        ("truncated-one-byte", b"V".to_vec()),
        ("truncated-text", b"test.txt,4096,0,r".to_vec()),
        (
            "truncated-header",
            bare(good(Kind::GetAttr))[..HEADER_BYTES - 1].to_vec(),
        ),
        (
            "truncated-fragment",
            datagram(good(Kind::Put), &page[..100])[..HEADER_BYTES + 99].to_vec(),
        ),
        (
            "truncated-no-fragment",
            datagram(good(Kind::Put), &page)[..HEADER_BYTES].to_vec(),
        ),
        (
            "magic-text",
            [b"/root/test.txt,4096,0,w,".as_slice(), &[b'A'; 200]].concat(),
        ),
        ("magic-zeros", vec![0; 200]),
        ("magic-other-order", [b"TMRV".as_slice(), &[1; 92]].concat()),
        ("version-0", spoilt(4, 0)),
        ("version-2", spoilt(4, 2)),
        ("version-255", spoilt(4, 255)),
        ("kind-0", spoilt(40, 0)),
        ("kind-4", spoilt(40, 4)),
        ("kind-255", spoilt(40, 255)),
        ("kind-sealed", spoilt(5, 4)),
        ("kind-unknown-envelope", spoilt(5, 5)),
        ("field-first-with-more", spoilt(5, 1)),
        ("field-zero", spoilt(41, 1)),
        ("truncated-long-text", spoilt(6, 61)),
        ("truncated-short-text", spoilt(6, 59)),
        (
            "field-flags",
            bare(Header {
                flags: flags::ALL + 1,
                ..good(Kind::GetAttr)
            }),
        ),
        (
            "field-epoch",
            bare(Header {
                epoch: 0,
                ..good(Kind::GetAttr)
            }),
        ),
        (
            "field-peer-epoch",
            bare(Header {
                peer_epoch: 0,
                ..good(Kind::GetAttr)
            }),
        ),
        (
            "field-request",
            bare(Header {
                request: 0,
                ..good(Kind::GetAttr)
            }),
        ),
        (
            "field-seq",
            bare(Header {
                seq: MAX_SEQ + 1,
                ..good(Kind::Ack)
            }),
        ),
        (
            "field-size",
            bare(Header {
                size: 1 << 63,
                ..good(Kind::SetSize)
            }),
        ),
        (
            "field-status",
            bare(Header {
                status: 4096,
                ..good(Kind::Reply)
            }),
        ),
        (
            "field-fragment-zero",
            bare(Header {
                fragment: 0,
                ..good(Kind::GetAttr)
            }),
        ),
        (
            "field-fragment-short",
            bare(Header {
                fragment: 255,
                ..good(Kind::GetAttr)
            }),
        ),
        (
            "field-fragment-long",
            bare(Header {
                fragment: FRAGMENT_BYTES as u16 + 1,
                ..good(Kind::GetAttr)
            }),
        ),
        (
            "field-offset-between",
            whole(Header {
                offset: 100,
                length: 4096,
                ..good(Kind::Put)
            }),
        ),
        (
            "field-offset-beyond",
            whole(Header {
                offset: 4098,
                length: 4096,
                ..good(Kind::Put)
            }),
        ),
        (
            "field-offset-largest",
            whole(Header {
                offset: u32::MAX,
                length: 4096,
                ..good(Kind::Put)
            }),
        ),
        (
            "field-length",
            whole(Header {
                length: MAX_PAYLOAD as u32 + 1,
                ..good(Kind::Write)
            }),
        ),
        (
            "field-length-largest",
            whole(Header {
                length: u32::MAX,
                ..good(Kind::Write)
            }),
        ),
        (
            "field-put-beyond-page",
            whole(Header {
                length: PAGE_BYTES as u32 + 1,
                ..good(Kind::Put)
            }),
        ),
        (
            "field-grant-beyond-page",
            whole(Header {
                length: PAGE_BYTES as u32 + 1,
                ..good(Kind::Grant)
            }),
        ),
        ("field-count-zero", get(0, 0)),
        ("field-count-many", get(MAX_BATCH_PAGES as u32 + 1, 0)),
        ("field-count-largest", get(u32::MAX, 0)),
        ("field-page-beyond", get(1, MAX_PAGES)),
        ("field-page-count-beyond", get(2, MAX_PAGES - 1)),
        (
            "field-page-largest",
            bare(Header {
                index: u64::MAX,
                ..good(Kind::Invalidate)
            }),
        ),
        (
            "field-write-beyond",
            datagram(
                Header {
                    index: MAX_SIZE,
                    ..good(Kind::Write)
                },
                b"x",
            ),
        ),
        (
            "field-write-largest",
            datagram(
                Header {
                    index: u64::MAX,
                    ..good(Kind::Write)
                },
                b"x",
            ),
        ),
    ];
    for (name, offset) in [
        ("ok-grant-0", 0),
        ("ok-grant-1", 1366),
        ("ok-grant-2", 2732),
    ] {
        cases.push((
            name,
            datagram(
                Header {
                    seq: 6,
                    flags: flags::DATA,
                    offset,
                    ..good(Kind::Grant)
                },
                &page,
            ),
        ));
    }
    let mut padded = datagram(good(Kind::Put), &page[..10]);
    padded.resize(DATAGRAM_BYTES, 0);
    cases.push(("ok-padded", padded));
    cases
        .into_iter()
        .map(|(name, bytes)| (name.to_string(), bytes))
        .collect()
}

fn outcome(bytes: &[u8]) -> &'static str {
    match Header::decode(bytes) {
        Ok(_) => "ok",
        Err(Malformed::Truncated) => "truncated",
        Err(Malformed::Magic) => "magic",
        Err(Malformed::Version) => "version",
        Err(Malformed::Kind) => "kind",
        Err(Malformed::Field) => "field",
    }
}

#[test]
fn files_are_those_of_the_table() {
    for (name, bytes) in cases() {
        let file = directory().join(&name);
        if std::env::var_os("VREMOTE_WRITE_CORPUS").is_some() {
            std::fs::write(&file, &bytes).unwrap();
        }
        assert_eq!(std::fs::read(&file).expect(&name), bytes, "{name}");
    }
}

#[test]
fn every_file_meets_what_its_name_says() {
    let mut count = 0;
    for entry in std::fs::read_dir(directory()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        match name.split('-').next() {
            Some("crash") => _ = outcome(&bytes),
            word => assert_eq!(Some(outcome(&bytes)), word, "{name}"),
        }
        // The payload of a hostile message may be taken for anything.
        if let Ok((header, fragment)) = Header::decode(&bytes) {
            if let Some((credentials, rest)) = Credentials::decode(fragment) {
                _ = credentials.groups().count();
                _ = Names::decode(&header, rest).and_then(|names| Change::decode(names.second));
                _ = Names::decode(&header, rest).and_then(|names| Xattr::decode(names.second));
                _ = Names::decode(&header, rest).and_then(|names| FileAttr::decode(names.second));
            }
            _ = Attributes::decode(fragment);
            _ = Entry::decode(fragment);
        }
        count += 1;
    }
    assert!(count >= cases().len());
}

#[test]
fn every_kind_is_in_the_corpus() {
    let cases = cases();
    for kind in Kind::ALL {
        let here =
            |bytes: &Vec<u8>| Header::decode(bytes).is_ok_and(|(header, _)| header.kind == kind);
        assert!(cases.values().any(here), "no file with a good {kind:?}");
    }
}
