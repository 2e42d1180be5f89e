//! `cvdmirror store verify`, `gc`, `backup` and `restore`: taking care of the store.
use super::{Failure, Outcome, print, print_json, progress, runtime, store::Look};
use crate::{
    clock::epoch_s,
    config::Config,
    control,
    cvd::{FileKind, FileName},
    mirror::{
        DataDir, OpenError, Verifier,
        backup::{self, Carried},
        retention::Tidied,
        state::KnownPacks,
        verify::{Reading, anchors_in},
    },
    service,
    source::Silent,
};
use cvdmirror_store::{Finding, Pack, PackId, Severity, View, check_len, check_pack, check_view};
use serde::Serialize;
use std::{
    collections::BTreeSet,
    fmt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// How much a verification gives way to others, in steps of nice(2).
const NICE: i32 = 10;

fn verifier(config: &Config) -> Result<Verifier, Failure> {
    let anchors = config.certs_dir.as_deref().map(anchors_in).transpose();
    Ok(Verifier {
        keys: config.trust_keys.clone(),
        limits: crate::cvd::Limits::default(),
        anchors: anchors.map_err(|e| Failure::Usage(format!("certs_dir: {e}")))?,
    })
}

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
/// in any case. What is rotten is told to the running server, so that it serves and repairs it no later than now.
pub(super) fn verify(config: &Config, look: &Look, deep: bool, json: bool) -> Outcome {
    let verifier = verifier(config)?;
    let Look { view, findings, retired, known } = look;
    // The server that runs beside comes first. Where that is not allowed, it is not needed.
    let _ = rustix::process::nice(NICE);
    let mut found = Vec::new();
    let mut rotten = Vec::new();
    let mut say = |finding: Finding| {
        found.push(Found { severity: format!("{:?}", finding.severity()), text: finding.to_string() });
        if let Finding::Rotten { pack, object, .. } = finding {
            rotten.push((pack, object));
        }
    };
    findings.iter().cloned().for_each(&mut say);
    let progress = progress::to_stderr();
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
    for (pack, object) in &rotten {
        let told = runtime()?.block_on(control::rotten(&DataDir::new(&config.data_dir), pack, *object));
        if let Err(e) = told {
            eprintln!("cvdmirror: the running server is not told of object {object}: {e}");
        }
    }
    let (packs, names) = (view.packs().len() + retired.len(), view.names().len());
    let verified = Verified { packs, unchanged: unchanged.len(), names, findings: found };
    match json {
        true => print_json(&verified)?,
        false => print(&verified)?,
    }
    if verified.findings.is_empty() { Ok(()) } else { Err(Failure::Findings) }
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { packs, unchanged, names, findings } = self;
        for Found { severity, text } in findings {
            writeln!(f, "{severity}: {text}")?;
        }
        write!(f, "{packs} packs and {names} names checked, {} findings", findings.len())?;
        match unchanged {
            0 => writeln!(f),
            n => writeln!(f, "; {n} packs unchanged since they were verified whole (--deep does it again)"),
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
    // The long ones first, lest one is left alone at the end.
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
fn verify_name(verifier: &Verifier, view: &View, name: &str, whole: bool) -> Result<(), String> {
    let open = |name: &str| -> Result<Reading, String> {
        let record = view.lookup(name).ok_or_else(|| format!("{name} is not held"))?;
        let object = view.open(&record.object).map_err(|e| e.to_string())?;
        Ok(Reading::new(object.ok_or_else(|| format!("{name} has no object"))?))
    };
    let file: FileName = name.parse().map_err(|e: crate::cvd::NameError| e.to_string())?;
    match (file.kind, file.signed()) {
        (FileKind::Cvd, _) if whole => verifier.verify_header(&file, open(name)?),
        (FileKind::CvdSign, _) if whole => verifier.verify_sign_form(open(name)?),
        (_, Some(signed)) => verifier.verify_sign(open(name)?, open(&signed.to_string())?).map(drop),
        (_, None) => verifier.verify(&file, open(name)?).map(drop),
    }
}

/// Tidies up now; a running server does it itself.
pub(super) fn gc(config: &Config, dry_run: bool) -> Outcome {
    let dir = DataDir::new(&config.data_dir);
    let runtime = runtime()?;
    let tidied: Tidied = match dir.lock() {
        Ok(lock) => runtime.block_on(async {
            let open = || service::open(config, lock, Arc::new(Silent));
            let mirror = tokio::task::block_in_place(open)?;
            match dry_run {
                true => Ok::<_, Failure>(mirror.would_tidy(epoch_s())),
                false => Ok(mirror.gc(epoch_s()).await?),
            }
        })?,
        Err(locked @ OpenError::Locked { .. }) => match runtime.block_on(control::gc(&dir, dry_run)) {
            Ok(Some(tidied)) => tidied,
            Ok(None) => return Err(locked.into()),
            Err(e) => return Err(Failure::Failed(format!("the running server could not: {e}"))),
        },
        Err(e) => return Err(e.into()),
    };
    print(tidied)
}

pub(super) fn backup(config: &Config, dest: &Path) -> Outcome {
    report(&backup::backup(&DataDir::new(&config.data_dir), dest)?)
}

/// Adds what is fit; a running server publishes it at once, any other at its start.
pub(super) fn restore(config: &Config, src: &Path) -> Outcome {
    let dir = DataDir::new(&config.data_dir);
    let carried = backup::restore(&dir, src, &verifier(config)?)?;
    if let Err(e) = runtime()?.block_on(control::look(&dir)) {
        eprintln!("cvdmirror: the running server takes it up at its next check: {e}");
    }
    report(&carried)
}

fn report(carried: &Carried) -> Outcome {
    for finding in &carried.findings {
        print(format!("{finding}\n"))?;
    }
    let Carried { held, linked, copied, bytes, .. } = carried;
    print(format!("{held} packs were there already, {linked} linked, {copied} copied, {bytes} bytes\n"))?;
    if carried.findings.is_empty() { Ok(()) } else { Err(Failure::Findings) }
}
