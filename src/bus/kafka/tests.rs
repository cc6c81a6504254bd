//! On a real broker, `METROBUS_TEST_KAFKA` (host:port). What needs a broker of its own is in tests/system.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication},
    consumer::{BaseConsumer, Consumer},
};
use uuid::Uuid;

use super::{
    KafkaBus,
    admin::{assigned_partitions, wait_for},
};
use crate::{
    bus::{
        Batch, Bus, BusError, Guarantee, Outbox, Subscription, Topic,
        conformance::{self, Fixture},
    },
    config,
    dead_letter::DeadLetters,
    journal,
};

/// The broker for tests; `None` where there is none, which is said, and fails where it must not be.
fn brokers() -> Option<String> {
    match std::env::var("METROBUS_TEST_KAFKA") {
        Ok(brokers) if !brokers.is_empty() => Some(brokers),
        _ if std::env::var("CI").is_ok_and(|ci| ci == "true") => panic!("METROBUS_TEST_KAFKA is not set"),
        _ => {
            eprintln!("SKIPPED: no Kafka, METROBUS_TEST_KAFKA is not set");
            None
        }
    }
}

fn no_journal() -> journal::Options {
    let config = config::Config::load(None, [("METROBUS__JOURNAL__LEVEL", "off")]);
    config.unwrap().journal
}

/// Names of a test's own on the shared broker.
struct Kafka {
    run: String,
    options: config::Kafka,
    topics: Cell<u32>,
}

impl Kafka {
    fn new(guarantee: Guarantee) -> Option<Self> {
        let run = Uuid::now_v7().simple().to_string();
        let options = config::Kafka {
            brokers: brokers()?,
            group: format!("group-{run}"),
            guarantee,
            partitions: 3,
            replication: 1,
            instance: None,
            transaction: Duration::from_millis(100),
            properties: BTreeMap::new(),
        };
        let _ = tracing_subscriber::fmt()
            .with_env_filter(std::env::var("RUST_LOG").unwrap_or_default())
            .with_test_writer()
            .try_init();
        Some(Self { run, options, topics: Cell::new(0) })
    }

    fn with(&self, change: impl FnOnce(&mut config::Kafka)) -> KafkaBus {
        let mut options = self.options.clone();
        change(&mut options);
        KafkaBus::new(options, &Topic::new("Error").unwrap(), &no_journal()).unwrap()
    }

    /// A bus that notes in `topic` what is refused.
    fn with_journal(&self, topic: &Topic) -> KafkaBus {
        let journal = journal::Options { level: journal::Level::All, topic: topic.clone(), ..no_journal() };
        let bus = KafkaBus::new(self.options.clone(), &Topic::new("Error").unwrap(), &journal).unwrap();
        bus.create_topics(std::slice::from_ref(topic)).unwrap();
        bus
    }
}

impl Fixture for Kafka {
    fn bus(&self) -> Box<dyn Bus> {
        Box::new(self.with(|_| ()))
    }

    fn topic(&self, name: &str) -> Topic {
        self.topics.set(self.topics.get() + 1);
        Topic::new(&format!("{name}-{}-{}", self.topics.get(), self.run)).unwrap()
    }
}

#[test]
fn conforms_at_least_once() {
    if let Some(kafka) = Kafka::new(Guarantee::AtLeastOnce) {
        conformance::run(&kafka);
    }
}

#[test]
fn conforms_exactly_once() {
    if let Some(kafka) = Kafka::new(Guarantee::ExactlyOnce) {
        conformance::run(&kafka);
    }
}

const DEADLINE: Duration = Duration::from_secs(60);

fn letters(topic: &Topic, error: &Topic) -> DeadLetters {
    DeadLetters { stop: "stop".to_owned(), topic: topic.clone(), error: error.clone() }
}

