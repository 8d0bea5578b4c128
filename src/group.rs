//! The branches of one call of `race`, `try_all` or `wait_all`.
//!
//! Each branch is a task of its own with tokio's own typed `JoinHandle`. The handles are kept in the [shape](Shape) of
//! the input: in a vector, for a `Vec` or an array, or in a tuple. So each output is found in its place, whoever ended
//! first. The three functions differ in their [`Collector`]: in when a branch decides, and in what they make of an
//! output.
//!
//! The future of a call waits for the [`Call`] to say that a branch has decided, that all have ended, or that the task
//! around is aborted: it is woken for these, and not for each branch. Then it waits for what the branches have left
//! behind, which are pools that were moved out of them, shielded work and exit handlers. Then it takes the outputs.
//!
//! # Invariants
//!
//! 1. Whoever aborts branches, by a decision or by dropping the call, marks their scope next: what an abort cannot drop
//!    hears of it there.
//! 2. Until a function takes it, an output is an [`Unreported`]: wherever the call is dropped, its failure goes
//!    outwards.
//! 3. Thousands of branches are aborted, and freed, in batches, so that the neighbours get their turn in between. A
//!    call that is dropped cannot wait, and aborts all at once.

use std::panic::Location;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tokio::task::coop::{consume_budget, unconstrained};
use tokio::task::{JoinError, JoinHandle, yield_now};

use crate::error::{ClosingReason, PoolError, Report, TaskError};
use crate::scope::{Call, Cleanup, Reporter, Rules, Scope, ScopeKind, Spawner, Unreported};

/// How many branches are aborted or freed in one turn, some ten microseconds: invariant 3.
const BATCH: usize = 256;

/// How a branch ended: a `JoinError` means that it was aborted, or cut off by its runtime.
pub type Ended<T> = Result<Unreported<T>, JoinError>;

/// A branch whose future yields a `T`.
pub type Branch<T> = JoinHandle<Unreported<T>>;

/// The branches of a call, in the shape of its futures.
pub trait Handles: Send + Sync + 'static {
    /// How they ended, in the same shape.
    type Ended: Send + 'static;

    /// Whether there are none.
    fn is_empty(&self) -> bool;

    /// Aborts a batch of them, from this one on. Says whether there are more.
    fn abort_batch(&self, from: usize) -> bool;

    /// Frees them, which have all ended.
    fn join(self) -> impl Future<Output = Self::Ended> + Send;
}

/// The futures of a call, in their shape, and what a function makes of them by means of a collector, `C`.
pub trait Shape<C> {
    /// Their branches.
    type Handles: Handles;
    /// What is collected, in the same shape.
    type Collected: 'static;

    /// Spawns them, in order.
    #[track_caller]
    fn spawn(self, group: &Group) -> Self::Handles;

    /// Collects all that there is; `None` if a branch has given nothing.
    fn collect(ended: <Self::Handles as Handles>::Ended, collector: &mut C) -> Option<Self::Collected>;
}

/// Makes something of each branch that yields a `T`.
pub trait Collector<T> {
    /// What it makes of one.
    type Item: 'static;

    /// When a branch decides, and what fails in it.
    fn rules() -> Rules<T>;

    /// Takes what the branch with this index has come to, and gives what is wanted of it.
    fn collect(&mut self, index: usize, ended: Ended<T>) -> Option<Self::Item>;
}

/// A call that spawns its branches.
#[expect(missing_debug_implementations, reason = "nobody gets hold of one: it is part of a sealed trait")]
pub struct Group {
    spawner: Spawner,
    /// `None` outside of a runtime, which only a call without futures survives.
    runtime: Option<Handle>,
}

/// The branches of a call. Dropping them aborts them: the enclosing scope waits for their end, and their failures go to
/// it.
pub(crate) struct Branches<H: Handles> {
    call: Arc<Call>,
    /// `None` once nothing is left below.
    scope: Option<Arc<Scope>>,
    /// `None` once they have been joined.
    handles: Option<H>,
}

impl Group {
    /// For a call of `function`. What fails inside it and has no owner is put into `cleanup`, or goes to the enclosing
    /// scope.
    #[track_caller]
    pub(crate) fn new(function: &'static str, cleanup: Option<Cleanup>) -> Self {
        let enclosing = Scope::current();
        let reporter = Reporter::within(enclosing.as_ref(), function, Location::caller());
        let spawner = Spawner::new(reporter, enclosing, |call| ScopeKind::Group(call, cleanup));
        Self { spawner, runtime: Handle::try_current().ok() }
    }

