//! The CSV destination: files rotated by time and rows, each named by its first key.
//!
//! Rows go into unfinished files beside the finished ones. A *window* is what lies between two rotations: one file
//! for each kind of record that occurred. Publishing a window writes, syncs, asks the permit, renames, syncs the
//! directory; only then does the receipt's `acknowledged` move to the window's end. So:
//!
//! - Cursors are always window boundaries: a finished file whose first key is at or beyond the cursor was never
//!   acknowledged, and one before it was, whole. When a reign begins, the former are removed, and what is
//!   delivered again from the cursor on is in the files once.
//! - Names end in the term, and a reign removes files of its own and earlier terms only. An ex-leader that wakes up
//!   late finds its unfinished files gone and can neither replace nor remove what its successor wrote.
//! - Within a reign nothing is written twice: records before the last publication are skipped.
//! - What was refused and is offered again goes into files of its own, at once: its keys lie before the cursor, so that a
//!   file that begins with them is never removed, and nothing that is not acknowledged may be in it.
//! - Rows are held at most `every` ([`Destination::due`]) and `max_rows`; a delivery may end in the middle of a
//!   window and a window in the middle of a delivery.
//!
//! The directory must exist: one that is created where a share should be mounted would hide the mistake.

mod marker;
mod name;
mod rows;
mod window;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use model::plant::Csv;
use model::{Cursor, Delivery, Permit, Timestamp};
use tokio::time::Instant;

use crate::blocking::Blocking;
use crate::destination::{DeliverError, Destination, Receipt, Reign};
use crate::node::NodeFacts;
use crate::text;
pub use marker::{Marker, MarkerReader};
use window::Window;

/// A share that does not answer for this long is away.
const FILE_TIMEOUT: Duration = Duration::from_secs(30);
/// Rows are handed to the file system when they have grown to this.
const BUFFER: usize = 1 << 20;

/// A directory that receives rotated CSV files.
#[derive(Debug)]
pub struct CsvFiles {
    place: Arc<Place>,
    every: Duration,
    max_rows: u32,
    blocking: Blocking,
    reign: Option<Reign>,
    /// The end of the last published window of this reign.
    published: Cursor,
    /// Where the next delivery begins.
    taken: Cursor,
    /// Held rows went astray (an error, or a call that was dropped half-way): start again at `published`.
    lost: bool,
    window: Option<Window>,
}

/// Where files go, and whose they are.
#[derive(Debug)]
struct Place {
    directory: PathBuf,
    /// The destination's id and the node's name, as parts of file names.
    destination: String,
    node: String,
    marker: Marker,
}

impl CsvFiles {
    pub(crate) fn build(id: &str, csv: &Csv, node: &NodeFacts) -> Result<Self, DeliverError> {
        let marker = Marker { cluster: node.cluster.clone(), node: node.name.clone(), term: 0 };
        let place = Place {
            directory: directory(csv, node)?,
            destination: text::plain_name(id),
            node: text::plain_name(&node.name),
            marker,
        };
        Ok(Self {
            place: Arc::new(place),
            every: csv.every,
            max_rows: csv.max_rows.max(1),
            blocking: Blocking::new(FILE_TIMEOUT),
            reign: None,
            published: Cursor::default(),
            taken: Cursor::default(),
            lost: false,
            window: None,
        })
    }

    /// Goes on where the caller does. Going back gives up what is held.
    async fn resume_at(&mut self, after: Cursor) -> Result<(), DeliverError> {
        if self.lost && after > self.published {
            return Err(DeliverError::misconfigured(format!(
                "a delivery begins at {after}, but rows from {} on were given up: begin the reign anew",
                self.published
            )));
        }
        if self.lost || after < self.taken {
            self.give_up().await?;
            self.taken = after;
            self.lost = false;
        }
        Ok(())
    }

    async fn give_up(&mut self) -> Result<(), DeliverError> {
        match self.window.take() {
            // Removes its unfinished files.
            Some(window) => {
                self.lost = true;
                self.blocking
                    .run(move || {
                        drop(window);
                        Ok(())
                    })
                    .await
            }
            None => Ok(()),
        }
    }

    /// Runs file work on the window. It is lost if that fails or the caller goes away meanwhile.
    async fn with_window<W>(&mut self, work: W) -> Result<(), DeliverError>
    where
        W: FnOnce(&mut Window) -> Result<(), DeliverError> + Send + 'static,
    {
        let Some(mut window) = self.window.take() else {
            return Ok(());
        };
        self.lost = true;
        let window = self
            .blocking
            .run(move || {
                work(&mut window)?;
                Ok(window)
            })
            .await?;
        self.window = Some(window);
        self.lost = false;
        Ok(())
    }

    /// Makes the window's files visible and durable. A fenced node gives them up.
    async fn publish(&mut self, permit: &dyn Permit) -> Result<(), DeliverError> {
        self.with_window(Window::sync).await?;
        if let Err(fenced) = permit.check() {
            self.lost = true;
            self.give_up().await?;
            return Err(fenced.into());
        }
        self.with_window(Window::reveal).await?;
        if let Some(window) = self.window.take() {
            self.published = window.upto();
        }
        Ok(())
    }

