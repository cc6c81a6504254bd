//! Building the file of an [`lmdb`](super) cache from a text file.
//!
//! Lines are sorted by the hash of their key, in pieces on the disk, and appended to LMDB bucket by bucket: each page is
//! written once, and memory stays the same however large the file is. What is written on the way is in a folder beside
//! the new file, which takes its name once it is whole and on the disk. A folder that a killed build has left behind is
//! emptied by the next one.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
};

use anyhow::{Context, anyhow};
use heed::{CommitOrAbort, Database, PutFlags, types::Bytes};

use super::{
    format::{Bucket, Footer, Place, SLOTS, hash},
    raw,
    sort::{Group, Merge, Piece},
};
use crate::{
    cache::lines::{Layout, Reader},
    error::Misconfigured,
};

/// Records of a bucket, in bytes: some ten in each slot.
const BUCKET_BYTES: u64 = 400 * SLOTS as u64;

/// Written to LMDB in one transaction, which it keeps in memory.
const COMMIT_BYTES: usize = 16 << 20;

/// Lines between two steps.
const STEP: u64 = 1 << 14;

/// How far a build is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// So many bytes of the text file are read.
    Read(u64),
    /// So many of the records, in bytes, are written.
    Write { done: u64, of: u64 },
}

/// What was built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Built {
    /// Different keys.
    pub lines: u64,
    /// The size of the file.
    pub bytes: u64,
}

/// Builds `out` from the text file `input`; on a repeated key the last line counts. `step` is called now and then; an
/// error of its own ends the build. Whatever goes wrong, `out` is as it was.
///
/// [`Misconfigured`] where `input` cannot be read or has a malformed line.
pub fn build(
    input: &Path,
    layout: Layout,
    out: &Path,
    step: &mut dyn FnMut(Step) -> anyhow::Result<()>,
) -> anyhow::Result<Built> {
    let context = || format!("build {}", out.display());
    if out.is_dir() {
        return Err(Misconfigured(format!("{}: is a directory, the path of a file is expected", out.display())).into());
    }
    let mut reader = Reader::open(input, layout)?;
    let workplace = Workplace::open(out)?;
    let seed = rand::random();
    let (runs, bytes) = read(&mut reader, seed, &workplace, step)?;
    let built = write(runs, bytes, layout, seed, &workplace, step);
    let built = built.map_err(|error| workplace.explain(error)).with_context(context)?;
    let folder = workplace.parent.clone();
    fs::rename(workplace.database(), out).with_context(context)?;
    File::open(folder).and_then(|folder| folder.sync_all()).with_context(context)?;
    Ok(built)
}

/// Reads all lines into sorted runs; gives these, and the bytes of the records.
fn read(
    reader: &mut Reader,
    seed: u64,
    workplace: &Workplace,
    step: &mut dyn FnMut(Step) -> anyhow::Result<()>,
) -> anyhow::Result<(Vec<PathBuf>, u64)> {
    thread::scope(|scope| {
        // A piece is sorted while the next one is read: two in memory
        let (full, pieces) = mpsc::sync_channel::<Piece>(0);
        let sorter = scope.spawn(move || -> io::Result<Vec<PathBuf>> {
            let mut runs = Vec::new();
            for piece in pieces {
                let path = workplace.folder.join(format!("run-{}", runs.len()));
                piece.write(&path)?;
                runs.push(path);
            }
            Ok(runs)
        });
        let (mut piece, mut bytes, mut lines) = (Piece::new(), 0, 0_u64);
        while let Some((key, value)) = reader.read()? {
            piece.push(hash(seed, key.as_bytes()), key, value);
            if piece.is_full() {
                bytes += piece.bytes();
                // Where the sorter has failed, it says below why
                if full.send(std::mem::replace(&mut piece, Piece::new())).is_err() {
                    break;
                }
            }
            lines += 1;
            if lines.is_multiple_of(STEP) {
                step(Step::Read(reader.bytes()))?;
            }
        }
        bytes += piece.bytes();
        if piece.bytes() > 0 {
            let _ = full.send(piece);
        }
        drop(full);
        let runs = sorter.join().map_err(|_| anyhow!("the sorting thread panicked"))?;
        Ok((runs.with_context(|| format!("build {}", workplace.out.display()))?, bytes))
    })
}

