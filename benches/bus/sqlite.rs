//! SQLite, durable: the pusher, one hop, three stops on one file, and how fast rows can be copied at all.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use metrobus::{Topic, bus::Bus};
use rusqlite::{Connection, params};

use crate::{
    process::{DEADLINE, Running, metrobus, time_silently, until},
    report::{
        Target::{self, AtLeast},
        Unit,
    },
    run::{Bench, lines, median, message, raw},
};

/// The bus.
pub const FILE: &str = "bus.db";

/// What [`write_messages`] writes.
pub const MESSAGES: &str = "messages.ndjson";

pub fn run(bench: &mut Bench) {
    let messages = bench.setup.on_sqlite();
    write_messages(bench, messages);
    fs::write(bench.path("raw.ndjson"), lines(messages, raw)).expect("write the raw records");
    let (mut pushes, mut hops, mut lives) = (Vec::new(), Vec::new(), Vec::new());
    let (mut journeys, mut relays) = (Vec::new(), Vec::new());
    for _ in 0..bench.setup.runs {
        remove(bench, FILE);
        pushes.push(push(bench, MESSAGES, "AddEmail"));
        let (rate, life) = hop(bench, messages, &[]);
        hops.push(rate);
        lives.push(life);
        remove(bench, FILE);
        push(bench, "raw.ndjson", "Source");
        journeys.push(journey(bench, messages));
        remove(bench, FILE);
        relays.push(relay(&bench.path("relay.db"), messages));
        remove(bench, "relay.db");
    }
    let rate = |seconds: Vec<f64>| messages as f64 / median(seconds);
    let (push, life, journey, relay) = (rate(pushes), rate(lives), rate(journeys), rate(relays));
    let hop = median(hops);
    let report = &mut bench.report;
    report.figure("SQLite pusher, from a file, start and end included", push, Unit::PerSecond, AtLeast(200_000.0));
    report.figure("SQLite hop, from the first output to the last", hop, Unit::PerSecond, AtLeast(300_000.0));
    report.figure("the same, start (a cache of a million) and end included", life, Unit::PerSecond, Target::None);
    let show = |rate| Unit::PerSecond.show(rate);
    let what = "SQLite hop : rows copied unread, 1,000 a transaction";
    report.ratio(what, &show(hop), &show(relay), hop / relay, Target::None);
    let what = "SQLite journeys, three stops in three processes, start included";
    report.figure(what, journey, Unit::PerSecond, AtLeast(150_000.0));
}

/// Writes messages as they leave the busdriver, for [`push`].
pub fn write_messages(bench: &Bench, count: usize) {
    fs::write(bench.path(MESSAGES), lines(count, |id| message(id).1)).expect("write the messages");
}

/// Removes a database with its log.
pub fn remove(bench: &Bench, name: &str) {
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(bench.path(&format!("{name}{suffix}")));
    }
}

/// Fills a topic from a file; gives the seconds it took.
pub fn push(bench: &Bench, file: &str, topic: &str) -> f64 {
    let settings = [("SQLITE__PATH", FILE), ("PUSHER__TOPIC", topic)];
    time_silently(metrobus(bench, &["pusher", "--from", file, "--rate", "0"], &settings))
}

/// The bus in the file `name`, for this process.
pub fn open(bench: &Bench, name: &str) -> Box<dyn Bus> {
    bench.bus(&[("SQLITE__PATH", name)])
}

/// A contactpoint's messages a second from the first output to the last, and the seconds that it took in all.
pub fn hop(bench: &Bench, messages: usize, more: &[(&str, &str)]) -> (f64, f64) {
    let bus = open(bench, FILE);
    bus.create_topics(&[Topic::new("WhiteList").expect("a topic")]).expect("create the next topic");
    let settings: Vec<_> = more.iter().copied().chain([("SQLITE__PATH", FILE)]).collect();
    let start = Instant::now();
    let mut stop = Running::start(metrobus(bench, &["contactpoint", "--drain"], &settings));
    let (first, before) = wait_for(&*bus, "WhiteList", 1, start);
    let (last, after) = wait_for(&*bus, "WhiteList", messages, start);
    until("the stop has ended", || stop.has_ended());
    let seconds = last.duration_since(first).as_secs_f64().max(1e-3);
    ((after - before) as f64 / seconds, start.elapsed().as_secs_f64())
}

