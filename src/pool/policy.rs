//! What a failure does: it is recorded, and closes its pool, as the policies say.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::options::{OnFailure, Policies, TaskSettings};
use super::shared::Shared;
use crate::error::{
    BoxError, CancelledError, ClosingReason, Failure, IsCancellation, PanicPayload, Report, TaskError, TaskStopped,
    cancellation, catch,
};
use crate::scope::Scope;

impl<E: 'static> Shared<E> {
    /// How a task has stopped, if its error says no more than that, and this pool knows why: it is closing itself, the
    /// task was cancelled by its handle, or a task of this pool has failed. That is taken to be the one that the error
    /// speaks of.
    pub(super) fn stopped(&self, error: &E, by_handle: bool) -> Option<TaskStopped> {
        match self.stop_in(error)? {
            CancelledError::Cancelled => (by_handle || self.is_closed()).then_some(TaskStopped::Cancelled),
            CancelledError::Failed => {
                (self.failed.load(Ordering::Acquire) || self.is_closed()).then_some(TaskStopped::Failed)
            }
        }
    }

    /// Whether the error of the body says no more than that, and the pool knows why. A failure that was discarded does
    /// not count: the pool would have nothing to say in the place of the body's value.
    pub(super) fn body_only_stopped(&self, error: &E) -> bool {
        self.stop_in(error).is_some_and(|stop| self.is_closed() || stop == CancelledError::Failed && self.has_failed())
    }

    /// What an error says that says only that something was stopped.
    fn stop_in(&self, error: &E) -> Option<CancelledError> {
        self.ask(|policies| cancellation(error, policies.and_then(|hooks| hooks.is_cancellation.as_deref())))
    }

    /// Records a failure of a task as its policy says, or that of the pool. Returns what nobody here takes any more, to
    /// be reported further out.
    pub(super) fn fail_task(&self, mut failure: TaskError<E>, settings: &TaskSettings) -> Vec<TaskError> {
        self.failed.store(true, Ordering::Release);
        let info = failure.task().clone();
        let (decision, panicked) = match settings.on_failure {
            Some(decision) => (decision, None),
            None => self.ask_policy(&failure),
        };
        // An essential task that has ended closes the pool, whatever becomes of its failure.
        let ends_pool = settings.essential && !self.is_closed();
        let decision = if ends_pool && decision == OnFailure::Collect { OnFailure::Cancel } else { decision };
        self.trace.failed(&mut failure, decision);
        let (unreported, drop_panic) = match decision {
            OnFailure::Discard => (None, catch(|| drop(failure)).err()),
            kept => (self.record(failure, kept), None),
        };
        let closing = if ends_pool { catch(|| self.close(ClosingReason::Failed)).err() } else { None };
        let panics = [panicked, drop_panic, closing].into_iter().flatten();
        let panics = panics.filter_map(|payload| self.fail(TaskError::new(info.clone(), Failure::Panic(payload))));
        unreported.into_iter().chain(panics).collect()
    }

    /// What the pool's policy says. One that panics has failed as well, and is taken to say `Cancel`.
    fn ask_policy(&self, failure: &TaskError<E>) -> (OnFailure, Option<PanicPayload>) {
        let policy = |policies: Option<&Policies<E>>| Some(policies?.on_failure.as_ref()?(failure));
        match self.ask(|policies| catch(|| policy(policies).unwrap_or(OnFailure::Cancel))) {
            Ok(decision) => (decision, None),
            Err(payload) => (OnFailure::Cancel, Some(payload)),
        }
    }

    /// Calls `ask` with the closures; it has to catch their panics. If the pool has returned meanwhile, without waiting for
    /// this, the closures are dropped here. A panic of their destructors goes to stderr: the pool can return it no more,
    /// and has let go of the enclosing scope.
    pub(super) fn ask<R>(&self, ask: impl FnOnce(Option<&Policies<E>>) -> R) -> R {
        let policies = self.options.policies();
        let asked = ask(policies.as_deref());
        for payload in policies.and_then(Arc::into_inner).into_iter().flat_map(Policies::drop_each) {
            let info = self.lock().body_info();
            Scope::report_to(None, TaskError::new(info, Failure::Panic(payload)));
        }
        asked
    }

    /// Drops the closures that the pool was given, whose destructors may panic, but for the one that is needed still.
    pub(super) fn drop_policies(&self) -> Option<Box<IsCancellation<E>>> {
        self.report_panic(catch(|| self.options.spans.close()).err());
        // A task that the pool has stopped waiting for may be asking one of them.
        let mut policies = Arc::into_inner(self.options.take_policies()?)?;
        let is_cancellation = policies.is_cancellation.take();
        policies.drop_each().for_each(|payload| self.report_panic(Some(payload)));
        is_cancellation
    }

    /// Records a panic, if there was one, by the name of the body: of the body itself, or of a destructor or a waker that
    /// the pool has run.
    pub(super) fn report_panic(&self, panic: Option<PanicPayload>) {
        panic.into_iter().for_each(|payload| self.body_failed(Failure::Panic(payload)));
    }

    /// Records the panic of a waker, if there was one, of a pool that may have returned meanwhile.
    pub(super) fn report_waker(&self, panic: Option<PanicPayload>) {
        let Some(payload) = panic else { return };
        let info = self.lock().body_info();
        let unreported = self.fail(TaskError::new(info, Failure::Panic(payload)));
        unreported.into_iter().for_each(|failure| Scope::report_to(None, failure));
    }

    /// Records how the body has failed, or the pool itself, which has not returned.
    pub(super) fn body_failed(&self, failure: Failure<E>) {
        let info = self.lock().body_info();
        let unreported = self.fail(TaskError::new(info, failure));
        debug_assert!(unreported.is_none(), "the pool has not returned");
    }

    /// Records a failure that no policy is asked about. It closes the pool.
    fn fail(&self, mut failure: TaskError<E>) -> Option<TaskError> {
        self.trace.failed(&mut failure, OnFailure::Cancel);
        self.record(failure, OnFailure::Cancel)
    }

    /// Adds a failure to the list, or gives it back; closes the pool, if that is the decision.
    ///
    /// A waker that panics as the pool closes makes one more failure, by the same name: the task or body that has failed
    /// must not unwind before it is counted as ended.
    pub(super) fn record(&self, failure: TaskError<E>, decision: OnFailure) -> Option<TaskError> {
        let info = failure.task().clone();
        let mut inner = self.lock();
        let failures = inner.failures.get_or_insert_default();
        if let Some(boxed) = failures.returned() {
            drop(inner);
            return Some(boxed(failure));
        }
        failures.push(failure);
        if matches!(decision, OnFailure::Collect) {
            return None;
        }
        let payload = catch(|| self.begin_closing(inner, ClosingReason::Failed)).err()?;
        let mut panicked = TaskError::new(info, Failure::Panic(payload));
        self.trace.failed(&mut panicked, OnFailure::Collect);
        self.record(panicked, OnFailure::Collect)
    }

    /// Names the pool itself as stuck, if it has stopped waiting for something that has no task of its own.
    pub(super) fn name_stuck(&self) {
        let mut inner = self.lock();
        if !inner.depths.has_abandoned() {
            return;
        }
        let pool = inner.body_info();
        let failures = inner.failures.get_or_insert_default();
        if failures.has_no_stuck() {
            failures.push_stuck([pool]);
        }
    }

    /// Takes everything that the pool has to report. What fails from here on is given back.
    pub(super) fn take_report(&self) -> Report<E>
    where
        E: Into<BoxError>,
    {
        let mut inner = self.lock();
        // A pool that has a report has closed, and so has a reason.
        let reason = self.reason.get().cloned().unwrap_or(ClosingReason::Dropped);
        inner.failures.get_or_insert_default().report(self.options.name.clone(), reason)
    }
}
