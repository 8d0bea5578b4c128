//! Panics as values: how they are caught, kept, and resumed.

use std::any::Any;
use std::fmt::{self, Debug, Display};
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Mutex, PoisonError};

/// What a task panicked with.
///
/// Unlike the bare `Box<dyn Any + Send>` it is `Sync`, knows its message, and survives a payload whose own destructor
/// panics.
///
/// # Examples
///
/// ```
/// use aiodrive::{Failure, Pool};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let pool: Pool = Pool::new();
/// pool.spawn(async { std::panic::panic_any(404) });
/// let failed = pool.run().await.unwrap_err().into_failures().remove(0);
/// let Failure::Panic(payload) = failed.into_failure() else { unreachable!() };
/// assert_eq!(payload.to_string(), "a value that is no message");
/// assert_eq!(payload.into_inner().downcast_ref(), Some(&404));
/// # }
/// ```
pub struct PanicPayload(Box<Payload>);

/// Boxed, so that a failure is small.
struct Payload {
    /// A copy, since it is read through a shared reference.
    message: Option<Box<str>>,
    /// `None` only while it is being given away or dropped. The mutex is never locked: it makes the payload `Sync`.
    value: Mutex<Option<Box<dyn Any + Send>>>,
}

impl PanicPayload {
    /// What was caught.
    pub(crate) fn new(value: Box<dyn Any + Send>) -> Self {
        let text = value.downcast_ref::<&str>().copied();
        let text = text.or_else(|| value.downcast_ref::<String>().map(String::as_str));
        Self(Box::new(Payload { message: text.map(Box::from), value: Mutex::new(Some(value)) }))
    }

    /// The message, if the panic was raised with one, as `panic!` does.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::{Failure, Pool};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let pool: Pool = Pool::new();
    /// pool.spawn(async { panic!("row {} has no key", 17) });
    /// let error = pool.run().await.unwrap_err();
    /// let Failure::Panic(payload) = error.failures()[0].failure() else { unreachable!() };
    /// assert_eq!(payload.message(), Some("row 17 has no key"));
    /// # }
    /// ```
    #[must_use]
    pub fn message(&self) -> Option<&str> {
        self.0.message.as_deref()
    }

    /// The value that the task panicked with.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::{Failure, Pool};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let pool: Pool = Pool::new();
    /// pool.spawn(async { std::panic::panic_any(404) });
    /// let failed = pool.run().await.unwrap_err().into_failures().remove(0);
    /// let Failure::Panic(payload) = failed.into_failure() else { unreachable!() };
    /// assert_eq!(*payload.into_inner().downcast::<i32>().unwrap(), 404);
    /// # }
    /// ```
    #[must_use]
    pub fn into_inner(mut self) -> Box<dyn Any + Send> {
        match self.take() {
            Some(value) => value,
            None => unreachable!("the payload is taken only here and in `drop`"),
        }
    }

    /// Resumes the panic in the caller.
    ///
    /// # Panics
    ///
    /// Always, with this payload. The panic hook is not called again.
    ///
    /// # Examples
    ///
    /// ```should_panic
    /// use aiodrive::{Failure, Pool};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let pool: Pool = Pool::new();
    /// pool.spawn(async { panic!("a bug") });
    /// for failed in pool.run().await.unwrap_err().into_failures() {
    ///     if let Failure::Panic(payload) = failed.into_failure() {
    ///         payload.resume();
    ///     }
    /// }
    /// # }
    /// ```
    pub fn resume(self) -> ! {
        panic::resume_unwind(self.into_inner())
    }

    /// The value, if it was not taken before.
    fn take(&mut self) -> Option<Box<dyn Any + Send>> {
        self.0.value.get_mut().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for PanicPayload {
    /// A payload's destructor is user code and may panic itself: that panic ends here, with its own payload, which
    /// could do the same again, forgotten.
    fn drop(&mut self) {
        if let Some(value) = self.take() {
            if let Err(payload) = catch(|| drop(value)) {
                std::mem::forget(payload.into_inner());
            }
        }
    }
}

impl Debug for PanicPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PanicPayload").field(&self.message()).finish()
    }
}

impl Display for PanicPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message().unwrap_or("a value that is no message"))
    }
}

/// Runs user code and turns its panic into a value.
///
/// The crate looks at nothing that the code may have left half changed, so that unwind safety is the user's matter,
/// as in [`std::thread::spawn`].
pub(crate) fn catch<R>(code: impl FnOnce() -> R) -> Result<R, PanicPayload> {
    panic::catch_unwind(AssertUnwindSafe(code)).map_err(PanicPayload::new)
}
