//! The real clients: ClamAV's freshclam and cvdupdate.
use super::{
    peer,
    peers::Peers,
    process::{self, Ran},
    talos,
};
use std::{io::Read, path::PathBuf, process::Command};

/// A freshclam installation of its own.
pub struct Freshclam {
    program: PathBuf,
    pub dir: tempfile::TempDir,
    settings: String,
    database: String,
    /// Of the copies of its libraries that trust other keys than Talos'.
    libraries: Option<PathBuf>,
    /// Their keeper, where `test` itself is minted.
    minted: Option<Peers>,
    /// Further variables that it is run with.
    pub variables: Vec<(&'static str, PathBuf)>,
}

impl Freshclam {
    /// One that trusts no DNS and asks `mirror` (a URL) for the database `test`; none where freshclam is missing.
    pub fn of(mirror: &str) -> Option<Self> {
        Self::with(&format!("DatabaseMirror {mirror}\nDNSDatabaseInfo no\n"))
    }

    /// One with other lines in its configuration.
    pub fn with(lines: &str) -> Option<Self> {
        let program = peer("freshclam")?;
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("db")).unwrap();
        let settings = format!(
            "DatabaseDirectory {}\nDatabaseOwner {}\nMaxAttempts 2\nConnectTimeout 5\nReceiveTimeout 20\n{lines}",
            dir.path().join("db").display(),
            user()
        );
        let mut freshclam = Self {
            program,
            dir,
            settings,
            database: "test".into(),
            libraries: None,
            minted: None,
            variables: Vec::new(),
        };
        if !talos::is_own() {
            let peers = Peers::with_mint_keys()?;
            freshclam = freshclam.following("test", &peers);
            freshclam.minted = Some(peers);
        }
        Some(freshclam)
    }

    /// Follows a minted database instead of `test`.
    pub fn following(mut self, database: &str, peers: &Peers) -> Self {
        (self.database, self.libraries) = (database.into(), Some(peers.libraries().into()));
        self
    }

    /// Puts a file into its database directory.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.dir.path().join("db").join(name), bytes).unwrap();
    }

    /// Does one update of its database.
    pub fn update(&self, options: &[&str]) -> Ran {
        let config = self.dir.path().join("freshclam.conf");
        std::fs::write(&config, &self.settings).unwrap();
        let mut command = Command::new(&self.program);
        command.arg("--config-file").arg(&config).args(["--stdout"]).args(options);
        command.arg(format!("--update-db={}", self.database));
        command.envs(self.libraries.iter().map(|libraries| ("LD_LIBRARY_PATH", libraries)));
        command.envs(self.variables.iter().cloned());
        for proxy in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"] {
            command.env_remove(proxy);
        }
        process::run(&mut command)
    }

    /// The version it holds, in either form.
    pub fn version(&self) -> Option<u32> {
        ["cvd", "cld"].iter().find_map(|kind| {
            let path = self.dir.path().join("db").join(format!("{}.{kind}", self.database));
            let mut head = [0; 64];
            std::fs::File::open(path).ok()?.read_exact(&mut head).ok()?;
            String::from_utf8_lossy(&head).split(':').nth(2)?.parse().ok()
        })
    }
}

/// A program that is freshclam trusting the keys of the database `test`; none where it is missing. What it returns
/// besides must live as long.
pub fn freshclam_of_test(dir: &std::path::Path) -> Option<(PathBuf, Option<Peers>)> {
    let program = peer("freshclam")?;
    if talos::is_own() {
        return Some((program, None));
    }
    let peers = Peers::with_mint_keys()?;
    Some((peers.script(dir, &program), Some(peers)))
}

/// Who runs the tests; freshclam must be told.
fn user() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A cvdupdate installation of its own.
pub struct Cvdupdate {
    dir: tempfile::TempDir,
}

impl Cvdupdate {
    /// One that knows the database `name` at an upstream URL and its field of the TXT record, and asks the name
    /// server 127.0.0.1 (port 53 always); none where cvdupdate is missing.
    pub fn of(upstream: &str, name: &str, field: u32) -> Option<Self> {
        peer("cvdupdate")?;
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        for name in ["db", "log"] {
            std::fs::create_dir(path(name)).unwrap();
        }
        let config = serde_json::json!({
            "db directory": path("db"), "log directory": path("log"), "state file": path("state.json"),
            "nameserver": "127.0.0.1", "max retry": 1, "# cdiffs to keep": 30, "rotate cdiffs": true,
            "rotate logs": true, "# logs to keep": 2,
        });
        let file = format!("{name}.cvd");
        let state = serde_json::json!({
            "uuid": "00000000-0000-4000-8000-000000000000",
            "dbs": { file.as_str(): {
                "url": format!("{upstream}/{file}"), "retry after": 0, "last modified": 0, "last checked": 0,
                "DNS field": field, "local version": 0, "CDIFFs": [],
            }},
        });
        std::fs::write(path("config.json"), config.to_string()).unwrap();
        std::fs::write(path("state.json"), state.to_string()).unwrap();
        Some(Self { dir })
    }

    /// The directory it leaves its files in.
    pub fn db(&self) -> PathBuf {
        self.dir.path().join("db")
    }

    pub fn update(&self) -> Ran {
        let mut command = Command::new("cvdupdate");
        command.args(["update", "-c"]).arg(self.dir.path().join("config.json"));
        command.env("HOME", self.dir.path());
        process::run(&mut command)
    }
}
