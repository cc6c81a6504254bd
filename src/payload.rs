//! The payload of a message: a JSON object whose bytes are spliced, not encoded anew.
//!
//! What a handler does not touch keeps its spelling (`2.50`, `-0.0`, `12345678901234567890`, key order, white space).
//! Keys are compared as JSON text, so `"em\u0061il"` is `email`. Where a key occurs twice, the last one counts, as in
//! Python and JavaScript, and setting it replaces every occurrence, so that no reader downstream sees the old value.

use std::{borrow::Cow, ops::Range};

use serde::Serialize;
use smallvec::SmallVec;

use crate::json::{Key, Object, offset, text};

/// A JSON object that fields can be read from and set in.
#[derive(Clone, Debug)]
pub struct Payload<'a> {
    object: Object<'a>,
    edits: Edits,
}

/// What was set since the object arrived: `"name":value` in JSON, one after another. Most messages get one field at a
/// stop, which costs no allocation.
#[derive(Clone, Debug, Default)]
struct Edits {
    json: SmallVec<[u8; 64]>,
    each: SmallVec<[Edit; 1]>,
}

#[derive(Clone, Debug)]
struct Edit {
    /// Where in `json` the key lies, with its quotes, and the value.
    key: Range<u32>,
    value: Range<u32>,
    /// The object came without such a field.
    new: bool,
}

impl Edits {
    fn key(&self, edit: &Edit) -> &[u8] {
        &self.json[edit.key.start as usize..edit.key.end as usize]
    }

    fn value(&self, edit: &Edit) -> &[u8] {
        &self.json[edit.value.start as usize..edit.value.end as usize]
    }

    /// The edit of the field whose key is spelt `key` somewhere.
    fn position(&self, key: Key<'_>) -> Option<usize> {
        // Ours is spelt in one way, theirs may be in another
        let spells = key.escaped();
        self.each.iter().position(|edit| {
            let own = self.key(edit);
            own == key.raw().as_bytes() || (spells.is_some() && spells == text_of(own))
        })
    }

    fn set(&mut self, name: &str, value: &(impl Serialize + ?Sized), new: bool) -> serde_json::Result<()> {
        let start = self.json.len();
        let written = self.write(name, value, new);
        let Ok(edit) = written else {
            self.json.truncate(start);
            return written.map(drop);
        };
        let same = self.each.iter().position(|other| self.key(other) == self.key(&edit));
        match same {
            Some(index) => self.each[index] = edit,
            None => self.each.push(edit),
        }
        Ok(())
    }

    fn write(&mut self, name: &str, value: &(impl Serialize + ?Sized), new: bool) -> serde_json::Result<Edit> {
        let start = self.json.len() as u32;
        append(&mut self.json, name)?;
        let end = self.json.len() as u32;
        self.json.push(b':');
        append(&mut self.json, value)?;
        Ok(Edit { key: start..end, value: end + 1..self.json.len() as u32, new })
    }
}

/// Appends `value` in JSON. Most values are short, and nothing takes what serde_json writes as fast as a slice does.
fn append(json: &mut SmallVec<[u8; 64]>, value: &(impl Serialize + ?Sized)) -> serde_json::Result<()> {
    let mut room = [0; 64];
    let mut rest = &mut room[..];
    match serde_json::to_writer(&mut rest, value) {
        Ok(()) => {
            let left = rest.len();
            json.extend_from_slice(&room[..room.len() - left]);
            Ok(())
        }
        Err(error) if error.is_io() => serde_json::to_writer(json, value),
        Err(error) => Err(error),
    }
}

fn text_of(json: &[u8]) -> Option<Cow<'_, str>> {
    text(std::str::from_utf8(json).ok()?)
}

impl<'a> Payload<'a> {
    /// Takes the text of a JSON value that has been checked to be JSON; `None` where it is not an object.
    pub(crate) fn new(raw: &'a str) -> Option<Self> {
        Object::new(raw).if_object().map(Self::of)
    }

    /// Takes what has been checked to be an object.
    pub(crate) fn of(object: Object<'a>) -> Self {
        Self { object, edits: Edits::default() }
    }

