//! What is answered to those who look.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    Served,
    client::{Answer, Ask},
    travelled,
};
use crate::{
    fleet::Engine,
    repair::{push, rejected},
    support::Redis,
};

const OPENAPI: &str = include_str!("../../../docs/openapi.json");

fn description() -> Value {
    serde_json::from_str(OPENAPI).expect("JSON")
}

/// Panics where `instance` is not as the schema of this name says.
fn assert_is(name: &str, instance: &Value) {
    let mut schema = description();
    schema["$ref"] = json!(format!("#/components/schemas/{name}"));
    let validator = jsonschema::draft202012::new(&schema).expect("a schema");
    let wrong: Vec<_> =
        validator.iter_errors(instance).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(wrong.is_empty(), "no {name}: {wrong:#?}\n{instance}");
}

fn stop<'a>(picture: &'a Value, name: &str) -> &'a Value {
    picture["stops"].as_array().and_then(|stops| stops.iter().find(|stop| stop["name"] == name)).unwrap_or(&Value::Null)
}

fn answers_are_as_described_on(engine: Engine) {
    let Some(fleet) = travelled(engine) else { return };
    push(&fleet, "{\"account_number\":2,\"header\":{},\"payload\":\"text\"}\n");
    fleet.drain("a");
    let (error, add_email) = (fleet.topic("Error"), fleet.topic("AddEmail"));
    let served = Served::web(&fleet);
    let client = &served.client;

    let settings = client.json("/api/settings");
    assert_is("Settings", &settings);
    let bus = if engine == Engine::Sqlite { "sqlite" } else { "kafka" };
    assert_eq!(
        (&settings["bus"], &settings["acting"], &settings["show_payloads"]),
        (&json!(bus), &json!(true), &json!(false))
    );
    assert_eq!((&settings["journal"]["fields"], &settings["error_topic"]), (&json!(["account_number"]), &json!(error)));

    let dropped = |picture: &Value| stop(picture, "contactpoint")["verdicts"]["dropped"]["count"] == 1;
    let read = |picture: &Value| picture["journal"]["hops"] == 7 && picture["bus"]["ok"] == true;
    let picture = client.picture("all hops", |picture| dropped(picture) && read(picture));
    assert_is("Picture", &picture);
    let dead = picture["topics"].as_array().expect("topics").iter().find(|topic| topic["kind"] == "dead");
    assert_eq!(dead.map(|dead| (&dead["name"], &dead["records"])), Some((&json!(error), &json!(1))));
    assert_eq!(stop(&picture, "contactpoint")["reasons"][0]["reason"], "unknown account");
    let edge = json!({"from": "topic:".to_owned() + &add_email, "to": "stop:contactpoint", "verdict": null});
    let edges = picture["edges"].as_array().expect("edges").iter();
    assert!(edges.clone().any(|found| ["from", "to", "verdict"].iter().all(|name| found[name] == edge[name])));

    let history = client.json("/api/stops/contactpoint");
    assert_is("StopHistory", &history);
    let minutes = history["minutes"].as_array().expect("minutes").iter();
    assert_eq!(minutes.map(|minute| minute["dropped"].as_u64().expect("a count")).sum::<u64>(), 1);
    let id = history["recent"][0]["id"].as_str().expect("an id").to_owned();

    for asked in ["key=1", "field=account_number=1", "field=account_number%3D1&last=5"] {
        let found = client.json(&format!("/api/journeys?{asked}"));
        assert_is("Journeys", &found);
        assert_eq!(found["journeys"][0]["state"], "finished at logstop", "{asked}");
        let did: Vec<_> =
            found["journeys"][0]["hops"].as_array().expect("hops").iter().map(|hop| &hop["what"]).collect();
        let to = |name: &str| format!("to {}", fleet.topic(name));
        assert_eq!(json!(did), json!([to("AddEmail"), to("WhiteList"), to("Log"), "finished"]));
    }
    let by_id = client.json(&format!("/api/journeys?id={id}"));
    assert_eq!(by_id["journeys"][0]["id"], json!(id));
    let by_place = client.json(&format!(
        "/api/journeys?id={}",
        by_id["journeys"][0]["hops"][0]["topic"].as_str().unwrap().to_owned() + "/0/0"
    ));
    assert_is("Journeys", &by_place);

    let letters = client.json("/api/dead");
    assert_is("Letters", &letters);
    assert_eq!((&letters["count"], &letters["letters"][0]["stop"]), (&json!(1), &json!("busdriver")));
    let place = letters["letters"][0]["place"].as_str().expect("a place").to_owned();
    let letter = client.json(&format!("/api/dead/{place}"));
    assert_is("WholeLetter", &letter);
    assert_eq!((&letter["hidden"], &letter["value"], &letter["headers"]), (&json!(true), &Value::Null, &Value::Null));
    assert_eq!(letter["history"][0]["stop"], "busdriver");
    let done = client.post("/api/dead/discard", &json!({"places": [place]}));
    assert_is("Repaired", &done.json());
    assert_is("Letters", &client.json("/api/dead?all=true"));
    assert_eq!(client.json("/api/dead?all=true")["letters"][0]["done"]["what"], "discarded");
    served.end();
}

