//! Settings: one table gives every command-line option, environment variable and file key.
//!
//! A setting given on the command line wins over `CVDMIRROR_<OPTION>`, that over the file, that over the default.
//! Nothing is ignored: an unknown key, a value that does not read, a key given twice is an error that names
//! where it stands and what to write.
mod error;
mod file;
mod logs;
mod value;

pub use error::{ConfigError, Origin};
pub use logs::{AccessLogTo, LogFormat};

use crate::{
    cvd::{Database, TrustKeys},
    http::Aliases,
    mirror::retention::Retention,
    source::login::Login,
};
use clap::{Arg, ArgAction, ArgMatches, parser::ValueSource};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// Its file key; the option is the same with `-` for `_`, the variable in capitals after `CVDMIRROR_`.
    pub key: &'static str,
    /// What stands for its value in help.
    value: &'static str,
    /// Its default, as it would be written; empty for none.
    default: &'static str,
    /// Whether it may be given several times (in the file: a list; in the environment: with commas).
    repeats: bool,
    help: &'static str,
}

impl Setting {
    /// Its value as it stands in a file, but for a password of the source, which is not shown.
    fn written(&self, values: &[String]) -> String {
        let written = |v: &String| toml::Value::String(value::shown(self.key, v)).to_string();
        let values: Vec<String> = values.iter().map(written).collect();
        let values = values.join(", ");
        if self.repeats { format!("[{values}]") } else { values }
    }
}

const fn one(key: &'static str, value: &'static str, default: &'static str, help: &'static str) -> Setting {
    Setting { key, value, default, repeats: false, help }
}

const fn many(key: &'static str, value: &'static str, default: &'static str, help: &'static str) -> Setting {
    Setting { key, value, default, repeats: true, help }
}

/// Every setting.
pub const SETTINGS: &[Setting] = &[
    one("data_dir", "DIR", "", "Where everything is kept [default: $XDG_DATA_HOME/cvdmirror]"),
    many("database", "NAME", "main,daily,bytecode", "Databases to mirror"),
    one("source", "URL|dir:PATH", "https://database.clamav.net", "Where files come from"),
    one("txt_record", "NAME|none", "current.cvd.clamav.net", "TXT record that names the newest versions"),
    one("nameserver", "IP[:PORT]", "", "Asked for the TXT record instead of the system's resolver"),
    one("certs_dir", "DIR", "", "CA certificates against which sign files are verified"),
    one(
        "trust_keys",
        "FILE",
        "",
        "Public keys that sign databases, instead of Talos' (for tests and private databases)",
    ),
    many("listen", "ADDR:PORT", "0.0.0.0:8080", "Where HTTP is served; port 0 takes a free one"),
    one("check_interval", "TIME", "15m", "How often the source is asked"),
    one("dns_listen", "ADDR:PORT", "", "Where the TXT record is served"),
    one("dns_zone", "ZONE", "", "Zone of the TXT record served: current.cvd.ZONE and <db>.cvd.ZONE"),
    one(
        "aliases",
        "redirect|direct",
        "redirect",
        "Whether /<db>.cvd points to the versioned name or answers itself",
    ),
    one("backfill", "COUNT", "30", "CDIFFs kept that led to the newest CVD, for clients that are behind"),
    many("keep_cvds", "COUNT|NAME:COUNT", "2", "Full CVDs kept of each database, or of one"),
    one("keep_cdiff_days", "DAYS", "90", "How long a CDIFF is kept"),
    one("grace", "TIME", "1h", "How long the file of a merged or dropped pack stays, for copies under way"),
    one(
        "max_age",
        "TIME",
        "12h",
        "Longest since the source confirmed what is published before /health says stale",
    ),
    one("stall_timeout", "TIME", "20s", "Longest wait for the source, and for the next piece of a body"),
    one(
        "remember_clients",
        "off|TIME",
        "off",
        "How long an installation that asked is remembered, by a keyed hash of its UUID, for `status --clients`",
    ),
    one("log_format", "text|json", "text", "How the log on standard error reads"),
    one(
        "access_log",
        "off|-|FILE",
        "off",
        "Where each request is logged in the combined format: standard output, or a file that SIGHUP reopens",
    ),
];

