//! The wire format: bytes to slip and payload, and on to the bytes of the next hop. No I/O.
//!
//! A record's value is `{"header":{"route":[…],"original_route":[…],"historical_route":[…]},"payload":{…}}`. `route`
//! is a stack whose last element is the next stop; to advance is to move that element to the end of
//! `historical_route`. A value without `header` or `payload` is all payload. The format is that of the Python
//! original; the idea is the Routing Slip of Hohpe and Woolf, *Enterprise Integration Patterns*.
//!
//! Everything that does not change keeps its bytes: unknown header fields, fields beside header and payload, spelling.

pub mod resume;

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::{
    bus::{Record, Topic},
    json::{
        Object, check, elements, is_key, offset,
        scan::{Scanned, Tape, scan},
        text,
    },
    payload::Payload,
};

/// What an incoming message may be at most; beyond it is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Bytes of a record's value, in and out.
    pub message_bytes: usize,
    /// Stops on a slip, travelled and to come.
    pub hops: usize,
    /// Levels of nested lists and objects.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { message_bytes: 10 << 20, hops: 64, depth: 128 }
    }
}

/// The topics that a slip may name.
#[derive(Clone, Debug, Default)]
pub struct Stops(Vec<Topic>);

impl Stops {
    pub fn new(topics: impl IntoIterator<Item = Topic>) -> Self {
        let mut topics: Vec<_> = topics.into_iter().collect();
        topics.sort();
        topics.dedup();
        Self(topics)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Topic> {
        self.0.iter()
    }

    /// The stop that the JSON text `json` names.
    fn find(&self, json: &str) -> Option<&Topic> {
        self.0.iter().find(|topic| is_key(json, topic.as_str()))
    }
}

/// Why a record's value is no message; the text is the dead letter's reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("tombstone: the record has no value")]
    Tombstone,
    #[error("empty value")]
    Empty,
    #[error("{bytes} bytes, more than limits.message_bytes = {limit}")]
    TooLong { bytes: usize, limit: usize },
    #[error("not UTF-8 at byte {0}")]
    NotUtf8(usize),
    #[error("not JSON: {0}")]
    NotJson(String),
    #[error("not a JSON object")]
    NotObject,
    #[error("payload is not a JSON object")]
    PayloadNotObject,
    #[error("{0} occurs twice")]
    Twice(&'static str),
    #[error("nested deeper than limits.depth = {0}")]
    TooDeep(usize),
    #[error("slip: {0}")]
    Slip(String),
    #[error("slip: {hops} hops, more than limits.hops = {limit}")]
    TooManyHops { hops: usize, limit: usize },
    #[error("slip: unknown stop {0:?}: no stop here reads it and `stops` does not list it")]
    UnknownStop(String),
}

impl Malformed {
    /// The reason without its particulars, under which it is counted: one of few, and nothing of the record in it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Tombstone => "tombstone",
            Self::Empty => "empty value",
            Self::TooLong { .. } => "longer than limits.message_bytes",
            Self::NotUtf8(_) => "not UTF-8",
            Self::NotJson(_) => "not JSON",
            Self::NotObject => "not a JSON object",
            Self::PayloadNotObject => "payload is not a JSON object",
            Self::Twice(_) => "header or payload occurs twice",
            Self::TooDeep(_) => "nested deeper than limits.depth",
            Self::Slip(_) => "slip is broken",
            Self::TooManyHops { .. } => "slip has more stops than limits.hops",
            Self::UnknownStop(_) => "slip names an unknown stop",
        }
    }
}

/// A record whose value has been taken apart.
#[derive(Clone, Debug)]
pub struct Message<'a> {
    /// The record as it was read: key, headers, timestamp, place.
    pub record: Record<'a>,
    /// What the message is about; a handler reads and sets its fields.
    pub payload: Payload<'a>,
    whole: &'a str,
    leg: Leg<'a>,
}

/// How a message goes on.
#[derive(Clone, Debug)]
enum Leg<'a> {
    /// It does not: it has no slip.
    None,
    OnItsWay(Slip<'a>),
    Departs(Itinerary, Uuid),
}

/// The parts of a header that a hop changes, as slices of the whole value.
#[derive(Clone, Debug)]
struct Slip<'a> {
    header: &'a str,
    route: List<'a>,
    next: Option<&'a Topic>,
    history: Option<List<'a>>,
    id: Option<&'a str>,
}