    /// Spawns the branch with this index.
    ///
    /// # Panics
    ///
    /// Outside of a runtime.
    #[track_caller]
    fn spawn<F>(&self, index: usize, rules: Rules<F::Output>, future: F) -> Branch<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        match &self.runtime {
            Some(runtime) => self.spawner.spawn(runtime, index, rules, future),
            None => self.spawner.spawn(&self.reporter().runtime("called"), index, rules, future),
        }
    }

    /// Spawns the futures of a vector or an array.
    #[track_caller]
    fn spawn_each<F, C>(&self, count: usize, futures: impl IntoIterator<Item = F>) -> Vec<Branch<F::Output>>
    where
        F: Future<Output: Send> + Send + 'static,
        C: Collector<F::Output>,
    {
        let mut handles = Vec::with_capacity(count);
        // Not by an adapter, which tokio would take for the caller.
        for future in futures {
            handles.push(self.spawn(handles.len(), C::rules(), future));
        }
        handles
    }

    /// Reports in the name of the call.
    pub(crate) fn reporter(&self) -> &Arc<Reporter> {
        &self.spawner.reporter
    }
}

impl<H: Handles> Branches<H> {
    /// The call that they belong to.
    pub(crate) fn call(&self) -> &Arc<Call> {
        &self.call
    }

    /// Waits until all have ended, with everything below them; once one has decided, aborts the others. Says who had
    /// decided then, by the lowest index, and how all ended.
    pub(crate) async fn join(mut self) -> (Option<usize>, H::Ended) {
        let first = self.call.wait_decided().await;
        if self.call.is_aborted() {
            // The task around the call is aborted. If tokio can drop it, it does so here.
            yield_now().await;
        }
        if first.is_some() || self.call.is_aborted() {
            self.abort().await;
        }
        self.call.wait_ended().await;
        if let Some(scope) = self.scope.take() {
            if self.call.joined() {
                scope.abort_nested();
            }
            scope.wait_empty().await;
        }
        consume_budget().await;
        let handles = self.handles.take().expect("they are joined once");
        (first, handles.join().await)
    }

    /// Aborts those that have not ended: invariant 1.
    async fn abort(&self) {
        let (Some(scope), Some(handles)) = (&self.scope, &self.handles) else { return };
        let mut from = 0;
        while handles.abort_batch(from) {
            from += BATCH;
            yield_now().await;
        }
        scope.abort_nested();
    }
}

impl<H: Handles> Drop for Branches<H> {
    /// Aborts them all: invariant 1. What they yield is dropped with their handles: invariant 2.
    fn drop(&mut self) {
        self.call.hand_over();
        let (Some(scope), Some(handles)) = (&self.scope, &self.handles) else { return };
        let mut from = 0;
        while handles.abort_batch(from) {
            from += BATCH;
        }
        scope.abort_nested();
    }
}

/// The error of a call with these failures, in order of occurrence. `cut_off` is a task that was cut off without a word:
/// a failure only if there is no other, and the call was not aborted.
pub(crate) fn error_of_call<E: 'static>(
    mut failures: Vec<TaskError<E>>,
    cut_off: Option<TaskError<E>>,
    cleanup_failures: Vec<TaskError>,
    is_aborted: bool,
) -> PoolError<E> {
    let is_aborted = is_aborted && failures.is_empty();
    if failures.is_empty() && !is_aborted {
        failures.extend(cut_off);
    }
    let reason = if is_aborted { ClosingReason::parent_closing(None) } else { ClosingReason::Failed };
    PoolError::new(Report { pool: None, failures, cleanup_failures, stuck: Vec::new(), reason }, None)
}

/// The future of a call, over what it yields.
pub(crate) struct CallFuture<T> {
    call: Arc<Call>,
    /// `None` once it was ready.
    future: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
}

impl<T> CallFuture<T> {
    /// The rest of a call, whose branches have all been spawned.
    pub(crate) fn new<H, F>(group: Group, handles: H, rest: impl FnOnce(Branches<H>) -> F) -> Self
    where
        H: Handles,
        F: Future<Output = T> + Send + 'static,
    {
        let Spawner { call, scope, .. } = group.spawner;
        let branches = Branches { call: Arc::clone(&call), scope: Some(scope), handles: Some(handles) };
        Self { call, future: Some(Box::pin(rest(branches))) }
    }

