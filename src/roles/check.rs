//! `metrobus check`: whether a configuration does what it says, before anything runs on it.

use std::{fmt::Write as _, time::Duration};

use anyhow::{Result, anyhow};
use clap::{Args, Command, FromArgMatches};

use super::{CacheKind, Context, Kind, Role, contactpoint, deliver, logstop, otherwise::Otherwise, whitelist};
use crate::{
    backoff::persist,
    bus::{BusError, Topic},
    cache::{self, Lookup, Membership, Source},
    config::Config,
    error::Misconfigured,
    gateway::{command::Commands, switch},
    rules::{self, Action, Rule, Rules},
    subscriber,
};

pub const ROLE: Role = Role {
    name: "check",
    about: "Check the configuration, its rules and their tests, the caches and the services",
    kind: Kind::Command { arguments: Arguments::augment_args as fn(Command) -> Command, run },
};

#[derive(Debug, Args)]
struct Arguments {
    /// Also reach for the bus, and for Redis and OpenSearch where they are used; for 5s, or what --connect-timeout says
    #[arg(long)]
    connect: bool,
}

/// How long a service is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// A line for each finding, then for each note, and one that sums up; the error is the latter where there are findings.
fn run(matches: &clap::ArgMatches, context: &Context) -> Result<()> {
    let arguments = Arguments::from_arg_matches(matches)?;
    let config = &context.config;
    let (rules, checked, mut found) = rules::check(config);
    let found_in_rules = found.len();
    found.extend(twice_read(config));
    found.extend(other_ways(config));
    found.extend(logstop::check(config).err());
    found.extend(Commands::check(config));
    found.extend(switch::callers(config).err());
    found.extend(subscriber::check(config));
    found.extend(deliver::check(config));
    let caches = caches(context, rules.as_ref());
    found.extend(caches.iter().filter_map(|cache| cache.read().err()));
    if arguments.connect {
        found.extend(services(context, &caches));
    }
    let mut out = String::new();
    for Misconfigured(what) in &found {
        let _ = writeln!(out, "{what}");
    }
    let notes = rules.as_ref().map(|rules| rules::notes(rules, config)).unwrap_or_default();
    for Misconfigured(what) in &notes {
        let _ = writeln!(out, "note: {what}");
    }
    if found.is_empty() {
        let (rules, tests) = (counted(checked.rules, "rule"), counted(checked.tests, "test"));
        let _ = writeln!(out, "sound: {rules}, {tests}, {}", counted(caches.len(), "cache"));
    }
    super::print(out.as_bytes())?;
    if found.is_empty() {
        return Ok(());
    }
    let of_rules = if rules.is_none() && found_in_rules > 0 { "; the tests of rules were not tried" } else { "" };
    Err(Misconfigured(format!("check: {}{of_rules}", counted(found.len(), "finding"))).into())
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Topics that two stops read: of each record one of them would get none.
fn twice_read(config: &Config) -> Vec<Misconfigured> {
    let sections = config.stop_sections();
    let mut found = Vec::new();
    for (index, (name, topic)) in sections.iter().enumerate() {
        if let Some((other, _)) = sections[..index].iter().find(|(_, other)| other == topic) {
            let message = format!("{topic} is read by {other} too, and a group reads each record once");
            found.push(config.error(&format!("{name}.topic"), message));
        }
    }
    found
}

/// What is wrong with the ways that messages take which their stop would drop.
fn other_ways(config: &Config) -> Vec<Misconfigured> {
    let contactpoint = config.section::<contactpoint::Options>(contactpoint::ROLE.name);
    let unknown = contactpoint
        .and_then(|options| Otherwise::new(config, "contactpoint.unknown", &options.unknown, &options.topic));
    let whitelist = config.section::<whitelist::Options>(whitelist::ROLE.name);
    let unlisted =
        whitelist.and_then(|options| Otherwise::new(config, "whitelist.unlisted", &options.unlisted, &options.topic));
    [unknown, unlisted].into_iter().filter_map(Result::err).collect()
}

/// What a stop looks up, and the key of the configuration that says where.
struct Cache<'a> {
    context: &'a Context,
    key: &'static str,
    source: Source,
    kind: CacheKind,
    /// A list, not values by key.
    membership: bool,
}

