//! The record of one request. When its answer is sent or broken off, it is counted; it is also logged in the combined
//! format and its client remembered, where the settings say so.
//!
//! Never logged: the UUID of an installation, the user and password of a URL, anything that could end a line early.
use super::{BodyError, Site, metrics::Kind};
use crate::{
    clients::{Fetched, Installation},
    cvd::{FileKind, FileName},
    source::login::without_userinfo,
};
use hyper::{
    HeaderMap, Method, StatusCode, Uri, Version,
    header::{HeaderName, REFERER, USER_AGENT},
};
use std::{
    fmt::Write as _,
    net::IpAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
};

/// The longest target, Referer or User-Agent that is logged, in bytes.
const LOGGED_BYTES: usize = 512;

/// The record of one request.
pub(super) struct Access {
    kind: Kind,
    /// Formatted only when the body breaks.
    uri: Uri,
    /// The parts of its line in the access log before the status and after the size; `None` where nothing is logged.
    line: Option<(String, String)>,
    /// Who asked; `None` where nobody is remembered, or for a page.
    client: Option<Installation>,
    /// The file that was asked for, where clients are remembered.
    file: Option<FileName>,
    status: StatusCode,
    expected: u64,
    bytes: u64,
    site: Arc<Site>,
}

/// The parts of a request that are recorded.
pub(super) struct RequestHead<'a> {
    pub(super) peer: Option<IpAddr>,
    pub(super) method: &'a Method,
    pub(super) uri: &'a Uri,
    pub(super) version: Version,
    pub(super) headers: &'a HeaderMap,
}

impl Access {
    pub(super) fn new(asked: &RequestHead<'_>, kind: Kind, site: Arc<Site>) -> Self {
        let of_a_file = matches!(kind, Kind::Cvd | Kind::Cdiff | Kind::Sign | Kind::Cld | Kind::Alias);
        let remembered = site.clients.is_some() && of_a_file && *asked.method == Method::GET;
        let agent = || asked.headers.get(USER_AGENT).map_or(&b""[..], |agent| agent.as_bytes());
        Self {
            kind,
            uri: asked.uri.clone(),
            line: site.access_log.is_some().then(|| asked.line()),
            client: remembered.then(|| Installation::from_agent(agent())),
            file: None,
            status: StatusCode::OK,
            expected: 0,
            bytes: 0,
            site,
        }
    }

    /// Notes the file that was asked for.
    pub(super) fn found(&mut self, file: &FileName) {
        self.file = self.client.is_some().then(|| file.clone());
    }

    /// Notes what is about to be sent.
    pub(super) fn answer(&mut self, status: StatusCode, body_bytes: u64) {
        self.status = status;
        self.expected = body_bytes;
        self.site.metrics.answered(self.kind, status);
    }

    /// Counts body bytes handed to the connection.
    pub(super) fn sent(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.site.metrics.sent(self.kind, bytes);
    }

    /// Logs why the body ends early.
    pub(super) fn broke(&self, error: &BodyError) {
        unreadable(&self.site, &logged(self.uri.path().as_bytes()), error);
    }

    /// What this request shows that the client has now.
    fn fetched(&self) -> Option<Fetched> {
        let file = self.file.as_ref()?;
        let whole = self.status == StatusCode::OK && self.bytes == self.expected;
        match (file.kind, self.status) {
            // An empty CDIFF is no patch: who got it has yet to fetch the full CVD.
            (FileKind::Cvd | FileKind::Cdiff, _) if whole && self.bytes > 0 => {
                Some(Fetched::Now(file.database.clone(), file.version))
            }
            // Its own copy is not older.
            (FileKind::Cvd, StatusCode::NOT_MODIFIED) => {
                Some(Fetched::Before(file.database.clone(), file.version))
            }
            _ => None,
        }
    }
}

/// Logs that an object could not be read, and reports a corrupt one to the mirror.
fn unreadable(site: &Site, path: &str, error: &BodyError) {
    if let BodyError::Unreadable { source: cvdmirror_store::Error::Corrupt { pack, object, .. }, .. } = error
    {
        site.mirror.corrupt(pack, *object);
    }
    site.metrics.unreadable.fetch_add(1, Relaxed);
    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    tracing::error!(
        path,
        %error,
        cause,
        "{path} cannot be sent: {error}: {cause}; the mirror fetches it again, `cvdmirror store verify` finds what \
         else is corrupt"
    );
}

impl Drop for Access {
    fn drop(&mut self) {
        if let (Some(clients), Some(client)) = (&self.site.clients, self.client.take()) {
            clients.saw(&client, self.fetched());
        }
        if let (Some(log), Some((mut line, after))) = (&self.site.access_log, self.line.take()) {
            // Writing into a String cannot fail.
            let _ = match self.bytes {
                0 => writeln!(line, "{} - {after}", self.status.as_u16()),
                bytes => writeln!(line, "{} {bytes} {after}", self.status.as_u16()),
            };
            log.line(line);
        }
    }
}

