//! What is asked of the cluster and not of a topic's records.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    future::Future,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use anyhow::anyhow;
use rdkafka::{
    ClientConfig, ClientContext,
    admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication},
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    error::KafkaError,
    types::RDKafkaErrorCode as Code,
};

use super::{health::Health, raw, settings::Settings};
use crate::bus::{Backlog, BusError, GroupInfo, Topic, TopicInfo};

/// Longest wait for one answer.
const WAIT: Duration = Duration::from_secs(5);

/// Hears of the admin client's connections.
struct Listener(Arc<Health>);

impl ClientContext for Listener {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if level as i32 <= RDKafkaLogLevel::Warning as i32 && facility != "FAIL" && facility != "CONFWARN" {
            tracing::warn!(target: "librdkafka", "{facility}: {message}");
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.trouble(error.rdkafka_error_code() == Some(Code::AllBrokersDown), reason);
    }
}

/// The cluster.
pub struct Admin {
    settings: Arc<Settings>,
    client: AdminClient<Listener>,
    /// `max.message.bytes` of the topics that were asked for.
    limits: Mutex<HashMap<Topic, usize>>,
    /// Asks for offsets of the configured group, from the first time on that these are wanted.
    offsets: Mutex<Option<raw::Consumer>>,
}

impl Admin {
    pub fn new(settings: &Arc<Settings>) -> anyhow::Result<Self> {
        let mut config = ClientConfig::new();
        for (name, value) in settings.admin() {
            config.set(name, value);
        }
        config.set_log_level(RDKafkaLogLevel::Warning);
        let client = AdminClient::from_config_and_context(&config, Listener(settings.health.clone()))?;
        Ok(Self { settings: settings.clone(), client, limits: Mutex::default(), offsets: Mutex::default() })
    }

    fn waits(&self, error: &KafkaError) -> BusError {
        match error.rdkafka_error_code() {
            Some(Code::BrokerTransportFailure | Code::OperationTimedOut | Code::AllBrokersDown | Code::Resolve) => {
                BusError::Unavailable(self.settings.health.waits())
            }
            _ => BusError::Unavailable(anyhow!("Kafka at {}: {error}", self.settings.options.brokers)),
        }
    }

    /// Whether the cluster answers, which is clear once no address of it takes a connection.
    pub fn connect(&self, wait: Duration) -> Result<(), BusError> {
        // The admin client does not tell why
        let Settings { health, .. } = &*self.settings;
        let client = raw::Producer::new(&self.settings.producer(None, usize::MAX), health);
        let client = client.map_err(|reason| BusError::Fatal(anyhow!(reason)))?;
        let deadline = Instant::now() + wait;
        health.settle();
        while !client.client().answers(Duration::from_millis(200)) {
            client.deliveries(Duration::ZERO, |_| ());
            if health.in_doubt() || Instant::now() >= deadline {
                return Err(BusError::Unavailable(health.waits()));
            }
        }
        health.check(|| true);
        Ok(())
    }

    /// Partitions of each topic, by name.
    pub fn partitions(&self) -> Result<BTreeMap<String, usize>, BusError> {
        let metadata = self.client.inner().fetch_metadata(None, WAIT).map_err(|error| self.waits(&error))?;
        let topics = metadata.topics().iter().filter(|topic| topic.error().is_none());
        Ok(topics.map(|topic| (topic.name().to_owned(), topic.partitions().len())).collect())
    }

    /// Where each partition of the topic ends, committed or not.
    pub fn ends(&self, topic: &Topic, partitions: usize) -> Result<Vec<i64>, BusError> {
        let end = |partition| self.client.inner().fetch_watermarks(topic.as_str(), partition, WAIT).map(|(_, end)| end);
        (0..partitions as i32).map(|partition| end(partition).map_err(|error| self.waits(&error))).collect()
    }

    /// Creates the topics that are missing.
    pub fn create_topics(&self, topics: &[Topic], error_topic: &Topic, kept: Option<&Topic>) -> Result<(), BusError> {
        let existing = self.partitions()?;
        let options = &self.settings.options;
        // librdkafka gives a null where the broker answers once for a topic that was named twice, rdkafka reads it
        let topics: Vec<_> = topics.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect();
        let missing = topics.iter().filter(|topic| !existing.contains_key(topic.as_str()));
        let missing: Vec<_> =
            missing.map(|topic| (topic, self.settings.topic_properties(topic, error_topic, kept))).collect();
        let missing = missing.iter().map(|(topic, properties)| {
            let new = NewTopic::new(topic.as_str(), options.partitions, TopicReplication::Fixed(options.replication));
            properties.iter().fold(new, |new, (name, value)| new.set(name, value))
        });
        let missing: Vec<_> = missing.collect();
        if !missing.is_empty() {
            let admin = AdminOptions::new().request_timeout(Some(WAIT)).operation_timeout(Some(WAIT));
            let results = wait_for(self.client.create_topics(&missing, &admin)).map_err(|error| self.waits(&error))?;
            for result in results {
                match result {
                    Ok(topic) => tracing::info!("created topic {topic} with {} partitions", options.partitions),
                    Err((_, Code::TopicAlreadyExists)) => {}
                    Err((topic, code @ (Code::RequestTimedOut | Code::OperationTimedOut | Code::NotController))) => {
                        return Err(BusError::Unavailable(anyhow!("create topic {topic}: {code}")));
                    }
                    Err((topic, code)) => return Err(BusError::Fatal(anyhow!("create topic {topic}: {code}"))),
                }
            }
        }
        self.limits(&topics).map(drop)
    }

