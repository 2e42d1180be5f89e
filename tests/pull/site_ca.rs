//! `--ca`: nothing but a CLD that the site's CA has signed is installed, and each way to lack that has its own error.
use super::client::{Client, say, talos_mirror};
use cvdmirror::{
    ca::{self, Signer},
    clock::epoch_s,
};
use std::path::{Path, PathBuf};
use support::{
    peer,
    peers::Peers,
    process,
    program::{Program, bare},
    talos::{self, talos},
    upstream::{Answer, Upstream},
    wait_for,
};

const YEAR_S: u64 = 366 * 86_400;

/// A CA that was made so long ago, and its certificate.
fn site(dir: &Path, ago_s: u64) -> PathBuf {
    ca::init(dir, epoch_s() - ago_s).unwrap();
    dir.join("ca.crt")
}

/// The sign file that its signer made then.
fn signed(dir: &Path, ago_s: u64, cld: &[u8]) -> Vec<u8> {
    Signer::open(dir, epoch_s() - ago_s).unwrap().sign(cld).unwrap().into_bytes()
}

/// What a mirror makes of a version of `test`.
fn cld(version: u32) -> Vec<u8> {
    let mirror = talos_mirror(version);
    let maker = Client::of(&mirror.url()).set("as", "cld");
    maker.pull(&[]).exits(0);
    maker.read("test.cld")
}

/// A client that demands the CA of `dir`.
fn demanding(mirror: &str, dir: &Path) -> Client {
    let ca = dir.join("ca.crt");
    Client::of(mirror).set("as", "cld").set("ca", ca.to_str().unwrap())
}

#[test]
fn what_the_mirrors_ca_signed_is_installed_and_followed() {
    let upstream = Upstream::talos(3);
    let program = Program::new(&upstream.url()).set("publish-cld", "true");
    let dir = program.dir.path().join("ca");
    site(&dir, 0);
    let program = program.set("site-ca", dir.to_str().unwrap());
    program.sync().exits(0);
    let server = program.serve();
    let signs = |version: u32| {
        let name = format!("/test-{version}.cld.sign");
        wait_for(&name, || Some(server.get(&name)).filter(|reply| reply.status == 200)).body
    };
    signs(3);
    let client = demanding(&server.url(), &dir);
    client.pull(&[]).exits(0).says(["test: 3 installed as CLD, from the full CVD"]);
    assert_eq!(client.names(), ["test-3.cld.sign", "test.cld"]);
    client.pull(&[]).exits(0).says(["3 is the newest"]);

    // By patches comes what the mirror made of the CVD and signed.
    upstream.move_to(5);
    program.sync().exits(0);
    let sign = signs(5);
    client.pull(&[]).exits(0).says(["test: 3 -> 5 installed as CLD, by 2 CDIFFs"]);
    assert!(client.read("test-5.cld.sign") == sign);
    client.pull(&[]).exits(0).says(["5 is the newest"]);
    assert_eq!(client.names(), ["test-5.cld.sign", "test.cld"]);

    // The next signer of the same CA is as good; the mirror has it at the next round.
    ca::init(&dir, epoch_s()).unwrap();
    program.sync().exits(0);
    assert!(signs(5) != sign);
    client.pull(&[]).exits(0).says(["5 is the newest"]);

    let verify = |file: &str| {
        let mut command = bare();
        command.arg("verify").arg(client.db().join(file)).arg(format!("--certs-dir={}", dir.display()));
        process::run(talos::trusting(&mut command, client.dir.path()))
    };
    verify("test-5.cld.sign").exits(0).says(["sign file signs this file", "ok       signer is trusted"]);
    loads(&client);
}

/// The real clamscan takes the CLD with its sign file beside it.
fn loads(client: &Client) {
    if peer("clamscan").is_none() {
        return;
    }
    let mut scan = match talos::is_own() {
        true => std::process::Command::new("clamscan"),
        false => match Peers::with_mint_keys() {
            Some(peers) => {
                let mut command = peers.command("clamscan");
                let ran = process::run(scanning(&mut command, client));
                ran.exits(0).says(["Infected files: 0"]);
                return;
            }
            None => return,
        },
    };
    process::run(scanning(&mut scan, client)).exits(0).says(["Known viruses: 9", "Infected files: 0"]);
}

