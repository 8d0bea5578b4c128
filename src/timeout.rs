//! A limit on how long a future may take.
//!
//! The future runs in a scope of its own, in class. At the limit it is dropped; then comes the wait for that scope,
//! which ends when all has ended that the future had begun. The wait is the same if the future was in time, so that the
//! scope of a call never outlives it.

use std::panic::Location;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::error::Elapsed;
use tokio::time::{self, Instant};

use crate::error::BoxError;
use crate::scope::{Completion, Scoped};
use crate::scope::{Scope, ScopeKind};
use crate::unreported::Unreported;

/// Runs a future for at most `limit`, and returns when what it cut off has ended.
///
/// At the limit the future is dropped, which closes the pools and groups that it was in the middle of. This waits until
/// all their tasks have ended, also beyond the limit. The limit counts from the call; `Duration::MAX` is no limit.
///
/// Unlike [`tokio::time::timeout`], it leaves nothing behind. It costs one allocation more.
///
/// # Fairness
///
/// A future that is ready when it is first polled wins, also against a limit of zero.
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
    cut_off_at(Instant::now().checked_add(limit), future, Location::caller())
}

/// Runs a future until `deadline`, if there is one, and waits for what is left below it.
pub(crate) async fn cut_off_at<F: Future>(
    deadline: Option<Instant>,
    future: F,
    called_at: &'static Location<'static>,
) -> Result<F::Output, Elapsed> {
    let scope = Scope::enter(ScopeKind::InPlace);
    let mut future = pin!(Scoped::new(Arc::clone(&scope), future));
    let ended = match deadline {
        Some(deadline) => time::timeout_at(deadline, future.as_mut()).await,
        None => Ok(future.as_mut().await),
    };
    // A panic is no reason not to wait, and outlives this future if that is dropped meanwhile.
    let mut unreported = Unreported::<BoxError>::new(&scope, called_at);
    let output = match ended {
        Ok(Completion { output, dropped }) => {
            let output = output.map_err(|payload| unreported.keep_panic(Some(payload))).ok();
            unreported.keep_panic(dropped);
            Ok(output)
        }
        Err(elapsed) => {
            unreported.keep_panic(future.as_mut().end());
            Err(elapsed)
        }
    };
    drop(future.take_scope());
    scope.wait_empty().await;
    unreported.resume(output).map(|output| output.expect("a future has an output if it did not panic"))
}
