//! Who encloses whom: the chain of scopes that makes an owner wait for everything below it.
//!
//! A scope is made by each [`Pool`](crate::Pool) that runs, for its tasks of one [class](TaskClass), and by each call
//! of a function that runs user code. The thread-local `scoped::CURRENT` names the innermost one, in the tasks of a
//! scope as in its body, and the task.
//!
//! # Invariants
//!
//! 1. Every task and every body holds an `Arc` of its scope for as long as its future lives, and every scope one of the
//!    enclosing scope. A handle of a pool or of a task holds none, and neither does a group. The future of a `race`, a
//!    `try_all` or a `wait_all` does, until it is ready or dropped.
//! 2. So the end of a scope's last `Arc` means that nothing is left anywhere below it, whoever was aborted or dropped
//!    on the way, at any depth; and its [`Drop`] tells the owner. That is what `tokio_util`'s `TaskTracker` would be
//!    asked for, at the price of the reference count that a task needs anyway.
//! 3. No user code runs while `scoped::CURRENT` is looked at: its value is taken out and put back.
//! 4. A scope that ends lets go of the enclosing one before it tells its owner. So a pool that has returned, having
//!    given up on nothing, holds nothing up further out: a `timeout` around it need not wait any more, and so is
//!    not dropped as it waits, with what the pool has returned.
//!
//! In [`scoped`] is the one place that polls the users' futures, and where code runs; in [`call`], the tasks of a
//! function; in [`unreported`], what becomes of an output that nobody takes, and of a failure whose owner is gone; in
//! [`erased_pool`], what a scope knows of a pool. What begins in a scope is held weakly, for those who look from above:
//! [`Pool::tree`](crate::Pool::tree), the pools that name what is stuck, and an abort on its way inwards.

use std::collections::{HashMap, HashSet};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::error::{ClosingReason, TaskError, catch};

pub(crate) use self::call::{
    Call, GroupEnd, GroupInner, GroupMember, GroupOutput, OwnedTask, Rules, Spawner, TaskName, failure_of, poll_once,
};
pub use self::erased_pool::NodeState;
pub(crate) use self::erased_pool::{ErasedPool, Snapshot, TaskClass, TaskKey, TaskKind, TaskSnapshot};
pub(crate) use self::scoped::{Completion, Current, Scoped, Then, WeakCurrent, boxed_in_debug};
pub(crate) use self::unreported::{Cleanup, Reporter, Unreported};

mod call;
mod erased_pool;
mod scoped;
mod unreported;

/// One level of the tree of owners.
pub(crate) struct Scope {
    kind: ScopeKind,
    /// The enclosing scope, which cannot end before this one: invariant 1. The outermost has none.
    parent: Option<Arc<Scope>>,
    /// The nearest cancel scope further out, which is a pool or a shield, if that is not the parent. It is let go of
    /// before the parent, which holds it, too. With it, who looks for a pool does not pass by each of the calls in it.
    cancel_scope: Option<Arc<Scope>>,
    /// The same with the nearest scope that can take a failure.
    taker: Option<Arc<Scope>>,
    /// Whether it is aborted from outside: no time is left to what is in here.
    aborted: AtomicBool,
    /// Dropped with the scope, which wakes [`Scope::wait_empty`].
    waiter: OnceLock<oneshot::Sender<()>>,
    /// What is directly below; made by the first of it.
    children: OnceLock<Box<Mutex<Children>>>,
}

/// Who made a scope, and is told what fails in it when nobody else is left to tell.
pub(crate) enum ScopeKind {
    /// A pool, which can be looked up from inside, and which of its tasks are in the scope.
    Pool(Arc<dyn ErasedPool>, TaskClass),
    /// A function that runs futures as tasks; with the list of cleanup failures, if its error has one.
    Group(Arc<Call>, Option<Cleanup>),
    /// A function that runs a future in place. It passes cleanup failures on, outwards.
    InPlace,
    /// Work that nobody asks to stop. It passes cleanup failures on, too.
    Shield(Arc<Call>),
}

