//! What is left of a request once it is answered.
//!
//! An answer need not wait for the body: to a topic that is not there, or of a body that is too long. But a connection that is
//! closed while the client still sends is reset, and a reset takes the answer with it: whoever sends all before reading anything,
//! as most clients do, would see that the connection broke, and not why. So the rest is read and thrown away, for a while.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use hyper::{
    HeaderMap, Request,
    body::{Body, Bytes, Frame, Incoming, SizeHint},
    header::EXPECT,
};
use tokio::{runtime::Handle, time::timeout};

/// How long the rest is read at most.
const LONGEST: Duration = Duration::from_secs(15);

/// How long nothing may come of it.
const SILENT: Duration = Duration::from_secs(2);

/// The body of a request. What was not read of it when this is dropped is read and thrown away.
pub(crate) struct Rest {
    body: Option<Incoming>,
    /// The client sends nothing before somebody wants it, so nothing needs to be thrown away.
    waits: bool,
}

impl Rest {
    /// The same request, with such a body.
    pub fn of(request: Request<Incoming>) -> Request<Self> {
        let waits = is_asking(request.headers());
        request.map(|body| Self { body: Some(body), waits })
    }
}

/// Whether the client asks for a word before it sends the body.
fn is_asking(headers: &HeaderMap) -> bool {
    headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

impl Body for Rest {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.waits = false;
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(context);
        if let Poll::Ready(None | Some(Err(_))) = polled {
            self.body = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        let rest = self.body.take().filter(|body| !self.waits && !body.is_end_stream());
        // Without a runtime the server is ending, and its connections with it
        if let (Some(rest), Ok(runtime)) = (rest, Handle::try_current()) {
            runtime.spawn(timeout(LONGEST, throw_away(rest)));
        }
    }
}

async fn throw_away(mut body: Incoming) {
    loop {
        let frame = poll_fn(|context| Pin::new(&mut body).poll_frame(context));
        let Ok(Some(Ok(_))) = timeout(SILENT, frame).await else { return };
    }
}
