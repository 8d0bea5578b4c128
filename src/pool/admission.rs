//! How a task is spawned: at the call, when its pool begins to run, or when the turn of a closure comes.

use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};

use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinSet};

use super::handle_inner::HandleInner;
use super::limit::Turn;
use super::members::{Admission, Place};
use super::output::OutputSink;
use super::shared::{Planned, Shared};
use super::task::{Task, pool_of};
use crate::error::TaskInfo;
#[cfg(not(tokio_unstable))]
use crate::error::catch;
use crate::scope::{Current, TaskClass, TaskName};

/// A way to spawn a task. Each is `#[track_caller]`, as is every function on the way here, and none is called in a
/// closure where tokio shows the user's line.
pub(super) trait Spawn<T> {
    /// Whether the task takes up a thread, for which it must not wait for its turn.
    const BLOCKS: bool = false;

    #[track_caller]
    fn spawn(task: T, name: &TaskName, set: &mut JoinSet<()>, runtime: &Handle) -> AbortHandle;
}

/// Spawns on the pool's runtime.
pub(super) struct OnRuntime;

/// Spawns on the thread of the call.
pub(super) struct OnThisThread;

/// Spawns on a thread of its own.
pub(super) struct OnBlockingThread;

impl<T: Future<Output = ()> + Send + 'static> Spawn<T> for OnRuntime {
    #[track_caller]
    fn spawn(task: T, name: &TaskName, set: &mut JoinSet<()>, runtime: &Handle) -> AbortHandle {
        name.spawn(set, task, runtime)
    }
}

impl<T: Future<Output = ()> + 'static> Spawn<T> for OnThisThread {
    #[track_caller]
    fn spawn(task: T, name: &TaskName, set: &mut JoinSet<()>, _: &Handle) -> AbortHandle {
        spawn_local(task, name, set)
    }
}

/// Under `cfg(tokio_unstable)`, tokio shows the line that spawned a task. A closure would hide it, so the panic of a
/// call without a `LocalSet` stays tokio's.
#[cfg(tokio_unstable)]
#[track_caller]
fn spawn_local(task: impl Future<Output = ()> + 'static, name: &TaskName, set: &mut JoinSet<()>) -> AbortHandle {
    name.spawn_local(set, task)
}

/// Says what to do where there is no `LocalSet`.
#[cfg(not(tokio_unstable))]
#[track_caller]
fn spawn_local(task: impl Future<Output = ()> + 'static, name: &TaskName, set: &mut JoinSet<()>) -> AbortHandle {
    match catch(|| name.spawn_local(set, task)) {
        Ok(handle) => handle,
        Err(payload) if payload.message().is_some_and(|text| text.starts_with("`spawn_local` called from outside")) => {
            panic!(
                "`spawn_local` was called outside of a `LocalSet` and of a `LocalRuntime`, one of which has to own the \
                 task: run the pool within `LocalSet::run_until`"
            )
        }
        Err(payload) => payload.resume(),
    }
}

impl<T: Future<Output = ()> + Send + 'static> Spawn<T> for OnBlockingThread {
    const BLOCKS: bool = true;

    #[track_caller]
    fn spawn(task: T, name: &TaskName, set: &mut JoinSet<()>, runtime: &Handle) -> AbortHandle {
        name.spawn_blocking(set, move || poll_once(task), runtime)
    }
}

/// Runs a closure's task, which its only poll ends.
fn poll_once(task: impl Future<Output = ()>) {
    let ended = pin!(task).poll(&mut Context::from_waker(Waker::noop()));
    debug_assert!(ended.is_ready(), "a closure's turn has come before it has a thread");
}

/// A closure as the future of a task.
pub(super) async fn run_closure<O>(closure: impl FnOnce() -> O) -> O {
    closure()
}

