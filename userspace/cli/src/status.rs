// SPDX-License-Identifier: GPL-2.0

//! The status document and the configuration as tables.

use serde_json::Value;
use vremote_migrate::control::Job;

use crate::control::{Export, Peer};

/// KiB of a page.
const PAGE_KIB: u64 = 4;

/// Columns of the table of peers: title, and field of the document.
const PEER_COLUMNS: [(&str, &str); 9] = [
    ("PEER", "name"),
    ("ADDRESS", "address"),
    ("STATE", "state"),
    ("RTT_US", "rtt_us"),
    ("SENT", "tx"),
    ("RECEIVED", "rx"),
    ("RESENT", "retransmits"),
    ("DROPS", "drops"),
    ("EPOCH", "epoch"),
];

/// Rows of words in columns, the first row being the titles.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:width$}  "));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// One value in a cell: an object of counters as their sum, nothing as a dash.
pub(crate) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => plain(text),
        Value::Bool(value) => (if *value { "yes" } else { "no" }).into(),
        Value::Object(fields) if fields.values().all(Value::is_u64) => fields
            .values()
            .filter_map(Value::as_u64)
            .sum::<u64>()
            .to_string(),
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(cell).collect();
            if items.is_empty() {
                "-".into()
            } else {
                items.join(",")
            }
        }
        other => other.to_string(),
    }
}

/// Text for a terminal: nothing in a name may control it.
fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// A list of objects as a table: the columns are the fields of the first one. Empty for an empty list.
fn objects(title: &str, list: &Value) -> String {
    let Some(list) = list.as_array().filter(|list| !list.is_empty()) else {
        return String::new();
    };
    let Some(first) = list[0].as_object() else {
        return String::new();
    };
    let names: Vec<_> = first.keys().collect();
    let mut rows = vec![names.iter().map(|name| name.to_uppercase()).collect()];
    rows.extend(list.iter().map(|entry| {
        names
            .iter()
            .map(|name| cell(&entry[name.as_str()]))
            .collect()
    }));
    format!("\n{title}\n{}", table(&rows))
}

/// The configured peers, with their condition if the document is to be had.
pub(crate) fn peers(peers: &[Peer], document: Option<&Value>) -> String {
    let mut rows = vec![vec![
        "PEER".to_string(),
        "ADDRESS".into(),
        "STATE".into(),
        "RTT_US".into(),
    ]];
    let mut reasons = String::new();
    for peer in peers {
        let list = document.and_then(|document| document["peers"].as_array());
        let entry = list.and_then(|list| {
            list.iter()
                .find(|entry| entry["name"] == peer.name.as_str())
        });
        let shown = |field: &str| entry.map_or_else(|| "-".into(), |entry| cell(&entry[field]));
        let address = if peer.address.is_empty() {
            "-".into()
        } else {
            plain(&peer.address)
        };
        rows.push(vec![
            plain(&peer.name),
            address,
            shown("state"),
            shown("rtt_us"),
        ]);
        if let Some(why) = entry.and_then(|entry| entry["reason"].as_str()) {
            reasons.push_str(&format!("{}: {}\n", plain(&peer.name), plain(why)));
        }
    }
    table(&rows) + &reasons
}

/// The configured exports.
pub(crate) fn exports(exports: &[Export]) -> String {
    let mut rows = vec![vec!["EXPORT".to_string(), "ROOT".into(), "STATE".into()]];
    for export in exports {
        rows.push(vec![
            plain(&export.path.to_string_lossy()),
            if export.root_squash {
                "squashed"
            } else {
                "trusted"
            }
            .into(),
            if export.enabled {
                "enabled"
            } else {
                "disabled"
            }
            .into(),
        ]);
    }
    table(&rows)
}

/// Processes that have been moved; below them, what there may be to do.
pub(crate) fn jobs(jobs: &[Job]) -> String {
    let titles = ["JOB", "STATE", "NODE", "PID", "FILES", "SECONDS", "COMMAND"];
    let mut rows = vec![titles.map(String::from).to_vec()];
    rows.extend(jobs.iter().map(|job| {
        vec![
            job.name.clone(),
            job.state.clone(),
            if job.node.is_empty() {
                "-".into()
            } else {
                plain(&job.node)
            },
            job.pid.map_or_else(|| "-".into(), |pid| pid.to_string()),
            job.files.to_string(),
            job.seconds.to_string(),
            plain(&job.title),
        ]
    }));
    let mut text = table(&rows);
    for job in jobs {
        if let Some(advice) = &job.advice {
            text += &format!("{}: {}\n", job.name, plain(advice));
        }
    }
    text
}

