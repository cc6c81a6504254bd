//! A slip is an attacker's to write: whatever the bytes are, a stop takes them apart or says why not, and what goes on from
//! there is a message again, with the same payload and the same stops.

#![no_main]

use std::{borrow::Cow, collections::BTreeMap, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use metrobus::{
    Message, Topic,
    bus::{Headers, Record},
    slip::{Itinerary, Limits, Stops},
};
use serde_json::{Value, value::RawValue};
use uuid::Uuid;

static TOPICS: LazyLock<Vec<Topic>> =
    LazyLock::new(|| ["AddEmail", "WhiteList", "Log", "a b", "ü"].into_iter().filter_map(|name| Topic::new(name).ok()).collect());
static STOPS: LazyLock<Stops> = LazyLock::new(|| Stops::new(TOPICS.clone()));
static ITINERARY: LazyLock<Itinerary> = LazyLock::new(|| Itinerary::new(&TOPICS));

/// As many brackets as this cannot lie deeper in each other than a message may, with a slip around them.
const SHALLOW: usize = 100;

fuzz_target!(|value: &[u8]| {
    let limits = Limits::default();
    let on_its_way = Message::parse(record(value), &limits, &STOPS);
    let at_its_beginning = Message::parse_untrusted(record(value), &limits);
    if on_its_way.is_ok() || at_its_beginning.is_ok() {
        assert!(members(value).is_some_and(|all| all.is_ok()), "taken, and no JSON object");
    } else if let Some(Ok(all)) = members(value)
        && !all.contains_key("header")
    {
        panic!("an object without a header was refused: {}", at_its_beginning.unwrap_err());
    }
    if let Ok(mut message) = at_its_beginning {
        message.depart(&ITINERARY, Uuid::from_u128(7));
        let next = written(&message);
        let there = Message::parse(record(&next), &limits, &STOPS).expect("what departs is a message");
        assert_eq!(there.payload.raw(), message.payload.raw());
        assert_eq!(there.id(), Some("00000000-0000-0000-0000-000000000007"));
        travel(next, TOPICS.len() - 1);
    }
    if let Ok(mut message) = on_its_way {
        let ahead = route(message.whole()).len();
        if message.next_stop().is_some() {
            let next = written(&message);
            let there = Message::parse(record(&next), &limits, &STOPS).expect("what is advanced is a message");
            assert_eq!(there.payload.raw(), message.payload.raw());
            assert_eq!(there.id(), message.id());
            travel(next, ahead - 1);
        }
        change(&mut message);
    }
});

fn record(value: &[u8]) -> Record<'_> {
    Record { partition: 0, offset: 0, timestamp: 0, key: None, headers: Headers::default(), value: Some(value) }
}

fn written(message: &Message) -> Vec<u8> {
    let mut next = Vec::new();
    message.write_next(&mut next);
    next
}

/// The members of an object, as serde_json sees them; `None` where it may be nested too deep to be a message.
fn members(value: &[u8]) -> Option<serde_json::Result<BTreeMap<Cow<'_, str>, &RawValue>>> {
    let brackets = value.iter().filter(|byte| matches!(byte, b'[' | b'{')).count();
    (brackets < SHALLOW).then(|| serde_json::from_slice(value))
}

fn list(value: &str, name: &str) -> Vec<String> {
    let Ok(value) = serde_json::from_str::<Value>(value) else { return Vec::new() };
    let names = value["header"][name].as_array().cloned().unwrap_or_default();
    names.iter().filter_map(|name| Some(name.as_str()?.to_owned())).collect()
}

fn route(value: &str) -> Vec<String> {
    list(value, "route")
}

/// Goes to the end of a journey that has `ahead` stops to go: none is lost, and none comes in.
fn travel(mut value: Vec<u8>, mut ahead: usize) {
    let limits = Limits::default();
    loop {
        let message = Message::parse(record(&value), &limits, &STOPS).expect("a message on its way");
        let text = message.whole();
        // What serde_json cannot hold in a value, such as 1e400, is not compared
        if serde_json::from_str::<Value>(text).is_ok() {
            assert_eq!(route(text).len(), ahead);
        }
        let Some(stop) = message.next_stop() else { return };
        let (stop, travelled) = (stop.to_string(), list(text, "historical_route"));
        let next = written(&message);
        let there = Message::parse(record(&next), &limits, &STOPS).expect("what is advanced is a message");
        assert_eq!(there.payload.raw(), message.payload.raw());
        if serde_json::from_str::<Value>(text).is_ok() {
            let now = list(there.whole(), "historical_route");
            assert_eq!(now.last(), Some(&stop));
            assert_eq!(now[..now.len() - 1], travelled);
            ahead -= 1;
        }
        value = next;
    }
}

/// A field that a handler sets is there, and all others are as they were.
fn change(message: &mut Message) {
    let before = message.payload.raw();
    message.payload.set("email", "\"a\\b\"@example.com").expect("text can be set");
    let mut after = Vec::new();
    message.payload.write(&mut after);
    let (Some(Ok(before)), Some(Ok(after))) = (members(before.as_bytes()), members(&after)) else { return };
    assert_eq!(after["email"].get(), r#""\"a\\b\"@example.com""#);
    for (name, value) in before.iter().filter(|(name, _)| *name != "email") {
        assert_eq!(after[name].get(), value.get());
    }
    assert!(after.len() <= before.len() + 1);
}