fn scanning<'a>(command: &'a mut std::process::Command, client: &Client) -> &'a mut std::process::Command {
    let clean = client.dir.path().join("clean");
    std::fs::write(&clean, "clean\n").unwrap();
    command.arg("-d").arg(client.db()).arg(clean)
}

#[test]
fn each_lack_of_a_signature_is_an_error_of_its_own() {
    let dirs = tempfile::tempdir().unwrap();
    let [own, other, old] = ["own", "other", "old"].map(|name| dirs.path().join(name));
    site(&own, 0);
    site(&other, 0);
    // A CA of three years ago; its first signer had two.
    site(&old, 3 * YEAR_S);
    let (cld4, cld5) = (cld(4), cld(5));
    let file = |sign: Vec<u8>| Some(Answer::File(sign));
    let cases = [
        (&own, None, "test-5.cld.sign is not there; the mirror signs its CLDs with publish_cld and site_ca"),
        (
            &own,
            file(signed(&other, 0, &cld5)),
            "test-5.cld.sign is not of the CA that --ca names: certificate CN=",
        ),
        (&own, file(talos("test-5.cvd.sign")), "test-5.cld.sign signs another file or version, not this CLD"),
        (&own, file(signed(&own, 0, &cld4)), "test-5.cld.sign signs another file or version, not this CLD"),
        (
            &old,
            file(signed(&old, 3 * YEAR_S, &cld5)),
            "test-5.cld.sign is of a signer that is not in force: certificate CN=",
        ),
        (
            &own,
            file(b"#clamsign\n".to_vec()),
            "test-5.cld.sign is no proper sign file: sign file does not start",
        ),
        (&own, file(Vec::new()), "test-5.cld.sign is no proper sign file: sign file does not start"),
        (&own, Some(Answer::Endless(vec![b'#'; 1 << 16])), "test-5.cld.sign has more than"),
        (&own, Some(Answer::Status(500, String::new(), Vec::new())), "test-5.cld.sign: the answer is 500"),
    ];
    for (dir, answer, why) in cases {
        let mirror = talos_mirror(5);
        if let Some(answer) = answer {
            mirror.set("/test-5.cld.sign", answer);
        }
        for start in [None, Some(("test.cvd", talos("test-3.cvd"))), Some(("test.cld", cld(3)))] {
            let client = demanding(&mirror.url(), dir);
            let client = match &start {
                Some((name, bytes)) => client.holding(name, bytes),
                None => client,
            };
            let before = client.files();
            let ran = client.pull(&[]).exits(1);
            assert!(ran.stderr.contains(why), "no {why:?} in\n{ran}");
            assert!(client.files() == before, "changed: {:?}\n{ran}", client.names());
        }
    }
}

