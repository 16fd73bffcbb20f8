//! What takes long says so when it begins: a test looks what is held meanwhile.

use std::cell::RefCell;

type Hook = Box<dyn FnMut()>;

thread_local! {
    static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
}

/// Has this called whenever something slow begins on this thread.
pub(crate) fn call_when_it_begins(hook: impl FnMut() + 'static) {
    HOOK.set(Some(Box::new(hook)));
}

/// Something slow begins.
pub(crate) fn begins() {
    HOOK.with_borrow_mut(|hook| {
        if let Some(hook) = hook {
            hook();
        }
    });
}
