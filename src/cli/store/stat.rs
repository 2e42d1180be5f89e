//! `cvdmirror store stat`
use super::super::{Outcome, print, print_json};
use crate::{
    cvd::FileName,
    mirror::{look::Look, plan::Held},
    style::{BAD, HEAD, NOTE},
    trouble::Trouble,
    units::{count, size},
};
use cvdmirror_store::{NameRecord, Pack};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

#[derive(Serialize)]
struct Stat {
    packs: u64,
    pack_bytes: u64,
    objects: u64,
    object_bytes: u64,
    names: u64,
    /// Bytes of the packs' files for each byte of the objects.
    bytes_per_byte: f64,
    /// Packs that wait to be removed; `None` where that is not known.
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
    gaps: Vec<Gap>,
}

/// Versions of which no CDIFF is held: one, or the first and the last of several.
#[derive(Serialize)]
#[serde(untagged)]
enum Gap {
    One(u32),
    Several(u32, u32),
}

impl Gap {
    fn new((first, last): (u32, u32)) -> Self {
        if first == last { Self::One(first) } else { Self::Several(first, last) }
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(version) => version.fmt(f),
            Self::Several(first, last) => write!(f, "{first} to {last}"),
        }
    }
}

pub(super) fn run(look: &Look, json: bool) -> Outcome {
    let Look { view, findings, retired, known } = look;
    let files: BTreeMap<FileName, NameRecord> =
        view.names().filter_map(|(name, record)| Some((name.parse().ok()?, record.clone()))).collect();
    let databases = files.keys().map(|name| &name.database).collect::<BTreeSet<_>>();
    let databases = databases.into_iter().map(|database| {
        let held = Held::new(&files, database);
        let reachable = held.reachable();
        let chain = reachable.and_then(|version| held.chain_to(version));
        (
            database.to_string(),
            DatabaseStat {
                reachable,
                chain,
                gaps: held.gaps().into_iter().map(Gap::new).collect(),
                cvds: held.cvds,
            },
        )
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
        findings: findings.iter().map(|finding| Trouble::from(finding).to_string()).collect(),
    };
    if json { print_json(&stat) } else { print(&stat) }
}

impl fmt::Display for Stat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, {} of {}, in {} of {}",
            count(self.names, "name"),
            count(self.objects, "object"),
            size(self.object_bytes),
            count(self.packs, "pack"),
            size(self.pack_bytes)
        )?;
        // Without a byte that is kept, nothing can be said of what is spent for each.
        match self.object_bytes {
            0 => writeln!(f)?,
            _ => writeln!(f, " ({:.1} % more)", 100.0 * (self.bytes_per_byte - 1.0))?,
        }
        match (self.retired_packs, self.retired_bytes) {
            (Some(0), _) => {}
            (Some(packs), Some(bytes)) => {
                let (s, packs) = (if packs == 1 { "s" } else { "" }, count(packs, "retired pack"));
                writeln!(f, "{packs} of {} wait{s} to be removed", size(bytes))?;
            }
            _ => writeln!(f, "which of the packs are retired cannot be known while a sync runs")?,
        }
        for (database, held) in &self.databases {
            write!(f, "{HEAD}{database}{HEAD:#}: full CVDs {:?}", held.cvds)?;
            if let Some((first, last)) = held.chain {
                write!(f, ", CDIFFs {first} to {last}")?;
            }
            if !held.gaps.is_empty() {
                let gaps: Vec<String> = held.gaps.iter().map(ToString::to_string).collect();
                write!(f, ", {NOTE}gaps [{}]{NOTE:#}", gaps.join(", "))?;
            }
            writeln!(f)?;
        }
        for finding in &self.findings {
            writeln!(f, "{BAD}finding{BAD:#}: {finding}")?;
        }
        Ok(())
    }
}
