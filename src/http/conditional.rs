//! Conditional requests against one representation's validators.
//!
//! In the order of RFC 9110, 13.2.2:
//! 1. If-Match (13.1.1): no entity tag matches strongly → 412;
//! 2. else If-Unmodified-Since (13.1.4): modified later → 412;
//! 3. If-None-Match (13.1.2): an entity tag matches weakly → 304;
//! 4. else If-Modified-Since (13.1.3): not modified later → 304;
//! 5. If-Range (13.1.5), only with Range: the strong entity tag, or exactly the date of Last-Modified; anything
//!    else takes the Range away.
//!
//! Dates that do not parse, or that meet no Last-Modified, count as absent. A list of entity tags that does not
//! parse matches nothing. Only GET and HEAD come here, so that a match of step 3 is always 304.
use hyper::{
    HeaderMap,
    header::{HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE},
};
use std::time::UNIX_EPOCH;

/// What identifies a representation's present state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Validators {
    /// The opaque part of a strong entity tag, without its quotes.
    pub(super) etag: String,
    /// Last-Modified, epoch seconds.
    pub(super) modified_s: Option<u64>,
}

/// What to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// Answer; Range is ignored unless `range` is set.
    Proceed {
        /// Steps 5: Range may be honoured.
        range: bool,
    },
    /// 304.
    NotModified,
    /// 412.
    PreconditionFailed,
}

/// Evaluates every precondition of a GET or HEAD.
pub(super) fn evaluate(headers: &HeaderMap, now: &Validators) -> Verdict {
    if headers.contains_key(IF_MATCH) {
        if !matches_any(headers, IF_MATCH, |tag| tag == Tag::Strong(&now.etag)) {
            return Verdict::PreconditionFailed;
        }
    } else if let (Some(modified), Some(date)) = (now.modified_s, date(headers, IF_UNMODIFIED_SINCE))
        && modified > date
    {
        return Verdict::PreconditionFailed;
    }

    if headers.contains_key(IF_NONE_MATCH) {
        if matches_any(headers, IF_NONE_MATCH, |tag| tag.opaque() == now.etag) {
            return Verdict::NotModified;
        }
    } else if let (Some(modified), Some(date)) = (now.modified_s, date(headers, IF_MODIFIED_SINCE))
        && modified <= date
    {
        return Verdict::NotModified;
    }

    Verdict::Proceed { range: if_range(headers, now) }
}

/// Step 5. A date is always a strong validator here (8.8.2.2): the content of a versioned name never changes, and an
/// alias has the date of the signed header of its target.
fn if_range(headers: &HeaderMap, now: &Validators) -> bool {
    let Some(field) = headers.get(IF_RANGE) else { return true };
    let Ok(text) = field.to_str() else { return false };
    match Tag::parse(text) {
        Some((tag, rest)) => rest.is_empty() && tag == Tag::Strong(&now.etag),
        None => now.modified_s.is_some() && parse_date(text) == now.modified_s,
    }
}

/// An entity tag (RFC 9110, 8.8.3), by its opaque part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tag<'a> {
    Strong(&'a str),
    Weak(&'a str),
}

impl<'a> Tag<'a> {
    fn opaque(self) -> &'a str {
        match self {
            Self::Strong(opaque) | Self::Weak(opaque) => opaque,
        }
    }

    /// Reads one entity tag from the start of a text; returns it and what follows.
    fn parse(text: &'a str) -> Option<(Self, &'a str)> {
        let (quoted, weak) = text.strip_prefix("W/").map_or((text, false), |rest| (rest, true));
        let (opaque, rest) = quoted.strip_prefix('"')?.split_once('"')?;
        Some((if weak { Self::Weak(opaque) } else { Self::Strong(opaque) }, rest))
    }
}

