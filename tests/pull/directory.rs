//! A directory that is not as it should be, or does not take files: said clearly, and left as it is or mended.
use super::client::{Client, flipped, talos_mirror, talos_up_to};
use std::{
    os::unix::fs::{MetadataExt, PermissionsExt},
    process::Command,
};
use support::{
    peer,
    process::{self, Ran},
    skip, talos,
};

/// The CLD of a version, as pull makes it.
fn cld(version: u32) -> Vec<u8> {
    let mirror = talos_mirror(version);
    let client = Client::of(&mirror.url()).set("as", "cld");
    client.pull(&[]).exits(0);
    client.read("test.cld")
}

#[test]
fn a_copy_with_a_version_in_its_name_is_named_and_nothing_is_touched() {
    let mirror = talos_mirror(5);
    for copy in ["test-9.cvd", "test-4.cld"] {
        let client = Client::of(&mirror.url())
            .holding("test.cvd", &talos("test-3.cvd"))
            .holding("test.cld", &cld(4))
            .holding(copy, &talos("test-4.cvd"));
        let before = client.files();
        let path = client.db().join(copy);
        client.pull(&[]).exits(1).says([
            "test: ClamAV would load ",
            path.to_str().unwrap(),
            "move that away",
        ]);
        assert!(client.files() == before);
    }
    // What is no database, or another one's, is nobody's business.
    let client = Client::of(&mirror.url()).holding("test-9.cvd.bak", b"x").holding("testing-9.cvd", b"x");
    client.pull(&[]).exits(0);
    assert_eq!(client.names(), ["test-9.cvd.bak", "test.cvd", "testing-9.cvd"]);
}

#[test]
fn of_two_forms_the_one_that_libclamav_takes_is_built_upon_and_the_other_goes() {
    let mirror = talos_mirror(5);
    let both = |cvd: u32, cld_: u32| {
        Client::of(&mirror.url())
            .holding("test.cvd", &talos(&format!("test-{cvd}.cvd")))
            .holding("test.cld", &cld(cld_))
    };
    for (cvd, cld, form) in [(3, 4, "cld"), (4, 3, "cvd"), (4, 4, "cld")] {
        let said = format!("test: 4 -> 5 installed as {}, by 1 CDIFF", form.to_uppercase());
        let client = both(cvd, cld);
        client.pull(&[]).exits(0).says([&said]);
        assert_eq!(client.names(), [format!("test.{form}")]);
        client.verifies(&format!("test.{form}"));
    }
    for (cvd, cld, left) in [(5, 4, "test.cvd"), (4, 5, "test.cld"), (5, 5, "test.cld")] {
        let client = both(cvd, cld);
        client.pull(&[]).exits(0).says(["test: 5 is the newest", "is not needed any more, and removed"]);
        assert_eq!(client.names(), [left]);
    }
}

