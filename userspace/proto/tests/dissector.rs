// SPDX-License-Identifier: GPL-2.0

//! Captures for the Wireshark dissector, made by the protocol's own code: packets, the key log, and what the dissector must show of each
//! packet. `scripts/tests/check/dissector` has tshark look at them; they are in `target/tmp/dissector`.

mod primitives;

use std::{collections::BTreeMap, collections::HashMap, fmt::Write as _, fs, path::PathBuf};

use primitives::Crates;
use vremote_proto::envelope::{Envelope, Greeting, Malformed, What, CLEAR_BYTES, ENVELOPE_BYTES};
use vremote_proto::limits::{FRAGMENT_BYTES, MAX_SIZE, PAGE_BYTES, PORT};
use vremote_proto::secure::{guard::cookie, pair::Pair, Key, Primitives};
use vremote_proto::wire::*;

/// A file for `scripts/tests/check/dissector`.
fn place(name: &str) -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("dissector");
    fs::create_dir_all(&directory).unwrap();
    directory.join(name)
}

/// What the dissector must show of one packet: values by field. A field has as many as the packet has datagrams, or as its payload has of
/// them.
type Row = BTreeMap<&'static str, Vec<String>>;

/// The fields that are compared, all below `vremote.`.
const FIELDS: [&str; 46] = [
    "what",
    "session",
    "counter",
    "epoch",
    "peer_epoch",
    "tag.status",
    "drop",
    "kind",
    "flags",
    "status",
    "seq",
    "request",
    "file",
    "index",
    "page",
    "size",
    "length",
    "offset",
    "count",
    "fragment.number",
    "fragment.missing",
    "request_in",
    "answer_in",
    "repeats",
    "node",
    "uid",
    "group",
    "path",
    "target",
    "data",
    "missing",
    "attr.ino",
    "attr.size",
    "attr.mode",
    "attr.mtime",
    "lock.start",
    "lock.end",
    "lock.pid",
    "lock.test",
    "entry.name",
    "entry.type",
    "xattr.name",
    "xattr.value",
    "space.free",
    "file_attr.flags",
    "file_attr.project",
];