/// What is not as it should be between this node and a peer, and what to do about it: a line each.
fn troubles(document: &Value, peer: &Value) -> Vec<String> {
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let name = cell(&peer["name"]);
    let none = Vec::new();
    let files = document["remote_files"].as_array().unwrap_or(&none);
    let files: Vec<_> = files
        .iter()
        .filter(|file| file["node"] == peer["name"])
        .collect();
    let unsent: u64 = files
        .iter()
        .map(|file| number(&file["modified"]) + number(&file["writing"]))
        .sum();
    let mut lines = Vec::new();
    if peer["lease_us"] == 0 && peer["state"] != "unknown" && !files.is_empty() {
        lines.push(format!(
            "{name} does not answer: {} of its files wait for it; dirty pages waiting for origin {name}: {} KiB. They go on when it answers; \
             `vremote peer del {name}` gives them up",
            files.len(),
            unsent * PAGE_KIB
        ));
    }
    if peer["partitioned"] == true {
        lines.push(format!(
            "{name} is partitioned: it is heard, but does not answer; look at what lies between, from here to there (firewall, routes)"
        ));
    }
    if let Some(left) = peer["reclaim_us"].as_u64() {
        let left = left as f64 / 1e6;
        lines.push(if peer["revoked"] == true {
            format!(
                "{name}: reclaiming; it answers, but has not given up a page that others want: all that it holds is taken back in {left:.1} s"
            )
        } else {
            format!(
                "{name}: reclaiming; others want what it holds and it does not answer: that is taken back in {left:.1} s, unless it answers before"
            )
        });
    }
    let lost = number(&peer["lost_bytes"]);
    if lost != 0 {
        lines.push(format!(
            "{lost} bytes that were written here to files of {name} never reached it; the log names the files, and the next `fsync` through a new descriptor says so"
        ));
    }
    let revocations = number(&peer["revocations"]);
    if revocations != 0 {
        lines.push(format!(
            "{name} answered, and kept a page that others wanted: all that it held taken back {revocations} times. What it had not synced is \
             lost; the log here names the page. Look there for hung tasks and devices that a page was given to; or do not trust it"
        ));
    }
    let fences = number(&peer["fences"]).saturating_sub(revocations);
    if fences != 0 {
        lines.push(format!(
            "{name} was silent while others wanted what it held: taken back {fences} times. What it had not synced is lost; its log and `fsync` \
             there say so"
        ));
    }
    lines
}

