//! `metrobus dead`: what was rejected, and why, and what is to become of it.

mod repair;

use std::{ops::ControlFlow, time::Duration};

use anyhow::{Result, bail};
use clap::{ArgMatches, Args, Command, FromArgMatches};
use comfy_table::{Table, presets::NOTHING};

use super::{Context, Kind, Role};
use crate::{
    bus::{Bus, Record},
    cli::{count, time},
    dead_letter::{
        Filter, Letter,
        desk::{Desk, Listed, Patience, object, whole},
        history::{History, Trouble},
        marks::Mark,
        now_ms,
    },
    terminal::{drawn, moment, plain},
};

pub const ROLE: Role = Role {
    name: "dead",
    about: "Dead letters: list them, show one, send them again, give them up",
    kind: Kind::Command { arguments, run },
};

#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    which: Which,
    /// The last N of them
    #[arg(short = 'n', value_name = "N", default_value_t = 20, value_parser = count, allow_negative_numbers = true)]
    last: u64,
    /// Those, too, that were replayed or discarded
    #[arg(long)]
    all: bool,
    /// Print an object a line: place, id, time in ms, stop, rule, reason, attempts, record, replays, done
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
    /// Only those rejected longer ago than this
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Duration>,
}

impl Which {
    fn filter(self) -> Filter {
        let Self { reason, stop, rule, id, since, until } = self;
        let ago = |time: Duration| now_ms().saturating_sub(i64::try_from(time.as_millis()).unwrap_or(i64::MAX));
        Filter { reason, stop, rule, id, since: since.map(ago), until: until.map(ago) }
    }
}

fn arguments(command: Command) -> Command {
    let ls = List::augment_args(Command::new("ls")).about("List dead letters, the last ones last");
    let show = Show::augment_args(Command::new("show")).about("Show the dead letters of a message: why, where, what");
    let replay = repair::replay_command(Command::new("replay"));
    let replay = replay.about("Send dead letters again, each once: to the stop that rejected them, or elsewhere");
    let discard = repair::discard_command(Command::new("discard")).about("Give dead letters up, with a trace of it");
    let all = [ls, show, replay, discard];
    command.subcommand_required(true).arg_required_else_help(true).subcommands(all)
}

fn run(matches: &ArgMatches, context: &Context) -> Result<()> {
    match matches.subcommand() {
        Some(("ls", matches)) => list(List::from_arg_matches(matches)?, context),
        Some(("show", matches)) => show(&Show::from_arg_matches(matches)?, context),
        Some(("replay", matches)) => repair::replay(matches, context),
        Some(("discard", matches)) => repair::discard(matches, context),
        _ => Ok(()),
    }
}

/// The letters of the configured bus.
fn open<'a>(bus: &'a dyn Bus, context: &'a Context) -> Result<Desk<'a>> {
    let patience = Patience { connect: context.connect_timeout, ..Patience::default() };
    Desk::open(bus, &context.config, &context.shutdown, patience)
}

fn list(arguments: List, context: &Context) -> Result<()> {
    let last = usize::try_from(arguments.last).unwrap_or(usize::MAX);
    let bus = context.bus()?;
    let Listed { letters, count } = open(&*bus, context)?.list(&arguments.which.filter(), arguments.all, last)?;
    if arguments.json {
        let lines = letters.iter().map(|(letter, mark)| object(letter, mark.as_ref()).to_string() + "\n");
        return super::print(lines.collect::<String>().as_bytes());
    }
    if count == 0 {
        return super::print(b"no dead letter matches\n");
    }
    let mut text = table(letters.iter(), arguments.all);
    if count > letters.len() as u64 {
        text += &format!("{} of {count}; -n takes how many are shown\n", letters.len());
    }
    super::print(text.as_bytes())
}

/// With what was done with each letter where `all` are shown.
fn table<'a>(letters: impl Iterator<Item = &'a (Letter, Option<Mark>)>, all: bool) -> String {
    let mut table = Table::new();
    let header = ["REJECTED", "STOP", "RULE", "ATTEMPTS", "MESSAGE", "REASON", "DONE"];
    table.load_style(NOTHING).set_header(&header[..header.len() - usize::from(!all)]);
    for (letter, mark) in letters {
        let attempts = letter.attempts.map(|attempts| attempts.to_string());
        let mut row = vec![
            rejected(letter),
            plain(letter.stop.as_deref().unwrap_or("-")),
            plain(letter.rule.as_deref().unwrap_or("-")),
            attempts.unwrap_or_else(|| "-".to_owned()),
            plain(&letter.name()),
            plain(letter.reason.as_deref().unwrap_or("not a dead letter of metrobus")),
        ];
        if all {
            row.push(mark.as_ref().map_or_else(|| "-".to_owned(), done));
        }
        table.add_row(row);
    }
    drawn(table, [3])
}

fn rejected(letter: &Letter) -> String {
    letter.time.map_or_else(|| "-".to_owned(), moment)
}

/// What was done with a letter, and when.
fn done(mark: &Mark) -> String {
    let to = mark.to.as_ref().map(|to| format!(" to {}", plain(to))).unwrap_or_default();
    format!("{}{to} at {}", mark.done.name(), moment(mark.time))
}

fn show(arguments: &Show, context: &Context) -> Result<()> {
    let mut shown = Vec::new();
    let bus = context.bus()?;
    let desk = open(&*bus, context)?;
    let marks = desk.marks()?;
    desk.each_letter(|record, letter| {
        if letter.is_called(&arguments.id) {
            let mark = marks.of(&letter);
            shown.push(match arguments.json {
                true => whole(&context.config.error_topic, record, &letter, mark).to_string() + "\n",
                false => text(record, &letter, mark),
            });
        }
        Ok(ControlFlow::Continue(()))
    })?;
    if shown.is_empty() {
        bail!("there is no dead letter {:?} on topic {}", arguments.id, context.config.error_topic);
    }
    super::print(shown.join(if arguments.json { "" } else { "\n" }).as_bytes())
}

fn text(record: &Record<'_>, letter: &Letter, mark: Option<&Mark>) -> String {
    let bytes = |bytes: Option<&[u8]>| bytes.map_or("-".to_owned(), |bytes| plain(&String::from_utf8_lossy(bytes)));
    let or_none = |text: &Option<String>| text.as_deref().map_or("-".to_owned(), plain);
    let attempts = letter.attempts.map_or(String::new(), |attempts| match attempts {
        1 => ", at the first attempt".to_owned(),
        attempts => format!(", after {attempts} attempts"),
    });
    let replays = match letter.replays {
        0 => String::new(),
        1 => ", replayed once before".to_owned(),
        replays => format!(", replayed {replays} times before"),
    };
    let origin = letter.origin.as_ref();
    let origin = origin.map_or("-".to_owned(), |(topic, partition, offset)| format!("{topic}/{partition}/{offset}"));
    let lines = [
        ("message", plain(&letter.name())),
        ("reason", or_none(&letter.reason)),
        ("stop", or_none(&letter.stop)),
        ("rule", or_none(&letter.rule)),
        ("rejected", rejected(letter) + &attempts + &replays),
        ("record", plain(&origin)),
        ("place", letter.place().to_string()),
        ("done", mark.map_or_else(|| "-".to_owned(), done)),
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
