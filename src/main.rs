//! Parse, set up the log, read the configuration, run the role, print one line, exit.

use std::{
    env,
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use metrobus::{
    cli::{self, Call, Global, LogFormat},
    config::Config,
    error::{Misconfigured, Unreachable},
    roles::{self, Context, Role},
    shutdown::Shutdown,
};
use tracing::{error, warn};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let call = cli::parse();
    start_log(&call.global, call.role);
    std::panic::set_hook(Box::new(|panic| {
        // The message may quote a payload, the place does not
        let place = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
        error!("panicked at {place}");
    }));
    match run(call) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_closed_pipe(&error) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "metrobus: {error:#}");
            ExitCode::from(exit_code(&error))
        }
    }
}

fn run(call: Call) -> anyhow::Result<()> {
    let config = Config::load(call.global.config.as_deref(), env::vars_os())?;
    let shutdown = Shutdown::on_signals()?;
    let context = Context::new(config, shutdown, call.global.connect_timeout)?;
    roles::call(call.role, &call.matches, &context)
}

/// What is logged: as the flags say, else as RUST_LOG says, else what fits the role.
fn start_log(global: &Global, role: &Role) {
    let level = match (global.quiet, global.verbose) {
        (true, _) => Some("error"),
        (_, 0) => None,
        (_, 1) => Some("info,metrobus=debug"),
        _ => Some("trace"),
    };
    let asked = env::var("RUST_LOG").ok().filter(|asked| level.is_none() && !asked.trim().is_empty());
    let parsed = asked.as_ref().map(EnvFilter::try_new).transpose();
    // The demo's table tells what its stops would
    let fallback = level.unwrap_or(if role.name == "demo" { "warn" } else { "info" });
    let (filter, wrong) = match parsed {
        Ok(filter) => (filter.unwrap_or_else(|| EnvFilter::new(fallback)), None),
        Err(error) => (EnvFilter::new(fallback), Some(error)),
    };
    let colours = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match global.log_format {
        LogFormat::Text => log.with_ansi(colours).with_target(false).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    if let Some(error) = wrong {
        warn!("RUST_LOG does not count: {error}");
    }
}

/// The reader of our output has gone: nobody is left to tell.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let closed = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref().is_some_and(closed))
}

/// Those of sysexits.h where one fits.
fn exit_code(error: &anyhow::Error) -> u8 {
    if error.chain().any(|cause| cause.is::<Misconfigured>()) {
        78
    } else if error.chain().any(|cause| cause.is::<Unreachable>()) {
        69
    } else {
        1
    }
}
