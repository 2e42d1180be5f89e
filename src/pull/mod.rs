//! `cvdmirror pull`, the client's half: keeps a directory at the newest version that a mirror has, and clamd with it.
//!
//! A round: `newest` says what there is, `local` what is held, `make` makes the one from the other and verifies it, all
//! databases first; then `directory` brings all of them into force at once, and `clamd` loads them. Whatever goes wrong
//! before that leaves every file as it was. Needs no store and no server of its own.
pub mod clamd;
pub mod clamd_conf;
mod directory;
mod fetch;
mod local;
mod make;
mod newest;
mod report;
mod site;
mod trial;

pub use directory::DirectoryError;
pub use fetch::FetchError;
pub use local::Form;
pub use make::{NoPatch, Way};
pub(crate) use report::WithCauses;
pub use report::{Outcome, PullError, Remark, Report};
pub use site::SiteFault;

use crate::{
    clients::Sighting,
    cvd::{Anchors, Database, Limits, TrustKeys},
    source::txt::TxtResolver,
};
use clamd::{Address, ClamdError, Proof};
use directory::{Directory, Pending, Staged};
use fetch::Mirror;
use local::{Held, Local, Stamp};
use make::{Base, Made, Maker};
use newest::Newest;
use reqwest::Url;
use std::{collections::BTreeMap, path::PathBuf, time::Duration};

/// What a pull is to do.
#[derive(Debug)]
pub struct Settings {
    /// The mirror; its URL may hold a user and a password.
    pub from: Url,
    /// The database directory.
    pub into: PathBuf,
    /// Which databases.
    pub databases: Vec<Database>,
    /// In which form they are installed; without one, in that which is held, and a CVD where nothing is.
    pub form: Option<Form>,
    /// Who is told.
    pub clamd: Option<Address>,
    /// Longest that clamd may take to load.
    pub clamd_timeout: Duration,
    /// Whether a lower version than the one held is installed, where the mirror has no other.
    pub allow_older: bool,
    /// Scanned with the new set, by clamscan, before it is installed.
    pub test: Option<PathBuf>,
    /// How this host calls itself to the mirror, which is told what it has; none: it is not told.
    pub report_as: Option<String>,
    /// Whose signatures count.
    pub keys: TrustKeys,
    /// What sign files must lead to; without any, none is fetched.
    pub anchors: Option<Anchors>,
    /// The site's own CA, which must have signed each CLD.
    pub ca: Option<Anchors>,
    /// Asked for versions first.
    pub txt: Option<TxtResolver>,
    /// Longest wait for an answer, and for the next piece of a body.
    pub stall: Duration,
}

/// A mirror, and the directory that is to follow it.
#[derive(Debug)]
pub struct Pull {
    mirror: Mirror,
    into: PathBuf,
    databases: Vec<Database>,
    form: Option<Form>,
    clamd: Option<Address>,
    clamd_timeout: Duration,
    allow_older: bool,
    test: Option<PathBuf>,
    report_as: Option<String>,
    keys: TrustKeys,
    anchors: Option<Anchors>,
    ca: Option<Anchors>,
    txt: Option<TxtResolver>,
    limits: Limits,
}

impl Pull {
    /// Takes the settings; asks nothing yet.
    ///
    /// # Errors
    /// When no TLS client can be made.
    pub fn new(settings: Settings) -> Result<Self, FetchError> {
        let agent = concat!("cvdmirror/", env!("CARGO_PKG_VERSION"), " (pull)");
        let Settings { from, into, databases, form, clamd, clamd_timeout, .. } = settings;
        let Settings { allow_older, test, report_as, keys, anchors, ca, txt, stall, .. } = settings;
        let mirror = Mirror::new(from, agent, stall)?;
        let limits = Limits::default();
        Ok(Self {
            mirror,
            into,
            databases,
            form,
            clamd,
            clamd_timeout,
            allow_older,
            test,
            report_as,
            keys,
            anchors,
            ca,
            txt,
            limits,
        })
    }

    /// Does one round.
    ///
    /// # Errors
    /// When the directory cannot be worked in; what goes wrong with one database stands in the report.
    pub async fn round(&self) -> Result<Report, DirectoryError> {
        let directory = Directory::open(&self.into)?;
        let mut report = Report::default();
        let mut seen = directory.seen();
        // An earlier round was cut off before clamd had loaded what it installed.
        if let Some(pending) = directory.pending() {
            let settled = self.settle(&directory, &pending, &mut report);
            report.errors.extend(settled.err().map(PullError::from));
        }
        let mut newest = Newest::new(&self.mirror, self.txt.as_ref());
        let mut made = Vec::new();
        for database in &self.databases {
            let staged = self.database(&directory, database, &mut newest, &mut seen, &mut report).await;
            match staged {
                Ok(Some(one)) => made.push(one),
                Ok(None) => {}
                Err(e) => report.errors.push(e),
            }
        }
        let brought = self.bring_into_force(&directory, made, &mut report);
        report.errors.extend(brought.err().map(PullError::from));
        self.follow(&mut report);
        self.remember(&directory, seen, &report);
        self.tell(&mut report).await;
        Ok(report)
    }

