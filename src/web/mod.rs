//! The page of `metrobus web`: what goes on, where a message went, what was rejected and what becomes of it.
//!
//! | file | what it is about |
//! | --- | --- |
//! | `assets` | the page itself and its description, compiled in |
//! | `guard` | who may ask: names of this host, origins, the token; headers that keep a browser careful |
//! | `events` | the picture of the traffic, now and as it changes |
//! | `journeys` | where messages went, out of the index of the journal |
//! | `letters` | dead letters: listed, shown, sent again, given up |
//! | `counts` | how many messages each topic's stop has read, for programs |
//!
//! docs/openapi.json describes what is answered. The server is one thread that does nothing but wait; whatever reaches for
//! the bus, the index or Redis does so in others, one at a time, and each answer has a time by which it is given.
//!
//! Looking needs no login, so the default is an address that only this machine reaches, and keys, fields, headers and values
//! of messages are left out. Acting needs a token that no cookie carries.

mod assets;
mod counts;
mod events;
mod guard;
mod journeys;
mod letters;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Path, State, rejection::PathRejection},
    http::HeaderMap,
    middleware,
    routing::{get, post},
};
use serde_json::{Value, json};
use tracing::{info, warn};

use crate::{
    bus::Bus,
    config::{BusKind, Config},
    error::{Misconfigured, Unreachable},
    http::{
        self, Limits,
        journeys::Journeys,
        problem::{self, Problem},
    },
    shutdown::Shutdown,
    traffic::{self, StopHistory},
};
use assets::{PARTS, asset};
use counts::Counts;
use events::Frames;
use guard::Guard;
use letters::Desks;

/// Of those who look at the page: each has one connection open for as long as they do, so it must not end often.
const PAGES: Limits =
    Limits { connections: 512, lifetime: Duration::from_secs(24 * 3600), stalled: Duration::from_secs(30) };

/// The server of the page, which ends when this is dropped.
pub struct Web {
    // Before the others, which it uses
    server: http::Server,
    shutdown: Shutdown,
}

/// What the answers are made from.
struct App {
    config: Arc<Config>,
    guard: Guard,
    traffic: traffic::Watch,
    frames: Frames,
    journeys: Journeys,
    desks: Desks,
    counts: Counts,
}

impl Web {
    /// Serves the page about `bus` where `web.listen` says; the bus need not be there yet.
    ///
    /// [`Unreachable`] where the address is taken, [`Misconfigured`] where it cannot be listened on, or where `[web]` is wrong.
    pub fn start(bus: Arc<dyn Bus>, config: &Config) -> anyhow::Result<Self> {
        let Some(listen) = config.web.listen else {
            let message = "web.listen is \"\", must be a port or address:port, as in \"5000\"";
            return Err(config.error("web.listen", message).into());
        };
        let (shutdown, shared) = (Shutdown::default(), Arc::new(config.clone()));
        let app = App {
            guard: Guard::new(config, listen)?,
            traffic: traffic::watch(Arc::clone(&bus), config)?,
            frames: Frames::default(),
            journeys: Journeys::start(Arc::clone(&bus), Arc::clone(&shared), shutdown.clone())?,
            desks: Desks::new(bus, Arc::clone(&shared), shutdown.clone()),
            counts: Counts::new(config)?,
            config: shared,
        };
        let (acting, show_payloads) = (app.guard.acting(), config.web.show_payloads);
        let server = http::Server::serve(listen, "web", router(app), PAGES)
            .map_err(|error| cannot_listen(config, "web.listen", listen, &error))?;
        if !listen.ip().is_loopback() {
            let shown = if show_payloads { ", and keys and values of messages" } else { "" };
            warn!("web.listen is {listen}: whoever reaches it sees topics, ids of messages, why they ended{shown}");
        }
        info!(acting, show_payloads, "page on http://{}", server.address());
        Ok(Self { server, shutdown })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.shutdown.request();
    }
}

/// The error of a server that cannot listen on the address that `key` says.
pub(crate) fn cannot_listen(config: &Config, key: &str, listen: SocketAddr, error: &io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            Unreachable(format!("{key}: {listen} is in use; end what listens there, or set another port")).into()
        }
        _ => config.error(key, format_args!("cannot listen on {listen}: {error}")).into(),
    }
}

fn router(app: App) -> Router {
    let app = Arc::new(app);
    // Whoever acts has to show the token, whatever else is wrong with what they ask
    let acts = Router::new()
        .route("/api/dead/replay", post(letters::replay))
        .route("/api/dead/discard", post(letters::discard))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&app), guard::acts))
        .method_not_allowed_fallback(problem::not_allowed);
    let mut pages = Router::new();
    for (path, kind, content) in PARTS {
        pages = pages.route(path, get(async |headers: HeaderMap| asset(&headers, kind, content)));
    }
    pages
        .route("/", get(assets::page))
        .route("/api/settings", get(settings))
        .route("/api/map", get(events::map))
        .route("/api/events", get(events::events))
        .route("/api/stops/{name}", get(stop))
        .route("/api/journeys", get(journeys::journeys))
        .route("/api/dead", get(letters::list))
        .route("/api/dead/{partition}/{offset}", get(letters::show))
        .fallback(problem::not_found)
        .method_not_allowed_fallback(problem::not_allowed)
        .merge(acts)
        .layer(middleware::from_fn_with_state(Arc::clone(&app), guard::looks))
        .with_state(app)
}

/// What of the configuration the page goes by.
async fn settings(State(app): State<Arc<App>>) -> Json<Value> {
    let (config, journal) = (&app.config, &app.config.journal);
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "bus": match config.bus { BusKind::Sqlite => "sqlite", BusKind::Kafka => "kafka" },
        "acting": app.guard.acting(),
        "show_payloads": config.web.show_payloads,
        "journal": {"level": journal.level, "topic": journal.topic.as_str(), "fields": journal.fields},
        "error_topic": config.error_topic.as_str(),
    }))
}

/// A stop's last hour.
async fn stop(
    State(app): State<Arc<App>>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<StopHistory>, Problem> {
    let Path(name) = name?;
    let history = app.traffic.stop(&name);
    history.map(Json).ok_or_else(|| Problem::not_found(format!("nothing is known of a stop {name:?}")))
}
