use std::{ffi::OsString, os::unix::ffi::OsStringExt, path::Path, time::Duration};

use proptest::prelude::*;
use serde::Deserialize;

use super::*;

/// With `toml` as metrobus.toml and `variables` as the environment.
fn load(toml: &str, variables: &[(&str, &str)]) -> Result<Config, Misconfigured> {
    Config::layered(Some((Path::new("metrobus.toml"), toml)), variables.iter().copied())
}

fn error(toml: &str, variables: &[(&str, &str)]) -> String {
    load(toml, variables).map(|_| ()).expect_err(toml).to_string()
}

fn names(topics: &[Topic]) -> Vec<&str> {
    topics.iter().map(Topic::as_str).collect()
}

/// The value of `key` as TOML, and its origin.
fn entry(config: &Config, key: &str) -> (String, String) {
    let entry = config.effective().find(|entry| text::dotted(&entry.path) == key).expect(key);
    (text::value_text(&entry.value), entry.origin.to_string())
}

#[test]
fn the_defaults_are_what_the_structs_expect() {
    let config = load("", &[]).unwrap();
    assert_eq!(config.bus, BusKind::Sqlite);
    assert!(config.stops.is_empty());
    assert_eq!((config.error_topic.as_str(), config.repair_topic.as_str()), ("Error", "Repair"));
    assert_eq!(config.batch, 1000);
    assert_eq!(config.shutdown_timeout, Duration::from_secs(10));
    assert_eq!(config.sqlite.path, Path::new("data/metrobus.db"));
    assert_eq!(config.sqlite.synchronous, crate::bus::sqlite::Synchronous::Full);
    assert_eq!(config.sqlite.retention, Duration::from_secs(7 * 24 * 3600));
    assert_eq!(config.sqlite.retention_bytes, 0);
    assert_eq!(config.kafka.brokers, "localhost:9092");
    assert_eq!(config.kafka.group, "metrobus");
    assert_eq!(config.kafka.guarantee, Guarantee::AtLeastOnce);
    assert_eq!((config.kafka.partitions, config.kafka.replication), (4, 1));
    assert_eq!(config.kafka.instance, None);
    assert_eq!(config.kafka.transaction, Duration::from_millis(250));
    assert!(config.kafka.properties.is_empty());
    assert_eq!(config.redis.url, "redis://localhost:6379");
    assert_eq!(config.redis.timeout, Duration::from_secs(5));
    assert_eq!(config.redis.counters, Counters::Auto);
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.retry, Retry::default());
    assert_eq!((config.journal.level, config.journal.topic.as_str()), (journal::Level::All, "Journal"));
    assert!(config.journal.fields.is_empty());
    assert_eq!(config.journal.index, Path::new("data/journal-index.db"));
    assert_eq!(config.journal.retention, Duration::from_secs(7 * 24 * 3600));
    assert_eq!(config.journal.retention_bytes, 0);
    assert!(config.log.redact);
    assert_eq!((config.http.listen, config.http.stall), (None, Duration::from_secs(300)));
    assert_eq!(names(&config.stop_topics()), ["Source", "AddEmail", "WhiteList", "Log"]);
    assert!(config.effective().all(|entry| entry.origin == Origin::Default));
}

#[test]
fn the_sections_of_the_example_have_their_defaults() {
    let config = load("", &[]).unwrap();
    let section = |role| toml::to_string(&config.section::<toml::Table>(role).unwrap()).unwrap();
    let retry = "\n[retry]\nfirst = \"100ms\"\nmax = \"10s\"\nmax_attempts = 5\n";
    assert_eq!(section("pusher"), "topic = \"Source\"\n");
    let keys = "deadline = \"0s\"\non_error = \"next\"\nroute = [\"AddEmail\", \"WhiteList\", \"Log\"]\nrule = []\ntest = []\ntopic = \"Source\"\n";
    assert_eq!(section("busdriver"), format!("{keys}{retry}"));
    let keys = "cache = \"file\"\nfile = \"data/emails.dat\"\nhash = \"emails\"\nlmdb = \"data/emails.lmdb\"\ntopic = \"AddEmail\"\nunknown = []\n";
    assert_eq!(section("contactpoint"), format!("{keys}{retry}"));
    let keys = "cache = \"file\"\nfile = \"data/whitelist.dat\"\nlmdb = \"data/whitelist.lmdb\"\nset = \"whitelist\"\ntopic = \"WhiteList\"\nunlisted = []\n";
    assert_eq!(section("whitelist"), format!("{keys}{retry}"));
    let search = "\n[opensearch]\nbulk_bytes = 5000000\nca = \"\"\nindex = \"metro-bus\"\npassword = \"\"\npassword_file = \"\"\ntimeout = \"30s\"\nuser = \"\"\n";
    let rotate = "\n[rotate]\nbytes = 0\ndaily = false\nkeep = 0\n";
    assert_eq!(section("logstop"), format!("output = \"-\"\ntopic = \"Log\"\n{search}{retry}{rotate}"));
}

