//! What says only that something was stopped: a task, a pool, or a spawn.

use std::fmt::{self, Debug};

/// Why a [`TaskHandle`](crate::TaskHandle) has no value to give.
///
/// It only marks what happened: the error or the panic itself is in the [`PoolError`](crate::PoolError) of the task's
/// pool. So `?` can be used on a handle: once a pool is closing, a task or a body of it that returns a `TaskStopped`
/// adds no failure, unless it is [`NotReady`](Self::NotReady). [Errors and
/// panics](crate::docs::errors_and_panics#what-is-no-failure) says what it is before that.
///
/// # Examples
///
/// ```
/// use aiodrive::{OnFailure, Pool, TaskStopped};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let error = Pool::builder()
///     .on_failure(|_| OnFailure::Collect)
///     .open(async |pool: Pool| {
///         let connect = async { Err::<(), _>("connection refused".into()) };
///         let failed = pool.spawn_with_handle(connect);
///         assert_eq!(failed.await, Err(TaskStopped::Failed));
///         Ok(())
///     })
///     .await
///     .unwrap_err();
/// assert!(error.to_string().ends_with("failed: connection refused"));
/// # }
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TaskStopped {
    /// It was cancelled: by its handle, by its pool, by its runtime, or before it began.
    #[error("task was cancelled")]
    Cancelled,
    /// It returned an error.
    #[error("task failed")]
    Failed,
    /// It panicked.
    #[error("task panicked")]
    Panicked,
    /// It was [started](crate::Pool::start), and ended or went on without ever saying that it was ready.
    #[error("task never said that it was ready")]
    NotReady,
}

/// A task that was not spawned because the pool is closed, given back by [`Pool::try_spawn`](crate::Pool::try_spawn).
///
/// Like the error of a channel whose receiver is gone, it holds what could not be delivered: the future, never polled.
///
/// # Examples
///
/// ```
/// let pool: aiodrive::Pool = aiodrive::Pool::new();
/// pool.cancel();
/// assert_eq!(pool.try_spawn(async {}).unwrap_err().to_string(), "the pool is closed");
/// ```
#[derive(thiserror::Error)]
#[error("the pool is closed")]
pub struct SpawnError<F>(pub(crate) F);

impl<F> SpawnError<F> {
    /// The future, never polled.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let (pool, other): (Pool, Pool) = (Pool::new(), Pool::new());
    /// pool.cancel();
    /// if let Err(refused) = pool.try_spawn(async {}) {
    ///     other.spawn(refused.into_inner());
    /// }
    /// assert_eq!(other.len(), 1);
    /// # }
    /// ```
    #[must_use]
    pub fn into_inner(self) -> F {
        self.0
    }
}

impl<F> Debug for SpawnError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SpawnError(..)")
    }
}

/// What an error says that says only that something was stopped. It is also the cause that a
/// [`PoolError`](super::PoolError) gives that says only this, and a [`TaskError`](super::TaskError) of a task that was cut
/// off, whatever their types.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum CancelledError {
    /// Something was cancelled. It is no failure once the pool at which that arrives is closing, nor if the handle of
    /// the task that passes it on has cancelled that task.
    #[error("it was stopped")]
    Cancelled,
    /// A task has failed or panicked. It is no failure either if the pool at which that arrives has seen that.
    #[error("another task failed")]
    Failed,
}

/// What the pool's `is_cancellation` says of an error.
pub(crate) type IsCancellation<E> = dyn Fn(&E) -> bool + Send + Sync;
