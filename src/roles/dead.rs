//! `metrobus dead`: what was rejected, and why.

use std::{ops::ControlFlow, time::Duration};

use anyhow::{Result, bail};
use clap::{ArgMatches, Args, Command, FromArgMatches};
use comfy_table::{Table, presets::NOTHING};
use serde_json::{Value, json};

use super::{Context, Kind, Role, tail};
use crate::{
    backoff::persist,
    bus::Record,
    cli::{count, time},
    dead_letter::{
        Filter, Letter,
        history::{History, Trouble},
        now_ms,
    },
    terminal::{drawn, moment, plain},
};

pub const ROLE: Role = Role {
    name: "dead",
    about: "Dead letters: `dead ls` lists them, `dead show` shows one",
    kind: Kind::Command { arguments, run },
};

#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    which: Which,
    /// The last N of them
    #[arg(short = 'n', value_name = "N", default_value_t = 20, value_parser = count, allow_negative_numbers = true)]
    last: u64,
    /// Print an object a line: place, id, time in ms, stop, rule, reason, attempts, record
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Show {
    /// A dead letter by the id of its message, by the record that it was (TOPIC/PARTITION/OFFSET) or by its place among
    /// the dead letters (PARTITION/OFFSET)
    #[arg(value_name = "ID")]
    id: String,
    /// Print an object a line: what `dead ls --json` prints, with key, headers, value and history
    #[arg(long)]
    json: bool,
}

/// Which letters are meant.
#[derive(Debug, Args)]
struct Which {
    /// Only with a reason that contains this, in upper or lower case
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Only those that this stop rejected
    #[arg(long, value_name = "STOP")]
    stop: Option<String>,
    /// Only those whose route this rule gave
    #[arg(long, value_name = "RULE")]
    rule: Option<String>,
    /// Only those of this message
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Only those rejected within this time, as in 90s, 1h or 7d
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Duration>,
}

impl Which {
    fn filter(self) -> Filter {
        let Self { reason, stop, rule, id, since } = self;
        let since = since.map(|since| now_ms().saturating_sub(i64::try_from(since.as_millis()).unwrap_or(i64::MAX)));
        Filter { reason, stop, rule, id, since, until: None }
    }
}

/// Records in one go.
const BATCH: usize = 1000;

const POLL: Duration = Duration::from_millis(100);

fn arguments(command: Command) -> Command {
    let ls = List::augment_args(Command::new("ls")).about("List dead letters, the last ones last");
    let show = Show::augment_args(Command::new("show")).about("Show the dead letters of a message: why, where, what");
    command.subcommand_required(true).arg_required_else_help(true).subcommands([ls, show])
}

fn run(matches: &ArgMatches, context: &Context) -> Result<()> {
    match matches.subcommand() {
        Some(("ls", matches)) => list(List::from_arg_matches(matches)?, context),
        Some(("show", matches)) => show(&Show::from_arg_matches(matches)?, context),
        _ => Ok(()),
    }
}

