//! Adds up the entries of the journal.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    minutes::Minutes,
    picture::{Edge, Reason, Recent, Stop, StopHistory, Volume},
    rate::Rate,
};
use crate::journal::{Entry, Hop, Id, Outcome, label};

/// What is told apart at most: what stands in the journal may be anybody's to write. Stops, topics of one, ways.
const STOPS: usize = 1000;
const TOPICS: usize = 100;
const EDGES: usize = 10_000;

/// Reasons of a stop that are told apart; later ones are counted together.
const REASONS: usize = 100;
const OTHER: &str = "other";

/// Reasons of a stop that are told.
const REASONS_TOLD: usize = 20;

/// Messages of a stop that are kept.
const RECENT: usize = 20;

/// Texts are kept up to this length, in characters.
const TEXT: usize = 200;

/// Milliseconds of a minute.
const MINUTE_US: i64 = 60_000_000;

#[derive(Default)]
pub struct Ledger {
    stops: BTreeMap<String, Counts>,
    ways: BTreeMap<Way, Rate>,
    /// The oldest hop, microseconds since the epoch.
    since: Option<i64>,
    hops: u64,
}

#[derive(Default)]
struct Counts {
    topics: BTreeSet<String>,
    all: Rate,
    verdicts: [Rate; Outcome::ALL.len()],
    reasons: BTreeMap<(Outcome, String), Rate>,
    minutes: Minutes,
    recent: VecDeque<Recent>,
}

/// From where to where, as it is called there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Way {
    from: String,
    to: String,
    verdict: Option<Outcome>,
}

/// Messages of an entry that have everything in common.
struct Run<'a> {
    outcome: Outcome,
    reason: Option<&'a str>,
    next: Option<&'a str>,
    count: u64,
}

impl Ledger {
    /// Takes an entry in. Its messages count as those of the second `second`, by any clock, for what is of late; for the
    /// last hour the time counts that stands in the entry, or `now` (microseconds since the epoch) where that is later.
    pub fn take(&mut self, entry: &Entry<'_>, second: u64, now: i64) {
        if self.stops.len() >= STOPS && !self.stops.contains_key(entry.stop) {
            return;
        }
        let time = entry.time.min(now);
        let minute = time.div_euclid(MINUTE_US);
        let mut runs: Vec<Run<'_>> = Vec::new();
        let (mut ages, mut last) = (Vec::new(), Vec::new());
        for (nth, hop) in entry.hops().flatten().enumerate() {
            match runs.last_mut().filter(|run| run.is_of(&hop)) {
                Some(run) => run.count += 1,
                None => runs.push(Run { outcome: hop.outcome, reason: hop.reason, next: hop.next, count: 1 }),
            }
            ages.extend(began(&hop.id).map(|began| (time / 1000).saturating_sub(began).max(0) as u64));
            if nth + RECENT >= entry.len as usize {
                last.push(hop);
            }
        }
        let count: u64 = runs.iter().map(|run| run.count).sum();
        if count == 0 {
            return;
        }
        self.hops += count;
        self.since = Some(self.since.map_or(time, |since| since.min(time)));
        let stop = entry_of(&mut self.stops, entry.stop);
        for run in &runs {
            stop.count(run, second, minute);
        }
        let judged: u64 = runs.iter().filter(|run| run.outcome.is_verdict()).map(|run| run.count).sum();
        if judged > 0 {
            stop.minutes.took(minute, entry.took.into(), judged);
            stop.minutes.ages(minute, ages.into_iter());
            stop.all.add(judged, second);
            if stop.topics.len() < TOPICS {
                stop.topics.insert(shortened(entry.topic));
            }
        }
        stop.keep(entry, last);
        if judged > 0 {
            self.pass(topic(entry.topic), stop_node(entry.stop), None, judged, second);
        }
        for run in runs {
            let Some(next) = run.next else { continue };
            // What is done with a dead letter begins where the letter lies
            let from = if run.outcome.is_verdict() { stop_node(entry.stop) } else { topic(entry.topic) };
            self.pass(from, topic(next), Some(run.outcome), run.count, second);
        }
    }

