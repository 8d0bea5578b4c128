//! What the handles, the tasks and the driver of a pool share: its phases, and what begins the closing.
//!
//! What is done with it is in files of its own: [`admission`](super::admission) has how tasks come in and go,
//! [`policy`](super::policy) what a failure does, [`closing`](super::closing) the steps of the closing, and
//! [`queries`](super::queries) what users and scopes see.
//!
//! # Invariants
//!
//! 1. No code of the user's runs under the lock: no future, waker, closure, error or payload is polled, called or
//!    dropped. Values to drop and wakers to wake are moved out under the lock, and dropped or woken after it is
//!    released. Tasks are spawned and aborted without the lock too: a runtime that shuts down drops a future while it
//!    is being spawned, and an abort may wake somebody's `LocalSet`.
//! 2. A phase is only ever followed by one below it in [`Phase`]. `reason` is set under the lock, together with the
//!    first phase in which the pool closes. A pool that was cancelled before it ran is the exception: it closes all the
//!    same, at once. From the abort of a depth on, [`Shared::accepts`] is false for it. Its sets are taken and marked
//!    under one lock; a thread that spawns into a set of them meanwhile sees the mark when it puts the set back.
//! 3. A task records its failure before anybody learns that it has ended. So failures are in order of occurrence, and
//!    the body cannot see a failure that closes the pool before that has begun. The exception is a waker that panics as
//!    it is told of that end.
//! 4. The scope of a class of tasks ends when the last of them has dropped its future, recorded its end and left the
//!    list, and the last of the nested pools and functions has ended. tokio publishes the end of a task a moment later.
//!    So the driver waits for the scopes, and then for the sets.
//! 5. The driver looks whether a scope has ended and leaves its waker under one lock; the scope, when it has ended,
//!    counts itself out and takes the waker under that lock. Whichever comes second sees the other. So no last `Arc` of
//!    a scope may be dropped under the lock: who finds one there takes it along, and drops it outside.

use std::mem;
use std::panic::Location;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::task::coop::consume_budget;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::depths::Depths;
use super::options::{OnFailure, Options, Turn};
use super::trace::Trace;
use crate::error::{ClosingReason, Failure, Failures, PanicPayload, TaskError, TaskInfo, catch, resume};
use crate::scope::{ErasedPool, NodeState, Scope, Snapshot, TaskClass};

/// The part of a pool that outlives its run: every handle has it.
pub(crate) struct Shared<E> {
    pub(super) options: Options<E>,
    /// Where the tasks run; set when the pool does.
    pub(super) runtime: OnceLock<Handle>,
    /// Why the pool began to close. Set under the lock.
    pub(super) reason: OnceLock<ClosingReason>,
    /// Depths from here on up accept no tasks any more. Written under the lock.
    accepts_below: AtomicI64,
    /// A task around the pool is aborted.
    pub(super) aborted_around: AtomicBool,
    /// A task has failed, whatever has become of that.
    pub(super) failed: AtomicBool,
    /// The depth of the body has been aborted.
    pub(super) body_aborted: AtomicBool,
    /// The body is polled.
    pub(super) has_body: AtomicBool,
    /// How many handles the users have.
    handles: AtomicUsize,
    /// Notified when no task is left but daemons, when a planned future is dropped, when the pool starts, when it
    /// begins to close, and when it has closed.
    changed: Notify,
    /// Notified only when the pool has started, and when it begins to close. Thousands may wait here, and are not woken
    /// at each end of a task.
    turned: Notify,
    pub(super) trace: Trace<E>,
    inner: Mutex<Inner<E>>,
}

