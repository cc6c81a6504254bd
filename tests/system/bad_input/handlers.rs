//! Handlers of a library user that fail: the message pays, not the stop.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use metrobus::{Drain, Handler, Message, Shutdown, Stop, Topic, Verdict, bus, each, stats::Stats};

use super::traffic::{all, config, fleet, put};
use crate::{
    fleet::{DEADLINE, Engine, Fleet},
    support::NewRecord,
};

/// Runs a stop of one's own on the topic WhiteList until it is drained.
fn run(fleet: &Fleet, handler: impl Handler + 'static) -> Stats {
    let config = config(fleet);
    let stop = Stop::new("own", &Topic::new(&fleet.topic("WhiteList")).unwrap(), handler, &config);
    let stop = stop.drain(Drain::default().join());
    let (stats, shutdown) = (stop.stats(), Shutdown::default());
    let late = shutdown.clone();
    // A stop that goes round in circles ends too, with something missing
    std::thread::spawn(move || {
        std::thread::sleep(DEADLINE);
        late.request();
    });
    stop.run(&*bus::open(&config).unwrap(), &shutdown).unwrap();
    stats.snapshot()
}

fn with_messages(engine: Engine, count: usize) -> Option<Fleet> {
    let mut fleet = fleet(engine)?;
    fleet.set("RETRY__FIRST", "1ms");
    fleet.set("RETRY__MAX", "5ms");
    fleet.set("RETRY__MAX_ATTEMPTS", "3");
    let value = |n| format!(r#"{{"header":{{"route":["{}"]}},"payload":{{"n":{n}}}}}"#, fleet.topic("Log"));
    put(&fleet, "WhiteList", (0..count).map(|n| NewRecord::new(value(n)).key("k")));
    Some(fleet)
}

fn n(message: &Message<'_>) -> u64 {
    message.payload.get("n").unwrap().parse().unwrap()
}

fn numbers(fleet: &Fleet, topic: &str) -> Vec<u64> {
    all(fleet, topic).iter().map(|record| record.json()["payload"]["n"].as_u64().unwrap()).collect()
}

fn a_handler_that_panics_costs_its_message_only_on(engine: Engine) {
    let Some(fleet) = with_messages(engine, 300) else { return };
    let attempts = Arc::new(Mutex::new(BTreeMap::new()));
    let counting = Arc::clone(&attempts);
    let stats = run(
        &fleet,
        each(move |message| {
            let n = n(message);
            let attempt = { *counting.lock().unwrap().entry(n).and_modify(|count| *count += 1).or_insert(1) };
            match n {
                7 => panic!("at every attempt"),
                // In the batch, alone, and no more
                200 if attempt < 3 => panic!("at first"),
                250 => std::panic::panic_any(5),
                _ => Verdict::Forward,
            }
        }),
    );
    let expected: Vec<_> = (0..300).filter(|n| ![7, 250].contains(n)).collect();
    assert_eq!(numbers(&fleet, "Log"), expected, "all others, in their order");
    let letters = all(&fleet, "Error");
    assert_eq!(numbers(&fleet, "Error"), [7, 250]);
    for letter in letters {
        assert_eq!(letter.header("metrobus.reason").unwrap(), "handler panicked; gave up after 3 attempts");
        assert_eq!(letter.header("metrobus.attempt").unwrap(), "3");
        assert_eq!(letter.header("metrobus.stop").unwrap(), "own");
    }
    assert_eq!((stats.read, stats.forwarded), (300, 298));
    assert!(attempts.lock().unwrap()[&7] >= 3);
}

#[test]
fn a_handler_that_panics_costs_its_message_only_on_sqlite() {
    a_handler_that_panics_costs_its_message_only_on(Engine::Sqlite);
}

#[test]
fn a_handler_that_panics_costs_its_message_only_on_kafka() {
    a_handler_that_panics_costs_its_message_only_on(Engine::AtLeastOnce);
}

#[test]
fn a_handler_that_panics_costs_its_message_only_on_kafka_exactly_once() {
    a_handler_that_panics_costs_its_message_only_on(Engine::ExactlyOnce);
}

/// Gives what no handler should: too few verdicts, then too many, then an error that passes.
struct Careless(u32);

impl Handler for Careless {
    fn handle(&mut self, messages: &mut [Message<'_>]) -> anyhow::Result<Vec<Verdict>> {
        self.0 += 1;
        match self.0 {
            1 => anyhow::bail!("what it needs is away"),
            2 => Ok(vec![Verdict::Forward]),
            3 => Ok(vec![Verdict::Forward; messages.len() + 1]),
            _ => Ok(vec![Verdict::Forward; messages.len()]),
        }
    }
}

#[test]
fn a_handler_that_cannot_count_loses_nothing() {
    let mut fleet = with_messages(Engine::Sqlite, 30).unwrap();
    fleet.set("BATCH", "10");
    let stats = run(&fleet, Careless(0));
    assert_eq!(numbers(&fleet, "Log"), (20..30).collect::<Vec<_>>());
    assert_eq!(numbers(&fleet, "Error"), (0..20).collect::<Vec<_>>());
    let reasons: Vec<_> = all(&fleet, "Error").iter().map(|letter| letter.header("metrobus.reason").unwrap()).collect();
    assert_eq!(reasons[0], "handler gave 1 verdicts on 10 messages");
    assert_eq!(reasons[10], "handler gave 11 verdicts on 10 messages");
    assert_eq!(stats.rejected.values().sum::<u64>(), 20);
}

#[test]
fn what_a_handler_says_and_sets_is_written_as_it_is() {
    let fleet = with_messages(Engine::Sqlite, 4).unwrap();
    let text = "\"\\\n\u{0}\u{1b}é🚍\u{2028}";
    run(
        &fleet,
        each(move |message| match n(message) {
            0 => Verdict::reject("ü".repeat(10_000)),
            1 => Verdict::reject(""),
            2 => Verdict::reject(text),
            _ => match message.payload.set(text, text) {
                Ok(()) => Verdict::Forward,
                Err(error) => Verdict::reject(error.to_string()),
            },
        }),
    );
    let reasons: Vec<_> = all(&fleet, "Error").iter().map(|letter| letter.header("metrobus.reason").unwrap()).collect();
    assert_eq!(reasons, ["ü".repeat(500), String::new(), text.to_owned()], "a reason is cut after 1000 bytes");
    assert_eq!(all(&fleet, "Log")[0].json()["payload"], serde_json::json!({"n": 3, text: text}));
}

#[test]
fn a_handler_whose_need_never_comes_back_ends_when_asked() {
    let fleet = with_messages(Engine::Sqlite, 3).unwrap();
    struct Away(Shutdown, u32);
    impl Handler for Away {
        fn handle(&mut self, _: &mut [Message<'_>]) -> anyhow::Result<Vec<Verdict>> {
            self.1 += 1;
            if self.1 == 3 {
                self.0.request();
            }
            anyhow::bail!("away for good")
        }
    }
    let (config, shutdown) = (config(&fleet), Shutdown::default());
    let stop = Stop::new("own", &Topic::new("WhiteList").unwrap(), Away(shutdown.clone(), 0), &config);
    let begun = std::time::Instant::now();
    stop.run(&*bus::open(&config).unwrap(), &shutdown).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10));
    run(&fleet, each(|_| Verdict::Forward));
    assert_eq!(numbers(&fleet, "Log"), [0, 1, 2], "nothing was acknowledged");
}
