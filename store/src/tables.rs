//! The one redb table of a pack and the encoding of its rows: the format, whole.
//!
//! Table `cvdmirror-store`, key `(section, number)`, value bytes:
//!
//! | section | number | value |
//! |---|---|---|
//! | 0 | offset in the pack's byte stream | the bytes there |
//! | 1 | 0, 1, … | a block of [`ObjectRow`], ids ascending over all blocks |
//! | 2 | 0, 1, … | a block of [`NameRow`], names ascending over all blocks |
//! | 255 | 0 | [`Head`] |
//! | 255 | 255 | format version, u64 little-endian, and its check: this never changes, so that any build reads any pack's version |
//!
//! The objects' bytes, one after the other, are one stream, cut into rows that fill redb's pages: a redb page is a power of two
//! (4 KiB at least), so that an object in a row of its own could waste half the file. A table of its own costs a
//! page, and rows of names leave pages half empty: so there is one table, and blocks.
//! An object's *piece* is its share of one [`STRIPE`] of the stream; pieces are what is hashed, verified and handed out.
//!
//! The rows of the stream follow from its length alone ([`row_at`]): a pack cut otherwise is not read.
//!
//! Format 0 says in words how a name was verified, format 1 by a code ([`Proof`]); nothing else differs.
//!
//! Sections 1 and 2 and the head are bincode 2 (standard configuration), fields in order, a hash as its 32 bytes. Every row
//! but those of section 0 ends with a check, the first 16 bytes of the BLAKE3 of section (one byte), number (u64
//! little-endian) and what precedes the check, so that a changed bit is found where it is read and never leads to other
//! content. Section 0 is checked by the pieces' hashes.
use crate::{NameRecord, ObjectId, Proof, limits::MAX_OBJECT_LEN};
use bincode::{
    BorrowDecode, Decode, Encode,
    de::Decoder,
    enc::Encoder,
    error::{DecodeError, EncodeError},
};
use redb::TableDefinition;

/// The format this build writes, and the newest it reads.
pub(crate) const FORMAT: u64 = 1;

/// Section and number.
pub(crate) type Key = (u8, u64);
pub(crate) const TABLE: TableDefinition<'_, Key, &[u8]> = TableDefinition::new("cvdmirror-store");
pub(crate) const FORMAT_KEY: Key = (255, 255);
pub(crate) const HEAD_KEY: Key = (255, 0);
pub(crate) const BYTES: u8 = 0;
pub(crate) const OBJECTS: u8 = 1;
pub(crate) const NAMES: u8 = 2;

/// What redb adds to a lone row in its page (17 bytes in redb 4.6, whose file format is fixed), with room to spare.
const PAGE_OVERHEAD: u64 = 32;
const SMALLEST_PAGE: u64 = 4 << 10;
/// A small row fills a page of 16 KiB.
const SMALL_ROW: u64 = (16 << 10) - PAGE_OVERHEAD;

/// The stream is cut at every multiple of this: 16 small rows, or one that leaves 528 bytes of a page of 256 KiB.
/// Smaller stripes would cost more calls a byte, larger ones make a small range read and verify more than it needs.
/// Part of the format.
pub(crate) const STRIPE: u64 = 16 * SMALL_ROW;

/// Length of the row at stream offset `at`, when `left` bytes remain of its stripe. A whole stripe is one row, but the first
/// one and what is left at the end are cut into small rows, and their end into rows that halve, so that less than 4 KiB is
/// wasted. The first, because large pages cannot lie beside redb's own at the start of the file: small ones fill that gap.
pub(crate) fn row_len(at: u64, left: u64) -> u64 {
    if at >= STRIPE && left >= STRIPE {
        return STRIPE;
    }
    let mut row = SMALL_ROW;
    while row > left && row + PAGE_OVERHEAD > SMALLEST_PAGE {
        row = (row + PAGE_OVERHEAD) / 2 - PAGE_OVERHEAD;
    }
    row.min(left)
}

/// The row that holds offset `at` of a stream of `stream_len` bytes: where it begins and its length.
pub(crate) fn row_at(at: u64, stream_len: u64) -> (u64, u64) {
    let mut start = stripe_start(at);
    let end = (start + STRIPE).min(stream_len);
    loop {
        let len = row_len(start, end - start);
        if at < start + len || len == 0 {
            return (start, len);
        }
        start += len;
    }
}

