//! `size` trivial tasks, with what people use besides `JoinSet`: spawn all, join all, return the first error.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aiodrive::BoxError;
use async_scoped::TokioScope;
use futures::future::try_join_all;
use futures::stream::{FuturesUnordered, StreamExt};
use futures_concurrency::future::TryJoin;
use tokio_graceful_shutdown::{SubsystemBuilder, SubsystemHandle, Toplevel};
use tokio_util::task::TaskTracker;

use super::trivial;

/// It tells nothing but the end of all, so that the tasks have to keep the error.
pub async fn task_tracker(size: usize) -> usize {
    let (tracker, first_error) = (TaskTracker::new(), Arc::new(OnceLock::new()));
    for n in 0..size {
        let first_error = first_error.clone();
        tracker.spawn(async move {
            if let Err(error) = trivial(n).await {
                drop(first_error.set(error));
            }
        });
    }
    tracker.close();
    tracker.wait().await;
    assert!(first_error.get().is_none());
    size
}

/// The handles, with the two errors of each made one.
fn handles(size: usize) -> impl Iterator<Item = impl Future<Output = Result<(), BoxError>>> {
    (0..size).map(|n| tokio::spawn(trivial(n))).map(async |handle| handle.await?)
}

pub async fn try_join_all_handles(size: usize) -> usize {
    try_join_all(handles(size)).await.expect("nothing fails").len()
}

pub async fn futures_unordered(size: usize) -> usize {
    let mut handles: FuturesUnordered<_> = handles(size).collect();
    let mut joined = 0;
    while let Some(ended) = handles.next().await {
        ended.expect("nothing fails");
        joined += 1;
    }
    joined
}

pub async fn futures_concurrency(size: usize) -> usize {
    handles(size).collect::<Vec<_>>().try_join().await.expect("nothing fails").len()
}

/// On a multi-thread runtime: it blocks the thread. What does not is `unsafe`.
pub async fn async_scoped(size: usize) -> usize {
    let ((), ended) = TokioScope::scope_and_block(|scope| (0..size).for_each(|n| scope.spawn(trivial(n))));
    ended.into_iter().map(|ended| ended.expect("it does not panic").expect("nothing fails")).count()
}

pub async fn graceful_shutdown(size: usize) -> usize {
    let top: Toplevel = Toplevel::new(async move |top: &mut SubsystemHandle| {
        for n in 0..size {
            top.start(SubsystemBuilder::new("task", async move |_: &mut SubsystemHandle| trivial(n).await));
        }
    });
    top.handle_shutdown_requests(Duration::MAX).await.expect("nothing fails");
    size
}