impl Scope {
    /// A new scope inside another, or inside none.
    pub(crate) fn within(parent: Option<Arc<Self>>, kind: ScopeKind) -> Arc<Self> {
        Self::within_task(parent, kind, Self::key_here)
    }

    /// The same, inside a certain task of it.
    pub(crate) fn within_task(
        parent: Option<Arc<Self>>,
        kind: ScopeKind,
        task: impl FnOnce(&Self) -> Option<TaskKey>,
    ) -> Arc<Self> {
        let is_apart = |parent: &&Arc<Self>| !parent.is_cancel_scope();
        let cancel_scope = parent.as_ref().filter(is_apart).and_then(|parent| parent.next_cancel_scope().cloned());
        let is_apart = |parent: &&Arc<Self>| !parent.takes_failures();
        let taker = parent.as_ref().filter(is_apart).and_then(|parent| parent.next_taker().cloned());
        let scope = Arc::new(Self {
            kind,
            parent,
            cancel_scope,
            taker,
            aborted: AtomicBool::new(false),
            waiter: OnceLock::new(),
            children: OnceLock::new(),
        });
        if let (Some(parent), Some(call)) = (&scope.parent, scope.call()) {
            let owner = ChildKind::Call(Arc::downgrade(&scope));
            let is_aborted = parent.visible().is_some_and(|shown| shown.add_child_of(owner, task(parent)));
            if is_aborted && matches!(scope.kind, ScopeKind::Group(..)) {
                call.abort();
            }
        }
        scope
    }

    /// A new scope for a future in place, inside the one that this is called from.
    pub(crate) fn in_place() -> Arc<Self> {
        Self::within(Self::current(), ScopeKind::InPlace)
    }

    /// Tells the enclosing scope that this one has ended, and lets go of it.
    fn leave_parent(&mut self) -> Option<Arc<Self>> {
        (self.cancel_scope, self.taker) = (None, None);
        let parent = self.parent.take()?;
        if self.is_visible() {
            parent.child_ended();
        }
        Some(parent)
    }

    /// The nearest scope, here or further out, that is shown by itself.
    fn visible(&self) -> Option<&Self> {
        std::iter::successors(Some(self), |scope| scope.parent.as_deref()).find(|scope| scope.is_visible())
    }

    /// Whether it has a node of its own in a tree, or is but a part of what encloses it.
    fn is_visible(&self) -> bool {
        !matches!(self.kind, ScopeKind::InPlace)
    }

    /// The call that the scope was made by, if it has tasks.
    pub(crate) fn call(&self) -> Option<&Arc<Call>> {
        match &self.kind {
            ScopeKind::Group(call, _) | ScopeKind::Shield(call) => Some(call),
            ScopeKind::Pool(..) | ScopeKind::InPlace => None,
        }
    }

    /// The scope that this is called from.
    pub(crate) fn current() -> Option<Arc<Self>> {
        Current::get().map(|here| here.scope)
    }

    /// A scope, or the one that this is called from if that has ended.
    pub(crate) fn or_current(scope: &Weak<Self>) -> Option<Arc<Self>> {
        scope.upgrade().or_else(Self::current)
    }

    /// Waits until nothing is left below, once the caller has let go of the scope.
    pub(crate) async fn wait_empty(self: Arc<Self>) {
        // In one step: somebody who draws a tree may be about to hold it for a moment.
        let Err(scope) = Arc::try_unwrap(self) else { return };
        let (sender, receiver) = oneshot::channel();
        // The scope ends after the sender was put in: it is held here until then.
        drop(scope.waiter.set(sender));
        drop(scope);
        // Never sent to: dropped with the scope.
        drop(receiver.await);
    }

    /// The state of the pool that owns this scope, if it is an `S`.
    pub(crate) fn pool<S: ErasedPool>(&self) -> Option<&S> {
        self.as_pool()?.0.as_any().downcast_ref()
    }

    /// The state of the innermost pool that is an `S`, here or further out.
    pub(crate) fn nearest_pool<S: ErasedPool>(&self) -> Option<Arc<S>> {
        self.cancel_scopes().find_map(|scope| Arc::clone(scope.as_pool()?.0).into_any().downcast().ok())
    }

