//! What the handles, the tasks and the driver of a pool share.
//!
//! # Invariants
//!
//! 1. Nothing of the user's runs under the lock: no future is dropped or polled, no waker cloned, woken or dropped, no
//!    error or payload dropped. What a call finds to drop or to wake it takes out and sees to after unlocking; what
//!    tokio drops inside a call is kept by [`quiet`]. One exception is not to be had otherwise: `spawn_local` outside of
//!    a `LocalSet` panics in tokio, and so calls the panic hook, under it.
//! 2. A phase is only ever followed by one below it in [`Phase`]. `closed` is set under the lock, together with the
//!    first phase in which the pool closes. A pool that was cancelled before it ran is the exception: it is given its
//!    stages all the same, to be closed at once. From the abort of a depth on, [`Shared::takes`] refuses spawns in it.
//! 3. A failure is recorded by the task itself, before anybody is told that the task has ended. So `failures` is in
//!    order of occurrence, and the body cannot see a failure that closes the pool before that has begun.
//! 4. The scope of a depth ends when the last task has dropped its future and recorded its end, and the last of the
//!    pools and functions below has. tokio publishes the end of a task a moment later; what it has left then is the
//!    task's empty shell, in which nothing is the user's. So nobody waits for that, and nobody asks tokio who has ended
//!    but to free those shells, and to show the others.
//! 5. The driver looks whether a scope has ended and leaves its waker under one lock; the scope, when it has ended,
//!    takes the waker under that lock. Whichever comes second sees the other. So the last `Arc` of a scope is never
//!    dropped under the lock.

use std::any::Any;
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::closing::Closing;
use super::gate::{Gate, Kept, Queued, Slot, Ticket, Turn, Waiting};
use super::on_failure::OnFailure;
use super::quiet;
use super::stage::{Held, LARGE, Launch, Launched, Leaving, Stage, Stages};
use super::trace::{Trace, Watch};
use super::tree::tasks_of;
use crate::closing_reason::ClosingReason;
use crate::error::{BoxError, Failure, Report, TaskError, TaskInfo, catch};
use crate::node_state::NodeState;
use crate::scope::{Census, Place, PoolState, Scope};

const WARN_EVERY: Duration = Duration::from_secs(5);

/// The part of a pool that outlives its run: every handle has it.
pub(crate) struct Shared<E> {
    pub(super) name: Option<Arc<str>>,
    /// `None` if the builder was asked for nothing but a name.
    options: Option<Box<Options<E>>>,
    closed: AtomicBool,
    /// Depths from here on up take no tasks any more: they have been aborted, or are about to be. Written under the lock.
    ceiling: AtomicI64,
    /// Cancelled when closing begins; made by the first who waits for that.
    closing: OnceLock<CancellationToken>,
    /// What failed below without an owner; made by the first such failure.
    cleanup: OnceLock<Mutex<Vec<TaskError>>>,
    /// Too many tasks have ended, and the driver has been woken to free them.
    crowded: AtomicBool,
    /// A scope has ended since the driver left its waker: it will most likely not have to leave one again.
    scope_ended: AtomicBool,
    /// Whether the closing of the pool was handed on.
    handed_over: AtomicBool,
    trace: Trace,
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
    freed: Notify,
}

type Policy<E> = Box<dyn Fn(&TaskError<E>) -> OnFailure + Send + Sync>;

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

struct State<E> {
    phase: Phase<E>,
    /// Whether somebody has already called `run`.
    claimed: bool,
    failures: Vec<TaskError<E>>,
    stuck: Vec<TaskInfo>,
    /// The depths that the pool gave up on.
    abandoned: Vec<(i32, Stage)>,
    /// How to pass on what fails after the pool has given up on it, and has returned.
    retired: Option<fn(TaskError<E>) -> TaskError>,
    /// Why the pool closes; set together with `closed`.
    reason: Option<ClosingReason>,
    driver: Option<Waker>,
    /// In a pool with a limit.
    gate: Option<Box<Gate<E>>>,
}

