//! The header of a message on its way: read, and written anew for the next stop.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::{Limits, Malformed, Stops};
use crate::{
    bus::Topic,
    json::{Object, elements, offset, text},
    payload::Payload,
};

/// The parts of a header that a hop changes, as slices of the whole value.
#[derive(Clone, Debug)]
pub(super) struct Slip<'a> {
    pub header: &'a str,
    pub route: List<'a>,
    pub next: Option<&'a Topic>,
    pub history: Option<List<'a>>,
    pub id: Option<&'a str>,
    /// Milliseconds since the epoch.
    pub deadline: Option<i64>,
}

fn broken(reason: &str) -> Malformed {
    Malformed::Slip(reason.to_owned())
}

impl<'a> Slip<'a> {
    pub fn parse(
        header: Object<'a>,
        limits: &Limits,
        stops: &'a Stops,
        before: Option<&Self>,
    ) -> Result<Self, Malformed> {
        let header = header.if_object().ok_or_else(|| broken("header is not an object"))?;
        let (mut route, mut history, mut id, mut deadline, mut twice) = (None, None, None, None, None);
        header.each(|key, value| {
            let (name, field) = match key {
                _ if key.is("route") => ("route", &mut route),
                _ if key.is("historical_route") => ("historical_route", &mut history),
                _ if key.is("id") => ("id", &mut id),
                _ if key.is("deadline") => ("deadline", &mut deadline),
                _ => return,
            };
            if field.replace(value).is_some() {
                twice = Some(name);
            }
        });
        if let Some(name) = twice {
            return Err(Malformed::Slip(format!("{name} occurs twice")));
        }
        let route = route.ok_or_else(|| broken("route is missing"))?;
        let deadline = deadline.map(|text| text.parse().map_err(|_| broken("deadline is no time in milliseconds")));
        let deadline = deadline.transpose()?;
        if let Some(before) = before
            && before.route.raw == route
            && before.history.as_ref().map(|history| history.raw) == history
        {
            let history = before.history.as_ref().zip(history).map(|(list, raw)| List { raw, ..list.clone() });
            return Ok(Self {
                header: header.raw(),
                route: List { raw: route, ..before.route },
                history,
                id,
                deadline,
                ..*before
            });
        }
        let mut unknown = None;
        let mut next = None;
        let route = List::parse("route", route, |stop| {
            next = stops.find(stop);
            if next.is_none() && unknown.is_none() {
                unknown = Some(stop);
            }
        })?;
        let history = history.map(|history| List::parse("historical_route", history, |_| {})).transpose()?;
        let hops = route.length + history.as_ref().map_or(0, |history| history.length);
        if hops > limits.hops {
            return Err(Malformed::TooManyHops { hops, limit: limits.hops });
        }
        if let Some(stop) = unknown {
            return Err(Malformed::UnknownStop(text(stop).unwrap_or_default().chars().take(100).collect()));
        }
        Ok(Self { header: header.raw(), route, next, history, id, deadline })
    }

    /// How many stops it has called at, the one where it is included.
    pub fn travelled(&self) -> usize {
        self.history.as_ref().map_or(0, |history| history.length)
    }

    /// Appends the header with `fields`, whose values are JSON.
    pub fn write_with(&self, fields: &[(&str, String)], out: &mut Vec<u8>) {
        let mut header = Payload::of(Object::new(self.header));
        for (name, value) in fields {
            let Ok(value) = RawValue::from_string(value.clone()) else { continue };
            // Nothing that is JSON fails to be written as JSON
            let _ = header.set(name, &value);
        }
        header.write(out);
    }

    /// Appends the header, its route shorter and its history longer by one stop.
    pub fn write_advanced(&self, out: &mut Vec<u8>) {
        let Some(stop) = self.route.last else { return out.extend_from_slice(self.header.as_bytes()) };
        let bytes = self.header.as_bytes();
        let route = offset(self.header, self.route.raw);
        let after_route = route + self.route.raw.len();
        match &self.history {
            None => {
                out.extend_from_slice(&bytes[..route]);
                self.route.write_popped(out);
                out.extend_from_slice(self.header[after_route..bytes.len() - 1].trim_ascii_end().as_bytes());
                out.extend_from_slice(b",\"historical_route\":[");
                out.extend_from_slice(stop.as_bytes());
                out.extend_from_slice(b"]}");
            }
            Some(list) => {
                let history = offset(self.header, list.raw);
                let after_history = history + list.raw.len();
                if route < history {
                    out.extend_from_slice(&bytes[..route]);
                    self.route.write_popped(out);
                    out.extend_from_slice(&bytes[after_route..history]);
                    list.write_pushed(stop, out);
                    out.extend_from_slice(&bytes[after_history..]);
                } else {
                    out.extend_from_slice(&bytes[..history]);
                    list.write_pushed(stop, out);
                    out.extend_from_slice(&bytes[after_history..route]);
                    self.route.write_popped(out);
                    out.extend_from_slice(&bytes[after_route..]);
                }
            }
        }
    }
}

/// The id in the slip of a value that a stop has written.
pub(crate) fn id_of(value: &[u8]) -> Option<String> {
    header_text(value, "id")
}

/// The text of the field `name` in the slip of a value that may be anything; `None` where there is no such text.
pub(crate) fn header_text(value: &[u8], name: &str) -> Option<String> {
    let value = Object::new(std::str::from_utf8(value).ok()?.trim_ascii()).if_object()?;
    let header = Object::new(value.find("header")?).if_object()?;
    text(header.find(name)?).map(Cow::into_owned)
}

/// A JSON list of text, as it is spelt.
#[derive(Clone, Debug)]
pub(super) struct List<'a> {
    pub raw: &'a str,
    pub length: usize,
    /// Its last element, here or in another list that is spelt the same.
    pub last: Option<&'a str>,
    /// Where the element before the last ends in `raw`, in bytes.
    pub before_last: usize,
}

impl<'a> List<'a> {
    fn parse(name: &str, raw: &'a str, mut each: impl FnMut(&'a str)) -> Result<Self, Malformed> {
        if !raw.starts_with('[') {
            return Err(Malformed::Slip(format!("{name} is not a list")));
        }
        let mut list = Self { raw, length: 0, last: None, before_last: 1 };
        let mut all_text = true;
        elements(raw, |element| {
            all_text &= element.starts_with('"');
            if !all_text {
                return;
            }
            if let Some(last) = list.last {
                list.before_last = offset(raw, last) + last.len();
            }
            list.length += 1;
            list.last = Some(element);
            each(element);
        });
        if !all_text {
            return Err(Malformed::Slip(format!("{name} holds something that is not text")));
        }
        Ok(list)
    }

    fn write_popped(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.raw.as_bytes()[..self.before_last]);
        out.push(b']');
    }

    fn write_pushed(&self, element: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(self.raw[..self.raw.len() - 1].trim_ascii_end().as_bytes());
        if self.length > 0 {
            out.push(b',');
        }
        out.extend_from_slice(element.as_bytes());
        out.push(b']');
    }
}