    /// The error type of the innermost pool around, whatever that is.
    pub(crate) fn innermost_error_type(&self) -> Option<&'static str> {
        self.cancel_scopes().find_map(|scope| Some(scope.as_pool()?.0.error_type()))
    }

    /// The outermost pool around, if there is one.
    pub(crate) fn outermost_pool(&self) -> Option<Arc<dyn ErasedPool>> {
        self.cancel_scopes().filter_map(|scope| Some(Arc::clone(scope.as_pool()?.0))).last()
    }

    /// Hands failures that this scope cannot take any more to the nearest one further out that will return an error.
    pub(crate) fn report_outside(&self, unreported: impl IntoIterator<Item = TaskError>) {
        unreported.into_iter().for_each(|failure| Self::report_to(self.parent.as_deref(), failure));
    }

    /// Hands a failure to the nearest scope that will return an error. If there is none, it is written to stderr and
    /// dropped; of a panic of its destructor nobody is told.
    pub(crate) fn report_to(nearest: Option<&Self>, failure: TaskError) {
        let mut failure = failure;
        for scope in nearest.into_iter().flat_map(Self::takers) {
            let refused = match &scope.kind {
                ScopeKind::Pool(pool, _) => pool.report(failure),
                ScopeKind::Group(_, Some(cleanup)) => cleanup.push(failure),
                _ => Some(failure),
            };
            let Some(refused) = refused else { return };
            failure = refused;
        }
        unreported::tell(&mut failure);
        drop(catch(|| drop(failure)));
    }

    /// Which tasks of its pool are in this scope.
    pub(crate) fn class(&self) -> TaskClass {
        self.as_pool().map(|(_, class)| class).unwrap_or_default()
    }

    /// The token that asks the enclosing task to stop; `None` outside of a pool, and in shielded work.
    pub(crate) fn token(&self) -> Option<CancellationToken> {
        self.cancellation_source().map(|(pool, class)| pool.token(class.depth, true))
    }

    /// The pool whose closing a pool that is opened here follows, with the token for that: if there is time between
    /// the signal and the abort. Otherwise the abort says it all.
    pub(crate) fn signal_to_follow(&self) -> Option<(Arc<dyn ErasedPool>, CancellationToken)> {
        let (pool, class) = self.cancellation_source()?;
        pool.has_time().then(|| (Arc::clone(pool), pool.token(class.depth, false)))
    }

    /// Tells those whom an abort does not drop: a pool that is opened in place in a blocking call, a tracked future, and
    /// the closing of a pool whose future is gone.
    ///
    /// Called after the tasks were aborted. So a pool that hears of it in a task that tokio will drop has only to let
    /// that happen: see `DriverState::poll`. What begins in here later finds the mark.
    pub(crate) fn abort_nested(&self) {
        abort_children(self.mark());
    }

    /// The same for what is nested in one task of a pool.
    pub(crate) fn abort_nested_in(&self, key: TaskKey) {
        abort_children(self.mark_task(key));
    }

    /// Why the pool closes that cancels what is in here, if it does.
    pub(crate) fn pool_reason(&self) -> Option<ClosingReason> {
        self.cancellation_source()?.0.closing_reason()
    }

    /// Whether this scope is marked, or the one that it is a part of.
    pub(crate) fn is_aborted(&self) -> bool {
        self.visible().is_some_and(|scope| scope.aborted.load(Ordering::Acquire))
    }

    /// The pool that cancels what is in here, and which of its tasks that is part of.
    fn cancellation_source(&self) -> Option<(&Arc<dyn ErasedPool>, TaskClass)> {
        self.cancel_scopes().next()?.as_pool()
    }

    /// The pool that made the scope, and which of its tasks are in it.
    fn as_pool(&self) -> Option<(&Arc<dyn ErasedPool>, TaskClass)> {
        match &self.kind {
            ScopeKind::Pool(pool, class) => Some((pool, *class)),
            _ => None,
        }
    }

    /// The enclosing scope.
    pub(crate) fn parent(&self) -> Option<&Arc<Self>> {
        self.parent.as_ref()
    }

    /// Whether it is a pool, or takes what is in it out of one.
    fn is_cancel_scope(&self) -> bool {
        matches!(self.kind, ScopeKind::Pool(..) | ScopeKind::Shield(_))
    }

    /// The nearest cancel scope further out.
    fn next_cancel_scope(&self) -> Option<&Arc<Self>> {
        self.parent.as_ref().filter(|parent| parent.is_cancel_scope()).or(self.cancel_scope.as_ref())
    }

    /// The cancel scopes from here outwards.
    fn cancel_scopes(&self) -> impl Iterator<Item = &Self> {
        let first = if self.is_cancel_scope() { Some(self) } else { self.next_cancel_scope().map(Arc::as_ref) };
        std::iter::successors(first, |scope| scope.next_cancel_scope().map(Arc::as_ref))
    }

    /// Whether it can take a failure whose owner is gone.
    fn takes_failures(&self) -> bool {
        matches!(self.kind, ScopeKind::Pool(..) | ScopeKind::Group(_, Some(_)))
    }

    /// The nearest scope further out that can take a failure.
    fn next_taker(&self) -> Option<&Arc<Self>> {
        self.parent.as_ref().filter(|parent| parent.takes_failures()).or(self.taker.as_ref())
    }

    /// The scopes from here outwards that can take a failure.
    fn takers(&self) -> impl Iterator<Item = &Self> {
        let first = if self.takes_failures() { Some(self) } else { self.next_taker().map(Arc::as_ref) };
        std::iter::successors(first, |scope| scope.next_taker().map(Arc::as_ref))
    }
}

