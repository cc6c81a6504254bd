//! Random and mutated records through all four stops in one process: each comes to one end, none to a panic.

use std::{
    collections::BTreeMap,
    sync::{LazyLock, Mutex},
    time::Duration,
};

use metrobus::{
    bus::{Bus, Outbox, Topic, memory::MemoryBus},
    config::Config,
    drain::Drain,
    roles::{Context, Kind, ROLES},
    shutdown::Shutdown,
    stats::Stats,
    stop::run_all,
};
use proptest::{collection::vec, prelude::*, sample::select};

use super::traffic::{EMAIL, KNOWN};
use crate::{
    fleet::TOPICS,
    support::{Scratch, say},
};

/// Limits that random records meet now and then.
const LIMITS: [(&str, &str); 3] = [("MESSAGE_BYTES", "600"), ("HOPS", "6"), ("DEPTH", "8")];

/// Once for all cases: caches, and an output that nobody reads.
static CONTEXT: LazyLock<(Context, Scratch)> = LazyLock::new(|| {
    let scratch = Scratch::new();
    let emails = scratch.write("emails.dat", format!("1000001,{EMAIL}\n7,seven@example.com\n"));
    let whitelist = scratch.write("whitelist.dat", format!("{EMAIL}\n"));
    let mut settings: Vec<_> =
        LIMITS.iter().map(|(name, value)| (format!("METROBUS__LIMITS__{name}"), (*value).to_owned())).collect();
    for (name, path) in [
        ("CONTACTPOINT__FILE", emails),
        ("WHITELIST__FILE", whitelist),
        ("LOGSTOP__OUTPUT", scratch.path("log.ndjson")),
    ] {
        settings.push((format!("METROBUS__{name}"), path.display().to_string()));
    }
    settings.push(("METROBUS__BATCH".into(), "7".into()));
    let context = Context::new(Config::load(None, settings).unwrap(), Shutdown::default(), None).unwrap();
    (context, scratch)
});

/// A record as it is put on a topic.
#[derive(Clone, Debug)]
struct Put {
    topic: &'static str,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    timestamp: i64,
}

fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        select(vec![
            "null",
            "true",
            "1",
            "-0.0",
            "1e400",
            "1000001",
            "7",
            r#""x""#,
            r#""\ud800""#,
            r#""\u0000""#,
            "[]",
            "{}"
        ])
        .prop_map(str::to_owned),
        ".{0,6}".prop_map(|text| serde_json::to_string(&text).unwrap()),
    ];
    leaf.prop_recursive(6, 24, 4, |inner| {
        let name =
            select(vec!["a", "email", "em\\u0061il", "account_number", "header", "payload", "route", "whitelist", ""]);
        let field = (name, inner.clone()).prop_map(|(name, value)| format!("\"{name}\":{value}"));
        prop_oneof![
            vec(inner, 0..4).prop_map(|items| format!("[{}]", items.join(" , "))),
            vec(field, 0..4).prop_map(|fields| format!("{{{}}}", fields.join(",\n"))),
        ]
    })
}

fn route() -> impl Strategy<Value = String> {
    let names = vec!["AddEmail", "WhiteList", "Log", "L\\u006fg", "Source", "Error", "Nowhere"];
    let stop = select(names).prop_map(|name| format!("\"{name}\""));
    let odd = prop_oneof![30 => stop, 1 => json()];
    prop_oneof![
        20 => vec(odd, 0..5).prop_map(|stops| format!("[{}]", stops.join(", "))),
        1 => json(),
    ]
}

