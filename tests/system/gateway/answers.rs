//! What is answered, on both buses, and as the description has it.

use std::{io::Write, time::Duration};

use serde_json::{Value, json};

use super::{Served, fleet, id, ids, post};
use crate::{
    fleet::{DEADLINE, Engine},
    support::wait_until,
    web::client::{Answer, Ask, read},
};

const OPENAPI: &str = include_str!("../../../docs/gateway.openapi.json");

/// Panics where `instance` is not as the schema of this name says.
#[track_caller]
fn assert_is(name: &str, instance: &Value) {
    let mut schema: Value = serde_json::from_str(OPENAPI).expect("JSON");
    schema["$ref"] = json!(format!("#/components/schemas/{name}"));
    let validator = jsonschema::draft202012::new(&schema).expect("a schema");
    let wrong: Vec<_> =
        validator.iter_errors(instance).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(wrong.is_empty(), "no {name}: {wrong:#?}\n{instance}");
}

/// The sentence of a problem that is as described.
#[track_caller]
fn problem(answer: &Answer, status: u16) -> String {
    assert_is("Problem", &answer.json());
    assert_eq!((answer.header("x-content-type-options"), answer.header("cache-control")), ("nosniff", "no-store"));
    answer.problem(status)
}

/// Posted, it is on the bus as it was sent, under its key and with the id that was answered.
fn what_is_accepted_is_on_the_bus_on(engine: Engine) {
    let Some(fleet) = fleet(engine) else { return };
    let source = fleet.topic("Source");
    let served = Served::start(&fleet);
    let path = format!("/topics/{source}");
    let body = r#"{"header":{"route":["Log"]},"payload":{"n":2.50}}"#;
    let first = served.post(&format!("{path}?key=a%20b%2Bc"), body, &[]);
    assert_is("Accepted", &first.json());
    let first = id(&first);
    let many = served.post(&path, "{\"n\":1}\n\n \r\n{\"n\": 2}\r\n", &[("Content-Type", "application/x-ndjson")]);
    assert_is("AllAccepted", &many.json());
    let many = ids(&many);
    let bare = id(&served.client.ask(post(&path, "{\"n\":3}", &[]).without("Content-Type")));
    let event = served.post(
        &path,
        r#"{"n":4}"#,
        &[("ce-specversion", "1.0"), ("ce-id", "7"), ("ce-source", "/shop"), ("ce-type", "sold")],
    );
    let event = id(&event);
    served.end();

    let records = fleet.tail(&source);
    let record = |id: &str| {
        let has = |record: &&Value| record["headers"]["metrobus-id"] == id || record.to_string().contains(id);
        records.iter().find(has).unwrap_or_else(|| panic!("{id} is not on the bus: {records:?}"))
    };
    assert_eq!(records.len(), 5);
    assert_eq!(record(&first)["key"], "a b+c");
    let value = record(&first)["value"].as_str().expect("a value").to_owned();
    // What looks like a message with a slip is payload, behind a slip that leads nowhere
    assert!(
        value.starts_with(r#"{"header":{"route":[],"#) && value.ends_with(&format!("\"payload\":{body}}}")),
        "{value}"
    );
    assert_eq!(many.iter().map(|id| &record(id)["value"]).collect::<Vec<_>>(), ["{\"n\":1}", "{\"n\": 2}"]);
    assert_eq!((&record(&bare)["value"], &record(&bare)["key"]), (&json!("{\"n\":3}"), &Value::Null));
    assert_eq!(record(&event)["value"], "{\"n\":4}");
    assert!(record(&event).to_string().contains("ce_type"), "{}", record(&event));
}

#[test]
fn what_is_accepted_is_on_the_bus_on_sqlite() {
    what_is_accepted_is_on_the_bus_on(Engine::Sqlite);
}

#[test]
fn what_is_accepted_is_on_the_bus_on_kafka() {
    what_is_accepted_is_on_the_bus_on(Engine::AtLeastOnce);
}

#[test]
fn what_is_wrong_is_refused_and_nothing_of_it_is_published() {
    let mut fleet = fleet(Engine::Sqlite).expect("SQLite is always there");
    fleet.set("GATEWAY__BODY_BYTES", "1000");
    fleet.set("GATEWAY__BODY_TIMEOUT", "300ms");
    fleet.set("LIMITS__DEPTH", "5");
    let served = Served::start(&fleet);
    let source = "/topics/Source";
    for (status, path, body, headers, says) in [
        (400, source, "[1]", &[][..], "the body is not a JSON object"),
        (400, source, "7", &[], "the body is not a JSON object"),
        (400, source, "", &[], "the body is empty value"),
        (400, source, "{\"a\":}", &[], "the body is not JSON"),
        (400, source, "{\"a\":[[[[[1]]]]]}", &[], "nested deeper"),
        (400, source, "{\"a\":1}\n{\"a\":1}", &[], "the body is not JSON"),
        (400, "/topics/Source?keys=1", "{}", &[], "\"keys\" is nothing that is known here"),
        (400, "/topics/Source?key=1&key=2", "{}", &[], "key is there twice"),
        (400, source, "{\"a\":1}\n\n{\"a\":2", &[("Content-Type", "application/x-ndjson")], "line 3 is not JSON"),
        (400, source, "\n\n", &[("Content-Type", "application/x-ndjson")], "no event"),
        (400, source, "{}", &[("Idempotency-Key", "")], "Idempotency-Key must be there once"),
        (400, source, "{}", &[("ce-id", "1")], "specversion"),
        (415, source, "{}", &[("Content-Type", "text/plain")], "Content-Type must be application/json"),
        (415, source, "a=1", &[("Content-Type", "text/csv")], "Content-Type must be"),
        (400, source, "a=1", &[("Content-Type", "application/x-www-form-urlencoded")], "the body is not JSON"),
        (415, source, "{}", &[("Content-Type", "application/json; charset=utf-16")], "names another charset"),
        (415, source, "{}", &[("Content-Encoding", "gzip")], "the body is compressed"),
        (404, "/topics/%4Aournal", "{}", &[], "there is no such topic here"),
        (404, "/topics/Source%2F", "{}", &[], "there is no such topic here"),
        (404, "/topics/Journal", "{}", &[], "there is no such topic here"),
        (404, "/topics/", "{}", &[], "there is no such topic here"),
        (404, "/topics/Source/more", "{}", &[], "there is nothing at"),
        (404, "/nothing", "{}", &[], "there is nothing at /nothing"),
        (405, "/journeys/x", "{}", &[], "does not take POST"),
        (403, source, "{}", &[("Origin", "https://elsewhere.example")], "gateway.cors_origins"),
    ] {
        let answer = served.post(path, body, headers);
        let said = problem(&answer, status);
        assert!(said.contains(says), "{path} {body}: {said}");
    }
    let by_curl = served.post(source, "{}", &[("Content-Type", "application/x-www-form-urlencoded")]);
    assert_eq!(by_curl.status, 202, "what `curl -d` sends");
    let mut twice = post(source, "{\"a\":1}", &[]);
    twice.headers.push(("Content-Type", "application/x-ndjson".to_owned()));
    assert!(problem(&served.client.ask(twice), 415).contains("must be there once"));
    let wrong = served.post(source, "{\"a\":1}\n\n{\"a\":2", &[("Content-Type", "application/x-ndjson")]);
    assert_eq!(wrong.json()["line"], 3);
    let get = served.client.get(source);
    problem(&get, 405);
    assert_eq!(get.header("allow"), "POST");

    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(1000));
    assert!(problem(&served.post(source, &long, &[]), 413).contains("longer than 1000 bytes"));
    // Without saying before how long it is
    let mut stream = served.client.connect();
    let head = "POST /topics/Source HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
    write!(stream, "{head}{:x}\r\n{long}\r\n0\r\n\r\n", long.len()).expect("send");
    assert!(problem(&read(stream), 413).contains("longer than 1000 bytes"));
    // A body that does not come
    let mut stream = served.client.connect();
    write!(stream, "POST /topics/Source HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{{\"a\"").expect("send");
    assert!(problem(&read(stream), 408).contains("did not arrive within 300ms"));
    served.end();
    assert_eq!(fleet.values("Source"), ["{}"], "what curl sent, and nothing else");
}

