//! HTTP on both ends: who posts as fast as it is answered, or at a rate, and who takes what is delivered.
//!
//! Both do as little as the protocol allows, and in one thread, since they share the machine with what is measured.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    time::{sleep_until, timeout},
};

use crate::process::DEADLINE;

/// What one load was.
pub struct Load {
    pub connections: usize,
    pub seconds: f64,
    /// Requests a second, all connections together; `None` is as fast as answers come.
    pub rate: Option<f64>,
}

/// What came of it.
pub struct Answered {
    /// Answers of the status that was wanted.
    pub answers: usize,
    /// Others.
    pub refused: usize,
    pub seconds: f64,
    /// Milliseconds from the time at which a request was due to its answer, shortest first.
    pub times: Vec<f64>,
    /// Seconds of processor time that the client itself used.
    pub cpu: f64,
}

/// Sends `request`, a whole one, again and again; `wanted` is the status of a good answer.
pub fn load(address: SocketAddr, request: &[u8], wanted: u16, load: &Load) -> Answered {
    let request: Arc<[u8]> = request.into();
    let before = cpu_of_thread();
    let start = Instant::now();
    let end = start + Duration::from_secs_f64(load.seconds);
    let every = load.rate.map(|rate| Duration::from_secs_f64(load.connections as f64 / rate));
    let (mut times, mut refused) = (Vec::new(), 0);
    runtime().block_on(async {
        let connection = |nth: usize| {
            let request = Arc::clone(&request);
            // Not all of them at once, where there is a rate
            let first = start + every.unwrap_or_default().mul_f64(nth as f64 / load.connections as f64);
            tokio::spawn(async move { connection(address, &request, wanted, first, every, end).await })
        };
        let connections: Vec<_> = (0..load.connections).map(connection).collect();
        for connection in connections {
            let (theirs, bad) = connection.await.expect("a connection").expect("an answer to each request");
            times.extend(theirs);
            refused += bad;
        }
    });
    times.sort_by(f64::total_cmp);
    let seconds = start.elapsed().as_secs_f64();
    Answered { answers: times.len(), refused, seconds, times, cpu: cpu_of_thread() - before }
}

async fn connection(
    address: SocketAddr,
    request: &[u8],
    wanted: u16,
    first: Instant,
    every: Option<Duration>,
    end: Instant,
) -> io::Result<(Vec<f64>, usize)> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut times, mut refused, mut due, mut buffer) = (Vec::new(), 0, first, Vec::with_capacity(4096));
    while Instant::now() < end {
        match every {
            None => due = Instant::now(),
            Some(_) => sleep_until(due.into()).await,
        }
        send(&stream, request).await?;
        let (head, body) = timeout(DEADLINE, receive(&stream, &mut buffer)).await??;
        let status = std::str::from_utf8(&buffer[..head]).ok().and_then(|text| text.get(9..12)?.parse::<u16>().ok());
        match status == Some(wanted) {
            true => times.push(due.elapsed().as_secs_f64() * 1e3),
            false => refused += 1,
        }
        buffer.drain(..head + body);
        due += every.unwrap_or_default();
    }
    Ok((times, refused))
}

/// Who takes requests; it is there until the bench ends.
pub struct Sink {
    pub address: SocketAddr,
    requests: Arc<AtomicU64>,
}

/// What a sink does with a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// It says 200.
    Answers,
    /// It says nothing.
    Hangs,
}

impl Sink {
    pub fn start(manner: Manner) -> Self {
        let listener = StdListener::bind("127.0.0.1:0").expect("bind a port");
        let address = listener.local_addr().expect("its address");
        listener.set_nonblocking(true).expect("a listener that does not block");
        let requests = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&requests);
        thread::spawn(move || {
            runtime().block_on(async {
                let listener = TcpListener::from_std(listener).expect("a listener");
                loop {
                    let Ok((stream, _)) = listener.accept().await else { continue };
                    let counted = Arc::clone(&counted);
                    // Whoever calls may go at any time
                    tokio::spawn(async move { serve(&stream, manner, &counted).await });
                }
            });
        });
        Self { address, requests }
    }

    /// Requests that have come so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

async fn serve(stream: &TcpStream, manner: Manner, counted: &AtomicU64) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(4096);
    loop {
        let (head, body) = receive(stream, &mut buffer).await?;
        buffer.drain(..head + body);
        counted.fetch_add(1, Ordering::Relaxed);
        if manner == Manner::Answers {
            send(stream, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
        }
    }
}

async fn send(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads until `buffer` holds a whole message; gives the lengths of its head and its body.
async fn receive(stream: &TcpStream, buffer: &mut Vec<u8>) -> io::Result<(usize, usize)> {
    loop {
        if let Some(head) = memchr::memmem::find(buffer, b"\r\n\r\n").map(|at| at + 4) {
            let body = content_length(&buffer[..head]);
            if buffer.len() >= head + body {
                return Ok((head, body));
            }
        }
        match stream.try_read_buf(buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.readable().await?,
            Err(error) => return Err(error),
        }
    }
}

fn content_length(head: &[u8]) -> usize {
    let text = std::str::from_utf8(head).unwrap_or_default();
    let mut fields = text.lines().filter_map(|line| line.split_once(':'));
    let length = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    length.and_then(|(_, value)| value.trim().parse().ok()).unwrap_or_default()
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_io().enable_time().build().expect("a runtime")
}

/// Seconds of processor time of this thread.
fn cpu_of_thread() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|nanos| nanos.parse::<f64>().ok()).unwrap_or_default() / 1e9
}

/// Whether what listens there says 200 to a GET of `path`.
pub fn is_ok(address: SocketAddr, path: &str) -> bool {
    use std::io::{Read, Write};
    let ask = || -> io::Result<String> {
        let mut stream = StdStream::connect(address)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// One that was free a moment ago.
pub fn free_address() -> SocketAddr {
    let listener = StdListener::bind("127.0.0.1:0").expect("bind a port");
    listener.local_addr().expect("its address")
}

/// The smallest figure that at least this share of them do not exceed.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}
