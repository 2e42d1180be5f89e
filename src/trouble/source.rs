//! Trouble with the source, its TXT record, and the clock by which it is judged.
use super::{Trouble, TroubleKind as Kind, disk};
use crate::{
    clock,
    source::{ClientError, Doubt, Evidence, FetchError, by_other_scheme, downloader::Fault},
};
use std::io;

/// What comes of a source that gives nothing.
pub const NOTHING_NEWER: &str = "nothing newer can be had; what is held stays served, and turns stale";
const FRESHCLAM: &str = "apt install clamav-freshclam\nsource = \"freshclam\"";

impl From<&FetchError> for Trouble {
    fn from(e: &FetchError) -> Self {
        let what = e.to_string();
        match e {
            FetchError::Absent { .. } => {
                Self::new(Kind::Absent, what).mend("a source that has it, or give `database` without it")
            }
            FetchError::Denied { .. } => Self::new(Kind::Denied, what).mend(FRESHCLAM),
            FetchError::Limited { .. } => Self::new(Kind::Limited, what).mend(FRESHCLAM),
            FetchError::CoolDown { wait_s, why, .. } => {
                let what = format!("the source is not asked for another {}", clock::ago(*wait_s));
                Self::new(Kind::CoolDown, what).because(why).mend(FRESHCLAM)
            }
            FetchError::Status { url, .. } | FetchError::WrongPart { url, .. } => {
                Self::new(Kind::Answer, what).mend(reach(url))
            }
            FetchError::Redirect { url, why } => Self::new(Kind::Redirect, url).because(why).mend(
                "source = \"URL\" of where it leads, or redirect_hosts = [\"HOST\"] if that host is trusted",
            ),
            FetchError::TooLarge { .. } => Self::new(Kind::TooLarge, what),
            FetchError::Truncated { origin, .. } => Self::new(Kind::Truncated, what).mend(reach(origin)),
            FetchError::TooSlow { origin, .. } => Self::new(Kind::TooSlow, what).mend(reach(origin)),
            FetchError::WrongScheme { url, why } => Self::new(Kind::WrongScheme, url.as_str())
                .because(format_args!("what answers there speaks no {} ({why})", url.scheme()))
                .mend(format!("source = \"{}\"", by_other_scheme(url))),
            FetchError::Unreachable { url, why } => {
                Self::new(Kind::Unreachable, url).because(why).mend(reach(url))
            }
            FetchError::NoDescriptor { .. } => {
                Self::new(Kind::Unreachable, what).mend(super::store::DESCRIPTORS)
            }
            FetchError::NotAFile { path, .. } => {
                Self::new(Kind::NotAFile, what).mend(format!("put a plain file at {}", path.display()))
            }
            FetchError::Changed { .. } => {
                Self::new(Kind::Changed, what).mend("try again: it is tried again at the next check too")
            }
            FetchError::Io { path, source } => match source.kind() {
                io::ErrorKind::PermissionDenied => {
                    disk(path, source).mend(format!("chmod a+rX {}", path.display()))
                }
                _ => disk(path, source),
            },
            FetchError::Txt { .. } => Self::new(Kind::TxtRecord, what),
            FetchError::Downloader(fault) => fault.into(),
            FetchError::NotACvd { .. } => Self::new(Kind::NotACvd, what)
                .mend("source = \"URL\" of the directory that holds the CVDs, or an exception in the proxy"),
        }
    }
}

impl From<&Fault> for Trouble {
    fn from(fault: &Fault) -> Self {
        let trouble = |fix: String| Self::new(Kind::Downloader, fault.to_string()).mend(fix);
        match fault {
            Fault::Missing(tool) => trouble(format!("{}, or another source", tool.install())),
            Fault::TooOld { tool, .. } => trouble(format!("a newer one: {}", tool.install())),
            Fault::Upstream { tool, why } => {
                let met = Self::from(&**why);
                match met.kind {
                    // The supported downloader is turned away itself.
                    Kind::Denied | Kind::Limited | Kind::CoolDown => met.mend(format!(
                        "wait; {tool} itself is turned away: does much else here ask from the same address?"
                    )),
                    _ => met,
                }
            }
            Fault::Barred { conf, .. } => {
                let dir = conf.parent().unwrap_or(conf).display();
                trouble(format!(
                    "let AppArmor allow it, in /etc/apparmor.d/local/usr.bin.freshclam:\n{dir}/** krw,"
                ))
            }
            Fault::Failed { tool, .. } => {
                trouble(format!("what {tool} says; the next round starts it with a directory made anew"))
            }
            Fault::TimedOut { .. } => trouble("downloader_timeout = \"TIME\" that is longer".into()),
            Fault::Idle { .. } | Fault::Nothing(_) => trouble(String::new()),
            Fault::NoUser(_) => trouble("downloader_user = \"NAME\" of one that it has".into()),
            Fault::NotRun { tool, program, .. } => trouble(format!(
                "{tool}_path = \"FILE\" of one that can, or chmod a+rx {}",
                program.display()
            )),
            Fault::Closed { dir, .. } => {
                trouble(format!("chmod o+x {}, or downloader_user = \"NAME\" of one that may", dir.display()))
            }
            Fault::Io { path, why } => disk(path, why),
        }
    }
}

