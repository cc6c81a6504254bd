//! `dead replay` and `dead discard`: which letters are meant, and what is told of them.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow, bail};
use clap::{ArgGroup, Args, Command, FromArgMatches};
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::{Which, open};
use crate::{
    dead_letter::{
        Letter,
        assignment::Assignment,
        desk::object,
        repair::{Act, Counts, Fate, Order, Selection, carry_out, source, stop},
        replay::{Replay, Way},
    },
    progress,
    roles::{Context, print},
    rules::Rules,
    slip::Stops,
    terminal::plain,
};

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
        Some(name) => Way::From(stop(name, config).map_err(|why| anyhow!("--from-stop: {why}"))?),
        None if arguments.replan => Way::Replan(Box::new(Rules::new(config)?)),
        None => Way::Rest,
    };
    let stops = Stops::new(config.stop_topics());
    let replay = Replay { limits: config.limits, stops, source: source(config)?, way, set: arguments.set };
    run(arguments.chosen, Act::Replay(replay), arguments.rate, context)
}

pub fn discard(matches: &clap::ArgMatches, context: &Context) -> Result<()> {
    let arguments = DiscardArguments::from_arg_matches(matches)?;
    run(arguments.chosen, Act::Discard { source: source(&context.config)? }, 0.0, context)
}

fn run(chosen: Chosen, act: Act, rate: f64, context: &Context) -> Result<()> {
    let Chosen { ids, which, dry_run, json, .. } = chosen;
    let bus = context.bus()?;
    let mut desk = open(&*bus, context)?;
    let bar = match dry_run || json {
        true => ProgressBar::hidden(),
        false => progress::of_topic(&*bus, &context.config.error_topic, u64::MAX),
    };
    let order = Order { act, selection: Selection { ids, filter: which.filter() }, rate, dry_run, bar };
    let mut counts = Counts::default();
    let mut telling = Telling { order: &order, json, left: 0 };
    let done = carry_out(&mut desk, &order, &mut counts, &mut |letters, fates| telling.lot(letters, fates));
    let nothing = counts.total() + counts.left + counts.before == 0;
    if nothing && (done.is_err() || context.shutdown.requested()) {
        return done;
    }
    telling.whole(&counts)?;
    done?;
    match counts.left {
        0 => Ok(()),
        left => bail!("{left} of {} dead letters stay where they are", left + counts.total()),
    }
}

/// What is told of a run.
struct Telling<'a> {
    order: &'a Order,
    json: bool,
    /// Letters that stay, of those told so far.
    left: u64,
}

impl Telling<'_> {
    /// What became of some letters.
    fn lot(&mut self, letters: &[Letter], fates: &[Fate]) -> Result<()> {
        let mut lines = String::new();
        for (letter, fate) in letters.iter().zip(fates) {
            if let Fate::Left(reason) = fate {
                self.left += 1;
                if self.left <= TOLD && !self.json {
                    eprintln!("stays: {} {}: {}", letter.place(), plain(&letter.name()), plain(reason));
                }
            }
            if self.json {
                lines += &format!("{}\n", told(letter, fate));
            } else if let (Fate::Done { topic, rule, .. }, true) = (fate, self.order.dry_run) {
                let rule = rule.as_ref().map(|rule| format!(" (rule {rule})")).unwrap_or_default();
                let to = match self.order.act {
                    Act::Replay(_) => format!("to {topic}{rule}"),
                    Act::Discard { .. } => format!("of {}", plain(topic)),
                };
                lines += &format!("{} {} {to}\n", letter.place(), plain(&letter.name()));
            }
        }
        print(lines.as_bytes())
    }

    /// What was done in all.
    fn whole(&self, counts: &Counts) -> Result<()> {
        let Counts { left, before, .. } = *counts;
        let (total, done, dry) = (counts.total(), self.order.act.done().name(), self.order.dry_run);
        if self.json {
            let summary = json!({done: total, "topics": counts.done, "left": left, "before": before, "dry_run": dry});
            return print(format!("{summary}\n").as_bytes());
        }
        if left > TOLD {
            eprintln!("and {} more", left - TOLD);
        }
        if total > 0 {
            let topics = largest_first(&counts.done).into_iter();
            let topics: Vec<_> = topics.map(|(topic, count)| format!("{} {count}", plain(topic))).collect();
            let would = match (dry, &self.order.act) {
                (false, _) => done,
                (true, Act::Replay(_)) => "would replay",
                (true, Act::Discard { .. }) => "would discard",
            };
            return print(format!("{would} {total}: {}\n", topics.join(", ")).as_bytes());
        }
        let nothing = match &counts.one_before {
            _ if left > 0 => return Ok(()),
            None => "no dead letter matches".to_owned(),
            Some((name, mark)) if before == 1 && !self.order.selection.ids.is_empty() => {
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

fn largest_first(counts: &BTreeMap<String, u64>) -> Vec<(&str, u64)> {
    let mut sorted: Vec<_> = counts.iter().map(|(topic, count)| (topic.as_str(), *count)).collect();
    sorted.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    sorted
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
