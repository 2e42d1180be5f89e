//! The DNS contract, asked over UDP and TCP: TXT from the published snapshot, everything else refused.
use arc_swap::ArcSwap;
use cvdmirror::{
    dns::{Metrics, Responder, Sockets, TcpLimits, serve},
    mirror::{Published, Snapshot, Standing},
};
use cvdmirror_store::Store;
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType, rdata::TXT},
};
use proptest::prelude::*;
use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::oneshot,
    time::timeout,
};

const ZONE: &str = "clamav.net";
const CONFIRMED_AT_S: u64 = 1_781_708_400;
/// Longer than anything here takes, so that a test that would hang fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// Publishes versions without files: the responder reads no more of a snapshot.
fn snapshot(versions: &[(&str, u32)], confirmed_at_s: Option<u64>) -> Snapshot {
    let dir = tempfile::tempdir().unwrap();
    let (store, tmp) = (dir.path().join("store"), dir.path().join("tmp"));
    std::fs::create_dir_all(&store).unwrap();
    std::fs::create_dir_all(&tmp).unwrap();
    let (store, _) = Store::assemble(&store, &tmp, Vec::new()).unwrap();
    let published = |version: &u32| Published {
        version: *version,
        cvd: *version,
        chain: None,
        stime_s: 784_111_777,
        signatures: 3,
        functionality_level: 90,
        confirmed_at_s,
    };
    let databases = versions.iter().map(|(db, version)| (db.parse().unwrap(), published(version))).collect();
    Snapshot { files: Default::default(), databases, confirmed_at_s, view: store.view() }
}

fn standing(snapshot: Snapshot) -> Standing {
    Standing::new(Arc::new(snapshot), Default::default(), 0)
}

struct Server {
    address: SocketAddr,
    published: Arc<ArcSwap<Standing>>,
    metrics: Arc<Metrics>,
    /// Stops it when dropped.
    _stop: oneshot::Sender<()>,
}

impl Server {
    async fn start(snapshot: Snapshot) -> Self {
        Self::with(snapshot, ZONE, TcpLimits::default()).await
    }
    async fn with(snapshot: Snapshot, zone: &str, limits: TcpLimits) -> Self {
        let published = Arc::new(ArcSwap::from_pointee(standing(snapshot)));
        let metrics = Arc::new(Metrics::default());
        let responder = Responder::new(zone, published.clone(), metrics.clone()).unwrap();
        let sockets = Sockets::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = sockets.address();
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(serve(sockets, responder, metrics.clone(), limits, async {
            let _ = stopped.await;
        }));
        Self { address, published, metrics, _stop: stop }
    }
    async fn udp(&self) -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(self.address).await.unwrap();
        socket
    }
    async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
    /// Asks over UDP and over TCP; the two must say the same.
    async fn ask(&self, query: &Message) -> Message {
        let bytes = query.to_vec().unwrap();
        let socket = self.udp().await;
        socket.send(&bytes).await.unwrap();
        let over_udp = receive(&socket).await;
        let mut stream = self.tcp().await;
        stream.write_all(&framed(&bytes)).await.unwrap();
        assert_eq!(read_framed(&mut stream).await.unwrap(), over_udp);
        let answer = Message::from_vec(&over_udp).unwrap();
        assert_eq!((answer.id, answer.message_type), (query.id, MessageType::Response));
        assert!(!answer.truncation && !answer.recursion_available);
        answer
    }
    /// The text of the one TXT record that a name has.
    async fn text(&self, name: &str) -> String {
        text(&self.ask(&question(name, RecordType::TXT)).await)
    }
    async fn code(&self, query: &Message) -> ResponseCode {
        let answer = self.ask(query).await;
        assert!(answer.answers.is_empty() && !answer.authoritative, "{answer}");
        answer.response_code
    }
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn text(answer: &Message) -> String {
    assert_eq!(answer.response_code, ResponseCode::NoError, "{answer}");
    assert!(answer.authoritative, "{answer}");
    let [record] = answer.answers.as_slice() else { panic!("{answer}") };
    assert!(record.ttl > 0 && record.ttl <= 300, "{answer}");
    let RData::TXT(txt) = &record.data else { panic!("{answer}") };
    // freshclam reads the first string alone.
    let [text] = txt.txt_data.as_ref() else { panic!("{answer}") };
    String::from_utf8(text.to_vec()).unwrap()
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&u16::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
}

