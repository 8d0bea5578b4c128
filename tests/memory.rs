//! What pools and tasks weigh, and what a pool keeps of the tasks that have ended, to the byte. In a process of its
//! own, one test at a time: whatever else is allocated would be counted too.

use std::alloc::System;
use std::fmt::{self, Write};
use std::future::{pending, ready};
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aiodrive::{BoxError, LatchEvent, OnFailure, Pool, TaskGroup, map, timeout, timeout_at, wait_all};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::task::{JoinSet, yield_now};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

static ALONE: Mutex<()> = Mutex::new(());

/// What each task holds while it runs, and its shell has room for until it is freed. Of more than 2,048 bytes tokio
/// would put the future into a box, which does not outlive it.
const BALLAST: usize = 1_500;
const MIB: isize = 1024 * 1024;

/// How much is allocated at the moment.
fn allocated() -> isize {
    let stats = ALLOCATOR.stats();
    // What a reallocation changes is in one of the two.
    stats.bytes_allocated as isize - stats.bytes_deallocated as isize
}

/// Runs a test on both kinds of runtime, while no other does.
fn on_both<F: Future<Output = ()>>(test: impl Fn() -> F) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut current_thread = tokio::runtime::Builder::new_current_thread();
    let mut multi_thread = tokio::runtime::Builder::new_multi_thread();
    for builder in [&mut current_thread, multi_thread.worker_threads(2)] {
        builder.enable_time().build().unwrap().block_on(test());
    }
}

/// Yields until something has come about, and fails if that takes far too long.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < Duration::from_secs(50), "{what} does not come about");
        yield_now().await;
    }
}

#[test]
fn a_long_lived_pool_does_not_keep_what_has_ended() {
    on_both(|| async {
        let opened = Pool::<BoxError>::open(async |pool| {
            let (before, done) = (allocated(), Arc::new(AtomicUsize::new(0)));
            for spawned in 1..=100_000 {
                let (counter, ballast) = (done.clone(), [1_u8; BALLAST]);
                pool.spawn(async move {
                    black_box(&ballast);
                    counter.fetch_add(1, Ordering::SeqCst);
                });
                if spawned % 1_000 == 0 {
                    until("the end of some", || done.load(Ordering::SeqCst) == spawned).await;
                    // tokio frees their shells a moment later.
                    for _ in 0..10 {
                        yield_now().await;
                    }
                }
            }
            let kept = (allocated() - before) / MIB;
            assert!(kept < 30, "{kept} MiB");
            Ok(())
        });
        opened.await.unwrap();
    });
}

#[test]
fn a_pool_whose_tasks_have_all_ended_at_once_does_not_keep_them() {
    on_both(|| async {
        let opened = Pool::<BoxError>::open(async |pool| {
            let (before, go) = (allocated(), LatchEvent::new());
            for _ in 0..50_000 {
                let (go, ballast) = (go.clone(), [1_u8; BALLAST]);
                pool.spawn(async move {
                    go.wait_set().await;
                    black_box(&ballast);
                });
            }
            assert!(allocated() - before > 70 * MIB, "the tasks are smaller than they should be");
            go.set();
            until("an empty pool", || pool.is_empty()).await;
            until("free memory", || allocated() - before < 2 * MIB).await;
            Ok(())
        });
        opened.await.unwrap();
    });
}

/// The tree is drawn from what a scope notes of each pool and function that begins in it.
#[test]
fn a_long_lived_body_does_not_keep_what_has_ended_below_it() {
    on_both(|| async {
        let opened = Pool::<BoxError>::open(async |_| {
            let before = allocated();
            for _ in 0..10_000 {
                Pool::<BoxError>::new().run().await?;
                drop(wait_all([std::future::ready(Ok::<_, BoxError>(()))]).await);
            }
            let kept = (allocated() - before) / 1024;
            assert!(kept < 256, "{kept} KiB");
            Ok(())
        });
        opened.await.unwrap();
    });
}

#[test]
fn a_group_that_is_aborted_again_and_again_keeps_nothing_of_its_children() {
    on_both(|| async {
        let mut group: TaskGroup<()> = TaskGroup::new();
        let before = allocated();
        for _ in 0..10_000 {
            group.spawn(pending());
            group.abort_all();
            while group.next().await.is_some() {}
        }
        let kept = (allocated() - before) / 1024;
        assert!(kept < 64, "{kept} KiB");
    });
}

/// Uses a pool that lives on many times, and looks how many KiB that keeps.
fn what_many_uses_keep(most: isize, use_once: impl AsyncFn(&Pool, i32)) {
    on_both(|| async {
        let pool: Pool = Pool::builder().keep_open(true).build();
        let run = tokio::spawn(pool.clone().run());
        // With it, the scope of the others lives on, too.
        pool.spawn(pending::<()>());
        let before = allocated();
        for nth in 0..10_000 {
            use_once(&pool, nth).await;
        }
        until("the last task is gone", || pool.len() == 1).await;
        let kept = (allocated() - before) / 1024;
        assert!(kept < most, "{kept} KiB");
        pool.cancel();
        run.await.unwrap().unwrap();
    });
}

