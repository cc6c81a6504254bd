//! A stop's place in the group: what it reads, and when what is done. What is sent is in [`super::outputs`], what the group
//! is told of it in [`super::offsets`].
//!
//! At least once, an input is committed when everything before it in its partition is delivered ([`Watermarks`]), once a
//! second, before a partition is given up, and at the end. Exactly once, outputs and offsets of some time are one
//! transaction ([`super::transaction`]).
//!
//! Changes of the assignment are taken up between two polls, on the stop's own thread: librdkafka stops fetching and
//! waits for it.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::anyhow;

use super::{
    admin::Admin,
    raw::{Code, Consumer, Error, Message, Rebalance},
    sender::Sender,
    settings::Settings,
    transaction::State,
    watermark::{LONGEST_BATCH, Watermarks},
};
use crate::{
    bus::{Batch, BusError, Headers, Outbox, Record, Subscription, Topic},
    dead_letter::DeadLetters,
};

/// A batch is not made longer than that, but by its last record.
const BATCH_BYTES: usize = 4 << 20;
/// How often offsets are committed.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// Longest wait of a call that may be repeated.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// Longest wait for what is in flight before a partition is given up.
const HANDOVER: Duration = Duration::from_secs(5);
/// Between two pushes while something is in flight and nothing comes.
const PUSH: Duration = Duration::from_millis(5);
/// Longest sleep while something is to be committed, and while nothing is.
pub(super) const BUSY: Duration = Duration::from_millis(50);
const IDLE: Duration = Duration::from_millis(500);

pub struct KafkaSubscription {
    pub(super) settings: Arc<Settings>,
    pub(super) admin: Arc<Admin>,
    pub(super) sender: Sender,
    pub(super) consumer: Consumer,
    pub(super) letters: DeadLetters,
    pub(super) watermarks: Watermarks,
    /// The transactions; `None` at least once.
    pub(super) transaction: Option<State>,
    /// Where partitions have to be read on before anything else is.
    pub(super) set_back: Vec<(i32, i64)>,
    /// The group has told what this member reads.
    pub(super) joined: bool,
    /// Fetching is stopped while the stop waits.
    paused: bool,
    /// What came nevertheless.
    stash: VecDeque<Batch>,
    /// The group did not know the first choice of protocol.
    other_protocol: bool,
    next_commit: Instant,
    pub(super) commits_open: usize,
    pub(super) refused: u64,
    /// The last error that was told of.
    warned: Option<Code>,
    headers: Vec<u8>,
}

impl KafkaSubscription {
    pub fn open(settings: &Arc<Settings>, admin: &Arc<Admin>, letters: &DeadLetters) -> Result<Self, BusError> {
        admin.limits(&[letters.topic.clone(), letters.error.clone()])?;
        let transactional_id = settings.exactly_once().then(|| settings.transactional_id(letters.topic.as_str()));
        let sender = Sender::open(settings, admin, transactional_id)?;
        let transaction = settings.exactly_once().then(State::default);
        let mut subscription = Self {
            settings: settings.clone(),
            admin: admin.clone(),
            consumer: join(settings, &letters.topic, false)?,
            sender,
            letters: letters.clone(),
            watermarks: Watermarks::default(),
            transaction,
            set_back: Vec::new(),
            joined: false,
            paused: false,
            stash: VecDeque::new(),
            other_protocol: false,
            next_commit: Instant::now() + COMMIT_INTERVAL,
            commits_open: 0,
            refused: 0,
            warned: None,
            headers: Vec::new(),
        };
        subscription.init_transactions()?;
        subscription.consumer.subscribe().map_err(|error| BusError::Fatal(anyhow!("join the group: {error}")))?;
        Ok(subscription)
    }

    /// Does what is due: deliveries, commits, refused records, the state of the connection.
    pub(super) fn serve(&mut self) -> Result<(), BusError> {
        self.serve_sender(Duration::ZERO)?;
        while let Some(result) = self.consumer.commit_result(Duration::ZERO) {
            self.take_commit(result);
        }
        let now = Instant::now();
        if now >= self.next_commit {
            self.next_commit = now + COMMIT_INTERVAL;
            self.note_positions();
            self.commit_offsets()?;
            let Self { settings, consumer, .. } = self;
            settings.health.check(|| consumer.client().answers(Duration::from_millis(500)));
        }
        self.commit_due(now)
    }

