//! Every command and every setting in the pages for people, run for real.
//!
//! Each page has a site of its own: network and mount namespaces in which `mirror.example.lan` is this host,
//! `/var/lib/cvdmirror` the data directory of a server on port 8080 that answers DNS on port 53, and `/mnt`, `/media` and
//! `/etc/clamav` are empty disks. Blocks of `sh` are run in turn, `freshclam` blocks by freshclam, `toml` blocks are
//! checked as settings files; `text` is a picture; a resolver's lines are run by `dns_freshclam`; any other kind of block is
//! an error. What is replaced stands in
//! [`REPLACED`]; what is run elsewhere, in [`ELSEWHERE`]. install.md is followed by `package_install`, on a machine of its
//! own.
use std::{
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use support::{
    name_server::{NameServer, time_s},
    namespace, peer,
    process::{self, Ran},
    program::{Program, Serving, bare, script},
    talos::{own_or_skip, talos},
    upstream::Upstream,
    wait_for,
};

/// The database that everybody knows by name, and the one that is signed by Talos and small.
const REPLACED: [(&str, &str); 2] = [("daily-28110", "test-5"), ("daily.cvd", "test.cvd")];
/// Commands that another test runs, and where they stand there.
const ELSEWHERE: [(&str, &str); 3] = [
    // Followed by `pull_unit`, on a machine of its own.
    ("enable --now cvdmirror-pull.timer", "packaging/doc/pull.md"),
    ("sudo apt install ./cvdmirror_*.deb", "packaging/doc/install.md"),
    ("sudo systemctl restart clamav-freshclam", "packaging/doc/install.md"),
];
/// The built binary in place of one that cargo would build, for a moment; and the tests are run where they always are.
const CARGO: &str = r#"#!/bin/sh
case "$1" in
run) shift 3; timeout 3 cvdmirror "$@" --listen=127.0.0.1:0 --dns-listen=127.0.0.1:0 --data-dir="$HOME/new"; test $? = 124 ;;
*) grep -q "cargo $*)\$" "$CI" ;;
esac
"#;

struct Block {
    kind: String,
    text: String,
}

/// The fenced blocks of a page.
fn blocks(page: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut open = false;
    for line in page.lines() {
        match line.trim_start().strip_prefix("```") {
            Some(_) if open => open = false,
            Some(kind) => {
                open = true;
                blocks.push(Block { kind: kind.into(), text: String::new() });
            }
            None if open => {
                let block = blocks.last_mut().unwrap();
                block.text.push_str(line);
                block.text.push('\n');
            }
            None => {}
        }
    }
    assert!(!open, "a block without an end");
    blocks
}

struct Site {
    program: Program,
    upstream: Upstream,
    home: tempfile::TempDir,
    _server: Serving,
}

impl Site {
    fn start() -> Self {
        for disk in ["/var/lib", "/mnt", "/media", "/etc/clamav"] {
            process::run(Command::new("mount").args(["-t", "tmpfs", "none", disk])).exits(0);
        }
        for dir in ["/var/lib/cvdupdate", "/mnt/backup", "/media/stick", "/etc/clamav/certs"] {
            std::fs::create_dir(dir).unwrap();
        }
        let home = tempfile::tempdir().unwrap();
        let hosts = home.path().join("hosts");
        std::fs::write(&hosts, "127.0.0.1 localhost mirror.example.lan\n").unwrap();
        process::run(Command::new("mount").arg("--bind").arg(&hosts).arg("/etc/hosts")).exits(0);
        std::fs::write("/etc/clamav/certs/clamav.crt", talos("test-ca.crt")).unwrap();
        let right = "DatabaseMirror http://mirror.example.lan:8080\nDNSDatabaseInfo no\n";
        std::fs::write("/etc/clamav/freshclam.conf", right).unwrap();
        std::fs::write("/var/lib/cvdupdate/test.cvd", talos("test-5.cvd")).unwrap();

        let upstream = Upstream::talos(5);
        let program = Program::new(&upstream.url())
            .set("listen", "0.0.0.0:8080")
            .set("dns-listen", "127.0.0.1:53")
            .set("dns-zone", "clamav.net")
            .set("certs-dir", "/etc/clamav/certs")
            .set("remember-clients", "14d")
            .set("proxy", "true");
        std::fs::create_dir(program.data()).unwrap();
        symlink(program.data(), "/var/lib/cvdmirror").unwrap();
        program.sync().exits(0);
        let server = program.serve();
        server.publishes(5);
        let site = Self { program, upstream, home, _server: server };
        site.programs();
        site
    }

