//! Messages to the service manager: sd_notify(3), over the socket in `NOTIFY_SOCKET`.
//!
//! Guaranteed: readiness is told once, when the server is about to take the first connection; a watchdog ping is sent
//! only if the loop that hands out connections has run since the last one, so a runtime that hangs is noticed; a manager
//! that reads no messages does not delay the server. Without a manager nothing is done.
use sd_notify::NotifyState;
use std::{future::Future, pin::pin, time::Duration};

/// How often the status line is updated, unless the watchdog wants pings more often.
const STATUS_EVERY: Duration = Duration::from_secs(5);
/// Pings within the watchdog's timeout, so that one may come late.
const PINGS: u32 = 3;

/// Waits for `shutdown`. Meanwhile tells the service manager: ready now, `status` when it changes, pings if it wants them,
/// and the end.
///
/// A ping proves only that the task that polls this runs: call it from the task that must not hang.
pub(crate) async fn until(shutdown: impl Future<Output = ()>, status: impl Fn() -> String) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return shutdown.await;
    }
    let mut shutdown = pin!(shutdown);
    let watchdog = sd_notify::watchdog_enabled();
    let pause = watchdog.map_or(STATUS_EVERY, |after| STATUS_EVERY.min(after / PINGS));
    // interval() panics on zero.
    let mut turn = tokio::time::interval(pause.max(Duration::from_millis(1)));
    let mut told = String::new();
    let mut message = "READY=1\n".to_owned();
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            _ = turn.tick() => {}
        }
        // A line of its own would be a state of its own.
        let now = status().replace(char::is_control, " ");
        if now != told {
            message += &format!("STATUS={now}\n");
            told = now;
        }
        if watchdog.is_some() {
            message += "WATCHDOG=1\n";
        }
        if !message.is_empty() {
            tell(std::mem::take(&mut message)).await;
        }
    }
    tell("STOPPING=1\nSTATUS=stopping: running downloads may finish\n".to_owned()).await;
}

/// Sends from a thread of its own: the socket blocks while the manager does not read.
async fn tell(message: String) {
    let sent =
        tokio::task::spawn_blocking(move || sd_notify::notify(&[NotifyState::Custom(message.trim_end())]));
    // That the thread itself failed means that the runtime ends.
    if let Ok(Err(e)) = sent.await {
        tracing::warn!("the service manager cannot be told: {e}");
    }
}
