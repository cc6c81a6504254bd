//! The one HTTP server there is: a thread of its own, and bounds for what its clients may do.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::sync::{Semaphore, oneshot};
use tokio_io_timeout::TimeoutStream;
use tracing::{debug, info};

use super::{Process, router};

/// How long a client may take for the head of a request, the next one on its connection too.
const HEAD: Duration = Duration::from_secs(30);

/// How long no connection is taken after that failed, as it does where the process has too many files open.
const PAUSE: Duration = Duration::from_secs(1);

/// How long the end waits for what is being done in other threads.
const LAST: Duration = Duration::from_secs(1);

/// What the clients of a server may take of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections at once; more have to wait.
    pub connections: usize,
    /// How long a connection lasts.
    pub lifetime: Duration,
    /// How long a client may take none of what it is sent.
    pub stalled: Duration,
}

/// Of those who look how a process is.
const LOOKS: Limits = Limits { connections: 64, lifetime: Duration::from_secs(600), stalled: Duration::from_secs(30) };

/// A server, which ends when this is dropped, and its connections with it.
pub struct Server {
    address: SocketAddr,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
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
    pub(crate) fn serve(address: SocketAddr, name: &str, router: Router, limits: Limits) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let (end, ended) = oneshot::channel();
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
            runtime.block_on(async {
                match tokio::net::TcpListener::from_std(listener) {
                    Ok(listener) => drop(tokio::spawn(accept(listener, router, limits))),
                    Err(error) => tracing::error!("cannot serve HTTP on {address}: {error}"),
                }
                let _ = ended.await;
            });
            runtime.shutdown_timeout(LAST);
        })?;
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
async fn accept(listener: tokio::net::TcpListener, router: Router, limits: Limits) {
    let places = Arc::new(Semaphore::new(limits.connections));
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
            let mut stream = TimeoutStream::new(stream);
            stream.set_write_timeout(Some(limits.stalled));
            let stream = TokioIo::new(Box::pin(stream));
            let mut http = http1::Builder::new();
            let http = http.timer(TokioTimer::new()).header_read_timeout(HEAD);
            // What goes wrong here is the client's: it has gone, or is no HTTP
            let _ = tokio::time::timeout(limits.lifetime, http.serve_connection(stream, service)).await;
            drop(place);
        });
    }
}
