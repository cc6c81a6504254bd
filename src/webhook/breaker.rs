//! When a subscriber that fails is left in peace: a circuit breaker, one for each.
//!
//! ```text
//!            failures in a row                 its pause is over
//!   closed ────────────────────▶ open ◀─────────────────────────▶ half open: one request as a probe
//!     ▲                            a probe failed: twice the pause      │
//!     └──────────── a request succeeded, whichever ────────────────────┘
//!
//!   failed for 5 days without one success, or 410 Gone: disabled, until somebody enables it
//! ```
//!
//! It has no clock: whoever asks says when it is. The times are of the calendar, since days of failure outlive a process:
//! [`Breaker::failing`] and [`Breaker::is_disabled`] are what to store, [`Breaker::resume`] takes them back.

use std::time::{Duration, SystemTime};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Where a breaker opens and what it does then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Failures in a row that open it, one or more.
    pub failures: u32,
    /// The pause when it opens. It doubles with each probe that fails.
    pub pause: Duration,
    /// The longest pause.
    pub pause_max: Duration,
    /// A probe of which nothing is heard for so long is taken for lost, and another one may go.
    pub probe: Duration,
    /// A subscriber that has failed for so long is disabled.
    pub disable: Duration,
    /// Where nothing was tried for so long, what failed before says nothing any more.
    pub stale: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            failures: 5,
            pause: Duration::from_secs(10),
            pause_max: Duration::from_secs(10 * 60),
            probe: Duration::from_secs(60),
            disable: 5 * DAY,
            // Longer than any wait of a schedule, and than any that a receiver may ask for
            stale: 2 * DAY,
        }
    }
}

/// Since when a subscriber has had no success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failing {
    pub since: SystemTime,
    pub last: SystemTime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until: SystemTime, pause: Duration },
    HalfOpen { since: SystemTime, pause: Duration },
    Disabled,
}

/// Whether a request may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    Go,
    /// This one may, and no other until it is known what became of it.
    Probe,
    /// Ask again then.
    Wait(SystemTime),
    /// Not before somebody enables the subscriber.
    Disabled,
}

/// What there is to tell about a subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is left in peace until then.
    Opened(SystemTime),
    /// It is well again.
    Closed,
    /// It has failed since then, and is given up.
    Disabled(SystemTime),
}

/// How one subscriber does.
#[derive(Debug, Clone)]
pub struct Breaker {
    limits: Limits,
    state: State,
    failing: Option<Failing>,
}

impl Breaker {
    /// Of a subscriber of which nothing is known yet.
    pub fn new(limits: Limits) -> Self {
        Self::resume(limits, None, false)
    }

    /// Of a subscriber as it was when a process ended. It may be tried at once.
    pub fn resume(limits: Limits, failing: Option<Failing>, disabled: bool) -> Self {
        let state = if disabled { State::Disabled } else { State::Closed { failures: 0 } };
        Self { limits, state, failing }
    }

    /// Since when there was no success, where something failed.
    pub fn failing(&self) -> Option<Failing> {
        self.failing
    }

    pub fn is_disabled(&self) -> bool {
        self.state == State::Disabled
    }

    /// Asks for a request. What became of it has to be told, by [`Breaker::succeeded`] or [`Breaker::failed`].
    pub fn ask(&mut self, now: SystemTime) -> Permit {
        // A clock that was set back shall not make anybody wait for longer than a pause or a probe lasts
        let (until, pause) = match &mut self.state {
            State::Closed { .. } => return Permit::Go,
            State::Disabled => return Permit::Disabled,
            State::Open { until, pause } => {
                *until = (*until).min(now + *pause);
                (*until, *pause)
            }
            State::HalfOpen { since, pause } => {
                *since = (*since).min(now);
                (*since + self.limits.probe, *pause)
            }
        };
        if now < until {
            return Permit::Wait(until);
        }
        self.state = State::HalfOpen { since: now, pause };
        Permit::Probe
    }

    /// A request succeeded, the probe or one that was under way before the breaker opened.
    pub fn succeeded(&mut self) -> Option<Change> {
        if self.is_disabled() {
            return None;
        }
        self.failing = None;
        let before = std::mem::replace(&mut self.state, State::Closed { failures: 0 });
        (!matches!(before, State::Closed { .. })).then_some(Change::Closed)
    }

    /// A request failed.
    pub fn failed(&mut self, now: SystemTime) -> Option<Change> {
        if self.is_disabled() {
            return None;
        }
        let since = self.note(now);
        if elapsed(since, now) >= self.limits.disable {
            self.state = State::Disabled;
            return Some(Change::Disabled(since));
        }
        let pause = match self.state {
            State::Closed { failures } if failures + 1 < self.limits.failures => {
                self.state = State::Closed { failures: failures + 1 };
                return None;
            }
            State::Closed { .. } => self.limits.pause,
            State::HalfOpen { pause, .. } => (pause * 2).min(self.limits.pause_max),
            // It was under way when the others failed: no news
            State::Open { .. } | State::Disabled => return None,
        };
        let until = now + pause;
        self.state = State::Open { until, pause };
        Some(Change::Opened(until))
    }