/// Where the stripe that holds stream offset `at` begins.
pub(crate) fn stripe_start(at: u64) -> u64 {
    at - at % STRIPE
}

impl Encode for ObjectId {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.as_bytes().encode(encoder)
    }
}

impl<Context> Decode<Context> for ObjectId {
    fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, DecodeError> {
        Decode::decode(decoder).map(Self::from_bytes)
    }
}
bincode::impl_borrow_decode!(ObjectId);

/// What a pack must have: counts make one that lost rows an error.
#[derive(Encode, Decode, Clone, Copy, Debug)]
pub(crate) struct Head {
    pub(crate) sealed_at_s: u64,
    pub(crate) stream_len: u64,
    pub(crate) objects: u64,
    pub(crate) names: u64,
}

/// An object, and where it lies in the stream.
#[derive(Encode, Decode, Clone, Debug)]
pub(crate) struct ObjectRow {
    pub(crate) id: ObjectId,
    pub(crate) start: u64,
    pub(crate) size: u64,
    /// BLAKE3 of each piece; empty where there is only one, whose hash is the object's id.
    pub(crate) pieces: Vec<[u8; 32]>,
}

impl ObjectRow {
    /// Says whether the object lies within the stream and has a hash for every piece.
    pub(crate) fn fits(&self, stream_len: u64) -> bool {
        let Some(end) = self.start.checked_add(self.size).filter(|_| self.size <= MAX_OBJECT_LEN) else {
            return false;
        };
        let pieces = match self.size {
            0 => 0,
            _ => (end - 1) / STRIPE - self.start / STRIPE + 1,
        };
        let hashes = if pieces == 1 { 0 } else { pieces };
        end <= stream_len && hashes == self.pieces.len() as u64
    }
}

/// A name and its [`NameRecord`] as stored: the public one may change, this one not. `P` is the proof: a code, in format 0 a text.
#[derive(Encode, BorrowDecode)]
pub(crate) struct NameRow<'a, P> {
    pub(crate) name: &'a str,
    object: ObjectId,
    size: u64,
    modified_s: Option<u64>,
    stored_at_s: u64,
    pub(crate) origin: &'a str,
    pub(crate) proof: P,
}

impl<'a> NameRow<'a, u8> {
    pub(crate) fn new(name: &'a str, record: &'a NameRecord) -> Self {
        Self {
            name,
            object: record.object,
            size: record.size,
            modified_s: record.modified_s,
            stored_at_s: record.stored_at_s,
            origin: &record.origin,
            proof: record.proof.code(),
        }
    }
}

impl<P> NameRow<'_, P> {
    fn record(&self, proof: Proof) -> NameRecord {
        NameRecord {
            object: self.object,
            size: self.size,
            modified_s: self.modified_s,
            stored_at_s: self.stored_at_s,
            origin: self.origin.to_owned(),
            proof,
        }
    }
}

/// Takes the names of a block of a pack of format `format`.
pub(crate) fn decode_names(
    format: u64,
    key: Key,
    block: &[u8],
    mut take: impl FnMut(&str, NameRecord) -> Result<(), BadRow>,
) -> Result<(), BadRow> {
    if format == 0 {
        return decode_block(key, block, |row: NameRow<'_, &str>| {
            take(row.name, row.record(Proof::from_format_0(row.proof)))
        });
    }
    decode_block(key, block, |row: NameRow<'_, u8>| take(row.name, row.record(Proof::from_code(row.proof))))
}

/// A row that is altered, cut or not of this format.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadRow;

const CHECK_LEN: usize = 16;
/// No row but those of the stream is longer: the longest object's has 2 MB of pieces' hashes.
const MAX_ROW_LEN: usize = 32 << 20;
/// A block is closed before it outgrows the smallest page.
const BLOCK_LEN: usize = (SMALLEST_PAGE - PAGE_OVERHEAD) as usize - CHECK_LEN;

fn check((section, number): Key, value: &[u8]) -> [u8; CHECK_LEN] {
    // Put together first: BLAKE3 takes a third more time for the same bytes in three pieces.
    let row = [&[section][..], &number.to_le_bytes(), value].concat();
    let mut out = [0; CHECK_LEN];
    out.copy_from_slice(&blake3::hash(&row).as_bytes()[..CHECK_LEN]);
    out
}

