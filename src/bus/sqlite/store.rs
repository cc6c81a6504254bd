//! A connection to the file: opened and checked, written in transactions, watched for what others commit.

use std::{
    collections::HashMap,
    fs,
    ops::Range,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};

use super::{
    Options,
    commits::Commits,
    topic::{self, RETENTION_CHUNK},
};
use crate::{
    bus::{Batch, BusError, Topic, TopicInfo},
    dead_letter::now_ms,
    sqlite_file::Layout,
};

/// The file: "mbus", with the tables below and those of [`topic`].
const LAYOUT: Layout = Layout { application: 0x6d62_7573, version: 2, tables: TABLES };

const TABLES: &str = "
    CREATE TABLE topics (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
    CREATE TABLE groups (
        name TEXT NOT NULL, topic INTEGER NOT NULL REFERENCES topics, next INTEGER NOT NULL,
        owner TEXT, process TEXT, expires INTEGER NOT NULL, epoch INTEGER NOT NULL,
        PRIMARY KEY (name, topic)
    ) WITHOUT ROWID;";

/// The unit in which SQLite reads and writes. Larger ones are fewer for the same records, smaller ones less to write
/// for a single record.
const PAGE_BYTES: i32 = 8192;

/// How long a writer waits for the others before it gives up for now, in steps of [`BUSY_STEP`].
const BUSY: Duration = Duration::from_secs(5);
const BUSY_STEP: Duration = Duration::from_micros(200);

/// Between two looks for others' commits: a [`LOOK_SHARE`]th of the time in which nothing came, so that a look is never
/// late by more than that, within these bounds.
const LOOK: Range<Duration> = Duration::from_micros(250)..Duration::from_millis(25);
const LOOK_SHARE: u32 = 16;

/// Between two rounds of retention.
const RETENTION_ROUND: Duration = Duration::from_secs(30);

/// A connection that waits its turn, and leaves the disk to the thread of [`Commits`].
pub(super) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open(path)?;
    let wait = |tries: i32| {
        thread::sleep(BUSY_STEP);
        BUSY_STEP * (tries.max(0) as u32) < BUSY
    };
    connection.busy_handler(Some(wait))?;
    connection.pragma_update(None, "synchronous", "normal")?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    Ok(connection)
}

/// One connection to the file, and what it has learnt about it.
pub(super) struct Store {
    pub connection: Connection,
    options: Arc<Options>,
    commits: Arc<Commits>,
    /// The number of the last commit of this connection.
    last: u64,
    ids: HashMap<Topic, i64>,
    pub(super) retained: Instant,
    /// Not subject to retention.
    kept: Option<Topic>,
}

