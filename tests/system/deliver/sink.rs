//! A receiver of webhooks: a real server on 127.0.0.1, which keeps what it got and answers as a test says.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use metrobus::webhook::signature::{Verifying, verify};
use tokio::runtime::Runtime;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Got {
    pub at: Instant,
    pub method: Method,
    /// Path and query.
    pub uri: String,
    pub headers: HeaderMap,
    pub body: String,
}

impl Got {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    /// The `webhook-id`.
    pub fn id(&self) -> &str {
        self.header("webhook-id")
    }

    /// Whether the key made the signature, of exactly these bytes.
    pub fn is_signed_with(&self, key: &str) -> bool {
        let key = Verifying::parse(key).expect("a key");
        verify(&[key], &self.headers, self.body.as_bytes(), SystemTime::now()).is_ok()
    }
}

/// What is answered.
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub after: Duration,
}

/// That status, at once.
pub fn status(status: u16) -> Reply {
    Reply { status, headers: Vec::new(), after: Duration::ZERO }
}

type Judge = dyn Fn(&Got) -> Reply + Send + Sync;

struct Shared {
    got: Mutex<Vec<Got>>,
    judge: Box<Judge>,
    under_way: AtomicUsize,
    most: AtomicUsize,
}

/// Ends with the test.
pub struct Sink {
    address: SocketAddr,
    shared: Arc<Shared>,
    _runtime: Runtime,
}

impl Sink {
    /// Answers what `judge` says.
    pub fn start(judge: impl Fn(&Got) -> Reply + Send + Sync + 'static) -> Sink {
        let shared = Arc::new(Shared {
            got: Mutex::default(),
            judge: Box::new(judge),
            under_way: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        });
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("listen");
        listener.set_nonblocking(true).expect("a listener that does not block");
        let address = listener.local_addr().expect("an address");
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            serve(listener, router).await;
        });
        Sink { address, shared, _runtime: runtime }
    }

    /// Always answers 200.
    pub fn good() -> Sink {
        Sink::start(|_| status(200))
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What came so far, in the order in which it came.
    pub fn got(&self) -> Vec<Got> {
        self.shared.got.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn count(&self) -> usize {
        self.shared.got.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The bodies of what came for a path.
    pub fn bodies(&self, path: &str) -> Vec<String> {
        self.got().into_iter().filter(|got| got.uri == path).map(|got| got.body).collect()
    }

    /// Most requests that were answered at one time.
    pub fn most(&self) -> usize {
        self.shared.most.load(Ordering::SeqCst)
    }
}

async fn serve(listener: tokio::net::TcpListener, router: Router) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        let service = hyper_util::service::TowerToHyperService::new(router.clone());
        let stream = hyper_util::rt::TokioIo::new(stream);
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(stream, service));
    }
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let under_way = shared.under_way.fetch_add(1, Ordering::SeqCst) + 1;
    shared.most.fetch_max(under_way, Ordering::SeqCst);
    let body = String::from_utf8_lossy(&body).into_owned();
    let got = Got { at: Instant::now(), method, uri: uri.to_string(), headers, body };
    let reply = (shared.judge)(&got);
    shared.got.lock().unwrap_or_else(PoisonError::into_inner).push(got);
    tokio::time::sleep(reply.after).await;
    shared.under_way.fetch_sub(1, Ordering::SeqCst);
    let mut response = StatusCode::from_u16(reply.status).expect("a status").into_response();
    for (name, value) in reply.headers {
        response.headers_mut().insert(name, value.parse().expect("a value"));
    }
    response
}
