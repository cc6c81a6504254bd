use std::{
    fs,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::{
    lease::this_process,
    store::explain,
    topic::{append, pack, trim},
    *,
};
use crate::{
    bus::{
        Batch, Outbox,
        conformance::{self, Fixture},
    },
    dead_letter::now_ms,
};

struct File(tempfile::TempDir, std::cell::Cell<u32>);

impl File {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap(), Default::default())
    }

    fn options(&self) -> Options {
        Options {
            path: self.0.path().join("new folder/bus.db"),
            synchronous: Synchronous::Full,
            retention: Duration::ZERO,
            retention_bytes: 0,
        }
    }

    fn sqlite(&self) -> SqliteBus {
        SqliteBus::new(self.options())
    }
}

impl Fixture for File {
    fn bus(&self) -> Box<dyn Bus> {
        Box::new(self.sqlite())
    }

    fn topic(&self, name: &str) -> Topic {
        if name.eq_ignore_ascii_case("case") {
            return topic(name);
        }
        self.1.set(self.1.get() + 1);
        topic(&format!("{name}-{}", self.1.get()))
    }
}

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

fn letters(name: &str) -> DeadLetters {
    DeadLetters { stop: "stop".to_owned(), topic: topic(name), error: topic("Error") }
}

fn publish(bus: &SqliteBus, name: &str, count: usize, timestamp: i64) {
    let mut outbox = Outbox::default();
    for n in 0..count {
        outbox.publish(&topic(name), timestamp, None, Some(n.to_string().as_bytes()));
    }
    bus.publisher().unwrap().publish(&outbox).unwrap();
}

fn forward(batch: &Batch, to: &str) -> Outbox {
    let mut outbox = Outbox::default();
    for index in 0..batch.len() {
        outbox.forward(index, &topic(to), |out| out.extend_from_slice(batch.get(index).value.unwrap()));
    }
    outbox
}

fn records(bus: &SqliteBus, name: &str) -> u64 {
    bus.topics().unwrap().into_iter().find(|info| info.name == name).map_or(0, |info| info.records)
}

#[test]
fn conforms() {
    conformance::run(&File::new());
}

#[test]
fn a_member_that_was_too_slow_does_no_harm() {
    let file = File::new();
    let bus = file.sqlite();
    publish(&bus, "In", 5, 1);
    let mut slow = bus.subscribe(&letters("In")).unwrap();
    let stale = Arc::new(slow.poll(10, Duration::ZERO).unwrap());
    assert_eq!(stale.len(), 5);
    // As if it had not renewed its lease in time
    Connection::open(&file.options().path).unwrap().execute("UPDATE groups SET expires = 0", []).unwrap();
    let other = file.sqlite();
    let mut quick = other.subscribe(&letters("In")).unwrap();
    let batch = Arc::new(quick.poll(10, Duration::ZERO).unwrap());
    assert_eq!(batch.len(), 5);
    slow.settle(&stale, 0..5, &forward(&stale, "Out")).unwrap();
    assert_eq!(records(&bus, "Out"), 0, "passed over");
    quick.settle(&batch, 0..5, &forward(&batch, "Out")).unwrap();
    assert_eq!(records(&bus, "Out"), 5);
    slow.settle(&stale, 0..5, &forward(&stale, "Out")).unwrap();
    assert_eq!(records(&bus, "Out"), 5);
}

#[test]
fn a_member_whose_process_is_gone_is_followed_at_once() {
    let file = File::new();
    let bus = file.sqlite();
    publish(&bus, "In", 1, 1);
    let mut first = bus.subscribe(&letters("In")).unwrap();
    assert_eq!(first.poll(10, Duration::ZERO).unwrap().len(), 1);
    let mut second = file.sqlite().subscribe(&letters("In")).unwrap();
    assert_eq!(second.poll(10, Duration::ZERO).unwrap().len(), 0, "the lease is held");
    // A process of this machine that has ended
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let gone = this_process().replace(&format!(" {} ", std::process::id()), &format!(" {} ", child.id()));
    child.wait().unwrap();
    let connection = Connection::open(&file.options().path).unwrap();
    connection.execute("UPDATE groups SET process = ?1", [gone]).unwrap();
    let end = Instant::now() + LEASE / 2;
    let mut found = 0;
    while found == 0 && Instant::now() < end {
        found = second.poll(10, Duration::from_millis(20)).unwrap().len();
    }
    assert_eq!(found, 1, "long before the lease ends by time");
}

