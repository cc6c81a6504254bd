//! What a running process tells over HTTP: numbers, whether it lives, is ready and is well.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use serde_json::Value;

use crate::{
    fleet::{DEADLINE, Engine, Fleet},
    support::{Process, Redis, Signal, try_until, wait_until},
};

/// As long as a process may take to see that something has gone or come.
const SOON: Duration = Duration::from_secs(60);

fn fleet() -> Fleet {
    let mut fleet = Fleet::new(Engine::Sqlite).expect("SQLite is always there");
    fleet.set("HTTP__LISTEN", "0");
    fleet.scratch.write("data/emails.dat", "1,user1@example.com\n2,user2@example.com\n");
    fleet.scratch.write("data/whitelist.dat", "user1@example.com\n");
    fleet
}

fn push(fleet: &Fleet, lines: &str) {
    let call = fleet.metrobus(&["pusher", "--from", "-", "--rate", "0"]).stdin(lines.to_owned());
    call.run().assert_code(0);
}

/// A process, and where it says that it listens.
pub struct Watched {
    process: Process,
    address: SocketAddr,
}

impl Watched {
    pub fn start(fleet: &Fleet, arguments: &[&str]) -> Watched {
        let mut process = fleet.metrobus(arguments).spawn();
        process.wait_for_stderr("listens on http://", DEADLINE);
        let said = process.stderr_text();
        let rest = said.split_once("listens on http://").expect("an address").1;
        let address = rest.split_whitespace().next().and_then(|address| address.parse().ok());
        Watched { process, address: address.unwrap_or_else(|| panic!("no address: {said}")) }
    }

    /// Status, head and body.
    pub fn get(&self, path: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.address).expect("connect");
        stream.set_read_timeout(Some(SOON)).expect("a timeout");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("ask");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, head.to_lowercase(), body.to_owned())
    }

    /// The body, once it is answered with this status.
    fn wait_for(&self, path: &str, status: u16) -> String {
        wait_until(&format!("{path} to answer {status}"), SOON, || {
            let (found, _, body) = self.get(path);
            (found == status).then_some(body)
        })
    }

    fn health(&self, status: u16) -> Value {
        serde_json::from_str(&self.wait_for("/healthcheck", status)).expect("JSON")
    }

    /// The samples of /metrics.
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let (status, head, body) = self.get("/metrics");
        assert_eq!(status, 200);
        assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
        samples(&body)
    }

    pub fn end(mut self) -> String {
        self.process.signal(Signal::TERM);
        self.process.wait(DEADLINE).assert_code(0).stderr
    }
}

/// Samples by name and labels. Panics on what Prometheus would not take: a sample outside of its family, a family or a
/// sample that comes twice, a histogram that goes down or does not end with its count.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let (mut samples, mut kinds, mut family) = (BTreeMap::new(), BTreeMap::new(), String::new());
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            family = help.split(' ').next().expect("a name").to_owned();
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("a name and a type");
            assert!(name == family && ["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "twice: {line}");
        } else {
            let (sample, value) = line.rsplit_once(' ').expect("a sample and its value");
            let name = sample.split('{').next().expect("a name");
            let histogram = kinds[&family] == "histogram";
            let ends = if histogram { &["_bucket", "_sum", "_count"][..] } else { &[""] };
            assert!(ends.iter().any(|end| name == format!("{family}{end}")), "{line} under {family}");
            let value = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
            assert!(samples.insert(sample.to_owned(), value).is_none(), "twice: {line}");
        }
    }
    for (sample, count) in samples.iter().filter(|(sample, _)| sample.contains("le=\"+Inf\"")) {
        let all = sample.replacen("_bucket", "_count", 1).replace(",le=\"+Inf\"", "");
        assert_eq!(samples.get(&all), Some(count), "{sample}");
    }
    samples
}