async fn read_framed(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let read = async {
        let mut message = vec![0; stream.read_u16().await.ok()?.into()];
        stream.read_exact(&mut message).await.ok()?;
        Some(message)
    };
    timeout(PATIENCE, read).await.expect("no answer over TCP")
}

async fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65_535];
    let length = timeout(PATIENCE, socket.recv(&mut buffer)).await.expect("no answer over UDP").unwrap();
    buffer.truncate(length);
    buffer
}

/// Whether the server ends a connection without another byte.
async fn ends(stream: &mut TcpStream) -> bool {
    timeout(PATIENCE, stream.read_u8()).await.expect("the connection stays open").is_err()
}

#[tokio::test]
async fn every_published_database_is_answered_from_one_snapshot() {
    let versions = [("main", 63), ("daily", 28_034), ("bytecode", 339), ("test", 5)];
    let server = Server::start(snapshot(&versions, Some(CONFIRMED_AT_S))).await;
    assert_eq!(server.text("current.cvd.clamav.net.").await, "0.0.0:63:28034:1781708400:0:90:0:339");
    assert_eq!(server.text("test.cvd.clamav.net.").await, "5:1781708400");
    assert_eq!(server.text("daily.cvd.clamav.net.").await, "28034:1781708400");

    // What is published next is said at once, with its own time: never the time of the question.
    let next = snapshot(&[("daily", 28_035), ("test", 6)], Some(CONFIRMED_AT_S + 60));
    server.published.store(Arc::new(standing(next)));
    assert_eq!(server.text("current.cvd.clamav.net.").await, "0.0.0:0:28035:1781708460:0:90:0:0");
    assert_eq!(server.text("test.cvd.clamav.net.").await, "6:1781708460");
    let gone = question("main.cvd.clamav.net.", RecordType::TXT);
    assert_eq!(server.code(&gone).await, ResponseCode::Refused);
}

#[tokio::test]
async fn nothing_is_said_before_the_source_confirmed_anything() {
    let server = Server::start(snapshot(&[("daily", 7), ("test", 5)], None)).await;
    for name in ["current.cvd.clamav.net.", "test.cvd.clamav.net.", "daily.cvd.clamav.net."] {
        assert_eq!(server.code(&question(name, RecordType::TXT)).await, ResponseCode::Refused, "{name}");
    }
}

#[tokio::test]
async fn names_are_compared_without_case_and_answered_as_asked() {
    let server = Server::start(snapshot(&[("daily", 7), ("test", 5)], Some(CONFIRMED_AT_S))).await;
    for name in ["CuRrEnT.cVd.ClAmAv.NeT.", "TEST.CVD.CLAMAV.NET."] {
        let answer = server.ask(&question(name, RecordType::TXT)).await;
        text(&answer);
        // A resolver that varies the case drops an answer that does not repeat it.
        assert_eq!(answer.queries[0].name().to_ascii(), name);
        assert_eq!(answer.answers[0].name.to_ascii(), name);
    }
    // A zone is read as it is written, dot or no dot at its end.
    for zone in ["Mirror.LAN.", "mirror.lan"] {
        let server =
            Server::with(snapshot(&[("test", 5)], Some(CONFIRMED_AT_S)), zone, TcpLimits::default()).await;
        assert_eq!(server.text("test.cvd.mirror.lan.").await, "5:1781708400", "{zone}");
    }
}

