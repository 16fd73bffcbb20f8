//! Calls that reach a disk: syncs, writes and renames, each with libc's own name and signature.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::mem::{MaybeUninit, transmute};

use libc::{iovec, off_t, off64_t, size_t, ssize_t};

use crate::control::{self, Place};
use crate::real::Real;

type OfFile = unsafe extern "C" fn(c_int) -> c_int;
type SyncRange = unsafe extern "C" fn(c_int, off64_t, off64_t, c_uint) -> c_int;
type Write = unsafe extern "C" fn(c_int, *const c_void, size_t) -> ssize_t;
type WriteAt = unsafe extern "C" fn(c_int, *const c_void, size_t, off_t) -> ssize_t;
type WritePieces = unsafe extern "C" fn(c_int, *const iovec, c_int) -> ssize_t;
type Rename = unsafe extern "C" fn(*const c_char, *const c_char) -> c_int;
type RenameAt = unsafe extern "C" fn(c_int, *const c_char, c_int, *const c_char) -> c_int;
type RenameAt2 = unsafe extern "C" fn(c_int, *const c_char, c_int, *const c_char, c_uint) -> c_int;

static FSYNC: Real = Real::named(c"fsync");
static FDATASYNC: Real = Real::named(c"fdatasync");
static SYNC_FILE_RANGE: Real = Real::named(c"sync_file_range");
static WRITE: Real = Real::named(c"write");
static PWRITE: Real = Real::named(c"pwrite");
static PWRITE64: Real = Real::named(c"pwrite64");
static WRITEV: Real = Real::named(c"writev");
static RENAME: Real = Real::named(c"rename");
static RENAMEAT: Real = Real::named(c"renameat");
static RENAMEAT2: Real = Real::named(c"renameat2");

/// Looks for all of them.
pub(crate) fn find() {
    let all = [&FSYNC, &FDATASYNC, &SYNC_FILE_RANGE, &WRITE, &PWRITE, &PWRITE64, &WRITEV];
    for real in all.into_iter().chain([&RENAME, &RENAMEAT, &RENAMEAT2]) {
        real.find();
    }
}

/// How long an open file is.
pub(crate) fn length_of(file: c_int) -> Option<u64> {
    let seen = seen_of(file)?;
    // SAFETY: numbers alone, each of which may be any.
    u64::try_from(unsafe { seen.assume_init_ref() }.st_size).ok()
}

fn seen_of(file: c_int) -> Option<MaybeUninit<libc::stat>> {
    let mut seen = MaybeUninit::zeroed();
    // SAFETY: there is room for what is written.
    let done = unsafe { libc::fstat(file, seen.as_mut_ptr()) };
    (done == 0).then_some(seen)
}

fn place_of(file: c_int) -> Option<Place> {
    seen_of(file).as_ref().map(Place::of)
}

fn place_at(folder: c_int, path: *const c_char) -> Option<Place> {
    let mut seen = MaybeUninit::zeroed();
    // SAFETY: the path is the caller's, and there is room for what is written.
    let done = unsafe { libc::fstatat(folder, path, seen.as_mut_ptr(), libc::AT_SYMLINK_NOFOLLOW) };
    (done == 0).then(|| Place::of(&seen))
}

/// What a call gives that has failed with this error number.
fn failed(error: c_int) -> c_int {
    // SAFETY: it is this thread's own.
    unsafe { *libc::__errno_location() = error };
    -1
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fsync(file: c_int) -> c_int {
    match control::sync(|| place_of(file), true) {
        // SAFETY: libc's own, of this signature; what it is given is the caller's.
        Ok(()) => unsafe { transmute::<*mut c_void, OfFile>(FSYNC.get())(file) },
        Err(error) => failed(error),
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdatasync(file: c_int) -> c_int {
    match control::sync(|| place_of(file), true) {
        // SAFETY: libc's own, of this signature; what it is given is the caller's.
        Ok(()) => unsafe { transmute::<*mut c_void, OfFile>(FDATASYNC.get())(file) },
        Err(error) => failed(error),
    }
}

/// Without flags it does nothing: somebody asks whether there is such a call.
#[unsafe(no_mangle)]
unsafe extern "C" fn sync_file_range(file: c_int, from: off64_t, bytes: off64_t, flags: c_uint) -> c_int {
    let decided = if flags == 0 { Ok(()) } else { control::sync(|| place_of(file), false) };
    match decided {
        // SAFETY: libc's own, of this signature; what it is given is the caller's.
        Ok(()) => unsafe {
            transmute::<*mut c_void, SyncRange>(SYNC_FILE_RANGE.get())(file, from, bytes, flags)
        },
        Err(error) => failed(error),
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn write(file: c_int, from: *const c_void, bytes: size_t) -> ssize_t {
    match control::write(|| place_of(file)) {
        // SAFETY: libc's own, of this signature; what it is given is the caller's.
        Ok(()) => unsafe { transmute::<*mut c_void, Write>(WRITE.get())(file, from, bytes) },
        Err(error) => failed(error) as ssize_t,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pwrite(file: c_int, from: *const c_void, bytes: size_t, at: off_t) -> ssize_t {
    match control::write(|| place_of(file)) {
        // SAFETY: libc's own, of this signature; what it is given is the caller's.
        Ok(()) => unsafe { transmute::<*mut c_void, WriteAt>(PWRITE.get())(file, from, bytes, at) },
        Err(error) => failed(error) as ssize_t,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pwrite64(file: c_int, from: *const c_void, bytes: size_t, at: off64_t) -> ssize_t {
    match control::write(|| place_of(file)) {
        // SAFETY: libc's own, of this signature; what it is given is the caller's.
        Ok(()) => unsafe { transmute::<*mut c_void, WriteAt>(PWRITE64.get())(file, from, bytes, at) },
        Err(error) => failed(error) as ssize_t,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn writev(file: c_int, pieces: *const iovec, count: c_int) -> ssize_t {
    match control::write(|| place_of(file)) {
        // SAFETY: libc's own, of this signature; what it is given is the caller's.
        Ok(()) => unsafe { transmute::<*mut c_void, WritePieces>(WRITEV.get())(file, pieces, count) },
        Err(error) => failed(error) as ssize_t,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    match control::rename(|| place_at(libc::AT_FDCWD, from)) {
        // SAFETY: libc's own, of this signature; what it is given is the caller's.
        Ok(()) => unsafe { transmute::<*mut c_void, Rename>(RENAME.get())(from, to) },
        Err(error) => failed(error),
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn renameat(
    from_folder: c_int,
    from: *const c_char,
    to_folder: c_int,
    to: *const c_char,
) -> c_int {
    match control::rename(|| place_at(from_folder, from)) {
        // SAFETY: libc's own, of this signature; what it is given is the caller's.
        Ok(()) => unsafe {
            transmute::<*mut c_void, RenameAt>(RENAMEAT.get())(from_folder, from, to_folder, to)
        },
        Err(error) => failed(error),
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn renameat2(
    from_folder: c_int,
    from: *const c_char,
    to_folder: c_int,
    to: *const c_char,
    flags: c_uint,
) -> c_int {
    match control::rename(|| place_at(from_folder, from)) {
        // SAFETY: libc's own, of this signature; what it is given is the caller's.
        Ok(()) => unsafe {
            transmute::<*mut c_void, RenameAt2>(RENAMEAT2.get())(from_folder, from, to_folder, to, flags)
        },
        Err(error) => failed(error),
    }
}
