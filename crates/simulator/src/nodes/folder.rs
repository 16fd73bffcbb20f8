//! The folder of one run: made empty, removed at the end unless it is to be kept.

use std::io;
use std::path::{Path, PathBuf};

/// A folder that was empty or absent when the run began.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    was_there: bool,
    keep: bool,
}

impl Folder {
    /// Makes the folder, which must be empty or absent.
    pub fn make(path: &Path) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        let was_there = match std::fs::read_dir(&path) {
            Ok(mut entries) => match entries.next() {
                None => true,
                Some(_) => return Err(not_empty(&path)),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                std::fs::create_dir_all(&path)?;
                false
            }
            Err(error) => return Err(error),
        };
        Ok(Self { path, was_there, keep: false })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves it where it is at the end.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// Removes it, unless it is to be kept. A folder that was there before stays, empty.
    pub fn remove(mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.keep, true) {
            return Ok(());
        }
        self.clear()
    }

    fn clear(&self) -> io::Result<()> {
        std::fs::remove_dir_all(&self.path)?;
        if self.was_there { std::fs::create_dir(&self.path) } else { Ok(()) }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = self.clear()
        {
            tracing::warn!(path = %self.path.display(), %error, "the folder could not be removed");
        }
    }
}

fn not_empty(path: &Path) -> io::Error {
    let text = format!("{} is not empty: name a folder that is, or one that does not exist", path.display());
    io::Error::new(io::ErrorKind::AlreadyExists, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_goes_unless_it_is_kept_and_nothing_of_others_is_touched() {
        let parent = tempfile::tempdir().expect("a folder");
        let path = parent.path().join("run");
        let folder = Folder::make(&path).expect("it does not exist");
        std::fs::write(folder.path().join("log"), "x").expect("room");
        assert!(Folder::make(&path).is_err(), "it is not empty");
        folder.remove().expect("it can be removed");
        assert!(!path.exists());

        let mut kept = Folder::make(&path).expect("it does not exist");
        kept.keep();
        kept.remove().expect("nothing to do");
        assert!(path.exists());

        std::fs::write(path.join("log"), "x").expect("room");
        std::fs::remove_file(path.join("log")).expect("it is there");
        drop(Folder::make(&path).expect("it is empty"));
        assert!(path.exists(), "it was there before");
    }
}