fn publish(bus: &dyn Bus, topic: &Topic, values: impl IntoIterator<Item = String>) {
    let mut outbox = Outbox::default();
    for value in values {
        outbox.publish(topic, 1_700_000_000_000, Some(b"key"), Some(value.as_bytes()));
    }
    let mut publisher = bus.publisher().unwrap();
    publisher.publish(&outbox).unwrap();
    assert_eq!(publisher.flush(Instant::now() + DEADLINE).unwrap(), outbox.len() as u64);
}

/// Sends all of a batch on, each value as `change` makes it.
fn forward(member: &mut dyn Subscription, batch: &Arc<Batch>, to: &Topic, change: impl Fn(&[u8]) -> Vec<u8>) {
    let mut outbox = Outbox::default();
    for index in 0..batch.len() {
        outbox.forward(index, to, |out| out.extend(change(batch.get(index).value.unwrap_or_default())));
    }
    let end = Instant::now() + DEADLINE;
    loop {
        match member.settle(batch, 0..batch.len(), &outbox) {
            Ok(()) => return,
            Err(BusError::Unavailable(error)) => assert!(Instant::now() < end, "{error:#}"),
            Err(BusError::Fatal(error)) => panic!("{error:#}"),
        }
    }
}

fn forward_until_drained(member: &mut dyn Subscription, to: &Topic, change: impl Fn(&[u8]) -> Vec<u8>) {
    let end = Instant::now() + DEADLINE;
    loop {
        let batch = Arc::new(member.poll(500, Duration::from_millis(50)).unwrap());
        forward(member, &batch, to, &change);
        if batch.is_empty() && member.flush(end).unwrap() && member.drained().unwrap() {
            return;
        }
        assert!(Instant::now() < end, "not drained");
    }
}

fn close(member: Box<dyn Subscription>) {
    member.close(Instant::now() + DEADLINE).unwrap();
}

/// All values with their reasons, where they are dead letters.
fn read(bus: &dyn Bus, topic: &Topic) -> Vec<(Vec<u8>, Option<String>)> {
    let end = Instant::now() + DEADLINE;
    let mut reader = bus.reader(topic, u64::MAX).unwrap();
    let mut found = Vec::new();
    while !reader.at_end() {
        assert!(Instant::now() < end, "the end of {topic} was not reached");
        for record in reader.poll(1000, Duration::from_millis(50)).unwrap().iter() {
            let reason = record.headers.get("metrobus.reason").map(|text| String::from_utf8_lossy(text).into_owned());
            found.push((record.value.unwrap_or_default().to_vec(), reason));
        }
    }
    found
}

/// A topic whose batches are at most `limit` bytes.
fn create_small(kafka: &Kafka, topic: &Topic, limit: usize) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &kafka.options.brokers);
    let admin: AdminClient<_> = config.create().unwrap();
    let limit = limit.to_string();
    let new = NewTopic::new(topic.as_str(), 1, TopicReplication::Fixed(1)).set("max.message.bytes", &limit);
    wait_for(admin.create_topics(&[new], &AdminOptions::new())).unwrap()[0].as_ref().unwrap();
}

fn change_limit(kafka: &Kafka, topic: &Topic, limit: usize) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &kafka.options.brokers);
    let admin: AdminClient<_> = config.create().unwrap();
    let limit = limit.to_string();
    let change = AlterConfig::new(ResourceSpecifier::Topic(topic.as_str())).set("max.message.bytes", &limit);
    wait_for(admin.alter_configs(&[change], &AdminOptions::new())).unwrap()[0].as_ref().unwrap();
}

const BOTH: [Guarantee; 2] = [Guarantee::AtLeastOnce, Guarantee::ExactlyOnce];

/// One in ten grows beyond what the output topic takes.
fn grow(value: &[u8]) -> Vec<u8> {
    let large = value.ends_with(b"7");
    [value, "x".repeat(if large { 3000 } else { 300 }).as_bytes()].concat()
}

