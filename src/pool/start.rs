//! Two-phase start: a task that says when it is ready.
//!
//! The caller of `start` gets exactly one answer: the value that the task is ready with, how it ended if it ended
//! before, or that it will never be ready. The first is given by the [`Started`], the second by the task's end. The
//! third is for a `Started` that was dropped; but a task that fails drops its `Started` as well, a moment before its
//! failure is known, and should answer with that. So a drop during a poll of the task says nothing until the poll is
//! over.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use super::handle::{OutputSink, TaskOutput};
use crate::error::TaskStopped;

/// With this, a task that was [started](crate::Pool::start) says that it is ready.
///
/// Dropping it unused means that the task will never be ready: [`Pool::start`](crate::Pool::start) returns
/// [`TaskStopped::NotReady`] at once. If the task drops it as it ends with an error or a panic, `start` returns that
/// instead.
///
/// # Examples
///
/// ```
/// use aiodrive::{Pool, Started, TaskStopped};
///
/// async fn forgetful(started: Started<u16>) {
///     drop(started);
///     std::future::pending().await
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), aiodrive::PoolError> {
/// Pool::open(async |pool: Pool| {
///     assert_eq!(pool.start(forgetful).await, Err(TaskStopped::NotReady));
///     pool.cancel();
///     Ok(())
/// })
/// .await
/// # }
/// ```
#[must_use = "to drop it says that the task will never be ready"]
pub struct Started<V>(Arc<Start<V>>);

/// What the task, its [`Started`] and whoever waits share.
struct Start<V>(Mutex<State<V>>);

/// What is known of the start.
struct State<V> {
    /// `None` once the answer has been given.
    reply: Option<Reply<V>>,
    /// Whether the task is being polled or dropped, or was never polled. A `Started` that is dropped meanwhile says
    /// nothing yet: the task may turn out to have ended.
    busy: bool,
    /// The `Started` was dropped unused.
    dropped: bool,
}

/// Where whoever waits gets the answer.
type Reply<V> = oneshot::Sender<Result<V, TaskStopped>>;

impl<V> Started<V> {
    /// A new one, with its task's side and where the answer arrives.
    pub(super) fn new() -> (Self, StartSender<V>, StartFuture<V>) {
        let (reply, receiver) = oneshot::channel();
        let start = Arc::new(Start(Mutex::new(State { reply: Some(reply), busy: true, dropped: false })));
        (Self(Arc::clone(&start)), StartSender(start), StartFuture(receiver))
    }

    /// Says that the task is ready, and gives `value` to whoever has started it.
    ///
    /// If nobody waits for it any more, the value is dropped.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), aiodrive::PoolError> {
    /// Pool::open(async |pool: Pool| {
    ///     let port = pool.start(|started| async move {
    ///         started.ready(8080);
    ///         // … and serves
    ///     });
    ///     assert_eq!(port.await?, 8080);
    ///     Ok(())
    /// })
    /// .await
    /// # }
    /// ```
    pub fn ready(self, value: V) {
        answer(self.0.take_reply(), Ok(value));
    }
}

impl<V> Drop for Started<V> {
    fn drop(&mut self) {
        let reply = {
            let mut state = self.0.lock();
            state.dropped = true;
            state.not_ready()
        };
        answer(reply, Err(TaskStopped::NotReady));
    }
}

impl<V> fmt::Debug for Started<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Started")
    }
}

/// The future of [`Pool::start`](crate::Pool::start) and [`TaskBuilder::start`](crate::TaskBuilder::start).
#[must_use = "the task runs, but nobody waits until it is ready: await this, or use `spawn`"]
pub struct StartFuture<V>(oneshot::Receiver<Result<V, TaskStopped>>);

impl<V> Future for StartFuture<V> {
    type Output = Result<V, TaskStopped>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|answer| answer.unwrap_or(Err(TaskStopped::Cancelled)))
    }
}

impl<V> fmt::Debug for StartFuture<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StartFuture")
    }
}

impl<V> Start<V> {
    /// Nothing of the user's runs under the lock.
    fn lock(&self) -> MutexGuard<'_, State<V>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whom to answer, if that has not been done.
    fn take_reply(&self) -> Option<Reply<V>> {
        self.lock().reply.take()
    }
}

impl<V> State<V> {
    /// Whom to tell that the task will never be ready, if that is certain now.
    fn not_ready(&mut self) -> Option<Reply<V>> {
        if self.dropped && !self.busy { self.reply.take() } else { None }
    }
}

/// Gives an answer, after unlocking.
fn answer<V>(reply: Option<Reply<V>>, answer: Result<V, TaskStopped>) {
    if let Some(reply) = reply {
        // Nobody may be waiting any more.
        drop(reply.send(answer));
    }
}

/// The task's side. One that is dropped unused belongs to a task that was refused, or whose pool never ran.
pub(super) struct StartSender<V>(Arc<Start<V>>);

impl<V> Drop for StartSender<V> {
    /// Without an answer by now there will be none, although the `Started` may be kept elsewhere.
    fn drop(&mut self) {
        drop(self.0.take_reply());
    }
}

impl<O: TaskOutput<E>, V: Send + 'static, E> OutputSink<O, E> for StartSender<V> {
    fn before_poll(&mut self) {
        self.0.lock().busy = true;
    }

    fn after_poll(&mut self) {
        let reply = {
            let mut state = self.0.lock();
            state.busy = false;
            state.not_ready()
        };
        answer(reply, Err(TaskStopped::NotReady));
    }

    fn accept(&mut self, output: O) -> Result<(), E> {
        output.into_result()
    }

    fn complete(self, how: Result<(), TaskStopped>) {
        answer(self.0.take_reply(), Err(how.err().unwrap_or(TaskStopped::NotReady)));
    }
}
