//! The depths of a pool: what runs at each, and the token by which it is cancelled.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::tasks::{Aborted, TaskEntry, Tasks};
use crate::scope::{Scope, Snapshot, TaskClass, TaskKey, TaskKind};

/// All depths of a pool that are not closed. Those at which nothing is and nobody has a token are let go of, so that a
/// pool that lives long does not remember each depth it has ever seen.
pub(super) struct Depths {
    /// Depth 0, which nearly all pools make do with.
    zero: Option<Depth>,
    others: BTreeMap<i32, Depth>,
    /// Those that the pool has stopped waiting for. Their tasks are listed until they end.
    abandoned: BTreeMap<i32, Depth>,
    /// Of the pool itself, at no depth.
    watchers: Option<Box<Depth>>,
    /// How many scopes have not ended in `zero` and `others`: first those that hold the pool open, then those of daemons.
    scopes: [usize; 2],
    /// How many tasks are listed there.
    tasks: [usize; 2],
    /// How many tasks have a slot under a limit.
    slots: usize,
    /// Counts the tasks that have been listed. It begins again after 2³² of them.
    generation: NonZeroU32,
}

/// The tasks of a pool that are cancelled together.
pub(super) struct Depth {
    tasks: Tasks,
    /// The other kinds, made when the first of them comes.
    others: Option<Box<[Option<Tasks>; TaskKind::COUNT - 1]>>,
    /// Made for the first who asks.
    token: Option<CancellationToken>,
    /// Whether a task has asked for that, and not only a nested pool.
    has_listener: bool,
    cancelled: bool,
}

impl Depths {
    pub(super) const fn new() -> Self {
        Self {
            zero: Some(Depth::new()),
            others: BTreeMap::new(),
            abandoned: BTreeMap::new(),
            watchers: None,
            scopes: [0; 2],
            tasks: [0; 2],
            slots: 0,
            generation: NonZeroU32::MIN,
        }
    }

    /// What there is at the depth of a class, which is made if it is not there.
    pub(super) fn entry(&mut self, class: TaskClass) -> &mut Depth {
        match class.depth {
            _ if class.kind.is_watcher() => self.watchers.get_or_insert_with(|| Box::new(Depth::new())),
            // A plan that is refused is dropped at its depth, also if the pool has stopped waiting for that.
            depth if self.abandoned.contains_key(&depth) => self.abandoned.entry(depth).or_insert_with(Depth::new),
            // Such a plan has a closed depth made anew; the closing, if it goes on, closes it once more.
            0 => self.zero.get_or_insert_with(Depth::new),
            _ => self.others.entry(class.depth).or_insert_with(Depth::new),
        }
    }

    pub(super) fn get_mut(&mut self, depth: i32) -> Option<&mut Depth> {
        if depth == 0 { self.zero.as_mut() } else { self.others.get_mut(&depth) }
    }

    /// The tasks of a class, also if the pool has stopped waiting for them.
    pub(super) fn tasks_mut(&mut self, class: TaskClass) -> Option<&mut Tasks> {
        let Self { zero, others, abandoned, watchers, .. } = self;
        let depth = match zero {
            _ if class.kind.is_watcher() => watchers.as_deref_mut(),
            Some(zero) if class.depth == 0 => Some(zero),
            _ => others.get_mut(&class.depth),
        };
        depth.or_else(|| abandoned.get_mut(&class.depth))?.tasks_mut(class.kind)
    }

    /// Whether what is at the depth of a class is counted.
    fn is_counted(&mut self, class: TaskClass) -> bool {
        !class.kind.is_watcher() && self.get_mut(class.depth).is_some()
    }

    /// Lists a task that is about to be spawned.
    pub(super) fn insert(&mut self, class: TaskClass, entry: TaskEntry) -> (TaskKey, JoinSet<()>) {
        self.tasks[class.kind.nth()] += usize::from(!class.kind.is_watcher());
        self.slots += usize::from(entry.has_slot());
        let generation = self.generation;
        self.generation = generation.checked_add(1).unwrap_or(NonZeroU32::MIN);
        let tasks = self.entry(class).entry(class.kind);
        (tasks.insert(entry, generation), tasks.borrow_set())
    }

    /// Takes a task that has ended off the list. Gives a set back whose ended tasks are to be freed, without the lock.
    pub(super) fn task_ended(
        &mut self,
        class: TaskClass,
        key: TaskKey,
    ) -> (Option<TaskEntry>, Option<(JoinSet<()>, bool)>) {
        let is_counted = self.is_counted(class);
        let Some(tasks) = self.tasks_mut(class) else { return (None, None) };
        let (entry, ended) = tasks.task_ended(key);
        self.tasks[class.kind.nth()] -= usize::from(is_counted && entry.is_some());
        self.slots -= usize::from(entry.as_ref().is_some_and(TaskEntry::has_slot));
        (entry, ended)
    }

