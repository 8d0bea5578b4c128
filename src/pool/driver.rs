//! Polls the body, waits for the tasks, closes the pool; and hands the closing on if its own future is dropped.

use std::fmt::Display;
use std::panic::Location;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project::pin_project;
use tokio::task::JoinSet;
use tokio::task::coop::{consume_budget, has_budget_remaining};
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::closing::{Closing, close, detach, report_rest};
use super::shared::{Next, Shared};
use super::tasks::poll_join;
use crate::error::{BoxError, ClosingReason, Failure, PanicPayload, PoolError, TaskError, TaskInfo, catch};
use crate::scope::{Completion, Current, ErasedPool, Reporter, Scope, Scoped};

/// Runs a pool to its end: the future behind `open` and `run`.
#[must_use = "a pool does nothing until its future is polled"]
#[pin_project(project = Projected)]
pub(super) struct Drive<E: Into<BoxError> + Send + 'static, T, F> {
    /// Dropped before `state`, so that a body that is dropped halfway is gone when the closing is handed on.
    #[pin]
    pub(super) body: Body<T, F>,
    pub(super) state: DriverState<E>,
}

impl<E, T, F> Future for Drive<E, T, F>
where
    E: Into<BoxError> + Send + 'static,
    F: Future<Output = Result<T, E>>,
{
    type Output = Result<T, PoolError<E>>;

    /// # Panics
    ///
    /// If polled again after it was ready.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Projected { mut body, state } = self.project();
        ready!(state.poll(body.as_mut(), cx));
        Poll::Ready(state.finish(body.project().value.take()))
    }
}

/// The side of the pool that must see it to its end.
pub(super) struct DriverState<E: Into<BoxError> + Send + 'static> {
    pool: Arc<Shared<E>>,
    /// Where failures go if the future is dropped; held, so that it waits until they have been told.
    enclosing: Option<Arc<Scope>>,
    /// The name and the line of the call that made it.
    call: (&'static str, &'static Location<'static>),
    step: Step,
    /// What the body panicked with, to be resumed when all has ended.
    panic: Option<PanicPayload>,
    /// That of the pool around, if this pool follows it.
    signal: Option<Signal>,
    /// Whether tokio had its chance to drop the pool with an aborted task.
    has_yielded: bool,
}

/// How far the state has come.
enum Step {
    /// Not polled yet.
    Unpolled,
    /// The pool runs.
    Running,
    /// The pool closes, by these steps.
    Closing(Closing),
    /// Everything has ended; tokio has yet to publish that for these sets.
    Joining(Vec<JoinSet<()>>),
    /// The pool has returned, or its closing was handed on.
    Done,
}

impl<E: Into<BoxError> + Display + Send + 'static> DriverState<E> {
    /// The state in which `call`, a method of a pool or a builder, begins.
    #[track_caller]
    pub(super) fn new(pool: Arc<Shared<E>>, call: &'static str) -> Self {
        pool.trace.shows_errors();
        Self {
            pool,
            enclosing: None,
            call: (call, Location::caller()),
            step: Step::Unpolled,
            panic: None,
            signal: None,
            has_yielded: false,
        }
    }
}

