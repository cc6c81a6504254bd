//! Subscribers: who is called when a message comes by, with which of them, and how.
//!
//! Flow: [`Watched`] reads them from the configuration (`config`) and from a table in SQLite (`table`), and again whenever one of
//! the two changes.

mod config;
mod table;
#[cfg(test)]
mod tests;
mod watch;

pub use config::SubscriberOptions;
pub use watch::{Watched, check, load};

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use reqwest::header::HeaderMap;

use crate::{
    bus::Topic,
    filter::Filter,
    webhook::{breaker, schedule::Schedule, signature::Secret, target::Target},
};

/// Somebody who is called for messages of one topic.
#[derive(Debug)]
pub struct Subscriber {
    /// Unique, and the same for as long as the subscriber is known: what is to be delivered is kept under it.
    pub name: String,
    pub topic: Topic,
    pub target: Target,
    pub filter: Filter,
    /// To sign with; several while they are changed, none for requests without a signature.
    pub secrets: Vec<Secret>,
    /// Sent with each request.
    pub headers: HeaderMap,
    /// Most requests under way at once.
    pub concurrency: usize,
    /// Most requests in a second; `None` is no limit.
    pub rate: Option<f64>,
    /// Whether messages of one key are delivered one after another, in their order.
    pub ordered: bool,
    /// How long a request may take, its answer included.
    pub timeout: Duration,
    pub schedule: Schedule,
    pub breaker: breaker::Limits,
    /// Whether it is one of switch's table: then a message that has switch's shape is taken for one, see
    /// [`template`](crate::webhook::template).
    pub of_switch: bool,
}

/// All subscribers that there are at a time.
#[derive(Debug, Default)]
pub struct Subscribers {
    by_name: HashMap<String, Arc<Subscriber>>,
    by_topic: HashMap<Topic, Vec<Arc<Subscriber>>>,
    left_out: HashSet<String>,
}

impl Subscribers {
    /// Of two with one name the later counts.
    pub fn new(all: impl IntoIterator<Item = impl Into<Arc<Subscriber>>>) -> Self {
        let mut found = Self::default();
        for subscriber in all.into_iter().map(Into::into) {
            if let Some(earlier) = found.by_name.insert(subscriber.name.clone(), Arc::clone(&subscriber))
                && let Some(same) = found.by_topic.get_mut(&earlier.topic)
            {
                same.retain(|other| other.name != earlier.name);
            }
            found.by_topic.entry(subscriber.topic.clone()).or_default().push(subscriber);
        }
        found.by_topic.retain(|_, all| !all.is_empty());
        found
    }

    /// Beside them there are some of these names of which something is wrong at present.
    pub fn leaving_out(self, names: HashSet<String>) -> Self {
        Self { left_out: names, ..self }
    }

    /// Whether there is one of this name, though it may not be called at present.
    pub fn knows(&self, name: &str) -> bool {
        self.by_name.contains_key(name) || self.left_out.contains(name)
    }

    /// Those of a topic, in the order in which they were given.
    pub fn of(&self, topic: &Topic) -> &[Arc<Subscriber>] {
        self.by_topic.get(topic).map_or(&[], Vec::as_slice)
    }

    pub fn named(&self, name: &str) -> Option<&Arc<Subscriber>> {
        self.by_name.get(name)
    }

    /// Topics that somebody subscribes to.
    pub fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.by_topic.keys()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Subscriber>> {
        self.by_name.values()
    }
}
