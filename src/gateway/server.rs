//! The server: which request is answered by what.

use std::{
    convert::Infallible,
    future::Future,
    path::Path as FilePath,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Result;
use axum::{
    Json, Router,
    body::Body,
    extract::{Request, State},
    http::{
        HeaderMap, HeaderValue, Method, StatusCode, Uri,
        header::{ALLOW, CONTENT_TYPE, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE},
        request::Parts,
    },
    response::{IntoResponse, Response},
    routing::{get, post},
};
use hyper::{body::Incoming, service::Service};
use hyper_util::service::TowerToHyperService;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use smallvec::smallvec;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};
use tracing::{info, warn};
use uuid::Uuid;

use super::{
    accept::{accepted_one, key_of, reading, unauthorized},
    access::Access,
    budget::{Budget, Hold},
    caller,
    command::{Commands, Found},
    event::Event,
    ledger::{Entry, Ledger},
    options::Options,
    publish::{self, Lanes},
    stats::{Route, Stats},
    switch, topics,
};
use crate::{
    bus::{Bus, Topic},
    config::Config,
    http::{
        self, Limits, Part, Rest, Site,
        exposition::Exposition,
        journeys::Journeys,
        problem::{self, Problem},
    },
    journal::search::Wanted,
    shutdown::Shutdown,
    slip,
    web::cannot_listen,
};

/// How long a connection lasts, so that those behind a balancer find their way to new servers.
const LIFETIME: Duration = Duration::from_secs(3600);

/// How long a client may take none of its answer.
const STALLED: Duration = Duration::from_secs(30);

/// What is answered, and how, as OpenAPI has it.
const DESCRIPTION: &str = include_str!("../../docs/gateway.openapi.json");

/// What requests are answered from.
pub struct App {
    pub access: Access,
    pub origins: Vec<HeaderValue>,
    pub topics: Vec<Topic>,
    pub limits: slip::Limits,
    pub body_bytes: usize,
    pub body_timeout: Duration,
    /// How long an event waits for the bus.
    pub timeout: Duration,
    /// Most events of one request.
    pub most_events: usize,
    pub budget: Arc<Budget>,
    pub ledger: Ledger,
    pub lanes: Lanes,
    pub stats: Arc<Stats>,
    journeys: Journeys,
    commands: Commands,
    switch: Option<caller::Switch>,
}

/// The gateway, which ends when this is dropped.
pub struct Gateway {
    // Before what it uses
    server: http::Server,
    app: Arc<App>,
    looking: Shutdown,
}

impl Gateway {
    /// Serves where `gateway.listen` says; the bus need not be there yet. Where the bus fails for good it asks for `shutdown`,
    /// and [`Gateway::finish`] says why.
    ///
    /// [`Unreachable`](crate::error::Unreachable) where the address is taken, [`Misconfigured`](crate::error::Misconfigured)
    /// where the configuration is wrong.
    pub fn start(
        bus: Arc<dyn Bus>,
        config: &Config,
        connect_timeout: Option<Duration>,
        shutdown: &Shutdown,
    ) -> Result<Self> {
        let options = Options::read(config)?;
        let listen = options.address(config)?;
        let identity = options.identity(config)?;
        let looking = Shutdown::default();
        let app = Arc::new(App::new(bus, config, &options, connect_timeout, shutdown, &looking)?);
        let limits = Limits { connections: options.connections, lifetime: LIFETIME, stalled: STALLED };
        let scheme = if identity.is_some() { "https" } else { "http" };
        let encrypted = identity.is_some();
        let site = Site { name: "gateway", threads: options.threads, limits, identity };
        let server = http::Server::open(listen, site, &Front::new(&app))
            .map_err(|error| cannot_listen(config, "gateway.listen", listen, &error))?;
        if !encrypted && !listen.ip().is_loopback() {
            warn!("gateway.listen is {listen} without [gateway.tls]: keys, tokens and events can be read on their way");
        }
        if app.access.is_open() {
            warn!("there are no callers: whoever reaches {listen} may publish");
        }
        info!("gateway on {scheme}://{}", server.address());
        Ok(Self { server, app, looking })
    }

    /// What it tells about itself.
    pub fn part(&self) -> Arc<dyn Part> {
        Arc::clone(&self.app) as Arc<dyn Part>
    }

    /// Takes no more requests, answers those that are under way until `deadline`, and gives what it failed with.
    pub fn finish(self, deadline: Instant) -> Result<()> {
        self.looking.request();
        self.server.finish(deadline);
        self.app.lanes.finish(deadline)
    }
}

