//! Topics in one SQLite file, shared by any number of processes on one machine. Nothing to install.
//!
//! Settling a batch is one transaction: outputs in, cursor forward. So a hop happens exactly once, whatever dies.
//! With `synchronous = "full"` it also survives a power cut; with `"normal"` the last transactions before a power cut
//! may be undone, whole (never after a mere crash of the process).
//!
//! - A topic is one partition: a table whose integer primary key is the offset, from 0.
//! - One member of a group at a time reads a topic. Its lease lies in the file; a member whose process is gone, or who
//!   did not renew it for [`LEASE`], loses it to whoever stands by. A settle checks the lease in its own transaction, so
//!   a member that was merely slow can do no harm.
//! - SQLite has one writer at a time; the others wait their turn. Batches are what keeps that short.
//! - A reader learns of others' commits from `PRAGMA data_version`, which costs two microseconds, and of those of its own
//!   process at once.
//! - Retention deletes from the front of a topic what every group has read and is too old, or too much, and never the
//!   newest record, from which the next offset is counted.

use std::{
    collections::HashMap,
    fs,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, TransactionBehavior, config::DbConfig, params};
use serde::Deserialize;
use tracing::{debug, info};

use super::{
    Batch, Bus, BusError, GroupInfo, Guarantee, Headers, Outbox, Publisher, Reader, Record, Subscription, Topic,
    TopicInfo,
};
use crate::dead_letter::{DeadLetters, now_ms};

mod lease;

use lease::{expiry, lease_of, this_process};

/// How long a member keeps a topic without a sign of life.
pub const LEASE: Duration = Duration::from_secs(5);

/// "mbus": tells our files from those of other programs.
const APPLICATION_ID: i32 = 0x6d62_7573;

/// The layout of the tables below.
const VERSION: i32 = 1;

/// The one consumer group on this engine.
const GROUP: &str = "metrobus";

/// A batch is closed when it holds that many bytes.
const BATCH_BYTES: usize = 16 << 20;

/// Pages (of 4 kB) in the write-ahead log before it is copied back into the database.
const CHECKPOINT_PAGES: u32 = 4000;

/// How long a writer waits for the others before it gives up for now, in steps of [`BUSY_STEP`].
const BUSY: Duration = Duration::from_secs(5);
const BUSY_STEP: Duration = Duration::from_micros(200);

/// Between two looks for others' commits: shortest right after a record came, longest when idle.
const LOOK: Range<Duration> = Duration::from_micros(250)..Duration::from_millis(2);

/// Between two attempts to take a lease that somebody else holds.
const STAND_BY: Duration = Duration::from_millis(100);

/// Between two rounds of retention, and records deleted in one transaction.
const RETENTION_ROUND: Duration = Duration::from_secs(30);
const RETENTION_CHUNK: i64 = 5000;

/// The engine's options, `[sqlite]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Options {
    pub path: PathBuf,
    pub synchronous: Synchronous,
    /// Records older than this may go; zero keeps them for ever.
    pub retention: Duration,
    /// A topic larger than about this many bytes may lose its oldest records; 0 is no limit.
    pub retention_bytes: u64,
}

/// When a commit counts as durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Synchronous {
    /// On the disk: survives a power cut.
    Full,
    /// With the operating system: survives a crash of the process; a power cut may undo the last ones.
    Normal,
}

/// A bus in one file; opening it creates the file and its folder where they are missing.
pub struct SqliteBus {
    options: Arc<Options>,
    signal: Arc<Signal>,
}

impl SqliteBus {
    pub fn new(options: Options) -> Self {
        Self { options: Arc::new(options), signal: Arc::default() }
    }

    fn open(&self) -> Result<Store, BusError> {
        Store::open(&self.options, &self.signal)
    }
}

/// Wakes the readers of this process on a commit of this process.
#[derive(Default)]
struct Signal {
    commits: Mutex<u64>,
    changed: Condvar,
}

impl Signal {
    fn raise(&self) {
        *self.commits.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.changed.notify_all();
    }

