//! A message that is sent again: where on its route it goes on, and how often that was done.
//!
//! Two fields of the header are its own:
//!
//! | field | value |
//! | --- | --- |
//! | `replays` | how often the message was sent again after a rejection, from 1 |
//! | `deadline` | taken out: whoever sends a message again wants it to go, however late |
//!
//! The budget of hops (`limits.hops`) is of the stops that stand on the slip. A message that is sent again stands where it
//! stood or elsewhere on the same route, so nothing is added to that, however often it is done.

use serde_json::value::RawValue;

use super::{Leg, Message};
use crate::{
    bus::Topic,
    json::{Object, elements, fields, is_key, offset, text},
    payload::Payload,
};

const REPLAYS: &str = "replays";
const DEADLINE: &str = "deadline";

/// Why a message cannot go on from the stop that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoWay {
    #[error("it has no slip")]
    NoSlip,
    #[error("{stop} is not on its route, {route}")]
    NotOnRoute { stop: Topic, route: String },
}

/// How often a message was sent again, by the slip of a value that may be anything.
pub(crate) fn replays(value: &[u8]) -> u32 {
    let count = || {
        let value = Object::new(std::str::from_utf8(value).ok()?.trim_ascii()).if_object()?;
        let header = Object::new(value.find("header")?).if_object()?;
        header.find(REPLAYS)?.parse().ok()
    };
    count().unwrap_or(0)
}

/// Whether the message has a slip to count in.
pub(crate) fn has_slip(message: &Message<'_>) -> bool {
    matches!(message.leg, Leg::OnItsWay(_))
}

/// The value of a message that was at the stop `at` and goes on from there, or from the stop `from` of its route, for the
/// `replays`-th time.
///
/// Where `from` is on the route more than once it is the last time up to `at`, else the first time behind it. The slip is
/// as it was when the message came to that stop: what is behind that stop is travelled, what is before it is not.
pub(crate) fn resumed(message: &Message<'_>, at: &Topic, from: Option<&Topic>, replays: u32) -> Result<Vec<u8>, NoWay> {
    let Leg::OnItsWay(slip) = &message.leg else { return Err(NoWay::NoSlip) };
    let mut header = Payload::of(Object::new(slip.header));
    if let Some(from) = from {
        let (mut stops, mut ahead) = (Vec::new(), Vec::new());
        slip.history.iter().for_each(|history| elements(history.raw, |stop| stops.push(stop)));
        let travelled = stops.len();
        elements(slip.route.raw, |stop| ahead.push(stop));
        stops.extend(ahead.iter().rev());
        let is = |stop: &str, topic: &Topic| is_key(stop, topic.as_str());
        // A slip without a history does not tell where it is
        let stays = from == at && !stops[..travelled].last().is_some_and(|last| is(last, from));
        if !stays {
            let behind = stops[..travelled].iter().rposition(|stop| is(stop, from));
            let found = behind.or_else(|| stops.iter().position(|stop| is(stop, from)));
            let place = found.ok_or_else(|| NoWay::NotOnRoute {
                stop: from.clone(),
                route: stops.iter().filter_map(|stop| text(stop)).collect::<Vec<_>>().join(" → "),
            })?;
            if place + 1 != travelled {
                let (history, route) = stops.split_at(place + 1);
                set_list(&mut header, "historical_route", history.iter().copied());
                set_list(&mut header, "route", route.iter().rev().copied());
            }
        }
    }
    let written = counted(header, replays);
    let written = without(&String::from_utf8_lossy(&written), DEADLINE);
    Ok(spliced(message.whole, slip.header, &written))
}

/// The same for a value that has just set out on a new route: with the id that the message had, where it had one. Its
/// deadline is that of its new slip.
pub(crate) fn departed(value: &[u8], id: Option<&str>, replays: u32) -> Option<Vec<u8>> {
    let whole = std::str::from_utf8(value).ok()?;
    let raw = Object::new(whole).find("header")?;
    let mut header = Payload::of(Object::new(raw));
    if let Some(id) = id {
        header.set("id", id).ok()?;
    }
    Some(spliced(whole, raw, &counted(header, replays)))
}

fn counted(mut header: Payload<'_>, replays: u32) -> Vec<u8> {
    // There is no number that JSON cannot hold
    let _ = header.set(REPLAYS, &replays);
    let mut written = Vec::new();
    header.write(&mut written);
    written
}

