//! The loop that every stop runs: poll, handle, advance, settle.
//!
//! A handler that asks a service across the network would wait for every answer. So it may begin with a batch
//! ([`Handler::prepare`]) before the one in front is handled: handling and settling that, and reading the next one, fill
//! the time. Batches are handled and settled in their order all the same.
//!
//! What can go wrong on the way, and what then happens:
//! - a record is no message, or its handler rejects it: dead letter, in the settle of its batch;
//! - the deadline of a message has passed: dead letter, and its handler does not see it;
//! - a handler asks for a retry, or panics: what is before that message is settled, then it alone is handled again
//!   after a back-off, with everything behind it waiting, so that the order holds; after `max_attempts` a dead letter;
//! - what a handler needs is away, or the bus is: the stop waits, says so, and goes on where it was;
//! - the end of the process is asked for: the batch at hand is settled, nothing more is read.

use std::{
    collections::BTreeSet,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use tracing::info;

use crate::{
    backoff::{Absence, persist, waits},
    bus::{Batch, Bus, BusError, Outbox, Subscription, Topic},
    cache::Counts,
    dead_letter::{DeadLetters, now_ms},
    drain::Member,
    handler::{Broken, Handler},
    health::{Health, Needs, Phase},
    journal::{self, Notes},
    shutdown::Shutdown,
    stats::{SharedStats, Stats, Tally},
    trace::{Spans, Tracer, Traces},
};

mod judge;
mod look;
mod parsed;
mod report;
mod settings;

use judge::{Judged, Tries};
use look::Looks;
pub use look::Watched;
use parsed::{Memory, Parsed, Terms};
use report::Report;
pub use settings::{Retry, Settings};

/// How long one poll waits; bounds how late an idle stop sees that it is to end.
const POLL: Duration = Duration::from_millis(100);

/// The same where the stop is to end when nothing is left: every member has to look before any can end.
const DRAIN_POLL: Duration = Duration::from_millis(10);

/// While a stop waits for something else, it tells the bus that often that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// A handler on a topic: one stop, ready to run.
pub struct Stop {
    letters: DeadLetters,
    handler: Box<dyn Handler>,
    settings: Settings,
    terms: Terms,
    stats: SharedStats,
    health: Health,
    cache: Option<Arc<Counts>>,
    drain: Option<Member>,
    tracer: Option<Tracer>,
    on_read: Option<Box<dyn Fn(u64) + Send>>,
}

impl Stop {
    /// A stop called `name` that reads `topic`.
    ///
    /// `settings` are [`Settings`], or the [`Config`](crate::Config) that they are from.
    pub fn new(name: &str, topic: &Topic, handler: impl Handler + 'static, settings: impl Into<Settings>) -> Self {
        let settings = settings.into();
        let letters = DeadLetters { stop: name.to_owned(), topic: topic.clone(), error: settings.error_topic.clone() };
        let (limits, stops) = (settings.limits, settings.stops.clone());
        Self {
            letters,
            terms: Terms { limits, stops, beginning: handler.begins_journeys() },
            handler: Box::new(handler),
            settings,
            stats: SharedStats::default(),
            health: Health::default(),
            cache: None,
            drain: None,
            tracer: None,
            on_read: None,
        }
    }

    /// Tries as often and as far apart as `retry` says, not as the settings do.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.settings.retry = retry;
        self
    }

    /// What its handler needs is the cache that `counts` are of.
    pub fn cache(mut self, counts: Arc<Counts>) -> Self {
        self.health.name_needs("cache");
        self.cache = Some(counts);
        self
    }

    /// Calls what its handler needs `name` where its health is told; without this, `handler`.
    pub fn needs_called(self, name: &'static str) -> Self {
        self.health.name_needs(name);
        self
    }

    /// Ends when the input is used up, here and at all other members of the same drain.
    pub fn drain(mut self, member: Member) -> Self {
        self.drain = Some(member);
        self
    }

    /// Makes spans of what becomes of its messages.
    pub fn traced(mut self, traces: &Traces) -> Self {
        self.tracer = Some(Tracer::new(traces, &self.letters, self.terms.beginning));
        self
    }

    /// Calls `count` with the number of messages read, once a batch, after it was settled. It must not block.
    pub fn on_read(mut self, count: impl Fn(u64) + Send + 'static) -> Self {
        self.on_read = Some(Box::new(count));
        self
    }

    pub fn name(&self) -> &str {
        &self.letters.stop
    }

    pub fn topic(&self) -> &Topic {
        &self.letters.topic
    }

    /// The counts of this stop, also while it runs.
    pub fn stats(&self) -> SharedStats {
        self.stats.clone()
    }

    /// Runs until `shutdown` is asked for, or until all is drained where that was wished for.
    ///
    /// Fails where the bus fails for good, or cannot be reached in time ([`crate::error::Unreachable`]); what was not
    /// settled then is read again by the next one to run.
    pub fn run(mut self, bus: &dyn Bus, shutdown: &Shutdown) -> anyhow::Result<()> {
        let name = self.letters.stop.clone();
        let Some(mut subscription) = self.open(bus, shutdown)? else {
            info!(stop = name, "ended before it was ready");
            return Ok(());
        };
        info!(stop = name, topic = %self.letters.topic, guarantee = %bus.guarantee(), "ready");
        let mut report = Report::new(&name);
        self.health.enter(Phase::Running);
        let driven = self.drive(&mut *subscription, &mut report, shutdown);
        self.health.enter(Phase::Ended);
        report.outcomes(&self.stats.snapshot());
        driven.with_context(|| format!("stop {name}"))?;
        let deadline = Instant::now() + self.settings.shutdown_timeout;
        subscription.close(deadline).with_context(|| format!("end stop {name}"))?;
        let stats = self.stats.snapshot();
        let sum = |counts: &std::collections::BTreeMap<String, u64>| counts.values().sum::<u64>();
        let (dropped, rejected) = (sum(&stats.dropped), sum(&stats.rejected));
        let Stats { read, forwarded, copied, finished, .. } = stats;
        info!(stop = name, read, forwarded, finished, dropped, rejected, copied, "ended");
        Ok(())
    }

    /// Waits for all that the stop needs, the bus last: who waits holds no place in the group.
    fn open(&mut self, bus: &dyn Bus, shutdown: &Shutdown) -> anyhow::Result<Option<Box<dyn Subscription>>> {
        let (needs, limit) = (self.needs(), self.settings.connect_timeout);
        let connect = || {
            self.health.tried(Needs::Handler, self.handler.connect()).map_err(|error| match error.is::<Broken>() {
                true => BusError::Fatal(error),
                false => BusError::Unavailable(error),
            })
        };
        if persist(&needs, limit, shutdown, connect)?.is_none() {
            return Ok(None);
        }
        let journal = &self.settings.journal;
        let journal = (journal.level != journal::Level::Off).then_some(&journal.topic);
        let own = [&self.letters.topic, &self.letters.error].into_iter().chain(journal);
        let topics: BTreeSet<_> = self.settings.stops.iter().chain(own).cloned().collect();
        let topics: Vec<_> = topics.into_iter().collect();
        persist("the bus", limit, shutdown, || {
            let subscribe = || {
                bus.connect()?;
                bus.create_topics(&topics)?;
                bus.subscribe(&self.letters)
            };
            self.health.tried(Needs::Bus, subscribe())
        })
    }

    fn drive(
        &mut self,
        subscription: &mut dyn Subscription,
        report: &mut Report,
        shutdown: &Shutdown,
    ) -> anyhow::Result<()> {
        let wait = if self.drain.is_some() { DRAIN_POLL } else { POLL };
        let mut scratch = Scratch::default();
        let mut prepared: Option<Parsed> = None;
        let mut looks = Looks::default();
        while !shutdown.requested() {
            // What is prepared does not wait for company
            let wait = if prepared.is_some() { Duration::ZERO } else { wait };
            let mut poll = || match subscription.poll(self.settings.batch, wait) {
                // That nothing came tells nothing of the bus: an engine may find out that it is away on its own time
                Ok(nothing) if nothing.is_empty() => Ok(nothing),
                outcome => self.health.tried(Needs::Bus, outcome),
            };
            self.health.turn();
            let polled = persist("the bus", None, shutdown, &mut poll)?;
            let Some(batch) = polled else { break };
            self.refused(subscription.refused());
            self.look(&mut looks, subscription, batch.is_empty() && prepared.is_none());
            report.now_and_then(subscription, &self.stats);
            let next = match batch.is_empty() {
                true if prepared.is_none() => match self.nothing_left(subscription)? {
                    true => break,
                    false => continue,
                },
                true => prepared.take(),
                false => {
                    if let Some(drain) = &self.drain {
                        drain.active();
                    }
                    let inputs = 0..batch.len();
                    let mut parsed = self.read(&Arc::new(batch), inputs, &mut scratch);
                    match self.prepare(&mut parsed) {
                        true => prepared.replace(parsed),
                        false => Some(parsed),
                    }
                }
            };
            if let Some(next) = next {
                self.carry(next, &mut scratch, subscription, shutdown)?;
            }
        }
        // What is only prepared is read again by the next one to run
        Ok(())
    }

    fn nothing_left(&self, subscription: &mut dyn Subscription) -> anyhow::Result<bool> {
        let Some(drain) = &self.drain else { return Ok(false) };
        let activity = drain.activity();
        let drained = subscription.flush(Instant::now() + POLL).and_then(|flushed| {
            let drained = flushed && subscription.drained()?;
            Ok(drained)
        });
        match drained {
            Ok(drained) => Ok(drained && drain.idle(activity)),
            Err(BusError::Unavailable(_)) => Ok(false),
            Err(BusError::Fatal(error)) => Err(error),
        }
    }

    /// What the handler waits for, as the log calls it.
    fn needs(&self) -> String {
        format!("what stop {} needs", self.letters.stop)
    }

    fn read(&self, batch: &Arc<Batch>, inputs: Range<usize>, scratch: &mut Scratch) -> Parsed {
        Parsed::read(batch.clone(), inputs, &self.terms, &mut scratch.memory)
    }

    /// Handles and settles a whole batch, however often that takes; `parsed` is all of it.
    fn carry(
        &mut self,
        parsed: Parsed,
        scratch: &mut Scratch,
        subscription: &mut dyn Subscription,
        shutdown: &Shutdown,
    ) -> anyhow::Result<()> {
        let batch = parsed.borrow_owner().batch.clone();
        let mut parsed = Some(parsed);
        let (mut from, mut tries, mut alone_until) = (0, Tries::default(), 0);
        let mut retry_waits = waits(self.settings.retry.first, self.settings.retry.max);
        let mut absence: Option<Absence> = None;
        while from < batch.len() {
            let until = if from < alone_until { from + 1 } else { batch.len() };
            // A handler sees a message as it arrived, however often
            let mut whole = parsed.take().unwrap_or_else(|| self.read(&batch, from..until, scratch));
            let begun = Instant::now();
            let judged = self.judge(&mut whole, &tries, scratch);
            scratch.memory = whole.memory();
            let retry = match judged {
                Judged::Up { to, mut tally, retry } => {
                    tally.handling = begun.elapsed();
                    if let Some(absence) = absence.take() {
                        absence.over();
                    }
                    let _ = self.health.tried(Needs::Handler, Ok::<_, anyhow::Error>(()));
                    self.health.ails(self.handler.ill());
                    self.settle(&batch, from..to, &scratch.outbox, &tally, subscription, shutdown)?;
                    if let Some(tracer) = &self.tracer {
                        tracer.settled(&mut scratch.spans);
                    }
                    if to > from {
                        (from, tries) = (to, Tries::default());
                        retry_waits = waits(self.settings.retry.first, self.settings.retry.max);
                    }
                    retry
                }
                Judged::Panicked => {
                    // Which of them it was shows when each is handled alone
                    alone_until = until;
                    continue;
                }
                Judged::Away(error) if error.is::<Broken>() => return Err(error),
                Judged::Away(error) => {
                    let absence = absence.get_or_insert_with(|| Absence::of(self.needs()));
                    let wait = absence.failed(&format_args!("{error:#}"));
                    let _ = self.health.tried(Needs::Handler, Err::<(), _>(error));
                    if self.wait(wait, subscription, shutdown)? {
                        return Ok(());
                    }
                    continue;
                }
            };
            if let Some(reason) = retry {
                tries.failed.push(self.letters.trouble(&reason, tries.attempt));
                tries.attempt += 1;
                alone_until = alone_until.max(from + 1);
                self.stats.lock().retried += 1;
                self.health.count(0, 1);
                if self.wait(retry_waits.next().unwrap_or_default(), subscription, shutdown)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Settles and counts what was judged, waiting where the bus is away. Once the end of the process is asked for, that
    /// long at most.
    fn settle(
        &self,
        batch: &Arc<Batch>,
        inputs: Range<usize>,
        outbox: &Outbox,
        tally: &Tally,
        subscription: &mut dyn Subscription,
        shutdown: &Shutdown,
    ) -> anyhow::Result<()> {
        let begun = Instant::now();
        if !inputs.is_empty() {
            let mut settle = || self.health.tried(Needs::Bus, subscription.settle(batch, inputs.clone(), outbox));
            if persist("the bus", None, shutdown, &mut settle)?.is_none() {
                persist("the bus", Some(self.settings.shutdown_timeout), &Shutdown::default(), &mut settle)
                    .with_context(|| {
                        format!("{} messages unsettled at the end; they will be read again", inputs.len())
                    })?;
            }
        }
        let mut stats = self.stats.lock();
        stats.add(tally, now_ms());
        if !inputs.is_empty() {
            stats.took(inputs.len(), tally.handling, begun.elapsed());
        }
        drop(stats);
        let (success, fail) = tally.health();
        self.health.count(success, fail);
        if let Some(on_read) = self.on_read.as_ref().filter(|_| tally.read > 0) {
            on_read(tally.read);
        }
        Ok(())
    }

    /// Waits for `time`; true where the end of the process is asked for meanwhile.
    fn wait(&self, time: Duration, subscription: &mut dyn Subscription, shutdown: &Shutdown) -> anyhow::Result<bool> {
        let end = Instant::now() + time;
        loop {
            self.health.turn();
            match subscription.keep_alive() {
                Ok(()) | Err(BusError::Unavailable(_)) => {}
                Err(BusError::Fatal(error)) => return Err(error),
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || shutdown.pause(left.min(KEEP_ALIVE)) {
                return Ok(shutdown.requested());
            }
        }
    }
}

/// What one batch leaves to the next: memory.
#[derive(Default)]
struct Scratch {
    memory: Memory,
    outbox: Outbox,
    notes: Notes,
    spans: Spans,
}

/// Runs several stops, each in a thread of its own, until all have ended. Where one fails, the others are told to end,
/// and its error is given.
pub fn run_all(stops: Vec<Stop>, bus: &dyn Bus, shutdown: &Shutdown) -> anyhow::Result<()> {
    ensure!(!stops.is_empty(), "no stop to run");
    std::thread::scope(|scope| {
        let run = |stop: Stop| {
            move || {
                let outcome = catch_unwind(AssertUnwindSafe(|| stop.run(bus, shutdown)));
                if !matches!(outcome, Ok(Ok(()))) {
                    shutdown.request();
                }
                outcome
            }
        };
        let threads: Vec<_> = stops.into_iter().map(|stop| scope.spawn(run(stop))).collect();
        let mut first = Ok(());
        for thread in threads {
            match thread.join() {
                Ok(Ok(outcome)) => first = first.and(outcome),
                _ => bail!("a stop panicked; this is a bug in metrobus"),
            }
        }
        first
    })
}

#[cfg(test)]
mod tests;
