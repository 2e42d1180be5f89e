//! `cvdmirror store …`: looks into the packs from outside, beside a running server too.
use super::{Failure, Outcome, care, print, print_json};
use crate::{
    config::Config,
    cvd::FileName,
    mirror::{DataDir, plan::Held, verify::Reading},
};
use clap::Subcommand;
use cvdmirror_store::{Finding, NameRecord, ObjectId, Store, View};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    io::{self, Write as _},
    path::PathBuf,
    sync::Arc,
};

#[derive(Subcommand, Debug)]
pub(super) enum StoreCommand {
    /// Lists the names held
    Ls {
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
    /// Checks every pack, object and name; exit 1 on any finding
    Verify,
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

pub(super) fn run(config: &Config, command: StoreCommand) -> Outcome {
    let look = || look(&DataDir::new(&config.data_dir));
    match command {
        StoreCommand::Ls { json } => list(&look()?.0, json),
        StoreCommand::Stat { json } => look().and_then(|(view, findings)| stat(&view, &findings, json)),
        StoreCommand::Cat { what } => cat(&look()?.0, &what),
        StoreCommand::Verify => look().and_then(|(view, findings)| care::verify(config, &view, &findings)),
        StoreCommand::Gc { dry_run } => care::gc(config, dry_run),
        StoreCommand::Backup { dest } => care::backup(config, &dest),
        StoreCommand::Restore { src } => care::restore(config, &src),
    }
}

/// Everything in the store, trusted or not: what is published is another question.
fn look(dir: &DataDir) -> Result<(Arc<View>, Vec<Finding>), Failure> {
    let scan = Store::scan(&dir.store())?;
    let (store, conflicts) = Store::assemble(&dir.store(), &dir.tmp(), scan.packs)?;
    Ok((store.view(), scan.findings.into_iter().chain(conflicts).collect()))
}

#[derive(Serialize)]
struct Entry<'a> {
    name: &'a str,
    #[serde(flatten)]
    record: &'a NameRecord,
    pack: Option<&'a str>,
}

fn list(view: &View, json: bool) -> Outcome {
    let entries: Vec<Entry<'_>> = view
        .names()
        .map(|(name, record)| Entry { name, record, pack: view.pack_of(name).map(|pack| pack.id().as_str()) })
        .collect();
    if json {
        return print_json(&entries);
    }
    let mut text = String::new();
    for Entry { name, record, .. } in entries {
        let at = jiff::Timestamp::from_second(record.stored_at_s as i64).unwrap_or_default();
        let hash = &record.object.to_string()[..16];
        let _ = writeln!(
            text,
            "{name:<28} {:>11}  {hash}  {at}  {}  ({})",
            record.size, record.origin, record.proof
        );
    }
    print(text)
}

#[derive(Serialize)]
struct Stat {
    packs: u64,
    pack_bytes: u64,
    objects: u64,
    object_bytes: u64,
    names: u64,
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

fn stat(view: &View, findings: &[Finding], json: bool) -> Outcome {
    let files: BTreeMap<FileName, NameRecord> =
        view.names().filter_map(|(name, record)| Some((name.parse().ok()?, record.clone()))).collect();
    let databases = files.keys().map(|name| &name.database).collect::<BTreeSet<_>>();
    let databases = databases.into_iter().map(|database| {
        let held = Held::of(&files, database);
        let reachable = held.reachable();
        let chain = reachable.and_then(|version| held.chain_to(version));
        (database.to_string(), DatabaseStat { reachable, chain, gaps: held.gaps(), cvds: held.cvds })
    });
    let stat = Stat {
        packs: view.packs().len() as u64,
        pack_bytes: view.packs().iter().map(|pack| pack.file_len()).sum(),
        objects: view.objects().count() as u64,
        object_bytes: view.objects().map(|(_, size)| size).sum(),
        names: view.names().len() as u64,
        databases: databases.collect(),
        findings: findings.iter().map(ToString::to_string).collect(),
    };
    if json {
        return print_json(&stat);
    }
    let overhead = 100.0 * (stat.pack_bytes as f64 / stat.object_bytes.max(1) as f64 - 1.0);
    let mut text = format!(
        "{} names, {} objects of {} bytes, in {} packs of {} bytes ({overhead:.1} % more)\n",
        stat.names, stat.objects, stat.object_bytes, stat.packs, stat.pack_bytes
    );
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
