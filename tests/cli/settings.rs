//! Settings that are wrong: exit 2, and a message that names where the setting stands and what to write.
use std::path::PathBuf;
use support::{
    process::{Ran, run},
    program::bare,
};

/// Runs `config check` or another command with a settings file of this text.
fn with_file(text: &str, command: &[&str]) -> (Ran, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cvdmirror.toml");
    std::fs::write(&path, text).unwrap();
    let ran = run(bare().args(command).arg("--config").arg(&path).env("HOME", dir.path()));
    (ran, path)
}

#[test]
fn an_unknown_key_names_the_nearest() {
    for (text, key, nearest) in [
        ("check_intervall = \"5m\"", "check_intervall", "check_interval"),
        ("databse = \"daily\"", "databse", "database"),
        ("txt-records = \"none\"", "txt-records", "txt_record"),
        ("[listen]\nport = 80", "listen", ""),
    ] {
        for command in [&["config", "check"][..], &["sync"], &["serve"], &["status"]] {
            let (ran, path) = with_file(text, command);
            let ran = ran.exits(2).says([path.to_str().unwrap(), key]);
            if !nearest.is_empty() {
                ran.says([&format!("unknown key `{key}`; did you mean `{nearest}`?")]);
            }
        }
    }
}

#[test]
fn a_key_unlike_any_is_answered_with_the_choice() {
    let (ran, _) = with_file("qqqq = 1", &["config", "check"]);
    let ran = ran.exits(2).never_says("did you mean");
    ran.says(["unknown key `qqqq`; there are data_dir, database, source, "]);
}

#[test]
fn a_misspelt_variable_names_the_nearest() {
    for (name, nearest) in [
        ("CVDMIRROR_DATA_DIRS", "CVDMIRROR_DATA_DIR"),
        ("CVDMIRROR_CHECK_INTERVALL", "CVDMIRROR_CHECK_INTERVAL"),
        ("CVDMIRROR_LISTENS", "CVDMIRROR_LISTEN"),
    ] {
        run(bare().args(["config", "check"]).env(name, "x"))
            .exits(2)
            .says([&format!("environment: {name} is no setting's; did you mean `{nearest}`?")]);
    }
    // What is unlike any setting is another program's.
    run(bare().args(["config", "check"]).env("CVDMIRROR_QQQQ", "x")).exits(0);
}

#[test]
fn an_address_stands_there_once() {
    let twice = ["config", "check", "--listen=127.0.0.1:8080,127.0.0.1:8080"];
    let quoted = "command line: --listen: \"127.0.0.1:8080\" is given twice; write it once";
    run(bare().args(twice)).exits(2).says([quoted]);
    run(bare().args(["config", "check", "--listen=127.0.0.1:0,127.0.0.1:0"])).exits(0);
}

#[test]
fn what_the_settings_name_must_be_there() {
    run(bare().args(["config", "check", "--source=dir:/nonexistent/db", "--certs-dir=/nonexistent/certs"]))
        .exits(2)
        .says([
            "source: /nonexistent/db: No such file or directory (os error 2); write a directory that can be read",
            "certs_dir: /nonexistent/certs: No such file",
        ]);
}

#[test]
fn help_says_how_a_list_is_given() {
    run(bare().args(["serve", "--help"])).exits(0).says(["[repeatable, or with commas]"]);
}

#[test]
fn a_file_that_does_not_read_is_named() {
    for (text, why) in [
        ("database = [\"daily\"", "cvdmirror.toml"),
        ("database = 7.5", "`database` must be a text or a list of texts"),
        ("source = [\"a\", \"b\"]", "`source` must be a text or a number"),
        ("check_interval = \"5m\"\ncheck-interval = \"6m\"", "twice"),
        ("database = \"daily\"\ndatabase = \"main\"", "duplicate key"),
        ("database = []", "`database` must be"),
    ] {
        let (ran, path) = with_file(text, &["config", "check"]);
        ran.exits(2).says([path.to_str().unwrap(), why]);
    }
    run(bare().args(["config", "check", "--config", "/nonexistent.toml"]))
        .exits(2)
        .says(["/nonexistent.toml: ", "No such file"]);
}

