//! Stock clients with the mirror as their HTTP proxy.
use std::{
    process::{Command, Stdio},
    thread,
};
use support::{
    clients::Freshclam,
    mint::{Mint, Release},
    peer,
    peers::Peers,
    process,
    program::{Program, Serving},
    upstream::Upstream,
    wait_for, wire,
};

/// A mirror that is a proxy for the hosts of Talos' network.
fn proxy(upstream: &Upstream, version: u64) -> (Program, Serving) {
    let program = Program::new(&upstream.url()).set("proxy", "true");
    program.sync().exits(0);
    let server = program.serve();
    server.publishes(version);
    (program, server)
}

/// A freshclam that reaches everything through `server`; `lines` say whom it asks.
fn behind(server: &Serving, lines: &str) -> Option<Freshclam> {
    let (host, port) = (server.address.ip(), server.address.port());
    Freshclam::with(&format!("HTTPProxyServer {host}\nHTTPProxyPort {port}\n{lines}\n"))
}

const MIRROR: &str = "DatabaseMirror http://database.clamav.net\nDNSDatabaseInfo no";

/// The same for a minted database, since Talos' own ends at 5; at 3, with the versions to 6 that are to come.
struct Minted {
    upstream: Upstream,
    program: Program,
    server: Serving,
    peers: Peers,
    later: Vec<Release>,
}

impl Minted {
    fn start() -> Option<Self> {
        let (upstream, mint, peers) = (Upstream::start(), Mint::new(6), Peers::with_mint_keys()?);
        let mut database = mint.database("test");
        (1..=3).for_each(|_| upstream.release("test", &database.publish()));
        let later = (4..=6).map(|_| database.publish()).collect();
        let program = Program::new(&upstream.url()).set("proxy", "true").trusting(&mint.keys_toml());
        program.sync().exits(0);
        let server = program.serve();
        server.publishes(3);
        Some(Self { upstream, program, server, peers, later })
    }

    fn behind(&self, lines: &str) -> Option<Freshclam> {
        Some(behind(&self.server, lines)?.following("test", &self.peers))
    }

    fn moves_to_6(&self) {
        self.later.iter().for_each(|release| self.upstream.release("test", release));
        self.program.sync().exits(0).says(["3 -> 6 published"]);
    }
}

#[test]
fn freshclam_installs_and_moves_on_by_cdiffs_through_its_tunnels() {
    let Some(site) = Minted::start() else { return };
    let Some(client) = site.behind(MIRROR) else { return };
    client.update(&["--no-dns"]).exits(0).says(["test.cvd updated (version: 3,"]);
    site.moves_to_6();
    client.update(&["--no-dns"]).exits(0).says(["test.cld updated (version: 6,"]);
    assert_eq!(client.version(), Some(6));
    let requests = site.server.requests();
    for file in ["/test-4.cdiff", "/test-5.cdiff", "/test-6.cdiff"] {
        assert!(requests.contains(&(file.into(), 200)), "{requests:?}");
    }
    // The tunnel ends here: nobody else was asked.
    assert!(requests.contains(&("database.clamav.net:80".into(), 200)), "{requests:?}");
}

#[test]
fn a_private_mirror_is_asked_through_the_proxy() {
    let Some(site) = Minted::start() else { return };
    // freshclam takes no host of clamav.net as a private mirror.
    let lines = format!("PrivateMirror {}", site.upstream.url());
    let Some(client) = site.behind(&lines) else { return };
    client.update(&[]).exits(0).says(["test.cvd updated (version: 3,"]);
    site.moves_to_6();
    client.update(&[]).exits(0).says(["test.cvd updated (version: 6,"]);
    client.update(&[]).exits(0).says(["up-to-date"]);
    assert!(!site.upstream.targets().contains(&"/test.cld".into()), "the tunnel ends here");
}

#[test]
fn https_to_the_upstream_is_refused_and_no_client_takes_it_as_a_ban() {
    let upstream = Upstream::talos(3);
    let (_program, server) = proxy(&upstream, 3);
    let lines = "DatabaseMirror https://database.clamav.net\nDNSDatabaseInfo no";
    let Some(client) = behind(&server, lines) else { return };
    let ran = client.update(&["--no-dns"]);
    assert_eq!(client.version(), None, "{ran}");
    assert!(!ran.to_string().contains("cool-down") && !ran.to_string().contains("blocked"), "{ran}");
    assert!(server.requests().contains(&("database.clamav.net:443".into(), 502)));
}

