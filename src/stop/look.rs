//! What others see of a stop that runs, and the looks at itself that it takes for them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::Stop;
use crate::{
    backoff::Absence,
    bus::{Subscription, Topic},
    cache::Counts,
    health::{Health, Needs, Snapshot},
    stats::{SharedStats, Stats},
    trace::{self, Tracer},
};

/// Between two looks at what costs a question to a service.
const INTERVAL: Duration = Duration::from_secs(5);

/// The same while that service is away.
const SOON: Duration = Duration::from_secs(1);

/// A stop as others see it: its numbers and its health. Outlives the stop.
#[derive(Clone)]
pub struct Watched {
    name: String,
    topic: Topic,
    stats: SharedStats,
    health: Health,
    cache: Option<Arc<Counts>>,
    spans: Option<Arc<trace::Counts>>,
}

impl Watched {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it reads.
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    pub fn stats(&self) -> Stats {
        self.stats.snapshot()
    }

    pub fn health(&self) -> Snapshot {
        self.health.snapshot(&self.name)
    }

    /// The counts of its cache, where it has one.
    pub fn cache(&self) -> Option<&Counts> {
        self.cache.as_deref()
    }

    /// What became of its spans, where it is traced.
    pub fn spans(&self) -> Option<&trace::Counts> {
        self.spans.as_deref()
    }
}

/// When a stop last looked at what.
#[derive(Default)]
pub(super) struct Looks {
    lag: Option<Instant>,
    needs: Option<Instant>,
    absence: Option<Absence>,
}

impl Stop {
    /// What others may see of it. From then on it also looks how many records wait, which shows whether the bus is there,
    /// and while none come, whether what its handler needs is.
    pub fn watch(&self) -> Watched {
        self.health.watch();
        Watched {
            name: self.name().to_owned(),
            topic: self.topic().clone(),
            stats: self.stats.clone(),
            health: self.health.clone(),
            cache: self.cache.clone(),
            spans: self.tracer.as_ref().map(Tracer::counts),
        }
    }

    /// Looks where it is time; `idle` where there is nothing to be handled.
    pub(super) fn look(&mut self, looks: &mut Looks, subscription: &mut dyn Subscription, idle: bool) {
        if !self.health.is_watched() {
            return;
        }
        let interval = |lacks| if lacks { SOON } else { INTERVAL };
        if is_due(&mut looks.lag, interval(self.health.lacks(Needs::Bus))) {
            let lag = subscription.reachable().and_then(|()| subscription.lag());
            let lag = self.health.tried(Needs::Bus, lag);
            self.health.lag(lag.ok());
        }
        if !idle {
            return;
        }
        self.health.ails(self.handler.ill());
        if is_due(&mut looks.needs, interval(self.health.lacks(Needs::Handler))) {
            match self.health.tried(Needs::Handler, self.handler.connect()) {
                Ok(()) => looks.absence.take().iter().for_each(Absence::over),
                Err(error) => {
                    let absence = looks.absence.get_or_insert_with(|| Absence::of(self.needs()));
                    absence.failed(&format_args!("{error:#}"));
                }
            }
        }
    }

    /// Counts messages whose outputs the bus refused after they were settled.
    pub(super) fn refused(&self, count: u64) {
        self.stats.lock().refuse(count);
        if count > 0 {
            self.health.count(0, count);
        }
    }
}

/// Whether `interval` has passed since `last`; then it begins anew.
fn is_due(last: &mut Option<Instant>, interval: Duration) -> bool {
    let due = last.is_none_or(|last| last.elapsed() >= interval);
    if due {
        *last = Some(Instant::now());
    }
    due
}
