//! A stop of your own: raises the `name` of each message on the topic Shout to upper case.
//!
//! It runs beside the stops of metrobus, on the same bus and configuration. Name its topic in `stops`, so that slips
//! may lead to it: `METROBUS__STOPS=Shout cargo run --example shout -- --drain`

use metrobus::{Config, Drain, Shutdown, Stop, Topic, Verdict, bus, each};

fn main() -> anyhow::Result<()> {
    let config = Config::load(None, std::env::vars_os())?;
    let shout = each(|message| {
        let Some(name) = message.payload.text("name") else { return Verdict::drop("no name") };
        match message.payload.set("name", &name.to_uppercase()) {
            Ok(()) => Verdict::Forward,
            Err(error) => Verdict::reject(error.to_string()),
        }
    });
    let mut stop = Stop::new("shout", &Topic::new("Shout")?, shout, &config);
    if std::env::args().any(|argument| argument == "--drain") {
        stop = stop.drain(Drain::default().join());
    }
    stop.run(&*bus::open(&config)?, &Shutdown::on_signals()?)
}