#[test]
fn curl_speaks_to_the_proxy_in_both_ways() {
    let Some(curl) = peer("curl") else { return };
    let upstream = Upstream::talos(3);
    let (_program, server) = proxy(&upstream, 3);
    let fetch = |more: &[&str], url: &str| {
        let mut command = Command::new(&curl);
        command.args(["-sS", "-f", "-L", "-o", "-", "-x", &server.url()]).args(more).arg(url);
        process::run_bytes(&mut command)
    };
    for more in [&[][..], &["--proxytunnel"]] {
        let got = fetch(more, "http://database.clamav.net/test.cvd");
        assert!(got.status.success(), "{}", String::from_utf8_lossy(&got.stderr));
        assert_eq!(got.stdout, support::talos("test-3.cvd"));
        assert!(!fetch(more, "http://example.org/test.cvd").status.success());
        // The name of this host, which is not the upstream's.
        assert_eq!(fetch(more, &server.url().replace("127.0.0.1", "127.0.0.2")).stdout, b"");
    }
}

/// `CVDMIRROR_PROXY_CLIENTS` says how many; the project's own runs have 50.
fn how_many() -> usize {
    std::env::var("CVDMIRROR_PROXY_CLIENTS").map_or(8, |count| count.parse().unwrap())
}

/// Lets all clients go from nothing to 3, and to 5. Returns how often the upstream was asked for each of the two CDIFFs.
fn all_follow(clients: &[Freshclam], upstream: &Upstream, moved: impl Fn()) -> [usize; 2] {
    let mut asked = Vec::new();
    for (version, kind) in [(3, "cvd"), (5, "cld")] {
        upstream.move_to(version);
        moved();
        thread::scope(|scope| {
            for client in clients {
                scope.spawn(|| {
                    let said = format!("test.{kind} updated (version: {version},");
                    client.update(&["--no-dns"]).exits(0).says([said.as_str()]);
                });
            }
        });
        assert!(clients.iter().all(|client| client.version() == Some(version)));
        asked.extend(upstream.targets());
    }
    ["/test-4.cdiff", "/test-5.cdiff"].map(|file| asked.iter().filter(|target| *target == file).count())
}

#[test]
fn many_stock_clients_take_a_new_version_and_the_upstream_sees_each_file_once() {
    let upstream = Upstream::talos(3);
    let (program, server) = proxy(&upstream, 3);
    let clients = (0..how_many()).map(|_| behind(&server, MIRROR)).collect::<Option<Vec<_>>>();
    let Some(clients) = clients else { return };
    let asked = all_follow(&clients, &upstream, || {
        program.sync().exits(0);
    });
    assert_eq!(asked, [1, 1]);
}

/// What a proxy that does not look into tunnels can do for them: nothing.
#[test]
fn behind_squid_each_client_asks_the_upstream_itself() {
    let Some(squid) = peer("squid") else { return };
    let upstream = Upstream::talos(3);
    let dir = tempfile::tempdir().unwrap();
    // As root it becomes another user, who must get at its directory.
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let (config, log) = (dir.path().join("squid.conf"), dir.path().join("access.log"));
    // Between this and squid's bind another process could take it: then the test fails and says so.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let lines = format!(
        "http_port 127.0.0.1:{port}\nhttp_access allow all\nrefresh_pattern . 525600 100% 525600\ncache_mem 64 MB\n\
         access_log stdio:{log}\ncache_log {at}/cache.log\ncache_store_log none\npid_filename none\n\
         visible_hostname squid.lan\ncoredump_dir {at}\nnetdb_filename none\npinger_enable off\n\
         shutdown_lifetime 0 seconds\ndns_nameservers 127.0.0.1\n",
        at = dir.path().display(),
        log = log.display(),
    );
    std::fs::write(&config, lines).unwrap();
    let mut command = Command::new(squid);
    command.arg("-N").arg("-f").arg(&config).stdin(Stdio::null()).stdout(Stdio::null());
    let mut squid = command.spawn().unwrap();
    wait_for("squid", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    let lines = format!(
        "HTTPProxyServer 127.0.0.1\nHTTPProxyPort {port}\nDatabaseMirror {}\nDNSDatabaseInfo no\n",
        upstream.url()
    );
    let clients = (0..how_many()).map(|_| Freshclam::with(&lines)).collect::<Option<Vec<_>>>();
    let asked = clients.as_deref().map(|clients| all_follow(clients, &upstream, || {}));
    squid.kill().unwrap();
    squid.wait().unwrap();
    let Some(asked) = asked else { return };
    assert_eq!(asked, [how_many(); 2]);
    let log = std::fs::read_to_string(&log).unwrap();
    // All that it saw are tunnels; the rest is the look whether it had started.
    let mut requests = log.lines().filter(|line| line.contains(" TCP_"));
    assert!(requests.all(|line| line.contains(" TCP_TUNNEL/200 ")), "{log}");
}

