//! Who encloses whom: the chain of scopes that makes an owner wait for everything below it.
//!
//! A scope is made by each [`Pool`](crate::Pool) that runs, and by each call of a function that runs user code. The
//! thread-local [`CURRENT`] names the innermost one, in the tasks of a scope as in its body, and the task.
//!
//! # Invariants
//!
//! 1. Every task and every body holds an `Arc` of its scope for as long as its future lives, and every scope one of the
//!    enclosing scope. The users' handles never hold one.
//! 2. So the end of a scope's last `Arc` means that nothing is left anywhere below it, whoever was aborted or dropped on
//!    the way, at any depth; and its [`Drop`] tells the owner. That is what `tokio_util`'s `TaskTracker` would be asked
//!    for, at the price of the reference count that a task needs anyway.
//! 3. No user code runs while [`CURRENT`] is looked at: its value is taken out and put back.

use std::any::Any;
use std::cell::Cell;
use std::num::NonZeroU32;
use std::panic::Location;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::Waker;

use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use crate::closing_reason::ClosingReason;
use crate::error::{TaskError, TaskInfo};
use crate::node_state::NodeState;

thread_local! {
    /// Set while a future of the scope is polled or dropped, as tokio's own task-locals are. It is none of them since
    /// a task needs its scope once more when its future has ended, and they do not give it back for nothing.
    static CURRENT: Cell<Option<Spot>> = const { Cell::new(None) };
}

/// Where code runs.
#[derive(Clone)]
pub(crate) struct Spot {
    pub(crate) scope: Arc<Scope>,
    /// That of the pool's task that it is part of; `None` in a body, and in a task of a function.
    pub(crate) seat: Option<Seat>,
}

/// One level of the tree of owners.
pub(crate) struct Scope {
    owner: Owner,
    parent: Option<Arc<Scope>>,
    /// Whether its tasks are to end at once. Written under the lock of their pool.
    aborted: AtomicBool,
    /// Dropped with the scope, which wakes [`Scope::settled`].
    waiter: OnceLock<oneshot::Sender<()>>,
    /// What is directly below; made by the first of it.
    below: OnceLock<Box<Mutex<Below>>>,
}

/// Who made a scope, and is told what fails in it when nobody else is left to tell.
pub(crate) enum Owner {
    /// A pool, which can be looked up from inside, and which of its tasks are in the scope.
    Pool(Arc<dyn PoolState>, Place),
    /// A function that runs futures as tasks, with where its error has cleanup failures, if it has.
    Running(Box<Call>, Option<Cleanup>),
    /// A function that runs a future in place. It passes cleanup failures on, outwards, as those below do.
    Passing,
    /// Work that nobody asks to stop.
    Shielding(Box<Call>),
    /// A closure that cannot be aborted.
    Blocking,
}

/// A call of a function that spawns tasks, as those who look for them see it.
pub(crate) struct Call {
    pub(crate) function: &'static str,
    pub(crate) called_at: &'static Location<'static>,
    /// Whether its future is gone, and the runtime sees to the tasks.
    handed_over: AtomicBool,
    tasks: Mutex<Vec<AbortHandle>>,
}

/// What is directly below a scope.
#[derive(Default)]
struct Below {
    /// In the order in which they began. Some have ended.
    children: Vec<Child>,
    /// How many have ended, since those were last thrown out.
    ended: usize,
}

/// Something that has tasks of its own, directly below a scope.
#[derive(Clone)]
pub(crate) struct Child {
    /// That of the task in which it began.
    pub(crate) seat: Option<Seat>,
    pub(crate) owner: ChildOwner,
}

#[derive(Clone)]
pub(crate) enum ChildOwner {
    Pool(Weak<dyn PoolState>),
    Call(Weak<Scope>),
}

/// Which of a pool's tasks.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub(crate) struct Place {
    /// Closed from the highest to the lowest.
    pub(crate) depth: i32,
    /// Does not hold the pool open.
    pub(crate) daemon: bool,
}

