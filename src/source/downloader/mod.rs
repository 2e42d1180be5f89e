//! A downloader that the upstream supports, run here: the site's own freshclam or cvdupdate.
//!
//! freshclam speaks to a loopback intake, which passes its requests on with its own header fields and keeps what comes
//! back; cvdupdate keeps its own directory. What either brought is then read as from any directory, and verified as
//! from any source. Guarantees: its process group ends with the run, its directory holds no more than one version of
//! each database, and whatever it does leaves what the mirror holds as it was.
mod cvdupdate;
mod files;
mod freshclam;
mod process;
mod relay;

use super::{
    Evidence, FetchError, Incoming, Newest, Wanted,
    budget::Policy,
    directory::DirectorySource,
    http::HttpSource,
    ledger::Ledger,
    txt::{Said, TxtResolver},
};
use crate::cvd::{Database, HEADER_BYTES, Header};
use parking_lot::Mutex;
use reqwest::{Url, header::HeaderMap};
use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// Older than this a TXT record does not spare a run: the same bound as freshclam's.
const TXT_MAX_AGE_S: u64 = 12 * 3600;

/// A program that downloads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tool {
    /// ClamAV's own.
    Freshclam,
    /// Talos' for mirrors.
    Cvdupdate,
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Freshclam => "freshclam",
            Self::Cvdupdate => "cvdupdate",
        })
    }
}

impl Tool {
    /// Its package on Debian and Ubuntu, or what else installs it.
    pub fn install(self) -> &'static str {
        match self {
            Self::Freshclam => "apt install clamav-freshclam",
            Self::Cvdupdate => "pipx install cvdupdate",
        }
    }

    /// Finds it by its path, or by its name where programs are.
    pub fn find(self, given: Option<&Path>) -> Option<PathBuf> {
        if let Some(path) = given {
            return path.is_file().then(|| path.into());
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let usual = ["/usr/local/bin", "/usr/bin"].map(PathBuf::from);
        let dirs = std::env::split_paths(&path).chain(usual).filter(|dir| dir.is_absolute());
        dirs.map(|dir| dir.join(self.to_string())).find(|path| path.is_file())
    }
}

/// How it is run.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Which.
    pub tool: Tool,
    /// Its path, where it is not looked for.
    pub program: Option<PathBuf>,
    /// As whom root runs it; without it the owner of the data directory.
    pub user: Option<String>,
    /// Longest that it may run.
    pub timeout: Duration,
    /// Whom it asks.
    pub upstream: Url,
    /// What is asked for.
    pub databases: Vec<Database>,
    /// Nobody chose it: where it cannot work, the upstream is asked without it.
    pub is_default: bool,
    /// Asked for the TXT record, where that is not the system's resolver's.
    pub nameserver: Option<std::net::SocketAddr>,
}

