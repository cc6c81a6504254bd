//! Dead letters are dealt with, each once: sent again, or given up.
//!
//! A run first opens the fenced publisher, which ends every other run, then reads all marks, then the letters. So it knows
//! of all that was done before it, and nobody else does anything meanwhile. Messages, marks and notes for the journal are
//! published some hundred letters at a time, each lot as one act: whatever dies, a letter is either untouched or done,
//! marked and noted.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use indicatif::ProgressBar;
use serde::Deserialize;

use super::{
    Filter, Letter,
    desk::Desk,
    marks::{Done, Mark},
    now_ms,
    replay::Replay,
};
use crate::{
    backoff::persist,
    bus::{Batch, Fenced, FencedPublisher, Outbox, Record, Topic},
    config::Config,
    error::Misconfigured,
    journal::{Level, Outcome, Repair, Repairs},
};

/// The name of the one publisher of all runs.
const PUBLISHER: &str = "repair";

/// Letters that are dealt with in one act, at most, and their bytes.
const LETTERS: usize = 500;
const BYTES: usize = 4 << 20;

/// What is done with each letter.
pub enum Act {
    Replay(Replay),
    Discard {
        /// What the busdriver reads.
        source: Topic,
    },
}

impl Act {
    pub fn done(&self) -> Done {
        match self {
            Self::Replay(_) => Done::Replayed,
            Self::Discard { .. } => Done::Discarded,
        }
    }
}

/// Which letters are meant.
pub struct Selection {
    /// Names, see [`Letter::is_called`]; where there are none, the filter alone chooses.
    pub ids: Vec<String>,
    pub filter: Filter,
}

impl Selection {
    fn has(&self, letter: &Letter) -> bool {
        (self.ids.is_empty() || self.ids.iter().any(|id| letter.is_called(id))) && self.filter.matches(letter)
    }
}

/// What is to be done, and how.
pub struct Order {
    pub act: Act,
    pub selection: Selection,
    /// No more letters a second; 0 is as fast as possible.
    pub rate: f64,
    /// Nothing is done, but what would be is told.
    pub dry_run: bool,
    /// Moves on with each letter that is looked at.
    pub bar: ProgressBar,
}

/// What became of the letters that were meant.
#[derive(Default)]
pub struct Counts {
    /// By the topic that they were sent to, or where they had come from.
    pub done: BTreeMap<String, u64>,
    pub left: u64,
    /// Dealt with before, and one of them.
    pub before: u64,
    pub one_before: Option<(String, Mark)>,
}

impl Counts {
    fn before(&mut self, letter: &Letter, mark: &Mark) {
        self.before += 1;
        self.one_before.get_or_insert_with(|| (letter.name(), mark.clone()));
    }

    /// Those that were done.
    pub fn total(&self) -> u64 {
        self.done.values().sum()
    }
}

/// What becomes of one letter.
pub enum Fate {
    /// It is sent there, or given up where it had come from.
    Done { topic: String, mark: Mark, rule: Option<String> },
    /// It stays where it is, for this reason.
    Left(String),
}

/// Hears of letters and what became of them, lot by lot.
pub type Told<'a> = dyn FnMut(&[Letter], &[Fate]) -> Result<()> + 'a;

/// There is no letter of that name.
#[derive(Debug, thiserror::Error)]
#[error("there is no dead letter {id:?} on topic {topic}; nothing was done")]
pub struct Unknown {
    id: String,
    topic: Topic,
}

/// What the busdriver reads.
pub fn source(config: &Config) -> Result<Topic, Misconfigured> {
    #[derive(Deserialize)]
    struct Busdriver {
        topic: Topic,
    }
    Ok(config.section::<Busdriver>("busdriver")?.topic)
}

/// The topic of the stop that is called `name`, or that reads it; else why there is none.
pub fn stop(name: &str, config: &Config) -> Result<Topic, String> {
    let topics = config.stop_topics();
    let section = config.stop_sections().into_iter().find(|(section, _)| *section == name);
    let name = section.map_or(name, |(_, topic)| topic);
    topics.iter().find(|topic| topic.as_str() == name).cloned().ok_or_else(|| {
        let topics = topics.iter().map(Topic::as_str).collect::<Vec<_>>().join(", ");
        format!("no stop here reads {name:?}; add it to `stops`, or name one of {topics}")
    })
}

