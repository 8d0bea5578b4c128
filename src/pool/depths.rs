//! The tasks of a running pool, by depth, and the scopes they run in.
//!
//! Each depth has a list of its tasks. A task enters it as it is spawned, and leaves it by itself as it ends. The first
//! time that it has to wait, it also leaves its waker there. So a depth is aborted by a flag in its scope, which every
//! task looks at before it polls the user's future, and by waking those that wait. That is what tokio's own abort does,
//! but that nobody has to keep a handle to each task: a task that never waits, as most do not, is noted down once and
//! struck off once.
//!
//! The list is also what [`Pool::tree`](crate::Pool::tree) looks at. A `JoinSet` cannot be looked into, and what it
//! allocates and locks to tell of the end of each task is of no use here: nobody waits for the end of a single one.

use std::collections::BTreeMap;
use std::panic::Location;
use std::sync::{Arc, Weak};
use std::task::Waker;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::handle::HandleInner;
use super::slab::Slab;
use crate::error::TaskInfo;
use crate::scope::NodeState;
use crate::scope::{ChildKind, ErasedPool, Scope, ScopeKind, Snapshot, TaskClass, TaskKey, TaskSnapshot};

/// How many seats are looked at, in search of who is to be woken, before others get at the lock.
const BATCH: u32 = 256;

/// The tasks of all depths.
pub(super) struct Depths {
    /// The scope around the pool, which waits for it; let go of when the pool has closed.
    enclosing: Option<Arc<Scope>>,
    /// Depth 0, to which most belong; `None` once it has closed.
    zero: Option<Depth>,
    /// The other depths, each from its first task on.
    #[expect(clippy::box_collection, reason = "most pools have one depth, and pay for a pointer only")]
    others: Option<Box<BTreeMap<i32, Depth>>>,
}

/// The tasks of one depth.
pub(super) struct Depth {
    tasks: Tasks,
    daemons: Option<Box<Tasks>>,
    /// What asks the tasks to stop, once somebody wants to know.
    token: Option<CancellationToken>,
    /// Whether they have been cancelled.
    cancelled: bool,
}

/// Tasks that are waited for together.
struct Tasks {
    entries: Slab<TaskEntry>,
    /// Held by the tasks and the body, not from here. When it has ended, the next task makes a new one.
    scope: Weak<Scope>,
    /// How many scopes have not told of their end, which is what the driver waits for.
    scopes: usize,
}

/// A task, as its pool knows it. What it has to say it says itself, as it ends: its output is `()`, and nobody joins
/// it.
pub(super) struct TaskEntry {
    /// What wakes it if it is aborted; `None` until it waits for the first time.
    waker: Option<Waker>,
    name: Option<Arc<str>>,
    spawned_at: &'static Location<'static>,
}

/// What is reserved for a task that is about to be spawned. The task that is made of it gives it up as it ends.
pub(super) struct Berth {
    pub(super) key: TaskKey,
    pub(super) scope: Arc<Scope>,
}

/// Something that can be spawned.
pub(super) trait Launch: 'static {
    /// What its handle cancels it by, if it has one.
    fn control(&self) -> Option<Arc<HandleInner>> {
        None
    }

    fn info(&self) -> TaskInfo;

    /// Spawns it in its scope, and on its key; no lock is held.
    fn launch(self, scope: Arc<Scope>, key: TaskKey, runtime: &Handle) -> JoinHandle<()>;
}

impl Depths {
    pub(super) const fn new() -> Self {
        Self { enclosing: None, zero: Some(Depth::new()), others: None }
    }

    /// Puts the pool into what encloses it. Returns the scope of depth 0.
    #[inline]
    pub(super) fn enter(&mut self, pool: &Arc<impl ErasedPool>, enclosing: Option<Arc<Scope>>) -> Arc<Scope> {
        if let Some(enclosing) = &enclosing {
            enclosing.add_child(ChildKind::Pool(Arc::downgrade(pool) as Weak<dyn ErasedPool>));
        }
        self.enclosing = enclosing;
        self.scope(pool, TaskClass::default())
    }

    /// The scope around the pool, as long as that has not closed.
    pub(super) fn enclosing(&self) -> Option<&Arc<Scope>> {
        self.enclosing.as_ref()
    }

    /// Lets go of what encloses the pool.
    pub(super) fn leave(&mut self) -> Option<Arc<Scope>> {
        self.enclosing.take()
    }

    /// Takes a task in, in a depth that takes it.
    #[inline]
    pub(super) fn reserve(&mut self, pool: &Arc<impl ErasedPool>, class: TaskClass, info: TaskInfo) -> Berth {
        let (tasks, enclosing) = self.tasks_at(class);
        let scope = tasks.scope(pool, class, enclosing);
        let TaskInfo { name, spawned_at, .. } = info;
        let key = tasks.entries.insert(TaskEntry { waker: None, name, spawned_at });
        Berth { key, scope }
    }