/// Whether `*` or an entity tag of the list, over all its field lines, is a match.
fn matches_any(headers: &HeaderMap, field: HeaderName, hit: impl Fn(Tag<'_>) -> bool) -> bool {
    headers.get_all(field).iter().filter_map(|line| line.to_str().ok()).any(|line| {
        let mut rest = line.trim_matches(SEPARATORS);
        if rest == "*" {
            return true;
        }
        while let Some((tag, after)) = Tag::parse(rest) {
            if hit(tag) {
                return true;
            }
            rest = after.trim_start_matches(SEPARATORS);
        }
        false
    })
}
const SEPARATORS: [char; 3] = [',', ' ', '\t'];

/// The date of a field that may stand once (RFC 9110, 5.6.7), epoch seconds.
fn date(headers: &HeaderMap, field: HeaderName) -> Option<u64> {
    let mut lines = headers.get_all(field).iter();
    match (lines.next(), lines.next()) {
        (Some(line), None) => parse_date(line.to_str().ok()?),
        _ => None,
    }
}

fn parse_date(text: &str) -> Option<u64> {
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use hyper::header::HeaderValue;
    use proptest::prelude::*;

    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const SAME: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const AFTER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    fn now() -> Validators {
        Validators { etag: "abc".into(), modified_s: Some(784_111_777) }
    }
    fn judge(fields: &[(&'static str, &str)]) -> Verdict {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        evaluate(&headers, &now())
    }
    const PROCEED: Verdict = Verdict::Proceed { range: true };
    const WHOLE: Verdict = Verdict::Proceed { range: false };

    #[test]
    fn if_none_match_compares_weakly() {
        for list in [
            "\"abc\"",
            "W/\"abc\"",
            "*",
            "\"x\", \"abc\"",
            "\"x\",W/\"abc\" , \"y\"",
            ", \"abc\"",
            "\"a,b\",\"abc\"",
        ] {
            assert_eq!(judge(&[("if-none-match", list)]), Verdict::NotModified, "{list}");
        }
        for list in ["\"x\"", "abc", "\"abc", "", "\"x\" \"*\"", "\"a,\"abc\"", "w/\"abc\""] {
            assert_eq!(judge(&[("if-none-match", list)]), PROCEED, "{list}");
        }
        assert_eq!(judge(&[("if-none-match", "\"x\""), ("if-none-match", "\"abc\"")]), Verdict::NotModified);
    }

    #[test]
    fn if_match_compares_strongly() {
        assert_eq!(judge(&[("if-match", "\"abc\"")]), PROCEED);
        assert_eq!(judge(&[("if-match", "*")]), PROCEED);
        for list in ["W/\"abc\"", "\"x\"", "abc", ""] {
            assert_eq!(judge(&[("if-match", list)]), Verdict::PreconditionFailed, "{list}");
        }
    }

    #[test]
    fn dates_compare_to_the_second() {
        assert_eq!(judge(&[("if-modified-since", BEFORE)]), PROCEED);
        assert_eq!(judge(&[("if-modified-since", SAME)]), Verdict::NotModified);
        assert_eq!(judge(&[("if-modified-since", AFTER)]), Verdict::NotModified);
        assert_eq!(judge(&[("if-unmodified-since", BEFORE)]), Verdict::PreconditionFailed);
        assert_eq!(judge(&[("if-unmodified-since", SAME)]), PROCEED);
        for nonsense in ["yesterday", "", "0", "Sun, 06 Nov 1994 08:49:37"] {
            assert_eq!(judge(&[("if-modified-since", nonsense)]), PROCEED, "{nonsense}");
            assert_eq!(judge(&[("if-unmodified-since", nonsense)]), PROCEED, "{nonsense}");
        }
        // The two obsolete forms are dates too (RFC 9110, 5.6.7).
        assert_eq!(judge(&[("if-modified-since", "Sunday, 06-Nov-94 08:49:37 GMT")]), Verdict::NotModified);
        assert_eq!(judge(&[("if-modified-since", "Sun Nov  6 08:49:37 1994")]), Verdict::NotModified);
    }

    #[test]
    fn without_a_last_modified_dates_say_nothing() {
        let undated = Validators { modified_s: None, ..now() };
        for field in [IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE] {
            let headers = HeaderMap::from_iter([(field, HeaderValue::from_static(AFTER))]);
            assert_eq!(evaluate(&headers, &undated), PROCEED);
        }
        let headers = HeaderMap::from_iter([(IF_RANGE, HeaderValue::from_static("nonsense"))]);
        assert_eq!(evaluate(&headers, &undated), WHOLE);
    }

    #[test]
    fn entity_tags_come_before_dates_and_match_before_none_match() {
        assert_eq!(judge(&[("if-none-match", "\"x\""), ("if-modified-since", AFTER)]), PROCEED);
        assert_eq!(
            judge(&[("if-none-match", "\"abc\""), ("if-modified-since", BEFORE)]),
            Verdict::NotModified
        );
        assert_eq!(judge(&[("if-match", "\"abc\""), ("if-unmodified-since", BEFORE)]), PROCEED);
        assert_eq!(
            judge(&[("if-match", "\"x\""), ("if-none-match", "\"abc\"")]),
            Verdict::PreconditionFailed
        );
        assert_eq!(judge(&[("if-match", "\"abc\""), ("if-none-match", "\"abc\"")]), Verdict::NotModified);
    }

    #[test]
    fn if_range_takes_the_range_away_unless_it_is_exact() {
        assert_eq!(judge(&[("if-range", "\"abc\"")]), PROCEED);
        assert_eq!(judge(&[("if-range", SAME)]), PROCEED);
        for other in ["W/\"abc\"", "\"x\"", "\"abc\", \"x\"", "abc", BEFORE, AFTER, "*", ""] {
            assert_eq!(judge(&[("if-range", other)]), WHOLE, "{other}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_only_a_match_makes_304(list in "[W/\"abc*, ]{0,24}") {
            let expected = list.contains("\"abc\"") || list.contains('*');
            if judge(&[("if-none-match", &list)]) == Verdict::NotModified {
                prop_assert!(expected);
            }
        }

        #[test]
        fn a_tag_is_found_wherever_it_stands(before in 0usize..5, after in 0usize..5, weak: bool) {
            let mut tags = vec!["\"x,y\""; before];
            tags.push(if weak { "W/\"abc\"" } else { "\"abc\"" });
            tags.extend(vec!["W/\"\""; after]);
            prop_assert_eq!(judge(&[("if-none-match", &tags.join(", "))]), Verdict::NotModified);
        }
    }
}
