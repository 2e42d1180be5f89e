//! `cvdmirror store …`: looks into the packs from outside, beside a running server too.
use super::{Failure, Outcome, care, print, print_json, printed, runtime};
use crate::{
    config::Config,
    control,
    cvd::{FileKind, FileName},
    mirror::{
        DataDir,
        plan::Held,
        state::{KnownPacks, State},
        verify::Reading,
    },
};
use clap::{Subcommand, ValueEnum};
use cvdmirror_store::{Finding, NameRecord, ObjectId, Pack, Store, View};
use serde::{Serialize, Serializer as _};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    io::{self, BufWriter, Write as _},
    path::PathBuf,
    sync::Arc,
};

#[derive(Subcommand, Debug)]
pub(super) enum StoreCommand {
    /// Lists the names held: name, version, bytes, hash, when it was stored, from where, how it was verified
    Ls {
        /// Databases, names, or beginnings of names; with none, everything
        patterns: Vec<String>,
        /// Only this kind
        #[arg(long, value_enum)]
        kind: Option<Kind>,
        /// Only these versions: one, or FIRST-LAST
        #[arg(long, value_parser = versions)]
        versions: Option<(u32, u32)>,
        /// Prints JSON
        #[arg(long)]
        json: bool,
    },
    /// Counts objects, bytes and packs; shows chains and gaps
    Stat {
        /// Prints JSON
        #[arg(long)]
        json: bool,
    },
    /// Writes a file to standard output, by its name, hash, or the start of its hash
    Cat {
        /// A versioned name, or at least 6 hex digits of a hash
        what: String,
    },
    /// Checks every pack, object, name and signature; exit 1 on any finding
    Verify {
        /// Takes apart again what was verified before and has not changed since: each object and member
        #[arg(long)]
        deep: bool,
        /// Prints JSON
        #[arg(long)]
        json: bool,
    },
    /// Drops what is no longer to be kept and merges small packs
    Gc {
        /// Says what would go, and changes nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Links or copies every pack that is not yet there
    Backup {
        /// A directory
        dest: PathBuf,
    },
    /// Verifies the packs of a backup and adds those that are missing
    Restore {
        /// A directory of packs, or a data directory
        src: PathBuf,
    },
}

/// What a name is of.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Cvd,
    Cdiff,
    Sign,
}

/// Reads `N` or `FIRST-LAST`.
fn versions(text: &str) -> Result<(u32, u32), String> {
    let number = |text: &str| text.parse::<u32>().map_err(|_| "give a version, or FIRST-LAST".to_owned());
    match text.split_once('-') {
        Some((first, last)) => Ok((number(first)?, number(last)?)),
        None => number(text).map(|version| (version, version)),
    }
}

pub(super) fn run(config: &Config, command: StoreCommand) -> Outcome {
    let look = || Look::at(&DataDir::new(&config.data_dir));
    match command {
        StoreCommand::Ls { patterns, kind, versions, json } => {
            let look = look()?;
            let listed = list(&look.view, &Filter { patterns, kind, versions }, json);
            // The process ends here: giving a hundred thousand names back one by one would take as long as printing them.
            std::mem::forget(look);
            listed
        }
        StoreCommand::Stat { json } => stat(&look()?, json),
        StoreCommand::Cat { what } => cat(&look()?.view, &what),
        StoreCommand::Verify { deep, json } => care::verify(config, &look()?, deep, json),
        StoreCommand::Gc { dry_run } => care::gc(config, dry_run),
        StoreCommand::Backup { dest } => care::backup(config, &dest),
        StoreCommand::Restore { src } => care::restore(config, &src),
    }
}

/// Everything in the store, trusted or not: what is published is another question.
pub(super) struct Look {
    pub(super) view: Arc<View>,
    pub(super) findings: Vec<Finding>,
    /// Packs that were merged or dropped and wait to be removed; they are not in the view.
    pub(super) retired: Vec<Pack>,
    /// What the mirror knows of the packs. `None` if that cannot be had: a sync that runs keeps it to itself.
    pub(super) known: Option<KnownPacks>,
}

