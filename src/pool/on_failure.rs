//! What a failure does to its pool.

/// What a pool does about the failure of a task; decided by
/// [`PoolBuilder::on_failure`](crate::PoolBuilder::on_failure).
///
/// The failing task has ended in each case, and whoever holds its handle is told so. The decision is only about the
/// others. A failure while the pool closes changes nothing for them: then `Cancel` and `Collect` are the same.
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
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum OnFailure {
    /// Close the pool, and return the failure with all others.
    #[default]
    Cancel,
    /// Go on, and return the failure when the pool has ended.
    Collect,
    /// Go on, and forget the failure.
    Discard,
}
