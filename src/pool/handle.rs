//! A task's value, and the means to cancel it.
//!
//! A task with a handle has two more things than one without: a channel for its value, and a `HandleInner` that both share.
//! A task can be cancelled before it is spawned, while it waits in a queue, while it is just being spawned, and when it
//! runs. So cancelling first leaves a mark, and then aborts the task if it is there; and whoever spawns the task first
//! puts its abort handle there, and then looks at the mark. Whichever comes second sees the other.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll, ready};

use tokio::sync::oneshot;
use tokio::task::{self, AbortHandle};

use super::task::OutputSink;
use crate::error::TaskStopped;
use crate::scope::ErasedPool;

/// A task that was spawned with [`Pool::spawn_with_handle`](crate::Pool::spawn_with_handle): a future of its value.
///
/// The handle yields the value, or a [`TaskStopped`] that only marks what happened. The error or panic itself is
/// reported by the pool, exactly once, whether or not anybody looks at the handle.
///
/// When it is ready, the task has ended and its future is dropped. What that future has left behind, as a nested pool
/// that was cut short leaves its tasks, may still be ending then: the pool waits for that, the handle does not.
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
///             assert_eq!(lookup.await, Err(TaskStopped::Cancelled)); // and its future is dropped
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
    control: Arc<HandleInner>,
}

/// What a handle and its task share.
#[derive(Default)]
pub(super) struct HandleInner {
    /// The handle has asked for the task's end.
    cancelled: AtomicBool,
    /// The task has ended, or will never begin.
    ended: AtomicBool,
    /// Set when the task is spawned; until then it is planned, or was refused.
    abort: OnceLock<AbortHandle>,
    /// The pool in whose queue the task waits, or has waited, for its turn, and its key there.
    queue: OnceLock<(Weak<dyn ErasedPool>, u64)>,
}

impl<T> TaskHandle<T> {
    /// A handle, and what its task answers to.
    pub(super) fn new() -> (Self, Reply<T>) {
        let (sender, receiver) = oneshot::channel();
        let control = Arc::new(HandleInner::default());
        let reply = Reply { value: None, sender, control: MarkEnded(Arc::clone(&control)) };
        (Self { value: receiver, control }, reply)
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
        self.control.cancel();
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
        !self.value.is_empty() || self.value.is_terminated() || self.control.ended.load(Ordering::Acquire)
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
        self.control.abort.get().map(AbortHandle::id)
    }
}

impl<T> Future for TaskHandle<T> {
    type Output = Result<T, TaskStopped>;

    /// # Panics
    ///
    /// If polled again after it was ready.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let sent = ready!(Pin::new(&mut self.value).poll(cx));
        Poll::Ready(sent.unwrap_or(Err(TaskStopped::Cancelled)))
    }
}

impl<T> fmt::Debug for TaskHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskHandle").field("id", &self.id()).field("is_finished", &self.is_finished()).finish()
    }
}

impl HandleInner {
    /// The task has been spawned, maybe after it was cancelled.
    pub(super) fn spawned(&self, abort: AbortHandle) {
        let abort = self.abort.get_or_init(|| abort);
        if self.is_cancelled() {
            abort.abort();
        }
    }

    /// Whether the handle has asked for the task's end.
    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    /// The task is about to wait in a queue.
    pub(super) fn queued(&self, pool: &Arc<impl ErasedPool>, key: u64) {
        self.queue.get_or_init(|| (Arc::downgrade(pool) as Weak<dyn ErasedPool>, key));
    }

    /// Marks the task, and ends it, wherever it is by now.
    fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        if let Some(abort) = self.abort.get() {
            return abort.abort();
        }
        let queue = self.queue.get();
        if let Some((pool, key)) = queue.and_then(|(pool, key)| Some((pool.upgrade()?, *key))) {
            pool.drop_queued(key);
        }
    }
}

/// The task's side of a handle. One that is dropped unused belongs to a task that never ran: the handle says
/// `Cancelled`.
pub(super) struct Reply<T> {
    /// What the task has returned, until its end has been recorded.
    value: Option<T>,
    sender: oneshot::Sender<Result<T, TaskStopped>>,
    control: MarkEnded,
}

impl<T: Send + 'static, E> OutputSink<Result<T, E>, E> for Reply<T> {
    fn output(&mut self, output: Result<T, E>) -> Result<(), E> {
        self.value = Some(output?);
        Ok(())
    }

    fn forget(&mut self) {
        self.value = None;
    }

    fn ended(self, how: Result<(), TaskStopped>) {
        let Self { value, sender, control } = self;
        let answer = how.and_then(|()| value.ok_or(TaskStopped::Cancelled));
        let unwanted = sender.send(answer);
        drop(control);
        // Without a handle nobody wants the value.
        drop(unwanted);
    }

    fn control(&self) -> Option<Arc<HandleInner>> {
        Some(Arc::clone(&self.control.0))
    }

    fn is_cancelled(&self) -> bool {
        self.control.0.is_cancelled()
    }
}

/// Marks the task as ended when it is dropped, once the handle is ready.
struct MarkEnded(Arc<HandleInner>);

impl Drop for MarkEnded {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
    }
}