#[test]
fn a_wrong_value_names_where_it_was_given() {
    let keys = tempfile::NamedTempFile::new().unwrap();
    let no_keys = keys.path().to_str().unwrap();
    for (key, value, why) in [
        ("database", "../daily", "is no database name"),
        ("source", "ftp://example.net", "is no source; write http://…, https://… or dir:PATH"),
        ("source", "database.clamav.net", "has no scheme; write http://database.clamav.net"),
        ("source", "dir:", "is empty"),
        ("redirect_hosts", "cdn.example.net/x", "is no host; write a name or an IP address"),
        ("redirect_hosts", "cdn.example.net:80", "is no host"),
        ("txt_record", "no such name", "is no domain name"),
        ("nameserver", "dns.example.net", "is no IP address"),
        ("nameserver", "192.0.2.1:0", "is no IP address, alone or with a port from 1 on"),
        ("listen", "8080", "is no ADDR:PORT"),
        ("check_interval", "soon", "is no length of time"),
        ("check_interval", "0s", "is no length of time"),
        ("check_interval", "900000h", "is not from 1 ms to 168 h"),
        ("check_interval", "500us", "is not from 1 ms to 168 h"),
        ("max_age", "900000h", "is not from 1 ms to 8784 h"),
        ("stall_timeout", "2h", "is not from 1 ms to 1 h"),
        ("aliases", "proxy", "is neither redirect nor direct"),
        ("backfill", "-1", "is no count from 0 to 1000"),
        ("backfill", "100000", "is no count from 0 to 1000"),
        ("max_age", "12", "is no length of time"),
        ("trust_keys", "/nonexistent", "cannot be read"),
        ("trust_keys", no_keys, "holds no keys"),
    ] {
        let option = format!("--{}", key.replace('_', "-"));
        let quoted = format!("{value:?} {why}");
        let flag = format!("{option}={value}");
        run(bare().args(["config", "check", &flag]))
            .exits(2)
            .says([&format!("command line: {option}: {quoted}")]);

        let variable = format!("CVDMIRROR_{}", key.to_ascii_uppercase());
        run(bare().args(["config", "check"]).env(&variable, value))
            .exits(2)
            .says([&format!("environment: {variable}: {quoted}")]);

        let (ran, path) = with_file(&format!("{key} = '{value}'"), &["config", "check"]);
        ran.exits(2).says([&format!("{}: {key}: {quoted}", path.display())]);
    }
}

#[test]
fn half_a_pair_is_an_error() {
    run(bare().args(["config", "check", "--dns-listen=127.0.0.1:0"])).exits(2).says(["dns_zone is not set"]);
    run(bare().args(["config", "check", "--dns-zone=example.net"])).exits(2).says(["dns_listen is not set"]);
}

#[test]
fn the_nearer_setting_wins_and_is_shown_with_its_origin() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("settings.toml");
    std::fs::write(&path, "check_interval = \"1m\"\nbackfill = 7\nmax-age = \"3h\"\n").unwrap();
    let mut command = bare();
    command.args(["config", "show", "--config", path.to_str().unwrap(), "--check-interval=3m"]);
    command.env("CVDMIRROR_CHECK_INTERVAL", "2m").env("CVDMIRROR_BACKFILL", "8").env("HOME", dir.path());
    run(&mut command).exits(0).says([
        "check_interval = \"3m\"  # command line",
        "backfill = \"8\"  # environment",
        "max_age = \"3h\"  # file",
        "aliases = \"redirect\"  # default",
        "database = [\"main\", \"daily\", \"bytecode\"]  # default",
        &format!("data_dir = \"{}\"", dir.path().join(".local/share/cvdmirror").display()),
    ]);
}

/// Talos' record says nothing of another source.
#[test]
fn only_talos_source_has_a_record_by_default() {
    let shown = |args: &[&str]| run(bare().args(["config", "show", "--data-dir=/srv/x"]).args(args)).exits(0);
    shown(&[]).says(["txt_record = \"current.cvd.clamav.net\"  # default\n"]);
    shown(&["--source=https://database.clamav.net/x"]).says(["\"current.cvd.clamav.net\"  # default\n"]);
    for source in ["http://mirror.example.net", "https://clamav.net.example.org", "dir:/srv/databases"] {
        let source = format!("--source={source}");
        shown(&[&source]).says(["txt_record = \"none\"  # default for a source that is not Talos'\n"]);
        let explicit = ["--txt-record=current.cvd.clamav.net", &source];
        shown(&explicit).says(["txt_record = \"current.cvd.clamav.net\"  # command line\n"]);
    }
}

#[test]
fn what_is_shown_reads_back() {
    let dir = tempfile::tempdir().unwrap();
    let shown =
        run(bare().args(["config", "show", "--database=test", "--data-dir=/srv/x"]).env("HOME", dir.path()));
    let (ran, _) = with_file(&shown.exits(0).stdout, &["config", "show"]);
    ran.exits(0).says(["database = [\"test\"]  # file", "data_dir = \"/srv/x\"  # file"]);
}

#[test]
fn wrong_usage_exits_2() {
    for arguments in [&[][..], &["frobnicate"], &["sync", "--frobnicate"], &["store"], &["store", "cat"]] {
        run(bare().args(arguments)).exits(2);
    }
}
