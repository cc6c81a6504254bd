//! What happened at each hop: which stop did what to which message, when, why, and where it went.
//!
//! A stop notes every message that it has judged, and publishes what it noted to the topic of `[journal]` in the same
//! settle as the messages themselves. So the journal is exactly as true as the bus: where that is exactly once, every hop
//! stands in it once. At least once, a hop that was done again stands there again, and of a stop that died there may stand a hop
//! whose output was lost with it, which is done again: where a journey begins, under another id.
//!
//! | file | what it is about |
//! | --- | --- |
//! | `entry` | the format: many hops in one record, a few bytes each |
//! | `id` | what a message is called |
//! | `notes` | what a stop gathers while it judges a batch |
//! | `repairs` | what was done with dead letters |
//! | `index` | a local SQLite file, made from the topic: hops by id, counts by reason |
//! | `follow` | reads the topic into the index |
//! | `journey` | the hops of one message, as a timeline |
//! | `search` | journeys by id, key, field or place |

pub mod entry;
pub mod follow;
mod id;
pub mod index;
pub mod journey;
mod notes;
mod repairs;
pub mod search;

use std::{
    fmt,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

pub use entry::{Entry, Hop, Writer};
pub use id::Id;
pub(crate) use notes::{Notes, What, note_refused};
pub(crate) use repairs::{Repair, Repairs};

use crate::bus::Topic;

/// The field that holds, where the journey of a copy begins, the id of the message that it is a copy of. Others are named as
/// `journal.fields` says.
pub const PARENT: &str = "metrobus.parent";

/// `[journal]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Options {
    pub level: Level,
    /// Takes the entries.
    pub topic: Topic,
    /// Names of payload fields whose values are noted where a journey begins.
    pub fields: Vec<String>,
    /// The index's file.
    pub index: PathBuf,
    /// Hops older than this may go; zero keeps them for ever.
    pub retention: Duration,
    /// More than about this many bytes may lose the oldest hops; 0 is no limit.
    pub retention_bytes: u64,
}

/// Which hops are noted. What is done with dead letters is, where anything is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    All,
    /// Those where a journey ends.
    Ends,
    Off,
}

/// What became of a message at a stop, or of its dead letter after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Forwarded,
    Finished,
    Dropped,
    Rejected,
    /// Its dead letter was sent again.
    Replayed,
    /// Its dead letter was given up.
    Discarded,
}

impl Outcome {
    pub const ALL: [Self; 6] =
        [Self::Forwarded, Self::Finished, Self::Dropped, Self::Rejected, Self::Replayed, Self::Discarded];

    /// Whether a journey ends with it.
    pub fn is_end(self) -> bool {
        !matches!(self, Self::Forwarded | Self::Replayed)
    }

    /// Whether a stop gave it, and not who dealt with a dead letter.
    pub fn is_verdict(self) -> bool {
        !matches!(self, Self::Replayed | Self::Discarded)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::Finished => "finished",
            Self::Dropped => "dropped",
            Self::Rejected => "rejected",
            Self::Replayed => "replayed",
            Self::Discarded => "discarded",
        }
    }

    /// In entries and in the index.
    fn code(self) -> u8 {
        self as u8
    }

    fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Microseconds since the epoch by this machine's clock.
pub(crate) fn now_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_micros() as i64)
}

/// What a reason is counted under: its text up to the first colon.
pub(crate) fn label(reason: &str) -> &str {
    reason.split(':').next().unwrap_or_default().trim_end()
}
