//! `POST /topics/{topic}`: a JSON object, lines of them, or CloudEvents.

use std::sync::Arc;

use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE, request::Parts},
    response::Response,
};
use percent_encoding::percent_decode_str;
use smallvec::smallvec;
use tokio::task::spawn_blocking;

use super::{
    accept::{accepted_all, accepted_one, full, key_of},
    budget::Hold,
    caller::Caller,
    cloud_events::{self, Kind, Wrong, essence, is_utf8},
    event::{EVENT_BYTES, Event},
    publish::Events,
    server::App,
    stats::Route,
};
use crate::{
    bus::Topic,
    http::problem::Problem,
    slip::{Limits, Malformed},
};

/// Where the topics are.
pub const PATH: &str = "/topics/";

/// A body that is longer is read in another thread, so that nobody waits for that.
pub const LONG: usize = 128 << 10;

/// What a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Media {
    /// One JSON object.
    Json,
    /// One in each line.
    Lines,
    CloudEvents(Kind),
}

pub async fn post(app: Arc<App>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let answer = publish(&app, parts, body).await;
    app.tell(Route::Topics, answer)
}

async fn publish(app: &Arc<App>, parts: Parts, body: Body) -> Result<Response, Problem> {
    let caller = app.caller(&parts.headers)?;
    let name = parts.uri.path().strip_prefix(PATH).unwrap_or_default();
    let topic = topic(app, caller, &percent_decode_str(name).decode_utf8_lossy())?;
    let media = media(&parts.headers)?;
    let key = record_key(parts.uri.query())?;
    let (body, hold) = app.body(&parts.headers, body).await?;
    let once = key_of(&parts, &body)?;
    let (mut events, hold) = read(app, topic, media, parts, body, hold).await?;
    if let Some(key) = key {
        events.iter_mut().for_each(|event| event.key = Some(key.clone()));
    }
    let once = once.map(|once| once.of(&events));
    let ids = app.publish(&caller.name, events, once, hold).await?;
    Ok(match (media, ids.as_slice()) {
        (Media::Json | Media::CloudEvents(Kind::Binary | Kind::Structured), [id]) => accepted_one(*id),
        (_, ids) => accepted_all(ids),
    })
}

/// The topic of this name, where it may be published to.
fn topic<'a>(app: &'a App, caller: &Caller, name: &str) -> Result<&'a Topic, Problem> {
    let topic = app.topics.iter().find(|topic| topic.as_str() == name);
    let topic = topic
        .ok_or_else(|| Problem::not_found("there is no such topic here: gateway.topics lists those that there are"))?;
    match caller.topics.contain(name) {
        true => Ok(topic),
        false => Err(Problem::new(StatusCode::FORBIDDEN, format!("this caller may not publish to {topic}"))),
    }
}

fn media(headers: &HeaderMap) -> Result<Media, Problem> {
    match cloud_events::detect(headers) {
        Kind::None => {}
        kind => return Ok(Media::CloudEvents(kind)),
    }
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let Some(value) = values.next() else { return Ok(Media::Json) };
    let refused = |detail: &str| Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    // Of two, one reader believes the first and another one the second
    if values.next().is_some() {
        return refused("Content-Type must be there once");
    }
    let value = value.to_str().unwrap_or("?");
    if !is_utf8(value) {
        return refused("the body must be in UTF-8, and Content-Type names another charset");
    }
    match essence(value).as_str() {
        // What curl says where nobody has told it what it sends
        "" | "application/json" | "application/x-www-form-urlencoded" => Ok(Media::Json),
        "application/x-ndjson" | "application/ndjson" => Ok(Media::Lines),
        json if json.ends_with("+json") => Ok(Media::Json),
        _ => refused("Content-Type must be application/json, application/x-ndjson or application/cloudevents+json"),
    }
}

/// `?key=`, the record's key.
fn record_key(query: Option<&str>) -> Result<Option<Vec<u8>>, Problem> {
    let mut key = None;
    for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        match &*name {
            "key" if key.is_none() => key = Some(value.into_owned().into_bytes()),
            "key" => return Err(Problem::bad_request("the query: key is there twice")),
            name => {
                return Err(Problem::bad_request(format!("the query: {name:?} is nothing that is known here, key is")));
            }
        }
    }
    Ok(key)
}

async fn read(
    app: &Arc<App>,
    topic: &Topic,
    media: Media,
    parts: Parts,
    body: Bytes,
    mut hold: Hold,
) -> Result<(Events, Hold), Problem> {
    if body.len() < LONG {
        let events = events(app, topic, media, &parts.headers, &body, &mut hold)?;
        return Ok((events, hold));
    }
    let (app, topic) = (Arc::clone(app), topic.clone());
    let reading = spawn_blocking(move || {
        let events = events(&app, &topic, media, &parts.headers, &body, &mut hold)?;
        Ok((events, hold))
    });
    reading.await.unwrap_or_else(|_| Err(Problem::later(1, "this server ends; nothing of this is published")))
}

fn events(
    app: &App,
    topic: &Topic,
    media: Media,
    headers: &HeaderMap,
    body: &[u8],
    hold: &mut Hold,
) -> Result<Events, Problem> {
    match media {
        Media::Json => {
            let event = Event::new(topic, body, &app.limits);
            Ok(smallvec![event.map_err(|why| malformed(&why, format_args!("the body is {why}")))?])
        }
        Media::Lines => lines(topic, body, &app.limits, app.most_events, hold),
        Media::CloudEvents(_) => {
            let events = cloud_events::events(topic, headers, body, &app.limits, app.most_events, hold);
            let events = events.map_err(|wrong| match wrong {
                Wrong::TooMany(most) => too_many(most),
                Wrong::Full => full(),
                wrong => Problem::new(wrong.status(), wrong.to_string()),
            })?;
            if events.is_empty() {
                return Err(Problem::bad_request("there is no event in the body"));
            }
            Ok(events.into())
        }
    }
}

/// The objects in the lines of `body`; blank lines count for nothing. All of them, or none.
fn lines(topic: &Topic, body: &[u8], limits: &Limits, most: usize, hold: &mut Hold) -> Result<Events, Problem> {
    let mut events = Events::new();
    for (index, line) in body.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        if events.len() == most {
            return Err(too_many(most));
        }
        if !hold.take(line.len() + EVENT_BYTES) {
            return Err(full());
        }
        let number = index + 1;
        let event = Event::new(topic, line, limits);
        events.push(event.map_err(|why| {
            malformed(&why, format_args!("line {number} is {why}; nothing of the body is published"))
                .member("line", number.into())
        })?);
    }
    if events.is_empty() {
        return Err(Problem::bad_request("there is no event in the body"));
    }
    Ok(events)
}

fn too_many(most: usize) -> Problem {
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("more than {most} events: send fewer at once"))
}

fn malformed(why: &Malformed, detail: std::fmt::Arguments<'_>) -> Problem {
    let status = match why {
        Malformed::TooLong { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        _ => StatusCode::BAD_REQUEST,
    };
    Problem::new(status, detail.to_string())
}
