//! The index: hops by id, key, field and place, and counts by reason, in a local SQLite file.
//!
//! It holds nothing that the topic does not: where it is missing, of an older layout, or of another topic than the
//! present one, it is made anew. The position in each partition is written in the same transaction as what was read there,
//! so every entry is in it once, whatever dies.
//!
//! # What makes it small, and a look-up fast
//!
//! Entries are kept as they are, a few bytes a hop. What leads to them is a mark: 64 bits of an id, key or field, in one
//! row for all hops of an entry that share it. The ids that the busdriver gives begin with their time, so those of one
//! batch share few marks, and rows come in nearly sorted. A look-up reads the entries of a mark, mostly one a hop of the
//! journey, and compares whole ids there; it takes as long in a large index as in a small one.

mod query;
mod retention;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, TransactionBehavior, params};

pub use query::{Count, Filter, Found};

use super::{Entry, Id, Options, entry::Damaged, label};
use crate::{
    bus::{Batch, Record},
    sqlite_file::{self, Layout},
};

/// The file: "mbjx". One of another version is made anew.
const LAYOUT: Layout = Layout { application: 0x6d62_6a78, version: 1, tables: TABLES };

/// How long one process waits for another that writes.
const BUSY: Duration = Duration::from_secs(60);

/// Kilobytes of the file that stay in memory.
const CACHE_KB: i32 = 64 << 10;

const TABLES: &str = "
    CREATE TABLE positions (partition INTEGER PRIMARY KEY, next INTEGER NOT NULL, checksum INTEGER NOT NULL);
    CREATE TABLE damaged (partition INTEGER PRIMARY KEY, count INTEGER NOT NULL);
    CREATE TABLE texts (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
    CREATE TABLE entries (
        number INTEGER PRIMARY KEY, time INTEGER NOT NULL, topic INTEGER NOT NULL, partition INTEGER NOT NULL,
        first INTEGER NOT NULL, last INTEGER NOT NULL, entry BLOB NOT NULL
    );
    CREATE INDEX places ON entries (topic, partition, first);
    CREATE TABLE marks (mark INTEGER NOT NULL, entry INTEGER NOT NULL, PRIMARY KEY (mark, entry)) WITHOUT ROWID;
    CREATE TABLE counts (
        second INTEGER NOT NULL, stop INTEGER NOT NULL, outcome INTEGER NOT NULL, reason INTEGER NOT NULL,
        count INTEGER NOT NULL, entry INTEGER NOT NULL, PRIMARY KEY (second, stop, outcome, reason)
    ) WITHOUT ROWID;
";

/// In place of the id of a text, where there is none.
const NO_TEXT: i64 = 0;

/// An index that is open.
pub struct Index {
    path: PathBuf,
    connection: Connection,
    retention: Duration,
    retention_bytes: u64,
    /// The positions as this process knows them.
    seen: HashMap<i32, Position>,
}

/// How far a partition of the topic has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The offset after the last record that was read.
    pub next: i64,
    /// Of the value of that record.
    pub checksum: i64,
}