    /// Takes deliveries in and moves the watermarks; sends again what failed, where no transaction is to be undone.
    pub(super) fn serve_sender(&mut self, wait: Duration) -> Result<(), BusError> {
        if let Err(error) = self.take_deliveries(wait) {
            return self.replace_producer(&error);
        }
        if self.transaction.is_none() && self.sender.has_failed() {
            for refused in self.sender.recover()? {
                self.bury(refused)?;
            }
        }
        Ok(())
    }

    pub(super) fn take_deliveries(&mut self, wait: Duration) -> Result<(), Error> {
        self.sender.serve(wait)?;
        let mut any = false;
        for token in self.sender.delivered() {
            self.watermarks.delivered(token);
            any = true;
        }
        if any {
            self.watermarks.advance();
        }
        Ok(())
    }

    /// Takes up changes of the assignment.
    fn rebalance(&mut self) -> Result<(), BusError> {
        for Rebalance { assign, lost, partitions } in self.consumer.rebalances() {
            let topic = &self.letters.topic;
            let done = if assign {
                tracing::info!("assigned partitions {partitions:?} of {topic}");
                self.joined = true;
                self.watermarks.assign(&partitions);
                let done = self.consumer.assign(&partitions);
                if self.paused && !partitions.is_empty() {
                    let _ = self.consumer.pause(&partitions, true);
                }
                done
            } else {
                tracing::info!("{} partitions {partitions:?} of {topic}", if lost { "lost" } else { "gives up" });
                self.hand_over(&partitions, lost)?;
                self.watermarks.revoke(&partitions);
                self.set_back.retain(|(partition, _)| !partitions.contains(partition));
                self.consumer.unassign(&partitions)
            };
            if let Err(error) = done {
                // The client has left or is leaving; it tells so by another change or a fatal error
                tracing::warn!("assignment of {}: {error}", self.letters.topic);
            }
        }
        Ok(())
    }

    /// Finishes what is settled of partitions that another member is about to read.
    fn hand_over(&mut self, partitions: &[i32], lost: bool) -> Result<(), BusError> {
        let deadline = Instant::now() + HANDOVER;
        if self.transaction.is_some() {
            return self.hand_over_transaction(lost, deadline);
        }
        while !lost && !self.watermarks.idle(partitions) && Instant::now() < deadline {
            self.serve_sender(BUSY)?;
        }
        if !lost && !self.commit_and_wait(deadline)? {
            tracing::warn!("not all of {} is committed; its next reader repeats some", self.letters.topic);
        }
        Ok(())
    }

    /// Sets the consumer back where a transaction was undone; false where that is not done yet.
    pub(super) fn finish_set_back(&mut self) -> Result<bool, BusError> {
        if self.set_back.is_empty() {
            return Ok(true);
        }
        match self.consumer.seek(&self.set_back, PATIENCE) {
            Ok(()) => {
                self.set_back.clear();
                Ok(true)
            }
            Err(error) => {
                tracing::debug!("set {} back: {error}", self.letters.topic);
                std::thread::sleep(Duration::from_millis(10));
                Ok(false)
            }
        }
    }

    /// Adds what has come to `batch`, having waited for it.
    fn consume(&mut self, batch: &mut Batch, max: usize, mut wait: Duration) -> Result<(), BusError> {
        let mut errors = Vec::new();
        while batch.len() < max && batch.bytes() < BATCH_BYTES {
            let Self { consumer, watermarks, headers, set_back, .. } = self;
            let count = consumer.consume(max - batch.len(), wait, |message| match message.error() {
                Some(error) => {
                    // As the end of a partition, it would cost the record at its offset
                    if message.partition() >= 0 && message.offset() >= 0 {
                        set_back.push((message.partition(), message.offset()));
                    }
                    errors.push(error);
                }
                None if watermarks.hand_out(message.partition(), message.offset()) => push(batch, message, headers),
                None => {}
            });
            wait = Duration::ZERO;
            if count == 0 || self.consumer.rebalancing() || !self.set_back.is_empty() {
                break;
            }
        }
        errors.into_iter().try_for_each(|error| self.consumer_error(&error))
    }

