//! Reading a topic outside of the group.

use std::time::Duration;

use anyhow::anyhow;

use super::store::{Store, Watch};
use crate::bus::{Batch, BusError, Reader, Topic};

pub(super) struct SqliteReader {
    store: Store,
    id: i64,
    /// The next offset to read.
    position: i64,
    /// The end of the topic when the reader was opened.
    end: i64,
    watch: Watch,
}

impl SqliteReader {
    /// From `last` records before the end of the topic.
    pub fn new(store: Store, topic: &Topic, last: u64) -> Result<Self, BusError> {
        let last = i64::try_from(last).unwrap_or(i64::MAX);
        Self::open(store, topic, |end| end.saturating_sub(last).max(0))
    }

    /// From `offset`, or from the beginning where the topic ends before it.
    pub fn from(store: Store, topic: &Topic, offset: i64) -> Result<Self, BusError> {
        Self::open(store, topic, |end| if offset <= end { offset } else { 0 })
    }

    fn open(store: Store, topic: &Topic, from: impl FnOnce(i64) -> i64) -> Result<Self, BusError> {
        let id = store.find(topic)?.ok_or_else(|| BusError::Fatal(anyhow!("there is no topic {topic}")))?;
        let end = store.end(id)?;
        Ok(Self { store, id, position: from(end), end, watch: Watch::default() })
    }
}

impl Reader for SqliteReader {
    fn poll(&mut self, max: usize, wait: Duration) -> Result<Batch, BusError> {
        let mut batch = Batch::default();
        let (id, position) = (self.id, &mut self.position);
        self.store.watch(&mut self.watch, wait, |store| {
            *position = store.read(id, *position, max, &mut batch)?;
            Ok(!batch.is_empty())
        })?;
        Ok(batch)
    }

    fn at_end(&self) -> bool {
        self.position >= self.end
    }
}