    /// A request that was allowed is not made after all. Where it was the probe, another one may be it.
    pub fn withdrawn(&mut self, now: SystemTime) {
        if let State::HalfOpen { pause, .. } = self.state {
            self.state = State::Open { until: now, pause };
        }
    }

    /// The subscriber does not want to be called any more: 410 Gone, or somebody's word.
    pub fn disable(&mut self) {
        self.state = State::Disabled;
    }

    /// Somebody says that it may be tried again.
    pub fn enable(&mut self) {
        self.state = State::Closed { failures: 0 };
        self.failing = None;
    }

    /// Notes a failure; gives since when there are failures and nothing else.
    fn note(&mut self, now: SystemTime) -> SystemTime {
        let known = self.failing.filter(|failing| elapsed(failing.last, now) <= self.limits.stale);
        let since = known.map_or(now, |failing| failing.since.min(now));
        self.failing = Some(Failing { since, last: now });
        since
    }
}

fn elapsed(since: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(since).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
    }

    fn opened() -> Breaker {
        let mut breaker = Breaker::new(Limits::default());
        for _ in 0..4 {
            assert_eq!(breaker.ask(at(0)), Permit::Go);
            assert_eq!(breaker.failed(at(0)), None);
        }
        assert_eq!(breaker.failed(at(0)), Some(Change::Opened(at(10))));
        breaker
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_success_between_them_does_not_let_them() {
        let mut breaker = Breaker::new(Limits::default());
        for _ in 0..100 {
            for _ in 0..4 {
                assert_eq!(breaker.failed(at(0)), None);
            }
            assert_eq!(breaker.succeeded(), None);
            assert_eq!(breaker.ask(at(0)), Permit::Go);
        }
        assert_eq!(opened().ask(at(9)), Permit::Wait(at(10)));
    }

    #[test]
    fn one_probe_at_a_time_decides() {
        let mut breaker = opened();
        assert_eq!(breaker.ask(at(10)), Permit::Probe);
        assert_eq!(breaker.ask(at(11)), Permit::Wait(at(70)));
        assert_eq!(breaker.failed(at(12)), Some(Change::Opened(at(32))));
        assert_eq!(breaker.ask(at(31)), Permit::Wait(at(32)));
        assert_eq!(breaker.ask(at(32)), Permit::Probe);
        assert_eq!(breaker.succeeded(), Some(Change::Closed));
        assert_eq!(breaker.ask(at(33)), Permit::Go);
        assert_eq!(breaker.failing(), None);
    }

    #[test]
    fn pauses_double_to_a_limit() {
        let mut breaker = opened();
        let mut now = at(10);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            assert_eq!(breaker.ask(now), Permit::Probe);
            let Some(Change::Opened(until)) = breaker.failed(now) else { panic!("it did not open") };
            pauses.push(until.duration_since(now).unwrap().as_secs());
            now = until;
        }
        assert_eq!(pauses, [20, 40, 80, 160, 320, 600, 600, 600]);
    }

    #[test]
    fn a_probe_of_which_nothing_is_heard_does_not_close_the_way_for_ever() {
        let mut breaker = opened();
        assert_eq!(breaker.ask(at(10)), Permit::Probe);
        assert_eq!(breaker.ask(at(69)), Permit::Wait(at(70)));
        assert_eq!(breaker.ask(at(70)), Permit::Probe);
    }

    #[test]
    fn a_probe_that_is_not_made_leaves_its_turn_to_another() {
        let mut breaker = opened();
        breaker.withdrawn(at(5));
        assert_eq!(breaker.ask(at(6)), Permit::Wait(at(10)));
        assert_eq!(breaker.ask(at(10)), Permit::Probe);
        breaker.withdrawn(at(11));
        assert_eq!(breaker.ask(at(11)), Permit::Probe);
        assert_eq!(breaker.failed(at(12)), Some(Change::Opened(at(32))));
    }

    #[test]
    fn what_was_under_way_when_it_opened_counts_only_when_it_succeeds() {
        let mut breaker = opened();
        assert_eq!(breaker.failed(at(5)), None);
        assert_eq!(breaker.ask(at(6)), Permit::Wait(at(10)));
        assert_eq!(breaker.succeeded(), Some(Change::Closed));
        assert_eq!(breaker.ask(at(6)), Permit::Go);
    }

    #[test]
    fn five_days_of_failure_disable_and_somebody_enables_again() {
        let mut breaker = Breaker::new(Limits::default());
        let hour = 3600;
        let days: Vec<u64> = (0..120).step_by(10).map(|hours| hours * hour).collect();
        for seconds in days {
            assert!(!matches!(breaker.failed(at(seconds)), Some(Change::Disabled(_))), "after {seconds} s");
        }
        // A restart on the way changes nothing
        let mut breaker = Breaker::resume(Limits::default(), breaker.failing(), breaker.is_disabled());
        assert_eq!(breaker.failed(at(120 * hour)), Some(Change::Disabled(at(0))));
        assert_eq!(breaker.ask(at(1000 * hour)), Permit::Disabled);
        assert_eq!(breaker.succeeded(), None);
        assert_eq!(breaker.failed(at(1000 * hour)), None);
        assert_eq!(Breaker::resume(Limits::default(), breaker.failing(), true).ask(at(0)), Permit::Disabled);
        breaker.enable();
        assert_eq!(breaker.ask(at(1000 * hour)), Permit::Go);
        assert_eq!(breaker.failed(at(1000 * hour)), None);
    }

    #[test]
    fn two_failures_with_silence_between_them_are_no_days_of_failure() {
        let mut breaker = Breaker::new(Limits::default());
        let day = 24 * 3600;
        assert_eq!(breaker.failed(at(0)), None);
        assert_eq!(breaker.failed(at(6 * day)), None);
        assert_eq!(breaker.failing(), Some(Failing { since: at(6 * day), last: at(6 * day) }));
    }

    #[test]
    fn who_is_gone_is_not_called() {
        let mut breaker = Breaker::new(Limits::default());
        breaker.disable();
        assert_eq!(breaker.ask(at(0)), Permit::Disabled);
        assert!(breaker.is_disabled());
    }

    #[test]
    fn a_clock_that_is_set_back_costs_a_pause_at_most() {
        let mut breaker = Breaker::new(Limits { failures: 1, ..Limits::default() });
        assert_eq!(breaker.failed(at(500_000)), Some(Change::Opened(at(500_010))));
        assert_eq!(breaker.ask(at(0)), Permit::Wait(at(10)));
        assert_eq!(breaker.ask(at(9)), Permit::Wait(at(10)));
        assert_eq!(breaker.ask(at(10)), Permit::Probe);
        assert_eq!(breaker.ask(at(5)), Permit::Wait(at(65)));
        assert_eq!(breaker.ask(at(65)), Permit::Probe);
    }

    #[derive(Debug, Clone, Copy)]
    enum Event {
        Ask,
        Success,
        Failure,
    }

    proptest! {
        #[test]
        fn whatever_happens_it_keeps_to_its_limits(
            events in prop::collection::vec(
                (prop_oneof![Just(Event::Ask), Just(Event::Success), Just(Event::Failure), Just(Event::Failure)], 0u64..40_000),
                1..200,
            ),
        ) {
            let limits = Limits::default();
            let mut breaker = Breaker::new(limits.clone());
            let mut seconds = 0;
            let mut failures = 0u32;
            let mut failing: Option<(u64, u64)> = None;
            let mut probe: Option<u64> = None;
            for (event, passed) in events {
                // Steps of all sizes, many of them small
                seconds += if passed % 3 == 0 { passed } else { passed % 30 };
                let now = at(seconds);
                match event {
                    Event::Ask => match breaker.ask(now) {
                        Permit::Go => prop_assert!(failures < limits.failures),
                        Permit::Probe => {
                            prop_assert!(failures >= limits.failures);
                            prop_assert!(probe.is_none_or(|probe| seconds - probe >= limits.probe.as_secs()));
                            probe = Some(seconds);
                        }
                        Permit::Wait(until) => {
                            prop_assert!(until > now && until <= now + limits.pause_max.max(limits.probe));
                        }
                        Permit::Disabled => prop_assert!(false, "disabled, and nobody was told"),
                    },
                    Event::Success => {
                        breaker.succeeded();
                        (failures, failing, probe) = (0, None, None);
                        prop_assert_eq!(breaker.failing(), None);
                    }
                    Event::Failure => {
                        failures += 1;
                        let known = failing.filter(|(_, last)| seconds - last <= limits.stale.as_secs());
                        let since = known.map_or(seconds, |(since, _)| since);
                        (failing, probe) = (Some((since, seconds)), None);
                        if let Some(Change::Disabled(told)) = breaker.failed(now) {
                            prop_assert_eq!(told, at(since));
                            prop_assert!(seconds - since >= limits.disable.as_secs());
                            return Ok(());
                        }
                        prop_assert!(seconds - since < limits.disable.as_secs());
                    }
                }
            }
        }
    }
}
