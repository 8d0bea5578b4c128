//! Failures that a function holds while it awaits something else, and will then return or resume.
//!
//! `timeout` and `with_exit` know of a failure before they can return it: what is below has to end first, or the exit
//! handler has to run. If they are dropped meanwhile, the failure must not be lost with them.

use std::panic::Location;
use std::sync::Arc;

use crate::error::{BoxError, Failure, PanicPayload, TaskError, TaskInfo, catch};
use crate::scope::Scope;

/// At most one failure to return. If its function is dropped before, the enclosing scope is told.
pub(crate) struct Unreported<E: Into<BoxError> = BoxError> {
    /// The one to return or to resume.
    pub(crate) failure: Option<Failure<E>>,
    /// The scope around the function, which is told of all others.
    enclosing: Option<Arc<Scope>>,
    /// The call of the function, by which such a failure is known.
    pub(crate) called_at: &'static Location<'static>,
}

impl<E: Into<BoxError>> Unreported<E> {
    /// For a function that has made `scope`.
    pub(crate) fn new(scope: &Scope, called_at: &'static Location<'static>) -> Self {
        Self { failure: None, enclosing: scope.parent().cloned(), called_at }
    }

    /// Keeps a panic to resume; the enclosing scope is told of any but the first.
    pub(crate) fn keep_panic(&mut self, payload: Option<PanicPayload>) {
        let panic = payload.map(Failure::Panic);
        if self.failure.is_some() { self.report(panic) } else { self.failure = panic }
    }

    /// Lets the panic that was kept go on, if one was. The output, which nobody gets then, is dropped before: a
    /// destructor that panicked while the panic goes on would end the process.
    pub(crate) fn resume<T>(&mut self, output: T) -> T {
        match self.failure.take() {
            Some(Failure::Panic(payload)) => {
                self.report(catch(|| drop(output)).err().map(Failure::Panic));
                payload.resume()
            }
            other => self.failure = other,
        }
        output
    }

    /// Tells the enclosing scope.
    pub(crate) fn report(&self, failure: Option<Failure<E>>) {
        if let Some(failure) = failure {
            let failed = TaskError::new(TaskInfo::unnamed(self.called_at), failure.boxed());
            Scope::report_to(self.enclosing.as_deref(), failed);
        }
    }
}

impl<E: Into<BoxError>> Drop for Unreported<E> {
    fn drop(&mut self) {
        let failure = self.failure.take();
        self.report(failure);
    }
}