/// As most clients do: a connection that breaks while they write would not tell them why.
#[test]
fn who_sends_all_before_reading_is_told_what_is_wrong() {
    let mut fleet = fleet(Engine::Sqlite).expect("SQLite is always there");
    fleet.set("GATEWAY__BODY_BYTES", "1000");
    let served = Served::start(&fleet);
    // More than what lies between the two, whatever the system keeps there
    let (block, blocks) = (vec![b'x'; 1 << 20], 32);
    for (path, length, status) in [
        ("/topics/Source", format!("Content-Length: {}", blocks << 20), 413),
        ("/topics/Source", "Transfer-Encoding: chunked".to_owned(), 413),
        ("/topics/Nowhere", format!("Content-Length: {}", blocks << 20), 404),
        ("/nothing", format!("Content-Length: {}", blocks << 20), 404),
    ] {
        let mut stream = served.client.connect();
        write!(stream, "POST {path} HTTP/1.1\r\nHost: x\r\n{length}\r\nConnection: close\r\n\r\n").expect("send");
        let chunked = length.starts_with("Transfer");
        for _ in 0..blocks {
            if chunked {
                write!(stream, "{:x}\r\n", block.len()).expect("send");
            }
            stream.write_all(&block).unwrap_or_else(|error| panic!("{path}, {length}: {error}"));
            if chunked {
                write!(stream, "\r\n").expect("send");
            }
        }
        if chunked {
            write!(stream, "0\r\n\r\n").expect("send");
        }
        problem(&read(stream), status);
    }
    // Who asks before it sends is told at once, and has nothing thrown away
    let mut stream = served.client.connect();
    write!(stream, "POST /topics/Nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n")
        .expect("send");
    problem(&read(stream), 404);
    served.end();
}

