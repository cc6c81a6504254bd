//! `[gateway]`: what the configuration says, and whether it can work.

use std::{
    net::SocketAddr,
    num::NonZeroU32,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::http::HeaderValue;
use serde::Deserialize;

use super::{
    access::{Access, Guest},
    caller::{Caller, Callers, Known, Topics},
    jwt::{Algorithm, Key, Tokens},
};
use crate::{
    bus::Topic,
    config::{Config, listen, optional},
    error::Misconfigured,
    tls::Identity,
};

/// The section of the configuration. What commands and switch are made of, their modules read.
#[derive(Debug, Deserialize)]
pub struct Options {
    #[serde(deserialize_with = "listen")]
    pub listen: Option<SocketAddr>,
    open: bool,
    pub topics: Vec<Topic>,
    pub body_bytes: usize,
    pub body_timeout: Duration,
    pub timeout: Duration,
    pub waiting: usize,
    pub waiting_bytes: usize,
    pub connections: usize,
    pub threads: usize,
    /// How many threads publish.
    pub lanes: usize,
    pub store: PathBuf,
    cors_origins: Vec<String>,
    caller: Vec<CallerOptions>,
    tokens: TokenOptions,
    tls: TlsOptions,
}

/// `[[gateway.caller]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CallerOptions {
    name: String,
    topics: Option<Vec<Topic>>,
    #[serde(default)]
    key_hashes: Vec<String>,
    subject: Option<String>,
    rate: Option<NonZeroU32>,
    burst: Option<NonZeroU32>,
    quota: Option<u64>,
}

/// `[gateway.tokens]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenOptions {
    #[serde(deserialize_with = "optional")]
    algorithm: Option<String>,
    #[serde(deserialize_with = "optional")]
    key_file: Option<String>,
    #[serde(deserialize_with = "optional")]
    issuer: Option<String>,
    audiences: Vec<String>,
    leeway: Duration,
    max_bytes: usize,
}

/// `[gateway.tls]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TlsOptions {
    #[serde(deserialize_with = "optional")]
    certificate: Option<String>,
    #[serde(deserialize_with = "optional")]
    key: Option<String>,
}

/// The longest name of a caller, in bytes.
const NAME_BYTES: usize = 200;

/// All that is wrong with the section, but for what commands and switch are made of.
pub fn check(config: &Config) -> Vec<Misconfigured> {
    match Options::read(config) {
        Ok(options) => [options.access(config).err(), options.identity(config).err(), options.origins(config).err()]
            .into_iter()
            .flatten()
            .collect(),
        Err(error) => vec![error],
    }
}

impl Options {
    pub fn read(config: &Config) -> Result<Self, Misconfigured> {
        let options: Self = config.section("gateway")?;
        if options.topics.is_empty() {
            return Err(config.error("gateway.topics", "is empty, must name one topic or more"));
        }
        let ours = [&config.error_topic, &config.repair_topic, &config.journal.topic];
        if let Some(topic) = options.topics.iter().find(|topic| ours.contains(topic)) {
            let message = format!("names \"{topic}\", which metrobus writes itself");
            return Err(config.error("gateway.topics", message));
        }
        for (key, duration) in [("body_timeout", options.body_timeout), ("timeout", options.timeout)] {
            if duration.is_zero() {
                return Err(config.error(&format!("gateway.{key}"), "is 0s, must be longer"));
            }
        }
        if options.waiting_bytes < options.body_bytes {
            let (waiting, body) = (options.waiting_bytes, options.body_bytes);
            let message =
                format!("is {waiting}, must be gateway.body_bytes, {body}, or more: else such a body never fits");
            return Err(config.error("gateway.waiting_bytes", message));
        }
        if options.store.as_os_str().is_empty() {
            return Err(config.error("gateway.store", "is \"\", must not be empty"));
        }
        Ok(options)
    }

    /// Where it listens.
    pub fn address(&self, config: &Config) -> Result<SocketAddr, Misconfigured> {
        let message = "gateway.listen is \"\", must be a port or address:port, as in \"8000\"";
        self.listen.ok_or_else(|| config.error("gateway.listen", message))
    }

    /// Who may call. Everybody may where nobody is named, and then only on this machine unless that is meant.
    pub fn access(&self, config: &Config) -> Result<Access, Misconfigured> {
        let tokens = self.tokens(config)?;
        if self.caller.is_empty() && tokens.is_none() {
            let everybody_reaches_it = self.listen.is_some_and(|address| !address.ip().is_loopback());
            if everybody_reaches_it && !self.open {
                let message = "is reached from other machines, and there are no callers: add a [[gateway.caller]], \
                               or set gateway.open = true to serve everybody";
                return Err(config.error("gateway.listen", message));
            }
            return Ok(Access::open());
        }
        let mut known: Vec<Known> = Vec::new();
        let mut guests = Vec::new();
        for (index, caller) in self.caller.iter().enumerate() {
            let read = caller.read(&self.topics, tokens.is_some(), &known);
            let (caller, guest) =
                read.map_err(|Wrong(key, what)| config.error(&format!("gateway.caller[{index}].{key}"), what))?;
            known.push(caller);
            guests.push(guest);
        }
        if !known.iter().any(|known| !known.keys.is_empty() || known.subject.is_some()) {
            let message = "is empty, so nobody could call with a token: add a [[gateway.caller]] with its subject";
            return Err(config.error("gateway.caller", message));
        }
        Ok(Access::new(Callers::new(known, tokens), guests))
    }

