//! What is answered where something is wrong: problem details, as RFC 9457 has them.

use axum::{
    extract::rejection::{PathRejection, QueryRejection},
    http::{
        HeaderName, HeaderValue, Method, StatusCode, Uri,
        header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use crate::{
    dead_letter::repair::Unknown,
    error::{Misconfigured, Unreachable},
};

/// Something wrong, and a sentence about it that may be shown to people.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    header: Option<Box<(HeaderName, HeaderValue)>>,
    /// A further member, for programs.
    member: Option<Box<(&'static str, Value)>>,
}

impl Problem {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), header: None, member: None }
    }

    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// The same may be asked again in so many seconds.
    pub fn later(seconds: u64, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail).header(RETRY_AFTER, HeaderValue::from(seconds))
    }

    pub fn unauthorized(detail: impl Into<String>) -> Self {
        let challenge = HeaderValue::from_static("Bearer");
        Self::new(StatusCode::UNAUTHORIZED, detail).header(WWW_AUTHENTICATE, challenge)
    }

    /// With a header, in place of the one that it had.
    pub fn header(self, name: HeaderName, value: HeaderValue) -> Self {
        Self { header: Some(Box::new((name, value))), ..self }
    }

    /// With a member of its own beside those of the standard, in place of the one that it had.
    pub fn member(self, name: &'static str, value: Value) -> Self {
        Self { member: Some(Box::new((name, value))), ..self }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or_default();
        let mut body = json!({"title": title, "status": self.status.as_u16(), "detail": self.detail});
        if let Some(member) = self.member {
            let (name, value) = *member;
            body[name] = value;
        }
        let kind = [(CONTENT_TYPE, "application/problem+json")];
        let mut response = (self.status, kind, body.to_string()).into_response();
        response.headers_mut().extend(self.header.map(|header| *header));
        response
    }
}

/// What a step failed with that reached for something.
impl From<anyhow::Error> for Problem {
    fn from(error: anyhow::Error) -> Self {
        let detail = format!("{error:#}");
        match () {
            () if error.chain().any(|cause| cause.is::<Unreachable>()) => Self::later(5, detail),
            () if error.is::<Unknown>() => Self::not_found(detail),
            () => Self::new(StatusCode::INTERNAL_SERVER_ERROR, detail),
        }
    }
}

impl From<Misconfigured> for Problem {
    fn from(error: Misconfigured) -> Self {
        Self::from(anyhow::Error::from(error))
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        Self::bad_request(rejection.body_text())
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        let text = rejection.body_text();
        let why = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
        Self::bad_request(format!("the query: {why}"))
    }
}

/// There is no such path.
pub async fn not_found(uri: Uri) -> Problem {
    Problem::not_found(format!("there is nothing at {}", uri.path()))
}

/// There is such a path, and it is asked in another way. The header that says in which is the router's to add.
pub async fn not_allowed(method: Method, uri: Uri) -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, format!("{} does not take {method}", uri.path()))
}
