//! One strict pass over a message: is it JSON, and where lies what a hop asks for.
//!
//! This is the hop's fast path, so it reads each byte once and decodes nothing. It accepts a subset of what serde_json
//! accepts and never more; what it does not accept is for serde_json to judge, which also says what is wrong. The
//! grammar is that of RFC 8259.

use std::ops::Range;

use wide::u8x16;

use super::{Key, is_key};

/// Deepest nesting that is followed here: each level is a call.
const DEEPEST: usize = 128;

/// A field of an object: where its key (with its quotes) and its value lie in the text, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    key: Place,
    value: Place,
}

/// From where to where, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    start: u32,
    end: u32,
    /// It is text without escapes.
    plain: bool,
}

impl Place {
    fn of(self, text: &str) -> &str {
        text.get(self.start as usize..self.end as usize).unwrap_or_default()
    }
}

impl Field {
    /// Whether its key in `text`, the one that was scanned, spells `name`.
    pub fn is(&self, text: &str, name: &str) -> bool {
        let Place { start, end, plain } = self.key;
        // Without its quotes
        let spelt = text.as_bytes().get(start as usize + 1..(end as usize).saturating_sub(1));
        if plain { spelt == Some(name.as_bytes()) } else { is_key(self.key.of(text), name) }
    }

    /// Key and value as they are spelt in `text`, the one that was scanned.
    pub fn of<'a>(&self, text: &'a str) -> (Key<'a>, &'a str) {
        (Key::new(self.key.of(text), self.key.plain), self.value.of(text))
    }
}

/// The fields of the objects of many texts, those of an object one after another.
#[derive(Default)]
pub struct Tape {
    fields: Vec<Field>,
    /// Those of the object that is being scanned: what is inside of it comes first.
    outer: Vec<Field>,
}

impl Tape {
    pub fn clear(&mut self) {
        self.fields.clear();
    }

    pub fn fields(&self, range: &Range<u32>) -> &[Field] {
        self.fields.get(range.start as usize..range.end as usize).unwrap_or_default()
    }
}

/// An object whose fields are on a [`Tape`].
#[derive(Clone, Debug, Default)]
pub struct Scanned {
    /// Its fields, in their order.
    pub fields: Range<u32>,
    /// Its values under the names that were asked for.
    pub named: [Option<Named>; 2],
}

/// A value, and where its fields are if it is an object.
#[derive(Clone, Debug)]
pub struct Named {
    value: Place,
    pub fields: Option<Range<u32>>,
}

impl Named {
    /// The value as it is spelt in `text`, the one that was scanned.
    pub fn of<'a>(&self, text: &'a str) -> &'a str {
        self.value.of(text)
    }
}

/// Takes the fields of `text` down, and those of the objects that lie in it under `names`, each of which is there once
/// at most. `None` where it is not, or may not be, one JSON object with nothing around it, nested up to `depth` levels,
/// its own keys without escapes.
pub fn scan(text: &str, depth: usize, names: [&str; 2], tape: &mut Tape) -> Option<Scanned> {
    let start = tape.fields.len();
    // Whatever is scanned has fewer fields than bytes
    u32::try_from(start + text.len()).ok()?;
    let mut scan = Scan { bytes: text.as_bytes(), at: 0, deepest: depth.min(DEEPEST) };
    let scanned = scan.message(names, tape).filter(|_| scan.at == text.len());
    if scanned.is_none() {
        tape.fields.truncate(start);
    }
    scanned
}

/// The first place in `bytes` from `at` on of what ends a text or means something in it: a quote, a backslash, a control
/// character; their end where there is none. Sixteen bytes at a time.
pub(super) fn plain_until(bytes: &[u8], mut at: usize) -> usize {
    let (quote, backslash, last_control) = (u8x16::splat(b'"'), u8x16::splat(b'\\'), u8x16::splat(b' ' - 1));
    while let Some(chunk) = bytes.get(at..).and_then(|rest| rest.first_chunk::<16>()) {
        let chunk = u8x16::new(*chunk);
        let found = chunk.simd_eq(quote) | chunk.simd_eq(backslash) | chunk.min(last_control).simd_eq(chunk);
        let found = found.to_bitmask();
        if found != 0 {
            return at + found.trailing_zeros() as usize;
        }
        at += 16;
    }
    while bytes.get(at).is_some_and(|&byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
        at += 1;
    }
    at
}

/// A place in what may or may not be JSON. Each step passes over what it expects, or gives `None`.
struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
    deepest: usize,
}

