//! The children of a [`TaskGroup`](crate::TaskGroup) or of [`map`](crate::map()), as tokio runs them.
//!
//! A child yields its output through its `JoinSet`, as an [`Unreported`]: if nobody takes it, the failure in it goes to
//! the enclosing scope. One that is aborted yields nothing, and tokio says no more than that one was; so it leaves its
//! name in the group, as many names as there are such `JoinError`s.

use std::collections::VecDeque;
use std::panic::{Location, resume_unwind};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};

use pin_project::{pin_project, pinned_drop};
use tokio::task::JoinError;

use crate::error::{BoxError, Failure, TaskError, TaskInfo, catch};
use crate::scope::{Completion, Current, Owner, Reporter, Scope, Scoped, Unreported, lock};

/// What a group has in common with its children.
pub(crate) struct Shared {
    pub(crate) reporter: Reporter,
    /// The children that were cut off, and whose `JoinError`s have not come yet. The lock is held to push and pop only.
    cut_off: Mutex<VecDeque<(usize, TaskInfo)>>,
}

impl Shared {
    pub(crate) fn new(function: &'static str, called_at: &'static Location<'static>) -> Arc<Self> {
        Arc::new(Self { reporter: Reporter::new(function, called_at), cut_off: Mutex::default() })
    }
}

/// One of the children, as a failure names it.
pub(crate) struct Member {
    pub(crate) shared: Arc<Shared>,
    pub(crate) info: TaskInfo,
}

impl Owner for Member {
    fn reporter(&self) -> &Reporter {
        &self.shared.reporter
    }

    fn task(&self, _: usize) -> TaskInfo {
        self.info.clone()
    }
}

/// What tokio has of a child that has ended.
pub(crate) type Output<T, E> = Unreported<Result<T, E>, Member>;

/// A child as tokio runs it.
#[pin_project(PinnedDrop)]
pub(crate) struct Child<F, T, E>
where
    F: Future<Output = Result<T, E>>,
    T: Send + 'static,
    E: Into<BoxError> + Send + 'static,
{
    #[pin]
    future: Scoped<F>,
    index: usize,
    /// `None` once it has ended.
    member: Option<Member>,
}

impl<F, T, E> Child<F, T, E>
where
    F: Future<Output = Result<T, E>>,
    T: Send + 'static,
    E: Into<BoxError> + Send + 'static,
{
    /// One that is to be spawned in the scope of its group.
    pub(crate) fn new(scope: Arc<Scope>, index: usize, member: Member, future: F) -> Self {
        if let Some(call) = scope.call() {
            call.child_began();
        }
        let mut future = Scoped::outside(future);
        future.place(Current { scope, key: None });
        Self { future, index, member: Some(member) }
    }

    /// Runs one that is made of a closure, on the thread of the call: its first poll ends it.
    pub(crate) fn run(self) -> Output<T, E> {
        match pin!(self).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => output,
            Poll::Pending => unreachable!("a closure does not wait"),
        }
    }
}

impl<F, T, E> Future for Child<F, T, E>
where
    F: Future<Output = Result<T, E>>,
    T: Send + 'static,
    E: Into<BoxError> + Send + 'static,
{
    type Output = Output<T, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Completion { output, dropped } = ready!(this.future.as_mut().poll(cx));
        let member = this.member.take().expect("a child that has ended is not polled");
        let scope = this.future.take_scope();
        if let Some(payload) = dropped {
            Scope::report_to(scope.as_deref(), TaskError::new(member.info.clone(), Failure::Panic(payload)));
        }
        leave(scope);
        Poll::Ready(Unreported::of_branch(output, failure_of, member, *this.index, 0))
    }
}

#[pinned_drop]
impl<F, T, E> PinnedDrop for Child<F, T, E>
where
    F: Future<Output = Result<T, E>>,
    T: Send + 'static,
    E: Into<BoxError> + Send + 'static,
{
    /// One that has not ended was aborted, or its runtime is shutting down. A panic of its destructor goes the way of an
    /// output.
    fn drop(self: Pin<&mut Self>) {
        let mut this = self.project();
        let Some(member) = this.member.take() else { return };
        let panic = this.future.as_mut().abort();
        leave(this.future.take_scope());
        match panic {
            Some(payload) => {
                let output: Output<T, E> = Unreported::of_branch(Err(payload), failure_of, member, *this.index, 0);
                resume_unwind(Box::new(output));
            }
            None => lock(&member.shared.cut_off).push_back((*this.index, member.info)),
        }
    }
}

/// Lets go of the scope before anybody knows of the end: so whoever knows of all of them finds it gone, if nothing is
/// left below.
fn leave(scope: Option<Arc<Scope>>) {
    if let Some(call) = scope.as_ref().and_then(|scope| scope.call()) {
        call.child_ended();
    }
}

/// The failure in an output that nobody takes.
fn failure_of<T, E: Into<BoxError>>(output: Result<T, E>) -> Option<Failure> {
    output.err().map(|error| Failure::Error(error.into()))
}

/// How a child ended. Dropped before it was taken, it reports the failure in it.
pub(crate) enum Ended<T, E> {
    Output(Output<T, E>),
    /// It was aborted, or cut off by its runtime.
    CutOff(usize, TaskInfo),
}

impl<T: 'static, E: 'static> Ended<T, E> {
    /// What the `JoinSet` of the group gives.
    pub(crate) fn new(joined: Result<Output<T, E>, JoinError>, shared: &Shared) -> Self {
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
            Self::Output(output) => output.owner().1,
            Self::CutOff(index, _) => *index,
        }
    }

    /// Whether it has returned an error or panicked.
    pub(crate) fn is_failure(&self) -> bool {
        matches!(self, Self::Output(output) if !matches!(output.output(), Some(Ok(Ok(_)))))
    }

    /// Takes it, so that it is reported no more.
    pub(crate) fn take(self) -> Result<T, TaskError<E>> {
        let output = match self {
            Self::Output(output) => output,
            Self::CutOff(_, info) => return Err(TaskError::new(info, Failure::Cancelled)),
        };
        let info = output.owner().0.info.clone();
        match output.take() {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(TaskError::new(info, Failure::Error(error))),
            Err(payload) => Err(TaskError::new(info, Failure::Panic(payload))),
        }
    }

    /// Drops it, and gives the panic of its destructor: for a value that nobody wants.
    pub(crate) fn discard(self) -> Option<TaskError> {
        let Self::Output(output) = self else { return None };
        let info = output.owner().0.info.clone();
        let payload = catch(|| drop(output.take())).err()?;
        Some(TaskError::new(info, Failure::Panic(payload)))
    }
}
