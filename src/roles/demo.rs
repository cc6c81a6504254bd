//! `demo`: the whole line in one process, on a bus in a temporary folder. Needs nothing, leaves nothing.

use std::{ffi::OsString, path::Path, sync::Arc, time::Instant};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Command, FromArgMatches};
use comfy_table::{CellAlignment, Table, presets::UTF8_HORIZONTAL_ONLY};
use rand::SeedableRng;

use super::{
    Context, Kind, Role,
    make_data::Fixtures,
    pusher::{Input, Push},
    stops,
};
use crate::{
    bus::{Bus, Topic},
    cli::count,
    config::Config,
    drain::Drain,
    shutdown::Shutdown,
    stats::{SharedStats, Stats},
    stop::run_all,
    terminal::thousands,
    web::Web,
};

pub const ROLE: Role = Role {
    name: "demo",
    about: "Send messages through all stops on an embedded bus, and show what became of them",
    kind: Kind::Command { arguments: Arguments::augment_args as fn(Command) -> Command, run },
};

#[derive(Debug, Args)]
struct Arguments {
    /// Messages to send
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = count, allow_negative_numbers = true)]
    count: u64,
    /// Send some 200 a second until Ctrl-C, and serve the page of `metrobus web`, which may act here
    #[arg(long, conflicts_with = "count")]
    web: bool,
}

/// The same messages each time.
const SEED: u64 = 1;

/// Emails on the whitelist.
const LISTED: u64 = 500_000;

/// Messages a second while somebody looks.
const RATE: f64 = 200.0;

/// With a page to look at, some messages are rejected now and then, and would not be a little later.
const RULES: &str = r#"
[[busdriver.rule]]
name   = "audit"
when   = 'payload.account_number % 20 == 0 && now.getSeconds() % 10 < 2'
reject = "account is being audited"

[[busdriver.rule]]
name  = "rest"
route = ["AddEmail", "WhiteList", "Log"]
"#;

fn run(matches: &clap::ArgMatches, context: &Context) -> Result<()> {
    let arguments = Arguments::from_arg_matches(matches)?;
    let folder = tempfile::Builder::new().prefix("metrobus-demo-").tempdir().context("make a temporary folder")?;
    let folder = folder.path();
    let fixtures = Fixtures { seed: SEED, accounts: None, listed: Some(LISTED), hit_rate: 0.5 };
    fixtures.write(folder)?;
    if arguments.web {
        return show(folder, context);
    }
    let config = Config::load(None, settings(folder))?;
    // What ends the process ends the stops, and there is nothing to tell then
    let demo = Context::new(config, context.shutdown.clone(), context.connect_timeout)?;
    let bus = demo.bus()?;
    let (line, elapsed) = drive(&demo, &*bus, arguments.count, 0.0, &context.shutdown)?;
    if context.shutdown.requested() {
        return Ok(());
    }
    super::print(report(&line, elapsed).as_bytes())?;
    let ended: u64 = line.iter().map(|(_, stats)| ended(stats)).sum();
    ensure!(ended == arguments.count, "{} messages went in and {ended} came to an end", arguments.count);
    Ok(())
}

fn settings(folder: &Path) -> Vec<(&'static str, OsString)> {
    let path = |name: &str| folder.join(name).into_os_string();
    vec![
        ("METROBUS__SQLITE__PATH", path("metrobus.db")),
        ("METROBUS__CONTACTPOINT__FILE", path("emails.dat")),
        ("METROBUS__WHITELIST__FILE", path("whitelist.dat")),
        ("METROBUS__LOGSTOP__OUTPUT", path("log.ndjson")),
        ("METROBUS__JOURNAL__INDEX", path("journal-index.db")),
    ]
}

/// Goes on until the end of the process is asked for, with a page to look at meanwhile.
fn show(folder: &Path, context: &Context) -> Result<()> {
    let token = format!("{:032x}", rand::random::<u128>());
    let mut settings = settings(folder);
    settings.extend([
        ("METROBUS__JOURNAL__FIELDS", "account_number".into()),
        ("METROBUS__WEB__TOKEN", token.clone().into()),
        ("METROBUS__WEB__SHOW_PAYLOADS", "true".into()),
        ("METROBUS__WEB__HOSTS", context.config.web.hosts.join(",").into()),
    ]);
    if let Some(listen) = context.config.web.listen {
        settings.push(("METROBUS__WEB__LISTEN", listen.to_string().into()));
    }
    let rules = folder.join("demo.toml");
    std::fs::write(&rules, RULES).context("write the rules of the demo")?;
    let config = Config::load(Some(&rules), settings)?;
    // Stops end when nothing is left of what was sent
    let demo = Context::new(config, Shutdown::default(), context.connect_timeout)?;
    let bus: Arc<dyn Bus> = demo.bus()?.into();
    let web = Web::start(Arc::clone(&bus), &demo.config)?;
    eprintln!("look at http://{}/#token={token} and end it with Ctrl-C", web.address());
    let (line, elapsed) = drive(&demo, &*bus, u64::MAX, RATE, &context.shutdown)?;
    drop(web);
    super::print(report(&line, elapsed).as_bytes())
}

