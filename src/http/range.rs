//! Which part of a representation a request asks for.
//!
//! In order (RFC 9110, 14.2):
//! 1. any method but GET, or an empty representation: the whole (Content-Range cannot express a part of nothing);
//! 2. more than [`MAX_RANGES`] ranges: refused, to bound the work that a header causes;
//! 3. no Range field, several of them, another unit, or a set that does not parse (14.1.1): the whole;
//! 4. several ranges: the whole, as 14.2 allows;
//! 5. one range that begins past the end, or a suffix of no bytes: not satisfiable (15.5.17);
//! 6. one range: its bytes, cut at the end of the representation (14.1.2).
//!
//! If-Range is decided before, in [`super::conditional`].
use hyper::{
    HeaderMap, Method,
    header::{HeaderValue, RANGE},
};
use std::ops::Range;

/// The most ranges one request may name.
pub(super) const MAX_RANGES: usize = 16;

/// What to send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Selection {
    /// All of it, 200.
    Whole,
    /// These bytes, 206; never empty.
    Part(Range<u64>),
    /// 416.
    Unsatisfiable,
    /// 400.
    TooMany,
}

/// Reads the Range fields of a request for `len` bytes.
pub(super) fn select(method: &Method, headers: &HeaderMap, len: u64) -> Selection {
    let fields = || headers.get_all(RANGE).iter().map(HeaderValue::as_bytes);
    let named: usize = fields().map(|field| field.iter().filter(|byte| **byte == b',').count() + 1).sum();
    if named > MAX_RANGES {
        return Selection::TooMany;
    }
    let mut fields = fields();
    match (fields.next(), fields.next()) {
        (Some(field), None) if *method == Method::GET && len > 0 => {
            parse(field).map_or(Selection::Whole, |range| range.within(len))
        }
        _ => Selection::Whole,
    }
}

/// A range as the request gives it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum RangeSpec {
    /// `first-last`, or `first-` with `u64::MAX`.
    FromTo(u64, u64),
    /// `-n`: the last n bytes.
    Last(u64),
    /// More than one range, each well-formed.
    Several,
}

impl RangeSpec {
    fn within(self, len: u64) -> Selection {
        match self {
            Self::Several => Selection::Whole,
            Self::FromTo(first, _) if first >= len => Selection::Unsatisfiable,
            Self::FromTo(first, last) => Selection::Part(first..last.saturating_add(1).min(len)),
            Self::Last(0) => Selection::Unsatisfiable,
            Self::Last(n) => Selection::Part(len.saturating_sub(n)..len),
        }
    }
}

/// Parses `bytes=…`; none if it is another unit or not well-formed.
fn parse(field: &[u8]) -> Option<RangeSpec> {
    let field = std::str::from_utf8(field).ok()?;
    let (unit, set) = field.split_once('=')?;
    if !unit.trim_matches([' ', '\t']).eq_ignore_ascii_case("bytes") {
        return None;
    }
    let mut asked = None;
    // A list may hold empty elements (RFC 9110, 5.6.1.2).
    for element in set.split(',').map(|e| e.trim_matches([' ', '\t'])).filter(|e| !e.is_empty()) {
        let one = parse_one(element)?;
        asked = Some(if asked.is_none() { one } else { RangeSpec::Several });
    }
    asked
}

fn parse_one(element: &str) -> Option<RangeSpec> {
    let (first, last) = element.split_once('-')?;
    match (first, last) {
        ("", n) => Some(RangeSpec::Last(position(n)?)),
        (first, "") => Some(RangeSpec::FromTo(position(first)?, u64::MAX)),
        (first, last) => {
            let (first, last) = (position(first)?, position(last)?);
            (first <= last).then_some(RangeSpec::FromTo(first, last))
        }
    }
}

