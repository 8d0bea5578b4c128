//! How tasks come in and go: their places on the list of their depth, and the sets that own them.

use std::future::poll_fn;
use std::mem;
use std::panic::Location;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::task::{Poll, Waker};
use std::thread;

use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::task::coop::consume_budget;

use super::limit::Turn;
use super::shared::{Inner, Phase, Planned, Shared, resume, wake_driver};
use super::tasks::{BATCH, TaskEntry, Tasks, abort_all, free_ended};
use crate::error::{TaskInfo, catch};
use crate::scope::{ChildKind, Current, ErasedPool, Scope, ScopeKind, TaskClass, TaskKey, TaskKind};

/// What becomes of a task that is to be spawned.
pub(super) enum Admission {
    /// The pool does not run yet.
    Planned,
    /// The pool, or the task's depth, is closed.
    Refused,
    Placed(Current, Place),
}

/// A set that is to own a task, while the task is spawned into it.
pub(super) struct Place {
    class: TaskClass,
    /// Of the task, if it was not spawned before.
    key: Option<TaskKey>,
    pub(super) set: JoinSet<()>,
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
        if let Some(enclosing) = &enclosing {
            let is_aborted = enclosing.add_child(ChildKind::Pool(Arc::downgrade(self) as Weak<dyn ErasedPool>));
            if is_aborted || Current::is_aborted() {
                ErasedPool::abort(&**self);
            }
        }
        let mut inner = self.lock();
        inner.enclosing = enclosing;
        inner.called_at = called_at;
        inner.has_outer_time = has_outer_time;
        let scope = self.scope_in(&mut inner, TaskClass::default());
        if inner.phase == Phase::Planned {
            inner.phase = Phase::Running;
        } else {
            inner.phase = Phase::Closing;
            self.refuse_from(i64::MIN);
        }
        let plans = mem::take(&mut inner.plans);
        inner.admits_plans = true;
        drop(inner);
        // Each of them, although one cannot be spawned.
        let panic = plans.into_iter().map(|plan| catch(|| plan.admit(self)).err()).fold(None, Option::or);
        self.lock().admits_plans = false;
        self.has_changed();
        resume(panic);
        scope
    }

    /// Keeps a task until the pool runs. Gives it back if it does.
    pub(super) fn plan(&self, mut plan: Box<dyn Planned<E>>) -> Option<Box<dyn Planned<E>>> {
        let mut inner = self.lock();
        if inner.phase != Phase::Planned {
            return Some(plan);
        }
        plan.set_turn(self.turn(plan.class()));
        inner.plans.push(plan);
        None
    }

    /// Makes room for a task, and has it take its turn if it has not.
    pub(super) fn place(self: &Arc<Self>, class: TaskClass, info: &TaskInfo, turn: Option<&mut Turn>) -> Admission {
        let mut inner = self.lock();
        match (inner.phase, class.kind) {
            (Phase::Planned, _) => return Admission::Planned,
            (Phase::Running, kind) if kind.is_watcher() => {}
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
        Admission::Placed(Current { scope, key: Some(key) }, Place { class, key: Some(key), set, was_aborted: false })
    }

    /// A place under the limit. Taken under the lock, so that the queue has the order of the list.
    fn turn(&self, class: TaskClass) -> Turn {
        match &self.options.limit {
            Some(limit) if !class.kind.is_daemon() => limit.turn(),
            _ => Turn::Free,
        }
    }

    /// Once more a set for a task that is on the list, to spawn something else in its stead.
    pub(super) fn place_again(&self, class: TaskClass) -> Place {
        let set = self.lock().depths.tasks_mut(class).map(Tasks::borrow_set).unwrap_or_default();
        Place { class, key: None, set, was_aborted: false }
    }

    /// Puts a set back, and aborts it if its depth was aborted meanwhile.
    pub(super) fn return_set(&self, place: Place) {
        let Place { class, key, mut set, was_aborted } = place;
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
        tasks.return_set(set, was_aborted)
    }

    /// The scope of a class of tasks, which is made if there is none.
    pub(super) fn scope(self: &Arc<Self>, class: TaskClass) -> Arc<Scope> {
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
        if inner.phase == Phase::Closing {
            wake_driver(inner);
        }
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
        Poll::Ready(())
    }

    /// Whether a task that is dropped was aborted by nobody here, but by its runtime, which shuts down.
    pub(super) fn is_cut_off_by_runtime(&self, current: &Current) -> bool {
        let class = current.scope.class();
        if !class.kind.is_watcher() && !self.accepts(class.depth) {
            return false;
        }
        let mut inner = self.lock();
        let Some(tasks) = inner.depths.tasks_mut(class) else { return false };
        // A spawn that panics drops what was to be a task.
        let is_refused = thread::panicking() && current.key.is_some_and(|key| tasks.is_unspawned(key));
        !tasks.is_aborted() && !is_refused
    }

    /// Takes a task off the list that is about to let go of its scope.
    pub(super) fn task_ended(&self, current: &Current) {
        let (class, Some(key)) = (current.scope.class(), current.key) else { return };
        let mut inner = self.lock();
        let (entry, ended) = inner.depths.task_ended(class, key);
        // Those that are left in a closing pool may all wait for a turn that cannot come.
        let news =
            inner.phase == Phase::Closing && inner.depths.tasks_mut(class).is_some_and(|tasks| tasks.are_queued());
        let driver = if news { inner.driver.take() } else { None };
        let is_idle = inner.depths.is_idle();
        drop(inner);
        drop(entry);
        if is_idle {
            self.has_changed();
        }
        driver.into_iter().for_each(Waker::wake);
        if let Some(mut set) = ended {
            // More than one batch: the set may have been out when others came to this.
            free_ended(&mut set.0, 4 * BATCH);
            self.return_set(Place { class, key: None, set: set.0, was_aborted: set.1 });
        }
    }

    /// Waits until a task that is spawned would run at once, or the pool closes.
    pub(super) async fn ready(&self) {
        consume_budget().await;
        let Some(limit) = &self.options.limit else { return };
        let mut ready = pin!(limit.ready());
        let mut closing = pin!(self.closing());
        poll_fn(|cx| if closing.as_mut().poll(cx).is_ready() { Poll::Ready(()) } else { ready.as_mut().poll(cx) })
            .await;
    }
}
