//! Attacks on the wire against the real program: hostile heads and packets, and one address that takes all it can.
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RecordType},
};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};
use support::{
    mint::{Mint, Release},
    program::{Program, Serving},
    skip,
    upstream::Upstream,
    wait_for, wire,
};

const PATIENCE: Duration = Duration::from_secs(30);
/// Before any client that idles is cut off, and long enough for a loaded machine.
const AT_ONCE: Duration = Duration::from_secs(8);

/// A mirror of a small minted database that answers DNS as well.
struct Mirror {
    server: Serving,
    dns: SocketAddr,
    release: Release,
    _program: Program,
    _upstream: Upstream,
}

impl Mirror {
    fn start(lines: usize) -> Self {
        let mint = Mint::new(11);
        let release = mint.database_of("test", lines, 0).publish();
        let upstream = Upstream::start();
        upstream.release("test", &release);
        let program = Program::new(&upstream.url()).trusting(&mint.keys_toml());
        let program =
            program.set("dns-listen", "127.0.0.1:0").set("dns-zone", "clamav.net").set("access-log", "off");
        let server = program.serve();
        let dns = wait_for("the DNS address", || {
            server.stdout.find("answering DNS on udp+tcp ")?.rsplit(' ').next()?.parse().ok()
        });
        server.publishes(1);
        // Advertised over DNS only once the source has confirmed it.
        wait_for("the TXT record", || {
            (wire::get(server.address, "/dns.txt", "").status == 200).then_some(())
        });
        Self { server, dns, release, _program: program, _upstream: upstream }
    }

    /// The memory that the process holds, KiB.
    fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.server.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// The sum of the counters whose sample begins so.
    fn counted(&self, sample: &str) -> u64 {
        let text = self.server.get("/metrics").text();
        let lines = text.lines().filter(|line| line.starts_with(sample));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    fn still_serves(&self) {
        assert!(wire::get(self.server.address, "/test-1.cvd", "").body == self.release.cvd);
        let socket = self.resolver();
        socket.send(&query(1)).unwrap();
        assert_eq!(answered(&socket, 1), ResponseCode::NoError);
    }

    fn resolver(&self) -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect(self.dns).unwrap();
        socket
    }
}

/// A query that is answered.
fn query(id: u16) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii("test.cvd.clamav.net.").unwrap(), RecordType::TXT));
    message.set_edns(Edns::new());
    message.to_vec().unwrap()
}

/// Reads on to the answer with a TXT record to this query.
fn answered(socket: &UdpSocket, id: u16) -> ResponseCode {
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).expect("an answer");
        match Message::from_vec(&buffer[..length]) {
            Ok(answer) if answer.id == id && !answer.answers.is_empty() => return answer.response_code,
            _ => {}
        }
    }
}

/// Changes some bytes: flips, cuts, repeats and inserts what parsers trip over.
fn mutate(random: &mut StdRng, bytes: &mut Vec<u8>, spices: &[&[u8]]) {
    for _ in 0..random.random_range(1..4) {
        let at = random.random_range(0..=bytes.len());
        match random.random_range(0..5) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, random.random()),
            2 => {
                let spice = spices.choose(random).unwrap();
                bytes.splice(at..at, spice.iter().copied());
            }
            3 => {
                let tail = bytes[at..].to_vec();
                bytes.extend(tail);
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.random_range(0..8);
                }
            }
        }
    }
}