/// Opens a tunnel, sends `inside` in the same breath, and returns everything that comes.
fn through(server: &Serving, authority: &str, fields: &str, inside: &str) -> String {
    let head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{fields}\r\n");
    String::from_utf8_lossy(&wire::pour(
        server.address,
        [head.as_bytes(), inside.as_bytes()].concat().as_slice(),
    ))
    .into_owned()
}

#[test]
fn a_tunnel_is_no_way_to_anything_else() {
    let upstream = Upstream::talos(3);
    let (_program, server) = proxy(&upstream, 3);
    let here = "database.clamav.net:80";
    let alive = "GET /livez HTTP/1.1\r\nHost: x\r\nUser-Agent: harness\r\n\r\n";
    let statuses = |said: &str| -> Vec<String> {
        let lines = said.split("HTTP/1.1 ").skip(1);
        lines.map(|line| line[..3].to_owned()).collect()
    };
    // What follows the head at once belongs into the tunnel, whose end is this server.
    let said = through(&server, here, "", &alive.repeat(2));
    assert_eq!(statuses(&said), ["200", "200", "200"], "{said}");
    assert!(
        !said.split("\r\n\r\n").next().unwrap().to_ascii_lowercase().contains("content-length"),
        "{said}"
    );
    let port = server.address.port();
    for other in [
        "example.org:80".into(),
        "database.clamav.net:22".into(),
        "[::1]:80".into(),
        format!("[::1]:{port}"),
        format!("127.0.0.1:{port}"),
        format!("localhost:{port}"),
        "database.clamav.net.:80".into(),
        "ada@database.clamav.net:80".into(),
    ] {
        // Once, and nothing of what follows is taken for a request.
        let said = through(&server, &other, "", alive);
        assert!(matches!(&statuses(&said)[..], [one] if one == "502" || one == "400"), "{other}: {said}");
    }
    for (fields, status) in [
        ("Content-Length: 5\r\n", "400"),
        ("Transfer-Encoding: chunked\r\n", "400"),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "400"),
        ("Host: other\r\n", "400"),
    ] {
        let said = through(&server, here, fields, alive);
        assert_eq!(statuses(&said), [status], "{fields}: {said}");
    }
    for (inside, status) in [
        (format!("CONNECT {here} HTTP/1.1\r\nHost: {here}\r\n\r\n{alive}"), "400"),
        (
            format!("GET http://example.org/livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n{alive}"),
            "421",
        ),
        (
            format!(
                "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n{alive}"
            ),
            "405",
        ),
        (format!("GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\n{alive}"), "200"),
        (format!("GET /livez HTTP/1.1\r\nHost: x\r\nHost: y\r\nConnection: close\r\n\r\n{alive}"), "400"),
    ] {
        let said = through(&server, here, "", &inside);
        assert_eq!(statuses(&said), ["200", status], "{inside}: {said}");
    }
    // It goes on serving, and asked nobody.
    assert_eq!(server.get("/livez").status, 200);
    assert_eq!(server.get("http://example.org/livez").status, 421);
    assert_eq!(server.get("http://database.clamav.net/livez").status, 200);
}

#[test]
fn https_is_passed_on_unseen_where_that_is_set_and_only_to_the_upstream() {
    let (upstream, far) = (Upstream::talos(3), Upstream::start());
    far.file("far", b"the far end".to_vec());
    let address = far.url().replace("http://", "");
    // Bytes, whatever they are: what stands at the port of an https upstream here is a plain server.
    let program = Program::new(&upstream.url())
        .set("upstream", &format!("https://{address}"))
        .set("proxy", "true")
        .set("proxy-tunnel", "true");
    let server = program.serve();
    server.publishes(3);
    let request = format!("GET /far HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let said = through(&server, &address, "", &request);
    assert!(said.starts_with("HTTP/1.1 200 OK\r\n") && said.ends_with("the far end"), "{said}");
    let elsewhere = format!("localhost:{}", far.port);
    assert!(through(&server, &elsewhere, "", &request).starts_with("HTTP/1.1 502"));
}
