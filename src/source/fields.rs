//! Header fields as they are passed on from one connection to another (RFC 9110, 7.6.1).
use http::{
    HeaderMap, HeaderName,
    header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE},
};

/// Fields of one connection only, and those that are written anew for the next.
const OWN: [HeaderName; 10] = [
    CONNECTION,
    CONTENT_LENGTH,
    EXPECT,
    HOST,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// The fields that concern more than one connection: not those above, nor what `Connection` names.
pub fn end_to_end(fields: &HeaderMap) -> HeaderMap {
    let mut kept = fields.clone();
    let lists = fields.get_all(CONNECTION).iter().filter_map(|list| list.to_str().ok());
    for name in lists.flat_map(|list| list.split(',')).map(str::trim) {
        kept.remove(name);
    }
    for name in OWN {
        kept.remove(name);
    }
    kept
}
