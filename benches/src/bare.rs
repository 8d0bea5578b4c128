//! The jobs, done with what tokio has, as people write it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aiodrive::BoxError;
use futures::stream::{self, StreamExt};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::{self, JoinSet, yield_now};

use super::{
    Client, Counter, LIMIT, connections, cube, flip, flips, last_fails, last_finishes, leaves, outcome, round_trip,
    slow_value, trivial, value, waits,
};

/// Spawn, then join; at the first error abort the others, join them, and return it.
pub async fn pool(size: usize) -> usize {
    spawn_all(size, trivial).await
}

pub async fn pool_waits(size: usize) -> usize {
    spawn_all(size, waits).await
}

pub async fn pool_round_trip(size: usize, client: Client) -> usize {
    spawn_all(size, |n| round_trip(n, client.clone())).await
}

/// All are spawned, and each waits for its permit.
pub async fn limit(size: usize) -> usize {
    let limit = Arc::new(Semaphore::new(LIMIT));
    let task = |n| {
        let limit = limit.clone();
        async move {
            let _permit = limit.acquire().await?;
            waits(n).await
        }
    };
    spawn_all(size, task).await
}

/// Results as they complete, at most `LIMIT` at a time.
pub async fn group(size: usize) -> usize {
    let (mut set, mut items, mut count) = (JoinSet::new(), 0..size, 0);
    for n in items.by_ref().take(LIMIT) {
        set.spawn(slow_value(n));
    }
    while let Some(ended) = set.join_next().await {
        ended.expect("it does not panic").expect("nothing fails");
        count += 1;
        if let Some(n) = items.next() {
            set.spawn(slow_value(n));
        }
    }
    count
}

/// The same in order: each task says which it was, and there is a place for each that was not given.
pub async fn map(size: usize) -> usize {
    let (mut set, mut items, mut waiting, mut count) = (JoinSet::new(), 0..size, VecDeque::new(), 0);
    loop {
        while waiting.len() < LIMIT {
            let Some(n) = items.next() else { break };
            set.spawn(async move { (n, slow_value(n).await) });
            waiting.push_back(None);
        }
        while let Some(Some(_)) = waiting.front() {
            assert_eq!(waiting.pop_front().flatten(), Some(count));
            count += 1;
        }
        if waiting.len() < LIMIT && !items.is_empty() {
            continue;
        }
        let Some(ended) = set.join_next().await else { return count };
        let (n, value) = ended.expect("it does not panic");
        waiting[n - count] = Some(value.expect("nothing fails"));
    }
}

/// Handles in order, of which each is polled when its turn comes.
pub async fn buffered(size: usize) -> usize {
    let handles = stream::iter(0..size).map(|n| tokio::spawn(slow_value(n)));
    let (mut results, mut count) = (handles.buffered(LIMIT), 0);
    while let Some(ended) = results.next().await {
        assert_eq!(ended.expect("it does not panic").expect("nothing fails"), count);
        count += 1;
    }
    count
}

async fn spawn_all<F>(size: usize, task: impl Fn(usize) -> F) -> usize
where
    F: Future<Output = Result<(), BoxError>> + Send + 'static,
{
    let mut set = JoinSet::new();
    for n in 0..size {
        set.spawn(task(n));
    }
    join(set).await.expect("nothing fails")
}

async fn join(mut set: JoinSet<Result<(), BoxError>>) -> Result<usize, BoxError> {
    let mut joined = 0;
    while let Some(ended) = set.join_next().await {
        match ended {
            Ok(Ok(())) => joined += 1,
            Ok(Err(error)) => {
                set.shutdown().await;
                return Err(error);
            }
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => {}
        }
    }
    Ok(joined)
}

pub async fn threads(size: usize) -> usize {
    let set = Arc::new(Mutex::new(JoinSet::new()));
    let spawners = [0, 1].map(|first| {
        let (set, runtime) = (set.clone(), Handle::current());
        task::spawn_blocking(move || {
            for n in (first..size).step_by(2) {
                set.lock().unwrap_or_else(PoisonError::into_inner).spawn_on(trivial(n), &runtime);
            }
        })
    });
    for spawner in spawners {
        spawner.await.expect("it does not panic");
    }
    let set = std::mem::take(&mut *set.lock().unwrap_or_else(PoisonError::into_inner));
    join(set).await.expect("nothing fails")
}

/// With tasks that belong to nobody, as in most servers.
pub async fn echo(size: usize) -> Duration {
    let serve = async |listener: TcpListener| -> Result<(), BoxError> {
        loop {
            let (client, _) = listener.accept().await?;
            tokio::spawn(super::echo(client));
        }
    };
    connections(size, serve).await
}

pub async fn first_failure(size: usize) -> Duration {
    let (parked, mut set) = (Counter::default(), JoinSet::new());
    for _ in 0..size {
        let parked = parked.clone();
        set.spawn(async {
            parked.park().await;
            Ok(())
        });
    }
    parked.reaches(size).await;
    let begin = Instant::now();
    set.spawn(async { Err("this is what was waited for".into()) });
    join(set).await.expect_err("a task has failed");
    let time = begin.elapsed();
    assert!(parked.is(0));
    time
}

pub async fn close(size: usize) -> Duration {
    let (parked, mut set) = (Counter::default(), JoinSet::new());
    (0..size).for_each(|_| drop(set.spawn(parked.clone().park())));
    parked.reaches(size).await;
    let begin = Instant::now();
    set.shutdown().await;
    assert!(parked.is(0));
    begin.elapsed()
}

pub async fn small_pools(size: usize) -> Duration {
    close_nested(&[size, 3], 3 * size).await
}

