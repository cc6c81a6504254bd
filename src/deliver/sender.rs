//! One request, and what came of it.

use std::{
    error::Error,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use reqwest::{Client, Response, StatusCode, header::RETRY_AFTER};

use super::{
    request::{NoRequest, request},
    store::Delivery,
};
use crate::{
    subscriber::Subscriber,
    webhook::{schedule::retry_after, target::NoneAllowed},
};

/// Of the body of an answer so much is read, to use its connection again; where there is more, it is closed.
const BODY: usize = 4096;

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Success,
    /// Why, and for how long the receiver asks to be left in peace.
    Failure(String, Option<Duration>),
    /// 410: it does not want to be called any more.
    Gone,
    /// The message makes no request, now or later.
    Never(NoRequest),
}

pub struct Ended {
    pub delivery: Delivery,
    pub outcome: Outcome,
    pub took: Duration,
}

/// Makes the request of `delivery`.
pub async fn send(client: Client, subscriber: Arc<Subscriber>, delivery: Delivery) -> Ended {
    let begun = Instant::now();
    let outcome = outcome(&client, &subscriber, &delivery).await;
    Ended { delivery, outcome, took: begun.elapsed() }
}

async fn outcome(client: &Client, subscriber: &Subscriber, delivery: &Delivery) -> Outcome {
    let message = &delivery.message;
    let made = request(subscriber, &message.record().headers, message.payload(), &message.id, SystemTime::now());
    let request = match made {
        Ok(request) => request,
        Err(error) => return Outcome::Never(error),
    };
    let sent = client
        .request(request.method, request.url)
        .headers(request.headers)
        .body(request.body)
        .timeout(subscriber.timeout);
    match sent.send().await {
        Ok(response) => answer(response).await,
        Err(error) => Outcome::Failure(failure(error, subscriber.timeout), None),
    }
}

async fn answer(mut response: Response) -> Outcome {
    let status = response.status();
    let asked = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let asked = asked.and_then(|asked| retry_after(asked, SystemTime::now()));
    let mut read = 0;
    while let Ok(Some(chunk)) = response.chunk().await {
        read += chunk.len();
        if read > BODY {
            break;
        }
    }
    match status {
        StatusCode::GONE => Outcome::Gone,
        status if status.is_success() => Outcome::Success,
        status if status.is_redirection() => {
            Outcome::Failure(format!("{status}, and redirects are not followed"), None)
        }
        status => Outcome::Failure(status.to_string(), asked),
    }
}

/// What went wrong, without the URL, of which a part may be secret.
fn failure(error: reqwest::Error, timeout: Duration) -> String {
    if error.is_timeout() {
        return format!("no answer within {}", humantime::format_duration(timeout));
    }
    let connecting = error.is_connect();
    let error = error.without_url();
    let mut innermost: &dyn Error = &error;
    loop {
        if let Some(refused) = innermost.downcast_ref::<NoneAllowed>() {
            return refused.to_string();
        }
        match innermost.source() {
            Some(source) => innermost = source,
            None => break,
        }
    }
    match connecting {
        true => format!("cannot connect: {innermost}"),
        false => innermost.to_string(),
    }
}
