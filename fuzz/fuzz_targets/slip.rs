//! A slip is an attacker's to write: whatever the bytes are, a stop takes them apart or says why not, and what goes on from
//! there is a message again, with the same payload and the same stops.

#![no_main]

use std::{borrow::Cow, collections::BTreeMap, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use metrobus::{
    Message, Topic,
    bus::{Headers, Record},
    slip::{Itinerary, Limits, Malformed, Stops},
};
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use uuid::Uuid;

static TOPICS: LazyLock<Vec<Topic>> = LazyLock::new(|| {
    ["AddEmail", "WhiteList", "Log", "a b", "ü"].into_iter().filter_map(|name| Topic::new(name).ok()).collect()
});
static STOPS: LazyLock<Stops> = LazyLock::new(|| Stops::new(TOPICS.clone()));
static ITINERARY: LazyLock<Itinerary> = LazyLock::new(|| Itinerary::new(&TOPICS));

/// As many brackets as this cannot lie deeper in each other than a message may, with a slip around them.
const SHALLOW: usize = 100;

fuzz_target!(|value: &[u8]| {
    let limits = Limits::default();
    let on_its_way = Message::parse(record(value), &limits, &STOPS);
    let at_its_beginning = Message::parse_untrusted(record(value), &limits);
    if on_its_way.is_ok() || at_its_beginning.is_ok() {
        assert!(serde_json::from_slice::<IgnoredAny>(value).is_ok(), "taken, and no JSON");
    } else if let Some(Ok(all)) = members(value)
        && !all.contains_key("header")
    {
        // Where a payload is there twice nobody can say which is meant
        assert!(matches!(at_its_beginning, Err(Malformed::Twice(_))), "an object without a header was refused");
    }
    if let Ok(mut message) = at_its_beginning {
        message.depart(&ITINERARY, Uuid::from_u128(7));
        let next = written(&message);
        let there = Message::parse(record(&next), &limits, &STOPS).expect("what departs is a message");
        assert_eq!(there.payload.raw(), message.payload.raw());
        assert_eq!(there.id(), Some("00000000-0000-0000-0000-000000000007"));
        travel(next, Some(TOPICS.len() - 1));
    }
    if let Ok(mut message) = on_its_way {
        travel(value.to_vec(), list(message.whole(), "route").map(|route| route.len()));
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

/// A list of the header, as serde_json reads it; `None` where it cannot.
fn list(value: &str, name: &str) -> Option<Vec<String>> {
    let value: BTreeMap<Cow<str>, &RawValue> = serde_json::from_str(value).ok()?;
    let header: BTreeMap<Cow<str>, &RawValue> = serde_json::from_str(value.get("header")?.get()).ok()?;
    header.get(name).map_or(Some(Vec::new()), |list| serde_json::from_str(list.get()).ok())
}

/// Goes to the end of a journey that has `ahead` stops to go: none is lost, none comes in, and the payload stays what it is.
fn travel(mut value: Vec<u8>, mut ahead: Option<usize>) {
    let limits = Limits::default();
    loop {
        let message = Message::parse(record(&value), &limits, &STOPS).expect("a message on its way");
        let Some(stop) = message.next_stop() else { return };
        let next = written(&message);
        let there = Message::parse(record(&next), &limits, &STOPS).expect("what is advanced is a message");
        assert_eq!(there.payload.raw(), message.payload.raw());
        assert_eq!((there.id(), there.deadline()), (message.id(), message.deadline()));
        let [before, after] = [&message, &there].map(|message| list(message.whole(), "historical_route"));
        if let (Some(mut before), Some(after)) = (before, after) {
            before.push(stop.to_string());
            assert_eq!(after, before);
        }
        ahead = ahead.map(|ahead| ahead - 1);
        let left = list(there.whole(), "route").map(|route| route.len());
        assert!(ahead.is_none() || left.is_none() || left == ahead, "{left:?} stops are left of {ahead:?}");
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
