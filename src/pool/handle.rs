//! A task's value, and the means to cancel it.
//!
//! A task with a handle has two more things than one without: a channel for its value, and a `HandleInner` that both share.
//! A task can be cancelled before it is spawned, while it waits in a queue, while it is just being spawned, and when it
//! runs. So cancelling first leaves a mark, and then aborts the task if it is there; and whoever spawns the task first
//! puts its abort handle there, and then looks at the mark. Whichever comes second sees the other.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::oneshot;
use tokio::task;

use super::handle_inner::HandleInner;
use super::output::OutputSink;
use crate::error::TaskStopped;

/// A task that was spawned with [`Pool::spawn_with_handle`](crate::Pool::spawn_with_handle): a future of its value.
///
/// The handle yields the value, or a [`TaskStopped`] that only marks what happened. The error or panic itself is
/// reported by the pool, exactly once, whether or not anybody looks at the handle.
///
/// When it is ready, the task has ended and its future is dropped. Tasks that the future has left behind, such as those
/// of a nested pool that was cut short, may still be ending then: the pool waits for them, the handle does not.
///
/// Unlike tokio's `JoinHandle`, it does not detach the task when it is dropped: the pool still owns it. The handle can
/// outlive the pool, and never holds it open.
///
/// # Panics
///
/// If it is polled again after it was ready.
///
/// # Cancel safety
///
/// Awaiting a `TaskHandle` by reference is cancel safe. If another branch of a `tokio::select!` completes first, it is
/// guaranteed that the value has not been taken.
///
/// # Examples
///
/// ```
/// use aiodrive::Pool;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), aiodrive::PoolError> {
/// let sum = Pool::open(async |pool: Pool| {
///     let left = pool.spawn_with_handle(async { Ok(40) });
///     let right = pool.spawn_with_handle(async { Ok(2) });
///     Ok(left.await? + right.await?)
/// })
/// .await?;
/// assert_eq!(sum, 42);
/// # Ok(())
/// # }
/// ```
///
/// A task that is not wanted any more:
///
/// ```
/// use std::time::Duration;
/// use aiodrive::{Pool, TaskStopped};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), aiodrive::PoolError> {
/// Pool::open(async |pool: Pool| {
///     let mut lookup = pool.spawn_with_handle(std::future::pending::<Result<u32, _>>());
///     tokio::select! {
///         found = &mut lookup => println!("{}", found?),
///         () = tokio::time::sleep(Duration::from_secs(1)) => {
///             lookup.cancel();
///             // When it is ready, the future of the task is dropped.
///             assert_eq!(lookup.await, Err(TaskStopped::Cancelled));
///         }
///     }
///     Ok(())
/// })
/// .await
/// # }
/// ```
#[must_use = "without its value, `spawn` is enough"]
pub struct TaskHandle<T> {
    /// Closed without an answer by a task that never ran.
    value: oneshot::Receiver<Result<T, TaskStopped>>,
    inner: Arc<HandleInner>,
}

impl<T> TaskHandle<T> {
    /// A handle, and what its task answers to.
    pub(super) fn new() -> (Self, HandleSender<T>) {
        let (sender, receiver) = oneshot::channel();
        let inner = Arc::<HandleInner>::default();
        let reply = HandleSender { value: None, sender, inner: MarkEnded(Arc::clone(&inner)) };
        (Self { value: receiver, inner }, reply)
    }

    /// Aborts the task, at once and without a [`grace`](crate::PoolBuilder::grace): it ends at its next `.await`, or
    /// before it begins. That is no failure.
    ///
    /// This does not wait: await the handle to do so. A task that has ended stays as it is, and a blocking closure that
    /// has begun runs to its end.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::{Pool, TaskStopped};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), aiodrive::PoolError> {
    /// Pool::open(async |pool: Pool| {
    ///     let endless = pool.spawn_with_handle(std::future::pending::<Result<(), _>>());
    ///     endless.cancel();
    ///     assert_eq!(endless.await, Err(TaskStopped::Cancelled));
    ///     Ok(())
    /// })
    /// .await
    /// # }
    /// ```
    pub fn cancel(&self) {
        self.inner.cancel();
    }

    /// Whether the task has ended, in whatever way; the handle is ready then. A task that has been cancelled has not
    /// ended before its future is dropped.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let pool: aiodrive::Pool = aiodrive::Pool::new();
    /// let answer = pool.spawn_with_handle(async { Ok(42) });
    /// assert!(!answer.is_finished());
    /// pool.run().await.unwrap();
    /// assert!(answer.is_finished());
    /// # }
    /// ```
    #[must_use]
    pub fn is_finished(&self) -> bool {
        // The value is there a moment before the task is marked; a task that never ran leaves only the mark.
        !self.value.is_empty() || self.value.is_terminated() || self.inner.has_ended()
    }

    /// The task's id, as tokio shows it; `None` while it is planned or waits for its turn, or if the pool refused it.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), aiodrive::PoolError> {
    /// Pool::open(async |pool: Pool| {
    ///     let task = pool.spawn_with_handle(async { Ok(tokio::task::id()) });
    ///     let id = task.id();
    ///     assert_eq!(id, Some(task.await?));
    ///     Ok(())
    /// })
    /// .await
    /// # }
    /// ```
    #[must_use]
    pub fn id(&self) -> Option<task::Id> {
        self.inner.id()
    }
}

impl<T> Future for TaskHandle<T> {
    type Output = Result<T, TaskStopped>;

    /// # Panics
    ///
    /// If polled again after it was ready.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        assert!(!self.value.is_terminated(), "a `TaskHandle` was polled after it was ready");
        let sent = ready!(Pin::new(&mut self.value).poll(cx));
        Poll::Ready(sent.unwrap_or(Err(TaskStopped::Cancelled)))
    }
}

impl<T> fmt::Debug for TaskHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskHandle").field("id", &self.id()).field("is_finished", &self.is_finished()).finish()
    }
}

/// The task's side of a handle. One that is dropped unused belongs to a task that never ran: the handle says
/// `Cancelled`.
pub(super) struct HandleSender<T> {
    /// What the task has returned, until its end has been recorded.
    value: Option<T>,
    sender: oneshot::Sender<Result<T, TaskStopped>>,
    inner: MarkEnded,
}

impl<T: Send + 'static, E> OutputSink<Result<T, E>, E> for HandleSender<T> {
    fn accept(&mut self, output: Result<T, E>) -> Result<(), E> {
        self.value = Some(output?);
        Ok(())
    }

    fn discard(&mut self) {
        self.value = None;
    }

    fn complete(self, how: Result<(), TaskStopped>) {
        let Self { value, sender, inner } = self;
        let answer = how.and_then(|()| value.ok_or(TaskStopped::Cancelled));
        let unwanted = sender.send(answer);
        drop(inner);
        // Without a handle nobody wants the value.
        drop(unwanted);
    }

    fn handle(&self) -> Option<&Arc<HandleInner>> {
        Some(&self.inner.0)
    }
}

/// Marks the task as ended when it is dropped, once the handle is ready.
struct MarkEnded(Arc<HandleInner>);

impl Drop for MarkEnded {
    fn drop(&mut self) {
        self.0.end();
    }
}