#[test]
fn a_stop_retries_as_its_section_says_and_else_as_all_do() {
    #[derive(Deserialize)]
    struct Section {
        retry: Retry,
    }
    let toml = "retry.max = \"1m\"\n[contactpoint]\nretry = { max_attempts = 9, first = \"2s\" }\n";
    let config = load(toml, &[("METROBUS__WHITELIST__RETRY__MAX", "3s")]).unwrap();
    let of = |stop| config.section::<Section>(stop).unwrap().retry;
    let seconds = Duration::from_secs;
    let common = Retry { max: seconds(60), ..Retry::default() };
    assert_eq!(config.retry, common);
    assert_eq!(of("contactpoint"), Retry { max_attempts: 9, first: seconds(2), max: seconds(60) });
    assert_eq!(of("whitelist"), Retry { max: seconds(3), ..common });
    assert_eq!(of("logstop"), common);
    let origin = |key: &str| config.effective().find(|entry| entry.path.join(".") == key).unwrap().origin.to_string();
    assert!(origin("logstop.retry.max").ends_with("metrobus.toml:1"));
    assert!(origin("contactpoint.retry.first").ends_with("metrobus.toml:3"));
    assert_eq!(origin("logstop.retry.first"), "default");
}

#[test]
fn every_key_and_section_of_the_defaults_has_one_comment() {
    for line in DEFAULTS.lines().skip_while(|line| line.starts_with('#')).filter(|line| !line.is_empty()) {
        let (_, comment) = line.split_once(" # ").unwrap_or_else(|| panic!("{line} has no comment"));
        assert!(!comment.trim().is_empty() && line.len() <= 120, "{line}");
    }
}

#[test]
fn defaults_lie_under_the_file_and_that_under_the_environment() {
    let toml = "batch = 7\n\n[kafka]\nbrokers = \"a:1\"\ngroup = \"blue\"\n";
    let config = load(toml, &[("METROBUS__KAFKA__BROKERS", "b:2,c:3")]).unwrap();
    assert_eq!(config.batch, 7);
    assert_eq!((config.kafka.brokers.as_str(), config.kafka.group.as_str()), ("b:2,c:3", "blue"));
    for (key, value, origin) in [
        ("batch", "7", "metrobus.toml:1"),
        ("kafka.brokers", "\"b:2,c:3\"", "METROBUS__KAFKA__BROKERS"),
        ("kafka.group", "\"blue\"", "metrobus.toml:5"),
        ("kafka.partitions", "4", "default"),
    ] {
        assert_eq!(entry(&config, key), (value.into(), origin.into()), "{key}");
    }
}

#[test]
fn the_environment_sets_every_type() {
    let config = load(
        "",
        &[
            ("METROBUS__BUS", "kafka"),
            ("METROBUS__BATCH", " 1_000 "),
            ("METROBUS__STOPS", "[\"Extra\", 'More']"),
            ("METROBUS__BUSDRIVER__ROUTE", "Extra, Log"),
            ("METROBUS__LOG__REDACT", "false"),
            ("METROBUS__KAFKA__GROUP", "true"),
            ("METROBUS__RETRY__MAX", "1m 30s"),
            ("METROBUS__KAFKA__PROPERTIES__SASL_PASSWORD", "5"),
            // Not ours.
            ("METROBUS_CONFIG", "other.toml"),
            ("METROBUS_TEST_KAFKA", "x"),
            ("METROBUS", ""),
            ("metrobus__bus", "sqlite"),
        ],
    )
    .unwrap();
    assert_eq!((config.bus, config.batch, config.log.redact), (BusKind::Kafka, 1000, false));
    assert_eq!(names(&config.stop_topics()), ["Source", "AddEmail", "WhiteList", "Log", "Extra", "More"]);
    assert_eq!(config.kafka.group, "true");
    assert_eq!(config.retry.max, Duration::from_secs(90));
    assert_eq!(config.kafka.properties, BTreeMap::from([("sasl.password".into(), "5".into())]));
    assert_eq!(entry(&config, "busdriver.route").0, "[\"Extra\", \"Log\"]");
    assert!(config.counters());
    assert!(names(&load("", &[("METROBUS__STOPS", "")]).unwrap().stops).is_empty());
}

