//! What is spawned: the user's future or closure, with what the pool must know when it ends.

use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project::{pin_project, pinned_drop};
use tokio::runtime::Handle;
use tokio::task::{self, JoinHandle};

use super::depths::Launch;
use super::handle::HandleInner;
use super::output::LocalSink;
use super::state::Shared;
use crate::error::{Failure, PanicPayload, TaskError, TaskInfo, TaskStopped, catch, is_cancellation};
use crate::scope::{Completion, Scoped};
use crate::scope::{Current, Scope, ScopeKind, TaskKey};

/// Who, besides the pool, wants to know how a task ends.
pub(super) trait OutputSink<O, E>: Send + 'static {
    /// Whether the task counts towards its pool's limit; if not, it sees to that itself.
    const COUNTED: bool = true;

    /// The task is about to be polled, or to be dropped.
    fn enter(&mut self) {}

    /// The poll is over, and the task is not.
    fn leave(&mut self) {}

    /// Takes the output: keeps a value, gives an error on to the pool.
    fn output(&mut self, output: O) -> Result<(), E>;

    /// Drops a value that nobody will get, since the task has failed after it was there.
    fn forget(&mut self) {}

    /// The task has ended, and a failure of it has been recorded.
    fn ended(self, how: Result<(), TaskStopped>);

    /// What the sink aborts the task by, if it can.
    fn control(&self) -> Option<Arc<HandleInner>> {
        None
    }

    /// Whether the task's handle has cancelled it.
    fn is_cancelled(&self) -> bool {
        false
    }

    /// Whether the task is dropped for it could not be spawned, and was none yet.
    fn is_refused(&self) -> bool {
        false
    }
}

// ===== how a task ends =====

/// Records how a task ended that came to its end.
fn ended<S, O, E>(mut sink: S, current: &Current, ended: Completion<O>)
where
    S: OutputSink<O, E>,
    E: Send + 'static,
{
    let Completion { output, dropped } = ended;
    let how = match (output.map(|output| sink.output(output)), dropped) {
        (Ok(Ok(())), None) => Ok(()),
        (output, dropped) => {
            let how = failed(current, output, dropped);
            if let Err(payload) = catch(|| sink.forget()) {
                record::<E>(current, Failure::Panic(payload));
            }
            Err(how)
        }
    };
    dismiss(sink, current, how);
}

/// Records what has gone wrong, `dropped` being the panic of a destructor, and says how that ended the task.
#[cold]
fn failed<E: Send + 'static>(
    current: &Current,
    output: Result<Result<(), E>, PanicPayload>,
    dropped: Option<PanicPayload>,
) -> TaskStopped {
    let (failure, how) = match output {
        Ok(Ok(())) => (None, TaskStopped::Panicked),
        // It only says that something in the task has heard the request to stop, or that another task has ended.
        Ok(Err(error))
            if is_cancellation(&error)
                && pool_of::<E>(&current.scope).expects_cancellation(current.scope.class().depth) =>
        {
            match catch(|| drop(error)) {
                Ok(()) => (None, TaskStopped::Cancelled),
                Err(payload) => (Some(Failure::Panic(payload)), TaskStopped::Panicked),
            }
        }
        Ok(Err(error)) => (Some(Failure::Error(error)), TaskStopped::Failed),
        Err(payload) => (Some(Failure::Panic(payload)), TaskStopped::Panicked),
    };
    let how = if dropped.is_some() { TaskStopped::Panicked } else { how };
    for failure in failure.into_iter().chain(dropped.map(Failure::Panic)) {
        record::<E>(current, failure);
    }
    how
}

/// Records how a task ended that was cut off, `dropped` being the panic of its destructor.
fn cut_off<S, O, E>(sink: S, current: &Current, dropped: Option<PanicPayload>)
where
    S: OutputSink<O, E>,
    E: Send + 'static,
{
    let how = if dropped.is_some() { TaskStopped::Panicked } else { TaskStopped::Cancelled };
    if !sink.is_cancelled() && !sink.is_refused() {
        let pool = pool_of::<E>(&current.scope);
        let unreported =
            pool.cut_off(current.scope.class().depth, || TaskError::new(pool.info(current), Failure::Cancelled));
        current.scope.report_outside(unreported);
    }
    if let Some(payload) = dropped {
        record::<E>(current, Failure::Panic(payload));
    }
    dismiss(sink, current, Err(how));
}

