//! One suite that every engine passes: the contract of [`super`], seen from outside.
//!
//! An engine gives a [`Fixture`] and runs [`CHECKS`]. What differs between guarantees is asked of [`Bus::guarantee`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng};

use super::{Batch, Bus, BusError, Fenced, Guarantee, Headers, Outbox, Subscription, Topic};
use crate::dead_letter::DeadLetters;

/// No single wait of the suite is longer.
const DEADLINE: Duration = Duration::from_secs(60);

/// An engine under test.
pub trait Fixture {
    /// A client of its own on the one bus under test, as another process would open it.
    fn bus(&self) -> Box<dyn Bus>;

    /// A topic that nothing else uses; not created yet.
    fn topic(&self, name: &str) -> Topic;
}

type Check = fn(&dyn Fixture);

/// All checks, by name.
pub const CHECKS: &[(&str, Check)] = &[
    ("every field of a record survives", every_field_survives),
    ("a forward carries key, headers and timestamp", a_forward_carries_what_travels_along),
    ("order per key holds", order_per_key_holds),
    ("what was polled and not settled is read again", unsettled_is_read_again),
    ("what was settled is not read again", settled_is_not_read_again),
    ("a settled part of a batch stays settled", a_part_can_be_settled),
    ("an input without output is acknowledged", no_output_is_an_acknowledgement),
    ("outputs of one batch go to several topics", outputs_may_differ_in_topic),
    ("a member takes over from one that closed", a_member_takes_over),
    ("a dead letter is byte for byte what came", a_dead_letter_is_what_came),
    ("drained and lag tell what is left", drained_and_lag_tell_what_is_left),
    ("a member that waits keeps its place", a_member_that_waits_keeps_its_place),
    ("a reader sees the last records and new ones", a_reader_sees_the_last_records),
    ("a reader goes on at the offsets it is given", a_reader_goes_on_where_told),
    ("a note about inputs is published with them", a_note_is_published_with_its_inputs),
    ("topics tells sizes and groups", topics_tells_sizes_and_groups),
    ("creating topics twice is fine, names know case", topics_are_created_once),
    ("a large record passes", a_large_record_passes),
    ("a fenced publisher publishes all or nothing", a_fenced_publisher_publishes_all),
    ("a fenced publisher ends those before it", a_fenced_publisher_ends_those_before),
    ("nothing is lost when members die at random", nothing_is_lost_at_random),
];

/// Runs all checks; panics with the name of the first that fails.
pub fn run(fixture: &dyn Fixture) {
    for (name, check) in CHECKS {
        let started = Instant::now();
        eprintln!("conformance: {name} ...");
        check(fixture);
        eprintln!("conformance: {name}: ok in {:.1?}", started.elapsed());
    }
}

fn letters(topic: &Topic) -> DeadLetters {
    DeadLetters { stop: "stop".to_owned(), topic: topic.clone(), error: Topic::new("Error").unwrap() }
}

fn subscribe(bus: &dyn Bus, topic: &Topic) -> Box<dyn Subscription> {
    bus.subscribe(&letters(topic)).unwrap()
}

fn close(subscription: Box<dyn Subscription>) {
    subscription.close(Instant::now() + DEADLINE).unwrap();
}

fn publish(bus: &dyn Bus, topic: &Topic, values: impl IntoIterator<Item = (String, String)>) {
    let mut outbox = Outbox::default();
    for (key, value) in values {
        outbox.publish(topic, 1_700_000_000_000, Some(key.as_bytes()), Some(value.as_bytes()));
    }
    let mut publisher = bus.publisher().unwrap();
    publisher.publish(&outbox).unwrap();
    assert_eq!(publisher.flush(Instant::now() + DEADLINE).unwrap(), outbox.len() as u64, "all confirmed");
}

fn numbered(from: usize, to: usize) -> impl Iterator<Item = (String, String)> {
    (from..to).map(|n| (format!("key{}", n % 7), n.to_string()))
}

