//! Who reads a topic: a row per group and topic, taken over when its owner is gone.

use std::fs;

use rusqlite::{Connection, OptionalExtension, params};

use super::{GROUP, LEASE};
use crate::dead_letter::now_ms;

/// A row of the table `groups`.
pub(super) struct Held {
    /// The next offset to read.
    pub next: i64,
    owner: Option<String>,
    process: Option<String>,
    expires: i64,
    /// Raised whenever the owner changes.
    pub epoch: i64,
}

impl Held {
    pub fn is_free(&self) -> bool {
        self.owner.is_none() || self.expires < now_ms() || self.process.as_deref().is_some_and(is_gone)
    }
}

pub(super) fn lease_of(connection: &Connection, id: i64) -> rusqlite::Result<Option<Held>> {
    let sql = "SELECT next, owner, process, expires, epoch FROM groups WHERE name = ?1 AND topic = ?2";
    let held = |row: &rusqlite::Row<'_>| {
        Ok(Held {
            next: row.get(0)?,
            owner: row.get(1)?,
            process: row.get(2)?,
            expires: row.get(3)?,
            epoch: row.get(4)?,
        })
    };
    connection.prepare_cached(sql)?.query_row(params![GROUP, id], held).optional()
}

pub(super) fn expiry() -> i64 {
    now_ms() + LEASE.as_millis() as i64
}

/// This process, told from all others that run or ran: boot, namespace, id and start, as Linux tells them. Elsewhere
/// empty, and a lease ends by time alone.
pub(super) fn this_process() -> String {
    let tell = || {
        let id = std::process::id();
        Some(format!("{} {id} {}", namespace()?, started(id)?))
    };
    tell().unwrap_or_default()
}

/// Whether `process`, as [`this_process`] tells it, ran on this machine and has ended.
fn is_gone(process: &str) -> bool {
    let told = || {
        let (rest, start) = process.rsplit_once(' ')?;
        let (home, id) = rest.rsplit_once(' ')?;
        (home == namespace()?).then(|| id.parse().ok().and_then(started).as_deref() != Some(start))
    };
    told().unwrap_or(false)
}

fn namespace() -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{} {}", boot.trim(), namespace.display()))
}

/// When a process started, in ticks since boot (proc(5), field 22 of stat).
fn started(id: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    // A zombie reads nothing any more
    if state == "Z" || state == "X" { None } else { fields.nth(18).map(str::to_owned) }
}
