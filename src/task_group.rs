//! Children whose results come as they complete.
//!
//! A [`TaskGroup`] is a [`JoinSet`] and a scope: the set has the children, which are [`OwnedTask`]s, and the scope has the
//! enclosing one wait for them. The rest of this file is what a `JoinSet` does not say: who was aborted, and whether
//! anything is left below the children.
//!
//! # Invariants
//!
//! 1. A group holds no scope: its children do. So a group that is kept for long, with results in it, keeps nobody
//!    waiting. The scope is made by the first child, ends with the last, and is made anew if another one comes.
//! 2. Whoever aborts lets go of the scope first, aborts the children, and then marks it: later children are in a new one.
//! 3. A failure is taken by whoever calls `next`, or it goes to the enclosing scope: see [`GroupEnd`].

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt::{self, Display};
use std::future::poll_fn;
use std::panic::Location;
use std::pin::{Pin, pin};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use tokio::task::JoinSet;
use tokio::task::coop::{consume_budget, has_budget_remaining};

use crate::error::{BoxError, TaskError, TaskInfo};
use crate::scope::{
    Call, Cleanup, Current, GroupEnd, GroupInner, GroupMember, GroupOutput, OwnedTask, Reporter, Scope, ScopeKind,
    TaskName, WeakCurrent, boxed_in_debug, poll_once,
};