#[test]
fn the_names_of_switch_lie_between_the_file_and_the_environment() {
    let toml = "[gateway]\nlisten = \"1\"\n[gateway.switch]\nsecret = \"a\"\n[deliver]\nsubscribers = \"a.db\"";
    let switch = [("SWITCH_DB_NAME", "b.db"), ("SWITCH_JWT_SECRET", "b"), ("SWITCH_SERVER_PORT", "2")];
    let of = |variables: &[(&str, &str)]| {
        let config = load(toml, variables).unwrap();
        ["deliver.subscribers", "gateway.switch.secret", "gateway.listen"].map(|key| entry(&config, key))
    };
    let expected = |shown: [&str; 3], origins: [&str; 3]| {
        let mut origins = origins.into_iter();
        shown.map(|value| (format!("\"{value}\""), origins.next().unwrap().to_owned()))
    };
    let names = switch.map(|(name, _)| name);
    assert_eq!(of(&switch), expected(["b.db", "***", "2"], names));
    let above = ("METROBUS__GATEWAY__LISTEN", "3");
    let origins = [names[0], names[1], above.0];
    assert_eq!(of(&[&switch[..], &[above]].concat()), expected(["b.db", "***", "3"], origins));
    let lines = ["metrobus.toml:6", "metrobus.toml:4", "metrobus.toml:2"];
    assert_eq!(of(&switch.map(|(name, _)| (name, ""))), expected(["a.db", "***", "1"], lines));
}

#[test]
fn counters_follow_the_bus_unless_told() {
    for (bus, counters, on) in
        [("sqlite", "auto", false), ("kafka", "auto", true), ("sqlite", "on", true), ("kafka", "off", false)]
    {
        let config = load("", &[("METROBUS__BUS", bus), ("METROBUS__REDIS__COUNTERS", counters)]).unwrap();
        assert_eq!(config.counters(), on, "{bus} {counters}");
    }
}

#[test]
fn kafka_properties_are_text_by_their_full_names_however_written() {
    let toml = r#"
[kafka.properties]
"security.protocol" = "SASL_SSL"
sasl.mechanism = "PLAIN"
fetch."min.bytes" = 10
socket.keepalive.enable = true
[kafka.properties.ssl]
ca.location = "/ca"
"#;
    let config = load(toml, &[("METROBUS__KAFKA__PROPERTIES__SASL_MECHANISM", "SCRAM-SHA-512")]).unwrap();
    let expected = [
        ("fetch.min.bytes", "10"),
        ("sasl.mechanism", "SCRAM-SHA-512"),
        ("security.protocol", "SASL_SSL"),
        ("socket.keepalive.enable", "true"),
        ("ssl.ca.location", "/ca"),
    ];
    assert_eq!(config.kafka.properties, expected.map(|(name, value)| (name.into(), value.into())).into());
    for (name, value, origin) in [
        ("security.protocol", "SASL_SSL", "metrobus.toml:3"),
        ("sasl.mechanism", "SCRAM-SHA-512", "METROBUS__KAFKA__PROPERTIES__SASL_MECHANISM"),
        ("fetch.min.bytes", "10", "metrobus.toml:5"),
        ("ssl.ca.location", "/ca", "metrobus.toml:8"),
    ] {
        let found = entry(&config, &format!("kafka.properties.\"{name}\""));
        assert_eq!(found, (format!("\"{value}\""), origin.into()));
    }
}

