//! A broker or a Redis that is away: the stop waits, says for what, and goes on where it was.

use std::time::Duration;

use metrobus::{Handler, Message, Shutdown, Stop, Topic, Verdict, bus};

use super::traffic::{EMAIL, KNOWN, all, arrived, assert_no_panic, put};
use crate::{
    fleet::{DEADLINE, Engine, Fleet},
    support::{NewRecord, Process, Redis, Signal, free_port, produce_with, try_until, wait_until},
};

/// As long as a stop may take to see that something has gone or come.
const SOON: Duration = Duration::from_secs(60);

fn raw(n: usize) -> NewRecord {
    NewRecord::new(format!(r#"{{"at":"Source","n":{n},{KNOWN}}}"#))
}

fn wait_for_arrivals(fleet: &Fleet, stops: &mut Process, count: u64) {
    let all_there = || {
        fleet.scratch.path("log.ndjson").exists() && (0..count).all(|n| arrived(fleet).contains(&("Source".into(), n)))
    };
    wait_until(&format!("{count} messages"), SOON, || {
        assert!(stops.is_running(), "it ended:\n{}", stops.stderr_text());
        all_there().then_some(())
    });
}

#[test]
fn redis_that_is_not_there_yet_and_goes_for_a_while_is_waited_for() {
    let Some(mut redis) = Redis::start() else { return };
    let mut fleet = Fleet::new(Engine::Sqlite).unwrap();
    fleet.set("REDIS__URL", redis.url());
    fleet.set("REDIS__TIMEOUT", "500ms");
    fleet.set("CONTACTPOINT__CACHE", "redis");
    fleet.set("WHITELIST__CACHE", "redis");
    fleet.scratch.write("data/emails.dat", format!("1000001,{EMAIL}\n"));
    fleet.scratch.write("data/whitelist.dat", format!("{EMAIL}\n"));
    redis.stop();
    put(&fleet, "Source", (0..3).map(raw));
    let mut stops = fleet.metrobus(&["run"]).spawn();
    stops.wait_for_stderr("waits for what stop contactpoint needs: ", SOON);
    let address = format!("127.0.0.1:{}", redis.port());
    assert!(stops.stderr_text().contains(&address), "it says for what:\n{}", stops.stderr_text());
    redis.restart();
    fleet.metrobus(&["cache", "load"]).run().assert_code(0);
    // What came before the cache was filled may have been dropped, by right; from here on nothing is
    stops.wait_for_stderr("what stop contactpoint needs is back after", SOON);
    put(&fleet, "Source", (0..5).map(raw));
    wait_for_arrivals(&fleet, &mut stops, 5);

    // Gone with its connections, then only silent
    let before = stops.stderr_text().matches("needs is back after").count();
    redis.kill();
    put(&fleet, "Source", (5..10).map(raw));
    let waiting = |stops: &Process| stops.stderr_text().matches("waits for what stop").count();
    let waits = waiting(&stops);
    wait_until("a word that it waits", SOON, || (waiting(&stops) > waits || waits > before).then_some(()));
    redis.restart();
    wait_for_arrivals(&fleet, &mut stops, 10);
    redis.pause();
    let waits = waiting(&stops);
    put(&fleet, "Source", (10..15).map(raw));
    wait_until("a word that it waits", SOON, || (waiting(&stops) > waits).then_some(()));
    redis.resume();
    wait_for_arrivals(&fleet, &mut stops, 15);
    stops.signal(Signal::TERM);
    let output = stops.wait(DEADLINE).assert_code(0);
    assert_no_panic(&output.stderr);
    assert!(!output.stderr.contains(EMAIL));
    assert_eq!(all(&fleet, "Error"), [], "no message is rejected for it");
}

#[test]
fn a_redis_that_is_something_else_or_wants_a_password_is_waited_for_and_named() {
    // Speaks another protocol: it closes each connection after a greeting
    let listener = std::net::TcpListener::bind(("127.0.0.1", free_port())).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = std::io::Write::write_all(&mut &stream, b"220 mail.example ESMTP\r\n");
        }
    });
    let mut fleet = Fleet::new(Engine::Sqlite).unwrap();
    fleet.set("CONTACTPOINT__CACHE", "redis");
    fleet.set("REDIS__TIMEOUT", "500ms");
    fleet.set("REDIS__URL", format!("redis://rider:s3cret@{address}"));
    let slip = super::traffic::header(&fleet, "AddEmail");
    put(&fleet, "AddEmail", [NewRecord::new(format!(r#"{{"header":{slip},"payload":{{{KNOWN}}}}}"#))]);
    let mut stop = fleet.metrobus(&["contactpoint", "-vv"]).spawn();
    stop.wait_for_stderr("waits for what stop contactpoint needs: ", SOON);
    stop.signal(Signal::TERM);
    let output = stop.wait(DEADLINE).assert_code(0);
    assert_no_panic(&output.stderr);
    assert!(!output.stderr.contains("s3cret"), "{}", output.stderr);
    assert_eq!((all(&fleet, "WhiteList").len(), all(&fleet, "Error").len()), (0, 0), "neither dropped nor rejected");
}

fn a_broker_that_goes_for_a_while_is_waited_for_on(engine: Engine) {
    let Some(mut fleet) = Fleet::new(engine) else { return };
    super::traffic::write_caches(&fleet);
    let mut kafka = fleet.kafka.take().expect("on Kafka");
    let send =
        |kafka: &crate::support::Kafka, numbers: std::ops::Range<usize>| kafka.produce("Source", numbers.map(raw));
    // Not there yet, for the pusher either
    kafka.stop();
    let mut stops = fleet.metrobus(&["run"]).spawn();
    let lines: String = (0..5).map(|n| format!("{{\"at\":\"Source\",\"n\":{n},{KNOWN}}}\n")).collect();
    let mut pusher = fleet.metrobus(&["pusher", "--from", "-", "--rate", "0"]).stdin(lines).spawn();
    for process in [&mut stops, &mut pusher] {
        process.wait_for_stderr(&format!("waits for the bus: Kafka at {}", kafka.brokers()), SOON);
    }
    kafka.restart();
    let pushed = pusher.wait(DEADLINE).assert_code(0);
    assert!(pushed.stderr.contains("5 sent to Source, 5 confirmed"), "{}", pushed.stderr);
    wait_for_arrivals(&fleet, &mut stops, 5);

    // Gone in the midst of it, then silent without a closed connection
    send(&kafka, 5..50);
    let waiting = |stops: &Process| stops.stderr_text().matches("waits for ").count();
    let before = waiting(&stops);
    kafka.kill();
    wait_until("a word that it waits", SOON, || (waiting(&stops) > before).then_some(()));
    kafka.restart();
    send(&kafka, 50..100);
    wait_for_arrivals(&fleet, &mut stops, 100);
    send(&kafka, 100..150);
    kafka.pause();
    std::thread::sleep(Duration::from_secs(3));
    kafka.resume();
    send(&kafka, 150..200);
    wait_for_arrivals(&fleet, &mut stops, 200);
    stops.signal(Signal::TERM);
    let output = stops.wait(DEADLINE).assert_code(0);
    assert_no_panic(&output.stderr);
    let told = output.stderr.lines().filter(|line| line.contains("waits for")).count();
    assert!(told < 40, "it says so now and then, not all the time: {told} times");
    let mut numbers: Vec<_> =
        kafka.read_all("Log", true).iter().map(|r| r.json()["payload"]["n"].as_u64().unwrap()).collect();
    numbers.sort_unstable();
    if engine == Engine::AtLeastOnce {
        numbers.dedup();
    }
    assert_eq!(numbers, (0..200).collect::<Vec<_>>());
    let errors = kafka.partitions("Error").map(|_| kafka.read_all("Error", true));
    assert_eq!(errors.unwrap_or_default(), [], "no message is rejected for it");
}

#[test]
fn a_broker_that_goes_for_a_while_is_waited_for() {
    a_broker_that_goes_for_a_while_is_waited_for_on(Engine::AtLeastOnce);
}

#[test]
fn a_broker_that_goes_for_a_while_is_waited_for_exactly_once() {
    a_broker_that_goes_for_a_while_is_waited_for_on(Engine::ExactlyOnce);
}

#[test]
fn a_broker_that_is_something_else_is_unreachable_and_named() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", free_port())).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = std::io::Write::write_all(&mut &stream, b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let nobody = format!("127.0.0.1:{}", free_port());
    let fleet = Fleet::new(Engine::Sqlite).unwrap();
    super::traffic::write_caches(&fleet);
    let mut calls = Vec::new();
    for brokers in [address.to_string(), nobody, "no-such-host.invalid:9092".to_owned()] {
        for command in [&["busdriver", "--drain"][..], &["pusher"], &["tail", "Log"], &["topics"]] {
            let call = fleet.metrobus(command).arg("--connect-timeout").arg("500ms");
            let call = call.env("METROBUS__BUS", "kafka").env("METROBUS__KAFKA__BROKERS", &brokers);
            calls.push((brokers.clone(), call.spawn()));
        }
    }
    for (brokers, call) in calls {
        let output = call.wait(DEADLINE).assert_code(69);
        assert_no_panic(&output.stderr);
        assert!(output.stderr.contains(&brokers), "{}: it names the broker:\n{}", output.call, output.stderr);
        let errors = output.stderr.lines().filter(|line| line.starts_with("metrobus: ")).count();
        assert_eq!(errors, 1, "{}:\n{}", output.call, output.stderr);
    }
}

/// Takes its time over the first message, so that the end of its partition is seen meanwhile. Then it waits for a need
/// of its own, while the next message comes to that partition.
struct Waiting {
    client: rdkafka::ClientConfig,
    topic: String,
    route: String,
    calls: u32,
}

impl Waiting {
    fn put(&self, n: usize, partition: i32) {
        let value = format!(r#"{{"header":{{"route":["{}"]}},"payload":{{"n":{n}}}}}"#, self.route);
        produce_with(&self.client, &self.topic, [NewRecord::new(value).partition(partition)]).expect("produce");
    }
}

impl Handler for Waiting {
    fn handle(&mut self, messages: &mut [Message<'_>]) -> anyhow::Result<Vec<Verdict>> {
        self.calls += 1;
        match self.calls {
            1 => {
                std::thread::sleep(Duration::from_secs(2));
                self.put(1, 1);
            }
            2 => anyhow::bail!("what it needs is away"),
            3 => {
                self.put(2, 0);
                anyhow::bail!("what it needs is still away");
            }
            _ => {}
        }
        Ok(messages.iter().map(|_| Verdict::Forward).collect())
    }
}

/// A stop that waits fetches nothing meanwhile, and then goes on where it was, to the record.
fn what_comes_while_a_stop_waits_is_handled_on(engine: Engine) {
    let Some(mut fleet) = Fleet::shared(engine) else { return };
    fleet.set("KAFKA__PARTITIONS", "2");
    let kafka = fleet.kafka.as_ref().expect("on Kafka");
    let topic = fleet.topic("WhiteList");
    kafka.create_topic(&topic, 2, &[]);
    let (client, route) = (kafka.client(), fleet.topic("Log"));
    let handler = Waiting { client, topic: topic.clone(), route, calls: 0 };
    handler.put(0, 0);
    let (config, shutdown) = (super::traffic::config(&fleet), Shutdown::default());
    let stop = Stop::new("own", &Topic::new(&topic).unwrap(), handler, &config);
    std::thread::scope(|scope| {
        let stop = scope.spawn(|| stop.run(&*bus::open(&config).unwrap(), &shutdown));
        let forwarded =
            || all(&fleet, "Log").iter().map(|record| record.json()["payload"]["n"].as_u64()).collect::<Vec<_>>();
        let arrived = try_until(Duration::from_secs(20), || (forwarded().len() >= 3).then_some(()));
        shutdown.request();
        stop.join().unwrap().unwrap();
        assert!(arrived.is_some(), "only {:?} were sent on", forwarded());
    });
}

#[test]
fn what_comes_while_a_stop_waits_is_handled() {
    what_comes_while_a_stop_waits_is_handled_on(Engine::AtLeastOnce);
}

#[test]
fn what_comes_while_a_stop_waits_is_handled_exactly_once() {
    what_comes_while_a_stop_waits_is_handled_on(Engine::ExactlyOnce);
}
