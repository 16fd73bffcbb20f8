//! A checkpoint as it lies on this disk: what changes in a file of its own, what seldom does in pages beside it.
//!
//! Layout: as the one that travels, but `HFCKPT2\n`, and instead of rows, parts: `[0][length: u32][rows]` or
//! `[1][length: u32][BLAKE3 of the rows]`, the rows of the latter being the page of that name.
//!
//! - A page is named by its content, so checkpoints share what is equal in them: documents, registers of names, records
//!   set aside are written once, however many checkpoints hold them.
//! - Where a page ends is decided by keys alone: a row that changes, comes or goes changes its own page and no other.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{Checkpoint, CheckpointHeader, damaged, put_row, seal, unseal};
use crate::engine::EngineError;

const MAGIC: &[u8; 8] = b"HFCKPT2\n";
/// Rows below this are not worth a file.
const PAGE_LEAST: usize = 4 << 10;
/// A page of many rows ends at this size.
const PAGE_MOST: usize = 256 << 10;
/// One key in so many ends a page.
const PAGE_ROWS: u32 = 128;

/// A checkpoint in parts.
#[derive(Debug, Clone)]
pub(crate) struct Paged {
    pub(crate) header: CheckpointHeader,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Here(Bytes),
    Page(blake3::Hash),
}

/// A page: its file and what is in it.
pub(crate) type Page = (String, Bytes);

impl Paged {
    /// Divides a checkpoint.
    pub(crate) fn split(checkpoint: &Checkpoint) -> (Self, Vec<Page>) {
        let mut pages = Vec::new();
        let mut parts = Vec::new();
        let mut here = BytesMut::new();
        for run in runs(&checkpoint.rows) {
            if run.len() < PAGE_LEAST {
                here.put_slice(&run);
                continue;
            }
            if !here.is_empty() {
                parts.push(Part::Here(here.split().freeze()));
            }
            let hash = blake3::hash(&run);
            pages.push((page_name(&hash), run));
            parts.push(Part::Page(hash));
        }
        if !here.is_empty() {
            parts.push(Part::Here(here.freeze()));
        }
        (Self { header: checkpoint.header.clone(), parts }, pages)
    }

    /// The bytes of its file.
    pub(crate) fn encode(&self) -> Bytes {
        let mut body = BytesMut::new();
        for part in &self.parts {
            let (kind, bytes) = match part {
                Part::Here(rows) => (0, rows.as_ref()),
                Part::Page(hash) => (1, hash.as_bytes().as_slice()),
            };
            body.put_u8(kind);
            body.put_u32(u32::try_from(bytes.len()).expect("a checkpoint is far below 4 GiB"));
            body.put_slice(bytes);
        }
        seal(MAGIC, &self.header, &[&body])
    }

    /// Reads and checks such a file, but not its pages.
    pub(crate) fn decode(file: &Bytes) -> Result<Self, EngineError> {
        let (magic, header, body) = unseal(file)?;
        if magic != *MAGIC {
            return Err(damaged("not a checkpoint of this version"));
        }
        let mut rest = file.slice_ref(body);
        let mut parts = Vec::new();
        while !rest.is_empty() {
            parts.push(read_part(&mut rest).ok_or_else(|| damaged("ends in the middle of a part"))?);
        }
        Ok(Self { header, parts })
    }

    /// The files of its pages.
    pub(crate) fn pages(&self) -> impl Iterator<Item = String> {
        self.parts.iter().filter_map(|part| match part {
            Part::Page(hash) => Some(page_name(hash)),
            Part::Here(_) => None,
        })
    }

    /// The bytes that travel. `None` if a page is not there.
    pub(crate) fn join(
        &self,
        mut read: impl FnMut(&str) -> Result<Option<Bytes>, EngineError>,
    ) -> Result<Option<Bytes>, EngineError> {
        let mut rows = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            match part {
                Part::Here(bytes) => rows.push(bytes.clone()),
                Part::Page(hash) => {
                    let name = page_name(hash);
                    let Some(page) = read(&name)? else { return Ok(None) };
                    if blake3::hash(&page) != *hash {
                        return Err(damaged(&format!("{name} does not hold what it is named after")));
                    }
                    rows.push(page);
                }
            }
        }
        let rows: Vec<&[u8]> = rows.iter().map(AsRef::as_ref).collect();
        Ok(Some(seal(super::MAGIC, &self.header, &rows)))
    }
}