/// Tasks whose results come as they complete.
///
/// It is a [`JoinSet`] that keeps the promises of a [`Pool`](crate::Pool):
///
/// - **Nothing outlives it.** [`next`](Self::next) returns `None` when all children have ended, with everything below
///   them. If the group is dropped before, its children are aborted, and the enclosing pool waits for them.
/// - **Nothing is lost.** Each child gives one item: its value; or its error, its panic or its abort as a [`TaskError`],
///   with the name of the child and the line that spawned it. What fails after the group was dropped is one of the
///   [cleanup failures](crate::PoolError::cleanup_failures) of the enclosing pool.
///
/// A failure stops no other child. The caller of `next` decides: it can call [`abort_all`](Self::abort_all) or
/// [`shutdown`](Self::shutdown), drop the group, or go on.
///
/// The children belong to the [scope](crate::docs#a-scope) in which [`new`](Self::new) is called: that of a pool, or of
/// a function of this crate. If that scope has ended, they belong to the one in which they are spawned. A group that is
/// moved out of its pool keeps the pool waiting until its children have ended, or the group is dropped.
///
/// A group can be a field of a struct. It runs on any tokio runtime; a pool around it is not needed.
///
/// # `TaskGroup`, `map`, `try_all` or `Pool`
///
/// [`map`](crate::map()) is shorter if there is one function and many items, and [`try_all`](crate::try_all()) if all
/// results are wanted at once. A [`Pool`](crate::Pool) is right for tasks that give no results, or that spawn others:
/// the children of a group are spawned by its owner only.
///
/// # Examples
///
/// ```
/// use aiodrive::TaskGroup;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let mut group: TaskGroup<u32> = TaskGroup::new();
/// for n in 0..10 {
///     group.spawn(async move { if n == 4 { Err("no answer".into()) } else { Ok(n) } });
/// }
/// let mut sum = 0;
/// while let Some(result) = group.next().await {
///     match result {
///         Ok(n) => sum += n,
///         Err(failed) => assert!(failed.to_string().ends_with("failed: no answer")),
///     }
/// }
/// assert_eq!(sum, 41);
/// # }
/// ```
///
/// What was found on the way is added, at most ten at a time:
///
/// ```
/// use aiodrive::{BoxError, TaskGroup};
///
/// async fn links(page: u32) -> Result<Vec<u32>, BoxError> {
///     Ok([2 * page, 2 * page + 1].into_iter().filter(|page| *page < 100).collect())
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), aiodrive::TaskError> {
/// let (mut found, mut seen, mut group) = (vec![1], 0, TaskGroup::new());
/// loop {
///     while group.len() < 10 {
///         let Some(page) = found.pop() else { break };
///         group.spawn(links(page));
///     }
///     let Some(page) = group.next().await else { break };
///     found.extend(page?);
///     seen += 1;
/// }
/// assert_eq!(seen, 99);
/// # Ok(())
/// # }
/// ```
#[must_use = "the tasks of a group are aborted when it is dropped"]
pub struct TaskGroup<T, E = BoxError> {
    tasks: JoinSet<GroupOutput<T, E>>,
    shared: Arc<GroupInner>,
    call: Arc<Call>,
    /// Where the group was made; `None` outside of everything.
    made_in: Option<WeakCurrent>,
    /// Of the children: invariant 1.
    scope: Weak<Scope>,
    /// Of children that were aborted, and that have not ended yet.
    aborted: Vec<Weak<Scope>>,
    /// Waits for the end of one of these scopes.
    emptied: Option<Signal>,
    /// Waits for an abort from outside.
    abort_signal: Option<Signal>,
    /// Whether there was one. Kept here, since `abort_all` makes a new call.
    is_aborted: bool,
    /// What has ended, and was not taken yet: by a `shutdown` that was dropped.
    kept: VecDeque<GroupEnd<T, E>>,
    /// Where it is put what fails below the children without an owner, if that does not go further out.
    cleanup: Option<Cleanup>,
}

type Signal = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

/// Nothing of the user's is pinned in it.
impl<T, E> Unpin for TaskGroup<T, E> {}

impl<T, E> TaskGroup<T, E>
where
    T: Send + 'static,
    E: Into<BoxError> + Display + Send + 'static,
{
    /// A group with no children.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::TaskGroup;
    ///
    /// let group: TaskGroup<u32> = TaskGroup::new(); // needs no runtime
    /// assert!(group.is_empty());
    /// ```
    #[track_caller]
    pub fn new() -> Self {
        Self::named("TaskGroup")
    }

    /// One that is the inside of this function.
    #[track_caller]
    pub(crate) fn named(function: &'static str) -> Self {
        Self::within(WeakCurrent::get(), function, Location::caller())
    }

    /// The same, made in this scope and by this line.
    fn within(made_in: Option<WeakCurrent>, function: &'static str, called_at: &'static Location<'static>) -> Self {
        Self {
            tasks: JoinSet::new(),
            shared: GroupInner::new(function, called_at),
            call: Call::new(function, called_at),
            made_in,
            scope: Weak::new(),
            aborted: Vec::new(),
            emptied: None,
            abort_signal: None,
            is_aborted: false,
            kept: VecDeque::new(),
            cleanup: None,
        }
    }

    /// Spawns a child, whose result [`next`](Self::next) gives.
    ///
    /// It runs from now on, whether or not `next` is called.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::TaskGroup;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let mut group: TaskGroup<&str> = TaskGroup::new();
    /// group.spawn(async { Ok("done") });
    /// assert_eq!(group.next().await.unwrap().unwrap(), "done");
    /// # }
    /// ```
    #[track_caller]
    pub fn spawn<F>(&mut self, task: F)
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        self.add(0, TaskInfo::of_task(None), task);
    }

    /// Runs a closure on the runtime's threads for blocking work, as a child.
    ///
    /// It can be aborted only before it has begun: see
    /// [`spawn_blocking`](tokio::task::spawn_blocking).
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::TaskGroup;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let mut group: TaskGroup<Vec<u8>, std::io::Error> = TaskGroup::new();
    /// group.spawn_blocking(|| std::fs::read("Cargo.toml"));
    /// assert!(!group.next().await.unwrap().unwrap().is_empty());
    /// # }
    /// ```
    #[track_caller]
    pub fn spawn_blocking<C>(&mut self, task: C)
    where
        C: FnOnce() -> Result<T, E> + Send + 'static,
    {
        self.build_task().spawn_blocking(task);
    }

    /// Sets up a child with a name.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::TaskGroup;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let mut group: TaskGroup<u32> = TaskGroup::new();
    /// group.build_task().name("page 1").spawn(async { Err("connection refused".into()) });
    /// let failed = group.next().await.unwrap().unwrap_err();
    /// assert_eq!(failed.task().name(), Some("page 1"));
    /// # }
    /// ```
    pub fn build_task(&mut self) -> GroupTaskBuilder<'_, T, E> {
        GroupTaskBuilder { group: self, name: None }
    }

    /// The result of the next child that completes; `None` when there is no child any more, and everything below them
    /// has ended, too.
    ///
    /// Each child gives one item. Its error, its panic or its abort is an `Err`, and stops no other child. After
    /// `None`, children can be spawned again.
    ///
    /// # Fairness
    ///
    /// Children come in the order in which they have completed. What is ready at once spends the task's
    /// [budget](tokio::task::coop), so that no neighbour starves.
    ///
    /// # Errors
    ///
    /// An item is an error if its child has returned one, has panicked or was aborted.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe. If another branch of a `tokio::select!` completes first, it is guaranteed that no item
    /// was taken.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::future::pending;
    /// use std::time::Duration;
    /// use aiodrive::{Failure, TaskGroup};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let mut group: TaskGroup<u32> = TaskGroup::new();
    /// group.spawn(async { Ok(1) });
    /// group.spawn(async { panic!("a bug") });
    /// group.spawn(pending());
    ///
    /// assert_eq!(group.next().await.unwrap().unwrap(), 1);
    /// let failed = group.next().await.unwrap().unwrap_err();
    /// assert!(matches!(failed.failure(), Failure::Panic(_)));
    ///
    /// let none = tokio::time::timeout(Duration::from_secs(1), group.next()).await;
    /// assert!(none.is_err());
    /// group.abort_all();
    /// let aborted = group.next().await.unwrap().unwrap_err();
    /// assert!(matches!(aborted.failure(), Failure::Cancelled));
    /// assert!(group.next().await.is_none());
    /// # }
    /// ```
    pub async fn next(&mut self) -> Option<Result<T, TaskError<E>>> {
        poll_fn(|cx| self.poll_ended(cx)).await.map(GroupEnd::take)
    }

    /// How many children there are that [`next`](Self::next) has not given yet: those that run, and those that have
    /// ended.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::TaskGroup;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let mut group: TaskGroup<()> = TaskGroup::new();
    /// group.spawn(async { Ok(()) });
    /// tokio::task::yield_now().await;
    /// assert_eq!(group.len(), 1);
    /// # }
    /// ```
    #[must_use]
    pub fn len(&self) -> usize {
        self.count()
    }

    /// Whether there are none: see [`len`](Self::len).
    ///
    /// What the children have left behind may still be running; [`next`](Self::next) waits for it.
    ///
    /// # Examples
    ///
    /// ```
    /// let group: aiodrive::TaskGroup<()> = aiodrive::TaskGroup::new();
    /// assert!(group.is_empty());
    /// ```
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Aborts all children, and everything below them.
    ///
    /// They stay in the group until [`next`](Self::next) has given them: as [`Failure::Cancelled`](crate::Failure), or
    /// with their own result if they ended first. Children that are spawned later are not aborted.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::{Failure, TaskGroup};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let mut group: TaskGroup<()> = TaskGroup::new();
    /// group.build_task().name("upload").spawn(std::future::pending());
    /// group.abort_all();
    /// let aborted = group.next().await.unwrap().unwrap_err();
    /// assert_eq!(aborted.task().name(), Some("upload"));
    /// assert!(matches!(aborted.failure(), Failure::Cancelled));
    /// # }
    /// ```
    pub fn abort_all(&mut self) {
        let scope = self.scope.upgrade();
        if scope.is_some() {
            self.aborted.retain(|scope| scope.strong_count() > 0);
            self.aborted.push(std::mem::take(&mut self.scope));
            self.call = Call::new(self.call.function, self.call.called_at);
        }
        self.abort_signal = None;
        self.tasks.abort_all();
        scope.iter().for_each(|scope| scope.abort_nested());
    }

    /// Aborts all children, waits until they have ended, with everything below them, and gives the errors and panics
    /// that [`next`](Self::next) has not given.
    ///
    /// An aborted child is no error here, nor is an error of it that only says that something was stopped. Values are
    /// dropped.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe. If another branch of a `tokio::select!` completes first, it is guaranteed that no
    /// failure is lost: `next` gives it, and so does another `shutdown`.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::TaskGroup;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let mut group: TaskGroup<u32> = TaskGroup::new();
    /// group.spawn(async { Ok(1) });
    /// group.spawn(async { Err("disk full".into()) });
    /// group.spawn(std::future::pending());
    /// tokio::task::yield_now().await;
    ///
    /// let failures = group.shutdown().await;
    /// assert_eq!(failures.len(), 1);
    /// assert!(failures[0].to_string().ends_with("failed: disk full"));
    /// # }
    /// ```
    pub async fn shutdown(&mut self) -> Vec<TaskError<E>> {
        self.is_aborted |= self.call.is_aborted();
        let was_aborted = self.is_aborted;
        for kept in std::mem::take(&mut self.kept) {
            self.keep_failure(kept, was_aborted);
        }
        // Those that have ended before. This spends no budget by itself.
        while let Some(joined) = self.tasks.try_join_next() {
            self.keep_failure(GroupEnd::new(joined, &self.shared), was_aborted);
            consume_budget().await;
        }
        self.abort_all();
        while let Some(ended) = poll_fn(|cx| self.poll_joined(cx)).await {
            self.keep_failure(ended, true);
        }
        self.kept.drain(..).filter_map(|failed| failed.take().err()).collect()
    }

    /// Keeps a failure, and drops anything else. A child that was aborted may say that something in it has heard of
    /// that.
    fn keep_failure(&mut self, ended: GroupEnd<T, E>, was_aborted: bool) {
        if ended.is_failure() && !(was_aborted && ended.is_stop()) {
            self.kept.push_back(ended);
        } else if let Some(panicked) = ended.discard() {
            self.report_cleanup(panicked);
        }
    }

    /// Keeps a result: it is given after those kept before it, and before all others.
    pub(crate) fn keep(&mut self, ended: GroupEnd<T, E>) {
        self.kept.push_back(ended);
    }

    /// Puts back what was given last.
    pub(crate) fn put_back(&mut self, ended: GroupEnd<T, E>) {
        self.kept.push_front(ended);
    }

    /// Collects what fails below the children that are spawned from now on and has no owner: it goes no further out.
    pub(crate) fn collect_cleanup(&mut self) -> Cleanup {
        self.cleanup.insert(Cleanup::new()).clone()
    }

    /// Passes on what is nobody's failure.
    fn report_cleanup(&self, failure: TaskError) {
        let refused = match &self.cleanup {
            Some(cleanup) => cleanup.push(failure),
            None => Some(failure),
        };
        if let Some(failure) = refused {
            Scope::report_to(self.enclosing().as_deref(), failure);
        }
    }

    /// Reports in the name of the function.
    pub(crate) fn reporter(&self) -> &Reporter {
        &self.shared.reporter
    }

    /// Whether the children were aborted because a task around this one was.
    pub(crate) fn is_aborted(&self) -> bool {
        self.is_aborted
    }

    /// Leaves all children to the enclosing scope, as a drop does; this group then waits for no more than their end.
    pub(crate) fn start_over(&mut self) {
        let mut successor = Self::within(self.made_in.clone(), self.call.function, self.call.called_at);
        successor.aborted.clone_from(&self.aborted);
        successor.emptied = self.emptied.take();
        successor.aborted.push(self.scope.clone());
        *self = successor;
    }

    /// Spawns a child that has this index.
    #[track_caller]
    pub(crate) fn add<F>(&mut self, index: usize, info: TaskInfo, task: F)
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let runtime = self.shared.reporter.runtime("used");
        let name = TaskName::of(&info);
        let child = self.child(index, info, boxed_in_debug(task));
        name.spawn(&mut self.tasks, child, &runtime);
    }

    fn child<F>(&mut self, index: usize, info: TaskInfo, task: F) -> OwnedTask<F, GroupMember>
    where
        F: Future<Output = Result<T, E>>,
    {
        let scope = self.scope();
        self.call.task_began();
        OwnedTask::new(scope, task, GroupMember { shared: Arc::clone(&self.shared), index, info })
    }

    /// The scope of the children: invariant 1.
    fn scope(&mut self) -> Arc<Scope> {
        if let Some(scope) = self.scope.upgrade() {
            return scope;
        }
        if self.made_in.as_ref().is_some_and(WeakCurrent::has_ended) {
            self.made_in = WeakCurrent::get();
        }
        if self.call.is_aborted() {
            // That was for children which have ended.
            self.call = Call::new(self.call.function, self.call.called_at);
            self.abort_signal = None;
        }
        // The task that has made the group is aborted, and not one that only uses it in a destructor.
        if Current::is_aborted() && self.made_in.as_ref().is_some_and(WeakCurrent::is_here) {
            self.call.abort();
        }
        let kind = ScopeKind::Group(Arc::clone(&self.call), self.cleanup.clone());
        // If the enclosing one is aborted, that aborts the call.
        let scope = Scope::within_task(self.enclosing(), kind, |_| self.made_in.as_ref()?.key);
        self.scope = Arc::downgrade(&scope);
        scope
    }

    /// The next child that has ended, or `None` when nothing is left below.
    pub(crate) fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<Option<GroupEnd<T, E>>> {
        match self.kept.pop_front() {
            Some(kept) => Poll::Ready(Some(kept)),
            None => self.poll_joined(cx),
        }
    }

    fn poll_joined(&mut self, cx: &mut Context<'_>) -> Poll<Option<GroupEnd<T, E>>> {
        // Without budget, a set takes a child out, and puts it back behind the others.
        if !has_budget_remaining() {
            ready!(pin!(consume_budget()).poll(cx));
        }
        match self.tasks.poll_join_next(cx) {
            Poll::Ready(Some(joined)) => Poll::Ready(Some(GroupEnd::new(joined, &self.shared))),
            Poll::Ready(None) if self.poll_emptied(cx).is_ready() => Poll::Ready(None),
            Poll::Ready(None) | Poll::Pending => {
                self.poll_abort(cx);
                Poll::Pending
            }
        }
    }

    /// Waits until nothing is left below the children, which have ended.
    fn poll_emptied(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(emptied) = &mut self.emptied {
                ready!(emptied.as_mut().poll(cx));
                self.emptied = None;
            }
            let Some(scope) = self.scopes().next() else { return Poll::Ready(()) };
            self.emptied = Some(Box::pin(scope.wait_empty()));
        }
    }

    /// Passes an abort from outside on, for which nobody drops this group: it is polled in place in a blocking call.
    fn poll_abort(&mut self, cx: &mut Context<'_>) {
        let signal = self.abort_signal.get_or_insert_with(|| Box::pin(Arc::clone(&self.call).wait_aborted()));
        if signal.as_mut().poll(cx).is_ready() {
            self.is_aborted = true;
            self.abort_all();
        }
    }
}

