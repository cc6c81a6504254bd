//! The table of one topic: rows of many records, keyed by the offset of the last one in each.
//!
//! Keyed so, `last >= n` finds the row that record `n` lies in, and the largest key tells the end of the topic.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, Transaction, ffi, params};
use tracing::debug;

use super::pack::{HEAD, Pack, RECORD_HEAD, unpack};
use crate::{
    bus::{Batch, GroupInfo, Outbox, Record, Topic, TopicInfo},
    dead_letter::now_ms,
};

/// A batch is closed when it holds that many bytes.
const BATCH_BYTES: usize = 16 << 20;

/// A row is closed when it holds that many bytes. Enough to make a row cheap for each record in it; small enough that
/// its buffers stay in the processor's cache, and that reading from its middle costs little.
const ROW_BYTES: usize = 64 << 10;

/// Records that one transaction of retention deletes at most.
pub(super) const RETENTION_CHUNK: i64 = 5000;

pub(super) fn find(connection: &Connection, topic: &Topic) -> rusqlite::Result<Option<i64>> {
    let mut statement = connection.prepare_cached("SELECT id FROM topics WHERE name = ?1")?;
    statement.query_row([topic.as_str()], |row| row.get(0)).optional()
}

/// The id of the topic, created where it is missing. Tables are named by id, because SQLite's names know no case.
pub(super) fn create(
    transaction: &Transaction<'_>,
    ids: &mut HashMap<Topic, i64>,
    topic: &Topic,
) -> rusqlite::Result<i64> {
    if let Some(id) = ids.get(topic) {
        return Ok(*id);
    }
    let id = match find(transaction, topic)? {
        Some(id) => id,
        None => {
            transaction.execute("INSERT INTO topics (name) VALUES (?1)", [topic.as_str()])?;
            let id = transaction.last_insert_rowid();
            transaction.execute_batch(&format!(
                "CREATE TABLE topic_{id} (last INTEGER PRIMARY KEY, count INTEGER NOT NULL, records BLOB NOT NULL)"
            ))?;
            id
        }
    };
    ids.insert(topic.clone(), id);
    Ok(id)
}

/// The offset after the newest record.
pub(super) fn end(connection: &Connection, id: i64) -> rusqlite::Result<i64> {
    let mut statement = connection.prepare_cached(&format!("SELECT COALESCE(MAX(last) + 1, 0) FROM topic_{id}"))?;
    statement.query_row([], |row| row.get(0))
}

/// The offset of the oldest record; `None` where there is none.
fn oldest(connection: &Connection, id: i64) -> rusqlite::Result<Option<i64>> {
    let sql = format!("SELECT last - count + 1 FROM topic_{id} ORDER BY last LIMIT 1");
    connection.prepare_cached(&sql)?.query_row([], |row| row.get(0)).optional()
}

pub(super) fn info(connection: &Connection, id: i64, name: String) -> rusqlite::Result<TopicInfo> {
    let end = end(connection, id)?;
    let records = end - oldest(connection, id)?.unwrap_or(end);
    let mut statement = connection.prepare("SELECT name, next FROM groups WHERE topic = ?1 ORDER BY name")?;
    let group = |row: &rusqlite::Row<'_>| {
        let next: i64 = row.get(1)?;
        Ok(GroupInfo { name: row.get(0)?, lag: (end - next).max(0) as u64 })
    };
    let groups = statement.query_map([id], group)?.collect::<rusqlite::Result<_>>()?;
    Ok(TopicInfo { name, partitions: 1, records: records as u64, groups })
}

/// Reads at most `max` records from `position` on into `batch`; gives the position after them.
pub(super) fn read(
    connection: &Connection,
    id: i64,
    position: i64,
    max: usize,
    batch: &mut Batch,
) -> rusqlite::Result<i64> {
    let sql = format!("SELECT last, count, records FROM topic_{id} WHERE last >= ?1 ORDER BY last");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query([position])?;
    let mut next = position;
    while batch.len() < max && batch.bytes() < BATCH_BYTES {
        let Some(row) = rows.next()? else { break };
        let first = first_of(row)?;
        // Nothing is missing between two records but what retention took before the first
        if first > next && (!batch.is_empty() || oldest(connection, id)? != Some(first)) {
            return Err(damaged(format!("the records from offset {next} to {first} are gone")));
        }
        each_record(row, |record| {
            if record.offset >= next {
                batch.push(record);
                next = record.offset + 1;
            }
            batch.len() < max && batch.bytes() < BATCH_BYTES
        })?;
    }
    Ok(next)
}

/// The offset of the first record of a row (last, count, records).
fn first_of(row: &rusqlite::Row<'_>) -> rusqlite::Result<i64> {
    let (last, count): (i64, i64) = (row.get(0)?, row.get(1)?);
    // A damaged count may be any number
    Ok(last.wrapping_sub(count).wrapping_add(1))
}