impl Index {
    /// Opens the file, made where it is missing.
    pub fn open(options: &Options) -> Result<Self> {
        let path = &options.index;
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).with_context(|| format!("create the folder of the index {}", path.display()))?;
        }
        let connection = Connection::open(path).map_err(|error| explain(path, "open", error))?;
        let index = Self {
            path: path.clone(),
            connection,
            retention: options.retention,
            retention_bytes: options.retention_bytes,
            seen: HashMap::new(),
        };
        index.prepare()?;
        Ok(index)
    }

    fn prepare(&self) -> Result<()> {
        let connection = &self.connection;
        let failed = |error| explain(&self.path, "open", error);
        connection.busy_timeout(BUSY).map_err(failed)?;
        connection.set_prepared_statement_cache_capacity(64);
        if LAYOUT.is_foreign(connection).map_err(failed)? {
            bail!("{} is a database of another program; set journal.index to a file of its own", self.path.display());
        }
        let prepare = || {
            // Counts only where the file is new
            connection.pragma_update(None, "auto_vacuum", "incremental")?;
            connection.pragma_update(None, "journal_mode", "wal")?;
            // What a power cut takes is read from the topic again
            connection.pragma_update(None, "synchronous", "normal")?;
            connection.pragma_update(None, "cache_size", -CACHE_KB)?;
            let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
            if sqlite_file::version(connection)? != LAYOUT.version {
                drop_tables(&transaction)?;
                transaction.execute_batch(&LAYOUT.statements())?;
            }
            transaction.commit()
        };
        prepare().map_err(failed)
    }

    /// Forgets everything: the topic is another one than it was.
    pub fn clear(&mut self) -> Result<()> {
        self.write(|transaction| {
            drop_tables(transaction)?;
            transaction.execute_batch(TABLES)
        })
    }

    /// How far each partition has been read: what is to be taken in next begins there.
    pub fn positions(&mut self) -> Result<HashMap<i32, Position>> {
        self.seen = positions(&self.connection).map_err(|error| self.error("read", error))?;
        Ok(self.seen.clone())
    }

    /// Records that were no entries, or damaged.
    pub fn damaged(&self) -> Result<u64> {
        let sum = "SELECT COALESCE(SUM(count), 0) FROM damaged";
        let sum = self.connection.query_row(sum, [], |row| row.get::<_, i64>(0));
        Ok(sum.map_err(|error| self.error("read", error))? as u64)
    }

    /// Takes records of the topic in; those that are in it already are passed over. False, with nothing taken, where
    /// another process has made it anew meanwhile: [`Index::positions`] tells where it is to be read from now.
    pub fn take(&mut self, batch: &Batch) -> Result<bool> {
        let seen = std::mem::take(&mut self.seen);
        let taken = self.write(|transaction| {
            let mut positions = positions(transaction)?;
            let is_back =
                |(partition, seen): (&i32, &Position)| positions.get(partition).is_none_or(|p| p.next < seen.next);
            if seen.iter().any(is_back) {
                return Ok(None);
            }
            let mut taking = Taking { transaction, texts: HashMap::new(), marks: Vec::new() };
            let mut damaged: HashMap<i32, i64> = HashMap::new();
            for record in batch.iter() {
                if positions.get(&record.partition).is_some_and(|position| record.offset < position.next) {
                    continue;
                }
                let position = Position { next: record.offset + 1, checksum: checksum(&record) };
                positions.insert(record.partition, position);
                if !taking.take(record.value.unwrap_or_default())? {
                    *damaged.entry(record.partition).or_default() += 1;
                }
            }
            taking.finish()?;
            for (partition, position) in &positions {
                let sql = "INSERT OR REPLACE INTO positions (partition, next, checksum) VALUES (?1, ?2, ?3)";
                let values = params![partition, position.next, position.checksum];
                transaction.prepare_cached(sql)?.execute(values)?;
            }
            for (partition, count) in damaged {
                let sql = "INSERT INTO damaged (partition, count) VALUES (?1, ?2)
                           ON CONFLICT DO UPDATE SET count = count + ?2";
                transaction.execute(sql, [i64::from(partition), count])?;
            }
            Ok(Some(positions))
        })?;
        let is_taken = taken.is_some();
        self.seen = taken.unwrap_or_default();
        Ok(is_taken)
    }

    fn write<T>(&self, act: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> Result<T> {
        let run = || {
            let transaction = Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate)?;
            let done = act(&transaction)?;
            transaction.commit()?;
            Ok(done)
        };
        run().map_err(|error| self.error("write", error))
    }

    fn error(&self, step: &str, error: rusqlite::Error) -> anyhow::Error {
        explain(&self.path, step, error)
    }
}

fn drop_tables(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    for table in ["positions", "damaged", "texts", "entries", "marks", "counts"] {
        transaction.execute_batch(&format!("DROP TABLE IF EXISTS {table}"))?;
    }
    Ok(())
}

fn positions(connection: &Connection) -> rusqlite::Result<HashMap<i32, Position>> {
    let mut statement = connection.prepare_cached("SELECT partition, next, checksum FROM positions")?;
    let position = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, Position { next: row.get(1)?, checksum: row.get(2)? }));
    statement.query_map([], position)?.collect()
}

/// Tells a record from another one at the same place of another topic.
pub fn checksum(record: &Record<'_>) -> i64 {
    hash(&[record.value.unwrap_or_default()])
}

/// FNV-1a, which stays the same over builds and machines, with its bits mixed once more.
fn hash(parts: &[&[u8]]) -> i64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        for byte in part.iter().chain(&[0xff]) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    hash ^= hash >> 32;
    hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) as i64
}

/// The mark of an id; `None` where it has none.
fn id_mark(id: &Id<'_>) -> Option<i64> {
    match id {
        Id::None => None,
        // Its first half is a time and a counter
        Id::Uuid(uuid) if uuid[6] >> 4 == 7 => Some((u128::from_be_bytes(*uuid) >> 64) as i64),
        Id::Uuid(uuid) => Some(hash(&[b"uuid", uuid])),
        Id::Text(text) => Some(hash(&[b"text", text.as_bytes()])),
    }
}

fn key_mark(key: &[u8]) -> i64 {
    hash(&[b"key", key])
}

fn field_mark(name: &str, value: &str) -> i64 {
    hash(&[b"field", name.as_bytes(), value.as_bytes()])
}

