// SPDX-License-Identifier: GPL-2.0

//! Times of different clocks on one scale, as intervals that surely hold the true time.
//!
//! A party asks party 0 what time it is there. Party 0 answered between the question and the arrival of its answer: that bounds the
//! difference of the two clocks from both sides, however long the packets took and however unequal their ways were.

/// Nanoseconds of some clock.
pub type Time = i64;

/// One question and its answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sample {
    /// When it was asked, here
    pub sent: Time,
    /// The answer: some moment between, at party 0
    pub there: Time,
    /// When it came, here
    pub received: Time,
}

/// What has to be added to this clock at some time: at least `low`, at most `high`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bound {
    /// The time here
    pub at: Time,
    /// At least this
    pub low: Time,
    /// At most this
    pub high: Time,
}

impl Bound {
    /// What several samples, taken within a moment, say together. None, if there are none.
    pub fn of(samples: &[Sample]) -> Option<Self> {
        let first = samples.first()?;
        let low = samples.iter().map(|one| one.there - one.received).max()?;
        let high = samples.iter().map(|one| one.there - one.sent).min()?;
        // Clocks that ran apart in that moment can make the one end pass the other: by no more than they ran apart.
        Some(Bound {
            at: first.sent,
            low: low.min(high),
            high: low.max(high),
        })
    }

    /// Half of what is not known.
    pub fn error(&self) -> Time {
        (self.high - self.low) / 2
    }
}

/// The difference of two clocks over a run.
#[derive(Clone, Default)]
pub struct Alignment(Vec<Bound>);

impl Alignment {
    /// The clock itself.
    pub fn same() -> Self {
        Alignment(vec![Bound {
            at: 0,
            low: 0,
            high: 0,
        }])
    }

    /// Adds a later bound.
    pub fn push(&mut self, bound: Bound) {
        self.0.push(bound);
    }

    /// How many bounds there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The largest error of all bounds.
    pub fn error(&self) -> Time {
        self.0.iter().map(Bound::error).max().unwrap_or(Time::MAX)
    }

    /// How far the difference went from the first to the last bound.
    pub fn drift(&self) -> Time {
        match (self.0.first(), self.0.last()) {
            (Some(first), Some(last)) => (last.low + last.high) / 2 - (first.low + first.high) / 2,
            _ => 0,
        }
    }

    /// The earliest and the latest that a time of this clock can be at party 0. Between two bounds the difference is believed to move
    /// from one to the other, not to leave them; before the first and behind the last there should be no times of interest.
    pub fn convert(&self, time: Time) -> (Time, Time) {
        let after = self.0.partition_point(|bound| bound.at <= time);
        let around = &self.0[after.saturating_sub(1)..(after + 1).min(self.0.len())];
        let low = around.iter().map(|bound| bound.low).min().unwrap_or(0);
        let high = around.iter().map(|bound| bound.high).max().unwrap_or(0);
        (time + low, time + high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// A clock that is off by an amount and drifts: its times, converted, always hold the true ones.
        #[test]
        fn the_true_time_is_inside(
            offset in -1_000_000_000_000i64..1_000_000_000_000,
            drift in -300i64..300,
            ways in prop::collection::vec((100_000i64..3_000_000, 100_000i64..3_000_000), 40),
        ) {
            let here = |true_time: Time| true_time + offset + true_time / 1_000_000 * drift;
            let mut alignment = Alignment::default();
            let mut now = 0;
            for moment in ways.chunks(4) {
                let mut samples = Vec::new();
                for &(there, back) in moment {
                    samples.push(Sample {
                        sent: here(now),
                        there: now + there,
                        received: here(now + there + back),
                    });
                    now += there + back;
                }
                alignment.push(Bound::of(&samples).unwrap());
                now += 250_000_000;
            }
            // A moment is some 20 ms, in which the clocks run apart by some µs.
            let slack = 20_000;
            for step in 0..100 {
                let time = now / 100 * step;
                let (low, high) = alignment.convert(here(time));
                prop_assert!(low - slack <= time && time <= high + slack, "{low} {time} {high}");
            }
            prop_assert!(alignment.error() < 3_000_000);
        }
    }

    #[test]
    fn the_quickest_answers_count() {
        let sample = |sent, there, received| Sample {
            sent,
            there,
            received,
        };
        let bound = Bound::of(&[
            sample(1000, 51_900, 2000),
            sample(3000, 53_050, 3100),
            sample(5000, 55_020, 9000),
        ]);
        assert_eq!(
            bound,
            Some(Bound {
                at: 1000,
                low: 49_950,
                high: 50_020
            })
        );
        assert_eq!(Bound::of(&[]), None);
    }

    #[test]
    fn the_same_clock_needs_no_change() {
        assert_eq!(Alignment::same().convert(77), (77, 77));
        assert_eq!(Alignment::same().error(), 0);
    }
}
