//! What is held and published, how fresh it is, and what went wrong last: one value for people and programs.
use super::{
    DataDir, Health, OpenError, Snapshot, Standing, admission, doubts::Doubts, holdings,
    judgement::Judgement, memory::DatabaseState, proving, reported::Reported,
};
use crate::{
    clock::{ago, epoch_s},
    cvd::{Database, FileName},
    hot,
    source::{Underway, budget::Book},
    state::{State, StateError},
    style::{BAD, GOOD, HEAD},
    trouble::{Told, Trouble},
    units::{count, grouped, size},
};
use cvdmirror_store::Store;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

/// The state of a mirror at one moment.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The data directory.
    pub data_dir: String,
    /// Whether a server answered; otherwise this was read from the files.
    pub serving: bool,
    /// Whether everything published is fresh.
    pub fresh: bool,
    /// Why not, in words; empty when it is.
    pub stale_because: Vec<String>,
    /// Each database that is mirrored.
    pub databases: Vec<DatabaseStatus>,
    /// What is wrong with the store, in words.
    pub findings: Vec<String>,
    /// What a running server remarks around the store, in words that name the fix.
    #[serde(default)]
    pub remarks: Vec<String>,
    /// Everything that goes wrong, as values: what is above in words, each cause once.
    #[serde(default)]
    pub troubles: Vec<Told>,
    /// In how many seconds the source is asked again; `None` where no server runs, or a round is being done.
    #[serde(default)]
    pub next_check_in_s: Option<u64>,
    /// What is being fetched or rebuilt now.
    #[serde(default)]
    pub now: Option<Underway>,
    /// What was asked of the upstream; `None` for a directory.
    pub ledger: Option<Book>,
    /// Packs in the store.
    pub packs: u64,
    /// Their length together, bytes.
    pub store_bytes: u64,
    /// What a running server sends from memory; `None` where none runs.
    #[serde(default)]
    pub hot: Option<hot::Figures>,
    /// What hosts told that they have; `None` where they are not heard.
    #[serde(default)]
    pub reported: Option<Reported>,
}

/// One database.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DatabaseStatus {
    /// Which.
    pub database: String,
    /// The newest version a client can reach.
    pub version: Option<u32>,
    /// The newest full CVD.
    pub cvd: Option<u32>,
    /// The first and last CDIFF of the chain that ends at `version`.
    pub chain: Option<(u32, u32)>,
    /// Build time of the newest CVD, epoch seconds.
    pub built_at_s: Option<u64>,
    /// Versioned names that are served.
    pub files: u64,
    /// Their length together, bytes.
    pub bytes: u64,
    /// What the source last said is newest.
    pub newest: Option<u32>,
    /// When the source was last asked, epoch seconds.
    pub checked_at_s: Option<u64>,
    /// When what is published was last confirmed as the newest, epoch seconds.
    pub confirmed_at_s: Option<u64>,
    /// Why what is published of it is not fresh, in words; `None` when it is.
    pub stale: Option<String>,
    /// What went wrong at the last check.
    pub last_error: Option<String>,
    /// The version that clients without DNS stay at, while only CDIFFs of a newer one are held: these see the header of
    /// the newest full CVD, and those that ask for the mirror's TXT record get `version`.
    #[serde(default)]
    pub without_dns: Option<u32>,
    /// How old the newest build is, seconds, where that is older than the site allows.
    #[serde(default)]
    pub frozen_s: Option<u64>,
    /// Whether it is held from earlier, and no longer mirrored.
    #[serde(default)]
    pub left: bool,
}

