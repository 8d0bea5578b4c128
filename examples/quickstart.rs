//! The first thing to learn: tasks belong to a pool, end with it, and none of their errors is lost.
//!
//! `cargo run --example quickstart -- FILE…` counts the lines of files, each in a task of its own, as `wc -l` does.
//! Without a file it counts those of this one.

use std::env;
use std::process::ExitCode;

use aiodrive::{BoxError, Pool, PoolError};
use tokio::fs;

#[tokio::main]
async fn main() -> ExitCode {
    let mut paths: Vec<_> = env::args().skip(1).collect();
    if paths.is_empty() {
        paths.push(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/quickstart.rs").into());
    }
    match count_all(&paths).await {
        Ok(total) => {
            println!("{total} total");
            ExitCode::SUCCESS
        }
        Err(error) => {
            // For each failure, the name of its task, the line that spawned it, and what went wrong.
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn count_all(paths: &[String]) -> Result<usize, PoolError> {
    let counted = Pool::open(async |pool: Pool| {
        // The body borrows from its caller; the tasks own what they need. They run from here on, side by side.
        let counts =
            paths.iter().map(|path| pool.build_task().name(path.clone()).spawn_with_handle(count(path.clone())));
        let counts: Vec<_> = counts.collect();
        let mut total = 0;
        for (path, count) in paths.iter().zip(counts) {
            // If a task fails, the others and this body are cut off: here.
            let lines = count.await?;
            println!("{lines} {path}");
            total += lines;
        }
        Ok(total)
    });
    // When this is ready, with a value or an error, no task is left.
    counted.await
}

async fn count(path: String) -> Result<usize, BoxError> {
    Ok(fs::read(path).await?.iter().filter(|&&byte| byte == b'\n').count())
}
