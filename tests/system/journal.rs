//! The journal: what it says of each message, and what is found in it, on every engine.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use metrobus::journal::{self, Outcome};
use serde_json::Value;

use crate::{
    fleet::{DEADLINE, Engine, Fleet},
    support::{Output, Signal, wait_until},
};

/// A hop as the journal's topic has it.
#[derive(Clone, Debug)]
pub struct Hop {
    pub id: Option<String>,
    pub stop: String,
    /// Partition and offset.
    pub place: (i32, i64),
    pub outcome: Outcome,
}

/// All that the journal's topic holds.
pub fn hops(fleet: &Fleet) -> Vec<Hop> {
    let mut hops = Vec::new();
    for record in fleet.tail(&fleet.topic("Journal")) {
        let encoded = record["value_base64"].as_str().map(|text| BASE64_STANDARD.decode(text).expect("base64"));
        let value = encoded.unwrap_or_else(|| record["value"].as_str().expect("a value").into());
        let entry = journal::Entry::read(&value).expect("an entry");
        for hop in entry.hops() {
            let hop = hop.expect("a hop");
            let id = (!hop.id.is_none()).then(|| hop.id.to_string());
            let (stop, place) = (entry.stop.to_owned(), (entry.partition, hop.offset));
            hops.push(Hop { id, stop, place, outcome: hop.outcome });
        }
    }
    hops
}

/// Ids of the messages that the busdriver has sent on.
fn entered(fleet: &Fleet) -> BTreeSet<String> {
    let id = |value: String| {
        let value: Value = serde_json::from_str(&value).expect("JSON");
        value["header"]["id"].as_str().expect("an id").to_owned()
    };
    fleet.values(&fleet.topic("AddEmail")).into_iter().map(id).collect()
}

/// Every one of the `records` of Source has a hop, and every message that entered comes to an end: where the bus promises
/// exactly once to no second one, and no hop stands there twice. Gives how many came to which end.
pub fn assert_every_journey_has_its_end(fleet: &Fleet, records: usize, what: &str) -> BTreeMap<Outcome, usize> {
    let (hops, ids) = (hops(fleet), entered(fleet));
    let source: Vec<_> = hops.iter().filter(|hop| hop.stop == "busdriver").collect();
    let places: BTreeSet<_> = source.iter().map(|hop| hop.place).collect();
    assert_eq!(places.len(), records, "{what}: records that the busdriver has judged");
    let mut ends: BTreeMap<&str, usize> = BTreeMap::new();
    for hop in hops.iter().filter(|hop| hop.outcome.is_end()) {
        if let Some(id) = &hop.id {
            *ends.entry(id).or_default() += 1;
        }
    }
    let endless: Vec<_> = ids.iter().filter(|id| !ends.contains_key(id.as_str())).take(5).collect();
    assert!(endless.is_empty(), "{what}: no end of {endless:?}");
    assert!(ends.keys().all(|id| ids.contains(*id)), "{what}: an end of what never entered");
    if fleet.engine != Engine::AtLeastOnce {
        let twice: Vec<_> = ends.iter().filter(|(_, count)| **count > 1).take(5).collect();
        assert!(twice.is_empty(), "{what}: several ends of {twice:?}");
        let begun: BTreeSet<_> = source.iter().filter_map(|hop| hop.id.clone()).collect();
        assert!(begun == ids, "{what}: the journal and the bus tell of other messages");
        let all: BTreeSet<_> = hops.iter().map(|hop| (&hop.stop, hop.place)).collect();
        assert_eq!(all.len(), hops.len(), "{what}: a hop stands there twice");
    }
    let mut outcomes = BTreeMap::new();
    for hop in hops.iter().filter(|hop| hop.outcome.is_end()) {
        *outcomes.entry(hop.outcome).or_default() += 1;
    }
    outcomes
}

/// A fleet with five accounts, of which 1 to 4 have emails and 1 and 2 are listed.
fn fleet(engine: Engine) -> Option<Fleet> {
    let mut fleet = Fleet::shared(engine)?;
    let emails: String = (1..=4).map(|account| format!("{account},user{account}@example.com\n")).collect();
    fleet.scratch.write("data/emails.dat", emails);
    fleet.scratch.write("data/whitelist.dat", "user1@example.com\nuser2@example.com\n");
    fleet.set("JOURNAL__FIELDS", "account_number,name");
    Some(fleet)
}

