//! What the engine tells librdkafka, and which of it a user may change.

use std::{collections::BTreeMap, sync::Arc};

use uuid::Uuid;

use super::{health::Health, raw};
use crate::{
    bus::{Guarantee, Topic},
    config::Kafka,
    error::Misconfigured,
    journal,
};

/// The most that librdkafka takes: the broker is to judge what is too large, not the client.
const LARGEST_MESSAGE: &str = "1000000000";

/// Properties that the engine sets itself and that are in no case right otherwise, with what to do instead. The
/// configuration refuses some more, and with the place where they are set.
const OURS: &[(&str, &str)] = &[
    ("bootstrap.servers", "set kafka.brokers instead"),
    ("metadata.broker.list", "set kafka.brokers instead"),
    ("group.id", "set kafka.group instead"),
    ("transactional.id", "set kafka.guarantee and kafka.instance instead"),
    ("group.instance.id", "set kafka.instance instead"),
    ("enable.partition.eof", "librdkafka would lose records by it"),
    ("message.max.bytes", "the max.message.bytes of each topic decides"),
    ("group.protocol", "metrobus rebalances by the classic one"),
];

/// For every client.
const COMMON: &[(&str, &str)] = &[
    ("client.id", "metrobus"),
    ("socket.keepalive.enable", "true"),
    // A broker that is back is noticed at once
    ("reconnect.backoff.max.ms", "1000"),
];

const CONSUMER: &[(&str, &str)] = &[
    ("auto.offset.reset", "earliest"),
    ("isolation.level", "read_committed"),
    ("partition.assignment.strategy", "cooperative-sticky"),
    // How soon a member hears that another came or went
    ("heartbeat.interval.ms", "1000"),
    // Bounds what is fetched ahead, whatever the backlog; then look again soon, not after a second
    ("queued.max.messages.kbytes", "8192"),
    ("fetch.max.bytes", "8388608"),
    // Few large answers cost the broker less; by this name, one that is set by its other name counts over it
    ("fetch.message.max.bytes", "4194304"),
    ("fetch.queue.backoff.ms", "5"),
    // Where the broker lets a larger record in, it comes out
    ("receive.message.max.bytes", "2000000000"),
];

const PRODUCER: &[(&str, &str)] = &[
    ("enable.idempotence", "true"),
    ("acks", "all"),
    ("message.max.bytes", LARGEST_MESSAGE),
    // As Kafka's Java clients and kafka-python place keys, so the order per key holds beside them
    ("partitioner", "murmur2_random"),
    // The sender counts what is in flight; librdkafka's own bounds are out of the way
    ("queue.buffering.max.messages", "10000000"),
    ("queue.buffering.max.kbytes", "2097151"),
    // The end of a partition is that of all records, committed or not
    ("isolation.level", "read_uncommitted"),
];

/// Milliseconds that records wait for company where nobody pushes them, see [`super::sender`].
const LONGEST_LINGER: u64 = 2000;

/// What librdkafka wants to be longer than the linger; 0 is for ever.
const TIMEOUTS: [&str; 3] = ["message.timeout.ms", "delivery.timeout.ms", "transaction.timeout.ms"];

/// By either name.
const LINGER: [&str; 2] = ["linger.ms", "queue.buffering.max.ms"];

/// A batch on the wire is at most that long; `max.message.bytes` of a topic is 1048588 unless set.
const BATCH_BYTES: usize = 1_000_000;

/// The options, checked, and what all clients share.
pub struct Settings {
    pub options: Kafka,
    pub journal: journal::Options,
    pub health: Arc<Health>,
}

type Properties = Vec<(String, String)>;

impl Settings {
    /// The error names the property that is wrong.
    pub fn new(options: Kafka, journal: &journal::Options) -> Result<Self, Misconfigured> {
        for (name, value) in &options.properties {
            if let Some((_, hint)) = OURS.iter().find(|(ours, _)| ours == name) {
                return Err(Misconfigured(format!("kafka.properties: {name} is metrobus's to set; {hint}")));
            }
            raw::check_property(name, value).map_err(|reason| match reason.contains(name) {
                true => wrong(reason),
                // By another name of the property
                false => wrong(format!("{name}: {reason}")),
            })?;
        }
        let health = Arc::new(Health::new(&options.brokers));
        let settings = Self { options, journal: journal.clone(), health };
        // What contradicts each other comes to light only when a client is made
        let quiet = Arc::new(Health::new(""));
        raw::Consumer::new("", &settings.group_member("t", false), &quiet).map_err(wrong)?;
        raw::Producer::new(&settings.producer(None, usize::MAX), &quiet).map_err(wrong)?;
        if settings.exactly_once() {
            let id = settings.transactional_id("t");
            raw::Producer::new(&settings.producer(Some(&id), usize::MAX), &quiet).map_err(wrong)?;
        }
        Ok(settings)
    }

    pub fn exactly_once(&self) -> bool {
        self.options.guarantee == Guarantee::ExactlyOnce
    }

    fn with(&self, defaults: &[&[(&str, &str)]]) -> BTreeMap<String, String> {
        let defaults = [COMMON].into_iter().chain(defaults.iter().copied()).flatten();
        let mut properties: BTreeMap<_, _> = defaults.map(|(name, value)| ((*name).into(), (*value).into())).collect();
        properties.extend(self.options.properties.clone());
        properties.insert("bootstrap.servers".into(), self.options.brokers.clone());
        properties
    }

