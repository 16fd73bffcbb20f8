//! The control page as the process sees it, and what it says of a call.

use std::ffi::{CStr, c_int};
use std::mem::MaybeUninit;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use crate::page::{
    ARMED, BYTES, DELAY, DELAYED, DEVICE, ERROR, FAIL, FAILED, FAILED_AT, FAILED_ELSEWHERE, FAILED_INODE,
    HEAD, LAYOUT, MET, OFFSET, OFFSETS, PASSED_ELSEWHERE, PROCESS, RENAME, RENAMES, SHIFTED, SKIP, SYNC,
    SYNCS, VARIABLE, WORDS, WRITE, WRITES,
};
use crate::{clock, disk};

type Page = [AtomicU64; WORDS];

/// Null, if there is none.
static PAGE: AtomicPtr<Page> = AtomicPtr::new(null_mut());

/// What a call is about: file system and inode.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    device: u64,
    inode: u64,
}

/// Maps the page that the environment names. One that is none is left alone: whoever made it sees that nobody counts.
pub(crate) fn map() {
    // SAFETY: the name is one, and nothing of the program runs yet that could change the environment.
    let path = unsafe { libc::getenv(VARIABLE.as_ptr()) };
    if path.is_null() {
        return;
    }
    // SAFETY: what `getenv` gives is a text with an end.
    let Some(mapped) = mapped(unsafe { CStr::from_ptr(path) }) else { return };
    // SAFETY: the mapping is aligned, as long as a page, and never taken away.
    let page: &Page = unsafe { &*mapped };
    if page[HEAD].load(Ordering::Acquire) == LAYOUT {
        page[PROCESS].store(u64::from(std::process::id()), Ordering::Release);
        PAGE.store(mapped, Ordering::Release);
    }
}

fn mapped(path: &CStr) -> Option<*mut Page> {
    // SAFETY: the path is a text with an end.
    let file = unsafe { libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
    if file < 0 {
        return None;
    }
    // What lies behind the end of a file must not be touched.
    let is_whole = disk::length_of(file).is_some_and(|length| length >= BYTES as u64);
    let mut mapped = libc::MAP_FAILED;
    if is_whole {
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, wherever there is room, of a file that is as long.
        mapped = unsafe { libc::mmap(null_mut(), BYTES, rights, libc::MAP_SHARED, file, 0) };
    }
    // SAFETY: it was opened here, and nobody else knows it.
    unsafe { libc::close(file) };
    (mapped != libc::MAP_FAILED).then(|| mapped.cast())
}

fn page() -> Option<&'static Page> {
    // SAFETY: null, or a mapping that is never taken away, and only touched by atomic operations.
    unsafe { PAGE.load(Ordering::Acquire).as_ref() }
}

/// A sync is asked for: it waits as long as it is told to, unless it only begins what others wait for. The error number with
/// which it fails instead.
pub(crate) fn sync(place: impl FnOnce() -> Option<Place>, waits: bool) -> Result<(), c_int> {
    let Some((page, place)) = meant(place) else { return Ok(()) };
    page[SYNCS].fetch_add(1, Ordering::Relaxed);
    let micros = page[DELAY].load(Ordering::Relaxed);
    if waits && micros > 0 {
        clock::wait(micros);
        page[DELAYED].fetch_add(1, Ordering::Release);
    }
    decide(page, SYNC, place)
}

/// Something is to be written; the error number with which that fails.
pub(crate) fn write(place: impl FnOnce() -> Option<Place>) -> Result<(), c_int> {
    let Some((page, place)) = meant(place) else { return Ok(()) };
    page[WRITES].fetch_add(1, Ordering::Relaxed);
    decide(page, WRITE, place)
}

/// Something is to be renamed; the error number with which that fails.
pub(crate) fn rename(place: impl FnOnce() -> Option<Place>) -> Result<(), c_int> {
    let Some((page, place)) = meant(place) else { return Ok(()) };
    page[RENAMES].fetch_add(1, Ordering::Relaxed);
    decide(page, RENAME, place)
}

/// By how many nanoseconds the wall clock is ahead; whoever is told that it is has looked at it.
pub(crate) fn ahead() -> i64 {
    let Some(page) = page() else { return 0 };
    let [first, second] = OFFSETS;
    let which = if page[OFFSET].load(Ordering::Acquire) == 0 { first } else { second };
    let ahead = page[which].load(Ordering::Acquire).cast_signed();
    if ahead != 0 {
        page[SHIFTED].fetch_add(1, Ordering::Relaxed);
    }
    ahead
}

/// The page and the place, if calls there are meant. The place is only asked for if any are.
fn meant(place: impl FnOnce() -> Option<Place>) -> Option<(&'static Page, Place)> {
    let page = page()?;
    let device = page[DEVICE].load(Ordering::Relaxed);
    if device == 0 {
        return None;
    }
    let place = place()?;
    (place.device == device).then_some((page, place))
}

fn decide(page: &Page, operation: u64, place: Place) -> Result<(), c_int> {
    if page[ARMED].load(Ordering::Acquire) != operation {
        return Ok(());
    }
    let number = page[MET].fetch_add(1, Ordering::Relaxed);
    let first = page[SKIP].load(Ordering::Relaxed);
    let behind = first.saturating_add(page[FAIL].load(Ordering::Relaxed));
    let is_elsewhere = || page[FAILED_INODE].load(Ordering::Acquire) != place.inode;
    if !(first..behind).contains(&number) {
        if number >= behind && is_elsewhere() {
            page[PASSED_ELSEWHERE].fetch_add(1, Ordering::Release);
        }
        return Ok(());
    }
    if number == first {
        page[FAILED_INODE].store(place.inode, Ordering::Release);
        page[FAILED_AT].store(clock::monotonic_ns(), Ordering::Release);
    } else if is_elsewhere() {
        page[FAILED_ELSEWHERE].fetch_add(1, Ordering::Release);
    }
    page[FAILED].fetch_add(1, Ordering::Release);
    Err(c_int::try_from(page[ERROR].load(Ordering::Relaxed)).unwrap_or(libc::EIO))
}

impl Place {
    /// Of what stat(2) has written.
    pub(crate) fn of(seen: &MaybeUninit<libc::stat>) -> Self {
        // SAFETY: numbers alone, each of which may be any, and zero before they were written.
        let seen = unsafe { seen.assume_init_ref() };
        Self { device: seen.st_dev, inode: seen.st_ino }
    }
}