/// Calls `act` with the records of a row (last, count, records) until it gives false or there are no more.
fn each_record(row: &rusqlite::Row<'_>, mut act: impl FnMut(Record<'_>) -> bool) -> rusqlite::Result<()> {
    let (first, count): (i64, i64) = (first_of(row)?, row.get(1)?);
    let damaged = || damaged(format!("the {count} records from offset {first} on are not as written"));
    let mut records = unpack(row.get_ref(2)?.as_blob()?, first).ok_or_else(damaged)?;
    for _ in 0..count {
        if !act(records.next().ok_or_else(damaged)?) {
            break;
        }
    }
    Ok(())
}

fn damaged(what: String) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CORRUPT), Some(what))
}

/// What an outbox sends to one topic, packed before the transaction begins: others write meanwhile.
pub(super) struct Outgoing<'a> {
    topic: &'a Topic,
    packs: Vec<Pack>,
}

/// Packs all outputs, by topic. `batch` is the one whose records caused them.
pub(super) fn pack<'a>(batch: &'a Batch, outbox: &'a Outbox) -> Vec<Outgoing<'a>> {
    let now = now_ms();
    let mut all: Vec<Outgoing<'a>> = Vec::new();
    for output in outbox.iter(batch) {
        // Most outputs of a batch go the same way
        let index = all.iter().position(|outgoing| outgoing.topic == output.topic).unwrap_or_else(|| {
            all.push(Outgoing { topic: output.topic, packs: Vec::new() });
            all.len() - 1
        });
        let packs = &mut all[index].packs;
        if packs.last().is_none_or(|pack| pack.bytes().len() >= ROW_BYTES) {
            packs.push(Pack::default());
        }
        let timestamp = if output.timestamp < 0 { now } else { output.timestamp };
        let (key, headers, value) = (output.key, output.headers, output.value);
        if let Some(pack) = packs.last_mut() {
            pack.push(&Record { partition: 0, offset: 0, timestamp, key, headers, value });
        }
    }
    for pack in all.iter_mut().flat_map(|outgoing| &mut outgoing.packs) {
        pack.seal();
    }
    all
}

/// Appends what was packed to its topics.
pub(super) fn append(
    transaction: &Transaction<'_>,
    ids: &mut HashMap<Topic, i64>,
    all: &[Outgoing<'_>],
) -> rusqlite::Result<()> {
    for Outgoing { topic, packs } in all {
        let id = create(transaction, ids, topic)?;
        let mut end = end(transaction, id)?;
        let sql = format!("INSERT INTO topic_{id} (last, count, records) VALUES (?1, ?2, ?3)");
        let mut statement = transaction.prepare_cached(&sql)?;
        for pack in packs {
            end += pack.count();
            statement.execute(params![end - 1, pack.count(), pack.bytes()])?;
        }
    }
    Ok(())
}

/// Deletes at most one chunk from the front of a topic; gives how many records went.
pub(super) fn trim(transaction: &Transaction<'_>, id: i64, cutoff: i64, bytes: u64) -> rusqlite::Result<i64> {
    let Some(oldest) = oldest(transaction, id)? else { return Ok(0) };
    let newest = end(transaction, id)? - 1;
    let read_by_all: i64 = transaction.query_row(
        "SELECT COALESCE(MIN(next), ?2) FROM groups WHERE topic = ?1",
        [id, i64::MAX],
        |row| row.get(0),
    )?;
    let surplus = if bytes == 0 {
        0
    } else {
        let sql = format!(
            "SELECT CAST(SUM(LENGTH(records) - {HEAD} - {RECORD_HEAD} * count) AS REAL) / SUM(count)
             FROM (SELECT * FROM topic_{id} ORDER BY last DESC LIMIT 100)"
        );
        let size: f64 = transaction.query_row(&sql, [], |row| row.get(0))?;
        (newest + 1 - oldest) - (bytes as f64 / size.max(1.0)) as i64
    };
    let most = read_by_all.min(newest).min(oldest + RETENTION_CHUNK);
    let may_go =
        |record: &Record<'_>| record.offset < most && (record.timestamp < cutoff || record.offset - oldest < surplus);
    let mut kept_from = oldest;
    // The row where it ends, without what goes
    let mut rest = None;
    {
        let sql = format!("SELECT last, count, records FROM topic_{id} ORDER BY last");
        let mut statement = transaction.prepare_cached(&sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()?.filter(|_| rest.is_none()) {
            let mut kept = Pack::default();
            each_record(row, |record| {
                if kept.count() == 0 && may_go(&record) {
                    kept_from = record.offset + 1;
                } else {
                    kept.push(&record);
                }
                true
            })?;
            rest = Some((row.get::<_, i64>(0)?, kept)).filter(|(_, kept)| kept.count() > 0);
        }
    }
    let going = kept_from - oldest;
    if going > 0 {
        transaction.execute(&format!("DELETE FROM topic_{id} WHERE last < ?1"), [kept_from])?;
        if let Some((last, mut kept)) = rest {
            kept.seal();
            let sql = format!("UPDATE topic_{id} SET count = ?2, records = ?3 WHERE last = ?1");
            transaction.execute(&sql, params![last, kept.count(), kept.bytes()])?;
        }
        debug!(topic = id, records = going, "retention");
    }
    Ok(going)
}
