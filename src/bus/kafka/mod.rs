//! Kafka, by librdkafka.
//!
//! | file | what it is about |
//! | --- | --- |
//! | `settings` | what librdkafka is told; which of it users may change |
//! | `subscription` | a member of the group: poll, settle, changes of the assignment |
//! | `watermark` | which inputs may be acknowledged |
//! | `transaction` | exactly once |
//! | `fenced` | a publisher of which there is one, by transactions |
//! | `sender`, `size`, `publisher` | records on their way out; what is too large |
//! | `reader` | a topic without a group |
//! | `admin`, `health` | topics, groups, limits; whether Kafka is there |
//! | `raw` | librdkafka's C interface; all unsafe code |
//!
//! **At least once**: settling sends the outputs and returns. An input's offset is committed, once a second, when all
//! outputs of it and of everything before it in its partition are delivered, which idempotence keeps in order and
//! without repeats. A process that dies repeats at most what was not committed yet.
//!
//! **Exactly once**: outputs and offsets are one transaction of up to `kafka.transaction`; readers of committed records
//! see them all at once. A process that dies leaves a transaction that the broker undoes.
//!
//! **Keys** go to partitions by the murmur2 hash, as with Kafka's Java clients and kafka-python. A fleet on librdkafka's
//! default (confluent-kafka-python) sets `partitioner = "consistent_random"`.
//!
//! **Group protocol**: `cooperative-sticky`; where the group's members only know the eager kind, as old clients do, the
//! member falls back to `range,roundrobin`. A member of another kind that comes later is refused by the broker while
//! cooperative members are there: during such a migration set `partition.assignment.strategy = "range,roundrobin"`.

mod admin;
mod fenced;
mod health;
mod offsets;
mod outputs;
mod publisher;
mod raw;
mod reader;
mod sender;
mod settings;
mod size;
mod subscription;
mod transaction;
mod watermark;

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use self::{
    admin::Admin, fenced::KafkaFenced, publisher::KafkaPublisher, reader::KafkaReader, settings::Settings,
    subscription::KafkaSubscription,
};
use super::{Backlog, Bus, BusError, FencedPublisher, Guarantee, Publisher, Reader, Subscription, Topic, TopicInfo};
use crate::{config::Kafka, dead_letter::DeadLetters, error::Misconfigured, journal};

/// Topics in a Kafka cluster.
pub struct KafkaBus {
    settings: Arc<Settings>,
    admin: Arc<Admin>,
    error_topic: Topic,
    kept: Option<Topic>,
}

impl KafkaBus {
    /// How long [`Bus::connect`] waits for an answer.
    const CONNECT: Duration = Duration::from_secs(4);

    /// Checks the options; connects to nothing yet. `error_topic` is created so that it takes what is too large for
    /// others, the topic of `journal` so that it keeps what is to be kept; an entry that the bus refuses is no dead letter.
    pub fn new(options: Kafka, error_topic: &Topic, journal: &journal::Options) -> Result<Self, Misconfigured> {
        let settings = Arc::new(Settings::new(options, journal)?);
        let admin = Admin::new(&settings).map_err(|error| Misconfigured(format!("kafka.properties: {error:#}")))?;
        Ok(Self { settings, admin: Arc::new(admin), error_topic: error_topic.clone(), kept: None })
    }

    /// Creates `topic` so that nothing on it is ever removed.
    pub fn keeping(self, topic: &Topic) -> Self {
        Self { kept: Some(topic.clone()), ..self }
    }
}

impl Bus for KafkaBus {
    fn guarantee(&self) -> Guarantee {
        self.settings.options.guarantee
    }

    fn connect(&self) -> Result<(), BusError> {
        self.admin.connect(Self::CONNECT)
    }

    fn create_topics(&self, topics: &[Topic]) -> Result<(), BusError> {
        self.admin.create_topics(topics, &self.error_topic, self.kept.as_ref())
    }

    fn subscribe(&self, letters: &DeadLetters) -> Result<Box<dyn Subscription>, BusError> {
        Ok(Box::new(KafkaSubscription::open(&self.settings, &self.admin, letters)?))
    }

    fn publisher(&self) -> Result<Box<dyn Publisher>, BusError> {
        Ok(Box::new(KafkaPublisher::open(&self.settings, &self.admin)?))
    }

    fn fenced_publisher(&self, name: &str) -> Result<Box<dyn FencedPublisher>, BusError> {
        Ok(Box::new(KafkaFenced::open(&self.settings, &self.admin, name)?))
    }

    fn reader(&self, topic: &Topic, last: u64) -> Result<Box<dyn Reader>, BusError> {
        Ok(Box::new(KafkaReader::open(&self.settings, &self.admin, topic, last)?))
    }

    fn reader_from(&self, topic: &Topic, offsets: &[(i32, i64)]) -> Result<Box<dyn Reader>, BusError> {
        Ok(Box::new(KafkaReader::open_at(&self.settings, &self.admin, topic, offsets)?))
    }

    fn topics(&self) -> Result<Vec<TopicInfo>, BusError> {
        self.admin.topics()
    }

    fn backlogs(&self, topics: &[Topic]) -> Result<Vec<Backlog>, BusError> {
        self.admin.backlogs(topics)
    }
}
