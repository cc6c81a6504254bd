//! Parse, set up the log, read the configuration, run the role, print one line, exit.

use std::{env, io, process::ExitCode};

use metrobus::{
    cli::{self, Call},
    config::Config,
    descriptors,
    error::{Misconfigured, Unreachable},
    log,
    roles::{self, Context},
    shutdown::Shutdown,
};
use tracing::error;

fn main() -> ExitCode {
    let call = cli::parse();
    let level = match call.role.name {
        // Its table tells what its stops would
        "demo" => "warn",
        // Its screen tells, and a line would tear it
        "top" => "off",
        _ => "info",
    };
    let log = log::start(&call.global, level);
    std::panic::set_hook(Box::new(|panic| {
        // The message may quote a payload, the place does not
        let place = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
        error!("panicked at {place}");
    }));
    let outcome = run(call);
    log.end();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_closed_pipe(&error) => ExitCode::FAILURE,
        Err(error) => {
            let code = exit_code(&error);
            log.failed(&error, code);
            ExitCode::from(code)
        }
    }
}

fn run(call: Call) -> anyhow::Result<()> {
    descriptors::allow_many();
    let config = Config::load(call.global.config.as_deref(), env::vars_os())?;
    let shutdown = Shutdown::on_signals()?;
    let context = Context::new(config, shutdown, call.global.connect_timeout)?;
    roles::call(call.role, &call.matches, &context)
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