    fn pass(&mut self, from: String, to: String, verdict: Option<Outcome>, count: u64, second: u64) {
        let way = Way { from, to, verdict };
        if self.ways.len() < EDGES || self.ways.contains_key(&way) {
            self.ways.entry(way).or_default().add(count, second);
        }
    }

    /// Hops taken in.
    pub fn hops(&self) -> u64 {
        self.hops
    }

    /// When the oldest of them was, milliseconds since the epoch.
    pub fn since(&self) -> Option<i64> {
        self.since.map(|since| since.div_euclid(1000))
    }

    /// The stops at `now`, in seconds by the clock of [`Ledger::take`].
    pub fn stops(&self, now: f64) -> Vec<Stop> {
        // One of which only dead letters are known, that were dealt with, may be another program's
        let known = self.stops.iter().filter(|(_, counts)| counts.all.count > 0);
        known.map(|(name, counts)| counts.stop(name, now)).collect()
    }

    pub fn edges(&self, now: f64) -> Vec<Edge> {
        let edge = |(way, rate): (&Way, &Rate)| {
            let Way { from, to, verdict } = way.clone();
            Edge { from, to, verdict, volume: volume(rate, now) }
        };
        self.ways.iter().map(edge).collect()
    }

    /// The names of all topics that messages were on.
    pub fn topics(&self) -> BTreeSet<String> {
        let ends = self.ways.keys().flat_map(|way| [&way.from, &way.to]);
        ends.filter_map(|end| end.strip_prefix(TOPIC)).map(str::to_owned).collect()
    }

    /// The last hour of a stop; `now` is in microseconds since the epoch. `None` where nothing is known of it.
    pub fn history(&self, name: &str, now: i64) -> Option<StopHistory> {
        let counts = self.stops.get(name)?;
        Some(StopHistory {
            name: name.to_owned(),
            topics: counts.topics.iter().cloned().collect(),
            minutes: counts.minutes.last_hour(now.div_euclid(MINUTE_US)),
            recent: counts.recent.iter().rev().cloned().collect(),
        })
    }
}

impl Run<'_> {
    /// Whether a hop belongs to it. Texts of an entry lie in one place each, mostly.
    fn is_of(&self, hop: &Hop<'_>) -> bool {
        let same = |a: Option<&str>, b: Option<&str>| match (a, b) {
            (Some(a), Some(b)) => std::ptr::eq(a, b) || a == b,
            (None, None) => true,
            _ => false,
        };
        self.outcome == hop.outcome && same(self.reason, hop.reason) && same(self.next, hop.next)
    }
}

impl Counts {
    fn count(&mut self, run: &Run<'_>, second: u64, minute: i64) {
        self.verdicts[run.outcome as usize].add(run.count, second);
        self.minutes.count(minute, run.outcome, run.count);
        let Some(reason) = run.reason.filter(|_| matches!(run.outcome, Outcome::Dropped | Outcome::Rejected)) else {
            return;
        };
        let reason = shortened(label(reason));
        let known = self.reasons.contains_key(&(run.outcome, reason.clone()));
        let reason = if known || self.reasons.len() < REASONS { reason } else { OTHER.to_owned() };
        self.reasons.entry((run.outcome, reason)).or_default().add(run.count, second);
    }

    fn keep(&mut self, entry: &Entry<'_>, last: Vec<Hop<'_>>) {
        for hop in last {
            if self.recent.len() == RECENT {
                self.recent.pop_front();
            }
            self.recent.push_back(Recent {
                id: (!hop.id.is_none()).then(|| hop.id.to_string()),
                place: format!("{}/{}/{}", entry.topic, entry.partition, hop.offset),
                time_us: entry.time,
                verdict: hop.outcome,
                reason: hop.reason.map(shortened),
                next: hop.next.map(shortened),
                took_us: entry.took,
            });
        }
    }

