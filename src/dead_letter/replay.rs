//! What is sent where a dead letter is replayed.
//!
//! The message as it was, key and time too, goes to the stop that rejected it; of its record headers those that say why it
//! was rejected are gone, but for the history of its rejections. How often that was done is counted in its slip
//! (`replays`, see [`crate::slip::resume`]). What has no slip to count in (a raw record that the busdriver rejected, or what
//! is no message at all) goes back byte for byte, and is counted in the record header `metrobus-replays`.

use std::borrow::Cow;

use super::{Letter, PREFIX, assignment::Assignment, history};
use crate::{
    bus::{Headers, Outbox, Record, Topic},
    deliver::SUBSCRIBER_HEADER,
    handler::Verdict,
    json::scan::Tape,
    rules::{self, Rules},
    slip::{
        Checked, Limits, Malformed, Message, Stops,
        resume::{self, spliced},
    },
};

/// The record header that counts replays where no slip does. Its name is not of those that a rejection replaces.
const REPLAYS: &str = "metrobus-replays";

/// How often the message of a record was replayed.
pub(super) fn replays_of(record: &Record<'_>) -> u32 {
    let header = record.headers.get(REPLAYS).and_then(|count| std::str::from_utf8(count).ok()?.parse().ok());
    header.unwrap_or(0).max(record.value.map_or(0, resume::replays))
}

/// From where a message goes on.
pub enum Way {
    /// From the stop that rejected it.
    Rest,
    /// From another stop of its route.
    From(Topic),
    /// From the first stop of the route that these rules give it.
    Replan(Box<Rules>),
}

/// How dead letters are to be replayed.
pub struct Replay {
    pub limits: Limits,
    /// The topics that may be sent to.
    pub stops: Stops,
    /// The topic where journeys begin: what lies there has no slip yet, whatever it looks like.
    pub source: Topic,
    pub way: Way,
    /// What is set in each payload before.
    pub set: Vec<Assignment>,
}

/// A message that is sent again.
#[derive(Debug, PartialEq, Eq)]
pub struct Sent<'a> {
    pub to: Topic,
    /// How often it has been now.
    pub replays: u32,
    /// The id that it goes on with, where it has one.
    pub id: Option<String>,
    /// The rule that chose its new route.
    pub rule: Option<String>,
    headers: Vec<u8>,
    value: Option<Cow<'a, [u8]>>,
}

impl Sent<'_> {
    /// Adds it to `outbox`; `record` is the letter.
    pub fn write(&self, record: &Record<'_>, outbox: &mut Outbox) {
        let headers = Headers::from_encoded(&self.headers);
        outbox.publish_with(&self.to, record.timestamp, record.key, headers, self.value.as_deref());
    }
}

