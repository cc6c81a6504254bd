//! A member of the group: reads a topic while it holds the lease, settles in one transaction.

use std::{
    ops::Range,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rusqlite::params;
use tracing::info;

use super::{
    GROUP, LEASE,
    lease::{expiry, lease_of, this_process},
    store::{Store, Watch},
    topic::{append, pack},
};
use crate::bus::{Batch, BusError, Outbox, Subscription, Topic};

/// Between two attempts to take a lease that somebody else holds.
const STAND_BY: Duration = Duration::from_millis(100);

pub(super) struct SqliteSubscription {
    store: Store,
    topic: Topic,
    id: i64,
    /// This member's name in the lease.
    owner: String,
    lease: Option<Lease>,
    /// When to try again for the lease.
    next_try: Instant,
    /// Records and bytes of the last batch: what the next one is likely to take.
    last: (usize, usize),
    watch: Watch,
}

/// Held: this member reads the topic.
struct Lease {
    epoch: i64,
    renewed: Instant,
    /// The next offset to poll.
    position: i64,
}

impl SqliteSubscription {
    pub fn new(mut store: Store, topic: &Topic) -> Result<Self, BusError> {
        let id = store.ensure(topic)?;
        let owner = uuid::Uuid::now_v7().to_string();
        Ok(Self {
            store,
            topic: topic.clone(),
            id,
            owner,
            lease: None,
            next_try: Instant::now(),
            last: (0, 0),
            watch: Watch::default(),
        })
    }

    /// Takes the lease where it is free, or its owner is gone.
    fn take_lease(&mut self) -> Result<(), BusError> {
        if self.lease.is_some() || Instant::now() < self.next_try {
            return Ok(());
        }
        self.next_try = Instant::now() + STAND_BY;
        let id = self.id;
        let held = lease_of(&self.store.connection, id).map_err(|error| self.store.error("read from", error))?;
        if held.as_ref().is_some_and(|held| !held.is_free()) {
            return Ok(());
        }
        let owner = self.owner.clone();
        let lease = self.store.write(|transaction, _| {
            let held = lease_of(transaction, id)?;
            if held.as_ref().is_some_and(|held| !held.is_free()) {
                return Ok(None);
            }
            let (next, epoch) = held.map_or((0, 1), |held| (held.next, held.epoch + 1));
            transaction.execute(
                "INSERT INTO groups (name, topic, next, owner, process, expires, epoch) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                 ON CONFLICT DO UPDATE SET owner = ?4, process = ?5, expires = ?6, epoch = ?7",
                params![GROUP, id, next, owner, this_process(), expiry(), epoch],
            )?;
            Ok(Some(Lease { epoch, renewed: Instant::now(), position: next }))
        })?;
        if let Some(lease) = &lease {
            info!(topic = %self.topic, offset = lease.position, "assigned");
            self.watch = Watch::default();
        }
        self.lease = lease;
        Ok(())
    }

    fn renew_lease(&mut self) -> Result<(), BusError> {
        let Some(lease) = &mut self.lease else { return Ok(()) };
        if lease.renewed.elapsed() < LEASE / 3 {
            return Ok(());
        }
        let (id, epoch) = (self.id, lease.epoch);
        let kept = self.store.write(|transaction, _| {
            let sql = "UPDATE groups SET expires = ?4 WHERE name = ?1 AND topic = ?2 AND epoch = ?3";
            transaction.execute(sql, params![GROUP, id, epoch, expiry()])
        })?;
        lease.renewed = Instant::now();
        if kept == 0 {
            self.lose_lease();
        }
        Ok(())
    }

    fn lose_lease(&mut self) {
        info!(topic = %self.topic, "another member has taken over");
        self.lease = None;
        self.next_try = Instant::now() + STAND_BY;
    }
}

impl Subscription for SqliteSubscription {
    fn poll(&mut self, max: usize, wait: Duration) -> Result<Batch, BusError> {
        self.renew_lease()?;
        self.take_lease()?;
        let mut batch = Batch::default();
        let (records, bytes) = self.last;
        batch.reserve(records, bytes);
        let Some(lease) = &mut self.lease else {
            thread::sleep(wait.min(STAND_BY));
            return Ok(batch);
        };
        batch.epoch = lease.epoch as u64;
        let id = self.id;
        self.store.watch(&mut self.watch, wait, |store| {
            lease.position = store.read(id, lease.position, max, &mut batch)?;
            Ok(!batch.is_empty())
        })?;
        self.last = (batch.len(), batch.bytes());
        Ok(batch)
    }

    fn settle(&mut self, batch: &Arc<Batch>, inputs: Range<usize>, outbox: &Outbox) -> Result<(), BusError> {
        if inputs.is_empty() {
            return Ok(());
        }
        let Some(lease) = self.lease.as_mut().filter(|lease| lease.epoch as u64 == batch.epoch) else { return Ok(()) };
        let (id, epoch, next) = (self.id, lease.epoch, batch.get(inputs.end - 1).offset + 1);
        let rows = pack(batch, outbox);
        let kept = self.store.write(|transaction, ids| {
            let sql = "UPDATE groups SET next = ?4, expires = ?5 WHERE name = ?1 AND topic = ?2 AND epoch = ?3";
            let kept = transaction.prepare_cached(sql)?.execute(params![GROUP, id, epoch, next, expiry()])?;
            if kept > 0 {
                append(transaction, ids, &rows)?;
            }
            Ok(kept)
        })?;
        if kept == 0 {
            self.lose_lease();
            return Ok(());
        }
        lease.renewed = Instant::now();
        // What is settled stays settled
        while !self.store.flush(Instant::now() + LEASE)? {}
        self.store.retain()
    }

    fn flush(&mut self, deadline: Instant) -> Result<bool, BusError> {
        self.store.flush(deadline)
    }

    fn keep_alive(&mut self) -> Result<(), BusError> {
        self.renew_lease()
    }

    fn drained(&mut self) -> Result<bool, BusError> {
        Ok(self.lag()? == 0)
    }

    /// Those of the whole group: a member that stands by may have to take over.
    fn lag(&mut self) -> Result<u64, BusError> {
        let next = lease_of(&self.store.connection, self.id)
            .map_err(|error| self.store.error("read from", error))?
            .map_or(0, |held| held.next);
        Ok((self.store.end(self.id)? - next).max(0) as u64)
    }

    fn close(mut self: Box<Self>, deadline: Instant) -> Result<(), BusError> {
        let Some(lease) = self.lease.take() else { return Ok(()) };
        let id = self.id;
        self.store.write(|transaction, _| {
            let sql = "UPDATE groups SET owner = NULL, expires = 0 WHERE name = ?1 AND topic = ?2 AND epoch = ?3";
            transaction.execute(sql, params![GROUP, id, lease.epoch]).map(|_| ())
        })?;
        self.store.flush(deadline).map(|_| ())
    }
}

impl Drop for SqliteSubscription {
    /// An unclean end within a living process: let go at once, as the end of the process would.
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take() {
            let sql = "UPDATE groups SET owner = NULL, expires = 0 WHERE name = ?1 AND topic = ?2 AND epoch = ?3";
            let _ = self.store.connection.execute(sql, params![GROUP, self.id, lease.epoch]);
        }
    }
}
