//! What the group has read: offsets noted, committed and compared with the ends of partitions.

use std::time::Instant;

use anyhow::anyhow;

use super::{
    raw::{Edge, Error},
    subscription::{BUSY, KafkaSubscription, PATIENCE},
};
use crate::bus::BusError;

impl KafkaSubscription {
    /// Takes note of what was consumed that is no record: markers of transactions, which have offsets too.
    pub(super) fn note_positions(&mut self) {
        let assigned = self.watermarks.assigned();
        // Positions of before are ahead of what is to be read again
        if assigned.is_empty() || !self.set_back.is_empty() {
            return;
        }
        match self.consumer.positions(&assigned) {
            Ok(positions) => {
                for (partition, position) in assigned.into_iter().zip(positions) {
                    position.into_iter().for_each(|position| self.watermarks.passed(partition, position));
                }
            }
            Err(error) => tracing::debug!("positions in {}: {error}", self.letters.topic),
        }
    }

    /// Takes note of where the group left off, or the topic begins, in partitions of which nothing was consumed yet.
    pub(super) fn note_beginnings(&mut self) -> Result<(), BusError> {
        let fresh: Vec<_> = self.watermarks.untouched().collect();
        if fresh.is_empty() {
            return Ok(());
        }
        let topic = self.letters.topic.as_str();
        let named: Vec<_> = fresh.iter().map(|&partition| (topic, partition)).collect();
        let (committed, starts) = self.group_offsets(&named)?;
        for (partition, (committed, start)) in fresh.into_iter().zip(committed.into_iter().zip(starts)) {
            self.watermarks.passed(partition, committed.unwrap_or(start));
        }
        Ok(())
    }

    /// Per partition what the group has committed, and where the partition begins.
    fn group_offsets(&self, partitions: &[(&str, i32)]) -> Result<(Vec<Option<i64>>, Vec<i64>), BusError> {
        let unknown = |error| BusError::Unavailable(anyhow!("read the offsets of {}: {error}", self.letters.topic));
        let committed = self.consumer.client().committed(partitions, PATIENCE).map_err(unknown)?;
        let starts = self.sender.producer().client().edges(partitions, Edge::Start, PATIENCE).map_err(unknown)?;
        Ok((committed, starts))
    }

    /// Commits what is new, without waiting for it. With transactions, only what no transaction will: ends of partitions.
    pub(super) fn commit_offsets(&mut self) -> Result<(), BusError> {
        if self.transaction.as_ref().is_some_and(|state| !state.is_idle()) || !self.joined {
            return Ok(());
        }
        let offsets = self.watermarks.unsent();
        if !offsets.is_empty() {
            self.watermarks.sent_offsets(&offsets);
            match self.consumer.commit(&offsets) {
                Ok(()) => self.commits_open += 1,
                Err(error) => {
                    tracing::debug!("commit: {error}");
                    offsets.iter().for_each(|&(partition, _)| self.watermarks.not_committed(partition));
                }
            }
        }
        Ok(())
    }

    pub(super) fn take_commit(&mut self, result: Vec<(i32, Result<i64, Error>)>) {
        self.commits_open = self.commits_open.saturating_sub(1);
        for (partition, offset) in result {
            match offset {
                Ok(offset) => self.watermarks.committed(partition, offset),
                Err(error) => {
                    // Told again with the next one; where the partition is another's now, it is for that one to tell
                    tracing::debug!("commit of {} [{partition}]: {error}", self.letters.topic);
                    self.watermarks.not_committed(partition);
                }
            }
        }
    }

    /// Commits what is new and waits for it; false where the deadline came first.
    pub(super) fn commit_and_wait(&mut self, deadline: Instant) -> Result<bool, BusError> {
        self.commit_offsets()?;
        while self.commits_open > 0 {
            let now = Instant::now();
            if now >= deadline {
                return Ok(false);
            }
            if let Some(result) = self.consumer.commit_result((deadline - now).min(BUSY)) {
                self.take_commit(result);
            }
        }
        Ok(self.watermarks.all_committed())
    }

    /// Whether the group has acknowledged all of the partitions beside `own`: their reader may be alive and slow, or dead
    /// without the group having noticed, and then they become this member's.
    pub(super) fn others_are_done(&self, own: &[i32]) -> Result<bool, BusError> {
        let topic = self.letters.topic.as_str();
        let count = self.admin.partitions()?.get(topic).copied().unwrap_or_default() as i32;
        let others: Vec<_> = (0..count).filter(|partition| !own.contains(partition)).collect();
        if others.is_empty() {
            return Ok(true);
        }
        let named: Vec<_> = others.iter().map(|&partition| (topic, partition)).collect();
        let (committed, starts) = self.group_offsets(&named)?;
        let ends = self.ends(&others)?;
        let mut done = committed.iter().zip(starts.iter().zip(&ends));
        Ok(done.all(|(committed, (start, end))| committed.unwrap_or(*start) >= *end))
    }

    /// Where the partitions of this member end at present, whether it is committed or not.
    pub(super) fn ends(&self, partitions: &[i32]) -> Result<Vec<i64>, BusError> {
        let topic = self.letters.topic.as_str();
        let partitions: Vec<_> = partitions.iter().map(|&partition| (topic, partition)).collect();
        let ends = self.sender.producer().client().edges(&partitions, Edge::End, PATIENCE);
        ends.map_err(|error| BusError::Unavailable(anyhow!("read the end of {topic}: {error}")))
    }
}