    fn consumer_error(&mut self, error: &Error) -> Result<(), BusError> {
        let topic = &self.letters.topic;
        match error.code {
            Code::InconsistentGroupProtocol => self.change_protocol(),
            Code::Fatal | Code::FencedInstanceId => {
                let reason = self.consumer.client().fatal().map_or(error.to_string(), |fatal| fatal.to_string());
                // librdkafka (2.12) goes on with heartbeats of nobody until the loss is taken up, which the broker
                // takes for those of another with this name
                if self.consumer.has_expired() {
                    tracing::warn!("the session of {topic} has ended, joins anew: {reason}");
                    return self.rejoin();
                }
                Err(BusError::Fatal(anyhow!("consumer of {topic}: {reason}")))
            }
            Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::InvalidSessionTimeout
            | Code::InvalidGroupId => Err(BusError::Fatal(anyhow!("read {topic}: {error}"))),
            Code::PollExceeded => {
                tracing::warn!("the handler of {topic} took longer than max.poll.interval.ms: others took over");
                Ok(())
            }
            code => {
                // Said once and not at each attempt
                if self.warned.replace(code) != Some(code) {
                    tracing::warn!("read {topic}: {error}");
                }
                Ok(())
            }
        }
    }

    /// Joins anew by the other protocol: the group's members do not know this one.
    fn change_protocol(&mut self) -> Result<(), BusError> {
        self.other_protocol = !self.other_protocol;
        tracing::warn!(
            "the members of group {} do not share partition.assignment.strategy: tries the other kind ({})",
            self.settings.options.group,
            if self.other_protocol { "fallback" } else { "first choice" },
        );
        self.rejoin()
    }

    /// Leaves, with nothing more acknowledged, and comes back as a new member.
    fn rejoin(&mut self) -> Result<(), BusError> {
        let assigned = self.watermarks.assigned();
        self.hand_over(&assigned, true)?;
        self.watermarks.revoke(&assigned);
        self.set_back.clear();
        self.joined = false;
        self.consumer.close(Instant::now() + PATIENCE);
        self.consumer = join(&self.settings, &self.letters.topic, self.other_protocol)?;
        self.commits_open = 0;
        self.consumer.subscribe().map_err(|error| BusError::Fatal(anyhow!("join the group: {error}")))
    }

    fn pause(&mut self, pause: bool) -> Result<(), BusError> {
        if self.paused != pause {
            self.paused = pause;
            let assigned = self.watermarks.assigned();
            if !assigned.is_empty() {
                let done = self.consumer.pause(&assigned, pause);
                done.map_err(|error| BusError::Fatal(anyhow!("pause {}: {error}", self.letters.topic)))?;
            }
        }
        Ok(())
    }

    /// Hands out what came while the stop waited.
    fn unstash(&mut self, max: usize) -> Option<Batch> {
        let stash = self.stash.pop_front()?;
        if stash.len() <= max {
            return Some(stash);
        }
        let part = |range: Range<usize>| {
            let mut batch = Batch::with_epoch(stash.epoch);
            range.for_each(|index| batch.push(stash.get(index)));
            batch
        };
        self.stash.push_front(part(max..stash.len()));
        Some(part(0..max))
    }

    /// How long to sleep at most before something else may be due.
    fn slice(&self, now: Instant) -> Duration {
        if let Some(due) = self.transaction.as_ref().and_then(|state| state.due(self.settings.options.transaction, now))
        {
            return due.saturating_duration_since(now);
        }
        if self.sender.in_flight() > 0 {
            PUSH
        } else if self.watermarks.all_committed() {
            IDLE
        } else {
            BUSY
        }
    }
}

impl Subscription for KafkaSubscription {
    fn poll(&mut self, max: usize, wait: Duration) -> Result<Batch, BusError> {
        let max = max.min(LONGEST_BATCH);
        let deadline = Instant::now() + wait;
        self.pause(false)?;
        if let Some(batch) = self.unstash(max) {
            return Ok(batch);
        }
        let mut batch = self.watermarks.blank();
        loop {
            self.serve()?;
            self.rebalance()?;
            let now = Instant::now();
            batch.epoch = self.watermarks.epoch();
            if self.finish_set_back()? {
                self.consume(&mut batch, max, Duration::ZERO)?;
                if let Some(transaction) = &mut self.transaction {
                    transaction.caught_up = batch.is_empty();
                }
                if batch.is_empty() && !self.consumer.rebalancing() {
                    // Nothing more is coming that could share the way with what is to leave
                    self.sender.push();
                    let wait = deadline.saturating_duration_since(now).min(self.slice(now));
                    self.consume(&mut batch, max, wait)?;
                }
            }
            if !batch.is_empty() || Instant::now() >= deadline {
                return Ok(batch);
            }
        }
    }