/// What leads to the hops of an entry.
#[derive(Default)]
struct Marks {
    all: Vec<i64>,
    /// The first and the last offset; `None` where it has no hops.
    offsets: Option<(i64, i64)>,
}

impl Marks {
    fn of(entry: &Entry<'_>) -> Result<Self, Damaged> {
        let Self { mut all, mut offsets } = Self::default();
        let mut add = |mark: i64| {
            // Mostly that of the hop before
            if all.last() != Some(&mark) {
                all.push(mark);
            }
        };
        for hop in entry.hops() {
            let hop = hop?;
            id_mark(&hop.id).into_iter().for_each(&mut add);
            hop.key.map(key_mark).into_iter().for_each(&mut add);
            hop.fields.iter().map(|(name, value)| field_mark(name, value)).for_each(&mut add);
            let (first, last) = offsets.unwrap_or((hop.offset, hop.offset));
            offsets = Some((first.min(hop.offset), last.max(hop.offset)));
        }
        all.sort_unstable();
        all.dedup();
        Ok(Self { all, offsets })
    }
}

/// Entries on their way into the tables.
struct Taking<'a> {
    transaction: &'a Transaction<'a>,
    /// Ids of texts. Not beyond the transaction: another process may let some go.
    texts: HashMap<String, i64>,
    marks: Vec<(i64, i64)>,
}

impl Taking<'_> {
    /// False where the bytes are no entry.
    fn take(&mut self, bytes: &[u8]) -> rusqlite::Result<bool> {
        let Ok(entry) = Entry::read(bytes) else { return Ok(false) };
        let Ok(Marks { all: marks, offsets }) = Marks::of(&entry) else { return Ok(false) };
        let Some((first, last)) = offsets else { return Ok(true) };
        let topic = self.text(entry.topic)?;
        let sql = "INSERT INTO entries (time, topic, partition, first, last, entry) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let values = params![entry.time, topic, entry.partition, first, last, bytes];
        self.transaction.prepare_cached(sql)?.execute(values)?;
        let number = self.transaction.last_insert_rowid();
        self.marks.extend(marks.into_iter().map(|mark| (mark, number)));
        self.count(&entry, number)?;
        Ok(true)
    }

    fn count(&mut self, entry: &Entry<'_>, number: i64) -> rusqlite::Result<()> {
        let mut counts: HashMap<(u8, Option<&str>), i64> = HashMap::new();
        for hop in entry.hops().flatten() {
            *counts.entry((hop.outcome.code(), hop.reason.map(label))).or_default() += 1;
        }
        let stop = self.text(entry.stop)?;
        for ((outcome, reason), count) in counts {
            let reason = reason.map_or(Ok(NO_TEXT), |reason| self.text(reason))?;
            let sql = "INSERT INTO counts (second, stop, outcome, reason, count, entry) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                       ON CONFLICT DO UPDATE SET count = count + ?5, entry = ?6";
            let values = params![entry.time.div_euclid(1_000_000), stop, outcome, reason, count, number];
            self.transaction.prepare_cached(sql)?.execute(values)?;
        }
        Ok(())
    }

    fn text(&mut self, text: &str) -> rusqlite::Result<i64> {
        if let Some(id) = self.texts.get(text) {
            return Ok(*id);
        }
        let find = "SELECT id FROM texts WHERE text = ?1";
        let found = self.transaction.prepare_cached(find)?.query_row([text], |row| row.get(0)).optional()?;
        let id = match found {
            Some(id) => id,
            None => {
                self.transaction.execute("INSERT INTO texts (text) VALUES (?1)", [text])?;
                self.transaction.last_insert_rowid()
            }
        };
        self.texts.insert(text.to_owned(), id);
        Ok(id)
    }

    /// Writes the marks, in order: neighbours in the table come together.
    fn finish(mut self) -> rusqlite::Result<()> {
        self.marks.sort_unstable();
        let mut statement = self.transaction.prepare_cached("INSERT INTO marks (mark, entry) VALUES (?1, ?2)")?;
        for (mark, entry) in self.marks {
            statement.execute([mark, entry])?;
        }
        Ok(())
    }
}

fn explain(path: &Path, step: &str, error: rusqlite::Error) -> anyhow::Error {
    let advice = match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            "it is damaged, or no index of metrobus; remove it, and it is made anew"
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => "other processes keep it busy",
        Some(ErrorCode::DiskFull) => "the disk is full",
        Some(ErrorCode::CannotOpen) => "it cannot be opened; check journal.index and the permissions of its folder",
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => "it cannot be written; check its permissions",
        _ => return anyhow::Error::new(error).context(format!("{step} the index {}", path.display())),
    };
    anyhow::anyhow!("{step} the index {}: {advice} ({error})", path.display())
}