/// Sends `count` messages through all stops, `rate` a second or as fast as possible, less where `enough` is asked for; gives
/// what each stop did, and the seconds from the first send to the end.
fn drive(
    context: &Context,
    bus: &dyn Bus,
    count: u64,
    rate: f64,
    enough: &Shutdown,
) -> Result<(Vec<(&'static str, Stats)>, f64)> {
    let source = Topic::new("Source").map_err(anyhow::Error::msg)?;
    bus.create_topics(std::slice::from_ref(&source))?;
    let mut publisher = bus.publisher()?;
    let together = Drain::default();
    let pushing = together.join();
    let mut line: Vec<(&'static str, SharedStats)> = Vec::new();
    let mut running = Vec::new();
    for role in stops() {
        let Kind::Stop(build) = role.kind else { continue };
        let stop = build(context)?.drain(together.join());
        line.push((role.name, stop.stats()));
        running.push(stop);
    }
    let start = Instant::now();
    let shutdown: &Shutdown = &context.shutdown;
    std::thread::scope(|scope| {
        let stops = scope.spawn(|| {
            let ended = run_all(running, bus, shutdown);
            if ended.is_err() {
                // Nobody would take what is still to be sent
                enough.request();
            }
            ended
        });
        let key = Some("account_number");
        let mut push = Push { publisher: &mut *publisher, topic: &source, key, rate, shutdown: enough };
        let mut input = Input::made_up(rand_chacha::ChaCha8Rng::seed_from_u64(SEED));
        let pushed = push.all(&mut input, count, |_| {});
        if pushed.is_err() {
            shutdown.request();
        }
        drop(pushing);
        let stopped = stops.join().map_err(|_| anyhow::anyhow!("a stop panicked; this is a bug in metrobus"))?;
        pushed.and(stopped)
    })?;
    let elapsed = start.elapsed().as_secs_f64();
    Ok((line.into_iter().map(|(name, stats)| (name, stats.snapshot())).collect(), elapsed))
}

/// Journeys that ended at a stop.
fn ended(stats: &Stats) -> u64 {
    stats.finished + stats.dropped.values().sum::<u64>() + stats.rejected.values().sum::<u64>()
}

fn report(line: &[(&'static str, Stats)], elapsed: f64) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY).set_header(["STOP", "READ", "FORWARDED", "FINISHED", "DROPPED", "WHY"]);
    for (name, stats) in line {
        let reasons: Vec<_> = stats.dropped.iter().chain(&stats.rejected).collect();
        let list = |each: fn(&(&String, &u64)) -> String| reasons.iter().map(each).collect::<Vec<_>>().join("\n");
        let counts = [stats.read, stats.forwarded, stats.finished].map(thousands);
        let mut row = vec![(*name).to_owned()];
        row.extend(counts);
        row.push(if reasons.is_empty() { "0".to_owned() } else { list(|(_, count)| thousands(**count)) });
        row.push(list(|(reason, _)| (*reason).clone()));
        table.add_row(row);
    }
    for column in 1..5 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let total: u64 = line.iter().map(|(_, stats)| ended(stats)).sum();
    let journeys = line.iter().map(|(_, stats)| &stats.journeys).max_by_key(|journeys| journeys.len());
    let rate = thousands((total as f64 / elapsed) as u64);
    let mut report = format!("{}\n{} journeys in {elapsed:.2} s: {rate}/s", table.trim_fmt(), thousands(total));
    if let Some(journeys) = journeys.filter(|journeys| !journeys.is_empty()) {
        let (p50, p99) = (journeys.value_at_quantile(0.5), journeys.value_at_quantile(0.99));
        report += &format!("; a whole journey took {p50} ms (p50), {p99} ms (p99)");
    }
    report + "\n"
}