impl<'a> Message<'a> {
    /// Takes a record's value apart at a stop on its way. Its slip may name `stops` only.
    pub fn parse(record: Record<'a>, limits: &Limits, stops: &'a Stops) -> Result<Self, Malformed> {
        let checked = Checked::new(record.value, limits, &mut Tape::default())?;
        Self::on_its_way(record, Parts::new(&checked, None)?, limits, stops, None)
    }

    /// Takes a record's value apart where journeys begin: whatever header it brings is not looked at, only its
    /// payload counts.
    pub fn parse_untrusted(record: Record<'a>, limits: &Limits) -> Result<Self, Malformed> {
        let checked = Checked::new(record.value, limits, &mut Tape::default())?;
        Self::at_its_beginning(record, Parts::new(&checked, None)?)
    }

    /// [`Message::parse`] of a value that has been checked. Mostly it is on the same way as the one `before` it, whose
    /// limits and stops were the same.
    pub(crate) fn on_its_way(
        record: Record<'a>,
        parts: Parts<'a>,
        limits: &Limits,
        stops: &'a Stops,
        before: Option<&Self>,
    ) -> Result<Self, Malformed> {
        let (Some(header), Some(payload)) = (parts.header, parts.payload) else {
            return Ok(Self::bare(record, &parts, parts.own));
        };
        let before = before.and_then(|before| match &before.leg {
            Leg::OnItsWay(slip) => Some(slip),
            _ => None,
        });
        let leg = Leg::OnItsWay(Slip::parse(header, limits, stops, before)?);
        let payload = payload.if_object().ok_or(Malformed::PayloadNotObject)?;
        Ok(Self { record, payload: Payload::of(payload), whole: parts.own.raw(), leg })
    }

    /// [`Message::parse_untrusted`] of a value that has been checked.
    pub(crate) fn at_its_beginning(record: Record<'a>, parts: Parts<'a>) -> Result<Self, Malformed> {
        let payload = match (&parts.header, &parts.payload) {
            (Some(_), Some(payload)) => payload.if_object().ok_or(Malformed::PayloadNotObject)?,
            _ => parts.own,
        };
        Ok(Self::bare(record, &parts, payload))
    }

    fn bare(record: Record<'a>, parts: &Parts<'a>, payload: Object<'a>) -> Self {
        Self { record, payload: Payload::of(payload), whole: parts.own.raw(), leg: Leg::None }
    }

    /// The whole value as it arrived.
    pub fn whole(&self) -> &'a str {
        self.whole
    }

    /// The message's id, where its slip has one.
    pub fn id(&self) -> Option<&'a str> {
        let Leg::OnItsWay(Slip { id: Some(id), .. }) = &self.leg else { return None };
        id.strip_prefix('"')?.strip_suffix('"')
    }

    /// The id with which the message sets out from here, where its journey begins here.
    pub(crate) fn departs_with(&self) -> Option<Uuid> {
        match &self.leg {
            Leg::Departs(_, id) => Some(*id),
            _ => None,
        }
    }

    /// The rule that chose its route, where its journey begins here and the slip names one.
    pub(crate) fn rule(&self) -> Option<&str> {
        match &self.leg {
            Leg::Departs(itinerary, _) => itinerary.rule(),
            _ => None,
        }
    }

    /// Begins a journey: the message leaves with a new slip and the id `id`, whatever slip it came with.
    pub fn depart(&mut self, itinerary: &Itinerary, id: Uuid) {
        self.leg = Leg::Departs(itinerary.clone(), id);
    }

    /// The topic of the next stop; `None` at the end of the journey.
    pub fn next_stop(&self) -> Option<&Topic> {
        match &self.leg {
            Leg::None => None,
            Leg::OnItsWay(slip) => slip.next,
            Leg::Departs(itinerary, _) => itinerary.stops.first(),
        }
    }

    /// Appends the value for the next stop: the slip advanced by one, the payload as it is now.
    pub fn write_next(&self, out: &mut Vec<u8>) {
        let slip = match &self.leg {
            Leg::None => return self.payload.write(out),
            Leg::OnItsWay(slip) => slip,
            Leg::Departs(itinerary, id) => {
                itinerary.write_departed(*id, out);
                self.payload.write(out);
                return out.push(b'}');
            }
        };
        let header = (offset(self.whole, slip.header), slip.header.len());
        let payload = (offset(self.whole, self.payload.raw()), self.payload.raw().len());
        let copy = |out: &mut Vec<u8>, from, to| out.extend_from_slice(&self.whole.as_bytes()[from..to]);
        if header.0 < payload.0 {
            copy(out, 0, header.0);
            slip.write_advanced(out);
            copy(out, header.0 + header.1, payload.0);
            self.payload.write(out);
            copy(out, payload.0 + payload.1, self.whole.len());
        } else {
            copy(out, 0, payload.0);
            self.payload.write(out);
            copy(out, payload.0 + payload.1, header.0);
            slip.write_advanced(out);
            copy(out, header.0 + header.1, self.whole.len());
        }
    }
}

