use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use rusqlite::{Connection, params};
use tempfile::TempDir;

use super::{table::Table, watch::Watch, *};
use crate::{config::Config, filter::Data, log::lines::Lines};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// What gorm 1.20 with its driver for SQLite makes of switch's model.
const GORM: &str = "
    CREATE TABLE `subscribers` (`id` integer,`created_at` datetime,`updated_at` datetime,`deleted_at` datetime,
        `filter_expression` text,`target_url` text,`topic` text,PRIMARY KEY (`id`));
    CREATE INDEX `idx_subscribers_deleted_at` ON `subscribers`(`deleted_at`);";

/// A time as that driver writes it.
const CREATED: &str = "2020-09-24 01:50:46.123456789+02:00";

struct Folder(TempDir);

impl Folder {
    fn new(toml: &str) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.write(toml);
        folder
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn table(&self) -> std::path::PathBuf {
        self.path("switch.db")
    }

    /// Writes the configuration file.
    fn write(&self, toml: &str) {
        let head = format!("deliver.subscribers = {:?}\n", self.table());
        fs::write(self.path("metrobus.toml"), head + toml).unwrap();
    }

    fn config(&self) -> Config {
        Config::load(Some(&self.path("metrobus.toml")), [("", "")]).unwrap()
    }

    fn switch(&self) -> Switch {
        let connection = Connection::open(self.table()).unwrap();
        connection.execute_batch(GORM).unwrap();
        Switch(connection)
    }
}

/// The other program, with the file open.
struct Switch(Connection);

impl Switch {
    fn add(&self, filter: Option<&str>, url: &str, topic: &str) {
        let row = params![CREATED, CREATED, filter, url, topic];
        let insert = "INSERT INTO `subscribers` (`created_at`,`updated_at`,`deleted_at`,`filter_expression`,`target_url`,`topic`)
             VALUES (?,?,NULL,?,?,?)";
        self.0.execute(insert, row).unwrap();
    }

    fn delete(&self, id: i64) {
        self.0.execute("UPDATE `subscribers` SET `deleted_at`=? WHERE `id` = ?", params![CREATED, id]).unwrap();
    }
}

fn names(subscribers: &Subscribers) -> Vec<&str> {
    let mut names: Vec<_> = subscribers.iter().map(|subscriber| subscriber.name.as_str()).collect();
    names.sort_unstable();
    names
}

fn one(name: &str, more: &str) -> String {
    format!("[[deliver.subscriber]]\nname = \"{name}\"\ntopic = \"Orders\"\nurl = \"https://example.com/a\"\n{more}\n")
}

