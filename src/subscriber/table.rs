//! Subscribers in SQLite: the table of [switch](https://github.com/Kareem-Emad/switch) as gorm makes it, and beside it a table
//! of ours with what switch has no column for.
//!
//! | table | column | |
//! | --- | --- | --- |
//! | `subscribers` | `id` | of the row |
//! | | `created_at`, `updated_at`, `deleted_at` | times as gorm writes them; a row with the last one does not count |
//! | | `filter_expression` | Python, over `data`; "" is every message |
//! | | `target_url`, `topic` | |
//! | `metrobus_subscribers` | `id`, `created_at` | of the row that is meant: an id alone may be given again |
//! | | `name` | |
//! | | `filter` | CEL in place of the Python; the row has `False` then, so that switch, which cannot tell, sends nothing |
//! | | `secrets`, `secret_file` | one a line; a path |
//! | | `headers` | an object of JSON |
//! | | `concurrency`, `rate`, `ordered` | NULL is as `[deliver]` says |
//!
//! Whoever only looks writes nothing, so that the file may be another's, open there at the time.

use std::{
    io::ErrorKind,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, Row, config::DbConfig, types::ValueRef};

use super::{
    Subscriber,
    config::{Fault, NUMBERED, SubscriberOptions, check_name},
};
use crate::{bus::Topic, deliver::options::Options, webhook::address::Allowed};

/// How long a reader or writer waits for another one that writes.
pub(super) const BUSY: Duration = Duration::from_secs(2);

/// What tells a state of the table from another. `None` is a file that is not there.
pub type Version = Option<(u64, u64, i64)>;

/// The table, for reading.
pub struct Table {
    path: PathBuf,
    /// With device and inode of what was opened.
    open: Option<(Connection, u64, u64)>,
    /// Files that its rows named when it was read.
    secret_files: Vec<PathBuf>,
    /// Whether it was there when it was read.
    there: bool,
}

/// What is said of one row.
pub type Read = Result<Subscriber, String>;

impl Table {
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), open: None, secret_files: Vec::new(), there: false }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it was there when it was read last, the file and the table in it.
    pub fn is_there(&self) -> bool {
        self.there
    }

    /// Those that its rows named when it was read last.
    pub fn secret_files(&self) -> &[PathBuf] {
        &self.secret_files
    }

    /// The state of the table. It is another one once anybody has written to the file, or put another in its place.
    pub fn version(&mut self) -> Result<Version, String> {
        let Some((connection, device, inode)) = self.connection()? else { return Ok(None) };
        let (device, inode) = (*device, *inode);
        let data = connection.query_row("PRAGMA data_version", [], |row| row.get(0));
        data.map(|data| Some((device, inode, data))).map_err(|error| self.says(&error))
    }

    fn connection(&mut self) -> Result<Option<&(Connection, u64, u64)>, String> {
        let file = match self.path.metadata() {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.open = None;
                return Ok(None);
            }
            Err(error) => return Err(cannot(&self.path, &error.kind().to_string())),
        };
        let same = |(_, device, inode): &(Connection, u64, u64)| (*device, *inode) == (file.dev(), file.ino());
        if !self.open.as_ref().is_some_and(same) {
            self.open = None;
            let connection = open(&self.path).map_err(|error| self.says(&error))?;
            self.open = Some((connection, file.dev(), file.ino()));
        }
        Ok(self.open.as_ref())
    }

    /// All rows that count, each a subscriber or why it is none. The error is one of the file.
    pub fn read(&mut self, defaults: &Options) -> Result<Vec<(String, Read)>, String> {
        let rows = match self.connection()? {
            Some((connection, ..)) => rows(connection).map_err(|error| self.says(&error))?,
            None => None,
        };
        self.there = rows.is_some();
        let rows = rows.unwrap_or_default();
        self.secret_files = rows.iter().filter_map(Raw::secret_file).collect();
        let allowed = defaults.allowed();
        Ok(rows.into_iter().map(|row| row.read(defaults, &allowed)).collect())
    }

    fn says(&self, error: &rusqlite::Error) -> String {
        says(&self.path, error)
    }
}

/// What is wrong with the file, in one line.
pub(super) fn says(path: &Path, error: &rusqlite::Error) -> String {
    let what = match error {
        rusqlite::Error::SqliteFailure(failure, what) => what.clone().unwrap_or_else(|| failure.to_string()),
        error => error.to_string(),
    };
    let what = what.lines().next().unwrap_or_default();
    cannot(path, what)
}

fn cannot(path: &Path, what: &str) -> String {
    format!("the table of subscribers in {} cannot be used: {what}", path.display())
}

/// For reading, though not only: what a writer left half done when it crashed is undone by whoever comes next.
fn open(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "query_only", true)?;
    // What another program left in its log beside the file is its own to bring in
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    Ok(connection)
}

pub(super) fn has_table(connection: &Connection, name: &str) -> rusqlite::Result<bool> {
    connection.query_row("SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = ?", [name], |row| {
        row.get(0).map(|count: i64| count > 0)
    })
}

/// A row as it stands there. A column that holds no text has its reason.
struct Raw {
    id: i64,
    python: Result<String, String>,
    url: Result<String, String>,
    topic: Result<String, String>,
    /// Where the row has one in our table.
    ours: Option<Ours>,
}

