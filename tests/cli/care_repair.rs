//! Rot beside a running server, and what is dropped while it is downloaded.
use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::FileExt,
    path::PathBuf,
    time::Duration,
};
use support::{
    mint::{Mint, Release},
    program::{Program, Serving, copy_files},
    talos,
    upstream::{Answer, Upstream},
    wait_for,
    wire::{self, Reply},
};

/// Flips a bit in place of what a pack stores of `content`, as a failing disk does.
fn rot(program: &Program, content: &[u8], at: usize) -> PathBuf {
    let needle = &content[at..at + 64];
    for path in program.packs() {
        let bytes = fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(needle.len()).position(|window| window == needle) {
            let mut permissions = fs::metadata(&path).unwrap().permissions();
            #[allow(clippy::permissions_set_readonly_false)]
            permissions.set_readonly(false);
            fs::set_permissions(&path, permissions).unwrap();
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.write_all_at(&[bytes[at + 32] ^ 1], at as u64 + 32).unwrap();
            return path;
        }
    }
    panic!("no pack holds it");
}

/// A mirror of a minted database of some MB, which no cache of the server holds whole.
fn minted(mint: &Mint) -> (Upstream, Release, Program) {
    let release = mint.database_of("test", 40_000, 0).publish();
    let upstream = Upstream::start();
    upstream.release("test", &release);
    let program = Program::new(&upstream.url()).trusting(&mint.keys_toml());
    program.sync().exits(0);
    (upstream, release, program)
}

fn metric(server: &Serving, name: &str) -> u64 {
    let text = server.get("/metrics").text();
    let line = text.lines().find(|line| line.starts_with(&format!("cvdmirror_{name} ")));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).rsplit(' ').next().unwrap().parse().unwrap()
}

fn is_broken(reply: &Reply, whole: &[u8]) -> bool {
    reply.status >= 500 || (reply.body.len() < whole.len() && whole.starts_with(&reply.body))
}

#[test]
fn rot_under_a_running_server_is_quarantined_shown_and_repaired() {
    let mint = Mint::new(4);
    let (upstream, release, program) = minted(&mint);
    upstream.set("/test.cvd", Answer::Hangup);
    let server = program.serve();
    server.says("checked");
    assert_eq!(metric(&server, "store_quarantined_objects"), 0);
    let pack = rot(&program, &release.cvd, release.cvd.len() - 5000);
    let pack = pack.file_stem().unwrap().to_str().unwrap().to_owned();
    assert!(is_broken(&server.get("/test-1.cvd"), &release.cvd));
    wait_for("the quarantine", || (metric(&server, "store_quarantined_objects") == 1).then_some(()));
    let found = program.status()["findings"].to_string();
    assert!(found.contains(&pack) && found.contains("is corrupt and not served"), "{found}");
    assert!(server.get("/health").text().contains("is corrupt"));
    assert_eq!(server.get("/test-1.cvd").status, 404);

    // A restart does not forget it, though it reads nothing of it but the header.
    drop(server);
    let found = program.status()["findings"].to_string();
    assert!(found.contains("is corrupt and not served"), "{found}");
    let server = program.serve();
    server.says("checked");
    assert_eq!((server.get("/test-1.cvd").status, metric(&server, "store_quarantined_objects")), (404, 1));

    // The source is back: it is fetched again, and the corrupt copy is deleted.
    upstream.release("test", &release);
    program.sync().exits(0).says(["test-1.cvd                   stored"]);
    assert!(server.get("/test-1.cvd").body == release.cvd);
    program.sync().exits(0);
    assert_eq!(metric(&server, "store_quarantined_objects"), 0);
    assert_eq!(program.status()["findings"].to_string(), "[]");
    program.run(&["store", "stat"]).exits(0).says(["1 retired pack of "]);
    drop(server);
    let server = program.serve();
    assert!(server.get("/test-1.cvd").body == release.cvd);
    assert_eq!(program.status()["findings"].to_string(), "[]");
}

