//! The real clamd and clamscan, on minted databases, while pull brings one version after the other.
use super::client::Client;
use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    time::{Duration, Instant},
};
use support::{
    mint::{Lineage, Mint},
    peer,
    peers::Peers,
    process,
    program::Program,
    upstream::{Answer, Upstream},
    wait_for,
};
use tempfile::TempDir;

const EICAR: &[u8] = br"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*";

/// A running clamd on a client's directory.
struct Clamd {
    child: Child,
    socket: PathBuf,
    dir: TempDir,
}

impl Clamd {
    fn start(peers: &Peers, db: &Path) -> Option<Self> {
        Self::start_with(peers, db, "")
    }

    fn start_with(peers: &Peers, db: &Path, more: &str) -> Option<Self> {
        peer("clamd")?;
        let dir = TempDir::new().unwrap();
        let socket = dir.path().join("clamd.ctl");
        let config = dir.path().join("clamd.conf");
        let settings = format!(
            "Foreground yes\nLocalSocket {}\nLogFile {}\nDatabaseDirectory {}\n{more}",
            socket.display(),
            dir.path().join("log").display(),
            db.display()
        );
        std::fs::write(&config, settings).unwrap();
        let mut command = peers.command("clamd");
        command
            .arg(format!("--config-file={}", config.display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let clamd = Self { child: command.spawn().unwrap(), socket, dir };
        wait_for("clamd", || UnixStream::connect(&clamd.socket).is_ok().then_some(()));
        Some(clamd)
    }

    fn ask(&self, command: &str) -> String {
        ask(&self.socket, command)
    }

    /// The version of the daily database that it has loaded.
    fn daily(&self) -> Option<u32> {
        self.ask("VERSION").split('/').nth(1)?.parse().ok()
    }

    fn address(&self) -> &str {
        self.socket.to_str().unwrap()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }
}

impl Drop for Clamd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("-- clamd\n{}", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A pull that goes on until it is dropped.
struct Follower(Child);

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ask(socket: &Path, command: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(format!("z{command}\0").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.trim_end_matches('\0').to_owned()
}

/// A lineage of `daily` that finds EICAR from the start.
fn daily(mint: &Mint) -> Lineage {
    let mut daily = mint.database("daily");
    daily.mark("Eicar-Test", EICAR);
    daily
}

fn marker(version: u32) -> Vec<u8> {
    format!("the marker of version {version}\n").into_bytes()
}

/// How many versions follow each other.
fn versions() -> u32 {
    std::env::var("VERSIONS").map_or(30, |text| text.parse().unwrap())
}

#[test]
fn cvds_follow_each_other_and_scanners_never_miss_a_thing() {
    follow("cvd", 41, versions());
}

#[test]
fn clds_follow_each_other_and_scanners_never_miss_a_thing() {
    follow("cld", 40, versions().min(12));
}

fn follow(form: &str, seed: u64, versions: u32) {
    let Some(peers) = Peers::with_mint_keys() else { return };
    let mint = Mint::new(seed);
    let mut daily = daily(&mint);
    let upstream = Upstream::start();
    let mut publish = |version: u32| {
        daily.mark(&format!("Marker-{version}"), &marker(version));
        let release = daily.publish();
        assert_eq!(release.version, version);
        upstream.release("daily", &release);
        upstream.file("daily.cvd.sign", Vec::new());
    };
    publish(1);
    let program = Program::new(&upstream.url())
        .set("database", "daily")
        .trusting(&mint.keys_toml())
        .set("check-interval", "300ms");
    program.sync().exits(0);
    let server = program.serve();
    let client = Client::of(&server.url()).set("database", "daily").set("as", form);
    let client = client.trusting(&mint.keys_toml());
    client.pull(&[]).exits(0);
    let Some(clamd) = Clamd::start(&peers, &client.db()) else { return };
    wait_for("clamd's first load", || (clamd.daily() == Some(1)).then_some(()));

    let files = TempDir::new().unwrap();
    let put = |name: &str, bytes: &[u8]| {
        let path = files.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let eicar = put("eicar", EICAR);
    let interval = Duration::from_millis(500);
    let mut follower = client.command(&["--interval=500ms", "--clamd", clamd.address()]);
    let follower = follower.stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().unwrap();
    let follower = Follower(follower);
    let (over, scans, loads) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let mut slowest = Duration::ZERO;
    std::thread::scope(|scope| {
        // What clamd has loaded finds EICAR at every moment, and no scan fails.
        scope.spawn(|| {
            while !over.load(SeqCst) {
                let said = ask(&clamd.socket, &format!("SCAN {}", eicar.display()));
                assert!(
                    said.ends_with("Eicar-Test.UNOFFICIAL FOUND") || said.ends_with("Eicar-Test FOUND"),
                    "{said}"
                );
                scans.fetch_add(1, SeqCst);
            }
        });
        // So does what a scanner finds that loads the directory at any moment.
        scope.spawn(|| {
            while !over.load(SeqCst) {
                let mut scan = peers.command("clamscan");
                let said = process::run(scan.arg("--no-summary").arg("-d").arg(client.db()).arg(&eicar));
                said.exits(1).says(["Eicar-Test"]).never_says("WARNING: Detected duplicate");
                loads.fetch_add(1, SeqCst);
            }
        });
        for version in 2..=versions {
            publish(version);
            wait_for("the mirror", || {
                let text = server.get("/dns.txt").body;
                String::from_utf8_lossy(&text).contains(&format!(":{version}:")).then_some(())
            });
            let began = Instant::now();
            wait_for(&format!("clamd at {version}"), || (clamd.daily() == Some(version)).then_some(()));
            slowest = slowest.max(began.elapsed());
            for earlier in [version / 2 + 1, version] {
                let path = put("marker", &marker(earlier));
                let said = clamd.ask(&format!("SCAN {}", path.display()));
                assert!(said.contains(&format!("Marker-{earlier}")), "{version}: {said}");
            }
        }
        over.store(true, SeqCst);
    });
    drop(follower);
    let (scans, loads) = (scans.load(SeqCst), loads.load(SeqCst));
    println!(
        "{scans} scans and {loads} loads over {versions} versions; clamd was {slowest:?} behind at most"
    );
    assert!(loads as u32 >= versions / 2 && scans > loads);
    // An interval, and what loading takes on a busy machine.
    assert!(slowest < interval + Duration::from_secs(20), "{slowest:?}");
    assert!(!clamd.log().contains("ERROR"), "{}", clamd.log());
}

/// A mirror with versions 1 and 2 of `daily`, of which the client has 1 and clamd has loaded it.
struct Scene {
    mirror: Upstream,
    client: Client,
    clamd: Clamd,
    peers: Peers,
    daily: Lineage,
}

fn offer(mirror: &Upstream, release: &support::mint::Release) {
    mirror.file(&release.cvd_name().to_string(), release.cvd.clone());
    if let Some(cdiff) = &release.cdiff {
        mirror.file(&release.cdiff_name().to_string(), cdiff.clone());
    }
    mirror.file("dns.txt", format!("0.0.0:0:{}:1800000000:0:90:0:0\n", release.version).into_bytes());
}

fn scene(seed: u64) -> Option<Scene> {
    let peers = Peers::with_mint_keys()?;
    let mint = Mint::new(seed);
    let mut daily = daily(&mint);
    let mirror = Upstream::start();
    offer(&mirror, &daily.publish());
    let client = Client::of(&mirror.url()).set("database", "daily").trusting(&mint.keys_toml());
    client.pull(&[]).exits(0);
    let clamd = Clamd::start(&peers, &client.db())?;
    wait_for("clamd's first load", || (clamd.daily() == Some(1)).then_some(()));
    Some(Scene { mirror, client, clamd, peers, daily })
}

#[test]
fn what_clamd_does_not_load_is_taken_back_and_kept_with_its_words() {
    let Some(mut scene) = scene(42) else { return };
    let before = scene.client.files();
    // Signed, and nothing that an engine can load.
    scene.daily.spoil();
    offer(&scene.mirror, &scene.daily.publish());
    let clamd = scene.clamd.address().to_owned();
    let ran = scene.client.pull(&["--clamd", &clamd]).exits(1);
    let ran =
        ran.says(["did not load it", "Malformed database", "the previous files are back", "are kept: "]);
    assert!(scene.client.files() == before, "{ran}");
    assert_eq!(scene.clamd.daily(), Some(1));
    let refused = scene.client.db().join(".cvdmirror/refused");
    assert!(refused.join("daily-2.cvd").exists());
    assert!(std::fs::read_to_string(refused.join("daily-2.txt")).unwrap().contains("Malformed database"));
    wait_for("clamd's load of the previous files", || {
        scene.clamd.log().contains("Database correctly reloaded").then_some(())
    });

    // It is not tried again and again.
    scene.mirror.asked();
    scene.client.pull(&["--clamd", &clamd]).exits(1).says(["2 could not be loaded and is not installed"]);
    assert_eq!(scene.mirror.targets(), ["/dns.txt"]);

    // The next version is.
    scene.daily.unspoil();
    offer(&scene.mirror, &scene.daily.publish());
    let ran = scene.client.pull(&["--clamd", &clamd]).exits(0);
    ran.says(["daily: 1 -> 3 installed as CVD, by 2 CDIFFs", "clamd has loaded daily 3"]);
    assert_eq!(scene.clamd.daily(), Some(3));
    assert!(!refused.join("daily-2.cvd").exists());
}

#[test]
fn a_test_with_clamscan_keeps_a_bad_set_from_being_installed() {
    let Some(mut scene) = scene(43) else { return };
    let before = scene.client.files();
    scene.daily.spoil();
    offer(&scene.mirror, &scene.daily.publish());
    let file = scene.client.dir.path().join("file");
    std::fs::write(&file, EICAR).unwrap();
    let pull = |scene: &Scene| {
        let mut command = scene.client.command(&["--test", file.to_str().unwrap()]);
        process::run(command.env("LD_LIBRARY_PATH", scene.peers.libraries()))
    };
    pull(&scene).exits(1).says(["daily: 2 could not be loaded and is not installed", "Malformed database"]);
    assert!(scene.client.files() == before);
    scene.daily.unspoil();
    offer(&scene.mirror, &scene.daily.publish());
    pull(&scene).exits(0).says(["1 -> 3 installed"]);
}

#[test]
fn a_clamd_that_is_away_is_named_and_told_the_next_time() {
    let Some(mut scene) = scene(44) else { return };
    offer(&scene.mirror, &scene.daily.publish());
    let nowhere = scene.client.dir.path().join("no.ctl");
    let ran = scene.client.pull(&["--clamd", nowhere.to_str().unwrap()]).exits(1);
    ran.says([
        "1 -> 2 installed",
        &format!("clamd at {}", nowhere.display()),
        "loads what is installed when it starts",
    ]);
    assert_eq!(scene.clamd.daily(), Some(1));
    let clamd = scene.clamd.address().to_owned();
    scene.client.pull(&["--clamd", &clamd]).exits(0).says(["2 is the newest", "clamd has loaded daily 2"]);
    assert_eq!(scene.clamd.daily(), Some(2));
}

#[test]
fn a_clamd_that_nobody_told_follows_at_the_next_round() {
    let Some(mut scene) = scene(46) else { return };
    offer(&scene.mirror, &scene.daily.publish());
    scene.client.pull(&[]).exits(0);
    assert_eq!(scene.clamd.daily(), Some(1));
    let clamd = scene.clamd.address().to_owned();
    let ran = scene.client.pull(&["--clamd", &clamd]).exits(0);
    ran.says(["daily: 2 is the newest", "clamd has loaded daily 2"]);
    scene.client.pull(&["--clamd", &clamd]).exits(0).never_says("clamd has loaded");
    scene.client.pull(&["--clamd=/nowhere.ctl"]).exits(1).says(["clamd at /nowhere.ctl: No such file"]);
}

/// Two bad versions while clamd is away: what comes back is what it had loaded, not the first bad one.
#[test]
fn what_comes_back_is_what_clamd_is_known_to_load() {
    let Some(mut scene) = scene(47) else { return };
    let before = scene.client.files();
    scene.daily.spoil();
    for _ in 0..2 {
        offer(&scene.mirror, &scene.daily.publish());
        scene.client.pull(&["--clamd=/nowhere.ctl"]).exits(1).says(["installed as CVD"]);
    }
    scene.mirror.set("/dns.txt", Answer::Hangup);
    let clamd = scene.clamd.address().to_owned();
    scene.client.pull(&["--clamd", &clamd]).exits(1).says(["the previous files are back"]);
    assert!(scene.client.files() == before);
}

/// A pull that was killed between installing and clamd's answer leaves the question to the next one.
#[test]
fn a_bad_set_is_taken_back_by_the_next_round_too() {
    let Some(mut scene) = scene(45) else { return };
    let before = scene.client.files();
    scene.daily.spoil();
    let bad = scene.daily.publish();
    offer(&scene.mirror, &bad);
    let nowhere = scene.client.dir.path().join("no.ctl");
    scene.client.pull(&["--clamd", nowhere.to_str().unwrap()]).exits(1);
    assert_eq!(scene.client.read("daily.cvd"), bad.cvd);
    scene.mirror.set("/dns.txt", Answer::Hangup);
    let clamd = scene.clamd.address().to_owned();
    scene.client.pull(&["--clamd", &clamd]).exits(1).says(["the previous files are back"]);
    assert!(scene.client.files() == before);
}

/// What pull says of a clamd that it does not tell, by how often that looks by itself; and that it does.
#[test]
fn a_clamd_that_is_not_told_looks_by_itself() {
    let Some(mut scene) = scene(48) else { return };
    let pull = |scene: &mut Scene| {
        offer(&scene.mirror, &scene.daily.publish());
        scene.client.pull(&[]).exits(0)
    };
    pull(&mut scene)
        .says(["clamd loads it by itself, within 600 s (SelfCheck); --clamd has it do so at once"]);
    assert_eq!(scene.clamd.daily(), Some(1));
    scene.client.pull(&[]).exits(0).never_says("clamd");

    scene.clamd = Clamd::start_with(&scene.peers, &scene.client.db(), "SelfCheck 1\n").unwrap();
    pull(&mut scene).says(["clamd loads it by itself, within 1 s (SelfCheck)"]);
    wait_for("clamd's own look", || (scene.clamd.daily() == Some(3)).then_some(()));

    scene.clamd = Clamd::start_with(&scene.peers, &scene.client.db(), "SelfCheck 0\n").unwrap();
    let does = format!(
        "it does not look by itself (SelfCheck 0), and nobody tells it; --clamd {} does",
        scene.clamd.address()
    );
    pull(&mut scene).says(["clamd goes on with what it has loaded", &does]);
}