impl<E: Into<BoxError> + Send + 'static> DriverState<E> {
    /// Lets the planned tasks run.
    ///
    /// # Panics
    ///
    /// Without a runtime, or without the timers that a setting takes, naming the line of the call; and with the panic
    /// of a planned task that cannot be spawned.
    fn start(&mut self) -> Arc<Scope> {
        let (call, site) = self.call;
        let runtime = Reporter::new(call, site).runtime("polled");
        if let Some(setting) = self.pool.options.needs_timers() {
            let has_timers = catch(|| drop(sleep(Duration::ZERO))).is_ok();
            assert!(
                has_timers,
                "the `{setting}` of a pool (`{call}` at {site}) takes a runtime with timers: call `enable_time`, or \
                 `enable_all`, on the builder of the runtime",
            );
        }
        let enclosing = Scope::current();
        // Before the first task begins: a request that comes after this is for this pool too.
        let signal = enclosing.as_ref().and_then(|scope| scope.signal_to_follow());
        let has_outer_time = signal.is_some();
        self.signal = signal.and_then(|(pool, token)| Some(Signal { pool, cancelled: listen(token)? }));
        self.enclosing.clone_from(&enclosing);
        // Before the planned tasks: if one of them cannot be spawned, the pool is closed with the others as this is
        // dropped.
        self.step = Step::Running;
        self.pool.start(runtime, enclosing, has_outer_time, site)
    }

    /// Ready once nothing is left of the pool.
    fn poll(&mut self, mut body: Pin<&mut dyn PollBody<E>>, cx: &mut Context<'_>) -> Poll<()> {
        let first = matches!(self.step, Step::Unpolled);
        loop {
            if !self.has_yielded && self.pool.is_aborted_around() {
                self.has_yielded = true;
                // The task around the pool is aborted. If tokio can drop it, it does so now; in a blocking call it cannot.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match self.step {
                Step::Unpolled => {
                    // Here, where nothing is lost yet if the future is dropped meanwhile.
                    if !has_budget_remaining() {
                        ready!(pin!(consume_budget()).poll(cx));
                    }
                    body.as_mut().enter(self.start());
                    self.pool.has_body.store(!body.has_ended(), Ordering::Release);
                }
                Step::Running => ready!(self.poll_running(body.as_mut(), cx)),
                Step::Closing(_) => ready!(self.poll_closing(body.as_mut(), cx)),
                Step::Joining(ref mut sets) => {
                    ready!(poll_join(sets, cx));
                    if first {
                        // It has never waited. A loop of such pools would otherwise let nobody else run.
                        let _ = pin!(consume_budget()).poll(cx);
                    }
                    return Poll::Ready(());
                }
                Step::Done => panic!("the future of a pool was polled after it had completed"),
            }
        }
    }

    /// Ready once closing has begun, or nothing is left.
    fn poll_running(&mut self, body: Pin<&mut dyn PollBody<E>>, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(signal) = self.signal.take_if(|signal| signal.cancelled.as_mut().poll(cx).is_ready()) {
            self.pool.close(ClosingReason::parent_closing(signal.pool.closing_reason().as_ref()));
        }
        if !self.pool.is_closed() {
            let _ = self.poll_body(body, cx);
        }
        self.step = match ready!(self.pool.poll_end(cx)) {
            Next::Close => Step::Closing(Box::pin(close(Arc::clone(&self.pool)))),
            Next::Join(sets) => Step::Joining(sets),
        };
        Poll::Ready(())
    }

    /// Ready once nothing is left of the pool. The body is polled until its depth is aborted, and then dropped.
    fn poll_closing(&mut self, mut body: Pin<&mut dyn PollBody<E>>, cx: &mut Context<'_>) -> Poll<()> {
        while let Step::Closing(closing) = &mut self.step {
            match closing.as_mut().poll(cx) {
                Poll::Ready(()) => self.step = Step::Joining(Vec::new()),
                // A task may be waiting, in a blocking call, for something that the body holds: first the abort, then the
                // body's end, then the wait.
                Poll::Pending => ready!(self.poll_body(body.as_mut(), cx)),
            }
        }
        Poll::Ready(())
    }

    /// Polls the body, or drops it once its depth is aborted. Ready when that ends it, and its end is recorded; pending if
    /// it had ended before.
    fn poll_body(&mut self, mut body: Pin<&mut dyn PollBody<E>>, cx: &mut Context<'_>) -> Poll<()> {
        if body.has_ended() {
            return Poll::Pending;
        }
        let ended = if self.pool.is_body_aborted() {
            Completion { output: Ok(Ok(())), dropped: body.as_mut().abort() }
        } else {
            ready!(body.as_mut().poll(cx))
        };
        self.pool.has_body.store(false, Ordering::Release);
        body.leave();
        match ended.output {
            Ok(Ok(())) => {}
            // It only says that something in it has heard the request to stop, or that a task has failed. Then the pool
            // has no value to return, and closes.
            Ok(Err(error)) if self.pool.body_only_stopped(&error) => {
                self.pool.report_panic(catch(|| drop(error)).err());
                if !self.pool.is_closed() {
                    self.pool.report_panic(catch(|| self.pool.close(ClosingReason::Failed)).err());
                }
            }
            Ok(Err(error)) => self.pool.body_failed(Failure::Error(error)),
            Err(payload) => {
                self.panic = Some(payload);
                self.pool.close(ClosingReason::Failed);
            }
        }
        self.pool.report_panic(ended.dropped);
        Poll::Ready(())
    }

    /// What the pool has come to.
    ///
    /// A panic of the body outranks everything, as in `std::thread::scope`: the caller expects to unwind, and an error
    /// in its place would hide the bug. Failures go to the enclosing scope then.
    fn finish<T>(&mut self, value: Option<T>) -> Result<T, PoolError<E>> {
        self.step = Step::Done;
        if let Some(payload) = self.panic.take() {
            report_rest(&self.pool, self.enclosing.as_deref());
            payload.resume();
        }
        let mut is_cancellation = self.pool.drop_policies();
        if value.is_some() && !self.pool.has_failed() {
            // There is no error to ask it about. If its destructor panics, there is one.
            self.pool.report_panic(catch(|| drop(is_cancellation.take())).err());
        }
        match value {
            Some(value) if !self.pool.has_failed() => return Ok(value),
            value => self.pool.report_panic(catch(|| drop(value)).err()),
        }
        self.pool.name_stuck();
        let error = PoolError::new(self.pool.take_report(), is_cancellation.as_deref());
        if let Err(payload) = catch(|| drop(is_cancellation)) {
            let failure = TaskError::new(TaskInfo::of_body(self.call.1), Failure::Panic(payload));
            Scope::report_to(self.enclosing.as_deref(), failure);
        }
        Err(error)
    }
}

