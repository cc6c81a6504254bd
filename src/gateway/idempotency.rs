//! What was brought under which key: a repeat of it is harmless.
//!
//! A caller who got no answer sends the same request again, with the same `Idempotency-Key`
//! (draft-ietf-httpapi-idempotency-key-header). So a key is written down, with a fingerprint of the request and the ids of its
//! messages, before anything is published; and after that, that all of it is on the bus:
//!
//! | the request comes again | answer |
//! | --- | --- |
//! | after the bus had it | the same ids, and nothing is published, whatever its caller may send still |
//! | while it is being published | it has to wait |
//! | with another body | refused |
//! | after a crash in between | published again with the same ids: on the bus perhaps twice, as one message |
//!
//! [`Store`] keeps that in a SQLite file, which one process has open at a time, as no other could know what is under way here.
//! The quotas of callers are counted in the same file.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, TransactionBehavior, params};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::sqlite_file::Layout;

/// How long a key is kept unless the configuration says so.
pub const RETENTION: Duration = Duration::from_secs(24 * 3600);

/// The file: "mbgw".
const LAYOUT: Layout = Layout { application: 0x6d62_6777, version: 1, tables: TABLES };

/// How long a process that starts waits for the one before it to end.
const BUSY: Duration = Duration::from_secs(5);

/// Between two looks at what is too old, in milliseconds.
const PRUNE_EVERY: i64 = 60_000;

/// Most keys that go at once, so that nobody waits long for it.
const PRUNE_AT_ONCE: i64 = 20_000;

const TABLES: &str = "
    CREATE TABLE keys (
        key BLOB PRIMARY KEY, fingerprint BLOB NOT NULL, ids BLOB NOT NULL, begun INTEGER NOT NULL, done INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX by_time ON keys (begun);
    CREATE TABLE quotas (
        caller TEXT NOT NULL, day INTEGER NOT NULL, used INTEGER NOT NULL, PRIMARY KEY (caller, day)
    ) WITHOUT ROWID;
";

/// A request that has a key.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Keys of different callers have nothing to do with each other.
    pub caller: &'a str,
    pub key: &'a str,
    /// The same for the same request only: a hash of its path, its body and the headers that say what it brings.
    pub fingerprint: [u8; 32],
    /// Of the messages that it becomes, if it is new.
    pub ids: &'a [Uuid],
}

/// What is known of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// It came for the first time: publish it, and say so with [`Store::done`].
    New,
    /// All of it is on the bus, under these ids.
    Done { ids: Vec<Uuid> },
    /// It is being published.
    UnderWay,
    /// The key belongs to another request.
    Differs,
    /// It came before, and nobody knows whether the bus has it: publish it under these ids, and say so with [`Store::done`].
    Again { ids: Vec<Uuid> },
}

/// Of a caller and a key.
type Mark = [u8; 32];

/// The keys, in a file.
pub struct Store {
    path: PathBuf,
    connection: Connection,
    /// In milliseconds.
    retention: i64,
    pruned: i64,
    under_way: HashSet<Mark>,
    /// By caller: the day, and what was used on it.
    used: HashMap<String, (i64, u64)>,
}

