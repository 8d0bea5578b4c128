//! How a task gets into its pool, and off its list again.
//!
//! It comes at the call, when its pool begins to run ([`Shared::start`]), or, as a closure that had to wait, with its
//! turn. It gets a place on the list of its depth, under the lock, and a set that is to own it; it is spawned into the
//! set without the lock; and the set is put back.

use std::future::poll_fn;
use std::marker::PhantomData;
use std::panic::Location;
use std::pin::pin;
use std::sync::{Arc, MutexGuard, Weak};
use std::task::{Poll, Waker};
use std::thread;

use tokio::runtime::Handle;
use tokio::task::coop::consume_budget;
use tokio::task::{AbortHandle, JoinSet};

use super::handle::{HandleInner, OutputSink};
use super::options::Turn;
use super::shared::{Inner, Phase, Planned, Shared, wake_driver};
use super::task::{Task, pool_of};
use super::tasks::{BATCH, TaskEntry, Tasks, abort_all, free_ended};
use crate::error::{TaskInfo, catch, resume};
use crate::scope::{
    ChildKind, Current, ErasedPool, Scope, ScopeKind, TaskClass, TaskKey, TaskKind, TaskName, poll_once,
};

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
struct OnThisThread;

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
        let (current, lent) = match self.place(class, info, turn) {
            Admission::Placed(current, lent) => (current, lent),
            Admission::Refused => return Err(task),
            Admission::Planned => {
                let plan = Plan { class, task, how: PhantomData::<fn() -> K> };
                // It comes back if the pool is not planned any more.
                return match self.plan(plan) {
                    Ok(()) => Ok(()),
                    Err(plan) => self.admit::<K, _, _>(class, plan.task),
                };
            }
        };
        let (name, handle) = task.place(current);
        if K::BLOCKS && task.is_waiting() {
            self.spawn::<OnRuntime, _>(lent, wait_then_run(task), &name, handle);
        } else {
            self.spawn::<K, _>(lent, task, &name, handle);
        }
        Ok(())
    }

    /// Spawns a task that stays on this thread. Gives it back if the pool is closed.
    ///
    /// # Panics
    ///
    /// If the pool does not run yet, and outside of a `LocalSet` and of a `LocalRuntime`.
    #[track_caller]
    pub(super) fn admit_local<F, S>(
        self: &Arc<Self>,
        class: TaskClass,
        mut task: Task<F, S, E>,
    ) -> Result<(), Task<F, S, E>>
    where
        F: Future + 'static,
        S: OutputSink<F::Output, E>,
    {
        let (info, turn) = task.for_place();
        let (current, lent) = match self.place(class, info, turn) {
            Admission::Placed(current, lent) => (current, lent),
            Admission::Refused => return Err(task),
            Admission::Planned => panic!(
                "`spawn_local` was called on a pool that does not run yet: its tasks belong to the thread that runs it"
            ),
        };
        let (name, handle) = task.place(current);
        self.spawn::<OnThisThread, _>(lent, task, &name, handle);
        Ok(())
    }

    #[track_caller]
    fn spawn<K: Spawn<T>, T>(&self, lent: LentSet, task: T, name: &TaskName, handle: Option<Arc<HandleInner>>) {
        let runtime = self.runtime.get().expect("a pool that has a place for a task runs");
        // Goes back also if the task cannot be spawned: a set that is dropped aborts all its tasks.
        let mut borrowed = Borrowed { pool: self, lent: Some(lent) };
        let Some(lent) = &mut borrowed.lent else { return };
        let abort = K::spawn(task, name, &mut lent.set, runtime);
        drop(borrowed);
        if let Some(handle) = handle {
            handle.spawned(abort);
        }
    }
}

/// Puts a set back when it is dropped.
struct Borrowed<'a, E: Send + 'static> {
    pool: &'a Shared<E>,
    lent: Option<LentSet>,
}

