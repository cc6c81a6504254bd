//! From JSON to what Python's `json.loads` makes of it.

use std::sync::Arc;

use memchr::memchr2;
use num_bigint::BigInt;

use super::value::{Text, Value};
use crate::rules::Fault;

/// Deepest nesting. Python gives up at about a thousand levels, messages on the bus are refused long before.
const DEEPEST: usize = 512;

/// Most digits of a whole number, Python's own limit (`sys.get_int_max_str_digits`).
const DIGITS: usize = 4300;

const NO_JSON: Fault<'static> = Fault::Other("the data is no JSON");

impl Value {
    /// Takes checked JSON. Fails where it is nested too deeply, or has too long a number.
    pub fn json(json: &str) -> Result<Self, Fault<'static>> {
        Loader { bytes: json.as_bytes(), at: 0 }.value(0)
    }
}

/// Appends a code point, which may be a surrogate.
pub fn push(text: &mut Vec<u8>, code: u32) {
    let six = |shift: u32| 0x80 | (code >> shift & 0x3f) as u8;
    match code {
        0..0x80 => text.push(code as u8),
        0x80..0x800 => text.extend([0xc0 | (code >> 6) as u8, six(0)]),
        0x800..0x1_0000 => text.extend([0xe0 | (code >> 12) as u8, six(6), six(0)]),
        _ => text.extend([0xf0 | (code >> 18) as u8, six(12), six(6), six(0)]),
    }
}

/// A place in checked JSON. Given anything else it fails early, and never panics.
struct Loader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Loader<'a> {
    fn byte(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// What comes next after white space.
    fn next(&mut self) -> Option<u8> {
        while matches!(self.byte(), Some(b' ' | b'\n' | b'\t' | b'\r')) {
            self.at += 1;
        }
        self.byte()
    }

    /// Passes over `mark`, where it comes next.
    fn pass(&mut self, mark: u8) -> bool {
        let found = self.next() == Some(mark);
        self.at += usize::from(found);
        found
    }

    fn value(&mut self, depth: usize) -> Result<Value, Fault<'static>> {
        if depth > DEEPEST {
            return Err(Fault::Other("the data is nested too deeply"));
        }
        Ok(match self.next().ok_or(NO_JSON)? {
            b'"' => Value::Text(self.text()?),
            b'{' => self.dict(depth)?,
            b'[' => self.list(depth)?,
            b't' => self.word(4, Value::Bool(true)),
            b'f' => self.word(5, Value::Bool(false)),
            b'n' => self.word(4, Value::None),
            _ => self.number()?,
        })
    }

    fn word(&mut self, length: usize, value: Value) -> Value {
        self.at += length;
        value
    }

    fn list(&mut self, depth: usize) -> Result<Value, Fault<'static>> {
        let mut items = Vec::new();
        self.pass(b'[');
        while !self.pass(b']') {
            items.push(self.value(depth + 1)?);
            self.pass(b',');
        }
        Ok(Value::List(items.into()))
    }

    fn dict(&mut self, depth: usize) -> Result<Value, Fault<'static>> {
        let mut entries = Vec::new();
        self.pass(b'{');
        while !self.pass(b'}') {
            if self.next() != Some(b'"') {
                return Err(NO_JSON);
            }
            let key = self.text()?;
            self.pass(b':');
            entries.push((key, self.value(depth + 1)?));
            self.pass(b',');
        }
        // The last of a key counts
        entries.reverse();
        entries.sort_by(|(left, _), (right, _)| left.cmp(right));
        entries.dedup_by(|(later, _), (kept, _)| later == kept);
        Ok(Value::Dict(entries.into()))
    }

    fn number(&mut self) -> Result<Value, Fault<'static>> {
        let start = self.at;
        while matches!(self.byte(), Some(b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')) {
            self.at += 1;
        }
        let text = std::str::from_utf8(&self.bytes[start..self.at]).map_err(|_| NO_JSON)?;
        if text.contains(['.', 'e', 'E']) {
            return text.parse().map(Value::Float).map_err(|_| NO_JSON);
        }
        if let Ok(number) = text.parse() {
            return Ok(Value::Int(number));
        }
        if text.trim_start_matches('-').len() > DIGITS {
            return Err(Fault::Other("the data has a number of more than 4300 digits"));
        }
        text.parse::<BigInt>().map(|number| Value::Big(Arc::new(number))).map_err(|_| NO_JSON)
    }

    /// From an opening quote to behind the closing one.
    fn text(&mut self) -> Result<Text, Fault<'static>> {
        self.at += 1;
        let mut text = Vec::new();
        loop {
            let rest = self.bytes.get(self.at..).ok_or(NO_JSON)?;
            let plain = memchr2(b'"', b'\\', rest).ok_or(NO_JSON)?;
            self.at += plain + 1;
            if rest[plain] == b'"' {
                // Most have no escapes
                return Ok(if text.is_empty() {
                    rest[..plain].into()
                } else {
                    [&text, &rest[..plain]].concat().into()
                });
            }
            text.extend_from_slice(&rest[..plain]);
            let code = self.escape().ok_or(NO_JSON)?;
            push(&mut text, code);
        }
    }

    /// What is behind a backslash.
    fn escape(&mut self) -> Option<u32> {
        let escaped = self.byte()?;
        self.at += 1;
        Some(match escaped {
            b'b' => 8,
            b'f' => 12,
            b'n' => 10,
            b'r' => 13,
            b't' => 9,
            b'u' => {
                let high = self.hexadecimal()?;
                let low = |loader: &mut Self| {
                    let low = loader.bytes.get(loader.at..)?.starts_with(b"\\u");
                    loader.at += if low { 2 } else { return None };
                    loader.hexadecimal().filter(|low| (0xdc00..0xe000).contains(low))
                };
                let behind = self.at;
                match (0xd800..0xdc00).contains(&high).then(|| low(self)).flatten() {
                    Some(low) => 0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00),
                    None => {
                        self.at = behind;
                        high
                    }
                }
            }
            other => other.into(),
        })
    }

    fn hexadecimal(&mut self) -> Option<u32> {
        let digits = std::str::from_utf8(self.bytes.get(self.at..self.at + 4)?).ok()?;
        self.at += 4;
        u32::from_str_radix(digits, 16).ok()
    }
}
