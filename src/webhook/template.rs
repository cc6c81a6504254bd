//! The request that a message in switch's shape asks for.
//!
//! switch sends to each subscriber what the publisher says, in one JSON object; all of its fields may be missing:
//!
//! ```json
//! {"body": {"a": 1}, "headers": {"x-kind": "a"}, "query_params": {"page": 2}, "path_params": {"id": 7}, "http_method": "put"}
//! ```
//!
//! With the URL `https://example.com/books/:id` that is `PUT /books/7?page=2`, as switch's consumer sends it. What a publisher writes
//! can change what is asked of a subscriber's host, and never which host that is: the values are put into segments of the path
//! and behind the question mark, escaped, and headers that belong to the connection are left out.

use std::{borrow::Cow, fmt};

use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use reqwest::{
    Method,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;
use url::Url;

use super::{signature, target::Target};

/// More parameters of one kind, or headers, than this nobody needs; each costs a look at the others.
const MEMBERS: usize = 256;

/// What a client is to send.
#[derive(Clone)]
pub struct Request {
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// Why no request can be made of a message. The text has names in it and no values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsendable {
    #[error("the message is not in switch's shape: {0}")]
    Shape(String),
    #[error("http_method must be the name of a method, and neither CONNECT nor TRACE")]
    Method,
    #[error("{0} must be text or a number")]
    Value(String),
    #[error("{0} has more than {MEMBERS} members")]
    Many(&'static str),
    #[error("path_params lead out of the path: a segment would be . or ..")]
    Dots,
    #[error("headers.{0:?} is no header: its name or its value has characters that none may have")]
    Header(String),
}

/// Of two fields with one name the later counts, as in Python.
#[derive(Default)]
struct Message<'a> {
    body: Option<&'a RawValue>,
    headers: Option<&'a RawValue>,
    query_params: Option<&'a RawValue>,
    path_params: Option<&'a RawValue>,
    http_method: Option<&'a RawValue>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Message<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Fields)
    }
}

struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = Message<'de>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Message<'de>, A::Error> {
        let mut message = Message::default();
        while let Some((name, value)) = map.next_entry::<Cow<str>, &RawValue>()? {
            let field = match name.as_ref() {
                "body" => &mut message.body,
                "headers" => &mut message.headers,
                "query_params" => &mut message.query_params,
                "path_params" => &mut message.path_params,
                "http_method" => &mut message.http_method,
                _ => continue,
            };
            *field = Some(value);
        }
        Ok(message)
    }
}

/// The request of `message`, a JSON object, to `target`, whose path may have placeholders: a colon and a name.
pub fn request(target: &Target, message: &[u8]) -> Result<Request, Unsendable> {
    // What reads an object takes a list of its values as well
    if message.trim_ascii_start().first() != Some(&b'{') {
        return Err(Unsendable::Shape("it is no JSON object".to_owned()));
    }
    let message: Message = serde_json::from_slice(message).map_err(|error| Unsendable::Shape(error.to_string()))?;
    let mut url = target.url().clone();
    // Never sent, and a place where something could hide
    url.set_fragment(None);
    fill_path(&mut url, &pairs("path_params", message.path_params)?)?;
    add_query(&mut url, truthy(message.query_params))?;
    Ok(Request {
        method: method(message.http_method)?,
        url,
        headers: headers(&pairs("headers", message.headers)?)?,
        body: truthy(message.body).map_or("{}", RawValue::get).as_bytes().to_owned(),
    })
}

/// `value`, unless it is one that Python takes for false: there it stands for nothing.
fn truthy(value: Option<&RawValue>) -> Option<&RawValue> {
    let text = value?.get();
    let falsy = match text.as_bytes() {
        b"null" | b"false" | b"\"\"" => true,
        [b'[' | b'{', inner @ .., _] => inner.iter().all(u8::is_ascii_whitespace),
        _ => text.parse().is_ok_and(|number: f64| number == 0.0),
    };
    value.filter(|_| !falsy)
}

fn method(value: Option<&RawValue>) -> Result<Method, Unsendable> {
    let Some(value) = truthy(value) else { return Ok(Method::POST) };
    let name: String = serde_json::from_str(value.get()).map_err(|_| Unsendable::Method)?;
    match Method::from_bytes(name.to_ascii_uppercase().as_bytes()) {
        // They are for proxies and for finding faults on the way, not for whoever listens at a URL
        Ok(Method::CONNECT | Method::TRACE) | Err(_) => Err(Unsendable::Method),
        Ok(method) => Ok(method),
    }
}

/// The members of an object, in their order. Of two with one name the later counts, as in Python.
#[derive(Default)]
struct Pairs<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

