//! Who subscribes, at present: out of the configuration file and the table, both looked at again and again.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::PathBuf,
    sync::{Arc, mpsc},
    time::Duration,
};

use arc_swap::ArcSwap;
use tracing::{error, info};

use super::{
    Subscriber, Subscribers, config, readable,
    table::{Table, Version},
};
use crate::{config::Config, deliver::options::Options, error::Misconfigured, webhook::address::Allowed};

/// Between two looks at what is watched. What has changed counts after two of them at most.
const INTERVAL: Duration = Duration::from_millis(300);

/// The subscribers that there are, kept up with file and table by a thread.
pub struct Watched {
    current: Arc<ArcSwap<Subscribers>>,
    allowed: Arc<ArcSwap<Allowed>>,
    /// Asks for a look; the thread ends when this is dropped.
    ask: mpsc::Sender<()>,
}

impl Watched {
    /// Reads all subscribers, and sees changes from then on within a second.
    ///
    /// Fails where the configuration or the file of the table is wrong; a later change that is wrong is told in the log, and what
    /// was read before holds. A row of the table that is no subscriber is left out, at any time, and told once.
    pub fn start(config: &Config) -> anyhow::Result<Self> {
        let mut watch = Watch::new(config)?;
        let (current, allowed) = (Arc::clone(&watch.current), Arc::clone(&watch.allowed));
        let (ask, asked) = mpsc::channel();
        std::thread::Builder::new().name("subscribers".into()).spawn(move || {
            while asked.recv_timeout(INTERVAL) != Err(mpsc::RecvTimeoutError::Disconnected) {
                watch.look();
            }
        })?;
        Ok(Self { current, allowed, ask })
    }

    /// All that hold now.
    pub fn current(&self) -> Arc<Subscribers> {
        self.current.load_full()
    }

    /// The networks that requests may go to, always those that hold now.
    pub fn allowed(&self) -> Arc<ArcSwap<Allowed>> {
        Arc::clone(&self.allowed)
    }

    /// Has the thread look now.
    pub fn refresh(&self) {
        // Without a thread there is nothing that could be seen
        let _ = self.ask.send(());
    }
}

/// Reads all subscribers once, and why rows of the table are none, a line each.
pub fn load(config: &Config) -> Result<(Arc<Subscribers>, Vec<String>), Misconfigured> {
    let mut watch = Watch::empty(config, Options::new(config)?);
    watch.take_file(config)?;
    let faults = watch.take_table().map_err(|what| config.error(TABLE, what))?;
    watch.publish();
    Ok((watch.current.load_full(), faults))
}

/// All that is wrong with the subscribers of a configuration, and with their table.
pub fn check(config: &Config) -> Vec<Misconfigured> {
    let options = match Options::new(config) {
        Ok(options) => options,
        Err(error) => return vec![error],
    };
    let (_, mut found) = config::listed(config, &options);
    let mut watch = Watch::empty(config, options);
    match watch.take_table() {
        Ok(faults) => found.extend(faults.into_iter().map(Misconfigured)),
        Err(what) => found.push(config.error(TABLE, what)),
    }
    found
}

const TABLE: &str = "deliver.subscribers";

pub(super) struct Watch {
    config: Config,
    options: Options,
    from_file: Vec<Arc<Subscriber>>,
    from_table: Vec<Arc<Subscriber>>,
    /// Names of rows that are no subscribers, or that were there before the table went.
    left_out: HashSet<String>,
    pub(super) current: Arc<ArcSwap<Subscribers>>,
    allowed: Arc<ArcSwap<Allowed>>,
    table: Table,
    /// Files of secrets that the configuration names.
    secret_files: Vec<PathBuf>,
    /// What needs no more attention: read, or found wrong.
    judged: Texts,
    seen: Texts,
    judged_table: Option<Version>,
    /// What was said of the table and its rows, so that it is said once.
    told: HashSet<String>,
}

/// The configuration file and those of secrets. They are small, so their content is compared, which no clock can deceive.
#[derive(Clone, Default, PartialEq)]
struct Texts(HashMap<PathBuf, Result<Vec<u8>, String>>);

impl Watch {
    pub(super) fn new(config: &Config) -> Result<Self, Misconfigured> {
        let mut watch = Self::empty(config, Options::new(config)?);
        watch.take_file(config)?;
        watch.judged_table = Some(watch.table.version().map_err(|what| config.error(TABLE, what))?);
        let faults = watch.take_table().map_err(|what| config.error(TABLE, what))?;
        watch.tell(faults);
        watch.judged = watch.texts();
        if let (Some(path), Some(text)) = (config.file(), config.file_text()) {
            // Written since it was read, it is to be read again
            watch.judged.0.entry(path.to_owned()).and_modify(|judged| *judged = Ok(text.as_bytes().to_vec()));
        }
        watch.seen = watch.judged.clone();
        watch.publish();
        Ok(watch)
    }

    /// That has read nothing.
    fn empty(config: &Config, options: Options) -> Self {
        Self {
            config: config.clone(),
            table: Table::new(&options.subscribers),
            options,
            from_file: Vec::new(),
            from_table: Vec::new(),
            left_out: HashSet::new(),
            current: Arc::default(),
            allowed: Arc::default(),
            secret_files: Vec::new(),
            judged: Texts::default(),
            seen: Texts::default(),
            judged_table: None,
            told: HashSet::new(),
        }
    }