#[test]
fn depths_that_were_used_once_take_no_room() {
    what_many_uses_keep(256, async |pool, depth| {
        pool.build_task().depth(depth).spawn_with_handle(async { Ok(()) }).await.unwrap();
    });
}

#[test]
fn tasks_that_their_handles_have_aborted_take_no_room() {
    what_many_uses_keep(64, async |pool, _| {
        let handle = pool.spawn_with_handle(pending::<Result<(), BoxError>>());
        handle.cancel();
        assert!(handle.await.is_err());
    });
}

#[test]
fn timeouts_that_are_over_leave_no_timers() {
    on_both(|| async {
        let past = tokio::time::Instant::now() - Duration::from_millis(1);
        let before = allocated();
        for _ in 0..100_000 {
            assert!(timeout_at(past, pending::<()>()).await.is_err());
            assert!(timeout(Duration::from_secs(1_000), ready(())).await.is_ok());
            // A timer that has been polled is one that the runtime has noted down.
            assert!(timeout(Duration::from_secs(1_000), yield_now()).await.is_ok());
        }
        let kept = (allocated() - before) / 1024;
        assert!(kept < 64, "{kept} KiB");
    });
}

/// A consumer that takes its time: everything else has run as far as it can before each result is taken. Each result
/// has 1 KiB, and at most eight are there.
#[test]
fn a_map_with_a_slow_consumer_takes_no_more_with_every_item() {
    on_both(|| async {
        for is_ordered in [true, false] {
            let (running, before) = (Arc::new(AtomicUsize::new(0)), allocated());
            let begun = running.clone();
            let results = map(8, 0_usize.., move |_| {
                let begun = begun.clone();
                async move {
                    begun.fetch_add(1, Ordering::SeqCst);
                    Ok::<_, BoxError>([1_u8; 1_024])
                }
            });
            let mut results = if is_ordered { results } else { results.unordered() };
            for taken in 0..10_000 {
                results.next().await.unwrap().unwrap();
                // `next` has pulled as many as were to be running beside the one that it gave.
                until("the end of what may run", || running.load(Ordering::SeqCst) >= taken + 8).await;
                assert_eq!(running.load(Ordering::SeqCst), taken + 8);
                let kept = (allocated() - before) / 1_024;
                assert!(kept < 64, "{kept} KiB after {taken} items, in order: {is_ordered}");
            }
        }
    });
}

/// Has no room for what is written.
struct Nowhere;

impl Write for Nowhere {
    fn write_str(&mut self, _: &str) -> fmt::Result {
        Ok(())
    }
}

/// A report is written as it is found: no text is put together at one level to be copied at the next.
#[test]
fn a_report_allocates_no_more_than_it_is_long() {
    on_both(|| async {
        let [mut small, mut large] = [0; 2];
        for (levels, bytes) in [(100, &mut small), (1_600, &mut large)] {
            let mut error = BoxError::from("the root");
            for _ in 0..levels {
                let pool: Pool = Pool::builder().on_failure(|_| OnFailure::Collect).build();
                pool.spawn(async { Err("beside it".into()) });
                pool.spawn(async { Err(error) });
                error = pool.run().await.unwrap_err().into();
            }
            let before = ALLOCATOR.stats().bytes_allocated;
            write!(Nowhere, "{error:#}").unwrap();
            *bytes = ALLOCATOR.stats().bytes_allocated - before;
        }
        assert!(small > 0 && large <= 18 * small, "{small} bytes, and {large} for sixteen times as many levels");
    });
}

/// How many bytes each of so many things takes, made by `make` and kept until they have been weighed.
async fn weigh<T, F: Future<Output = T>>(count: usize, make: impl FnOnce() -> F) -> isize {
    let before = allocated();
    let made = make().await;
    let each = (allocated() - before) / count as isize;
    drop(made);
    each
}

/// Counts, and stays for ever, with so much in it.
async fn parked<const SIZE: usize>(begun: Arc<AtomicUsize>) {
    let ballast = [1_u8; SIZE];
    begun.fetch_add(1, Ordering::SeqCst);
    std::future::pending::<()>().await;
    black_box(&ballast);
}