/// Which of the tasks of one place.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Seat {
    pub(crate) index: u32,
    /// Counts all who have taken a seat, so that a task is not mistaken for one that had the seat before.
    pub(crate) turn: NonZeroU32,
}

/// Cleanup failures on their way into an error. The lock is held to push or take only.
#[derive(Clone)]
pub(crate) struct Cleanup(Arc<Mutex<Option<Vec<TaskError>>>>);

/// What a pool has to show.
pub(crate) struct Census {
    pub(crate) name: Option<Arc<str>>,
    pub(crate) state: NodeState,
    pub(crate) reason: Option<ClosingReason>,
    /// Whether its future is gone, and the runtime closes it.
    pub(crate) handed_over: bool,
    pub(crate) tasks: Vec<Resident>,
    /// Held for the moment, to look at what is below them. They are let go of when no lock is held.
    pub(crate) scopes: Vec<(Place, Arc<Scope>)>,
}

impl Census {
    /// Nothing seen yet, of a pool that stands like this.
    pub(crate) fn new(state: NodeState) -> Self {
        Self { name: None, state, reason: None, handed_over: false, tasks: Vec::new(), scopes: Vec::new() }
    }

    /// Whether nothing is left.
    pub(crate) fn is_over(&self) -> bool {
        self.state == NodeState::Closed && self.tasks.is_empty() && self.scopes.is_empty()
    }
}

/// A task of a pool.
pub(crate) struct Resident {
    pub(crate) info: TaskInfo,
    pub(crate) place: Place,
    /// `None` if it was not spawned yet.
    pub(crate) seat: Option<Seat>,
    pub(crate) state: NodeState,
}

/// The state of a pool, whatever its error type.
pub(crate) trait PoolState: Any + Send + Sync {
    /// Takes a cleanup failure, or gives it back if the pool has returned already.
    fn report(&self, failure: TaskError) -> Option<TaskError>;

    /// A task has been polled for the first time, and waits: this wakes it if it is aborted. `false` if it has been.
    fn task_parked(&self, scope: &Scope, place: Place, seat: Seat, waker: Waker) -> bool;

    /// A task is about to let go of its scope, having said all that it has to say. Says whether there is a limit to how
    /// many run.
    fn task_ended(&self, place: Place, seat: Seat) -> bool;

    /// One that counted towards the limit has ended.
    fn slot_freed(self: Arc<Self>);

    /// Drops a task that was cancelled while it waited for its turn, if it still does.
    fn drop_queued(&self, key: u64);

    /// Whether tasks have time to end by themselves before they are aborted.
    fn has_grace(&self) -> bool;

    /// The token that asks the tasks of a depth to stop.
    fn token(&self, depth: i32) -> CancellationToken;

    /// Nothing is left in the pool's scope, nor below it.
    fn settled(&self);

    /// What there is to be seen of it.
    fn census(&self) -> Census;

    fn as_any(&self) -> &dyn Any;

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

impl Scope {
    /// A new scope inside another, or inside none.
    pub(crate) fn within(parent: Option<Arc<Self>>, owner: Owner) -> Arc<Self> {
        let scope = Arc::new(Self {
            owner,
            parent,
            aborted: AtomicBool::new(false),
            waiter: OnceLock::new(),
            below: OnceLock::new(),
        });
        if let (Some(parent), Some(_)) = (&scope.parent, scope.call()) {
            parent.adopt(ChildOwner::Call(Arc::downgrade(&scope)));
        }
        scope
    }

    /// A new scope inside the one that this is called from.
    pub(crate) fn enter(owner: Owner) -> Arc<Self> {
        Self::within(Self::current(), owner)
    }

    /// A new scope inside the one that encloses this.
    pub(crate) fn beside(&self, owner: Owner) -> Arc<Self> {
        Self::within(self.parent.clone(), owner)
    }