    fn seen(&self) -> u64 {
        *self.commits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for `time`, less where there is a commit that is not among those `seen`.
    fn wait(&self, seen: u64, time: Duration) {
        let commits = self.commits.lock().unwrap_or_else(PoisonError::into_inner);
        if *commits == seen {
            drop(self.changed.wait_timeout(commits, time));
        }
    }
}

impl Bus for SqliteBus {
    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn connect(&self) -> Result<(), BusError> {
        self.open().map(|_| ())
    }

    fn create_topics(&self, topics: &[Topic]) -> Result<(), BusError> {
        let mut store = self.open()?;
        for topic in topics {
            if store.find(topic)?.is_none() {
                store.write(|transaction, ids| create(transaction, ids, topic).map(|_| ()))?;
            }
        }
        Ok(())
    }

    fn subscribe(&self, letters: &DeadLetters) -> Result<Box<dyn Subscription>, BusError> {
        let mut store = self.open()?;
        let id = store.ensure(&letters.topic)?;
        Ok(Box::new(SqliteSubscription {
            store,
            topic: letters.topic.clone(),
            id,
            owner: uuid::Uuid::now_v7().to_string(),
            lease: None,
            next_try: Instant::now(),
            watch: Watch::default(),
        }))
    }

    fn publisher(&self) -> Result<Box<dyn Publisher>, BusError> {
        Ok(Box::new(SqlitePublisher { store: self.open()?, confirmed: 0 }))
    }

    fn reader(&self, topic: &Topic, last: u64) -> Result<Box<dyn Reader>, BusError> {
        let store = self.open()?;
        let id = store.find(topic)?.ok_or_else(|| BusError::Fatal(anyhow!("there is no topic {topic}")))?;
        let end = store.end(id)?;
        let position = end.saturating_sub(i64::try_from(last).unwrap_or(i64::MAX)).max(0);
        Ok(Box::new(SqliteReader { store, id, position, end, watch: Watch::default() }))
    }

    fn topics(&self) -> Result<Vec<TopicInfo>, BusError> {
        let store = self.open()?;
        let read = || -> rusqlite::Result<Vec<TopicInfo>> {
            let mut statement = store.connection.prepare("SELECT id, name FROM topics ORDER BY name")?;
            let topics = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            topics.map(|topic| topic.and_then(|(id, name)| info_of(&store.connection, id, name))).collect()
        };
        read().map_err(|error| store.error("read the topics", error))
    }
}

fn info_of(connection: &Connection, id: i64, name: String) -> rusqlite::Result<TopicInfo> {
    let sql =
        format!("SELECT COALESCE(MAX(offset) - MIN(offset) + 1, 0), COALESCE(MAX(offset) + 1, 0) FROM topic_{id}");
    let (records, end): (i64, i64) = connection.query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut statement = connection.prepare("SELECT name, next FROM groups WHERE topic = ?1 ORDER BY name")?;
    let group = |row: &rusqlite::Row<'_>| {
        let next: i64 = row.get(1)?;
        Ok(GroupInfo { name: row.get(0)?, lag: (end - next).max(0) as u64 })
    };
    let groups = statement.query_map([id], group)?.collect::<rusqlite::Result<_>>()?;
    Ok(TopicInfo { name, partitions: 1, records: records as u64, groups })
}

/// One connection to the file, and what it has learnt about it.
struct Store {
    connection: Connection,
    options: Arc<Options>,
    signal: Arc<Signal>,
    ids: HashMap<Topic, i64>,
    retained: Instant,
}

