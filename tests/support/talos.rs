//! The database `test` that most tests mirror: Talos' own where its files are at hand, else one minted in its place.
//!
//! Talos' files are in the directory that `CVDMIRROR_TALOS` names, or beside the project. Without them all that mirrors
//! and follows `test` does so by the mint's keys; what needs Talos' own asks [`own_or_skip`].
use super::{mint::Mint, mint_keys::keys, mint_sign::signer, skip};
use cvdmirror::cvd::TrustKeys;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The last version.
const VERSIONS: u32 = 5;

fn directory() -> PathBuf {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/testdata/talos");
    std::env::var_os("CVDMIRROR_TALOS").map_or_else(beside, PathBuf::from)
}

/// Whether the database `test` is Talos' own.
pub fn is_own() -> bool {
    directory().is_dir()
}

/// The same for a test that needs Talos' own, which then says that it is skipped, or fails if peers are required.
pub fn own_or_skip() -> bool {
    let own = is_own();
    if !own {
        skip(&format!("Talos' files are not in {}", directory().display()));
    }
    own
}

/// A file of the database `test`.
pub fn talos(name: &str) -> Vec<u8> {
    if is_own() {
        let path = directory().join(name);
        return std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    minted().get(name).unwrap_or_else(|| panic!("{name} is not minted")).clone()
}

/// The keys that the database `test` is signed with.
pub fn trust_keys() -> TrustKeys {
    match is_own() {
        true => TrustKeys::talos(),
        false => keys().public(),
    }
}

/// Has a command trust the keys of the database `test`; where they are the mint's, by a file in `dir`.
pub fn trusting<'a>(command: &'a mut Command, dir: &Path) -> &'a mut Command {
    if !is_own() {
        let file = dir.join("trusted.toml");
        std::fs::write(&file, keys().toml()).unwrap();
        command.env("CVDMIRROR_TRUST_KEYS", file);
    }
    command
}

fn minted() -> &'static BTreeMap<String, Vec<u8>> {
    static FILES: OnceLock<BTreeMap<String, Vec<u8>>> = OnceLock::new();
    FILES.get_or_init(|| {
        let mut database = Mint::new(1).database("test");
        let mut files = BTreeMap::from([("test-ca.crt".to_owned(), signer().root_pem.clone().into_bytes())]);
        for release in (1..=VERSIONS).map(|_| database.publish()) {
            let (cvd, cdiff) = (release.cvd_name(), release.cdiff_name());
            let version = [
                (cvd.to_string(), Some(release.cvd)),
                (format!("{cvd}.sign"), release.cvd_sign),
                (cdiff.to_string(), release.cdiff),
                (format!("{cdiff}.sign"), release.cdiff_sign),
            ];
            files.extend(version.into_iter().filter_map(|(name, bytes)| Some((name, bytes?))));
        }
        files
    })
}