    /// Notes what begins in here, for those who look from above.
    pub(crate) fn adopt(&self, owner: ChildOwner) {
        let Some(scope) = self.shown() else { return };
        // What begins in a task of somebody else's, as in a bare `tokio::spawn`, is in none of these.
        let here = Spot::current().filter(|here| here.scope.shown().is_some_and(|shown| ptr::eq(shown, scope)));
        let child = Child { seat: here.and_then(|here| here.seat), owner };
        lock(scope.below.get_or_init(Box::default)).children.push(child);
    }

    /// Something in here has ended, or some of it. Throws out what has, when that is half of what is there.
    fn child_ended(&self) {
        let Some(below) = self.shown().and_then(|scope| scope.below.get()) else { return };
        let mut below = lock(below);
        below.ended += 1;
        if 2 * below.ended > below.children.len() + 32 {
            below.ended = 0;
            below.children.retain(Child::is_alive);
            let alive = below.children.len();
            below.children.shrink_to(2 * alive);
        }
    }

    /// Tells the enclosing scope that this one has ended, and lets go of it.
    fn leave_parent(&mut self) -> Option<Arc<Self>> {
        let parent = self.parent.take()?;
        if self.is_shown() {
            parent.child_ended();
        }
        Some(parent)
    }

    /// The nearest scope, here or further out, that is shown by itself.
    fn shown(&self) -> Option<&Self> {
        self.outwards().find(|scope| scope.is_shown())
    }

    fn is_shown(&self) -> bool {
        !matches!(self.owner, Owner::Passing | Owner::Blocking)
    }

    /// What is directly below, in the order in which it began.
    pub(crate) fn children(&self) -> Vec<Child> {
        self.below.get().map(|below| lock(below).children.clone()).unwrap_or_default()
    }

    /// The call that the scope was made by, if it has tasks.
    pub(crate) fn call(&self) -> Option<&Call> {
        match &self.owner {
            Owner::Running(call, _) | Owner::Shielding(call) => Some(call),
            Owner::Pool(..) | Owner::Passing | Owner::Blocking => None,
        }
    }

    /// The scope that this is called from.
    pub(crate) fn current() -> Option<Arc<Self>> {
        Spot::current().map(|here| here.scope)
    }

    /// Waits until nothing is left below, once the caller has let go of the scope.
    pub(crate) async fn settled(self: Arc<Self>) {
        if self.is_alone() {
            return;
        }
        let (sender, receiver) = oneshot::channel();
        // The scope ends after the sender was put in: it is held here until then.
        drop(self.waiter.set(sender));
        drop(self);
        // Never sent to: dropped with the scope.
        drop(receiver.await);
    }

    /// Whether nothing is left below, nor beside the caller.
    pub(crate) fn is_alone(self: &Arc<Self>) -> bool {
        let alone = Arc::strong_count(self) == 1;
        if alone {
            fence(Ordering::Acquire);
        }
        alone
    }

    /// The state of the pool that owns this scope, if it is an `S`.
    pub(crate) fn pool<S: PoolState>(&self) -> Option<&S> {
        match &self.owner {
            Owner::Pool(pool, _) => pool.as_any().downcast_ref(),
            _ => None,
        }
    }

    /// The state of the innermost pool that is an `S`, here or further out.
    pub(crate) fn nearest_pool<S: PoolState>(&self) -> Option<Arc<S>> {
        self.outwards().find_map(|scope| match &scope.owner {
            Owner::Pool(pool, _) => Arc::clone(pool).into_any().downcast().ok(),
            _ => None,
        })
    }

    /// The outermost pool around, if there is one.
    pub(crate) fn outermost_pool(&self) -> Option<Arc<dyn PoolState>> {
        let pool_of = |scope: &Self| match &scope.owner {
            Owner::Pool(pool, _) => Some(Arc::clone(pool)),
            _ => None,
        };
        self.outwards().filter_map(pool_of).last()
    }

