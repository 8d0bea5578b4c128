//! A limit on how long a future may take.
//!
//! The future runs in a scope of its own, in place. At the limit it is dropped; then comes the wait for that scope,
//! which ends when all has ended that the future had begun. The wait is the same if the future was in time, so that the
//! scope of a call never outlives it.

use std::panic::Location;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::error::Elapsed;
use tokio::time::{self, Instant};

use crate::error::{Failure, PanicPayload};
use crate::scope::{Completion, Reporter, Scope, Scoped, Unreported};

/// Runs a future for at most `limit`, and returns when what it cut off has ended.
///
/// At the limit the future is dropped, which closes the pools and groups that it was in the middle of. This waits until
/// all their tasks have ended, even beyond the limit. The limit counts from the call; `Duration::MAX` is no limit.
///
/// Unlike [`tokio::time::timeout`], it leaves nothing behind. It costs one allocation more.
///
/// # Fairness
///
/// A future that is ready when it is first polled wins, even against a limit of zero.
///
/// # Errors
///
/// With tokio's own [`Elapsed`] if the limit passed before the future was ready.
///
/// # Panics
///
/// - When polled outside of a tokio runtime, or in one without timers, as tokio's does, unless there is no limit.
/// - With the panic of `future`, or of its destructor, after what it left behind has ended. An output that is there
///   beside the panic of the destructor is lost.
///
/// # Cancel safety
///
/// Cancel safe if `future` is, and has no tasks below it when it is ready: while those are waited for, its output could
/// be lost. Dropping the returned future drops `future`; the enclosing pool waits for what that leaves running.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use aiodrive::{Pool, timeout};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let slow = Pool::open(async |pool: Pool| {
///     pool.spawn(tokio::time::sleep(Duration::from_secs(3600)));
///     Ok(())
/// });
/// assert!(timeout(Duration::from_secs(1), slow).await.is_err()); // and the task has ended
/// assert_eq!(timeout(Duration::ZERO, async { 1 }).await, Ok(1));
/// # }
/// ```
#[track_caller]
pub fn timeout<F: Future>(limit: Duration, future: F) -> impl Future<Output = Result<F::Output, Elapsed>> {
    run_until(Instant::now().checked_add(limit), future, ("timeout", Location::caller()))
}

/// Runs a future until `deadline` at most, and returns when what it cut off has ended.
///
/// Like [`timeout`](crate::timeout()) in everything else. A deadline in the past leaves the future one poll.
///
/// Unlike [`tokio::time::timeout_at`], it leaves nothing behind. Use it where several steps share one deadline.
///
/// # Fairness
///
/// See [`timeout`](crate::timeout()).
///
/// # Errors
///
/// See [`timeout`](crate::timeout()).
///
/// # Panics
///
/// See [`timeout`](crate::timeout()).
///
/// # Cancel safety
///
/// Cancel safe under the conditions of [`timeout`](crate::timeout()).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tokio::time::Instant;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let deadline = Instant::now() + Duration::from_secs(1);
/// assert_eq!(aiodrive::timeout_at(deadline, async { "in time" }).await, Ok("in time"));
/// assert!(aiodrive::timeout_at(deadline, std::future::pending::<()>()).await.is_err());
/// assert_eq!(Instant::now(), deadline);
/// # }
/// ```
///
/// Two steps with one deadline:
///
/// ```
/// use std::time::Duration;
/// use aiodrive::timeout_at;
/// use tokio::time::error::Elapsed;
/// use tokio::time::{Instant, sleep};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// async fn exchange() -> Result<(), Elapsed> {
///     let deadline = Instant::now() + Duration::from_secs(5);
///     timeout_at(deadline, sleep(Duration::from_secs(3))).await?; // the question
///     timeout_at(deadline, sleep(Duration::from_secs(3))).await?; // the answer: too late
///     Ok(())
/// }
/// assert!(exchange().await.is_err());
/// # }
/// ```
#[track_caller]
pub fn timeout_at<F: Future>(deadline: Instant, future: F) -> impl Future<Output = Result<F::Output, Elapsed>> {
    run_until(Some(deadline), future, ("timeout_at", Location::caller()))
}

/// Runs a future until `deadline`, if there is one, and waits for what is left below it.
async fn run_until<F: Future>(
    deadline: Option<Instant>,
    future: F,
    (function, called_at): (&'static str, &'static Location<'static>),
) -> Result<F::Output, Elapsed> {
    let scope = Scope::in_place();
    let reporter = Reporter::within(scope.parent(), function, called_at);
    let mut future = pin!(Scoped::new(Arc::clone(&scope), future));
    let ended = match deadline {
        Some(deadline) => {
            drop(reporter.runtime("polled"));
            time::timeout_at(deadline, future.as_mut()).await
        }
        None => Ok(future.as_mut().await),
    };
    let outcome = match ended {
        Ok(Completion { output, dropped }) => first_panic(output.map(Ok), dropped, &reporter),
        Err(elapsed) => future.as_mut().end().map_or(Ok(Err(elapsed)), Err),
    };
    // A panic is no reason not to wait, and outlives this future if that is dropped meanwhile.
    let outcome = Unreported::new(outcome, |_| None, reporter);
    drop(future.take_scope());
    scope.wait_empty().await;
    outcome.take().unwrap_or_else(|payload| payload.resume())
}

/// The output of a future, or the first of its panics. The destructor ran after the last poll.
fn first_panic<T>(
    output: Result<T, PanicPayload>,
    dropped: Option<PanicPayload>,
    reporter: &Reporter,
) -> Result<T, PanicPayload> {
    match (output, dropped) {
        (output, None) => output,
        (Ok(output), Some(payload)) => {
            reporter.discard(output);
            Err(payload)
        }
        (panicked, Some(payload)) => {
            reporter.report(Failure::Panic(payload));
            panicked
        }
    }
}
