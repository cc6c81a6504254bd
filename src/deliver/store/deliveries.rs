//! The file in the hands of the process that delivers from it.

use std::{
    collections::{HashMap, HashSet},
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicI64, Ordering},
    },
    time::SystemTime,
};

use anyhow::{Context as _, Result, anyhow};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::{
    Came, Delivery, Due, Incoming, Offer, PARKED, Settled, Standing, Store, Stored, Taken, milliseconds,
    taken::{self, Mark},
};
use crate::bus::{Topic, sqlite::Synchronous};

/// Rows in one transaction, where very many go at once.
const LOT: usize = 5000;

/// Pages of the log beside the file at which it is brought into the file.
const CHECKPOINT_PAGES: i32 = 4000;

/// The file, owned: no other process delivers from it until this is dropped.
pub struct Deliveries {
    path: PathBuf,
    writer: Mutex<Connection>,
    reader: Mutex<Reader>,
    /// The number of the next message.
    next: AtomicI64,
    synchronous: Synchronous,
    _lock: File,
}

struct Reader {
    connection: Connection,
    /// Messages that somebody has in memory.
    known: HashMap<i64, Weak<Stored>>,
    /// How often somebody was enabled.
    enabled: i64,
}

impl Deliveries {
    /// Opens the file; `None` while another process owns it.
    pub fn open(path: &Path, synchronous: Synchronous) -> Result<Option<Self>> {
        let (writer, reader) = (Store::open(path)?.connection, Store::open(path)?.connection);
        let mut beside = path.as_os_str().to_owned();
        beside.push(".lock");
        let lock = File::options().create(true).append(true).open(&beside);
        let lock = lock.with_context(|| format!("open {}", Path::new(&beside).display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => {
                return Err(error).context(format!("lock {}", Path::new(&beside).display()));
            }
        }
        let begin = || -> rusqlite::Result<Option<i64>> {
            writer.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
            taken::forget(&writer, milliseconds(SystemTime::now()))?;
            writer.query_row("SELECT MAX(number) FROM messages", [], |row| row.get(0))
        };
        let newest = begin().with_context(|| format!("begin with the delivery store {}", path.display()))?;
        let reader = Reader { connection: reader, known: HashMap::new(), enabled: 0 };
        Ok(Some(Self {
            path: path.to_owned(),
            writer: Mutex::new(writer),
            reader: Mutex::new(reader),
            next: AtomicI64::new(newest.unwrap_or(0) + 1),
            synchronous,
            _lock: lock,
        }))
    }

    /// The numbers of the subscribers called so, how they did, and how much waits for each.
    pub fn register(&self, names: &[&str]) -> Result<Vec<(i64, Standing, u64)>> {
        let mut writer = self.write_lock();
        register(&mut writer, names).map_err(|error| self.error("write to", error))
    }

    /// How the subscribers do, where one was enabled since this was asked last, by another process.
    pub fn changed(&self) -> Result<Option<Vec<(i64, Standing)>>> {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let mut read = || -> rusqlite::Result<_> {
            let count = "SELECT COALESCE(SUM(enabled), 0) FROM changes";
            let enabled = reader.connection.prepare_cached(count)?.query_row([], |row| row.get(0))?;
            if reader.enabled == enabled {
                return Ok(None);
            }
            let all = "SELECT id, failing_since, failing_last, disabled, enabled FROM subscribers";
            let states = reader
                .connection
                .prepare_cached(all)?
                .query_map([], |row| Ok((row.get(0)?, Standing::read(row, 1)?)))?
                .collect::<rusqlite::Result<_>>()?;
            reader.enabled = enabled;
            Ok(Some(states))
        };
        read().map_err(|error| self.error("read", error))
    }

    /// All subscribers that are known here, with their numbers.
    pub fn subscribers(&self) -> Result<Vec<(i64, String)>> {
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let read = || -> rusqlite::Result<_> {
            let mut statement = reader.connection.prepare("SELECT id, name FROM subscribers")?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect()
        };
        read().map_err(|error| self.error("read", error))
    }

    /// Takes messages of `topic` for those who want them, in one transaction, but for those that were taken before. When it
    /// returns they will stay.
    pub fn take(&self, topic: &Topic, incoming: &[Incoming<'_>]) -> Result<Taken> {
        let marks: Vec<_> = incoming.iter().map(|incoming| Mark::of(&incoming.record)).collect();
        let mut writer = self.write_lock();
        self.take_marked(&mut writer, topic, incoming, &marks).map_err(|error| self.error("write to", error))
    }

    fn take_marked(
        &self,
        writer: &mut Connection,
        topic: &Topic,
        incoming: &[Incoming<'_>],
        marks: &[Mark],
    ) -> rusqlite::Result<Taken> {
        let full = if self.synchronous == Synchronous::Full { "full" } else { "normal" };
        writer.pragma_update(None, "synchronous", full)?;
        let transaction = Transaction::new(writer, TransactionBehavior::Immediate)?;
        let known = taken::known(&transaction, topic.as_str(), marks)?;
        let now = milliseconds(SystemTime::now());
        let (mut taken, mut new, mut seen) = (Taken::default(), Vec::new(), HashSet::new());
        for (incoming, mark) in incoming.iter().zip(marks) {
            if known.contains(mark) || !seen.insert(*mark) {
                taken.before.extend(incoming.wants.iter().map(|want| want.subscriber));
                continue;
            }
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let stored = Stored::of(&incoming.record, topic, incoming.id.clone(), incoming.body.clone());
            let message = Arc::new(Stored { number, ..stored });
            insert(&transaction, &message, incoming.wants.len())?;
            for want in &incoming.wants {
                let key = message.key.as_ref().filter(|_| want.ordered).map(|key| hash(key));
                let waits = key.map(|key| earlier(&transaction, want.subscriber, key)).transpose()?.unwrap_or(false);
                let due = if waits { PARKED } else { now };
                transaction
                    .prepare_cached("INSERT INTO deliveries VALUES (?1, ?2, ?3, 0, ?4, NULL)")?
                    .execute(params![want.subscriber, due, number, key])?;
                *taken.counts.entry(want.subscriber).or_default() += 1;
                if !waits {
                    let delivery = Delivery { message: Arc::clone(&message), due, failed: 0, key, history: None };
                    taken.offers.push(Offer { subscriber: want.subscriber, delivery });
                }
            }
            new.push(*mark);
        }
        taken::note(&transaction, topic.as_str(), &new, now)?;
        transaction.commit()?;
        Ok(taken)
    }

    /// What is due for a subscriber at `now` and is not `held`, at most `most`, the earliest first.
    pub fn due(&self, subscriber: i64, now: i64, held: &HashSet<i64>, most: usize) -> Result<Due> {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        read_due(&mut reader, subscriber, now, held, most).map_err(|error| self.error("read", error))
    }

    /// Writes down what came of deliveries, and how subscribers do. Gives the subscribers for which a delivery is due now
    /// that had waited for another one of its key.
    pub fn settle(&self, settled: &[Settled], standings: &HashMap<i64, Standing>) -> Result<Vec<i64>> {
        let mut writer = self.write_lock();
        settle(&mut writer, settled, standings).map_err(|error| self.error("write to", error))
    }

    /// Forgets a subscriber and what waits for it; gives how much that was.
    pub fn remove(&self, subscriber: i64) -> Result<u64> {
        let mut removed = 0;
        loop {
            let mut writer = self.write_lock();
            let lot = remove_lot(&mut writer, subscriber).map_err(|error| self.error("write to", error))?;
            removed += lot as u64;
            if lot < LOT {
                return Ok(removed);
            }
        }
    }

    /// Forgets which records were taken too long ago.
    pub fn forget(&self) -> Result<()> {
        let writer = self.write_lock();
        taken::forget(&writer, milliseconds(SystemTime::now())).map_err(|error| self.error("write to", error))
    }

    fn write_lock(&self) -> MutexGuard<'_, Connection> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, step: &str, error: rusqlite::Error) -> anyhow::Error {
        anyhow!("{step} the delivery store {}: {error}", self.path.display())
    }
}

fn register(writer: &mut Connection, names: &[&str]) -> rusqlite::Result<Vec<(i64, Standing, u64)>> {
    let transaction = Transaction::new(writer, TransactionBehavior::Immediate)?;
    let mut all = Vec::with_capacity(names.len());
    for name in names {
        transaction.prepare_cached("INSERT OR IGNORE INTO subscribers (name) VALUES (?1)")?.execute([name])?;
        let mut of_name = transaction.prepare_cached(
            "SELECT id, failing_since, failing_last, disabled, enabled,
                 (SELECT COUNT(*) FROM deliveries WHERE subscriber = subscribers.id)
             FROM subscribers WHERE name = ?1",
        )?;
        all.push(
            of_name
                .query_row([name], |row| Ok((row.get(0)?, Standing::read(row, 1)?, row.get::<_, i64>(5)? as u64)))?,
        );
    }
    transaction.commit()?;
    Ok(all)
}

fn insert(transaction: &Transaction<'_>, message: &Stored, pending: usize) -> rusqlite::Result<()> {
    let Stored { number, id, topic, partition, offset, timestamp, key, headers, value, body } = message;
    let insert = "INSERT INTO messages VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
    let (from, to, pending) = (body.start as i64, body.end as i64, pending as i64);
    transaction.prepare_cached(insert)?.execute(params![
        number,
        id,
        topic.as_str(),
        partition,
        offset,
        timestamp,
        key.as_deref(),
        &headers[..],
        &value[..],
        from,
        to,
        pending
    ])?;
    Ok(())
}

/// Whether something of that key is still to be delivered.
fn earlier(transaction: &Transaction<'_>, subscriber: i64, key: i64) -> rusqlite::Result<bool> {
    transaction
        .prepare_cached("SELECT 1 FROM deliveries WHERE subscriber = ?1 AND key = ?2 LIMIT 1")?
        .exists([subscriber, key])
}

/// Keys are told apart by this; of two that have the same the messages wait for each other as well.
fn hash(key: &[u8]) -> i64 {
    use sha2::{Digest, Sha256};
    let [a, b, c, d, e, f, g, h, ..] = <[u8; 32]>::from(Sha256::digest(key));
    i64::from_le_bytes([a, b, c, d, e, f, g, h])
}

fn read_due(reader: &mut Reader, subscriber: i64, now: i64, held: &HashSet<i64>, most: usize) -> rusqlite::Result<Due> {
    let Reader { connection, known, .. } = reader;
    let mut due = Due::default();
    let mut statement = connection.prepare_cached(
        "SELECT due, message, failed, key, history FROM deliveries WHERE subscriber = ?1 ORDER BY due, message",
    )?;
    let mut rows = statement.query([subscriber])?;
    while let Some(row) = rows.next()? {
        let (at, number): (i64, i64) = (row.get(0)?, row.get(1)?);
        if at > now {
            due.next = Some(at).filter(|at| *at < PARKED);
            break;
        }
        if held.contains(&number) {
            continue;
        }
        if due.now.len() == most {
            due.more = true;
            break;
        }
        let Some(message) = message(connection, known, number)? else { continue };
        let (failed, key, history) = (row.get(2)?, row.get(3)?, row.get(4)?);
        due.now.push(Delivery { message, due: at, failed, key, history });
    }
    if known.len() > 2 * LOT {
        known.retain(|_, message| message.strong_count() > 0);
    }
    Ok(due)
}

/// The message of that number, one for all who ask while somebody has it.
fn message(
    connection: &Connection,
    known: &mut HashMap<i64, Weak<Stored>>,
    number: i64,
) -> rusqlite::Result<Option<Arc<Stored>>> {
    if let Some(message) = known.get(&number).and_then(Weak::upgrade) {
        return Ok(Some(message));
    }
    let read = connection.prepare_cached("SELECT * FROM messages WHERE number = ?1")?.query_row([number], Stored::read);
    let message = read.optional()?.map(Arc::new);
    if let Some(message) = &message {
        known.insert(number, Arc::downgrade(message));
    }
    Ok(message)
}

fn settle(
    writer: &mut Connection,
    settled: &[Settled],
    standings: &HashMap<i64, Standing>,
) -> rusqlite::Result<Vec<i64>> {
    // What is undone by a power cut is delivered again, which may happen anyway
    writer.pragma_update(None, "synchronous", "normal")?;
    let transaction = Transaction::new(writer, TransactionBehavior::Immediate)?;
    let mut over: HashMap<i64, i64> = HashMap::new();
    let mut woken = Vec::new();
    let now = milliseconds(SystemTime::now());
    for Settled { subscriber, due, message, key, came } in settled {
        let place = params![subscriber, due, message];
        match came {
            Came::Done => {
                let delete = "DELETE FROM deliveries WHERE subscriber = ?1 AND due = ?2 AND message = ?3";
                if transaction.prepare_cached(delete)?.execute(place)? == 0 {
                    // It was enabled meanwhile, and is due at another time
                    let anyway = "DELETE FROM deliveries WHERE subscriber = ?1 AND message = ?2";
                    if transaction.execute(anyway, [subscriber, message])? == 0 {
                        continue;
                    }
                }
                *over.entry(*message).or_default() += 1;
                if let Some(key) = key
                    && release(&transaction, *subscriber, *key, now)?
                {
                    woken.push(*subscriber);
                }
            }
            Came::Again { due: later, failed, history } => {
                let update = "UPDATE deliveries SET due = ?4, failed = ?5, history = ?6
                    WHERE subscriber = ?1 AND due = ?2 AND message = ?3";
                transaction
                    .prepare_cached(update)?
                    .execute(params![subscriber, due, message, later, failed, history])?;
            }
        }
    }
    for (message, count) in over {
        finish(&transaction, message, count)?;
    }
    for (subscriber, Standing { failing, disabled, .. }) in standings {
        let (since, last) = (failing.map(|it| milliseconds(it.since)), failing.map(|it| milliseconds(it.last)));
        transaction
            .prepare_cached(
                "UPDATE subscribers SET failing_since = ?2, failing_last = ?3, disabled = ?4 WHERE id = ?1",
            )?
            .execute(params![subscriber, since, last, disabled])?;
    }
    transaction.commit()?;
    Ok(woken)
}

/// Lets the next delivery of a key go, where one waits.
fn release(transaction: &Transaction<'_>, subscriber: i64, key: i64, now: i64) -> rusqlite::Result<bool> {
    let next = "SELECT due, message FROM deliveries WHERE subscriber = ?1 AND key = ?2 ORDER BY message LIMIT 1";
    let next = transaction.prepare_cached(next)?.query_row([subscriber, key], |row| Ok((row.get(0)?, row.get(1)?)));
    let Some((PARKED, message)) = next.optional()? else { return Ok(false) };
    let message: i64 = message;
    transaction
        .prepare_cached("UPDATE deliveries SET due = ?4 WHERE subscriber = ?1 AND due = ?2 AND message = ?3")?
        .execute([subscriber, PARKED, message, now])?;
    Ok(true)
}

/// Takes note that `count` subscribers more are done with a message, and forgets it where all are.
fn finish(transaction: &Transaction<'_>, message: i64, count: i64) -> rusqlite::Result<()> {
    let delete = "DELETE FROM messages WHERE number = ?1 AND pending <= ?2";
    if transaction.prepare_cached(delete)?.execute([message, count])? == 0 {
        let update = "UPDATE messages SET pending = pending - ?2 WHERE number = ?1";
        transaction.prepare_cached(update)?.execute([message, count])?;
    }
    Ok(())
}

fn remove_lot(writer: &mut Connection, subscriber: i64) -> rusqlite::Result<usize> {
    let transaction = Transaction::new(writer, TransactionBehavior::Immediate)?;
    let lot: Vec<(i64, i64)> = {
        let some = "SELECT due, message FROM deliveries WHERE subscriber = ?1 LIMIT ?2";
        let mut statement = transaction.prepare_cached(some)?;
        let rows = statement.query_map(params![subscriber, LOT as i64], |row| Ok((row.get(0)?, row.get(1)?)))?;
        rows.collect::<rusqlite::Result<_>>()?
    };
    for (due, message) in &lot {
        let delete = "DELETE FROM deliveries WHERE subscriber = ?1 AND due = ?2 AND message = ?3";
        transaction.prepare_cached(delete)?.execute([subscriber, *due, *message])?;
        finish(&transaction, *message, 1)?;
    }
    if lot.len() < LOT {
        transaction.execute("DELETE FROM subscribers WHERE id = ?1", [subscriber])?;
    }
    transaction.commit()?;
    Ok(lot.len())
}
