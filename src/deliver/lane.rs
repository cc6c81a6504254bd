//! The lane of one subscriber: what is due, in order of time, as fast as it may go.

mod ended;

use std::{
    collections::{HashSet, VecDeque},
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use governor::{
    DefaultDirectRateLimiter, Quota, RateLimiter,
    clock::{Clock, DefaultClock},
};
use tokio::{
    sync::{
        mpsc::{UnboundedReceiver, unbounded_channel},
        oneshot,
    },
    task::JoinSet,
};
use tracing::{error, info};

use super::{
    counts::Counted,
    engine::{Handle, Shared},
    loads::Load,
    outcomes::Report,
    sender::{Ended, send},
    store::{Delivery, Due, Standing, milliseconds},
};
use crate::{
    subscriber::Subscriber,
    webhook::breaker::{Breaker, Permit},
};

/// Deliveries that are read from the store at once: some for each place, within these.
const LOT: std::ops::RangeInclusive<usize> = 16..=512;
const LOT_PER_PLACE: usize = 4;

/// What others have to tell a lane.
pub enum Command {
    /// This was taken just now.
    Offer(Delivery),
    /// More is due in the store.
    More,
    /// What was asked for.
    Loaded(Due),
    /// What came of these messages is written, and when one of them is due again, in milliseconds since the epoch.
    Written(Vec<(i64, Option<i64>)>),
    /// The subscriber is another one from now on.
    Changed(Arc<Subscriber>),
    /// How the store has the subscriber.
    Standing(Standing),
    /// Answer once nothing can be done at present.
    Idle(oneshot::Sender<()>),
    /// Begin no request, and answer once none is under way.
    End(oneshot::Sender<()>),
}

impl Handle {
    /// Hands over a delivery, or has the lane read it from the store where it has enough.
    pub fn offer(&self, delivery: Delivery) {
        if self.queued.load(Ordering::Relaxed) >= *LOT.end() {
            return self.more();
        }
        self.queued.fetch_add(1, Ordering::Relaxed);
        let _ = self.commands.send(Command::Offer(delivery));
    }

    /// There is more in the store.
    pub fn more(&self) {
        if !self.told.swap(true, Ordering::AcqRel) {
            let _ = self.commands.send(Command::More);
        }
    }
}

/// The task of one subscriber.
pub struct Lane {
    number: i64,
    subscriber: Arc<Subscriber>,
    shared: Arc<Shared>,
    commands: UnboundedReceiver<Command>,
    queued: Arc<AtomicUsize>,
    told: Arc<AtomicBool>,
    counted: Arc<Counted>,
    breaker: Breaker,
    disabled: Option<String>,
    /// How often somebody has enabled it.
    enabled: i64,
    limiter: Option<DefaultDirectRateLimiter>,
    /// Due, and not begun.
    waiting: VecDeque<Delivery>,
    under_way: JoinSet<Ended>,
    /// Messages that are waiting, under way, or of which it is not written yet what came of them.
    held: HashSet<i64>,
    /// The store is asked for more.
    loading: bool,
    /// Of which that was written since it was asked: it may still find them.
    written: Vec<(i64, Option<i64>)>,
    /// All that is due in the store is held.
    complete: bool,
    /// When something else will be due, in milliseconds since the epoch.
    next: Option<i64>,
    /// Not before then does the breaker let a request go.
    blocked: Option<SystemTime>,
    /// Not before then does the rate.
    slowed: Option<Instant>,
    idle: Vec<oneshot::Sender<()>>,
    end: Option<oneshot::Sender<()>>,
}

impl Lane {
    pub fn new(
        number: i64,
        subscriber: Arc<Subscriber>,
        standing: Standing,
        waits: bool,
        counted: Arc<Counted>,
        shared: Arc<Shared>,
    ) -> (Self, Handle) {
        let (sender, commands) = unbounded_channel();
        let (queued, told) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let handle = Handle {
            commands: sender,
            queued: Arc::clone(&queued),
            told: Arc::clone(&told),
            counted: Arc::clone(&counted),
        };
        let Standing { failing, disabled, enabled } = standing;
        counted.disabled.store(u64::from(disabled.is_some()), Ordering::Relaxed);
        let breaker = Breaker::resume(subscriber.breaker.clone(), failing, disabled.is_some());
        let lane = Self {
            number,
            limiter: limiter(subscriber.rate),
            subscriber,
            shared,
            commands,
            queued,
            told,
            counted,
            breaker,
            disabled,
            enabled,
            waiting: VecDeque::new(),
            under_way: JoinSet::new(),
            held: HashSet::new(),
            loading: false,
            written: Vec::new(),
            complete: !waits,
            next: None,
            blocked: None,
            slowed: None,
            idle: Vec::new(),
            end: None,
        };
        (lane, handle)
    }

    /// Goes on until nobody can tell it anything any more, or its end was asked for and no request is under way.
    pub async fn run(mut self) {
        loop {
            self.begin();
            self.load();
            self.tell();
            if self.end.is_some() && self.under_way.is_empty() {
                self.end.take().map(|end| end.send(()));
                return;
            }
            let wake = self.wake();
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                Some(ended) = self.under_way.join_next() => match ended {
                    Ok(ended) => self.came(ended),
                    Err(error) => {
                        error!(subscriber = self.subscriber.name, "a request was lost: {error}");
                        self.withdraw();
                    }
                },
                () = tokio::time::sleep_until(wake.unwrap_or_else(Instant::now).into()), if wake.is_some() => {}
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Offer(delivery) => self.offered(delivery),
            Command::More => {
                self.told.store(false, Ordering::Release);
                self.complete = false;
            }
            Command::Loaded(due) => self.loaded(due),
            Command::Written(messages) if self.loading => self.written.extend(messages),
            Command::Written(messages) => self.let_go(messages),
            Command::Changed(subscriber) => self.changed(subscriber),
            Command::Standing(standing) => self.standing(&standing),
            Command::Idle(answer) => self.idle.push(answer),
            Command::End(answer) => self.end = Some(answer),
        }
    }

    fn offered(&mut self, delivery: Delivery) {
        self.queued.fetch_sub(1, Ordering::Relaxed);
        let full = self.waiting.len() >= *LOT.end();
        // Where not all is here that is due, this comes behind it
        if full || self.blocked.is_some() || self.breaker.is_disabled() || !self.complete {
            self.complete = false;
        } else if self.held.insert(delivery.message.number) {
            self.waiting.push_back(delivery);
        }
    }

    fn loaded(&mut self, due: Due) {
        self.loading = false;
        for delivery in due.now {
            if self.held.insert(delivery.message.number) {
                self.waiting.push_back(delivery);
            }
        }
        self.complete &= !due.more;
        self.next = [self.next, due.next].into_iter().flatten().min();
        let written = std::mem::take(&mut self.written);
        self.let_go(written);
    }

    /// Forgets messages of which it is written what came of them. Before that the store is not asked for them, whenever they are due.
    fn let_go(&mut self, written: Vec<(i64, Option<i64>)>) {
        for (message, due) in written {
            self.held.remove(&message);
            self.next = [self.next, due].into_iter().flatten().min();
        }
    }

    fn changed(&mut self, subscriber: Arc<Subscriber>) {
        if Arc::ptr_eq(&self.subscriber, &subscriber) {
            return;
        }
        if self.subscriber.rate != subscriber.rate {
            self.limiter = limiter(subscriber.rate);
        }
        // Somebody may have seen to it that it works now: it is tried at once
        if self.subscriber.breaker != subscriber.breaker || self.subscriber.target != subscriber.target {
            let (failing, disabled) = (self.breaker.failing(), self.breaker.is_disabled());
            self.breaker = Breaker::resume(subscriber.breaker.clone(), failing, disabled);
            self.blocked = None;
        }
        self.subscriber = subscriber;
    }

    /// Another process may have enabled it.
    fn standing(&mut self, standing: &Standing) {
        if standing.enabled <= self.enabled {
            return;
        }
        info!(subscriber = self.subscriber.name, "enabled");
        self.enabled = standing.enabled;
        self.breaker.enable();
        (self.disabled, self.blocked, self.complete) = (None, None, false);
        self.counted.disabled.store(0, Ordering::Relaxed);
        // What failed meanwhile may have been written since
        let _ = self.shared.outcomes.send(Report::Standing(self.number, self.as_it_stands()));
    }

    /// Begins what may be begun.
    fn begin(&mut self) {
        let now = SystemTime::now();
        if self.blocked.is_some_and(|until| until <= now) {
            self.blocked = None;
        }
        if self.next.is_some_and(|next| next <= milliseconds(now)) {
            self.next = None;
            self.complete = false;
        }
        self.slowed = None;
        if self.end.is_some() {
            return;
        }
        while self.blocked.is_none() && self.under_way.len() < self.subscriber.concurrency && !self.waiting.is_empty() {
            if let Some(Err(early)) = self.limiter.as_ref().map(RateLimiter::check) {
                self.slowed = Some(Instant::now() + early.wait_time_from(DefaultClock::default().now()));
                return;
            }
            match self.breaker.ask(now) {
                Permit::Go | Permit::Probe => {}
                Permit::Wait(until) => {
                    self.blocked = Some(until);
                    return self.shed();
                }
                Permit::Disabled => return self.shed(),
            }
            if let Some(delivery) = self.waiting.pop_front() {
                let (client, subscriber) = (self.shared.client.clone(), Arc::clone(&self.subscriber));
                self.under_way.spawn(send(client, subscriber, delivery));
            }
        }
    }

    /// A request that might be made was not.
    fn withdraw(&mut self) {
        self.breaker.withdrawn(SystemTime::now());
        self.blocked = None;
    }

    /// Forgets what waits: it is in the store, and who is left in peace shall cost no memory.
    fn shed(&mut self) {
        for delivery in self.waiting.drain(..) {
            self.held.remove(&delivery.message.number);
            self.complete = false;
        }
    }

    /// Asks for more where there is more and it can go.
    fn load(&mut self) {
        let lot = (self.subscriber.concurrency * LOT_PER_PLACE).clamp(*LOT.start(), *LOT.end());
        let stays = self.blocked.is_some() || self.breaker.is_disabled() || self.end.is_some();
        // What came of requests is written faster than requests are made, unless the disk is in trouble
        let enough = self.waiting.len() >= lot / 2 || self.held.len() >= 8 * lot;
        if self.complete || self.loading || stays || enough {
            return;
        }
        let load = Load { subscriber: self.number, held: self.held.clone(), most: lot };
        self.loading = self.shared.loads.send(load).is_ok();
        self.complete = self.loading;
    }

    /// Tells others how it is.
    fn tell(&mut self) {
        let due = self.waiting.front().map_or(0, |delivery| delivery.due.max(0) as u64);
        if due > 0 || self.complete {
            self.counted.due.store(due, Ordering::Relaxed);
        }
        let stays = self.blocked.is_some() || self.breaker.is_disabled();
        let nothing = self.waiting.is_empty() && self.held.is_empty() && !self.loading;
        if nothing && (self.complete || stays) {
            self.idle.drain(..).for_each(|idle| _ = idle.send(()));
        }
    }

    /// When there is something to do though nobody says so.
    fn wake(&self) -> Option<Instant> {
        let (now, of_day) = (Instant::now(), SystemTime::now());
        let at = |time: SystemTime| now + time.duration_since(of_day).unwrap_or_default();
        if let Some(blocked) = self.blocked {
            return Some(at(blocked));
        }
        let next = self.next.filter(|_| !self.breaker.is_disabled());
        let next = next.map(|next| now + Duration::from_millis((next - milliseconds(of_day)).max(0) as u64 + 1));
        [next, self.slowed].into_iter().flatten().min()
    }
}

/// Lets so many go in a second, evenly: as many as [`rate`](super::options::rate) lets through.
fn limiter(rate: Option<f64>) -> Option<DefaultDirectRateLimiter> {
    let period = Duration::try_from_secs_f64(1.0 / rate?).ok()?;
    let quota = Quota::with_period(period.max(Duration::from_nanos(1)))?;
    Some(RateLimiter::direct(quota.allow_burst(NonZeroU32::MIN)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::options::rate;

    #[test]
    fn what_is_taken_for_a_rate_is_kept_to() {
        for requests in [1e-7, 0.5, 1.0, 1e12, f64::MAX] {
            let limiter = limiter(rate(requests).unwrap()).unwrap();
            assert!(limiter.check().is_ok(), "{requests}");
            assert_eq!(limiter.check().is_err(), requests < 1e6, "{requests}");
        }
        assert!(limiter(rate(0.0).unwrap()).is_none());
        for wrong in [1e-8, 1e-30, f64::MIN_POSITIVE, -1.0, f64::NAN, f64::INFINITY] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }
}