/// See [`Scope::abort_nested`]. Shielded work runs on. A call tells what is nested in it when it has aborted its tasks;
/// what they have left behind, if they have ended, is told here. Not by recursion: calls may be nested deeply.
fn abort_children(mut children: Vec<Child>) {
    while let Some(child) = children.pop() {
        match child.owner {
            ChildKind::Pool(pool) => pool.upgrade().iter().for_each(|pool| pool.abort()),
            ChildKind::Tracked(signal) => signal.upgrade().iter().for_each(|signal| drop(catch(|| signal.cancel()))),
            ChildKind::Call(scope) => {
                let Some(scope) = scope.upgrade() else { continue };
                if matches!(&scope.kind, ScopeKind::Group(call, _) if call.abort()) {
                    children.extend(scope.mark());
                }
            }
        }
    }
}

impl Drop for Scope {
    /// Lets go of the enclosing scope, then tells the owner: invariant 4. If nobody else held the enclosing one, that
    /// ends next, and so on: a chain of many would otherwise be dropped by recursion.
    fn drop(&mut self) {
        let mut ending = self.leave_parent().and_then(Arc::into_inner);
        if let ScopeKind::Pool(pool, class) = &self.kind {
            pool.on_empty(*class);
        }
        while let Some(mut scope) = ending {
            ending = scope.leave_parent().and_then(Arc::into_inner);
        }
    }
}

/// Nothing of the user's runs under these locks, and nothing that can panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// ===== what is directly in a scope =====

/// What is directly below a scope.
#[derive(Default)]
struct Children {
    /// In the order in which they began. Some have ended.
    children: Vec<Child>,
    /// Where the children of each task are. Made when a handle first aborts one, and anew when some were thrown out.
    by_task: Option<HashMap<TaskKey, Vec<usize>>>,
    /// How many have ended, since those were last thrown out.
    ended: usize,
    /// How often they were thrown out. If that has changed, `gone` counts other entries.
    thrown_out: usize,
    /// How many at the front are known to be over.
    gone: usize,
    /// The tasks that their handles have aborted, until they have ended.
    aborted: HashSet<TaskKey>,
}

impl Children {
    fn add(&mut self, child: Child) {
        if let (Some(by_task), Some(key)) = (&mut self.by_task, child.key) {
            by_task.entry(key).or_default().push(self.children.len());
        }
        self.children.push(child);
    }

