//! A real Redis: one that all tests share, or one that a test may stop.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::server::Server;
use super::{Scratch, Signal, free_port, given, skip};

const START: Duration = Duration::from_secs(20);

/// A Redis server and an empty database on it.
pub struct Redis {
    port: u16,
    database: u32,
    private: Option<Private>,
}

/// Fields drop in order: the process ends before its folder goes.
struct Private {
    server: Server,
    scratch: Scratch,
}

impl Redis {
    /// An empty database of its own on the server that all tests share. It cannot be stopped.
    pub fn shared() -> Option<Redis> {
        let Some(url) = given("METROBUS_TEST_REDIS") else {
            return skip("no Redis: METROBUS_TEST_REDIS is not set, scripts/with-services.sh sets it");
        };
        let port = url.rsplit(':').next().and_then(|p| p.parse().ok());
        let port = port.unwrap_or_else(|| panic!("METROBUS_TEST_REDIS={url} ends in no port"));
        let mut redis = Redis { port, database: 0, private: None };
        // Database 0 only counts the databases given out.
        let count: u32 = ::redis::cmd("INCR")
            .arg("databases")
            .query(&mut redis.connection())
            .expect("count databases in the shared Redis");
        redis.database = count;
        Some(redis)
    }

    /// A server of its own, whose data outlives [`kill`](Redis::kill) and [`stop`](Redis::stop).
    pub fn start() -> Option<Redis> {
        let Some(binary) = given("METROBUS_TEST_REDIS_SERVER") else {
            return skip("no Redis: METROBUS_TEST_REDIS_SERVER is not set, scripts/with-services.sh sets it");
        };
        let mut last = String::new();
        for _ in 0..3 {
            match Redis::launch(PathBuf::from(&binary)) {
                Ok(redis) => return Some(redis),
                Err(reason) => last = reason, // the port may have been taken meanwhile
            }
        }
        panic!("{last}");
    }

    fn launch(binary: PathBuf) -> Result<Redis, String> {
        let port = free_port();
        let scratch = Scratch::new();
        let folder = scratch.root().to_path_buf();
        let server = Server::new("redis-server", scratch.path("redis.log"), move || {
            let mut command = Command::new(&binary);
            command.args(["--bind", "127.0.0.1", "--port", &port.to_string()]);
            // Written before the answer is sent: what was answered is still there after a SIGKILL. Not so where Redis
            // itself asks the disk to sync each second: then it puts off writing while a sync goes on.
            command.args(["--appendonly", "yes", "--appendfsync", "no", "--save", "", "--dir"]);
            command.arg(&folder);
            command
        });
        let mut redis = Redis { port, database: 0, private: Some(Private { server, scratch }) };
        redis.launch_server()?;
        Ok(redis)
    }

    fn launch_server(&mut self) -> Result<(), String> {
        let url = self.url();
        let private = self.private();
        private.server.start(START, |_| ping(&url))
    }

    /// The URL with the database of this test.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/{}", self.port, self.database)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// A new connection to the database of this test.
    pub fn connection(&self) -> ::redis::Connection {
        let client = ::redis::Client::open(self.url()).expect("a valid Redis URL");
        client
            .get_connection_with_timeout(Duration::from_secs(10))
            .unwrap_or_else(|e| panic!("connect to {}: {e}", self.url()))
    }

    /// An orderly end of a private server.
    pub fn stop(&mut self) {
        self.private().server.stop(Duration::from_secs(10));
    }

    /// SIGKILL to a private server.
    pub fn kill(&mut self) {
        self.private().server.kill();
    }

    /// A private server, ended before or not, comes back on its port with its data. Returns when it answers.
    pub fn restart(&mut self) {
        self.stop();
        self.launch_server().unwrap_or_else(|reason| panic!("{reason}"));
    }

    /// A private server stops answering without closing a connection, until [`resume`](Redis::resume).
    pub fn pause(&mut self) {
        self.private().server.signal(Signal::STOP);
    }

    pub fn resume(&mut self) {
        self.private().server.signal(Signal::CONT);
    }

    fn private(&mut self) -> &mut Private {
        self.private.as_mut().expect("the Redis is shared: a test that stops it takes Redis::start()")
    }
}

fn ping(url: &str) -> bool {
    let answer = ::redis::Client::open(url)
        .and_then(|client| client.get_connection_with_timeout(Duration::from_secs(1)))
        .and_then(|mut connection| ::redis::cmd("PING").query::<String>(&mut connection));
    answer.is_ok_and(|answer| answer == "PONG")
}
