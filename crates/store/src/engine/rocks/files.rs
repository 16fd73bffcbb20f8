//! Small files beside the database: whole ones, replaced at once, and two-slot ones, overwritten in place.
//!
//! - A whole file is written aside, synced, renamed, and its directory synced: it is the old one or the new one.
//! - A slot file is created like a whole file, so that tearing can only touch the slot being overwritten.
//! - Names beginning with a dot are leftovers of an interrupted write, seen by nobody and removed at open.

use std::fs::{self, File};
use std::io::{self, Error, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::SLOT_BYTES;

#[derive(Debug)]
pub(super) struct Files {
    whole: PathBuf,
    slots: PathBuf,
}

impl Files {
    /// Makes the directories, durably.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let files = Self { whole: path.join("files"), slots: path.join("slots") };
        fs::create_dir_all(&files.whole)?;
        fs::create_dir_all(&files.slots)?;
        fs::create_dir_all(path.join("rocksdb"))?;
        sync_directory(path)?;
        if let Some(parent) = path.canonicalize()?.parent() {
            sync_directory(parent)?;
        }
        Ok(files)
    }

    pub(super) fn remove_leftovers(&self) -> io::Result<()> {
        for directory in [&self.whole, &self.slots] {
            for entry in fs::read_dir(directory)? {
                let entry = entry?;
                if is_leftover(&entry.file_name().to_string_lossy()) {
                    fs::remove_file(entry.path())?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        replace(&self.whole, name, bytes)
    }

    pub(super) fn read(&self, name: &str) -> io::Result<Option<Bytes>> {
        read_if_there(&path_of(&self.whole, name)).map(|bytes| bytes.map(Bytes::from))
    }

    pub(super) fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.whole)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if !is_leftover(&name) {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(path_of(&self.whole, name)) {
            Ok(()) => sync_directory(&self.whole),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(super) fn write_slot(&self, name: &str, slot: usize, bytes: &[u8; SLOT_BYTES]) -> io::Result<()> {
        assert!(slot < 2, "a slot file has two slots, not a slot {slot}");
        let at = slot * SLOT_BYTES;
        match File::options().write(true).open(path_of(&self.slots, name)) {
            Ok(mut file) => {
                file.seek(SeekFrom::Start(at as u64))?;
                file.write_all(bytes)?;
                file.sync_data()
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let mut both = [0; 2 * SLOT_BYTES];
                both[at..at + SLOT_BYTES].copy_from_slice(bytes);
                replace(&self.slots, name, &both)
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn read_slots(&self, name: &str) -> io::Result<Option<[[u8; SLOT_BYTES]; 2]>> {
        let Some(both) = read_if_there(&path_of(&self.slots, name))? else { return Ok(None) };
        if both.len() != 2 * SLOT_BYTES {
            let reason = format!("slot file {name} has {} bytes, not {}", both.len(), 2 * SLOT_BYTES);
            return Err(Error::new(ErrorKind::InvalidData, reason));
        }
        let mut slots = [[0; SLOT_BYTES]; 2];
        slots[0].copy_from_slice(&both[..SLOT_BYTES]);
        slots[1].copy_from_slice(&both[SLOT_BYTES..]);
        Ok(Some(slots))
    }
}

/// Makes what was created, renamed or removed in a directory survive a power cut.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    // Elsewhere a directory cannot be opened as a file, and the file system keeps its names in a journal.
    if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
}

/// Bytes of all files in a directory and below it; files that vanish meanwhile count as nothing.
pub fn size_of_directory(path: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let metadata = match entry.metadata() {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            other => other?,
        };
        bytes += match metadata.is_dir() {
            true => match size_of_directory(&entry.path()) {
                Err(error) if error.kind() == ErrorKind::NotFound => 0,
                other => other?,
            },
            false => metadata.len(),
        };
    }
    Ok(bytes)
}

fn path_of(directory: &Path, name: &str) -> PathBuf {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    assert!(plain && !name.is_empty() && !is_leftover(name), "not a name for a file of the store: {name:?}");
    directory.join(name)
}

fn is_leftover(name: &str) -> bool {
    name.starts_with('.')
}

pub(super) fn replace(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let path = path_of(directory, name);
    let aside = directory.join(format!(".{name}"));
    let mut file = File::create(&aside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&aside, &path)?;
    sync_directory(directory)
}

fn read_if_there(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