/// Digits; a number that does not fit 64 bits lies past any end.
fn position(digits: &str) -> Option<u64> {
    let all_digits = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    all_digits.then(|| digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    fn get(field: &str, len: u64) -> Selection {
        let mut headers = HeaderMap::new();
        headers.insert(RANGE, HeaderValue::from_str(field).unwrap());
        select(&Method::GET, &headers, len)
    }

    #[test]
    fn one_range_gives_its_bytes_cut_at_the_end() {
        for (field, part) in [
            ("bytes=0-511", 0..511 + 1),
            ("bytes=0-0", 0..1),
            ("bytes=999-", 999..1000),
            ("bytes=0-", 0..1000),
            ("bytes=500-5000", 500..1000),
            ("bytes=-1", 999..1000),
            ("bytes=-1000", 0..1000),
            ("bytes=-5000", 0..1000),
            ("bytes=0-99999999999999999999999999", 0..1000),
            ("bytes=-99999999999999999999999999", 0..1000),
            ("Bytes=1-2", 1..3),
            ("bytes= 1-2", 1..3),
            ("bytes=,1-2,", 1..3),
        ] {
            assert_eq!(get(field, 1000), Selection::Part(part), "{field}");
        }
    }

    #[test]
    fn a_range_past_the_end_cannot_be_satisfied() {
        for field in ["bytes=1000-", "bytes=1000-1001", "bytes=99999999999999999999999999-", "bytes=-0"] {
            assert_eq!(get(field, 1000), Selection::Unsatisfiable, "{field}");
        }
    }

    #[test]
    fn what_does_not_parse_is_ignored() {
        for field in [
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=-",
            "bytes=a-b",
            "bytes=5-4",
            "bytes=1",
            "bytes=1-2-3",
            "bytes=+1-2",
            "bytes=1-2,x",
            "bytes=0x1-2",
            "bytes=1 -2",
            "items=0-1",
            "=0-1",
            "bytes:0-1",
            "bytes=--1",
        ] {
            assert_eq!(get(field, 1000), Selection::Whole, "{field}");
        }
    }

    #[test]
    fn several_ranges_give_the_whole_and_too_many_nothing() {
        let ranges = |n: usize| format!("bytes={}", vec!["0-1"; n].join(","));
        assert_eq!(get(&ranges(2), 1000), Selection::Whole);
        assert_eq!(get(&ranges(MAX_RANGES), 1000), Selection::Whole);
        assert_eq!(get(&ranges(MAX_RANGES + 1), 1000), Selection::TooMany);
        let mut headers = HeaderMap::new();
        for _ in 0..MAX_RANGES {
            headers.append(RANGE, HeaderValue::from_static("bytes=0-1"));
        }
        assert_eq!(select(&Method::GET, &headers, 1000), Selection::Whole);
        headers.append(RANGE, HeaderValue::from_static("bytes=0-1"));
        assert_eq!(select(&Method::GET, &headers, 1000), Selection::TooMany);
    }

    #[test]
    fn only_a_get_of_something_has_parts() {
        let mut headers = HeaderMap::new();
        headers.insert(RANGE, HeaderValue::from_static("bytes=0-1"));
        assert_eq!(select(&Method::HEAD, &headers, 1000), Selection::Whole);
        assert_eq!(select(&Method::GET, &headers, 0), Selection::Whole);
        assert_eq!(select(&Method::GET, &HeaderMap::new(), 1000), Selection::Whole);
    }

    proptest! {
        #[test]
        fn a_part_is_never_empty_and_never_past_the_end(field in "(bytes=)?[-0-9, ]{0,24}", len in 0u64..5000) {
            if let Selection::Part(part) = get(&field, len) {
                prop_assert!(part.start < part.end && part.end <= len);
            }
        }

        #[test]
        fn a_well_formed_range_is_what_slicing_gives(first in 0u64..2000, more in 0u64..2000, len in 1u64..2000) {
            let last = first + more;
            let expected = if first >= len { Selection::Unsatisfiable } else {
                Selection::Part(first..(last + 1).min(len))
            };
            prop_assert_eq!(get(&format!("bytes={first}-{last}"), len), expected);
        }

        #[test]
        fn no_bytes_make_it_panic(field in proptest::collection::vec(any::<u8>(), 0..64), len: u64) {
            if let Ok(value) = HeaderValue::from_bytes(&field) {
                let mut headers = HeaderMap::new();
                headers.insert(RANGE, value);
                select(&Method::GET, &headers, len);
            }
        }
    }
}
