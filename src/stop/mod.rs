//! The loop that every stop runs: poll, handle, advance, settle.
//!
//! A handler that asks a service across the network would wait for every answer. So it may begin with a batch
//! ([`Handler::prepare`]) before the one in front is settled: settling, and the reading of the next batch, fill the time.
//! Batches are handled and settled in their order all the same.
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
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use tracing::{debug, info, warn};

use crate::{
    backoff::{Absence, persist, waits},
    bus::{Batch, Bus, BusError, Outbox, Subscription, Topic},
    config::Config,
    dead_letter::{DeadLetters, history::History, now_ms},
    drain::Member,
    handler::{Broken, Handler, Verdict},
    journal::{self, Notes, Outcome, What},
    json::scan::Tape,
    shutdown::Shutdown,
    slip::{Checked, Limits, Malformed, Message, Parts, Stops},
    stats::{Reason, SharedStats, Stats, Tally, tally},
    terminal::moment,
};

mod report;

use report::Report;

/// How long one poll waits; bounds how late an idle stop sees that it is to end.
const POLL: Duration = Duration::from_millis(100);

/// The same where the stop is to end when nothing is left: every member has to look before any can end.
const DRAIN_POLL: Duration = Duration::from_millis(10);

/// While a stop waits for something else, it tells the bus that often that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// Outputs of one settle, and bytes of them that are copies: what is more waits for the next one.
const MOST_OUTPUTS: usize = 100_000;
const MOST_COPIED: usize = 64 << 20;

/// What all stops of a process have in common.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Messages that a handler sees at most at once.
    pub batch: usize,
    pub limits: Limits,
    pub retry: Retry,
    /// The topics that a slip may name.
    pub stops: Arc<Stops>,
    /// Where dead letters go.
    pub error_topic: Topic,
    /// What is noted of each hop, and where.
    pub journal: Arc<journal::Options>,
    /// How long the end of the process waits for what is in flight.
    pub shutdown_timeout: Duration,
    /// How long the start waits for the bus; `None` for ever.
    pub connect_timeout: Option<Duration>,
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Self {
        Self {
            batch: config.batch,
            limits: config.limits,
            retry: config.retry,
            stops: Arc::new(Stops::new(config.slip_topics())),
            error_topic: config.error_topic.clone(),
            journal: Arc::new(config.journal.clone()),
            shutdown_timeout: config.shutdown_timeout,
            connect_timeout: None,
        }
    }
}

impl From<&Settings> for Settings {
    fn from(settings: &Settings) -> Self {
        settings.clone()
    }
}

/// How often and how long after one another a message is tried: `[retry]`, or `retry` in the section of a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// Attempts in all, the first one included.
    pub max_attempts: u32,
    /// The wait before the second attempt; doubled before each further one, with jitter.
    pub first: Duration,
    /// The longest wait.
    pub max: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { max_attempts: 5, first: Duration::from_millis(100), max: Duration::from_secs(10) }
    }
}

/// A handler on a topic: one stop, ready to run.
pub struct Stop {
    letters: DeadLetters,
    handler: Box<dyn Handler>,
    settings: Settings,
    stats: SharedStats,
    drain: Option<Member>,
    on_read: Option<Box<dyn Fn(u64) + Send>>,
}

impl Stop {
    /// A stop called `name` that reads `topic`.
    ///
    /// `settings` are [`Settings`], or the [`Config`] that they are from.
    pub fn new(name: &str, topic: &Topic, handler: impl Handler + 'static, settings: impl Into<Settings>) -> Self {
        let settings = settings.into();
        let letters = DeadLetters { stop: name.to_owned(), topic: topic.clone(), error: settings.error_topic.clone() };
        Self {
            letters,
            handler: Box::new(handler),
            settings,
            stats: SharedStats::default(),
            drain: None,
            on_read: None,
        }
    }

