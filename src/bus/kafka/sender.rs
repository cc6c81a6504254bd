//! Records on their way out: pipelined, bounded, and none dropped.
//!
//! At most [`MOST_RECORDS`] and [`MOST_BYTES`] are in flight; who brings more waits. Deliveries come in by
//! [`Sender::serve`], which has to be called often.
//!
//! **Leaving.** An idempotent producer of librdkafka (2.12) has one round of requests in flight to a partition, and its
//! thread spins while the records behind them are older than `linger.ms`: a fifth of a hop's processor time and more, taken
//! from a broker on the same machine. So the linger is too long to matter. Under load batches leave when they are full.
//! When nothing more is at hand, who sends pushes what there is ([`Sender::push`]): a lone record leaves at once.
//!
//! **Too large.** A broker checks `max.message.bytes` of a topic against whole batches: one record that is too large fails
//! its neighbours. So batches are kept below the smallest limit of the topics in use, and each record is compared with
//! its topic's limit before it is sent. Where a limit was changed meanwhile, or something else is refused for good, the
//! records of the batch that failed are sent again one by one, and what is refused alone is [`Refused`]. Records of the
//! same key that were behind them in flight may overtake them then; nowhere else is the order left.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::anyhow;

use super::{
    admin::Admin,
    raw::{Code, Delivery, Error, Outgoing, Producer},
    settings::Settings,
    size,
};
use crate::{
    bus::{Batch, BusError, OutputRef, Record, Topic},
    slip,
};

const MOST_RECORDS: usize = 32_768;
const MOST_BYTES: usize = 8 << 20;

/// A push that has brought nothing for that long may have gone unnoticed.
pub const PUSHED: Duration = Duration::from_millis(10);

/// A producer with what it needs to know of its topics.
pub struct Sender {
    settings: Arc<Settings>,
    admin: Arc<Admin>,
    transactional_id: Option<String>,
    /// When all that waited was sent on its way; `None` where something was sent or delivered since.
    pushed: Option<Instant>,
    producer: Producer,
    topics: Vec<Target>,
    batch_bytes: usize,
    compressed: bool,
    /// A limit is not what it was when it was asked for.
    limits_stale: bool,
    flight: Flight,
}

/// What is on its way, and what became of it.
#[derive(Default)]
struct Flight {
    records: usize,
    bytes: usize,
    delivered: Vec<u64>,
    failed: VecDeque<Failed>,
    /// The one record in flight has no neighbours.
    alone: bool,
}

struct Target {
    topic: Topic,
    limit: usize,
}

/// A record that was not delivered.
struct Failed {
    /// The record alone.
    record: Batch,
    topic: Topic,
    token: u64,
    code: Code,
    /// It was in no batch with others.
    alone: bool,
}

/// A record that is never going to be delivered.
pub struct Refused {
    pub token: u64,
    pub reason: String,
    pub topic: Topic,
    /// The id of the message that it was.
    pub id: Option<String>,
    /// Whether its time is why.
    pub time: bool,
    /// Whether it had no neighbours, so it is the one.
    pub alone: bool,
}

impl Sender {
    pub fn open(
        settings: &Arc<Settings>,
        admin: &Arc<Admin>,
        transactional_id: Option<String>,
    ) -> Result<Self, BusError> {
        let batch_bytes = settings.batch_bytes(admin.smallest_limit());
        let properties = settings.producer(transactional_id.as_deref(), batch_bytes);
        let producer = Producer::new(&properties, &settings.health).map_err(|error| BusError::Fatal(anyhow!(error)))?;
        Ok(Self {
            settings: settings.clone(),
            admin: admin.clone(),
            transactional_id,
            pushed: None,
            producer,
            topics: Vec::new(),
            batch_bytes,
            compressed: settings.compressed(),
            limits_stale: false,
            flight: Flight::default(),
        })
    }

    pub fn producer(&self) -> &Producer {
        &self.producer
    }

    /// Whether nothing is in flight or to be sent again.
    pub fn is_idle(&self) -> bool {
        self.flight.records == 0 && self.flight.failed.is_empty()
    }

