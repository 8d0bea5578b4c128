//! User futures as the crate runs them: in a scope, and with a panic as a value.
//!
//! Bodies, tasks and the branches of the functions are all polled here. Three things hold for each of them.
//!
//! - The scope is the current one while the future is polled, and also while it is dropped, since a destructor may
//!   spawn.
//! - The future is dropped as soon as it has ended, before anybody can see that it has.
//! - What its last poll has returned is kept apart from a panic of its destructor: neither hides the other.
//!
//! Each keeps its [`Current`], and changes places with [`CURRENT`] for as long as it is polled or dropped. So entering
//! costs a swap and no reference count, and a nested future puts back what it found.
//!
//! Two helpers are here as well: [`Then`] is one future after the other, of which the second is lost to no panic; and
//! [`boxed_in_debug`] takes the type of a future away where that makes the build quicker.

use std::cell::Cell;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use pin_project::{pin_project, pinned_drop};

use super::{Scope, TaskKey};
use crate::error::{PanicPayload, catch};

/// Boxes a future, with `debug_assertions` only, so that what polls, aborts and drops a task is compiled once for each
/// output, and not for each `async` block. Tokio boxes large futures there, too.
#[cfg(debug_assertions)]
pub(crate) fn boxed_in_debug<F: Future + Send + 'static>(
    future: F,
) -> impl Future<Output = F::Output> + Send + 'static + use<F> {
    Box::pin(future) as Pin<Box<dyn Future<Output = F::Output> + Send>>
}

/// Without them the compiler sees through the whole task.
#[cfg(not(debug_assertions))]
pub(crate) fn boxed_in_debug<F: Future + Send + 'static>(future: F) -> F {
    future
}

/// A future that runs in a scope, and ends in it: it is polled and dropped with the scope as the current one.
#[pin_project(PinnedDrop)]
pub(crate) struct Scoped<F> {
    /// `None` once it has ended.
    #[pin]
    future: Option<F>,
    /// In the thread-local while the future runs, here otherwise; `None` before it has entered its scope, and once that
    /// has been taken.
    current: Option<Current>,
}

/// How a future ended.
pub(crate) struct Completion<T> {
    /// What its last poll gave.
    pub(crate) output: Result<T, PanicPayload>,
    /// The panic of its destructor, which ran after that poll.
    pub(crate) dropped: Option<PanicPayload>,
}

impl<F> Scoped<F> {
    /// A future that runs in this scope.
    pub(crate) fn new(scope: Arc<Scope>, future: F) -> Self {
        Self { future: Some(future), current: Some(Current::new(scope)) }
    }

    /// A future that is not polled before it was [placed](Self::place) in its scope.
    pub(crate) fn outside(future: F) -> Self {
        Self { future: Some(future), current: None }
    }

    /// One that has ended.
    pub(crate) fn completed() -> Self {
        Self { future: None, current: None }
    }

    /// Has a future that was not polled yet run here from now on.
    pub(crate) fn place(&mut self, current: Current) {
        self.current = Some(current);
    }

    /// The same for one that is pinned already.
    pub(crate) fn place_pinned(self: Pin<&mut Self>, current: Current) {
        *self.project().current = Some(current);
    }

    /// Gives the future back.
    pub(crate) fn take_future(&mut self) -> Option<F> {
        self.future.take()
    }

    /// Where it runs, while it is not polled.
    pub(crate) fn current(&self) -> Option<&Current> {
        self.current.as_ref()
    }

    /// Whether it has ended, and was dropped.
    pub(crate) fn has_ended(&self) -> bool {
        self.future.is_none()
    }

    /// Drops the future, if it has not ended.
    pub(crate) fn end(self: Pin<&mut Self>) -> Option<PanicPayload> {
        let this = self.project();
        let _entered = Current::enter(this.current);
        drop_caught(this.future)
    }

    /// Drops the future, if it has not ended, since it is aborted: whatever is dropped with it has no time left.
    pub(crate) fn abort(self: Pin<&mut Self>) -> Option<PanicPayload> {
        // Without a guard, since `end` catches every panic. A thread that is ending has no thread-locals any more.
        let before = ABORTING.try_with(|aborting| aborting.replace(true)).unwrap_or(false);
        let panicked = self.end();
        let _ = ABORTING.try_with(|aborting| aborting.set(before));
        panicked
    }

    /// The scope, of a future that has ended.
    pub(crate) fn take_scope(self: Pin<&mut Self>) -> Option<Arc<Scope>> {
        self.take_current().map(|current| current.scope)
    }

    /// The same, with the key of a pool's task.
    pub(crate) fn take_current(self: Pin<&mut Self>) -> Option<Current> {
        self.project().current.take()
    }
}

impl<F: Future> Future for Scoped<F> {
    type Output = Completion<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let _entered = Current::enter(this.current);
        let mut returned = None;
        let caught = catch(|| {
            let future = this.future.as_mut().as_pin_mut().expect("a future is not polled after it has ended");
            if let Poll::Ready(value) = future.poll(cx) {
                returned = Some(value);
                this.future.set(None);
            }
        });
        match (returned, caught) {
            (None, Ok(())) => Poll::Pending,
            (Some(value), caught) => Poll::Ready(Completion { output: Ok(value), dropped: caught.err() }),
            (None, Err(payload)) => Poll::Ready(Completion { output: Err(payload), dropped: drop_caught(this.future) }),
        }
    }
}