fn pairs<'a>(field: &'static str, value: Option<&'a RawValue>) -> Result<Pairs<'a>, Unsendable> {
    let Some(value) = truthy(value) else { return Ok(Pairs::default()) };
    let pairs: Pairs =
        serde_json::from_str(value.get()).map_err(|_| Unsendable::Shape(format!("{field} is no object")))?;
    if pairs.0.len() > MEMBERS { Err(Unsendable::Many(field)) } else { Ok(pairs) }
}

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Members)
    }
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Pairs<'de>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<'de>, A::Error> {
        let mut pairs: Vec<(Cow<str>, &RawValue)> = Vec::new();
        while let Some((name, value)) = map.next_entry::<Cow<str>, &RawValue>()? {
            // One more than there may be is as good as all of them
            if pairs.len() > MEMBERS {
                continue;
            }
            match pairs.iter_mut().find(|(known, _)| *known == name) {
                Some(pair) => pair.1 = value,
                None => pairs.push((name, value)),
            }
        }
        Ok(Pairs(pairs))
    }
}

/// The text of a value that is text, or a number.
fn text<'a>(field: &str, name: &str, value: &'a RawValue) -> Result<Cow<'a, str>, Unsendable> {
    let written = value.get();
    let text = match written.as_bytes().first() {
        Some(b'"') => serde_json::from_str::<String>(written).ok().map(Cow::Owned),
        Some(b'-' | b'0'..=b'9') => Some(number(written)),
        _ => None,
    };
    text.ok_or_else(|| Unsendable::Value(format!("{field}.{name:?}")))
}

/// A number as Python's `str` has it, which reads it first: a whole one as it is written, `2.50` as 2.5 and `1E16` as 1e+16.
fn number(written: &str) -> Cow<'_, str> {
    if written == "-0" {
        return Cow::Borrowed("0");
    }
    let value = if written.contains(['.', 'e', 'E']) { written.parse::<f64>().ok() } else { None };
    let Some(value) = value else { return Cow::Borrowed(written) };
    // Both write the fewest digits that mean the number, and use an exponent for the same ones
    let shortest = format!("{value:?}");
    let digits = shortest.split('e').next().unwrap_or_default();
    let places = digits.split_once('.').map_or(0, |(_, behind)| behind.len());
    let even = if shortest.contains('e') { format!("{value:.places$e}") } else { format!("{value:.places$}") };
    // Where two are as short and as near, Python takes the even one
    let text = if even.parse() == Ok(value) { even } else { shortest };
    Cow::Owned(match text.split_once('e') {
        None => text,
        Some((digits, exponent)) => match exponent.strip_prefix('-') {
            Some(exponent) => format!("{digits}e-{exponent:0>2}"),
            None => format!("{digits}e+{exponent:0>2}"),
        },
    })
}

/// All but what RFC 3986 calls unreserved.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

fn fill_path(url: &mut Url, params: &Pairs) -> Result<(), Unsendable> {
    let mut values = Vec::with_capacity(params.0.len());
    for (name, value) in &params.0 {
        let value = text("path_params", name, value)?;
        values.push((name.as_ref(), utf8_percent_encode(&value, ESCAPED).to_string()));
    }
    let path = url.path();
    if values.is_empty() || !path.contains(':') {
        return Ok(());
    }
    let mut filled = String::with_capacity(path.len());
    for segment in path.split('/').skip(1) {
        let segment = fill(segment, &values);
        // Whoever reads the URL takes such a segment, escaped too, for the folder itself or the one above
        if matches!(&*percent_decode_str(&segment).decode_utf8_lossy(), "." | "..") {
            return Err(Unsendable::Dots);
        }
        filled.push('/');
        filled.push_str(&segment);
    }
    url.set_path(&filled);
    Ok(())
}

/// `segment` with the value of each name in place of a colon and the name. Of two names that fit, the longer counts.
fn fill(segment: &str, values: &[(&str, String)]) -> String {
    let mut filled = String::with_capacity(segment.len());
    let mut rest = segment;
    while let Some(colon) = rest.find(':') {
        filled.push_str(&rest[..colon]);
        rest = &rest[colon + 1..];
        let fits = values.iter().filter_map(|(name, value)| Some((stripped(rest, name)?, value)));
        match fits.min_by_key(|(behind, _)| behind.len()) {
            Some((behind, value)) => {
                filled.push_str(value);
                rest = behind;
            }
            None => filled.push(':'),
        }
    }
    filled.push_str(rest);
    filled
}

