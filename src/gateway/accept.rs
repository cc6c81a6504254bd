//! From a request to its answer: who calls, the body, what may be published, once, and what is said then.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    body::{Body, Bytes},
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{
            ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, ORIGIN,
            RETRY_AFTER, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
        },
        request::Parts,
    },
    response::{IntoResponse, Response},
};
use futures_util::StreamExt;
use sha2::{Digest, Sha256};
use smallvec::SmallVec;
use tokio::{task::spawn_blocking, time::timeout};
use uuid::Uuid;

use super::{
    access::Exceeded,
    budget::Hold,
    caller::{Caller, Unauthorized},
    idempotency::Begun,
    ledger::{Entry, Outcome},
    publish::{Events, Unpublished},
    server::App,
    stats::Route,
    topics::LONG,
};
use crate::http::problem::Problem;

/// The ids of a request's events, in its order.
pub type Ids = SmallVec<[Uuid; 1]>;

/// The header with which a caller says that a request is a repeat of another one.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Longest value of that header, in bytes.
const KEY_BYTES: usize = 255;

/// What a caller may wait for before another try, in seconds, where nothing better is known.
const SOON: u64 = 1;
const LATER: u64 = 5;

impl App {
    /// Finds out who calls.
    pub fn caller(&self, headers: &HeaderMap) -> Result<&Caller, Problem> {
        // A page in a browser on this machine reaches what is open to this machine, and is somebody else
        if self.access.is_open() && headers.get(ORIGIN).is_some_and(|origin| !self.is_allowed(origin)) {
            let detail = "this comes from a page that is not among gateway.cors_origins";
            return Err(Problem::new(StatusCode::FORBIDDEN, detail));
        }
        self.access.authenticate(headers).map_err(unauthorized)
    }

    fn is_allowed(&self, origin: &HeaderValue) -> bool {
        self.origins.iter().any(|allowed| allowed == origin || allowed == "*")
    }