/// The data under the lock.
pub(super) struct Inner<E> {
    pub(super) phase: Phase,
    /// Somebody runs the pool, or has the right to.
    claimed: bool,
    /// The future of the run is gone, and the runtime closes the pool.
    pub(super) handed_over: bool,
    /// Held while the pool runs: it ends after this one.
    pub(super) enclosing: Option<Arc<Scope>>,
    /// The tasks that wait for the pool to run.
    pub(super) plans: Vec<Box<dyn Planned<E>>>,
    /// How many of them count, but for watchers and for futures that were dropped: first those that hold the pool open,
    /// then daemons.
    pub(super) planned: [usize; 2],
    /// They are on their way from there to the list.
    pub(super) admits_plans: bool,
    pub(super) depths: Depths,
    /// Woken when the driver may have something to do: a scope has ended, the pool begins to close or loses its time,
    /// or its last handle is gone.
    pub(super) driver: Option<Waker>,
    /// Made for the first who waits for the closing, cancelled when that begins, and kept: whether there is one says
    /// whether somebody can have heard of it.
    pub(super) closing: Option<CancellationToken>,
    /// `None` as long as nothing has gone wrong.
    pub(super) failures: Option<Box<Failures<E>>>,
    /// A pool around this one gives its tasks time, which is then that of the tasks here too.
    pub(super) has_outer_time: bool,
    /// The pool closes for a reason of its own, not only since a pool around it does.
    has_own_cause: bool,
    /// No time is left: the pool was aborted, or a task around it was.
    aborted: bool,
    /// That came while the tasks had a grace.
    grace_cut: bool,
    /// When the pool is cancelled, if that is set: what its watcher follows.
    deadline: Option<watch::Sender<Instant>>,
    /// The tasks that were aborted since their grace was over, or was cut.
    pub(super) overrun: Vec<TaskInfo>,
    /// The call of `open` or `run`.
    pub(super) called_at: &'static Location<'static>,
}

#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) enum Phase {
    /// Spawns are kept, nothing runs.
    Planned,
    Running,
    Closing,
    /// The pool has returned, is about to, or will never run.
    Closed,
}

/// What a pool that has no reason to wait is to do next.
pub(super) enum Next {
    /// Go through the steps of the closing.
    Close,
    /// Nothing runs, and nothing has failed: only wait until tokio, too, has done with the tasks.
    Join(Vec<JoinSet<()>>),
}

/// A task that waits for its pool to run.
pub(super) trait Planned<E>: Send {
    fn class(&self) -> TaskClass;

    fn info(&self) -> &TaskInfo;

    /// Its turn, if it counts towards a limit.
    fn turn(&mut self) -> Option<&mut Turn>;

    /// Whether it is still to come.
    fn is_alive(&self) -> bool {
        true
    }

    /// Spawns it, now that the pool runs; or drops it in its scope, if the pool closes already or its handle has
    /// cancelled it.
    fn admit(self: Box<Self>, pool: &Arc<Shared<E>>);
}

impl<E> Drop for Shared<E> {
    /// A pool that never ran still has its plans.
    fn drop(&mut self) {
        let (plans, planned) = self.lock().take_plans();
        if !plans.is_empty() {
            self.trace.never_ran(self.options.name.as_deref(), planned);
            resume(drop_plans(plans));
        }
    }
}

/// Drops tasks that will never run, each of them although others panic in their destructors. Returns the first panic.
#[cold]
fn drop_plans<E>(plans: Vec<Box<dyn Planned<E>>>) -> Option<PanicPayload> {
    plans.into_iter().map(|task| catch(|| drop(task)).err()).fold(None, Option::or)
}

// ===== the state, and how to wait for it =====

impl<E> Shared<E> {
    #[track_caller]
    pub(super) fn new(options: Options<E>, claimed: bool) -> Arc<Self> {
        Arc::new(Self {
            options,
            runtime: OnceLock::new(),
            reason: OnceLock::new(),
            accepts_below: AtomicI64::new(i64::MAX),
            aborted_around: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            body_aborted: AtomicBool::new(false),
            has_body: AtomicBool::new(false),
            handles: AtomicUsize::new(0),
            changed: Notify::new(),
            turned: Notify::new(),
            trace: Trace::default(),
            inner: Mutex::new(Inner {
                phase: Phase::Planned,
                claimed,
                handed_over: false,
                enclosing: None,
                plans: Vec::new(),
                planned: [0; 2],
                admits_plans: false,
                depths: Depths::new(),
                driver: None,
                closing: None,
                failures: None,
                has_outer_time: false,
                has_own_cause: false,
                aborted: false,
                grace_cut: false,
                deadline: None,
                overrun: Vec::new(),
                called_at: Location::caller(),
            }),
        })
    }