const HOUR: Duration = Duration::from_secs(3600);
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
const YEAR: Duration = Duration::from_secs(366 * 24 * 3600);

/// How the variables begin.
const VARIABLES: &str = "CVDMIRROR_";

/// Read where no other file is named, if it is there: a package puts it there.
pub const SYSTEM_FILE: &str = "/etc/cvdmirror/cvdmirror.toml";

/// Where files come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SourceSpec {
    /// An HTTP upstream; its URL holds no user and no password.
    Http(reqwest::Url),
    /// A directory that another program fills.
    Directory(PathBuf),
}

/// Every setting, read.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Databases to mirror.
    pub databases: Vec<Database>,
    /// Where files come from.
    pub source: SourceSpec,
    /// What an HTTP source is told of who asks.
    pub source_login: Option<Login>,
    /// The TXT record that names the newest versions; `None`: the files' headers are asked.
    pub txt_record: Option<String>,
    /// Asked instead of the system's resolver.
    pub nameserver: Option<SocketAddr>,
    /// CA certificates for sign files.
    pub certs_dir: Option<PathBuf>,
    /// Public keys that sign databases.
    pub trust_keys: TrustKeys,
    /// Where HTTP is served.
    pub listen: Vec<SocketAddr>,
    /// How often the source is asked.
    pub check_interval: Duration,
    /// Where the TXT record is served, and its zone.
    pub dns: Option<(SocketAddr, String)>,
    /// How `/<db>.cvd` answers.
    pub aliases: Aliases,
    /// CDIFFs kept that led to the newest CVD.
    pub backfill: u32,
    /// What is kept, and for how long.
    pub retention: Retention,
    /// Longest since a confirmation before what is published counts as stale.
    pub max_age: Duration,
    /// Longest wait for the source.
    pub stall_timeout: Duration,
    /// How long an installation that asked is remembered; `None`: none is.
    pub remember_clients: Option<Duration>,
    /// How the log reads.
    pub log_format: LogFormat,
    /// Where requests are logged.
    pub access_log: AccessLogTo,
    given: BTreeMap<&'static str, (Vec<String>, Origin)>,
}

/// The options of the command line, made from the table.
pub fn args() -> impl Iterator<Item = Arg> {
    let config = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .env("CVDMIRROR_CONFIG")
        .help(format!("Settings file (TOML) [default: {SYSTEM_FILE}, if it is there]"))
        .global(true);
    let settings = SETTINGS.iter().map(|setting| {
        let default = if setting.default.is_empty() {
            String::new()
        } else {
            format!(" [default: {}]", setting.default.replace(',', " "))
        };
        let arg = Arg::new(setting.key)
            .long(setting.key.replace('_', "-"))
            .value_name(setting.value)
            .env(variable(setting.key))
            .hide_env(true)
            .help(format!(
                "{}{default}{}",
                setting.help,
                if setting.repeats { " [repeatable, or with commas]" } else { "" }
            ))
            .help_heading("Settings")
            .global(true);
        if setting.repeats { arg.action(ArgAction::Append).value_delimiter(',') } else { arg }
    });
    std::iter::once(config).chain(settings)
}

fn variable(key: &str) -> String {
    format!("{VARIABLES}{}", key.to_ascii_uppercase())
}

/// A variable that is nearly a setting's was meant to be it; one unlike any is another program's.
fn check_variables() -> Result<(), ConfigError> {
    for (name, _) in std::env::vars_os() {
        let Some(key) = name.to_str().and_then(|name| name.strip_prefix(VARIABLES)) else { continue };
        if key == "CONFIG" || SETTINGS.iter().any(|s| *variable(s.key) == *name) {
            continue;
        }
        if let Some(nearest) = file::nearest(&key.to_ascii_lowercase()) {
            let name = name.to_string_lossy().into_owned();
            return Err(ConfigError::UnknownVariable { name, nearest });
        }
    }
    Ok(())
}

