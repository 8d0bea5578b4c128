//! A pool without its error type, as scopes and trees know it.

use std::any::{Any, type_name};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;

use tokio_util::sync::CancellationToken;

use super::on_failure::OnFailure;
use super::shared::Shared;
use crate::error::{ClosingReason, TaskError, catch};
use crate::scope::{ErasedPool, NodeState, Snapshot, TaskClass, TaskSnapshot};

impl<E: Send + 'static> ErasedPool for Shared<E> {
    fn report(&self, mut failure: TaskError) -> Option<TaskError> {
        let policies = self.options.policies();
        let policy = policies.as_ref().and_then(|policies| policies.on_cleanup_failure.as_ref());
        // A policy that panics, or a waker as the pool closes, has no say.
        let asked = policy.and_then(|policy| catch(|| policy(&failure)).ok());
        self.release(policies);
        match asked.unwrap_or(OnFailure::Collect) {
            OnFailure::Discard => {
                self.trace.cleanup_failed(&mut failure, OnFailure::Discard);
                drop(catch(|| drop(failure)));
                return None;
            }
            OnFailure::Cancel => drop(catch(|| self.close(ClosingReason::Failed))),
            OnFailure::Collect => {}
        }
        self.trace.cleanup_failed(&mut failure, OnFailure::Collect);
        self.lock().failures.get_or_insert_default().push_cleanup(failure)
    }

    fn has_time(&self) -> bool {
        match self.options.grace {
            Some(grace) => !grace.is_zero(),
            None => self.lock().has_outer_time,
        }
    }

    fn abort(&self) {
        self.aborted_around.store(true, Ordering::Release);
        drop(catch(|| self.abort_for(ClosingReason::parent_closing(None))));
    }

    fn closing_reason(&self) -> Option<ClosingReason> {
        self.lock().reason.clone()
    }

    fn token(&self, depth: i32) -> CancellationToken {
        let (token, cancelled) = match self.lock().depths.get_mut(depth) {
            Some(depth) => (depth.token(), depth.is_cancelled()),
            // It has closed.
            None => (CancellationToken::new(), true),
        };
        if cancelled {
            token.cancel();
        }
        token
    }

    fn on_empty(&self, class: TaskClass) {
        self.scope_ended.store(true, Ordering::Relaxed);
        let mut inner = self.lock();
        let unused = inner.depths.scope_ended(class);
        let driver = inner.driver.take();
        drop(inner);
        drop(unused);
        driver.into_iter().for_each(Waker::wake);
    }

    fn snapshot(&self) -> Snapshot {
        let inner = self.lock();
        let mut snapshot = Snapshot {
            name: self.options.name.clone(),
            reason: inner.reason.clone(),
            handed_over: inner.handed_over,
            has_grace: self.options.grace.is_some(),
            body: self.has_body.load(Ordering::Acquire).then(|| inner.body_info()),
            ..Snapshot::new(inner.phase.into())
        };
        snapshot.tasks.extend(inner.plans.iter().map(|plan| TaskSnapshot {
            info: plan.info().clone(),
            class: plan.class(),
            key: None,
            state: NodeState::Planned,
            limit: None,
        }));
        inner.depths.snapshot(&mut snapshot);
        let limit = self.options.limit.as_ref().map(|limit| limit.tasks);
        let queued = snapshot.tasks.iter_mut().filter(|task| task.state == NodeState::Queued);
        queued.for_each(|task| task.limit = limit);
        snapshot
    }

    fn error_type(&self) -> &'static str {
        type_name::<E>()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}
