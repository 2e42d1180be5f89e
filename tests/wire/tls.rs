//! Who takes too long over TLS: a handshake that has no end, and an answer that is not read.
use cvdmirror::http::{Limits, Tls, TlsFiles};
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName},
};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use support::http_fixture::{Server, fill, noise};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, interval, sleep, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

const GET: &[u8] = b"GET /test-5.cvd HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n";
/// Longer than any loaded machine takes.
const LONG: Duration = Duration::from_secs(120);

/// A server of one large file, and what a client needs to believe that it is `localhost`.
struct Site {
    server: Server,
    address: SocketAddr,
    whole: Vec<u8>,
    client: Arc<ClientConfig>,
}

impl Site {
    async fn start(limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let whole = noise(6 << 20, 5);
        fill(dir.path(), &[("test-5.cvd", whole.clone())]);
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        let files = [("cert.pem", cert.pem()), ("key.pem", key.serialize_pem())];
        let [cert_file, key_file] = files.map(|(name, text)| {
            std::fs::write(dir.path().join(name), text).unwrap();
            dir.path().join(name)
        });
        let tls = Tls::read(TlsFiles { cert: cert_file, key: key_file, client_ca: None }).unwrap();
        let (server, address) = Server::tls(dir, limits, tls).await;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(cert.der().to_vec())).unwrap();
        let client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let client = client.with_safe_default_protocol_versions().unwrap();
        let client = Arc::new(client.with_root_certificates(roots).with_no_client_auth());
        Self { server, address, whole, client }
    }

    async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn connect(&self) -> TlsStream<TcpStream> {
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(self.client.clone()).connect(name, self.tcp().await).await.unwrap()
    }

    /// What a client says first.
    fn hello(&self) -> Vec<u8> {
        let name = ServerName::try_from("localhost").unwrap();
        let mut bytes = Vec::new();
        ClientConnection::new(self.client.clone(), name).unwrap().write_tls(&mut bytes).unwrap();
        bytes
    }

    /// Waits until so many connections were cut for this.
    async fn has_cut(&self, kind: &str, count: u64) {
        let sample = format!("cvdmirror_http_timeouts_total{{kind=\"{kind}\"}}");
        let deadline = Instant::now() + LONG;
        while self.server.metric(&sample).await != count {
            assert!(Instant::now() < deadline, "{sample} is not {count}");
            sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn a_client_that_stops_reading_is_cut_and_one_that_is_slow_is_not() {
    let limits = Limits { stall_window: Duration::from_millis(500), ..Limits::default() };
    let site = Site::start(limits).await;
    let mut stalled = site.connect().await;
    stalled.write_all(GET).await.unwrap();
    stalled.read_exact(&mut [0; 1000]).await.unwrap();

    let mut slow = site.connect().await;
    slow.write_all(GET).await.unwrap();
    let (mut got, mut some) = (Vec::new(), vec![0; 20_000]);
    let mut pace = interval(Duration::from_millis(5));
    while let Ok(n @ 1..) = slow.read(&mut some).await {
        got.extend_from_slice(&some[..n]);
        pace.tick().await;
    }
    assert!(got.ends_with(&site.whole), "{} bytes", got.len());

    site.has_cut("slow", 1).await;
    // What the kernel had taken already is all that comes.
    let mut rest = Vec::new();
    timeout(LONG, stalled.read_to_end(&mut rest)).await.unwrap().unwrap_err();
    assert!(rest.len() < site.whole.len(), "{}", rest.len());
}

#[tokio::test]
async fn a_handshake_that_has_no_end_is_ended() {
    let limits = Limits { head_timeout: Duration::from_millis(500), ..Limits::default() };
    let site = Site::start(limits).await;
    let hello = site.hello();
    let silent = site.tcp().await;
    // Byte after byte, and never the last.
    let mut dripping = site.tcp().await;
    let drip = async {
        for byte in hello[..hello.len() - 1].iter().cycle() {
            if dripping.write_all(&[*byte]).await.is_err() {
                break;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, drip).await.expect("it is cut while it still speaks");
    // It greets, and does not go on.
    let mut greeting = site.tcp().await;
    greeting.write_all(&hello).await.unwrap();
    for mut client in [silent, greeting] {
        timeout(LONG, client.read_to_end(&mut Vec::new())).await.unwrap().unwrap();
    }
    site.has_cut("head", 3).await;
    // The time for a head begins anew with the connection, and others are served meanwhile.
    let mut client = site.connect().await;
    client.write_all(GET).await.unwrap();
    let mut got = Vec::new();
    client.read_to_end(&mut got).await.unwrap();
    assert!(got.ends_with(&site.whole));
}
