//! Dead letters as they lie on their topic, read back.

use std::fmt;

use super::{PREFIX, replay::replays_of};
use crate::{bus::Record, slip};

/// A dead letter, and what its headers tell. Another program's has none of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Where it lies on the topic of dead letters.
    pub partition: i32,
    pub offset: i64,
    /// The time of its record, milliseconds since the epoch: that of its message.
    pub timestamp: i64,
    /// When it was rejected, milliseconds since the epoch; `None` where it does not say so.
    pub time: Option<i64>,
    pub reason: Option<String>,
    /// The stop that rejected it.
    pub stop: Option<String>,
    /// The record that it was: topic, partition, offset.
    pub origin: Option<(String, i32, i64)>,
    /// How often its handler had tried.
    pub attempts: Option<u32>,
    /// The id in its slip, or the one that it had before it had a slip.
    pub id: Option<String>,
    /// The rule in its slip.
    pub rule: Option<String>,
    /// How often its message had been replayed before.
    pub replays: u32,
}

impl Letter {
    pub fn read(record: &Record<'_>) -> Self {
        let header = |name: &str| {
            let of_name = |(other, _): &(&str, _)| other.strip_prefix(PREFIX) == Some(name);
            let value = record.headers.into_iter().filter(of_name).last()?.1?;
            std::str::from_utf8(value).ok()
        };
        let origin =
            || Some((header("topic")?.to_owned(), header("partition")?.parse().ok()?, header("offset")?.parse().ok()?));
        let in_slip = |name: &str| slip::header_text(record.value?, name);
        Self {
            partition: record.partition,
            offset: record.offset,
            timestamp: record.timestamp,
            time: header("time").and_then(|time| time.parse().ok()),
            reason: header("reason").map(str::to_owned),
            stop: header("stop").map(str::to_owned),
            origin: origin(),
            attempts: header("attempt").and_then(|attempts| attempts.parse().ok()),
            id: in_slip("id")
                .or_else(|| Some(std::str::from_utf8(record.headers.get(slip::ID_HEADER)?).ok()?.to_owned())),
            rule: in_slip("rule"),
            replays: replays_of(record),
        }
    }

    /// What it is called: its id, else the place of the record that it was, else its own.
    pub fn name(&self) -> String {
        match (&self.id, &self.origin) {
            (Some(id), _) => id.clone(),
            (None, Some((topic, partition, offset))) => format!("{topic}/{partition}/{offset}"),
            (None, None) => self.place().to_string(),
        }
    }

    /// Where it lies, as `PARTITION/OFFSET`.
    pub fn place(&self) -> Place {
        Place { partition: self.partition, offset: self.offset }
    }

    /// Whether `text` names it: as [`Letter::name`] does, by the record that it was, or by its place.
    pub fn is_called(&self, text: &str) -> bool {
        let origin = self.origin.as_ref();
        let origin = origin.map(|(topic, partition, offset)| format!("{topic}/{partition}/{offset}"));
        self.id.as_deref() == Some(text) || origin.as_deref() == Some(text) || self.place().to_string() == text
    }
}

/// Of a record on the topic of dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    pub partition: i32,
    pub offset: i64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.partition, self.offset)
    }
}

/// Which letters are meant; those of another program by nothing but their time, which they do not tell.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Text that the reason contains, in upper or lower case.
    pub reason: Option<String>,
    pub stop: Option<String>,
    pub rule: Option<String>,
    /// A name, see [`Letter::is_called`].
    pub id: Option<String>,
    /// Rejected at that time or later, and before that, in milliseconds since the epoch.
    pub since: Option<i64>,
    pub until: Option<i64>,
}

