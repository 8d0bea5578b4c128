//! How tasks come into a pool: at once, when the pool runs, or when it is their turn.

use std::collections::BTreeMap;
use std::mem;
use std::pin::pin;
use std::sync::{Arc, MutexGuard};

use tokio::task::coop::consume_budget;

use super::depths::{Berth, Launch};
use super::gate::{Kept, Queued, Slot, Ticket, Turn, Waiting};
use super::state::{Phase, Shared, State};
use crate::error::{Failure, PanicPayload, TaskError, TaskInfo, catch};
use crate::scope::{Current, TaskClass};

/// Why a task cannot be spawned that cannot leave its thread.
pub(super) enum NotLocal {
    /// The pool does not run yet, maybe not on this thread.
    Planned,
    /// There is no `LocalSet`.
    Outside,
}

/// A task that was planned, or had to wait, and what becomes of it after unlocking.
enum Next<E> {
    /// It is spawned. It has no berth if it is spawned already, and only waits to be told.
    Spawn(Queued<E>, Option<Berth>),
    /// It was cancelled, or its depth takes no tasks any more.
    Drop(Queued<E>),
}

impl<E: Send + 'static> Shared<E> {
    /// Takes a task in: spawns it, or keeps it until the pool runs or it is its turn, or gives it back.
    pub(super) fn admit<L: Launch + Send>(self: &Arc<Self>, class: TaskClass, task: L) -> Result<(), L> {
        let mut state = self.lock();
        if state.phase == Phase::Planned {
            state.plans.push(Box::new(Kept { class, task }));
            return Ok(());
        }
        if !self.is_open(&state, class) {
            return Err(task);
        }
        if let Some(gate) = state.gate.as_mut().filter(|_| !class.daemon) {
            if !gate.enter() {
                self.enqueue(&mut state, class, Box::new(Kept { class, task }));
                return Ok(());
            }
        }
        let berth = state.depths.reserve(self, class, task.info());
        drop(state);
        self.launch(berth, task);
        Ok(())
    }

    /// Whether a depth takes tasks that are spawned at once.
    #[inline]
    fn is_open(&self, state: &State<E>, class: TaskClass) -> bool {
        matches!(state.phase, Phase::Running | Phase::Closing) && self.takes(class.depth)
    }

    /// Has a task wait for its turn.
    fn enqueue(self: &Arc<Self>, state: &mut State<E>, class: TaskClass, task: Box<dyn Waiting<E>>) {
        let State { depths, gate: Some(gate), .. } = state else { return };
        gate.push(Queued { task, scope: depths.scope(self, class) }, self);
    }

    /// Spawns a task, and lets its handle know what to abort it by, if it has one.
    #[inline]
    pub(super) fn launch(&self, berth: Berth, task: impl Launch) {
        let Berth { key, scope } = berth;
        let control = task.control();
        let runtime = self.runtime.get().expect("a berth is reserved in a pool that runs");
        let spawned = task.launch(scope, key, runtime);
        if let Some(control) = control {
            control.spawned(spawned.abort_handle());
        }
    }

    /// Lets the planned tasks in, in their order.
    pub(super) fn let_in<'a>(self: &'a Arc<Self>, mut state: MutexGuard<'a, State<E>>) {
        let plans = mem::take(&mut state.plans);
        let next: Vec<_> = plans.into_iter().filter_map(|task| self.admit_planned(&mut state, task)).collect();
        drop(state);
        next.into_iter().for_each(|next| self.see_to(next));
    }

    /// What becomes of a planned task now that the pool runs; `None` if it has to wait for its turn.
    fn admit_planned(self: &Arc<Self>, state: &mut State<E>, task: Box<dyn Waiting<E>>) -> Option<Next<E>> {
        let class = task.class();
        let scope = state.depths.scope(self, class);
        if task.is_cancelled() {
            return Some(Next::Drop(Queued { task, scope }));
        }
        if let Some(gate) = state.gate.as_mut().filter(|_| !class.daemon) {
            if !gate.enter() {
                gate.push(Queued { task, scope }, self);
                return None;
            }
        }
        Some(self.reserve(state, Queued { task, scope }))
    }

    /// Reserves a berth, unless the task is spawned already.
    fn reserve(self: &Arc<Self>, state: &mut State<E>, queued: Queued<E>) -> Next<E> {
        let berth = queued.task.info().map(|info| state.depths.reserve(self, queued.task.class(), info));
        Next::Spawn(queued, berth)
    }

    /// Does what was decided under the lock.
    fn see_to(self: &Arc<Self>, next: Next<E>) {
        match next {
            Next::Spawn(Queued { task, scope }, berth) => {
                task.launch(self, berth);
                // The last to let go of a scope takes the lock.
                drop(scope);
            }
            Next::Drop(queued) => self.discard(queued),
        }
    }

    /// Drops a task that was never spawned, in its scope. A panic of its destructor is a failure.
    pub(super) fn discard(&self, queued: Queued<E>) {
        let Queued { task, scope } = queued;
        let info = task.info();
        let mut current = Some(Current { scope, key: None });
        let dropped = catch(|| Current::enter(&mut current, || drop(task)));
        if let (Err(payload), Some(info), Some(Current { scope, .. })) = (dropped, info, &current) {
            let unreported = self.fail(TaskError::new(info, Failure::Panic(payload)));
            scope.report_outside(unreported);
        }
    }

    /// Drops the tasks that will not have their turn any more.
    pub(super) fn discard_all(&self, queue: BTreeMap<u64, Queued<E>>) {
        queue.into_values().for_each(|queued| self.discard(queued));
    }
}