#[test]
fn a_name_in_a_path_may_be_percent_encoded() {
    let fleet = fleet(Engine::Sqlite).expect("SQLite is always there");
    let served = Served::start(&fleet);
    let sent = id(&served.post("/topics/%53our%63e", "{\"n\":1}", &[]));
    let journey = served.client.get(&format!("/journeys/{}", sent.replace('-', "%2D")));
    assert!(problem(&journey, 404).contains("the journal has nothing of a message"));
    served.end();
    assert_eq!(fleet.values("Source"), ["{\"n\":1}"]);
}

#[test]
fn a_repeat_with_a_key_gets_the_first_answer_and_publishes_nothing() {
    let fleet = fleet(Engine::Sqlite).expect("SQLite is always there");
    let served = Served::start(&fleet);
    let key = [("Idempotency-Key", "order-7")];
    let first = id(&served.post("/topics/Source", "{\"n\":1}", &key));
    assert_eq!(id(&served.post("/topics/Source", "{\"n\":1}", &key)), first);
    problem(&served.post("/topics/Source", "{\"n\":2}", &key), 422);
    problem(&served.post("/topics/Source?key=1", "{\"n\":1}", &key), 422);
    let lines = [("Idempotency-Key", "order-8"), ("Content-Type", "application/x-ndjson")];
    let many = ids(&served.post("/topics/Source", "{\"n\":3}\n{\"n\":4}", &lines));
    assert_eq!(ids(&served.post("/topics/Source", "{\"n\":3}\n{\"n\":4}", &lines)), many);
    // CloudEvents have their own: of a batch, what came before is not published again
    let event = |id: u8, n: u8| json!({"specversion": "1.0", "id": id.to_string(), "source": "/s", "type": "t", "data": {"n": n}});
    let one = event(5, 5).to_string();
    let structured = [("Content-Type", "application/cloudevents+json")];
    let known = id(&served.post("/topics/Source", &one, &structured));
    let batch = json!([event(5, 5), event(6, 6)]).to_string();
    let both = ids(&served.post("/topics/Source", &batch, &[("Content-Type", "application/cloudevents-batch+json")]));
    assert_eq!(both[0], known);
    problem(&served.post("/topics/Source", &event(5, 9).to_string(), &structured), 422);
    served.end();

    // It is known after a restart, too
    let served = Served::start(&fleet);
    assert_eq!(id(&served.post("/topics/Source", "{\"n\":1}", &key)), first);
    served.end();
    let values: Vec<_> = (1..=6).filter(|n| *n != 2).map(|n| format!("{{\"n\":{n}}}")).collect();
    assert_eq!(fleet.values("Source"), values);
}

