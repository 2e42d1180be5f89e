//! A source that sends what it should not: each with a clear error, nothing published and nothing lost.
use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};
use support::{
    mint::Mint,
    process::Ran,
    program::Program,
    talos,
    upstream::{Answer, Upstream},
};

const HTML: &[u8] = b"<!doctype html><title>Just a moment...</title>";

/// `bytes` with one bit flipped.
fn flipped(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    bytes[at] ^= 1;
    bytes
}

/// Where a field of a CVD's header begins.
fn field(cvd: &[u8], number: usize) -> usize {
    let colons = cvd.iter().enumerate().filter(|(_, byte)| **byte == b':').map(|(at, _)| at);
    colons.skip(number - 1).map(|at| at + 1).next().unwrap()
}

/// A mirror that holds version 3, whose upstream offers version 5 and no CDIFFs.
struct Case {
    upstream: Upstream,
    program: Program,
    held: Vec<String>,
}

impl Case {
    fn new() -> Self {
        let upstream = Upstream::talos(3);
        let program = Program::new(&upstream.url()).set("stall-timeout", "1s");
        program.sync().exits(0);
        let held = program.names();
        upstream.set("/test.cvd", Answer::File(talos("test-5.cvd")));
        Self { upstream, program, held }
    }

    /// A round in which the full file is answered so; the header, which is asked before, is right.
    #[track_caller]
    fn full(&self, answer: Answer) -> Ran {
        let header = Answer::File(talos("test-5.cvd"));
        self.upstream.set("/test.cvd?version=5", Answer::Split(header.into(), answer.into()));
        self.round()
    }

    /// A round that must fail, and leave everything as it was.
    #[track_caller]
    fn round(&self) -> Ran {
        let ran = self.program.sync().exits(1);
        assert_eq!(self.program.version(), Some(3), "{ran}");
        assert_eq!(self.program.names(), self.held, "{ran}");
        assert!(is_empty(&self.program.data().join("tmp")), "{ran}");
        ran
    }
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).unwrap().next().is_none()
}

#[test]
fn a_cvd_that_does_not_verify_is_refused() {
    let case = Case::new();
    let good = talos("test-5.cvd");
    let header_of_5_on_body_of_3 = [&good[..512], &talos("test-3.cvd")[512..]].concat();
    let (md5, dsig) = (field(&good, 5), field(&good, 6));
    for (what, bytes, why) in [
        ("cut in the body", good[..5000].to_vec(), "MD5 of the body is not the header's"),
        ("cut in the header", good[..300].to_vec(), "300 bytes, fewer than a CVD's header"),
        ("nothing", Vec::new(), "0 bytes, fewer than a CVD's header"),
        ("a bit of the body", flipped(good.clone(), 7000), "MD5 of the body is not the header's"),
        (
            "a bit of the last byte",
            flipped(good.clone(), good.len() - 1),
            "MD5 of the body is not the header's",
        ),
        ("a bit of the header's MD5", flipped(good.clone(), md5), "MD5 of the body is not the header's"),
        (
            "a bit of the signature",
            flipped(good.clone(), dsig),
            "signature in the header: signature does not verify",
        ),
        ("one more byte", [&good[..], b"x"].concat(), "MD5 of the body is not the header's"),
        ("another version's body", header_of_5_on_body_of_3, "MD5 of the body is not the header's"),
    ] {
        let ran = case.full(Answer::Whole(bytes));
        assert!(ran.stdout.contains("test-5.cvd                   REFUSED"), "{what}: {ran}");
        ran.says([why]);
    }
    // The same upstream, cured.
    case.upstream.move_to(5);
    case.upstream.remove("/test.cvd?version=5");
    case.program.sync().exits(0).says(["3 -> 5 published"]);
}

