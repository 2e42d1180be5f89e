//! The TXT record that says what is newest, asked of the DNS.
use super::FetchError;
use crate::cvd::{
    Database,
    txt_record::{CurrentRecord, DatabaseRecord, TxtError},
};
use hickory_resolver::{
    Resolver, TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::{op::ResponseCode, rr::RData},
};
use std::{net::SocketAddr, time::Duration};

/// What a TXT record says of one database.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Said {
    /// The newest version; `None` where the record does not name the database.
    pub version: Option<u32>,
    /// When the record was made, epoch seconds; `None` where it does not say.
    pub time_s: Option<u64>,
}

/// Why a TXT record cannot be had or read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TxtFault {
    /// The DNS knows no such name.
    #[error("no such name")]
    NoSuchName,
    /// The name has other records, or none.
    #[error("that name has no TXT record")]
    NoRecord,
    /// Who was asked says that it cannot answer, or will not.
    #[error("{server} answers: {said}")]
    Answer {
        /// Who was asked.
        server: String,
        /// The response code, in words.
        said: &'static str,
    },
    /// Nothing came in time.
    #[error("no answer from {0}")]
    TimedOut(String),
    /// It could not be asked.
    #[error("no answer from {server}: {why}")]
    Unreachable {
        /// Who was asked.
        server: String,
        /// What the system says.
        why: std::io::ErrorKind,
    },
    /// What came is no answer to the question.
    #[error("no answer from {0} that can be read")]
    Unreadable(String),
    /// This machine's /etc/resolv.conf cannot be used.
    #[error("/etc/resolv.conf names no resolver that can be used; set nameserver")]
    NoResolver,
    /// The text is no record of versions.
    #[error(transparent)]
    Text(#[from] TxtError),
}

impl TxtFault {
    fn new(error: &NetError, server: &str) -> Self {
        let server = server.to_owned();
        match error {
            NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
                ResponseCode::NXDomain => Self::NoSuchName,
                ResponseCode::NoError => Self::NoRecord,
                code => Self::Answer { server, said: code.to_str() },
            },
            NetError::Dns(DnsError::ResponseCode(code)) => Self::Answer { server, said: code.to_str() },
            NetError::Timeout => Self::TimedOut(server),
            NetError::Io(e) => Self::Unreachable { server, why: e.kind() },
            NetError::NoConnections => Self::Unreachable { server, why: std::io::ErrorKind::NotConnected },
            _ => Self::Unreadable(server),
        }
    }
}

/// Asks for TXT records; caches none, because a cached record is what the mirror must not believe.
#[derive(Debug)]
pub struct TxtResolver {
    /// `current.cvd.<zone>`, which holds the versions of main, daily and bytecode.
    record: String,
    nameserver: Option<SocketAddr>,
}

impl TxtResolver {
    /// Uses `record` (such as `current.cvd.clamav.net`) through `nameserver`, or the system's where `None`.
    pub fn new(record: &str, nameserver: Option<SocketAddr>) -> Self {
        Self { record: record.trim_end_matches('.').to_owned(), nameserver }
    }

    /// Whether a database has a field in the main record; another one has a record of its own, or none.
    pub fn shares(database: &Database) -> bool {
        CurrentRecord::has_field(database)
    }

    /// Name of the record of a database that has no field in the main one: `<db>.cvd.<zone>`.
    fn own_record(&self, database: &Database) -> String {
        let zone = self.record.split_once(".cvd.").map_or(self.record.as_str(), |(_, zone)| zone);
        format!("{database}.cvd.{zone}")
    }

    /// Asks for the record that speaks of `database`.
    ///
    /// # Errors
    /// [`FetchError::Txt`] when it cannot be had or read.
    pub async fn lookup(&self, database: &Database) -> Result<Said, FetchError> {
        let shared = Self::shares(database);
        let name = if shared { self.record.clone() } else { self.own_record(database) };
        let said = self.ask(&name).await.and_then(|text| {
            Ok(if shared {
                CurrentRecord::parse(&text).map(|r| Said { version: r.version(database), time_s: r.time_s })
            } else {
                DatabaseRecord::parse(&text).map(|r| Said { version: Some(r.version), time_s: r.time_s })
            }?)
        });
        said.map_err(|why| FetchError::Txt { name, why })
    }

    /// As freshclam: the first string of the first TXT.
    async fn ask(&self, name: &str) -> Result<String, TxtFault> {
        let server = self.nameserver.map_or("the system's resolver".into(), |address| address.to_string());
        let resolver = self.resolver().map_err(|_| TxtFault::NoResolver)?;
        let lookup = resolver.txt_lookup(format!("{name}.")).await;
        let lookup = lookup.map_err(|e| TxtFault::new(&e, &server))?;
        let texts = lookup.answers().iter().find_map(|record| match &record.data {
            RData::TXT(txt) => txt.txt_data.first(),
            _ => None,
        });
        Ok(String::from_utf8_lossy(texts.ok_or(TxtFault::NoRecord)?).into_owned())
    }

    fn resolver(&self) -> Result<TokioResolver, NetError> {
        let mut builder = match self.nameserver {
            None => TokioResolver::builder_tokio()?,
            Some(address) => {
                let (mut udp, mut tcp) = (ConnectionConfig::udp(), ConnectionConfig::tcp());
                (udp.port, tcp.port) = (address.port(), address.port());
                let server = NameServerConfig::new(address.ip(), true, vec![udp, tcp]);
                let config = ResolverConfig::from_parts(None, vec![], vec![server]);
                Resolver::builder_with_config(config, TokioRuntimeProvider::default())
            }
        };
        let options: &mut ResolverOpts = builder.options_mut();
        options.timeout = Duration::from_secs(3);
        options.attempts = 2;
        options.cache_size = 0;
        builder.build()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use std::net::UdpSocket;

    /// Asks a name server that answers every question with this response code and nothing else.
    async fn fault(response_code: u8) -> (SocketAddr, FetchError) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                (buffer[2], buffer[3]) = (0x81, 0x80 | response_code);
                let _ = socket.send_to(&buffer[..len], from);
            }
        });
        let resolver = TxtResolver::new("current.cvd.example.net", Some(address));
        (address, resolver.lookup(&"daily".parse().unwrap()).await.unwrap_err())
    }

    #[tokio::test]
    async fn what_is_wrong_is_said_in_plain_words() {
        for (code, words) in [
            (0, "that name has no TXT record"),
            (2, "SERVER answers: Server Failure"),
            (3, "no such name"),
            (5, "SERVER answers: Query Refused"),
        ] {
            let (server, fault) = fault(code).await;
            let words = words.replace("SERVER", &server.to_string());
            assert_eq!(fault.to_string(), format!("TXT record current.cvd.example.net: {words}"));
        }
    }

    #[test]
    fn a_timeout_names_who_was_asked() {
        let fault = TxtFault::new(&NetError::Timeout, "192.0.2.1:53");
        assert_eq!(fault.to_string(), "no answer from 192.0.2.1:53");
    }
}