/// Mostly a message, on its way or raw.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        4 => Just(format!(r#"{{{KNOWN}}}"#)),
        4 => Just(format!(r#"{{"email":"{EMAIL}","p":2.50}}"#)),
        1 => Just(format!(r#"{{{KNOWN},"pad":"{}"}}"#, "x".repeat(480))),
        2 => json(),
    ];
    let slip = (route(), proptest::option::of(route()), payload.clone(), any::<bool>()).prop_map(
        |(route, history, payload, payload_first)| {
            let history = history.map_or_else(String::new, |history| format!(r#","historical_route":{history}"#));
            let header = format!(r#""header":{{"route":{route}{history},"id":"1"}}"#);
            if payload_first {
                format!(r#"{{"payload":{payload},{header}}}"#)
            } else {
                format!(r#" {{{header} , "more":1, "payload":{payload} }}"#)
            }
        },
    );
    prop_oneof![
        8 => slip.prop_map(String::into_bytes),
        2 => payload.prop_map(String::into_bytes),
        1 => json().prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 0..40),
        1 => (0..20_usize).prop_map(|depth| format!(r#"{{"a":{}{}}}"#, "[".repeat(depth), "]".repeat(depth)).into_bytes()),
    ]
}

/// Cut, or with some bytes changed, doubled or taken out.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let edits = vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 0..4);
    (value(), edits, 0..4_u8).prop_map(|(mut value, edits, odds)| {
        if odds > 0 {
            return value;
        }
        for (at, byte, what) in edits {
            if value.is_empty() {
                break;
            }
            let at = at.index(value.len());
            match what {
                0 => value[at] = byte,
                1 => value.insert(at, byte),
                2 => drop(value.remove(at)),
                _ => value.truncate(at),
            }
        }
        value
    })
}

fn put() -> impl Strategy<Value = Put> {
    let key = proptest::option::of(vec(any::<u8>(), 0..3));
    let time = select(vec![-1, 0, 1_700_000_000_000, i64::MAX]);
    (select(TOPICS.to_vec()), key, proptest::option::weighted(0.97, mutated()), time)
        .prop_map(|(topic, key, value, timestamp)| Put { topic, key, value, timestamp })
}

/// What lies on a topic: values with the place that their headers tell, where they do.
type Letters = Vec<(Option<Vec<u8>>, Option<Vec<u8>>, String, i64)>;

fn values(bus: &MemoryBus, topic: &str) -> Letters {
    let mut reader = bus.reader(&Topic::new(topic).unwrap(), u64::MAX).unwrap();
    let batch = reader.poll(usize::MAX, Duration::ZERO).unwrap();
    let own = |record: metrobus::bus::Record<'_>| {
        let text = |name| record.headers.get(name).map(|value| String::from_utf8(value.to_vec()).unwrap());
        let offset = text("metrobus.offset").map_or(-1, |offset| offset.parse().unwrap());
        let (key, value) = (record.key.map(<[u8]>::to_vec), record.value.map(<[u8]>::to_vec));
        (key, value, text("metrobus.topic").unwrap_or_default(), offset)
    };
    batch.iter().map(own).collect()
}

fn sum(counts: &BTreeMap<String, u64>) -> u64 {
    counts.values().sum()
}

/// How often each end came, over all cases: a property of records that all meet the same one would show little.
static ENDS: Mutex<[u64; 4]> = Mutex::new([0; 4]);

fn each_record_comes_to_one_end(records: &[Put]) -> Result<(), TestCaseError> {
    let (context, _) = &*CONTEXT;
    let bus = MemoryBus::default();
    let mut outbox = Outbox::default();
    for Put { topic, key, value, timestamp } in records {
        outbox.publish(&Topic::new(topic).unwrap(), *timestamp, key.as_deref(), value.as_deref());
    }
    bus.publisher().unwrap().publish(&outbox).unwrap();
    let together = Drain::default();
    let (mut stops, mut stats) = (Vec::new(), Vec::new());
    for role in ROLES {
        let Kind::Stop(build) = role.kind else { continue };
        let stop = build(context).unwrap().drain(together.join());
        stats.push(stop.stats());
        stops.push(stop);
    }
    run_all(stops, &bus, &Shutdown::default()).unwrap();

    let stats: Vec<Stats> = stats.iter().map(|stats| stats.snapshot()).collect();
    let total = |count: fn(&Stats) -> u64| stats.iter().map(count).sum::<u64>();
    let (read, forwarded, finished) = (total(|s| s.read), total(|s| s.forwarded), total(|s| s.finished));
    let (dropped, rejected) = (total(|s| sum(&s.dropped)), total(|s| sum(&s.rejected)));
    prop_assert_eq!(read, records.len() as u64 + forwarded, "read is what came in and what was sent on");
    prop_assert_eq!(read, forwarded + finished + dropped + rejected);
    prop_assert_eq!(total(|s| s.retried), 0, "no handler panicked");
    for stats in &stats {
        for reason in stats.dropped.keys().chain(stats.rejected.keys()) {
            prop_assert!(reason.is_ascii() && reason.len() < 60, "nothing of a record in the counts: {}", reason);
        }
    }

    // Each dead letter is the record that it says it was, key and all
    let letters = values(&bus, "Error");
    prop_assert_eq!(letters.len() as u64, rejected);
    let topics: BTreeMap<_, _> = TOPICS.iter().map(|topic| (*topic, values(&bus, topic))).collect();
    for (key, value, topic, offset) in &letters {
        let (was_key, was_value, ..) = &topics[topic.as_str()][*offset as usize];
        prop_assert_eq!((key, value), (was_key, was_value));
    }
    // What a stop sent on is a message whose payload is an object
    for topic in &TOPICS[1..] {
        let came_in = records.iter().filter(|record| record.topic == *topic).count();
        for (_, value, ..) in topics[topic].iter().skip(came_in) {
            let value = value.as_deref().unwrap_or_default();
            prop_assert!(value.len() <= 600);
            prop_assert!(serde_json::from_slice::<&serde_json::value::RawValue>(value.trim_ascii()).is_ok());
        }
    }
    let mut ends = ENDS.lock().unwrap();
    for (end, count) in ends.iter_mut().zip([forwarded, finished, dropped, rejected]) {
        *end += count;
    }
    Ok(())
}

#[test]
fn every_record_comes_to_one_end_and_none_to_a_panic() {
    let config = ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let outcome = runner.run(&vec(put(), 1..200), |records| each_record_comes_to_one_end(&records));
    if let Err(error) = outcome {
        panic!("{error}");
    }
    let [forwarded, finished, dropped, rejected] = *ENDS.lock().unwrap();
    say(&format!("random records: {forwarded} forwarded, {finished} finished, {dropped} dropped, {rejected} rejected"));
    assert!([forwarded, finished, dropped, rejected].iter().all(|count| *count > 100), "every end is met");
}
