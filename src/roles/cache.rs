//! `metrobus cache`: what fills the caches from the .dat files.

use clap::{ArgMatches, Args, Command, FromArgMatches, ValueEnum};

use super::{Context, Kind, Role, cache_build, cache_load};

pub const ROLE: Role = Role {
    name: "cache",
    about: "Fill the caches: `cache load` puts the files into Redis, `cache build` into LMDB",
    kind: Kind::Command { arguments, run },
};

fn arguments(command: Command) -> Command {
    let load = cache_load::Arguments::augment_args(Command::new("load"));
    let load = load.about("Load emails.dat and whitelist.dat into Redis, swapped in when complete");
    let build = cache_build::Arguments::augment_args(Command::new("build"));
    let build = build.about("Build the LMDB files of emails.dat and whitelist.dat, each swapped in when complete");
    command.subcommand_required(true).arg_required_else_help(true).subcommands([load, build])
}

fn run(matches: &ArgMatches, context: &Context) -> anyhow::Result<()> {
    match matches.subcommand() {
        Some(("load", matches)) => cache_load::run(&cache_load::Arguments::from_arg_matches(matches)?, context),
        Some(("build", matches)) => cache_build::run(&cache_build::Arguments::from_arg_matches(matches)?, context),
        _ => Ok(()),
    }
}

/// One of the two files.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Only {
    Emails,
    Whitelist,
}