    /// For a member of the configured group that reads `topic`; `other_protocol` is for a group whose members do not
    /// know the first choice.
    pub fn group_member(&self, topic: &str, other_protocol: bool) -> Properties {
        // No enable.partition.eof: rd_kafka_consume_batch_queue (2.12) takes the end for a record that was consumed, and
        // leaves out the one that comes to stand there, when fetching stops for a change of the assignment and goes on
        let mut properties = self.with(&[CONSUMER]);
        properties.insert("group.id".into(), self.options.group.clone());
        properties.insert("enable.auto.commit".into(), "false".into());
        properties.insert("enable.auto.offset.store".into(), "false".into());
        if let Some(instance) = &self.options.instance {
            properties.insert("group.instance.id".into(), format!("{instance}-{topic}"));
        }
        if other_protocol {
            let strategy = properties.entry("partition.assignment.strategy".into()).or_default();
            let eager = !strategy.contains("cooperative");
            *strategy = if eager { "cooperative-sticky" } else { "range,roundrobin" }.into();
        }
        properties.into_iter().collect()
    }

    /// For a consumer of `group` that does not join it. It sees what stops see: what was undone is none of it, which where
    /// the stops have no transactions is of a fenced publisher.
    pub fn reader(&self, group: &str) -> Properties {
        let mut properties = self.with(&[CONSUMER, &[("enable.partition.eof", "true")]]);
        properties.insert("group.id".into(), group.into());
        properties.insert("enable.auto.commit".into(), "false".into());
        properties.into_iter().collect()
    }

    /// For a producer whose batches are at most `largest` bytes.
    pub fn producer(&self, transactional_id: Option<&str>, largest: usize) -> Properties {
        let mut properties = self.with(&[PRODUCER]);
        if !self.lingers() {
            let set = TIMEOUTS.iter().filter_map(|name| self.options.properties.get(*name)?.parse::<u64>().ok());
            let linger =
                set.filter(|timeout| *timeout > 0).fold(LONGEST_LINGER, |linger, timeout| linger.min(timeout / 2));
            properties.insert(LINGER[0].into(), linger.to_string());
        }
        let batch = properties.get("batch.size").and_then(|size| size.parse().ok()).unwrap_or(BATCH_BYTES);
        properties.insert("batch.size".into(), batch.min(largest).max(1).to_string());
        let mut default = |name: &str, value: &str| {
            properties.entry(name.into()).or_insert_with(|| value.into());
        };
        match transactional_id {
            // A killed instance's transaction holds up the readers of its topics for that long
            Some(_) => {
                let timeout = 10_000 + self.options.transaction.as_millis();
                default("transaction.timeout.ms", &timeout.to_string());
            }
            // Records wait for the broker for as long as it takes, in order
            None => default("message.timeout.ms", "0"),
        }
        properties.insert("delivery.report.only.error".into(), "false".into());
        if let Some(id) = transactional_id {
            properties.insert("transactional.id".into(), id.into());
        }
        properties.into_iter().collect()
    }

    /// Whether a property says when records leave.
    pub fn lingers(&self) -> bool {
        LINGER.iter().any(|name| self.options.properties.contains_key(*name))
    }

    /// The largest batch of a producer for topics that take `limit` bytes.
    pub fn batch_bytes(&self, limit: usize) -> usize {
        let own = self.options.properties.get("batch.size").and_then(|size| size.parse().ok());
        own.unwrap_or(BATCH_BYTES).min(limit)
    }

    /// Whether a batch may be shorter on the wire than its records are.
    pub fn compressed(&self) -> bool {
        let codec = ["compression.codec", "compression.type"];
        codec.iter().any(|name| self.options.properties.get(*name).is_some_and(|codec| codec != "none"))
    }

    /// For rdkafka's own admin client.
    pub fn admin(&self) -> BTreeMap<String, String> {
        self.with(&[&[("isolation.level", "read_uncommitted")]])
    }

    /// The same after a restart only where the process has a name.
    pub fn transactional_id(&self, topic: &str) -> String {
        let group = &self.options.group;
        match &self.options.instance {
            None => format!("{group}-{topic}-{}", Uuid::now_v7()),
            Some(instance) => format!("{group}-{topic}-{instance}"),
        }
    }

    /// The error topic has to take every record of the others and some headers; the journal keeps what it is told to, and
    /// the topic `kept` everything.
    pub fn topic_properties(&self, topic: &Topic, error: &Topic, kept: Option<&Topic>) -> Vec<(&'static str, String)> {
        if topic == error {
            return vec![("max.message.bytes", LARGEST_MESSAGE.to_owned())];
        }
        if kept == Some(topic) {
            return vec![("retention.ms", "-1".to_owned()), ("retention.bytes", "-1".to_owned())];
        }
        if *topic != self.journal.topic {
            return Vec::new();
        }
        let or_ever = |limit: u128| if limit == 0 { "-1".to_owned() } else { limit.to_string() };
        let bytes = or_ever(self.journal.retention_bytes.into());
        vec![("retention.ms", or_ever(self.journal.retention.as_millis())), ("retention.bytes", bytes)]
    }
}

fn wrong(reason: String) -> Misconfigured {
    Misconfigured(format!("kafka.properties: {reason}"))
}
