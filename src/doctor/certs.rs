//! The certs directory: there, readable, certificates in it, all of them valid now.
use super::Check;
use crate::{
    clock::epoch_s,
    config::Config,
    mirror::verify::{CertsError, anchors_in},
    trouble::TroubleKind,
    units::count,
};

const WHY: &str = "no new sign file is taken, so clients in FIPS mode refuse what they are offered; others take \
                   every file without one";
/// Where ClamAV's packages put theirs.
const USUAL: &str = "certs_dir = \"/etc/clamav/certs\"";

pub(super) fn check(config: &Config) -> Check {
    let mut check = Check::new("certs", TroubleKind::Certificates);
    let Some(dir) = &config.certs_dir else {
        check.say("certs_dir is not set: a sign file is served when it signs its file, by any signer");
        return check;
    };
    match anchors_in(dir) {
        Ok(anchors) => {
            for e in anchors.invalid_at(epoch_s()) {
                let why = "sign files that lead to it are refused, here and by ClamAV itself";
                let fix = "bring ClamAV's certificates up to date (its packages bring them), or set the clock right";
                check.find(format!("{}: {e}", dir.display()), why, fix);
            }
            check.say(format!("{} in {}", count(anchors.len(), "certificate"), dir.display()));
        }
        Err(e) => {
            let fix = match &e {
                CertsError::Read { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                    format!("chmod -R a+rX {}", dir.display())
                }
                CertsError::Certificate { path, .. } => {
                    format!("put a certificate in PEM into {}, or move it away", path.display())
                }
                CertsError::Read { .. } | CertsError::Bare { .. } | CertsError::None { .. } => USUAL.into(),
            };
            check.find(e.to_string(), WHY, fix);
        }
    }
    check
}