impl<T, E> TaskGroup<T, E> {
    fn count(&self) -> usize {
        self.tasks.len() + self.kept.len()
    }

    /// The scope in which the group was made; if that has ended, the one that this is called from.
    fn enclosing(&self) -> Option<Arc<Scope>> {
        self.made_in.as_ref()?.scope()
    }

    /// Those that have not ended.
    fn scopes(&self) -> impl Iterator<Item = Arc<Scope>> {
        self.aborted.iter().chain([&self.scope]).filter_map(Weak::upgrade)
    }
}

impl<T, E> Drop for TaskGroup<T, E> {
    /// Invariants 2 and 3.
    fn drop(&mut self) {
        self.shared.reporter.hand_over(self.enclosing());
        let scopes: Vec<_> = self.scopes().collect();
        for scope in &scopes {
            scope.call().into_iter().for_each(|call| call.hand_over());
        }
        // A set that is dropped aborts its tasks.
        drop(std::mem::take(&mut self.tasks));
        scopes.iter().for_each(|scope| scope.abort_nested());
        for failure in self.cleanup.iter().flat_map(Cleanup::close) {
            self.shared.reporter.pass_on(failure);
        }
    }
}

impl<T, E> Default for TaskGroup<T, E>
where
    T: Send + 'static,
    E: Into<BoxError> + Display + Send + 'static,
{
    #[track_caller]
    fn default() -> Self {
        Self::new()
    }
}

