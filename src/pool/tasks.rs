//! The tasks of one class, which are those of a kind at a depth: the sets in which tokio has them, and the list of who is
//! alive, since a [`JoinSet`] cannot be looked into.

use std::mem;
use std::num::NonZeroU32;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use tokio::task::JoinSet;

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
    /// Whether the scope has been told of the abort. That waits until all sets are back: tokio has to abort the tasks
    /// first.
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
    /// With nothing in it. If `aborted`, each task is aborted as it comes.
    pub(super) const fn new(aborted: bool) -> Self {
        Self {
            entries: Slab::new(),
            queued: 0,
            begun: 0,
            sets: Vec::new(),
            out: 0,
            aborted,
            told: false,
            scope: Weak::new(),
            scopes: 0,
            ended: 0,
        }
    }

    /// Whether a set is out, and comes back.
    pub(super) fn has_set_out(&self) -> bool {
        self.out > 0
    }

    /// Lists a task. `generation` is no other task's of the pool.
    pub(super) fn insert(&mut self, entry: TaskEntry, generation: NonZeroU32) -> TaskKey {
        self.queued += usize::from(entry.queued);
        self.entries.insert(entry, generation)
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
        self.entries.len == self.begun
    }

    /// Whether all tasks that there are wait for their turn.
    pub(super) fn are_queued(&self) -> bool {
        self.entries.len == self.queued
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
            // Nobody has told this one of an abort.
            self.told = false;
            scope
        })
    }

    /// Counts a scope that has ended.
    pub(super) fn scope_ended(&mut self) {
        self.scopes -= 1;
    }

    /// How many tasks have not ended.
    pub(super) fn len(&self) -> usize {
        self.entries.len
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
        mem::take(&mut self.sets)
    }

    /// Takes sets back that were out. Gives the scope, if what is nested in it is to be told of an abort.
    pub(super) fn keep_sets(&mut self, sets: impl IntoIterator<Item = JoinSet<()>>) -> Option<Arc<Scope>> {
        let before = self.sets.len();
        self.sets.extend(sets);
        // One may come back to a depth that was closed and made anew meanwhile.
        self.out = self.out.saturating_sub(self.sets.len() - before);
        if self.aborted && self.out == 0 { self.scope_to_tell() } else { None }
    }

    /// The scope, the first time.
    fn scope_to_tell(&mut self) -> Option<Arc<Scope>> {
        if mem::replace(&mut self.told, true) { None } else { self.scope.upgrade() }
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

// ===== the list =====

/// How many entries an empty slab keeps room for; it gives back what it has beyond that.
const KEPT: usize = 64;

/// Values, each under a key of its own: an index that is used again, and a generation that is not.
struct Slab<T> {
    entries: Vec<Entry<T>>,
    /// The vacant entry that is taken next; if there is none, one past the end.
    next: u32,
    len: usize,
}

enum Entry<T> {
    Occupied {
        generation: NonZeroU32,
        value: T,
    },
    /// With the vacant entry after it.
    Vacant {
        next: u32,
    },
}

impl<T> Slab<T> {
    const fn new() -> Self {
        Self { entries: Vec::new(), next: 0, len: 0 }
    }

    /// Takes a value in.
    fn insert(&mut self, value: T, generation: NonZeroU32) -> TaskKey {
        let key = TaskKey { index: self.next, generation };
        let occupied = Entry::Occupied { generation, value };
        self.len += 1;
        match self.entries.get_mut(key.index as usize) {
            Some(entry) => {
                if let Entry::Vacant { next } = mem::replace(entry, occupied) {
                    self.next = next;
                }
            }
            None => {
                self.entries.push(occupied);
                self.next = key.index.checked_add(1).expect("2³² tasks do not fit into memory");
            }
        }
        key
    }

    /// The value under a key, as long as it is there.
    fn get_mut(&mut self, key: TaskKey) -> Option<&mut T> {
        match self.entries.get_mut(key.index as usize)? {
            Entry::Occupied { generation, value } if *generation == key.generation => Some(value),
            _ => None,
        }
    }

    /// Gives a value back, if it is still there.
    fn remove(&mut self, key: TaskKey) -> Option<T> {
        self.get_mut(key)?;
        let vacant = Entry::Vacant { next: self.next };
        let Entry::Occupied { value, .. } = mem::replace(&mut self.entries[key.index as usize], vacant) else {
            return None;
        };
        self.next = key.index;
        self.len -= 1;
        if self.len == 0 && self.entries.len() > KEPT {
            *self = Self::new();
        }
        Some(value)
    }

    /// All values with their keys, in the order of their entries.
    fn iter(&self) -> impl Iterator<Item = (TaskKey, &T)> {
        (0..).zip(&self.entries).filter_map(|(index, entry)| match entry {
            Entry::Occupied { generation, value } => Some((TaskKey { index, generation: *generation }, value)),
            Entry::Vacant { .. } => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A slab, and the count of what has been put into it.
    struct Counted<T>(Slab<T>, NonZeroU32);

    impl<T> Counted<T> {
        fn new() -> Self {
            Self(Slab::new(), NonZeroU32::MIN)
        }

        fn insert(&mut self, value: T) -> TaskKey {
            self.1 = self.1.saturating_add(1);
            self.0.insert(value, self.1)
        }
    }

    fn indices(keys: &[TaskKey]) -> Vec<u32> {
        keys.iter().map(|key| key.index).collect()
    }

    #[test]
    fn vacant_entries_are_used_again_and_not_mistaken() {
        let mut slab = Counted::new();
        let keys: Vec<_> = "abcdef".chars().map(|name| slab.insert(name)).collect();
        assert_eq!(indices(&keys), [0, 1, 2, 3, 4, 5]);
        assert_eq!([1, 4, 4].map(|key| slab.0.remove(keys[key])), [Some('b'), Some('e'), None]);
        let more: Vec<_> = "ghi".chars().map(|name| slab.insert(name)).collect();
        assert_eq!(indices(&more), [4, 1, 6]);
        let mut slab = slab.0;
        assert_eq!(slab.iter().map(|(_, name)| name).collect::<String>(), "ahcdgfi");
        assert_eq!((slab.len, slab.remove(keys[4]), slab.get_mut(keys[1])), (7, None, None));
        assert_eq!(slab.get_mut(more[1]), Some(&mut 'h'));
    }

    #[test]
    fn a_key_is_never_given_twice_although_memory_was_given_back() {
        let mut slab = Counted::new();
        let keys: Vec<_> = (0..100).map(|n| slab.insert(n)).collect();
        keys.iter().for_each(|key| assert!(slab.0.remove(*key).is_some()));
        let later = slab.insert(100);
        assert_eq!((later.index, slab.0.remove(keys[0]), slab.0.remove(later)), (0, None, Some(100)));
    }

    #[test]
    fn an_empty_slab_has_given_its_memory_back() {
        let mut slab = Counted::new();
        for _ in 0..2 {
            let keys: Vec<_> = (0..10_000).map(|n| slab.insert(n)).collect();
            for (n, key) in keys.into_iter().enumerate() {
                assert_eq!(slab.0.remove(key), Some(n));
            }
            let entries = slab.0.entries.capacity();
            assert!(entries <= KEPT && slab.0.len == 0, "{entries} entries kept");
        }
    }
}