#[test]
fn twenty_thousand_malformed_heads_cost_nothing() {
    const HEADS: [&str; 4] = [
        "GET /test-1.cvd HTTP/1.1\r\nHost: m\r\nRange: bytes=0-511\r\nUser-Agent: ClamAV/1.4\r\n\r\n",
        "HEAD /test.cvd?version=1 HTTP/1.1\r\nHost: m\r\nIf-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n",
        "GET http://m/index.json HTTP/1.0\r\nIf-None-Match: \"x\"\r\nConnection: keep-alive\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: m\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    ];
    let long = [b'a'; 20_000];
    let spices: [&[u8]; 10] = [
        b"\0",
        b"\r\n",
        b"\n\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 18446744073709551616\r\n",
        b"Host: other\r\n",
        b"Range: bytes=0-1,9999999999999999999999-\r\n",
        b"\x16\x03\x01",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &long,
    ];
    let mirror = Mirror::start(100);
    let mut random = StdRng::seed_from_u64(20_000);
    let mut settled = 0;
    for round in 0..20_000 {
        let mut head = HEADS.choose(&mut random).unwrap().as_bytes().to_vec();
        mutate(&mut random, &mut head, &spices);
        let mut stream = TcpStream::connect(mirror.server.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // The server may hang up before it has all of it.
        let _ = stream.write_all(&head);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        if let Err(error) = stream.read_to_end(&mut answer) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{}", head.escape_ascii());
        }
        if let Some(status) = answer.get(9..12) {
            let status = std::str::from_utf8(status).unwrap();
            let fair = ["200", "206", "302", "304", "400", "404", "405", "412", "414", "416", "421", "431"];
            assert!(fair.contains(&status), "{status} to {}", head.escape_ascii());
        }
        if round == 2_000 {
            settled = mirror.resident_kib();
        }
    }
    let after = mirror.resident_kib();
    println!("KiB: {settled} after 2,000 heads, {after} after 20,000");
    assert!(after < settled + 4096, "{settled} {after}");
    assert!(mirror.counted("cvdmirror_http_malformed_heads_total") > 1000);
    mirror.still_serves();
}

#[test]
fn two_hundred_thousand_malformed_packets_cost_nothing() {
    const BATCH: u64 = 20;
    let pointers = b"\xc0\x0c".repeat(20);
    let spices: [&[u8]; 6] =
        [b"\xc0\x0c", b"\xff\xff\xff\xff", b"\x3f", b"\0\0\x29\xff\xff", &pointers, &[0; 300]];
    let mirror = Mirror::start(100);
    let socket = mirror.resolver();
    let mut random = StdRng::seed_from_u64(200_000);
    let mut settled = 0;
    for batch in 0..200_000 / BATCH {
        for _ in 0..BATCH {
            let mut packet = query(random.random());
            mutate(&mut random, &mut packet, &spices);
            packet.truncate(1232);
            socket.send(&packet).unwrap();
        }
        // No more than the sockets' buffers hold is on its way: each is read.
        let id = batch as u16;
        socket.send(&query(id)).unwrap();
        assert_eq!(answered(&socket, id), ResponseCode::NoError);
        if batch == 1_000 {
            settled = mirror.resident_kib();
        }
    }
    let after = mirror.resident_kib();
    println!("KiB: {settled} after 20,000 packets, {after} after 200,000");
    assert!(after < settled + 4096, "{settled} {after}");
    let seen =
        mirror.counted("cvdmirror_dns_responses_total") + mirror.counted("cvdmirror_dns_ignored_total");
    assert_eq!(seen, 200_000 + 200_000 / BATCH);
    let malformed = mirror.counted("cvdmirror_dns_responses_total{rcode=\"FORMERR\"}");
    assert!(malformed > 10_000, "{malformed}");
    mirror.still_serves();
}

/// Connects from an address of loopback, with a receive buffer of so many bytes.
fn connect_from(from: &str, to: SocketAddr, buffer: usize) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(buffer).unwrap();
    let from: SocketAddr = format!("{from}:0").parse().unwrap();
    socket.bind(&from.into()).unwrap();
    socket.connect(&to.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Whether this process, which holds the clients' ends, may have so many descriptors.
fn may_hold(descriptors: u64) -> bool {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    let enough = maximum.is_none_or(|maximum| maximum >= descriptors);
    if !enough {
        skip(&format!("no more than {maximum:?} descriptors may be open"));
    }
    enough
}

#[test]
fn eleven_hundred_slow_readers_of_one_address_lock_nobody_out() {
    if !may_hold(2_048) {
        return;
    }
    let mirror = Mirror::start(200_000);
    let address = mirror.server.address;
    let mut slow = Vec::new();
    for _ in 0..1_100 {
        let mut stream = connect_from("127.0.0.2", address, 4096);
        stream.write_all(b"GET /test-1.cvd HTTP/1.1\r\nHost: m\r\n\r\n").unwrap();
        slow.push(stream);
    }
    for target in ["/health", "/test-1.cvd"] {
        let began = Instant::now();
        let mut other = connect_from("127.0.0.3", address, 1 << 20);
        let request = format!("GET {target} HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n");
        other.write_all(request.as_bytes()).unwrap();
        let mut first = [0; 12];
        other.read_exact(&mut first).unwrap();
        assert!(began.elapsed() < AT_ONCE, "{target}: {:?}", began.elapsed());
        assert_eq!(&first, b"HTTP/1.1 200");
        let mut rest = first.to_vec();
        other.read_to_end(&mut rest).unwrap();
        assert!(target == "/health" || wire::reply(&rest).body == mirror.release.cvd);
    }
    println!("KiB with {} slow readers: {}", slow.len(), mirror.resident_kib());
    // One that was told to end is counted until it has.
    wait_for("no more connections than may be", || {
        (mirror.counted("cvdmirror_http_connections_open") <= 1024).then_some(())
    });
    assert!(mirror.counted("cvdmirror_http_connections_full_total") > 0);
}

#[test]
fn three_hundred_idle_dns_connections_of_one_address_lock_nobody_out() {
    let mirror = Mirror::start(100);
    let idle: Vec<TcpStream> = (0..300).map(|_| connect_from("127.0.0.2", mirror.dns, 4096)).collect();
    let began = Instant::now();
    let mut other = connect_from("127.0.0.3", mirror.dns, 4096);
    let query = query(7);
    other.write_all(&[&(query.len() as u16).to_be_bytes()[..], &query].concat()).unwrap();
    let mut head = [0; 4];
    other.read_exact(&mut head).unwrap();
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    assert_eq!(head[2..], [0, 7]);
    assert!(mirror.counted("cvdmirror_dns_connections_open") <= 64);
    drop(idle);
}
