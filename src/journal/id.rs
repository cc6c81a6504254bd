//! What a message is called in the journal.

use std::fmt;

use uuid::Uuid;

/// Ids, keys and values of fields that are longer are not noted: whoever sends them must not fill the journal.
pub(super) const LONGEST: usize = 1024;

/// A message's id, as its slip has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Id<'a> {
    /// None, or none that can be noted: only its place tells the message from others.
    #[default]
    None,
    /// A UUID in its usual spelling (lower case, with hyphens): what the busdriver gives.
    Uuid([u8; 16]),
    /// Any other text.
    Text(&'a str),
}

impl<'a> Id<'a> {
    pub fn new(text: &'a str) -> Self {
        match uuid(text.as_bytes()) {
            Some(bytes) => Self::Uuid(bytes),
            None if text.is_empty() || text.len() > LONGEST => Self::None,
            None => Self::Text(text),
        }
    }

    pub fn is_none(&self) -> bool {
        *self == Self::None
    }
}

impl fmt::Display for Id<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("-"),
            Self::Uuid(bytes) => Uuid::from_bytes(*bytes).fmt(f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// The value of each lower case hexadecimal digit; more than 15 for what is none.
const DIGITS: [u8; 256] = {
    let mut digits = [0xff; 256];
    let mut value = 0;
    while value < 16 {
        digits[b"0123456789abcdef"[value] as usize] = value as u8;
        value += 1;
    }
    digits
};

/// Where the pairs of digits stand in the usual spelling.
const PAIRS: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];

/// The bytes of a UUID in its usual spelling and no other, so that its text can be told from them. Every hop parses one,
/// hence without branches.
fn uuid(text: &[u8]) -> Option<[u8; 16]> {
    let text: &[u8; 36] = text.try_into().ok()?;
    let hyphens = [8, 13, 18, 23].iter().all(|at| text[*at] == b'-');
    let (mut bytes, mut wrong) = ([0; 16], 0);
    for (byte, at) in bytes.iter_mut().zip(PAIRS) {
        let (high, low) = (DIGITS[usize::from(text[at])], DIGITS[usize::from(text[at + 1])]);
        wrong |= high | low;
        *byte = high << 4 | low;
    }
    (hyphens && wrong < 16).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_the_usual_spelling_is_a_uuid() {
        let usual = "0192d5a0-7c11-7000-8000-0123456789ab";
        assert_eq!(Id::new(usual), Id::Uuid(*Uuid::parse_str(usual).unwrap().as_bytes()));
        for text in [&usual.to_uppercase(), &usual.replace('-', ""), "0192d5a0-7c11-7000-8000-0123456789ag", "x"] {
            assert_eq!(Id::new(text), Id::Text(text));
        }
        assert!(Id::new("").is_none() && Id::new(&"x".repeat(LONGEST + 1)).is_none());
    }

    proptest! {
        #[test]
        fn an_id_is_shown_as_it_is_spelt(bytes: [u8; 16], text in ".{1,40}") {
            let usual = Uuid::from_bytes(bytes).to_string();
            prop_assert_eq!(Id::new(&usual), Id::Uuid(bytes));
            prop_assert_eq!(Id::new(&usual).to_string(), usual);
            prop_assert_eq!(Id::new(&text).to_string(), text.clone());
        }
    }
}
