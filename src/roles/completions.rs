//! `completions`: what a shell needs to complete the command line.

use clap::{Args, Command, FromArgMatches};
use clap_complete::Shell;

use super::{Context, Kind, Role};

pub const ROLE: Role = Role {
    name: "completions",
    about: "Print the completions for a shell",
    kind: Kind::Command { arguments: Arguments::augment_args as fn(Command) -> Command, run },
};

#[derive(Debug, Args)]
struct Arguments {
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

fn run(matches: &clap::ArgMatches, _: &Context) -> anyhow::Result<()> {
    let arguments = Arguments::from_arg_matches(matches)?;
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut crate::cli::command(), "metrobus", &mut script);
    super::print(&script)
}
