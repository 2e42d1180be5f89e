//! `cvdmirror store verify`, `gc`, `backup` and `restore`: taking care of the store.
use super::{Failure, Outcome, print, progress, runtime, store::Look};
use crate::{
    clock::epoch_s,
    config::Config,
    control,
    cvd::FileName,
    mirror::{
        DataDir, OpenError, Verifier,
        backup::{self, Carried},
        retention::Tidied,
        verify::{Reading, anchors_in},
    },
    service,
    source::Silent,
};
use cvdmirror_store::{Finding, View, check_len, check_pack, check_view};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

fn verifier(config: &Config) -> Result<Verifier, Failure> {
    let anchors = config.certs_dir.as_deref().map(anchors_in).transpose();
    Ok(Verifier {
        keys: config.trust_keys.clone(),
        limits: crate::cvd::Limits::default(),
        anchors: anchors.map_err(|e| Failure::Usage(format!("certs_dir: {e}")))?,
    })
}

/// Checks the packs as files, every object, and every name against its content. What is rotten is told to the running
/// server, so that it serves and repairs it no later than now.
pub(super) fn verify(config: &Config, look: &Look) -> Outcome {
    let verifier = verifier(config)?;
    let Look { view, findings, retired } = look;
    let mut found: Vec<String> = Vec::new();
    let mut rotten = Vec::new();
    let mut say = |finding: Finding| {
        found.push(format!("{:?}: {finding}", finding.severity()));
        if let Finding::Rotten { pack, object, .. } = finding {
            rotten.push((pack, object));
        }
    };
    findings.iter().cloned().for_each(&mut say);
    let progress = progress::to_stderr();
    let retired = retired.as_deref().unwrap_or_default();
    let bytes = view.packs().iter().chain(retired).map(check_len).sum();
    progress.begin("packs and objects", Some(bytes));
    check_view(view, &|n| progress.advance(n), &mut say);
    for pack in retired {
        check_pack(pack, &|n| progress.advance(n), &mut say);
    }
    progress.end();
    progress.begin("names", Some(view.names().map(|(_, record)| record.size).sum()));
    let checked = view.names().len();
    found.extend(verify_names(&verifier, view, &|n| progress.advance(n)));
    progress.end();
    for (pack, object) in &rotten {
        let told = runtime()?.block_on(control::rotten(&DataDir::new(&config.data_dir), pack, *object));
        if let Err(e) = told {
            eprintln!("cvdmirror: the running server is not told of object {object}: {e}");
        }
    }
    for finding in &found {
        print(format!("{finding}\n"))?;
    }
    let packs = view.packs().len() + retired.len();
    print(format!("{packs} packs and {checked} names checked, {} findings\n", found.len()))?;
    if found.is_empty() { Ok(()) } else { Err(Failure::Findings) }
}

/// Verifies every name on every core; what fails, in words, in the order of names.
fn verify_names(verifier: &Verifier, view: &View, progress: &(dyn Fn(u64) + Sync)) -> Vec<String> {
    // The long ones first, lest one is left alone at the end.
    let mut names: Vec<_> = view.names().collect();
    names.sort_by_key(|(_, record)| std::cmp::Reverse(record.size));
    let next = AtomicUsize::new(0);
    let work = || {
        let mut found = Vec::new();
        while let Some((name, record)) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(why) = verify_name(verifier, view, name) {
                found.push(format!("Error: {name}: {why}"));
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
            .flat_map(|found| found.unwrap_or_else(|_| vec!["Error: verifying a name panicked".into()]))
            .collect::<Vec<_>>()
    });
    found.sort();
    found
}

fn verify_name(verifier: &Verifier, view: &View, name: &str) -> Result<(), String> {
    let open = |name: &str| -> Result<Reading, String> {
        let record = view.lookup(name).ok_or_else(|| format!("{name} is not held"))?;
        let object = view.open(&record.object).map_err(|e| e.to_string())?;
        Ok(Reading::new(object.ok_or_else(|| format!("{name} has no object"))?))
    };
    let file: FileName = name.parse().map_err(|e: crate::cvd::NameError| e.to_string())?;
    match file.signed() {
        Some(signed) => verifier.verify_sign(open(name)?, open(&signed.to_string())?),
        None => verifier.verify(&file, open(name)?),
    }
    .map(drop)
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
