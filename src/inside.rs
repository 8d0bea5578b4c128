//! User futures as the crate runs them: in a scope, and with a panic as a value.
//!
//! Bodies, tasks and the branches of the functions are all polled here. Three things hold for each of them.
//!
//! - The scope is the current one while the future is polled, and also while it is dropped, since a destructor may
//!   spawn.
//! - The future is dropped as soon as it has ended, before anybody is told, so that whoever is told finds it gone.
//! - What its last poll has returned is kept apart from a panic of its destructor: neither hides the other.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use pin_project::{pin_project, pinned_drop};

use crate::error::{PanicPayload, catch};
use crate::scope::{Scope, Spot};

/// A future that runs in a scope, and ends in it: it is polled and dropped with the scope as the current one.
#[pin_project(PinnedDrop)]
pub(crate) struct Inside<F> {
    /// `None` once it has ended.
    #[pin]
    future: Option<F>,
    /// In the thread-local while the future runs, here otherwise; `None` before it has entered its scope, and once that
    /// has been taken.
    spot: Option<Spot>,
}

/// How a future ended.
pub(crate) struct Ended<T> {
    /// What its last poll gave.
    pub(crate) output: Result<T, PanicPayload>,
    /// The panic of its destructor, which ran after that poll.
    pub(crate) dropped: Option<PanicPayload>,
}

impl<F> Inside<F> {
    /// A future that runs in this scope.
    pub(crate) fn new(scope: Arc<Scope>, future: F) -> Self {
        Self::at(Spot::new(scope), future)
    }

    /// The future of a pool's task.
    pub(crate) fn at(spot: Spot, future: F) -> Self {
        Self { future: Some(future), spot: Some(spot) }
    }

    /// A future that is not polled before it has [entered](Self::enter) its scope.
    pub(crate) fn outside(future: F) -> Self {
        Self { future: Some(future), spot: None }
    }

    /// One that has ended.
    pub(crate) fn ended() -> Self {
        Self { future: None, spot: None }
    }

    /// Has it run in this scope from now on.
    pub(crate) fn enter(self: Pin<&mut Self>, scope: Arc<Scope>) {
        *self.project().spot = Some(Spot::new(scope));
    }

    /// Whether it has ended, and was dropped.
    pub(crate) fn has_ended(&self) -> bool {
        self.future.is_none()
    }

    /// Whether a pool's task is to end.
    #[inline]
    pub(crate) fn is_aborted(&self) -> bool {
        self.spot.as_ref().is_some_and(|spot| spot.scope.is_aborted())
    }

    /// Tells the pool how to wake its task, which is about to wait. Says whether it may.
    pub(crate) fn park(&self, waker: &Waker) -> bool {
        self.spot.as_ref().is_none_or(|spot| spot.park_task(waker))
    }

    /// Drops the future, if it has not ended.
    pub(crate) fn end(self: Pin<&mut Self>) -> Option<PanicPayload> {
        let mut this = self.project();
        catch(|| Spot::enter(this.spot, || this.future.set(None))).err()
    }

    /// The scope, of a future that has ended.
    pub(crate) fn take_scope(self: Pin<&mut Self>) -> Option<Arc<Scope>> {
        self.take_spot().map(|spot| spot.scope)
    }

    /// The same, with the seat of a pool's task.
    pub(crate) fn take_spot(self: Pin<&mut Self>) -> Option<Spot> {
        self.project().spot.take()
    }
}

impl<F: Future> Future for Inside<F> {
    type Output = Ended<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        Spot::enter(this.spot, || {
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
                (Some(value), caught) => Poll::Ready(Ended { output: Ok(value), dropped: caught.err() }),
                (None, Err(payload)) => {
                    let dropped = catch(|| this.future.set(None)).err();
                    Poll::Ready(Ended { output: Err(payload), dropped })
                }
            }
        })
    }
}

#[pinned_drop]
impl<F> PinnedDrop for Inside<F> {
    fn drop(self: Pin<&mut Self>) {
        let mut this = self.project();
        if this.future.is_some() && this.spot.is_some() {
            Spot::enter(this.spot, || this.future.set(None));
        }
    }
}
