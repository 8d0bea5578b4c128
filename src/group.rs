//! The tasks of one call of `race`, `try_all` or `wait_all`, and what they have come to.
//!
//! The branches say themselves what they have come to, on a board that they share with the future of the call, which is
//! woken for the first that decides something, and for the last. A `JoinSet` would wake it for each, and allocate and
//! lock for that.
//!
//! The three functions differ in their [`Rules`] only: whether an item decides, so that the other branches are aborted;
//! whether what comes after the decision is still wanted; and what becomes of an item that nobody will get.
//!
//! The future of a call goes through two waits. [`Group::poll_ended`] is ready when each branch has told what it has
//! come to. [`Group::poll_settled`] is ready when also what the branches have left behind has ended: pools that were
//! moved out of them, shielded work, exit handlers.
//!
//! # Invariants
//!
//! 1. Nothing of the user's runs under the board's lock: no item, waker or payload is dropped, no waker cloned or
//!    woken.
//! 2. A branch drops its future before it says how that has ended, and lets go of its scope under the lock under which
//!    it says so. So whoever sees that all have ended holds the last `Arc` of the scope, if nothing is left below. As
//!    long as the board is not left, the group holds one: so none of these is the last, which would run the pool's
//!    code.
//! 3. Once the board is left, nobody takes items any more. The branches tell the enclosing scope what there is to be
//!    told, and let go of theirs when that is done.

use std::fmt;
use std::panic::Location;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use pin_project::{pin_project, pinned_drop};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::task::coop::consume_budget;

use crate::error::{Failure, PanicPayload, TaskError, TaskInfo, catch};
use crate::scope::{Call, Cleanup, Scope, ScopeKind};
use crate::scope::{Completion, Scoped};

/// How many ended tasks are freed in one turn: some ten microseconds.
const BATCH: usize = 256;

/// The branches of one call, each of which yields an `I`.
///
/// Dropping a group aborts its branches. The enclosing scope waits for their end, and is told what has failed.
pub struct Group<I: Send + 'static> {
    /// In the order of their indices. They are freed in batches at the end.
    branches: Vec<JoinHandle<()>>,
    /// Shared with the branches.
    board: Arc<Board<I>>,
    /// Given up when the group waits for what is left below it.
    scope: Option<Arc<Scope>>,
    /// The scope around the call, which is told what nobody gets.
    enclosing: Option<Arc<Scope>>,
    /// The wait for what the branches have left behind; made if there is anything.
    settling: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// That of the call; `None` outside of one, which only a call with no future survives.
    runtime: Option<Handle>,
    /// Whether a branch has decided.
    decided: bool,
}

/// What a function makes of the ends of its branches.
pub(crate) struct Rules<I> {
    /// Whether the other branches are aborted when one has ended with this item.
    pub(crate) decides: fn(&I) -> bool,
    /// Whether items that come after the decision are nobody's.
    pub(crate) first_only: bool,
    /// Makes an item of the panic of a branch that was aborted, or of an abort by the runtime, or gives it back.
    pub(crate) cut_off: fn(Failure) -> Result<I, Failure>,
    /// What an item has to report that is nobody's.
    pub(crate) orphaned: fn(I) -> Option<Failure>,
}

/// Where the branches say what they have come to.
struct Board<I> {
    rules: Rules<I>,
    /// The call, by which failures are known.
    spawned_at: &'static Location<'static>,
    state: Mutex<State<I>>,
}

/// What is written on the board.
struct State<I> {
    /// The items of those that have ended, in that order, with their index.
    items: Vec<(usize, I)>,
    /// How many have ended, with an item or without.
    ended: usize,
    /// How many there are; set together with the waker.
    expected: usize,
    /// Whether there is an item that decides.
    decisive: bool,
    /// Whether the others have been aborted for that.
    decided: bool,
    /// Whether the future of the call is gone.
    left: bool,
    /// That of the future of the call; taken by whoever has news.
    waker: Option<Waker>,
}