#[test]
fn an_idle_member_keeps_its_lease() {
    let file = File::new();
    let bus = file.sqlite();
    publish(&bus, "In", 1, 1);
    let mut first = bus.subscribe(&letters("In")).unwrap();
    let batch = Arc::new(first.poll(10, Duration::ZERO).unwrap());
    let connection = Connection::open(&file.options().path).unwrap();
    let expiry = || connection.query_row("SELECT expires FROM groups", [], |row| row.get::<_, i64>(0)).unwrap();
    let before = expiry();
    let end = Instant::now() + LEASE;
    while expiry() == before {
        first.keep_alive().unwrap();
        assert!(Instant::now() < end, "the lease was not renewed in time");
        thread::yield_now();
    }
    first.settle(&batch, 0..1, &Outbox::default()).unwrap();
    assert_eq!(first.lag().unwrap(), 0);
}

#[test]
fn another_programs_file_is_left_alone() {
    let file = File::new();
    let path = file.0.path().join("other.db");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE notes (text TEXT)").unwrap();
    let before = fs::read(&path).unwrap();
    let bus = SqliteBus::new(Options { path: path.clone(), ..file.options() });
    let error = bus.connect().unwrap_err();
    assert!(matches!(error, BusError::Fatal(_)));
    let expected = format!("{} is a database of another program; set sqlite.path to a file of its own", path.display());
    assert_eq!(error.to_string(), expected);
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_damaged_file_is_a_clear_error() {
    let file = File::new();
    let path = file.0.path().join("damaged.db");
    fs::write(&path, "this is no database, and long enough to be looked at ".repeat(100)).unwrap();
    let error = SqliteBus::new(Options { path: path.clone(), ..file.options() }).connect().unwrap_err();
    let expected = format!(
        "open the bus {}: the file is damaged or not a bus of metrobus; restore it, or move it away to begin with an \
         empty one (file is not a database)",
        path.display()
    );
    assert_eq!(error.to_string(), expected);

    let bus = file.sqlite();
    publish(&bus, "In", 5000, 1);
    drop(bus);
    let path = file.options().path;
    let mut bytes = fs::read(&path).unwrap();
    let damaged = 4096..bytes.len();
    bytes[damaged].fill(0x5a);
    fs::write(&path, bytes).unwrap();
    let bus = file.sqlite();
    let outcome = bus.subscribe(&letters("In")).and_then(|mut member| member.poll(10, Duration::ZERO));
    assert!(matches!(outcome, Err(BusError::Fatal(_))));
}

#[test]
fn damaged_rows_are_errors_and_no_records() {
    let damages = [
        "UPDATE topic_1 SET records = zeroblob(LENGTH(records)) WHERE last = 19",
        "UPDATE topic_1 SET count = count + 1 WHERE last = 19",
        "UPDATE topic_1 SET records = 1 WHERE last = 19",
        "DELETE FROM topic_1 WHERE last = 19",
    ];
    for damage in damages {
        let file = File::new();
        let bus = file.sqlite();
        for _ in 0..3 {
            publish(&bus, "In", 10, 1);
        }
        Connection::open(&file.options().path).unwrap().execute_batch(damage).unwrap();
        let mut reader = bus.reader(&topic("In"), u64::MAX).unwrap();
        assert_eq!(reader.poll(10, Duration::ZERO).unwrap().len(), 10, "{damage}");
        let error = reader.poll(10, Duration::ZERO).err().unwrap_or_else(|| panic!("{damage}"));
        assert!(error.to_string().contains("the file is damaged or not a bus of metrobus"), "{damage}: {error}");
        let end = bus.reader(&topic("In"), 5).unwrap().poll(10, Duration::ZERO).unwrap();
        assert_eq!(end.get(0).offset, 25, "{damage}");
    }
}

#[test]
fn a_new_file_may_be_opened_by_many_at_once() {
    for _ in 0..30 {
        let file = File::new();
        thread::scope(|scope| {
            for _ in 0..8 {
                let bus = file.sqlite();
                scope.spawn(move || bus.connect().unwrap());
            }
        });
    }
}

#[test]
fn a_newer_layout_is_refused() {
    let file = File::new();
    file.sqlite().connect().unwrap();
    Connection::open(&file.options().path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let error = file.sqlite().connect().unwrap_err().to_string();
    assert!(error.ends_with("has layout 99, this metrobus reads 2; use the metrobus that made it"), "{error}");
}

#[test]
fn an_older_layout_is_refused() {
    let file = File::new();
    file.sqlite().connect().unwrap();
    Connection::open(&file.options().path).unwrap().pragma_update(None, "user_version", 1).unwrap();
    let error = file.sqlite().connect().unwrap_err().to_string();
    assert!(error.ends_with("has layout 1, this metrobus reads 2; use the metrobus that made it"), "{error}");
}

#[test]
fn a_full_disk_ends_it_with_nothing_acknowledged() {
    let file = File::new();
    let bus = file.sqlite();
    publish(&bus, "In", 2000, 1);
    let mut store = bus.open().unwrap();
    let id = store.find(&topic("In")).unwrap().unwrap();
    // SQLite's own limit gives the error of a full disk
    let pages: i64 = store.connection.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
    store.connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(())).unwrap();
    let mut outbox = Outbox::default();
    for _ in 0..1000 {
        outbox.publish(&topic("In"), 1, None, Some(&[b'x'; 1000]));
    }
    let none = Batch::default();
    let rows = pack(&none, &outbox);
    let error = store.write(|transaction, ids| append(transaction, ids, &rows)).unwrap_err();
    assert!(matches!(error, BusError::Fatal(_)));
    assert!(error.to_string().contains("the disk is full; free some space and start again"), "{error}");
    assert_eq!(store.end(id).unwrap(), 2000, "all or nothing");
}

#[test]
fn a_busy_file_is_unavailable_and_no_failure() {
    let error = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY), None);
    assert!(matches!(explain(Path::new("x"), "read from", error), BusError::Unavailable(_)));
}

