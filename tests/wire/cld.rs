//! CLDs that the mirror makes and publishes.
use cvdmirror::{
    ca,
    clock::epoch_s,
    cvd::{Limits, verify_sign},
};
use serde_json::Value;
use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Command};
use support::{
    process,
    program::{Program, Serving, bare},
    talos::{self, talos},
    upstream::Upstream,
    wait_for, wire,
};

fn publishing(upstream: &Upstream) -> Program {
    Program::new(&upstream.url()).set("publish-cld", "true").set("keep-cvds", "1").set("grace", "1s")
}

fn index(server: &Serving) -> Value {
    serde_json::from_slice(&server.get("/index.json").body).unwrap()
}

/// What index.json says of a CLD, once it is there.
fn listed(server: &Serving, name: &str) -> Value {
    wait_for(name, || {
        let files = index(server)["databases"]["test"]["files"].as_array()?.clone();
        files.into_iter().find(|file| file["name"] == name)
    })
}

fn packs(program: &Program) -> Vec<PathBuf> {
    let entries = fs::read_dir(program.data().join("cld")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Changes a byte in the middle of the one pack of CLDs.
fn damage(program: &Program) {
    let [pack] = &packs(program)[..] else { panic!("{:?}", packs(program)) };
    let mut bytes = fs::read(pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 4096].iter_mut().for_each(|byte| *byte ^= 1);
    fs::set_permissions(pack, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(pack, bytes).unwrap();
}

/// What `pull` makes of the same CVD.
fn pulled(server: &Serving, program: &Program) -> Vec<u8> {
    let into = program.dir.path().join("db");
    fs::create_dir_all(&into).unwrap();
    let mut pull: Command = bare();
    pull.args(["pull", "--as=cld", "--database=test", "--certs-dir=none"]);
    pull.arg(format!("--from={}", server.url())).arg(format!("--into={}", into.display()));
    if !talos::is_own() {
        pull.arg(format!("--trust-keys={}", program.dir.path().join("keys.toml").display()));
    }
    process::run(&mut pull).exits(0);
    fs::read(into.join("test.cld")).unwrap()
}

#[test]
fn without_the_setting_there_is_none() {
    let upstream = Upstream::talos(5);
    let program = Program::new(&upstream.url());
    program.sync().exits(0);
    let server = program.serve();
    for path in ["/test.cld", "/test-5.cld", "/test-4.cld"] {
        let answer = server.get(path);
        assert_eq!((answer.status, answer.field("cache-control")), (404, Some("no-store")), "{path}");
    }
    assert!(!server.get("/index.json").text().contains(".cld"));
    assert!(!program.data().join("cld").exists());
}

#[test]
fn a_cld_has_a_name_for_ever_and_the_alias_points_to_it() {
    let upstream = Upstream::talos(5);
    let program = publishing(&upstream);
    let server = program.serve();
    let entry = listed(&server, "test-5.cld");
    let whole = server.get("/test-5.cld");
    assert_eq!(whole.status, 200);
    assert!(whole.body == pulled(&server, &program), "one version has one CLD");
    let hash = entry["hash"].as_str().unwrap();
    assert_eq!(entry["size"], whole.body.len());
    assert_eq!(whole.field("etag"), Some(format!("\"{hash}\"").as_str()));
    assert_eq!(whole.field("cache-control"), Some("public, max-age=31536000, immutable"));
    assert_eq!(whole.field("last-modified"), server.get("/test-5.cvd").field("last-modified"));
    assert!(server.get(&format!("/objects/{hash}")).body == whole.body);
    let part = wire::get(server.address, "/test-5.cld", "Range: bytes=0-511\r\n");
    assert!(part.status == 206 && part.body == whole.body[..512]);

    let alias = server.get("/test.cld");
    assert_eq!(alias.status, 302);
    assert_eq!(alias.field("location"), Some("/test-5.cld"));
    assert_eq!(alias.field("cache-control"), Some("no-store"));
    for path in ["/test.cld?version=5", "/test-4.cld", "/test-6.cld", "/test-5.cld.sign", "/other.cld"] {
        assert_eq!(server.get(path).status, 404, "{path}");
    }
    let metrics = server.get("/metrics").text();
    assert!(metrics.contains("cvdmirror_http_requests_total{kind=\"cld\",code=\"206\"} 1\n"), "{metrics}");
    // It is no part of the store.
    assert!(program.names().iter().all(|name| !name.contains(".cld")));

    let direct = publishing(&upstream).set("aliases", "direct");
    let server = direct.serve();
    listed(&server, "test-5.cld");
    let alias = server.get("/test.cld");
    assert_eq!((alias.status, alias.field("cache-control")), (200, Some("no-cache")));
    assert!(alias.body == whole.body);
}

#[test]
fn the_sites_ca_signs_clds_and_nothing_else() {
    let upstream = Upstream::talos(3);
    let program = publishing(&upstream);
    let dir = program.dir.path().join("ca");
    ca::init(&dir, epoch_s()).unwrap();
    let program = program.set("site-ca", dir.to_str().unwrap());
    let server = program.serve();
    let entry = listed(&server, "test-3.cld.sign");
    let sign = server.get("/test-3.cld.sign");
    assert_eq!((sign.status, sign.field("cache-control")), (200, Some("no-cache")));
    let (hash, etag) = (entry["hash"].as_str().unwrap(), sign.field("etag").unwrap());
    assert_eq!((format!("\"{hash}\"").as_str(), &entry["size"]), (etag, &sign.body.len().into()));
    assert!(server.get(&format!("/objects/{hash}")).body == sign.body);
    let again = wire::get(server.address, "/test-3.cld.sign", &format!("If-None-Match: {etag}\r\n"));
    assert_eq!(again.status, 304);
    let (cld, limits) = (server.get("/test-3.cld").body, Limits::default());
    let authority = ca::authority(&dir).unwrap();
    verify_sign(sign.body.as_slice(), cld.as_slice(), Some(&authority), epoch_s(), &limits).unwrap();
    // A CVD's is Talos', or none.
    assert!(server.get("/test-3.cvd.sign").body == talos("test-3.cvd.sign"));
    for path in ["/test.cld.sign", "/test-2.cld.sign", "/test-3.cld.sign.sign"] {
        assert_eq!(server.get(path).status, 404, "{path}");
    }

    // It goes with its CLD, and its signer with its term.
    upstream.move_to(5);
    program.sync().exits(0);
    assert_eq!(server.get("/test-3.cld.sign").status, 404);
    assert_eq!(server.get("/test-5.cld.sign").status, 200);
    fs::rename(&dir, program.dir.path().join("away")).unwrap();
    let why = "not every CLD is signed by the site's CA, and `pull --ca` takes no other";
    program.sync().says([why, "there is no CA; `cvdmirror ca init"]);
    assert_eq!(server.get("/test-5.cld.sign").status, 404);
    assert_eq!(server.get("/test-5.cld").status, 200);
    ca::init(&dir, epoch_s() - 800 * 86_400).unwrap();
    program.sync().says([why, "expired"]);
    assert_eq!(server.get("/test-5.cld.sign").status, 404);
    drop(server);

    let without = program.set("site-ca", "");
    let server = without.serve();
    listed(&server, "test-5.cld");
    assert!(!server.get("/index.json").text().contains(".cld.sign"));
}

/// One that was made for a Talos CVD by `ca sign` lies in the source: clients would refuse the CVD with it.
#[test]
fn a_talos_cvd_never_has_the_sign_file_of_the_sites_ca() {
    if !talos::own_or_skip() {
        return;
    }
    let upstream = Upstream::talos(5);
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("ca");
    ca::init(&dir, epoch_s()).unwrap();
    let sign = ca::Signer::open(&dir, epoch_s()).unwrap().sign(talos("test-5.cvd").as_slice()).unwrap();
    upstream.file("test-5.cvd.sign", sign.clone().into_bytes());
    // Even where the site has ClamAV trust its CA.
    for certs in ["none", dir.to_str().unwrap()] {
        let program = publishing(&upstream).set("site-ca", dir.to_str().unwrap()).set("certs-dir", certs);
        program
            .sync()
            .says(["the site's own CA made it, and clients refuse Talos' files with such a sign file"]);
        assert!(program.names().iter().all(|name| name != "test-5.cvd.sign"), "{certs}");
    }
}

#[test]
fn a_cld_comes_and_goes_with_its_cvd() {
    let upstream = Upstream::talos(3);
    let program = publishing(&upstream);
    program.sync().exits(0);
    assert_eq!(packs(&program).len(), 1);
    let server = program.serve();
    listed(&server, "test-3.cld");
    upstream.move_to(5);
    program.sync().exits(0);
    assert_eq!(server.get("/test.cld").field("location"), Some("/test-5.cld"));
    assert_eq!(server.get("/test-3.cvd").status, 404);
    assert_eq!(server.get("/test-3.cld").status, 404);
    assert_eq!(packs(&program).len(), 1);
    drop(server);

    let program = program.set("publish-cld", "");
    let server = program.serve();
    server.publishes(5);
    assert_eq!(server.get("/test-5.cld").status, 404);
    assert!(!program.data().join("cld").exists());
}

#[test]
fn one_that_was_damaged_is_never_served_and_is_made_anew() {
    let upstream = Upstream::talos(5);
    let program = publishing(&upstream);
    let server = program.serve();
    let before = listed(&server, "test-5.cld");
    drop(server);

    // While nobody ran; and something that is no pack.
    damage(&program);
    fs::write(program.data().join("cld/20261122T205800Z-3f2a91c04d5e6b77.redb"), "junk").unwrap();
    let server = program.serve();
    let after = listed(&server, "test-5.cld");
    assert_eq!((&before["hash"], &before["size"]), (&after["hash"], &after["size"]));
    server.says("does not hold, and is removed");
    let whole = server.get("/test-5.cld");
    assert_eq!(whole.status, 200);
    assert_eq!(packs(&program).len(), 1);

    // While it is served: what was read before is still good, the rest never leaves.
    damage(&program);
    let broken = server.get("/test-5.cld");
    assert!(broken.status == 503 || broken.body == whole.body, "{}", broken.status);
    drop(server);
    let server = program.serve();
    assert_eq!(listed(&server, "test-5.cld")["hash"], before["hash"]);
    assert!(server.get("/test-5.cld").body == whole.body);
    drop(server);

    // Under another name than its content's.
    let [pack] = &packs(&program)[..] else { panic!() };
    let kept = fs::read(pack).unwrap();
    let other = publishing(&Upstream::talos(3));
    other.sync().exits(0);
    let pack = packs(&other).remove(0);
    let foreign = program.data().join("cld").join(pack.file_name().unwrap());
    fs::copy(&pack, &foreign).unwrap();
    let server = program.serve();
    listed(&server, "test-5.cld");
    wait_for("the other one's end", || (!foreign.exists()).then_some(()));
    assert_eq!(server.get("/test-3.cld").status, 404);
    assert!(fs::read(&packs(&program)[0]).unwrap() == kept);
}

#[test]
fn without_room_or_right_the_cvd_is_served_and_the_reason_said() {
    let upstream = Upstream::talos(5);
    let program = publishing(&upstream);
    fs::create_dir_all(program.data()).unwrap();
    fs::write(program.data().join("cld"), "no directory").unwrap();
    program.sync().says(["no CLD of any CVD could be made"]);
    let server = program.serve();
    server.publishes(5);
    assert_eq!(server.get("/test.cld").status, 404);
    assert_eq!(server.get("/test-5.cvd").status, 200);
}
