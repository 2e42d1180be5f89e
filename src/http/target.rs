//! What a request's target names, by a closed grammar: no URI ever becomes a path in the file system.
//!
//! Nothing is decoded or normalised: `/%64aily.cvd`, `/./daily.cvd` and `//daily.cvd` are other names, and unknown.
use crate::cvd::{Database, FileName};
use cvdmirror_store::ObjectId;
use hyper::Uri;

/// Longer than any name of a file.
const MAX_SEARCH_CHARS: usize = 64;

/// A resource that a path can name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Target {
    /// `/<db>-<N>.cvd`, `.cdiff` and their `.sign`.
    File(FileName),
    /// `/<db>.cvd`: the newest CVD.
    Alias(Database),
    /// `/<db>.cvd?version=N`: exactly that one, by its versioned name.
    AliasAt(FileName),
    /// `/<db>-<N>.cld`, by the CVD of that version.
    Cld(FileName),
    /// `/<db>-<N>.cld.sign`, by the same.
    CldSign(FileName),
    /// `/<db>.cld`: that of the newest CVD.
    CldAlias(Database),
    /// `/objects/<blake3 hex>`.
    Object(ObjectId),
    /// `/index.json`
    Index,
    /// `/dns.txt`
    DnsTxt,
    /// `/health`
    Health,
    /// `/livez`
    Live,
    /// `/readyz`
    Ready,
    /// `/metrics`
    Metrics,
    /// `/`, and what is searched for: `/?q=daily-28110`.
    Status(Option<String>),
}

/// Why a target names nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NoTarget {
    /// It is no path at all (`*`, or an authority alone): 400.
    Malformed,
    /// 404.
    Unknown,
}

impl Target {
    /// Reads a target in origin or absolute form (RFC 9112, 3.2.1 and 3.2.2). The host of an absolute form is checked
    /// elsewhere.
    pub(super) fn parse(uri: &Uri) -> Result<Self, NoTarget> {
        let path = uri.path().strip_prefix('/').ok_or(NoTarget::Malformed)?;
        let fixed = match path {
            "" => Some(Self::Status(uri.query().and_then(searched))),
            "index.json" => Some(Self::Index),
            "dns.txt" => Some(Self::DnsTxt),
            "health" => Some(Self::Health),
            "livez" => Some(Self::Live),
            "readyz" => Some(Self::Ready),
            "metrics" => Some(Self::Metrics),
            _ => None,
        };
        fixed.or_else(|| named(path, uri.query())).ok_or(NoTarget::Unknown)
    }
}

/// What a form sent, as far as a file's name could be so long.
fn searched(query: &str) -> Option<String> {
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    let (_, text) = pairs.find(|(key, _)| key == "q")?;
    let text: String = text.trim().chars().take(MAX_SEARCH_CHARS).collect();
    (!text.is_empty()).then_some(text)
}