impl Scan<'_> {
    fn message(&mut self, names: [&str; 2], tape: &mut Tape) -> Option<Scanned> {
        let mut scanned = Scanned::default();
        let Tape { fields, outer } = tape;
        outer.clear();
        self.peek().filter(|byte| *byte == b'{')?;
        self.object(1, &mut |scan, key| {
            let start = scan.at;
            let name = &scan.bytes[key.start as usize + 1..key.end as usize - 1];
            let named = names.iter().position(|wanted| wanted.as_bytes() == name);
            let mut inner = None;
            if named.is_some() && scan.peek() == Some(b'{') {
                let first = fields.len();
                scan.object(2, &mut |scan, key| {
                    let start = scan.at;
                    scan.value(3)?;
                    fields.push(Field { key, value: scan.since(start) });
                    Some(())
                })?;
                inner = Some(first as u32..fields.len() as u32);
            } else {
                scan.value(2)?;
            }
            let value = scan.since(start);
            outer.push(Field { key, value });
            let twice = named.and_then(|name| scanned.named[name].replace(Named { value, fields: inner }));
            (key.plain && twice.is_none()).then_some(())
        })?;
        let first = fields.len();
        fields.append(outer);
        scanned.fields = first as u32..fields.len() as u32;
        Some(scanned)
    }

    fn since(&self, start: usize) -> Place {
        Place { start: start as u32, end: self.at as u32, plain: false }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn byte(&mut self, byte: u8) -> Option<()> {
        (self.peek() == Some(byte)).then(|| self.at += 1)
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        match self.peek()? {
            b'"' => self.text().map(drop),
            b'{' => self.object(depth, &mut |scan, _| scan.value(depth + 1)),
            b'[' => self.list(depth),
            b't' => self.literal(b"true"),
            b'f' => self.literal(b"false"),
            b'n' => self.literal(b"null"),
            _ => self.number(),
        }
    }

    /// Calls `each` at every value, with the place of its key.
    fn object(&mut self, depth: usize, each: &mut impl FnMut(&mut Self, Place) -> Option<()>) -> Option<()> {
        self.open(depth)?;
        if self.byte(b'}').is_some() {
            return Some(());
        }
        loop {
            let start = self.at;
            let plain = self.text()?;
            let key = Place { plain, ..self.since(start) };
            self.space();
            self.byte(b':')?;
            self.space();
            each(self, key)?;
            if self.ends(b'}')? {
                return Some(());
            }
        }
    }

    fn list(&mut self, depth: usize) -> Option<()> {
        self.open(depth)?;
        if self.byte(b']').is_some() {
            return Some(());
        }
        loop {
            self.value(depth + 1)?;
            if self.ends(b']')? {
                return Some(());
            }
        }
    }

    fn open(&mut self, depth: usize) -> Option<()> {
        self.at += 1;
        self.space();
        (depth <= self.deepest).then_some(())
    }

    /// Passes over what stands between two values, or at their end, which is told.
    fn ends(&mut self, end: u8) -> Option<bool> {
        self.space();
        let found = self.peek()?;
        self.at += 1;
        if found == b',' {
            self.space();
            return Some(false);
        }
        (found == end).then_some(true)
    }

    fn literal(&mut self, literal: &[u8]) -> Option<()> {
        self.bytes[self.at..].starts_with(literal).then(|| self.at += literal.len())
    }

    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }

    fn number(&mut self) -> Option<()> {
        let _ = self.byte(b'-');
        if self.byte(b'0').is_none() {
            self.digits()?;
        }
        if self.byte(b'.').is_some() {
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Some(())
    }

    /// Tells whether the text has no escapes.
    fn text(&mut self) -> Option<bool> {
        self.byte(b'"')?;
        let mut plain = true;
        loop {
            self.at = plain_until(self.bytes, self.at);
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Some(plain);
                }
                b'\\' => {
                    plain = false;
                    self.escape()?;
                }
                // A control character
                _ => return None,
            }
        }
    }

    fn escape(&mut self) -> Option<()> {
        self.at += 1;
        let escaped = self.peek()?;
        self.at += 1;
        match escaped {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(()),
            b'u' => {
                let digits = self.bytes.get(self.at..self.at + 4)?;
                self.at += 4;
                digits.iter().all(u8::is_ascii_hexdigit).then_some(())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;

    fn scanned(text: &str) -> Option<(Scanned, Tape)> {
        let mut tape = Tape::default();
        scan(text, 128, ["header", "payload"], &mut tape).map(|scanned| (scanned, tape))
    }

    fn list<'a>(text: &'a str, tape: &Tape, range: &Range<u32>) -> Vec<(&'a str, &'a str)> {
        tape.fields(range).iter().map(|field| field.of(text)).map(|(key, value)| (key.raw(), value)).collect()
    }

    #[test]
    fn fields_are_found_with_their_spelling() {
        let text = r#"{"v" :1.50e-3,"payload": {"a" : [1,{"b":"\u00e9\""}] , "c":null },"header":{ },"x":-0}"#;
        let (found, tape) = scanned(text).unwrap();
        let payload = r#"{"a" : [1,{"b":"\u00e9\""}] , "c":null }"#;
        let own = [(r#""v""#, "1.50e-3"), (r#""payload""#, payload), (r#""header""#, "{ }"), (r#""x""#, "-0")];
        assert_eq!(list(text, &tape, &found.fields), own);
        let inner = [(r#""a""#, r#"[1,{"b":"\u00e9\""}]"#), (r#""c""#, "null")];
        assert_eq!(list(text, &tape, found.named[1].as_ref().unwrap().fields.as_ref().unwrap()), inner);
        assert!(found.named[0].as_ref().unwrap().fields.as_ref().unwrap().is_empty());
        assert_eq!(found.named[1].as_ref().unwrap().of(text), payload);
    }

    #[test]
    fn what_is_named_in_two_ways_or_twice_is_left_to_others() {
        for text in [r#"{"header":1,"header":2}"#, r#"{"he\u0061der":1}"#] {
            assert!(scanned(text).is_none(), "{text}");
        }
        assert!(scanned(r#"{"header":{"a":1,"a":2,"\u0061":3}}"#).is_some());
    }

    #[test]
    fn nesting_is_followed_as_far_as_told() {
        let text = |lists: usize| format!(r#"{{"a":{}{}}}"#, "[".repeat(lists), "]".repeat(lists));
        let mut tape = Tape::default();
        assert!(scan(&text(3), 4, ["", ""], &mut tape).is_some());
        assert!(scan(&text(4), 4, ["", ""], &mut tape).is_none());
        assert!(scan(&text(100_000), usize::MAX, ["", ""], &mut tape).is_none());
        assert_eq!(tape.fields.len(), 1, "what was not accepted leaves nothing");
    }

    /// Text of which much is nearly JSON.
    fn nearly() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            5 => prop_oneof!["[{}\\[\\],:]", "[ \n\t\r]"],
            2 => prop_oneof![Just("\"a\":"), Just("\"header\":{"), Just("\"payload\":{\"a\":1}"), Just("{\"a\":[")]
                .prop_map(str::to_owned),
            2 => r#""([ -~é]|\\["\\/bfnrtux]|\\u[0-9a-fA-F]{3,4}|[\x00-\x1f]){0,12}"?"#,
            2 => "-?[0-9]{0,3}(\\.[0-9]{0,2})?([eE][+-]?[0-9]{0,2})?",
            1 => prop_oneof!["tru?e", "fals?e", "nul?l", "[a-z\u{7f}-\u{ff}]"],
        ];
        proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn it_accepts_nothing_that_is_not_json(text in nearly(), value in nearly()) {
            for text in [format!("{{{text}}}"), format!("{{\"a\":{value}}}"), format!("{{\"a\":\"{value}\"}}"), text] {
                if let Some((found, tape)) = scanned(&text) {
                    let map: Result<std::collections::BTreeMap<String, &RawValue>, _> = serde_json::from_str(&text);
                    let lone_surrogate = text.to_ascii_lowercase().contains("\\ud");
                    prop_assert!(map.is_ok() || lone_surrogate, "{text}");
                    for (key, value) in list(&text, &tape, &found.fields) {
                        prop_assert!(serde_json::from_str::<&RawValue>(key).is_ok_and(|raw| raw.get() == key));
                        prop_assert!(serde_json::from_str::<&RawValue>(value).is_ok_and(|raw| raw.get() == value));
                    }
                }
            }
        }

        #[test]
        fn it_accepts_what_programs_write(
            object in proptest::collection::btree_map("[a-zé]{0,9}", "[ -~é\u{1}\n]{0,20}", 0..8),
            pretty: bool,
        ) {
            let json = if pretty { serde_json::to_string_pretty(&object) } else { serde_json::to_string(&object) };
            prop_assert!(scanned(&json.unwrap()).is_some());
        }
    }
}
