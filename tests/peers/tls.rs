//! https on the second listener, with the real freshclam and curl.
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};
use support::{
    clients::Freshclam,
    peer, process,
    program::{Program, Serving},
    talos,
    upstream::Upstream,
    wait_for,
};

/// An authority and what it issued.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        // Otherwise the name is the one of all that it issues.
        params.distinguished_name.push(rcgen::DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Writes its certificate.
    fn write(&self, path: &Path) {
        fs::write(path, self.0.pem()).unwrap();
    }

    /// Issues a certificate for a name: the files of the certificate and its key.
    fn issue(&self, name: &str, dir: &Path) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let (cert_file, key_file) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
        fs::write(&cert_file, certificate.pem()).unwrap();
        fs::write(&key_file, key.serialize_pem()).unwrap();
        (cert_file, key_file)
    }
}

/// A mirror that speaks https as `localhost`, and for whom its clients' authority is the same.
struct Site {
    _upstream: Upstream,
    program: Program,
    server: Serving,
    authority: Authority,
    address: SocketAddr,
    url: String,
}

impl Site {
    fn start(demands_clients: bool) -> Self {
        let (upstream, authority) = (Upstream::talos(3), Authority::new());
        let program = Program::new(&upstream.url());
        let dir = program.dir.path().to_owned();
        let (cert, key) = authority.issue("localhost", &dir);
        let ca = dir.join("ca.pem");
        authority.write(&ca);
        let program = program
            .set("tls-cert", cert.to_str().unwrap())
            .set("tls-key", key.to_str().unwrap())
            .set("tls-listen", "127.0.0.1:0")
            .set("tls-client-ca", if demands_clients { ca.to_str().unwrap() } else { "" });
        let server = program.serve();
        server.publishes(3);
        let line = wait_for("the address of https", || server.stdout.find("listening on https://"));
        let address: SocketAddr = line.rsplit('/').next().unwrap().parse().unwrap();
        let url = format!("https://localhost:{}", address.port());
        Self { _upstream: upstream, program, server, authority, address, url }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.program.dir.path().join(name)
    }

    /// Fetches with curl, which trusts the authority.
    fn curl(&self, more: &[&str]) -> std::process::Output {
        let mut command = Command::new("curl");
        command.args(["-sS", "-f", "--cacert"]).arg(self.file("ca.pem"));
        command.args(more).arg(format!("{}/test-3.cvd", self.url));
        process::run_bytes(&mut command)
    }

    /// The certificate that is shown now, as curl sees its serial number.
    fn shown(&self) -> String {
        let mut command = Command::new("curl");
        command.args(["-sS", "-o", "/dev/null", "-w", "%{certs}", "--cacert"]).arg(self.file("ca.pem"));
        let output = process::run_bytes(command.arg(format!("{}/livez", self.url)));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().find(|line| line.starts_with("Serial")).unwrap_or_default().to_owned()
    }
}

#[test]
fn freshclam_updates_over_https() {
    let site = Site::start(false);
    let Some(mut client) = Freshclam::of(&site.url) else { return };
    client.variables.push(("CURL_CA_BUNDLE", site.file("ca.pem")));
    client.update(&["--no-dns"]).exits(0).says(["test.cvd updated (version: 3,"]);
    assert_eq!(client.version(), Some(3));
    client.variables.clear();
    assert_ne!(client.update(&["--no-dns"]).code, Some(0), "an authority that it does not know");
}

#[test]
fn a_client_certificate_is_demanded_where_that_is_set() {
    let site = Site::start(true);
    if peer("curl").is_none() {
        return;
    }
    let (cert, key) = site.authority.issue("client", site.program.dir.path());
    let (cert, key) = (cert.to_str().unwrap(), key.to_str().unwrap());
    let got = site.curl(&["--cert", cert, "--key", key]);
    assert!(got.stdout == talos("test-3.cvd"), "{}", String::from_utf8_lossy(&got.stderr));
    assert!(!site.curl(&[]).status.success(), "no certificate");
    // One of an authority that the mirror does not know.
    let (other, other_key) = Authority::new().issue("other", site.program.dir.path());
    let wrong = ["--cert", other.to_str().unwrap(), "--key", other_key.to_str().unwrap()];
    assert!(!site.curl(&wrong).status.success(), "another authority's");
    let Some(mut client) = Freshclam::of(&site.url) else { return };
    client.variables = vec![
        ("CURL_CA_BUNDLE", site.file("ca.pem")),
        ("FRESHCLAM_CLIENT_CERT", cert.into()),
        ("FRESHCLAM_CLIENT_KEY", key.into()),
    ];
    client.update(&["--no-dns"]).exits(0).says(["test.cvd updated (version: 3,"]);
}