fn assert_too_large(bus: &dyn Bus, output: &Topic, error: &Topic, count: usize) {
    let expected: BTreeSet<_> = (0..count).map(|n| n.to_string()).collect();
    let forwarded: Vec<_> = read(bus, output).into_iter().map(|(value, _)| value).collect();
    let names = |value: &[u8]| String::from_utf8_lossy(value).trim_end_matches('x').to_owned();
    let passed: Vec<_> = forwarded.iter().map(|value| names(value)).collect();
    let letters = read(bus, error);
    for (value, reason) in &letters {
        assert!(value.ends_with(b"7"), "a neighbour became a dead letter");
        let reason = reason.as_deref().unwrap();
        assert!(reason.starts_with("output of 3") && reason.contains(output.as_str()), "{reason}");
    }
    let refused: Vec<_> = letters.iter().map(|(value, _)| names(value)).collect();
    let all: BTreeSet<_> = passed.iter().chain(&refused).cloned().collect();
    assert_eq!(all, expected);
    assert_eq!(passed.len() + refused.len(), count, "none twice");
    assert_eq!(refused.len(), count / 10);
}

/// Hops in the journal, each of which tells of a refused output.
fn noted(bus: &dyn Bus, journal: &Topic) -> usize {
    let mut places = BTreeSet::new();
    for (entry, _) in read(bus, journal) {
        let entry = journal::Entry::read(&entry).unwrap();
        for hop in entry.hops() {
            let hop = hop.unwrap();
            assert_eq!((hop.outcome, hop.attempts), (journal::Outcome::Rejected, 1));
            assert!(hop.reason.unwrap().starts_with("output of ") && hop.next.is_some());
            assert!(places.insert((entry.partition, hop.offset)), "noted twice");
        }
    }
    places.len()
}

#[test]
fn an_output_too_large_becomes_a_dead_letter_and_its_neighbours_pass() {
    for guarantee in BOTH {
        let Some(kafka) = Kafka::new(guarantee) else { return };
        let journal = kafka.topic("journal");
        let bus = kafka.with_journal(&journal);
        let (input, output, error) = (kafka.topic("in"), kafka.topic("small"), kafka.topic("error"));
        bus.create_topics(&[input.clone(), error.clone()]).unwrap();
        create_small(&kafka, &output, 2000);
        publish(&bus, &input, (0..500).map(|n| n.to_string()));
        let mut member = bus.subscribe(&letters(&input, &error)).unwrap();
        forward_until_drained(&mut *member, &output, grow);
        assert_eq!(member.refused(), 50);
        close(member);
        assert_too_large(&bus, &output, &error, 500);
        assert_eq!(noted(&bus, &journal), 50);
    }
}

/// What the broker refuses is found among its neighbours, and nothing of its act has happened.
#[test]
fn a_fenced_publisher_says_which_output_the_broker_refuses() {
    let Some(kafka) = Kafka::new(Guarantee::AtLeastOnce) else { return };
    let (bus, topic) = (kafka.with(|_| ()), kafka.topic("shrinks"));
    create_small(&kafka, &topic, 1_000_000);
    bus.create_topics(std::slice::from_ref(&topic)).unwrap();
    let mut publisher = bus.fenced_publisher(topic.as_str()).unwrap();
    let lengths = |lengths: &[usize]| {
        let mut outbox = Outbox::default();
        lengths.iter().for_each(|length| outbox.publish(&topic, 5, None, Some("x".repeat(*length).as_bytes())));
        outbox
    };
    let mut refused = |all: &[usize]| {
        let end = Instant::now() + DEADLINE;
        loop {
            match publisher.publish(&lengths(all)) {
                Err(BusError::Unavailable(_)) if Instant::now() < end => {}
                published => break published.unwrap().map(|one| (one.output, one.reason)),
            }
        }
    };
    assert_eq!(refused(&[1, 2, 5000]), None);
    change_limit(&kafka, &topic, 2000);
    // It is told of the limit by a refusal, then it knows
    for _ in 0..2 {
        let end = Instant::now() + DEADLINE;
        let (output, reason) = loop {
            match refused(&[3, 4, 5001, 5, 5002]) {
                Some(refusal) => break refusal,
                None => assert!(Instant::now() < end, "the broker has not heard of its limit"),
            }
        };
        assert_eq!(output, 2);
        assert!(reason.starts_with("output of 50") && reason.contains(" is more than topic "), "{reason}");
        // Each fits, a batch of them does not
        assert_eq!(refused(&[1500; 5]), None);
    }
    let found: Vec<_> =
        read(&bus, &topic).iter().map(|(value, _)| value.len()).filter(|length| *length != 5001).collect();
    let found: Vec<_> = found.into_iter().filter(|length| ![3, 4, 5, 5002].contains(length)).collect();
    assert_eq!(found, [&[1, 2, 5000][..], &[1500; 10]].concat());
}