    /// The built binary first on the path, and a `sudo` for root.
    fn programs(&self) {
        let bin = self.home.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        symlink(env!("CARGO_BIN_EXE_cvdmirror"), bin.join("cvdmirror")).unwrap();
        script(&bin, "sudo", "#!/bin/sh\nexec \"$@\"\n");
        script(&bin, "cargo", CARGO);
    }

    /// A cvdupdate that follows the database `test` at `url`.
    fn cvdupdate(&self, url: &str) {
        let dir = self.home.path().join(".cvdupdate");
        std::fs::create_dir_all(dir.join("log")).unwrap();
        let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
        let config = serde_json::json!({
            "db directory": "/var/lib/cvdupdate", "log directory": path("log"), "state file": path("state.json"),
            "nameserver": "127.0.0.2", "max retry": 1, "# cdiffs to keep": 30, "rotate cdiffs": true,
            "rotate logs": true, "# logs to keep": 2,
        });
        // Stands in the record where daily does: cvdupdate takes versions from nowhere else.
        let names = NameServer::at("127.0.0.2:53");
        names.set("current.cvd.clamav.net", &format!("1.4.6:63:5:{}:1:90:49192:339", time_s(60)));
        let test = serde_json::json!({
            "url": format!("{url}/test.cvd"), "retry after": 0, "last modified": 0, "last checked": 0,
            "DNS field": 2, "local version": 0, "CDIFFs": [],
        });
        let state = serde_json::json!({ "uuid": "00000000-0000-4000-8000-000000000000", "dbs": { "test.cvd": test } });
        std::fs::write(path("config.json"), config.to_string()).unwrap();
        std::fs::write(path("state.json"), state.to_string()).unwrap();
    }

    /// Runs a block as a person would type it.
    fn sh(&self, text: &str) -> Ran {
        let bin = self.home.path().join("bin");
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let data =
            if text.contains("restore /media/stick") { "/var/lib/inside" } else { "/var/lib/cvdmirror" };
        let mut command = bare_of("sh");
        command.args(["-eu", "-c", text]).current_dir(self.home.path());
        command.env("PATH", path).env("HOME", self.home.path()).env("CI", root().join(".ci/run")).envs([
            ("CVDMIRROR_DATA_DIR", data),
            ("CVDMIRROR_DATABASE", "test"),
            ("CVDMIRROR_SOURCE", &self.upstream.url()),
            ("CVDMIRROR_TXT_RECORD", "none"),
            ("CVDMIRROR_LISTEN", "0.0.0.0:8080"),
            ("CVDMIRROR_DNS_LISTEN", "127.0.0.1:53"),
            ("CVDMIRROR_DNS_ZONE", "clamav.net"),
            ("CVDMIRROR_CERTS_DIR", "/etc/clamav/certs"),
            ("CVDMIRROR_REMEMBER_CLIENTS", "14d"),
        ]);
        process::run(support::talos::trusting(&mut command, self.home.path()))
    }

    /// Updates a client with these lines.
    fn freshclam(&self, lines: &str) {
        let Some(client) = support::clients::Freshclam::with(lines) else { return };
        let ran = client.update(&[]).exits(0);
        assert_eq!(client.version(), Some(5), "{lines}\n{ran}");
    }

    /// Checks a settings file.
    fn toml(&self, text: &str) {
        let file = self.home.path().join("cvdmirror.toml");
        std::fs::write(&file, text).unwrap();
        let mut check = bare();
        process::run(check.args(["config", "check", "--config"]).arg(&file).env("HOME", self.home.path()))
            .exits(0)
            .says(["the settings are right"]);
    }
}

/// A program without settings from the environment.
fn bare_of(program: &str) -> Command {
    let mut command = Command::new(program);
    for (key, change) in bare().get_envs() {
        if change.is_none() {
            command.env_remove(key);
        }
    }
    command
}

fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