#[test]
fn answers_are_as_described_on_sqlite() {
    answers_are_as_described_on(Engine::Sqlite);
}

#[test]
fn answers_are_as_described_on_kafka() {
    answers_are_as_described_on(Engine::AtLeastOnce);
}

/// A path of the description, with something in place of its parameters.
fn filled(path: &str) -> String {
    path.replace("{name}", "busdriver").replace("{partition}", "0").replace("{offset}", "0")
}

#[test]
fn every_path_and_method_that_is_described_is_answered_and_no_other() {
    let Some(fleet) = travelled(Engine::Sqlite) else { return };
    let served = Served::web(&fleet);
    served.client.picture("the stops", |picture| stop(picture, "busdriver").is_object());
    let description = description();
    let routes = include_str!("../../../src/web/mod.rs").split(".route(\"").skip(1);
    let routes: BTreeSet<_> = routes.filter_map(|rest| rest.split('"').next()).chain(["/openapi.json"]).collect();
    let paths = description["paths"].as_object().expect("paths");
    assert_eq!(paths.keys().map(String::as_str).collect::<BTreeSet<_>>(), routes);
    for (path, methods) in paths {
        let (at, methods) = (filled(path), methods.as_object().expect("methods"));
        let streams = path == "/api/events";
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"] {
            let as_get = if method == "HEAD" { "get" } else { &method.to_lowercase() };
            if streams && as_get == "get" {
                continue;
            }
            let answer = served.client.ask(Ask { method, ..Ask::get(&at) });
            match methods.get(as_get) {
                None if method == "HEAD" => assert_eq!((answer.status, answer.body.as_str()), (405, "")),
                None => {
                    let sentence = answer.problem(405);
                    assert_eq!(sentence, format!("{at} does not take {method}"));
                    assert_eq!(answer.header("allow"), if methods.contains_key("post") { "POST" } else { "GET,HEAD" });
                }
                Some(described) => {
                    let status = answer.status.to_string();
                    assert!(described["responses"].get(&status).is_some(), "{method} {at}: {status} {}", answer.body);
                    assert!(method != "HEAD" || answer.body.is_empty(), "{at}");
                }
            }
        }
    }
    for path in ["/api", "/api/", "/api/maps", "//api/map", "/index.html", "/api/dead/1", "/..%2f..%2fetc%2fpasswd"] {
        assert_eq!(served.client.get(path).problem(404), format!("there is nothing at {path}"));
    }
    served.end();
}

#[test]
fn the_page_is_kept_until_it_is_another_one() {
    let Some(fleet) = travelled(Engine::Sqlite) else { return };
    let served = Served::web(&fleet);
    let files = [
        ("/", "text/html; charset=utf-8"),
        ("/app.js", "text/javascript; charset=utf-8"),
        ("/style.css", "text/css; charset=utf-8"),
        ("/icon.svg", "image/svg+xml"),
        ("/openapi.json", "application/json"),
    ];
    for (path, kind) in files {
        let answer = served.client.get(path);
        assert_eq!((answer.status, answer.header("content-type")), (200, kind), "{path}");
        assert_eq!(answer.header("cache-control"), "no-cache");
        let tag = answer.header("etag").to_owned();
        for known in [tag.clone(), format!("\"x\", W/{tag}"), "*".to_owned()] {
            let again = served.client.ask(Ask::get(path).with("If-None-Match", &known));
            assert_eq!((again.status, again.body.as_str(), again.header("etag")), (304, "", tag.as_str()), "{path}");
        }
        assert_eq!(served.client.ask(Ask::get(path).with("If-None-Match", "\"x\"")).body, answer.body);
        let head = served.client.ask(Ask { method: "HEAD", ..Ask::get(path) });
        assert_eq!((head.status, head.header("content-length")), (200, answer.body.len().to_string().as_str()));
    }
    assert_eq!(served.client.get("/openapi.json").json(), description());
    served.end();
}

#[test]
fn what_cannot_be_understood_is_told_in_a_sentence() {
    let Some(fleet) = travelled(Engine::Sqlite) else { return };
    let served = Served::web(&fleet);
    for (path, status, expected) in [
        ("/api/journeys", 400, "one of id, key and field is expected, as in ?key=7"),
        ("/api/journeys?id=1&key=2", 400, "one of id, key and field is expected, as in ?key=7"),
        ("/api/journeys?field=n", 400, "a field and its value are expected, as in account_number=1000001"),
        (
            "/api/journeys?field=n=1",
            400,
            "the journal notes no field \"n\": journal.fields names those that it does (account_number)",
        ),
        ("/api/journeys?key=1&last=x", 400, "the query: last: invalid digit found in string"),
        ("/api/journeys?key=1&x=1", 400, "the query: x: unknown field `x`"),
        ("/api/journeys?key=77", 404, "the journal has nothing of the key \"77\""),
        ("/api/journeys?id=Log/0/77", 404, "the journal has nothing of a message \"Log/0/77\""),
        ("/api/dead?since=1", 400, "since: a time with its unit is expected, as in 500ms or 30s"),
        ("/api/dead?all=maybe", 400, "all: provided string was not `true` or `false`"),
        ("/api/dead/0/7", 404, "there is no dead letter 0/7 on topic Error"),
        ("/api/dead/x/7", 400, "PARTITION/OFFSET is expected, as in /api/dead/0/12"),
        ("/api/dead/0/99999999999999999999", 400, "PARTITION/OFFSET is expected"),
        ("/api/stops/nobody", 404, "nothing is known of a stop \"nobody\""),
        ("/api/stops/%ff", 400, "Invalid UTF-8"),
    ] {
        let sentence = served.client.get(path).problem(status);
        assert!(sentence.contains(expected), "{path}: {sentence}");
    }
    served.end();
}

