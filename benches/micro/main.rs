//! The parts of a hop one by one: `cargo bench --bench micro`. Every figure is of a batch of [`BATCH`] messages or keys.

use std::{
    fmt::Write as _,
    fs,
    hint::black_box,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use criterion::{BatchSize, BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use metrobus::{
    Config, Drain, Message, Shutdown, Stop, Topic,
    bus::{Batch, Bus, Headers, Outbox, Record, memory::MemoryBus},
    cache::{Keys, Source, Values},
    roles::{self, Context, Kind},
    rules::{self, Rules},
    slip::{Limits, Stops},
};

/// Messages or keys at once, as a handler sees them.
const BATCH: usize = 1000;

/// Accounts of the file cache, and lines of the whitelist.
const ACCOUNTS: usize = 1_000_000;

fn main() {
    let only = std::env::var("METROBUS_BENCH_ONLY").unwrap_or_default();
    if !only.is_empty() && !only.split(',').any(|name| name == "micro") {
        return;
    }
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(20)
        .configure_from_args();
    let folder = tempfile::tempdir().expect("make a temporary folder");
    message(&mut criterion);
    rules(&mut criterion, folder.path());
    caches(&mut criterion, folder.path());
    stop(&mut criterion, folder.path());
    criterion.final_summary();
}

fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(BATCH as u64));
    group
}

