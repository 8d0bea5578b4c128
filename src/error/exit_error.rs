//! What fails in a `with_exit`.

use std::any::Any;
use std::error::Error;
use std::fmt::{self, Debug, Display};

use super::BoxError;
use super::echo::CancelledError;
use super::text::Parts;

/// What failed in [`with_exit`](crate::with_exit()): the body, the exit handler, or both.
///
/// An error of the body reads as if it had been returned without a `with_exit` around it, and only what the handler
/// adds is named: so the text stays short if several are nested. `{:#}` puts the two on a line each.
///
/// # Examples
///
/// ```
/// use aiodrive::{ExitError, with_exit};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let error = with_exit(
///     "session",
///     async |_| Err::<(), _>("query failed"),
///     async |_, _| Err("logout failed"),
/// );
/// let error = error.await.unwrap_err();
/// assert!(matches!(error, ExitError::Both { body: "query failed", exit: "logout failed" }));
/// assert_eq!(error.to_string(), "query failed; exit handler failed: logout failed");
/// # }
/// ```
#[derive(Debug)]
pub enum ExitError<E> {
    /// Only the body failed.
    Body(E),
    /// Only the exit handler failed.
    Exit(E),
    /// Both failed.
    Both {
        /// What the body returned.
        body: E,
        /// What the exit handler returned.
        exit: E,
    },
}

impl<E: Display> Display for ExitError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (body, exit) = match self {
            Self::Body(body) => (Some(body), None),
            Self::Exit(exit) => (None, Some(exit)),
            Self::Both { body, exit } => (Some(body), Some(exit)),
        };
        let mut parts = Parts::new(f);
        if let Some(body) = body {
            parts.begin(f)?;
            Display::fmt(body, f)?;
        }
        if let Some(exit) = exit {
            parts.begin(f)?;
            f.write_str("exit handler failed: ")?;
            Display::fmt(exit, f)?;
        }
        Ok(())
    }
}

impl<E: Debug + Display + 'static> Error for ExitError<E> {
    /// The cause of the only error, if that is a [`BoxError`]: the error's own text is part of `Display` already. With
    /// both, each has its own.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Body(body) => cause_of(body),
            // Nobody asks a handler to stop: its failure is never to be taken for an echo of that.
            Self::Exit(exit) => cause_of(exit).filter(|cause| !cause.is::<CancelledError>()),
            Self::Both { .. } => None,
        }
    }
}

/// The cause of an error, if its type is one that can be asked.
fn cause_of<E: 'static>(error: &E) -> Option<&(dyn Error + 'static)> {
    (error as &dyn Any).downcast_ref::<BoxError>()?.source()
}
