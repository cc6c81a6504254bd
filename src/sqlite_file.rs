//! SQLite files of ours: told from those of other programs, and laid out where they are new.
//!
//! `application_id` and `user_version` are what SQLite's header has for that, see
//! [its file format](https://www.sqlite.org/fileformat2.html#application_id).

use rusqlite::{Connection, Transaction, TransactionBehavior, config::DbConfig};

/// What one kind of our files is.
pub struct Layout {
    /// `application_id`, which no other kind of file has.
    pub application: i32,
    /// `user_version`, another one whenever the tables change.
    pub version: i32,
    /// The statements that make the tables.
    pub tables: &'static str,
}

impl Layout {
    /// Whether the file is another program's; to be asked before anything is written. Where it is, nothing of it changes.
    pub fn is_foreign(&self, connection: &Connection) -> rusqlite::Result<bool> {
        // What another program left in its log beside the file is not ours to bring in when this closes
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        let tables: i64 = connection.query_row("SELECT COUNT(*) FROM sqlite_master", [], |row| row.get(0))?;
        // In this order: another process of ours that makes the file new writes both at once
        if tables > 0 && pragma(connection, "application_id")? != self.application {
            return Ok(true);
        }
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
        Ok(false)
    }

    /// Makes the tables where the file is new. Gives the version that it has, which an older or newer metrobus may have made.
    pub fn lay(&self, connection: &Connection) -> rusqlite::Result<i32> {
        if pragma(connection, "application_id")? != self.application {
            let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
            // Another process may have been first
            if pragma(connection, "application_id")? != self.application {
                transaction.execute_batch(&self.statements())?;
            }
            transaction.commit()?;
        }
        version(connection)
    }

    /// The statements that make the tables, and the file one of this kind.
    pub fn statements(&self) -> String {
        let Self { application, version, tables } = self;
        format!("PRAGMA application_id = {application}; PRAGMA user_version = {version}; {tables}")
    }
}

/// The version of a file of ours; 0 of a new one.
pub fn version(connection: &Connection) -> rusqlite::Result<i32> {
    pragma(connection, "user_version")
}

fn pragma(connection: &Connection, name: &str) -> rusqlite::Result<i32> {
    connection.pragma_query_value(None, name, |row| row.get(0))
}
