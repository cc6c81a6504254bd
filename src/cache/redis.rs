//! Caches in Redis: values in a hash, a list in a set.
//!
//! A batch is one round trip: `HMGET`, or `SMISMEMBER` (Redis 6.2 or later), behind an `EXISTS` in the same pipeline.
//! Where Redis has no such key at all, the cache counts as away and not as empty: a server that came back without its
//! data, or that `metrobus cache load` has not filled yet, must not cost a message. Redis knows no empty hash or set,
//! so a list with nothing on it cannot be kept there.
//!
//! A question may be sent ahead, and its answers be fetched later: Redis works meanwhile, and so does who asked.

use std::{collections::VecDeque, io, time::Duration};

use anyhow::anyhow;
use redis::{Client, Connection, ConnectionLike, ErrorKind, Pipeline, RedisError, RedisResult};

use super::{Cache, Keys, Lookup, Membership, Value, Values};
use crate::error::Misconfigured;

/// Values by key, from a hash.
pub struct Hash(Questions);

/// A list, from a set.
pub struct Set(Questions);

impl Hash {
    /// Prepares look-ups in the hash `key`; connects with the first one. `timeout` is for connecting and for each
    /// answer. [`Misconfigured`] where `url` is none.
    pub fn open(url: &str, key: &str, timeout: Duration) -> anyhow::Result<Self> {
        Ok(Self(Questions::new(url, key, timeout, "HMGET", "hash")?))
    }
}

impl Set {
    /// Prepares look-ups in the set `key`; connects with the first one. `timeout` is for connecting and for each
    /// answer. [`Misconfigured`] where `url` is none.
    pub fn open(url: &str, key: &str, timeout: Duration) -> anyhow::Result<Self> {
        Ok(Self(Questions::new(url, key, timeout, "SMISMEMBER", "set")?))
    }
}

/// Asks a server whether it is there.
pub fn ping(url: &str, timeout: Duration) -> anyhow::Result<()> {
    let mut server = Server::new(url, timeout)?;
    let mut pipeline = Pipeline::with_capacity(1);
    pipeline.cmd("PING");
    let (_,): (String,) = server.query(&pipeline, None)?;
    Ok(())
}

impl Cache for Hash {
    fn takes_a_while(&self) -> bool {
        true
    }

    fn ask(&mut self, keys: &Keys) {
        self.0.ask(keys);
    }

    fn connect(&mut self) -> anyhow::Result<()> {
        self.0.expect()
    }
}

impl Cache for Set {
    fn takes_a_while(&self) -> bool {
        true
    }

    fn ask(&mut self, keys: &Keys) {
        self.0.ask(keys);
    }

    fn connect(&mut self) -> anyhow::Result<()> {
        self.0.expect()
    }
}

impl Lookup for Hash {
    fn get(&mut self, keys: &Keys, values: &mut Values) -> anyhow::Result<()> {
        values.clear();
        let mut found = self.0.answers::<redis::Value>(keys)?.into_iter();
        for key in keys.iter() {
            match key.and_then(|_| found.next()) {
                Some(redis::Value::BulkString(bytes)) => {
                    values.push(std::str::from_utf8(&bytes).map_or(Value::NotText, Value::Found));
                }
                _ => values.push(Value::Missing),
            }
        }
        Ok(())
    }
}

impl Membership for Set {
    fn contains(&mut self, keys: &Keys, listed: &mut Vec<bool>) -> anyhow::Result<()> {
        listed.clear();
        let mut found = self.0.answers::<bool>(keys)?.into_iter();
        listed.extend(keys.iter().map(|key| key.and_then(|_| found.next()).unwrap_or(false)));
        Ok(())
    }
}

/// What is asked about the keys of one hash or set.
struct Questions {
    server: Server,
    command: &'static str,
    what: &'static str,
    key: String,
    /// What was asked ahead; the answers are on their way, in this order.
    asked: VecDeque<Question>,
}

