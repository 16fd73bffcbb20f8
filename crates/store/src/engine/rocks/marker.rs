//! The file that says whose a data directory is.
//!
//! Written before everything but the lock, so that what lies beside no such file is somebody else's.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use super::OpenError;
use super::claim::LOCK;
use super::files::replace;

const NAME: &str = "format";
const WORDS: &str = "holdfast data directory, layout ";
/// The layout that this version writes; one more with each change that an older version would misread.
const LAYOUT: u32 = 1;

/// Refuses a directory that is not ours to open. Changes nothing.
pub(super) fn check(path: &Path) -> Result<(), OpenError> {
    let unusable =
        |error: io::Error| OpenError::Unusable { path: path.to_owned(), reason: error.to_string() };
    let foreign = |reason: &str| OpenError::Foreign { path: path.to_owned(), reason: reason.to_owned() };
    match fs::read_to_string(path.join(NAME)) {
        Ok(text) => {
            let layout = text.trim_end().strip_prefix(WORDS).and_then(|number| number.parse().ok());
            match layout {
                Some(found) if found > LAYOUT => {
                    Err(OpenError::Newer { path: path.to_owned(), found, known: LAYOUT })
                }
                Some(_) => Ok(()),
                None => Err(foreign("its file `format` does not say so")),
            }
        }
        Err(error) if error.kind() == ErrorKind::InvalidData => Err(foreign("its file `format` is not text")),
        Err(error) if error.kind() == ErrorKind::NotFound => match stranger(path).map_err(unusable)? {
            Some(name) => Err(foreign(&format!("it holds other files, such as {name:?}"))),
            None => Ok(()),
        },
        Err(error) => Err(unusable(error)),
    }
}

/// Something in a directory without a mark that lies in none where a node is going to start for the first time. There may
/// be what an interrupted start, a file system, a shell or who lays secrets there leaves.
fn stranger(path: &Path) -> io::Result<Option<String>> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let is_hidden = name.starts_with('.');
        if !is_hidden && !name.ends_with(".token") && name != LOCK && name != "lost+found" {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Marks a directory as ours, durably.
pub(super) fn write(path: &Path) -> io::Result<()> {
    if path.join(NAME).try_exists()? {
        Ok(())
    } else {
        replace(path, NAME, format!("{WORDS}{LAYOUT}\n").as_bytes())
    }
}
