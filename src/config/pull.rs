//! The settings of `pull`.
use super::{ConfigError, Given, WEEK, value};
use crate::{
    clients::{is_label, own_label},
    pull::{Form, clamd::Address},
};
use std::{path::PathBuf, time::Duration};

/// What `pull` does.
#[derive(Clone, Debug)]
pub struct PullConfig {
    /// The mirror; its URL may hold a user and a password.
    pub from: Option<reqwest::Url>,
    /// The database directory.
    pub into: PathBuf,
    /// How often; once without one.
    pub interval: Option<Duration>,
    /// The form in which databases are installed, if it is to be another than the one that is held.
    pub form: Option<Form>,
    /// Certificates of the CA that must have signed what is installed.
    pub ca: Option<PathBuf>,
    /// Who is told.
    pub clamd: Option<Address>,
    /// Longest that clamd may take to load.
    pub clamd_timeout: Duration,
    /// Whether a lower version is taken.
    pub allow_older: bool,
    /// How this host calls itself to the mirror, which is told what it has; none: it is not told.
    pub report_as: Option<String>,
    /// Scanned before anything is installed.
    pub test: Option<PathBuf>,
}

impl PullConfig {
    pub(super) fn read(get: &Given<'_>) -> Result<Self, ConfigError> {
        let once = get.required("once", value::switch)?;
        let interval = get.optional("interval", |s| value::duration(s, WEEK))?;
        let label = get.optional("report_as", |s| match is_label(s) {
            true => Ok(s.to_owned()),
            false => Err("is no name of 1 to 64 letters, digits, dots, underscores and hyphens".into()),
        })?;
        let label = label.unwrap_or_else(own_label);
        let form = get.optional("as", |s| match s {
            "cvd" => Ok(Form::Cvd),
            "cld" => Ok(Form::Cld),
            _ => Err("is neither cvd nor cld".into()),
        })?;
        let ca = get.optional("ca", value::path)?;
        if ca.is_some() && form != Some(Form::Cld) {
            let why = "ca is, and a site's CA signs CLDs alone: write as = \"cld\", or --as cld, as well";
            return Err(ConfigError::Missing { key: "as = \"cld\"", why });
        }
        Ok(Self {
            from: get.optional("from", value::mirror)?,
            into: get.required("into", value::path)?,
            interval: interval.filter(|_| !once),
            form,
            ca,
            clamd: get.required("clamd", |s| match s {
                "none" => Ok(None),
                s => Address::parse(s).map(Some).ok_or_else(|| {
                    "is no socket; write its path, as /run/clamav/clamd.ctl, or HOST:PORT, or none".into()
                }),
            })?,
            clamd_timeout: get.required("clamd_timeout", |s| value::duration(s, super::HOUR))?,
            allow_older: get.required("allow_older", value::switch)?,
            report_as: get.required("report", value::switch)?.then_some(label),
            test: get.optional("test", value::path)?,
        })
    }
}