#[test]
fn what_is_wrong_in_the_file_is_told_on_one_line() {
    for (toml, expected) in [
        // Keys
        ("\n[kafka]\ngrup = 5", "metrobus.toml:3: unknown key `kafka.grup`; did you mean `kafka.group`?"),
        ("kafka.grup = 5", "metrobus.toml:1: unknown key `kafka.grup`; did you mean `kafka.group`?"),
        ("buss = \"kafka\"", "metrobus.toml:1: unknown key `buss`; did you mean `bus`?"),
        ("[kafak]\nbrokers = \"a\"", "metrobus.toml:1: unknown key `kafak`; did you mean `kafka`?"),
        ("Bus = \"kafka\"", "metrobus.toml:1: unknown key `Bus`; did you mean `bus`?"),
        ("partitions = 5", "metrobus.toml:1: unknown key `partitions`; did you mean `kafka.partitions`?"),
        ("[redis]\nhost = 5", "metrobus.toml:2: unknown key `redis.host`; did you mean `redis.timeout`?"),
        ("[logstop]\nouput = 5", "metrobus.toml:2: unknown key `logstop.ouput`; did you mean `logstop.output`?"),
        ("\"b\\nus\" = 5", "metrobus.toml:1: unknown key `\"b\\nus\"`; did you mean `bus`?"),
        ("b = 1\na = 2", "metrobus.toml:1: unknown key `b`; did you mean `bus`?"),
        // Types
        ("[kafka]\n\npartitions = \"four\"", "metrobus.toml:3: kafka.partitions is \"four\", must be an integer"),
        ("kafka.partitions = 4.0", "metrobus.toml:1: kafka.partitions is 4.0, must be an integer"),
        ("log.redact = \"yes\"", "metrobus.toml:1: log.redact is \"yes\", must be true or false"),
        (
            "http.listen = \"localhost\"",
            "metrobus.toml:1: http.listen is \"localhost\", must be a port or address:port, as in \"9464\" or \"0.0.0.0:9464\"",
        ),
        ("http.stall = \"0s\"", "metrobus.toml:1: http.stall is 0s, must be at least 1s"),
        ("sqlite.path = 5", "metrobus.toml:1: sqlite.path is 5, must be a string"),
        ("[bus]", "metrobus.toml:1: bus is a table, must be a string"),
        ("kafka = \"x\"", "metrobus.toml:1: kafka is \"x\", must be a table"),
        ("[[kafka]]\ngroup = \"a\"", "metrobus.toml:1: kafka is [{ group = \"a\" }], must be a table"),
        ("stops = \"A\"", "metrobus.toml:1: stops is \"A\", must be a list"),
        ("stops = [\"A\", 5]", "metrobus.toml:1: stops[1] is 5, must be a string"),
        ("[busdriver]\nroute = [\n\"Log\",\ntrue]", "metrobus.toml:2: busdriver.route[1] is true, must be a string"),
        ("bus = 2020-01-01", "metrobus.toml:1: bus is 2020-01-01, must be a string"),
        ("batch = 99999999999999999999", "metrobus.toml:1: batch is too large a number"),
        ("retry.first = 100", "metrobus.toml:1: retry.first is 100, must be a duration with its unit, as in \"100ms\""),
        (
            "retry.first = \"100\"",
            "metrobus.toml:1: retry.first is \"100\", must be a duration with its unit, as in \"250ms\", \"10s\" or \"7d\"",
        ),
        (
            "retry.first = \"soon\"",
            "metrobus.toml:1: retry.first is \"soon\", must be a duration with its unit, as in \"250ms\", \"10s\" or \"7d\"",
        ),
        ("retry.max = \"200y\"", "metrobus.toml:1: retry.max is \"200y\", must be at most 100 years"),
        // Values
        ("bus = \"rabbit\"", "metrobus.toml:1: bus is \"rabbit\", must be \"sqlite\" or \"kafka\""),
        (
            "kafka.guarantee = \"most\"",
            "metrobus.toml:1: kafka.guarantee is \"most\", must be \"at-least-once\" or \"exactly-once\"",
        ),
        ("redis.counters = \"yes\"", "metrobus.toml:1: redis.counters is \"yes\", must be \"auto\", \"on\" or \"off\""),
        ("batch = 0", "metrobus.toml:1: batch is 0, must be an integer from 1 to 100000"),
        ("batch = -1", "metrobus.toml:1: batch is -1, must be an integer from 1 to 100000"),
        ("batch = 100001", "metrobus.toml:1: batch is 100001, must be an integer from 1 to 100000"),
        ("kafka.partitions = 0", "metrobus.toml:1: kafka.partitions is 0, must be an integer from 1 to 100000"),
        ("kafka.replication = 0", "metrobus.toml:1: kafka.replication is 0, must be an integer from 1 to 1000"),
        ("sqlite.retention_bytes = -1", "metrobus.toml:1: sqlite.retention_bytes is -1, must be an integer 0 or more"),
        (
            "limits.message_bytes = 0",
            "metrobus.toml:1: limits.message_bytes is 0, must be an integer from 1 to 1000000000",
        ),
        ("limits.hops = 0", "metrobus.toml:1: limits.hops is 0, must be an integer from 1 to 10000"),
        ("limits.depth = 0", "metrobus.toml:1: limits.depth is 0, must be an integer from 1 to 1000"),
        ("retry.max_attempts = 0", "metrobus.toml:1: retry.max_attempts is 0, must be an integer from 1 to 1000000"),
        ("kafka.transaction = \"1m\"", "metrobus.toml:1: kafka.transaction is 1m, must be from 10ms to 10s"),
        ("kafka.transaction = \"9ms\"", "metrobus.toml:1: kafka.transaction is 9ms, must be from 10ms to 10s"),
        ("redis.timeout = \"0s\"", "metrobus.toml:1: redis.timeout is 0s, must be at least 1ms"),
        ("retry.first = \"0s\"", "metrobus.toml:1: retry.first is 0s, must be at least 1ms"),
        ("retry.max = \"50ms\"", "metrobus.toml:1: retry.max is 50ms, must be at least retry.first, 100ms"),
        (
            "\nlogstop.retry.max_attempts = 0",
            "metrobus.toml:2: logstop.retry.max_attempts is 0, must be an integer from 1 to 1000000",
        ),
        ("logstop.retry.first = \"0s\"", "metrobus.toml:1: logstop.retry.first is 0s, must be at least 1ms"),
        (
            "logstop.retry = { first = \"20s\" }",
            "metrobus.toml:1: logstop.retry.first is 20s, must be at most logstop.retry.max, 10s",
        ),
        (
            "logstop.retry = { max = \"10ms\" }",
            "metrobus.toml:1: logstop.retry.max is 10ms, must be at least logstop.retry.first, 100ms",
        ),
        (
            "logstop.retry = { attempts = 3 }",
            "metrobus.toml:1: unknown key `logstop.retry.attempts`; did you mean `logstop.retry.max_attempts`?",
        ),
        ("sqlite.path = \"\"", "metrobus.toml:1: sqlite.path is \"\", must not be empty"),
        ("kafka.group = \"a\\u0000\"", "metrobus.toml:1: kafka.group holds a NUL character"),
        ("kafka.group = \"\"", "metrobus.toml:1: kafka.group is \"\", must not be empty"),
        (
            "kafka.brokers = \"a:1,\"",
            "metrobus.toml:1: kafka.brokers is \"a:1,\", must be host:port of one broker or more, with commas between",
        ),
        (
            "kafka.instance = \"a b\"",
            "metrobus.toml:1: kafka.instance is \"a b\", must be 1 to 249 of A-Z a-z 0-9 . _ -",
        ),
        (
            "error_topic = \"a b\"",
            "metrobus.toml:1: error_topic: \"a b\" is no topic: 1 to 249 of A-Z a-z 0-9 . _ - are",
        ),
        (
            "\n[whitelist]\ntopic = \"\"",
            "metrobus.toml:3: whitelist.topic: \"\" is no topic: 1 to 249 of A-Z a-z 0-9 . _ - are",
        ),
        (
            "[pusher]\ntopic = \"..\"",
            "metrobus.toml:2: pusher.topic: \"..\" is no topic: 1 to 249 of A-Z a-z 0-9 . _ - are",
        ),
        // Redis
        ("redis.url = \"http://x\"", "metrobus.toml:1: redis.url is \"http://x\", must begin with redis:// or unix://"),
        ("redis.url = \"\"", "metrobus.toml:1: redis.url is \"\", must begin with redis:// or unix://"),
        (
            "redis.url = \"rediss://me:s3cret@x\"",
            "metrobus.toml:1: redis.url is \"rediss://me:***@x\", but this build speaks no TLS to Redis; \
             use redis:// or unix://",
        ),
        (
            "redis.url = \"redis://me:s3cret@x:port\"",
            "metrobus.toml:1: redis.url is \"redis://me:***@x:port\", must be as \
             redis://user:password@host:port/database (Redis URL did not parse)",
        ),
        (
            "redis.url = \"redis://x/first\"",
            "metrobus.toml:1: redis.url is \"redis://x/first\", must be as \
             redis://user:password@host:port/database (Invalid database number)",
        ),
        // Routes
        (
            "\n[busdriver]\nroute = [\"Nowhere\"]",
            "metrobus.toml:3: busdriver.route names \"Nowhere\", which no stop here reads; add it to `stops`, \
             or name one of AddEmail, WhiteList, Log",
        ),
        ("busdriver.route = []", "metrobus.toml:1: busdriver.route is empty, must name one stop or more"),
        (
            "busdriver.route = [\"Log\", \"Source\"]",
            "metrobus.toml:1: busdriver.route names \"Source\", which the busdriver reads: \
             the journey would never end",
        ),
        (
            "error_topic = \"Log\"",
            "metrobus.toml:1: error_topic is \"Log\", which logstop reads: its dead letters would come back",
        ),
        (
            "logstop.topic = \"Error\"",
            "metrobus.toml:1: logstop.topic is \"Error\", the error_topic: its dead letters would come back",
        ),
        ("repair_topic = \"Error\"", "metrobus.toml:1: repair_topic is \"Error\", the error_topic"),
        ("repair_topic = \"Journal\"", "metrobus.toml:1: repair_topic is \"Journal\", the topic of the journal"),
        ("repair_topic = \"Log\"", "metrobus.toml:1: repair_topic is \"Log\", which logstop reads"),
        (
            "stops = [\"X\"]\nrepair_topic = \"X\"",
            "metrobus.toml:2: repair_topic is \"X\", which a stop in `stops` reads",
        ),
        // Properties
        (
            "[kafka.properties]\n\"group.id\" = \"x\"",
            "metrobus.toml:2: kafka.properties.\"group.id\" is metrobus's to set; set kafka.group instead",
        ),
        (
            "[kafka.properties]\nenable.idempotence = false",
            "metrobus.toml:2: kafka.properties.\"enable.idempotence\" is metrobus's to set; \
             without it records would double and change places",
        ),
        (
            "[kafka.properties]\nx.password = [\"s3cret\"]",
            "metrobus.toml:2: kafka.properties.\"x.password\" is \"***\", must be a string, an integer, true or false",
        ),
        (
            "[kafka.properties]\na.b = 1\n\"a.b\" = 2",
            "metrobus.toml:3: kafka.properties.\"a.b\" is set twice, first in line 2",
        ),
        (
            "kafka.properties.\"\" = 1",
            "metrobus.toml:1: kafka.properties.\"\" is no property: the name is empty or holds a NUL character",
        ),
        // Syntax
        ("batch = 1\nbatch = 2", "metrobus.toml:2:1: duplicate key"),
        ("batch =", "metrobus.toml:1:8: string values must be quoted, expected literal string"),
        ("bus = kafka", "metrobus.toml:1:7: string values must be quoted, expected literal string"),
        ("\n  [kafka\n", "metrobus.toml:2:9: unclosed table, expected `]`"),
    ] {
        assert_eq!(error(toml, &[]), expected, "{toml}");
    }
}

