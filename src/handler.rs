//! What a stop does to its messages.

use std::borrow::Cow;

use crate::slip::Message;

/// The one thing that a stop does: messages in, verdicts out. It is given no bus, and does no I/O with one, so that
/// everything that a message causes there goes through the settle of its batch.
pub trait Handler: Send {
    /// Judges a batch: one verdict per message, in their order; fields that it sets in a payload travel on.
    ///
    /// `Err` means that it cannot judge at present because something that it needs is away: the stop waits and asks
    /// again, without limit, and no message is dropped for it. What is wrong with one message is a verdict of that
    /// message, and what will never come back is [`Broken`]. A handler may see a message again (after a retry, a crash,
    /// a rebalance), with its payload as it arrived.
    fn handle(&mut self, messages: &mut [Message<'_>]) -> anyhow::Result<Vec<Verdict>>;

    /// Whether [`Handler::handle`] waits for something that [`Handler::prepare`] can begin.
    fn prepares(&self) -> bool {
        false
    }

    /// Begins what takes a while for `messages`, without waiting for it: [`Handler::handle`] is going to be asked about
    /// them after those that were prepared before, at most one batch. What it begins must be harmless to give up, as
    /// it is asked about other messages where something comes between. Only called where [`Handler::prepares`].
    fn prepare(&mut self, _messages: &[Message<'_>]) {}

    /// Tries once to reach what it needs beside the bus, within some seconds; asked before the stop takes its place in
    /// the group, and again after an `Err`; also now and then while no messages come and somebody watches its health
    /// ([`Stop::watch`](crate::Stop::watch)). An `Err` means the same as that of [`Handler::handle`].
    fn connect(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    /// What it ails from, where it does; asked each time that the stop's loop turns. While it is something, `/healthcheck`
    /// calls the process ill, with these words; the stop goes on.
    fn ill(&self) -> Option<Cow<'static, str>> {
        None
    }

    /// Whether journeys begin here: then incoming slips are not believed, see [`Message::parse_untrusted`].
    fn begins_journeys(&self) -> bool {
        false
    }
}

/// What is to become of a message.
///
/// Reasons of drops and rejections are counted, and the counts are logged. A reason that was put together (a `String`)
/// is counted under its text before the first colon: particulars belong behind one, payloads above all, as in
/// `format!("unknown currency: {currency}")`. The dead letter holds it whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// On to the next stop of its slip, as it is or as [`Message::revise`] has made it; without one, its journey is at its
    /// end.
    Forward,
    /// Its journey ends here, whatever its slip says.
    Finish,
    /// Its journey ends here, for this reason; counted, and kept nowhere.
    Drop(Cow<'static, str>),
    /// It cannot be handled, now or later: to the dead letters, for this reason.
    Reject(Cow<'static, str>),
    /// It could not be handled, for this reason, and may be later: handled again after a back-off, in its place;
    /// rejected after `max_attempts` of the stop's `retry`.
    Retry(Cow<'static, str>),
}

impl Verdict {
    pub fn drop(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Drop(reason.into())
    }

    pub fn reject(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Reject(reason.into())
    }

    pub fn retry(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Retry(reason.into())
    }
}

/// What a handler gives as its `Err` where waiting will not help: the stop ends with this error.
#[derive(Debug, thiserror::Error)]
#[error("{0:#}")]
pub struct Broken(pub anyhow::Error);

/// A handler that judges one message at a time.
pub fn each(judge: impl FnMut(&mut Message<'_>) -> Verdict + Send) -> impl Handler {
    struct Each<F>(F);
    impl<F: FnMut(&mut Message<'_>) -> Verdict + Send> Handler for Each<F> {
        fn handle(&mut self, messages: &mut [Message<'_>]) -> anyhow::Result<Vec<Verdict>> {
            Ok(messages.iter_mut().map(&mut self.0).collect())
        }
    }
    Each(judge)
}
