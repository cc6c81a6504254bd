//! Topics in memory: a test double that can fail at any step, gone with its process.
//!
//! One partition a topic unless told otherwise; each member of a group reads all partitions that no other member has
//! taken, so two subscriptions on one topic share it like on Kafka: the first takes it, the next stands by.

use std::{
    collections::{BTreeMap, VecDeque},
    hash::BuildHasher,
    ops::Range,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::anyhow;

use super::{
    Batch, Bus, BusError, Fenced, FencedPublisher, GroupInfo, Guarantee, Headers, Outbox, Publisher, Reader, Record,
    Refusal, Subscription, Topic, TopicInfo,
};
use crate::dead_letter::{DeadLetters, now_ms};

const GROUP: &str = "metrobus";

/// A bus in memory; clones share it.
#[derive(Clone)]
pub struct MemoryBus {
    shared: Arc<Shared>,
    partitions: usize,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    topics: BTreeMap<String, Vec<Vec<Stored>>>,
    /// Per topic of the group, the next offset to read of each partition.
    cursors: BTreeMap<String, Cursor>,
    failures: VecDeque<(Step, Failure)>,
    members: u64,
    /// By name, how many fenced publishers were opened.
    fences: BTreeMap<String, u64>,
}

#[derive(Default)]
struct Cursor {
    next: Vec<usize>,
    owner: Option<u64>,
    /// Raised whenever the owner changes.
    epoch: u64,
}

struct Stored {
    timestamp: i64,
    key: Option<Vec<u8>>,
    headers: Vec<u8>,
    value: Option<Vec<u8>>,
}

/// Where a failure strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Connect,
    Poll,
    Settle,
    Publish,
}

/// What a planned failure does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// [`BusError::Unavailable`], nothing having happened.
    Unavailable,
    /// [`BusError::Fatal`], nothing having happened.
    Fatal,
    /// The member loses its place, as after a rebalance: the step passes over what it was given.
    Lost,
}

impl Default for MemoryBus {
    fn default() -> Self {
        Self::with_partitions(1)
    }
}

impl MemoryBus {
    /// A bus whose topics have `partitions` partitions, at least one.
    pub fn with_partitions(partitions: usize) -> Self {
        Self { shared: Arc::default(), partitions: partitions.max(1) }
    }

    /// Plans a failure for the next time that `step` is taken; several are taken in the order planned.
    pub fn fail_next(&self, step: Step, failure: Failure) {
        self.lock().failures.push_back((step, failure));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append(&self, state: &mut State, batch: &Batch, outbox: &Outbox, inputs: &Range<usize>) {
        for output in outbox.iter(batch) {
            if !inputs.contains(&output.input) {
                continue;
            }
            let partitions = create(state, output.topic, self.partitions);
            let partition = match output.key {
                Some(key) => foldhash::fast::FixedState::default().hash_one(key) as usize % partitions.len(),
                None => partitions.iter().map(Vec::len).sum::<usize>() % partitions.len(),
            };
            partitions[partition].push(Stored {
                timestamp: if output.timestamp < 0 { now_ms() } else { output.timestamp },
                key: output.key.map(<[u8]>::to_vec),
                headers: output.headers.encoded().to_vec(),
                value: output.value.map(<[u8]>::to_vec),
            });
        }
        self.shared.changed.notify_all();
    }
}

fn create<'a>(state: &'a mut State, topic: &Topic, partitions: usize) -> &'a mut Vec<Vec<Stored>> {
    let empty = || std::iter::repeat_with(Vec::new).take(partitions).collect();
    state.topics.entry(topic.to_string()).or_insert_with(empty)
}

fn strike(state: &mut State, step: Step) -> Result<bool, BusError> {
    if state.failures.front().is_none_or(|(planned, _)| *planned != step) {
        return Ok(false);
    }
    match state.failures.pop_front() {
        Some((_, Failure::Unavailable)) => Err(BusError::Unavailable(anyhow!("planned failure of {step:?}"))),
        Some((_, Failure::Fatal)) => Err(BusError::Fatal(anyhow!("planned failure of {step:?}"))),
        _ => Ok(true),
    }
}

impl Bus for MemoryBus {
    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn connect(&self) -> Result<(), BusError> {
        strike(&mut self.lock(), Step::Connect).map(|_| ())
    }

    fn create_topics(&self, topics: &[Topic]) -> Result<(), BusError> {
        let mut state = self.lock();
        for topic in topics {
            create(&mut state, topic, self.partitions);
        }
        Ok(())
    }

    fn subscribe(&self, letters: &DeadLetters) -> Result<Box<dyn Subscription>, BusError> {
        let mut state = self.lock();
        state.members += 1;
        let member = state.members;
        Ok(Box::new(MemorySubscription {
            bus: self.clone(),
            topic: letters.topic.clone(),
            member,
            position: Vec::new(),
            epoch: 0,
        }))
    }