/// Does as `order` says; less where the end of the process is asked for meanwhile. What is done is counted in `counts`,
/// where it fails too, and told to `each` lot by lot. Fails with [`Unknown`] before anything is done.
pub fn carry_out(desk: &mut Desk<'_>, order: &Order, counts: &mut Counts, each: &mut Told<'_>) -> Result<()> {
    all_known(&order.selection.ids, desk)?;
    let publisher = match order.dry_run {
        true => None,
        false => match open(desk)? {
            Some(publisher) => Some(publisher),
            // The end of the process was asked for
            None => return Ok(()),
        },
    };
    let desk = &*desk;
    let marks = desk.marks()?;
    let start = Instant::now();
    let mut run =
        Run { order, publisher, desk, start, batch: Batch::default(), letters: Vec::new(), counts, told: each };
    let read = desk.each_letter(|record, letter| {
        order.bar.inc(1);
        if !order.selection.has(&letter) {
            return Ok(ControlFlow::Continue(()));
        }
        match marks.of(&letter) {
            Some(mark) => run.counts.before(&letter, mark),
            None => run.take(record, letter)?,
        }
        let ended = desk.shutdown.requested();
        Ok(if ended { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    });
    order.bar.finish_and_clear();
    match read.and_then(|()| if desk.shutdown.requested() { Ok(()) } else { run.publish() }) {
        Err(error) if error.is::<Fenced>() => {
            bail!("another replay or discard took over; what this one has done stays done, run it again for the rest")
        }
        Err(error) => Err(error.context("what is done stays done, run it again for the rest")),
        Ok(()) => Ok(()),
    }
}

/// Fails where one of `ids` is none of a letter.
fn all_known(ids: &[String], desk: &Desk<'_>) -> Result<()> {
    let mut unknown: BTreeSet<_> = ids.iter().collect();
    if unknown.is_empty() {
        return Ok(());
    }
    desk.each_letter(|_, letter| {
        unknown.retain(|id| !letter.is_called(id));
        Ok(if unknown.is_empty() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    match ids.iter().find(|id| unknown.contains(id)) {
        Some(id) if !desk.shutdown.requested() => {
            Err(Unknown { id: id.clone(), topic: desk.config.error_topic.clone() }.into())
        }
        _ => Ok(()),
    }
}

/// The publisher, once all is there that it may send to; what is sent to one topic only must be let in there as well as
/// what is sent to another. `None` where the end of the process was asked for.
fn open(desk: &mut Desk<'_>) -> Result<Option<Box<dyn FencedPublisher>>> {
    let Desk { bus, config, .. } = desk;
    let journal = (config.journal.level != Level::Off).then(|| config.journal.topic.clone());
    let own = [config.error_topic.clone(), config.repair_topic.clone()];
    let topics: Vec<_> = config.stop_topics().into_iter().chain(own).chain(journal).collect();
    let publisher = persist("the bus", desk.patience.connect, desk.shutdown, || {
        bus.create_topics(&topics)?;
        bus.fenced_publisher(PUBLISHER)
    })?;
    desk.topics.extend(topics.iter().map(Topic::to_string));
    Ok(publisher)
}

/// Letters on their way, and what became of those before.
struct Run<'a, 'b> {
    order: &'a Order,
    /// `None` where nothing is to be done.
    publisher: Option<Box<dyn FencedPublisher>>,
    desk: &'a Desk<'b>,
    start: Instant,
    batch: Batch,
    letters: Vec<Letter>,
    counts: &'a mut Counts,
    told: &'a mut Told<'a>,
}

impl Run<'_, '_> {
    /// Takes a letter, and deals with those that have gathered where they are many.
    fn take(&mut self, record: &Record<'_>, letter: Letter) -> Result<()> {
        self.batch.push(*record);
        self.letters.push(letter);
        let most = match self.order.rate > 0.0 {
            // Some times a second
            true => ((self.order.rate / 5.0) as usize).clamp(1, LETTERS),
            false => LETTERS,
        };
        if self.letters.len() < most && self.batch.bytes() < BYTES { Ok(()) } else { self.publish() }
    }

    /// Deals with the letters that have gathered, as one act.
    fn publish(&mut self) -> Result<()> {
        if self.letters.is_empty() {
            return Ok(());
        }
        let (again, shutdown) = (self.desk.patience.again, self.desk.shutdown);
        // By index, why the bus does not take it
        let mut refused: BTreeMap<usize, String> = BTreeMap::new();
        let fates = loop {
            let mut outbox = Outbox::default();
            let (fates, owners) = self.fates(&mut outbox, &refused);
            let Some(publisher) = self.publisher.as_mut().filter(|_| !outbox.is_empty()) else { break fates };
            match persist("the bus", again, shutdown, || publisher.publish(&outbox))? {
                // The end of the process was asked for while the bus was away
                None => return Ok(()),
                Some(None) => break fates,
                Some(Some(refusal)) => match owners.get(refusal.output) {
                    Some(letter) => _ = refused.insert(*letter, refusal.reason),
                    None => bail!("a note about dead letters is not published: {}", refusal.reason),
                },
            }
        };
        self.count(&fates)?;
        self.batch.clear();
        self.letters.clear();
        if self.order.rate > 0.0 && self.publisher.is_some() {
            let due = Duration::try_from_secs_f64(self.counts.total() as f64 / self.order.rate);
            shutdown.pause(due.unwrap_or(Duration::MAX).saturating_sub(self.start.elapsed()));
        }
        Ok(())
    }

    /// What becomes of each letter, all of which is added to `outbox`; and to which letter its first outputs belong.
    fn fates(&self, outbox: &mut Outbox, refused: &BTreeMap<usize, String>) -> (Vec<Fate>, Vec<usize>) {
        let config = self.desk.config;
        let mut notes = Repairs::new(&config.journal, &config.error_topic);
        let (mut fates, mut owners, now) = (Vec::with_capacity(self.letters.len()), Vec::new(), now_ms());
        for (index, letter) in self.letters.iter().enumerate() {
            let fate = match refused.get(&index) {
                Some(reason) => Fate::Left(reason.clone()),
                None => self.fate(letter, &self.batch.get(index), now, &mut notes, outbox),
            };
            if let Fate::Done { mark, .. } = &fate {
                mark.write(outbox, &config.repair_topic);
                owners.resize(outbox.len(), index);
            }
            fates.push(fate);
        }
        notes.publish(outbox);
        (fates, owners)
    }

    fn fate(
        &self,
        letter: &Letter,
        record: &Record<'_>,
        now: i64,
        notes: &mut Repairs<'_>,
        outbox: &mut Outbox,
    ) -> Fate {
        let at = letter.origin.as_ref().map(|(topic, ..)| topic.as_str());
        match &self.order.act {
            Act::Replay(replay) => {
                let sent = match replay.plan(record, letter) {
                    Ok(sent) => sent,
                    Err(reason) => return Fate::Left(reason),
                };
                sent.write(record, outbox);
                let (next, id, rule) = (Some(sent.to.as_str()), sent.id.as_deref(), sent.rule.as_deref());
                let (outcome, replays) = (Outcome::Replayed, sent.replays);
                notes.note(letter, record, &Repair { outcome, id, next, rule, replays });
                let mark = Mark::replayed(letter, now, &sent.to, replays);
                Fate::Done { topic: sent.to.to_string(), mark, rule: sent.rule }
            }
            Act::Discard { source } => {
                let id = letter.id.as_deref().filter(|_| at != Some(source.as_str()));
                let repair = Repair { outcome: Outcome::Discarded, id, next: None, rule: None, replays: 1 };
                notes.note(letter, record, &repair);
                let topic = at.unwrap_or("another program").to_owned();
                Fate::Done { topic, mark: Mark::discarded(letter, now), rule: None }
            }
        }
    }

    fn count(&mut self, fates: &[Fate]) -> Result<()> {
        for fate in fates {
            match fate {
                Fate::Done { topic, .. } => *self.counts.done.entry(topic.clone()).or_default() += 1,
                Fate::Left(_) => self.counts.left += 1,
            }
        }
        (self.told)(&self.letters, fates)
    }
}