    pub fn in_flight(&self) -> usize {
        self.flight.records
    }

    /// Whether deliveries failed, which [`Sender::recover`] or [`Sender::take_failed`] has to deal with.
    pub fn has_failed(&self) -> bool {
        !self.flight.failed.is_empty()
    }

    /// Whether something is being sent again, or about to be: nothing else may be sent meanwhile.
    pub fn is_recovering(&self) -> bool {
        self.flight.alone || self.has_failed()
    }

    /// Tokens of what was delivered since the last call.
    pub fn delivered(&mut self) -> impl Iterator<Item = u64> {
        self.flight.delivered.drain(..)
    }

    /// The topic's number, where it is known.
    pub fn target(&self, topic: &Topic) -> Option<usize> {
        self.topics.iter().position(|target| target.topic == *topic)
    }

    /// Whether `topics` can be sent to by this producer. Where not, one of them takes less at once than its batches may
    /// hold, and [`Sender::reopen`] is due.
    pub fn learn(&mut self, topics: &[Topic]) -> Result<bool, BusError> {
        if std::mem::take(&mut self.limits_stale) {
            self.admin.forget_limits();
            let known: Vec<_> = self.topics.iter().map(|target| target.topic.clone()).collect();
            let limits = self.admin.limits(&known).inspect_err(|_| self.limits_stale = true)?;
            self.topics.iter_mut().zip(limits).for_each(|(target, limit)| target.limit = limit);
        }
        let unknown: Vec<_> = topics.iter().filter(|topic| self.target(topic).is_none()).cloned().collect();
        for (topic, limit) in unknown.iter().zip(self.admin.limits(&unknown)?) {
            let number = self.producer.topic(topic.as_str()).map_err(|error| fatal(topic, &error))?;
            debug_assert_eq!(number, self.topics.len());
            self.topics.push(Target { topic: topic.clone(), limit });
        }
        Ok(self.topics.iter().all(|target| self.batch_bytes <= self.settings.batch_bytes(target.limit)))
    }

