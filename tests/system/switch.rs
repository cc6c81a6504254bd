//! What the gateway understands beside plain events, over the wire: switch's publishers, commands, CloudEvents.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use ring::hmac;
use serde_json::{Value, json};

use crate::{
    fleet::{DEADLINE, Engine, Fleet},
    support::{Process, try_until},
};

/// Shorter than any library of today would take it.
const SECRET: &str = "my_little_secret";

/// A gateway, and where it says that it listens.
struct Door {
    process: Process,
    address: SocketAddr,
}

struct Answer {
    status: u16,
    /// In lower case.
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

impl Door {
    /// With switch's paths on, by switch's own names of the environment.
    fn open(fleet: &Fleet) -> Door {
        let gateway = fleet.metrobus(&["gateway"]).env("SWITCH_SERVER_PORT", "0").env("SWITCH_JWT_SECRET", SECRET);
        Door::start(gateway.spawn())
    }

    fn start(mut process: Process) -> Door {
        process.wait_for_stderr("gateway on http://", DEADLINE);
        let said = process.stderr_text();
        let rest = said.split_once("gateway on http://").expect("an address").1;
        let address = rest.split_whitespace().next().and_then(|address| address.parse().ok());
        Door { process, address: address.unwrap_or_else(|| panic!("no address: {said}")) }
    }

    /// Sends these headers and no others but for Host and Content-Length.
    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
        let mut stream = TcpStream::connect(self.address).expect("connect");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        stream.write_all(&[request.as_bytes(), body].concat()).expect("ask");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        Answer { status, head: head.to_lowercase(), body: body.to_owned() }
    }