    /// Hands a failure that has no owner any more to the nearest scope, here or further out, that will return an
    /// error. With none there is nobody left to tell.
    pub(crate) fn report(&self, failure: TaskError) {
        let mut untold = Some(failure);
        for scope in self.outwards() {
            untold = match (&scope.owner, untold.take()) {
                (Owner::Pool(pool, _), Some(failure)) => pool.report(failure),
                (Owner::Running(_, Some(cleanup)), Some(failure)) => cleanup.push(failure),
                (_, untold) => untold,
            };
        }
    }

    /// Which tasks of its pool are in this scope.
    pub(crate) fn place(&self) -> Place {
        match self.owner {
            Owner::Pool(_, place) => place,
            _ => Place::default(),
        }
    }

    /// The token that asks the enclosing task to stop; `None` outside of a pool, and in shielded work.
    pub(crate) fn token(&self) -> Option<CancellationToken> {
        self.asked_by().map(|(pool, place, _)| pool.token(place.depth))
    }

    /// The same, if it is of any use to a pool that is opened here: without a grace the abort comes with the request,
    /// unless it is a blocking closure that is asked.
    pub(crate) fn token_to_heed(&self) -> Option<CancellationToken> {
        let (pool, place, blocking) = self.asked_by()?;
        (blocking || pool.has_grace()).then(|| pool.token(place.depth))
    }

    /// The pool that asks what is in here to stop, its tasks that are asked, and whether it is a blocking closure.
    fn asked_by(&self) -> Option<(&Arc<dyn PoolState>, Place, bool)> {
        let mut blocking = false;
        for scope in self.outwards() {
            match &scope.owner {
                Owner::Pool(pool, place) => return Some((pool, *place, blocking)),
                Owner::Shielding(_) => return None,
                Owner::Blocking => blocking = true,
                Owner::Running(..) | Owner::Passing => {}
            }
        }
        None
    }

    /// Has the tasks end that are polled from now on.
    pub(crate) fn abort(&self) {
        self.aborted.store(true, Ordering::Release);
    }

    #[inline]
    pub(crate) fn is_aborted(&self) -> bool {
        self.aborted.load(Ordering::Acquire)
    }

    pub(crate) fn parent(&self) -> Option<&Arc<Self>> {
        self.parent.as_ref()
    }

    /// This scope, then the enclosing one, and so on to the outermost.
    fn outwards(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |scope| scope.parent.as_deref())
    }
}

impl Drop for Scope {
    /// Tells the owner, then lets go of the enclosing scopes one after the other: a chain of many, each held only by
    /// the next, would otherwise be dropped by recursion.
    fn drop(&mut self) {
        if let Owner::Pool(pool, _) = &self.owner {
            pool.settled();
        }
        let mut next = self.leave_parent();
        while let Some(mut scope) = next.and_then(Arc::into_inner) {
            next = scope.leave_parent();
        }
    }
}

impl Spot {
    /// A spot in a scope, and in the task that this is called from if the scope is but a part of what that does.
    pub(crate) fn new(scope: Arc<Scope>) -> Self {
        let seat = if scope.is_shown() { None } else { Self::current().and_then(|here| here.seat) };
        Self { scope, seat }
    }

    /// The spot that this is called from.
    pub(crate) fn current() -> Option<Self> {
        let current = CURRENT.try_with(|current| {
            let here = current.take();
            current.set(here.clone());
            here
        });
        current.ok().flatten()
    }

    /// Tells the pool that its task here waits, and how to wake it. `false` if it has been aborted.
    pub(crate) fn task_parked(&self, waker: &Waker) -> bool {
        let (Owner::Pool(pool, place), Some(seat)) = (&self.scope.owner, self.seat) else { return true };
        pool.task_parked(&self.scope, *place, seat, waker.clone())
    }

    /// Tells the pool that its task here is about to let go; `counted` says whether it may count towards a limit.
    pub(crate) fn task_ended(&self, counted: bool) {
        let (Owner::Pool(pool, place), Some(seat)) = (&self.scope.owner, self.seat) else { return };
        let limited = pool.task_ended(*place, seat);
        if limited && counted && !place.daemon {
            Arc::clone(pool).slot_freed();
        }
    }

