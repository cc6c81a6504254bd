//! How fast rules are planned: what a change of ten rules would do to messages.

use std::{fmt::Write as _, fs};

use crate::{
    process::{metrobus, time_silently},
    report::{Target::AtLeast, Unit},
    run::{Bench, lines, raw},
};

pub fn run(bench: &mut Bench) {
    let messages = bench.setup.on_sqlite();
    fs::write(bench.path("raw.ndjson"), lines(messages, raw)).expect("write the raw records");
    // By the account, a hundred thousand to each of the first nine
    let rules = |width: usize| {
        (1..=10).fold(String::new(), |mut toml, number| {
            let below = if number < 10 { 1_000_000 + number * width } else { usize::MAX >> 1 };
            let _ = writeln!(
                toml,
                "[[busdriver.rule]]\nname = \"rule{number}\"\nroute = [\"{}\"]\nwhen = 'payload.account_number < {below}'",
                ["Log", "WhiteList"][number % 2]
            );
            toml
        })
    };
    fs::write(bench.path("old.toml"), rules(100_000)).expect("write the rules");
    fs::write(bench.path("new.toml"), rules(90_000)).expect("write the rules");
    let rate = bench.setup.median(|| {
        let arguments = ["plan", "raw.ndjson", "--against", "new.toml", "--config", "old.toml"];
        messages as f64 / time_silently(metrobus(bench, &arguments, &[]))
    });
    let what = "plan --against, ten rules each, from a file, start and end included";
    bench.report.figure(what, rate, Unit::PerSecond, AtLeast(200_000.0));
}
