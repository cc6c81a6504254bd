//! The contract between a stop and whatever stores its topics.
//!
//! A topic is an ordered store of records in one or more partitions; a consumer group reads each record of it once.
//! A stop calls [`Subscription::poll`], handles what came, and gives inputs and outputs together to
//! [`Subscription::settle`]. **Everything that a batch causes on the bus goes through its settle**: the forwarded
//! messages, the dead letters, the journal. How sure that is, [`Bus::guarantee`] says:
//!
//! | engine | settle | guarantee |
//! | --- | --- | --- |
//! | [`sqlite`] | one transaction: outputs in, cursor forward | exactly once |
//! | [`kafka`], `guarantee = "exactly-once"` | one Kafka transaction over one or more batches | exactly once |
//! | [`kafka`], `guarantee = "at-least-once"` | outputs first; an input is acknowledged once all before it is delivered | at least once |
//! | [`memory`] | one lock: outputs in, cursor forward | exactly once; gone with the process |
//!
//! Order: what one partition holds is handed out by offset, and outputs are stored in the order in which they were
//! settled, records of one key in one partition. So the order per key holds from stop to stop.
//!
//! What a handler does elsewhere (Redis counters, an output file) is outside of the guarantee and says so in its docs.

mod batch;
#[cfg(test)]
mod conformance;
mod fields;
pub mod kafka;
pub mod memory;
pub mod sqlite;

use std::{fmt, ops::Range, sync::Arc, time::Duration, time::Instant};

pub use batch::{Batch, Headers, HeadersIter, Outbox, OutputRef, Record};
pub(crate) use fields::fields;

use crate::{
    config::{BusKind, Config},
    dead_letter::DeadLetters,
    error::Misconfigured,
};

/// Topics, as one engine keeps them. Cheap to share; every stop opens a [`Subscription`] of its own.
pub trait Bus: Send + Sync {
    fn guarantee(&self) -> Guarantee;

    /// Tries once to reach the bus, within some seconds; [`BusError::Unavailable`] says what for.
    fn connect(&self) -> Result<(), BusError>;

    /// Creates those topics that are missing, with the configured partitions; the others stay as they are.
    fn create_topics(&self, topics: &[Topic]) -> Result<(), BusError>;

    /// Joins the configured consumer group on the topic `letters.topic`, from its beginning where the group has not
    /// read it before. `letters` is also what the engine makes of an input whose output the bus refuses for good.
    fn subscribe(&self, letters: &DeadLetters) -> Result<Box<dyn Subscription>, BusError>;

    /// A producer of new records.
    fn publisher(&self) -> Result<Box<dyn Publisher>, BusError>;

    /// A publisher that is the only one of its `name`: opening it ends those of that name that were opened before, here
    /// and in other processes. When it is open, whatever they were about has been done or will never be.
    fn fenced_publisher(&self, name: &str) -> Result<Box<dyn FencedPublisher>, BusError>;

    /// Reads `topic` outside of any group, from `last` records before its present end (all partitions together).
    fn reader(&self, topic: &Topic, last: u64) -> Result<Box<dyn Reader>, BusError>;

    /// Reads `topic` outside of any group, each partition from the offset given for it; where none is given, or where
    /// that offset is no longer there or not yet, from the partition's beginning.
    fn reader_from(&self, topic: &Topic, offsets: &[(i32, i64)]) -> Result<Box<dyn Reader>, BusError>;

    /// Every topic with its records and groups, by name.
    fn topics(&self) -> Result<Vec<TopicInfo>, BusError>;

    /// Those of `topics` that there are, with what waits for the configured group there. Made to be asked for each second.
    fn backlogs(&self, topics: &[Topic]) -> Result<Vec<Backlog>, BusError> {
        let wanted = |info: &TopicInfo| topics.iter().any(|topic| topic.as_str() == info.name);
        let backlog = |info: TopicInfo| Backlog {
            waiting: info.groups.first().map(|group| group.lag),
            topic: info.name,
            records: info.records,
        };
        Ok(self.topics()?.into_iter().filter(wanted).map(backlog).collect())
    }
}

/// A stop's place in the consumer group of one topic.
pub trait Subscription: Send {
    /// Waits up to `wait` for records and gives at most `max` of them, none where none came. Polling again without
    /// settling is allowed and goes on where the last poll ended.
    fn poll(&mut self, max: usize, wait: Duration) -> Result<Batch, BusError>;

    /// Publishes `outbox` and acknowledges the records `inputs` of `batch`, as one act where the guarantee says so.
    /// Ranges of a batch are settled in order and do not overlap. An engine that pipelines returns before the bus has
    /// confirmed, see [`Subscription::flush`]. Records that went to another member meanwhile are passed over, outputs
    /// and all: that member handles them.
    ///
    /// After [`BusError::Unavailable`] nothing has happened: the same call may be repeated.
    fn settle(&mut self, batch: &Arc<Batch>, inputs: Range<usize>, outbox: &Outbox) -> Result<(), BusError>;

    /// Waits, at most until `deadline`, for the bus to confirm all that was settled; true where it has.
    fn flush(&mut self, deadline: Instant) -> Result<bool, BusError>;

    /// Tells the bus that this member lives, while its stop waits for something else than records. Called at least
    /// each second then; brings no records.
    fn keep_alive(&mut self) -> Result<(), BusError>;

    /// Whether all that the topic holds now has been polled and confirmed; what is another member's to read, by that one.
    fn drained(&mut self) -> Result<bool, BusError>;

