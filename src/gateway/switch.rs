//! switch's contract: what its publishers send is understood as switch understood it.
//!
//! `POST /publish` brings `{"Topic": "books", "Payload": "eyJib2R5Ijp7fX0="}`, the payload base64 of JSON: what a request to each
//! subscriber is to be made of, see [`template`](crate::webhook::template). Publishers name no Content-Type, and say who they are by a
//! token of switch's own, see [`caller::Switch`]. `GET /refresh` has the subscribers read again.
//!
//! switch answers 200 and nothing else once it has taken a message, and with 401 for any token that it does not believe. Here
//! 200 says that the bus has it. What switch would have taken and then have thrown away, a payload that is no base64 or no
//! JSON object, is refused with 400.

use std::{fmt, fs};

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};

use super::{caller, event::Event};
use crate::{
    bus::{NotATopic, Topic},
    config::{Config, optional},
    error::Misconfigured,
    slip::{Limits, Malformed},
};

/// The record header that says in which shape a message is.
pub const SHAPE_HEADER: &str = "metrobus-shape";

/// Its value for a message whose value says which request is to be made.
pub const SHAPE: &str = "switch";

/// `[gateway.switch]`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    #[serde(deserialize_with = "optional")]
    secret: Option<String>,
    #[serde(deserialize_with = "optional")]
    secret_file: Option<String>,
    /// None are all that the gateway takes.
    topics: Vec<Topic>,
}

/// Of `[gateway]`, what is read here.
#[derive(Deserialize)]
struct Section {
    switch: Options,
}

/// Who may use switch's paths; `None` where they are off, as no secret is configured.
pub fn callers(config: &Config) -> Result<Option<caller::Switch>, Misconfigured> {
    let Section { switch: Options { secret, secret_file, topics } } = config.section("gateway")?;
    let (key, secret) = match (secret, secret_file) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => {
            return Err(config.error(SECRET_FILE, "is set beside gateway.switch.secret; set one of the two"));
        }
        (Some(secret), None) => (SECRET, secret.into_bytes()),
        (None, Some(path)) => {
            let content = fs::read(&path);
            let content =
                content.map_err(|error| config.error(SECRET_FILE, format!("cannot read {path:?}: {error}")))?;
            (SECRET_FILE, content.trim_ascii_end().to_owned())
        }
    };
    let topics = match topics.is_empty() {
        true => caller::Topics::All,
        false => caller::Topics::Only(topics.iter().map(ToString::to_string).collect()),
    };
    let switch = caller::Switch::new(&secret, topics).map_err(|_| config.error(key, "the secret must not be empty"))?;
    Ok(Some(switch))
}

const SECRET: &str = "gateway.switch.secret";
const SECRET_FILE: &str = "gateway.switch.secret_file";

/// Why a body is nothing to publish: 400. The text is the answer's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    #[error("the body must be a JSON object with topic and payload: {0}")]
    Body(String),
    #[error("there is no {0}: send a JSON object with topic and payload")]
    Missing(&'static str),
    #[error("topic: {0}")]
    Topic(NotATopic),
    #[error("payload must be base64 of a JSON object: {0}")]
    NotBase64(String),
    #[error("payload must be base64 of a JSON object: what it holds is {0}")]
    Payload(Malformed),
}

/// The message of the `body` of `POST /publish`, for whichever topic it names.
pub fn publish(body: &[u8], limits: &Limits) -> Result<Event, Wrong> {
    let Body { topic, payload } = serde_json::from_slice(body).map_err(|error| Wrong::Body(error.to_string()))?;
    let topic = topic.filter(|topic| !topic.is_empty()).ok_or(Wrong::Missing("topic"))?;
    let topic = Topic::new(&topic).map_err(Wrong::Topic)?;
    let payload = decode(&payload.ok_or(Wrong::Missing("payload"))?).map_err(Wrong::NotBase64)?;
    let mut event = Event::new(&topic, &payload, limits).map_err(Wrong::Payload)?;
    event.header(SHAPE_HEADER, SHAPE);
    Ok(event)
}

/// Takes what switch's consumer did, by Python's `b64decode`: what is not of the alphabet is passed over, line feeds among it. And
/// what other encoders write: the alphabet for URLs, and no padding.
fn decode(payload: &str) -> Result<Vec<u8>, String> {
    const CONFIG: GeneralPurposeConfig = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    const ENGINE: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, CONFIG);
    let known = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/-_=".contains(byte);
    let plain = payload.bytes().filter(known).map(|byte| match byte {
        b'-' => b'+',
        b'_' => b'/',
        byte => byte,
    });
    ENGINE.decode(plain.collect::<Vec<u8>>()).map_err(|error| error.to_string())
}

/// Keys in any case; of two that are one, the later counts, and null says nothing. So does Go, in which switch is written.
#[derive(Default)]
struct Body {
    topic: Option<String>,
    payload: Option<String>,
}

