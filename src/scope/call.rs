//! The tasks of a function: of a call of `race`, `try_all`, `wait_all`, `shield` or `with_exit`, and the children of a
//! `TaskGroup`. Also the names that tasks have in tokio, those of a pool too.
//!
//! A task yields its output through tokio's own `JoinHandle` or `JoinSet`, as an [`Unreported`]. What the tasks and the
//! future of the call have in common is the [`Call`]: a few counts, and how the tasks wake the future. A group needs
//! only its count and its abort.
//!
//! When a child of a group is aborted, tokio says no more than that one was. So the child leaves its name in the group:
//! there are as many names as such `JoinError`s.
//!
//! # Invariants
//!
//! 1. A task of a call drops its future, then lets go of its scope, then counts itself as ended. So the future of the
//!    call, when it finds that all have ended, holds the last `Arc` of the scope, if nothing is left below. A child of a
//!    group counts itself first: its count is only shown.
//! 2. A task decides before it counts itself as ended, and is given its place in the order before that. So when all have
//!    ended, all decisions are seen; and a task that is aborted comes after the one that had it aborted.
//! 3. The waker of the call is user code. It is woken last, for the first decision, for the last end and by an abort
//!    from outside, and a panic of it stays there.

use std::collections::VecDeque;
use std::panic::{Location, resume_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};

use pin_project::{pin_project, pinned_drop};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinError, JoinHandle, JoinSet};

use super::unreported::Owner;
use super::{Completion, Reporter, Scope, ScopeKind, Scoped, Unreported, boxed_in_debug, lock};
use crate::error::{BoxError, CancelledError, Failure, PanicPayload, TaskError, TaskInfo, cancellation, catch};

/// No branch has decided.
const NONE: usize = usize::MAX;

/// A call of a function that spawns tasks.
pub(crate) struct Call {
    /// The name of the function.
    pub(crate) function: &'static str,
    pub(crate) called_at: &'static Location<'static>,
    /// Whether its future is gone, and the runtime sees to the tasks.
    handed_over: AtomicBool,
    /// A task around the call is aborted.
    aborted: AtomicBool,
    /// All tasks have ended.
    joined: AtomicBool,
    /// How many of its tasks have not ended.
    alive: AtomicUsize,
    /// The lowest index of those that have decided, or [`NONE`].
    first: AtomicUsize,
    /// How many have decided.
    decisions: AtomicUsize,
    /// The future of the call waits here.
    changed: Notify,
}

impl Call {
    /// A call that has no tasks yet.
    pub(crate) fn new(function: &'static str, called_at: &'static Location<'static>) -> Arc<Self> {
        Arc::new(Self {
            function,
            called_at,
            handed_over: AtomicBool::new(false),
            aborted: AtomicBool::new(false),
            joined: AtomicBool::new(false),
            alive: AtomicUsize::new(0),
            first: AtomicUsize::new(NONE),
            decisions: AtomicUsize::new(0),
            changed: Notify::new(),
        })
    }

    /// How many of its tasks have not ended.
    pub(crate) fn alive(&self) -> usize {
        self.alive.load(Ordering::Acquire)
    }

    /// The lowest index of the branches that have decided so far.
    pub(crate) fn first(&self) -> Option<usize> {
        Some(self.first.load(Ordering::Acquire)).filter(|first| *first != NONE)
    }

    /// Notes that the future of the call is gone.
    pub(crate) fn hand_over(&self) {
        self.handed_over.store(true, Ordering::Relaxed);
    }

    /// Has the future of the call abort the tasks, which may be polled in place in a blocking call.
    ///
    /// Says whether they have been joined: then it is too late for the future to tell what they have left behind.
    pub(crate) fn abort(&self) -> bool {
        self.aborted.store(true, Ordering::SeqCst);
        drop(catch(|| self.changed.notify_one()));
        self.joined.load(Ordering::SeqCst)
    }

    /// All tasks have ended, and only what they have left behind is waited for. Says whether the call is aborted. Of
    /// this and an abort, one sees the other.
    pub(crate) fn joined(&self) -> bool {
        self.joined.store(true, Ordering::SeqCst);
        self.aborted.load(Ordering::SeqCst)
    }

    pub(crate) fn is_aborted(&self) -> bool {
        self.aborted.load(Ordering::Acquire)
    }

    /// Waits until a task around the call is aborted.
    pub(crate) async fn wait_aborted(self: Arc<Self>) {
        while !self.is_aborted() {
            self.changed.notified().await;
        }
    }

