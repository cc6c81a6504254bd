//! Dead letters: listed, shown, sent again, given up. As the command `dead` does, and with the same guarantee.

use std::{ops::ControlFlow, sync::Arc, time::Duration};

use anyhow::Result;
use axum::{
    Json,
    body::to_bytes,
    extract::{
        Path, Query, Request, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::StatusCode,
};
use indicatif::ProgressBar;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};

use super::{App, Problem};
use crate::{
    bus::Bus,
    cli::time,
    config::Config,
    dead_letter::{
        Filter, Place,
        desk::{Desk, Patience, object, whole},
        now_ms,
        repair::{self, Act, Counts, Fate, Order, Selection},
        replay::{Replay, Way},
    },
    rules::Rules,
    shutdown::Shutdown,
    slip::Stops,
};

/// How long somebody waits for their turn.
const TURN: Duration = Duration::from_secs(10);

/// How long the bus is waited for, and how long all reading may take.
const PATIENCE: Patience = Patience {
    connect: Some(Duration::from_secs(5)),
    again: Some(Duration::from_secs(5)),
    reading: Some(Duration::from_secs(20)),
};

/// By then there is an answer; what was begun goes on.
const LATEST: Duration = Duration::from_secs(60);

/// How long the body of a request may take.
const BODY: Duration = Duration::from_secs(10);

/// Bytes of the body of a request, at most.
const BODY_BYTES: usize = 64 << 10;

/// Letters in one answer.
const MOST: usize = 1000;

/// Where letters are read and dealt with, by one at a time.
pub struct Desks {
    bus: Arc<dyn Bus>,
    config: Arc<Config>,
    shutdown: Shutdown,
    turn: Arc<Semaphore>,
}

impl Desks {
    pub fn new(bus: Arc<dyn Bus>, config: Arc<Config>, shutdown: Shutdown) -> Self {
        Self { bus, config, shutdown, turn: Arc::new(Semaphore::new(1)) }
    }

    /// Does `work` in another thread. Who does not wait for its end, or goes away, does not end it.
    async fn at<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Desk<'_>, &Config) -> Result<T> + Send + 'static,
    ) -> Result<T, Problem> {
        let busy = || Problem::later(1, "others are looking at the dead letters; try again soon");
        let turn = timeout(TURN, Arc::clone(&self.turn).acquire_owned()).await.map_err(|_| busy())?;
        let turn = turn.map_err(anyhow::Error::new)?;
        let (bus, config, shutdown) = (Arc::clone(&self.bus), Arc::clone(&self.config), self.shutdown.clone());
        let working = spawn_blocking(move || {
            let _turn = turn;
            work(&mut Desk::open(&*bus, &config, &shutdown, PATIENCE)?, &config)
        });
        let done = timeout(LATEST, working).await;
        let done = done.map_err(|_| Problem::later(5, "this takes longer than a minute; look again later"))?;
        Ok(done.map_err(anyhow::Error::new)??)
    }
}

/// Which letters are meant, as `dead ls` has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Which {
    reason: Option<String>,
    stop: Option<String>,
    rule: Option<String>,
    id: Option<String>,
    since: Option<String>,
    until: Option<String>,
    #[serde(default = "fifty")]
    last: usize,
    #[serde(default)]
    all: bool,
}

fn fifty() -> usize {
    50
}

impl Which {
    fn filter(self) -> Result<Filter, Problem> {
        let ago = |name: &str, text: Option<String>| match text {
            None => Ok::<_, Problem>(None),
            Some(text) => {
                let ago = time(&text).map_err(|why| Problem::bad_request(format!("{name}: {why}")))?;
                Ok(Some(now_ms().saturating_sub(i64::try_from(ago.as_millis()).unwrap_or(i64::MAX))))
            }
        };
        let Self { reason, stop, rule, id, .. } = self;
        Ok(Filter { reason, stop, rule, id, since: ago("since", self.since)?, until: ago("until", self.until)? })
    }
}

/// The last letters, the newest first.
pub async fn list(
    State(app): State<Arc<App>>,
    which: Result<Query<Which>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let Query(which) = which?;
    let (all, last) = (which.all, which.last.min(MOST));
    let filter = which.filter()?;
    let listed = app.desks.at(move |desk, _| desk.list(&filter, all, last)).await?;
    let letters: Vec<_> = listed.letters.iter().rev().map(|(letter, mark)| object(letter, mark.as_ref())).collect();
    Ok(Json(json!({"letters": letters, "count": listed.count})))
}