/// What is behind `name` in `text`, where `text` begins with that name and not with a longer one. A path is escaped, a name not.
fn stripped<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = text;
    for byte in name.bytes() {
        let (first, behind) = unescaped(rest)?;
        rest = behind;
        if first != byte {
            return None;
        }
    }
    // Letters beyond ASCII are several bytes, none of them ASCII
    let longer = |(next, _): (u8, _)| next.is_ascii_alphanumeric() || next == b'_' || !next.is_ascii();
    (!name.is_empty() && !unescaped(rest).is_some_and(longer)).then_some(rest)
}

/// The first byte that `text`, a part of a path, stands for, and what is behind it.
fn unescaped(text: &str) -> Option<(u8, &str)> {
    let first = *text.as_bytes().first()?;
    let digits = text.get(1..3).filter(|digits| first == b'%' && digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
    match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
        Some(byte) => Some((byte, &text[3..])),
        // A path that has been read is ASCII
        None => Some((first, text.get(1..)?)),
    }
}

/// As Python's requests has it: text is the query itself; else they are an object or a list of pairs.
fn add_query(url: &mut Url, params: Option<&RawValue>) -> Result<(), Unsendable> {
    let Some(params) = params else { return Ok(()) };
    let shape = || Unsendable::Shape("query_params is neither an object nor a list of pairs".to_owned());
    let pairs: Vec<(Cow<str>, &RawValue)> = match params.get().as_bytes().first() {
        Some(b'"') => {
            let text: String = serde_json::from_str(params.get()).map_err(|_| shape())?;
            // Else the ends of lines would be passed over when the query is set
            let text = utf8_percent_encode(&text, CONTROLS);
            let before = url.query().filter(|before| !before.is_empty());
            let query = before.map_or_else(|| text.to_string(), |before| format!("{before}&{text}"));
            url.set_query(Some(&query));
            return Ok(());
        }
        Some(b'[') => serde_json::from_str(params.get()).map_err(|_| shape())?,
        _ => pairs(QUERY, Some(params))?.0,
    };
    if pairs.len() > MEMBERS {
        return Err(Unsendable::Many(QUERY));
    }
    let mut added = Vec::new();
    for (name, value) in &pairs {
        added.extend(query_values(name, value)?.into_iter().map(|value| (name, value)));
    }
    if !added.is_empty() {
        url.query_pairs_mut().extend_pairs(added);
    }
    Ok(())
}

const QUERY: &str = "query_params";

/// The values that a parameter has: null is none, a list is each of its values, and an object each of its names.
fn query_values<'a>(name: &str, value: &'a RawValue) -> Result<Vec<Cow<'a, str>>, Unsendable> {
    let shape = |error: serde_json::Error| Unsendable::Shape(error.to_string());
    let list: Vec<&RawValue> = match value.get().as_bytes().first() {
        Some(b'[') => serde_json::from_str(value.get()).map_err(shape)?,
        Some(b'{') => {
            let names: Pairs = serde_json::from_str(value.get()).map_err(shape)?;
            return Ok(names.0.into_iter().map(|(name, _)| name).collect());
        }
        _ => vec![value],
    };
    let mut values = Vec::new();
    for value in list {
        match value.get() {
            "null" => {}
            "true" => values.push(Cow::Borrowed("True")),
            "false" => values.push(Cow::Borrowed("False")),
            _ => values.push(text(QUERY, name, value)?),
        }
    }
    Ok(values)
}

/// Of the connection, or of the body as it is sent: not a message's to say (RFC 9110, 7.6.1).
pub const LEFT_OUT: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

fn headers(pairs: &Pairs) -> Result<HeaderMap, Unsendable> {
    let mut headers = HeaderMap::new();
    let mut hop = Vec::new();
    for (name, value) in &pairs.0 {
        if value.get() == "null" {
            continue;
        }
        let text = text("headers", name, value)?;
        let bad = || Unsendable::Header(name.to_string());
        let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
        // White space about it is no part of it; what is not ASCII goes as UTF-8
        let value = HeaderValue::from_bytes(text.trim_matches([' ', '\t']).as_bytes()).map_err(|_| bad())?;
        if header == "connection" {
            hop.extend(text.split(',').map(|named| named.trim().to_ascii_lowercase()));
        }
        headers.insert(header, value);
    }
    for name in LEFT_OUT.iter().copied().chain(hop.iter().map(String::as_str)) {
        headers.remove(name);
    }
    // A signature is metrobus' own word
    for name in [signature::ID, signature::TIMESTAMP, signature::SIGNATURE] {
        headers.remove(name);
    }
    headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
    Ok(headers)
}

#[cfg(test)]
mod tests;
