//! User futures as the crate runs them: in a scope, and with a panic as a value.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project::{pin_project, pinned_drop};

use crate::error::{PanicPayload, catch};
use crate::scope::Scope;

/// A future that runs in a scope, and ends in it: it is polled and dropped with the scope as the current one.
#[pin_project(PinnedDrop)]
pub(crate) struct Inside<F> {
    #[pin]
    state: State<F>,
    /// In the task-local while the future runs, here otherwise; `None` once it has been taken.
    scope: Option<Arc<Scope>>,
}

#[pin_project(project = StateProjection, project_replace = StateReplaced)]
enum State<F> {
    /// Not pinned yet, so that it can still be moved: see [`Inside::take_unpolled`].
    Unpolled(F),
    Polled(#[pin] F),
    /// Dropped.
    Ended,
}

/// How a future ended.
pub(crate) struct Ended<T> {
    /// What its last poll gave.
    pub(crate) output: Result<T, PanicPayload>,
    /// The panic of its destructor, which ran after that poll.
    pub(crate) dropped: Option<PanicPayload>,
}

impl<F> Inside<F> {
    pub(crate) fn new(scope: Arc<Scope>, future: F) -> Self {
        Self { state: State::Unpolled(future), scope: Some(scope) }
    }

    /// Drops the future, if it has not ended.
    pub(crate) fn end(self: Pin<&mut Self>) -> Option<PanicPayload> {
        let mut this = self.project();
        catch(|| Scope::enter_with(this.scope, || this.state.set(State::Ended))).err()
    }

    /// Moves the future out if it was never polled, which leaves nothing to drop here.
    pub(crate) fn take_unpolled(self: Pin<&mut Self>) -> Option<Self> {
        let this = self.project();
        match this.state.project_replace(State::Ended) {
            StateReplaced::Unpolled(future) => Some(Self { state: State::Unpolled(future), scope: this.scope.take() }),
            _ => None,
        }
    }

    /// The scope, of a future that has ended.
    pub(crate) fn take_scope(self: Pin<&mut Self>) -> Option<Arc<Scope>> {
        self.project().scope.take()
    }
}

impl<F> State<F> {
    /// The future, pinned from the first call on.
    ///
    /// # Panics
    ///
    /// If it has ended.
    fn polled(mut self: Pin<&mut Self>) -> Pin<&mut F> {
        if let StateProjection::Unpolled(_) = self.as_mut().project() {
            if let StateReplaced::Unpolled(future) = self.as_mut().project_replace(State::Ended) {
                self.set(State::Polled(future));
            }
        }
        match self.project() {
            StateProjection::Polled(future) => future,
            _ => panic!("a future was polled after it had ended"),
        }
    }
}

impl<F: Future> Future for Inside<F> {
    type Output = Ended<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        Scope::enter_with(this.scope, || {
            let mut returned = None;
            let caught = catch(|| {
                if let Poll::Ready(value) = this.state.as_mut().polled().poll(cx) {
                    returned = Some(value);
                    this.state.set(State::Ended);
                }
            });
            match (returned, caught) {
                (None, Ok(())) => Poll::Pending,
                (Some(value), caught) => Poll::Ready(Ended { output: Ok(value), dropped: caught.err() }),
                (None, Err(payload)) => {
                    let dropped = catch(|| this.state.set(State::Ended)).err();
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
        if !matches!(*this.state, State::Ended) {
            Scope::enter_with(this.scope, || this.state.set(State::Ended));
        }
    }
}
