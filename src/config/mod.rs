//! The configuration: defaults, then a TOML file, then the environment, each over the one before.
//!
//! `config/metrobus.toml` holds every key with its default and is compiled in. It is also the list of the keys that
//! there are and of their types, so a new role adds its section there and reads it with [`Config::section`]; nothing
//! here has to know. A key that is not in it is an error, with the line, or the variable, and the nearest valid name.
//!
//! ```
//! use metrobus::config::{BusKind, Config};
//!
//! let config = Config::load(None, [("METROBUS__BUS", "kafka")])?;
//! assert_eq!(config.bus, BusKind::Kafka);
//! assert_eq!(config.kafka.brokers, "localhost:9092");
//!
//! let error = Config::load(None, [("METROBUS__BUSS", "kafka")]).unwrap_err();
//! assert_eq!(error.to_string(), "METROBUS__BUSS: unknown key `buss`; did you mean METROBUS__BUS?");
//! # Ok::<(), metrobus::error::Misconfigured>(())
//! ```
//!
//! Flow: `tree` holds the keys, `file` and `environment` lay their values over the defaults, `typed` makes structs of
//! them, `check` refuses values that cannot work.

mod check;
mod environment;
mod file;
mod nearest;
#[cfg(test)]
mod tests;
mod text;
mod tree;
mod typed;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt::{self, Display},
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, de::DeserializeOwned};
use toml::Value;

pub(crate) use text::{name_text, value_text};
pub use tree::Origin;
use tree::Tree;
pub(crate) use typed::{listen, optional};

use crate::{
    bus::{Guarantee, Topic, sqlite},
    error::Misconfigured,
    journal,
    slip::Limits,
    stop::Retry,
    trace,
};

/// Every key with its default and a comment.
pub const DEFAULTS: &str = include_str!("../../config/metrobus.toml");

/// What holds for this process. Sections of roles are read with [`Config::section`].
#[derive(Clone, Deserialize)]
pub struct Config {
    pub bus: BusKind,
    /// Further topics that a slip may name; see [`Config::slip_topics`].
    pub stops: Vec<Topic>,
    /// Takes the dead letters.
    pub error_topic: Topic,
    /// Takes the marks of dead letters that were sent again or given up.
    pub repair_topic: Topic,
    /// Most messages that a handler sees at once, 1 to 100,000.
    pub batch: usize,
    /// How long a stop that ends may settle what is in flight.
    pub shutdown_timeout: Duration,
    pub sqlite: sqlite::Options,
    pub kafka: Kafka,
    pub redis: Redis,
    /// A message beyond one of these becomes a dead letter. All are 1 or more.
    pub limits: Limits,
    /// `max_attempts` is 1 or more, `first` more than zero, `max` no less than it. Each stop's section has one of its own,
    /// in which a key that nobody has set is as here.
    pub retry: Retry,
    pub journal: journal::Options,
    pub log: Log,
    pub http: Http,
    pub web: Web,
    pub traces: trace::Options,
    #[serde(skip)]
    tree: Tree,
    /// The file, and what stood in it.
    #[serde(skip)]
    file: Option<(PathBuf, Arc<str>)>,
    /// The variables that were laid over the file. They hold secrets.
    #[serde(skip)]
    environment: Vec<(OsString, OsString)>,
}

/// Where topics live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BusKind {
    Sqlite,
    Kafka,
}

/// The bus in a cluster.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct Kafka {
    /// host:port, with commas between.
    pub brokers: String,
    /// The consumer group.
    pub group: String,
    #[serde(with = "typed::GuaranteeName")]
    pub guarantee: Guarantee,
    /// Of a topic that metrobus creates, 1 to 100,000.
    pub partitions: i32,
    /// Of a topic that metrobus creates, 1 to 1,000.
    pub replication: i32,
    /// A name that is this process's alone and stays the same over restarts, for static membership and a stable
    /// transactional id. Its characters are those of a topic.
    #[serde(deserialize_with = "typed::optional")]
    pub instance: Option<String>,
    /// The longest transaction where the guarantee is exactly once, 10 ms to 10 s.
    pub transaction: Duration,
    /// Properties of librdkafka by name, for it to check; those that metrobus sets itself are not among them. Holds
    /// secrets.
    pub properties: BTreeMap<String, String>,
}