/// A value that is one JSON object.
pub(crate) struct Checked<'a> {
    whole: &'a str,
    /// Where its fields are on the tape; `None` where they are to be walked.
    scanned: Option<Scanned>,
}

impl<'a> Checked<'a> {
    /// Checks a value for what every message must be; `tape` takes its fields down.
    pub fn new(value: Option<&'a [u8]>, limits: &Limits, tape: &mut Tape) -> Result<Self, Malformed> {
        let value = value.ok_or(Malformed::Tombstone)?;
        if value.len() > limits.message_bytes {
            return Err(Malformed::TooLong { bytes: value.len(), limit: limits.message_bytes });
        }
        let whole = std::str::from_utf8(value).map_err(|error| Malformed::NotUtf8(error.valid_up_to()))?.trim_ascii();
        if let Some(scanned) = scan(whole, limits.depth, PARTS, tape) {
            return Ok(Self { whole, scanned: Some(scanned) });
        }
        if whole.is_empty() {
            return Err(Malformed::Empty);
        }
        if deeper_than(whole, limits.depth) {
            return Err(Malformed::TooDeep(limits.depth));
        }
        match check(whole, |_, _| ()) {
            Ok(()) => Ok(Self { whole, scanned: None }),
            Err(error) if error.is_data() => match serde_json::from_str::<&RawValue>(whole) {
                Ok(_) => Err(Malformed::NotObject),
                Err(error) => Err(Malformed::NotJson(error.to_string())),
            },
            Err(error) => Err(Malformed::NotJson(error.to_string())),
        }
    }
}

/// The fields that make a value a message with a slip.
const PARTS: [&str; 2] = ["header", "payload"];

/// A value, and its header and payload where it has them.
pub(crate) struct Parts<'a> {
    own: Object<'a>,
    header: Option<Object<'a>>,
    payload: Option<Object<'a>>,
}

impl<'a> Parts<'a> {
    /// Finds header and payload, by `tape` where it is the one that the value was checked with.
    pub fn new(checked: &Checked<'a>, tape: Option<&'a Tape>) -> Result<Self, Malformed> {
        let whole = checked.whole;
        let own = Object::new(whole);
        if let Some((scanned, tape)) = checked.scanned.as_ref().zip(tape) {
            let [header, payload] = scanned.named.each_ref().map(|named| {
                let named = named.as_ref()?;
                let (object, fields) = (Object::new(named.of(whole)), named.fields.as_ref());
                Some(fields.map_or(object, |fields| object.scanned(whole, tape.fields(fields))))
            });
            return Ok(Self { own: own.scanned(whole, tape.fields(&scanned.fields)), header, payload });
        }
        let (mut parts, mut twice) = ([None; 2], None);
        own.each(|key, value| {
            let Some(index) = PARTS.iter().position(|name| key.is(name)) else { return };
            if parts[index].replace(Object::new(value)).is_some() {
                twice = Some(PARTS[index]);
            }
        });
        let [header, payload] = parts;
        twice.map_or(Ok(Self { own, header, payload }), |name| Err(Malformed::Twice(name)))
    }
}

/// Whether lists and objects nest deeper than `limit` in what may or may not be JSON.
fn deeper_than(text: &str, limit: usize) -> bool {
    let opening = text.bytes().filter(|byte| matches!(byte, b'[' | b'{')).count();
    if opening <= limit {
        return false;
    }
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => depth += 1,
            b']' | b'}' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > limit {
            return true;
        }
    }
    false
}