    async fn take_in(&mut self, delivery: &Delivery, permit: &dyn Permit) -> Result<(), DeliverError> {
        let Some(reign) = &self.reign else {
            return Err(DeliverError::misconfigured("no reign has begun at this destination"));
        };
        let term = reign.term;
        self.resume_at(delivery.after).await?;
        for record in &delivery.records {
            let key = record.key();
            if key.before() < self.published {
                continue;
            }
            let window = self.window.get_or_insert_with(|| Window::open(Arc::clone(&self.place), term));
            window.push(record);
            if window.rows() >= self.max_rows {
                window.end_at(key.behind());
                self.publish(permit).await?;
            } else if window.buffered() >= BUFFER {
                self.with_window(Window::write).await?;
            }
        }
        match &mut self.window {
            None => self.published = self.published.max(delivery.upto),
            Some(window) => {
                window.end_at(delivery.upto);
                let is_over = window.opened().elapsed() >= self.every;
                match is_over {
                    true => self.publish(permit).await?,
                    false => self.with_window(Window::write).await?,
                }
            }
        }
        self.taken = delivery.upto.max(self.published);
        Ok(())
    }
}

impl Destination for CsvFiles {
    async fn begin_reign(&mut self, reign: &Reign, permit: &dyn Permit) -> Result<(), DeliverError> {
        self.reign = None;
        self.give_up().await?;
        permit.check()?;
        let (place, begun) = (Arc::clone(&self.place), reign.clone());
        self.blocking.run(move || place.clear_and_mark(&begun)).await?;
        self.published = reign.cursor;
        self.taken = reign.cursor;
        self.lost = false;
        self.reign = Some(reign.clone());
        Ok(())
    }

    async fn deliver(&mut self, delivery: &Delivery, permit: &dyn Permit) -> Result<Receipt, DeliverError> {
        permit.check()?;
        match self.take_in(delivery, permit).await {
            Ok(()) => Ok(Receipt { acknowledged: self.published, taken: self.taken, rejected: Vec::new() }),
            Err(error) => {
                // Nothing is held after an error.
                self.lost = true;
                if let Err(later) = self.give_up().await {
                    tracing::debug!(destination = self.place.destination, error = %later, "unfinished files are left");
                }
                Err(error)
            }
        }
    }

    /// No file refuses a record: these were refused by what the destination was before.
    async fn offer_again(
        &mut self,
        delivery: &Delivery,
        _refused: Timestamp,
        permit: &dyn Permit,
    ) -> Result<Receipt, DeliverError> {
        let Some(term) = self.reign.as_ref().map(|reign| reign.term) else {
            return Err(DeliverError::misconfigured("no reign has begun at this destination"));
        };
        for records in delivery.records.chunks(self.max_rows as usize) {
            permit.check()?;
            let mut window = Window::open(Arc::clone(&self.place), term);
            records.iter().for_each(|record| window.push(record));
            let mut window = self.blocking.run(move || window.sync().map(|()| window)).await?;
            let permitted = permit.check();
            // A window that is not revealed removes its files when it is dropped, which blocks.
            let reveal = move || if permitted.is_ok() { window.reveal() } else { Ok(()) };
            self.blocking.run(reveal).await?;
            permitted?;
        }
        Ok(Receipt { acknowledged: delivery.upto, taken: delivery.upto, rejected: Vec::new() })
    }

    fn due(&self) -> Option<Instant> {
        self.window.as_ref().map(|window| window.opened() + self.every)
    }

    async fn flush(&mut self, permit: &dyn Permit) -> Result<Option<Cursor>, DeliverError> {
        if self.window.is_none() {
            return Ok(None);
        }
        permit.check()?;
        self.publish(permit).await?;
        Ok(Some(self.published))
    }

    async fn close(&mut self) {
        self.reign = None;
        if let Err(error) = self.give_up().await {
            tracing::debug!(destination = self.place.destination, %error, "unfinished files are left behind");
        }
    }
}

impl Place {
    /// Removes what an earlier reign wrote and nobody acknowledged, and leaves word of who writes here now. Blocks.
    fn clear_and_mark(&self, reign: &Reign) -> Result<(), DeliverError> {
        let entries = std::fs::read_dir(&self.directory).map_err(|error| fault(&self.directory, &error))?;
        for entry in entries {
            let entry = entry.map_err(|error| fault(&self.directory, &error))?;
            if !name::is_void(&entry.file_name(), &self.destination, reign) {
                continue;
            }
            let path = entry.path();
            match std::fs::remove_file(&path) {
                Ok(()) => {
                    tracing::info!(file = %path.display(), "removed a file that was never acknowledged")
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(fault(&path, &error)),
            }
        }
        let marker = Marker { term: reign.term.0, ..self.marker.clone() };
        marker.write(&self.directory, &self.destination, &self.node)?;
        sync_directory(&self.directory)
    }
}

fn directory(csv: &Csv, node: &NodeFacts) -> Result<PathBuf, DeliverError> {
    let text = csv.directory.to_str().ok_or_else(|| {
        DeliverError::misconfigured(format!("the directory {:?} is not valid Unicode", csv.directory))
    })?;
    Ok(PathBuf::from(node.fill_in(text)?))
}

/// Makes new names in a directory durable. Blocks.
fn sync_directory(directory: &Path) -> Result<(), DeliverError> {
    if cfg!(windows) {
        // Directories cannot be opened for syncing there; NTFS logs its names itself.
        return Ok(());
    }
    match std::fs::File::open(directory).and_then(|opened| opened.sync_all()) {
        // Some network file systems know no such call and sync names with their files.
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
            Ok(())
        }
        other => other.map_err(|error| fault(directory, &error)),
    }
}

/// What a file system error asks of the caller.
fn fault(path: &Path, error: &io::Error) -> DeliverError {
    use io::ErrorKind::{IsADirectory, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem};
    let reason = format!("{}: {error}", path.display());
    match error.kind() {
        NotFound | PermissionDenied | NotADirectory | IsADirectory | ReadOnlyFilesystem => {
            DeliverError::misconfigured(reason)
        }
        _ => DeliverError::unavailable(reason),
    }
}
