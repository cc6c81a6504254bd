//! What others see of a stop that runs.

use super::*;
use crate::health::Phase;

/// A handler that connects on the third attempt, and answers on the second.
#[derive(Default)]
struct Slow {
    connects: u32,
    handles: u32,
}

impl Handler for Slow {
    fn handle(&mut self, messages: &mut [Message<'_>]) -> anyhow::Result<Vec<Verdict>> {
        self.handles += 1;
        match self.handles {
            1 => Err(anyhow!("gone")),
            _ => Ok(messages.iter().map(|_| Verdict::Forward).collect()),
        }
    }

    fn connect(&mut self) -> anyhow::Result<()> {
        self.connects += 1;
        if self.connects < 3 { Err(anyhow!("not there")) } else { Ok(()) }
    }
}

#[test]
fn failed_attempts_count_for_the_part_that_failed() {
    let bus = bus_with((0..3).map(message));
    for step in [Step::Poll, Step::Poll, Step::Settle] {
        bus.fail_next(step, Failure::Unavailable);
    }
    let stop = Stop::new("tester", &topic("Here"), Slow::default(), settings());
    let stop = stop.needs_called("sink").drain(Drain::default().join());
    let watched = stop.watch();
    assert_eq!(watched.health().is_ready(), Err("tester: is starting".into()));
    stop.run(&bus, &Shutdown::default()).unwrap();
    let health = watched.health();
    let parts: Vec<_> = health.parts.iter().map(|part| (part.name, part.errors, part.failures)).collect();
    assert_eq!(parts, [("bus", 3, 0), ("sink", 3, 0)]);
    assert_eq!(
        (health.phase, health.lag),
        (Phase::Ended, Some(3)),
        "lag is looked at before the first batch is settled"
    );
    assert_eq!((health.success, health.fail), (3, 0));
    assert_eq!(watched.stats().batches.sum(), 3.0);
}

#[test]
fn rejections_and_repeated_attempts_are_failures() {
    let bus = bus_with((0..5).map(message));
    let stop = Stop::new(
        "tester",
        &topic("Here"),
        each(|message| match n(message) {
            0 => Verdict::Forward,
            1 => Verdict::Finish,
            2 => Verdict::drop("not wanted"),
            3 => Verdict::reject("broken"),
            _ => Verdict::retry("later"),
        }),
        settings(),
    );
    let watched = stop.watch();
    stop.drain(Drain::default().join()).run(&bus, &Shutdown::default()).unwrap();
    let health = watched.health();
    // The last one is tried three times, and rejected then
    assert_eq!((health.success, health.fail), (3, 4));
    let stats = watched.stats();
    assert_eq!((stats.handling.count(), stats.settling.count()), (stats.batches.count(), stats.batches.count()));
}

#[test]
fn nobody_who_watches_means_no_questions() {
    let bus = bus_with((0..3).map(message));
    let connects = Arc::new(AtomicU32::new(0));
    struct Counts(Arc<AtomicU32>);
    impl Handler for Counts {
        fn handle(&mut self, messages: &mut [Message<'_>]) -> anyhow::Result<Vec<Verdict>> {
            Ok(messages.iter().map(|_| Verdict::Forward).collect())
        }

        fn connect(&mut self) -> anyhow::Result<()> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    }
    let stop = || Stop::new("tester", &topic("Here"), Counts(connects.clone()), settings());
    stop().drain(Drain::default().join()).run(&bus, &Shutdown::default()).unwrap();
    assert_eq!(connects.load(Ordering::Relaxed), 1, "at the start");
    let watched = stop();
    watched.watch();
    watched.drain(Drain::default().join()).run(&bus, &Shutdown::default()).unwrap();
    assert_eq!(connects.load(Ordering::Relaxed), 3, "at the start, and once idle");
}