impl<E: Send + 'static> Shared<E> {
    /// Spawns a task, or keeps it until the pool runs. Gives it back if the pool is closed.
    #[track_caller]
    pub(super) fn admit<K, F, S>(
        self: &Arc<Self>,
        class: TaskClass,
        mut task: Task<F, S, E>,
    ) -> Result<(), Task<F, S, E>>
    where
        K: Spawn<Task<F, S, E>> + 'static,
        F: Future + Send + 'static,
        S: OutputSink<F::Output, E>,
    {
        let (info, turn) = task.for_place();
        let (current, place) = match self.place(class, info, turn) {
            Admission::Placed(current, place) => (current, place),
            Admission::Refused => return Err(task),
            Admission::Planned => {
                let plan = Plan { class, task, how: PhantomData::<fn() -> K> };
                // It comes back if the pool has begun to run meanwhile.
                self.plan(Box::new(plan)).into_iter().for_each(|plan| plan.admit(self));
                return Ok(());
            }
        };
        task.place(current);
        let (name, handle) = (TaskName::of(task.info()), task.handle_in_place());
        if K::BLOCKS && task.is_waiting() {
            self.spawn::<OnRuntime, _>(place, wait_then_run(task), &name, handle);
        } else {
            self.spawn::<K, _>(place, task, &name, handle);
        }
        Ok(())
    }

    /// Spawns a task that stays on this thread. If the pool is closed, it is dropped.
    ///
    /// # Panics
    ///
    /// If the pool does not run yet, and outside of a `LocalSet` and of a `LocalRuntime`.
    #[track_caller]
    pub(super) fn admit_local<F, S>(self: &Arc<Self>, class: TaskClass, mut task: Task<F, S, E>)
    where
        F: Future + 'static,
        S: OutputSink<F::Output, E>,
    {
        let (info, turn) = task.for_place();
        let (current, place) = match self.place(class, info, turn) {
            Admission::Placed(current, place) => (current, place),
            Admission::Refused => return,
            Admission::Planned => panic!(
                "`spawn_local` was called on a pool that does not run yet: its tasks belong to the thread that runs it"
            ),
        };
        task.place(current);
        let (name, handle) = (TaskName::of(task.info()), task.handle_in_place());
        self.spawn::<OnThisThread, _>(place, task, &name, handle);
    }

    #[track_caller]
    fn spawn<K: Spawn<T>, T>(&self, place: Place, task: T, name: &TaskName, handle: Option<Arc<HandleInner>>) {
        let runtime = self.runtime.get().expect("a pool that has a place for a task runs");
        // Goes back also if the task cannot be spawned: a set that is dropped aborts all its tasks.
        let mut borrowed = Borrowed { pool: self, place: Some(place) };
        let Some(place) = &mut borrowed.place else { return };
        let abort = K::spawn(task, name, &mut place.set, runtime);
        drop(borrowed);
        if let Some(handle) = handle {
            handle.spawned(abort);
        }
    }
}

/// Puts a set back when it is dropped.
struct Borrowed<'a, E: Send + 'static> {
    pool: &'a Shared<E>,
    place: Option<Place>,
}

impl<E: Send + 'static> Drop for Borrowed<'_, E> {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            self.pool.return_set(place);
        }
    }
}

/// Waits for the turn of a closure, as a task that takes up no thread; a second one, on a thread, then runs it.
async fn wait_then_run<F, S, E>(mut task: Task<F, S, E>)
where
    F: Future + Send + 'static,
    S: OutputSink<F::Output, E>,
    E: Send + 'static,
{
    poll_fn(|cx| task.poll_turn(cx)).await;
    let Some(scope) = task.current().map(|current| Arc::clone(&current.scope)) else { return };
    let (pool, name, handle) = (pool_of::<E>(&scope), TaskName::of(task.info()), task.handle_in_place());
    pool.spawn::<OnBlockingThread, _>(pool.place_again(scope.class()), task, &name, handle);
}

/// A task that waits for its pool to run.
struct Plan<T, K> {
    class: TaskClass,
    task: T,
    how: PhantomData<fn() -> K>,
}

impl<F, S, E, K> Planned<E> for Plan<Task<F, S, E>, K>
where
    F: Future + Send + 'static,
    S: OutputSink<F::Output, E>,
    E: Send + 'static,
    K: Spawn<Task<F, S, E>> + 'static,
{
    fn class(&self) -> TaskClass {
        self.class
    }

    fn info(&self) -> &TaskInfo {
        self.task.info()
    }

    fn set_turn(&mut self, turn: Turn) {
        if let (_, Some(place)) = self.task.for_place() {
            *place = turn;
        }
    }

    fn admit(self: Box<Self>, pool: &Arc<Shared<E>>) {
        let Self { class, task, .. } = *self;
        let is_cancelled = task.handle().is_some_and(|handle| handle.is_cancelled());
        let refused = if is_cancelled { Some(task) } else { pool.admit::<K, _, _>(class, task).err() };
        if let Some(mut task) = refused {
            task.place(Current { scope: pool.scope(class), key: None });
        }
    }
}
