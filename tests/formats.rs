//! The Talos-signed files: all of them verify, and no altered one does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use cvdmirror::cvd::{
    Cdiff, Database, FileName, Limits, SignFile, TrustKeys, VerifyError, header::HeaderError, verify_cdiff,
    verify_cvd, verify_cvd_any,
};
mod support;
use std::process::Command;
use support::{peer, talos};

fn name(text: &str) -> FileName {
    text.parse().unwrap()
}
fn verify(name_: &str, bytes: &[u8]) -> Result<(), VerifyError> {
    let name = name(name_);
    let (keys, limits) = (TrustKeys::talos(), Limits::default());
    match name_.ends_with(".cvd") {
        true => verify_cvd(&name, bytes, &keys, &limits).map(drop),
        false => verify_cdiff(&name, bytes, &keys, &limits).map(drop),
    }
}

#[test]
fn every_talos_file_verifies() {
    for version in 1..=5 {
        let file = format!("test-{version}.cvd");
        let cvd =
            verify_cvd(&name(&file), &talos(&file)[..], &TrustKeys::talos(), &Limits::default()).unwrap();
        assert_eq!(cvd.name().to_string(), file);
        assert_eq!(cvd.members[1].name, "test.info");
        SignFile::parse(&talos(&format!("{file}.sign"))).unwrap();
    }
    for version in 2..=5 {
        let file = format!("test-{version}.cdiff");
        let cdiff =
            verify_cdiff(&name(&file), &talos(&file)[..], &TrustKeys::talos(), &Limits::default()).unwrap();
        assert!(matches!(&*cdiff, Cdiff::Patch(patch) if patch.version == version));
        SignFile::parse(&talos(&format!("{file}.sign"))).unwrap();
    }
}

#[test]
fn a_name_that_is_not_the_contents_is_refused() {
    let cvd = talos("test-5.cvd");
    assert!(matches!(verify("test-4.cvd", &cvd), Err(VerifyError::Version { expected: 4, found: 5 })));
    assert!(matches!(verify("daily-5.cvd", &cvd), Err(VerifyError::Database { .. })));
    assert!(matches!(verify("test-4.cdiff", &talos("test-5.cdiff")), Err(VerifyError::Version { .. })));
    let found = verify_cvd_any(
        &"test".parse::<Database>().unwrap(),
        &cvd[..],
        &TrustKeys::talos(),
        &Limits::default(),
    );
    assert_eq!(found.unwrap().name(), name("test-5.cvd"));
}

#[test]
fn html_truncation_and_an_empty_cvd_are_refused_and_an_empty_cdiff_is_not() {
    let html = b"<html><body>Please sign in</body></html>".repeat(30);
    assert!(matches!(verify("test-5.cvd", &html), Err(VerifyError::Header(HeaderError::Magic))));
    assert!(matches!(verify("test-5.cvd", b""), Err(VerifyError::Header(HeaderError::Magic))));
    let cvd = talos("test-5.cvd");
    assert!(matches!(verify("test-5.cvd", &cvd[..300]), Err(VerifyError::Header(HeaderError::Short(300)))));
    for length in [512, 513, 518, 519, 5000, cvd.len() - 1] {
        assert!(matches!(verify("test-5.cvd", &cvd[..length]), Err(VerifyError::Md5)), "{length}");
    }
    let longer = [&cvd[..], b"\0"].concat();
    assert!(matches!(verify("test-5.cvd", &longer), Err(VerifyError::Md5)));
    let empty =
        verify_cdiff(&name("test-9.cdiff"), &b""[..], &TrustKeys::talos(), &Limits::default()).unwrap();
    assert_eq!(*empty, Cdiff::Empty);
}

/// Every bit of the header, and a sample of the body's.
#[test]
fn no_single_bit_of_a_cvd_may_flip() {
    let mut cvd = talos("test-5.cvd");
    let header = 0..512 * 8;
    let body = (512 * 8..cvd.len() * 8).step_by(97);
    for bit in header.chain(body) {
        cvd[bit / 8] ^= 1 << (bit % 8);
        assert!(verify("test-5.cvd", &cvd).is_err(), "bit {bit}");
        cvd[bit / 8] ^= 1 << (bit % 8);
    }
    verify("test-5.cvd", &cvd).unwrap();
}

#[test]
fn no_single_bit_of_a_cdiff_may_flip() {
    let mut cdiff = talos("test-5.cdiff");
    for bit in 0..cdiff.len() * 8 {
        cdiff[bit / 8] ^= 1 << (bit % 8);
        assert!(verify("test-5.cdiff", &cdiff).is_err(), "bit {bit}");
        cdiff[bit / 8] ^= 1 << (bit % 8);
    }
    verify("test-5.cdiff", &cdiff).unwrap();
}

/// Debian's sigtool, with Talos' keys, takes and refuses the same files.
#[test]
fn sigtool_agrees_on_talos_files_and_altered_ones() {
    let Some(sigtool) = peer("sigtool") else { return };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("test.cvd");
    let takes = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let output = Command::new(&sigtool).arg("--info").arg(&path).output().unwrap();
        String::from_utf8_lossy(&output.stdout).contains("Verification OK")
    };
    for version in 1..=5 {
        assert!(takes(&talos(&format!("test-{version}.cvd"))), "{version}");
    }
    let mut cvd = talos("test-5.cvd");
    // From the MD5 on: what stands before it ClamAV compares only in part.
    for bit in (43 * 8..cvd.len() * 8).step_by(2503) {
        cvd[bit / 8] ^= 1 << (bit % 8);
        let in_padding = (280..512).contains(&(bit / 8));
        assert!(in_padding || !takes(&cvd), "bit {bit}");
        assert!(verify("test-5.cvd", &cvd).is_err(), "bit {bit}");
        cvd[bit / 8] ^= 1 << (bit % 8);
    }
}
