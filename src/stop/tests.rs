//! The loop on a bus in memory that fails where it is told to.

use std::sync::{
    Mutex,
    atomic::{AtomicU32, Ordering},
};

use anyhow::anyhow;

use super::*;
use crate::{
    bus::{
        Outbox,
        memory::{Failure, MemoryBus, Step},
    },
    config::Config,
    dead_letter::history::History,
    drain::Drain,
    handler::{Broken, Verdict, each},
    journal::Outcome,
    slip::{Limits, Message, Stops},
};

mod log;
mod look;
mod routes;

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

fn settings() -> Settings {
    let retry = Retry { max_attempts: 3, first: Duration::from_millis(1), max: Duration::from_millis(2) };
    Settings {
        batch: 10,
        limits: Limits { message_bytes: 200, ..Limits::default() },
        retry,
        stops: Arc::new(Stops::new([topic("Here"), topic("Next")])),
        error_topic: topic("Error"),
        journal: Arc::new(Config::load(None, [] as [(&str, &str); 0]).unwrap().journal),
        redaction: Default::default(),
        shutdown_timeout: Duration::from_secs(1),
        connect_timeout: Some(Duration::from_secs(5)),
    }
}

/// A message at Here on its way to Next.
fn message(n: usize) -> String {
    format!(r#"{{"header":{{"route":["Next"],"historical_route":["Here"]}},"payload":{{"n":{n}}}}}"#)
}

fn bus_with(values: impl IntoIterator<Item = String>) -> MemoryBus {
    let bus = MemoryBus::default();
    let mut outbox = Outbox::default();
    for value in values {
        outbox.publish(&topic("Here"), 5, Some(b"key"), Some(value.as_bytes()));
    }
    bus.publisher().unwrap().publish(&outbox).unwrap();
    bus
}

fn run(bus: &MemoryBus, handler: impl Handler + 'static) -> crate::stats::Stats {
    try_run(bus, handler).unwrap()
}

fn try_run(bus: &MemoryBus, handler: impl Handler + 'static) -> anyhow::Result<crate::stats::Stats> {
    let stop = Stop::new("tester", &topic("Here"), handler, settings()).drain(Drain::default().join());
    let stats = stop.stats();
    stop.run(bus, &Shutdown::default())?;
    Ok(stats.snapshot())
}

/// Values of a topic with their reasons, where they have one.
fn contents(bus: &MemoryBus, name: &str) -> Vec<(String, Option<String>)> {
    let mut reader = bus.reader(&topic(name), u64::MAX).unwrap();
    let batch = reader.poll(10_000, Duration::ZERO).unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    batch.iter().map(|r| (text(r.value.unwrap()), r.headers.get("metrobus.reason").map(text))).collect()
}

fn order(bus: &MemoryBus, name: &str) -> Vec<usize> {
    let number = |(value, _): (String, _)| {
        serde_json::from_str::<serde_json::Value>(&value).unwrap()["payload"]["n"].as_u64().unwrap() as usize
    };
    contents(bus, name).into_iter().map(number).collect()
}

fn n(message: &Message<'_>) -> usize {
    message.payload.get("n").unwrap().parse().unwrap()
}

/// What was called, the first message given, and how many had left by then.
type Calls = Arc<Mutex<Vec<(&'static str, usize, usize)>>>;

/// A handler that prepares, and at each call notes the first message it is given and how many had left by then.
struct Ahead<H> {
    inner: H,
    bus: MemoryBus,
    calls: Calls,
}

impl<H> Ahead<H> {
    fn new(bus: &MemoryBus, inner: H) -> Self {
        Self { inner, bus: bus.clone(), calls: Arc::default() }
    }

    fn note(&self, call: &'static str, messages: &[Message<'_>]) {
        self.calls.lock().unwrap().push((call, n(&messages[0]), order(&self.bus, "Next").len()));
    }
}

impl<H: Handler> Handler for Ahead<H> {
    fn handle(&mut self, messages: &mut [Message<'_>]) -> anyhow::Result<Vec<Verdict>> {
        self.note("handle", messages);
        self.inner.handle(messages)
    }

    fn prepares(&self) -> bool {
        true
    }

    fn prepare(&mut self, messages: &[Message<'_>]) {
        self.note("prepare", messages);
    }
}

#[test]
fn a_batch_is_prepared_before_the_one_in_front_is_handled() {
    let bus = bus_with((0..25).map(message));
    let handler = Ahead::new(&bus, each(|_| Verdict::Forward));
    let calls = handler.calls.clone();
    let stats = run(&bus, handler);
    assert_eq!((stats.read, stats.forwarded), (25, 25));
    assert_eq!(order(&bus, "Next"), (0..25).collect::<Vec<_>>());
    let expected = [
        ("prepare", 0, 0),
        ("prepare", 10, 0),
        ("handle", 0, 0),
        ("prepare", 20, 10),
        ("handle", 10, 10),
        ("handle", 20, 20),
    ];
    assert_eq!(*calls.lock().unwrap(), expected);
}

#[test]
fn a_handler_that_prepares_loses_nothing_and_keeps_the_order() {
    let bus = bus_with((0..100).map(message));
    for (step, failure) in [
        (Step::Poll, Failure::Unavailable),
        (Step::Settle, Failure::Unavailable),
        (Step::Settle, Failure::Lost),
        (Step::Poll, Failure::Lost),
    ] {
        bus.fail_next(step, failure);
    }
    let (mut retries, mut panics) = (0, 0);
    let stats = run(
        &bus,
        Ahead::new(
            &bus,
            each(move |message| {
                retries += usize::from(n(message) == 33);
                panics += usize::from(n(message) == 57);
                assert!(n(message) != 57 || panics > 2, "twice");
                if n(message) == 33 && retries < 3 { Verdict::retry("not yet") } else { Verdict::Forward }
            }),
        ),
    );
    assert_eq!(order(&bus, "Next"), (0..100).collect::<Vec<_>>());
    assert_eq!(contents(&bus, "Error"), []);
    assert!(stats.read >= 100 && stats.retried >= 2, "{stats:?}");
}

#[test]
fn the_end_settles_what_is_handled_and_leaves_what_is_prepared() {
    let bus = bus_with((0..100).map(message));
    let shutdown = Shutdown::default();
    let asked = shutdown.clone();
    let handler = each(move |message| {
        if n(message) == 25 {
            asked.request();
        }
        Verdict::Forward
    });
    Stop::new("tester", &topic("Here"), Ahead::new(&bus, handler), settings()).run(&bus, &shutdown).unwrap();
    assert_eq!(order(&bus, "Next"), (0..30).collect::<Vec<_>>());
}

#[test]
fn each_verdict_does_what_it_says() {
    let bus = bus_with((0..5).map(message).chain(["nonsense".to_owned()]));
    let stats = run(
        &bus,
        each(|message| match n(message) {
            0 => Verdict::Forward,
            1 => Verdict::Finish,
            2 => Verdict::drop("not wanted"),
            3 => Verdict::reject("broken"),
            _ => Verdict::retry("later"),
        }),
    );
    assert_eq!(order(&bus, "Next"), [0]);
    let errors = contents(&bus, "Error");
    let reason = |index: usize| errors[index].1.as_deref().unwrap();
    assert_eq!(errors.len(), 3);
    assert_eq!((&errors[0].0, reason(0)), (&message(3), "broken"));
    assert_eq!((&errors[1].0, reason(1)), (&message(4), "later; gave up after 3 attempts"));
    assert_eq!((errors[2].0.as_str(), reason(2)), ("nonsense", "not JSON: expected ident at line 1 column 2"));
    assert_eq!((stats.read, stats.forwarded, stats.finished, stats.retried), (6, 1, 1, 2));
    assert_eq!(stats.dropped.get("not wanted"), Some(&1));
    let rejected: Vec<_> = stats.rejected.iter().map(|(reason, count)| (reason.as_str(), *count)).collect();
    assert_eq!(rejected, [("broken", 1), ("later; gave up after 3 attempts", 1), ("not JSON", 1)]);
}

#[test]
fn particulars_of_a_reason_are_not_counted_apart() {
    let bus = bus_with((0..6).map(message).chain((0..300).map(|n| format!("{}?", " ".repeat(n % 100)))));
    let stats = run(
        &bus,
        each(|message| match n(message) {
            n @ 0..3 => Verdict::drop(format!("unknown currency: {n}")),
            n => Verdict::reject(format!("bad rate: {n}: odd")),
        }),
    );
    assert_eq!(stats.dropped, [("unknown currency".to_owned(), 3)].into());
    assert_eq!(stats.rejected, [("bad rate".to_owned(), 3), ("not JSON".to_owned(), 300)].into());
    assert_eq!(contents(&bus, "Error")[0].1.as_deref(), Some("bad rate: 3: odd"), "the letter holds it whole");
}

#[test]
fn very_many_reasons_are_counted_together() {
    let bus = bus_with((0..500).map(message));
    let stats = run(&bus, each(|message| Verdict::drop(n(message).to_string())));
    assert_eq!(stats.dropped.values().sum::<u64>(), 500);
    assert_eq!(stats.dropped.len(), 101, "a hundred and the others");
}

#[test]
fn the_dead_letter_says_how_often_it_was_tried() {
    let bus = bus_with([message(0)]);
    run(&bus, each(|_| Verdict::retry("no")));
    let mut reader = bus.reader(&topic("Error"), 1).unwrap();
    let batch = reader.poll(1, Duration::ZERO).unwrap();
    let header = |name| batch.get(0).headers.get(name).unwrap();
    assert_eq!(header("metrobus.attempt"), b"3");
    assert_eq!(header("metrobus.stop"), b"tester");
    assert_eq!(header("metrobus.topic"), b"Here");
}

/// The history in the headers of the last record of a topic: attempt and reason of each trouble.
fn history(bus: &MemoryBus, name: &str) -> Vec<(String, u32, String)> {
    let mut reader = bus.reader(&topic(name), 1).unwrap();
    let batch = reader.poll(1, Duration::ZERO).unwrap();
    let history = History::read(&batch.get(0).headers);
    let (first, left_out, last) = history.parts();
    assert_eq!(left_out, 0);
    let all: Vec<_> = first.chain(last).cloned().collect();
    assert!(all.is_sorted_by_key(|trouble| trouble.time) && all[0].time > 1_700_000_000_000);
    all.into_iter().map(|trouble| (trouble.stop, trouble.attempt, trouble.reason)).collect()
}

#[test]
fn the_dead_letter_tells_of_every_attempt_and_of_rejections_before() {
    let bus = bus_with([message(0)]);
    let tries = AtomicU32::new(0);
    run(&bus, each(move |_| Verdict::retry(format!("no: {}", tries.fetch_add(1, Ordering::SeqCst)))));
    let trouble = |attempt: u32, reason: &str| ("tester".to_owned(), attempt, reason.to_owned());
    let mut expected = vec![trouble(1, "no: 0"), trouble(2, "no: 1"), trouble(3, "no: 2; gave up after 3 attempts")];
    assert_eq!(history(&bus, "Error"), expected);

    // Sent again, it goes on where it was
    let again = DeadLetters { stop: "again".into(), topic: topic("Error"), error: topic("Lost") };
    let mut letters = bus.subscribe(&again).unwrap();
    let letter = Arc::new(letters.poll(1, Duration::ZERO).unwrap());
    let mut outbox = Outbox::default();
    outbox.repeat(0, &topic("Here"), |out| {
        let kept = letter.get(0).headers.into_iter().filter(|(name, _)| *name == "metrobus.history");
        kept.for_each(|(name, value)| crate::bus::Headers::push(out, name, value));
    });
    letters.settle(&letter, 0..1, &outbox).unwrap();
    run(&bus, each(|_| Verdict::reject("broken")));
    expected.push(trouble(1, "broken"));
    assert_eq!(history(&bus, "Error"), expected);
}

#[test]
fn a_stop_retries_as_often_as_it_is_told() {
    let bus = bus_with([message(0)]);
    let retry = Retry { max_attempts: 5, ..settings().retry };
    let stop = Stop::new("tester", &topic("Here"), each(|_| Verdict::retry("no")), settings()).retry(retry);
    stop.drain(Drain::default().join()).run(&bus, &Shutdown::default()).unwrap();
    assert_eq!(history(&bus, "Error").len(), 5);
}

#[test]
fn a_retry_keeps_its_place() {
    let bus = bus_with((0..25).map(message));
    let failures = AtomicU32::new(0);
    let stats = run(
        &bus,
        each(move |message| {
            if n(message) % 7 == 3 && failures.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) {
                return Verdict::retry("not yet");
            }
            Verdict::Forward
        }),
    );
    assert_eq!(order(&bus, "Next"), (0..25).collect::<Vec<_>>());
    assert_eq!(stats.forwarded, 25);
    assert!(stats.retried >= 3);
}

#[test]
fn a_panic_costs_one_message_and_not_the_stop() {
    let bus = bus_with((0..25).map(message));
    let stats = run(
        &bus,
        each(|message| {
            assert!(n(message) != 12, "a bug in a handler");
            Verdict::Forward
        }),
    );
    assert_eq!(order(&bus, "Next"), (0..25).filter(|n| *n != 12).collect::<Vec<_>>());
    assert_eq!(contents(&bus, "Error"), [(message(12), Some("handler panicked; gave up after 3 attempts".to_owned()))]);
    assert_eq!(stats.read, 25);
}

#[test]
fn a_handler_that_is_away_is_waited_for_and_drops_nothing() {
    struct Flaky(u32);
    impl Handler for Flaky {
        fn handle(&mut self, messages: &mut [Message<'_>]) -> anyhow::Result<Vec<Verdict>> {
            self.0 += 1;
            if !self.0.is_multiple_of(4) {
                return Err(anyhow!("the cache is away"));
            }
            Ok(messages.iter().map(|_| Verdict::Forward).collect())
        }
    }
    let bus = bus_with((0..15).map(message));
    let stats = run(&bus, Flaky(0));
    assert_eq!(order(&bus, "Next"), (0..15).collect::<Vec<_>>());
    assert_eq!((stats.forwarded, stats.retried), (15, 0));
}

#[test]
fn a_broken_handler_ends_the_stop_and_nothing_is_acknowledged() {
    struct Closed;
    impl Handler for Closed {
        fn handle(&mut self, _: &mut [Message<'_>]) -> anyhow::Result<Vec<Verdict>> {
            Err(Broken(anyhow!("output is closed")).into())
        }
    }
    let bus = bus_with((0..3).map(message));
    assert_eq!(format!("{:#}", try_run(&bus, Closed).err().unwrap()), "stop tester: output is closed");
    assert_eq!(run(&bus, each(|_| Verdict::Finish)).finished, 3);
}

#[test]
fn a_wrong_number_of_verdicts_is_no_loss() {
    struct Short;
    impl Handler for Short {
        fn handle(&mut self, _: &mut [Message<'_>]) -> anyhow::Result<Vec<Verdict>> {
            Ok(vec![Verdict::Forward])
        }
    }
    let bus = bus_with((0..3).map(message));
    assert_eq!(run(&bus, Short).rejected.get("handler gave 1 verdicts on 3 messages"), Some(&3));
    assert_eq!(contents(&bus, "Error").len(), 3);
}

#[test]
fn an_output_that_is_too_large_harms_no_neighbour() {
    let bus = bus_with((0..5).map(message));
    run(
        &bus,
        each(|message| {
            if n(message) == 2 {
                message.payload.set("big", &"x".repeat(300)).unwrap();
            }
            Verdict::Forward
        }),
    );
    assert_eq!(order(&bus, "Next"), [0, 1, 3, 4]);
    let reason = contents(&bus, "Error")[0].1.clone().unwrap();
    assert_eq!(reason, "output is longer than limits.message_bytes = 200: 385 bytes");
}

#[test]
fn a_bus_that_fails_for_now_costs_nothing() {
    let bus = bus_with((0..40).map(message));
    let plan = [
        (Step::Connect, Failure::Unavailable),
        (Step::Poll, Failure::Unavailable),
        (Step::Settle, Failure::Unavailable),
        (Step::Settle, Failure::Unavailable),
        (Step::Poll, Failure::Lost),
        (Step::Settle, Failure::Lost),
        (Step::Settle, Failure::Lost),
    ];
    for (step, failure) in plan {
        bus.fail_next(step, failure);
    }
    run(&bus, each(|_| Verdict::Forward));
    assert_eq!(order(&bus, "Next"), (0..40).collect::<Vec<_>>());
}

#[test]
fn a_bus_that_fails_for_good_ends_the_stop() {
    let bus = bus_with((0..3).map(message));
    bus.fail_next(Step::Settle, Failure::Fatal);
    let error = try_run(&bus, each(|_| Verdict::Forward)).err().unwrap();
    assert_eq!(format!("{error:#}"), "stop tester: planned failure of Settle");
    assert_eq!(order(&bus, "Next"), Vec::<usize>::new());
    run(&bus, each(|_| Verdict::Forward));
    assert_eq!(order(&bus, "Next"), [0, 1, 2]);
}

#[test]
fn a_bus_that_is_away_at_the_start_is_unreachable_after_the_timeout() {
    let bus = MemoryBus::default();
    for _ in 0..100 {
        bus.fail_next(Step::Connect, Failure::Unavailable);
    }
    let settings = Settings { connect_timeout: Some(Duration::from_millis(50)), ..settings() };
    let stop = Stop::new("tester", &topic("Here"), each(|_| Verdict::Finish), &settings);
    let error = stop.run(&bus, &Shutdown::default()).unwrap_err();
    assert!(error.is::<crate::error::Unreachable>(), "{error:#}");
}

#[test]
fn what_the_handler_needs_is_waited_for_before_the_group_is_joined() {
    /// Reaches what it needs at the attempt of this number.
    struct Needy(u32);
    impl Handler for Needy {
        fn handle(&mut self, messages: &mut [Message<'_>]) -> anyhow::Result<Vec<Verdict>> {
            assert_eq!(self.0, 0, "asked too early");
            Ok(messages.iter().map(|_| Verdict::Finish).collect())
        }

        fn connect(&mut self) -> anyhow::Result<()> {
            self.0 -= 1;
            if self.0 == 0 { Ok(()) } else { Err(anyhow!("away")) }
        }
    }
    let bus = bus_with((0..3).map(message));
    assert_eq!(run(&bus, Needy(3)).finished, 3);

    let bus = bus_with((0..3).map(message));
    let settings = Settings { connect_timeout: Some(Duration::from_millis(50)), ..settings() };
    let stop = Stop::new("tester", &topic("Here"), Needy(u32::MAX), &settings);
    let error = stop.run(&bus, &Shutdown::default()).unwrap_err();
    assert!(error.is::<crate::error::Unreachable>(), "{error:#}");
    assert_eq!(error.to_string(), "what stop tester needs cannot be reached within 50ms: away");
    assert!(bus.topics().unwrap().iter().all(|topic| topic.groups.is_empty()), "joined while it waited");

    let shutdown = Shutdown::default();
    shutdown.request();
    let settings = Settings { connect_timeout: None, ..settings };
    Stop::new("tester", &topic("Here"), Needy(u32::MAX), &settings).run(&bus, &shutdown).unwrap();
}

#[test]
fn the_end_settles_the_batch_at_hand_and_reads_no_more() {
    let bus = bus_with((0..100).map(message));
    let shutdown = Shutdown::default();
    let asked = shutdown.clone();
    let handler = each(move |_| {
        asked.request();
        Verdict::Forward
    });
    Stop::new("tester", &topic("Here"), handler, settings()).run(&bus, &shutdown).unwrap();
    assert_eq!(order(&bus, "Next"), (0..10).collect::<Vec<_>>());
    run(&bus, each(|_| Verdict::Forward));
    assert_eq!(order(&bus, "Next"), (0..100).collect::<Vec<_>>());
}

#[test]
fn the_end_does_not_wait_for_a_retry() {
    let bus = bus_with((0..3).map(message));
    let shutdown = Shutdown::default();
    let asked = shutdown.clone();
    let handler = each(move |message| {
        asked.request();
        if n(message) == 1 { Verdict::retry("not yet") } else { Verdict::Forward }
    });
    Stop::new("tester", &topic("Here"), handler, settings()).run(&bus, &shutdown).unwrap();
    assert_eq!(order(&bus, "Next"), [0]);
    run(&bus, each(|_| Verdict::Forward));
    assert_eq!(order(&bus, "Next"), [0, 1, 2]);
}

#[test]
fn several_stops_drain_together() {
    let bus = bus_with((0..500).map(message));
    let together = Drain::default();
    let first = Stop::new("first", &topic("Here"), each(|_| Verdict::Forward), settings()).drain(together.join());
    let second = Stop::new("second", &topic("Next"), each(|_| Verdict::Forward), settings()).drain(together.join());
    let stats = second.stats();
    run_all(vec![second, first], &bus, &Shutdown::default()).unwrap();
    assert_eq!(stats.snapshot().finished, 500);
}

#[test]
fn one_failing_stop_ends_the_others() {
    let bus = bus_with((0..5).map(message));
    bus.fail_next(Step::Settle, Failure::Fatal);
    let first = Stop::new("first", &topic("Here"), each(|_| Verdict::Forward), settings());
    let second = Stop::new("second", &topic("Next"), each(|_| Verdict::Forward), settings());
    assert!(run_all(vec![first, second], &bus, &Shutdown::default()).is_err());
}

#[test]
fn every_read_message_is_counted_once() {
    let bus = bus_with((0..35).map(message));
    static COUNTED: Mutex<Vec<u64>> = Mutex::new(Vec::new());
    let failures = AtomicU32::new(0);
    let handler = each(move |message| {
        if n(message) == 20 && failures.fetch_add(1, Ordering::SeqCst) == 0 {
            return Verdict::retry("once");
        }
        Verdict::drop("counted")
    });
    let stop = Stop::new("tester", &topic("Here"), handler, settings())
        .drain(Drain::default().join())
        .on_read(|count| COUNTED.lock().unwrap().push(count));
    stop.run(&bus, &Shutdown::default()).unwrap();
    assert_eq!(COUNTED.lock().unwrap().iter().sum::<u64>(), 35);
}

/// Offset, outcome, attempts, reason and next topic of every hop in the journal.
type Noted = (i64, Outcome, u32, Option<String>, Option<String>);

fn noted(bus: &MemoryBus) -> Vec<Noted> {
    let mut reader = bus.reader(&topic("Journal"), u64::MAX).unwrap();
    let mut all = Vec::new();
    for record in reader.poll(10_000, Duration::ZERO).unwrap().iter() {
        let entry = journal::Entry::read(record.value.unwrap()).unwrap();
        assert_eq!((entry.stop, entry.topic, entry.partition), ("tester", "Here", 0));
        assert!(record.timestamp == entry.time / 1000 && entry.time > 0);
        for hop in entry.hops() {
            let hop = hop.unwrap();
            let owned = |text: Option<&str>| text.map(str::to_owned);
            all.push((hop.offset, hop.outcome, hop.attempts, owned(hop.reason), owned(hop.next)));
        }
    }
    all
}

#[test]
fn the_journal_says_what_became_of_each_message() {
    let bus = bus_with((0..5).map(message).chain(["nonsense".to_owned()]));
    run(
        &bus,
        each(|message| match n(message) {
            0 => Verdict::Forward,
            1 => Verdict::Finish,
            2 => Verdict::drop("not wanted"),
            3 => Verdict::reject("broken"),
            _ => Verdict::retry("later"),
        }),
    );
    let text = |text: &str| Some(text.to_owned());
    let error = || text("Error");
    let expected = [
        (0, Outcome::Forwarded, 1, None, text("Next")),
        (1, Outcome::Finished, 1, None, None),
        (2, Outcome::Dropped, 1, text("not wanted"), None),
        (3, Outcome::Rejected, 1, text("broken"), error()),
        (4, Outcome::Rejected, 3, text("later; gave up after 3 attempts"), error()),
        (5, Outcome::Rejected, 1, text("not JSON: expected ident at line 1 column 2"), error()),
    ];
    assert_eq!(noted(&bus), expected);
}

#[test]
fn the_journal_is_as_true_as_the_bus() {
    let bus = bus_with((0..40).map(message));
    for (step, failure) in [
        (Step::Settle, Failure::Unavailable),
        (Step::Settle, Failure::Lost),
        (Step::Poll, Failure::Lost),
        (Step::Settle, Failure::Lost),
    ] {
        bus.fail_next(step, failure);
    }
    let failures = AtomicU32::new(0);
    let judge = each(move |message| match n(message) {
        n if n % 7 == 3 && failures.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) => Verdict::retry("not yet"),
        n if n % 5 == 0 => Verdict::drop("not wanted"),
        n => {
            assert!(n != 12, "a bug in a handler");
            Verdict::Forward
        }
    });
    run(&bus, judge);
    let noted = noted(&bus);
    assert_eq!(noted.iter().map(|hop| hop.0).collect::<Vec<_>>(), (0..40).collect::<Vec<_>>(), "each once, in order");
    let of = |outcome| noted.iter().filter(|hop| hop.1 == outcome).map(|hop| hop.0 as usize).collect::<Vec<_>>();
    assert_eq!(of(Outcome::Forwarded), order(&bus, "Next"));
    assert_eq!(of(Outcome::Rejected), order(&bus, "Error"));
    assert!(noted.iter().any(|hop| hop.2 == 2), "attempts are told");
}

#[test]
fn the_journal_notes_as_much_as_its_level_says() {
    for (level, expected) in [(journal::Level::Ends, vec![1, 3]), (journal::Level::Off, vec![])] {
        let bus = bus_with((0..4).map(message));
        let mut journal = (*settings().journal).clone();
        journal.level = level;
        let settings = Settings { journal: Arc::new(journal), ..settings() };
        let judge = each(|message| if n(message).is_multiple_of(2) { Verdict::Forward } else { Verdict::Finish });
        Stop::new("tester", &topic("Here"), judge, settings)
            .drain(Drain::default().join())
            .run(&bus, &Shutdown::default())
            .unwrap();
        assert_eq!(noted(&bus).iter().map(|hop| hop.0).collect::<Vec<_>>(), expected, "{level:?}");
    }
}

#[test]
fn an_entry_is_of_one_partition_and_stays_small() {
    let bus = MemoryBus::with_partitions(3);
    let mut outbox = Outbox::default();
    // Ids and keys of the longest kind: they would make one entry too large
    for n in 0..900 {
        let id = format!("{n:0>1024}");
        let value = format!(r#"{{"header":{{"route":[],"id":"{id}"}},"payload":{{"n":{n}}}}}"#);
        outbox.publish(&topic("Here"), 5, Some(format!("key {n}").as_bytes()), Some(value.as_bytes()));
    }
    bus.publisher().unwrap().publish(&outbox).unwrap();
    let settings = Settings { batch: 900, limits: Limits::default(), ..settings() };
    let stop = Stop::new("tester", &topic("Here"), each(|_| Verdict::Forward), settings);
    stop.drain(Drain::default().join()).run(&bus, &Shutdown::default()).unwrap();
    let mut reader = bus.reader(&topic("Journal"), u64::MAX).unwrap();
    let batch = reader.poll(10_000, Duration::ZERO).unwrap();
    let mut seen = BTreeSet::new();
    for record in batch.iter() {
        assert!(record.value.unwrap().len() < 500_000);
        let entry = journal::Entry::read(record.value.unwrap()).unwrap();
        for hop in entry.hops() {
            let hop = hop.unwrap();
            assert!(hop.key.is_none(), "it has an id");
            assert!(matches!(hop.id, journal::Id::Text(id) if id.len() == 1024));
            assert!(seen.insert((entry.partition, hop.offset)));
        }
    }
    assert!(batch.len() >= 3 && seen.len() == 900, "{} entries, {} hops", batch.len(), seen.len());
}
