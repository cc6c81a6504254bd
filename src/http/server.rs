//! The one HTTP server there is: threads of its own, and bounds for what its clients may do.

use std::{
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener},
    pin::pin,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use axum::{Router, body::Body};
use futures_util::future::{Either, select};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::Service};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::{Semaphore, watch},
    time::{sleep, timeout, timeout_at},
};
use tokio_io_timeout::TimeoutStream;
use tracing::{debug, info};

use super::{Process, router};
use crate::tls::Identity;

/// How long a client may take for the head of a request, the next one on its connection too, and to agree on keys.
const HEAD: Duration = Duration::from_secs(30);

/// How long no connection is taken after that failed, as it does where the process has too many files open.
const PAUSE: Duration = Duration::from_secs(1);

/// How long the end waits for what is being done in other threads.
const LAST: Duration = Duration::from_secs(1);

/// How long a request may go on after the lifetime of its connection.
const GRACE: Duration = Duration::from_secs(60);

/// What the clients of a server may take of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections at once; more have to wait.
    pub connections: usize,
    /// How long a connection lasts; the request that is under way then is its last.
    pub lifetime: Duration,
    /// How long a client may take none of what it is sent.
    pub stalled: Duration,
}

/// Of those who look how a process is.
const LOOKS: Limits = Limits { connections: 64, lifetime: Duration::from_secs(600), stalled: Duration::from_secs(30) };

/// What answers requests; cheap to clone, and all clones are the same.
pub(crate) trait Answers:
    Service<Request<Incoming>, Response = Response<Body>, Error = Infallible, Future: Send> + Clone + Send + 'static
{
}

impl<S> Answers for S where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible, Future: Send> + Clone + Send + 'static
{
}

/// How a server works.
pub(crate) struct Site {
    /// Of its threads.
    pub name: &'static str,
    /// Each takes connections and serves those that it has taken.
    pub threads: usize,
    pub limits: Limits,
    /// Connections are encrypted with it; without one they are not.
    pub identity: Option<Arc<Identity>>,
}

/// A server, which ends when this is dropped, and its connections with it.
pub struct Server {
    address: SocketAddr,
    /// Until when what is under way may go on, once the end has come.
    end: watch::Sender<Option<Instant>>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Listens on `address`, where port 0 is any that is free, and tells of `process` in a thread of its own.
    ///
    /// The error is that of the system: the address is in use, is none of this machine, or is not permitted.
    pub fn start(address: SocketAddr, process: Process) -> io::Result<Self> {
        let server = Self::serve(address, "http", router(process), LOOKS)?;
        info!("listens on http://{}", server.address);
        Ok(server)
    }

    /// As [`Server::start`], with all that `router` answers and a name for the thread.
    pub(crate) fn serve(address: SocketAddr, name: &'static str, router: Router, limits: Limits) -> io::Result<Self> {
        let site = Site { name, threads: 1, limits, identity: None };
        Self::open(address, site, &TowerToHyperService::new(router))
    }

    /// As [`Server::start`], with all that `service` answers.
    pub(crate) fn open(address: SocketAddr, site: Site, service: &impl Answers) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (end, ended) = watch::channel(None);
        let places = Arc::new(Semaphore::new(site.limits.connections));
        let mut server = Self { address, end, threads: Vec::new() };
        for _ in 0..site.threads {
            let door = Door {
                limits: site.limits,
                identity: site.identity.clone(),
                places: Arc::clone(&places),
                ended: ended.clone(),
            };
            let (listener, service) = (listener.try_clone()?, service.clone());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
            let thread = std::thread::Builder::new().name(site.name.into());
            server.threads.push(thread.spawn(move || {
                runtime.block_on(door.keep(listener, service));
                runtime.shutdown_timeout(LAST);
            })?);
        }
        Ok(server)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections and requests, and waits until those under way are answered, until `deadline` at most.
    pub(crate) fn finish(mut self, deadline: Instant) {
        self.end_at(deadline);
    }

    fn end_at(&mut self, deadline: Instant) {
        self.end.send_replace(Some(deadline));
        for thread in self.threads.drain(..) {
            // A panic there was told in the log, and is no reason to have one here
            let _ = thread.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end_at(Instant::now());
    }
}

/// Where connections come in, for one thread.
#[derive(Clone)]
struct Door {
    limits: Limits,
    identity: Option<Arc<Identity>>,
    places: Arc<Semaphore>,
    ended: watch::Receiver<Option<Instant>>,
}

impl Door {
    /// Serves until the end.
    async fn keep(mut self, listener: TcpListener, service: impl Answers) {
        match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => drop(tokio::spawn(self.clone().accept(listener, service))),
            Err(error) => tracing::error!("cannot serve HTTP: {error}"),
        }
        let Some(deadline) = self.end().await else { return };
        let all = u32::try_from(self.limits.connections).unwrap_or(u32::MAX);
        let _ = timeout_at(deadline.into(), self.places.acquire_many(all)).await;
    }

    /// Waits for the end, and gives until when what is under way may go on.
    async fn end(&mut self) -> Option<Instant> {
        self.ended.wait_for(Option::is_some).await.ok().and_then(|deadline| *deadline)
    }

    /// Takes connections and serves each in a task, until the end.
    async fn accept(self, listener: tokio::net::TcpListener, service: impl Answers) {
        let mut ending = self.clone();
        let mut end = pin!(ending.end());
        loop {
            let Ok(place) = self.places.clone().acquire_owned().await else { return };
            let stream = match select(end.as_mut(), pin!(listener.accept())).await {
                Either::Left(_) => return,
                Either::Right((Ok((stream, _)), _)) => stream,
                Either::Right((Err(error), _)) => {
                    debug!("accept an HTTP connection: {error}");
                    sleep(PAUSE).await;
                    continue;
                }
            };
            let (door, service) = (self.clone(), service.clone());
            tokio::spawn(async move {
                door.welcome(stream, service).await;
                drop(place);
            });
        }
    }

    async fn welcome(self, stream: TcpStream, service: impl Answers) {
        // Without it an answer may wait for the client to acknowledge the one before
        let _ = stream.set_nodelay(true);
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(self.limits.stalled));
        let stream = Box::pin(stream);
        match &self.identity {
            None => self.serve(stream, service).await,
            Some(identity) => match timeout(HEAD, identity.acceptor().accept(stream)).await {
                Ok(Ok(stream)) => self.serve(stream, service).await,
                Ok(Err(error)) => debug!("accept a TLS connection: {error}"),
                Err(_) => debug!("accept a TLS connection: no handshake within {HEAD:?}"),
            },
        }
    }

    async fn serve(mut self, stream: impl AsyncRead + AsyncWrite + Unpin, service: impl Answers) {
        let mut http = http1::Builder::new();
        // Answers are short: a copy of a body costs less than its place in a vector
        let http = http.timer(TokioTimer::new()).header_read_timeout(HEAD).writev(false);
        let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
        let lifetime = self.limits.lifetime;
        let (ended, too_old) = (pin!(self.end()), pin!(sleep(lifetime)));
        // What goes wrong here is the client's: it has gone, or is no HTTP
        if let Either::Right(_) = select(connection.as_mut(), select(ended, too_old)).await {
            connection.as_mut().graceful_shutdown();
            let _ = timeout(GRACE, connection).await;
        }
    }
}
