//! From one phase of a pool to the next: what begins the closing, and what the driver does.
//!
//! Everything here is a short stay under the lock, and what has to be woken, cancelled or dropped is seen to after it,
//! as invariant 1 of the [`state`](super::state) asks for. A phase never goes back. A pool that runs is closed by
//! [`begin_closing`](Shared::begin_closing), on a failure, a cancel, or for the enclosing pool; by
//! [`look`](Shared::look), when all have ended, which ends it at once if all is well; or by [`orphan`](Shared::orphan),
//! when its driver is dropped.

use std::mem;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};
use std::task::{Context, Waker};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::closing::Closing;
use super::state::{Phase, Shared, State, WARN_EVERY, drop_plans, go_on};
use super::trace::Watch;
use super::tree::tasks_of;
use crate::closing_reason::ClosingReason;
use crate::error::catch;
use crate::scope::NodeState;
use crate::scope::{ErasedPool, Scope, Snapshot};

/// What the driver sees when it looks.
pub(super) enum End {
    /// Something is left; the driver is woken when it is time to look again.
    Waiting,
    /// The pool closes, or all but daemons have ended.
    Close(Box<Closing>),
    /// Everything has ended well.
    Over,
}

// The beginning.
impl<E: Send + 'static> Shared<E> {
    /// Lets the planned tasks run; in a pool that was cancelled before, there are none. Returns the scope of depth 0.
    pub(super) fn start(self: &Arc<Self>, runtime: Handle, enclosing: Option<Arc<Scope>>) -> Arc<Scope> {
        self.trace.opened(self.name.as_ref());
        // A pool is started by its one owner.
        drop(self.runtime.set(runtime));
        let mut state = self.lock();
        let scope = state.depths.enter(self, enclosing);
        if state.phase == Phase::Planned {
            state.phase = Phase::Running;
        } else {
            state.phase = Phase::Closing;
            self.refuse_from(i64::MIN);
        }
        if state.plans.is_empty() {
            drop(state);
        } else {
            self.let_in(state);
        }
        if let Some(options) = &self.options {
            // There may be more slots than planned tasks.
            options.freed.notify_waiters();
        }
        scope
    }
}

// What begins the closing.
impl<E: 'static> Shared<E> {
    /// Closes the pool for a reason that is in nobody's list.
    pub(super) fn close(&self, reason: ClosingReason) {
        self.begin_closing(self.lock(), reason);
    }
}

impl<E> Shared<E> {
    /// Moves an open pool to a phase in which it closes, and tells everybody. Plans are dropped.
    pub(super) fn begin_closing(&self, mut state: MutexGuard<'_, State<E>>, reason: ClosingReason) {
        state.phase = match state.phase {
            Phase::Planned => Phase::Closed,
            Phase::Running => Phase::Closing,
            Phase::Closing | Phase::Closed => return,
        };
        self.refuse_early(&state);
        let plans = mem::take(&mut state.plans);
        // A waker that panics as it is told keeps no plan from being dropped.
        let woken = catch(|| self.announce_closing(state, reason)).err();
        go_on(woken.or(drop_plans(plans)));
    }

    /// Takes no tasks from now on in what is to be aborted at once.
    fn refuse_early(&self, state: &State<E>) {
        let depths = &state.depths;
        if self.grace().is_zero() || depths.is_over() {
            let highest = depths.highest().filter(|_| !depths.is_single());
            self.refuse_from(highest.map_or(i64::MIN, i64::from));
        }
    }

    /// Tells everybody that the pool closes, for this reason unless there was another before.
    fn announce_closing(&self, mut state: MutexGuard<'_, State<E>>, reason: ClosingReason) {
        let news = state.reason.is_none().then(|| reason.clone());
        state.reason.get_or_insert(reason);
        self.closed.store(true, Ordering::Release);
        let driver = state.driver.take();
        let closing = state.closing.take();
        drop(state);
        // Each of these may be somebody's waker, and panic: the others hear of it all the same.
        let told = [
            catch(|| driver.into_iter().for_each(Waker::wake)),
            catch(|| closing.iter().for_each(CancellationToken::cancel)),
            catch(|| self.options.iter().for_each(|options| options.freed.notify_waiters())),
        ];
        if let Some(reason) = news {
            self.trace.closing(&reason);
        }
        if let Some(payload) = told.into_iter().find_map(Result::err) {
            payload.resume();
        }
    }

    /// Whether an error that tells nothing new is no failure at this depth: the pool closes for a failure that it has,
    /// or those who are there have been asked to stop.
    pub(super) fn expects_cancellation(&self, depth: i32) -> bool {
        let mut state = self.lock();
        match state.phase {
            Phase::Planned | Phase::Running => false,
            Phase::Closing | Phase::Closed => {
                state.has_failed() || state.depths.get_mut(depth).is_none_or(|stage| stage.is_cancelled())
            }
        }
    }
}

