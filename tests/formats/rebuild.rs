//! A CVD rebuilt from the one before and a CDIFF is the signed file, byte for byte.
use cvdmirror::cvd::{
    Cdiff, Cvd, Database, HEADER_BYTES, Header, Info, Limits, Rebuild, RebuildError, TrustKeys, Verified,
    VerifyError, apply::ApplyError, info::InfoError, verify_cdiff,
};
use support::{
    mint::Mint,
    talos::{talos, trust_keys},
};

fn cdiff(version: u32, bytes: &[u8], keys: &TrustKeys) -> Verified<Cdiff> {
    verify_cdiff(&format!("test-{version}.cdiff").parse().unwrap(), bytes, keys, &Limits::default()).unwrap()
}

fn rebuild(
    old: &[u8],
    patches: &[Verified<Cdiff>],
    header: &[u8],
    keys: &TrustKeys,
) -> (Result<Verified<Cvd>, RebuildError>, Vec<u8>) {
    let database: Database = "test".parse().unwrap();
    let scratch = tempfile::tempfile().unwrap();
    let header: &[u8; HEADER_BYTES] = header[..HEADER_BYTES].try_into().unwrap();
    let limits = Limits::default();
    let mut new = Vec::new();
    let result = Rebuild::new(&database, old, &scratch, keys, &limits)
        .and_then(|rebuild| patches.iter().try_fold(rebuild, Rebuild::apply)?.write(header, &mut new));
    (result, new)
}

/// What is proved of a base and CDIFFs, without any header.
fn prove(
    database: &str,
    old: &[u8],
    patches: &[Verified<Cdiff>],
    keys: &TrustKeys,
) -> Result<Verified<Info>, RebuildError> {
    let database: Database = database.parse().unwrap();
    let (scratch, limits) = (tempfile::tempfile().unwrap(), Limits::default());
    let rebuild = Rebuild::new(&database, old, &scratch, keys, &limits)?;
    patches.iter().try_fold(rebuild, Rebuild::apply)?.check()
}

#[test]
fn talos_steps_rebuild_to_identical_bytes() {
    let keys = trust_keys();
    for version in 2..=5 {
        let (old, new) = (talos(&format!("test-{}.cvd", version - 1)), talos(&format!("test-{version}.cvd")));
        let patch = cdiff(version, &talos(&format!("test-{version}.cdiff")), &keys);
        let (result, bytes) = rebuild(&old, &[patch], &new, &keys);
        assert_eq!(result.unwrap().header.version, version);
        assert!(bytes == new, "version {version}");
    }
}

#[test]
fn a_chain_takes_one_rebuild() {
    let keys = trust_keys();
    let patches: Vec<_> = (2..=5).map(|v| cdiff(v, &talos(&format!("test-{v}.cdiff")), &keys)).collect();
    let new = talos("test-5.cvd");
    let (result, bytes) = rebuild(&talos("test-1.cvd"), &patches, &new, &keys);
    result.unwrap();
    assert!(bytes == new);
}

#[test]
fn thirty_minted_steps_rebuild_to_identical_bytes() {
    let mint = Mint::new(3);
    let mut lineage = mint.database_of("test", 2000, 60);
    let first = lineage.publish();
    let mut old = first.cvd.clone();
    let mut patches = Vec::new();
    for version in 2..=31 {
        let release = lineage.publish();
        let patch = cdiff(version, &release.cdiff.unwrap(), &mint.keys());
        patches.push(patch.clone());
        let (result, bytes) = rebuild(&old, &[patch], &release.cvd, &mint.keys());
        result.unwrap_or_else(|error| panic!("version {version}: {error}"));
        assert!(bytes == release.cvd, "version {version}");
        old = release.cvd;
    }
    let (result, bytes) = rebuild(&first.cvd, &patches, &old, &mint.keys());
    result.unwrap();
    assert!(bytes == old);
}

