//! A point in time by which a future must be ready.

use std::panic::Location;

use tokio::time::Instant;
use tokio::time::error::Elapsed;

use crate::timeout::cut_off_at;

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
///     timeout_at(deadline, sleep(Duration::from_secs(3))).await?; // the answer, which is late
///     Ok(())
/// }
/// assert!(exchange().await.is_err());
/// # }
/// ```
#[track_caller]
pub fn timeout_at<F: Future>(deadline: Instant, future: F) -> impl Future<Output = Result<F::Output, Elapsed>> {
    cut_off_at(Some(deadline), future, Location::caller())
}
