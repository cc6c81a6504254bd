//! The picture of the traffic: once, or as it changes.
//!
//! A picture is made into JSON once, and shared among all pages that are open.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use futures_util::stream;
use tokio::{sync::watch, time::timeout};

use super::{App, Problem};
use crate::{dead_letter::now_ms, traffic::Picture};

/// At the latest then a page hears something: it takes a longer silence for the server's end.
const BEAT: Duration = Duration::from_secs(10);

/// The last picture as it is sent.
#[derive(Default)]
pub struct Frames(Mutex<Option<Frame>>);

#[derive(Clone)]
struct Frame {
    of: Arc<Picture>,
    made: Instant,
    json: Bytes,
    event: Bytes,
}

impl Frames {
    /// `picture` as it is sent; what was made of it lately is taken again.
    fn of(&self, picture: &Arc<Picture>) -> Result<Frame, Problem> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = last.as_ref().filter(|frame| Arc::ptr_eq(&frame.of, picture) && frame.made.elapsed() < BEAT / 2);
        if let Some(frame) = kept {
            return Ok(frame.clone());
        }
        // It holds until there is another one, so its time is now
        let now = Picture { time: now_ms(), ..Picture::clone(picture) };
        let json = serde_json::to_vec(&now).map_err(anyhow::Error::new)?;
        let event = [b"event: map\ndata: ", &json[..], b"\n\n"].concat();
        let frame = Frame { of: Arc::clone(picture), made: Instant::now(), json: json.into(), event: event.into() };
        *last = Some(frame.clone());
        Ok(frame)
    }
}

/// The picture at present.
pub async fn map(State(app): State<Arc<App>>) -> Result<Response, Problem> {
    let frame = app.frames.of(&app.traffic.picture())?;
    Ok(([(CONTENT_TYPE, "application/json")], frame.json).into_response())
}

/// The picture at present, then whenever it changes, and now and then where it does not.
pub async fn events(State(app): State<Arc<App>>) -> Response {
    let mut pictures = app.traffic.subscribe();
    pictures.mark_changed();
    let events = stream::unfold((app, pictures), |(app, mut pictures)| async {
        let event = next(&app, &mut pictures).await?;
        Some((Ok::<_, Infallible>(event), (app, pictures)))
    });
    ([(CONTENT_TYPE, "text/event-stream")], Body::from_stream(events)).into_response()
}

/// `None` where nothing will come any more.
async fn next(app: &App, pictures: &mut watch::Receiver<Arc<Picture>>) -> Option<Bytes> {
    if let Ok(Err(_)) = timeout(BEAT, pictures.changed()).await {
        return None;
    }
    let picture = pictures.borrow_and_update().clone();
    app.frames.of(&picture).ok().map(|frame| frame.event)
}
