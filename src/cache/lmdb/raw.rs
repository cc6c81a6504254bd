//! LMDB itself: all unsafe code of the cache.
//!
//! It is written through heed, and read through the C interface below it. heed keeps one environment a path and
//! process, and so cannot open the file that has taken another's place while the other one is still being read.

#![allow(unsafe_code)]

use std::{
    ffi::{CStr, CString, c_int, c_uint},
    fmt, io,
    marker::PhantomData,
    os::unix::ffi::OsStrExt,
    path::Path,
    ptr::{self, NonNull},
    slice,
};

use heed::{Env, EnvFlags, EnvOpenOptions, WithoutTls};
use lmdb_master_sys as c;

/// Opens `path`, an empty file, to be written. What is committed is on the disk after
/// [`force_sync`](Env::force_sync) alone.
///
/// `path` has to be the caller's alone until the environment is closed: nothing locks it.
pub fn create(path: &Path, map_size: usize) -> heed::Result<Env<WithoutTls>> {
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.map_size(map_size);
    // SAFETY: Without NO_LOCK's locks nobody else may open the file, and without the syncs it is of no use after a
    // crash. It is in a folder that this build has a lock on, under a name that nothing reads, and takes its real name
    // after `force_sync`. Its memory map is sound because nothing but LMDB writes to it while it is open.
    unsafe {
        options.flags(EnvFlags::NO_SUB_DIR | EnvFlags::NO_LOCK | EnvFlags::NO_SYNC | EnvFlags::NO_META_SYNC);
        options.open(path)
    }
}

/// What LMDB or the system said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error(c_int);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 > 0 {
            return io::Error::from_raw_os_error(self.0).fmt(f);
        }
        // SAFETY: it gives a text that ends in NUL and lives as long as the process, for every code below zero.
        let text = unsafe { CStr::from_ptr(c::mdb_strerror(self.0)) };
        f.write_str(&text.to_string_lossy())
    }
}

impl std::error::Error for Error {}

impl Error {
    fn check(code: c_int) -> Result<(), Self> {
        if code == c::MDB_SUCCESS as c_int { Ok(()) } else { Err(Self(code)) }
    }
}

/// A file of LMDB, mapped into memory to be read until this is dropped.
///
/// The file must not be written to or cut meanwhile: as with any memory map, the process could read what is no longer
/// of use, or end with SIGBUS. Renaming another one over it, or removing it, does no harm.
pub struct Database {
    env: NonNull<c::MDB_env>,
    unnamed: c::MDB_dbi,
}

// SAFETY: an environment may be used and closed by any thread. Without a lock file its read transactions share nothing
// that is written to after `open`: no table of readers, and no slots that belong to threads.
unsafe impl Send for Database {}
// SAFETY: as above.
unsafe impl Sync for Database {}

impl Drop for Database {
    fn drop(&mut self) {
        // SAFETY: it was made by `open` and is closed once; every `Read` borrows it, so none is left.
        unsafe { c::mdb_env_close(self.env.as_ptr()) }
    }
}

impl Database {
    /// Maps `path`. The caller has made sure that the two pages at its beginning are those that were written.
    pub fn open(path: &Path) -> Result<Self, Error> {
        const EINVAL: c_int = 22;
        let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Error(EINVAL))?;
        let mut env = ptr::null_mut();
        // SAFETY: it writes a pointer to a new environment, and null where it fails.
        Error::check(unsafe { c::mdb_env_create(&mut env) })?;
        let mut database = Self { env: NonNull::new(env).ok_or(Error(EINVAL))?, unnamed: 0 };
        let flags: c_uint = c::MDB_RDONLY | c::MDB_NOSUBDIR | c::MDB_NOLOCK | c::MDB_NOTLS;
        // SAFETY: the environment is new and the path ends in NUL. No lock is needed: `cache build` gives a file its
        // name when it is done with it, so that it has no writer. Where this fails, it is closed by the drop.
        Error::check(unsafe { c::mdb_env_open(database.env.as_ptr(), path.as_ptr(), flags, 0) })?;
        let mut unnamed = 0;
        let read = database.read()?;
        // SAFETY: the transaction is alive; without a name it is the main database, for which nothing is kept in it.
        Error::check(unsafe { c::mdb_dbi_open(read.txn.as_ptr(), ptr::null(), 0, &mut unnamed) })?;
        drop(read);
        database.unnamed = unnamed;
        Ok(database)
    }

    /// The bytes of all of its pages.
    pub fn bytes(&self) -> u64 {
        // SAFETY: both write into structs of plain numbers and pointers, for which zeroes are a value; the environment
        // is open.
        let (info, stat) = unsafe {
            let (mut info, mut stat): (c::MDB_envinfo, c::MDB_stat) = (std::mem::zeroed(), std::mem::zeroed());
            c::mdb_env_info(self.env.as_ptr(), &mut info);
            c::mdb_env_stat(self.env.as_ptr(), &mut stat);
            (info, stat)
        };
        (info.me_last_pgno as u64 + 1) * u64::from(stat.ms_psize)
    }

    /// Begins to read.
    pub fn read(&self) -> Result<Read<'_>, Error> {
        let mut txn = ptr::null_mut();
        // SAFETY: the environment is open; it writes a pointer to a new transaction.
        Error::check(unsafe {
            c::mdb_txn_begin(self.env.as_ptr(), ptr::null_mut(), c::MDB_RDONLY as c_uint, &mut txn)
        })?;
        let txn = NonNull::new(txn).ok_or(Error(c::MDB_PANIC))?;
        Ok(Read { txn, unnamed: self.unnamed, database: PhantomData })
    }
}

/// A read transaction.
pub struct Read<'a> {
    txn: NonNull<c::MDB_txn>,
    unnamed: c::MDB_dbi,
    database: PhantomData<&'a Database>,
}

impl Drop for Read<'_> {
    fn drop(&mut self) {
        // SAFETY: it was begun by `read` and ends once; what `get` gave borrows it.
        unsafe { c::mdb_txn_abort(self.txn.as_ptr()) }
    }
}

impl Read<'_> {
    /// The value of `key`.
    pub fn get(&self, key: &[u8]) -> Result<Option<&[u8]>, Error> {
        let mut key = c::MDB_val { mv_size: key.len(), mv_data: key.as_ptr().cast_mut().cast() };
        let mut value = c::MDB_val { mv_size: 0, mv_data: ptr::null_mut() };
        // SAFETY: the transaction is alive and of the environment that `unnamed` was opened in. LMDB reads the key and
        // writes where the value is: in the map, which stays as long as the transaction.
        let code = unsafe { c::mdb_get(self.txn.as_ptr(), self.unnamed, &mut key, &mut value) };
        if code == c::MDB_NOTFOUND {
            return Ok(None);
        }
        Error::check(code)?;
        // SAFETY: as above; nothing writes to the file, see `Database`.
        Ok(Some(unsafe { slice::from_raw_parts(value.mv_data.cast_const().cast(), value.mv_size) }))
    }
}
