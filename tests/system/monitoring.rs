//! Prometheus and Grafana: what config/ has for them fits what the stops tell, by Prometheus' own tool.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::Value;
use yaml_rust2::{Yaml, YamlLoader};

use crate::{
    fleet::{DEADLINE, Engine, Fleet},
    http::Watched,
    support::{skip, wait_until},
};

const METRICS: &str = include_str!("../../docs/metrics.md");
const DASHBOARD: &str = include_str!("../../config/grafana-dashboard.json");
const ALERTS: &str = include_str!("../../config/alerts.yml");
const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config");

/// Labels that Prometheus gives to what it scrapes, or to the buckets of a histogram.
const OF_PROMETHEUS: [&str; 4] = ["job", "instance", "le", "severity"];

/// The table of docs/metrics.md: each name and type, and the labels.
fn metrics() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let words = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let rows = METRICS.lines().filter(|line| line.starts_with("| `"));
    let rows = rows.map(|line| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        (words(cells[1]).remove(0), (cells[2].to_owned(), words(cells[3]).into_iter().collect()))
    });
    rows.collect()
}

/// The names in an expression of PromQL, text in quotes left out.
fn names(expression: &str) -> BTreeSet<String> {
    let outside: String = expression.split('"').step_by(2).collect();
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let names = outside.split(|c| !word(c)).filter(|name| name.starts_with(|c: char| c.is_alphabetic() || c == '_'));
    names.map(str::to_owned).collect()
}

/// Panics where an expression has a metric that there is not, or a label that none of its metrics has.
fn assert_fits(expression: &str, legend: &[String]) {
    const WORDS: &[&str] = &[
        "absent",
        "and",
        "avg",
        "by",
        "count",
        "deriv",
        "histogram_quantile",
        "increase",
        "max",
        "min",
        "offset",
        "or",
        "rate",
        "sum",
        "unless",
        "rate_interval",
        "m",
        "__rate_interval",
        "label_values",
    ];
    let known = metrics();
    let mut labels: BTreeSet<String> = OF_PROMETHEUS.map(str::to_owned).into();
    let names = names(expression);
    for name in names.iter().filter(|name| name.starts_with("metrobus")) {
        let stem = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        let (kind, of_metric) = known.get(stem).unwrap_or_else(|| panic!("no metric {name}: {expression}"));
        assert_eq!(stem != name, kind == "histogram", "{name} is a {kind}: {expression}");
        labels.extend(of_metric.iter().cloned());
    }
    let others = names.iter().filter(|name| !name.starts_with("metrobus") && !WORDS.contains(&name.as_str()));
    for label in others.chain(legend) {
        assert!(labels.contains(label), "no metric has the label {label}: {expression}");
    }
}

/// The labels of `{{label}}`, or of `{{ $labels.label }}`.
fn labels_in(text: &str) -> Vec<String> {
    let places = text.split("{{").skip(1).filter_map(|rest| Some(rest.split_once("}}")?.0.trim()));
    let places = places.filter(|place| !place.starts_with("$value"));
    places.map(|place| place.trim_start_matches("$labels.").to_owned()).collect()
}

#[test]
fn the_dashboard_shows_metrics_that_there_are_and_each_of_them() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let mut shown = BTreeSet::new();
    for target in targets {
        let expression = target["expr"].as_str().expect("an expression");
        assert_fits(expression, &labels_in(target["legendFormat"].as_str().expect("a legend")));
        shown.extend(names(expression));
    }
    for variable in dashboard["templating"]["list"].as_array().expect("variables") {
        if let Some(query) = variable["definition"].as_str() {
            assert_fits(query, &[]);
        }
    }
    for (name, (kind, _)) in metrics() {
        let name = if kind == "histogram" { format!("{name}_bucket") } else { name };
        assert!(shown.contains(&name), "no panel shows {name}");
    }
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(ids.len(), panels.len(), "panels share an id");
    let untold = panels.iter().find(|panel| panel["type"] != "row" && panel["description"].as_str().is_none());
    assert!(untold.is_none(), "{untold:?} says nothing of itself");
}

#[test]
fn alerts_are_about_metrics_that_there_are_and_each_is_tested() {
    let alerts = &YamlLoader::load_from_str(ALERTS).expect("YAML")[0];
    let rules = alerts["groups"][0]["rules"].as_vec().expect("rules");
    let tests = include_str!("../../config/alerts.test.yml");
    assert!(rules.len() >= 6);
    for rule in rules {
        let text = |key: &Yaml| key.as_str().expect("a text").to_owned();
        let told = ["summary", "description"].map(|name| text(&rule["annotations"][name]));
        assert_fits(&text(&rule["expr"]), &told.iter().flat_map(|told| labels_in(told)).collect::<Vec<_>>());
        let name = text(&rule["alert"]);
        let told = format!("alertname: {name}\n");
        let mut fires = tests.split(&told).skip(1);
        assert!(fires.any(|rest| rest.trim_start().starts_with("exp_alerts:")), "{name} never fires in a test");
        assert!(tests.contains(&format!("alertname: {name} }}")), "{name} is never silent in a test");
    }
}

/// Prometheus' own tool, where scripts/services.sh has found it.
fn promtool() -> Option<PathBuf> {
    let found = std::env::var_os("METROBUS_TEST_PROMTOOL").filter(|path| !path.is_empty());
    found.map(PathBuf::from).or_else(|| skip("promtool: METROBUS_TEST_PROMTOOL is not set"))
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("start {command:?}: {error}"));
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{command:?}: {text}");
}

#[test]
fn prometheus_takes_the_alerts_and_they_fire_when_they_should() {
    let Some(promtool) = promtool() else { return };
    run(Command::new(&promtool).args(["check", "rules", "alerts.yml"]).current_dir(CONFIG));
    run(Command::new(&promtool).args(["test", "rules", "alerts.test.yml"]).current_dir(CONFIG));
}

#[test]
fn prometheus_takes_what_a_running_stop_tells() {
    let Some(promtool) = promtool() else { return };
    let mut fleet = Fleet::new(Engine::Sqlite).expect("SQLite is always there");
    fleet.scratch.write("data/emails.dat", "1,a@example.com\n");
    fleet.scratch.write("data/whitelist.dat", "a@example.com\n");
    fleet.set("HTTP__LISTEN", "0");
    // A reason that has all that is to be escaped
    let rule = r#"
        [[busdriver.rule]]
        name = "odd"
        when = "payload.account_number == 2"
        drop = 'a "quoted" \ reason'
        [[busdriver.rule]]
        name = "all"
        route = ["AddEmail", "WhiteList", "Log"]
    "#;
    fleet.scratch.write("rules.toml", rule);
    let push = fleet.metrobus(&["pusher", "--from", "-", "--rate", "0"]);
    push.stdin("{\"account_number\":1}\n{\"account_number\":2}\n{\"account_number\":3}\n").run().assert_code(0);
    let stops = Watched::start(&fleet, &["run", "--config", "rules.toml"]);
    let told = wait_until("a journey is at its end", DEADLINE, || {
        let (_, _, told) = stops.get("/metrics");
        told.contains("metrobus_messages_total{stop=\"logstop\",verdict=\"finished\"} 1").then_some(told)
    });
    assert!(told.contains(r#"reason="a \"quoted\" \\ reason"} 1"#), "{told}");
    let path = fleet.scratch.write("metrics", told);
    run(Command::new(&promtool).args(["check", "metrics"]).stdin(Stdio::from(File::open(path).expect("the answer"))));
    stops.end();
}