impl Store {
    /// Opens the file, made where it is missing, folder too. Keys are forgotten `retention` after they came first.
    pub fn open(path: &Path, retention: Duration) -> Result<Self> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).with_context(|| format!("create the folder of {}", path.display()))?;
        }
        let connection = Connection::open(path).map_err(|error| explain(path, "open", error))?;
        prepare(path, &connection)?;
        Ok(Self {
            path: path.to_owned(),
            connection,
            retention: i64::try_from(retention.as_millis()).unwrap_or(i64::MAX),
            pruned: 0,
            under_way: HashSet::new(),
            used: HashMap::new(),
        })
    }

    /// [`Store::begin_all`] of one request.
    pub fn begin(&mut self, request: Request<'_>, now: i64) -> Result<Begun> {
        Ok(self.begin_all(&[request], now)?.remove(0))
    }

    /// What is known of each request at `now`, in milliseconds since the epoch. What is new is written down, and on the disk when
    /// this returns. Where it fails nothing has begun.
    pub fn begin_all(&mut self, requests: &[Request<'_>], now: i64) -> Result<Vec<Begun>> {
        let marks: Vec<Mark> = requests.iter().map(|request| mark(request.caller, request.key)).collect();
        let mut begun = Vec::with_capacity(requests.len());
        let mut started = HashSet::new();
        let (since, prune) = (now.saturating_sub(self.retention), now.abs_diff(self.pruned) >= PRUNE_EVERY as u64);
        let under_way = &self.under_way;
        let outcome = write(&mut self.connection, Sync::Full, |transaction| {
            for (request, mark) in requests.iter().zip(&marks) {
                let judged = match under_way.contains(mark) || started.contains(mark) {
                    true => under_way_or_other(transaction, mark, request)?,
                    false => judge(transaction, mark, request, since, now)?,
                };
                if matches!(judged, Begun::New | Begun::Again { .. }) {
                    started.insert(*mark);
                }
                begun.push(judged);
            }
            match prune {
                true => forget_old(transaction, since),
                false => Ok(()),
            }
        });
        outcome.map_err(|error| explain(&self.path, "write", error))?;
        if prune {
            self.pruned = now;
        }
        self.under_way.extend(started);
        Ok(begun)
    }

    /// What [`Store::begin_all`] would give for each request, and nothing begins.
    pub fn look_up(&self, requests: &[Request<'_>], now: i64) -> Result<Vec<Begun>> {
        let since = now.saturating_sub(self.retention);
        let known = |request: &Request<'_>| {
            let mark = mark(request.caller, request.key);
            match self.under_way.contains(&mark) {
                true => under_way_or_other(&self.connection, &mark, request),
                false => Ok(known(&self.connection, &mark, request, since)?.unwrap_or(Begun::New)),
            }
        };
        let all: rusqlite::Result<_> = requests.iter().map(known).collect();
        all.map_err(|error| explain(&self.path, "read", error))
    }

    /// [`Store::done_all`] of one request.
    pub fn done(&mut self, caller: &str, key: &str) -> Result<()> {
        self.done_all(&[(caller, key)])
    }

    /// The bus has all of what these callers brought under these keys. After a power cut that may be forgotten, and they are as
    /// after a crash.
    pub fn done_all(&mut self, keys: &[(&str, &str)]) -> Result<()> {
        self.settle(keys, "UPDATE keys SET done = 1 WHERE key = ?1")
    }

    /// Nothing of what the caller brought under the key is on the bus, nor will be: the next request with it is new.
    pub fn forget(&mut self, caller: &str, key: &str) -> Result<()> {
        self.forget_all(&[(caller, key)])
    }

    /// [`Store::forget`] of many.
    pub fn forget_all(&mut self, keys: &[(&str, &str)]) -> Result<()> {
        self.settle(keys, "DELETE FROM keys WHERE key = ?1")
    }

    /// Nobody knows whether the bus has, or will have, what the caller brought under the key: it has to be published under the same
    /// ids if it comes again.
    pub fn unsure(&mut self, caller: &str, key: &str) {
        self.under_way.remove(&mark(caller, key));
    }

    fn settle(&mut self, keys: &[(&str, &str)], statement: &str) -> Result<()> {
        let marks: Vec<Mark> = keys.iter().map(|(caller, key)| mark(caller, key)).collect();
        let outcome = write(&mut self.connection, Sync::Normal, |transaction| {
            let mut statement = transaction.prepare_cached(statement)?;
            marks.iter().try_for_each(|mark| statement.execute([mark]).map(drop))
        });
        // Whatever the file says: it is not under way any more
        for mark in &marks {
            self.under_way.remove(mark);
        }
        outcome.map_err(|error| explain(&self.path, "write", error))
    }

    /// How much of its quota a caller has used on `day`, counted in days since the epoch.
    pub fn used(&mut self, caller: &str, day: i64) -> Result<u64> {
        if let Some((known, used)) = self.used.get(caller)
            && *known == day
        {
            return Ok(*used);
        }
        let read = |connection: &Connection| {
            let mut statement = connection.prepare_cached("SELECT used FROM quotas WHERE caller = ?1 AND day = ?2")?;
            statement.query_row(params![caller, day], |row| row.get::<_, i64>(0)).optional()
        };
        let used = read(&self.connection).map_err(|error| explain(&self.path, "read", error))?;
        let used = used.map_or(0, |used| used.max(0) as u64);
        self.used.insert(caller.to_owned(), (day, used));
        Ok(used)
    }

    /// [`Store::add_all`] of one caller.
    pub fn add(&mut self, caller: &str, day: i64, count: u64) -> Result<()> {
        self.add_all(day, &[(caller, count)])
    }

    /// Adds to what callers have used on `day`. It outlives a crash of the process; a power cut may take the last moments.
    pub fn add_all(&mut self, day: i64, counts: &[(&str, u64)]) -> Result<()> {
        let outcome = write(&mut self.connection, Sync::Normal, |transaction| {
            let mut add = transaction.prepare_cached(
                "INSERT INTO quotas (caller, day, used) VALUES (?1, ?2, ?3) \
                 ON CONFLICT DO UPDATE SET used = used + excluded.used",
            )?;
            for (caller, count) in counts {
                add.execute(params![caller, day, i64::try_from(*count).unwrap_or(i64::MAX)])?;
            }
            // A clock may be set back a little
            transaction.prepare_cached("DELETE FROM quotas WHERE day < ?1")?.execute([day.saturating_sub(2)]).map(drop)
        });
        outcome.map_err(|error| explain(&self.path, "write", error))?;
        for (caller, count) in counts {
            if let Some((known, used)) = self.used.get_mut(*caller)
                && *known == day
            {
                *used = used.saturating_add(*count);
            }
        }
        Ok(())
    }
}