    fn stop(&self, name: &str, now: f64) -> Stop {
        let (took_us, age_ms) = self.minutes.percentiles();
        let verdict = |outcome: Outcome| (outcome, volume(&self.verdicts[outcome as usize], now));
        let reason = |((verdict, reason), rate): (&(Outcome, String), &Rate)| Reason {
            verdict: *verdict,
            reason: reason.clone(),
            volume: volume(rate, now),
        };
        let mut reasons: Vec<_> = self.reasons.iter().map(reason).collect();
        reasons.sort_by_key(|reason| std::cmp::Reverse(reason.volume.count));
        reasons.truncate(REASONS_TOLD);
        Stop {
            name: name.to_owned(),
            topics: self.topics.iter().cloned().collect(),
            volume: volume(&self.all, now),
            took_us,
            age_ms,
            verdicts: Outcome::ALL.into_iter().map(verdict).collect(),
            reasons,
        }
    }
}

/// Tenths are told.
fn volume(rate: &Rate, now: f64) -> Volume {
    Volume { count: rate.count, rate: (rate.per_second(now) * 10.0).round() / 10.0 }
}

const TOPIC: &str = "topic:";

fn topic(name: &str) -> String {
    format!("{TOPIC}{}", shortened(name))
}

fn stop_node(name: &str) -> String {
    format!("stop:{}", shortened(name))
}

fn shortened(text: &str) -> String {
    text.chars().take(TEXT).collect()
}

/// The value for `name`, made where it is missing.
fn entry_of<'a>(stops: &'a mut BTreeMap<String, Counts>, name: &str) -> &'a mut Counts {
    stops.entry(shortened(name)).or_default()
}

