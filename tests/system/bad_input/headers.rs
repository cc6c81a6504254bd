//! Keys, record headers and timestamps as other producers write them: whatever they are, they travel along.

use super::traffic::{KNOWN, all, arrived, assert_no_panic, fleet, put};
use crate::{
    fleet::{DEADLINE, Engine},
    support::{NewRecord, Record},
};

/// Good and broken records with odd headers: number, whether it is broken, the record.
fn odd() -> Vec<NewRecord> {
    let good = |n: usize| NewRecord::new(format!(r#"{{"at":"Source","n":{n},{KNOWN}}}"#));
    let with = |mut record: NewRecord| {
        record = record.header("trace", *b"\xff\x00").header("trace", "second").header("", "no name");
        record.headers.push(("null".into(), None));
        record = record.header("empty", "").header("ünï\n\u{1b}", "x").header(&"long".repeat(1000), "x");
        // What only a dead letter should say of itself
        record.header("metrobus.reason", "forged").header("metrobus.stop", "forged").header("metrobus.x", "forged")
    };
    let many = |record: NewRecord| (0..1000).fold(record, |record, n| record.header(&format!("h{n}"), n.to_string()));
    vec![
        with(good(0)).key("k"),
        with(NewRecord::new("broken")).key(*b"\xff\xfe\x00"),
        many(good(1)).key(""),
        many(NewRecord::tombstone()),
        good(2).timestamp(2),
        good(3).timestamp(1),
    ]
}

fn odd_headers_travel_along_on(engine: Engine) {
    let Some(fleet) = fleet(engine) else { return };
    let records = odd();
    put(&fleet, "Source", records.clone());
    let output = fleet.metrobus(&["run", "--drain"]).deadline(DEADLINE).run().assert_code(0);
    assert_no_panic(&output.stderr);

    let log = all(&fleet, "Log");
    let good: Vec<_> = [0, 2, 4, 5].into_iter().map(|n: usize| &records[n]).collect();
    assert_eq!(log.len(), good.len());
    for (found, sent) in log.iter().zip(good) {
        assert_eq!(found.key, sent.key);
        assert_eq!(found.headers, sent.headers, "every header, in its order");
        assert!(sent.timestamp.is_none_or(|timestamp| timestamp == found.timestamp), "{}", found.timestamp);
    }
    assert_eq!(arrived(&fleet).len(), 4);

    let letters = all(&fleet, "Error");
    assert_eq!(letters.len(), 2);
    let own = |letter: &Record| letter.headers.iter().filter(|(name, _)| name.starts_with("metrobus.")).count();
    for (found, sent) in letters.iter().zip([&records[1], &records[3]]) {
        assert_eq!((&found.key, &found.value), (&sent.key, &sent.value));
        let kept = |(name, _): &&(String, Option<Vec<u8>>)| !name.starts_with("metrobus.");
        let (found_kept, sent_kept): (Vec<_>, Vec<_>) =
            (found.headers.iter().filter(kept).collect(), sent.headers.iter().filter(kept).collect());
        assert_eq!(found_kept, sent_kept);
        assert_eq!(own(found), 8, "no forged one is left");
        assert_eq!(found.header("metrobus.stop").as_deref(), Some("busdriver"));
    }
    // And a person can look at them
    assert_eq!(fleet.tail(&fleet.topic("Error")).len(), 2);
}

#[test]
fn odd_headers_travel_along_on_sqlite() {
    odd_headers_travel_along_on(Engine::Sqlite);
}

#[test]
fn odd_headers_travel_along_on_kafka() {
    odd_headers_travel_along_on(Engine::AtLeastOnce);
}

#[test]
fn times_before_1970_and_far_ahead_are_kept_on_sqlite() {
    let fleet = fleet(Engine::Sqlite).unwrap();
    let times = [i64::MIN, -2, 0, 4_102_444_800_000, i64::MAX];
    let good = |n: usize| format!(r#"{{"at":"Source","n":{n},{KNOWN}}}"#);
    put(&fleet, "Source", times.iter().enumerate().map(|(n, time)| NewRecord::new(good(n)).timestamp(*time)));
    put(&fleet, "Source", times.map(|time| NewRecord::new("broken").timestamp(time)));
    let output = fleet.metrobus(&["run", "--drain"]).run().assert_code(0);
    assert_no_panic(&output.stderr);
    assert_eq!(arrived(&fleet).len(), times.len());
    // A time before the epoch is one that the bus does not know, and stamps
    for topic in ["Log", "Error"] {
        for (record, time) in all(&fleet, topic).iter().zip(times) {
            assert!(if time < 0 { record.timestamp > 1_700_000_000_000 } else { record.timestamp == time }, "{time}");
        }
    }
    assert_no_panic(&fleet.metrobus(&["topics"]).run().assert_code(0).stderr);
    assert_eq!(fleet.tail("Source").len(), 2 * times.len());
}

/// A record whose time the next topic refuses (the broker's limit is an hour ahead) cannot go on as it is.
fn a_time_that_the_broker_refuses_is_a_dead_letter_on(engine: Engine) {
    let Some(mut fleet) = crate::fleet::Fleet::shared(engine) else { return };
    super::traffic::write_caches(&fleet);
    fleet.set("KAFKA__PARTITIONS", "1");
    let kafka = fleet.kafka.as_ref().expect("on Kafka");
    let any_time = ("message.timestamp.after.max.ms", "9223372036854775807");
    kafka.create_topic(&fleet.topic("Source"), 1, &[any_time]);
    let good = |n: usize| NewRecord::new(format!(r#"{{"at":"Source","n":{n},{KNOWN}}}"#));
    let ahead = 4_102_444_800_000;
    put(&fleet, "Source", [good(0), good(1).timestamp(ahead), good(2), NewRecord::new("broken").timestamp(ahead)]);
    let output = fleet.metrobus(&["run", "--drain"]).deadline(DEADLINE).run().assert_code(0);
    assert_no_panic(&output.stderr);
    let numbers: Vec<_> = arrived(&fleet).into_iter().map(|(_, n)| n).collect();
    let mut values: Vec<_> = all(&fleet, "Error").iter().map(Record::text).collect();
    values.sort();
    assert!(values.contains(&"broken".to_owned()));
    // Handled either way, and its neighbours are unharmed
    assert!(
        numbers == [0, 1, 2] && values.len() == 1 || numbers == [0, 2] && values.len() == 2,
        "{numbers:?} {values:?}"
    );
}

#[test]
fn a_time_that_the_broker_refuses_is_a_dead_letter_on_kafka() {
    a_time_that_the_broker_refuses_is_a_dead_letter_on(Engine::AtLeastOnce);
}

#[test]
fn a_time_that_the_broker_refuses_is_a_dead_letter_on_kafka_exactly_once() {
    a_time_that_the_broker_refuses_is_a_dead_letter_on(Engine::ExactlyOnce);
}
