//! The steps by which a pool closes.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::runtime::EnterGuard;
use tokio::task::JoinSet;
use tokio::time::{self, Instant, Sleep};
use tokio_util::sync::CancellationToken;

use super::depths::{Depth, Depths};
use super::shared::{Phase, Shared, Time};
use super::tasks::{Aborted, abort_all, poll_join};
use super::trace::WaitWarning;
use super::tree::{tasks_of, tasks_without_grace};
use crate::error::{BoxError, Report, TaskError, TaskInfo, catch};
use crate::scope::{Current, ErasedPool, NodeState, Scope, Snapshot, TaskClass, TaskKind};

/// The closing of a pool. Who polls it is the driver, or, once that was dropped, the runtime.
pub(super) type Closing = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Signal, grace, abort, join: one depth after the other, from the highest to the lowest.
///
/// The body belongs to depth 0: once that is aborted, the driver drops the body instead of polling it.
pub(super) async fn close<E: Send + 'static>(pool: Arc<Shared<E>>) {
    let mut warning = WaitWarning::default();
    pool.abort_watchers(TaskKind::Canceller);
    while let Some((depth, time)) = pool.cancel_next_depth() {
        wait_grace(&pool, depth, time, &mut warning).await;
        pool.abort_depth(depth);
        // The driver drops the body, if that is aborted, and goes on.
        poll_fn(|_| if pool.has_aborted_body() { Poll::Pending } else { Poll::Ready(()) }).await;
        let joined = wait_empty(&pool, &mut warning, |depths| depths.get_mut(depth));
        if !has_ended(&pool, joined).await {
            pool.add_stuck(tasks_of(pool.abandon(depth)));
        }
        pool.remove(depth);
    }
    pool.abort_watchers(TaskKind::Aborter);
    let joined = wait_empty(&pool, &mut warning, Depths::watchers_mut);
    if !has_ended(&pool, joined).await {
        pool.add_stuck(pool.abandon_watchers());
    }
    pool.end();
}

/// Waits for what was aborted, as long as the pool was told to.
async fn has_ended<E: Send + 'static>(pool: &Shared<E>, joined: impl Future<Output = ()>) -> bool {
    let Some(limit) = pool.options.abandon_after else {
        joined.await;
        return true;
    };
    within(pool, limit, joined).await.is_some()
}

/// Gives the tasks of a depth the time that they have, as long as they can use it.
async fn wait_grace<E: Send + 'static>(pool: &Shared<E>, depth: i32, time: Time, warning: &mut WaitWarning) {
    let ended = wait(pool, warning, |cx| pool.poll_grace(depth, cx));
    match time {
        Time::None => {}
        Time::Outer => ended.await,
        Time::Grace(grace) => {
            let is_over = within(pool, grace, ended).await.is_none();
            let mut inner = pool.lock();
            let left = if is_over || inner.is_grace_cut() { inner.left_at(depth) } else { None };
            drop(inner);
            pool.add_overrun(left);
        }
    }
}

/// Waits until nothing runs in what `find` gives, a depth or the watchers, and tokio has done with its tasks: invariant
/// 4 of [`shared`](super::shared).
async fn wait_empty<E: Send + 'static>(
    pool: &Shared<E>,
    warning: &mut WaitWarning,
    find: impl Fn(&mut Depths) -> Option<&mut Depth>,
) {
    let mut sets = wait(pool, warning, |cx| pool.poll_empty(cx, &find)).await;
    poll_fn(|cx| poll_join(&mut sets, cx)).await;
}

/// Waits for the tasks of a pool. Now and then a warning names those that are left.
async fn wait<T, E: Send + 'static>(
    pool: &Shared<E>,
    warning: &mut WaitWarning,
    poll: impl Fn(&mut Context<'_>) -> Poll<T>,
) -> T {
    poll_fn(|cx| {
        let polled = poll(cx);
        if polled.is_pending() {
            let every = pool.options.warn_every;
            let timer = || pool.timer(Instant::now().checked_add(every)?);
            warning.poll(cx, every, timer, &pool.trace, || tasks_of(pool.snapshot()));
        }
        polled
    })
    .await
}

/// What a future returns, if it does so before a time is over. If `limit` is zero, the future is polled once. A
/// runtime that has shut down, or has no timers, has no time left: it panics when it is asked for a timer.
async fn within<E, F: Future>(pool: &Shared<E>, limit: Duration, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let Some(deadline) = Instant::now().checked_add(limit) else { return Some(future.await) };
    let timer = if limit.is_zero() { None } else { pool.timer(deadline) };
    let mut timer = pin!(timer);
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        match timer.as_mut().as_pin_mut() {
            Some(timer) => catch(|| timer.poll(cx)).unwrap_or(Poll::Ready(())).map(|()| None),
            None => Poll::Ready(None),
        }
    })
    .await
}