/// Members larger than any buffer, and edits all over them.
#[test]
fn a_step_of_ten_megabytes_rebuilds_to_identical_bytes() {
    let mint = Mint::new(5);
    let mut lineage = mint.database_of("test", 120_000, 1_500);
    let (old, new) = (lineage.publish(), lineage.publish());
    let (result, bytes) =
        rebuild(&old.cvd, &[cdiff(2, &new.cdiff.unwrap(), &mint.keys())], &new.cvd, &mint.keys());
    assert!(result.unwrap().members.iter().map(|member| member.size).sum::<u64>() > 9_000_000);
    assert!(bytes == new.cvd);
}

#[test]
fn what_does_not_lead_to_the_header_is_a_typed_mismatch() {
    let keys = trust_keys();
    let patch = |version| cdiff(version, &talos(&format!("test-{version}.cdiff")), &keys);
    let (three, four, five) = (talos("test-3.cvd"), talos("test-4.cvd"), talos("test-5.cvd"));

    let (gap, _) = rebuild(&three, &[patch(5)], &five, &keys);
    assert!(matches!(gap, Err(RebuildError::Chain { expected: 4, found: Some(5) })));
    let (short, _) = rebuild(&three, &[patch(4)], &five, &keys);
    assert!(matches!(short, Err(RebuildError::Chain { expected: 5, found: None })));
    let empty = cdiff(5, b"", &keys);
    let (empty, _) = rebuild(&four, &[empty], &five, &keys);
    assert!(matches!(empty, Err(RebuildError::Chain { expected: 5, found: None })));

    let mut forged = five.clone();
    forged[50] ^= 1;
    let (forged, bytes) = rebuild(&four, &[patch(5)], &forged, &keys);
    assert!(matches!(forged, Err(RebuildError::Mismatch(VerifyError::Signature(_)))), "{forged:?}");
    assert_eq!(bytes, b"");

    // The same members packed another way: what a repack of Talos' would look like.
    let mint = Mint::new(4);
    let mut lineage = mint.database("test");
    let (old, new) = (lineage.publish(), lineage.publish());
    let header = lineage.repacked_header();
    let (repacked, _) =
        rebuild(&old.cvd, &[cdiff(2, &new.cdiff.unwrap(), &mint.keys())], &header, &mint.keys());
    assert!(matches!(repacked, Err(RebuildError::Mismatch(VerifyError::Md5))), "{repacked:?}");
}

#[test]
fn talos_steps_are_proved_without_the_new_header() {
    let keys = trust_keys();
    let patches: Vec<_> = (2..=5).map(|v| cdiff(v, &talos(&format!("test-{v}.cdiff")), &keys)).collect();
    for version in 1..=5u32 {
        let info = prove("test", &talos("test-1.cvd"), &patches[..version as usize - 1], &keys).unwrap();
        let header = Header::parse(&talos(&format!("test-{version}.cvd"))).unwrap();
        assert_eq!(info.header, header.unsigned());
    }
}

/// One base, inflated once; every version on the way is proved as it is reached.
#[test]
fn every_step_of_a_chain_is_proved_on_the_way() {
    let mint = Mint::new(3);
    let (keys, limits) = (mint.keys(), Limits::default());
    let mut lineage = mint.database("test");
    let first = lineage.publish();
    let (database, scratch) = ("test".parse().unwrap(), tempfile::tempfile().unwrap());
    let mut rebuild = Rebuild::new(&database, &first.cvd[..], &scratch, &keys, &limits).unwrap();
    for version in 2..=12 {
        let release = lineage.publish();
        rebuild = rebuild.apply(&cdiff(version, &release.cdiff.unwrap(), &keys)).unwrap();
        let info = rebuild.check().unwrap();
        assert_eq!((info.header.version, info.header.stime_s), (version, release.stime_s));
        assert_eq!(rebuild.version(), version);
    }
}

