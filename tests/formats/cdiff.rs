//! What a CDIFF's script does: beside a naive model, and beside ClamAV itself.
use cvdmirror::cvd::{
    Limits, VerifyError,
    apply::{ApplyError, apply},
    body_writer::BodyWriter,
    cdiff::CdiffError,
    container::ContainerError,
    draft::Draft,
    script::ScriptError,
    verify_cdiff,
};
use proptest::prelude::*;
use std::{
    collections::BTreeMap,
    io::{Read, Write},
    path::PathBuf,
    process::Command,
};
use support::{forge::gzip, mint::Mint, mint_keys::keys, peer};

type Files = BTreeMap<String, Vec<u8>>;

fn files(texts: &[(&str, &str)]) -> Files {
    texts.iter().map(|(name, text)| (name.to_string(), text.as_bytes().to_vec())).collect()
}

fn ours(before: &Files, script: &[u8]) -> Result<Files, ApplyError> {
    let mut body = BodyWriter::new(Vec::new()).unwrap();
    for (name, content) in before {
        body.member(name, content.len() as u64).unwrap();
        body.write_all(content).unwrap();
    }
    let scratch = tempfile::tempfile().unwrap();
    let mut draft = Draft::new(&scratch);
    draft.load(&body.finish().unwrap()[..], &Limits::default()).unwrap();
    apply(&mut draft, script, &Limits::default())?;
    let read = |name: &str| {
        let mut content = Vec::new();
        draft.read(name).unwrap().read_to_end(&mut content).unwrap();
        content
    };
    let checked = |(name, size): (&str, u64)| {
        let content = read(name);
        assert_eq!(size, content.len() as u64);
        (name.to_owned(), content)
    };
    Ok(draft.members().map(checked).collect())
}

/// The files after ClamAV applied the script; `None` if it refused or died.
fn clamav(sigtool: &PathBuf, before: &Files, script: &[u8]) -> Option<Files> {
    let directory = tempfile::tempdir().unwrap();
    for (name, content) in before {
        std::fs::write(directory.path().join(name), content).unwrap();
    }
    let name = "test-2.script";
    std::fs::write(directory.path().join(name), script).unwrap();
    let mut command = Command::new(sigtool);
    let output = command.arg(format!("--run-cdiff={name}")).current_dir(&directory).output().unwrap();
    // Once it has applied a script it looks for a version to compare with, which there is none; so its exit code
    // tells nothing, but its error does.
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.code().is_none() || said.contains("LibClamAV Error") || !said.contains("verifydiff") {
        return None;
    }
    let after = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap());
    let after = after.filter(|entry| entry.file_name() != name);
    Some(after.map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap())).collect())
}

/// One line of a script as the generator makes it.
#[derive(Clone, Debug)]
enum Step {
    Edit { file: usize, edits: Vec<Edit> },
    Move { from: usize, to: usize, start: u32, end: u32, prefixes: [String; 2] },
    Unlink(usize),
}
#[derive(Clone, Debug)]
enum Edit {
    Add(String),
    Delete(u32, String),
    Exchange(u32, String, String),
}

const NAMES: [&str; 4] = ["a.hdb", "b.hdb", "c.ndb", "new.ldb"];

fn word() -> impl Strategy<Value = String> {
    "[ab]{1,3}"
}
/// Mostly a prefix that fits, as all lines are of `a` and `b`.
fn prefix() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[ab]", 1 => "[ab]{2}"]
}
fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        word().prop_map(Edit::Add),
        (1..8u32, prefix()).prop_map(|(line, prefix)| Edit::Delete(line, prefix)),
        (1..8u32, prefix(), word()).prop_map(|(line, prefix, new)| Edit::Exchange(line, prefix, new)),
    ]
}
fn step() -> impl Strategy<Value = Step> {
    let file = 0..NAMES.len();
    prop_oneof![
        6 => (file.clone(), prop::collection::vec(edit(), 0..5)).prop_map(|(file, edits)| Step::Edit { file, edits }),
        2 => (file.clone(), 1..NAMES.len(), 1..5u32, 1..4u32, [prefix(), prefix()]).prop_map(
            |(from, shift, start, length, prefixes)| {
                Step::Move { from, to: (from + shift) % NAMES.len(), start, end: start + length, prefixes }
            }
        ),
        1 => file.prop_map(Step::Unlink),
    ]
}

