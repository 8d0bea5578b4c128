//! What is spawned: the user's future or closure, with what its pool must know when it ends.
//!
//! A [`Task`] is made at the call, placed in the scope of its depth when it is spawned, and ends in one of two ways: it
//! is polled to its end, or it is dropped before, by the `JoinSet` that aborts it or by its runtime. Both record what
//! has failed, tell whoever awaits it, take the task off the list, and then let go of its permit and its scope.

use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project::{pin_project, pinned_drop};

use super::handle::{HandleInner, OutputSink};
use super::options::{TaskSettings, Turn};
use super::shared::Shared;
use super::trace::TaskSpan;
use crate::error::{Failure, PanicPayload, TaskError, TaskInfo, TaskStopped, catch};
use crate::scope::{Completion, Current, Scope, Scoped, TaskName};

/// A future that a pool owns.
#[pin_project(PinnedDrop)]
pub(super) struct Task<F, S, E>
where
    F: Future,
    S: OutputSink<F::Output, E>,
    E: Send + 'static,
{
    /// Its turn under a limit, awaited before the first poll. Dropping it frees the slot.
    turn: Turn,
    #[pin]
    future: Scoped<F>,
    /// `None` once the task has ended.
    sink: Option<S>,
    info: TaskInfo,
    settings: TaskSettings,
    /// In which the future is polled and dropped.
    span: TaskSpan,
    /// Whether its first poll is over.
    begun: bool,
    error: PhantomData<fn() -> E>,
}

impl<F, S, E> Task<F, S, E>
where
    F: Future,
    S: OutputSink<F::Output, E>,
    E: Send + 'static,
{
    /// A task that is not spawned yet. If it is dropped as it is, nothing is recorded.
    pub(super) fn new(future: F, sink: S, info: TaskInfo, settings: TaskSettings, span: TaskSpan) -> Self {
        Self {
            turn: Turn::Free,
            future: Scoped::outside(future),
            sink: Some(sink),
            info,
            settings,
            span,
            begun: false,
            error: PhantomData,
        }
    }

    /// Gives the future of a task back that was not spawned.
    pub(super) fn into_future(mut self) -> F {
        self.future.take_future().expect("a task that was refused has not been polled")
    }

    pub(super) fn info(&self) -> &TaskInfo {
        &self.info
    }

    pub(super) fn handle(&self) -> Option<&Arc<HandleInner>> {
        self.sink.as_ref()?.handle()
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.turn.is_waiting()
    }

    /// What a place for it takes: how it is named, and its turn, if it counts towards a limit.
    pub(super) fn for_place(&mut self) -> (&TaskInfo, Option<&mut Turn>) {
        (&self.info, (!self.settings.unlimited).then_some(&mut self.turn))
    }

    /// Where it has been placed.
    pub(super) fn current(&self) -> Option<&Current> {
        self.future.current()
    }

    /// Has it run in a scope from now on, as one of its tasks. Gives what tokio is to call it, and who may abort it.
    pub(super) fn place(&mut self, current: Current) -> (TaskName, Option<Arc<HandleInner>>) {
        let handle = self.handle().cloned();
        handle.iter().for_each(|handle| handle.placed(&current.scope, current.key));
        self.future.place(current);
        (TaskName::of(&self.info), handle)
    }

    /// Ready when the task may run.
    pub(super) fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        poll_turn::<E>(&mut self.turn, self.future.current(), cx)
    }
}

impl<F, S, E> Future for Task<F, S, E>
where
    F: Future,
    S: OutputSink<F::Output, E>,
    E: Send + 'static,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        ready!(poll_turn::<E>(this.turn, this.future.current(), cx));
        let Some(sink) = this.sink else { return Poll::Ready(()) };
        sink.before_poll();
        let Poll::Ready(completion) = this.span.in_scope(|| this.future.as_mut().poll(cx)) else {
            sink.after_poll();
            if !std::mem::replace(this.begun, true) {
                let current = this.future.current().filter(|current| current.scope.class().kind.is_daemon());
                current.into_iter().for_each(|current| pool_of::<E>(&current.scope).daemon_began(current));
            }
            return Poll::Pending;
        };
        if let (Some(sink), Some(current)) = (this.sink.take(), this.future.take_current()) {
            let end = TaskEnd { current, info: this.info, settings: this.settings, turn: this.turn, span: this.span };
            end.complete::<_, _, E>(sink, completion);
        }
        Poll::Ready(())
    }
}

#[pinned_drop]
impl<F, S, E> PinnedDrop for Task<F, S, E>
where
    F: Future,
    S: OutputSink<F::Output, E>,
    E: Send + 'static,
{
    /// Ends a task that is dropped: by an abort, by its handle, or with its runtime.
    fn drop(self: Pin<&mut Self>) {
        let mut this = self.project();
        let Some(sink) = this.sink else { return };
        if this.future.current().is_none() {
            // It was never placed.
            return this.span.in_scope(|| this.future.set(Scoped::completed()));
        }
        sink.before_poll();
        let drop_panic = this.span.in_scope(|| this.future.as_mut().abort());
        let (Some(sink), Some(current)) = (this.sink.take(), this.future.take_current()) else { return };
        let end = TaskEnd { current, info: this.info, settings: this.settings, turn: this.turn, span: this.span };
        end.cut_off::<_, _, E>(sink, drop_panic);
    }
}

// ===== how a task ends =====

