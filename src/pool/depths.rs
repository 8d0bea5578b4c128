//! The depths of a pool: what runs at each, and the token by which it is cancelled.

use std::collections::BTreeMap;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::tasks::{TaskEntry, Tasks};
use crate::scope::{Snapshot, TaskClass, TaskKey};

/// All depths of a pool that are not closed. Those at which nothing is and nobody has a token are let go of, so that a
/// pool that lives long does not remember each depth it has ever seen.
pub(super) struct Depths {
    /// Depth 0, which nearly all pools make do with.
    zero: Option<Depth>,
    others: Option<Box<BTreeMap<i32, Depth>>>,
    /// Those that the pool has stopped waiting for. Their tasks are listed until they end.
    abandoned: Option<Box<BTreeMap<i32, Depth>>>,
    /// How many scopes have not ended, of tasks that are no daemons and of daemons; the abandoned are not among them.
    scopes: [usize; 2],
    /// How many tasks are listed, but for the abandoned.
    tasks: usize,
}

/// The tasks of a pool that are cancelled together.
pub(super) struct Depth {
    tasks: Tasks,
    daemons: Option<Box<Tasks>>,
    /// Made for the first who asks.
    token: Option<CancellationToken>,
    cancelled: bool,
}

impl Depths {
    pub(super) const fn new() -> Self {
        Self { zero: Some(Depth::new()), others: None, abandoned: None, scopes: [0; 2], tasks: 0 }
    }

    /// What there is of a depth, which is made if it is not there.
    pub(super) fn entry(&mut self, depth: i32) -> &mut Depth {
        match &mut self.zero {
            Some(zero) if depth == 0 => zero,
            _ => self.others.get_or_insert_default().entry(depth).or_insert_with(Depth::new),
        }
    }

    pub(super) fn get_mut(&mut self, depth: i32) -> Option<&mut Depth> {
        if depth == 0 { self.zero.as_mut() } else { self.others.as_mut()?.get_mut(&depth) }
    }

    /// The tasks of a class, also if the pool has stopped waiting for them.
    pub(super) fn tasks_mut(&mut self, class: TaskClass) -> Option<&mut Tasks> {
        let Self { zero, others, abandoned, .. } = self;
        let depth = match zero {
            Some(zero) if class.depth == 0 => Some(zero),
            _ => others.as_mut().and_then(|others| others.get_mut(&class.depth)),
        };
        let depth = depth.or_else(|| abandoned.as_mut()?.get_mut(&class.depth));
        depth?.tasks_mut(class.daemon)
    }

    /// Lists a task that is about to be spawned.
    pub(super) fn insert(&mut self, class: TaskClass, entry: TaskEntry) -> (TaskKey, JoinSet<()>) {
        self.tasks += 1;
        let tasks = self.entry(class.depth).entry(class.daemon);
        (tasks.entries.insert(entry), tasks.borrow_set())
    }

    /// Takes a task that has ended off the list. Gives a set back whose ended tasks are to be freed, without the lock.
    pub(super) fn task_ended(&mut self, class: TaskClass, key: TaskKey) -> (Option<TaskEntry>, Option<JoinSet<()>>) {
        let is_left = self.get_mut(class.depth).is_some();
        let Some(tasks) = self.tasks_mut(class) else { return (None, None) };
        let (entry, ended) = tasks.task_ended(key);
        self.tasks -= usize::from(is_left && entry.is_some());
        (entry, ended)
    }

    /// Counts a scope that has begun.
    pub(super) fn scope_began(&mut self, daemon: bool) {
        self.scopes[usize::from(daemon)] += 1;
    }

    /// Counts a scope that has ended. Gives the depth back if nobody needs it any more.
    pub(super) fn scope_ended(&mut self, class: TaskClass) -> Option<Depth> {
        let depth = self.get_mut(class.depth)?;
        depth.tasks_mut(class.daemon)?.scope_ended();
        let unused = class.depth != 0 && depth.is_empty() && depth.token.is_none() && !depth.cancelled;
        self.scopes[usize::from(class.daemon)] -= 1;
        if unused { self.others.as_mut()?.remove(&class.depth) } else { None }
    }

    /// The highest depth that is left.
    pub(super) fn highest(&self) -> Option<i32> {
        let other = self.others.as_ref().and_then(|others| others.last_key_value()).map(|(depth, _)| *depth);
        other.max(self.zero.as_ref().map(|_| 0))
    }

    /// Whether only depth 0 is left.
    pub(super) fn is_single(&self) -> bool {
        self.others.as_ref().is_none_or(|others| others.is_empty())
    }

    /// Whether nothing runs but daemons.
    pub(super) fn has_only_daemons(&self) -> bool {
        self.scopes[0] == 0
    }

    /// Whether nothing runs.
    pub(super) fn is_empty(&self) -> bool {
        self.scopes == [0; 2]
    }

    /// How many tasks are listed, but for the abandoned.
    pub(super) fn len(&self) -> usize {
        self.tasks
    }

