//! `--set payload.a.b=VALUE`: a field of a payload and what it is set to.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::payload::Payload;

/// A field of the payload and what it is set to.
#[derive(Clone, Debug)]
pub struct Assignment {
    /// Names from the payload inwards, one or more.
    path: Vec<String>,
    value: Box<RawValue>,
}

impl Assignment {
    /// Reads `payload.a.b=VALUE`. Names may be quoted, as keys in TOML are; the value is JSON, or text in single quotes,
    /// or else the text that it is.
    pub fn parse(text: &str) -> Result<Self, String> {
        let expected = || "a field of the payload and its value are expected, as in payload.amount=5".to_owned();
        let mut rest = text.strip_prefix("payload").ok_or_else(expected)?;
        let mut path = Vec::new();
        while let Some(inner) = rest.strip_prefix('.') {
            let (name, behind) = name(inner).ok_or_else(expected)?;
            path.push(name);
            rest = behind;
        }
        let value = rest.strip_prefix('=').filter(|_| !path.is_empty()).ok_or_else(expected)?;
        let quoted = value.strip_prefix('\'').and_then(|value| value.strip_suffix('\''));
        let json = match quoted {
            None => serde_json::from_str::<&RawValue>(value).ok().map(|json| json.to_owned()),
            Some(_) => None,
        };
        let as_text = || serde_json::value::to_raw_value(quoted.unwrap_or(value)).map_err(|error| error.to_string());
        Ok(Self { path, value: json.map_or_else(as_text, Ok)? })
    }

    pub(super) fn carry_out(&self, payload: &mut Payload<'_>) -> Result<(), String> {
        self.set(payload, &self.path)
    }

    /// Sets what is left of the path in an object. Objects that are missing on the way are made.
    fn set(&self, object: &mut Payload<'_>, path: &[String]) -> Result<(), String> {
        let failed = |error: serde_json::Error| format!("set payload.{}: {error}", self.path.join("."));
        let [name, inner @ ..] = path else { return Ok(()) };
        if inner.is_empty() {
            return object.set(name, &self.value).map_err(failed);
        }
        let old = object.get(name).unwrap_or(Cow::Borrowed("{}")).into_owned();
        let not_an_object = || {
            let outer = &self.path[..self.path.len() - inner.len()];
            format!("payload.{} is no object, so nothing can be set in it", outer.join("."))
        };
        let mut within = Payload::new(&old).ok_or_else(not_an_object)?;
        self.set(&mut within, inner)?;
        let mut new = Vec::new();
        within.write(&mut new);
        let new: &RawValue = serde_json::from_slice(&new).map_err(failed)?;
        object.set(name, new).map_err(failed)
    }
}

/// A name of a path, and what is behind it.
fn name(text: &str) -> Option<(String, &str)> {
    let quote = text.chars().next().filter(|first| matches!(first, '"' | '\''));
    let Some(quote) = quote else {
        let (name, rest) = text.split_at(text.find(['.', '='])?);
        return (!name.is_empty()).then(|| (name.to_owned(), rest));
    };
    let inner = &text[1..];
    let mut escaped = false;
    let end = inner.char_indices().find(|(_, c)| {
        let ends = *c == quote && !escaped;
        escaped = quote == '"' && *c == '\\' && !escaped;
        ends
    });
    let (quoted, rest) = text.split_at(1 + end?.0 + 1);
    match quote {
        '"' => Some((serde_json::from_str(quoted).ok()?, rest)),
        _ => Some((quoted[1..quoted.len() - 1].to_owned(), rest)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_are_set_at_any_depth_and_the_rest_keeps_its_spelling() {
        for (assignments, expected) in [
            (&["payload.n=1e400"][..], r#"{"n": 1e400,"in":{"x":1}}"#),
            (&["payload.n=ab c=d"], r#"{"n": "ab c=d","in":{"x":1}}"#),
            (&["payload.n='5'"], r#"{"n": "5","in":{"x":1}}"#),
            (&["payload.n=\"5\""], r#"{"n": "5","in":{"x":1}}"#),
            (&["payload.n="], r#"{"n": "","in":{"x":1}}"#),
            (&["payload.in.x={\"y\": 1}", "payload.in.x.y=2"], r#"{"n": 2.50,"in":{"x":{"y": 2}}}"#),
            (&["payload.a.b.c=null"], r#"{"n": 2.50,"in":{"x":1},"a":{"b":{"c":null}}}"#),
            (&["payload.\"a.=\\\"\".'b\"'=1"], r#"{"n": 2.50,"in":{"x":1},"a.=\"":{"b\"":1}}"#),
        ] {
            let mut payload = Payload::new(r#"{"n": 2.50,"in":{"x":1}}"#).unwrap();
            for assignment in assignments {
                Assignment::parse(assignment).unwrap().carry_out(&mut payload).unwrap();
            }
            let mut written = Vec::new();
            payload.write(&mut written);
            assert_eq!(String::from_utf8(written).unwrap(), expected, "{assignments:?}");
        }
    }

    #[test]
    fn what_is_no_assignment_says_what_is_expected() {
        let names = ["", "payload", "payload=1", "n=1", "payload.", "payload.=1", "payload.a", "payloada=1"];
        for wrong in names.into_iter().chain(["payload.\"a=1", "header.id=1"]) {
            let error = Assignment::parse(wrong).unwrap_err();
            assert!(error.starts_with("a field of the payload and its value are expected"), "{wrong}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_assignment_panics(text in "payload[.a=\"'\\\\{}1]{0,12}") {
            if let Ok(assignment) = Assignment::parse(&text) {
                let mut payload = Payload::new(r#"{"a":{"a":1}}"#).unwrap();
                let _ = assignment.carry_out(&mut payload);
            }
        }
    }
}
