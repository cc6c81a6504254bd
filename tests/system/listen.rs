//! A receiver for development: what it shows, verifies, answers and forwards.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use ring::hmac;
use serde_json::{Value, json};

use crate::support::{Metrobus, Process, Scratch, Signal, free_port, wait_until};

const DEADLINE: Duration = Duration::from_secs(30);

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A receiver, and the port that it listens on.
pub struct Listen {
    pub process: Process,
    pub port: u16,
}

impl Listen {
    pub fn start(call: Metrobus, arguments: &[&str]) -> Listen {
        let port = free_port();
        let call = call.args(["listen", "--port", &port.to_string()]).args(arguments.iter().copied());
        let mut process = call.spawn();
        process.wait_for_stderr(&format!("listens on http://127.0.0.1:{port} "), DEADLINE);
        Listen { process, port }
    }

    /// The lines of `--json`, once there are so many.
    pub fn lines(&self, count: usize) -> Vec<Value> {
        wait_until("requests to be shown", DEADLINE, || {
            let text = self.process.stdout_text();
            (text.matches('\n').count() >= count)
                .then(|| text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect())
        })
    }

    fn post(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> (u16, String, String) {
        answer(send(self.port, path, headers, body))
    }
}

fn send(port: u16, path: &str, headers: &[(&str, &str)], body: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connect");
    stream.set_read_timeout(Some(DEADLINE)).expect("a time-out");
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat()).expect("send");
    stream
}

/// Status, head in lower case, and body.
fn answer(mut stream: TcpStream) -> (u16, String, String) {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, head.to_lowercase(), body.to_owned())
}

/// The headers of a webhook, by the words of the specification and none of the program's code.
fn signed(secret: &str, id: &str, body: &str) -> [(&'static str, String); 3] {
    let key = BASE64_STANDARD.decode(secret.strip_prefix("whsec_").expect("a secret")).expect("base64");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), format!("{id}.{now}.{body}").as_bytes());
    let signature = format!("v1,{}", BASE64_STANDARD.encode(tag));
    [("webhook-id", id.to_owned()), ("webhook-timestamp", now.to_string()), ("webhook-signature", signature)]
}

#[test]
fn a_signature_is_verified_and_what_comes_again_is_told() {
    let scratch = Scratch::new();
    let file = scratch.write("keys", format!("# the new one\nwhsec_{}\n{SECRET}\n", BASE64_STANDARD.encode([7; 32])));
    let listen = Listen::start(Metrobus::new(), &["--json", "--secret-file", file.to_str().expect("a path")]);
    assert!(listen.process.stderr_text().contains("verifies with 2 keys"), "{}", listen.process.stderr_text());
    let body = r#"{"amount":2.50}"#;
    let headers = signed(SECRET, "msg_1", body);
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(listen.post("/hook?a=1", &headers, body.as_bytes()).0, 200);
    assert_eq!(listen.post("/hook", &headers, body.as_bytes()).0, 200);
    assert_eq!(listen.post("/hook", &headers, b"{\"amount\":3}").0, 200);
    assert_eq!(listen.post("/", &[], b"plain text").0, 200);
    let lines = listen.lines(4);
    let of =
        |line: &Value| [line["id"].clone(), line["attempt"].clone(), line["verified"].clone(), line["body"].clone()];
    assert_eq!(of(&lines[0]), [json!("msg_1"), json!(1), json!(true), json!({"amount": 2.5})]);
    assert_eq!(of(&lines[1])[1..3], [json!(2), json!(true)]);
    assert_eq!(of(&lines[2])[1..3], [json!(3), json!(false)]);
    assert!(lines[2]["why"].as_str().expect("a reason").starts_with("no signature is by a key"), "{}", lines[2]);
    assert_eq!(of(&lines[3]), [Value::Null, json!(1), Value::Null, json!("plain text")]);
    assert_eq!(lines[3]["why"], "unsigned");
    assert_eq!((&lines[0]["method"], &lines[0]["path"]), (&json!("POST"), &json!("/hook?a=1")));
    assert_eq!(lines[0]["headers"]["host"], "localhost");
    assert!(listen.process.stdout_text().contains("\"body\":{\"amount\":2.50}"), "numbers are as they were sent");
}

#[test]
fn a_person_reads_what_arrives_and_ctrl_c_ends_it_well() {
    let mut listen = Listen::start(Metrobus::new().env("METROBUS_LISTEN_SECRET", SECRET), &[]);
    let headers = signed(SECRET, "msg_1", "{\"a\":[1]}");
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    listen.post("/", &headers, b"{\"a\":[1]}");
    listen.post("/", &headers, b"{\"a\":[2]}");
    let text = wait_until("two requests", DEADLINE, || {
        let text = listen.process.stdout_text();
        (text.matches("POST /").count() == 2 && text.ends_with("  }\n")).then_some(text)
    });
    let (first, second) = text.split_once("Z  POST /  msg_1, time 2").expect("the second time");
    assert!(
        first.contains("Z  POST /  msg_1  ✓ verified  → 200 in ") && first.contains("\n    \"a\": [\n      1\n    ]\n"),
        "{text}"
    );
    assert!(second.contains("✗ no signature is by a key that is known here"), "{text}");
    assert!(!text.contains("webhook-timestamp"), "headers are for --headers");
    listen.process.signal(Signal::INT);
    let output = listen.process.wait(DEADLINE).assert_code(0);
    assert!(!output.stderr.contains("MfKQ9r8") && !output.stdout_text().contains("MfKQ9r8"));
}

