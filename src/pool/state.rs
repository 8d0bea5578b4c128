//! What the handles, the tasks and the driver of a pool share.
//!
//! What they do with it is in files of their own: [`admission`](super::admission) takes tasks in,
//! [`failures`](super::failures) records what goes wrong, and [`phases`](super::phases) leads from one phase to the
//! next.
//!
//! # Invariants
//!
//! 1. Nothing of the user's runs under the lock: no future is dropped or polled, no waker cloned, woken or dropped, no
//!    error or payload dropped. What a call finds to drop or to wake it takes out and sees to after unlocking. Tasks
//!    are spawned without the lock too, since a runtime that is shutting down drops a future while it is being spawned,
//!    and its destructor may call the pool again. A waker may panic: whoever else is to be told is told all the same.
//! 2. A phase is only ever followed by one below it in [`Phase`]. `closed` is set under the lock, together with the
//!    first phase in which the pool closes. A pool that was cancelled before it ran is the exception: it closes all the
//!    same, at once. From the abort of a depth on, [`Shared::takes`] refuses spawns in it. A task whose key was
//!    reserved before that sees the flag of its scope when it is polled. The flag is set under the lock, and a task
//!    leaves its waker under the lock, after a look at the flag: so either it sees that it is aborted, or it is woken.
//! 3. A failure is recorded by the task itself, before anybody is told that the task has ended. So failures are in
//!    order of occurrence, and the body cannot see a failure that closes the pool before that has begun.
//! 4. The scope of a depth ends when the last task has dropped its future, recorded its end and left its key, and the
//!    last of the pools and functions below has ended. tokio publishes the end of a task a moment later; what it has
//!    left then is the task's empty shell, in which nothing is the user's. So nobody waits for that.
//! 5. The driver looks whether a scope has ended and leaves its waker under one lock; the scope, when it has ended,
//!    counts itself out and takes the waker under that lock. Whichever comes second sees the other. So the last `Arc`
//!    of a scope is never dropped under the lock.

use std::any::Any;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::thread;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::depths::Depths;
use super::failures::Failures;
use super::gate::{Gate, Waiting};
use super::on_failure::OnFailure;
use super::trace::Trace;
use crate::closing_reason::ClosingReason;
use crate::error::{PanicPayload, TaskError, catch};
use crate::scope::NodeState;
use crate::scope::{ErasedPool, Scope, Snapshot, TaskClass, TaskKey};

pub(super) const WARN_EVERY: Duration = Duration::from_secs(5);

/// The part of a pool that outlives its run: every handle has it.
pub(crate) struct Shared<E> {
    pub(super) name: Option<Arc<str>>,
    /// `None` if the builder was cancelled for nothing but a name.
    pub(super) options: Option<Box<Options<E>>>,
    /// Where the tasks run; set when the pool does.
    pub(super) runtime: OnceLock<Handle>,
    pub(super) closed: AtomicBool,
    /// A scope has ended since the driver left its waker: it will most likely not have to leave one again.
    pub(super) scope_ended: AtomicBool,
    /// Depths from here on up take no tasks any more: they have been aborted, or are about to be. Written under the
    /// lock.
    ceiling: AtomicI64,
    pub(super) trace: Trace,
    state: Mutex<State<E>>,
}

/// How a pool behaves that is not as all are.
pub(super) struct Options<E> {
    pub(super) grace: Duration,
    pub(super) keep_open: bool,
    pub(super) limit: Option<usize>,
    pub(super) abandon_after: Option<Duration>,
    pub(super) on_failure: Option<Policy<E>>,
    /// How often a pool that closes says for whom it waits.
    pub(super) warn_every: Duration,
    /// Wakes those who wait for a free slot.
    pub(super) freed: Notify,
}

pub(super) type Policy<E> = Box<dyn Fn(&TaskError<E>) -> OnFailure + Send + Sync>;

impl<E> Default for Options<E> {
    fn default() -> Self {
        Self {
            grace: Duration::ZERO,
            keep_open: false,
            limit: None,
            abandon_after: None,
            on_failure: None,
            warn_every: WARN_EVERY,
            freed: Notify::new(),
        }
    }
}