impl<T, E> fmt::Debug for TaskGroup<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskGroup").field("len", &self.count()).finish()
    }
}

/// Gives what [`next`](TaskGroup::next) does.
#[cfg(feature = "stream")]
impl<T, E> futures_core::Stream for TaskGroup<T, E>
where
    T: Send + 'static,
    E: Into<BoxError> + Display + Send + 'static,
{
    type Item = Result<T, TaskError<E>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_ended(cx).map(|ended| ended.map(GroupEnd::take))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.len(), None)
    }
}

/// Sets up a child of a [`TaskGroup`]; made by [`TaskGroup::build_task`].
///
/// # Examples
///
/// ```
/// use aiodrive::TaskGroup;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let mut group: TaskGroup<u32> = TaskGroup::new();
/// for part in 0..3 {
///     group.build_task().name(format!("part {part}")).spawn(async move { Ok(part) });
/// }
/// assert_eq!(group.len(), 3);
/// # }
/// ```
#[must_use = "a builder does nothing until one of its spawning methods is called"]
pub struct GroupTaskBuilder<'a, T, E = BoxError> {
    group: &'a mut TaskGroup<T, E>,
    name: Option<Arc<str>>,
}

impl<T, E> GroupTaskBuilder<'_, T, E>
where
    T: Send + 'static,
    E: Into<BoxError> + Display + Send + 'static,
{
    /// A name, by which failures know the child.
    ///
    /// # Examples
    ///
    /// See [`TaskGroup::build_task`].
    pub fn name(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.name = Some(Arc::from(name.into()));
        self
    }

    /// Spawns the child; see [`TaskGroup::spawn`].
    ///
    /// # Panics
    ///
    /// See [`TaskGroup::spawn`].
    ///
    /// # Examples
    ///
    /// See [`TaskGroup::build_task`].
    #[track_caller]
    pub fn spawn<F>(self, task: F)
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        self.group.add(0, TaskInfo::of_task(self.name), task);
    }

    /// Runs a closure on the runtime's threads for blocking work; see [`TaskGroup::spawn_blocking`].
    ///
    /// # Panics
    ///
    /// See [`TaskGroup::spawn_blocking`].
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::TaskGroup;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let mut group: TaskGroup<u32> = TaskGroup::new();
    /// group.build_task().name("sum").spawn_blocking(|| Ok((1..=10).sum()));
    /// assert_eq!(group.next().await.unwrap().unwrap(), 55);
    /// # }
    /// ```
    #[track_caller]
    pub fn spawn_blocking<C>(self, task: C)
    where
        C: FnOnce() -> Result<T, E> + Send + 'static,
    {
        let runtime = self.group.shared.reporter.runtime("used");
        let info = TaskInfo::of_task(self.name);
        let name = TaskName::of(&info);
        let child = self.group.child(0, info, async { task() });
        name.spawn_blocking(&mut self.group.tasks, move || poll_once(child), &runtime);
    }
}

impl<T, E> fmt::Debug for GroupTaskBuilder<'_, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupTaskBuilder").field("name", &self.name).finish_non_exhaustive()
    }
}
