//! The jobs, done with `aiodrive`.

use std::future::pending;
use std::pin::Pin;
use std::time::{Duration, Instant};

use aiodrive::{BoxError, LatchEvent, Pool, PoolBuilder, PoolError, TaskGroup};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::{self, yield_now};

use super::{
    Client, Counter, LIMIT, connections, cube, flip, flips, last_fails, last_finishes, leaves, outcome, round_trip,
    slow_value, trivial, value, waits,
};

/// `size` tasks that end at once.
pub async fn pool(size: usize) -> usize {
    spawn_all(Pool::builder(), size, trivial).await
}

/// `size` tasks that wait once.
pub async fn pool_waits(size: usize) -> usize {
    spawn_all(Pool::builder(), size, waits).await
}

/// `size` tasks with a request each.
pub async fn pool_round_trip(size: usize, client: Client) -> usize {
    spawn_all(Pool::builder(), size, |n| round_trip(n, client.clone())).await
}

/// `size` tasks that wait once, at most `LIMIT` of them at a time.
pub async fn limit(size: usize) -> usize {
    spawn_all(Pool::builder().limit(LIMIT), size, waits).await
}

/// `size` results as they complete, of tasks that wait once, at most `LIMIT` of them at a time.
pub async fn group(size: usize) -> usize {
    let (mut group, mut items, mut count) = (TaskGroup::new(), 0..size, 0);
    for n in items.by_ref().take(LIMIT) {
        group.spawn(slow_value(n));
    }
    while let Some(result) = group.next().await {
        result.expect("nothing fails");
        count += 1;
        if let Some(n) = items.next() {
            group.spawn(slow_value(n));
        }
    }
    count
}

/// The same in order.
pub async fn map(size: usize) -> usize {
    let (mut results, mut count) = (aiodrive::map(LIMIT, 0..size, slow_value), 0);
    while let Some(result) = results.next().await {
        assert_eq!(result.expect("nothing fails"), count);
        count += 1;
    }
    count
}

pub async fn map_unordered(size: usize) -> usize {
    let (mut results, mut count) = (aiodrive::map(LIMIT, 0..size, slow_value).unordered(), 0);
    while let Some(result) = results.next().await {
        result.expect("nothing fails");
        count += 1;
    }
    count
}

async fn spawn_all<F>(pool: PoolBuilder, size: usize, task: impl Fn(usize) -> F) -> usize
where
    F: Future<Output = Result<(), BoxError>> + Send + 'static,
{
    let opened = pool.open(async |pool: Pool| {
        for n in 0..size {
            pool.spawn(task(n));
        }
        Ok(size)
    });
    opened.await.expect("nothing fails")
}

/// `size` trivial tasks, half of them spawned from each of two threads.
pub async fn threads(size: usize) -> usize {
    let opened = Pool::open(async |pool: Pool| {
        let spawners = [0, 1].map(|first| {
            let pool = pool.clone();
            task::spawn_blocking(move || (first..size).step_by(2).for_each(|n| pool.spawn(trivial(n))))
        });
        for spawner in spawners {
            spawner.await.expect("it does not panic");
        }
        Ok(size)
    });
    opened.await.expect("nothing fails")
}

/// `size` clients of a server that has a task for each connection.
pub async fn echo(size: usize) -> Duration {
    let serve = async |listener: TcpListener| {
        let opened = Pool::open(async |pool: Pool| -> Result<(), BoxError> {
            loop {
                let (client, _) = listener.accept().await?;
                pool.spawn(super::echo(client));
            }
        });
        opened.await
    };
    connections(size, serve).await
}

/// From the failure of one task to the end of `size` others, which were parked.
pub async fn first_failure(size: usize) -> Duration {
    let parked = Counter::default();
    let (sender, began) = oneshot::channel();
    let opened = Pool::open(async |pool: Pool| -> Result<(), BoxError> {
        (0..size).for_each(|_| pool.spawn(parked.clone().park()));
        parked.reaches(size).await;
        sender.send(Instant::now()).expect("it is received");
        pool.spawn(async { Err::<(), _>("this is what was waited for".into()) });
        pending().await
    });
    let error: PoolError = opened.await.expect_err("a task has failed");
    let time = began.await.expect("it was sent").elapsed();
    assert!(error.failures().len() == 1 && parked.is(0));
    time
}

/// From the request to stop to the end of `size` parked tasks.
pub async fn close(size: usize) -> Duration {
    close_depths(size, 1).await
}

/// The same, the tasks being spread over four depths.
pub async fn depths(size: usize) -> Duration {
    close_depths(size, 4).await
}

async fn close_depths(size: usize, depths: usize) -> Duration {
    let (parked, pool) = (Counter::default(), Pool::<BoxError>::new());
    for n in 0..size {
        let depth = i32::try_from(n % depths).expect("a small number");
        pool.build_task().depth(depth).spawn(parked.clone().park());
    }
    let running = tokio::spawn(pool.clone().run());
    parked.reaches(size).await;
    let begin = Instant::now();
    pool.cancel();
    running.await.expect("it does not panic").expect("to be cancelled is no failure");
    assert!(parked.is(0));
    begin.elapsed()
}

