//! Which records were taken: by their position, and by a hash of what they are, since a topic that was made anew has other
//! records at positions that were there before.
//!
//! A row is of records that were taken together: for each its distance from the first in four bytes, and eight of a hash.
//! A stop that begins again reads what it had not acknowledged, which is a few batches; what is kept is much more than that.

use std::collections::HashSet;

use rusqlite::{Connection, Transaction, params};
use sha2::{Digest, Sha256};

use crate::bus::Record;

/// How long a row is kept, in milliseconds.
const KEPT_MS: i64 = 24 * 60 * 60 * 1000;

/// How far behind the newest position of its partition.
const KEPT_POSITIONS: i64 = 1_000_000;

/// Bytes of a record in a row.
const WIDTH: usize = 12;

/// A record, as it is told from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mark {
    pub partition: i32,
    pub offset: i64,
    hash: u64,
}

impl Mark {
    pub fn of(record: &Record<'_>) -> Self {
        let mut hash = Sha256::new();
        hash.update(record.timestamp.to_le_bytes());
        for part in [record.key, record.value] {
            hash.update(part.map_or(u64::MAX, |part| part.len() as u64).to_le_bytes());
            hash.update(part.unwrap_or_default());
        }
        let [a, b, c, d, e, f, g, h, ..] = <[u8; 32]>::from(hash.finalize());
        let hash = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        Self { partition: record.partition, offset: record.offset, hash }
    }
}

/// Those of `marks`, all of records of `topic`, that were taken before.
pub fn known(connection: &Connection, topic: &str, marks: &[Mark]) -> rusqlite::Result<HashSet<Mark>> {
    let mut known = HashSet::new();
    let mut statement = connection.prepare_cached(
        "SELECT first, records FROM taken WHERE topic = ?1 AND partition = ?2 AND last >= ?3 AND first <= ?4",
    )?;
    for (partition, of_partition) in by_partition(marks) {
        let (Some(first), Some(last)) = (of_partition.first(), of_partition.last()) else { continue };
        let mut rows = statement.query(params![topic, partition, first.offset, last.offset])?;
        while let Some(row) = rows.next()? {
            let (begin, records): (i64, &[u8]) = (row.get(0)?, row.get_ref(1)?.as_blob()?);
            known.extend(records.chunks_exact(WIDTH).map(|record| {
                let (distance, hash) = record.split_at(4);
                let distance = u32::from_le_bytes(distance.try_into().unwrap_or_default());
                let hash = u64::from_le_bytes(hash.try_into().unwrap_or_default());
                Mark { partition, offset: begin + i64::from(distance), hash }
            }));
        }
    }
    Ok(known)
}

/// Writes down that the records of `marks` were taken at `now`.
pub fn note(transaction: &Transaction<'_>, topic: &str, marks: &[Mark], now: i64) -> rusqlite::Result<()> {
    for (partition, of_partition) in by_partition(marks) {
        let mut rest = of_partition.as_slice();
        while let Some(first) = rest.first() {
            // What is too far off for four bytes begins a row of its own
            let near = rest.partition_point(|mark| mark.offset - first.offset <= i64::from(u32::MAX));
            let (row, behind) = rest.split_at(near);
            let last = row.last().unwrap_or(first);
            let mut records = Vec::with_capacity(row.len() * WIDTH);
            for mark in row {
                records.extend_from_slice(&((mark.offset - first.offset) as u32).to_le_bytes());
                records.extend_from_slice(&mark.hash.to_le_bytes());
            }
            transaction
                .prepare_cached("INSERT OR REPLACE INTO taken VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
                .execute(params![topic, partition, last.offset, first.offset, now, records])?;
            transaction
                .prepare_cached("DELETE FROM taken WHERE topic = ?1 AND partition = ?2 AND last < ?3")?
                .execute(params![topic, partition, last.offset - KEPT_POSITIONS])?;
            rest = behind;
        }
    }
    Ok(())
}

/// Forgets what was taken too long ago.
pub fn forget(connection: &Connection, now: i64) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM taken WHERE time < ?1", [now - KEPT_MS]).map(drop)
}

/// The marks of each partition, in the order of their offsets.
fn by_partition(marks: &[Mark]) -> Vec<(i32, Vec<Mark>)> {
    let mut all: Vec<(i32, Vec<Mark>)> = Vec::new();
    for mark in marks {
        match all.iter_mut().find(|(partition, _)| *partition == mark.partition) {
            Some((_, of_partition)) => of_partition.push(*mark),
            None => all.push((mark.partition, vec![*mark])),
        }
    }
    all.iter_mut().for_each(|(_, marks)| marks.sort_by_key(|mark| mark.offset));
    all
}
