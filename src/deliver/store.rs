//! What is to be delivered, in a SQLite file: each message once, and a row for each subscriber that is still to get it.
//!
//! | table | a row |
//! | --- | --- |
//! | `messages` | a message that somebody is still to get, byte for byte, and how many are |
//! | `deliveries` | a message and a subscriber: when it is due, how often it has failed |
//! | `subscribers` | how somebody does: failing since when, disabled or not |
//! | `changes` | how often somebody was enabled, for the process that delivers to see |
//! | `taken` | records that were taken, by position and content, so that none is taken twice |
//!
//! One process delivers from a file ([`Deliveries`]); others may look at it and enable a subscriber ([`Store`]).

mod deliveries;
mod stored;
mod taken;
#[cfg(test)]
mod tests;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

pub use deliveries::Deliveries;
pub use stored::{Came, Delivery, Due, Incoming, Offer, Settled, Standing, Stored, Taken, Want};

pub(crate) use crate::dead_letter::milliseconds;
use crate::{sqlite_file::Layout, webhook::breaker::Failing};

/// The file: "mbdl".
const LAYOUT: Layout = Layout { application: 0x6d62_646c, version: 1, tables: TABLES };

const PAGE_BYTES: i32 = 8192;

/// How long a writer waits for another process.
const BUSY: Duration = Duration::from_secs(5);

/// Stands for the time at which a delivery is due that waits for another one of its key.
const PARKED: i64 = i64::MAX;

const TABLES: &str = "
    CREATE TABLE subscribers (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,
        failing_since INTEGER, failing_last INTEGER, disabled TEXT, enabled INTEGER NOT NULL DEFAULT 0
    );
    CREATE TABLE messages (
        number INTEGER PRIMARY KEY, id TEXT NOT NULL,
        topic TEXT NOT NULL, partition INTEGER NOT NULL, position INTEGER NOT NULL, timestamp INTEGER NOT NULL,
        key BLOB, headers BLOB NOT NULL, value BLOB NOT NULL,
        body_from INTEGER NOT NULL, body_to INTEGER NOT NULL, pending INTEGER NOT NULL
    );
    CREATE TABLE deliveries (
        subscriber INTEGER NOT NULL, due INTEGER NOT NULL, message INTEGER NOT NULL,
        failed INTEGER NOT NULL, key INTEGER, history TEXT,
        PRIMARY KEY (subscriber, due, message)
    ) WITHOUT ROWID;
    CREATE INDEX deliveries_by_key ON deliveries (subscriber, key, message) WHERE key IS NOT NULL;
    CREATE TABLE changes (enabled INTEGER NOT NULL);
    INSERT INTO changes VALUES (0);
    CREATE TABLE taken (
        topic TEXT NOT NULL, partition INTEGER NOT NULL, last INTEGER NOT NULL, first INTEGER NOT NULL,
        time INTEGER NOT NULL, records BLOB NOT NULL,
        PRIMARY KEY (topic, partition, last, first)
    ) WITHOUT ROWID;";

/// How a subscriber does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    pub name: String,
    pub failing: Option<Failing>,
    /// Why it is called no more, where it is not.
    pub disabled: Option<String>,
    /// Messages that it is still to get.
    pub waiting: u64,
}

/// A connection to the file.
pub struct Store {
    connection: Connection,
    path: PathBuf,
}

impl Store {
    /// Opens the file, which is made where it is missing, its folder too.
    pub fn open(path: &Path) -> Result<Self> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).with_context(|| format!("create the folder of {}", path.display()))?;
        }
        let opened = || -> Result<Connection> {
            let connection = Connection::open(path)?;
            prepare(&connection)?;
            Ok(connection)
        };
        let connection = opened().with_context(|| format!("open the delivery store {}", path.display()))?;
        Ok(Self { connection, path: path.to_owned() })
    }

    /// Opens the file where it is there.
    pub fn existing(path: &Path) -> Result<Option<Self>> {
        if path.exists() { Self::open(path).map(Some) } else { Ok(None) }
    }

    /// How all subscribers do that something was to be delivered to, by name.
    pub fn states(&self) -> Result<Vec<State>> {
        let read = || -> rusqlite::Result<Vec<State>> {
            let mut statement = self.connection.prepare_cached(
                "SELECT name, failing_since, failing_last, disabled,
                     (SELECT COUNT(*) FROM deliveries WHERE subscriber = subscribers.id)
                 FROM subscribers ORDER BY name",
            )?;
            let states = statement.query_map([], |row| {
                Ok(State {
                    name: row.get(0)?,
                    failing: failing(row.get(1)?, row.get(2)?),
                    disabled: row.get(3)?,
                    waiting: row.get::<_, i64>(4)? as u64,
                })
            })?;
            states.collect()
        };
        read().with_context(|| format!("read how subscribers do in {}", self.path.display()))
    }

    /// Has a subscriber be called again, at once, and forgets what has failed, also of the messages that wait. Whether it was
    /// disabled.
    pub fn enable(&mut self, name: &str) -> Result<bool> {
        let now = milliseconds(SystemTime::now());
        let mut write = || -> rusqlite::Result<bool> {
            let transaction = Transaction::new(&mut self.connection, TransactionBehavior::Immediate)?;
            let of_name = "SELECT id, disabled IS NOT NULL FROM subscribers WHERE name = ?1";
            let found = transaction.query_row(of_name, [name], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
            let Some((id, disabled)): Option<(i64, bool)> = found else { return Ok(false) };
            transaction.execute(
                "UPDATE subscribers SET disabled = NULL, failing_since = NULL, failing_last = NULL, enabled = enabled + 1
                 WHERE id = ?1",
                [id],
            )?;
            transaction.execute("UPDATE changes SET enabled = enabled + 1", [])?;
            transaction.execute(
                "UPDATE deliveries SET due = ?2, failed = 0 WHERE subscriber = ?1 AND due > ?2 AND due < ?3",
                params![id, now, PARKED],
            )?;
            transaction.commit()?;
            Ok(disabled)
        };
        write().with_context(|| format!("enable {name} in {}", self.path.display()))
    }
}

/// Makes sure that the file is ours, and lays the tables where it is new.
fn prepare(connection: &Connection) -> Result<()> {
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(64);
    if LAYOUT.is_foreign(connection)? {
        bail!("it is a database of another program; set deliver.store to a file of its own");
    }
    connection.pragma_update(None, "page_size", PAGE_BYTES)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    let (found, ours) = (LAYOUT.lay(connection)?, LAYOUT.version);
    if found != ours {
        bail!("it has layout {found}, this metrobus reads {ours}; use the metrobus that made it");
    }
    Ok(())
}

fn time(milliseconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(milliseconds.max(0) as u64)
}

fn failing(since: Option<i64>, last: Option<i64>) -> Option<Failing> {
    Some(Failing { since: time(since?), last: time(last?) })
}