    /// Whether [`Sender::learn`] has nothing to do for `topics`.
    pub fn knows<'a>(&self, mut topics: impl Iterator<Item = &'a Topic>) -> bool {
        !self.limits_stale && topics.all(|topic| self.target(topic).is_some())
    }

    /// Makes the producer anew, for the limits that hold now. Nothing may be in flight that matters.
    pub fn reopen(&mut self) -> Result<(), BusError> {
        let known: Vec<_> = self.topics.iter().map(|target| target.topic.clone()).collect();
        *self = Self::open(&self.settings, &self.admin, self.transactional_id.clone())?;
        self.learn(&known).map(drop)
    }

    /// Waits until `records` of `bytes` fit in; false where they do not until the deadline.
    pub fn wait_for_room(&mut self, records: usize, bytes: usize, deadline: Instant) -> Result<bool, Error> {
        loop {
            let fits = self.flight.records + records <= MOST_RECORDS && self.flight.bytes + bytes <= MOST_BYTES;
            if fits || self.flight.records == 0 {
                return Ok(true);
            }
            let now = Instant::now();
            if now >= deadline {
                return Ok(false);
            }
            let before = self.flight.records;
            self.take((deadline - now).min(Duration::from_millis(5)))?;
            if self.flight.records == before {
                // Many partitions, none of which has a full batch
                self.push();
            }
        }
    }

    /// Why the topic does not take `output`, where it does not.
    pub fn too_large(&self, target: usize, output: &OutputRef<'_>) -> Option<String> {
        let Target { topic, limit } = &self.topics[target];
        let parts = [output.key, output.value, Some(output.headers.encoded())];
        let content: usize = parts.into_iter().flatten().map(<[u8]>::len).sum();
        // All but the content is shorter than that
        if content + 128 <= *limit || self.compressed {
            return None;
        }
        let size = size::batch_of_one(&outgoing(output));
        (size > *limit).then(|| format!("output of {size} bytes is more than topic {topic} takes ({limit} bytes)"))
    }

    /// Takes a copy of the output over.
    pub fn send(&mut self, target: usize, output: &OutputRef<'_>, token: u64) -> Result<(), Error> {
        self.produce(target, &outgoing(output), token)
    }

    fn produce(&mut self, target: usize, record: &Outgoing<'_>, token: u64) -> Result<(), Error> {
        loop {
            match self.producer.produce(target, record, token) {
                Ok(()) => break,
                // Only where a property bounds the queue below what is counted here
                Err(error) if error.code == Code::QueueFull => self.serve(Duration::from_millis(5))?,
                Err(error) => return Err(error),
            }
        }
        self.pushed = None;
        self.flight.records += 1;
        self.flight.bytes += record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
        Ok(())
    }

    /// Sends what waits for company on its way, where something does.
    pub fn push(&mut self) {
        // Who sets a linger means it
        if self.flight.records == 0 || self.settings.lingers() || self.pushed.is_some_and(|at| at.elapsed() < PUSHED) {
            return;
        }
        self.producer.push();
        self.pushed = Some(Instant::now());
    }

    /// Takes deliveries in, having pushed and waited up to `wait` for the first. An error is fatal.
    pub fn serve(&mut self, wait: Duration) -> Result<(), Error> {
        if !wait.is_zero() {
            self.push();
        }
        self.take(wait)
    }

    fn take(&mut self, wait: Duration) -> Result<(), Error> {
        let Self { producer, topics, flight, .. } = self;
        let before = flight.records;
        let error = producer.deliveries(wait, |delivery| flight.take(delivery, topics));
        if flight.records < before {
            self.pushed = None;
        }
        error.map_or(Ok(()), Err)
    }

    /// Undoes the transaction, with what is in flight.
    pub fn abort_transaction(&mut self, wait: Duration) -> Result<(), Error> {
        let Self { producer, topics, flight, .. } = self;
        producer.abort_transaction(wait, || {
            producer.deliveries(Duration::from_millis(5), |delivery| flight.take(delivery, topics));
        })
    }

    /// Sends the output with no neighbours and waits for what becomes of it; false where the deadline came first.
    pub fn send_isolated(
        &mut self,
        target: usize,
        output: &OutputRef<'_>,
        token: u64,
        deadline: Instant,
    ) -> Result<bool, Error> {
        self.wait_for_room(usize::MAX / 2, 0, deadline)?;
        if self.flight.records > 0 || self.has_failed() {
            return Ok(false);
        }
        self.flight.alone = true;
        self.send(target, output, token)?;
        let done = self.wait_for_room(usize::MAX / 2, 0, deadline);
        self.flight.alone = false;
        done
    }

    /// Sends again what failed, one at a time; gives what is never going to be delivered.
    pub fn recover(&mut self) -> Result<Vec<Refused>, BusError> {
        let mut refused = Vec::new();
        while self.flight.records == 0 {
            let Some(failed) = self.flight.failed.pop_front() else { break };
            let class = class(failed.code);
            self.limits_stale |= class == Class::Refused;
            match class {
                Class::Refused if failed.alone => refused.push(failed.refused()),
                Class::Refused | Class::Again => {
                    let target = self.target(&failed.topic).unwrap_or_default();
                    self.flight.alone = true;
                    let sent = self.produce(target, &again(&failed.record.get(0)), failed.token);
                    sent.map_err(|error| fatal(&failed.topic, &error))?;
                }
                Class::Fatal => return Err(failed.fatal()),
            }
        }
        Ok(refused)
    }

    /// Sends a record alone, after what is in flight; whether it is refused shows in [`Sender::recover`].
    pub fn send_alone(&mut self, output: &OutputRef<'_>, now: bool, token: u64) {
        let mut record = Batch::default();
        let timestamp = if now { 0 } else { output.timestamp };
        let OutputRef { key, headers, value, .. } = *output;
        record.push(Record { partition: 0, offset: 0, timestamp, key, headers, value });
        let topic = output.topic.clone();
        self.flight.failed.push_front(Failed { record, topic, token, code: Code::MessageTimedOut, alone: false });
    }

    /// What the broker refused, for a transaction that is undone; an error where trying again is no use.
    pub fn take_failed(&mut self) -> Result<Vec<Refused>, BusError> {
        let mut refused = Vec::new();
        self.flight.delivered.clear();
        for failed in std::mem::take(&mut self.flight.failed) {
            match class(failed.code) {
                Class::Refused => {
                    self.limits_stale = true;
                    refused.push(failed.refused());
                }
                Class::Again => {}
                Class::Fatal => return Err(failed.fatal()),
            }
        }
        Ok(refused)
    }
}

