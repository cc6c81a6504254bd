//! `run`: several stops in one process, each in a thread of its own.

use anyhow::Result;
use clap::{Args, Command, FromArgMatches, builder::PossibleValuesParser};

use super::{Context, Kind, Role, stops};

pub const ROLE: Role =
    Role { name: "run", about: "Run several stops, or all, in one process", kind: Kind::Command { arguments, run } };

#[derive(Debug, Args)]
struct Arguments {
    /// End when none of the stops has anything left
    #[arg(long)]
    drain: bool,
    /// Serve the page of `metrobus web` as well
    #[arg(long)]
    web: bool,
}

fn arguments(command: Command) -> Command {
    let names = PossibleValuesParser::new(stops().map(|role| role.name));
    let roles = clap::Arg::new("role").value_name("ROLE").num_args(0..).value_parser(names);
    Arguments::augment_args(command.arg(roles.help("The stops to run; all of them where none is named")))
}

fn run(matches: &clap::ArgMatches, context: &Context) -> Result<()> {
    let arguments = Arguments::from_arg_matches(matches)?;
    let named: Vec<&String> = matches.get_many("role").into_iter().flatten().collect();
    let chosen: Vec<_> =
        stops().filter(|role| named.is_empty() || named.iter().any(|name| *name == role.name)).collect();
    context.run_stops(&chosen, arguments.drain, arguments.web)
}
