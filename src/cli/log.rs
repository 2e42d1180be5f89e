//! The log on standard error: a sentence a line for people, or an object a line for programs.
//!
//! Guaranteed: an event is one line, whatever stands in it. Nothing that came from outside can end a line early or
//! speak to a terminal. `RUST_LOG` says how much is logged.
use crate::config::LogFormat;
use std::{
    fmt::{self, Write as _},
    io::{self, IsTerminal},
};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

/// Begins to log.
pub(super) fn start(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    match format {
        LogFormat::Text => log.event_format(Sentence).init(),
        LogFormat::Json => {
            log.json().flatten_event(true).with_current_span(false).with_span_list(false).init();
        }
    }
}

/// Writes the time, the level and what the event says. Our own events say everything in their message, and repeat its
/// parts in fields for [`LogFormat::Json`]; those of libraries are written whole.
struct Sentence;

impl<S, N> FormatEvent<S, N> for Sentence
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut said = Said::default();
        event.record(&mut said);
        let meta = event.metadata();
        let colour = match *meta.level() {
            Level::ERROR => "31",
            Level::WARN => "33",
            Level::INFO => "32",
            _ => "2",
        };
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
        match to.has_ansi_escapes() {
            true => write!(to, "\x1b[2m{now}\x1b[0m \x1b[{colour}m{:>5}\x1b[0m ", meta.level())?,
            false => write!(to, "{now} {:>5} ", meta.level())?,
        }
        if !meta.target().starts_with(env!("CARGO_PKG_NAME")) {
            said.message.insert_str(0, &format!("{}: ", meta.target()));
            said.message.push_str(&said.fields);
        }
        said.message.chars().try_for_each(|c| match c.is_control() {
            true => write!(to, "{}", c.escape_default()),
            false => to.write_char(c),
        })?;
        writeln!(to)
    }
}

/// The message of an event, and its other fields.
#[derive(Default)]
struct Said {
    message: String,
    fields: String,
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing into a String cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
