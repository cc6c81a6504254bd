//! `journal`: keeps the index of the journal warm, so that `track` and `journeys` have little left to read.

use clap::{Args, Command, FromArgMatches};
use tracing::info;

use super::{Context, Kind, Role};
use crate::journal::follow::Follower;

pub const ROLE: Role = Role {
    name: "journal",
    about: "Keep the index warm that `track` and `journeys` look into",
    kind: Kind::Command { arguments: Arguments::augment_args as fn(Command) -> Command, run },
};

#[derive(Debug, Args)]
struct Arguments {
    /// End when all that is there now has been read
    #[arg(long)]
    drain: bool,
}

fn run(matches: &clap::ArgMatches, context: &Context) -> anyhow::Result<()> {
    let arguments = Arguments::from_arg_matches(matches)?;
    let bus = context.bus()?;
    let options = &context.config.journal;
    let mut follower = Follower::open(&*bus, options, context.connect_timeout, &context.shutdown)?;
    info!(topic = %options.topic, index = %options.index.display(), "ready");
    follower.catch_up()?;
    if !arguments.drain {
        follower.follow()?;
    }
    let index = follower.index();
    info!(index_bytes = index.bytes()?, damaged = index.damaged()?, "ended");
    Ok(())
}
