//! Journeys recorded from the Python original: each hop comes out the same, alone and as a whole.

use std::collections::BTreeMap;

use metrobus::{
    bus::{Bus, Outbox, Topic, memory::MemoryBus},
    config::Config,
    drain::Drain,
    roles::{Context, Kind, ROLES},
    shutdown::Shutdown,
};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use crate::{
    fleet::{Engine, Fleet},
    support::Scratch,
};

#[derive(Deserialize)]
struct Recording {
    emails: BTreeMap<String, String>,
    whitelist: Vec<String>,
    journeys: Vec<Journey>,
}

/// A value per topic travelled; the last stop dropped it, or it arrived.
#[derive(Deserialize)]
struct Journey {
    journey: String,
    topics: Vec<String>,
    values: Vec<String>,
    dropped_by: Option<String>,
}

/// What one stop made of one value: where it went and as what.
struct Hop<'a> {
    journey: &'a str,
    value: &'a str,
    then: Option<(&'a str, &'a str)>,
}

const STOPS: [(&str, &str); 3] = [("busdriver", "Source"), ("contactpoint", "AddEmail"), ("whitelist", "WhiteList")];

fn recording() -> Recording {
    serde_json::from_str(include_str!("vectors/journeys.json")).expect("the recording is JSON")
}

impl Recording {
    fn hops(&self, topic: &str) -> Vec<Hop<'_>> {
        let mut hops = Vec::new();
        for journey in &self.journeys {
            let Some(at) = journey.topics.iter().position(|at| at == topic) else { continue };
            let next = journey.topics.get(at + 1).zip(journey.values.get(at + 1));
            let then = next.map(|(topic, value)| (topic.as_str(), value.as_str()));
            hops.push(Hop { journey: &journey.journey, value: &journey.values[at], then });
        }
        hops
    }

    fn write_caches(&self, folder: &Scratch) {
        let emails: String = self.emails.iter().map(|(account, email)| format!("{account},{email}\n")).collect();
        folder.write("data/emails.dat", emails);
        folder.write("data/whitelist.dat", self.whitelist.join("\n") + "\n");
    }
}

/// The same as recorded, but for our own header field, and every byte of the incoming payload kept.
fn assert_same_hop(hop: &Hop<'_>, out: &str) {
    #[derive(Deserialize)]
    struct Envelope<'a> {
        #[serde(borrow)]
        payload: &'a RawValue,
    }
    let (_, expected) = hop.then.expect("the message went on");
    let mut found: Value = serde_json::from_str(out).expect("JSON");
    let id = found["header"].as_object_mut().expect("a header").remove("id");
    if hop.value.contains("\"header\"") {
        assert_eq!(id, None, "only the busdriver gives ids");
    } else {
        assert_eq!(id.as_ref().and_then(Value::as_str).map(str::len), Some(36), "{out}");
    }
    assert_eq!(found, serde_json::from_str::<Value>(expected).unwrap(), "{}", hop.journey);
    let payload = |text: &'_ str| match serde_json::from_str::<Envelope<'_>>(text) {
        Ok(envelope) => envelope.payload.get().to_owned(),
        Err(_) => text.to_owned(),
    };
    let before = payload(hop.value);
    let kept = before.strip_suffix('}').expect("an object");
    assert!(payload(out).starts_with(kept), "{}: {kept} is not kept in {out}", hop.journey);
}

