//! What a type cannot say: ranges, and values that do not go together.

use std::time::Duration;

use redis::IntoConnectionInfo;
use serde::Deserialize;
use toml::Value;

use super::{
    Config, text,
    tree::{Origin, Tree},
};
use crate::{bus::Topic, deliver::options::CONCURRENCY, error::Misconfigured, stop::Retry, trace::Options};

/// The least and the most of the integers.
const INTEGERS: &[(&str, i64, i64)] = &[
    ("batch", 1, 100_000),
    ("sqlite.retention_bytes", 0, i64::MAX),
    ("journal.retention_bytes", 0, i64::MAX),
    ("logstop.rotate.bytes", 0, i64::MAX),
    ("logstop.rotate.keep", 0, 1_000_000),
    // A server takes no longer request, unless it is told to
    ("logstop.opensearch.bulk_bytes", 1_000, 100_000_000),
    ("deliver.concurrency", *CONCURRENCY.start() as i64, *CONCURRENCY.end() as i64),
    ("deliver.breaker.failures", 1, 1_000_000),
    ("kafka.partitions", 1, 100_000),
    ("kafka.replication", 1, 1_000),
    // Kafka's clients take no larger message.
    ("gateway.body_bytes", 1, 1_000_000_000),
    ("gateway.waiting", 1, 10_000_000),
    ("gateway.waiting_bytes", 1, i64::MAX),
    ("gateway.connections", 1, 1_000_000),
    ("gateway.threads", 1, 64),
    ("gateway.lanes", 1, 64),
    ("gateway.tokens.max_bytes", 1, 1_000_000),
    ("limits.message_bytes", 1, 1_000_000_000),
    ("limits.hops", 1, 10_000),
    ("limits.depth", 1, 1_000),
];

/// The same of the `max_attempts` of every `retry`.
const ATTEMPTS: (i64, i64) = (1, 1_000_000);

/// Sections whose `topic` is written to; any other section that has one is a stop's, which reads it.
const WRITERS: &[&str] = &["pusher", "journal"];

/// Properties of librdkafka on which the guarantee rests, the one value of each that does no harm, and what to do
/// instead of setting it, or why not.
const PROPERTIES: &[(&str, Option<&str>, &str)] = &[
    ("bootstrap.servers", None, "set kafka.brokers instead"),
    ("metadata.broker.list", None, "set kafka.brokers instead"),
    ("group.id", None, "set kafka.group instead"),
    ("group.instance.id", None, "set kafka.instance instead"),
    ("transactional.id", None, "set kafka.guarantee and kafka.instance instead"),
    ("isolation.level", None, "kafka.guarantee = \"exactly-once\" reads committed records only"),
    ("enable.auto.commit", Some("false"), "metrobus acknowledges a record once what came of it is stored"),
    ("auto.commit.enable", Some("false"), "metrobus acknowledges a record once what came of it is stored"),
    ("enable.auto.offset.store", Some("false"), "metrobus acknowledges a record once what came of it is stored"),
    ("enable.idempotence", Some("true"), "without it records would double and change places"),
    ("delivery.report.only.error", Some("false"), "metrobus acknowledges a record once what came of it is stored"),
    ("message.max.bytes", None, "the max.message.bytes of each topic decides"),
];