#[test]
fn retention_takes_what_is_old_and_read_and_never_the_newest() {
    let file = File::new();
    let bus = file.sqlite();
    publish(&bus, "In", 100, 1);
    let mut store = bus.open().unwrap();
    let id = store.find(&topic("In")).unwrap().unwrap();
    let mut trim_all = |cutoff, bytes| store.write(|transaction, _| trim(transaction, id, cutoff, bytes)).unwrap();
    let mut member = bus.subscribe(&letters("In")).unwrap();
    let batch = Arc::new(member.poll(60, Duration::ZERO).unwrap());
    member.settle(&batch, 0..60, &Outbox::default()).unwrap();
    assert_eq!(trim_all(0, 0), 0, "none is older than that");
    assert_eq!(trim_all(now_ms(), 0), 60, "not beyond what was read");
    let batch = Arc::new(member.poll(60, Duration::ZERO).unwrap());
    member.settle(&batch, 0..batch.len(), &Outbox::default()).unwrap();
    assert_eq!(trim_all(i64::MIN, 10), 35, "values have two bytes: five records are within the limit");
    assert_eq!(trim_all(now_ms(), 0), 4, "the newest stays");
    publish(&bus, "In", 1, 1);
    let mut reader = bus.reader(&topic("In"), 1).unwrap();
    assert_eq!(reader.poll(1, Duration::ZERO).unwrap().get(0).offset, 100, "offsets go on");
}

#[test]
fn retention_takes_nothing_from_the_topic_that_is_kept() {
    let file = File::new();
    let bus = file.sqlite().keeping(&topic("Kept"));
    bus.create_topics(&[topic("Kept"), topic("kept")]).unwrap();
    let store = bus.open().unwrap();
    assert_eq!(store.trimmed_topics().unwrap(), [store.find(&topic("kept")).unwrap().unwrap()]);
    assert_eq!(file.sqlite().open().unwrap().trimmed_topics().unwrap().len(), 2);
}

#[test]
fn retention_that_others_keep_from_writing_fails_nothing_that_was_written() {
    let file = File::new();
    let bus = file.sqlite();
    publish(&bus, "In", 100, 1);
    let mut store = bus.open().unwrap();
    let other = bus.open().unwrap();
    let lock = Transaction::new_unchecked(&other.connection, TransactionBehavior::Immediate).unwrap();
    store.retained = Instant::now().checked_sub(Duration::from_secs(3600)).unwrap();
    let locked = store.write(|_, _| Ok(()));
    assert!(matches!(locked, Err(BusError::Unavailable(_))), "the lock is another's");
    store.retain().unwrap();
    drop(lock);
    store.write(|_, _| Ok(())).unwrap();
}

