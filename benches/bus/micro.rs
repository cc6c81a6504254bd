//! What `cargo bench --bench micro` has found, as rows of the table.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use crate::{
    report::{Target, Unit},
    run::Bench,
};

const RULES: &str = "rules/ten over 250 bytes";

pub fn run(bench: &mut Bench) {
    let folder = folder();
    let mut found = estimates(&folder);
    found.sort_by(|one, other| one.0.cmp(&other.0));
    if found.is_empty() {
        return bench.report.missing("micro benchmarks", "`cargo bench --bench micro` was not run with this build");
    }
    for (name, nanos) in found {
        let target = if name == RULES { Target::AtMost(3000.0) } else { Target::None };
        bench.report.figure(&format!("micro, a message: {name}"), nanos, Unit::Nanos, target);
    }
}

/// Where criterion keeps its findings: target/criterion, this program being in target/release/deps.
fn folder() -> PathBuf {
    let named = std::env::var_os("CRITERION_HOME").map(PathBuf::from);
    named.unwrap_or_else(|| {
        let program = std::env::current_exe().expect("the path of this program");
        program.ancestors().nth(3).expect("a target folder").join("criterion")
    })
}

/// Name and nanoseconds an element, of those measured since metrobus was built.
fn estimates(folder: &Path) -> Vec<(String, f64)> {
    let changed = |path: &Path| fs::metadata(path).and_then(|data| data.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let built = changed(Path::new(env!("CARGO_BIN_EXE_metrobus")));
    let mut all = Vec::new();
    for group in fs::read_dir(folder).into_iter().flatten().flatten() {
        for bench in fs::read_dir(group.path()).into_iter().flatten().flatten() {
            let path = bench.path().join("new");
            if changed(&path.join("estimates.json")) < built {
                continue;
            }
            let read = |file: &str| {
                let text = fs::read_to_string(path.join(file)).ok()?;
                serde_json::from_str::<serde_json::Value>(&text).ok()
            };
            let (Some(estimates), Some(bench)) = (read("estimates.json"), read("benchmark.json")) else { continue };
            let nanos = estimates["median"]["point_estimate"].as_f64();
            let elements = bench["throughput"]["Elements"].as_f64().unwrap_or(1.0);
            if let (Some(nanos), Some(name)) = (nanos, bench["full_id"].as_str()) {
                all.push((name.to_owned(), nanos / elements));
            }
        }
    }
    all
}
