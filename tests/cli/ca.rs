//! `ca init` and `ca sign`: what they make, what they refuse, and what the doctor says of it.
use cvdmirror::{ca, clock::epoch_s};
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};
use support::{
    peer,
    process::{self, Ran},
    program::{Program, bare},
    talos::{self, talos},
    upstream::Upstream,
};
use tempfile::TempDir;

const DAY_S: u64 = 86_400;

struct Site {
    dir: TempDir,
}

impl Site {
    fn new() -> Self {
        let site = Self { dir: TempDir::new().unwrap() };
        site.run(&["ca", "init", "ca"])
            .exits(0)
            .says(["a CA and its signer were made", "valid for 3652 days"]);
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        process::run(bare().current_dir(self.dir.path()).args(arguments))
    }

    fn sign(&self, file: &str) -> Ran {
        self.run(&["ca", "sign", file, "--dir=ca"])
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn keys_are_their_owners_alone_and_a_second_init_makes_the_next_signer() {
    let site = Site::new();
    let modes = ["ca", "ca/ca.crt", "ca/ca.key", "ca/signer.key"].map(|name| mode(&site.path(name)));
    assert_eq!(modes, [0o700, 0o644, 0o600, 0o600]);
    assert_eq!(fs::read_dir(site.path("ca")).unwrap().count(), 3);
    assert_eq!(fs::read_dir(site.dir.path()).unwrap().count(), 1, "nothing is left beside it");

    let (authority, signer) = (site.read("ca/ca.crt"), site.read("ca/signer.key"));
    site.run(&["ca", "init", "ca"]).exits(0).says(["the CA stays as it is, and has a new signer"]);
    assert!(site.read("ca/ca.crt") == authority && site.read("ca/signer.key") != signer);
    assert_eq!(mode(&site.path("ca/signer.key")), 0o600);

    // Its key need not be there but for that.
    fs::rename(site.path("ca/ca.key"), site.path("away")).unwrap();
    site.put("test-5.cvd", &talos("test-5.cvd"));
    site.sign("test-5.cvd").exits(0);
    let signer = site.read("ca/signer.key");
    site.run(&["ca", "init", "ca"]).exits(1).says(["ca/ca.key: No such file"]);
    assert!(site.read("ca/signer.key") == signer);

    // Of another CA's key comes no signer.
    site.run(&["ca", "init", "other"]).exits(0);
    fs::copy(site.path("other/ca.key"), site.path("ca/ca.key")).unwrap();
    let ran = site.run(&["ca", "init", "ca"]).exits(1);
    ran.says(["ca/signer.key: what the signer signs does not verify: signer is not trusted"]);
    assert!(site.read("ca/signer.key") == signer);
}

#[test]
fn init_takes_a_directory_of_its_own() {
    let site = Site::new();
    fs::create_dir(site.path("empty")).unwrap();
    site.run(&["ca", "init", "empty"]).exits(0);
    assert_eq!(mode(&site.path("empty")), 0o700);
    site.run(&["ca", "init", "not/yet/there"]).exits(0);
    fs::create_dir(site.path("full")).unwrap();
    site.put("full/file", b"");
    let ran = site.run(&["ca", "init", "full"]).exits(1);
    ran.says(["cvdmirror: full: is not empty and holds no CA; name a directory that is not there yet"]);
    site.put("file", b"");
    site.run(&["ca", "init", "file"]).exits(1).says(["cvdmirror: file: Not a directory"]);
    site.run(&["ca", "init"]).exits(2);
}

#[test]
fn an_authority_that_ends_makes_no_signer() {
    let dir = TempDir::new().unwrap();
    let old = dir.path().join("old");
    ca::init(&old, epoch_s() - 3630 * DAY_S).unwrap();
    let ran = process::run(bare().args(["ca", "init"]).arg(&old)).exits(1);
    ran.says(["old/ca.crt: the CA has ended, or does within 30 days; make another one"]);
}

#[test]
fn a_sign_file_is_openssls_and_verifies_for_its_own_file_alone() {
    let site = Site::new();
    site.put("test-5.cvd", &talos("test-5.cvd"));
    let ran = site.sign("test-5.cvd").exits(0).says(["test-5.cvd.sign: written\n"]);
    if talos::is_own() {
        ran.says(["is Talos' own: a ClamAV that does not trust this CA refuses it"]);
    }
    let verify = |file: &str| site.run(&["verify", file, "--certs-dir=ca"]);
    verify("test-5.cvd.sign").exits(0).says(["ok       signer is trusted"]);
    site.put("test-5.cvd", &talos("test-4.cvd"));
    verify("test-5.cvd.sign").exits(1).says(["signed digest is not the file's"]);
    site.put("test-5.cvd", &talos("test-5.cvd"));

    // Its own it replaces, whatever the file was.
    let before = site.read("test-5.cvd.sign");
    site.sign("test-5.cvd").exits(0);
    assert!(site.read("test-5.cvd.sign") != before);

    // Under the name that it has in a database directory.
    site.put("test.cvd", &talos("test-5.cvd"));
    let ran = site.sign("test.cvd").exits(0);
    ran.says(["test.cvd.sign: written; ClamAV's name for it is test-5.cvd.sign"]);

    let Some(openssl) = peer("openssl") else { return };
    let text = String::from_utf8(site.read("test-5.cvd.sign")).unwrap();
    let (first, rest) = text.split_once('\n').unwrap();
    assert_eq!(first, "#clamsign-1.0");
    let base64 = rest.trim_end().strip_prefix("230::pkcs7-pem:").unwrap();
    site.put("pem", format!("-----BEGIN PKCS7-----\n{base64}\n-----END PKCS7-----\n").as_bytes());
    // The call `PKCS7_verify`, whose default purpose is smime_sign.
    let mut command = Command::new(openssl);
    command.current_dir(site.dir.path()).args(["smime", "-verify", "-binary", "-inform", "PEM"]);
    command.args(["-no-CApath", "-no-CAstore", "-CAfile", "ca/ca.crt", "-in", "pem"]);
    process::run(command.args(["-content", "test-5.cvd", "-out", "/dev/null"])).exits(0);
}

#[test]
fn what_is_no_database_is_not_signed_and_nobody_elses_signature_is_replaced() {
    let site = Site::new();
    let mut cut = talos("test-5.cvd");
    cut.truncate(4000);
    for (name, bytes, why) in [
        ("notes.txt", b"hello".to_vec(), "is no CVD or CLD by its name"),
        ("x.cvd", b"hello".to_vec(), "is no CVD or CLD: it starts like none"),
        ("x.cld", Vec::new(), "is no CVD or CLD: it starts like none"),
        ("test-5.cdiff", talos("test-5.cdiff"), "is no CVD or CLD by its name"),
        ("cdiff.cvd", talos("test-5.cdiff"), "is no CVD or CLD: it starts like none"),
        ("test-5.cvd", cut, "is no CVD or CLD: "),
        ("test-4.cvd", talos("test-5.cvd"), "is no CVD or CLD: named version 4"),
        ("other.cvd", talos("test-5.cvd"), "is no CVD or CLD: "),
    ] {
        site.put(name, &bytes);
        site.sign(name).exits(1).says([&format!("cvdmirror: {name}: {why}")]);
        assert!(!site.path(&format!("{name}.sign")).exists(), "{name}");
    }
    site.sign("gone.cvd").exits(1).says(["cvdmirror: gone.cvd: No such file"]);
    fs::create_dir(site.path("dir.cvd")).unwrap();
    site.sign("dir.cvd").exits(1).says(["cvdmirror: dir.cvd: is no plain file"]);

    site.put("test-5.cvd", &talos("test-5.cvd"));
    site.run(&["ca", "init", "other"]).exits(0);
    site.run(&["ca", "sign", "test-5.cvd", "--dir=other"]).exits(0);
    let others = site.read("test-5.cvd.sign");
    for bytes in [others, talos("test-5.cvd.sign"), b"notes".to_vec(), Vec::new()] {
        site.put("test-5.cvd.sign", &bytes);
        let ran = site.sign("test-5.cvd").exits(1);
        ran.says(["cvdmirror: test-5.cvd.sign: is not a sign file of this CA, and stays as it is"]);
        assert!(site.read("test-5.cvd.sign") == bytes);
    }
    let ran = site.run(&["ca", "sign", "test-5.cvd", "--data-dir=data"]).exits(1);
    ran.says(["cvdmirror: data/ca: there is no CA; `cvdmirror ca init data/ca` makes one"]);
}

#[test]
fn the_doctor_says_when_signer_or_authority_ends() {
    let upstream = Upstream::talos(5);
    let cases: [(u64, &[&str]); 4] = [
        (0, &[]),
        (702, &["signer.key: the CA's signer expires in 27 days"]),
        (800, &["signer.key: the CA's signer has expired"]),
        (3640, &["ca.crt: the site's CA expires in 11 days", "signer.key: the CA's signer has expired"]),
    ];
    for (days, whats) in cases {
        let program = Program::new(&upstream.url()).set("publish-cld", "true");
        let dir = program.dir.path().join("ca");
        ca::init(&dir, epoch_s() - days * DAY_S - 3600).unwrap();
        let program = program.set("site-ca", dir.to_str().unwrap());
        let ran = program.run(&["doctor", "--json"]);
        let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        let found: Vec<String> = report["checks"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|check| check["about"] == "site CA")
            .flat_map(|check| check["findings"].as_array().unwrap())
            .map(|finding| finding["what"].as_str().unwrap().replace(&format!("{}/", dir.display()), ""))
            .collect();
        assert_eq!(found, whats, "{days} days");

        // A client has the certificate alone.
        let conf = program.dir.path().join("clamd.conf");
        fs::write(&conf, "LocalSocket /run/clamd.ctl\n").unwrap();
        let ran = program.run(&["doctor", &format!("--clamd-conf={}", conf.display()), "--json"]);
        assert!(!ran.stdout.contains("site CA"), "{ran}");
        let settings = program.dir.path().join("pull.toml");
        fs::write(&settings, format!("as = \"cld\"\nca = \"{}\"\n", dir.join("ca.crt").display())).unwrap();
        let ran = program.run(&[
            "doctor",
            &format!("--clamd-conf={}", conf.display()),
            &format!("--config={}", settings.display()),
        ]);
        let end = if days == 3640 {
            "the site's CA expires in 11 days"
        } else {
            "the site's CA is valid for another"
        };
        ran.says([end]);
    }
}

#[test]
fn the_setting_needs_clds_and_a_directory() {
    let program = Program::new("dir:/").set("site-ca", "/nowhere");
    program.run(&["config", "check"]).exits(2).says(["publish_cld is not set and site_ca is"]);
    let program = program.set("publish-cld", "true");
    program.run(&["config", "check"]).exits(2).says(["site_ca: /nowhere: No such file"]);
}
