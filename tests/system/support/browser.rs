//! A real browser without a window, driven over the DevTools protocol by its pipe: no port, and no crate that wants one.
//!
//! The protocol is JSON with a zero byte behind each message
//! (<https://chromedevtools.github.io/devtools-protocol/>, `--remote-debugging-pipe`). The browser reads it as its file 3 and
//! writes it as its file 4; a shell hands it the pipes of standard input and output under these numbers. It ends when they
//! close, so it ends with the test also where that is killed.

use std::cell::{Cell, RefCell};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{Scratch, given, skip, try_until};

/// An answer of the browser that takes longer never comes.
const ANSWER: Duration = Duration::from_secs(60);

const FLAGS: [&str; 16] = [
    "--headless",
    "--no-sandbox", // tests run as root in CI
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--lang=en",
    // Whatever wants another host finds none
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    "--remote-debugging-pipe",
    "about:blank",
];

/// What a page is shown on.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    pub width: u32,
    pub height: u32,
    pub phone: bool,
    pub dark: bool,
}

impl Screen {
    pub const DESK: Screen = Screen { width: 1440, height: 900, phone: false, dark: false };
    pub const DARK: Screen = Screen { dark: true, ..Screen::DESK };
    pub const PHONE: Screen = Screen { width: 390, height: 844, phone: true, dark: false };
}

/// A browser with one page. Dropping it ends it.
pub struct Browser {
    child: Child,
    input: RefCell<ChildStdin>,
    output: Receiver<Value>,
    session: String,
    last: Cell<u64>,
    events: RefCell<Vec<Value>>,
    /// Its profile, which goes when it has ended.
    _profile: Scratch,
}

