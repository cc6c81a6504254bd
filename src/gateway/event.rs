//! What a request brings: a message, and the record that it becomes.

use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    bus::{Headers, Outbox, Topic},
    json::scan::Tape,
    slip::{Checked, ID_HEADER, Limits, Malformed, Parts},
};

/// A message that somebody brought, before the bus has it.
///
/// Its record has the id of the message in the header [`ID_HEADER`], where the busdriver and `deliver` find it, and the body as
/// it was sent for its value. A body that a stop would take for a message with a slip is put below `payload`, behind a slip
/// that leads nowhere: who brings a message by HTTP cannot route it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub topic: Topic,
    pub id: Uuid,
    pub key: Option<Vec<u8>>,
    /// By which a repeat of the message is known, where the message itself says so; see [`idempotency`](super::idempotency).
    pub idempotency_key: Option<String>,
    /// In the encoding of [`Headers`], the id first.
    headers: Vec<u8>,
    value: Vec<u8>,
    /// Where the value has the id, where it has it.
    id_in_value: Option<usize>,
}

/// About what an event takes of memory beside its value, in bytes.
pub const EVENT_BYTES: usize = 256;

/// Bytes of an id as text.
const ID_BYTES: usize = 36;

/// Where the headers have the id: behind its name, and the lengths of name and value.
const ID_IN_HEADERS: usize = 4 + ID_HEADER.len() + 4;

impl Event {
    /// Of `body`, one JSON object within `limits`, with a new id.
    pub fn new(topic: &Topic, body: &[u8], limits: &Limits) -> Result<Self, Malformed> {
        let checked = Checked::new(Some(body), limits, &mut Tape::default())?;
        let has_slip = match Parts::new(&checked, None) {
            Ok(parts) => parts.has_slip(),
            // A stop would refuse it for its slip, and has no reason to look for one
            Err(Malformed::Twice(_)) => true,
            Err(error) => return Err(error),
        };
        let id = Uuid::now_v7();
        let body = checked.whole();
        if !has_slip {
            return Ok(Self::of(topic, id, body.to_owned(), None));
        }
        let begin = r#"{"header":{"route":[],"original_route":[],"historical_route":[],"id":""#;
        let value = format!(r#"{begin}{id}"}},"payload":{body}}}"#);
        Checked::new(Some(value.as_bytes()), limits, &mut Tape::default())?;
        Ok(Self::of(topic, id, value, Some(begin.len())))
    }

    /// Of an object whose field `id` is its id, with what `rest` writes behind it. That is to be no message with a slip.
    pub(super) fn with_field_id(
        topic: &Topic,
        limits: &Limits,
        rest: impl FnOnce(&mut String),
    ) -> Result<Self, Malformed> {
        let id = Uuid::now_v7();
        let begin = r#"{"id":""#;
        let mut value = format!("{begin}{id}\"");
        rest(&mut value);
        value.push('}');
        Checked::new(Some(value.as_bytes()), limits, &mut Tape::default())?;
        Ok(Self::of(topic, id, value, Some(begin.len())))
    }

    fn of(topic: &Topic, id: Uuid, value: String, id_in_value: Option<usize>) -> Self {
        let mut event = Self {
            topic: topic.clone(),
            id,
            key: None,
            idempotency_key: None,
            headers: Vec::new(),
            value: value.into_bytes(),
            id_in_value,
        };
        event.header(ID_HEADER, &id.to_string());
        event
    }

    /// The same message with the id `id`, which its sender was told before.
    pub fn with_id(mut self, id: Uuid) -> Self {
        let mut buffer = Uuid::encode_buffer();
        let text = id.hyphenated().encode_lower(&mut buffer).as_bytes();
        self.headers[ID_IN_HEADERS..][..ID_BYTES].copy_from_slice(text);
        if let Some(at) = self.id_in_value {
            self.value[at..][..ID_BYTES].copy_from_slice(text);
        }
        self.id = id;
        self
    }

    /// The same for the same message only, whatever its id.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        part(self.topic.as_str().as_bytes());
        part(self.key.as_deref().unwrap_or_default());
        part(&self.headers[ID_IN_HEADERS + ID_BYTES..]);
        match self.id_in_value {
            Some(at) => {
                part(&self.value[..at]);
                part(&self.value[at + ID_BYTES..]);
            }
            None => part(&self.value),
        }
        hash.finalize().into()
    }

