//! What a stop has done so far, in numbers.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hdrhistogram::Histogram;

mod buckets;

pub use buckets::{Buckets, DURATIONS, SIZES};

/// Different reasons that are counted apart; later ones are counted together as [`OTHER`].
const REASONS: usize = 100;
const OTHER: &str = "other";

/// The longest journey that is told apart, in milliseconds: an hour.
const LONGEST_MS: u64 = 3_600_000;

/// Counts since the start of a stop.
#[derive(Clone, Debug)]
pub struct Stats {
    /// Messages judged; `read = forwarded + finished + dropped + rejected` whenever a batch has been settled.
    pub read: u64,
    pub forwarded: u64,
    pub finished: u64,
    /// By reason, as is the next; of one that was put together, its text before the first colon.
    pub dropped: BTreeMap<String, u64>,
    pub rejected: BTreeMap<String, u64>,
    /// Copies that were sent beside what was forwarded.
    pub copied: u64,
    /// Attempts beyond the first.
    pub retried: u64,
    /// Whole journeys that ended here, in milliseconds from the timestamp of their first record.
    pub journeys: Histogram<u64>,
    /// Messages of a batch, or of the part of one that was settled at once.
    pub batches: Buckets,
    /// How long such a part was handled and what came of it written down, in seconds.
    pub handling: Buckets,
    /// How long the bus took to settle it, in seconds; where it pipelines, to take it over.
    pub settling: Buckets,
}

impl Default for Stats {
    fn default() -> Self {
        // Bounds that the crate accepts, see its docs: low >= 1, high >= 2 * low, at most 5 significant digits
        #[allow(clippy::expect_used)]
        let journeys = Histogram::new_with_bounds(1, LONGEST_MS, 3).expect("bounds are valid");
        Self {
            read: 0,
            forwarded: 0,
            finished: 0,
            dropped: BTreeMap::new(),
            rejected: BTreeMap::new(),
            copied: 0,
            retried: 0,
            journeys,
            batches: Buckets::new(SIZES),
            handling: Buckets::new(DURATIONS),
            settling: Buckets::new(DURATIONS),
        }
    }
}

impl Stats {
    /// Adds the counts of one settled range.
    pub(crate) fn add(&mut self, tally: &Tally, now_ms: i64) {
        self.read += tally.read;
        self.forwarded += tally.forwarded;
        self.finished += tally.finished.len() as u64;
        self.copied += tally.copied as u64;
        for started in tally.finished.iter().filter(|started| **started >= 0) {
            self.journeys.saturating_record(now_ms.saturating_sub(*started).max(0) as u64);
        }
        for (counts, reasons) in [(&mut self.dropped, &tally.dropped), (&mut self.rejected, &tally.rejected)] {
            for (reason, count) in reasons {
                count_reason(counts, reason, *count);
            }
        }
    }

    /// Adds how long a settled range of `messages` took.
    pub(crate) fn took(&mut self, messages: usize, handling: Duration, settling: Duration) {
        self.batches.record(messages as f64);
        self.handling.record(handling.as_secs_f64());
        self.settling.record(settling.as_secs_f64());
    }

    /// Moves `count` messages from forwarded to rejected: the bus refused their output after it was settled.
    pub(crate) fn refuse(&mut self, count: u64) {
        self.forwarded = self.forwarded.saturating_sub(count);
        count_reason(&mut self.rejected, "output refused by the bus", count);
    }
}

fn count_reason(counts: &mut BTreeMap<String, u64>, reason: &str, count: u64) {
    if count == 0 {
        return;
    }
    match counts.get_mut(reason) {
        Some(sum) => *sum += count,
        None => {
            let reason = if counts.len() < REASONS { reason } else { OTHER };
            *counts.entry(reason.to_owned()).or_default() += count;
        }
    }
}

/// The counts of one range of a batch, taken while its verdicts are carried out.
#[derive(Default)]
pub(crate) struct Tally {
    pub read: u64,
    pub forwarded: u64,
    pub copied: usize,
    /// Bytes of all copies.
    pub copied_bytes: usize,
    /// Timestamps of the messages whose journeys ended here.
    pub finished: Vec<i64>,
    pub dropped: Vec<(Reason, u64)>,
    pub rejected: Vec<(Reason, u64)>,
    /// How long handling took, and writing down what came of it.
    pub handling: Duration,
}

impl Tally {
    /// Messages that were handled as they should be, and messages that were not.
    pub fn health(&self) -> (u64, u64) {
        let rejected: u64 = self.rejected.iter().map(|(_, count)| count).sum();
        (self.read.saturating_sub(rejected), rejected)
    }
}

/// Counts one more of `reason`, cheaply where the reasons repeat, and never dearly.
pub(crate) fn tally(reasons: &mut Vec<(Reason, u64)>, reason: Reason) {
    let mut place = reasons.iter().position(|(known, _)| *known == reason);
    if place.is_none() && reasons.len() >= REASONS {
        place = reasons.iter().position(|(known, _)| known == OTHER);
        if place.is_none() {
            return reasons.push((OTHER.into(), 1));
        }
    }
    match place {
        Some(place) => reasons[place].1 += 1,
        None => reasons.push((reason, 1)),
    }
}

/// Why a message was dropped or rejected; mostly one of few fixed texts.
pub(crate) type Reason = Cow<'static, str>;

/// [`Stats`] of a stop that runs, for others to look at.
#[derive(Clone, Debug, Default)]
pub struct SharedStats(Arc<Mutex<Stats>>);

impl SharedStats {
    pub fn snapshot(&self) -> Stats {
        self.lock().clone()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Stats> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