    pub(super) fn look(&mut self) {
        let changed = [self.look_at_texts(), self.look_at_table()];
        if changed.contains(&true) {
            self.publish();
            info!(subscribers = self.current.load().iter().count(), "subscribers reread");
        }
    }

    /// Takes the configuration file, and secrets, where they have changed and are the same as at the look before: their writer is
    /// done. Tells whether anything was taken.
    fn look_at_texts(&mut self) -> bool {
        let texts = self.texts();
        let settled = self.seen == texts;
        self.seen = texts;
        if !settled || self.seen == self.judged {
            return false;
        }
        let reread = self.config.of_file(self.config.file());
        let taken = reread.and_then(|config| self.take_file(&config));
        // Further files may be named from now on. What was there before counts as it was: it may be another one by now
        let Texts(mut judged) = self.texts();
        for (path, text) in &mut judged {
            if let Some(before) = self.seen.0.get(path) {
                text.clone_from(before);
            }
        }
        self.judged = Texts(judged);
        self.seen = self.judged.clone();
        if let Err(Misconfigured(why)) = taken {
            error!("{why}; the subscribers read before stay");
            return false;
        }
        // Defaults and allowed networks hold for its rows too
        self.judged_table = None;
        true
    }

    /// Takes the table where it has changed. Tells whether it was.
    fn look_at_table(&mut self) -> bool {
        let version = match self.table.version() {
            Ok(version) if self.judged_table == Some(version) => return false,
            Ok(version) => version,
            Err(what) => return self.stay(what),
        };
        match self.take_table() {
            Ok(faults) => {
                self.judged_table = Some(version);
                self.tell(faults);
                true
            }
            // It may be another's lock: the next look tries again
            Err(what) => self.stay(what),
        }
    }

    fn stay(&mut self, what: String) -> bool {
        if self.told.insert(what.clone()) {
            error!("{what}; the subscribers read before stay");
        }
        false
    }

    /// Tells of rows what was not told before.
    fn tell(&mut self, faults: Vec<String>) {
        for fault in faults.iter().filter(|fault| !self.told.contains(*fault)) {
            error!("{fault}; it is left out");
        }
        self.told = faults.into_iter().collect();
    }

    /// Takes all that the configuration says, or nothing.
    fn take_file(&mut self, config: &Config) -> Result<(), Misconfigured> {
        let options = Options::new(config)?;
        // Also where one of them is missing: it may come
        self.secret_files = options.subscriber.iter().filter_map(|listed| listed.secret_file.clone()).collect();
        let (listed, errors) = config::listed(config, &options);
        if let Some(error) = errors.into_iter().next() {
            return Err(error);
        }
        if options.subscribers != self.table.path() {
            self.table = Table::new(&options.subscribers);
        }
        self.from_file = listed.into_iter().map(Arc::new).collect();
        self.options = options;
        self.config = config.clone();
        Ok(())
    }

    /// Takes the rows that are subscribers, and gives what is wrong with the others.
    fn take_table(&mut self) -> Result<Vec<String>, String> {
        let rows = self.table.read(&self.options)?;
        let mut names: HashSet<String> = self.options.subscriber.iter().map(|listed| listed.name.clone()).collect();
        let (mut taken, mut faults) = (Vec::with_capacity(rows.len()), Vec::new());
        // A file that is away may come back: what waits for those that it had is kept
        match self.table.is_there() {
            true => self.left_out.clear(),
            false => self.left_out.extend(self.from_table.iter().map(|subscriber| subscriber.name.clone())),
        }
        let path = self.table.path().display();
        for (name, read) in rows {
            match read {
                Ok(_) if names.contains(&name) => {
                    faults.push(format!("{path}: subscriber {name}: there is another one of this name"));
                }
                Ok(subscriber) => match readable(&self.config, &subscriber.topic) {
                    Ok(()) => taken.push(Arc::new(subscriber)),
                    Err(why) => {
                        faults.push(format!("{path}: subscriber {name}: {why}"));
                        self.left_out.insert(name.clone());
                    }
                },
                Err(why) => {
                    faults.push(format!("{path}: subscriber {name}: {why}"));
                    self.left_out.insert(name.clone());
                }
            }
            names.insert(name);
        }
        self.from_table = taken;
        Ok(faults)
    }

    fn publish(&self) {
        self.allowed.store(self.options.allowed());
        let all = self.from_file.iter().chain(&self.from_table).map(Arc::clone);
        self.current.store(Arc::new(Subscribers::new(all).leaving_out(self.left_out.clone())));
    }

    fn texts(&self) -> Texts {
        let mut texts = HashMap::new();
        let mut add = |path: PathBuf| {
            let text = fs::read(&path).map_err(|error| error.kind().to_string());
            texts.insert(path, text);
        };
        // Reading a pipe would take what is meant for others, and wait for it
        let file = self.config.file().filter(|path| path.metadata().map_or(true, |file| file.is_file()));
        let secrets = self.secret_files.iter().chain(self.table.secret_files()).cloned();
        file.map(ToOwned::to_owned).into_iter().chain(secrets).for_each(&mut add);
        Texts(texts)
    }
}
