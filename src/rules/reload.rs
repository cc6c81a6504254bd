//! Rereading the rules when the configuration file has changed.

use std::{
    fs,
    path::Path,
    sync::{Arc, mpsc},
    time::Duration,
};

use arc_swap::ArcSwap;
use tracing::{error, info};

use super::{Rules, set::Current};
use crate::{config::Config, error::Misconfigured};

/// Between two looks at the file.
const INTERVAL: Duration = Duration::from_secs(1);

/// The rules that hold, kept up with the file by a thread.
pub struct Watched {
    pub current: Current,
    /// The thread ends when this is dropped.
    _stop: mpsc::Sender<()>,
}

impl Watched {
    /// Watches the file that `config` was read from, if it was from one.
    pub fn new(rules: Rules, config: &Config) -> anyhow::Result<Self> {
        let current = Arc::new(ArcSwap::from_pointee(rules));
        let (stop, stopped) = mpsc::channel();
        if let Some(mut watch) = Watch::new(config, Arc::clone(&current)) {
            std::thread::Builder::new().name("rules-reread".into()).spawn(move || {
                while stopped.recv_timeout(INTERVAL) == Err(mpsc::RecvTimeoutError::Timeout) {
                    watch.look();
                }
            })?;
        }
        Ok(Self { current, _stop: stop })
    }
}

/// A configuration file. It is small, so its content is compared, which no clock and no copying tool can deceive.
struct Watch {
    config: Config,
    current: Current,
    /// What needs no more attention: compiled, or found wrong.
    judged: Seen,
    seen: Seen,
}

/// The text of the file, or why it cannot be read.
type Seen = Result<Vec<u8>, String>;

impl Watch {
    fn new(config: &Config, current: Current) -> Option<Self> {
        let path = config.file()?;
        // Reading a pipe would take what is meant for others, and wait for it
        path.metadata().is_ok_and(|file| file.is_file()).then_some(())?;
        let text = config.file_text().map(|text| text.as_bytes().to_vec());
        let judged = text.map_or_else(|| read(path), Ok);
        Some(Self { config: config.clone(), current, seen: judged.clone(), judged })
    }

    /// Takes the rules of the file where it has changed and is the same as at the look before: its writer is done.
    fn look(&mut self) {
        let Some(path) = self.config.file() else { return };
        let text = read(path);
        let settled = self.seen == text;
        self.seen = text;
        if !settled || self.seen == self.judged {
            return;
        }
        self.judged = self.seen.clone();
        match self.config.of_file(Some(path)).and_then(|config| Rules::new(&config)) {
            Ok(rules) => self.take(rules),
            Err(Misconfigured(why)) => error!("{why}; the rules read before stay in force"),
        }
    }

    fn take(&self, rules: Rules) {
        let before = self.current.load();
        if before.hash() == rules.hash() && before.same_route(&rules) {
            return;
        }
        if before.topic() != rules.topic() {
            error!("busdriver.topic has changed: it counts from the next start; the rules read before stay in force");
            return;
        }
        info!(rules = rules.hash(), "rules reread");
        self.current.store(Arc::new(rules));
    }
}

fn read(path: &Path) -> Seen {
    fs::read(path).map_err(|error| error.kind().to_string())
}
