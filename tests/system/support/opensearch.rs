//! A real OpenSearch of one node: one that tests share, or one that a test may kill.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use reqwest::blocking::Client;
use serde_json::{Value, json};

use super::server::Server;
use super::{Scratch, free_port, given, skip};

const START: Duration = Duration::from_secs(90);

/// The ports that the runner takes for HTTP.
const PORTS: std::ops::RangeInclusive<u16> = 9201..=9298;

/// Fields drop in order: the process ends before its folder goes.
pub struct OpenSearch {
    port: u16,
    server: Server,
    scratch: Scratch,
}

impl OpenSearch {
    /// The node of all tests that ask for it at the time; they keep their indices apart by [`super::unique`]. It ends with
    /// the last of them: nobody drops a static.
    pub fn shared() -> Option<Arc<OpenSearch>> {
        static NODE: Mutex<Weak<OpenSearch>> = Mutex::new(Weak::new());
        let mut running = NODE.lock().unwrap_or_else(PoisonError::into_inner);
        running.upgrade().or_else(|| {
            let node = Arc::new(OpenSearch::start()?);
            *running = Arc::downgrade(&node);
            Some(node)
        })
    }

    /// A node of its own, whose data outlives [`kill`](OpenSearch::kill).
    pub fn start() -> Option<OpenSearch> {
        let Some(libs) = given("METROBUS_TEST_OPENSEARCH_LIBS") else {
            return skip("no OpenSearch: METROBUS_TEST_OPENSEARCH_LIBS is not set, scripts/with-services.sh sets it");
        };
        let java = given("METROBUS_TEST_JAVA").unwrap_or_else(|| "java".into());
        let mut last = String::new();
        for _ in 0..3 {
            match OpenSearch::launch(java.clone().into(), libs.clone().into()) {
                Ok(node) => return Some(node),
                Err(reason) => last = reason, // a port may have been taken meanwhile
            }
        }
        panic!("{last}");
    }

    fn launch(java: PathBuf, libs: PathBuf) -> Result<OpenSearch, String> {
        let scratch = Scratch::new();
        let transport = free_port();
        // What is left of the disk is the disk's matter
        let settings = format!(
            "discovery.type: single-node\nnetwork.host: 127.0.0.1\ntransport.port: {transport}\n\
             cluster.routing.allocation.disk.threshold_enabled: false\n"
        );
        scratch.write("node_1/config/opensearch.yml", settings);
        let (port, folder) = (http_port(), scratch.root().to_path_buf());
        let server = Server::new("opensearch", scratch.path("opensearch.log"), move || {
            let mut command = Command::new(&java);
            command.args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xms256m", "-Xmx768m", "-cp"]);
            // Java itself expands the star
            command.arg(libs.join("*")).arg("org.codelibs.opensearch.runner.OpenSearchRunner");
            command.args(["-numOfNode", "1", "-baseHttpPort", &(port - 1).to_string(), "-basePath"]).arg(&folder);
            command
        });
        let mut node = OpenSearch { port, server, scratch };
        node.launch_server()?;
        Ok(node)
    }

    fn launch_server(&mut self) -> Result<(), String> {
        let url = self.url() + "/_cluster/health?wait_for_status=yellow&timeout=5s";
        let client = client();
        let healthy = |_: &str| client.get(&url).send().is_ok_and(|answer| answer.status().is_success());
        self.server.start(START, healthy)
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.server.kill();
    }

    /// Comes back on its port with its data. Returns when its indices are there.
    pub fn restart(&mut self) {
        self.server.kill();
        self.launch_server().unwrap_or_else(|reason| panic!("{reason}"));
    }

    /// How many documents can be found in the indices with that prefix; 0 where there are none, or no server.
    pub fn count(&self, prefix: &str) -> u64 {
        let answer = client().get(format!("{}/{prefix}-*/_count", self.url())).send();
        let value = answer.ok().and_then(|answer| answer.text().ok()).and_then(|text| serde_json::from_str(&text).ok());
        value.and_then(|value: Value| value["count"].as_u64()).unwrap_or(0)
    }

    /// All documents of the indices with that prefix, as `_search` tells them, by `payload.x`, which goes up to `most`.
    pub fn documents(&self, prefix: &str, most: usize) -> Vec<Value> {
        const PAGE: usize = 5000;
        let url = format!("{}/{prefix}-*", self.url());
        self.send(client().post(format!("{url}/_refresh")), Value::Null);
        let mut documents = Vec::new();
        for from in (0..=most).step_by(PAGE) {
            let range = json!({"range": {"payload.x": {"gte": from, "lt": from + PAGE}}});
            let body = json!({"size": 10_000, "version": true, "query": range, "sort": ["payload.x"]});
            let answer = self.send(client().post(format!("{url}/_search")), body);
            documents.extend_from_slice(answer["hits"]["hits"].as_array().expect("hits"));
        }
        assert_eq!(self.count(prefix), documents.len() as u64, "some have no payload.x");
        documents
    }

    fn send(&self, request: reqwest::blocking::RequestBuilder, body: Value) -> Value {
        let request = match body {
            Value::Null => request,
            body => request.header("content-type", "application/json").body(body.to_string()),
        };
        let text = request.send().and_then(|answer| answer.text()).unwrap_or_else(|e| panic!("ask OpenSearch: {e:?}"));
        // It gives back what is no Unicode as it came
        serde_json::from_str(&text.replace("\\ud800", "?")).unwrap_or_else(|e| panic!("{e}: {text}"))
    }
}

/// A client for any of the servers of a test.
pub fn client() -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().no_proxy().timeout(Duration::from_secs(30)).build().expect("a client")
}

fn http_port() -> u16 {
    static NEXT: Mutex<Option<u16>> = Mutex::new(None);
    let mut next = NEXT.lock().unwrap_or_else(PoisonError::into_inner);
    let count = PORTS.end() - PORTS.start() + 1;
    let first = next.unwrap_or_else(|| rand::random_range(0..count));
    let port = (0..count).map(|step| PORTS.start() + (first + step) % count);
    let port = port.into_iter().find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("a free port");
    *next = Some(port - PORTS.start() + 1);
    port
}