impl Store {
    fn open(options: &Arc<Options>, signal: &Arc<Signal>) -> Result<Self, BusError> {
        let path = &options.path;
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder)
                .with_context(|| format!("create the folder of the bus {}", path.display()))
                .map_err(BusError::Fatal)?;
        }
        let mut connection = Connection::open(path).map_err(|error| explain(path, "open", error))?;
        let wait = |tries: i32| {
            thread::sleep(BUSY_STEP);
            BUSY_STEP * (tries.max(0) as u32) < BUSY
        };
        connection.busy_handler(Some(wait)).map_err(|error| explain(path, "open", error))?;
        let store = Self {
            connection,
            options: Arc::clone(options),
            signal: Arc::clone(signal),
            ids: HashMap::new(),
            retained: Instant::now(),
        };
        store.prepare().map_err(|error| store.error("open", error))??;
        Ok(store)
    }

    /// Makes sure that the file is ours, then lays the tables where it is new.
    fn prepare(&self) -> rusqlite::Result<Result<(), BusError>> {
        let connection = &self.connection;
        connection.set_prepared_statement_cache_capacity(128);
        let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
        // What another program left in its log beside the file is not ours to bring in when this closes
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        let tables = || connection.query_row("SELECT COUNT(*) FROM sqlite_master", [], |row| row.get::<_, i64>(0));
        // In this order: another process of ours that makes the file new writes both at once
        if tables()? > 0 && pragma("application_id")? != APPLICATION_ID {
            let path = self.options.path.display();
            let error = anyhow!("{path} is a database of another program; set sqlite.path to a file of its own");
            return Ok(Err(BusError::Fatal(error)));
        }
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
        let synchronous = match self.options.synchronous {
            Synchronous::Full => "full",
            Synchronous::Normal => "normal",
        };
        connection.pragma_update(None, "synchronous", synchronous)?;
        if pragma("application_id")? != APPLICATION_ID {
            let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
            if pragma("application_id")? != APPLICATION_ID {
                transaction.execute_batch(&format!(
                    "PRAGMA application_id = {APPLICATION_ID};
                     PRAGMA user_version = {VERSION};
                     CREATE TABLE topics (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
                     CREATE TABLE groups (
                         name TEXT NOT NULL, topic INTEGER NOT NULL REFERENCES topics, next INTEGER NOT NULL,
                         owner TEXT, process TEXT, expires INTEGER NOT NULL, epoch INTEGER NOT NULL,
                         PRIMARY KEY (name, topic)
                     ) WITHOUT ROWID;"
                ))?;
            }
            transaction.commit()?;
        }
        let version = pragma("user_version")?;
        if version != VERSION {
            let path = self.options.path.display();
            let error =
                anyhow!("{path} has layout {version}, this metrobus reads {VERSION}; use the metrobus that made it");
            return Ok(Err(BusError::Fatal(error)));
        }
        Ok(Ok(()))
    }

    fn error(&self, step: &str, error: rusqlite::Error) -> BusError {
        explain(&self.options.path, step, error)
    }

    fn find(&self, topic: &Topic) -> Result<Option<i64>, BusError> {
        find(&self.connection, topic).map_err(|error| self.error("look up a topic", error))
    }

    /// The id of the topic, created where it is missing.
    fn ensure(&mut self, topic: &Topic) -> Result<i64, BusError> {
        match self.find(topic)? {
            Some(id) => Ok(id),
            None => self.write(|transaction, ids| create(transaction, ids, topic)),
        }
    }

    /// The offset after the newest record.
    fn end(&self, id: i64) -> Result<i64, BusError> {
        end(&self.connection, id).map_err(|error| self.error("read the end of a topic", error))
    }

    /// Runs `act` in one write transaction and commits it.
    fn write<T>(
        &mut self,
        act: impl FnOnce(&Transaction<'_>, &mut HashMap<Topic, i64>) -> rusqlite::Result<T>,
    ) -> Result<T, BusError> {
        let run = || {
            let transaction = Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate)?;
            let result = act(&transaction, &mut self.ids)?;
            transaction.commit()?;
            Ok(result)
        };
        let result = run();
        if result.is_err() {
            // What the transaction created is gone with it
            self.ids.clear();
        }
        let result = result.map_err(|error| explain(&self.options.path, "write to", error))?;
        self.signal.raise();
        Ok(result)
    }

    /// Reads records from `position` on into `batch`; gives the position after them.
    fn read(&self, id: i64, position: i64, max: usize, batch: &mut Batch) -> Result<i64, BusError> {
        read(&self.connection, id, position, max, batch).map_err(|error| self.error("read from", error))
    }

    /// Polls `fetch` until it finds something or `wait` has passed, looking again when somebody has committed.
    fn watch(
        &self,
        watch: &mut Watch,
        wait: Duration,
        mut fetch: impl FnMut(&Self) -> Result<bool, BusError>,
    ) -> Result<(), BusError> {
        let end = Instant::now() + wait;
        loop {
            let seen = self.signal.seen();
            let version = self
                .connection
                .prepare_cached("PRAGMA data_version")
                .and_then(|mut statement| statement.query_row([], |row| row.get::<_, i64>(0)))
                .map_err(|error| self.error("read from", error))?;
            if watch.seen != Some((version, seen)) {
                if fetch(self)? {
                    watch.pause = LOOK.start;
                    return Ok(());
                }
                watch.seen = Some((version, seen));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.signal.wait(seen, watch.pause.min(left));
            watch.pause = (watch.pause * 5 / 4).clamp(LOOK.start, LOOK.end);
        }
    }

    /// Deletes what retention lets go, at most once a round.
    fn retain(&mut self) -> Result<(), BusError> {
        let (retention, bytes) = (self.options.retention, self.options.retention_bytes);
        if self.retained.elapsed() < RETENTION_ROUND || (retention.is_zero() && bytes == 0) {
            return Ok(());
        }
        self.retained = Instant::now();
        let cutoff = if retention.is_zero() { i64::MIN } else { now_ms() - retention.as_millis() as i64 };
        for id in self.topic_ids()? {
            while self.write(|transaction, _| trim(transaction, id, cutoff, bytes))? == RETENTION_CHUNK {}
        }
        Ok(())
    }

    fn topic_ids(&self) -> Result<Vec<i64>, BusError> {
        let read = || {
            let mut statement = self.connection.prepare_cached("SELECT id FROM topics")?;
            statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()
        };
        read().map_err(|error| self.error("read the topics", error))
    }
}

/// What a reader has seen of the file, and how long it sleeps until it looks again.
#[derive(Default)]
struct Watch {
    seen: Option<(i64, u64)>,
    pause: Duration,
}

fn find(connection: &Connection, topic: &Topic) -> rusqlite::Result<Option<i64>> {
    let mut statement = connection.prepare_cached("SELECT id FROM topics WHERE name = ?1")?;
    statement.query_row([topic.as_str()], |row| row.get(0)).optional()
}

/// The id of the topic, created where it is missing. Tables are named by id, because SQLite's names know no case.
fn create(transaction: &Transaction<'_>, ids: &mut HashMap<Topic, i64>, topic: &Topic) -> rusqlite::Result<i64> {
    if let Some(id) = ids.get(topic) {
        return Ok(*id);
    }
    let id = match find(transaction, topic)? {
        Some(id) => id,
        None => {
            transaction.execute("INSERT INTO topics (name) VALUES (?1)", [topic.as_str()])?;
            let id = transaction.last_insert_rowid();
            transaction.execute_batch(&format!(
                "CREATE TABLE topic_{id} (offset INTEGER PRIMARY KEY, timestamp INTEGER NOT NULL, key BLOB, headers BLOB, value BLOB)"
            ))?;
            id
        }
    };
    ids.insert(topic.clone(), id);
    Ok(id)
}

fn end(connection: &Connection, id: i64) -> rusqlite::Result<i64> {
    let mut statement = connection.prepare_cached(&format!("SELECT COALESCE(MAX(offset) + 1, 0) FROM topic_{id}"))?;
    statement.query_row([], |row| row.get(0))
}

fn read(connection: &Connection, id: i64, position: i64, max: usize, batch: &mut Batch) -> rusqlite::Result<i64> {
    let sql = format!(
        "SELECT offset, timestamp, key, headers, value FROM topic_{id} WHERE offset >= ?1 ORDER BY offset LIMIT ?2"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params![position, max as i64])?;
    let mut next = position;
    while let Some(row) = rows.next()? {
        let offset = row.get(0)?;
        batch.push(Record {
            partition: 0,
            offset,
            timestamp: row.get(1)?,
            key: row.get_ref(2)?.as_bytes_or_null()?,
            headers: Headers::from_encoded(row.get_ref(3)?.as_bytes_or_null()?.unwrap_or_default()),
            value: row.get_ref(4)?.as_bytes_or_null()?,
        });
        next = offset + 1;
        if batch.bytes() >= BATCH_BYTES {
            break;
        }
    }
    Ok(next)
}

/// Appends all outputs to their topics.
fn append(
    transaction: &Transaction<'_>,
    ids: &mut HashMap<Topic, i64>,
    batch: &Batch,
    outbox: &Outbox,
) -> rusqlite::Result<()> {
    let outputs = outbox.iter(batch);
    let now = now_ms();
    // Most outputs of a batch go the same way: one statement and one offset in hand, the others are found again
    let mut ends: Vec<(&Topic, i64, i64)> = Vec::new();
    for output in outputs {
        let index = match ends.iter().position(|(topic, ..)| *topic == output.topic) {
            Some(index) => index,
            None => {
                let id = create(transaction, ids, output.topic)?;
                ends.push((output.topic, id, end(transaction, id)?));
                ends.len() - 1
            }
        };
        let (_, id, offset) = &mut ends[index];
        let mut statement = transaction.prepare_cached(&insert(*id))?;
        let timestamp = if output.timestamp < 0 { now } else { output.timestamp };
        let headers = (!output.headers.is_empty()).then(|| output.headers.encoded());
        statement.execute(params![*offset, timestamp, output.key, headers, output.value])?;
        *offset += 1;
    }
    Ok(())
}

fn insert(id: i64) -> String {
    format!("INSERT INTO topic_{id} (offset, timestamp, key, headers, value) VALUES (?1, ?2, ?3, ?4, ?5)")
}

/// Deletes at most one chunk from the front of a topic; gives how many records went.
fn trim(transaction: &Transaction<'_>, id: i64, cutoff: i64, bytes: u64) -> rusqlite::Result<i64> {
    let newest = end(transaction, id)? - 1;
    let read_by_all: i64 = transaction.query_row(
        "SELECT COALESCE(MIN(next), ?2) FROM groups WHERE topic = ?1",
        [id, i64::MAX],
        |row| row.get(0),
    )?;
    let sql = format!("SELECT offset, timestamp FROM topic_{id} ORDER BY offset LIMIT ?1");
    let front: Vec<(i64, i64)> = transaction
        .prepare_cached(&sql)?
        .query_map([RETENTION_CHUNK], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let Some((oldest, _)) = front.first() else { return Ok(0) };
    let surplus = if bytes == 0 {
        0
    } else {
        let sql = format!(
            "SELECT COALESCE(AVG(COALESCE(LENGTH(value), 0) + COALESCE(LENGTH(key), 0) + COALESCE(LENGTH(headers), 0)), 0)
             FROM (SELECT * FROM topic_{id} ORDER BY offset DESC LIMIT 100)"
        );
        let size: f64 = transaction.query_row(&sql, [], |row| row.get(0))?;
        (newest + 1 - oldest) - (bytes as f64 / size.max(1.0)) as i64
    };
    let may_go = |(offset, timestamp): &&(i64, i64)| {
        *offset < read_by_all.min(newest) && (*timestamp < cutoff || offset - oldest < surplus)
    };
    let going = front.iter().take_while(may_go).count() as i64;
    if going > 0 {
        transaction.execute(&format!("DELETE FROM topic_{id} WHERE offset < ?1"), [oldest + going])?;
        debug!(topic = id, records = going, "retention");
    }
    Ok(going)
}

/// What an error of SQLite means for the bus.
fn explain(path: &Path, step: &str, error: rusqlite::Error) -> BusError {
    let path = path.display();
    let advice = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            let error = anyhow!("{step} the bus {path}: other processes keep it busy ({error})");
            return BusError::Unavailable(error);
        }
        Some(ErrorCode::DiskFull) => "the disk is full; free some space and start again, nothing acknowledged is lost",
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            "the file is damaged or not a bus of metrobus; restore it, or move it away to begin with an empty one"
        }
        Some(ErrorCode::CannotOpen) => "it cannot be opened; check sqlite.path and the permissions of its folder",
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => "it cannot be written; check its permissions",
        Some(ErrorCode::SystemIoFailure) => "the disk failed, or is full",
        _ => return BusError::Fatal(anyhow!("{step} the bus {path}: {error}")),
    };
    BusError::Fatal(anyhow!("{step} the bus {path}: {advice} ({error})"))
}

