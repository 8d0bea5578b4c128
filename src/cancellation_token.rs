//! How a task hears that its pool cancels it.

use tokio_util::sync::CancellationToken;

use crate::scope::Scope;

/// The token that the pool cancels when it stops the calling task.
///
/// The pool cancels it as it begins to close the [`depth`](crate::TaskBuilder::depth) of the task. The task then has
/// the [`grace`](crate::PoolBuilder::grace) to end by itself; without a grace the abort comes at once. In a body it is
/// the token of depth 0.
///
/// Pools that were opened in the task listen to the token by themselves, and close. A pool that is opened when the
/// token *has* been cancelled is cleanup work: it runs normally, and only the abort ends it.
///
/// It is tokio-util's own [`CancellationToken`], for everything that takes one: a task can wait for it, give clones of
/// it away, and make children of it. When the pool has ended, it is cancelled in any case. If you cancel it by hand,
/// its holders and the nested pools that listen to it hear that, but the pool stays open. To close the pool, call
/// [`Pool::cancel`](crate::Pool::cancel).
///
/// Outside of a pool, in [`shield`](crate::shield())ed work and in the exit handler of
/// [`with_exit`](crate::with_exit()), the token is never cancelled.
///
/// Unlike a token of your own, it need not be passed down through every function. See
/// [cancellation](crate::docs::cancellation) for when to listen.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use aiodrive::{Pool, cancellation_token};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let pool: Pool = Pool::builder().grace(Duration::from_secs(5)).build();
/// let stop = pool.clone();
/// let last_words = pool.spawn_with_handle(async move {
///     stop.cancel();
///     cancellation_token().cancelled().await;
///     Ok("I have tidied up")
/// });
/// pool.run().await.unwrap();
/// assert_eq!(last_words.await, Ok("I have tidied up"));
/// # }
/// ```
///
/// A loop that stops between two jobs, and never in one:
///
/// ```
/// use std::time::Duration;
/// use aiodrive::{Pool, cancellation_token};
/// use tokio::time::sleep;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let pool: Pool = Pool::builder().grace(Duration::from_secs(60)).build();
/// let done = pool.spawn_with_handle(async {
///     let stop = cancellation_token();
///     let mut done = 0;
///     while !stop.is_cancelled() {
///         sleep(Duration::from_secs(10)).await; // a job
///         done += 1;
///     }
///     Ok(done)
/// });
/// pool.cancel_on(sleep(Duration::from_secs(25)));
/// pool.run().await.unwrap();
/// assert_eq!(done.await, Ok(3)); // the third was finished in the grace
/// # }
/// ```
#[must_use]
pub fn cancellation_token() -> CancellationToken {
    Scope::current().and_then(|scope| scope.token()).unwrap_or_default()
}

/// The token of the calling code, or `None` outside of every [scope](crate::docs#a-scope).
///
/// It is for a library that runs in a pool or without one, and does something else when it has none.
/// [`cancellation_token`] gives a token in both cases; outside of a pool nobody cancels it.
///
/// # Examples
///
/// ```
/// use aiodrive::{Pool, try_cancellation_token};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), aiodrive::PoolError> {
/// assert!(try_cancellation_token().is_none());
/// let inside = Pool::open(async |_: Pool| Ok(try_cancellation_token().is_some())).await?;
/// assert!(inside);
/// # Ok(())
/// # }
/// ```
#[must_use]
pub fn try_cancellation_token() -> Option<CancellationToken> {
    Scope::current().map(|scope| scope.token().unwrap_or_default())
}
