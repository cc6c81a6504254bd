//! How long it takes until there is something to see.

use std::fs;

use crate::{
    process::{Running, metrobus, time},
    report::{
        Target::{self, AtMost},
        Unit,
    },
    run::{Bench, median},
    sqlite,
};

/// Lines of the long whitelist.
const LISTED: usize = 500_000;

pub fn run(bench: &mut Bench) {
    let version = median((0..20).map(|_| time(metrobus(bench, &["--version"], &[]))).collect());
    bench.report.figure("metrobus --version", version * 1e3, Unit::Millis, AtMost(10.0));

    let line = |number: usize| format!("listed.{number}@mail.example\n");
    fs::write(bench.path("few.dat"), line(0)).expect("write a short whitelist");
    fs::write(bench.path("long.dat"), (0..LISTED).map(line).collect::<String>()).expect("write a long whitelist");
    ready(bench, "few.dat", "one line", AtMost(100.0));
    ready(bench, "long.dat", "500,000 lines", AtMost(500.0));

    let memory = bench.setup.median(|| {
        let stop = Running::start(metrobus(bench, &["whitelist"], &settings("long.dat")));
        std::thread::sleep(std::time::Duration::from_secs(1));
        let peak = stop.memory("VmHWM");
        stop.stop();
        peak
    });
    bench.report.figure("a stop with a whitelist of 500,000: memory in all", memory, Unit::Megabytes, AtMost(60.0));
    let demo = bench.setup.median(|| time(metrobus(bench, &["demo"], &[])));
    bench.report.figure("demo of 10,000, its fixtures included", demo, Unit::Seconds, AtMost(3.0));
}

fn settings(file: &'static str) -> [(&'static str, &'static str); 2] {
    [("WHITELIST__FILE", file), ("SQLITE__PATH", "ready.db")]
}

/// A stop that reads its cache, looks at an empty topic and ends: it was ready before that.
fn ready(bench: &mut Bench, file: &'static str, size: &str, target: Target) {
    let start = || {
        sqlite::remove(bench, "ready.db");
        time(metrobus(bench, &["whitelist", "--drain"], &settings(file)))
    };
    let seconds = bench.setup.median(start);
    let what = format!("a stop on SQLite with a whitelist of {size}: start, look, end");
    bench.report.figure(&what, seconds * 1e3, Unit::Millis, target);
}