    /// The body of a request, and the share of memory that it has.
    pub async fn body(&self, headers: &HeaderMap, body: Body) -> Result<(Bytes, Hold), Problem> {
        if headers.get_all(CONTENT_ENCODING).iter().any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
            let detail = "the body is compressed, as Content-Encoding says: send it as it is";
            let problem = Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail);
            return Err(problem.header(ACCEPT_ENCODING, HeaderValue::from_static("identity")));
        }
        let most = self.body_bytes;
        let too_long = || {
            let detail = format!("the body is longer than {most} bytes: send less at once");
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
        };
        let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if length.is_some_and(|length| length > most as u64) {
            return Err(too_long());
        }
        let mut hold = self.budget.hold();
        let reading = async {
            let mut stream = body.into_data_stream();
            let (mut first, mut all) = (Bytes::new(), Vec::new());
            let mut read = 0;
            while let Some(chunk) = stream.next().await {
                let chunk = chunk.map_err(|_| Problem::bad_request("the body ends before its end"))?;
                read += chunk.len();
                if read > most {
                    return Err(too_long());
                }
                if !hold.take(chunk.len()) {
                    return Err(full());
                }
                match (first.is_empty(), all.is_empty()) {
                    (true, true) => first = chunk,
                    (_, true) => all = [&*first, &*chunk].concat(),
                    _ => all.extend_from_slice(&chunk),
                }
            }
            Ok(if all.is_empty() { first } else { all.into() })
        };
        let slow = || {
            let detail = format!("the body did not arrive within {}", humantime::format_duration(self.body_timeout));
            Problem::new(StatusCode::REQUEST_TIMEOUT, detail)
        };
        let read = timeout(self.body_timeout, reading).await.map_err(|_| slow())??;
        Ok((read, hold))
    }

    /// Publishes what a caller brings, and gives the ids under which it is on the bus. What is known by a key is published
    /// once: a repeat has the ids of the first time.
    pub async fn publish(
        self: &Arc<Self>,
        caller: &str,
        events: Events,
        key: Option<Entry>,
        hold: Hold,
    ) -> Result<Ids, Problem> {
        let guest = self.access.guest(caller);
        let count = events.len();
        if let Some(guest) = guest
            && let Err(exceeded) = guest.take(count, SystemTime::now())
        {
            // Whoever asks again for what is on the bus takes nothing by that
            return self.repeated(caller, events, key).await.ok_or_else(|| exceeds(exceeded, count));
        }
        let published = match key.is_none() && events.iter().all(|event| event.idempotency_key.is_none()) {
            true => self.publish_now(events, hold).await,
            false => {
                let task = tokio::spawn(Arc::clone(self).publish_once(caller.into(), events, key, hold));
                match timeout(self.timeout, task).await {
                    Ok(Ok(published)) => published,
                    // It has panicked, or the runtime ends
                    Ok(Err(_)) => Err(refused(Unpublished::Ended)),
                    Err(_) => Err(self.unconfirmed()),
                }
            }
        };
        if let (Some(guest), Err(problem)) = (guest, &published)
            && !problem.unsure
        {
            guest.give_back(count);
        }
        published
            .map(|(ids, repeated)| {
                if let Some(guest) = guest {
                    guest.give_back(repeated);
                }
                ids
            })
            .map_err(Into::into)
    }

    /// The ids of what is on the bus already, as is known by keys; `None` where any of it is not.
    async fn repeated(&self, caller: &str, mut events: Events, key: Option<Entry>) -> Option<Ids> {
        let entries = entries(&events, key);
        if entries.is_empty() {
            return None;
        }
        let known = self.ledger.look_up(&caller.into(), entries).await.ok()?.ok()?;
        let all = known.iter().all(|known| matches!(known, Begun::Done { .. }));
        all.then(|| take_known(&mut events, &known).0)
    }

    async fn publish_now(&self, events: Events, hold: Hold) -> Result<(Ids, usize), Failed> {
        let ids = events.iter().map(|event| event.id).collect();
        let answer = self.lanes.publish(events, hold).map_err(refused)?;
        match timeout(self.timeout, answer).await {
            Ok(answer) => answer.unwrap_or(Err(Unpublished::Ended)).map_err(refused)?,
            Err(_) => return Err(self.unconfirmed()),
        }
        Ok((ids, 0))
    }

    /// The same for what is known by keys, to its end whether somebody waits for that or not. Gives the ids, and how many
    /// events were on the bus already.
    async fn publish_once(
        self: Arc<Self>,
        caller: Arc<str>,
        mut events: Events,
        key: Option<Entry>,
        hold: Hold,
    ) -> Result<(Ids, usize), Failed> {
        let one_for_all = key.is_some();
        let entries = entries(&events, key);
        let keys: Vec<_> = entries.iter().map(|entry| entry.key.clone()).collect();
        let begun = self.ledger.begin(&caller, entries).await.map_err(|_| Failed::sure(full()))?;
        let begun =
            begun.map_err(|_| Failed::sure(Problem::later(LATER, "the keys of requests cannot be kept at present")))?;
        if let Some(problem) = conflict(&begun) {
            let ours = keys.into_iter().zip(&begun).filter_map(|(key, begun)| match begun {
                Begun::New => Some((key, Outcome::Nothing)),
                Begun::Again { .. } => Some((key, Outcome::Unsure)),
                _ => None,
            });
            self.ledger.end(&caller, ours.collect()).await;
            return Err(Failed::sure(problem));
        }
        let (ids, repeated) = take_known(&mut events, &begun);
        let ours: Vec<_> =
            keys.into_iter().zip(&begun).filter(|(_, begun)| !matches!(begun, Begun::Done { .. })).collect();
        if events.is_empty() {
            return Ok((ids, repeated));
        }
        let published = match self.lanes.publish(events, hold) {
            Ok(answer) => answer.await.unwrap_or(Err(Unpublished::Ended)),
            Err(why) => Err(why),
        };
        let outcome = |(index, (key, begun)): (usize, (String, &Begun))| {
            (key, outcome(&published, begun, (!one_for_all).then_some(index)))
        };
        let outcomes = ours.into_iter().enumerate().map(outcome).collect();
        self.ledger.end(&caller, outcomes).await;
        published.map(|()| (ids, repeated)).map_err(refused)
    }

    fn unconfirmed(&self) -> Failed {
        let within = humantime::format_duration(self.timeout);
        let detail = format!(
            "the bus has not confirmed it within {within}; it may be published still: with an Idempotency-Key, a repeat does no harm"
        );
        Failed { problem: Problem::later(LATER, detail), unsure: true }
    }
}