fn assert_same_hops(stop: &str, hops: &[Hop<'_>], outputs: &BTreeMap<String, Vec<String>>) {
    let mut outputs: BTreeMap<_, _> = outputs.iter().map(|(topic, values)| (topic.as_str(), values.iter())).collect();
    for hop in hops {
        if let Some((topic, _)) = hop.then {
            let out = outputs.get_mut(topic).and_then(Iterator::next);
            assert_same_hop(hop, out.unwrap_or_else(|| panic!("{stop}: {} did not come out", hop.journey)));
        }
    }
    for (topic, mut rest) in outputs {
        assert_eq!(rest.next(), None, "{stop}: {topic} holds more than was recorded");
    }
}

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

#[test]
fn the_recording_is_whole() {
    let recording = recording();
    let hops: usize = STOPS.iter().map(|(_, topic)| recording.hops(topic).len()).sum();
    assert_eq!((recording.journeys.len(), hops), (4, 11));
    for journey in &recording.journeys {
        assert_eq!(journey.topics.len() == 4, journey.dropped_by.is_none(), "{}", journey.journey);
    }
}

#[test]
fn hops_come_out_as_recorded_through_the_library() {
    let (recording, folder) = (recording(), Scratch::new());
    recording.write_caches(&folder);
    let path = |name: &str| folder.path(name).into_os_string();
    let settings = [
        ("METROBUS__CONTACTPOINT__FILE", path("data/emails.dat")),
        ("METROBUS__WHITELIST__FILE", path("data/whitelist.dat")),
    ];
    let config = Config::load(None, settings).unwrap();
    let context = Context::new(config, Shutdown::default(), None).unwrap();
    for (stop, from) in STOPS {
        let hops = recording.hops(from);
        let bus = MemoryBus::default();
        let mut outbox = Outbox::default();
        for hop in &hops {
            outbox.publish(&topic(from), 1, None, Some(hop.value.as_bytes()));
        }
        bus.publisher().unwrap().publish(&outbox).unwrap();
        let role = ROLES.iter().find(|role| role.name == stop).unwrap();
        let Kind::Stop(build) = role.kind else { panic!("{stop} is a stop") };
        build(&context).unwrap().drain(Drain::default().join()).run(&bus, &Shutdown::default()).unwrap();
        let mut outputs = BTreeMap::new();
        for to in ["AddEmail", "WhiteList", "Log", "Error"].into_iter().filter(|to| *to != from) {
            let batch = bus.reader(&topic(to), 100).unwrap().poll(100, std::time::Duration::ZERO).unwrap();
            let text = |value: Option<&[u8]>| String::from_utf8(value.unwrap().to_vec()).unwrap();
            outputs.insert(to.to_owned(), batch.iter().map(|record| text(record.value)).collect());
        }
        assert_same_hops(stop, &hops, &outputs);
    }
}

#[test]
fn hops_come_out_as_recorded_through_sqlite() {
    hops_come_out_as_recorded_on(Engine::Sqlite);
}

#[test]
fn hops_come_out_as_recorded_through_kafka() {
    hops_come_out_as_recorded_on(Engine::AtLeastOnce);
}

#[test]
fn hops_come_out_as_recorded_through_kafka_exactly_once() {
    hops_come_out_as_recorded_on(Engine::ExactlyOnce);
}

/// Each stop alone is given what the original's stop was given.
fn hops_come_out_as_recorded_on(engine: Engine) {
    let recording = recording();
    let Some(mut fleet) = Fleet::new(engine) else { return };
    recording.write_caches(&fleet.scratch);
    fleet.set("KAFKA__PARTITIONS", "1");
    let mut before: BTreeMap<String, usize> = BTreeMap::new();
    for (stop, from) in STOPS {
        let hops = recording.hops(from);
        // What the stop before has sent here was compared there; this stop gets the recorded ones instead
        fleet.metrobus(&[stop, "--drain"]).run().assert_code(0);
        for to in ["AddEmail", "WhiteList", "Log", "Error"] {
            before.insert(to.to_owned(), fleet.values(to).len());
        }
        let lines: String = hops.iter().map(|hop| format!("{}\n", hop.value)).collect();
        let push = fleet.metrobus(&["pusher", "--from", "-", "--rate", "0"]).env("METROBUS__PUSHER__TOPIC", from);
        push.stdin(lines).run().assert_code(0);
        fleet.metrobus(&[stop, "--drain"]).run().assert_code(0);
        let mut outputs = BTreeMap::new();
        for to in ["AddEmail", "WhiteList", "Log", "Error"].into_iter().filter(|to| *to != from) {
            outputs.insert(to.to_owned(), fleet.values(to).split_off(before[to]));
        }
        assert_same_hops(stop, &hops, &outputs);
    }
}

#[test]
fn whole_journeys_arrive_as_recorded_on_sqlite() {
    let recording = recording();
    let fleet = Fleet::new(Engine::Sqlite).expect("SQLite is always there");
    recording.write_caches(&fleet.scratch);
    let lines: String = recording.journeys.iter().map(|journey| format!("{}\n", journey.values[0])).collect();
    fleet.metrobus(&["pusher", "--from", "-", "--rate", "0"]).stdin(lines).run().assert_code(0);
    fleet.drain("a");
    let arrived = recording.journeys.iter().filter(|journey| journey.dropped_by.is_none());
    let mut log = fleet.values("Log").into_iter();
    for journey in arrived {
        let out = log.next().expect("one more arrived");
        let hop = Hop { journey: &journey.journey, value: &journey.values[0], then: Some(("Log", &journey.values[3])) };
        assert_same_hop(&hop, &out);
    }
    assert_eq!(log.next(), None);
    assert_eq!(fleet.scratch.read("log.ndjson").lines().count(), 2);
}