    /// Tells the mirror what is here now. That it does not hear it is no error.
    async fn tell(&self, report: &mut Report) {
        let Some(host) = self.report_as.clone() else { return };
        let clamd = self.clamd.as_ref().and_then(|clamd| clamd.version().ok());
        let held = |database: &Database| {
            let local = Local::scan(&self.into, database).ok()?;
            Some((database.to_string(), local.files.first()?.version?))
        };
        let sighting = Sighting {
            host,
            engine: clamd.as_ref().map(|loaded| loaded.engine.replace(' ', "/")),
            installed: self.databases.iter().filter_map(held).collect(),
            loaded: clamd.and_then(|loaded| Some(("daily".to_owned(), loaded.daily?))).into_iter().collect(),
        };
        let told = self.mirror.tell("seen", &sighting).await;
        report.remarks.extend(told.err().map(|why| Remark::Untold { why }));
    }

    /// Makes the newest version of one database, if that is needed.
    async fn database(
        &self,
        directory: &Directory,
        database: &Database,
        newest: &mut Newest<'_>,
        seen: &mut BTreeMap<String, Stamp>,
        report: &mut Report,
    ) -> Result<Option<Made>, PullError> {
        let scan = |source| PullError::Read { path: self.into.clone(), source };
        let local = Local::scan(&self.into, database).map_err(scan)?;
        if !local.copies.is_empty() {
            return Err(PullError::Copies { database: database.clone(), copies: local.copies });
        }
        self.notice_others(database, &local, seen, &mut report.remarks);
        let mut base = None;
        for held in &local.files {
            if seen.get(&held.name()) != Some(&held.stamp)
                && let Err(why) = held.verify(database, &self.keys, &self.limits)
            {
                report.remarks.push(Remark::Damaged { path: held.path.clone(), why });
                continue;
            }
            seen.insert(held.name(), held.stamp);
            base = Some(held);
            break;
        }
        let version = newest.of(database).await?;
        let held = base.and_then(|base| base.version);
        let in_force = local.files.first().map(|held| &held.path) == base.map(|base| &base.path);
        let sound = in_force && self.is_vouched(database, base, &local, &mut report.remarks);
        if let Some(held) = held.filter(|held| *held > version && !self.allow_older) {
            return Err(PullError::Older { database: database.clone(), held, offered: version });
        }
        if held == Some(version) && sound {
            let removed = directory.tidy(&local)?;
            report.remarks.extend(removed.into_iter().map(|path| Remark::Removed { path }));
            report.outcomes.push((database.clone(), Outcome::Current { version }));
            return Ok(None);
        }
        if let Some((path, why)) = directory.refused(database, version) {
            return Err(PullError::Refused { database: database.clone(), version, path, why });
        }
        let maker = Maker { pull: self, directory, database, remarks: &mut report.remarks, bytes: 0 };
        let made = maker.make(version, base.map(|held| Base { held, sound }), &local).await?;
        if made.is_none() {
            report
                .outcomes
                .push((database.clone(), Outcome::Waiting { held: held.unwrap_or_default(), version }));
        }
        Ok(made)
    }

    /// Notices that another program has written a database since the last round.
    fn notice_others(
        &self,
        database: &Database,
        local: &Local,
        seen: &BTreeMap<String, Stamp>,
        remarks: &mut Vec<Remark>,
    ) {
        let is_known = Form::BOTH.iter().any(|form| seen.contains_key(&form.name(database)));
        let other = local.files.iter().find(|held| seen.get(&held.name()) != Some(&held.stamp));
        if let Some(held) = other.filter(|_| is_known) {
            let freshclam = self.into.join("freshclam.dat").exists();
            remarks.push(Remark::Others { path: held.path.clone(), freshclam });
        }
    }

