//! What switch's Python consumer did, metrobus does: the same requests of the same messages, subscribers and filters.
//!
//! `scripts/switch/record.py` recorded the requests of the consumer, on a socket, and says in which cases metrobus is to differ, and
//! why. Here each case is a row of a table as gorm makes it; its message comes in by `POST /publish`, and what `deliver` then sends
//! arrives on a socket as well.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD, Engine as _};
use metrobus::{
    filter::{Data, Filter},
    webhook::{address::Allowed, target::Target, template},
};
use reqwest::header::{HeaderName, HeaderValue};
use ring::hmac;
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use crate::support::{Arrival, Metrobus, Scratch, Signal, Sink, client, free_port, say, try_until, wait_until};

const DEADLINE: Duration = Duration::from_secs(60);

/// As short as switch's own example.
const SECRET: &str = "my_little_secret";

#[derive(Debug, Deserialize)]
struct Case {
    name: String,
    topic: String,
    /// Below the receiver's; begins with the number of the case.
    url: String,
    filter: String,
    payload: String,
    #[serde(default)]
    answers: Vec<u16>,
    /// What the consumer sent.
    requests: Vec<Recorded>,
    /// What metrobus is to send in its place.
    instead: Option<Vec<Recorded>>,
}

impl Case {
    fn expected(&self) -> &[Recorded] {
        self.instead.as_ref().unwrap_or(&self.requests)
    }
}

#[derive(Debug, Deserialize)]
struct Recorded {
    method: String,
    target: String,
    /// Without those that Python's requests adds. Each character is a byte.
    headers: BTreeMap<String, String>,
    body: String,
}

fn cases() -> Vec<Case> {
    serde_json::from_str(include_str!("switch/consumer.json")).expect("what scripts/switch/record.py wrote")
}

/// What metrobus adds to a request.
const OWN: [&str; 9] = [
    "accept",
    "accept-encoding",
    "content-length",
    "host",
    "user-agent",
    "traceparent",
    "webhook-id",
    "webhook-signature",
    "webhook-timestamp",
];

/// In what a request is another one than the recorded.
fn difference(recorded: &Recorded, arrival: &Arrival) -> Option<String> {
    let unlike = |what: &str, here: &dyn std::fmt::Debug, there: &dyn std::fmt::Debug| {
        Some(format!("{what}: {here:?}, where switch sent {there:?}"))
    };
    if arrival.method != recorded.method {
        return unlike("method", &arrival.method, &recorded.method);
    }
    let [here, there] = [&arrival.target, &recorded.target].map(|target| {
        let url = Url::parse("http://example.com").and_then(|base| base.join(target)).expect("a target");
        // What a query says can be spelt in more than one way
        (url.path().to_owned(), url.query_pairs().into_owned().collect::<Vec<_>>())
    });
    if here != there {
        return unlike("target", &arrival.target, &recorded.target);
    }
    let body = |text: &str| serde_json::from_str::<Value>(text).ok();
    if body(&arrival.text()) != body(&recorded.body) {
        return unlike("body", &arrival.text(), &recorded.body);
    }
    for (name, value) in &recorded.headers {
        let bytes: Vec<u8> = value.chars().map(|letter| u8::try_from(letter).expect("a byte")).collect();
        let here: Vec<_> = arrival.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value).collect();
        if here != [&bytes] {
            return unlike(name, &here, &value);
        }
    }
    let typed = ("content-type".to_owned(), b"application/json".to_vec());
    let own = |header: &&(String, Vec<u8>)| {
        OWN.contains(&header.0.as_str()) || recorded.headers.contains_key(&header.0) || **header == typed
    };
    let more = arrival.headers.iter().find(|header| !own(header));
    more.and_then(|more| unlike("headers", &more, &"none of that name"))
}