impl Flight {
    fn take(&mut self, delivery: &Delivery<'_>, topics: &[Target]) {
        self.records -= 1;
        self.bytes -= delivery.bytes();
        match delivery.error {
            None => self.delivered.push(delivery.token),
            // Part of a transaction that is undone
            Some(Code::PurgeQueue | Code::PurgeInflight) => {}
            Some(code) => self.failed.extend(Failed::new(delivery, code, self.alone, topics)),
        }
        self.alone &= self.records > 0;
    }
}

impl Failed {
    fn new(delivery: &Delivery<'_>, code: Code, alone: bool, topics: &[Target]) -> Option<Self> {
        let name = delivery.topic_name();
        let topic = topics.iter().find(|target| target.topic.as_str() == name)?.topic.clone();
        let message = delivery.message();
        let mut headers = Vec::new();
        message.headers(&mut headers);
        let mut record = Batch::default();
        record.push(Record {
            partition: 0,
            offset: 0,
            timestamp: message.timestamp(),
            key: message.key(),
            headers: crate::bus::Headers::from_encoded(&headers),
            value: message.value(),
        });
        Some(Self { record, topic, token: delivery.token, code, alone })
    }

    fn refused(self) -> Refused {
        let size = size::batch_of_one(&again(&self.record.get(0)));
        let id = self.record.get(0).value.and_then(slip::id_of);
        let Self { token, topic, code, alone, .. } = self;
        let reason = match code {
            Code::MessageSizeTooLarge => format!("output of {size} bytes is more than topic {topic} takes"),
            code => format!("topic {topic} does not take the output: {code}"),
        };
        Refused { token, reason, topic, id, time: code == Code::InvalidTimestamp, alone }
    }

    fn fatal(self) -> BusError {
        BusError::Fatal(anyhow!("topic {} does not take records: {}", self.topic, self.code))
    }
}

/// What is to be done about a delivery that failed.
#[derive(Clone, Copy, PartialEq)]
enum Class {
    /// The broker does not take this record, or one that was in a batch with it.
    Refused,
    /// It may be taken another time.
    Again,
    Fatal,
}

fn class(code: Code) -> Class {
    match code {
        Code::MessageSizeTooLarge
        | Code::MessageBatchTooLarge
        | Code::InvalidMessage
        | Code::InvalidTimestamp
        | Code::InvalidRecord => Class::Refused,
        Code::MessageTimedOut
        | Code::OperationTimedOut
        | Code::RequestTimedOut
        | Code::NotEnoughReplicas
        | Code::NotEnoughReplicasAfterAppend
        | Code::BrokerTransportFailure
        | Code::InvalidDifferentRecord => Class::Again,
        _ => Class::Fatal,
    }
}

pub fn fatal(topic: &Topic, error: &Error) -> BusError {
    BusError::Fatal(anyhow!("send to topic {topic}: {error}"))
}

fn outgoing<'a>(output: &OutputRef<'a>) -> Outgoing<'a> {
    let OutputRef { key, value, headers, timestamp, .. } = *output;
    Outgoing { key, value, headers, timestamp }
}

fn again<'a>(record: &Record<'a>) -> Outgoing<'a> {
    let Record { key, value, headers, timestamp, .. } = *record;
    Outgoing { key, value, headers, timestamp }
}