    /// A queued task has got a slot.
    pub(super) fn turn_came(&mut self, class: TaskClass, key: TaskKey) {
        let came = self.tasks_mut(class).is_some_and(|tasks| tasks.turn_came(key));
        self.slots += usize::from(came);
    }

    /// How many tasks have a slot under a limit.
    pub(super) fn slots(&self) -> usize {
        self.slots
    }

    /// Counts a scope that has begun.
    pub(super) fn scope_began(&mut self, class: TaskClass) {
        let is_counted = self.is_counted(class);
        self.scopes[class.kind.nth()] += usize::from(is_counted);
    }

    /// Counts a scope that has ended. Gives the depth back if nobody needs it any more.
    pub(super) fn scope_ended(&mut self, class: TaskClass) -> Option<Depth> {
        let is_counted = self.is_counted(class);
        self.tasks_mut(class)?.scope_ended();
        self.scopes[class.kind.nth()] -= usize::from(is_counted);
        self.take_unused(class.depth)
    }

    /// Gives a depth back if nobody needs it any more. Depth 0 stays, and so does one to which a set comes back: a task
    /// may end before its spawner goes on.
    pub(super) fn take_unused(&mut self, depth: i32) -> Option<Depth> {
        let found = self.others.get(&depth)?;
        let is_used = !found.is_empty() || found.kinds().any(|(_, tasks)| tasks.has_set_out());
        if is_used || found.token.is_some() || found.cancelled { None } else { self.others.remove(&depth) }
    }

    /// The highest depth that is left.
    pub(super) fn highest(&self) -> Option<i32> {
        let other = self.others.last_key_value().map(|(depth, _)| *depth);
        other.max(self.zero.as_ref().map(|_| 0))
    }

    /// Whether only depth 0 is left.
    pub(super) fn is_single(&self) -> bool {
        self.others.is_empty()
    }

    /// Whether nothing runs but daemons.
    pub(super) fn has_only_daemons(&self) -> bool {
        self.scopes[0] == 0
    }

    /// Whether no task is left but daemons.
    pub(super) fn is_idle(&self) -> bool {
        self.tasks[0] == 0
    }

    /// Whether nothing runs, but for watchers.
    pub(super) fn is_empty(&self) -> bool {
        self.scopes == [0; 2]
    }

    /// Whether nothing is left, and nobody has a token that is to be cancelled.
    pub(super) fn is_over(&self) -> bool {
        self.is_empty() && self.is_unwatched() && self.iter().all(|(_, depth)| depth.token.is_none())
    }

    /// The watchers, if there have been any.
    pub(super) fn watchers_mut(&mut self) -> Option<&mut Depth> {
        self.watchers.as_deref_mut()
    }

    /// Whether no watcher is left.
    pub(super) fn is_unwatched(&self) -> bool {
        self.watchers.as_ref().is_none_or(|watchers| watchers.is_empty())
    }

    /// How many tasks are listed, but for the abandoned and watchers.
    pub(super) fn len(&self) -> usize {
        self.tasks.iter().sum()
    }

    /// Takes a depth out that is closed.
    pub(super) fn remove(&mut self, depth: i32) -> Option<Depth> {
        let removed = if depth == 0 { self.zero.take() } else { self.others.remove(&depth) };
        for (kind, tasks) in removed.iter().flat_map(Depth::kinds) {
            self.scopes[kind.nth()] -= tasks.scopes();
            self.tasks[kind.nth()] -= tasks.len();
        }
        removed
    }

    /// Stops waiting for a depth, and adds it to what is seen of the pool.
    pub(super) fn abandon(&mut self, depth: i32, snapshot: &mut Snapshot) {
        if let Some(abandoned) = self.remove(depth) {
            abandoned.snapshot(depth, snapshot);
            self.abandoned.insert(depth, abandoned);
        }
    }

    /// Whether something was abandoned.
    pub(super) fn has_abandoned(&self) -> bool {
        !self.abandoned.is_empty()
    }

    /// Whether something runs for which the pool has stopped waiting.
    pub(super) fn has_stuck(&self) -> bool {
        !self.is_unwatched() || self.abandoned.values().any(|depth| !depth.is_empty())
    }

    /// The depths that are left.
    pub(super) fn all(&self) -> Vec<i32> {
        self.iter().map(|(depth, _)| depth).collect()
    }

    /// Marks all depths as cancelled; their tokens are to be cancelled without the lock.
    pub(super) fn cancel_all(&mut self) -> Vec<CancellationToken> {
        self.zero.iter_mut().chain(self.others.values_mut()).filter_map(Depth::cancel).collect()
    }