/// Why a run brought nothing, or not all.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Fault {
    /// It is not there.
    #[error("{0} is not installed")]
    Missing(Tool),
    /// The CDN serves no version as old as this.
    #[error("{tool} {version} is too old: {least} is the oldest that the CDN serves")]
    TooOld {
        /// Which.
        tool: Tool,
        /// Its version.
        version: String,
        /// The oldest.
        least: &'static str,
    },
    /// The upstream did not give it what it asked for.
    #[error("{tool}: {why}")]
    Upstream {
        /// Which.
        tool: Tool,
        /// What came of its request.
        why: Arc<FetchError>,
    },
    /// It ended with an error of its own.
    #[error("{tool} {}: {words}", code.map_or("was killed".into(), |code| format!("exited {code}")))]
    Failed {
        /// Which.
        tool: Tool,
        /// Its exit code; none after a signal.
        code: Option<i32>,
        /// Its last words.
        words: String,
    },
    /// It ended well and asked for nothing, so that nothing is confirmed: it may sit out a wait of its own.
    #[error("{tool} asked for nothing: {words}")]
    Idle {
        /// Which.
        tool: Tool,
        /// Its last words.
        words: String,
    },
    /// It could not read the configuration that was written for it, and asked nothing.
    #[error("{tool} cannot read {}", conf.display())]
    Barred {
        /// Which.
        tool: Tool,
        /// Its configuration.
        conf: PathBuf,
    },
    /// It did not end in time, and was killed.
    #[error("{tool} did not end within {}, and was killed", crate::clock::ago(*after_s))]
    TimedOut {
        /// Which.
        tool: Tool,
        /// How long it may run.
        after_s: u64,
    },
    /// It ended well and brought no file of a database that is not held.
    #[error("{0} ended without an error, and brought nothing of it")]
    Nothing(Tool),
    /// There is no such user.
    #[error("this machine has no user {0}")]
    NoUser(String),
    /// What is there cannot be run.
    #[error("{} cannot be run: {why}", program.display())]
    NotRun {
        /// Which.
        tool: Tool,
        /// Its path.
        program: PathBuf,
        /// Why, in the system's words.
        why: String,
    },
    /// Its user cannot get to its directory.
    #[error("the user that {tool} is run as may not enter {}", dir.display())]
    Closed {
        /// Which.
        tool: Tool,
        /// The directory in the way.
        dir: PathBuf,
    },
    /// The operating system refuses.
    #[error("{}: {}", path.display(), crate::units::os(why))]
    Io {
        /// The file or the program.
        path: PathBuf,
        /// Why.
        why: Arc<io::Error>,
    },
}

impl Fault {
    /// Whether it cannot work on this machine, so that the upstream never heard of it.
    fn is_local(&self) -> bool {
        matches!(
            self,
            Self::Missing(_)
                | Self::TooOld { .. }
                | Self::Barred { .. }
                | Self::NoUser(_)
                | Self::NotRun { .. }
                | Self::Closed { .. }
                | Self::Io { .. }
        )
    }
}

fn refused(path: &Path) -> impl Fn(io::Error) -> Fault + '_ {
    |why| Fault::Io { path: path.into(), why: Arc::new(why) }
}

/// What a run is to start from: the newest CVD that is held of a database.
#[derive(Debug)]
pub struct Seed<R> {
    /// Whose.
    pub database: Database,
    /// Its version.
    pub version: u32,
    /// Its length, bytes.
    pub size: u64,
    /// Its bytes.
    pub bytes: R,
}

/// What the last run left.
#[derive(Debug, Default)]
struct Last {
    held: BTreeMap<Database, u32>,
    recorded: BTreeMap<Database, Said>,
    fault: Option<Fault>,
    /// Something came all the same, and the round has taken it.
    came: bool,
    /// The CVDs in its directory are not to be trusted.
    broken: bool,
}

/// A source that a downloader feeds.
#[derive(Debug)]
pub struct Downloader {
    setup: Setup,
    /// Its own: `DATA_DIR/<tool>`.
    dir: PathBuf,
    upstream: HttpSource,
    txt: Option<TxtResolver>,
    brought: DirectorySource,
    /// Where that is.
    brought_in: PathBuf,
    last: Mutex<Last>,
    /// A client asks: with its fields the upstream itself is asked.
    for_client: AtomicBool,
}

impl Downloader {
    /// One whose directory is `DATA_DIR/<tool>`; `upstream` passes on what it asks, by its ledger.
    pub fn new(setup: Setup, data_dir: &Path, upstream: HttpSource, txt: Option<TxtResolver>) -> Self {
        let dir = data_dir.join(setup.tool.to_string());
        let from = match setup.tool {
            Tool::Freshclam => dir.join("passed"),
            Tool::Cvdupdate => dir.join("db"),
        };
        let clock = upstream.ledger().clock().clone();
        let brought = DirectorySource::new(from.clone(), upstream.intake().clone(), clock);
        Self {
            setup,
            dir,
            upstream,
            txt,
            brought,
            brought_in: from,
            last: Mutex::default(),
            for_client: AtomicBool::default(),
        }
    }

    /// What passes its requests on.
    pub fn upstream(&self) -> &HttpSource {
        &self.upstream
    }