fn text_of(steps: &[Step]) -> String {
    let mut script = String::new();
    for step in steps {
        script += &match step {
            Step::Unlink(file) => format!("UNLINK {}\n", NAMES[*file]),
            Step::Move { from, to, start, end, prefixes: [first, last] } => {
                format!("MOVE {} {} {start} {first} {end} {last}\n", NAMES[*from], NAMES[*to])
            }
            Step::Edit { file, edits } => {
                let edits = edits.iter().map(|edit| match edit {
                    Edit::Add(line) => format!("ADD {line}\n"),
                    Edit::Delete(line, prefix) => format!("DEL {line} {prefix}\n"),
                    Edit::Exchange(line, prefix, new) => format!("XCHG {line} {prefix} {new}\n"),
                });
                format!("OPEN {}\n{}CLOSE\n", NAMES[*file], edits.collect::<String>())
            }
        };
    }
    script
}

/// The semantics with whole lines in memory, as plainly as they can be said. `None` for any error.
fn model(before: &Files, steps: &[Step]) -> Option<Files> {
    let mut all: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, content) in before {
        let text = std::str::from_utf8(content).unwrap();
        all.insert(name, text.lines().map(str::to_owned).collect());
    }
    for step in steps {
        match step {
            Step::Unlink(file) => drop(all.remove(NAMES[*file])?),
            Step::Move { from, to, start, end, prefixes } => {
                let mut target = all.get(NAMES[*to])?.clone();
                let source = all.get_mut(NAMES[*from])?;
                let (first, last) = (*start as usize - 1, *end as usize - 1);
                let fits = source.get(first)?.starts_with(&prefixes[0])
                    && source.get(last)?.starts_with(&prefixes[1]);
                if !fits {
                    return None;
                }
                target.extend(source.drain(first..=last));
                all.insert(NAMES[*to], target);
            }
            Step::Edit { edits, .. } if edits.is_empty() => {}
            Step::Edit { file, edits } => {
                let old = all.get(NAMES[*file]).cloned();
                let mut new: Vec<Option<String>> =
                    old.clone().unwrap_or_default().into_iter().map(Some).collect();
                let mut last_edits: BTreeMap<usize, &Edit> = BTreeMap::new();
                for edit in edits {
                    match edit {
                        Edit::Add(_) => {}
                        Edit::Delete(line, _) | Edit::Exchange(line, ..) => {
                            last_edits.insert(*line as usize - 1, edit);
                        }
                    }
                }
                for (line, edit) in last_edits {
                    let (Edit::Delete(_, prefix) | Edit::Exchange(_, prefix, _)) = edit else {
                        unreachable!()
                    };
                    if !old.as_ref()?.get(line)?.starts_with(prefix) {
                        return None;
                    }
                    new[line] = if let Edit::Exchange(_, _, text) = edit { Some(text.clone()) } else { None };
                }
                let added = edits.iter().filter_map(|edit| match edit {
                    Edit::Add(line) => Some(line.clone()),
                    _ => None,
                });
                all.insert(NAMES[*file], new.into_iter().flatten().chain(added).collect());
            }
        }
    }
    let content =
        |lines: Vec<String>| lines.into_iter().flat_map(|line| (line + "\n").into_bytes()).collect();
    Some(all.into_iter().map(|(name, lines)| (name.to_owned(), content(lines))).collect())
}

