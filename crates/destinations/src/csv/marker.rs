//! The leader's word in the directory: who writes here, and since which term.
//!
//! A follower that does not see the leader's marker in what its own node calls by the same name knows that files
//! will lie on several machines.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use model::plant::Csv;
use serde::{Deserialize, Serialize};

use super::{FILE_TIMEOUT, directory, fault};
use crate::blocking::Blocking;
use crate::destination::DeliverError;
use crate::node::NodeFacts;
use crate::text;

/// More than any marker.
const LONGEST: u64 = 4 << 10;

/// Who writes into a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// The cluster's name.
    pub cluster: String,
    /// The leader's name.
    pub node: String,
    /// The term in which it began.
    pub term: u64,
}

impl Marker {
    /// Writes it aside, syncs and renames; the caller syncs the directory. Blocks.
    pub(super) fn write(&self, directory: &Path, destination: &str, node: &str) -> Result<(), DeliverError> {
        let finished = directory.join(file_name(destination));
        let aside = directory.join(format!(".{}.{node}", file_name(destination)));
        let text = serde_json::to_vec(self).expect("a marker is plain text and numbers");
        File::create(&aside)
            .and_then(|mut file| {
                file.write_all(&text)?;
                file.sync_all()
            })
            .and_then(|()| std::fs::rename(&aside, &finished))
            .map_err(|error| fault(&aside, &error))
    }
}

/// Looks for the marker in one destination's directory, as this node sees it.
#[derive(Debug)]
pub struct MarkerReader {
    path: PathBuf,
    blocking: Blocking,
}

impl MarkerReader {
    /// A reader for the destination `id`. Fails on an unknown variable, as building the destination would.
    pub fn new(id: &str, csv: &Csv, node: &NodeFacts) -> Result<Self, DeliverError> {
        let path = directory(csv, node)?.join(file_name(&text::plain_name(id)));
        Ok(Self { path, blocking: Blocking::new(FILE_TIMEOUT) })
    }

    /// The marker that lies there now; `None` where there is none, or no directory.
    pub async fn read(&mut self) -> Result<Option<Marker>, DeliverError> {
        let path = self.path.clone();
        self.blocking.run(move || read(&path)).await
    }
}

fn read(path: &Path) -> Result<Option<Marker>, DeliverError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fault(path, &error)),
    };
    let mut text = Vec::new();
    file.take(LONGEST).read_to_end(&mut text).map_err(|error| fault(path, &error))?;
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|error| DeliverError::misconfigured(format!("{} is not a marker: {error}", path.display())))
}

fn file_name(destination: &str) -> String {
    format!("{destination}.leader.json")
}
