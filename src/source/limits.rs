//! Bounds on what a fetch may cost, each an adapter over the stream of a file's bytes.
//!
//! After an error a stream is at its end: nothing more may be asked of it.
use super::{FetchError, FetchLimits};
use bytes::Bytes;
use futures_util::{
    StreamExt as _, TryStreamExt as _,
    stream::{BoxStream, try_unfold},
};
use std::{future::Future, time::Duration};
use tokio::time::{Instant, timeout, timeout_at};

/// The bytes of a file, in pieces.
pub(super) type Chunks = BoxStream<'static, Result<Bytes, FetchError>>;

/// What is known of the bytes that one answer brings.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// The URL or path that answered.
    pub(super) origin: String,
    /// Where in the file they begin.
    pub(super) from: u64,
    /// How many are announced.
    pub(super) announced: Option<u64>,
}

impl Part {
    fn slow(&self, what: &'static str, got_bytes: u64) -> FetchError {
        FetchError::TooSlow { origin: self.origin.clone(), what, got_bytes: self.from + got_bytes }
    }

    /// Holds `chunks` to what was announced, and to the pace of `limits`.
    pub(super) fn hold(self, chunks: Chunks, limits: &FetchLimits) -> Chunks {
        let chunks = whole(chunks, self.clone());
        paced(stalled(chunks, self.clone(), limits.stall), self, limits)
    }
}

/// Fails where a body does not end at its announced length. One that has no byte counts only if that was announced:
/// a proxy that sends a head and closes looks the same.
fn whole(chunks: Chunks, part: Part) -> Chunks {
    let state = (chunks, part, 0);
    try_unfold(state, |(mut chunks, part, got_bytes)| async move {
        let Some(chunk) = chunks.try_next().await? else {
            return match part.announced.map_or(got_bytes > 0, |announced| announced == got_bytes) {
                true => Ok(None),
                false => Err(FetchError::Truncated { origin: part.origin, got_bytes: part.from + got_bytes }),
            };
        };
        let got_bytes = got_bytes + chunk.len() as u64;
        Ok(Some((chunk, (chunks, part, got_bytes))))
    })
    .boxed()
}

/// Fails where nothing comes for `stall`.
fn stalled(chunks: Chunks, part: Part, stall: Duration) -> Chunks {
    let state = (chunks, part, 0);
    try_unfold(state, move |(mut chunks, part, got_bytes)| async move {
        match timeout(stall, chunks.try_next()).await {
            Err(_) => Err(part.slow("the body stalled", got_bytes)),
            Ok(Ok(Some(chunk))) => {
                let got_bytes = got_bytes + chunk.len() as u64;
                Ok(Some((chunk, (chunks, part, got_bytes))))
            }
            Ok(Ok(None)) => Ok(None),
            Ok(Err(e)) => Err(e),
        }
    })
    .boxed()
}

/// Fails where too little comes on average, once `limits.stall` has been waited. Only waiting counts: what the taker
/// does between two pieces is not the source's fault.
fn paced(chunks: Chunks, part: Part, limits: &FetchLimits) -> Chunks {
    let (stall, least_per_s) = (limits.stall, limits.min_bytes_per_s as f64);
    let state = (chunks, part, 0, Duration::ZERO);
    try_unfold(state, move |(mut chunks, part, got_bytes, waited)| async move {
        let began = Instant::now();
        let Some(chunk) = chunks.try_next().await? else { return Ok(None) };
        let waited = waited + began.elapsed();
        if waited > stall && (got_bytes as f64) < least_per_s * waited.as_secs_f64() {
            return Err(part.slow("the body came too slowly", got_bytes));
        }
        let got_bytes = got_bytes + chunk.len() as u64;
        Ok(Some((chunk, (chunks, part, got_bytes, waited))))
    })
    .boxed()
}