impl<E: Send + 'static> Drop for Borrowed<'_, E> {
    fn drop(&mut self) {
        if let Some(lent) = self.lent.take() {
            self.pool.return_set(lent);
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
    let (pool, name, handle) = (pool_of::<E>(&scope), TaskName::of(task.info()), task.handle().cloned());
    pool.spawn::<OnBlockingThread, _>(pool.lend_again(scope.class()), task, &name, handle);
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

    fn turn(&mut self) -> Option<&mut Turn> {
        self.task.for_place().1
    }

    fn admit(self: Box<Self>, pool: &Arc<Shared<E>>) {
        let Self { class, task, .. } = *self;
        let is_cancelled = task.handle().is_some_and(|handle| handle.is_cancelled());
        let refused = if is_cancelled { Some(task) } else { pool.admit::<K, _, _>(class, task).err() };
        if let Some(mut task) = refused {
            drop(task.place(Current { scope: pool.scope(class), key: None }));
        }
    }
}

/// What becomes of a task that is to be spawned.
pub(super) enum Admission {
    /// The pool does not run yet.
    Planned,
    /// The pool, or the task's depth, is closed.
    Refused,
    Placed(Current, LentSet),
}

/// A set that is to own a task, while the task is spawned into it.
pub(super) struct LentSet {
    class: TaskClass,
    /// Of the task, if it was not spawned before.
    key: Option<TaskKey>,
    set: JoinSet<()>,
    /// Whether everything in it has been aborted.
    was_aborted: bool,
}

impl<E: Send + 'static> Shared<E> {
    /// Lets the pool run, with its planned tasks. Returns the scope of its body.
    pub(super) fn start(
        self: &Arc<Self>,
        runtime: Handle,
        enclosing: Option<Arc<Scope>>,
        has_outer_time: bool,
        called_at: &'static Location<'static>,
    ) -> Arc<Scope> {
        self.trace.opened(self.options.name.as_ref());
        // A pool is started by its one owner.
        drop(self.runtime.set(runtime));
        let mut inner = self.lock();
        inner.enclosing.clone_from(&enclosing);
        inner.called_at = called_at;
        inner.has_outer_time = has_outer_time;
        let scope = self.scope_in(&mut inner, TaskClass::default());
        if inner.phase == Phase::Planned {
            inner.phase = Phase::Running;
        } else {
            inner.phase = Phase::Closing;
            self.refuse_from(i64::MIN);
        }
        let (plans, _) = inner.take_plans();
        inner.admits_plans = true;
        drop(inner);
        // Not before the plans are out: an abort drops those that it finds, for which nobody waits.
        if let Some(enclosing) = enclosing {
            let is_aborted = enclosing.add_child(ChildKind::Pool(Arc::downgrade(self) as Weak<dyn ErasedPool>));
            if is_aborted || Current::is_aborted() {
                ErasedPool::abort(&**self);
            }
        }
        // Each of them, although one cannot be spawned.
        let panic = plans.into_iter().map(|plan| catch(|| plan.admit(self)).err()).fold(None, Option::or);
        self.lock().admits_plans = false;
        self.has_turned();
        resume(panic);
        scope
    }

    /// Keeps a task until the pool runs. Gives it back if the pool does, or was cancelled.
    pub(super) fn plan<P: Planned<E> + 'static>(&self, mut plan: P) -> Result<(), P> {
        let mut inner = self.lock();
        if inner.phase != Phase::Planned {
            return Err(plan);
        }
        let class = plan.class();
        if let Some(turn) = plan.turn() {
            *turn = self.turn(class);
        }
        inner.planned[class.kind.nth()] += usize::from(!class.kind.is_watcher());
        inner.plans.push(Box::new(plan));
        Ok(())
    }

    /// Takes a planned future that was dropped off the count. Its entry stays on the list until the pool runs.
    pub(super) fn plan_gone(&self, class: TaskClass) {
        let mut inner = self.lock();
        inner.planned[class.kind.nth()] -= usize::from(inner.phase == Phase::Planned);
        drop(inner);
        self.has_changed();
    }

    /// Makes room for a task, and has it take its turn if it has not.
    pub(super) fn place(self: &Arc<Self>, class: TaskClass, info: &TaskInfo, turn: Option<&mut Turn>) -> Admission {
        let mut inner = self.lock();
        match (inner.phase, class.kind) {
            (Phase::Planned, _) => return Admission::Planned,
            // What can abort the pool is of use until the last depth is closed.
            (Phase::Closing, TaskKind::Aborter) if inner.depths.highest().is_some() => {}
            (Phase::Closing, TaskKind::Canceller) => return Admission::Refused,
            (Phase::Running | Phase::Closing, _) if self.accepts(class.depth) => {}
            _ => return Admission::Refused,
        }
        let is_limited = turn.is_some() && self.options.limit.is_some() && !class.kind.is_daemon();
        let is_queued = turn.is_some_and(|turn| {
            if matches!(turn, Turn::Free) {
                *turn = self.turn(class);
            }
            turn.is_waiting()
        });
        let scope = self.scope_in(&mut inner, class);
        let entry = TaskEntry::new(info.clone(), is_limited, is_queued);
        let (key, set) = inner.depths.insert(class, entry);
        Admission::Placed(Current { scope, key: Some(key) }, LentSet { class, key: Some(key), set, was_aborted: false })
    }

    /// A place under the limit. Taken under the lock, so that the queue has the order of the list.
    fn turn(&self, class: TaskClass) -> Turn {
        match &self.options.limit {
            Some(limit) if !class.kind.is_daemon() => limit.turn(),
            _ => Turn::Free,
        }
    }

    /// Once more a set for a task that is on the list, to spawn something else in its stead.
    fn lend_again(&self, class: TaskClass) -> LentSet {
        let set = self.lock().depths.tasks_mut(class).map(Tasks::borrow_set).unwrap_or_default();
        LentSet { class, key: None, set, was_aborted: false }
    }

    /// Puts a set back, and aborts it if its depth was aborted meanwhile: invariant 2.
    pub(super) fn return_set(&self, lent: LentSet) {
        let LentSet { class, key, mut set, was_aborted } = lent;
        free_ended(&mut set, 2);
        let aborted = match self.keep_set(class, key, set, was_aborted) {
            Ok(scope) => scope,
            Err(mut set) => {
                abort_all(&mut set);
                self.keep_aborted(class, vec![set])
            }
        };
        aborted.into_iter().for_each(|scope| scope.abort_nested());
    }