#[test]
fn it_fails_as_it_is_told_to() {
    let run = |arguments: &[&str], ids: &[&str]| -> Vec<u16> {
        let listen = Listen::start(Metrobus::new(), arguments);
        ids.iter().map(|id| listen.post("/", &[("webhook-id", id)], b"{}").0).collect()
    };
    assert_eq!(run(&["--status", "503,410,204"], &["a", "b", "c", "d"]), [503, 410, 204, 204]);
    assert_eq!(run(&["--fail-first", "2"], &["a", "a", "b", "a", "b", "b"]), [500, 500, 500, 200, 500, 200]);
    for wrong in [vec!["--status", "99"], vec!["--status", "x"], vec!["--forward", "http://a", "--status", "500"]] {
        Metrobus::new().arg("listen").args(wrong).run().assert_code(2);
    }
    let output = Metrobus::new().args(["listen", "--secret-file", "/nowhere"]).run().assert_code(78);
    assert!(output.stderr.contains("--secret-file: cannot read /nowhere"), "{}", output.stderr);
    let scratch = Scratch::new();
    let file = scratch.write("key", "whsec_s3cret");
    let output = Metrobus::new().args(["listen", "--secret-file"]).arg(&file).run().assert_code(78);
    assert!(output.stderr.contains("line 1: ") && !output.stderr.contains("s3cret"), "{}", output.stderr);
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let output = Metrobus::new().args(["listen", "--port", &port]).run().assert_code(69);
    assert!(output.stderr.contains("is in use; end what listens there, or take another --port"), "{}", output.stderr);
}

/// Who gives up before the answer is shown all the same.
#[test]
fn a_slow_answer_is_slow_and_its_request_is_shown() {
    let listen = Listen::start(Metrobus::new(), &["--json", "--slow", "1h"]);
    let mut stream = send(listen.port, "/", &[], b"{}");
    assert_eq!(listen.lines(1)[0]["status"], 200);
    stream.set_read_timeout(Some(Duration::from_millis(200))).expect("a time-out");
    let error = stream.read(&mut [0]).expect_err("no answer yet");
    assert!(matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut), "{error}");
}

#[test]
fn what_is_forwarded_and_answered_is_as_it_came() {
    let program = TcpListener::bind("127.0.0.1:0").expect("a port");
    let behind = program.local_addr().expect("an address").port();
    let answering = thread::spawn(move || {
        let (mut stream, _) = program.accept().expect("a request");
        let mut request = Vec::new();
        let mut buffer = [0; 4096];
        while !request.ends_with(b"{ \"a\": 2.50 }") {
            let count = stream.read(&mut buffer).expect("the request");
            assert!(count > 0, "{}", String::from_utf8_lossy(&request));
            request.extend_from_slice(&buffer[..count]);
        }
        let answer = "HTTP/1.1 418 I'm a teapot\r\nX-Mine: yes\r\nContent-Encoding: odd\r\nRetry-After: 7\r\nContent-Length: 5\r\n\r\nshort";
        stream.write_all(answer.as_bytes()).expect("answer");
        String::from_utf8(request).expect("text").to_lowercase()
    });
    let url = format!("http://127.0.0.1:{behind}/app/?k=1");
    let listen = Listen::start(Metrobus::new(), &["--json", "--forward", &url]);
    let headers = [
        ("webhook-id", "m1"),
        ("X-A", "b"),
        ("Content-Type", "application/x-own"),
        ("Keep-Alive", "5"),
        ("Connection", "X-Hop"),
        ("X-Hop", "1"),
    ];
    let (status, head, body) = listen.post("/orders?b=2", &headers, b"{ \"a\": 2.50 }");
    let request = answering.join().expect("the program");
    assert!(request.starts_with("post /app/orders?k=1&b=2 http/1.1\r\n"), "{request}");
    for header in [
        "webhook-id: m1\r\n",
        "x-a: b\r\n",
        "content-type: application/x-own\r\n",
        &format!("host: 127.0.0.1:{behind}\r\n"),
    ] {
        assert!(request.contains(header), "{request}");
    }
    assert!(!request.contains("keep-alive") && !request.contains("x-hop"), "{request}");
    assert_eq!((status, body.contains("short")), (418, true));
    for header in ["x-mine: yes", "content-encoding: odd", "retry-after: 7"] {
        assert!(head.contains(header), "{head}");
    }
    assert_eq!(listen.lines(1)[0]["status"], 418);
    // Nobody is there any more
    let (status, _, body) = listen.post("/", &[], b"{}");
    assert_eq!(status, 502, "{body}");
    assert!(body.contains("the program behind --forward does not answer"), "{body}");
}
