//! `track`: the journey of one message, or of those with a key or a field, out of the journal.

use anyhow::{Error, Result, bail};
use clap::{Args, Command, FromArgMatches};

use super::{Context, Kind, Role};
use crate::{
    cli::count,
    journal::{
        follow::Follower,
        journey::Journey,
        search::{Journeys, Wanted},
    },
};

pub const ROLE: Role = Role {
    name: "track",
    about: "Show the journey of a message: stops, times, waits, why it ended, what is next",
    kind: Kind::Command { arguments: Arguments::augment_args as fn(Command) -> Command, run },
};

#[derive(Debug, Args)]
struct Arguments {
    /// The message's id, or the place of one of its records: TOPIC/PARTITION/OFFSET
    #[arg(value_name = "ID", required_unless_present_any = ["key", "field"])]
    id: Option<String>,
    /// All messages with this record key
    #[arg(long, value_name = "KEY", conflicts_with = "id")]
    key: Option<String>,
    /// All messages in whose payload a field had this value; `journal.fields` names the fields that are noted
    #[arg(long, value_name = "NAME=VALUE", value_parser = Wanted::field, conflicts_with_all = ["id", "key"])]
    field: Option<(String, String)>,
    /// Of several journeys, show the last N
    #[arg(short = 'n', value_name = "N", default_value_t = 10, value_parser = count, allow_negative_numbers = true)]
    last: u64,
    /// Print an object a line, one for each journey
    #[arg(long)]
    json: bool,
}

fn run(matches: &clap::ArgMatches, context: &Context) -> Result<()> {
    let arguments = Arguments::from_arg_matches(matches)?;
    let options = &context.config.journal;
    let wanted = arguments.wanted();
    wanted.check(options).map_err(Error::msg)?;
    let bus = context.bus()?;
    let mut follower = Follower::open(&*bus, options, context.connect_timeout, &context.shutdown)?;
    follower.catch_up()?;
    if context.shutdown.requested() {
        return Ok(());
    }
    let last = usize::try_from(arguments.last).unwrap_or(usize::MAX);
    let Journeys { journeys, more } = wanted.find(follower.index(), last)?;
    if journeys.is_empty() && more == 0 {
        bail!("{}", wanted.nothing(options));
    }
    let mut shown: Vec<_> = journeys.iter().map(|journey| arguments.show(journey)).collect();
    if more > 0 && !arguments.json {
        shown.insert(0, format!("{more} earlier journeys are not shown; -n takes how many are\n"));
    }
    super::print(shown.join(if arguments.json { "" } else { "\n" }).as_bytes())
}

impl Arguments {
    fn wanted(&self) -> Wanted {
        match (&self.key, &self.field) {
            (Some(key), _) => Wanted::Key(key.clone()),
            (_, Some((name, value))) => Wanted::Field(name.clone(), value.clone()),
            _ => Wanted::Id(self.id.clone().unwrap_or_default()),
        }
    }

    fn show(&self, journey: &Journey) -> String {
        match self.json {
            true => format!("{}\n", journey.json()),
            false => journey.text(),
        }
    }
}