    /// Runs code with the spot in `slot` as the current one. It is back in the slot afterwards, also on a panic.
    #[inline]
    pub(crate) fn enter<R>(slot: &mut Option<Self>, code: impl FnOnce() -> R) -> R {
        let mut swapped = Swapped(slot);
        swapped.swap();
        code()
    }
}

/// Has changed places with the spot that was current before.
struct Swapped<'a>(&'a mut Option<Spot>);

impl Swapped<'_> {
    #[inline]
    fn swap(&mut self) {
        // A thread that is ending has no current spot any more; its futures do without.
        let _ = CURRENT.try_with(|current| *self.0 = current.replace(self.0.take()));
    }
}

impl Drop for Swapped<'_> {
    #[inline]
    fn drop(&mut self) {
        self.swap();
    }
}

impl Call {
    pub(crate) fn new(function: &'static str, called_at: &'static Location<'static>) -> Box<Self> {
        Box::new(Self { function, called_at, handed_over: AtomicBool::new(false), tasks: Mutex::default() })
    }

    pub(crate) fn spawned(&self, task: AbortHandle) {
        lock(&self.tasks).push(task);
    }

    /// How many of its tasks have not ended.
    pub(crate) fn alive(&self) -> usize {
        lock(&self.tasks).iter().filter(|task| !task.is_finished()).count()
    }

    pub(crate) fn hand_over(&self) {
        self.handed_over.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_handed_over(&self) -> bool {
        self.handed_over.load(Ordering::Relaxed)
    }
}

impl Child {
    fn is_alive(&self) -> bool {
        match &self.owner {
            ChildOwner::Pool(pool) => pool.strong_count() > 0,
            ChildOwner::Call(scope) => scope.strong_count() > 0,
        }
    }
}

/// Nothing of the user's runs under these locks, and nothing that can panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cleanup {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Some(Vec::new()))))
    }

    /// Takes a failure, or gives it back if there will be no error to put it into.
    pub(crate) fn push(&self, failure: TaskError) -> Option<TaskError> {
        match &mut *lock(&self.0) {
            Some(failures) => failures.push(failure),
            None => return Some(failure),
        }
        None
    }

    /// Gives the failures away, for the last time.
    pub(crate) fn close(&self) -> Vec<TaskError> {
        lock(&self.0).take().unwrap_or_default()
    }
}

/// Whether nothing is left in a scope, nor below it.
pub(crate) fn is_settled(scope: &Weak<Scope>) -> bool {
    let settled = scope.strong_count() == 0;
    if settled {
        // What the tasks have done is to be seen by whoever waits for them, as after a join. The count alone is relaxed.
        fence(Ordering::Acquire);
    }
    settled
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(parent: Option<&Arc<Scope>>) -> Arc<Scope> {
        Scope::within(parent.cloned(), Owner::Shielding(Call::new("test", Location::caller())))
    }

    /// A scope that is held by those below it only is not dropped by itself.
    #[test]
    fn what_was_held_by_those_below_takes_no_room() {
        let top = scope(None);
        for _ in 0..1_000 {
            drop(scope(Some(&scope(Some(&top)))));
        }
        let below = lock(top.below.get().expect("it has had children"));
        assert!(below.children.capacity() < 100, "{}", below.children.capacity());
    }

    #[test]
    fn what_has_come_and_gone_takes_no_room() {
        let top = scope(None);
        let long_lived: Vec<_> = (0..10).map(|_| scope(Some(&top))).collect();
        for _ in 0..1_000 {
            drop((0..100).map(|_| scope(Some(&top))).collect::<Vec<_>>());
        }
        let below = lock(top.below.get().expect("it has had children"));
        assert!(below.children.capacity() < 100, "{}", below.children.capacity());
        assert_eq!(below.children.iter().filter(|child| child.is_alive()).count(), long_lived.len());
    }
}
