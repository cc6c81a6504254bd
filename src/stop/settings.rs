//! What stops have in common, and how often one tries.

use std::{sync::Arc, time::Duration};

use serde::Deserialize;

use crate::{
    bus::Topic,
    config::Config,
    journal,
    log::Redaction,
    slip::{Limits, Stops},
};

/// What all stops of a process have in common.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Messages that a handler sees at most at once.
    pub batch: usize,
    pub limits: Limits,
    pub retry: Retry,
    /// The topics that a slip may name.
    pub stops: Arc<Stops>,
    /// Where dead letters go.
    pub error_topic: Topic,
    /// What is noted of each hop, and where.
    pub journal: Arc<journal::Options>,
    /// What of a message comes into the log.
    pub redaction: Redaction,
    /// How long the end of the process waits for what is in flight.
    pub shutdown_timeout: Duration,
    /// How long the start waits for the bus; `None` for ever.
    pub connect_timeout: Option<Duration>,
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Self {
        Self {
            batch: config.batch,
            limits: config.limits,
            retry: config.retry,
            stops: Arc::new(Stops::new(config.slip_topics())),
            error_topic: config.error_topic.clone(),
            journal: Arc::new(config.journal.clone()),
            redaction: Redaction::new(config.log.redact),
            shutdown_timeout: config.shutdown_timeout,
            connect_timeout: None,
        }
    }
}

impl From<&Settings> for Settings {
    fn from(settings: &Settings) -> Self {
        settings.clone()
    }
}

/// How often and how long after one another a message is tried: `[retry]`, or `retry` in the section of a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// Attempts in all, the first one included.
    pub max_attempts: u32,
    /// The wait before the second attempt; doubled before each further one, with jitter.
    pub first: Duration,
    /// The longest wait.
    pub max: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { max_attempts: 5, first: Duration::from_millis(100), max: Duration::from_secs(10) }
    }
}