/// The table of subscribers, as gorm makes it.
fn write_table(path: &Path, cases: &[Case], receiver: &str) {
    let mut connection = rusqlite::Connection::open(path).expect("a file");
    let table = "CREATE TABLE `subscribers` (`id` integer,`created_at` datetime,`updated_at` datetime,`deleted_at` datetime,\
                 `filter_expression` text,`target_url` text,`topic` text,PRIMARY KEY (`id`));\
                 CREATE INDEX `idx_subscribers_deleted_at` ON `subscribers`(`deleted_at`);";
    connection.execute_batch(table).expect("the table");
    let transaction = connection.transaction().expect("a transaction");
    for case in cases {
        let (now, url) = ("2020-11-28 21:14:07.123456789+02:00", format!("{receiver}{}", case.url));
        let row = "INSERT INTO subscribers (created_at, updated_at, filter_expression, target_url, topic) VALUES (?1, ?1, ?2, ?3, ?4)";
        transaction.execute(row, (now, &case.filter, url, &case.topic)).expect("a row");
    }
    transaction.commit().expect("the rows");
}

/// A token as switch's clients make it.
fn token() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs();
    let [head, claims] = [json!({"alg": "HS256", "typ": "JWT"}), json!({"Author": "tests", "iat": now})]
        .map(|part| BASE64_URL_SAFE_NO_PAD.encode(part.to_string()));
    let text = format!("{head}.{claims}");
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()), text.as_bytes());
    format!("{text}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

/// The number of the case that a request is for.
fn number(arrival: &Arrival) -> Option<usize> {
    arrival.target.split('/').nth(1)?.parse().ok()
}

/// A receiver that answers what each case says, 200 once that is used up.
fn receiver(cases: &[Case]) -> Sink {
    let answers: Vec<Vec<u16>> = cases.iter().map(|case| case.answers.iter().rev().copied().collect()).collect();
    let answers = Arc::new(Mutex::new(answers));
    Sink::start(move |arrival| {
        let mut answers = answers.lock().expect("not poisoned");
        let answer = number(arrival).and_then(|number| answers.get_mut(number)?.pop());
        (answer.unwrap_or(200), "location: /elsewhere\r\n")
    })
}

#[test]
fn a_switch_client_is_served_as_by_switch_and_its_consumer() {
    let cases = cases();
    let filters: BTreeSet<_> = cases.iter().map(|case| &case.filter).collect();
    assert!(filters.len() >= 60, "{} filters", filters.len());
    let scratch = Scratch::new();
    let sink = receiver(&cases);
    write_table(&scratch.path("switch.db"), &cases, &sink.url());
    let topics: BTreeSet<_> = cases.iter().map(|case| case.topic.as_str()).collect();
    let topics: Vec<_> = topics.into_iter().collect();
    let config = format!(
        "[gateway]\ntopics = {topics:?}\n\
         [deliver]\nwaits = [\"50ms\", \"50ms\"]\njitter = 0.0\nallowed_networks = [\"127.0.0.1\"]\n\
         [deliver.breaker]\nfailures = 1000\n"
    );
    scratch.write("metrobus.toml", config);
    let port = free_port();
    let metrobus = |arguments: &[&str]| {
        let call = Metrobus::new().cwd(scratch.root()).args(["--config", "metrobus.toml"]).args(arguments);
        call.env("SWITCH_DB_NAME", "switch.db")
            .env("SWITCH_SERVER_PORT", port.to_string())
            .env("SWITCH_JWT_SECRET", SECRET)
    };
    let mut gateway = metrobus(&["gateway"]).spawn();
    let mut deliver = metrobus(&["deliver"]).spawn();

    let client = client();
    let url = format!("http://127.0.0.1:{port}");
    wait_until("the gateway", DEADLINE, || {
        assert!(gateway.is_running(), "{}", gateway.stderr_text());
        client.get(format!("{url}/refresh")).send().ok()
    });
    let mut payloads: BTreeMap<(&str, &str), Vec<&Case>> = BTreeMap::new();
    for case in &cases {
        payloads.entry((&case.topic, &case.payload)).or_default().push(case);
    }
    let authorization = format!("bearer {}", token());
    for ((topic, payload), cases) in payloads {
        // switch's clients name no type of content
        let body = json!({"Topic": topic, "Payload": payload}).to_string();
        let request = client.post(format!("{url}/publish")).header("authorization", &authorization).body(body);
        let answer = request.send().expect("an answer");
        let wanted = cases.iter().any(|case| !case.expected().is_empty());
        let status = answer.status().as_u16();
        let text = answer.text().unwrap_or_default();
        assert!(status == 200 || status == 400 && !wanted, "{}: {status} {text}", cases[0].name);
    }
    let expected: usize = cases.iter().map(|case| case.expected().len()).sum();
    try_until(DEADLINE, || (sink.len() >= expected).then_some(()));
    for process in [&mut gateway, &mut deliver] {
        process.signal(Signal::TERM);
    }
    gateway.wait(DEADLINE).assert_code(0);
    deliver.wait(DEADLINE).assert_code(0);
    // Whatever else it might send it would send now
    metrobus(&["deliver", "--drain"]).run().assert_code(0);

    let mut arrived: BTreeMap<usize, Vec<Arrival>> = BTreeMap::new();
    let mut wrong = Vec::new();
    for arrival in sink.arrivals() {
        match number(&arrival) {
            Some(number) => arrived.entry(number).or_default().push(arrival),
            None => wrong.push(format!("nobody's: {} {}", arrival.method, arrival.target)),
        }
    }
    for (number, case) in cases.iter().enumerate() {
        let (arrived, expected) = (arrived.remove(&number).unwrap_or_default(), case.expected());
        if arrived.len() != expected.len() {
            let seen: Vec<_> = arrived.iter().map(|arrival| format!("{} {}", arrival.method, arrival.target)).collect();
            wrong.push(format!("{}: {} requests, not {}: {seen:?}", case.name, arrived.len(), expected.len()));
        }
        let differences = expected.iter().zip(&arrived).filter_map(|(recorded, arrival)| difference(recorded, arrival));
        wrong.extend(differences.map(|difference| format!("{}: {difference}", case.name)));
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    say(&format!("{} cases of switch's consumer, {} filters, {expected} requests", cases.len(), filters.len()));
}

/// What metrobus would send for a case, by the library alone; the first attempt.
fn made(case: &Case) -> Option<Arrival> {
    let text = String::from_utf8(BASE64_STANDARD.decode(&case.payload).ok()?).ok()?;
    // Whoever publishes is told of all but an object; an empty one stands for nothing
    serde_json::from_str::<Value>(&text).ok()?.as_object().filter(|message| !message.is_empty())?;
    let filter = Filter::python(&case.filter).ok()?;
    if !filter.matches(&Data::parse(&text).ok()?) {
        return None;
    }
    let target = Target::parse(&format!("http://example.com{}", case.url), &Allowed::default()).expect("a target");
    let request = template::request(&target, text.as_bytes()).ok()?;
    let header = |(name, value): (&HeaderName, &HeaderValue)| (name.to_string(), value.as_bytes().to_vec());
    Some(Arrival {
        at: Instant::now(),
        method: request.method.to_string(),
        target: request.url.as_str().trim_start_matches("http://example.com").to_owned(),
        headers: request.headers.iter().map(header).collect(),
        body: request.body,
    })
}

#[test]
fn the_library_makes_the_requests_that_the_consumer_made() {
    let mut wrong = Vec::new();
    for case in cases().iter().filter(|case| BASE64_STANDARD.decode(&case.payload).is_ok()) {
        let difference = match (made(case), case.expected().first()) {
            (None, None) => None,
            (Some(made), Some(recorded)) => difference(recorded, &made),
            (made, recorded) => Some(format!("{made:?}, where switch sent {recorded:?}")),
        };
        wrong.extend(difference.map(|difference| format!("{}: {difference}", case.name)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