impl Status {
    /// Says how a mirror stands at this time. Never waits for the disk.
    pub fn new(standing: &Standing, now_s: u64) -> Self {
        let Standing { snapshot, databases, .. } = standing;
        let Health { stale, troubles, next_s } = standing.health(now_s);
        // What is held of databases that are no longer mirrored is served all the same.
        let all: BTreeSet<&Database> =
            databases.keys().chain(snapshot.files.keys().map(|name| &name.database)).collect();
        let left = DatabaseState::default();
        let databases = all.into_iter().map(|database| {
            let state = databases.get(database).unwrap_or(&left);
            let published = snapshot.databases.get(database);
            let files = || snapshot.files_of(database);
            DatabaseStatus {
                database: database.to_string(),
                version: published.map(|p| p.version),
                cvd: published.map(|p| p.cvd),
                chain: published.and_then(|p| p.chain),
                built_at_s: published.map(|p| p.stime_s),
                files: files().count() as u64,
                bytes: files().map(|(_, record)| record.size).sum(),
                newest: state.newest,
                checked_at_s: state.checked_at_s,
                confirmed_at_s: state.confirmed_at_s,
                stale: standing.stale_of(database, now_s).map(|stale| stale.to_string()),
                last_error: state.last_error.as_ref().map(ToString::to_string),
                without_dns: published.filter(|p| p.cvd < p.version).map(|p| p.cvd),
                frozen_s: standing.frozen_s(database, now_s),
                left: !databases.contains_key(database),
            }
        });
        let texts = |told: &[Told]| told.iter().map(ToString::to_string).collect();
        let packs = snapshot.view.packs();
        Self {
            data_dir: standing.data_dir.display().to_string(),
            serving: false,
            fresh: stale.is_empty(),
            stale_because: texts(&stale),
            databases: databases.collect(),
            findings: standing.findings.iter().map(ToString::to_string).collect(),
            remarks: texts(&standing.remarks),
            troubles,
            next_check_in_s: next_s,
            now: standing.activity.now(),
            ledger: standing.book.as_deref().cloned(),
            packs: packs.len() as u64,
            store_bytes: packs.iter().map(|pack| pack.file_len()).sum(),
            hot: None,
            reported: None,
        }
    }
}

