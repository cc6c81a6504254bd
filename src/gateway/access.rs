//! Who may call, and how much.
//!
//! A rate is a limit by GCRA: a bucket of `burst` events that fills up by `rate` a second. A quota is counted by the day of UTC;
//! what of it is used up outlives the process, see [`ledger`](super::ledger).

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use axum::http::HeaderMap;
use governor::{
    DefaultDirectRateLimiter,
    clock::{Clock, DefaultClock},
};

use super::caller::{Caller, Callers, Topics, Unauthorized};

/// Seconds of a day.
const DAY: u64 = 24 * 3600;

/// All who may call.
pub struct Access {
    /// `None` where everybody may.
    callers: Option<Callers>,
    guests: HashMap<String, Arc<Guest>>,
    anybody: Caller,
}

/// What a caller may take.
pub struct Guest {
    name: String,
    rate: Option<DefaultDirectRateLimiter>,
    quota: Option<Quota>,
}

/// Why a caller has to wait, or to send less at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exceeded {
    /// More events at once than a burst may have.
    Burst(u32),
    /// For so long.
    Rate(Duration),
    /// For so long: until tomorrow.
    Quota(Duration),
}

struct Quota {
    most: u64,
    used: Mutex<Used>,
}

/// What was used up on a day, counted in days since the epoch.
#[derive(Debug, Default, Clone, Copy)]
struct Used {
    day: i64,
    count: u64,
    /// Of that, what was noted for the next start.
    noted: u64,
}

impl Access {
    /// Everybody may call.
    pub fn open() -> Self {
        let anybody = Caller { name: "anybody".to_owned(), topics: Topics::All };
        Self { callers: None, guests: HashMap::new(), anybody }
    }

    /// These may call.
    pub fn new(callers: Callers, guests: impl IntoIterator<Item = Guest>) -> Self {
        let guests = guests.into_iter().map(|guest| (guest.name.clone(), Arc::new(guest))).collect();
        Self { callers: Some(callers), guests, ..Self::open() }
    }

    pub fn is_open(&self) -> bool {
        self.callers.is_none()
    }

    /// Finds out who sends these headers.
    pub fn authenticate(&self, headers: &HeaderMap) -> Result<&Caller, Unauthorized> {
        match &self.callers {
            None => Ok(&self.anybody),
            Some(callers) => callers.authenticate(headers, SystemTime::now()),
        }
    }

    /// What the caller of this name may take; `None` is without limit.
    pub fn guest(&self, caller: &str) -> Option<&Arc<Guest>> {
        // Nobody pays for a look-up where nobody is limited
        if self.guests.is_empty() { None } else { self.guests.get(caller) }
    }

    /// All who are limited by the day.
    pub fn with_quotas(&self) -> Vec<Arc<Guest>> {
        self.guests.values().filter(|guest| guest.quota.is_some()).cloned().collect()
    }
}

impl Guest {
    /// At most `rate` events a second, `burst` at once and `quota` a day.
    pub fn new(name: &str, rate: Option<NonZeroU32>, burst: Option<NonZeroU32>, quota: Option<u64>) -> Self {
        let rate = rate.map(|rate| {
            governor::RateLimiter::direct(governor::Quota::per_second(rate).allow_burst(burst.unwrap_or(rate)))
        });
        Self { name: name.to_owned(), rate, quota: quota.map(|most| Quota { most, used: Mutex::default() }) }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Takes `events` events, or nothing where they are too many.
    pub fn take(&self, events: usize, now: SystemTime) -> Result<(), Exceeded> {
        let quota = self.quota.as_ref();
        if let Some(quota) = quota {
            quota.take(events as u64, now)?;
        }
        self.at_rate(events).inspect_err(|_| {
            if let Some(quota) = quota {
                quota.give_back(events as u64);
            }
        })
    }

    /// Takes back what was counted against the quota: nothing came of it.
    pub fn give_back(&self, events: usize) {
        if let Some(quota) = &self.quota {
            quota.give_back(events as u64);
        }
    }

    fn at_rate(&self, events: usize) -> Result<(), Exceeded> {
        let (Some(rate), Some(events)) = (&self.rate, u32::try_from(events).ok().and_then(NonZeroU32::new)) else {
            return Ok(());
        };
        match rate.check_n(events) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(not_until)) => Err(Exceeded::Rate(not_until.wait_time_from(DefaultClock::default().now()))),
            Err(capacity) => Err(Exceeded::Burst(capacity.0)),
        }
    }

    /// What was used up on `day` already, before this process began.
    pub fn resume(&self, day: i64, count: u64) {
        if let Some(quota) = &self.quota {
            *quota.lock() = Used { day, count, noted: count };
        }
    }

    /// The day, and what more was used up on it since the last call.
    pub fn to_note(&self) -> Option<(i64, u64)> {
        let mut used = self.quota.as_ref()?.lock();
        let more = used.count.saturating_sub(used.noted);
        used.noted += more;
        (more > 0).then_some((used.day, more))
    }
}

impl Quota {
    fn lock(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, events: u64, now: SystemTime) -> Result<(), Exceeded> {
        let (today, left) = day(now);
        let mut used = self.lock();
        if used.day != today {
            *used = Used { day: today, ..Used::default() };
        }
        if used.count.saturating_add(events) > self.most {
            return Err(Exceeded::Quota(left));
        }
        used.count += events;
        Ok(())
    }

    fn give_back(&self, events: u64) {
        let mut used = self.lock();
        used.count = used.count.saturating_sub(events);
    }
}

/// The day of UTC, counted from the epoch, and how long it lasts still.
pub fn day(now: SystemTime) -> (i64, Duration) {
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    ((seconds / DAY) as i64, Duration::from_secs(DAY - seconds % DAY))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_quota_is_that_of_a_day_and_what_came_to_nothing_counts_back() {
        let guest = Guest::new("a", None, None, Some(3));
        guest.resume(1, 1);
        assert_eq!(guest.take(2, at(DAY + 5)), Ok(()));
        assert_eq!(guest.to_note(), Some((1, 2)));
        assert_eq!(guest.to_note(), None);
        assert_eq!(guest.take(1, at(2 * DAY - 10)), Err(Exceeded::Quota(Duration::from_secs(10))));
        guest.give_back(1);
        assert_eq!(guest.take(1, at(2 * DAY - 10)), Ok(()));
        assert_eq!(guest.take(4, at(2 * DAY)), Err(Exceeded::Quota(Duration::from_secs(DAY))));
        assert_eq!(guest.take(3, at(2 * DAY)), Ok(()));
        assert_eq!(guest.to_note(), Some((2, 3)));
    }

    #[test]
    fn a_rate_lets_a_burst_through_and_then_makes_wait() {
        let of = |number| NonZeroU32::new(number);
        let guest = Guest::new("a", of(1), of(5), Some(100));
        assert_eq!(guest.take(6, at(0)), Err(Exceeded::Burst(5)));
        assert_eq!(guest.take(4, at(0)), Ok(()));
        assert_eq!(guest.take(1, at(0)), Ok(()));
        let Err(Exceeded::Rate(wait)) = guest.take(2, at(0)) else { panic!("more than the burst") };
        assert!(wait > Duration::from_secs(1) && wait <= Duration::from_secs(2), "{wait:?}");
        assert_eq!(guest.to_note(), Some((0, 5)), "what was refused by its rate is no part of the quota");
    }
}
