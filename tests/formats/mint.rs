//! The mint's databases are proper ones: ours and Debian's tools read them.
use cvdmirror::cvd::{Cdiff, Limits, TrustKeys, VerifyError, verify_cdiff, verify_cvd};
use sha2::{Digest, Sha256};
use std::process::Command;
use support::mint::Mint;

#[test]
fn minted_versions_verify_with_their_own_keys_alone() {
    let mint = Mint::new(1);
    let mut lineage = mint.database("test");
    let limits = Limits::default();
    for version in 1..=8 {
        let release = lineage.publish();
        assert_eq!(release.version, version);
        let cvd = verify_cvd(&release.cvd_name(), &release.cvd[..], &mint.keys(), &limits).unwrap();
        assert_eq!(cvd.header.stime_s, release.stime_s);
        let foreign = verify_cvd(&release.cvd_name(), &release.cvd[..], &TrustKeys::talos(), &limits);
        assert!(matches!(foreign, Err(VerifyError::Signature(_))));
        if let Some(cdiff) = &release.cdiff {
            let cdiff = verify_cdiff(&release.cdiff_name(), &cdiff[..], &mint.keys(), &limits).unwrap();
            assert!(matches!(&*cdiff, Cdiff::Patch(patch) if Some(&patch.script) == release.script.as_ref()));
        }
    }
}

#[test]
fn keys_read_back_from_their_configuration() {
    let mint = Mint::new(1);
    assert_eq!(toml::from_str::<TrustKeys>(&mint.keys_toml()).unwrap(), mint.keys());
    let talos = toml::to_string(&TrustKeys::talos()).unwrap();
    assert_eq!(toml::from_str::<TrustKeys>(&talos).unwrap(), TrustKeys::talos());
}

/// `sigtool` judges with Talos' keys, so it cannot call a minted database genuine; it reads it all the same.
#[test]
fn debians_sigtool_reads_minted_databases() {
    let Some(sigtool) = support::peer("sigtool") else { return };
    let directory = tempfile::tempdir().unwrap();
    let mut lineage = Mint::new(2).database("test");
    lineage.publish();
    let release = lineage.publish();
    let path = directory.path().join("test.cvd");
    std::fs::write(&path, &release.cvd).unwrap();

    let info = Command::new(&sigtool).arg("--info").arg(&path).output().unwrap();
    let info = String::from_utf8_lossy(&info.stdout).into_owned();
    assert!(info.contains("Version: 2\n") && info.contains("Builder: mint\n"), "{info}");

    // It refuses to unpack what others signed, but not the same members unsigned.
    let path = directory.path().join("test.cud");
    std::fs::write(&path, lineage.unsigned()).unwrap();
    let unpacked =
        Command::new(&sigtool).arg("--unpack").arg(&path).current_dir(&directory).status().unwrap();
    assert!(unpacked.success());
    let members =
        verify_cvd(&release.cvd_name(), &release.cvd[..], &Mint::new(2).keys(), &Limits::default()).unwrap();
    for member in members.members.iter().filter(|member| member.name != "test.info") {
        let content = std::fs::read(directory.path().join(&member.name)).unwrap();
        assert_eq!(<[u8; 32]>::from(Sha256::digest(&content)), member.sha256, "{}", member.name);
    }
}