    /// The children of one task.
    fn of_task(&mut self, key: TaskKey) -> Vec<Child> {
        let Self { children, by_task, .. } = self;
        let by_task = by_task.get_or_insert_with(|| {
            let mut by_task = HashMap::<_, Vec<_>>::new();
            for (index, child) in children.iter().enumerate() {
                child.key.into_iter().for_each(|key| by_task.entry(key).or_default().push(index));
            }
            by_task
        });
        by_task.get(&key).into_iter().flatten().map(|index| children[*index].clone()).collect()
    }

    /// Throws out those that have ended.
    fn throw_out(&mut self) {
        (self.ended, self.gone) = (0, 0);
        self.thrown_out += 1;
        self.by_task = None;
        self.children.retain(Child::is_alive);
        let alive = self.children.len();
        self.children.shrink_to(2 * alive);
    }
}

/// Something that has tasks of its own, directly below a scope.
#[derive(Clone)]
pub(crate) struct Child {
    /// That of the task in which it began; `None` if it was none of the scope's, as in a body.
    pub(crate) key: Option<TaskKey>,
    pub(crate) owner: ChildKind,
}

/// Whose tasks they are.
#[derive(Clone)]
pub(crate) enum ChildKind {
    Pool(Weak<dyn ErasedPool>),
    /// The scope of the call, which tells what was called.
    Call(Weak<Scope>),
    /// A future of a pool that somebody else polls; this ends it.
    Tracked(Weak<CancellationToken>),
}

impl Scope {
    /// Notes what begins in here, for those who look from above. Says whether it is to be aborted: who marks this scope
    /// or the task later finds it noted, and who has marked them before is seen here.
    pub(crate) fn add_child(&self, owner: ChildKind) -> bool {
        self.visible().is_some_and(|scope| scope.add_child_of(owner, self.key_here()))
    }

    /// The task of this scope in which this is called. What begins in a task of somebody else's, as in a bare
    /// `tokio::spawn`, is in none.
    fn key_here(&self) -> Option<TaskKey> {
        let (here, shown) = (Current::get()?, self.visible()?);
        here.key.filter(|_| here.scope.visible().is_some_and(|scope| ptr::eq(scope, shown)))
    }

    /// The same for what is of a certain task.
    pub(crate) fn add_child_of(&self, owner: ChildKind, key: Option<TaskKey>) -> bool {
        let mut below = lock(self.children.get_or_init(Box::default));
        below.add(Child { key, owner });
        let is_aborted = key.is_some_and(|key| below.aborted.contains(&key));
        drop(below);
        is_aborted || self.is_aborted()
    }

    /// Marks the scope as aborted, and says what is nested in it. The list is made if there is none: of this and
    /// [`add_child_of`](Self::add_child_of), whoever locks it second sees the other.
    fn mark(&self) -> Vec<Child> {
        self.aborted.store(true, Ordering::Release);
        lock(self.children.get_or_init(Box::default)).children.clone()
    }

    /// Marks a task as aborted, and says what is nested in it.
    fn mark_task(&self, key: TaskKey) -> Vec<Child> {
        let mut below = lock(self.children.get_or_init(Box::default));
        below.aborted.insert(key);
        below.of_task(key)
    }

    /// Takes the mark off a task that has ended.
    pub(crate) fn forget_task(&self, key: TaskKey) {
        if let Some(below) = self.children.get() {
            lock(below).aborted.remove(&key);
        }
    }

    /// Something in here has ended, or some of it. Throws out what has, when that is half of what is there.
    pub(crate) fn child_ended(&self) {
        let Some(scope) = self.visible() else { return };
        let Some(below) = scope.children.get() else { return };
        let mut below = lock(below);
        below.ended += 1;
        if 2 * below.ended > below.children.len() + 32 {
            below.throw_out();
        }
        drop(below);
        scope.tell_pool();
    }

    /// Has the pool look again, if this is one, which may be waiting in vain for what is nested in here.
    pub(crate) fn tell_pool(&self) {
        if let Some((pool, _)) = self.visible().and_then(Self::as_pool) {
            pool.child_ended();
        }
    }

