//! What is printed of a request: a few lines for people, or one of JSON.

use std::{
    io::{self, Write},
    time::{Duration, SystemTime},
};

use axum::http::{HeaderMap, StatusCode, request::Parts};
use serde_json::{Map, Value, json, value::RawValue};

use super::Verdict;
use crate::terminal::{moment, plain, span};

/// For people a body is cut after so many characters.
const SHOWN: usize = 10_000;

/// How requests are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// For people, with the headers or without.
    Text { headers: bool },
    /// An object a line.
    Json,
}

/// A request and what became of it.
pub(super) struct Arrived<'a> {
    pub(super) at: SystemTime,
    pub(super) head: &'a Parts,
    pub(super) id: Option<&'a str>,
    /// Which time it is that this id comes, from 1.
    pub(super) time: u32,
    pub(super) verdict: Verdict,
    pub(super) status: StatusCode,
    pub(super) took: Duration,
    pub(super) body: &'a [u8],
}

impl Style {
    /// Prints the request to standard output, in one go.
    pub(super) fn print(self, arrived: &Arrived<'_>) -> io::Result<()> {
        let text = match self {
            Self::Text { headers } => arrived.text(headers),
            Self::Json => arrived.json(),
        };
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()
    }
}

impl Arrived<'_> {
    fn at(&self) -> i64 {
        let since = self.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }

    fn text(&self, headers: bool) -> String {
        let Parts { method, uri, .. } = self.head;
        let again = match self.time {
            1 => String::new(),
            time => format!(", time {time}"),
        };
        let verdict = match &self.verdict {
            Verdict::Verified => "✓ verified".to_owned(),
            Verdict::Refused(why) => format!("✗ {why}"),
            Verdict::Unsigned => "unsigned".to_owned(),
            Verdict::NoKey => "signed, and no key to verify it: give --secret-file".to_owned(),
        };
        let (time, status) = (moment(self.at()), self.status.as_u16());
        let id = plain(self.id.unwrap_or("no webhook-id"));
        let took = span(self.took.as_micros() as u64);
        let mut text =
            format!("{time}  {method} {}  {id}{again}  {verdict}  → {status} in {took}\n", plain(&uri.to_string()));
        if headers {
            for (name, value) in &self.head.headers {
                text += &format!("  {name}: {}\n", plain(&String::from_utf8_lossy(value.as_bytes())));
            }
        }
        for line in shown(self.body).lines() {
            text += &format!("  {}\n", plain(line));
        }
        text
    }

    fn json(&self) -> String {
        let Parts { method, uri, headers, .. } = self.head;
        let (verified, why) = match &self.verdict {
            Verdict::Verified => (Value::Bool(true), Value::Null),
            Verdict::Refused(why) => (Value::Bool(false), json!(why.to_string())),
            Verdict::Unsigned => (Value::Null, json!("unsigned")),
            Verdict::NoKey => (Value::Null, json!("no key")),
        };
        let (method, path) = (json!(method.as_str()), json!(uri.to_string()));
        let (time, id, headers) = (json!(moment(self.at())), json!(self.id), object(headers));
        // As it is spelt: numbers have digits that no parser keeps. Line breaks stand between its tokens only
        let body = match serde_json::from_slice::<&RawValue>(self.body) {
            Ok(json) => json.get().replace(['\n', '\r'], " "),
            Err(_) => json!(String::from_utf8_lossy(self.body)).to_string(),
        };
        format!(
            "{{\"time\":{time},\"method\":{method},\"path\":{path},\"id\":{id},\"attempt\":{},\"verified\":{verified},\
             \"why\":{why},\"status\":{},\"headers\":{headers},\"body\":{body}}}\n",
            self.time,
            self.status.as_u16()
        )
    }
}

/// Headers by name; one that is there more than once has a list.
fn object(headers: &HeaderMap) -> Value {
    let text = |value: &axum::http::HeaderValue| json!(String::from_utf8_lossy(value.as_bytes()));
    let mut object = Map::new();
    for name in headers.keys() {
        let mut values: Vec<_> = headers.get_all(name).iter().map(text).collect();
        let value = if values.len() == 1 { values.remove(0) } else { Value::Array(values) };
        object.insert(name.to_string(), value);
    }
    Value::Object(object)
}