    fn tokens(&self, config: &Config) -> Result<Option<Tokens>, Misconfigured> {
        let TokenOptions { algorithm, key_file, issuer, audiences, leeway, max_bytes } = &self.tokens;
        let Some(algorithm) = algorithm else { return Ok(None) };
        let wrong = |key: &str, what: String| config.error(&format!("gateway.tokens.{key}"), what);
        let algorithm: Algorithm = algorithm.parse().map_err(|error| wrong("algorithm", format!("{error}")))?;
        let missing = |key: &str| wrong(key, "is \"\", must be set where gateway.tokens.algorithm is".to_owned());
        let key_file = key_file.as_deref().ok_or_else(|| missing("key_file"))?;
        let key = Key::read(algorithm, Path::new(key_file));
        let key = key.map_err(|error| wrong("key_file", error.0))?;
        let issuer = issuer.clone().ok_or_else(|| missing("issuer"))?;
        if audiences.is_empty() || audiences.iter().any(String::is_empty) {
            return Err(wrong("audiences", "must name what tokens for this server have as aud".to_owned()));
        }
        let (audiences, leeway, max_bytes) = (audiences.clone(), *leeway, *max_bytes);
        Ok(Some(Tokens { key, issuer, audiences, leeway, max_bytes }))
    }

    /// Who the server is, where connections are encrypted.
    pub fn identity(&self, config: &Config) -> Result<Option<Arc<Identity>>, Misconfigured> {
        let missing = |key: &str, other: &str| {
            config.error(&format!("gateway.tls.{key}"), format!("is \"\", must be set where gateway.tls.{other} is"))
        };
        match (&self.tls.certificate, &self.tls.key) {
            (None, None) => Ok(None),
            (None, Some(_)) => Err(missing("certificate", "key")),
            (Some(_), None) => Err(missing("key", "certificate")),
            (Some(certificate), Some(key)) => {
                let identity = Identity::read(Path::new(certificate), Path::new(key));
                let identity = identity.map_err(|error| config.error("gateway.tls.certificate", error))?;
                Ok(Some(Arc::new(identity)))
            }
        }
    }

    /// Pages whose scripts may call; `*` is among them where all may.
    pub fn origins(&self, config: &Config) -> Result<Vec<HeaderValue>, Misconfigured> {
        let read = |(index, origin): (usize, &String)| {
            let wrong = || {
                let message = "must be \"*\", or as \"https://example.com\", without a path";
                config.error(&format!("gateway.cors_origins[{index}]"), message)
            };
            let is_origin =
                origin == "*" || url::Url::parse(origin).is_ok_and(|url| url.origin().ascii_serialization() == *origin);
            let value = HeaderValue::from_str(origin).ok().filter(|_| is_origin);
            value.ok_or_else(wrong)
        };
        self.cors_origins.iter().enumerate().map(read).collect()
    }
}

/// What is wrong with a caller: below which of its keys, and what.
struct Wrong(&'static str, String);

impl CallerOptions {
    fn read(&self, topics: &[Topic], tokens: bool, others: &[Known]) -> Result<(Known, Guest), Wrong> {
        let wrong = |key, what: &str| Err(Wrong(key, what.to_owned()));
        if self.name.is_empty() || self.name.len() > NAME_BYTES || self.name.chars().any(char::is_control) {
            return wrong("name", "must be 1 to 200 bytes, and on one line");
        }
        if others.iter().any(|other| other.caller.name == self.name) {
            return wrong("name", "is that of another caller already");
        }
        if self.key_hashes.is_empty() && self.subject.is_none() {
            return wrong("name", "names a caller who cannot be known: set key_hashes or subject");
        }
        if self.subject.is_some() && !tokens {
            return wrong("subject", "is of tokens, and none are believed: set [gateway.tokens]");
        }
        if self.subject.as_deref() == Some("") {
            return wrong("subject", "is \"\", must not be empty");
        }
        if others.iter().any(|other| other.subject.is_some() && other.subject == self.subject) {
            return wrong("subject", "is that of another caller already");
        }
        if self.burst.is_some() && self.rate.is_none() {
            return wrong("burst", "says nothing without a rate: set rate too");
        }
        if let Some(topic) = self.topics.iter().flatten().find(|topic| !topics.contains(topic)) {
            return wrong("topics", &format!("names \"{topic}\", which is not among gateway.topics: add it there"));
        }
        let keys = self.key_hashes.iter().map(|hash| hash.parse()).collect::<Result<Vec<_>, _>>();
        let keys = keys.map_err(|error| Wrong("key_hashes", format!("{error}")))?;
        if let Some(other) = others.iter().find(|other| other.keys.iter().any(|key| keys.contains(key))) {
            let what = format!("has the key of {} as well: make each caller a key of its own", other.caller.name);
            return wrong("key_hashes", &what);
        }
        let topics = self.topics.as_ref();
        let topics =
            topics.map_or(Topics::All, |topics| Topics::Only(topics.iter().map(ToString::to_string).collect()));
        let caller = Caller { name: self.name.clone(), topics };
        let guest = Guest::new(&self.name, self.rate, self.burst, self.quota);
        Ok((Known { caller, keys, subject: self.subject.clone() }, guest))
    }
}
