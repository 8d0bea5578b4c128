//! What becomes of a task's output: what it may be, who takes it, and the handle that gives a value and can cancel.
//!
//! A task with a handle has two more things than one without: a channel for its value, and a [`HandleInner`] that the
//! handle and the task share.
//!
//! A task can be cancelled before it is spawned, while it waits in a queue, while it is just being spawned, and when it
//! runs. So cancelling first leaves a mark, and then aborts the task if it is there; and whoever spawns the task first
//! puts its abort handle there, and then looks at the mark. Whichever comes second sees the other.
//!
//! What a task may return is said by a trait, and not by a bound on `Into`, for the sake of inference: with one `impl`
//! for a `Result`, an async block that ends with `Ok(())` or with an error that has to be converted has the pool's error
//! type, and needs no annotation.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll, ready};

use tokio::sync::oneshot;
use tokio::task::{self, AbortHandle};

use crate::error::TaskStopped;
use crate::scope::{Scope, TaskKey};

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
    /// Closed without an answer by a task that was refused, or whose pool never ran.
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
        // What a task has left behind that ended by itself is the pool's.
        if !self.is_finished() {
            self.inner.cancel();
        }
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
        // The value is there a moment before the task is marked; a task that was refused leaves only the mark.
        !self.value.is_empty() || self.value.is_terminated() || self.inner.has_ended()
    }

    /// The task's id, as tokio shows it; `None` while it is planned, or if the pool refused it. A closure that had to
    /// wait for its turn keeps the id of the task that waited.
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

/// The task's side of a handle. One that is dropped unused belongs to a task that was refused, or whose pool never ran:
/// the handle says `Cancelled`.
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

// ===== what a task may return =====

/// What a task of a `Pool<E>` may return: `()`, `!`, [`Infallible`], or `Result<(), E>`.
///
/// There is no other `Result` among them, and that is what lets the compiler infer the error type of an async block.
/// This trait is sealed.
///
/// # Examples
///
/// ```
/// use aiodrive::Pool;
///
/// async fn job() -> std::io::Result<()> {
///     Ok(())
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let outcome: Result<(), aiodrive::PoolError> = Pool::open(async |pool| {
///     pool.spawn(async {});
///     pool.spawn(async {
///         job().await?;
///         Ok(())
///     });
///     Ok(())
/// })
/// .await;
/// outcome.unwrap();
/// # }
/// ```
///
/// A value has nowhere to go:
///
/// ```compile_fail,E0277
/// let pool: aiodrive::Pool = aiodrive::Pool::new();
/// pool.spawn(async { 42 });
/// ```
#[diagnostic::on_unimplemented(
    message = "a task of a `Pool<{E}>` cannot return `{Self}`",
    label = "returns `{Self}`",
    note = "a task returns `()`, `!` or `Result<(), {E}>`; to get a value out of it, use `spawn_with_handle`",
    note = "if it returns a `Result` with another error or with a value, wrap it: `async {{ task.await?; Ok(()) }}`"
)]
pub trait TaskOutput<E>: sealed::Sealed<E> {}

impl<E> TaskOutput<E> for () {}
#[doc(hidden)]
impl<E> TaskOutput<E> for Never {}
impl<E> TaskOutput<E> for Infallible {}
impl<E> TaskOutput<E> for Result<(), E> {}

mod sealed {
    /// Not part of the interface.
    pub trait Sealed<E> {
        /// Whether the task has failed.
        fn into_result(self) -> Result<(), E>;
    }

    /// What a function pointer returns.
    pub trait Returns {
        /// `!`, for `fn() -> !`.
        type Type;
    }
}

impl<E> sealed::Sealed<E> for () {
    fn into_result(self) -> Result<(), E> {
        Ok(self)
    }
}

impl<E> sealed::Sealed<E> for Never {
    fn into_result(self) -> Result<(), E> {
        self
    }
}