/// What is left of a task whose future is gone.
struct TaskEnd<'a> {
    current: Current,
    info: &'a TaskInfo,
    settings: &'a TaskSettings,
    turn: &'a mut Turn,
    span: &'a mut TaskSpan,
}

impl TaskEnd<'_> {
    /// Of a task that was polled to its end.
    fn complete<S, O, E>(self, mut sink: S, completion: Completion<O>)
    where
        S: OutputSink<O, E>,
        E: Send + 'static,
    {
        let Completion { output, dropped: drop_panic } = completion;
        let by_handle = sink.handle().is_some_and(|handle| handle.is_cancelled());
        let how = match (output.map(|output| sink.accept(output)), drop_panic) {
            (Ok(Ok(())), None) if self.must_go_on::<E>(by_handle) => {
                self.record::<E>(Failure::Ended);
                Ok(())
            }
            (Ok(Ok(())), None) => Ok(()),
            (output, drop_panic) => {
                let how = self.failed(output, drop_panic, by_handle);
                if let Err(payload) = catch(|| sink.discard()) {
                    self.record::<E>(Failure::Panic(payload));
                }
                Err(how)
            }
        };
        self.finish(sink, how);
    }

    /// Of a task that was dropped before its end.
    fn cut_off<S, O, E>(self, sink: S, drop_panic: Option<PanicPayload>)
    where
        S: OutputSink<O, E>,
        E: Send + 'static,
    {
        let how = if drop_panic.is_some() { TaskStopped::Panicked } else { TaskStopped::Cancelled };
        let by_handle = sink.handle().is_some_and(|handle| handle.is_cancelled());
        if !by_handle && self.pool::<E>().is_cut_off_by_runtime(&self.current) {
            self.record::<E>(Failure::Cancelled);
        }
        if let Some(payload) = drop_panic {
            self.record::<E>(Failure::Panic(payload));
        }
        self.finish(sink, Err(how));
    }

    /// Whether the task is essential, and ends too early, in whatever way.
    fn must_go_on<E: Send + 'static>(&self, by_handle: bool) -> bool {
        self.settings.essential && !by_handle && !self.pool::<E>().is_closed()
    }

    /// Records what has gone wrong, and says how that ended the task.
    #[cold]
    fn failed<E: Send + 'static>(
        &self,
        output: Result<Result<(), E>, PanicPayload>,
        drop_panic: Option<PanicPayload>,
        by_handle: bool,
    ) -> TaskStopped {
        let stopped =
            |error| if self.must_go_on::<E>(by_handle) { None } else { self.pool().stopped(error, by_handle) };
        let (failure, how) = match output {
            Ok(Ok(())) => (None, TaskStopped::Panicked),
            Ok(Err(error)) => match stopped(&error) {
                None => (Some(Failure::Error(error)), TaskStopped::Failed),
                Some(how) => match catch(|| drop(error)) {
                    Ok(()) => (None, how),
                    Err(payload) => (Some(Failure::Panic(payload)), TaskStopped::Panicked),
                },
            },
            Err(payload) => (Some(Failure::Panic(payload)), TaskStopped::Panicked),
        };
        let how = if drop_panic.is_some() { TaskStopped::Panicked } else { how };
        for failure in failure.into_iter().chain(drop_panic.map(Failure::Panic)) {
            self.record::<E>(failure);
        }
        how
    }

    fn record<E: Send + 'static>(&self, failure: Failure<E>) {
        let failure = TaskError::new(self.info.clone(), failure);
        let unreported = self.span.in_scope(|| self.current.run(|| self.pool().fail_task(failure, self.settings)));
        self.current.scope.report_outside(unreported);
    }

    /// Tells whoever awaits the task, and then the pool: invariant 3 of [`shared`](super::shared). A waker or a value
    /// that panics meanwhile is a failure, and so is the panic of a closure that was to give the task a span.
    fn finish<S, O, E>(self, sink: S, how: Result<(), TaskStopped>)
    where
        S: OutputSink<O, E>,
        E: Send + 'static,
    {
        if let Some(payload) = self.span.close() {
            self.record::<E>(Failure::Panic(payload));
        }
        if let Err(payload) = catch(|| sink.complete(how)) {
            self.record::<E>(Failure::Panic(payload));
        }
        // These wake the driver, and the next one in the queue.
        let woken = [catch(|| self.pool::<E>().task_ended(&self.current)), catch(|| *self.turn = Turn::Free)];
        for payload in woken.into_iter().filter_map(Result::err) {
            self.record::<E>(Failure::Panic(payload));
        }
    }

    fn pool<E: Send + 'static>(&self) -> &Shared<E> {
        pool_of(&self.current.scope)
    }
}

/// Ready when a turn has come, which the tree then shows. Not if the task is about to be aborted: a failure without a
/// grace lets nobody begin.
fn poll_turn<E: Send + 'static>(turn: &mut Turn, current: Option<&Current>, cx: &mut Context<'_>) -> Poll<()> {
    if turn.is_waiting() {
        ready!(turn.poll(cx));
        if let Some(current) = current {
            return pool_of::<E>(&current.scope).turn_came(current);
        }
    }
    Poll::Ready(())
}

/// The pool of a task, by the scope in which it runs.
pub(super) fn pool_of<E: Send + 'static>(scope: &Scope) -> &Shared<E> {
    scope.pool().expect("a task runs in the scope of its pool")
}