pub async fn tree(width: usize) -> Duration {
    close_nested(cube(width), leaves(cube(width))).await
}

/// `shutdown` does not wait for the lower levels, so that this has to ask.
async fn close_nested(shape: &[usize], count: usize) -> Duration {
    let parked = Counter::default();
    let mut set = nested(shape, &parked);
    parked.reaches(count).await;
    let begin = Instant::now();
    set.shutdown().await;
    parked.reaches(0).await;
    begin.elapsed()
}

fn nested(shape: &[usize], parked: &Counter) -> JoinSet<()> {
    let (count, below) = shape.split_first().expect("one level at least");
    let mut set = JoinSet::new();
    for _ in 0..*count {
        match below {
            [] => set.spawn(parked.clone().park()),
            _ => set.spawn(nest(below.to_vec(), parked.clone())),
        };
    }
    set
}

fn nest(shape: Vec<usize>, parked: Counter) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        let mut set = nested(&shape, &parked);
        while set.join_next().await.is_some() {}
    })
}

pub async fn race(size: usize) -> usize {
    let (winner, output) = match size {
        2 => first([last_finishes(0, size), last_finishes(1, size)]).await,
        _ => first((0..size).map(|n| last_finishes(n, size)).collect::<Vec<_>>()).await,
    };
    assert_eq!(winner, output);
    winner + 1
}

pub async fn race_ready(size: usize) -> usize {
    let (winner, ()) = match size {
        2 => first([yield_now(), yield_now()]).await,
        _ => first((0..size).map(|_| yield_now()).collect::<Vec<_>>()).await,
    };
    assert!(winner < size);
    size
}

/// Each future as a task that knows its index.
fn indexed<F>(futures: impl IntoIterator<Item = F>) -> JoinSet<(usize, F::Output)>
where
    F: Future<Output: Send> + Send + 'static,
{
    futures.into_iter().enumerate().map(|(n, future)| async move { (n, future.await) }).collect()
}

/// The first to finish; the others are aborted, and joined.
async fn first<F>(futures: impl IntoIterator<Item = F>) -> (usize, F::Output)
where
    F: Future<Output: Send> + Send + 'static,
{
    let mut set = indexed(futures);
    let first = set.join_next().await.expect("one at least");
    set.shutdown().await;
    first.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

pub async fn try_all(size: usize) -> usize {
    let values = match size {
        2 => all([value(0), value(1)]).await,
        _ => all((0..size).map(value).collect::<Vec<_>>()).await,
    };
    *values.expect("nothing fails").last().expect("one at least") + 1
}

pub async fn try_all_fails(size: usize) -> usize {
    let failed = match size {
        2 => all([last_fails(0, size), last_fails(1, size)]).await,
        _ => all((0..size).map(|n| last_fails(n, size)).collect::<Vec<_>>()).await,
    };
    failed.expect_err("one fails");
    size
}

/// All values, in order, or the first error, after the others were aborted and joined.
async fn all<F, T>(futures: impl IntoIterator<Item = F>) -> Result<Vec<T>, BoxError>
where
    F: Future<Output = Result<T, BoxError>> + Send + 'static,
    T: Send + 'static,
{
    let mut set = indexed(futures);
    let mut values: Vec<Option<T>> = (0..set.len()).map(|_| None).collect();
    while let Some(ended) = set.join_next().await {
        let failure = match ended {
            Ok((n, Ok(value))) => {
                values[n] = Some(value);
                continue;
            }
            Ok((_, Err(error))) => error,
            Err(error) => error.into(),
        };
        set.shutdown().await;
        return Err(failure);
    }
    Ok(values.into_iter().map(|value| value.expect("all are there")).collect())
}

pub async fn wait_all(size: usize) -> usize {
    let outcomes = match size {
        2 => each([outcome(0), outcome(1)]).await,
        _ => each((0..size).map(outcome).collect::<Vec<_>>()).await,
    };
    for (n, outcome) in outcomes.iter().enumerate() {
        assert_eq!(outcome.as_ref().expect("it does not panic").is_ok(), n % 2 == 0);
    }
    outcomes.len()
}

/// What each has come to, in order; nothing, if it has panicked.
async fn each<F>(futures: impl IntoIterator<Item = F>) -> Vec<Option<F::Output>>
where
    F: Future<Output: Send> + Send + 'static,
{
    let mut set = indexed(futures);
    let mut outcomes: Vec<_> = (0..set.len()).map(|_| None).collect();
    while let Some(ended) = set.join_next().await {
        if let Ok((n, outcome)) = ended {
            outcomes[n] = Some(outcome);
        }
    }
    outcomes
}

pub async fn latch(size: usize) -> Duration {
    let (state, parked) = (watch::Sender::new(false), Counter::default());
    let mut tasks = JoinSet::new();
    for _ in 0..size {
        let (mut state, parked) = (state.subscribe(), parked.clone());
        tasks.spawn(async move {
            parked.add();
            drop(state.wait_for(|set| *set).await);
        });
    }
    flip(size, parked, tasks, || _ = state.send_replace(true)).await
}

pub async fn latch_loops(size: usize) -> Duration {
    let (state, seen) = (watch::Sender::new(false), Counter::default());
    let mut tasks = JoinSet::new();
    for _ in 0..size {
        let (mut state, seen) = (state.subscribe(), seen.clone());
        tasks.spawn(async move {
            loop {
                seen.add();
                drop(state.wait_for(|set| *set).await);
                seen.add();
                drop(state.wait_for(|set| !*set).await);
            }
        });
    }
    flips(size, seen, tasks, |set| _ = state.send_replace(set)).await
}