/// Takes a body that broke off up again, by what `reopen` gives from a byte on; at most `most` times.
pub(super) fn resumed<F, O>(chunks: Chunks, most: usize, reopen: F) -> Chunks
where
    F: Fn(u64) -> O + Send + 'static,
    O: Future<Output = Result<Chunks, FetchError>> + Send + 'static,
{
    let state = (chunks, 0, most, reopen);
    try_unfold(state, |(mut chunks, got_bytes, mut left, reopen)| async move {
        loop {
            let broken = match chunks.try_next().await {
                Ok(Some(chunk)) => {
                    let got_bytes = got_bytes + chunk.len() as u64;
                    return Ok(Some((chunk, (chunks, got_bytes, left, reopen))));
                }
                Ok(None) => return Ok(None),
                Err(e) if left > 0 && e.broke_off() => e,
                Err(e) => return Err(e),
            };
            left -= 1;
            tracing::info!("{broken}; taking it up again");
            chunks = match reopen(got_bytes).await {
                Ok(chunks) => chunks,
                Err(e @ FetchError::WrongPart { .. }) => return Err(e),
                Err(_) => return Err(broken),
            };
        }
    })
    .boxed()
}

/// Fails where the end has not come by `deadline`.
pub(super) fn in_time(chunks: Chunks, part: Part, deadline: Instant) -> Chunks {
    let state = (chunks, part, 0);
    try_unfold(state, move |(mut chunks, part, got_bytes)| async move {
        let next = timeout_at(deadline, chunks.try_next()).await;
        let next = next.map_err(|_| part.slow("the time for one fetch ran out", got_bytes))?;
        Ok(next?.map(|chunk| {
            let got_bytes = got_bytes + chunk.len() as u64;
            (chunk, (chunks, part, got_bytes))
        }))
    })
    .boxed()
}

/// Fails past `cap_bytes`.
pub(super) fn capped(chunks: Chunks, origin: String, cap_bytes: u64) -> Chunks {
    let mut got_bytes = 0;
    let held = chunks.map(move |chunk| {
        let chunk = chunk?;
        got_bytes += chunk.len() as u64;
        match got_bytes <= cap_bytes {
            true => Ok(chunk),
            false => Err(FetchError::TooLarge { origin: origin.clone(), cap_bytes }),
        }
    });
    held.boxed()
}

/// Ends after the first `most` bytes, whatever would follow.
pub(super) fn first(chunks: Chunks, most: u64) -> Chunks {
    try_unfold((chunks, most), |(mut chunks, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        let Some(mut chunk) = chunks.try_next().await? else { return Ok(None) };
        chunk.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        let left = left - chunk.len() as u64;
        Ok(Some((chunk, (chunks, left))))
    })
    .boxed()
}