    /// Whether the pool has begun to close.
    pub(super) fn is_closed(&self) -> bool {
        self.reason.get().is_some()
    }

    /// Whether a depth still takes tasks.
    pub(super) fn accepts(&self, depth: i32) -> bool {
        i64::from(depth) < self.accepts_below.load(Ordering::Acquire)
    }

    /// Refuses tasks from this depth on up. Called under the lock.
    pub(super) fn refuse_from(&self, depth: i64) {
        self.accepts_below.fetch_min(depth, Ordering::AcqRel);
    }

    /// Whether a task around the pool is aborted.
    pub(super) fn is_aborted_around(&self) -> bool {
        self.aborted_around.load(Ordering::Acquire)
    }

    /// Whether the depth of the body has been aborted.
    pub(super) fn is_body_aborted(&self) -> bool {
        self.body_aborted.load(Ordering::Acquire)
    }

    /// Takes the right to run the pool; there is one.
    pub(super) fn claim(&self) -> bool {
        !mem::replace(&mut self.lock().claimed, true)
    }

    pub(super) fn handle_made(&self) {
        self.handles.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn handle_dropped(&self) {
        if self.handles.fetch_sub(1, Ordering::AcqRel) == 1 && self.options.keep_open {
            drop(catch(|| wake_driver(self.lock())));
        }
    }

    /// How many tasks have not ended. Watchers are none.
    pub(super) fn len(&self) -> usize {
        let inner = self.lock();
        inner.planned.iter().sum::<usize>() + inner.depths.len()
    }

    pub(super) fn phase(&self) -> NodeState {
        self.lock().phase.into()
    }

    /// The outermost pool around this one.
    pub(super) fn outermost(&self) -> Option<Arc<dyn ErasedPool>> {
        // It walks under the lock instead of cloning the `Arc`: a clone would keep the enclosing scope alive for a
        // moment, and its owner waits for its end.
        self.lock().enclosing.as_ref()?.outermost_pool()
    }

    /// Whether anything failed, here or below, or was given up on.
    pub(super) fn has_failed(&self) -> bool {
        self.lock().failures.is_some()
    }

    /// Waits until the pool begins to close.
    pub(super) async fn wait_closing(&self) {
        let token = {
            let mut inner = self.lock();
            if matches!(inner.phase, Phase::Closing | Phase::Closed) {
                return;
            }
            inner.closing.get_or_insert_with(CancellationToken::new).clone()
        };
        token.cancelled().await;
    }

    /// Moves the deadline, or takes it back. A new one comes with what its watcher is to follow.
    pub(super) fn set_deadline(&self, deadline: Option<Instant>) -> Option<watch::Receiver<Instant>> {
        let mut inner = self.lock();
        let Some(at) = deadline else {
            let taken_back = inner.deadline.take();
            drop(inner);
            drop(taken_back);
            return None;
        };
        if let Some(sender) = inner.deadline.clone() {
            drop(inner);
            sender.send_replace(at);
            return None;
        }
        let (sender, receiver) = watch::channel(at);
        inner.deadline = Some(sender);
        Some(receiver)
    }

    /// Waits until no task is left but daemons, or the pool has closed.
    pub(super) async fn wait_idle(&self) {
        self.wait_until(&self.changed, |inner| {
            inner.phase == Phase::Closed || inner.depths.is_idle() && !inner.admits_plans && inner.planned[0] == 0
        })
        .await;
    }

    /// Waits until the pool runs and has admitted what was planned, or never will.
    pub(super) async fn wait_started(&self) {
        self.wait_until(&self.turned, |inner| inner.phase != Phase::Planned && !inner.admits_plans).await;
    }

    /// Waits until the pool begins to close. Unlike [`wait_closing`](Self::wait_closing) it makes no token, so it does
    /// not count as somebody who could have told a daemon.
    pub(super) async fn wait_refusing(&self) {
        self.wait_until(&self.turned, |inner| matches!(inner.phase, Phase::Closing | Phase::Closed)).await;
    }

    async fn wait_until(&self, notify: &Notify, holds: impl Fn(&Inner<E>) -> bool) {
        consume_budget().await;
        loop {
            let mut notified = pin!(notify.notified());
            notified.as_mut().enable();
            if holds(&self.lock()) {
                return;
            }
            notified.await;
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner<E>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
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

// ===== what begins the closing =====

impl<E: 'static> Shared<E> {
    /// Begins to close the pool, if that has not begun.
    pub(super) fn close(&self, reason: ClosingReason) {
        self.begin_closing(self.lock(), reason);
    }

    /// Closes the pool without any time, or ends the time that it has.
    pub(super) fn abort_for(&self, reason: ClosingReason) {
        let mut inner = self.lock();
        if inner.phase == Phase::Closing && matches!(inner.time(&self.options), Time::Grace(_)) {
            inner.grace_cut = true;
        }
        inner.aborted = true;
        if inner.phase == Phase::Closing { wake_driver(inner) } else { self.begin_closing(inner, reason) }
    }

    pub(super) fn begin_closing(&self, mut inner: MutexGuard<'_, Inner<E>>, reason: ClosingReason) {
        let is_own = !matches!(reason, ClosingReason::ParentClosing(_));
        let has_news = is_own && !inner.has_own_cause;
        inner.has_own_cause |= is_own;
        inner.phase = match inner.phase {
            Phase::Planned => Phase::Closed,
            Phase::Running => Phase::Closing,
            // A cause of its own ends the time that the pool has from outside.
            Phase::Closing | Phase::Closed if has_news => return wake_driver(inner),
            Phase::Closing | Phase::Closed => return,
        };
        self.refuse_early(&inner);
        let (plans, planned) = inner.take_plans();
        // A waker that panics keeps no plan from being dropped.
        let woken = catch(|| self.announce_closing(inner, reason)).err();
        self.trace.never_ran(self.options.name.as_deref(), planned);
        resume(woken.or(drop_plans(plans)));
    }

    /// Without time, or with nothing left that could use it, the first abort is a moment away: the depth that it is
    /// for takes no task any more.
    fn refuse_early(&self, inner: &Inner<E>) {
        if matches!(inner.time(&self.options), Time::None) || inner.depths.is_empty() {
            let highest = inner.depths.highest().filter(|_| !inner.depths.is_single());
            self.refuse_from(highest.map_or(i64::MIN, i64::from));
        }
    }

    /// Wakes whoever waits for the closing, with the first reason that there was.
    fn announce_closing(&self, mut inner: MutexGuard<'_, Inner<E>>, reason: ClosingReason) {
        let is_news = self.reason.set(reason).is_ok();
        // Only the first who closes the pool cancels the token: a waker that panics is then that one's failure.
        let closing = if is_news { inner.closing.clone() } else { None };
        let driver = inner.driver.take();
        drop(inner);
        // Each of these may be somebody's waker, and panic: the other is woken all the same.
        let woken = [
            catch(|| driver.into_iter().for_each(Waker::wake)),
            catch(|| closing.iter().for_each(CancellationToken::cancel)),
        ];
        self.has_turned();
        if let (true, Some(reason)) = (is_news, self.reason.get()) {
            self.trace.closing(reason);
        }
        if let Some(payload) = woken.into_iter().find_map(Result::err) {
            payload.resume();
        }
    }

    /// Ready when the pool has begun to close, or nothing of it is left. Otherwise the driver will be woken.
    pub(super) fn poll_end(&self, cx: &Context<'_>) -> Poll<Next> {
        let waker = cx.waker().clone();
        let mut inner = self.lock();
        let running = inner.phase == Phase::Running;
        let can_end = inner.depths.has_only_daemons() && !(self.options.keep_open && self.more_may_come(&inner));
        if running && !can_end {
            let replaced = inner.driver.replace(waker);
            drop(inner);
            drop(replaced);
            return Poll::Pending;
        }
        // What most pools come to. The steps are there for the others.
        if running && inner.failures.is_none() && inner.depths.is_over() {
            return Poll::Ready(Next::Join(self.end_well(inner)));
        }
        self.take_over(inner, ClosingReason::Completed);
        Poll::Ready(Next::Close)
    }

    /// Whether something is left from which tasks can come, or the end of the pool.
    fn more_may_come(&self, inner: &Inner<E>) -> bool {
        self.handles.load(Ordering::Acquire) > 0 || !inner.depths.is_empty() || !inner.depths.is_unwatched()
    }

    /// Ends a pool of which nothing is left.
    fn end_well(&self, mut inner: MutexGuard<'_, Inner<E>>) -> Vec<JoinSet<()>> {
        let (sets, held) = (inner.depths.take_sets(), inner.end());
        self.announce_closing(inner, ClosingReason::Completed);
        self.let_go(held);
        sets
    }

    /// Lets go of the enclosing scope, whose pool may have waited in its grace for this one.
    pub(super) fn let_go(&self, held: (Option<Arc<Scope>>, Option<Waker>)) {
        held.0.iter().for_each(|enclosing| enclosing.tell_pool());
    }

    /// The pool has started, or begins to close.
    pub(super) fn has_turned(&self) {
        drop(catch(|| self.turned.notify_waiters()));
        self.has_changed();
    }

    /// Has whoever waits look again.
    pub(super) fn has_changed(&self) {
        drop(catch(|| self.changed.notify_waiters()));
    }

    /// Begins to close a pool whose future is dropped.
    pub(super) fn drop_run(&self) {
        // In a destructor: a waker may panic, and the closing goes on all the same.
        if let Err(payload) = catch(|| self.take_over(self.lock(), ClosingReason::Dropped)) {
            let info = self.lock().body_info();
            self.record(TaskError::new(info, Failure::Panic(payload)), OnFailure::Collect);
        }
    }

    fn take_over(&self, mut inner: MutexGuard<'_, Inner<E>>, reason: ClosingReason) {
        if inner.phase == Phase::Running {
            inner.has_own_cause = true;
        }
        inner.phase = Phase::Closing;
        self.refuse_early(&inner);
        self.announce_closing(inner, reason);
    }

    /// Marks the pool as one that its runtime closes.
    pub(super) fn hand_over(&self) {
        self.lock().handed_over = true;
        self.trace.handed_over();
    }
}

/// Has the driver look again, which may panic.
pub(super) fn wake_driver<E>(mut inner: MutexGuard<'_, Inner<E>>) {
    let driver = inner.driver.take();
    drop(inner);
    driver.into_iter().for_each(Waker::wake);
}

/// How long tasks may go on after the signal.
pub(super) enum Time {
    /// They are aborted at once.
    None,
    Grace(Duration),
    /// Until they are aborted from outside.
    Outer,
}

impl<E> Inner<E> {
    pub(super) fn time(&self, options: &Options<E>) -> Time {
        match options.grace {
            _ if self.aborted => Time::None,
            Some(Duration::ZERO) => Time::None,
            Some(grace) => Time::Grace(grace),
            None if self.has_outer_time && !self.has_own_cause => Time::Outer,
            None => Time::None,
        }
    }

    /// Takes the plans out, to be admitted or dropped without the lock. Says how many of them count.
    pub(super) fn take_plans(&mut self) -> (Vec<Box<dyn Planned<E>>>, usize) {
        let planned = mem::take(&mut self.planned);
        (mem::take(&mut self.plans), planned.iter().sum())
    }

    /// Whether an abort has ended the grace, for the depths that were to have it later, too.
    pub(super) fn is_grace_cut(&self) -> bool {
        self.grace_cut
    }

    /// What a depth has left, if that is anything.
    pub(super) fn left_at(&mut self, depth: i32) -> Option<Snapshot> {
        let tasks = self.depths.get_mut(depth).filter(|tasks| !tasks.is_empty())?;
        let mut left = Snapshot::new(NodeState::Closing);
        tasks.snapshot(depth, &mut left);
        Some(left)
    }

    /// Ends the pool: its driver is woken no more, and the enclosing scope is let go of.
    pub(super) fn end(&mut self) -> (Option<Arc<Scope>>, Option<Waker>) {
        self.phase = Phase::Closed;
        (self.enclosing.take(), self.driver.take())
    }

    /// How failures of the body, and of the pool itself, are named.
    pub(super) fn body_info(&self) -> TaskInfo {
        TaskInfo::of_body(self.called_at)
    }
}
