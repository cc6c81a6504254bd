//! Nothing is lost, by id and not by count, whatever dies on the way.
//!
//! 20,000 messages go through all stops, each a process of its own, while something fails. Then the rest is drained,
//! and every id must have come to the end that its content calls for: finished on Log, dropped (so in no topic beyond
//! the stop that drops it), or a dead letter. Where the bus promises exactly once, none did so twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use metrobus::journal::Outcome;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use crate::{
    fleet::{DEADLINE, Engine, Fleet, STOPS},
    journal::assert_every_journey_has_its_end,
    support::{Process, Redis, Signal, say},
};

const MESSAGES: usize = 20_000;

/// Messages a second: the faults strike while they flow.
const RATE: &str = "4000";

/// One fault at a time: each of these tests fills the machine.
static ALONE: Mutex<()> = Mutex::new(());

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Finished,
    Dropped,
    DeadLetter,
}

fn account(id: usize) -> usize {
    1_000_000 + id * 7919 % 500
}

fn has_email(account: usize) -> bool {
    !account.is_multiple_of(5)
}

fn is_listed(account: usize) -> bool {
    account.is_multiple_of(2)
}

/// The end that message `id` has to come to.
fn end(id: usize) -> End {
    if id % 100 == 99 {
        End::DeadLetter
    } else if has_email(account(id)) && is_listed(account(id)) {
        End::Finished
    } else {
        End::Dropped
    }
}

