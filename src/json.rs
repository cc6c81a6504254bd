//! JSON text in slices: nothing is decoded that is not asked for, and everything keeps its spelling.
//!
//! [`check`] takes text that may be anything, by serde_json; [`mod@scan`] takes most of what comes, faster. [`fields`] and
//! [`elements`] walk text that has been checked, so they need no more than to find where a value ends; given anything
//! else they end early, and never panic.

pub(crate) mod scan;

use std::{borrow::Cow, fmt};

use serde::{
    Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use scan::{Field, plain_until};

/// A checked value that should be an object: its text, and its fields where a scan has taken them down.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Object<'a> {
    raw: &'a str,
    scanned: Option<(&'a str, &'a [Field])>,
}

impl<'a> Object<'a> {
    /// The value `raw`, to be walked.
    pub fn new(raw: &'a str) -> Self {
        Self { raw, scanned: None }
    }

    pub fn if_object(self) -> Option<Self> {
        self.raw.starts_with('{').then_some(self)
    }

    /// The same with its fields in `whole`, the text that was scanned.
    pub fn scanned(self, whole: &'a str, fields: &'a [Field]) -> Self {
        Self { scanned: Some((whole, fields)), ..self }
    }

    pub fn raw(&self) -> &'a str {
        self.raw
    }

    /// The value of the last field called `name`, as it is spelt.
    pub fn find(&self, name: &str) -> Option<&'a str> {
        match self.scanned {
            None => {
                let mut found = None;
                fields(self.raw, |key, value| {
                    if is_key(key, name) {
                        found = Some(value);
                    }
                });
                found
            }
            Some((whole, fields)) => fields.iter().rfind(|field| field.is(whole, name)).map(|field| field.of(whole).1),
        }
    }

    /// Calls `each` with every key and value, as they are spelt.
    pub fn each(&self, mut each: impl FnMut(Key<'a>, &'a str)) {
        match self.scanned {
            None => fields(self.raw, |key, value| each(Key::new(key, false), value)),
            Some((whole, fields)) => fields.iter().for_each(|field| {
                let (key, value) = field.of(whole);
                each(key, value);
            }),
        }
    }
}

/// A key as it is spelt, with its quotes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key<'a> {
    raw: &'a str,
    /// It is known to have no escapes.
    plain: bool,
}

impl<'a> Key<'a> {
    fn new(raw: &'a str, plain: bool) -> Self {
        Self { raw, plain }
    }

    pub fn raw(&self) -> &'a str {
        self.raw
    }

    /// Whether it spells `name`.
    pub fn is(&self, name: &str) -> bool {
        let plain = || self.raw.as_bytes().get(1..self.raw.len() - 1) == Some(name.as_bytes());
        if self.plain { plain() } else { is_key(self.raw, name) }
    }

    /// What it spells, where that is not simply what stands there.
    pub fn escaped(&self) -> Option<Cow<'a, str>> {
        if self.plain { None } else { text(self.raw).filter(|text| matches!(text, Cow::Owned(_))) }
    }
}

/// Checks that `json` is one JSON object, and calls `each` with its keys and values as they are spelt.
pub(crate) fn check<'a>(json: &'a str, each: impl FnMut(&'a str, &'a str)) -> serde_json::Result<()> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    deserializer.deserialize_map(Fields(each))?;
    deserializer.end()
}

struct Fields<F>(F);

impl<'de, F: FnMut(&'de str, &'de str)> Visitor<'de> for Fields<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some((key, value)) = map.next_entry::<&RawValue, &RawValue>()? {
            (self.0)(key.get(), value.get());
        }
        Ok(())
    }
}

/// Calls `each` with every key and value of a checked object, as they are spelt.
pub(crate) fn fields<'a>(object: &'a str, mut each: impl FnMut(&'a str, &'a str)) {
    let mut walk = Walk { text: object, at: 1 };
    while let Some(key) = walk.value() {
        walk.pass(b':');
        let Some(value) = walk.value() else { return };
        each(key, value);
        walk.pass(b',');
    }
}

/// Calls `each` with every element of a checked list, as it is spelt.
pub(crate) fn elements<'a>(list: &'a str, mut each: impl FnMut(&'a str)) {
    let mut walk = Walk { text: list, at: 1 };
    while let Some(element) = walk.value() {
        each(element);
        walk.pass(b',');
    }
}

/// A place in checked JSON, in bytes.
struct Walk<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Walk<'a> {
    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.byte() {
            self.at += 1;
        }
    }

    /// Passes over `mark`, where it comes next.
    fn pass(&mut self, mark: u8) {
        self.skip_space();
        if self.byte() == Some(mark) {
            self.at += 1;
        }
    }

    /// The value that comes next; `None` at the end of an object or a list.
    fn value(&mut self) -> Option<&'a str> {
        self.skip_space();
        let start = self.at;
        match self.byte()? {
            b'"' => self.skip_text(),
            b'{' | b'[' => self.skip_nested(),
            _ => {
                while self
                    .byte()
                    .is_some_and(|byte| !matches!(byte, b',' | b'}' | b']' | b':' | b' ' | b'\n' | b'\t' | b'\r'))
                {
                    self.at += 1;
                }
            }
        }
        self.text.get(start..self.at).filter(|value| !value.is_empty())
    }

    /// From an opening quote to behind the closing one.
    fn skip_text(&mut self) {
        self.at += 1;
        let bytes = self.text.as_bytes();
        loop {
            self.at = plain_until(bytes, self.at);
            let Some(found) = bytes.get(self.at) else { return };
            self.at += 1;
            match found {
                b'"' => return,
                // Whatever is escaped is no end
                b'\\' => self.at = (self.at + 1).min(bytes.len()),
                _ => {}
            }
        }
    }

    /// From an opening bracket to behind its closing one.
    fn skip_nested(&mut self) {
        let mut depth = 0_usize;
        while let Some(byte) = self.byte() {
            match byte {
                b'"' => {
                    self.skip_text();
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return;
            }
        }
    }
}

