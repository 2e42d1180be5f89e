//! `cvdmirror store ls`
use super::super::{Failure, Outcome, printed};
use crate::{
    cvd::{FileKind, FileName},
    style::HEAD,
    units::size,
};
use anstream::{AutoStream, ColorChoice};
use clap::ValueEnum;
use cvdmirror_store::{NameRecord, Proof, View};
use serde::{Serialize, Serializer as _};
use std::{
    fmt::Write as _,
    io::{self, BufWriter, Write as _},
};

/// Which names are listed (those that meet every condition), and how.
#[derive(clap::Args, Debug)]
pub(in crate::cli) struct Options {
    /// Databases, names, or beginnings of names; with none, everything
    patterns: Vec<String>,
    /// Only this kind
    #[arg(long, value_enum)]
    kind: Option<ListKind>,
    /// Only these versions: one, or FIRST-LAST
    #[arg(long, value_parser = versions)]
    versions: Option<(u32, u32)>,
    /// Prints sizes as exact bytes
    #[arg(long, conflicts_with = "json")]
    bytes: bool,
    /// Prints JSON, with exact bytes
    #[arg(long)]
    json: bool,
}

/// The kinds that can be chosen.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum ListKind {
    Cvd,
    Cdiff,
    Sign,
}

/// Fits `bytecode-335.cdiff.sign`, and the line into 100 columns.
const NAME_WIDTH: usize = 24;

/// Reads `N` or `FIRST-LAST`.
fn versions(text: &str) -> Result<(u32, u32), &'static str> {
    let number = |text: &str| text.parse::<u32>().map_err(|_| "give a version, or FIRST-LAST");
    match text.split_once('-') {
        Some((first, last)) => Ok((number(first)?, number(last)?)),
        None => number(text).map(|version| (version, version)),
    }
}

#[derive(Serialize)]
struct Entry<'a> {
    name: &'a str,
    /// Database, version and kind; `None` for a name that is no ClamAV file's.
    #[serde(flatten)]
    file: Option<File<'a>>,
    #[serde(flatten)]
    record: &'a NameRecord,
    pack: &'a str,
}

#[derive(Serialize, Clone, Copy)]
struct File<'a> {
    database: &'a str,
    version: u32,
    kind: ListKind,
}

impl<'a> File<'a> {
    /// Parses a name.
    fn new(name: &'a str) -> Option<Self> {
        let file: FileName = name.parse().ok()?;
        let kind = match file.kind {
            FileKind::Cvd => ListKind::Cvd,
            FileKind::Cdiff => ListKind::Cdiff,
            FileKind::CvdSign | FileKind::CdiffSign => ListKind::Sign,
        };
        Some(Self { database: name.get(..file.database.as_str().len())?, version: file.version, kind })
    }
}

impl Options {
    fn takes(&self, entry: &Entry<'_>) -> bool {
        let (kind, version) = (entry.file.map(|file| file.kind), entry.file.map(|file| file.version));
        self.kind.is_none_or(|wanted| kind == Some(wanted))
            && self.versions.is_none_or(|(from, to)| version.is_some_and(|v| (from..=to).contains(&v)))
    }

    fn narrows(&self) -> bool {
        !self.patterns.is_empty() || self.kind.is_some() || self.versions.is_some()
    }
}

/// The patterns, and which of them have matched a name.
struct Patterns<'a>(Vec<(&'a str, bool)>);

impl Patterns<'_> {
    /// Whether a name begins with any pattern, and notes which; without patterns every name does.
    fn take(&mut self, name: &str) -> bool {
        let mut any = self.0.is_empty();
        for (_, met) in self.0.iter_mut().filter(|(start, _)| name.starts_with(*start)) {
            (*met, any) = (true, true);
        }
        any
    }
}

