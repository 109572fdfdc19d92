// SPDX-License-Identifier: GPL-2.0

//! Images of CRIU 4.1.1, of a Python program that has `log` open for appending, `data` for reading, and `map` mapped.

use std::fs;

use vremote_migrate::{
    flags::{O_ORIGIN, O_REMOTE},
    images::{files, pages_written, rewrite, Kind, Malformed, Place, Places},
};

fn image(name: &str) -> Vec<u8> {
    fs::read(format!(
        "{}/tests/images/{name}",
        env!("CARGO_MANIFEST_DIR")
    ))
    .unwrap()
}

fn id_of(path: &str, bytes: &[u8]) -> u32 {
    let files = files(Kind::Files, bytes).unwrap();
    files
        .iter()
        .find(|file| file.path == path.as_bytes())
        .unwrap()
        .id
}

/// Where `what` is in `bytes`.
fn contains(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

#[test]
fn nothing_changes_where_nothing_moves() {
    for name in ["files.img", "mm-173.img"] {
        let bytes = image(name);
        assert_eq!(
            rewrite(Kind::of(name), &bytes, &Places::new()).unwrap(),
            bytes
        );
    }
}

#[test]
fn files_are_found() {
    let found = files(Kind::Files, &image("files.img")).unwrap();
    let paths: Vec<_> = found
        .iter()
        .map(|file| String::from_utf8_lossy(&file.path))
        .collect();
    for path in [
        "/srv/m/log",
        "/srv/m/data",
        "/srv/m/map",
        "/usr/bin/python3.13",
        "/dev/null",
        "/",
    ] {
        assert!(
            paths.iter().any(|found| found == path),
            "{path} in {paths:?}"
        );
    }
    let data = found
        .iter()
        .find(|file| file.path == b"/srv/m/data")
        .unwrap();
    assert_eq!(data.mode, 0o100_644);
}

#[test]
fn a_file_that_follows_is_remote() {
    let bytes = image("files.img");
    let id = id_of("/srv/m/data", &bytes);
    let path = b"/vremote/node1/srv/m/data".to_vec();
    let places = Places::from([(id, Place::Remote(path.clone()))]);
    let moved = rewrite(Kind::Files, &bytes, &places).unwrap();
    assert!(contains(&moved, &path));
    assert!(!contains(&moved, b"\n/srv/m/data"));
    // The others are where they were.
    assert!(contains(&moved, b"\n/srv/m/log"));
    let found = files(Kind::Files, &moved).unwrap();
    assert_eq!(found.len(), files(Kind::Files, &bytes).unwrap().len());
    // Home again: the very same, but for the size, which is not checked any more.
    let home = Places::from([(id, Place::Home(b"/srv/m/data".to_vec()))]);
    let back = rewrite(Kind::Files, &moved, &home).unwrap();
    assert_eq!(
        files(Kind::Files, &back).unwrap(),
        files(Kind::Files, &bytes).unwrap()
    );
    assert_eq!(rewrite(Kind::Files, &bytes, &home).unwrap(), back);
    assert!(back.len() < bytes.len());
}

#[test]
fn flags_of_mappings_follow() {
    let bytes = image("mm-173.img");
    let id = id_of("/srv/m/map", &image("files.img"));
    let places = Places::from([(id, Place::Remote(b"/vremote/node1/srv/m/map".to_vec()))]);
    let moved = rewrite(Kind::Mm, &bytes, &places).unwrap();
    assert_ne!(moved, bytes);
    let home = Places::from([(id, Place::Home(b"/srv/m/map".to_vec()))]);
    assert_eq!(rewrite(Kind::Mm, &moved, &home).unwrap(), bytes);
}

/// A message of old CRIUs: magic, and one `reg_file_entry` with id 7, flags, pos 0, a path and a field 99 that nobody knows.
fn old_image(flags: u32) -> Vec<u8> {
    let mut entry = vec![0x08, 7, 0x10, flags as u8, 0x18, 0, 0x32, 2];
    entry.extend(b"/x");
    entry.extend([0x9a, 0x06, 3, 1, 2, 3]);
    let mut bytes = Vec::new();
    bytes.extend(0x5456_4319_u32.to_le_bytes());
    bytes.extend(0x5036_3636_u32.to_le_bytes());
    bytes.extend((entry.len() as u32).to_le_bytes());
    bytes.extend(entry);
    bytes
}

#[test]
fn old_images_and_unknown_fields() {
    let shared = old_image(2 | O_ORIGIN | O_REMOTE);
    assert_eq!(Kind::of("reg-files.img"), Kind::RegFiles);
    // What stays on a node loses both flags, also if it was shared by its own descriptor before.
    assert_eq!(
        rewrite(Kind::RegFiles, &shared, &Places::new()).unwrap(),
        old_image(2)
    );
    let places = Places::from([(7, Place::Remote(b"/y".to_vec()))]);
    let moved = rewrite(Kind::RegFiles, &shared, &places).unwrap();
    let expected = [old_image(2 | O_REMOTE)].map(|bytes| {
        let mut bytes = bytes;
        let at = bytes.windows(2).position(|window| window == b"/x").unwrap();
        bytes[at + 1] = b'y';
        bytes
    });
    assert_eq!(moved, expected[0]);
    assert_eq!(files(Kind::RegFiles, &moved).unwrap()[0].path, b"/y");
}

#[test]
fn a_directory_gets_no_flag() {
    let places = Places::from([(7, Place::RemoteDirectory(b"/y".to_vec()))]);
    let moved = rewrite(Kind::RegFiles, &old_image(O_ORIGIN | O_REMOTE), &places).unwrap();
    let expected = rewrite(Kind::RegFiles, &old_image(0), &places).unwrap();
    assert_eq!(moved, expected);
}

#[test]
fn statistics_are_read() {
    assert_eq!(pages_written(&image("stats-dump")).unwrap(), 971);
}

#[test]
fn damage_is_an_error() {
    let bytes = image("files.img");
    for length in 0..bytes.len() {
        let cut = files(Kind::Files, &bytes[..length]);
        if let Ok(found) = cut {
            // Between two entries.
            assert!(found.len() < files(Kind::Files, &bytes).unwrap().len());
        }
    }
    for at in 8..bytes.len() {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0xff;
        let _ = rewrite(Kind::Files, &bytes, &Places::new());
    }
    assert_eq!(
        files(Kind::RegFiles, &bytes),
        Err(Malformed::Magic(0x5630_3138))
    );
}