/// A body as people read it.
fn shown(body: &[u8]) -> String {
    let text = match std::str::from_utf8(body) {
        Ok(text) if serde_json::from_str::<&RawValue>(text).is_ok() => indented(text),
        Ok(text) => text.to_owned(),
        Err(_) => return format!("({} bytes that are no text)", body.len()),
    };
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}\n… ({} bytes in all)", &text[..end], body.len()),
        None => text,
    }
}

/// A JSON text with a line for each member. All else stays as it is spelt.
fn indented(json: &str) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    let mut rest = json.chars().peekable();
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", depth.min(32)));
    };
    while let Some(c) = rest.next() {
        if quoted {
            out.push(c);
            quoted = c != '"' || escaped;
            escaped = c == '\\' && !escaped;
            continue;
        }
        match c {
            '{' | '[' => {
                out.push(c);
                while rest.next_if(char::is_ascii_whitespace).is_some() {}
                if let Some(end) = rest.next_if(|c| matches!(c, '}' | ']')) {
                    out.push(end);
                    continue;
                }
                depth += 1;
                line(&mut out, depth);
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c if c.is_ascii_whitespace() => {}
            c => {
                quoted = c == '"';
                out.push(c);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;
    use crate::webhook::signature::Unverified;

    #[test]
    fn a_body_is_laid_out_and_keeps_its_spelling() {
        for (body, expected) in [
            ("7", "7"),
            (" {} ", "{}"),
            ("[ ]", "[]"),
            (
                r#"{"a":2.50,"b":[1,{"c":"x, {y}: \"z\\"}]}"#,
                "{\n  \"a\": 2.50,\n  \"b\": [\n    1,\n    {\n      \"c\": \"x, {y}: \\\"z\\\\\"\n    }\n  ]\n}",
            ),
            ("{ \"a\" :\n{ } }", "{\n  \"a\": {}\n}"),
            ("a=b&c", "a=b&c"),
            ("", ""),
        ] {
            assert_eq!(shown(body.as_bytes()), expected);
        }
        assert_eq!(shown(b"\xff\xfe"), "(2 bytes that are no text)");
        assert!(shown("x".repeat(20_000).as_bytes()).ends_with("x\n… (20000 bytes in all)"));
    }

    fn arrived<T>(body: &[u8], verdict: Verdict, time: u32, take: impl FnOnce(Arrived<'_>) -> T) -> T {
        let request = Request::post("/hook?a=1")
            .header("x-a", "1")
            .header("x-a", "2")
            .header("webhook-id", "m1")
            .body(())
            .unwrap();
        let (head, ()) = request.into_parts();
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_001);
        let took = Duration::from_millis(2);
        take(Arrived { at, head: &head, id: Some("m1"), time, verdict, status: StatusCode::OK, took, body })
    }

    #[test]
    fn nothing_that_arrives_moves_the_cursor() {
        let text = arrived(b"{\"a\":\"\xc2\x9b2J\"}\x1b[2J", Verdict::Unsigned, 2, |arrived| arrived.text(true));
        let expected = "2023-11-14T22:13:20.001Z  POST /hook?a=1  m1, time 2  unsigned  → 200 in 2.0 ms\n  x-a: 1\n  x-a: 2\n  \
                        webhook-id: m1\n  {\"a\":\"\u{fffd}2J\"}\u{fffd}[2J\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_line_of_json_has_all_of_it() {
        let line = arrived(b"{\"n\":\n 2.50}", Verdict::Refused(Unverified::Signature), 1, |arrived| arrived.json());
        assert_eq!(line.matches('\n').count(), 1);
        assert!(line.ends_with(",\"body\":{\"n\":  2.50}}\n"), "{line}");
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&value["verified"], &value["attempt"], &value["id"]), (&json!(false), &json!(1), &json!("m1")));
        assert_eq!(value["headers"], json!({"x-a": ["1", "2"], "webhook-id": "m1"}));
        assert!(value["why"].as_str().unwrap().starts_with("no signature is by a key"));
        let text = arrived(b"\xff", Verdict::NoKey, 1, |arrived| arrived.json());
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["body"], "\u{fffd}");
    }
}