/// `command key KEYS…` for those of `keys` that there are.
struct Question {
    keys: Keys,
    pipeline: Pipeline,
}

impl Questions {
    fn new(url: &str, key: &str, timeout: Duration, command: &'static str, what: &'static str) -> anyhow::Result<Self> {
        Ok(Self { server: Server::new(url, timeout)?, command, what, key: key.into(), asked: VecDeque::new() })
    }

    fn about(&self, keys: &Keys) -> Question {
        let asked = keys.iter().flatten().count();
        // EXISTS first: a key that is there stays, since it is only ever replaced whole
        let mut pipeline = Pipeline::with_capacity(2);
        pipeline.cmd("EXISTS").arg(&self.key);
        let mut batch = redis::Cmd::with_capacity(asked + 2, 32 * asked);
        batch.arg(self.command).arg(&self.key);
        for key in keys.iter().flatten() {
            batch.arg(key);
        }
        pipeline.add_command(batch);
        Question { keys: keys.clone(), pipeline }
    }

    /// Asks about `keys` without waiting for the answers. Whatever fails shows in [`Questions::answers`].
    fn ask(&mut self, keys: &Keys) {
        if keys.iter().flatten().next().is_none() {
            return;
        }
        let question = self.about(keys);
        match self.server.send(&question.pipeline) {
            true => self.asked.push_back(question),
            // The connection is gone, with the answers that were on their way
            false => self.asked.clear(),
        }
    }

    /// Gives up answers that nobody has waited for.
    fn forget(&mut self) {
        if !self.asked.is_empty() {
            self.asked.clear();
            self.server.connection = None;
        }
    }

    /// The answers, one for each of `keys` that there is.
    fn answers<T: redis::FromRedisValue>(&mut self, keys: &Keys) -> anyhow::Result<Vec<T>> {
        let count = keys.iter().flatten().count();
        if count == 0 {
            return Ok(Vec::new());
        }
        let answers = self.asked_ahead(keys).unwrap_or_else(|| {
            let question = self.about(keys);
            self.server.try_query(&question.pipeline)
        });
        let explained = |error| self.server.explain(&error, Some((&self.key, self.what)));
        let (exists, answers): (bool, Vec<T>) = answers.map_err(explained)?;
        if !exists {
            return Err(self.unfilled());
        }
        if answers.len() != count {
            return Err(anyhow!("{} gave {} answers to {count} keys", self.server, answers.len()));
        }
        Ok(answers)
    }

    /// The answers about `keys`, where that is what was asked first and the connection has held since.
    fn asked_ahead<T: redis::FromRedisValue>(&mut self, keys: &Keys) -> Option<RedisResult<T>> {
        if self.asked.front().is_none_or(|asked| asked.keys != *keys) {
            self.forget();
            return None;
        }
        let answers = self.server.receive(&self.asked.pop_front()?.pipeline);
        if answers.is_err() {
            // The others are lost with the connection
            self.asked.clear();
        }
        // It may have been closed long ago
        Some(answers).filter(|answers| !answers.as_ref().is_err_and(RedisError::is_connection_dropped))
    }

    /// `Err` where the server does not answer, or the key is not there or something else.
    fn expect(&mut self) -> anyhow::Result<()> {
        self.forget();
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline.cmd("TYPE").arg(&self.key);
        let (found,): (String,) = self.server.query(&pipeline, None)?;
        match found.as_str() {
            "none" => Err(self.unfilled()),
            found if found == self.what => Ok(()),
            _ => Err(anyhow!("{}: `{}` is not a {}", self.server, self.key, self.what)),
        }
    }

    fn unfilled(&self) -> anyhow::Error {
        anyhow!("{} has no {} `{}`, `metrobus cache load` fills it", self.server, self.what, self.key)
    }
}

/// A Redis server and the connection to it, made where it is needed and missing.
pub(crate) struct Server {
    client: Client,
    timeout: Duration,
    connection: Option<Connection>,
}