impl RequestHead<'_> {
    /// Its line in Apache's combined format: the part before the status, and that after the size. There is never a user.
    fn line(&self) -> (String, String) {
        let peer = self.peer.map_or("-".into(), |peer| peer.to_canonical().to_string());
        let now = jiff::Zoned::now().strftime("%d/%b/%Y:%H:%M:%S %z");
        // CONNECT names an authority alone.
        let authority = || self.uri.authority().map_or("", |authority| authority.as_str());
        let target = self.uri.path_and_query().map_or_else(authority, |target| target.as_str());
        let field = |name: HeaderName| match self.headers.get(name) {
            Some(value) => logged(value.as_bytes()),
            None => "-".to_owned(),
        };
        (
            format!(
                "{peer} - - [{now}] \"{} {} {:?}\" ",
                logged(self.method.as_str().as_bytes()),
                logged(target.as_bytes()),
                self.version
            ),
            format!("\"{}\" \"{}\"", field(REFERER), field(USER_AGENT)),
        )
    }
}

/// Makes text from a client safe between quotes on one line: secrets removed; quotes, backslashes and bytes that are not
/// printable ASCII escaped as Apache does; at most about [`LOGGED_BYTES`] long.
fn logged(bytes: &[u8]) -> String {
    let mut out = String::new();
    // Cut before escaping, so that no escape is cut, and generously, so that no UUID is cut in half.
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4 * LOGGED_BYTES)]).into_owned();
    for c in without_uuid(&without_userinfo(&text)).chars() {
        if out.len() >= LOGGED_BYTES {
            break;
        }
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            _ => {
                let mut utf8 = [0; 4];
                for byte in c.encode_utf8(&mut utf8).bytes() {
                    let _ = write!(out, "\\x{byte:02x}");
                }
            }
        }
    }
    out
}

/// Removes every `UUID: …`, up to the next `,`, `;` or `)`, and every UUID without that word.
fn without_uuid(text: &str) -> String {
    const KEY: &str = "uuid";
    let mut text = text.to_owned();
    while let Some(at) = text.to_ascii_lowercase().find(KEY) {
        let end = text[at..].find([',', ';', ')']).map_or(text.len(), |n| at + n);
        let start = text[..at].trim_end_matches([' ', ',', ';']).len();
        text.replace_range(start..end, "");
    }
    let digit = |c: char| c.is_ascii_hexdigit() || c == '-';
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(start) = rest.find(digit) {
        let (before, after) = rest.split_at(start);
        let (word, after) = after.split_at(after.find(|c| !digit(c)).unwrap_or(after.len()));
        // With and without hyphens it has 32 digits; an object's hash has 64.
        let digits = word.chars().filter(char::is_ascii_hexdigit).count();
        out.push_str(before);
        out.push_str(if digits >= 32 && (digits, word.len()) != (64, 64) { "*" } else { word });
        rest = after;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_users_uuid_is_taken_out_and_the_rest_stays() {
        let hash = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        for (agent, left) in [
            (
                "ClamAV/1.4.6 (OS: Linux, ARCH: x86_64, CPU: x86_64, UUID: 6f1c2f0e-8a44-4c1a-9b1e-0123456789ab)",
                "ClamAV/1.4.6 (OS: Linux, ARCH: x86_64, CPU: x86_64)",
            ),
            ("CVDUPDATE/1.1 (6f1c; uuid: a b, x)", "CVDUPDATE/1.1 (6f1c, x)"),
            ("CVDUPDATE/1.1 (6f1c2f0e-8a44-4c1a-9b1e-0123456789ab)", "CVDUPDATE/1.1 (*)"),
            ("x/6F1C2F0E8A444C1A9B1E0123456789AB/y", "x/*/y"),
            ("UUID: a, UUID: b", ""),
            ("curl/8.0", "curl/8.0"),
            ("uuid", ""),
            (hash, hash),
        ] {
            assert_eq!(without_uuid(agent), left);
        }
    }

    #[test]
    fn nothing_a_client_sends_can_leave_its_quotes() {
        for (bytes, left) in [
            (&b"/a\"b\\c"[..], "/a\\\"b\\\\c"),
            (b"a\nb\r\x1b[31m\x00\x7f", "a\\x0ab\\x0d\\x1b[31m\\x00\\x7f"),
            ("é".as_bytes(), "\\xc3\\xa9"),
            (b"http://ada:secret@mirror/x", "http://***@mirror/x"),
        ] {
            assert_eq!(logged(bytes), left);
        }
        assert_eq!(logged(&[b'x'; 1 << 20]).len(), LOGGED_BYTES);
    }

    proptest! {
        #[test]
        fn no_agent_keeps_a_uuid(
            before in "[ -~]{0,40}",
            word in prop::sample::select(vec!["UUID: ", "uuid=", "(", "/", ""]),
            uuid in "[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}",
            after in "[ -~]{0,40}",
        ) {
            let line = logged(format!("{before}{word}{uuid}{after}").as_bytes());
            prop_assert!(!line.contains(&uuid) && !line.to_ascii_lowercase().contains("uuid"), "{line}");
        }

        #[test]
        fn any_bytes_are_printable_ascii_without_a_bare_quote(bytes: Vec<u8>) {
            let line = logged(&bytes);
            prop_assert!(line.bytes().all(|b| (b' '..=b'~').contains(&b)), "{line}");
            prop_assert!(!line.replace("\\\\", "").replace("\\\"", "").contains('"'), "{line}");
        }
    }
}
