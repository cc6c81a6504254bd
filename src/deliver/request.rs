//! The request that a message makes.
//!
//! A message in switch's shape says itself what is asked, see [`template`]. Any other is POSTed as it is, the bytes of its
//! payload. CloudEvents lie on the bus in the binary mode of [their binding to Kafka] and go out in that of [the one to HTTP]:
//! record headers `ce_…` become headers `ce-…`. Every request has the headers of Standard Webhooks, with signatures where the
//! subscriber has secrets.
//!
//! [their binding to Kafka]: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md
//! [the one to HTTP]: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md

use std::time::SystemTime;

use axum::body::Bytes;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use reqwest::{
    Method,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use url::Url;
use uuid::Uuid;

use super::SHAPE_HEADER;
use crate::{
    bus::{Headers, Record, Topic},
    json::Object,
    subscriber::Subscriber,
    webhook::{
        signature::{self, BadId},
        template::{self, Unsendable},
    },
};

/// What a client is to send.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Why a message makes no request. The text has no values of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRequest {
    #[error(transparent)]
    Unsendable(#[from] Unsendable),
    #[error(transparent)]
    Id(#[from] BadId),
    #[error("the record has more than {ATTRIBUTES} attributes of a CloudEvent")]
    Attributes,
    #[error("the URL would be longer than {URL_BYTES} bytes")]
    Url,
}

/// Most attributes of a CloudEvent that are sent, each a header.
const ATTRIBUTES: usize = 1000;

/// Longest URL that the client takes.
const URL_BYTES: usize = 65_534;

/// The fields of a message in switch's shape.
const FIELDS: [&str; 5] = ["body", "headers", "query_params", "path_params", "http_method"];

/// Whether a message is sent to the subscriber as switch would: the record says so, or it is one of switch's table and the
/// payload has no other fields than those that switch knows.
pub fn is_switch(subscriber: &Subscriber, headers: &Headers<'_>, payload: &[u8]) -> bool {
    let looks = || {
        let object = std::str::from_utf8(payload).ok().and_then(|payload| Object::new(payload).if_object());
        object.is_some_and(|object| {
            let (mut names, mut known) = (0, 0);
            object.each(|key, _| {
                names += 1;
                known += usize::from(FIELDS.iter().any(|field| key.is(field)));
            });
            names > 0 && names == known
        })
    };
    headers.get(SHAPE_HEADER) == Some(b"switch") || (subscriber.of_switch && looks())
}

/// The request to `subscriber` that a message makes at `now`: its record headers, its payload, and the id that it has for
/// receivers.
pub fn request(
    subscriber: &Subscriber,
    headers: &Headers<'_>,
    payload: Bytes,
    id: &str,
    now: SystemTime,
) -> Result<Request, NoRequest> {
    let mut request = match is_switch(subscriber, headers, &payload) {
        true => {
            let template::Request { method, url, headers, body } = template::request(&subscriber.target, &payload)?;
            Request { method, url, headers, body: body.into() }
        }
        false => plain(subscriber, headers, payload)?,
    };
    if request.url.as_str().len() > URL_BYTES {
        return Err(NoRequest::Url);
    }
    for (name, value) in &subscriber.headers {
        request.headers.insert(name, value.clone());
    }
    for (name, value) in signature::sign(&subscriber.secrets, id, now, &request.body)? {
        if name != signature::SIGNATURE || !subscriber.secrets.is_empty() {
            request.headers.insert(name, value);
        }
    }
    Ok(request)
}

fn plain(subscriber: &Subscriber, record: &Headers<'_>, body: Bytes) -> Result<Request, NoRequest> {
    let mut headers = HeaderMap::new();
    let content_type = record.get("content-type").and_then(|value| HeaderValue::from_bytes(value).ok());
    headers.insert(CONTENT_TYPE, content_type.unwrap_or(HeaderValue::from_static("application/json")));
    for (name, value) in *record {
        let attribute = name.strip_prefix("ce_").and_then(|name| HeaderName::try_from(format!("ce-{name}")).ok());
        let value = value.and_then(|value| attribute_value(std::str::from_utf8(value).ok()?));
        if let (Some(name), Some(value)) = (attribute, value) {
            headers.insert(name, value);
        }
        if headers.len() > ATTRIBUTES {
            return Err(NoRequest::Attributes);
        }
    }
    let mut url = subscriber.target.url().clone();
    // Never sent
    url.set_fragment(None);
    Ok(Request { method: Method::POST, url, headers, body })
}

/// What the binding to HTTP escapes in the value of an attribute: all but printable ASCII, and space, quote and percent.
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

fn attribute_value(text: &str) -> Option<HeaderValue> {
    HeaderValue::try_from(utf8_percent_encode(text, ESCAPED).to_string()).ok()
}

/// What a message is called to receivers: its id where that may stand in a signed request, else an id made of it, or of the
/// record that it is; the same each time.
pub fn webhook_id(id: Option<&str>, topic: &Topic, record: &Record<'_>) -> String {
    let fits =
        |id: &&str| (1..=256).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'.');
    match id {
        Some(id) if fits(&id) => id.to_owned(),
        Some(id) => made(&[b"id", id.as_bytes()]),
        None => {
            // A topic that was made anew has other records at the same places
            let (partition, offset) = (record.partition.to_le_bytes(), record.offset.to_le_bytes());
            let time = record.timestamp.to_le_bytes();
            let (key, value) = (record.key.unwrap_or_default(), record.value.unwrap_or_default());
            made(&[b"record", topic.as_str().as_bytes(), &partition, &offset, &time, key, value])
        }
    }
}

/// A UUID of version 8, from a hash.
fn made(parts: &[&[u8]]) -> String {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid().hyphenated().to_string()
}

/// Whether an id is of the kind that a record header can give a message that has no slip.
pub(super) fn is_uuid(id: &str) -> bool {
    Uuid::try_parse(id).is_ok_and(|uuid| uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()) == id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(offset: i64, value: &'static str) -> Record<'static> {
        let headers = Headers::default();
        Record { partition: 0, offset, timestamp: 5, key: None, headers, value: Some(value.as_bytes()) }
    }

    #[test]
    fn an_id_is_that_of_the_message_or_one_that_is_the_same_each_time() {
        let (topic, other) = (Topic::new("a.b").unwrap(), Topic::new("a").unwrap());
        assert_eq!(webhook_id(Some("order_7"), &topic, &record(0, "{}")), "order_7");
        // Behind a full stop another timestamp could be read
        let long = "x".repeat(257);
        for odd in ["a.b", "", "a b", "é", &long] {
            let made = webhook_id(Some(odd), &topic, &record(0, "{}"));
            assert!(is_uuid(&made), "{made}");
            assert_eq!(made, webhook_id(Some(odd), &other, &record(1, "[]")), "where it lies is another matter");
        }
        let first = webhook_id(None, &topic, &record(0, "{}"));
        assert_eq!(first, webhook_id(None, &topic, &record(0, "{}")));
        let others = [
            webhook_id(None, &other, &record(0, "{}")),
            webhook_id(None, &topic, &record(1, "{}")),
            webhook_id(None, &topic, &record(0, "{ }")),
        ];
        assert!(is_uuid(&first) && others.iter().all(|id| is_uuid(id) && *id != first), "{first} {others:?}");
        assert!(!is_uuid("0190B4A2-7F3A-7C6E-8000-0123456789AB") && !is_uuid("0190b4a27f3a7c6e80000123456789ab"));
    }

    #[test]
    fn attributes_of_events_are_escaped_as_their_binding_says() {
        let written = |text: &str| attribute_value(text).unwrap().to_str().unwrap().to_owned();
        assert_eq!(written("/a?b=c;d,e'"), "/a?b=c;d,e'");
        assert_eq!(
            written("Euro \u{20ac} \u{1f600} 100% \"x\"\r\n"),
            "Euro%20%E2%82%AC%20%F0%9F%98%80%20100%25%20%22x%22%0D%0A"
        );
    }
}
