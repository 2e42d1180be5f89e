//! `cvdmirror ca`
use super::{Failure, Outcome, Ui};
use crate::{
    ca::{self, CaError, Signer, Site, Term},
    clock::{ago, epoch_s},
    config::Config,
    cvd::{
        Limits, SignFile, TrustKeys,
        inspect::{self, Format, Inspection, Inspector, Rule},
    },
    mirror::DataDir,
    trouble::sudo,
    units::os,
};
use std::{
    fs::{self, File, Permissions},
    io::{self, BufReader, Read as _, Seek as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

#[derive(clap::Subcommand, Debug)]
pub(super) enum CaCommand {
    /// Makes a site's own CA, or a new signer for the one that is there
    ///
    /// DIR/ca.crt is what clients trust: `pull --ca`. The CA lasts ten years, its signer two. Done again in the same DIR, it
    /// keeps the CA and makes the next signer, for which DIR/ca.key is needed; nothing else needs that. For another CA,
    /// take another DIR, and put both certificates into the clients' file while both are in use.
    Init {
        /// The directory, for its owner alone; it is made if it is not there
        dir: PathBuf,
    },
    /// Signs a CVD or CLD: writes FILE.sign beside it
    Sign {
        /// A CVD or CLD
        file: PathBuf,
        /// The CA's directory [default: that of site_ca, or DATA_DIR/ca]
        #[arg(long)]
        dir: Option<PathBuf>,
    },
}

pub(super) fn run(config: &Config, ui: Ui, command: &CaCommand) -> Outcome {
    match command {
        CaCommand::Init { dir } => init(ui, dir),
        CaCommand::Sign { file, dir } => {
            let set = dir.clone().or_else(|| config.site_ca.clone());
            let dir = set.unwrap_or_else(|| DataDir::new(&config.data_dir).ca());
            sign(ui, file, &dir)
        }
    }
}

fn init(ui: Ui, dir: &Path) -> Outcome {
    let now_s = epoch_s();
    let Site { renewed, authority, signer } = ca::init(dir, now_s)?;
    // By the same clock reading: a second later, a whole day would be missing.
    let left = |term: &Term| ago(term.ends_s.saturating_sub(now_s));
    let (authority, until, next) = (authority.path.display(), left(&authority), left(&signer));
    let dir = dir.display();
    let what = match renewed {
        true => "the CA stays as it is, and has a new signer",
        false => "a CA and its signer were made",
    };
    ui.report(
        format!(
            "{dir}: {what}\n  the signer is valid for {next}: `cvdmirror ca init {dir}` makes the next one\n  clients trust \
             {authority}, valid for {until}: cvdmirror pull --as cld --ca ca.crt\n"
        ),
        true,
    )
}

fn sign(ui: Ui, path: &Path, dir: &Path) -> Outcome {
    let failed = |path: &Path, why: String| Failure::Failed(format!("{}: {why}", path.display()));
    let unreadable = |e: io::Error| failed(path, os(&e) + sudo(&e));
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if !name.ends_with(".cvd") && !name.ends_with(".cld") {
        let why = "is no CVD or CLD by its name; give a file that ends in .cvd or .cld";
        return Err(failed(path, why.into()));
    }
    let signer = Signer::open(dir, epoch_s())?;
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(failed(path, "is no plain file; give a CVD or CLD".into()));
    }
    let mut file = File::open(path).map_err(unreadable)?;
    let found = inspected(&name, &file).map_err(unreadable)?;
    if let Some(why) = no_database(&found) {
        return Err(failed(path, format!("is no CVD or CLD: {why}")));
    }
    let to = PathBuf::from(format!("{}.sign", path.display()));
    if !may_replace(&to, &signer).map_err(|e| failed(&to, os(&e)))? {
        let why = "is not a sign file of this CA, and stays as it is; move it away first";
        return Err(failed(&to, why.into()));
    }
    file.rewind().map_err(unreadable)?;
    let text = signer.sign(BufReader::new(file))?;
    put(&to, &text).map_err(|e| failed(&to, os(&e) + sudo(&e)))?;
    if found.kind == Format::Cvd && passed(&found, Rule::HeaderSignature) {
        eprintln!(
            "cvdmirror: {name} is Talos' own: a ClamAV that does not trust this CA refuses it with this sign file \
             beside it; never put the two where Talos' own sign file belongs"
        );
    }
    let looked_for = found.facts.database.as_ref().zip(found.facts.version).map(|(database, version)| {
        let kind = if found.kind == Format::Cvd { "cvd" } else { "cld" };
        format!("{database}-{version}.{kind}.sign")
    });
    let looked_for = looked_for.filter(|looked_for| to.file_name() != Some(looked_for.as_ref()));
    let note = looked_for.map_or(String::new(), |name| format!("; ClamAV's name for it is {name}"));
    ui.report(format!("{}: written{note}\n", to.display()), true)
}

fn inspected(name: &str, file: &File) -> io::Result<Inspection> {
    let inspector = Inspector {
        keys: &TrustKeys::talos(),
        limits: &Limits::default(),
        anchors: None,
        signed: None,
        now_s: epoch_s(),
    };
    inspector.inspect(name, BufReader::with_capacity(1 << 18, file))
}

/// Why a file is not even a database that somebody else signed, or nobody.
fn no_database(found: &Inspection) -> Option<String> {
    if !matches!(found.kind, Format::Cvd | Format::Cld) {
        return Some("it starts like none".into());
    }
    found.checks.iter().find_map(|check| match (&check.rule, &check.outcome) {
        (Rule::Header | Rule::Body | Rule::Name | Rule::Kind, inspect::Outcome::Failed { why }) => {
            Some(why.clone())
        }
        _ => None,
    })
}

fn passed(found: &Inspection, rule: Rule) -> bool {
    found.checks.iter().any(|check| check.rule == rule && check.outcome == inspect::Outcome::Passed)
}

/// Whether there is nothing, or a sign file that this CA made for whatever the file was then.
fn may_replace(path: &Path, signer: &Signer) -> io::Result<bool> {
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
        file => file?,
    };
    let mut bytes = Vec::new();
    file.take(Limits::default().max_sign_bytes).read_to_end(&mut bytes)?;
    Ok(SignFile::parse(&bytes).is_ok_and(|sign| sign.is_under(signer.authority())))
}

/// Writes a file whole or not at all.
fn put(path: &Path, text: &str) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(".".as_ref());
    // Readable to all, like what it signs.
    let mode = Permissions::from_mode(0o644);
    let mut file = tempfile::Builder::new().permissions(mode).tempfile_in(dir)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(dir)?.sync_all()
}

impl From<CaError> for Failure {
    fn from(e: CaError) -> Self {
        let denied = match &e {
            CaError::Io { source, .. } => sudo(source),
            _ => "",
        };
        Self::Failed(format!("{e}{denied}"))
    }
}
