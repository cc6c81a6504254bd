//! A subscriber as somebody writes it down, and what becomes of that.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;

use super::{Subscriber, readable};
use crate::{
    bus::Topic,
    config::Config,
    deliver::options::{CONCURRENCY, Options, SECTION, rate},
    error::Misconfigured,
    filter::{Filter, NotAFilter},
    rules::Wrong,
    webhook::{
        address::Allowed,
        schedule::Schedule,
        signature::{self, Secret},
        target::{BadTarget, Target},
        template,
    },
};

/// What the names of those of a table begin with that nobody has named; a number follows.
pub const NUMBERED: &str = "subscriber-";

/// `[[deliver.subscriber]]`, or a row of the table. What is not there is as `[deliver]` says. Holds secrets.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubscriberOptions {
    pub name: String,
    pub topic: Topic,
    pub url: String,
    /// CEL.
    pub filter: Option<String>,
    /// In place of it, Python.
    pub python: Option<String>,
    #[serde(default)]
    pub secrets: Vec<String>,
    /// Of further ones, one a line.
    pub secret_file: Option<PathBuf>,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    pub concurrency: Option<usize>,
    pub rate: Option<f64>,
    pub ordered: Option<bool>,
    pub timeout: Option<Duration>,
    pub waits: Option<Vec<Duration>>,
    pub jitter: Option<f64>,
    pub disable_after: Option<Duration>,
}

/// What is wrong with one of the keys.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    /// As in `filter` or `secrets[1]`.
    pub key: String,
    /// Of the value, the first being 0.
    pub line: usize,
    pub what: String,
    /// The line of the value, and a mark below what is wrong there; or nothing.
    pub marked: String,
}

impl Fault {
    fn new(key: impl Into<String>, what: impl ToString) -> Self {
        Self { key: key.into(), line: 0, what: what.to_string(), marked: String::new() }
    }

    fn filter(key: &str, text: &str, NotAFilter { what, place }: NotAFilter) -> Self {
        let wrong = Wrong { what, place };
        let (line, marked) = (place.map_or(0, |(line, _)| line - 1), wrong.marked(text));
        Self { key: key.to_owned(), line, what: wrong.what, marked }
    }
}

/// A name is in lines of the log, in headers of records and in commands.
pub fn check_name(name: &str) -> Result<(), String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if !(1..=64).contains(&name.len()) || !name.chars().all(legal) {
        return Err(format!("{name:?} is no name of a subscriber: 1 to 64 of A-Z a-z 0-9 . _ - are"));
    }
    let number = name.strip_prefix(NUMBERED);
    if number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err(format!("{name} is what a row of the table of subscribers is called"));
    }
    Ok(())
}

impl SubscriberOptions {
    /// The subscriber that is meant.
    pub fn build(&self, defaults: &Options, allowed: &Allowed) -> Result<Subscriber, Fault> {
        let concurrency = self.concurrency.unwrap_or(defaults.concurrency);
        if !CONCURRENCY.contains(&concurrency) {
            let (least, most) = (CONCURRENCY.start(), CONCURRENCY.end());
            return Err(Fault::new("concurrency", format!("must be an integer from {least} to {most}")));
        }
        let timeout = self.timeout.unwrap_or(defaults.timeout);
        let disable_after = self.disable_after.unwrap_or(defaults.disable_after);
        for (key, time) in [("timeout", timeout), ("disable_after", disable_after)] {
            if time.is_zero() {
                return Err(Fault::new(key, "must be more than zero"));
            }
        }
        let waits = self.waits.as_ref().unwrap_or(&defaults.waits);
        let schedule = Schedule::new(waits.clone(), self.jitter.unwrap_or(defaults.jitter));
        Ok(Subscriber {
            name: self.name.clone(),
            topic: self.topic.clone(),
            target: target(&self.url, allowed).map_err(|what| Fault::new("url", what))?,
            filter: self.filter()?,
            secrets: self.secrets()?,
            headers: headers(&self.headers)?,
            concurrency,
            rate: rate(self.rate.unwrap_or(defaults.rate)).map_err(|what| Fault::new("rate", what))?,
            ordered: self.ordered.unwrap_or(defaults.ordered),
            timeout,
            schedule: schedule.map_err(|error| Fault::new("jitter", error))?,
            breaker: defaults.limits(timeout, waits, disable_after),
            of_switch: false,
        })
    }