    /// As switch's SDKs do: the token behind `bearer`, and no Content-Type.
    fn publish(&self, body: &str) -> Answer {
        let token = token(SECRET, &json!({ "Author": "shop", "iat": now() }));
        self.ask("POST", "/publish", &[("Authorization", &format!("bearer {token}"))], body.as_bytes())
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_secs()
}

/// A token, HS256.
fn token(secret: &str, claims: &Value) -> String {
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let head = encode(br#"{"alg":"HS256","typ":"JWT"}"#);
    let signed = format!("{head}.{}", encode(claims.to_string().as_bytes()));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    format!("{signed}.{}", encode(hmac::sign(&key, signed.as_bytes()).as_ref()))
}

fn sqlite() -> Fleet {
    Fleet::new(Engine::Sqlite).expect("SQLite is always there")
}

const PAYLOAD: &str = r#"{"body":{"price":2.50},"headers":{"x-a":1},"query_params":{"page":2},"path_params":{"id":7},"http_method":"put"}"#;

fn message(topic: &str, payload: &str) -> String {
    json!({ "Payload": BASE64_STANDARD.encode(payload), "Topic": topic }).to_string()
}

#[test]
fn what_a_client_of_switch_sends_is_on_the_bus_when_it_has_its_answer() {
    let fleet = sqlite();
    let door = Door::open(&fleet);
    let lower = token(SECRET, &json!({ "author": "shop" }));
    let expiring = token(SECRET, &json!({ "author": "some_service", "exp": now() + 300 }));
    let nobody = token(SECRET, &json!({}));
    let encoded = BASE64_STANDARD.encode(PAYLOAD);
    let bodies = [
        message("Source", PAYLOAD),
        format!(r#"{{"topic":"Source","payload":"{encoded}"}}"#),
        format!(r#"{{"TOPIC":"Source","pAYLOAD":"{}","more":1}}"#, encoded.trim_end_matches('=')),
        format!(r#"{{"Topic":"Source","Payload":"{}"}}"#, BASE64_URL_SAFE_NO_PAD.encode(PAYLOAD)),
    ];
    let authorizations = [
        format!("bearer {lower}"),
        format!("Bearer {expiring}"),
        format!("BEARER {nobody}"),
        format!("bearer {lower}"),
    ];
    for (body, authorization) in bodies.iter().zip(&authorizations) {
        let answer = door.ask("POST", "/publish", &[("authorization", authorization)], body.as_bytes());
        assert_eq!((answer.status, answer.body.as_str()), (200, ""), "{body}");
    }
    assert_eq!(door.publish(&bodies[0]).status, 200, "as the SDK for Node.js does");
    let text = [("Authorization", authorizations[0].as_str()), ("Content-Type", "text/plain")];
    assert_eq!(door.ask("POST", "/publish", &text, bodies[0].as_bytes()).status, 200);
    let records = fleet.tail("Source");
    assert_eq!(records.len(), 6);
    for record in &records {
        assert_eq!((&record["value"], &record["headers"]["metrobus-shape"]), (&json!(PAYLOAD), &json!("switch")));
    }
    let ids: std::collections::HashSet<_> =
        records.iter().map(|record| record["headers"]["metrobus-id"].as_str().expect("an id").to_owned()).collect();
    assert_eq!(ids.len(), 6, "each is a message of its own");
    let answer = door.ask("GET", "/refresh", &[("Authorization", &authorizations[0])], b"");
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
}

#[test]
fn what_switch_could_not_use_is_refused() {
    let fleet = sqlite();
    let door = Door::open(&fleet);
    let good = message("Source", PAYLOAD);
    let of = |secret: &str, claims: Value| format!("bearer {}", token(secret, &claims));
    let right = of(SECRET, json!({ "Author": "shop" }));
    for (authorization, what) in [
        (None, "nobody"),
        (Some(token(SECRET, &json!({}))), "no scheme"),
        (Some("bearer ".to_owned()), "no token"),
        (Some("bearer a.b.c".to_owned()), "no token at all"),
        (Some(of("another", json!({ "Author": "shop" }))), "another secret"),
        (Some(of("", json!({ "Author": "shop" }))), "no secret"),
        (Some(of(SECRET, json!({ "Author": "shop", "exp": now() - 300 }))), "expired"),
        (Some(of(SECRET, json!({ "Author": "shop", "nbf": now() + 300 }))), "early"),
        (Some(format!("Basic {}", BASE64_STANDARD.encode("a:b"))), "another scheme"),
    ] {
        let headers: Vec<_> = authorization.iter().map(|value| ("Authorization", value.as_str())).collect();
        for (method, path, body) in [("POST", "/publish", good.as_str()), ("GET", "/refresh", "")] {
            let answer = door.ask(method, path, &headers, body.as_bytes());
            assert_eq!(answer.status, 401, "{what} at {path}: {}", answer.body);
            assert!(answer.head.contains("\r\nwww-authenticate: bearer"), "{}", answer.head);
        }
    }
    for (body, what) in [
        (String::new(), "nothing"),
        (good.replace('}', ""), "no end"),
        ("[]".to_owned(), "no object"),
        (good.replace("Topic", "Topics"), "no topic"),
        (good.replace("Payload", "Load"), "no payload"),
        (message("", PAYLOAD), "an empty topic"),
        (message("no topic", PAYLOAD), "no name of a topic"),
        (message("Log", PAYLOAD), "a topic that is not on the list"),
        (r#"{"topic":"Source","payload":"***"}"#.to_owned(), "no base64"),
        (r#"{"topic":"Source","payload":{"body":1}}"#.to_owned(), "no text"),
        (message("Source", "{"), "no JSON below"),
        (message("Source", "[1]"), "no object below"),
    ] {
        let answer = door.publish(&body);
        assert_eq!(answer.status, 400, "{what}: {}", answer.body);
        assert!(answer.json()["detail"].is_string(), "{what}: {}", answer.body);
    }
    for (method, path, allow) in [("GET", "/publish", "post"), ("POST", "/refresh", "get")] {
        let answer = door.ask(method, path, &[("Authorization", &right)], b"");
        assert_eq!(answer.status, 405);
        assert!(answer.head.contains(&format!("\r\nallow: {allow}")), "{}", answer.head);
    }
    assert_eq!(door.publish(&good).status, 200, "and it still stands");
    assert_eq!(fleet.values("Source"), [PAYLOAD]);
    let said = door.process.stderr_text();
    assert!(!said.contains(SECRET) && !said.contains("price"), "{said}");
}

#[test]
fn a_token_of_switch_opens_its_paths_alone_and_without_a_secret_they_are_not_there() {
    let mut fleet = sqlite();
    let hash = format!("sha256:{}", "0".repeat(64));
    fleet
        .scratch
        .write("callers.toml", format!("[[gateway.caller]]\nname = \"a\"\nkey_hashes = [\"{hash}\"]\nquota = 1\n"));
    let gateway = fleet.metrobus(&["gateway", "--config", "callers.toml"]);
    let door = Door::start(gateway.env("SWITCH_SERVER_PORT", "0").env("SWITCH_JWT_SECRET", SECRET).spawn());
    let author = format!("bearer {}", token(SECRET, &json!({ "Author": "a" })));
    for _ in 0..3 {
        // It is not the quota of the caller by that name
        let answer = door.ask("POST", "/publish", &[("Authorization", &author)], message("Source", "{}").as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    let right = format!("bearer {}", token(SECRET, &json!({ "Author": "a", "sub": "a", "exp": now() + 300 })));
    assert_eq!(door.ask("POST", "/topics/Source", &[("Authorization", &right)], b"{}").status, 401);
    drop(door);
    fleet.set("GATEWAY__LISTEN", "0");
    fleet.set("GATEWAY__STORE", "data/other.db");
    let door = Door::start(fleet.metrobus(&["gateway"]).spawn());
    assert_eq!(door.publish(&message("Source", "{}")).status, 404);
    assert_eq!(door.ask("GET", "/refresh", &[("Authorization", &right)], b"").status, 404);
}

#[test]
fn where_the_bus_is_away_a_publisher_is_told_so() {
    let Some(mut fleet) = Fleet::new(Engine::AtLeastOnce) else { return };
    fleet.set("GATEWAY__TIMEOUT", "2s");
    let door = Door::open(&fleet);
    let body = message("Source", PAYLOAD);
    assert_eq!(door.publish(&body).status, 200);
    fleet.kafka.as_mut().expect("a broker").stop();
    let answer = door.publish(&body);
    assert_eq!(answer.status, 503, "{}", answer.body);
    assert!(answer.head.contains("\r\nretry-after: "), "{}", answer.head);
    fleet.kafka.as_mut().expect("a broker").restart();
    let back = try_until(DEADLINE, || (door.publish(&body).status == 200).then_some(()));
    assert!(back.is_some(), "{}", door.process.stderr_text());
}

const COMMANDS: &str = r#"
[[gateway.command]]
name = "book.finished"
method = "PUT"
path = "/books/{id}/finished"
schema = "book.json"
topic = "Source"
[[gateway.command]]
name = "book.sought"
method = "GET"
path = "/books/{id}"
schema = { type = "object" }
topic = "Source"
"#;

const SCHEMA: &str = r#"{
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {"id": {"type": "integer"}, "notes": {"type": "array", "items": {"type": "string"}}, "rating": {"type": "number", "maximum": 5}},
    "required": ["rating"]
}"#;

#[test]
fn a_valid_command_is_an_event_and_an_invalid_one_is_told_why() {
    let fleet = sqlite();
    fleet.scratch.write("book.json", SCHEMA);
    fleet.scratch.write("commands.toml", COMMANDS);
    let gateway = fleet.metrobus(&["gateway", "--config", "commands.toml"]).env("METROBUS__GATEWAY__LISTEN", "0");
    let door = Door::start(gateway.spawn());
    let answer = door.ask("PUT", "/books/7/finished", &[], br#"{"rating":4.50}"#);
    assert_eq!(answer.status, 202, "{}", answer.body);
    let id = answer.json()["id"].as_str().expect("an id").to_owned();
    let key = [("Idempotency-Key", "k")];
    let first = door.ask("GET", "/books/a%2Fb", &key, b"").json();
    assert_eq!(door.ask("GET", "/books/a%2Fb", &key, b"").json(), first);

    let records = fleet.tail("Source");
    assert_eq!(records.len(), 2, "a repeat is published once");
    assert_eq!(records[0]["headers"]["metrobus-id"], json!(id));
    let value = records[0]["value"].as_str().expect("text");
    let created = serde_json::from_str::<Value>(value).expect("JSON")["created"].as_str().expect("a time").to_owned();
    let expected = format!(
        r#"{{"id":"{id}","name":"book.finished","created":"{created}","safe":false,"idempotent":true,"payload":{{"id":7,"rating":4.50}}}}"#
    );
    assert_eq!(value, expected);
    let value: Value = serde_json::from_str(records[1]["value"].as_str().expect("text")).expect("JSON");
    assert_eq!((&value["id"], &value["payload"]), (&first["id"], &json!({ "id": "a/b" })));
    assert_eq!((&value["safe"], &value["idempotent"]), (&json!(true), &json!(true)));

    let answer = door.ask("PUT", "/books/x/finished", &[], br#"{"rating":6,"notes":["a",1]}"#);
    assert_eq!(answer.status, 400);
    assert!(answer.head.contains("\r\ncontent-type: application/problem+json"), "{}", answer.head);
    let problem = answer.json();
    assert_eq!((&problem["status"], &problem["title"]), (&json!(400), &json!("Bad Request")));
    let mut errors = problem["errors"].as_array().expect("a list").clone();
    errors.sort_by_key(|error| error["pointer"].to_string());
    let expected = json!([
        { "pointer": "/id", "detail": "\"x\" is not of type \"integer\"" },
        { "pointer": "/notes/1", "detail": "1 is not of type \"string\"" },
        { "pointer": "/rating", "detail": "6 is greater than the maximum of 5" },
    ]);
    assert_eq!(Value::Array(errors), expected);
    for (method, path, body, status) in [
        ("PUT", "/books/7/finished", "{", 400),
        ("PUT", "/books/7/finished", r#"{"rating":1,"rating":9}"#, 400),
        ("PUT", "/books/7/finished", r#"{"rating":1,"id":8}"#, 400),
        ("POST", "/books/7/finished", r#"{"rating":1}"#, 405),
        ("PUT", "/books//finished", r#"{"rating":1}"#, 404),
        ("PUT", "/books/7/finished/", r#"{"rating":1}"#, 404),
    ] {
        let answer = door.ask(method, path, &[], body.as_bytes());
        assert_eq!(answer.status, status, "{method} {path} {body}: {}", answer.body);
        let allows = answer.head.contains("\r\nallow: put\r\n");
        assert_eq!(allows, status == 405, "{}", answer.head);
    }
    assert_eq!(fleet.tail("Source").len(), 2, "nothing of that is published");
}

#[test]
fn a_command_that_cannot_work_is_found_before_the_gateway_starts() {
    let fleet = sqlite();
    fleet.scratch.write("book.json", SCHEMA.replace("\"array\"", "\"list\""));
    fleet.scratch.write("commands.toml", COMMANDS);
    let gateway = fleet.metrobus(&["gateway", "--config", "commands.toml"]).env("METROBUS__GATEWAY__LISTEN", "0");
    let output = gateway.deadline(Duration::from_secs(60)).run().assert_code(78);
    let said =
        "commands.toml:6: gateway.command[0].schema: book.json: it is no JSON Schema: at /properties/notes/type: ";
    assert!(output.stderr.contains(said), "{}", output.stderr);
}

#[test]
fn a_cloud_event_is_one_message_in_whichever_mode_it_comes() {
    let mut fleet = sqlite();
    fleet.set("GATEWAY__LISTEN", "0");
    let door = Door::start(fleet.metrobus(&["gateway"]).spawn());
    let event = |id: &str| {
        json!({
            "specversion": "1.0", "id": id, "source": "/shop", "type": "com.example.sold", "subject": "Müller & Söhne",
            "partitionkey": "k", "datacontenttype": "application/json", "data": { "price": 2 },
        })
    };
    let binary = |id| {
        vec![
            ("Content-Type", "application/json"),
            ("CE-SpecVersion", "1.0"),
            ("ce-id", id),
            ("ce-source", "/shop"),
            ("ce-type", "com.example.sold"),
            ("ce-subject", "M%C3%BCller%20&%20S%C3%B6hne"),
            ("ce-partitionkey", "k"),
        ]
    };
    let one = [("Content-Type", "application/cloudevents+json; charset=utf-8")];
    let many = [("Content-Type", "application/cloudevents-batch+json")];
    let first = door.ask("POST", "/topics/Source", &binary("1"), br#"{"price":2}"#);
    assert_eq!(first.status, 202, "{}", first.body);
    let structured = door.ask("POST", "/topics/Source", &one, event("2").to_string().as_bytes());
    let batch = json!([event("3"), event("4")]).to_string();
    let batch = door.ask("POST", "/topics/Source", &many, batch.as_bytes());
    assert_eq!((structured.status, batch.status), (202, 202), "{} {}", structured.body, batch.body);
    assert_eq!(batch.json()["ids"].as_array().map(Vec::len), Some(2));

    // Its source and id name it: as it was, in another mode, and among others
    let again = door.ask("POST", "/topics/Source", &one, event("1").to_string().as_bytes());
    assert_eq!((again.status, again.json()), (202, first.json()));
    let other = door.ask("POST", "/topics/Source", &binary("1"), br#"{"price":3}"#);
    assert_eq!(other.status, 422, "{}", other.body);

    let records = fleet.tail("Source");
    assert_eq!(records.len(), 4);
    for (index, record) in records.iter().enumerate() {
        let mut headers = record["headers"].clone();
        headers
            .as_object_mut()
            .expect("headers")
            .retain(|name, _| !name.starts_with("metrobus-") && name != "traceparent");
        let expected = json!({
            "ce_specversion": "1.0", "ce_id": (index + 1).to_string(), "ce_source": "/shop", "ce_type": "com.example.sold",
            "ce_subject": "Müller & Söhne", "ce_partitionkey": "k", "content-type": "application/json",
        });
        assert_eq!((&headers, &record["key"], &record["value"]), (&expected, &json!("k"), &json!(r#"{"price":2}"#)));
    }

    let without = |name: &str| binary("9").into_iter().filter(|(found, _)| *found != name).collect::<Vec<_>>();
    for (headers, body, status) in [
        (without("ce-id"), "{}", 400),
        (without("CE-SpecVersion"), "{}", 400),
        (binary("9"), "[]", 400),
        ([&[("Content-Type", "text/xml")], &binary("9")[1..]].concat(), "<a/>", 415),
        (one.to_vec(), "{}", 400),
        (many.to_vec(), r#"[{}]"#, 400),
        (vec![("Content-Type", "application/cloudevents+avro")], "{}", 415),
    ] {
        let answer = door.ask("POST", "/topics/Source", &headers, body.as_bytes());
        assert_eq!(answer.status, status, "{headers:?} {body}: {}", answer.body);
    }
    assert_eq!(fleet.tail("Source").len(), 4);
}
