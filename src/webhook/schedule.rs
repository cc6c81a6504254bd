//! When a webhook that failed is tried again, and when it is given up.

use std::time::{Duration, SystemTime};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;

/// The shortest that a receiver may ask to be left in peace.
const ASKED_MIN: Duration = Duration::from_secs(1);

/// The longest: who asks for more is asked again after this.
pub const ASKED_MAX: Duration = Duration::from_secs(24 * HOUR);

/// The waits between the attempts for one message.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// The first is between the first attempt and the second. One attempt more is made than there are waits.
    waits: Vec<Duration>,
    /// By what part of it a wait may be longer or shorter: 0.2 is ±20 %.
    jitter: f64,
}

/// 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 10 h, each ±20 %: eight attempts within a bit more than a day.
impl Default for Schedule {
    fn default() -> Self {
        let waits = [5, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 10 * HOUR];
        Self { waits: waits.map(Duration::from_secs).into(), jitter: 0.2 }
    }
}

/// A part by which waits cannot vary.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("the jitter must be from 0 to 1, not {0}")]
pub struct BadJitter(pub f64);

impl Schedule {
    /// Waits without end are none of its business: where `waits` is empty, one attempt is all.
    pub fn new(waits: Vec<Duration>, jitter: f64) -> Result<Self, BadJitter> {
        if !(0.0..=1.0).contains(&jitter) {
            return Err(BadJitter(jitter));
        }
        Ok(Self { waits, jitter })
    }

    /// How long to wait once `failed` attempts, one or more, have failed; `None` when it is time to give up.
    ///
    /// `random` spreads the waits and is in 0..1. A receiver may ask for more time (`asked`, from [`retry_after`]) and gets it,
    /// up to [`ASKED_MAX`]; for less it may not, so that nobody makes this machine hurry, and as it asked all at once for the same
    /// time, what is more than the schedule's is spread as well, later.
    pub fn wait(&self, failed: usize, asked: Option<Duration>, random: f64) -> Option<Duration> {
        let wait = *self.waits.get(failed.checked_sub(1)?)?;
        let random = random.clamp(0.0, 1.0);
        let own = wait.mul_f64(1.0 + self.jitter * (2.0 * random - 1.0));
        let Some(asked) = asked.map(|asked| asked.clamp(ASKED_MIN, ASKED_MAX)).filter(|asked| *asked > own) else {
            return Some(own);
        };
        Some((asked + wait.min(asked).mul_f64(self.jitter * random)).min(ASKED_MAX))
    }
}

/// What the header Retry-After of an answer asks for, in seconds or with a date (RFC 9110, 10.2.3); `None` where it is neither.
/// A date that is over asks for nothing: zero.
pub fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(value.parse().map_or(Duration::MAX, Duration::from_secs));
    }
    let until = httpdate::parse_http_date(value).ok()?;
    Some(until.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOURS: fn(u64) -> Duration = |hours| Duration::from_secs(hours * HOUR);
    const SECONDS: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn the_default_is_tried_eight_times() {
        let schedule = Schedule::default();
        let waits: Vec<u64> = (1..).map_while(|failed| schedule.wait(failed, None, 0.5)).map(|w| w.as_secs()).collect();
        assert_eq!(waits, [5, 300, 1800, 7200, 18000, 36000, 36000]);
        assert_eq!(schedule.wait(1, None, 0.0), Some(SECONDS(4)));
        assert_eq!(schedule.wait(1, None, 1.0), Some(SECONDS(6)));
        assert_eq!(schedule.wait(8, Some(SECONDS(1)), 0.5), None);
    }

    #[test]
    fn who_asks_for_more_time_gets_it_and_for_less_does_not() {
        let schedule = Schedule::default();
        let wait = |asked| schedule.wait(2, Some(asked), 0.0).unwrap();
        assert_eq!(wait(SECONDS(0)), SECONDS(240));
        assert_eq!(wait(SECONDS(10)), SECONDS(240));
        assert_eq!(wait(SECONDS(600)), SECONDS(600));
        assert_eq!(wait(HOURS(24)), HOURS(24));
        assert_eq!(wait(HOURS(25)), HOURS(24));
        assert_eq!(wait(Duration::MAX), HOURS(24));
        // They were told the same second, and shall not come at once
        assert_eq!(schedule.wait(2, Some(SECONDS(600)), 1.0), Some(SECONDS(660)));
        let at_once = Schedule::new(vec![Duration::ZERO], 0.2).unwrap();
        assert_eq!(at_once.wait(1, Some(Duration::ZERO), 0.5), Some(SECONDS(1)));
        assert_eq!(at_once.wait(1, None, 0.5), Some(Duration::ZERO));
    }

    #[test]
    fn retry_after_is_read_as_seconds_or_as_a_date() {
        let now = httpdate::parse_http_date("Sat, 21 Nov 2026 12:00:00 GMT").unwrap();
        let cases = [
            ("0", Some(SECONDS(0))),
            ("120", Some(SECONDS(120))),
            (" 120 ", Some(SECONDS(120))),
            ("99999999999999999999999999", Some(Duration::MAX)),
            ("Sat, 21 Nov 2026 12:01:00 GMT", Some(SECONDS(60))),
            ("Saturday, 21-Nov-26 12:02:00 GMT", Some(SECONDS(120))),
            ("Sat Nov 21 12:03:00 2026", Some(SECONDS(180))),
            ("Sat, 21 Nov 2026 11:59:00 GMT", Some(SECONDS(0))),
            ("", None),
            ("-1", None),
            ("1.5", None),
            ("+5", None),
            ("soon", None),
            ("5 seconds", None),
        ];
        for (value, expected) in cases {
            assert_eq!(retry_after(value, now), expected, "{value:?}");
        }
    }

    #[test]
    fn a_jitter_beyond_the_whole_is_refused() {
        assert_eq!(Schedule::new(vec![], 1.5), Err(BadJitter(1.5)));
        assert!(Schedule::new(vec![], f64::NAN).is_err());
        assert_eq!(Schedule::new(vec![], 0.2).unwrap().wait(1, None, 0.5), None);
    }

    proptest! {
        #[test]
        fn waits_stay_within_their_bounds(
            waits in prop::collection::vec(0u64..200_000, 0..10),
            jitter in 0.0..=1.0,
            failed in 0usize..12,
            asked: Option<u64>,
            random in 0.0..1.0,
        ) {
            let schedule = Schedule::new(waits.iter().copied().map(SECONDS).collect(), jitter).unwrap();
            let asked = asked.map(SECONDS);
            let wait = schedule.wait(failed, asked, random);
            prop_assert_eq!(wait.is_some(), (1..=waits.len()).contains(&failed));
            let Some(wait) = wait else { return Ok(()) };
            let own = schedule.wait(failed, None, random).unwrap();
            let planned = waits[failed - 1] as f64;
            prop_assert!((own.as_secs_f64() - planned).abs() <= planned * jitter + 1e-6);
            prop_assert!(wait >= own);
            prop_assert!(wait <= own.max(ASKED_MAX));
            if let Some(asked) = asked {
                prop_assert!(wait >= asked.min(ASKED_MAX));
            }
        }

        #[test]
        fn no_value_of_retry_after_is_too_much(value in "\\PC{0,40}") {
            let asked = retry_after(&value, SystemTime::UNIX_EPOCH);
            Schedule::default().wait(1, asked, 0.5).unwrap();
        }
    }
}
