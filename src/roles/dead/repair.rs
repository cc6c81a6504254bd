//! `dead replay` and `dead discard`: dead letters are dealt with, each once.
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
use clap::{ArgGroup, Args, Command, FromArgMatches};
use indicatif::ProgressBar;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Desk, Which, object};
use crate::{
    backoff::persist,
    bus::{Batch, Fenced, FencedPublisher, Outbox, Record, Topic},
    dead_letter::{
        Filter, Letter,
        assignment::Assignment,
        marks::{Done, Mark},
        now_ms,
        replay::{Replay, Way},
    },
    journal::{Level, Outcome, Repair, Repairs},
    progress,
    roles::{Context, print},
    rules::Rules,
    slip::Stops,
    terminal::plain,
};

/// The name of the one publisher of all runs.
const PUBLISHER: &str = "repair";

/// Letters that are dealt with in one act, at most, and their bytes.
const LETTERS: usize = 500;
const BYTES: usize = 4 << 20;

/// Letters that stay are told one by one up to that many.
const TOLD: u64 = 10;

#[derive(Debug, Args)]
pub struct ReplayArguments {
    #[command(flatten)]
    chosen: Chosen,
    /// Go on from this stop of its route instead of the one that rejected it
    #[arg(long, value_name = "STOP", conflicts_with = "replan")]
    from_stop: Option<String>,
    /// Go on from the first stop of the route that the busdriver's rules give it now
    #[arg(long)]
    replan: bool,
    /// Set a field of the payload before, as in payload.amount=5 or payload.a.b='5': JSON, else text; may be repeated
    #[arg(long, value_name = "FIELD=VALUE", value_parser = Assignment::parse)]
    set: Vec<Assignment>,
    /// At most that many messages a second; 0 is as fast as possible
    #[arg(long, value_name = "N", default_value_t = 0.0, value_parser = rate, allow_negative_numbers = true)]
    rate: f64,
}

#[derive(Debug, Args)]
pub struct DiscardArguments {
    #[command(flatten)]
    chosen: Chosen,
}

/// Which letters are dealt with, and how that is told.
#[derive(Debug, Args)]
struct Chosen {
    /// Dead letters by the id of their message, by the record that they were (TOPIC/PARTITION/OFFSET) or by their place
    /// among the dead letters (PARTITION/OFFSET)
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    #[command(flatten)]
    which: Which,
    /// All that are still to be dealt with
    #[arg(long, conflicts_with_all = ["ids", "reason", "stop", "rule", "id", "since", "until"])]
    all: bool,
    /// Tell what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Print an object a line: each letter as `dead ls --json` does with what became of it, then the counts
    #[arg(long)]
    json: bool,
}

/// Letters per second.
fn rate(text: &str) -> Result<f64, &'static str> {
    let rate = text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate >= 0.0);
    rate.ok_or("a number from 0 is expected")
}

/// One of the ways to choose is required: nobody deals with all of them by accident.
fn choosing(command: Command) -> Command {
    let ways = ["ids", "reason", "stop", "rule", "id", "since", "until", "all"];
    command.group(ArgGroup::new("letters").args(ways).required(true).multiple(true))
}

pub fn replay_command(command: Command) -> Command {
    choosing(ReplayArguments::augment_args(command))
}

pub fn discard_command(command: Command) -> Command {
    choosing(DiscardArguments::augment_args(command))
}

pub fn replay(matches: &clap::ArgMatches, context: &Context) -> Result<()> {
    let arguments = ReplayArguments::from_arg_matches(matches)?;
    let config = &context.config;
    let way = match &arguments.from_stop {
        Some(name) => Way::From(stop(name, context)?),
        None if arguments.replan => Way::Replan(Box::new(Rules::new(config)?)),
        None => Way::Rest,
    };
    let stops = Stops::new(config.stop_topics());
    let replay = Replay { limits: config.limits, stops, source: source(context)?, way, set: arguments.set };
    run(arguments.chosen, &Act::Replay(replay), arguments.rate, context)
}

pub fn discard(matches: &clap::ArgMatches, context: &Context) -> Result<()> {
    let arguments = DiscardArguments::from_arg_matches(matches)?;
    run(arguments.chosen, &Act::Discard { source: source(context)? }, 0.0, context)
}

