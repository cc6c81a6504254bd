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
//! let process = Process { stops: vec![stop.watch()], stall: config.http.stall, counters: None };
//! let server = config.http.listen.map(|address| Server::start(address, process)).transpose()?;
//! assert!(server.is_some_and(|server| server.address().ip().is_loopback()));
//! # Ok::<(), anyhow::Error>(())
//! ```

mod exposition;
mod metrics;

use std::{
    fmt::Write,
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::sync::{Semaphore, oneshot};
use tracing::{debug, info};

use crate::{cache::CounterErrors, health, stop::Watched};

/// How long a client may take for the head of a request, the next one on its connection too.
const HEAD: Duration = Duration::from_secs(30);

/// How long a connection lasts.
const CONNECTION: Duration = Duration::from_secs(600);

/// Connections at once; more have to wait.
const CONNECTIONS: usize = 64;

/// How long no connection is taken after that failed, as it does where the process has too many files open.
const PAUSE: Duration = Duration::from_secs(1);

/// Who is told about.
pub struct Process {
    pub stops: Vec<Watched>,
    /// A stop whose loop has not turned for so long is not alive.
    pub stall: Duration,
    /// Of the counters in Redis, where there are any.
    pub counters: Option<CounterErrors>,
}

/// A server, which ends when this is dropped, and its connections with it.
pub struct Server {
    address: SocketAddr,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens on `address`, where port 0 is any that is free, and answers in a thread of its own.
    ///
    /// The error is that of the system: the address is in use, is none of this machine, or is not permitted.
    pub fn start(address: SocketAddr, process: Process) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let (end, ended) = oneshot::channel();
        let thread = std::thread::Builder::new().name("http".into()).spawn(move || {
            runtime.block_on(async {
                match tokio::net::TcpListener::from_std(listener) {
                    Ok(listener) => drop(tokio::spawn(accept(listener, router(process)))),
                    Err(error) => tracing::error!("cannot serve HTTP on {address}: {error}"),
                }
                let _ = ended.await;
            });
        })?;
        info!("listens on http://{address}");
        Ok(Self { address, end: Some(end), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.end.take());
        // A panic there was told in the log, and is no reason to have one here
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Takes connections and serves each in a task, for ever.
async fn accept(listener: tokio::net::TcpListener, router: Router) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                debug!("accept an HTTP connection: {error}");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let mut http = http1::Builder::new();
            let http = http.timer(TokioTimer::new()).header_read_timeout(HEAD);
            // What goes wrong here is the client's: it has gone, or is no HTTP
            let _ = tokio::time::timeout(CONNECTION, http.serve_connection(TokioIo::new(stream), service)).await;
            drop(place);
        });
    }
}

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
    for stop in process.stops.iter().map(Watched::health).filter(|stop| !stop.is_live(process.stall)) {
        let _ = writeln!(stalled, "{}: its loop has not turned for {} s", stop.stop, stop.idle.as_secs());
    }
    ok_or_unavailable(stalled)
}

async fn readyz(State(process): State<Arc<Process>>) -> Response {
    let mut missing = String::new();
    for why in process.stops.iter().filter_map(|stop| stop.health().is_ready().err()) {
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
    let stops: Vec<_> = process.stops.iter().map(Watched::health).collect();
    let report = health::check(&stops);
    let status = if report.ok { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
    match serde_json::to_string(&report) {
        Ok(body) => (status, [(CONTENT_TYPE, "application/json")], body).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests;
