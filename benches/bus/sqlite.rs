//! SQLite: pusher and hop beside rows copied from table to table.

use std::{fs, path::Path, time::Instant};

use rusqlite::{Connection, params};

use super::{Report, Setup, metrobus, per_second, time};

pub fn run(setup: &Setup, folder: &Path, report: &mut Report) {
    let input: String = (0..setup.messages).map(|id| setup.message(id).1 + "\n").collect();
    fs::write(folder.join("messages.ndjson"), input).expect("write the messages");
    let database = folder.join("bus.db");
    let (mut push, mut hop, mut relayed) = (Vec::new(), Vec::new(), Vec::new());
    let count = setup.messages as f64;
    for _ in 0..setup.runs {
        for name in ["bus.db", "bus.db-wal", "bus.db-shm"] {
            let _ = fs::remove_file(folder.join(name));
        }
        let settings = [("SQLITE__PATH", "bus.db"), ("PUSHER__TOPIC", "AddEmail")];
        let from = ["pusher", "--from", "messages.ndjson", "--rate", "0", "--key", "account_number"];
        push.push(count / time(metrobus(folder, &from, &settings)));
        hop.push(count / time(metrobus(folder, &["contactpoint", "--drain"], &settings)));
        relayed.push(count / relay(&database));
    }
    let (push, hop, relayed) = (super::median(push), super::median(hop), super::median(relayed));
    report.row("SQLite relay: rows copied unread, 1,000 a transaction", per_second(relayed), "1", "");
    report.row("SQLite pusher, from a file", per_second(push), "", "≥ 200k/s");
    let ratio = format!("{:.2}", hop / relayed);
    report.row("SQLite hop, start and end included", per_second(hop), &ratio, "≥ 200k/s");
}

/// Copies the topic AddEmail into a table of its own; gives the seconds it took.
fn relay(database: &Path) -> f64 {
    let connection = Connection::open(database).expect("open the bus");
    connection.pragma_update(None, "synchronous", "full").expect("set synchronous");
    let from: i64 = connection
        .query_row("SELECT id FROM topics WHERE name = 'AddEmail'", [], |row| row.get(0))
        .expect("the topic is there");
    connection
        .execute_batch(
            "CREATE TABLE relay (offset INTEGER PRIMARY KEY, timestamp INTEGER, key BLOB, headers BLOB, value BLOB);
             CREATE TABLE relay_cursor (next INTEGER); INSERT INTO relay_cursor VALUES (0);",
        )
        .expect("create the relay's tables");
    let select =
        format!("SELECT offset, timestamp, key, headers, value FROM topic_{from} WHERE offset >= ?1 LIMIT 1000");
    let mut read = connection.prepare(&select).expect("prepare");
    let mut write = connection.prepare("INSERT INTO relay VALUES (?1, ?2, ?3, ?4, ?5)").expect("prepare");
    let start = Instant::now();
    let mut next = 0_i64;
    loop {
        connection.execute_batch("BEGIN IMMEDIATE").expect("begin");
        let before = next;
        let mut rows = read.query([next]).expect("read");
        while let Some(row) = rows.next().expect("read") {
            let offset: i64 = row.get(0).expect("an offset");
            let timestamp: i64 = row.get(1).expect("a timestamp");
            let field = |index| row.get_ref(index).expect("a field").as_bytes_or_null().expect("bytes");
            write.execute(params![offset, timestamp, field(2), field(3), field(4)]).expect("write");
            next = offset + 1;
        }
        drop(rows);
        connection.execute("UPDATE relay_cursor SET next = ?1", [next]).expect("move the cursor");
        connection.execute_batch("COMMIT").expect("commit");
        if next == before {
            return start.elapsed().as_secs_f64();
        }
    }
}
