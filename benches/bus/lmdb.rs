//! Emails in LMDB, more than fit in a table in memory: built once, opened at once, looked up from the page cache.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use metrobus::cache::{Keys, Source, Value, Values};

use crate::{
    process::{metrobus, time},
    report::{
        Target::{AtLeast, AtMost, None as NoTarget},
        Unit,
    },
    run::Bench,
};

/// Keys of one look-up, and look-ups of one pass.
const BATCH: usize = 1000;
const PASS: usize = 1000;

const FIRST_ACCOUNT: u64 = 1_000_000;

pub fn run(bench: &mut Bench) {
    let what = format!("LMDB, {:.1} million emails", bench.setup.emails as f64 / 1e6);
    let file = bench.path("many.dat");
    write_emails(&file, bench.setup.emails).expect("write the emails");
    let built = bench.path("many.lmdb");
    let seconds = time(metrobus(bench, &["cache", "build", "many.dat", "--out", "many.lmdb"], &[]));
    bench.report.figure(&format!("{what}: build"), seconds, Unit::Seconds, AtMost(180.0));
    look_up(bench, &what, &built);
    for path in [file, built] {
        let _ = fs::remove_file(path);
    }
}

fn write_emails(path: &Path, count: u64) -> std::io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    for number in 0..count {
        // In no order that a tree could profit from
        let account = FIRST_ACCOUNT + number * 1_000_003 % count;
        writeln!(out, "{account},user.{account}@mail.example")?;
    }
    out.flush()
}

/// In a process of its own, whose memory is that of the look-ups.
fn look_up(bench: &mut Bench, what: &str, path: &Path) {
    let mut command = Command::new(std::env::current_exe().expect("the path of this program"));
    command.arg("lmdb").arg(path).arg(bench.setup.emails.to_string()).stderr(Stdio::inherit());
    let output = command.output().expect("start the look-ups");
    let text = String::from_utf8_lossy(&output.stdout);
    let figures: Vec<f64> = text.split_whitespace().filter_map(|figure| figure.parse().ok()).collect();
    let [open, rate, memory] = figures[..] else {
        return bench
            .report
            .missing(&format!("{what}: look-ups"), text.lines().last().unwrap_or("the look-ups failed"));
    };
    bench.report.figure(&format!("{what}: open"), open, Unit::Millis, AtMost(50.0));
    let rates = format!("{what}: look-ups, warm, one thread, 1,000 at once");
    bench.report.figure(&rates, rate, Unit::PerSecond, AtLeast(500_000.0));
    bench.report.figure(&format!("{what}: private memory of the look-ups"), memory, Unit::Megabytes, AtMost(50.0));
    let size = fs::metadata(path).map_or(0.0, |data| data.len() as f64 / 1e6);
    bench.report.figure(&format!("{what}: on the disk"), size, Unit::Megabytes, NoTarget);
}

/// Prints the milliseconds of opening, the warm look-ups a second and the megabytes that are this process's alone.
/// Arguments: the database, how many emails it has.
pub fn measure(arguments: &[String]) {
    let [path, count] = arguments else { panic!("lmdb PATH COUNT") };
    let count: u64 = count.parse().expect("a count");
    let start = Instant::now();
    let mut cache = Source::Lmdb(path.into()).lookup().expect("open the cache");
    cache.connect().expect("reach the cache");
    let opened = start.elapsed().as_secs_f64() * 1e3;
    let batches = batches(count);
    let mut values = Values::default();
    let mut pass = || {
        let start = Instant::now();
        let mut found = 0;
        for keys in &batches {
            cache.get(keys, &mut values).expect("an answer");
            found += values.iter().filter(|value| matches!(value, Value::Found(_))).count();
        }
        assert_eq!(found, BATCH * PASS, "every account is there");
        start.elapsed().as_secs_f64()
    };
    // The first one brings the pages into memory
    pass();
    let seconds = pass();
    println!("{opened} {} {}", (BATCH * PASS) as f64 / seconds, private_memory());
}

/// Accounts from all over the range, in no order.
fn batches(count: u64) -> Vec<Keys> {
    let mut number = 0_u64;
    let mut batch = || {
        let mut keys = Keys::default();
        for _ in 0..BATCH {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            keys.push(Some(&(FIRST_ACCOUNT + (number >> 11) % count).to_string()));
        }
        keys
    };
    (0..PASS).map(|_| batch()).collect()
}

/// Megabytes that are no pages of a file, which the system takes back when it needs them.
fn private_memory() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kilobytes.unwrap_or(0.0) / 1024.0
}