    /// Counts a task that is about to be spawned.
    pub(crate) fn task_began(&self) {
        self.alive.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the end of a task that wakes nobody by itself.
    fn child_ended(&self) {
        self.alive.fetch_sub(1, Ordering::Release);
    }

    /// Whether the future of the call is gone.
    pub(crate) fn is_handed_over(&self) -> bool {
        self.handed_over.load(Ordering::Relaxed)
    }

    /// Waits for the first decision, or until all have ended.
    pub(crate) async fn wait_decided(&self) -> Option<usize> {
        while self.first().is_none() && self.alive() > 0 && !self.is_aborted() {
            self.changed.notified().await;
        }
        self.first()
    }

    /// Waits until all have ended.
    pub(crate) async fn wait_ended(&self) {
        while self.alive() > 0 {
            self.changed.notified().await;
        }
    }

    /// A branch decides: invariant 2. Says how many have done so before, and whether that was none.
    fn decide(&self, index: usize) -> (usize, bool) {
        let order = self.decisions.fetch_add(1, Ordering::AcqRel);
        (order, self.first.fetch_min(index, Ordering::AcqRel) == NONE)
    }

    /// A task has ended: invariant 3.
    fn task_ended(&self, decided_first: bool) {
        if self.alive.fetch_sub(1, Ordering::AcqRel) == 1 || decided_first {
            drop(catch(|| self.changed.notify_one()));
        }
    }
}

// ===== a task =====

/// A task of a function as tokio runs it.
#[pin_project(PinnedDrop)]
pub(crate) struct OwnedTask<F: Future<Output: Send + 'static>, N: Ending<F::Output>> {
    #[pin]
    future: Scoped<F>,
    /// `None` once it has ended.
    ending: Option<N>,
}

/// What a task does at its end.
pub(crate) trait Ending<T> {
    type Owner: Owner + Send + 'static;

    /// The task, as a failure names it.
    fn task(&self) -> TaskInfo;

    /// Its future has ended like this, and is gone. If it was cut off, that is the panic of its destructor.
    fn ended(
        self,
        scope: Option<Arc<Scope>>,
        output: Result<T, PanicPayload>,
        is_cut_off: bool,
    ) -> Unreported<T, Self::Owner>;

    /// It was cut off without a word, and is gone.
    fn cut_off(self, scope: Option<Arc<Scope>>);
}

impl<F: Future<Output: Send + 'static>, N: Ending<F::Output>> OwnedTask<F, N> {
    /// One that is to be spawned in this scope.
    pub(crate) fn new(scope: Arc<Scope>, future: F, ending: N) -> Self {
        Self { future: Scoped::new(scope, future), ending: Some(ending) }
    }
}

impl<F: Future<Output: Send + 'static>, N: Ending<F::Output>> Future for OwnedTask<F, N> {
    type Output = Unreported<F::Output, N::Owner>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Completion { output, dropped } = ready!(this.future.as_mut().poll(cx));
        let (ending, scope) = (this.ending.take(), this.future.take_scope());
        let ending = ending.expect("a task that has ended is not polled");
        if let Some(payload) = dropped {
            Scope::report_to(scope.as_deref(), TaskError::new(ending.task(), Failure::Panic(payload)));
        }
        Poll::Ready(ending.ended(scope, output, false))
    }
}

#[pinned_drop]
impl<F: Future<Output: Send + 'static>, N: Ending<F::Output>> PinnedDrop for OwnedTask<F, N> {
    /// One that has not ended was aborted, or its runtime is shutting down. A panic of its destructor goes the way of an
    /// output: tokio gives it to whoever awaits the task, and drops it if nobody does.
    fn drop(self: Pin<&mut Self>) {
        let mut this = self.project();
        let Some(ending) = this.ending.take() else { return };
        match (this.future.as_mut().abort(), this.future.take_scope()) {
            (Some(payload), scope) => resume_unwind(Box::new(ending.ended(scope, Err(payload), true))),
            (None, scope) => ending.cut_off(scope),
        }
    }
}

// ===== the tasks of a call =====

/// What a function makes of the ends of its tasks.
#[expect(missing_debug_implementations, reason = "nobody gets hold of one: it is part of a sealed trait")]
pub struct Rules<T> {
    /// Whether the other tasks are aborted when one has ended like this; `None` if it was cut off.
    pub(crate) decides: fn(Option<&Result<T, PanicPayload>>) -> bool,
    /// The failure in an output that nobody takes.
    pub(crate) failure_of: fn(T) -> Option<Failure>,
}

/// What a task of a call does at its end.
struct BranchEnd<T> {
    index: usize,
    rules: Rules<T>,
    call: Arc<Call>,
    reporter: Arc<Reporter>,
}

/// What each task of a call is given.
pub(crate) struct Spawner {
    pub(crate) call: Arc<Call>,
    /// That of the call.
    pub(crate) scope: Arc<Scope>,
    pub(crate) reporter: Arc<Reporter>,
}