impl Look {
    fn at(dir: &DataDir) -> Result<Self, Failure> {
        // Asked first: a pack that is merged later is still in the view then, and what it was merged into may not be.
        let known = known_packs(dir);
        let scan = Store::scan(&dir.store())?;
        let is_retired =
            |pack: &Pack| known.as_ref().is_some_and(|known| known.retired.contains(pack.id().as_str()));
        let (retired, packs): (Vec<_>, Vec<_>) = scan.packs.into_iter().partition(is_retired);
        let (store, conflicts) = Store::assemble(&dir.store(), &dir.tmp(), packs)?;
        let findings = scan.findings.into_iter().chain(conflicts).collect();
        Ok(Self { view: store.view(), findings, retired, known })
    }
}

fn known_packs(dir: &DataDir) -> Option<KnownPacks> {
    match runtime().ok()?.block_on(control::known_packs(dir)) {
        Ok(Some(known)) => Some(known),
        Ok(None) => {
            let state = State::open_read_only(&dir.state()).ok()?;
            state.map_or_else(|| Some(KnownPacks::default()), |state| state.known_packs().ok())
        }
        Err(_) => None,
    }
}

#[derive(Serialize)]
struct Entry<'a> {
    name: &'a str,
    /// Of which database, version and kind; none for a name that is no ClamAV file's.
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
    kind: Kind,
}

impl<'a> File<'a> {
    /// Takes a name apart that is a [`FileName`]'s.
    fn of(name: &'a str) -> Option<Self> {
        let file: FileName = name.parse().ok()?;
        let kind = match file.kind {
            FileKind::Cvd => Kind::Cvd,
            FileKind::Cdiff => Kind::Cdiff,
            FileKind::CvdSign | FileKind::CdiffSign => Kind::Sign,
        };
        Some(Self { database: name.get(..file.database.as_str().len())?, version: file.version, kind })
    }
}

/// What of the names is listed: what fits every condition given.
struct Filter {
    patterns: Vec<String>,
    kind: Option<Kind>,
    versions: Option<(u32, u32)>,
}

impl Filter {
    fn takes(&self, entry: &Entry<'_>) -> bool {
        let (kind, version) = (entry.file.map(|file| file.kind), entry.file.map(|file| file.version));
        (self.patterns.is_empty() || self.patterns.iter().any(|start| entry.name.starts_with(&**start)))
            && self.kind.is_none_or(|wanted| kind == Some(wanted))
            && self.versions.is_none_or(|(from, to)| version.is_some_and(|v| (from..=to).contains(&v)))
    }
}

fn list(view: &View, filter: &Filter, json: bool) -> Outcome {
    let entries = view.bindings().map(|(name, record, pack)| Entry {
        name,
        file: File::of(name),
        record,
        pack: pack.id().as_str(),
    });
    let entries = entries.filter(|entry| filter.takes(entry));
    // Written as they come, for there may be many, in pieces of a pipe's capacity.
    let mut out = BufWriter::with_capacity(64 << 10, io::stdout().lock());
    let written = match json {
        true => list_as_json(&mut out, entries),
        false => list_as_text(&mut out, entries),
    };
    printed(written.and_then(|()| out.flush()))
}

fn list_as_json<'a>(out: &mut impl io::Write, entries: impl Iterator<Item = Entry<'a>>) -> io::Result<()> {
    serde_json::Serializer::pretty(&mut *out).collect_seq(entries)?;
    writeln!(out)
}

fn list_as_text<'a>(out: &mut impl io::Write, entries: impl Iterator<Item = Entry<'a>>) -> io::Result<()> {
    // What came together was stored in the same second: most often the time of the line above is right.
    let (mut at_s, mut at) = (0, String::new());
    let mut line = String::new();
    for Entry { name, file, record, .. } in entries {
        if at.is_empty() || at_s != record.stored_at_s {
            at_s = record.stored_at_s;
            at = jiff::Timestamp::from_second(at_s as i64).unwrap_or_default().to_string();
        }
        let version = file.map(|file| file.version).unwrap_or_default();
        let NameRecord { object, size, origin, proof, .. } = record;
        // A name's padding by hand: with a hundred thousand of them it shows.
        line.clear();
        line.push_str(name);
        line.extend(std::iter::repeat_n(' ', 28_usize.saturating_sub(name.len())));
        // Writing into a String cannot fail.
        let _ = write!(line, " {version:>6} {size:>11}  {object:.16}  ");
        for part in [&at, "  ", origin, "  (", proof, ")\n"] {
            line.push_str(part);
        }
        out.write_all(line.as_bytes())?;
    }
    Ok(())
}

