//! The steps by which a pool closes.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;

use super::shared::{Phase, Shared};
use super::tasks::{abort_all, poll_join};
use super::trace::WaitWarning;
use super::tree::tasks_of;
use crate::error::{BoxError, Failure, Report, TaskError, TaskInfo, catch};
use crate::scope::{ErasedPool, NodeState, Scope, Snapshot};

/// The closing of a pool. Who polls it is the driver, or, once that was dropped, the runtime.
pub(super) type Closing = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Signal, grace, abort, join: one depth after the other, from the highest to the lowest.
///
/// The body belongs to depth 0: from the abort of that on, who polls this polls the body no more, but drops it.
pub(super) async fn close<E: Send + 'static>(pool: Arc<Shared<E>>) {
    let _rest = AbortRest(&pool);
    let mut warning = WaitWarning::default();
    while let Some(depth) = pool.cancel_next_depth() {
        within(pool.options.grace, wait_empty(&pool, depth, &mut warning)).await;
        pool.abort(depth);
        let joined = wait_empty(&pool, depth, &mut warning);
        match pool.options.abandon_after {
            None => joined.await,
            Some(limit) if within(limit, joined).await.is_some() => {}
            Some(_) => pool.add_stuck(tasks_of(pool.abandon(depth))),
        }
        pool.remove(depth);
    }
}

/// If a runtime that shuts down drops the closing, everything that is left is aborted at once.
struct AbortRest<'a, E: Send + 'static>(&'a Shared<E>);

impl<E: Send + 'static> Drop for AbortRest<'_, E> {
    fn drop(&mut self) {
        self.0.abort_rest();
    }
}

/// Waits until nothing runs at a depth, and tokio has done with its tasks. Now and then a warning names what is left.
async fn wait_empty<E: Send + 'static>(pool: &Shared<E>, depth: i32, warning: &mut WaitWarning) {
    poll_fn(|cx| {
        let empty = pool.poll_empty(depth, cx);
        if empty.is_pending() {
            warning.poll(cx, pool.options.warn_every, &pool.trace, || tasks_of(pool.snapshot()));
        }
        empty
    })
    .await;
    let mut sets = pool.take_sets(depth);
    poll_fn(|cx| poll_join(&mut sets, cx)).await;
}

/// What a future returns, if it does so before a time is over. No time is none: the future is then polled once. A
/// runtime that has shut down has no time either: its timers panic.
async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    if limit.is_zero() {
        return poll_fn(|cx| Poll::Ready(value(future.as_mut().poll(cx)))).await;
    };
    let Some(deadline) = Instant::now().checked_add(limit) else { return Some(future.await) };
    let mut timeout = pin!(time::timeout_at(deadline, future));
    poll_fn(|cx| catch(|| timeout.as_mut().poll(cx).map(Result::ok)).unwrap_or(Poll::Ready(None))).await
}

fn value<T>(poll: Poll<T>) -> Option<T> {
    match poll {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// Goes on with the closing of a pool whose future was dropped, and reports to the enclosing scope what has failed.
///
/// What has no time to end by itself is aborted here, and does not wait for the runtime to take over.
pub(super) fn detach<E>(mut closing: Closing, pool: Arc<Shared<E>>, enclosing: Option<Arc<Scope>>)
where
    E: Into<BoxError> + Send + 'static,
{
    let Some(runtime) = pool.runtime.get().cloned() else { return };
    let report = ReportRest { pool, enclosing };
    let entered = runtime.enter();
    let closed = closing.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    drop(entered);
    if closed.is_pending() {
        // It holds the enclosing scope, and is not in a set of that, whose abort would end it.
        drop(runtime.spawn(async move {
            let _report = report;
            closing.await;
        }));
    }
}

/// What a pool without a caller has to report, when it is closed or cannot be.
struct ReportRest<E: Into<BoxError> + Send + 'static> {
    pool: Arc<Shared<E>>,
    enclosing: Option<Arc<Scope>>,
}

impl<E: Into<BoxError> + Send + 'static> Drop for ReportRest<E> {
    fn drop(&mut self) {
        self.pool.abort_rest();
        // What the pool has stopped waiting for needs no word: the enclosing scope waits for it still.
        let Report { failures, cleanup_failures, .. } = self.pool.take_report();
        let failures = failures.into_iter().map(TaskError::boxed).chain(cleanup_failures);
        failures.for_each(|failure| Scope::report_to(self.enclosing.as_deref(), failure));
    }
}