/// The bytes of a parked task of a pool, and of one in a `JoinSet`.
async fn parked_tasks<const SIZE: usize>() -> [isize; 2] {
    // The lists are full to the last place then: it is what is asked of them, and no luck.
    const TASKS: usize = 1 << 13;
    let begun = Arc::new(AtomicUsize::new(0));
    let bare = weigh(TASKS, async || {
        let mut set = JoinSet::new();
        (0..TASKS).for_each(|_| drop(set.spawn(parked::<SIZE>(begun.clone()))));
        until("the begin of all", || begun.load(Ordering::SeqCst) == TASKS).await;
        set
    });
    let bare = bare.await;
    until("the end of all", || Arc::strong_count(&begun) == 1).await;
    begun.store(0, Ordering::SeqCst);
    let opened = Pool::<BoxError>::open(async |pool| {
        let ours = weigh(TASKS, async || {
            (0..TASKS).for_each(|_| pool.spawn(parked::<SIZE>(begun.clone())));
            until("the begin of all", || begun.load(Ordering::SeqCst) == TASKS).await;
        });
        let ours = ours.await;
        pool.cancel();
        Ok(ours)
    });
    [opened.await.expect("the body has returned"), bare]
}

/// tokio gives a task memory in steps of 128 bytes, so that a few bytes more take one more step in some sizes, and
/// nothing in most. This looks at a whole step of sizes.
#[test]
#[cfg_attr(
    debug_assertions,
    ignore = "a future that is spawned has an allocation of its own there: run it with `--release`"
)]
fn a_parked_task_takes_on_average_at_most_160_bytes_more_than_in_a_join_set() {
    on_both(|| async {
        let mut more = Vec::new();
        macro_rules! weigh_sizes {
            ($($size:literal)+) => {$(
                let [ours, bare] = parked_tasks::<$size>().await;
                more.push(ours - bare);
            )+};
        }
        weigh_sizes!(8 16 24 32 40 48 56 64 72 80 88 96 104 112 120 128);
        let mean = more.iter().sum::<isize>() / more.len() as isize;
        println!("a parked task, beside one in a JoinSet: {mean:+} bytes on average, by size {more:?}");
        assert!(mean <= 160, "{more:?}");
        assert!(more.iter().all(|more| *more <= 192), "{more:?}");
    });
}

/// An open pool, with a body that has come to a wait, in a task of another.
#[test]
fn an_open_pool_takes_less_than_three_kibibytes() {
    const POOLS: usize = 10_000;
    on_both(|| async {
        let begun = Arc::new(AtomicUsize::new(0));
        let opened = Pool::<BoxError>::open(async |pool| {
            let each = weigh(POOLS, async || {
                for _ in 0..POOLS {
                    let begun = begun.clone();
                    pool.spawn(async {
                        Pool::<BoxError>::open(|pool| async move {
                            (0..3).for_each(|_| pool.spawn(std::future::pending::<()>()));
                            parked::<0>(begun).await;
                            Ok(())
                        })
                        .await
                        .map_err(BoxError::from)
                    });
                }
                until("the begin of all", || begun.load(Ordering::SeqCst) == POOLS).await;
            });
            let each = each.await;
            pool.cancel();
            Ok(each)
        });
        let each = opened.await.expect("the body has returned");
        begun.store(0, Ordering::SeqCst);
        let bare = weigh(POOLS, async || {
            let mut set = JoinSet::new();
            for _ in 0..POOLS {
                let begun = begun.clone();
                set.spawn(async {
                    let mut below = JoinSet::new();
                    (0..3).for_each(|_| drop(below.spawn(std::future::pending::<()>())));
                    parked::<0>(begun).await;
                });
            }
            until("the begin of all", || begun.load(Ordering::SeqCst) == POOLS).await;
            set
        });
        let bare = bare.await;
        println!("an open pool with three parked tasks, in a task: {each} bytes, {bare} of JoinSets");
        assert!(each < 3_072, "{each} bytes, {bare} of JoinSets");
    });
}

/// So many tasks go through one pool; its memory is what it was when the first hundred thousand had.
fn tasks_go_through_one_pool(tasks: usize) {
    on_both(|| async {
        let opened = Pool::<BoxError>::open(async |pool| {
            let (done, mut first) = (Arc::new(AtomicUsize::new(0)), 0);
            for spawned in 1..=tasks {
                let counter = done.clone();
                pool.spawn(async move { _ = counter.fetch_add(1, Ordering::SeqCst) });
                if spawned % 1_000 == 0 {
                    until("the end of some", || done.load(Ordering::SeqCst) == spawned).await;
                    // tokio frees their shells a moment later.
                    for _ in 0..10 {
                        yield_now().await;
                    }
                }
                if spawned == 100_000 {
                    first = allocated();
                }
                // The shells of those that have not been freed yet: a few thousand.
                let more = allocated() - first;
                assert!(spawned <= 100_000 || more < 4 * MIB, "{more} bytes more after {spawned} tasks");
            }
            Ok(())
        });
        opened.await.unwrap();
    });
}

#[test]
fn a_long_lived_pool_takes_no_more_with_every_task() {
    tasks_go_through_one_pool(300_000);
}

/// `cargo test --release --test memory -- --ignored`
#[test]
#[ignore = "it takes a while"]
fn a_long_lived_pool_takes_no_more_after_ten_million_tasks() {
    tasks_go_through_one_pool(10_000_000);
}