    fn publisher(&self) -> Result<Box<dyn Publisher>, BusError> {
        Ok(Box::new(MemoryPublisher { bus: self.clone(), confirmed: 0 }))
    }

    fn fenced_publisher(&self, name: &str) -> Result<Box<dyn FencedPublisher>, BusError> {
        let mut state = self.lock();
        let opened = state.fences.entry(name.to_owned()).or_default();
        *opened += 1;
        Ok(Box::new(MemoryFenced { bus: self.clone(), name: name.to_owned(), epoch: *opened }))
    }

    fn reader(&self, topic: &Topic, last: u64) -> Result<Box<dyn Reader>, BusError> {
        let mut state = self.lock();
        let partitions = create(&mut state, topic, self.partitions);
        let ends: Vec<_> = partitions.iter().map(Vec::len).collect();
        let mut position = ends.clone();
        for _ in 0..last {
            let latest = (0..position.len())
                .filter(|p| position[*p] > 0)
                .max_by_key(|p| partitions[*p][position[*p] - 1].timestamp);
            let Some(latest) = latest else { break };
            position[latest] -= 1;
        }
        Ok(Box::new(MemoryReader { bus: self.clone(), topic: topic.clone(), position, ends }))
    }

    fn reader_from(&self, topic: &Topic, offsets: &[(i32, i64)]) -> Result<Box<dyn Reader>, BusError> {
        let mut state = self.lock();
        let ends: Vec<_> = create(&mut state, topic, self.partitions).iter().map(Vec::len).collect();
        let from = |(partition, end): (usize, &usize)| {
            let given = offsets.iter().find(|(given, _)| *given as usize == partition);
            given.map(|(_, offset)| *offset as usize).filter(|offset| offset <= end).unwrap_or(0)
        };
        let position = ends.iter().enumerate().map(from).collect();
        Ok(Box::new(MemoryReader { bus: self.clone(), topic: topic.clone(), position, ends }))
    }

    fn topics(&self) -> Result<Vec<TopicInfo>, BusError> {
        let state = self.lock();
        let info = |(name, partitions): (&String, &Vec<Vec<Stored>>)| TopicInfo {
            name: name.clone(),
            partitions: partitions.len(),
            records: partitions.iter().map(|partition| partition.len() as u64).sum(),
            groups: state.cursors.get(name).into_iter().map(|cursor| group(cursor, partitions)).collect(),
        };
        Ok(state.topics.iter().map(info).collect())
    }
}

fn group(cursor: &Cursor, partitions: &[Vec<Stored>]) -> GroupInfo {
    GroupInfo { name: GROUP.to_owned(), lag: left(&cursor.next, partitions) }
}

/// Records from `position` on.
fn left(position: &[usize], partitions: &[Vec<Stored>]) -> u64 {
    let left = |(p, stored): (usize, &Vec<Stored>)| stored.len() - position.get(p).copied().unwrap_or(0);
    partitions.iter().enumerate().map(left).sum::<usize>() as u64
}

fn take(position: &mut [usize], partitions: &[Vec<Stored>], max: usize, batch: &mut Batch) {
    for (p, stored) in partitions.iter().enumerate() {
        while batch.len() < max && position[p] < stored.len() {
            let record = &stored[position[p]];
            batch.push(Record {
                partition: p as i32,
                offset: position[p] as i64,
                timestamp: record.timestamp,
                key: record.key.as_deref(),
                headers: Headers::from_encoded(&record.headers),
                value: record.value.as_deref(),
            });
            position[p] += 1;
        }
    }
}

struct MemorySubscription {
    bus: MemoryBus,
    topic: Topic,
    member: u64,
    /// The next offset to poll of each partition, as long as `epoch` is that of the cursor.
    position: Vec<usize>,
    epoch: u64,
}

impl MemorySubscription {
    /// The cursor, where this member is its owner or can become it. Resets the position when it has changed hands.
    fn own<'a>(&mut self, state: &'a mut State) -> Option<&'a mut Cursor> {
        let count = create(state, &self.topic, self.bus.partitions).len();
        let cursor = state.cursors.entry(self.topic.to_string()).or_default();
        cursor.next.resize(count, 0);
        if cursor.owner.is_none() {
            cursor.owner = Some(self.member);
            cursor.epoch += 1;
        }
        if cursor.owner != Some(self.member) {
            return None;
        }
        if self.epoch != cursor.epoch {
            self.epoch = cursor.epoch;
            self.position.clone_from(&cursor.next);
        }
        Some(cursor)
    }

    fn lose(&mut self, state: &mut State) {
        if let Some(cursor) = state.cursors.get_mut(self.topic.as_str()) {
            cursor.owner = None;
            cursor.epoch += 1;
        }
    }
}