pub(super) fn run(view: &View, options: &Options) -> Outcome {
    let mut patterns = Patterns(options.patterns.iter().map(|start| (&**start, false)).collect());
    let mut listed = 0_usize;
    let entries = view.bindings().map(|(name, record, pack)| Entry {
        name,
        file: File::new(name),
        record,
        pack: pack.id().as_str(),
    });
    let entries =
        entries.filter(|entry| options.takes(entry) && patterns.take(entry.name)).inspect(|_| listed += 1);
    // Written as they come, for there may be many, in pieces of a pipe's capacity.
    let mut out = BufWriter::with_capacity(64 << 10, io::stdout().lock());
    let written = match options.json {
        true => list_as_json(&mut out, entries),
        false => list_as_text(&mut out, entries, options.bytes),
    };
    printed(written.and_then(|()| out.flush()))?;
    let missed: Vec<&str> = patterns.0.iter().filter(|(_, met)| !met).map(|(start, _)| *start).collect();
    match (missed.is_empty(), listed) {
        (false, _) => {
            Err(Failure::Failed(format!("no name begins with {}; `store ls` lists all", missed.join(" or "))))
        }
        (true, 0) if options.narrows() => Err(Failure::Failed("no name is of that kind and version".into())),
        (true, 0) => {
            eprintln!("cvdmirror: the store is empty; `cvdmirror status` says why");
            Ok(())
        }
        _ => Ok(()),
    }
}

fn list_as_json<'a>(out: &mut impl io::Write, entries: impl Iterator<Item = Entry<'a>>) -> io::Result<()> {
    serde_json::Serializer::pretty(&mut *out).collect_seq(entries)?;
    writeln!(out)
}

fn list_as_text<'a>(
    out: &mut impl io::Write,
    entries: impl Iterator<Item = Entry<'a>>,
    bytes: bool,
) -> io::Result<()> {
    let mut entries = entries.peekable();
    if entries.peek().is_some() {
        let head = format!(
            "{:<NAME_WIDTH$} {:>9}  {:<10}  {:<17}  {:<12}  FROM",
            "NAME", "SIZE", "OBJECT", "STORED", "VERIFIED"
        );
        match AutoStream::choice(&io::stdout()) {
            ColorChoice::Never => writeln!(out, "{head}")?,
            _ => writeln!(out, "{HEAD}{head}{HEAD:#}")?,
        }
    }
    // What came together was stored in the same second: most often the time of the line above is right.
    let (mut at_s, mut at) = (0, String::new());
    let mut line = String::new();
    for Entry { name, record, .. } in entries {
        if at.is_empty() || at_s != record.stored_at_s {
            at_s = record.stored_at_s;
            at = jiff::Timestamp::from_second(at_s as i64).unwrap_or_default().strftime("%FT%RZ").to_string();
        }
        let NameRecord { object, size: len, origin, proof, .. } = record;
        // A name's padding by hand: with a hundred thousand of them it shows.
        line.clear();
        line.push_str(name);
        line.extend(std::iter::repeat_n(' ', NAME_WIDTH.saturating_sub(name.len())));
        // Writing into a String cannot fail.
        let _ = match bytes {
            true => write!(line, " {len:>9}"),
            false => write!(line, " {:>9}", size(*len)),
        };
        let _ = writeln!(line, "  {object:.10}  {at}  {:<12}  {}", verified(*proof), place(origin));
        out.write_all(line.as_bytes())?;
    }
    Ok(())
}

/// How a name was verified, in a word or two.
fn verified(proof: Proof) -> &'static str {
    match proof {
        Proof::Empty => "empty",
        Proof::Form => "form only",
        Proof::Signed => "signed",
        Proof::Chained => "signed+certs",
        Proof::Rebuilt => "rebuilt",
        Proof::Unknown => "not recorded",
    }
}

/// Where a file came from, without what its name says: the host of a URL, the directory of a path.
fn place(origin: &str) -> &str {
    match origin.split_once("://") {
        Some((_, rest)) => rest.split('/').next().unwrap_or(rest),
        None if origin.starts_with('/') => origin.rsplit_once('/').map_or(origin, |(dir, _)| dir),
        None => origin.strip_prefix("rebuilt from ").unwrap_or(origin),
    }
}
