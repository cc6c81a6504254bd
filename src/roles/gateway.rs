//! `gateway`: takes events by HTTP; `gateway key` makes API keys for those who send them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::{ArgMatches, Command};

use super::{Context, Kind, Role};
use crate::{
    gateway::{api_key::ApiKey, server::Gateway},
    http::Stops,
};

pub const ROLE: Role = Role {
    name: "gateway",
    about: "Take events by HTTP and publish them to the bus",
    kind: Kind::Command { arguments, run },
};

fn arguments(command: Command) -> Command {
    let key = Command::new("key").about("Print a new API key, and its hash for [[gateway.caller]]");
    command.subcommand(key).args_conflicts_with_subcommands(true)
}

fn run(matches: &ArgMatches, context: &Context) -> Result<()> {
    match matches.subcommand_name() {
        Some("key") => key(),
        _ => serve(context),
    }
}

/// A key, to be shown once.
fn key() -> Result<()> {
    let key = ApiKey::generate();
    super::print(format!("key   {}\nhash  {}\n", key.reveal(), key.hash()).as_bytes())
}

fn serve(context: &Context) -> Result<()> {
    let (config, shutdown) = (&context.config, &context.shutdown);
    let bus = Arc::from(context.bus()?);
    let gateway = Gateway::start(bus, config, context.connect_timeout, shutdown)?;
    let _http = context.serve(Stops::default(), vec![gateway.part()])?;
    while !shutdown.pause(Duration::from_secs(3600)) {}
    gateway.finish(Instant::now() + config.shutdown_timeout)
}
