//! `deliver`: calls those who subscribe to a topic, a request for each of its messages.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::{self, ScopedJoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Command, FromArgMatches};
use tracing::{error, info, warn};

use super::{Context, Kind, Role};
use crate::{
    bus::{Bus, Topic},
    config::Config,
    deliver::{Counts, Engine, Intake, options::Options, store::Deliveries},
    drain::Drain,
    error::Misconfigured,
    http::Stops,
    shutdown::Shutdown,
    stop::Stop,
    subscriber::{self, Subscribers, Watched, readable},
    trace::Traces,
};

pub const ROLE: Role = Role {
    name: "deliver",
    about: "Call those who subscribe to a topic, a request for each of its messages",
    kind: Kind::Command { arguments: Arguments::augment_args as fn(Command) -> Command, run },
};

#[derive(Debug, Args)]
struct Arguments {
    /// End when the topics are read to their end and nothing is due
    #[arg(long)]
    drain: bool,
}

/// How often it is looked who subscribes, and whether somebody was enabled.
const LOOK: Duration = Duration::from_millis(100);

/// Between two attempts to own the store while another process does.
const STANDBY: Duration = Duration::from_millis(250);

fn run(matches: &clap::ArgMatches, context: &Context) -> Result<()> {
    let arguments = Arguments::from_arg_matches(matches)?;
    let config = &context.config;
    let options = Options::new(config)?;
    let watched = Watched::start(config)?;
    if let Some(error) = unreadable(config, &watched.current()).into_iter().next() {
        return Err(error.into());
    }
    let bus: Arc<dyn Bus> = context.bus()?.into();
    let counts = Arc::new(Counts::default());
    counts.misses(Some("is starting".into()));
    let stops = Stops::default();
    let _http = context.serve(stops.clone(), vec![Arc::clone(&counts) as _])?;
    let Some(store) = own(&options, context, &counts)? else { return Ok(()) };
    let (allowed, current) = (watched.allowed(), watched.current());
    let engine = Engine::start(store, Arc::clone(&bus), config, allowed, current, Arc::clone(&counts))?;
    counts.misses(None);
    let deliver = Deliver { context, engine: &engine, bus: &*bus, stops, traces: Traces::start(config)? };
    deliver.supervise(&watched, arguments.drain)
}

/// The store, once no other process owns it; `None` where the end of the process is asked for before.
fn own(options: &Options, context: &Context, counts: &Counts) -> Result<Option<Deliveries>> {
    let mut told = false;
    loop {
        if let Some(store) = Deliveries::open(&options.store, context.config.sqlite.synchronous)? {
            return Ok(Some(store));
        }
        if !told {
            let path = options.store.display();
            info!("stands by: another process delivers from {path}");
            counts.misses(Some(format!("stands by, another process delivers from {path}")));
            told = true;
        }
        if context.shutdown.pause(STANDBY) {
            return Ok(None);
        }
    }
}

/// Topics that somebody subscribes to and nobody can.
pub(super) fn check(config: &Config) -> Vec<Misconfigured> {
    // What is wrong with subscribers is found elsewhere
    subscriber::load(config).map(|(subscribers, _)| unreadable(config, &subscribers)).unwrap_or_default()
}

fn unreadable(config: &Config, subscribers: &Subscribers) -> Vec<Misconfigured> {
    let found = subscribers.topics().filter_map(|topic| readable(config, topic).err());
    found.map(|why| config.error("deliver.subscriber", why)).collect()
}

struct Deliver<'a> {
    context: &'a Context,
    engine: &'a Arc<Engine>,
    bus: &'a dyn Bus,
    stops: Stops,
    traces: Option<Traces>,
}

/// A stop that reads a topic in a thread of its own.
struct Reading<'scope> {
    name: String,
    shutdown: Shutdown,
    thread: ScopedJoinHandle<'scope, thread::Result<Result<()>>>,
}

impl Reading<'_> {
    fn end(self) -> Result<()> {
        self.shutdown.request();
        match self.thread.join() {
            Ok(Ok(outcome)) => outcome,
            _ => bail!("{} panicked; this is a bug in metrobus", self.name),
        }
    }
}

