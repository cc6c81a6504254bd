//! What a gateway counts, and tells as metrics.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use crate::{
    http::{exposition::Exposition, metrics::metrics},
    stats::{Buckets, DURATIONS},
};

metrics! {
    REQUESTS = Counter "metrobus_gateway_requests_total" ["route", "status"]
        "Requests that the gateway answered, by what they were for and the class of the status";
    PUBLISHED = Counter "metrobus_gateway_published_messages_total" [] "Events that came by HTTP and that the bus has confirmed";
    WAITING = Gauge "metrobus_gateway_waiting_messages" [] "Events that came by HTTP and wait for the bus to confirm them";
    CONFIRM = Histogram "metrobus_gateway_confirm_duration_seconds" []
        "Time from when a request was read until the bus had confirmed its events";
}

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// `POST /topics/{topic}`
    Topics,
    /// `GET /journeys/{id}`
    Journeys,
    /// A command of the configuration.
    Command,
    /// The paths of switch.
    Switch,
    /// Anything else.
    Other,
}

impl Route {
    const ALL: [Self; 5] = [Self::Topics, Self::Journeys, Self::Command, Self::Switch, Self::Other];

    fn name(self) -> &'static str {
        match self {
            Self::Topics => "topics",
            Self::Journeys => "journeys",
            Self::Command => "command",
            Self::Switch => "switch",
            Self::Other => "other",
        }
    }
}

const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

/// The counts of a gateway.
pub struct Stats {
    requests: [[AtomicU64; CLASSES.len()]; Route::ALL.len()],
    published: AtomicU64,
    confirm: Mutex<Buckets>,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            requests: Default::default(),
            published: AtomicU64::new(0),
            confirm: Mutex::new(Buckets::new(DURATIONS)),
        }
    }
}

impl Stats {
    /// Counts an answer, by its status.
    pub fn answered(&self, route: Route, status: u16) {
        let class = usize::from(status / 100).saturating_sub(2).min(CLASSES.len() - 1);
        self.requests[route as usize][class].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts jobs that the bus has confirmed: when each came, and its events.
    pub fn confirmed(&self, jobs: impl Iterator<Item = (Instant, usize)>) {
        let now = Instant::now();
        let mut confirm = self.confirm.lock().unwrap_or_else(PoisonError::into_inner);
        for (came, events) in jobs {
            confirm.record((now - came).as_secs_f64());
            self.published.fetch_add(events as u64, Ordering::Relaxed);
        }
    }

    /// Writes the metrics; `waiting` is how many events do.
    pub fn tell(&self, out: &mut Exposition, waiting: usize) {
        out.family(&REQUESTS);
        for route in Route::ALL {
            for (class, count) in CLASSES.iter().zip(&self.requests[route as usize]) {
                out.sample(&REQUESTS, &[route.name(), class], count.load(Ordering::Relaxed));
            }
        }
        out.family(&PUBLISHED);
        out.sample(&PUBLISHED, &[], self.published.load(Ordering::Relaxed));
        out.family(&WAITING);
        out.sample(&WAITING, &[], waiting);
        out.family(&CONFIRM);
        let confirm = self.confirm.lock().unwrap_or_else(PoisonError::into_inner).clone();
        out.histogram(&CONFIRM, &[], &confirm);
    }
}
