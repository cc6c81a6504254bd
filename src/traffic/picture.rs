//! What is shown of the traffic. Serialised as it is, this is what the page is told.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::journal::{Level, Outcome};

/// What goes on at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Picture {
    /// When it was taken, milliseconds since the epoch.
    pub time: i64,
    /// The time of the oldest hop that counts, milliseconds since the epoch.
    pub since: Option<i64>,
    pub bus: State,
    pub journal: JournalState,
    pub topics: Vec<TopicState>,
    pub stops: Vec<Stop>,
    pub edges: Vec<Edge>,
}

impl Picture {
    /// Whether it shows what `other` does, whenever that was taken.
    pub(super) fn shows_as(&self, other: &Self) -> bool {
        let Self { time: _, since, bus, journal, topics, stops, edges } = self;
        (since, bus, journal) == (&other.since, &other.bus, &other.journal)
            && (topics, stops, edges) == (&other.topics, &other.stops, &other.edges)
    }
}

/// Whether something is there, and if not, why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct State {
    pub ok: bool,
    /// `None` also where nothing has been tried yet.
    pub error: Option<String>,
}

/// How far the journal has been read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JournalState {
    pub level: Level,
    #[serde(flatten)]
    pub state: State,
    /// Hops read so far.
    pub hops: u64,
}

/// What lies on a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TopicState {
    pub name: String,
    pub kind: TopicKind,
    /// Records kept at present; `None` where that is not known.
    pub records: Option<u64>,
    /// Records that wait for their stop; `None` where no stop reads it, or where that is not known.
    pub lag: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TopicKind {
    /// A stop of the configuration reads it.
    Stop,
    /// It takes the dead letters.
    Dead,
    Other,
}

/// How many, since the beginning of what is counted, and each second of late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Volume {
    pub count: u64,
    pub rate: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    pub p50: u64,
    pub p99: u64,
}

/// A stop, all its instances together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stop {
    pub name: String,
    /// What it reads.
    pub topics: Vec<String>,
    /// Messages that it has judged.
    #[serde(flatten)]
    pub volume: Volume,
    /// How long it took for the batch that a message was in, microseconds.
    pub took_us: Option<Percentiles>,
    /// How long messages had been on their way, milliseconds; of those whose id tells when they began.
    pub age_ms: Option<Percentiles>,
    pub verdicts: BTreeMap<Outcome, Volume>,
    /// Why messages were dropped or rejected, the most frequent first.
    pub reasons: Vec<Reason>,
}

impl Stop {
    /// How many messages had this verdict.
    pub fn verdict(&self, outcome: Outcome) -> Volume {
        self.verdicts.get(&outcome).copied().unwrap_or_default()
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reason {
    pub verdict: Outcome,
    pub reason: String,
    #[serde(flatten)]
    pub volume: Volume,
}

/// A way that messages take. Its ends are `topic:NAME` and `stop:NAME`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Edge {
    pub from: String,
    pub to: String,
    /// `None` from a topic to its stop.
    pub verdict: Option<Outcome>,
    #[serde(flatten)]
    pub volume: Volume,
}

/// A stop's last hour, and its last messages.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StopHistory {
    pub name: String,
    pub topics: Vec<String>,
    /// The oldest first.
    pub minutes: Vec<Minute>,
    /// The newest first.
    pub recent: Vec<Recent>,
}

/// Messages by verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Minute {
    /// When it began, milliseconds since the epoch.
    pub time: i64,
    pub forwarded: u64,
    pub finished: u64,
    pub dropped: u64,
    pub rejected: u64,
    pub replayed: u64,
    pub discarded: u64,
    pub took_us: Option<Percentiles>,
}

/// One message at a stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Recent {
    pub id: Option<String>,
    /// `topic/partition/offset`.
    pub place: String,
    /// When its batch was begun, microseconds since the epoch.
    pub time_us: i64,
    pub verdict: Outcome,
    pub reason: Option<String>,
    pub next: Option<String>,
    /// Microseconds that the batch took.
    pub took_us: u32,
}
