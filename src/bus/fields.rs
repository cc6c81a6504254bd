//! A record as JSON, for those who look at one.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use super::{Record, Topic};

/// Topic, partition, offset, timestamp in ms, key, headers and value of a record; key, header values and value as text, each
/// as `…_base64` where it is not UTF-8.
pub(crate) fn fields(topic: &Topic, record: &Record<'_>) -> Vec<(String, Value)> {
    let headers = record.headers.into_iter().map(|(name, value)| field(name, value)).collect();
    vec![
        ("topic".to_owned(), json!(topic.as_str())),
        ("partition".to_owned(), json!(record.partition)),
        ("offset".to_owned(), json!(record.offset)),
        ("timestamp".to_owned(), json!(record.timestamp)),
        field("key", record.key),
        ("headers".to_owned(), Value::Object(headers)),
        field("value", record.value),
    ]
}

fn field(name: &str, bytes: Option<&[u8]>) -> (String, Value) {
    match bytes.map(|bytes| std::str::from_utf8(bytes).map_err(|_| bytes)) {
        None => (name.to_owned(), Value::Null),
        Some(Ok(text)) => (name.to_owned(), json!(text)),
        Some(Err(bytes)) => (format!("{name}_base64"), json!(BASE64_STANDARD.encode(bytes))),
    }
}
