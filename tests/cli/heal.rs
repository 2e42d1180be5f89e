//! What a store holds that does not hold: packs of earlier builds, of other origins, in any order.
use cvdmirror_store::{NameRecord, ObjectId, Pack, Proof, Store};
use redb::TableDefinition;
use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};
use support::{
    mint::{Mint, Release},
    mint_sign::{Plan, Signer},
    namespace,
    program::Program,
    skip,
    upstream::Upstream,
};

/// Writes a pack as it stands, whatever is in it.
fn seal(program: &Program, at_s: u64, files: &[(String, Vec<u8>)]) -> Pack {
    let (dir, tmp) = (program.data().join("store"), program.data().join("tmp"));
    for dir in [&dir, &tmp] {
        fs::create_dir_all(dir).unwrap();
    }
    let (store, _) = Store::assemble(&dir, &tmp, Vec::new()).unwrap();
    let mut batch = store.batch().unwrap();
    for (name, bytes) in files {
        let (object, size) = (ObjectId::of(bytes), bytes.len() as u64);
        batch.put(object, size, &mut &bytes[..]).unwrap();
        // The writer of a pack can claim any proof.
        let (origin, proof) = ("an earlier build".into(), Proof::Chained);
        let record = NameRecord { object, size, modified_s: None, stored_at_s: at_s, origin, proof };
        batch.bind(name, record).unwrap();
    }
    store.commit(batch, at_s).unwrap()
}