impl<'de> Deserialize<'de> for Body {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Fields)
    }
}

struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = Body;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Body, A::Error> {
        let mut body = Body::default();
        while let Some(key) = map.next_key::<String>()? {
            let field = match () {
                () if key.eq_ignore_ascii_case("topic") => &mut body.topic,
                () if key.eq_ignore_ascii_case("payload") => &mut body.payload,
                () => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            if let Some(text) = map.next_value()? {
                *field = Some(text);
            }
        }
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
    use proptest::prelude::*;

    use super::*;
    use crate::bus::{Batch, Outbox};

    fn of(body: &str) -> Result<Event, Wrong> {
        publish(body.as_bytes(), &Limits::default())
    }

    #[test]
    fn what_the_sdks_send_is_published_as_it_was_encoded() {
        let payload = r#"{"body":{"a":2.50,"t":"ÿ~~~???>>>"},"path_params":{"id":7},"http_method":"put"}"#;
        let standard = BASE64_STANDARD.encode(payload);
        let lines = format!("{}\\n{}\\r\\n", &standard[..20], &standard[20..]);
        assert!(standard.contains(['+', '/']), "{standard}");
        for (name, encoded) in [
            ("Payload", standard.clone()),
            ("payload", standard.trim_end_matches('=').to_owned()),
            ("PAYLOAD", BASE64_URL_SAFE_NO_PAD.encode(payload)),
            ("pAYLOAD", lines),
            // As in the tests of switch's consumer
            ("Payload", format!("{}\\\\{}", &standard[..31], &standard[31..])),
        ] {
            let event = of(&format!(r#"{{"{name}":"{encoded}","Topic":"books","more":[1]}}"#)).unwrap();
            assert_eq!((event.topic.as_str(), event.value()), ("books", payload.as_bytes()), "{name}");
            let mut outbox = Outbox::default();
            event.write(&mut outbox, 7);
            let batch = Batch::default();
            let record = outbox.iter(&batch).next().unwrap();
            assert_eq!(record.headers.get("metrobus-shape"), Some(&b"switch"[..]));
            assert_eq!(record.headers.get("metrobus-id"), Some(event.id.to_string().as_bytes()));
        }
    }

    #[test]
    fn of_two_keys_the_later_counts() {
        let event = of(r#"{"TOPIC":"a","topic":"b","Topic":null,"payload":"e30="}"#).unwrap();
        assert_eq!((event.topic.as_str(), event.value()), ("b", &b"{}"[..]));
    }

    #[test]
    fn what_nobody_could_deliver_is_refused_at_the_door() {
        for (body, reason) in [
            ("", "the body must be a JSON object with topic and payload: EOF while parsing a value at line 1 column 0"),
            (
                "[]",
                "the body must be a JSON object with topic and payload: invalid type: sequence, expected an object at line 1 column 0",
            ),
            (r#"{"payload":"e30="}"#, "there is no topic: send a JSON object with topic and payload"),
            (r#"{"topic":"","payload":"e30="}"#, "there is no topic: send a JSON object with topic and payload"),
            (r#"{"topic":"a"}"#, "there is no payload: send a JSON object with topic and payload"),
            (r#"{"topic":"a b","payload":"e30="}"#, "topic: \"a b\" is no topic: 1 to 249 of A-Z a-z 0-9 . _ - are"),
            (
                r#"{"topic":"a","payload":"W10="}"#,
                "payload must be base64 of a JSON object: what it holds is not a JSON object",
            ),
            (r#"{"topic":"a","payload":""}"#, "payload must be base64 of a JSON object: what it holds is empty value"),
        ] {
            assert_eq!(of(body).unwrap_err().to_string(), reason, "{body}");
        }
        assert!(matches!(of(r#"{"topic":"a","payload":"e30=e"}"#), Err(Wrong::NotBase64(_))));
        assert!(matches!(of(r#"{"topic":"a","payload":{"body":1}}"#), Err(Wrong::Body(_))));
        assert!(matches!(of(r#"{"topic":"a","payload":"e30="} x"#), Err(Wrong::Body(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(body: Vec<u8>, topic in "[a-z]{0,3}", payload: String) {
            let _ = publish(&body, &Limits::default());
            let body = serde_json::json!({ "topic": topic, "payload": payload }).to_string();
            let _ = publish(body.as_bytes(), &Limits::default());
        }

        #[test]
        fn every_object_arrives(text: String, number: i64) {
            let payload = serde_json::json!({ "body": { text: number } }).to_string();
            let body = serde_json::json!({ "Topic": "t", "Payload": BASE64_STANDARD.encode(&payload) }).to_string();
            let event = of(&body).unwrap();
            prop_assert_eq!(event.value(), payload.as_bytes());
        }
    }
}