struct SqliteSubscription {
    store: Store,
    topic: Topic,
    id: i64,
    /// This member's name in the lease.
    owner: String,
    lease: Option<Lease>,
    /// When to try again for the lease.
    next_try: Instant,
    watch: Watch,
}

/// Held: this member reads the topic.
struct Lease {
    epoch: i64,
    renewed: Instant,
    /// The next offset to poll.
    position: i64,
}

impl SqliteSubscription {
    /// Takes the lease where it is free, or its owner is gone.
    fn take_lease(&mut self) -> Result<(), BusError> {
        if self.lease.is_some() || Instant::now() < self.next_try {
            return Ok(());
        }
        self.next_try = Instant::now() + STAND_BY;
        let id = self.id;
        let held = lease_of(&self.store.connection, id).map_err(|error| self.store.error("read from", error))?;
        if held.as_ref().is_some_and(|held| !held.is_free()) {
            return Ok(());
        }
        let owner = self.owner.clone();
        let lease = self.store.write(|transaction, _| {
            let held = lease_of(transaction, id)?;
            if held.as_ref().is_some_and(|held| !held.is_free()) {
                return Ok(None);
            }
            let (next, epoch) = held.map_or((0, 1), |held| (held.next, held.epoch + 1));
            transaction.execute(
                "INSERT INTO groups (name, topic, next, owner, process, expires, epoch) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                 ON CONFLICT DO UPDATE SET owner = ?4, process = ?5, expires = ?6, epoch = ?7",
                params![GROUP, id, next, owner, this_process(), expiry(), epoch],
            )?;
            Ok(Some(Lease { epoch, renewed: Instant::now(), position: next }))
        })?;
        if let Some(lease) = &lease {
            info!(topic = %self.topic, offset = lease.position, "assigned");
            self.watch = Watch::default();
        }
        self.lease = lease;
        Ok(())
    }

