//! What a pool keeps of the tasks that have ended, to the byte. In a process of its own, one test at a time: whatever
//! else is allocated would be counted too.

use std::alloc::System;
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aiodrive::{BoxError, LatchEvent, Pool};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::task::yield_now;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

static ALONE: Mutex<()> = Mutex::new(());

/// What each task holds while it runs, and its shell has room for until it is freed. Of more than 2,048 bytes tokio would
/// put the future into a box, which does not outlive it.
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
        builder.build().unwrap().block_on(test());
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
                    // The driver frees them in the turns that the body leaves it.
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

/// Those that end while a search for such is past them wake nobody.
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
            until("free memory", || allocated() - before < 10 * MIB).await;
            Ok(())
        });
        opened.await.unwrap();
    });
}
