//! Dead letters: rejected messages on the topic Error, byte for byte as they arrived.
//!
//! Key, value and timestamp stay; the record headers say why and where from, in text:
//!
//! | header | value |
//! | --- | --- |
//! | `metrobus.reason` | why it was rejected |
//! | `metrobus.stop` | the stop that rejected it |
//! | `metrobus.topic`, `metrobus.partition`, `metrobus.offset` | the record that it was |
//! | `metrobus.time` | when it was rejected, milliseconds since the epoch |
//! | `metrobus.attempt` | how often its handler had tried, from 1 |
//! | `metrobus.history` | every attempt and rejection, see [`history`] |
//!
//! Other headers pass through. Those of an earlier rejection are replaced, but for its history, which goes on.

pub mod assignment;
pub mod desk;
pub mod history;
mod letter;
pub mod marks;
pub mod repair;
pub mod replay;

use std::time::{SystemTime, UNIX_EPOCH};

use history::{History, Trouble};
pub use letter::{Filter, Letter, Place};

use crate::bus::{Headers, Outbox, Record, Topic};

/// The longest reason that is kept, in bytes: a reason may quote what was wrong, a header has to stay small.
const REASON_BYTES: usize = 1000;

const PREFIX: &str = "metrobus.";

/// Where a stop's dead letters go, and what they say of where they come from.
#[derive(Clone, Debug)]
pub struct DeadLetters {
    /// The stop's name, as its role is called.
    pub stop: String,
    /// The topic that the stop reads.
    pub topic: Topic,
    /// The topic that takes the dead letters.
    pub error: Topic,
}

impl DeadLetters {
    /// Adds the dead letter of `record`, which is input `input` of the batch, to `outbox`.
    pub fn write(&self, outbox: &mut Outbox, input: usize, record: &Record<'_>, reason: &str, attempt: u32) {
        self.write_after(&History::default(), outbox, input, record, reason, attempt);
    }

    /// As [`DeadLetters::write`], where `tried` went wrong before.
    pub fn write_after(
        &self,
        tried: &History,
        outbox: &mut Outbox,
        input: usize,
        record: &Record<'_>,
        reason: &str,
        attempt: u32,
    ) {
        let mut history = History::read(&record.headers);
        history.extend(tried);
        let rejection = self.trouble(reason, attempt);
        let time = rejection.time;
        history.push(rejection);
        outbox.repeat(input, &self.error, |out| {
            for (name, value) in record.headers {
                if !name.starts_with(PREFIX) {
                    Headers::push(out, name, value);
                }
            }
            let mut push = |name: &str, value: &str| {
                Headers::push(out, &format!("{PREFIX}{name}"), Some(value.as_bytes()));
            };
            push("reason", shorten(reason));
            push("stop", &self.stop);
            push("topic", self.topic.as_str());
            push("partition", &record.partition.to_string());
            push("offset", &record.offset.to_string());
            push("time", &time.to_string());
            push("attempt", &attempt.to_string());
            Headers::push(out, history::HEADER, Some(history.json().as_bytes()));
        });
    }

    /// What goes wrong here and now.
    pub(crate) fn trouble(&self, reason: &str, attempt: u32) -> Trouble {
        Trouble { time: now_ms(), stop: self.stop.clone(), attempt, reason: reason.to_owned() }
    }
}

/// The part of a reason that is kept.
pub(crate) fn shorten(reason: &str) -> &str {
    cut(reason, REASON_BYTES)
}

/// As much of the beginning of `text` as `most` bytes hold.
fn cut(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
    &text[..end.unwrap_or_default()]
}

/// Milliseconds since the epoch by this machine's clock.
pub fn now_ms() -> i64 {
    milliseconds(SystemTime::now())
}

/// Milliseconds since the epoch; 0 for a time before it.
pub(crate) fn milliseconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_millis() as i64)
}