/// Why not all of it is known to be on the bus.
struct Failed {
    problem: Problem,
    /// Some of it may be, or may come to be.
    unsure: bool,
}

impl Failed {
    fn sure(problem: Problem) -> Self {
        Self { problem, unsure: false }
    }
}

impl From<Failed> for Problem {
    fn from(failed: Failed) -> Self {
        failed.problem
    }
}

/// The key that a request has for all of its events, where it has one.
pub fn key_of(parts: &Parts, body: &[u8]) -> Result<Option<Entry>, Problem> {
    let mut values = parts.headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let key = value.to_str().ok().filter(|key| !key.is_empty() && key.len() <= KEY_BYTES);
    let Some(key) = key.filter(|_| values.next().is_none()) else {
        let detail = format!("Idempotency-Key must be there once, with 1 to {KEY_BYTES} visible characters of ASCII");
        return Err(Problem::bad_request(detail));
    };
    let mut fingerprint = Sha256::new();
    let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
    let mut add = |part: &[u8]| {
        fingerprint.update((part.len() as u64).to_le_bytes());
        fingerprint.update(part);
    };
    for part in [parts.method.as_str().as_bytes(), target.as_bytes(), body] {
        add(part);
    }
    // By its type a body is read, and an event may have its attributes in headers
    let names = parts.headers.keys().map(HeaderName::as_str);
    let mut names: Vec<_> = names.filter(|name| *name == CONTENT_TYPE.as_str() || name.starts_with("ce-")).collect();
    names.sort_unstable();
    for name in names {
        for value in parts.headers.get_all(name) {
            add(name.as_bytes());
            add(value.as_bytes());
        }
    }
    Ok(Some(Entry { key: format!("request {key}"), fingerprint: fingerprint.finalize().into(), ids: Vec::new() }))
}

impl Entry {
    /// The same for these events.
    pub fn of(self, events: &Events) -> Self {
        Self { ids: events.iter().map(|event| event.id).collect(), ..self }
    }
}

/// By what `events` are known: the key of the request, or else the keys of their own.
fn entries(events: &Events, key: Option<Entry>) -> Vec<Entry> {
    match key {
        Some(key) => vec![key],
        None => events.iter().filter_map(entry).collect(),
    }
}

/// The entry of an event that has a key of its own.
fn entry(event: &super::event::Event) -> Option<Entry> {
    let key = format!("event {}", event.idempotency_key.as_ref()?);
    Some(Entry { key, fingerprint: event.fingerprint(), ids: vec![event.id] })
}

/// Why a request cannot be published at present, or at all, by what is known of its keys.
fn conflict(begun: &[Begun]) -> Option<Problem> {
    if begun.contains(&Begun::Differs) {
        let detail = "the same key came with another request before: Idempotency-Key, or source and id of a CloudEvent";
        return Some(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail));
    }
    begun.contains(&Begun::UnderWay).then(|| {
        let detail = "a request with the same key is being published; ask again for what became of it";
        Problem::new(StatusCode::CONFLICT, detail).header(RETRY_AFTER, SOON.into())
    })
}

