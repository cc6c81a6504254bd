//! The rules of BarterDude's health check, and the body of its answer.
//!
//! Source of rules and texts: `barterdude/hooks/healthcheck.py` of olxbr/BarterDude; its monitors go on working.

use serde::{Serialize, Serializer, ser::SerializeMap};

use super::{Phase, Snapshot, WINDOW};

/// Below this share of successes a process is ill.
const SUCCESS_RATE: f64 = 0.95;

/// So many failures to connect in a row, and a process is ill.
const CONNECTION_FAILS: u32 = 3;

/// What is said of a process; as JSON the body of `/healthcheck`.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    pub ok: bool,
    pub message: String,
    /// Successes and failures of the last minute; `None` where there was no traffic.
    pub counts: Option<(u64, u64)>,
    /// What the stops depend on, and whether that is well for all of them.
    pub parts: Vec<(&'static str, bool)>,
}

/// Judges a process by its stops. It is ill, by the first of these that is so:
///
/// - a handler says so;
/// - some stop has failed three times in a row to reach what it needs, or the bus;
/// - a part that a running stop depends on is in trouble;
/// - of the messages of the last minute, less than 0.95 were successes.
///
/// So without traffic it is well.
pub fn check(stops: &[Snapshot]) -> Report {
    let (success, fail) = stops.iter().fold((0, 0), |(success, fail), stop| (success + stop.success, fail + stop.fail));
    let rate = success as f64 / (success + fail).max(1) as f64;
    let traffic = success + fail > 0;
    let (ok, message) = match forced(stops).or_else(|| connection(stops)).or_else(|| trouble(stops)) {
        Some(why) => (false, why),
        None if !traffic => (true, format!("No messages in last {:?}s", WINDOW.as_secs_f64())),
        None => (rate >= SUCCESS_RATE, format!("Success rate: {rate:?} (expected: {SUCCESS_RATE:?})")),
    };
    Report { ok, message, counts: traffic.then_some((success, fail)), parts: parts(stops) }
}

fn forced(stops: &[Snapshot]) -> Option<String> {
    let forced = |stop: &Snapshot| stop.ill.as_ref().map(|why| format!("{} is ill: {why}", stop.stop));
    stops.iter().find_map(forced)
}

fn connection(stops: &[Snapshot]) -> Option<String> {
    let part = |stop: &Snapshot| {
        let part = stop.parts.iter().find(|part| part.failures >= CONNECTION_FAILS)?;
        let trouble = part.trouble.as_deref().unwrap_or_default();
        let (stop, name) = (&stop.stop, part.name);
        Some(format!("Reached max connection fails ({CONNECTION_FAILS}): {stop}: {name}: {trouble}"))
    };
    stops.iter().find_map(part)
}

fn trouble(stops: &[Snapshot]) -> Option<String> {
    // Before it runs, a failure is one to connect
    let running = stops.iter().filter(|stop| stop.phase == Phase::Running);
    let part = |stop: &Snapshot| {
        let part = stop.parts.iter().find(|part| part.trouble.is_some())?;
        Some(format!("{}: {}: {}", stop.stop, part.name, part.trouble.as_deref().unwrap_or_default()))
    };
    running.filter_map(part).next()
}

