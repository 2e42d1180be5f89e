//! Trouble with the data directory, the state file, the certificates, and with how old what is published is.
use super::{Trouble, TroubleKind as Kind, disk, store::remedy};
use crate::{clock::ago, state::StateError};
use std::{fmt, path::Path};

impl From<&StateError> for Trouble {
    fn from(e: &StateError) -> Self {
        match e {
            StateError::Newer { .. } => {
                Self::new(Kind::NewerFormat, e.to_string()).mend("run a newer cvdmirror")
            }
            StateError::Io { path, source } => disk(path, source),
            StateError::Redb { path, source: redb::Error::Io(source) } => {
                Self::new(Kind::State, e.to_string()).mend(remedy(path, source))
            }
            StateError::Redb { .. } if e.is_broken() => Self::new(Kind::State, e.to_string())
                .mend("the next `serve` or `sync` puts it aside and begins anew"),
            StateError::Redb { .. } => Self::new(Kind::State, e.to_string()),
        }
    }
}

impl Trouble {
    /// Another process writes to the data directory.
    pub fn locked(what: &dyn fmt::Display) -> Self {
        Self::new(Kind::Locked, what.to_string()).mend("stop that one, or use another --data-dir")
    }

    /// There is no store.
    pub fn no_store(data_dir: &Path) -> Self {
        Self::new(Kind::NoStore, format!("{}: nothing is held there yet", data_dir.display()))
            .mend("start `cvdmirror serve` or `cvdmirror sync` with it, or give another --data-dir")
    }

    /// The certificates cannot be read.
    pub fn certificates(why: &dyn fmt::Display) -> Self {
        Self::new(Kind::Certificates, "certs_dir: no new sign file is served until it can be read")
            .because(why)
            .mend(
                "put ClamAV's certificates there (its packages bring them in /etc/clamav/certs), or take certs_dir out",
            )
    }

    /// Nothing is held of a database.
    pub fn empty() -> Self {
        Self::new(Kind::Empty, "nothing is held yet")
    }

    /// What is published was never confirmed, or not for too long.
    pub fn stale(age_s: Option<u64>) -> Self {
        match age_s {
            None => Self::new(Kind::Stale, "never confirmed by the source"),
            Some(age_s) => Self::new(Kind::Stale, format!("last confirmed by the source {} ago", ago(age_s))),
        }
    }

    /// The newest version that the source has is older than the site allows.
    pub fn frozen(age_s: u64, limit_s: u64) -> Self {
        let what =
            format!("the newest version was built {} ago, and there is none newer at the source", ago(age_s));
        Self::new(Kind::Frozen, what)
            .because(format!("max_build_age allows {}", ago(limit_s)))
            .mend("see whether what fills the source still runs,\nand whether something on the way keeps old answers")
            .warning()
    }

    /// Old packs could not be removed.
    pub fn gc(why: &Self) -> Self {
        Self { kind: Kind::Gc, what: format!("old packs are not removed: {}", why.what), ..why.clone() }
            .warning()
    }

    /// Something that was learnt is not kept over a restart.
    pub fn forgotten(what: &str, why: &StateError) -> Self {
        let why = Self::from(why);
        Self { what: format!("{what} is forgotten at the next start: {}", why.what), ..why }.warning()
    }

    /// There is no CLD of a CVD; that one is served.
    pub fn no_cld(of: &dyn fmt::Display, why: &dyn fmt::Display) -> Self {
        Self::new(Kind::Rebuild, format!("no CLD of {of} could be made; the next round tries again"))
            .because(why)
            .warning()
    }

    /// CLDs are served without sign files.
    pub fn unsigned_clds(why: &dyn fmt::Display) -> Self {
        Self::new(
            Kind::Certificates,
            "not every CLD is signed by the site's CA, and `pull --ca` takes no other",
        )
        .because(why)
        .warning()
    }

    /// The store directory could not be looked at.
    pub fn unlooked(why: &Self) -> Self {
        Self { what: format!("the store could not be looked at: {}", why.what), ..why.clone() }
    }

    /// A CVD is held and cannot be published.
    pub fn unpublished(what: &dyn fmt::Display) -> Self {
        Self::new(Kind::Corrupt, what.to_string()).mend("the next round fetches it anew; look at the disk")
    }
}