/// The caches of the stops at which a route calls; of all stops where no route is known.
fn caches<'a>(context: &'a Context, rules: Option<&Rules>) -> Vec<Cache<'a>> {
    let called = |topic: &Topic| rules.is_none_or(|rules| rules.iter().any(|rule| calls(rule, topic)));
    let mut caches = Vec::new();
    if let Ok(options) = context.config.section::<contactpoint::Options>(contactpoint::ROLE.name)
        && called(&options.topic)
    {
        let key = match options.cache {
            CacheKind::File => "contactpoint.file",
            CacheKind::Lmdb => "contactpoint.lmdb",
            CacheKind::Redis => "contactpoint.hash",
        };
        let source = context.source(options.cache, &options.file, &options.lmdb, &options.hash);
        caches.push(Cache { context, key, source, kind: options.cache, membership: false });
    }
    if let Ok(options) = context.config.section::<whitelist::Options>(whitelist::ROLE.name)
        && called(&options.topic)
    {
        let key = match options.cache {
            CacheKind::File => "whitelist.file",
            CacheKind::Lmdb => "whitelist.lmdb",
            CacheKind::Redis => "whitelist.set",
        };
        let source = context.source(options.cache, &options.file, &options.lmdb, &options.set);
        caches.push(Cache { context, key, source, kind: options.cache, membership: true });
    }
    caches
}

/// Whether one of its routes calls at the stop that reads `topic`.
fn calls(rule: &Rule, topic: &Topic) -> bool {
    match rule.action() {
        Action::Route(routing) => routing.routes().any(|stops| stops.contains(topic)),
        _ => false,
    }
}

impl Cache<'_> {
    /// Reads the file, where it is one.
    fn read(&self) -> Result<(), Misconfigured> {
        match self.kind {
            CacheKind::Redis => Ok(()),
            _ => self.open(|_| Ok(()), |_| Ok(())),
        }
    }

    /// Reaches for the server, where it is one.
    fn connect(&self) -> Result<(), Misconfigured> {
        match self.kind {
            CacheKind::Redis => self.open(|lookup| lookup.connect(), |list| list.connect()),
            _ => Ok(()),
        }
    }

    fn open(
        &self,
        lookup: impl FnOnce(&mut dyn Lookup) -> Result<()>,
        list: impl FnOnce(&mut dyn Membership) -> Result<()>,
    ) -> Result<(), Misconfigured> {
        let outcome = match self.membership {
            true => self.source.membership().and_then(|mut open| list(&mut *open)),
            false => self.source.lookup().and_then(|mut open| lookup(&mut *open)),
        };
        outcome.map_err(|error| self.context.config.error(self.key, format!("{error:#}")))
    }
}

/// Services that cannot be reached.
fn services(context: &Context, caches: &[Cache<'_>]) -> Vec<Misconfigured> {
    let patience = context.connect_timeout.unwrap_or(PATIENCE);
    let mut found = Vec::new();
    let bus = context.bus().and_then(|bus| persist("the bus", Some(patience), &context.shutdown, || bus.connect()));
    if let Err(error) = bus {
        found.push(Misconfigured(format!("{error:#}")));
    }
    for cache in caches {
        // What a server says of its data counts as away, as it does to a stop; the error says which it is
        let reach = || cache.connect().map_err(|Misconfigured(what)| BusError::Unavailable(anyhow!(what)));
        if let Err(error) = persist("Redis", Some(patience), &context.shutdown, reach) {
            found.push(Misconfigured(format!("{error:#}")));
        }
    }
    let reach = || logstop::connect(&context.config, patience).map_err(BusError::Unavailable);
    if let Err(error) = persist("the sink of logstop", Some(patience), &context.shutdown, reach) {
        found.push(Misconfigured(format!("{error:#}")));
    }
    let redis = &context.config.redis;
    if context.config.counters()
        && let Err(error) = cache::redis::ping(&redis.url, redis.timeout.min(patience))
    {
        found.push(context.config.error("redis.url", format!("the counters: {error:#}")));
    }
    found
}