impl Spawner {
    /// For the call that is named in the reports, in a new scope of this kind.
    pub(crate) fn new(
        reporter: Reporter,
        enclosing: Option<Arc<Scope>>,
        kind: impl FnOnce(Arc<Call>) -> ScopeKind,
    ) -> Self {
        let call = Call::new(reporter.function, reporter.called_at);
        let scope = Scope::within(enclosing, kind(Arc::clone(&call)));
        Self { call, scope, reporter: Arc::new(reporter) }
    }

    /// Spawns a future as a task of the call.
    #[track_caller]
    pub(crate) fn spawn<F>(
        &self,
        runtime: &Handle,
        index: usize,
        rules: Rules<F::Output>,
        future: F,
    ) -> JoinHandle<Unreported<F::Output>>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.call.task_began();
        let end = BranchEnd { index, rules, call: Arc::clone(&self.call), reporter: Arc::clone(&self.reporter) };
        runtime.spawn(OwnedTask::new(Arc::clone(&self.scope), boxed_in_debug(future), end))
    }
}

impl<T: Send + 'static> Ending<T> for BranchEnd<T> {
    type Owner = Arc<Reporter>;

    fn task(&self) -> TaskInfo {
        self.reporter.branch(self.index)
    }

    /// Invariants 1 and 2.
    fn ended(self, scope: Option<Arc<Scope>>, output: Result<T, PanicPayload>, is_cut_off: bool) -> Unreported<T> {
        let Self { index, rules: Rules { decides, failure_of }, call, reporter } = self;
        let decides = decides(Some(&output).filter(|_| !is_cut_off));
        let (order, decided_first) = if decides { call.decide(index) } else { (0, false) };
        let output = Unreported::of_branch(output, failure_of, reporter, index, order);
        drop(scope);
        call.task_ended(decided_first);
        output
    }

    /// Invariants 1 and 2.
    fn cut_off(self, scope: Option<Arc<Scope>>) {
        let decided_first = (self.rules.decides)(None) && self.call.decide(self.index).1;
        drop(scope);
        self.call.task_ended(decided_first);
    }
}

// ===== the children of a group =====

/// What a group has in common with its children.
pub(crate) struct GroupInner {
    pub(crate) reporter: Reporter,
    /// The children that were cut off, and whose `JoinError`s have not come yet. The lock is held to push and pop only.
    cut_off: Mutex<VecDeque<(usize, TaskInfo)>>,
}

impl GroupInner {
    pub(crate) fn new(function: &'static str, called_at: &'static Location<'static>) -> Arc<Self> {
        Arc::new(Self { reporter: Reporter::new(function, called_at), cut_off: Mutex::default() })
    }
}

/// One of the children, as a failure names it.
pub(crate) struct GroupMember {
    pub(crate) shared: Arc<GroupInner>,
    pub(crate) index: usize,
    pub(crate) info: TaskInfo,
}

impl Owner for GroupMember {
    fn reporter(&self) -> &Reporter {
        &self.shared.reporter
    }

    fn task(&self, _: usize) -> TaskInfo {
        self.info.clone()
    }
}

impl<T: Send + 'static, E: Into<BoxError> + Send + 'static> Ending<Result<T, E>> for GroupMember {
    type Owner = Self;

    fn task(&self) -> TaskInfo {
        self.info.clone()
    }

    fn ended(
        self,
        scope: Option<Arc<Scope>>,
        output: Result<Result<T, E>, PanicPayload>,
        _: bool,
    ) -> GroupOutput<T, E> {
        let output = Unreported::new(output, failure_of, self);
        leave(scope);
        output
    }

    fn cut_off(self, scope: Option<Arc<Scope>>) {
        leave(scope);
        lock(&self.shared.cut_off).push_back((self.index, self.info));
    }
}

/// Lets go of the scope before anybody knows of the end: so whoever knows of all of them finds it gone, if nothing is
/// left below.
fn leave(scope: Option<Arc<Scope>>) {
    if let Some(call) = scope.as_ref().and_then(|scope| scope.call()) {
        call.child_ended();
    }
}

/// What tokio has of a child that has ended.
pub(crate) type GroupOutput<T, E> = Unreported<Result<T, E>, GroupMember>;

/// The failure in a result that nobody takes.
pub(crate) fn failure_of<T, E: Into<BoxError>>(output: Result<T, E>) -> Option<Failure> {
    output.err().map(|error| Failure::Error(error.into()))
}

/// How a child ended. Dropped before it was taken, it reports the failure in it.
pub(crate) enum GroupEnd<T, E> {
    Output(GroupOutput<T, E>),
    /// It was aborted, or cut off by its runtime.
    CutOff(usize, TaskInfo),
}

