//! What the outside world says to a service that is to stop.

/// Waits until the process is asked to stop: by SIGINT or SIGTERM, or by Ctrl-C or Ctrl-Break on Windows.
///
/// It listens from its first poll on. Until then, a signal ends the process as usual; to listen from the call on,
/// [`prime`](crate::prime()) it. After that, these signals no longer end the process, even when the future has been
/// dropped: so it is in tokio. Call this a second time to learn of a second signal.
///
/// Unlike [`tokio::signal::ctrl_c`], it also hears SIGTERM, which is what service managers and containers send.
///
/// # Panics
///
/// - When polled outside of a tokio runtime, or in one without the I/O driver.
/// - If the operating system does not let it listen.
///
/// # Cancel safety
///
/// This function is not cancel safe: a signal that comes while nobody waits is lost.
///
/// # Examples
///
/// ```no_run
/// use std::time::Duration;
/// use aiodrive::{Pool, PoolError, shutdown_signal};
///
/// # async fn serve() -> Result<(), aiodrive::BoxError> { Ok(()) }
/// #[tokio::main]
/// async fn main() -> Result<(), PoolError> {
///     let pool: Pool = Pool::builder().grace(Duration::from_secs(10)).build();
///     pool.cancel_on(shutdown_signal());
///     pool.spawn(serve());
///     pool.run().await
/// }
/// ```
pub async fn shutdown_signal() {
    imp::shutdown_signal().await.expect("the operating system lets a process listen to its signals");
}

/// SIGINT and SIGTERM.
#[cfg(unix)]
mod imp {
    use std::future::poll_fn;
    use std::io;
    use std::task::Poll;

    use tokio::signal::unix::{SignalKind, signal};

    pub(super) async fn shutdown_signal() -> io::Result<()> {
        let mut signals = [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?];
        poll_fn(|cx| {
            let came = signals.iter_mut().any(|signal| signal.poll_recv(cx).is_ready());
            if came { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
        .await
    }
}

/// Ctrl-C and Ctrl-Break.
#[cfg(windows)]
mod imp {
    use std::future::poll_fn;
    use std::io;
    use std::task::Poll;

    use tokio::signal::windows::{ctrl_break, ctrl_c};

    pub(super) async fn shutdown_signal() -> io::Result<()> {
        let (mut ctrl_c, mut ctrl_break) = (ctrl_c()?, ctrl_break()?);
        poll_fn(|cx| {
            let came = ctrl_c.poll_recv(cx).is_ready() || ctrl_break.poll_recv(cx).is_ready();
            if came { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
        .await
    }
}
