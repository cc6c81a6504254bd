//! What a request brings: a message, and the record that it becomes.

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
    /// In the encoding of [`Headers`], the id first.
    headers: Vec<u8>,
    value: Vec<u8>,
}

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
        let value = match has_slip {
            true => {
                format!(
                    r#"{{"header":{{"route":[],"original_route":[],"historical_route":[],"id":"{id}"}},"payload":{body}}}"#
                )
            }
            false => body.to_owned(),
        };
        Checked::new(Some(value.as_bytes()), limits, &mut Tape::default())?;
        let mut event = Self { topic: topic.clone(), id, key: None, headers: Vec::new(), value: value.into_bytes() };
        event.header(ID_HEADER, &id.to_string());
        Ok(event)
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
            let event = event(body).unwrap();
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
    fn what_no_stop_could_take_is_refused_at_the_door() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(128), "]".repeat(128));
        // With its slip it would be one level deeper than what a stop takes
        let wrapped = format!("{{\"header\":{{}},\"payload\":{}{}}}", "[".repeat(127), "]".repeat(127));
        for body in ["", "7", "[1]", "{\"a\":}", "\"text\"", "{\"a\":1} x", &deep, &wrapped] {
            assert!(event(body).is_err(), "{body}");
        }
    }
}
