//! redb trusts a file's structure and panics on some damage (its `set_check_integrity_on_open` says so).
use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook},
};

thread_local! {
    /// Whether a panic of this thread is caught.
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// Runs a step of redb; `None` if it panics.
pub fn caught<T>(step: impl FnOnce() -> T) -> Option<T> {
    let outer = CAUGHT.replace(true);
    let result = catch_unwind(AssertUnwindSafe(step));
    CAUGHT.set(outer);
    result.ok()
}

/// Has panics that [`caught`] makes errors of not printed any more: what there is to tell people, the error tells.
/// For a program to call once, when it starts.
pub fn hide_caught_panics() {
    let print = take_hook();
    set_hook(Box::new(move |panic| {
        if !CAUGHT.get() {
            print(panic);
        }
    }));
}