/// What the busdriver reads.
fn source(context: &Context) -> Result<Topic> {
    #[derive(Deserialize)]
    struct Busdriver {
        topic: Topic,
    }
    Ok(context.config.section::<Busdriver>("busdriver")?.topic)
}

/// The topic of the stop that is called `name`, or that reads it.
fn stop(name: &str, context: &Context) -> Result<Topic> {
    let topics = context.config.stop_topics();
    let section = context.config.stop_sections().into_iter().find(|(section, _)| *section == name);
    let name = section.map_or(name, |(_, topic)| topic);
    match topics.iter().find(|topic| topic.as_str() == name) {
        Some(topic) => Ok(topic.clone()),
        None => {
            let topics = topics.iter().map(Topic::as_str).collect::<Vec<_>>().join(", ");
            bail!("--from-stop: no stop here reads {name:?}; add it to `stops`, or name one of {topics}")
        }
    }
}

/// What is done with each letter.
enum Act {
    Replay(Replay),
    Discard { source: Topic },
}

impl Act {
    fn done(&self) -> Done {
        match self {
            Self::Replay(_) => Done::Replayed,
            Self::Discard { .. } => Done::Discarded,
        }
    }
}

/// Which letters are meant.
struct Selection {
    ids: Vec<String>,
    filter: Filter,
}

impl Selection {
    fn has(&self, letter: &Letter) -> bool {
        (self.ids.is_empty() || self.ids.iter().any(|id| letter.is_called(id))) && self.filter.matches(letter)
    }
}

fn run(chosen: Chosen, act: &Act, rate: f64, context: &Context) -> Result<()> {
    let Chosen { ids, which, dry_run, json, .. } = chosen;
    let mut desk = Desk::open(context)?;
    let selection = Selection { ids, filter: which.filter() };
    all_known(&selection.ids, &desk)?;
    let publisher = match dry_run {
        true => None,
        false => Some(open(&mut desk)?),
    };
    let publisher = match publisher {
        // The end of the process was asked for
        Some(None) => return Ok(()),
        publisher => publisher.flatten(),
    };
    let marks = desk.marks()?;
    let mut run = Run::new(act, publisher, rate, json, context);
    let bar = match dry_run || json {
        true => ProgressBar::hidden(),
        false => progress::of_topic(&*desk.bus, &context.config.error_topic, u64::MAX),
    };
    let read = desk.each_letter(|record, letter| {
        bar.inc(1);
        if !selection.has(&letter) {
            return Ok(ControlFlow::Continue(()));
        }
        match marks.of(&letter) {
            Some(mark) => run.counts.before(&letter, mark),
            None => run.take(record, letter)?,
        }
        let ended = context.shutdown.requested();
        Ok(if ended { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    });
    bar.finish_and_clear();
    let done = read.and_then(|()| if context.shutdown.requested() { Ok(()) } else { run.publish() });
    run.tell(&selection)?;
    match done {
        Err(error) if error.is::<Fenced>() => {
            bail!("another replay or discard took over; what this one has done stays done, run it again for the rest")
        }
        Err(error) => Err(error.context("what is done stays done, run it again for the rest")),
        Ok(()) if run.counts.left > 0 => {
            let (left, all) = (run.counts.left, run.counts.left + run.counts.total());
            bail!("{left} of {all} dead letters stay where they are")
        }
        Ok(()) => Ok(()),
    }
}

/// Fails where one of `ids` is none of a letter, before anything is done.
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
        Some(id) if !desk.context.shutdown.requested() => {
            bail!("there is no dead letter {id:?} on topic {}; nothing was done", desk.context.config.error_topic)
        }
        _ => Ok(()),
    }
}

/// The publisher, once all is there that it may send to; what is sent to one topic only must be let in there as well as
/// what is sent to another. `None` where the end of the process was asked for.
fn open(desk: &mut Desk<'_>) -> Result<Option<Box<dyn FencedPublisher>>> {
    let Desk { bus, context, .. } = desk;
    let config = &context.config;
    let journal = (config.journal.level != Level::Off).then(|| config.journal.topic.clone());
    let own = [config.error_topic.clone(), config.repair_topic.clone()];
    let topics: Vec<_> = config.stop_topics().into_iter().chain(own).chain(journal).collect();
    let publisher = persist("the bus", context.connect_timeout, &context.shutdown, || {
        bus.create_topics(&topics)?;
        bus.fenced_publisher(PUBLISHER)
    })?;
    desk.topics.extend(topics.iter().map(Topic::to_string));
    Ok(publisher)
}

