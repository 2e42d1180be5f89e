//! index.json is what packaging/index.schema.json says, and the schema refuses what it does not say.
use serde_json::{Value, json};
use std::process::Command;
use support::{
    peer,
    process::{self, Ran},
    program::Program,
    upstream::Upstream,
};

const SCHEMA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/index.schema.json");

/// An empty mirror's index, and that of one with everything.
fn indexes() -> [Value; 2] {
    let upstream = Upstream::start();
    let program = Program::new(&upstream.url());
    let server = program.serve();
    let index = || serde_json::from_slice(&server.get("/index.json").body).unwrap();
    let empty = index();
    upstream.move_to(5);
    program.sync().exits(0);
    [empty, index()]
}

#[test]
fn every_time_stands_there_twice_and_the_schema_is_named() {
    for index in indexes() {
        assert_eq!(index["schema"], 1);
        let databases = index["databases"].as_object().unwrap().values();
        let files = databases.clone().flat_map(|database| database["files"].as_array().unwrap());
        let times = std::iter::once(&index)
            .chain(databases.clone())
            .map(|at| (&at["confirmed_at_s"], &at["confirmed_at"]));
        for (epoch_s, time) in times.chain(files.map(|file| (&file["modified_s"], &file["modified"]))) {
            match time.as_str() {
                Some(time) => {
                    let time: jiff::Timestamp = time.parse().unwrap();
                    assert_eq!(epoch_s.as_i64(), Some(time.as_second()));
                }
                None => assert!(epoch_s.is_null() && time.is_null(), "{epoch_s} {time}"),
            }
        }
    }
}

#[test]
fn the_index_is_what_the_schema_says() {
    let Some(check) = peer("check-jsonschema") else { return };
    let dir = tempfile::tempdir().unwrap();
    let holds = |index: &Value| -> Ran {
        let file = dir.path().join("index.json");
        std::fs::write(&file, index.to_string()).unwrap();
        process::run(Command::new(&check).args(["--schemafile", SCHEMA]).arg(file))
    };
    process::run(Command::new(&check).args(["--check-metaschema", SCHEMA])).exits(0);
    let [empty, full] = indexes();
    holds(&empty).exits(0);
    holds(&full).exits(0);
    assert!(full["databases"]["test"]["files"].as_array().unwrap().len() >= 2, "{full}");
    for (at, wrong) in [
        ("/schema", json!(2)),
        ("/confirmed_at", json!("yesterday")),
        ("/databases/test/version", json!("5")),
        ("/databases/test/files/0/hash", json!("abc")),
        ("/databases/test/files/0/name", json!("../test-5.cvd")),
        ("/databases/test/files/0/size", json!(-1)),
    ] {
        let mut index = full.clone();
        *index.pointer_mut(at).unwrap() = wrong;
        holds(&index).exits(1);
    }
}