/// What is behind the lock.
pub(super) struct State<E> {
    pub(super) phase: Phase,
    /// Whether somebody has already called `run`.
    claimed: bool,
    /// Whether the future of the pool is gone, and the runtime closes it.
    pub(super) handed_over: bool,
    /// The tasks of a planned pool.
    pub(super) plans: Vec<Box<dyn Waiting<E>>>,
    /// The tasks of a pool that runs or closes.
    pub(super) depths: Depths,
    /// In a pool with a limit.
    pub(super) gate: Option<Box<Gate<E>>>,
    pub(super) driver: Option<Waker>,
    /// Why the pool closes; set together with `closed`.
    pub(super) reason: Option<ClosingReason>,
    /// Cancelled when closing begins; made by the first who waits for that.
    pub(super) closing: Option<CancellationToken>,
    /// What has gone wrong; made by the first thing that has.
    pub(super) failures: Option<Box<Failures<E>>>,
}

#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) enum Phase {
    /// Not running yet: spawns are kept.
    Planned,
    /// Tasks are spawned.
    Running,
    /// The driver closes one depth after the other, or is about to. Tasks are spawned in those still to come.
    Closing,
    /// Nothing is left, or the driver never came to be.
    Closed,
}

impl<E> Drop for State<E> {
    /// A pool that never ran still has its plans.
    fn drop(&mut self) {
        if !self.plans.is_empty() {
            go_on(drop_plans(mem::take(&mut self.plans)));
        }
    }
}

/// Drops tasks that will never run, each of them although others panic in their destructors. Returns the first panic.
#[cold]
pub(super) fn drop_plans<E>(plans: Vec<Box<dyn Waiting<E>>>) -> Option<PanicPayload> {
    plans.into_iter().map(|task| catch(|| drop(task)).err()).fold(None, Option::or)
}

/// Lets a panic go on, unless another does already.
pub(super) fn go_on(panic: Option<PanicPayload>) {
    if let Some(payload) = panic.filter(|_| !thread::panicking()) {
        payload.resume();
    }
}

impl<E> Shared<E> {
    /// A planned pool; `claimed` says whether it has an owner from the beginning.
    #[inline]
    pub(super) fn new(name: Option<Arc<str>>, options: Option<Box<Options<E>>>, claimed: bool) -> Arc<Self> {
        let limit = options.as_ref().and_then(|options| options.limit);
        Arc::new(Self {
            name,
            options,
            runtime: OnceLock::new(),
            closed: AtomicBool::new(false),
            scope_ended: AtomicBool::new(false),
            ceiling: AtomicI64::new(i64::MAX),
            trace: Trace::default(),
            state: Mutex::new(State {
                phase: Phase::Planned,
                claimed,
                handed_over: false,
                plans: Vec::new(),
                depths: Depths::new(),
                gate: limit.map(|limit| Box::new(Gate::new(limit))),
                driver: None,
                reason: None,
                closing: None,
                failures: None,
            }),
        })
    }

    #[inline]
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Whether tasks of this depth are taken, and not aborted.
    #[inline]
    pub(super) fn takes(&self, depth: i32) -> bool {
        i64::from(depth) < self.ceiling.load(Ordering::Acquire)
    }

    /// Takes no tasks any more from this depth on up; the lock is held.
    pub(super) fn refuse_from(&self, depth: i64) {
        self.ceiling.fetch_min(depth, Ordering::AcqRel);
    }

    pub(super) fn grace(&self) -> Duration {
        self.options.as_ref().map_or(Duration::ZERO, |options| options.grace)
    }

    pub(super) fn abandon_after(&self) -> Option<Duration> {
        self.options.as_ref()?.abandon_after
    }

    pub(super) fn keep_open(&self) -> bool {
        self.options.as_ref().is_some_and(|options| options.keep_open)
    }

    /// Says that somebody runs the pool; `false` if somebody does already.
    pub(super) fn claim(&self) -> bool {
        !std::mem::replace(&mut self.lock().claimed, true)
    }

    /// How many tasks have not ended.
    pub(super) fn len(&self) -> usize {
        let state = self.lock();
        state.plans.len() + state.depths.len() + state.gate.as_ref().map_or(0, |gate| gate.len())
    }

    pub(super) fn phase(&self) -> NodeState {
        self.lock().phase.into()
    }