#[derive(Serialize)]
struct Stat {
    packs: u64,
    pack_bytes: u64,
    objects: u64,
    object_bytes: u64,
    names: u64,
    /// Bytes of the packs' files for each byte of the objects.
    bytes_per_byte: f64,
    /// Packs that wait to be removed; none where that cannot be known.
    retired_packs: Option<u64>,
    retired_bytes: Option<u64>,
    databases: BTreeMap<String, DatabaseStat>,
    findings: Vec<String>,
}

#[derive(Serialize)]
struct DatabaseStat {
    cvds: BTreeSet<u32>,
    reachable: Option<u32>,
    chain: Option<(u32, u32)>,
    gaps: Vec<u32>,
}

fn stat(look: &Look, json: bool) -> Outcome {
    let Look { view, findings, retired, known } = look;
    let files: BTreeMap<FileName, NameRecord> =
        view.names().filter_map(|(name, record)| Some((name.parse().ok()?, record.clone()))).collect();
    let databases = files.keys().map(|name| &name.database).collect::<BTreeSet<_>>();
    let databases = databases.into_iter().map(|database| {
        let held = Held::of(&files, database);
        let reachable = held.reachable();
        let chain = reachable.and_then(|version| held.chain_to(version));
        (database.to_string(), DatabaseStat { reachable, chain, gaps: held.gaps(), cvds: held.cvds })
    });
    let bytes_of = |packs: &[Pack]| packs.iter().map(Pack::file_len).sum::<u64>();
    let (pack_bytes, object_bytes) =
        (bytes_of(view.packs()), view.objects().map(|(_, size)| size).sum::<u64>());
    let stat = Stat {
        packs: view.packs().len() as u64,
        pack_bytes,
        objects: view.objects().count() as u64,
        object_bytes,
        bytes_per_byte: pack_bytes as f64 / object_bytes.max(1) as f64,
        retired_packs: known.as_ref().map(|_| retired.len() as u64),
        retired_bytes: known.as_ref().map(|_| bytes_of(retired)),
        names: view.names().len() as u64,
        databases: databases.collect(),
        findings: findings.iter().map(ToString::to_string).collect(),
    };
    if json {
        return print_json(&stat);
    }
    let overhead = 100.0 * (stat.bytes_per_byte - 1.0);
    let mut text = format!(
        "{} names, {} objects of {} bytes, in {} packs of {} bytes ({overhead:.1} % more)\n",
        stat.names, stat.objects, stat.object_bytes, stat.packs, stat.pack_bytes
    );
    let _ = match (stat.retired_packs, stat.retired_bytes) {
        (Some(packs), Some(bytes)) => {
            writeln!(text, "{packs} more packs of {bytes} bytes are retired and wait to be removed")
        }
        _ => writeln!(text, "which of the packs are retired cannot be known while a sync runs"),
    };
    for (database, held) in &stat.databases {
        let _ = write!(text, "{database}: full CVDs {:?}", held.cvds);
        if let Some((first, last)) = held.chain {
            let _ = write!(text, ", CDIFFs {first} to {last}");
        }
        if !held.gaps.is_empty() {
            let _ = write!(text, ", gaps {:?}", held.gaps);
        }
        text.push('\n');
    }
    for finding in &stat.findings {
        let _ = writeln!(text, "finding: {finding}");
    }
    print(text)
}

fn cat(view: &View, what: &str) -> Outcome {
    let id = match (view.lookup(what), what.parse::<ObjectId>()) {
        (Some(record), _) => record.object,
        (None, Ok(id)) => id,
        (None, Err(_)) => by_prefix(view, what)?,
    };
    let reader = view.open(&id)?.ok_or_else(|| Failure::Failed(format!("{what}: no such object")))?;
    match io::copy(&mut Reading::new(reader), &mut io::stdout().lock()).and_then(|_| io::stdout().flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Failed(format!("{what}: {e}"))),
        _ => Ok(()),
    }
}

fn by_prefix(view: &View, what: &str) -> Result<ObjectId, Failure> {
    let hex = what.len() >= 6 && what.bytes().all(|b| b.is_ascii_hexdigit());
    let found = if hex { view.find_prefix(&what.to_ascii_lowercase(), 2) } else { Vec::new() };
    match found[..] {
        [id] => Ok(id),
        [] => Err(Failure::Failed(format!("{what}: no such name or object; `store ls` lists the names"))),
        _ => Err(Failure::Failed(format!("{what}: several objects begin so; give more digits"))),
    }
}