    /// Records of the topic that the group has not acknowledged, as far as they are this member's to read.
    fn lag(&mut self) -> Result<u64, BusError>;

    /// Whether the bus is there, as far as the engine finds that out by itself; [`BusError::Unavailable`] where not. Does
    /// not wait.
    fn reachable(&self) -> Result<(), BusError> {
        Ok(())
    }

    /// Inputs that became dead letters after they were settled, because the bus refused their output; since the last
    /// call.
    fn refused(&mut self) -> u64 {
        0
    }

    /// Flushes until `deadline` and leaves the group, so that another member takes over at once.
    fn close(self: Box<Self>, deadline: Instant) -> Result<(), BusError>;
}

/// Writes new records, pipelined where the engine can.
pub trait Publisher: Send {
    /// Takes the records over; waits while too many are unconfirmed. After [`BusError::Unavailable`] none was taken.
    fn publish(&mut self, outbox: &Outbox) -> Result<(), BusError>;

    /// Those of new records that the bus would refuse for good, as far as that is known before they are published.
    fn refusals(&mut self, _outbox: &Outbox) -> Result<Vec<Refusal>, BusError> {
        Ok(Vec::new())
    }

    /// Those that it refused after they were taken over, since the last call. In place of an index in an outbox they have
    /// the number of the record, counted from 0 over all that this publisher has taken over.
    fn refused(&mut self) -> Vec<Refusal> {
        Vec::new()
    }

    /// Waits, at most until `deadline`, for the bus to confirm all that was published; gives how many it has
    /// confirmed since the start.
    fn flush(&mut self, deadline: Instant) -> Result<u64, BusError>;
}

/// Writes new records in acts that happen as a whole or not at all, on every engine, for as long as no other publisher of
/// its name is opened.
pub trait FencedPublisher: Send {
    /// Publishes all of `outbox`, which is of new records, as one act; when it returns they will stay.
    ///
    /// Where the bus does not take one of them at all, it is told which and nothing has happened. After
    /// [`BusError::Unavailable`] the same call is to be repeated, and no other. Once another one was opened, this fails
    /// with [`Fenced`], and nothing of it happens.
    fn publish(&mut self, outbox: &Outbox) -> Result<Option<Refusal>, BusError>;
}

/// An output that the bus does not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its index in the outbox.
    pub output: usize,
    pub reason: String,
}

/// What a fenced publisher fails with once another one of its name was opened: a [`BusError::Fatal`] holds it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("another process took over the name {0}")]
pub struct Fenced(pub String);

impl From<Fenced> for BusError {
    fn from(fenced: Fenced) -> Self {
        Self::Fatal(fenced.into())
    }
}

/// Reads a topic without a trace.
pub trait Reader: Send {
    /// Waits up to `wait` for records and gives at most `max` of them.
    fn poll(&mut self, max: usize, wait: Duration) -> Result<Batch, BusError>;

    /// Whether all that the topic held when the reader was opened has been read.
    fn at_end(&self) -> bool;
}

/// Opens the configured engine; nothing is reached for before [`Bus::connect`].
pub fn open(config: &Config) -> Result<Box<dyn Bus>, Misconfigured> {
    Ok(match config.bus {
        BusKind::Sqlite => Box::new(sqlite::SqliteBus::new(config.sqlite.clone()).keeping(&config.repair_topic)),
        BusKind::Kafka => {
            let bus = kafka::KafkaBus::new(config.kafka.clone(), &config.error_topic, &config.journal)?;
            Box::new(bus.keeping(&config.repair_topic))
        }
    })
}

/// What becomes of a message if a process or the bus dies at any moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guarantee {
    AtLeastOnce,
    ExactlyOnce,
}

impl fmt::Display for Guarantee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AtLeastOnce => "at-least-once",
            Self::ExactlyOnce => "exactly-once",
        })
    }
}

/// A topic, its size, and who reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicInfo {
    pub name: String,
    pub partitions: usize,
    /// Records kept at present, all partitions together.
    pub records: u64,
    pub groups: Vec<GroupInfo>,
}

/// A topic, and what waits on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backlog {
    pub topic: String,
    /// Records kept at present, all partitions together.
    pub records: u64,
    /// Records that the configured group has not acknowledged yet; `None` where it does not read the topic.
    pub waiting: Option<u64>,
}

/// A consumer group on one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupInfo {
    pub name: String,
    /// Records that the group has not acknowledged yet.
    pub lag: u64,
}

/// Why the bus did not do as told.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// For now: a service is away or busy. Nothing of the call took effect; waiting and calling again is right.
    #[error("{0:#}")]
    Unavailable(anyhow::Error),
    /// For good: disk full, file damaged, no permission, fenced by another instance. The process should end.
    #[error("{0:#}")]
    Fatal(anyhow::Error),
}

/// The name of a topic: 1 to 249 of `A-Z a-z 0-9 . _ -`, not `.` or `..` (Kafka's rule, kept on every engine).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(Arc<str>);

impl Topic {
    /// Gives the reason where `name` is not one.
    pub fn new(name: &str) -> Result<Self, NotATopic> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.is_empty() || name.len() > 249 || name == "." || name == ".." || !name.chars().all(legal) {
            return Err(NotATopic(name.to_owned()));
        }
        Ok(Self(name.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text that is not the name of a topic.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no topic: 1 to 249 of A-Z a-z 0-9 . _ - are")]
pub struct NotATopic(String);

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