/// Goes on with the closing of a pool whose future was dropped, and reports to the enclosing scope what has failed.
///
/// What has no time to end by itself is aborted here, and does not wait for the runtime to take over.
pub(super) fn detach<E>(mut closing: Closing, pool: Arc<Shared<E>>, enclosing: Option<Arc<Scope>>)
where
    E: Into<BoxError> + Send + 'static,
{
    let runtime = pool.runtime.get().expect("a pool that runs has its runtime").clone();
    if Current::is_aborted() {
        ErasedPool::abort(&*pool);
    }
    let report = ReportRest { pool, enclosing };
    let entered = report.pool.enter();
    let closed = closing.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    drop(entered);
    if closed.is_pending() {
        // It holds the enclosing scope, and is not in a set of that, whose abort would end it.
        let closing = async move {
            let _report = report;
            closing.await;
        };
        drop(catch(|| runtime.spawn(closing)));
    }
}

/// What a pool without a caller has to report, when it is closed or cannot be.
struct ReportRest<E: Into<BoxError> + Send + 'static> {
    pool: Arc<Shared<E>>,
    enclosing: Option<Arc<Scope>>,
}

impl<E: Into<BoxError> + Send + 'static> Drop for ReportRest<E> {
    /// If a runtime that shuts down has dropped the closing, everything that is left is aborted at once.
    fn drop(&mut self) {
        self.pool.abort_rest();
        report_rest(&self.pool, self.enclosing.as_deref());
    }
}

/// Reports to the enclosing scope what has failed in a pool that returns no error.
pub(super) fn report_rest<E: Into<BoxError> + 'static>(pool: &Shared<E>, enclosing: Option<&Scope>) {
    let is_cancellation = pool.drop_policies();
    pool.report_panic(catch(|| drop(is_cancellation)).err());
    // What the pool has stopped waiting for needs no word: the enclosing scope waits for it still.
    let Report { failures, cleanup_failures, .. } = pool.take_report();
    let failures = failures.into_iter().map(TaskError::boxed).chain(cleanup_failures);
    failures.for_each(|failure| Scope::report_to(enclosing, failure));
}

// ===== what a step does =====

impl<E> Shared<E> {
    /// Enters the runtime: whoever polls the pool may be outside of it. A thread that is ending cannot.
    fn enter(&self) -> Option<EnterGuard<'_>> {
        catch(|| Some(self.runtime.get()?.enter())).ok().flatten()
    }

    /// A timer of the runtime, if that has any, and has not shut down.
    fn timer(&self, deadline: Instant) -> Option<Sleep> {
        let _entered = self.enter();
        catch(|| time::sleep_until(deadline)).ok()
    }
}