#[test]
fn what_changes_is_told_as_it_happens() {
    let Some(fleet) = travelled(Engine::Sqlite) else { return };
    let served = Served::web(&fleet);
    let mut events = served.client.events();
    let count = |picture: &Value| stop(picture, "busdriver")["count"].as_u64();
    assert_is("Picture", &events.wait_for("what was before", |picture| count(picture) == Some(2)));
    push(&fleet, "{\"account_number\":1}\n");
    fleet.drain("a");
    events.wait_for("one more", |picture| count(picture) == Some(3));
    // Nothing happens, and still it is heard of, with a time that goes on
    let mut last = 0;
    for _ in 0..2 {
        let time = events.next().expect("a picture")["time"].as_i64().expect("a time");
        assert!(time > last);
        last = time;
    }
    served.end();
}

#[test]
fn payloads_are_hidden_unless_they_are_to_be_seen() {
    let Some(mut fleet) = rejected(Engine::Sqlite, 1) else { return };
    fleet.set("JOURNAL__FIELDS", "account_number");
    push(&fleet, "{\"account_number\":77}\n");
    fleet.metrobus(&["busdriver", "--drain"]).run().assert_code(0);
    let all = |served: &Served| {
        let texts = ["/api/journeys?key=77", "/api/dead", "/api/dead/0/0", "/api/map", "/api/stops/busdriver"];
        texts.map(|path| served.client.get(path)).iter().map(|answer: &Answer| answer.body.as_str()).collect::<String>()
    };
    let hidden = Served::web(&fleet);
    let text = all(&hidden);
    assert!(!text.contains("2.50") && !text.contains("account_number") && text.contains("\"key\":null"), "{text}");
    hidden.end();
    fleet.set("WEB__SHOW_PAYLOADS", "true");
    let shown = Served::web(&fleet);
    let hop = &shown.client.json("/api/journeys?key=77")["journeys"][0]["hops"][0];
    assert_eq!((&hop["key"], &hop["fields"]), (&json!("77"), &json!({"account_number": "77"})));
    let letter = shown.client.json("/api/dead/0/0");
    assert_is("WholeLetter", &letter);
    assert_eq!((&letter["key"], &letter["hidden"]), (&json!("1"), &json!(false)));
    assert!(letter["value"].as_str().is_some_and(|value| value.contains("\"n\":2.50")), "{letter}");
    assert_eq!(letter["headers"]["metrobus.stop"], "contactpoint");
    shown.end();
}

#[test]
fn programs_are_told_the_counts_of_the_original() {
    let Some(mut fleet) = travelled(Engine::Sqlite) else { return };
    let json = || Ask::get("/").with("Accept", "application/json");
    let served = Served::web(&fleet);
    served.client.picture("all hops", |picture| picture["journal"]["hops"] == 6);
    let expected = json!({"Source": 2, "AddEmail": 2, "WhiteList": 1, "Log": 1, "hit_count": 1});
    let answer = served.client.ask(json());
    assert_eq!((answer.json(), answer.header("vary")), (expected, "accept"));
    assert_eq!(served.client.ask(json()).json()["hit_count"], 2);
    served.end();

    let Some(mut redis) = Redis::start() else { return };
    fleet.set("REDIS__URL", redis.url());
    fleet.set("REDIS__COUNTERS", "on");
    fleet.set("REDIS__TIMEOUT", "500ms");
    let mut connection = redis.connection();
    let () =
        redis::cmd("HSET").arg("counter").arg(&["Source", "40", "Elsewhere", "2"]).query(&mut connection).expect("set");
    let () = redis::cmd("SET").arg("hits").arg(6).query(&mut connection).expect("set");
    let served = Served::web(&fleet);
    assert_eq!(served.client.ask(json()).json(), json!({"Source": 40, "Elsewhere": 2, "hit_count": 7}));
    let hits: u64 = redis::cmd("GET").arg("hits").query(&mut connection).expect("a number");
    assert_eq!(hits, 7);
    redis.kill();
    let answer = served.client.ask(json());
    let sentence = answer.problem(503);
    assert!(
        sentence.starts_with("the counters: Redis at 127.0.0.1:") && answer.header("retry-after") == "5",
        "{sentence}"
    );
    assert_eq!(served.client.get("/").status, 200, "the page is there without Redis");
    served.end();
}
