//! Any records on any topic of a fleet, and all records back, byte for byte and past the binary.

use std::{path::PathBuf, time::Duration};

use metrobus::{
    bus::{self, Headers, Topic, sqlite::pack::Pack},
    config::Config,
};
use rusqlite::{Connection, TransactionBehavior, params};

use crate::{
    fleet::{Engine, Fleet, TOPICS},
    support::{NewRecord, Record, produce_with},
};

/// The largest value that these tests put on a topic, and some room.
pub const LARGEST: usize = 60 << 20;

/// An account that has an email on the whitelist.
pub const KNOWN: &str = r#""account_number":1000001"#;

/// The email of [`KNOWN`].
pub const EMAIL: &str = "user1@example.com";

/// Writes emails.dat and whitelist.dat with [`KNOWN`], and one account more that is not listed, 1000002.
pub fn write_caches(fleet: &Fleet) {
    fleet.scratch.write("data/emails.dat", format!("1000001,{EMAIL}\n1000002,other@example.com\n"));
    fleet.scratch.write("data/whitelist.dat", format!("{EMAIL}\n"));
}

/// A fleet whose topics have one partition and take large records, with its caches.
pub fn fleet(engine: Engine) -> Option<Fleet> {
    let mut fleet = Fleet::shared(engine)?;
    write_caches(&fleet);
    fleet.set("KAFKA__PARTITIONS", "1");
    if let Some(kafka) = &fleet.kafka {
        for name in TOPICS {
            kafka.create_topic(&fleet.topic(name), 1, &[("max.message.bytes", &LARGEST.to_string())]);
        }
    }
    Some(fleet)
}

/// A message about a known account on its way, at the stop that reads `at`.
pub fn message(fleet: &Fleet, at: &str, n: usize) -> String {
    format!(r#"{{"header":{},"payload":{{"at":"{at}","n":{n},{KNOWN},"email":"{EMAIL}"}}}}"#, header(fleet, at))
}

/// The header of a message at the stop that reads `at`.
pub fn header(fleet: &Fleet, at: &str) -> String {
    let index = TOPICS.iter().position(|topic| *topic == at).expect("a topic");
    let quoted = |topics: &[&str]| {
        topics.iter().map(|topic| format!("\"{}\"", fleet.topic(topic))).collect::<Vec<_>>().join(",")
    };
    let to_come: Vec<_> = TOPICS[index + 1..].iter().rev().copied().collect();
    let behind = if index == 0 { &[] } else { &TOPICS[1..=index] };
    format!(r#"{{"route":[{}],"historical_route":[{}]}}"#, quoted(&to_come), quoted(behind))
}

/// Appends the records to a topic, in this order.
pub fn put(fleet: &Fleet, topic: &str, records: impl IntoIterator<Item = NewRecord>) {
    let topic = fleet.topic(topic);
    match &fleet.kafka {
        Some(kafka) => {
            let mut client = kafka.client();
            client.set("message.max.bytes", LARGEST.to_string());
            produce_with(&client, &topic, records).unwrap_or_else(|error| panic!("produce to {topic}: {error}"));
        }
        None => insert(fleet, &topic, records),
    }
}

/// Past the engine, which has no way to write other producers' headers and times.
fn insert(fleet: &Fleet, topic: &str, records: impl IntoIterator<Item = NewRecord>) {
    bus::open(&config(fleet)).unwrap().create_topics(&[Topic::new(topic).unwrap()]).unwrap();
    let mut connection = Connection::open(database(fleet)).unwrap();
    connection.busy_timeout(Duration::from_secs(10)).unwrap();
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    let id: i64 = transaction.query_row("SELECT id FROM topics WHERE name = ?1", [topic], |row| row.get(0)).unwrap();
    let mut pack = Pack::default();
    for record in records {
        let mut headers = Vec::new();
        for (name, value) in &record.headers {
            Headers::push(&mut headers, name, value.as_deref());
        }
        pack.push(&bus::Record {
            partition: 0,
            offset: 0,
            timestamp: record.timestamp.unwrap_or(1_700_000_000_000),
            key: record.key.as_deref(),
            headers: Headers::from_encoded(&headers),
            value: record.value.as_deref(),
        });
    }
    pack.seal();
    let sql = format!("INSERT INTO topic_{id} SELECT COALESCE(MAX(last), -1) + ?1, ?1, ?2 FROM topic_{id}");
    transaction.execute(&sql, params![pack.count(), pack.bytes()]).unwrap();
    transaction.commit().unwrap();
}

pub fn database(fleet: &Fleet) -> PathBuf {
    let set = fleet.environment().iter().rev().find(|(name, _)| name == "METROBUS__SQLITE__PATH");
    fleet.scratch.path(set.map_or("data/metrobus.db", |(_, path)| path))
}

/// The fleet's configuration, for the library in this process.
pub fn config(fleet: &Fleet) -> Config {
    let here = ("METROBUS__SQLITE__PATH".to_owned(), database(fleet).display().to_string());
    Config::load(None, fleet.environment().iter().cloned().chain([here])).unwrap()
}

/// Every record of a topic, none where there is no such topic. On Kafka a client of the test's own reads them, those
/// of open or undone transactions left out.
pub fn all(fleet: &Fleet, topic: &str) -> Vec<Record> {
    let topic = fleet.topic(topic);
    if let Some(kafka) = &fleet.kafka {
        return if kafka.partitions(&topic).is_some() { kafka.read_all(&topic, true) } else { Vec::new() };
    }
    let bus = bus::open(&config(fleet)).unwrap();
    let Ok(mut reader) = bus.reader(&Topic::new(&topic).unwrap(), u64::MAX) else { return Vec::new() };
    let mut records = Vec::new();
    while !reader.at_end() {
        let batch = reader.poll(1000, Duration::ZERO).unwrap();
        records.extend(batch.iter().map(|record| Record {
            partition: record.partition,
            offset: record.offset,
            key: record.key.map(<[u8]>::to_vec),
            headers: record.headers.into_iter().map(|(name, value)| (name.into(), value.map(<[u8]>::to_vec))).collect(),
            value: record.value.map(<[u8]>::to_vec),
            timestamp: record.timestamp,
        }));
    }
    records
}

/// The place and number of each message that logstop wrote, in the order written.
pub fn arrived(fleet: &Fleet) -> Vec<(String, u64)> {
    let place = |line: &str| {
        let value: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        let payload = &value["payload"];
        Some((payload["at"].as_str()?.to_owned(), payload["n"].as_u64()?))
    };
    let written = fleet.scratch.read("log.ndjson");
    // The last line may still be on its way
    let lines = written.rsplit_once('\n').map_or("", |(lines, _)| lines);
    lines.lines().filter_map(place).collect()
}

/// Fails where a process told of a panic.
#[track_caller]
pub fn assert_no_panic(said: &str) {
    assert!(!said.contains("panicked"), "it panicked:\n{said}");
}