fn broken(reason: &str) -> Malformed {
    Malformed::Slip(reason.to_owned())
}

impl<'a> Slip<'a> {
    fn parse(header: Object<'a>, limits: &Limits, stops: &'a Stops, before: Option<&Self>) -> Result<Self, Malformed> {
        let header = header.if_object().ok_or_else(|| broken("header is not an object"))?;
        let (mut route, mut history, mut id, mut twice) = (None, None, None, None);
        header.each(|key, value| {
            let (name, field) = match key {
                _ if key.is("route") => ("route", &mut route),
                _ if key.is("historical_route") => ("historical_route", &mut history),
                _ if key.is("id") => ("id", &mut id),
                _ => return,
            };
            if field.replace(value).is_some() {
                twice = Some(name);
            }
        });
        if let Some(name) = twice {
            return Err(Malformed::Slip(format!("{name} occurs twice")));
        }
        let route = route.ok_or_else(|| broken("route is missing"))?;
        if let Some(before) = before
            && before.route.raw == route
            && before.history.as_ref().map(|history| history.raw) == history
        {
            let history = before.history.as_ref().zip(history).map(|(list, raw)| List { raw, ..list.clone() });
            return Ok(Self {
                header: header.raw(),
                route: List { raw: route, ..before.route },
                history,
                id,
                ..*before
            });
        }
        let mut unknown = None;
        let mut next = None;
        let route = List::parse("route", route, |stop| {
            next = stops.find(stop);
            if next.is_none() && unknown.is_none() {
                unknown = Some(stop);
            }
        })?;
        let history = history.map(|history| List::parse("historical_route", history, |_| {})).transpose()?;
        let hops = route.length + history.as_ref().map_or(0, |history| history.length);
        if hops > limits.hops {
            return Err(Malformed::TooManyHops { hops, limit: limits.hops });
        }
        if let Some(stop) = unknown {
            return Err(Malformed::UnknownStop(text(stop).unwrap_or_default().chars().take(100).collect()));
        }
        Ok(Self { header: header.raw(), route, next, history, id })
    }

    /// Appends the header, its route shorter and its history longer by one stop.
    fn write_advanced(&self, out: &mut Vec<u8>) {
        let Some(stop) = self.route.last else { return out.extend_from_slice(self.header.as_bytes()) };
        let bytes = self.header.as_bytes();
        let route = offset(self.header, self.route.raw);
        let after_route = route + self.route.raw.len();
        match &self.history {
            None => {
                out.extend_from_slice(&bytes[..route]);
                self.route.write_popped(out);
                out.extend_from_slice(self.header[after_route..bytes.len() - 1].trim_ascii_end().as_bytes());
                out.extend_from_slice(b",\"historical_route\":[");
                out.extend_from_slice(stop.as_bytes());
                out.extend_from_slice(b"]}");
            }
            Some(list) => {
                let history = offset(self.header, list.raw);
                let after_history = history + list.raw.len();
                if route < history {
                    out.extend_from_slice(&bytes[..route]);
                    self.route.write_popped(out);
                    out.extend_from_slice(&bytes[after_route..history]);
                    list.write_pushed(stop, out);
                    out.extend_from_slice(&bytes[after_history..]);
                } else {
                    out.extend_from_slice(&bytes[..history]);
                    list.write_pushed(stop, out);
                    out.extend_from_slice(&bytes[after_history..route]);
                    self.route.write_popped(out);
                    out.extend_from_slice(&bytes[after_route..]);
                }
            }
        }
    }
}

/// The id in the slip of a value that a stop has written.
pub(crate) fn id_of(value: &[u8]) -> Option<String> {
    header_text(value, "id")
}

/// The text of the field `name` in the slip of a value that may be anything; `None` where there is no such text.
pub(crate) fn header_text(value: &[u8], name: &str) -> Option<String> {
    let value = Object::new(std::str::from_utf8(value).ok()?.trim_ascii()).if_object()?;
    let header = Object::new(value.find("header")?).if_object()?;
    text(header.find(name)?).map(Cow::into_owned)
}

/// A JSON list of text, as it is spelt.
#[derive(Clone, Debug)]
struct List<'a> {
    raw: &'a str,
    length: usize,
    /// Its last element, here or in another list that is spelt the same.
    last: Option<&'a str>,
    /// Where the element before the last ends in `raw`, in bytes.
    before_last: usize,
}