#[test]
fn a_database_that_was_tampered_with_is_noticed_and_replaced_by_a_genuine_one() {
    let mirror = talos_mirror(5);
    let mut grown = cld(4);
    grown.extend([0; 512]);
    for (name, bytes) in [
        ("test.cld", flipped(cld(4))),
        ("test.cld", cld(4)[..20_480].to_vec()),
        ("test.cvd", flipped(talos("test-4.cvd"))),
        ("test.cld", b"ClamAV-VDB:".to_vec()),
        ("test.cld", Vec::new()),
    ] {
        let client = Client::of(&mirror.url()).holding(name, &bytes);
        let path = client.db().join(name);
        let noticed = format!("{} is damaged or was tampered with", path.display());
        client.pull(&[]).exits(0).says([&noticed, "5 installed as ", "from the full CVD"]);
        assert_eq!(client.names(), [name]);
        assert!(client.read(name) == if name == "test.cvd" { talos("test-5.cvd") } else { cld(5) });

        // Without a genuine one it stays: nothing that was fetched is better.
        let lying = talos_mirror(5);
        lying.file("test-5.cvd", flipped(talos("test-5.cvd")));
        let client = Client::of(&lying.url()).holding(name, &bytes);
        client.pull(&[]).exits(1).says(["is damaged or was tampered with", "is not to be trusted"]);
        assert_eq!(client.names(), [name]);
    }
    // One that claims the version that is there, or a later one, would be taken by libclamav; it gives way under its name.
    for version in ["5", "9"] {
        let mut claims = flipped(cld(4));
        let header =
            String::from_utf8(claims[..512].to_vec()).unwrap().replacen(":4:", &format!(":{version}:"), 1);
        claims[..512].copy_from_slice(header.as_bytes());
        let client = Client::of(&mirror.url()).set("as", "cvd").holding("test.cld", &claims);
        client.pull(&[]).exits(0).says(["is damaged or was tampered with", "5 installed as CLD"]);
        assert_eq!(client.names(), ["test.cld"]);
        assert!(client.read("test.cld") == cld(5));
    }
    // One that is changed after it was found good is noticed too, by the file that it is then.
    let client = Client::of(&mirror.url());
    client.pull(&[]).exits(0);
    client.put("test.cvd", &flipped(talos("test-5.cvd")));
    client.pull(&[]).exits(0).says(["is damaged or was tampered with", "was written by another program"]);
    assert_eq!(client.read("test.cvd"), talos("test-5.cvd"));
}

#[test]
fn another_writer_is_noticed_once_and_named() {
    let mirror = talos_mirror(4);
    let client = Client::of(&mirror.url());
    client.pull(&[]).exits(0).never_says("was written by");
    // As freshclam does: another file under the name.
    std::fs::write(client.db().join("tmp"), talos("test-5.cvd")).unwrap();
    std::fs::rename(client.db().join("tmp"), client.db().join("test.cvd")).unwrap();
    client.put("freshclam.dat", b"x");
    talos_up_to(&mirror, 5);
    let said =
        "was written by freshclam, it seems: two programs that update one directory undo each other's work";
    client.pull(&[]).exits(0).says([said, "test: 5 is the newest"]);
    client.pull(&[]).exits(0).never_says("was written by");
}

#[test]
fn files_get_the_directorys_owner_group_and_mode() {
    if !rustix::process::geteuid().is_root() {
        return skip("only root can give files away");
    }
    let mirror = talos_mirror(5);
    let client = Client::of(&mirror.url());
    std::os::unix::fs::chown(client.db(), Some(1234), Some(2345)).unwrap();
    std::fs::set_permissions(client.db(), PermissionsExt::from_mode(0o2750)).unwrap();
    client.pull(&[]).exits(0);
    let meta = std::fs::metadata(client.db().join("test.cvd")).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (1234, 2345, 0o640));
}

/// Runs a pull as a user without rights.
fn as_nobody(client: &Client) -> Option<Ran> {
    if !rustix::process::geteuid().is_root() {
        skip("only root can be somebody else");
        return None;
    }
    peer("setpriv")?;
    // What it needs must be reached: the test's directory is root's alone.
    std::fs::set_permissions(client.dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let program = client.dir.path().join("cvdmirror");
    // By a child: what this process has open to write cannot be run (see `support::program::script`).
    let copied = std::process::Command::new("cp").arg(env!("CARGO_BIN_EXE_cvdmirror")).arg(&program).status();
    assert!(copied.unwrap().success());
    let pull = client.command(&[]);
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
    command.args(pull.get_args()).env("CVDMIRROR_CONFIG", "/dev/null");
    Some(process::run(&mut command))
}

#[test]
fn a_directory_that_is_somebody_elses_is_left_alone() {
    let mirror = talos_mirror(5);
    let client = Client::of(&mirror.url()).holding("test.cvd", &talos("test-3.cvd"));
    let before = client.files();
    let Some(ran) = as_nobody(&client) else { return };
    ran.exits(1).says([client.db().to_str().unwrap(), "Permission denied"]);
    // One in which everybody may write takes files, but not in its owner's name.
    std::fs::set_permissions(client.db(), PermissionsExt::from_mode(0o777)).unwrap();
    as_nobody(&client)
        .unwrap()
        .exits(1)
        .says(["belongs to user 0 and group 0", "run as that user, or as root"]);
    assert!(client.files() == before);
    assert!(mirror.asked().is_empty(), "asked for what cannot be installed");

    // A volume that a group shares.
    std::fs::remove_dir_all(client.db().join(".cvdmirror")).unwrap();
    std::os::unix::fs::chown(client.db(), None, Some(65534)).unwrap();
    std::fs::set_permissions(client.db(), PermissionsExt::from_mode(0o2777)).unwrap();
    as_nobody(&client).unwrap().exits(0).says(["3 -> 5 installed"]);
    let meta = std::fs::metadata(client.db().join("test.cvd")).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (65534, 65534, 0o664));
}