// ===== a limit =====

impl<E: Send + 'static> Shared<E> {
    /// A task has ended that counted towards the limit.
    pub(super) fn free_slot(self: &Arc<Self>) {
        let mut state = self.lock();
        let Some(gate) = &mut state.gate else { return };
        gate.leave();
        let panicked = match gate.draining {
            true => None,
            false => self.drain_queue(state),
        };
        if let Some(options) = &self.options {
            options.freed.notify_waiters();
        }
        if let Some(payload) = panicked {
            payload.resume();
        }
    }

    /// Spawns queued tasks as long as there are slots. Only one does this at a time: what the others free meanwhile, as
    /// a runtime that is shutting down does with every task that is spawned, is seen in the next round. Returns the
    /// panic of a waker, or of a runtime that had no thread for a closure: the others have their turn all the same.
    fn drain_queue<'a>(self: &'a Arc<Self>, mut state: MutexGuard<'a, State<E>>) -> Option<PanicPayload> {
        let mut panicked = None;
        while let Some(next) = self.admit_queued(&mut state) {
            drop(state);
            panicked = panicked.or(catch(|| self.see_to(next)).err());
            state = self.lock();
        }
        panicked
    }

    /// The next task that has its turn.
    fn admit_queued(self: &Arc<Self>, state: &mut State<E>) -> Option<Next<E>> {
        let gate = state.gate.as_mut()?;
        let queued = gate.pop();
        gate.draining = queued.is_some();
        let queued = queued?;
        // A depth that is about to be aborted takes none any more.
        if self.is_open(state, queued.task.class()) && !queued.task.is_cancelled() {
            return Some(self.reserve(state, queued));
        }
        state.gate.iter_mut().for_each(|gate| gate.leave());
        Some(Next::Drop(queued))
    }

    /// Waits until a task that is spawned would run at once, or the pool closes.
    pub(super) async fn ready(&self) {
        consume_budget().await;
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

    /// Whether a task that is spawned now would run at once. A pool that closes keeps nobody waiting.
    fn has_room(&self) -> bool {
        let state = self.lock();
        match (state.phase, &state.gate) {
            (Phase::Planned, Some(gate)) => {
                gate.has_room_for_more_than(state.plans.iter().filter(|task| !task.class().daemon).count())
            }
            (Phase::Running, Some(gate)) => gate.is_free(),
            _ => true,
        }
    }
}

// ===== tasks that cannot leave their thread =====

impl<E: Send + 'static> Shared<E> {
    /// Takes in a task of this thread, made of what says when its turn is. If the pool is closed, it is dropped.
    pub(super) fn admit_local<L, M>(self: &Arc<Self>, class: TaskClass, info: TaskInfo, make: M) -> Result<(), NotLocal>
    where
        L: Launch,
        M: FnOnce(Turn) -> L,
    {
        let mut state = self.lock();
        if state.phase == Phase::Planned {
            return Err(NotLocal::Planned);
        }
        if !self.is_open(&state, class) {
            return Ok(());
        }
        let turn = match state.gate.as_mut().filter(|_| !class.daemon).map(|gate| gate.enter()) {
            None => Turn::Now(None),
            Some(true) => Turn::Now(Some(Slot::new(self))),
            Some(false) => {
                let (ticket, turn) = Ticket::new(class);
                self.enqueue(&mut state, class, Box::new(ticket));
                Turn::Later(turn)
            }
        };
        let berth = state.depths.reserve(self, class, info);
        drop(state);
        let task = make(turn);
        catch(|| self.launch(berth, task)).map_err(|_| NotLocal::Outside)
    }
}