    /// The object as it arrived, without what was set since.
    pub(crate) fn object(&self) -> Object<'a> {
        self.object
    }

    /// The bytes as they arrived, without what was set since.
    pub fn raw(&self) -> &'a str {
        self.object.raw()
    }

    /// The value of the field `name` as JSON text, spelt as it arrived; `None` where there is no such field.
    pub fn get(&self, name: &str) -> Option<Cow<'a, str>> {
        if let Some(edit) = self.edited(name) {
            return Some(Cow::Owned(String::from_utf8_lossy(self.edits.value(edit)).into_owned()));
        }
        self.object.find(name).map(Cow::Borrowed)
    }

    fn edited(&self, name: &str) -> Option<&Edit> {
        self.edits.each.iter().find(|edit| text_of(self.edits.key(edit)).is_some_and(|own| own == name))
    }

    /// The field `name` where it is text; `None` where it is missing, something else, or not valid Unicode.
    pub fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        match self.get(name)? {
            Cow::Borrowed(json) => text(json),
            Cow::Owned(json) => text(&json).map(|text| Cow::Owned(text.into_owned())),
        }
    }

    /// Sets the field `name`: its value is replaced where it exists, else it is appended. Fails where `value` cannot
    /// be written as JSON.
    pub fn set(&mut self, name: &str, value: &(impl Serialize + ?Sized)) -> serde_json::Result<()> {
        self.edits.set(name, value, self.object.find(name).is_none())
    }

    /// Appends the object as it is now to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        let (raw, edits) = (self.raw(), &self.edits);
        let mut copied = 0;
        if edits.each.iter().any(|edit| !edit.new) {
            self.object.each(|key, value| {
                let Some(index) = edits.position(key) else { return };
                let start = offset(raw, value);
                out.extend_from_slice(&raw.as_bytes()[copied..start]);
                out.extend_from_slice(edits.value(&edits.each[index]));
                copied = start + value.len();
            });
        }
        let Some(body) = raw[copied..].strip_suffix('}') else { return };
        out.extend_from_slice(body.as_bytes());
        let mut separate = !raw[1..raw.len() - 1].trim_ascii().is_empty();
        for edit in edits.each.iter().filter(|edit| edit.new) {
            if separate {
                out.push(b',');
            }
            separate = true;
            out.extend_from_slice(&edits.json[edit.key.start as usize..edit.value.end as usize]);
        }
        out.push(b'}');
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn set(raw: &str, name: &str, value: impl Serialize) -> String {
        let mut payload = Payload::new(raw).unwrap();
        payload.set(name, &value).unwrap();
        written(&payload)
    }

    fn written(payload: &Payload<'_>) -> String {
        let mut out = Vec::new();
        payload.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn spelling_survives_a_set() {
        let raw = r#"{ "a" : 2.50,"b":-0.0, "c":12345678901234567890 ,"d":1e400, "s":"\ud800" }"#;
        assert_eq!(
            set(raw, "email", "x@y"),
            r#"{ "a" : 2.50,"b":-0.0, "c":12345678901234567890 ,"d":1e400, "s":"\ud800" ,"email":"x@y"}"#
        );
    }

    #[test]
    fn a_set_replaces_every_occurrence_however_it_is_spelt() {
        assert_eq!(set(r#"{"em\u0061il":1,"x":2,"email":3}"#, "email", "n"), r#"{"em\u0061il":"n","x":2,"email":"n"}"#);
        assert_eq!(set("{}", "a", true), r#"{"a":true}"#);
        assert_eq!(set("{ }", "a\"b", 1), r#"{ "a\"b":1}"#);
    }

    #[test]
    fn the_last_of_two_counts_and_nested_fields_do_not() {
        let payload = Payload::new(r#"{"a":1,"n":{"a":2},"a":3,"t":"\u00e9","n2":"x"}"#).unwrap();
        assert_eq!(payload.get("a").as_deref(), Some("3"));
        assert_eq!(payload.text("t").as_deref(), Some("é"));
        assert_eq!(payload.text("a"), None);
        assert_eq!(payload.get("zz"), None);
    }

    #[test]
    fn what_was_set_is_what_is_read() {
        let mut payload = Payload::new(r#"{"a":1}"#).unwrap();
        payload.set("a", "two").unwrap();
        payload.set("a", "three").unwrap();
        assert_eq!(payload.text("a").as_deref(), Some("three"));
        assert_eq!(written(&payload), r#"{"a":"three"}"#);
    }

    #[test]
    fn many_fields_set_at_once_are_each_written_once() {
        let mut payload = Payload::new(r#"{"f40":0}"#).unwrap();
        for n in 0..50 {
            payload.set(&format!("f{n}"), &n).unwrap();
        }
        let text = written(&payload);
        for n in 0..50 {
            assert_eq!(text.matches(&format!("\"f{n}\":")).count(), 1, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_set_is_what_a_parser_would_have_done(
            object in proptest::collection::btree_map("[a-c\"\\\\é]{1,2}", "[ -~é]{0,4}", 0..5),
            name in "[a-c\"\\\\é]{1,2}", value in ".{0,5}",
        ) {
            let raw = serde_json::to_string(&object).unwrap();
            let mut expected: Value = serde_json::from_str(&raw).unwrap();
            expected[&name] = Value::String(value.clone());
            let out = set(&raw, &name, &value);
            prop_assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), expected);
        }
    }
}