#[tokio::test]
async fn everything_else_is_refused() {
    let server = Server::start(snapshot(&[("daily", 7), ("test", 5)], Some(CONFIRMED_AT_S))).await;
    for kind in [
        RecordType::A,
        RecordType::AAAA,
        RecordType::ANY,
        RecordType::NS,
        RecordType::SOA,
        RecordType::AXFR,
        RecordType::Unknown(65_280),
    ] {
        let query = question("current.cvd.clamav.net.", kind);
        assert_eq!(server.code(&query).await, ResponseCode::Refused, "{kind}");
    }
    for name in [
        ".",
        "net.",
        "clamav.net.",
        "cvd.clamav.net.",
        "main.cvd.clamav.net.",
        "absent.cvd.clamav.net.",
        "x.current.cvd.clamav.net.",
        "current.x.cvd.clamav.net.",
        "test.test.cvd.clamav.net.",
        "x.test.cvd.clamav.net.",
        "test.cvd.clamav.net.evil.",
        "test.cvd.clamav.org.",
        "current.clamav.net.",
        "xcurrent.cvd.clamav.net.",
        "database.clamav.net.",
        "*.cvd.clamav.net.",
    ] {
        let query = question(name, RecordType::TXT);
        assert_eq!(server.code(&query).await, ResponseCode::Refused, "{name}");
    }
    let mut chaos = question("current.cvd.clamav.net.", RecordType::TXT);
    chaos.queries[0].query_class = DNSClass::CH;
    assert_eq!(server.code(&chaos).await, ResponseCode::Refused);
    for operation in [OpCode::Update, OpCode::Notify, OpCode::Status] {
        let mut query = question("current.cvd.clamav.net.", RecordType::TXT);
        query.metadata.op_code = operation;
        assert_eq!(server.code(&query).await, ResponseCode::Refused, "{operation:?}");
    }
    assert_eq!(server.metrics.answered.load(Relaxed), 0);
    assert_eq!(server.metrics.malformed.load(Relaxed), 0);
}

#[tokio::test]
async fn a_query_that_is_none_is_malformed() {
    let server = Server::start(snapshot(&[("test", 5)], Some(CONFIRMED_AT_S))).await;
    let good = question("test.cvd.clamav.net.", RecordType::TXT);
    let record = || {
        let name = Name::from_ascii("test.cvd.clamav.net.").unwrap();
        Record::from_rdata(name, 1, RData::TXT(TXT::new(vec!["5:1".into()])))
    };
    let mut bad = vec![Message::new(7, MessageType::Query, OpCode::Query)];
    let mut two = good.clone();
    two.add_query(good.queries[0].clone());
    bad.push(two);
    let mut answered = good.clone();
    answered.add_answer(record());
    bad.push(answered);
    let mut crowded = good.clone();
    crowded.add_additionals((0..5).map(|_| record()));
    bad.push(crowded);
    for query in bad {
        let answer = server.ask(&query).await;
        assert_eq!(answer.response_code, ResponseCode::FormErr, "{query}");
        assert!(answer.queries.is_empty() && answer.answers.is_empty());
    }
    // Two OPT records (RFC 6891, 6.1.1), and counts that promise what is not there.
    let mut bytes = good.to_vec().unwrap();
    let opt = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];
    bytes.extend([opt, opt].concat());
    let socket = server.udp().await;
    for count in [2, 3, 4] {
        bytes[11] = count;
        socket.send(&bytes).await.unwrap();
        let answer = Message::from_vec(&receive(&socket).await).unwrap();
        assert_eq!(answer.response_code, ResponseCode::FormErr, "{count}");
    }
    bytes[11] = 1;
    bytes[4] = 0xff;
    socket.send(&bytes).await.unwrap();
    assert_eq!(receive(&socket).await.len(), 12);
}

#[tokio::test]
async fn an_answer_and_a_scrap_are_not_answered() {
    let server = Server::start(snapshot(&[("test", 5)], Some(CONFIRMED_AT_S))).await;
    let mut query = question("test.cvd.clamav.net.", RecordType::TXT);
    let mut answer = query.clone();
    answer.metadata.message_type = MessageType::Response;
    answer.metadata.id = 1;
    query.metadata.id = 2;
    let socket = server.udp().await;
    for silent in [answer.to_vec().unwrap(), vec![], vec![0; 11]] {
        socket.send(&silent).await.unwrap();
        // Packets of one socket are answered in their order: what comes is the answer to the second.
        socket.send(&query.to_vec().unwrap()).await.unwrap();
        assert_eq!(Message::from_vec(&receive(&socket).await).unwrap().id, 2);
    }
    assert_eq!(server.metrics.ignored.load(Relaxed), 3);
    let mut stream = server.tcp().await;
    stream.write_all(&framed(&answer.to_vec().unwrap())).await.unwrap();
    assert!(ends(&mut stream).await);
}