/// `whole` with `new` in the place of `part`, a slice of it.
pub(crate) fn spliced(whole: &str, part: &str, new: &[u8]) -> Vec<u8> {
    let start = offset(whole, part);
    let mut out = Vec::with_capacity(whole.len() + new.len());
    out.extend_from_slice(&whole.as_bytes()[..start]);
    out.extend_from_slice(new);
    out.extend_from_slice(&whole.as_bytes()[start + part.len()..]);
    out
}

/// Sets a field to a list of what was in a list before.
fn set_list<'a>(header: &mut Payload<'_>, name: &str, stops: impl Iterator<Item = &'a str>) {
    let text = format!("[{}]", stops.collect::<Vec<_>>().join(","));
    if let Ok(list) = RawValue::from_string(text) {
        let _ = header.set(name, &list);
    }
}

/// A checked object without the fields called `name`.
fn without(object: &str, name: &str) -> Vec<u8> {
    let (mut out, mut kept) = (b"{".to_vec(), 0);
    let mut found = false;
    fields(object, |key, value| {
        if is_key(key, name) {
            found = true;
            return;
        }
        if kept > 0 {
            out.push(b',');
        }
        kept += 1;
        out.extend_from_slice(&object.as_bytes()[offset(object, key)..offset(object, value) + value.len()]);
    });
    out.push(b'}');
    if found { out } else { object.as_bytes().to_vec() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;
    use uuid::Uuid;

    use super::*;
    use crate::{
        bus::{Headers, Record},
        slip::{Itinerary, Limits, Stops},
    };

    fn topic(name: &str) -> Topic {
        Topic::new(name).unwrap()
    }

    fn record(value: &str) -> Record<'_> {
        let (key, headers, value) = (None, Headers::default(), Some(value.as_bytes()));
        Record { partition: 0, offset: 0, timestamp: 0, key, headers, value }
    }

    fn resume(value: &str, at: &str, from: Option<&str>, replays: u32) -> Result<String, NoWay> {
        let stops = Stops::new(["A", "B", "C", "D", "E"].map(topic));
        let message = Message::parse(record(value), &Limits::default(), &stops).unwrap();
        let resumed = resumed(&message, &topic(at), from.map(topic).as_ref(), replays)?;
        Ok(String::from_utf8(resumed).unwrap())
    }

    #[test]
    fn only_the_count_is_new_where_a_message_goes_on() {
        let value = r#" {"v":1, "payload" : {"a":2.50,"replays":7} ,"header":{ "x":[1 , 2],"historical_route":["\u0041" ],"route":["C" , "B"], "t":1e400}} "#;
        let expected = r#"{"v":1, "payload" : {"a":2.50,"replays":7} ,"header":{ "x":[1 , 2],"historical_route":["\u0041" ],"route":["C" , "B"], "t":1e400,"replays":1}}"#;
        assert_eq!(resume(value, "A", None, 1).unwrap(), expected);
        assert_eq!(resume(value, "A", Some("A"), 1).unwrap(), expected, "that is where it was");
        let again = resume(expected, "A", None, 2).unwrap();
        assert_eq!(again, expected.replace(r#""replays":1}}"#, r#""replays":2}}"#));
        assert_eq!((replays(value.as_bytes()), replays(again.as_bytes())), (0, 2));
        for other in
            ["", "[]", "{}", r#"{"header":{}}"#, r#"{"header":{"replays":-1}}"#, r#"{"header":{"replays":"1"}}"#]
        {
            assert_eq!(replays(other.as_bytes()), 0, "{other}");
        }
    }

    #[test]
    fn a_deadline_is_taken_out() {
        for (header, expected) in [
            (r#"{"deadline":5,"route":[]}"#, r#"{"route":[],"replays":1}"#),
            (r#"{ "route" : [ ] , "deadline" : -5 }"#, r#"{"route" : [ ],"replays":1}"#),
            (r#"{"d\u0065adline":5,"route":[]}"#, r#"{"route":[],"replays":1}"#),
        ] {
            let value = format!(r#"{{"header":{header},"payload":{{"deadline":1}}}}"#);
            let expected = format!(r#"{{"header":{expected},"payload":{{"deadline":1}}}}"#);
            assert_eq!(resume(&value, "A", None, 1).unwrap(), expected);
        }
    }

    #[test]
    fn a_stop_is_found_on_the_whole_route() {
        // Twice on B: behind is nearer than before
        let at_c = r#"{"header":{"route":["E","B"],"historical_route":["A","B","C"]},"payload":{}}"#;
        let header = |from: &str| {
            let value: Value = serde_json::from_str(&resume(at_c, "C", Some(from), 1).unwrap()).unwrap();
            (value["header"]["route"].to_string(), value["header"]["historical_route"].to_string())
        };
        assert_eq!(header("B"), (r#"["E","B","C"]"#.into(), r#"["A","B"]"#.into()));
        assert_eq!(header("A"), (r#"["E","B","C","B"]"#.into(), r#"["A"]"#.into()));
        assert_eq!(header("E"), ("[]".into(), r#"["A","B","C","B","E"]"#.into()));
        assert_eq!(header("C"), (r#"["E","B"]"#.into(), r#"["A","B","C"]"#.into()));
        let error = resume(at_c, "C", Some("D"), 1).unwrap_err();
        assert_eq!(error.to_string(), "D is not on its route, A → B → C → B → E");
        // Without a history nothing says that it is at A but that it lay there
        let bare = r#"{"header":{"route":["C","B"]},"payload":{}}"#;
        let with = |header: &str| format!(r#"{{"header":{{{header}}},"payload":{{}}}}"#);
        assert_eq!(resume(bare, "A", Some("A"), 1).unwrap(), with(r#""route":["C","B"],"replays":1"#));
        let expected = with(r#""route":["C"],"replays":1,"historical_route":["B"]"#);
        let sorted = |json: &str| serde_json::from_str::<Value>(json).unwrap();
        assert_eq!(sorted(&resume(bare, "A", Some("B"), 1).unwrap()), sorted(&expected));
        assert_eq!(resume("{}", "A", None, 1), Err(NoWay::NoSlip));
    }

    #[test]
    fn a_new_route_keeps_the_id() {
        let new = r#"{"header":{"route":["B"],"deadline":9,"id":"new"},"payload":{"id":1}}"#;
        let departed = |id| String::from_utf8(departed(new.as_bytes(), id, 3).unwrap()).unwrap();
        assert_eq!(
            departed(Some("o\"ld")),
            r#"{"header":{"route":["B"],"deadline":9,"id":"o\"ld","replays":3},"payload":{"id":1}}"#
        );
        assert_eq!(departed(None), new.replace(r#""new""#, r#""new","replays":3"#));
    }

    /// The value as it comes to each stop of a journey, the first one first.
    fn journey(route: &[Topic], payload: &str) -> Vec<String> {
        let (limits, stops) = (Limits::default(), Stops::new(route.iter().cloned()));
        let written = |message: &Message<'_>| {
            let mut out = Vec::new();
            message.write_next(&mut out);
            String::from_utf8(out).unwrap()
        };
        let mut message = Message::parse_untrusted(record(payload), &limits).unwrap();
        message.depart(&Itinerary::new(route), Uuid::nil());
        let mut values = vec![written(&message)];
        for _ in 1..route.len() {
            let next = written(&Message::parse(record(values.last().unwrap()), &limits, &stops).unwrap());
            values.push(next);
        }
        values
    }

    proptest! {
        #[test]
        fn a_message_goes_on_as_it_had_come(
            length in 1..8_usize, at: prop::sample::Index, from: prop::sample::Index, text in ".{0,20}", count in 1..9_u32,
        ) {
            let route: Vec<_> = (0..length).map(|n| topic(&format!("Stop{n}"))).collect();
            let payload = format!(r#"{{ "n":2.50 , "text":{}}}"#, serde_json::to_string(&text).unwrap());
            let values = journey(&route, &payload);
            let (at, from) = (at.index(length), from.index(length));
            let stops = Stops::new(route.iter().cloned());
            let message = Message::parse(record(&values[at]), &Limits::default(), &stops).unwrap();
            let counted = |value: &str| value.replace(r#"},"payload""#, &format!(r#","replays":{count}}},"payload""#));
            let resumed = |from| String::from_utf8(resumed(&message, &route[at], from, count).unwrap()).unwrap();
            prop_assert_eq!(resumed(None), counted(&values[at]));
            // Wherever it is set to, it is what once came to that stop, or would have
            prop_assert_eq!(resumed(Some(&route[from])), counted(&values[from]));
        }
    }
}