impl<E: 'static> Shared<E> {
    /// Cancels the token of the highest depth that is left, and says which depth that is. Without one, the pool ends.
    ///
    /// What has no time is aborted before: it would otherwise hear of the request, and go on until the abort.
    fn cancel_next_depth(&self) -> Option<(i32, Time)> {
        let mut inner = self.lock();
        if inner.phase != Phase::Closing {
            return None;
        }
        let depth = inner.depths.highest()?;
        let time = inner.time(&self.options);
        let has_time = !matches!(time, Time::None);
        let cut_off = if inner.is_grace_cut() { inner.left_at(depth) } else { None };
        let (token, aborted) = match inner.depths.get_mut(depth) {
            Some(depth) => (depth.cancel(), depth.abort(|kind| !has_time || kind.has_no_grace())),
            None => (None, Vec::new()),
        };
        // What is above has been closed.
        self.refuse_from(i64::from(depth) + i64::from(has_time));
        self.body_aborted.fetch_or(!has_time && depth <= 0, Ordering::AcqRel);
        drop(inner);
        self.add_overrun(cut_off);
        self.abort_tasks(depth, aborted);
        // Its wakers may be somebody's, and panic: the other steps are taken all the same.
        self.report_panic(catch(|| token.iter().for_each(CancellationToken::cancel)).err());
        Some((depth, time))
    }

    /// Aborts tasks, then what is nested in them, and takes their sets back. Their depth refuses other tasks already, or
    /// aborts them as they come.
    fn abort_tasks(&self, depth: i32, tasks: Vec<Aborted>) {
        for (kind, mut sets) in tasks {
            sets.iter_mut().for_each(abort_all);
            let aborted = self.keep_aborted(TaskClass { depth, kind }, sets);
            aborted.into_iter().for_each(|scope| scope.abort_nested());
        }
    }

    /// Puts sets back that were aborted. Gives their scope, once no set of it is out: what is nested in it is to be told.
    pub(super) fn keep_aborted(&self, class: TaskClass, sets: Vec<JoinSet<()>>) -> Option<Arc<Scope>> {
        let mut inner = self.lock();
        inner.depths.tasks_mut(class)?.keep_sets(sets)
    }

    /// Ready when nothing runs at a depth that can use the time it has, or when no time is left. Otherwise the driver
    /// will be woken.
    fn poll_grace(&self, depth: i32, cx: &Context<'_>) -> Poll<()> {
        let waker = cx.waker().clone();
        let mut inner = self.lock();
        let has_time = !matches!(inner.time(&self.options), Time::None);
        let was_awaited = inner.closing.is_some();
        let all_slots_taken = self.options.limit.as_ref().is_some_and(|limit| inner.depths.slots() >= limit.tasks);
        let Some(tasks) = inner.depths.get_mut(depth).filter(|tasks| has_time && !tasks.is_empty()) else {
            return Poll::Ready(());
        };
        let has_body = depth == 0 && self.has_body.load(Ordering::Acquire);
        let deaf = if has_body { None } else { tasks.deaf(all_slots_taken, was_awaited) };
        let replaced = inner.driver.replace(waker);
        drop(inner);
        drop(replaced);
        let is_deaf = deaf.is_some_and(|scopes| !scopes.iter().any(|scope| scope.has_children()));
        if is_deaf { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Notes the tasks that a depth had left when its grace was over, with those of nested pools that have no grace of
    /// their own.
    fn add_overrun(&self, left: Option<Snapshot>) {
        let Some(left) = left else { return };
        let tasks = tasks_without_grace(left);
        self.trace.overran(&tasks);
        self.lock().overrun.extend(tasks);
    }

    /// Ready when nothing runs in what `find` gives, with the sets that are left. Otherwise the driver will be woken.
    fn poll_empty(
        &self,
        cx: &Context<'_>,
        find: impl FnOnce(&mut Depths) -> Option<&mut Depth>,
    ) -> Poll<Vec<JoinSet<()>>> {
        let waker = cx.waker().clone();
        let mut inner = self.lock();
        let found = find(&mut inner.depths);
        if found.as_ref().is_none_or(|depth| depth.is_empty()) {
            return Poll::Ready(found.map(Depth::take_sets).unwrap_or_default());
        }
        let replaced = inner.driver.replace(waker);
        drop(inner);
        drop(replaced);
        Poll::Pending
    }

    /// Aborts what is left at a depth, with the body from depth 0 on.
    fn abort_depth(&self, depth: i32) {
        let mut inner = self.lock();
        self.refuse_from(depth.into());
        self.body_aborted.fetch_or(depth <= 0, Ordering::AcqRel);
        let tasks = inner.depths.get_mut(depth).map(|depth| depth.abort(|_| true));
        drop(inner);
        self.abort_tasks(depth, tasks.unwrap_or_default());
    }

    /// Whether the body is still to be dropped.
    fn has_aborted_body(&self) -> bool {
        self.is_body_aborted() && self.has_body.load(Ordering::Acquire)
    }

    /// Aborts the watchers of a kind.
    fn abort_watchers(&self, kind: TaskKind) {
        let mut inner = self.lock();
        let tasks = inner.depths.watchers_mut().map(|watchers| (kind, watchers.entry(kind).abort()));
        drop(inner);
        self.abort_tasks(0, tasks.into_iter().collect());
    }

    /// Ends a pool of which nothing is left.
    fn end(&self) {
        let held = self.lock().end();
        self.let_go(held);
        self.has_changed();
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

    /// Stops waiting for the watchers, and names those that are left; or the pool itself, if only something nested in
    /// them is left.
    fn abandon_watchers(&self) -> Vec<TaskInfo> {
        let mut left = Snapshot::new(NodeState::Closing);
        let mut inner = self.lock();
        inner.depths.watchers_mut().into_iter().for_each(|watchers| watchers.snapshot(0, &mut left));
        let pool = inner.body_info();
        drop(inner);
        let tasks = tasks_of(left);
        if tasks.is_empty() { vec![pool] } else { tasks }
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
        depths.into_iter().for_each(|depth| self.abort_depth(depth));
        [TaskKind::Canceller, TaskKind::Aborter].into_iter().for_each(|kind| self.abort_watchers(kind));
        self.let_go(held);
        self.has_changed();
    }
}
