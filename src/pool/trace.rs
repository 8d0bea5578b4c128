//! What a pool tells `tracing`, with the feature of that name; without it, nothing of this costs anything.
//!
//! A subscriber is somebody's code: nothing in here is called under a lock.

#[cfg(feature = "tracing")]
pub(super) use self::on::{SpanSource, TaskSpan, Trace, WaitWarning};

#[cfg(not(feature = "tracing"))]
pub(super) use self::off::{SpanSource, TaskSpan, Trace, WaitWarning};

#[cfg(feature = "tracing")]
mod on {
    use std::fmt::Display;
    use std::pin::Pin;
    use std::sync::{Arc, Mutex, OnceLock, PoisonError};
    use std::task::{Context, Poll};
    use std::time::Duration;

    use tokio::time::{Instant, Sleep};
    use tracing::{Level, Span, debug, error, error_span, event_enabled, warn};

    use super::super::options::OnFailure;
    use crate::error::{ClosingReason, Failure, PanicPayload, TaskError, TaskInfo, catch};

    /// How an error is shown.
    type TextOf<E> = fn(&E) -> String;

    /// The span of a pool that has a name, and how its errors are shown.
    pub(in crate::pool) struct Trace<E> {
        span: OnceLock<Span>,
        text: OnceLock<TextOf<E>>,
    }

    impl<E> Default for Trace<E> {
        fn default() -> Self {
            Self { span: OnceLock::new(), text: OnceLock::new() }
        }
    }

    impl<E> Trace<E> {
        /// The pool is opened or run, for which its errors must be `Display`.
        pub(in crate::pool) fn shows_errors(&self)
        where
            E: Display,
        {
            self.text.get_or_init(|| |error| error.to_string());
        }

        /// Records something in the span of the pool, or, without one, in whatever span this is called from. A
        /// subscriber that panics does not take the pool along.
        fn record(&self, record: impl FnOnce()) {
            drop(catch(|| match self.span.get() {
                // Caught twice: a second panic, as the span is left, would end the process.
                Some(span) => span.in_scope(|| drop(catch(record))),
                None => record(),
            }));
        }

        /// The pool runs. Its span is made here, since the span around it is that of whoever runs it.
        pub(in crate::pool) fn opened(&self, name: Option<&Arc<str>>) {
            if let Some(name) = name {
                // At the highest level, so that no filter takes the name away from a warning.
                let span = catch(|| error_span!(target: "aiodrive", "pool", name = &**name));
                self.span.get_or_init(|| span.unwrap_or_else(|_| Span::none()));
            }
            self.record(|| debug!(target: "aiodrive", "pool opened"));
        }

        /// The pool has begun to close.
        pub(in crate::pool) fn closing(&self, reason: &ClosingReason) {
            self.record(|| debug!(target: "aiodrive", %reason, "pool closing"));
        }

        /// A task or the body has failed.
        pub(in crate::pool) fn failed(&self, failure: &mut TaskError<E>, decision: OnFailure)
        where
            E: 'static,
        {
            self.task_failed(failure, self.text.get().copied(), decision);
        }

        /// Something nested has failed that has lost its owner.
        pub(in crate::pool) fn cleanup_failed(&self, failure: &mut TaskError, decision: OnFailure) {
            self.task_failed(failure, Some(|error| error.to_string()), decision);
        }

        /// The text is made only if somebody listens: the macros see to that. A failure that is kept is marked also if
        /// a subscriber panics: then stderr or the returned error has the failure, and no event.
        fn task_failed<F: 'static>(&self, failure: &mut TaskError<F>, text: Option<TextOf<F>>, decision: OnFailure) {
            let is_discarded = decision == OnFailure::Discard;
            let was_told = !is_discarded && failure.tell();
            self.record(|| {
                let (task, text) = (failure.task(), || text_of(failure.failure(), text));
                let (name, body, spawned_at) = (task.name(), task.is_body(), task.spawned_at());
                if is_discarded {
                    debug!(target: "aiodrive", task = name, body, %spawned_at, error = text(), "task failed, which is discarded");
                } else if was_told {
                    debug!(target: "aiodrive", task = name, body, %spawned_at, "task failed, as recorded before");
                } else {
                    error!(target: "aiodrive", task = name, body, %spawned_at, error = text(), "task failed");
                }
            });
        }

        /// A spawn came too late.
        pub(in crate::pool) fn refused(&self, task: &TaskInfo) {
            self.record(|| {
                let (name, spawned_at) = (task.name(), task.spawned_at());
                warn!(target: "aiodrive", task = name, %spawned_at, "the pool is closed: a task was dropped unpolled");
            });
        }

