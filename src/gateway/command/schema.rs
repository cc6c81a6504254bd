//! The JSON Schema of a command: read once, and asked for each request.

use std::{
    error::Error,
    fmt::{self, Write},
    fs,
};

use jsonschema::{PatternOptions, Retrieve, Uri, ValidationError, Validator};
use serde_json::{Map, Value};

use super::Fault;

/// Most faults that are told.
const FAULTS: usize = 20;

/// The longest text of one, in bytes; what is wrong may be quoted in it.
const DETAIL_BYTES: usize = 300;

/// The longest pointer, in bytes.
const POINTER_BYTES: usize = 500;

/// Where there are more values than this, only the first fault is looked for: all would be made before the first is told.
const VALUES: usize = 20_000;

/// What parameters of a path are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Text,
    Number,
    Boolean,
}

/// What the payload of a command has to be.
#[derive(Debug)]
pub struct Schema {
    validator: Validator,
    types: Vec<(String, Type)>,
}

impl Schema {
    /// Of what stands in the configuration: the path of a file, or the schema itself, as a table or as JSON. Fails with what is wrong.
    ///
    /// Without `$schema` it is one of draft 2020-12. `format` is checked too, where the format is known.
    pub fn load<'a>(source: &toml::Value, parameters: impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let (place, schema) = read(source)?;
        let validator = jsonschema::options()
            // No lookaround, in exchange for linear time: what it is matched with is an attacker's to write
            .with_pattern_options(PatternOptions::regex())
            .should_validate_formats(true)
            .with_retriever(Nowhere)
            .build(&schema)
            .map_err(|error| format!("{place}{}", refused(&error)))?;
        let mut types = Vec::new();
        for name in parameters {
            if is_closed_to(&schema, name) {
                return Err(format!(
                    "{place}the path has {{{name}}}, and the schema allows no such property: add it to its properties"
                ));
            }
            types.push((name.to_owned(), type_of(&schema, name)));
        }
        Ok(Self { validator, types })
    }

    /// A parameter as the value that it is to be; as text where it cannot be that.
    pub fn typed(&self, name: &str, parameter: &str) -> Value {
        let wanted = self.types.iter().find(|(known, _)| known == name).map_or(Type::Text, |(_, wanted)| *wanted);
        let value = match wanted {
            Type::Text => None,
            Type::Number => serde_json::from_str(parameter).ok().filter(Value::is_number),
            Type::Boolean => serde_json::from_str(parameter).ok().filter(Value::is_boolean),
        };
        // What would be written otherwise than it came, as 1e2 and 007, is no number that anybody meant
        match value {
            Some(value) if format!("{value}") == parameter => value,
            _ => Value::String(parameter.to_owned()),
        }
    }

    /// Fails with what is wrong with a payload of that many `values`, and whether that is all.
    pub fn judge(&self, payload: &Value, values: usize) -> Result<(), (Vec<Fault>, bool)> {
        if self.validator.is_valid(payload) {
            return Ok(());
        }
        if values > VALUES {
            let first = self.validator.validate(payload).err();
            return Err((first.iter().map(fault).collect(), false));
        }
        let mut errors = self.validator.iter_errors(payload);
        let faults = errors.by_ref().take(FAULTS).map(|error| fault(&error)).collect();
        Err((faults, errors.next().is_none()))
    }
}

/// The schema, and what to say before an error of it.
fn read(source: &toml::Value) -> Result<(String, Value), String> {
    match source {
        toml::Value::String(text) if text.trim_start().starts_with('{') => {
            let schema = serde_json::from_str(text).map_err(|error| format!("it is no JSON: {error}"))?;
            Ok((String::new(), schema))
        }
        toml::Value::String(path) => {
            let text = fs::read_to_string(path).map_err(|error| format!("cannot read {path:?}: {error}"))?;
            let schema = serde_json::from_str(&text).map_err(|error| format!("{path}: it is no JSON: {error}"))?;
            Ok((format!("{path}: "), schema))
        }
        toml::Value::Table(table) => {
            let schema =
                serde_json::to_value(table).map_err(|error| format!("it cannot be written as JSON: {error}"))?;
            Ok((String::new(), schema))
        }
        _ => Err("must be the path of a file, or the schema itself as a table or as JSON".to_owned()),
    }
}

/// Gives no schema, whatever another one refers to.
struct Nowhere;

impl Retrieve for Nowhere {
    fn retrieve(&self, _: &Uri<String>) -> Result<Value, Box<dyn Error + Send + Sync>> {
        Err("nothing is fetched: put it below $defs".into())
    }
}

/// What is wrong with a schema, and where in it.
fn refused(error: &ValidationError<'_>) -> String {
    let mut what = short(error, DETAIL_BYTES);
    if what.ends_with(r#"is not a "regex""#) {
        what.push_str("; a pattern has no lookaround and no backreferences here");
    }
    match error.instance_path().as_str() {
        "" => format!("it is no JSON Schema: {what}"),
        place => format!("it is no JSON Schema: at {}: {what}", short(&place, POINTER_BYTES)),
    }
}

fn properties(schema: &Value) -> Option<&Map<String, Value>> {
    schema.get("properties")?.as_object()
}

/// Whether no payload may have a property `name`, as far as can be seen at first sight.
fn is_closed_to(schema: &Value, name: &str) -> bool {
    let closed = schema.get("additionalProperties") == Some(&Value::Bool(false));
    let named = properties(schema).is_some_and(|properties| properties.contains_key(name));
    closed && !named && schema.get("patternProperties").is_none()
}

/// Text, unless the schema says of the property that it is something else and no text.
fn type_of(schema: &Value, name: &str) -> Type {
    let wanted = properties(schema).and_then(|properties| properties.get(name)?.get("type"));
    let names: Vec<&str> = match wanted {
        Some(Value::String(name)) => vec![name],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    match () {
        () if names.contains(&"string") => Type::Text,
        () if names.contains(&"integer") || names.contains(&"number") => Type::Number,
        () if names.contains(&"boolean") => Type::Boolean,
        () => Type::Text,
    }
}

fn fault(error: &ValidationError<'_>) -> Fault {
    Fault { pointer: short(&error.instance_path().as_str(), POINTER_BYTES), detail: short(error, DETAIL_BYTES) }
}

/// What `text` shows, cut where it is longer than `limit` bytes; no more than that is made of it.
fn short(text: &impl fmt::Display, limit: usize) -> String {
    let mut out = Short { text: String::new(), limit };
    if write!(out, "{text}").is_err() {
        out.text.push('…');
    }
    out.text
}

struct Short {
    text: String,
    limit: usize,
}

impl Write for Short {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let rest = self.limit - self.text.len();
        let fits = (0..=rest.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        self.text.push_str(&text[..fits]);
        if fits < text.len() { Err(fmt::Error) } else { Ok(()) }
    }
}