impl<I: Send + 'static> Group<I> {
    /// A group without branches, for a call of `function`. What fails below it when its owner is gone is put into
    /// `cleanup`, or goes further out.
    #[track_caller]
    pub(crate) fn new(function: &'static str, cleanup: Option<Cleanup>, rules: Rules<I>) -> Self {
        let spawned_at = Location::caller();
        let scope = Scope::enter(ScopeKind::Group(Call::new(function, spawned_at), cleanup));
        Self {
            branches: Vec::new(),
            board: Arc::new(Board { rules, spawned_at, state: Mutex::new(State::new()) }),
            enclosing: scope.parent().cloned(),
            scope: Some(scope),
            settling: None,
            runtime: Handle::try_current().ok(),
            decided: false,
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
            panic!("futures were given to be run, at {}, outside of a tokio runtime", self.spawned_at());
        };
        let end = Some(End { index: self.branches.len(), finish, board: Arc::clone(&self.board) });
        let task = runtime.spawn(Branch { future: Scoped::new(Arc::clone(scope), future), end });
        if let (Some(call), Some(_)) = (scope.call(), &self.enclosing) {
            call.spawned(task.abort_handle());
        }
        self.branches.push(task);
    }

    /// Where the function was called.
    pub(crate) fn spawned_at(&self) -> &'static Location<'static> {
        self.board.spawned_at
    }

    /// Ready when all branches have ended. Aborts the others when one has decided.
    pub(crate) fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let waker = cx.waker().clone();
        let mut state = self.board.lock();
        let news = state.decisive && !self.decided;
        self.decided = state.decisive;
        if state.ended >= self.branches.len() {
            return Poll::Ready(());
        }
        state.decided = state.decisive;
        state.expected = self.branches.len();
        let replaced = state.waker.replace(waker);
        drop(state);
        drop(replaced);
        if news {
            self.abort();
        }
        Poll::Pending
    }

    /// Whether a branch had decided when this was last polled.
    pub(crate) fn is_decided(&self) -> bool {
        self.decided
    }

    /// Asks all branches to end that have not; returns at once.
    fn abort(&self) {
        self.branches.iter().for_each(JoinHandle::abort);
    }

    /// Ready once nothing is left below the group, whose branches have all ended, and their memory has been given back.
    pub(crate) fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(scope) = self.scope.take() {
            if let Err(scope) = Arc::try_unwrap(scope) {
                self.settling = Some(Box::pin(scope.wait_empty()));
            }
        }
        if let Some(settling) = &mut self.settling {
            ready!(settling.as_mut().poll(cx));
            self.settling = None;
        }
        ready!(pin!(consume_budget()).poll(cx));
        self.branches.truncate(self.branches.len().saturating_sub(BATCH));
        if self.branches.is_empty() {
            return Poll::Ready(());
        }
        // One turn was not enough; let the others have theirs first.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Takes the items of those that have ended, in that order.
    pub(crate) fn take_items(&mut self) -> Vec<(usize, I)> {
        std::mem::take(&mut self.board.lock().items)
    }

    /// Puts an item back.
    pub(crate) fn put_item(&mut self, index: usize, item: I) {
        self.board.lock().items.push((index, item));
    }

    /// Tells the enclosing pool what has failed, in an item that nobody will get.
    pub(crate) fn orphan(&self, item: I) {
        self.board.orphan(self.enclosing.as_ref(), item);
    }

    /// Passes on what was reported to a group whose future is gone.
    pub(crate) fn pass_on(&self, cleanup: &Cleanup) {
        let failures = cleanup.close().into_iter();
        failures.for_each(|failure| Scope::report_to(self.enclosing.as_deref(), failure));
    }
}

impl<I: Send + 'static> fmt::Debug for Group<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("branches", &self.branches.len()).finish()
    }
}

impl<I: Send + 'static> Drop for Group<I> {
    /// Leaves the board: from here on each branch reports for itself. What is written there already is reported now.
    fn drop(&mut self) {
        let mut state = self.board.lock();
        state.left = true;
        let (items, waker) = (std::mem::take(&mut state.items), state.waker.take());
        drop(state);
        drop(waker);
        if let Some(scope) = &self.scope {
            self.abort();
            scope.call().into_iter().for_each(Call::hand_over);
        }
        for (_, item) in items {
            self.orphan(item);
        }
    }
}

