//! The commands of packaging/doc/clients.md that lead a client here and back, on freshclam.conf as distributions ship it.
//!
//! Ubuntu 24.04 has Debian 12's file to the byte, written by the same postinst; 22.04 is taken without a clamd.
use std::{
    path::{Path, PathBuf},
    process::Command,
};
use support::{
    peer,
    peers::Peers,
    process,
    program::Program,
    talos::{self, talos},
    upstream::Upstream,
};

const PAGE: &str = include_str!("../../packaging/doc/clients.md");
const OURS: &str = "DatabaseMirror http://mirror.example.lan:8080\nDNSDatabaseInfo no\n";
pub(crate) const STOCK: [(&str, &str); 5] = [
    ("Debian 12", include_str!("freshclam_conf/debian-12.conf")),
    ("Ubuntu 22.04", include_str!("freshclam_conf/ubuntu-22.04.conf")),
    ("Alma and Fedora", include_str!("freshclam_conf/alma-fedora.conf")),
    ("all commented", include_str!("freshclam_conf/all-commented.conf")),
    ("upstream's sample", include_str!("freshclam_conf/upstream-sample.conf")),
];
/// Options that say where updates come from, and the line that makes freshclam refuse the file.
const LEADS: [&str; 4] = ["DatabaseMirror", "PrivateMirror", "DNSDatabaseInfo", "Example"];

/// The command of the page that holds `mark`, for another file than /etc/clamav/freshclam.conf.
fn command(mark: &str, file: &Path) -> String {
    let block = PAGE.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let block = block.into_iter().find(|block| block.contains(mark)).unwrap_or_else(|| panic!("no {mark}"));
    let sed: Vec<&str> = block.lines().take_while(|line| !line.starts_with("sudo systemctl")).collect();
    let text = sed.join("\n");
    assert!(text.contains("/etc/clamav/freshclam.conf"), "{text}");
    text.replace("sudo ", "").replace("/etc/clamav/freshclam.conf", file.to_str().unwrap())
}

/// A stock freshclam.conf, led to a mirror by the command, with databases in `dir`/db: the file's own places are this
/// machine's.
pub(crate) fn led(dir: &Path, stock: &str, mirror: &str) -> PathBuf {
    let (file, database) = (dir.join("freshclam.conf"), dir.join("db"));
    std::fs::create_dir(&database).unwrap();
    let places = ["DatabaseDirectory", "DatabaseOwner", "UpdateLogFile", "NotifyClamd", "LogSyslog"];
    let own = stock.lines().filter(|line| !places.contains(&line.split(' ').next().unwrap()));
    let owner = process::run(Command::new("id").arg("-un")).stdout;
    let own: String = own.map(|line| format!("{line}\n")).collect();
    let text = format!("{own}DatabaseDirectory {}\nDatabaseOwner {owner}", database.display());
    std::fs::write(&file, text).unwrap();
    apply(&file);
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("http://mirror.example.lan:8080", mirror)).unwrap();
    file
}

fn apply(file: &Path) {
    process::run(Command::new("sh").args(["-eu", "-c", &command("1i # cvdmirror begin", file)])).exits(0);
}

fn undo(file: &Path) {
    process::run(Command::new("sh").args(["-eu", "-c", &command("s/^#cvdmirror# //", file)])).exits(0);
}

/// The lines that freshclam heeds of those that say where updates come from.
fn leads(text: &str) -> String {
    let active =
        text.lines().filter(|line| LEADS.contains(&line.split_whitespace().next().unwrap_or_default()));
    active.map(|line| format!("{line}\n")).collect()
}

/// Stock files, and what people and their editors make of them.
fn variants() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for (name, text) in STOCK {
        all.push((name.to_owned(), text.to_owned()));
        all.push((format!("{name}, no newline at the end"), text.trim_end().to_owned()));
        all.push((format!("{name}, CRLF"), text.replace('\n', "\r\n")));
        all.push((format!("{name}, indented"), text.replace("\nDatabaseMirror", "\n  DatabaseMirror")));
        all.push((format!("{name}, a private mirror"), format!("PrivateMirror 10.0.0.1\n{text}")));
        all.push((format!("{name}, an old mirror last"), format!("{text}DatabaseMirror\thttp://old:80")));
    }
    all
}

#[test]
fn a_client_is_led_here_however_often_and_back_to_the_byte() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("freshclam.conf");
    for (name, original) in variants() {
        std::fs::write(&file, &original).unwrap();
        let mut first = None;
        for time in 1..=3 {
            apply(&file);
            let text = std::fs::read_to_string(&file).unwrap();
            assert_eq!(leads(&text), OURS, "{name}, {time}:\n{text}");
            assert_eq!(first.get_or_insert_with(|| text.clone()), &text, "{name}, {time}");
        }
        undo(&file);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), original, "{name}");
        undo(&file);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), original, "{name}, undone twice");
    }
}

#[test]
fn what_is_changed_in_between_stays() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("freshclam.conf");
    let change = |from: &str, to: &str| {
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(&file, text.replacen(from, to, 1)).unwrap();
    };
    std::fs::write(&file, STOCK[0].1).unwrap();
    apply(&file);
    // Another address, a setting of one's own, and a block that lost its end.
    change("//mirror.example.lan:8080", "//another.example.lan");
    change("Checks 24", "Checks 12");
    change("# cvdmirror end\n", "");
    apply(&file);
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(leads(&text), OURS, "{text}");
    undo(&file);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), STOCK[0].1.replace("Checks 24", "Checks 12"));
}

/// Each stock file, led to a real mirror: freshclam reads it and updates.
#[test]
fn freshclam_updates_from_what_the_command_makes_of_a_stock_file() {
    let Some(freshclam) = peer("freshclam") else { return };
    let minted = match talos::is_own() {
        true => None,
        false => Some(Peers::with_mint_keys().unwrap()),
    };
    let upstream = Upstream::talos(5);
    let program = Program::new(&upstream.url());
    program.sync().exits(0);
    let server = program.serve();
    server.publishes(5);
    for (name, stock) in STOCK {
        let dir = tempfile::tempdir().unwrap();
        let file = led(dir.path(), stock, &server.url());
        let mut update = Command::new(&freshclam);
        update.arg("--config-file").arg(&file).args(["--stdout", "--update-db=test"]);
        update.envs(minted.iter().map(|peers| ("LD_LIBRARY_PATH", peers.libraries())));
        let ran = process::run(&mut update).exits(0);
        assert!(ran.stdout.contains("test.cvd updated (version: 5,"), "{name}: {ran}");
        assert_eq!(std::fs::read(dir.path().join("db/test.cvd")).unwrap(), talos("test-5.cvd"), "{name}");
    }
}
