//! The table: what was measured, beside what, and against which target.

use std::{fs, path::PathBuf};

/// What a figure is to be.
#[derive(Clone, Copy)]
pub enum Target {
    None,
    AtLeast(f64),
    AtMost(f64),
}

use Target::{AtLeast, AtMost};

impl Target {
    /// "yes" or "no"; nothing where there is no target.
    fn verdict(self, figure: f64) -> &'static str {
        let met = match self {
            Self::None => return "",
            AtLeast(least) => figure >= least,
            AtMost(most) => figure <= most,
        };
        if met { "yes" } else { "no" }
    }

    fn text(self, show: impl Fn(f64) -> String) -> String {
        match self {
            Self::None => String::new(),
            AtLeast(least) => format!("≥ {}", show(least)),
            AtMost(most) => format!("≤ {}", show(most)),
        }
    }
}

/// What a figure counts.
#[derive(Clone, Copy)]
pub enum Unit {
    PerSecond,
    Seconds,
    Millis,
    Micros,
    Nanos,
    Megabytes,
    Kilobytes,
    Percent,
}

impl Unit {
    pub fn show(self, figure: f64) -> String {
        match self {
            Self::PerSecond if figure >= 1e6 => format!("{:.2}M/s", figure / 1e6),
            Self::PerSecond => format!("{:.0}k/s", figure / 1e3),
            Self::Seconds => format!("{figure:.2} s"),
            Self::Millis => format!("{figure:.1} ms"),
            Self::Micros => format!("{figure:.1} µs"),
            Self::Nanos => format!("{figure:.0} ns"),
            Self::Megabytes if figure < 100.0 => format!("{figure:.1} MB"),
            Self::Megabytes => format!("{figure:.0} MB"),
            Self::Kilobytes => format!("{figure:.0} kB"),
            Self::Percent => format!("{figure:.2} %"),
        }
    }
}

/// A factor as it stands in the table.
fn factor(ratio: f64) -> String {
    format!("{ratio:.2}")
}

const HEADER: [&str; 6] = ["what", "measured", "beside", "ratio", "target", "met"];

/// The rows, in order.
#[derive(Default)]
pub struct Report(Vec<[String; 6]>);

impl Report {
    /// A figure that has a target, or none, of its own.
    pub fn figure(&mut self, what: &str, figure: f64, unit: Unit, target: Target) {
        let (target, met) = (target.text(|figure| unit.show(figure)), target.verdict(figure));
        self.push([what, &unit.show(figure), "", "", &target, met]);
    }

    /// A figure beside another one; the target is of `ratio`.
    pub fn ratio(&mut self, what: &str, measured: &str, beside: &str, ratio: f64, target: Target) {
        let (text, met) = (target.text(factor), target.verdict(ratio));
        self.push([what, measured, beside, &factor(ratio), &text, met]);
    }

    /// What could not be measured, and why.
    pub fn missing(&mut self, what: &str, why: &str) {
        self.push([what, &format!("missing: {why}"), "", "", "", "no"]);
    }

    fn push(&mut self, row: [&str; 6]) {
        eprintln!("{}", row.map(str::trim).join(" | "));
        self.0.push(row.map(str::to_owned));
    }

    pub fn text(&self) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::ASCII_MARKDOWN).set_header(HEADER);
        for row in &self.0 {
            table.add_row(row);
        }
        table.to_string()
    }
}

/// Between these lines of BENCHMARKS.md stands what a run writes; the rest is written by hand.
const BEGIN: &str = "<!-- what make bench measured: begin -->\n";
const END: &str = "<!-- what make bench measured: end -->\n";

/// Puts `page` into BENCHMARKS.md after a whole run, and into the file that METROBUS_BENCH_REPORT names after any.
pub fn publish(page: &str, whole: bool) {
    let named = std::env::var_os("METROBUS_BENCH_REPORT").filter(|path| !path.is_empty()).map(PathBuf::from);
    let ours = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/BENCHMARKS.md"));
    let Some(path) = named.or(whole.then_some(ours)) else {
        eprintln!("BENCHMARKS.md stays as it is: this was not a whole run");
        return;
    };
    let before = fs::read_to_string(&path).unwrap_or_else(|_| format!("{BEGIN}{END}"));
    let (head, rest) = before.split_once(BEGIN).expect("the line where the measured part begins");
    let (_, tail) = rest.split_once(END).expect("the line where the measured part ends");
    fs::write(&path, format!("{head}{BEGIN}\n{page}\n{END}{tail}")).expect("write the report");
    eprintln!("written to {}", path.display());
}
