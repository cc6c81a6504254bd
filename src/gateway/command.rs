//! Commands: requests of an API of one's own that become events.
//!
//! `[[gateway.command]]` names a method, a path with parameters, a JSON Schema and a topic. A request that fits is an event of
//! what it asks for:
//!
//! ```json
//! {"id":"0197…","name":"book.finished","created":"2026-11-21T12:00:00.000Z","safe":false,"idempotent":false,"payload":{"id":"7"}}
//! ```
//!
//! `id` is the id of the message, `created` the time at which it came, UTC with milliseconds; `safe` and `idempotent` are those of the
//! method (RFC 9110, 9.2). `payload` is the body, an object, with the parameters of the path as fields of it; an empty body is
//! `{}`. The schema judges that whole, so it may say of a parameter what it likes: where it calls one an integer, a number or a
//! boolean the parameter is one, else it is text. A body that has a field of that name has to say the same.
//!
//! Nothing that an attacker writes costs more than a look at it: patterns take linear time, no schema is fetched from anywhere, and
//! of what is wrong only so much is told.

mod path;
mod schema;
mod strict;
#[cfg(test)]
mod tests;

use std::{fmt::Write, sync::Arc, time::SystemTime};

use axum::http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::event::Event;
use crate::{
    bus::Topic,
    config::Config,
    error::Misconfigured,
    json::scan::Tape,
    slip::{Checked, Limits, Malformed},
};
use path::Template;
use schema::Schema;

/// Parameters of a path, decoded, in its order.
pub type Parameters = Vec<(String, String)>;

/// Of `[gateway]`, what is read here.
#[derive(Deserialize)]
struct Section {
    topics: Vec<Topic>,
    command: Vec<Options>,
}

/// `[[gateway.command]]`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    name: String,
    method: String,
    path: String,
    /// The path of a file, or the schema itself.
    schema: toml::Value,
    topic: Topic,
}

/// The methods that a command may have. CONNECT asks for no resource.
const METHODS: [Method; 8] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
    Method::TRACE,
];

/// The longest name, in bytes.
const NAME_BYTES: usize = 200;

/// All commands, those first whose paths are more definite.
#[derive(Debug, Default)]
pub struct Commands(Vec<Arc<Command>>);

/// What is at a path.
#[derive(Debug)]
pub enum Found<'a> {
    Command(&'a Arc<Command>, Parameters),
    /// Commands with other methods: those, as the header Allow has them.
    MethodNotAllowed(String),
    None,
}

impl Commands {
    /// Those that are configured.
    pub fn new(config: &Config) -> Result<Self, Misconfigured> {
        let (commands, wrong) = read(config)?;
        match wrong.into_iter().next() {
            Some(wrong) => Err(wrong),
            None => Ok(commands),
        }
    }

    /// All that is wrong with those that are configured.
    pub fn check(config: &Config) -> Vec<Misconfigured> {
        read(config).map_or_else(|error| vec![error], |(_, wrong)| wrong)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Topics that commands go to.
    pub fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.0.iter().map(|command| &command.topic)
    }

    /// What is at `path`, percent-encoded as it is in a request and without a query. Where two paths fit, the one counts that has a
    /// name where the other has a parameter.
    pub fn find(&self, method: &Method, path: &str) -> Found<'_> {
        let Some(segments) = path::decode(path) else { return Found::None };
        let mut allowed: Vec<&str> = Vec::new();
        for command in &self.0 {
            let Some(parameters) = command.path.matches(&segments) else { continue };
            if command.method == *method {
                return Found::Command(command, parameters);
            }
            if !allowed.contains(&command.method.as_str()) {
                allowed.push(command.method.as_str());
            }
        }
        if allowed.is_empty() { Found::None } else { Found::MethodNotAllowed(allowed.join(", ")) }
    }
}

/// What is wrong with one command: below which of its keys, and what.
struct Wrong(&'static str, String);

/// The commands, and what is wrong with the others.
fn read(config: &Config) -> Result<(Commands, Vec<Misconfigured>), Misconfigured> {
    let section: Section = config.section("gateway")?;
    let (mut commands, mut wrong) = (Vec::<Arc<Command>>::new(), Vec::new());
    for (index, options) in section.command.into_iter().enumerate() {
        match Command::new(options, &section.topics, &commands) {
            Ok(command) => commands.push(Arc::new(command)),
            Err(Wrong(key, what)) => wrong.push(config.error(&format!("gateway.command[{index}].{key}"), what)),
        }
    }
    commands.sort_by(|a, b| a.path.before(&b.path));
    Ok((Commands(commands), wrong))
}

/// What a request may ask for.
#[derive(Debug)]
pub struct Command {
    name: String,
    method: Method,
    path: Template,
    schema: Schema,
    topic: Topic,
}

/// A field that is not as the schema has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// Where in the payload, as a JSON Pointer (RFC 6901).
    pub pointer: String,
    /// What is wrong, in words of the schema.
    pub detail: String,
}