#[test]
fn a_process_of_all_stops_tells_its_numbers() {
    let fleet = fleet();
    push(&fleet, "{\"account_number\":1}\n{\"account_number\":2}\n{\"account_number\":3}\n{\"account_number\":true}\n");
    let watched = Watched::start(&fleet, &["run"]);
    assert_eq!(watched.wait_for("/readyz", 200), "ok\n");
    assert_eq!(watched.wait_for("/livez", 200), "ok\n");
    let expected = [
        ("metrobus_consumed_messages_total{stop=\"busdriver\",topic=\"Source\"}", 4.0),
        ("metrobus_consumed_messages_total{stop=\"whitelist\",topic=\"WhiteList\"}", 2.0),
        ("metrobus_messages_total{stop=\"busdriver\",verdict=\"forwarded\"}", 4.0),
        ("metrobus_messages_total{stop=\"logstop\",verdict=\"finished\"}", 1.0),
        ("metrobus_messages_total{stop=\"contactpoint\",verdict=\"forwarded\"}", 2.0),
        ("metrobus_messages_total{stop=\"contactpoint\",verdict=\"dropped\",reason=\"unknown account\"}", 1.0),
        (
            "metrobus_messages_total{stop=\"whitelist\",verdict=\"dropped\",reason=\"email is not on the whitelist\"}",
            1.0,
        ),
        ("metrobus_batch_messages_sum{stop=\"busdriver\"}", 4.0),
        ("metrobus_journey_duration_seconds_count{stop=\"logstop\"}", 1.0),
        ("metrobus_cache_lookups_total{stop=\"contactpoint\",result=\"hit\"}", 2.0),
        ("metrobus_cache_lookups_total{stop=\"contactpoint\",result=\"miss\"}", 1.0),
        ("metrobus_cache_lookups_total{stop=\"whitelist\",result=\"hit\"}", 1.0),
        ("metrobus_errors_total{stop=\"logstop\",part=\"sink\"}", 0.0),
        ("metrobus_stop_ready{stop=\"busdriver\"}", 1.0),
    ];
    // A stop counts what it has settled; by then the next one may have settled and counted it too
    let mut metrics = watched.metrics();
    try_until(SOON, || {
        metrics = watched.metrics();
        expected.iter().all(|(sample, value)| metrics.get(*sample) == Some(value)).then_some(())
    });
    for (sample, value) in expected {
        assert_eq!(metrics.get(sample), Some(&value), "{sample} in {metrics:#?}");
    }
    let age = metrics["metrobus_cache_age_seconds{stop=\"whitelist\"}"];
    assert!((0.0..120.0).contains(&age), "{age}");
    assert!(!metrics.keys().any(|sample| sample.contains("metrobus_counter_errors")), "there are no counters here");
    wait_until("all is read, and that is seen", SOON, || {
        let lag = "metrobus_consumer_lag_messages{stop=\"busdriver\",topic=\"Source\"}";
        (watched.metrics().get(lag) == Some(&0.0)).then_some(())
    });
    // Each stop that a message calls at counts it: 4 at the busdriver and the contactpoint, 2, and 1
    let body = r#"{"status":"ok","message":"Success rate: 1.0 (expected: 0.95)","success":11,"fail":0,"bus":"ok","handler":"ok","cache":"ok","sink":"ok"}"#;
    let mut health = watched.get("/healthcheck");
    try_until(SOON, || {
        health = watched.get("/healthcheck");
        (health.2 == body).then_some(())
    });
    let (status, head, found) = health;
    assert_eq!((status, found.as_str()), (200, body));
    assert!(head.contains("content-type: application/json"), "{head}");
    assert_eq!(watched.get("/").0, 404);
    watched.end();
}

#[test]
fn a_process_that_rejects_too_much_is_ill() {
    let fleet = fleet();
    push(&fleet, &("{}\n".repeat(18) + &"{\"header\":{},\"payload\":\"text\"}\n".repeat(2)));
    let watched = Watched::start(&fleet, &["busdriver"]);
    let expected = r#"{"status":"fail","message":"Success rate: 0.9 (expected: 0.95)","success":18,"fail":2,"bus":"ok","handler":"ok"}"#;
    assert_eq!(watched.wait_for("/healthcheck", 500), expected);
    // It lives, and has all that it needs
    assert_eq!((watched.get("/livez").0, watched.get("/readyz").0), (200, 200));
    watched.end();
}

