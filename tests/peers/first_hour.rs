//! A newcomer's first hour with the program: every output is short, and says what to do where something is wrong.
//!
//! From the package where `CVDMIRROR_DEB` names one, on a machine of its own; else with the built binary. What stands in
//! for the world outside is a network of its own, in which Talos' names lead nowhere, and a CDN with minted databases.
use crate::client_recipe::{STOCK, led};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};
use support::{
    cdn::{Cdn, Front},
    machine::Machine,
    mint::{Lineage, Mint, Release},
    namespace, peer,
    peers::Peers,
    process::{self, Ran},
    program, skip,
    transcript::{Transcript, findings},
    wait_for,
};

/// The CDN, in this network.
const UPSTREAM: &str = "203.0.113.1";
/// Where a server without systemd logs.
const LOG: &str = "/srv/home/log";

/// Where the newcomer has the program from.
enum Place {
    /// `cargo run -- serve`, in a home directory.
    Cargo {
        server: Option<Child>,
    },
    Package(Machine),
}

struct Newcomer {
    place: Place,
    transcript: Transcript,
    /// How much of the server's log has been read.
    read: usize,
}

impl Newcomer {
    /// One with the program at hand and nothing started; none where the package's machine cannot be had.
    fn new() -> Option<Self> {
        let place = match std::env::var_os("CVDMIRROR_DEB") {
            Some(package) => Place::Package(installed(Path::new(&package))?),
            None => {
                // As empty as a machine of its own would be.
                outside("mount -t tmpfs -o mode=755 tmpfs /srv && mkdir /srv/home");
                outside(&format!("ip address add {UPSTREAM}/32 dev lo"));
                // Out of reach, where one that is silent would be waited for.
                outside("echo nameserver 192.0.2.53 >/etc/resolv.conf");
                Place::Cargo { server: None }
            }
        };
        Some(Self { place, transcript: Transcript::default(), read: 0 })
    }

    /// Runs a line of shell.
    fn shell(&self, line: &str) -> Ran {
        match &self.place {
            Place::Package(machine) => machine.run(line),
            Place::Cargo { .. } => process::run(self.here("sh").args(["-c", line])),
        }
    }

    /// A program in the newcomer's environment, on this machine.
    fn here(&self, program: &str) -> Command {
        let mut command = Command::new("env");
        let bin = program::binary();
        command.args(["-i", "HOME=/srv/home", "LANG=C.UTF-8"]);
        command.arg(format!("PATH={}:/usr/sbin:/usr/bin:/sbin:/bin", bin.parent().unwrap().display()));
        if self.settings().exists() {
            command.arg(format!("CVDMIRROR_CONFIG={}", self.settings().display()));
        }
        command.arg(program).current_dir("/srv/home");
        command
    }

    /// Types a line, which must end with this exit code; what it prints is held to the rules.
    fn types(&mut self, line: &str, code: i32) -> String {
        // As a terminal shows it.
        let ran = self.shell(&format!("exec 2>&1; {line}"));
        let shown = if code == 0 { line.to_owned() } else { format!("{line}   # exits {code}") };
        self.transcript.printed(&shown, &ran.stdout);
        if ran.code != Some(code) {
            self.transcript.finds(&shown, &format!("exit {:?}", ran.code));
        }
        ran.stdout
    }

    /// Where the settings are.
    fn settings(&self) -> PathBuf {
        self.path(match &self.place {
            Place::Package(_) => "/etc/cvdmirror/cvdmirror.toml",
            Place::Cargo { .. } => "/srv/home/cvdmirror.toml",
        })
    }

    /// Where a path of the newcomer's is out here.
    fn path(&self, path: &str) -> PathBuf {
        match &self.place {
            Place::Package(machine) => machine.path(path),
            Place::Cargo { .. } => path.into(),
        }
    }