impl Subscription for MemorySubscription {
    fn poll(&mut self, max: usize, wait: Duration) -> Result<Batch, BusError> {
        let bus = self.bus.clone();
        let end = Instant::now() + wait;
        let mut state = bus.lock();
        if strike(&mut state, Step::Poll)? {
            self.lose(&mut state);
        }
        loop {
            let mut batch = Batch::default();
            if self.own(&mut state).is_some() {
                batch.epoch = self.epoch;
                take(&mut self.position, &state.topics[self.topic.as_str()], max, &mut batch);
            }
            let left = end.saturating_duration_since(Instant::now());
            if !batch.is_empty() || left.is_zero() {
                return Ok(batch);
            }
            let waited = bus.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn settle(&mut self, batch: &Arc<Batch>, inputs: Range<usize>, outbox: &Outbox) -> Result<(), BusError> {
        let bus = self.bus.clone();
        let mut state = bus.lock();
        if strike(&mut state, Step::Settle)? {
            self.lose(&mut state);
        }
        let epoch = batch.epoch;
        let Some(cursor) = self.own(&mut state).filter(|cursor| cursor.epoch == epoch) else { return Ok(()) };
        for index in inputs.clone() {
            let record = batch.get(index);
            cursor.next[record.partition as usize] = record.offset as usize + 1;
        }
        bus.append(&mut state, batch, outbox, &inputs);
        Ok(())
    }

    fn flush(&mut self, _: Instant) -> Result<bool, BusError> {
        Ok(true)
    }

    fn keep_alive(&mut self) -> Result<(), BusError> {
        Ok(())
    }

    fn drained(&mut self) -> Result<bool, BusError> {
        Ok(self.lag()? == 0)
    }

    fn lag(&mut self) -> Result<u64, BusError> {
        let bus = self.bus.clone();
        let mut state = bus.lock();
        let Some(next) = self.own(&mut state).map(|cursor| cursor.next.clone()) else { return Ok(0) };
        Ok(left(&next, &state.topics[self.topic.as_str()]))
    }

    fn close(mut self: Box<Self>, _: Instant) -> Result<(), BusError> {
        let bus = self.bus.clone();
        let mut state = bus.lock();
        if self.own(&mut state).is_some() {
            self.lose(&mut state);
        }
        bus.shared.changed.notify_all();
        Ok(())
    }
}

impl Drop for MemorySubscription {
    fn drop(&mut self) {
        let bus = self.bus.clone();
        let mut state = bus.lock();
        let owner = state.cursors.get(self.topic.as_str()).and_then(|cursor| cursor.owner);
        if owner == Some(self.member) {
            self.lose(&mut state);
        }
        bus.shared.changed.notify_all();
    }
}

struct MemoryPublisher {
    bus: MemoryBus,
    confirmed: u64,
}

impl Publisher for MemoryPublisher {
    fn publish(&mut self, outbox: &Outbox) -> Result<(), BusError> {
        let mut state = self.bus.lock();
        strike(&mut state, Step::Publish)?;
        self.bus.append(&mut state, &Batch::default(), outbox, &(0..1));
        self.confirmed += outbox.len() as u64;
        Ok(())
    }

    fn flush(&mut self, _: Instant) -> Result<u64, BusError> {
        Ok(self.confirmed)
    }
}

struct MemoryFenced {
    bus: MemoryBus,
    name: String,
    epoch: u64,
}

impl FencedPublisher for MemoryFenced {
    fn publish(&mut self, outbox: &Outbox) -> Result<Option<Refusal>, BusError> {
        let mut state = self.bus.lock();
        strike(&mut state, Step::Publish)?;
        if state.fences.get(&self.name) != Some(&self.epoch) {
            return Err(Fenced(self.name.clone()).into());
        }
        self.bus.append(&mut state, &Batch::default(), outbox, &(0..1));
        Ok(None)
    }
}

struct MemoryReader {
    bus: MemoryBus,
    topic: Topic,
    position: Vec<usize>,
    ends: Vec<usize>,
}

impl Reader for MemoryReader {
    fn poll(&mut self, max: usize, wait: Duration) -> Result<Batch, BusError> {
        let end = Instant::now() + wait;
        let mut state = self.bus.lock();
        loop {
            let mut batch = Batch::default();
            take(&mut self.position, &state.topics[self.topic.as_str()], max, &mut batch);
            let left = end.saturating_duration_since(Instant::now());
            if !batch.is_empty() || left.is_zero() {
                return Ok(batch);
            }
            let waited = self.bus.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn at_end(&self) -> bool {
        self.position.iter().zip(&self.ends).all(|(position, end)| position >= end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::conformance::{self, Fixture};

    #[derive(Default)]
    struct Memory(MemoryBus, std::cell::Cell<u32>);

    impl Fixture for Memory {
        fn bus(&self) -> Box<dyn Bus> {
            Box::new(self.0.clone())
        }

        fn topic(&self, name: &str) -> Topic {
            self.1.set(self.1.get() + 1);
            Topic::new(&format!("{name}-{}", self.1.get())).unwrap()
        }
    }

    #[test]
    fn conforms() {
        conformance::run(&Memory::default());
        conformance::run(&Memory(MemoryBus::with_partitions(3), Default::default()));
    }
}
