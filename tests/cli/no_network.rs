//! The first hour without a network: each output says one cause once, in lines that can be read, and when it is tried
//! again.
use std::collections::BTreeSet;
use support::{namespace, program::Program, wait_for};

/// A line that people read, and that repeats no other.
fn readable(what: &str, text: &str, most: usize) {
    let mut lines = BTreeSet::new();
    for line in text.lines() {
        assert!(line.chars().count() <= most, "{what}: {} characters: {line}", line.chars().count());
        assert!(lines.insert(line), "{what}: said twice: {line}");
        assert!(!line.contains("Query {") && !line.contains("Name("), "{what}: {line}");
    }
    assert!(lines.len() <= 24, "{what}: {} lines", lines.len());
    for hint in ["must answer", "name resolution", "tried again", "next check in"] {
        assert!(text.matches(hint).count() <= 1, "{what}: {hint} twice:\n{text}");
    }
}

#[test]
fn without_a_network_everything_says_so_once_and_when_it_is_tried_again() {
    if !namespace::inside("without_a_network_everything_says_so_once_and_when_it_is_tried_again") {
        return;
    }
    // As an admin has it who gave no setting.
    let program = Program::new("").set("database", "").set("txt-record", "");
    let ran = program.sync().exits(1);
    eprintln!("{ran}");
    readable("sync", &ran.stdout, 160);
    assert_eq!(ran.stderr, "", "what is reported is not logged");
    assert!(
        ran.stdout.contains("error: main, daily, bytecode: ")
            || ran.stdout.contains("error: bytecode, daily, main: "),
        "{ran}"
    );
    program.run(&["sync", "-v"]).exits(1);

    let server = program.serve();
    server.says("checked and failed");
    let status = wait_for("the next check", || {
        let status = program.status();
        status["next_check_in_s"].as_u64().map(|_| status)
    });
    assert!(status["next_check_in_s"].as_u64().unwrap() <= 33, "{status}");
    assert_eq!(status["ledger"]["days"], serde_json::json!({}), "nothing left this host");
    assert_eq!(status["troubles"].as_array().unwrap().len(), 1, "{status}");
    let text = program.run(&["status"]).exits(0).stdout;
    eprintln!("{text}");
    readable("status", &text, 180);
    assert!(text.contains("asked of the upstream today: nothing\n"), "{text}");
    assert!(text.contains("\nnext check in "), "{text}");
    let health = server.get("/health");
    eprintln!("{}", health.text());
    readable("/health", &health.text(), 160);
    assert!(health.status == 503 && health.body.len() < 400, "{}", health.text());
    assert!(health.text().contains("\nnext check in "), "{}", health.text());
    let log = server.log.so_far();
    eprintln!("{}", log.join("\n"));
    let failed: Vec<&String> = log.iter().filter(|line| line.contains("checked and failed")).collect();
    assert!(failed.len() == 1 && failed[0].contains("; tried again in "), "{log:#?}");
    readable("log", &log.join("\n"), 420);
}
