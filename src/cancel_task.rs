//! Ends a bare tokio task, and waits for its end.

use tokio::task::{JoinError, JoinHandle};

/// Aborts a task that was spawned with [`tokio::spawn`] and waits until it has ended, its destructors included.
///
/// Yields the task's output if it had returned before it could be aborted, and `None` if it was aborted. The abort is
/// requested by the call itself; the returned future only waits.
///
/// This is for bare tokio tasks. A task of a [`Pool`](crate::Pool) is cancelled with
/// [`TaskHandle::cancel`](crate::TaskHandle::cancel). A bare task is in no pool: the pools that *it* has opened close
/// when it is aborted, but nobody waits for that.
///
/// Unlike `JoinHandle::abort`, it is ready only when the task has ended. Unlike awaiting an aborted handle, the abort
/// is no error here. A task that cancels itself ends at that `.await`.
///
/// # Errors
///
/// With tokio's own [`JoinError`] if the task panicked, before or while it was aborted.
///
/// # Cancel safety
///
/// This function is not cancel safe: the output of the task is lost. Dropping the returned future stops the waiting,
/// not the abort.
///
/// # Examples
///
/// ```
/// use aiodrive::cancel_task;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tokio::task::JoinError> {
/// let endless = tokio::spawn(std::future::pending::<()>());
/// assert_eq!(cancel_task(endless).await?, None);
///
/// let quick = tokio::spawn(async { 42 });
/// tokio::task::yield_now().await;
/// assert_eq!(cancel_task(quick).await?, Some(42));
/// # Ok(())
/// # }
/// ```
pub fn cancel_task<T>(task: JoinHandle<T>) -> impl Future<Output = Result<Option<T>, JoinError>> {
    task.abort();
    async {
        match task.await {
            Ok(output) => Ok(Some(output)),
            Err(error) if error.is_cancelled() => Ok(None),
            Err(error) => Err(error),
        }
    }
}
