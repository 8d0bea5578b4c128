//! What is spawned: the user's future or closure, with what the pool must know when it ends.

use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project::{pin_project, pinned_drop};
use tokio::runtime::Handle;
use tokio::task::{self, JoinHandle};

use super::handle::Control;
use super::output::LocalObserver;
use super::stage::Launch;
use super::state::Shared;
use crate::error::{Failure, PanicPayload, TaskError, TaskInfo, TaskStopped, catch, is_echo};
use crate::inside::{Ended, Inside};
use crate::scope::{Owner, Scope, Seat, Spot};

/// Who, besides the pool, wants to know how a task ends.
pub(super) trait Observer<O, E>: Send + 'static {
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

    /// What the observer aborts the task by, if it can.
    fn control(&self) -> Option<Arc<Control>> {
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
fn ended<S, O, E>(mut observer: S, spot: &Spot, ended: Ended<O>)
where
    S: Observer<O, E>,
    E: Send + 'static,
{
    let Ended { output, dropped } = ended;
    let how = match (output.map(|output| observer.output(output)), dropped) {
        (Ok(Ok(())), None) => Ok(()),
        (output, dropped) => {
            let how = failed(spot, output, dropped);
            if let Err(payload) = catch(|| observer.forget()) {
                record::<E>(spot, Failure::Panic(payload));
            }
            Err(how)
        }
    };
    dismiss(observer, spot, how);
}

/// Records what has gone wrong, `dropped` being the panic of a destructor, and says how that ended the task.
#[cold]
fn failed<E: Send + 'static>(
    spot: &Spot,
    output: Result<Result<(), E>, PanicPayload>,
    dropped: Option<PanicPayload>,
) -> TaskStopped {
    let (failure, how) = match output {
        Ok(Ok(())) => (None, TaskStopped::Panicked),
        // It only says that something in the task has heard the request to stop, or that another task has ended.
        Ok(Err(error)) if is_echo(&error) && pool_of::<E>(&spot.scope).knows(spot.scope.place().depth) => {
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
        record::<E>(spot, failure);
    }
    how
}

/// Records how a task ended that was cut off, `dropped` being the panic of its destructor.
fn cut_off<S, O, E>(observer: S, spot: &Spot, dropped: Option<PanicPayload>)
where
    S: Observer<O, E>,
    E: Send + 'static,
{
    let how = if dropped.is_some() { TaskStopped::Panicked } else { TaskStopped::Cancelled };
    if !observer.is_cancelled() && !observer.is_refused() {
        let pool = pool_of::<E>(&spot.scope);
        let untold = pool.cut_off(spot.scope.place().depth, || TaskError::new(pool.info(spot), Failure::Cancelled));
        spot.scope.tell_around(untold);
    }
    if let Some(payload) = dropped {
        record::<E>(spot, Failure::Panic(payload));
    }
    dismiss(observer, spot, Err(how));
}

/// Records a failure; if the pool has given up on the task and returned, that is told further out.
fn record<E: Send + 'static>(spot: &Spot, failure: Failure<E>) {
    let pool = pool_of(&spot.scope);
    let untold = pool.fail_task(TaskError::new(pool.info(spot), failure));
    spot.scope.tell_around(untold);
}

/// Tells the observer, whose value may have a destructor that panics, then the pool.
fn dismiss<S, O, E>(observer: S, spot: &Spot, how: Result<(), TaskStopped>)
where
    S: Observer<O, E>,
    E: Send + 'static,
{
    if let Err(payload) = catch(|| observer.ended(how)) {
        record::<E>(spot, Failure::Panic(payload));
    }
    spot.task_ended(S::COUNTED);
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
    pub(super) observer: S,
    pub(super) error: PhantomData<fn() -> E>,
}

impl<F, S, E> Launch for Seed<F, S, E>
where
    F: Future + Send + 'static,
    S: Observer<F::Output, E>,
    E: Send + 'static,
{
    fn control(&self) -> Option<Arc<Control>> {
        self.observer.control()
    }

    fn info(&self) -> TaskInfo {
        self.info.clone()
    }

    fn launch(self, scope: Arc<Scope>, seat: Seat, runtime: &Handle) -> JoinHandle<()> {
        let future = Inside::at(Spot { scope, seat: Some(seat) }, self.future);
        runtime.spawn(Task { future, observer: Some(self.observer), parked: false, error: PhantomData })
    }
}

/// A future on its way into a pool, and not to another thread.
pub(super) struct LocalSeed<F, E>(pub(super) Seed<F, LocalObserver, E>);