        /// A planned pool was cancelled or dropped.
        pub(in crate::pool) fn never_ran(&self, name: Option<&str>, tasks: usize) {
            if tasks > 0 {
                self.record(|| {
                    warn!(target: "aiodrive", pool = name, tasks, "planned tasks were dropped before they ran");
                });
            }
        }

        /// The future of the pool was dropped, and the runtime closes it.
        pub(in crate::pool) fn handed_over(&self) {
            self.record(|| debug!(target: "aiodrive", "pool handed over"));
        }

        /// The grace was over before these tasks were.
        pub(in crate::pool) fn overran(&self, tasks: &[TaskInfo]) {
            self.record(
                || warn!(target: "aiodrive", tasks = %listed_or_body(tasks), "the grace was over before these tasks were"),
            );
        }

        /// The pool has stopped waiting for these tasks.
        pub(in crate::pool) fn abandoned(&self, stuck: &[TaskInfo]) {
            self.record(|| warn!(target: "aiodrive", tasks = %listed_or_body(stuck), "pool gave up on tasks"));
        }

        /// The pool closes, and still waits for these tasks.
        fn waits(&self, tasks: &[TaskInfo]) {
            self.record(
                || warn!(target: "aiodrive", tasks = %listed_or_body(tasks), "closing pool still waits for tasks"),
            );
        }
    }

    impl<E> Drop for Trace<E> {
        /// The end of the span is told to the subscriber, in whoever drops the pool.
        fn drop(&mut self) {
            drop(catch(|| drop(self.span.take())));
        }
    }

    type SpanOf = dyn Fn(&TaskInfo) -> Span + Send + Sync;

    /// What gives each task of a pool its span. In a box, since few pools have one.
    #[derive(Default)]
    pub(in crate::pool) struct SpanSource(Option<Box<Mutex<Option<Arc<SpanOf>>>>>);

    impl SpanSource {
        pub(in crate::pool) fn new(span: impl Fn(&TaskInfo) -> Span + Send + Sync + 'static) -> Self {
            Self(Some(Box::new(Mutex::new(Some(Arc::new(span))))))
        }

        /// The span of a task, which is spawned here.
        pub(in crate::pool) fn span_of(&self, task: &TaskInfo) -> TaskSpan {
            let Some(source) = self.0.as_deref() else { return TaskSpan::default() };
            let source = source.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let Some(source) = source else { return TaskSpan::default() };
            let span = catch(|| source(task));
            // It may be the last to hold it.
            let span = catch(|| drop(source)).and(span);
            TaskSpan((!matches!(&span, Ok(span) if span.is_none())).then(|| Box::new(span)))
        }

        /// Lets go of the closure, which may hold a handle of the pool.
        pub(in crate::pool) fn close(&self) {
            let source =
                self.0.as_ref().and_then(|source| source.lock().unwrap_or_else(PoisonError::into_inner).take());
            drop(source);
        }
    }

    /// The span of a task, or with what the closure has panicked that was to give one. In a box, since few tasks have
    /// one.
    #[derive(Default)]
    pub(in crate::pool) struct TaskSpan(Option<Box<Result<Span, PanicPayload>>>);

    impl TaskSpan {
        /// Runs something in the span. A subscriber that panics does not take it along.
        pub(in crate::pool) fn in_scope<R>(&self, run: impl FnOnce() -> R) -> R {
            let Some(Ok(span)) = self.0.as_deref() else { return run() };
            let entered = catch(|| span.enter());
            let returned = catch(run);
            drop(catch(|| drop(entered)));
            returned.unwrap_or_else(|payload| payload.resume())
        }

        /// Closes the span. Gives what the closure has panicked with that was to give one.
        pub(in crate::pool) fn close(&mut self) -> Option<PanicPayload> {
            match *self.0.take()? {
                Ok(span) => drop(catch(|| drop(span))),
                Err(payload) => return Some(payload),
            }
            None
        }
    }

    impl Drop for TaskSpan {
        /// Of a task that never ran.
        fn drop(&mut self) {
            drop(self.close());
        }
    }

    /// What a failure says in one line. The text of an error is the user's code.
    fn text_of<E>(failure: &Failure<E>, text: Option<TextOf<E>>) -> String {
        let shown = match (failure, text) {
            (Failure::Error(error), Some(text)) => catch(|| text(error)),
            (Failure::Error(_), None) => Ok(String::from("an error")),
            (Failure::Panic(payload), _) => Ok(format!("panicked: {payload}")),
            (Failure::Cancelled, _) => Ok("cut off by its runtime shutting down".to_owned()),
            (Failure::Ended, _) => Ok("ended although it is essential".to_owned()),
        };
        shown.unwrap_or_else(|panic| format!("its text panicked: {panic}"))
    }

    fn listed(tasks: &[TaskInfo]) -> String {
        tasks.iter().map(TaskInfo::to_string).collect::<Vec<_>>().join(", ")
    }

    /// What is waited for and has no tasks is the body, or something that it or a task has left behind.
    fn listed_or_body(tasks: &[TaskInfo]) -> String {
        if tasks.is_empty() { "body".to_owned() } else { listed(tasks) }
    }

    /// Warns from time to time while a pool closes.
    #[derive(Default)]
    pub(in crate::pool) enum WaitWarning {
        /// Nothing was waited for yet.
        #[default]
        Idle,
        /// Until the next warning.
        Ticking(Pin<Box<Sleep>>),
        /// Nobody listens, or the runtime has no timers.
        Off,
    }

    impl WaitWarning {
        /// Warns if it is time for that; `cx` is woken when it is the next time.
        pub(in crate::pool) fn poll<E>(
            &mut self,
            cx: &mut Context<'_>,
            every: Duration,
            timer: impl FnOnce() -> Option<Sleep>,
            trace: &Trace<E>,
            tasks: impl Fn() -> Vec<TaskInfo>,
        ) {
            if matches!(self, Self::Idle) {
                // A subscriber may panic when it is asked.
                let is_heard = catch(|| event_enabled!(target: "aiodrive", Level::WARN)).unwrap_or(false);
                let timer = if is_heard { timer() } else { None };
                *self = timer.map_or(Self::Off, |timer| Self::Ticking(Box::pin(timer)));
            }
            let Self::Ticking(sleep) = self else { return };
            match catch(|| sleep.as_mut().poll(cx)) {
                Ok(Poll::Ready(())) => {}
                Ok(Poll::Pending) => return,
                // A runtime that has shut down.
                Err(_) => return *self = Self::Off,
            }
            trace.waits(&tasks());
            match Instant::now().checked_add(every) {
                // Woken at once if that is over already: the others have their turn first.
                Some(next) => sleep.as_mut().reset(next),
                None => return *self = Self::Off,
            }
            if catch(|| sleep.as_mut().poll(cx)).is_ok_and(|poll| poll.is_ready()) {
                cx.waker().wake_by_ref();
            }
        }
    }
}