    /// The most bytes that each of the topics takes at once; no limit where the cluster does not let it be known.
    pub fn limits(&self, topics: &[Topic]) -> Result<Vec<usize>, BusError> {
        let mut known = self.limits.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Kafka answers once where a topic is asked for twice
        let unknown: BTreeSet<_> = topics.iter().filter(|topic| !known.contains_key(topic)).collect();
        if !unknown.is_empty() {
            let resources: Vec<_> = unknown.iter().map(|topic| ResourceSpecifier::Topic(topic.as_str())).collect();
            let admin = AdminOptions::new().request_timeout(Some(WAIT));
            let answers = wait_for(self.client.describe_configs(&resources, &admin));
            let answers = answers.map_err(|error| self.waits(&error))?;
            for (topic, answer) in unknown.into_iter().zip(answers) {
                let limit = match answer {
                    Ok(config) => config.get("max.message.bytes").and_then(|entry| entry.value.as_ref()?.parse().ok()),
                    Err(code) => {
                        tracing::debug!("max.message.bytes of {topic} is not to be known: {code}");
                        None
                    }
                };
                known.insert(topic.clone(), limit.unwrap_or(usize::MAX));
            }
            self.limits.lock().unwrap_or_else(PoisonError::into_inner).extend(known.clone());
        }
        Ok(topics.iter().map(|topic| known.get(topic).copied().unwrap_or(usize::MAX)).collect())
    }

    /// The smallest limit of all topics that were asked for.
    pub fn smallest_limit(&self) -> usize {
        let limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        limits.values().copied().min().unwrap_or(usize::MAX)
    }

