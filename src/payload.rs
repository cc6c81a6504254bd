//! The payload of a message: a JSON object whose bytes are spliced, not encoded anew.
//!
//! What a handler does not touch keeps its spelling (`2.50`, `-0.0`, `12345678901234567890`, key order, white space).
//! Keys are compared as JSON text, so `"em\u0061il"` is `email`. Where a key occurs twice, the last one counts, as in
//! Python and JavaScript, and setting it replaces every occurrence, so that no reader downstream sees the old value.

use std::borrow::Cow;

use serde::Serialize;

use crate::json::{fields, is_key, offset, text};

/// A JSON object that fields can be read from and set in.
#[derive(Clone, Debug)]
pub struct Payload<'a> {
    raw: &'a str,
    edits: Vec<Edit>,
}

#[derive(Clone, Debug)]
struct Edit {
    name: String,
    /// The value as JSON text.
    value: String,
}

impl<'a> Payload<'a> {
    /// Takes the text of a JSON value that has been checked to be JSON; `None` where it is not an object.
    pub(crate) fn new(raw: &'a str) -> Option<Self> {
        raw.starts_with('{').then_some(Self { raw, edits: Vec::new() })
    }

    /// The bytes as they arrived, without what was set since.
    pub fn raw(&self) -> &'a str {
        self.raw
    }

    /// The value of the field `name` as JSON text, spelt as it arrived; `None` where there is no such field.
    pub fn get(&self, name: &str) -> Option<Cow<'a, str>> {
        if let Some(edit) = self.edits.iter().find(|edit| edit.name == name) {
            return Some(Cow::Owned(edit.value.clone()));
        }
        let mut found = None;
        fields(self.raw, |key, value| {
            if is_key(key, name) {
                found = Some(value);
            }
        });
        found.map(Cow::Borrowed)
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
        let value = serde_json::to_string(value)?;
        match self.edits.iter_mut().find(|edit| edit.name == name) {
            Some(edit) => edit.value = value,
            None => self.edits.push(Edit { name: name.to_owned(), value }),
        }
        Ok(())
    }

    /// Appends the object as it is now to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut copied = 0;
        let mut replaced = [false; 32];
        if !self.edits.is_empty() {
            fields(self.raw, |key, value| {
                let Some(index) = self.edits.iter().position(|edit| is_key(key, &edit.name)) else { return };
                let start = offset(self.raw, value);
                out.extend_from_slice(&self.raw.as_bytes()[copied..start]);
                out.extend_from_slice(self.edits[index].value.as_bytes());
                copied = start + value.len();
                if let Some(replaced) = replaced.get_mut(index) {
                    *replaced = true;
                }
            });
        }
        let Some(body) = self.raw[copied..].strip_suffix('}') else { return };
        out.extend_from_slice(body.as_bytes());
        let mut separate = !self.raw[1..self.raw.len() - 1].trim_ascii().is_empty();
        for (index, edit) in self.edits.iter().enumerate() {
            if replaced.get(index).copied().unwrap_or_else(|| self.has(&edit.name)) {
                continue;
            }
            if separate {
                out.extend_from_slice(b",");
            }
            separate = true;
            // A key is text, so it can always be written
            let _ = serde_json::to_writer(&mut *out, &edit.name);
            out.push(b':');
            out.extend_from_slice(edit.value.as_bytes());
        }
        out.push(b'}');
    }

    fn has(&self, name: &str) -> bool {
        let mut has = false;
        fields(self.raw, |key, _| has |= is_key(key, name));
        has
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
