//! Waiting for what is away: longer each time, with jitter, and without filling the log.

use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tracing::{info, warn};

use crate::{bus::BusError, error::Unreachable, shutdown::Shutdown};

/// Between two warnings of the same trouble.
const REMIND: Duration = Duration::from_secs(10);

/// The waits between attempts: from `first` doubling to `max`, each with jitter, without end.
pub fn waits(first: Duration, max: Duration) -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(first)
        .with_max_delay(max)
        .with_factor(2.0)
        .without_max_times()
        .with_jitter()
        .build()
}

/// One absence of one service: says that it waits and for what, then now and again, then that it is back.
pub struct Absence {
    what: String,
    since: Instant,
    said: Option<Instant>,
    waits: ExponentialBackoff,
}

impl Absence {
    pub fn of(what: impl Into<String>) -> Self {
        let waits = waits(Duration::from_millis(100), Duration::from_secs(5));
        Self { what: what.into(), since: Instant::now(), said: None, waits }
    }

    /// Takes note of one more failure; gives how long to wait before the next attempt.
    pub fn failed(&mut self, error: &dyn std::fmt::Display) -> Duration {
        if self.is_due() {
            warn!("waits for {}: {error:#}", self.what);
            self.said = Some(Instant::now());
        }
        self.waits.next().unwrap_or(REMIND)
    }

    /// Whether [`Absence::failed`] would say so now.
    pub fn is_due(&self) -> bool {
        self.said.is_none_or(|said| said.elapsed() >= REMIND)
    }

    /// Takes note of a success.
    pub fn over(&self) {
        if self.said.is_some() {
            info!("{} is back after {:.1?}", self.what, self.since.elapsed());
        }
    }

    pub fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }
}

/// Tries until `attempt` succeeds, for at most `limit` (without one, for ever); `None` where the end of the process
/// was asked for meanwhile. Fails at once on [`BusError::Fatal`], with [`Unreachable`] when the limit has passed.
pub fn persist<T>(
    what: &str,
    limit: Option<Duration>,
    shutdown: &Shutdown,
    mut attempt: impl FnMut() -> Result<T, BusError>,
) -> anyhow::Result<Option<T>> {
    let mut absence = Absence::of(what);
    loop {
        let error = match attempt() {
            Ok(value) => {
                absence.over();
                return Ok(Some(value));
            }
            Err(BusError::Fatal(error)) => return Err(error),
            Err(BusError::Unavailable(error)) => error,
        };
        let wait = absence.failed(&format_args!("{error:#}"));
        let left = limit.map_or(wait, |limit| limit.saturating_sub(absence.elapsed()));
        if let Some(limit) = limit.filter(|_| left.is_zero()) {
            let limit = humantime::format_duration(limit);
            return Err(Unreachable(format!("{what} cannot be reached within {limit}: {error:#}")).into());
        }
        if shutdown.pause(wait.min(left)) {
            return Ok(None);
        }
    }
}
