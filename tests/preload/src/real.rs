//! The functions of libc that stand behind those of this library.

use std::ffi::{CStr, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

/// A function of libc, found once.
pub(crate) struct Real {
    name: &'static CStr,
    found: AtomicPtr<c_void>,
}

impl Real {
    /// A function of this name.
    pub(crate) const fn named(name: &'static CStr) -> Self {
        Self { name, found: AtomicPtr::new(null_mut()) }
    }

    /// Looks for it; null where libc has no such function.
    pub(crate) fn find(&self) -> *mut c_void {
        let known = self.found.load(Ordering::Relaxed);
        if !known.is_null() {
            return known;
        }
        // SAFETY: the name is one, and the handle is the loader's own.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        self.found.store(found, Ordering::Relaxed);
        found
    }

    /// Where it is. The process ends if it is nowhere: then nobody could have called it without this library.
    pub(crate) fn get(&self) -> *mut c_void {
        let found = self.find();
        if found.is_null() {
            // SAFETY: it needs nothing and does not return.
            unsafe { libc::abort() }
        }
        found
    }
}