/// Host and port, without the login.
impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Redis at {}", self.client.get_connection_info().addr())
    }
}

impl Server {
    /// Connects with the first query. The error does not show the URL, which may hold a password.
    pub fn new(url: &str, timeout: Duration) -> anyhow::Result<Self> {
        let client = Client::open(url).map_err(|error| {
            Misconfigured(format!(
                "redis.url is not usable: {}; redis://user:password@host:port/database is expected",
                error.detail().unwrap_or(error.category())
            ))
        })?;
        Ok(Self { client, timeout: timeout.max(Duration::from_millis(1)), connection: None })
    }

    /// Sends `pipeline` and gives its answers, within the timeout. An error says which server, and what to do;
    /// `key` is the one that is asked and what it should be.
    pub fn query<T: redis::FromRedisValue>(
        &mut self,
        pipeline: &Pipeline,
        key: Option<(&str, &str)>,
    ) -> anyhow::Result<T> {
        self.try_query(pipeline).map_err(|error| self.explain(&error, key))
    }

    /// The same with the error as it is.
    pub fn try_query<T: redis::FromRedisValue>(&mut self, pipeline: &Pipeline) -> RedisResult<T> {
        let (mut connection, kept) = match self.connection.take() {
            Some(connection) => (connection, true),
            None => (self.connect()?, false),
        };
        let mut result = pipeline.query(&mut connection);
        // A kept connection may have been closed long ago, by a restart or by the server's own timeout
        if kept && result.as_ref().is_err_and(RedisError::is_connection_dropped) {
            connection = self.connect()?;
            result = pipeline.query(&mut connection);
        }
        // After an error nobody knows what is still on its way on this connection
        self.connection = result.is_ok().then_some(connection);
        result
    }

    /// Sends `pipeline` without waiting for its answers, which are for [`Server::receive`] to take before anything else
    /// is asked; whether it could.
    fn send(&mut self, pipeline: &Pipeline) -> bool {
        let Some(mut connection) = self.connection.take().or_else(|| self.connect().ok()) else { return false };
        let sent = connection.send_packed_command(&pipeline.get_packed_pipeline()).is_ok();
        self.connection = sent.then_some(connection);
        sent
    }

    /// As [`Server::try_query`] of the pipeline that was sent first of those whose answers were not received yet.
    fn receive<T: redis::FromRedisValue>(&mut self, pipeline: &Pipeline) -> RedisResult<T> {
        let mut connection = self.connection.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?;
        let answers = pipeline.query(&mut Sent(&mut connection))?;
        self.connection = Some(connection);
        Ok(answers)
    }

    fn connect(&self) -> RedisResult<Connection> {
        let connection = self.client.get_connection_with_timeout(self.timeout)?;
        connection.set_read_timeout(Some(self.timeout))?;
        connection.set_write_timeout(Some(self.timeout))?;
        Ok(connection)
    }

    pub fn explain(&self, error: &RedisError, key: Option<(&str, &str)>) -> anyhow::Error {
        match (code(error).as_deref(), key) {
            (Some("NOAUTH" | "WRONGPASS"), _) => anyhow!("{self} refuses the login, see redis.url"),
            (Some("NOPERM"), _) => anyhow!("{self} does not permit this user to do that: {error}"),
            (Some("LOADING"), _) => anyhow!("{self} is still loading its data"),
            (Some("WRONGTYPE"), Some((key, what))) => anyhow!("{self}: `{key}` is not a {what}"),
            _ if error.kind() == ErrorKind::AuthenticationFailed => anyhow!("{self} refuses the login, see redis.url"),
            _ if error.is_timeout() => anyhow!("{self} does not answer within {:?}", self.timeout),
            _ => anyhow!("{self}: {error}"),
        }
    }
}

/// A connection on which what is asked was sent already.
struct Sent<'a>(&'a mut Connection);