fn drop_caught<F>(mut future: Pin<&mut Option<F>>) -> Option<PanicPayload> {
    catch(|| future.set(None)).err()
}

#[pinned_drop]
impl<F> PinnedDrop for Scoped<F> {
    fn drop(self: Pin<&mut Self>) {
        let mut this = self.project();
        if this.future.is_some() && this.current.is_some() {
            let _entered = Current::enter(this.current);
            this.future.set(None);
        }
    }
}

// ===== where code runs =====

thread_local! {
    /// Set while a future of the scope is polled or dropped, as tokio's own task-locals are. It is none of them since it
    /// is swapped, not set for the length of a borrow: a task takes its scope out when its future has ended, and an abort
    /// drops the future in it.
    static CURRENT: Cell<Option<Current>> = const { Cell::new(None) };
}

thread_local! {
    /// Set while an abort drops a future, with all that is dropped within it. A `Drop` alone cannot tell an abort from a
    /// `select!`.
    static ABORTING: Cell<bool> = const { Cell::new(false) };
}

/// Where code runs.
#[derive(Clone)]
pub(crate) struct Current {
    pub(crate) scope: Arc<Scope>,
    /// That of the pool's task that it is part of; `None` in a body, and in a task of a function.
    pub(crate) key: Option<TaskKey>,
}

/// The same, without holding the scope.
#[derive(Clone)]
pub(crate) struct WeakCurrent {
    scope: Weak<Scope>,
    pub(crate) key: Option<TaskKey>,
}

impl WeakCurrent {
    /// Where this is called from, if that is in a scope.
    pub(crate) fn get() -> Option<Self> {
        Current::get().map(|here| Self { scope: Arc::downgrade(&here.scope), key: here.key })
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.scope.strong_count() == 0
    }

    /// The scope; if it has ended, the one that this is called from.
    pub(crate) fn scope(&self) -> Option<Arc<Scope>> {
        Scope::or_current(&self.scope)
    }

    /// Whether this is called from there.
    pub(crate) fn is_here(&self) -> bool {
        Current::get().is_some_and(|here| here.key == self.key && self.scope.as_ptr() == Arc::as_ptr(&here.scope))
    }
}

impl Current {
    /// In a scope. If that is in place, as that of a `timeout`, the key is that of the task in which this is called.
    fn new(scope: Arc<Scope>) -> Self {
        let key = if scope.is_visible() { None } else { Self::get().and_then(|here| here.key) };
        Self { scope, key }
    }

    /// Whether this is called from a destructor that an abort runs, so that what closes or begins here has no time.
    pub(crate) fn is_aborted() -> bool {
        ABORTING.try_with(Cell::get).unwrap_or(false)
    }

    /// Where this is called from.
    pub(super) fn get() -> Option<Self> {
        let current = CURRENT.try_with(|current| {
            let here = current.take();
            current.set(here.clone());
            here
        });
        current.ok().flatten()
    }

    /// Runs code of the user's here, in place of its task.
    pub(crate) fn run<R>(&self, code: impl FnOnce() -> R) -> R {
        let mut here = Some(self.clone());
        let _entered = Self::enter(&mut here);
        code()
    }

    /// Makes what is in `slot` the current scope and task, until the guard is dropped. Then it is back in the slot.
    #[inline]
    fn enter(slot: &mut Option<Self>) -> Entered<'_> {
        let mut entered = Entered(slot);
        entered.swap();
        entered
    }
}

/// Has changed places with what was current before.
#[must_use = "it is left at once"]
struct Entered<'a>(&'a mut Option<Current>);

impl Entered<'_> {
    /// Changes places once more.
    #[inline]
    fn swap(&mut self) {
        // A thread that is ending has no thread-locals any more; its futures do without.
        let _ = CURRENT.try_with(|current| *self.0 = current.replace(self.0.take()));
    }
}

impl Drop for Entered<'_> {
    #[inline]
    fn drop(&mut self) {
        self.swap();
    }
}

// ===== one future after the other =====

/// Waits, then calls a closure, then is the future that this has made.
///
/// Not an async block with two awaits: a destructor of the second future that panics when that has returned would
/// unwind through the block, and what it had returned would be lost.
#[pin_project(project = Projection)]
pub(crate) enum Then<W, C, F> {
    /// The first future, and the closure, which is taken when that is ready.
    Waiting(#[pin] W, Option<C>),
    /// What the closure has made.
    Running(#[pin] F),
    /// The closure has panicked.
    Failed,
}

impl<W, C, F> Then<W, C, F>
where
    W: Future<Output = ()>,
    C: FnOnce() -> F,
    F: Future,
{
    /// Waits for `wait`, then is the future that `make` makes.
    pub(crate) fn new(wait: W, make: C) -> Self {
        Self::Waiting(wait, Some(make))
    }
}

impl<W, C, F> Future for Then<W, C, F>
where
    W: Future<Output = ()>,
    C: FnOnce() -> F,
    F: Future,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        if let Projection::Waiting(wait, make) = self.as_mut().project() {
            ready!(wait.poll(cx));
            let make = make.take();
            self.set(Self::Failed);
            if let Some(make) = make {
                self.set(Self::Running(make()));
            }
        }
        match self.project() {
            Projection::Running(future) => future.poll(cx),
            _ => panic!("a future was polled after its closure had panicked"),
        }
    }
}