impl Deliver<'_> {
    /// Has a stop read each topic that somebody subscribes to, until the end is asked for or, with `drain`, nothing is due.
    fn supervise(&self, watched: &Watched, drain: bool) -> Result<()> {
        thread::scope(|scope| {
            let mut reading = HashMap::new();
            let outcome = self.read(scope, &mut reading, watched, drain);
            let all: Vec<_> = reading.drain().map(|(_, stop)| stop).collect();
            all.iter().flatten().for_each(|stop| stop.shutdown.request());
            // Stops take a while to end, and what they still take goes out another time
            self.engine.end(Instant::now() + self.context.config.shutdown_timeout);
            all.into_iter().flatten().map(Reading::end).fold(outcome, Result::and)
        })
    }

    fn read<'scope>(
        &'scope self,
        scope: &'scope thread::Scope<'scope, '_>,
        reading: &mut HashMap<Topic, Option<Reading<'scope>>>,
        watched: &Watched,
        drain: bool,
    ) -> Result<()> {
        let mut current = watched.current();
        let together = drain.then(Drain::default);
        let mut stuck = false;
        // All are members before one of them runs
        let mut stops: Vec<_> = current.topics().map(|topic| self.stop(topic, together.as_ref())).collect();
        loop {
            for stop in stops.drain(..) {
                reading.insert(stop.topic().clone(), Some(self.begin(scope, stop)?));
            }
            for (_, stop) in reading.iter_mut() {
                if let Some(ended) = stop.take_if(|stop| stop.thread.is_finished()) {
                    self.stops.remove(&ended.name);
                    ended.end()?;
                }
            }
            if drain && reading.values().all(Option::is_none) && self.engine.is_idle(LOOK) {
                return Ok(());
            }
            if self.context.shutdown.pause(LOOK) {
                return Ok(());
            }
            let new = watched.current();
            let changed = !Arc::ptr_eq(&current, &new);
            let followed = self.engine.look().and_then(|()| match changed {
                true => self.engine.update(Arc::clone(&new)),
                false => Ok(()),
            });
            // The disk may be full, or another process at work in the store: the requests go on, and the next look tries again
            if let Err(error) = followed {
                let why = format!("{error:#}");
                warn!("{why}; subscribers that change have to wait");
                self.engine.counts().misses(Some(why));
                stuck = true;
                continue;
            }
            if std::mem::take(&mut stuck) {
                self.engine.counts().misses(None);
            }
            if !changed {
                continue;
            }
            let gone: Vec<_> = reading.keys().filter(|topic| new.of(topic).is_empty()).cloned().collect();
            for stop in gone.iter().filter_map(|topic| reading.remove(topic).flatten()) {
                self.stops.remove(&stop.name);
                stop.end()?;
            }
            for topic in new.topics().filter(|topic| !drain && !reading.contains_key(topic)) {
                match readable(&self.context.config, topic) {
                    Ok(()) => stops.push(self.stop(topic, None)),
                    // Told once for each change
                    Err(why) => error!("subscribers of {topic} get nothing: {why}"),
                }
            }
            current = new;
        }
    }

    fn stop(&self, topic: &Topic, drain: Option<&Drain>) -> Stop {
        let intake = Intake::new(topic, self.engine);
        let name = format!("{}/{topic}", ROLE.name);
        let mut stop = Stop::new(&name, topic, intake, self.context.settings()).needs_called("store");
        if let Some(drain) = drain {
            stop = stop.drain(drain.join());
        }
        let stop = self.traces.iter().fold(stop, |stop, traces| stop.traced(traces));
        self.context.count(stop)
    }

    fn begin<'scope>(&'scope self, scope: &'scope thread::Scope<'scope, '_>, stop: Stop) -> Result<Reading<'scope>> {
        self.stops.add(stop.watch());
        let (name, shutdown, bus) = (stop.name().to_owned(), Shutdown::default(), self.bus);
        let end = shutdown.clone();
        let run = move || catch_unwind(AssertUnwindSafe(|| stop.run(bus, &end)));
        let thread = thread::Builder::new().spawn_scoped(scope, run).with_context(|| format!("start {name}"))?;
        Ok(Reading { name, shutdown, thread })
    }
}
