//! CloudEvents 1.0 that come by HTTP, in each of the three modes of its HTTP binding.
//!
//! | mode | known by | an event's attributes are |
//! | --- | --- | --- |
//! | binary | headers that begin with `ce-` | those headers, and Content-Type |
//! | structured | `application/cloudevents+json` | fields of the body, an object |
//! | batch | `application/cloudevents-batch+json` | fields of each object in the body, a list |
//!
//! On the bus an event is as Kafka's binding has it in its binary mode: the data is the value, each attribute a record header
//! `ce_NAME`, `datacontenttype` the one called `content-type`, and `partitionkey` is the record's key as well. So whatever mode it
//! came in, it is the same message, and a consumer of Kafka that knows CloudEvents can read it.
//!
//! The data has to be a JSON object, as every message; an event without data, or with null for it, has `{}`. `source` and `id`
//! name an event, so that one that comes twice to a topic is known by them.

use std::{collections::HashSet, fmt};

use axum::http::{HeaderMap, StatusCode, header::CONTENT_TYPE};
use base64::{Engine, prelude::BASE64_STANDARD};
use percent_encoding::percent_decode_str;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    budget::Hold,
    event::{EVENT_BYTES, Event},
};
use crate::{
    bus::Topic,
    rules::Timestamp,
    slip::{Limits, Malformed},
};

/// Most attributes of an event.
const ATTRIBUTES: usize = 64;

/// Longest value of an attribute, in bytes.
const VALUE_BYTES: usize = 8 * 1024;

/// Longest name of an attribute, in bytes; the specification asks for 20 at most.
const NAME_BYTES: usize = 64;

/// As which mode of CloudEvents a request is to be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// None: it is no event of that kind.
    None,
    Binary,
    Structured,
    Batch,
}

/// Finds out by the headers of a request.
pub fn detect(headers: &HeaderMap) -> Kind {
    let media_type = essence(text_of(headers, CONTENT_TYPE.as_str()).unwrap_or_default());
    match media_type.strip_prefix("application/cloudevents") {
        Some(format) if format.starts_with("-batch") => return Kind::Batch,
        Some(format) if format.is_empty() || format.starts_with('+') => return Kind::Structured,
        _ => {}
    }
    // One of them would do; whoever forgot the others is told so
    let is_event = ["ce-specversion", "ce-id", "ce-source", "ce-type"].iter().any(|name| headers.contains_key(*name));
    if is_event { Kind::Binary } else { Kind::None }
}

/// Why a request brings no events.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// A format, or a type of data, that is not taken here.
    #[error("{0}")]
    MediaType(String),
    #[error("{0}")]
    Event(String),
    /// Its data is longer than that of an event may be.
    #[error("{0}")]
    TooLong(String),
    /// One of a batch, the first being 0.
    #[error("event {0} of the batch: {1}")]
    OneOf(usize, Box<Wrong>),
    /// A batch of more than so many.
    #[error("there are more than {0} events")]
    TooMany(usize),
    /// There is no memory for them at present.
    #[error("there is no memory for all events at present")]
    Full,
}

impl Wrong {
    /// 415, 413 or 400; 503 of a batch that is too much at present.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::MediaType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Event(_) => StatusCode::BAD_REQUEST,
            Self::OneOf(_, wrong) => wrong.status(),
            Self::TooLong(_) | Self::TooMany(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Full => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// The events that a request brings for `topic`: one, or those of a batch, of which there may be none. Each has its
/// [`Event::idempotency_key`]. Those of a batch are `most` at most, and `hold` takes their memory.
pub fn events(
    topic: &Topic,
    headers: &HeaderMap,
    body: &[u8],
    limits: &Limits,
    most: usize,
    hold: &mut Hold,
) -> Result<Vec<Event>, Wrong> {
    match detect(headers) {
        Kind::Structured => {
            Ok(vec![structured(topic, json_body(headers, "application/cloudevents+json", body)?, limits)?])
        }
        Kind::Batch => {
            batch(topic, json_body(headers, "application/cloudevents-batch+json", body)?, limits, most, hold)
        }
        Kind::Binary | Kind::None => Ok(vec![binary(topic, headers, body, limits)?]),
    }
}

fn batch(topic: &Topic, body: &str, limits: &Limits, most: usize, hold: &mut Hold) -> Result<Vec<Event>, Wrong> {
    let all = list(body, most)
        .map_err(|error| Wrong::Event(format!("the body must be a JSON list of CloudEvents: {error}")))?;
    let (mut events, mut known) = (Vec::new(), HashSet::new());
    for (index, event) in all.iter().enumerate() {
        if index == most {
            return Err(Wrong::TooMany(most));
        }
        if !hold.take(event.get().len() + EVENT_BYTES) {
            return Err(Wrong::Full);
        }
        let event = structured(topic, event.get(), limits).and_then(|event| match &event.idempotency_key {
            Some(key) if !known.insert(key.clone()) => {
                Err(Wrong::Event("its source and id are those of another one before it".into()))
            }
            _ => Ok(event),
        });
        events.push(event.map_err(|wrong| Wrong::OneOf(index, Box::new(wrong)))?);
    }
    Ok(events)
}

/// What is in the JSON list `body`. Where that is more than `most`, one more than those, as a sign.
fn list(body: &str, most: usize) -> serde_json::Result<Vec<&RawValue>> {
    let mut json = serde_json::Deserializer::from_str(body);
    let all = json.deserialize_seq(ListVisitor { most })?;
    json.end()?;
    Ok(all)
}

struct ListVisitor {
    most: usize,
}

impl<'de> Visitor<'de> for ListVisitor {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a sequence")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut all = Vec::new();
        while all.len() <= self.most {
            match list.next_element()? {
                Some(value) => all.push(value),
                None => return Ok(all),
            }
        }
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(all)
    }
}

/// The body where it is in the one format that is taken, JSON in UTF-8.
fn json_body<'a>(headers: &HeaderMap, expected: &str, body: &'a [u8]) -> Result<&'a str, Wrong> {
    let content_type = text_of(headers, CONTENT_TYPE.as_str()).unwrap_or_default();
    if essence(content_type) != expected || !is_utf8(content_type) {
        return Err(Wrong::MediaType(format!("CloudEvents are taken as {expected}, in UTF-8")));
    }
    std::str::from_utf8(body)
        .map_err(|error| Wrong::Event(format!("the body is not UTF-8 at byte {}", error.valid_up_to())))
}