/// Writes the records of these runs as a database, with its footer, to the disk.
fn write(
    runs: Vec<PathBuf>,
    bytes: u64,
    layout: Layout,
    seed: u64,
    workplace: &Workplace,
    step: &mut dyn FnMut(Step) -> anyhow::Result<()>,
) -> anyhow::Result<Built> {
    let path = workplace.database();
    // Readable for others, as far as the umask lets it: the stops may run as another user
    OpenOptions::new().write(true).create_new(true).mode(0o666).open(&path)?;
    let mut merge = Merge::open(runs, &workplace.folder, &mut || step(Step::Write { done: 0, of: bytes }))?;
    let buckets = (bytes / BUCKET_BYTES).clamp(1, u32::MAX.into()) as u32;
    // Address space, not memory: far more than the pages can need
    let map_size = (4 * bytes + (1 << 30)).next_multiple_of(1 << 20);
    let env = raw::create(&path, usize::try_from(map_size)?)?;
    let created = env.create_databases_and_commit(env.write_txn()?, |opener, txn| {
        opener.create_database::<Bytes, Bytes>(txn, None).map(CommitOrAbort::<_, ()>::Commit)
    });
    let database: Database<'_, Bytes, Bytes> = created.map_err(|error: heed::Error| error)?.unwrap_commit();
    let (mut group, mut content) = (Group::default(), Bucket::default());
    let (mut lines, mut done) = (0, 0);
    while merge.peek().is_some() {
        let mut transaction = env.write_txn()?;
        let mut pending = 0;
        while pending < COMMIT_BYTES
            && let Some(hash) = merge.peek()
        {
            let number = Place::of(hash, buckets).bucket;
            content.clear();
            while let Some(place) = merge.peek().map(|hash| Place::of(hash, buckets))
                && place.bucket == number
            {
                merge.next(&mut group)?;
                content.push(place, &group.records);
                pending += group.records.len();
                lines += group.count;
            }
            database.put_with_flags(&mut transaction, PutFlags::APPEND, &number.to_be_bytes(), content.as_bytes())?;
        }
        transaction.commit()?;
        done += pending as u64;
        step(Step::Write { done, of: bytes })?;
    }
    env.force_sync()?;
    env.prepare_for_closing().wait();
    let mut file = OpenOptions::new().read(true).append(true).open(&path)?;
    let footer = Footer::of(&mut file, layout, lines, buckets, seed)?;
    file.write_all(&footer.to_bytes()?)?;
    file.sync_all()?;
    Ok(Built { lines, bytes: file.metadata()?.len() })
}

/// The folder beside the new file for what is written on the way; emptied at first, removed when dropped.
struct Workplace {
    out: PathBuf,
    /// Where the new file will be.
    parent: PathBuf,
    folder: PathBuf,
    /// Held by one build at a time.
    _lock: File,
}

impl Workplace {
    fn open(out: &Path) -> anyhow::Result<Self> {
        let context = || format!("build {}", out.display());
        let name = out.file_name().ok_or_else(|| anyhow!("{}: is no path of a file", out.display()))?;
        let parent = match out.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let folder = parent.join(format!(".{}.build", name.display()));
        let lock_path = folder.join("lock");
        let lock = loop {
            fs::create_dir_all(&folder).with_context(context)?;
            let lock = File::create(&lock_path);
            let lock = match lock {
                // The build before this one has just removed the folder
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                lock => lock.with_context(context)?,
            };
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(anyhow!("{}: another `metrobus cache build` is building it", out.display()));
                }
                Err(TryLockError::Error(error)) => return Err(error).with_context(context),
            }
            let is_that = |metadata: fs::Metadata| lock.metadata().is_ok_and(|own| own.ino() == metadata.ino());
            if fs::metadata(&lock_path).is_ok_and(is_that) {
                break lock;
            }
        };
        let workplace = Self { out: out.into(), parent: parent.into(), folder, _lock: lock };
        for entry in fs::read_dir(&workplace.folder).with_context(context)? {
            let path = entry.with_context(context)?.path();
            if path != lock_path {
                fs::remove_file(&path).with_context(context)?;
            }
        }
        Ok(workplace)
    }

    /// `error`, or what is behind it: LMDB says of a disk that was full amid a write that it failed.
    fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        if !error.is::<heed::Error>() {
            return error;
        }
        let write = |mut file: File| file.write_all(&[0; 1 << 16]);
        File::create(self.folder.join("probe")).and_then(write).map_or_else(Into::into, |()| error)
    }

    fn database(&self) -> PathBuf {
        self.folder.join("database")
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}