#[tokio::test]
async fn edns_is_answered_with_edns() {
    let server = Server::start(snapshot(&[("test", 5)], Some(CONFIRMED_AT_S))).await;
    for name in ["test.cvd.clamav.net.", "other.example."] {
        let mut query = question(name, RecordType::TXT);
        assert!(server.ask(&query).await.edns.is_none(), "{name}");
        let mut edns = Edns::new();
        edns.set_max_payload(4096).set_dnssec_ok(true);
        query.set_edns(edns);
        let answer = server.ask(&query).await;
        assert_eq!(answer.edns.as_ref().unwrap().max_payload(), 1232, "{name}");
    }
}

#[tokio::test]
async fn the_longest_answer_fits_what_freshclam_reads() {
    let label = "z".repeat(63);
    let zone = [label.as_str(), &label, &label, "zzzzzzzz"].join(".");
    assert_eq!(zone.len(), 200);
    let most = u32::MAX;
    let longest_name = "d".repeat(32);
    let versions =
        [("main", most), ("daily", most), ("bytecode", most), ("safebrowsing", most), (&longest_name, most)];
    let mut all = snapshot(&versions, Some(u64::MAX));
    all.databases.values_mut().for_each(|published| published.functionality_level = most);
    let server = Server::with(all, &zone, TcpLimits::default()).await;
    for label in ["current", &longest_name] {
        let mut query = question(&format!("{label}.cvd.{zone}."), RecordType::TXT);
        query.set_edns(Edns::new());
        let answer = server.ask(&query).await;
        assert!(text(&answer).len() <= 255);
        assert!(answer.to_vec().unwrap().len() <= 512, "{label}");
    }
}

#[tokio::test]
async fn a_connection_answers_queries_in_turn_and_ends_in_bounded_time() {
    let limits = TcpLimits { idle_timeout: Duration::from_millis(300), ..TcpLimits::default() };
    let server = Server::with(snapshot(&[("test", 5)], Some(CONFIRMED_AT_S)), ZONE, limits).await;
    let mut first = question("test.cvd.clamav.net.", RecordType::TXT);
    first.metadata.id = 1;
    let mut second = question("other.example.", RecordType::TXT);
    second.metadata.id = 2;
    let mut stream = server.tcp().await;
    let both = [framed(&first.to_vec().unwrap()), framed(&second.to_vec().unwrap())].concat();
    stream.write_all(&both).await.unwrap();
    for id in [1, 2] {
        assert_eq!(Message::from_vec(&read_framed(&mut stream).await.unwrap()).unwrap().id, id);
    }
    assert!(ends(&mut stream).await, "nothing asked");

    let mut half = server.tcp().await;
    half.write_all(&both[..20]).await.unwrap();
    assert!(ends(&mut half).await, "half a query");

    let mut long = server.tcp().await;
    long.write_all(&[0x10, 0x01]).await.unwrap();
    assert!(ends(&mut long).await, "a query of 4097 bytes");
}

#[tokio::test]
async fn a_connection_cannot_be_kept_for_ever() {
    let limits = TcpLimits { lifetime: Duration::from_millis(300), ..TcpLimits::default() };
    let server = Server::with(snapshot(&[("test", 5)], Some(CONFIRMED_AT_S)), ZONE, limits).await;
    let query = framed(&question("test.cvd.clamav.net.", RecordType::TXT).to_vec().unwrap());
    let mut stream = server.tcp().await;
    let asking = async {
        // Never idle, and cut off all the same.
        while stream.write_all(&query).await.is_ok() && read_framed(&mut stream).await.is_some() {}
    };
    timeout(PATIENCE, asking).await.expect("the connection stays open");
}

