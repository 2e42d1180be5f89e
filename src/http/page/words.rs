//! How the page says times and events. Times are UTC, since nobody can tell the reader's zone from here.
use crate::{clock::ago, mirror::history::What, units::size};
use askama::{Template, filters::HtmlSafe};
use jiff::Timestamp;
use std::fmt;

/// A moment: for programs, exactly, and in the words that are shown.
#[derive(Template, Clone, PartialEq, Eq, Debug)]
#[template(ext = "html", source = r#"<time datetime="{{ iso }}" title="{{ exact }}">{{ shown }}</time>"#)]
pub(super) struct When {
    pub(super) iso: String,
    pub(super) exact: String,
    pub(super) shown: String,
}
/// What is rendered is an element whose parts were escaped on the way.
impl HtmlSafe for When {}

impl When {
    /// Shown as how long ago it was.
    pub(super) fn past(at_s: u64, now_s: u64) -> Self {
        let shown = match now_s.saturating_sub(at_s) {
            0..5 => "just now".into(),
            age_s => format!("{} ago", ago(age_s)),
        };
        Self { shown, ..Self::exactly(at_s) }
    }

    /// Shown with its date.
    pub(super) fn exactly(at_s: u64) -> Self {
        let exact = said(at_s, "%-d %b %Y, %H:%M UTC");
        Self { iso: said(at_s, "%Y-%m-%dT%H:%M:%SZ"), shown: exact.clone(), exact }
    }

    /// Shown without its year, for columns of the last days.
    pub(super) fn lately(at_s: u64) -> Self {
        Self { shown: said(at_s, "%-d %b, %H:%M"), ..Self::exactly(at_s) }
    }
}

/// A moment in strftime's words; one past the calendar's end as a number.
pub(super) fn said(at_s: u64, format: &str) -> String {
    match i64::try_from(at_s).map(Timestamp::from_second) {
        Ok(Ok(at)) => at.strftime(format).to_string(),
        _ => format!("{at_s} s after 1970"),
    }
}

/// An event in plain words.
pub(super) struct Told<'a>(pub(super) &'a What);
impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            What::Announced(version) => write!(f, "version {version} announced upstream"),
            What::Patched(version) => write!(f, "version {version} held, by CDIFF"),
            What::Fetched { version, bytes } => write!(f, "full CVD {version} fetched, {}", size(*bytes)),
            What::Rebuilt { version, bytes } => {
                write!(f, "full CVD {version} rebuilt here, {} not fetched", size(*bytes))
            }
            What::Recovered => f.write_str("checks succeed again"),
            What::Lagged(text) => write!(f, "the source's edge lagged: {text}"),
            What::Refused(text) => write!(f, "refused: {text}"),
            What::Missed(text) => write!(f, "missing: {text}"),
            What::Failed(text) => write!(f, "check failed: {text}"),
            What::Doubted(text) => write!(f, "does not agree: {text}"),
            What::Found(text) => text.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_past_the_calendar_is_a_number() {
        assert_eq!(When::exactly(784_111_777).iso, "1994-11-06T08:49:37Z");
        assert_eq!(When::exactly(u64::MAX).exact, format!("{} s after 1970", u64::MAX));
    }
}