impl Config {
    /// Reads what was given, and the file it names.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn from_matches(matches: &ArgMatches) -> Result<Self, ConfigError> {
        check_variables()?;
        let mut given = BTreeMap::new();
        let system = || Some(PathBuf::from(SYSTEM_FILE)).filter(|path| path.exists());
        let path = matches.get_one::<String>("config").map(PathBuf::from).or_else(system);
        if let Some(path) = &path {
            file::read(path, &mut given)?;
        }
        for setting in SETTINGS {
            let origin = match matches.value_source(setting.key) {
                Some(ValueSource::CommandLine) => Origin::CommandLine,
                Some(ValueSource::EnvVariable) => Origin::Environment,
                _ => continue,
            };
            let values = matches.get_many::<String>(setting.key).unwrap_or_default().cloned().collect();
            given.insert(setting.key, (values, origin));
        }
        for setting in SETTINGS.iter().filter(|setting| !setting.default.is_empty()) {
            let values = || setting.default.split(',').map(str::to_owned).collect();
            given.entry(setting.key).or_insert_with(|| (values(), Origin::Default));
        }
        Self::read(given, path)
    }

    fn read(
        given: BTreeMap<&'static str, (Vec<String>, Origin)>,
        file: Option<PathBuf>,
    ) -> Result<Self, ConfigError> {
        let get = Given { given: &given, file };
        let dns_listen = get.optional("dns_listen", value::socket)?;
        let dns_zone = get.optional("dns_zone", value::zone)?;
        let dns = match (dns_listen, dns_zone) {
            (Some(address), Some(zone)) => Some((address, zone)),
            (None, None) => None,
            (Some(_), None) => {
                return Err(ConfigError::Missing {
                    key: "dns_zone",
                    why: "dns_listen is; set both or neither",
                });
            }
            (None, Some(_)) => {
                return Err(ConfigError::Missing {
                    key: "dns_listen",
                    why: "dns_zone is; set both or neither",
                });
            }
        };
        let txt_record = get.required("txt_record", value::zone)?;
        let (source, source_login) = get.required("source", value::source)?;
        let keep = get.all("keep_cvds", value::keep_cvds)?;
        let retention = Retention {
            cvds: keep.iter().rev().find_map(|(d, count)| d.is_none().then_some(*count)).unwrap_or(2),
            cvds_of: keep.into_iter().filter_map(|(d, count)| Some((d?, count))).collect(),
            cdiffs_s: 86_400 * u64::from(get.required("keep_cdiff_days", |s| value::count(s, 36_500))?),
            grace_s: get.required("grace", |s| value::duration(s, YEAR))?.as_secs(),
        };
        Ok(Self {
            data_dir: match get.optional("data_dir", value::path)? {
                Some(dir) => dir,
                None => default_data_dir()?,
            },
            databases: get.all("database", |s| {
                s.parse().map_err(|_| "is no database name; write letters, digits and _, as in daily".into())
            })?,
            source,
            source_login,
            txt_record: (txt_record != "none").then_some(txt_record),
            nameserver: get.optional("nameserver", value::nameserver)?,
            certs_dir: get.optional("certs_dir", value::path)?,
            trust_keys: get.optional("trust_keys", value::trust_keys)?.unwrap_or_else(TrustKeys::talos),
            listen: get.addresses("listen")?,
            check_interval: get.required("check_interval", |s| value::duration(s, WEEK))?,
            dns,
            aliases: get.required("aliases", |s| match s {
                "redirect" => Ok(Aliases::Redirect),
                "direct" => Ok(Aliases::Direct),
                _ => Err("is neither redirect nor direct".into()),
            })?,
            backfill: get.required("backfill", |s| value::count(s, 1000))?,
            retention,
            max_age: get.required("max_age", |s| value::duration(s, YEAR))?,
            stall_timeout: get.required("stall_timeout", |s| value::duration(s, HOUR))?,
            remember_clients: get.required("remember_clients", value::remember_clients)?,
            log_format: get.required("log_format", logs::format)?,
            access_log: get.required("access_log", logs::access_log)?,
            given,
        })
    }

    /// What the settings name and is not there, in words.
    pub fn absent(&self) -> Vec<String> {
        let source = match &self.source {
            SourceSpec::Directory(path) => Some(path),
            SourceSpec::Http(_) => None,
        };
        let named = [("source", source), ("certs_dir", self.certs_dir.as_ref())];
        let unread = |(key, path): (&str, Option<&PathBuf>)| {
            let (path, e) = path.and_then(|path| Some((path, std::fs::read_dir(path).err()?)))?;
            Some(format!("{key}: {}: {e}; write a directory that can be read", path.display()))
        };
        named.into_iter().filter_map(unread).collect()
    }

    /// Whether the mirror could be led to its own TXT record: it asks for the very name that it serves, through the
    /// system's resolver, which a site that follows our advice has forward that name here.
    pub fn may_ask_itself(&self) -> bool {
        let Some((address, zone)) = &self.dns else { return false };
        let asked = self.txt_record.as_ref().filter(|_| matches!(self.source, SourceSpec::Http(_)));
        asked.is_some_and(|asked| *asked == format!("current.cvd.{zone}"))
            && self.nameserver.is_none_or(|nameserver| nameserver == *address)
    }

    /// A settings file with every setting and what it is for: those with their defaults commented out.
    pub fn template(&self) -> String {
        let mut text = String::from(
            "# Settings of cvdmirror. A line that is commented out says what is in force without it.\n\
             # `cvdmirror config check` says whether the file is right, `cvdmirror config show` what is in force.\n",
        );
        for setting in SETTINGS {
            let given = self.given.get(setting.key).filter(|(_, origin)| *origin != Origin::Default);
            let values: Vec<String> = match given {
                Some((values, _)) => values.clone(),
                None if setting.default.is_empty() => vec![setting.value.to_owned()],
                None => setting.default.split(',').map(str::to_owned).collect(),
            };
            let mark = if given.is_some() { "" } else { "#" };
            let unset =
                if given.is_none() && setting.default.is_empty() { " Not set by default." } else { "" };
            let help = setting.help.split(" [default").next().unwrap_or_default();
            let _ = writeln!(text, "\n# {help}.{unset}");
            let _ = writeln!(text, "{mark}{} = {}", setting.key, setting.written(&values));
        }
        text
    }

    /// Every setting with its value and where it was given, as a file that could be read back, but for a password of
    /// the source, which is not shown.
    pub fn show(&self) -> String {
        let mut text = String::new();
        for setting in SETTINGS {
            let (values, origin) = match self.given.get(setting.key) {
                Some((values, origin)) => (values.clone(), *origin),
                None if setting.key == "data_dir" => {
                    (vec![self.data_dir.display().to_string()], Origin::Default)
                }
                None => {
                    let _ = writeln!(text, "# {} is not set", setting.key);
                    continue;
                }
            };
            let _ = writeln!(text, "{} = {}  # {origin}", setting.key, setting.written(&values));
        }
        text
    }
}