enum Phase<E> {
    /// Not running yet: spawns are kept.
    Planned(Vec<Box<dyn Waiting<E>>>),
    /// Spawns are launched.
    Running(Stages),
    /// The driver closes one depth after the other, or is about to. Spawns are launched in those still to come.
    Closing(Stages),
    /// Nothing is left, or the driver never came to be.
    Closed,
}

impl<E> Phase<E> {
    fn state(&self) -> NodeState {
        match self {
            Self::Planned(_) => NodeState::Planned,
            Self::Running(_) => NodeState::Running,
            Self::Closing(_) => NodeState::Closing,
            Self::Closed => NodeState::Closed,
        }
    }
}

/// Why a task cannot be spawned that cannot leave its thread.
pub(super) enum NotLocal {
    /// The pool does not run yet, maybe not on this thread.
    Planned,
    /// There is no `LocalSet`.
    Outside,
}

/// What the driver sees when it looks.
pub(super) enum Look {
    /// Something is left; the driver is woken when it is time to look again.
    Waiting,
    /// The pool closes, or all but daemons have ended.
    Close(Closing),
    /// Everything has ended well, and been freed.
    Over,
}

impl<E> Shared<E> {
    /// A planned pool; `claimed` says whether it has an owner from the beginning.
    #[inline]
    pub(super) fn new(name: Option<Arc<str>>, options: Option<Box<Options<E>>>, claimed: bool) -> Arc<Self> {
        let limit = options.as_ref().and_then(|options| options.limit);
        let gate = limit.map(|limit| Box::new(Gate::new(limit)));
        Arc::new(Self {
            name,
            options,
            closed: AtomicBool::new(false),
            ceiling: AtomicI64::new(i64::MAX),
            closing: OnceLock::new(),
            cleanup: OnceLock::new(),
            crowded: AtomicBool::new(false),
            scope_ended: AtomicBool::new(false),
            handed_over: AtomicBool::new(false),
            trace: Trace::default(),
            state: Mutex::new(State {
                phase: Phase::Planned(Vec::new()),
                claimed,
                failures: Vec::new(),
                stuck: Vec::new(),
                abandoned: Vec::new(),
                retired: None,
                reason: None,
                driver: None,
                gate,
            }),
        })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Whether tasks of this depth are taken, and not aborted.
    fn takes(&self, depth: i32) -> bool {
        i64::from(depth) < self.ceiling.load(Ordering::Acquire)
    }

    /// Takes no tasks any more from this depth on up; the lock is held.
    fn refuse_from(&self, depth: i64) {
        self.ceiling.fetch_min(depth, Ordering::AcqRel);
    }

    pub(super) fn grace(&self) -> Duration {
        self.options.as_ref().map_or(Duration::ZERO, |options| options.grace)
    }

    pub(super) fn abandon_after(&self) -> Option<Duration> {
        self.options.as_ref()?.abandon_after
    }

    fn keep_open(&self) -> bool {
        self.options.as_ref().is_some_and(|options| options.keep_open)
    }

    /// Says that somebody runs the pool; `false` if somebody does already.
    pub(super) fn claim(&self) -> bool {
        !std::mem::replace(&mut self.lock().claimed, true)
    }

    /// How many tasks have not ended.
    pub(super) fn len(&self) -> usize {
        let mut held = Held::default();
        let state = self.lock();
        let queued = state.gate.as_ref().map_or(0, |gate| gate.len());
        let tasks = match &state.phase {
            Phase::Planned(plans) => plans.len(),
            Phase::Running(stages) | Phase::Closing(stages) => stages.alive(&mut held),
            Phase::Closed => 0,
        };
        drop(state);
        tasks + queued
    }

    pub(super) fn phase(&self) -> NodeState {
        self.lock().phase.state()
    }

    pub(super) fn closing_reason(&self) -> Option<ClosingReason> {
        self.lock().reason.clone()
    }

    /// The outermost pool around this one, if it runs, and there is one.
    pub(super) fn outermost(&self) -> Option<Arc<dyn PoolState>> {
        let state = self.lock();
        let enclosing = match &state.phase {
            Phase::Running(stages) | Phase::Closing(stages) => stages.enclosing().cloned(),
            Phase::Planned(_) | Phase::Closed => None,
        };
        drop(state);
        enclosing?.outermost_pool()
    }

    /// The future of the pool is gone, and its closing goes on.
    pub(super) fn hand_over(&self) {
        self.handed_over.store(true, Ordering::Relaxed);
        self.trace.handed_over();
    }

    /// Waits until closing has begun.
    pub(super) async fn closing(&self) {
        let token = self.closing.get_or_init(CancellationToken::new);
        // Under the lock: either the pool is seen closing here, or whoever closes it sees the token.
        let closes = matches!(self.lock().phase, Phase::Closing(_) | Phase::Closed);
        if !closes {
            token.cancelled().await;
        }
    }

    /// Whether anything failed, here or below, or was given up on.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed_in(&self.lock())
    }