/// Records a failure; if the pool has given up on the task and returned, that is told further out.
fn record<E: Send + 'static>(current: &Current, failure: Failure<E>) {
    let pool = pool_of(&current.scope);
    let unreported = pool.fail_task(TaskError::new(pool.info(current), failure));
    current.scope.report_outside(unreported);
}

/// Tells the sink, whose value may have a destructor that panics, then the pool.
fn dismiss<S, O, E>(sink: S, current: &Current, how: Result<(), TaskStopped>)
where
    S: OutputSink<O, E>,
    E: Send + 'static,
{
    if let Err(payload) = catch(|| sink.ended(how)) {
        record::<E>(current, Failure::Panic(payload));
    }
    current.task_ended(S::COUNTED);
}

/// The pool that a task is of.
fn pool_of<E: Send + 'static>(scope: &Arc<Scope>) -> &Shared<E> {
    scope.pool().expect("a task runs in the scope of its pool")
}

// ===== async tasks =====

/// A future on its way into a pool.
pub(super) struct Seed<F, S, E> {
    pub(super) future: F,
    pub(super) info: TaskInfo,
    pub(super) sink: S,
    pub(super) error: PhantomData<fn() -> E>,
}

impl<F, S, E> Launch for Seed<F, S, E>
where
    F: Future + Send + 'static,
    S: OutputSink<F::Output, E>,
    E: Send + 'static,
{
    fn control(&self) -> Option<Arc<HandleInner>> {
        self.sink.control()
    }

    fn info(&self) -> TaskInfo {
        self.info.clone()
    }

    fn launch(self, scope: Arc<Scope>, key: TaskKey, runtime: &Handle) -> JoinHandle<()> {
        let future = Scoped::at(Current { scope, key: Some(key) }, self.future);
        runtime.spawn(Task { future, sink: Some(self.sink), parked: false, error: PhantomData })
    }
}

/// A future on its way into a pool, and not to another thread.
pub(super) struct LocalSeed<F, E>(pub(super) Seed<F, LocalSink, E>);

impl<F, E> Launch for LocalSeed<F, E>
where
    F: Future + 'static,
    LocalSink: OutputSink<F::Output, E>,
    E: Send + 'static,
{
    fn info(&self) -> TaskInfo {
        self.0.info.clone()
    }

    /// # Panics
    ///
    /// Outside of a `LocalSet`.
    fn launch(self, scope: Arc<Scope>, key: TaskKey, _: &Handle) -> JoinHandle<()> {
        let Seed { future, sink, .. } = self.0;
        let local = sink.local();
        let future = Scoped::at(Current { scope, key: Some(key) }, future);
        let task = Task { future, sink: Some(sink), parked: false, error: PhantomData };
        let spawned = task::spawn_local(task);
        local.spawned();
        spawned
    }
}

/// A user's future as tokio runs it.
#[pin_project(PinnedDrop)]
struct Task<F, S, E>
where
    F: Future + 'static,
    S: OutputSink<F::Output, E>,
    E: Send + 'static,
{
    #[pin]
    future: Scoped<F>,
    /// `None` once the end has been recorded.
    sink: Option<S>,
    /// Whether the pool knows how to wake it.
    parked: bool,
    error: PhantomData<fn() -> E>,
}

impl<F, S, E> Task<F, S, E>
where
    F: Future,
    S: OutputSink<F::Output, E>,
    E: Send + 'static,
{
    /// Drops the future, if it has not ended, and records that.
    fn cut_off(self: Pin<&mut Self>) {
        let mut this = self.project();
        if let Some(sink) = this.sink {
            sink.enter();
        }
        let dropped = this.future.as_mut().end();
        if let (Some(sink), Some(current)) = (this.sink.take(), this.future.take_current()) {
            cut_off(sink, &current, dropped);
        }
    }
}

