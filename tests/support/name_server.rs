//! A name server that answers TXT questions from a table.
use hickory_resolver::proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{RData, Record, rdata::TXT},
};
use std::{
    collections::BTreeMap,
    net::{SocketAddr, UdpSocket},
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};

type Records = Arc<Mutex<BTreeMap<String, String>>>;

/// The running name server; its thread ends with the test process. A name that is not in its table does not exist.
pub struct NameServer {
    pub address: SocketAddr,
    records: Records,
}

impl NameServer {
    pub fn start() -> Self {
        Self::at("127.0.0.1:0")
    }

    pub fn at(address: &str) -> Self {
        let socket = UdpSocket::bind(address).unwrap();
        let address = socket.local_addr().unwrap();
        let records = Records::default();
        let shared = records.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                if let Some(answer) = answer(&buffer[..len], &shared.lock().unwrap()) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Self { address, records }
    }

    pub fn set(&self, name: &str, text: &str) {
        self.records.lock().unwrap().insert(name.into(), text.into());
    }

    pub fn remove(&self, name: &str) {
        self.records.lock().unwrap().remove(name);
    }
}

fn answer(question: &[u8], records: &BTreeMap<String, String>) -> Option<Vec<u8>> {
    let mut message = Message::from_vec(question).ok()?;
    let name = message.queries.first()?.name().clone();
    message.metadata.message_type = MessageType::Response;
    message.additionals.clear();
    message.edns = None;
    match records.get(name.to_ascii().trim_end_matches('.')) {
        Some(text) => {
            let data = RData::TXT(TXT::new(vec![text.clone()]));
            message.answers.push(Record::from_rdata(name, 1800, data));
        }
        None => message.metadata.response_code = ResponseCode::NXDomain,
    }
    message.to_vec().ok()
}

/// Seconds since the epoch, `ago_s` ago.
pub fn time_s(ago_s: u64) -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() - ago_s
}