    fn has_failed_in(&self, state: &State<E>) -> bool {
        self.cleanup.get().is_some() || !state.failures.is_empty() || !state.abandoned.is_empty()
    }

    /// Takes all failures, in order of occurrence, and the reason of a cancellation.
    pub(super) fn take_report(&self) -> Report<E>
    where
        E: Into<BoxError>,
    {
        let mut state = self.lock();
        let cleanup = self.cleanup.get();
        let cleanup_failures = cleanup.map(|failures| std::mem::take(&mut *lock(failures))).unwrap_or_default();
        state.retired = Some(TaskError::boxed);
        Report {
            pool: self.name.clone(),
            failures: std::mem::take(&mut state.failures),
            cleanup_failures,
            stuck: std::mem::take(&mut state.stuck),
            // A pool that has a report has closed, and so has a reason.
            reason: state.reason.clone().unwrap_or(ClosingReason::Dropped),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<E>> {
        lock(&self.state)
    }
}

/// Nothing that can panic runs under a lock; if it does, what is behind it is as good as before.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// ===== what tasks and handles do =====

impl<E: Send + 'static> Shared<E> {
    /// Takes a task in: launches it, or keeps it until the pool runs or it is its turn, or gives it back.
    pub(super) fn admit<L: Launch + Send>(self: &Arc<Self>, place: Place, task: L) -> Result<(), L> {
        let mut state = self.lock();
        let State { phase, gate, .. } = &mut *state;
        match phase {
            Phase::Running(stages) | Phase::Closing(stages) if self.takes(place.depth) => {
                if let Some(gate) = gate.as_mut().filter(|_| !place.daemon) {
                    if !gate.enter() {
                        let scope = stages.scope(self, place);
                        gate.push(Queued { task: Box::new(Kept { place, task }), scope }, self);
                        return Ok(());
                    }
                }
                let launched = stages.launch(self, place, task);
                drop(state);
                launched.unlocked();
                Ok(())
            }
            Phase::Planned(plans) => {
                plans.push(Box::new(Kept { place, task }));
                Ok(())
            }
            _ => Err(task),
        }
    }

    /// Takes in a task of this thread, made of what says when its turn is; gives `make` back if the pool is closed.
    pub(super) fn admit_local<L, M>(self: &Arc<Self>, place: Place, make: M) -> Result<Option<M>, NotLocal>
    where
        L: Launch,
        M: FnOnce(Turn) -> L,
    {
        let mut state = self.lock();
        let State { phase, gate, .. } = &mut *state;
        let stages = match phase {
            Phase::Running(stages) | Phase::Closing(stages) if self.takes(place.depth) => stages,
            Phase::Planned(_) => return Err(NotLocal::Planned),
            _ => return Ok(Some(make)),
        };
        let turn = match gate.as_mut().filter(|_| !place.daemon) {
            None => Turn::Now(None),
            Some(gate) => match gate.enter() {
                true => Turn::Now(Some(Slot::new(self))),
                false => {
                    let (ticket, turn) = Ticket::new(place);
                    gate.push(Queued { task: Box::new(ticket), scope: stages.scope(self, place) }, self);
                    Turn::Later(turn)
                }
            },
        };
        let launched = catch(|| stages.launch(self, place, make(turn)));
        drop(state);
        match launched {
            Ok(launched) => launched.unlocked(),
            Err(_) => {
                quiet::refuse_kept();
                return Err(NotLocal::Outside);
            }
        }
        Ok(None)
    }

    /// Lets a task in that was planned.
    fn let_in(
        self: &Arc<Self>,
        gate: Option<&mut Gate<E>>,
        stages: &mut Stages,
        task: Box<dyn Waiting<E>>,
    ) -> Option<Result<Launched, Box<dyn Waiting<E>>>> {
        let place = task.place();
        let Some(gate) = gate.filter(|_| !place.daemon) else { return Some(task.launch(self, stages)) };
        if task.is_cancelled() {
            return Some(Err(task));
        }
        if !gate.enter() {
            gate.push(Queued { task, scope: stages.scope(self, place) }, self);
            return None;
        }
        let launched = task.launch(self, stages);
        if launched.is_err() {
            gate.leave();
        }
        Some(launched)
    }

    /// Sees to what a launch has left to do, or drops what was not launched.
    fn finish(&self, launched: Result<Launched, Box<dyn Waiting<E>>>, scope: Arc<Scope>) {
        match launched {
            Ok(launched) => launched.unlocked(),
            Err(task) => self.discard(Queued { task, scope }),
        }
    }

    /// Drops a task that was never spawned, in its scope. A panic of its destructor is a failure.
    fn discard(&self, queued: Queued<E>) {
        let Queued { task, scope } = queued;
        let info = task.info();
        let mut scope = Some(scope);
        let dropped = catch(|| Scope::enter_with(&mut scope, || drop(task)));
        if let (Err(payload), Some(info)) = (dropped, info) {
            self.fail(TaskError::new(info, Failure::Panic(payload)));
        }
    }

    /// Drops the tasks that will not have their turn any more.
    fn discard_all(&self, queue: Option<BTreeMap<u64, Queued<E>>>) {
        queue.into_iter().flat_map(BTreeMap::into_values).for_each(|queued| self.discard(queued));
    }

    /// Launches queued tasks as long as there are slots. Only one does this at a time: what the others free meanwhile,
    /// as a runtime that is shutting down does with every task that is launched, is seen in the next round.
    fn drain_queue<'a>(self: &'a Arc<Self>, mut state: MutexGuard<'a, State<E>>) {
        loop {
            let State { phase: Phase::Running(stages) | Phase::Closing(stages), gate: Some(gate), .. } = &mut *state
            else {
                return;
            };
            let Some(Queued { task, scope }) = gate.pop() else {
                gate.draining = false;
                return;
            };
            gate.draining = true;
            // A depth that is about to be aborted takes none any more.
            let takes = self.takes(task.place().depth);
            let launched = if takes { task.launch(self, stages) } else { Err(task) };
            if launched.is_err() {
                gate.leave();
            }
            drop(state);
            self.finish(launched, scope);
            state = self.lock();
        }
    }
}