impl App {
    fn new(
        bus: Arc<dyn Bus>,
        config: &Config,
        options: &Options,
        connect_timeout: Option<Duration>,
        shutdown: &Shutdown,
        looking: &Shutdown,
    ) -> Result<Self> {
        let access = options.access(config)?;
        let (commands, switch) = (Commands::new(config)?, switch::callers(config)?);
        let origins = options.origins(config)?;
        let ledger = Ledger::open(FilePath::new(&options.store), access.with_quotas())?;
        let stats = Arc::new(Stats::default());
        let lanes = publish::Options {
            lanes: options.lanes,
            waiting: options.waiting,
            timeout: options.timeout,
            connect_timeout,
            topics: options.topics.clone(),
        };
        let shared = Arc::new(config.clone());
        Ok(Self {
            access,
            origins,
            topics: options.topics.clone(),
            limits: config.limits,
            body_bytes: options.body_bytes,
            body_timeout: options.body_timeout,
            timeout: options.timeout,
            most_events: options.waiting,
            budget: Budget::new(options.waiting_bytes),
            ledger,
            journeys: Journeys::start(Arc::clone(&bus), shared, looking.clone())?,
            lanes: Lanes::start(lanes, bus, Arc::clone(&stats), shutdown.clone())?,
            stats,
            commands,
            switch,
        })
    }
}

impl Part for App {
    fn tell(&self, out: &mut Exposition) {
        self.stats.tell(out, self.lanes.waiting());
    }

    fn ready(&self) -> Result<(), String> {
        self.lanes.ready().map_err(|why| format!("gateway: {why}"))
    }
}

/// What connections hand requests to. Events for topics, which are the many, take the short way past the router.
#[derive(Clone)]
struct Front {
    app: Arc<App>,
    router: TowerToHyperService<Router>,
    /// Whether no answer needs what the router adds.
    plain: bool,
}

impl Front {
    fn new(app: &Arc<App>) -> Self {
        let router = TowerToHyperService::new(router(app));
        Self { app: Arc::clone(app), router, plain: app.origins.is_empty() }
    }
}

impl Service<hyper::Request<Incoming>> for Front {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, request: hyper::Request<Incoming>) -> Self::Future {
        let name = request.uri().path().strip_prefix(topics::PATH);
        let is_event = request.method() == Method::POST && name.is_some_and(|name| !name.contains(['/', '%']));
        let request = Rest::of(request);
        if self.plain && is_event {
            let app = Arc::clone(&self.app);
            return Box::pin(async move { Ok(topics::post(app, request.map(Body::new)).await) });
        }
        Box::pin(self.router.call(request))
    }
}

fn router(app: &Arc<App>) -> Router {
    let mut router = Router::new()
        .route("/topics/{topic}", post(async |State(app): State<Arc<App>>, request| topics::post(app, request).await))
        .route("/journeys/{id}", get(journey))
        .route("/openapi.json", get(description));
    if app.switch.is_some() {
        router = router.route("/publish", post(publish)).route("/refresh", get(refresh));
    }
    let router = router.fallback(other).method_not_allowed_fallback(not_allowed).with_state(Arc::clone(app));
    if app.origins.is_empty() { router } else { router.layer(cors(&app.origins)) }
}

fn cors(origins: &[HeaderValue]) -> CorsLayer {
    let origins = match origins.iter().any(|origin| origin == "*") {
        true => AllowOrigin::any(),
        false => AllowOrigin::list(origins.iter().cloned()),
    };
    // No cookie opens anything here, so credentials are not allowed
    CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([LOCATION, RETRY_AFTER, WWW_AUTHENTICATE])
        .max_age(Duration::from_secs(3600))
}

async fn description(State(app): State<Arc<App>>) -> Response {
    let answer = ([(CONTENT_TYPE, "application/json")], DESCRIPTION).into_response();
    app.tell(Route::Other, Ok(answer))
}

/// Where a message is.
async fn journey(State(app): State<Arc<App>>, request: Request) -> Response {
    let answer = find_journey(&app, request.into_parts().0).await;
    app.tell(Route::Journeys, answer)
}

async fn find_journey(app: &App, request: Parts) -> Result<Response, Problem> {
    app.caller(&request.headers)?;
    let id = request.uri.path().strip_prefix("/journeys/").unwrap_or_default();
    let id = Uuid::try_parse(&percent_decode_str(id).decode_utf8_lossy())
        .map_err(|_| Problem::bad_request("a journey is asked for by the id of its message, a UUID"))?;
    let found = app.journeys.find(Wanted::Id(id.to_string()), 1).await?;
    let journey = found.journeys.first().map(|journey| shown(&journey.json()));
    Ok(Json(journey).into_response())
}

