//! A resource with a goodbye that has to be awaited.
//!
//! The body runs in place, and borrows the resource. The handler takes it, and has to run even if there is nobody left
//! to run it in: so it is shielded work, in a scope beside that of the body, and its first step is to wait for the end
//! of the body's scope. The [`ExitGuard`] owns the resource in between. However the body ends, the handler is started
//! after it: with the reason, or as the guard is dropped, which is the reason itself.
//!
//! There are up to three failures: of the body, of its destructor, and of the handler. One of them is returned or
//! resumed, two errors are returned together, and the others are reported to the enclosing scope: those of body and
//! handler wait as [`Unreported`]s.

use std::future::ready;
use std::panic::Location;
use std::sync::Arc;

use tokio::runtime::Handle;

use crate::error::{BoxError, ExitError, Failure, PanicPayload};
use crate::scope::{Completion, Reporter, Scope, Scoped, Then, Unreported, failure_of};
use crate::shield::Shield;

/// Runs a body with a resource, then an exit handler that takes the resource: always, even if the body fails, panics,
/// or is dropped halfway.
///
/// It is for what a destructor cannot do, since it cannot wait: end a session, give a lock back to a server, flush. The
/// handler gets an [`Exit`], which says how the body ended. It begins when everything that the body opened has ended,
/// and it runs as a task: nothing cuts it short, no grace and no abort. If the returned future is dropped, or its task
/// aborted, the runtime runs the handler and the enclosing pool waits for it.
///
/// The handler cannot undo a failure of the body. If both fail, both errors are kept.
///
/// The returned future does nothing until it is polled. If it is dropped before that, the resource is dropped without
/// the handler.
///
/// Unlike a guard that does its work in `Drop`, it can wait. It is Python's `async with`, without a class.
///
/// In a spawned task, the type of the resource must not name a lifetime, not even `'static`: otherwise the compiler
/// finds that the body "is not general enough". A type of your own around it helps: `struct Log(Arc<Mutex<Vec<&'static
/// str>>>)`.
///
/// # Errors
///
/// With what the body, the handler, or both returned. An error of the body alone reads as that error, and is [no
/// failure](crate::docs::errors_and_panics#what-is-no-failure) of a pool around it if it would be none by itself. A
/// failure that cannot be returned, because the future was dropped or the other part panicked, is a [cleanup
/// failure](crate::PoolError::cleanup_failures) of the enclosing pool.
///
/// # Panics
///
/// - When polled outside of a tokio runtime.
/// - With the panic of the body, after the handler has run, or else with that of the handler.
/// - If the body succeeded and the runtime shuts down before the handler has ended. In a runtime that shuts down no
///   handler runs.
///
/// # Cancel safety
///
/// This function is not cancel safe: what the body had done is lost. Dropping the returned future drops the body, and
/// the exit handler runs with [`Exit::Cancelled`].
///
/// # Examples
///
/// ```
/// use aiodrive::{Exit, with_exit};
///
/// struct Session(Vec<String>);
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), aiodrive::ExitError<std::io::Error>> {
/// let answer = with_exit(
///     Session(Vec::new()),
///     async |session| {
///         session.0.push("hello".into());
///         Ok(42)
///     },
///     |session, exit| async move {
///         assert_eq!(exit, Exit::Finished);
///         drop(session); // say goodbye to the server …
///         Ok(())
///     },
/// )
/// .await?;
/// assert_eq!(answer, 42);
/// # Ok(())
/// # }
/// ```
///
/// A lock on a server that is given back in any case:
///
/// ```
/// use std::future::pending;
/// use std::time::Duration;
/// use aiodrive::{BoxError, Exit, LatchEvent, timeout, with_exit};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// struct Lock(LatchEvent);
///
/// let held = LatchEvent::from(true);
/// let work = with_exit(
///     Lock(held.clone()),
///     async |_| pending::<Result<(), BoxError>>().await, // takes too long
///     |lock, exit| async move {
///         assert_eq!(exit, Exit::Cancelled);
///         tokio::time::sleep(Duration::from_millis(20)).await; // the round trip
///         lock.0.unset();
///         Ok(())
///     },
/// );
/// assert!(timeout(Duration::from_secs(1), work).await.is_err());
/// assert!(!held.is_set()); // `timeout` has waited for the handler
/// # }
/// ```
#[doc(alias = "aexit_handler")]
#[track_caller]
pub fn with_exit<R, T, E, B, X, XF>(resource: R, body: B, exit: X) -> impl Future<Output = Result<T, ExitError<E>>>
where
    B: AsyncFnOnce(&mut R) -> Result<T, E>,
    R: Send + 'static,
    E: Into<BoxError> + Send + 'static,
    X: FnOnce(R, Exit) -> XF + Send + 'static,
    XF: Future<Output = Result<(), E>> + Send + 'static,
{
    let called_at = Location::caller();
    async move {
        let runtime = Reporter::new(NAME, called_at).runtime("polled");
        let scope = Scope::in_place();
        let reporter = Reporter::within(scope.parent(), NAME, called_at);
        let parts = Parts { resource, exit, scope: Arc::clone(&scope), runtime, called_at };
        let mut guard = ExitGuard { parts: Some(parts) };
        // If this future is dropped here: the body goes first, then the guard, which starts the handler.
        let Completion { output, dropped } = Scoped::new(scope, guard.run_body(body)).await;
        if let Some(payload) = dropped {
            reporter.report(Failure::Panic(payload));
        }
        let how = Exit::of(&output);
        let body = Unreported::new(output, failure_of, &reporter);
        // If it is dropped here: the handler goes on, and what has failed in the body is reported.
        let handled = match guard.start_handler(how) {
            Some(handler) => handler.wait_ended().await,
            None => None,
        };
        conclude(body, handled, &reporter)
    }
}

/// How the call is named.
const NAME: &str = "with_exit";

/// How the body of [`with_exit`] ended.
///
/// # Examples
///
/// A transaction that is committed only if all went well:
///
/// ```
/// use aiodrive::{Exit, with_exit};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let transaction = with_exit(
///     Vec::new(),
///     async |rows| {
///         rows.push(1);
///         Err::<(), _>("the second row is missing")
///     },
///     async |rows, exit| match exit {
///         Exit::Finished => Ok(drop(rows)), // commit
///         _ => Ok(assert_eq!(exit, Exit::Failed)), // roll back
///     },
/// );
/// assert!(transaction.await.is_err());
/// # }
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Exit {
    /// It returned `Ok`.
    Finished,
    /// It returned `Err`.
    Failed,
    /// It was dropped halfway.
    Cancelled,
    /// It panicked.
    Panicked,
}

impl Exit {
    /// How a body that was not dropped has ended.
    fn of<T, E>(output: &Result<Result<T, E>, PanicPayload>) -> Self {
        match output {
            Ok(Ok(_)) => Self::Finished,
            Ok(Err(_)) => Self::Failed,
            Err(_) => Self::Panicked,
        }
    }
}

/// The time between getting a resource and giving it back. When it is dropped, the handler is started.
struct ExitGuard<R, E, X, XF>
where
    R: Send + 'static,
    E: Into<BoxError> + Send + 'static,
    X: FnOnce(R, Exit) -> XF + Send + 'static,
    XF: Future<Output = Result<(), E>> + Send + 'static,
{
    /// `None` once the handler has been started.
    parts: Option<Parts<R, X>>,
}

/// What the handler is made of.
struct Parts<R, X> {
    resource: R,
    exit: X,
    /// The scope of the body.
    scope: Arc<Scope>,
    /// Kept from the first poll: a drop may come from anywhere.
    runtime: Handle,
    called_at: &'static Location<'static>,
}

impl<R, E, X, XF> ExitGuard<R, E, X, XF>
where
    R: Send + 'static,
    E: Into<BoxError> + Send + 'static,
    X: FnOnce(R, Exit) -> XF + Send + 'static,
    XF: Future<Output = Result<(), E>> + Send + 'static,
{
    /// The body, made at the first poll.
    fn run_body<T, B: AsyncFnOnce(&mut R) -> Result<T, E>>(&mut self, body: B) -> impl Future<Output = Result<T, E>> {
        let parts = self.parts.as_mut().expect("the handler is started only after the body");
        Then::new(ready(()), move || body(&mut parts.resource))
    }

    /// Starts the handler, in a scope beside the body's, whose end it waits for first.
    fn start_handler(&mut self, how: Exit) -> Option<Shield<Result<(), E>>> {
        let Parts { resource, exit, scope, runtime, called_at } = self.parts.take()?;
        let enclosing = scope.parent().cloned();
        let handler = Then::new(scope.wait_empty(), move || exit(resource, how));
        Some(Shield::spawn(&runtime, enclosing, Reporter::new(NAME, called_at), handler, failure_of))
    }
}

impl<R, E, X, XF> Drop for ExitGuard<R, E, X, XF>
where
    R: Send + 'static,
    E: Into<BoxError> + Send + 'static,
    X: FnOnce(R, Exit) -> XF + Send + 'static,
    XF: Future<Output = Result<(), E>> + Send + 'static,
{
    /// The handler runs on by itself, and its failure is reported.
    fn drop(&mut self) {
        drop(self.start_handler(Exit::Cancelled));
    }
}

/// What the body and the handler have come to; `handled` is `None` if the runtime has shut down.
///
/// A panic goes on, that of the body before that of the handler. What cannot be returned then is reported before: a
/// destructor that panicked while the panic goes on would end the process.
fn conclude<T, E: Into<BoxError>>(
    body: Unreported<Result<T, E>, &Reporter>,
    handled: Option<Unreported<Result<(), E>>>,
    reporter: &Reporter,
) -> Result<T, ExitError<E>> {
    let body = match body.take() {
        Ok(body) => body,
        Err(payload) => {
            drop(handled);
            payload.resume()
        }
    };
    let handled = match handled.map(Unreported::take) {
        Some(Err(payload)) => {
            drop(Unreported::new(Ok(body), failure_of, reporter));
            payload.resume()
        }
        Some(Ok(handled)) => Some(handled),
        None => None,
    };
    match (body, handled) {
        (Ok(value), Some(Ok(()))) => Ok(value),
        (Ok(value), handled) => {
            reporter.discard(value);
            let Some(Err(exit)) = handled else {
                panic!("the runtime of an exit handler has shut down (`with_exit` at {})", reporter.called_at)
            };
            Err(ExitError::Exit(exit))
        }
        (Err(body), Some(Err(exit))) => Err(ExitError::Both { body, exit }),
        (Err(body), _) => Err(ExitError::Body(body)),
    }
}