#[test]
fn a_limit_that_shrinks_meanwhile_harms_no_neighbours() {
    for guarantee in BOTH {
        let Some(kafka) = Kafka::new(guarantee) else { return };
        let journal = kafka.topic("journal");
        let bus = kafka.with_journal(&journal);
        let (input, output, error) = (kafka.topic("in"), kafka.topic("shrinks"), kafka.topic("error"));
        bus.create_topics(&[input.clone(), error.clone()]).unwrap();
        create_small(&kafka, &output, 1_000_000);
        publish(&bus, &input, ["first".to_owned()]);
        let mut member = bus.subscribe(&letters(&input, &error)).unwrap();
        forward_until_drained(&mut *member, &output, <[u8]>::to_vec);
        change_limit(&kafka, &output, 2000);
        publish(&bus, &input, (0..100).map(|n| n.to_string()));
        forward_until_drained(&mut *member, &output, grow);
        close(member);
        let forwarded = read(&bus, &output);
        assert_eq!(forwarded[0].0, b"first");
        let passed: BTreeSet<_> = forwarded[1..].iter().map(|(value, _)| value.clone()).collect();
        let expected =
            |large: bool| (0..100).map(|n| n.to_string().into_bytes()).filter(move |n| n.ends_with(b"7") == large);
        assert_eq!(passed, expected(false).map(|value| grow(&value)).collect(), "{guarantee}");
        assert_eq!(forwarded.len(), 91, "none twice");
        let dead: BTreeSet<_> = read(&bus, &error).into_iter().map(|(value, _)| value).collect();
        assert_eq!(dead, expected(true).collect(), "{guarantee}");
        assert_eq!(noted(&bus, &journal), 10);
    }
}

#[test]
fn a_dead_letter_that_is_refused_ends_the_stop_and_acknowledges_nothing() {
    for guarantee in BOTH {
        let Some(kafka) = Kafka::new(guarantee) else { return };
        let bus = kafka.bus();
        let (input, error) = (kafka.topic("in"), kafka.topic("small-error"));
        bus.create_topics(std::slice::from_ref(&input)).unwrap();
        create_small(&kafka, &error, 1000);
        publish(&*bus, &input, ["x".repeat(2000)]);
        let mut member = bus.subscribe(&letters(&input, &error)).unwrap();
        let batch = poll(&mut *member);
        let mut outbox = Outbox::default();
        letters(&input, &error).write(&mut outbox, 0, &batch.get(0), "why", 1);
        let result = member.settle(&batch, 0..1, &outbox);
        assert!(matches!(result, Err(BusError::Fatal(_))), "{result:?}");
        drop(member);
        let mut again = bus.subscribe(&letters(&input, &error)).unwrap();
        assert_eq!(poll(&mut *again).len(), 1);
    }
}

fn poll(member: &mut dyn Subscription) -> Arc<Batch> {
    let end = Instant::now() + DEADLINE;
    loop {
        let batch = member.poll(500, Duration::from_millis(100)).unwrap();
        if !batch.is_empty() {
            return Arc::new(batch);
        }
        assert!(Instant::now() < end, "nothing came");
    }
}