/// Refuses integers out of their range.
pub(super) fn numbers(tree: &Tree) -> Result<(), Misconfigured> {
    let attempts = retries(tree).into_iter().map(|retry| (format!("{retry}.max_attempts"), ATTEMPTS.0, ATTEMPTS.1));
    let fixed = INTEGERS.iter().map(|(key, least, most)| ((*key).to_owned(), *least, *most));
    for (key, least, most) in fixed.chain(attempts) {
        let key = key.as_str();
        match tree.value(key) {
            Some(Value::Integer(number)) if !(least..=most).contains(number) => {
                let range = match most {
                    i64::MAX => format!("{least} or more"),
                    most => format!("from {least} to {most}"),
                };
                return Err(tree.says(key, format_args!("is {number}, must be an integer {range}")));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The sections of stops, by name, and the topic that each reads.
pub(super) fn stop_sections(tree: &Tree) -> impl Iterator<Item = (&str, &str)> {
    tree.sections()
        .filter(|(name, _)| !WRITERS.contains(name))
        .filter_map(|(name, table)| Some((name, table.leaf("topic")?.value.as_str()?)))
}

/// Refuses values that each are of their type and yet cannot work.
pub(super) fn meaning(config: &Config) -> Result<(), Misconfigured> {
    texts(config)?;
    durations(config)?;
    redis_url(config)?;
    traces(config)?;
    kafka_properties(config)?;
    topics(config)?;
    match config.tree.origin(ROUTE) {
        // Whoever runs no busdriver here has no use for a route; it asks before it drives
        Some(Origin::Default) => Ok(()),
        _ => route(config),
    }
}

fn texts(config: &Config) -> Result<(), Misconfigured> {
    let tree = &config.tree;
    for (path, leaf) in tree.leaves() {
        // C libraries are handed these texts.
        if leaf.value.as_str().is_some_and(|text| text.contains('\0')) {
            return Err(tree.says(&text::dotted(&path), "holds a NUL character"));
        }
    }
    for key in ["sqlite.path", "kafka.group", "journal.index"] {
        if tree.value(key).and_then(Value::as_str) == Some("") {
            return Err(tree.says(key, "is \"\", must not be empty"));
        }
    }
    if config.kafka.brokers.split(',').any(|broker| broker.trim().is_empty()) {
        let brokers = text::shown("brokers", &config.kafka.brokers.as_str().into());
        return Err(tree.says(
            "kafka.brokers",
            format_args!("is {brokers}, must be host:port of one broker or more, with commas between"),
        ));
    }
    if let Some(instance) = &config.kafka.instance
        && Topic::new(instance).is_err()
    {
        let instance = text::shown("instance", &instance.as_str().into());
        return Err(tree.says("kafka.instance", format_args!("is {instance}, must be 1 to 249 of A-Z a-z 0-9 . _ -")));
    }
    if let (Some(_), Some(_)) = (&config.web.token, &config.web.token_file) {
        return Err(tree.says("web.token_file", "is set beside web.token; set one of the two"));
    }
    Ok(())
}

fn durations(config: &Config) -> Result<(), Misconfigured> {
    let ranges = [
        ("kafka.transaction", config.kafka.transaction, Duration::from_millis(10), Duration::from_secs(10)),
        ("http.stall", config.http.stall, Duration::from_secs(1), Duration::MAX),
        ("redis.timeout", config.redis.timeout, Duration::from_millis(1), Duration::MAX),
    ];
    for (key, duration, least, most) in ranges {
        within(config, key, duration, least, most)?;
    }
    retries(&config.tree).iter().try_for_each(|key| retry(config, key))
}

fn within(config: &Config, key: &str, is: Duration, least: Duration, most: Duration) -> Result<(), Misconfigured> {
    if (least..=most).contains(&is) {
        return Ok(());
    }
    let (is, least) = (humantime::format_duration(is), humantime::format_duration(least));
    let range = match most {
        Duration::MAX => format!("at least {least}"),
        most => format!("from {least} to {}", humantime::format_duration(most)),
    };
    Err(config.tree.says(key, format_args!("is {is}, must be {range}")))
}

/// The keys of the common `retry` and of those of the stops.
fn retries(tree: &Tree) -> Vec<String> {
    let has = |key: &String| tree.value(&format!("{key}.first")).is_some();
    let own = tree.sections().map(|(section, _)| format!("{section}.retry")).filter(has);
    std::iter::once("retry".to_owned()).chain(own).collect()
}

/// Refuses waits that cannot be waited, in the `retry` under `key`.
fn retry(config: &Config, key: &str) -> Result<(), Misconfigured> {
    let Retry { first, max, .. } = match key.split_once('.') {
        Some((section, _)) => config.section::<Retrying>(section)?.retry,
        None => config.retry,
    };
    let [of_first, of_max] = ["first", "max"].map(|name| format!("{key}.{name}"));
    within(config, &of_first, first, Duration::from_millis(1), Duration::MAX)?;
    if max >= first {
        return Ok(());
    }
    let (is, least) = (humantime::format_duration(max), humantime::format_duration(first));
    // Of the two keys, name the one that was set here
    Err(match config.tree.origin(&of_max) == config.tree.origin("retry.max") && key != "retry" {
        true => config.tree.says(&of_first, format_args!("is {least}, must be at most {of_max}, {is}")),
        false => config.tree.says(&of_max, format_args!("is {is}, must be at least {of_first}, {least}")),
    })
}

/// Of the section of a stop, the part that all have.
#[derive(Deserialize)]
struct Retrying {
    retry: Retry,
}

fn redis_url(config: &Config) -> Result<(), Misconfigured> {
    let url = config.redis.url.as_str();
    let wrong =
        |what: String| config.tree.says("redis.url", format_args!("is {}, {what}", text::shown("url", &url.into())));
    let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
    match scheme {
        "redis" | "valkey" | "unix" | "redis+unix" | "valkey+unix" => {}
        "rediss" | "valkeys" => {
            return Err(wrong("but this build speaks no TLS to Redis; use redis:// or unix://".into()));
        }
        _ => return Err(wrong("must begin with redis:// or unix://".into())),
    }
    match url.into_connection_info() {
        Ok(_) => Ok(()),
        Err(error) => {
            // Up to the dash these are the crate's own words; what follows may be a piece of the URL.
            let error = error.to_string();
            let reason = error.split(" - ").next().unwrap_or_default();
            Err(wrong(format!("must be as redis://user:password@host:port/database ({reason})")))
        }
    }
}

fn kafka_properties(config: &Config) -> Result<(), Misconfigured> {
    for (name, value) in &config.kafka.properties {
        let key = text::dotted(&["kafka", "properties", name]);
        if name.is_empty() || name.contains('\0') {
            return Err(config.tree.says(&key, "is no property: the name is empty or holds a NUL character"));
        }
        let ours =
            PROPERTIES.iter().find(|(property, harmless, _)| name == property && *harmless != Some(value.as_str()));
        if let Some((_, _, instead)) = ours {
            return Err(config.tree.says(&key, format_args!("is metrobus's to set; {instead}")));
        }
    }
    Ok(())
}

fn topics(config: &Config) -> Result<(), Misconfigured> {
    for (section, table) in config.tree.sections() {
        if let Some(Value::String(topic)) = table.leaf("topic").map(|leaf| &leaf.value) {
            Topic::new(topic).map_err(|reason| config.error(&format!("{section}.topic"), reason))?;
        }
    }
    journal_topic(config)?;
    repair_topic(config)?;
    let error = config.error_topic.as_str();
    let Some((stop, _)) = stop_sections(&config.tree).find(|(_, topic)| *topic == error) else {
        return Ok(());
    };
    // Of the two keys, name the one that somebody set.
    let key = format!("{stop}.topic");
    Err(match config.tree.origin(&key) {
        Some(Origin::Default) => config
            .tree
            .says("error_topic", format_args!("is \"{error}\", which {stop} reads: its dead letters would come back")),
        _ => config.tree.says(&key, format_args!("is \"{error}\", the error_topic: its dead letters would come back")),
    })
}

/// Refuses a journal among messages: whoever reads those would take its entries for broken ones.
fn journal_topic(config: &Config) -> Result<(), Misconfigured> {
    let journal = config.journal.topic.as_str();
    if journal == config.error_topic.as_str() {
        return Err(config.tree.says("journal.topic", format_args!("is \"{journal}\", the error_topic")));
    }
    let read = stop_sections(&config.tree).find(|(_, topic)| *topic == journal).map(|(stop, _)| stop);
    let named = || config.stops.contains(&config.journal.topic).then_some("a stop in `stops`");
    match read.or_else(named) {
        Some(stop) => Err(config.tree.says("journal.topic", format_args!("is \"{journal}\", which {stop} reads"))),
        None => Ok(()),
    }
}

/// Refuses marks among anything else.
fn repair_topic(config: &Config) -> Result<(), Misconfigured> {
    let repair = &config.repair_topic;
    let read = stop_sections(&config.tree).find(|(_, topic)| *topic == repair.as_str()).map(|(stop, _)| stop);
    let what = match read {
        Some(stop) => format!("which {stop} reads"),
        None if *repair == config.error_topic => "the error_topic".to_owned(),
        None if *repair == config.journal.topic => "the topic of the journal".to_owned(),
        None if config.stops.contains(repair) => "which a stop in `stops` reads".to_owned(),
        None => return Ok(()),
    };
    Err(config.tree.says("repair_topic", format_args!("is \"{repair}\", {what}")))
}

fn traces(config: &Config) -> Result<(), Misconfigured> {
    let Options { endpoint, ratio, service } = &config.traces;
    if let Some(endpoint) = endpoint {
        let url = reqwest::Url::parse(endpoint).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        // A password would be shown: headers for the collector come by OTEL_EXPORTER_OTLP_HEADERS
        if url.is_none_or(|url| !url.has_host() || !url.username().is_empty() || url.query().is_some()) {
            let message = "is not http://host:port or https://host:port, without a user";
            return Err(config.tree.says("traces.endpoint", message));
        }
    }
    if !(0.0..=1.0).contains(ratio) {
        return Err(config.tree.says("traces.ratio", format_args!("is {ratio}, must be from 0 to 1")));
    }
    if service.is_empty() {
        return Err(config.tree.says("traces.service", "is \"\", must not be empty"));
    }
    Ok(())
}

const ROUTE: &str = "busdriver.route";

/// Refuses a `busdriver.route` that a journey cannot take to its end.
pub(super) fn route(config: &Config) -> Result<(), Misconfigured> {
    #[derive(Deserialize)]
    struct Busdriver {
        route: Vec<Topic>,
    }
    let Busdriver { route } = config.section("busdriver")?;
    stops(config, ROUTE, &route)
}

/// Refuses the `route` under `key` where a journey cannot take it to its end.
pub(super) fn stops(config: &Config, key: &str, route: &[Topic]) -> Result<(), Misconfigured> {
    #[derive(Deserialize)]
    struct Busdriver {
        topic: Topic,
    }
    let wrong = |what: String| Err(config.tree.says(key, what));
    let Busdriver { topic: own } = config.section("busdriver")?;
    if route.is_empty() {
        return wrong("is empty, must name one stop or more".into());
    }
    let hops = config.limits.hops;
    if route.len() > hops {
        return wrong(format!("names {} stops, more than limits.hops allows, {hops}", route.len()));
    }
    let stops = config.slip_topics();
    for topic in route {
        if *topic == own {
            return wrong(format!("names \"{topic}\", which the busdriver reads: the journey would never end"));
        }
        if !stops.contains(topic) {
            let stops = stops.iter().map(Topic::as_str).collect::<Vec<_>>().join(", ");
            return wrong(format!(
                "names \"{topic}\", which no stop here reads; add it to `stops`, or name one of {stops}"
            ));
        }
    }
    Ok(())
}
