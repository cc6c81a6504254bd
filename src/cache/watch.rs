//! Seeing that a file has changed, and taking its new content once it is whole.

use std::{
    fs::Metadata,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use tracing::{debug, error, info};

use super::{Keys, lines::Layout};
use crate::error::Misconfigured;

/// Between two looks at the file.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// Looks over which a changed file has to stay the same before it is taken.
const LOOKS: u32 = 2;

/// How coarse the times of a file may be: two changes within it can leave the same time behind.
const TICK_NANOS: u128 = 20_000_000;

/// How long a file that changes while it is read is read anew at start.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a file holds, ready for look-ups.
pub trait Content: Sized + Send + Sync + 'static {
    /// Reads `path`, which had `stamp` over `looks` looks in a row; [`Trouble::Unsettled`] where it has another one by
    /// now. `None` where `current` holds the same.
    fn read(
        path: &Path,
        layout: Layout,
        stamp: &Stamp,
        looks: u32,
        current: Option<&Self>,
    ) -> Result<Option<Self>, Trouble>;

    /// Gives `take` the value of each key in their order, `""` with [`Layout::Single`].
    fn each(&self, keys: &Keys, take: impl FnMut(Option<&str>)) -> anyhow::Result<()>;

    /// How many lines it was made of.
    fn lines(&self) -> u64;

    /// What to say of a file that cannot be read.
    fn unreadable(path: &Path, kind: io::ErrorKind) -> Misconfigured;
}

/// What tells that a file is another one, or was written to. The time of the last change of its inode catches what
/// its modification time does not: a time set back by a copying tool, permissions mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) size: u64,
    pub(super) modified: (i64, i64),
    pub(super) changed: (i64, i64),
}

/// What a look at the path found.
pub type Sight = Result<Stamp, io::ErrorKind>;

/// Why there is no new content.
#[derive(Debug)]
pub enum Trouble {
    /// The file is being written to: look again.
    Unsettled,
    Unreadable(io::ErrorKind),
    /// What is in it is of no use, and will not be until it changes.
    Wrong(Misconfigured),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Unreadable(error.kind())
    }
}

/// What came of a look.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Unchanged,
    /// It has changed, and is not known yet to be whole.
    Unsettled,
    Reread {
        lines: u64,
        took: Duration,
    },
    /// The first look that found this; the old content stays.
    Failed(String),
}

impl Outcome {
    pub fn log(&self, path: &Path) {
        match self {
            Self::Unchanged => {}
            Self::Unsettled => debug!("{} has changed", path.display()),
            Self::Reread { lines, took } => info!("{}: reread, {lines} lines in {took:.1?}", path.display()),
            Self::Failed(why) => error!("{why}; the content read before stays in use"),
        }
    }
}

/// When the content in use was read. Cheap to clone, and all clones are the same.
#[derive(Clone, Debug)]
pub struct ReadAt(Arc<Mutex<Instant>>);