    /// Gives the set back if it is to be aborted; else as `keep_aborted` does.
    fn keep_set(
        &self,
        class: TaskClass,
        spawned: Option<TaskKey>,
        set: JoinSet<()>,
        was_aborted: bool,
    ) -> Result<Option<Arc<Scope>>, JoinSet<()>> {
        let mut inner = self.lock();
        let Some(tasks) = inner.depths.tasks_mut(class) else { return Err(set) };
        spawned.into_iter().for_each(|key| tasks.task_spawned(key));
        let returned = tasks.return_set(set, was_aborted);
        let unused = inner.depths.take_unused(class.depth);
        drop(inner);
        drop(unused);
        returned
    }

    /// The scope of a class of tasks, which is made if there is none.
    fn scope(self: &Arc<Self>, class: TaskClass) -> Arc<Scope> {
        self.scope_in(&mut self.lock(), class)
    }

    fn scope_in(self: &Arc<Self>, inner: &mut Inner<E>, class: TaskClass) -> Arc<Scope> {
        let Inner { depths, enclosing, .. } = inner;
        let mut began = false;
        let scope = depths.entry(class).entry(class.kind).scope(|| {
            began = true;
            Scope::within(enclosing.clone(), ScopeKind::Pool(Arc::clone(self) as Arc<dyn ErasedPool>, class))
        });
        if began {
            depths.scope_began(class);
        }
        scope
    }

    /// The first poll of a daemon is over, in which it could see to it that it hears of the closing.
    pub(super) fn daemon_began(&self, current: &Current) {
        let mut inner = self.lock();
        if let (Some(tasks), Some(key)) = (inner.depths.tasks_mut(current.scope.class()), current.key) {
            tasks.task_began(key);
        }
        self.look_again(inner);
    }

    /// A task that was queued is about to run. Pending if it is about to be aborted instead.
    pub(super) fn turn_came(&self, current: &Current) -> Poll<()> {
        let class = current.scope.class();
        let mut inner = self.lock();
        if !self.accepts(class.depth) {
            return Poll::Pending;
        }
        if let Some(key) = current.key {
            inner.depths.turn_came(class, key);
        }
        // The slot is taken now. Queued tasks of a higher depth may have waited for it, in vain.
        self.look_again(inner);
        Poll::Ready(())
    }

    /// Has the driver of a closing pool look again whether what is left can use its time.
    pub(super) fn look_again(&self, inner: MutexGuard<'_, Inner<E>>) {
        if inner.phase == Phase::Closing {
            self.report_waker(catch(|| wake_driver(inner)).err());
        }
    }

    /// Whether a task that is dropped was aborted by nobody here, but by its runtime, which shuts down.
    pub(super) fn is_cut_off_by_runtime(&self, current: &Current) -> bool {
        // Without a key it is a plan that was refused.
        let (class, Some(key)) = (current.scope.class(), current.key) else { return false };
        if !class.kind.is_watcher() && !self.accepts(class.depth) {
            return false;
        }
        let mut inner = self.lock();
        let Some(tasks) = inner.depths.tasks_mut(class) else { return false };
        // A spawn that panics drops what was to be a task.
        let is_refused = thread::panicking() && tasks.is_unspawned(key);
        !tasks.is_aborted() && !is_refused
    }

    /// Takes a task off the list that is about to let go of its scope.
    pub(super) fn task_ended(&self, current: &Current) {
        let (class, Some(key)) = (current.scope.class(), current.key) else { return };
        let mut inner = self.lock();
        let (entry, full) = inner.depths.task_ended(class, key);
        // Those that are left in a closing pool may all wait for a turn that cannot come, or be daemons that hear
        // nothing.
        let news = inner.phase == Phase::Closing
            && (class.kind.is_daemon() || inner.depths.tasks_mut(class).is_some_and(|tasks| tasks.are_queued()));
        let driver = if news { inner.driver.take() } else { None };
        let is_idle = inner.depths.is_idle();
        drop(inner);
        drop(entry);
        if let Some((mut set, was_aborted)) = full {
            // More than one batch: the set may have been out when others came to this.
            free_ended(&mut set, 4 * BATCH);
            self.return_set(LentSet { class, key: None, set, was_aborted });
        }
        if is_idle {
            self.has_changed();
        }
        // Last, since it may panic.
        driver.into_iter().for_each(Waker::wake);
    }

    /// Waits until a task that is spawned would run at once, or the pool closes.
    pub(super) async fn ready(&self) {
        consume_budget().await;
        let Some(limit) = &self.options.limit else { return };
        let mut ready = pin!(limit.ready());
        let mut closing = pin!(self.wait_refusing());
        poll_fn(|cx| if closing.as_mut().poll(cx).is_ready() { Poll::Ready(()) } else { ready.as_mut().poll(cx) })
            .await;
    }
}
