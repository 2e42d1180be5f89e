//! What the service manager that started the server is told: sd_notify(3), over the socket in `NOTIFY_SOCKET`.
//!
//! Guaranteed: readiness is told once, when the server is about to take the first connection; a watchdog ping is sent
//! only when the loop that hands out connections has turned since the last one, so a runtime that stands still is
//! noticed; a manager that does not take messages never holds up the server. Without a manager nothing is done.
use sd_notify::NotifyState;
use std::{future::Future, pin::pin, time::Duration};

/// How often the status line is looked at where no watchdog wants to hear more often.
const STATUS_EVERY: Duration = Duration::from_secs(5);
/// Pings in the time after which the manager takes the server for dead: one may come late.
const PINGS: u32 = 3;

/// Waits for `shutdown`, and tells the service manager what goes on meanwhile: readiness now, `status` whenever it has
/// changed, pings if it wants them, and the end.
///
/// A ping proves only that the task awaiting this turns, so that must be the one that matters.
pub async fn until(shutdown: impl Future<Output = ()>, status: impl Fn() -> String) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return shutdown.await;
    }
    let mut shutdown = pin!(shutdown);
    let watchdog = sd_notify::watchdog_enabled();
    let pause = watchdog.map_or(STATUS_EVERY, |after| STATUS_EVERY.min(after / PINGS));
    // A manager that set it to nothing wants no pings, and interval() no empty pause.
    let mut turn = tokio::time::interval(pause.max(Duration::from_millis(1)));
    let mut told = None;
    let mut ready = false;
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            _ = turn.tick() => {}
        }
        let now = Some(status());
        let changed = (now != told).then(|| now.clone()).flatten();
        told = now;
        let ready_now = !std::mem::replace(&mut ready, true);
        tell(move || {
            let mut states = Vec::new();
            states.extend(ready_now.then_some(NotifyState::Ready));
            states.extend(changed.as_deref().map(NotifyState::Status));
            states.extend(watchdog.is_some().then_some(NotifyState::Watchdog));
            sd_notify::notify(&states)
        })
        .await;
    }
    tell(|| {
        let why = "stopping: running downloads may finish";
        sd_notify::notify(&[NotifyState::Stopping, NotifyState::Status(why)])
    })
    .await;
}

/// Sends from a thread of its own: the socket blocks while the manager does not read.
async fn tell(send: impl FnOnce() -> std::io::Result<()> + Send + 'static) {
    // That the thread itself failed means that the runtime ends.
    if let Ok(Err(e)) = tokio::task::spawn_blocking(send).await {
        tracing::warn!("the service manager cannot be told: {e}");
    }
}
