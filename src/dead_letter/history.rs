//! What went wrong with a message, attempt by attempt and rejection by rejection: `metrobus.history`.
//!
//! The header's value is a list in JSON, the oldest first, of
//! `{"time":1763739000000,"stop":"contactpoint","attempt":1,"reason":"the cache says no"}`, times in milliseconds since
//! the epoch. Where there were many, the first and the last ones stand there, and between them `{"left_out":12}`.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::{bus::Headers, terminal::plain};

/// The record header's name.
pub const HEADER: &str = "metrobus.history";

/// Kept from the beginning, and as many from the end.
const KEPT: usize = 8;

/// The longest text that is kept of a reason or of a stop's name, in bytes.
const TEXT_BYTES: usize = 256;

/// A header that is longer is none of ours.
const MOST_BYTES: usize = 64 << 10;

/// One attempt that failed, or a rejection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// Milliseconds since the epoch.
    pub time: i64,
    pub stop: String,
    /// From 1.
    pub attempt: u32,
    pub reason: String,
}

/// What went wrong with one message: the first and the last few, and how many were between.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    first: Vec<Trouble>,
    left_out: u64,
    last: VecDeque<Trouble>,
}

/// An element of the list.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Element {
    LeftOut { left_out: u64 },
    Trouble(Trouble),
}

impl History {
    /// The history in the headers of a record; an empty one where there is none, or none of ours.
    pub fn read(headers: &Headers<'_>) -> Self {
        let mut history = Self::default();
        let value = headers.get(HEADER).filter(|value| value.len() <= MOST_BYTES);
        let elements: Vec<Element> = value.and_then(|value| serde_json::from_slice(value).ok()).unwrap_or_default();
        for element in elements {
            match element {
                Element::Trouble(trouble) => history.push(trouble),
                Element::LeftOut { left_out } => {
                    // What comes behind it is from the end
                    history.left_out = history.left_out.saturating_add(left_out);
                }
            }
        }
        history
    }

    /// Adds what went wrong last.
    pub fn push(&mut self, trouble: Trouble) {
        let trouble = Trouble { stop: short(&trouble.stop), reason: short(&trouble.reason), ..trouble };
        if self.first.len() < KEPT && self.left_out == 0 {
            return self.first.push(trouble);
        }
        self.last.push_back(trouble);
        if self.last.len() > KEPT {
            self.last.pop_front();
            self.left_out = self.left_out.saturating_add(1);
        }
    }

    /// Adds a whole history behind this one.
    pub fn extend(&mut self, later: &Self) {
        later.first.iter().for_each(|trouble| self.push(trouble.clone()));
        self.left_out = self.left_out.saturating_add(later.left_out);
        later.last.iter().for_each(|trouble| self.push(trouble.clone()));
    }

    pub fn is_empty(&self) -> bool {
        self.first.is_empty() && self.left_out == 0 && self.last.is_empty()
    }

    /// The first ones, how many were left out behind them, and the last ones.
    pub fn parts(&self) -> (impl Iterator<Item = &Trouble>, u64, impl Iterator<Item = &Trouble>) {
        (self.first.iter(), self.left_out, self.last.iter())
    }

    /// The value of the header.
    pub fn json(&self) -> String {
        let mut elements: Vec<_> = self.first.iter().cloned().map(Element::Trouble).collect();
        if self.left_out > 0 {
            elements.push(Element::LeftOut { left_out: self.left_out });
        }
        elements.extend(self.last.iter().cloned().map(Element::Trouble));
        serde_json::to_string(&elements).unwrap_or_default()
    }
}

/// The part of a text that is kept, on one line: JSON needs at most two bytes for each of it.
fn short(text: &str) -> String {
    plain(super::cut(text, TEXT_BYTES))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn trouble(attempt: u32) -> Trouble {
        Trouble { time: 5, stop: "tester".into(), attempt, reason: format!("no {attempt}") }
    }

    fn history(attempts: impl IntoIterator<Item = u32>) -> History {
        let mut history = History::default();
        attempts.into_iter().for_each(|attempt| history.push(trouble(attempt)));
        history
    }

    fn read(value: &[u8]) -> History {
        let mut headers = Vec::new();
        Headers::push(&mut headers, HEADER, Some(value));
        History::read(&Headers::from_encoded(&headers))
    }

    #[test]
    fn the_first_and_the_last_are_kept() {
        let value = history([1, 2]).json();
        let expected = r#"[{"time":5,"stop":"tester","attempt":1,"reason":"no 1"},{"time":5,"stop":"tester","attempt":2,"reason":"no 2"}]"#;
        assert_eq!(value, expected);
        let many = history(1..=100);
        let (first, left_out, last) = many.parts();
        assert_eq!(first.map(|trouble| trouble.attempt).collect::<Vec<_>>(), (1..=8).collect::<Vec<_>>());
        assert_eq!(left_out, 84);
        assert_eq!(last.map(|trouble| trouble.attempt).collect::<Vec<_>>(), (93..=100).collect::<Vec<_>>());
        assert!(many.json().contains(r#""no 8"},{"left_out":84},{"#));
    }

    #[test]
    fn what_is_none_of_ours_is_none() {
        for value in [&b"x"[..], b"", b"\xff", b"{}", b"[1]", br#"[{"time":"x"}]"#, br#"[{"left_out":-1}]"#] {
            assert!(read(value).is_empty(), "{value:?}");
        }
        assert!(read(format!("[{}]", " ".repeat(MOST_BYTES)).as_bytes()).is_empty());
        assert!(History::read(&Headers::default()).is_empty());
    }

    #[test]
    fn a_header_stays_small_whatever_the_reasons_are() {
        let mut history = History::default();
        for attempt in 0..1000 {
            let reason = "\u{1}\"\\é".repeat(10_000);
            history.push(Trouble { time: i64::MIN, stop: reason.clone(), attempt, reason });
        }
        assert!(history.json().len() < 32 << 10, "{}", history.json().len());
    }

    proptest! {
        #[test]
        fn it_reads_back_the_same_and_goes_on(first in 0..40_u32, more in 0..40_u32) {
            let before = history(0..first);
            prop_assert_eq!(&read(before.json().as_bytes()), &before);
            let mut joined = before;
            joined.extend(&history(first..first + more));
            let whole = history(0..first + more);
            prop_assert_eq!(joined.left_out, whole.left_out);
            prop_assert_eq!(joined.last.back(), whole.last.back());
            prop_assert_eq!(&joined.first, &whole.first);
        }

        #[test]
        fn no_header_panics(value in proptest::collection::vec(any::<u8>(), 0..100)) {
            read(&value);
        }
    }
}
