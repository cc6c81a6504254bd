//! What all sections share: how much is measured, the fixtures, the services, the table.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use metrobus::{
    Config,
    bus::{self, Bus},
};

use crate::{kafka::Broker, report::Report};

/// One run of the bench.
pub struct Bench {
    pub setup: Setup,
    /// `None` where there is none.
    pub broker: Option<Broker>,
    /// The URL of a Redis.
    pub redis: Option<String>,
    pub report: Report,
    folder: tempfile::TempDir,
}

impl Bench {
    pub fn new() -> Self {
        let named = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        // Beside the build, on a real disk: /tmp may be memory, where being durable costs nothing
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("make a temporary folder");
        let setup = Setup::from_environment();
        write_caches(folder.path());
        Self {
            setup,
            broker: named("METROBUS_TEST_KAFKA").map(Broker::new),
            redis: named("METROBUS_TEST_REDIS"),
            report: Report::default(),
            folder,
        }
    }

    /// Where everything happens: it holds emails.dat and whitelist.dat, and goes when the bench ends.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The bus of these settings, for this process; they are variables of the configuration, without the `METROBUS__` before them.
    pub fn bus(&self, settings: &[(&str, &str)]) -> Box<dyn Bus> {
        let variable = |(name, value): &(&str, &str)| match *name {
            "SQLITE__PATH" => (format!("METROBUS__{name}"), self.path(value).into_os_string()),
            name => (format!("METROBUS__{name}"), value.into()),
        };
        let config = Config::load(None, settings.iter().map(variable)).expect("a configuration");
        bus::open(&config).expect("open the bus")
    }
}

/// How much is measured.
pub struct Setup {
    /// Of a hop on Kafka.
    pub messages: usize,
    pub runs: usize,
    /// How long latency is measured.
    pub seconds: u64,
    /// Of the LMDB cache.
    pub emails: u64,
    /// Messages of the long backlog.
    pub backlog: usize,
}

const WHOLE: Setup = Setup { messages: 2_000_000, runs: 5, seconds: 20, emails: 60_000_000, backlog: 10_000_000 };

impl Setup {
    fn from_environment() -> Self {
        let messages = number("MESSAGES").unwrap_or(WHOLE.messages);
        let share = (messages as f64 / WHOLE.messages as f64).min(1.0);
        let scaled = |whole: usize| ((whole as f64 * share) as usize).max(1000);
        Self {
            messages,
            runs: number("RUNS").unwrap_or(WHOLE.runs).max(1),
            seconds: number("SECONDS").map_or(if share < 1.0 { 5 } else { WHOLE.seconds }, |seconds| seconds as u64),
            emails: number("EMAILS").unwrap_or_else(|| scaled(WHOLE.emails as usize)) as u64,
            backlog: number("BACKLOG").unwrap_or_else(|| scaled(WHOLE.backlog)),
        }
    }

    /// Whether nothing is scaled down.
    pub fn is_whole(&self) -> bool {
        self.messages >= WHOLE.messages
            && self.runs >= WHOLE.runs
            && self.seconds >= WHOLE.seconds
            && self.emails >= WHOLE.emails
            && self.backlog >= WHOLE.backlog
    }

    /// Runs of what takes long, or varies little.
    pub fn few_runs(&self) -> usize {
        self.runs.min(3)
    }

    /// Messages of a hop on SQLite.
    pub fn on_sqlite(&self) -> usize {
        self.messages / 2
    }

    /// The median of what `measure` gives in as many runs as there are.
    pub fn median(&self, measure: impl FnMut() -> f64) -> f64 {
        median(std::iter::repeat_with(measure).take(self.runs).collect())
    }
}

fn number(name: &str) -> Option<usize> {
    let variable = format!("METROBUS_BENCH_{name}");
    let text = std::env::var(&variable).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|error| panic!("{variable} = {text:?}: {error}")))
}

pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// A file of so many lines.
pub fn lines(count: usize, line: impl Fn(usize) -> String) -> String {
    (0..count).map(|id| line(id) + "\n").collect()
}

/// The accounts of emails.dat.
const ACCOUNTS: usize = 1_000_000;

/// Every account has an email and every email is listed, so that every message goes all the way.
fn write_caches(folder: &Path) {
    let (mut emails, mut listed) = (String::new(), String::new());
    for account in ACCOUNTS..2 * ACCOUNTS {
        let _ = writeln!(emails, "{account},user.{account}@mail.example");
        let _ = writeln!(listed, "user.{account}@mail.example");
    }
    fs::write(folder.join("emails.dat"), emails).expect("write emails.dat");
    fs::write(folder.join("whitelist.dat"), listed).expect("write whitelist.dat");
}

/// The account of the message number `id`: all in turn, in no order that a cache could profit from.
fn account(id: usize) -> usize {
    ACCOUNTS + id * 7919 % ACCOUNTS
}

/// A record as the pusher writes it.
pub fn raw(id: usize) -> String {
    format!(r#"{{"x": {id}, "message_type_code": "ALTABC", "account_number": {}}}"#, account(id))
}

/// A message as it leaves the busdriver, and its key.
pub fn message(id: usize) -> (String, String) {
    let header = r#"{"route": ["Log", "WhiteList"], "original_route": ["Log", "WhiteList", "AddEmail"], "historical_route": ["AddEmail"]}"#;
    (account(id).to_string(), format!(r#"{{"header": {header}, "payload": {}}}"#, raw(id)))
}
