//! `web`: the page of what goes on, in a process of its own.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use clap::{ArgMatches, Command};

use super::{Context, Kind, Role};
use crate::{backoff::persist, web::Web};

pub const ROLE: Role = Role {
    name: "web",
    about: "Serve a page of what goes on: a live map, journeys, dead letters",
    kind: Kind::Command { arguments, run },
};

fn arguments(command: Command) -> Command {
    command
}

fn run(_: &ArgMatches, context: &Context) -> Result<()> {
    let bus = Arc::from(context.bus()?);
    let _web = Web::start(Arc::clone(&bus), &context.config)?;
    // The page tells of a bus that is away, so that only who asked for it has that end the process
    if let Some(limit) = context.connect_timeout {
        persist("the bus", Some(limit), &context.shutdown, || bus.connect())?;
    }
    while !context.shutdown.pause(Duration::from_secs(3600)) {}
    Ok(())
}