/// Runs a pull where its directory is mounted as told; says the sums of its files after that.
fn mounted(client: &Client, how: &str) -> Option<Ran> {
    peer("unshare")?;
    peer("mount")?;
    let mut command = Command::new("unshare");
    let script = format!(
        "db=$1; shift; cp -a \"$db\" \"$db.copy\"; {how} && cp \"$db.copy\"/* \"$db\" 2>&-; \"$@\"; rc=$?
         cmp \"$db.copy/test.cvd\" \"$db/test.cvd\" && ls \"$db\" && exit $rc; exit 99"
    );
    command.args(["--mount", "sh", "-c", &script, "sh"]).arg(client.db());
    let pull = client.command(&[]);
    command.arg(pull.get_program()).args(pull.get_args()).env("CVDMIRROR_CONFIG", "/dev/null");
    if !rustix::process::geteuid().is_root() {
        skip("only root can mount");
        return None;
    }
    Some(process::run(&mut command))
}

#[test]
fn a_disk_that_is_full_or_read_only_leaves_every_file() {
    // The sizes below are those of Talos' files.
    if !support::talos::own_or_skip() {
        return;
    }
    let mirror = talos_mirror(5);
    let client =
        |form: &str| Client::of(&mirror.url()).set("as", form).holding("test.cvd", &talos("test-3.cvd"));
    // A page more than these and the full file goes in, though the patches do not.
    for (form, sizes) in [("cvd", &[12, 16, 20][..]), ("cld", &[16, 24, 36, 48])] {
        for kib in sizes {
            let mount = format!("mount -t tmpfs -o size={kib}k none \"$db\"");
            let Some(ran) = mounted(&client(form), &mount) else { return };
            ran.exits(1).says(["No space left on device", "test"]);
        }
    }
    let mount = "mount -t tmpfs -o size=28k none \"$db\"";
    let ran = mounted(&client("cvd"), mount).unwrap().exits(99);
    ran.says(["3 -> 5 installed as CVD, from the full CVD", "cannot read the body: No space left on device"]);
    let ran = mounted(&client("cvd"), "mount --bind \"$db\" \"$db\" && mount -o remount,bind,ro \"$db\"");
    ran.unwrap().exits(1).says(["Read-only file system"]);
    let absent = Client::of(&mirror.url()).set("into", "/nowhere/at/all");
    absent.pull(&[]).exits(1).says(["/nowhere/at/all: No such file or directory"]);
}

#[test]
fn two_pulls_do_not_meet() {
    let mirror = talos_mirror(5);
    let client = Client::of(&mirror.url());
    client.pull(&[]).exits(0);
    let lock = std::fs::File::open(client.db().join(".cvdmirror/lock")).unwrap();
    lock.lock().unwrap();
    client.pull(&[]).exits(1).says(["another pull is at work there"]);
}
