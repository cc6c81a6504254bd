//! What a process is made of, as it is told over HTTP.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use super::exposition::Exposition;
use crate::{cache::CounterErrors, stop::Watched};

/// Who is told about.
pub struct Process {
    pub stops: Stops,
    /// What else works in it.
    pub parts: Vec<Arc<dyn Part>>,
    /// A stop whose loop has not turned for so long is not alive.
    pub stall: Duration,
    /// Of the counters in Redis, where there are any.
    pub counters: Option<CounterErrors>,
}

/// A part of a process that is no stop, as the server of a gateway is.
pub trait Part: Send + Sync {
    /// Writes its metrics, whole families with names of their own. docs/metrics.md has them.
    fn tell(&self, out: &mut Exposition);

    /// What is missing, where it cannot do its work at present: for `/readyz`.
    fn ready(&self) -> Result<(), String>;
}

/// The stops of a process; others may join them.
#[derive(Clone, Default)]
pub struct Stops(Arc<RwLock<Vec<Watched>>>);

impl Stops {
    pub fn add(&self, stop: Watched) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).push(stop);
    }

    /// Tells no more of the stop called `name`.
    pub fn remove(&self, name: &str) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).retain(|stop| stop.name() != name);
    }

    /// Those that there are now.
    pub fn all(&self) -> Vec<Watched> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl<I: IntoIterator<Item = Watched>> From<I> for Stops {
    fn from(stops: I) -> Self {
        Self(Arc::new(RwLock::new(stops.into_iter().collect())))
    }
}
