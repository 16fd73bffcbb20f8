//! The wall clock, each of its functions with libc's own name and signature, and waiting.
//!
//! - What counts from the boot of the machine is as it is.
//! - A thread that waits until a time of the wall clock would wait for hours, or not at all: the kernel's clock is not the
//!   one by which it counted.

use std::ffi::{c_int, c_void};
use std::mem::transmute;

use libc::{clockid_t, pthread_cond_t, pthread_mutex_t, time_t, timespec, timeval};

use crate::control;
use crate::real::Real;

type GetTime = unsafe extern "C" fn(clockid_t, *mut timespec) -> c_int;
type GetTimeOfDay = unsafe extern "C" fn(*mut timeval, *mut c_void) -> c_int;
type Time = unsafe extern "C" fn(*mut time_t) -> time_t;
type WaitUntil = unsafe extern "C" fn(*mut pthread_cond_t, *mut pthread_mutex_t, *const timespec) -> c_int;

static CLOCK_GETTIME: Real = Real::named(c"clock_gettime");
static GETTIMEOFDAY: Real = Real::named(c"gettimeofday");
static TIME: Real = Real::named(c"time");
static PTHREAD_COND_TIMEDWAIT: Real = Real::named(c"pthread_cond_timedwait");

const SECOND: i128 = 1_000_000_000;
/// Seconds: an earlier time of a wait is one of a clock that counts from the boot, 15 years ago at most.
const WALL: time_t = 500_000_000;

/// Looks for all of them.
pub(crate) fn find() {
    for real in [&CLOCK_GETTIME, &GETTIMEOFDAY, &TIME, &PTHREAD_COND_TIMEDWAIT] {
        real.find();
    }
}

/// What the clock shows that counts from the boot of the machine, in nanoseconds.
pub(crate) fn monotonic_ns() -> u64 {
    let (now, _) = shown(libc::CLOCK_MONOTONIC);
    u64::try_from(i128::from(now.tv_sec) * SECOND + i128::from(now.tv_nsec)).unwrap_or(0)
}

/// Waits, whatever signals come.
pub(crate) fn wait(micros: u64) {
    let seconds = time_t::try_from(micros / 1_000_000).unwrap_or(time_t::MAX);
    // Less than a second, so that it fits.
    let mut left = timespec { tv_sec: seconds, tv_nsec: (micros % 1_000_000 * 1_000) as _ };
    let left = &raw mut left;
    // SAFETY: both are what is left to wait, which is read before it is written.
    while unsafe { libc::nanosleep(left, left) } != 0 {}
}

fn shown(clock: clockid_t) -> (timespec, c_int) {
    let mut now = timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: libc's own, of this signature, and there is room for what is written.
    let done = unsafe { transmute::<*mut c_void, GetTime>(CLOCK_GETTIME.get())(clock, &raw mut now) };
    (now, done)
}

fn moved(time: timespec, nanos: i64) -> timespec {
    let total = i128::from(time.tv_sec) * SECOND + i128::from(time.tv_nsec) + i128::from(nanos);
    let seconds = time_t::try_from(total.div_euclid(SECOND)).unwrap_or(time.tv_sec);
    // Less than a second, so that it fits.
    timespec { tv_sec: seconds, tv_nsec: total.rem_euclid(SECOND) as _ }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: clockid_t, now: *mut timespec) -> c_int {
    // SAFETY: libc's own, of this signature; what it is given is the caller's.
    let done = unsafe { transmute::<*mut c_void, GetTime>(CLOCK_GETTIME.get())(clock, now) };
    if done == 0 && matches!(clock, libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE) {
        let ahead = control::ahead();
        if ahead != 0 {
            // SAFETY: libc has just written there.
            unsafe { *now = moved(*now, ahead) };
        }
    }
    done
}

#[unsafe(no_mangle)]
unsafe extern "C" fn gettimeofday(now: *mut timeval, zone: *mut c_void) -> c_int {
    // SAFETY: libc's own, of this signature; what it is given is the caller's.
    let done = unsafe { transmute::<*mut c_void, GetTimeOfDay>(GETTIMEOFDAY.get())(now, zone) };
    if done == 0 && !now.is_null() {
        let ahead = control::ahead();
        if ahead != 0 {
            // SAFETY: libc has just written there.
            let shown = unsafe { &mut *now };
            let fine = timespec { tv_sec: shown.tv_sec, tv_nsec: shown.tv_usec * 1_000 };
            let moved = moved(fine, ahead);
            *shown = timeval { tv_sec: moved.tv_sec, tv_usec: moved.tv_nsec / 1_000 };
        }
    }
    done
}

#[unsafe(no_mangle)]
unsafe extern "C" fn time(now: *mut time_t) -> time_t {
    let ahead = control::ahead();
    if ahead == 0 {
        // SAFETY: libc's own, of this signature; what it is given is the caller's.
        return unsafe { transmute::<*mut c_void, Time>(TIME.get())(now) };
    }
    let (shown, _) = shown(libc::CLOCK_REALTIME);
    let seconds = moved(shown, ahead).tv_sec;
    if !now.is_null() {
        // SAFETY: the caller has room there for it.
        unsafe { *now = seconds };
    }
    seconds
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_cond_timedwait(
    condition: *mut pthread_cond_t,
    mutex: *mut pthread_mutex_t,
    until: *const timespec,
) -> c_int {
    // SAFETY: the caller's, to be read.
    let mut moment = unsafe { *until };
    let ahead = if moment.tv_sec < WALL { 0 } else { control::ahead() };
    if ahead != 0 {
        moment = moved(moment, -ahead);
    }
    // SAFETY: libc's own, of this signature; what it is given is the caller's, but for the moment.
    unsafe {
        transmute::<*mut c_void, WaitUntil>(PTHREAD_COND_TIMEDWAIT.get())(condition, mutex, &raw const moment)
    }
}