    /// Takes out all sets of all depths.
    pub(super) fn take_sets(&mut self) -> Vec<JoinSet<()>> {
        self.zero.iter_mut().chain(self.others.values_mut()).flat_map(Depth::take_sets).collect()
    }

    /// Adds what there is to be seen, in no order.
    pub(super) fn snapshot(&self, snapshot: &mut Snapshot) {
        for (depth, tasks) in self.iter().chain(self.abandoned.iter().map(|(depth, tasks)| (*depth, tasks))) {
            tasks.snapshot(depth, snapshot);
        }
        self.watchers.iter().for_each(|watchers| watchers.snapshot(0, snapshot));
    }

    /// All depths that are left, in no order.
    fn iter(&self) -> impl Iterator<Item = (i32, &Depth)> {
        self.zero.iter().map(|depth| (0, depth)).chain(self.others.iter().map(|(depth, tasks)| (*depth, tasks)))
    }
}

impl Depth {
    const fn new() -> Self {
        Self { tasks: Tasks::new(false), others: None, token: None, has_listener: false, cancelled: false }
    }

    /// The tasks of a kind, which are made if they are not there: those without a grace as aborted from the signal on,
    /// also if none of them was there at the signal.
    pub(super) fn entry(&mut self, kind: TaskKind) -> &mut Tasks {
        let is_late = self.cancelled && kind.has_no_grace();
        match kind {
            TaskKind::Task => &mut self.tasks,
            _ => self.others.get_or_insert_default()[kind as usize - 1].get_or_insert_with(|| Tasks::new(is_late)),
        }
    }

    fn tasks_mut(&mut self, kind: TaskKind) -> Option<&mut Tasks> {
        match kind {
            TaskKind::Task => Some(&mut self.tasks),
            _ => self.others.as_mut()?[kind as usize - 1].as_mut(),
        }
    }

    /// All tasks, by their kinds.
    fn kinds(&self) -> impl Iterator<Item = (TaskKind, &Tasks)> {
        let others = self.others.iter().flat_map(|others| others.iter()).map(Option::as_ref);
        TaskKind::ALL
            .into_iter()
            .zip(std::iter::once(Some(&self.tasks)).chain(others))
            .filter_map(|(kind, tasks)| Some((kind, tasks?)))
    }

    fn kinds_mut(&mut self) -> impl Iterator<Item = (TaskKind, &mut Tasks)> {
        let others = self.others.iter_mut().flat_map(|others| others.iter_mut()).map(Option::as_mut);
        TaskKind::ALL
            .into_iter()
            .zip(std::iter::once(Some(&mut self.tasks)).chain(others))
            .filter_map(|(kind, tasks)| Some((kind, tasks?)))
    }

    /// Whether nothing runs here.
    pub(super) fn is_empty(&self) -> bool {
        self.kinds().all(|(_, tasks)| tasks.scopes() == 0)
    }

    /// Whether tasks are left that can do nothing with the time they have: they wait for a turn which cannot come before
    /// they are aborted; or they are daemons that nobody can have told, since nobody has a token or has waited for the
    /// closing. Those that only look at `is_closed` now and then are taken for deaf. Something that is nested in the
    /// scopes, which are returned, can use the time all the same; its task may have ended.
    pub(super) fn deaf(&self, all_slots_taken: bool, was_awaited: bool) -> Option<Vec<Arc<Scope>>> {
        let has_told = was_awaited || self.has_listener;
        let is_deaf = |(kind, tasks): (TaskKind, &Tasks)| {
            let waits = tasks.are_queued() && (all_slots_taken || tasks.len() == 0);
            waits || !has_told && kind.is_daemon() && tasks.have_begun()
        };
        // Held only if they are returned: invariant 5 of `shared`.
        self.kinds().all(is_deaf).then(|| self.kinds().filter_map(|(_, tasks)| tasks.existing_scope()).collect())
    }

    /// What its tasks are cancelled by, and the pools nested in them.
    pub(super) fn token(&mut self, for_task: bool) -> CancellationToken {
        self.has_listener |= for_task;
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

    /// Marks the tasks of some kinds as aborted, and gives their sets.
    pub(super) fn abort(&mut self, wanted: impl Fn(TaskKind) -> bool) -> Vec<Aborted> {
        self.kinds_mut().filter(|(kind, _)| wanted(*kind)).map(|(kind, tasks)| (kind, tasks.abort())).collect()
    }

    /// Takes out all sets, to wait for them.
    pub(super) fn take_sets(&mut self) -> Vec<JoinSet<()>> {
        self.kinds_mut().flat_map(|(_, tasks)| tasks.take_sets()).collect()
    }

    /// Adds what there is to be seen here.
    pub(super) fn snapshot(&self, depth: i32, snapshot: &mut Snapshot) {
        self.kinds().for_each(|(kind, tasks)| tasks.snapshot(TaskClass { depth, kind }, snapshot));
    }
}
