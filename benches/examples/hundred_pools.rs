//! A hundred pools, each with tasks of its own types: what a program that uses the crate everywhere takes to compile.
//!
//! `cargo build --timings -p aiodrive-benches --example hundred_pools`, and `hundred_join_sets` for the same with tokio.

use aiodrive::{Pool, PoolError};
use tokio::task::yield_now;

macro_rules! pools {
    ($($name:ident)+) => {
        $(async fn $name(n: usize) -> Result<usize, PoolError> {
            Pool::open(async |pool: Pool| {
                pool.spawn(async move { Ok(yield_now().await) });
                let twice = pool.spawn_with_handle(async move { Ok(2 * n) });
                pool.build_task().name(stringify!($name)).spawn(async move { assert_eq!(stringify!($name).len(), n) });
                Ok(twice.await?)
            })
            .await
        })+

        /// Calls all of them.
        async fn all() -> Result<usize, PoolError> {
            Ok([$($name(stringify!($name).len()).await?),+].iter().sum())
        }
    };
}

aiodrive_benches::hundred!(pools);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), PoolError> {
    println!("{}", all().await?);
    Ok(())
}