#[test]
fn a_certificate_is_read_again_and_one_that_is_broken_leaves_the_old_in_force() {
    let site = Site::start(false);
    if peer("curl").is_none() {
        return;
    }
    let first = site.shown();
    assert!(!first.is_empty());
    // Nobody tells it.
    site.authority.issue("localhost", site.program.dir.path());
    site.server.says("the TLS certificate is read anew");
    let second = site.shown();
    assert_ne!(first, second);
    // The key of another certificate, then no certificate at all.
    let (_, other_key) = site.authority.issue("other", site.program.dir.path());
    fs::copy(other_key, site.file("localhost.key")).unwrap();
    site.server.hang_up();
    site.server.says("tls_cert, tls_key: ");
    assert_eq!(site.shown(), second);
    fs::write(site.file("localhost.crt"), "broken").unwrap();
    site.server.hang_up();
    site.server.says("localhost.crt: ");
    assert_eq!(site.shown(), second);
    // A start with them is refused.
    let refused = site.program.run(&["doctor"]);
    assert!(refused.to_string().contains("localhost.crt"), "{refused}");
}

#[test]
fn the_doctor_says_how_long_a_certificate_is_valid_and_whom_it_is_for() {
    let upstream = Upstream::talos(3);
    let program = Program::new(&upstream.url());
    let (key, cert_file, key_file) =
        (KeyPair::generate().unwrap(), program.dir.path().join("a.crt"), program.dir.path().join("a.key"));
    fs::write(&key_file, key.serialize_pem()).unwrap();
    let program =
        program.set("tls-cert", cert_file.to_str().unwrap()).set("tls-key", key_file.to_str().unwrap());
    let day = |days: u64| SystemTime::now() + Duration::from_secs(days * 86_400 + 3600);
    let since = SystemTime::now() - Duration::from_secs(86_400);
    for (begins, ends, is_found, said) in [
        (since, since, true, "a.crt: has expired"),
        (day(1), day(90), true, "a.crt: is not valid yet"),
        (since, day(13), true, "a.crt: expires in 13 days"),
        (since, day(14), false, "a.crt is valid for another 14 days"),
    ] {
        let mut params = CertificateParams::new(vec!["elsewhere.example".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (begins.into(), ends.into());
        fs::write(&cert_file, params.self_signed(&key).unwrap().pem()).unwrap();
        let ran = program.run(&["doctor"]);
        let words = process::joined(&ran.stdout);
        assert!(words.contains(said) && words.contains("a.crt is not for"), "{said}: {ran}");
        let renew = "renew the certificate";
        assert_eq!(words.contains(renew), is_found && !said.contains("not valid yet"), "{ran}");
    }
    // Half a pair is an error of the settings.
    program.set("tls-key", "").run(&["config", "check"]).exits(2).says(["tls_key"]);
}

#[test]
fn what_is_no_handshake_gets_nothing_and_harms_nobody() {
    let site = Site::start(false);
    let mut plain = TcpStream::connect(site.address).unwrap();
    plain.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    plain.write_all(b"GET /test-3.cvd HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut said = Vec::new();
    let _ = plain.read_to_end(&mut said);
    assert!(!String::from_utf8_lossy(&said).contains("HTTP/1.1 200"));
    // Half a handshake ends when the time for a head does.
    let mut half = TcpStream::connect(site.address).unwrap();
    half.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    half.write_all(&[22, 3, 1, 2, 0, 1]).unwrap();
    assert!(matches!(half.read(&mut [0; 16]), Ok(0) | Err(_)));
    let metrics = site.server.get("/metrics").text();
    assert!(metrics.contains("cvdmirror_http_timeouts_total{kind=\"head\"} 1"), "{metrics}");
    assert!(metrics.contains("cvdmirror_http_malformed_heads_total 1"), "{metrics}");
}
