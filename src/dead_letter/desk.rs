//! Where dead letters are read, and what was done with them.

use std::{
    collections::{BTreeSet, VecDeque},
    ops::ControlFlow,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    Filter, Letter,
    history::History,
    marks::{Mark, Marks},
};
use crate::{
    backoff::persist,
    bus::{Bus, Record, Topic, fields},
    config::Config,
    error::Unreachable,
    shutdown::Shutdown,
};

/// Records in one go.
const BATCH: usize = 1000;

const POLL: Duration = Duration::from_millis(100);

/// How long the bus is waited for; `None` is for ever.
#[derive(Clone, Copy, Debug, Default)]
pub struct Patience {
    /// When it is reached for at first.
    pub connect: Option<Duration>,
    /// When it goes away after that.
    pub again: Option<Duration>,
    /// How long all reading may take.
    pub reading: Option<Duration>,
}

/// Where letters and marks are read.
pub struct Desk<'a> {
    pub(super) bus: &'a dyn Bus,
    pub(super) config: &'a Config,
    pub(super) shutdown: &'a Shutdown,
    pub(super) patience: Patience,
    /// The topics that there are: a bus that no stop has run on yet has no dead letters.
    pub(super) topics: BTreeSet<String>,
    opened: Instant,
}

/// Letters that were looked for, the oldest first, each with what was done with it.
pub struct Listed {
    pub letters: Vec<(Letter, Option<Mark>)>,
    /// How many there are, those left out too.
    pub count: u64,
}

impl<'a> Desk<'a> {
    /// Reaches for the bus. [`Unreachable`] once the patience is at its end.
    pub fn open(bus: &'a dyn Bus, config: &'a Config, shutdown: &'a Shutdown, patience: Patience) -> Result<Self> {
        let opened = Instant::now();
        let topics = persist("the bus", patience.connect, shutdown, || {
            bus.connect()?;
            bus.topics()
        })?;
        let topics = topics.into_iter().flatten().map(|info| info.name).collect();
        Ok(Self { bus, config, shutdown, patience, topics, opened })
    }

    /// Calls `each` with every dead letter that there is, in the order of each partition, until it breaks off.
    pub fn each_letter(&self, mut each: impl FnMut(&Record<'_>, Letter) -> Result<ControlFlow<()>>) -> Result<()> {
        self.read(&self.config.error_topic, |record| each(record, Letter::read(record)))
    }

    /// What became of letters so far.
    pub fn marks(&self) -> Result<Marks> {
        let mut marks = Marks::default();
        self.read(&self.config.repair_topic, |record| {
            marks.take(record);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(marks)
    }

    /// The last letters that `filter` wants, at most `last`; those, too, that were dealt with where `all` are meant.
    pub fn list(&self, filter: &Filter, all: bool, last: usize) -> Result<Listed> {
        let mut found = VecDeque::new();
        let mut count = 0;
        let marks = self.marks()?;
        self.each_letter(|_, letter| {
            let mark = marks.of(&letter);
            if filter.matches(&letter) && (all || mark.is_none()) {
                count += 1;
                found.push_back((letter, mark.cloned()));
                if found.len() > last {
                    found.pop_front();
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        let mut letters = Vec::from(found);
        // Partitions come one after another
        letters.sort_by_key(|(letter, _)| letter.time);
        Ok(Listed { letters, count })
    }

    /// Calls `each` with every record of a topic, until it breaks off.
    fn read(&self, topic: &Topic, mut each: impl FnMut(&Record<'_>) -> Result<ControlFlow<()>>) -> Result<()> {
        if !self.topics.contains(topic.as_str()) {
            return Ok(());
        }
        let Patience { connect, again, reading } = self.patience;
        let open = || self.bus.reader_from(topic, &[]);
        let Some(mut reader) = persist("the bus", connect, self.shutdown, open)? else { return Ok(()) };
        while !self.shutdown.requested() && !reader.at_end() {
            if let Some(limit) = reading.filter(|limit| self.opened.elapsed() > *limit) {
                let limit = humantime::format_duration(limit);
                return Err(Unreachable(format!("the topic {topic} cannot be read within {limit}")).into());
            }
            let Some(batch) = persist("the bus", again, self.shutdown, || reader.poll(BATCH, POLL))? else { break };
            for record in batch.iter() {
                if each(&record)?.is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// A letter, and what was done with it, as an object: place, id, time in ms, stop, rule, reason, attempts, record, replays,
/// done.
pub fn object(letter: &Letter, mark: Option<&Mark>) -> Value {
    let record = letter.origin.as_ref();
    json!({
        "place": letter.place().to_string(),
        "id": letter.id,
        "time": letter.time,
        "stop": letter.stop,
        "rule": letter.rule,
        "reason": letter.reason,
        "attempts": letter.attempts,
        "record": record.map(|(topic, partition, offset)| format!("{topic}/{partition}/{offset}")),
        "replays": letter.replays,
        "done": mark.map(|mark| json!({"what": mark.done, "time": mark.time, "to": mark.to})),
    })
}

/// As [`object`], with key, headers and value of its `record` and the history of its rejections.
pub fn whole(topic: &Topic, record: &Record<'_>, letter: &Letter, mark: Option<&Mark>) -> Value {
    let mut all = object(letter, mark);
    if let Value::Object(all) = &mut all {
        let of_record = fields(topic, record).into_iter();
        all.extend(of_record.filter(|(name, _)| ["key", "headers", "value"].iter().any(|part| name.starts_with(part))));
        all.insert("history".into(), serde_json::from_str(&History::read(&record.headers).json()).unwrap_or_default());
    }
    all
}