    /// Tries as often and as far apart as `retry` says, not as the settings do.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.settings.retry = retry;
        self
    }

    /// Ends when the input is used up, here and at all other members of the same drain.
    pub fn drain(mut self, member: Member) -> Self {
        self.drain = Some(member);
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
        let driven = self.drive(&mut *subscription, &mut report, shutdown);
        report.outcomes(&self.stats.snapshot());
        driven.with_context(|| format!("stop {name}"))?;
        let deadline = Instant::now() + self.settings.shutdown_timeout;
        subscription.close(deadline).with_context(|| format!("end stop {name}"))?;
        let stats = self.stats.snapshot();
        let sum = |counts: &std::collections::BTreeMap<String, u64>| counts.values().sum::<u64>();
        let (dropped, rejected) = (sum(&stats.dropped), sum(&stats.rejected));
        let Stats { read, forwarded, copied, finished, .. } = stats;
        info!(stop = name, read, forwarded, copied, finished, dropped, rejected, "ended");
        Ok(())
    }

    /// Waits for all that the stop needs, the bus last: who waits holds no place in the group.
    fn open(&mut self, bus: &dyn Bus, shutdown: &Shutdown) -> anyhow::Result<Option<Box<dyn Subscription>>> {
        let (needs, limit) = (self.needs(), self.settings.connect_timeout);
        let connect = || {
            self.handler.connect().map_err(|error| match error.is::<Broken>() {
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
            bus.connect()?;
            bus.create_topics(&topics)?;
            bus.subscribe(&self.letters)
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
        let mut judged = None;
        while !shutdown.requested() {
            // What is judged does not wait for company
            let wait = if judged.is_some() { Duration::ZERO } else { wait };
            let polled = persist("the bus", None, shutdown, || subscription.poll(self.settings.batch, wait))?;
            let Some(batch) = polled else { break };
            self.stats.lock().refuse(subscription.refused());
            report.now_and_then(subscription, &self.stats);
            if !batch.is_empty() {
                if let Some(drain) = &self.drain {
                    drain.active();
                }
                judged = self.carry(&Arc::new(batch), judged, &mut scratch, subscription, shutdown)?;
            } else if let Some(judged) = judged.take() {
                scratch.spare = self.settle(judged, subscription, shutdown)?;
            } else if self.nothing_left(subscription)? {
                break;
            }
        }
        judged.map_or(Ok(()), |judged| self.settle(judged, subscription, shutdown).map(drop))
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

    /// Handles and settles a whole batch, however often that takes, and `before`, what was left to settle of the one
    /// before. Where the handler prepares, the settling of the last of this one is left as well: the next one is to be
    /// prepared first.
    fn carry(
        &mut self,
        batch: &Arc<Batch>,
        mut before: Option<Settling>,
        scratch: &mut Scratch,
        subscription: &mut dyn Subscription,
        shutdown: &Shutdown,
    ) -> anyhow::Result<Option<Settling>> {
        let (mut from, mut tries, mut alone_until) = (0, Tries::default(), 0);
        let mut retry_waits = waits(self.settings.retry.first, self.settings.retry.max);
        let mut absence: Option<Absence> = None;
        while from < batch.len() {
            let until = if from < alone_until { from + 1 } else { batch.len() };
            let mut settled = None;
            let prepared = |stop: &Self| {
                let before = before.take().map(|before| stop.settle(before, subscription, shutdown));
                settled = before.transpose()?;
                Ok(())
            };
            let judged = self.judge(batch, from..until, &tries, scratch, prepared)?;
            if let Some(outbox) = settled {
                scratch.spare = outbox;
            }
            let judged = match judged {
                Judged::Up { to, tally, retry } => {
                    if let Some(absence) = absence.take() {
                        absence.over();
                    }
                    let outbox = std::mem::replace(&mut scratch.outbox, std::mem::take(&mut scratch.spare));
                    let judged = Settling { batch: batch.clone(), inputs: from..to, outbox, tally };
                    if to == batch.len() && self.handler.prepares() {
                        return Ok(Some(judged));
                    }
                    scratch.spare = self.settle(judged, subscription, shutdown)?;
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
                    if self.wait(wait, subscription, shutdown)? {
                        return Ok(None);
                    }
                    continue;
                }
            };
            if let Some(reason) = judged {
                debug!(stop = self.letters.stop, attempt = tries.attempt, "retry: {reason}");
                tries.failed.push(self.letters.trouble(&reason, tries.attempt));
                tries.attempt += 1;
                alone_until = alone_until.max(from + 1);
                self.stats.lock().retried += 1;
                if self.wait(retry_waits.next().unwrap_or_default(), subscription, shutdown)? {
                    return Ok(None);
                }
            }
        }
        Ok(None)
    }

    /// Settles and counts what was judged, waiting where the bus is away. Once the end of the process is asked for, that
    /// long at most. Gives the outbox back for its memory.
    fn settle(
        &self,
        judged: Settling,
        subscription: &mut dyn Subscription,
        shutdown: &Shutdown,
    ) -> anyhow::Result<Outbox> {
        let Settling { batch, inputs, outbox, tally } = judged;
        if !inputs.is_empty() {
            let mut settle = || subscription.settle(&batch, inputs.clone(), &outbox);
            if persist("the bus", None, shutdown, &mut settle)?.is_none() {
                persist("the bus", Some(self.settings.shutdown_timeout), &Shutdown::default(), &mut settle)
                    .with_context(|| {
                        format!("{} messages unsettled at the end; they will be read again", inputs.len())
                    })?;
            }
        }
        self.stats.lock().add(&tally, now_ms());
        if let Some(on_read) = self.on_read.as_ref().filter(|_| tally.read > 0) {
            on_read(tally.read);
        }
        Ok(outbox)
    }

    /// Waits for `time`; true where the end of the process is asked for meanwhile.
    fn wait(&self, time: Duration, subscription: &mut dyn Subscription, shutdown: &Shutdown) -> anyhow::Result<bool> {
        let end = Instant::now() + time;
        loop {
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

    /// Handles `range` of a batch, the first message after what was tried with it before, and fills the outbox with what
    /// comes of it, up to the first message that is to be tried again. Calls `prepared` once the handler has prepared.
    fn judge(
        &mut self,
        batch: &Batch,
        range: std::ops::Range<usize>,
        first: &Tries,
        scratch: &mut Scratch,
        prepared: impl FnOnce(&Self) -> anyhow::Result<()>,
    ) -> anyhow::Result<Judged> {
        let (limits, stops) = (self.settings.limits, Arc::clone(&self.settings.stops));
        let Scratch { tape, outbox, messages: memory, notes, .. } = scratch;
        tape.clear();
        outbox.clear();
        let checked: Vec<_> = range.clone().map(|index| Checked::new(batch.get(index).value, &limits, tape)).collect();
        let mut messages = recycled(std::mem::take(memory));
        let (mut refused, mut now) = (Vec::new(), None);
        for (index, checked) in range.clone().zip(checked) {
            let message = checked.and_then(|checked| {
                let (record, parts) = (batch.get(index), Parts::new(&checked, Some(tape))?);
                match self.handler.begins_journeys() {
                    true => Message::at_its_beginning(record, parts),
                    false => Message::on_its_way(record, parts, &limits, &stops, messages.last()),
                }
            });
            match message {
                Ok(message) if message.deadline().is_some_and(|end| end < *now.get_or_insert_with(now_ms)) => {
                    refused.push((index, Refused::Late(message)));
                }
                Ok(message) => messages.push(message),
                Err(reason) => refused.push((index, Refused::Malformed(reason))),
            }
        }
        self.prepare(&messages);
        prepared(self)?;
        // The batch before is none of its time
        notes.begin(self.handler.begins_journeys());
        let verdicts = match self.ask(&mut messages) {
            Answer::Verdicts(verdicts) => verdicts,
            Answer::Away(error) => return Ok(Judged::Away(error)),
            Answer::Panicked if messages.len() > 1 => return Ok(Judged::Panicked),
            Answer::Panicked => messages.iter().map(|_| Verdict::retry("handler panicked")).collect(),
        };
        let mut refused = refused.into_iter().peekable();
        let mut judged = messages.iter().zip(verdicts);
        let (mut counts, fresh) = (Tally::default(), Tries::default());
        for index in range.clone() {
            let tries = if index == range.start { first } else { &fresh };
            match refused.next_if(|(at, _)| *at == index) {
                Some((_, Refused::Malformed(reason))) => {
                    counts.read += 1;
                    let (record, text) = (batch.get(index), reason.to_string());
                    self.letters.write(outbox, index, &record, &text, 1);
                    notes.record(&self.settings.journal, &self.letters, index, &record, &self.rejected(&text, 1));
                    tally(&mut counts.rejected, reason.kind().into());
                    continue;
                }
                Some((_, Refused::Late(message))) => {
                    let reason = late(message.deadline().unwrap_or_default());
                    let tries = &tries.had();
                    self.carry_out(index, &message, Verdict::reject(reason), tries, (outbox, notes), &mut counts);
                    continue;
                }
                None => {}
            }
            let Some((message, verdict)) = judged.next() else { break };
            let attempt = tries.attempt;
            let verdict = match verdict {
                Verdict::Retry(reason) if attempt < self.settings.retry.max_attempts => {
                    notes.publish(&self.settings.journal, outbox);
                    return Ok(Judged::Up { to: index, tally: counts, retry: Some(reason) });
                }
                Verdict::Retry(reason) => Verdict::reject(format!("{reason}; gave up after {attempt} attempts")),
                verdict => verdict,
            };
            self.carry_out(index, message, verdict, tries, (outbox, notes), &mut counts);
            if counts.copied_bytes > MOST_COPIED || outbox.len() > MOST_OUTPUTS {
                // Messages that are sent many times over are settled a few at a time
                notes.publish(&self.settings.journal, outbox);
                return Ok(Judged::Up { to: index + 1, tally: counts, retry: None });
            }
        }
        notes.publish(&self.settings.journal, outbox);
        *memory = recycled(messages);
        Ok(Judged::Up { to: range.end, tally: counts, retry: None })
    }

    /// Has the handler begin what takes a while. Where it panics it will when it is asked, and that is dealt with there.
    fn prepare(&mut self, messages: &[Message<'_>]) {
        let handler = &mut self.handler;
        if handler.prepares() && !messages.is_empty() {
            let _ = catch_unwind(AssertUnwindSafe(|| handler.prepare(messages)));
        }
    }

    fn ask(&mut self, messages: &mut [Message<'_>]) -> Answer {
        if messages.is_empty() {
            return Answer::Verdicts(Vec::new());
        }
        let handler = &mut self.handler;
        // A handler is asked again after a panic; what state it left itself in is its own to mind
        match catch_unwind(AssertUnwindSafe(|| handler.handle(messages))) {
            Ok(Ok(verdicts)) if verdicts.len() == messages.len() => Answer::Verdicts(verdicts),
            Ok(Ok(verdicts)) => {
                let reason = format!("handler gave {} verdicts on {} messages", verdicts.len(), messages.len());
                Answer::Verdicts(messages.iter().map(|_| Verdict::reject(reason.clone())).collect())
            }
            Ok(Err(error)) => Answer::Away(error),
            Err(_) => {
                warn!(stop = self.letters.stop, "handler panicked");
                Answer::Panicked
            }
        }
    }

    fn carry_out(
        &self,
        index: usize,
        message: &Message<'_>,
        verdict: Verdict,
        tries: &Tries,
        (outbox, notes): (&mut Outbox, &mut Notes),
        counts: &mut Tally,
    ) {
        counts.read += 1;
        let attempts = tries.attempt;
        let record = &message.record;
        let mut note = |what: What<'_>| notes.message(&self.settings.journal, &self.letters, index, message, &what);
        let finished = What { outcome: Outcome::Finished, attempts, reason: None, next: None };
        let reason: Reason = match verdict {
            Verdict::Drop(reason) => {
                note(What { outcome: Outcome::Dropped, attempts, reason: Some(&reason), next: None });
                return tally(&mut counts.dropped, label(reason));
            }
            Verdict::Finish => {
                note(finished);
                return counts.finished.push(record.timestamp);
            }
            Verdict::Forward => match self.forward(index, message, outbox, counts) {
                Ok(None) => {
                    note(finished);
                    return counts.finished.push(record.timestamp);
                }
                Ok(Some(next)) => {
                    note(What { outcome: Outcome::Forwarded, attempts, reason: None, next: Some(next.as_str()) });
                    for copy in message.copies() {
                        notes.copy(&self.settings.journal, &self.letters, index, message, &copy);
                    }
                    counts.forwarded += 1;
                    return;
                }
                Err(reason) => reason.into(),
            },
            Verdict::Reject(reason) | Verdict::Retry(reason) => reason,
        };
        self.letters.write_after(&tries.failed, outbox, index, record, &reason, attempts);
        note(self.rejected(&reason, attempts));
        tally(&mut counts.rejected, label(reason));
    }

    /// Sends a message on to its next stop, and its copies to theirs. Gives where it goes, if anywhere, or why it cannot.
    fn forward<'m>(
        &self,
        index: usize,
        message: &'m Message<'_>,
        outbox: &mut Outbox,
        counts: &mut Tally,
    ) -> Result<Option<&'m Topic>, String> {
        let Settings { limits, stops, .. } = &self.settings;
        if let Some(reason) = message.refused_revision(limits, stops) {
            return Err(reason);
        }
        let Some(next) = message.next_stop() else { return Ok(None) };
        let mut longest = outbox.forward(index, next, |out| message.write_next_from(&self.letters.stop, out));
        let (mut sent, mut copied) = (1, 0);
        for copy in message.copies() {
            let Some(next) = copy.next_stop() else { continue };
            let bytes = outbox.forward(index, next, |out| message.write_copy(&copy, out));
            (longest, sent, copied) = (longest.max(bytes), sent + 1, copied + bytes);
        }
        let limit = limits.message_bytes;
        if longest > limit {
            (0..sent).for_each(|_| outbox.pop());
            return Err(format!("output is longer than limits.message_bytes = {limit}: {longest} bytes"));
        }
        counts.copied += sent - 1;
        counts.copied_bytes += copied;
        Ok(Some(next))
    }

    fn rejected<'a>(&'a self, reason: &'a str, attempts: u32) -> What<'a> {
        let next = Some(self.letters.error.as_str());
        What { outcome: Outcome::Rejected, attempts, reason: Some(reason), next }
    }
}

/// What a reason is counted under: as it is where it is fixed, else up to its first colon, so that particulars neither
/// make it many nor come into the log.
fn label(reason: Reason) -> Reason {
    match reason {
        Reason::Owned(text) => text.split(':').next().unwrap_or_default().trim_end().to_owned().into(),
        fixed => fixed,
    }
}

/// What no handler is asked about.
enum Refused<'a> {
    Malformed(Malformed),
    /// Its deadline has passed.
    Late(Message<'a>),
}

fn late(deadline: i64) -> String {
    format!("its deadline has passed: {}", moment(deadline))
}

/// How often a message has been tried, with this time.
struct Tries {
    attempt: u32,
    /// What went wrong before.
    failed: History,
}

impl Tries {
    /// The same without this time: it is not tried again.
    fn had(&self) -> Self {
        Self { attempt: (self.attempt - 1).max(1), failed: self.failed.clone() }
    }
}

impl Default for Tries {
    fn default() -> Self {
        Self { attempt: 1, failed: History::default() }
    }
}

/// What one batch leaves to the next: memory.
#[derive(Default)]
struct Scratch {
    tape: Tape,
    outbox: Outbox,
    /// Of what is settled.
    spare: Outbox,
    /// Empty.
    messages: Vec<Message<'static>>,
    notes: Notes,
}

/// Part of a batch that is judged, to be settled.
struct Settling {
    batch: Arc<Batch>,
    inputs: std::ops::Range<usize>,
    outbox: Outbox,
    tally: Tally,
}

/// An empty vector in the memory of another one, whose messages may have been of other batches.
fn recycled<'a>(mut messages: Vec<Message<'_>>) -> Vec<Message<'a>> {
    messages.clear();
    // An iterator over a vector collects in place, whatever the lifetimes
    messages.into_iter().map(|_| unreachable!("it is empty")).collect()
}

/// What came of handling a range of a batch.
enum Judged {
    /// All up to `to` may be settled; then `retry` says why the next one is to be tried again.
    Up { to: usize, tally: Tally, retry: Option<std::borrow::Cow<'static, str>> },
    /// One of several messages made the handler panic.
    Panicked,
    /// What the handler needs is away.
    Away(anyhow::Error),
}

enum Answer {
    Verdicts(Vec<Verdict>),
    Panicked,
    Away(anyhow::Error),
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