/// Old clients share the group over all topics, and know eager protocols only.
#[test]
fn a_member_joins_a_group_of_old_clients() {
    let Some(kafka) = Kafka::new(Guarantee::AtLeastOnce) else { return };
    let bus = kafka.bus();
    let (theirs, input, output) = (kafka.topic("theirs"), kafka.topic("in"), kafka.topic("out"));
    bus.create_topics(&[theirs.clone(), input.clone(), output.clone(), kafka.topic("Error")]).unwrap();
    let old: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &kafka.options.brokers)
        .set("group.id", &kafka.options.group)
        .set("partition.assignment.strategy", "range")
        .create()
        .unwrap();
    old.subscribe(&[theirs.as_str()]).unwrap();
    let end = Instant::now() + DEADLINE;
    while old.assignment().unwrap().count() == 0 {
        assert!(Instant::now() < end, "the old client was given nothing");
        old.poll(Duration::from_millis(100));
    }
    publish(&*bus, &input, (0..100).map(|n| n.to_string()));
    let mut member = bus.subscribe(&letters(&input, &kafka.topic("Error"))).unwrap();
    while read(&*bus, &output).len() < 100 {
        assert!(Instant::now() < end, "the member read nothing");
        old.poll(Duration::from_millis(10));
        let batch = Arc::new(member.poll(500, Duration::from_millis(50)).unwrap());
        forward(&mut *member, &batch, &output, <[u8]>::to_vec);
    }
    close(member);
}

/// Members come and go while messages flow.
#[test]
fn members_come_and_go_under_load() {
    for guarantee in BOTH {
        let Some(kafka) = Kafka::new(guarantee) else { return };
        let bus = kafka.bus();
        let (input, output, error) = (kafka.topic("in"), kafka.topic("out"), kafka.topic("error"));
        bus.create_topics(&[input.clone(), output.clone(), error.clone()]).unwrap();
        let total = 8_000;
        let mut outbox = Outbox::default();
        for n in 0..total {
            outbox.publish(&input, 1, Some((n % 50).to_string().as_bytes()), Some(n.to_string().as_bytes()));
        }
        let mut publisher = bus.publisher().unwrap();
        publisher.publish(&outbox).unwrap();
        publisher.flush(Instant::now() + DEADLINE).unwrap();
        let letters = letters(&input, &error);
        std::thread::scope(|scope| {
            let steady = scope.spawn(|| {
                let mut member = bus.subscribe(&letters).unwrap();
                let end = Instant::now() + DEADLINE;
                loop {
                    let batch = Arc::new(member.poll(20, Duration::from_millis(20)).unwrap());
                    forward(&mut *member, &batch, &output, <[u8]>::to_vec);
                    if batch.is_empty() && member.drained().unwrap() {
                        break;
                    }
                    assert!(Instant::now() < end, "not drained");
                    // Slow enough for others to come and go meanwhile
                    std::thread::sleep(Duration::from_millis(2));
                }
                close(member);
            });
            for _ in 0..4 {
                let mut member = kafka.with(|_| ()).subscribe(&letters).unwrap();
                let end = Instant::now() + Duration::from_millis(1500);
                while Instant::now() < end && !steady.is_finished() {
                    let batch = Arc::new(member.poll(50, Duration::from_millis(20)).unwrap());
                    forward(&mut *member, &batch, &output, <[u8]>::to_vec);
                }
                close(member);
            }
        });
        let mut last = bus.subscribe(&letters).unwrap();
        forward_until_drained(&mut *last, &output, <[u8]>::to_vec);
        close(last);
        let found: Vec<_> = read(&*bus, &output).into_iter().map(|(value, _)| value).collect();
        let ids: BTreeSet<_> = found.iter().cloned().collect();
        assert_eq!(ids.len(), total, "{guarantee}: lost");
        eprintln!("{guarantee}: {} duplicates", found.len() - total);
        // Members that leave in order hand over what they have done
        assert_eq!(found.len(), total, "{guarantee}: duplicates");
    }
}