    fn filter(&self) -> Result<Filter, Fault> {
        match (&self.filter, &self.python) {
            (Some(_), Some(_)) => Err(Fault::new("python", "is set, and filter is set; take one of them")),
            (_, Some(text)) => Filter::python(text).map_err(|error| Fault::filter("python", text, error)),
            (text, None) => {
                let text = text.as_deref().unwrap_or_default();
                Filter::cel(text).map_err(|error| Fault::filter("filter", text, error))
            }
        }
    }

    fn secrets(&self) -> Result<Vec<Secret>, Fault> {
        let mut secrets = Vec::with_capacity(self.secrets.len());
        for (index, text) in self.secrets.iter().enumerate() {
            let secret = Secret::parse(text).map_err(|error| Fault::new(format!("secrets[{index}]"), error))?;
            secrets.push(secret);
        }
        if let Some(file) = &self.secret_file {
            secrets.extend(secrets_of(file).map_err(|what| Fault::new("secret_file", what))?);
        }
        Ok(secrets)
    }
}

/// Reads a URL. What is wrong quotes nothing of it.
pub fn target(url: &str, allowed: &Allowed) -> Result<Target, String> {
    Target::parse(url, allowed).map_err(|error| match error {
        BadTarget::Refused(refused) => format!("{refused}, see {SECTION}.allowed_networks"),
        error => error.to_string(),
    })
}

/// The secrets in a file, one a line; empty lines and those that begin with # are passed over.
fn secrets_of(file: &Path) -> Result<Vec<Secret>, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("cannot read {}: {}", file.display(), error.kind()))?;
    let secrets = signature::keys(&text, Secret::parse).map_err(|what| format!("{}: {what}", file.display()))?;
    match secrets.is_empty() {
        true => Err(format!("{} holds no secret", file.display())),
        false => Ok(secrets),
    }
}

fn headers(headers: &BTreeMap<String, String>) -> Result<HeaderMap, Fault> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let (name, value) = header(name, value)
            .map_err(|what| Fault::new(format!("headers.{}", crate::config::name_text(name)), what))?;
        map.insert(name, value);
    }
    Ok(map)
}

/// A header that may be sent with each request. What is wrong does not quote the value, which may be secret.
pub fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), &'static str> {
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| "is no name of a header")?;
    if template::LEFT_OUT.contains(&name.as_str()) {
        return Err("is of the connection, and set by whoever makes it");
    }
    if [signature::ID, signature::TIMESTAMP, signature::SIGNATURE].contains(&name) {
        return Err("is set by metrobus, for each request");
    }
    let mut value = HeaderValue::from_str(value).map_err(|_| "has characters that no header may have")?;
    value.set_sensitive(true);
    Ok((name, value))
}

/// The subscribers of the file, and what is wrong with those that are none.
pub fn listed(config: &Config, defaults: &Options) -> (Vec<Subscriber>, Vec<Misconfigured>) {
    let (allowed, mut found, mut errors) = (defaults.allowed(), Vec::new(), Vec::new());
    let mut names = HashSet::new();
    for (index, options) in defaults.subscriber.iter().enumerate() {
        let (key, name) = (format!("{SECTION}.subscriber[{index}]"), &options.name);
        let twice = || (!names.insert(name)).then(|| format!("there is a subscriber {name} before"));
        if let Some(what) = check_name(name).err().or_else(twice) {
            errors.push(config.error(&format!("{key}.name"), what));
            continue;
        }
        if let Err(what) = readable(config, &options.topic) {
            errors.push(config.error(&format!("{key}.topic"), format!("subscriber {name}: {what}")));
            continue;
        }
        match options.build(defaults, &allowed) {
            Ok(subscriber) => found.push(subscriber),
            Err(Fault { key: part, line, what, marked }) => {
                let message = format!("subscriber {name}: {what}{marked}");
                errors.push(config.error_below(&format!("{key}.{part}"), line, message));
            }
        }
    }
    (found, errors)
}
