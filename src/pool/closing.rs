//! The steps by which a pool closes, without its body, so that a dropped owner can hand them on.
//!
//! For each depth that is left, from the highest to the lowest: its tasks are asked to stop, have the grace to do so,
//! are aborted, and are waited for. The steps only say what is next. What they do to the tasks is in
//! [`phases`](super::phases), under the lock of the pool; and they are polled by whoever has them: the driver, or, when
//! that was dropped, a task of the runtime that has nothing else to do.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::state::Shared;
use super::trace::Watch;
use crate::error::{BoxError, Report, TaskError};
use crate::scope::Scope;

/// Closes one depth after the other, from the highest to the lowest.
#[derive(Default)]
pub(super) struct Closing {
    step: Step,
    /// Whether it is the turn of depth 0, to which the body belongs, or past that.
    cuts_body: bool,
    /// Warns of a closing that takes long.
    watch: Watch,
}

/// How far the closing has come.
#[derive(Default)]
enum Step {
    /// On to the highest depth that is left.
    #[default]
    Next,
    /// The tasks of a depth have been asked to stop.
    Cancelled { depth: i32, grace: Deadline },
    /// They have been aborted, or had all ended.
    Aborted { depth: i32, patience: Option<Deadline> },
    /// Nothing is left.
    Over,
}

/// How long to wait, from the first time that this is polled.
enum Deadline {
    /// Not polled yet.
    After(Duration),
    At(Pin<Box<Sleep>>),
    /// Further off than a clock can tell.
    Never,
}

/// What has happened.
pub(super) enum Progress {
    /// Nothing yet; the driver will be woken.
    Waiting,
    /// A depth has been aborted, and what is left of it is to be waited for: poll again.
    Aborted,
    /// Everything has ended.
    Over,
}

impl Closing {
    /// Whether the body is to be dropped, if it has not ended. Until then it is polled.
    pub(super) fn cuts_body(&self) -> bool {
        self.cuts_body
    }

    /// Goes as far as it can.
    pub(super) fn poll<E: Send + 'static>(&mut self, pool: &Shared<E>, cx: &mut Context<'_>) -> Progress {
        loop {
            match &mut self.step {
                Step::Next => match pool.cancel_next_depth() {
                    Some(depth) => self.step = Step::Cancelled { depth, grace: Deadline::After(pool.grace()) },
                    None => self.step = Step::Over,
                },
                Step::Cancelled { depth, grace } => {
                    if !pool.poll_empty(cx, *depth) && grace.poll(cx).is_pending() {
                        pool.watch(&mut self.watch, cx);
                        return Progress::Waiting;
                    }
                    let depth = *depth;
                    self.abort(pool, depth);
                    return Progress::Aborted;
                }
                Step::Aborted { depth, patience } => {
                    if !pool.poll_empty(cx, *depth) {
                        if patience.as_mut().is_none_or(|patience| patience.poll(cx).is_pending()) {
                            pool.watch(&mut self.watch, cx);
                            return Progress::Waiting;
                        }
                        pool.abandon(*depth);
                    } else {
                        pool.close_depth(*depth);
                    }
                    self.step = Step::Next;
                }
                Step::Over => return Progress::Over,
            }
        }
    }

    /// Aborts a depth that was asked to stop.
    fn abort<E: Send + 'static>(&mut self, pool: &Shared<E>, depth: i32) {
        pool.abort(depth);
        self.cuts_body |= depth <= 0;
        self.step = Step::Aborted { depth, patience: pool.abandon_after().map(Deadline::After) };
    }

    /// Has the rest done by the runtime, and what fails reported to the enclosing scope, which waits for it.
    pub(super) fn detach<E>(mut self: Box<Self>, pool: Arc<Shared<E>>, enclosing: Option<Arc<Scope>>)
    where
        E: Into<BoxError> + Send + 'static,
    {
        // What has no time to end by itself does not wait for the runtime to take over.
        if let (Step::Next, true) = (&self.step, pool.grace().is_zero()) {
            if let Some(depth) = pool.cancel_next_depth() {
                self.abort(&pool, depth);
            }
        }
        let over = self.cuts_body && pool.is_over();
        let mut remains = Remains { closing: self, pool: Arc::clone(&pool), enclosing };
        if let (Some(runtime), false) = (pool.runtime.get(), over) {
            drop(runtime.spawn(async move { std::future::poll_fn(|cx| remains.poll(cx)).await }));
        }
    }
}

impl Deadline {
    /// # Panics
    ///
    /// In a runtime without timers.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Self::After(duration) = self {
            *self = match Instant::now().checked_add(*duration) {
                _ if duration.is_zero() => return Poll::Ready(()),
                Some(deadline) => Self::At(Box::pin(sleep_until(deadline))),
                None => Self::Never,
            };
        }
        match self {
            Self::At(sleep) => sleep.as_mut().poll(cx),
            _ => Poll::Pending,
        }
    }
}

/// What is left of a pool whose owner was dropped. Its end is reported even if the runtime cuts it off.
struct Remains<E: Into<BoxError> + Send + 'static> {
    /// As far as the owner had come.
    closing: Box<Closing>,
    pool: Arc<Shared<E>>,
    /// Waits until it has been told.
    enclosing: Option<Arc<Scope>>,
}

impl<E: Into<BoxError> + Send + 'static> Remains<E> {
    /// Goes through the steps that are left.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match self.closing.poll(&self.pool, cx) {
                Progress::Waiting => return Poll::Pending,
                Progress::Aborted => {}
                Progress::Over => return Poll::Ready(()),
            }
        }
    }
}

impl<E: Into<BoxError> + Send + 'static> Drop for Remains<E> {
    /// At the end, or when the runtime shuts down: tells the enclosing scope what has failed, then lets go of it.
    fn drop(&mut self) {
        // What the runtime kept from being closed in its turn: all of it is being dropped.
        self.pool.abort_all();
        // What was given up on needs no word: the enclosing scope waits for it still.
        let Report { failures, cleanup_failures, .. } = self.pool.take_report();
        let enclosing = self.enclosing.take();
        let failures = failures.into_iter().map(TaskError::boxed).chain(cleanup_failures);
        failures.for_each(|failure| Scope::report_to(enclosing.as_deref(), failure));
    }
}