/// Letters on their way, and what became of those before.
struct Run<'a> {
    act: &'a Act,
    /// `None` where nothing is to be done.
    publisher: Option<Box<dyn FencedPublisher>>,
    context: &'a Context,
    rate: f64,
    json: bool,
    start: Instant,
    batch: Batch,
    letters: Vec<Letter>,
    counts: Counts,
}

/// What became of the letters that were meant.
#[derive(Default)]
struct Counts {
    /// By the topic that they were sent to, or where they had come from.
    done: BTreeMap<String, u64>,
    left: u64,
    /// Dealt with before, and one of them.
    before: u64,
    one_before: Option<(String, Mark)>,
}

impl Counts {
    fn before(&mut self, letter: &Letter, mark: &Mark) {
        self.before += 1;
        self.one_before.get_or_insert_with(|| (letter.name(), mark.clone()));
    }

    fn total(&self) -> u64 {
        self.done.values().sum()
    }

    /// The largest first.
    fn sorted(&self) -> Vec<(&str, u64)> {
        let mut sorted: Vec<_> = self.done.iter().map(|(topic, count)| (topic.as_str(), *count)).collect();
        sorted.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        sorted
    }
}

/// What becomes of one letter.
enum Fate {
    /// It is sent there, or given up where it had come from.
    Done { topic: String, mark: Mark, rule: Option<String> },
    /// It stays where it is, for this reason.
    Left(String),
}

impl<'a> Run<'a> {
    fn new(
        act: &'a Act,
        publisher: Option<Box<dyn FencedPublisher>>,
        rate: f64,
        json: bool,
        context: &'a Context,
    ) -> Self {
        let (batch, letters, counts) = Default::default();
        Self { act, publisher, context, rate, json, start: Instant::now(), batch, letters, counts }
    }

    /// Takes a letter, and deals with those that have gathered where they are many.
    fn take(&mut self, record: &Record<'_>, letter: Letter) -> Result<()> {
        self.batch.push(*record);
        self.letters.push(letter);
        let most = match self.rate > 0.0 {
            // Some times a second
            true => ((self.rate / 5.0) as usize).clamp(1, LETTERS),
            false => LETTERS,
        };
        if self.letters.len() < most && self.batch.bytes() < BYTES { Ok(()) } else { self.publish() }
    }