#[test]
fn a_process_whose_redis_goes_is_ill_until_it_is_back() {
    let Some(mut redis) = Redis::start() else { return };
    let mut fleet = fleet();
    fleet.set("REDIS__URL", redis.url());
    fleet.set("REDIS__TIMEOUT", "500ms");
    fleet.set("REDIS__COUNTERS", "on");
    fleet.set("CONTACTPOINT__CACHE", "redis");
    fleet.metrobus(&["cache", "load"]).run().assert_code(0);
    redis.stop();
    let address = format!("127.0.0.1:{}", redis.port());

    // Not there yet
    let watched = Watched::start(&fleet, &["run", "contactpoint"]);
    let health = watched.health(500);
    let message = health["message"].as_str().expect("a message");
    assert!(message.starts_with("Reached max connection fails (3): contactpoint: cache: "), "{health}");
    assert!(message.contains(&address) && health["cache"] == "fail" && health["bus"] == "ok", "{health}");
    let why = watched.wait_for("/readyz", 503);
    assert!(why.starts_with("contactpoint: waits for cache: ") && why.contains(&address), "{why}");
    assert_eq!(watched.wait_for("/livez", 200), "ok\n", "who waits lives");
    redis.restart();
    fleet.metrobus(&["cache", "load"]).run().assert_code(0);
    watched.wait_for("/readyz", 200);
    assert_eq!(watched.health(200)["cache"], "ok");

    // Gone, and no message comes that would show it
    redis.kill();
    let health = watched.health(500);
    assert!(health["status"] == "fail" && health["cache"] == "fail", "{health}");
    watched.wait_for("/readyz", 503);
    assert_eq!(watched.get("/livez").0, 200);
    let errors = watched.metrics()["metrobus_errors_total{stop=\"contactpoint\",part=\"cache\"}"];
    assert!(errors >= 4.0, "{errors}");
    assert_eq!(watched.metrics()["metrobus_stop_ready{stop=\"contactpoint\"}"], 0.0);
    redis.restart();
    fleet.metrobus(&["cache", "load"]).run().assert_code(0);
    watched.wait_for("/readyz", 200);
    assert_eq!(watched.health(200)["message"], "No messages in last 60.0s");
    let said = watched.end();
    assert!(said.contains("what stop contactpoint needs is back after"), "{said}");
}

#[test]
fn a_process_whose_broker_goes_is_ill_until_it_is_back() {
    let Some(mut fleet) = Fleet::new(Engine::AtLeastOnce) else { return };
    let mut kafka = fleet.kafka.take().expect("on Kafka");
    fleet.set("HTTP__LISTEN", "0");
    let watched = Watched::start(&fleet, &["busdriver"]);
    watched.wait_for("/readyz", 200);
    assert_eq!(watched.health(200)["bus"], "ok");
    kafka.kill();
    assert_eq!(watched.health(500)["bus"], "fail");
    assert!(watched.wait_for("/readyz", 503).starts_with("busdriver: waits for bus: "));
    assert_eq!(watched.get("/livez").0, 200);
    kafka.restart();
    watched.wait_for("/readyz", 200);
    assert_eq!(watched.health(200)["bus"], "ok");
    watched.end();
}

#[test]
fn a_process_that_cannot_write_is_ill() {
    let mut fleet = fleet();
    fleet.set("LOGSTOP__OUTPUT", "/dev/full");
    let call = fleet.metrobus(&["pusher", "--from", "-", "--rate", "0"]).env("METROBUS__PUSHER__TOPIC", "Log");
    call.stdin(r#"{"header":{"route":[]},"payload":{}}"#).run().assert_code(0);
    let watched = Watched::start(&fleet, &["logstop"]);
    let health = watched.health(500);
    let message = health["message"].as_str().expect("a message");
    assert!(message.contains("logstop: sink: write to the output file: "), "{health}");
    assert!(health["sink"] == "fail" && health["bus"] == "ok", "{health}");
    watched.end();
}

#[test]
fn an_address_that_is_taken_is_69_and_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let mut fleet = fleet();
    fleet.set("HTTP__LISTEN", port.to_string());
    let output = fleet.metrobus(&["busdriver", "--quiet"]).run().assert_code(69);
    let expected =
        format!("metrobus: http.listen: 127.0.0.1:{port} is in use; end what listens there, or set another port\n");
    assert_eq!(output.stderr, expected);
    fleet.set("HTTP__LISTEN", "192.0.2.1:9464");
    let output = fleet.metrobus(&["busdriver", "--quiet"]).run().assert_code(78);
    assert!(output.stderr.starts_with("metrobus: METROBUS__HTTP__LISTEN: "), "{}", output.stderr);
    assert!(output.stderr.contains("cannot listen on 192.0.2.1:9464: "), "{}", output.stderr);
}

#[test]
fn nothing_listens_where_it_is_off() {
    let mut fleet = fleet();
    fleet.set("HTTP__LISTEN", "");
    let mut process = fleet.metrobus(&["busdriver"]).spawn();
    process.wait_for_stderr("ready", DEADLINE);
    let threads = std::fs::read_dir(format!("/proc/{}/task", process.pid())).ok();
    let names = threads.into_iter().flatten().filter_map(Result::ok);
    let names: Vec<_> = names.filter_map(|thread| std::fs::read_to_string(thread.path().join("comm")).ok()).collect();
    assert!(!names.iter().any(|name| name.trim() == "http"), "{names:?}");
    assert!(!process.stderr_text().contains("listens on"));
    process.signal(Signal::TERM);
    process.wait(DEADLINE).assert_code(0);
}