    /// Notes what wakes a task that waits. Gives back what is not needed.
    #[inline]
    pub(super) fn park(&mut self, class: TaskClass, key: TaskKey, waker: Waker) -> Option<Waker> {
        match self.entries_mut(class).and_then(|entries| entries.get_mut(key)) {
            Some(entry) => entry.waker.replace(waker),
            // Not in practice: it has a key while it is polled.
            None => Some(waker),
        }
    }

    /// The scope of a class, for somebody who holds it from now on. The last to let go of a scope takes the pool's
    /// lock.
    pub(super) fn scope(&mut self, pool: &Arc<impl ErasedPool>, class: TaskClass) -> Arc<Scope> {
        let (tasks, enclosing) = self.tasks_at(class);
        tasks.scope(pool, class, enclosing)
    }

    /// A scope has ended. Of a depth that was given up on, nobody wants to know.
    pub(super) fn scope_ended(&mut self, class: TaskClass) {
        if let Some(tasks) = self.get_mut(class.depth).and_then(|stage| stage.tasks_mut(class.daemon)) {
            tasks.scopes -= 1;
        }
    }

    /// The tasks of a class, with what it takes to make their scope.
    #[inline(always)]
    fn tasks_at(&mut self, class: TaskClass) -> (&mut Tasks, Option<&Arc<Scope>>) {
        let Self { enclosing, zero, others } = self;
        let stage = match zero {
            Some(zero) if class.depth == 0 => zero,
            _ => others.get_or_insert_default().entry(class.depth).or_insert_with(Depth::new),
        };
        let tasks = match class.daemon {
            false => &mut stage.tasks,
            true => stage.daemons.get_or_insert_with(|| Box::new(Tasks::new())),
        };
        (tasks, enclosing.as_ref())
    }

    #[inline]
    pub(super) fn entries_mut(&mut self, class: TaskClass) -> Option<&mut Slab<TaskEntry>> {
        self.get_mut(class.depth)?.entries_mut(class.daemon)
    }

    /// The highest depth that is left.
    pub(super) fn highest(&self) -> Option<i32> {
        let other = self.others.as_ref().and_then(|others| others.last_key_value()).map(|(depth, _)| *depth);
        other.max(self.zero.as_ref().map(|_| 0))
    }

    /// The highest depth that is left, and its tasks.
    pub(super) fn highest_mut(&mut self) -> Option<(i32, &mut Depth)> {
        let depth = self.highest()?;
        Some((depth, self.get_mut(depth)?))
    }

    #[inline]
    pub(super) fn get_mut(&mut self, depth: i32) -> Option<&mut Depth> {
        if depth == 0 { self.zero.as_mut() } else { self.others.as_mut()?.get_mut(&depth) }
    }

    /// Lets go of a depth. It takes no tasks any more.
    pub(super) fn take(&mut self, depth: i32) -> Option<Depth> {
        if depth == 0 { self.zero.take() } else { self.others.as_mut()?.remove(&depth) }
    }

    /// Whether depth 0 is the only one.
    pub(super) fn is_single(&self) -> bool {
        self.others.as_ref().is_none_or(|others| others.is_empty())
    }

    /// Whether there is nothing left but daemons.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.all(|stage| stage.tasks.is_empty())
    }

    /// Whether there is nothing left at all.
    #[inline]
    pub(super) fn is_over(&self) -> bool {
        self.all(Depth::is_empty)
    }

    /// Whether something holds for all depths that are left.
    #[inline]
    fn all(&self, holds: impl Fn(&Depth) -> bool) -> bool {
        self.zero.as_ref().is_none_or(&holds) && self.others.as_ref().is_none_or(|others| others.values().all(holds))
    }

    /// Notes that all tasks are cancelled to stop, and says by which tokens.
    #[inline]
    pub(super) fn cancel(&mut self) -> Vec<CancellationToken> {
        let mut tokens = Vec::new();
        if let Some(token) = self.zero.as_mut().and_then(Depth::cancel) {
            tokens.push(token);
        }
        if let Some(others) = &mut self.others {
            tokens.extend(others.values_mut().filter_map(Depth::cancel));
        }
        tokens
    }

    /// The depths that are left.
    pub(super) fn depths(&self) -> Vec<i32> {
        self.iter().map(|(depth, _)| depth).collect()
    }

    /// How many tasks have not ended.
    pub(super) fn len(&self) -> usize {
        self.iter().flat_map(|(_, stage)| stage.groups()).map(|tasks| tasks.entries.len()).sum()
    }

    /// Adds what there is to be seen, in no order.
    pub(super) fn snapshot(&self, snapshot: &mut Snapshot) {
        self.iter().for_each(|(depth, stage)| stage.snapshot(depth, snapshot));
    }

    /// All depths that are left, in no order.
    fn iter(&self) -> impl Iterator<Item = (i32, &Depth)> {
        let others = self.others.iter().flat_map(|others| others.iter());
        self.zero.iter().map(|stage| (0, stage)).chain(others.map(|(depth, stage)| (*depth, stage)))
    }
}

