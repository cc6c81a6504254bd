use std::{
    io::{self, Read, Write},
    net::TcpStream,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use axum::body::{Body, Bytes};

use super::*;
use crate::{
    Handler, Message, Shutdown, Stop, Topic, Verdict,
    bus::{Bus, Outbox, memory::MemoryBus},
    config::Config,
};

/// No step takes longer.
const LONG: Duration = Duration::from_secs(20);

/// Where any free port will do.
const ANY: &str = "127.0.0.1:0";

/// The status and the body of an answer to a request with this first line.
fn ask(server: &Server, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    write!(stream, "{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn wait_for(server: &Server, path: &str, status: u16) -> String {
    let deadline = Instant::now() + LONG;
    loop {
        let (found, body) = ask(server, &format!("GET {path}"));
        if found == status {
            return body;
        }
        assert!(Instant::now() < deadline, "{path} stays {found}: {body}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A handler that waits for a word at each batch, and says that it is ill while it is told to.
struct Waits {
    word: mpsc::Receiver<()>,
    ill: Arc<AtomicBool>,
}

impl Handler for Waits {
    fn handle(&mut self, messages: &mut [Message<'_>]) -> anyhow::Result<Vec<Verdict>> {
        let _ = self.word.recv_timeout(LONG);
        Ok(messages.iter().map(|_| Verdict::Finish).collect())
    }

    fn ill(&self) -> Option<std::borrow::Cow<'static, str>> {
        self.ill.load(Ordering::Relaxed).then(|| "no paper".into())
    }
}

/// Asks for the end, where a test fails too.
struct AtEnd<'a>(&'a Shutdown);

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        self.0.request();
    }
}

#[test]
fn a_stop_that_hangs_is_not_alive_and_one_that_says_so_is_ill() {
    let (config, here) = (Config::load(None, [("METROBUS__STOPS", "Here")]).unwrap(), Topic::new("Here").unwrap());
    let (send, word) = mpsc::channel();
    let ill = Arc::new(AtomicBool::new(false));
    let stop = Stop::new("tester", &here, Waits { word, ill: ill.clone() }, &config);
    let stops = vec![stop.watch()].into();
    let process = Process { stops, parts: Vec::new(), stall: Duration::from_millis(500), counters: None };
    let server = Server::start(ANY.parse().unwrap(), process).unwrap();
    assert_eq!(ask(&server, "GET /readyz"), (503, "tester: is starting\n".into()));
    let bus = MemoryBus::default();
    bus.create_topics(std::slice::from_ref(&here)).unwrap();
    let (shutdown, failed) = (Shutdown::default(), Mutex::new(None));
    std::thread::scope(|scope| {
        let _end = AtEnd(&shutdown);
        scope.spawn(|| *failed.lock().unwrap() = stop.run(&bus, &shutdown).err());
        assert_eq!(wait_for(&server, "/readyz", 200), "ok\n");
        assert_eq!(wait_for(&server, "/livez", 200), "ok\n");
        let well = r#"{"status":"ok","message":"No messages in last 60.0s","bus":"ok","handler":"ok"}"#;
        assert_eq!(wait_for(&server, "/healthcheck", 200), well);

        ill.store(true, Ordering::Relaxed);
        let body = r#"{"status":"fail","message":"tester is ill: no paper","bus":"ok","handler":"ok"}"#;
        assert_eq!(wait_for(&server, "/healthcheck", 500), body);
        wait_for(&server, "/livez", 200);
        ill.store(false, Ordering::Relaxed);
        assert_eq!(wait_for(&server, "/healthcheck", 200), well);

        let mut outbox = Outbox::default();
        outbox.publish(&here, 5, None, Some(br#"{"header":{"route":[]},"payload":{}}"#));
        bus.publisher().unwrap().publish(&outbox).unwrap();
        assert!(wait_for(&server, "/livez", 503).starts_with("tester: its loop has not turned for "));
        send.send(()).unwrap();
        wait_for(&server, "/livez", 200);
        let one = r#"{"status":"ok","message":"Success rate: 1.0 (expected: 0.95)","success":1,"fail":0,"bus":"ok","handler":"ok"}"#;
        assert_eq!(wait_for(&server, "/healthcheck", 200), one);
    });
    assert!(failed.lock().unwrap().is_none());
    assert_eq!(ask(&server, "GET /readyz"), (503, "tester: has ended\n".into()));
}

#[test]
fn what_is_not_there_is_404_and_what_is_not_done_is_405() {
    let process =
        || Process { stops: Stops::default(), parts: Vec::new(), stall: Duration::from_secs(1), counters: None };
    let server = Server::start(ANY.parse().unwrap(), process()).unwrap();
    for path in ["/", "/metrics/", "/livez2", "/..%2f..%2fetc%2fpasswd", "//metrics"] {
        assert_eq!(ask(&server, &format!("GET {path}")).0, 404, "{path}");
    }
    for method in ["POST", "PUT", "DELETE"] {
        assert_eq!(ask(&server, &format!("{method} /metrics")).0, 405, "{method}");
    }
    assert_eq!(ask(&server, "HEAD /livez"), (200, String::new()));
    assert_eq!(ask(&server, "GET /healthcheck?a=%00").0, 200);
    let taken = Server::start(server.address(), process()).err().map(|error| error.kind());
    assert_eq!(taken, Some(io::ErrorKind::AddrInUse));
    let address = server.address();
    drop(server);
    assert!(TcpStream::connect(address).is_err(), "it answers after its end");
}

/// Tells by its end that a body is not wanted any more.
struct Wanted(mpsc::Sender<()>);

impl Drop for Wanted {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

#[test]
fn a_client_that_takes_nothing_is_let_go_and_makes_room() {
    let (send, dropped) = mpsc::channel();
    let endless = move || {
        let wanted = Wanted(send.clone());
        let chunk = Bytes::from(vec![b'x'; 1 << 20]);
        async move {
            let chunks = futures_util::stream::repeat_with(move || {
                let _ = &wanted;
                Ok::<_, std::convert::Infallible>(chunk.clone())
            });
            Body::from_stream(chunks)
        }
    };
    let router = Router::new().route("/endless", get(endless)).route("/", get(async || "here"));
    let limits = Limits { connections: 1, lifetime: LONG, stalled: Duration::from_millis(200) };
    let server = Server::serve(ANY.parse().unwrap(), "test", router, limits).unwrap();
    let mut stream = TcpStream::connect(server.address()).unwrap();
    write!(stream, "GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    dropped.recv_timeout(LONG).expect("it is let go");
    assert_eq!(ask(&server, "GET /"), (200, "here".into()), "there is room for one at a time");
}