#[test]
fn a_transaction_left_open_is_invisible_and_undone() {
    let Some(kafka) = Kafka::new(Guarantee::ExactlyOnce) else { return };
    // The transaction stays open until the member dies
    let bus = kafka.with(|options| {
        options.transaction = Duration::from_secs(10);
        options.properties.insert("transaction.timeout.ms".into(), "3000".into());
    });
    let (input, output, error) = (kafka.topic("in"), kafka.topic("out"), kafka.topic("error"));
    bus.create_topics(&[input.clone(), output.clone(), error.clone()]).unwrap();
    publish(&bus, &input, (0..50).map(|n| n.to_string()));
    let mut member = bus.subscribe(&letters(&input, &error)).unwrap();
    let batch = poll(&mut *member);
    forward(&mut *member, &batch, &output, <[u8]>::to_vec);
    drop(member);
    assert_eq!(read(&bus, &output).len(), 0);
    let mut second = bus.subscribe(&letters(&input, &error)).unwrap();
    forward_until_drained(&mut *second, &output, <[u8]>::to_vec);
    close(second);
    assert_eq!(read(&bus, &output).len(), 50);
}

/// A transaction that took too long was undone by the broker: it is done again.
#[test]
fn a_transaction_that_times_out_is_done_again() {
    let Some(kafka) = Kafka::new(Guarantee::ExactlyOnce) else { return };
    let bus = kafka.with(|options| {
        options.transaction = Duration::from_secs(10);
        options.properties.insert("transaction.timeout.ms".into(), "1000".into());
    });
    let (input, output, error) = (kafka.topic("in"), kafka.topic("out"), kafka.topic("error"));
    bus.create_topics(&[input.clone(), output.clone(), error.clone()]).unwrap();
    publish(&bus, &input, (0..50).map(|n| n.to_string()));
    let mut member = bus.subscribe(&letters(&input, &error)).unwrap();
    let batch = poll(&mut *member);
    forward(&mut *member, &batch, &output, <[u8]>::to_vec);
    std::thread::sleep(Duration::from_secs(4));
    forward_until_drained(&mut *member, &output, <[u8]>::to_vec);
    close(member);
    assert_eq!(read(&bus, &output).len(), 50);
}

/// One with a name that was slower than the group waits for is not its own successor: it goes on.
#[test]
fn a_named_member_outlives_its_session() {
    for guarantee in [Guarantee::AtLeastOnce, Guarantee::ExactlyOnce] {
        let Some(kafka) = Kafka::new(guarantee) else { return };
        let bus = kafka.with(|options| {
            options.instance = Some("one".into());
            for (name, value) in
                [("session.timeout.ms", "3000"), ("max.poll.interval.ms", "3000"), ("heartbeat.interval.ms", "100")]
            {
                options.properties.insert(name.into(), value.into());
            }
        });
        let (input, output, error) = (kafka.topic("in"), kafka.topic("out"), kafka.topic("error"));
        bus.create_topics(&[input.clone(), output.clone(), error.clone()]).unwrap();
        publish(&bus, &input, (0..50).map(|n| n.to_string()));
        let mut member = bus.subscribe(&letters(&input, &error)).unwrap();
        let batch = poll(&mut *member);
        // What has to pass is the time that the group waits, and some heartbeats
        std::thread::sleep(Duration::from_secs(5));
        forward(&mut *member, &batch, &output, <[u8]>::to_vec);
        forward_until_drained(&mut *member, &output, <[u8]>::to_vec);
        close(member);
        let found: BTreeSet<_> = read(&bus, &output).into_iter().collect();
        assert_eq!(found.len(), 50, "{guarantee}");
    }
}

/// How many members of the group have a share of `topic`; `None` while that changes.
fn sharing(kafka: &Kafka, topic: &Topic) -> Option<usize> {
    let client: BaseConsumer = ClientConfig::new().set("bootstrap.servers", &kafka.options.brokers).create().unwrap();
    // Where the group has just begun, its broker may not know of it
    let list = client.fetch_group_list(Some(&kafka.options.group), DEADLINE).ok()?;
    let group = list.groups().first().filter(|group| group.state() == "Stable")?;
    let shares = group.members().iter().filter_map(|member| assigned_partitions(member.assignment()?, topic.as_str()));
    Some(shares.filter(|share| !share.is_empty()).count())
}

