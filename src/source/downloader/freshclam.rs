//! freshclam: a private configuration and directory, and one run of it against the intake.
use super::{
    Fault, Seed, Setup, Tool,
    files::{directory, empty, give, own, user, write},
    process::{Ended, Job},
    refused,
    relay::Relay,
};
use crate::{
    cvd::{HEADER_BYTES, Header},
    source::http::HttpSource,
};
use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// The oldest that the CDN serves: those before send no UUID.
const LEAST: (&str, [u32; 3]) = ("0.103.2", [0, 103, 2]);
/// What it exits with when it cannot read its configuration.
const NO_CONF: i32 = 2;
/// Longest that it may take to say its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(60);

/// Its directory as the mirror stands, so that both agree on what is held.
pub(super) fn prepare<R: Read>(dir: &Path, seeds: Vec<Seed<R>>, broken: bool) -> Result<(), Fault> {
    let (db, passed) = (dir.join("db"), dir.join("passed"));
    for path in [dir, &db, &passed] {
        directory(path)?;
    }
    [dir, &passed].into_iter().try_for_each(own)?;
    empty(&passed, |_| false)?;
    let path_of = |seed: &Seed<R>| db.join(format!("{}.cvd", seed.database));
    let there: Vec<PathBuf> =
        seeds.iter().filter(|seed| !broken && is_there(&path_of(seed), seed)).map(path_of).collect();
    // Its UUID, and until when it was told to stay away, are its own to keep.
    let memory = db.join("freshclam.dat");
    empty(&db, |path| *path == memory || there.iter().any(|kept| kept == path))?;
    for mut seed in seeds {
        let path = path_of(&seed);
        if !there.contains(&path) {
            let written = File::create_new(&path).and_then(|mut file| io::copy(&mut seed.bytes, &mut file));
            written.map_err(refused(&path))?;
        }
    }
    Ok(())
}

/// Whether a file is the CVD of a seed, as far as its header and its length say.
fn is_there<R>(path: &Path, seed: &Seed<R>) -> bool {
    let mut head = [0; HEADER_BYTES];
    let is_it = |mut file: File| {
        file.read_exact(&mut head)?;
        let version = Header::parse(&head).map_err(io::Error::other)?.version;
        Ok::<_, io::Error>(version == seed.version && file.metadata()?.len() == seed.size)
    };
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file())
        && File::open(path).and_then(is_it).unwrap_or(false)
}

/// Its version, if the CDN serves that.
pub(super) async fn version(program: &Path, dir: &Path, user: Option<(u32, u32)>) -> Result<String, Fault> {
    let tool = Tool::Freshclam;
    let dir = if dir.is_dir() { dir } else { Path::new("/") };
    let job = Job { tool, program, args: vec!["--version".into()], dir, user, timeout: VERSION_TIMEOUT };
    let ended = job.run().await?;
    // ClamAV 1.4.6, or ClamAV 1.4.6/28110/…
    let version = ended.said().split_whitespace().nth(1).unwrap_or_default();
    let version = version.split('/').next().unwrap_or_default().to_owned();
    let mut numbers = version.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    let read = [(); 3].map(|()| numbers.next().unwrap_or(0));
    match (ended.code, read) {
        (Some(0), read) if read >= LEAST.1 => Ok(version),
        (Some(0), read) if read != [0; 3] => Err(Fault::TooOld { tool, version, least: LEAST.0 }),
        (code, _) => Err(Fault::Failed { tool, code, words: ended.words() }),
    }
}

/// Runs it once.
pub(super) async fn run(
    dir: &Path,
    program: &Path,
    setup: &Setup,
    upstream: &HttpSource,
) -> Result<(), Fault> {
    let tool = Tool::Freshclam;
    let user = user(setup, dir)?;
    let version = version(program, dir, user).await?;
    let relay =
        Relay::bind(upstream, dir.join("passed"), &setup.databases).await.map_err(refused(program))?;
    let conf = dir.join("freshclam.conf");
    write(&conf, conf_text(dir, &relay.url(), setup).as_bytes())?;
    if let Some(ids) = user {
        // The directory itself stays ours, so that nothing in it can be put in another's place.
        give(&conf, ids)?;
        give(&dir.join("db"), ids)?;
    }
    let mut args = vec!["--config-file".into(), conf.clone().into(), "--stdout".into(), "--no-dns".into()];
    args.extend(setup.databases.iter().map(|database| format!("--update-db={database}").into()));
    let job = Job { tool, program, args, dir, user, timeout: setup.timeout };
    let ended = tokio::select! {
        ended = job.run() => ended?,
        never = relay.serve() => match never {},
    };
    let words = ended.words();
    tracing::debug!("freshclam {version} ended: {words}");
    let Ended { code, .. } = ended;
    match (code, relay.failure()) {
        // It takes being limited for no error of its own.
        (_, Some(why)) => Err(Fault::Upstream { tool, why: Arc::new(why) }),
        (Some(0), None) if relay.was_asked() => Ok(()),
        (Some(0), None) => Err(Fault::Idle { tool, words }),
        (Some(NO_CONF), None) if !relay.was_asked() => Err(Fault::Barred { tool, conf }),
        (code, None) => Err(Fault::Failed { tool, code, words }),
    }
}

/// One attempt at each file: the next round is the next attempt.
fn conf_text(dir: &Path, url: &str, setup: &Setup) -> String {
    let owner = if rustix::process::geteuid().is_root() { "DatabaseOwner root\n" } else { "" };
    format!(
        "# Written anew at each run.\nDatabaseDirectory {}\n{owner}DatabaseMirror {url}\nDNSDatabaseInfo no\n\
         MaxAttempts 1\nTestDatabases no\nConnectTimeout 30\nReceiveTimeout {}\n",
        dir.join("db").display(),
        setup.timeout.as_secs(),
    )
}