#[test]
fn a_waiting_reader_is_woken_by_another_connection() {
    let file = File::new();
    let (bus, other) = (file.sqlite(), file.sqlite());
    bus.create_topics(&[topic("In")]).unwrap();
    let mut reader = bus.reader(&topic("In"), 0).unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(move || reader.poll(1, Duration::from_secs(30)).unwrap().len());
        publish(&other, "In", 1, 1);
        assert_eq!(waiting.join().unwrap(), 1);
    });
}

/// Offset and value of each record, read `max` at a time.
fn read_all(bus: &SqliteBus, name: &str, last: u64, max: usize) -> Vec<(i64, String)> {
    let mut reader = bus.reader(&topic(name), last).unwrap();
    let mut all = Vec::new();
    while !reader.at_end() {
        let batch = reader.poll(max, Duration::ZERO).unwrap();
        assert!((1..=max).contains(&batch.len()));
        let value = |value: Option<&[u8]>| String::from_utf8(value.unwrap().to_vec()).unwrap();
        all.extend(batch.iter().map(|record| (record.offset, value(record.value))));
    }
    all
}

#[test]
fn offsets_are_exact_across_rows_and_within_them() {
    let file = File::new();
    let bus = file.sqlite();
    for _ in 0..10 {
        publish(&bus, "In", 7, 1);
    }
    let expected: Vec<_> = (0..70).map(|offset| (offset, (offset % 7).to_string())).collect();
    for max in [1, 4, 7, 100] {
        assert_eq!(read_all(&bus, "In", u64::MAX, max), expected);
        assert_eq!(read_all(&bus, "In", 30, max), expected[40..]);
    }
    let mut member = bus.subscribe(&letters("In")).unwrap();
    let batch = Arc::new(member.poll(23, Duration::ZERO).unwrap());
    member.settle(&batch, 0..23, &Outbox::default()).unwrap();
    let mut store = bus.open().unwrap();
    let id = store.find(&topic("In")).unwrap().unwrap();
    assert_eq!(store.write(|transaction, _| trim(transaction, id, now_ms(), 0)).unwrap(), 23);
    assert_eq!(read_all(&bus, "In", u64::MAX, 100), expected[23..]);
    assert_eq!((records(&bus, "In"), member.lag().unwrap()), (47, 47));
    assert_eq!(member.poll(100, Duration::ZERO).unwrap().get(0).offset, 23);
}

#[test]
fn a_large_settle_is_several_rows() {
    let file = File::new();
    let bus = file.sqlite();
    let mut outbox = Outbox::default();
    for _ in 0..5 {
        outbox.publish(&topic("In"), 1, None, Some(&[b'x'; 60_000]));
    }
    bus.publisher().unwrap().publish(&outbox).unwrap();
    let count = |sql| Connection::open(&file.options().path).unwrap().query_row(sql, [], |row| row.get::<_, i64>(0));
    assert_eq!(count("SELECT COUNT(*) FROM topic_1").unwrap(), 3);
    assert_eq!(read_all(&bus, "In", u64::MAX, 100).len(), 5);
}

#[test]
fn the_log_begins_anew_while_several_write() {
    let file = File::new();
    let log = format!("{}-wal", file.options().path.display());
    // One after the other: who comes while the file is being made may be told to come again
    let publishers = ["A", "B"].map(|name| (name, file.sqlite().publisher().unwrap()));
    thread::scope(|scope| {
        for (name, mut publisher) in publishers {
            let log = &log;
            scope.spawn(move || {
                let mut outbox = Outbox::default();
                outbox.publish(&topic(name), 1, None, Some(&vec![b'x'; 1 << 20]));
                for _ in 0..120 {
                    publisher.publish(&outbox).unwrap();
                    let length = fs::metadata(log).unwrap().len();
                    assert!(length < 200 << 20, "{length}");
                }
                assert_eq!(publisher.flush(Instant::now() + Duration::from_secs(60)).unwrap(), 120);
            });
        }
    });
}