    fn settle(&mut self, batch: &Arc<Batch>, inputs: Range<usize>, outbox: &Outbox) -> Result<(), BusError> {
        let settled = self.try_settle(batch, inputs, outbox);
        if matches!(settled, Err(BusError::Unavailable(_))) {
            self.keep_alive()?;
        }
        settled
    }

    fn flush(&mut self, deadline: Instant) -> Result<bool, BusError> {
        Ok(self.flush_until(deadline)? && self.finish_set_back()?)
    }

    fn keep_alive(&mut self) -> Result<(), BusError> {
        self.serve()?;
        self.rebalance()?;
        self.pause(true)?;
        let mut stash = Batch::with_epoch(self.watermarks.epoch());
        if self.finish_set_back()? {
            self.consume(&mut stash, 1000, Duration::ZERO)?;
        }
        if !stash.is_empty() {
            self.stash.push_back(stash);
        }
        Ok(())
    }

    fn drained(&mut self) -> Result<bool, BusError> {
        self.serve()?;
        if !self.joined || self.consumer.rebalancing() || !self.flush_until(Instant::now() + BUSY)? {
            return Ok(false);
        }
        self.note_positions();
        self.note_beginnings()?;
        let (partitions, positions): (Vec<_>, Vec<_>) = self.watermarks.positions().unzip();
        if positions.contains(&None) {
            return Ok(false);
        }
        let ends = self.ends(&partitions)?;
        if positions.iter().zip(&ends).any(|(position, end)| *position < Some(*end)) {
            return Ok(false);
        }
        // Where a member has just left, its share is about to be this one's
        let member = self.consumer.member_id();
        let settled = self.admin.is_settled(&member, &self.letters.topic, &partitions);
        Ok(settled && self.others_are_done(&partitions)?)
    }

    fn lag(&mut self) -> Result<u64, BusError> {
        let (partitions, from): (Vec<_>, Vec<_>) = self.watermarks.unacknowledged().unzip();
        let ends = self.ends(&partitions)?;
        let left = from.iter().zip(&ends).map(|(from, end)| from.map_or(0, |from| end.saturating_sub(from).max(0)));
        Ok(left.sum::<i64>() as u64)
    }

    fn reachable(&self) -> Result<(), BusError> {
        self.settings.health.reachable().map_err(BusError::Unavailable)
    }

    fn refused(&mut self) -> u64 {
        std::mem::take(&mut self.refused)
    }

    fn close(mut self: Box<Self>, deadline: Instant) -> Result<(), BusError> {
        let flushed = self.flush_until(deadline)?;
        // While others join or leave, the group takes no commit: it comes first
        while !self.commit_and_wait(deadline)? {
            if Instant::now() >= deadline {
                tracing::warn!("not all of {} is committed; its next reader repeats some", self.letters.topic);
                break;
            }
            self.keep_alive()?;
            std::thread::sleep(BUSY / 5);
        }
        self.consumer.close(deadline.max(Instant::now() + Duration::from_secs(1)));
        if flushed {
            return Ok(());
        }
        Err(BusError::Unavailable(self.settings.health.waits()))
    }
}

impl Drop for KafkaSubscription {
    /// Without [`Subscription::close`] nothing more is acknowledged; an open transaction would hold up readers.
    fn drop(&mut self) {
        self.abandon_transaction();
    }
}

fn join(settings: &Settings, topic: &Topic, other_protocol: bool) -> Result<Consumer, BusError> {
    let properties = settings.group_member(topic.as_str(), other_protocol);
    Consumer::new(topic.as_str(), &properties, &settings.health).map_err(|reason| BusError::Fatal(anyhow!(reason)))
}

/// Appends a copy of the message.
pub(super) fn push(batch: &mut Batch, message: &Message<'_>, headers: &mut Vec<u8>) {
    headers.clear();
    message.headers(headers);
    batch.push(Record {
        partition: message.partition(),
        offset: message.offset(),
        timestamp: message.timestamp(),
        key: message.key(),
        headers: Headers::from_encoded(headers),
        value: message.value(),
    });
}
