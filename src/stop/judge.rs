//! What becomes of the messages of a batch: they are handled, and the verdicts carried out into an outbox.

use std::{
    borrow::Cow,
    panic::{AssertUnwindSafe, catch_unwind},
};

use tracing::warn;

use super::{
    Scratch, Settings, Stop,
    parsed::{Messages, Parsed, Refused, Source},
};
use crate::{
    bus::{Outbox, Record, Topic},
    dead_letter::{history::History, shorten},
    handler::Verdict,
    journal::{Outcome, What},
    log::about::about,
    slip::Message,
    stats::{Reason, Tally, tally},
    terminal::moment,
    trace::Hop,
};

/// Outputs of one settle, and bytes of them that are copies: what is more waits for the next one.
const MOST_OUTPUTS: usize = 100_000;
const MOST_COPIED: usize = 64 << 20;

impl Stop {
    /// Handles messages, the first one after what was tried with it before, and fills the outbox with what comes of
    /// them, up to the first one that is to be tried again.
    pub(super) fn judge(&mut self, parsed: &mut Parsed, first: &Tries, scratch: &mut Scratch) -> Judged {
        parsed.with_dependent_mut(|source, messages| self.judge_messages(source, messages, first, scratch))
    }

    fn judge_messages(
        &mut self,
        Source { batch, inputs, .. }: &Source,
        Messages { messages, refused }: &mut Messages<'_>,
        first: &Tries,
        scratch: &mut Scratch,
    ) -> Judged {
        scratch.outbox.clear();
        scratch.notes.begin(self.terms.beginning);
        if let Some(tracer) = &self.tracer {
            tracer.begin(&mut scratch.spans);
        }
        let verdicts = match self.ask(messages) {
            Answer::Verdicts(verdicts) => verdicts,
            Answer::Away(error) => return Judged::Away(error),
            Answer::Panicked if messages.len() > 1 => return Judged::Panicked,
            Answer::Panicked => messages.iter().map(|_| Verdict::retry("handler panicked")).collect(),
        };
        let mut refused = refused.drain(..).peekable();
        let mut judged = messages.iter().zip(verdicts);
        let (mut counts, fresh) = (Tally::default(), Tries::default());
        for index in inputs.clone() {
            let tries = if index == inputs.start { first } else { &fresh };
            if let Some((_, refused)) = refused.next_if(|(at, _)| *at == index) {
                self.refuse(index, batch.get(index), refused, tries, scratch, &mut counts);
                continue;
            }
            let Some((message, verdict)) = judged.next() else { break };
            let attempt = tries.attempt;
            let verdict = match verdict {
                Verdict::Retry(reason) if attempt < self.settings.retry.max_attempts => {
                    let (letters, redaction) = (&self.letters, &self.settings.redaction);
                    about!(warn, letters, redaction, message.record, name(message), &reason, attempt, "is tried again");
                    scratch.notes.publish(&self.settings.journal, &mut scratch.outbox);
                    return Judged::Up { to: index, tally: counts, retry: Some(reason) };
                }
                Verdict::Retry(reason) => Verdict::reject(format!("{reason}; gave up after {attempt} attempts")),
                verdict => verdict,
            };
            self.carry_out(index, message, verdict, tries, scratch, &mut counts);
            if counts.copied_bytes > MOST_COPIED || scratch.outbox.len() > MOST_OUTPUTS {
                // Messages that are sent many times over are settled a few at a time
                scratch.notes.publish(&self.settings.journal, &mut scratch.outbox);
                return Judged::Up { to: index + 1, tally: counts, retry: None };
            }
        }
        scratch.notes.publish(&self.settings.journal, &mut scratch.outbox);
        Judged::Up { to: inputs.end, tally: counts, retry: None }
    }

