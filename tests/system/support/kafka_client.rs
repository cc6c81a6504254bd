//! What tests do on a broker, blocking and without a runtime: topics, records, offsets of groups.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::{ClientConfig, ClientContext, Offset, TopicPartitionList};

use super::{Kafka, unique, wait_until};

/// How long one request may take. Generous: the machine may be busy compiling.
const REQUEST: Duration = Duration::from_secs(30);

/// A record as a consumer saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    pub value: Option<Vec<u8>>,
    /// Milliseconds since 1970.
    pub timestamp: i64,
}

impl Record {
    /// The value as text, what is not UTF-8 replaced; empty for a tombstone.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.value.as_deref().unwrap_or_default()).into_owned()
    }

    /// The value as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(self.value.as_deref().unwrap_or_default())
            .unwrap_or_else(|e| panic!("record {} is not JSON: {e}", self.offset))
    }

    /// The text of the first record header of this name.
    pub fn header(&self, name: &str) -> Option<String> {
        let (_, value) = self.headers.iter().find(|(key, _)| key == name)?;
        Some(String::from_utf8_lossy(value.as_deref().unwrap_or_default()).into_owned())
    }
}

/// A record to produce. What is left out is left to Kafka: the partition to the key, the timestamp to the clock.
#[derive(Clone, Debug, Default)]
pub struct NewRecord {
    pub partition: Option<i32>,
    pub key: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    pub timestamp: Option<i64>,
}

impl NewRecord {
    pub fn new(value: impl Into<Vec<u8>>) -> NewRecord {
        NewRecord { value: Some(value.into()), ..NewRecord::default() }
    }

    pub fn tombstone() -> NewRecord {
        NewRecord::default()
    }

    pub fn key(mut self, key: impl Into<Vec<u8>>) -> NewRecord {
        self.key = Some(key.into());
        self
    }

    pub fn header(mut self, name: &str, value: impl Into<Vec<u8>>) -> NewRecord {
        self.headers.push((name.to_owned(), Some(value.into())));
        self
    }

    pub fn partition(mut self, partition: i32) -> NewRecord {
        self.partition = Some(partition);
        self
    }

    pub fn timestamp(mut self, milliseconds: i64) -> NewRecord {
        self.timestamp = Some(milliseconds);
        self
    }
}

impl Kafka {
    /// A configuration for the plain listener.
    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.brokers());
        config
    }

    /// Creates a topic with settings like `("max.message.bytes", "2000")`. Panics where it exists.
    pub fn create_topic(&self, name: &str, partitions: i32, configs: &[(&str, &str)]) {
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        for (key, value) in configs {
            topic = topic.set(key, value);
        }
        let options = AdminOptions::new().operation_timeout(Some(REQUEST));
        for result in block_on(self.admin().create_topics([&topic], &options)).expect("create a topic") {
            result.unwrap_or_else(|(name, code)| panic!("create the topic {name}: {code}"));
        }
        // The broker answers before it serves the metadata of the topic.
        wait_until(&format!("the topic {name}"), REQUEST, || self.partitions(name));
    }

    /// A new topic under a name of its own.
    pub fn unique_topic(&self, prefix: &str, partitions: i32) -> String {
        let name = unique(prefix);
        self.create_topic(&name, partitions, &[]);
        name
    }

    pub fn delete_topic(&self, name: &str) {
        let options = AdminOptions::new().operation_timeout(Some(REQUEST));
        for result in block_on(self.admin().delete_topics(&[name], &options)).expect("delete a topic") {
            result.unwrap_or_else(|(name, code)| panic!("delete the topic {name}: {code}"));
        }
    }

    /// The number of partitions, `None` where there is no such topic.
    pub fn partitions(&self, topic: &str) -> Option<i32> {
        let consumer = self.consumer("none", false);
        let metadata = consumer.fetch_metadata(Some(topic), REQUEST).ok()?;
        let topic = metadata.topics().iter().find(|t| t.name() == topic)?;
        let count = topic.partitions().len() as i32;
        (topic.error().is_none() && count > 0).then_some(count)
    }

    /// Produces the records in this order and returns when the broker has confirmed all. Panics where it refuses one.
    pub fn produce(&self, topic: &str, records: impl IntoIterator<Item = NewRecord>) {
        produce_with(&self.client(), topic, records).unwrap_or_else(|e| panic!("produce to {topic}: {e}"));
    }

    /// Every record of the topic, partition by partition in order of offsets. With `read_committed`, records of open or
    /// aborted transactions are left out.
    pub fn read_all(&self, topic: &str, read_committed: bool) -> Vec<Record> {
        read_all_with(&self.client(), topic, read_committed).unwrap_or_else(|e| panic!("read {topic}: {e}"))
    }

    /// Waits until the topic holds at least `count` records and returns all.
    pub fn wait_for_records(&self, topic: &str, count: usize, read_committed: bool, deadline: Duration) -> Vec<Record> {
        wait_until(&format!("{count} records in {topic}"), deadline, || {
            let records = self.read_all(topic, read_committed);
            (records.len() >= count).then_some(records)
        })
    }

    /// By partition, the offset that the next record will have.
    pub fn end_offsets(&self, topic: &str) -> BTreeMap<i32, i64> {
        let consumer = self.consumer("none", false);
        let partitions = self.partitions(topic).unwrap_or(0);
        (0..partitions)
            .map(|partition| {
                let (_, end) = consumer.fetch_watermarks(topic, partition, REQUEST).expect("fetch watermarks");
                (partition, end)
            })
            .collect()
    }

    /// By partition, the offset that the group has committed; partitions without one are left out.
    pub fn committed(&self, group: &str, topic: &str) -> BTreeMap<i32, i64> {
        let consumer = self.consumer(group, false);
        let mut wanted = TopicPartitionList::new();
        wanted.add_partition_range(topic, 0, self.partitions(topic).unwrap_or(1) - 1);
        let offsets = consumer.committed_offsets(wanted, REQUEST).expect("fetch committed offsets");
        let known = offsets.elements();
        let known = known.iter().filter_map(|e| Some((e.partition(), e.offset().to_raw()?)));
        known.filter(|(_, offset)| *offset >= 0).collect()
    }

    /// How many offsets of the topic the group has not committed yet, markers of transactions included.
    pub fn lag(&self, group: &str, topic: &str) -> i64 {
        let committed = self.committed(group, topic);
        let ends = self.end_offsets(topic);
        ends.iter().map(|(p, end)| end - committed.get(p).unwrap_or(&0)).sum()
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.client().create().expect("make an admin client")
    }

    fn consumer(&self, group: &str, read_committed: bool) -> BaseConsumer {
        consumer(&self.client(), group, read_committed).expect("make a consumer")
    }
}

