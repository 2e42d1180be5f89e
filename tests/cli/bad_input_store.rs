//! A data directory that others have put their hands into: what is wrong is named, and the rest is served.
use cvdmirror_store::ObjectId;
use redb::TableDefinition;
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};
use support::{
    mint::Mint,
    program::{Program, Serving, copy_files},
    talos,
    upstream::Upstream,
};

/// An upstream that cannot be reached.
const NOWHERE: &str = "http://127.0.0.1:1";

/// A mirror that got `test` up to 5 from an upstream that is gone now.
fn filled() -> Program {
    let upstream = Upstream::talos(5);
    let program = Program::new(&upstream.url());
    program.sync().exits(0);
    program.set("source", NOWHERE)
}

/// A new data directory with copies of a store's packs.
fn carried(from: &Program) -> Program {
    let program = Program::new(NOWHERE);
    copy_files(&from.data().join("store"), &program.data().join("store"));
    program
}

fn store(program: &Program) -> PathBuf {
    program.data().join("store")
}

/// What the server found wrong with its store.
fn findings(program: &Program) -> String {
    program.status()["findings"].to_string()
}

/// Flips a bit in the middle of what a pack stores of `content`; the pack's length stays.
fn rot(program: &Program, content: &[u8]) -> PathBuf {
    let needle = &content[2000..2064];
    for path in program.packs() {
        let mut bytes = fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(needle.len()).position(|window| window == needle) {
            bytes[at + 32] ^= 1;
            fs::write(&path, bytes).unwrap();
            return path;
        }
    }
    panic!("no pack holds it");
}

fn serves(server: &Serving, name: &str) -> bool {
    let reply = server.get(&format!("/{name}"));
    match reply.status {
        200 => {
            assert!(reply.body == talos(name), "{name} is served with other bytes");
            true
        }
        404 | 503 => false,
        other => panic!("{name}: {other}"),
    }
}

fn file_name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

#[test]
fn a_second_server_is_refused_by_name() {
    let program = filled();
    let server = program.serve();
    let data = program.data();
    let ran = program.run(&["serve"]).exits(1);
    ran.says([data.to_str().unwrap(), "in use by another cvdmirror", &format!("(process {})", server.pid())]);
    assert!(serves(&server, "test-5.cvd"));
}