impl Replay {
    /// What is sent for the letter `record`, or why it has to stay where it is.
    pub fn plan<'a>(&self, record: &Record<'a>, letter: &Letter) -> Result<Sent<'a>, String> {
        let at = letter.origin.as_ref().filter(|_| letter.stop.is_some());
        let at = at.and_then(|(topic, ..)| Topic::new(topic).ok()).ok_or("not a dead letter of metrobus")?;
        let value = match self.set.is_empty() {
            true => record.value.map(Cow::Borrowed),
            false => Some(Cow::Owned(self.edited(record)?)),
        };
        match &self.way {
            Way::Replan(rules) => self.replanned(rules, record, value.as_deref(), letter, &at),
            Way::Rest => self.resumed(record, value, letter, &at, None),
            Way::From(stop) => self.resumed(record, value, letter, &at, Some(stop)),
        }
    }

    fn resumed<'a>(
        &self,
        record: &Record<'a>,
        value: Option<Cow<'a, [u8]>>,
        letter: &Letter,
        at: &Topic,
        from: Option<&Topic>,
    ) -> Result<Sent<'a>, String> {
        let to = from.unwrap_or(at).clone();
        // Topics that somebody subscribes to come and go with their subscribers
        let delivered = from.is_none() && record.headers.get(SUBSCRIBER_HEADER).is_some();
        if !delivered && !self.stops.iter().any(|stop| *stop == to) {
            return Err(format!("no stop here reads {to} any more, and `stops` does not list it"));
        }
        let replays = letter.replays.saturating_add(1);
        let (rule, id) = (None, self.id(letter, at).map(str::to_owned));
        let sent =
            |headers, value| Sent { to: to.clone(), replays, id: id.clone(), rule: rule.clone(), headers, value };
        let moves = from.filter(|from| *from != at);
        let mut no_slip = resume::NoWay::NoSlip.to_string();
        if *at != self.source {
            match Message::parse(Record { value: value.as_deref(), ..*record }, &self.limits, &self.stops) {
                Ok(message) if resume::has_slip(&message) => {
                    let resumed = resume::resumed(&message, at, from, replays).map_err(|error| error.to_string())?;
                    match self.fits(&resumed) {
                        Ok(()) => return Ok(sent(headers(record, None), Some(Cow::Owned(resumed)))),
                        Err(too_long) if moves.is_some() => return Err(too_long),
                        // It is only the count that is too much
                        Err(_) => {}
                    }
                }
                Ok(_) => {}
                Err(malformed) => no_slip = malformed.to_string(),
            }
        }
        match moves {
            Some(_) => Err(no_slip),
            None => Ok(sent(headers(record, Some(replays)), value)),
        }
    }

    fn replanned<'a>(
        &self,
        rules: &Rules,
        record: &Record<'a>,
        value: Option<&[u8]>,
        letter: &Letter,
        at: &Topic,
    ) -> Result<Sent<'a>, String> {
        // What the rules see is what the busdriver saw
        let cleaned = headers(record, None);
        let raw = Record { value, headers: Headers::from_encoded(&cleaned), ..*record };
        let mut message = Message::parse_untrusted(raw, &self.limits).map_err(|malformed| malformed.to_string())?;
        let now = rules::now();
        let judgement = rules.judge(&message, now);
        let rule = judgement.rule_name().map(str::to_owned);
        match judgement.carry_out(&mut message, now, |message| message.id_to_depart_with()) {
            Verdict::Drop(reason) => return Err(format!("the rules drop it now: {reason}")),
            Verdict::Reject(reason) | Verdict::Retry(reason) => return Err(format!("the rules reject it: {reason}")),
            Verdict::Forward | Verdict::Finish => {}
        }
        let to = message.next_stop().ok_or("the rules give it no route")?.clone();
        let (id, replays) = (self.id(letter, at), letter.replays.saturating_add(1));
        let mut departed = Vec::new();
        message.write_next(&mut departed);
        let value = resume::departed(&departed, id, replays).ok_or("its new slip cannot be written")?;
        self.fits(&value)?;
        let new = message.departs_with().map(|id| id.to_string());
        let (id, value) = (id.map(str::to_owned).or(new), Some(Cow::Owned(value)));
        Ok(Sent { to, replays, id, rule, headers: headers(record, None), value })
    }

    /// The id that the message has; where journeys begin it has none yet, whatever it says.
    pub fn id<'a>(&self, letter: &'a Letter, at: &Topic) -> Option<&'a str> {
        letter.id.as_deref().filter(|_| *at != self.source)
    }

    fn fits(&self, value: &[u8]) -> Result<(), String> {
        let (bytes, limit) = (value.len(), self.limits.message_bytes);
        if bytes > limit { Err(Malformed::TooLong { bytes, limit }.to_string()) } else { Ok(()) }
    }

    /// The value with all that is to be set in its payload.
    fn edited(&self, record: &Record<'_>) -> Result<Vec<u8>, String> {
        let message = Message::parse_untrusted(*record, &self.limits);
        let mut message = message.map_err(|malformed| format!("nothing can be set in it: {malformed}"))?;
        for assignment in &self.set {
            assignment.carry_out(&mut message.payload)?;
        }
        let mut payload = Vec::new();
        message.payload.write(&mut payload);
        let value = spliced(message.whole(), message.payload.raw(), &payload);
        match Checked::new(Some(&value), &self.limits, &mut Tape::default()) {
            Ok(_) => Ok(value),
            Err(malformed) => Err(format!("with what is set in it: {malformed}")),
        }
    }
}