    /// From now on asks the upstream with a client's fields, or goes by what the last run brought.
    pub(super) fn asks_for(&self, client: Option<HeaderMap>) {
        self.for_client.store(client.is_some(), Ordering::Relaxed);
        self.upstream.asks_for(client.unwrap_or_default());
    }

    fn asks_itself(&self) -> bool {
        self.for_client.load(Ordering::Relaxed) || self.stands_aside()
    }

    /// Whether the upstream is asked without the downloader, which cannot work here and was nobody's choice.
    fn stands_aside(&self) -> bool {
        self.setup.is_default && self.last.lock().fault.as_ref().is_some_and(Fault::is_local)
    }

    fn ledger(&self) -> &Ledger {
        self.upstream.ledger()
    }

    /// Whether there is anything to run it for; `held` says what the mirror has. A fresh TXT record that names nothing newer
    /// spares a run, but for a look at the file itself now and then.
    pub async fn is_due(&self, held: BTreeMap<Database, u32>) -> bool {
        let mut recorded = BTreeMap::new();
        let now_s = self.ledger().clock().epoch_s();
        for database in &self.setup.databases {
            let Some(txt) = &self.txt else { break };
            // Without a network one answer is enough.
            let Ok(said) = txt.lookup(database).await else { break };
            if said.time_s.is_some_and(|at_s| at_s <= now_s && now_s - at_s <= TXT_MAX_AGE_S) {
                recorded.insert(database.clone(), said);
            }
        }
        let newer = |database: &Database| {
            let said = recorded.get(database).and_then(|said: &Said| said.version);
            said.is_none() || held.get(database).copied() < said
        };
        let mut is_due = self.setup.databases.iter().any(newer);
        // Each is asked: the pause of one begins when this is first asked.
        for database in &self.setup.databases {
            is_due |= self.ledger().header_due(database);
        }
        let mut last = self.last.lock();
        (last.held, last.recorded, last.fault, last.came) = (held, recorded, None, false);
        is_due
    }

    /// Makes its directory what a run needs: the CVDs that the mirror holds, and nothing left over but its own memory.
    pub fn prepare<R: Read>(&self, seeds: Vec<Seed<R>>) {
        let broken = std::mem::take(&mut self.last.lock().broken);
        let prepared = match self.setup.tool {
            Tool::Freshclam => freshclam::prepare(&self.dir, seeds, broken),
            Tool::Cvdupdate => cvdupdate::prepare(&self.dir, &self.setup),
        };
        self.last.lock().fault = prepared.err();
    }

    /// Runs it; what comes of that shows in what is read afterwards. Dropping the future ends its process group.
    pub async fn run(&self) {
        if self.last.lock().fault.is_some() {
            return;
        }
        let result = self.try_run().await;
        let mut last = self.last.lock();
        // What the upstream does leaves its CVDs as they were.
        last.broken = matches!(result, Err(Fault::Failed { .. } | Fault::TimedOut { .. }));
        last.fault = result.err();
    }

    async fn try_run(&self) -> Result<(), Fault> {
        let Setup { tool, program, databases, upstream, .. } = &self.setup;
        let policy = Policy::towards(upstream.host_str().unwrap_or_default());
        if let Some(database) = databases.first()
            && let Err(refusal) = self.ledger().may_ask(&Wanted::Header(database.clone(), None), policy)
        {
            let (wait_s, why) = (refusal.wait_s, refusal.why);
            let why = Arc::new(FetchError::CoolDown { url: upstream.to_string(), wait_s, why });
            return Err(Fault::Upstream { tool: *tool, why });
        }
        let program = tool.find(program.as_deref()).ok_or(Fault::Missing(*tool))?;
        match tool {
            Tool::Freshclam => freshclam::run(&self.dir, &program, &self.setup, &self.upstream).await,
            Tool::Cvdupdate => cvdupdate::run(&self.dir, &program, &self.setup).await,
        }
    }

    /// Forgets what came, once a round has taken it.
    pub fn end(&self) {
        let mut last = self.last.lock();
        last.came = self.came(&last);
        drop(last);
        if self.setup.tool == Tool::Freshclam {
            // What stays is removed before the next run, which says why it cannot be.
            let _ = files::empty(&self.dir.join("passed"), |_| false);
        }
    }

