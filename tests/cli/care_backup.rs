//! Backups beside a running server, and their way back.
use cvdmirror_store::{NameRecord, ObjectId, Store};
use redb::TableDefinition;
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};
use support::{
    mint::{Lineage, Mint},
    program::{Program, Serving, copy_files},
    talos,
    upstream::Upstream,
};

/// An upstream that cannot be reached.
const NOWHERE: &str = "http://127.0.0.1:1";

fn serves_all(server: &Serving, version: u32) {
    for name in (2..=version).map(|v| format!("test-{v}.cdiff")).chain([format!("test-{version}.cvd")]) {
        assert!(server.get(&format!("/{name}")).body == talos(&name), "{name}");
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn file_name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

fn rot(path: &Path, at: impl Fn(usize) -> usize) {
    let mut bytes = fs::read(path).unwrap();
    let at = at(bytes.len());
    bytes[at] ^= 1;
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_plain_copy_beside_a_running_server_is_a_mirror() {
    let upstream = Upstream::talos(5);
    let program = Program::new(&upstream.url());
    program.sync().exits(0);
    let _running = program.serve();
    let other = Program::new(NOWHERE);
    fs::create_dir(other.data()).unwrap();
    let copied = Command::new("cp").arg("-r").arg(program.data().join("store")).arg(other.data()).status();
    assert!(copied.unwrap().success());
    let server = other.serve();
    serves_all(&server, 5);
    server.says("a pack that was not sealed here is whole");
    assert_eq!(other.status()["findings"].to_string(), "[]");
}

#[test]
fn a_backup_is_incremental_and_mends_itself() {
    let upstream = Upstream::talos(3);
    let program = Program::new(&upstream.url());
    program.sync().exits(0);
    let _running = program.serve();
    let dest = program.dir.path().join("backup");
    let backup = || program.run(&["store", "backup", dest.to_str().unwrap()]);
    let packs = program.packs().len();
    backup().exits(0).says([&format!("0 packs were there already, {packs} linked, 0 copied")]);
    assert_eq!(
        fs::metadata(&files(&dest)[0]).unwrap().ino(),
        fs::metadata(&program.packs()[0]).unwrap().ino()
    );
    upstream.move_to(5);
    program.sync().exits(0);
    let new = program.packs().len() - packs;
    backup().exits(0).says([&format!("{packs} packs were there already, {new} linked, 0 copied")]);

    // A file of the backup rots, and one is cut short.
    let backed = files(&dest);
    rot(&backed[0], |len| len / 2);
    let half = fs::read(&backed[1]).unwrap();
    fs::remove_file(&backed[1]).unwrap();
    fs::write(&backed[1], &half[..half.len() / 2]).unwrap();
    let ran = backup().exits(1);
    ran.says([file_name(&backed[0]), file_name(&backed[1]), "is replaced", "0 linked, 2 copied"]);
    backup().exits(0).says(["0 linked, 0 copied, 0 B"]);

    let other = Program::new(NOWHERE);
    other.run(&["store", "restore", dest.to_str().unwrap()]).exits(0);
    serves_all(&other.serve(), 5);
}

#[test]
fn a_damaged_pack_is_not_backed_up_and_another_file_system_is_copied_to() {
    let upstream = Upstream::talos(5);
    let program = Program::new(&upstream.url());
    program.sync().exits(0);
    let Ok(dest) = tempfile::tempdir_in("/dev/shm") else { return support::skip("no /dev/shm") };
    let packs = program.packs();
    rot(&packs[0], |len| len / 2);
    let ran = program.run(&["store", "backup", dest.path().to_str().unwrap()]).exits(1);
    ran.says(["not backed up", file_name(&packs[0]), &format!("0 linked, {} copied", packs.len() - 1)]);
    assert!(files(dest.path()).iter().all(|file| file.file_name() != packs[0].file_name()));
}

#[test]
fn a_restore_beside_a_running_server_is_published_at_once() {
    let upstream = Upstream::talos(5);
    let origin = Program::new(&upstream.url());
    origin.sync().exits(0);
    let program = Program::new(NOWHERE);
    let server = program.serve();
    assert_eq!(server.get("/test-5.cvd").status, 404);
    program.run(&["store", "restore", origin.data().to_str().unwrap()]).exits(0).says(["copied"]);
    serves_all(&server, 5);
    let again = program.run(&["store", "restore", origin.data().to_str().unwrap()]);
    again.exits(0).says(["0 copied, 0 B"]);
}

/// What may be carried in and must not be published: each is named, and nothing of it is restored or served.
#[test]
fn what_is_foreign_is_named_and_not_published() {
    let upstream = Upstream::talos(5);
    let program = Program::new(&upstream.url());
    program.sync().exits(0);
    let carried = program.dir.path().join("carried");
    fs::create_dir(&carried).unwrap();
    let mint = Mint::foreign(8);
    let release = mint.database("test").publish();
    let (bound, unsigned) = (
        // A name that is held, bound to other content, which is whole and signed in its own right.
        pack(&carried, "test-5.cvd", &talos("test-4.cvd")),
        // Signed by keys nobody trusts here.
        pack(&carried, "test-1.cvd", &release.cvd),
    );
    let garbage = carried.join("20990101T000000Z-0123456789abcdef.redb");
    fs::write(&garbage, "no redb file at all").unwrap();
    let endless = carried.join("20990101T000001Z-0123456789abcdef.redb");
    of_ten_million_names(&program.packs()[0], &endless);
    let damaged = carried.join(file_name(&program.packs()[1]));
    fs::copy(&program.packs()[1], &damaged).unwrap();
    rot(&damaged, |len| len / 2);
    let bad = [&bound, &unsigned, &garbage, &endless];

    let other = Program::new(NOWHERE);
    let before = program.names();
    for mirror in [&program, &other] {
        let ran = mirror.run(&["store", "restore", carried.to_str().unwrap()]).exits(1);
        for file in bad {
            let id = file_name(file).trim_end_matches(".redb");
            assert!(ran.stdout.contains(id), "{id}: {ran}");
        }
    }
    assert_eq!(program.names(), before);
    assert_eq!(other.names(), Vec::<String>::new());

    // The same where they are put beside a running server's own.
    let server = program.serve();
    server.publishes(5);
    copy_files(&carried, &program.dir.path().join("beside"));
    fs::remove_file(program.dir.path().join("beside").join(file_name(&damaged))).unwrap();
    copy_files(&program.dir.path().join("beside"), &program.data().join("store"));
    let ran = program.sync().exits(0);
    let status = program.status()["findings"].to_string();
    for file in bad {
        let id = file_name(file).trim_end_matches(".redb");
        for report in [&ran.stdout, &status] {
            assert!(report.contains(id), "{id}: {report}");
        }
    }
    // Of so many, /health names the first, and where the rest stands.
    assert!(server.get("/health").text().contains(" more: see `cvdmirror status`\n"));
    serves_all(&server, 5);
    assert_eq!(server.get("/test-1.cvd").status, 404);
    let index = server.get("/index.json").text();
    assert!(!index.contains("test-1.cvd"), "{index}");
}

/// Seals a pack of one name; gives its file.
fn pack(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let home = tempfile::tempdir().unwrap();
    let (store, _) = Store::assemble(dir, home.path(), Vec::new()).unwrap();
    let mut batch = store.batch().unwrap();
    let object = ObjectId::of(bytes);
    batch.put(object, bytes.len() as u64, &mut &bytes[..]).unwrap();
    let record = NameRecord {
        object,
        size: bytes.len() as u64,
        modified_s: None,
        stored_at_s: 1_795_381_080,
        origin: "a stick".into(),
        proof: cvdmirror_store::Proof::Unknown,
    };
    batch.bind(name, record).unwrap();
    store.commit(batch, 1_795_381_080).unwrap().path().to_owned()
}

/// A pack whose head announces ten million names.
fn of_ten_million_names(like: &Path, path: &Path) {
    fs::write(path, fs::read(like).unwrap()).unwrap();
    let database = redb::Database::open(path).unwrap();
    let txn = database.begin_write().unwrap();
    // The time, the bytes, the objects, the names: bincode, where 252 announces four bytes.
    let (section, number) = (255u8, 0u64);
    let head =
        [&[252][..], &1_795_381_080_u32.to_le_bytes(), &[1, 1, 252], &10_000_000_u32.to_le_bytes()].concat();
    let check = ObjectId::of(&[&[section][..], &number.to_le_bytes(), &head].concat());
    let row = [&head[..], &check.as_bytes()[..16]].concat();
    let table = TableDefinition::<(u8, u64), &[u8]>::new("cvdmirror-store");
    txn.open_table(table).unwrap().insert((section, number), &row[..]).unwrap();
    txn.commit().unwrap();
}

/// Backups one after the other while the server fetches, merges and drops without a grace period.
#[test]
fn backups_beside_fetching_merging_and_dropping_are_whole() {
    let mint = Mint::new(6);
    let mut lineage: Lineage = mint.database("test");
    let upstream = Upstream::start();
    upstream.release("test", &lineage.publish());
    let program = Program::new(&upstream.url()).trusting(&mint.keys_toml());
    let program = program.set("grace", "10ms").set("keep-cvds", "1").set("check-interval", "50ms");
    let server = program.serve();
    server.publishes(1);
    for version in 2..=12 {
        let dest = program.dir.path().join(format!("backup-{version}"));
        let release = lineage.publish();
        upstream.release("test", &release);
        program.run(&["store", "backup", dest.to_str().unwrap()]).exits(0);
        let other = Program::new(NOWHERE).trusting(&mint.keys_toml());
        other.run(&["store", "restore", dest.to_str().unwrap()]).exits(0);
        let names = other.names();
        // The next version may have come meanwhile, and one CVD is kept.
        let newest = [version - 1, version].map(|v| format!("test-{v}.cvd"));
        assert!(newest.iter().any(|cvd| names.contains(cvd)), "{names:?}");
        server.publishes(version);
    }
}
