//! A clamd.conf, as far as it says how clamd comes to load what is installed; and those of the clamds that run here.
use super::clamd::Address;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where ClamAV's packages put it.
pub(super) const DEFAULT: &str = "/etc/clamav/clamd.conf";
const DEFAULT_DIRECTORY: &str = "/var/lib/clamav";
const DEFAULT_SELF_CHECK_S: u64 = 600;

/// The text of one.
#[derive(Clone, Debug)]
pub struct ClamdConf<'a>(pub &'a str);

impl ClamdConf<'_> {
    /// As ClamAV reads it: an option a line, its value after spaces; the last one wins.
    pub fn value(&self, name: &str) -> Option<String> {
        let lines = self.0.lines().map(str::trim).filter(|line| !line.starts_with('#'));
        let mut values = lines.filter_map(|line| line.strip_prefix(name)?.strip_prefix([' ', '\t']));
        values.next_back().map(|value| value.trim().trim_matches('"').to_owned())
    }

    /// Whether an option is on.
    pub fn is_on(&self, name: &str, default: bool) -> bool {
        let on = |value: String| matches!(&*value.to_ascii_lowercase(), "yes" | "true" | "1");
        self.value(name).map_or(default, on)
    }

    /// What it loads.
    pub fn directory(&self) -> String {
        self.value("DatabaseDirectory").unwrap_or_else(|| DEFAULT_DIRECTORY.into())
    }

    /// Where it listens.
    pub fn addresses(&self) -> Vec<Address> {
        let socket = self.value("LocalSocket").map(|path| Address::Unix(path.into()));
        let port = self.value("TCPSocket").map(|port| {
            let host = self.value("TCPAddr").unwrap_or_else(|| "127.0.0.1".into());
            Address::Tcp(format!("{host}:{port}"))
        });
        socket.into_iter().chain(port).collect()
    }

    /// How often it looks by itself whether its files are others, seconds; 0 for never, none where that is no number.
    pub fn self_check_s(&self) -> Option<u64> {
        self.value("SelfCheck").map_or(Some(DEFAULT_SELF_CHECK_S), |seconds| seconds.parse().ok())
    }
}

/// The configuration that a clamd runs with, by its process.
pub(super) fn of_process(pid: impl std::fmt::Display) -> Option<PathBuf> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let mut words = line.split(|&byte| byte == 0).map(String::from_utf8_lossy);
    if !words.next()?.ends_with("clamd") {
        return None;
    }
    while let Some(word) = words.next() {
        if let Some(path) = word.strip_prefix("--config-file=") {
            return Some(path.into());
        }
        if word == "-c" || word == "--config-file" {
            return words.next().map(|path| PathBuf::from(&*path));
        }
    }
    Some(DEFAULT.into())
}

/// A clamd that runs here and loads a directory: how often it looks at that by itself, as [`ClamdConf::self_check_s`]
/// says, and where it listens. What cannot be read of other users' processes is not known.
pub(super) fn loading(directory: &Path) -> Option<(Option<u64>, Option<Address>)> {
    let directory = directory.canonicalize().ok()?;
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes.into_iter().find_map(|process| {
        let text = fs::read_to_string(of_process(process.file_name().display())?).ok()?;
        let conf = ClamdConf(&text);
        let is_that = Path::new(&conf.directory()).canonicalize().is_ok_and(|loads| loads == directory);
        is_that.then(|| (conf.self_check_s(), conf.addresses().into_iter().next()))
    })
}
