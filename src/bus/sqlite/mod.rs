//! Topics in one SQLite file, shared by any number of processes on one machine. Nothing to install.
//!
//! Settling a batch is one transaction: outputs in, cursor forward. So a hop happens exactly once, whatever dies.
//! With `synchronous = "full"` that holds for a power cut too: what was confirmed stays, and of the last moments whole
//! transactions are undone, none without those that came of it, so that they happen again. With `"normal"` what was
//! confirmed in the last moments may be undone as well (never after a mere crash of the process).
//!
//! - A topic is one partition: a table whose rows hold many records each ([`pack`]), keyed by offset, from 0.
//! - One member of a group at a time reads a topic. Its lease lies in the file; a member whose process is gone, or who
//!   did not renew it for [`LEASE`], loses it to whoever stands by. A settle checks the lease in its own transaction, so
//!   a member that was merely slow can do no harm.
//! - A reader learns of others' commits from `PRAGMA data_version`, which costs two microseconds, and of those of its own
//!   process at once.
//! - Retention deletes from the front of a topic what every group has read and is too old, or too much, and never the
//!   newest record, from which the next offset is counted.
//!
//! # What makes it fast
//!
//! SQLite has one writer at a time, so what counts is how little is done under its lock. A settle packs its outputs into
//! few rows before it takes the lock, writes them and the cursor, and lets go. The disk does not keep the lock: a
//! thread of the process syncs the log and copies it back into the database (`commits.rs`, which says why nothing is
//! lost by it). Other processes see a settle a moment before it is on the disk; it returns when it is there, and one sync
//! serves all who wait. A publisher does not wait; its [`Publisher::flush`] does.

use std::{path::PathBuf, sync::Arc, time::Duration};

use serde::Deserialize;

use super::{Bus, BusError, FencedPublisher, Guarantee, Publisher, Reader, Subscription, Topic, TopicInfo};
use crate::dead_letter::DeadLetters;

mod commits;
mod fenced;
mod lease;
pub mod pack;
mod publisher;
mod reader;
mod store;
mod subscription;
mod topic;

use commits::Commits;
use fenced::SqliteFenced;
use publisher::SqlitePublisher;
use reader::SqliteReader;
use store::Store;
use subscription::SqliteSubscription;

/// How long a member keeps a topic without a sign of life.
pub const LEASE: Duration = Duration::from_secs(5);

/// The one consumer group on this engine.
const GROUP: &str = "metrobus";

/// The engine's options, `[sqlite]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Options {
    pub path: PathBuf,
    pub synchronous: Synchronous,
    /// Records older than this may go; zero keeps them for ever.
    pub retention: Duration,
    /// A topic larger than about this many bytes may lose its oldest records; 0 is no limit.
    pub retention_bytes: u64,
}

/// When a commit counts as durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Synchronous {
    /// On the disk, within moments: what is confirmed survives a power cut.
    Full,
    /// With the operating system: survives a crash of the process; a power cut may undo the last ones.
    Normal,
}

/// A bus in one file; opening it creates the file and its folder where they are missing.
pub struct SqliteBus {
    options: Arc<Options>,
    commits: Arc<Commits>,
    kept: Option<Topic>,
}

impl SqliteBus {
    pub fn new(options: Options) -> Self {
        let options = Arc::new(options);
        Self { commits: Arc::new(Commits::new(Arc::clone(&options))), options, kept: None }
    }

    /// Retention takes nothing from `topic`.
    pub fn keeping(self, topic: &Topic) -> Self {
        Self { kept: Some(topic.clone()), ..self }
    }

    fn open(&self) -> Result<Store, BusError> {
        Store::open(&self.options, &self.commits, self.kept.clone())
    }
}

impl Bus for SqliteBus {
    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn connect(&self) -> Result<(), BusError> {
        self.open().map(|_| ())
    }

    fn create_topics(&self, topics: &[Topic]) -> Result<(), BusError> {
        let mut store = self.open()?;
        for topic in topics {
            store.ensure(topic)?;
        }
        Ok(())
    }

    fn subscribe(&self, letters: &DeadLetters) -> Result<Box<dyn Subscription>, BusError> {
        Ok(Box::new(SqliteSubscription::new(self.open()?, &letters.topic)?))
    }

    fn publisher(&self) -> Result<Box<dyn Publisher>, BusError> {
        Ok(Box::new(SqlitePublisher::new(self.open()?)))
    }

    fn fenced_publisher(&self, name: &str) -> Result<Box<dyn FencedPublisher>, BusError> {
        Ok(Box::new(SqliteFenced::open(self.open()?, name)?))
    }

    fn reader(&self, topic: &Topic, last: u64) -> Result<Box<dyn Reader>, BusError> {
        Ok(Box::new(SqliteReader::new(self.open()?, topic, last)?))
    }

    fn reader_from(&self, topic: &Topic, offsets: &[(i32, i64)]) -> Result<Box<dyn Reader>, BusError> {
        let offset = offsets.iter().find(|(partition, _)| *partition == 0).map_or(0, |(_, offset)| *offset);
        Ok(Box::new(SqliteReader::from(self.open()?, topic, offset)?))
    }

    fn topics(&self) -> Result<Vec<TopicInfo>, BusError> {
        self.open()?.topics()
    }
}

#[cfg(test)]
mod tests;
