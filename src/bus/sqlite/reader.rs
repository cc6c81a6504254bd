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
        let id = store.find(topic)?.ok_or_else(|| BusError::Fatal(anyhow!("there is no topic {topic}")))?;
        let end = store.end(id)?;
        let position = end.saturating_sub(i64::try_from(last).unwrap_or(i64::MAX)).max(0);
        Ok(Self { store, id, position, end, watch: Watch::default() })
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