/// A header of version 5, and then an edge that lags.
#[test]
fn a_full_file_older_than_held_is_kept_out() {
    let case = Case::new();
    case.full(Answer::File(talos("test-2.cvd")))
        .says(["holds version 2, older than 3 that is held; not taken"]);
    case.full(Answer::File(talos("test-3.cvd"))).says(["asked for 5, got 3"]);
}

#[test]
fn answers_that_are_no_file_are_refused() {
    let case = Case::new();
    let url = format!("{}/test.cvd?version=5", case.upstream.url());
    let good = talos("test-5.cvd");
    let status = |status| Answer::Status(status, String::new(), HTML.to_vec());
    for (answer, why) in [
        (Answer::Whole(HTML.to_vec()), "fewer than a CVD's header"),
        (Answer::Whole(HTML.repeat(50)), "it does not start with \"ClamAV-VDB:\""),
        (Answer::Announced(1 << 40, good.clone()), "larger than the 536870912 bytes allowed"),
        (Answer::Announced(good.len() as u64 + 1, good.clone()), "before its announced end"),
        (Answer::Stalling(good.clone()), "the body stalled"),
        (Answer::Silence, "no answer came in time"),
        (Answer::Hangup, "connection closed before message completed"),
        (Answer::Redirect("/test.cvd?version=5".into()), "too many redirects"),
        (Answer::Redirect("file:///etc/passwd".into()), "redirects to file:, which is not followed"),
        (status(500), "answered HTTP status 500"),
        (status(206), "answered a part (206), though the whole was asked for; not taken"),
    ] {
        case.full(answer).says([why, &url]);
    }
}

#[test]
fn a_probe_that_is_answered_with_a_page_is_no_version() {
    let case = Case::new();
    for (answer, why) in [
        (Answer::Whole(HTML.to_vec()), "it does not start with \"ClamAV-VDB:\""),
        (Answer::Whole(HTML.repeat(50)), "it does not start with \"ClamAV-VDB:\""),
        (Answer::Endless(b"all work and no play ".to_vec()), "it does not start with \"ClamAV-VDB:\""),
        (Answer::Announced(1 << 40, HTML.repeat(50)), "it does not start with \"ClamAV-VDB:\""),
        (Answer::Silence, "no answer came in time"),
    ] {
        case.upstream.set("/test.cvd", answer);
        case.round().says([why, &format!("{}/test.cvd", case.upstream.url())]);
    }
}

#[test]
fn a_cdiff_that_does_not_verify_is_refused() {
    let case = Case::new();
    // The full file is out of reach, so that the CDIFF alone could bring the next version.
    case.upstream.set("/test.cvd?version=5", Answer::Hangup);
    let good = talos("test-4.cdiff");
    for (answer, why) in [
        (Answer::Whole(good[..500].to_vec()), "CDIFF has no signature at its end"),
        (Answer::Whole(flipped(good.clone(), 100)), "CDIFF signature: signature does not verify"),
        (Answer::Whole(talos("test-5.cdiff")), "named version 4, but its header says 5"),
        (Answer::Whole(HTML.to_vec()), "it does not start with \"ClamAV-Diff:\""),
        (Answer::Announced(1 << 40, good.clone()), "larger than the 67108864 bytes allowed"),
        (Answer::Endless(vec![b'x'; 1 << 16]), "it does not start with \"ClamAV-Diff:\""),
        (Answer::Endless(b"ClamAV-Diff:".repeat(1 << 12)), "larger than the 67108864 bytes allowed"),
    ] {
        case.upstream.set("/test-4.cdiff", answer);
        case.round().says(["test-4.cdiff", why]);
    }
}

#[test]
fn an_endless_sign_file_costs_only_itself() {
    let upstream = Upstream::talos(5);
    upstream.set("/test-5.cvd.sign", Answer::Endless(vec![b'#'; 1 << 16]));
    let program = Program::new(&upstream.url());
    program.sync().exits(0).says(["test-5.cvd.sign", "larger than the 262144 bytes allowed"]);
    assert!(!program.names().contains(&"test-5.cvd.sign".into()));
    assert_eq!(program.version(), Some(5));
}