    fn renew_lease(&mut self) -> Result<(), BusError> {
        let Some(lease) = &mut self.lease else { return Ok(()) };
        if lease.renewed.elapsed() < LEASE / 3 {
            return Ok(());
        }
        let (id, epoch) = (self.id, lease.epoch);
        let kept = self.store.write(|transaction, _| {
            let sql = "UPDATE groups SET expires = ?4 WHERE name = ?1 AND topic = ?2 AND epoch = ?3";
            transaction.execute(sql, params![GROUP, id, epoch, expiry()])
        })?;
        lease.renewed = Instant::now();
        if kept == 0 {
            self.lose_lease();
        }
        Ok(())
    }

    fn lose_lease(&mut self) {
        info!(topic = %self.topic, "another member has taken over");
        self.lease = None;
        self.next_try = Instant::now() + STAND_BY;
    }
}

impl Subscription for SqliteSubscription {
    fn poll(&mut self, max: usize, wait: Duration) -> Result<Batch, BusError> {
        self.renew_lease()?;
        self.take_lease()?;
        let mut batch = Batch::default();
        let Some(lease) = &mut self.lease else {
            thread::sleep(wait.min(STAND_BY));
            return Ok(batch);
        };
        batch.epoch = lease.epoch as u64;
        let id = self.id;
        self.store.watch(&mut self.watch, wait, |store| {
            lease.position = store.read(id, lease.position, max, &mut batch)?;
            Ok(!batch.is_empty())
        })?;
        if !batch.is_empty() {
            self.watch.seen = None;
        }
        Ok(batch)
    }

