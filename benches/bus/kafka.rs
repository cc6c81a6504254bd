//! The broker: topics that come and go, filled and watched.

use std::time::{Duration, Instant};

use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    producer::{BaseProducer, BaseRecord, Producer},
    types::RDKafkaErrorCode,
};

use crate::{
    process::{DEADLINE, until},
    run::message,
};

const ANSWER: Duration = Duration::from_secs(10);

/// A broker and two clients of it.
pub struct Broker {
    pub address: String,
    admin: AdminClient<DefaultClientContext>,
    watcher: BaseConsumer,
}

/// A topic that goes with its owner, so that neither the disk nor the broker's state grows from run to run.
pub struct Topic<'a> {
    broker: &'a Broker,
    pub name: String,
    pub partitions: i32,
}

impl Broker {
    pub fn new(address: String) -> Self {
        let mut config = ClientConfig::new();
        // Quiet when the broker goes at the end of the bench
        config.set("bootstrap.servers", &address).set("group.id", "bench-watch").set("log_level", "2");
        let admin = config.create().expect("an admin client");
        let watcher = config.create().expect("a consumer");
        Self { address, admin, watcher }
    }

    /// An empty topic; one of that name that is there goes first.
    pub fn topic(&self, name: &str, partitions: i32) -> Topic<'_> {
        self.delete(name);
        // What is deleted shall leave the disk now, not after a minute
        let new = NewTopic::new(name, partitions, TopicReplication::Fixed(1)).set("file.delete.delay.ms", "1000");
        let created = wait_for(self.admin.create_topics([&new], &AdminOptions::new())).expect("ask for a topic");
        assert!(created.iter().all(Result::is_ok), "{created:?}");
        let topic = Topic { broker: self, name: name.to_owned(), partitions };
        until(&format!("{name} is there"), || self.exists(name) && topic.count() == Some(0));
        topic
    }

    /// Deletes what a stop may have made.
    pub fn delete(&self, name: &str) {
        let deleted = wait_for(self.admin.delete_topics(&[name], &AdminOptions::new()));
        let existed = deleted.is_ok_and(|deleted| deleted.iter().any(Result::is_ok));
        if existed {
            until(&format!("{name} is gone"), || !self.exists(name));
        }
    }

    fn exists(&self, topic: &str) -> bool {
        let Ok(metadata) = self.watcher.fetch_metadata(None, ANSWER) else { return false };
        metadata.topics().iter().any(|found| found.name() == topic && !found.partitions().is_empty())
    }
}

impl Topic<'_> {
    /// Records that a reader of committed ones can see, all partitions together, markers of transactions included (a
    /// handful a second). One request, so that all partitions are counted at one time. `None` while the broker does not
    /// answer.
    pub fn count(&self) -> Option<usize> {
        let mut ends = TopicPartitionList::new();
        for partition in 0..self.partitions {
            ends.add_partition_offset(&self.name, partition, Offset::End).ok()?;
        }
        let ends = self.broker.watcher.offsets_for_times(ends, ANSWER).ok()?;
        let end = |partition: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| match partition.offset() {
            Offset::Offset(end) => Some(end as usize),
            // How an empty partition may answer
            Offset::End => Some(0),
            _ => None,
        };
        ends.elements().iter().map(end).sum()
    }

    /// Writes messages as they leave the busdriver.
    pub fn fill(&self, messages: usize) {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.broker.address).set("linger.ms", "20");
        config.set("queue.buffering.max.messages", "1000000").set("partitioner", "murmur2_random");
        let producer: BaseProducer = config.create().expect("a producer");
        for id in 0..messages {
            let (key, value) = message(id);
            while let Err((error, _)) = producer.send(BaseRecord::to(&self.name).key(&key).payload(&value)) {
                let full = matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull));
                assert!(full, "{error}");
                producer.poll(Duration::from_millis(10));
            }
        }
        producer.flush(DEADLINE).expect("all are delivered");
        assert_eq!(self.count(), Some(messages), "what {} holds", self.name);
    }
}

impl Drop for Topic<'_> {
    fn drop(&mut self) {
        self.broker.delete(&self.name);
    }
}

/// The admin client answers through librdkafka's threads: nothing here has to run meanwhile.
fn wait_for<T>(future: impl Future<Output = T>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let mut future = std::pin::pin!(future);
    let end = Instant::now() + DEADLINE;
    loop {
        if let std::task::Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
        assert!(Instant::now() < end, "the broker does not answer");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A name that nothing else has.
pub fn unique(name: &str) -> String {
    format!("{name}-{}", uuid::Uuid::now_v7().simple())
}