/// A CDIFF tells no database; two of one version number have the same form and are signed by the same key.
#[test]
fn another_databases_cdiff_is_refused() {
    let (mint, talos_keys) = (Mint::new(6), trust_keys());
    let keys = mint.keys();
    let (mut test, mut other) = (mint.database("test"), mint.database("other"));
    let old = test.publish();
    other.publish();
    let own = cdiff(2, &test.publish().cdiff.unwrap(), &keys);
    let foreign = cdiff(2, &other.publish().cdiff.unwrap(), &keys);
    prove("test", &old.cvd, std::slice::from_ref(&own), &keys).unwrap();
    let refused = prove("test", &old.cvd, &[foreign], &keys);
    let Err(RebuildError::Apply { version: 2, source: ApplyError::NoMember { member, .. } }) = &refused
    else {
        panic!("{refused:?}")
    };
    assert!(member.starts_with("other."));

    // One that only adds, so that every command of it fits: the list is still the old one.
    let adds = cdiff(2, &test.diff(b"OPEN other.hdb\nADD x\nCLOSE\n"), &keys);
    let refused = prove("test", &old.cvd, &[adds], &keys);
    assert!(matches!(&refused, Err(RebuildError::Mismatch(VerifyError::Unlisted(m))) if m == "other.hdb"));
    let lists = cdiff(2, &test.diff(b"OPEN other.info\nADD x\nCLOSE\n"), &keys);
    let refused = prove("test", &old.cvd, &[lists], &keys);
    assert!(matches!(refused, Err(RebuildError::Mismatch(VerifyError::SecondInfo(_)))), "{refused:?}");
    // One that changes nothing: the proof is of the version that it claims.
    let idle = cdiff(2, &test.diff(b"#\n"), &keys);
    let refused = prove("test", &old.cvd, &[idle], &keys);
    assert!(matches!(refused, Err(RebuildError::Version { expected: 2, found: 1 })), "{refused:?}");
    // The base of another database.
    let refused = prove("other", &old.cvd, &[own], &keys);
    assert!(matches!(refused, Err(RebuildError::Mismatch(VerifyError::Database { .. }))), "{refused:?}");

    let step = cdiff(5, &talos("test-5.cdiff"), &talos_keys);
    let refused = prove("test", &talos("test-3.cvd"), &[step], &talos_keys);
    assert!(matches!(refused, Err(RebuildError::Chain { expected: 4, found: Some(5) })), "{refused:?}");
}

/// Signed edits that fit, and a list that is not of what they leave.
#[test]
fn a_list_that_does_not_name_every_member_is_no_proof() {
    let mint = Mint::new(9);
    let keys = mint.keys();
    let mut lineage = mint.database("test");
    let old = lineage.publish();
    let script = String::from_utf8(lineage.publish().script.unwrap()).unwrap();
    let mut result = |more: &str| {
        let patch = cdiff(2, &lineage.diff([&script, more].concat().as_bytes()), &keys);
        match prove("test", &old.cvd, &[patch], &keys) {
            Err(RebuildError::Mismatch(error)) => Some(error),
            Ok(_) => None,
            Err(other) => panic!("{other}"),
        }
    };
    assert!(result("").is_none());
    assert!(matches!(result("UNLINK test.cdb\n"), Some(VerifyError::Missing(name)) if name == "test.cdb"));
    let extra = result("OPEN new.hdb\nADD x\nCLOSE\n");
    assert!(matches!(extra, Some(VerifyError::Unlisted(name)) if name == "new.hdb"));
    let longer = result("OPEN test.hdb\nADD x\nCLOSE\n");
    assert!(matches!(longer, Some(VerifyError::Size { name, .. }) if name == "test.hdb"));
    assert!(matches!(result("UNLINK test.info\n"), Some(VerifyError::NoInfo)));
    let unsigned = result("OPEN test.info\nADD x:1:00\nCLOSE\n");
    assert!(matches!(unsigned, Some(VerifyError::Info(InfoError::NoSignature))), "{unsigned:?}");
}