impl ConnectionLike for Sent<'_> {
    fn req_packed_command(&mut self, _: &[u8]) -> RedisResult<redis::Value> {
        self.0.recv_response()
    }

    fn req_packed_commands(&mut self, _: &[u8], offset: usize, count: usize) -> RedisResult<Vec<redis::Value>> {
        (0..offset + count).map(|_| self.0.recv_response()).collect()
    }

    fn get_db(&self) -> i64 {
        self.0.get_db()
    }

    fn check_connection(&mut self) -> bool {
        self.0.check_connection()
    }

    fn is_open(&self) -> bool {
        self.0.is_open()
    }
}

/// What the server called the error, where it came from the server; the first one of a pipeline.
fn code(error: &RedisError) -> Option<String> {
    let of_pipeline = error.clone().into_server_errors().and_then(|all| Some(all.first()?.1.code().to_owned()));
    of_pipeline.or_else(|| error.code().map(str::to_owned))
}

/// Whether waiting may help: the server is not there, or not ready yet.
pub(crate) fn is_absence(error: &RedisError) -> bool {
    let not_ready = ["LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "READONLY", "BUSY"];
    error.is_io_error() || code(error).is_some_and(|code| not_ready.contains(&code.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::real_redis::{RealRedis, until};

    const TIMEOUT: Duration = Duration::from_secs(5);

    fn keys(keys: &[Option<&str>]) -> Keys {
        let mut batch = Keys::default();
        keys.iter().for_each(|key| batch.push(*key));
        batch
    }

    fn get(hash: &mut Hash, asked: &[Option<&str>]) -> anyhow::Result<Vec<String>> {
        let mut values = Values::default();
        hash.get(&keys(asked), &mut values)?;
        Ok(values.iter().map(|value| format!("{value:?}")).collect())
    }

    impl RealRedis {
        /// How often it was told to do `command`.
        fn calls(&self, command: &str) -> u64 {
            let stats: String = self.command(&["INFO", "commandstats"]);
            let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
            line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
        }
    }

    fn contains(set: &mut Set, asked: &[Option<&str>]) -> anyhow::Result<Vec<bool>> {
        let mut listed = vec![true; 3];
        set.contains(&keys(asked), &mut listed)?;
        Ok(listed)
    }

    #[test]
    fn a_batch_is_answered_in_its_order() {
        let Some(redis) = RealRedis::start() else { return };
        let long = "x".repeat(1 << 20);
        redis.command::<()>(&["HSET", "emails", "1", "a@x", "3", "", "4", &long]);
        redis::cmd("HSET").arg("emails").arg("5").arg(b"a\xff@x").exec(&mut redis.connection()).unwrap();
        redis.command::<()>(&["SADD", "whitelist", "a@x", "jürgen@x"]);
        let mut hash = Hash::open(&redis.url(), "emails", TIMEOUT).unwrap();
        let asked = [Some("2"), Some("1"), None, Some("3"), Some("5"), Some("1"), Some("4")];
        let found = |text: &str| format!("Found({text:?})");
        let expected =
            ["Missing".into(), found("a@x"), "Missing".into(), found(""), "NotText".into(), found("a@x"), found(&long)];
        assert_eq!(get(&mut hash, &asked).unwrap(), expected);
        assert_eq!(get(&mut hash, &[None]).unwrap(), ["Missing"]);
        let mut set = Set::open(&redis.url(), "whitelist", TIMEOUT).unwrap();
        let asked = [Some("b@x"), None, Some("jürgen@x"), Some("a@x"), Some("a\r\n@x")];
        assert_eq!(contains(&mut set, &asked).unwrap(), [false, false, true, true, false]);
        assert_eq!(contains(&mut set, &[]).unwrap(), [false; 0]);
    }

    #[test]
    fn a_batch_is_one_round_trip() {
        let Some(redis) = RealRedis::start() else { return };
        redis.command::<()>(&["SADD", "whitelist", "a@x"]);
        let mut set = Set::open(&redis.url(), "whitelist", TIMEOUT).unwrap();
        let many: Vec<String> = (0..1000).map(|n| format!("{n}@x")).collect();
        let many: Vec<Option<&str>> = many.iter().map(|key| Some(key.as_str())).collect();
        for _ in 0..10 {
            contains(&mut set, &many).unwrap();
        }
        assert_eq!((redis.calls("smismember"), redis.calls("exists")), (10, 10));
    }

    #[test]
    fn what_is_asked_ahead_is_answered_and_so_is_anything_else() {
        let Some(mut redis) = RealRedis::start() else { return };
        redis.command::<()>(&["HSET", "emails", "1", "a@x", "2", "b@x"]);
        for protocol in ["", "?protocol=resp3"] {
            let mut hash = Hash::open(&format!("{}{protocol}", redis.url()), "emails", TIMEOUT).unwrap();
            let (one, two) = ([Some("1"), None, Some("3")], [Some("2")]);
            let (found_one, found_two) = (["Found(\"a@x\")", "Missing", "Missing"], ["Found(\"b@x\")"]);
            hash.ask(&keys(&one));
            assert_eq!(get(&mut hash, &one).unwrap(), found_one);
            hash.ask(&keys(&one));
            assert_eq!(get(&mut hash, &two).unwrap(), found_two, "another question");
            hash.ask(&keys(&one));
            hash.ask(&keys(&two));
            assert_eq!(get(&mut hash, &two).unwrap(), found_two, "the first one given up");
            let before = redis.calls("hmget");
            hash.ask(&keys(&one));
            hash.ask(&keys(&two));
            assert_eq!(get(&mut hash, &one).unwrap(), found_one);
            hash.ask(&keys(&one));
            assert_eq!(get(&mut hash, &two).unwrap(), found_two);
            assert_eq!(get(&mut hash, &one).unwrap(), found_one);
            assert_eq!(redis.calls("hmget") - before, 3, "none was asked twice");
            redis.pause(true);
            hash.ask(&keys(&one));
            hash.ask(&keys(&two));
            redis.kill();
            redis.restart();
            assert_eq!(get(&mut hash, &one).unwrap(), found_one);
            assert_eq!(get(&mut hash, &two).unwrap(), found_two, "its answers were lost with the connection");
            hash.ask(&keys(&one));
            hash.connect().unwrap();
            assert_eq!(get(&mut hash, &one).unwrap(), found_one);
            hash.ask(&keys(&one));
            redis.command::<u64>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
            assert_eq!(get(&mut hash, &one).unwrap(), found_one, "answered, or asked again on a new connection");
            redis.command::<()>(&["DEL", "emails"]);
            hash.ask(&keys(&one));
            assert!(get(&mut hash, &one).unwrap_err().to_string().contains("has no hash"));
            redis.command::<()>(&["HSET", "emails", "1", "a@x", "2", "b@x"]);
            hash.ask(&keys(&[None]));
            assert_eq!(get(&mut hash, &one).unwrap(), found_one);
        }
    }

    #[test]
    fn what_is_wrong_is_said_and_no_message_counts_as_missing() {
        let Some(redis) = RealRedis::start() else { return };
        let name = redis.url().replace("redis://", "Redis at ");
        let mut hash = Hash::open(&redis.url(), "emails", TIMEOUT).unwrap();
        let mut set = Set::open(&redis.url(), "whitelist", TIMEOUT).unwrap();
        let error = |result: anyhow::Result<Vec<String>>| format!("{:#}", result.unwrap_err());
        let unfilled = format!("{name} has no hash `emails`, `metrobus cache load` fills it");
        assert_eq!(error(get(&mut hash, &[Some("1")])), unfilled);
        assert_eq!(format!("{:#}", hash.connect().unwrap_err()), unfilled);
        redis.command::<()>(&["SET", "emails", "x"]);
        redis.command::<()>(&["HSET", "whitelist", "x", "y"]);
        assert_eq!(error(get(&mut hash, &[Some("1")])), format!("{name}: `emails` is not a hash"));
        let listed = contains(&mut set, &[Some("1")]).map(|_| Vec::new());
        assert_eq!(error(listed), format!("{name}: `whitelist` is not a set"));
        assert_eq!(format!("{:#}", set.connect().unwrap_err()), format!("{name}: `whitelist` is not a set"));
        redis.command::<()>(&["DEL", "emails"]);
        redis.command::<()>(&["HSET", "emails", "1", "a@x"]);
        hash.connect().unwrap();
        assert_eq!(get(&mut hash, &[Some("1")]).unwrap(), ["Found(\"a@x\")"]);
    }

    #[test]
    fn a_login_that_is_refused_is_said_without_the_password() {
        let Some(redis) = RealRedis::start_with(&["--requirepass", "right"]) else { return };
        let host = redis.url().replace("redis://", "");
        let refused = format!("Redis at {host} refuses the login, see redis.url");
        for protocol in ["", "?protocol=resp3"] {
            let error = |login: &str| {
                let mut hash = Hash::open(&format!("redis://{login}{host}{protocol}"), "emails", TIMEOUT).unwrap();
                format!("{:#}", get(&mut hash, &[Some("1")]).unwrap_err())
            };
            assert_eq!(error(""), refused);
            assert_eq!(error(":wrong@"), refused);
            assert_eq!(error("nobody:right@"), refused);
            assert!(error(":right@").contains("has no hash"));
        }
    }

    #[test]
    fn a_bad_url_is_a_misconfiguration_that_does_not_show_it() {
        for url in
            ["redis:/secret", "http://secret@x", "rediss://u:secret@localhost", "redis://u:secret@h:x", "", "secret"]
        {
            let error = Hash::open(url, "emails", TIMEOUT).err().unwrap();
            assert!(error.is::<Misconfigured>(), "{url}: {error:#}");
            assert!(error.to_string().starts_with("redis.url is not usable: "), "{url}: {error:#}");
            assert!(!error.to_string().contains("secret"), "{url}: {error:#}");
        }
    }

    #[test]
    fn look_ups_fail_while_the_server_is_gone_and_go_on_when_it_is_back() {
        let Some(mut redis) = RealRedis::start() else { return };
        redis.command::<()>(&["HSET", "emails", "1", "a@x"]);
        let mut hash = Hash::open(&redis.url(), "emails", TIMEOUT).unwrap();
        let found = ["Found(\"a@x\")"];
        for _ in 0..3 {
            assert_eq!(get(&mut hash, &[Some("1")]).unwrap(), found);
            redis.kill();
            for _ in 0..3 {
                get(&mut hash, &[Some("1")]).unwrap_err();
            }
            redis.restart();
            assert_eq!(get(&mut hash, &[Some("1")]).unwrap(), found);
            // While nobody asks, nobody needs to know
            redis.kill();
            redis.restart();
            assert_eq!(get(&mut hash, &[Some("1")]).unwrap(), found);
        }
    }

    #[test]
    fn a_server_that_hangs_costs_the_timeout_and_its_late_answers_are_not_taken() {
        let Some(redis) = RealRedis::start() else { return };
        redis.command::<()>(&["HSET", "emails", "1", "a@x", "2", "b@x"]);
        let mut hash = Hash::open(&redis.url(), "emails", Duration::from_millis(200)).unwrap();
        get(&mut hash, &[Some("1")]).unwrap();
        redis.pause(true);
        let error = get(&mut hash, &[Some("1")]).unwrap_err().to_string();
        redis.pause(false);
        assert!(error.ends_with(" does not answer within 200ms"), "{error}");
        until("it answers again", || get(&mut hash, &[Some("2")]).ok().filter(|found| found == &["Found(\"b@x\")"]));
        for _ in 0..100 {
            assert_eq!(get(&mut hash, &[Some("2")]).unwrap(), ["Found(\"b@x\")"]);
        }
    }
}
