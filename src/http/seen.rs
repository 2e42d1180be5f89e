//! `POST /seen`: a host's report, where the settings allow it.
use super::{
    Site,
    body::Payload,
    refusal::{Refusal, note},
};
use crate::clients::{MAX_SIGHTING_BYTES, Sighting};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::{Method, Request, Response, StatusCode, body::Body, header::CONTENT_TYPE};
use std::time::Duration;
use tokio::time::timeout;

/// How long the content may take to come.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether a request is a report, and reports are wanted.
pub(super) fn tells<B>(site: &Site, request: &Request<B>) -> bool {
    *request.method() == Method::POST
        && request.uri().path() == "/seen"
        && site.clients.as_ref().is_some_and(|clients| clients.takes_reports())
}

/// Reads the content, which is small, and remembers what it tells.
pub(super) async fn take<B>(site: &Site, request: &mut Request<B>) -> Result<Response<Payload>, Refusal>
where
    B: Body + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let kind = request.headers().get(CONTENT_TYPE).map_or(&b""[..], |kind| kind.as_bytes());
    // A page in somebody's browser cannot say this without asking first, and that is refused.
    if !kind.eq_ignore_ascii_case(b"application/json") {
        return Err(Refusal::Malformed("the content is to be application/json"));
    }
    if request.body().size_hint().lower() > MAX_SIGHTING_BYTES as u64 {
        return Err(Refusal::TooLarge);
    }
    let content = Limited::new(request.body_mut(), MAX_SIGHTING_BYTES).collect();
    let content = timeout(PATIENCE, content).await.map_err(|_| Refusal::TooSlow)?;
    let content = content.map_err(|e| match e.is::<LengthLimitError>() {
        true => Refusal::TooLarge,
        false => Refusal::Malformed("the content breaks off"),
    })?;
    let sighting = Sighting::parse(&content.to_bytes()).map_err(Refusal::Untold)?;
    if let Some(clients) = &site.clients {
        clients.heard(&sighting, &site.mirror.standing().snapshot.versions());
    }
    Ok(note(StatusCode::OK, "seen\n".into()))
}
