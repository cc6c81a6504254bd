//! New records: a transaction a lot, confirmed once it is on the disk.

use std::time::Instant;

use super::{
    store::Store,
    topic::{append, pack},
};
use crate::bus::{Batch, BusError, Outbox, Publisher};

pub(super) struct SqlitePublisher {
    store: Store,
    published: u64,
    confirmed: u64,
}

impl SqlitePublisher {
    pub fn new(store: Store) -> Self {
        Self { store, published: 0, confirmed: 0 }
    }
}

impl Publisher for SqlitePublisher {
    fn publish(&mut self, outbox: &Outbox) -> Result<(), BusError> {
        let none = Batch::default();
        let rows = pack(&none, outbox);
        self.store.write(|transaction, ids| append(transaction, ids, &rows))?;
        self.published += outbox.len() as u64;
        self.store.retain()
    }

    fn flush(&mut self, deadline: Instant) -> Result<u64, BusError> {
        if self.store.flush(deadline)? {
            self.confirmed = self.published;
        }
        Ok(self.confirmed)
    }
}
