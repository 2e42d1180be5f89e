//! Settings: one table gives every command-line option, environment variable and file key.
//!
//! A setting given on the command line wins over `CVDMIRROR_<OPTION>`, that over the file, that over the default.
//! Nothing is ignored: an unknown key, a value that does not read and a key given twice are errors that say
//! where, and what to write.
mod error;
mod file;
mod given;
mod logs;
mod pull;
mod settings;
mod value;

pub use error::{ConfigError, Origin, ValueError};
pub use logs::{AccessLogTo, LogFormat};
pub use pull::PullConfig;
pub use settings::{SETTINGS, Setting};

use crate::{
    cvd::{Database, TrustKeys},
    http::{Aliases, Proxy, TlsFiles},
    mirror::retention::Retention,
    source::{
        downloader::{Setup, Tool},
        login::Login,
    },
};
use clap::{Arg, ArgMatches, parser::ValueSource};
use given::Given;
use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

/// Talos' content network.
const TALOS: &str = "https://database.clamav.net";
/// Talos' record: valid for Talos' source only.
const TALOS_RECORD: &str = "current.cvd.clamav.net";
/// Where ClamAV's packages put their certificates.
const CLAMAV_CERTS: &str = "/etc/clamav/certs";
const HOUR: Duration = Duration::from_secs(3600);
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
const YEAR: Duration = Duration::from_secs(366 * 24 * 3600);

/// How the variables begin.
const VARIABLES: &str = "CVDMIRROR_";

/// The settings file where `--config` names no other, if it exists; the package installs it.
pub const SYSTEM_FILE: &str = "/etc/cvdmirror/cvdmirror.toml";

/// Where files come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SourceSpec {
    /// An HTTP upstream; its URL holds no user and no password.
    Http(reqwest::Url),
    /// A directory that another program fills.
    Directory(PathBuf),
    /// A downloader that is run here.
    Downloader(Tool),
}

impl fmt::Display for SourceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(url) => url.fmt(f),
            Self::Directory(path) => write!(f, "dir:{}", path.display()),
            Self::Downloader(tool) => tool.fmt(f),
        }
    }
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
    /// User and password for an HTTP source.
    pub source_login: Option<Login>,
    /// Further hosts to which an HTTP source may redirect, in a URL's spelling.
    pub redirect_hosts: Vec<String>,
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
    /// Whether CLDs are made and published.
    pub publish_cld: bool,
    /// The directory of the CA whose signer signs them.
    pub site_ca: Option<PathBuf>,
    /// CDIFFs fetched at first that lead to the newest CVD.
    pub backfill: u32,
    /// What is kept, and for how long.
    pub retention: Retention,
    /// Longest since a confirmation before what is published counts as stale.
    pub max_age: Duration,
    /// How old the newest build of a database may be, seconds.
    pub max_build_age_s: BTreeMap<Database, u64>,
    /// Longest wait for the source.
    pub stall_timeout: Duration,
    /// How long an installation that asked is remembered; `None`: none is.
    pub remember_clients: Option<Duration>,
    /// Whether hosts may tell of themselves.
    pub client_reports: bool,
    /// How the log reads.
    pub log_format: LogFormat,
    /// Where requests are logged.
    pub access_log: AccessLogTo,
    /// How a downloader is run: freshclam, unless the source is another.
    pub downloader: Setup,
    /// Whom the proxy and pull-through ask.
    pub upstream: reqwest::Url,
    /// The hosts for which clients may have this mirror as their proxy; `None`: it is none.
    pub proxy: Option<Proxy>,
    /// Whether what is not held is fetched when a client asks for it.
    pub pull_through: bool,
    /// Where https is served, and with what.
    pub tls: Option<(SocketAddr, TlsFiles)>,
    /// Most memory for objects that are asked for now, bytes.
    pub hot_memory: u64,
    /// What `pull` does.
    pub pull: PullConfig,
    given: BTreeMap<&'static str, (Vec<String>, Origin)>,
}

/// The options of the command line, made from the table.
pub fn args() -> impl Iterator<Item = Arg> {
    let config = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .env("CVDMIRROR_CONFIG")
        .help(format!("Settings file (TOML) [default: {SYSTEM_FILE}, if it is there]"))
        .display_order(950)
        .global(true);
    let settings = SETTINGS.iter().filter(|setting| setting.command.is_none());
    std::iter::once(config).chain(settings.map(|setting| setting.arg().global(true)))
}

/// The options that only one command has.
pub fn args_of(command: &'static str) -> impl Iterator<Item = Arg> {
    SETTINGS.iter().filter(move |setting| setting.command == Some(command)).map(Setting::arg)
}

fn variable(key: &str) -> String {
    format!("{VARIABLES}{}", key.to_ascii_uppercase())
}