fn binary(topic: &Topic, headers: &HeaderMap, body: &[u8], limits: &Limits) -> Result<Event, Wrong> {
    let mut attributes = Attributes::default();
    for (header, value) in headers {
        let Some(name) = header.as_str().strip_prefix("ce-") else { continue };
        if matches!(name, "data" | "datacontenttype") {
            return Err(Wrong::Event(format!(
                "there is no header {header}: the body is the data, and Content-Type its type"
            )));
        }
        let value =
            from_header(value.as_bytes()).map_err(|what| Wrong::Event(format!("the header {header} {what}")))?;
        attributes.add(name, value)?;
    }
    let content_type = match headers.contains_key(CONTENT_TYPE) {
        true => Some(text_of(headers, CONTENT_TYPE.as_str()).ok_or_else(data_type)?),
        false => None,
    };
    attributes.event(topic, content_type, body, limits)
}

/// A header's value as the binding has it read: quotes taken off, then percent-decoded once.
fn from_header(value: &[u8]) -> Result<String, &'static str> {
    let text = std::str::from_utf8(value).map_err(|_| "is not UTF-8")?;
    let text = match text.strip_prefix('"') {
        Some(quoted) => unquoted(quoted).ok_or("has a quote that does not end")?,
        None => text.to_owned(),
    };
    let decoded = percent_decode_str(&text).decode_utf8().map_err(|_| "is not UTF-8 in percent-encoding")?;
    Ok(decoded.into_owned())
}

/// What is before the closing quote, which has to be the end (RFC 9110, 5.6.4).
fn unquoted(text: &str) -> Option<String> {
    let mut out = String::new();
    let mut characters = text.chars();
    loop {
        match characters.next()? {
            '"' => return characters.next().is_none().then_some(out),
            '\\' => out.push(characters.next()?),
            character => out.push(character),
        }
    }
}

fn structured(topic: &Topic, event: &str, limits: &Limits) -> Result<Event, Wrong> {
    let Fields(fields) = serde_json::from_str(event)
        .map_err(|error| Wrong::Event(format!("a CloudEvent must be a JSON object: {error}")))?;
    let (mut attributes, mut data, mut encoded) = (Attributes::default(), None, None);
    let mut content_type = None;
    for (name, value) in fields {
        match name.as_str() {
            _ if value.get() == "null" => {}
            "data" => data = Some(value.get().as_bytes()),
            "data_base64" => encoded = Some(decoded(value)?),
            "datacontenttype" => content_type = Some(scalar(&name, value)?),
            _ => attributes.add(&name, scalar(&name, value)?)?,
        }
    }
    if data.is_some() && encoded.is_some() {
        return Err(Wrong::Event("there are both data and data_base64: an event has one of the two".into()));
    }
    let data = data.or(encoded.as_deref()).unwrap_or_default();
    // What names no type is JSON
    attributes.event(topic, Some(content_type.as_deref().unwrap_or("application/json")), data, limits)
}

fn decoded(value: &RawValue) -> Result<Vec<u8>, Wrong> {
    let text: Option<String> = serde_json::from_str(value.get()).ok();
    let bytes = text.and_then(|text| BASE64_STANDARD.decode(text).ok());
    bytes.ok_or_else(|| Wrong::Event("data_base64 must be text in base64".into()))
}

/// What the specification has as text, whatever it looks like.
const TEXTS: [&str; 8] = ["id", "source", "specversion", "type", "datacontenttype", "dataschema", "subject", "time"];