    pub(super) fn closing_reason(&self) -> Option<ClosingReason> {
        self.lock().reason.clone()
    }

    /// The outermost pool around this one, if it runs, and there is one.
    pub(super) fn outermost(&self) -> Option<Arc<dyn ErasedPool>> {
        // Not even for a moment is the enclosing scope held from here: what is in between waits for that.
        self.lock().depths.enclosing()?.outermost_pool()
    }

    /// Waits until closing has begun.
    pub(super) async fn closing(&self) {
        let token = {
            let mut state = self.lock();
            if matches!(state.phase, Phase::Closing | Phase::Closed) {
                return;
            }
            state.closing.get_or_insert_with(CancellationToken::new).clone()
        };
        token.cancelled().await;
    }

    /// Nothing that can panic runs under the lock; if it does, what is behind it is as good as before.
    #[inline]
    pub(super) fn lock(&self) -> MutexGuard<'_, State<E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<E> State<E> {
    /// Ends the pool. Returns what it held, to be dropped without the lock: what encloses it, and what woke its driver,
    /// which the late end of something that was given up on must not wake.
    #[inline]
    pub(super) fn end(&mut self) -> (Option<Arc<Scope>>, Option<Waker>) {
        self.phase = Phase::Closed;
        (self.depths.leave(), self.driver.take())
    }
}

impl From<Phase> for NodeState {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Planned => Self::Planned,
            Phase::Running => Self::Running,
            Phase::Closing => Self::Closing,
            Phase::Closed => Self::Closed,
        }
    }
}

impl<E: Send + 'static> ErasedPool for Shared<E> {
    fn report(&self, failure: TaskError) -> Option<TaskError> {
        self.record_cleanup(failure)
    }

    fn park_task(&self, scope: &Scope, class: TaskClass, key: TaskKey, waker: Waker) -> bool {
        let mut state = self.lock();
        let aborted = scope.is_aborted();
        let unused = if aborted { Some(waker) } else { state.depths.park(class, key, waker) };
        drop(state);
        drop(unused);
        !aborted
    }

    fn task_ended(&self, class: TaskClass, key: TaskKey) -> bool {
        let entry = {
            let mut state = self.lock();
            let entry = state.depths.entries_mut(class).and_then(|entries| entries.remove(key));
            // Nobody has given up on anything without having lost it.
            entry.or_else(|| state.failures.as_mut()?.entries_mut(class)?.remove(key))
        };
        drop(entry);
        self.options.as_ref().is_some_and(|options| options.limit.is_some())
    }

    fn slot_freed(self: Arc<Self>) {
        self.free_slot();
    }

    fn drop_queued(&self, key: u64) {
        let queued = self.lock().gate.as_mut().and_then(|gate| gate.remove(key));
        queued.into_iter().for_each(|queued| self.discard(queued));
    }

    fn has_grace(&self) -> bool {
        !self.grace().is_zero()
    }

    fn token(&self, depth: i32) -> CancellationToken {
        let (token, cancelled) = match self.lock().depths.get_mut(depth) {
            Some(stage) => (stage.token(), stage.is_cancelled()),
            // It has closed.
            None => (CancellationToken::new(), true),
        };
        if cancelled {
            token.cancel();
        }
        token
    }

    fn on_empty(&self, class: TaskClass) {
        self.scope_ended.store(true, Ordering::Relaxed);
        let mut state = self.lock();
        state.depths.scope_ended(class);
        let driver = state.driver.take();
        drop(state);
        driver.into_iter().for_each(Waker::wake);
    }

    fn snapshot(&self) -> Snapshot {
        let state = self.lock();
        let mut snapshot = Snapshot {
            name: self.name.clone(),
            reason: state.reason.clone(),
            handed_over: state.handed_over,
            ..Snapshot::new(state.phase.into())
        };
        snapshot.tasks.extend(state.plans.iter().filter_map(|task| task.to_snapshot(NodeState::Planned)));
        state.depths.snapshot(&mut snapshot);
        if let Some(gate) = &state.gate {
            snapshot.tasks.extend(gate.snapshots());
        }
        if let Some(failures) = &state.failures {
            failures.snapshot(&mut snapshot);
        }
        snapshot
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}
