//! Who may ask, and what a browser is told to be careful with.
//!
//! A page of somebody else's that is open in the same browser must not read what is here, nor act. So a request has to name
//! this host (else another name may have been made to lead here), what acts has to come from this page where the browser says
//! where it comes from, and it has to carry a token that browsers do not send by themselves.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    extract::{Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{
            AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, ORIGIN, REFERRER_POLICY,
            X_CONTENT_TYPE_OPTIONS,
        },
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{App, Misconfigured, Problem};
use crate::config::Config;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Of each answer.
const HEADERS: [(HeaderName, HeaderValue); 5] = [
    (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
];

/// By what a request is let through.
pub struct Guard {
    /// Lower case, without a port.
    hosts: Vec<String>,
    /// Any address will do: it listens on all of this machine's.
    any_address: bool,
    /// Of the token: whatever that is, comparing takes the same time.
    token: Option<[u8; 32]>,
}

impl Guard {
    /// By `[web]`. Fails where the file of the token cannot be read, or the token is none.
    pub fn new(config: &Config, listen: SocketAddr) -> Result<Self, Misconfigured> {
        let web = &config.web;
        let own = ["localhost".to_owned(), "127.0.0.1".to_owned(), "[::1]".to_owned(), name_of(listen.ip())];
        let hosts = web.hosts.iter().map(|host| without_port(host).to_ascii_lowercase()).chain(own).collect();
        Ok(Self { hosts, any_address: listen.ip().is_unspecified(), token: token(config)?.map(|token| hash(&token)) })
    }

    /// Whether there is a token, so that somebody may act.
    pub fn acting(&self) -> bool {
        self.token.is_some()
    }

    fn knows(&self, authority: &str) -> bool {
        let host = without_port(authority).to_ascii_lowercase();
        let address = host.trim_start_matches('[').trim_end_matches(']');
        // A name could have been made to lead here, an address cannot
        self.hosts.contains(&host) || (self.any_address && address.parse::<IpAddr>().is_ok())
    }
}

fn name_of(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// The token that is configured.
fn token(config: &Config) -> Result<Option<String>, Misconfigured> {
    let web = &config.web;
    let (key, token) = match &web.token_file {
        None => ("web.token", web.token.clone()),
        Some(path) => {
            let cannot = |error| config.error("web.token_file", format_args!("cannot read {path}: {error}"));
            ("web.token_file", Some(fs::read_to_string(path).map_err(cannot)?.trim_end().to_owned()))
        }
    };
    match token {
        Some(token) if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Err(config.error(key, "the token must be visible characters of ASCII, one or more"))
        }
        token => Ok(token),
    }
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// Lets through what names this host, and makes every answer a careful one.
pub async fn looks(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let mut response = match known_host(&app.guard, &request) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    let headers = response.headers_mut();
    headers.extend(HEADERS);
    // What tells no other rule is of this moment
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

fn known_host(guard: &Guard, request: &Request) -> Result<(), Problem> {
    let misdirected = |detail: String| Problem::new(StatusCode::MISDIRECTED_REQUEST, detail);
    let host = text(request.headers(), &HOST);
    let named = host.into_iter().chain(request.uri().authority().map(|authority| authority.as_str()));
    match named.clone().find(|name| !guard.knows(name)) {
        Some(name) => Err(misdirected(format!(
            "this server is not known as {:?}; web.hosts lists further names of it",
            without_port(name)
        ))),
        None if named.count() == 0 => Err(misdirected("the request names no host".to_owned())),
        None => Ok(()),
    }
}

/// Lets through what comes from this page or from no page, with the token, and is JSON.
pub async fn acts(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    match may_act(&app.guard, request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn may_act(guard: &Guard, headers: &HeaderMap) -> Result<(), Problem> {
    let forbidden = |detail: &str| Err(Problem::new(StatusCode::FORBIDDEN, detail));
    let host = text(headers, &HOST).unwrap_or_default();
    let same = |origin: &str| origin.split_once("://").is_some_and(|(_, of)| of.eq_ignore_ascii_case(host));
    if headers.contains_key(ORIGIN) && !text(headers, &ORIGIN).is_some_and(same) {
        return forbidden("this comes from another page than the one of this server");
    }
    let site = HeaderName::from_static("sec-fetch-site");
    if headers.contains_key(&site) && text(headers, &site) != Some("same-origin") {
        return forbidden("this comes from another site than this server");
    }
    let Some(token) = &guard.token else {
        return forbidden("nobody may act here: set web.token, or web.token_file, and start again");
    };
    let Some(given) = text(headers, &AUTHORIZATION).and_then(bearer) else {
        return Err(Problem::unauthorized("the token is missing: it is what web.token says"));
    };
    if !bool::from(hash(given).ct_eq(token)) {
        return Err(Problem::unauthorized("the token is not the one that web.token says"));
    }
    let kind = text(headers, &CONTENT_TYPE).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        let detail = "the body must be JSON, with Content-Type: application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    Ok(())
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The value of a header that stands there once.
fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().filter(|_| values.next().is_none());
    value.and_then(|value| value.to_str().ok())
}
