//! The signals by which the operating system stops a service.

use std::future::poll_fn;
use std::panic::Location;

use crate::scope::Reporter;

/// Waits for SIGINT or SIGTERM, or for Ctrl-C or Ctrl-Break on Windows.
///
/// It listens from its first poll on. Until then, a signal ends the process as usual; to listen from the call on,
/// [`prime`](crate::prime()) it. After that, these signals no longer end the process, even when the future has been
/// dropped, as in tokio.
///
/// For a second signal, use [`ShutdownSignals`], which loses none between two calls, or
/// [`Pool::cancel_on_signals`](crate::Pool::cancel_on_signals).
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
#[track_caller]
pub fn shutdown_signal() -> impl Future<Output = ()> + Send {
    let reporter = Reporter::new("shutdown_signal", Location::caller());
    async move {
        reporter.runtime("polled");
        ShutdownSignals::listen().recv().await;
    }
}

/// The signals that stop this process, one after the other: SIGINT and SIGTERM, or Ctrl-C and Ctrl-Break on Windows.
///
/// It listens from [`new`](Self::new) on, and no signal that comes between two calls of [`recv`](Self::recv) is lost.
/// As in tokio, several of the same kind count as one if they come before a call. Once a process has listened, these
/// signals never again end it by themselves.
///
/// For the usual case, *the first cancels, the second aborts*, there is
/// [`Pool::cancel_on_signals`](crate::Pool::cancel_on_signals).
///
/// # Examples
///
/// ```no_run
/// use aiodrive::{Pool, ShutdownSignals};
///
/// # #[tokio::main]
/// # async fn main() {
/// let pool: Pool = Pool::new();
/// let mut signals = ShutdownSignals::new();
/// let admin = pool.clone();
/// pool.build_task().daemon().spawn(async move {
///     signals.recv().await;
///     println!("stopping; press Ctrl-C once more to stop at once");
///     admin.cancel();
/// });
/// # }
/// ```
#[derive(Debug)]
pub struct ShutdownSignals(imp::Signals);

impl ShutdownSignals {
    /// Listens from now on.
    ///
    /// # Panics
    ///
    /// - Outside of a tokio runtime, or in one without the I/O driver.
    /// - If the operating system does not let it listen.
    #[must_use]
    #[track_caller]
    #[expect(clippy::new_without_default, reason = "it begins to listen, and can panic")]
    pub fn new() -> Self {
        Reporter::new("ShutdownSignals::new", Location::caller()).runtime("called");
        Self::listen()
    }

    #[track_caller]
    fn listen() -> Self {
        Self(imp::Signals::new().expect("the operating system lets a process listen to its signals"))
    }

    /// Waits for the next signal.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe. If another branch of a `tokio::select!` completes first, it is guaranteed that no
    /// signal was taken.
    ///
    /// # Examples
    ///
    /// See [`ShutdownSignals`].
    pub async fn recv(&mut self) {
        poll_fn(|cx| self.0.poll_recv(cx)).await;
    }
}

/// SIGINT and SIGTERM.
#[cfg(unix)]
mod imp {
    use std::io;
    use std::task::{Context, Poll};

    use tokio::signal::unix::{Signal, SignalKind, signal};

    #[derive(Debug)]
    pub(super) struct Signals([Signal; 2]);

    impl Signals {
        #[track_caller]
        pub(super) fn new() -> io::Result<Self> {
            Ok(Self([signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?]))
        }

        pub(super) fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<()> {
            let came = self.0.iter_mut().any(|signal| signal.poll_recv(cx).is_ready());
            if came { Poll::Ready(()) } else { Poll::Pending }
        }
    }
}

/// Ctrl-C and Ctrl-Break.
#[cfg(windows)]
mod imp {
    use std::io;
    use std::task::{Context, Poll};

    use tokio::signal::windows::{CtrlBreak, CtrlC, ctrl_break, ctrl_c};

    #[derive(Debug)]
    pub(super) struct Signals(CtrlC, CtrlBreak);

    impl Signals {
        #[track_caller]
        pub(super) fn new() -> io::Result<Self> {
            Ok(Self(ctrl_c()?, ctrl_break()?))
        }

        pub(super) fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<()> {
            let came = self.0.poll_recv(cx).is_ready() || self.1.poll_recv(cx).is_ready();
            if came { Poll::Ready(()) } else { Poll::Pending }
        }
    }
}
