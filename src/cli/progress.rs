//! How far a fetch is: bars on a terminal, a line a file otherwise.
use crate::source::Progress;
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    io::{IsTerminal, stderr},
    sync::{Arc, Mutex, PoisonError},
};

/// Shows progress on standard error.
pub(super) fn to_stderr() -> Arc<dyn Progress> {
    if stderr().is_terminal() { Arc::new(Bar(Mutex::new(ProgressBar::hidden()))) } else { Arc::new(Lines) }
}

#[derive(Debug)]
struct Bar(Mutex<ProgressBar>);

impl Bar {
    fn bar(&self) -> std::sync::MutexGuard<'_, ProgressBar> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Bar {
    fn begin(&self, what: &str, total: Option<u64>) {
        let bar = total.map_or_else(ProgressBar::no_length, ProgressBar::new);
        let style = "{msg:28} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        *self.bar() = bar;
    }

    fn advance(&self, bytes: u64) {
        self.bar().inc(bytes);
    }

    fn end(&self) {
        self.bar().finish_and_clear();
    }
}

#[derive(Debug)]
struct Lines;

impl Progress for Lines {
    fn begin(&self, what: &str, total: Option<u64>) {
        match total {
            Some(total) => eprintln!("{what} ({total} bytes)"),
            None => eprintln!("{what}"),
        }
    }

    fn advance(&self, _bytes: u64) {}

    fn end(&self) {}
}