/// Whether a file is a page.
pub(crate) fn is_page_name(name: &str) -> bool {
    name.starts_with("page-")
}

fn page_name(hash: &blake3::Hash) -> String {
    format!("page-{hash}")
}

fn read_part(rest: &mut Bytes) -> Option<Part> {
    let kind = rest.try_get_u8().ok()?;
    let length = rest.try_get_u32().ok()? as usize;
    if rest.len() < length {
        return None;
    }
    let bytes = rest.split_to(length);
    match kind {
        0 => Some(Part::Here(bytes)),
        1 => Some(Part::Page(blake3::Hash::from_slice(&bytes).ok()?)),
        _ => None,
    }
}

/// Rows, encoded, in runs that may become pages. A row that makes a page by itself is one.
fn runs(rows: &[(Vec<u8>, Vec<u8>)]) -> Vec<Bytes> {
    let mut runs = Vec::new();
    let mut run = BytesMut::new();
    let mut kind = None;
    let mut end = |run: &mut BytesMut| {
        if !run.is_empty() {
            runs.push(run.split().freeze());
        }
    };
    for (key, value) in rows {
        let is_large = value.len() >= PAGE_LEAST;
        if is_large || key.first() != kind {
            end(&mut run);
        }
        kind = key.first();
        put_row(&mut run, key, value);
        if is_large || run.len() >= PAGE_MOST || crc32fast::hash(key).is_multiple_of(PAGE_ROWS) {
            end(&mut run);
        }
    }
    end(&mut run);
    runs
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::ledger::{LogId, Membership};

    fn checkpoint(rows: &BTreeMap<Vec<u8>, Vec<u8>>) -> Checkpoint {
        let header = CheckpointHeader {
            at: LogId::default(),
            membership: Membership::default(),
            chain: [0; 16],
            digest: String::new(),
            rows: rows.len() as u64,
        };
        Checkpoint { header, rows: rows.clone().into_iter().collect() }
    }

    /// A document, a thousand records set aside, and a few rows that change with each entry.
    fn ledger() -> BTreeMap<Vec<u8>, Vec<u8>> {
        let aside = (0..1_000_u32).map(|number| ([b"q", &number.to_be_bytes()[..]].concat(), vec![1; 300]));
        let few = [(b"a".to_vec(), b"applied".to_vec()), (b"r1".to_vec(), vec![7; 100_000])];
        aside.chain(few).collect()
    }

    #[test]
    fn a_checkpoint_in_parts_travels_as_the_whole_one() {
        let whole = checkpoint(&ledger());
        let (paged, pages) = Paged::split(&whole);
        let pages: BTreeMap<String, Bytes> = pages.into_iter().collect();
        let read = Paged::decode(&paged.encode()).unwrap();
        assert_eq!(read.pages().collect::<Vec<_>>(), paged.pages().collect::<Vec<_>>());
        let joined = read.join(|name| Ok(pages.get(name).cloned())).unwrap().unwrap();
        assert_eq!(joined, whole.encode());
        assert_eq!(Checkpoint::decode(&joined).unwrap().rows, whole.rows);
        assert_eq!(read.join(|_| Ok(None)).unwrap(), None, "a page that is missing is said");
    }

    #[test]
    fn the_next_checkpoint_shares_what_did_not_change() {
        let mut rows = ledger();
        let (_, before) = Paged::split(&checkpoint(&rows));
        rows.insert(b"a".to_vec(), b"applied more".to_vec());
        rows.remove([b"q", &500_u32.to_be_bytes()[..]].concat().as_slice());
        let (file, after) = Paged::split(&checkpoint(&rows));
        let new: Vec<_> = after.iter().filter(|page| !before.contains(page)).collect();
        assert!(new.len() <= 2, "one row went, and {} of {} pages changed", new.len(), after.len());
        let bytes: usize = new.iter().map(|(_, page)| page.len()).sum();
        assert!(bytes + file.encode().len() < 150_000, "{bytes} of 400,000 bytes are written again");
    }
}