    /// Deals with the letters that have gathered, as one act.
    fn publish(&mut self) -> Result<()> {
        if self.letters.is_empty() {
            return Ok(());
        }
        // By index, why the bus does not take it
        let mut refused: BTreeMap<usize, String> = BTreeMap::new();
        let fates = loop {
            let mut outbox = Outbox::default();
            let (fates, owners) = self.fates(&mut outbox, &refused);
            let Some(publisher) = self.publisher.as_mut().filter(|_| !outbox.is_empty()) else { break fates };
            let publish = || publisher.publish(&outbox);
            match persist("the bus", None, &self.context.shutdown, publish)? {
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
        if self.rate > 0.0 && self.publisher.is_some() {
            let due = Duration::try_from_secs_f64(self.counts.total() as f64 / self.rate).unwrap_or(Duration::MAX);
            self.context.shutdown.pause(due.saturating_sub(self.start.elapsed()));
        }
        Ok(())
    }

    /// What becomes of each letter, all of which is added to `outbox`; and to which letter its first outputs belong.
    fn fates(&self, outbox: &mut Outbox, refused: &BTreeMap<usize, String>) -> (Vec<Fate>, Vec<usize>) {
        let config = &self.context.config;
        let mut notes = Repairs::new(&config.journal, &config.error_topic);
        let (mut fates, mut owners, now) = (Vec::with_capacity(self.letters.len()), Vec::new(), now_ms());
        for (index, letter) in self.letters.iter().enumerate() {
            let record = self.batch.get(index);
            if let Some(reason) = refused.get(&index) {
                fates.push(Fate::Left(reason.clone()));
                continue;
            }
            let at = letter.origin.as_ref().map(|(topic, ..)| topic.as_str());
            let fate = match self.act {
                Act::Replay(replay) => match replay.plan(&record, letter) {
                    Err(reason) => Fate::Left(reason),
                    Ok(sent) => {
                        sent.write(&record, outbox);
                        let (next, id, rule) = (Some(sent.to.as_str()), sent.id.as_deref(), sent.rule.as_deref());
                        let (outcome, replays) = (Outcome::Replayed, sent.replays);
                        notes.note(letter, &record, &Repair { outcome, id, next, rule, replays });
                        let mark = Mark::replayed(letter, now, &sent.to, replays);
                        Fate::Done { topic: sent.to.to_string(), mark, rule: sent.rule }
                    }
                },
                Act::Discard { source } => {
                    let id = letter.id.as_deref().filter(|_| at != Some(source.as_str()));
                    let repair = Repair { outcome: Outcome::Discarded, id, next: None, rule: None, replays: 1 };
                    notes.note(letter, &record, &repair);
                    let topic = at.unwrap_or("another program").to_owned();
                    Fate::Done { topic, mark: Mark::discarded(letter, now), rule: None }
                }
            };
            if let Fate::Done { mark, .. } = &fate {
                mark.write(outbox, &config.repair_topic);
            }
            owners.resize(outbox.len(), index);
            fates.push(fate);
        }
        notes.publish(outbox);
        (fates, owners)
    }

    fn count(&mut self, fates: &[Fate]) -> Result<()> {
        let mut lines = String::new();
        for (letter, fate) in self.letters.iter().zip(fates) {
            match fate {
                Fate::Done { topic, .. } => *self.counts.done.entry(topic.clone()).or_default() += 1,
                Fate::Left(reason) => {
                    self.counts.left += 1;
                    if self.counts.left <= TOLD && !self.json {
                        eprintln!("stays: {} {}: {}", letter.place(), plain(&letter.name()), plain(reason));
                    }
                }
            }
            if self.json {
                lines += &format!("{}\n", told(letter, fate));
            } else if let (Fate::Done { topic, rule, .. }, None) = (fate, &self.publisher) {
                let rule = rule.as_ref().map(|rule| format!(" (rule {rule})")).unwrap_or_default();
                let to = match self.act {
                    Act::Replay(_) => format!("to {topic}{rule}"),
                    Act::Discard { .. } => format!("of {}", plain(topic)),
                };
                lines += &format!("{} {} {to}\n", letter.place(), plain(&letter.name()));
            }
        }
        print(lines.as_bytes())
    }

    /// Tells what was done in all.
    fn tell(&self, selection: &Selection) -> Result<()> {
        let Counts { left, before, .. } = self.counts;
        let (total, done, dry) = (self.counts.total(), self.act.done().name(), self.publisher.is_none());
        if self.json {
            let by_topic: BTreeMap<_, _> = self.counts.sorted().into_iter().collect();
            let summary = json!({done: total, "topics": by_topic, "left": left, "before": before, "dry_run": dry});
            return print(format!("{summary}\n").as_bytes());
        }
        if left > TOLD {
            eprintln!("and {} more", left - TOLD);
        }
        if total > 0 {
            let topics = self.counts.sorted().into_iter().map(|(topic, count)| format!("{} {count}", plain(topic)));
            let would = match (dry, self.act) {
                (false, _) => done,
                (true, Act::Replay(_)) => "would replay",
                (true, Act::Discard { .. }) => "would discard",
            };
            return print(format!("{would} {total}: {}\n", topics.collect::<Vec<_>>().join(", ")).as_bytes());
        }
        let nothing = match &self.counts.one_before {
            _ if left > 0 => return Ok(()),
            None => "no dead letter matches".to_owned(),
            Some((name, mark)) if before == 1 && !selection.ids.is_empty() => {
                format!("{} was dealt with before: {}", plain(name), super::done(mark))
            }
            Some(_) if before == 1 => {
                "nothing is left to do: the dead letter that matches was dealt with before".to_owned()
            }
            Some(_) => format!("nothing is left to do: the {before} dead letters that match were dealt with before"),
        };
        print(format!("{nothing}\n").as_bytes())
    }
}

/// A letter and what became of it, as an object.
fn told(letter: &Letter, fate: &Fate) -> Value {
    let (mark, left, rule) = match fate {
        Fate::Done { mark, rule, .. } => (Some(mark), None, rule.as_ref()),
        Fate::Left(reason) => (None, Some(reason), None),
    };
    let mut told = object(letter, mark);
    told["left"] = json!(left);
    if let Some(rule) = rule {
        told["done"]["rule"] = json!(rule);
    }
    told
}