fn start() -> Files {
    files(&[("a.hdb", "aab\nb\nab\naa\nbab\n"), ("b.hdb", "ba\nbb\nab\n"), ("c.ndb", "a\nb\n")])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn applying_is_what_the_naive_model_says(steps in prop::collection::vec(step(), 1..6)) {
        let script = text_of(&steps);
        let result = ours(&start(), script.as_bytes());
        let expected = model(&start(), &steps);
        prop_assert_eq!(result.as_ref().ok(), expected.as_ref(), "{:?}\n{}", result, script);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn applying_is_what_clamav_does(steps in prop::collection::vec(step(), 1..4)) {
        let Some(sigtool) = peer("sigtool") else { return Ok(()) };
        let script = text_of(&steps);
        let result = ours(&start(), script.as_bytes());
        let theirs = clamav(&sigtool, &start(), script.as_bytes());
        prop_assert_eq!(result.as_ref().ok(), theirs.as_ref(), "{:?}\n{}", result, script);
    }
}

struct Case {
    rule: &'static str,
    script: &'static str,
    ours: fn(&Result<Files, ApplyError>) -> bool,
    /// Why ours refuses what ClamAV takes.
    stricter: Option<&'static str>,
}

fn case(rule: &'static str, script: &'static str, ours: fn(&Result<Files, ApplyError>) -> bool) -> Case {
    Case { rule, script, ours, stricter: None }
}
fn stricter(why: &'static str, case: Case) -> Case {
    Case { stricter: Some(why), ..case }
}

fn cases() -> Vec<Case> {
    use ApplyError as A;
    use ScriptError as S;
    let arguments: fn(&Result<Files, ApplyError>) -> bool =
        |r| matches!(r, Err(A::Script(S::Arguments { .. })));
    let name: fn(&Result<Files, ApplyError>) -> bool = |r| matches!(r, Err(A::Script(S::Name(_))));
    vec![
        case(
            "every command",
            "OPEN a.hdb\nADD x\nDEL 1 aa\nXCHG 2 b y\nCLOSE\nUNLINK c.ndb\n",
            Result::is_ok,
        ),
        case("comment", "#hello\nOPEN a.hdb\n# more\nADD x\nCLOSE\n", Result::is_ok),
        case("empty script", "", Result::is_ok),
        case("edits in any order", "OPEN a.hdb\nDEL 3 a\nDEL 1 a\nADD x\nXCHG 2 b y\nCLOSE\n", Result::is_ok),
        case(
            "the last edit of a line wins",
            "OPEN a.hdb\nXCHG 2 b x\nXCHG 2 b y\nDEL 2 b\nCLOSE\n",
            Result::is_ok,
        ),
        case("DEL looks at one word alone", "OPEN a.hdb\nDEL 1 aab and more\nCLOSE\n", Result::is_ok),
        case("a new member", "OPEN new.hdb\nADD x\nCLOSE\n", Result::is_ok),
        case("a new member without content", "OPEN new.hdb\nCLOSE\nOPEN d.hdb\nCLOSE\n", Result::is_ok),
        case("DEL in a new member", "OPEN new.hdb\nDEL 1 x\nCLOSE\n", |r| {
            matches!(r, Err(A::NoMember { at: 3, .. }))
        }),
        case("line 0", "OPEN a.hdb\nDEL 0 a\nCLOSE\n", arguments),
        case("line past the end", "OPEN a.hdb\nDEL 6 a\nCLOSE\n", |r| {
            matches!(r, Err(A::NoLine { line: 6, lines: 5, .. }))
        }),
        case("line no number", "OPEN a.hdb\nDEL x a\nCLOSE\n", arguments),
        case("DEL without prefix", "OPEN a.hdb\nDEL 1\nCLOSE\n", arguments),
        case("XCHG without new line", "OPEN a.hdb\nXCHG 1 aab\nCLOSE\n", arguments),
        case("wrong prefix", "OPEN a.hdb\nDEL 1 b\nCLOSE\n", |r| {
            matches!(r, Err(A::Prefix { at: 2, line: 1, .. }))
        }),
        case("prefix longer than the line", "OPEN a.hdb\nDEL 2 bb\nCLOSE\n", |r| {
            matches!(r, Err(A::Prefix { .. }))
        }),
        case("edit of a member without final newline", "OPEN d.hdb\nDEL 2 y\nCLOSE\n", |r| {
            matches!(r, Err(A::NoFinalNewline { .. }))
        }),
        stricter(
            "the added line would become part of the last",
            case("ADD to a member without final newline", "OPEN d.hdb\nADD z\nCLOSE\n", |r| {
                matches!(r, Err(A::NoFinalNewline { .. }))
            }),
        ),
        stricter(
            "ClamAV drops the edits without a word",
            case("missing CLOSE", "OPEN a.hdb\nADD x\n", |r| matches!(r, Err(A::Script(S::NeverClosed(1))))),
        ),
        case("blank line", "OPEN a.hdb\n\nCLOSE\n", |r| matches!(r, Err(A::Script(S::Blank(2))))),
        case("CR LF", "OPEN a.hdb\r\nCLOSE\r\n", |r| matches!(r, Err(A::Script(S::CarriageReturn(1))))),
        case("DEL without newline", "OPEN a.hdb\nDEL 1 a", |r| {
            matches!(r, Err(A::Script(S::NoFinalNewline)))
        }),
        stricter(
            "a script that ends in the middle of a line may be cut short",
            case("CLOSE without newline", "OPEN a.hdb\nADD x\nCLOSE", |r| {
                matches!(r, Err(A::Script(S::NoFinalNewline)))
            }),
        ),
        case("unknown command", "OPEN a.hdb\nPUT x\nCLOSE\n", |r| matches!(r, Err(A::Script(S::Unknown(2))))),
        case("ADD while nothing is open", "ADD x\n", |r| matches!(r, Err(A::Script(S::NotOpen(1))))),
        case("CLOSE while nothing is open", "CLOSE\n", |r| matches!(r, Err(A::Script(S::NotOpen(1))))),
        case("OPEN while open", "OPEN a.hdb\nOPEN b.hdb\nCLOSE\n", |r| {
            matches!(r, Err(A::Script(S::StillOpen(2))))
        }),
        case("MOVE while open", "OPEN a.hdb\nMOVE b.hdb c.ndb 1 ba 2 bb\nCLOSE\n", |r| {
            matches!(r, Err(A::Script(S::StillOpen(2))))
        }),
        case("UNLINK while open", "OPEN a.hdb\nUNLINK b.hdb\nCLOSE\n", |r| {
            matches!(r, Err(A::Script(S::StillOpen(2))))
        }),
        case("OPEN with a path", "OPEN ../a.hdb\nADD x\nCLOSE\n", name),
        case("OPEN with an absolute path", "OPEN /etc/passwd\nADD x\nCLOSE\n", name),
        case("UNLINK with a path", "UNLINK ../a.hdb\n", name),
        case("UNLINK of nothing", "UNLINK z.hdb\n", |r| matches!(r, Err(A::NoMember { at: 1, .. }))),
        case("MOVE", "MOVE a.hdb b.hdb 2 b 4 aa\n", Result::is_ok),
        case("MOVE to the last line", "MOVE a.hdb b.hdb 4 aa 5 b\n", Result::is_ok),
        case("MOVE of one line", "MOVE a.hdb b.hdb 2 b 2 b\n", |r| {
            matches!(r, Err(A::Script(S::EmptyRange(1))))
        }),
        case("MOVE backwards", "MOVE a.hdb b.hdb 3 a 2 b\n", |r| {
            matches!(r, Err(A::Script(S::EmptyRange(1))))
        }),
        case("MOVE past the end", "MOVE a.hdb b.hdb 5 b 6 a\n", |r| {
            matches!(r, Err(A::NoLine { line: 6, .. }))
        }),
        case("MOVE with a wrong prefix", "MOVE a.hdb b.hdb 2 a 4 aa\n", |r| {
            matches!(r, Err(A::Prefix { line: 2, .. }))
        }),
        case("MOVE to nothing", "MOVE a.hdb z.hdb 2 b 4 aa\n", |r| matches!(r, Err(A::NoMember { .. }))),
        case("MOVE from nothing", "MOVE z.hdb a.hdb 2 b 4 aa\n", |r| matches!(r, Err(A::NoMember { .. }))),
        stricter(
            "what comes of it is an accident",
            case("MOVE into itself", "MOVE a.hdb a.hdb 2 b 4 aa\n", |r| {
                matches!(r, Err(A::IntoItself { .. }))
            }),
        ),
        stricter(
            "ClamAV writes outside the directory",
            case("MOVE with a path", "MOVE ./a.hdb b.hdb 2 b 4 aa\n", name),
        ),
    ]
}

#[test]
fn every_rule_has_its_hostile_script_and_clamavs_verdict_is_known() {
    let sigtool = peer("sigtool");
    let mut before = start();
    before.insert("d.hdb".into(), b"x\ny".to_vec());
    let mut wrong = Vec::new();
    for Case { rule, script, ours: expected, stricter } in cases() {
        let result = ours(&before, script.as_bytes());
        if !expected(&result) {
            wrong.push(format!("{rule}: ours says {result:?}"));
        }
        let Some(sigtool) = &sigtool else { continue };
        let theirs = clamav(sigtool, &before, script.as_bytes());
        let as_expected = match stricter {
            Some(_) => theirs.is_some() && result.is_err(),
            None => theirs == result.ok(),
        };
        if !as_expected {
            wrong.push(format!("{rule}: stricter {stricter:?}, ClamAV gives {theirs:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_cdiff_that_is_signed_and_wrong_is_refused_all_the_same() {
    let mint = Mint::new(8);
    let mut lineage = mint.database("test");
    lineage.publish();
    lineage.publish();
    let name = "test-2.cdiff".parse().unwrap();
    let check = |bytes: &[u8], limits: &Limits| match verify_cdiff(&name, bytes, &mint.keys(), limits) {
        Err(VerifyError::Cdiff(error)) => Err(error),
        Err(other) => panic!("{other}"),
        Ok(_) => Ok(()),
    };
    let limits = Limits::default();
    check(&lineage.diff(b"OPEN a.hdb\nADD x\nCLOSE\n"), &limits).unwrap();
    let unclosed = check(&lineage.diff(b"OPEN a.hdb\nADD x\n"), &limits);
    assert!(matches!(unclosed, Err(CdiffError::Script(ScriptError::NeverClosed(1)))));

    // Ten million lines: refused for their number before any is looked at.
    let long = check(&lineage.diff(&b"#\n".repeat(10_000_000)), &limits);
    assert!(matches!(long, Err(CdiffError::Script(ScriptError::TooManyLines(8_000_000)))), "{long:?}");
    let small = Limits { max_script_bytes: 1 << 20, max_line_bytes: 1000, ..limits };
    let bomb = check(&lineage.diff(&b"#".repeat(4 << 20)), &small);
    assert!(matches!(bomb, Err(CdiffError::Container(ContainerError::TooLarge(_)))), "{bomb:?}");
    let wide = ["OPEN a.hdb\nADD ", &"x".repeat(1000), "\nCLOSE\n"].concat();
    let wide = check(&lineage.diff(wide.as_bytes()), &small);
    assert!(matches!(wide, Err(CdiffError::Script(ScriptError::LineTooLong(2)))), "{wide:?}");

    let sign = |text: &[u8]| {
        let mut rng = rand::SeedableRng::seed_from_u64(1);
        [text, b":", keys().cdiff.sign_pss(text, &mut rng).as_bytes()].concat()
    };
    let script = gzip(b"#\n");
    let size = check(&sign(&[b"ClamAV-Diff:2:9:", &script[..]].concat()), &limits);
    assert!(matches!(size, Err(CdiffError::Size { declared: 9, found: 2 })), "{size:?}");
    let header = check(&sign(&[b"ClamAV-Diff:2:x:", &script[..]].concat()), &limits);
    assert!(matches!(header, Err(CdiffError::Header)), "{header:?}");
    let garbage = check(&sign(b"ClamAV-Diff:2:2:no gzip"), &limits);
    assert!(matches!(garbage, Err(CdiffError::Container(ContainerError::Gzip(_)))), "{garbage:?}");
    let unsigned = check(&[b"ClamAV-Diff:2:2:", &[b'x'; 400][..]].concat(), &limits);
    assert!(matches!(unsigned, Err(CdiffError::NoSignature)), "{unsigned:?}");
    let mut lineage = Mint::foreign(1).database("test");
    lineage.publish();
    let foreign = check(&lineage.publish().cdiff.unwrap(), &limits);
    assert!(matches!(foreign, Err(CdiffError::Signature(_))), "{foreign:?}");
    assert!(matches!(check(b"<html>", &limits), Err(CdiffError::Magic)));
}

/// A script that grows a member past its limit stops there.
#[test]
fn a_member_cannot_grow_without_bound() {
    let scratch = tempfile::tempfile().unwrap();
    let mut draft = Draft::new(&scratch);
    let limits = Limits { max_member_bytes: 10, ..Limits::default() };
    let grown = apply(&mut draft, b"OPEN a.hdb\nADD 12345\nADD 12345\nCLOSE\n", &limits);
    assert!(matches!(grown, Err(ApplyError::TooLarge { at: 4, limit: 10, .. })), "{grown:?}");
}
