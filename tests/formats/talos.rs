//! The Talos-signed files: all of them verify, and no altered one does.
use cvdmirror::cvd::{
    Cdiff, CvdVerifier, FileName, HEADER_BYTES, Info, Limits, SignFile, VerifyError, cdiff::CdiffError,
    container::Members, header::HeaderError, signature::SignatureError, verify_cdiff, verify_cvd,
};
use std::{
    cell::RefCell,
    io::{self, Read},
    process::Command,
};
use support::{
    forge::Forge,
    mint_keys::keys,
    peer,
    talos::{own_or_skip, talos, trust_keys},
};

fn name(text: &str) -> FileName {
    text.parse().unwrap()
}
fn verify(name_: &str, bytes: &[u8]) -> Result<(), VerifyError> {
    let name = name(name_);
    let (keys, limits) = (trust_keys(), Limits::default());
    match name_.ends_with(".cvd") {
        true => verify_cvd(&name, bytes, &keys, &limits).map(drop),
        false => verify_cdiff(&name, bytes, &keys, &limits).map(drop),
    }
}

#[test]
fn every_talos_file_verifies() {
    for version in 1..=5 {
        let file = format!("test-{version}.cvd");
        let cvd = verify_cvd(&name(&file), &talos(&file)[..], &trust_keys(), &Limits::default()).unwrap();
        assert_eq!(cvd.name().to_string(), file);
        assert_eq!(cvd.members[1].name, "test.info");
        SignFile::parse(&talos(&format!("{file}.sign"))).unwrap();
    }
    for version in 2..=5 {
        let file = format!("test-{version}.cdiff");
        let cdiff = verify_cdiff(&name(&file), &talos(&file)[..], &trust_keys(), &Limits::default()).unwrap();
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
}

/// Writes down what passes, as a pack's writer does.
struct Tee<'a>(&'a [u8], &'a RefCell<Vec<u8>>);
impl Read for Tee<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let got = self.0.read(out)?;
        self.1.borrow_mut().extend_from_slice(&out[..got]);
        Ok(got)
    }
}

/// The name is known before any of the body is read, and every byte is read once.
#[test]
fn a_cvd_is_verified_beside_whoever_writes_it() {
    let (cvd, passed) = (talos("test-5.cvd"), RefCell::new(Vec::new()));
    let verifier = CvdVerifier::new(Tee(&cvd, &passed), &Limits::default()).unwrap();
    assert_eq!(verifier.header().version, 5);
    assert_eq!(*passed.borrow(), cvd[..HEADER_BYTES]);
    let verified = verifier.verify(&"test".parse().unwrap(), &trust_keys()).unwrap();
    assert_eq!(verified.name(), name("test-5.cvd"));
    assert!(*passed.borrow() == cvd);

    // A body that cannot be read passes to its end all the same, so that its MD5 decides.
    let broken = [&cvd[..600], &[7; 5000]].concat();
    passed.borrow_mut().clear();
    let verifier = CvdVerifier::new(Tee(&broken, &passed), &Limits::default()).unwrap();
    let refused = verifier.verify(&"test".parse().unwrap(), &trust_keys());
    assert!(matches!(refused, Err(VerifyError::Md5)) && *passed.borrow() == broken);
}

/// The legacy header's version is not signed; that of `.info` is.
#[test]
fn a_header_whose_version_lies_is_refused_with_the_true_one() {
    let mut cvd = talos("test-4.cvd");
    let at = cvd.windows(3).position(|window| window == b":4:").unwrap() + 1;
    cvd[at] = b'9';
    let refused = verify("test-9.cvd", &cvd);
    assert!(matches!(refused, Err(VerifyError::InfoVersion { header: 9, info: 4 })), "{refused:?}");
}

/// The file with something behind the signature in its header, which takes the place of padding.
fn header_dsig_with(cvd: &[u8], more: &str) -> Vec<u8> {
    let header = std::str::from_utf8(&cvd[..HEADER_BYTES]).unwrap().trim_end();
    let dsig = header.split(':').nth(6).unwrap();
    let header = header.replacen(dsig, &format!("{dsig}{more}"), 1);
    [format!("{header:<HEADER_BYTES$}").as_bytes(), &cvd[HEADER_BYTES..]].concat()
}

/// ClamAV takes each of these with a zero digit; such a file would be bound to a name for ever, and the signer's own
/// sign file never fits it.
#[test]
fn a_signature_has_one_text() {
    let zeros = ["a", "aa", &"a".repeat(100)];
    let cvd = talos("test-5.cvd");
    assert_eq!(header_dsig_with(&cvd, ""), cvd);
    for more in zeros {
        let refused = verify("test-5.cvd", &header_dsig_with(&cvd, more));
        assert!(matches!(refused, Err(VerifyError::Signature(SignatureError::ZeroDigit))), "{refused:?}");
    }
    for more in [" ", "=", "a "] {
        let refused = verify("test-5.cvd", &header_dsig_with(&cvd, more));
        assert!(matches!(refused, Err(VerifyError::Signature(SignatureError::Text))), "{refused:?}");
    }

    let cdiff = |more: &str| match verify("test-5.cdiff", &[talos("test-5.cdiff"), more.into()].concat()) {
        Err(VerifyError::Cdiff(CdiffError::Signature(error))) => error,
        other => panic!("{more:?}: {other:?}"),
    };
    for (more, expected) in [
        ("a", SignatureError::ZeroDigit),
        ("aa", SignatureError::ZeroDigit),
        // Any other digit makes another number, one that is too large, or is more than any number has.
        ("b", SignatureError::Mismatch),
        ("9", SignatureError::Range),
        ("bb", SignatureError::Text),
        (" ", SignatureError::Text),
        ("\0", SignatureError::Text),
        ("\n", SignatureError::Text),
        ("\r\n", SignatureError::Text),
        ("a\n", SignatureError::Text),
        ("a ", SignatureError::Text),
    ] {
        assert_eq!(cdiff(more), expected, "{more:?}");
    }

    let mut members = Members::new(&cvd[HEADER_BYTES..], &Limits::default()).unwrap();
    while members.next_member().unwrap().unwrap().name != "test.info" {}
    let info = String::from_utf8(members.read_all().unwrap()).unwrap();
    let info = |more: &str| {
        let altered = format!("{}{more}\n", info.trim_end());
        Info::parse(altered.as_bytes()).unwrap().verify(&trust_keys().info)
    };
    assert_eq!(info(""), Ok(()));
    assert_eq!(info("a"), Err(SignatureError::ZeroDigit));
    for more in [" ", "\0", "\r", "a ", "="] {
        assert_eq!(info(more), Err(SignatureError::Text), "{more:?}");
    }
}

/// As above, inside a body whose MD5 is signed.
#[test]
fn a_minted_list_with_a_zero_digit_is_refused() {
    let mut forge = Forge::proper();
    let check = |forge: &Forge| {
        verify_cvd(&name("test-7.cvd"), &forge.seal()[..], &keys().public(), &Limits::default()).map(drop)
    };
    check(&forge).unwrap();
    let list = forge.signed_info();
    forge.info = Some([list.trim_ascii_end(), b"a\n"].concat());
    let refused = check(&forge);
    assert!(matches!(refused, Err(VerifyError::InfoSignature(SignatureError::ZeroDigit))), "{refused:?}");
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
    let empty = verify_cdiff(&name("test-9.cdiff"), &b""[..], &trust_keys(), &Limits::default()).unwrap();
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
    let Some(sigtool) = peer("sigtool").filter(|_| own_or_skip()) else { return };
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
