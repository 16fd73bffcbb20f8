//! What a power cut took from a folder, whatever anybody said: files that are gone, shorter, or older ones.
//!
//! The database's own diary is no data, and does not count.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Of the diary, and of older ones.
const DIARY: &str = "LOG";

/// The files below a folder: each one's inode and bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Files(BTreeMap<PathBuf, (u64, u64)>);

impl Files {
    /// The files that are there now. Somebody may make and remove some meanwhile.
    pub(super) fn of(folder: &Path) -> io::Result<Self> {
        let mut files = Self::default();
        files.enter(folder)?;
        Ok(files)
    }

    fn enter(&mut self, folder: &Path) -> io::Result<()> {
        let Some(entries) = if_there(fs::read_dir(folder))? else { return Ok(()) };
        for entry in entries {
            let entry = entry?;
            let Some(seen) = if_there(entry.metadata())? else { continue };
            let path = entry.path();
            if seen.is_dir() {
                self.enter(&path)?;
            } else if !is_diary(&path) {
                self.0.insert(path, (seen.ino(), seen.len()));
            }
        }
        Ok(())
    }

    /// Whether something that was there is not any more.
    pub(super) fn lack(&self, before: &Self) -> bool {
        before.0.iter().any(|(path, (inode, bytes))| {
            self.0.get(path).is_none_or(|(now, left)| now != inode || left < bytes)
        })
    }
}

fn if_there<T>(seen: io::Result<T>) -> io::Result<Option<T>> {
    match seen {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        seen => seen.map(Some),
    }
}

fn is_diary(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name == DIARY || name.starts_with("LOG.old"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_shorter_or_an_older_file_is_lacking_and_what_was_added_is_not() {
        type Change = fn(&Path) -> io::Result<()>;
        let changes: [(Change, bool); 7] = [
            (|_| Ok(()), false),
            (|folder| fs::write(folder.join("more"), "x"), false),
            (|folder| fs::write(folder.join("below/a"), "longer than it was"), false),
            (|folder| fs::write(folder.join("LOG"), ""), false),
            (|folder| fs::write(folder.join("below/a"), "x"), true),
            (|folder| fs::remove_file(folder.join("below/a")), true),
            (
                |folder| {
                    fs::write(folder.join("new"), "four")?;
                    fs::rename(folder.join("new"), folder.join("below/a"))
                },
                true,
            ),
        ];
        for (number, (change, lacks)) in changes.into_iter().enumerate() {
            let folder = tempfile::tempdir().expect("a folder");
            fs::create_dir(folder.path().join("below")).expect("room");
            for name in ["below/a", "LOG", "LOG.old.123"] {
                fs::write(folder.path().join(name), "four").expect("room");
            }
            let before = Files::of(folder.path()).expect("readable");
            change(folder.path()).expect("room");
            let after = Files::of(folder.path()).expect("readable");
            assert_eq!(after.lack(&before), lacks, "change {number}");
        }
    }

    #[test]
    fn a_folder_that_is_not_there_has_no_files() {
        assert_eq!(Files::of(Path::new("/nowhere")).expect("there is nothing to read"), Files::default());
    }
}