/// Calls `each` with every dead letter that there is, in the order of each partition, until it breaks off.
fn read(context: &Context, mut each: impl FnMut(&Record<'_>, Letter) -> Result<ControlFlow<()>>) -> Result<()> {
    let bus = context.bus()?;
    let topic = &context.config.error_topic;
    let reader = persist("the bus", context.connect_timeout, &context.shutdown, || {
        bus.connect()?;
        // A bus that no stop has run on yet has no dead letters
        let exists = bus.topics()?.iter().any(|info| info.name == topic.as_str());
        exists.then(|| bus.reader_from(topic, &[])).transpose()
    })?;
    let Some(Some(mut reader)) = reader else { return Ok(()) };
    while !context.shutdown.requested() && !reader.at_end() {
        let Some(batch) = persist("the bus", None, &context.shutdown, || reader.poll(BATCH, POLL))? else { break };
        for record in batch.iter() {
            if each(&record, Letter::read(&record))?.is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn list(arguments: List, context: &Context) -> Result<()> {
    let last = usize::try_from(arguments.last).unwrap_or(usize::MAX);
    let filter = arguments.which.filter();
    let mut found = std::collections::VecDeque::new();
    let mut count = 0_u64;
    read(context, |_, letter| {
        if filter.matches(&letter) {
            count += 1;
            found.push_back(letter);
            if found.len() > last {
                found.pop_front();
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    // Partitions come one after another
    found.make_contiguous().sort_by_key(|letter| letter.time);
    if arguments.json {
        let lines: String = found.iter().map(|letter| object(letter).to_string() + "\n").collect();
        return super::print(lines.as_bytes());
    }
    if count == 0 {
        return super::print(b"no dead letter matches\n");
    }
    let mut text = table(found.iter());
    if count > found.len() as u64 {
        text += &format!("{} of {count}; -n takes how many are shown\n", found.len());
    }
    super::print(text.as_bytes())
}

fn table<'a>(letters: impl Iterator<Item = &'a Letter>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(["REJECTED", "STOP", "RULE", "ATTEMPTS", "MESSAGE", "REASON"]);
    for letter in letters {
        let attempts = letter.attempts.map(|attempts| attempts.to_string());
        table.add_row([
            rejected(letter),
            plain(letter.stop.as_deref().unwrap_or("-")),
            plain(letter.rule.as_deref().unwrap_or("-")),
            attempts.unwrap_or_else(|| "-".to_owned()),
            plain(&letter.name()),
            plain(letter.reason.as_deref().unwrap_or("not a dead letter of metrobus")),
        ]);
    }
    drawn(table, [3])
}

fn rejected(letter: &Letter) -> String {
    letter.time.map_or_else(|| "-".to_owned(), moment)
}

fn object(letter: &Letter) -> Value {
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
    })
}

fn show(arguments: &Show, context: &Context) -> Result<()> {
    let mut shown = Vec::new();
    read(context, |record, letter| {
        if letter.is_called(&arguments.id) {
            shown.push(match arguments.json {
                true => whole(context, record, &letter).to_string() + "\n",
                false => text(record, &letter),
            });
        }
        Ok(ControlFlow::Continue(()))
    })?;
    if shown.is_empty() {
        bail!("there is no dead letter {:?} on topic {}", arguments.id, context.config.error_topic);
    }
    super::print(shown.join(if arguments.json { "" } else { "\n" }).as_bytes())
}

fn whole(context: &Context, record: &Record<'_>, letter: &Letter) -> Value {
    let mut all = object(letter);
    if let Value::Object(all) = &mut all {
        let of_record = tail::fields(&context.config.error_topic, record).into_iter();
        all.extend(of_record.filter(|(name, _)| ["key", "headers", "value"].iter().any(|part| name.starts_with(part))));
        all.insert("history".into(), serde_json::from_str(&History::read(&record.headers).json()).unwrap_or_default());
    }
    all
}

fn text(record: &Record<'_>, letter: &Letter) -> String {
    let bytes = |bytes: Option<&[u8]>| bytes.map_or("-".to_owned(), |bytes| plain(&String::from_utf8_lossy(bytes)));
    let or_none = |text: &Option<String>| text.as_deref().map_or("-".to_owned(), plain);
    let attempts = letter.attempts.map_or(String::new(), |attempts| match attempts {
        1 => ", at the first attempt".to_owned(),
        attempts => format!(", after {attempts} attempts"),
    });
    let origin = letter.origin.as_ref();
    let origin = origin.map_or("-".to_owned(), |(topic, partition, offset)| format!("{topic}/{partition}/{offset}"));
    let lines = [
        ("message", plain(&letter.name())),
        ("reason", or_none(&letter.reason)),
        ("stop", or_none(&letter.stop)),
        ("rule", or_none(&letter.rule)),
        ("rejected", rejected(letter) + &attempts),
        ("record", plain(&origin)),
        ("place", letter.place().to_string()),
        ("key", bytes(record.key)),
        ("value", bytes(record.value)),
    ];
    let lines: String = lines.iter().map(|(name, value)| format!("{name:10}{value}\n")).collect();
    lines + &history(record)
}

/// What went wrong with the message, a line each, where that is more than what the letter itself says.
fn history(record: &Record<'_>) -> String {
    let history = History::read(&record.headers);
    let (first, left_out, last) = history.parts();
    let line = |trouble: &Trouble| {
        let Trouble { time, stop, attempt, reason } = trouble;
        format!("{}  {}, attempt {attempt}: {}", moment(*time), plain(stop), plain(reason))
    };
    let mut lines: Vec<_> = first.map(line).collect();
    if left_out > 0 {
        lines.push(format!("({left_out} left out)"));
    }
    lines.extend(last.map(line));
    if lines.len() < 2 {
        return String::new();
    }
    let name = |index| if index == 0 { "history" } else { "" };
    lines.iter().enumerate().map(|(index, line)| format!("{:10}{line}\n", name(index))).collect()
}
