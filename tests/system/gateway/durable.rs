//! That what was accepted is on the bus, whatever dies.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{Served, fleet, id};
use crate::{
    fleet::{DEADLINE, Engine, Fleet},
    support::{Signal, wait_until},
};

/// Posts until the gateway is killed, which is once it has accepted some; gives the ids of all that it accepted.
fn kill_while_posting(fleet: &Fleet, path: &str) -> Vec<String> {
    let mut served = Served::start(fleet);
    let url = format!("http://{}{path}", served.client.address);
    let (count, end) = (AtomicUsize::new(0), Instant::now() + DEADLINE);
    let post = || {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::blocking::Client::builder().no_proxy().timeout(DEADLINE).build().expect("a client");
        let mut accepted = Vec::new();
        while Instant::now() < end {
            let request = client.post(&url).header("content-type", "application/json").body("{}");
            let Ok(answer) = request.send() else { break };
            let status = answer.status();
            let Ok(body) = answer.text() else { break };
            assert_eq!(status, 202, "{body}");
            let body: Value = serde_json::from_str(&body).expect("JSON");
            accepted.push(body["id"].as_str().expect("an id").to_owned());
            count.fetch_add(1, Ordering::Relaxed);
        }
        accepted
    };
    std::thread::scope(|scope| {
        let posting: Vec<_> = (0..4).map(|_| scope.spawn(post)).collect();
        wait_until("some to be accepted", DEADLINE, || (count.load(Ordering::Relaxed) >= 100).then_some(()));
        served.process.kill9();
        posting.into_iter().flat_map(|posting| posting.join().expect("a thread")).collect()
    })
}

fn what_was_accepted_outlives_a_kill_on(engine: Engine) {
    let Some(fleet) = fleet(engine) else { return };
    let source = fleet.topic("Source");
    let path = format!("/topics/{source}");
    let accepted: Vec<_> = (0..3).flat_map(|_| kill_while_posting(&fleet, &path)).collect();
    assert!(accepted.len() >= 300, "{}", accepted.len());
    let there = fleet.tail(&source).iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    let lost: Vec<_> = accepted.iter().filter(|id| !there.contains(id.as_str())).collect();
    assert!(lost.is_empty(), "{} of {} lost: {lost:?}", lost.len(), accepted.len());
}

#[test]
fn what_was_accepted_outlives_a_kill_on_sqlite() {
    what_was_accepted_outlives_a_kill_on(Engine::Sqlite);
}

#[test]
fn what_was_accepted_outlives_a_kill_on_kafka() {
    what_was_accepted_outlives_a_kill_on(Engine::AtLeastOnce);
}

#[test]
fn a_bus_that_is_away_is_told_and_comes_back() {
    let Some(mut fleet) = Fleet::new(Engine::AtLeastOnce) else { return };
    fleet.set("GATEWAY__LISTEN", "0");
    fleet.set("GATEWAY__TIMEOUT", "2s");
    fleet.set("HTTP__LISTEN", "0");
    let served = Served::start(&fleet);
    let path = "/topics/Source";
    let key = [("Idempotency-Key", "1")];
    id(&served.post(path, "{\"n\":0}", &[]));
    fleet.kafka.as_mut().expect("a broker").stop();
    // Nobody waits for long, and it is said that it may come to be published
    let begin = Instant::now();
    let answer = served.post(path, "{\"n\":1}", &key);
    assert!(answer.problem(503).contains("not confirmed it within 2s"), "{}", answer.body);
    assert!(begin.elapsed() < Duration::from_secs(20));
    assert!(answer.header("retry-after").parse::<u64>().is_ok());
    // After a while it is told at once
    wait_until("503 at once", DEADLINE, || {
        let begin = Instant::now();
        let answer = served.post(path, "{\"n\":2}", &[]);
        answer.problem(503);
        (begin.elapsed() < Duration::from_millis(500) && answer.body.contains("the bus does not answer")).then_some(())
    });
    fleet.kafka.as_mut().expect("a broker").restart();
    wait_until("the bus to be back", DEADLINE, || {
        let answer = served.post(path, "{\"n\":3}", &[]);
        (answer.status == 202).then_some(())
    });
    // The repeat is accepted, and is one message with what landed since
    let again = wait_until("the repeat", DEADLINE, || {
        let answer = served.post(path, "{\"n\":1}", &key);
        (answer.status == 202).then(|| id(&answer))
    });
    served.end();
    let of_it = fleet.tail("Source").into_iter().filter(|record| record["value"] == "{\"n\":1}");
    let of_it: Vec<_> = of_it.map(|record| record.to_string()).collect();
    assert!(!of_it.is_empty() && of_it.iter().all(|record| record.contains(&again)), "{of_it:?}");
}

#[test]
fn what_is_too_large_for_the_topic_is_refused_alone() {
    let Some(fleet) = fleet(Engine::AtLeastOnce) else { return };
    let source = fleet.topic("Source");
    let path = format!("/topics/{source}");
    let served = Served::start(&fleet);
    let large = json!({"large": "x".repeat(2_000_000)}).to_string();
    std::thread::scope(|scope| {
        let posts: Vec<_> = (0..8)
            .map(|n| {
                let (served, path, large) = (&served, &path, &large);
                scope.spawn(move || match n {
                    3 => served.post(path, large, &[]).problem(413),
                    n => id(&served.post(path, &json!({ "n": n }).to_string(), &[])),
                })
            })
            .collect();
        for (n, post) in posts.into_iter().enumerate() {
            let said = post.join().expect("a thread");
            assert_eq!(said.contains("is more than topic"), n == 3, "{said}");
        }
    });
    let lines = format!("{{\"n\":8}}\n{large}\n");
    served.post(&path, &lines, &[("Content-Type", "application/x-ndjson")]).problem(413);
    served.end();
    let mut values = fleet.values(&source);
    values.sort();
    let expected: Vec<_> = (0..8).filter(|n| *n != 3).map(|n| format!("{{\"n\":{n}}}")).collect();
    assert_eq!(values, expected, "of lines all are published, or none");
}

#[test]
fn at_the_end_what_is_under_way_is_answered() {
    let fleet = fleet(Engine::Sqlite).expect("SQLite is always there");
    let mut served = Served::start(&fleet);
    let mut stream = served.client.connect();
    let body = "{\"slow\":true}";
    let head = format!("POST /topics/Source HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
    std::io::Write::write_all(&mut stream, head.as_bytes()).expect("send");
    id(&served.post("/topics/Source", "{}", &[]));
    served.process.signal(Signal::TERM);
    wait_until("nobody to be let in", DEADLINE, || std::net::TcpStream::connect(served.client.address).err().map(drop));
    std::io::Write::write_all(&mut stream, body.as_bytes()).expect("send");
    let answer = crate::web::client::read(stream);
    assert_eq!(answer.status, 202, "{}", answer.body);
    served.process.wait(DEADLINE).assert_code(0);
    assert_eq!(fleet.values("Source"), ["{}", body]);
}