    /// What went wrong though something came.
    pub fn fault(&self) -> Option<Fault> {
        let aside = self.stands_aside();
        let last = self.last.lock();
        last.fault.clone().filter(|_| aside || self.came(&last))
    }

    /// Whether anything came that leads on.
    fn came(&self, last: &Last) -> bool {
        let moves = |database| self.moves(database, last.held.get(database).copied());
        last.came || self.setup.databases.iter().any(moves)
    }

    /// Whether more of a database came than a header: a full CVD, or the next CDIFF.
    fn moves(&self, database: &Database, held: Option<u32>) -> bool {
        let size = |name: String| fs::metadata(self.brought_in.join(name)).map_or(0, |meta| meta.len());
        let next = held.and_then(|held| held.checked_add(1));
        size(format!("{database}.cvd")) > HEADER_BYTES as u64
            || next.is_some_and(|next| size(format!("{database}-{next}.cdiff")) > 0)
    }

    /// Says what is newest: what came, or what the TXT record names where that is more, or else what is held, of which
    /// the run found nothing newer.
    ///
    /// # Errors
    /// Why the run brought nothing.
    pub async fn newest(&self, database: &Database) -> Result<Newest, FetchError> {
        if self.asks_itself() {
            return self.upstream.newest(database).await;
        }
        let came = self.brought.newest(database).await;
        let (recorded, held, fault) = {
            let last = self.last.lock();
            (last.recorded.get(database).copied(), last.held.get(database).copied(), last.fault.clone())
        };
        let recorded = recorded.and_then(|said| Some((said.version?, said.time_s)));
        let by_record =
            |version, at_s| Newest { version, evidence: Evidence::TxtRecord, at_s, doubts: Vec::new() };
        match (came, fault) {
            (Ok(_), Some(fault)) if !self.moves(database, held) => Err(FetchError::Downloader(fault)),
            (Ok(came), _) => match recorded.filter(|(version, _)| *version > came.version) {
                Some((version, at_s)) => Ok(by_record(version, at_s)),
                None => Ok(came),
            },
            (Err(_), Some(fault)) => Err(FetchError::Downloader(fault)),
            (Err(_), None) => match (held, recorded) {
                (held, Some((version, at_s))) if held.is_none_or(|held| version >= held) => {
                    Ok(by_record(version, at_s))
                }
                (Some(version), _) => {
                    Ok(Newest { version, evidence: Evidence::Header, at_s: None, doubts: Vec::new() })
                }
                (None, _) => Err(FetchError::Downloader(Fault::Nothing(self.setup.tool))),
            },
        }
    }

    /// Reads the header that came.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn probe(&self, database: &Database) -> Result<Header, FetchError> {
        match self.asks_itself() {
            true => self.upstream.probe(database).await,
            false => self.brought.probe(database).await,
        }
    }

    /// Begins to read what came.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn open(&self, wanted: &Wanted) -> Result<Incoming, FetchError> {
        if self.asks_itself() {
            return self.upstream.open(wanted).await;
        }
        let incoming = self.brought.open(wanted).await?;
        // A header that came alone stands under the name of the file.
        match wanted {
            Wanted::Cvd(..) if incoming.announced.is_some_and(|bytes| bytes <= HEADER_BYTES as u64) => {
                Err(FetchError::Absent { origin: incoming.origin })
            }
            _ => Ok(incoming),
        }
    }

    /// Whether it can be run, and as which version it names itself.
    ///
    /// # Errors
    /// See [`Fault`].
    pub async fn examine(&self) -> Result<(PathBuf, String), Fault> {
        let tool = self.setup.tool;
        let program = tool.find(self.setup.program.as_deref()).ok_or(Fault::Missing(tool))?;
        let version = match tool {
            Tool::Freshclam => freshclam::version(&program, &self.dir, None).await?,
            Tool::Cvdupdate => String::new(),
        };
        Ok((program, version))
    }
}
