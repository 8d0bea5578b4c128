//! User futures as the crate runs them: in a scope, and with a panic as a value.
//!
//! Bodies, tasks and the branches of the functions are all polled here. Three things hold for each of them.
//!
//! - The scope is the current one while the future is polled, and also while it is dropped, since a destructor may
//!   spawn.
//! - The future is dropped as soon as it has ended, before anybody can see that it has.
//! - What its last poll has returned is kept apart from a panic of its destructor: neither hides the other.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project::{pin_project, pinned_drop};

use crate::error::{PanicPayload, catch};
use crate::scope::{Current, Scope};

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

    /// A future that is not polled before it has [entered](Self::enter) its scope.
    pub(crate) fn outside(future: F) -> Self {
        Self { future: Some(future), current: None }
    }

    /// One that has ended.
    pub(crate) fn ended() -> Self {
        Self { future: None, current: None }
    }

    /// Has a future that was not polled yet run here from now on, as the task of a pool.
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

    /// Has it run in this scope from now on.
    pub(crate) fn enter(self: Pin<&mut Self>, scope: Arc<Scope>) {
        *self.project().current = Some(Current::new(scope));
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
        let _aborting = Current::aborting();
        self.end()
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