/// The whole document for people.
pub(crate) fn document(document: &Value) -> String {
    let mut out = format!(
        "node {}, UDP port {}\n",
        cell(&document["node"]),
        cell(&document["port"])
    );
    if document["keylog"] == true {
        out.push_str("\nkeylog=1: the keys of sessions can be read here, in /sys/kernel/debug/vremote/keylog; load the module without it to keep them secret\n");
    }
    if document["drained"] == true {
        out.push_str("\ndrained: other nodes may read here, and change nothing, until `vremote drain --end`\n");
    }
    let none = Vec::new();
    let list = document["peers"].as_array().unwrap_or(&none);
    if list.is_empty() {
        out.push_str("\nno peers (vremote peer add NAME ADDRESS KEY-FILE)\n");
    } else {
        let mut rows = vec![PEER_COLUMNS
            .iter()
            .map(|(title, _)| (*title).to_string())
            .collect()];
        rows.extend(list.iter().map(|peer| {
            PEER_COLUMNS
                .iter()
                .map(|(_, field)| cell(&peer[*field]))
                .collect()
        }));
        out.push('\n');
        out.push_str(&table(&rows));
        let troubles: Vec<_> = list
            .iter()
            .flat_map(|peer| troubles(document, peer))
            .collect();
        if !troubles.is_empty() {
            out.push_str(&format!("\n{}\n", troubles.join("\n")));
        }
    }
    for (title, field) in [
        ("exported directories", "exports"),
        ("files shared here", "shares"),
        ("files of other nodes", "remote_files"),
    ] {
        out.push_str(&objects(title, &document[field]));
    }
    if let Some(drops) = document["drops"].as_object() {
        let counted: Vec<_> = drops
            .iter()
            .filter(|(_, n)| n.as_u64() != Some(0))
            .map(|(reason, n)| format!("{reason} {n}"))
            .collect();
        if !counted.is_empty() {
            out.push_str(&format!("\ndropped: {}\n", counted.join(", ")));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sample() -> Value {
        json!({
            "version": 2, "node": "a", "port": 1104,
            "peers": [{"name": "b\u{1b}[2J", "address": "10.0.0.2:1104", "slot": 0, "state": "up", "epoch": "01",
                "rtt_us": null, "rto_us": 50000, "tx": {"Hello": 2, "Open": 3}, "rx": {}, "retransmits": 0, "drops": 1}],
            "drops": {"magic": 0, "wrong_epoch": 4},
            "exports": [{"path": "/srv", "root_squash": true}], "shares": [], "remote_files": []
        })
    }

    #[test]
    fn document_is_readable() {
        let text = document(&sample());
        assert!(text.starts_with("node a, UDP port 1104\n"));
        assert!(
            text.contains("PEER")
                && text.contains("10.0.0.2:1104")
                && text.contains("exported directories\n")
        );
        assert!(text.ends_with("dropped: wrong_epoch 4\n"), "{text}");
        assert!(
            !text.contains('\u{1b}'),
            "a name must not control the terminal"
        );
        let row = text.lines().find(|line| line.contains("10.0.0.2")).unwrap();
        let words: Vec<_> = row.split_whitespace().collect();
        assert_eq!(
            words[1..],
            ["10.0.0.2:1104", "up", "-", "5", "0", "0", "1", "01"]
        );
    }

    #[test]
    fn keys_that_can_be_read_are_admitted() {
        let mut sample = sample();
        assert!(!document(&sample).contains("keylog"));
        sample["keylog"] = json!(true);
        assert!(document(&sample).contains("\nkeylog=1: the keys of sessions can be read here"));
    }

    #[test]
    fn a_silent_peer_is_admitted() {
        let mut sample = sample();
        assert_eq!(troubles(&sample, &sample["peers"][0]), Vec::<String>::new());
        sample["peers"][0]["lease_us"] = json!(0);
        sample["peers"][0]["fences"] = json!(2);
        sample["remote_files"] = json!([
            {"node": "b\u{1b}[2J", "file": 1, "modified": 3, "writing": 1},
            {"node": "c", "file": 1, "modified": 100, "writing": 0}
        ]);
        let text = document(&sample);
        assert!(
            text.contains("1 of its files wait for it; dirty pages waiting for origin b")
                && text.contains(": 16 KiB."),
            "{text}"
        );
        assert!(!text.contains("partitioned") && !text.contains("reclaiming"));
        sample["peers"][0]["partitioned"] = json!(true);
        sample["peers"][0]["reclaim_us"] = json!(1_500_000);
        let text = document(&sample);
        assert!(text.contains("is partitioned: it is heard"), "{text}");
        assert!(text.contains("taken back in 1.5 s"), "{text}");
        assert!(text.contains("taken back 2 times"), "{text}");
        assert!(!text.contains("kept a page"), "{text}");
        assert!(!text.contains("never reached it"), "{text}");
        sample["peers"][0]["lost_bytes"] = json!(8192);
        let text = document(&sample);
        assert!(
            text.contains("8192 bytes that were written here to files of b"),
            "{text}"
        );
    }

    #[test]
    fn a_peer_that_keeps_a_page_is_told_from_a_silent_one() {
        let mut sample = sample();
        sample["peers"][0]["revoked"] = json!(true);
        sample["peers"][0]["reclaim_us"] = json!(2_500_000);
        sample["peers"][0]["fences"] = json!(3);
        sample["peers"][0]["revocations"] = json!(3);
        let text = document(&sample);
        assert!(
            text.contains("it answers, but has not given up a page")
                && text.contains("taken back in 2.5 s\n"),
            "{text}"
        );
        assert!(
            text.contains("kept a page that others wanted: all that it held taken back 3 times"),
            "{text}"
        );
        assert!(!text.contains("was silent") && !text.contains("does not answer"));
    }

    #[test]
    fn peers_without_document() {
        let configured = [Peer {
            name: "b".into(),
            address: "10.0.0.2:1104".into(),
        }];
        let text = peers(&configured, None);
        assert_eq!(
            text.lines()
                .nth(1)
                .unwrap()
                .split_whitespace()
                .collect::<Vec<_>>(),
            ["b", "10.0.0.2:1104", "-", "-"]
        );
    }

    #[test]
    fn an_odd_document_is_shown_all_the_same() {
        document(&json!({"version": 2}));
        document(&json!({"version": 2, "peers": 3, "shares": [1], "exports": [{}], "drops": []}));
    }
}
