//! Outputs and panics on their way to whoever awaits them.
//!
//! The output of a branch, of a child of a group, of shielded work, of an exit handler, or of the future in a `timeout`
//! has to wait: for its call to be polled, or for what is still running below. The call may be dropped meanwhile. Whoever
//! drops an [`Unreported`] then, tokio or the call itself, reports the failure in it.
//!
//! A failure that is reported goes outwards, to the nearest scope that will return an error: see [`Scope::report_to`]. A
//! pool keeps it with its other failures, a call such as `try_all` in its [`Cleanup`]. If there is no such scope, it is
//! written to stderr.

use std::borrow::Borrow;
use std::io::{Write, stderr};
use std::panic::Location;
use std::sync::{Arc, Mutex, OnceLock};

use tokio::runtime::Handle;
use tokio::task::JoinError;

use super::{Scope, lock};
use crate::error::{BoxError, CancelledError, Failure, PanicPayload, TaskError, TaskInfo, cancellation, catch};

/// How a future ended, on its way to whoever awaits it. Dropped before it was taken, it reports the failure in it.
#[expect(missing_debug_implementations, reason = "nobody gets hold of one: it is part of a sealed trait")]
pub struct Unreported<T, R: Owner = Arc<Reporter>> {
    /// `None` once it was taken.
    pub(super) output: Option<Result<T, PanicPayload>>,
    /// The failure in an output that nobody takes. For `race` and `shield` that is none: an `Err` is but a value there.
    failure_of: fn(T) -> Option<Failure>,
    /// Who reports it.
    pub(super) owner: R,
    /// Which branch of the call it was.
    index: usize,
    /// How many branches had decided before it, if it has decided itself.
    pub(crate) order: usize,
}

/// Whose output it is: who reports a failure in it, and as that of which task.
pub trait Owner {
    fn reporter(&self) -> &Reporter;

    /// The task with this index.
    fn task(&self, index: usize) -> TaskInfo {
        self.reporter().branch(index)
    }
}

impl<R: Borrow<Reporter>> Owner for R {
    fn reporter(&self) -> &Reporter {
        self.borrow()
    }
}

/// Reports failures in the name of a call, to the enclosing scope.
#[expect(missing_debug_implementations, reason = "nobody gets hold of one: it is part of a sealed trait")]
pub struct Reporter {
    pub(crate) function: &'static str,
    pub(crate) called_at: &'static Location<'static>,
    /// Set at once, or when the future of the call is dropped: a handle that is kept for long keeps no pool waiting.
    enclosing: OnceLock<Arc<Scope>>,
}

impl<T, R: Owner> Unreported<T, R> {
    /// Of the branch with this index.
    pub(super) fn of_branch(
        output: Result<T, PanicPayload>,
        failure_of: fn(T) -> Option<Failure>,
        owner: R,
        index: usize,
        order: usize,
    ) -> Self {
        Self { output: Some(output), failure_of, owner, index, order }
    }

    /// Of the only future of a call.
    pub(crate) fn new(output: Result<T, PanicPayload>, failure_of: fn(T) -> Option<Failure>, owner: R) -> Self {
        Self::of_branch(output, failure_of, owner, 0, 0)
    }

    /// Takes it, so that it is reported no more.
    pub(crate) fn take(mut self) -> Result<T, PanicPayload> {
        self.output.take().expect("it is taken here only, by value")
    }
}

impl<T: 'static, R: Owner + 'static> Unreported<T, R> {
    /// The panic of the destructor of a future that was cut off, which a task passes on in a panic of its own.
    pub(crate) fn of_cut_off(cut_off: JoinError) -> Option<Self> {
        cut_off.try_into_panic().ok()?.downcast().ok().map(|panicked| *panicked)
    }
}

impl<T, R: Owner> Drop for Unreported<T, R> {
    fn drop(&mut self) {
        let failure = self.output.take().and_then(|output| {
            let found = output.and_then(|output| catch(|| (self.failure_of)(output)));
            found.unwrap_or_else(|payload| Some(Failure::Panic(payload)))
        });
        if let Some(failure) = failure.and_then(more_than_a_stop) {
            let task = self.owner.task(self.index);
            self.owner.reporter().pass_on(TaskError::new(task, failure));
        }
    }
}