/// When the message with this id was given it, milliseconds since the epoch; ids of the busdriver tell that (UUID
/// version 7, RFC 9562).
fn began(id: &Id<'_>) -> Option<i64> {
    match id {
        Id::Uuid(uuid) if uuid[6] >> 4 == 7 => Some((u128::from_be_bytes(*uuid) >> 80) as i64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Writer;

    /// An entry with hops of `(id, outcome, reason, next)`.
    fn entry(stop: &str, topic: &str, time: i64, hops: &[(Id<'_>, Outcome, Option<&str>, Option<&str>)]) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.begin(stop, topic, 0, time);
        for (offset, (id, outcome, reason, next)) in hops.iter().enumerate() {
            let (offset, id, outcome, attempts) = (offset as i64, *id, *outcome, 1);
            let (reason, next) = (*reason, *next);
            writer.push(&Hop {
                offset,
                id,
                outcome,
                attempts,
                reason,
                next,
                rule: None,
                key: None,
                fields: Default::default(),
            });
        }
        writer.finish(700).to_vec()
    }

    fn take(ledger: &mut Ledger, entry: &[u8], second: u64) {
        ledger.take(&Entry::read(entry).unwrap(), second, i64::MAX);
    }

    const NONE: Id<'_> = Id::None;

    #[test]
    fn messages_are_counted_by_stop_verdict_reason_and_way() {
        let mut ledger = Ledger::default();
        let (forwarded, dropped, rejected) = (Outcome::Forwarded, Outcome::Dropped, Outcome::Rejected);
        take(
            &mut ledger,
            &entry(
                "a",
                "In",
                61_000_000,
                &[
                    (NONE, forwarded, None, Some("Out")),
                    (NONE, forwarded, None, Some("Out")),
                    (NONE, dropped, Some("too old: 5 days"), None),
                    (NONE, dropped, Some("too old: 6 days"), None),
                    (NONE, rejected, Some("broken"), Some("Error")),
                    (NONE, forwarded, None, Some("Out")),
                ],
            ),
            100,
        );
        take(
            &mut ledger,
            &entry("a", "Error", 62_000_000, &[(NONE, Outcome::Replayed, Some("broken"), Some("In"))]),
            100,
        );
        let stops = ledger.stops(101.0);
        let [stop] = &stops[..] else { panic!("{stops:?}") };
        assert_eq!((stop.volume.count, stop.topics.as_slice()), (6, &["In".to_owned()][..]));
        let counts = Outcome::ALL.map(|outcome| stop.verdict(outcome).count);
        assert_eq!(counts, [3, 0, 2, 1, 1, 0]);
        let reasons: Vec<_> = stop.reasons.iter().map(|of| (of.verdict, of.reason.as_str(), of.volume.count)).collect();
        assert_eq!(reasons, [(dropped, "too old", 2), (rejected, "broken", 1)]);
        let edges: Vec<_> =
            ledger.edges(101.0).into_iter().map(|edge| (edge.from, edge.to, edge.verdict, edge.volume.count)).collect();
        let edge = |from: &str, to: &str, verdict, count| (from.to_owned(), to.to_owned(), verdict, count);
        assert_eq!(
            edges,
            [
                edge("stop:a", "topic:Error", Some(rejected), 1),
                edge("stop:a", "topic:Out", Some(forwarded), 3),
                edge("topic:Error", "topic:In", Some(Outcome::Replayed), 1),
                edge("topic:In", "stop:a", None, 6),
            ]
        );
        assert_eq!(ledger.topics().into_iter().collect::<Vec<_>>(), ["Error", "In", "Out"]);
        assert_eq!((ledger.hops(), ledger.since()), (7, Some(61_000)));
        assert_eq!(stop.volume.rate, 1.5);
        assert_eq!(ledger.stops(200.0)[0].volume.rate, 0.0);
    }

    #[test]
    fn ages_are_those_that_ids_tell() {
        let mut ledger = Ledger::default();
        let mut uuid = [0; 16];
        uuid[..6].copy_from_slice(&1_000_000_u64.to_be_bytes()[2..]);
        uuid[6] = 0x70;
        let hop = (Id::Uuid(uuid), Outcome::Finished, None, None);
        take(&mut ledger, &entry("a", "In", 1_000_250_000, &[hop, (NONE, Outcome::Finished, None, None)]), 100);
        let stop = &ledger.stops(100.0)[0];
        assert_eq!(stop.age_ms.unwrap().p99, 250);
        assert!(stop.took_us.unwrap().p50.abs_diff(700) < 8);
    }

    #[test]
    fn the_last_messages_of_a_stop_are_kept() {
        let mut ledger = Ledger::default();
        assert!(ledger.history("a", 0).is_none());
        let ids: Vec<_> = (0..50).map(|n| n.to_string()).collect();
        let hops: Vec<_> = ids.iter().map(|id| (Id::new(id), Outcome::Finished, None, None)).collect();
        for (nth, hops) in hops.chunks(15).enumerate() {
            take(&mut ledger, &entry("a", "In", 60_000_000 * nth as i64, hops), 100);
        }
        let history = ledger.history("a", 240_000_000).unwrap();
        let recent: Vec<_> = history.recent.iter().map(|recent| recent.id.as_deref().unwrap()).collect();
        assert_eq!((recent.len(), recent[0], recent[19]), (20, "49", "30"));
        assert_eq!(history.recent[0].place, "In/0/4");
        let finished: Vec<_> = history.minutes.iter().map(|minute| minute.finished).collect();
        assert_eq!(finished, [15, 15, 15, 5, 0]);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut ledger = Ledger::default();
        let text = "x".repeat(5000);
        for n in 0..3000 {
            let (name, reason) = (format!("{n}{text}"), format!("{n} {text}"));
            let hop = (NONE, Outcome::Rejected, Some(reason.as_str()), Some(name.as_str()));
            take(&mut ledger, &entry(&name, &name, 0, &[hop]), 1);
            take(&mut ledger, &entry("one", &name, 0, &[hop]), 1);
        }
        let stops = ledger.stops(1.0);
        assert_eq!(stops.len(), STOPS);
        let one = stops.iter().find(|stop| stop.name == "one").unwrap();
        assert_eq!((one.volume.count, one.topics.len(), one.reasons.len()), (3000, TOPICS, REASONS_TOLD));
        assert!(one.reasons[0].reason == OTHER && one.reasons.iter().all(|reason| reason.reason.len() <= TEXT));
        assert!(ledger.edges(1.0).len() <= EDGES);
    }

    #[test]
    fn damaged_entries_count_as_far_as_they_read() {
        let mut ledger = Ledger::default();
        let whole = entry("a", "In", 0, &[(Id::Text("seven"), Outcome::Finished, None, None); 3]);
        for end in 0..whole.len() {
            if let Ok(entry) = Entry::read(&whole[..end]) {
                ledger.take(&entry, 1, 1);
            }
        }
        assert!(ledger.stops(1.0).iter().all(|stop| stop.volume.count > 0));
    }
}
