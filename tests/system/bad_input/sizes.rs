//! Records that are too large, coming in and going out: dead letters, and their neighbours are unharmed.

use super::traffic::{EMAIL, KNOWN, LARGEST, all, arrived, assert_no_panic, fleet, header, message, put, write_caches};
use crate::{
    fleet::{DEADLINE, Engine, Fleet},
    support::NewRecord,
};

/// A good record of a known account, about `bytes` long.
fn padded(n: usize, bytes: usize) -> String {
    format!(r#"{{"at":"Source","n":{n},{KNOWN},"pad":"{}"}}"#, "x".repeat(bytes))
}

fn fifty_megabytes_are_a_dead_letter_on(engine: Engine) {
    let Some(fleet) = fleet(engine) else { return };
    let large = padded(0, 50 << 20);
    // 1 MB of key beside a small value is large too, and in order
    let keyed = NewRecord::new(padded(2, 1)).key(vec![b'k'; 1 << 20]);
    put(&fleet, "Source", [NewRecord::new(large.clone()), NewRecord::new(padded(1, 1)), keyed]);
    let slip = header(&fleet, "WhiteList");
    let on_its_way = format!(r#"{{"header":{slip},"payload":{{"email":"{EMAIL}","pad":"{}"}}}}"#, "y".repeat(50 << 20));
    put(&fleet, "WhiteList", [NewRecord::new(on_its_way.clone()), NewRecord::new(message(&fleet, "WhiteList", 3))]);
    let output = fleet.metrobus(&["run", "--drain"]).deadline(DEADLINE).run().assert_code(0);
    assert_no_panic(&output.stderr);
    assert!(!output.stderr.contains("xxxx") && output.stderr.len() < 20_000, "no payload comes into the log");

    let letters = all(&fleet, "Error");
    for (stop, value) in [("busdriver", large), ("whitelist", on_its_way)] {
        let of_stop = |letter: &&crate::support::Record| letter.header("metrobus.stop").as_deref() == Some(stop);
        let letter = letters.iter().find(of_stop).unwrap_or_else(|| panic!("{stop} wrote no dead letter"));
        let expected = format!("{} bytes, more than limits.message_bytes = 10485760", value.len());
        assert_eq!(letter.header("metrobus.reason").unwrap(), expected);
        assert!(letter.value.as_deref() == Some(value.as_bytes()), "{stop}: the value is not what it was");
    }
    assert_eq!(letters.len(), 2);
    let mut arrived = arrived(&fleet);
    arrived.sort();
    let expected = [("Source", 1), ("Source", 2), ("WhiteList", 3)].map(|(at, n)| (at.to_owned(), n));
    assert_eq!(arrived, expected);
    let kept = all(&fleet, "Log");
    assert!(kept.iter().any(|record| record.key.as_ref().is_some_and(|key| *key == [b'k'; 1 << 20])));
}

#[test]
fn fifty_megabytes_are_a_dead_letter_on_sqlite() {
    fifty_megabytes_are_a_dead_letter_on(Engine::Sqlite);
}

#[test]
fn fifty_megabytes_are_a_dead_letter_on_kafka() {
    fifty_megabytes_are_a_dead_letter_on(Engine::AtLeastOnce);
}

#[test]
fn fifty_megabytes_are_a_dead_letter_on_kafka_exactly_once() {
    fifty_megabytes_are_a_dead_letter_on(Engine::ExactlyOnce);
}

#[test]
fn an_output_beyond_the_limit_is_a_dead_letter_on_sqlite() {
    let mut fleet = fleet(Engine::Sqlite).unwrap();
    // Fits at the busdriver, and does not with the slip around it
    let values: Vec<_> = (0..300).map(|n| padded(n, if n % 3 == 1 { 900 } else { 10 })).collect();
    put(&fleet, "Source", values.iter().map(|value| NewRecord::new(value.clone()).key("k")));
    fleet.set("LIMITS__MESSAGE_BYTES", "1000");
    let output = fleet.metrobus(&["run", "--drain"]).run().assert_code(0);
    assert!(
        output.stderr.contains("output is longer than limits.message_bytes = 1000\" count=100"),
        "the log says how many and why:\n{}",
        output.stderr
    );
    assert_refused(&fleet, &values, "output is longer than limits.message_bytes = 1000: ");
}

/// Every third of `values` is a dead letter of the busdriver, the others have arrived in their order.
fn assert_refused(fleet: &Fleet, values: &[String], reason: &str) {
    let letters = all(fleet, "Error");
    let mut found: Vec<_> = letters.iter().map(crate::support::Record::text).collect();
    // The broker's refusals may come in any order
    found.sort();
    let mut expected: Vec<_> = values.iter().skip(1).step_by(3).cloned().collect();
    expected.sort();
    assert!(found == expected, "{} dead letters of {}", found.len(), expected.len());
    for letter in &letters {
        assert_eq!(letter.header("metrobus.stop").as_deref(), Some("busdriver"));
        assert_eq!(letter.key.as_deref(), Some(&b"k"[..]));
        let found = letter.header("metrobus.reason").unwrap();
        assert!(found.starts_with(reason), "{found}");
    }
    let expected: Vec<_> = (0..values.len()).filter(|n| n % 3 != 1).map(|n| ("Source".to_owned(), n as u64)).collect();
    assert_eq!(arrived(fleet), expected);
}

/// The topic that the busdriver sends to takes less than the one that it reads.
fn an_output_that_the_broker_refuses_is_a_dead_letter_on(engine: Engine) {
    let Some(mut fleet) = Fleet::shared(engine) else { return };
    write_caches(&fleet);
    fleet.set("KAFKA__PARTITIONS", "1");
    let kafka = fleet.kafka.as_ref().expect("on Kafka");
    kafka.create_topic(&fleet.topic("Source"), 1, &[("max.message.bytes", &LARGEST.to_string())]);
    kafka.create_topic(&fleet.topic("AddEmail"), 1, &[("max.message.bytes", "20000")]);
    let values: Vec<_> = (0..300).map(|n| padded(n, if n % 3 == 1 { 30_000 } else { 10 })).collect();
    put(&fleet, "Source", values.iter().map(|value| NewRecord::new(value.clone()).key("k")));
    let output = fleet.metrobus(&["run", "--drain"]).deadline(DEADLINE).run().assert_code(0);
    assert_no_panic(&output.stderr);
    assert!(output.stderr.contains("output refused by the bus\" count=100"), "{}", output.stderr);
    assert_refused(&fleet, &values, "output of ");
}

#[test]
fn an_output_that_the_broker_refuses_is_a_dead_letter_on_kafka() {
    an_output_that_the_broker_refuses_is_a_dead_letter_on(Engine::AtLeastOnce);
}

#[test]
fn an_output_that_the_broker_refuses_is_a_dead_letter_on_kafka_exactly_once() {
    an_output_that_the_broker_refuses_is_a_dead_letter_on(Engine::ExactlyOnce);
}

#[test]
fn the_pusher_sends_large_lines_and_says_which_are_no_json() {
    let fleet = fleet(Engine::Sqlite).unwrap();
    let mut lines = Vec::new();
    for n in 0..12 {
        lines.extend_from_slice(padded(n, 5 << 20).as_bytes());
        lines.extend_from_slice(if n % 2 == 0 { b"\n\xff\n{\"a\":\n\n" } else { b"\r\n" });
    }
    fleet.scratch.write("large.ndjson", &lines);
    let output = fleet.metrobus(&["pusher", "--from", "large.ndjson", "--rate", "0"]).run().assert_code(0);
    assert!(output.stderr.contains("12 sent to Source, 12 confirmed, 12 bad lines skipped"), "{}", output.stderr);
    assert!(output.stderr.contains("large.ndjson: line 2: not UTF-8; skipped"), "{}", output.stderr);
    assert!(output.stderr.contains("large.ndjson: line 3: not a JSON object; skipped"), "{}", output.stderr);
    assert_eq!(all(&fleet, "Source").len(), 12);
}