// ===== what a step does, under the lock =====

impl<E: 'static> Shared<E> {
    /// Cancels the token of the highest depth that is left, and says which depth that is. Without one, the pool ends.
    fn cancel_next_depth(&self) -> Option<i32> {
        let mut inner = self.lock();
        if inner.phase != Phase::Closing {
            return None;
        }
        let Some(depth) = inner.depths.highest() else {
            let held = inner.end();
            drop(inner);
            drop(held);
            return None;
        };
        let token = inner.depths.entry(depth).cancel();
        // What is above has been closed.
        self.refuse_from(i64::from(depth) + 1);
        let info = inner.body_info();
        drop(inner);
        // Its wakers may be somebody's, and panic: the other steps are taken all the same.
        if let Err(payload) = catch(|| token.iter().for_each(CancellationToken::cancel)) {
            let panicked = self.fail(TaskError::new(info, Failure::Panic(payload)));
            debug_assert!(panicked.is_none(), "a pool that closes has not returned");
        }
        Some(depth)
    }

    /// Ready when nothing runs at a depth. Otherwise the driver will be woken.
    fn poll_empty(&self, depth: i32, cx: &Context<'_>) -> Poll<()> {
        let waker = cx.waker().clone();
        let mut inner = self.lock();
        if inner.depths.get_mut(depth).is_none_or(|depth| depth.is_empty()) {
            return Poll::Ready(());
        }
        let replaced = inner.driver.replace(waker);
        drop(inner);
        drop(replaced);
        Poll::Pending
    }

    /// Aborts what is left at a depth, with the body from depth 0 on.
    fn abort(&self, depth: i32) {
        let mut inner = self.lock();
        self.refuse_from(depth.into());
        self.body_aborted.fetch_or(depth <= 0, Ordering::AcqRel);
        let sets = inner.depths.get_mut(depth).map(|depth| depth.abort());
        drop(inner);
        let mut sets = sets.unwrap_or_default();
        sets.iter_mut().for_each(abort_all);
        if let Some(depth) = self.lock().depths.get_mut(depth) {
            depth.keep_sets(sets);
        }
    }

    /// What is left of the sets of a depth at which nothing runs any more.
    fn take_sets(&self, depth: i32) -> Vec<JoinSet<()>> {
        self.lock().depths.get_mut(depth).map(|depth| depth.take_sets()).unwrap_or_default()
    }

    /// Lets go of a depth that is closed.
    fn remove(&self, depth: i32) {
        let removed = self.lock().depths.remove(depth);
        drop(removed);
    }

    /// Stops waiting for a depth. What is left of it is returned; it still ends when it can.
    fn abandon(&self, depth: i32) -> Snapshot {
        let mut left = Snapshot::new(NodeState::Closing);
        let mut inner = self.lock();
        inner.depths.abandon(depth, &mut left);
        inner.failures.get_or_insert_default();
        left
    }

    /// Names tasks for which the pool does not wait any more.
    fn add_stuck(&self, tasks: Vec<TaskInfo>) {
        self.trace.abandoned(&tasks);
        self.lock().failures.get_or_insert_default().push_stuck(tasks);
    }

    /// Aborts everything at once, since nobody goes through the steps any more.
    fn abort_rest(&self) {
        let mut inner = self.lock();
        if inner.phase != Phase::Closing {
            return;
        }
        self.refuse_from(i64::MIN);
        let (held, tokens, depths) = (inner.end(), inner.depths.cancel_all(), inner.depths.all());
        drop(inner);
        tokens.iter().for_each(|token| drop(catch(|| token.cancel())));
        depths.into_iter().for_each(|depth| self.abort(depth));
        drop(held);
    }
}