fn consumer(client: &ClientConfig, group: &str, read_committed: bool) -> Result<BaseConsumer, KafkaError> {
    let isolation = if read_committed { "read_committed" } else { "read_uncommitted" };
    client
        .clone()
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", isolation)
        .set("fetch.wait.max.ms", "20")
        .create()
}

/// As [`Kafka::read_all`], with a configuration of the caller's, as for the listener with TLS.
pub fn read_all_with(client: &ClientConfig, topic: &str, read_committed: bool) -> Result<Vec<Record>, KafkaError> {
    let consumer = consumer(client, "none", read_committed)?;
    let metadata = consumer.fetch_metadata(Some(topic), REQUEST)?;
    let partitions = metadata.topics().iter().find(|t| t.name() == topic).map_or(0, |t| t.partitions().len());
    let mut assignment = TopicPartitionList::new();
    for partition in 0..partitions as i32 {
        assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;

    let mut records = Vec::new();
    let mut open = partitions;
    let end = Instant::now() + REQUEST;
    while open > 0 {
        match consumer.poll(Duration::from_millis(100)) {
            None if Instant::now() > end => {
                return Err(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut));
            }
            None => {}
            Some(Ok(message)) => records.push(record(&message)),
            Some(Err(KafkaError::PartitionEOF(_))) => open -= 1,
            Some(Err(e)) => return Err(e),
        }
    }
    records.sort_by_key(|record| (record.partition, record.offset));
    Ok(records)
}

fn record(message: &rdkafka::message::BorrowedMessage<'_>) -> Record {
    let headers = message.headers().map(|headers| {
        let owned = headers.iter().map(|h| (h.key.to_owned(), h.value.map(<[u8]>::to_vec)));
        owned.collect()
    });
    Record {
        partition: message.partition(),
        offset: message.offset(),
        key: message.key().map(<[u8]>::to_vec),
        headers: headers.unwrap_or_default(),
        value: message.payload().map(<[u8]>::to_vec),
        timestamp: message.timestamp().to_millis().unwrap_or(-1),
    }
}

/// As [`Kafka::produce`], with a configuration of the caller's. The error is the first that the broker reported.
pub fn produce_with(
    client: &ClientConfig,
    topic: &str,
    records: impl IntoIterator<Item = NewRecord>,
) -> Result<(), KafkaError> {
    let reports = Reports::default();
    let mut config = client.clone();
    config.set("enable.idempotence", "true");
    let producer: BaseProducer<Reports> = config.create_with_context(reports.clone())?;
    for record in records {
        let mut next = base_record(topic, &record);
        while let Err((error, unsent)) = producer.send(next) {
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                return Err(error);
            }
            producer.poll(Duration::from_millis(10));
            next = unsent;
        }
        producer.poll(Duration::ZERO);
    }
    producer.flush(REQUEST)?;
    let first = reports.0.lock().unwrap_or_else(|e| e.into_inner()).take();
    first.map_or(Ok(()), Err)
}

fn base_record<'a>(topic: &'a str, record: &'a NewRecord) -> BaseRecord<'a, [u8], [u8]> {
    let mut base = BaseRecord::to(topic);
    base.partition = record.partition;
    base.key = record.key.as_deref();
    base.payload = record.value.as_deref();
    base.timestamp = record.timestamp;
    if !record.headers.is_empty() {
        let headers = record
            .headers
            .iter()
            .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: value.as_deref() }));
        base = base.headers(headers);
    }
    base
}

/// Keeps the first error of delivery.
#[derive(Clone, Default)]
struct Reports(Arc<Mutex<Option<KafkaError>>>);

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, _: ()) {
        if let Err((error, _)) = result {
            let mut first = self.0.lock().unwrap_or_else(|e| e.into_inner());
            first.get_or_insert_with(|| error.clone());
        }
    }
}

/// Waits for a future on this thread. The admin client has a thread of its own that completes its futures.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}