/// Whether a power cut may undo a transaction; a crash of the process never does.
#[derive(Clone, Copy)]
enum Sync {
    Full,
    Normal,
}

fn write<T>(
    connection: &mut Connection,
    sync: Sync,
    act: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    let level = match sync {
        Sync::Full => "full",
        Sync::Normal => "normal",
    };
    connection.pragma_update(None, "synchronous", level)?;
    let transaction = Transaction::new(connection, TransactionBehavior::Immediate)?;
    let outcome = act(&transaction)?;
    transaction.commit()?;
    Ok(outcome)
}

fn prepare(path: &Path, connection: &Connection) -> Result<()> {
    let failed = |error| explain(path, "open", error);
    connection.busy_timeout(BUSY).map_err(failed)?;
    connection.set_prepared_statement_cache_capacity(16);
    // Before anything is read: who has the file keeps it
    connection.pragma_update(None, "locking_mode", "exclusive").map_err(failed)?;
    if LAYOUT.is_foreign(connection).map_err(failed)? {
        bail!("{} is a database of another program; set gateway.store to a file of its own", path.display());
    }
    connection.pragma_update(None, "journal_mode", "wal").map_err(failed)?;
    let found = LAYOUT.lay(connection).map_err(failed)?;
    if found != LAYOUT.version {
        bail!(
            "{} is of another version of metrobus (layout {found}); set gateway.store to another file",
            path.display()
        );
    }
    Ok(())
}

/// What is known of a request that is not under way here, and writes it down where it is new.
fn judge(
    transaction: &Transaction<'_>,
    mark: &Mark,
    request: &Request<'_>,
    since: i64,
    now: i64,
) -> rusqlite::Result<Begun> {
    if let Some(known) = known(transaction, mark, request, since)? {
        return Ok(known);
    }
    let ids: Vec<u8> = request.ids.iter().flat_map(Uuid::as_bytes).copied().collect();
    transaction
        .prepare_cached("INSERT OR REPLACE INTO keys (key, fingerprint, ids, begun, done) VALUES (?1, ?2, ?3, ?4, 0)")?
        .execute(params![mark, request.fingerprint, ids, now])?;
    Ok(Begun::New)
}

/// What the file has of a request that is not under way here.
fn known(connection: &Connection, mark: &Mark, request: &Request<'_>, since: i64) -> rusqlite::Result<Option<Begun>> {
    let known = connection
        .prepare_cached("SELECT fingerprint, ids, done FROM keys WHERE key = ?1 AND begun > ?2")?
        .query_row(params![mark, since], |row| {
            Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Vec<u8>>(1)?, row.get::<_, bool>(2)?))
        })
        .optional()?;
    let Some((fingerprint, ids, done)) = known else { return Ok(None) };
    if fingerprint != request.fingerprint {
        return Ok(Some(Begun::Differs));
    }
    let (ids, _) = ids.as_chunks::<16>();
    let ids = ids.iter().map(|id| Uuid::from_bytes(*id)).collect();
    Ok(Some(if done { Begun::Done { ids } } else { Begun::Again { ids } }))
}