#[test]
fn what_is_wrong_in_the_environment_is_told_by_its_names() {
    for (name, value, expected) in [
        ("METROBUS__KAFKA__GRUP", "x", "unknown key `kafka.grup`; did you mean METROBUS__KAFKA__GROUP?"),
        ("METROBUS__KAFKA_BROKERS", "x", "unknown key `kafka_brokers`; did you mean METROBUS__KAFKA__BROKERS?"),
        ("METROBUS__KAFKA__brokers", "x", "unknown key `kafka.brokers`; did you mean METROBUS__KAFKA__BROKERS?"),
        ("METROBUS__BUS__KIND", "x", "unknown key `bus.kind`; did you mean METROBUS__BUS?"),
        ("METROBUS__", "x", "unknown key `\"\"`; did you mean METROBUS__BUS?"),
        ("METROBUS__KAFKA", "x", "kafka is a table; set one of its keys, as in METROBUS__KAFKA__BROKERS"),
        (
            "METROBUS__KAFKA__PROPERTIES",
            "x",
            "kafka.properties is a table; set one of its keys, as in METROBUS__KAFKA__PROPERTIES__SECURITY_PROTOCOL",
        ),
        (
            "METROBUS__KAFKA__PROPERTIES__SASL__PASSWORD",
            "x",
            "unknown key `kafka.properties.sasl.password`; did you mean METROBUS__KAFKA__PROPERTIES__SASL_PASSWORD?",
        ),
        (
            "METROBUS__KAFKA__PROPERTIES__",
            "x",
            "unknown key `kafka.properties.\"\"`; did you mean METROBUS__KAFKA__PROPERTIES__SECURITY_PROTOCOL?",
        ),
        (
            "METROBUS__KAFKA__PROPERTIES__GROUP_ID",
            "x",
            "kafka.properties.\"group.id\" is metrobus's to set; set kafka.group instead",
        ),
        ("METROBUS__BUS", "rabbit", "bus is \"rabbit\", must be \"sqlite\" or \"kafka\""),
        ("METROBUS__KAFKA__PARTITIONS", "four", "kafka.partitions is \"four\", must be an integer"),
        ("METROBUS__BATCH", "1\nbus = 2", "batch is \"1\\nbus = 2\", must be an integer"),
        ("METROBUS__LOG__REDACT", "1", "log.redact is 1, must be true or false"),
        ("METROBUS__STOPS", "[A", "stops is \"[A\", must be a list"),
        ("METROBUS__STOPS", "A,,B", "\"\" is no topic: 1 to 249 of A-Z a-z 0-9 . _ - are"),
        (
            "METROBUS__RETRY__FIRST",
            "5",
            "retry.first is \"5\", must be a duration with its unit, as in \"250ms\", \"10s\" or \"7d\"",
        ),
        (
            "METROBUS__REDIS__URL",
            "http://me:s3cret@x",
            "redis.url is \"http://me:***@x\", must begin with redis:// or unix://",
        ),
        (
            "METROBUS__BUSDRIVER__ROUTE",
            "Log,Nowhere",
            "busdriver.route names \"Nowhere\", which no stop here reads; add it to `stops`, \
             or name one of AddEmail, WhiteList, Log",
        ),
    ] {
        assert_eq!(error("", &[(name, value)]), format!("{name}: {expected}"));
    }
}

