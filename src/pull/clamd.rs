//! clamd: told to load anew, and asked until it has.
//!
//! Its VERSION names the version of the daily database that its engine was made of, so that says when a new daily is in
//! force. Of other databases only its log tells; it is read where the socket's owner says which configuration it runs
//! with. Where neither tells, clamd has been told and that is all that can be known.
use super::clamd_conf::{self, ClamdConf};
use std::{
    fmt,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

/// Longest wait for the answer to one command; clamd answers at once even while it loads, but for a moment.
const ANSWER: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);
const MAX_ANSWER_BYTES: u64 = 4096;
/// So much of its log since it was told to load is read.
const MAX_LOG_BYTES: u64 = 1 << 20;
/// clamd is gone for a moment while it is started anew; after so long it is taken for dead.
const GONE: Duration = Duration::from_secs(5);

/// Where clamd listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// A socket file.
    Unix(PathBuf),
    /// `HOST:PORT`.
    Tcp(String),
}

/// What clamd says it has loaded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Loaded {
    /// The engine, as `ClamAV 1.4.6`.
    pub engine: String,
    /// The version of the daily database; none without one.
    pub daily: Option<u32>,
}

/// How it is known that clamd has loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Proof {
    /// VERSION names the new daily version.
    Version(u32),
    /// Its log says so.
    Log,
    /// Nothing tells; it has been told.
    Told,
    /// It was not told, and looks by itself every so many seconds.
    SelfCheck(u64),
}

/// What goes wrong with clamd.
#[derive(Debug, thiserror::Error)]
pub enum ClamdError {
    /// No answer.
    #[error("clamd at {address}: {source}")]
    Unreachable {
        /// Where it should be.
        address: Address,
        /// The cause.
        source: io::Error,
    },
    /// An answer that is none.
    #[error("clamd at {address} answers {command} with {answer:?}")]
    Answer {
        /// Where it is.
        address: Address,
        /// What was asked.
        command: &'static str,
        /// What came.
        answer: String,
    },
    /// It did not load what was installed.
    #[error("clamd at {address} did not load it: {words}")]
    NotLoaded {
        /// Where it is.
        address: Address,
        /// What it says of that itself, or what is known.
        words: String,
    },
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(address) => f.write_str(address),
        }
    }
}

impl Address {
    /// Reads `HOST:PORT`, or a path.
    pub fn parse(text: &str) -> Option<Self> {
        if text.starts_with('/') {
            return Some(Self::Unix(text.into()));
        }
        let (host, port) = text.rsplit_once(':')?;
        let proper = !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0);
        proper.then(|| Self::Tcp(text.to_owned()))
    }

    /// What clamd has loaded.
    pub fn version(&self) -> Result<Loaded, ClamdError> {
        let answer = self.ask("VERSION")?;
        let mut fields = answer.split('/');
        match fields.next() {
            Some(engine) if engine.starts_with("ClamAV ") => Ok(Loaded {
                engine: engine.trim().to_owned(),
                daily: fields.next().and_then(|daily| daily.parse().ok()),
            }),
            _ => Err(ClamdError::Answer { address: self.clone(), command: "VERSION", answer }),
        }
    }

    /// Has clamd load anew, and waits until it has: daily in this version where one is given.
    pub fn reload(&self, daily: Option<u32>, longest: Duration) -> Result<Proof, ClamdError> {
        let before = self.version()?;
        let daily = daily.filter(|daily| before.daily != Some(*daily));
        let mut log = self.log();
        let answer = self.ask("RELOAD")?;
        if answer.trim() != "RELOADING" {
            return Err(ClamdError::Answer { address: self.clone(), command: "RELOAD", answer });
        }
        if daily.is_none() && log.is_none() {
            return Ok(Proof::Told);
        }
        let began = Instant::now();
        let mut gone_since = None;
        loop {
            // The log is read first: a failure is then known at once, and not after the longest wait.
            let said = log.as_mut().and_then(Log::outcome);
            if let Some(Said::Failed(words)) = said {
                return Err(ClamdError::NotLoaded { address: self.clone(), words });
            }
            match (self.version(), daily) {
                (Ok(now), Some(daily)) if now.daily == Some(daily) => return Ok(Proof::Version(daily)),
                (Ok(_), None) if matches!(said, Some(Said::Loaded)) => return Ok(Proof::Log),
                (Ok(_), _) => gone_since = None,
                (Err(e), _) => {
                    if gone_since.get_or_insert_with(Instant::now).elapsed() > GONE {
                        let words = format!("it is gone since it was told to load ({e})");
                        return Err(ClamdError::NotLoaded { address: self.clone(), words });
                    }
                }
            }
            if began.elapsed() > longest {
                let words = match daily {
                    Some(daily) => {
                        format!("after {} s it still does not name daily {daily}", longest.as_secs())
                    }
                    None => format!("after {} s its log does not say so", longest.as_secs()),
                };
                return Err(ClamdError::NotLoaded { address: self.clone(), words });
            }
            sleep(POLL);
        }
    }

    /// Asks one thing, in the form that ends with a zero byte (`zCOMMAND`).
    fn ask(&self, command: &'static str) -> Result<String, ClamdError> {
        let asked = match self {
            Self::Unix(path) => UnixStream::connect(path).and_then(|stream| {
                stream.set_read_timeout(Some(ANSWER))?;
                stream.set_write_timeout(Some(ANSWER))?;
                exchange(stream, command)
            }),
            Self::Tcp(address) => TcpStream::connect(address).and_then(|stream| {
                stream.set_read_timeout(Some(ANSWER))?;
                stream.set_write_timeout(Some(ANSWER))?;
                exchange(stream, command)
            }),
        };
        asked.map_err(|source| ClamdError::Unreachable { address: self.clone(), source })
    }

    /// Its log, from its present end on.
    fn log(&self) -> Option<Log> {
        let Self::Unix(socket) = self else { return None };
        // Where the socket is systemd's, that does not tell.
        Log::of(&config_of(socket).unwrap_or_else(|| clamd_conf::DEFAULT.into()))
    }
}

