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
        out.extend_from_slice(object[offset(object, key)..offset(object, value) + value.len()].as_bytes());
    });
    out.push(b'}');
    if found { out } else { object.as_bytes().to_vec() }
}