    /// Has the handler begin what takes a while, where it does; whether it does. Where it panics it will when it is asked,
    /// and that is dealt with there.
    pub(super) fn prepare(&mut self, parsed: &mut Parsed) -> bool {
        let handler = &mut self.handler;
        if !handler.prepares() {
            return false;
        }
        parsed.with_dependent_mut(|_, Messages { messages, .. }| {
            if !messages.is_empty() {
                let _ = catch_unwind(AssertUnwindSafe(|| handler.prepare(messages)));
            }
        });
        true
    }

    fn ask(&mut self, messages: &mut [Message<'_>]) -> Answer {
        if messages.is_empty() {
            return Answer::Verdicts(Vec::new());
        }
        let handler = &mut self.handler;
        // A handler is asked again after a panic; what state it left itself in is its own to mind
        match catch_unwind(AssertUnwindSafe(|| handler.handle(messages))) {
            Ok(Ok(verdicts)) if verdicts.len() == messages.len() => Answer::Verdicts(verdicts),
            Ok(Ok(verdicts)) => {
                let reason = format!("handler gave {} verdicts on {} messages", verdicts.len(), messages.len());
                Answer::Verdicts(messages.iter().map(|_| Verdict::reject(reason.clone())).collect())
            }
            Ok(Err(error)) => Answer::Away(error),
            Err(_) => {
                warn!(stop = self.letters.stop, "handler panicked");
                Answer::Panicked
            }
        }
    }

    /// Makes a dead letter of what no handler is asked about.
    fn refuse(
        &self,
        index: usize,
        record: Record<'_>,
        refused: Refused<'_>,
        tries: &Tries,
        scratch: &mut Scratch,
        counts: &mut Tally,
    ) {
        match refused {
            Refused::Malformed(reason) => {
                let text = reason.to_string();
                counts.read += 1;
                let (letters, redaction) = (&self.letters, &self.settings.redaction);
                about!(warn, letters, redaction, record, None::<String>, &text, "rejected a message");
                let what = self.rejected(&text, 1);
                self.letters.write(&mut scratch.outbox, index, &record, &text, 1);
                scratch.notes.record(&self.settings.journal, &self.letters, index, &record, &what);
                self.trace(&Hop { input: index, record: &record, id: None, what: &what }, scratch);
                tally(&mut counts.rejected, reason.kind().into());
            }
            Refused::Late(message, deadline) => {
                let reason = format!("its deadline has passed: {}", moment(deadline));
                // It is not tried again
                let tries = Tries { attempt: (tries.attempt - 1).max(1), failed: tries.failed.clone() };
                self.carry_out(index, &message, Verdict::reject(reason), &tries, scratch, counts);
            }
        }
    }

    fn carry_out(
        &self,
        index: usize,
        message: &Message<'_>,
        verdict: Verdict,
        tries: &Tries,
        scratch: &mut Scratch,
        counts: &mut Tally,
    ) {
        counts.read += 1;
        let attempts = tries.attempt;
        let record = &message.record;
        let note = |what: What<'_>, scratch: &mut Scratch| {
            scratch.notes.message(&self.settings.journal, &self.letters, index, message, &what);
            if self.tracer.is_some() {
                self.trace(&Hop { input: index, record, id: name(message), what: &what }, scratch);
            }
        };
        let (letters, redaction) = (&self.letters, &self.settings.redaction);
        let finished = What { outcome: Outcome::Finished, attempts, reason: None, next: None };
        let reason: Reason = match verdict {
            Verdict::Drop(reason) => {
                about!(debug, letters, redaction, record, name(message), &reason, attempts, "dropped a message");
                note(What { outcome: Outcome::Dropped, attempts, reason: Some(&reason), next: None }, scratch);
                return tally(&mut counts.dropped, label(reason));
            }
            Verdict::Finish => {
                note(finished, scratch);
                return counts.finished.push(record.timestamp);
            }
            Verdict::Forward => match self.forward(index, message, &mut scratch.outbox, counts) {
                Ok(None) => {
                    note(finished, scratch);
                    return counts.finished.push(record.timestamp);
                }
                Ok(Some(next)) => {
                    note(
                        What { outcome: Outcome::Forwarded, attempts, reason: None, next: Some(next.as_str()) },
                        scratch,
                    );
                    for copy in message.copies() {
                        scratch.notes.copy(&self.settings.journal, &self.letters, index, message, &copy);
                    }
                    counts.forwarded += 1;
                    return;
                }
                Err(reason) => reason.into(),
            },
            Verdict::Reject(reason) | Verdict::Retry(reason) => reason,
        };
        about!(warn, letters, redaction, record, name(message), &reason, attempts, "rejected a message");
        self.letters.write_after(&tries.failed, &mut scratch.outbox, index, record, &reason, attempts);
        note(self.rejected(&reason, attempts), scratch);
        tally(&mut counts.rejected, label(reason));
    }

