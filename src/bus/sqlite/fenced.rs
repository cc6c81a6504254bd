//! A publisher of which there is one: a transaction a publish, in which it is checked that it still is.
//!
//! The table `publishers` has, by name, how many were opened; it is made with the first one, so a file without it is of the
//! same layout.

use std::time::Instant;

use rusqlite::{OptionalExtension, params};

use super::{
    LEASE,
    store::Store,
    topic::{append, pack},
};
use crate::bus::{Batch, BusError, Fenced, FencedPublisher, Outbox, Refusal};

const TABLE: &str =
    "CREATE TABLE IF NOT EXISTS publishers (name TEXT PRIMARY KEY, epoch INTEGER NOT NULL) WITHOUT ROWID";

pub(super) struct SqliteFenced {
    store: Store,
    name: String,
    epoch: i64,
}

impl SqliteFenced {
    pub fn open(mut store: Store, name: &str) -> Result<Self, BusError> {
        let epoch = store.write(|transaction, _| {
            transaction.execute_batch(TABLE)?;
            let sql = "INSERT INTO publishers (name, epoch) VALUES (?1, 1)
                       ON CONFLICT DO UPDATE SET epoch = epoch + 1 RETURNING epoch";
            transaction.query_row(sql, [name], |row| row.get(0))
        })?;
        Ok(Self { store, name: name.to_owned(), epoch })
    }
}

impl FencedPublisher for SqliteFenced {
    fn publish(&mut self, outbox: &Outbox) -> Result<Option<Refusal>, BusError> {
        let none = Batch::default();
        let rows = pack(&none, outbox);
        let (name, epoch) = (&self.name, self.epoch);
        let last = self.store.write(|transaction, ids| {
            let sql = "SELECT 1 FROM publishers WHERE name = ?1 AND epoch = ?2";
            let mut statement = transaction.prepare_cached(sql)?;
            let last = statement.query_row(params![name, epoch], |_| Ok(())).optional()?.is_some();
            if last {
                append(transaction, ids, &rows)?;
            }
            Ok(last)
        })?;
        if !last {
            return Err(Fenced(self.name.clone()).into());
        }
        while !self.store.flush(Instant::now() + LEASE)? {}
        self.store.retain()?;
        Ok(None)
    }
}
