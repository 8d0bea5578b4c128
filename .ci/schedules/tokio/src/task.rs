//! Stands for `tokio::task`: its `JoinHandle`, `AbortHandle`, `JoinError` and `JoinSet`.
//!
//! The tasks are shuttle's. What is added to them is what tokio promises beyond:
//!
//! - A panic, of a poll or of a destructor, ends the task and is in its `JoinError`; in shuttle it ends the test.
//! - A task is seen to have ended only after its future has been dropped, and not in the same step: there is a point in
//!   between, at which other tasks may go on.
//!
//! As in tokio, an abort only leaves a mark and wakes the task, which drops its future where it would be polled next; a
//! task that has ended by then has its output. A handle that is dropped lets the task go on. A closure can be aborted
//! before it begins, and not later.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::thread;

use pin_project::{pin_project, pinned_drop};
pub use shuttle_tokio::task::{coop, yield_now};

use crate::point;
use crate::runtime::Handle;

/// What a panic left.
type Payload = Box<dyn Any + Send>;

/// Of a task; no two have the same one.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Id(u64);

impl Id {
    fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

// ===== tasks =====

/// A future as it is given to shuttle.
#[pin_project(PinnedDrop)]
struct Caught<F> {
    /// `None` once it has ended.
    #[pin]
    future: Option<F>,
    aborted: Aborted,
}

/// What a future panicked with as it was dropped by an abort.
type Aborted = Arc<Mutex<Option<Payload>>>;

impl<F: Future> Future for Caught<F> {
    type Output = thread::Result<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let future = this.future.as_mut().as_pin_mut().expect("a task that has ended is not polled");
        let output = match catch_unwind(AssertUnwindSafe(|| future.poll(cx))) {
            Ok(polled) => Ok(ready!(polled)),
            Err(payload) => Err(payload),
        };
        let dropped = catch_unwind(AssertUnwindSafe(|| this.future.set(None)));
        point();
        Poll::Ready(output.and_then(|output| dropped.map(|()| output)))
    }
}

#[pinned_drop]
impl<F> PinnedDrop for Caught<F> {
    fn drop(self: Pin<&mut Self>) {
        let mut this = self.project();
        if this.future.is_none() {
            return;
        }
        let dropped = catch_unwind(AssertUnwindSafe(|| this.future.set(None)));
        *this.aborted.lock().unwrap_or_else(PoisonError::into_inner) = dropped.err();
        if !thread::panicking() {
            point();
        }
    }
}

pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    spawn_local(future)
}

/// On the thread of the call, as all of shuttle's tasks are.
fn spawn_local<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    let aborted = Aborted::default();
    let task = shuttle::future::spawn_local(Caught { future: Some(future), aborted: Arc::clone(&aborted) });
    JoinHandle { task, id: Id::next(), aborted }
}

/// A task that never waits: shuttle can block any of them.
pub fn spawn_blocking<F, T>(closure: F) -> JoinHandle<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    spawn(async { closure() })
}

// ===== handles =====

pub struct JoinHandle<T> {
    task: shuttle::future::JoinHandle<thread::Result<T>>,
    id: Id,
    aborted: Aborted,
}

#[derive(Clone, Debug)]
pub struct AbortHandle {
    task: shuttle::future::AbortHandle,
    id: Id,
}

impl<T> JoinHandle<T> {
    pub fn abort(&self) {
        self.task.abort();
    }

    pub fn is_finished(&self) -> bool {
        point();
        self.task.is_finished()
    }

    pub fn abort_handle(&self) -> AbortHandle {
        AbortHandle { task: self.task.abort_handle(), id: self.id }
    }
}

impl AbortHandle {
    pub fn abort(&self) {
        self.task.abort();
    }

    pub fn id(&self) -> Id {
        self.id
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        point();
        let payload = match ready!(Pin::new(&mut self.task).poll(cx)) {
            Ok(Ok(output)) => return Poll::Ready(Ok(output)),
            Ok(Err(payload)) => Some(payload),
            Err(_cancelled) => self.aborted.lock().unwrap_or_else(PoisonError::into_inner).take(),
        };
        Poll::Ready(Err(JoinError { payload: payload.map(Mutex::new) }))
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle").field("id", &self.id).finish()
    }
}

/// Why a task has no output.
#[derive(Debug)]
pub struct JoinError {
    /// `None` if it was aborted. In a mutex, since an error is `Sync`.
    payload: Option<Mutex<Payload>>,
}

impl JoinError {
    pub fn is_cancelled(&self) -> bool {
        self.payload.is_none()
    }

    pub fn is_panic(&self) -> bool {
        self.payload.is_some()
    }

    pub fn try_into_panic(self) -> Result<Payload, Self> {
        match self.payload {
            Some(payload) => Ok(payload.into_inner().unwrap_or_else(PoisonError::into_inner)),
            None => Err(self),
        }
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_panic() { "task panicked" } else { "task was cancelled" })
    }
}

impl Error for JoinError {}

// ===== sets =====

/// Aborts its tasks when it is dropped. They are yielded in no order.
#[derive(Debug)]
pub struct JoinSet<T> {
    tasks: Vec<JoinHandle<T>>,
}

impl<T> JoinSet<T> {
    pub fn new() -> Self {
        Self { tasks: Vec::new() }
    }

    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    pub fn abort_all(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl<T: 'static> JoinSet<T> {
    pub fn spawn_on<F>(&mut self, future: F, runtime: &Handle) -> AbortHandle
    where
        F: Future<Output = T> + Send + 'static,
        T: Send,
    {
        self.insert(runtime.spawn(future))
    }

    pub fn spawn_local<F: Future<Output = T> + 'static>(&mut self, future: F) -> AbortHandle {
        self.insert(spawn_local(future))
    }

    pub fn spawn_blocking_on<F>(&mut self, closure: F, runtime: &Handle) -> AbortHandle
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send,
    {
        self.insert(runtime.spawn_blocking(closure))
    }

    fn insert(&mut self, task: JoinHandle<T>) -> AbortHandle {
        let abort = task.abort_handle();
        self.tasks.push(task);
        abort
    }

    /// Looks only at tasks that have ended: whoever waits for the others is still woken by them.
    pub fn try_join_next(&mut self) -> Option<Result<T, JoinError>> {
        let ended = self.tasks.iter().position(JoinHandle::is_finished)?;
        match Pin::new(&mut self.tasks.swap_remove(ended)).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(ended) => Some(ended),
            Poll::Pending => unreachable!("a task that has ended has an output"),
        }
    }

    pub fn poll_join_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<T, JoinError>>> {
        for (nth, task) in self.tasks.iter_mut().enumerate() {
            if let Poll::Ready(ended) = Pin::new(task).poll(cx) {
                self.tasks.swap_remove(nth);
                return Poll::Ready(Some(ended));
            }
        }
        if self.is_empty() { Poll::Ready(None) } else { Poll::Pending }
    }
}

impl<T> Default for JoinSet<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Drop for JoinSet<T> {
    fn drop(&mut self) {
        self.abort_all();
    }
}
