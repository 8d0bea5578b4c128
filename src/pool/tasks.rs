//! The tasks of one class, that is of one depth, daemons or others: the sets in which tokio has them, and the list of
//! who is alive, since a [`JoinSet`] cannot be looked into.

use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use tokio::task::JoinSet;

use super::slab::Slab;
use crate::error::{TaskInfo, catch};
use crate::scope::{NodeState, Scope, Snapshot, TaskClass, TaskKey, TaskKind, TaskSnapshot};

/// How many tasks end before one of them frees what all of them have left.
pub(super) const BATCH: usize = 256;

pub(super) struct Tasks {
    entries: Slab<TaskEntry>,
    /// How many of them wait for a turn.
    queued: usize,
    /// How many of them have been polled.
    begun: usize,
    /// A set is out of here while a task is spawned into it, for which no lock is held. So there are as many as
    /// threads have ever spawned at once.
    sets: Vec<JoinSet<()>>,
    /// How many sets are out of here, and come back.
    out: usize,
    /// Whether what is spawned into a set that is out of here meanwhile is to be aborted.
    aborted: bool,
    /// Whether what is nested in the tasks has been told: when all sets are back, so that tokio has heard of it before.
    told: bool,
    /// The scope of the tasks. It ends when nothing holds it any more, and is made anew when a task comes later.
    scope: Weak<Scope>,
    /// How many scopes have begun and not ended. Between the end of one and its report, there may be another.
    scopes: usize,
    /// How many tasks have ended since the last time that their memory was freed.
    ended: usize,
}

/// The sets of the tasks of a kind, to be aborted without the lock.
pub(super) type Aborted = (TaskKind, Vec<JoinSet<()>>);

/// What is known of a task that has not ended.
pub(super) struct TaskEntry {
    info: TaskInfo,
    /// Whether tokio has it. Until then it may turn out that it cannot be spawned.
    spawned: bool,
    /// Whether it counts towards a limit.
    limited: bool,
    /// Whether it waits for its turn under that.
    queued: bool,
    /// Whether it has been polled. Only daemons say so.
    begun: bool,
}

impl TaskEntry {
    pub(super) fn new(info: TaskInfo, limited: bool, queued: bool) -> Self {
        Self { info, spawned: false, limited, queued, begun: false }
    }

    /// Whether it has a slot under a limit.
    pub(super) fn has_slot(&self) -> bool {
        self.limited && !self.queued
    }
}

impl Tasks {
    pub(super) const fn new() -> Self {
        Self {
            entries: Slab::new(),
            queued: 0,
            begun: 0,
            sets: Vec::new(),
            out: 0,
            aborted: false,
            told: false,
            scope: Weak::new(),
            scopes: 0,
            ended: 0,
        }
    }

    /// Lists a task.
    pub(super) fn insert(&mut self, entry: TaskEntry) -> TaskKey {
        self.queued += usize::from(entry.queued);
        self.entries.insert(entry)
    }

