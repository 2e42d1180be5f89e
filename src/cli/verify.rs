//! `cvdmirror verify FILE...`
use super::{Failure, Outcome, Ui, print, print_json};
use crate::{
    clock::epoch_s,
    config::Config,
    cvd::{
        Anchors, Limits,
        inspect::{Inspection, Inspector},
    },
    mirror::verify::anchors_in,
    units::os,
};
use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
};

pub(super) fn run(config: &Config, ui: Ui, files: &[PathBuf], json: bool) -> Outcome {
    let anchors = config.certs_dir.as_deref().map(anchors_in).transpose();
    let anchors = anchors.map_err(|e| Failure::Usage(format!("certs_dir: {e}")))?;
    let mut passed = true;
    let mut reports = Vec::new();
    for path in files {
        match inspect(config, path, anchors.as_ref()) {
            Ok(report) => {
                passed &= report.passed();
                match json {
                    true => reports.push(report),
                    false if ui.quiet && report.passed() => {}
                    false => print(format_args!("{report}\n"))?,
                }
            }
            Err(e) => {
                passed = false;
                eprintln!("cvdmirror: {}: {}; give a file that can be read", path.display(), os(&e));
            }
        }
    }
    if json {
        print_json(&reports)?;
    }
    if passed { Ok(()) } else { Err(Failure::Findings) }
}

fn inspect(config: &Config, path: &Path, anchors: Option<&Anchors>) -> io::Result<Inspection> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut signed = signed_by(path);
    let inspector = Inspector {
        keys: &config.trust_keys,
        limits: &Limits::default(),
        anchors,
        signed: signed.as_mut().map(|file| file as &mut dyn Read),
        now_s: epoch_s(),
    };
    inspector.inspect(&name, open(path)?)
}

/// What a sign file signs stands beside it; in a client's directory without the version in its name.
fn signed_by(path: &Path) -> Option<BufReader<File>> {
    let beside = path.to_str()?.strip_suffix(".sign")?;
    let (stem, suffix) = beside.rsplit_once('.')?;
    let bare = || Some(format!("{}.{suffix}", stem.rsplit_once('-')?.0));
    open(Path::new(beside)).ok().or_else(|| open(Path::new(&bare()?)).ok())
}

/// Opens a plain file, or the target of a link; reading anything else (a FIFO, a device) might block or never end.
fn open(path: &Path) -> io::Result<BufReader<File>> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("is not a plain file; give a CVD, CDIFF, CLD or sign file"));
    }
    Ok(BufReader::with_capacity(1 << 18, File::open(path)?))
}
