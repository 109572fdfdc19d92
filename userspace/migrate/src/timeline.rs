// SPDX-License-Identifier: GPL-2.0

//! A picture of a move: its phases and the memory that has moved, over time, as SVG.

use std::{fmt::Write as _, time::Instant};

use crate::source::Event;

/// The picture's measures, in pixels.
const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 50.0;
const CURVE: f64 = 170.0;
const BAR: f64 = 26.0;

/// Of phases, one after another.
const COLOURS: [&str; 5] = ["#4e79a7", "#76b7b2", "#e15759", "#f28e2b", "#59a14f"];

/// What has happened, with its time in seconds from the start.
#[derive(Debug)]
pub struct Timeline {
    start: Instant,
    phases: Vec<(f64, &'static str)>,
    bytes: Vec<(f64, u64)>,
    end: f64,
}

impl Timeline {
    /// Starts now, with the preflight.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Timeline {
        Timeline {
            start: Instant::now(),
            phases: vec![(0.0, "preflight")],
            bytes: vec![(0.0, 0)],
            end: 0.0,
        }
    }

    /// Notes an event, now.
    pub fn note(&mut self, event: &Event) {
        let now = self.start.elapsed().as_secs_f64();
        match event {
            Event::Phase(phase) => self.phases.push((now, phase)),
            Event::Bytes(bytes) => self.bytes.push((now, *bytes)),
            Event::Round { .. } => {}
        }
    }

    /// All is over now.
    pub fn end(&mut self) {
        self.end = self.start.elapsed().as_secs_f64();
    }

    /// The picture.
    pub fn draw(&self, title: &str) -> String {
        let end = self.end.max(1e-6);
        let most = self
            .bytes
            .iter()
            .map(|(_, bytes)| *bytes)
            .max()
            .unwrap_or(0)
            .max(1);
        let x = |seconds: f64| LEFT + (WIDTH - LEFT - RIGHT) * seconds / end;
        let y = |bytes: u64| TOP + CURVE * (1.0 - bytes as f64 / most as f64);
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"{LEFT}\" y=\"24\" font-size=\"15\">{}</text>\n",
            escaped(title)
        );
        let bar = TOP + CURVE + 12.0;
        for (number, (begin, phase)) in self.phases.iter().enumerate() {
            let until = self.phases.get(number + 1).map_or(end, |(next, _)| *next);
            let colour = COLOURS[number % COLOURS.len()];
            // Writing to a String does not fail.
            let _ = writeln!(
                out,
                "<rect x=\"{:.1}\" y=\"{bar}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{colour}\"><title>{phase}: {:.3} s</title></rect>",
                x(*begin),
                x(until) - x(*begin),
                until - begin
            );
            let row = bar + BAR + 16.0;
            let column = LEFT + (WIDTH - LEFT - RIGHT) / self.phases.len() as f64 * number as f64;
            let _ = writeln!(
                out,
                "<text x=\"{column:.1}\" y=\"{row}\" fill=\"{colour}\">{phase}: {:.3} s</text>",
                until - begin
            );
        }
        let points = self
            .bytes
            .iter()
            .copied()
            .chain([(end, self.bytes.last().map_or(0, |last| last.1))]);
        let points: Vec<_> = points
            .map(|(at, bytes)| format!("{:.1},{:.1}", x(at), y(bytes)))
            .collect();
        let _ = write!(
            out,
            "<polyline fill=\"none\" stroke=\"#333\" stroke-width=\"1.5\" points=\"{}\"/>\n\
             <text x=\"4\" y=\"{}\">{:.1} MiB</text>\n<text x=\"4\" y=\"{}\">0</text>\n\
             <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{end:.3} s</text>\n</svg>\n",
            points.join(" "),
            TOP + 4.0,
            most as f64 / f64::from(1 << 20),
            TOP + CURVE,
            WIDTH - RIGHT,
            HEIGHT - 8.0
        );
        out
    }
}

/// Text for XML.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_has_all_phases() {
        let mut timeline = Timeline::new();
        timeline.note(&Event::Phase("restore"));
        timeline.note(&Event::Bytes(4096));
        timeline.end();
        let picture = timeline.draw("a<b");
        assert!(picture.starts_with("<svg") && picture.ends_with("</svg>\n"));
        for part in ["preflight: ", "restore: ", "a&lt;b", "polyline"] {
            assert!(picture.contains(part), "{part} in {picture}");
        }
    }
}