impl ReadAt {
    fn now() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    fn again(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// How long ago that was.
    pub fn age(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

/// A file and its newest good content.
pub struct Watch<C> {
    path: PathBuf,
    layout: Layout,
    current: Arc<ArcSwap<C>>,
    read_at: ReadAt,
    /// What needs no more attention: loaded, or found wrong.
    judged: Option<Sight>,
    /// What failed last, so that it is told once.
    told: Option<Sight>,
    seen: Option<Sight>,
    /// Looks in a row that found `seen`.
    looks: u32,
}

impl<C: Content> Watch<C> {
    /// Reads `path` for the first time.
    pub fn open(path: &Path, layout: Layout) -> Result<Self, Misconfigured> {
        let deadline = Instant::now() + PATIENCE;
        let (content, judged) = loop {
            match first(path, layout) {
                Ok(first) => break first,
                Err(Trouble::Unsettled) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(50)),
                Err(trouble) => return Err(trouble.of::<C>(path)),
            }
        };
        let current = Arc::new(ArcSwap::from_pointee(content));
        let read_at = ReadAt::now();
        Ok(Self { path: path.into(), layout, current, read_at, judged, told: None, seen: None, looks: 0 })
    }

    pub fn current(&self) -> Arc<ArcSwap<C>> {
        Arc::clone(&self.current)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Looks at the file, and takes its content where it has changed and is whole.
    pub fn look(&mut self) -> Outcome {
        let sight = sight(&self.path);
        self.looks = if self.seen == Some(sight) { self.looks + 1 } else { 1 };
        self.seen = Some(sight);
        if self.judged == Some(sight) {
            return Outcome::Unchanged;
        }
        if self.looks < LOOKS {
            return Outcome::Unsettled;
        }
        let lasting = sight.is_ok_and(|stamp| stamp.is_lasting(SystemTime::now()));
        match self.take(sight) {
            Ok(outcome) => {
                self.told = None;
                self.judged = lasting.then_some(sight);
                outcome
            }
            Err(Trouble::Unsettled) => Outcome::Unsettled,
            Err(trouble) => {
                // What cannot be read is tried again at each look, what is wrong in itself only when it changes
                let in_itself = !matches!(trouble, Trouble::Unreadable(_));
                self.judged = (in_itself && lasting).then_some(sight);
                if self.told.replace(sight) == Some(sight) {
                    return Outcome::Unchanged;
                }
                Outcome::Failed(trouble.of::<C>(&self.path).0)
            }
        }
    }

    fn take(&self, sight: Sight) -> Result<Outcome, Trouble> {
        let begun = Instant::now();
        let stamp = sight.map_err(Trouble::Unreadable)?;
        let read = C::read(&self.path, self.layout, &stamp, self.looks, Some(&self.current.load()))?;
        let Some(content) = read else { return Ok(Outcome::Unchanged) };
        let lines = content.lines();
        self.current.store(Arc::new(content));
        self.read_at.again();
        Ok(Outcome::Reread { lines, took: begun.elapsed() })
    }
}

fn first<C: Content>(path: &Path, layout: Layout) -> Result<(C, Option<Sight>), Trouble> {
    let sight = sight(path);
    let stamp = sight.map_err(Trouble::Unreadable)?;
    let lasting = stamp.is_lasting(SystemTime::now());
    let content = C::read(path, layout, &stamp, u32::MAX, None)?.ok_or(Trouble::Unsettled)?;
    Ok((content, lasting.then_some(sight)))
}

/// The newest good version of a file, looked at by a thread.
pub struct Watched<C> {
    pub current: Arc<ArcSwap<C>>,
    pub read_at: ReadAt,
    /// The thread ends when this is dropped.
    _stop: mpsc::Sender<()>,
}

impl<C: Content> Watched<C> {
    pub fn open(interval: Duration, path: &Path, layout: Layout) -> anyhow::Result<Self> {
        let mut watch = Watch::open(path, layout)?;
        let (current, read_at) = (watch.current(), watch.read_at.clone());
        let (stop, stopped) = mpsc::channel();
        std::thread::Builder::new().name("cache-reread".into()).spawn(move || {
            while stopped.recv_timeout(interval) == Err(mpsc::RecvTimeoutError::Timeout) {
                watch.look().log(watch.path());
            }
        })?;
        Ok(Self { current, read_at, _stop: stop })
    }
}

/// Looks at `path`.
pub fn sight(path: &Path) -> Sight {
    let metadata = path.metadata().map_err(|error| error.kind())?;
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory);
    }
    if !metadata.is_file() {
        return Err(io::ErrorKind::InvalidInput);
    }
    Ok(Stamp::of(&metadata))
}

impl Stamp {
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether a change after `now` is sure to give another stamp: not where the last one is only just over.
    pub(super) fn is_lasting(&self, now: SystemTime) -> bool {
        let Ok(now) = now.duration_since(UNIX_EPOCH) else { return true };
        let changed = i128::from(self.changed.0) * 1_000_000_000 + i128::from(self.changed.1);
        (now.as_nanos() as i128).abs_diff(changed) > TICK_NANOS
    }
}

impl Trouble {
    /// The same as an error of `path`.
    fn of<C: Content>(self, path: &Path) -> Misconfigured {
        match self {
            Self::Unsettled => Misconfigured(format!("{}: keeps changing while it is read", path.display())),
            Self::Unreadable(kind) => C::unreadable(path, kind),
            Self::Wrong(wrong) => wrong,
        }
    }
}
