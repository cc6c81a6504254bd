//! The command line: global flags, and a subcommand for each of [`ROLES`].

use std::{path::PathBuf, time::Duration};

use clap::{ArgAction, ArgMatches, Args, Command, FromArgMatches, ValueEnum};

use crate::roles::{Kind, ROLES, Role};

/// Flags that hold for every command, before or after its name.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Configuration file in TOML, over the defaults; METROBUS__SECTION__KEY in the environment counts over both
    #[arg(long, global = true, value_name = "FILE", env = "METROBUS_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// Format of the log on standard error; auto is as METROBUS_LOG_FORMAT says, else text on a terminal and JSON elsewhere
    #[arg(long, global = true, value_enum, value_name = "FORMAT", default_value_t = LogFormat::Auto)]
    pub log_format: LogFormat,
    /// Log more; -vv everything
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Log errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Exit with 69 when a service cannot be reached within TIME at the start, as in 30s; without it, wait for ever
    #[arg(long, global = true, value_name = "TIME", value_parser = time)]
    pub connect_timeout: Option<Duration>,
}

/// A time among arguments.
pub(crate) fn time(text: &str) -> Result<Duration, &'static str> {
    humantime::parse_duration(text).map_err(|_| "a time with its unit is expected, as in 500ms or 30s")
}

/// A count among the arguments of a role; goes with `allow_negative_numbers`, so that -1 is told what is wrong with it.
pub(crate) fn count(text: &str) -> Result<u64, &'static str> {
    text.parse().map_err(|_| "a whole number from 0 is expected")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Auto,
    Text,
    Json,
}

/// What was asked for.
pub struct Call {
    pub global: Global,
    pub role: &'static Role,
    /// The arguments of the role.
    pub matches: ArgMatches,
}

const AFTER_HELP: &str = "\
Exit codes: 0 done, or stopped by a signal; 1 failed; 2 usage; 69 a service cannot be reached within
--connect-timeout, or an address to listen on is taken; 78 the configuration, or a file that it
names, is wrong.";

/// The whole command line.
pub fn command() -> Command {
    let command = Global::augment_args(Command::new("metrobus"))
        .version(env!("CARGO_PKG_VERSION"))
        .about("Smart routing on a dumb bus: each message carries its own itinerary")
        .after_help(AFTER_HELP)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .max_term_width(100);
    command.subcommands(ROLES.iter().map(|role| {
        let command = Command::new(role.name);
        let command = match role.kind {
            Kind::Stop(_) => StopArguments::augment_args(command),
            Kind::Command { arguments, .. } => arguments(command),
        };
        // After the arguments, whose own docs would take its place
        command.about(role.about).long_about(None)
    }))
}

/// What every stop knows.
#[derive(Debug, Args)]
struct StopArguments {
    /// End when the input is used up
    #[arg(long)]
    drain: bool,
}

/// Parses the arguments of the process; on a mistake, prints what is wrong and exits with 2.
pub fn parse() -> Call {
    let mut matches = command().get_matches();
    let global = Global::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let Some((name, matches)) = matches.remove_subcommand() else {
        command().error(clap::error::ErrorKind::MissingSubcommand, "a command is required").exit()
    };
    let Some(role) = ROLES.iter().find(|role| role.name == name) else {
        command().error(clap::error::ErrorKind::InvalidSubcommand, format!("unknown command {name}")).exit()
    };
    Call { global, role, matches }
}
