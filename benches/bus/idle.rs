//! What a stop that has nothing to do takes: processor and memory, beside its cache.

use std::{fs, thread, time::Duration};

use crate::{
    kafka::unique,
    process::{Running, metrobus},
    report::{Target::AtMost, Unit},
    run::Bench,
    sqlite,
};

/// For start-up, and what it leaves behind, to be over.
const SETTLE: Duration = Duration::from_secs(3);

const WATCHED: Duration = Duration::from_secs(10);

/// Percent of a core, and megabytes.
const TARGETS: (f64, f64) = (0.5, 15.0);

pub fn run(bench: &mut Bench) {
    fs::write(bench.path("few.dat"), "1,ada@mail.example\n").expect("write a small cache");
    let cache = ("CONTACTPOINT__FILE", "few.dat");
    sqlite::remove(bench, "idle.db");
    watch(bench, "SQLite", &[cache, ("SQLITE__PATH", "idle.db")]);
    let listen = ("HTTP__LISTEN", "127.0.0.1:0");
    sqlite::remove(bench, "idle.db");
    watch(bench, "SQLite with http.listen", &[cache, ("SQLITE__PATH", "idle.db"), listen]);
    let Some(broker) = bench.broker.take() else {
        return bench.report.missing("idle stop on Kafka", "METROBUS_TEST_KAFKA names no broker");
    };
    {
        let (topic, group) = (broker.topic(&unique("idle"), 4), unique("bench"));
        let settings = [
            cache,
            ("BUS", "kafka"),
            ("KAFKA__BROKERS", &broker.address),
            ("KAFKA__GROUP", &group),
            ("CONTACTPOINT__TOPIC", &topic.name),
            // The default route names it
            ("STOPS", "AddEmail"),
        ];
        watch(bench, "Kafka", &settings);
    }
    bench.broker = Some(broker);
}

fn watch(bench: &mut Bench, name: &str, settings: &[(&str, &str)]) {
    let mut stop = Running::start(metrobus(bench, &["contactpoint"], settings));
    thread::sleep(SETTLE);
    let before = stop.cpu_exactly();
    thread::sleep(WATCHED);
    let percent = (stop.cpu_exactly() - before) / WATCHED.as_secs_f64() * 100.0;
    let memory = stop.memory("VmRSS");
    assert!(!stop.has_ended(), "the stop has ended");
    stop.stop();
    let what = format!("idle stop on {name}, with a cache of one line");
    bench.report.figure(&format!("{what}: of a core"), percent, Unit::Percent, AtMost(TARGETS.0));
    bench.report.figure(&format!("{what}: memory"), memory, Unit::Megabytes, AtMost(TARGETS.1));
}