impl Browser {
    /// Starts one with an empty profile and an empty page. `None` where there is no browser.
    pub fn start(screen: Screen) -> Option<Browser> {
        let Some(binary) = given("METROBUS_TEST_CHROMIUM") else {
            return skip("no browser: METROBUS_TEST_CHROMIUM is not set, scripts/with-services.sh sets it");
        };
        let profile = Scratch::new();
        let mut command = Command::new("sh");
        command.args(["-c", r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null"#, &binary]);
        command.arg(format!("--user-data-dir={}", profile.root().display())).args(FLAGS);
        command.env("HOME", profile.root()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("start {binary}: {e}"));
        let input = RefCell::new(child.stdin.take().expect("a pipe"));
        let mut pipe = BufReader::new(child.stdout.take().expect("a pipe"));
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            while pipe.read_until(0, &mut bytes).is_ok_and(|read| read > 0) {
                let message = serde_json::from_slice(bytes.strip_suffix(&[0]).unwrap_or(&bytes));
                if sender.send(message.expect("JSON of the browser")).is_err() {
                    return;
                }
                bytes.clear();
            }
        });
        let mut browser = Browser {
            child,
            input,
            output,
            session: String::new(),
            last: Cell::new(0),
            events: RefCell::default(),
            _profile: profile,
        };
        let page = browser.call("Target.createTarget", json!({"url": "about:blank"}))["targetId"].clone();
        let attached = browser.call("Target.attachToTarget", json!({"targetId": page, "flatten": true}));
        browser.session = attached["sessionId"].as_str().expect("a session").to_owned();
        for domain in ["Page", "Runtime", "Log", "Network", "Accessibility"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser.screen(screen);
        Some(browser)
    }

    /// Shows the page on another screen.
    pub fn screen(&self, screen: Screen) {
        let Screen { width, height, phone, dark } = screen;
        let scale = if phone { 2 } else { 1 };
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": scale, "mobile": phone});
        self.call("Emulation.setDeviceMetricsOverride", metrics);
        let scheme = if dark { "dark" } else { "light" };
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// Goes to an address, and returns when the page there is loaded.
    pub fn open(&self, url: &str) {
        let went = self.call("Page.navigate", json!({ "url": url }));
        assert!(went["errorText"].is_null(), "open {url}: {}", went["errorText"]);
        self.wait("the page to be loaded", "document.readyState === 'complete' && location.href !== 'about:blank'");
    }

    /// The value of an expression, once it is no promise any more. Panics where it throws.
    pub fn evaluate(&self, expression: &str) -> Value {
        let arguments = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let answer = self.call("Runtime.evaluate", arguments);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {}", answer["exceptionDetails"]);
        answer["result"]["value"].clone()
    }

    /// As [`Browser::evaluate`], for text.
    pub fn text(&self, expression: &str) -> String {
        let value = self.evaluate(expression);
        value.as_str().unwrap_or_else(|| panic!("{expression} is {value}")).to_owned()
    }

    /// Waits until an expression is true, as JavaScript has it, and gives its value. Panics with what the page shows.
    #[track_caller]
    pub fn wait(&self, what: &str, expression: &str) -> Value {
        self.wait_for(what, Duration::from_secs(30), expression)
    }

    /// As [`Browser::wait`], with a deadline.
    #[track_caller]
    pub fn wait_for(&self, what: &str, deadline: Duration, expression: &str) -> Value {
        let value = try_until(deadline, || Some(self.evaluate(expression)).filter(truthy));
        value.unwrap_or_else(|| {
            let shown = self.evaluate("document.body?.innerText");
            panic!("waited {deadline:?} in vain for {what}; the page:\n{}", shown.as_str().unwrap_or_default());
        })
    }

    /// Waits until a selector finds an element with this text in it, and clicks it with the mouse.
    #[track_caller]
    pub fn click(&self, selector: &str, text: &str) {
        let find = format!(
            "[...document.querySelectorAll({})].find(e => e.textContent.includes({}) && !e.disabled)",
            json!(selector),
            json!(text)
        );
        // Where it stands still: what has just come may move
        let centre = format!(
            "new Promise(done => {{ const e = {find}; if (!e) return done(null); e.scrollIntoView({{block: 'nearest'}}); \
             const at = () => {{ const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2] }}; \
             const before = at(); requestAnimationFrame(() => requestAnimationFrame(() => \
             done(e.isConnected && `${{at()}}` === `${{before}}` ? before : null))) }})"
        );
        let at = self.wait(&format!("{selector} with {text:?}"), &centre);
        for kind in ["mouseMoved", "mousePressed", "mouseReleased"] {
            let button = json!({"type": kind, "x": at[0], "y": at[1], "button": "left", "clickCount": 1});
            self.call("Input.dispatchMouseEvent", button);
        }
    }

    /// Presses a key: `Tab`, `Enter`, `Escape`, `Space` or an arrow, such as `ArrowRight`.
    pub fn press(&self, key: &str) {
        let (code, text) = match key {
            "Tab" => (9, ""),
            "Enter" => (13, "\r"),
            "Escape" => (27, ""),
            "Space" => (32, " "),
            "ArrowLeft" => (37, ""),
            "ArrowUp" => (38, ""),
            "ArrowRight" => (39, ""),
            "ArrowDown" => (40, ""),
            _ => panic!("no such key here: {key}"),
        };
        let name = if key == "Space" { " " } else { key };
        let event = |kind: &str| json!({"type": kind, "key": name, "code": key, "windowsVirtualKeyCode": code});
        let mut down = event(if text.is_empty() { "rawKeyDown" } else { "keyDown" });
        if !text.is_empty() {
            down["text"] = json!(text);
        }
        self.call("Input.dispatchKeyEvent", down);
        self.call("Input.dispatchKeyEvent", event("keyUp"));
    }

    /// Types into what has the focus.
    pub fn type_text(&self, text: &str) {
        self.call("Input.insertText", json!({ "text": text }));
    }

    /// Keeps a picture of the page as target/screenshots/`name`.png.
    pub fn screenshot(&self, name: &str) -> PathBuf {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/screenshots");
        std::fs::create_dir_all(&folder).expect("make a folder for pictures");
        let answer = self.call("Page.captureScreenshot", json!({"format": "png"}));
        let bytes = STANDARD.decode(answer["data"].as_str().expect("a picture")).expect("base64");
        let path = folder.join(format!("{name}.png"));
        std::fs::write(&path, bytes).expect("write a picture");
        path
    }

    /// Role and name of everything that a screen reader meets.
    pub fn accessible(&self) -> Vec<(String, String)> {
        let tree = self.call("Accessibility.getFullAXTree", json!({}));
        let nodes = tree["nodes"].as_array().expect("nodes").iter().filter(|node| node["ignored"] == false);
        let text = |value: &Value| value["value"].as_str().unwrap_or_default().to_owned();
        nodes.map(|node| (text(&node["role"]), text(&node["name"]))).collect()
    }

    /// The addresses that were asked for so far.
    pub fn requests(&self) -> Vec<String> {
        self.events("Network.requestWillBeSent", |event| event["request"]["url"].as_str().map(str::to_owned))
    }

    /// What went wrong in the page so far: errors in its console, exceptions, blocked content, dialogs. An answer of the
    /// API that is no success is none of that.
    pub fn errors(&self) -> Vec<String> {
        let mut errors = self.events("Log.entryAdded", |event| {
            let entry = &event["entry"];
            let answer = entry["source"] == "network" && entry["url"].as_str().is_some_and(|url| url.contains("/api/"));
            (entry["level"] == "error" && !answer).then(|| entry.to_string())
        });
        errors.extend(self.events("Runtime.exceptionThrown", |event| Some(event.to_string())));
        errors.extend(self.events("Page.javascriptDialogOpening", |event| Some(event.to_string())));
        errors.extend(self.events("Runtime.consoleAPICalled", |event| {
            ["error", "assert"].contains(&event["type"].as_str()?).then(|| event.to_string())
        }));
        errors
    }

    fn events<T>(&self, method: &str, what: impl Fn(&Value) -> Option<T>) -> Vec<T> {
        // What has come is taken in with the next answer
        self.call("Runtime.evaluate", json!({"expression": "0"}));
        let events = self.events.borrow();
        events.iter().filter(|event| event["method"] == method).filter_map(|event| what(&event["params"])).collect()
    }

    /// Calls a method of the protocol and gives its result.
    pub fn call(&self, method: &str, params: Value) -> Value {
        let id = self.send(method, params);
        let end = Instant::now() + ANSWER;
        loop {
            let message = match self.output.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout) => panic!("{method} got no answer within {ANSWER:?}"),
                Err(RecvTimeoutError::Disconnected) => panic!("the browser ended before it answered {method}"),
            };
            if message["id"] == id {
                assert!(message["error"].is_null(), "{method}: {}", message["error"]);
                return message["result"].clone();
            }
            if message["method"] == "Page.javascriptDialogOpening" {
                // It would hold everything up
                self.send("Page.handleJavaScriptDialog", json!({"accept": false}));
            }
            self.events.borrow_mut().push(message);
        }
    }

    fn send(&self, method: &str, params: Value) -> u64 {
        self.last.set(self.last.get() + 1);
        let mut message = json!({"id": self.last.get(), "method": method, "params": params});
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        let text = format!("{message}\0");
        self.input.borrow_mut().write_all(text.as_bytes()).unwrap_or_else(|e| panic!("call {method}: {e}"));
        self.last.get()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64().is_some_and(|number| number != 0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(_) | Value::Object(_) => true,
    }
}
