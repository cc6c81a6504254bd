//! What the system tests stand on: temporary folders, free ports, waiting by condition, real services, the binary.
//!
//! - [`Metrobus`] runs the binary as a user would and gives its exit code and output, or a [`Process`] to kill.
//! - [`Redis`] and [`Kafka`] are either shared by all tests (`shared`) or private to one (`start`), which may then be
//!   stopped, killed and restarted. Where a service cannot be had they are `None`, after saying so; with CI=true the
//!   test fails instead. scripts/with-services.sh starts the shared ones and names everything in METROBUS_TEST_*.
//! - [`OpenSearch`] likewise, but it is heavy: the shared one runs only while a test needs it. A [`Gate`] stands in front of
//!   it and answers in its place where a test says so.
//! - A [`Sink`] is called by webhooks, and keeps what arrives.
//! - [`Browser`] is a real one, without a window, that a test drives as a user would.
//! - Names from [`unique`] keep tests on a shared broker apart; [`Redis::shared`] gives each test an empty database.
#![allow(dead_code, unused_imports)] // each test uses a part

mod binary;
mod browser;
mod gate;
mod kafka;
mod kafka_client;
mod opensearch;
mod redis;
mod server;
mod sink;
mod terminal;
mod tests;

use std::collections::HashSet;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use binary::{Metrobus, Output, Process};
pub use browser::{Browser, Screen};
pub use gate::{Answer, Gate, Request};
pub use kafka::{Kafka, Secure};
pub use kafka_client::{NewRecord, Record, produce_with, read_all_with};
pub use opensearch::{OpenSearch, client};
pub use redis::Redis;
pub use rustix::process::Signal;
pub use sink::{Arrival, Sink};
pub use terminal::run_on_terminal;

/// A temporary folder, removed with its content when dropped; kept where METROBUS_TEST_KEEP is set.
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    /// Makes the folder. Panics where that fails, as all of this module does: a test cannot go on without.
    pub fn new() -> Scratch {
        let mut folder = tempfile::Builder::new().prefix("metrobus-").tempdir().expect("make a temporary folder");
        if std::env::var_os("METROBUS_TEST_KEEP").is_some() {
            folder.disable_cleanup(true);
            say(&format!("kept: {}", folder.path().display()));
        }
        Scratch(folder)
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        self.0.path()
    }

    /// The path of `name` in the folder; nothing is made.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file of this name, with the folders above it, and returns its path.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).expect("make folders in the temporary folder");
        }
        std::fs::write(&path, content).unwrap_or_else(|e| panic!("write {}: {e}", path.display()));
        path
    }

    /// The text of a file, what is not UTF-8 replaced.
    pub fn read(&self, name: &str) -> String {
        read_text(&self.path(name))
    }
}

/// The text of a file, what is not UTF-8 replaced.
pub fn read_text(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A port of 127.0.0.1 that nobody listens on, never the same twice in one process.
///
/// It lies below the range from which the kernel gives ports to clients. A client that keeps knocking at a server which
/// is down could otherwise be given the very port it knocks at, connect to itself and keep the server from coming back.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    let mut given = GIVEN.lock().unwrap_or_else(|e| e.into_inner());
    let given = given.get_or_insert_default();
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_nanos() as u64)
        ^ (u64::from(std::process::id()) << 20);
    for step in 0..12_000 {
        let port = 20_000 + ((seed / 1_000 + step * 7) % 12_000) as u16;
        if !given.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            given.insert(port);
            return port;
        }
    }
    panic!("no free port from 20000 to 31999");
}

/// Calls `probe` until it gives a value, which is returned. Panics with `what` when `deadline` has passed.
pub fn wait_until<T>(what: &str, deadline: Duration, probe: impl FnMut() -> Option<T>) -> T {
    try_until(deadline, probe).unwrap_or_else(|| panic!("waited {deadline:?} in vain for: {what}"))
}

/// As [`wait_until`], but `None` when the deadline has passed. `probe` is called at least once.
pub fn try_until<T>(deadline: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + deadline;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(value) = probe() {
            return Some(value);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// `prefix` with an ending that no other test, process or run has: for topics, groups and ids of transactions.
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_micros());
    format!("{prefix}-{now:x}-{:x}-{next}", std::process::id())
}

/// Writes a line to standard error past the capture of the test runner, so that it is seen where the test passes.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// For a test that cannot run here: says so and returns `None`; with CI=true it panics.
pub fn skip<T>(reason: &str) -> Option<T> {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    if std::env::var("CI").is_ok_and(|v| v == "true") {
        panic!("CI=true and {reason}");
    }
    say(&format!("SKIPPED {test}: {reason}"));
    None
}

/// The value of a METROBUS_TEST_* variable, `None` where it is unset or empty.
fn given(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|v| !v.is_empty())
}
