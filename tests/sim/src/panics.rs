//! Panics of tasks: a runtime catches them, and a run must not go on as if nothing had been.

use std::cell::RefCell;
use std::panic;

thread_local! {
    static FIRST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// From now on the first panic of each thread is kept.
pub(crate) fn keep() {
    let said = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        FIRST.with_borrow_mut(|first| {
            first.get_or_insert_with(|| panic.to_string().replace('\n', " "));
        });
        said(panic);
    }));
}

/// A new run begins on this thread.
pub(crate) fn forget() {
    FIRST.set(None);
}

/// What panicked first in this run.
pub(crate) fn first() -> Option<String> {
    FIRST.with_borrow(Clone::clone)
}