fn checked(key: Key, bytes: &[u8]) -> Result<&[u8], BadRow> {
    if bytes.len() > MAX_ROW_LEN {
        return Err(BadRow);
    }
    match bytes.split_last_chunk() {
        Some((value, stored)) if check(key, value) == *stored => Ok(value),
        _ => Err(BadRow),
    }
}

fn encode(value: impl Encode) -> Vec<u8> {
    // Writing these plain structs to memory cannot fail; were it to, an empty row would be refused when read.
    bincode::encode_to_vec(value, bincode::config::standard()).unwrap_or_default()
}

fn decode<'a, T: BorrowDecode<'a, ()>>(bytes: &'a [u8]) -> Result<(T, usize), BadRow> {
    // The limit bounds what a length prefix in a hostile row can make us allocate.
    let config = bincode::config::standard().with_limit::<MAX_ROW_LEN>();
    bincode::borrow_decode_from_slice(bytes, config).map_err(|_| BadRow)
}

pub(crate) fn encode_format(format: u64) -> Vec<u8> {
    let mut bytes = format.to_le_bytes().to_vec();
    bytes.extend_from_slice(&check(FORMAT_KEY, &bytes));
    bytes
}

pub(crate) fn decode_format(bytes: &[u8]) -> Result<u64, BadRow> {
    let value = checked(FORMAT_KEY, bytes)?;
    value.try_into().map(u64::from_le_bytes).map_err(|_| BadRow)
}

pub(crate) fn encode_head(head: &Head) -> Vec<u8> {
    let mut bytes = encode(head);
    bytes.extend_from_slice(&check(HEAD_KEY, &bytes));
    bytes
}

pub(crate) fn decode_head(bytes: &[u8]) -> Result<Head, BadRow> {
    decode(checked(HEAD_KEY, bytes)?).map(|(head, _)| head)
}