impl<E: Into<BoxError> + Send + 'static> Drop for DriverState<E> {
    /// The future was dropped halfway, the body with it. The tasks get the same closing as ever, carried on by the
    /// runtime; the enclosing scope waits for it, since it holds this pool's scope.
    fn drop(&mut self) {
        // The body was dropped first: see the order of the fields in `Drive`.
        self.pool.has_body.store(false, Ordering::Release);
        let closing = match std::mem::replace(&mut self.step, Step::Done) {
            Step::Unpolled => return self.pool.close(ClosingReason::Dropped),
            Step::Running => {
                self.pool.drop_run();
                Box::pin(close(Arc::clone(&self.pool)))
            }
            Step::Closing(closing) => {
                // A cause of the pool's own: the time of the task around is over for it.
                self.pool.report_panic(catch(|| self.pool.close(ClosingReason::Dropped)).err());
                closing
            }
            // An abort came before it could return what it has come to.
            Step::Joining(_) => {
                self.pool.report_panic(self.panic.take());
                return report_rest(&self.pool, self.enclosing.as_deref());
            }
            Step::Done => return,
        };
        self.pool.hand_over();
        self.pool.report_panic(self.panic.take());
        detach(closing, Arc::clone(&self.pool), self.enclosing.take());
    }
}

/// The closing of the pool around.
struct Signal {
    pool: Arc<dyn ErasedPool>,
    cancelled: Pin<Box<WaitForCancellationFutureOwned>>,
}

/// Listens to a token, unless it has been cancelled: what is begun then is cleanup work, and has its time.
fn listen(token: CancellationToken) -> Option<Pin<Box<WaitForCancellationFutureOwned>>> {
    (!token.is_cancelled()).then(|| Box::pin(token.cancelled_owned()))
}

/// The body of a pool.
#[pin_project]
pub(super) struct Body<T, F> {
    #[pin]
    future: Scoped<F>,
    /// What it has returned.
    value: Option<T>,
}

impl<T, F> Body<T, F> {
    pub(super) fn new(future: F) -> Self {
        Self { future: Scoped::outside(future), value: None }
    }

    /// A body that has returned already, for a pool that is run without one.
    pub(super) fn returned(value: T) -> Self {
        Self { future: Scoped::completed(), value: Some(value) }
    }
}

/// A body without its type, so that the driver is compiled once for each type of errors.
trait PollBody<E> {
    fn enter(self: Pin<&mut Self>, scope: Arc<Scope>);

    fn has_ended(&self) -> bool;

    /// Polls a body that has not ended, and keeps what it returns.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Completion<Result<(), E>>>;

    /// Drops a body that has not ended.
    fn abort(self: Pin<&mut Self>) -> Option<PanicPayload>;

    /// Lets go of the scope of a body that has ended.
    fn leave(self: Pin<&mut Self>);
}

impl<E, T, F: Future<Output = Result<T, E>>> PollBody<E> for Body<T, F> {
    fn enter(self: Pin<&mut Self>, scope: Arc<Scope>) {
        let future = self.project().future;
        if !future.has_ended() {
            future.place_pinned(Current { scope, key: None });
        }
    }

    fn has_ended(&self) -> bool {
        self.future.has_ended()
    }

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Completion<Result<(), E>>> {
        let this = self.project();
        let Completion { output, dropped } = ready!(this.future.poll(cx));
        let output = output.map(|returned| returned.map(|value| *this.value = Some(value)));
        Poll::Ready(Completion { output, dropped })
    }

    fn abort(self: Pin<&mut Self>) -> Option<PanicPayload> {
        self.project().future.abort()
    }

    fn leave(self: Pin<&mut Self>) {
        drop(self.project().future.take_scope());
    }
}