    /// Asks anew at the next occasion.
    pub fn forget_limits(&self) {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Whether it is settled in the group that `member` reads these partitions of `topic` and no others. True where the
    /// cluster does not let that be known.
    pub fn is_settled(&self, member: &str, topic: &Topic, partitions: &[i32]) -> bool {
        let list = match self.client.inner().fetch_group_list(Some(&self.settings.options.group), WAIT) {
            Ok(list) => list,
            Err(error) => return error.rdkafka_error_code() == Some(Code::GroupAuthorizationFailed),
        };
        let Some(group) = list.groups().first() else { return true };
        let Some(member) = group.members().iter().find(|candidate| candidate.id() == member) else { return false };
        let assigned = member.assignment().and_then(|bytes| assigned_partitions(bytes, topic.as_str()));
        group.state() == "Stable" && assigned.is_some_and(|assigned| assigned == partitions)
    }

    /// Every topic with its records and groups, by name. Kafka's own (`__consumer_offsets`, …) are left out.
    pub fn topics(&self) -> Result<Vec<TopicInfo>, BusError> {
        let mut topics = self.partitions()?;
        topics.retain(|name, _| !name.starts_with("__"));
        let partitions: Vec<(&str, i32)> = topics
            .iter()
            .flat_map(|(name, &count)| (0..count as i32).map(move |partition| (name.as_str(), partition)))
            .collect();
        let waits = |error: raw::Error| BusError::Unavailable(anyhow!("read offsets: {error}"));
        let wrong = |reason: String| BusError::Fatal(anyhow!(reason));
        let client = self.member(&self.settings.options.group).map_err(wrong)?;
        let starts = client.client().edges(&partitions, raw::Edge::Start, WAIT).map_err(waits)?;
        let ends = client.client().edges(&partitions, raw::Edge::End, WAIT).map_err(waits)?;
        let mut infos: BTreeMap<&str, TopicInfo> = BTreeMap::new();
        for (&(name, _), (start, end)) in partitions.iter().zip(starts.iter().zip(&ends)) {
            let empty = || TopicInfo { name: name.to_owned(), partitions: 0, records: 0, groups: Vec::new() };
            let info = infos.entry(name).or_insert_with(empty);
            info.partitions += 1;
            info.records += unread(None, *start, *end);
        }
        let groups = self.client.inner().fetch_group_list(None, WAIT).map_err(|error| self.waits(&error))?;
        let mut groups: Vec<_> = groups.groups().iter().map(|group| group.name()).collect();
        groups.sort_unstable();
        for group in groups {
            let member = self.member(group).map_err(wrong)?;
            let committed = match member.client().committed(&partitions, WAIT) {
                Ok(committed) => committed,
                // Another's group may be none of ours to see
                Err(error) if error.code == Code::GroupAuthorizationFailed => continue,
                Err(error) => return Err(waits(error)),
            };
            let reads: BTreeSet<&str> =
                partitions.iter().zip(&committed).filter_map(|(&(name, _), offset)| offset.map(|_| name)).collect();
            for name in reads {
                let left = partitions.iter().zip(&committed).zip(starts.iter().zip(&ends));
                let left = left.filter(|((partition, _), _)| partition.0 == name);
                let lag = left.map(|((_, offset), (&start, &end))| unread(*offset, start, end)).sum();
                let info = infos.get_mut(name);
                info.into_iter().for_each(|info| info.groups.push(GroupInfo { name: group.to_owned(), lag }));
            }
        }
        Ok(infos.into_values().collect())
    }

    /// Those of `topics` that there are, with what the configured group has not read of them.
    pub fn backlogs(&self, topics: &[Topic]) -> Result<Vec<Backlog>, BusError> {
        let existing = self.partitions()?;
        let counts = topics.iter().filter_map(|topic| Some((topic.as_str(), *existing.get(topic.as_str())?)));
        let counts: BTreeMap<_, _> = counts.collect();
        let of_topic = |(&name, &count): (&_, &usize)| (0..count as i32).map(move |partition| (name, partition));
        let partitions: Vec<(&str, i32)> = counts.iter().flat_map(of_topic).collect();
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let mut offsets = self.offsets.lock().unwrap_or_else(PoisonError::into_inner);
        let member = match offsets.take() {
            Some(member) => member,
            None => self.member(&self.settings.options.group).map_err(|reason| BusError::Fatal(anyhow!(reason)))?,
        };
        let client = offsets.insert(member).client();
        let waits = |error: raw::Error| BusError::Unavailable(anyhow!("read offsets: {error}"));
        let starts = client.edges(&partitions, raw::Edge::Start, WAIT).map_err(waits)?;
        let ends = client.edges(&partitions, raw::Edge::End, WAIT).map_err(waits)?;
        let committed = match client.committed(&partitions, WAIT) {
            Ok(committed) => committed,
            Err(error) if error.code == Code::GroupAuthorizationFailed => vec![None; partitions.len()],
            Err(error) => return Err(waits(error)),
        };
        let reads: BTreeSet<&str> =
            partitions.iter().zip(&committed).filter_map(|(&(name, _), offset)| offset.map(|_| name)).collect();
        let mut backlogs: BTreeMap<&str, Backlog> = BTreeMap::new();
        for ((&(name, _), offset), (&start, &end)) in partitions.iter().zip(committed).zip(starts.iter().zip(&ends)) {
            let waiting = reads.contains(name).then_some(0);
            let empty = || Backlog { topic: name.to_owned(), records: 0, waiting };
            let backlog = backlogs.entry(name).or_insert_with(empty);
            backlog.records += unread(None, start, end);
            backlog.waiting.iter_mut().for_each(|waiting| *waiting += unread(offset, start, end));
        }
        Ok(backlogs.into_values().collect())
    }

    /// A client that asks for the offsets of `group`, and joins nothing.
    fn member(&self, group: &str) -> Result<raw::Consumer, String> {
        raw::Consumer::new("", &self.settings.reader(group), &self.settings.health)
    }
}

/// Records of a partition from `start` to `end` that a group has not read, which has committed `offset`; without one it begins
/// at the start.
fn unread(offset: Option<i64>, start: i64, end: i64) -> u64 {
    // They were asked for one after the other, so retention may have been between
    end.saturating_sub(offset.unwrap_or(start).max(start)).max(0) as u64
}

/// Reads a member's assignment as assignors write it (ConsumerProtocolAssignment: version, then topics with partitions).
pub(super) fn assigned_partitions(mut bytes: &[u8], topic: &str) -> Option<Vec<i32>> {
    fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
        let (head, tail) = bytes.split_first_chunk::<N>()?;
        *bytes = tail;
        Some(*head)
    }
    let _version: [u8; 2] = take(&mut bytes)?;
    let mut found = Vec::new();
    for _ in 0..i32::from_be_bytes(take(&mut bytes)?) {
        let length = i16::from_be_bytes(take(&mut bytes)?);
        let (name, rest) = bytes.split_at_checked(length.try_into().ok()?)?;
        bytes = rest;
        for _ in 0..i32::from_be_bytes(take(&mut bytes)?) {
            let partition = i32::from_be_bytes(take(&mut bytes)?);
            if name == topic.as_bytes() {
                found.push(partition);
            }
        }
    }
    found.sort_unstable();
    Some(found)
}

/// Waits for one of the admin client's futures, which another thread completes.
pub(super) fn wait_for<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}