    /// Whether anything nested or tracked in here can still use its time. A pool that is over does not count, even if
    /// somebody has a handle of it.
    ///
    /// A pool is upgraded and dropped without the lock. `gone` remembers how far the last call came, so that to ask
    /// after each end stays linear.
    pub(crate) fn has_children(&self) -> bool {
        let Some(below) = self.children.get() else { return false };
        let first = || {
            let below = lock(below);
            Some((below.children.get(below.gone)?.clone(), below.thrown_out))
        };
        while let Some((child, thrown_out)) = first() {
            if !child.is_over() {
                return true;
            }
            let mut below = lock(below);
            below.gone += usize::from(below.thrown_out == thrown_out);
        }
        false
    }

    /// What is directly below, in the order in which it began.
    pub(crate) fn children(&self) -> Vec<Child> {
        self.children.get().map(|below| lock(below).children.clone()).unwrap_or_default()
    }
}

impl Child {
    /// Whether nothing of it can use any time, although somebody may have a handle of it.
    fn is_over(&self) -> bool {
        match &self.owner {
            ChildKind::Pool(pool) => pool.upgrade().is_none_or(|pool| pool.is_over()),
            _ => !self.is_alive(),
        }
    }

    /// Whether anything of it is left.
    fn is_alive(&self) -> bool {
        match &self.owner {
            ChildKind::Pool(pool) => pool.strong_count() > 0,
            ChildKind::Call(scope) => scope.strong_count() > 0,
            ChildKind::Tracked(signal) => signal.strong_count() > 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::Location;
    use std::sync::Arc;

    use super::*;
    use crate::scope::{Call, ScopeKind};

    fn scope(parent: Option<&Arc<Scope>>) -> Arc<Scope> {
        Scope::within(parent.cloned(), ScopeKind::Shield(Call::new("test", Location::caller())))
    }

    /// A scope that is held by those below it only is not dropped by itself.
    #[test]
    fn what_was_held_by_those_below_takes_no_room() {
        let top = scope(None);
        for _ in 0..1_000 {
            drop(scope(Some(&scope(Some(&top)))));
        }
        let below = lock(top.children.get().expect("it has had children"));
        assert!(below.children.capacity() < 100, "{}", below.children.capacity());
    }

    /// So that there is a lock for both, an abort makes the list that is not there yet.
    #[test]
    fn an_abort_and_what_begins_in_that_moment_take_one_lock() {
        let top = scope(None);
        top.abort_nested();
        assert!(top.children.get().is_some());
        assert!(top.add_child_of(ChildKind::Tracked(Weak::new()), None), "what comes later is told");
    }

    /// What is nested in one task of many is found again after others were thrown out.
    #[test]
    fn what_is_nested_in_a_task_is_found_by_its_key() {
        let (top, alive) = (scope(None), Arc::new(CancellationToken::new()));
        let key = |index| TaskKey { index, generation: std::num::NonZeroU32::MIN };
        let add = |index, owner: &Arc<_>| top.add_child_of(ChildKind::Tracked(Arc::downgrade(owner)), Some(key(index)));
        for index in 0..100 {
            assert!(!add(index, &alive));
        }
        assert_eq!(top.mark_task(key(7)).len(), 1);
        assert!(add(7, &alive), "its task is marked");
        for index in 100..300 {
            add(index, &Arc::default());
            top.child_ended();
        }
        assert!(top.children().len() < 200, "those that have ended were thrown out");
        assert!(!add(8, &alive));
        let counts =
            [7, 8, 9, 200].map(|index| top.mark_task(key(index)).iter().filter(|child| child.is_alive()).count());
        assert_eq!(counts, [2, 2, 1, 0]);
    }

    #[test]
    fn what_has_come_and_gone_takes_no_room() {
        let top = scope(None);
        let long_lived: Vec<_> = (0..10).map(|_| scope(Some(&top))).collect();
        for _ in 0..1_000 {
            drop((0..100).map(|_| scope(Some(&top))).collect::<Vec<_>>());
        }
        let below = lock(top.children.get().expect("it has had children"));
        assert!(below.children.capacity() < 100, "{}", below.children.capacity());
        assert_eq!(below.children.iter().filter(|child| child.is_alive()).count(), long_lived.len());
    }
}