fn exchange(mut stream: impl Read + Write, command: &str) -> io::Result<String> {
    stream.write_all(format!("z{command}\0").as_bytes())?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer)?;
    let end = answer.iter().position(|&byte| byte == 0).unwrap_or(answer.len());
    Ok(String::from_utf8_lossy(&answer[..end]).into_owned())
}

/// The configuration of the clamd behind a socket, where it runs here.
fn config_of(socket: &Path) -> Option<PathBuf> {
    let stream = UnixStream::connect(socket).ok()?;
    clamd_conf::of_process(rustix::net::sockopt::socket_peercred(&stream).ok()?.pid)
}

/// What the log says of the last load.
#[derive(PartialEq, Eq, Debug)]
enum Said {
    Loaded,
    /// In clamd's own words.
    Failed(String),
}

/// What clamd writes from now on.
struct Log {
    file: File,
    text: String,
}

impl Log {
    fn of(config: &Path) -> Option<Self> {
        let settings = fs::read_to_string(config).ok()?;
        let mut file = File::open(ClamdConf(&settings).value("LogFile")?).ok()?;
        file.seek(SeekFrom::End(0)).ok()?;
        Some(Self { file, text: String::new() })
    }

    /// Reads on, and says how the load ended, once it has.
    fn outcome(&mut self) -> Option<Said> {
        let room = MAX_LOG_BYTES.saturating_sub(self.text.len() as u64);
        let mut bytes = Vec::new();
        (&self.file).take(room).read_to_end(&mut bytes).ok()?;
        self.text.push_str(&String::from_utf8_lossy(&bytes));
        outcome_in(&self.text)
    }
}

fn outcome_in(log: &str) -> Option<Said> {
    // Lines that are not yet whole say nothing.
    let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
    if whole.contains("Database correctly reloaded") {
        return Some(Said::Loaded);
    }
    let failed = |line: &&str| line.contains("reload_th: ") || line.contains("reload db failed");
    whole.lines().find(failed)?;
    let words = whole.lines().filter(|line| line.contains("ERROR:") || failed(line));
    Some(Said::Failed(words.map(str::trim).collect::<Vec<_>>().join("; ")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_address_is_a_path_or_a_host_with_a_port() {
        let tcp = |text: &str| Some(Address::Tcp(text.into()));
        assert_eq!(Address::parse("/run/clamd.ctl"), Some(Address::Unix("/run/clamd.ctl".into())));
        for text in ["clamd:3310", "127.0.0.1:3310", "[::1]:3310"] {
            assert_eq!(Address::parse(text), tcp(text));
        }
        for text in ["", "clamd", "clamd:", "clamd:0", "clamd:99999", ":3310", "run/clamd.ctl"] {
            assert_eq!(Address::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_log_tells_how_a_load_ended_and_in_whose_words() {
        let failed = "Thu -> Reading databases from /db\nThu -> ERROR: reload_th: Database load failed: Malformed database\n";
        assert_eq!(outcome_in(""), None);
        assert_eq!(outcome_in("Thu -> Reading databases from /db\n"), None);
        assert_eq!(outcome_in("Thu -> Database correctly reloaded (9"), None);
        assert_eq!(outcome_in("Thu -> Database correctly reloaded (9 signatures)\n"), Some(Said::Loaded));
        let words = "Thu -> ERROR: reload_th: Database load failed: Malformed database";
        assert_eq!(outcome_in(failed), Some(Said::Failed(words.into())));
    }
}
