//! What is held and published, how fresh it is, and what went wrong last: one value for people and programs.
use super::{
    DataDir, Mirror, OpenError, Published, Snapshot,
    state::{DatabaseState, State},
};
use crate::{
    clock::{ago, epoch_s},
    cvd::Database,
    source::budget::Book,
};
use cvdmirror_store::Store;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

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
    /// What was asked of the upstream; `None` for a directory.
    pub ledger: Option<Book>,
    /// Packs in the store.
    pub packs: u64,
    /// Their length together, bytes.
    pub store_bytes: u64,
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
    /// Whether it is held from earlier, and no longer mirrored.
    #[serde(default)]
    pub left: bool,
}

impl Mirror {
    /// Says how the running mirror is; `snapshot` is what it has published. Never waits for the disk.
    pub fn status(&self, dir: &DataDir, snapshot: &Snapshot, max_age: Duration) -> Status {
        let status = Status::of(dir, snapshot, &self.remembered(), self.findings(), max_age);
        Status { serving: true, ledger: self.book(), remarks: self.remarks(), ..status }
    }
}

impl Status {
    /// Reads the status from the files, beside nobody: nothing is written.
    ///
    /// # Errors
    /// When the store or the state file cannot be read.
    pub fn read(dir: &DataDir, databases: &[Database], max_age: Duration) -> Result<Self, OpenError> {
        if !dir.store().exists() {
            return Err(OpenError::NoStore { data_dir: dir.root().into() });
        }
        let state = State::open_read_only(&dir.state())?;
        let scan = Store::scan(&dir.store())?;
        let mut findings: Vec<String> = scan.findings.iter().map(ToString::to_string).collect();
        let mut packs = Vec::new();
        let retired = state.as_ref().map(State::retired).transpose()?.unwrap_or_default();
        for pack in scan.packs.into_iter().filter(|pack| !retired.contains_key(pack.id())) {
            let trusted = match &state {
                Some(state) => state.trusted(pack.id())?.filter(|t| t.file_len == pack.file_len()),
                None => None,
            };
            match trusted {
                Some(trusted) => packs.push((trusted.rank, pack)),
                None => findings.push(format!(
                    "pack {} is verified at the next start, and until then not published",
                    pack.id()
                )),
            }
        }
        packs.sort_by_key(|(rank, _)| *rank);
        let packs = packs.into_iter().map(|(_, pack)| pack).collect();
        let (store, conflicts) = Store::assemble(&dir.store(), &dir.tmp(), packs)?;
        findings.extend(conflicts.iter().map(ToString::to_string));
        for (pack, object) in state.as_ref().map(State::rotten).transpose()?.unwrap_or_default().into_keys() {
            store.quarantine(&pack, object);
            findings.extend(super::rotten(&store.view(), &pack, object));
        }
        let mut remembered = BTreeMap::new();
        for database in databases {
            let known = match &state {
                Some(state) => state.database(database)?,
                None => DatabaseState::default(),
            };
            remembered.insert(database.clone(), known);
        }
        let confirmed = |d: &Database| remembered.get(d).and_then(|s: &DatabaseState| s.confirmed_at_s);
        let (snapshot, unreadable) = Snapshot::of(store.view(), confirmed);
        findings.extend(unreadable.iter().map(ToString::to_string));
        let ledger = state.map(|state| state.book()).transpose()?;
        Ok(Self { ledger, ..Self::of(dir, &snapshot, &remembered, findings, max_age) })
    }