impl Standing {
    /// Reads where a mirror stands from its files, beside nobody: nothing is written.
    ///
    /// # Errors
    /// When the store or the state file cannot be read.
    pub fn read(dir: &DataDir, databases: &[Database], max_age: Duration) -> Result<Self, OpenError> {
        if !dir.store().exists() {
            return Err(OpenError::NoStore { data_dir: dir.root().into() });
        }
        let state = State::open_read_only(&dir.state())?;
        let state = state.as_ref();
        let admitted = admission::trusted(Store::scan(&dir.store())?, state)?;
        let corrupt = state.map(State::corrupt).transpose()?.unwrap_or_default();
        let (store, mut findings) = holdings::assemble(dir, admitted, corrupt.into_keys())?;
        let remembered = databases.iter().map(|database| {
            let known = state.map(|state| state.database(database)).transpose()?;
            Ok((database.clone(), known.unwrap_or_default().plausible(epoch_s())))
        });
        let databases = remembered.collect::<Result<_, StateError>>()?;
        let judgement = state.map(Judgement::remembered).transpose()?.unwrap_or_default();
        findings.extend(judgement.apply(&store, &|_| true));
        let view = store.view();
        let unproved = proving::unproved(&view, |database, version, cdiff| {
            let doubts = state.and_then(|state| Doubts::remembered(state, database).ok());
            doubts.is_some_and(|doubts| doubts.is_proved(version, cdiff))
        });
        let hidden = |name: &FileName| unproved.contains(name);
        let (snapshot, unreadable) = Snapshot::new(view, hidden, holdings::confirmed(&databases));
        findings.extend(unreadable.iter().map(|why| Trouble::unpublished(why)));
        let book = state.map(State::book).transpose()?.map(|book| Arc::new(book.plausible(epoch_s())));
        let standing = Self::new(Arc::new(snapshot), dir.root().into(), max_age.as_secs());
        Ok(Self { databases, findings, book, ..standing })
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let now_s = epoch_s();
        let since = |at_s: Option<u64>| {
            at_s.map_or("never".to_owned(), |at_s| format!("{} ago", ago(now_s.saturating_sub(at_s))))
        };
        writeln!(f, "{}: {}", self.data_dir, if self.serving { "serving" } else { "no server is running" })?;
        let nothing = |d: &&DatabaseStatus| d.version.is_none() && !d.left;
        let bare: Vec<&str> = self.databases.iter().filter(nothing).map(|d| &*d.database).collect();
        if !bare.is_empty() {
            writeln!(f, "{HEAD}{}{HEAD:#}: nothing published", bare.join(", "))?;
        }
        for d in self.databases.iter().filter(|d| !nothing(d)) {
            write!(f, "{HEAD}{}{HEAD:#}: ", d.database)?;
            match (d.version, d.cvd) {
                (Some(version), Some(cvd)) => {
                    write!(f, "version {version} published")?;
                    if cvd != version {
                        write!(f, " (full CVD {cvd})")?;
                    }
                    if let Some((first, last)) = d.chain {
                        write!(f, ", CDIFFs {first} to {last}")?;
                    }
                    writeln!(f, ", {}, {}", count(d.files, "file"), size(d.bytes))?;
                }
                _ => writeln!(f, "nothing published")?,
            }
            if let (Some(without), Some(version)) = (d.without_dns, d.version) {
                writeln!(
                    f,
                    "  clients without DNS stay at {without} until the full CVD is here;\n  those that ask this mirror's \
                     TXT record get {version}"
                )?;
            }
            if d.left {
                writeln!(
                    f,
                    "  left from earlier: not in the setting `database`, served as it is, never brought up to date"
                )?;
                continue;
            }
            let newest = d.newest.map_or("nothing".into(), |v| v.to_string());
            writeln!(
                f,
                "  built {}; the source said {newest}; asked {}; confirmed {}",
                since(d.built_at_s),
                since(d.checked_at_s),
                since(d.confirmed_at_s)
            )?;
        }
        writeln!(f, "store: {}, {}", count(self.packs, "pack"), size(self.store_bytes))?;
        if let Some(hot) = &self.hot {
            writeln!(f, "in memory: {hot}")?;
        }
        if let Some(reported) = &self.reported {
            write!(f, "{reported}")?;
        }
        for told in &self.troubles {
            let about = if told.databases.is_empty() { "trouble" } else { "trouble of" };
            let lines = told.lines(&format!("{about} "));
            write!(f, "{BAD}{about}{BAD:#}{}", lines.strip_prefix(about).unwrap_or(&lines))?;
        }
        if let Some(book) = &self.ledger {
            let today = book.today(now_s);
            let counts: Vec<String> = today
                .iter()
                .map(|(kind, count)| match count.requests {
                    1 => format!("1 {}", kind.to_string().trim_end_matches('s')),
                    many => format!("{} {kind}", grouped(many)),
                })
                .collect();
            let bytes: u64 = today.values().map(|count| count.bytes).sum();
            let asked = match &counts[..] {
                [] => "nothing".into(),
                _ => format!("{} ({})", counts.join(", "), size(bytes)),
            };
            writeln!(f, "asked of the upstream today: {asked}")?;
            if let Some(cool_down) = book.cool_down.as_ref().filter(|c| c.until_s > now_s) {
                writeln!(f, "left alone for another {}: {}", ago(cool_down.until_s - now_s), cool_down.why)?;
            }
        }
        if let Some(now) = &self.now {
            writeln!(f, "now {now}")?;
        }
        if let Some(next_s) = self.next_check_in_s {
            writeln!(f, "next check in {}", ago(next_s))?;
        }
        match self.fresh {
            true => writeln!(f, "{GOOD}fresh{GOOD:#}"),
            false => writeln!(f, "{BAD}STALE{BAD:#}: {}", self.stale_because.join("; ")),
        }
    }
}
