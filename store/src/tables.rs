//! Every table of a pack, and the encoding of every row: the format, whole.
//!
//! | table | key | value |
//! |---|---|---|
//! | `format` | `"version"` | u64: this and the table's types never change, so that any build can read any pack's version |
//! | `summary-0` | `()` | [`Summary`] |
//! | `bytes-0` | offset in the pack's byte stream | the bytes there, at most [`STRIPE`] |
//! | `objects-0` | object id | [`ObjectRow`] |
//! | `names-0` | name | [`NameRow`] |
//!
//! The objects' bytes, one after the other, are one stream, cut into rows that fill redb's pages: a redb page is a power of two
//! (4 KiB at least), so that an object in a row of its own could waste half the file. A full row is [`STRIPE`] bytes; what is
//! left at the end is cut by [`tail_row_len`] into rows that halve. An object's *piece* is its share of one stripe of the
//! stream; pieces are what is hashed, verified, cached and handed out.
//!
//! Rows (serde + bincode 2, standard configuration) end with a check over table, key and value, so that a changed bit in a
//! row is found where it is read, and never leads to other content.
use crate::{NameRecord, ObjectId};
use redb::TableDefinition;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The format this build writes, and the newest it reads.
pub(crate) const FORMAT: u64 = 0;

pub(crate) const FORMAT_TABLE: TableDefinition<'_, &str, u64> = TableDefinition::new("format");
pub(crate) const FORMAT_KEY: &str = "version";
pub(crate) const SUMMARY: TableDefinition<'_, (), &[u8]> = TableDefinition::new("summary-0");
pub(crate) const BYTES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("bytes-0");
pub(crate) const OBJECTS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("objects-0");
pub(crate) const NAMES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("names-0");

/// What redb adds to a row of `bytes-0` in its page (16 bytes in redb 4.6), with room to spare.
const PAGE_OVERHEAD: u64 = 64;

/// Length of a full row of `bytes-0`: just under a page of 256 KiB.
/// Larger rows make a small range read and verify more than it needs; smaller ones cost more calls a byte.
pub(crate) const STRIPE: u64 = 256 * 1024 - PAGE_OVERHEAD;

/// Length of the next row when `left` bytes (fewer than [`STRIPE`]) remain of the stream: the largest that fills a page.
/// Less than one page of 4 KiB is wasted in all.
pub(crate) fn tail_row_len(left: u64) -> u64 {
    let mut page = 256 * 1024;
    while page > 4096 && page - PAGE_OVERHEAD > left {
        page /= 2;
    }
    left.min(page - PAGE_OVERHEAD)
}

/// Where the stripe that holds stream offset `at` begins.
pub(crate) fn stripe_start(at: u64) -> u64 {
    at - at % STRIPE
}

/// The one row of `summary-0`. Its counts make a table that lost rows an error.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) struct Summary {
    pub(crate) sealed_at_s: u64,
    pub(crate) stream_len: u64,
    pub(crate) objects: u64,
    pub(crate) names: u64,
}

/// Where an object lies in the stream.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) struct ObjectRow {
    pub(crate) start: u64,
    pub(crate) size: u64,
    /// BLAKE3 of each piece; empty where there is only one, whose hash is the object's id.
    pub(crate) pieces: Vec<[u8; 32]>,
}

/// A [`NameRecord`] as stored.
#[derive(Serialize, Deserialize)]
struct NameRow {
    object: [u8; 32],
    size: u64,
    modified_s: Option<u64>,
    stored_at_s: u64,
    origin: String,
    proof: String,
}

const CHECK_LEN: usize = 16;

/// Why a row cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadRow;

fn check(table: &str, key: &[u8], value: &[u8]) -> [u8; CHECK_LEN] {
    let mut hasher = blake3::Hasher::new();
    for part in [table.as_bytes(), key] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.update(value);
    let mut out = [0; CHECK_LEN];
    out.copy_from_slice(&hasher.finalize().as_bytes()[..CHECK_LEN]);
    out
}