/// The closing of `size` pools in a pool, with three parked tasks in each.
pub async fn small_pools(size: usize) -> Duration {
    close_nested(3 * size, async |parked| spawn_nested(&Pool::current(), &[size, 3], parked)).await
}

/// The closing of pools in pools in a pool, with `width` parked tasks at the end of each.
pub async fn tree(width: usize) -> Duration {
    close_nested(leaves(cube(width)), async |parked| spawn_nested(&Pool::current(), cube(width), parked)).await
}

async fn close_nested(count: usize, spawn: impl AsyncFnOnce(Counter)) -> Duration {
    let parked = Counter::default();
    let opened = Pool::open(async |pool: Pool| {
        spawn(parked.clone()).await;
        parked.reaches(count).await;
        let begin = Instant::now();
        pool.cancel();
        Ok(begin)
    });
    let begin = opened.await.expect("the body has returned");
    assert!(parked.is(0));
    begin.elapsed()
}

fn spawn_nested(pool: &Pool, shape: &[usize], parked: Counter) {
    let (count, below) = shape.split_first().expect("one level at least");
    for _ in 0..*count {
        match below {
            [] => pool.spawn(parked.clone().park()),
            _ => pool.spawn(nest(below.to_vec(), parked.clone())),
        }
    }
}

fn nest(shape: Vec<usize>, parked: Counter) -> Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>> {
    Box::pin(async move {
        let opened = Pool::open(async |pool: Pool| {
            spawn_nested(&pool, &shape, parked);
            Ok(())
        });
        Ok(opened.await?)
    })
}

/// The last of `size` futures finishes, the others are parked.
pub async fn race(size: usize) -> usize {
    let (winner, output) = match size {
        2 => aiodrive::race([last_finishes(0, size), last_finishes(1, size)]).await,
        _ => aiodrive::race((0..size).map(|n| last_finishes(n, size)).collect::<Vec<_>>()).await,
    };
    assert_eq!(winner, output);
    winner + 1
}

/// All of `size` futures finish at once.
pub async fn race_ready(size: usize) -> usize {
    let (winner, ()) = match size {
        2 => aiodrive::race([yield_now(), yield_now()]).await,
        _ => aiodrive::race((0..size).map(|_| yield_now()).collect::<Vec<_>>()).await,
    };
    assert!(winner < size);
    size
}

/// `size` futures have values.
pub async fn try_all(size: usize) -> usize {
    match size {
        2 => aiodrive::try_all([value(0), value(1)]).await.expect("nothing fails")[1] + 1,
        _ => {
            let values = aiodrive::try_all((0..size).map(value).collect::<Vec<_>>()).await.expect("nothing fails");
            *values.last().expect("one at least") + 1
        }
    }
}

/// The last of `size` futures fails, the others are parked.
pub async fn try_all_fails(size: usize) -> usize {
    let failed = match size {
        2 => aiodrive::try_all([last_fails(0, size), last_fails(1, size)]).await.map(drop),
        _ => aiodrive::try_all((0..size).map(|n| last_fails(n, size)).collect::<Vec<_>>()).await.map(drop),
    };
    assert_eq!(failed.expect_err("one fails").failures().len(), 1);
    size
}

/// `size` futures have values or errors, in turn.
pub async fn wait_all(size: usize) -> usize {
    match size {
        2 => count(aiodrive::wait_all([outcome(0), outcome(1)]).await),
        _ => count(aiodrive::wait_all((0..size).map(outcome).collect::<Vec<_>>()).await),
    }
}

fn count<T, E>(outcomes: impl IntoIterator<Item = Result<T, E>>) -> usize {
    let mut size = 0;
    for outcome in outcomes {
        assert_eq!(outcome.is_ok(), size % 2 == 0);
        size += 1;
    }
    size
}

/// From the setting of a latch to the end of `size` tasks that wait for that.
pub async fn latch(size: usize) -> Duration {
    let (latch, parked) = (LatchEvent::new(), Counter::default());
    let mut tasks = task::JoinSet::new();
    for _ in 0..size {
        let (latch, parked) = (latch.clone(), parked.clone());
        tasks.spawn(async move {
            parked.add();
            latch.wait_set().await;
        });
    }
    flip(size, parked, tasks, || latch.set()).await
}

/// A latch that is set and unset ten times, with `size` tasks that wait for the one and the other in a loop.
pub async fn latch_loops(size: usize) -> Duration {
    let (latch, seen) = (LatchEvent::new(), Counter::default());
    let mut tasks = task::JoinSet::new();
    for _ in 0..size {
        let (latch, seen) = (latch.clone(), seen.clone());
        tasks.spawn(async move {
            loop {
                seen.add();
                latch.wait_set().await;
                seen.add();
                latch.wait_unset().await;
            }
        });
    }
    flips(size, seen, tasks, |state| latch.set_to(state)).await
}