    fn settle(&mut self, batch: &Arc<Batch>, inputs: Range<usize>, outbox: &Outbox) -> Result<(), BusError> {
        if inputs.is_empty() {
            return Ok(());
        }
        let Some(lease) = self.lease.as_mut().filter(|lease| lease.epoch as u64 == batch.epoch) else { return Ok(()) };
        let (id, epoch, next) = (self.id, lease.epoch, batch.get(inputs.end - 1).offset + 1);
        let kept = self.store.write(|transaction, ids| {
            let sql = "UPDATE groups SET next = ?4, expires = ?5 WHERE name = ?1 AND topic = ?2 AND epoch = ?3";
            let kept = transaction.prepare_cached(sql)?.execute(params![GROUP, id, epoch, next, expiry()])?;
            if kept > 0 {
                append(transaction, ids, batch, outbox)?;
            }
            Ok(kept)
        })?;
        if kept == 0 {
            self.lose_lease();
            return Ok(());
        }
        lease.renewed = Instant::now();
        self.store.retain()
    }

    fn flush(&mut self, _: Instant) -> Result<bool, BusError> {
        Ok(true)
    }

    fn keep_alive(&mut self) -> Result<(), BusError> {
        self.renew_lease()
    }

    fn drained(&mut self) -> Result<bool, BusError> {
        Ok(self.lag()? == 0)
    }

