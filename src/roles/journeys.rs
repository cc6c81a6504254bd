//! `journeys`: what happened to messages, counted by stop, verdict and reason, out of the journal.

use std::time::Duration;

use anyhow::Result;
use clap::{Args, Command, FromArgMatches, ValueEnum};
use comfy_table::{Table, presets::NOTHING};
use serde_json::json;

use super::{Context, Kind, Role};
use crate::{
    cli::{count, time},
    dead_letter::now_ms,
    journal::{
        Level, Outcome,
        follow::Follower,
        index::{Count, Filter},
    },
    terminal::{drawn, plain},
};

pub const ROLE: Role = Role {
    name: "journeys",
    about: "Count what happened to messages, by stop, verdict and reason",
    kind: Kind::Command { arguments: Arguments::augment_args as fn(Command) -> Command, run },
};

#[derive(Debug, Args)]
struct Arguments {
    /// Only at this stop
    #[arg(long, value_name = "STOP")]
    stop: Option<String>,
    /// Only with this verdict
    #[arg(long, value_enum, value_name = "VERDICT")]
    verdict: Option<Outcome>,
    /// Only with a reason that contains this, in upper or lower case
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Only within this time, as in 90s, 1h or 7d
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Duration>,
    /// Messages to name of each kind, the latest
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count, allow_negative_numbers = true)]
    samples: u64,
    /// Print an object a line: stop, verdict, reason, count, samples
    #[arg(long)]
    json: bool,
}

impl ValueEnum for Outcome {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(self.name().into())
    }
}

/// Samples are read one by one.
const MOST_SAMPLES: u64 = 10_000;

fn run(matches: &clap::ArgMatches, context: &Context) -> Result<()> {
    let arguments = Arguments::from_arg_matches(matches)?;
    let options = &context.config.journal;
    let bus = context.bus()?;
    let mut follower = Follower::open(&*bus, options, context.connect_timeout, &context.shutdown)?;
    follower.catch_up()?;
    if context.shutdown.requested() {
        return Ok(());
    }
    let seconds = |since: Duration| (now_ms() - i64::try_from(since.as_millis()).unwrap_or(i64::MAX)).div_euclid(1000);
    let filter = Filter {
        stop: arguments.stop,
        outcome: arguments.verdict,
        reason: arguments.reason,
        since: arguments.since.map(seconds),
    };
    let counts = follower.index().counts(&filter, arguments.samples.min(MOST_SAMPLES) as usize)?;
    if arguments.json {
        let lines: String = counts.iter().map(|count| json!(count).to_string() + "\n").collect();
        return super::print(lines.as_bytes());
    }
    if counts.is_empty() {
        let off = if options.level == Level::Off { "; it is off (journal.level = \"off\")" } else { "" };
        return super::print(format!("nothing in the journal matches{off}\n").as_bytes());
    }
    super::print(table(&counts).as_bytes())
}

fn table(counts: &[Count]) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(["STOP", "VERDICT", "COUNT", "REASON", "SAMPLES"]);
    for count in counts {
        let reason = count.reason.as_deref().unwrap_or("-");
        let samples: Vec<_> = count.samples.iter().map(|sample| plain(sample)).collect();
        let row = [plain(&count.stop), count.outcome.to_string(), count.count.to_string(), plain(reason)];
        table.add_row(row.into_iter().chain([samples.join("\n")]));
    }
    drawn(table, [2])
}
