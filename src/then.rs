//! A future that is made when another has ended.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;

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