fn show(row: &mut Row, field: &'static str, value: impl ToString) {
    assert!(FIELDS.contains(&field), "{field} would not be compared");
    row.entry(field).or_default().push(value.to_string());
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// A capture, and what is to be seen in it.
struct Capture {
    bytes: Vec<u8>,
    rows: Vec<Row>,
}

const NODES: [[u8; 4]; 2] = [[10, 77, 0, 1], [10, 77, 0, 2]];

impl Capture {
    fn new() -> Capture {
        // The format of libpcap, with microseconds; packets begin with an IP header (LINKTYPE_RAW).
        let mut bytes = Vec::new();
        for word in [0xa1b2_c3d4, 2 | (4 << 16), 0, 0, 1 << 18, 101_u32] {
            bytes.extend(word.to_le_bytes());
        }
        Capture {
            bytes,
            rows: Vec::new(),
        }
    }

    /// Number of the packet that comes next.
    fn next(&self) -> usize {
        self.rows.len() + 1
    }

    /// Adds a packet of node `from` to the other one.
    fn packet(&mut self, from: usize, payload: &[u8], row: Row) {
        let length = 28 + payload.len();
        let mut ip = vec![0x45, 0];
        ip.extend((length as u16).to_be_bytes());
        ip.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
        ip.extend(NODES[from]);
        ip.extend(NODES[1 - from]);
        for word in [PORT, PORT, 8 + payload.len() as u16, 0] {
            ip.extend(word.to_be_bytes());
        }
        let microseconds = 1000 * self.next() as u32;
        for word in [1_700_000_000, microseconds, length as u32, length as u32] {
            self.bytes.extend(word.to_le_bytes());
        }
        self.bytes.extend(ip);
        self.bytes.extend(payload);
        self.rows.push(row);
    }

    /// Writes the packets, and the table that `tshark -T fields -E header=y` is to print.
    fn write(&self, name: &str, fields: &[&str]) {
        fs::write(place(&format!("{name}.pcap")), &self.bytes).unwrap();
        let mut table = String::from("frame.number");
        for field in fields {
            write!(table, "\tvremote.{field}").unwrap();
        }
        for (at, row) in self.rows.iter().enumerate() {
            write!(table, "\n{}", at + 1).unwrap();
            for field in fields {
                let values = row.get(field).map_or(String::new(), |all| all.join(","));
                write!(table, "\t{values}").unwrap();
            }
        }
        table.push('\n');
        fs::write(place(&format!("{name}.tsv")), table).unwrap();
    }
}

/// One node's end of the session.
struct End {
    epoch: u64,
    /// What the other end calls the session by which it receives.
    session: u64,
    key: Key,
    counter: u64,
}

/// Two nodes that talk.
struct Talk {
    capture: Capture,
    ends: [End; 2],
    /// The packets of each request, by who asks, whether it is a greeting, and id. No request here needs more than one datagram.
    requests: HashMap<(usize, bool, u64), Vec<usize>>,
}

/// Columns of a payload.
type Shown<'a> = &'a [(&'static str, String)];

fn shown(field: &'static str, value: impl ToString) -> (&'static str, String) {
    (field, value.to_string())
}

impl Talk {
    /// Two nodes that have shaken hands, the first attempt having been answered with a cookie.
    fn begin() -> Talk {
        let (a, b): (Pair<Crates>, _) = (
            Pair::new(b"node1", b"node2", Key::new([7; 32])).unwrap(),
            Pair::<Crates>::new(b"node2", b"node1", Key::new([7; 32])).unwrap(),
        );
        let greetings = [(0x1111, 0xa1), (0x2222, 0xb2)].map(|(index, epoch)| Greeting {
            index: (index << 48) | 0xf0_0000_0001,
            epoch,
        });
        let mut capture = Capture::new();
        let (attempt, first) = a.first(Key::new([1; 32]), greetings[0], None);
        let place = cookie::<Crates>(&Key::new([3; 32]), 1, PORT);
        let given = b.guard.give::<Crates>(&first, place, &[5; 24]);
        let got = a.guard.take::<Crates>(&given, &attempt.mac1).unwrap();
        let (attempt, again) = a.first(Key::new([2; 32]), greetings[0], Some(&got));
        let invitation = b.invited(&again).unwrap();
        let (at_b, second) = b
            .second(invitation, &Key::new([4; 32]), greetings[1], None)
            .unwrap();
        let at_a = a.finish(&attempt, &second).unwrap();
        for (from, datagram) in [(0, &first[..]), (1, &given), (0, &again), (1, &second)] {
            let envelope = Envelope::decode(datagram, datagram.len()).unwrap();
            let mut row = Row::new();
            show_envelope(&mut row, &envelope);
            capture.packet(from, datagram, row);
        }
        Talk {
            capture,
            ends: [at_a, at_b].map(|agreed| End {
                epoch: if agreed.peer == greetings[1] {
                    0xa1
                } else {
                    0xb2
                },
                session: agreed.peer.index,
                key: agreed.send,
                counter: 0,
            }),
            requests: HashMap::new(),
        }
    }

    /// The lines of the key log, as the module writes them.
    fn key_log(&self) -> String {
        let mut log = String::from("something that is no key\n");
        for end in &self.ends {
            let (session, key) = (end.session, hex(end.key.bytes()));
            writeln!(log, "VREMOTE {session:016x} {key}").unwrap();
        }
        log
    }

    /// Seals a message's header and fragment, as the module does.
    fn seal(&mut self, from: usize, text: &[u8], row: &mut Row) -> Vec<u8> {
        let end = &mut self.ends[from];
        let envelope = Envelope {
            what: What::Message,
            length: text.len() as u16,
            session: end.session,
            counter: end.counter,
        };
        end.counter += 1;
        let clear = envelope.encode();
        let mut sealed = text.to_vec();
        let tag = Crates::seal(&end.key, envelope.counter, &clear, &mut sealed);
        show_envelope(row, &envelope);
        show(row, "tag.status", 1);
        [&clear, &tag[..], &sealed].concat()
    }

    /// The datagrams of a message, and what is to be seen of each. `payload_shown`: columns of the whole payload.
    fn datagrams(
        &mut self,
        from: usize,
        header: Header,
        payload: &[u8],
        payload_shown: Shown<'_>,
    ) -> Vec<(Vec<u8>, Row)> {
        let header = Header {
            length: payload.len() as u32,
            epoch: self.ends[from].epoch,
            peer_epoch: self.ends[1 - from].epoch,
            ..header
        };
        let size = usize::from(header.fragment);
        let count = payload.len().div_ceil(size).max(1);
        let greets = matches!(header.kind, Kind::Hello | Kind::HelloAck);
        let number = self.capture.next();
        let answers = header.kind.is_answer() || header.kind == Kind::HelloAck;
        let of = (
            if answers { 1 - from } else { from },
            greets,
            header.request,
        );
        let asked = self.requests.entry(of).or_default();
        let mut links = Vec::new();
        if answers {
            links.extend(asked.first().map(|frame| ("request_in", *frame)));
            for frame in asked.iter().filter(|_| header.kind != Kind::Working) {
                let row = &mut self.capture.rows[frame - 1];
                row.entry("answer_in")
                    .or_insert_with(|| vec![number.to_string()]);
            }
        } else if header.kind != Kind::Unlocked {
            links.extend(asked.first().map(|frame| ("repeats", *frame)));
            asked.push(number);
        }
        (0..count)
            .map(|at| {
                let header = Header {
                    offset: (at * size) as u32,
                    ..header
                };
                let fragment = &payload[at * size..payload.len().min((at + 1) * size)];
                let text = [&header.encode()[ENVELOPE_BYTES..], fragment].concat();
                let decoded = Header::decode_text(&text, header.epoch, header.peer_epoch);
                assert_eq!(decoded, Ok((header, fragment)));
                let mut row = Row::new();
                let datagram = self.seal(from, &text, &mut row);
                show_header(&mut row, &header);
                if count > 1 {
                    show(&mut row, "fragment.number", at + 1);
                    show(&mut row, "fragment.missing", count - at - 1);
                }
                for (field, frame) in &links {
                    show(&mut row, field, frame);
                }
                if at + 1 == count {
                    for (field, value) in payload_shown {
                        show(&mut row, field, value);
                    }
                }
                (datagram, row)
            })
            .collect()
    }

    /// A message, each datagram a packet.
    fn say(&mut self, from: usize, header: Header, payload: &[u8], payload_shown: Shown<'_>) {
        for (datagram, row) in self.datagrams(from, header, payload, payload_shown) {
            self.capture.packet(from, &datagram, row);
        }
    }
}

fn show_envelope(row: &mut Row, envelope: &Envelope) {
    show(row, "what", envelope.what as u8);
    let (session, counter) = (envelope.session, envelope.counter);
    if envelope.what == What::Open {
        show(row, "epoch", format_args!("{counter:#018x}"));
        show(row, "peer_epoch", format_args!("{session:#018x}"));
    } else {
        show(row, "session", format_args!("{session:#018x}"));
        show(row, "counter", counter);
    }
}

fn show_header(row: &mut Row, header: &Header) {
    show(row, "kind", header.kind as u8);
    show(row, "flags", format_args!("{:#06x}", header.flags));
    show(row, "status", header.status);
    show(row, "seq", header.seq);
    show(row, "request", header.request);
    show(row, "file", header.file);
    let of_page = matches!(
        header.kind,
        Kind::GetShared
            | Kind::GetModified
            | Kind::Grant
            | Kind::Invalidate
            | Kind::Recall
            | Kind::Ack
            | Kind::Put
    );
    show(row, if of_page { "page" } else { "index" }, header.index);
    show(row, "size", header.size);
    show(row, "length", header.length);
    show(row, "offset", header.offset);
    show(row, "count", header.count);
}

/// Credentials, then these bytes.
fn by_somebody(rest: &[u8]) -> (Vec<u8>, [(&'static str, String); 2]) {
    let mut payload = vec![0; Credentials::encoded_bytes(1)];
    Credentials::encode(1000, 1001, &[4004], &mut payload).unwrap();
    payload.extend(rest);
    (payload, [shown("uid", 1000), shown("group", 4004)])
}

fn attributes() -> (Vec<u8>, Vec<(&'static str, String)>) {
    let attributes = Attributes {
        ino: 12,
        generation: 13,
        device: 14,
        size: 8192,
        blocks: 16,
        mode: 0o100_644,
        nlink: 1,
        uid: 1000,
        gid: 1001,
        mtime: Time {
            seconds: 1_600_000_000,
            nanoseconds: 5,
        },
        ..Attributes::default()
    };
    let columns = vec![
        shown("attr.ino", 12),
        shown("attr.size", 8192),
        shown("attr.mode", 0o100_644),
        shown("attr.mtime", "Sep 13, 2020 12:26:40.000000005 UTC"),
    ];
    (attributes.encode().to_vec(), columns)
}

/// Every kind of message, with the payload that it has and the answer that it gets.
fn say_everything(talk: &mut Talk) {
    let page: Vec<u8> = (0..PAGE_BYTES).map(|at| (at % 251) as u8).collect();
    let mut request = 0;
    let mut asked = Vec::new();
    // A request of node 2, the remote.
    let mut ask = |talk: &mut Talk, header: Header, payload: &[u8], columns: Shown<'_>| {
        request += 1;
        asked.push(header.kind);
        talk.say(1, Header { request, ..header }, payload, columns);
        Header {
            request,
            file: header.file,
            ..Header::new(Kind::Reply)
        }
    };
    let file = |kind| Header {
        file: 12,
        ..Header::new(kind)
    };

    let hello = Header {
        request: 987_654_321,
        ..Header::new(Kind::Hello)
    };
    talk.say(1, hello, b"node2", &[shown("node", "node2")]);
    let welcome = Header {
        kind: Kind::HelloAck,
        size: 5_000_000,
        ..hello
    };
    talk.say(0, welcome, b"node1", &[shown("node", "node1")]);

    // Those whose payload is a path, and what they are answered.
    let (attribute_bytes, attribute_columns) = attributes();
    let entries = [(&b"one"[..], 8), (b"two", 4)].map(|(name, kind)| {
        let entry = Entry {
            next: 7,
            ino: 8,
            kind,
            name,
        };
        [&entry.head()[..], name].concat()
    });
    let entry_columns = [
        shown("entry.name", "one"),
        shown("entry.type", 8),
        shown("entry.name", "two"),
        shown("entry.type", 4),
    ];
    let space = Space {
        block_bytes: 4096,
        free: 77,
        ..Space::default()
    };
    let file_attr = FileAttr {
        flags: 0x0008_0010,
        project: 7,
        ..FileAttr::default()
    };
    let file_attr_columns = [
        shown("file_attr.flags", "0x00080010"),
        shown("file_attr.project", 7),
    ];
    let nothing: (&[u8], Shown<'_>) = (&[], &[]);
    let described = (&attribute_bytes[..], &attribute_columns[..]);
    let listed = (&entries.concat()[..], &entry_columns[..]);
    for (kind, (answer, columns)) in [
        (Kind::Lookup, described),
        (Kind::Open, described),
        (Kind::List, listed),
        (
            Kind::ReadLink,
            (&b"../there"[..], &[shown("target", "../there")][..]),
        ),
        (Kind::Remove, nothing),
        (Kind::Commit, nothing),
        (
            Kind::StatFs,
            (&space.encode()[..], &[shown("space.free", 77)][..]),
        ),
        (
            Kind::ListXattr,
            (
                &b"user.a\0user.b\0"[..],
                &[shown("xattr.name", "user.a"), shown("xattr.name", "user.b")][..],
            ),
        ),
        (
            Kind::GetFileAttr,
            (&file_attr.encode()[..], &file_attr_columns[..]),
        ),
    ] {
        let (payload, who) = by_somebody(b"/srv/f");
        let columns_asked = [&who[..], &[shown("path", "/srv/f")]].concat();
        let header = Header {
            index: 0o100_002,
            ..Header::new(kind)
        };
        let reply = ask(talk, header, &payload, &columns_asked);
        talk.say(0, reply, answer, columns);
    }

    // Those with a path and something behind it.
    let change = Change {
        valid: change::MODE | change::MTIME,
        mode: 0o600,
        mtime: Time {
            seconds: 1_600_000_000,
            nanoseconds: 5,
        },
        ..Change::default()
    };
    let change_columns = [
        shown("attr.mode", 0o600),
        shown("attr.mtime", "Sep 13, 2020 12:26:40.000000005 UTC"),
    ];
    let value = [
        &Xattr {
            name: b"user.a",
            value: b"",
        }
        .head()
        .unwrap()[..],
        b"user.avalue",
    ]
    .concat();
    let value_columns = [
        shown("xattr.name", "user.a"),
        shown("xattr.value", hex(b"value")),
    ];
    for (kind, behind, columns, answer) in [
        (
            Kind::Make,
            &b"target"[..],
            &[shown("target", "target")][..],
            described,
        ),
        (
            Kind::Link,
            b"/srv/g",
            &[shown("target", "/srv/g")],
            described,
        ),
        (
            Kind::Rename,
            b"/srv/g",
            &[shown("target", "/srv/g")],
            nothing,
        ),
        (Kind::SetAttr, &change.encode(), &change_columns, described),
        (Kind::SetXattr, &value, &value_columns, described),
        (
            Kind::SetFileAttr,
            &file_attr.encode(),
            &file_attr_columns,
            described,
        ),
        (
            Kind::GetXattr,
            &value[..7],
            &value_columns[..1],
            (b"value", &value_columns[1..]),
        ),
    ] {
        let (payload, who) = by_somebody(&[b"/srv/f", behind].concat());
        let columns = [&who[..], &[shown("path", "/srv/f")], columns].concat();
        let header = Header {
            count: 6,
            ..Header::new(kind)
        };
        let reply = ask(talk, header, &payload, &columns);
        talk.say(0, reply, answer.0, answer.1);
    }

    // Those of an open file.
    for kind in [Kind::GetAttr, Kind::SetSize, Kind::Allocate] {
        let reply = ask(
            talk,
            Header {
                size: 8192,
                ..file(kind)
            },
            &[],
            &[],
        );
        talk.say(0, reply, &attribute_bytes, &attribute_columns);
    }
    let lock = Lock {
        owner: 99,
        start: 10,
        end: MAX_SIZE,
        pid: 4711,
        kind: LockKind::Write,
        test: true,
        ..Lock::default()
    };
    let lock_columns = [
        shown("lock.start", 10),
        shown("lock.end", MAX_SIZE),
        shown("lock.pid", 4711),
        shown("lock.test", "True"),
    ];
    let reply = ask(talk, file(Kind::Lock), &lock.encode(), &lock_columns);
    talk.say(0, reply, &lock.encode(), &lock_columns);
    talk.say(
        0,
        Header {
            request: 1,
            ..file(Kind::Unlocked)
        },
        &[],
        &[],
    );
    let text = b"written through";
    let write = Header {
        index: 100,
        flags: flags::APPEND,
        ..file(Kind::Write)
    };
    let reply = ask(talk, write, text, &[shown("data", hex(text))]);
    talk.say(
        0,
        Header {
            kind: Kind::Working,
            ..reply
        },
        &[],
        &[],
    );
    talk.say(
        0,
        Header {
            status: 28,
            ..reply
        },
        &[],
        &[],
    );
    let reply = ask(
        talk,
        Header {
            count: 3,
            flags: flags::DATASYNC,
            ..file(Kind::Commit)
        },
        &[],
        &[],
    );
    talk.say(0, Header { count: 3, ..reply }, &[], &[]);

    // Pages. The origin invalidates and recalls with ids of its own.
    let get = Header {
        index: 34,
        count: 3,
        ..file(Kind::GetShared)
    };
    let reply = ask(talk, get, &[5], &[shown("missing", "05")]);
    for index in 34..37 {
        let grant = Header {
            kind: Kind::Grant,
            index,
            seq: index + 1000,
            size: 1 << 40,
            flags: flags::DATA,
            ..reply
        };
        talk.say(0, grant, &page, &[shown("data", hex(&page))]);
    }
    let get = Header {
        index: 34,
        count: 1,
        flags: flags::HAVE,
        ..file(Kind::GetModified)
    };
    let reply = ask(talk, get, &[], &[]);
    let again = Header {
        request: reply.request,
        flags: flags::HAVE | flags::RETRY,
        ..get
    };
    talk.say(1, again, &[], &[]);
    let grant = Header {
        kind: Kind::Grant,
        index: 34,
        seq: 2000,
        flags: flags::WRITE,
        ..reply
    };
    talk.say(0, grant, &[], &[]);
    for (id, kind) in [(1, Kind::Invalidate), (2, Kind::Recall)] {
        let header = Header {
            index: 35,
            seq: 2001,
            request: id,
            ..file(kind)
        };
        talk.say(0, header, &[], &[]);
        talk.say(
            1,
            Header {
                kind: Kind::Ack,
                ..header
            },
            &[],
            &[],
        );
    }
    let put = Header {
        index: 34,
        seq: 2000,
        flags: flags::KEEP,
        ..file(Kind::Put)
    };
    let reply = ask(talk, put, &page[..100], &[shown("data", hex(&page[..100]))]);
    talk.say(0, reply, &[], &[]);
    let reply = ask(talk, file(Kind::Close), &[], &[]);
    talk.say(0, reply, &[], &[]);

    let sent_otherwise = [
        Kind::Hello,
        Kind::HelloAck,
        Kind::Reply,
        Kind::Grant,
        Kind::Invalidate,
        Kind::Recall,
        Kind::Ack,
        Kind::Unlocked,
        Kind::Working,
    ];
    for kind in Kind::ALL {
        assert!(
            asked.contains(&kind) || sent_otherwise.contains(&kind),
            "{kind:?} is missing"
        );
    }
}

/// What is in no capture of a network that works.
fn say_it_badly(talk: &mut Talk) {
    // With segmentation offload all datagrams of a message are one packet, each padded to the same size.
    let header = Header {
        request: 5000,
        file: 12,
        flags: flags::DATA,
        size: 3000,
        ..Header::new(Kind::Grant)
    };
    let payload = [0xee; 3000];
    let (mut together, mut whole) = (Vec::new(), Row::new());
    for (mut datagram, row) in talk.datagrams(0, header, &payload, &[shown("data", hex(&payload))])
    {
        datagram.resize(DATAGRAM_BYTES + 7, 0);
        together.extend(datagram);
        row.into_iter().for_each(|(field, mut values)| {
            whole.entry(field).or_default().append(&mut values);
        });
    }
    talk.capture.packet(0, &together, whole);

    // A fragment that is lost and comes again, in another order.
    let header = Header {
        request: 6000,
        ..header
    };
    let mut datagrams = talk.datagrams(0, header, &payload, &[]);
    for (row, missing) in datagrams.iter_mut().map(|(_, row)| row).zip([2, 0, 1]) {
        row.insert("fragment.missing", vec![missing.to_string()]);
    }
    show(&mut datagrams[1].1, "data", hex(&payload));
    for at in [0, 2, 1] {
        let (datagram, row) = datagrams[at].clone();
        talk.capture.packet(0, &datagram, row);
    }

    let mut row = Row::new();
    let header = Header {
        request: 7000,
        index: 3,
        ..Header::new(Kind::Recall)
    };
    let text = header.encode()[ENVELOPE_BYTES..].to_vec();
    let good = talk.seal(0, &text, &mut row);
    // A changed bit, in all that the tag covers.
    for at in [16, CLEAR_BYTES, ENVELOPE_BYTES, good.len() - 1] {
        let (mut bad, mut row) = (good.clone(), row.clone());
        bad[at] ^= 1;
        row.insert(
            "counter",
            vec![u64::from_le_bytes(*bad[16..].first_chunk().unwrap()).to_string()],
        );
        row.insert("tag.status", vec!["2".into()]);
        show(&mut row, "drop", "forged");
        talk.capture.packet(0, &bad, row);
    }
    // A message that is not encrypted.
    let header = Header {
        epoch: 3,
        peer_epoch: 4,
        request: 7001,
        ..Header::new(Kind::Unlocked)
    };
    let (datagram, mut open) = (header.encode(), Row::new());
    show_envelope(
        &mut open,
        &Envelope::decode(&datagram, datagram.len()).unwrap(),
    );
    show_header(&mut open, &header);
    talk.capture.packet(0, &datagram, open);
    // A session that nobody has the key of.
    let mut other = good.clone();
    other[15] ^= 0x80;
    let mut row_of_other = row.clone();
    let session = u64::from_le_bytes(*other[8..].first_chunk().unwrap());
    row_of_other.insert("session", vec![format!("{session:#018x}")]);
    row_of_other.insert("tag.status", vec!["0".into()]);
    talk.capture.packet(0, &other, row_of_other);
    // Sealed by who has the key, but no message.
    for (text, verdict) in [
        (&text[..30], "truncated"),
        (&[&[200], &text[1..]].concat(), "kind"),
        (&[&text[..2], &[0, 0xff], &text[4..]].concat(), "field"),
        (&[&text[..], &[0; 10]].concat(), "field"),
    ] {
        let mut row = Row::new();
        let datagram = talk.seal(0, text, &mut row);
        show(&mut row, "drop", verdict);
        // What there is of a header is shown all the same.
        if let Some(fields) = text.first_chunk::<BODY_BYTES>() {
            let number = |at: usize, bytes: usize| {
                let field = fields[at..at + bytes].iter().rev();
                field.fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte))
            };
            show(&mut row, "kind", fields[0]);
            show(&mut row, "flags", format_args!("{:#06x}", number(2, 2)));
            let index = if fields[0] == Kind::Recall as u8 {
                "page"
            } else {
                "index"
            };
            for (field, at, bytes) in [
                ("status", 4, 2),
                ("seq", 8, 8),
                ("request", 16, 8),
                ("file", 24, 8),
                (index, 32, 8),
                ("size", 40, 8),
                ("length", 48, 4),
                ("offset", 52, 4),
                ("count", 56, 4),
            ] {
                show(&mut row, field, number(at, bytes));
            }
        }
        talk.capture.packet(0, &datagram, row);
    }
    // Nothing at all in it.
    let mut row = Row::new();
    let datagram = talk.seal(0, &[], &mut row);
    show(&mut row, "drop", "truncated");
    talk.capture.packet(0, &datagram, row);
}

#[test]
fn every_kind_of_message_is_in_a_capture() {
    let mut talk = Talk::begin();
    say_everything(&mut talk);
    say_it_badly(&mut talk);
    talk.capture.write("sealed", &FIELDS);
    fs::write(place("keys"), talk.key_log()).unwrap();
    // The log opens what was sealed.
    let log = talk.key_log();
    for end in &talk.ends {
        let line = format!("VREMOTE {:016x} ", end.session);
        let logged = log
            .lines()
            .find_map(|text| text.strip_prefix(&line))
            .unwrap();
        assert_eq!(logged, hex(end.key.bytes()));
        assert!(end.counter > 20);
    }
}

/// Numbers that look random, the same each time (Marsaglia, Xorshift RNGs).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

/// Messages that are not encrypted, with bytes that are wrong: the dissector must say of each what the module would, and show those that
/// the module takes, whatever is in them.
#[test]
fn damaged_messages_are_in_a_capture() {
    let mut capture = Capture::new();
    let mut random = Random(0x5eed);
    let mut verdicts = BTreeMap::<&str, usize>::new();
    for turn in 0..2000 {
        let kind = Kind::ALL[turn % Kind::ALL.len()];
        let mut header = Header {
            epoch: 1,
            peer_epoch: 2,
            request: 1 + random.below(40) as u64,
            file: random.below(3) as u64,
            index: random.below(300) as u64,
            count: 1 + random.below(256) as u32,
            size: random.below(1 << 20) as u64,
            flags: random.below(128) as u16,
            length: random.below(2000) as u32,
            ..Header::new(kind)
        };
        header.offset = random.below(2) as u32 * FRAGMENT_BYTES as u32;
        if header.offset >= header.length {
            header.offset = 0;
        }
        let mut datagram = header.encode().to_vec();
        // Payloads that begin like one: few groups, short names.
        datagram.resize(
            HEADER_BYTES + header.fragment_bytes(),
            random.below(4) as u8,
        );
        for byte in &mut datagram[HEADER_BYTES..] {
            if random.below(8) == 0 {
                *byte = random.below(256) as u8;
            }
        }
        for _ in 0..random.below(3) {
            let at = match random.below(3) {
                0 => random.below(datagram.len()),
                _ => random.below(HEADER_BYTES),
            };
            datagram[at] ^= 1 << random.below(8);
        }
        match random.below(8) {
            0 => datagram.truncate(random.below(datagram.len() + 1).max(1)),
            1 => datagram.resize(datagram.len() + random.below(40), 0),
            _ => {}
        }
        let verdict = judge(&datagram);
        let mut row = Row::new();
        if let Some(word) = verdict {
            show(&mut row, "drop", word);
        }
        *verdicts.entry(verdict.unwrap_or("taken")).or_default() += 1;
        capture.packet(turn % 2, &datagram, row);
    }
    for word in ["taken", "truncated", "magic", "version", "kind", "field"] {
        assert!(
            verdicts.get(word).is_some_and(|times| *times >= 5),
            "{word}: {verdicts:?}"
        );
    }
    capture.write("damaged", &["drop"]);
}

/// What the module makes of a datagram, by the names of its counters.
fn judge(datagram: &[u8]) -> Option<&'static str> {
    let name = |malformed| match malformed {
        Malformed::Truncated => "truncated",
        Malformed::Magic => "magic",
        Malformed::Version => "version",
        Malformed::Kind => "kind",
        Malformed::Field => "field",
    };
    match Envelope::decode(datagram, datagram.len()) {
        Err(malformed) => Some(name(malformed)),
        Ok(envelope) if envelope.what == What::Open => Header::decode(datagram).err().map(name),
        Ok(_) => None,
    }
}