fn push(fleet: &Fleet, lines: &str) {
    fleet.metrobus(&["pusher", "--from", "-", "--rate", "0"]).stdin(lines).run().assert_code(0);
}

fn track(fleet: &Fleet, arguments: &[&str]) -> Vec<Value> {
    fleet.metrobus(&[&["track", "--json"], arguments].concat()).run().assert_code(0).json_lines()
}

fn journeys(fleet: &Fleet, arguments: &[&str]) -> Vec<Value> {
    fleet.metrobus(&[&["journeys", "--json"], arguments].concat()).run().assert_code(0).json_lines()
}

/// Stop and verdict of each hop.
fn way(journey: &Value) -> Vec<String> {
    let hops = journey["hops"].as_array().expect("hops").iter();
    hops.map(|hop| format!("{} {}", hop["stop"].as_str().unwrap(), hop["verdict"].as_str().unwrap())).collect()
}

fn a_journey_is_told(engine: Engine) {
    let Some(fleet) = fleet(engine) else { return };
    let lines = (1..=5).map(|account| format!("{{\"account_number\":{account},\"name\":\"n{account}\"}}\n"));
    push(&fleet, &(lines.collect::<String>() + "{\"account_number\":6,\"header\":{},\"payload\":\"text\"}\n"));
    fleet.metrobus(&["busdriver", "--drain"]).run().assert_code(0);

    // On its way, then at its end; found by field, key, id and place alike
    let begun = track(&fleet, &["--field", "account_number=3"]).remove(0);
    assert_eq!((way(&begun), &begun["ended"]), (vec!["busdriver forwarded".to_owned()], &Value::Bool(false)));
    assert_eq!(begun["next"], *fleet.topic("AddEmail"));
    fleet.drain("a");
    let journey = track(&fleet, &["--key", "3"]).remove(0);
    assert_eq!(way(&journey), ["busdriver forwarded", "contactpoint forwarded", "whitelist dropped"]);
    assert_eq!((&journey["ended"], &journey["verdict"]), (&Value::Bool(true), &Value::from("dropped")));
    assert_eq!(journey["reason"], "email is not on the whitelist");
    assert_eq!(journey["hops"][0]["fields"], serde_json::json!({"account_number": "3", "name": "n3"}));
    let id = journey["id"].as_str().expect("an id");
    let first = &journey["hops"][0];
    let place = format!("{}/{}/{}", first["topic"].as_str().unwrap(), first["partition"], first["offset"]);
    for arguments in [&[id][..], &[&id.to_uppercase()], &["--field", "name=n3"], &[&place]] {
        assert_eq!(track(&fleet, arguments), std::slice::from_ref(&journey), "{arguments:?}");
    }
    assert_eq!(way(&track(&fleet, &["--key", "1"])[0]).last().unwrap(), "logstop finished");
    // What never was a message has no id: its key or its place finds it
    let broken = track(&fleet, &["--key", "6"]).remove(0);
    assert_eq!(way(&broken), ["busdriver rejected"]);
    assert_eq!((&broken["id"], &broken["reason"]), (&"key 6".into(), &"payload is not a JSON object".into()));
    assert_eq!(broken["next"], *fleet.topic("Error"));

    let text = fleet.metrobus(&["track", id]).run().assert_code(0).stdout_text();
    let head: Vec<_> = text.lines().take(6).collect();
    let marks = ["key 3", "account_number 3", "name n3", "dropped at whitelist: email is not on the whitelist"];
    assert_eq!(head, [&[id], &marks[..], &[""]].concat(), "{text}");
    assert!(text.lines().last().unwrap().ends_with("1  dropped: email is not on the whitelist"), "{text}");

    let row = |count: &Value| {
        let text = |name: &str| count[name].as_str().unwrap_or("-").to_owned();
        (text("stop"), text("verdict"), text("reason"), count["count"].as_u64().unwrap())
    };
    let found: Vec<_> = journeys(&fleet, &[]).iter().map(row).collect();
    let expected = [
        ("busdriver", "forwarded", "-", 5),
        ("busdriver", "rejected", "payload is not a JSON object", 1),
        ("contactpoint", "forwarded", "-", 4),
        ("contactpoint", "dropped", "unknown account", 1),
        ("logstop", "finished", "-", 2),
        ("whitelist", "forwarded", "-", 2),
        ("whitelist", "dropped", "email is not on the whitelist", 2),
    ];
    let expected: Vec<_> = expected.map(|(a, b, c, n)| (a.to_owned(), b.to_owned(), c.to_owned(), n)).into();
    assert_eq!(found, expected);
    let filter =
        ["--stop", "whitelist", "--verdict", "dropped", "--reason", "WHITE", "--since", "1h", "--samples", "9"];
    let dropped = journeys(&fleet, &filter).remove(0);
    assert_eq!(dropped["samples"].as_array().unwrap().len(), 2);
    assert!(dropped["samples"].as_array().unwrap().contains(&Value::from(id)));

    let ends = assert_every_journey_has_its_end(&fleet, 6, "six messages");
    assert_eq!(ends, BTreeMap::from([(Outcome::Finished, 2), (Outcome::Dropped, 3), (Outcome::Rejected, 1)]));
}