/// Leaves out the first `left` bytes.
pub(super) fn after(chunks: Chunks, mut left: u64) -> Chunks {
    let rest = chunks.map_ok(move |mut chunk| {
        let skipped = left.min(chunk.len() as u64);
        left -= skipped;
        chunk.split_off(skipped as usize)
    });
    rest.boxed()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use futures_util::stream;
    use tokio::time::sleep;

    fn part(announced: Option<u64>) -> Part {
        Part { origin: "there".into(), from: 0, announced }
    }

    fn of(pieces: &'static [&'static [u8]]) -> Chunks {
        stream::iter(pieces.iter().map(|piece| Ok(Bytes::from_static(piece)))).boxed()
    }

    /// A piece each `pause`, for ever.
    fn each(pause: Duration, piece: &'static [u8]) -> Chunks {
        let pieces = stream::unfold((), move |()| async move {
            sleep(pause).await;
            Some((Ok(Bytes::from_static(piece)), ()))
        });
        pieces.boxed()
    }

    async fn all(mut chunks: Chunks) -> Result<Vec<u8>, FetchError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = chunks.try_next().await? {
            bytes.extend(chunk);
        }
        Ok(bytes)
    }

    #[tokio::test]
    async fn a_body_ends_at_its_announced_length() {
        assert_eq!(all(whole(of(&[b"ab", b"c"]), part(Some(3)))).await.unwrap(), b"abc");
        assert_eq!(all(whole(of(&[b"ab"]), part(None))).await.unwrap(), b"ab");
        assert_eq!(all(whole(of(&[]), part(Some(0)))).await.unwrap(), b"");
        const TWO: &[&[u8]] = &[b"ab"];
        for (announced, pieces) in [(None, &[][..]), (Some(1), &[]), (Some(3), TWO), (Some(1), TWO)] {
            let ended = all(whole(of(pieces), part(announced))).await;
            assert!(matches!(ended, Err(FetchError::Truncated { .. })), "{announced:?}: {ended:?}");
        }
    }

    #[tokio::test]
    async fn a_cap_is_the_largest_that_passes() {
        assert_eq!(all(capped(of(&[b"ab", b"c"]), "x".into(), 3)).await.unwrap(), b"abc");
        let past = all(capped(of(&[b"ab", b"c"]), "x".into(), 2)).await;
        assert!(matches!(past, Err(FetchError::TooLarge { cap_bytes: 2, .. })), "{past:?}");
    }

    #[tokio::test]
    async fn the_beginning_and_the_rest_make_the_whole() {
        for at in 0..=6 {
            let pieces: &[&[u8]] = &[b"ab", b"cde", b"f"];
            let whole =
                [all(first(of(pieces), at)).await.unwrap(), all(after(of(pieces), at)).await.unwrap()];
            assert_eq!(whole.concat(), b"abcdef", "{at}");
            assert_eq!(whole[0].len() as u64, at);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_source_is_given_up() {
        let second = Duration::from_secs(1);
        let limits = FetchLimits { stall: 10 * second, min_bytes_per_s: 4, ..FetchLimits::default() };
        for (pause, piece, what) in [
            (11 * second, &b"12345678"[..], "the body stalled"),
            (second, b"123", "the body came too slowly"),
        ] {
            match all(part(None).hold(each(pause, piece), &limits)).await {
                Err(FetchError::TooSlow { what: why, .. }) => assert_eq!(why, what),
                other => panic!("{other:?}"),
            }
        }
        let deadline = Instant::now() + 100 * second;
        let ended = all(in_time(each(second, b"12345"), part(None), deadline)).await;
        assert!(matches!(ended, Err(FetchError::TooSlow { got_bytes: 495..=500, .. })), "{ended:?}");
        assert_eq!(Instant::now(), deadline);
    }

    /// A taker that writes to a slow disk between two pieces does not make the source slow.
    #[tokio::test(start_paused = true)]
    async fn only_waiting_for_the_source_counts() {
        let limits = FetchLimits { stall: Duration::from_secs(1), ..FetchLimits::default() };
        let mut chunks = part(Some(3)).hold(of(&[b"a", b"b", b"c"]), &limits);
        while chunks.try_next().await.unwrap().is_some() {
            sleep(Duration::from_secs(60)).await;
        }
    }

    #[tokio::test]
    async fn what_breaks_off_is_taken_up_where_it_ended() {
        let broken = || FetchError::Truncated { origin: "there".into(), got_bytes: 2 };
        let begun = || of(&[b"ab"]).chain(stream::iter([Err(broken())])).boxed();
        let rest = |from| async move { Ok(after(of(&[b"abcdef"]), from)) };
        assert_eq!(all(resumed(begun(), 1, rest)).await.unwrap(), b"abcdef");
        assert!(all(resumed(begun(), 0, rest)).await.is_err(), "no more than so often");
        let gone = |_| async { Err(FetchError::Status { url: "there".into(), status: 500 }) };
        let ended = all(resumed(begun(), 3, gone)).await;
        assert!(matches!(ended, Err(FetchError::Truncated { .. })), "{ended:?}");
    }
}
