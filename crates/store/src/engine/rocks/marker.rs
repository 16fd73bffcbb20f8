//! The file that says whose a data directory is.
//!
//! Written before the database is created, so that a database beside no such file is somebody else's.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use super::OpenError;
use super::files::replace;

const NAME: &str = "format";
const WORDS: &str = "holdfast data directory, layout ";
/// The layout that this version writes.
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
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if path.join("rocksdb/CURRENT").try_exists().map_err(unusable)? {
                return Err(foreign("it holds a database that no node of holdfast created"));
            }
            Ok(())
        }
        Err(error) => Err(unusable(error)),
    }
}

/// Marks a directory as ours, durably.
pub(super) fn write(path: &Path) -> io::Result<()> {
    if path.join(NAME).try_exists()? {
        Ok(())
    } else {
        replace(path, NAME, format!("{WORDS}{LAYOUT}\n").as_bytes())
    }
}