/// What became of a key, by what the bus said of all events that were to be published. `event` is the index of the key's own
/// among these, `None` where the key is of all.
fn outcome(published: &Result<(), Unpublished>, begun: &Begun, event: Option<usize>) -> Outcome {
    match (published, event, begun) {
        (Ok(()), ..) => Outcome::Done,
        (Err(Unpublished::Partly { refused, .. }), Some(event), _) if refused.binary_search(&event).is_err() => {
            Outcome::Done
        }
        (Err(Unpublished::Partly { .. }), None, _) | (Err(Unpublished::Ended), ..) | (.., Begun::Again { .. }) => {
            Outcome::Unsure
        }
        (Err(_), ..) => Outcome::Nothing,
    }
}

/// Leaves of `events` those that are to be published, with the ids that they have. Gives the ids of all, and how many are on the
/// bus already. `begun` is of each event, or the one of all.
fn take_known(events: &mut Events, begun: &[Begun]) -> (Ids, usize) {
    let (all, mut repeated) = (std::mem::take(events), 0);
    let mut ids = Ids::new();
    // Of one key for all, each event takes its own id; of keys of their own, each takes the only one
    let one = begun.len() == 1;
    for (index, event) in all.into_iter().enumerate() {
        let (of, at) = if one { (&begun[0], index) } else { (&begun[index], 0) };
        match of {
            Begun::Done { ids: known } => {
                repeated += 1;
                ids.push(known.get(at).copied().unwrap_or(event.id));
            }
            Begun::Again { ids: known } => {
                let id = known.get(at).copied().unwrap_or(event.id);
                ids.push(id);
                events.push(event.with_id(id));
            }
            _ => {
                ids.push(event.id);
                events.push(event);
            }
        }
    }
    (ids, repeated)
}

/// No place for what comes.
pub fn full() -> Problem {
    Problem::later(SOON, "too much waits for the bus already; nothing of this is published")
}

fn refused(why: Unpublished) -> Failed {
    let unsure = matches!(why, Unpublished::Partly { .. } | Unpublished::Ended);
    let problem = match why {
        Unpublished::Full => full(),
        Unpublished::Away => Problem::later(LATER, "the bus does not answer; nothing of this is published"),
        Unpublished::Late => Problem::later(LATER, "the bus takes nothing at present; nothing of this is published"),
        Unpublished::Refused(reason) => Problem::new(StatusCode::PAYLOAD_TOO_LARGE, reason),
        Unpublished::Partly { reason, .. } => {
            let detail = format!("{reason}; the other events of the request are published");
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
        }
        Unpublished::Ended => Problem::later(LATER, "this server ends; it may be published still"),
    };
    Failed { problem, unsure }
}

fn exceeds(exceeded: Exceeded, events: usize) -> Problem {
    let later = |wait: Duration, detail: &str| {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).header(RETRY_AFTER, seconds.max(1).into())
    };
    match exceeded {
        Exceeded::Rate(wait) => later(wait, "more events than the rate of this caller allows; wait"),
        Exceeded::Quota(wait) => {
            later(wait, "more events than the quota of this caller allows for a day; wait for the next day of UTC")
        }
        Exceeded::Burst(most) => {
            let detail = format!("{events} events at once, more than the {most} that this caller may send: send fewer");
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
        }
    }
}

pub fn unauthorized(why: Unauthorized) -> Problem {
    let challenge = HeaderValue::from_static(why.challenge());
    Problem::new(StatusCode::UNAUTHORIZED, why.to_string()).header(WWW_AUTHENTICATE, challenge)
}

/// What `read` makes of a body. A long one is read in another thread, so that no other connection waits for that.
pub async fn reading<T: Send + 'static>(
    body: Bytes,
    read: impl FnOnce(&[u8]) -> T + Send + 'static,
) -> Result<T, Problem> {
    if body.len() < LONG {
        return Ok(read(&body));
    }
    spawn_blocking(move || read(&body)).await.map_err(|_| refused(Unpublished::Ended).into())
}

