//! Colours of the reports for people. Their `Display` writes them as ANSI sequences; the command line takes these out again
//! where no terminal reads, or none is to have colours.
use anstyle::{AnsiColor, Style};

/// What is as it should be.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// What somebody should look at.
pub const NOTE: Style = AnsiColor::Yellow.on_default();
/// What is wrong.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
/// What says what the rest is about.
pub const HEAD: Style = Style::new().bold();