/// Who is given the share of another that has left, and ends before it has learnt of it, ends all the same.
#[test]
fn a_member_ends_while_it_is_given_more() {
    let end_amid_a_change = |instance: Option<&str>| {
        let Some(kafka) = Kafka::new(Guarantee::AtLeastOnce) else { return };
        let input = kafka.topic("in");
        let member = |instance: Option<&str>| {
            let bus = kafka.with(|options| {
                options.instance = instance.map(str::to_owned);
                // What librdkafka tells of it makes it slow where it matters
                for (name, value) in [("heartbeat.interval.ms", "100"), ("debug", "cgrp,consumer")] {
                    options.properties.insert(name.into(), value.into());
                }
            });
            bus.create_topics(std::slice::from_ref(&input)).unwrap();
            bus.subscribe(&letters(&input, &Topic::new("Error").unwrap())).unwrap()
        };
        let (mut stays, mut leaves) = (member(instance), member(None));
        let end = Instant::now() + DEADLINE;
        let mut shared = 0;
        // Both have learnt of it when they have been asked some more
        while shared < 10 {
            shared = if sharing(&kafka, &input) == Some(2) { shared + 1 } else { 0 };
            for member in [&mut stays, &mut leaves] {
                assert!(member.poll(1, Duration::from_millis(10)).unwrap().is_empty());
            }
            assert!(Instant::now() < end, "they do not share {input}");
        }
        close(leaves);
        // Its client joins anew by itself, and what it is given waits for the next poll
        while sharing(&kafka, &input) != Some(1) {
            assert!(Instant::now() < end, "what the other had of {input} is nobody's");
        }
        close(stays);
    };
    let (done, ended) = mpsc::channel();
    let instances = [Some("one"), None].repeat(12);
    for &instance in &instances {
        let done = done.clone();
        std::thread::spawn(move || {
            end_amid_a_change(instance);
            done.send(())
        });
    }
    for _ in instances {
        ended.recv_timeout(2 * DEADLINE).expect("it ends");
    }
}

/// A transaction is as long as its time, but not longer than a broker and readers can bear.
#[test]
fn a_transaction_of_many_records_is_committed_before_its_time() {
    let Some(kafka) = Kafka::new(Guarantee::ExactlyOnce) else { return };
    let bus = kafka.with(|options| options.transaction = Duration::from_secs(600));
    let (input, output, error) = (kafka.topic("in"), kafka.topic("out"), kafka.topic("error"));
    bus.create_topics(&[input.clone(), output.clone(), error.clone()]).unwrap();
    publish(&bus, &input, (0..260_000).map(|n| n.to_string()));
    let mut member = bus.subscribe(&letters(&input, &error)).unwrap();
    let end = Instant::now() + DEADLINE;
    loop {
        let batch = Arc::new(member.poll(1000, Duration::from_millis(50)).unwrap());
        if batch.is_empty() && !read(&bus, &output).is_empty() {
            break;
        }
        forward(&mut *member, &batch, &output, <[u8]>::to_vec);
        assert!(Instant::now() < end, "no transaction was committed");
    }
    close(member);
}

