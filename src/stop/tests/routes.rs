//! Deadlines, revised routes and copies, as the loop carries them out.

use serde_json::Value;
use uuid::Uuid;

use super::*;
use crate::slip::{Itinerary, Revision};

/// A message at Here that is up at `deadline`.
fn expiring(n: usize, deadline: i64) -> String {
    message(n).replace(r#""header":{"#, &format!(r#""header":{{"id":"id-{n}","deadline":{deadline},"#))
}

fn headers(bus: &MemoryBus, name: &str) -> Vec<Value> {
    let header = |(value, _): (String, _)| serde_json::from_str::<Value>(&value).unwrap()["header"].clone();
    contents(bus, name).into_iter().map(header).collect()
}

/// Id and reason of every end that the journal tells of.
fn ends(bus: &MemoryBus) -> Vec<(String, Outcome, String)> {
    let mut reader = bus.reader(&topic("Journal"), u64::MAX).unwrap();
    let mut all = Vec::new();
    for record in reader.poll(10_000, Duration::ZERO).unwrap().iter() {
        for hop in journal::Entry::read(record.value.unwrap()).unwrap().hops() {
            let hop = hop.unwrap();
            if hop.outcome.is_end() {
                all.push((hop.id.to_string(), hop.outcome, hop.reason.unwrap_or_default().to_owned()));
            }
        }
    }
    all
}

#[test]
fn a_message_past_its_deadline_is_a_dead_letter_that_no_handler_sees() {
    let later = now_ms() + 3_600_000;
    let bus = bus_with([expiring(0, later), expiring(1, 1_000), message(2), expiring(3, -5), expiring(4, later)]);
    let stats = run(
        &bus,
        each(|message| {
            assert!(![1, 3].contains(&n(message)), "seen");
            Verdict::Forward
        }),
    );
    assert_eq!(order(&bus, "Next"), [0, 2, 4]);
    let errors = contents(&bus, "Error");
    let reasons: Vec<_> = errors.iter().map(|(_, reason)| reason.as_deref().unwrap()).collect();
    assert_eq!(reasons, ["its deadline has passed: 1970-01-01T00:00:01.000Z", "its deadline has passed: -"]);
    assert_eq!(errors[0].0, expiring(1, 1_000), "as it came");
    assert_eq!((stats.read, stats.forwarded), (5, 3));
    assert_eq!(stats.rejected, [("its deadline has passed".to_owned(), 2)].into());
    let ids: Vec<_> = ends(&bus).into_iter().map(|(id, ..)| id).collect();
    assert_eq!(ids, ["id-1", "id-3"]);
}

#[test]
fn a_message_whose_deadline_passes_while_it_is_tried_again_is_tried_no_more() {
    let deadline = now_ms() + 30;
    let bus = bus_with([expiring(0, deadline), message(1)]);
    let retry = Retry { max_attempts: 1_000_000, first: Duration::from_millis(5), max: Duration::from_millis(5) };
    let judge = each(|message| if n(message) == 0 { Verdict::retry("not yet") } else { Verdict::Forward });
    let stop = Stop::new("tester", &topic("Here"), judge, settings()).retry(retry);
    stop.drain(Drain::default().join()).run(&bus, &Shutdown::default()).unwrap();
    assert_eq!(order(&bus, "Next"), [1]);
    let mut reader = bus.reader(&topic("Error"), 1).unwrap();
    let batch = reader.poll(1, Duration::ZERO).unwrap();
    let headers = batch.get(0).headers;
    let text = |name: &str| String::from_utf8_lossy(headers.get(name).unwrap()).into_owned();
    assert!(text("metrobus.reason").starts_with("its deadline has passed: 2"));
    assert!(text("metrobus.history").starts_with(r#"[{"time":"#) && text("metrobus.history").contains("not yet"));
    assert!(now_ms() > deadline);
}

#[test]
fn a_revised_route_is_gone_along_and_kept_with_who_revised_it() {
    let bus = bus_with((0..4).map(message));
    let stats = run(
        &bus,
        each(|message| {
            let stops = |names: &[&str]| names.iter().map(|name| topic(name)).collect();
            match n(message) {
                0 => message.revise(Revision::Insert(stops(&["Here"]))),
                1 => message.revise(Revision::End),
                2 => message.revise(Revision::Replace(stops(&["Nowhere"]))),
                _ => {}
            }
            // What comes back to Here goes on
            if message.whole().contains("revisions") { Verdict::drop("came back") } else { Verdict::Forward }
        }),
    );
    assert_eq!((stats.forwarded, stats.finished), (2, 1));
    assert_eq!(stats.dropped, [("came back".to_owned(), 1)].into());
    assert_eq!(stats.rejected, [("revised to an unknown stop".to_owned(), 1)].into());
    assert_eq!(order(&bus, "Next"), [3]);
    let came_back = &headers(&bus, "Here")[4];
    assert_eq!(came_back["route"], serde_json::json!(["Next"]));
    assert_eq!(came_back["historical_route"], serde_json::json!(["Here", "Here"]));
    assert_eq!(came_back["revisions"], serde_json::json!([{"stop": "tester", "hop": 1, "insert": ["Here"]}]));
    assert_eq!(contents(&bus, "Error")[0].0, message(2));
}

#[test]
fn a_handler_that_goes_in_circles_ends_by_the_hop_budget() {
    let id = r#"{"header":{"route":[],"historical_route":["Here"],"id":"circle"},"payload":{"n":7}}"#;
    let bus = bus_with([id.to_owned()]);
    let limits = Limits { hops: 20, ..Limits::default() };
    let circle = each(|message| {
        message.revise(Revision::Replace(vec![topic("Here")]));
        Verdict::Forward
    });
    let stop = Stop::new("tester", &topic("Here"), circle, Settings { limits, ..settings() });
    let stats = stop.stats();
    stop.drain(Drain::default().join()).run(&bus, &Shutdown::default()).unwrap();
    assert_eq!(stats.snapshot().forwarded, 19);
    let reason = "revised to too long a route: 21 hops, more than limits.hops = 20";
    assert_eq!(contents(&bus, "Error")[0].1.as_deref(), Some(reason));
    assert_eq!(ends(&bus), [("circle".to_owned(), Outcome::Rejected, reason.to_owned())]);
}

/// Sends each message to Next, with `copies` of it to Here.
struct Splitter {
    copies: usize,
    itineraries: [Itinerary; 2],
}

impl Splitter {
    fn new(copies: usize) -> Self {
        Self { copies, itineraries: ["Next", "Copies"].map(|name| Itinerary::new(&[topic(name)])) }
    }
}

impl Handler for Splitter {
    fn handle(&mut self, messages: &mut [Message<'_>]) -> anyhow::Result<Vec<Verdict>> {
        for message in messages.iter_mut() {
            let id = Uuid::from_u128(n(message) as u128);
            message.depart(&self.itineraries[0], id);
            (0..self.copies).for_each(|_| message.send_copy(&self.itineraries[1]));
        }
        Ok(messages.iter().map(|_| Verdict::Forward).collect())
    }

    fn begins_journeys(&self) -> bool {
        true
    }
}

#[test]
fn copies_leave_in_the_settle_of_their_parent() {
    let bus = bus_with((0..25).map(message));
    for failure in [Failure::Unavailable, Failure::Lost, Failure::Lost] {
        bus.fail_next(Step::Settle, failure);
    }
    let stats = run(&bus, Splitter::new(2));
    assert!(stats.forwarded >= 25 && stats.copied == 2 * stats.forwarded, "{stats:?}");
    assert_eq!(order(&bus, "Next"), (0..25).collect::<Vec<_>>());
    let copies = headers(&bus, "Copies");
    let ids: BTreeSet<_> = copies.iter().map(|header| header["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!((copies.len(), ids.len()), (50, 50), "each once");
    for (place, copy) in copies.iter().enumerate() {
        assert_eq!(copy["parent"], Uuid::from_u128(place as u128 / 2).to_string());
    }

    // Each sets out in the journal, beside its parent
    let mut reader = bus.reader(&topic("Journal"), u64::MAX).unwrap();
    let mut begun = BTreeSet::new();
    for record in reader.poll(10_000, Duration::ZERO).unwrap().iter() {
        for hop in journal::Entry::read(record.value.unwrap()).unwrap().hops() {
            let hop = hop.unwrap();
            assert_eq!(hop.outcome, Outcome::Forwarded);
            let parent = hop.fields.iter().find(|(name, _)| *name == journal::PARENT).map(|(_, id)| id.to_string());
            assert_eq!(parent.is_some(), hop.next == Some("Copies"));
            assert_eq!(ids.contains(&hop.id.to_string()), parent.is_some());
            begun.insert(hop.id.to_string());
        }
    }
    assert_eq!(begun.len(), 75);
}

#[test]
fn a_message_whose_copies_are_too_large_leaves_none_behind() {
    let long = |n: usize| format!(r#"{{"n":{n},"long":"{}"}}"#, "x".repeat(600));
    let bus = bus_with([message(0), long(1), message(2)]);
    let limits = Limits { message_bytes: 650, ..Limits::default() };
    let stop = Stop::new("tester", &topic("Here"), Splitter::new(3), Settings { limits, ..settings() });
    stop.drain(Drain::default().join()).run(&bus, &Shutdown::default()).unwrap();
    assert_eq!(order(&bus, "Next"), [0, 2]);
    assert_eq!(order(&bus, "Copies"), [0, 0, 0, 2, 2, 2]);
    assert_eq!(contents(&bus, "Error")[0].0, long(1));
}

#[test]
fn very_many_bytes_of_copies_are_settled_a_few_messages_at_a_time() {
    let big = |n: usize| format!(r#"{{"n":{n},"long":"{}"}}"#, "x".repeat(2 << 20));
    let bus = bus_with((0..8).map(big));
    let limits = Limits { message_bytes: 10 << 20, ..Limits::default() };
    let stop = Stop::new("tester", &topic("Here"), Splitter::new(16), Settings { limits, ..settings() });
    let stats = stop.stats();
    stop.drain(Drain::default().join()).run(&bus, &Shutdown::default()).unwrap();
    assert_eq!((stats.snapshot().read, stats.snapshot().copied), (8, 128));
    assert_eq!(order(&bus, "Next"), (0..8).collect::<Vec<_>>());
    let entries = bus.reader(&topic("Journal"), u64::MAX).unwrap().poll(100, Duration::ZERO).unwrap();
    assert!(entries.len() >= 3, "{} settles", entries.len());
}

#[test]
fn what_is_remarked_stands_in_the_journal() {
    let bus = bus_with((0..4).map(message));
    run(
        &bus,
        each(|message| {
            message.remark("told: so");
            match n(message) {
                0 => Verdict::Forward,
                1 => Verdict::drop("odd"),
                2 => Verdict::drop("odd: it"),
                _ => Verdict::Finish,
            }
        }),
    );
    let reasons: Vec<_> = noted(&bus).into_iter().map(|hop| hop.3.unwrap()).collect();
    assert_eq!(reasons, ["told: so", "odd: told: so", "odd: it; told: so", "told: so"]);
}
