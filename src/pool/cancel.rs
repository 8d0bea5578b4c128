//! How a pool is told to close, and how to hear of it.
//!
//! All of these only begin the closing, or wait for that beginning; the steps are in [`closing`](super::closing).

use std::borrow::Cow;

use super::Pool;
use super::builder::shared_str;
use crate::cancellation_token::cancellation_token;
use crate::error::ClosingReason;

/// To close the pool, and to hear of it.
impl<E: Send + 'static> Pool<E> {
    /// Begins to close the pool: all tasks and the body are [cut off and joined](Self#how-a-pool-closes). That is no
    /// failure.
    ///
    /// This does not wait: `open` or `run` returns when all has ended. Cancelling twice is cancelling once. Cancelling
    /// a planned pool drops its tasks unpolled, and it ends as soon as it is run.
    ///
    /// Unlike cancelling a bare `CancellationToken`, it ends tasks that do not listen.
    ///
    /// # Panics
    ///
    /// With the panic of a waker of somebody who waits for the closing, or of the destructor of a planned task, after the
    /// pool has been closed.
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
        self.shared.close(ClosingReason::cancelled(Some(shared_str(reason.into()))));
    }

    /// Cancels the pool when `signal` is ready. Its output is dropped.
    ///
    /// The signal is awaited in a [daemon](super::TaskBuilder::daemon), until the pool closes. That is a task of the
    /// pool with the name `cancel_on`, which [`len`](Self::len) counts and [`tree`](Self::tree) shows, with the line of
    /// this call. The signal is first polled when the daemon first runs; if it must not miss anything from this call on,
    /// pass a [`prime`](crate::prime())d future. It can be anything that is awaited: `shutdown_signal()` of the feature
    /// `signal`, a `CancellationToken`, a timer, a [`LatchEvent`](crate::LatchEvent).
    ///
    /// If the signal panics, that is a failure of the pool.
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
    /// pool.cancel_on(tokio::time::sleep(Duration::from_secs(60))); // or `shutdown_signal()`
    /// assert!(pool.tree().nodes().any(|node| node.name() == Some("cancel_on") && node.is_daemon()));
    /// pool.run().await.unwrap();
    /// # }
    /// ```
    #[track_caller]
    pub fn cancel_on<F: Future + Send + 'static>(&self, signal: F) {
        // No handle of the pool is kept in the task, which in a planned pool would be kept in the pool.
        self.build_task().name("cancel_on").daemon().spawn(async {
            let asked = cancellation_token();
            if asked.run_until_cancelled(signal).await.is_some() {
                Self::current().cancel();
            }
        });
    }

    /// Waits until the pool has begun to close, for whatever reason.
    ///
    /// This follows the pool as a whole. A task that is to hear when *it* should stop, at its own depth, asks for its
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
        self.shared.closing().await;
    }
}
