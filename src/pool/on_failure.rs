//! What a failure does to its pool.

/// What a pool does about the failure of a task; decided by
/// [`PoolBuilder::on_failure`](crate::PoolBuilder::on_failure).
///
/// In each case the failing task has ended, and its handle says so. The decision is about the other tasks only. While
/// the pool closes, a failure changes nothing for them: then `Cancel` and `Collect` do the same.
///
/// # Examples
///
/// ```
/// use aiodrive::{OnFailure, Pool};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// assert_eq!(OnFailure::default(), OnFailure::Cancel);
///
/// let pool: Pool = Pool::builder().on_failure(|_| OnFailure::Discard).build();
/// pool.spawn(async { Err("nobody minds".into()) });
/// pool.run().await.unwrap();
/// # }
/// ```
///
/// With `Collect`, the failures are returned in place of the body's value. A variable around the pool keeps both:
///
/// ```
/// use aiodrive::{OnFailure, Pool};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let mut imported = 0;
/// let outcome = Pool::builder()
///     .on_failure(|_| OnFailure::Collect)
///     .open(async |pool: Pool| {
///         for row in 1..=5 {
///             let task = async move { if row == 3 { Err("bad row".into()) } else { Ok(()) } };
///             pool.spawn(task);
///         }
///         pool.idle().await;
///         imported = 4; // what the body has found out
///         Ok(imported)
///     })
///     .await;
/// assert_eq!(outcome.unwrap_err().failures().len(), 1);
/// assert_eq!(imported, 4);
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum OnFailure {
    /// Close the pool, and return the failure with all others.
    #[default]
    Cancel,
    /// Keep the pool open, and return the failure when the pool has ended.
    ///
    /// One failure is enough: then `open` and `run` return `Err`, and the value of the body is dropped. To have the
    /// value as well, put it into a variable around the pool (the body can borrow), send it through a channel, or use
    /// it in the body. A [`TaskGroup`](crate::TaskGroup) gives values and failures one by one.
    Collect,
    /// Keep the pool open, and drop the failure.
    Discard,
}
