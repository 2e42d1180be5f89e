//! A directory that is filled while the server runs: what is put in is served soon, and never half.
use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    time::{Duration, Instant},
};
use support::{
    program::{Program, Serving},
    talos,
};

/// Longer than promised (5 s), for a loaded machine; the check interval is an hour.
const SOON: Duration = Duration::from_secs(20);

/// Waits for a version that was put in at `put`, and for no half of it meanwhile.
fn is_served(server: &Serving, version: u64, put: Instant) {
    server.publishes(version);
    let took = put.elapsed();
    eprintln!("version {version} is served {took:.1?} after its last write");
    assert!(took < SOON, "{took:?}");
    let name = format!("test-{version}.cvd");
    assert!(server.get(&format!("/{name}")).body == talos(&name));
    let refused = server.log.find("not taken");
    assert_eq!(refused, None);
}

#[test]
fn what_is_put_in_is_served_soon_and_whole() {
    let dir = tempfile::tempdir().unwrap();
    let cvd = dir.path().join("test.cvd");
    let program = Program::new(&format!("dir:{}", dir.path().display())).set("keep-cvds", "9");
    let server = program.serve();
    server.says("test.cvd: not there");

    fs::write(&cvd, talos("test-2.cvd")).unwrap();
    is_served(&server, 2, Instant::now());

    // As freshclam does.
    let aside = dir.path().join("clamav-0123.tmp");
    fs::write(&aside, talos("test-3.cvd")).unwrap();
    fs::rename(&aside, &cvd).unwrap();
    is_served(&server, 3, Instant::now());

    // In pieces, by a program that holds the file open for longer than files are taken to be quiet.
    let bytes = talos("test-4.cvd");
    let mut file = fs::File::create(&cvd).unwrap();
    for piece in bytes.chunks(bytes.len() / 3 + 1) {
        file.write_all(piece).unwrap();
        std::thread::sleep(Duration::from_secs(2));
    }
    drop(file);
    is_served(&server, 4, Instant::now());

    // In pieces, by a program that closes it after each.
    let bytes = talos("test-5.cvd");
    fs::remove_file(&cvd).unwrap();
    for piece in bytes.chunks(bytes.len() / 5 + 1) {
        OpenOptions::new().create(true).append(true).open(&cvd).unwrap().write_all(piece).unwrap();
        std::thread::sleep(Duration::from_millis(300));
    }
    is_served(&server, 5, Instant::now());
    for name in program.names() {
        assert!(program.cat(&name) == talos(&name), "{name}");
    }
}

/// The directory is not there yet when the server starts, and is taken away and put back.
#[test]
fn a_directory_may_come_later() {
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().join("databases");
    let program = Program::new(&format!("dir:{}", dir.display()));
    let server = program.serve();
    server.says("No such file or directory");
    for version in [3, 5] {
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("test.cvd"), talos(&format!("test-{version}.cvd"))).unwrap();
        is_served(&server, version, Instant::now());
        fs::rename(&dir, outer.path().join(format!("was-{version}"))).unwrap();
    }
}