impl From<&ClientError> for Trouble {
    fn from(e: &ClientError) -> Self {
        Self::new(Kind::Client, e.to_string()).mend("apt install ca-certificates")
    }
}

fn reach(url: &str) -> String {
    format!("open the way (firewall, https_proxy=URL), or start the source:\ncurl -I {url} must answer")
}

impl From<&Doubt> for Trouble {
    fn from(doubt: &Doubt) -> Self {
        let asked = |what: String| Self::new(Kind::Doubt, format!("{what}; the file itself is asked"));
        match doubt {
            Doubt::Unrecorded { why } => asked(why.clone()),
            Doubt::Unnamed => asked("the TXT record does not name this database".into()),
            Doubt::Undated { version } => asked(format!("the TXT record says {version} but not when")),
            Doubt::Old { version, age_s } => {
                asked(format!("the TXT record says {version} but is {} old", clock::ago(*age_s)))
            }
            Doubt::Early { off_s, in_directory } => {
                let whose = if *in_directory { "the time in dns.txt" } else { "the TXT record's time" };
                Self { kind: Kind::Doubt, ..Self::clock(*off_s, whose) }
            }
            Doubt::Unread { why } => Self::new(Kind::Doubt, why),
            Doubt::Ahead { recorded, found } => {
                let what = format!("the TXT record says {recorded}, and the file is newer: {found} is taken");
                Self::new(Kind::Doubt, what).mend(
                    "nameserver = \"9.9.9.9\", or txt_record = \"none\", if a resolver on the way keeps it",
                )
            }
            Doubt::Absurd { evidence: Evidence::Header, version } => Self::new(
                Kind::Doubt,
                format!("the header says {version}, absurdly far ahead; only the whole file is believed"),
            ),
            Doubt::Absurd { evidence, version } => {
                asked(format!("the {evidence} says {version}, absurdly far ahead"))
            }
            Doubt::Older { version, held } => {
                Self::new(Kind::Doubt, format!("{version} is older than {held} that is held"))
            }
        }
        .warning()
    }
}

impl Trouble {
    /// This machine's clock is off by another's, seconds ahead.
    pub fn clock(off_s: i64, whose: &str) -> Self {
        let why = "the age of records and the validity of certificates are judged by it";
        Self::new(Kind::Clock, clock::words(off_s, whose)).because(why).mend(clock::SET_IT).warning()
    }

    /// The newest version cannot be had.
    pub fn behind(newest: u32, published: Option<u32>) -> Self {
        let published = published.map_or("nothing".into(), |version| version.to_string());
        let what = format!("version {newest} cannot be had yet; {published} stays published");
        Self::new(Kind::Behind, what).mend("`cvdmirror sync` says what came of each file")
    }

    /// A full CVD that came is older than the one held.
    pub fn older(origin: &str, found: u32, held: u32) -> Self {
        let what = format!("{origin} holds version {found}, older than {held} that is held; not taken");
        Self::new(Kind::Older, what).warning()
    }

    /// What came does not verify.
    pub fn refused(name: &dyn std::fmt::Display, origin: &str, why: &dyn std::fmt::Display) -> Self {
        Self::new(Kind::Refused, format!("{name} from {origin} does not verify; not taken")).because(why)
    }

    /// A CDIFF came empty for the first time: nobody signed that.
    pub fn empty_cdiff(name: &dyn std::fmt::Display) -> Self {
        Self::new(Kind::Doubt, format!("{name} came empty; not known until a later check sees that again"))
            .warning()
    }

    /// A CDIFF does not lead to its version from what is held, or not as far as can be told here.
    pub fn leads_nowhere(name: &dyn std::fmt::Display, why: Option<&dyn std::fmt::Display>) -> Self {
        let trouble =
            Self::new(Kind::Refused, format!("{name} does not lead to its version; not advertised"));
        match why {
            Some(why) => trouble.because(why),
            None => trouble,
        }
    }

    /// The source answered with an older version than was asked for.
    pub fn lagged(asked: u32, found: u32) -> Self {
        Self::new(Kind::Older, format!("asked for {asked}, got {found}")).warning()
    }

    /// What came could not be sealed.
    pub fn unsealed(why: &Self) -> Self {
        Self { what: format!("came, and is not stored: {}", why.what), ..why.clone() }
    }

    /// A full CVD could not be rebuilt; it is fetched instead.
    pub fn not_rebuilt(why: &dyn std::fmt::Display) -> Self {
        Self::new(Kind::Rebuild, "not rebuilt").because(why).warning()
    }
}