    /// Those of the whole group: a member that stands by may have to take over.
    fn lag(&mut self) -> Result<u64, BusError> {
        let next = lease_of(&self.store.connection, self.id)
            .map_err(|error| self.store.error("read from", error))?
            .map_or(0, |held| held.next);
        Ok((self.store.end(self.id)? - next).max(0) as u64)
    }

    fn close(mut self: Box<Self>, _: Instant) -> Result<(), BusError> {
        let Some(lease) = self.lease.take() else { return Ok(()) };
        let id = self.id;
        self.store.write(|transaction, _| {
            let sql = "UPDATE groups SET owner = NULL, expires = 0 WHERE name = ?1 AND topic = ?2 AND epoch = ?3";
            transaction.execute(sql, params![GROUP, id, lease.epoch]).map(|_| ())
        })
    }
}

impl Drop for SqliteSubscription {
    /// An unclean end within a living process: let go at once, as the end of the process would.
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take() {
            let sql = "UPDATE groups SET owner = NULL, expires = 0 WHERE name = ?1 AND topic = ?2 AND epoch = ?3";
            let _ = self.store.connection.execute(sql, params![GROUP, self.id, lease.epoch]);
        }
    }
}

struct SqlitePublisher {
    store: Store,
    confirmed: u64,
}

impl Publisher for SqlitePublisher {
    fn publish(&mut self, outbox: &Outbox) -> Result<(), BusError> {
        let batch = Batch::default();
        self.store.write(|transaction, ids| append(transaction, ids, &batch, outbox))?;
        self.confirmed += outbox.len() as u64;
        self.store.retain()
    }

    fn flush(&mut self, _: Instant) -> Result<u64, BusError> {
        Ok(self.confirmed)
    }
}

struct SqliteReader {
    store: Store,
    id: i64,
    position: i64,
    end: i64,
    watch: Watch,
}

impl Reader for SqliteReader {
    fn poll(&mut self, max: usize, wait: Duration) -> Result<Batch, BusError> {
        let mut batch = Batch::default();
        let (id, position) = (self.id, &mut self.position);
        self.store.watch(&mut self.watch, wait, |store| {
            *position = store.read(id, *position, max, &mut batch)?;
            Ok(!batch.is_empty())
        })?;
        if !batch.is_empty() {
            self.watch.seen = None;
        }
        Ok(batch)
    }

    fn at_end(&self) -> bool {
        self.position >= self.end
    }
}

#[cfg(test)]
mod tests;
