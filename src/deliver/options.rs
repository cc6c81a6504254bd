//! `[deliver]` as it stands in the configuration.

use std::{path::PathBuf, sync::Arc, time::Duration};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de::Error as _};

use crate::{
    config::Config,
    error::Misconfigured,
    stop::Retry,
    subscriber::SubscriberOptions,
    webhook::{
        address::Allowed,
        breaker::Limits,
        schedule::{ASKED_MAX, Schedule},
    },
};

pub const SECTION: &str = "deliver";

/// Most requests under way at once to one subscriber.
pub const CONCURRENCY: std::ops::RangeInclusive<usize> = 1..=1000;

/// `[deliver]`. Holds secrets, in its subscribers.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The SQLite file with the table of subscribers; need not be there.
    pub subscribers: PathBuf,
    /// The SQLite file that holds what is to be delivered.
    pub store: PathBuf,
    /// What a subscriber has that says nothing else, as are the next six.
    pub concurrency: usize,
    /// Requests in a second; 0 is no limit.
    pub rate: f64,
    pub ordered: bool,
    /// Of a request, its answer included.
    pub timeout: Duration,
    /// Between the attempts for one message.
    pub waits: Vec<Duration>,
    /// By what part of it a wait is longer or shorter.
    pub jitter: f64,
    /// A subscriber that has failed for so long is given up.
    pub disable_after: Duration,
    pub breaker: Breaker,
    /// Networks that requests may go to although they are no part of the public internet.
    pub allowed_networks: Vec<Network>,
    pub subscriber: Vec<SubscriberOptions>,
    /// Of taking messages off the bus.
    pub retry: Retry,
}

/// When a subscriber that fails is left in peace for a while.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Breaker {
    /// Failures in a row.
    pub failures: u32,
    /// Doubled with each probe that fails.
    pub pause: Duration,
    pub pause_max: Duration,
}

/// A network in CIDR notation, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(pub IpNet);

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let network = text.parse().or_else(|_| text.parse().map(|address: std::net::IpAddr| address.into()));
        network.map(Self).map_err(|_| D::Error::custom("must be a network, as in \"10.0.0.0/8\" or \"::1/128\""))
    }
}

impl Options {
    /// Reads the section. Its subscribers are looked at by [`crate::subscriber`] alone.
    pub fn new(config: &Config) -> Result<Self, Misconfigured> {
        let options: Self = config.section(SECTION)?;
        let wrong = |key: &str, what: String| Err(config.error(&format!("{SECTION}.{key}"), what));
        for (key, path) in [("subscribers", &options.subscribers), ("store", &options.store)] {
            if path.as_os_str().is_empty() {
                return wrong(key, "must be the path of a file".into());
            }
        }
        if let Err(what) = rate(options.rate) {
            return wrong("rate", what.into());
        }
        if let Err(error) = Schedule::new(Vec::new(), options.jitter) {
            return wrong("jitter", error.to_string());
        }
        let Breaker { pause, pause_max, .. } = options.breaker;
        for (key, time) in
            [("timeout", options.timeout), ("disable_after", options.disable_after), ("breaker.pause", pause)]
        {
            if time.is_zero() {
                return wrong(key, "must be more than zero".into());
            }
        }
        if pause_max < pause {
            return wrong("breaker.pause_max", "must be at least breaker.pause".into());
        }
        Ok(options)
    }

    /// Where requests may go.
    pub fn allowed(&self) -> Arc<Allowed> {
        Arc::new(Allowed::new(self.allowed_networks.iter().map(|network| network.0).collect()))
    }

    /// The breaker of a subscriber with these.
    pub fn limits(&self, timeout: Duration, waits: &[Duration], disable_after: Duration) -> Limits {
        let Breaker { failures, pause, pause_max } = self.breaker;
        let longest = waits.iter().copied().max().unwrap_or_default().max(ASKED_MAX).max(pause_max);
        Limits {
            failures,
            pause,
            pause_max,
            // Whoever has sent a probe hears of its end by then
            probe: timeout * 2 + Duration::from_secs(30),
            disable: disable_after,
            // A wait may be longer by its jitter, which is no more than itself
            stale: longest * 2,
        }
    }
}

/// The lowest rate: about three requests in a year. What is much lower no clock can count.
const RATE_MIN: f64 = 1e-7;

/// Requests in a second, `None` without a limit.
pub fn rate(rate: f64) -> Result<Option<f64>, &'static str> {
    match rate {
        0.0 => Ok(None),
        rate if rate.is_finite() && rate >= RATE_MIN => Ok(Some(rate)),
        _ => Err("must be a number of requests in a second, 1e-7 or more, or 0 for no limit"),
    }
}
