//! The log on standard error: a sentence a line for people, or an object a line for programs.
//!
//! Guaranteed: an event is one line; nothing that came from outside can end it early or control a terminal. The fields of a
//! trouble (`what`, `why`, `fix`) are written below the message, indented. `RUST_LOG` sets how much is logged, unless the
//! command line does.
use super::options::Manner;
use crate::{
    config::LogFormat,
    trouble::{COLUMNS, Trouble, TroubleKind},
};
use anstream::{AutoStream, ColorChoice};
use std::{
    fmt::{self, Write as _},
    io,
};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    filter::Targets,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    layer::SubscriberExt as _,
    registry::LookupSpan,
    util::SubscriberInitExt as _,
};

/// Begins to log. A command that `reports` says everything there, and once: its log is for who asks for it.
pub(super) fn start(format: LogFormat, manner: &Manner, reports: bool) {
    let all = |level: Level| Targets::new().with_default(level);
    let usual = |level: Level| if reports { Targets::new() } else { all(level) };
    let filter: Targets = match (manner.quiet, manner.verbose) {
        (true, _) => usual(Level::WARN),
        (false, 0) => {
            let asked = std::env::var("RUST_LOG").ok().and_then(|text| text.parse().ok());
            asked.unwrap_or_else(|| usual(Level::INFO))
        }
        (false, 1) => all(Level::INFO).with_target(env!("CARGO_CRATE_NAME"), Level::DEBUG),
        (false, _) => all(Level::DEBUG),
    };
    let log = tracing_subscriber::fmt()
        .with_max_level(Level::TRACE)
        .with_writer(io::stderr)
        .with_ansi(AutoStream::choice(&io::stderr()) != ColorChoice::Never);
    match format {
        LogFormat::Text => log.event_format(Sentence).finish().with(filter).init(),
        LogFormat::Json => {
            let log = log.json().flatten_event(true).with_current_span(false).with_span_list(false);
            log.finish().with(filter).init();
        }
    }
}

/// Writes the time, the level and the message. Our own events repeat parts of the message as fields for
/// [`LogFormat::Json`], which are left out; libraries' events are written with their fields.
struct Sentence;

impl<S, N> FormatEvent<S, N> for Sentence
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let trouble = Trouble::new(TroubleKind::Unknown, "");
        let mut said = Said { message: String::new(), fields: String::new(), trouble };
        event.record(&mut said);
        let meta = event.metadata();
        let colour = match *meta.level() {
            Level::ERROR => "31",
            Level::WARN => "33",
            Level::INFO => "32",
            _ => "2",
        };
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
        if !meta.target().starts_with(env!("CARGO_PKG_NAME")) {
            said.message.insert_str(0, &format!("{}: ", meta.target()));
            said.message.push_str(&said.fields);
        }
        for line in std::iter::once(&*said.message).chain(said.trouble().lines()) {
            match to.has_ansi_escapes() {
                true => write!(to, "\x1b[2m{now}\x1b[0m \x1b[{colour}m{:>5}\x1b[0m ", meta.level())?,
                false => write!(to, "{now} {:>5} ", meta.level())?,
            }
            line.chars().try_for_each(|c| match c.is_control() {
                true => write!(to, "{}", c.escape_default()),
                false => to.write_char(c),
            })?;
            writeln!(to)?;
        }
        Ok(())
    }
}

/// Characters of a line of the text that are left for what stands below a message.
const BELOW: usize = COLUMNS - "2026-11-25T18:33:26Z  WARN   ".len();

/// The message of an event, and its other fields.
struct Said {
    message: String,
    fields: String,
    trouble: Trouble,
}

impl Said {
    /// What stands below the message, indented, so that nothing that came from outside looks like an event.
    fn trouble(&self) -> String {
        let lines = match &*self.trouble.what {
            "" => String::new(),
            _ => self.trouble.lines("", BELOW),
        };
        lines.lines().map(|line| format!("  {line}\n")).collect()
    }
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing into a String cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            "what" => write!(self.trouble.what, "{value:?}"),
            "why" => write!(self.trouble.why, "{value:?}"),
            "fix" => write!(self.trouble.fix, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