/// Messages as they leave the busdriver.
fn batch() -> Batch {
    let header = r#"{"route": ["Log", "WhiteList"], "original_route": ["Log", "WhiteList", "AddEmail"], "historical_route": ["AddEmail"]}"#;
    let mut batch = Batch::default();
    for id in 0..BATCH {
        let account = account(id);
        let payload = format!(r#"{{"x": {id}, "message_type_code": "ALTABC", "account_number": {account}}}"#);
        let value = format!(r#"{{"header": {header}, "payload": {payload}}}"#);
        batch.push(Record {
            partition: 0,
            offset: id as i64,
            timestamp: 0,
            key: Some(account.to_string().as_bytes()),
            headers: Headers::default(),
            value: Some(value.as_bytes()),
        });
    }
    batch
}

fn account(id: usize) -> usize {
    ACCOUNTS + id * 7919 % ACCOUNTS
}

fn stops() -> Stops {
    Stops::new(["AddEmail", "WhiteList", "Log"].map(|name| Topic::new(name).expect("a topic")))
}

/// The wire format: taking a value apart, setting a field, writing the value for the next stop.
fn message(criterion: &mut Criterion) {
    let (batch, limits, stops) = (batch(), Limits::default(), stops());
    let parse = |record| Message::parse(record, &limits, &stops).expect("a message");
    let parsed: Vec<_> = batch.iter().map(parse).collect();
    let mut set = parsed.clone();
    for message in &mut set {
        message.payload.set("email", "user.1000000@mail.example").expect("set a field");
    }
    let mut group = group(criterion, "message");
    group.bench_function("slip: parse", |bencher| {
        bencher.iter(|| batch.iter().map(parse).for_each(|m| drop(black_box(m))))
    });
    let mut out = Vec::with_capacity(1 << 20);
    let mut write = |messages: &[Message<'_>]| {
        out.clear();
        messages.iter().for_each(|message| message.write_next(&mut out));
        black_box(&out);
    };
    group.bench_function("slip: advance and write", |bencher| bencher.iter(|| write(&parsed)));
    group.bench_function("splice: write with a field set", |bencher| bencher.iter(|| write(&set)));
    group.bench_function("splice: set a field", |bencher| {
        let set = |mut messages: Vec<Message<'_>>| {
            for message in &mut messages {
                message.payload.set("email", "user.1000000@mail.example").expect("set a field");
            }
        };
        bencher.iter_batched(|| parsed.clone(), set, BatchSize::SmallInput);
    });
    group.finish();
}

/// Ten rules of comparisons over 250 bytes, of which the last one matches.
fn rules(criterion: &mut Criterion, folder: &Path) {
    let mut toml = String::new();
    for rule in 0..10 {
        let least = if rule < 9 { 3_000_000 + rule } else { 0 };
        let _ = writeln!(
            toml,
            "[[busdriver.rule]]\nname = \"rule{rule}\"\nroute = [\"Log\"]\nwhen = 'payload.message_type_code == \"ALTABC\" && \
             payload.account_number >= {least} && payload.country in [\"NL\", \"BE\"]'"
        );
    }
    let file = folder.join("rules.toml");
    fs::write(&file, toml).expect("write the rules");
    let config = Config::load(Some(&file), [("", "")]).expect("a configuration");
    let rules = Rules::new(&config).expect("rules");
    let mut batch = Batch::default();
    for id in 0..BATCH {
        let value = format!(
            r#"{{"x": {id}, "created": "2026-01-31T12:00:00Z", "customer": "Ada Lovelace", "country": "NL", "amount": 2.50, "currency": "EUR", "reference": "0123456789abcdef0123456789abcdef", "message_type_code": "ALTABC", "account_number": {:07}, "tags": [1]}}"#,
            account(id)
        );
        batch.push(Record {
            partition: 0,
            offset: id as i64,
            timestamp: 0,
            key: None,
            headers: Headers::default(),
            value: Some(value.as_bytes()),
        });
    }
    let limits = Limits::default();
    let parse = |record| Message::parse_untrusted(record, &limits).expect("a message");
    let (messages, now) = (batch.iter().map(parse).collect::<Vec<_>>(), rules::now());
    assert!(
        messages.iter().all(|message| (240..=255).contains(&message.whole().len())),
        "{}",
        messages[0].whole().len()
    );
    let mut group = group(criterion, "rules");
    group.bench_function("ten over 250 bytes", |bencher| {
        bencher.iter(|| messages.iter().for_each(|message| drop(black_box(rules.judge(message, now)))));
    });
    group.finish();
}

/// Look-ups in batches; each batch asks for other keys, so that they are not in the processor's cache.
fn caches(criterion: &mut Criterion, folder: &Path) {
    let (emails, whitelist) = (folder.join("emails.dat"), folder.join("whitelist.dat"));
    write_caches(&emails, &whitelist, ACCOUNTS);
    let mut group = group(criterion, "cache");
    let mut values = Values::default();
    let (hits, misses) = (batches(|id| account(id).to_string()), batches(|id| (account(id) + ACCOUNTS).to_string()));
    for (kind, source) in [("file", Source::File(emails.clone())), ("lmdb", Source::Lmdb(build(&emails)))] {
        let mut lookup = source.lookup().expect("open the emails");
        for (what, batches) in [("hit", &hits), ("miss", &misses)] {
            let mut batches = batches.iter().cycle();
            group.bench_function(format!("{kind}: {what}"), |bencher| {
                bencher.iter(|| lookup.get(batches.next().expect("no end"), &mut values).expect("an answer"));
            });
        }
    }
    let mut membership = Source::File(whitelist).membership().expect("read the whitelist");
    let listed = batches(|id| email(account(id)));
    let mut batches = listed.iter().cycle();
    let mut answers = Vec::new();
    group.bench_function("whitelist: hit", |bencher| {
        bencher.iter(|| membership.contains(batches.next().expect("no end"), &mut answers).expect("an answer"));
    });
    group.finish();
}

/// The same emails in LMDB, as a user has them built.
fn build(emails: &Path) -> PathBuf {
    let built = emails.with_extension("lmdb");
    let mut command = Command::new(env!("CARGO_BIN_EXE_metrobus"));
    command.args(["-q", "cache", "build"]).arg(emails).arg("--out").arg(&built).stdout(Stdio::null());
    assert!(command.status().expect("start metrobus").success());
    built
}

fn batches(key: impl Fn(usize) -> String) -> Vec<Keys> {
    let batch = |number: usize| {
        let mut keys = Keys::default();
        (0..BATCH).for_each(|id| keys.push(Some(&key(number * BATCH + id))));
        keys
    };
    (0..ACCOUNTS / BATCH).map(batch).collect()
}

fn email(account: usize) -> String {
    format!("user.{account}@mail.example")
}

fn write_caches(emails: &Path, whitelist: &Path, accounts: usize) {
    let (mut pairs, mut list) = (String::new(), String::new());
    for account in ACCOUNTS..ACCOUNTS + accounts {
        let _ = writeln!(pairs, "{account},{}", email(account));
        let _ = writeln!(list, "{}", email(account));
    }
    fs::write(emails, pairs).expect("write the emails");
    fs::write(whitelist, list).expect("write the whitelist");
}

/// A whole contactpoint on a bus in memory: poll, parse, look up, set, advance, settle. Its start is not counted, its
/// end is.
fn stop(criterion: &mut Criterion, folder: &Path) {
    const ROUNDS: usize = 20;
    let emails = folder.join("few.dat");
    let lines = (0..BATCH).map(account).map(|account| format!("{account},{}\n", email(account)));
    fs::write(&emails, lines.collect::<String>()).expect("write the emails");
    let config = Config::load(None, [("METROBUS__CONTACTPOINT__FILE", emails)]).expect("a configuration");
    let shutdown = Shutdown::default();
    let context = Context::new(config, shutdown.clone(), None).expect("a context");
    let contactpoint = roles::stops().find(|role| role.name == "contactpoint").expect("the role");
    let Kind::Stop(build) = contactpoint.kind else { panic!("contactpoint is a stop") };
    let (batch, topic) = (Arc::new(batch()), Topic::new("AddEmail").expect("a topic"));
    let mut outbox = Outbox::default();
    for record in batch.iter() {
        outbox.publish(&topic, 0, record.key, record.value);
    }
    let fresh = || {
        let bus = MemoryBus::default();
        let mut publisher = bus.publisher().expect("a publisher");
        (0..ROUNDS).for_each(|_| publisher.publish(&outbox).expect("publish"));
        (bus, build(&context).expect("a stop").drain(Drain::default().join()))
    };
    let run = |(bus, stop): (MemoryBus, Stop)| stop.run(&bus, &shutdown).expect("run the stop");
    let mut group = criterion.benchmark_group("stop");
    group.throughput(Throughput::Elements((BATCH * ROUNDS) as u64));
    group.bench_function("contactpoint in memory", |bencher| {
        bencher.iter_batched(fresh, run, BatchSize::PerIteration);
    });
    group.finish();
}
