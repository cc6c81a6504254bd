//! `top`: what goes on, in a terminal: stops, rates, what waits, what is dropped and why.

mod screen;
mod view;

use std::{
    io::{self, IsTerminal},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Command, FromArgMatches};
use ratatui::crossterm::event::{self, Event, KeyEventKind};

use self::view::{Column, View};
use super::{Context, Kind, Role};
use crate::{backoff::persist, bus::Bus, traffic};

pub const ROLE: Role = Role {
    name: "top",
    about: "Show what goes on, live in the terminal: rates, what waits, drops and why",
    kind: Kind::Command { arguments: Arguments::augment_args as fn(Command) -> Command, run },
};

#[derive(Debug, Args)]
struct Arguments {
    /// The column that stops are sorted by at first
    #[arg(long, value_enum, value_name = "COLUMN", default_value_t = Column::Stop)]
    sort: Column,
    /// Only stops whose name or topic contains this, at first
    #[arg(long, value_name = "TEXT", default_value = "")]
    filter: String,
}

/// Between two looks for keys and a new picture.
const TICK: Duration = Duration::from_millis(100);

fn run(matches: &clap::ArgMatches, context: &Context) -> Result<()> {
    let arguments = Arguments::from_arg_matches(matches)?;
    let is_terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    ensure!(is_terminal, "top needs a terminal; `metrobus topics` and `metrobus journeys` print the like anywhere");
    let bus: Arc<dyn Bus> = Arc::from(context.bus()?);
    if context.connect_timeout.is_some() {
        persist("the bus", context.connect_timeout, &context.shutdown, || bus.connect())?;
    }
    let watch = traffic::watch(bus, &context.config).context("start a thread")?;
    let mut view = View::new(arguments.sort, arguments.filter);
    let mut terminal = ratatui::try_init().context("take over the terminal")?;
    let mut shown = || -> Result<()> {
        while !context.shutdown.requested() && !view.is_done() {
            view.take(watch.picture());
            terminal.draw(|frame| screen::draw(frame, &mut view)).context("draw on the terminal")?;
            if !event::poll(TICK).context("read the terminal")? {
                continue;
            }
            // What is pasted or typed ahead is taken at once
            while event::poll(Duration::ZERO)? {
                if let Event::Key(key) = event::read()?
                    && key.kind != KeyEventKind::Release
                {
                    view.press(key.code, key.modifiers);
                }
            }
        }
        Ok(())
    };
    let shown = shown();
    let restored = ratatui::try_restore().context("give the terminal back");
    shown.and(restored)
}
