//! What has to outlive a restart: idempotency keys, and what of quotas is used up. In a thread of its own, as it waits for the disk.
//!
//! Requests that come together share a commit.

use std::{
    mem,
    path::Path,
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError, SyncSender, TrySendError},
    },
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Result, anyhow};
use tokio::sync::oneshot;
use tracing::error;
use uuid::Uuid;

use super::{
    access::{Guest, day},
    idempotency::{Begun, RETENTION, Request, Store},
};
use crate::dead_letter::now_ms;

/// Requests that wait at once.
const WAITING: usize = 10_000;

/// Between two notes of what was used up: a crash forgets at most as much.
const NOTE: Duration = Duration::from_secs(1);

/// A request, or one event of it, that is done once only.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Among all keys of the caller.
    pub key: String,
    pub fingerprint: [u8; 32],
    pub ids: Vec<Uuid>,
}

/// What became of what was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The bus has it.
    Done,
    /// It is not on the bus, and will not be.
    Nothing,
    /// Nobody knows.
    Unsure,
}

enum Call {
    LookUp(Begin),
    Begin(Begin),
    End(End),
}

struct Begin {
    caller: Arc<str>,
    entries: Vec<Entry>,
    answer: oneshot::Sender<Result<Vec<Begun>>>,
}

struct End {
    caller: Arc<str>,
    keys: Vec<(String, Outcome)>,
    answer: oneshot::Sender<()>,
}

/// The thread that has the file.
pub struct Ledger {
    calls: Option<SyncSender<Call>>,
    thread: Option<JoinHandle<()>>,
}

/// Too many wait already.
#[derive(Debug)]
pub struct Busy;

impl Ledger {
    /// Opens the file at `path` and tells `guests` what they have used up today.
    pub fn open(path: &Path, guests: Vec<Arc<Guest>>) -> Result<Self> {
        let mut store = Store::open(path, RETENTION)?;
        let (today, _) = day(SystemTime::now());
        for guest in &guests {
            guest.resume(today, store.used(guest.name(), today)?);
        }
        let (send, calls) = mpsc::sync_channel(WAITING);
        let mut work = Work { store, guests, noted: Instant::now() };
        let thread = std::thread::Builder::new().name("ledger".into()).spawn(move || work.run(&calls))?;
        Ok(Self { calls: Some(send), thread: Some(thread) })
    }

    /// Notes that a caller begins with `entries`, and gives for each what is known of it.
    pub async fn begin(&self, caller: &Arc<str>, entries: Vec<Entry>) -> Result<Result<Vec<Begun>>, Busy> {
        self.ask(caller, entries, Call::Begin).await
    }

    /// The same, and nothing begins.
    pub async fn look_up(&self, caller: &Arc<str>, entries: Vec<Entry>) -> Result<Result<Vec<Begun>>, Busy> {
        self.ask(caller, entries, Call::LookUp).await
    }

    async fn ask(
        &self,
        caller: &Arc<str>,
        entries: Vec<Entry>,
        call: fn(Begin) -> Call,
    ) -> Result<Result<Vec<Begun>>, Busy> {
        let (answer, answered) = oneshot::channel();
        self.call(call(Begin { caller: Arc::clone(caller), entries, answer }))?;
        Ok(answered.await.unwrap_or_else(|_| Err(anyhow!("the thread of the ledger has ended"))))
    }

    /// Notes what became of what was begun. When this returns, who asks is told so.
    pub async fn end(&self, caller: &Arc<str>, keys: Vec<(String, Outcome)>) {
        let (answer, answered) = oneshot::channel();
        let mut call = Call::End(End { caller: Arc::clone(caller), keys, answer });
        // It has to be noted, however many wait
        while let Some(calls) = &self.calls
            && let Err(TrySendError::Full(returned)) = calls.try_send(call)
        {
            call = returned;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let _ = answered.await;
    }

    fn call(&self, call: Call) -> Result<(), Busy> {
        let calls = self.calls.as_ref().ok_or(Busy)?;
        calls.try_send(call).map_err(|_| Busy)
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        drop(self.calls.take());
        // A panic there was told in the log, and is no reason to have one here
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

struct Work {
    store: Store,
    guests: Vec<Arc<Guest>>,
    noted: Instant,
}

impl Work {
    fn run(&mut self, calls: &mpsc::Receiver<Call>) {
        loop {
            match calls.recv_timeout(NOTE) {
                Ok(call) => self.answer([call].into_iter().chain(calls.try_iter()).collect()),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.noted.elapsed() >= NOTE {
                self.note();
            }
        }
        self.note();
    }

    fn answer(&mut self, calls: Vec<Call>) {
        let (mut begins, mut ends, mut looks) = (Vec::new(), Vec::new(), Vec::new());
        for call in calls {
            match call {
                Call::LookUp(look) => looks.push(look),
                Call::Begin(begin) => begins.push(begin),
                Call::End(end) => ends.push(end),
            }
        }
        // First the ends: who begins again with such a key is to find them
        if !ends.is_empty() {
            self.end_all(&ends);
            ends.into_iter().for_each(|end| _ = end.answer.send(()));
        }
        if !looks.is_empty() {
            answer_all(looks, |requests| self.store.look_up(requests, now_ms()));
        }
        if !begins.is_empty() {
            answer_all(begins, |requests| self.store.begin_all(requests, now_ms()));
        }
    }

    fn end_all(&mut self, ends: &[End]) {
        let of = |wanted: Outcome| -> Vec<(&str, &str)> {
            let keys = ends.iter().flat_map(|end| end.keys.iter().map(|key| (&end.caller, key)));
            keys.filter(|(_, (_, outcome))| *outcome == wanted).map(|(caller, (key, _))| (&**caller, &**key)).collect()
        };
        let (done, nothing) = (of(Outcome::Done), of(Outcome::Nothing));
        let mut settled = Ok(());
        if !done.is_empty() {
            settled = settled.and(self.store.done_all(&done));
        }
        if !nothing.is_empty() {
            settled = settled.and(self.store.forget_all(&nothing));
        }
        for (caller, key) in of(Outcome::Unsure) {
            self.store.unsure(caller, key);
        }
        // The keys are as after a crash: a repeat is published again, with the same ids
        if let Err(error) = settled {
            error!("{error:#}");
        }
    }

    fn note(&mut self) {
        self.noted = Instant::now();
        for guest in &self.guests {
            if let Some((day, count)) = guest.to_note()
                && let Err(error) = self.store.add(guest.name(), day, count)
            {
                error!("the quota of {}: {error:#}", guest.name());
            }
        }
    }
}

/// Answers those who ask with what `ask` gives for all of their entries.
fn answer_all(begins: Vec<Begin>, ask: impl FnOnce(&[Request<'_>]) -> Result<Vec<Begun>>) {
    let requests: Vec<_> = begins
        .iter()
        .flat_map(|begin| begin.entries.iter().map(|entry| (&begin.caller, entry)))
        .map(|(caller, Entry { key, fingerprint, ids })| Request { caller, key, fingerprint: *fingerprint, ids })
        .collect();
    match ask(&requests) {
        Ok(mut begun) => {
            for Begin { entries, answer, .. } in begins {
                let rest = begun.split_off(entries.len().min(begun.len()));
                let _ = answer.send(Ok(mem::replace(&mut begun, rest)));
            }
        }
        Err(error) => {
            error!("{error:#}");
            for Begin { answer, .. } in begins {
                let _ = answer.send(Err(anyhow!("{error:#}")));
            }
        }
    }
}
