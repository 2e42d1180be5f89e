//! What the head of an answer says: which bytes come, of which file, and what the server and caches tell of themselves.
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use std::time::UNIX_EPOCH;

/// Headers in which caches on the way speak of themselves.
const CACHE_HEADERS: [&str; 5] = ["age", "x-cache", "cf-ray", "cf-cache-status", "via"];

/// A 206 that is not what was asked for.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WrongPart {
    /// The whole was asked for.
    #[error("a part (206), though the whole was asked for")]
    NotAsked,
    /// Another range, as `Content-Range` has it.
    #[error("other bytes than those asked for (Content-Range: {0})")]
    OtherRange(String),
    /// The rest of a file was asked for, and this is of another one.
    #[error("a part of another file than the one it began")]
    OtherFile,
    /// The rest of a file was asked for, and another one has its name now: to be had from its start.
    #[error("with another file than the one it began")]
    Replaced,
}

/// The bytes that a 200 or 206 brings: where they begin, and how many are announced. A part must be the one that was
/// asked for, from a byte on.
pub(super) fn bytes_of(
    is_part: bool,
    headers: &HeaderMap,
    asked_from: Option<u64>,
) -> Result<(u64, Option<u64>), WrongPart> {
    // The field itself: a body may be known to be empty without any word of the server's.
    let announced = text(headers, header::CONTENT_LENGTH).and_then(|length| length.trim().parse().ok());
    if !is_part {
        return Ok((0, announced));
    }
    let from = asked_from.ok_or(WrongPart::NotAsked)?;
    match text(headers, header::CONTENT_RANGE).and_then(parse_content_range) {
        Some((first, last)) if first == from && announced.is_none_or(|bytes| bytes == last - first + 1) => {
            Ok((from, Some(last - first + 1)))
        }
        _ => Err(other_range(headers)),
    }
}

/// The refusal of a part, with the range that it claims to be.
pub(super) fn other_range(headers: &HeaderMap) -> WrongPart {
    WrongPart::OtherRange(text(headers, header::CONTENT_RANGE).unwrap_or("none").chars().take(100).collect())
}

fn text(headers: &HeaderMap, field: HeaderName) -> Option<&str> {
    headers.get(field)?.to_str().ok()
}

/// First and last byte of `bytes FIRST-LAST/LENGTH` (RFC 9110 section 14.4), if they lie in order.
fn parse_content_range(text: &str) -> Option<(u64, u64)> {
    let (range, length) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let within = length == "*" || length.parse().is_ok_and(|length: u64| last < length);
    (within && first <= last && last < u64::MAX).then_some((first, last))
}

/// What tells a file from another one of its name.
#[derive(Clone)]
pub(super) struct Validator {
    pub(super) field: HeaderName,
    pub(super) value: HeaderValue,
}

/// What may stand in If-Range: a strong ETag, or else a date (RFC 9110 section 13.1.5).
pub(super) fn validator(headers: &HeaderMap) -> Option<Validator> {
    let etag = headers.get(header::ETAG).filter(|etag| etag.as_bytes().starts_with(b"\""));
    let (field, value) = match etag {
        Some(etag) => (header::ETAG, etag),
        None => (header::LAST_MODIFIED, headers.get(header::LAST_MODIFIED)?),
    };
    Some(Validator { field, value: value.clone() })
}

/// The bytes from one on, to the last that is wanted.
pub(super) fn range(from: u64, to: Option<u64>) -> HeaderValue {
    let text = format!("bytes={from}-{}", to.map_or(String::new(), |to| to.to_string()));
    // Digits and punctuation: always a header value.
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("bytes=0-"))
}

/// What caches on the way say of themselves.
pub(super) fn cache_headers(headers: &HeaderMap) -> Vec<(String, String)> {
    CACHE_HEADERS
        .iter()
        .filter_map(|name| {
            let value = headers.get(*name)?.to_str().ok()?;
            Some(((*name).to_owned(), value.chars().take(200).collect()))
        })
        .collect()
}

/// `Retry-After`, RFC 9110 section 10.2.3: seconds or a date, which the sender's own clock judges.
pub(super) fn retry_after_s(headers: &HeaderMap, sender_now_s: u64) -> Option<u64> {
    let value = text(headers, header::RETRY_AFTER)?;
    value.parse().ok().or_else(|| {
        let date = httpdate::parse_http_date(value).ok()?;
        Some(date.duration_since(UNIX_EPOCH).ok()?.as_secs().saturating_sub(sender_now_s))
    })
}

/// What the sender's clock says now: `Date` is when the answer was made, `Age` how long caches have kept it since
/// (RFC 9110 section 6.6.1, RFC 9111 section 5.1).
pub(super) fn date_s(headers: &HeaderMap) -> Option<u64> {
    let date = httpdate::parse_http_date(text(headers, header::DATE)?).ok()?;
    let age_s: u64 = text(headers, header::AGE).and_then(|age| age.parse().ok()).unwrap_or(0);
    Some(date.duration_since(UNIX_EPOCH).ok()?.as_secs().saturating_add(age_s))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let fields =
            fields.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        fields.collect()
    }

    #[test]
    fn a_length_counts_only_if_the_server_says_it() {
        for (fields, announced) in
            [(&[][..], None), (&[("content-length", "0")], Some(0)), (&[("content-length", "x")], None)]
        {
            assert_eq!(bytes_of(false, &headers(fields), None), Ok((0, announced)));
        }
    }

    #[test]
    fn a_part_is_the_one_that_was_asked_for() {
        let part = |range, from| bytes_of(true, &headers(&[("content-range", range)]), from);
        assert_eq!(part("bytes 5-9/10", Some(5)), Ok((5, Some(5))));
        assert_eq!(part("bytes 5-9/*", Some(5)), Ok((5, Some(5))));
        assert_eq!(part("bytes 5-9/10", None), Err(WrongPart::NotAsked));
        for range in [
            "bytes 4-9/10",
            "bytes 5-10/10",
            "bytes 5-4/10",
            "bytes 5-18446744073709551615/*",
            "bytes 5-9",
            "bytes */10",
            "items 5-9/10",
            "5-9/10",
        ] {
            assert_eq!(part(range, Some(5)), Err(WrongPart::OtherRange(range.into())));
        }
        let longer = headers(&[("content-range", "bytes 5-9/10"), ("content-length", "6")]);
        assert_eq!(bytes_of(true, &longer, Some(5)), Err(WrongPart::OtherRange("bytes 5-9/10".into())));
    }

    #[test]
    fn a_date_to_wait_for_is_judged_by_the_senders_clock() {
        let at = "Sun, 06 Nov 1994 08:49:37 GMT";
        let now_s = date_s(&headers(&[("date", at)])).unwrap();
        assert_eq!(now_s, 784_111_777);
        assert_eq!(date_s(&headers(&[("date", at), ("age", "60")])), Some(now_s + 60));
        let wait_s = |value, now_s| retry_after_s(&headers(&[("retry-after", value)]), now_s);
        assert_eq!(wait_s(at, now_s - 90), Some(90));
        assert_eq!(wait_s(at, now_s + 90), Some(0));
        assert_eq!(wait_s("120", now_s), Some(120));
        assert_eq!(wait_s("soon", now_s), None);
    }
}