/// The text that `json` spells, where it spells one.
pub(crate) fn text(json: &str) -> Option<Cow<'_, str>> {
    let inner = json.strip_prefix('"')?.strip_suffix('"')?;
    if !inner.contains('\\') {
        return Some(Cow::Borrowed(inner));
    }
    serde_json::from_str(json).ok().map(Cow::Owned)
}

/// Whether the JSON text `key` spells `name`.
pub(crate) fn is_key(key: &str, name: &str) -> bool {
    let Some(inner) = key.strip_prefix('"').and_then(|key| key.strip_suffix('"')) else { return false };
    // What has escapes is longer than what it spells
    if inner.len() > name.len() && inner.contains('\\') {
        return text(key).is_some_and(|key| key == name);
    }
    inner == name && !name.contains('\\')
}

/// Where `part`, a slice of `whole`, begins in it, in bytes.
pub(crate) fn offset(whole: &str, part: &str) -> usize {
    part.as_ptr() as usize - whole.as_ptr() as usize
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::{
        scan::{Tape, scan},
        *,
    };

    /// JSON of all kinds, with white space wherever it may stand.
    fn json() -> impl Strategy<Value = String> {
        let space = || prop_oneof![Just(""), Just(" "), Just("\n\t "), Just("\r")];
        let text =
            prop_oneof![r#""[a-c {}\[\],:é]{0,5}""#, Just(r#""a\"b\\""#.to_owned()), Just(r#""\ud800""#.to_owned())];
        let leaf = prop_oneof![text.clone(), "-?(0|[1-9][0-9]{0,3})(\\.[0-9]{1,2})?(e[0-9])?", "true|false|null"];
        leaf.prop_recursive(4, 30, 5, move |inner| {
            let spaced = (space(), inner, space()).prop_map(|(a, value, b)| format!("{a}{value}{b}"));
            let field = (space(), text.clone(), space(), spaced.clone());
            let field = field.prop_map(|(a, key, b, value)| format!("{a}{key}{b}:{value}"));
            prop_oneof![
                vec(spaced, 0..5).prop_map(|elements| format!("[{}]", elements.join(","))),
                (vec(field, 0..5), space()).prop_map(|(fields, a)| format!("{{{}{a}}}", fields.join(","))),
            ]
        })
    }

    proptest! {
        #[test]
        fn walking_and_scanning_find_what_checking_finds(json in json()) {
            let (mut checked, mut walked) = (Vec::new(), Vec::new());
            if check(&json, |key, value| checked.push((key, value))).is_ok() {
                let (mut tape, mut scanned) = (Tape::default(), Vec::new());
                let named = |name: &str| checked.iter().filter(|(key, _)| is_key(key, name)).count();
                let Some(found) = scan(&json, 128, ["a", "b"], &mut tape) else {
                    let escaped = checked.iter().any(|(key, _)| key.contains('\\'));
                    prop_assert!(escaped || named("a") > 1 || named("b") > 1, "{json}");
                    return Ok(());
                };
                fields(&json, |key, value| walked.push((key, value)));
                let object = Object::new(&json).scanned(&json, tape.fields(&found.fields));
                object.each(|key, value| scanned.push((key.raw(), value)));
                prop_assert_eq!(&checked, &walked);
                prop_assert_eq!(&checked, &scanned);
                for (name, named) in ["\"a\"", "\"b\""].iter().zip(&found.named) {
                    let of_name = walked.iter().find(|(key, _)| key == name);
                    prop_assert_eq!(of_name.map(|(_, value)| *value), named.as_ref().map(|named| named.of(&json)));
                    let Some((value, fields_of)) = named.as_ref().and_then(|n| Some((n.of(&json), n.fields.as_ref()?)))
                    else { continue };
                    let (mut scanned, mut walked) = (Vec::new(), Vec::new());
                    fields(value, |key, value| walked.push((key, value)));
                    tape.fields(fields_of).iter().for_each(|field| {
                        let (key, value) = field.of(&json);
                        scanned.push((key.raw(), value));
                    });
                    prop_assert_eq!(scanned, walked);
                }
            } else if let Ok(list) = serde_json::from_str::<Vec<&RawValue>>(&json) {
                let mut walked = Vec::new();
                elements(&json, |element| walked.push(element));
                prop_assert_eq!(list.iter().map(|element| element.get()).collect::<Vec<_>>(), walked);
            }
        }

        #[test]
        fn walking_anything_ends_and_does_not_panic(text in r#"[\[\]{}":,\\ a1é]{0,40}"#) {
            fields(&text, |_, _| {});
            elements(&text, |_| {});
        }
    }
}
