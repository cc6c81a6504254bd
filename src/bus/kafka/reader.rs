//! Reads a topic outside of any group.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::anyhow;

use super::{
    admin::Admin,
    raw::{Code, Consumer, Edge},
    settings::Settings,
    subscription::push,
};
use crate::bus::{Batch, BusError, Reader, Record, Topic};

/// Longest wait for one answer.
const WAIT: Duration = Duration::from_secs(5);

/// How long an undecided transaction is waited for.
const PATIENCE: Duration = Duration::from_secs(3);

pub struct KafkaReader {
    topic: Topic,
    consumer: Consumer,
    partitions: BTreeMap<i32, Place>,
    /// The last records of all partitions in one order, before those that come later.
    merged: VecDeque<Batch>,
    headers: Vec<u8>,
    /// Until then a transaction that was undecided when the reader was opened is waited for. A commit is known to its
    /// producer a moment before readers see it.
    patience: Instant,
}

/// How far a partition has been read.
struct Place {
    /// All before it has been read.
    next: i64,
    /// Where the partition ended when the reader was opened.
    end: i64,
    /// Where its first undecided transaction began then.
    decided: i64,
}

impl KafkaReader {
    pub fn open(settings: &Arc<Settings>, admin: &Admin, topic: &Topic, last: u64) -> Result<Self, BusError> {
        let (mut reader, starts) = Self::at_the_end(settings, admin, topic)?;
        let ends: Vec<_> = reader.partitions.values().map(|place| place.end).collect();
        let count = ends.len();
        let all = starts.iter().zip(&ends).map(|(start, end)| end - start).max().unwrap_or_default();
        let last = last.min(i64::MAX as u64) as i64;
        let mut span = last;
        loop {
            for (place, start) in reader.partitions.values_mut().zip(&starts) {
                place.next = place.end.saturating_sub(span).max(*start);
            }
            reader.begin()?;
            if last == 0 || (span >= all && count == 1) || last >= i64::MAX / 2 {
                return Ok(reader);
            }
            // Offsets are no count: some are of markers, and the last records of all are not those of each partition
            if reader.merge(last as usize, span >= all)? {
                return Ok(reader);
            }
            span = span.saturating_mul(4).min(all);
        }
    }

    /// Each partition from the offset given for it, where that is there, else from its beginning.
    pub fn open_at(
        settings: &Arc<Settings>,
        admin: &Admin,
        topic: &Topic,
        offsets: &[(i32, i64)],
    ) -> Result<Self, BusError> {
        let (mut reader, starts) = Self::at_the_end(settings, admin, topic)?;
        for ((partition, place), start) in reader.partitions.iter_mut().zip(starts) {
            let given = offsets.iter().find(|(given, _)| given == partition).map(|(_, offset)| *offset);
            place.next = given.filter(|offset| (start..=place.end).contains(offset)).unwrap_or(start);
        }
        reader.begin()?;
        Ok(reader)
    }

    /// A reader that has not begun, and where each partition starts.
    fn at_the_end(settings: &Arc<Settings>, admin: &Admin, topic: &Topic) -> Result<(Self, Vec<i64>), BusError> {
        let Some(&count) = admin.partitions()?.get(topic.as_str()) else {
            return Err(BusError::Fatal(anyhow!("there is no topic {topic}")));
        };
        let properties = settings.reader(&settings.options.group);
        let consumer = Consumer::new(topic.as_str(), &properties, &settings.health);
        let consumer = consumer.map_err(|reason| BusError::Fatal(anyhow!(reason)))?;
        let ids: Vec<_> = (0..count as i32).map(|partition| (topic.as_str(), partition)).collect();
        let edges = |edge| {
            let edges = consumer.client().edges(&ids, edge, WAIT);
            edges.map_err(|error| BusError::Unavailable(anyhow!("read the edges of {topic}: {error}")))
        };
        let starts = edges(Edge::Start)?;
        let decided = edges(Edge::End)?;
        let ends = admin.ends(topic, count)?;
        let places = ends.into_iter().zip(decided).map(|(end, decided)| Place { next: end, end, decided });
        let reader = Self {
            topic: topic.clone(),
            consumer,
            partitions: (0..).zip(places).collect(),
            merged: VecDeque::new(),
            headers: Vec::new(),
            patience: Instant::now() + PATIENCE,
        };
        Ok((reader, starts))
    }

