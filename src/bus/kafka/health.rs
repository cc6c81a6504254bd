//! Whether Kafka can be reached, told once and not at each attempt.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// How often a doubt is looked into.
const INTERVAL: Duration = Duration::from_secs(1);

/// One for all clients of a bus.
pub struct Health {
    brokers: String,
    /// A client lost its last connection, which may also be one that was idle.
    doubt: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    away: bool,
    reason: String,
    checked: Option<Instant>,
}

impl Health {
    pub fn new(brokers: &str) -> Self {
        Self { brokers: brokers.to_owned(), doubt: AtomicBool::new(false), state: Mutex::default() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an error of a client's connections; `down` where none is left.
    pub fn trouble(&self, down: bool, reason: &str) {
        tracing::debug!(target: "librdkafka", "{reason}");
        if down {
            self.doubt.store(true, Ordering::Relaxed);
        } else {
            self.state().reason = reason.to_owned();
        }
    }

    /// Whether a client lost its last connection since the last check.
    pub fn in_doubt(&self) -> bool {
        self.doubt.load(Ordering::Relaxed)
    }

    /// Forgets a doubt: it is about to be looked into anew.
    pub fn settle(&self) {
        self.doubt.store(false, Ordering::Relaxed);
    }

    /// Looks into a doubt where there is one, by `probe`, and says what it found where that is new.
    pub fn check(&self, probe: impl FnOnce() -> bool) {
        if !self.doubt.load(Ordering::Relaxed) {
            return;
        }
        let mut state = self.state();
        if state.checked.is_some_and(|at| at.elapsed() < INTERVAL) {
            return;
        }
        state.checked = Some(Instant::now());
        drop(state);
        let answers = probe();
        let mut state = self.state();
        state.checked = Some(Instant::now());
        if answers {
            self.doubt.store(false, Ordering::Relaxed);
            if std::mem::take(&mut state.away) {
                tracing::info!("Kafka at {} is back", self.brokers);
            }
        } else if !std::mem::replace(&mut state.away, true) {
            tracing::warn!("waits for Kafka at {}: {}", self.brokers, state.reason());
        }
    }

    /// What was found last; it is looked into while a client polls.
    pub fn reachable(&self) -> anyhow::Result<()> {
        let away = self.state().away;
        if away { Err(self.waits()) } else { Ok(()) }
    }

    /// What an operation waits for that did not get through in time.
    pub fn waits(&self) -> anyhow::Error {
        anyhow::anyhow!("Kafka at {}: {}", self.brokers, self.state().reason())
    }
}

impl State {
    fn reason(&self) -> &str {
        if self.reason.is_empty() { "no answer" } else { &self.reason }
    }
}