    /// Adds a record header.
    pub fn header(&mut self, name: &str, value: &str) {
        Headers::push(&mut self.headers, name, Some(value.as_bytes()));
    }

    /// The record's value.
    pub fn value(&self) -> &[u8] {
        &self.value
    }

    /// Appends its record to `outbox`, as of `now`, in milliseconds since the epoch.
    pub fn write(&self, outbox: &mut Outbox, now: i64) {
        let headers = Headers::from_encoded(&self.headers);
        outbox.publish_with(&self.topic, now, self.key.as_deref(), headers, Some(&self.value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        bus::{Batch, Record},
        slip::{Message, Stops},
    };

    fn event(body: &str) -> Result<Event, Malformed> {
        Event::new(&Topic::new("Source").unwrap(), body.as_bytes(), &Limits::default())
    }

    #[test]
    fn a_body_is_the_value_and_never_a_slip() {
        let (limits, stops) = (Limits::default(), Stops::default());
        for body in [
            r#"{"a":2.50,"a b":[1e400]}"#,
            r#"{"header":{"route":["Log"]}}"#,
            r#"{"payload":7}"#,
            r#"{"header":{"route":["Log"]},"payload":{"a":1}}"#,
            r#"{"header":1,"payload":2}"#,
            r#"{"he\u0061der":{"route":["Log"],"id":"mine"},"payload":{}}"#,
            r#"{"header":{},"header":{},"payload":{}}"#,
        ] {
            let id = Uuid::now_v7();
            let event = event(body).unwrap().with_id(id);
            assert_eq!(event.id, id);
            let mut outbox = Outbox::default();
            event.write(&mut outbox, 7);
            let batch = Batch::default();
            let output = outbox.iter(&batch).next().unwrap();
            let record = Record {
                partition: 0,
                offset: 0,
                timestamp: output.timestamp,
                key: output.key,
                headers: output.headers,
                value: output.value,
            };
            let at_a_stop = Message::parse(record, &limits, &stops).unwrap();
            let where_journeys_begin = Message::parse_untrusted(record, &limits).unwrap();
            for message in [&at_a_stop, &where_journeys_begin] {
                assert_eq!(message.payload.object().raw(), body);
                assert_eq!(message.id_to_depart_with(), event.id);
            }
            assert_eq!(at_a_stop.id(), Some(&*event.id.to_string()), "{body}");
        }
    }

    #[test]
    fn a_fingerprint_is_that_of_the_message_and_not_of_its_id() {
        let bodies = [r#"{"a":1}"#, r#"{"a":2}"#, r#"{"header":{},"payload":1}"#, r#"{"header":{},"payload":2}"#];
        let prints = bodies.map(|body| event(body).unwrap().fingerprint());
        assert_eq!(prints, bodies.map(|body| event(body).unwrap().fingerprint()));
        let mut other = event(bodies[0]).unwrap();
        other.header("ce_id", "1");
        let all: std::collections::HashSet<_> = prints.into_iter().chain([other.fingerprint()]).collect();
        assert_eq!(all.len(), 5);
    }

    #[test]
    fn what_no_stop_could_take_is_refused_at_the_door() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(128), "]".repeat(128));
        // With its slip it would be one level deeper than what a stop takes
        let wrapped = format!("{{\"header\":{{}},\"payload\":{}{}}}", "[".repeat(127), "]".repeat(127));
        for body in ["", "7", "[1]", "{\"a\":}", "\"text\"", "{\"a\":1} x", &deep, &wrapped] {
            assert!(event(body).is_err(), "{body}");
        }
    }
}
