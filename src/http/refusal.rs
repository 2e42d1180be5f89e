//! Answers that refuse: each with a short text that says why.
use super::{
    body::{BodyError, Payload},
    demand::Unmet,
    proxy::NoWay,
    target::NoTarget,
};
use crate::clients::SightingError;
use hyper::{
    HeaderMap, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue},
};

/// Of what may be another thing at any moment.
pub(super) const NO_STORE: &str = "no-store";
pub(super) const TEXT: &str = "text/plain; charset=utf-8";

/// Sets a field to a value made of hex digits, numbers, dates and names of the closed grammar, which is always valid; an
/// invalid one would be left out.
pub(super) fn insert(headers: &mut HeaderMap, name: HeaderName, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

/// Why a request is refused.
pub(super) enum Refusal {
    /// 400, and why.
    Malformed(&'static str),
    /// 404.
    Unknown,
    /// 405.
    Method,
    /// 400: a host's report cannot be read.
    Untold(SightingError),
    /// 408.
    TooSlow,
    /// 412.
    PreconditionFailed,
    /// 413.
    TooLarge,
    /// 416, and the whole length.
    Unsatisfiable(u64),
    /// 421: it is for a host that this server does not stand for.
    Misdirected,
    /// 500.
    Internal,
    /// What a client asked for was fetched and did not come.
    Unmet(Unmet),
    /// 502: no tunnel leads there.
    NoWay(NoWay),
    /// 503: the object is published, and this server cannot read it.
    Unreadable(BodyError),
}

impl From<Unmet> for Refusal {
    fn from(why: Unmet) -> Self {
        Self::Unmet(why)
    }
}

impl From<NoWay> for Refusal {
    fn from(why: NoWay) -> Self {
        Self::NoWay(why)
    }
}

impl From<NoTarget> for Refusal {
    fn from(none: NoTarget) -> Self {
        match none {
            NoTarget::Malformed => Self::Malformed("the request target is no path"),
            NoTarget::Unknown => Self::Unknown,
        }
    }
}

impl Refusal {
    pub(super) fn answer(&self) -> Response<Payload> {
        match self {
            Self::Malformed(why) => note(StatusCode::BAD_REQUEST, format!("{why}\n")),
            Self::Unknown => note(StatusCode::NOT_FOUND, "not here\n".into()),
            Self::Method => {
                let mut answer = note(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".into());
                answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
                answer
            }
            Self::PreconditionFailed => {
                note(StatusCode::PRECONDITION_FAILED, "the condition does not hold\n".into())
            }
            Self::Unsatisfiable(len) => {
                let mut answer =
                    note(StatusCode::RANGE_NOT_SATISFIABLE, "the range begins past the end\n".into());
                insert(answer.headers_mut(), CONTENT_RANGE, format!("bytes */{len}"));
                answer
            }
            Self::Untold(why) => note(StatusCode::BAD_REQUEST, format!("{why}\n")),
            Self::TooSlow => note(StatusCode::REQUEST_TIMEOUT, "too slow\n".into()),
            Self::TooLarge => note(StatusCode::PAYLOAD_TOO_LARGE, "too large\n".into()),
            Self::Misdirected => {
                note(StatusCode::MISDIRECTED_REQUEST, "this host is not served here\n".into())
            }
            Self::Unmet(why) => match why {
                Unmet::Absent => Self::Unknown.answer(),
                Unmet::Failed => note(
                    StatusCode::BAD_GATEWAY,
                    "the source did not give it, or it does not verify\n".into(),
                ),
                Unmet::Late => note(StatusCode::GATEWAY_TIMEOUT, "the source is too slow\n".into()),
                Unmet::Busy => note(StatusCode::SERVICE_UNAVAILABLE, "too many wait for the source\n".into()),
            },
            Self::NoWay(why) => note(StatusCode::BAD_GATEWAY, format!("{why}\n")),
            Self::Internal => note(StatusCode::INTERNAL_SERVER_ERROR, "internal error\n".into()),
            Self::Unreadable(_) => {
                note(StatusCode::SERVICE_UNAVAILABLE, "the file cannot be read here now\n".into())
            }
        }
    }
}

/// A short text that no cache may keep.
pub(super) fn note(status: StatusCode, text: String) -> Response<Payload> {
    let mut answer = Response::new(Payload::Page(text.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(NO_STORE));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(TEXT));
    answer
}