/// Runs everything on a page, in a site of its own; `test` is the test's name.
fn page(test: &str, path: &str, prepare: impl FnOnce(&Site)) {
    for program in ["freshclam", "cvdupdate", "curl", "rsync"] {
        if peer(program).is_none() {
            return;
        }
    }
    if !namespace::inside(test) {
        return;
    }
    let site = Site::start();
    prepare(&site);
    let page = std::fs::read_to_string(root().join(path)).unwrap();
    for Block { kind, text } in blocks(&page) {
        let run = REPLACED.iter().fold(text.clone(), |text, (from, to)| text.replace(from, to));
        match kind.as_str() {
            "sh" => match ELSEWHERE.iter().find(|(command, _)| text.contains(command)) {
                Some((_, place)) => assert_runs_there(&text, place),
                None => drop(site.sh(&run).exits(0)),
            },
            "freshclam" => site.freshclam(&run),
            "toml" => site.toml(&run),
            "text" | "dnsmasq" | "unbound" | "bind" => {}
            kind => panic!("{path}: a block of {kind:?}: {text}"),
        }
    }
    site.program.run(&["store", "verify"]).exits(0);
}

/// Each line stands in another file that a test runs.
fn assert_runs_there(text: &str, place: &str) {
    let there = std::fs::read_to_string(root().join(place)).unwrap();
    for line in text.lines().map(|line| line.split("  #").next().unwrap().trim()) {
        assert!(there.contains(line), "{line:?} is not in {place}");
    }
}

#[test]
fn operating() {
    page("operating", "packaging/doc/operating.md", |_| ());
}

#[test]
fn clients() {
    page("clients", "packaging/doc/clients.md", |site| site.cvdupdate("https://database.clamav.net"));
}

#[test]
fn upstream_policy() {
    page("upstream_policy", "packaging/doc/upstream-policy.md", |site| site.cvdupdate(&site.upstream.url()));
}

#[test]
fn how_it_works() {
    page("how_it_works", "packaging/doc/how-it-works.md", |_| ());
}

#[test]
fn readme() {
    page("readme", "README.md", |_| ());
}

#[test]
fn pulling() {
    // A clamd that trusts no other keys than Talos'.
    let Some(clamd) = peer("clamd").filter(|_| own_or_skip()) else { return };
    page("pulling", "packaging/doc/pull.md", |_| {
        std::fs::create_dir_all("/run/clamav").unwrap();
        process::run(Command::new("mount").args(["-t", "tmpfs", "none", "/run/clamav"])).exits(0);
        std::fs::create_dir("/var/lib/clamav").unwrap();
        std::fs::write("/var/lib/clamav/test.cvd", talos("test-3.cvd")).unwrap();
        let settings = "LocalSocket /run/clamav/clamd.ctl\nLogFile /var/lib/clamd.log\nForeground yes\n";
        std::fs::write("/etc/clamav/clamd.conf", settings).unwrap();
        // Ends with the namespaces: it is killed with the process that starts it.
        let mut dying = Command::new("setpriv");
        dying.args(["--pdeathsig", "KILL"]).arg(clamd).stdout(Stdio::null()).stderr(Stdio::null());
        let mut clamd = dying.spawn().unwrap();
        std::thread::spawn(move || clamd.wait());
        wait_for("clamd", || Path::new("/run/clamav/clamd.ctl").exists().then_some(()));
    });
}

/// A front door is short, and every page is reached from it.
#[test]
fn the_readme_is_short_and_every_link_leads_somewhere() {
    let docs = std::fs::read_dir(root().join("packaging/doc")).unwrap().map(|entry| entry.unwrap().path());
    let pages: Vec<PathBuf> = docs.collect();
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    assert!(readme.lines().count() < 250);
    for page in &pages {
        let link = format!("(packaging/doc/{})", page.file_name().unwrap().to_str().unwrap());
        assert!(readme.contains(&link), "no link {link} in the README");
    }
    for page in pages.iter().chain([&root().join("README.md")]) {
        let text = std::fs::read_to_string(page).unwrap();
        for link in links(&text) {
            let target = page.parent().unwrap().join(link);
            assert!(target.exists(), "{}: {link} leads nowhere", page.display());
        }
    }
}

/// Links within the project.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let local = targets.filter(|target| !target.contains("://") && !target.starts_with('#'));
    local.map(|target| target.split('#').next().unwrap()).collect()
}

#[test]
fn a_block_ends_where_it_should() {
    let page = "a\n```sh\none\ntwo\n```\nb\n```toml\nx = 1\n```\n";
    let found: Vec<(String, String)> = blocks(page).into_iter().map(|b| (b.kind, b.text)).collect();
    assert_eq!(found, [("sh".into(), "one\ntwo\n".into()), ("toml".into(), "x = 1\n".into())]);
    assert!(Path::new(env!("CARGO_BIN_EXE_cvdmirror")).exists());
}