/// The mirror's thread waits for the network then, for as long as the source may be silent.
#[test]
fn a_corrupt_copy_is_taken_out_while_a_download_hangs() {
    let mint = Mint::new(9);
    let (upstream, release, program) = minted(&mint);
    rot(&program, &release.cvd, release.cvd.len() - 5000);
    upstream.asked();
    upstream.set("/test.cvd", Answer::Silence);
    let program = program.set("stall-timeout", "10m");
    let mut server = program.serve();
    wait_for("the probe", || upstream.targets().contains(&"/test.cvd".to_owned()).then_some(()));
    assert!(is_broken(&server.get("/test-1.cvd"), &release.cvd));
    wait_for("the quarantine", || (metric(&server, "store_quarantined_objects") == 1).then_some(()));
    assert_eq!(server.get("/test-1.cvd").status, 404);
    // Nor does it keep the server from ending.
    server.terminate();
    assert_eq!(server.ends(), Some(0));
}

#[test]
fn what_verify_finds_corrupt_the_running_server_repairs() {
    let mint = Mint::new(5);
    let (_upstream, release, program) = minted(&mint);
    let server = program.serve();
    server.says("checked");
    rot(&program, &release.cvd, release.cvd.len() / 2);
    program.run(&["store", "verify"]).exits(1).says(["is corrupt at byte", "used by test-1.cvd"]);
    assert_eq!(metric(&server, "store_quarantined_objects"), 1);
    program.sync().exits(0).says(["test-1.cvd                   stored"]);
    assert!(server.get("/test-1.cvd").body == release.cvd);
}

/// A corrupt CDIFF is small: its pack is rewritten all the same.
#[test]
fn a_corrupt_cdiff_is_fetched_again() {
    let upstream = Upstream::talos(5);
    let program = Program::new(&upstream.url());
    program.sync().exits(0);
    rot(&program, &talos("test-4.cdiff"), 500);
    let server = program.serve();
    server.says("checked");
    assert!(is_broken(&server.get("/test-4.cdiff"), &talos("test-4.cdiff")));
    wait_for("the quarantine", || (metric(&server, "store_quarantined_objects") == 1).then_some(()));
    program.sync().exits(0).says(["test-4.cdiff                 stored"]);
    assert!(server.get("/test-4.cdiff").body == talos("test-4.cdiff"));
    assert_eq!(metric(&server, "store_quarantined_objects"), 0);
    drop(server);
    assert!(program.serve().get("/test-4.cdiff").body == talos("test-4.cdiff"));
    assert_eq!(program.status()["findings"].to_string(), "[]");
}

/// Every file of a store, with a byte changed anywhere: `verify` says so, and no client gets other bytes.
/// FLIPS=2000 for the full number.
#[test]
fn a_changed_byte_anywhere_is_found_and_never_served() {
    let flips: u64 = std::env::var("FLIPS").map_or(24, |n| n.parse().unwrap());
    let upstream = Upstream::talos(3);
    let origin = Program::new(&upstream.url());
    origin.sync().exits(0);
    upstream.move_to(5);
    origin.sync().exits(0);
    let names = origin.names();
    let packs: Vec<(PathBuf, Vec<u8>)> =
        origin.packs().into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    let total: usize = packs.iter().map(|(_, bytes)| bytes.len()).sum();
    let (mut whole, mut absent, mut broken) = (0, 0, 0);
    for flip in 0..flips {
        let program = Program::new("http://127.0.0.1:1");
        copy_files(&origin.data().join("store"), &program.data().join("store"));
        // The packs are trusted here: nothing but the reading itself stands between them and the client.
        fs::copy(origin.data().join("state.redb"), program.data().join("state.redb")).unwrap();
        // Spread evenly over all bytes of all files.
        let mut at = (flip as usize * 2 + 1) * total / (flips as usize * 2);
        let (path, bytes) = packs
            .iter()
            .find(|(_, bytes)| {
                let here = at < bytes.len();
                at -= if here { 0 } else { bytes.len() };
                here
            })
            .unwrap();
        let copy = program.data().join("store").join(path.file_name().unwrap());
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (flip % 8);
        fs::remove_file(&copy).unwrap();
        fs::write(&copy, changed).unwrap();

        let server = program.serve();
        for name in &names {
            let reply = server.get(&format!("/{name}"));
            match reply.status {
                200 if reply.body == talos(name) => whole += 1,
                404 => absent += 1,
                _ => {
                    assert!(is_broken(&reply, &talos(name)), "byte {at} of {path:?}: {name}");
                    broken += 1;
                }
            }
        }
        let file = path.file_stem().unwrap().to_str().unwrap();
        program.run(&["store", "verify"]).exits(1).says([file]);
    }
    eprintln!(
        "{flips} changed bytes in {total}: {whole} answers whole, {absent} absent, {broken} broken off"
    );
}

