//! An HTTP server in front of another one, or of nothing, that answers as a test says: with TLS where asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::opensearch::client;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    pub at: Instant,
    pub method: String,
    /// With what is asked of it.
    pub path: String,
    /// The value of `Authorization`, "" where there is none.
    pub login: String,
    pub body: Vec<u8>,
}

/// What the gate answers.
pub enum Answer {
    /// What the server behind it answers.
    Passed,
    /// A status, and lines of the head, each with its end.
    Status(u16, &'static str),
}

pub struct Gate {
    port: u16,
    scheme: &'static str,
    requests: Arc<Mutex<Vec<Request>>>,
    ended: Arc<AtomicBool>,
}

type Judge = dyn Fn(&Request) -> Answer + Send + Sync;

impl Gate {
    /// A gate to the server at `url`.
    pub fn start(url: impl Into<String>, judge: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Gate {
        Gate::listen(url.into(), None, Arc::new(judge))
    }

    /// The same with TLS, for 127.0.0.1; gives the certificate of the authority in PEM too.
    pub fn start_secure(
        url: impl Into<String>,
        judge: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> (Gate, String) {
        let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).expect("a key");
        let certificates = vec![CertificateDer::from(own.cert.der().to_vec())];
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(certificates, key).expect("TLS");
        (Gate::listen(url.into(), Some(Arc::new(config)), Arc::new(judge)), own.cert.pem())
    }

    fn listen(upstream: String, tls: Option<Arc<ServerConfig>>, judge: Arc<Judge>) -> Gate {
        let listener = TcpListener::bind(("127.0.0.1", super::free_port())).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let gate = Gate { port, scheme, requests: Arc::default(), ended: Arc::default() };
        let (requests, ended) = (gate.requests.clone(), gate.ended.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let visit = Visit { upstream: upstream.clone(), judge: judge.clone(), requests: requests.clone() };
                let tls = tls.clone();
                std::thread::spawn(move || match tls {
                    None => visit.serve(stream),
                    Some(tls) => {
                        let connection = ServerConnection::new(tls).expect("TLS");
                        visit.serve(StreamOwned::new(connection, stream));
                    }
                });
            }
        });
        gate
    }

    pub fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.port)
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// One connection.
struct Visit {
    upstream: String,
    judge: Arc<Judge>,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Visit {
    fn serve(&self, stream: impl Read + Write) {
        let mut stream = BufReader::new(stream);
        while let Some(request) = read(&mut stream) {
            self.requests.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
            let (status, head, body) = match (self.judge)(&request) {
                Answer::Status(status, head) => (status, head, Vec::new()),
                Answer::Passed => match self.pass(request) {
                    Some((status, body)) => (status, "", body),
                    None => (502, "", Vec::new()),
                },
            };
            let head = format!("HTTP/1.1 {status} .\r\n{head}content-length: {}\r\n\r\n", body.len());
            let stream = stream.get_mut();
            if stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body)).is_err() {
                return;
            }
            let _ = stream.flush();
        }
    }

    fn pass(&self, request: Request) -> Option<(u16, Vec<u8>)> {
        let method = request.method.parse().ok()?;
        let passed = client().request(method, format!("{}{}", self.upstream, request.path));
        let answer = passed.header("content-type", "application/x-ndjson").body(request.body).send().ok()?;
        Some((answer.status().as_u16(), answer.bytes().ok()?.to_vec()))
    }
}

fn read(stream: &mut impl BufRead) -> Option<Request> {
    let mut line = || {
        let mut line = String::new();
        stream.read_line(&mut line).ok().filter(|length| *length > 0).map(|_| line.trim_end().to_owned())
    };
    let first = line()?;
    let (mut length, mut login) = (0, String::new());
    loop {
        let header = line()?;
        let Some((name, value)) = header.split_once(':') else { break };
        match name.to_lowercase().as_str() {
            "content-length" => length = value.trim().parse().ok()?,
            "authorization" => login = value.trim().to_owned(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    let mut words = first.split(' ').map(str::to_owned);
    Some(Request { at: Instant::now(), method: words.next()?, path: words.next()?, login, body })
}