fn encode(table: &str, key: &[u8], row: &impl Serialize) -> Vec<u8> {
    // Writing these plain structs to memory cannot fail; were it to, the row without a check would be refused when read.
    let mut bytes = bincode::serde::encode_to_vec(row, bincode::config::standard()).unwrap_or_default();
    let check = check(table, key, &bytes);
    bytes.extend_from_slice(&check);
    bytes
}

fn decode<T: DeserializeOwned>(table: &str, key: &[u8], bytes: &[u8]) -> Result<T, BadRow> {
    let (value, stored) = bytes.split_last_chunk::<CHECK_LEN>().ok_or(BadRow)?;
    if check(table, key, value) != *stored {
        return Err(BadRow);
    }
    // The limit bounds what a length prefix in a hostile row can make us allocate.
    let config = bincode::config::standard().with_limit::<{ 64 << 20 }>();
    match bincode::serde::decode_from_slice(value, config) {
        Ok((row, used)) if used == value.len() => Ok(row),
        _ => Err(BadRow),
    }
}

pub(crate) fn encode_summary(row: &Summary) -> Vec<u8> {
    encode("summary-0", &[], row)
}

pub(crate) fn decode_summary(bytes: &[u8]) -> Result<Summary, BadRow> {
    decode("summary-0", &[], bytes)
}

pub(crate) fn encode_object(id: &ObjectId, row: &ObjectRow) -> Vec<u8> {
    encode("objects-0", id.as_bytes(), row)
}

/// Decodes the row of `id`, and makes sure that it lies within the stream and has a hash for every piece.
pub(crate) fn decode_object(id: &ObjectId, stream_len: u64, bytes: &[u8]) -> Result<ObjectRow, BadRow> {
    let row: ObjectRow = decode("objects-0", id.as_bytes(), bytes)?;
    let end = row.start.checked_add(row.size).ok_or(BadRow)?;
    let hashes = match piece_count(row.start, row.size) {
        0 | 1 => 0,
        n => n,
    };
    if end > stream_len || hashes != row.pieces.len() as u64 {
        return Err(BadRow);
    }
    Ok(row)
}

/// How many stripes the `size` bytes from `start` touch.
pub(crate) fn piece_count(start: u64, size: u64) -> u64 {
    match size {
        0 => 0,
        _ => (start + size - 1) / STRIPE - start / STRIPE + 1,
    }
}

pub(crate) fn encode_name(name: &str, record: &NameRecord) -> Vec<u8> {
    let row = NameRow {
        object: *record.object.as_bytes(),
        size: record.size,
        modified_s: record.modified_s,
        stored_at_s: record.stored_at_s,
        origin: record.origin.clone(),
        proof: record.proof.clone(),
    };
    encode("names-0", name.as_bytes(), &row)
}

pub(crate) fn decode_name(name: &str, bytes: &[u8]) -> Result<NameRecord, BadRow> {
    let row: NameRow = decode("names-0", name.as_bytes(), bytes)?;
    Ok(NameRecord {
        object: ObjectId::from_bytes(row.object),
        size: row.size,
        modified_s: row.modified_s,
        stored_at_s: row.stored_at_s,
        origin: row.origin,
        proof: row.proof,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn tail_rows_waste_less_than_a_page() {
        for left in [1, 4031, 4032, 4033, 8127, 100_000, 131_008, 200_000, STRIPE - 1] {
            let (mut rest, mut pages) = (left, 0);
            while rest > 0 {
                let row = tail_row_len(rest);
                pages += (row + 16).next_power_of_two().max(4096);
                rest -= row;
            }
            assert!(pages < left + 8192, "{left} bytes take {pages}");
        }
    }

    #[test]
    fn a_row_is_bound_to_its_key_and_every_bit_of_it() {
        let row = ObjectRow { start: 5, size: 7, pieces: Vec::new() };
        let id = ObjectId::of(b"x");
        let bytes = encode_object(&id, &row);
        assert_eq!(decode_object(&id, 12, &bytes).unwrap().size, 7);
        assert_eq!(decode_object(&id, 11, &bytes).unwrap_err(), BadRow);
        assert!(decode_object(&ObjectId::of(b"y"), 12, &bytes).is_err());
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_object(&id, 12, &flipped).is_err(), "bit {bit}");
        }
    }
}