impl<'a> List<'a> {
    fn parse(name: &str, raw: &'a str, mut each: impl FnMut(&'a str)) -> Result<Self, Malformed> {
        if !raw.starts_with('[') {
            return Err(Malformed::Slip(format!("{name} is not a list")));
        }
        let mut list = Self { raw, length: 0, last: None, before_last: 1 };
        let mut all_text = true;
        elements(raw, |element| {
            all_text &= element.starts_with('"');
            if !all_text {
                return;
            }
            if let Some(last) = list.last {
                list.before_last = offset(raw, last) + last.len();
            }
            list.length += 1;
            list.last = Some(element);
            each(element);
        });
        if !all_text {
            return Err(Malformed::Slip(format!("{name} holds something that is not text")));
        }
        Ok(list)
    }

    fn write_popped(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.raw.as_bytes()[..self.before_last]);
        out.push(b']');
    }

    fn write_pushed(&self, element: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(self.raw[..self.raw.len() - 1].trim_ascii_end().as_bytes());
        if self.length > 0 {
            out.push(b',');
        }
        out.extend_from_slice(element.as_bytes());
        out.push(b']');
    }
}

/// A route to set out on, its header prepared once.
#[derive(Clone, Debug)]
pub struct Itinerary {
    stops: std::sync::Arc<[Topic]>,
    header: std::sync::Arc<str>,
}

impl Itinerary {
    /// The route through `stops`, in the order of travel.
    pub fn new(stops: &[Topic]) -> Self {
        Self::with(stops, "")
    }

    /// The same, naming the rule that chose it and the hash of the rules that it is one of: texts that JSON takes as
    /// they are.
    pub(crate) fn ruled(stops: &[Topic], rule: &str, rules: &str) -> Self {
        Self::with(stops, &format!(r#""rule":"{rule}","rules":"{rules}","#))
    }

    /// With `fields` of the header, each with a comma behind it.
    fn with(stops: &[Topic], fields: &str) -> Self {
        let quoted = |stop: &Topic| format!("\"{stop}\"");
        let stack: Vec<_> = stops.iter().rev().map(quoted).collect();
        let left = &stack[..stack.len().saturating_sub(1)];
        let travelled: Vec<_> = stops.iter().take(1).map(quoted).collect();
        let header = format!(
            r#"{{"header":{{"route":[{}],"original_route":[{}],"historical_route":[{}],{fields}"id":""#,
            left.join(","),
            stack.join(","),
            travelled.join(",")
        );
        Self { stops: stops.into(), header: header.into() }
    }

    /// The field `rule` of the header, whose text stands there as it is. Names of stops have no quotes, so it is no part of
    /// another field.
    fn rule(&self) -> Option<&str> {
        const FIELD: &str = "\"rule\":\"";
        let start = memchr::memmem::find(self.header.as_bytes(), FIELD.as_bytes())? + FIELD.len();
        self.header[start..].split('"').next()
    }

    fn write_departed(&self, id: Uuid, out: &mut Vec<u8>) {
        out.extend_from_slice(self.header.as_bytes());
        let mut buffer = Uuid::encode_buffer();
        out.extend_from_slice(id.hyphenated().encode_lower(&mut buffer).as_bytes());
        out.extend_from_slice(b"\"},\"payload\":");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::bus::Headers;

    fn topic(name: &str) -> Topic {
        Topic::new(name).unwrap()
    }

    fn stops() -> &'static Stops {
        static STOPS: LazyLock<Stops> = LazyLock::new(|| Stops::new(["AddEmail", "WhiteList", "Log"].map(topic)));
        &STOPS
    }

    fn record(value: Option<&[u8]>) -> Record<'_> {
        Record { partition: 0, offset: 0, timestamp: 0, key: None, headers: Headers::default(), value }
    }

    fn parse(value: &str) -> Result<Message<'_>, Malformed> {
        Message::parse(record(Some(value.as_bytes())), &Limits::default(), stops())
    }

