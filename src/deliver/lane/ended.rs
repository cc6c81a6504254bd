//! What becomes of a delivery and of its subscriber once a request has ended.

use std::{
    sync::atomic::Ordering,
    time::{Duration, SystemTime},
};

use rand::RngExt;
use tracing::{debug, error, info, warn};

use super::Lane;
use crate::{
    dead_letter::{history::Trouble, now_ms},
    deliver::{
        NAME,
        letters::{Dead, history},
        outcomes::Report,
        sender::{Ended, Outcome},
        store::{Came, Delivery, Settled, Standing, milliseconds},
    },
    webhook::breaker::Change,
};

impl Lane {
    /// Takes note of what came of a request.
    pub(super) fn came(&mut self, Ended { delivery, outcome, took }: Ended) {
        self.shared.counts.took(took);
        let name = &self.subscriber.name;
        let before = self.breaker.failing();
        let count = match &outcome {
            Outcome::Success => &self.counted.success,
            Outcome::Gone => &self.counted.gone,
            Outcome::Failure(..) | Outcome::Never(_) => &self.counted.failure,
        };
        count.fetch_add(1, Ordering::Relaxed);
        match outcome {
            Outcome::Success => {
                if self.breaker.succeeded() == Some(Change::Closed) {
                    info!(subscriber = name, "answers again");
                    self.blocked = None;
                }
                let standing = before.is_some().then(|| self.as_it_stands());
                self.report(&delivery, Came::Done, standing);
            }
            Outcome::Gone => {
                if !self.breaker.is_disabled() {
                    error!(
                        subscriber = name,
                        "disabled: it answered 410 Gone; `metrobus subscriber enable` has it called again"
                    );
                    self.disable("410 Gone");
                }
                // It waits for somebody to enable the subscriber
                let Delivery { due, failed, .. } = delivery;
                let came = Came::Again { due, failed, history: delivery.history.clone().unwrap_or_default() };
                let standing = Some(self.as_it_stands());
                self.report(&delivery, came, standing);
                self.complete = false;
            }
            Outcome::Failure(reason, asked) => self.failed(&delivery, &reason, asked),
            Outcome::Never(error) => {
                let reason = format!("subscriber {name}: {error}");
                self.withdraw();
                self.give_up(delivery, reason);
            }
        }
    }

    fn failed(&mut self, delivery: &Delivery, reason: &str, asked: Option<Duration>) {
        let name = self.subscriber.name.clone();
        debug!(subscriber = name, id = delivery.message.id, attempt = delivery.failed + 1, "failed: {reason}");
        let well = self.blocked.is_none();
        match self.breaker.failed(SystemTime::now()) {
            Some(Change::Opened(until)) => {
                let pause = until.duration_since(SystemTime::now()).unwrap_or_default().as_secs_f64().ceil();
                match well {
                    true => warn!(subscriber = name, "is left in peace for {pause} s, it failed last: {reason}"),
                    false => debug!(subscriber = name, "is left in peace for {pause} s more: {reason}"),
                }
                self.blocked = Some(until);
                self.shed();
            }
            Some(Change::Disabled(since)) => {
                let since = humantime::format_rfc3339_seconds(since);
                error!(
                    subscriber = name,
                    "disabled: it has failed since {since}, last: {reason}; `metrobus subscriber enable` has it called again"
                );
                self.disable(&format!("failed since {since}"));
            }
            Some(Change::Closed) | None => {}
        }
        let failed = delivery.failed + 1;
        let random = rand::rng().random();
        match self.subscriber.schedule.wait(failed as usize, asked, random) {
            Some(wait) => {
                let due = milliseconds(SystemTime::now() + wait);
                let mut history = history(delivery);
                history.push(Trouble { time: now_ms(), stop: NAME.into(), attempt: failed, reason: reason.into() });
                let came = Came::Again { due, failed, history: history.json() };
                let standing = Some(self.as_it_stands());
                self.report(delivery, came, standing);
            }
            None => {
                let attempts = if failed == 1 { "1 attempt".into() } else { format!("{failed} attempts") };
                self.give_up(delivery.clone(), format!("subscriber {name}: {reason}, after {attempts}"));
                let _ = self.shared.outcomes.send(Report::Standing(self.number, self.as_it_stands()));
            }
        }
    }

    fn disable(&mut self, why: &str) {
        self.breaker.disable();
        self.disabled = Some(why.to_owned());
        self.counted.disabled.store(1, Ordering::Relaxed);
        self.shed();
    }

    /// It becomes a dead letter, and is held until it is one.
    fn give_up(&mut self, delivery: Delivery, reason: String) {
        self.counted.dead.fetch_add(1, Ordering::Relaxed);
        let (subscriber, name) = (self.number, self.subscriber.name.clone());
        let _ = self.shared.letters.send(Dead { subscriber, name, delivery, reason });
    }

    fn report(&self, delivery: &Delivery, came: Came, standing: Option<Standing>) {
        let Delivery { message, due, key, .. } = delivery;
        let settled = Settled { subscriber: self.number, due: *due, message: message.number, key: *key, came };
        let _ = self.shared.outcomes.send(Report::Came(settled, standing));
    }

    pub(super) fn as_it_stands(&self) -> Standing {
        Standing { failing: self.breaker.failing(), disabled: self.disabled.clone(), enabled: self.enabled }
    }
}
