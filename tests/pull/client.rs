//! A client with a database directory of its own, and a mirror whose every answer the test writes.
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};
use support::{
    mint::Release,
    mint_keys::keys,
    process::{self, Ran},
    program::bare,
    talos::{self, talos},
    upstream::{Answer, Upstream},
};
use tempfile::TempDir;

pub(crate) struct Client {
    pub(crate) dir: TempDir,
    settings: BTreeMap<String, String>,
}

impl Client {
    /// One that follows the database `test`.
    pub(crate) fn of(mirror: &str) -> Self {
        let dir = TempDir::new().unwrap();
        std::fs::create_dir(dir.path().join("db")).unwrap();
        let into = dir.path().join("db");
        let into = into.to_str().unwrap();
        let settings = [("from", mirror), ("into", into), ("database", "test"), ("stall-timeout", "2s")];
        let settings = settings.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let client = Self { dir, settings };
        match talos::is_own() {
            true => client,
            false => client.trusting(&keys().toml()),
        }
    }

    pub(crate) fn set(mut self, key: &str, value: &str) -> Self {
        self.settings.insert(key.into(), value.into());
        self
    }

    /// Trusts these keys (see `Mint::keys_toml`) instead of Talos'.
    pub(crate) fn trusting(self, keys: &str) -> Self {
        let file = self.dir.path().join("keys.toml");
        std::fs::write(&file, keys).unwrap();
        self.set("trust-keys", file.to_str().unwrap())
    }

    /// Has what a test needs put into the directory first.
    pub(crate) fn holding(self, name: &str, bytes: &[u8]) -> Self {
        self.put(name, bytes);
        self
    }

    pub(crate) fn db(&self) -> PathBuf {
        self.dir.path().join("db")
    }

    pub(crate) fn put(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.db().join(name), bytes).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.db().join(name)).unwrap_or_else(|e| panic!("{name}: {e}; {:?}", self.names()))
    }

    /// The files that libclamav would see, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.db()).unwrap().map(|entry| entry.unwrap());
        let files = entries.filter(|entry| entry.file_type().unwrap().is_file());
        let mut names: Vec<String> = files.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    pub(crate) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        files_in(&self.db())
    }

    pub(crate) fn command(&self, options: &[&str]) -> Command {
        let mut command = bare();
        command.arg("pull");
        for (key, value) in &self.settings {
            command.arg(format!("--{key}={value}"));
        }
        command.args(options);
        command
    }

    pub(crate) fn pull(&self, options: &[&str]) -> Ran {
        process::run(&mut self.command(options))
    }

    /// Asserts that a file is proper, by the program's own offline check.
    pub(crate) fn verifies(&self, name: &str) {
        let mut command = bare();
        command.arg("verify").arg(self.db().join(name));
        if let Some(keys) = self.settings.get("trust-keys") {
            command.arg(format!("--trust-keys={keys}"));
        }
        process::run(&mut command).exits(0);
    }
}

pub(crate) fn files_in(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.filter(|path| path.is_file());
    files
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(&path).unwrap()))
        .collect()
}

/// Has the mirror say which version of `test` is newest.
pub(crate) fn say(mirror: &Upstream, version: u32) {
    mirror.file("dns.txt", format!("0.0.0:0:0:1800000000:0:90:0:0\ntest.cvd {version}:1800000000\n").into());
}

/// A mirror that has the Talos-signed database `test` in every version up to this one.
pub(crate) fn talos_mirror(version: u32) -> Upstream {
    let mirror = Upstream::start();
    talos_up_to(&mirror, version);
    mirror
}

pub(crate) fn talos_up_to(mirror: &Upstream, version: u32) {
    for step in 1..=version {
        let names =
            [format!("test-{step}.cvd"), format!("test-{step}.cvd.sign"), format!("test-{step}.cdiff")];
        for name in names.into_iter().filter(|name| name != "test-1.cdiff") {
            mirror.file(&name, talos(&name));
        }
    }
    mirror.set("/test.cvd", Answer::Redirect(format!("/test-{version}.cvd")));
    say(mirror, version);
}

/// Has the mirror offer a minted version of `test`, and its CDIFF.
pub(crate) fn offer(mirror: &Upstream, release: &Release) {
    mirror.file(&release.cvd_name().to_string(), release.cvd.clone());
    if let Some(cdiff) = &release.cdiff {
        mirror.file(&release.cdiff_name().to_string(), cdiff.clone());
    }
    mirror.set("/test.cvd", Answer::Redirect(format!("/{}", release.cvd_name())));
    say(mirror, release.version);
}

/// A file with one bit of its middle changed.
pub(crate) fn flipped(mut bytes: Vec<u8>) -> Vec<u8> {
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    bytes
}
