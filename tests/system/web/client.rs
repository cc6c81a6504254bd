//! A client that sends what it is told to, byte for byte.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::Value;

use super::TOKEN;
use crate::support::wait_until;

/// No answer takes longer.
pub const SOON: Duration = Duration::from_secs(60);

pub struct Client {
    pub address: SocketAddr,
}

/// What is asked.
pub struct Ask<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub headers: Vec<(&'a str, String)>,
    pub body: &'a str,
}

impl<'a> Ask<'a> {
    pub fn get(path: &'a str) -> Self {
        Ask { method: "GET", path, headers: Vec::new(), body: "" }
    }

    /// With all that it takes to act.
    pub fn post(path: &'a str, body: &'a str) -> Self {
        let headers = vec![("Authorization", format!("Bearer {TOKEN}")), ("Content-Type", "application/json".into())];
        Ask { method: "POST", path, headers, body }
    }

    /// With this header instead of what there was.
    pub fn with(mut self, name: &'a str, value: &str) -> Self {
        self = self.without(name);
        self.headers.push((name, value.to_owned()));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(other, _)| *other != name);
        self
    }
}

pub struct Answer {
    pub status: u16,
    /// By names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {} {}", self.status, self.body))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The sentence of a problem; panics on anything else.
    #[track_caller]
    pub fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.body);
        assert_eq!(self.header("content-type"), "application/problem+json", "{}", self.body);
        let problem = self.json();
        assert_eq!(problem["status"], status);
        assert!(problem["title"].as_str().is_some_and(|title| !title.is_empty()), "{problem}");
        problem["detail"].as_str().expect("a sentence").to_owned()
    }
}

impl Client {
    pub fn new(address: SocketAddr) -> Client {
        Client { address }
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("connect");
        stream.set_read_timeout(Some(SOON)).expect("a timeout");
        stream
    }

    pub fn ask(&self, ask: Ask<'_>) -> Answer {
        let mut stream = self.connect();
        let host = ask.headers.iter().any(|(name, _)| *name == "Host");
        let mut request = format!("{} {} HTTP/1.1\r\nConnection: close\r\n", ask.method, ask.path);
        if !host {
            request += &format!("Host: {}\r\n", self.address);
        }
        for (name, value) in &ask.headers {
            request += &format!("{name}: {value}\r\n");
        }
        if ask.method == "POST" {
            request += &format!("Content-Length: {}\r\n", ask.body.len());
        }
        // The server may answer, and close, before it has read all
        let _ = stream.write_all(format!("{request}\r\n{}", ask.body).as_bytes());
        read(stream)
    }

    pub fn get(&self, path: &str) -> Answer {
        self.ask(Ask::get(path))
    }

    /// The JSON at `path`.
    #[track_caller]
    pub fn json(&self, path: &str) -> Value {
        let answer = self.get(path);
        assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"), "{}", answer.body);
        assert_eq!(answer.header("cache-control"), "no-store");
        answer.json()
    }

    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask(Ask::post(path, &body.to_string()))
    }

    /// The picture, once it is as `is` says.
    pub fn picture(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        wait_until(what, SOON, || Some(self.json("/api/map")).filter(&is))
    }

    /// The pictures as they come.
    pub fn events(&self) -> Events {
        let mut stream = self.connect();
        // Not in chunks, as this is before those
        write!(stream, "GET /api/events HTTP/1.0\r\nHost: localhost\r\n\r\n").expect("ask");
        let mut lines = BufReader::new(stream);
        let head = Events::head(&mut lines);
        assert!(head.starts_with("HTTP/1.0 200 "), "{head}");
        assert!(head.contains("content-type: text/event-stream\n"), "{head}");
        Events(lines)
    }
}

/// Server-sent events.
pub struct Events(BufReader<TcpStream>);

impl Events {
    fn head(lines: &mut BufReader<TcpStream>) -> String {
        let mut head = String::new();
        while lines.read_line(&mut head).expect("a line") > 2 {}
        head.replace('\r', "")
    }

    /// The next picture; `None` where the server has ended.
    pub fn next(&mut self) -> Option<Value> {
        let mut event = String::new();
        while !event.ends_with("\n\n") {
            self.0.read_line(&mut event).ok().filter(|read| *read > 0)?;
        }
        let data = event.strip_prefix("event: map\ndata: ").unwrap_or_else(|| panic!("no event: {event}"));
        Some(serde_json::from_str(data).expect("JSON"))
    }

    /// The first picture that is as `is` says.
    pub fn wait_for(&mut self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let deadline = std::time::Instant::now() + SOON;
        loop {
            let picture = self.next().unwrap_or_else(|| panic!("ended without {what}"));
            if is(&picture) {
                return picture;
            }
            assert!(std::time::Instant::now() < deadline, "never {what}: {picture}");
        }
    }
}

/// What is answered, to its end.
pub fn read(mut stream: TcpStream) -> Answer {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8(bytes).expect("text");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok());
    let header = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()));
    let mut headers = BTreeMap::new();
    for (name, value) in lines.filter_map(header) {
        assert!(headers.insert(name, value).is_none(), "a header comes twice: {head}");
    }
    Answer { status: status.expect("a status"), headers, body: body.to_owned() }
}
