//! Columns in which neighbours are usually alike: tag ids, times, readings, types.
//!
//! - Every run covers at least one sample, and no run more than are left: so reading ends, and allocates what the
//!   count said.

use model::{Reading, StatusCode, TagId, Timestamp};

use super::DecodeError;
use super::bytes::{Reader, put_varint, zigzag};

/// Writes tag ids as runs of equal or consecutive ones.
#[derive(Debug)]
pub(super) struct TagWriter {
    out: Vec<u8>,
    start: i64,
    last: i64,
    length: u64,
    step: i64,
    /// The last id of the run before.
    before: i64,
}

impl TagWriter {
    pub(super) fn new() -> Self {
        Self { out: Vec::new(), start: 0, last: 0, length: 0, step: 0, before: 0 }
    }

    #[inline]
    pub(super) fn push(&mut self, tag: TagId) {
        let id = i64::from(tag.0);
        let step = id - self.last;
        if self.length > 1 && step == self.step || self.length == 1 && (step == 0 || step == 1) {
            self.step = step;
            self.last = id;
            self.length += 1;
            return;
        }
        self.end_run();
        (self.start, self.last, self.length, self.step) = (id, id, 1, 0);
    }

    fn end_run(&mut self) {
        if self.length > 0 {
            put_varint(&mut self.out, zigzag(self.start - self.before));
            put_varint(&mut self.out, (self.length - 1) << 1 | self.step as u64);
            self.before = self.last;
        }
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.end_run();
        self.out
    }
}

/// Reads `count` tag ids.
pub(super) fn read_tags(reader: &mut Reader<'_>, count: usize) -> Result<Vec<TagId>, DecodeError> {
    let wrong = DecodeError::Corrupt("a tag id has more than 32 bits");
    let mut tags = Vec::with_capacity(count);
    let mut before = 0_u32;
    while tags.len() < count {
        let start = i64::from(before).checked_add(reader.zigzag()?);
        let start = start.and_then(|start| u32::try_from(start).ok()).ok_or(wrong)?;
        let run = reader.varint()?;
        let length = run_length(run >> 1, count - tags.len())?;
        let step = (run & 1) as u32;
        let further = u32::try_from(length - 1).map_err(|_| wrong)? * step;
        let last = start.checked_add(further).ok_or(wrong)?;
        if step == 1 {
            tags.extend((start..=last).map(TagId));
        } else {
            tags.extend(std::iter::repeat_n(TagId(start), length));
        }
        before = last;
    }
    Ok(tags)
}

/// Writes runs of equal things.
#[derive(Debug)]
pub(super) struct RunWriter<T> {
    out: Vec<u8>,
    current: Option<T>,
    length: u64,
    put: fn(&mut Vec<u8>, T),
}

impl<T: Copy + PartialEq> RunWriter<T> {
    pub(super) fn new(put: fn(&mut Vec<u8>, T)) -> Self {
        Self { out: Vec::new(), current: None, length: 0, put }
    }

    #[inline]
    pub(super) fn push(&mut self, thing: T) {
        if self.current == Some(thing) {
            self.length += 1;
        } else {
            self.end_run();
            (self.current, self.length) = (Some(thing), 1);
        }
    }

    fn end_run(&mut self) {
        if let Some(thing) = self.current {
            (self.put)(&mut self.out, thing);
            put_varint(&mut self.out, self.length - 1);
        }
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.end_run();
        self.out
    }
}

/// The length of a run that was written as one less, of at most `left`.
fn run_length(less_one: u64, left: usize) -> Result<usize, DecodeError> {
    match usize::try_from(less_one) {
        Ok(less_one) if less_one < left => Ok(less_one + 1),
        _ => Err(DecodeError::Corrupt("a run is too long")),
    }
}

/// Reads `count` source times.
pub(super) fn read_times(
    reader: &mut Reader<'_>,
    count: usize,
    oldest: Timestamp,
) -> Result<Vec<Timestamp>, DecodeError> {
    let mut times = Vec::with_capacity(count);
    let mut time = oldest.0;
    while times.len() < count {
        let delta = reader.zigzag()?;
        let length = run_length(reader.varint()?, count - times.len())?;
        if delta == 0 {
            times.extend(std::iter::repeat_n(Timestamp(time), length));
        } else {
            times.extend((0..length).map(|_| {
                time = time.wrapping_add(delta);
                Timestamp(time)
            }));
        }
    }
    Ok(times)
}

/// What a reading is besides its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Good,
    Uncertain(StatusCode),
    Bad(StatusCode),
}

impl Verdict {
    /// The reading's status and kind in one number.
    #[inline]
    pub(super) fn code(reading: &Reading) -> u64 {
        match reading {
            Reading::Good(_) => 0,
            Reading::Uncertain(_, status) => u64::from(status.0) << 2 | 1,
            Reading::Bad(status) => u64::from(status.0) << 2 | 2,
        }
    }

    fn from_code(code: u64) -> Result<Self, DecodeError> {
        let unknown = DecodeError::Corrupt("a reading is neither good, uncertain nor bad");
        let status = StatusCode(u32::try_from(code >> 2).map_err(|_| unknown)?);
        match code & 3 {
            0 if status == StatusCode::GOOD => Ok(Self::Good),
            1 => Ok(Self::Uncertain(status)),
            2 => Ok(Self::Bad(status)),
            _ => Err(unknown),
        }
    }
}

/// Reads the verdicts of `count` samples, as runs.
pub(super) fn read_verdicts(
    reader: &mut Reader<'_>,
    count: usize,
) -> Result<Vec<(Verdict, usize)>, DecodeError> {
    read_runs(count, || Ok((Verdict::from_code(reader.varint()?)?, reader.varint()?)))
}

/// Reads the type numbers of `count` values, as runs.
pub(super) fn read_types(reader: &mut Reader<'_>, count: usize) -> Result<Vec<(u8, usize)>, DecodeError> {
    read_runs(count, || Ok((reader.byte()?, reader.varint()?)))
}

fn read_runs<T>(
    count: usize,
    mut next: impl FnMut() -> Result<(T, u64), DecodeError>,
) -> Result<Vec<(T, usize)>, DecodeError> {
    let mut runs = Vec::new();
    let mut covered = 0;
    while covered < count {
        let (thing, less_one) = next()?;
        let length = run_length(less_one, count - covered)?;
        covered += length;
        runs.push((thing, length));
    }
    Ok(runs)
}
