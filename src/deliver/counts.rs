//! What is told of deliveries in `/metrics`.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use super::store::milliseconds;
use crate::{
    http::{Part, exposition::Exposition, metrics::metrics},
    stats::{Buckets, DURATIONS},
};

metrics! {
    REQUESTS = Counter "metrobus_deliver_requests_total" ["subscriber", "outcome"]
        "Requests to subscribers: success, failure, or gone where the answer was 410";
    DEAD = Counter "metrobus_deliver_dead_letters_total" ["subscriber"]
        "Messages that were given up after the last attempt and became dead letters";
    WAITING = Gauge "metrobus_deliver_waiting" ["subscriber"] "Messages that the subscriber is still to get";
    LATE = Gauge "metrobus_deliver_oldest_seconds" ["subscriber"]
        "How long the one of them has been due that is due for longest; 0 where none is";
    DURATION = Histogram "metrobus_deliver_request_duration_seconds" []
        "Time from a request to the end of its answer, or until it has failed";
    DISABLED = Gauge "metrobus_subscriber_disabled" ["subscriber"]
        "1 while the subscriber is called no more until it is enabled, else 0";
    FILTERS = Counter "metrobus_deliver_filter_failures_total" []
        "Filters that failed over a message, as over a missing key; it was not sent then";
}

/// The counts of one subscriber.
#[derive(Debug, Default)]
pub struct Counted {
    pub success: AtomicU64,
    pub failure: AtomicU64,
    pub gone: AtomicU64,
    pub dead: AtomicU64,
    pub waiting: AtomicU64,
    /// Since when the earliest is due, in milliseconds since the epoch; 0 where none is.
    pub due: AtomicU64,
    /// 1 or 0.
    pub disabled: AtomicU64,
}

/// The counts of all deliveries of a process.
pub struct Counts {
    subscribers: Mutex<BTreeMap<String, Arc<Counted>>>,
    durations: Mutex<Buckets>,
    pub filters: AtomicU64,
    /// What is missing, where nothing can be delivered at present.
    missing: Mutex<Option<String>>,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            subscribers: Mutex::default(),
            durations: Mutex::new(Buckets::new(DURATIONS)),
            filters: AtomicU64::new(0),
            missing: Mutex::default(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Counts {
    /// Those of a subscriber.
    pub fn of(&self, subscriber: &str) -> Arc<Counted> {
        Arc::clone(lock(&self.subscribers).entry(subscriber.to_owned()).or_default())
    }

    /// Tells no more of a subscriber.
    pub fn forget(&self, subscriber: &str) {
        lock(&self.subscribers).remove(subscriber);
    }

    pub fn took(&self, time: Duration) {
        lock(&self.durations).record(time.as_secs_f64());
    }

    /// Says what is missing, or that nothing is.
    pub fn misses(&self, what: Option<String>) {
        *lock(&self.missing) = what;
    }
}

impl Part for Counts {
    fn tell(&self, out: &mut Exposition) {
        let all: Vec<_> = lock(&self.subscribers).iter().map(|(name, it)| (name.clone(), Arc::clone(it))).collect();
        out.family(&REQUESTS);
        for (name, it) in &all {
            for (outcome, count) in [("success", &it.success), ("failure", &it.failure), ("gone", &it.gone)] {
                out.sample(&REQUESTS, &[name, outcome], count.load(Ordering::Relaxed));
            }
        }
        let now = milliseconds(SystemTime::now());
        let late = |it: &Counted| match it.due.load(Ordering::Relaxed) {
            0 => 0.0,
            due => (now - due as i64).max(0) as f64 / 1e3,
        };
        out.family(&DEAD);
        all.iter().for_each(|(name, it)| out.sample(&DEAD, &[name], it.dead.load(Ordering::Relaxed)));
        out.family(&WAITING);
        all.iter().for_each(|(name, it)| out.sample(&WAITING, &[name], it.waiting.load(Ordering::Relaxed)));
        out.family(&LATE);
        all.iter().for_each(|(name, it)| out.sample(&LATE, &[name], late(it)));
        out.family(&DURATION);
        out.histogram(&DURATION, &[], &lock(&self.durations));
        out.family(&DISABLED);
        all.iter().for_each(|(name, it)| out.sample(&DISABLED, &[name], it.disabled.load(Ordering::Relaxed)));
        out.family(&FILTERS);
        out.sample(&FILTERS, &[], self.filters.load(Ordering::Relaxed));
    }

    fn ready(&self) -> Result<(), String> {
        match &*lock(&self.missing) {
            None => Ok(()),
            Some(missing) => Err(format!("deliver: {missing}")),
        }
    }
}