#[test]
fn a_killed_servers_directory_is_free_and_whole() {
    let program = filled();
    let mut server = program.serve();
    let pid = rustix::process::Pid::from_raw(server.pid().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    assert_eq!(server.ends(), None);
    // What a sync that was killed leaves.
    fs::write(program.data().join("tmp/leftover.tmp"), "half a pack").unwrap();
    let names = program.names();
    let server = program.serve();
    assert!(names.iter().all(|name| serves(&server, name)));
    assert!(!program.data().join("tmp/leftover.tmp").exists());
    assert_eq!(program.status()["serving"], true);
}

#[test]
fn a_state_of_a_newer_format_is_refused_by_name() {
    let program = filled();
    let path = program.data().join("state.redb");
    let database = redb::Database::open(&path).unwrap();
    let txn = database.begin_write().unwrap();
    txn.open_table(TableDefinition::<&str, u64>::new("meta")).unwrap().insert("format", 4000).unwrap();
    // A newer format may well have other types.
    let packs = TableDefinition::<&str, &str>::new("packs-0");
    assert!(txn.delete_table(packs).unwrap());
    txn.open_table(TableDefinition::<u64, u64>::new("packs-0")).unwrap().insert(1, 1).unwrap();
    txn.commit().unwrap();
    drop(database);
    for command in ["sync", "serve"] {
        program.run(&[command]).exits(2).says([
            path.to_str().unwrap(),
            "format 4000",
            "run a newer cvdmirror",
        ]);
    }
    let files = fs::read_dir(program.data()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(!files.into_iter().any(|name| name.to_string_lossy().contains("broken")), "it was put aside");
}

#[test]
fn a_pack_of_a_newer_format_is_refused_by_name() {
    let program = filled();
    let path = store(&program).join("20990101T000000Z-0123456789abcdef.redb");
    let database = redb::Database::create(&path).unwrap();
    let txn = database.begin_write().unwrap();
    let table = TableDefinition::<(u8, u64), &[u8]>::new("cvdmirror-store");
    let (section, number, version) = (255u8, 255u64, 4000u64);
    let checked = [&[section][..], &number.to_le_bytes(), &version.to_le_bytes()].concat();
    let row = [&version.to_le_bytes()[..], &ObjectId::of(&checked).as_bytes()[..16]].concat();
    txn.open_table(table).unwrap().insert((section, number), &row[..]).unwrap();
    txn.commit().unwrap();
    drop(database);
    for command in [&["sync"][..], &["serve"], &["status"], &["store", "ls"], &["store", "stat"]] {
        program.run(command).exits(2).says([path.to_str().unwrap(), "format 4000", "run a newer cvdmirror"]);
    }
    fs::remove_file(&path).unwrap();
    assert!(serves(&program.serve(), "test-5.cvd"));
}

#[test]
fn foreign_and_cut_files_are_findings_and_the_rest_is_served() {
    let program = filled();
    let packs = program.packs();
    assert!(packs.len() > 1, "{packs:?}");
    // The pack that does not hold the full CVD.
    let stored = talos("test-5.cvd");
    let needle = &stored[2000..2064];
    let holds = |path: &PathBuf| fs::read(path).unwrap().windows(64).any(|window| window == needle);
    let cut = packs.iter().find(|path| !holds(path)).unwrap();
    let len = fs::metadata(cut).unwrap().len();
    File::options().write(true).open(cut).unwrap().set_len(len / 2).unwrap();
    let garbage = store(&program).join("20990101T000000Z-0123456789abcdef.redb");
    fs::write(&garbage, "no redb file at all").unwrap();
    fs::write(store(&program).join("notes.txt"), "remember the milk").unwrap();
    fs::create_dir(store(&program).join("lost+found")).unwrap();

    let server = program.serve();
    assert!(serves(&server, "test-5.cvd"));
    let found = findings(&program);
    for name in [file_name(cut), file_name(&garbage), "notes.txt"] {
        assert!(found.contains(name), "{name}: {found}");
    }
    server.says(file_name(cut));
    let ran = program.run(&["store", "verify"]).exits(1);
    ran.says([file_name(cut), file_name(&garbage), "notes.txt"]);
    assert!(fs::metadata(&garbage).is_ok(), "what is not ours is left alone");
}

#[test]
fn a_carried_pack_is_verified_and_then_published() {
    let origin = filled();
    let program = carried(&origin);
    let before = program.run(&["status"]).exits(0);
    before.says(["is verified at the next start, and until then not published", "nothing published"]);
    let server = program.serve();
    assert!(origin.names().iter().all(|name| serves(&server, name)));
    assert_eq!((program.version(), findings(&program).as_str()), (Some(5), "[]"));
}

#[test]
fn an_altered_carried_pack_is_not_published() {
    let origin = filled();
    let program = carried(&origin);
    let altered = rot(&program, &talos("test-5.cvd"));
    let server = program.serve();
    assert!(!serves(&server, "test-5.cvd"));
    let found = findings(&program);
    assert!(found.contains(&file_name(&altered)[..30]) && found.contains("is not published"), "{found}");
    // The original beside it heals the copy.
    drop(server);
    copy_files(&origin.data().join("store"), &store(&program));
    assert!(serves(&program.serve(), "test-5.cvd"));
}

#[test]
fn a_pack_that_other_keys_signed_is_not_published() {
    let mint = Mint::foreign(3);
    let upstream = Upstream::start();
    upstream.release("other", &mint.database("other").publish());
    let origin = Program::new(&upstream.url()).set("database", "other").trusting(&mint.keys_toml());
    origin.sync().exits(0);
    let program = filled();
    copy_files(&origin.data().join("store"), &store(&program));
    let server = program.serve();
    assert!(serves(&server, "test-5.cvd"));
    assert_eq!(server.get("/other-1.cvd").status, 404);
    let found = findings(&program);
    assert!(found.contains("other-1.cvd is not published: "), "{found}");
}

#[test]
fn of_two_packs_that_bind_a_name_differently_neither_is_served_and_health_is_an_alarm() {
    let mint = Mint::new(1);
    let release = |seed| Mint::new(seed).database("test").publish();
    let (ours, theirs) = (release(1), release(2));
    assert!(ours.cvd != theirs.cvd && ours.cvd_name() == theirs.cvd_name());
    let program_of = |cvd: &support::mint::Release| {
        let upstream = Upstream::start();
        upstream.release("test", cvd);
        let program = Program::new(&upstream.url()).trusting(&mint.keys_toml());
        program.sync().exits(0);
        program.set("source", NOWHERE)
    };
    let (program, other) = (program_of(&ours), program_of(&theirs));
    copy_files(&store(&other), &store(&program));
    let server = program.serve();
    assert_eq!(server.get("/test-1.cvd").status, 404);
    let health = server.get("/health");
    assert_eq!(health.status, 503);
    assert!(
        health.text().contains("move the pack that does not belong here out of the store"),
        "{}",
        health.text()
    );
    let found = findings(&program);
    for pack in program.packs() {
        assert!(found.contains(file_name(&pack).trim_end_matches(".redb")), "{pack:?}: {found}");
    }
    assert!(found.contains("test-1.cvd"), "{found}");
    // A gc keeps both, since nobody knows which is right; once one is out the other is served.
    program.run(&["store", "gc"]).exits(0);
    let theirs = other.packs().remove(0);
    fs::remove_file(store(&program).join(file_name(&theirs))).unwrap();
    drop(server);
    assert!(program.serve().get("/test-1.cvd").body == ours.cvd);
}

#[test]
fn what_is_corrupt_is_never_served() {
    let program = filled();
    let server = program.serve();
    assert!(serves(&server, "test-5.cvd"));
    drop(server);
    rot(&program, &talos("test-5.cvd"));
    let server = program.serve();
    assert!(!serves(&server, "test-5.cvd"));
    assert!(serves(&server, "test-5.cdiff"));
    program.run(&["store", "cat", "test-5.cvd"]).exits(1);
    program.run(&["store", "verify"]).exits(1).says(["test-5.cvd"]);
}

#[test]
fn a_corrupt_file_is_fetched_again() {
    let upstream = Upstream::talos(5);
    let program = Program::new(&upstream.url());
    program.sync().exits(0);
    rot(&program, &talos("test-5.cvd"));
    let server = program.serve();
    server.publishes(5);
    assert!(serves(&server, "test-5.cvd"));
    // Once is enough.
    upstream.asked();
    program.sync().exits(0);
    assert_eq!(upstream.targets(), ["/test.cvd"]);
}

/// The same where the rot shows only in the middle of an answer.
#[test]
fn rot_in_the_middle_breaks_the_answer_off_and_is_fetched_again() {
    let mint = Mint::new(4);
    let release = mint.database_of("test", 20_000, 0).publish();
    let middle = release.cvd.len() - 100_000;
    let upstream = Upstream::start();
    upstream.release("test", &release);
    let program = Program::new(&upstream.url()).trusting(&mint.keys_toml());
    program.sync().exits(0);
    rot(&program, &release.cvd[middle..]);
    let server = program.serve();
    server.publishes(1);
    let broken = server.get("/test-1.cvd");
    assert!(broken.body.len() < release.cvd.len() && release.cvd.starts_with(&broken.body));
    server.says("is corrupt");
    program.sync().exits(0).says(["test-1.cvd                   stored"]);
    assert!(server.get("/test-1.cvd").body == release.cvd);
}

#[test]
fn a_lost_state_costs_a_verification_and_nothing_else() {
    let program = filled();
    fs::write(program.data().join("state.redb"), vec![0xff; 8192]).unwrap();
    let server = program.serve();
    assert!(serves(&server, "test-5.cvd"));
    server.says("put aside");
}

/// redb trusts the names of tables' types to be UTF-8, and panics where they are not.
#[test]
fn damage_on_which_redb_panics_is_a_finding_like_any() {
    let program = filled();
    let path = program.packs().remove(0);
    let mut bytes = fs::read(&path).unwrap();
    let types: Vec<_> =
        bytes.windows(5).enumerate().filter(|(_, bytes)| bytes == b"&[u8]").map(|(at, _)| at).collect();
    assert!(!types.is_empty());
    types.into_iter().for_each(|at| bytes[at] = 0xff);
    fs::remove_file(&path).unwrap();
    fs::write(&path, bytes).unwrap();
    let ran = program.run(&["store", "verify"]).exits(1).says([file_name(&path), "its structure is damaged"]);
    assert!(!ran.stderr.contains("panicked"), "{ran}");
}

/// A pack of names that nothing vouches for: an empty CDIFF can have any version.
#[test]
fn a_version_four_billion_ahead_is_refused_by_name_and_costs_nothing() {
    let program = filled();
    let (store_dir, tmp) = (store(&program), program.data().join("tmp"));
    let (stray, _) = cvdmirror_store::Store::assemble(&store_dir, &tmp, Vec::new()).unwrap();
    let mut batch = stray.batch().unwrap();
    batch.put(ObjectId::of(b""), 0, &mut &b""[..]).unwrap();
    let record = cvdmirror_store::NameRecord {
        object: ObjectId::of(b""),
        size: 0,
        modified_s: None,
        stored_at_s: 1,
        origin: "a stick".into(),
        proof: cvdmirror_store::Proof::Unknown,
    };
    batch.bind("test-4294967295.cdiff", record).unwrap();
    stray.commit(batch, 1).unwrap();
    // What looks at every pack, admitted or not.
    let stat = program.run(&["store", "stat", "--json"]).exits(0).stdout;
    let stat: serde_json::Value = serde_json::from_str(&stat).unwrap();
    assert_eq!(stat["databases"]["test"]["gaps"], serde_json::json!([[6, u32::MAX - 1]]));
    program.run(&["store", "stat"]).exits(0).says(["gaps [6 to 4294967294]"]);
    let server = program.serve();
    assert!(serves(&server, "test-5.cvd"));
    assert_eq!(server.get("/test-4294967295.cdiff").status, 404);
    let found = findings(&program);
    assert!(found.contains("test-4294967295.cdiff is not published: its version is absurdly far"), "{found}");
    assert!(server.get("/metrics").text().contains("chain_gaps{database=\"test\"} 0"));
}

/// A pack that was copied without the one in which its name's object lies.
#[test]
fn a_name_whose_object_is_not_here_is_said_not_to_be_published() {
    let program = filled();
    let elsewhere = tempfile::tempdir().unwrap();
    let (other, _) =
        cvdmirror_store::Store::assemble(elsewhere.path(), elsewhere.path(), Vec::new()).unwrap();
    let record = cvdmirror_store::NameRecord {
        object: ObjectId::of(b"x"),
        size: 1,
        modified_s: None,
        stored_at_s: 1,
        origin: "a stick".into(),
        proof: cvdmirror_store::Proof::Unknown,
    };
    let mut batch = other.batch().unwrap();
    batch.put(ObjectId::of(b"x"), 1, &mut &b"x"[..]).unwrap();
    other.commit(batch, 1).unwrap();
    let mut batch = other.batch().unwrap();
    batch.bind("test-6.cdiff", record).unwrap();
    let lone = other.commit(batch, 2).unwrap();
    fs::copy(lone.path(), store(&program).join(file_name(lone.path()))).unwrap();
    let server = program.serve();
    assert!(serves(&server, "test-5.cvd"));
    let found = findings(&program);
    assert!(found.contains("test-6.cdiff is not published: its object is in no pack"), "{found}");
}