struct Ours {
    name: Result<String, String>,
    filter: Option<Result<String, String>>,
    secrets: Option<Result<String, String>>,
    secret_file: Option<Result<String, String>>,
    headers: Option<Result<String, String>>,
    concurrency: Option<i64>,
    rate: Option<f64>,
    ordered: Option<bool>,
}

const PLAIN: &str =
    "SELECT id, filter_expression, target_url, topic FROM subscribers WHERE deleted_at IS NULL ORDER BY id";

const JOINED: &str = "
    SELECT s.id, s.filter_expression, s.target_url, s.topic,
           m.name, m.filter, m.secrets, m.secret_file, m.headers, m.concurrency, m.rate, m.ordered, m.id IS NOT NULL
    FROM subscribers AS s LEFT JOIN metrobus_subscribers AS m ON m.id = s.id AND m.created_at = s.created_at
    WHERE s.deleted_at IS NULL ORDER BY s.id";

/// Those of the table, where there is one.
fn rows(connection: &Connection) -> rusqlite::Result<Option<Vec<Raw>>> {
    if !has_table(connection, "subscribers")? {
        return Ok(None);
    }
    let joined = has_table(connection, "metrobus_subscribers")?;
    let mut statement = connection.prepare(if joined { JOINED } else { PLAIN })?;
    let rows = statement.query_map([], |row| {
        Ok(Raw {
            id: row.get(0)?,
            python: text(row, 1)?.unwrap_or(Ok(String::new())),
            url: text(row, 2)?.unwrap_or(Ok(String::new())),
            topic: text(row, 3)?.unwrap_or(Ok(String::new())),
            ours: if joined && row.get(12)? { Some(ours(row)?) } else { None },
        })
    })?;
    rows.collect::<rusqlite::Result<_>>().map(Some)
}

fn ours(row: &Row<'_>) -> rusqlite::Result<Ours> {
    Ok(Ours {
        name: text(row, 4)?.unwrap_or(Ok(String::new())),
        filter: text(row, 5)?,
        secrets: text(row, 6)?,
        secret_file: text(row, 7)?,
        headers: text(row, 8)?,
        concurrency: row.get(9)?,
        rate: row.get(10)?,
        ordered: row.get(11)?,
    })
}

/// A column as text; `None` for NULL.
fn text(row: &Row<'_>, index: usize) -> rusqlite::Result<Option<Result<String, String>>> {
    Ok(match row.get_ref(index)? {
        ValueRef::Null => None,
        ValueRef::Text(bytes) => Some(String::from_utf8(bytes.to_vec()).map_err(|_| "is no UTF-8".to_owned())),
        _ => Some(Err("is no text".to_owned())),
    })
}

impl Raw {
    fn secret_file(&self) -> Option<PathBuf> {
        let file = self.ours.as_ref()?.secret_file.as_ref()?;
        file.as_ref().ok().map(PathBuf::from)
    }

    /// The name of the subscriber, and the subscriber or why it is none.
    fn read(self, defaults: &Options, allowed: &Allowed) -> (String, Read) {
        let id = self.id;
        let numbered = format!("{NUMBERED}{id}");
        let name = match self.ours.as_ref().map(|ours| &ours.name) {
            Some(Ok(name)) if check_name(name).is_ok() => name.clone(),
            _ => numbered,
        };
        let of_switch = self.ours.is_none();
        let options = self.options(&name);
        let built = options.and_then(|options| options.build(defaults, allowed).map_err(told));
        match built {
            Ok(subscriber) => (name, Ok(Subscriber { of_switch, ..subscriber })),
            Err(why) => (name, Err(format!("row {id}: {why}"))),
        }
    }

    fn options(self, name: &str) -> Result<SubscriberOptions, String> {
        let column = |name: &'static str| move |what: String| format!("{name} {what}");
        let topic = self.topic.map_err(column("topic"))?;
        let mut options = SubscriberOptions {
            name: name.to_owned(),
            topic: Topic::new(&topic).map_err(|error| format!("topic: {error}"))?,
            url: self.url.map_err(column("target_url"))?,
            filter: None,
            python: Some(self.python.map_err(column("filter_expression"))?),
            secrets: Vec::new(),
            secret_file: None,
            headers: Default::default(),
            concurrency: None,
            rate: None,
            ordered: None,
            timeout: None,
            waits: None,
            jitter: None,
            disable_after: None,
        };
        let Some(ours) = self.ours else { return Ok(options) };
        if let Some(filter) = ours.filter {
            options.filter = Some(filter.map_err(column("filter"))?);
            options.python = None;
        }
        if let Some(secrets) = ours.secrets {
            options.secrets = secrets.map_err(column("secrets"))?.lines().map(str::to_owned).collect();
        }
        options.secret_file = ours.secret_file.transpose().map_err(column("secret_file"))?.map(PathBuf::from);
        if let Some(headers) = ours.headers {
            let headers = headers.map_err(column("headers"))?;
            options.headers = serde_json::from_str(&headers).map_err(|_| "headers is no object of texts".to_owned())?;
        }
        options.concurrency = ours.concurrency.map(|count| usize::try_from(count).unwrap_or(0));
        (options.rate, options.ordered) = (ours.rate, ours.ordered);
        Ok(options)
    }
}

/// With the columns' own names.
fn told(Fault { key, what, .. }: Fault) -> String {
    let column = match key.as_str() {
        "url" => "target_url",
        "python" => "filter_expression",
        key => key,
    };
    format!("{column}: {what}")
}
