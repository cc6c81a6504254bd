//! The thread that reads from the store what is due.

use std::{
    collections::HashSet,
    io,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread::{Builder, JoinHandle},
    time::{Duration, SystemTime},
};

use tracing::warn;

use super::{
    engine::{Shared, lane},
    lane::Command,
    store::milliseconds,
};
use crate::shutdown::Shutdown;

/// How often the end is looked for, and how long a read that failed is not tried again.
const TICK: Duration = Duration::from_millis(100);

/// A lane asks for more.
pub struct Load {
    pub subscriber: i64,
    /// What it has.
    pub held: HashSet<i64>,
    pub most: usize,
}

pub fn start(shared: Arc<Shared>, loads: Receiver<Load>, ended: Shutdown) -> io::Result<JoinHandle<()>> {
    Builder::new().name("deliver-load".into()).spawn(move || {
        while !ended.requested() {
            match loads.recv_timeout(TICK) {
                Ok(load) => serve(&shared, &load, &ended),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    })
}

fn serve(shared: &Shared, Load { subscriber, held, most }: &Load, ended: &Shutdown) {
    let due = loop {
        // It has gone meanwhile
        if lane(shared, *subscriber).is_none() {
            return;
        }
        match shared.store.due(*subscriber, milliseconds(SystemTime::now()), held, *most) {
            Ok(due) => break due,
            Err(error) => warn!("{error:#}"),
        }
        if ended.pause(TICK) {
            return;
        }
    };
    if let Some(lane) = lane(shared, *subscriber) {
        let _ = lane.commands.send(Command::Loaded(due));
    }
}