/// Reads settings out of what was given.
struct Given<'a> {
    given: &'a BTreeMap<&'static str, (Vec<String>, Origin)>,
    /// The file of those that came from one.
    file: Option<PathBuf>,
}

impl Given<'_> {
    fn all<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>, ConfigError> {
        let Some((values, origin)) = self.given.get(key) else { return Ok(Vec::new()) };
        values
            .iter()
            .map(|value| {
                parse(value).map_err(|why| ConfigError::Value {
                    key,
                    value: value::shown(key, value),
                    origin: *origin,
                    file: self.file.clone(),
                    why,
                })
            })
            .collect()
    }

    /// Addresses, none of them twice; port 0 takes another one each time.
    fn addresses(&self, key: &'static str) -> Result<Vec<SocketAddr>, ConfigError> {
        let seen = RefCell::new(BTreeSet::new());
        self.all(key, |text| match value::socket(text)? {
            address if address.port() != 0 && !seen.borrow_mut().insert(address) => {
                Err("stands there twice; write it once".into())
            }
            address => Ok(address),
        })
    }

    fn optional<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        Ok(self.all(key, parse)?.pop())
    }

    fn required<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        self.optional(key, parse)?.ok_or(ConfigError::Missing { key, why: "has no default" })
    }
}

fn default_data_dir() -> Result<PathBuf, ConfigError> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("XDG_DATA_HOME")
        .filter(|dir| dir.is_absolute())
        .or_else(|| variable("HOME").map(|home| home.join(".local/share")))
        .map(|dir| dir.join("cvdmirror"))
        .ok_or(ConfigError::Missing {
            key: "data_dir",
            why: "neither is XDG_DATA_HOME nor HOME; give --data-dir",
        })
}
