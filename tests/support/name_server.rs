//! A name server that answers TXT questions from a table.
use hickory_resolver::proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{RData, Record, rdata::TXT},
};
use std::{
    collections::BTreeMap,
    net::{SocketAddr, UdpSocket},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

#[derive(Default)]
struct Records {
    texts: BTreeMap<String, String>,
    /// Zones that another server answers for.
    forwards: BTreeMap<String, SocketAddr>,
}

/// The running name server; its thread ends with the test process. A name that is not in its table does not exist.
pub struct NameServer {
    pub address: SocketAddr,
    records: Arc<Mutex<Records>>,
}

impl NameServer {
    pub fn start() -> Self {
        Self::at("127.0.0.1:0")
    }

    pub fn at(address: &str) -> Self {
        let socket = UdpSocket::bind(address).unwrap();
        let address = socket.local_addr().unwrap();
        let records = Arc::<Mutex<Records>>::default();
        let shared = records.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                let answer = answer(&buffer[..len], &shared.lock().unwrap());
                if let Some(answer) = answer {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Self { address, records }
    }

    pub fn set(&self, name: &str, text: &str) {
        self.records.lock().unwrap().texts.insert(name.into(), text.into());
    }

    pub fn remove(&self, name: &str) {
        self.records.lock().unwrap().texts.remove(name);
    }

    /// Passes on what is asked of a zone, as a site's resolver does.
    pub fn forward(&self, zone: &str, to: SocketAddr) {
        self.records.lock().unwrap().forwards.insert(zone.into(), to);
    }
}

fn answer(question: &[u8], records: &Records) -> Option<Vec<u8>> {
    let mut message = Message::from_vec(question).ok()?;
    let name = message.queries.first()?.name().clone();
    let asked = name.to_ascii();
    let asked = asked.trim_end_matches('.');
    if let Some((_, to)) = records.forwards.iter().find(|(zone, _)| asked.ends_with(&format!(".{zone}"))) {
        return pass_on(question, *to);
    }
    message.metadata.message_type = MessageType::Response;
    message.additionals.clear();
    message.edns = None;
    match records.texts.get(asked) {
        Some(text) => {
            let data = RData::TXT(TXT::new(vec![text.clone()]));
            message.answers.push(Record::from_rdata(name, 1800, data));
        }
        None => message.metadata.response_code = ResponseCode::NXDomain,
    }
    message.to_vec().ok()
}

fn pass_on(question: &[u8], to: SocketAddr) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").ok()?;
    socket.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    socket.send_to(question, to).ok()?;
    let mut buffer = [0; 4096];
    let len = socket.recv(&mut buffer).ok()?;
    Some(buffer[..len].to_vec())
}

/// Seconds since the epoch, `ago_s` ago.
pub fn time_s(ago_s: u64) -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() - ago_s
}
