//! A real Redis server of a test's own, which it may kill.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// A server on a free port of 127.0.0.1, whose data outlives [`RealRedis::kill`]; ended and removed when dropped.
pub struct RealRedis {
    folder: tempfile::TempDir,
    port: u16,
    arguments: Vec<String>,
    process: Option<Child>,
}

impl RealRedis {
    /// `None` where there is no redis-server, said loudly; with CI=true that is a failure.
    pub fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// The same with arguments of redis-server added.
    pub fn start_with(arguments: &[&str]) -> Option<Self> {
        let found = Command::new(binary()).arg("--version").stdout(Stdio::null()).status().is_ok();
        if !found {
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "no redis-server here");
            eprintln!("SKIPPED: no redis-server here, set METROBUS_TEST_REDIS_SERVER or add it to PATH");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let arguments = arguments.iter().map(|&argument| argument.into()).collect();
        let mut redis = Self { folder, port: 0, arguments, process: None };
        // A port that was free may be taken by another test meanwhile
        let started = (0..10).any(|_| {
            redis.port = free_port();
            redis.launch()
        });
        let said = || std::fs::read_to_string(redis.folder.path().join("redis.log"));
        assert!(started, "redis-server does not start: {:?}", said());
        Some(redis)
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn connection(&self) -> redis::Connection {
        redis::Client::open(self.url()).unwrap().get_connection_with_timeout(Duration::from_secs(5)).unwrap()
    }

    /// Runs a command, its words given apart.
    pub fn command<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        words[1..].iter().for_each(|&word| {
            command.arg(word);
        });
        command.query(&mut self.connection()).unwrap()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Comes back on its port with its data, once it was killed.
    pub fn restart(&mut self) {
        assert!(self.launch(), "redis-server does not start again");
    }

    /// Stops answering without closing a connection, or goes on.
    pub fn pause(&self, pause: bool) {
        let id = self.process.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([if pause { "-STOP" } else { "-CONT" }, &id]).status().unwrap().success());
    }

    fn launch(&mut self) -> bool {
        let log = std::fs::File::create(self.folder.path().join("redis.log")).unwrap();
        let process = Command::new(binary())
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string(), "--save", "", "--appendonly", "yes"])
            .arg("--dir")
            .arg(self.folder.path())
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        self.process = Some(process.unwrap());
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline && self.process.as_mut().unwrap().try_wait().unwrap().is_none() {
            if self.answers() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.kill();
        false
    }

    /// Whether it takes commands: it may want a password first, but not time to load its data.
    fn answers(&self) -> bool {
        let Ok(mut connection) = redis::Client::open(self.url()).and_then(|client| client.get_connection()) else {
            return false;
        };
        match redis::cmd("PING").query::<String>(&mut connection) {
            Ok(answer) => answer == "PONG",
            Err(error) => error.code() == Some("NOAUTH"),
        }
    }
}

impl Drop for RealRedis {
    fn drop(&mut self) {
        self.kill();
    }
}

fn binary() -> String {
    std::env::var("METROBUS_TEST_REDIS_SERVER").unwrap_or_else(|_| "redis-server".into())
}

/// Below the range from which clients get their ports: it is still free when the server comes back.
fn free_port() -> u16 {
    loop {
        let port = 20_000 + (RandomState::new().build_hasher().finish() % 12_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Asks until `condition` gives something, for at most 20 seconds.
pub fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
