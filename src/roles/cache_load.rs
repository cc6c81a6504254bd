//! `metrobus cache load`: the .dat files into Redis, emails.dat as a hash and whitelist.dat as a set.
//!
//! Both are loaded under other names first and take their places together, in one transaction: a stop sees the old
//! content or the new one, whole. Where it does not come to that (a malformed line, an interruption, Redis going away)
//! nothing has changed; what was loaded by then is removed, by Redis itself a minute later where the loader was killed.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::anyhow;
use clap::Args;
use redis::{Cmd, Pipeline, RedisError};
use tracing::info;
use uuid::Uuid;

use super::{Context, cache::Only, contactpoint, whitelist};
use crate::{
    backoff,
    bus::BusError,
    cache::{
        lines::{Layout, Reader},
        redis::{Server, is_absence},
    },
    error::Misconfigured,
    progress,
    shutdown::Shutdown,
};

/// Lines of one command.
const COMMAND: usize = 1_000;

/// Commands sent before their answers are waited for.
const PIPELINE: usize = 10;

/// How long an unfinished load outlives its loader, in seconds.
const ORPHAN_SECONDS: u64 = 60;

/// Loads what `arguments` ask for.
pub fn run(arguments: &Arguments, context: &Context) -> anyhow::Result<()> {
    let emails: contactpoint::Options = context.config.section(contactpoint::ROLE.name)?;
    let listed: whitelist::Options = context.config.section(whitelist::ROLE.name)?;
    let redis = &context.config.redis;
    let target = Target {
        url: &redis.url,
        timeout: redis.timeout,
        connect_timeout: context.connect_timeout,
        hash: &emails.hash,
        set: &listed.set,
        emails: &emails.file,
        whitelist: &listed.file,
    };
    load_files(arguments, &target, &context.shutdown)
}

#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Emails by account, `account,email` a line, instead of contactpoint.file
    #[arg(long, value_name = "FILE")]
    pub emails: Option<PathBuf>,

    /// The whitelist, an email a line, instead of whitelist.file
    #[arg(long, value_name = "FILE")]
    pub whitelist: Option<PathBuf>,

    /// Load one of the two
    #[arg(long, value_enum, value_name = "WHICH")]
    pub only: Option<Only>,
}

/// Where from and where to, as configured.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    pub url: &'a str,
    /// For connecting and for each answer.
    pub timeout: Duration,
    /// How long to wait for Redis where it is away; without it, for ever.
    pub connect_timeout: Option<Duration>,
    /// The hash: account to email.
    pub hash: &'a str,
    /// The set of listed emails.
    pub set: &'a str,
    /// The file of emails by account, where the arguments name none.
    pub emails: &'a Path,
    /// The file of listed emails, where the arguments name none.
    pub whitelist: &'a Path,
}

/// A file and the key that takes its content.
struct Job<'a> {
    layout: Layout,
    path: &'a Path,
    key: &'a str,
    /// What the key is called until it is whole.
    loading: String,
}

/// Loads the files. [`Misconfigured`] where one cannot be read, is empty, or has a malformed line;
/// [`Unreachable`](crate::error::Unreachable) where Redis stays away for longer than `connect_timeout`.
fn load_files(arguments: &Arguments, target: &Target<'_>, shutdown: &Shutdown) -> anyhow::Result<()> {
    let emails = arguments.emails.as_deref().unwrap_or(target.emails);
    let whitelist = arguments.whitelist.as_deref().unwrap_or(target.whitelist);
    let load = Uuid::now_v7().simple();
    let job = |layout, path, key| Job { layout, path, key, loading: format!("{key}:loading:{load}") };
    let mut jobs = Vec::new();
    if arguments.only != Some(Only::Whitelist) {
        jobs.push(job(Layout::Pair, emails, target.hash));
    }
    if arguments.only != Some(Only::Emails) {
        jobs.push(job(Layout::Single, whitelist, target.set));
    }
    // What is wrong with a file is said before anything waits for Redis
    jobs.iter().try_for_each(check)?;
    let mut server = Server::new(target.url, target.timeout)?;
    let begun = Instant::now();
    let done = backoff::persist("Redis", target.connect_timeout, shutdown, || load_all(&mut server, &jobs, shutdown))?;
    let Some(counts) = done else { return Err(interrupted()) };
    for (job, count) in jobs.iter().zip(counts) {
        let what = if job.layout == Layout::Pair { "hash" } else { "set" };
        info!("loaded {} into the {what} `{}` of {server}: {count} emails", job.path.display(), job.key);
    }
    info!("done in {:.1?}", begun.elapsed());
    Ok(())
}