    /// The task is tokio's from now on.
    pub(super) fn task_spawned(&mut self, key: TaskKey) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.spawned = true;
        }
    }

    /// Whether what was to be a task is not tokio's, since it could not be spawned.
    pub(super) fn is_unspawned(&mut self, key: TaskKey) -> bool {
        self.entries.get_mut(key).is_some_and(|entry| !entry.spawned)
    }

    /// The turn of a task has come. False if it had.
    pub(super) fn turn_came(&mut self, key: TaskKey) -> bool {
        let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.queued) else { return false };
        entry.queued = false;
        self.queued -= 1;
        true
    }

    pub(super) fn is_aborted(&self) -> bool {
        self.aborted
    }

    /// The first poll of a task is over.
    pub(super) fn task_began(&mut self, key: TaskKey) {
        if let Some(entry) = self.entries.get_mut(key).filter(|entry| !entry.begun) {
            entry.begun = true;
            self.begun += 1;
        }
    }

    /// Whether all tasks that there are have been polled.
    pub(super) fn have_begun(&self) -> bool {
        self.entries.len() == self.begun
    }

    /// Whether all tasks that there are wait for their turn.
    pub(super) fn are_queued(&self) -> bool {
        self.entries.len() == self.queued
    }

    /// The scope, if there is one. It is let go of without the lock.
    pub(super) fn existing_scope(&self) -> Option<Arc<Scope>> {
        self.scope.upgrade()
    }

    /// The scope in which the tasks run; `make` is asked for one if there is none, which is then counted.
    pub(super) fn scope(&mut self, make: impl FnOnce() -> Arc<Scope>) -> Arc<Scope> {
        self.scope.upgrade().unwrap_or_else(|| {
            let scope = make();
            self.scope = Arc::downgrade(&scope);
            self.scopes += 1;
            scope
        })
    }

    /// Counts a scope that has ended.
    pub(super) fn scope_ended(&mut self) {
        self.scopes -= 1;
    }

    /// How many tasks have not ended.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many scopes have not ended.
    pub(super) fn scopes(&self) -> usize {
        self.scopes
    }

    /// A set to spawn into. It comes back by [`return_set`](Self::return_set).
    pub(super) fn borrow_set(&mut self) -> JoinSet<()> {
        self.out += 1;
        self.sets.pop().unwrap_or_default()
    }

    /// Puts a set back into which a task was spawned. Gives it back, if the caller has to abort it first, without the
    /// lock; else the scope, if what is nested in it is to be told of an abort.
    pub(super) fn return_set(
        &mut self,
        set: JoinSet<()>,
        was_aborted: bool,
    ) -> Result<Option<Arc<Scope>>, JoinSet<()>> {
        if self.aborted && !was_aborted { Err(set) } else { Ok(self.keep_sets([set])) }
    }

    /// All sets that nobody spawns into, to be aborted without the lock. What others have out is aborted when it comes
    /// back.
    pub(super) fn abort(&mut self) -> Vec<JoinSet<()>> {
        self.aborted = true;
        self.out += self.sets.len();
        self.take_sets()
    }

    pub(super) fn take_sets(&mut self) -> Vec<JoinSet<()>> {
        std::mem::take(&mut self.sets)
    }

    /// Takes sets back that were out. Gives the scope, if what is nested in it is to be told of an abort.
    pub(super) fn keep_sets(&mut self, sets: impl IntoIterator<Item = JoinSet<()>>) -> Option<Arc<Scope>> {
        let before = self.sets.len();
        self.sets.extend(sets);
        self.out -= self.sets.len() - before;
        if !self.aborted || self.out > 0 || std::mem::replace(&mut self.told, true) {
            return None;
        }
        self.scope.upgrade()
    }

    /// Counts a task that has ended. Gives a set back whose ended tasks are to be freed, without the lock.
    pub(super) fn task_ended(&mut self, key: TaskKey) -> (Option<TaskEntry>, Option<(JoinSet<()>, bool)>) {
        let entry = self.entries.remove(key);
        self.queued -= usize::from(entry.as_ref().is_some_and(|entry| entry.queued));
        self.begun -= usize::from(entry.as_ref().is_some_and(|entry| entry.begun));
        self.ended += 1;
        let full = self.ended % BATCH == 0;
        let set = if full { self.sets.pop() } else { None };
        self.out += usize::from(set.is_some());
        (entry, set.map(|set| (set, self.aborted)))
    }

    /// Adds the tasks and the scope to what is seen of a pool.
    pub(super) fn snapshot(&self, class: TaskClass, snapshot: &mut Snapshot) {
        snapshot.scopes.extend(self.scope.upgrade().map(|scope| (class, scope)));
        snapshot.tasks.extend(self.entries.iter().map(|(key, entry)| TaskSnapshot {
            info: entry.info.clone(),
            class,
            key: Some(key),
            state: if entry.queued { NodeState::Queued } else { NodeState::Running },
            limit: None,
        }));
    }
}

/// Frees what ended tasks have left, at most so many of them.
pub(super) fn free_ended(set: &mut JoinSet<()>, most: usize) {
    for _ in 0..most {
        if set.try_join_next().is_none() {
            break;
        }
    }
}

/// Aborts the tasks of a set. The waker of a `LocalSet` may be somebody's, and panic: tokio passes over those that are
/// marked already, so the next call goes on with the others.
pub(super) fn abort_all(set: &mut JoinSet<()>) {
    while catch(|| set.abort_all()).is_err() {}
}

/// Waits until tokio, too, has done with all of these tasks: it publishes the end of a task a moment after the task
/// has told its pool. Spends the coop budget, as [`JoinSet::join_next`] does.
pub(super) fn poll_join(sets: &mut Vec<JoinSet<()>>, cx: &mut Context<'_>) -> Poll<()> {
    while let Some(set) = sets.last_mut() {
        if ready!(set.poll_join_next(cx)).is_none() {
            sets.pop();
        }
    }
    Poll::Ready(())
}
