//! What lies between two rotations: an unfinished file for each kind of record that occurred.
//!
//! - Files are made at the first write, not at the first row.
//! - [`Window::write`], [`Window::sync`], [`Window::reveal`] and dropping a window block; pushing rows does not.
//! - A window that is dropped before it is revealed removes its files.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use model::{Cursor, Record, Term};
use tokio::time::Instant;

use super::name::{self, Kind};
use super::rows::{Rows, kind_of};
use super::{Place, fault, sync_directory};
use crate::destination::DeliverError;

#[derive(Debug)]
pub(super) struct Window {
    place: Arc<Place>,
    term: Term,
    opened: Instant,
    rows: u32,
    upto: Cursor,
    /// At most one for each kind.
    files: Vec<Unfinished>,
}

/// A file that is being written.
#[derive(Debug)]
struct Unfinished {
    kind: Kind,
    rows: Rows,
    path: PathBuf,
    finished: PathBuf,
    stage: Stage,
}

/// How far a file has come.
#[derive(Debug)]
enum Stage {
    /// Nothing was written yet, and there is no file.
    InMemory,
    /// It is being written, under its unfinished name.
    Open(File),
    /// It is whole, under its unfinished name.
    Closed,
    /// It has its final name.
    Revealed,
}

impl Window {
    pub(super) fn open(place: Arc<Place>, term: Term) -> Self {
        Self { place, term, opened: Instant::now(), rows: 0, upto: Cursor::default(), files: Vec::new() }
    }

    /// When its first row came.
    pub(super) fn opened(&self) -> Instant {
        self.opened
    }

    /// Rows of all kinds.
    pub(super) fn rows(&self) -> u32 {
        self.rows
    }

    /// The cursor that may be acknowledged once it is revealed.
    pub(super) fn upto(&self) -> Cursor {
        self.upto
    }

    /// Says which cursor that is.
    pub(super) fn end_at(&mut self, upto: Cursor) {
        self.upto = upto;
    }

    /// Bytes that wait in memory.
    pub(super) fn buffered(&self) -> usize {
        self.files.iter().map(|file| file.rows.len()).sum()
    }

    /// Adds a row.
    pub(super) fn push(&mut self, record: &Record) {
        let kind = kind_of(record);
        let at = match self.files.iter().position(|file| file.kind == kind) {
            Some(at) => at,
            None => {
                self.files.push(Unfinished::new(&self.place, kind, record, self.term));
                self.files.len() - 1
            }
        };
        self.files[at].rows.push(record);
        self.rows += 1;
        self.upto = record.key().behind();
    }

    /// Hands what waits in memory to the file system.
    pub(super) fn write(&mut self) -> Result<(), DeliverError> {
        self.files.iter_mut().try_for_each(Unfinished::write)
    }

    /// Writes the rest and waits until it is on the disk.
    pub(super) fn sync(&mut self) -> Result<(), DeliverError> {
        self.write()?;
        for unfinished in &self.files {
            if let Stage::Open(file) = &unfinished.stage {
                file.sync_all().map_err(|error| fault(&unfinished.path, &error))?;
            }
        }
        Ok(())
    }

    /// Gives the files their names and waits until those are on the disk.
    pub(super) fn reveal(&mut self) -> Result<(), DeliverError> {
        for unfinished in &mut self.files {
            // Some systems rename no open file.
            unfinished.stage = Stage::Closed;
            std::fs::rename(&unfinished.path, &unfinished.finished)
                .map_err(|error| fault(&unfinished.path, &error))?;
            unfinished.stage = Stage::Revealed;
        }
        sync_directory(&self.place.directory)
    }
}

impl Unfinished {
    fn new(place: &Place, kind: Kind, first: &Record, term: Term) -> Self {
        let finished = name::finished(&place.destination, kind, first.key(), term);
        Self {
            kind,
            rows: Rows::with_header(kind),
            path: place.directory.join(name::unfinished(&finished, &place.node)),
            finished: place.directory.join(finished),
            stage: Stage::InMemory,
        }
    }

    fn write(&mut self) -> Result<(), DeliverError> {
        let rows = self.rows.take();
        if rows.is_empty() {
            return Ok(());
        }
        if let Stage::InMemory = self.stage {
            self.stage = Stage::Open(File::create(&self.path).map_err(|error| fault(&self.path, &error))?);
        }
        let Stage::Open(file) = &mut self.stage else {
            unreachable!("no row is added to a file that is whole");
        };
        file.write_all(&rows).map_err(|error| fault(&self.path, &error))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.stage, Stage::Revealed) {
            Stage::InMemory | Stage::Revealed => return,
            Stage::Open(_) | Stage::Closed => {}
        }
        if let Err(error) = std::fs::remove_file(&self.path) {
            // The next reign removes it.
            tracing::debug!(file = %self.path.display(), %error, "an unfinished file is left behind");
        }
    }
}
