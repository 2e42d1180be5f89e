//! The DNS settings on the command line: what is bound is said, and what cannot work is an error.
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RecordType},
};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Ends what it holds.
struct Running(Child);
impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn mirror(args: &[&str]) -> Command {
    let mut command = support::program::bare();
    command.args(args);
    command
}

fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = mirror(args).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn serve_says_the_one_port_on_which_it_answers_over_udp_and_tcp() {
    let dir = tempfile::tempdir().unwrap();
    let (data, source) = (dir.path().join("data"), format!("dir:{}", dir.path().display()));
    let mut serve = mirror(&["serve", "--listen", "127.0.0.1:0", "--database", "test", "--source", &source]);
    serve.args(["--data-dir", data.to_str().unwrap()]);
    serve.args(["--dns-listen", "127.0.0.1:0", "--dns-zone", "clamav.net"]);
    let mut child = Running(serve.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines().map_while(Result::ok);
    let address = lines.find_map(|l| l.strip_prefix("answering DNS on udp+tcp ").map(str::to_owned));
    let address: SocketAddr = address.expect("it says no address").parse().unwrap();
    assert_ne!(address.port(), 0);

    // Nothing is held yet, so nothing is advertised.
    let mut query = Message::new(9, MessageType::Query, OpCode::Query);
    query.add_query(Query::query(Name::from_ascii("test.cvd.clamav.net.").unwrap(), RecordType::TXT));
    let query = query.to_vec().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(&query, address).unwrap();
    let mut over_udp = [0; 512];
    let length = socket.recv(&mut over_udp).unwrap();
    let answer = Message::from_vec(&over_udp[..length]).unwrap();
    assert_eq!((answer.id, answer.response_code), (9, ResponseCode::Refused));

    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&[&u16::try_from(query.len()).unwrap().to_be_bytes(), &query[..]].concat()).unwrap();
    let mut over_tcp = vec![0; 2 + length];
    stream.read_exact(&mut over_tcp).unwrap();
    assert_eq!(over_tcp[2..], over_udp[..length]);
}

#[test]
fn an_address_that_is_taken_is_said_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (data, source) = (dir.path().join("data"), format!("dir:{}", dir.path().display()));
    let (code, _, said) = run(&[
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--source",
        &source,
        "--data-dir",
        data.to_str().unwrap(),
        "--dns-listen",
        &address,
        "--dns-zone",
        "clamav.net",
    ]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("cannot answer DNS on {address}")), "{said}");
    assert!(said.contains("write another port: dns_listen = "), "{said}");
}