#[test]
fn variables_that_are_not_utf8_are_refused_where_they_are_ours() {
    let broken = || OsString::from_vec(b"\xff".to_vec());
    let load = |name: &[u8], value| Config::load(None, [(OsString::from_vec(name.to_vec()), value)]);
    assert!(load(b"PATH", broken()).is_ok());
    assert!(load(b"\xff", broken()).is_ok());
    assert_eq!(load(b"METROBUS__BUS", broken()).unwrap_err().0, "METROBUS__BUS: the value is not UTF-8");
    assert_eq!(
        load(b"METROBUS__B\xffS", "kafka".into()).unwrap_err().0,
        "METROBUS__B\u{fffd}S: unknown key `\"b\u{fffd}s\"`; did you mean METROBUS__BUS?"
    );
    assert!(load(b"METROBUS__KAFKA__PROPERTIES__\xff", "x".into()).is_err());
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let none: [(&str, &str); 0] = [];
    let dir = tempfile::tempdir().unwrap();
    let load = |name: &str| Config::load(Some(&dir.path().join(name)), none).map(|_| ()).unwrap_err().0;
    let at = |name: &str| dir.path().join(name).display().to_string();
    assert_eq!(load("none.toml"), format!("cannot read {}: No such file or directory", at("none.toml")));
    assert_eq!(load("."), format!("cannot read {}: Is a directory", at(".")));
    std::fs::write(dir.path().join("latin.toml"), b"# one\n# \xe9t\xe9\n").unwrap();
    assert_eq!(load("latin.toml"), format!("cannot read {}: line 2 is not UTF-8", at("latin.toml")));
    std::fs::write(dir.path().join("windows.toml"), "\u{feff}bus = \"kafka\"\r\nbatch = 0\r\n").unwrap();
    assert_eq!(
        load("windows.toml"),
        format!("{}:2: batch is 0, must be an integer from 1 to 100000", at("windows.toml"))
    );
}