    /// Makes the span of a hop, where hops are traced.
    fn trace(&self, hop: &Hop<'_>, Scratch { outbox, spans, .. }: &mut Scratch) {
        if let Some(tracer) = &self.tracer {
            tracer.hop(hop, &self.letters, &self.settings.redaction, outbox, spans);
        }
    }

    /// Sends a message on to its next stop, and its copies to theirs. Gives where it goes, if anywhere, or why it cannot.
    fn forward<'m>(
        &self,
        index: usize,
        message: &'m Message<'_>,
        outbox: &mut Outbox,
        counts: &mut Tally,
    ) -> Result<Option<&'m Topic>, String> {
        let Settings { limits, stops, .. } = &self.settings;
        if let Some(reason) = message.refused_revision(limits, stops) {
            return Err(reason);
        }
        let Some(next) = message.next_stop() else { return Ok(None) };
        let mut longest = outbox.forward(index, next, |out| message.write_next_from(&self.letters.stop, out));
        let (mut sent, mut copied) = (1, 0);
        for copy in message.copies() {
            let Some(next) = copy.next_stop() else { continue };
            let bytes = outbox.forward(index, next, |out| message.write_copy(&copy, out));
            (longest, sent, copied) = (longest.max(bytes), sent + 1, copied + bytes);
        }
        let limit = limits.message_bytes;
        if longest > limit {
            (0..sent).for_each(|_| outbox.pop());
            return Err(format!("output is longer than limits.message_bytes = {limit}: {longest} bytes"));
        }
        counts.copied += sent - 1;
        counts.copied_bytes += copied;
        Ok(Some(next))
    }

    fn rejected<'a>(&'a self, reason: &'a str, attempts: u32) -> What<'a> {
        let next = Some(self.letters.error.as_str());
        What { outcome: Outcome::Rejected, attempts, reason: Some(reason), next }
    }
}

/// The id of a message as the log has it.
fn name<'m>(message: &'m Message<'_>) -> Option<Cow<'m, str>> {
    match message.departs_with() {
        Some(id) => Some(id.to_string().into()),
        None => message.id().map(|id| shorten(id).into()),
    }
}

/// What a reason is counted under: as it is where it is fixed, else up to its first colon, so that particulars neither
/// make it many nor come into the log.
fn label(reason: Reason) -> Reason {
    match reason {
        Reason::Owned(text) => text.split(':').next().unwrap_or_default().trim_end().to_owned().into(),
        fixed => fixed,
    }
}

/// How often a message has been tried, with this time.
pub(super) struct Tries {
    pub attempt: u32,
    /// What went wrong before.
    pub failed: History,
}

impl Default for Tries {
    fn default() -> Self {
        Self { attempt: 1, failed: History::default() }
    }
}

/// What came of handling a range of a batch.
pub(super) enum Judged {
    /// All up to `to` may be settled; then `retry` says why the next one is to be tried again.
    Up { to: usize, tally: Tally, retry: Option<Cow<'static, str>> },
    /// One of several messages made the handler panic.
    Panicked,
    /// What the handler needs is away.
    Away(anyhow::Error),
}

enum Answer {
    Verdicts(Vec<Verdict>),
    Panicked,
    Away(anyhow::Error),
}
