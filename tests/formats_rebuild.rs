//! A CVD rebuilt from the one before and a CDIFF is the signed file, byte for byte.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod support;
use cvdmirror::cvd::{
    Cdiff, Cvd, Database, HEADER_BYTES, Limits, Rebuild, RebuildError, TrustKeys, Verified, VerifyError,
    verify_cdiff,
};
use support::{mint::Mint, talos};

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
    let job =
        Rebuild { database: &database, patches, header, scratch: &scratch, keys, limits: &Limits::default() };
    let mut new = Vec::new();
    (job.run(old, &mut new), new)
}

#[test]
fn talos_steps_rebuild_to_identical_bytes() {
    let keys = TrustKeys::talos();
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
    let keys = TrustKeys::talos();
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
    let keys = TrustKeys::talos();
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
