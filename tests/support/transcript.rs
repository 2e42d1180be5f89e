//! What somebody sees who types commands, and the rules that each output of the program keeps.
use std::{collections::BTreeSet, fmt::Write as _};

const LINES: usize = 24;
const COLUMNS: usize = 100;

/// What Rust's formatting, its errors and its libraries say, and people do not.
const DEBUG: [&str; 16] = [
    "panicked at",
    "RUST_BACKTRACE",
    "stack backtrace",
    "os error",
    "hyper",
    "reqwest",
    "rustls",
    "handshake eof",
    "error trying to",
    "error sending request",
    "Some(",
    "None)",
    "Ok(",
    "Err(",
    "Kind(",
    " { ",
];
/// Words with which a line says that something is wrong.
const WRONG: [&str; 6] = ["cvdmirror: ", "error: ", "FINDING ", "trouble", " WARN ", " ERROR "];
/// Words that say what to do about it.
const ADVICE: [&str; 11] = [
    "fix: ",
    "`cvdmirror ",
    "tip: ",
    "did you mean ",
    "--help",
    "sudo ",
    "`store ls`",
    "write ",
    "give ",
    "start ",
    "put ",
];

/// A record of commands and what they printed.
#[derive(Default)]
pub struct Transcript {
    text: String,
    findings: Vec<String>,
}

impl Transcript {
    /// Begins a chapter.
    pub fn chapter(&mut self, title: &str) {
        let _ = write!(self.text, "\n== {title}\n");
    }

    /// Records what the program printed, and what is wrong with it.
    pub fn printed(&mut self, typed: &str, output: &str) {
        self.outside(typed, output);
        for finding in findings(output) {
            self.finds(typed, &finding);
        }
    }

    /// Records that something else is wrong with what was typed.
    pub fn finds(&mut self, typed: &str, finding: &str) {
        self.findings.push(format!("$ {typed}\n  {finding}"));
    }

    /// Records what another program printed.
    pub fn outside(&mut self, typed: &str, output: &str) {
        let _ = write!(self.text, "$ {typed}\n{output}");
        if !output.is_empty() && !output.ends_with('\n') {
            self.text.push('\n');
        }
    }

    /// Shows everything, on standard error and in the file that `CVDMIRROR_TRANSCRIPT` names, and fails on any finding.
    pub fn finish(self) {
        eprintln!("{}", self.text);
        if let Some(file) = std::env::var_os("CVDMIRROR_TRANSCRIPT") {
            std::fs::write(file, &self.text).unwrap();
        }
        assert!(self.findings.is_empty(), "{} findings:\n{}", self.findings.len(), self.findings.join("\n"));
    }
}

/// What is wrong with one output: standard output and standard error of a command, or the log since the last look.
pub fn findings(output: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let count = output.lines().count();
    if count > LINES {
        findings.push(format!("{count} lines"));
    }
    if !output.is_empty() && !output.ends_with('\n') {
        findings.push("no newline at the end".into());
    }
    let mut seen = BTreeSet::new();
    for line in output.lines() {
        let columns = line.chars().count();
        if columns > COLUMNS {
            findings.push(format!("{columns} columns: {line}"));
        }
        if !line.trim().is_empty() && !seen.insert(timeless(line)) {
            findings.push(format!("again: {line}"));
        }
        if DEBUG.iter().any(|word| line.contains(word)) {
            findings.push(format!("debug text: {line}"));
        }
    }
    let wrong = output.lines().find(|line| WRONG.iter().any(|word| line.contains(word)));
    if let Some(line) = wrong.filter(|_| !ADVICE.iter().any(|word| output.contains(word))) {
        findings.push(format!("no word about what to do: {line}"));
    }
    findings
}

/// The line without the time stamp before it, which makes no two lines different.
fn timeless(line: &str) -> &str {
    match line.split_once(' ') {
        Some((first, rest)) if first.parse::<jiff::Timestamp>().is_ok() => rest,
        _ => line,
    }
}
