// SPDX-License-Identifier: GPL-2.0

//! The module's counters: how fast they grow, and all of them as Prometheus reads them.
//!
//! Reference for the text format: Prometheus, exposition formats, version 0.0.4.

use std::{fmt::Write, time::Duration};

use serde_json::Value;

use crate::status::{cell, table};

/// What is shown of a peer: title, and what of two documents it is.
const COLUMNS: [(&str, Column); 9] = [
    ("PEER", Column::Now("name")),
    ("STATE", Column::Now("state")),
    ("RTT_US", Column::Now("rtt_us")),
    ("SENT/S", Column::Rate("tx")),
    ("RECEIVED/S", Column::Rate("rx")),
    ("KB_OUT/S", Column::Kilobytes("tx_bytes")),
    ("KB_IN/S", Column::Kilobytes("rx_bytes")),
    ("RESENT/S", Column::Rate("retransmits")),
    ("DROPS/S", Column::Rate("drops")),
];

/// Kinds of messages that are shown one by one.
const KINDS: usize = 8;

#[derive(Clone, Copy)]
enum Column {
    /// The value as it is.
    Now(&'static str),
    /// How much a counter, or the sum of several, grows in a second.
    Rate(&'static str),
    /// The same of bytes, in thousands.
    Kilobytes(&'static str),
}

/// A counter, or the sum of an object of counters.
fn count(value: &Value) -> u64 {
    match value {
        Value::Object(fields) => fields.values().filter_map(Value::as_u64).sum(),
        other => other.as_u64().unwrap_or(0),
    }
}

/// Growth in a second. A counter that is smaller than before began anew.
fn rate(before: u64, after: u64, time: Duration) -> f64 {
    let growth = after.checked_sub(before).unwrap_or(after);
    growth as f64 / time.as_secs_f64().max(1e-9)
}

fn peers(document: &Value) -> &[Value] {
    document["peers"].as_array().map_or(&[], Vec::as_slice)
}

/// A peer's entry of before; null if it was none, or not in this session.
fn entry<'a>(document: &'a Value, peer: &Value) -> &'a Value {
    let same =
        |other: &&Value| other["name"] == peer["name"] && other["address"] == peer["address"];
    peers(document).iter().find(same).unwrap_or(&Value::Null)
}

/// What happened between two documents, `time` apart.
pub(crate) fn rates(before: &Value, after: &Value, time: Duration) -> String {
    let mut rows = vec![COLUMNS
        .iter()
        .map(|(title, _)| (*title).to_string())
        .collect()];
    for peer in peers(after) {
        let old = entry(before, peer);
        let grown = |field: &str| rate(count(&old[field]), count(&peer[field]), time);
        rows.push(
            COLUMNS
                .iter()
                .map(|(_, column)| match *column {
                    Column::Now(field) => cell(&peer[field]),
                    Column::Rate(field) => format!("{:.0}", grown(field)),
                    Column::Kilobytes(field) => format!("{:.0}", grown(field) / 1e3),
                })
                .collect(),
        );
    }
    let mut out = format!(
        "node {}, {} files shared here, {} files of other nodes\n\n",
        cell(&after["node"]),
        after["shares"].as_array().map_or(0, Vec::len),
        after["remote_files"].as_array().map_or(0, Vec::len),
    );
    if rows.len() == 1 {
        out.push_str("no peers (vremote peer add NAME ADDRESS KEY-FILE)\n");
        return out;
    }
    out.push_str(&table(&rows));
    out.push_str(&kinds(before, after, time));
    out
}

/// The kinds of messages that are the most, of all peers together.
fn kinds(before: &Value, after: &Value, time: Duration) -> String {
    let mut found: Vec<(&str, f64, f64)> = Vec::new();
    for peer in peers(after) {
        let old = entry(before, peer);
        for (way, sent) in [("tx", true), ("rx", false)] {
            for (kind, value) in peer[way].as_object().into_iter().flatten() {
                let grown = rate(count(&old[way][kind.as_str()]), count(value), time);
                let place = match found.iter().position(|(name, _, _)| name == kind) {
                    Some(place) => place,
                    None => {
                        found.push((kind, 0.0, 0.0));
                        found.len() - 1
                    }
                };
                *(if sent {
                    &mut found[place].1
                } else {
                    &mut found[place].2
                }) += grown;
            }
        }
    }
    found.retain(|(_, sent, received)| sent + received >= 0.5);
    found.sort_by(|a, b| (b.1 + b.2).total_cmp(&(a.1 + a.2)).then(a.0.cmp(b.0)));
    if found.is_empty() {
        return String::new();
    }
    let mut rows = vec![["MESSAGE", "SENT/S", "RECEIVED/S"]
        .map(String::from)
        .to_vec()];
    rows.extend(found.iter().take(KINDS).map(|(kind, sent, received)| {
        vec![
            (*kind).to_string(),
            format!("{sent:.0}"),
            format!("{received:.0}"),
        ]
    }));
    format!("\n{}", table(&rows))
}

/// One family of metrics.
struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    samples: Vec<(Vec<(&'static str, String)>, f64)>,
}

impl Family {
    fn new(name: &'static str, kind: &'static str, help: &'static str) -> Family {
        Family {
            name,
            kind,
            help,
            samples: Vec::new(),
        }
    }

    fn add(&mut self, labels: &[(&'static str, &str)], value: f64) {
        let labels = labels
            .iter()
            .map(|(label, value)| (*label, (*value).to_string()));
        self.samples.push((labels.collect(), value));
    }
}

/// A label's value, escaped.
fn label(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// All counters, in Prometheus' text format.
pub(crate) fn prometheus(document: &Value) -> String {
    let mut up = Family::new(
        "vremote_peer_up",
        "gauge",
        "Whether there is a session with the peer, and it was heard lately.",
    );
    let mut rtt = Family::new(
        "vremote_peer_rtt_seconds",
        "gauge",
        "Smoothed round-trip time.",
    );
    let mut messages = Family::new(
        "vremote_messages_total",
        "counter",
        "Messages by kind, retransmissions included.",
    );
    let mut bytes = Family::new("vremote_bytes_total", "counter", "Bytes of datagrams.");
    let mut resent = Family::new(
        "vremote_retransmits_total",
        "counter",
        "Requests that were sent again.",
    );
    let mut fences = Family::new(
        "vremote_fences_total",
        "counter",
        "Times that what a peer held was taken back, because it was silent or kept a page.",
    );
    let mut revocations = Family::new(
        "vremote_revocations_total",
        "counter",
        "Of these, times that it had kept a page although it answered.",
    );
    let mut lost = Family::new(
        "vremote_lost_bytes_total",
        "counter",
        "Bytes written here to files of the peer that will never reach it.",
    );
    let mut unheard = Family::new(
        "vremote_peer_drops_total",
        "counter",
        "Datagrams of the peer, or for it, that went nowhere.",
    );
    let mut drops = Family::new(
        "vremote_drops_total",
        "counter",
        "Datagrams that went nowhere, by reason.",
    );
    let mut files = Family::new(
        "vremote_files",
        "gauge",
        "Files shared by this node, and files of other nodes known here.",
    );
    for peer in peers(document) {
        let name = peer["name"].as_str().unwrap_or("");
        let of = [("peer", name)];
        up.add(&of, f64::from(u8::from(peer["state"] == "up")));
        if let Some(us) = peer["rtt_us"].as_u64() {
            rtt.add(&of, us as f64 / 1e6);
        }
        for (way, direction) in [("tx", "sent"), ("rx", "received")] {
            for (kind, value) in peer[way].as_object().into_iter().flatten() {
                messages.add(
                    &[("peer", name), ("direction", direction), ("kind", kind)],
                    count(value) as f64,
                );
            }
            bytes.add(
                &[("peer", name), ("direction", direction)],
                count(&peer[format!("{way}_bytes").as_str()]) as f64,
            );
        }
        resent.add(&of, count(&peer["retransmits"]) as f64);
        fences.add(&of, count(&peer["fences"]) as f64);
        revocations.add(&of, count(&peer["revocations"]) as f64);
        lost.add(&of, count(&peer["lost_bytes"]) as f64);
        unheard.add(&of, count(&peer["drops"]) as f64);
    }
    for (reason, value) in document["drops"].as_object().into_iter().flatten() {
        drops.add(&[("reason", reason)], count(value) as f64);
    }
    for (field, role) in [("shares", "origin"), ("remote_files", "remote")] {
        let number = document[field].as_array().map_or(0, Vec::len);
        files.add(&[("role", role)], number as f64);
    }
    let mut out = String::new();
    for family in [
        up,
        rtt,
        messages,
        bytes,
        resent,
        fences,
        revocations,
        lost,
        unheard,
        drops,
        files,
    ] {
        // Writing to a string cannot fail.
        let _ = write!(
            out,
            "# HELP {0} {1}\n# TYPE {0} {2}\n",
            family.name, family.help, family.kind
        );
        for (labels, value) in family.samples {
            let labels: Vec<_> = labels
                .iter()
                .map(|(name, value)| format!("{name}=\"{}\"", label(value)))
                .collect();
            let _ = writeln!(out, "{}{{{}}} {value}", family.name, labels.join(","));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn document(sent: u64, bytes: u64) -> Value {
        json!({
            "version": 2, "node": "a", "port": 1104,
            "peers": [{"name": "b", "address": "10.0.0.2:1104", "state": "up", "rtt_us": 250,
                "tx": {"Get\"": sent, "Hello": 1}, "rx": {"Grant": 2 * sent}, "tx_bytes": bytes, "rx_bytes": 2 * bytes,
                "retransmits": 3, "drops": 1}],
            "drops": {"magic": 0, "forged": 4}, "shares": [{}], "remote_files": []
        })
    }

    #[test]
    fn rates_are_growth_by_time() {
        let text = rates(
            &document(100, 0),
            &document(300, 4_000_000),
            Duration::from_secs(2),
        );
        let row = text
            .lines()
            .find(|line| line.starts_with("b "))
            .expect("a row of the peer");
        let words: Vec<_> = row.split_whitespace().collect();
        assert_eq!(
            words,
            ["b", "up", "250", "100", "200", "2000", "4000", "0", "0"]
        );
        assert!(
            text.starts_with("node a, 1 files shared here, 0 files of other nodes\n"),
            "{text}"
        );
        let kinds: Vec<_> = text
            .lines()
            .skip_while(|line| !line.starts_with("MESSAGE"))
            .collect();
        assert_eq!(kinds.len(), 3, "what does not move is not shown: {text}");
        assert!(kinds[1].starts_with("Grant"), "the most first: {text}");
    }

    #[test]
    fn counters_that_begin_anew_do_not_go_backwards() {
        let text = rates(
            &document(300, 300),
            &document(100, 100),
            Duration::from_secs(1),
        );
        let row = text.lines().find(|line| line.starts_with("b ")).unwrap();
        assert_eq!(row.split_whitespace().nth(3), Some("101"));
    }

    #[test]
    fn prometheus_reads_every_line() {
        let text = prometheus(&document(7, 9));
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (series, value) = line.rsplit_once(' ').expect(line);
            value.parse::<f64>().expect(line);
            let (name, labels) = series.split_once('{').expect(line);
            assert!(
                text.contains(&format!("# TYPE {name} ")) && labels.ends_with('}'),
                "{line}"
            );
        }
        assert!(text.contains("vremote_peer_rtt_seconds{peer=\"b\"} 0.00025\n"));
        assert!(text.contains(
            "vremote_messages_total{peer=\"b\",direction=\"sent\",kind=\"Get\\\"\"} 7\n"
        ));
        assert!(text.contains("vremote_drops_total{reason=\"forged\"} 4\n"));
        assert!(text.contains("vremote_files{role=\"origin\"} 1\n"));
    }

    #[test]
    fn an_odd_document_does_no_harm() {
        for odd in [
            json!({}),
            json!({"peers": 3, "drops": []}),
            json!({"peers": [1, {}]}),
        ] {
            prometheus(&odd);
            rates(&odd, &odd, Duration::ZERO);
        }
    }
}
