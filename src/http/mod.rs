//! What a process of stops tells about itself over HTTP, for those that watch over it.
//!
//! | path | answers |
//! | --- | --- |
//! | `/metrics` | numbers for Prometheus, docs/metrics.md has their names |
//! | `/livez` | 200 while each stop's loop turns, else 503 and which does not |
//! | `/readyz` | 200 once each stop has its subscription and what it needs, else 503 and what is missing |
//! | `/healthcheck` | 200 while the process is well, else 500, with a body of JSON: [`health::check`](crate::health::check()) |
//!
//! One thread serves all of it, from what the stops have written down: nothing here reaches for a service, and no stop
//! waits for it. Other paths are 404, other methods 405. There is no login, so the default is an address that only this
//! machine reaches; payloads and keys are in none of the answers.
//!
//! The stops of the binary are served where `http.listen` is set. A program of one's own does it so:
//!
//! ```
//! use metrobus::{Config, Stop, Topic, Verdict, each, http::{Process, Server}};
//!
//! let config = Config::load(None, [("METROBUS__HTTP__LISTEN", "0")])?;
//! let stop = Stop::new("shout", &Topic::new("Shout")?, each(|_| Verdict::Forward), &config);
//! let stops = vec![stop.watch()].into();
//! let process = Process { stops, parts: Vec::new(), stall: config.http.stall, counters: None };
//! let server = config.http.listen.map(|address| Server::start(address, process)).transpose()?;
//! assert!(server.is_some_and(|server| server.address().ip().is_loopback()));
//! # Ok::<(), anyhow::Error>(())
//! ```

pub mod exposition;
pub(crate) mod journeys;
pub(crate) mod metrics;
pub(crate) mod problem;
mod process;
mod rest;
mod server;

use std::{fmt::Write, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};

pub use process::{Part, Process, Stops};
pub(crate) use rest::Rest;
pub use server::Server;
pub(crate) use server::{Limits, Site};

use crate::{health, stop::Watched};

fn router(process: Process) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/healthcheck", get(healthcheck))
        .with_state(Arc::new(process))
}

async fn metrics(State(process): State<Arc<Process>>) -> Response {
    ([(CONTENT_TYPE, exposition::CONTENT_TYPE)], metrics::render(&process)).into_response()
}

async fn livez(State(process): State<Arc<Process>>) -> Response {
    let mut stalled = String::new();
    for stop in process.stops.all().iter().map(Watched::health).filter(|stop| !stop.is_live(process.stall)) {
        let _ = writeln!(stalled, "{}: its loop has not turned for {} s", stop.stop, stop.idle.as_secs());
    }
    ok_or_unavailable(stalled)
}

async fn readyz(State(process): State<Arc<Process>>) -> Response {
    let mut missing = String::new();
    for why in process.stops.all().iter().filter_map(|stop| stop.health().is_ready().err()) {
        let _ = writeln!(missing, "{why}");
    }
    for why in process.parts.iter().filter_map(|part| part.ready().err()) {
        let _ = writeln!(missing, "{why}");
    }
    ok_or_unavailable(missing)
}

/// 200, or 503 with what is wrong where anything is.
fn ok_or_unavailable(wrong: String) -> Response {
    match wrong.is_empty() {
        true => "ok\n".into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, wrong).into_response(),
    }
}

async fn healthcheck(State(process): State<Arc<Process>>) -> Response {
    let stops: Vec<_> = process.stops.all().iter().map(Watched::health).collect();
    let report = health::check(&stops);
    let status = if report.ok { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
    match serde_json::to_string(&report) {
        Ok(body) => (status, [(CONTENT_TYPE, "application/json")], body).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests;