/// Of a journey, what does not come from the message: no keys, no fields, and no reasons, which may quote it.
fn shown(journey: &Value) -> Value {
    let hops = journey["hops"].as_array().into_iter().flatten().map(|hop| {
        let names =
            ["time", "stop", "topic", "partition", "offset", "waited_us", "took_us", "attempts", "verdict", "next"];
        names.into_iter().map(|name| (name.to_owned(), hop[name].clone())).collect::<Value>()
    });
    json!({
        "id": journey["id"],
        "ended": journey["ended"],
        "verdict": journey["verdict"],
        "stop": journey["stop"],
        "next": journey["next"],
        "parent": journey["parent"],
        "copies": journey["copies"],
        "hops": hops.collect::<Vec<_>>(),
    })
}

/// A command of the configuration, or nothing that is there.
async fn other(State(app): State<Arc<App>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let (command, parameters) = match app.commands.find(&parts.method, parts.uri.path()) {
        Found::Command(command, parameters) => (command, parameters),
        Found::MethodNotAllowed(allowed) => {
            let problem = problem::not_allowed(parts.method, parts.uri).await;
            let problem = match HeaderValue::try_from(allowed) {
                Ok(allowed) => problem.header(ALLOW, allowed),
                Err(_) => problem,
            };
            return app.tell(Route::Command, Err(problem));
        }
        Found::None => return app.tell(Route::Other, Err(problem::not_found(parts.uri).await)),
    };
    let answer = async {
        let caller = app.caller(&parts.headers)?;
        let topic = command.topic();
        if !caller.topics.contain(topic.as_str()) {
            let detail = format!("this caller may not publish to {topic}, where {} goes", command.name());
            return Err(Problem::new(StatusCode::FORBIDDEN, detail));
        }
        let (body, hold) = app.body(&parts.headers, body).await?;
        let once = key_of(&parts, &body)?;
        let (of, limits) = (Arc::clone(command), app.limits);
        let event = reading(body, move |body| of.event(&parameters, body, &limits)).await?;
        let event = event
            .map_err(|invalid| Problem::new(invalid.status, invalid.detail).member("errors", json!(invalid.errors)))?;
        let id = one(&app, &caller.name, event, once, hold).await?;
        Ok(accepted_one(id))
    };
    let answer = answer.await;
    app.tell(Route::Command, answer)
}

/// Publishes one event, and gives its id.
async fn one(app: &Arc<App>, caller: &str, event: Event, once: Option<Entry>, hold: Hold) -> Result<Uuid, Problem> {
    let events = smallvec![event];
    let once = once.map(|once| once.of(&events));
    let ids = app.publish(caller, events, once, hold).await?;
    ids.first().copied().ok_or_else(|| Problem::bad_request("there is no event in the body"))
}

/// `POST /publish` of switch: 200 once the bus has it.
async fn publish(State(app): State<Arc<App>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let answer = async {
        let caller = of_switch(&app, &parts.headers)?;
        let (body, hold) = app.body(&parts.headers, body).await?;
        let once = key_of(&parts, &body)?;
        let limits = app.limits;
        let event = reading(body, move |body| switch::publish(body, &limits)).await?;
        let event = event.map_err(|wrong| Problem::bad_request(wrong.to_string()))?;
        let topic = event.topic.as_str();
        if !app.topics.contains(&event.topic) || !caller.topics.contain(topic) {
            let detail =
                "there is no such topic here: gateway.topics and gateway.switch.topics list those that there are";
            return Err(Problem::bad_request(detail));
        }
        // An author is whatever the token says, and no caller of that name: quota and keys of that one stay its own. No caller
        // has this name, as the name of each is on one line
        one(&app, &format!("switch\n{}", caller.name), event, once, hold).await?;
        Ok(StatusCode::OK.into_response())
    };
    let answer = answer.await;
    app.tell(Route::Switch, answer)
}

/// `GET /refresh` of switch. Subscribers are read again whenever they have changed, so it is enough to say so.
async fn refresh(State(app): State<Arc<App>>, request: Request) -> Response {
    let answer = of_switch(&app, request.headers()).map(|_| StatusCode::OK.into_response());
    app.tell(Route::Switch, answer)
}

fn of_switch(app: &App, headers: &HeaderMap) -> Result<caller::Caller, Problem> {
    let Some(switch) = &app.switch else { return Err(Problem::not_found("there is nothing here")) };
    switch.authenticate(headers, SystemTime::now()).map_err(unauthorized)
}

async fn not_allowed(State(app): State<Arc<App>>, method: Method, uri: Uri) -> Response {
    let problem = problem::not_allowed(method, uri).await;
    app.tell(Route::Other, Err(problem))
}