#[test]
fn a_journey_is_told_to_whoever_sent_the_message_and_nothing_of_what_is_in_it() {
    let mut fleet = fleet(Engine::Sqlite).expect("SQLite is always there");
    fleet.set("JOURNAL__FIELDS", "account_number");
    fleet.scratch.write("data/emails.dat", "1,user1@example.com\n");
    fleet.scratch.write("data/whitelist.dat", "user1@example.com\n");
    let served = Served::start(&fleet);
    let sent = id(&served.post("/topics/Source?key=secret-key", "{\"account_number\":1}", &[]));
    let path = format!("/journeys/{sent}");
    assert!(problem(&served.client.get(&path), 404).contains("the journal has nothing of a message"));
    assert!(problem(&served.client.get("/journeys/7"), 400).contains("a UUID"));
    fleet.drain("a");
    let journey = wait_until("the journey to end", DEADLINE, || {
        let answer = served.client.get(&path);
        (answer.status == 200 && answer.json()["ended"] == true).then(|| answer.json())
    });
    assert_is("Journey", &journey);
    assert_eq!((&journey["id"], &journey["verdict"]), (&json!(sent), &json!("finished")));
    let stops: Vec<_> = journey["hops"].as_array().expect("hops").iter().map(|hop| hop["stop"].clone()).collect();
    assert_eq!(json!(stops), json!(["busdriver", "contactpoint", "whitelist", "logstop"]));
    assert!(
        !journey.to_string().contains("secret-key") && !journey.to_string().contains("account_number"),
        "{journey}"
    );
    served.end();
    assert!(fleet.scratch.read("log.ndjson").contains(&sent), "the id is that of the message to its end");
}

#[test]
fn pages_may_call_where_they_are_named_and_no_others() {
    let mut fleet = fleet(Engine::Sqlite).expect("SQLite is always there");
    fleet.set("GATEWAY__CORS_ORIGINS", "https://shop.example");
    let served = Served::start(&fleet);
    let mut asks = Ask::get("/topics/Source");
    asks.method = "OPTIONS";
    let asks = asks.with("Origin", "https://shop.example").with("Access-Control-Request-Method", "POST");
    let may = served.client.ask(asks.with("Access-Control-Request-Headers", "content-type,idempotency-key"));
    assert_eq!(may.header("access-control-allow-origin"), "https://shop.example");
    assert_eq!(may.header("access-control-allow-headers"), "content-type,idempotency-key");
    assert_eq!(may.header("access-control-allow-credentials"), "");
    let posted = served.post("/topics/Source", "{}", &[("Origin", "https://shop.example")]);
    id(&posted);
    assert_eq!(posted.header("access-control-allow-origin"), "https://shop.example");
    let other = served.post("/topics/Source", "{}", &[("Origin", "https://other.example")]);
    problem(&other, 403);
    assert_eq!(other.header("access-control-allow-origin"), "");
    served.end();
}

#[test]
fn connections_are_kept_and_one_request_after_the_other_is_answered() {
    let fleet = fleet(Engine::Sqlite).expect("SQLite is always there");
    let served = Served::start(&fleet);
    let mut stream = served.client.connect();
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    for n in 0..100 {
        let body = format!("{{\"n\":{n}}}");
        let last = if n == 99 { "Connection: close\r\n" } else { "" };
        write!(stream, "POST /topics/Source HTTP/1.1\r\nHost: x\r\n{last}Content-Length: {}\r\n\r\n{body}", body.len())
            .expect("send");
    }
    let mut text = String::new();
    std::io::Read::read_to_string(&mut stream, &mut text).expect("answers");
    assert_eq!(text.matches("HTTP/1.1 202 Accepted\r\n").count(), 100);
    served.end();
    assert_eq!(fleet.values("Source"), (0..100).map(|n| format!("{{\"n\":{n}}}")).collect::<Vec<_>>());
}