    /// Starts the server, or starts it again, with these settings; returns once it serves.
    fn starts(&mut self, settings: Option<&str>) {
        if let Some(text) = settings {
            // The package's own file names the directory.
            let dir = match &self.place {
                Place::Package(_) => "data_dir = \"/var/lib/cvdmirror\"\n",
                Place::Cargo { .. } => "",
            };
            let text = [dir, text].concat();
            fs::write(self.settings(), &text).unwrap();
            self.transcript.outside("cat cvdmirror.toml", &text);
        }
        match &mut self.place {
            Place::Package(machine) => {
                let verb = if settings.is_some() { "restart" } else { "enable --now" };
                let line = &format!("systemctl {verb} cvdmirror");
                machine.run(line).exits(0);
                self.transcript.outside(line, "");
            }
            Place::Cargo { server } => {
                if let Some(mut server) = server.take() {
                    process::terminate(&server);
                    assert!(process::ends(&mut server).is_some_and(|status| status.success()));
                }
                let log = fs::File::options().create(true).append(true).open(LOG).unwrap();
                let mut command = self.here("cvdmirror");
                command.arg("serve").stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
                self.place = Place::Cargo { server: Some(command.spawn().unwrap()) };
            }
        }
        wait_for("the server", || {
            (self.shell("curl -s http://127.0.0.1:8080/livez").code == Some(0)).then_some(())
        });
    }

    /// Everything that the server has said.
    fn log(&self) -> String {
        match &self.place {
            Place::Package(machine) => machine.run("journalctl -t cvdmirror -o cat -q --no-pager").stdout,
            Place::Cargo { .. } => fs::read_to_string(LOG).unwrap(),
        }
    }

    /// Reads what the server has said since the last look, once that holds `needle`.
    fn reads_log(&mut self, needle: &str) {
        let log = wait_for(&format!("{needle:?} in the log"), || {
            Some(self.log()[self.read..].to_owned()).filter(|log| log.contains(needle))
        });
        self.read += log.len();
        self.transcript.printed("(the server's log)", &log);
    }

    /// Looks at everything there is to look at.
    fn looks(&mut self, page: &str, healthy: bool) {
        let or = |good, bad| if healthy { good } else { bad };
        self.types("cvdmirror status", 0);
        let title = self.types("curl -s http://127.0.0.1:8080/ | grep -om1 '<title>.*</title>'", 0);
        assert!(title.contains(page), "{title}");
        for path in ["health", "livez", "readyz"] {
            let said = self.types(&format!("curl -s http://127.0.0.1:8080/{path}"), 0);
            assert!(said.len() < 400, "{path}: {said}");
        }
        self.types("cvdmirror doctor", or(0, 1));
        self.types("cvdmirror status --check fresh", or(0, 1));
    }

    /// Breaks the way to the upstream, or mends it.
    fn network(&mut self, works: bool) {
        let line = match (&self.place, works) {
            (Place::Package(_), true) => {
                format!("ip link set eth0 up && ip route replace {UPSTREAM} dev eth0")
            }
            (Place::Package(_), false) => "ip link set eth0 down".to_owned(),
            (Place::Cargo { .. }, true) => format!("ip address add {UPSTREAM}/32 dev lo"),
            (Place::Cargo { .. }, false) => format!("ip address del {UPSTREAM}/32 dev lo"),
        };
        self.shell(&line).exits(0);
        self.transcript.outside(&line, "");
    }

    /// Puts a file into the newcomer's `/srv`; returns its path there.
    fn puts(&self, name: &str, bytes: &[u8]) -> String {
        let path = format!("/srv/{name}");
        let file = self.path(&path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, bytes).unwrap();
        path
    }

    /// Where clients in this network reach the mirror.
    fn url(&self) -> &'static str {
        match self.place {
            Place::Package(_) => "http://203.0.113.2:8080",
            Place::Cargo { .. } => "http://127.0.0.1:8080",
        }
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        if let Place::Cargo { server: Some(server) } = &mut self.place {
            process::terminate(server);
            let _ = process::ends(server);
        }
    }
}

/// Runs a line as root of this network.
fn outside(line: &str) {
    process::run(Command::new("sh").args(["-c", line])).exits(0);
}

