//! A task that was refused.

use std::fmt::{self, Debug};

/// A task that was not spawned because the pool is closed, given back by [`Pool::try_spawn`](crate::Pool::try_spawn).
///
/// Like the error of a channel whose receiver is gone, it holds what could not be delivered: the future, never polled.
///
/// # Examples
///
/// ```
/// let pool: aiodrive::Pool = aiodrive::Pool::new();
/// pool.cancel();
/// assert_eq!(pool.try_spawn(async {}).unwrap_err().to_string(), "the pool is closed");
/// ```
#[derive(thiserror::Error)]
#[error("the pool is closed")]
pub struct SpawnError<F>(pub(crate) F);

impl<F> SpawnError<F> {
    /// The future, never polled.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let (pool, other): (Pool, Pool) = (Pool::new(), Pool::new());
    /// pool.cancel();
    /// if let Err(refused) = pool.try_spawn(async {}) {
    ///     other.spawn(refused.into_inner());
    /// }
    /// assert_eq!(other.len(), 1);
    /// # }
    /// ```
    #[must_use]
    pub fn into_inner(self) -> F {
        self.0
    }
}

impl<F> Debug for SpawnError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SpawnError(..)")
    }
}
