//! The table of settings: each gives a command-line option, an environment variable and a file key.
use super::{TALOS, TALOS_RECORD, value, variable};
use clap::{Arg, ArgAction};

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// Its file key; the option is the same with `-` for `_`, the variable in capitals after `CVDMIRROR_`.
    pub key: &'static str,
    /// Its value's placeholder in help.
    pub(super) value: &'static str,
    /// Its default, as it would be written; empty for none.
    pub(super) default: &'static str,
    /// Whether it may be given several times (in the file: a list; in the environment: with commas).
    pub(super) repeats: bool,
    pub(super) help: &'static str,
    /// The one command that has it as an option; `None` where every command has it.
    pub(super) command: Option<&'static str>,
    /// Whether it is on or off: the option alone means on.
    pub(super) flag: bool,
}

impl Setting {
    /// Its value as a settings file has it; without the source's password.
    pub(super) fn written(&self, values: &[String]) -> String {
        let written = |v: &String| toml::Value::String(value::shown(self.key, v)).to_string();
        let values: Vec<String> = values.iter().map(written).collect();
        let values = values.join(", ");
        if self.repeats { format!("[{values}]") } else { values }
    }

    pub(super) fn arg(&self) -> Arg {
        let default = if self.default.is_empty() || self.flag {
            String::new()
        } else {
            format!(" [default: {}]", self.default.replace(',', " "))
        };
        let repeatable = if self.repeats { " [repeatable, or with commas]" } else { "" };
        let arg = Arg::new(self.key)
            .long(self.key.replace('_', "-"))
            .value_name(self.value)
            .env(variable(self.key))
            .hide_env(true)
            .help(format!("{}{default}{repeatable}", self.help))
            .help_heading("Settings");
        if self.repeats {
            arg.action(ArgAction::Append).value_delimiter(',')
        } else if self.flag {
            arg.num_args(0..=1).require_equals(true).default_missing_value("true")
        } else {
            arg
        }
    }
}

const fn one(key: &'static str, value: &'static str, default: &'static str, help: &'static str) -> Setting {
    Setting { key, value, default, repeats: false, help, command: None, flag: false }
}

const fn many(key: &'static str, value: &'static str, default: &'static str, help: &'static str) -> Setting {
    Setting { key, value, default, repeats: true, help, command: None, flag: false }
}

/// A setting of one command.
const fn of(command: &'static str, setting: Setting) -> Setting {
    Setting { command: Some(command), ..setting }
}

const fn flag(key: &'static str, help: &'static str) -> Setting {
    Setting { flag: true, ..one(key, "true|false", "false", help) }
}

/// Every setting.
pub const SETTINGS: &[Setting] = &[
    one("data_dir", "DIR", "", "Where everything is kept [default: $XDG_DATA_HOME/cvdmirror]"),
    many("database", "NAME", "main,daily,bytecode", "Databases to mirror"),
    one(
        "source",
        "URL|dir:PATH|freshclam|cvdupdate",
        "",
        "Where files come from, or what is run to get them; without it freshclam where it is installed, else \
         https://database.clamav.net",
    ),
    many("redirect_hosts", "HOST", "", "Hosts to which the source may redirect, besides its own"),
    one(
        "txt_record",
        "NAME|none",
        TALOS_RECORD,
        "TXT record that names the newest versions; none by default of a source that is not Talos'",
    ),
    one("nameserver", "IP[:PORT]", "", "Asked for the TXT record instead of the system's resolver"),
    one(
        "certs_dir",
        "DIR|none",
        "",
        "CA certificates against which sign files are verified; where it exists, /etc/clamav/certs is used without it",
    ),
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
    many(
        "max_build_age",
        "NAME:TIME|NAME:off",
        "daily:3d",
        "How old the newest build of a database may be before /health and status say that it is frozen",
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
    one("upstream", "URL", TALOS, "Whom freshclam, cvdupdate, the proxy and pull-through ask"),
    flag("pull_through", "Fetches a versioned name that is not held when a client asks for it"),
    flag("proxy", "Serves clients that have this mirror as their HTTP proxy, for the upstream's hosts alone"),
    flag("proxy_tunnel", "Passes their https to the upstream on, unseen"),
    one(
        "tls_cert",
        "FILE",
        "",
        "Certificate (PEM) with which https is served as well; read again when it changes, and at SIGHUP",
    ),
    one("tls_key", "FILE", "", "Its private key (PEM)"),
    one("tls_client_ca", "FILE", "", "Authorities (PEM) of client certificates, which are demanded then"),
    one("tls_listen", "ADDR:PORT", "0.0.0.0:8443", "Where https is served, with tls_cert and tls_key"),
    one("freshclam_path", "FILE", "", "The freshclam that is run, where it is not the one in PATH"),
    one("cvdupdate_path", "FILE", "", "The same for cvdupdate"),
    one(
        "downloader_user",
        "NAME",
        "",
        "As whom root runs them; without it, as the owner of the data directory",
    ),
    one("downloader_timeout", "TIME", "1h", "Longest that a run of them may take"),
    flag(
        "client_reports",
        "Takes what `pull --report` tells: host, engine, versions; kept as long as remember_clients says",
    ),
    flag(
        "publish_cld",
        "Makes a CLD of each newest CVD, and serves it as /<db>-<N>.cld and /<db>.cld, which freshclam prefers",
    ),
    one(
        "site_ca",
        "DIR",
        "",
        "The CA made by `ca init` whose signer signs these CLDs: /<db>-<N>.cld.sign, for `pull --ca`",
    ),
    one(
        "hot_memory",
        "SIZE",
        "512M",
        "Most memory for files that clients ask for now; never more than a quarter of what the process may use",
    ),
    of("pull", one("from", "URL", "", "The mirror that is followed")),
    of("pull", one("into", "DIR", "/var/lib/clamav", "The database directory that is kept up to date")),
    of("pull", flag("once", "Does one round, which is what happens without --interval too")),
    of("pull", one("interval", "TIME", "", "How often a round is done, until the process is ended")),
    of(
        "pull",
        one("as", "cvd|cld", "", "The form in which databases are installed [default: the one held, or cvd]"),
    ),
    of(
        "pull",
        one(
            "ca",
            "FILE",
            "",
            "Certificate of the site's CA, which must have signed each CLD (with --as cld)",
        ),
    ),
    of("pull", one("clamd", "SOCKET|HOST:PORT|none", "none", "The clamd that is to load what was installed")),
    of("pull", one("clamd_timeout", "TIME", "5m", "Longest that clamd may take to load")),
    of(
        "pull",
        flag("allow_older", "Installs a lower version than the one held, where the mirror has no other"),
    ),
    of(
        "pull",
        one("test", "FILE", "", "Scanned by clamscan with the new databases before they are installed"),
    ),
    of("pull", flag("report", "Tells the mirror this host's name, its engine, and the versions that it has")),
    of("pull", one("report_as", "NAME", "", "How this host calls itself then [default: its host name]")),
];