/// A machine with the package on it, and a cable to this network.
fn installed(package: &Path) -> Option<Machine> {
    let machine = Machine::boot()?;
    let name = package.file_name().unwrap().to_str().unwrap();
    machine.put(&format!("/root/{name}"), fs::read(package).unwrap());
    machine.run(&format!("apt-get install -q ./{name}")).exits(0);
    outside(&format!("ip link add out0 type veth peer name eth0 netns {}", machine.pid()));
    outside(&format!("ip address add {UPSTREAM}/24 dev out0 && ip link set out0 up"));
    machine.run("ip address add 203.0.113.2/24 dev eth0 && ip link set eth0 up").exits(0);
    Some(machine)
}

/// The world's databases, as they stand.
struct World {
    cdn: Cdn,
    front: Front,
    daily: Lineage,
    newest: Vec<(&'static str, Release)>,
}

impl World {
    fn new() -> Self {
        let (mint, cdn) = (Mint::new(16), Cdn::start([0, 0]));
        let mut world = Self {
            front: cdn.front_at("0.0.0.0:80"),
            cdn,
            daily: mint.database("daily"),
            newest: Vec::new(),
        };
        // Of different versions, as real ones are.
        for (name, version) in [("main", 1), ("bytecode", 2)] {
            let mut database = mint.database(name);
            let release = (0..version).map(|_| database.publish()).last().unwrap();
            world.cdn.publish(name, &release);
            world.newest.push((name, release));
        }
        // As many steps as a mirror keeps, so that a first fill is as long as a real one.
        (0..32).for_each(|_| world.moves_on());
        world
    }

    /// A new version of daily.
    fn moves_on(&mut self) {
        let release = self.daily.publish();
        self.cdn.publish("daily", &release);
        self.newest.retain(|(name, _)| *name != "daily");
        self.newest.push(("daily", release));
    }

    fn daily(&self) -> u32 {
        self.newest.last().unwrap().1.version
    }