/// A full CVD is dropped, its file removed, while a client takes it slowly: the client gets all of it.
#[test]
fn a_download_of_what_is_dropped_goes_on_to_its_end() {
    let mint = Mint::new(9);
    let mut lineage = mint.database_of("test", 300_000, 5);
    let first = lineage.publish();
    let upstream = Upstream::start();
    upstream.release("test", &first);
    let program = Program::new(&upstream.url()).trusting(&mint.keys_toml());
    let program = program.set("keep-cvds", "1").set("grace", "10ms");
    let server = program.serve();
    server.publishes(1);
    program.sync().exits(0);
    let packs = program.packs();

    let mut slow = TcpStream::connect(server.address).unwrap();
    slow.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    slow.write_all(b"GET /test-1.cvd HTTP/1.1\r\nHost: mirror\r\nConnection: close\r\n\r\n").unwrap();
    let mut bytes = vec![0; 1000];
    slow.read_exact(&mut bytes).unwrap();

    upstream.release("test", &lineage.publish());
    program.sync().exits(0).says(["2 published"]);
    program.run(&["store", "gc"]).exits(0);
    assert_eq!(server.get("/test-1.cvd").status, 404);
    assert!(packs.iter().all(|pack| !pack.exists()), "the space is given back");
    slow.read_to_end(&mut bytes).unwrap();
    assert!(wire::reply(&bytes).body == first.cvd);
}

#[test]
fn gc_says_what_would_go_and_then_it_goes() {
    let mint = Mint::new(3);
    let mut lineage = mint.database_of("test", 20_000, 5);
    let upstream = Upstream::start();
    let program = Program::new(&upstream.url()).trusting(&mint.keys_toml());
    for _ in 0..3 {
        upstream.release("test", &lineage.publish());
        let keeps_all = program.run(&["sync", "--keep-cvds", "9"]);
        keeps_all.exits(0);
    }
    let before = program.names();
    let program = program.set("keep-cvds", "1");
    let said = program.run(&["store", "gc", "--dry-run"]).exits(0);
    let said = said.says(["drops test-1.cvd", "drops test-2.cvd", "2 names dropped", "0 B freed now"]);
    assert!(!said.stdout.contains("gives 0 B back"), "{said}");
    assert_eq!(program.names(), before);
    program.run(&["store", "gc"]).exits(0).says(["2 names dropped"]);
    let after = program.names();
    assert_eq!(after, ["test-2.cdiff", "test-3.cdiff", "test-3.cvd"]);
    program.run(&["store", "gc"]).exits(0).says(["0 names dropped; 0 packs retired"]);
    // The files wait, and show as such.
    let stat = program.run(&["store", "stat", "--json"]).exits(0);
    let stat: serde_json::Value = serde_json::from_str(&stat.stdout).unwrap();
    assert!(
        stat["retired_packs"].as_u64() > Some(0) && stat["retired_bytes"].as_u64() > Some(100_000),
        "{stat}"
    );
    let program = program.set("grace", "10ms");
    program.run(&["store", "gc"]).exits(0).never_says("0 B freed now");
    let stat = program.run(&["store", "stat", "--json"]).exits(0);
    let stat: serde_json::Value = serde_json::from_str(&stat.stdout).unwrap();
    assert_eq!((stat["retired_packs"].as_u64(), stat["retired_bytes"].as_u64()), (Some(0), Some(0)));
    program.run(&["store", "verify"]).exits(0);
}
