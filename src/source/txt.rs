//! The TXT record that says what is newest, asked of the DNS.
use super::FetchError;
use crate::cvd::{
    Database,
    txt_record::{CurrentRecord, DatabaseRecord},
};
use hickory_resolver::{
    Resolver, TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts},
    net::runtime::TokioRuntimeProvider,
    proto::rr::RData,
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
        let shared = CurrentRecord::has_field(database);
        let name = if shared { self.record.clone() } else { self.own_record(database) };
        let fail = |why: String| FetchError::Txt { name: name.clone(), why };
        let resolver = self.resolver().map_err(|e| fail(e.to_string()))?;
        let lookup = resolver.txt_lookup(format!("{name}.")).await.map_err(|e| fail(e.to_string()))?;
        // As freshclam: the first string of the first TXT.
        let text = lookup
            .answers()
            .iter()
            .find_map(|record| match &record.data {
                RData::TXT(txt) => txt.txt_data.first(),
                _ => None,
            })
            .ok_or_else(|| fail("the answer holds no TXT record".into()))?;
        let text = String::from_utf8_lossy(text);
        let said = if shared {
            CurrentRecord::parse(&text).map(|r| Said { version: r.version(database), time_s: r.time_s })
        } else {
            DatabaseRecord::parse(&text).map(|r| Said { version: Some(r.version), time_s: r.time_s })
        };
        said.map_err(|e| fail(e.to_string()))
    }

    fn resolver(&self) -> Result<TokioResolver, hickory_resolver::net::NetError> {
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