#[cfg(not(feature = "tracing"))]
mod off {
    use std::marker::PhantomData;
    use std::sync::Arc;
    use std::task::Context;
    use std::time::Duration;

    use tokio::time::Sleep;

    use super::super::options::OnFailure;
    use crate::error::{ClosingReason, PanicPayload, TaskError, TaskInfo};

    /// Takes no room, and does nothing.
    pub(in crate::pool) struct Trace<E>(PhantomData<fn(&E)>);

    impl<E> Default for Trace<E> {
        fn default() -> Self {
            Self(PhantomData)
        }
    }

    impl<E> Trace<E> {
        pub(in crate::pool) fn shows_errors(&self) {}

        pub(in crate::pool) fn opened(&self, _: Option<&Arc<str>>) {}

        pub(in crate::pool) fn closing(&self, _: &ClosingReason) {}

        pub(in crate::pool) fn failed(&self, _: &mut TaskError<E>, _: OnFailure) {}

        pub(in crate::pool) fn cleanup_failed(&self, _: &mut TaskError, _: OnFailure) {}

        pub(in crate::pool) fn refused(&self, _: &TaskInfo) {}

        pub(in crate::pool) fn never_ran(&self, _: Option<&str>, _: usize) {}

        pub(in crate::pool) fn handed_over(&self) {}

        pub(in crate::pool) fn overran(&self, _: &[TaskInfo]) {}

        pub(in crate::pool) fn abandoned(&self, _: &[TaskInfo]) {}
    }

    /// The same.
    #[derive(Default)]
    pub(in crate::pool) struct SpanSource(());

    impl SpanSource {
        pub(in crate::pool) fn span_of(&self, _: &TaskInfo) -> TaskSpan {
            TaskSpan(())
        }

        pub(in crate::pool) fn close(&self) {}
    }

    /// The same.
    pub(in crate::pool) struct TaskSpan(());

    impl TaskSpan {
        pub(in crate::pool) fn in_scope<R>(&self, run: impl FnOnce() -> R) -> R {
            run()
        }

        pub(in crate::pool) fn close(&mut self) -> Option<PanicPayload> {
            None
        }
    }

    /// The same.
    #[derive(Default)]
    pub(in crate::pool) struct WaitWarning(());

    impl WaitWarning {
        pub(in crate::pool) fn poll<E>(
            &mut self,
            _: &mut Context<'_>,
            _: Duration,
            _: impl FnOnce() -> Option<Sleep>,
            _: &Trace<E>,
            _: impl Fn() -> Vec<TaskInfo>,
        ) {
        }
    }
}