/// Polls until something comes.
fn poll(subscription: &mut dyn Subscription, max: usize) -> Arc<Batch> {
    let end = Instant::now() + DEADLINE;
    while Instant::now() < end {
        let batch = subscription.poll(max, Duration::from_millis(100)).unwrap();
        if !batch.is_empty() {
            assert!(batch.len() <= max);
            return Arc::new(batch);
        }
    }
    panic!("nothing came within {DEADLINE:?}");
}

fn forward_all(subscription: &mut dyn Subscription, batch: &Arc<Batch>, to: &Topic) {
    let mut outbox = Outbox::default();
    for index in 0..batch.len() {
        outbox.forward(index, to, |out| out.extend_from_slice(batch.get(index).value.unwrap()));
    }
    subscription.settle(batch, 0..batch.len(), &outbox).unwrap();
}

fn flush(subscription: &mut dyn Subscription) {
    assert!(subscription.flush(Instant::now() + DEADLINE).unwrap(), "all confirmed");
}

/// Forwards until the topic is drained.
fn forward_until_drained(subscription: &mut dyn Subscription, to: &Topic) -> usize {
    let end = Instant::now() + DEADLINE;
    let mut forwarded = 0;
    while Instant::now() < end {
        let batch = Arc::new(subscription.poll(1000, Duration::from_millis(50)).unwrap());
        if !batch.is_empty() {
            forwarded += batch.len();
            forward_all(subscription, &batch, to);
        } else if subscription.flush(end).unwrap() && subscription.drained().unwrap() {
            return forwarded;
        }
    }
    panic!("not drained within {DEADLINE:?}");
}

/// All that a topic holds, as (partition, key, value) in the order of each partition.
fn contents(bus: &dyn Bus, topic: &Topic) -> Vec<(i32, String, String)> {
    let mut all = Vec::new();
    read_all(bus, topic, |batch| {
        for record in batch.iter() {
            let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap().to_vec()).unwrap();
            all.push((record.partition, text(record.key), text(record.value)));
        }
    });
    all
}

fn read_all(bus: &dyn Bus, topic: &Topic, mut each: impl FnMut(&Batch)) {
    let end = Instant::now() + DEADLINE;
    let mut reader = bus.reader(topic, u64::MAX).unwrap();
    while !reader.at_end() {
        each(&reader.poll(1000, Duration::from_millis(100)).unwrap());
        assert!(Instant::now() < end, "the end of {topic} was not reached");
    }
}

fn values(bus: &dyn Bus, topic: &Topic) -> Vec<String> {
    contents(bus, topic).into_iter().map(|(_, _, value)| value).collect()
}