/// Why a request is no valid command, as problem details (RFC 9457) have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// 400, or 413 for what is too long.
    pub status: StatusCode,
    pub detail: String,
    /// Where what is wrong is a field: the first few of them.
    pub errors: Vec<Fault>,
}

impl Invalid {
    fn body(reason: &Malformed) -> Self {
        let status = match reason {
            Malformed::TooLong { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        };
        let detail = format!("the body must be a JSON object: it is {reason}");
        let errors = vec![Fault { pointer: String::new(), detail: reason.to_string() }];
        Self { status, detail, errors }
    }

    fn fields(errors: Vec<Fault>, all: bool) -> Self {
        let rest = if all { "" } else { "; there are more" };
        let detail = format!("the command is not valid: see errors{rest}");
        Self { status: StatusCode::BAD_REQUEST, detail, errors }
    }
}

impl Command {
    fn new(options: Options, topics: &[Topic], others: &[Arc<Self>]) -> Result<Self, Wrong> {
        let Options { name, method, path, schema, topic } = options;
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if name.is_empty() || name.len() > NAME_BYTES || !name.bytes().all(legal) {
            return Err(Wrong("name", format!("{name:?} is no name: 1 to {NAME_BYTES} of A-Z a-z 0-9 . _ - are")));
        }
        let method =
            METHODS.into_iter().find(|known| known.as_str().eq_ignore_ascii_case(&method)).ok_or_else(|| {
                let known: Vec<_> = METHODS.iter().map(Method::as_str).collect();
                Wrong("method", format!("{method:?} is none of {}", known.join(", ")))
            })?;
        let path = Template::parse(&path).map_err(|what| Wrong("path", what))?;
        if let Some(other) = others.iter().find(|other| other.method == method && other.path.is_same(&path)) {
            return Err(Wrong("path", format!("{method} {path} is that of the command {} already", other.name)));
        }
        if !topics.contains(&topic) {
            return Err(Wrong("topic", format!("{topic} is not among gateway.topics: add it there")));
        }
        let schema = Schema::load(&schema, path.parameters()).map_err(|what| Wrong("schema", what))?;
        Ok(Self { name, method, path, schema, topic })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// The event of a request with these parameters of the path and this body.
    pub fn event(&self, parameters: &[(String, String)], body: &[u8], limits: &Limits) -> Result<Event, Invalid> {
        let body = if body.trim_ascii().is_empty() { b"{}" } else { body };
        let checked =
            Checked::new(Some(body), limits, &mut Tape::default()).map_err(|reason| Invalid::body(&reason))?;
        let (fields, values) = strict::parse(checked.whole()).map_err(|error| {
            let reason = error.to_string();
            Invalid {
                status: StatusCode::BAD_REQUEST,
                detail: format!("the body cannot be judged: {reason}"),
                errors: vec![Fault { pointer: String::new(), detail: reason }],
            }
        })?;
        let payload = self.payload(parameters, fields, checked.whole())?;
        self.schema.judge(&payload.value, values).map_err(|(errors, all)| Invalid::fields(errors, all))?;
        let created = humantime::format_rfc3339_millis(SystemTime::now());
        let (safe, idempotent) = (self.method.is_safe(), self.method.is_idempotent());
        let event = Event::with_field_id(&self.topic, limits, |out| {
            let _ = write!(
                out,
                r#","name":"{}","created":"{created}","safe":{safe},"idempotent":{idempotent},"payload":{}"#,
                self.name, payload.text
            );
        });
        event.map_err(|reason| Invalid::body(&reason))
    }

    /// The body and the parameters in one. The body keeps its bytes.
    fn payload(
        &self,
        parameters: &[(String, String)],
        mut fields: Map<String, Value>,
        body: &str,
    ) -> Result<Payload, Invalid> {
        let mut text = String::from("{");
        for (name, parameter) in parameters {
            let value = self.schema.typed(name, parameter);
            match fields.get(name) {
                None => {
                    let _ = write!(text, "\"{name}\":{value},");
                    fields.insert(name.clone(), value);
                }
                Some(said) if *said == value || said.as_str() == Some(parameter) => {}
                Some(_) => {
                    let fault =
                        Fault { pointer: format!("/{name}"), detail: "is another one than in the path".to_owned() };
                    return Err(Invalid::fields(vec![fault], true));
                }
            }
        }
        let inner = body.strip_prefix('{').and_then(|body| body.strip_suffix('}')).unwrap_or_default();
        if inner.trim_ascii().is_empty() {
            text.truncate(text.trim_end_matches(',').len());
        } else {
            text.push_str(inner);
        }
        text.push('}');
        Ok(Payload { value: Value::Object(fields), text })
    }
}

/// The same in both: what the schema judges, and what is published.
struct Payload {
    value: Value,
    text: String,
}
