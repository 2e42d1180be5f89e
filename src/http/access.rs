//! One event a request, target `cvdmirror::access`, when its answer has been handed to the connection or broke off.
//!
//! Never logged: the UUID in a ClamAV client's User-Agent, which names one installation.
use super::{BodyError, Site};
use hyper::{HeaderMap, Method, StatusCode, Uri, header::USER_AGENT};
use std::sync::{Arc, atomic::Ordering::Relaxed};

/// The longest path or User-Agent that is logged, in bytes.
const LOGGED_BYTES: usize = 256;

/// What is logged of one request.
pub(super) struct Access {
    method: Method,
    path: String,
    agent: String,
    status: StatusCode,
    expected: u64,
    bytes: u64,
    site: Arc<Site>,
}

impl Access {
    pub(super) fn new(method: &Method, uri: &Uri, headers: &HeaderMap, site: Arc<Site>) -> Self {
        let agent = headers.get(USER_AGENT).map(|agent| agent.as_bytes().escape_ascii().to_string());
        let target = uri.path_and_query().map_or_else(|| uri.path(), |target| target.as_str());
        Self {
            method: method.clone(),
            path: cut(target.escape_default().to_string()),
            agent: cut(without_uuid(agent.unwrap_or_default())),
            status: StatusCode::OK,
            expected: 0,
            bytes: 0,
            site,
        }
    }

    /// Notes what is about to be sent.
    pub(super) fn answer(&mut self, status: StatusCode, body_bytes: u64) {
        self.status = status;
        self.expected = body_bytes;
        self.site.metrics.answered(status);
    }

    /// Counts body bytes handed to the connection.
    pub(super) fn sent(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.site.metrics.body_bytes.fetch_add(bytes, Relaxed);
    }

    /// Says why the body ends early.
    pub(super) fn broke(&self, error: &BodyError) {
        unreadable(&self.site, &self.path, error);
    }
}

/// Says that an object could not be read for a request.
pub(super) fn unreadable(site: &Site, path: &str, error: &BodyError) {
    if let BodyError::Unreadable { source, .. } = error {
        (site.unreadable)(source);
    }
    site.metrics.unreadable.fetch_add(1, Relaxed);
    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    tracing::error!(target: "cvdmirror::http", path, error = %error, cause, "cannot send an object");
}

impl Drop for Access {
    fn drop(&mut self) {
        tracing::info!(
            target: "cvdmirror::access",
            method = self.method.as_str(),
            path = self.path,
            status = self.status.as_u16(),
            bytes = self.bytes,
            complete = self.bytes == self.expected,
            agent = self.agent,
        );
    }
}

/// `text`, which is ASCII, cut to [`LOGGED_BYTES`].
fn cut(mut text: String) -> String {
    text.truncate(LOGGED_BYTES);
    text
}

/// Takes every `UUID: …` out, up to the next `,`, `;` or `)`.
fn without_uuid(mut agent: String) -> String {
    const KEY: &str = "uuid";
    while let Some(at) = agent.to_ascii_lowercase().find(KEY) {
        let end = agent[at..].find([',', ';', ')']).map_or(agent.len(), |n| at + n);
        let start = agent[..at].trim_end_matches([' ', ',', ';']).len();
        agent.replace_range(start..end, "");
    }
    agent
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_users_uuid_is_taken_out_and_the_rest_stays() {
        for (agent, logged) in [
            (
                "ClamAV/1.4.6 (OS: Linux, ARCH: x86_64, CPU: x86_64, UUID: 6f1c2f0e-8a44-4c1a-9b1e-0123456789ab)",
                "ClamAV/1.4.6 (OS: Linux, ARCH: x86_64, CPU: x86_64)",
            ),
            ("CVDUPDATE/1.1 (6f1c; uuid: a b, x)", "CVDUPDATE/1.1 (6f1c, x)"),
            ("UUID: a, UUID: b", ""),
            ("curl/8.0", "curl/8.0"),
            ("uuid", ""),
        ] {
            assert_eq!(without_uuid(agent.into()), logged);
        }
    }

    proptest! {
        #[test]
        fn no_agent_keeps_a_uuid(agent in "[ -~]{0,40}(UUID: [0-9a-f]{8})?[ -~]{0,40}") {
            prop_assert!(!without_uuid(agent).to_ascii_lowercase().contains("uuid"));
        }
    }
}
