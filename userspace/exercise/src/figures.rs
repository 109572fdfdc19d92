// SPDX-License-Identifier: GPL-2.0

//! The last line of a run: what it did, for programs to read.

use serde_json::{Map, Value};

/// Names and values, in order.
#[derive(Default)]
pub struct Figures(Map<String, Value>);

impl Figures {
    /// Adds one.
    pub fn add(&mut self, name: &str, value: impl Into<Value>) -> &mut Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    /// Adds a number of seconds.
    pub fn add_seconds(&mut self, seconds: f64) -> &mut Self {
        self.add("seconds", (seconds * 1000.0).round() / 1000.0)
    }

    /// Whether there are none yet.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The line: `what name=value …`, or JSON.
    pub fn line(&self, what: &str, json: bool) -> String {
        if json {
            let mut all = Map::new();
            all.insert("what".to_owned(), what.into());
            all.extend(self.0.clone());
            return Value::Object(all).to_string();
        }
        self.0.iter().fold(what.to_owned(), |line, (name, value)| {
            match value {
                // A text without quotes, as a word.
                Value::String(text) => line + &format!(" {name}={}", text.replace(' ', "_")),
                other => line + &format!(" {name}={other}"),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms() {
        let mut figures = Figures::default();
        figures.add("ops", 3).add_seconds(1.23456).add("of", "a b");
        assert_eq!(figures.line("fsx", false), "fsx ops=3 seconds=1.235 of=a_b");
        assert_eq!(
            figures.line("fsx", true),
            r#"{"what":"fsx","ops":3,"seconds":1.235,"of":"a b"}"#
        );
    }
}
