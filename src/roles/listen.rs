//! `listen`: a receiver of webhooks for development.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, anyhow};
use axum::http::StatusCode;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use tracing::info;

use super::{Context, Kind, Role};
use crate::{
    cli::time,
    error::{Misconfigured, Unreachable},
    listen::{Forward, Options, Plan, Receiver, Style},
    webhook::signature::{self, Verifying},
};

pub const ROLE: Role = Role {
    name: "listen",
    about: "Receive webhooks for development: show, verify, answer or forward them",
    kind: Kind::Command { arguments: Arguments::augment_args as fn(Command) -> Command, run },
};

/// Holds a key, as --secret-file does.
const SECRET: &str = "METROBUS_LISTEN_SECRET";

#[derive(Debug, Args)]
struct Arguments {
    /// Port of 127.0.0.1 to listen on; 0 is any that is free
    #[arg(long, value_name = "PORT", default_value_t = 9000)]
    port: u16,
    /// Send each request on to this URL, and answer what comes back
    #[arg(long, value_name = "URL", conflicts_with_all = ["status", "fail_first"])]
    forward: Option<String>,
    /// Keys to verify signatures with, a whsec_... or whpk_... a line; else METROBUS_LISTEN_SECRET holds them
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Answer with these, one request after another, and the last one from then on
    #[arg(long, value_name = "CODE", value_delimiter = ',', value_parser = status, default_value = "200")]
    status: Vec<StatusCode>,
    /// Answer each message with 500 that many times before
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    fail_first: u32,
    /// Wait that long before each answer, as in 20s
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "0s")]
    slow: Duration,
    /// Show headers
    #[arg(long)]
    headers: bool,
    /// Print an object a line: time, method, path, id, attempt, verified, why, status, headers, body
    #[arg(long, conflicts_with = "headers")]
    json: bool,
}

fn status(text: &str) -> Result<StatusCode, &'static str> {
    let code = text.parse().ok().filter(|code| (200..=599).contains(code));
    code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or("a status from 200 to 599 is expected")
}

fn run(matches: &ArgMatches, context: &Context) -> Result<()> {
    let arguments = Arguments::from_arg_matches(matches)?;
    let keys = keys(arguments.secret_file.as_deref())?;
    let forward = arguments.forward.as_deref().map(Forward::new).transpose();
    let forward = forward.map_err(|what| Misconfigured(format!("--forward: {what}")))?;
    let verifying = match keys.len() {
        0 => "verifies nothing, as there is no --secret-file".to_owned(),
        1 => "verifies with 1 key".to_owned(),
        count => format!("verifies with {count} keys"),
    };
    let style = if arguments.json { Style::Json } else { Style::Text { headers: arguments.headers } };
    let plan = Plan { statuses: arguments.status, fail_first: arguments.fail_first };
    let options = Options { style, keys, plan, slow: arguments.slow, forward };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, arguments.port));
    let receiver = Receiver::start(address, options, context.shutdown.clone()).map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            Unreachable(format!("{address} is in use; end what listens there, or take another --port")).into()
        }
        _ => anyhow!("cannot listen on {address}: {error}"),
    })?;
    info!("listens on http://{} and {verifying}", receiver.address());
    while !context.shutdown.pause(Duration::from_secs(3600)) {}
    Ok(receiver.end()?)
}

/// Out of the file, else of the environment.
fn keys(file: Option<&Path>) -> Result<Vec<Verifying>, Misconfigured> {
    let (text, from) = match file {
        Some(file) => {
            let text = std::fs::read_to_string(file);
            let cannot = |error: std::io::Error| {
                Misconfigured(format!("--secret-file: cannot read {}: {}", file.display(), error.kind()))
            };
            (text.map_err(cannot)?, format!("--secret-file: {}", file.display()))
        }
        None => (std::env::var(SECRET).unwrap_or_default(), SECRET.to_owned()),
    };
    let keys = signature::keys(&text, Verifying::parse).map_err(|what| Misconfigured(format!("{from}: {what}")))?;
    if file.is_some() && keys.is_empty() {
        return Err(Misconfigured(format!("{from} holds no key")));
    }
    Ok(keys)
}
