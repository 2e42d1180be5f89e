//! What https is served with: the pair fits, is valid now and for a while, and names this host.
use super::Check;
use crate::{
    client_config::own_url,
    clock::{ago, epoch_s},
    config::Config,
    http::{Tls, TlsFiles},
    trouble::TroubleKind,
};
use cms::cert::x509::Certificate;
use der::Decode as _;
use rustls::{
    client::verify_server_name,
    pki_types::{CertificateDer, ServerName},
    server::ParsedCertificate,
};

/// One that ends within so long is to be renewed.
const SOON_S: u64 = 14 * 86_400;
const WHY: &str = "clients that are to use https get nothing";
const RENEW: &str = "renew the certificate; the server reads it again by itself";

/// `None` without https.
pub(super) fn check(config: &Config) -> Option<Check> {
    let (_, files) = config.tls.as_ref()?;
    let mut check = Check::new("https", TroubleKind::Certificates);
    if let Err(e) = Tls::read(files.clone()) {
        check.find(
            e.to_string(),
            WHY,
            "give a certificate and its own key in PEM, which this service may read",
        );
        return Some(check);
    }
    if let Some(first) = files.chain().ok().and_then(|chain| chain.into_iter().next()) {
        look(&mut check, config, files, &first);
    }
    Some(check)
}

fn look(check: &mut Check, config: &Config, files: &TlsFiles, certificate: &CertificateDer<'_>) {
    let (file, now_s) = (files.cert.display(), epoch_s());
    if let Ok(parsed) = Certificate::from_der(certificate) {
        let validity = parsed.tbs_certificate().validity();
        let (begins_s, ends_s) = (
            validity.not_before.to_unix_duration().as_secs(),
            validity.not_after.to_unix_duration().as_secs(),
        );
        let left = ago(ends_s.saturating_sub(now_s));
        if now_s < begins_s {
            check.find(
                format!("{file}: is not valid yet"),
                WHY,
                "set the clock right, or take another certificate",
            );
        } else if now_s > ends_s {
            check.find(format!("{file}: has expired"), WHY, RENEW);
        } else if ends_s - now_s < SOON_S {
            check.find(format!("{file}: expires in {left}"), WHY, RENEW);
        } else {
            check.say(format!("{file} is valid for another {left}"));
        }
    }
    let url: Option<reqwest::Url> = own_url(config).parse().ok();
    let host =
        url.as_ref().and_then(reqwest::Url::host_str).unwrap_or_default().trim_matches(['[', ']']).to_owned();
    if let (Ok(parsed), Ok(name)) =
        (ParsedCertificate::try_from(certificate), ServerName::try_from(host.clone()))
        && verify_server_name(&parsed, &name).is_err()
    {
        check.say(format!("{file} is not for {host}: clients must use a name that it is for"));
    }
}