/// The record headers that go on with the message, with the count of replays where no slip has it.
fn headers(record: &Record<'_>, replays: Option<u32>) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in record.headers {
        if (!name.starts_with(PREFIX) || name == history::HEADER) && name != REPLAYS {
            Headers::push(&mut out, name, value);
        }
    }
    if let Some(replays) = replays {
        Headers::push(&mut out, REPLAYS, Some(replays.to_string().as_bytes()));
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use uuid::Uuid;

    use super::*;
    use crate::{bus::Batch, config::Config, dead_letter::DeadLetters};

    fn topic(name: &str) -> Topic {
        Topic::new(name).unwrap()
    }

    fn replay(way: Way, set: &[&str]) -> Replay {
        let stops = Stops::new(["Source", "AddEmail", "WhiteList", "Log"].map(topic));
        let set = set.iter().map(|text| Assignment::parse(text).unwrap()).collect();
        Replay { limits: Limits::default(), stops, source: topic("Source"), way, set }
    }

    fn rules(toml: &str) -> Way {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rules.toml");
        std::fs::write(&file, toml).unwrap();
        Way::Replan(Box::new(Rules::new(&Config::load(Some(&file), [("", "")]).unwrap()).unwrap()))
    }

    /// The dead letter that the stop on `at` makes of a value with these headers, and what `replay` makes of that: topic,
    /// count, headers beside its history, value.
    type Done = (String, u32, Vec<(String, Option<Vec<u8>>)>, Option<Vec<u8>>);

    fn done(replay: &Replay, at: &str, headers: &[(&str, &str)], value: Option<&[u8]>) -> Result<Done, String> {
        let letters = DeadLetters { stop: "stop".into(), topic: topic(at), error: topic("Error") };
        let mut encoded = Vec::new();
        headers.iter().for_each(|(name, value)| Headers::push(&mut encoded, name, Some(value.as_bytes())));
        let mut batch = Batch::default();
        let headers = Headers::from_encoded(&encoded);
        batch.push(Record { partition: 1, offset: 2, timestamp: 77, key: Some(b"\xffk"), headers, value });
        let mut outbox = Outbox::default();
        letters.write(&mut outbox, 0, &batch.get(0), "reason", 1);
        let letter = outbox.iter(&batch).next().unwrap();
        let record = Record { headers: letter.headers, ..batch.get(0) };
        let sent = replay.plan(&record, &Letter::read(&record))?;
        let mut out = Outbox::default();
        sent.write(&record, &mut out);
        let none = Batch::default();
        let written = out.iter(&none).next().unwrap();
        assert_eq!((written.key, written.timestamp), (Some(&b"\xffk"[..]), 77));
        let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
        assert!(written.headers.get(history::HEADER).is_some_and(|history| history.starts_with(b"[")), "it goes on");
        let others = written.headers.into_iter().filter(|(name, _)| *name != history::HEADER);
        let headers = others.map(|(name, value)| (name.to_owned(), owned(value))).collect();
        Ok((written.topic.to_string(), sent.replays, headers, owned(written.value)))
    }

    fn value_of(done: Result<Done, String>) -> String {
        String::from_utf8(done.unwrap().3.unwrap()).unwrap()
    }

    const VALUE: &str = r#"{"header":{"route":["Log"],"historical_route":["AddEmail","WhiteList"],"id":"a"},"payload":{"n": 2.50,"in":{"x":1}}}"#;

    #[test]
    fn a_message_goes_back_to_its_stop_without_the_headers_of_its_rejection() {
        let rest = replay(Way::Rest, &[]);
        let (to, replays, headers, value) =
            done(&rest, "WhiteList", &[("x", "1"), (REPLAYS, "2")], Some(VALUE.as_bytes())).unwrap();
        assert_eq!((to.as_str(), replays), ("WhiteList", 3));
        assert_eq!(headers, [("x".to_owned(), Some(b"1".to_vec()))], "the slip counts now");
        assert_eq!(value.unwrap(), VALUE.replace(r#""id":"a""#, r#""id":"a","replays":3"#).into_bytes());
    }

    #[test]
    fn what_has_no_slip_goes_back_byte_for_byte() {
        let rest = replay(Way::Rest, &[]);
        let counted = vec![(REPLAYS.to_owned(), Some(b"1".to_vec()))];
        for (at, value) in [
            ("Source", Some(VALUE.as_bytes())), // whatever it looks like
            ("Source", None),
            ("WhiteList", Some(&b"\xff{"[..])),
            ("WhiteList", Some(b"{}")),
            ("WhiteList", Some(br#"{"header":{"route":["Nowhere"]},"payload":{}}"#)),
        ] {
            let done = done(&rest, at, &[], value).unwrap();
            assert_eq!(done, (at.to_owned(), 1, counted.clone(), value.map(<[u8]>::to_vec)));
        }
        // Only the count would make it too long
        let limits = Limits { message_bytes: VALUE.len(), ..Limits::default() };
        let tight = Replay { limits, ..replay(Way::Rest, &[]) };
        assert_eq!(value_of(done(&tight, "WhiteList", &[], Some(VALUE.as_bytes()))), VALUE);
    }

    #[test]
    fn what_cannot_be_done_is_said() {
        let from = |stop: &str| replay(Way::From(topic(stop)), &[]);
        let way = |toml: &str| replay(rules(toml), &[]);
        let rule = |end: &str| way(&format!("[[busdriver.rule]]\nname = \"r\"\n{end}\n"));
        let limits = Limits { message_bytes: VALUE.len(), ..Limits::default() };
        for (replay, at, value, expected) in [
            (replay(Way::Rest, &[]), "Gone", VALUE, "no stop here reads Gone any more, and `stops` does not list it"),
            (from("Source"), "WhiteList", VALUE, "Source is not on its route, AddEmail → WhiteList → Log"),
            (from("Log"), "Source", VALUE, "it has no slip"),
            (from("Log"), "WhiteList", "{}", "it has no slip"),
            (from("Log"), "WhiteList", "{", "not JSON: EOF while parsing an object at line 1 column 1"),
            (
                Replay { limits, ..from("AddEmail") },
                "WhiteList",
                VALUE,
                "128 bytes, more than limits.message_bytes = 116",
            ),
            (rule("drop = \"old\""), "WhiteList", VALUE, "the rules drop it now: old"),
            (rule("reject = \"odd\""), "WhiteList", VALUE, "the rules reject it: odd"),
            (rule("when = \"false\"\nroute = [\"Log\"]"), "WhiteList", VALUE, "the rules reject it: no rule matches"),
            (rule("route = [\"Log\"]"), "WhiteList", "[]", "not a JSON object"),
            (
                replay(Way::Rest, &["payload.n.x=1"]),
                "WhiteList",
                VALUE,
                "payload.n is no object, so nothing can be set in it",
            ),
            (replay(Way::Rest, &["payload.n=1"]), "WhiteList", "[]", "nothing can be set in it: not a JSON object"),
        ] {
            assert_eq!(done(&replay, at, &[], Some(value.as_bytes())).unwrap_err(), expected);
        }
        let deep = format!("payload.n={}{}", "[".repeat(126), "]".repeat(126));
        let error = done(&replay(Way::Rest, &[&deep]), "WhiteList", &[], Some(VALUE.as_bytes()));
        assert!(error.is_ok(), "as deep as may be: {error:?}");
        let deep = format!("payload.n={}{}", "[".repeat(127), "]".repeat(127));
        let error = done(&replay(Way::Rest, &[&deep]), "WhiteList", &[], Some(VALUE.as_bytes())).unwrap_err();
        assert_eq!(error, "with what is set in it: nested deeper than limits.depth = 128");
        let foreign =
            Record { partition: 0, offset: 0, timestamp: 0, key: None, headers: Headers::default(), value: None };
        let error = replay(Way::Rest, &[]).plan(&foreign, &Letter::read(&foreign)).unwrap_err();
        assert_eq!(error, "not a dead letter of metrobus");
    }

    #[test]
    fn rules_give_a_new_route_and_the_id_stays() {
        let replan = replay(
            rules(
                "[[busdriver.rule]]\nname = \"r\"\nwhen = \"payload.n == 3\"\nroute = [\"WhiteList\", \"Log\"]\nset = { t = 'payload.n' }",
            ),
            &["payload.n=3"],
        );
        let value: serde_json::Value =
            serde_json::from_str(&value_of(done(&replan, "AddEmail", &[], Some(VALUE.as_bytes())))).unwrap();
        let header = &value["header"];
        assert_eq!((&header["rule"], &header["id"], &header["replays"]), (&"r".into(), &"a".into(), &1.into()));
        assert_eq!(header["route"].to_string() + &header["historical_route"].to_string(), r#"["Log"]["WhiteList"]"#);
        assert_eq!(value["payload"].to_string(), r#"{"in":{"x":1},"n":3,"t":3}"#);
        // Where journeys begin an id is none, whatever it says
        let raw = done(&replan, "Source", &[], Some(br#"{"header":{"id":"forged"},"payload":{"n":1}}"#)).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&raw.3.unwrap()).unwrap();
        assert!(Uuid::parse_str(value["header"]["id"].as_str().unwrap()).is_ok());
    }

    proptest! {
        #[test]
        fn any_bytes_are_sent_again_or_refused_and_never_changed(value in prop::option::of(prop_oneof![
            prop::collection::vec(any::<u8>(), 0..60),
            "\\{\"header\":\\{\"route\":\\[\"(Log|X)\"\\](,\"id\":.{0,4})?\\},\"payload\":.{0,12}\\}".prop_map(String::into_bytes),
        ])) {
            let (_, replays, headers, sent) = done(&replay(Way::Rest, &[]), "WhiteList", &[], value.as_deref()).unwrap();
            prop_assert_eq!(replays, 1);
            let counted_beside = !headers.is_empty();
            if counted_beside {
                prop_assert_eq!(sent, value);
            } else {
                let text = String::from_utf8(sent.unwrap()).unwrap();
                prop_assert_eq!(text.replacen(",\"replays\":1}", "}", 1), String::from_utf8(value.unwrap()).unwrap());
            }
        }
    }
}