/// A raw record; one in a hundred has a payload that the busdriver cannot take.
fn record(id: usize) -> String {
    let account = account(id);
    let broken = if end(id) == End::DeadLetter { r#","header":{},"payload":"text""# } else { "" };
    format!(r#"{{"x":{id},"account_number":{account}{broken}}}"#)
}

fn prepare(fleet: &Fleet) {
    let emails = || (1_000_000..1_000_500).filter(|account| has_email(*account));
    fleet.scratch.write("data/emails.dat", emails().map(|a| format!("{a},user{a}@example.com\n")).collect::<String>());
    let listed = emails().filter(|account| is_listed(*account));
    fleet.scratch.write("data/whitelist.dat", listed.map(|a| format!("user{a}@example.com\n")).collect::<String>());
    fleet.scratch.write("records.ndjson", (0..MESSAGES).map(|id| record(id) + "\n").collect::<String>());
}

fn push(fleet: &Fleet) -> Process {
    fleet.metrobus(&["pusher", "--from", "records.ndjson", "--rate", RATE]).spawn()
}

/// The running stops; one that is killed is started again in its place.
struct Running<'a> {
    fleet: &'a Fleet,
    stops: BTreeMap<&'static str, Process>,
}

impl<'a> Running<'a> {
    fn start(fleet: &'a Fleet) -> Self {
        Self { fleet, stops: STOPS.iter().map(|stop| (*stop, fleet.start(stop, "a"))).collect() }
    }

    fn kill_and_restart(&mut self, stop: &'static str) {
        if let Some(process) = self.stops.get_mut(stop) {
            process.kill9();
        }
        self.stops.insert(stop, self.fleet.start(stop, "a"));
    }

    /// Asks all to end, which each does with 0.
    fn end(mut self) {
        for process in self.stops.values_mut() {
            // The one that was started last may not heed signals yet, and would die of it
            process.wait_for_stderr("INFO ready", DEADLINE);
            process.signal(Signal::TERM);
        }
        for process in self.stops.into_values() {
            process.wait(DEADLINE).assert_code(0);
        }
    }
}

fn id(record: &Value) -> Option<usize> {
    let value: Value = serde_json::from_str(record["value"].as_str()?).ok()?;
    let payload = if value["payload"].is_object() { &value["payload"] } else { &value };
    payload["x"].as_u64().map(|id| id as usize)
}

/// Ids of the records of a topic, in the order of each partition.
fn ids(fleet: &Fleet, topic: &str) -> Vec<usize> {
    let all = fleet.tail(topic);
    all.iter().map(|record| id(record).unwrap_or_else(|| panic!("{topic}: no id in {record}"))).collect()
}

/// Where a message was seen: topic, partition, offset.
fn trail(fleet: &Fleet, wanted: usize) -> String {
    let mut seen = vec![format!("{wanted}:")];
    for topic in ["Source", "AddEmail", "WhiteList", "Log", "Error"] {
        for record in fleet.tail(topic).iter().filter(|record| id(record) == Some(wanted)) {
            seen.push(format!("{topic} [{}] {}", record["partition"], record["offset"]));
        }
    }
    seen.join(" ")
}

fn expected(what: End) -> BTreeSet<usize> {
    (0..MESSAGES).filter(|id| end(*id) == what).collect()
}

/// Drains what is left, then asks after every id.
fn assert_nothing_lost(fleet: &Fleet, what: &str) {
    fleet.drain("a");
    let mut repeats = 0;
    for (topic, ends) in [("Log", End::Finished), ("Error", End::DeadLetter)] {
        let found = ids(fleet, topic);
        let once: BTreeSet<_> = found.iter().copied().collect();
        let expected = expected(ends);
        let missing: Vec<_> = expected.difference(&once).take(5).collect();
        let wrong: Vec<_> = once.difference(&expected).take(5).collect();
        let trail = || missing.iter().map(|id| trail(fleet, **id)).collect::<Vec<_>>().join("\n");
        let intact = missing.is_empty() && wrong.is_empty();
        assert!(intact, "{what}: {topic}: missing {missing:?}, wrong {wrong:?}\n{}", trail());
        repeats += found.len() - once.len();
    }
    if fleet.engine == Engine::AtLeastOnce {
        say(&format!("{what}, at least once: {repeats} of {MESSAGES} twice"));
    } else {
        assert_eq!(repeats, 0, "{what}: none twice");
    }
    assert_output_is_whole(fleet, what);
    assert_order(fleet, what);
    let ends = assert_every_journey_has_its_end(fleet, MESSAGES, what);
    if fleet.engine != Engine::AtLeastOnce {
        let expected = [
            (Outcome::Finished, End::Finished),
            (Outcome::Dropped, End::Dropped),
            (Outcome::Rejected, End::DeadLetter),
        ];
        assert_eq!(
            ends,
            expected.map(|(outcome, end)| (outcome, self::expected(end).len())).into(),
            "{what}: ends in the journal"
        );
    }
}

/// What logstop wrote holds every finished message, at least once.
fn assert_output_is_whole(fleet: &Fleet, what: &str) {
    let id = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{what}: {error}: {line}"));
        value["payload"]["x"].as_u64().expect("an id") as usize
    };
    let written: BTreeSet<_> = fleet.scratch.read("log.ndjson").lines().map(id).collect();
    assert!(written == expected(End::Finished), "{what}: logstop's output is not whole");
}

/// First arrivals of one account arrive in the order in which they were sent.
fn assert_order(fleet: &Fleet, what: &str) {
    let (mut seen, mut last) = (BTreeSet::new(), BTreeMap::new());
    for id in ids(fleet, "Log").into_iter().filter(|id| seen.insert(*id)) {
        if let Some(before) = last.insert(account(id), id) {
            assert!(before < id, "{what}: {id} of account {} after {before}", account(id));
        }
    }
}

fn fleet(engine: Engine) -> Option<Fleet> {
    let fleet = Fleet::new(engine)?;
    prepare(&fleet);
    Some(fleet)
}

/// A seed that is printed, so that a failure can be repeated with METROBUS_TEST_SEED.
pub fn random(what: &str) -> ChaCha8Rng {
    let given = std::env::var("METROBUS_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(rand::random);
    say(&format!("{what}: METROBUS_TEST_SEED={seed}"));
    ChaCha8Rng::seed_from_u64(seed)
}

fn stops_are_killed(engine: Engine) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(fleet) = fleet(engine) else { return };
    let mut random = random(&format!("stops are killed, {engine:?}"));
    let mut running = Running::start(&fleet);
    let pusher = push(&fleet);
    for _ in 0..10 {
        // The moment is the fault's, not the test's: any will do
        std::thread::sleep(Duration::from_millis(random.random_range(20..700)));
        running.kill_and_restart(STOPS[random.random_range(0..STOPS.len())]);
    }
    pusher.wait(DEADLINE).assert_code(0);
    running.end();
    assert_nothing_lost(&fleet, &format!("ten kills, {engine:?}"));
}

