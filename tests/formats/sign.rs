//! Sign files: Talos' verify, altered ones do not, and the verdict is OpenSSL's for every rule of a chain.
use cvdmirror::cvd::{
    Anchors, Limits, SignFile, VerifyError,
    chain::{ChainError, ChainRule},
    inspect::{Inspector, Outcome, Rule},
    sign_file::SignFileError,
    sign_verify::SignError,
    verify_sign,
};
use rcgen::{BasicConstraints, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use sha2::{Digest as _, Sha256};
use std::{io::Read, process::Command};
use support::{
    mint_sign::{Fault, Plan, Signer, sign_file},
    peer,
    talos::{is_own, talos},
};

/// 2026-11-22.
const NOW_S: u64 = 1_795_305_600;

fn anchors(pem: &[u8]) -> Anchors {
    let mut anchors = Anchors::default();
    anchors.add_pem(pem).unwrap();
    anchors
}

fn check<'a>(
    sign: &[u8],
    signed: &[u8],
    anchors: impl Into<Option<&'a Anchors>>,
    now_s: u64,
) -> Result<(), SignError> {
    match verify_sign(sign, signed, anchors.into(), now_s, &Limits::default()) {
        Ok(_) => Ok(()),
        Err(VerifyError::Sign(error)) => Err(error),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn every_talos_sign_file_verifies_for_its_own_file_alone() {
    let trusted = anchors(&talos("test-ca.crt"));
    assert_eq!(trusted.len(), 1);
    let names = (1..=5).map(|v| format!("test-{v}.cvd")).chain((2..=5).map(|v| format!("test-{v}.cdiff")));
    for name in names {
        let (sign, signed) = (talos(&format!("{name}.sign")), talos(&name));
        check(&sign, &signed, &trusted, NOW_S).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(matches!(check(&sign, &signed[1..], &trusted, NOW_S), Err(SignError::Digest)));
        assert!(matches!(check(&sign, &signed, &Anchors::default(), NOW_S), Err(SignError::Chain(_))));
    }
}

/// Whose signature it is takes trust to say; that it is a signature of this file does not.
#[test]
fn without_trust_a_sign_file_must_still_be_for_its_file() {
    let cvd = talos("test-5.cvd");
    check(&talos("test-5.cvd.sign"), &cvd, None, NOW_S).unwrap();
    // Chains are not looked at: not even their dates.
    check(&talos("test-5.cvd.sign"), &cvd, None, 0).unwrap();
    for other in ["test-4.cvd.sign", "test-5.cdiff.sign", "test-1.cvd.sign"] {
        assert!(matches!(check(&talos(other), &cvd, None, NOW_S), Err(SignError::Digest)), "{other}");
    }

    let signer = Signer::of(Plan::proper());
    let data = b"the signed file";
    let result = |fault| check(&sign_file(&signer.pkcs7(data, fault)), data, None, NOW_S);
    result(Fault::None).unwrap();
    result(Fault::NoIntermediate).unwrap();
    assert!(matches!(result(Fault::WrongDigest), Err(SignError::Digest)));
    assert!(matches!(result(Fault::WrongSignature), Err(SignError::Signature)));
    assert!(matches!(result(Fault::NoLeaf), Err(SignError::NoCertificate)));
    assert!(matches!(result(Fault::Attached), Err(SignError::NotDetached)));
    assert!(matches!(result(Fault::NoAttributes), Err(SignError::Unsupported(_))));
    // The digest is signed too: another file's cannot be put in its place.
    let digest: [u8; 32] = Sha256::digest(data).into();
    let other: [u8; 32] = Sha256::digest(b"another file").into();
    let mut pkcs7 = signer.pkcs7(data, Fault::None);
    let at = pkcs7.windows(32).position(|window| window == digest).unwrap();
    pkcs7[at..at + 32].copy_from_slice(&other);
    let replaced = check(&sign_file(&pkcs7), b"another file", None, NOW_S);
    assert!(matches!(replaced, Err(SignError::Signature)), "{replaced:?}");
}

/// What `verify FILE.sign` tells an admin, with and without certificates.
#[test]
fn an_inspection_tells_digest_from_trust() {
    let (keys, limits, root) =
        (support::talos::trust_keys(), Limits::default(), anchors(&talos("test-ca.crt")));
    let foreign = anchors(Signer::of(Plan::proper()).root_pem.as_bytes());
    let inspect = |signed: &str, anchors| {
        let file = talos(signed);
        let signed: Option<&mut dyn Read> = Some(&mut &file[..]);
        let inspector = Inspector { keys: &keys, limits: &limits, anchors, signed, now_s: NOW_S };
        let found = inspector.inspect("test-5.cvd.sign", &talos("test-5.cvd.sign")[..]).unwrap();
        let outcome = |rule| found.checks.iter().find(|check| check.rule == rule).unwrap().outcome.clone();
        (found.passed(), outcome(Rule::SignDigest), outcome(Rule::SignTrust))
    };
    assert_eq!(inspect("test-5.cvd", Some(&root)), (true, Outcome::Passed, Outcome::Passed));
    let (passed, digest, trust) = inspect("test-5.cvd", None);
    assert!(passed && digest == Outcome::Passed && matches!(trust, Outcome::Skipped { .. }));
    let (passed, digest, trust) = inspect("test-5.cvd", Some(&foreign));
    assert!(!passed && digest == Outcome::Passed && matches!(trust, Outcome::Failed { .. }));
    let (passed, digest, _) = inspect("test-4.cvd", None);
    assert!(!passed && matches!(digest, Outcome::Failed { .. }));
}

#[test]
fn talos_signers_are_bound_to_their_years() {
    let years = if is_own() { 4 } else { 40 };
    let trusted = anchors(&talos("test-ca.crt"));
    let (sign, signed) = (talos("test-5.cvd.sign"), talos("test-5.cvd"));
    let rule = |now_s| match check(&sign, &signed, &trusted, now_s) {
        Err(SignError::Chain(ChainError { rule, .. })) => rule,
        other => panic!("{other:?}"),
    };
    assert_eq!(rule(NOW_S + years * 31_536_000), ChainRule::Expired);
    assert_eq!(rule(NOW_S - years * 31_536_000), ChainRule::NotYetValid);
}

#[test]
fn no_flipped_bit_of_a_sign_file_adds_trust() {
    let trusted = anchors(&talos("test-ca.crt"));
    let (mut sign, signed) = (talos("test-5.cvd.sign"), talos("test-5.cvd"));
    let genuine = SignFile::parse(&sign).unwrap().signatures.remove(0);
    for bit in (0..sign.len() * 8).step_by(41) {
        sign[bit / 8] ^= 1 << (bit % 8);
        // The levels are under no signature, nor are the certificates' own unsigned parts; all else is.
        if check(&sign, &signed, &trusted, NOW_S).is_ok() {
            let parsed = SignFile::parse(&sign).unwrap().signatures.remove(0);
            let levels = (parsed.min_level, parsed.max_level) != (genuine.min_level, genuine.max_level);
            assert!(levels || is_unsigned(&parsed.pkcs7, &genuine.pkcs7), "bit {bit}");
        }
        sign[bit / 8] ^= 1 << (bit % 8);
    }
}

/// Says whether two structures differ only where no signature reaches: in the list of digest algorithms, the signer's
/// version, and an algorithm's empty parameters.
fn is_unsigned(one: &[u8], genuine: &[u8]) -> bool {
    let unsigned = |at: usize| {
        at < 60 || genuine[at - 2..].starts_with(&[2, 1, 1]) || genuine[at..].starts_with(&[5, 0])
    };
    one.len() == genuine.len() && (0..one.len()).all(|at| one[at] == genuine[at] || unsigned(at))
}

#[test]
fn what_would_harm_a_client_is_not_well_formed() {
    let good = String::from_utf8(talos("test-5.cvd.sign")).unwrap();
    let line = good.lines().nth(1).unwrap();
    let cases: [(String, SignFileError); 11] = [
        (String::new(), SignFileError::Magic),
        ("<html>Please sign in</html>".into(), SignFileError::Magic),
        // This one aborts the client's process.
        (format!("#clamsign\n{line}\n"), SignFileError::Magic),
        (format!("#clamsign-2.0\n{line}\n"), SignFileError::Magic),
        ("#clamsign-1.0\n".into(), SignFileError::NoSignature),
        ("#clamsign-1.0\n# 230::pkcs7-pem:AAAA\n\n".into(), SignFileError::NoSignature),
        (format!("{good}{}\n", &line[..20]), SignFileError::Line(3)),
        (good.replace("pkcs7-pem", "pkcs8-pem"), SignFileError::Line(2)),
        (good.replace("230:", "23x:"), SignFileError::Line(2)),
        (good[..good.len() - 6].into(), SignFileError::Line(2)),
        (good[..good.len() - 5].into(), SignFileError::Pkcs7),
    ];
    for (text, expected) in cases {
        assert_eq!(SignFile::parse(text.as_bytes()), Err(expected), "{text:.40}");
    }
    assert_eq!(SignFile::parse(b"#clamsign-1.0\n\xff\n"), Err(SignFileError::NotText));
    assert_eq!(SignFile::parse(good.replace('\n', "\r\n").as_bytes()), Err(SignFileError::NotText));
    assert_eq!(SignFile::parse(b"#clamsign-1.0\n::pkcs7-pem:AAAA\n"), Err(SignFileError::Pkcs7));
    let too_long = vec![b'#'; 300 << 10];
    let result = verify_sign(&too_long[..], &b""[..], None, NOW_S, &Limits::default());
    assert!(matches!(result, Err(VerifyError::TooLarge(_))));
}

/// One way to make a chain, and whether ours and OpenSSL accept it.
struct Case {
    name: &'static str,
    change: fn(&mut Plan),
    fault: Fault,
    ours: bool,
    /// Why ours refuses what OpenSSL accepts.
    stricter: Option<&'static str>,
}

fn case(name: &'static str, ours: bool, change: fn(&mut Plan)) -> Case {
    Case { name, change, fault: Fault::None, ours, stricter: None }
}
fn faulty(name: &'static str, fault: Fault) -> Case {
    Case { name, change: |_| {}, fault, ours: false, stricter: None }
}
/// nsCertType with these bits.
fn netscape(bits: u8) -> CustomExtension {
    CustomExtension::from_oid_content(&[2, 16, 840, 1, 113_730, 1, 1], vec![3, 2, 0, bits])
}

fn cases() -> Vec<Case> {
    use ExtendedKeyUsagePurpose::{Any, CodeSigning, EmailProtection};
    let stricter = |why, case| Case { stricter: Some(why), ..case };
    vec![
        case("proper", true, |_| {}),
        case("leaf expired", false, |p| p.leaf.not_after = rcgen::date_time_ymd(2026, 11, 20)),
        case("leaf of the future", false, |p| p.leaf.not_before = rcgen::date_time_ymd(2026, 11, 25)),
        case("intermediate expired", false, |p| {
            p.intermediate.not_after = rcgen::date_time_ymd(2026, 11, 20)
        }),
        case("root expired", false, |p| p.root.not_after = rcgen::date_time_ymd(2026, 11, 20)),
        case("intermediate no CA", false, |p| p.intermediate.is_ca = IsCa::ExplicitNoCa),
        case("intermediate without basicConstraints, with certSign", false, |p| {
            p.intermediate.is_ca = IsCa::NoCa;
        }),
        case("intermediate without basicConstraints and keyUsage", false, |p| {
            p.intermediate.is_ca = IsCa::NoCa;
            p.intermediate.key_usages.clear();
        }),
        case("intermediate may not sign certificates", false, |p| {
            p.intermediate.key_usages = vec![KeyUsagePurpose::CrlSign];
        }),
        case("path length too short", false, |p| {
            p.root.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        }),
        case("path length just enough", true, |p| {
            p.root.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        }),
        case("leaf without key usage", true, |p| p.leaf.key_usages.clear()),
        case("leaf for non-repudiation", true, |p| {
            p.leaf.key_usages = vec![KeyUsagePurpose::ContentCommitment]
        }),
        case("leaf for encryption alone", false, |p| {
            p.leaf.key_usages = vec![KeyUsagePurpose::KeyEncipherment]
        }),
        case("leaf for mail", true, |p| p.leaf.extended_key_usages = vec![EmailProtection]),
        case("leaf for code signing", false, |p| p.leaf.extended_key_usages = vec![CodeSigning]),
        case("leaf for anything", false, |p| p.leaf.extended_key_usages = vec![Any]),
        case("leaf for code signing and mail", true, |p| {
            p.leaf.extended_key_usages = vec![CodeSigning, EmailProtection];
        }),
        case("intermediate for code signing", false, |p| {
            p.intermediate.extended_key_usages = vec![CodeSigning]
        }),
        case("root for code signing", false, |p| p.root.extended_key_usages = vec![CodeSigning]),
        case("leaf nsCertType S/MIME", true, |p| p.leaf.custom_extensions = vec![netscape(0x20)]),
        case("leaf nsCertType server", false, |p| p.leaf.custom_extensions = vec![netscape(0x40)]),
        case("leaf nsCertType client", true, |p| p.leaf.custom_extensions = vec![netscape(0x80)]),
        case("leaf is a CA", true, |p| p.leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        case("unknown critical extension", false, |p| {
            let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
            extension.set_criticality(true);
            p.leaf.custom_extensions = vec![extension];
        }),
        case("unknown extension", true, |p| {
            p.leaf.custom_extensions = vec![CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0])];
        }),
        stricter(
            "name constraints are not implemented",
            case("name constraints", false, |p| {
                p.intermediate.name_constraints = Some(rcgen::NameConstraints {
                    permitted_subtrees: vec![rcgen::GeneralSubtree::DnsName("example.org".into())],
                    excluded_subtrees: vec![],
                });
            }),
        ),
        faulty("wrong digest", Fault::WrongDigest),
        faulty("wrong signature", Fault::WrongSignature),
        faulty("no leaf", Fault::NoLeaf),
        faulty("no intermediate", Fault::NoIntermediate),
        stricter("ClamAV signs detached", faulty("attached content", Fault::Attached)),
        stricter("needs the whole file in memory", faulty("no signed attributes", Fault::NoAttributes)),
    ]
}

#[test]
fn the_verdict_on_a_chain_is_openssls() {
    let openssl = peer("openssl");
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let data = b"the signed file".to_vec();
    std::fs::write(path("data"), &data).unwrap();
    for Case { name, change, fault, ours, stricter } in cases() {
        let mut plan = Plan::proper();
        change(&mut plan);
        let signer = Signer::of(plan);
        let pkcs7 = signer.pkcs7(&data, fault);
        let result = check(&sign_file(&pkcs7), &data, &anchors(signer.root_pem.as_bytes()), NOW_S);
        assert_eq!(result.is_ok(), ours, "{name}: {result:?}");

        let Some(openssl) = &openssl else { continue };
        std::fs::write(path("pkcs7"), &pkcs7).unwrap();
        std::fs::write(path("root"), &signer.root_pem).unwrap();
        // The call `PKCS7_verify`, whose default purpose is smime_sign.
        let output = Command::new(openssl)
            .args(["smime", "-verify", "-binary", "-inform", "DER", "-no-CApath", "-no-CAstore"])
            .args(["-attime", &NOW_S.to_string(), "-CAfile"])
            .arg(path("root"))
            .arg("-in")
            .arg(path("pkcs7"))
            .arg("-content")
            .arg(path("data"))
            .args(["-out", "/dev/null"])
            .output()
            .unwrap();
        let theirs = output.status.success();
        match stricter {
            Some(_) => assert!(theirs && !ours, "{name} is said to be stricter, OpenSSL says {theirs}"),
            None => assert_eq!(ours, theirs, "{name}: {}", String::from_utf8_lossy(&output.stderr)),
        }
    }
}

/// A file may carry signatures for several ranges of levels; a client uses one of them, so all must hold.
#[test]
fn every_signature_of_a_sign_file_must_hold() {
    let trusted = anchors(&talos("test-ca.crt"));
    let (sign, other) = (talos("test-5.cvd.sign"), talos("test-4.cvd.sign"));
    let line =
        |file: &[u8]| String::from_utf8(file.to_vec()).unwrap().lines().nth(1).unwrap().to_owned() + "\n";
    let twice = [&sign[..], line(&sign).as_bytes()].concat();
    check(&twice, &talos("test-5.cvd"), &trusted, NOW_S).unwrap();
    let mixed = [&sign[..], line(&other).as_bytes()].concat();
    assert!(matches!(check(&mixed, &talos("test-5.cvd"), &trusted, NOW_S), Err(SignError::Digest)));
}

#[test]
fn only_self_issued_roots_end_a_chain() {
    let signer = Signer::of(Plan::proper());
    let sign = signer.sign(b"data");
    let both = [signer.root_pem.as_str(), "some text between\n", &signer.intermediate_pem].concat();
    check(&sign, b"data", &anchors(both.as_bytes()), NOW_S).unwrap();
    let alone = check(&sign, b"data", &anchors(signer.intermediate_pem.as_bytes()), NOW_S);
    assert!(matches!(alone, Err(SignError::Chain(ChainError { rule: ChainRule::Issuer, .. }))), "{alone:?}");
    // Another root of the same name, as after a change of keys.
    let other = Signer::of(Plan::proper());
    assert!(check(&sign, b"data", &anchors(other.root_pem.as_bytes()), NOW_S).is_err());
    assert!(
        Anchors::default()
            .add_pem(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
            .is_err()
    );
}
