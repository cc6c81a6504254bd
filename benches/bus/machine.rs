//! The page of a run: when and where it was, with which versions, and the table.

use std::{fs, process::Command};

use crate::{
    peers,
    run::{Bench, Setup},
};

/// In Markdown.
pub fn page(bench: &Bench) -> String {
    let Setup { messages, runs, seconds, emails, backlog } = &bench.setup;
    format!(
        "{}; {}.\n\n{}\n\n\
         Medians of {runs} runs; {messages} messages of about 250 bytes on Kafka (a quarter of them for Python) and half of \
         them on SQLite; latency over {seconds} s; {emails} emails in LMDB; backlogs of {backlog} and {}.\n\n{}",
        said("date", &["-u", "+%Y-%m-%d"]).unwrap_or_default(),
        machine(),
        versions(bench),
        backlog / 10,
        bench.report.text()
    )
}

fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let value = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map_or_else(String::new, |(_, value)| value.trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kilobytes: f64 = value(&read("/proc/meminfo"), "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0.0);
    format!(
        "{}, {cores} cores, {:.0} GiB of memory, Linux {}, with the broker and Redis on it",
        value(&read("/proc/cpuinfo"), "model name"),
        kilobytes / 1024.0 / 1024.0,
        read("/proc/sys/kernel/osrelease").trim()
    )
}

fn versions(bench: &Bench) -> String {
    let java = peers::java().map(|java| java.display().to_string());
    let python = peers::python().ok().map(|python| python.display().to_string());
    let missing = || "missing".to_owned();
    let java_says = java.as_ref().and_then(|java| said(java, &["-version"]));
    let redis = std::env::var("METROBUS_TEST_REDIS_SERVER").ok().and_then(|server| said(&server, &["--version"]));
    let confluent = python.as_ref().and_then(|python| {
        said(python, &["-c", "import confluent_kafka as c; print(c.version(), 'on librdkafka', c.libversion()[0])"])
    });
    let lines = [
        said(env!("CARGO_BIN_EXE_metrobus"), &["--version"]).unwrap_or_else(missing),
        said("rustc", &["--version"]).unwrap_or_else(missing),
        format!("librdkafka {}", rdkafka::util::get_rdkafka_version().1),
        format!(
            "Kafka {}",
            bench.broker.as_ref().map_or_else(missing, |_| jar("METROBUS_TEST_KAFKA_LIBS", "kafka_2.13-"))
        ),
        java_says.unwrap_or_else(|| "Java missing".to_owned()),
        format!(
            "Kafka Streams {}",
            peers::streams().map_or_else(|_| missing(), |_| jar("METROBUS_BENCH_STREAMS", "kafka-streams-"))
        ),
        python.as_ref().and_then(|python| said(python, &["--version"])).unwrap_or_else(|| "Python missing".to_owned()),
        format!("confluent-kafka {}", confluent.unwrap_or_else(missing)),
        redis.map_or_else(
            || "Redis missing".to_owned(),
            |text| text.split(" sha=").next().unwrap_or_default().to_owned(),
        ),
    ];
    lines.join("; ") + "."
}

/// The version in the name of the jar that begins with `prefix`, in the last folder of the class path `variable`.
fn jar(variable: &str, prefix: &str) -> String {
    let path = std::env::var(variable).unwrap_or_default();
    let folder = path.rsplit(':').next().unwrap_or_default().trim_end_matches("/*");
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names = files.map(|file| file.file_name().to_string_lossy().into_owned());
    let version = names.find_map(|name| name.strip_prefix(prefix)?.strip_suffix(".jar").map(str::to_owned));
    version.unwrap_or_else(|| "of an unknown version".to_owned())
}

/// The first line that a program prints, of its errors where it prints nothing else.
fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    String::from_utf8_lossy(&text).lines().next().map(|line| line.trim().to_owned())
}
