//! The tasks of one call of `race`, `try_all` or `wait_all`: a `JoinSet` that only its future touches.

use std::fmt;
use std::panic::Location;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;
use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinSet};

use crate::error::{Failure, PanicPayload, TaskError, TaskInfo};
use crate::inside::Inside;
use crate::scope::{Call, Cleanup, Owner, Scope};

/// The branches of one call, each of which yields an `I`.
///
/// Dropping a group aborts its branches. The runtime joins them, and the enclosing scope waits for that and is told
/// what has failed.
pub struct Group<I: Send + 'static> {
    branches: JoinSet<(usize, I)>,
    /// What has ended, in that order, with its index.
    ended: Vec<(usize, I)>,
    /// Given up when the group waits for what is left below it.
    scope: Option<Arc<Scope>>,
    enclosing: Option<Arc<Scope>>,
    settling: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    spawned_at: &'static Location<'static>,
    runtime: Option<Handle>,
    /// What an item has to report when its owner is gone.
    orphaned: fn(I) -> Option<Failure>,
}

impl<I: Send + 'static> Group<I> {
    #[track_caller]
    pub(crate) fn new(function: &'static str, cleanup: Option<Cleanup>, orphaned: fn(I) -> Option<Failure>) -> Self {
        let spawned_at = Location::caller();
        let scope = Scope::enter(Owner::Running(Call::new(function, spawned_at), cleanup));
        Self {
            branches: JoinSet::new(),
            ended: Vec::new(),
            enclosing: scope.parent().cloned(),
            scope: Some(scope),
            settling: None,
            spawned_at,
            runtime: Handle::try_current().ok(),
            orphaned,
        }
    }

    /// Spawns the next branch. `finish` makes an item of its output or its panic.
    ///
    /// # Panics
    ///
    /// Outside of a runtime, naming the line that made the group.
    pub(crate) fn spawn<F, M>(&mut self, future: F, finish: M)
    where
        F: Future<Output: Send> + Send + 'static,
        M: FnOnce(Result<F::Output, PanicPayload>) -> I + Send + 'static,
    {
        let (Some(runtime), Some(scope)) = (&self.runtime, &self.scope) else {
            panic!("futures were given to be run, at {}, outside of a tokio runtime", self.spawned_at);
        };
        let end = Some((self.branches.len(), finish, self.spawned_at));
        let branch = Branch { future: Inside::new(Arc::clone(scope), future), end };
        let task = self.branches.spawn_on(branch, runtime);
        if let (Some(call), Some(_)) = (scope.call(), &self.enclosing) {
            call.spawned(task);
        }
    }

    pub(crate) fn spawned_at(&self) -> &'static Location<'static> {
        self.spawned_at
    }

    pub(crate) fn abort(&mut self) {
        self.branches.abort_all();
    }

    /// The next branch to end, with its index; `None` when all have.
    ///
    /// A branch without an item was aborted, or cut off by its runtime, or its destructor panicked meanwhile.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<&(usize, I), Failure>>> {
        match ready!(self.branches.poll_join_next(cx)) {
            Some(Ok(ended)) => {
                self.ended.push(ended);
                Poll::Ready(self.ended.last().map(Ok))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(failure_of(error)))),
            None => Poll::Ready(None),
        }
    }

    /// Ready once nothing is left below the group, whose branches have all ended.
    pub(crate) fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(scope) = self.scope.take() {
            if scope.is_alone() {
                return Poll::Ready(());
            }
            self.settling = Some(Box::pin(scope.settled()));
        }
        self.settling.as_mut().map_or(Poll::Ready(()), |settling| settling.as_mut().poll(cx))
    }

    /// Takes what has ended, in that order.
    pub(crate) fn take_ended(&mut self) -> Vec<(usize, I)> {
        std::mem::take(&mut self.ended)
    }

    /// Puts something back, or in, that has ended.
    pub(crate) fn put_ended(&mut self, index: usize, item: I) {
        self.ended.push((index, item));
    }

    pub(crate) fn has_ended(&self) -> bool {
        !self.ended.is_empty()
    }

    /// Tells the enclosing pool of a panic that is nobody's result.
    pub(crate) fn report(&self, failure: Failure) {
        report(self.enclosing.as_ref(), self.spawned_at, failure);
    }

    /// Tells the enclosing pool what has failed, in an item that nobody will get.
    pub(crate) fn orphan(&self, item: I) {
        if let Some(failure) = (self.orphaned)(item) {
            self.report(failure);
        }
    }

    /// Passes on what was reported to a group whose future is gone.
    pub(crate) fn pass_on(&self, cleanup: &Cleanup) {
        let failures = cleanup.close();
        if let Some(enclosing) = &self.enclosing {
            failures.into_iter().for_each(|failure| enclosing.report(failure));
        }
    }
}

impl<I: Send + 'static> fmt::Debug for Group<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("branches", &self.branches.len()).finish()
    }
}

impl<I: Send + 'static> Drop for Group<I> {
    fn drop(&mut self) {
        for (_, item) in self.take_ended() {
            self.orphan(item);
        }
        let (Some(runtime), Some(scope), false) = (&self.runtime, self.scope.take(), self.branches.is_empty()) else {
            return;
        };
        let (mut branches, spawned_at, orphaned) = (std::mem::take(&mut self.branches), self.spawned_at, self.orphaned);
        branches.abort_all();
        scope.call().into_iter().for_each(Call::hand_over);
        drop(runtime.spawn(async move {
            while let Some(ended) = branches.join_next().await {
                let failure = match ended.map_err(failure_of) {
                    Ok((_, item)) => orphaned(item),
                    Err(failure @ Failure::Panic(_)) => Some(failure),
                    // Aborted, as it should be.
                    Err(_) => None,
                };
                if let Some(failure) = failure {
                    report(scope.parent(), spawned_at, failure);
                }
            }
        }));
    }
}

fn report(scope: Option<&Arc<Scope>>, spawned_at: &'static Location<'static>, failure: Failure) {
    if let Some(scope) = scope {
        scope.report(TaskError::new(TaskInfo::unnamed(spawned_at), failure));
    }
}

fn failure_of(error: JoinError) -> Failure {
    match error.try_into_panic() {
        Ok(payload) => Failure::Panic(PanicPayload::new(payload)),
        Err(_) => Failure::Cancelled,
    }
}

/// One future of a group as tokio runs it.
#[pin_project]
struct Branch<F, M> {
    #[pin]
    future: Inside<F>,
    /// Its index, what makes an item of its end, and where it was spawned.
    end: Option<(usize, M, &'static Location<'static>)>,
}

impl<F, M, I> Future for Branch<F, M>
where
    F: Future,
    M: FnOnce(Result<F::Output, PanicPayload>) -> I,
{
    type Output = (usize, I);

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let ended = ready!(this.future.as_mut().poll(cx));
        let (index, finish, spawned_at) = this.end.take().expect("tokio polls no task that has ended");
        if let Some(payload) = ended.dropped {
            report(this.future.take_scope().as_ref(), spawned_at, Failure::Panic(payload));
        }
        Poll::Ready((index, finish(ended.output)))
    }
}