/// Whoever has the name last has it: the one before ends.
#[test]
fn an_instance_fences_the_one_before_it() {
    let Some(kafka) = Kafka::new(Guarantee::ExactlyOnce) else { return };
    let bus = kafka.with(|options| options.instance = Some("one".into()));
    let (input, output, error) = (kafka.topic("in"), kafka.topic("out"), kafka.topic("error"));
    bus.create_topics(&[input.clone(), output.clone(), error.clone()]).unwrap();
    publish(&bus, &input, (0..50).map(|n| n.to_string()));
    let mut first = bus.subscribe(&letters(&input, &error)).unwrap();
    let batch = poll(&mut *first);
    let mut outbox = Outbox::default();
    outbox.forward(0, &output, |out| out.push(b'x'));
    first.settle(&batch, 0..1, &outbox).unwrap();
    let mut second = bus.subscribe(&letters(&input, &error)).unwrap();
    let end = Instant::now() + DEADLINE;
    let error = loop {
        match first.flush(end) {
            Err(BusError::Fatal(error)) => break error,
            other => assert!(Instant::now() < end, "{other:?}"),
        }
        if let Err(BusError::Fatal(error)) = first.poll(10, Duration::from_millis(50)) {
            break error;
        }
    };
    assert!(format!("{error:#}").contains("taken over") || format!("{error:#}").contains("fenced"), "{error:#}");
    drop(first);
    forward_until_drained(&mut *second, &output, <[u8]>::to_vec);
    close(second);
    assert_eq!(read(&bus, &output).len(), 50);
}

#[test]
fn a_session_that_the_broker_does_not_allow_ends_the_stop() {
    let Some(kafka) = Kafka::new(Guarantee::AtLeastOnce) else { return };
    let bus = kafka.with(|options| {
        options.properties.insert("session.timeout.ms".into(), "3600000".into());
        options.properties.insert("max.poll.interval.ms".into(), "3600000".into());
    });
    let (input, error) = (kafka.topic("in"), kafka.topic("error"));
    bus.create_topics(&[input.clone(), error.clone()]).unwrap();
    let mut member = bus.subscribe(&letters(&input, &error)).unwrap();
    let end = Instant::now() + DEADLINE;
    while Instant::now() < end {
        if let Err(BusError::Fatal(error)) = member.poll(1, Duration::from_millis(100)) {
            assert!(format!("{error:#}").contains("session timeout"), "{error:#}");
            return;
        }
    }
    panic!("the stop waits for ever");
}

#[test]
fn a_dead_address_is_told_within_seconds() {
    let Some(kafka) = Kafka::new(Guarantee::AtLeastOnce) else { return };
    let bus = kafka.with(|options| options.brokers = "127.0.0.1:1".into());
    let started = Instant::now();
    let Err(BusError::Unavailable(error)) = bus.connect() else { panic!("connected") };
    assert!(started.elapsed() < Duration::from_secs(8));
    assert!(format!("{error:#}").contains("127.0.0.1:1"), "{error:#}");
    assert!(format!("{error:#}").contains("refused"), "{error:#}");
}

#[test]
fn a_property_that_is_wrong_is_named() {
    let options = |name: &str, value: &str, guarantee| config::Kafka {
        brokers: "127.0.0.1:1".into(),
        group: "g".into(),
        guarantee,
        partitions: 1,
        replication: 1,
        instance: None,
        transaction: Duration::from_millis(100),
        properties: BTreeMap::from([(name.to_owned(), value.to_owned())]),
    };
    let error_topic = Topic::new("Error").unwrap();
    let wrong = [
        ("ssl.ca.locatio", "x", "No such configuration property: \"ssl.ca.locatio\""),
        ("linger.ms", "long", "linger.ms"),
        ("acks", "1", "acks"),
        ("partition.assignment.strategy", "range,cooperative-sticky", "partition.assignment.strategy"),
        ("message.max.bytes", "1000000", "message.max.bytes is metrobus's to set"),
        ("enable.partition.eof", "false", "enable.partition.eof is metrobus's to set"),
    ];
    for (name, value, expected) in wrong {
        let error =
            KafkaBus::new(options(name, value, Guarantee::AtLeastOnce), &error_topic, &no_journal()).err().expect(name);
        assert!(error.0.starts_with("kafka.properties: ") && error.0.contains(expected), "{}", error.0);
    }
    for (name, value) in [
        ("max.poll.interval.ms", "100000"),
        ("linger.ms", "2"),
        ("message.timeout.ms", "100"),
        ("enable.auto.commit", "false"),
    ] {
        for guarantee in BOTH {
            KafkaBus::new(options(name, value, guarantee), &error_topic, &no_journal())
                .map_err(|error| error.0)
                .expect(name);
        }
    }
}
