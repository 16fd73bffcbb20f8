//! A data directory taken for this process: found to be ours, locked, marked.
//!
//! Whoever writes there, the engine or others beside it, does so after that. A refusal leaves the directory as it was.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::{OpenError, marker};

/// Below a data directory.
pub(super) const LOCK: &str = "lock";

/// A data directory that is ours, and this process's alone for as long as this lives.
#[derive(Debug)]
pub struct Claim {
    path: PathBuf,
    _lock: File,
}

impl Claim {
    /// Takes a data directory, and makes it if it is not there.
    pub fn take(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let unusable =
            |error: io::Error| OpenError::Unusable { path: path.to_owned(), reason: error.to_string() };
        marker::check(path)?;
        fs::create_dir_all(path).map_err(unusable)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join(LOCK))
            .map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::Locked { path: path.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(unusable(error)),
        }
        marker::write(path).map_err(unusable)?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