#[test]
fn a_role_reads_its_section_and_its_errors_name_the_key() {
    #[derive(Debug, PartialEq, Deserialize)]
    struct Options {
        topic: Topic,
        cache: Cache,
        file: std::path::PathBuf,
    }
    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Cache {
        File,
        Redis,
    }
    let options = |config: Config| config.section::<Options>("contactpoint").map_err(|error| error.0);
    let expected = Options { topic: Topic::new("AddEmail").unwrap(), cache: Cache::Redis, file: "x.dat".into() };
    let toml = "[contactpoint]\ncache = \"redis\"\nfile = \"x.dat\"\n";
    let config = load(toml, &[]).unwrap();
    assert_eq!(options(config.clone()), Ok(expected));
    assert_eq!(config.error("contactpoint.file", "no such file").0, "metrobus.toml:3: contactpoint.file: no such file");
    assert_eq!(config.error("contactpoint.hash", "empty").0, "default of contactpoint.hash: empty");
    assert_eq!(config.error("contactpoint", "odd").0, "contactpoint: odd");

    let config = load("contactpoint.cache = \"lmdb\"", &[]).unwrap();
    assert_eq!(
        options(config),
        Err("metrobus.toml:1: contactpoint.cache is \"lmdb\", must be \"file\" or \"redis\"".into())
    );
    let config = load("", &[("METROBUS__CONTACTPOINT__CACHE", "lmdb")]).unwrap();
    assert_eq!(config.error("contactpoint.cache", "not today").0, "METROBUS__CONTACTPOINT__CACHE: not today");
    assert_eq!(
        options(config),
        Err("METROBUS__CONTACTPOINT__CACHE: contactpoint.cache is \"lmdb\", must be \"file\" or \"redis\"".into())
    );

    let config = load("", &[]).unwrap();
    assert_eq!(config.section::<Options>("nobody").unwrap_err().0, "nobody: there is no such section");
    assert_eq!(config.section::<Options>("logstop").unwrap_err().0, "logstop: missing field `cache`");
}