#[tokio::test]
async fn when_every_connection_is_taken_an_idle_one_gives_way_and_else_newcomers_wait() {
    let limits = TcpLimits { connections: 2, ..TcpLimits::default() };
    let server = Server::with(snapshot(&[("test", 5)], Some(CONFIRMED_AT_S)), ZONE, limits).await;
    let query = framed(&question("test.cvd.clamav.net.", RecordType::TXT).to_vec().unwrap());
    let mut idle = server.tcp().await;
    idle.write_all(&query).await.unwrap();
    read_framed(&mut idle).await.unwrap();
    let (first, _second) = (server.tcp().await, server.tcp().await);
    assert!(ends(&mut idle).await);
    let mut third = server.tcp().await;
    third.write_all(&query).await.unwrap();
    // Answers over UDP show that the server runs meanwhile.
    let socket = server.udp().await;
    for _ in 0..50 {
        socket.send(&query[2..]).await.unwrap();
        receive(&socket).await;
        assert!(server.metrics.accepted.load(Relaxed) <= 3);
    }
    drop(first);
    assert!(read_framed(&mut third).await.is_some());
    assert_eq!(server.metrics.accepted.load(Relaxed), 4);
}

#[tokio::test]
async fn a_port_that_is_taken_is_an_error_and_port_0_is_one_for_both() {
    let any = "127.0.0.1:0".parse().unwrap();
    let sockets = Sockets::bind(any).await.unwrap();
    assert_ne!(sockets.address().port(), 0);
    assert!(UdpSocket::bind(sockets.address()).await.is_err());
    assert!(TcpListener::bind(sockets.address()).await.is_err());
    drop(sockets);
    let taken = UdpSocket::bind(any).await.unwrap();
    let error = Sockets::bind(taken.local_addr().unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
}

#[tokio::test]
async fn noise_on_the_wire_ends_nothing() {
    let server = Server::start(snapshot(&[("test", 5)], Some(CONFIRMED_AT_S))).await;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    let socket = server.udp().await;
    for round in 0..300_usize {
        // Every third one is a header with one question followed by noise.
        let mut noise: Vec<u8> = (0..round * 17 % 5000).map(|_| byte()).collect();
        if round % 3 == 0 && noise.len() > 12 {
            noise[2..12].copy_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 1]);
        }
        socket.send(&noise).await.unwrap();
        let mut stream = server.tcp().await;
        // The server may hang up on noise while it is being written.
        let _ = stream.write_all(&noise).await;
    }
    assert_eq!(server.text("test.cvd.clamav.net.").await, "5:1781708400");
}

fn responder() -> (Responder, Arc<Metrics>) {
    let published = Arc::new(ArcSwap::from_pointee(standing(snapshot(&[("test", 5)], Some(CONFIRMED_AT_S)))));
    let metrics = Arc::new(Metrics::default());
    (Responder::new(ZONE, published, metrics.clone()).unwrap(), metrics)
}

/// A query that would be answered.
fn good() -> Vec<u8> {
    let mut query = question("test.cvd.clamav.net.", RecordType::TXT);
    query.set_edns(Edns::new());
    query.to_vec().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn no_message_is_answered_with_more_than_it_deserves(
        messages in prop::collection::vec(prop_oneof![
            prop::collection::vec(any::<u8>(), 0..600),
            // Queries with a few bytes changed get further than noise does.
            prop::collection::vec((0..good().len(), any::<u8>()), 0..4).prop_map(|changes| {
                let mut query = good();
                changes.into_iter().for_each(|(at, byte)| query[at] = byte);
                query
            }),
            (0..good().len()).prop_map(|end| good()[..end].to_vec()),
        ], 50),
    ) {
        let (responder, metrics) = responder();
        for message in messages {
            let answered = metrics.answered.load(Relaxed);
            let Some(answer) = responder.answer(&message) else {
                prop_assert!(message.len() < 12 || message[2] & 0x80 != 0);
                continue;
            };
            prop_assert!(message[2] & 0x80 == 0);
            prop_assert!(answer.len() <= 512);
            prop_assert_eq!(&answer[..2], &message[..2]);
            prop_assert!(answer[2] & 0x80 != 0);
            if metrics.answered.load(Relaxed) == answered {
                // Nobody can make the server send more than they sent.
                prop_assert!(answer.len() <= message.len());
            }
        }
    }
}
