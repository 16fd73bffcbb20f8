//! Where finished files end: the entry of the last record in them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use model::SampleKey;
use serde::{Deserialize, Serialize};

/// What lines say that hold it.
pub(super) const FILED: &str = "filed";

/// What stood in finished files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Filed {
    /// The entry of the last record.
    pub(super) position: u64,
}

/// Finished files that were read: name, length, and the entry of the last record. They do not change, but one that was
/// never acknowledged may come again.
pub(super) type Finished = BTreeMap<(PathBuf, u64), u64>;

impl Filed {
    pub(super) fn of(folder: &Path, finished: &mut Finished) -> io::Result<Self> {
        let mut there = Finished::new();
        for file in fs::read_dir(folder)? {
            let path = file?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with('.') || !name.ends_with(".csv") {
                continue;
            }
            // One that was not acknowledged may be gone again.
            let Ok(found) = fs::metadata(&path) else { continue };
            let named = (path, found.len());
            let known = finished.get(&named).copied();
            let Some(position) = known.or_else(|| last_position(&named.0)) else { continue };
            there.insert(named, position);
        }
        *finished = there;
        Ok(Self { position: finished.values().copied().max().unwrap_or_default() })
    }
}

/// The entry of the last record in a file.
fn last_position(path: &Path) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let key = text.lines().next_back()?.split(',').next()?;
    key.parse::<SampleKey>().ok().map(|key| key.position.0)
}
