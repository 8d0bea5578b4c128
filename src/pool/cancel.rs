//! What closes a pool from outside, and how to wait for that.
//!
//! All of these only begin the closing, or wait for its beginning; the steps are in [`closing`](super::closing).

use std::borrow::Cow;
use std::sync::Arc;

#[cfg(feature = "signal")]
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};

use super::{Pool, TaskBuilder};
use crate::error::ClosingReason;
#[cfg(feature = "signal")]
use crate::error::catch;
use crate::scope::TaskKind;
#[cfg(feature = "signal")]
use crate::shutdown_signal::ShutdownSignals;

/// To close the pool, and to wait for that.
impl<E: Send + 'static> Pool<E> {
    /// Begins to close the pool: all tasks and the body are [cancelled, and joined](Self#how-a-pool-closes). That is no
    /// failure.
    ///
    /// This does not wait: `open` or `run` returns when all tasks have ended. A second call changes nothing; to end a
    /// grace that has begun, call [`abort`](Self::abort). A planned pool that is cancelled drops its tasks unpolled,
    /// and ends as soon as it is run.
    ///
    /// Unlike cancelling a bare `CancellationToken`, it ends tasks that do not listen.
    ///
    /// # Panics
    ///
    /// With the panic of a waker that waits for the closing, or of the destructor of a planned task, after the pool has
    /// begun to close.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let pool: Pool = Pool::new();
    /// pool.spawn(std::future::pending::<()>());
    /// let stop = pool.clone();
    /// pool.spawn(async move { stop.cancel() });
    /// pool.run().await.unwrap();
    /// # }
    /// ```
    pub fn cancel(&self) {
        self.shared.close(ClosingReason::cancelled(None));
    }

    /// Like [`cancel`](Self::cancel), with a reason: for [`closing_reason`](Self::closing_reason), and for the error
    /// that [`open`](Self::open) may return.
    ///
    /// The first reason stays.
    ///
    /// # Panics
    ///
    /// As [`cancel`](Self::cancel) does.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let error = Pool::open(async |pool: Pool| {
    ///     pool.cancel_with("deployment");
    ///     std::future::pending::<()>().await;
    ///     Ok(())
    /// })
    /// .await
    /// .unwrap_err();
    /// assert_eq!(error.to_string(), "pool cancelled: deployment");
    /// # }
    /// ```
    pub fn cancel_with(&self, reason: impl Into<Cow<'static, str>>) {
        self.shared.close(ClosingReason::cancelled(Some(Arc::from(reason.into()))));
    }

    /// Cancels the pool when `signal` is ready. Its output is dropped.
    ///
    /// The pool awaits the signal until the pool begins to close, then drops it. The signal is a watcher: it holds the
    /// pool open only if that is [kept open](crate::PoolBuilder::keep_open), costs no grace, and is at no depth.
    /// [`len`](Self::len) does not count it; [`tree`](Self::tree) shows it as a daemon with the name `cancel_on` and
    /// the line of this call. It is first polled when the pool runs; if it must not miss anything from this call on,
    /// pass a [`prime`](crate::prime())d future. It can be anything that is awaited: a `CancellationToken`, a timer, a
    /// [`LatchEvent`](crate::LatchEvent).
    ///
    /// For signals of the operating system, use `cancel_on_signals`. Do not put `cancel_on(shutdown_signal())` beside
    /// `abort_on(shutdown_signal())`: both hear the *first* signal.
    ///
    /// A signal that panics is a failure of the pool.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let pool: Pool = Pool::new();
    /// pool.spawn(std::future::pending::<()>());
    /// pool.cancel_on(tokio::time::sleep(Duration::from_secs(60)));
    /// let tree = pool.tree();
    /// let watcher = tree.nodes().find(|node| node.name() == Some("cancel_on")).unwrap();
    /// assert!(watcher.is_daemon());
    /// pool.run().await.unwrap();
    /// # }
    /// ```
    #[track_caller]
    pub fn cancel_on<F: Future + Send + 'static>(&self, signal: F) {
        // No handle of the pool is kept in the watcher, which in a planned pool would be kept in the pool.
        TaskBuilder::watcher(self, "cancel_on", TaskKind::Canceller).spawn(async {
            drop(signal.await);
            Self::current().cancel();
        });
    }

    /// Cancels the pool at `deadline`, a point in time of tokio's clock. The last call counts: it replaces the deadline
    /// of an earlier call, and `None` removes it.
    ///
    /// So an idle timeout moves its deadline at each sign of life. A deadline in the past cancels at once. Like
    /// [`cancel_on`](Self::cancel_on), this is a watcher of the pool, with the name `cancel_at`; the
    /// [`closing_reason`](Self::closing_reason) is [`Deadline`](ClosingReason::Deadline).
    ///
    /// In a runtime without timers the watcher panics, which is a failure of the pool.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use aiodrive::Pool;
    /// use tokio::time::{Instant, sleep};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let begin = Instant::now();
    /// let pool: Pool = Pool::new();
    /// let idle = pool.clone();
    /// pool.spawn(async move {
    ///     for _ in 0..3 {
    ///         idle.cancel_at(Some(Instant::now() + Duration::from_secs(10)));
    ///         sleep(Duration::from_secs(2)).await; // a sign of life
    ///     }
    ///     std::future::pending::<()>().await
    /// });
    /// pool.run().await.unwrap();
    /// assert_eq!(begin.elapsed(), Duration::from_secs(14));
    /// # }
    /// ```
    #[track_caller]
    pub fn cancel_at(&self, deadline: Option<Instant>) {
        let Some(mut deadline) = self.shared.set_deadline(deadline) else { return };
        TaskBuilder::watcher(self, "cancel_at", TaskKind::Canceller).spawn(async move {
            loop {
                let at = *deadline.borrow_and_update();
                match timeout_at(at, deadline.changed()).await {
                    Ok(Ok(())) => {}
                    // It was taken back.
                    Ok(Err(_)) => return,
                    Err(_) => return Self::current().shared.close(ClosingReason::Deadline),
                }
            }
        });
    }

    /// Closes the pool at once: like [`cancel`](Self::cancel), but without a grace, for this pool and all nested ones.
    /// All tasks are aborted, down to the last nested pool. Only [`shield`](crate::shield())ed work and the handlers of
    /// [`with_exit`](crate::with_exit()) run on; the pool waits for them.
    ///
    /// [Depths](TaskBuilder::depth) are aborted one after the other: a lower one, and the body at depth 0, runs on
    /// until all above has ended.
    ///
    /// It also ends a grace that has begun. So a service cancels at the first signal, and aborts at the second.
    ///
    /// # Panics
    ///
    /// As [`cancel`](Self::cancel) does.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// # let begin = tokio::time::Instant::now();
    /// let pool: Pool = Pool::builder().grace(Duration::from_secs(60)).build();
    /// pool.spawn(std::future::pending::<()>());
    /// let admin = pool.clone();
    /// pool.spawn(async move {
    ///     admin.cancel();
    ///     tokio::time::sleep(Duration::from_secs(1)).await;
    ///     admin.abort();
    /// });
    /// pool.run().await.unwrap(); // after one second, not sixty
    /// # assert_eq!(begin.elapsed(), Duration::from_secs(1));
    /// # }
    /// ```
    pub fn abort(&self) {
        self.shared.abort_for(ClosingReason::Aborted);
    }

    /// Aborts the pool when `signal` is ready. Its output is dropped.
    ///
    /// As [`cancel_on`](Self::cancel_on), but the signal is awaited until everything else has ended.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// # let begin = tokio::time::Instant::now();
    /// let pool: Pool = Pool::builder().grace(Duration::from_secs(60)).build();
    /// pool.spawn(std::future::pending::<()>());
    /// pool.cancel_on(tokio::time::sleep(Duration::from_secs(1)));
    /// pool.abort_on(tokio::time::sleep(Duration::from_secs(5)));
    /// pool.run().await.unwrap(); // after five seconds
    /// # assert_eq!(begin.elapsed(), Duration::from_secs(5));
    /// # }
    /// ```
    #[track_caller]
    pub fn abort_on<F: Future + Send + 'static>(&self, signal: F) {
        TaskBuilder::watcher(self, "abort_on", TaskKind::Aborter).spawn(async {
            drop(signal.await);
            Self::current().abort();
        });
    }

    /// Cancels the pool at the first SIGINT or SIGTERM (on Windows, Ctrl-C or Ctrl-Break), and aborts it at the second.
    ///
    /// It listens from this call on, or, if that is outside of a runtime, from the first poll of its watcher, soon
    /// after the pool begins to run. It is a watcher like that of [`cancel_on`](Self::cancel_on). For anything else,
    /// such as a message between the two, use [`ShutdownSignals`].
    ///
    /// In a runtime without the I/O driver the watcher panics, which is a failure of the pool.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use aiodrive::{Pool, PoolError};
    ///
    /// # async fn serve() -> Result<(), aiodrive::BoxError> { Ok(()) }
    /// #[tokio::main]
    /// async fn main() -> Result<(), PoolError> {
    ///     let pool: Pool = Pool::builder().grace(Duration::from_secs(10)).build();
    ///     pool.cancel_on_signals();
    ///     pool.spawn(serve());
    ///     pool.run().await
    /// }
    /// ```
    #[cfg(feature = "signal")]
    #[track_caller]
    pub fn cancel_on_signals(&self) {
        let signals = Handle::try_current().ok().and_then(|_| catch(ShutdownSignals::new).ok());
        TaskBuilder::watcher(self, "cancel_on_signals", TaskKind::Aborter).spawn(async {
            let mut signals = signals.unwrap_or_else(ShutdownSignals::new);
            signals.recv().await;
            Self::current().cancel();
            signals.recv().await;
            Self::current().abort();
        });
    }

    /// Waits until the pool has begun to close, for whatever reason.
    ///
    /// This follows the pool as a whole. A task that wants to know when *it* should stop, at its own depth, takes its
    /// [`cancellation_token`](crate::cancellation_token()).
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe. If another branch of a `tokio::select!` completes first, it is guaranteed that the
    /// pool is as it was.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let pool: Pool = Pool::new();
    /// let sink = tokio::spawn({
    ///     let pool = pool.clone();
    ///     async move { pool.cancelled().await }
    /// });
    /// pool.spawn(async { Err("no such host".into()) });
    /// pool.run().await.unwrap_err();
    /// sink.await.unwrap();
    /// # }
    /// ```
    pub async fn cancelled(&self) {
        self.shared.wait_closing().await;
    }
}
