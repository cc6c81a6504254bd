//! What the index lets go: what is too old, and of what is too much the oldest.

use anyhow::Result;
use rusqlite::{OptionalExtension, Transaction, params};

use super::{Index, Marks};
use crate::{dead_letter::now_ms, journal::Entry};

/// Entries that one transaction deletes at most.
const CHUNK: i64 = 500;

impl Index {
    /// Deletes what retention lets go; gives how many entries went.
    pub fn retain(&mut self) -> Result<u64> {
        let mut gone = 0;
        if !self.retention.is_zero() {
            let oldest = now_ms().saturating_sub(self.retention.as_millis() as i64).saturating_mul(1000);
            loop {
                let chunk = self.write(|transaction| delete(transaction, oldest))?;
                gone += chunk;
                if chunk < CHUNK as u64 {
                    break;
                }
            }
        }
        while self.retention_bytes > 0 && self.bytes()? > self.retention_bytes {
            let chunk = self.write(|transaction| delete(transaction, i64::MAX))?;
            gone += chunk;
            if chunk == 0 {
                break;
            }
        }
        if gone > 0 {
            // Texts that nothing refers to any more may have been reasons of one message each
            self.write(|transaction| {
                transaction.execute_batch(
                    "DELETE FROM texts WHERE id NOT IN
                     (SELECT topic FROM entries UNION SELECT stop FROM counts UNION SELECT reason FROM counts)",
                )
            })?;
            let vacuum = || -> rusqlite::Result<()> {
                let mut statement = self.connection.prepare("PRAGMA incremental_vacuum")?;
                let mut rows = statement.query([])?;
                while rows.next()?.is_some() {}
                Ok(())
            };
            vacuum().map_err(|error| self.error("shrink", error))?;
        }
        Ok(gone)
    }

    /// Bytes of the file that are in use.
    pub fn bytes(&self) -> Result<u64> {
        let pragma = |name: &str| self.connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let bytes = || Ok((pragma("page_count")? - pragma("freelist_count")?) * pragma("page_size")?);
        bytes().map(|bytes| bytes as u64).map_err(|error| self.error("read", error))
    }
}

/// Deletes at most one chunk of the first entries, up to one that is not older than `oldest`.
fn delete(transaction: &Transaction<'_>, oldest: i64) -> rusqlite::Result<u64> {
    let mut going = Vec::new();
    {
        let sql = "SELECT number, time, entry FROM entries ORDER BY number LIMIT ?1";
        let mut statement = transaction.prepare_cached(sql)?;
        let mut rows = statement.query([CHUNK])?;
        while let Some(row) = rows.next()? {
            let (number, time): (i64, i64) = (row.get(0)?, row.get(1)?);
            if time >= oldest {
                break;
            }
            let marks = Entry::read(row.get_ref(2)?.as_blob()?).and_then(|entry| Marks::of(&entry));
            going.push((number, marks.unwrap_or_default().all));
        }
    }
    for (number, marks) in &going {
        let mut statement = transaction.prepare_cached("DELETE FROM marks WHERE mark = ?1 AND entry = ?2")?;
        for mark in marks {
            statement.execute([mark, number])?;
        }
        transaction.prepare_cached("DELETE FROM entries WHERE number = ?1")?.execute([number])?;
    }
    if !going.is_empty() {
        // Entries of several partitions are only about in order: counts go up to the second of the first that stays
        let sql = "SELECT time FROM entries ORDER BY number LIMIT 1";
        let first = transaction.query_row(sql, [], |row| row.get::<_, i64>(0)).optional()?;
        let second = first.map_or(i64::MAX, |time| time.div_euclid(1_000_000));
        transaction.execute("DELETE FROM counts WHERE second < ?1", params![second])?;
    }
    Ok(going.len() as u64)
}
