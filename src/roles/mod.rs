//! The roles: what the binary can be. Each is a subcommand, a file here, and one line in [`ROLES`].

use std::{
    io::{self, Write},
    path::Path,
    sync::Arc,
    time::Duration,
};

use clap::{ArgMatches, Command};
use serde::Deserialize;

use crate::{
    bus::{self, Bus},
    cache::{Counters, Source},
    config::Config,
    drain::Drain,
    http::{Part, Process, Server, Stops},
    shutdown::Shutdown,
    stop::{Settings, Stop, run_all},
    trace::Traces,
    web::{Web, cannot_listen},
};

mod busdriver;
mod cache;
mod cache_build;
mod cache_load;
mod check;
mod completions;
mod config;
mod contactpoint;
mod dead;
mod deliver;
mod demo;
mod gateway;
mod journal;
mod journeys;
mod logstop;
mod make_data;
mod otherwise;
mod plan;
mod pusher;
mod run;
mod tail;
mod top;
mod topics;
mod track;
mod web;
mod whitelist;

/// All roles, in the order in which the help lists them.
pub const ROLES: &[Role] = &[
    demo::ROLE,
    run::ROLE,
    pusher::ROLE,
    busdriver::ROLE,
    contactpoint::ROLE,
    whitelist::ROLE,
    logstop::ROLE,
    gateway::ROLE,
    deliver::ROLE,
    make_data::ROLE,
    cache::ROLE,
    check::ROLE,
    plan::ROLE,
    dead::ROLE,
    top::ROLE,
    topics::ROLE,
    tail::ROLE,
    track::ROLE,
    journeys::ROLE,
    journal::ROLE,
    web::ROLE,
    config::ROLE,
    completions::ROLE,
];

/// A subcommand.
pub struct Role {
    pub name: &'static str,
    /// One line for the help.
    pub about: &'static str,
    pub kind: Kind,
}

/// What a role does when it is called.
pub enum Kind {
    /// It runs the stop that this builds.
    Stop(fn(&Context) -> anyhow::Result<Stop>),
    /// It does something else.
    Command { arguments: fn(Command) -> Command, run: fn(&ArgMatches, &Context) -> anyhow::Result<()> },
}

/// What a role is given.
pub struct Context {
    pub config: Config,
    pub shutdown: Shutdown,
    /// How long the start waits for a service; `None` for ever.
    pub connect_timeout: Option<Duration>,
    /// Counts of messages read, for Redis; `None` where they are off.
    counters: Option<Arc<Counters>>,
}

impl Context {
    pub fn new(config: Config, shutdown: Shutdown, connect_timeout: Option<Duration>) -> anyhow::Result<Self> {
        let redis = &config.redis;
        let counters = config.counters().then(|| Counters::new(&redis.url, redis.timeout).map(Arc::new)).transpose()?;
        Ok(Self { config, shutdown, connect_timeout, counters })
    }

    /// Opens the configured bus.
    pub fn bus(&self) -> anyhow::Result<Box<dyn Bus>> {
        Ok(bus::open(&self.config)?)
    }

    pub fn settings(&self) -> Settings {
        Settings { connect_timeout: self.connect_timeout, ..Settings::from(&self.config) }
    }

    /// Builds stops, has them share `drain` and the counters, and runs them until their end; with the page about them where
    /// `web` is.
    fn run_stops(&self, roles: &[&Role], drain: bool, web: bool) -> anyhow::Result<()> {
        let bus: Arc<dyn Bus> = self.bus()?.into();
        let traces = Traces::start(&self.config)?;
        let together = Drain::default();
        let mut running = Vec::new();
        for role in roles {
            let Kind::Stop(build) = role.kind else { continue };
            let mut stop = build(self)?;
            if drain {
                stop = stop.drain(together.join());
            }
            if let Some(other) = running.iter().find(|other: &&Stop| other.topic() == stop.topic()) {
                let (topic, other) = (stop.topic(), other.name());
                let key = format!("{}.topic", role.name);
                let message = format!("{topic} is read by {other} too, and a group reads each record once");
                return Err(self.config.error(&key, message).into());
            }
            let stop = traces.iter().fold(stop, |stop, traces| stop.traced(traces));
            running.push(self.count(stop));
        }
        let _http = self.serve(running.iter().map(Stop::watch).into(), Vec::new())?;
        let _web = web.then(|| Web::start(Arc::clone(&bus), &self.config)).transpose()?;
        run_all(running, &*bus, &self.shutdown)
    }

    /// Tells over HTTP how `stops` and `parts` are, where that is configured, until what it gives is dropped.
    fn serve(&self, stops: Stops, parts: Vec<Arc<dyn Part>>) -> anyhow::Result<Option<Server>> {
        let http = &self.config.http;
        let Some(listen) = http.listen else { return Ok(None) };
        let process = Process {
            stops,
            parts,
            stall: http.stall,
            counters: self.counters.as_ref().map(|counters| counters.errors()),
        };
        let server = Server::start(listen, process);
        server.map(Some).map_err(|error| cannot_listen(&self.config, "http.listen", listen, &error))
    }

    fn count(&self, stop: Stop) -> Stop {
        let Some(counters) = &self.counters else { return stop };
        let (counters, topic) = (Arc::clone(counters), stop.topic().clone());
        stop.on_read(move |count| counters.add(topic.as_str(), count))
    }
}

/// `cache` of the roles that look something up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum CacheKind {
    File,
    Lmdb,
    Redis,
}

impl Context {
    /// The cache that a role's options name: `file`, `lmdb`, or `key` of the configured Redis.
    fn source(&self, kind: CacheKind, file: &Path, lmdb: &Path, key: &str) -> Source {
        let redis = &self.config.redis;
        match kind {
            CacheKind::File => Source::File(file.to_owned()),
            CacheKind::Lmdb => Source::Lmdb(lmdb.to_owned()),
            CacheKind::Redis => Source::Redis { url: redis.url.clone(), key: key.to_owned(), timeout: redis.timeout },
        }
    }
}

/// Data goes to standard output, in one go.
fn print(bytes: &[u8]) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    Ok(stdout.flush()?)
}

/// The stops among [`ROLES`].
pub fn stops() -> impl Iterator<Item = &'static Role> {
    ROLES.iter().filter(|role| matches!(role.kind, Kind::Stop(_)))
}

/// Runs one role as it was called.
pub fn call(role: &'static Role, matches: &ArgMatches, context: &Context) -> anyhow::Result<()> {
    match role.kind {
        Kind::Command { run, .. } => run(matches, context),
        Kind::Stop(_) => context.run_stops(&[role], matches.get_flag("drain"), false),
    }
}
