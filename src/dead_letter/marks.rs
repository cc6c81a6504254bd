//! What became of dead letters: marks on a topic of their own (`repair_topic`).
//!
//! A letter stays where it is, so its place does too. That it was sent again, or given up, is told by a record beside the
//! message itself, published in the same act. Nothing on that topic may get lost before the letters do: retention takes
//! nothing from it.
//!
//! # Format
//!
//! The key is the place of the letter, `PARTITION/OFFSET`. The value is a JSON object:
//!
//! | field | value |
//! | --- | --- |
//! | `partition`, `offset` | where the letter lies on the topic of dead letters |
//! | `timestamp` | the time of that record, milliseconds since the epoch |
//! | `rejected` | its `metrobus.time`; null where it has none |
//! | `done` | `"replayed"` or `"discarded"` |
//! | `time` | when, milliseconds since the epoch |
//! | `to` | of one that was replayed, the topic that it was sent to |
//! | `replays` | of one that was replayed, how often its message had been by then |
//!
//! A mark is of a letter where all of the first four agree: what lies at the same place of a topic that was deleted and made
//! anew is another letter. What is no such object is no mark, and passed over.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{Letter, Place};
use crate::bus::{Outbox, Record, Topic};

/// What was done with a letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Done {
    Replayed,
    Discarded,
}

impl Done {
    pub fn name(self) -> &'static str {
        match self {
            Self::Replayed => "replayed",
            Self::Discarded => "discarded",
        }
    }
}

/// A mark as it is published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    partition: i32,
    offset: i64,
    timestamp: i64,
    rejected: Option<i64>,
    pub done: Done,
    /// Milliseconds since the epoch.
    pub time: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replays: Option<u32>,
}

impl Mark {
    /// Of a letter that is sent to `to` for the `replays`-th time.
    pub fn replayed(letter: &Letter, time: i64, to: &Topic, replays: u32) -> Self {
        let mark = Self::discarded(letter, time);
        Self { done: Done::Replayed, to: Some(to.to_string()), replays: Some(replays), ..mark }
    }

    /// Of a letter that is given up.
    pub fn discarded(letter: &Letter, time: i64) -> Self {
        let Letter { partition, offset, timestamp, time: rejected, .. } = *letter;
        Self { partition, offset, timestamp, rejected, done: Done::Discarded, time, to: None, replays: None }
    }

    /// `None` where the record is no mark.
    fn read(record: &Record<'_>) -> Option<Self> {
        serde_json::from_slice(record.value?).ok()
    }

    fn place(&self) -> Place {
        Place { partition: self.partition, offset: self.offset }
    }

    fn is_of(&self, letter: &Letter) -> bool {
        self.place() == letter.place() && (self.timestamp, self.rejected) == (letter.timestamp, letter.time)
    }

    /// Adds the mark to `outbox`.
    pub fn write(&self, outbox: &mut Outbox, topic: &Topic) {
        // Numbers and texts are all that it holds
        let value = serde_json::to_vec(self).unwrap_or_default();
        outbox.publish(topic, self.time, Some(self.place().to_string().as_bytes()), Some(&value));
    }
}

/// The marks of all letters.
#[derive(Clone, Debug, Default)]
pub struct Marks(HashMap<Place, Mark>);

impl Marks {
    /// Takes a record of the topic in.
    pub fn take(&mut self, record: &Record<'_>) {
        if let Some(mark) = Mark::read(record) {
            self.0.insert(mark.place(), mark);
        }
    }

    /// What was done with a letter; `None` where it is still to be dealt with.
    pub fn of(&self, letter: &Letter) -> Option<&Mark> {
        self.0.get(&letter.place()).filter(|mark| mark.is_of(letter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::{Batch, Headers};

    fn letter(offset: i64, timestamp: i64) -> Letter {
        let value = Some(&b"{}"[..]);
        let headers = Headers::default();
        Letter::read(&Record { partition: 1, offset, timestamp, key: None, headers, value })
    }

    fn taken(marks: &mut Marks, value: Option<&[u8]>) {
        marks.take(&Record { partition: 0, offset: 0, timestamp: 0, key: None, headers: Headers::default(), value });
    }

    #[test]
    fn a_mark_is_of_one_letter_and_of_none_that_takes_its_place() {
        let (topic, to) = (Topic::new("Repair").unwrap(), Topic::new("Log").unwrap());
        let mark = Mark::replayed(&letter(7, 5), 1_700_000_000_000, &to, 2);
        let mut outbox = Outbox::default();
        mark.write(&mut outbox, &topic);
        let none = Batch::default();
        let written = outbox.iter(&none).next().unwrap();
        assert_eq!((written.key, written.timestamp), (Some(&b"1/7"[..]), 1_700_000_000_000));
        let expected = r#"{"partition":1,"offset":7,"timestamp":5,"rejected":null,"done":"replayed","time":1700000000000,"to":"Log","replays":2}"#;
        assert_eq!(std::str::from_utf8(written.value.unwrap()).unwrap(), expected);
        let mut marks = Marks::default();
        taken(&mut marks, written.value);
        assert_eq!(marks.of(&letter(7, 5)), Some(&mark));
        for other in [letter(8, 5), letter(7, 6), Letter { time: Some(1), ..letter(7, 5) }] {
            assert_eq!(marks.of(&other), None, "{other:?}");
        }
        // Of a topic made anew at the same place: the later one counts
        let later = Mark::discarded(&letter(7, 6), 9);
        taken(&mut marks, Some(&serde_json::to_vec(&later).unwrap()));
        assert_eq!((marks.of(&letter(7, 5)), marks.of(&letter(7, 6))), (None, Some(&later)));
    }

    #[test]
    fn what_is_no_mark_is_passed_over() {
        let mut marks = Marks::default();
        for value in [None, Some(&b""[..]), Some(b"\xff"), Some(b"[]"), Some(br#"{"partition":1,"offset":7}"#)] {
            taken(&mut marks, value);
        }
        assert_eq!(marks.0.len(), 0);
    }
}