fn under_way_or_other(connection: &Connection, mark: &Mark, request: &Request<'_>) -> rusqlite::Result<Begun> {
    let known = connection
        .prepare_cached("SELECT fingerprint FROM keys WHERE key = ?1")?
        .query_row([mark], |row| row.get::<_, Vec<u8>>(0))
        .optional()?;
    let other = known.is_some_and(|fingerprint| fingerprint != request.fingerprint);
    Ok(if other { Begun::Differs } else { Begun::UnderWay })
}

fn forget_old(transaction: &Transaction<'_>, since: i64) -> rusqlite::Result<()> {
    let old = "DELETE FROM keys WHERE key IN (SELECT key FROM keys WHERE begun <= ?1 LIMIT ?2)";
    transaction.prepare_cached(old)?.execute([since, PRUNE_AT_ONCE]).map(drop)
}

/// Keys and names may be of any length; this is not, and says nothing of either to who reads the file.
fn mark(caller: &str, key: &str) -> Mark {
    let mut hash = Sha256::new();
    hash.update((caller.len() as u64).to_le_bytes());
    hash.update(caller);
    hash.update(key);
    hash.finalize().into()
}

fn explain(path: &Path, step: &str, error: rusqlite::Error) -> anyhow::Error {
    let busy = matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked));
    let context = match busy {
        true => format!("{} is in use by another gateway: give each its own gateway.store", path.display()),
        false => format!("{step} {}", path.display()),
    };
    anyhow::Error::new(error).context(context)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const HOUR: i64 = 3_600_000;

    fn open(folder: &TempDir) -> Store {
        Store::open(&folder.path().join("below/gateway.db"), RETENTION).unwrap()
    }

    fn request<'a>(caller: &'a str, key: &'a str, body: u8, ids: &'a [Uuid]) -> Request<'a> {
        Request { caller, key, fingerprint: [body; 32], ids }
    }

    #[test]
    fn a_repeat_gets_the_first_ids_and_another_body_none() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = open(&folder);
        let (first, second) = ([Uuid::now_v7(), Uuid::now_v7()], [Uuid::now_v7(), Uuid::now_v7()]);
        assert_eq!(store.begin(request("a", "k", 1, &first), 0).unwrap(), Begun::New);
        assert_eq!(store.begin(request("a", "k", 1, &second), 1).unwrap(), Begun::UnderWay);
        assert_eq!(store.begin(request("a", "k", 2, &second), 1).unwrap(), Begun::Differs);
        store.done("a", "k").unwrap();
        let done = Begun::Done { ids: first.to_vec() };
        assert_eq!(store.begin(request("a", "k", 1, &second), 2).unwrap(), done);
        assert_eq!(store.begin(request("a", "k", 2, &second), 2).unwrap(), Begun::Differs);
        assert_eq!(store.begin(request("b", "k", 2, &second), 2).unwrap(), Begun::New);
        assert_eq!(store.begin(request("ak", "", 2, &second), 2).unwrap(), Begun::New, "names and keys do not mix");
        drop(store);
        assert_eq!(open(&folder).begin(request("a", "k", 1, &second), 3).unwrap(), done);
    }

    #[test]
    fn after_a_crash_the_ids_are_those_that_were_begun_with() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = ([Uuid::now_v7()], [Uuid::now_v7()]);
        let mut store = open(&folder);
        store.begin(request("a", "k", 1, &first), 0).unwrap();
        drop(store);
        let mut store = open(&folder);
        assert_eq!(store.begin(request("a", "k", 2, &second), 1).unwrap(), Begun::Differs);
        let again = Begun::Again { ids: first.to_vec() };
        assert_eq!(store.begin(request("a", "k", 1, &second), 1).unwrap(), again);
        assert_eq!(store.begin(request("a", "k", 1, &second), 1).unwrap(), Begun::UnderWay);
        store.unsure("a", "k");
        assert_eq!(store.begin(request("a", "k", 1, &second), 1).unwrap(), again);
        store.forget("a", "k").unwrap();
        assert_eq!(store.begin(request("a", "k", 2, &second), 1).unwrap(), Begun::New);
    }

    #[test]
    fn of_two_in_one_batch_the_first_counts() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = open(&folder);
        let ids = [Uuid::now_v7()];
        let all = [
            request("a", "k", 1, &ids),
            request("a", "k", 1, &ids),
            request("a", "k", 2, &ids),
            request("a", "l", 2, &ids),
        ];
        let begun = store.begin_all(&all, 0).unwrap();
        assert_eq!(begun, [Begun::New, Begun::UnderWay, Begun::Differs, Begun::New]);
        store.done_all(&[("a", "k"), ("a", "l")]).unwrap();
        let done = Begun::Done { ids: ids.to_vec() };
        assert_eq!(store.begin_all(&all, 0).unwrap(), [done.clone(), done.clone(), Begun::Differs, done]);
    }

    #[test]
    fn who_looks_up_begins_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = open(&folder);
        let (ids, other) = ([Uuid::now_v7()], [Uuid::now_v7()]);
        let look = |store: &Store, body, now| store.look_up(&[request("a", "k", body, &other)], now).unwrap().remove(0);
        assert_eq!(look(&store, 1, 0), Begun::New);
        assert_eq!(store.begin(request("a", "k", 1, &ids), 0).unwrap(), Begun::New);
        assert_eq!((look(&store, 1, 0), look(&store, 2, 0)), (Begun::UnderWay, Begun::Differs));
        store.unsure("a", "k");
        assert_eq!(look(&store, 1, 0), Begun::Again { ids: ids.to_vec() });
        store.done("a", "k").unwrap();
        assert_eq!((look(&store, 1, 1), look(&store, 2, 1)), (Begun::Done { ids: ids.to_vec() }, Begun::Differs));
        assert_eq!(look(&store, 1, 24 * HOUR), Begun::New);
    }

    #[test]
    fn a_key_is_forgotten_after_a_day() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = open(&folder);
        let ids = [Uuid::now_v7()];
        store.begin_all(&[request("a", "k", 1, &ids), request("a", "l", 1, &ids)], 0).unwrap();
        store.done_all(&[("a", "k"), ("a", "l")]).unwrap();
        assert_eq!(store.begin(request("a", "k", 2, &ids), 24 * HOUR - 1).unwrap(), Begun::Differs);
        assert_eq!(store.begin(request("a", "k", 2, &ids), 24 * HOUR).unwrap(), Begun::New);
        let kept = |store: &Store| {
            store.connection.query_row("SELECT COUNT(*) FROM keys", [], |row| row.get::<_, i64>(0)).unwrap()
        };
        store.begin_all(&[], 24 * HOUR + PRUNE_EVERY).unwrap();
        assert_eq!(kept(&store), 1, "the other one has gone from the file");
    }

    #[test]
    fn a_quota_is_counted_by_caller_and_day_and_outlives_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = open(&folder);
        assert_eq!(store.used("a", 5).unwrap(), 0);
        store.add("a", 5, 3).unwrap();
        store.add_all(5, &[("a", 4), ("b", 1)]).unwrap();
        assert_eq!((store.used("a", 5).unwrap(), store.used("b", 5).unwrap(), store.used("a", 6).unwrap()), (7, 1, 0));
        drop(store);
        let mut store = open(&folder);
        assert_eq!(store.used("a", 5).unwrap(), 7);
        store.add("a", 8, 1).unwrap();
        drop(store);
        assert_eq!(open(&folder).used("a", 5).unwrap(), 0, "days gone by are not kept");
    }

    #[test]
    fn a_file_is_one_processs_and_never_somebody_elses() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("other.db");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (a)").unwrap();
        let error = Store::open(&path, RETENTION).err().unwrap().to_string();
        assert!(error.ends_with("is a database of another program; set gateway.store to a file of its own"), "{error}");
        let _store = open(&folder);
        let second = Connection::open(folder.path().join("below/gateway.db")).unwrap();
        second.busy_timeout(Duration::ZERO).unwrap();
        let error = second.query_row("SELECT COUNT(*) FROM keys", [], |row| row.get::<_, i64>(0)).unwrap_err();
        let error = explain(Path::new("gateway.db"), "open", error).to_string();
        assert_eq!(error, "gateway.db is in use by another gateway: give each its own gateway.store");
    }
}
