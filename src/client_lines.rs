//! The lines of a freshclam.conf that lead to a mirror.
use reqwest::Url;
use std::fmt;

/// A mirror's name where its own is not known.
pub(crate) const NAMELESS: &str = "mirror.example.lan";

/// The lines that a client's freshclam.conf needs; `Display` writes them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ClientLines {
    /// Where the mirror is reached, without a slash at its end.
    pub(crate) url: String,
    /// The TXT record to believe; `None`: none.
    pub(crate) record: Option<String>,
    /// The host whose files it asks for with this mirror as its proxy; `None`: it asks the mirror itself.
    pub(crate) behind: Option<String>,
}

impl fmt::Display for ClientLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.behind, self.url.parse::<Url>()) {
            (Some(mirror), Ok(url)) => {
                writeln!(f, "HTTPProxyServer {}", url.host_str().unwrap_or(NAMELESS))?;
                writeln!(f, "HTTPProxyPort {}", url.port_or_known_default().unwrap_or(80))?;
                writeln!(f, "DatabaseMirror http://{mirror}")?;
            }
            _ => writeln!(f, "DatabaseMirror {}", self.url)?,
        }
        writeln!(f, "DNSDatabaseInfo {}", self.record.as_deref().unwrap_or("no"))
    }
}
