//! Requests go on to a program under development, and what it answers goes back.

use std::{error::Error as _, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{
        HeaderMap, StatusCode,
        header::{CONNECTION, CONTENT_LENGTH},
        request::Parts,
    },
    response::{IntoResponse, Response},
};
use reqwest::{Client, redirect};
use url::Url;

use crate::webhook::template::LEFT_OUT;

/// The program may stand still in a debugger.
const PATIENCE: Duration = Duration::from_secs(600);

/// Where requests go on to.
pub struct Forward {
    url: Url,
    client: Client,
}

impl Forward {
    /// To a URL; what a request has behind the host is put behind it.
    pub fn new(url: &str) -> Result<Self, String> {
        let url = Url::parse(url).map_err(|error| format!("the URL cannot be read: {error}"))?;
        if !matches!(url.scheme(), "http" | "https") || url.cannot_be_a_base() {
            return Err("the URL must begin with http:// or https://".into());
        }
        crate::tls::use_ring();
        let builder = Client::builder().no_proxy().redirect(redirect::Policy::none()).timeout(PATIENCE);
        let client = builder.build().map_err(|error| format!("no client can be made: {error}"))?;
        Ok(Self { url, client })
    }

    fn url_of(&self, head: &Parts) -> Url {
        let mut url = self.url.clone();
        let path = head.uri.path();
        if path != "/" {
            url.set_path(&format!("{}{path}", self.url.path().trim_end_matches('/')));
        }
        let queries = [self.url.query(), head.uri.query()];
        let query: Vec<_> = queries.into_iter().flatten().filter(|query| !query.is_empty()).collect();
        url.set_query((!query.is_empty()).then(|| query.join("&")).as_deref());
        url
    }

    /// Sends the request on, and gives the answer; 502 where there is none.
    pub async fn send(&self, head: &Parts, body: Bytes) -> Response {
        let request = self.client.request(head.method.clone(), self.url_of(head));
        match request.headers(ends_alone(&head.headers)).body(body).send().await {
            Ok(answer) => {
                let (status, headers) = (answer.status(), ends_alone(answer.headers()));
                let mut response =
                    Response::new(Body::from_stream(futures_util::stream::unfold(answer, |mut answer| async {
                        let chunk = answer.chunk().await.transpose()?;
                        Some((chunk, answer))
                    })));
                *response.status_mut() = status;
                *response.headers_mut() = headers;
                response
            }
            Err(error) => {
                let error = error.without_url();
                let why = error.source().map_or_else(|| error.to_string(), |source| innermost(source).to_string());
                (StatusCode::BAD_GATEWAY, format!("the program behind --forward does not answer: {why}\n"))
                    .into_response()
            }
        }
    }
}

fn innermost<'a>(mut error: &'a (dyn std::error::Error + 'static)) -> &'a (dyn std::error::Error + 'static) {
    while let Some(source) = error.source() {
        error = source;
    }
    error
}

/// The headers that are for whoever is at the other end, not of a connection: neither by their names nor because it says so.
fn ends_alone(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    let listed: Vec<_> = headers.get_all(CONNECTION).iter().filter_map(|listed| listed.to_str().ok()).collect();
    let listed = listed.join(",");
    for name in listed.split(',').map(str::trim).chain(LEFT_OUT.iter().copied()) {
        headers.remove(name);
    }
    headers.remove(CONTENT_LENGTH);
    headers
}
