//! The site's own CA: its signer can sign, and neither of them ends soon. For a client: the certificate that it trusts.
use super::Check;
use crate::{
    ca::{self, CaError, SOON_S, Signer},
    clock::{ago, epoch_s},
    config::Config,
    mirror::verify::anchors_of,
    trouble::TroubleKind,
};
use std::{io::ErrorKind, path::Path};

const WHY: &str = "`pull --ca` takes nothing that is new";

/// `None` without a CA.
pub(super) fn check(config: &Config) -> Option<Check> {
    let dir = config.site_ca.as_ref()?;
    let mut check = Check::new("site CA", TroubleKind::Certificates);
    let terms = match ca::terms(dir) {
        Ok(terms) => terms,
        Err(e) => {
            check.find(e.to_string(), WHY, mend(&e, dir));
            return Some(check);
        }
    };
    let [authority, signer] = terms;
    term(&mut check, "the site's CA", &authority.path, authority.ends_s, &another(dir));
    term(
        &mut check,
        "the CA's signer",
        &signer.path,
        signer.ends_s,
        &format!("cvdmirror ca init {}", dir.display()),
    );
    if check.findings.is_empty()
        && let Err(e) = Signer::open(dir, epoch_s())
    {
        check.find(e.to_string(), WHY, mend(&e, dir));
    }
    Some(check)
}

/// The CA that a client demands; `None` where it demands none.
pub(super) fn check_client(config: &Config) -> Option<Check> {
    let file = config.pull.ca.as_ref()?;
    let mut check = Check::new("site CA", TroubleKind::Certificates);
    match anchors_of(file) {
        // Of several the last one counts: the others are the ones before it.
        Ok(anchors) => {
            let ends_s = anchors.ends().map(|(ends_s, _)| ends_s).max().unwrap_or_default();
            let fix = "add the certificate of the mirror's next CA to this file";
            term(&mut check, "the site's CA", file, ends_s, fix);
        }
        Err(e) => check.find(e.to_string(), WHY, "give the ca.crt that `cvdmirror ca init` made, readable"),
    }
    Some(check)
}

fn term(check: &mut Check, what: &str, file: &Path, ends_s: u64, fix: &str) {
    let (now_s, file) = (epoch_s(), file.display());
    let left = ago(ends_s.saturating_sub(now_s));
    if ends_s < now_s {
        check.find(format!("{file}: {what} has expired"), WHY, fix);
    } else if ends_s - now_s < SOON_S {
        check.find(format!("{file}: {what} expires in {left}"), "from then on, ".to_owned() + WHY, fix);
    } else {
        check.say(format!("{file}: {what} is valid for another {left}"));
    }
}

fn another(dir: &Path) -> String {
    format!(
        "cvdmirror ca init {}-2\nadd its ca.crt to the file of each client, then set site_ca to it",
        dir.display()
    )
}

fn mend(e: &CaError, dir: &Path) -> String {
    match e {
        CaError::Io { source, .. } if source.kind() == ErrorKind::PermissionDenied => {
            format!("chown -R the service's user {}", dir.display())
        }
        _ => format!("cvdmirror ca init {}", dir.display()),
    }
}