impl<E: 'static> Shared<E> {
    fn wake_driver(&self) {
        let driver = self.lock().driver.take();
        driver.into_iter().for_each(Waker::wake);
    }

    /// Waits until a task that is spawned would run at once, or the pool closes.
    pub(super) async fn ready(&self) {
        let Some(options) = self.options.as_ref().filter(|options| options.limit.is_some()) else { return };
        loop {
            let mut freed = pin!(options.freed.notified());
            freed.as_mut().enable();
            if self.has_room() {
                return;
            }
            freed.await;
        }
    }

    fn has_room(&self) -> bool {
        let state = self.lock();
        match (&state.phase, &state.gate) {
            (Phase::Planned(plans), Some(gate)) => {
                gate.has_room_for_more_than(plans.iter().filter(|task| !task.place().daemon).count())
            }
            (Phase::Running(_), Some(gate)) => gate.is_free(),
            _ => true,
        }
    }

    /// Records the failure of a task, and does what the pool's owner wants done about it. Gives back what cannot be
    /// recorded, since the pool has given up on the task and returned.
    pub(super) fn fail_task(&self, failure: TaskError<E>) -> Vec<TaskError> {
        self.trace.failed(&failure);
        let policy = self.options.as_ref().and_then(|options| options.on_failure.as_ref());
        match policy {
            None => self.push(failure, true).into_iter().collect(),
            Some(policy) => self.judge(policy, failure),
        }
    }

    fn judge(&self, policy: &Policy<E>, failure: TaskError<E>) -> Vec<TaskError> {
        let info = failure.task().clone();
        let (untold, panicked) = match catch(|| policy(&failure)) {
            Ok(OnFailure::Cancel) => (self.push(failure, true), None),
            Ok(OnFailure::Collect) => (self.push(failure, false), None),
            Ok(OnFailure::Discard) => (None, catch(|| drop(failure)).err()),
            Err(payload) => (self.push(failure, true), Some(payload)),
        };
        let panicked = panicked.map(|payload| TaskError::new(info, Failure::Panic(payload)));
        panicked.iter().for_each(|panicked| self.trace.failed(panicked));
        untold.into_iter().chain(panicked.and_then(|panicked| self.push(panicked, true))).collect()
    }

    /// Records a failure, or gives it back; closes the pool, if that is wanted.
    fn push(&self, failure: TaskError<E>, close: bool) -> Option<TaskError> {
        let mut state = self.lock();
        if let Some(boxed) = state.retired {
            drop(state);
            return Some(boxed(failure));
        }
        state.failures.push(failure);
        if close {
            self.begin_closing(state, ClosingReason::Failed);
        }
        None
    }

    /// Records a failure and closes the pool.
    pub(super) fn fail(&self, failure: TaskError<E>) {
        self.trace.failed(&failure);
        let mut state = self.lock();
        state.failures.push(failure);
        self.begin_closing(state, ClosingReason::Failed);
    }

    /// Records that a task of this depth was cut off, unless it was the pool that aborted it.
    pub(super) fn cut_off(&self, depth: i32, failure: impl FnOnce() -> TaskError<E>) {
        if self.takes(depth) {
            self.fail(failure());
        }
    }

    /// Whether the tasks of a depth have been asked to stop.
    pub(super) fn is_asked(&self, depth: i32) -> bool {
        match &mut self.lock().phase {
            Phase::Planned(_) | Phase::Running(_) => false,
            Phase::Closing(stages) => stages.get_mut(depth).is_none_or(|stage| stage.is_asked()),
            Phase::Closed => true,
        }
    }

    /// Closes the pool for a reason that is in nobody's list.
    pub(super) fn close(&self, reason: ClosingReason) {
        self.begin_closing(self.lock(), reason);
    }

    /// Moves an open pool to a phase in which it closes, and tells everybody. Plans are dropped unlaunched.
    fn begin_closing(&self, mut state: MutexGuard<'_, State<E>>, reason: ClosingReason) {
        let plans = match std::mem::replace(&mut state.phase, Phase::Closed) {
            Phase::Planned(plans) => plans,
            Phase::Running(stages) => {
                self.refuse_early(&stages);
                state.phase = Phase::Closing(stages);
                Vec::new()
            }
            closing => {
                state.phase = closing;
                return;
            }
        };
        self.announce_closing(state, reason);
        drop(plans);
    }

    /// Takes no tasks from now on in what is to be aborted at once.
    fn refuse_early(&self, stages: &Stages) {
        if self.grace().is_zero() || stages.is_over() {
            let highest = stages.highest().filter(|_| !stages.is_single());
            self.refuse_from(highest.map_or(i64::MIN, i64::from));
        }
    }

    /// Tells everybody that the pool closes, for this reason unless there was another before.
    fn announce_closing(&self, mut state: MutexGuard<'_, State<E>>, reason: ClosingReason) {
        let news = state.reason.is_none().then(|| reason.clone());
        state.reason.get_or_insert(reason);
        self.closed.store(true, Ordering::Release);
        let driver = state.driver.take();
        drop(state);
        driver.into_iter().for_each(Waker::wake);
        if let Some(token) = self.closing.get() {
            token.cancel();
        }
        if let Some(options) = &self.options {
            options.freed.notify_waiters();
        }
        if let Some(reason) = news {
            self.trace.closing(&reason);
        }
    }
}