/// Puts entries into blocks, one after the other, and gives each full block to `write`.
pub(crate) fn encode_blocks<E>(
    section: u8,
    entries: impl Iterator<Item = impl Encode>,
    mut write: impl FnMut(Key, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut block = Vec::new();
    let mut number = 0;
    let mut close = |block: &mut Vec<u8>| {
        let key = (section, number);
        number += 1;
        block.extend_from_slice(&check(key, block));
        let result = write(key, block);
        block.clear();
        result
    };
    for entry in entries {
        let entry = encode(entry);
        if !block.is_empty() && block.len() + entry.len() > BLOCK_LEN {
            close(&mut block)?;
        }
        block.extend_from_slice(&entry);
    }
    if !block.is_empty() {
        close(&mut block)?;
    }
    Ok(())
}

/// Takes the entries of a block.
pub(crate) fn decode_block<'a, T: BorrowDecode<'a, ()>>(
    key: Key,
    bytes: &'a [u8],
    mut take: impl FnMut(T) -> Result<(), BadRow>,
) -> Result<(), BadRow> {
    let mut rest = checked(key, bytes)?;
    while !rest.is_empty() {
        let (entry, used) = decode(rest)?;
        take(entry)?;
        rest = rest.get(used.max(1)..).ok_or(BadRow)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rows_that_halve_waste_less_than_a_page() {
        let last = |page: u64| page - PAGE_OVERHEAD;
        for left in [1, last(4096), last(4096) + 1, 8127, 100_000, last(1 << 17), 200_000, STRIPE - 1] {
            for start in [0, STRIPE] {
                let (mut at, mut pages) = (start, 0);
                while at < start + left {
                    let row = row_len(at, start + left - at);
                    assert!((1..=left).contains(&row));
                    for within in [at, at + row - 1] {
                        assert_eq!(row_at(within, start + left), (at, row));
                    }
                    pages += (row + 17).next_power_of_two().max(4096);
                    at += row;
                }
                assert!(pages < left + 8192, "{left} bytes take {pages}");
            }
        }
        assert_eq!(row_len(STRIPE, STRIPE), STRIPE);
    }

    #[test]
    fn a_block_is_bound_to_its_key_and_every_bit_of_it() {
        let entries: Vec<_> = (0..300u64)
            .map(|i| ObjectRow { id: ObjectId::of(&i.to_le_bytes()), start: i, size: 7, pieces: Vec::new() })
            .collect();
        let mut blocks = Vec::new();
        let write = |key, bytes: &[u8]| -> Result<(), BadRow> {
            assert!(bytes.len() <= 4096 - PAGE_OVERHEAD as usize);
            blocks.push((key, bytes.to_vec()));
            Ok(())
        };
        encode_blocks(OBJECTS, entries.iter(), write).unwrap();
        assert!(blocks.len() > 2);
        let mut found = Vec::new();
        for (key, block) in &blocks {
            decode_block(*key, block, |row: ObjectRow| {
                found.push(row.id);
                Ok(())
            })
            .unwrap();
        }
        assert!(found.iter().eq(entries.iter().map(|row| &row.id)));

        let (key, block) = &blocks[0];
        let ignore = |_: ObjectRow| Ok(());
        assert_eq!(decode_block((OBJECTS, key.1 + 1), block, ignore), Err(BadRow));
        assert_eq!(decode_block((NAMES, key.1), block, ignore), Err(BadRow));
        for bit in 0..block.len() * 8 {
            let mut flipped = block.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_block(*key, &flipped, ignore), Err(BadRow), "bit {bit}");
        }
    }

    /// The format itself: a build that writes otherwise, and reads what it writes, would be of no use to the packs there are.
    #[test]
    fn rows_are_these_bytes() {
        let id = ObjectId::from_bytes([7; 32]);
        let head = Head { sealed_at_s: 1_795_381_080, stream_len: 251, objects: 250, names: 0 };
        assert_eq!(encode(head), [0xfc, 0x58, 0x57, 0x03, 0x6b, 0xfb, 251, 0, 250, 0]);

        let row = ObjectRow { id, start: 1, size: 70_000, pieces: vec![[8; 32], [9; 32]] };
        let tail = [&[1, 0xfc, 0x70, 0x11, 1, 0, 2][..], &[8; 32], &[9; 32]].concat();
        assert_eq!(encode(row), [&[7; 32][..], &tail].concat());

        let record = NameRecord {
            object: id,
            size: 3,
            modified_s: Some(4),
            stored_at_s: 5,
            origin: "o".into(),
            proof: Proof::Signed,
        };
        let bytes = |proof: &[u8]| [&b"\x02ab"[..], &[7; 32], b"\x03\x01\x04\x05\x01o", proof].concat();
        assert_eq!(encode(NameRow::new("ab", &record)), bytes(b"\x03"));
        for (format, proof) in [(0, &b"\x14signature and script"[..]), (1, b"\x03")] {
            let (key, mut block) = ((NAMES, 0), bytes(proof));
            block.extend_from_slice(&check(key, &block));
            let mut found = Vec::new();
            decode_names(format, key, &block, |name, record| {
                found.push((name.to_owned(), record));
                Ok(())
            })
            .unwrap();
            assert_eq!(found, [("ab".to_owned(), record.clone())], "{format}");
        }
    }

    #[test]
    fn a_row_that_is_too_long_is_refused_before_it_is_hashed() {
        let mut row = vec![0; MAX_ROW_LEN - CHECK_LEN];
        row.extend_from_slice(&check(HEAD_KEY, &row));
        assert!(checked(HEAD_KEY, &row).is_ok());
        row.truncate(MAX_ROW_LEN - CHECK_LEN);
        row.push(0);
        row.extend_from_slice(&check(HEAD_KEY, &row));
        assert_eq!(checked(HEAD_KEY, &row), Err(BadRow));
    }

    #[test]
    fn an_object_beyond_the_stream_or_short_of_hashes_does_not_fit() {
        let row = |start, size, pieces| ObjectRow {
            id: ObjectId::of(b""),
            start,
            size,
            pieces: vec![[0; 32]; pieces],
        };
        assert!(row(0, 0, 0).fits(0));
        assert!(row(5, 7, 0).fits(12));
        assert!(!row(5, 7, 0).fits(11));
        assert!(!row(u64::MAX, 7, 0).fits(u64::MAX));
        assert!(row(STRIPE - 1, 2, 2).fits(STRIPE + 1));
        assert!(!row(STRIPE - 1, 2, 0).fits(STRIPE + 1));
        assert!(!row(0, 1, 1).fits(1));
        let pieces = (MAX_OBJECT_LEN + 1).div_ceil(STRIPE) as usize;
        assert!(row(0, MAX_OBJECT_LEN, pieces).fits(u64::MAX));
        assert!(!row(0, MAX_OBJECT_LEN + 1, pieces).fits(u64::MAX));
    }
}