#[test]
fn a_journey_is_told_on_sqlite() {
    a_journey_is_told(Engine::Sqlite);
}

#[test]
fn a_journey_is_told_on_kafka() {
    a_journey_is_told(Engine::AtLeastOnce);
}

#[test]
fn a_journey_is_told_on_kafka_exactly_once() {
    a_journey_is_told(Engine::ExactlyOnce);
}

/// What is told where nothing is found.
fn said(output: &Output) -> (String, &str) {
    (output.stdout_text(), output.stderr.trim_end())
}

#[test]
fn what_is_not_there_is_said_in_a_sentence() {
    let mut fleet = fleet(Engine::Sqlite).expect("SQLite is always there");
    let nothing = |what: &str| (String::new(), format!("metrobus: the journal has nothing of {what}"));
    for (arguments, what) in [
        (&["nobody"][..], "a message \"nobody\""),
        (&["0192d5a0-7c11-7000-8000-0123456789ab"], "a message \"0192d5a0-7c11-7000-8000-0123456789ab\""),
        (&["Source/0/7"], "a message \"Source/0/7\""),
        (&["Source/x/7/"], "a message \"Source/x/7/\""),
        (&["--key", "\u{1b}[2J"], "the key \"\\u{1b}[2J\""),
        (&["--field", "name=x"], "the field \"name\" with the value \"x\""),
    ] {
        let output = fleet.metrobus(&[&["track"], arguments].concat()).run().assert_code(1);
        let (stdout, stderr) = nothing(what);
        assert_eq!(said(&output), (stdout, stderr.as_str()));
    }
    let output = fleet.metrobus(&["track", "--field", "email=x"]).run().assert_code(1);
    let expected = "metrobus: the journal notes no field \"email\": journal.fields names those that it does (account_number, name)";
    assert_eq!(said(&output).1, expected);
    let output = fleet.metrobus(&["journeys", "--stop", "nowhere"]).run().assert_code(0);
    assert_eq!(said(&output), ("nothing in the journal matches\n".to_owned(), ""));
    assert_eq!(journeys(&fleet, &["--reason", "none"]), Vec::<Value>::new());

    fleet.set("JOURNAL__LEVEL", "off");
    push(&fleet, "{\"account_number\":1}\n");
    fleet.drain("a");
    let output = fleet.metrobus(&["track", "x"]).run().assert_code(1);
    assert!(output.stderr.ends_with("; it is off (journal.level = \"off\")\n"), "{}", output.stderr);
    assert!(fleet.tail("Journal").is_empty());
    fleet.set("JOURNAL__LEVEL", "ends");
    push(&fleet, "{\"account_number\":1}\n{\"account_number\":5}\n");
    fleet.drain("a");
    let ends: BTreeSet<_> = hops(&fleet).iter().map(|hop| (hop.stop.clone(), hop.outcome)).collect();
    let expected = [("contactpoint", Outcome::Dropped), ("logstop", Outcome::Finished)];
    assert_eq!(ends, expected.map(|(stop, outcome)| (stop.to_owned(), outcome)).into());
    assert_eq!(way(&track(&fleet, &["--field", "account_number=5"])[0]), ["contactpoint dropped"]);
}

