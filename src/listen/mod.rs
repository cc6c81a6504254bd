//! A receiver of webhooks for development: shows what arrives, verifies it, and answers as it is told to.
//!
//! | file | what it is about |
//! | --- | --- |
//! | `answers` | which status a request gets, and which time it is that it comes |
//! | `forward` | requests go on to a program under development |
//! | `show` | what is printed of a request |

mod answers;
mod forward;
mod show;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{Request, StatusCode, request::Parts},
    response::{IntoResponse, Response},
};

pub use answers::{Answers, Plan};
pub use forward::Forward;
use show::Arrived;
pub use show::Style;

use crate::{
    http::{Limits, Server},
    shutdown::Shutdown,
    webhook::signature::{self, Unverified, Verifying, verify},
};

/// No longer body is taken: more than what a message may have by default.
const BODY: usize = 16 << 20;

const LIMITS: Limits =
    Limits { connections: 512, lifetime: Duration::from_secs(24 * 3600), stalled: Duration::from_secs(30) };

/// What a receiver does.
pub struct Options {
    pub style: Style,
    /// To verify with; several while they are changed.
    pub keys: Vec<Verifying>,
    pub plan: Plan,
    /// Before each answer.
    pub slow: Duration,
    /// Who answers instead.
    pub forward: Option<Forward>,
}

/// A receiver, which ends when this is dropped.
pub struct Receiver {
    server: Server,
    app: Arc<App>,
}

struct App {
    options: Options,
    answers: Mutex<Answers>,
    /// Asked to end where nothing can be printed any more, and why that is.
    shutdown: Shutdown,
    broken: OnceLock<io::Error>,
}

impl Receiver {
    /// Receives on `address`, where port 0 is any that is free. Asks for the end by `shutdown` where nothing can be printed.
    pub fn start(address: SocketAddr, options: Options, shutdown: Shutdown) -> io::Result<Self> {
        let answers = Mutex::new(Answers::new(options.plan.clone()));
        let app = Arc::new(App { options, answers, shutdown, broken: OnceLock::new() });
        let router = Router::new().fallback(receive).with_state(Arc::clone(&app));
        Ok(Self { server: Server::serve(address, "listen", router, LIMITS)?, app })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Ends it. The error is that of printing.
    pub fn end(self) -> io::Result<()> {
        let Self { server, app } = self;
        drop(server);
        match app.broken.get() {
            Some(error) => Err(io::Error::new(error.kind(), error.to_string())),
            None => Ok(()),
        }
    }
}

/// In a task of its own: what has arrived is shown although its sender hangs up.
async fn receive(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    let done = tokio::spawn(async move { app.receive(request).await });
    done.await.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

impl App {
    async fn receive(&self, request: Request<Body>) -> Response {
        let (at, begun) = (SystemTime::now(), Instant::now());
        let (head, body) = request.into_parts();
        let Ok(body) = axum::body::to_bytes(body, BODY).await else {
            let answer = format!("a body of more than {BODY} bytes, or one that breaks off\n");
            return (StatusCode::PAYLOAD_TOO_LARGE, answer).into_response();
        };
        let id = head.headers.get(signature::ID).and_then(|id| id.to_str().ok()).map(str::to_owned);
        let (time, planned) = self.answers.lock().unwrap_or_else(PoisonError::into_inner).next(id.as_deref());
        let verdict = self.verdict(&head, &body, at);
        let answer = match &self.options.forward {
            None => planned.into_response(),
            Some(forward) => forward.send(&head, body.clone()).await,
        };
        let status = answer.status();
        let arrived =
            Arrived { at, head: &head, id: id.as_deref(), time, verdict, status, took: begun.elapsed(), body: &body };
        if let Err(error) = self.options.style.print(&arrived) {
            // Of several the first counts
            let _ = self.broken.set(error);
            self.shutdown.request();
        }
        if !self.options.slow.is_zero() {
            tokio::time::sleep(self.options.slow).await;
        }
        answer
    }

    fn verdict(&self, head: &Parts, body: &Bytes, now: SystemTime) -> Verdict {
        if !head.headers.contains_key(signature::SIGNATURE) {
            return Verdict::Unsigned;
        }
        if self.options.keys.is_empty() {
            return Verdict::NoKey;
        }
        match verify(&self.options.keys, &head.headers, body, now) {
            Ok(_) => Verdict::Verified,
            Err(why) => Verdict::Refused(why),
        }
    }
}

/// What the signature of a request is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Verified,
    Refused(Unverified),
    Unsigned,
    /// It has one, and there is nothing to verify it with.
    NoKey,
}