impl<E> sealed::Sealed<E> for Infallible {
    fn into_result(self) -> Result<(), E> {
        match self {}
    }
}

impl<E> sealed::Sealed<E> for Result<(), E> {
    fn into_result(self) -> Result<(), E> {
        self
    }
}

/// `!`, which stable Rust can name only as what a function pointer returns.
type Never = <fn() -> ! as sealed::Returns>::Type;

impl<T> sealed::Returns for fn() -> T {
    type Type = T;
}

/// Who, besides the pool, wants to know how a task ends.
pub(super) trait OutputSink<O, E>: Send + 'static {
    /// The task is about to be polled, or to be dropped.
    fn before_poll(&mut self) {}

    /// The poll is over, and the task is not.
    fn after_poll(&mut self) {}

    /// Takes the output: keeps a value, gives an error on to the pool.
    fn accept(&mut self, output: O) -> Result<(), E>;

    /// Drops a value that nobody will get, since the task has failed after it was there.
    fn discard(&mut self) {}

    /// The task has ended, and a failure of it has been recorded.
    fn complete(self, how: Result<(), TaskStopped>);

    /// What the sink aborts the task by, if it can.
    fn handle(&self) -> Option<&Arc<HandleInner>> {
        None
    }
}

/// Nobody but the pool.
pub(super) struct NoHandle;

impl<O: TaskOutput<E>, E> OutputSink<O, E> for NoHandle {
    fn accept(&mut self, output: O) -> Result<(), E> {
        output.into_result()
    }

    fn complete(self, _: Result<(), TaskStopped>) {}
}

// ===== what handle and task share =====

#[derive(Default)]
pub(super) struct HandleInner {
    /// The handle has cancelled the task.
    cancelled: AtomicBool,
    /// The task has ended, or will never begin.
    ended: AtomicBool,
    /// Set when the task is spawned; until then it is planned, or was refused.
    task: OnceLock<AbortHandle>,
    /// A closure that had to wait for its turn is spawned a second time, on a thread.
    closure: OnceLock<AbortHandle>,
    /// Where the task is, for what is nested in it.
    place: OnceLock<(Weak<Scope>, TaskKey)>,
}

impl HandleInner {
    /// The task has been spawned, maybe after it was cancelled.
    pub(super) fn spawned(&self, abort: AbortHandle) {
        if let Err(abort) = self.task.set(abort) {
            drop(self.closure.set(abort));
        }
        if self.is_cancelled() {
            self.abort();
        }
    }

    /// The task is about to be spawned in this scope.
    pub(super) fn placed(&self, scope: &Arc<Scope>, key: Option<TaskKey>) {
        if let Some(key) = key {
            self.place.get_or_init(|| (Arc::downgrade(scope), key));
        }
    }

    fn cancel(&self) {
        // Stored before the look at what is spawned, as `spawned` does it the other way round: one sees the other.
        self.cancelled.store(true, Ordering::SeqCst);
        self.abort();
    }

    fn abort(&self) {
        // What is nested in the task hears of it after tokio has. If tokio does not have the task yet, `spawned` will
        // abort it.
        let Some(task) = self.task.get() else { return };
        task.abort();
        self.closure.get().into_iter().for_each(AbortHandle::abort);
        if let Some((scope, key)) = self.place.get() {
            scope.upgrade().iter().for_each(|scope| scope.abort_nested_in(*key));
            self.forget_ended();
        }
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        if self.is_cancelled() {
            self.forget_ended();
        }
    }

    /// Takes the mark off a task that has ended. Who comes second, of its end and an abort, sees the other.
    fn forget_ended(&self) {
        if let (true, Some((scope, key))) = (self.has_ended(), self.place.get()) {
            scope.upgrade().iter().for_each(|scope| scope.forget_task(*key));
        }
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    fn id(&self) -> Option<task::Id> {
        self.task.get().map(AbortHandle::id)
    }
}
