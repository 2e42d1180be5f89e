//! One message, one answer: what is published, or a refusal.
//!
//! Guaranteed: an answer is at most 512 bytes, so that it is never truncated; a refusal is never longer than its
//! query; a message that is itself an answer is never answered, so that two servers cannot keep each other busy.
//! Only a query's question is decoded, and whether an OPT record follows; other records' data is skipped.
use super::Metrics;
use crate::{cvd::Database, mirror::Standing};
use arc_swap::ArcSwap;
use hickory_proto::{
    ProtoError,
    op::{Edns, Header, Message, MessageType, Metadata, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType, rdata::TXT},
    serialize::binary::{BinDecodable, BinDecoder, BinEncodable, BinEncoder, DecodeError},
};
use std::sync::{Arc, atomic::Ordering::Relaxed};

/// freshclam reads no longer answer, and RFC 1035 (2.3.4) allows none over UDP without EDNS.
const MAX_ANSWER_BYTES: u16 = 512;
/// How long a resolver may keep an answer. freshclam asks through a resolver, so it learns of a new version this much later
/// at most; a lookup costs next to nothing here.
const TTL_S: u32 = 60;
/// The longest UDP message we accept (RFC 6891, 6.2.3), stated in answers to queries that use EDNS.
const EDNS_PAYLOAD_BYTES: u16 = 1232;
/// Records after the question of an ordinary query: OPT, TSIG, and some slack.
const MAX_ADDITIONALS: u16 = 4;

/// Answers from the published snapshot.
#[derive(Debug)]
pub struct Responder {
    /// `cvd.<zone>.`: every name that is answered is directly below it.
    parent: Name,
    published: Arc<ArcSwap<Standing>>,
    metrics: Arc<Metrics>,
}

impl Responder {
    /// Answers for `current.cvd.<zone>` and `<db>.cvd.<zone>`.
    ///
    /// # Errors
    /// When `zone` is no domain name.
    pub fn new(
        zone: &str,
        published: Arc<ArcSwap<Standing>>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, ProtoError> {
        let parent = Name::from_ascii(format!("cvd.{}.", zone.trim_end_matches('.')))?;
        Ok(Self { parent, published, metrics })
    }

    /// The answer to a message; `None` for a message that is no query.
    pub fn answer(&self, message: &[u8]) -> Option<Vec<u8>> {
        let mut decoder = BinDecoder::new(message);
        let header = Header::read(&mut decoder).ok().filter(|h| h.message_type == MessageType::Query);
        let Some(header) = header else {
            self.metrics.ignored.fetch_add(1, Relaxed);
            return None;
        };
        let mut answer = Message::response(header.id, header.op_code);
        answer.metadata = Metadata::response_from_request(&header.metadata);
        let (code, count) = if header.op_code != OpCode::Query {
            // The sections of other operations have other meanings (RFC 2136): they are not read.
            (ResponseCode::Refused, &self.metrics.refused)
        } else {
            match Question::read(&mut decoder, &header) {
                Err(_) => (ResponseCode::FormErr, &self.metrics.malformed),
                Ok(asked) => {
                    if asked.edns {
                        let mut edns = Edns::new();
                        edns.set_max_payload(EDNS_PAYLOAD_BYTES);
                        answer.set_edns(edns);
                    }
                    let text = self.text(&asked.query);
                    let (code, count) = match text {
                        Some(_) => (ResponseCode::NoError, &self.metrics.answered),
                        None => (ResponseCode::Refused, &self.metrics.refused),
                    };
                    if let Some(text) = text {
                        // In the case it was asked in: resolvers vary it and compare.
                        let name = asked.query.name().clone();
                        let txt = RData::TXT(TXT::new(vec![text]));
                        answer.add_answer(Record::from_rdata(name, TTL_S, txt));
                        answer.metadata.authoritative = true;
                    }
                    answer.add_query(asked.query);
                    (code, count)
                }
            }
        };
        answer.metadata.response_code = code;
        count.fetch_add(1, Relaxed);
        let mut bytes = Vec::with_capacity(MAX_ANSWER_BYTES.into());
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(MAX_ANSWER_BYTES);
        answer.emit(&mut encoder).ok()?;
        Some(bytes)
    }

    /// The TXT record for a question; `None` to refuse it. Every answer is made from one snapshot.
    fn text(&self, query: &Query) -> Option<String> {
        let (name, parent) = (query.name(), &self.parent);
        let ours = query.query_class() == DNSClass::IN
            && query.query_type() == RecordType::TXT
            && name.num_labels() == parent.num_labels() + 1
            && parent.zone_of(name);
        let label = name.iter().next().filter(|_| ours)?;
        let snapshot = self.published.load().snapshot.clone();
        if label.eq_ignore_ascii_case(b"current") {
            return snapshot.txt_record().map(|record| record.to_string());
        }
        let named = |database: &&Database| database.as_str().as_bytes().eq_ignore_ascii_case(label);
        let database = snapshot.databases.keys().find(named)?;
        snapshot.database_txt_record(database).map(|record| record.to_string())
    }
}

/// The parts of a query that matter.
struct Question {
    query: Query,
    /// Whether it uses EDNS: then the answer must too (RFC 6891, 6.1.1).
    edns: bool,
}

impl Question {
    /// Reads what follows the header of a standard query.
    fn read(decoder: &mut BinDecoder<'_>, header: &Header) -> Result<Self, Malformed> {
        let counts = header.counts;
        // RFC 9619: a query has one question. Counts are checked before anything is read for them.
        if (counts.queries, counts.answers, counts.authorities) != (1, 0, 0)
            || counts.additionals > MAX_ADDITIONALS
        {
            return Err(Malformed);
        }
        let query = Query::read(decoder)?;
        let mut edns = false;
        for _ in 0..counts.additionals {
            // RFC 1035, 3.2.1: name, type, class, TTL, the data's length, the data.
            Name::read(decoder)?;
            let opt = RecordType::from(decoder.read_u16()?.unverified()) == RecordType::OPT;
            decoder.read_slice(2 + 4)?;
            let data_bytes = decoder.read_u16()?.unverified();
            decoder.read_slice(data_bytes.into())?;
            if opt && edns {
                return Err(Malformed);
            }
            edns |= opt;
        }
        Ok(Self { query, edns })
    }
}

/// A query that cannot be read, for whatever reason: FORMERR.
struct Malformed;
impl From<DecodeError> for Malformed {
    fn from(_: DecodeError) -> Self {
        Self
    }
}