    /// Leaves the newest CVDs in /srv/databases, as a downloader does.
    fn fills(&self, newcomer: &Newcomer) {
        for (name, release) in &self.newest {
            newcomer.puts(&format!("databases/{name}.cvd"), &release.cvd);
        }
    }
}

#[test]
fn the_first_hour_is_short_and_says_what_to_do() {
    for program in ["freshclam", "curl", "ip", "setpriv", "unshare"] {
        if peer(program).is_none() {
            return;
        }
    }
    if !rustix::process::geteuid().is_root() {
        return skip("another user can be had by root only");
    }
    if !namespace::inside("the_first_hour_is_short_and_says_what_to_do") {
        return;
    }
    let (Some(peers), Some(mut it)) = (Peers::with_mint_keys(), Newcomer::new()) else { return };
    let mut world = World::new();

    starts_without_a_network(&mut it);
    let trust = format!("trust_keys = \"{}\"\n", it.puts("keys.toml", Mint::new(16).keys_toml().as_bytes()));
    fills_from_an_upstream(&mut it, &trust);
    looks_into_the_store(&mut it);
    loses_the_network(&mut it, &mut world);
    is_refused(&mut it, &mut world);
    fills_from_a_directory(&mut it, &mut world, &trust);
    leads_a_client(&mut it, &peers, world.daily());
    mistypes(&mut it);
    std::mem::take(&mut it.transcript).finish();
}

fn starts_without_a_network(it: &mut Newcomer) {
    it.transcript.chapter("Start, without a network");
    it.types("cvdmirror status", 1);
    it.types("cvdmirror doctor", 1);
    it.types("cvdmirror config check", 0);
    it.starts(None);
    it.reads_log("WARN");
    it.looks("Nothing is held yet", false);
    it.types("cvdmirror sync", 1);
    it.types("cvdmirror store ls", 0);
}

fn fills_from_an_upstream(it: &mut Newcomer, trust: &str) {
    it.transcript.chapter("Fill from an upstream");
    it.starts(Some(&format!("source = \"http://{UPSTREAM}\"\n{trust}")));
    it.reads_log("main: checked");
    it.types("cvdmirror sync", 0);
    it.reads_log("main: checked");
    it.looks("Fresh", true);
}

fn looks_into_the_store(it: &mut Newcomer) {
    it.transcript.chapter("Look into the store");
    it.types("cvdmirror store ls main bytecode daily-32", 0);
    it.types("cvdmirror store stat", 0);
    it.types("cvdmirror store verify", 0);
    it.types("cvdmirror store gc --dry-run", 0);
    it.types("cvdmirror store backup /srv/backup", 0);
    it.types("cvdmirror store backup /srv/backup", 0);
    it.types("cvdmirror store cat daily.cvd >/srv/daily.cvd", 0);
    it.types("cvdmirror verify /srv/daily.cvd", 0);
    it.types("cvdmirror store cat daily.cld", 1);
    it.types("cvdmirror store ls nothing", 1);
    it.types("cvdmirror -q sync", 0);
    it.reads_log("main: checked");
}

fn loses_the_network(it: &mut Newcomer, world: &mut World) {
    it.transcript.chapter("Break the network, and mend it");
    it.network(false);
    world.moves_on();
    it.types("cvdmirror sync", 1);
    it.reads_log("WARN");
    it.types("cvdmirror status", 0);
    it.types("cvdmirror doctor", 1);
    it.network(true);
    it.types("cvdmirror sync", 0);
    it.reads_log("33");
    it.looks("Fresh", true);
    it.types("cvdmirror store ls daily-33", 0);
}

fn is_refused(it: &mut Newcomer, world: &mut World) {
    it.transcript.chapter("A CDN that answers 403 to everybody but freshclam and cvdupdate");
    world.front.refuse("cvdmirror");
    world.moves_on();
    it.types("cvdmirror sync", 1);
    it.reads_log("403");
    it.types("cvdmirror sync", 1);
    it.reads_log("not asked");
    it.types("cvdmirror status", 0);
    it.types("cvdmirror doctor", 1);
}

fn fills_from_a_directory(it: &mut Newcomer, world: &mut World, trust: &str) {
    it.transcript.chapter("Fill from a directory");
    world.fills(it);
    it.starts(Some(&format!("source = \"dir:/srv/databases\"\n{trust}")));
    it.reads_log("main: checked");
    it.types("cvdmirror sync", 0);
    it.reads_log("main: checked");
    it.looks("Fresh", true);
    // Half a file, as a download that broke off leaves it; then the whole.
    world.moves_on();
    let whole = &world.newest.last().unwrap().1.cvd;
    it.puts("databases/daily.cvd", &whole[..whole.len() / 2]);
    it.reads_log("fix: `cvdmirror sync`");
    it.types("cvdmirror sync", 1);
    it.reads_log("fix: `cvdmirror sync`");
    it.types("cvdmirror status", 0);
    world.fills(it);
    it.reads_log("35 is served");
    it.types("cvdmirror status", 0);
}

fn leads_a_client(it: &mut Newcomer, peers: &Peers, version: u32) {
    it.transcript.chapter("A client");
    it.types("cvdmirror client-config", 0);
    let (name, stock) = STOCK[0];
    it.types(&format!("cvdmirror doctor --freshclam-conf {}", it.puts("stock.conf", stock.as_bytes())), 1);
    let dir = tempfile::tempdir().unwrap();
    let file = led(dir.path(), stock, it.url());
    let update = || {
        let mut freshclam = peers.command("freshclam");
        process::run(freshclam.arg("--config-file").arg(&file).arg("--stdout")).exits(0)
    };
    let said = update().says([&format!("daily.cvd updated (version: {version},")]).stdout;
    it.transcript.outside(&format!("freshclam   # {name}"), &said);
    update().says([&format!("daily.cvd database is up-to-date (version: {version},")]);
    let led = it.puts("led.conf", &fs::read(&file).unwrap());
    it.types(&format!("cvdmirror doctor --freshclam-conf {led}"), 0);
}

fn mistypes(it: &mut Newcomer) {
    it.transcript.chapter("Mistakes");
    it.types("cvdmirror serve", 1);
    it.types("cvdmirror sevre", 2);
    it.types("cvdmirror serve --check-intervall 5m", 2);
    it.types("cvdmirror serve --check-interval 15", 2);
    it.types("CVDMIRROR_CHECK_INTERVALL=5m cvdmirror config check", 2);
    it.types("cvdmirror config check --config /nowhere.toml", 2);
    let settings = it.puts("wrong.toml", b"chek_interval = \"5m\"\n");
    it.types(&format!("cvdmirror config check --config {settings}"), 2);
    let settings = it.puts("torn.toml", b"check_interval = \"5m\n");
    it.types(&format!("cvdmirror config check --config {settings}"), 2);
    for source in
        ["dir:relative", "http:/database.clamav.net", "ftp://database.clamav.net", "database.clamav.net"]
    {
        it.types(&format!("cvdmirror sync --data-dir /srv/other --source {source}"), 2);
    }
    let trust = "--data-dir /srv/other --source";
    it.types(&format!("cvdmirror sync {trust} https://{UPSTREAM}:80"), 1);
    it.types(&format!("cvdmirror doctor {trust} https://{UPSTREAM}:80"), 1);
    it.types(&format!("cvdmirror sync {trust} dir:/srv/databases --database dialy"), 1);
    for line in
        ["status", "store ls", "store stat", "store verify", "store gc --dry-run", "store backup /srv/b"]
    {
        it.types(&format!("cvdmirror {line} --data-dir /srv/nowhere"), 1);
    }
    it.types("cvdmirror verify /nowhere.cvd /etc/passwd", 1);
    it.shell("mkdir -p /srv/sealed && mount -t tmpfs -o ro tmpfs /srv/sealed").exits(0);
    it.types("cvdmirror serve --listen 127.0.0.1:0 --data-dir /srv/sealed", 1);
    it.types("cvdmirror doctor --data-dir /srv/sealed", 1);
    it.shell("umount /srv/sealed && mkdir -m 777 /srv/free && mkdir -m 700 -p /srv/closed/store").exits(0);
    let nobody = "setpriv --reuid nobody --regid nogroup --clear-groups cvdmirror";
    let closed = it.puts("closed.toml", b"");
    it.shell(&format!("chmod 600 {closed}")).exits(0);
    it.types(&format!("{nobody} status --config {closed}"), 2);
    let other = it.puts("other.toml", b"source = \"dir:/srv/databases\"\n");
    for line in ["status", "store ls", "doctor", "sync", "serve --listen 127.0.0.1:0"] {
        it.types(&format!("{nobody} {line} --data-dir /srv/closed --config {other}"), 1);
    }
    it.types(&format!("{nobody} serve --listen 127.0.0.1:80 --data-dir /srv/free --config {other}"), 1);
}

#[test]
fn the_rules_have_teeth() {
    let good = "fresh\n\n\n2026-11-25T18:33:26Z  WARN the source is away\n  fix: start the source\n";
    assert_eq!(findings(good), Vec::<String>::new());
    let wide = format!("{}\n", "x".repeat(101));
    let long: String = (0..25).map(|n| format!("{n}\n")).collect();
    let again = "2026-11-25T18:33:26Z  INFO started\n2026-11-25T18:33:27Z  INFO started\n";
    for (bad, finding) in [
        (wide.as_str(), "101 columns"),
        (&long, "25 lines"),
        (again, "again: "),
        ("fresh", "no newline"),
        ("Connection refused (os error 111)\n", "debug text"),
        ("Query { name: Name(\"x\") }\n", "debug text"),
        ("thread 'main' panicked at src/main.rs\n", "debug text"),
        ("cvdmirror: it does not work\n", "no word about what to do"),
    ] {
        let found = findings(bad);
        assert!(found.len() == 1 && found[0].starts_with(finding), "{bad}: {found:?}");
    }
}