/// Without a certificate to trust, a sign file must still be for the file it is named after.
#[test]
fn another_versions_sign_file_is_refused_without_a_certs_dir() {
    let upstream = Upstream::talos(5);
    upstream.file("test-5.cvd.sign", talos("test-4.cvd.sign"));
    let program = Program::new(&upstream.url());
    program.sync().exits(0).says(["test-5.cvd.sign", "REFUSED", "signed digest is not the file's"]);
    let server = program.serve();
    server.publishes(5);
    assert_eq!(server.get("/test-5.cvd.sign").status, 404);
    assert_eq!(server.get("/test-5.cdiff.sign").status, 200);
}

#[test]
fn another_databases_cvd_is_refused() {
    let upstream = Upstream::start();
    upstream.file("daily.cvd", talos("test-5.cvd"));
    let program = Program::new(&upstream.url()).set("database", "daily");
    program.sync().exits(1).says(["daily-5.cvd", "REFUSED", "named as database daily, but holds test"]);
    assert_eq!((program.version(), program.names()), (None, Vec::new()));
}

#[test]
fn other_keys_signatures_are_refused() {
    let mint = Mint::new(7);
    let release = mint.database("test").publish();
    let upstream = Upstream::start();
    upstream.release("test", &release);
    // Talos' keys.
    let program = Program::new(&upstream.url()).set("trust-keys", "");
    program.sync().exits(1).says(["test-1.cvd", "REFUSED", "signature"]);
    assert_eq!(program.names(), Vec::<String>::new());
    let program = Program::new(&upstream.url()).trusting(&mint.keys_toml());
    program.sync().exits(0).says(["nothing -> 1 published"]);
}

/// A directory that holds `test` in version 5 and the CDIFF to it.
fn directory() -> (tempfile::TempDir, Program) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("test.cvd"), talos("test-5.cvd")).unwrap();
    fs::write(dir.path().join("test-5.cdiff"), talos("test-5.cdiff")).unwrap();
    let program = Program::new(&format!("dir:{}", dir.path().display()));
    (dir, program)
}

/// A directory may hold its CVDs under their versions alone, as the copied files of a mirror do.
#[test]
fn a_cvd_under_its_version_alone_is_found() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["test-4.cvd", "test-5.cvd"] {
        fs::write(dir.path().join(name), talos(name)).unwrap();
    }
    let program = Program::new(&format!("dir:{}", dir.path().display()));
    program.sync().exits(0).says(["the source says 5"]);
    assert_eq!(program.cat("test-5.cvd"), talos("test-5.cvd"));
    program.run(&["doctor"]).exits(0).says(["source: test is at version 5"]);
}