// What the driver does.
impl<E: Send + 'static> Shared<E> {
    /// Begins to close, or ends, if it is time for that.
    pub(super) fn poll_state(&self, cx: &Context<'_>) -> End {
        let waker = (!self.scope_ended.load(Ordering::Relaxed)).then(|| cx.waker().clone());
        let mut state = self.lock();
        let running = state.phase == Phase::Running;
        if running && (self.keep_open() || !state.depths.is_empty()) {
            let Some(waker) = waker else {
                drop(state);
                self.scope_ended.store(false, Ordering::Relaxed);
                return self.poll_state(cx);
            };
            let replaced = state.driver.replace(waker);
            drop(state);
            drop(replaced);
            return End::Waiting;
        }
        // What most pools come to. The steps are there for the others.
        if running && !state.has_failed() && state.depths.is_over() {
            let tokens = state.depths.cancel();
            self.over(state);
            tokens.iter().for_each(CancellationToken::cancel);
            return End::Over;
        }
        End::Close(self.take_over(state, ClosingReason::Completed))
    }

    /// Ends a pool in which everything has ended well.
    fn over(&self, mut state: MutexGuard<'_, State<E>>) {
        let held = state.end();
        self.announce_closing(state, ClosingReason::Completed);
        drop(held);
    }

    /// Closes a pool whose driver is gone, for the driver that carries on.
    pub(super) fn orphan(&self) -> Box<Closing> {
        // In a destructor: whoever hears of it may panic, and the closing goes on all the same.
        catch(|| self.take_over(self.lock(), ClosingReason::Dropped)).unwrap_or_default()
    }

    /// Begins to close, if that has not begun.
    fn take_over(&self, mut state: MutexGuard<'_, State<E>>, reason: ClosingReason) -> Box<Closing> {
        state.phase = Phase::Closing;
        self.refuse_early(&state);
        self.announce_closing(state, reason);
        Box::default()
    }

    /// The future of the pool is gone, and its closing goes on.
    pub(super) fn hand_over(&self) {
        self.lock().handed_over = true;
        self.trace.handed_over();
    }

    /// The highest depth that is left, after its tasks have been asked to stop; `None` at the end.
    pub(super) fn cancel_next_depth(&self) -> Option<i32> {
        let mut state = self.lock();
        if state.phase != Phase::Closing {
            return None;
        }
        let Some((depth, stage)) = state.depths.highest_mut() else {
            let held = state.end();
            drop(state);
            drop(held);
            return None;
        };
        let token = stage.cancel();
        // What is above has had its turn.
        self.refuse_from(i64::from(depth) + 1);
        drop(state);
        token.inspect(CancellationToken::cancel);
        Some(depth)
    }

    /// Whether nothing is left of a depth that closes; if not, the driver is woken when that may have changed.
    pub(super) fn poll_empty(&self, cx: &Context<'_>, depth: i32) -> bool {
        let waker = cx.waker().clone();
        let mut state = self.lock();
        if state.depths.get_mut(depth).is_none_or(|stage| stage.is_empty()) {
            return true;
        }
        let replaced = state.driver.replace(waker);
        drop(state);
        drop(replaced);
        false
    }

    /// Aborts what is left of a depth. Nothing is spawned in it any more.
    pub(super) fn abort(&self, depth: i32) {
        let mut state = self.lock();
        self.refuse_from(depth.into());
        let queued = state.gate.as_mut().map(|gate| gate.remove_from(depth));
        let scopes = state.depths.get_mut(depth).map(|stage| stage.abort());
        drop(state);
        drop(scopes);
        self.wake_tasks(depth);
        queued.into_iter().for_each(|queued| self.discard_all(queued));
    }

    /// Wakes all tasks of a depth, without the lock: that may wake somebody's `LocalSet`. They keep their seats until
    /// they have ended, so that none is left out.
    fn wake_tasks(&self, depth: i32) {
        let mut batch: Vec<Waker> = Vec::new();
        for daemon in [false, true] {
            let mut next = Some(0);
            while let Some(key) = next {
                let mut state = self.lock();
                next = state.depths.get_mut(depth).and_then(|stage| stage.wake_from(daemon, key, &mut batch));
                drop(state);
                // The waker of a `LocalSet` may be somebody's, and panic: the others are woken all the same.
                batch.drain(..).for_each(|waker| drop(catch(|| waker.wake())));
            }
        }
    }

    /// Lets go of a depth that has closed.
    pub(super) fn close_depth(&self, depth: i32) {
        let stage = self.lock().depths.take(depth);
        drop(stage);
    }

    /// Gives up on what does not end of a depth.
    pub(super) fn abandon(&self, depth: i32) {
        let mut snapshot = Snapshot::new(NodeState::Closing);
        let mut state = self.lock();
        let Some(stage) = state.depths.take(depth) else { return };
        stage.snapshot(depth, &mut snapshot);
        Self::keep_abandoned(&mut state, depth, stage);
        drop(state);
        let stuck = tasks_of(snapshot);
        self.trace.abandoned(&stuck);
        self.add_stuck(stuck);
    }

    /// Whether there is nothing left to close.
    pub(super) fn is_over(&self) -> bool {
        let state = self.lock();
        state.phase != Phase::Closing || state.depths.is_over()
    }

    /// Aborts all that is left, in no order, and lets go of it.
    pub(super) fn abort_all(&self) {
        let mut state = self.lock();
        self.refuse_from(i64::MIN);
        let held = state.end();
        let tokens = state.depths.cancel();
        let depths = state.depths.depths();
        drop(state);
        drop(catch(|| tokens.iter().for_each(CancellationToken::cancel)));
        depths.into_iter().for_each(|depth| self.abort(depth));
        drop(held);
    }

    /// The pool waits while it closes: whoever listens is told for whom, from time to time.
    pub(super) fn watch(&self, watch: &mut Watch, cx: &mut Context<'_>) {
        let every = self.options.as_ref().map_or(WARN_EVERY, |options| options.warn_every);
        watch.poll(cx, every, &self.trace, || tasks_of(self.snapshot()));
    }
}
