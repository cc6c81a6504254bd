//! What becomes of a commit once it is made.
//!
//! A transaction is committed when its pages are in the write-ahead log: from then on every process sees it, and only
//! losing power can undo it. Three things are left to do, none of which needs SQLite's one write lock, so that a thread
//! of the process does them while the stops and other processes go on:
//! - the readers of this process wake up;
//! - the log goes to the disk (`synchronous = "full"`). One sync covers all commits before it, of all processes. The log
//!   is one sequence, and a power cut takes the end of it: whole transactions, each after all that it was made from. So a
//!   message is neither lost nor there twice; what was undone happens again. Whoever has to know that a commit will
//!   stay, as the pusher before it tells what is confirmed, waits for [`Commits::on_disk`].
//! - the log is copied back into the database, and begun anew (a checkpoint), before it grows too long.

use std::{
    fs::File,
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use rusqlite::Connection;

use super::{Options, Synchronous, store};
use crate::bus::BusError;

/// Bytes in the log that are not in the database yet, when they are copied there.
const CHECKPOINT_BYTES: i64 = 16 << 20;

/// Length of the log at which writers wait until all of it is copied, so that it begins anew.
const LOG_BYTES: i64 = 64 << 20;

/// Commits of one process that may be on their way to the disk; then its writers wait.
const UNSYNCED: u64 = 64;

/// The commits of one process; see the module.
pub(super) struct Commits {
    shared: Arc<Shared>,
    options: Arc<Options>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    made: u64,
    on_disk: u64,
    ended: bool,
    /// Why nothing can be said of any commit from now on.
    failed: Option<String>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `done`, at most until `deadline`; gives what holds then.
    fn wait(&self, deadline: Option<Instant>, mut done: impl FnMut(&State) -> bool) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        while !done(&state) && !state.ended && state.failed.is_none() {
            state = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => break,
                Some(left) => self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
        state
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

impl Commits {
    pub fn new(options: Arc<Options>) -> Self {
        Self { shared: Arc::default(), options, thread: Mutex::default() }
    }

    /// How many this process has made.
    pub fn made(&self) -> u64 {
        self.shared.lock().made
    }

    /// Waits for `time`, less where one is made that is not among those `seen`.
    pub fn wait(&self, seen: u64, time: Duration) -> Result<(), BusError> {
        self.result(self.shared.wait(Some(Instant::now() + time), |state| state.made != seen))
    }

    /// Takes note that one was made, and gives its number. Waits where too many are on their way to the disk.
    pub fn make(&self) -> Result<u64, BusError> {
        let mut number = 0;
        self.shared.change(|state| {
            state.made += 1;
            number = state.made;
        });
        self.start();
        self.result(self.shared.wait(None, |state| number - state.on_disk.min(number) < UNSYNCED))?;
        Ok(number)
    }

    /// Waits, at most until `deadline`, for the commit `number` and all before it to outlive a power cut; true where
    /// they do. With `synchronous = "normal"` for nothing.
    pub fn on_disk(&self, number: u64, deadline: Instant) -> Result<bool, BusError> {
        let state = self.shared.wait(Some(deadline), |state| state.on_disk >= number);
        let on_disk = state.on_disk >= number;
        self.result(state)?;
        Ok(on_disk)
    }

    fn result(&self, state: MutexGuard<'_, State>) -> Result<(), BusError> {
        match &state.failed {
            Some(reason) => Err(BusError::Fatal(anyhow!("{reason}"))),
            None => Ok(()),
        }
    }

    fn start(&self) {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_some() {
            return;
        }
        let (shared, options) = (Arc::clone(&self.shared), Arc::clone(&self.options));
        let run = move || {
            if let Err(error) = keep(&shared, &options) {
                shared.change(|state| state.failed = Some(error.to_string()));
            }
        };
        match thread::Builder::new().name("bus".into()).spawn(run) {
            Ok(started) => *thread = Some(started),
            Err(error) => self.shared.change(|state| state.failed = Some(format!("start a thread: {error}"))),
        }
    }
}

impl Drop for Commits {
    fn drop(&mut self) {
        self.shared.change(|state| state.ended = true);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

/// Runs until the end of the [`Commits`].
fn keep(shared: &Shared, options: &Options) -> Result<(), BusError> {
    let failed = |error| store::explain(&options.path, "write to", error);
    let log = loop {
        match Log::open(&options.path) {
            // SQLite has waited long for its turn already
            Err(BusError::Unavailable(_)) => {}
            opened => break opened?,
        }
    };
    loop {
        let state = shared.wait(None, |state| state.made > state.on_disk);
        let (made, on_disk) = (state.made, state.on_disk);
        drop(state);
        if made == on_disk {
            return Ok(());
        }
        if options.synchronous == Synchronous::Full {
            log.sync(&options.path)?;
        }
        shared.change(|state| state.on_disk = made);
        match log.checkpoint().map_err(failed) {
            Err(BusError::Fatal(error)) => return Err(BusError::Fatal(error)),
            Err(BusError::Unavailable(_)) | Ok(()) => {}
        }
    }
}

/// The write-ahead log.
struct Log {
    file: File,
    /// While it is open nobody puts another file in the place of the log.
    connection: Connection,
    page_size: i64,
}

impl Log {
    fn open(path: &Path) -> Result<Self, BusError> {
        let failed = |error| store::explain(path, "open", error);
        let connection = store::connect(path).map_err(failed)?;
        // To read is what opens the log
        connection.query_row("SELECT COUNT(*) FROM sqlite_master", [], |_| Ok(())).map_err(failed)?;
        let page_size = connection.query_row("PRAGMA page_size", [], |row| row.get(0)).map_err(failed)?;
        // As SQLite calls it, beside the file that a link may lead to
        let name = format!("{}-wal", connection.path().unwrap_or_default());
        let file = File::open(&name).with_context(|| format!("open the log {name}")).map_err(BusError::Fatal)?;
        Ok(Self { file, connection, page_size })
    }

    fn sync(&self, path: &Path) -> Result<(), BusError> {
        self.file.sync_data().map_err(|error| {
            let path = path.display();
            BusError::Fatal(anyhow!("write to the bus {path}: the disk failed, or is full (sync the log: {error})"))
        })
    }

    /// Copies what is due from the log to the database. Where another process does that already, it does.
    fn checkpoint(&self) -> rusqlite::Result<()> {
        let (length, copied) = self.run("NOOP")?;
        if length - copied < CHECKPOINT_BYTES {
            return Ok(());
        }
        // Most of it while others write; then they have to wait for the rest, once in a while
        let (length, _) = self.run("PASSIVE")?;
        if length >= LOG_BYTES {
            self.run("RESTART")?;
        }
        Ok(())
    }

    /// Gives the bytes in the log and how many of them the database has.
    fn run(&self, mode: &str) -> rusqlite::Result<(i64, i64)> {
        let sql = format!("PRAGMA wal_checkpoint({mode})");
        let pages = |row: &rusqlite::Row<'_>| Ok((row.get(1)?, row.get(2)?));
        let (length, copied): (i64, i64) = self.connection.prepare_cached(&sql)?.query_row([], pages)?;
        Ok((length * self.page_size, copied * self.page_size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_synced_is_an_error_for_all_who_wait() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options {
            path: folder.path().join("no folder/bus.db"),
            synchronous: Synchronous::Full,
            retention: Duration::ZERO,
            retention_bytes: 0,
        };
        let commits = Commits::new(Arc::new(options));
        let end = Instant::now() + Duration::from_secs(60);
        let error = commits.make().and_then(|number| commits.on_disk(number, end)).unwrap_err();
        assert!(matches!(error, BusError::Fatal(_)));
        let again = commits.wait(commits.made(), Duration::from_secs(60)).unwrap_err();
        assert_eq!(again.to_string(), error.to_string());
        assert!(error.to_string().contains("it cannot be opened; check sqlite.path"), "{error}");
    }
}
