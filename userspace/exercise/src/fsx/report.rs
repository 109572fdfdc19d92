// SPDX-License-Identifier: GPL-2.0

//! What is said about the first difference.

use std::fmt::Write;

use super::{
    hands::{Difference, Hands},
    history::History,
    model::Model,
    operation::Operation,
};
use crate::{mapping::PAGE, meeting::Place, parties::Parties};

/// How many bytes are shown.
const SHOWN: u64 = 32;
/// How many of the operations that touched the place.
const OPERATIONS: usize = 16;

fn hex(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "(nothing)".to_owned();
    }
    let mut text = String::new();
    for (at, byte) in bytes.iter().enumerate() {
        if at != 0 && at % 8 == 0 {
            text.push(' ');
        }
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Which operation some bytes are from.
fn source(history: &History, seed: u64, offset: u64, bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "(nothing)".to_owned();
    }
    if bytes.iter().all(|&byte| byte == 0) {
        return "zeros".to_owned();
    }
    let first = &bytes[..bytes.len().min(8)];
    match history.writer_of(seed, offset, first) {
        Some(operation) => format!("first bytes of operation {operation}"),
        None => "first bytes of no operation that is remembered".to_owned(),
    }
}

fn part(bytes: &[u8], base: u64, place: Place) -> &[u8] {
    let first = (place.offset - base) as usize;
    let last = first + place.length.min(SHOWN) as usize;
    bytes
        .get(first..last.min(bytes.len()))
        .unwrap_or(Default::default())
}

/// The text of a difference: one line with the most important, and the rest.
pub fn difference(
    parties: &Parties,
    operation: Option<&Operation>,
    difference: &Difference,
    history: &History,
    replay: &str,
) -> (String, String) {
    let seed = parties.seed;
    let what = match operation {
        Some(operation) => format!("operation {operation}"),
        None => "the whole file at the end".to_owned(),
    };
    let place = difference.place();
    let wrong = match &difference.number {
        Some(number) => number.clone(),
        None => format!(
            "{} wrong bytes from {:#x} on",
            difference.wrong(),
            place.offset
        ),
    };
    let here = parties.at[parties.party];
    let first = format!("MISMATCH: seed {seed}, {what}, at {here}: {wrong}");
    let mut text = String::new();
    if !difference.expected.is_empty() || !difference.got.is_empty() {
        let expected = part(&difference.expected, difference.offset, place);
        let got = part(&difference.got, difference.offset, place);
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "  first wrong byte: {:#x} (page {}, byte {:#x} of it); {} wrong, the last is {:#x}",
            place.offset,
            place.offset / PAGE,
            place.offset % PAGE,
            difference.wrong(),
            place.offset + place.length - 1
        );
        for (what, bytes) in [("expected", expected), ("got", got)] {
            let source = source(history, seed, place.offset, bytes);
            let _ = write!(text, "\n  {what:9} {} — {source}", hex(bytes));
        }
        text += "\n";
    }
    let _ = write!(text, "  the latest operations:");
    for operation in history.latest(OPERATIONS) {
        let _ = write!(text, "\n    {operation}");
    }
    let _ = write!(text, "\n  operations that touched these bytes:");
    for operation in history.touching(place.offset, place.length, OPERATIONS) {
        let _ = write!(text, "\n    {operation}");
    }
    let _ = write!(text, "\n  to replay, on each node: {replay}");
    (first, text)
}

/// Prints what this party has where something is wrong.
pub fn print_view(parties: &Parties, hands: &mut Hands, place: Place) {
    let place = Place {
        offset: place.offset,
        length: place.length.min(SHOWN),
    };
    let name = parties.name(parties.party);
    let size = hands.size();
    let read = hands.read_at(place);
    println!(
        "  {name} reads at {:#x}: {}; size {size:#x}",
        place.offset,
        hex(&read)
    );
    // Last, because it ends the program if the file is shorter than it seems here.
    let loaded = hands.load_at(place, size);
    println!("  {name} has mapped there: {}", hex(&loaded));
}

/// Prints what the model has there.
pub fn print_model(model: &Model, place: Place) {
    let bytes = model.read(place.offset, place.length.min(SHOWN));
    println!(
        "  the model has at {:#x}: {}; size {:#x}",
        place.offset,
        hex(bytes),
        model.size()
    );
}