#[test]
fn only_plain_files_of_a_directory_are_read() {
    let outside = tempfile::NamedTempFile::new().unwrap();
    fs::write(outside.path(), talos("test-5.cvd")).unwrap();
    let fifo = |path: &Path| assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    let link = |path: &Path| std::os::unix::fs::symlink(outside.path(), path).unwrap();
    let folder = |path: &Path| fs::create_dir(path).unwrap();
    type Make<'a> = &'a dyn Fn(&Path);
    let makes: [(Make<'_>, &str); 3] =
        [(&link, "is a symbolic link"), (&fifo, "is not a plain file"), (&folder, "is not a plain file")];
    for (make, why) in makes {
        let (dir, program) = directory();
        let cdiff = dir.path().join("test-5.cdiff");
        fs::remove_file(&cdiff).unwrap();
        make(&cdiff);
        // Version 5 is there; what led to it is not.
        program.sync().exits(0).says([&*format!("{}: {why}", cdiff.display()), "put a plain file at"]);
        assert_eq!(program.names(), ["test-5.cvd"]);

        let (dir, program) = directory();
        fs::remove_file(dir.path().join("test-5.cdiff")).unwrap();
        let cvd = dir.path().join("test.cvd");
        fs::remove_file(&cvd).unwrap();
        make(&cvd);
        program.sync().exits(1).says([&*format!("{}: {why}", cvd.display()), "put a plain file at"]);
        assert_eq!(program.names(), Vec::<String>::new());

        // The same for the record.
        let (dir, program) = directory();
        let record = dir.path().join("dns.txt");
        make(&record);
        let what = why.split(';').next().unwrap();
        program.sync().exits(0).says([&format!("{}: {what}", record.display())]);
        assert_eq!(program.version(), Some(5));
    }
}

#[test]
fn a_broken_versioned_file_beside_a_right_one_does_no_harm() {
    let good = talos("test-5.cvd");
    let mut spoilt = good.clone();
    spoilt[4000] ^= 1;
    for (what, versioned, plain) in [
        ("no header", b"<html>".to_vec(), good.clone()),
        ("cut short", good[..300].to_vec(), good.clone()),
        ("another version", talos("test-4.cvd"), good.clone()),
        ("right header, spoilt body", spoilt.clone(), good.clone()),
        ("the other way round", good.clone(), spoilt),
        ("no plain one of that version", good.clone(), talos("test-4.cvd")),
    ] {
        let (dir, program) = directory();
        fs::write(dir.path().join("test-5.cvd"), versioned).unwrap();
        fs::write(dir.path().join("test.cvd"), plain).unwrap();
        program.sync().exits(0);
        assert_eq!(program.version(), Some(5), "{what}");
        assert!(program.cat("test-5.cvd") == good, "{what}");
    }
}

#[test]
fn a_half_written_file_is_taken_when_it_is_whole() {
    let (dir, program) = directory();
    fs::write(dir.path().join("test.cvd"), &talos("test-5.cvd")[..4000]).unwrap();
    program.sync().exits(1).says(["test-5.cvd", "REFUSED", "MD5"]);
    assert_eq!(program.version(), None);
    fs::write(dir.path().join("test.cvd"), talos("test-5.cvd")).unwrap();
    program.sync().exits(0);
    assert_eq!(program.version(), Some(5));
}

#[test]
fn a_missing_directory_is_named() {
    let program = Program::new("dir:/nonexistent/clamav");
    program.sync().exits(1).says(["/nonexistent/clamav"]);
}

/// Another program rewrites the file in place all the time: whatever is taken is one of the versions, whole.
#[test]
fn a_file_replaced_while_it_is_read_is_verified_or_refused() {
    let mint = Mint::new(11);
    let mut lineage = mint.database_of("test", 20_000, 100);
    let releases: Vec<_> = (0..6).map(|_| lineage.publish()).collect();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("test.cvd");
    fs::write(&path, &releases[0].cvd).unwrap();
    let source = format!("dir:{}", dir.path().display());
    let program = Program::new(&source).trusting(&mint.keys_toml()).set("backfill", "0");
    let server = program.serve();
    server.publishes(1);
    let stop = AtomicBool::new(false);
    let mut refusals = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for release in releases.iter().cycle() {
                if stop.load(Relaxed) {
                    return;
                }
                let mut file = File::create(&path).unwrap();
                for piece in release.cvd.chunks(64 << 10) {
                    file.write_all(piece).unwrap();
                    std::thread::yield_now();
                }
            }
        });
        for _ in 0..40 {
            refusals += u32::from(program.sync().code != Some(0));
        }
        stop.store(true, Relaxed);
    });
    eprintln!("{refusals} of 40 rounds took nothing");
    fs::write(&path, &releases[5].cvd).unwrap();
    program.sync().exits(0);
    for name in program.names() {
        let release = releases.iter().find(|release| release.cvd_name().to_string() == name).unwrap();
        assert!(program.cat(&name) == release.cvd, "{name}");
    }
    assert!(server.get("/test-6.cvd").body == releases[5].cvd);
}