/// For caches and counters.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct Redis {
    /// One that the redis crate takes. May hold a password.
    pub url: String,
    /// For connecting and for each answer; more than zero.
    pub timeout: Duration,
    pub counters: Counters,
}

/// Whether messages are counted in Redis; [`Config::counters`] resolves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Counters {
    /// On with Kafka, off with SQLite.
    Auto,
    On,
    Off,
}

/// What is written to stderr.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Log {
    /// Keeps payloads out of the log.
    pub redact: bool,
}

/// What a process of stops tells about itself over HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Http {
    /// Where it listens; `None` where it does not.
    #[serde(deserialize_with = "typed::listen")]
    pub listen: Option<SocketAddr>,
    /// A stop whose loop has not turned for so long is not alive; more than zero.
    pub stall: Duration,
}

/// The page of `metrobus web`. Holds a secret.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct Web {
    /// Where it listens; `None` where it does not.
    #[serde(deserialize_with = "typed::listen")]
    pub listen: Option<SocketAddr>,
    /// Further names by which it may be called.
    pub hosts: Vec<String>,
    /// Who has it may act; one of them at most is set.
    #[serde(deserialize_with = "typed::optional")]
    pub token: Option<String>,
    #[serde(deserialize_with = "typed::optional")]
    pub token_file: Option<String>,
    /// Shows keys, fields, headers and values.
    pub show_payloads: bool,
}

/// One value of the configuration, as `metrobus config` shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The names that lead to the value: `["kafka", "properties", "sasl.password"]`.
    pub path: Vec<String>,
    /// Secrets are `***`.
    pub value: Value,
    pub origin: Origin,
}

impl Config {
    /// The defaults, under the TOML `file`, under those variables of `environment` whose names begin with `METROBUS__`.
    ///
    /// Fails where the file cannot be read, for an unknown key, and for a value of the wrong type or that cannot work.
    /// The checks of a role's own options are the role's.
    pub fn load<N, V>(file: Option<&Path>, environment: impl IntoIterator<Item = (N, V)>) -> Result<Self, Misconfigured>
    where
        N: Into<OsString>,
        V: Into<OsString>,
    {
        match file {
            Some(path) => Self::layered(Some((path, &read(path)?)), environment),
            None => Self::layered(None, environment),
        }
    }

    /// As [`Config::load`], with the file's path and text.
    fn layered<N, V>(
        file: Option<(&Path, &str)>,
        environment: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Self, Misconfigured>
    where
        N: Into<OsString>,
        V: Into<OsString>,
    {
        let mut tree = Tree::new(DEFAULTS);
        if let Some((path, text)) = file {
            file::lay(&mut tree, path, text)?;
        }
        let variables = environment.into_iter().map(|(name, value)| (name.into(), value.into()));
        let environment: Vec<_> = variables.filter(|(name, _)| environment::is_ours(name)).collect();
        environment::lay(&mut tree, environment.iter().cloned())?;
        tree.inherit("retry");
        check::numbers(&tree)?;
        let mut config: Self = typed::read(&tree, "")?;
        config.tree = tree;
        config.file = file.map(|(path, text)| (path.to_owned(), text.into()));
        config.environment = environment;
        check::meaning(&config)?;
        Ok(config)
    }

    /// The section of `role` as the role's own type, which finds every key of the section there. Durations are text
    /// with a unit; an error of a type's own that begins with "must " is put behind the key and its value.
    pub fn section<T: DeserializeOwned>(&self, role: &str) -> Result<T, Misconfigured> {
        typed::read(&self.tree, role)
    }

    /// The error `message` about the value of `key` ("contactpoint.file"), with where that value came from.
    pub fn error(&self, key: &str, message: impl Display) -> Misconfigured {
        self.tree.error(key, message)
    }

    /// The error `message` about a line of the text that is the value of `key`, the first being 0.
    pub(crate) fn error_below(&self, key: &str, line: usize, message: impl Display) -> Misconfigured {
        match (self.tree.origin(key), self.tree.text_line(key)) {
            (Some(Origin::File(path, _)), Some(first)) => {
                let origin = Origin::File(path.clone(), first + line);
                Misconfigured(format!("{origin}: {key}: {message}"))
            }
            _ => self.error(key, message),
        }
    }

    /// The file that it was read from, if from one.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_ref().map(|(path, _)| path.as_path())
    }

