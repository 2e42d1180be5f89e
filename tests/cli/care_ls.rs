//! `store ls` and `stat`: what they show, and what of it is asked for.
use cvdmirror_store::ObjectId;
use support::{program::Program, talos, upstream::Upstream};

fn listed(program: &Program, filter: &[&str]) -> Vec<String> {
    let ran = program.run(&[&["store", "ls", "--json"], filter].concat());
    let entries: Vec<serde_json::Value> = serde_json::from_str(&ran.stdout).unwrap();
    let plain = program.run(&[&["store", "ls"], filter].concat());
    assert_eq!((ran.code, plain.code), (Some(i32::from(entries.is_empty())), ran.code), "{plain}");
    let names: Vec<_> = entries.iter().map(|entry| entry["name"].as_str().unwrap().to_owned()).collect();
    let words = |line: &str| line.split_whitespace().next().unwrap().to_owned();
    assert_eq!(plain.stdout.lines().skip(1).map(words).collect::<Vec<_>>(), names);
    names
}

#[test]
fn names_are_filtered_by_beginning_kind_and_version() {
    let upstream = Upstream::talos(5);
    let program = Program::new(&upstream.url());
    program.sync().exits(0);
    let _running = program.serve();
    let all = listed(&program, &[]);
    assert_eq!(all.len(), 10, "{all:?}");
    assert_eq!(listed(&program, &["test"]), all);
    assert_eq!(listed(&program, &["test-5.cvd"]), ["test-5.cvd", "test-5.cvd.sign"]);
    assert_eq!(listed(&program, &["test-2", "test-3.cdiff.sign"]).len(), 3);
    assert_eq!(listed(&program, &["daily"]), [""; 0]);
    assert_eq!(listed(&program, &["--kind", "cvd"]), ["test-5.cvd"]);
    let cdiffs = ["test-2.cdiff", "test-3.cdiff", "test-4.cdiff", "test-5.cdiff"];
    assert_eq!(listed(&program, &["--kind", "cdiff"]), cdiffs);
    assert_eq!(listed(&program, &["--kind", "cdiff", "--versions", "3-4"]), cdiffs[1..3]);
    assert_eq!(listed(&program, &["--kind", "sign", "--versions", "5", "test-5.cvd"]), ["test-5.cvd.sign"]);
    program
        .run(&["store", "ls", "daily", "test-5", "main"])
        .exits(1)
        .says(["test-5.cvd", "no name begins with daily or main"]);
    program.run(&["store", "ls", "--versions", "77"]).exits(1).says(["no name is of that kind and version"]);
    program.run(&["store", "ls", "--versions", "x"]).exits(2).says(["FIRST-LAST"]);
    program.run(&["store", "ls", "--kind", "cld"]).exits(2);
}

#[test]
fn an_entry_says_all_that_is_known_of_a_name() {
    let upstream = Upstream::talos(5);
    let program = Program::new(&upstream.url());
    program.sync().exits(0);
    let ran = program.run(&["store", "ls", "--json", "--kind", "cvd"]).exits(0);
    let entries: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let (entry, bytes) = (&entries[0], talos("test-5.cvd"));
    assert_eq!((entry["database"].as_str(), entry["version"].as_u64()), (Some("test"), Some(5)));
    assert_eq!((entry["kind"].as_str(), entry["size"].as_u64()), (Some("cvd"), Some(bytes.len() as u64)));
    assert_eq!(entry["object"].as_str(), Some(&*ObjectId::of(&bytes).to_string()));
    assert!(entry["origin"].as_str().unwrap().starts_with(&upstream.url()));
    assert!(entry["proof"].as_str().unwrap().contains("signature"));
    assert!(entry["stored_at_s"].as_u64() > Some(1_700_000_000) && entry["modified_s"].is_u64());
    let pack = entry["pack"].as_str().unwrap();
    assert!(program.packs().iter().any(|path| path.file_stem().unwrap() == pack));
    // By the start of its hash, too, and by the alias.
    assert!(program.cat(&entry["object"].as_str().unwrap()[..12]) == bytes);
    assert!(program.cat("test.cvd") == bytes);
    program.run(&["store", "cat", "daily.cvd"]).exits(1).says(["daily.cvd: no such name or object"]);
    // For people: a head, and sizes as they read them, or exactly.
    let listed =
        |more: &[&str]| program.run(&[&["store", "ls", "--kind", "cvd"], more].concat()).exits(0).stdout;
    let (human, exact) = (listed(&[]), listed(&["--bytes"]));
    assert!(human.starts_with("NAME ") && exact.starts_with("NAME "), "{human}");
    assert!(human.contains(&format!(" {} ", cvdmirror::units::size(bytes.len() as u64))), "{human}");
    assert!(exact.contains(&format!(" {} ", bytes.len())), "{exact}");
}

#[test]
fn stat_shows_gaps_and_overhead() {
    let upstream = Upstream::talos(3);
    let program = Program::new(&upstream.url()).set("backfill", "1");
    program.sync().exits(0);
    upstream.move_to(5);
    upstream.remove("/test-4.cdiff");
    program.sync().exits(0);
    let ran = program.run(&["store", "stat", "--json"]).exits(0);
    let stat: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let test = &stat["databases"]["test"];
    assert_eq!(
        (test["cvds"].to_string(), test["gaps"].to_string()),
        ("[3,5]".into(), "[4]".into()),
        "{stat}"
    );
    assert_eq!((test["reachable"].as_u64(), test["chain"].to_string()), (Some(5), "[5,5]".into()), "{stat}");
    let packed = stat["pack_bytes"].as_u64().unwrap() as f64 / stat["object_bytes"].as_u64().unwrap() as f64;
    assert!((stat["bytes_per_byte"].as_f64().unwrap() - packed).abs() < 1e-9 && packed > 1.0);
    assert_eq!((stat["retired_packs"].as_u64(), stat["findings"].to_string()), (Some(0), "[]".into()));
    program.run(&["store", "stat"]).exits(0).says(["gaps [4]", " names, ", "% more)"]).never_says("retired");
}

#[test]
fn an_empty_store_is_no_error_and_spends_nothing() {
    let program = Program::new("http://127.0.0.1:1");
    std::fs::create_dir_all(program.data().join("store")).unwrap();
    let ran = program.run(&["store", "stat"]).exits(0);
    assert_eq!(ran.stdout, "0 names, 0 objects of 0 B, in 0 packs of 0 B\n");
    let ran = program.run(&["store", "ls"]).exits(0).says(["the store is empty"]);
    assert_eq!(ran.stdout, "");
    program.run(&["store", "ls", "test"]).exits(1).says(["no name begins with test"]);
}