#[test]
fn nothing_is_lost_when_stops_are_killed_on_sqlite() {
    stops_are_killed(Engine::Sqlite);
}

#[test]
fn nothing_is_lost_when_stops_are_killed_on_kafka() {
    stops_are_killed(Engine::AtLeastOnce);
}

#[test]
fn nothing_is_lost_when_stops_are_killed_on_kafka_exactly_once() {
    stops_are_killed(Engine::ExactlyOnce);
}

fn the_broker_restarts(engine: Engine) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(mut fleet) = fleet(engine) else { return };
    let mut kafka = fleet.kafka.take().expect("on Kafka");
    let running = Running::start(&fleet);
    let pusher = push(&fleet);
    std::thread::sleep(Duration::from_millis(1500));
    kafka.kill();
    std::thread::sleep(Duration::from_secs(2));
    kafka.restart();
    pusher.wait(DEADLINE).assert_code(0);
    running.end();
    assert_nothing_lost(&fleet, &format!("broker restarted, {engine:?}"));
}

#[test]
fn nothing_is_lost_when_the_broker_restarts() {
    the_broker_restarts(Engine::AtLeastOnce);
}

#[test]
fn nothing_is_lost_when_the_broker_restarts_exactly_once() {
    the_broker_restarts(Engine::ExactlyOnce);
}

fn redis_goes_and_returns(engine: Engine) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(mut redis) = Redis::start() else { return };
    let Some(mut fleet) = fleet(engine) else { return };
    fleet.set("REDIS__URL", redis.url());
    fleet.set("REDIS__COUNTERS", "on");
    fleet.metrobus(&["cache", "load"]).run().assert_code(0);
    fleet.set("CONTACTPOINT__CACHE", "redis");
    fleet.set("WHITELIST__CACHE", "redis");
    let running = Running::start(&fleet);
    let pusher = push(&fleet);
    std::thread::sleep(Duration::from_millis(1500));
    redis.kill();
    std::thread::sleep(Duration::from_secs(2));
    redis.restart();
    pusher.wait(DEADLINE).assert_code(0);
    running.end();
    assert_nothing_lost(&fleet, &format!("Redis away, {engine:?}"));
}

#[test]
fn nothing_is_lost_when_redis_goes_and_returns_on_sqlite() {
    redis_goes_and_returns(Engine::Sqlite);
}

#[test]
fn nothing_is_lost_when_redis_goes_and_returns_on_kafka() {
    redis_goes_and_returns(Engine::AtLeastOnce);
}

fn a_second_instance_joins_and_leaves(engine: Engine) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(fleet) = fleet(engine) else { return };
    let running = Running::start(&fleet);
    let pusher = push(&fleet);
    std::thread::sleep(Duration::from_millis(500));
    let mut second: Vec<_> = STOPS.iter().map(|stop| fleet.start(stop, "b")).collect();
    std::thread::sleep(Duration::from_millis(2500));
    for process in &mut second {
        process.signal(Signal::TERM);
    }
    for process in second {
        process.wait(DEADLINE).assert_code(0);
    }
    pusher.wait(DEADLINE).assert_code(0);
    running.end();
    assert_nothing_lost(&fleet, &format!("a second instance, {engine:?}"));
}

#[test]
fn nothing_is_lost_when_a_second_instance_joins_and_leaves_on_sqlite() {
    a_second_instance_joins_and_leaves(Engine::Sqlite);
}

#[test]
fn nothing_is_lost_when_a_second_instance_joins_and_leaves_on_kafka() {
    a_second_instance_joins_and_leaves(Engine::AtLeastOnce);
}

#[test]
fn nothing_is_lost_when_a_second_instance_joins_and_leaves_on_kafka_exactly_once() {
    a_second_instance_joins_and_leaves(Engine::ExactlyOnce);
}