/// An attribute's value as its canonical text.
fn scalar(name: &str, value: &RawValue) -> Result<String, Wrong> {
    let json = value.get();
    if TEXTS.contains(&name) {
        let text = serde_json::from_str(json);
        return text.map_err(|_| Wrong::Event(format!("{name} must be text")));
    }
    let text = match json.as_bytes().first() {
        Some(b'"') => serde_json::from_str(json).ok(),
        Some(b't' | b'f') => Some(json.to_owned()),
        _ => json.parse().ok().map(|number: i32| number.to_string()),
    };
    let wrong = || Wrong::Event(format!("{} must be text, true, false or a whole number of 32 bits", shown(name)));
    text.ok_or_else(wrong)
}

/// What is known of an event, but for its data and its type.
#[derive(Default)]
struct Attributes(Vec<(String, String)>);

impl Attributes {
    fn add(&mut self, name: &str, value: String) -> Result<(), Wrong> {
        let wrong = |what: String| Err(Wrong::Event(what));
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        if name.is_empty() || name.len() > NAME_BYTES || !name.bytes().all(legal) {
            return wrong(format!("{} is no name of an attribute: a-z 0-9 are, {NAME_BYTES} at most", shown(name)));
        }
        if value.len() > VALUE_BYTES {
            return wrong(format!("{name} is longer than {VALUE_BYTES} bytes"));
        }
        if value.chars().any(char::is_control) {
            return wrong(format!("{name} has a control character"));
        }
        if self.get(name).is_some() {
            return wrong(format!("{name} is there twice"));
        }
        if self.0.len() == ATTRIBUTES {
            return wrong(format!("there are more than {ATTRIBUTES} attributes"));
        }
        self.0.push((name.to_owned(), value));
        Ok(())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// One that every event has.
    fn required(&self, name: &str) -> Result<&str, Wrong> {
        let value = self.get(name).filter(|value| !value.is_empty());
        value.ok_or_else(|| {
            Wrong::Event(format!("there is no {name}: a CloudEvent has id, source, specversion and type"))
        })
    }

    fn event(
        mut self,
        topic: &Topic,
        content_type: Option<&str>,
        data: &[u8],
        limits: &Limits,
    ) -> Result<Event, Wrong> {
        if self.required("specversion")? != "1.0" {
            return Err(Wrong::Event("specversion must be 1.0".into()));
        }
        self.required("type")?;
        let (id, source) = (self.required("id")?, self.required("source")?);
        let known_as = format!("cloudevent {topic} {}:{source}{id}", source.len());
        if self.get("time").is_some_and(|time| Timestamp::parse(time).is_none()) {
            return Err(Wrong::Event("time must be as 2026-01-31T12:00:00Z, RFC 3339".into()));
        }
        if content_type.is_some_and(|content_type| !is_json(content_type)) {
            return Err(data_type());
        }
        let data = if data.trim_ascii().is_empty() { b"{}" } else { data };
        // One event is one message, in whichever order its attributes come
        self.0.sort_unstable();
        let refused = |reason: Malformed| match reason {
            Malformed::TooLong { .. } => Wrong::TooLong(format!("the data is {reason}")),
            reason => Wrong::Event(format!("the data must be a JSON object: it is {reason}")),
        };
        let mut event = Event::new(topic, data, limits).map_err(refused)?;
        for (name, value) in &self.0 {
            event.header(&format!("ce_{name}"), value);
        }
        if let Some(content_type) = content_type {
            event.header("content-type", content_type);
        }
        event.key = self.get("partitionkey").map(|key| key.as_bytes().to_vec());
        event.idempotency_key = Some(known_as);
        Ok(event)
    }
}

fn data_type() -> Wrong {
    Wrong::MediaType("the data must be JSON: application/json, or a type that ends in +json, in UTF-8".into())
}

/// The fields of an object, each once.
struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields: Vec<(String, &RawValue)> = Vec::new();
        while let Some((name, value)) = map.next_entry::<String, _>()? {
            if fields.iter().any(|(known, _)| *known == name) {
                return Err(A::Error::custom(format_args!("{} is there twice", shown(&name))));
            }
            // Far beyond what may be, so that a body of nothing but fields does not cost its square
            if fields.len() > 2 * ATTRIBUTES {
                return Err(A::Error::custom(format_args!("there are more than {ATTRIBUTES} attributes")));
            }
            fields.push((name, value));
        }
        Ok(Fields(fields))
    }
}

/// A name that somebody sent, on one line and not too long.
fn shown(name: &str) -> String {
    let start: String = name.chars().take(NAME_BYTES).collect();
    format!("{start:?}")
}

/// The one value of a header, where it is text.
fn text_of<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then(|| value.to_str().ok()).flatten()
}

/// A media type without its parameters, in lower case.
pub(super) fn essence(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn is_json(content_type: &str) -> bool {
    let essence = essence(content_type);
    let json = matches!(essence.as_str(), "application/json" | "text/json") || essence.ends_with("+json");
    json && is_utf8(content_type)
}

/// Whether no other charset is named. JSON is UTF-8 (RFC 8259).
pub(super) fn is_utf8(content_type: &str) -> bool {
    let charset = |parameter: &str| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"').to_ascii_lowercase())
    };
    content_type.split(';').skip(1).filter_map(charset).all(|charset| matches!(charset.as_str(), "utf-8" | "utf8"))
}

#[cfg(test)]
mod tests;