    /// What stood in that file.
    pub(crate) fn file_text(&self) -> Option<&str> {
        self.file.as_ref().map(|(_, text)| &**text)
    }

    /// The configuration that `file` has now, under the same variables.
    pub fn of_file(&self, file: Option<&Path>) -> Result<Self, Misconfigured> {
        Self::load(file, self.environment.iter().cloned())
    }

    /// The topics that stops read, in the order of their sections, then `stops`.
    pub fn stop_topics(&self) -> Vec<Topic> {
        let mut topics = Vec::new();
        let read = check::stop_sections(&self.tree).filter_map(|(_, topic)| Topic::new(topic).ok());
        for topic in read.chain(self.stops.iter().cloned()) {
            if !topics.contains(&topic) {
                topics.push(topic);
            }
        }
        topics
    }

    /// The topics that a slip may name: [`Config::stop_topics`] without what the busdriver reads, where the journey would
    /// begin anew.
    pub fn slip_topics(&self) -> Vec<Topic> {
        let beginning = check::stop_sections(&self.tree).find(|(stop, _)| *stop == "busdriver").map(|(_, topic)| topic);
        self.stop_topics().into_iter().filter(|topic| Some(topic.as_str()) != beginning).collect()
    }

    /// The sections of stops by name, and the topic that each reads.
    pub(crate) fn stop_sections(&self) -> Vec<(&str, &str)> {
        check::stop_sections(&self.tree).collect()
    }

    /// Whether a journey can take `busdriver.route` to its end. A route that somebody has set is checked with all else;
    /// the default only matters to who drives.
    pub(crate) fn check_route(&self) -> Result<(), Misconfigured> {
        check::route(self)
    }

    /// Whether a journey can take the route that stands under `key` to its end.
    pub(crate) fn check_stops(&self, key: &str, route: &[Topic]) -> Result<(), Misconfigured> {
        check::stops(self, key, route)
    }

    /// Whether messages are counted in Redis.
    pub fn counters(&self) -> bool {
        match self.redis.counters {
            Counters::Auto => self.bus == BusKind::Kafka,
            Counters::On => true,
            Counters::Off => false,
        }
    }

    /// Every value in the order of the defaults, secrets masked.
    pub fn effective(&self) -> impl Iterator<Item = Entry> {
        self.tree.leaves().into_iter().map(|(path, leaf)| Entry {
            value: text::masked(path.last().unwrap_or(&""), leaf.value.clone()),
            path: path.into_iter().map(str::to_owned).collect(),
            origin: leaf.origin.clone(),
        })
    }
}

/// Shows no secret, so that a configuration may stand in a log.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.effective().map(|entry| (text::dotted(&entry.path), entry.value))).finish()
    }
}

fn read(path: &Path) -> Result<String, Misconfigured> {
    let cannot = |reason: String| Misconfigured(format!("cannot read {}: {reason}", path.display()));
    let plainly = |error: io::Error| {
        let text = error.to_string();
        text.split(" (os error").next().unwrap_or_default().to_owned()
    };
    let bytes = fs::read(path).map_err(|error| cannot(plainly(error)))?;
    String::from_utf8(bytes).map_err(|error| {
        let line = error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
        cannot(format!("line {} is not UTF-8", line + 1))
    })
}