#[test]
fn a_subscriber_has_what_it_says_and_else_what_all_have() {
    let folder = Folder::new("");
    fs::write(folder.path("keys"), format!("# old\n{SECRET}\n\n  {SECRET}\n")).unwrap();
    let toml = one(
        "own",
        &format!(
            "filter = 'data.amount > 100'\nsecrets = [\"{SECRET}\"]\nsecret_file = {:?}\nconcurrency = 1\nrate = 5\n\
             ordered = true\ntimeout = \"1s\"\nwaits = [\"1s\"]\njitter = 0\ndisable_after = \"1h\"\nheaders = {{ X-From = \"us\" }}",
            folder.path("keys")
        ),
    );
    folder.write(&format!(
        "deliver.concurrency = 7\ndeliver.rate = 0.5\ndeliver.timeout = \"3s\"\n{toml}{}",
        one("common", "")
    ));
    let (subscribers, faults) = load(&folder.config()).unwrap();
    assert_eq!(faults, [""; 0]);
    let own = subscribers.named("own").unwrap();
    assert_eq!(own.target.url().as_str(), "https://example.com/a");
    assert_eq!((own.secrets.len(), own.concurrency, own.rate, own.ordered), (3, 1, Some(5.0), true));
    assert_eq!((own.timeout, own.breaker.disable), (Duration::from_secs(1), Duration::from_secs(3600)));
    assert_eq!(own.schedule, Schedule::new(vec![Duration::from_secs(1)], 0.0).unwrap());
    assert_eq!(own.headers["x-from"], "us");
    assert!(own.filter.matches(&Data::parse(r#"{"amount":101}"#).unwrap()));
    assert!(!own.filter.matches(&Data::parse(r#"{"amount":100}"#).unwrap()));
    let common = subscribers.named("common").unwrap();
    assert_eq!((common.secrets.len(), common.concurrency, common.rate, common.ordered), (0, 7, Some(0.5), false));
    assert_eq!((common.timeout, &common.schedule), (Duration::from_secs(3), &Schedule::default()));
    assert!(!common.of_switch && common.filter.matches(&Data::parse("{}").unwrap()));
    let topic = Topic::new("Orders").unwrap();
    let order: Vec<_> = subscribers.of(&topic).iter().map(|subscriber| subscriber.name.as_str()).collect();
    assert_eq!(order, ["own", "common"]);
}

#[test]
fn what_is_wrong_is_told_with_its_line_and_without_secrets() {
    for (toml, expected) in [
        (one("a b", ""), ":3: deliver.subscriber[0].name: \"a b\" is no name of a subscriber"),
        (one("subscriber-3", ""), "is what a row of the table of subscribers is called"),
        (one("a", "") + &one("a", ""), ":8: deliver.subscriber[1].name: there is a subscriber a before"),
        (one("a", "filter = 'data.x >'"), ":6: deliver.subscriber[0].filter: subscriber a: "),
        (one("a", "filter = 'x > 1'"), "unknown name `x`"),
        (one("a", "python = 'len(data)'"), ":6: deliver.subscriber[0].python: subscriber a: unknown name `len`"),
        (one("a", "python = 'x'\nfilter = 'y'"), "python: subscriber a: is set, and filter is set; take one of them"),
        (one("a", "secrets = ['whsec_s3crets3']"), "secrets[0]: subscriber a: behind whsec_ there must be 24 to 64"),
        (one("a", "secret_file = '/nowhere/s'"), "secret_file: subscriber a: cannot read /nowhere/s: entity not found"),
        (one("a", "headers = { host = 's3cret' }"), "headers.host: subscriber a: is of the connection"),
        (one("a", "headers = { webhook-id = 's3cret' }"), "headers.webhook-id: subscriber a: is set by metrobus"),
        (one("a", "headers = { \"x y\" = 's3cret' }"), "headers.\"x y\": subscriber a: is no name of a header"),
        (one("a", "concurrency = 0"), "concurrency: subscriber a: must be an integer from 1 to 1000"),
        (one("a", "rate = -1"), "rate: subscriber a: must be a number of requests in a second"),
        (one("a", "timeout = '0s'"), "timeout: subscriber a: must be more than zero"),
        (one("a", "jitter = 2"), "jitter: subscriber a: the jitter must be from 0 to 1, not 2"),
        (one("a", "colour = 2"), "deliver.subscriber[0].colour: unknown key; did you mean"),
        (
            one("a", "").replace("https://example.com", "http://127.1:80"),
            "url: subscriber a: 127.0.0.1 is a loopback address",
        ),
        (one("a", "").replace("https://", "ftp://s3cret"), "url: subscriber a: the URL must begin with http"),
        (one("a", "").replace("Orders", "a/b"), "deliver.subscriber[0].topic"),
        (one("a", "").replace("Orders", "Source"), "topic: subscriber a: Source is read by busdriver too"),
        (one("a", "").replace("Orders", "Journal"), "topic: subscriber a: Journal is the topic of the journal"),
        ("deliver.jitter = 3".to_owned(), "deliver.jitter: the jitter must be from 0 to 1, not 3"),
        (
            "deliver.allowed_networks = ['10/8']".to_owned(),
            "deliver.allowed_networks[0] is \"10/8\", must be a network",
        ),
        ("deliver.timeout = '0s'".to_owned(), "deliver.timeout: must be more than zero"),
        ("deliver.breaker.pause = '1h'".to_owned(), "breaker.pause_max: must be at least breaker.pause"),
    ] {
        let folder = Folder::new(&toml);
        let found = check(&folder.config());
        assert_eq!(found.len(), 1, "{toml}{found:?}");
        assert!(found[0].0.contains(expected), "{toml}: {}", found[0]);
        assert!(!found[0].0.contains("s3cret"), "{}", found[0]);
        assert!(Watched::start(&folder.config()).is_err());
    }
    let two = one("a", "concurrency = 0") + &one("b", "jitter = 9");
    assert_eq!(check(&Folder::new(&two).config()).len(), 2);
    let own = one("a", "").replace("https://example.com", "http://127.1:80");
    let folder = Folder::new(&format!("deliver.allowed_networks = ['127.0.0.1']\n{own}"));
    assert!(check(&folder.config()).is_empty());
}

#[test]
fn the_table_of_switch_is_read_as_gorm_wrote_it_while_switch_has_it_open() {
    let folder = Folder::new("");
    let switch = folder.switch();
    switch.add(Some("data['body']['a'] == 1 and data.get('headers')"), "https://example.com/:id", "mytopic");
    switch.add(Some("True"), "https://example.com/2", "mytopic");
    switch.add(None, "https://example.com/3", "other");
    switch.delete(2);
    let (subscribers, faults) = load(&folder.config()).unwrap();
    assert_eq!(faults, [""; 0]);
    assert_eq!(names(&subscribers), ["subscriber-1", "subscriber-3"]);
    let first = subscribers.named("subscriber-1").unwrap();
    assert!(first.of_switch && first.secrets.is_empty());
    assert_eq!((first.topic.as_str(), first.target.url().as_str()), ("mytopic", "https://example.com/:id"));
    assert!(first.filter.matches(&Data::parse(r#"{"body":{"a":1},"headers":{"x":"y"}}"#).unwrap()));
    assert!(!first.filter.matches(&Data::parse(r#"{"body":{"a":1},"headers":{}}"#).unwrap()));
    assert!(subscribers.named("subscriber-3").unwrap().filter.matches(&Data::parse("{}").unwrap()));
    // Reading keeps nobody from writing, not even in the middle of a transaction of the other program
    switch.0.execute_batch("BEGIN IMMEDIATE").unwrap();
    switch.add(Some("True"), "https://example.com/4", "mytopic");
    assert_eq!(load(&folder.config()).unwrap().0.iter().count(), 2);
    switch.0.execute_batch("COMMIT").unwrap();
    assert_eq!(load(&folder.config()).unwrap().0.iter().count(), 3);
}

#[test]
fn a_broken_row_is_left_out_alone() {
    let folder = Folder::new(&one("subscriber-x", ""));
    let switch = folder.switch();
    switch.add(Some("__import__('os')"), "https://example.com/1", "t");
    switch.add(Some(""), "http://169.254.169.254/s3cret", "t");
    switch.add(Some(""), "https://example.com/3", "not a topic");
    switch.add(Some(""), "", "t");
    switch.add(Some(""), "https://example.com/5", "t");
    switch.0.execute("UPDATE subscribers SET filter_expression = x'ff' WHERE id = 5", []).unwrap();
    switch.add(Some(""), "https://example.com/6", "t");
    switch.add(Some(""), "https://example.com/7", "Source");
    let (subscribers, faults) = load(&folder.config()).unwrap();
    assert_eq!(names(&subscribers), ["subscriber-6", "subscriber-x"]);
    let table = folder.table();
    let expected = [
        "row 1: filter_expression: unknown name `__import__`",
        "row 2: target_url: 169.254.169.254 is a link-local address",
        "row 3: topic: ",
        "row 4: target_url: the URL cannot be read",
        "row 5: filter_expression is no text",
        "Source is read by busdriver too",
    ];
    assert_eq!(faults.len(), expected.len(), "{faults:?}");
    for (index, (fault, expected)) in faults.iter().zip(expected).enumerate() {
        let row = if index < 5 { index + 1 } else { index + 2 };
        let whole = format!("{}: subscriber subscriber-{row}: {expected}", table.display());
        assert!(fault.starts_with(&whole) && !fault.contains("s3cret"), "{fault}\n{whole}");
    }
    assert_eq!(check(&folder.config()).len(), expected.len());
}

/// Waits until the names are these; the time that it took.
fn until(watched: &Watched, expected: &[&str]) -> Duration {
    let begun = Instant::now();
    while names(&watched.current()) != expected {
        let now = watched.current();
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?} instead of {expected:?}", names(&now));
        std::thread::sleep(Duration::from_millis(5));
    }
    begun.elapsed()
}

#[test]
fn changes_count_within_a_second_and_need_no_restart() {
    let folder = Folder::new(&one("a", ""));
    let watched = Watched::start(&folder.config()).unwrap();
    assert_eq!(names(&watched.current()), ["a"]);
    let mut took = Vec::new();
    folder.write(&(one("a", "") + &one("b", "")));
    took.push(until(&watched, &["a", "b"]));
    // The table may come later, and go
    let switch = folder.switch();
    switch.add(Some("True"), "https://example.com/1", "t");
    took.push(until(&watched, &["a", "b", "subscriber-1"]));
    let before = watched.current();
    switch.add(Some("True"), "https://example.com/2", "t");
    took.push(until(&watched, &["a", "b", "subscriber-1", "subscriber-2"]));
    assert!(Arc::ptr_eq(before.named("a").unwrap(), watched.current().named("a").unwrap()), "what stays is the same");
    switch.delete(1);
    took.push(until(&watched, &["a", "b", "subscriber-2"]));
    fs::rename(folder.table(), folder.path("away.db")).unwrap();
    took.push(until(&watched, &["a", "b"]));
    let knows = |name: &str| watched.current().knows(name);
    assert!(knows("subscriber-2"), "it may come back, and what waits for it is kept");
    assert!(!knows("subscriber-1"));
    fs::rename(folder.path("away.db"), folder.table()).unwrap();
    took.push(until(&watched, &["a", "b", "subscriber-2"]));
    took.sort_unstable();
    assert!(took[took.len() / 2] < Duration::from_secs(1), "{took:?}");
}

#[test]
fn a_secret_that_is_changed_in_its_file_counts() {
    let folder = Folder::new("");
    let file = folder.path("keys");
    fs::write(&file, SECRET).unwrap();
    folder.write(&one("a", &format!("secret_file = {file:?}")));
    let watched = Watched::start(&folder.config()).unwrap();
    let secrets = || watched.current().named("a").unwrap().secrets.len();
    assert_eq!(secrets(), 1);
    fs::write(&file, format!("{SECRET}\n{SECRET}\n")).unwrap();
    let begun = Instant::now();
    while secrets() != 2 {
        assert!(begun.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_secret_that_comes_after_the_subscriber_who_names_it_counts() {
    let folder = Folder::new("");
    let mut watch = Watch::new(&folder.config()).unwrap();
    let mut looks = || {
        let said = logged(|| (0..4).for_each(|_| watch.look()));
        (said.matches("ERROR").count(), watch.current.load().iter().count())
    };
    folder.write(&one("a", &format!("secret_file = {:?}", folder.path("keys"))));
    assert_eq!(looks(), (1, 0));
    assert_eq!(looks(), (0, 0));
    fs::write(folder.path("keys"), SECRET).unwrap();
    assert_eq!(looks(), (0, 1));
}

/// A crash in the middle of writing leaves a journal behind, by which the next one who opens the file undoes it.
#[test]
fn what_a_crash_left_half_written_does_not_count() {
    let folder = Folder::new("");
    let switch = folder.switch();
    switch.add(Some("True"), "https://example.com/1", "t");
    // With no room for it in memory, what is not committed goes into the file
    switch.0.execute_batch("PRAGMA cache_size = 1; PRAGMA cache_spill = 1; BEGIN IMMEDIATE").unwrap();
    for _ in 0..500 {
        switch.add(Some(&"True ".repeat(100)), "https://example.com/2", "t");
    }
    let crashed = folder.path("crashed");
    fs::create_dir(&crashed).unwrap();
    for name in ["switch.db", "switch.db-journal"] {
        fs::copy(folder.path(name), crashed.join(name)).unwrap();
    }
    drop(switch);
    let journal = fs::read(crashed.join("switch.db-journal")).unwrap();
    assert!(journal.iter().any(|byte| *byte != 0), "the journal was written");
    fs::rename(crashed.join("switch.db-journal"), folder.path("switch.db-journal")).unwrap();
    fs::rename(crashed.join("switch.db"), folder.table()).unwrap();
    let (subscribers, faults) = load(&folder.config()).unwrap();
    assert_eq!((names(&subscribers), faults), (vec!["subscriber-1"], vec![]));
}

/// What `act` has logged.
fn logged(act: impl FnOnce()) -> String {
    let lines = Lines::default();
    let log = tracing_subscriber::fmt().with_writer(lines.clone()).with_ansi(false).finish();
    tracing::subscriber::with_default(log, act);
    lines.text()
}

#[test]
fn a_broken_change_is_told_once_and_changes_nothing() {
    let folder = Folder::new(&one("a", ""));
    let switch = folder.switch();
    switch.add(Some(""), "https://example.com/1", "t");
    let mut watch = Watch::new(&folder.config()).unwrap();
    let mut looks = || {
        let said = logged(|| (0..4).for_each(|_| watch.look()));
        (said, names(&watch.current.load()).join(" "))
    };
    assert_eq!(looks(), (String::new(), "a subscriber-1".to_owned()));
    folder.write(&one("b", "filter = 'data.'"));
    let (said, now) = looks();
    assert_eq!((said.lines().filter(|line| line.contains("ERROR")).count(), &*now), (1, "a subscriber-1"), "{said}");
    assert!(said.contains("metrobus.toml:6: deliver.subscriber[0].filter: subscriber b: "), "{said}");
    assert!(said.contains("the subscribers read before stay"), "{said}");
    // The table counts all the while
    switch.add(Some(""), "https://example.com/2", "t");
    switch.add(Some("1 +"), "https://example.com/3", "t");
    let (said, now) = looks();
    assert_eq!(now, "a subscriber-1 subscriber-2");
    assert_eq!(said.matches("subscriber subscriber-3: row 3: filter_expression").count(), 1, "{said}");
    switch.add(Some(""), "https://example.com/4", "t");
    let (said, now) = looks();
    assert_eq!(now, "a subscriber-1 subscriber-2 subscriber-4");
    assert!(!said.contains("row 3"), "{said}");
    folder.write(&one("b", ""));
    let (said, now) = looks();
    assert_eq!(now, "b subscriber-1 subscriber-2 subscriber-4");
    assert_eq!(said.lines().count(), 1, "{said}");
    // No database any more
    fs::write(folder.path("odd"), "x".repeat(5000)).unwrap();
    fs::rename(folder.path("odd"), folder.table()).unwrap();
    let (said, now) = looks();
    assert_eq!(now, "b subscriber-1 subscriber-2 subscriber-4");
    assert_eq!(said.matches("cannot be used: file is not a database").count(), 1, "{said}");
    let error = Watched::start(&folder.config()).err().unwrap().to_string();
    assert!(error.contains("deliver.subscribers: the table of subscribers in"), "{error}");
}

#[test]
fn what_a_table_allows_is_what_the_configuration_allows_now() {
    let folder = Folder::new("");
    let switch = folder.switch();
    switch.add(Some(""), "http://10.0.0.1/", "t");
    let watched = Watched::start(&folder.config()).unwrap();
    assert_eq!(names(&watched.current()), [""; 0]);
    folder.write("deliver.allowed_networks = ['10.0.0.0/8']");
    until(&watched, &["subscriber-1"]);
    folder.write("");
    until(&watched, &[]);
}

#[test]
fn a_folder_or_an_empty_file_is_told_from_a_table() {
    let folder = Folder::new("");
    let read = |path: &Path| Table::new(path).read(&crate::deliver::options::Options::new(&folder.config()).unwrap());
    assert!(read(&folder.path("none")).unwrap().is_empty());
    fs::write(folder.path("empty"), "").unwrap();
    assert!(read(&folder.path("empty")).unwrap().is_empty());
    assert!(read(folder.0.path()).err().unwrap().contains("cannot be used"));
}

fn wish(name: &str, url: &str) -> SubscriberOptions {
    let text = format!("name = {name:?}\ntopic = \"t\"\nurl = {url:?}\n");
    toml::from_str(&text).unwrap()
}

#[test]
fn what_is_added_is_read_again_and_switch_can_go_on() {
    let folder = Folder::new("");
    let switch = folder.switch();
    switch.add(Some("True"), "https://example.com/1", "t");
    let mut editor = Editor::open(&folder.table()).unwrap();
    let mut cel = wish("cel", "https://example.com/2");
    cel.filter = Some("data.a == 1".into());
    (cel.secrets, cel.concurrency, cel.rate) = (vec![SECRET.into(), SECRET.into()], Some(3), Some(0.5));
    (cel.ordered, cel.headers) = (Some(true), [("X-A".to_owned(), "b".to_owned())].into());
    assert_eq!(editor.add(&cel).unwrap(), "cel");
    let mut python = wish("", "https://example.com/3");
    python.python = Some("data['a'] == 1".into());
    assert_eq!(editor.add(&python).unwrap(), "subscriber-3");
    assert_eq!(editor.add(&cel).unwrap_err(), "there is a subscriber cel already");
    let (subscribers, faults) = load(&folder.config()).unwrap();
    assert_eq!((names(&subscribers), faults), (vec!["cel", "subscriber-1", "subscriber-3"], vec![]));
    let read = subscribers.named("cel").unwrap();
    assert_eq!((read.secrets.len(), read.concurrency, read.rate, read.ordered), (2, 3, Some(0.5), true));
    assert_eq!(
        (read.headers["x-a"].to_str().unwrap(), read.filter.text(), read.of_switch),
        ("b", "data.a == 1", false)
    );
    assert_eq!(subscribers.named("subscriber-3").unwrap().filter.text(), "data['a'] == 1");
    // What switch sees: it sends nothing where it cannot tell who wants what, and goes on to write
    let filters = "SELECT group_concat(filter_expression, '|') FROM subscribers WHERE deleted_at IS NULL";
    let seen = || switch.0.query_row(filters, [], |row| row.get::<_, String>(0)).unwrap();
    assert_eq!(seen(), "True|False|data['a'] == 1");
    switch.add(Some("True"), "https://example.com/4", "t");
    assert!(editor.remove("cel").unwrap() && editor.remove("subscriber-1").unwrap());
    assert!(
        !editor.remove("cel").unwrap()
            && !editor.remove("subscriber-1").unwrap()
            && !editor.remove("subscriber-2").unwrap()
    );
    assert_eq!(seen(), "data['a'] == 1|True");
    assert_eq!(names(&load(&folder.config()).unwrap().0), ["subscriber-3", "subscriber-4"]);
    let left = "SELECT count(*) FROM metrobus_subscribers WHERE secrets IS NOT NULL";
    assert_eq!(switch.0.query_row(left, [], |row| row.get::<_, i64>(0)).unwrap(), 0, "no secret is left behind");
}

#[test]
fn an_id_that_is_given_again_brings_no_name_and_no_secret_with_it() {
    let folder = Folder::new("");
    let switch = folder.switch();
    let mut options = wish("mine", "https://example.com/1");
    options.secrets = vec![SECRET.into()];
    assert_eq!(Editor::open(&folder.table()).unwrap().add(&options).unwrap(), "mine");
    switch.0.execute("DELETE FROM subscribers", []).unwrap();
    switch.add(Some("True"), "https://example.com/2", "t");
    let (subscribers, _) = load(&folder.config()).unwrap();
    assert_eq!(names(&subscribers), ["subscriber-1"]);
    let another = subscribers.named("subscriber-1").unwrap();
    assert!(another.of_switch && another.secrets.is_empty());
}

#[test]
fn a_table_that_is_made_here_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new("");
    Editor::open(&folder.path("new/table.db")).unwrap().add(&wish("a", "https://example.com/1")).unwrap();
    let mode = folder.path("new/table.db").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}