    /// Tries, installs, and has clamd load what was made.
    fn bring_into_force(
        &self,
        directory: &Directory,
        made: Vec<Made>,
        report: &mut Report,
    ) -> Result<(), DirectoryError> {
        let (made, changed): (Vec<Made>, Vec<Made>) =
            made.into_iter().partition(|made| directory.unchanged(&made.staged));
        for Made { staged, .. } in changed {
            report.errors.push(PullError::Changed { database: staged.database });
        }
        if made.is_empty() {
            return Ok(());
        }
        let (staged, done): (Vec<Staged>, Vec<_>) =
            made.into_iter().map(|Made { staged, way, bytes }| (staged, (way, bytes))).unzip();
        if let Some(file) = &self.test
            && let Err(why) = trial::scan(directory.trial(&staged)?.path(), file)
        {
            for Staged { database, version, form, file, .. } in &staged {
                let path = directory.refuse(file, database.as_str(), *version, *form, &why.to_string())?;
                let (database, version, why) = (database.clone(), *version, why.to_string());
                report.errors.push(PullError::Refused { database, version, path, why });
            }
            return Ok(());
        }
        if self.clamd.is_some() {
            directory.keep_replaced(&staged)?;
        }
        directory.install(&staged)?;
        for (Staged { database, version, form, replaces, .. }, (way, bytes)) in staged.iter().zip(done) {
            let from = replaces.files.first().and_then(|held| held.version);
            let outcome = Outcome::Installed { from, to: *version, form: *form, way, bytes };
            report.outcomes.push((database.clone(), outcome));
        }
        match directory.pending().filter(|_| self.clamd.is_some()) {
            Some(pending) => self.settle(directory, &pending, report),
            None => {
                directory.forget_refused();
                self.leave_to_itself(report);
                Ok(())
            }
        }
    }

    /// Says when a clamd that runs here and is not told will load what was installed.
    fn leave_to_itself(&self, report: &mut Report) {
        let Some((self_check_s, address)) = clamd_conf::loading(&self.into) else { return };
        match self_check_s {
            Some(0) => report.remarks.push(Remark::Unnoticed { address }),
            Some(seconds) => report.clamd = Some(Proof::SelfCheck(seconds)),
            None => {}
        }
    }

    /// Has clamd load what was installed; if it does not, puts back what was there.
    fn settle(
        &self,
        directory: &Directory,
        pending: &Pending,
        report: &mut Report,
    ) -> Result<(), DirectoryError> {
        let Some(clamd) = &self.clamd else { return directory.confirm() };
        let daily = pending.replaced.iter().find(|replaced| replaced.database == "daily");
        let daily = daily.filter(|daily| directory.has(daily)).map(|daily| daily.version);
        match clamd.reload(daily, self.clamd_timeout) {
            Ok(proof) => {
                report.clamd = Some(proof);
                directory.forget_refused();
                directory.confirm()
            }
            // It loads what it finds when it is started; until then what was replaced is kept.
            Err(e @ ClamdError::Unreachable { .. }) => {
                report.errors.push(PullError::Clamd(e));
                Ok(())
            }
            Err(e) => {
                let aside = directory.put_back(pending, &e.to_string())?;
                report.took_back(pending.replaced.iter().map(|replaced| replaced.database.as_str()));
                // Whatever it has loaded by now, it is to have what is there.
                let again = clamd.reload(None, self.clamd_timeout).err().map(Box::new);
                report.errors.push(PullError::TakenBack { why: Box::new(e), aside, again });
                Ok(())
            }
        }
    }

    /// Makes clamd load the newest daily where this round installed nothing: an earlier RELOAD may have failed or
    /// never been sent.
    fn follow(&self, report: &mut Report) {
        let is_done = report.clamd.is_some() || report.errors.iter().any(PullError::is_clamds);
        let Some(clamd) = self.clamd.as_ref().filter(|_| !is_done) else { return };
        let daily = report.outcomes.iter().find_map(|(database, outcome)| match outcome {
            Outcome::Current { version } if database.as_str() == "daily" => Some(*version),
            _ => None,
        });
        let followed = clamd.version().and_then(|loaded| match daily {
            Some(daily) if loaded.daily != Some(daily) => {
                clamd.reload(Some(daily), self.clamd_timeout).map(Some)
            }
            _ => Ok(None),
        });
        match followed {
            Ok(proof) => report.clamd = proof,
            Err(e) => report.errors.push(PullError::Clamd(e)),
        }
    }

    /// Remembers which files were found good, so that they are not verified again, and others' work is noticed.
    fn remember(&self, directory: &Directory, mut seen: BTreeMap<String, Stamp>, report: &Report) {
        for (database, outcome) in &report.outcomes {
            let Outcome::Installed { to, form, .. } = outcome else { continue };
            for form in Form::BOTH {
                seen.remove(&form.name(database));
            }
            let path = self.into.join(form.name(database));
            if let Ok(held) = Held::read(&path, *form)
                && held.version == Some(*to)
            {
                seen.insert(held.name(), held.stamp);
            }
        }
        // Without it everything is verified again.
        if let Err(e) = directory.remember(&seen) {
            tracing::warn!("{e}");
        }
    }
}

/// How clamd's loading is told.
impl std::fmt::Display for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Version(daily) => write!(f, "clamd has loaded daily {daily}"),
            Self::Log => f.write_str("clamd has loaded it"),
            Self::Told => f.write_str("clamd was told to load it"),
            Self::SelfCheck(seconds) => {
                write!(
                    f,
                    "clamd loads it by itself, within {seconds} s (SelfCheck); --clamd has it do so at once"
                )
            }
        }
    }
}