#[test]
fn a_foreign_record_is_counted_and_skipped() {
    let fleet = fleet(Engine::Sqlite).expect("SQLite is always there");
    push(&fleet, "{\"account_number\":1}\n");
    fleet.drain("a");
    let call = fleet.metrobus(&["pusher", "--from", "-", "--rate", "0"]).env("METROBUS__PUSHER__TOPIC", "Journal");
    call.stdin("{\"foreign\":1}\n{\"foreign\":2}\n").run().assert_code(0);
    push(&fleet, "{\"account_number\":1}\n");
    fleet.drain("a");
    let output = fleet.metrobus(&["track", "--key", "1"]).run().assert_code(0);
    assert!(output.stderr.contains("2 records of Journal are no entries of the journal"), "{}", output.stderr);
    assert_eq!(track(&fleet, &["--key", "1"]).len(), 2);
}

#[test]
fn the_index_is_made_anew_from_another_bus_or_where_it_is_gone() {
    let fleet = fleet(Engine::Sqlite).expect("SQLite is always there");
    push(&fleet, "{\"account_number\":1}\n");
    fleet.drain("a");
    assert_eq!(track(&fleet, &["--key", "1"]).len(), 1);
    for file in ["journal-index.db", "journal-index.db-wal", "journal-index.db-shm"] {
        let _ = fs::remove_file(fleet.scratch.path("data").join(file));
    }
    assert_eq!(track(&fleet, &["--key", "1"]).len(), 1);
    for file in ["metrobus.db", "metrobus.db-wal", "metrobus.db-shm"] {
        let _ = fs::remove_file(fleet.scratch.path("data").join(file));
    }
    push(&fleet, "{\"account_number\":2}\n");
    fleet.drain("a");
    assert_eq!(track(&fleet, &["--key", "2"]).len(), 1);
    fleet.metrobus(&["track", "--key", "1"]).run().assert_code(1);
    fleet.scratch.write("data/journal-index.db", "x".repeat(10_000));
    let output = fleet.metrobus(&["track", "--key", "2"]).run().assert_code(1);
    assert!(output.stderr.contains("data/journal-index.db: it is damaged"), "{}", output.stderr);
}

/// Killed while it reads, again and again, and others read at the same time: every hop is in the index once.
fn the_index_takes_each_hop_once(engine: Engine) {
    let Some(mut fleet) = fleet(engine) else { return };
    // Many small entries
    fleet.set("BATCH", "3");
    let lines: String = (0..3000).map(|n| format!("{{\"account_number\":{}}}\n", n % 6)).collect();
    push(&fleet, &lines);
    let pushed = fleet.metrobus(&["run", "--drain"]).spawn();
    let total = |fleet: &Fleet| {
        let counts = journeys(fleet, &["--stop", "busdriver"]);
        counts.iter().map(|count| count["count"].as_u64().expect("a count")).sum::<u64>()
    };
    for _ in 0..5 {
        let mut role = fleet.metrobus(&["journal"]).spawn();
        let before = total(&fleet);
        wait_until("some more", DEADLINE, || (total(&fleet) > before || before == 3000).then_some(()));
        role.kill9();
    }
    pushed.wait(DEADLINE).assert_code(0);
    let mut role = fleet.metrobus(&["journal"]).spawn();
    wait_until("all of it", DEADLINE, || (total(&fleet) >= 3000).then_some(()));
    role.signal(Signal::TERM);
    role.wait(DEADLINE).assert_code(0);
    fleet.metrobus(&["journal", "--drain"]).run().assert_code(0);
    let counted: u64 = journeys(&fleet, &[]).iter().map(|count| count["count"].as_u64().expect("a count")).sum();
    assert_eq!(counted as usize, hops(&fleet).len());
}

#[test]
fn the_index_takes_each_hop_once_on_sqlite() {
    the_index_takes_each_hop_once(Engine::Sqlite);
}

#[test]
fn the_index_takes_each_hop_once_on_kafka() {
    the_index_takes_each_hop_once(Engine::AtLeastOnce);
}