#[test]
fn what_is_held_without_the_cas_word_is_made_anew() {
    let dirs = tempfile::tempdir().unwrap();
    let [own, other] = ["own", "other"].map(|name| dirs.path().join(name));
    site(&own, 0);
    site(&other, 0);
    let cld5 = cld(5);
    let mirror = talos_mirror(5);
    mirror.file("test-5.cld.sign", signed(&own, 0, &cld5));
    let there = |client: &Client| {
        client.pull(&[]).exits(0).says(["5 is the newest"]);
        assert_eq!(client.names(), ["test-5.cld.sign", "test.cld"]);
        assert!(client.read("test.cld") == cld5);
    };

    // A CVD, or a CLD of freshclam's: the same version, which nobody has signed as a whole.
    for (name, bytes) in [("test.cvd", talos("test-5.cvd")), ("test.cld", cld5.clone())] {
        let client = demanding(&mirror.url(), &own).holding(name, &bytes);
        client.pull(&[]).exits(0).says(["test: 5 -> 5 installed as CLD, by 0 CDIFFs"]);
        there(&client);
    }

    // COPYING is under none of Talos' signatures; the full CVD is taken where it was changed.
    let mut changed = cld5.clone();
    changed[512 + 512 + 10] ^= 1;
    let client = demanding(&mirror.url(), &own).holding("test.cld", &changed);
    client.put("test-5.cld.sign", &signed(&own, 0, &cld5));
    let ran = client.pull(&[]).exits(0);
    ran.says([
        "test-5.cld.sign: signs another file or version, not this CLD; the CLD is made anew",
        "the CLD that comes of the patches is not the one that the site's CA has signed",
        "test: 5 -> 5 installed as CLD, from the full CVD",
    ]);
    there(&client);

    // As a round leaves it that ended between the sign file and the CLD.
    let client = demanding(&mirror.url(), &own).holding("test.cld", &cld(3));
    client.put("test-3.cld.sign", &signed(&own, 0, &cld(3)));
    client.put("test-5.cld.sign", &signed(&own, 0, &cld5));
    client.pull(&[]).exits(0).says(["test: 3 -> 5 installed as CLD, by 2 CDIFFs"]);
    there(&client);

    // Another CA's, and none any more: made anew if the mirror has the right one, else left as it is.
    let client = demanding(&mirror.url(), &own).holding("test.cld", &cld5);
    client.put("test-5.cld.sign", &signed(&other, 0, &cld5));
    client.pull(&[]).exits(0).says(["is not of the CA that --ca names", "the CLD is made anew"]);
    there(&client);
    std::fs::remove_file(client.db().join("test-5.cld.sign")).unwrap();
    mirror.remove("/test-5.cld.sign");
    client.pull(&[]).exits(1).says(["test-5.cld.sign is not there"]);
    assert_eq!(client.names(), ["test.cld"]);
}

#[test]
fn it_waits_for_the_full_cvd_of_which_the_mirror_makes_the_cld() {
    let dirs = tempfile::tempdir().unwrap();
    let own = dirs.path().join("own");
    site(&own, 0);
    let mirror = talos_mirror(4);
    mirror.file("test-4.cld.sign", signed(&own, 0, &cld(4)));
    let client = demanding(&mirror.url(), &own);
    client.pull(&[]).exits(0);
    // Only the CDIFF of 5 is there.
    mirror.file("test-5.cdiff", talos("test-5.cdiff"));
    say(&mirror, 5);
    client.pull(&[]).exits(0).says(["test: 4; 5 is advertised, and nothing leads there yet"]);
    mirror.file("test-5.cvd", talos("test-5.cvd"));
    mirror.file("test-5.cld.sign", signed(&own, 0, &cld(5)));
    client.pull(&[]).exits(0).says(["test: 4 -> 5 installed as CLD, by 1 CDIFF"]);
}

#[test]
fn two_cas_may_be_trusted_while_one_follows_the_other() {
    let dirs = tempfile::tempdir().unwrap();
    let [first, second] = ["first", "second"].map(|name| dirs.path().join(name));
    let both = [site(&first, 0), site(&second, 0)].map(|path| std::fs::read(path).unwrap()).concat();
    let file = dirs.path().join("both.crt");
    std::fs::write(&file, both).unwrap();
    let mirror = talos_mirror(5);
    for dir in [&first, &second] {
        mirror.file("test-5.cld.sign", signed(dir, 0, &cld(5)));
        demanding(&mirror.url(), dir).set("ca", file.to_str().unwrap()).pull(&[]).exits(0);
    }
}

#[test]
fn without_clds_or_a_certificate_it_is_a_usage_error() {
    let dirs = tempfile::tempdir().unwrap();
    let own = dirs.path().join("own");
    let ca = site(&own, 0);
    let client = Client::of("http://127.0.0.1:1");
    let option = format!("--ca={}", ca.display());
    let why = "as = \"cld\" is not set and ca is, and a site's CA signs CLDs alone: write as = \"cld\", or --as cld";
    client.pull(&[&option]).exits(2).says([why]);
    client.pull(&[&option, "--as=cvd"]).exits(2).says([why]);
    client.pull(&["--ca=/nowhere.crt", "--as=cld"]).exits(2).says(["ca: /nowhere.crt: No such file"]);
    client.put("no.crt", b"hello\n");
    let no = client.db().join("no.crt");
    let ran = client.pull(&[&format!("--ca={}", no.display()), "--as=cld"]).exits(2);
    ran.says(["no.crt: no certificate in it; give the ca.crt that `cvdmirror ca init` made"]);
}
