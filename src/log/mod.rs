//! The log on standard error: text for people on a terminal, elsewhere a JSON object a line.
//!
//! A line of JSON has `timestamp`, `level`, `message` and `target`, and beside them what the line is about, as `stop`,
//! `topic`, `id`. Warnings and errors that repeat are told now and again, with how many were left out in `left_out`: see
//! `limit`. What of a message comes into a line: see `about`.

pub(crate) mod about;
mod limit;
#[cfg(test)]
pub(crate) mod lines;

use std::{
    env,
    io::{self, IsTerminal, Write},
    sync::Arc,
    time::SystemTime,
};

use clap::ValueEnum;
use serde::Serialize;
use tracing::warn;
use tracing_subscriber::{
    EnvFilter,
    fmt::format::{JsonFields, format},
};

pub use about::Redaction;

use crate::cli::{Global, LogFormat};
use limit::{Limit, Limited};

/// The variable that names the format where no flag does.
const FORMAT: &str = "METROBUS_LOG_FORMAT";

/// The log of this process.
pub struct Log {
    json: bool,
    limit: Arc<Limit>,
}

/// Starts the log: as much as the flags say, else as RUST_LOG says, else `level`.
pub fn start(global: &Global, level: &str) -> Log {
    let asked_by_flag = match (global.quiet, global.verbose) {
        (true, _) => Some("error"),
        (_, 0) => None,
        (_, 1) => Some("info,metrobus=debug"),
        _ => Some("trace"),
    };
    let asked = env::var("RUST_LOG").ok().filter(|asked| asked_by_flag.is_none() && !asked.trim().is_empty());
    let parsed = asked.as_ref().map(EnvFilter::try_new).transpose();
    let fallback = asked_by_flag.unwrap_or(level);
    let (filter, wrong) = match parsed {
        Ok(filter) => (filter.unwrap_or_else(|| EnvFilter::new(fallback)), None),
        Err(error) => (EnvFilter::new(fallback), Some(error)),
    };
    let terminal = io::stderr().is_terminal();
    let colours = terminal && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    // Not the flag's own variable: to clap, a call with one set is no call without arguments, which shows the help
    let variable = env::var(FORMAT).ok().filter(|format| global.log_format == LogFormat::Auto && !format.is_empty());
    let format_asked = variable.as_deref().map(|format| LogFormat::from_str(format, true)).transpose();
    let json = match format_asked.as_ref().ok().copied().flatten().unwrap_or(global.log_format) {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let limit = Arc::new(Limit::default());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match json {
        true => {
            let lines = Limited::new(format().json().flatten_event(true), limit.clone(), limit::append_json);
            log.fmt_fields(JsonFields::new()).event_format(lines).init();
        }
        false => {
            let lines = format().with_ansi(colours).with_target(false);
            log.with_ansi(colours).event_format(Limited::new(lines, limit.clone(), limit::append_text)).init();
        }
    }
    if let Some(error) = wrong {
        warn!("RUST_LOG does not count: {error}");
    }
    if format_asked.is_err() {
        warn!("{FORMAT} does not count: it must be auto, text or json");
    }
    Log { json, limit }
}

/// The last line of a process that failed, where the log is JSON.
#[derive(Serialize)]
struct Failure {
    timestamp: String,
    level: &'static str,
    message: String,
    exit_code: u8,
}

impl Log {
    /// Tells what was left out and not yet told.
    pub fn end(&self) {
        let left_out = self.limit.left_out();
        if left_out > 0 {
            warn!(left_out, "more of the warnings and errors above");
        }
    }

    /// Says why the process fails, whatever the level of the log.
    pub fn failed(&self, error: &anyhow::Error, exit_code: u8) {
        let text = format!("metrobus: {error:#}");
        let line = match self.json {
            false => Ok(text),
            true => serde_json::to_string(&Failure {
                timestamp: humantime::format_rfc3339_micros(SystemTime::now()).to_string(),
                level: "ERROR",
                message: format!("{error:#}"),
                exit_code,
            }),
        };
        // Nobody is left to tell where standard error is closed
        let _ = writeln!(io::stderr(), "{}", line.unwrap_or_default());
    }
}