    /// The same as the stop's loop does it.
    fn parse_scanned<'a>(value: &'a str, tape: &'a mut Tape) -> Result<Message<'a>, Malformed> {
        let (record, limits) = (record(Some(value.as_bytes())), Limits::default());
        let checked = Checked::new(record.value, &limits, tape)?;
        let message = Message::on_its_way(record, Parts::new(&checked, Some(tape))?, &limits, stops(), None)?;
        // Behind one like it, it is the same
        let again = Message::on_its_way(record, Parts::new(&checked, Some(tape))?, &limits, stops(), Some(&message))?;
        assert_eq!(format!("{again:?}"), format!("{message:?}"));
        Ok(again)
    }

    fn advanced(value: &str) -> (Option<String>, String) {
        let mut out = Vec::new();
        let message = parse(value).unwrap();
        message.write_next(&mut out);
        let mut scanned = Vec::new();
        parse_scanned(value, &mut Tape::default()).unwrap().write_next(&mut scanned);
        assert_eq!(scanned, out, "{value}");
        (message.next_stop().map(Topic::to_string), String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_hop_moves_one_stop_and_touches_nothing_else() {
        let (next, out) = advanced(
            r#" {"v":1, "payload" : {"a":2.50} ,"header":{ "x":[1 , 2],"historical_route":[ ],"route":["Log" , "White\u004cist"], "t":1e400}} "#,
        );
        assert_eq!(next.as_deref(), Some("WhiteList"));
        assert_eq!(
            out,
            r#"{"v":1, "payload" : {"a":2.50} ,"header":{ "x":[1 , 2],"historical_route":["White\u004cist"],"route":["Log"], "t":1e400}}"#
        );
    }

    #[test]
    fn a_missing_history_is_begun() {
        let (next, out) = advanced(r#"{"header":{"route":["Log"] },"payload":{}}"#);
        assert_eq!(next.as_deref(), Some("Log"));
        assert_eq!(out, r#"{"header":{"route":[],"historical_route":["Log"]},"payload":{}}"#);
    }

    #[test]
    fn an_empty_route_and_a_bare_payload_are_at_their_end() {
        assert_eq!(advanced(r#"{"header":{"route":[]},"payload":{}}"#).0, None);
        assert_eq!(advanced(r#"{"header":{"route":["Log"]}}"#).0, None, "no payload: all of it is payload");
        assert_eq!(advanced(r#"{"a":1}"#).0, None);
    }

    #[test]
    fn what_is_no_message_says_why() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
        let long_route = format!(r#"{{"header":{{"route":[{}"Log"]}},"payload":{{}}}}"#, r#""Log","#.repeat(9_999));
        let cases: [(&str, &str); 18] = [
            ("", "empty value"),
            (" \n", "empty value"),
            ("nonsense", "not JSON: expected ident at line 1 column 2"),
            (r#"{"a":1"#, "not JSON: EOF while parsing an object at line 1 column 6"),
            (r#"{"a":1} x"#, "not JSON: trailing characters at line 1 column 9"),
            (r#"{"a":01}"#, "not JSON: invalid number at line 1 column 7"),
            ("[1]", "not a JSON object"),
            ("17", "not a JSON object"),
            ("\"text\"", "not a JSON object"),
            (&deep, "nested deeper than limits.depth = 128"),
            (r#"{"header":{},"payload":{}}"#, "slip: route is missing"),
            (r#"{"header":null,"payload":{}}"#, "slip: header is not an object"),
            (r#"{"header":{"route":"Log"},"payload":{}}"#, "slip: route is not a list"),
            (r#"{"header":{"route":["Log",5]},"payload":{}}"#, "slip: route holds something that is not text"),
            (&long_route, "slip: 10000 hops, more than limits.hops = 64"),
            (
                r#"{"header":{"route":["Nowhere","Log"]},"payload":{}}"#,
                "slip: unknown stop \"Nowhere\": no stop here reads it and `stops` does not list it",
            ),
            (r#"{"header":{"route":[],"ro\u0075te":["Log"]},"payload":{}}"#, "slip: route occurs twice"),
            (r#"{"header":{"route":["Log"]},"payload":[1]}"#, "payload is not a JSON object"),
        ];
        for (value, reason) in cases {
            assert_eq!(parse(value).unwrap_err().to_string(), reason, "{value:.100}");
            let mut tape = Tape::default();
            assert_eq!(parse_scanned(value, &mut tape).unwrap_err().to_string(), reason, "{value:.100}");
        }
        let limits = Limits::default();
        assert_eq!(Message::parse(record(None), &limits, stops()).unwrap_err(), Malformed::Tombstone);
        assert_eq!(
            Message::parse(record(Some(b"{\"a\":\"\xff\"}")), &limits, stops()).unwrap_err(),
            Malformed::NotUtf8(6)
        );
        let long = vec![b' '; limits.message_bytes + 1];
        let reason = Message::parse(record(Some(&long)), &limits, stops()).unwrap_err().to_string();
        assert_eq!(reason, "10485761 bytes, more than limits.message_bytes = 10485760");
    }

    #[test]
    fn braces_in_text_are_not_depth() {
        let value = format!(r#"{{"a":"{}\"{}"}}"#, "[".repeat(500), "{".repeat(500));
        assert!(parse(&value).is_ok());
    }

    #[test]
    fn where_journeys_begin_no_header_is_believed() {
        let limits = Limits::default();
        let itinerary = Itinerary::new(&["AddEmail", "WhiteList", "Log"].map(topic));
        let id = Uuid::from_u128(7);
        for value in [r#"{"header":["evil"],"payload":{"a":1.0}}"#, r#"{"a":1.0}"#] {
            let mut message = Message::parse_untrusted(record(Some(value.as_bytes())), &limits).unwrap();
            message.depart(&itinerary, id);
            assert_eq!(message.next_stop(), Some(&topic("AddEmail")));
            let mut out = Vec::new();
            message.write_next(&mut out);
            let expected = concat!(
                r#"{"header":{"route":["Log","WhiteList"],"original_route":["Log","WhiteList","AddEmail"],"#,
                r#""historical_route":["AddEmail"],"id":"00000000-0000-0000-0000-000000000007"},"payload":{"a":1.0}}"#
            );
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn a_slip_that_names_its_rule_tells_it_where_it_sets_out() {
        let plain = Itinerary::new(&[topic("Log")]);
        let header = plain.header.replace("\"id\":", "\"rule\":\"rest\",\"rules\":\"0af\",\"id\":");
        let ruled = Itinerary { header: header.into(), ..plain.clone() };
        let mut message = Message::parse_untrusted(record(Some(b"{}")), &Limits::default()).unwrap();
        assert_eq!(message.rule(), None);
        for (itinerary, expected) in [(plain, None), (ruled, Some("rest"))] {
            message.depart(&itinerary, Uuid::nil());
            assert_eq!(message.rule(), expected);
        }
    }

    proptest! {
        #[test]
        fn original_route_is_route_then_history_reversed(
            route in proptest::collection::vec(prop_oneof!["AddEmail", "WhiteList", "Log"], 1..10),
            hops in 0_usize..10,
        ) {
            let itinerary = Itinerary::new(&route.iter().map(|stop| topic(stop)).collect::<Vec<_>>());
            let mut first = Message::parse_untrusted(record(Some(b"{}")), &Limits::default()).unwrap();
            first.depart(&itinerary, Uuid::nil());
            let mut value = Vec::new();
            first.write_next(&mut value);
            let mut travelled = vec![first.next_stop().unwrap().to_string()];
            for _ in 0..hops {
                let message = Message::parse(record(Some(&value)), &Limits::default(), stops()).unwrap();
                let Some(next) = message.next_stop() else { break };
                travelled.push(next.to_string());
                let mut out = Vec::new();
                message.write_next(&mut out);
                value = out;
            }
            let header = serde_json::from_slice::<Value>(&value).unwrap()["header"].clone();
            let list = |name: &str| header[name].as_array().unwrap().clone();
            let (mut whole, mut history) = (list("route"), list("historical_route"));
            prop_assert_eq!(json!(&history), json!(travelled));
            history.reverse();
            whole.extend(history);
            prop_assert_eq!(list("original_route"), whole);
        }

        #[test]
        fn no_input_panics(value in proptest::collection::vec(any::<u8>(), 0..200), text in r#"[\[\]{}":,\\a-c0-9 ]{0,60}"#) {
            let limits = Limits { message_bytes: 150, hops: 3, depth: 4 };
            for value in [&value[..], text.as_bytes()] {
                if let Ok(message) = Message::parse(record(Some(value)), &limits, stops()) {
                    message.write_next(&mut Vec::new());
                }
                let _ = Message::parse_untrusted(record(Some(value)), &limits);
            }
        }
    }
}