impl Filter {
    pub fn matches(&self, letter: &Letter) -> bool {
        let same = |wanted: &Option<String>, found: &Option<String>| wanted.is_none() || wanted == found;
        let reason = self.reason.as_ref().is_none_or(|wanted| {
            let found = letter.reason.as_deref().unwrap_or_default();
            found.to_lowercase().contains(&wanted.to_lowercase())
        });
        reason
            && same(&self.stop, &letter.stop)
            && same(&self.rule, &letter.rule)
            && self.id.as_ref().is_none_or(|id| letter.is_called(id))
            && self.since.is_none_or(|since| letter.time.is_some_and(|time| time >= since))
            && self.until.is_none_or(|until| letter.time.is_some_and(|time| time < until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        bus::{Batch, Headers, Outbox, Topic},
        dead_letter::DeadLetters,
    };

    fn record(value: &[u8]) -> Record<'_> {
        Record { partition: 2, offset: 7, timestamp: 5, key: None, headers: Headers::default(), value: Some(value) }
    }

    /// The letter of `value`, as a stop writes it.
    fn letter(value: &str, reason: &str) -> Letter {
        let topic = |name| Topic::new(name).unwrap();
        let letters = DeadLetters { stop: "whitelist".into(), topic: topic("WhiteList"), error: topic("Error") };
        let mut batch = Batch::default();
        batch.push(record(value.as_bytes()));
        let mut outbox = Outbox::default();
        letters.write(&mut outbox, 0, &batch.get(0), reason, 3);
        let written = outbox.iter(&batch).next().unwrap();
        Letter::read(&Record { partition: 0, offset: 9, headers: written.headers, ..record(written.value.unwrap()) })
    }

    #[test]
    fn what_a_stop_writes_is_read_back() {
        let found = letter(r#"{"header":{"route":[],"id":"a-1","rule":"r\u0031"},"payload":{}}"#, "not listed: x");
        assert!(found.time.is_some_and(|time| time > 1_700_000_000_000));
        let expected = Letter {
            partition: 0,
            offset: 9,
            timestamp: 5,
            time: found.time,
            reason: Some("not listed: x".into()),
            stop: Some("whitelist".into()),
            origin: Some(("WhiteList".into(), 2, 7)),
            attempts: Some(3),
            id: Some("a-1".into()),
            rule: Some("r1".into()),
            replays: 0,
        };
        assert_eq!(found, expected);
        for name in ["a-1", "WhiteList/2/7", "0/9"] {
            assert!(found.is_called(name), "{name}");
        }
        assert!(!found.is_called("WhiteList/2/8"));
    }

    #[test]
    fn what_another_program_left_there_says_nothing_and_is_named_by_its_place() {
        for value in [&b"\xff"[..], b"", b"[1]", br#"{"header":5}"#, br#"{"header":{"id":7}}"#] {
            let found = Letter::read(&record(value));
            assert_eq!((found.name(), found.reason.clone(), found.stop.clone()), ("2/7".to_owned(), None, None));
            assert!(Filter::default().matches(&found));
            assert!(!Filter { stop: Some("whitelist".into()), ..Filter::default() }.matches(&found));
            assert!(!Filter { since: Some(0), ..Filter::default() }.matches(&found));
        }
    }

    #[test]
    fn filters_all_have_to_match() {
        let found = letter(r#"{"header":{"route":[],"id":"a"},"payload":{}}"#, "Unknown currency: X");
        let time = found.time.unwrap();
        let text = |text: &str| Some(text.to_owned());
        let filter = Filter { reason: text("unknown CURRENCY"), stop: text("whitelist"), ..Filter::default() };
        assert!(filter.matches(&found));
        assert!(Filter { since: Some(time), until: Some(time + 1), id: text("a"), ..filter.clone() }.matches(&found));
        for other in [
            Filter { reason: text("other"), ..filter.clone() },
            Filter { stop: text("contactpoint"), ..filter.clone() },
            Filter { rule: text("r"), ..filter.clone() },
            Filter { id: text("b"), ..filter.clone() },
            Filter { since: Some(time + 1), ..filter.clone() },
            Filter { until: Some(time), ..filter },
        ] {
            assert!(!other.matches(&found), "{other:?}");
        }
    }
}