impl<E: Send + 'static> PoolState for Shared<E> {
    fn report(&self, failure: TaskError) -> Option<TaskError> {
        let state = self.lock();
        if state.retired.is_some() {
            return Some(failure);
        }
        lock(self.cleanup.get_or_init(Mutex::default)).push(failure);
        None
    }

    /// Nobody frees the tasks of a long-lived pool while its driver has nothing to do, so that it is woken when those that
    /// have ended are many more than those that are alive.
    fn task_ended(&self, crowd: usize) -> bool {
        if crowd > LARGE && !self.crowded.load(Ordering::Relaxed) && !self.crowded.swap(true, Ordering::Relaxed) {
            self.wake_driver();
        }
        self.options.as_ref().is_some_and(|options| options.limit.is_some())
    }

    fn slot_freed(self: Arc<Self>) {
        let mut state = self.lock();
        let Some(gate) = &mut state.gate else { return };
        gate.leave();
        match gate.draining {
            true => drop(state),
            false => self.drain_queue(state),
        }
        if let Some(options) = &self.options {
            options.freed.notify_waiters();
        }
    }

    fn drop_queued(&self, key: u64) {
        let queued = self.lock().gate.as_mut().and_then(|gate| gate.remove(key));
        queued.into_iter().for_each(|queued| self.discard(queued));
    }

    fn has_grace(&self) -> bool {
        !self.grace().is_zero()
    }

    fn token(&self, depth: i32) -> CancellationToken {
        let mut state = self.lock();
        let stage = match &mut state.phase {
            Phase::Running(stages) | Phase::Closing(stages) => stages.get_mut(depth),
            Phase::Planned(_) | Phase::Closed => None,
        };
        // A stage that is gone has been aborted.
        let (token, asked) =
            stage.map_or_else(|| (CancellationToken::new(), true), |stage| (stage.token(), stage.is_asked()));
        drop(state);
        if asked {
            token.cancel();
        }
        token
    }

    fn settled(&self) {
        self.scope_ended.store(true, Ordering::Relaxed);
        self.wake_driver();
    }

    fn census(&self) -> Census {
        let state = self.lock();
        let mut census = Census {
            name: self.name.clone(),
            reason: state.reason.clone(),
            handed_over: self.handed_over.load(Ordering::Relaxed),
            ..Census::new(state.phase.state())
        };
        match &state.phase {
            Phase::Planned(plans) => census.tasks.extend(plans.iter().filter_map(|task| task.resident())),
            Phase::Running(stages) | Phase::Closing(stages) => stages.census(&mut census),
            Phase::Closed => {}
        }
        if let Some(gate) = &state.gate {
            census.tasks.extend(gate.residents());
        }
        state.abandoned.iter().for_each(|(depth, stage)| stage.census(*depth, &mut census));
        census
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

// ===== what the driver does =====

impl<E: Send + 'static> Shared<E> {
    /// Lets the planned tasks run; in a pool that was cancelled before, there are none. Returns the scope of depth 0.
    pub(super) fn start(self: &Arc<Self>, mut stages: Stages) -> Arc<Scope> {
        self.trace.opened(self.name.as_ref());
        let mut state = self.lock();
        let State { phase, gate, .. } = &mut *state;
        let scope = stages.scope(self, Place::default());
        stages.adopt(self);
        let mut launched = Vec::new();
        *phase = match std::mem::replace(phase, Phase::Closed) {
            Phase::Planned(plans) => {
                for task in plans {
                    launched.extend(self.let_in(gate.as_deref_mut(), &mut stages, task));
                }
                Phase::Running(stages)
            }
            _ => {
                self.refuse_from(i64::MIN);
                Phase::Closing(stages)
            }
        };
        drop(state);
        launched.into_iter().for_each(|launched| self.finish(launched, Arc::clone(&scope)));
        if let Some(options) = &self.options {
            // There may be more slots than planned tasks.
            options.freed.notify_waiters();
        }
        scope
    }

    /// Frees some ended tasks, and begins to close if it is time for that.
    pub(super) fn look(&self, cx: &Context<'_>) -> Look {
        let waker = (!self.scope_ended.load(Ordering::Relaxed)).then(|| cx.waker().clone());
        let mut held = Held::default();
        let mut state = self.lock();
        let failed = self.has_failed_in(&state);
        match &mut state.phase {
            Phase::Running(stages) if self.keep_open() || !stages.is_settled() => {
                if self.crowded.load(Ordering::Relaxed) {
                    self.crowded.store(stages.reap(&mut held), Ordering::Relaxed);
                }
            }
            // What most pools come to. The rest of this function is there for the others.
            Phase::Running(stages) if !failed && stages.is_over() && stages.len() <= LARGE => {
                let tokens = stages.ask();
                let over = std::mem::replace(&mut state.phase, Phase::Closed);
                self.announce_closing(state, ClosingReason::Completed);
                tokens.iter().for_each(CancellationToken::cancel);
                drop(over);
                return Look::Over;
            }
            _ => return Look::Close(self.take_over(state, ClosingReason::Completed)),
        }
        let Some(waker) = waker else {
            drop(state);
            self.scope_ended.store(false, Ordering::Relaxed);
            return self.look(cx);
        };
        let replaced = state.driver.replace(waker);
        drop(state);
        drop(replaced);
        if self.crowded.load(Ordering::Relaxed) {
            // One turn was not enough; let the others have theirs first.
            cx.waker().wake_by_ref();
        }
        Look::Waiting
    }

    /// Closes a pool whose driver is gone, for the driver that carries on.
    pub(super) fn abandon(&self) -> Closing {
        self.take_over(self.lock(), ClosingReason::Dropped)
    }

    /// Begins to close, if that has not begun.
    fn take_over(&self, mut state: MutexGuard<'_, State<E>>, reason: ClosingReason) -> Closing {
        let (Phase::Running(stages) | Phase::Closing(stages)) = std::mem::replace(&mut state.phase, Phase::Closed)
        else {
            unreachable!("the driver takes over before it has closed the pool");
        };
        let runtime = stages.runtime.clone();
        self.refuse_early(&stages);
        state.phase = Phase::Closing(stages);
        self.announce_closing(state, reason);
        Closing::new(runtime)
    }

    /// The highest depth that is left, after its tasks have been asked to stop; `None` at the end.
    pub(super) fn ask_next(&self) -> Option<i32> {
        let mut state = self.lock();
        let Phase::Closing(stages) = &mut state.phase else { return None };
        let Some((depth, stage)) = stages.highest_mut() else {
            let stages = std::mem::replace(&mut state.phase, Phase::Closed);
            drop(state);
            drop(stages);
            return None;
        };
        let token = stage.ask();
        // What is above has had its turn.
        self.refuse_from(i64::from(depth) + 1);
        drop(state);
        token.inspect(CancellationToken::cancel);
        Some(depth)
    }

    /// Whether nothing is left of a depth that closes; if not, the driver is woken when that may have changed.
    pub(super) fn wait_settled(&self, cx: &Context<'_>, depth: i32) -> bool {
        let waker = cx.waker().clone();
        let mut held = Held::default();
        let mut state = self.lock();
        let Phase::Closing(stages) = &mut state.phase else { return true };
        if self.crowded.load(Ordering::Relaxed) {
            self.crowded.store(stages.reap(&mut held), Ordering::Relaxed);
        }
        if stages.get_mut(depth).is_none_or(|stage| stage.is_settled()) {
            return true;
        }
        let replaced = state.driver.replace(waker);
        drop(state);
        drop(replaced);
        if self.crowded.load(Ordering::Relaxed) {
            cx.waker().wake_by_ref();
        }
        false
    }

    /// Aborts what is left of a depth. Nothing is spawned in it any more.
    pub(super) fn abort(&self, depth: i32) {
        let mut state = self.lock();
        let Phase::Closing(stages) = &mut state.phase else { return };
        self.refuse_from(depth.into());
        let leaving = stages.get_mut(depth).map(Stage::leave);
        let queued = state.gate.as_mut().map(|gate| gate.remove_from(depth));
        drop(state);
        leaving.iter().for_each(Leaving::abort);
        self.discard_all(queued);
    }

    /// Takes a depth out of the state that is done, to free its tasks.
    pub(super) fn take_stage(&self, depth: i32) -> Option<Stage> {
        match &mut self.lock().phase {
            Phase::Closing(stages) => stages.take(depth),
            _ => None,
        }
    }

    /// Whether there is nothing left to close.
    pub(super) fn is_over(&self) -> bool {
        match &self.lock().phase {
            Phase::Closing(stages) => stages.is_over(),
            _ => true,
        }
    }

    /// Aborts all that is left, in no order, and lets go of it.
    pub(super) fn abort_all(&self) {
        let mut state = self.lock();
        self.refuse_from(i64::MIN);
        let mut phase = std::mem::replace(&mut state.phase, Phase::Closed);
        let queued = state.gate.as_mut().map(|gate| gate.remove_from(i32::MIN));
        drop(state);
        if let Phase::Closing(stages) = &mut phase {
            stages.ask().iter().for_each(CancellationToken::cancel);
            stages.leave().iter().for_each(Leaving::abort);
        }
        drop(phase);
        self.discard_all(queued);
    }

    /// The pool returns without a report: what fails from now on is passed on.
    pub(super) fn retire(&self)
    where
        E: Into<BoxError>,
    {
        self.lock().retired = Some(TaskError::boxed);
    }

    /// The pool waits while it closes: whoever listens is told for whom, from time to time.
    pub(super) fn watch(&self, watch: &mut Watch, cx: &mut Context<'_>) {
        let every = self.options.as_ref().map_or(WARN_EVERY, |options| options.warn_every);
        watch.poll(cx, every, &self.trace, || tasks_of(self.census()));
    }

    /// Gives up on what does not end of a depth.
    pub(super) fn give_up(&self, depth: i32) {
        let mut census = Census::new(NodeState::Closing);
        let mut state = self.lock();
        let Phase::Closing(stages) = &mut state.phase else { return };
        let Some(stage) = stages.take(depth) else { return };
        stage.census(depth, &mut census);
        state.abandoned.push((depth, stage));
        drop(state);
        let stuck = tasks_of(census);
        self.trace.abandoned(&stuck);
        self.lock().stuck.extend(stuck);
    }

    /// Says what was given up on; `pool` stands for what is no task.
    pub(super) fn name_stuck(&self, pool: TaskInfo) {
        let mut state = self.lock();
        if !state.abandoned.is_empty() && state.stuck.is_empty() {
            state.stuck.push(pool);
        }
    }
}