impl Depth {
    const fn new() -> Self {
        Self { tasks: Tasks::new(), daemons: None, token: None, cancelled: false }
    }

    #[inline]
    pub(super) fn entries_mut(&mut self, daemon: bool) -> Option<&mut Slab<TaskEntry>> {
        Some(&mut self.tasks_mut(daemon)?.entries)
    }

    #[inline]
    fn tasks_mut(&mut self, daemon: bool) -> Option<&mut Tasks> {
        if daemon { self.daemons.as_deref_mut() } else { Some(&mut self.tasks) }
    }

    /// The tasks, then the daemons, if there are any.
    fn groups(&self) -> impl Iterator<Item = &Tasks> {
        std::iter::once(&self.tasks).chain(self.daemons.as_deref())
    }

    /// The token of this depth.
    ///
    /// Whoever makes it sees whether the tasks have been cancelled; whoever asks them sees it.
    pub(super) fn token(&mut self) -> CancellationToken {
        let token = self.token.get_or_insert_with(CancellationToken::new);
        token.clone()
    }

    /// Notes that the tasks are cancelled to stop, and says by which token, if there is one; it has waiters to wake.
    #[inline]
    pub(super) fn cancel(&mut self) -> Option<CancellationToken> {
        self.cancelled = true;
        self.token.clone()
    }

    /// Whether the tasks have been cancelled to stop.
    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled
    }

    /// Whether nothing is left of the tasks, the daemons and what is below them.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.groups().all(Tasks::is_empty)
    }

    /// Has all tasks end that are polled from now on. Returns their scopes, to be let go of without the lock.
    pub(super) fn abort(&self) -> [Option<Arc<Scope>>; 2] {
        let scopes = [Some(&self.tasks), self.daemons.as_deref()].map(|tasks| tasks?.scope.upgrade());
        scopes.iter().flatten().for_each(|scope| scope.abort());
        scopes
    }

    /// Takes the wakers of a batch of seats, from an index on. Returns where the next batch begins, if there is one.
    pub(super) fn wake_from(&mut self, daemon: bool, index: u32, wakers: &mut Vec<Waker>) -> Option<u32> {
        let entries = self.entries_mut(daemon)?;
        wakers.extend(entries.range(index, BATCH).filter_map(|entry| entry.waker.take()));
        index.checked_add(BATCH).filter(|next| *next < entries.capacity())
    }

    /// Adds what there is to be seen of this depth.
    pub(super) fn snapshot(&self, depth: i32, snapshot: &mut Snapshot) {
        for (tasks, daemon) in self.groups().zip([false, true]) {
            let class = TaskClass { depth, daemon };
            snapshot.scopes.extend(tasks.scope.upgrade().map(|scope| (class, scope)));
            snapshot.tasks.extend(tasks.entries.iter().map(|(key, entry)| entry.to_snapshot(class, key)));
        }
    }
}

impl Tasks {
    const fn new() -> Self {
        Self { entries: Slab::new(), scope: Weak::new(), scopes: 0 }
    }

    /// The scope of the tasks, or a new one if the last has ended.
    #[inline]
    fn scope(&mut self, pool: &Arc<impl ErasedPool>, class: TaskClass, enclosing: Option<&Arc<Scope>>) -> Arc<Scope> {
        if let Some(scope) = self.scope.upgrade() {
            return scope;
        }
        let scope = Scope::within(enclosing.cloned(), ScopeKind::Pool(Arc::clone(pool) as Arc<dyn ErasedPool>, class));
        self.scope = Arc::downgrade(&scope);
        self.scopes += 1;
        scope
    }

    /// Whether nothing is left of the tasks, nor below them.
    #[inline]
    fn is_empty(&self) -> bool {
        self.scopes == 0
    }
}

impl TaskEntry {
    /// The task as a snapshot shows it.
    fn to_snapshot(&self, class: TaskClass, key: TaskKey) -> TaskSnapshot {
        TaskSnapshot { info: self.info(), class, key: Some(key), state: NodeState::Running }
    }

    /// Which task it is.
    pub(super) fn info(&self) -> TaskInfo {
        TaskInfo { name: self.name.clone(), spawned_at: self.spawned_at, body: false }
    }
}