impl<F, S, E> Future for Task<F, S, E>
where
    F: Future,
    S: OutputSink<F::Output, E>,
    E: Send + 'static,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // By its pool; or by its handle, which may have nothing to abort it by while it is being spawned.
        if self.future.is_aborted() || self.sink.as_ref().is_some_and(OutputSink::is_cancelled) {
            self.cut_off();
            return Poll::Ready(());
        }
        let mut this = self.as_mut().project();
        if let Some(sink) = this.sink {
            sink.enter();
        }
        let Poll::Ready(ended) = this.future.as_mut().poll(cx) else {
            if let Some(sink) = this.sink {
                sink.leave();
            }
            *this.parked = *this.parked || this.future.park(cx.waker());
            if *this.parked {
                return Poll::Pending;
            }
            self.cut_off();
            return Poll::Ready(());
        };
        if let (Some(sink), Some(current)) = (this.sink.take(), this.future.take_current()) {
            self::ended(sink, &current, ended);
        }
        Poll::Ready(())
    }
}

#[pinned_drop]
impl<F, S, E> PinnedDrop for Task<F, S, E>
where
    F: Future + 'static,
    S: OutputSink<F::Output, E>,
    E: Send + 'static,
{
    /// A task that has not ended was aborted through its handle, or its runtime is shutting down.
    fn drop(self: Pin<&mut Self>) {
        if self.sink.is_some() {
            self.cut_off();
        }
    }
}

// ===== blocking tasks =====

/// A closure on its way into a pool.
pub(super) struct BlockingSeed<C, S, E> {
    pub(super) closure: C,
    pub(super) info: TaskInfo,
    pub(super) sink: S,
    pub(super) error: PhantomData<fn() -> E>,
}

impl<C, O, S, E> Launch for BlockingSeed<C, S, E>
where
    C: FnOnce() -> O + Send + 'static,
    O: 'static,
    S: OutputSink<O, E>,
    E: Send + 'static,
{
    fn info(&self) -> TaskInfo {
        self.info.clone()
    }

    fn launch(self, scope: Arc<Scope>, key: TaskKey, runtime: &Handle) -> JoinHandle<()> {
        let task = Blocking { seed: Some(self), current: Some(Current { scope, key: Some(key) }) };
        runtime.spawn_blocking(move || task.run())
    }
}

/// A user's closure as tokio runs it.
struct Blocking<C, O, S, E>
where
    C: FnOnce() -> O + 'static,
    O: 'static,
    S: OutputSink<O, E>,
    E: Send + 'static,
{
    /// `None` once it has been called, or dropped.
    seed: Option<BlockingSeed<C, S, E>>,
    current: Option<Current>,
}

impl<C, O, S, E> Blocking<C, O, S, E>
where
    C: FnOnce() -> O,
    S: OutputSink<O, E>,
    E: Send + 'static,
{
    fn run(mut self) {
        if self.current.as_ref().is_none_or(|current| current.scope.is_aborted()) {
            return;
        }
        let Some(BlockingSeed { closure, sink, .. }) = self.seed.take() else { return };
        let Some(current) = &self.current else { return };
        // In a scope of its own, so that pools that are opened in it know that an abort does not reach them.
        let scope = Scope::within(Some(Arc::clone(&current.scope)), ScopeKind::Blocking);
        let mut inside = Some(Current { scope, key: current.key });
        let output = catch(|| Current::enter(&mut inside, closure));
        drop(inside);
        ended(sink, current, Completion { output, dropped: None });
    }
}

impl<C, O, S, E> Drop for Blocking<C, O, S, E>
where
    C: FnOnce() -> O + 'static,
    O: 'static,
    S: OutputSink<O, E>,
    E: Send + 'static,
{
    /// A closure that was not called was aborted in time, or its runtime is shutting down.
    fn drop(&mut self) {
        let Some(BlockingSeed { closure, sink, .. }) = self.seed.take() else { return };
        let dropped = catch(|| Current::enter(&mut self.current, || drop(closure))).err();
        if let Some(current) = &self.current {
            cut_off(sink, current, dropped);
        }
    }
}
