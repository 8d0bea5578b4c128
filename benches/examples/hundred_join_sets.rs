//! What `hundred_pools` does, with loops around a `JoinSet`: to compare what they take to compile.

use std::error::Error;

use tokio::task::{JoinSet, yield_now};

type BoxError = Box<dyn Error + Send + Sync>;

macro_rules! join_sets {
    ($($name:ident)+) => {
        $(async fn $name(n: usize) -> Result<usize, BoxError> {
            let mut tasks = JoinSet::<Result<(), BoxError>>::new();
            tasks.spawn(async move { Ok(yield_now().await) });
            let twice = tokio::spawn(async move { Ok::<_, BoxError>(2 * n) });
            tasks.spawn(async move {
                assert_eq!(stringify!($name).len(), n);
                Ok(())
            });
            while let Some(ended) = tasks.join_next().await {
                ended??;
            }
            twice.await?
        })+

        /// Calls all of them.
        async fn all() -> Result<usize, BoxError> {
            Ok([$($name(stringify!($name).len()).await?),+].iter().sum())
        }
    };
}

aiodrive_benches::hundred!(join_sets);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    println!("{}", all().await?);
    Ok(())
}
