//! The last hour of a stop, a minute at a time.

use std::collections::VecDeque;

use hdrhistogram::Histogram;

use super::picture::{Minute, Percentiles};
use crate::journal::Outcome;

/// How many are kept.
const MINUTES: usize = 60;

/// Of so many, the last ones with messages, percentiles are told.
const LATEST: usize = 2;

/// What a value is told apart to, in digits.
const DIGITS: u8 = 2;

/// Values beyond are taken for this one: an hour in microseconds, or 41 days in milliseconds.
const LARGEST: u64 = 3_600_000_000;

#[derive(Default)]
pub struct Minutes(VecDeque<Counts>);

struct Counts {
    /// Since the epoch.
    minute: i64,
    verdicts: [u64; Outcome::ALL.len()],
    took_us: Option<Histogram<u32>>,
    age_ms: Option<Histogram<u32>>,
}

impl Minutes {
    /// The counts of a minute; `None` where that is no longer kept.
    fn of(&mut self, minute: i64) -> Option<&mut Counts> {
        let newest = self.0.back().map_or(minute, |last| last.minute.max(minute));
        while self.0.front().is_some_and(|first| first.minute <= newest - MINUTES as i64) {
            self.0.pop_front();
        }
        if minute <= newest - MINUTES as i64 {
            return None;
        }
        let place = self.0.partition_point(|counts| counts.minute < minute);
        if self.0.get(place).is_none_or(|counts| counts.minute != minute) {
            let (took_us, age_ms) = (histogram(), histogram());
            self.0.insert(place, Counts { minute, verdicts: Default::default(), took_us, age_ms });
            // Ages are told of the last ones only
            if let Some(before) = self.0.len().checked_sub(LATEST + 1) {
                self.0[before].age_ms = None;
            }
        }
        self.0.get_mut(place)
    }

    /// Counts `n` messages with the same verdict.
    pub fn count(&mut self, minute: i64, outcome: Outcome, n: u64) {
        if let Some(counts) = self.of(minute) {
            counts.verdicts[outcome as usize] += n;
        }
    }

    /// Notes how long the stop took, in microseconds, over `n` messages.
    pub fn took(&mut self, minute: i64, micros: u64, n: u64) {
        if let Some(took) = self.of(minute).and_then(|counts| counts.took_us.as_mut()) {
            // Grows as far as the largest value
            let _ = took.record_n(micros.min(LARGEST), u32::try_from(n).unwrap_or(u32::MAX));
        }
    }

    /// Notes how old messages were, in milliseconds.
    pub fn ages(&mut self, minute: i64, millis: impl Iterator<Item = u64>) {
        if let Some(ages) = self.of(minute).and_then(|counts| counts.age_ms.as_mut()) {
            millis.for_each(|millis| _ = ages.record(millis.min(LARGEST)));
        }
    }

    /// Of the last minute with messages and the one before it: how long the stop took in microseconds, and how old the
    /// messages were in milliseconds.
    pub fn percentiles(&self) -> (Option<Percentiles>, Option<Percentiles>) {
        let of = |part: fn(&Counts) -> Option<&Histogram<u32>>| {
            let mut all = histogram()?;
            for histogram in self.0.iter().rev().take(LATEST).filter_map(part) {
                all.add(histogram).ok()?;
            }
            percentiles(&all)
        };
        (of(|counts| counts.took_us.as_ref()), of(|counts| counts.age_ms.as_ref()))
    }

    /// The last hour up to `now`, oldest first; minutes in which nothing happened are there, too, from the first on in
    /// which something did.
    pub fn last_hour(&self, now: i64) -> Vec<Minute> {
        let first = self.0.front().map_or(now + 1, |first| first.minute).max(now + 1 - MINUTES as i64);
        let minute = |minute: i64| {
            let found = self.0.binary_search_by_key(&minute, |counts| counts.minute).ok();
            let counts = found.and_then(|place| self.0.get(place));
            let count = |outcome: Outcome| counts.map_or(0, |counts| counts.verdicts[outcome as usize]);
            Minute {
                time: minute * 60_000,
                forwarded: count(Outcome::Forwarded),
                finished: count(Outcome::Finished),
                dropped: count(Outcome::Dropped),
                rejected: count(Outcome::Rejected),
                replayed: count(Outcome::Replayed),
                discarded: count(Outcome::Discarded),
                took_us: counts.and_then(|counts| percentiles(counts.took_us.as_ref()?)),
            }
        };
        (first..=now).map(minute).collect()
    }
}

/// Empty, and small until something large is recorded.
fn histogram() -> Option<Histogram<u32>> {
    Histogram::new(DIGITS).ok()
}

fn percentiles(histogram: &Histogram<u32>) -> Option<Percentiles> {
    let at = |quantile| histogram.value_at_quantile(quantile);
    (!histogram.is_empty()).then(|| Percentiles { p50: at(0.5), p99: at(0.99) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_is_kept_and_no_more() {
        let mut minutes = Minutes::default();
        for minute in 0..100 {
            minutes.count(minute, Outcome::Finished, 1 + minute as u64);
        }
        minutes.count(2, Outcome::Finished, 1_000_000);
        let hour = minutes.last_hour(99);
        assert_eq!((hour.len(), hour[0].time, hour[0].finished, hour[59].finished), (60, 40 * 60_000, 41, 100));
        assert_eq!(minutes.last_hour(129).len(), 60);
        assert_eq!(
            minutes.last_hour(129).iter().map(|minute| minute.finished).sum::<u64>(),
            (71..=100_u64).sum::<u64>()
        );
    }

    #[test]
    fn quiet_minutes_are_told_and_late_ones_counted() {
        let mut minutes = Minutes::default();
        assert!(minutes.last_hour(7).is_empty());
        minutes.count(7, Outcome::Dropped, 3);
        minutes.count(4, Outcome::Dropped, 2);
        minutes.count(7, Outcome::Rejected, 1);
        let told: Vec<_> = minutes.last_hour(8).iter().map(|minute| (minute.dropped, minute.rejected)).collect();
        assert_eq!(told, [(2, 0), (0, 0), (0, 0), (3, 1), (0, 0)]);
    }

    #[test]
    fn percentiles_are_of_the_last_minutes_with_messages() {
        let mut minutes = Minutes::default();
        assert_eq!(minutes.percentiles(), (None, None));
        minutes.took(1, 1_000_000, 1000);
        minutes.took(8, 100, 990);
        minutes.took(9, 5000, 10);
        minutes.ages(9, [1, 2, u64::MAX].into_iter());
        let (took, age) = minutes.percentiles();
        let near = |value: u64, expected: u64| value.abs_diff(expected) * 100 <= expected;
        let took = took.unwrap();
        assert!(near(took.p50, 100) && near(took.p99, 100), "{took:?}");
        assert_eq!(age.unwrap().p50, 2);
        minutes.took(9, 5000, 10);
        assert!(near(minutes.percentiles().0.unwrap().p99, 5000));
    }
}
