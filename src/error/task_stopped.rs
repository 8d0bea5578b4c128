//! Why a handle has no value.

/// Why a [`TaskHandle`](crate::TaskHandle) has no value to give.
///
/// It only marks what happened: the error or the panic itself is in the [`PoolError`](crate::PoolError) of the task's
/// pool. So `?` can be used on a handle: a task or a body that returns a `TaskStopped` does not add a failure to that,
/// unless it is [`NotReady`](Self::NotReady).
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
///         let failed = pool.spawn_with_handle(async { Err::<(), _>("connection refused".into()) });
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
