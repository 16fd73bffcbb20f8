//! A library that stands before libc in a process (`LD_PRELOAD`): disk calls that fail or dawdle, and a wrong wall clock.
//!
//! - Told by a control page (`page`), a small file that the environment names. Without one, everything is as it was.
//! - Errors and delays meet the calls on one file system alone. A call that fails has done nothing.
//! - The wall clock is ahead or behind by what the page says. Clocks that count from the boot of the machine are not
//!   touched, and what waits until a time of the wall clock waits as long as it would without.
//! - Nothing is allocated and no lock is taken. What libc does by itself is not met: its own calls do not come here.
//! - With `kernel` the only crate with `unsafe`: functions under libc's names, and memory shared with another process, cannot
//!   be had without.
#![expect(unsafe_code, reason = "functions under libc's names, and memory shared with another process")]

mod clock;
mod control;
mod disk;
mod page;
mod real;

/// The loader calls this before anything of the program runs.
#[used]
#[unsafe(link_section = ".init_array")]
static BEGIN: extern "C" fn() = begin;

extern "C" fn begin() {
    control::map();
    // Whoever is in the middle of a signal later need not look for them.
    disk::find();
    clock::find();
}
