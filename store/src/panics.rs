//! redb trusts a file's structure and panics on some damage (its `set_check_integrity_on_open` says so).
use crate::Error;
use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook},
    path::Path,
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

/// Runs a step of redb on the file at `path`; a panic becomes an error about the file.
pub(crate) fn guarded<T>(
    path: &Path,
    op: &'static str,
    step: impl FnOnce() -> Result<T, redb::Error>,
) -> Result<T, Error> {
    match caught(step) {
        Some(result) => result.map_err(|e| Error::redb(path, op, e)),
        None => Err(Error::unusable(path, "its structure is damaged")),
    }
}

/// Stops the printing of panics that [`caught`] turns into errors. A program calls this once, when it starts.
pub fn hide_caught_panics() {
    let print = take_hook();
    set_hook(Box::new(move |panic| {
        if !CAUGHT.get() {
            print(panic);
        }
    }));
}