fn parts(stops: &[Snapshot]) -> Vec<(&'static str, bool)> {
    let mut parts: Vec<(&'static str, bool)> = Vec::new();
    for part in stops.iter().flat_map(|stop| &stop.parts) {
        let well = part.trouble.is_none();
        match parts.iter_mut().find(|(name, _)| *name == part.name) {
            Some((_, all)) => *all &= well,
            None => parts.push((part.name, well)),
        }
    }
    parts
}

impl Serialize for Report {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let word = |ok: bool| if ok { "ok" } else { "fail" };
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("status", word(self.ok))?;
        map.serialize_entry("message", &self.message)?;
        if let Some((success, fail)) = self.counts {
            map.serialize_entry("success", &success)?;
            map.serialize_entry("fail", &fail)?;
        }
        for (name, ok) in &self.parts {
            map.serialize_entry(name, word(*ok))?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::health::{Health, Needs, Part};

    /// A running stop with a bus.
    fn well(stop: &str) -> Snapshot {
        let bus = Part { name: "bus", trouble: None, failures: 0, errors: 0 };
        let stop = stop.to_owned();
        let (phase, idle) = (Phase::Running, Duration::ZERO);
        Snapshot { stop, phase, idle, parts: vec![bus], ill: None, success: 0, fail: 0, lag: None }
    }

    fn body(stops: &[Snapshot]) -> String {
        serde_json::to_string(&check(stops)).unwrap()
    }

    #[test]
    fn no_traffic_is_healthy() {
        assert_eq!(body(&[well("a")]), r#"{"status":"ok","message":"No messages in last 60.0s","bus":"ok"}"#);
    }

    #[test]
    fn a_success_rate_from_0_95_is_healthy() {
        let counted = |success, fail| [Snapshot { success, fail, ..well("a") }];
        let one = r#"{"status":"ok","message":"Success rate: 1.0 (expected: 0.95)","success":1,"fail":0,"bus":"ok"}"#;
        assert_eq!(body(&counted(1, 0)), one);
        assert!(check(&counted(95, 5)).ok);
        assert!(!check(&counted(949, 51)).ok);
        let none =
            r#"{"status":"fail","message":"Success rate: 0.0 (expected: 0.95)","success":0,"fail":2,"bus":"ok"}"#;
        assert_eq!(body(&counted(0, 2)), none);
    }

    #[test]
    fn the_rate_is_that_of_the_last_minute() {
        let health = Health::default();
        health.enter(Phase::Running);
        let second = Duration::from_secs;
        health.lock().window.add(second(5), 0, 10);
        health.lock().window.add(second(40), 10, 0);
        let check = |now| check(&[health.snapshot_at(now, "a")]);
        assert_eq!(
            (check(second(64)).ok, check(second(64)).message.as_str()),
            (false, "Success rate: 0.5 (expected: 0.95)")
        );
        assert_eq!((check(second(65)).ok, check(second(65)).counts), (true, Some((10, 0))));
        assert_eq!((check(second(100)).ok, check(second(100)).counts), (true, None));
    }

    #[test]
    fn the_stops_of_a_process_count_together() {
        let stops = [Snapshot { success: 99, ..well("a") }, Snapshot { fail: 1, ..well("b") }];
        assert_eq!(check(&stops).message, "Success rate: 0.99 (expected: 0.95)");
    }

    #[test]
    fn three_failures_to_connect_are_too_many() {
        let health = Health::default();
        let fail = || health.tried(Needs::Bus, Err::<(), _>("no answer")).unwrap_err();
        fail();
        fail();
        let report = check(&[health.snapshot("a")]);
        assert!(report.ok && report.parts == [("bus", false), ("handler", true)], "{report:?}");
        fail();
        let report = check(&[health.snapshot("a")]);
        assert!(!report.ok);
        assert_eq!(report.message, "Reached max connection fails (3): a: bus: no answer");
        let _ = health.tried(Needs::Bus, Ok::<_, String>(()));
        assert!(check(&[health.snapshot("a")]).ok);
    }

    #[test]
    fn a_part_that_reports_ill_makes_its_process_ill() {
        let mut ill = well("b");
        let trouble = Some("Redis at localhost:6379: refused".to_owned());
        ill.parts.push(Part { name: "cache", trouble, failures: 1, errors: 9 });
        ill.success = 1;
        let mut other = well("c");
        other.parts.push(Part { name: "cache", trouble: None, failures: 0, errors: 0 });
        let body = body(&[well("a"), ill, other]);
        let message = "b: cache: Redis at localhost:6379: refused";
        let expected =
            format!(r#"{{"status":"fail","message":"{message}","success":1,"fail":0,"bus":"ok","cache":"fail"}}"#);
        assert_eq!(body, expected);
    }

    #[test]
    fn a_handler_may_force_it() {
        let ill = Snapshot { ill: Some("no paper".into()), success: 5, ..well("b") };
        let expected = r#"{"status":"fail","message":"b is ill: no paper","success":5,"fail":0,"bus":"ok"}"#;
        assert_eq!(body(&[well("a"), ill]), expected);
    }
}
