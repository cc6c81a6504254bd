//! How fast the bus is, as ratios in one run: `make bench`.
//!
//! A hop of metrobus (contactpoint: parse, advance the slip, look the account up, set a field, publish, acknowledge)
//! beside the limit of its engine in the same run: a *relay* that copies values unread. On Kafka that is librdkafka's C
//! interface, idempotent, acknowledging once a second after a flush; on SQLite rows copied from table to table by a
//! thousand a transaction, as durable as the hop. Every figure is the median of the runs, peers taking turns.
//!
//! METROBUS_BENCH_MESSAGES and METROBUS_BENCH_RUNS set how much; METROBUS_TEST_KAFKA is the broker.

mod kafka;
mod sqlite;

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "relay") {
        return kafka::relay(&arguments[at + 1..]);
    }
    let setup =
        Setup { messages: number("METROBUS_BENCH_MESSAGES", 1_000_000), runs: number("METROBUS_BENCH_RUNS", 3) };
    let folder = tempfile::tempdir().expect("make a temporary folder");
    setup.write_caches(folder.path());
    let mut report = Report::default();
    println!("{} messages of about 250 bytes, median of {} runs\n", setup.messages, setup.runs);
    sqlite::run(&setup, folder.path(), &mut report);
    kafka::run(&setup, folder.path(), &mut report);
    start_up(&setup, folder.path(), &mut report);
    println!("{}", report.text());
}

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

struct Setup {
    messages: usize,
    runs: usize,
}

impl Setup {
    /// Every account has an email, so that every message goes on.
    fn write_caches(&self, folder: &Path) {
        let mut emails = String::new();
        for account in 1_000_000..2_000_000 {
            let _ = writeln!(emails, "{account},user.{account}@mail.example");
        }
        fs::write(folder.join("emails.dat"), emails).expect("write emails.dat");
    }

    /// A message as it leaves the busdriver, and its key.
    fn message(&self, id: usize) -> (String, String) {
        let account = 1_000_000 + id * 7919 % 1_000_000;
        let header = r#"{"route": ["Log", "WhiteList"], "original_route": ["Log", "WhiteList", "AddEmail"], "historical_route": ["AddEmail"]}"#;
        let payload = format!(r#"{{"x": {id}, "message_type_code": "ALTABC", "account_number": {account}}}"#);
        (account.to_string(), format!(r#"{{"header": {header}, "payload": {payload}}}"#))
    }

    fn median(&self, mut measure: impl FnMut() -> f64) -> f64 {
        median((0..self.runs).map(|_| measure()).collect())
    }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// `metrobus` in `folder`, quiet, with METROBUS__ settings.
fn metrobus(folder: &Path, arguments: &[&str], settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_metrobus"));
    command.current_dir(folder).args(arguments).stdout(Stdio::null()).stderr(Stdio::inherit()).arg("-q");
    command.env("METROBUS__CONTACTPOINT__FILE", "emails.dat");
    for (name, value) in settings {
        command.env(format!("METROBUS__{name}"), value);
    }
    command
}

/// Seconds that `command` takes.
fn time(mut command: Command) -> f64 {
    let start = Instant::now();
    let status = command.status().expect("start metrobus");
    assert!(status.success(), "{command:?}: {status}");
    start.elapsed().as_secs_f64()
}

/// Seconds of processor time that a process has used, and its largest memory in MB.
fn usage(child: &Child) -> Option<(f64, f64)> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: f64 = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.split_whitespace().next()?;
    // Linux counts in hundredths of a second on every machine of today
    Some((ticks / 100.0, peak.parse::<f64>().ok()? / 1024.0))
}

/// Time and memory until a stop with the whole whitelist is ready, and the demo.
fn start_up(setup: &Setup, folder: &Path, report: &mut Report) {
    let made = metrobus(folder, &["make-data", "--out", "."], &[]).status().expect("start metrobus");
    assert!(made.success());
    let settings = [("WHITELIST__FILE", "whitelist.dat"), ("SQLITE__PATH", "ready.db")];
    let ready = setup.median(|| time(metrobus(folder, &["whitelist", "--drain"], &settings)));
    report.row("a stop with a whitelist of 500,000: start, look, end", format!("{ready:.2} s"), "", "≤ 0.5 s");
    let mut peaks = Vec::new();
    for _ in 0..setup.runs {
        let mut child = metrobus(folder, &["whitelist"], &settings).spawn().expect("start metrobus");
        let end = Instant::now() + Duration::from_secs(2);
        let mut peak = 0.0;
        while Instant::now() < end {
            peak = usage(&child).map_or(peak, |(_, peak)| peak);
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = child.kill();
        let _ = child.wait();
        peaks.push(peak);
    }
    report.row("its memory in all", format!("{:.0} MB", median(peaks)), "", "≤ 60 MB");
    let demo = setup.median(|| time(metrobus(folder, &["demo"], &[])));
    report.row("demo of 10,000", format!("{demo:.2} s"), "", "≤ 3 s");
}

/// Rows: what, figure, ratio, target.
#[derive(Default)]
struct Report(Vec<[String; 4]>);

impl Report {
    fn row(&mut self, what: &str, figure: String, ratio: &str, target: &str) {
        eprintln!("{what}: {figure} {ratio}");
        self.0.push([what.to_owned(), figure, ratio.to_owned(), target.to_owned()]);
    }

    fn text(&self) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::ASCII_MARKDOWN).set_header([
            "what",
            "measured",
            "of the relay",
            "target",
        ]);
        for row in &self.0 {
            table.add_row(row);
        }
        table.to_string()
    }
}

fn per_second(rate: f64) -> String {
    format!("{:.0}k/s", rate / 1000.0)
}