/// One that only reads its own topic needs no route.
#[test]
fn the_default_route_is_checked_where_it_is_driven() {
    for (toml, wrong) in [
        (
            "contactpoint.topic = \"Mail\"",
            "default of busdriver.route names \"AddEmail\", which no stop here reads; add it to `stops`, \
             or name one of Mail, WhiteList, Log",
        ),
        ("limits.hops = 2", "default of busdriver.route names 3 stops, more than limits.hops allows, 2"),
    ] {
        assert_eq!(load(toml, &[]).unwrap().check_route().unwrap_err().0, wrong);
    }
}

#[test]
fn stops_elsewhere_may_be_named() {
    let config = load("stops = [\"Nowhere\", \"Log\"]\nbusdriver.route = [\"Nowhere\", \"Nowhere\"]", &[]).unwrap();
    assert_eq!(names(&config.stop_topics()), ["Source", "AddEmail", "WhiteList", "Log", "Nowhere"]);
}

#[test]
fn properties_that_do_no_harm_pass() {
    let config = load("[kafka.properties]\nenable.idempotence = true\nenable.auto.commit = false\n", &[]).unwrap();
    assert_eq!(config.kafka.properties["enable.idempotence"], "true");
    assert_eq!(config.kafka.properties["enable.auto.commit"], "false");
}

#[test]
fn properties_on_which_the_guarantee_rests_are_refused() {
    for (name, value) in [
        ("bootstrap.servers", "a:1"),
        ("metadata.broker.list", "a:1"),
        ("group.id", "x"),
        ("group.instance.id", "x"),
        ("transactional.id", "x"),
        ("message.max.bytes", "1000000"),
        ("isolation.level", "read_committed"),
        ("enable.auto.commit", "true"),
        ("auto.commit.enable", "1"),
        ("enable.auto.offset.store", "true"),
        ("enable.idempotence", "false"),
        ("delivery.report.only.error", "true"),
    ] {
        let error = error(&format!("[kafka.properties]\n\"{name}\" = \"{value}\""), &[]);
        let expected = format!("metrobus.toml:2: kafka.properties.\"{name}\" is metrobus's to set; ");
        assert!(error.starts_with(&expected), "{error}");
    }
}

#[test]
fn debug_output_holds_no_secret() {
    let toml = "redis.url = \"redis://:s3cret@x\"\nkafka.properties.sasl.password = \"s3cret\"";
    let shown = format!("{:?}", load(toml, &[]).unwrap());
    assert!(shown.contains("redis://:***@x") && !shown.contains("s3cret"), "{shown}");
}

/// Text that often is nearly TOML of ours.
fn nearly_toml() -> impl Strategy<Value = String> {
    let key = prop_oneof![
        Just("bus"),
        Just("batch"),
        Just("stops"),
        Just("kafka"),
        Just("kafka.properties"),
        Just("redis.url"),
        Just("retry.first"),
        Just("busdriver.route"),
        Just("\"\""),
        Just("kafka.properties.a.b"),
        Just("é"),
    ];
    let value = prop_oneof![
        "[-+0-9eE._x]{1,20}".prop_map(|text| text),
        "\\PC{0,12}".prop_map(|text| format!("\"{text}\"")),
        "\\PC{0,12}".prop_map(|text| format!("[\"{text}\", 1, {{a = 1}}]")),
        Just("{a.b = 1, c = []}".to_owned()),
        any::<String>(),
    ];
    let line = prop_oneof![
        (key.clone(), value).prop_map(|(key, value)| format!("{key} = {value}")),
        key.clone().prop_map(|key| format!("[{key}]")),
        key.prop_map(|key| format!("[[{key}]]")),
    ];
    prop_oneof![any::<String>(), proptest::collection::vec(line, 0..6).prop_map(|lines| lines.join("\n"))]
}

proptest! {
    #[test]
    fn no_text_makes_a_panic_and_every_error_is_one_line(toml in nearly_toml()) {
        if let Err(error) = load(&toml, &[]) {
            prop_assert!(!error.0.contains(char::is_control), "{error}");
            prop_assert!(error.0.starts_with("metrobus.toml:") || error.0.starts_with("default of "), "{error}");
        }
    }

    #[test]
    fn no_variable_makes_a_panic_and_every_error_is_one_line(
        name in prop_oneof![
            "[A-Z_a-z\\PC]{0,20}",
            proptest::sample::select(&["BUS", "BATCH", "STOPS", "REDIS__URL", "LOG__REDACT", "RETRY__MAX",
                "BUSDRIVER__ROUTE", "KAFKA__PROPERTIES__A_B", "KAFKA__BROKERS"][..]).prop_map(str::to_owned),
        ],
        value in any::<String>(),
    ) {
        let name = format!("METROBUS__{name}");
        if let Err(error) = load("", &[(&name, &value)]) {
            prop_assert!(!error.0.contains(char::is_control), "{error}");
        }
    }
}