fn check(job: &Job<'_>) -> Result<(), Misconfigured> {
    let mut reader = Reader::open(job.path, job.layout)?;
    if reader.read()?.is_none() {
        let path = job.path.display();
        return Err(Misconfigured(format!("{path}: is empty, and Redis keeps no hash or set without content")));
    }
    while reader.read()?.is_some() {}
    Ok(())
}

fn interrupted() -> anyhow::Error {
    anyhow!("interrupted, nothing has changed in Redis")
}

/// Gives how many different keys each job has loaded.
fn load_all(server: &mut Server, jobs: &[Job<'_>], shutdown: &Shutdown) -> Result<Vec<u64>, BusError> {
    // An attempt before this one may have left something behind
    let mut remove = Pipeline::new();
    for job in jobs {
        remove.cmd("DEL").arg(&job.loading).ignore();
    }
    query::<()>(server, &remove)?;
    let result = try_load_all(server, jobs, shutdown);
    if result.is_err() {
        // Where this fails too, they expire
        let _ = query::<()>(server, &remove);
    }
    result
}

fn try_load_all(server: &mut Server, jobs: &[Job<'_>], shutdown: &Shutdown) -> Result<Vec<u64>, BusError> {
    let mut counts = Vec::new();
    for (index, job) in jobs.iter().enumerate() {
        counts.push(load(server, job, &jobs[..=index], shutdown)?);
    }
    let mut sizes = Pipeline::new();
    for job in jobs {
        sizes.cmd(if job.layout == Layout::Pair { "HLEN" } else { "SCARD" }).arg(&job.loading);
    }
    let found: Vec<u64> = query(server, &sizes)?;
    if found != counts {
        let lost = anyhow!("{server} has lost some of what was loaded, it may have evicted or expired it");
        return Err(BusError::Unavailable(lost));
    }
    let mut swap = Pipeline::new();
    swap.atomic();
    for job in jobs {
        // A name takes its time to live along
        swap.cmd("PERSIST").arg(&job.loading).ignore();
        swap.cmd("RENAME").arg(&job.loading).arg(job.key).ignore();
    }
    query::<()>(server, &swap)?;
    Ok(counts)
}

/// Loads one file under its other name, and keeps alive `begun`, which are those begun so far.
fn load(server: &mut Server, job: &Job<'_>, begun: &[Job<'_>], shutdown: &Shutdown) -> Result<u64, BusError> {
    let bar = progress::of_file(job.path);
    let mut reader = Reader::open(job.path, job.layout).map_err(fatal)?;
    let mut count = 0;
    let mut ended = false;
    while !ended {
        if shutdown.requested() {
            return Err(fatal(interrupted()));
        }
        let mut pipeline = Pipeline::with_capacity(PIPELINE + begun.len());
        for _ in 0..PIPELINE {
            let command = command(job, &mut reader).map_err(fatal)?;
            ended = command.is_none();
            let Some(command) = command else { break };
            pipeline.add_command(command);
        }
        for job in begun {
            pipeline.cmd("EXPIRE").arg(&job.loading).arg(ORPHAN_SECONDS).ignore();
        }
        count += query::<Vec<u64>>(server, &pipeline)?.iter().sum::<u64>();
        bar.set_position(reader.bytes());
    }
    bar.finish_and_clear();
    Ok(count)
}

/// The command that adds the next lines; `None` where there are none.
fn command(job: &Job<'_>, reader: &mut Reader) -> Result<Option<Cmd>, Misconfigured> {
    let pair = job.layout == Layout::Pair;
    let mut command = Cmd::with_capacity(2 * COMMAND + 2, 64 * COMMAND);
    command.arg(if pair { "HSET" } else { "SADD" }).arg(&job.loading);
    let mut lines = 0;
    while lines < COMMAND {
        let Some((key, value)) = reader.read()? else { break };
        command.arg(key);
        if pair {
            command.arg(value);
        }
        lines += 1;
    }
    Ok((lines > 0).then_some(command))
}

fn query<T: redis::FromRedisValue>(server: &mut Server, pipeline: &Pipeline) -> Result<T, BusError> {
    server.try_query(pipeline).map_err(|error: RedisError| {
        let explained = server.explain(&error, None);
        if is_absence(&error) { BusError::Unavailable(explained) } else { BusError::Fatal(explained) }
    })
}

fn fatal(error: impl Into<anyhow::Error>) -> BusError {
    BusError::Fatal(error.into())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, thread};

    use super::*;
    use crate::{
        cache::real_redis::{RealRedis, until},
        error::Unreachable,
    };

    struct Fixture {
        _folder: tempfile::TempDir,
        emails: PathBuf,
        whitelist: PathBuf,
    }

    impl Fixture {
        /// `lines` emails and as many on the list.
        fn new(lines: u64) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let (emails, whitelist) = (folder.path().join("emails.dat"), folder.path().join("whitelist.dat"));
            fs::write(&emails, (0..lines).map(|n| format!("{n},{n}@x\n")).collect::<String>()).unwrap();
            fs::write(&whitelist, (0..lines).map(|n| format!("{n}@x\n")).collect::<String>()).unwrap();
            Self { _folder: folder, emails, whitelist }
        }

        fn load(&self, url: &str, only: Option<Only>, shutdown: &Shutdown) -> anyhow::Result<()> {
            let target = Target {
                url,
                timeout: Duration::from_secs(5),
                connect_timeout: Some(Duration::from_secs(20)),
                hash: "emails",
                set: "whitelist",
                emails: &self.emails,
                whitelist: &self.whitelist,
            };
            load_files(&Arguments { emails: None, whitelist: None, only }, &target, shutdown)
        }
    }

    fn keys(redis: &RealRedis) -> Vec<String> {
        let mut keys: Vec<String> = redis.command(&["KEYS", "*"]);
        keys.sort();
        keys
    }

    #[test]
    fn both_files_take_the_place_of_what_was_there() {
        let Some(redis) = RealRedis::start() else { return };
        redis.command::<()>(&["HSET", "emails", "old", "old@x"]);
        redis.command::<()>(&["SADD", "whitelist", "old@x"]);
        let fixture = Fixture::new(25_000);
        fixture.load(&redis.url(), None, &Shutdown::default()).unwrap();
        let emails: BTreeMap<String, String> = redis.command(&["HGETALL", "emails"]);
        let expected: BTreeMap<String, String> = (0..25_000).map(|n| (n.to_string(), format!("{n}@x"))).collect();
        assert!(emails == expected);
        let listed: Vec<String> = redis.command(&["SMEMBERS", "whitelist"]);
        assert!(listed.into_iter().collect::<std::collections::BTreeSet<_>>() == expected.into_values().collect());
        assert_eq!(keys(&redis), ["emails", "whitelist"]);
        assert_eq!(redis.command::<i64>(&["TTL", "emails"]), -1);
        assert_eq!(redis.command::<i64>(&["TTL", "whitelist"]), -1);
    }

    #[test]
    fn one_of_them_is_loaded_alone_and_the_last_of_two_lines_counts() {
        let Some(redis) = RealRedis::start() else { return };
        let fixture = Fixture::new(1);
        fs::write(&fixture.emails, "1,a@x\n2,b@x\r\n1,c@x").unwrap();
        fixture.load(&redis.url(), Some(Only::Emails), &Shutdown::default()).unwrap();
        assert_eq!(keys(&redis), ["emails"]);
        assert_eq!(redis.command::<Vec<String>>(&["HMGET", "emails", "1", "2"]), ["c@x", "b@x"]);
        fixture.load(&redis.url(), Some(Only::Whitelist), &Shutdown::default()).unwrap();
        assert_eq!(redis.command::<Vec<String>>(&["SMEMBERS", "whitelist"]), ["0@x"]);
    }

    #[test]
    fn a_bad_file_is_a_misconfiguration_and_changes_nothing() {
        let Some(redis) = RealRedis::start() else { return };
        let fixture = Fixture::new(3);
        let name = fixture.whitelist.display();
        for (text, why) in [
            ("a@x\nb\n", "line 2: has an email without @"),
            ("", "is empty, and Redis keeps no hash or set without content"),
        ] {
            fs::write(&fixture.whitelist, text).unwrap();
            let error = fixture.load(&redis.url(), None, &Shutdown::default()).unwrap_err();
            assert!(error.is::<Misconfigured>());
            assert_eq!(error.to_string(), format!("{name}: {why}"));
            assert_eq!(keys(&redis), [""; 0]);
        }
    }

    #[test]
    fn a_line_that_turns_out_malformed_while_loading_changes_nothing() {
        let Some(redis) = RealRedis::start() else { return };
        let fixture = Fixture::new(30_000);
        fs::write(&fixture.whitelist, "a@x\nb\n").unwrap();
        let mut server = Server::new(&redis.url(), Duration::from_secs(5)).unwrap();
        let jobs = [
            Job { layout: Layout::Pair, path: &fixture.emails, key: "emails", loading: "l1".into() },
            Job { layout: Layout::Single, path: &fixture.whitelist, key: "whitelist", loading: "l2".into() },
        ];
        let error = load_all(&mut server, &jobs, &Shutdown::default()).unwrap_err();
        assert!(matches!(error, BusError::Fatal(error) if error.is::<Misconfigured>()));
        assert_eq!(keys(&redis), [""; 0]);
        // Its loader killed at this point, Redis removes it
        load(&mut server, &jobs[0], &jobs[..1], &Shutdown::default()).unwrap();
        assert_eq!(redis.command::<u64>(&["HLEN", "l1"]), 30_000);
        assert!((1..=60).contains(&redis.command::<i64>(&["TTL", "l1"])));
    }

    #[test]
    fn readers_see_the_old_content_or_the_new_one() {
        let Some(redis) = RealRedis::start() else { return };
        let fixture = Fixture::new(100_000);
        redis.command::<()>(&["HSET", "emails", "old", "old@x"]);
        let url = redis.url();
        let loader = thread::spawn(move || fixture.load(&url, None, &Shutdown::default()));
        let mut connection = redis.connection();
        let mut size = || redis::cmd("HLEN").arg("emails").query::<u64>(&mut connection).unwrap();
        let mut seen = vec![size()];
        while !loader.is_finished() {
            seen.push(size());
        }
        loader.join().unwrap().unwrap();
        seen.push(size());
        seen.dedup();
        assert_eq!(seen, [1, 100_000]);
    }

    #[test]
    fn a_redis_that_is_away_is_waited_for_and_a_load_that_it_breaks_is_begun_anew() {
        let Some(mut redis) = RealRedis::start() else { return };
        let fixture = Fixture::new(200_000);
        let url = redis.url();
        redis.kill();
        let loader = thread::spawn(move || fixture.load(&url, None, &Shutdown::default()));
        redis.restart();
        until("it has begun", || keys(&redis).iter().any(|key| key.starts_with("emails:loading:")).then_some(()));
        redis.kill();
        redis.restart();
        loader.join().unwrap().unwrap();
        assert_eq!(keys(&redis), ["emails", "whitelist"]);
        let sizes = (redis.command(&["HLEN", "emails"]), redis.command(&["SCARD", "whitelist"]));
        assert_eq!(sizes, (200_000, 200_000));
    }

    #[test]
    fn waiting_ends_with_the_time_given_or_with_the_process() {
        let fixture = Fixture::new(3);
        let arguments = Arguments { emails: None, whitelist: None, only: None };
        let target = Target {
            // Nothing listens on port 1
            url: "redis://127.0.0.1:1",
            timeout: Duration::from_secs(1),
            connect_timeout: Some(Duration::from_millis(200)),
            hash: "emails",
            set: "whitelist",
            emails: &fixture.emails,
            whitelist: &fixture.whitelist,
        };
        let error = load_files(&arguments, &target, &Shutdown::default()).unwrap_err();
        assert!(error.is::<Unreachable>(), "{error:#}");
        assert!(error.to_string().starts_with("Redis cannot be reached within "), "{error:#}");
        let shutdown = Shutdown::default();
        shutdown.request();
        let error = load_files(&arguments, &Target { connect_timeout: None, ..target }, &shutdown).unwrap_err();
        assert_eq!(error.to_string(), "interrupted, nothing has changed in Redis");
    }

    #[test]
    fn an_interrupted_load_leaves_nothing_behind() {
        let Some(redis) = RealRedis::start() else { return };
        let shutdown = Shutdown::default();
        shutdown.request();
        let error = Fixture::new(3).load(&redis.url(), None, &shutdown).unwrap_err();
        assert_eq!(error.to_string(), "interrupted, nothing has changed in Redis");
        assert_eq!(keys(&redis), [""; 0]);
    }

    #[test]
    fn a_login_that_is_refused_is_not_waited_for() {
        let Some(redis) = RealRedis::start_with(&["--requirepass", "right"]) else { return };
        let error = Fixture::new(3).load(&redis.url(), None, &Shutdown::default()).unwrap_err();
        assert!(error.to_string().ends_with(" refuses the login, see redis.url"), "{error:#}");
    }
}
