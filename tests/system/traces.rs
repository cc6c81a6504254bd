//! Traces: each hop of a journey is a span in one trace, told to a collector; without one, nothing is touched.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use metrobus::{
    bus::{self, Headers, Outbox, Topic},
    config::Config,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::any_value::Value as Any,
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use prost::Message;
use serde_json::Value;

use crate::{
    fleet::{DEADLINE, Engine, Fleet, STOPS},
    http::Watched,
    support::wait_until,
};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A collector: takes traces by OTLP over HTTP, as `http-proto` sends them, and keeps their spans.
struct Collector {
    address: SocketAddr,
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Collector {
    fn start() -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let (address, spans) = (listener.local_addr().expect("an address"), Arc::default());
        let kept = Arc::clone(&spans);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let kept = Arc::clone(&kept);
                thread::spawn(move || while take(&stream, &kept).is_some() {});
            }
        });
        Collector { address, spans }
    }

    fn spans(&self) -> Vec<Span> {
        self.spans.lock().expect("no panic").clone()
    }

    /// Makes the processes of a fleet tell it.
    fn watch(&self, fleet: &mut Fleet) {
        fleet.set("TRACES__ENDPOINT", format!("http://{}", self.address));
    }
}

/// Takes one request of a connection; `None` at its end.
fn take(mut stream: &TcpStream, kept: &Mutex<Vec<Span>>) -> Option<()> {
    let (mut reader, mut length, mut first) = (BufReader::new(stream), 0, String::new());
    reader.read_line(&mut first).ok().filter(|read| *read > 0)?;
    assert_eq!(first, "POST /v1/traces HTTP/1.1\r\n");
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        match name.to_lowercase().as_str() {
            "content-length" => length = value.parse().expect("a length"),
            "content-type" => assert_eq!(value, "application/x-protobuf"),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let request = ExportTraceServiceRequest::decode(&body[..]).expect("a request of OTLP");
    for of_resource in request.resource_spans {
        let service = of_resource.resource.as_ref().expect("a resource").attributes.iter();
        assert!(service.clone().any(|it| it.key == "service.name"), "{of_resource:?}");
        let spans = of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
        kept.lock().expect("no panic").extend(spans);
    }
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n").ok()
}

fn fleet(engine: Engine) -> Option<Fleet> {
    let fleet = Fleet::shared(engine)?;
    fleet.scratch.write("data/emails.dat", "1,a@example.com\n2,b@example.com\n");
    fleet.scratch.write("data/whitelist.dat", "a@example.com\n");
    Some(fleet)
}

/// Publishes records with headers, which the pusher does not.
fn publish(fleet: &Fleet, topic: &str, records: &[(&str, &[(&str, &str)])]) {
    let path = fleet.scratch.path("data/metrobus.db").into_os_string();
    let environment = fleet.environment().iter().map(|(name, value)| (name.into(), value.into()));
    let environment = environment.chain([(std::ffi::OsString::from("METROBUS__SQLITE__PATH"), path)]);
    let config = Config::load(None, environment).expect("a configuration");
    let (bus, topic) = (bus::open(&config).expect("a bus"), Topic::new(&fleet.topic(topic)).expect("a topic"));
    bus.connect().expect("a bus");
    bus.create_topics(std::slice::from_ref(&topic)).expect("a topic");
    let mut outbox = Outbox::default();
    for (value, headers) in records {
        let mut encoded = Vec::new();
        headers.iter().for_each(|(name, value)| Headers::push(&mut encoded, name, Some(value.as_bytes())));
        outbox.publish_with(&topic, 1, Some(b"k"), Headers::from_encoded(&encoded), Some(value.as_bytes()));
    }
    let mut publisher = bus.publisher().expect("a publisher");
    publisher.publish(&outbox).expect("published");
    wait_until("the records are confirmed", DEADLINE, || {
        let confirmed = publisher.flush(Instant::now() + Duration::from_secs(1)).expect("flushed");
        (confirmed == records.len() as u64).then_some(())
    });
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An attribute of a span as text.
fn attribute(span: &Span, name: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key == name)?;
    match found.value.as_ref()?.value.as_ref()? {
        Any::StringValue(text) => Some(text.clone()),
        Any::IntValue(number) => Some(number.to_string()),
        other => panic!("{other:?}"),
    }
}

/// The headers of the only record of a topic.
fn headers(fleet: &Fleet, topic: &str) -> Value {
    let records = fleet.tail(&fleet.topic(topic));
    assert_eq!(records.len(), 1, "{records:?}");
    records[0]["headers"].clone()
}

fn a_journey_over_four_processes_is_one_trace(engine: Engine) {
    let Some(mut fleet) = fleet(engine) else { return };
    let collector = Collector::start();
    collector.watch(&mut fleet);
    let others = [("a", "1"), ("traceparent", PARENT), ("tracestate", "vendor=x"), ("a", "2")];
    publish(&fleet, "Source", &[(r#"{"account_number":1}"#, &others)]);
    for stop in STOPS {
        fleet.metrobus(&[stop, "--drain"]).run().assert_code(0);
    }
    // A process that ends has told all
    let spans = collector.spans();
    assert_eq!(spans.len(), 4, "{spans:#?}");
    let mut parent = "00f067aa0ba902b7".to_owned();
    let mut until = 0;
    for (stop, topic) in STOPS.iter().zip(crate::fleet::TOPICS) {
        let of_stop = |span: &&Span| attribute(span, "metrobus.stop").as_deref() == Some(stop);
        let span = spans.iter().find(of_stop).unwrap_or_else(|| panic!("no span of {stop}: {spans:#?}"));
        assert_eq!(hex(&span.trace_id), "4bf92f3577b34da6a3ce929d0e0e4736", "{stop}");
        assert_eq!(hex(&span.parent_span_id), parent, "{stop}");
        assert_eq!((span.kind(), span.trace_state.as_str()), (SpanKind::Consumer, "vendor=x"));
        assert_eq!(span.name, format!("process {}", fleet.topic(topic)));
        assert_eq!(attribute(span, "messaging.destination.name"), Some(fleet.topic(topic)));
        let kafka = engine != Engine::Sqlite;
        assert_eq!(attribute(span, "messaging.system").as_deref(), Some(if kafka { "kafka" } else { "sqlite" }));
        assert_eq!(attribute(span, "messaging.kafka.offset").is_some(), kafka);
        assert!(attribute(span, "messaging.message.id").is_some_and(|id| id.len() == 36), "{span:?}");
        let verdict = if *stop == "logstop" { "finished" } else { "forwarded" };
        assert_eq!(attribute(span, "metrobus.verdict").as_deref(), Some(verdict));
        let now = (span.start_time_unix_nano, span.end_time_unix_nano);
        assert!(until <= now.0 && now.0 <= now.1, "{stop} began before the one in front of it had ended");
        (parent, until) = (hex(&span.span_id), now.1);
    }
    // What reached Log names the hop that sent it, and all else is as it was
    let whitelist = spans.iter().find(|span| attribute(span, "metrobus.stop").as_deref() == Some("whitelist"));
    let sent_by = hex(&whitelist.expect("a span").span_id);
    let expected = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{sent_by}-01");
    let found = headers(&fleet, "Log");
    assert_eq!(
        (&found["traceparent"], &found["tracestate"], &found["a"]),
        (&expected.into(), &"vendor=x".into(), &"2".into())
    );
}

#[test]
fn a_journey_over_four_processes_is_one_trace_on_sqlite() {
    a_journey_over_four_processes_is_one_trace(Engine::Sqlite);
}

#[test]
fn a_journey_over_four_processes_is_one_trace_on_kafka() {
    a_journey_over_four_processes_is_one_trace(Engine::AtLeastOnce);
}

#[test]
fn traces_begin_at_the_busdriver_and_end_in_a_dead_letter() {
    let mut fleet = fleet(Engine::Sqlite).expect("SQLite is always there");
    let collector = Collector::start();
    collector.watch(&mut fleet);
    let unsampled = PARENT.replace("-01", "-00");
    publish(
        &fleet,
        "Source",
        &[
            (r#"{"account_number":2}"#, &[]),
            (r#"{"account_number":1}"#, &[("traceparent", unsampled.as_str()), ("tracestate", "a=b")]),
            (r#"{"account_number":1}"#, &[("traceparent", "nonsense"), ("tracestate", "a=b")]),
            ("no JSON: secret", &[("traceparent", PARENT)]),
        ],
    );
    fleet.metrobus(&["run", "--drain"]).run().assert_code(0);
    let spans = collector.spans();
    let of = |trace: &str| spans.iter().filter(|span| hex(&span.trace_id) == trace).collect::<Vec<_>>();
    // Busdriver, contactpoint, whitelist, which drops it; all four for the broken one; the busdriver's rejection
    assert_eq!(spans.len(), 3 + 4 + 1, "{spans:#?}");
    let rejected = of("4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(rejected.len(), 1, "what is not sampled has no span");
    let status = rejected[0].status.as_ref().expect("a status");
    assert_eq!(status.code(), StatusCode::Error);
    assert!(!status.message.is_empty() && !format!("{spans:?}").contains("secret"), "{status:?}");
    let letter = &headers(&fleet, "Error")["traceparent"];
    let sent_by = hex(&rejected[0].span_id);
    assert_eq!(*letter, format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{sent_by}-01"));
    let dropped = spans.iter().find(|span| attribute(span, "metrobus.verdict").as_deref() == Some("dropped"));
    let dropped = dropped.expect("a span of the drop");
    assert_eq!(attribute(dropped, "metrobus.reason").as_deref(), Some("email is not on the whitelist"));
    let begun = of(&hex(&dropped.trace_id));
    assert_eq!(begun.len(), 3);
    assert_eq!(begun.iter().filter(|span| span.parent_span_id.is_empty()).count(), 1, "a trace has one beginning");
    let arrived: Vec<_> = fleet.tail("Log").iter().map(|record| record["headers"].clone()).collect();
    assert_eq!(arrived[0], serde_json::json!({"traceparent": unsampled, "tracestate": "a=b"}));
    let parent = arrived[1]["traceparent"].as_str().expect("a parent");
    assert!(parent.len() == 55 && parent.ends_with("-01") && arrived[1].get("tracestate").is_none(), "{parent}");

    fleet.set("TRACES__RATIO", "0");
    publish(&fleet, "Source", &[(r#"{"account_number":2}"#, &[])]);
    fleet.metrobus(&["run", "--drain"]).run().assert_code(0);
    assert_eq!(collector.spans().len(), spans.len(), "a share of 0 begins no trace");
}

#[test]
fn without_a_collector_headers_pass_byte_for_byte() {
    let fleet = fleet(Engine::Sqlite).expect("SQLite is always there");
    for parent in [PARENT, "nonsense"] {
        let before = [("traceparent", parent), ("b", ""), ("tracestate", "x=1")];
        publish(&fleet, "Source", &[(r#"{"account_number":1}"#, &before)]);
    }
    publish(&fleet, "Source", &[(r#"{"account_number":1}"#, &[])]);
    fleet.metrobus(&["run", "--drain"]).run().assert_code(0);
    let arrived: Vec<_> = fleet.tail("Log").iter().map(|record| record["headers"].to_string()).collect();
    let with = |parent: &str| format!(r#"{{"b":"","traceparent":"{parent}","tracestate":"x=1"}}"#);
    assert_eq!(arrived, [with(PARENT), with("nonsense"), "{}".to_owned()]);
}

#[test]
fn a_collector_that_hangs_or_is_away_keeps_no_stop_waiting() {
    const MESSAGES: usize = 40_000;
    let mut fleet = fleet(Engine::Sqlite).expect("SQLite is always there");
    // Takes connections and says nothing, as long as this lives
    let hanging = TcpListener::bind("127.0.0.1:0").expect("a port");
    fleet.set("TRACES__ENDPOINT", format!("http://{}", hanging.local_addr().expect("an address")));
    fleet.set("HTTP__LISTEN", "0");
    let lines = "{\"account_number\":1}\n".repeat(MESSAGES);
    fleet.metrobus(&["pusher", "--from", "-", "--rate", "0"]).stdin(lines).run().assert_code(0);
    let stops = Watched::start(&fleet, &["run"]);
    let metric = |name: &str| stops.metrics().get(name).copied().unwrap_or(0.0);
    wait_until("all journeys are at their ends", DEADLINE, || {
        (metric("metrobus_consumed_messages_total{stop=\"logstop\",topic=\"Log\"}") == MESSAGES as f64).then_some(())
    });
    let dropped = metric("metrobus_spans_total{stop=\"busdriver\",result=\"dropped\"}");
    assert!(dropped > (MESSAGES - 20_000) as f64, "{dropped} spans were dropped");
    let begun = Instant::now();
    stops.end();
    assert!(begun.elapsed() < Duration::from_secs(30), "the end waited for the collector");

    // Nobody there at all
    drop(hanging);
    fleet.metrobus(&["pusher", "--count", "1", "--rate", "0"]).run().assert_code(0);
    let said = fleet.metrobus(&["busdriver", "--drain"]).run().assert_code(0).stderr;
    assert!(said.contains("spans are lost: the collector of traces at http://127.0.0.1:"), "{said}");
}

#[test]
fn what_is_no_address_or_share_is_refused() {
    let fleet = fleet(Engine::Sqlite).expect("SQLite is always there");
    for (name, value, expected) in [
        ("ENDPOINT", "localhost:4318", "traces.endpoint is not http://host:port or https://host:port, without a user"),
        ("ENDPOINT", "http://me:secret@localhost", "traces.endpoint is not http://host:port or"),
        ("RATIO", "1.5", "traces.ratio is 1.5, must be from 0 to 1"),
        ("RATIO", "most", "traces.ratio is \"most\", must be a number"),
    ] {
        let call = fleet.metrobus(&["topics"]).env(format!("METROBUS__TRACES__{name}"), value);
        let said = call.run().assert_code(78).stderr;
        assert!(said.contains(expected) && !said.contains("secret"), "{said}");
    }
}