impl<T: 'static, E: 'static> GroupEnd<T, E> {
    /// What the `JoinSet` of the group gives.
    pub(crate) fn new(joined: Result<GroupOutput<T, E>, JoinError>, shared: &GroupInner) -> Self {
        let output = joined.map_or_else(Unreported::of_cut_off, Some);
        output.map_or_else(
            || {
                let cut_off = lock(&shared.cut_off).pop_front();
                let (index, info) = cut_off.expect("a child that is cut off leaves its name");
                Self::CutOff(index, info)
            },
            Self::Output,
        )
    }

    /// Its place among the children of the group.
    pub(crate) fn index(&self) -> usize {
        match self {
            Self::Output(output) => output.owner.index,
            Self::CutOff(index, _) => *index,
        }
    }

    /// Whether it has returned an error or panicked.
    pub(crate) fn is_failure(&self) -> bool {
        matches!(self, Self::Output(output) if !matches!(output.output, Some(Ok(Ok(_)))))
    }

    /// Whether it has returned an error that only says that something was stopped.
    pub(crate) fn is_stop(&self) -> bool {
        let Self::Output(Unreported { output: Some(Ok(Err(error))), .. }) = self else { return false };
        cancellation(error, None) == Some(CancelledError::Cancelled)
    }

    /// Takes it, so that it is reported no more.
    pub(crate) fn take(self) -> Result<T, TaskError<E>> {
        let output = match self {
            Self::Output(output) => output,
            Self::CutOff(_, info) => return Err(TaskError::new(info, Failure::Cancelled)),
        };
        let info = output.owner.info.clone();
        match output.take() {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(TaskError::new(info, Failure::Error(error))),
            Err(payload) => Err(TaskError::new(info, Failure::Panic(payload))),
        }
    }

    /// Drops it, and gives the panic of its destructor: for a value that nobody wants.
    pub(crate) fn discard(self) -> Option<TaskError> {
        let Self::Output(output) = self else { return None };
        let info = output.owner.info.clone();
        let payload = catch(|| drop(output.take())).err()?;
        Some(TaskError::new(info, Failure::Panic(payload)))
    }
}

/// Runs a closure's task, which its only poll ends.
pub(crate) fn poll_once<T>(task: impl Future<Output = T>) -> T {
    match pin!(task).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("a closure does not wait"),
    }
}

// ===== the names that tokio has of tasks =====

/// The name of a task as tokio has it, for tokio-console: with the feature `tracing` under `cfg(tokio_unstable)`, where
/// tokio has names. Elsewhere it costs nothing.
pub(crate) struct TaskName {
    #[cfg(all(tokio_unstable, feature = "tracing"))]
    name: Option<Arc<str>>,
}

/// Each spawns a task under its name, if it has one.
impl TaskName {
    #[track_caller]
    pub(crate) fn spawn<T, F>(&self, set: &mut JoinSet<T>, task: F, runtime: &Handle) -> AbortHandle
    where
        F: Future<Output = T> + Send + 'static,
        T: Send + 'static,
    {
        Self::spawned(self.builder(set).spawn_on(task, runtime))
    }

    #[track_caller]
    pub(crate) fn spawn_local<T, F>(&self, set: &mut JoinSet<T>, task: F) -> AbortHandle
    where
        F: Future<Output = T> + 'static,
        T: 'static,
    {
        Self::spawned(self.builder(set).spawn_local(task))
    }

    #[track_caller]
    pub(crate) fn spawn_blocking<T, F>(&self, set: &mut JoinSet<T>, task: F, runtime: &Handle) -> AbortHandle
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        Self::spawned(self.builder(set).spawn_blocking_on(task, runtime))
    }
}

#[cfg(all(tokio_unstable, feature = "tracing"))]
impl TaskName {
    pub(crate) fn of(task: &TaskInfo) -> Self {
        Self { name: task.shared_name() }
    }

    /// An empty name is for tokio, too, none.
    fn builder<'a, T: 'static>(&'a self, set: &'a mut JoinSet<T>) -> tokio::task::join_set::Builder<'a, T> {
        set.build_task().name(self.name.as_deref().unwrap_or_default())
    }

    /// Only a thread for blocking work can be refused.
    #[track_caller]
    fn spawned(task: std::io::Result<AbortHandle>) -> AbortHandle {
        task.expect("the OS can spawn a worker thread")
    }
}

#[cfg(not(all(tokio_unstable, feature = "tracing")))]
impl TaskName {
    pub(crate) fn of(_: &TaskInfo) -> Self {
        Self {}
    }

    fn builder<'a, T>(&self, set: &'a mut JoinSet<T>) -> &'a mut JoinSet<T> {
        set
    }

    fn spawned(task: AbortHandle) -> AbortHandle {
        task
    }
}