    /// Takes a depth out that is closed.
    pub(super) fn remove(&mut self, depth: i32) -> Option<Depth> {
        let removed = if depth == 0 { self.zero.take() } else { self.others.as_mut()?.remove(&depth) };
        for (tasks, scopes) in removed.iter().flat_map(Depth::classes).zip(&mut self.scopes) {
            *scopes -= tasks.scopes();
            self.tasks -= tasks.len();
        }
        removed
    }

    /// Stops waiting for a depth, and adds it to what is seen of the pool.
    pub(super) fn abandon(&mut self, depth: i32, snapshot: &mut Snapshot) {
        if let Some(abandoned) = self.remove(depth) {
            abandoned.snapshot(depth, snapshot);
            self.abandoned.get_or_insert_default().insert(depth, abandoned);
        }
    }

    /// Whether something was abandoned.
    pub(super) fn has_abandoned(&self) -> bool {
        self.abandoned.is_some()
    }

    /// The depths that are left.
    pub(super) fn all(&self) -> Vec<i32> {
        self.iter().map(|(depth, _)| depth).collect()
    }

    /// Marks all depths as cancelled; their tokens are to be cancelled without the lock.
    pub(super) fn cancel_all(&mut self) -> Vec<CancellationToken> {
        let others = self.others.iter_mut().flat_map(|others| others.values_mut());
        self.zero.iter_mut().chain(others).filter_map(Depth::cancel).collect()
    }

    /// Takes out all sets of all depths.
    pub(super) fn take_sets(&mut self) -> Vec<JoinSet<()>> {
        let others = self.others.iter_mut().flat_map(|others| others.values_mut());
        self.zero.iter_mut().chain(others).flat_map(Depth::take_sets).collect()
    }

    /// Adds what there is to be seen, in no order.
    pub(super) fn snapshot(&self, snapshot: &mut Snapshot) {
        let abandoned = self.abandoned.iter().flat_map(|abandoned| abandoned.iter());
        for (depth, tasks) in self.iter().chain(abandoned.map(|(depth, tasks)| (*depth, tasks))) {
            tasks.snapshot(depth, snapshot);
        }
    }

    /// All depths that are left, in no order.
    fn iter(&self) -> impl Iterator<Item = (i32, &Depth)> {
        let others = self.others.iter().flat_map(|others| others.iter());
        self.zero.iter().map(|depth| (0, depth)).chain(others.map(|(depth, tasks)| (*depth, tasks)))
    }
}

impl Depth {
    const fn new() -> Self {
        Self { tasks: Tasks::new(), daemons: None, token: None, cancelled: false }
    }

    /// The tasks that are daemons, or those that are not. They are made if they are not there.
    pub(super) fn entry(&mut self, daemon: bool) -> &mut Tasks {
        match daemon {
            false => &mut self.tasks,
            true => self.daemons.get_or_insert_with(|| Box::new(Tasks::new())),
        }
    }

    fn tasks_mut(&mut self, daemon: bool) -> Option<&mut Tasks> {
        if daemon { self.daemons.as_deref_mut() } else { Some(&mut self.tasks) }
    }

    /// The tasks that are no daemons, then the daemons.
    fn classes(&self) -> impl Iterator<Item = &Tasks> {
        std::iter::once(&self.tasks).chain(self.daemons.as_deref())
    }

    fn classes_mut(&mut self) -> impl Iterator<Item = &mut Tasks> {
        std::iter::once(&mut self.tasks).chain(self.daemons.as_deref_mut())
    }

    /// Whether nothing runs here.
    pub(super) fn is_empty(&self) -> bool {
        self.classes().all(|tasks| tasks.scopes() == 0)
    }

    /// What its tasks are cancelled by.
    pub(super) fn token(&mut self) -> CancellationToken {
        self.token.get_or_insert_with(CancellationToken::new).clone()
    }

    /// Marks the depth as cancelled. Its token, if anybody has one, is to be cancelled without the lock.
    pub(super) fn cancel(&mut self) -> Option<CancellationToken> {
        self.cancelled = true;
        self.token.clone()
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled
    }

    /// Takes out the sets that are to be aborted, without the lock.
    pub(super) fn abort(&mut self) -> Vec<JoinSet<()>> {
        self.classes_mut().flat_map(Tasks::abort).collect()
    }

    /// Takes sets back that were aborted.
    pub(super) fn keep_sets(&mut self, sets: Vec<JoinSet<()>>) {
        self.tasks.keep_sets(sets);
    }

    /// Takes out all sets, to wait for them.
    pub(super) fn take_sets(&mut self) -> Vec<JoinSet<()>> {
        self.classes_mut().flat_map(Tasks::take_sets).collect()
    }

    fn snapshot(&self, depth: i32, snapshot: &mut Snapshot) {
        for (tasks, daemon) in self.classes().zip([false, true]) {
            tasks.snapshot(TaskClass { depth, daemon }, snapshot);
        }
    }
}