/// Seconds from the start of three stops until the last topic has all that Source has.
fn journey(bench: &Bench, messages: usize) -> f64 {
    let bus = open(bench, FILE);
    bus.create_topics(&[Topic::new("Log").expect("a topic")]).expect("create the last topic");
    let start = Instant::now();
    let stop = |role: &str| Running::start(metrobus(bench, &[role], &[("SQLITE__PATH", FILE)]));
    let _stops = ["busdriver", "contactpoint", "whitelist"].map(stop);
    let (end, _) = wait_for(&*bus, "Log", messages, start);
    end.duration_since(start).as_secs_f64()
}

/// When a topic is seen to have `least` records, and how many it has then.
fn wait_for(bus: &dyn Bus, name: &str, least: usize, start: Instant) -> (Instant, usize) {
    loop {
        let topics = bus.topics().expect("read the topics");
        let records = topics.iter().find(|topic| topic.name == name).map_or(0, |topic| topic.records as usize);
        if records >= least {
            return (Instant::now(), records);
        }
        assert!(start.elapsed() < DEADLINE, "{name} has {records} of {least}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Copies messages from table to table, as durable as the hop; gives the seconds it took.
fn relay(file: &Path, messages: usize) -> f64 {
    let mut connection = Connection::open(file).expect("open a database");
    connection.pragma_update(None, "journal_mode", "wal").expect("set the journal");
    connection.pragma_update(None, "synchronous", "full").expect("set synchronous");
    connection.pragma_update(None, "wal_autocheckpoint", 4000).expect("set the checkpoints");
    let columns = "offset INTEGER PRIMARY KEY, timestamp INTEGER NOT NULL, key BLOB, headers BLOB, value BLOB";
    let tables = format!(
        "CREATE TABLE input ({columns}); CREATE TABLE output ({columns}); CREATE TABLE cursor (next INTEGER); INSERT INTO cursor VALUES (0);"
    );
    connection.execute_batch(&tables).expect("create the tables");
    fill(&mut connection, messages);
    let mut read = connection.prepare("SELECT * FROM input WHERE offset >= ?1 LIMIT 1000").expect("prepare");
    let mut write = connection.prepare("INSERT INTO output VALUES (?1, ?2, ?3, ?4, ?5)").expect("prepare");
    let start = Instant::now();
    let mut next = 0_i64;
    loop {
        connection.execute_batch("BEGIN IMMEDIATE").expect("begin");
        let before = next;
        let mut rows = read.query([next]).expect("read");
        while let Some(row) = rows.next().expect("read") {
            let number = |index| row.get::<_, i64>(index).expect("a number");
            let field = |index| row.get_ref(index).expect("a field").as_bytes_or_null().expect("bytes");
            write.execute(params![number(0), number(1), field(2), field(3), field(4)]).expect("write");
            next = number(0) + 1;
        }
        drop(rows);
        connection.execute("UPDATE cursor SET next = ?1", [next]).expect("move the cursor");
        connection.execute_batch("COMMIT").expect("commit");
        if next == before {
            return start.elapsed().as_secs_f64();
        }
    }
}

fn fill(connection: &mut Connection, messages: usize) {
    let transaction = connection.transaction().expect("begin");
    {
        let mut write =
            transaction.prepare("INSERT INTO input VALUES (?1, 1700000000000, ?2, NULL, ?3)").expect("prepare");
        for id in 0..messages {
            let (key, value) = message(id);
            write.execute(params![id as i64, key.as_bytes(), value.as_bytes()]).expect("write");
        }
    }
    transaction.commit().expect("commit");
}