/// One letter; what its message holds only where that is to be seen.
pub async fn show(
    State(app): State<Arc<App>>,
    place: Result<Path<(i32, i64)>, PathRejection>,
) -> Result<Json<Value>, Problem> {
    let no_place = |_| Problem::bad_request("PARTITION/OFFSET is expected, as in /api/dead/0/12");
    let Path((partition, offset)) = place.map_err(no_place)?;
    let place = Place { partition, offset };
    let found = app.desks.at(move |desk, config| {
        let marks = desk.marks()?;
        let mut found = None;
        desk.each_letter(|record, letter| {
            if letter.place() != place {
                return Ok(ControlFlow::Continue(()));
            }
            found = Some(whole(&config.error_topic, record, &letter, marks.of(&letter)));
            Ok(ControlFlow::Break(()))
        })?;
        Ok(found)
    });
    let Some(Value::Object(mut letter)) = found.await? else {
        let topic = &app.config.error_topic;
        return Err(Problem::not_found(format!("there is no dead letter {place} on topic {topic}")));
    };
    let hidden = !app.config.web.show_payloads;
    for name in ["key", "headers", "value"] {
        if hidden {
            letter.remove(&format!("{name}_base64"));
            letter.insert(name.to_owned(), Value::Null);
        }
    }
    letter.insert("hidden".to_owned(), json!(hidden));
    Ok(Json(Value::Object(letter)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplayOrder {
    places: Vec<String>,
    #[serde(default)]
    from_stop: Option<String>,
    #[serde(default)]
    replan: bool,
    #[serde(default)]
    dry_run: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DiscardOrder {
    places: Vec<String>,
    #[serde(default)]
    dry_run: bool,
}

/// Sends letters again.
pub async fn replay(State(app): State<Arc<App>>, request: Request) -> Result<Json<Value>, Problem> {
    let order: ReplayOrder = body(request).await?;
    let config = &app.config;
    let way = match &order.from_stop {
        Some(_) if order.replan => return Err(Problem::bad_request("from_stop and replan exclude each other")),
        Some(stop) => {
            Way::From(repair::stop(stop, config).map_err(|why| Problem::bad_request(format!("from_stop: {why}")))?)
        }
        None if order.replan => Way::Replan(Box::new(Rules::new(config)?)),
        None => Way::Rest,
    };
    let stops = Stops::new(config.stop_topics());
    let source = repair::source(config)?;
    let replay = Replay { limits: config.limits, stops, source, way, set: Vec::new() };
    act(&app, Act::Replay(replay), order.places, order.dry_run).await
}

/// Gives letters up.
pub async fn discard(State(app): State<Arc<App>>, request: Request) -> Result<Json<Value>, Problem> {
    let order: DiscardOrder = body(request).await?;
    let source = repair::source(&app.config)?;
    act(&app, Act::Discard { source }, order.places, order.dry_run).await
}

async fn act(app: &App, act: Act, places: Vec<String>, dry_run: bool) -> Result<Json<Value>, Problem> {
    if places.is_empty() {
        return Err(Problem::bad_request("places: one or more are expected, as in [\"0/12\"]"));
    }
    if let Some(wrong) = places.iter().find(|place| !is_place(place)) {
        return Err(Problem::bad_request(format!("places: {wrong:?} is no PARTITION/OFFSET, as in \"0/12\"")));
    }
    let selection = Selection { ids: places, filter: Filter::default() };
    let order = Order { act, selection, rate: 0.0, dry_run, bar: ProgressBar::hidden() };
    let acted = app.desks.at(move |desk, _| {
        let (mut counts, mut left) = (Counts::default(), Vec::new());
        repair::carry_out(desk, &order, &mut counts, &mut |letters, fates| {
            for (letter, fate) in letters.iter().zip(fates) {
                if let Fate::Left(reason) = fate {
                    left.push(json!({"place": letter.place().to_string(), "reason": reason}));
                }
            }
            Ok(())
        })?;
        Ok((counts, left))
    });
    let (counts, left) = acted.await?;
    let (done, topics, before) = (counts.total(), counts.done, counts.before);
    Ok(Json(json!({"done": done, "topics": topics, "left": left, "before": before, "dry_run": dry_run})))
}

fn is_place(text: &str) -> bool {
    let numbers = |(partition, offset): (&str, &str)| {
        let place = Place { partition: partition.parse().ok()?, offset: offset.parse().ok()? };
        // Written as it is told, so that it is found
        (place.to_string() == text).then_some(())
    };
    text.split_once('/').and_then(numbers).is_some()
}

/// The JSON that a request brings.
async fn body<T: DeserializeOwned>(request: Request) -> Result<T, Problem> {
    let read = timeout(BODY, to_bytes(request.into_body(), BODY_BYTES)).await;
    let read = read.map_err(|_| Problem::new(StatusCode::REQUEST_TIMEOUT, "the body does not come"))?;
    let too_large = |_| {
        let detail = format!("the body cannot be read, or has more than {BODY_BYTES} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    };
    let bytes = read.map_err(too_large)?;
    serde_json::from_slice(&bytes).map_err(|error| Problem::bad_request(format!("the body: {error}")))
}