impl<I> Board<I> {
    fn lock(&self) -> MutexGuard<'_, State<I>> {
        // Nothing that can panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A branch has come to its end.
    fn finished(&self, scope: Option<Arc<Scope>>, index: usize, item: I) {
        let mut state = self.lock();
        if state.left || state.decided && self.rules.first_only {
            drop(state);
            self.orphan(scope.as_ref(), item);
            state = self.lock();
        } else {
            state.decisive |= (self.rules.decides)(&item);
            state.items.push((index, item));
        }
        Self::ended(state, scope);
    }

    /// A branch was aborted, or its runtime is shutting down; `dropped` is the panic of its destructor.
    fn cut_off(&self, scope: Option<Arc<Scope>>, index: usize, dropped: Option<PanicPayload>) {
        let aborted = dropped.is_none() && self.lock().is_aborting();
        match (self.rules.cut_off)(dropped.map_or(Failure::Cancelled, Failure::Panic)) {
            _ if aborted => {}
            Ok(item) => return self.finished(scope, index, item),
            Err(Failure::Panic(payload)) => self.report(scope.as_ref(), Failure::Panic(payload)),
            Err(_) => {}
        }
        Self::ended(self.lock(), scope);
    }

    /// Counts a branch that has told everything, and lets go of its scope: see invariants 2 and 3.
    fn ended(mut state: MutexGuard<'_, State<I>>, scope: Option<Arc<Scope>>) {
        state.ended += 1;
        let news = state.ended == state.expected || state.decisive && !state.decided;
        let waker = if news { state.waker.take() } else { None };
        if state.left {
            drop(state);
            drop(scope);
        } else {
            drop(scope);
            drop(state);
        }
        waker.into_iter().for_each(Waker::wake);
    }

    /// Tells a scope, or what is around it, what has failed in an item that nobody will get.
    fn orphan(&self, scope: Option<&Arc<Scope>>, item: I) {
        let failure = catch(|| (self.rules.orphaned)(item)).unwrap_or_else(|payload| Some(Failure::Panic(payload)));
        if let Some(failure) = failure {
            self.report(scope, failure);
        }
    }

    /// Tells a scope of a failure, in the name of the call.
    fn report(&self, scope: Option<&Arc<Scope>>, failure: Failure) {
        Scope::report_to(scope.map(Arc::as_ref), TaskError::new(TaskInfo::unnamed(self.spawned_at), failure));
    }
}

impl<I> State<I> {
    const fn new() -> Self {
        Self { items: Vec::new(), ended: 0, expected: 0, decisive: false, decided: false, left: false, waker: None }
    }

    /// Whether the branches that have not ended are being aborted.
    fn is_aborting(&self) -> bool {
        self.left || self.decided
    }
}

/// One future of a group as tokio runs it.
#[pin_project(PinnedDrop)]
struct Branch<F, M, I> {
    #[pin]
    future: Scoped<F>,
    /// `None` once it has been told how the future ended.
    end: Option<End<M, I>>,
}

/// What a branch does at its end.
struct End<M, I> {
    /// Its class in the input.
    index: usize,
    /// Makes an item of the output or the panic.
    finish: M,
    board: Arc<Board<I>>,
}

impl<F, M, I> Future for Branch<F, M, I>
where
    F: Future,
    M: FnOnce(Result<F::Output, PanicPayload>) -> I,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        let Completion { output, dropped } = ready!(this.future.as_mut().poll(cx));
        let scope = this.future.take_scope();
        if let Some(End { index, finish, board }) = this.end.take() {
            if let Some(payload) = dropped {
                board.report(scope.as_ref(), Failure::Panic(payload));
            }
            board.finished(scope, index, finish(output));
        }
        Poll::Ready(())
    }
}

#[pinned_drop]
impl<F, M, I> PinnedDrop for Branch<F, M, I> {
    /// One that has not ended was aborted, or its runtime is shutting down.
    fn drop(self: Pin<&mut Self>) {
        let mut this = self.project();
        if let Some(End { index, board, .. }) = this.end.take() {
            let dropped = this.future.as_mut().end();
            board.cut_off(this.future.take_scope(), index, dropped);
        }
    }
}