fn assert_same(mut found: Vec<String>, expected: impl IntoIterator<Item = String>) {
    let mut expected: Vec<_> = expected.into_iter().collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

fn texts(range: std::ops::Range<usize>) -> impl Iterator<Item = String> {
    range.map(|n| n.to_string())
}

fn created(fixture: &dyn Fixture, names: &[&str]) -> (Box<dyn Bus>, Vec<Topic>) {
    let bus = fixture.bus();
    let topics: Vec<_> = names.iter().map(|name| fixture.topic(name)).collect();
    bus.create_topics(&topics).unwrap();
    bus.create_topics(&[Topic::new("Error").unwrap()]).unwrap();
    (bus, topics)
}

fn every_field_survives(fixture: &dyn Fixture) {
    let (bus, topics) = created(fixture, &["fields"]);
    type Fields<'a> = (i64, Option<&'a [u8]>, Option<&'a [u8]>);
    let all: [Fields<'_>; 4] = [
        (1, Some(b"k"), Some(b"v")),
        (1_700_000_000_123, Some(b"k"), None),
        (2, Some(b"k"), Some(b"")),
        (3, Some(b"k"), Some(b"\xff\0\xfe")),
    ];
    let mut outbox = Outbox::default();
    for (timestamp, key, value) in all {
        outbox.publish(&topics[0], timestamp, key, value);
    }
    outbox.publish(&topics[0], 4, None, Some(b"no key"));
    outbox.publish(&topics[0], 5, Some(b""), Some(b"empty key"));
    let mut publisher = bus.publisher().unwrap();
    publisher.publish(&outbox).unwrap();
    assert_eq!(publisher.flush(Instant::now() + DEADLINE).unwrap(), 6);
    let mut found = Vec::new();
    read_all(&*bus, &topics[0], |batch| {
        for r in batch.iter() {
            found.push((r.timestamp, r.key.map(<[u8]>::to_vec), r.value.map(<[u8]>::to_vec)));
        }
    });
    found.sort();
    let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
    let mut expected: Vec<_> = all.into_iter().map(|(t, k, v)| (t, owned(k), owned(v))).collect();
    expected.push((4, None, owned(Some(b"no key"))));
    expected.push((5, owned(Some(b"")), owned(Some(b"empty key"))));
    expected.sort();
    assert_eq!(found, expected);
}

fn a_forward_carries_what_travels_along(fixture: &dyn Fixture) {
    let (bus, topics) = created(fixture, &["a", "b", "c"]);
    publish(&*bus, &topics[0], [("the key".to_owned(), "first".to_owned())]);
    let mut first = subscribe(&*bus, &topics[0]);
    let batch = poll(&mut *first, 10);
    let mut outbox = Outbox::default();
    outbox.repeat(0, &topics[1], |out| {
        Headers::push(out, "x", Some(b"1"));
        Headers::push(out, "null", None);
        Headers::push(out, "x", Some(b"\xff2"));
    });
    first.settle(&batch, 0..1, &outbox).unwrap();
    flush(&mut *first);
    let mut second = subscribe(&*bus, &topics[1]);
    let batch = poll(&mut *second, 10);
    forward_all(&mut *second, &batch, &topics[2]);
    flush(&mut *second);
    let mut found = 0;
    read_all(&*bus, &topics[2], |batch| {
        for record in batch.iter() {
            found += 1;
            assert_eq!((record.key, record.timestamp), (Some(&b"the key"[..]), 1_700_000_000_000));
            assert_eq!(record.value, Some(&b"first"[..]));
            let headers: Vec<_> = record.headers.into_iter().collect();
            assert_eq!(headers, [("x", Some(&b"1"[..])), ("null", None), ("x", Some(&b"\xff2"[..]))]);
        }
    });
    assert_eq!(found, 1);
    close(first);
    close(second);
}

fn order_per_key_holds(fixture: &dyn Fixture) {
    let (bus, topics) = created(fixture, &["in", "out"]);
    publish(&*bus, &topics[0], numbered(0, 5000));
    let mut subscription = subscribe(&*bus, &topics[0]);
    assert_eq!(forward_until_drained(&mut *subscription, &topics[1]), 5000);
    close(subscription);
    let mut last = BTreeMap::new();
    let mut count = 0;
    for (_, key, value) in contents(&*bus, &topics[1]) {
        let value: usize = value.parse().unwrap();
        let before = last.insert(key.clone(), value);
        assert!(before.is_none_or(|before| before < value), "{key}: {value} after {before:?}");
        count += 1;
    }
    assert_eq!(count, 5000);
}

fn unsettled_is_read_again(fixture: &dyn Fixture) {
    let (bus, topics) = created(fixture, &["in", "out"]);
    publish(&*bus, &topics[0], numbered(0, 20));
    let mut first = subscribe(&*bus, &topics[0]);
    poll(&mut *first, 5);
    close(first);
    let mut second = subscribe(&*bus, &topics[0]);
    assert_eq!(forward_until_drained(&mut *second, &topics[1]), 20);
    close(second);
    assert_same(values(&*bus, &topics[1]), texts(0..20));
}

fn settled_is_not_read_again(fixture: &dyn Fixture) {
    let (bus, topics) = created(fixture, &["in", "out"]);
    publish(&*bus, &topics[0], numbered(0, 20));
    let mut first = subscribe(&*bus, &topics[0]);
    assert_eq!(forward_until_drained(&mut *first, &topics[1]), 20);
    close(first);
    publish(&*bus, &topics[0], numbered(20, 23));
    let bus = fixture.bus();
    let mut second = subscribe(&*bus, &topics[0]);
    assert_eq!(forward_until_drained(&mut *second, &topics[1]), 3);
    close(second);
    assert_same(values(&*bus, &topics[1]), texts(0..23));
}

fn a_part_can_be_settled(fixture: &dyn Fixture) {
    let (bus, topics) = created(fixture, &["in", "out"]);
    publish(&*bus, &topics[0], (0..10).map(|n| ("one key".to_owned(), n.to_string())));
    let mut first = subscribe(&*bus, &topics[0]);
    let mut batch = poll(&mut *first, 10);
    let end = Instant::now() + DEADLINE;
    while batch.len() < 2 && Instant::now() < end {
        // A poll may bring fewer than there are: begin anew until there is something to divide
        close(first);
        first = subscribe(&*bus, &topics[0]);
        batch = poll(&mut *first, 10);
    }
    let half = batch.len() / 2;
    let mut outbox = Outbox::default();
    for index in 0..half {
        outbox.forward(index, &topics[1], |out| out.extend_from_slice(batch.get(index).value.unwrap()));
    }
    first.settle(&batch, 0..half, &outbox).unwrap();
    close(first);
    let mut second = subscribe(&*bus, &topics[0]);
    assert_eq!(forward_until_drained(&mut *second, &topics[1]), 10 - half);
    close(second);
    assert_eq!(values(&*bus, &topics[1]), texts(0..10).collect::<Vec<_>>());
}

fn no_output_is_an_acknowledgement(fixture: &dyn Fixture) {
    let (bus, topics) = created(fixture, &["in"]);
    publish(&*bus, &topics[0], numbered(0, 30));
    let mut first = subscribe(&*bus, &topics[0]);
    let mut seen = 0;
    while seen < 30 {
        let batch = poll(&mut *first, 7);
        seen += batch.len();
        first.settle(&batch, 0..batch.len(), &Outbox::default()).unwrap();
    }
    flush(&mut *first);
    assert!(first.drained().unwrap());
    close(first);
    publish(&*bus, &topics[0], numbered(30, 31));
    let mut second = subscribe(&*bus, &topics[0]);
    let batch = poll(&mut *second, 10);
    assert_eq!(batch.len(), 1);
    assert_eq!(batch.get(0).value, Some(&b"30"[..]));
    close(second);
}

fn outputs_may_differ_in_topic(fixture: &dyn Fixture) {
    let (bus, topics) = created(fixture, &["in", "even", "odd"]);
    publish(&*bus, &topics[0], numbered(0, 100));
    let mut subscription = subscribe(&*bus, &topics[0]);
    let mut seen = 0;
    while seen < 100 {
        let batch = poll(&mut *subscription, 50);
        let mut outbox = Outbox::default();
        for (index, record) in batch.iter().enumerate() {
            let value = record.value.unwrap();
            let odd = value.last().unwrap() % 2 == 1;
            outbox.forward(index, &topics[if odd { 2 } else { 1 }], |out| out.extend_from_slice(value));
        }
        subscription.settle(&batch, 0..batch.len(), &outbox).unwrap();
        seen += batch.len();
    }
    close(subscription);
    assert_same(values(&*bus, &topics[1]), (0..100).step_by(2).map(|n| n.to_string()));
    assert_same(values(&*bus, &topics[2]), (1..100).step_by(2).map(|n| n.to_string()));
}

fn a_member_takes_over(fixture: &dyn Fixture) {
    let (bus, topics) = created(fixture, &["in", "out"]);
    publish(&*bus, &topics[0], numbered(0, 2000));
    let mut first = subscribe(&*bus, &topics[0]);
    let batch = poll(&mut *first, 100);
    forward_all(&mut *first, &batch, &topics[1]);
    let other = fixture.bus();
    let mut second = subscribe(&*other, &topics[0]);
    let end = Instant::now() + DEADLINE;
    let mut first = Some(first);
    loop {
        if let Some(mut member) = first.take() {
            let batch = Arc::new(member.poll(100, Duration::from_millis(20)).unwrap());
            forward_all(&mut *member, &batch, &topics[1]);
            first = Some(member).filter(|_| values(&*bus, &topics[1]).len() < 500);
        }
        let batch = Arc::new(second.poll(100, Duration::from_millis(20)).unwrap());
        forward_all(&mut *second, &batch, &topics[1]);
        if first.is_none() && batch.is_empty() && second.flush(end).unwrap() && second.drained().unwrap() {
            break;
        }
        assert!(Instant::now() < end);
    }
    close(second);
    let found = values(&*bus, &topics[1]);
    assert_eq!(found.iter().cloned().collect::<BTreeSet<_>>(), texts(0..2000).collect());
    if bus.guarantee() == Guarantee::ExactlyOnce {
        assert_eq!(found.len(), 2000);
    }
}

fn a_dead_letter_is_what_came(fixture: &dyn Fixture) {
    let (bus, topics) = created(fixture, &["in", "errors"]);
    let mut outbox = Outbox::default();
    outbox.publish(&topics[0], 77, Some(b"k"), Some(b"\xff not json"));
    bus.publisher().map(|mut p| p.publish(&outbox).and_then(|()| p.flush(Instant::now() + DEADLINE))).unwrap().unwrap();
    let mut subscription = subscribe(&*bus, &topics[0]);
    let batch = poll(&mut *subscription, 1);
    let letters = DeadLetters { error: topics[1].clone(), ..letters(&topics[0]) };
    let mut outbox = Outbox::default();
    letters.write(&mut outbox, 0, &batch.get(0), "not UTF-8", 2);
    subscription.settle(&batch, 0..1, &outbox).unwrap();
    close(subscription);
    let mut found = 0;
    read_all(&*bus, &topics[1], |batch| {
        for record in batch.iter() {
            found += 1;
            assert_eq!((record.key, record.timestamp), (Some(&b"k"[..]), 77));
            assert_eq!(record.value, Some(&b"\xff not json"[..]));
            let header = |name| record.headers.get(name).map(|value| String::from_utf8(value.to_vec()).unwrap());
            assert_eq!(header("metrobus.reason").as_deref(), Some("not UTF-8"));
            assert_eq!(header("metrobus.stop").as_deref(), Some("stop"));
            assert_eq!(header("metrobus.topic").as_deref(), Some(topics[0].as_str()));
            assert_eq!(header("metrobus.offset").as_deref(), Some("0"));
            assert_eq!(header("metrobus.attempt").as_deref(), Some("2"));
            assert!(header("metrobus.partition").is_some() && header("metrobus.time").is_some());
        }
    });
    assert_eq!(found, 1);
}

fn drained_and_lag_tell_what_is_left(fixture: &dyn Fixture) {
    let (bus, topics) = created(fixture, &["in", "out"]);
    let mut subscription = subscribe(&*bus, &topics[0]);
    assert_eq!(forward_until_drained(&mut *subscription, &topics[1]), 0);
    publish(&*bus, &topics[0], numbered(0, 50));
    assert!(!subscription.drained().unwrap(), "there is more");
    assert_eq!(subscription.lag().unwrap(), 50);
    let batch = poll(&mut *subscription, 50);
    assert!(!subscription.drained().unwrap(), "polled is not settled");
    forward_all(&mut *subscription, &batch, &topics[1]);
    assert_eq!(forward_until_drained(&mut *subscription, &topics[1]), 50 - batch.len());
    assert_eq!(subscription.lag().unwrap(), 0);
    close(subscription);
}

fn a_member_that_waits_keeps_its_place(fixture: &dyn Fixture) {
    let (bus, topics) = created(fixture, &["in", "out"]);
    publish(&*bus, &topics[0], numbered(0, 300));
    let mut first = subscribe(&*bus, &topics[0]);
    let batch = poll(&mut *first, 10);
    let end = Instant::now() + Duration::from_millis(500);
    while Instant::now() < end {
        first.keep_alive().unwrap();
        std::thread::yield_now();
    }
    forward_all(&mut *first, &batch, &topics[1]);
    assert_eq!(forward_until_drained(&mut *first, &topics[1]), 300 - batch.len());
    close(first);
    assert_same(values(&*bus, &topics[1]), texts(0..300));
}

fn a_reader_sees_the_last_records(fixture: &dyn Fixture) {
    let (bus, topics) = created(fixture, &["in"]);
    publish(&*bus, &topics[0], (0..10).map(|n| ("one key".to_owned(), n.to_string())));
    let mut reader = bus.reader(&topics[0], 3).unwrap();
    let mut found = Vec::new();
    let mut take = |reader: &mut dyn super::Reader, enough: usize| {
        let end = Instant::now() + DEADLINE;
        while found.len() < enough && Instant::now() < end {
            let batch = reader.poll(100, Duration::from_millis(100)).unwrap();
            found.extend(batch.iter().map(|record| String::from_utf8(record.value.unwrap().to_vec()).unwrap()));
        }
        found.clone()
    };
    assert_eq!(take(&mut *reader, 3), ["7", "8", "9"]);
    assert!(reader.at_end());
    publish(&*bus, &topics[0], [("one key".to_owned(), "10".to_owned())]);
    assert_eq!(take(&mut *reader, 4), ["7", "8", "9", "10"]);
    assert!(bus.reader(&topics[0], 0).unwrap().at_end());
}

fn a_reader_goes_on_where_told(fixture: &dyn Fixture) {
    let (bus, topics) = created(fixture, &["in"]);
    publish(&*bus, &topics[0], numbered(0, 200));
    let read = |offsets: &[(i32, i64)]| {
        let end = Instant::now() + DEADLINE;
        let mut reader = bus.reader_from(&topics[0], offsets).unwrap();
        let mut found = BTreeMap::new();
        while !reader.at_end() {
            for record in reader.poll(30, Duration::from_millis(100)).unwrap().iter() {
                let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
                assert_eq!(found.insert((record.partition, record.offset), value), None, "read twice");
            }
            assert!(Instant::now() < end, "the end was not reached");
        }
        found
    };
    let all = read(&[]);
    assert_same(all.values().cloned().collect(), texts(0..200));
    // Half of each partition, and of what is not there, the whole
    let mut last: BTreeMap<i32, i64> = BTreeMap::new();
    last.extend(all.keys().copied());
    let half: Vec<_> = last.iter().map(|(partition, last)| (*partition, last / 2)).collect();
    let behind = |(partition, offset): &(i32, i64)| half.iter().any(|(p, from)| p == partition && offset >= from);
    assert_eq!(read(&half), all.iter().filter(|(place, _)| behind(place)).map(|(p, v)| (*p, v.clone())).collect());
    let beyond: Vec<_> = last.iter().map(|(partition, last)| (*partition, last + 1000)).collect();
    assert_eq!(read(&beyond), all, "a position of another topic");
    // At the end there is nothing, and then what comes
    let ends: Vec<_> = last.iter().map(|(partition, last)| (*partition, last + 1)).collect();
    let mut reader = bus.reader_from(&topics[0], &ends).unwrap();
    publish(&*bus, &topics[0], [("k".to_owned(), "new".to_owned())]);
    let end = Instant::now() + DEADLINE;
    loop {
        let batch = reader.poll(100, Duration::from_millis(100)).unwrap();
        if !batch.is_empty() {
            assert_eq!((batch.len(), batch.get(0).value), (1, Some(&b"new"[..])));
            break;
        }
        assert!(Instant::now() < end);
    }
}

fn a_note_is_published_with_its_inputs(fixture: &dyn Fixture) {
    let (bus, topics) = created(fixture, &["in", "notes"]);
    publish(&*bus, &topics[0], numbered(0, 40));
    let mut subscription = subscribe(&*bus, &topics[0]);
    let batch = poll(&mut *subscription, 40);
    let half = batch.len() / 2;
    // None of these inputs has an output of its own
    for (inputs, text) in [(0..half, "first"), (half..batch.len(), "second")] {
        let mut outbox = Outbox::default();
        if !inputs.is_empty() {
            outbox.note(inputs.start, &topics[1], 5, text.as_bytes());
        }
        subscription.settle(&batch, inputs, &outbox).unwrap();
    }
    close(subscription);
    let mut found = Vec::new();
    read_all(&*bus, &topics[1], |batch| {
        for record in batch.iter() {
            assert_eq!((record.key, record.timestamp), (None, 5));
            found.push(String::from_utf8(record.value.unwrap().to_vec()).unwrap());
        }
    });
    let expected = if half > 0 { vec!["first", "second"] } else { vec!["second"] };
    assert_same(found, expected.into_iter().map(str::to_owned));
}

fn a_fenced_publisher_publishes_all(fixture: &dyn Fixture) {
    let (bus, topics) = created(fixture, &["fenced-a", "fenced-b"]);
    let mut publisher = bus.fenced_publisher(topics[0].as_str()).unwrap();
    let mut headers = Vec::new();
    Headers::push(&mut headers, "x", Some(b"1"));
    Headers::push(&mut headers, "null", None);
    for n in 0..3 {
        let mut outbox = Outbox::default();
        let value = n.to_string();
        let encoded = Headers::from_encoded(&headers);
        outbox.publish_with(&topics[0], 1_700_000_000_000 + n, Some(b"k"), encoded, Some(value.as_bytes()));
        outbox.publish(&topics[1], -1, None, None);
        assert_eq!(publisher.publish(&outbox).unwrap(), None);
        // What is published is there at once, and stays
        assert_eq!(values(&*fixture.bus(), &topics[0]).len(), n as usize + 1);
    }
    assert_eq!(publisher.publish(&Outbox::default()).unwrap(), None);
    let mut found = Vec::new();
    read_all(&*bus, &topics[0], |batch| {
        for record in batch.iter() {
            assert_eq!((record.key, record.headers), (Some(&b"k"[..]), Headers::from_encoded(&headers)));
            found.push((record.timestamp, record.value.unwrap()[0] - b'0'));
        }
    });
    assert_eq!(found, [(1_700_000_000_000, 0), (1_700_000_000_001, 1), (1_700_000_000_002, 2)]);
    let mut tombstones = 0;
    read_all(&*bus, &topics[1], |batch| {
        assert!(batch.iter().all(|r| r.value.is_none() && r.key.is_none() && r.timestamp > 1_700_000_000_000));
        tombstones += batch.len();
    });
    assert_eq!(tombstones, 3);
}

fn a_fenced_publisher_ends_those_before(fixture: &dyn Fixture) {
    let (bus, topics) = created(fixture, &["fenced"]);
    let one = |value: &str| {
        let mut outbox = Outbox::default();
        outbox.publish(&topics[0], 1_700_000_000_000, Some(b"k"), Some(value.as_bytes()));
        outbox
    };
    let name = topics[0].as_str();
    let mut first = bus.fenced_publisher(name).unwrap();
    first.publish(&one("first")).unwrap();
    let mut beside = bus.fenced_publisher(&format!("{name}-beside")).unwrap();
    let other = fixture.bus();
    let mut second = other.fenced_publisher(name).unwrap();
    for _ in 0..2 {
        match first.publish(&one("too late")).unwrap_err() {
            BusError::Fatal(error) => assert!(error.is::<Fenced>(), "{error:#}"),
            BusError::Unavailable(error) => panic!("{error:#}"),
        }
    }
    second.publish(&one("second")).unwrap();
    beside.publish(&one("beside")).unwrap();
    drop(first);
    drop(bus.fenced_publisher(name).unwrap());
    assert!(second.publish(&one("too late")).is_err(), "the name stays with the last, also when that is gone");
    assert_eq!(values(&*bus, &topics[0]), ["first", "second", "beside"]);
}

fn topics_tells_sizes_and_groups(fixture: &dyn Fixture) {
    let (bus, topics) = created(fixture, &["in", "unread"]);
    publish(&*bus, &topics[0], numbered(0, 12));
    let mut subscription = subscribe(&*bus, &topics[0]);
    let batch = poll(&mut *subscription, 12);
    let seen = batch.len() as u64;
    subscription.settle(&batch, 0..batch.len(), &Outbox::default()).unwrap();
    close(subscription);
    let all = bus.topics().unwrap();
    let info = |topic: &Topic| all.iter().find(|info| info.name == topic.as_str()).unwrap();
    assert_eq!(info(&topics[0]).records, 12);
    let groups = &info(&topics[0]).groups;
    assert_eq!(groups.len(), 1, "{groups:?}");
    assert_eq!(groups[0].lag, 12 - seen);
    assert_eq!((info(&topics[1]).records, info(&topics[1]).groups.len()), (0, 0));
    assert!(info(&topics[0]).partitions >= 1);
    let nowhere = Topic::new("nowhere-at-all").unwrap();
    let backlogs = bus.backlogs(&[topics[0].clone(), nowhere, topics[1].clone()]).unwrap();
    let found: BTreeMap<_, _> = backlogs.iter().map(|of| (of.topic.as_str(), (of.records, of.waiting))).collect();
    let expected = [(topics[0].as_str(), (12, Some(12 - seen))), (topics[1].as_str(), (0, None))];
    assert_eq!(found, BTreeMap::from(expected));
}

fn topics_are_created_once(fixture: &dyn Fixture) {
    let (bus, topics) = created(fixture, &["case", "CASE"]);
    publish(&*bus, &topics[0], [("k".to_owned(), "lower".to_owned())]);
    bus.create_topics(&topics).unwrap();
    assert_eq!(values(&*bus, &topics[0]), ["lower"]);
    assert_eq!(values(&*bus, &topics[1]), Vec::<String>::new());
}

fn a_large_record_passes(fixture: &dyn Fixture) {
    let (bus, topics) = created(fixture, &["in", "out"]);
    let value = "x".repeat(900_000);
    publish(&*bus, &topics[0], (0..20).map(|n| (n.to_string(), value.clone())));
    let mut subscription = subscribe(&*bus, &topics[0]);
    assert_eq!(forward_until_drained(&mut *subscription, &topics[1]), 20);
    close(subscription);
    let found = values(&*bus, &topics[1]);
    assert!(found.len() == 20 && found.iter().all(|found| *found == value));
}

/// Members poll, settle parts and die without a word, in an order told by a seed.
fn nothing_is_lost_at_random(fixture: &dyn Fixture) {
    let seed = rand::random();
    eprintln!("conformance: seed {seed}");
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let (bus, topics) = created(fixture, &["in", "out"]);
    publish(&*bus, &topics[0], numbered(0, 400));
    for _ in 0..4 {
        let bus = fixture.bus();
        let mut member = subscribe(&*bus, &topics[0]);
        for _ in 0..random.random_range(1..4) {
            let batch = poll_some(&mut *member);
            let part = random.random_range(0..=batch.len());
            let mut outbox = Outbox::default();
            for index in 0..part {
                outbox.forward(index, &topics[1], |out| out.extend_from_slice(batch.get(index).value.unwrap()));
            }
            member.settle(&batch, 0..part, &outbox).unwrap();
            if part < batch.len() {
                break;
            }
        }
        match random.random_range(0..3) {
            0 => close(member),
            1 => {
                let _ = member.flush(Instant::now() + Duration::from_millis(200));
            }
            _ => drop(member),
        }
    }
    let bus = fixture.bus();
    let mut last = subscribe(&*bus, &topics[0]);
    forward_until_drained(&mut *last, &topics[1]);
    close(last);
    let found = values(&*bus, &topics[1]);
    assert_eq!(found.iter().cloned().collect::<BTreeSet<_>>(), texts(0..400).collect(), "seed {seed}");
    if bus.guarantee() == Guarantee::ExactlyOnce {
        assert_eq!(found.len(), 400, "seed {seed}");
    }
}

fn poll_some(subscription: &mut dyn Subscription) -> Arc<Batch> {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let batch = subscription.poll(60, Duration::from_millis(50)).unwrap();
        if !batch.is_empty() || Instant::now() > end || subscription.drained().unwrap() {
            return Arc::new(batch);
        }
    }
}
