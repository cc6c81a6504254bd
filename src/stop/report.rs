//! What a stop tells of itself now and then: how far behind it is, and what it dropped and rejected, by reason.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use tracing::{info, warn};

use crate::{
    bus::Subscription,
    stats::{SharedStats, Stats},
};

/// Between two reports.
const INTERVAL: Duration = Duration::from_secs(30);

/// Reasons that a report tells apart; the rarer ones are told together.
const REASONS: usize = 20;

pub(super) struct Report {
    stop: String,
    last: Option<Instant>,
    dropped: BTreeMap<String, u64>,
    rejected: BTreeMap<String, u64>,
}

impl Report {
    pub fn new(stop: &str) -> Self {
        Self { stop: stop.to_owned(), last: None, dropped: BTreeMap::new(), rejected: BTreeMap::new() }
    }

    /// Reports where it is time.
    pub fn now_and_then(&mut self, subscription: &mut dyn Subscription, stats: &SharedStats) {
        if self.last.is_some_and(|last| last.elapsed() < INTERVAL) {
            return;
        }
        self.last = Some(Instant::now());
        self.outcomes(&stats.snapshot());
        if let Ok(lag @ 1..) = subscription.lag() {
            info!(stop = self.stop, lag, "behind");
        }
    }

    /// Tells what was dropped and rejected since it was told last.
    pub fn outcomes(&mut self, stats: &Stats) {
        let stop = self.stop.as_str();
        for (reason, count) in news(&self.dropped, &stats.dropped) {
            info!(stop, reason, count, "dropped");
        }
        for (reason, count) in news(&self.rejected, &stats.rejected) {
            warn!(stop, reason, count, "rejected");
        }
        self.dropped.clone_from(&stats.dropped);
        self.rejected.clone_from(&stats.rejected);
    }
}

/// What `now` holds beyond `before`, the most frequent first.
fn news<'a>(before: &BTreeMap<String, u64>, now: &'a BTreeMap<String, u64>) -> Vec<(&'a str, u64)> {
    let more = now.iter().map(|(reason, count)| (reason.as_str(), count - before.get(reason).unwrap_or(&0)));
    let mut more: Vec<_> = more.filter(|(_, count)| *count > 0).collect();
    more.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    if more.len() > REASONS {
        let rest = more.drain(REASONS - 1..).map(|(_, count)| count).sum();
        more.push(("other reasons", rest));
    }
    more
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(counts: &[(&str, u64)]) -> BTreeMap<String, u64> {
        counts.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect()
    }

    #[test]
    fn only_what_is_new_is_told_the_most_frequent_first() {
        let now = counts(&[("a", 5), ("b", 9), ("c", 1)]);
        assert_eq!(news(&counts(&[]), &now), [("b", 9), ("a", 5), ("c", 1)]);
        assert_eq!(news(&counts(&[("a", 3), ("b", 9)]), &now), [("a", 2), ("c", 1)]);
    }

    #[test]
    fn rare_reasons_are_told_together() {
        let many: BTreeMap<_, _> = (0..50).map(|n| (format!("{n}"), if n == 7 { 10 } else { 1 })).collect();
        let told = news(&counts(&[]), &many);
        assert_eq!((told.len(), told[0], told[REASONS - 1]), (REASONS, ("7", 10), ("other reasons", 31)));
    }
}