    /// Whether a branch has decided.
    pub(crate) fn is_decided(&self) -> bool {
        self.call.first().is_some()
    }

    /// Polls the rest of the call.
    ///
    /// # Panics
    ///
    /// If it was ready before, and as the rest of the call does.
    #[track_caller]
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<T> {
        let Some(mut future) = self.future.take() else {
            panic!("`{}` at {} was polled after it was ready", self.call.function, self.call.called_at)
        };
        let polled = future.as_mut().poll(cx);
        if polled.is_pending() {
            self.future = Some(future);
        }
        polled
    }
}

impl<T: Send + 'static> Handles for Vec<Branch<T>> {
    type Ended = Vec<Ended<T>>;

    fn is_empty(&self) -> bool {
        Vec::is_empty(self)
    }

    fn abort_batch(&self, from: usize) -> bool {
        let rest = &self[from..];
        rest.iter().take(BATCH).for_each(JoinHandle::abort);
        rest.len() > BATCH
    }

    async fn join(self) -> Self::Ended {
        let mut all = Vec::with_capacity(self.len());
        for handle in self {
            if all.len() % BATCH == BATCH - 1 {
                yield_now().await;
            }
            all.push(unconstrained(handle).await);
        }
        all
    }
}

impl<F: Future<Output: Send> + Send + 'static, C: Collector<F::Output>> Shape<C> for Vec<F> {
    type Handles = Vec<Branch<F::Output>>;
    type Collected = Vec<C::Item>;

    #[track_caller]
    fn spawn(self, group: &Group) -> Self::Handles {
        group.spawn_each::<F, C>(self.len(), self)
    }

    fn collect(ended: Vec<Ended<F::Output>>, collector: &mut C) -> Option<Self::Collected> {
        let count = ended.len();
        let mut items = Vec::with_capacity(count);
        for (index, ended) in ended.into_iter().enumerate() {
            items.extend(collector.collect(index, ended));
        }
        (items.len() == count).then_some(items)
    }
}

impl<F: Future<Output: Send> + Send + 'static, C: Collector<F::Output>, const N: usize> Shape<C> for [F; N] {
    type Handles = Vec<Branch<F::Output>>;
    type Collected = [C::Item; N];

    #[track_caller]
    fn spawn(self, group: &Group) -> Self::Handles {
        group.spawn_each::<F, C>(N, self)
    }

    fn collect(ended: Vec<Ended<F::Output>>, collector: &mut C) -> Option<Self::Collected> {
        <Vec<F> as Shape<C>>::collect(ended, collector)?.try_into().ok()
    }
}

macro_rules! shape {
    ($($F:ident $n:tt),+) => {
        impl<$($F: Send + 'static),+> Handles for ($(Branch<$F>,)+) {
            type Ended = ($(Ended<$F>,)+);

            fn is_empty(&self) -> bool {
                false
            }

            fn abort_batch(&self, _: usize) -> bool {
                $(self.$n.abort();)+
                false
            }

            async fn join(self) -> Self::Ended {
                ($(unconstrained(self.$n).await,)+)
            }
        }

        impl<Z, $($F: Future<Output: Send> + Send + 'static),+> Shape<Z> for ($($F,)+)
        where
            $(Z: Collector<$F::Output>),+
        {
            type Handles = ($(Branch<$F::Output>,)+);
            type Collected = ($(<Z as Collector<$F::Output>>::Item,)+);

            #[track_caller]
            fn spawn(self, group: &Group) -> Self::Handles {
                ($(group.spawn($n, <Z as Collector<$F::Output>>::rules(), self.$n),)+)
            }

            fn collect(ended: <Self::Handles as Handles>::Ended, collector: &mut Z) -> Option<Self::Collected> {
                let items = ($(collector.collect($n, ended.$n),)+);
                Some(($(items.$n?,)+))
            }
        }
    };
}

/// Calls a macro for each tuple, with the letter and the position of each part.
macro_rules! for_tuples {
    ($call:ident) => {
        $call!(A 0);
        $call!(A 0, B 1);
        $call!(A 0, B 1, C 2);
        $call!(A 0, B 1, C 2, D 3);
        $call!(A 0, B 1, C 2, D 3, E 4);
        $call!(A 0, B 1, C 2, D 3, E 4, F 5);
        $call!(A 0, B 1, C 2, D 3, E 4, F 5, G 6);
        $call!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);
    };
}
pub(crate) use for_tuples;

for_tuples!(shape);