    fn of(
        dir: &DataDir,
        snapshot: &Snapshot,
        remembered: &BTreeMap<Database, DatabaseState>,
        findings: Vec<String>,
        max_age: Duration,
    ) -> Self {
        let stale_because = stale_because(snapshot, remembered, max_age);
        let now_s = epoch_s();
        // What is held of databases that are no longer mirrored is served all the same.
        let others = snapshot.files.keys().map(|name| &name.database).collect::<BTreeSet<_>>();
        let others = others.into_iter().filter(|database| !remembered.contains_key(database));
        let forgotten = DatabaseState::default();
        let all = remembered.iter().chain(others.map(|database| (database, &forgotten)));
        let databases = all.map(|(database, state)| {
            let published = snapshot.databases.get(database);
            let files = || snapshot.files.iter().filter(|(name, _)| name.database == *database);
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
                stale: stale(published, state, max_age, now_s).filter(|_| remembered.contains_key(database)),
                last_error: state.last_error.clone(),
                left: !remembered.contains_key(database),
            }
        });
        Self {
            data_dir: dir.root().display().to_string(),
            serving: false,
            fresh: stale_because.is_empty(),
            stale_because,
            databases: databases.collect(),
            findings,
            remarks: Vec::new(),
            ledger: None,
            packs: snapshot.view.packs().len() as u64,
            store_bytes: snapshot.view.packs().iter().map(|pack| pack.file_len()).sum(),
        }
    }
}

/// Why what is published is not fresh; empty when it is.
pub fn stale_because(
    snapshot: &Snapshot,
    remembered: &BTreeMap<Database, DatabaseState>,
    max_age: Duration,
) -> Vec<String> {
    let now_s = epoch_s();
    let why = remembered.iter().filter_map(|(database, state)| {
        let stale = stale(snapshot.databases.get(database), state, max_age, now_s)?;
        let because = state.last_error.as_ref().map(|e| format!(": {e}")).unwrap_or_default();
        Some(format!("{database}: {stale}{because}"))
    });
    why.collect()
}

/// Why what is published of one database is not fresh.
fn stale(
    published: Option<&Published>,
    state: &DatabaseState,
    max_age: Duration,
    now_s: u64,
) -> Option<String> {
    match (published, state.confirmed_at_s) {
        (None, _) => Some("nothing is held yet".into()),
        (Some(_), None) => Some("never confirmed by the source".into()),
        (Some(_), Some(at_s)) if now_s.saturating_sub(at_s) > max_age.as_secs() => {
            Some(format!("last confirmed by the source {} ago", ago(now_s.saturating_sub(at_s))))
        }
        _ => None,
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let now_s = epoch_s();
        let since = |at_s: Option<u64>| {
            at_s.map_or("never".to_owned(), |at_s| format!("{} ago", ago(now_s.saturating_sub(at_s))))
        };
        writeln!(f, "{}: {}", self.data_dir, if self.serving { "serving" } else { "no server is running" })?;
        for d in &self.databases {
            write!(f, "{}: ", d.database)?;
            match (d.version, d.cvd) {
                (Some(version), Some(cvd)) => {
                    write!(f, "version {version} published")?;
                    if cvd != version {
                        write!(f, " (full CVD {cvd})")?;
                    }
                    if let Some((first, last)) = d.chain {
                        write!(f, ", CDIFFs {first} to {last}")?;
                    }
                    writeln!(f, ", {} files, {} bytes", d.files, d.bytes)?;
                }
                _ => writeln!(f, "nothing published")?,
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
            if let Some(error) = &d.last_error {
                writeln!(f, "  last error: {error}")?;
            }
        }
        writeln!(f, "store: {} packs, {} bytes", self.packs, self.store_bytes)?;
        for finding in &self.findings {
            writeln!(f, "store: {finding}")?;
        }
        for remark in &self.remarks {
            writeln!(f, "note: {remark}")?;
        }
        if let Some(book) = &self.ledger {
            let today = book.today(now_s);
            let counts: Vec<String> = today
                .iter()
                .map(|(kind, count)| format!("{} {kind} ({} bytes)", count.requests, count.bytes))
                .collect();
            let asked = if counts.is_empty() { "nothing".into() } else { counts.join(", ") };
            writeln!(f, "asked of the upstream today: {asked}")?;
            if let Some(cool_down) = book.cool_down.as_ref().filter(|c| c.until_s > now_s) {
                writeln!(f, "left alone for another {}: {}", ago(cool_down.until_s - now_s), cool_down.why)?;
            }
        }
        match self.fresh {
            true => writeln!(f, "fresh"),
            false => writeln!(f, "STALE: {}", self.stale_because.join("; ")),
        }
    }
}