/// A failure whose owner is gone. Of an error that only says that it was stopped, with its owner most likely, nothing is
/// told but a panic of its destructor.
fn more_than_a_stop(failure: Failure) -> Option<Failure> {
    let stopped = |error: &BoxError| cancellation(error, None) == Some(CancelledError::Cancelled);
    match failure {
        Failure::Error(error) if stopped(&error) => catch(|| drop(error)).err().map(Failure::Panic),
        failure => Some(failure),
    }
}

impl Reporter {
    /// For a call whose future holds no scope until it is [dropped](Self::hand_over).
    pub(crate) fn new(function: &'static str, called_at: &'static Location<'static>) -> Self {
        Self { function, called_at, enclosing: OnceLock::new() }
    }

    /// For a call whose future may hold the enclosing scope.
    pub(crate) fn within(
        enclosing: Option<&Arc<Scope>>,
        function: &'static str,
        called_at: &'static Location<'static>,
    ) -> Self {
        let reporter = Self::new(function, called_at);
        reporter.hand_over(enclosing.cloned());
        reporter
    }

    /// Has the enclosing scope, if there still is one, wait for everything that is to be reported from now on.
    pub(crate) fn hand_over(&self, enclosing: Option<Arc<Scope>>) {
        if let Some(enclosing) = enclosing {
            // There may be the same one already.
            drop(self.enclosing.set(enclosing));
        }
    }

    /// Tells the enclosing scope, in the name of the call.
    pub(crate) fn report(&self, failure: Failure) {
        self.pass_on(TaskError::new(TaskInfo::unnamed(self.called_at), failure));
    }

    /// Tells the enclosing scope.
    pub(crate) fn pass_on(&self, failure: TaskError) {
        Scope::report_to(self.enclosing.get().map(Arc::as_ref), failure);
    }

    /// Drops a value that nobody gets. A panic of its destructor is reported.
    pub(crate) fn discard<T>(&self, value: T) {
        if let Err(payload) = catch(|| drop(value)) {
            self.report(Failure::Panic(payload));
        }
    }

    /// A branch of the call, as failures name it.
    pub(crate) fn branch(&self, index: usize) -> TaskInfo {
        match self.function {
            "race" | "try_all" | "wait_all" => TaskInfo::branch(self.function, index, self.called_at),
            _ => TaskInfo::unnamed(self.called_at),
        }
    }

    /// The runtime that the function is called or polled on.
    ///
    /// # Panics
    ///
    /// Outside of one.
    #[track_caller]
    pub(crate) fn runtime(&self, used: &str) -> Handle {
        let Ok(runtime) = Handle::try_current() else {
            let Self { function, called_at, .. } = self;
            panic!(
                "`{function}` at {called_at} was {used} outside of a tokio runtime: \
                 use it in an async fn below `#[tokio::main]`, or in `Runtime::block_on`"
            )
        };
        runtime
    }
}

// ===== cleanup failures =====

/// Cleanup failures on their way into the error of a call; `None` once that was made. The lock is held to push or take
/// only.
#[derive(Clone)]
pub(crate) struct Cleanup(Arc<Mutex<Option<Vec<TaskError>>>>);

impl Cleanup {
    /// With nothing in it.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Some(Vec::new()))))
    }

    /// Takes a failure, or gives it back if there will be no error to put it into.
    pub(crate) fn push(&self, failure: TaskError) -> Option<TaskError> {
        match &mut *lock(&self.0) {
            Some(failures) => failures.push(failure),
            None => return Some(failure),
        }
        None
    }

    /// Gives the failures away, for the last time.
    pub(crate) fn close(&self) -> Vec<TaskError> {
        lock(&self.0).take().unwrap_or_default()
    }
}

/// Tells of a failure that nobody will return, unless it is that a runtime has shut down, which is known to who did that.
/// The text and a subscriber are somebody's code.
pub(super) fn tell(failure: &mut TaskError) {
    if matches!(failure.failure(), Failure::Cancelled) {
        return;
    }
    let text = catch(|| failure.to_string());
    let text = text.unwrap_or_else(|panic| format!("{} failed, and its text panicked: {panic}", failure.task()));
    // A closed stderr is no reason to fail.
    let _ = writeln!(stderr(), "nobody is left to return this to: {text}");
    #[cfg(feature = "tracing")]
    if !failure.tell() {
        drop(catch(|| tracing::error!(target: "aiodrive", "nobody is left to return this to: {text}")));
    }
}