    /// Reads on from where each partition's place is.
    fn begin(&mut self) -> Result<(), BusError> {
        let offsets: Vec<_> = self.partitions.iter().map(|(&partition, place)| (partition, place.next)).collect();
        let Self { topic, consumer, .. } = self;
        consumer.read_from(&offsets).map_err(|error| BusError::Fatal(anyhow!("read {topic}: {error}")))
    }

    /// Reads up to the ends and keeps the last `count` records; false where there are fewer, but more before them.
    fn merge(&mut self, count: usize, whole: bool) -> Result<bool, BusError> {
        let mut partitions: BTreeMap<i32, Vec<(Batch, usize)>> = BTreeMap::new();
        let mut total = 0;
        let deadline = Instant::now() + WAIT * 6;
        while !self.at_end() {
            let batch = self.fetch(1000, Duration::from_millis(200))?;
            total += batch.len();
            for record in batch.iter() {
                let mut one = Batch::default();
                one.push(record);
                partitions.entry(record.partition).or_default().push((one, 0));
            }
            if Instant::now() > deadline {
                return Err(BusError::Unavailable(anyhow!("the end of {} is not reached", self.topic)));
            }
        }
        if total < count && !whole {
            return Ok(false);
        }
        // From the back: always the youngest of those that are last in their partition
        while self.merged.len() < count {
            let time = |batches: &Vec<(Batch, usize)>| batches.last().map(|(batch, _)| batch.get(0).timestamp);
            let youngest =
                partitions.values_mut().filter(|batches| !batches.is_empty()).max_by_key(|batches| time(batches));
            let Some((record, _)) = youngest.and_then(Vec::pop) else { break };
            self.merged.push_front(record);
        }
        Ok(true)
    }

    fn fetch(&mut self, max: usize, mut wait: Duration) -> Result<Batch, BusError> {
        let Self { topic, consumer, partitions, headers, .. } = self;
        let mut batch = Batch::default();
        let mut failed = None;
        while batch.len() < max && failed.is_none() {
            let count = consumer.consume(max - batch.len(), wait, |message| {
                let Some(place) = partitions.get_mut(&message.partition()) else { return };
                match message.error() {
                    Some(error) if error.code == Code::PartitionEOF => place.next = place.next.max(message.offset()),
                    Some(error) => failed = Some(error),
                    None => {
                        place.next = place.next.max(message.offset() + 1);
                        push(&mut batch, message, headers);
                    }
                }
            });
            wait = Duration::ZERO;
            if count == 0 {
                break;
            }
        }
        match failed {
            None => Ok(batch),
            Some(error) if error.fatal || error.code == Code::TopicAuthorizationFailed => {
                Err(BusError::Fatal(anyhow!("read {topic}: {error}")))
            }
            Some(error) => {
                tracing::warn!("read {topic}: {error}");
                Ok(batch)
            }
        }
    }
}

impl Reader for KafkaReader {
    fn poll(&mut self, max: usize, wait: Duration) -> Result<Batch, BusError> {
        if self.merged.is_empty() {
            return self.fetch(max, wait);
        }
        let mut batch = Batch::default();
        for one in self.merged.drain(..max.min(self.merged.len())) {
            let record: Record<'_> = one.get(0);
            batch.push(record);
        }
        Ok(batch)
    }

    fn at_end(&self) -> bool {
        let patient = Instant::now() < self.patience;
        let done = |place: &Place| place.next >= if patient { place.end } else { place.decided.min(place.end) };
        self.merged.is_empty() && self.partitions.values().all(done)
    }
}