fn named(path: &str, query: Option<&str>) -> Option<Target> {
    if let Some(hex) = path.strip_prefix("objects/") {
        return hex.parse().ok().map(Target::Object);
    }
    if let Ok(name) = path.parse() {
        return Some(Target::File(name));
    }
    if let Some(stem) = path.strip_suffix(".cld") {
        let alias = || stem.parse().ok().filter(|_| query.is_none()).map(Target::CldAlias);
        return FileName::of_cld(path).map(Target::Cld).or_else(alias);
    }
    if let Some(cld) = path.strip_suffix(".sign").filter(|cld| cld.ends_with(".cld")) {
        return FileName::of_cld(cld).map(Target::CldSign);
    }
    let database: Database = path.strip_suffix(".cvd")?.parse().ok()?;
    let version = query.and_then(|q| q.split('&').find_map(|pair| pair.strip_prefix("version=")));
    match version {
        None => Some(Target::Alias(database)),
        Some(version) => format!("{database}-{version}.cvd").parse().ok().map(Target::AliasAt),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    fn parse(uri: &str) -> Result<Target, NoTarget> {
        Target::parse(&uri.parse().unwrap())
    }
    fn file(name: &str) -> FileName {
        name.parse().unwrap()
    }

    #[test]
    fn every_resource_has_its_path() {
        for name in ["daily-28110.cvd", "daily-28110.cdiff", "main-1.cvd.sign", "test-5.cdiff.sign"] {
            assert_eq!(parse(&format!("/{name}")), Ok(Target::File(file(name))));
            assert_eq!(parse(&format!("http://other.host:80/{name}?x=1")), Ok(Target::File(file(name))));
        }
        assert_eq!(parse("/daily.cvd"), Ok(Target::Alias("daily".parse().unwrap())));
        assert_eq!(parse("/daily.cvd?x=1"), Ok(Target::Alias("daily".parse().unwrap())));
        assert_eq!(parse("/daily.cvd?version=7"), Ok(Target::AliasAt(file("daily-7.cvd"))));
        assert_eq!(parse("/daily.cvd?x=1&version=7"), Ok(Target::AliasAt(file("daily-7.cvd"))));
        assert_eq!(parse("/daily-7.cld"), Ok(Target::Cld(file("daily-7.cvd"))));
        assert_eq!(parse("/daily-7.cld.sign"), Ok(Target::CldSign(file("daily-7.cvd"))));
        assert_eq!(parse("/daily.cld"), Ok(Target::CldAlias("daily".parse().unwrap())));
        let id = cvdmirror_store::Hasher::new().finish();
        assert_eq!(parse(&format!("/objects/{id}")), Ok(Target::Object(id)));
        for (path, target) in [
            ("/", Target::Status(None)),
            ("http://host", Target::Status(None)),
            ("/?x=1&q=", Target::Status(None)),
            ("/?q=%20daily-7+", Target::Status(Some("daily-7".into()))),
            ("/index.json", Target::Index),
            ("/dns.txt", Target::DnsTxt),
            ("/health", Target::Health),
            ("/livez", Target::Live),
            ("/readyz", Target::Ready),
            ("/metrics", Target::Metrics),
        ] {
            assert_eq!(parse(path), Ok(target), "{path}");
        }
    }

    #[test]
    fn everything_else_is_unknown() {
        for path in [
            "/daily.cld?version=7",
            "/daily-0.cld",
            "/daily.cld.sign",
            "/daily-0.cld.sign",
            "/daily-7.cld.sign.sign",
            "/daily",
            "/daily.cvd/",
            "//daily.cvd",
            "/./daily.cvd",
            "/../daily.cvd",
            "/%64aily.cvd",
            "/%2e%2e/etc/passwd",
            "/..%2fdaily.cvd",
            "/daily-1.cvd%00",
            "/daily-0.cvd",
            "/daily-01.cvd",
            "/daily-4294967296.cvd",
            "/daily-1.cvd.sign.sign",
            "/daily.cvd.sign",
            "/daily.cdiff",
            "/objects/",
            "/objects/00",
            "/objects/../index.json",
            "/daily.cvd?version=",
            "/daily.cvd?version=0",
            "/daily.cvd?version=%31",
            "/daily.cvd?version=1.cvd",
            "/daily.cvd?version=-1",
            "/index.json/",
            "/Health",
            "/-1.cvd",
            "/.cvd",
            "/a-b-1.cvd",
        ] {
            assert_eq!(parse(path), Err(NoTarget::Unknown), "{path}");
        }
        let id = cvdmirror_store::Hasher::new().finish().to_string();
        for hex in [id.to_uppercase(), format!("{id}0"), id[1..].to_string()] {
            assert_eq!(parse(&format!("/objects/{hex}")), Err(NoTarget::Unknown), "{hex}");
        }
        assert_eq!(parse("*"), Err(NoTarget::Malformed));
        assert_eq!(parse("host:80"), Err(NoTarget::Malformed));
    }

    proptest! {
        #[test]
        fn a_file_target_prints_as_its_path(path in "/[a-z]{1,3}-[0-9]{1,3}\\.(cvd|cdiff)(\\.sign)?") {
            if let Ok(Target::File(name)) = parse(&path) {
                prop_assert_eq!(format!("/{name}"), path);
            }
        }
    }
}
