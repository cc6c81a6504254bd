//! Where messages go that a rule matches.

use std::time::Duration;

use humantime::format_duration;

use super::Timestamp;
use crate::{bus::Topic, slip::Itinerary};

/// A route, those of the copies, and how long all of them may take.
#[derive(Debug)]
pub struct Routing {
    pub(super) route: Itinerary,
    pub(super) copies: Vec<Itinerary>,
    pub(super) deadline: Option<Duration>,
}

impl Routing {
    /// The stops in the order of travel.
    pub fn stops(&self) -> &[Topic] {
        self.route.stops()
    }

    /// The stops of each copy.
    pub fn copies(&self) -> impl ExactSizeIterator<Item = &[Topic]> {
        self.copies.iter().map(Itinerary::stops)
    }

    /// How long a message may be on its way.
    pub fn deadline(&self) -> Option<Duration> {
        self.deadline
    }

    /// The time at which a message is up that sets out now, in milliseconds since the epoch.
    pub(super) fn expires(&self, now: Timestamp) -> Option<i64> {
        let end = now.0 / 1_000_000 + i128::try_from(self.deadline?.as_millis()).unwrap_or(i128::MAX >> 1);
        Some(i64::try_from(end).unwrap_or(i64::MAX))
    }

    /// As in `AddEmail → Log; copies: Audit → Log, Billing; within 30s`.
    pub fn text(&self) -> String {
        let path = |stops: &[Topic]| stops.iter().map(Topic::as_str).collect::<Vec<_>>().join(" → ");
        let mut text = path(self.stops());
        if !self.copies.is_empty() {
            text += &format!("; copies: {}", self.copies().map(path).collect::<Vec<_>>().join(", "));
        }
        if let Some(deadline) = self.deadline {
            text += &format!("; within {}", format_duration(deadline));
        }
        text
    }

    /// All routes, that of the message first.
    pub fn routes(&self) -> impl Iterator<Item = &[Topic]> {
        std::iter::once(self.stops()).chain(self.copies())
    }
}

/// Whether they send messages the same ways, whatever rule they are of.
impl PartialEq for Routing {
    fn eq(&self, other: &Self) -> bool {
        self.routes().eq(other.routes()) && self.deadline == other.deadline
    }
}

impl Eq for Routing {}
