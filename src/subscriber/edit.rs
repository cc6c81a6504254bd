//! Writing the table of subscribers, beside switch.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::{
    config::{NUMBERED, SubscriberOptions},
    table::{BUSY, has_table, says},
};

/// As gorm makes it of switch's model.
const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS `subscribers` (`id` integer, `created_at` datetime, `updated_at` datetime,
        `deleted_at` datetime, `filter_expression` text, `target_url` text, `topic` text, PRIMARY KEY (`id`));
    CREATE INDEX IF NOT EXISTS `idx_subscribers_deleted_at` ON `subscribers` (`deleted_at`);";

const OURS: &str = "
    CREATE TABLE IF NOT EXISTS metrobus_subscribers (
        id INTEGER PRIMARY KEY, created_at TEXT NOT NULL, name TEXT NOT NULL, filter TEXT, secrets TEXT, secret_file TEXT,
        headers TEXT, concurrency INTEGER, rate REAL, ordered INTEGER
    );";

/// What switch evaluates where it cannot tell who wants what: it sends nothing then.
const NOBODY: &str = "False";

/// The table, for writing. Who may read the file may read secrets, so it is made for its owner alone.
pub struct Editor {
    connection: Connection,
    path: PathBuf,
}

impl Editor {
    /// Opens the file, which is made where it is missing, its folder too.
    pub fn open(path: &Path) -> Result<Self, String> {
        let cannot = |error: std::io::Error| format!("cannot make {}: {}", path.display(), error.kind());
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(cannot)?;
        }
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(cannot(error)),
            _ => {}
        }
        let opened = || {
            let connection = Connection::open(path)?;
            connection.busy_timeout(BUSY)?;
            Ok(connection)
        };
        Ok(Self { connection: opened().map_err(|error| says(path, &error))?, path: path.to_owned() })
    }

    /// Adds a row, with a name of its own where `options` has none, and gives the name. `options` is what was built before; its
    /// time-outs and waits are the configuration's, there are no columns for them.
    pub fn add(&mut self, options: &SubscriberOptions) -> Result<String, String> {
        let now = time(SystemTime::now());
        let mut write = || -> rusqlite::Result<Option<i64>> {
            let transaction = Transaction::new(&mut self.connection, TransactionBehavior::Immediate)?;
            transaction.execute_batch(TABLE)?;
            transaction.execute_batch(OURS)?;
            if find(&transaction, &options.name)?.is_some() && !options.name.is_empty() {
                return Ok(None);
            }
            let python = match &options.filter {
                Some(_) => NOBODY,
                None => options.python.as_deref().unwrap_or_default(),
            };
            transaction.execute(
                "INSERT INTO subscribers (created_at, updated_at, deleted_at, filter_expression, target_url, topic)
                 VALUES (?1, ?1, NULL, ?2, ?3, ?4)",
                params![now, python, options.url, options.topic.as_str()],
            )?;
            let id = transaction.last_insert_rowid();
            let some = |text: String| (!text.is_empty()).then_some(text);
            let file = options.secret_file.as_ref().map(|file| file.display().to_string());
            let headers = (!options.headers.is_empty()).then(|| serde_json::json!(options.headers).to_string());
            transaction.execute(
                "INSERT OR REPLACE INTO metrobus_subscribers
                     (id, created_at, name, filter, secrets, secret_file, headers, concurrency, rate, ordered)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
                params![
                    id,
                    now,
                    options.name,
                    options.filter,
                    some(options.secrets.join("\n")),
                    file,
                    headers,
                    options.concurrency.map(|count| count as i64),
                    options.rate,
                    options.ordered,
                ],
            )?;
            transaction.commit()?;
            Ok(Some(id))
        };
        let Some(id) = write().map_err(|error| says(&self.path, &error))? else {
            return Err(format!("there is a subscriber {} already", options.name));
        };
        Ok(if options.name.is_empty() { format!("{NUMBERED}{id}") } else { options.name.clone() })
    }

    /// Has the row of this name not count any more, as switch does it. Whether there was one.
    pub fn remove(&mut self, name: &str) -> Result<bool, String> {
        let now = time(SystemTime::now());
        let mut write = || -> rusqlite::Result<bool> {
            let transaction = Transaction::new(&mut self.connection, TransactionBehavior::Immediate)?;
            let Some(id) = find(&transaction, name)? else { return Ok(false) };
            let deleted = transaction.execute(
                "UPDATE subscribers SET deleted_at = ?2, updated_at = ?2 WHERE id = ?1 AND deleted_at IS NULL",
                params![id, now],
            )?;
            if has_table(&transaction, "metrobus_subscribers")? {
                // Secrets are kept no longer than they are used
                transaction.execute("DELETE FROM metrobus_subscribers WHERE id = ?", [id])?;
            }
            transaction.commit()?;
            Ok(deleted > 0)
        };
        write().map_err(|error| says(&self.path, &error))
    }
}

/// The id of a row that counts, by its name.
fn find(connection: &Connection, name: &str) -> rusqlite::Result<Option<i64>> {
    if !has_table(connection, "subscribers")? {
        return Ok(None);
    }
    if has_table(connection, "metrobus_subscribers")? {
        let named = "SELECT s.id FROM metrobus_subscribers AS m JOIN subscribers AS s ON s.id = m.id AND s.created_at = m.created_at
                     WHERE m.name = ? AND s.deleted_at IS NULL";
        if let Some(id) = connection.query_row(named, [name], |row| row.get(0)).optional()? {
            return Ok(Some(id));
        }
    }
    let id = name.strip_prefix(NUMBERED).and_then(|number| number.parse::<i64>().ok());
    let Some(id) = id.filter(|id| *name == format!("{NUMBERED}{id}")) else { return Ok(None) };
    if named_otherwise(connection, id)? { Ok(None) } else { Ok(Some(id)) }
}

fn named_otherwise(connection: &Connection, id: i64) -> rusqlite::Result<bool> {
    if !has_table(connection, "metrobus_subscribers")? {
        return Ok(false);
    }
    let named = "SELECT count(*) FROM metrobus_subscribers AS m JOIN subscribers AS s ON s.id = m.id AND s.created_at = m.created_at
                 WHERE m.id = ? AND m.name <> ''";
    connection.query_row(named, [id], |row| row.get(0).map(|count: i64| count > 0))
}

/// As gorm's driver writes a time, in UTC: `2026-11-21 22:30:00.123456789+00:00`.
fn time(at: SystemTime) -> String {
    let at = at.max(UNIX_EPOCH);
    let text = humantime::format_rfc3339_nanos(at).to_string();
    text.replace('T', " ").replace('Z', "+00:00")
}
