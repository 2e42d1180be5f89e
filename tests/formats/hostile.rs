//! A hostile file for every rule: our verdict beside ClamAV's, and a reason wherever ours is stricter.
use cvdmirror::cvd::{
    HEADER_BYTES, Limits, TrustKeys, VerifyError,
    container::ContainerError,
    header::{Header, HeaderError},
    info::InfoError,
    inspect::{Inspection, Inspector, Outcome, Rule},
    signature::SignatureError,
    verify_cvd,
};
use support::{
    forge::{Forge, entry, gzip, listed},
    mint_keys::{Keys, keys},
    peers::Peers,
};

type Verdict = Result<(), VerifyError>;

fn verify(bytes: &[u8], limits: &Limits) -> Verdict {
    verify_cvd(&"test-7.cvd".parse().unwrap(), bytes, &keys().public(), limits).map(drop)
}

/// A file, what ours must say, and whether ClamAV takes it.
struct Case {
    rule: &'static str,
    file: Vec<u8>,
    ours: fn(&Verdict) -> bool,
    clamav: Clamav,
}

/// ClamAV's verdict.
enum Clamav {
    Same,
    /// It takes what ours refuses; why ours does.
    Lax(&'static str),
}
use Clamav::{Lax, Same};

fn forged(change: impl Fn(&mut Forge)) -> Vec<u8> {
    let mut forge = Forge::proper();
    change(&mut forge);
    forge.seal()
}

/// Adds a member, listed as it is.
fn with_member(name: &str, kind: u8) -> Vec<u8> {
    forged(|forge| {
        forge.members.push(entry(name, b"Win.Test-2:0:*:6fec40cb4ad4\n"));
        forge.relist();
        forge.members.last_mut().unwrap().kind = kind;
    })
}

fn header_cases() -> Vec<Case> {
    let sealed = |change: fn(String) -> String| Forge::proper().seal_with(change);
    let differs: fn(&Verdict) -> bool = |v| matches!(v, Err(VerifyError::HeaderDiffers { .. }));
    let field: fn(&Verdict) -> bool = |v| matches!(v, Err(VerifyError::Header(HeaderError::Field { .. })));
    let unsigned = "the header is under no signature but through its copy in .info";
    vec![
        Case { rule: "proper", file: Forge::proper().seal(), ours: Result::is_ok, clamav: Same },
        Case {
            rule: "magic",
            file: b"<html>Please sign in</html>".repeat(40),
            ours: |v| matches!(v, Err(VerifyError::Header(HeaderError::Magic))),
            clamav: Same,
        },
        Case {
            rule: "shorter than a header",
            file: Forge::proper().seal()[..400].to_vec(),
            ours: |v| matches!(v, Err(VerifyError::Header(HeaderError::Short(400)))),
            clamav: Same,
        },
        Case {
            rule: "no body",
            file: Forge::proper().seal()[..512].to_vec(),
            ours: |v| matches!(v, Err(VerifyError::Md5)),
            clamav: Same,
        },
        Case {
            rule: "truncated body",
            file: Forge::proper().seal()[..700].to_vec(),
            ours: |v| matches!(v, Err(VerifyError::Md5)),
            clamav: Same,
        },
        Case {
            rule: "MD5 of another body",
            file: sealed(|h| h.replacen(h.split(':').nth(5).unwrap(), &"0".repeat(32), 1)),
            ours: |v| matches!(v, Err(VerifyError::Md5)),
            clamav: Same,
        },
        Case {
            rule: "MD5 in upper case",
            file: sealed(|h| h.replacen(h.split(':').nth(5).unwrap(), &"A".repeat(32), 1)),
            ours: field,
            clamav: Same,
        },
        Case {
            rule: "no MD5",
            file: sealed(|h| h.replacen(h.split(':').nth(5).unwrap(), "X", 1)),
            ours: |v| matches!(v, Err(VerifyError::NoMd5)),
            clamav: Same,
        },
        Case {
            rule: "no signature",
            file: sealed(|h| h.replacen(h.split(':').nth(6).unwrap(), "X", 1)),
            ours: |v| matches!(v, Err(VerifyError::NoSignature)),
            clamav: Same,
        },
        Case {
            rule: "another body's signature",
            file: sealed(|h| {
                h.replacen(h.split(':').nth(6).unwrap(), &keys().legacy.sign_legacy(&[7; 16]), 1)
            }),
            ours: |v| matches!(v, Err(VerifyError::Signature(SignatureError::Mismatch))),
            clamav: Same,
        },
        Case {
            rule: "signature outside its alphabet",
            file: sealed(|h| h.replacen(h.split(':').nth(6).unwrap(), "not-a-signature", 1)),
            ours: |v| matches!(v, Err(VerifyError::Signature(SignatureError::Text))),
            clamav: Same,
        },
        Case {
            rule: "another version",
            file: sealed(|h| h.replacen(":7:", ":8:", 1)),
            ours: |v| matches!(v, Err(VerifyError::Version { expected: 7, found: 8 })),
            clamav: Same,
        },
        Case {
            rule: "number of signatures",
            file: sealed(|h| h.replacen(":2:", ":3:", 1)),
            ours: differs,
            clamav: Same,
        },
        Case {
            rule: "stime",
            file: sealed(|h| h.replacen("1795381080", "1795381081", 1)),
            ours: differs,
            clamav: Same,
        },
        Case {
            rule: "builder",
            file: sealed(|h| h.replacen("forge", "gorge", 1)),
            ours: differs,
            clamav: Lax(unsigned),
        },
        Case {
            rule: "build time",
            file: sealed(|h| h.replacen("22 Nov", "23 Nov", 1)),
            ours: differs,
            clamav: Lax(unsigned),
        },
        Case {
            rule: "no stime",
            file: sealed(|h| h.replacen(":1795381080", "", 1)),
            ours: |v| matches!(v, Err(VerifyError::Header(HeaderError::Fields(8)))),
            clamav: Same,
        },
        Case {
            rule: "version no number",
            file: sealed(|h| h.replacen(":7:", ":x:", 1)),
            ours: field,
            clamav: Same,
        },
        Case {
            rule: "version with a leading zero",
            file: sealed(|h| h.replacen(":7:", ":07:", 1)),
            ours: field,
            clamav: Lax("one meaning has one spelling"),
        },
        Case {
            rule: "control character",
            file: sealed(|h| h + "\n"),
            ours: |v| matches!(v, Err(VerifyError::Header(HeaderError::NotPrintable { byte: b'\n', .. }))),
            clamav: Lax("newer ClamAV refuses it too"),
        },
    ]
}

fn body_cases() -> Vec<Case> {
    vec![
        Case { rule: "raw tar", file: forged(|f| f.compressed = false), ours: Result::is_ok, clamav: Same },
        Case {
            rule: "end blocks",
            file: forged(|f| f.tar_end = vec![0; 1024]),
            ours: Result::is_ok,
            clamav: Same,
        },
        Case {
            rule: "content behind end blocks",
            file: forged(|f| f.tar_end = [vec![0; 512], b"x".repeat(512)].concat()),
            ours: |v| matches!(v, Err(VerifyError::Container(ContainerError::Trailing(_)))),
            clamav: Lax("content that nobody looks at has no place in a signed file"),
        },
        Case {
            rule: "bytes behind gzip",
            file: forged(|f| f.body_end = b"more".to_vec()),
            ours: |v| matches!(v, Err(VerifyError::Container(ContainerError::Trailing(_)))),
            clamav: Lax("content that nobody looks at has no place in a signed file"),
        },
        Case {
            rule: "second gzip member",
            file: forged(|f| f.body_end = gzip(&[0; 512])),
            ours: |v| matches!(v, Err(VerifyError::Container(ContainerError::Trailing(_)))),
            clamav: Lax("content that nobody looks at has no place in a signed file"),
        },
        Case {
            rule: "part of a block",
            file: forged(|f| f.tar_end = b"x".repeat(100)),
            ours: |v| matches!(v, Err(VerifyError::Container(ContainerError::Truncated(_)))),
            clamav: Same,
        },
        Case {
            rule: "neither gzip nor tar",
            file: Forge::proper().seal_body(b"no archive"),
            ours: |v| matches!(v, Err(VerifyError::Container(ContainerError::Gzip(_)))),
            clamav: Same,
        },
        Case {
            rule: "name with a slash",
            file: with_member("../test.fp", 0),
            ours: |v| matches!(v, Err(VerifyError::Container(ContainerError::Name(_)))),
            clamav: Same,
        },
        Case {
            rule: "hidden name",
            file: with_member(".fp", 0),
            ours: |v| matches!(v, Err(VerifyError::Container(ContainerError::Name(_)))),
            clamav: Lax("no database has such a member"),
        },
        Case {
            rule: "directory",
            file: with_member("test.fp", b'5'),
            ours: |v| matches!(v, Err(VerifyError::Container(ContainerError::Kind { kind: b'5', .. }))),
            clamav: Same,
        },
        Case {
            rule: "symbolic link",
            file: with_member("test.fp", b'2'),
            ours: |v| matches!(v, Err(VerifyError::Container(ContainerError::Kind { kind: b'2', .. }))),
            clamav: Same,
        },
        Case { rule: "typeflag 0", file: with_member("test.ldb", b'0'), ours: Result::is_ok, clamav: Same },
        Case {
            rule: "a member twice",
            file: forged(|f| f.members.push(f.members[0].clone())),
            ours: |v| matches!(v, Err(VerifyError::Container(ContainerError::Duplicate(_)))),
            clamav: Lax("which of the two counts depends on the reader"),
        },
        Case {
            rule: "size no number",
            file: forged(|f| f.members[1].size = Some("xyz".into())),
            ours: |v| matches!(v, Err(VerifyError::Container(ContainerError::Size(_)))),
            clamav: Same,
        },
        Case {
            rule: "a member of 4 GB",
            file: forged(|f| f.members[1].size = Some("40000000000".into())),
            ours: |v| matches!(v, Err(VerifyError::Container(ContainerError::MemberTooLarge { .. }))),
            clamav: Lax("its reader seeks past the end and sees no harm"),
        },
    ]
}

fn list_cases() -> Vec<Case> {
    let no_list: fn(&Verdict) -> bool = |v| matches!(v, Err(VerifyError::Info(InfoError::NoSignature)));
    vec![
        Case {
            rule: "listed member missing",
            file: forged(|f| {
                f.members.pop();
            }),
            ours: |v| matches!(v, Err(VerifyError::Missing(name)) if name == "test.ndb"),
            clamav: Lax("a client would lose those signatures and not notice"),
        },
        Case {
            rule: "member not listed",
            file: forged(|f| {
                f.list.pop();
            }),
            ours: |v| matches!(v, Err(VerifyError::Unlisted(name)) if name == "test.ndb"),
            clamav: Same,
        },
        Case {
            rule: "other file not listed",
            file: forged(|f| f.members.push(entry("readme.txt", b"hello\n"))),
            ours: |v| matches!(v, Err(VerifyError::Unlisted(name)) if name == "readme.txt"),
            clamav: Lax("every byte is to be under a signature that new clients check"),
        },
        Case {
            rule: "another content",
            file: forged(|f| f.members[0].content[0] ^= 1),
            ours: |v| matches!(v, Err(VerifyError::Sha256(name)) if name == "test.hdb"),
            clamav: Same,
        },
        Case {
            rule: "another size",
            file: forged(|f| f.members[0].content.push(b'\n')),
            ours: |v| matches!(v, Err(VerifyError::Size { .. })),
            clamav: Same,
        },
        Case {
            rule: "list for another header",
            file: forged(|f| f.listed_header = f.listed_header.replace(":7:", ":6:")),
            ours: |v| matches!(v, Err(VerifyError::InfoVersion { header: 7, info: 6 })),
            clamav: Same,
        },
        Case {
            rule: "list signed by others",
            file: forged(|f| {
                let signed = String::from_utf8(f.signed_info()).unwrap();
                let text = &signed[..signed.find("DSIG:").unwrap()];
                let other = Keys::generate(99).info;
                let mut rng = rand::SeedableRng::seed_from_u64(1);
                f.info =
                    Some(format!("{text}DSIG:{}\n", other.sign_pss(text.as_bytes(), &mut rng)).into_bytes());
            }),
            ours: |v| matches!(v, Err(VerifyError::InfoSignature(_))),
            clamav: Same,
        },
        Case {
            rule: "list without signature",
            file: forged(|f| {
                let signed = f.signed_info();
                let end = signed.windows(5).position(|w| w == b"DSIG:").unwrap();
                f.info = Some(signed[..end].to_vec());
            }),
            ours: no_list,
            clamav: Same,
        },
        Case {
            rule: "text behind the list's signature",
            file: forged(|f| {
                f.info = Some([f.signed_info(), listed(&entry("x.hdb", b"x")).into_bytes()].concat())
            }),
            ours: no_list,
            clamav: Lax("it would be under no signature"),
        },
        Case {
            rule: "no list",
            file: forged(|f| f.info_name = "test.txt".into()),
            ours: |v| matches!(v, Err(VerifyError::NoInfo)),
            clamav: Same,
        },
        Case {
            rule: "second list",
            file: forged(|f| f.members.push(entry("other.info", b"x\n"))),
            ours: |v| matches!(v, Err(VerifyError::SecondInfo(_))),
            clamav: Lax("which of the two counts depends on the reader"),
        },
        Case {
            rule: "another database",
            file: forged(|f| f.info_name = "daily.info".into()),
            ours: |v| matches!(v, Err(VerifyError::Database { .. })),
            clamav: Lax("it does not compare the name with the content"),
        },
        Case {
            rule: "line of another form",
            file: forged(|f| f.list.push("test.hdb".into())),
            ours: |v| matches!(v, Err(VerifyError::Info(InfoError::Line(4)))),
            clamav: Same,
        },
        Case {
            rule: "listed twice",
            file: forged(|f| f.list.push(f.list[0].clone())),
            ours: |v| matches!(v, Err(VerifyError::Info(InfoError::Duplicate(_)))),
            clamav: Lax("one member has one line"),
        },
    ]
}

#[test]
fn every_rule_has_its_hostile_file_and_clamavs_verdict_is_known() {
    let peers = Peers::with_mint_keys();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("test.cvd");
    let mut wrong = Vec::new();
    for Case { rule, file, ours, clamav } in
        [header_cases(), body_cases(), list_cases()].into_iter().flatten()
    {
        let verdict = verify(&file, &Limits::default());
        if !ours(&verdict) {
            wrong.push(format!("{rule}: ours says {verdict:?}"));
        }
        let Some(peers) = &peers else { continue };
        std::fs::write(&path, &file).unwrap();
        let output = peers.command("sigtool").arg("--info").arg(&path).output().unwrap();
        let takes = String::from_utf8_lossy(&output.stdout).contains("Verification OK");
        // The name is not sigtool's matter, so that of a wrong version it says nothing.
        let expected = match clamav {
            Same => verdict.is_ok(),
            Lax(why) => !why.is_empty(),
        };
        if takes != expected {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            wrong.push(format!("{rule}: sigtool takes it: {takes}, expected {expected}; {said}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn bombs_are_refused_within_the_limits() {
    let limits = Limits { max_inflated_bytes: 1 << 20, max_cvd_bytes: 1 << 20, ..Limits::default() };
    let bomb = forged(|f| {
        f.members.push(entry("test.ldb", &vec![b'a'; 8 << 20]));
        f.relist();
    });
    assert!(bomb.len() < 100_000);
    let refused = verify(&bomb, &limits);
    assert!(matches!(refused, Err(VerifyError::Container(ContainerError::TooLarge(_)))), "{refused:?}");
    verify(&bomb, &Limits::default()).unwrap();

    let few = Limits { max_members: 3, ..Limits::default() };
    let refused = verify(&Forge::proper().seal(), &few);
    assert!(matches!(refused, Err(VerifyError::Container(ContainerError::TooManyMembers(3)))), "{refused:?}");

    let long_list = Limits { max_info_bytes: 100, ..Limits::default() };
    let refused = verify(&Forge::proper().seal(), &long_list);
    assert!(
        matches!(refused, Err(VerifyError::Container(ContainerError::MemberTooLarge { .. }))),
        "{refused:?}"
    );

    // An endless body ends at the limit.
    let endless = std::io::Read::chain(&bomb[..], std::io::repeat(7));
    let name = "test-7.cvd".parse().unwrap();
    let refused = verify_cvd(&name, endless, &keys().public(), &limits);
    assert!(matches!(refused, Err(VerifyError::TooLarge(_))), "{refused:?}");
}

#[test]
fn a_report_says_which_rule_failed_and_where() {
    let keys = keys().public();
    let report = |file: &str, bytes: &[u8], keys: &TrustKeys| {
        let limits = Limits::default();
        let inspector = Inspector { keys, limits: &limits, anchors: None, signed: None, now_s: 0 };
        inspector.inspect(file, bytes).unwrap()
    };
    let failed = |report: &Inspection| -> Vec<(Rule, String)> {
        let failed = report.checks.iter().filter_map(|check| match &check.outcome {
            Outcome::Failed { why } => Some((check.rule, why.clone())),
            _ => None,
        });
        failed.collect()
    };
    let good = report("test-7.cvd", &Forge::proper().seal(), &keys);
    assert!(good.passed(), "{good}");
    assert_eq!(good.checks.len(), 8);

    // Everything that is wrong is said, not only the first.
    let mut bytes = forged(|f| {
        f.members[0].content[0] ^= 1;
        f.members.pop();
    });
    bytes[20] = b'9';
    let bad = report("daily-6.cvd", &bytes, &keys);
    let rules: Vec<Rule> = failed(&bad).into_iter().map(|(rule, _)| rule).collect();
    assert_eq!(rules, [Rule::Name, Rule::ListSignature, Rule::Members, Rule::Members], "{bad}");
    assert!(failed(&bad)[2].1.contains("test.hdb") && failed(&bad)[3].1.contains("test.ndb"), "{bad}");
    let json = serde_json::to_value(&bad).unwrap();
    assert_eq!(json["kind"], "cvd");
    assert_eq!(json["checks"][3]["result"], "passed");

    let foreign = report("test-7.cvd", &Forge::proper().seal(), &TrustKeys::talos());
    let rules: Vec<Rule> = failed(&foreign).into_iter().map(|(rule, _)| rule).collect();
    assert_eq!(rules, [Rule::HeaderSignature, Rule::ListSignature]);
    assert!(!report("x", b"<html>", &keys).passed());

    let talos = support::talos::trust_keys();
    for name in ["test-5.cvd", "test-5.cdiff", "test-5.cvd.sign"] {
        let report = report(name, &support::talos(name), &talos);
        assert!(report.passed(), "{report}");
    }
    let renamed = report("test-4.cdiff", &support::talos("test-5.cdiff"), &talos);
    assert_eq!(failed(&renamed)[0].0, Rule::Name);
}

/// A CLD has no signature of its own, but its list's.
#[test]
fn a_cld_is_held_to_its_list() {
    let mut forge = Forge::proper();
    forge.compressed = false;
    let body = forge.body();
    let cld = |header: &Header, body: &[u8]| [&header.to_bytes().unwrap()[..], body].concat();
    let check = |bytes: &[u8]| {
        cvdmirror::cvd::verify_cld(&"test".parse().unwrap(), bytes, &keys().public(), &Limits::default())
            .map(drop)
    };
    check(&cld(&forge.header, &body)).unwrap();
    let newer = Header { version: 8, ..forge.header.clone() };
    assert!(matches!(check(&cld(&newer, &body)), Err(VerifyError::InfoVersion { header: 8, info: 7 })));
    let mut altered = body.clone();
    let at = altered.windows(4).position(|w| w == b"44d8").unwrap();
    altered[at] ^= 1;
    assert!(matches!(check(&cld(&forge.header, &altered)), Err(VerifyError::Sha256(_))));
    assert!(matches!(check(&cld(&forge.header, &body)[..HEADER_BYTES + 1024]), Err(VerifyError::NoInfo)));
}
