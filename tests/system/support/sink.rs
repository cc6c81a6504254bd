//! A receiver of webhooks: it keeps what arrives as it came, and answers as a test says.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub at: Instant,
    pub method: String,
    /// Path and query, as they stood there.
    pub target: String,
    /// Names in lower case, in their order.
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
}

impl Arrival {
    /// The first header of that name, in lower case, where it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(known, _)| known == name)?;
        std::str::from_utf8(value).ok()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A status, and lines of the head, each with its end.
pub type Reply = (u16, &'static str);

type Judge = dyn Fn(&Arrival) -> Reply + Send + Sync;

/// Dropping it ends it.
pub struct Sink {
    port: u16,
    arrivals: Arc<Mutex<Vec<Arrival>>>,
    ended: Arc<AtomicBool>,
}

impl Sink {
    pub fn start(judge: impl Fn(&Arrival) -> Reply + Send + Sync + 'static) -> Sink {
        Sink::listen(true, Arc::new(judge))
    }

    /// One that keeps nothing but what `judge` keeps.
    pub fn forgetful(judge: impl Fn(&Arrival) -> Reply + Send + Sync + 'static) -> Sink {
        Sink::listen(false, Arc::new(judge))
    }

    fn listen(keeps: bool, judge: Arc<Judge>) -> Sink {
        let listener = TcpListener::bind(("127.0.0.1", super::free_port())).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let sink = Sink { port, arrivals: Arc::default(), ended: Arc::default() };
        let (arrivals, ended) = (Arc::clone(&sink.arrivals), Arc::clone(&sink.ended));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let (arrivals, judge) = (Arc::clone(&arrivals), Arc::clone(&judge));
                std::thread::spawn(move || serve(stream, keeps.then_some(&*arrivals), &*judge));
            }
        });
        sink
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn len(&self) -> usize {
        self.locked().len()
    }

    /// All that has arrived so far.
    pub fn arrivals(&self) -> Vec<Arrival> {
        self.locked().clone()
    }

    /// What has arrived from the place `from` on.
    pub fn since(&self, from: usize) -> Vec<Arrival> {
        self.locked()[from..].to_vec()
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Vec<Arrival>> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// One connection, to its end.
fn serve(stream: TcpStream, arrivals: Option<&Mutex<Vec<Arrival>>>, judge: &Judge) {
    let _ = stream.set_nodelay(true);
    let mut stream = BufReader::new(stream);
    while let Some(arrival) = read(&mut stream) {
        let (status, head) = judge(&arrival);
        let answer = format!("HTTP/1.1 {status} .\r\n{head}content-length: 0\r\n\r\n");
        // What has been answered has arrived: whoever looks then finds it
        if let Some(arrivals) = arrivals {
            arrivals.lock().unwrap_or_else(PoisonError::into_inner).push(arrival);
        }
        if stream.get_mut().write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// `None` at the end of the connection, and where what comes is no whole request.
fn read(stream: &mut impl BufRead) -> Option<Arrival> {
    let first = line(stream)?;
    let mut words = first.split(|byte| *byte == b' ').map(|word| String::from_utf8_lossy(word).into_owned());
    let (method, target) = (words.next()?, words.next()?);
    let mut headers = Vec::new();
    loop {
        let header = line(stream)?;
        let Some(colon) = header.iter().position(|byte| *byte == b':') else { break };
        let name = String::from_utf8_lossy(&header[..colon]).to_lowercase();
        headers.push((name, header[colon + 1..].trim_ascii().to_vec()));
    }
    let mut arrival = Arrival { at: Instant::now(), method, target, headers, body: Vec::new() };
    let length = arrival.header("content-length").map_or(Some(0), |length| length.parse().ok())?;
    arrival.body.resize(length, 0);
    stream.read_exact(&mut arrival.body).ok()?;
    Some(arrival)
}

fn line(stream: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line).ok().filter(|length| *length > 0)?;
    while line.last().is_some_and(|byte| matches!(byte, b'\r' | b'\n')) {
        line.pop();
    }
    Some(line)
}