/// Refuses a variable whose name is similar to a setting's: a misspelling. Any other is another program's.
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
        // A command has its own options beside those that all have.
        let matches = matches.subcommand().map_or(matches, |(_, matches)| matches);
        for setting in SETTINGS {
            if matches.try_contains_id(setting.key).is_err() {
                continue;
            }
            let origin = match matches.value_source(setting.key) {
                Some(ValueSource::CommandLine) => Origin::CommandLine,
                Some(ValueSource::EnvVariable) => Origin::Environment,
                _ => continue,
            };
            let values = matches.get_many::<String>(setting.key).unwrap_or_default().cloned().collect();
            given.insert(setting.key, (values, origin));
        }
        let last = |key: &str| given.get(key).and_then(|(values, _)| values.last()).map(String::as_str);
        if last("source").is_none() {
            let found = Tool::Freshclam.find(last("freshclam_path").map(Path::new)).is_some();
            let (source, origin) = match found {
                true => (Tool::Freshclam.to_string(), Origin::Installed),
                false => (TALOS.to_owned(), Origin::NotInstalled),
            };
            given.insert("source", (vec![source], origin));
        }
        let last = |key: &str| given.get(key).and_then(|(values, _)| values.last()).map(String::as_str);
        // A downloader's source is the upstream.
        let asked = last("source").filter(|source| value::tool(source).is_none());
        let asked = asked.unwrap_or_else(|| last("upstream").unwrap_or(TALOS));
        if !value::is_talos(asked) {
            given.entry("txt_record").or_insert_with(|| (vec!["none".into()], Origin::NotTalos));
        }
        if value::has_certificates(CLAMAV_CERTS.as_ref()) {
            given.entry("certs_dir").or_insert_with(|| (vec![CLAMAV_CERTS.into()], Origin::Default));
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
        let missing = |key, why| Err(ConfigError::Missing { key, why });
        let dns = match (dns_listen, dns_zone) {
            (Some(address), Some(zone)) => Some((address, zone)),
            (None, None) => None,
            (Some(_), None) => return missing("dns_zone", "dns_listen is; set both or neither"),
            (None, Some(_)) => return missing("dns_listen", "dns_zone is; set both or neither"),
        };
        let txt_record = get.required("txt_record", value::zone)?;
        let (source, source_login) = get.required("source", value::source)?;
        let remember_clients = get.required("remember_clients", value::remember_clients)?;
        let client_reports = get.required("client_reports", value::switch)?;
        if client_reports && remember_clients.is_none() {
            return missing(
                "remember_clients",
                "client_reports is; write for how long: remember_clients = \"14d\"",
            );
        }
        let keep = get.all("keep_cvds", value::keep_cvds)?;
        let retention = Retention {
            cvds: keep.iter().rev().find_map(|(d, count)| d.is_none().then_some(*count)).unwrap_or(2),
            cvds_of: keep.into_iter().filter_map(|(d, count)| Some((d?, count))).collect(),
            cdiffs_s: 86_400 * u64::from(get.required("keep_cdiff_days", |s| value::count(s, 36_500))?),
            grace_s: get.required("grace", |s| value::duration(s, YEAR))?.as_secs(),
        };
        let client_ca = get.optional("tls_client_ca", value::path)?;
        let tls_listen = get.required("tls_listen", value::socket)?;
        let tls = match (get.optional("tls_cert", value::path)?, get.optional("tls_key", value::path)?) {
            (Some(cert), Some(key)) => Some((tls_listen, TlsFiles { cert, key, client_ca })),
            (None, None) if client_ca.is_none() => None,
            (None, _) => return missing("tls_cert", "tls_key or tls_client_ca is; set it as well"),
            (_, None) => return missing("tls_key", "tls_cert is; set both or neither"),
        };
        let redirect_hosts = get.all("redirect_hosts", value::host)?;
        let upstream = get.required("upstream", value::mirror)?;
        let (is_proxy, tunnel) =
            (get.required("proxy", value::switch)?, get.required("proxy_tunnel", value::switch)?);
        if tunnel && !is_proxy {
            return missing("proxy", "proxy_tunnel is; set both or neither");
        }
        let asked = match &source {
            SourceSpec::Http(url) => Some(url),
            SourceSpec::Directory(_) | SourceSpec::Downloader(_) => None,
        };
        let proxy =
            is_proxy.then(|| Proxy::new([&upstream].into_iter().chain(asked), tunnel, &redirect_hosts));
        let databases: Vec<Database> = get.all("database", |s| {
            s.parse().map_err(|_| "is no database name; write letters, digits and _, as in daily".into())
        })?;
        let nameserver = get.optional("nameserver", value::nameserver)?;
        let publish_cld = get.required("publish_cld", value::switch)?;
        let site_ca = get.optional("site_ca", value::path)?;
        if site_ca.is_some() && !publish_cld {
            return missing("publish_cld", "site_ca is, which signs CLDs alone; set both or neither");
        }
        let tool = if let SourceSpec::Downloader(tool) = source { tool } else { Tool::Freshclam };
        let path = match tool {
            Tool::Freshclam => "freshclam_path",
            Tool::Cvdupdate => "cvdupdate_path",
        };
        let downloader = Setup {
            is_default: matches!(given.get("source"), Some((_, Origin::Installed))),
            tool,
            program: get.optional(path, value::path)?,
            user: get.optional("downloader_user", |s| Ok(s.to_owned()))?,
            timeout: get.required("downloader_timeout", |s| value::duration(s, WEEK))?,
            upstream: upstream.clone(),
            databases: databases.clone(),
            nameserver,
        };
        Ok(Self {
            data_dir: match get.optional("data_dir", value::path)? {
                Some(dir) => dir,
                None => default_data_dir()?,
            },
            databases,
            source,
            source_login,
            redirect_hosts,
            txt_record: (txt_record != "none").then_some(txt_record),
            nameserver,
            certs_dir: get.optional("certs_dir", value::path)?.filter(|dir| dir.as_os_str() != "none"),
            trust_keys: get.optional("trust_keys", value::trust_keys)?.unwrap_or_else(TrustKeys::talos),
            listen: get.addresses("listen")?,
            check_interval: get.required("check_interval", |s| value::duration(s, WEEK))?,
            dns,
            aliases: get.required("aliases", |s| match s {
                "redirect" => Ok(Aliases::Redirect),
                "direct" => Ok(Aliases::Direct),
                _ => Err("is neither redirect nor direct".into()),
            })?,
            publish_cld,
            site_ca,
            backfill: get.required("backfill", |s| value::count(s, 1000))?,
            retention,
            max_age: get.required("max_age", |s| value::duration(s, YEAR))?,
            max_build_age_s: get
                .all("max_build_age", value::max_build_age)?
                .into_iter()
                .filter_map(|(database, age)| Some((database, age?.as_secs())))
                .collect(),
            stall_timeout: get.required("stall_timeout", |s| value::duration(s, HOUR))?,
            remember_clients,
            client_reports,
            log_format: get.required("log_format", logs::format)?,
            access_log: get.required("access_log", logs::access_log)?,
            downloader,
            upstream,
            proxy,
            pull_through: get.required("pull_through", value::switch)?,
            tls,
            hot_memory: get.required("hot_memory", value::size)?,
            pull: PullConfig::read(&get)?,
            given,
        })
    }

    /// Why files come from where they do, where nobody said from where; else empty.
    pub fn source_reason(&self) -> &'static str {
        match self.given.get("source") {
            Some((_, Origin::Installed)) => ": it is installed, and no source is set",
            Some((_, Origin::NotInstalled)) => ": no source is set, nor freshclam installed",
            _ => "",
        }
    }

    /// The TXT record, where it is set and not only the default, which names the content network's own.
    pub fn given_txt_record(&self) -> Option<&str> {
        let (_, origin) = self.given.get("txt_record")?;
        let is_set = matches!(origin, Origin::CommandLine | Origin::Environment | Origin::File);
        self.txt_record.as_deref().filter(|_| is_set)
    }

    /// Directories that the settings name and that cannot be read, in words.
    pub fn absent(&self) -> Vec<String> {
        let source = match &self.source {
            SourceSpec::Directory(path) => Some(path),
            SourceSpec::Http(_) | SourceSpec::Downloader(_) => None,
        };
        let named =
            [("source", source), ("certs_dir", self.certs_dir.as_ref()), ("site_ca", self.site_ca.as_ref())];
        let unread = |(key, path): (&str, Option<&PathBuf>)| {
            let (path, e) = path.and_then(|path| Some((path, std::fs::read_dir(path).err()?)))?;
            Some(format!("{key}: {}: {e}; write a directory that can be read", path.display()))
        };
        named.into_iter().filter_map(unread).collect()
    }

    /// Whether the mirror may get its own TXT record as the source's: it asks the system's resolver for the name that it
    /// serves itself, and a site that follows our advice has its resolver forward that name here.
    pub fn may_ask_itself(&self) -> bool {
        let Some((address, zone)) = &self.dns else { return false };
        let asked = self.txt_record.as_ref().filter(|_| !matches!(self.source, SourceSpec::Directory(_)));
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
            let given = self.given.get(setting.key).filter(|(_, origin)| !origin.is_default());
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

    /// Every setting with its value and where it was given, in the form of a settings file; without the source's password.
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
