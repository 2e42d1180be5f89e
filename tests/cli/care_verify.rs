//! `store verify`: what it takes apart again, and what it takes as known.
use std::fs;
use support::{mint::Mint, program::Program, upstream::Upstream};

/// A mirror of two versions of a minted database.
fn mirror(mint: &Mint) -> Program {
    let upstream = Upstream::start();
    let mut database = mint.database_of("test", 100, 0);
    upstream.release("test", &database.publish());
    let program = Program::new(&upstream.url()).trusting(&mint.keys_toml());
    program.sync().exits(0);
    upstream.release("test", &database.publish());
    program.sync().exits(0);
    program
}

fn verify(program: &Program, options: &[&str]) -> serde_json::Value {
    let ran = program.run(&[&["store", "verify", "--json"], options].concat());
    serde_json::from_str(&ran.stdout).unwrap()
}

#[test]
fn what_is_unchanged_since_it_was_verified_is_taken_apart_again_only_on_request() {
    let mint = Mint::new(31);
    let program = mirror(&mint);
    let packs = program.packs().len() as u64;
    let quick = verify(&program, &[]);
    assert_eq!((&quick["packs"], &quick["unchanged"]), (&packs.into(), &packs.into()), "{quick}");
    assert_eq!(quick["findings"], serde_json::json!([]));
    let deep = verify(&program, &["--deep"]);
    assert_eq!((&deep["packs"], &deep["unchanged"]), (&packs.into(), &0.into()), "{deep}");
    // Beside the server, which holds the state file, it is known just the same.
    let server = program.serve();
    server.says("checked");
    assert_eq!(verify(&program, &[])["unchanged"], quick["unchanged"]);
}

#[test]
fn without_the_state_nothing_is_taken_as_known() {
    let program = mirror(&Mint::new(32));
    fs::remove_file(program.data().join("state.redb")).unwrap();
    let verified = verify(&program, &[]);
    assert_eq!((&verified["unchanged"], &verified["findings"]), (&0.into(), &serde_json::json!([])));
}

/// The keys that are trusted now need not be those of the time when the pack was sealed.
#[test]
fn signatures_are_checked_also_where_nothing_changed() {
    let program = mirror(&Mint::new(33)).set("trust-keys", "");
    let verified = verify(&program, &[]);
    let found = verified["findings"].as_array().unwrap();
    let texts: Vec<&str> = found.iter().map(|finding| finding["text"].as_str().unwrap()).collect();
    for name in ["test-1.cvd: ", "test-2.cvd: ", "test-2.cdiff: "] {
        assert!(texts.iter().any(|text| text.starts_with(name) && text.contains("signature")), "{texts:?}");
    }
}