/// Has an earlier build's state file trust all packs.
fn trusted_earlier(program: &Program) {
    let database = redb::Database::create(program.data().join("state.redb")).unwrap();
    let txn = database.begin_write().unwrap();
    txn.open_table(TableDefinition::<&str, u64>::new("meta")).unwrap().insert("format", 1).unwrap();
    {
        let mut packs = txn.open_table(TableDefinition::<&str, &str>::new("packs-0")).unwrap();
        for (rank, path) in program.packs().iter().enumerate() {
            let id = path.file_stem().unwrap().to_str().unwrap();
            let trusted = format!(r#"{{"rank":{rank},"file_len":{}}}"#, fs::metadata(path).unwrap().len());
            packs.insert(id, &*trusted).unwrap();
        }
    }
    txn.commit().unwrap();
}

/// Three versions of `test`, and an upstream and a mirror of it.
fn mirrored() -> (Vec<Release>, Upstream, Program) {
    let mint = Mint::new(11);
    let mut lineage = mint.database("test");
    let releases: Vec<Release> = (0..3).map(|_| lineage.publish()).collect();
    let upstream = Upstream::start();
    for release in &releases {
        upstream.release("test", release);
        let signs = [(release.cvd_name(), &release.cvd_sign), (release.cdiff_name(), &release.cdiff_sign)];
        for (name, sign) in signs {
            if let Some(sign) = sign {
                upstream.file(&format!("{name}.sign"), sign.clone());
            }
        }
    }
    let program = Program::new(&upstream.url()).trusting(&mint.keys_toml());
    (releases, upstream, program)
}

fn named(name: &str, bytes: &[u8]) -> (String, Vec<u8>) {
    (name.into(), bytes.to_vec())
}

/// The same signature with a digit that adds nothing.
fn malleated(cdiff: &[u8]) -> Vec<u8> {
    [cdiff, b"a"].concat()
}

#[test]
fn a_store_of_an_earlier_build_heals_at_the_first_round_and_says_so_once() {
    let (releases, upstream, program) = mirrored();
    let [_, two, three] = &releases[..] else { unreachable!() };
    let cdiff = three.cdiff.as_ref().unwrap();
    let bad = [
        // Another version's.
        named("test-3.cvd.sign", two.cvd_sign.as_ref().unwrap()),
        named("test-3.cdiff", &malleated(cdiff)),
    ];
    seal(&program, 1_795_000_000, &[&[named("test-3.cvd", &three.cvd)], &bad[..]].concat());
    let older = [
        named("test-2.cdiff", two.cdiff.as_ref().unwrap()),
        // Not the newest, and asked for again all the same.
        named("test-2.cdiff.sign", two.cvd_sign.as_ref().unwrap()),
    ];
    seal(&program, 1_795_000_001, &older);
    trusted_earlier(&program);
    // Plain `store verify` sees it.
    let verified = program.run(&["store", "verify"]).exits(1);
    verified.says(["test-3.cvd.sign: signed digest is not the file's", "test-3.cdiff: ", "zero digit"]);
    let server = program.serve();
    server.says("test-3.cdiff and 1 more is not published");
    server.says("test-2.cdiff.sign is not published");
    program.sync();
    let right = [
        ("test-3.cvd", &three.cvd),
        ("test-3.cvd.sign", three.cvd_sign.as_ref().unwrap()),
        ("test-3.cdiff", cdiff),
        ("test-2.cdiff", two.cdiff.as_ref().unwrap()),
        ("test-2.cdiff.sign", two.cdiff_sign.as_ref().unwrap()),
    ];
    for (name, bytes) in right {
        assert!(server.get(&format!("/{name}")).body == *bytes, "{name}");
    }
    assert_eq!(server.get("/health").status, 200);
    let said = |log: &support::process::Lines| {
        log.so_far().iter().filter(|line| line.contains("is not published")).count()
    };
    assert_eq!(said(&server.log), 2, "once for each pack");
    assert!(!upstream.targets().contains(&"/test-3.cvd".into()), "the CVD was right");
    drop(server);
    let server = program.serve();
    program.sync().exits(0);
    assert_eq!((said(&server.log), program.status()["findings"].to_string()), (0, "[]".into()));
    program.run(&["store", "verify"]).exits(0);
    // Nor is it said again where the state is lost.
    drop(server);
    fs::remove_file(program.data().join("state.redb")).unwrap();
    let server = program.serve();
    for (name, bytes) in right {
        assert!(server.get(&format!("/{name}")).body == *bytes, "{name}");
    }
}

/// As an earlier build bound it, which believed an empty answer at once.
#[test]
fn a_held_empty_cdiff_is_asked_for_again_and_the_signed_one_takes_its_place() {
    let (releases, upstream, program) = mirrored();
    let three = &releases[2];
    seal(&program, 1_795_000_000, &[named("test-3.cvd", &three.cvd), named("test-3.cdiff", b"")]);
    trusted_earlier(&program);
    let server = program.serve();
    program.sync().exits(0);
    assert!(upstream.targets().contains(&"/test-3.cdiff".into()));
    for (name, bytes) in [("test-3.cdiff", &three.cdiff), ("test-3.cdiff.sign", &three.cdiff_sign)] {
        assert!(server.get(&format!("/{name}")).body == *bytes.as_ref().unwrap(), "{name}");
    }
    // Once: the empty one does not come back.
    program.sync().exits(0);
    assert!(!upstream.targets().contains(&"/test-3.cdiff".into()));
    drop(server);
    assert!(program.serve().get("/test-3.cdiff").body == *three.cdiff.as_ref().unwrap());
}

/// Gives each pack's file the date of another year; the hash in its name stays.
fn redate(program: &Program, years: [u32; 4]) {
    for (path, year) in program.packs().into_iter().zip(years) {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        fs::rename(&path, path.with_file_name(format!("{year}{}", &name[4..]))).unwrap();
    }
}

#[test]
fn what_is_served_depends_on_the_packs_contents_alone() {
    let (releases, _upstream, program) = mirrored();
    let other = Mint::new(12).database("test").publish();
    let [one, two, three] = &releases[..] else { unreachable!() };
    let patch = two.cdiff.as_ref().unwrap();
    let stranger = Signer::of(Plan::proper());
    let packs = [
        vec![named("test-2.cdiff", b""), named("test-2.cvd", &two.cvd), named("test-1.cvd", &one.cvd)],
        vec![named("test-2.cdiff", patch), named("test-2.cdiff.sign", &stranger.sign(b"other"))],
        vec![named("test-2.cdiff.sign", two.cdiff_sign.as_ref().unwrap())],
        vec![
            named("test-1.cvd", &other.cvd),
            named("test-3.cdiff", &malleated(three.cdiff.as_ref().unwrap())),
        ],
    ];
    let program = program.set("source", "http://127.0.0.1:1");
    for (at_s, files) in (1_795_000_000..).zip(&packs) {
        seal(&program, at_s, files);
    }
    let mut seen: Vec<serde_json::Value> = Vec::new();
    for years in [[2001, 2002, 2003, 2004], [2034, 2033, 2032, 2031], [2042, 2044, 2041, 2043]] {
        redate(&program, years);
        for state in [false, true] {
            if !state {
                let _ = fs::remove_file(program.data().join("state.redb"));
            }
            let server = program.serve();
            seen.push(serde_json::from_slice(&server.get("/index.json").body).unwrap());
            assert!(server.get("/test-2.cdiff").body == *patch);
            assert!(server.get("/test-2.cdiff.sign").body == *two.cdiff_sign.as_ref().unwrap());
            for name in ["test-1.cvd", "test-3.cdiff"] {
                assert_eq!(server.get(&format!("/{name}")).status, 404, "{name}");
            }
            assert!(server.get("/health").text().contains("test-1.cvd: bound to"));
        }
    }
    assert!(seen.iter().all(|index| index["databases"] == seen[0]["databases"]), "{seen:#?}");
}

#[test]
fn sign_files_are_judged_again_when_certificates_come_and_go() {
    let (releases, upstream, program) = mirrored();
    let (certs, stranger) = (program.dir.path().join("certs"), Signer::of(Plan::proper()));
    fs::create_dir(&certs).unwrap();
    let three = &releases[2];
    let strangers = stranger.sign(&three.cvd);
    upstream.file("test-3.cvd.sign", strangers.clone());
    program.sync().exits(0);
    let right = three.cvd_sign.clone().unwrap();
    upstream.file("test-3.cvd.sign", right.clone());
    fs::write(certs.join("ca.crt"), &stranger.root_pem).unwrap();
    // Across a restart: the stranger is trusted, then no longer.
    let program = program.set("certs-dir", certs.to_str().unwrap());
    let server = program.serve();
    program.sync().exits(0);
    assert!(server.get("/test-3.cvd.sign").body == strangers);
    fs::write(certs.join("ca.crt"), Mint::new(11).certs_pem()).unwrap();
    program.sync();
    server.says("test-3.cvd.sign is not published: signer is not trusted");
    assert!(server.get("/test-3.cvd.sign").body == right);
    assert_eq!(server.get("/test-3.cvd").status, 200);
    // A directory that cannot be read costs nothing that is held.
    drop(server);
    fs::rename(&certs, certs.with_extension("away")).unwrap();
    let server = program.serve();
    program.sync();
    assert!(server.get("/test-3.cvd.sign").body == right);
}

/// Where ClamAV's packages put their certificates they count without a setting.
#[test]
fn clamavs_own_certificates_are_taken_where_they_are() {
    if !namespace::inside("clamavs_own_certificates_are_taken_where_they_are") {
        return;
    }
    let clamav = Path::new("/etc/clamav");
    if !clamav.is_dir() {
        return skip("there is no /etc/clamav to lay certificates over");
    }
    let mounted = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(clamav).status().unwrap();
    assert!(mounted.success());
    fs::create_dir(clamav.join("certs")).unwrap();
    fs::write(clamav.join("certs/clamav.crt"), &Signer::of(Plan::proper()).root_pem).unwrap();
    let (_, _upstream, program) = mirrored();
    let program = program.set("certs-dir", "");
    program.sync().exits(0).says(["test-3.cvd.sign              REFUSED", "signer is not trusted"]);
    fs::write(clamav.join("certs/clamav.crt"), Mint::new(11).certs_pem()).unwrap();
    program.sync().exits(0).says(["test-3.cvd.sign              stored"]);
}

#[test]
fn what_is_created_is_not_for_everybody_whatever_the_umask() {
    let (_, _upstream, program) = mirrored();
    let mut command = program.command(&["serve"]);
    let before: fn() -> std::io::Result<()> = || {
        rustix::process::umask(rustix::fs::Mode::empty());
        Ok(())
    };
    // SAFETY: umask(2) may be called between fork and exec.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(before);
    }
    let server = program.serve_as(command);
    server.publishes(3);
    let mode = |path: PathBuf| fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    let data = program.data();
    for (name, expected) in [
        ("", 0o750),
        ("store", 0o750),
        ("tmp", 0o750),
        ("state.redb", 0o600),
        ("control", 0o600),
        ("lock", 0o640),
    ] {
        assert_eq!(format!("{:o}", mode(Path::join(&data, name))), format!("{expected:o}"), "{name}");
    }
    let writable = program.packs().into_iter().map(mode).filter(|mode| mode & 0o222 != 0).count();
    assert_eq!(writable, 0);
}
