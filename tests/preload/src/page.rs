//! The control page: words of 64 bits that whoever breaks a process and the library in it share, in a small file.
//!
//! - Whoever breaks the process writes settings, the library counts. Only the library maps the page; the other side writes
//!   and reads the file, which is the same memory.
//! - This file is part of both sides.

use std::ffi::CStr;

/// Names the file in the environment of the process.
pub(crate) const VARIABLE: &CStr = c"HOLDFAST_TEST_PAGE";
/// Words of a page.
pub(crate) const WORDS: usize = 32;
/// Bytes of a page.
pub(crate) const BYTES: usize = WORDS * 8;
/// What the first word of a page is: another layout has another one.
pub(crate) const LAYOUT: u64 = 0x0002_4547_4150_4648;

// Operations that can fail, by number.
pub(crate) const SYNC: u64 = 1;
pub(crate) const WRITE: u64 = 2;
pub(crate) const RENAME: u64 = 3;

// Settings, by their places in the page.
/// The layout.
pub(crate) const HEAD: usize = 0;
/// The file system whose calls are meant, as stat(2) numbers it; 0 is none.
pub(crate) const DEVICE: usize = 1;
/// The operation that fails now; 0 is none. Written last, and first taken away.
pub(crate) const ARMED: usize = 2;
/// How many calls of it are let through first, how many fail then, and with which error number.
pub(crate) const SKIP: usize = 3;
pub(crate) const FAIL: usize = 4;
pub(crate) const ERROR: usize = 5;
/// What each sync waits before it begins, in microseconds.
pub(crate) const DELAY: usize = 6;
/// Which of two words says by how many nanoseconds the wall clock is ahead: the other one may be half written.
pub(crate) const OFFSET: usize = 7;
pub(crate) const OFFSETS: [usize; 2] = [8, 9];

// What the library counts. The first six are set to 0 whenever an operation is armed.
/// Calls that the armed operation has met.
pub(crate) const MET: usize = 16;
/// When the first call failed, in monotonic nanoseconds, and the inode that it was about.
pub(crate) const FAILED_AT: usize = 17;
pub(crate) const FAILED_INODE: usize = 18;
/// Calls that have failed.
pub(crate) const FAILED: usize = 19;
/// Of these, and of those that the armed operation met later and let through, calls about another inode than the first.
pub(crate) const FAILED_ELSEWHERE: usize = 20;
pub(crate) const PASSED_ELSEWHERE: usize = 21;
/// Calls on the file system that is meant.
pub(crate) const SYNCS: usize = 22;
pub(crate) const WRITES: usize = 23;
pub(crate) const RENAMES: usize = 24;
/// Syncs that have waited.
pub(crate) const DELAYED: usize = 25;
/// Looks at the wall clock that saw a wrong one.
pub(crate) const SHIFTED: usize = 26;
/// The process that was loaded last.
pub(crate) const PROCESS: usize = 27;