/// 202 with the id of the one event.
pub fn accepted_one(id: Uuid) -> Response {
    let mut text = Uuid::encode_buffer();
    let text = id.hyphenated().encode_lower(&mut text);
    let mut response = accepted(format!("{{\"id\":\"{text}\"}}"));
    if let Ok(location) = HeaderValue::try_from(format!("/journeys/{text}")) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

/// 202 with the ids of all, in their order.
pub fn accepted_all(ids: &[Uuid]) -> Response {
    let mut body = String::with_capacity(10 + 39 * ids.len());
    body.push_str("{\"ids\":[");
    for (index, id) in ids.iter().enumerate() {
        let mut text = Uuid::encode_buffer();
        body.push_str(if index > 0 { ",\"" } else { "\"" });
        body.push_str(id.hyphenated().encode_lower(&mut text));
        body.push('"');
    }
    body.push_str("]}");
    accepted(body)
}

fn accepted(body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::ACCEPTED;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

impl App {
    /// The answer, counted, with the headers that all have.
    pub fn tell(&self, route: Route, answer: Result<Response, Problem>) -> Response {
        let mut response = answer.unwrap_or_else(IntoResponse::into_response);
        self.stats.answered(route, response.status().as_u16());
        let headers = response.headers_mut();
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn fingerprint(headers: &[(&str, &str)]) -> [u8; 32] {
        let mut request = Request::post("/topics/Source").header(IDEMPOTENCY_KEY, "1");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        key_of(&parts, b"{}").unwrap().unwrap().fingerprint
    }

    #[test]
    fn a_request_is_known_by_the_headers_that_say_what_it_brings_and_by_no_others() {
        let (json, lines) = (("content-type", "application/json"), ("content-type", "application/x-ndjson"));
        let (one, two, source) = (("ce-id", "1"), ("ce-id", "2"), ("ce-source", "s"));
        let same = fingerprint(&[json, one, source]);
        assert_eq!(same, fingerprint(&[source, ("x-request-id", "7"), one, json]));
        for other in [
            &[json][..],
            &[],
            &[lines, one, source],
            &[json, two, source],
            &[json, one],
            &[json, one, two, source],
            &[json, ("ce-id", "1ce-source"), ("ce-source", "s")],
        ] {
            assert_ne!(same, fingerprint(other), "{other:?}");
        }
        assert_ne!(fingerprint(&[one, two]), fingerprint(&[two, one]));
    }

    #[test]
    fn of_a_request_that_is_partly_refused_each_event_that_has_a_key_has_an_outcome_of_its_own() {
        let again = Begun::Again { ids: Vec::new() };
        let partly = Err(Unpublished::Partly { refused: vec![1, 3], reason: "too long".to_owned() });
        for (begun, event, expected) in [
            (&Begun::New, Some(0), Outcome::Done),
            (&Begun::New, Some(1), Outcome::Nothing),
            (&again, Some(2), Outcome::Done),
            (&again, Some(3), Outcome::Unsure),
            (&Begun::New, None, Outcome::Unsure),
            (&again, None, Outcome::Unsure),
        ] {
            assert_eq!(outcome(&partly, begun, event), expected, "{begun:?} {event:?}");
        }
        let refused = Err(Unpublished::Refused("too long".to_owned()));
        assert_eq!(outcome(&refused, &Begun::New, Some(0)), Outcome::Nothing);
        assert_eq!(outcome(&refused, &again, None), Outcome::Unsure);
        assert_eq!(outcome(&Ok(()), &again, None), Outcome::Done);
        assert_eq!(outcome(&Err(Unpublished::Ended), &Begun::New, None), Outcome::Unsure);
    }

    #[test]
    fn what_is_partly_published_is_told_so_and_counts() {
        let partly = Unpublished::Partly { refused: vec![0], reason: "too long".to_owned() };
        let Failed { problem, unsure } = refused(partly);
        assert!(unsure);
        let said = format!("{problem:?}");
        assert!(said.contains("413"), "{said}");
        assert!(said.contains("too long; the other events of the request are published"), "{said}");
        assert!(!refused(Unpublished::Refused("too long".to_owned())).unsure);
    }
}
