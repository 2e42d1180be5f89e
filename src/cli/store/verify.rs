//! `cvdmirror store verify`
use super::{
    super::{Outcome, Ui, progress, runtime},
    verifier,
};
use crate::{
    config::Config,
    control,
    cvd::{FileKind, FileName},
    mirror::{DataDir, Verifier, look::Look, memory::KnownPacks, reading, verify::Unfit},
    style::BAD,
    trouble::Trouble,
    units::count,
};
use cvdmirror_store::{Finding, Pack, PackId, Severity, View, check_len, check_pack, check_view};
use serde::Serialize;
use std::{
    collections::BTreeSet,
    fmt,
    sync::atomic::{AtomicUsize, Ordering},
};

/// How much a verification gives way to others, in steps of nice(2).
const NICE: i32 = 10;

/// What a verification found.
#[derive(Serialize)]
struct Verified {
    packs: usize,
    /// Packs that hash as they did when this installation verified them whole, and were not taken apart again.
    unchanged: usize,
    names: usize,
    findings: Vec<Found>,
}

#[derive(Serialize, PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    severity: String,
    text: String,
}

/// Checks the packs as files, every object, and every name against its content. A pack whose file is, by its hash, what this
/// installation verified when it sealed it or took it in is taken apart again only if `deep`; its signatures are checked
/// in any case. What is corrupt is told to the running server, so that it serves and repairs it no later than now.
pub(super) fn run(config: &Config, ui: Ui, look: &Look, deep: bool, json: bool) -> Outcome {
    let verifier = verifier(config)?;
    let Look { view, findings, retired, known } = look;
    // The server that runs beside comes first. Where that is not allowed, it is not needed.
    let _ = rustix::process::nice(NICE);
    let mut found = Vec::new();
    let mut corrupt = Vec::new();
    let mut say = |finding: Finding| {
        let severity = format!("{:?}", finding.severity());
        found.push(Found { severity, text: Trouble::from(&finding).to_string() });
        if let Finding::Corrupt { pack, object, .. } = finding {
            corrupt.push((pack, object));
        }
    };
    findings.iter().cloned().for_each(&mut say);
    let progress = progress::to_stderr(ui);
    progress.begin("packs and objects", Some(view.packs().iter().chain(retired).map(check_len).sum()));
    let proven = |pack: &Pack| {
        let ours = |known: &KnownPacks| known.trusted.contains(pack.id().as_str());
        !deep && known.as_ref().is_some_and(ours)
    };
    let unchanged = check_view(view, &proven, &|n| progress.advance(n), &mut say);
    for pack in retired {
        check_pack(pack, !deep, &|n| progress.advance(n), &mut say);
    }
    progress.end();
    progress.begin("names", Some(view.names().map(|(_, record)| record.size).sum()));
    found.extend(verify_names(&verifier, view, &unchanged, &|n| progress.advance(n)));
    progress.end();
    for (pack, object) in &corrupt {
        let told = runtime()?.block_on(control::check(&DataDir::new(&config.data_dir), pack, *object));
        if let Err(e) = told {
            eprintln!("cvdmirror: the running server is not told of object {object}: {e}");
        }
    }
    let (packs, names) = (view.packs().len() + retired.len(), view.names().len());
    let verified = Verified { packs, unchanged: unchanged.len(), names, findings: found };
    ui.report_or_json(&verified, verified.findings.is_empty(), json)
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { packs, unchanged, names, findings } = self;
        for Found { severity, text } in findings {
            writeln!(f, "{BAD}{severity}{BAD:#}: {text}")?;
        }
        let (packs, names) = (count(*packs, "pack"), count(*names, "name"));
        write!(f, "{packs} and {names} checked, {}", count(findings.len(), "finding"))?;
        match unchanged {
            0 => writeln!(f),
            n => writeln!(
                f,
                "\n{} unchanged since the last whole verification: --deep takes them apart again",
                count(*n, "pack")
            ),
        }
    }
}

/// Verifies every name on every core; what fails, in the order of names.
fn verify_names(
    verifier: &Verifier,
    view: &View,
    unchanged: &BTreeSet<PackId>,
    progress: &(dyn Fn(u64) + Sync),
) -> Vec<Found> {
    // The long ones first, so that none is left alone at the end.
    let mut names: Vec<_> = view.names().collect();
    names.sort_by_key(|(_, record)| std::cmp::Reverse(record.size));
    let next = AtomicUsize::new(0);
    let error = |text| Found { severity: format!("{:?}", Severity::Error), text };
    let work = || {
        let mut found = Vec::new();
        while let Some((name, record)) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut packs = view.pack_of(name).into_iter().chain(view.holders(&record.object).take(1));
            let whole = packs.all(|pack| unchanged.contains(pack.id()));
            if let Err(why) = verify_name(verifier, view, name, whole) {
                found.push(error(format!("{name}: {why}")));
            }
            progress(record.size);
        }
        found
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut found = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let ended = workers.into_iter().map(|worker| worker.join());
        ended
            .flat_map(|found| found.unwrap_or_else(|_| vec![error("verifying a name panicked".into())]))
            .collect::<Vec<_>>()
    });
    found.sort();
    found
}

/// Verifies a name's content; of a CVD that is known to be whole, the signature of its MD5.
fn verify_name(verifier: &Verifier, view: &View, name: &str, whole: bool) -> Result<(), Unfit> {
    let open = |name: &str| reading::open(view, name).map(|(_, bytes)| bytes);
    let file: FileName = name.parse()?;
    match (file.kind, file.signed()) {
        (FileKind::Cvd, _) if whole => verifier.verify_header(&file, open(name)?),
        (_, Some(signed)) => verifier.verify_sign(open(name)?, open(&signed.to_string())?).map(drop),
        (_, None) => verifier.verify(&file, open(name)?).map(drop),
    }
}
