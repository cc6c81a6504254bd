//! A record's value: checked, and its header and payload found.

use serde_json::value::RawValue;

use super::{Limits, Malformed};
use crate::json::{
    Object, check,
    scan::{Scanned, Tape, scan},
};

/// A value that is one JSON object.
pub(crate) struct Checked<'a> {
    whole: &'a str,
    /// Where its fields are on the tape; `None` where they are to be walked.
    scanned: Option<Scanned>,
}

impl<'a> Checked<'a> {
    /// Checks a value for what every message must be; `tape` takes its fields down.
    pub fn new(value: Option<&'a [u8]>, limits: &Limits, tape: &mut Tape) -> Result<Self, Malformed> {
        let value = value.ok_or(Malformed::Tombstone)?;
        if value.len() > limits.message_bytes {
            return Err(Malformed::TooLong { bytes: value.len(), limit: limits.message_bytes });
        }
        let whole = std::str::from_utf8(value).map_err(|error| Malformed::NotUtf8(error.valid_up_to()))?;
        // The white space of JSON, to which a form feed does not belong
        let whole = whole.trim_matches([' ', '\t', '\n', '\r']);
        if let Some(scanned) = scan(whole, limits.depth, PARTS, tape) {
            return Ok(Self { whole, scanned: Some(scanned) });
        }
        if whole.is_empty() {
            return Err(Malformed::Empty);
        }
        if deeper_than(whole, limits.depth) {
            return Err(Malformed::TooDeep(limits.depth));
        }
        match check(whole, |_, _| ()) {
            Ok(()) => Ok(Self { whole, scanned: None }),
            Err(error) if error.is_data() => match serde_json::from_str::<&RawValue>(whole) {
                Ok(_) => Err(Malformed::NotObject),
                Err(error) => Err(Malformed::NotJson(error.to_string())),
            },
            Err(error) => Err(Malformed::NotJson(error.to_string())),
        }
    }

    /// The object, without the white space around it.
    pub fn whole(&self) -> &'a str {
        self.whole
    }
}

/// The fields that make a value a message with a slip.
const PARTS: [&str; 2] = ["header", "payload"];

/// A value, and its header and payload where it has them.
pub(crate) struct Parts<'a> {
    pub(super) own: Object<'a>,
    pub(super) header: Option<Object<'a>>,
    pub(super) payload: Option<Object<'a>>,
}

impl<'a> Parts<'a> {
    /// Finds header and payload, by `tape` where it is the one that the value was checked with.
    pub fn new(checked: &Checked<'a>, tape: Option<&'a Tape>) -> Result<Self, Malformed> {
        let whole = checked.whole;
        let own = Object::new(whole);
        if let Some((scanned, tape)) = checked.scanned.as_ref().zip(tape) {
            let [header, payload] = scanned.named.each_ref().map(|named| {
                let named = named.as_ref()?;
                let (object, fields) = (Object::new(named.of(whole)), named.fields.as_ref());
                Some(fields.map_or(object, |fields| object.scanned(whole, tape.fields(fields))))
            });
            return Ok(Self { own: own.scanned(whole, tape.fields(&scanned.fields)), header, payload });
        }
        let (mut parts, mut twice) = ([None; 2], None);
        own.each(|key, value| {
            let Some(index) = PARTS.iter().position(|name| key.is(name)) else { return };
            if parts[index].replace(Object::new(value)).is_some() {
                twice = Some(PARTS[index]);
            }
        });
        let [header, payload] = parts;
        twice.map_or(Ok(Self { own, header, payload }), |name| Err(Malformed::Twice(name)))
    }
}

impl Parts<'_> {
    /// Whether it is taken for a message with a slip.
    pub fn has_slip(&self) -> bool {
        self.header.is_some() && self.payload.is_some()
    }
}

/// Whether lists and objects nest deeper than `limit` in what may or may not be JSON.
fn deeper_than(text: &str, limit: usize) -> bool {
    let opening = text.bytes().filter(|byte| matches!(byte, b'[' | b'{')).count();
    if opening <= limit {
        return false;
    }
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => depth += 1,
            b']' | b'}' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > limit {
            return true;
        }
    }
    false
}