impl<F, E> Launch for LocalSeed<F, E>
where
    F: Future + 'static,
    LocalObserver: Observer<F::Output, E>,
    E: Send + 'static,
{
    fn info(&self) -> TaskInfo {
        self.0.info.clone()
    }

    /// # Panics
    ///
    /// Outside of a `LocalSet`.
    fn launch(self, scope: Arc<Scope>, seat: Seat, _: &Handle) -> JoinHandle<()> {
        let Seed { future, observer, .. } = self.0;
        let local = observer.local();
        let future = Inside::at(Spot { scope, seat: Some(seat) }, future);
        let task = Task { future, observer: Some(observer), parked: false, error: PhantomData };
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
    S: Observer<F::Output, E>,
    E: Send + 'static,
{
    #[pin]
    future: Inside<F>,
    /// `None` once the end has been recorded.
    observer: Option<S>,
    /// Whether the pool knows how to wake it.
    parked: bool,
    error: PhantomData<fn() -> E>,
}

impl<F, S, E> Task<F, S, E>
where
    F: Future,
    S: Observer<F::Output, E>,
    E: Send + 'static,
{
    /// Drops the future, if it has not ended, and records that.
    fn cut_off(self: Pin<&mut Self>) {
        let mut this = self.project();
        if let Some(observer) = this.observer {
            observer.enter();
        }
        let dropped = this.future.as_mut().end();
        if let (Some(observer), Some(spot)) = (this.observer.take(), this.future.take_spot()) {
            cut_off(observer, &spot, dropped);
        }
    }
}

impl<F, S, E> Future for Task<F, S, E>
where
    F: Future,
    S: Observer<F::Output, E>,
    E: Send + 'static,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // By its pool; or by its handle, which may have nothing to abort it by while it is being spawned.
        if self.future.is_aborted() || self.observer.as_ref().is_some_and(Observer::is_cancelled) {
            self.cut_off();
            return Poll::Ready(());
        }
        let mut this = self.as_mut().project();
        if let Some(observer) = this.observer {
            observer.enter();
        }
        let Poll::Ready(ended) = this.future.as_mut().poll(cx) else {
            if let Some(observer) = this.observer {
                observer.leave();
            }
            *this.parked = *this.parked || this.future.park(cx.waker());
            if *this.parked {
                return Poll::Pending;
            }
            self.cut_off();
            return Poll::Ready(());
        };
        if let (Some(observer), Some(spot)) = (this.observer.take(), this.future.take_spot()) {
            self::ended(observer, &spot, ended);
        }
        Poll::Ready(())
    }
}

#[pinned_drop]
impl<F, S, E> PinnedDrop for Task<F, S, E>
where
    F: Future + 'static,
    S: Observer<F::Output, E>,
    E: Send + 'static,
{
    /// A task that has not ended was aborted through its handle, or its runtime is shutting down.
    fn drop(self: Pin<&mut Self>) {
        if self.observer.is_some() {
            self.cut_off();
        }
    }
}

// ===== blocking tasks =====

/// A closure on its way into a pool.
pub(super) struct BlockingSeed<C, S, E> {
    pub(super) closure: C,
    pub(super) info: TaskInfo,
    pub(super) observer: S,
    pub(super) error: PhantomData<fn() -> E>,
}

impl<C, O, S, E> Launch for BlockingSeed<C, S, E>
where
    C: FnOnce() -> O + Send + 'static,
    O: 'static,
    S: Observer<O, E>,
    E: Send + 'static,
{
    fn info(&self) -> TaskInfo {
        self.info.clone()
    }

    fn launch(self, scope: Arc<Scope>, seat: Seat, runtime: &Handle) -> JoinHandle<()> {
        let task = Blocking { seed: Some(self), spot: Some(Spot { scope, seat: Some(seat) }) };
        runtime.spawn_blocking(move || task.run())
    }
}

/// A user's closure as tokio runs it.
struct Blocking<C, O, S, E>
where
    C: FnOnce() -> O + 'static,
    O: 'static,
    S: Observer<O, E>,
    E: Send + 'static,
{
    /// `None` once it has been called, or dropped.
    seed: Option<BlockingSeed<C, S, E>>,
    spot: Option<Spot>,
}

impl<C, O, S, E> Blocking<C, O, S, E>
where
    C: FnOnce() -> O,
    S: Observer<O, E>,
    E: Send + 'static,
{
    fn run(mut self) {
        if self.spot.as_ref().is_none_or(|spot| spot.scope.is_aborted()) {
            return;
        }
        let Some(BlockingSeed { closure, observer, .. }) = self.seed.take() else { return };
        let Some(spot) = &self.spot else { return };
        // In a scope of its own, so that pools that are opened in it know that an abort does not reach them.
        let scope = Scope::within(Some(Arc::clone(&spot.scope)), Owner::Blocking);
        let mut inside = Some(Spot { scope, seat: spot.seat });
        let output = catch(|| Spot::enter(&mut inside, closure));
        drop(inside);
        ended(observer, spot, Ended { output, dropped: None });
    }
}

impl<C, O, S, E> Drop for Blocking<C, O, S, E>
where
    C: FnOnce() -> O + 'static,
    O: 'static,
    S: Observer<O, E>,
    E: Send + 'static,
{
    /// A closure that was not called was aborted in time, or its runtime is shutting down.
    fn drop(&mut self) {
        let Some(BlockingSeed { closure, observer, .. }) = self.seed.take() else { return };
        let dropped = catch(|| Spot::enter(&mut self.spot, || drop(closure))).err();
        if let Some(spot) = &self.spot {
            cut_off(observer, spot, dropped);
        }
    }
}