impl Store {
    pub fn open(options: &Arc<Options>, commits: &Arc<Commits>, kept: Option<Topic>) -> Result<Self, BusError> {
        let path = &options.path;
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder)
                .with_context(|| format!("create the folder of the bus {}", path.display()))
                .map_err(BusError::Fatal)?;
        }
        let connection = connect(path).map_err(|error| explain(path, "open", error))?;
        let store = Self {
            connection,
            options: Arc::clone(options),
            commits: Arc::clone(commits),
            last: 0,
            ids: HashMap::new(),
            retained: Instant::now(),
            kept,
        };
        let end = Instant::now() + BUSY;
        loop {
            match store.prepare() {
                // Of several who make a file new at once SQLite has some not wait: they could do so for ever
                Err(error) if is_busy(&error) && Instant::now() < end => thread::sleep(BUSY_STEP),
                prepared => break prepared.map_err(|error| store.error("open", error))??,
            }
        }
        Ok(store)
    }

    /// Makes sure that the file is ours, then lays the tables where it is new.
    fn prepare(&self) -> rusqlite::Result<Result<(), BusError>> {
        let connection = &self.connection;
        connection.set_prepared_statement_cache_capacity(128);
        let path = self.options.path.display();
        if LAYOUT.is_foreign(connection)? {
            let error = anyhow!("{path} is a database of another program; set sqlite.path to a file of its own");
            return Ok(Err(BusError::Fatal(error)));
        }
        // Counts only where the file is new
        connection.pragma_update(None, "page_size", PAGE_BYTES)?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        let (found, ours) = (LAYOUT.lay(connection)?, LAYOUT.version);
        if found != ours {
            let error = anyhow!("{path} has layout {found}, this metrobus reads {ours}; use the metrobus that made it");
            return Ok(Err(BusError::Fatal(error)));
        }
        Ok(Ok(()))
    }

    pub fn error(&self, step: &str, error: rusqlite::Error) -> BusError {
        explain(&self.options.path, step, error)
    }

    pub fn find(&self, topic: &Topic) -> Result<Option<i64>, BusError> {
        topic::find(&self.connection, topic).map_err(|error| self.error("look up a topic", error))
    }

    /// The id of the topic, created where it is missing.
    pub fn ensure(&mut self, topic: &Topic) -> Result<i64, BusError> {
        match self.find(topic)? {
            Some(id) => Ok(id),
            None => self.write(|transaction, ids| topic::create(transaction, ids, topic)),
        }
    }

    /// The offset after the newest record.
    pub fn end(&self, id: i64) -> Result<i64, BusError> {
        topic::end(&self.connection, id).map_err(|error| self.error("read the end of a topic", error))
    }

    /// Runs `act` in one write transaction and commits it.
    pub fn write<T>(
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
        self.last = self.commits.make()?;
        Ok(result)
    }

    /// Waits, at most until `deadline`, for all commits of this connection to be on the disk; true where they are.
    pub fn flush(&self, deadline: Instant) -> Result<bool, BusError> {
        self.commits.on_disk(self.last, deadline)
    }

    /// Reads records from `position` on into `batch`; gives the position after them.
    pub fn read(&self, id: i64, position: i64, max: usize, batch: &mut Batch) -> Result<i64, BusError> {
        topic::read(&self.connection, id, position, max, batch).map_err(|error| self.error("read from", error))
    }

    /// Polls `fetch` until it finds something or `wait` has passed, looking again when somebody has committed.
    pub fn watch(
        &self,
        watch: &mut Watch,
        wait: Duration,
        mut fetch: impl FnMut(&Self) -> Result<bool, BusError>,
    ) -> Result<(), BusError> {
        let end = Instant::now() + wait;
        loop {
            let seen = self.commits.made();
            let version = self
                .connection
                .prepare_cached("PRAGMA data_version")
                .and_then(|mut statement| statement.query_row([], |row| row.get::<_, i64>(0)))
                .map_err(|error| self.error("read from", error))?;
            if watch.seen != Some((version, seen)) {
                if fetch(self)? {
                    *watch = Watch::default();
                    return Ok(());
                }
                watch.seen = Some((version, seen));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let pause = (watch.since.elapsed() / LOOK_SHARE).clamp(LOOK.start, LOOK.end);
            self.commits.wait(seen, pause.min(left))?;
        }
    }

    /// Deletes what retention lets go, at most once a round. Where others keep it from writing, the next round does: what was
    /// written before has happened, and its caller is not to repeat it.
    pub fn retain(&mut self) -> Result<(), BusError> {
        match self.try_retain() {
            Err(BusError::Unavailable(error)) => {
                tracing::debug!("retention is put off: {error:#}");
                Ok(())
            }
            done => done,
        }
    }

    fn try_retain(&mut self) -> Result<(), BusError> {
        let (retention, bytes) = (self.options.retention, self.options.retention_bytes);
        if self.retained.elapsed() < RETENTION_ROUND || (retention.is_zero() && bytes == 0) {
            return Ok(());
        }
        self.retained = Instant::now();
        let cutoff = if retention.is_zero() { i64::MIN } else { now_ms() - retention.as_millis() as i64 };
        for id in self.trimmed_topics()? {
            while self.write(|transaction, _| topic::trim(transaction, id, cutoff, bytes))? == RETENTION_CHUNK {}
        }
        Ok(())
    }

    /// The topics that retention is for.
    pub fn trimmed_topics(&self) -> Result<Vec<i64>, BusError> {
        let read = || {
            let mut statement = self.connection.prepare_cached("SELECT id FROM topics WHERE name IS NOT ?1")?;
            let kept = self.kept.as_ref().map(Topic::as_str);
            statement.query_map([kept], |row| row.get(0))?.collect::<rusqlite::Result<_>>()
        };
        read().map_err(|error| self.error("read the topics", error))
    }

    /// All topics, by name.
    pub fn topics(&self) -> Result<Vec<TopicInfo>, BusError> {
        let read = || -> rusqlite::Result<Vec<TopicInfo>> {
            let mut statement = self.connection.prepare("SELECT id, name FROM topics ORDER BY name")?;
            let topics = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            topics.map(|topic| topic.and_then(|(id, name)| topic::info(&self.connection, id, name))).collect()
        };
        read().map_err(|error| self.error("read the topics", error))
    }
}

/// What a reader has seen of the file.
pub(super) struct Watch {
    /// The version of the file, and the commits of this process, at which there was nothing to read.
    seen: Option<(i64, u64)>,
    /// When there was something last.
    since: Instant,
}

impl Default for Watch {
    fn default() -> Self {
        Self { seen: None, since: Instant::now() }
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// What an error of SQLite means for the bus.
pub(super) fn explain(path: &Path, step: &str, error: rusqlite::Error) -> BusError {
    let path = path.display();
    if is_busy(&error) {
        return BusError::Unavailable(anyhow!("{step} the bus {path}: other processes keep it busy ({error})"));
    }
    // What is of another type than it was written as is damaged as well
    let code = match &error {
        rusqlite::Error::InvalidColumnType(..) | rusqlite::Error::FromSqlConversionFailure(..) => {
            Some(ErrorCode::DatabaseCorrupt)
        }
        error => error.sqlite_error_code(),
    };
    let advice = match code {
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
