//! Nothing outlives its pool, at any depth, whoever was dropped.

use std::future::{Future, pending};
use std::pin::{Pin, pin};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use aiodrive::{
    BoxError, ClosingReason, Failure, LatchEvent, Pool, PoolError, TaskStopped, cancellation_token, shield, timeout,
};
use macro_rules_attribute::apply;
use tokio::sync::oneshot;

use crate::support::{
    Alive, Log, OnDrop, Outcome, block_until_closed, both, busy, current_thread, many, multi_thread, on_both,
    on_current_thread, on_multi_thread, panic_of, poll_once, poll_until, quiet_panic, stays_pending, until, watched,
};

type Job = Pin<Box<dyn Future<Output = ()> + Send>>;
type Leaf = fn(Alive) -> Job;

// ===== trees of pools =====

fn waiting(alive: Alive) -> Job {
    Box::pin(async move {
        let _alive = alive.one();
        pending().await
    })
}

fn yielding(alive: Alive) -> Job {
    Box::pin(async move {
        let _alive = alive.one();
        busy().await
    })
}

fn slow_to_drop(alive: Alive) -> Job {
    Box::pin(async move {
        let _slow = alive.slow();
        pending().await
    })
}

const LEAVES: [Leaf; 3] = [waiting, yielding, slow_to_drop];

/// A job that opens a pool of two jobs like it, and so on until `depth`, where the leaves are.
fn branch(depth: usize, leaf: Leaf, alive: Alive) -> Job {
    if depth == 0 {
        return leaf(alive);
    }
    Box::pin(async move {
        let _alive = alive.one();
        let outcome: Outcome = Pool::open(async |pool| {
            for _ in 0..2 {
                pool.spawn(branch(depth - 1, leaf, alive.clone()));
            }
            Ok(())
        })
        .await;
        outcome.unwrap();
    })
}

struct Tree {
    job: Job,
    alive: Alive,
    size: usize,
}

impl Tree {
    fn new(depth: usize, leaf: Leaf) -> Self {
        let alive = Alive::default();
        Self { job: branch(depth, leaf, alive.clone()), alive, size: (2 << depth) - 1 }
    }

    /// The tree, and a future that is ready when it has its last leaf.
    fn split(self) -> (Job, impl Future<Output = ()> + Send + use<>) {
        let Self { job, alive, size } = self;
        (job, async move { until(|| alive.count() == size).await })
    }
}

/// Lets trees of pools be ended that are, with the pool around them, two to five levels deep.
async fn nothing_is_left_of(leaves: &[Leaf], end: impl AsyncFn(Tree)) {
    for depth in 1..=4 {
        for leaf in leaves {
            let tree = Tree::new(depth, *leaf);
            let alive = tree.alive.clone();
            end(tree).await;
            assert_eq!(alive.count(), 0, "{depth} levels below");
        }
    }
}

fn nothing_is_left_after(end: impl AsyncFn(Tree)) {
    on_both(|| nothing_is_left_of(&LEAVES, &end));
}

#[test]
fn nothing_is_left_after_a_sibling_failed() {
    nothing_is_left_after(async |tree| {
        let (job, grown) = tree.split();
        let outcome: Outcome = Pool::open(async |pool| {
            pool.spawn(job);
            pool.spawn(async {
                grown.await;
                Err("sibling".into())
            });
            Ok(())
        })
        .await;
        assert_eq!(outcome.unwrap_err().failures().len(), 1);
    });
}

#[test]
fn nothing_is_left_after_a_sibling_panicked() {
    nothing_is_left_after(async |tree| {
        let (job, grown) = tree.split();
        let outcome: Outcome = Pool::open(async |pool| {
            pool.spawn(job);
            pool.spawn(async {
                grown.await;
                quiet_panic("sibling")
            });
            pending().await
        })
        .await;
        assert!(outcome.unwrap_err().is_panic());
    });
}

#[test]
fn nothing_is_left_after_the_body_failed() {
    nothing_is_left_after(async |tree| {
        let (job, grown) = tree.split();
        let outcome: Outcome = Pool::open(async |pool| {
            pool.spawn(job);
            grown.await;
            Err("body".into())
        })
        .await;
        assert!(outcome.unwrap_err().first().unwrap().task().is_body());
    });
}

#[test]
fn nothing_is_left_after_the_body_panicked() {
    nothing_is_left_after(async |tree| {
        let (job, grown) = tree.split();
        let open = Pool::open(async |pool: Pool| -> Result<(), BoxError> {
            pool.spawn(job);
            grown.await;
            quiet_panic("body")
        });
        assert_eq!(panic_of(open).await, "body");
    });
}

#[test]
fn nothing_is_left_after_cancel() {
    nothing_is_left_after(async |tree| {
        let (job, grown) = tree.split();
        let outcome: Outcome = Pool::open(async |pool| {
            pool.spawn(job);
            grown.await;
            pool.cancel();
            pending().await
        })
        .await;
        assert!(outcome.unwrap_err().is_cancelled());
    });
}

#[test]
fn nothing_is_left_after_the_owner_was_cancelled_by_its_handle() {
    nothing_is_left_after(async |tree| {
        let (job, grown) = tree.split();
        let outcome: Outcome = Pool::open(async |pool| {
            let owner = pool.spawn_with_handle(async {
                job.await;
                Ok(())
            });
            grown.await;
            owner.cancel();
            assert_eq!(owner.await, Err(TaskStopped::Cancelled));
            Ok(())
        })
        .await;
        outcome.unwrap();
    });
}

#[test]
fn nothing_is_left_after_a_nested_open_was_dropped_halfway() {
    nothing_is_left_after(async |tree| {
        let (mut job, grown) = tree.split();
        let outcome: Outcome = Pool::open(async |_| {
            assert!(poll_once(job.as_mut()).await.is_pending());
            grown.await;
            drop(job);
            Ok(())
        })
        .await;
        outcome.unwrap();
    });
}

#[test]
fn nothing_is_left_after_a_select_dropped_a_nested_open() {
    nothing_is_left_after(async |tree| {
        let (job, grown) = tree.split();
        let outcome: Outcome = Pool::open(async |pool| {
            pool.spawn(async {
                tokio::select! {
                    () = job => {}
                    () = grown => {}
                }
            });
            Ok(())
        })
        .await;
        outcome.unwrap();
    });
}

#[test]
fn nothing_is_left_after_a_race_of_nested_pools() {
    nothing_is_left_after(async |tree| {
        let (job, grown) = tree.split();
        let grown: Job = Box::pin(grown);
        assert_eq!(aiodrive::race([job, grown]).await, (1, ()));
    });
}

/// Busy leaves would keep the paused clock from moving.
const IDLE: [Leaf; 2] = [waiting, slow_to_drop];

#[test]
fn nothing_is_left_after_a_timeout() {
    // The clock stands still while the tree grows.
    let cut = async |tree: Tree| assert!(timeout(Duration::from_millis(2), tree.job).await.is_err());
    on_current_thread(|| nothing_is_left_of(&IDLE, &cut));
    // The limit is over, which leaves it one poll: the tree grows in that, on other threads than this.
    let cut = async |tree: Tree| {
        let Tree { mut job, alive, size } = tree;
        let grows = async {
            assert!(poll_once(job.as_mut()).await.is_pending());
            while alive.count() < size {
                thread::yield_now();
            }
            job.await;
        };
        assert!(timeout(Duration::ZERO, grows).await.is_err());
    };
    watched(move || on_multi_thread(|| nothing_is_left_of(&LEAVES, &cut)));
}

#[test]
fn nothing_is_left_after_a_timeout_of_tokio_in_a_pool() {
    let cut = async |tree: Tree| {
        let outcome: Outcome = Pool::open(async |_| {
            let Tree { mut job, alive, size } = tree;
            poll_until(job.as_mut(), || alive.count() == size).await;
            assert!(tokio::time::timeout(Duration::from_millis(2), job).await.is_err());
            Ok(())
        })
        .await;
        outcome.unwrap();
    };
    on_current_thread(|| nothing_is_left_of(&IDLE, &cut));
    on_multi_thread(|| nothing_is_left_of(&LEAVES, &cut));
}

/// A busy leaf below three pools, and a future that is ready when it has begun.
fn busy_chain(alive: &Alive) -> (Job, oneshot::Receiver<()>) {
    let (began, has_begun) = oneshot::channel();
    let one = alive.one();
    let leaf = async move {
        let _one = one;
        let _ = began.send(());
        busy().await
    };
    (chain(3, Box::pin(leaf)), has_begun)
}

#[apply(multi_thread)]
async fn nothing_is_left_of_a_busy_leaf_in_a_thousand_rounds() {
    for _ in 0..1_000 {
        let alive = Alive::default();
        let (job, has_begun) = busy_chain(&alive);
        let outcome: Outcome = Pool::open(async |pool| {
            let owner = pool.spawn_with_handle(async {
                job.await;
                Ok(())
            });
            has_begun.await?;
            owner.cancel();
            Ok(())
        })
        .await;
        outcome.unwrap();
        assert_eq!(alive.count(), 0, "something is left");
    }
}

#[apply(multi_thread)]
async fn nothing_is_left_of_a_chain_that_is_still_growing_in_a_thousand_rounds() {
    for round in 0..1_000 {
        let alive = Alive::default();
        let (job, _) = busy_chain(&alive);
        let outcome: Outcome = Pool::open(async |pool| {
            pool.spawn(job);
            for _ in 0..round % 20 {
                tokio::task::yield_now().await;
            }
            pool.cancel();
            Ok(())
        })
        .await;
        outcome.unwrap();
        assert_eq!(alive.count(), 0, "something is left in round {round}");
    }
}

// ===== who is waited for =====

/// A blocking closure that cannot be aborted: it ends when the sender is used or dropped.
fn blocking(alive: &Alive) -> (impl FnOnce() + Send + use<>, mpsc::Sender<()>) {
    let (release, released) = mpsc::channel();
    let alive = alive.clone();
    let closure = move || {
        let _alive = alive.one();
        let _ = released.recv();
    };
    (closure, release)
}

#[apply(both)]
async fn every_level_waits_for_what_an_ended_task_left_below() {
    let (alive, middle_ended) = (Alive::default(), Alive::default());
    let (closure, release) = blocking(&alive);
    let (outer_flag, middle_flag) = (middle_ended.one(), middle_ended.one());
    let below = alive.clone();
    let mut outermost = pin!(Pool::open(async |pool: Pool| {
        pool.spawn(async move {
            let _flag = outer_flag;
            let outcome: Outcome = Pool::open(async |pool| {
                pool.spawn(async move {
                    let _flag = middle_flag;
                    let mut lowest = Box::pin(Pool::open(async |pool: Pool| {
                        pool.spawn_blocking(closure);
                        pending::<Result<(), BoxError>>().await
                    }));
                    assert!(poll_once(lowest.as_mut()).await.is_pending());
                    until(|| below.count() == 1).await;
                });
                Ok(())
            })
            .await;
            outcome.unwrap();
        });
        Ok::<_, BoxError>(())
    }));
    assert!(poll_once(outermost.as_mut()).await.is_pending());
    // The task in the middle has ended, and its pool, which has no task left, has not.
    until(|| middle_ended.count() == 1).await;
    stays_pending(outermost.as_mut()).await;
    assert_eq!((alive.count(), middle_ended.count()), (1, 1));
    release.send(()).unwrap();
    outermost.await.unwrap();
    assert_eq!((alive.count(), middle_ended.count()), (0, 0));
}

#[apply(multi_thread)]
async fn a_destructor_that_blocks_delays_the_outermost_pool() {
    let alive = Alive::default();
    let (entered, in_drop) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let blocks = (
        OnDrop::new(move || {
            let _ = (entered.send(()), released.recv());
        }),
        alive.one(),
    );
    let mut outermost = pin!(Pool::open(async |pool: Pool| {
        pool.spawn(async {
            let outcome: Outcome = Pool::open(async |pool| {
                pool.spawn(async move {
                    let _blocks = blocks;
                    pending::<()>().await;
                });
                Ok(())
            })
            .await;
            outcome.unwrap();
        });
        tokio::task::yield_now().await;
        pool.cancel();
        Ok::<_, BoxError>(())
    }));
    while in_drop.try_recv().is_err() {
        assert!(poll_once(outermost.as_mut()).await.is_pending());
        tokio::task::yield_now().await;
    }
    stays_pending(outermost.as_mut()).await;
    assert_eq!(alive.count(), 1);
    drop(release);
    outermost.await.unwrap();
    assert_eq!(alive.count(), 0);
}

#[apply(both)]
async fn handles_of_a_pool_do_not_delay_it() {
    let mut kept = Vec::new();
    let outcome: Outcome = Pool::open(async |pool: Pool| {
        kept.push(pool.clone());
        let own = pool.clone();
        pool.spawn(async move { kept_by_a_task(own).await });
        std::mem::forget(pool.clone());
        let value = pool.spawn_with_handle(async { Ok(1) });
        std::mem::forget(value);
        Ok(())
    })
    .await;
    outcome.unwrap();
    assert!(kept[0].is_closed());

    async fn kept_by_a_task(pool: Pool) {
        tokio::task::yield_now().await;
        drop(pool);
    }
}

#[apply(both)]
async fn a_handle_that_a_task_of_another_pool_keeps_does_not_delay_a_pool() {
    let outcome: Outcome = Pool::open(async |outer: Pool| {
        let inner: Outcome = Pool::open(async |pool: Pool| {
            outer.spawn(async move {
                let _pool = pool;
                pending::<()>().await;
            });
            tokio::task::yield_now().await;
            Ok(())
        })
        .await;
        inner.unwrap();
        outer.cancel();
        Ok(())
    })
    .await;
    outcome.unwrap();
}

#[apply(both)]
async fn a_bare_task_in_a_pool_is_not_owned() {
    let alive = Alive::default();
    let one = alive.one();
    let outcome: Outcome<_> = Pool::open(async |_| {
        Ok(tokio::spawn(async move {
            let _one = one;
            pending::<()>().await;
        }))
    })
    .await;
    let bare = outcome.unwrap();
    assert_eq!(alive.count(), 1);
    assert_eq!(aiodrive::cancel_task(bare).await.unwrap(), None);
    assert_eq!(alive.count(), 0);
}

#[apply(both)]
async fn a_pool_in_a_bare_task_is_waited_for_by_nobody() {
    let alive = Alive::default();
    let one = alive.one();
    let outcome: Outcome<_> = Pool::open(async |_| {
        Ok(tokio::spawn(Pool::open(async |pool: Pool| {
            pool.spawn(async move {
                let _one = one;
                pending::<()>().await;
            });
            Ok::<_, BoxError>(())
        })))
    })
    .await;
    let bare = outcome.unwrap();
    assert_eq!(alive.count(), 1);
    bare.abort();
    assert!(bare.await.unwrap_err().is_cancelled());
    until(|| alive.count() == 0).await;
}

#[apply(both)]
async fn shielded_work_far_below_a_cancelled_pool_is_waited_for() {
    let alive = Alive::default();
    let (release, released) = oneshot::channel::<()>();
    let (below, log) = (alive.clone(), Log::default());
    let ends = log.clone();
    let outcome: Outcome = Pool::open(async |pool| {
        let seen = below.clone();
        pool.spawn(async {
            let outcome: Outcome = Pool::open(async |pool| {
                pool.spawn(async {
                    shield(async move {
                        let _alive = below.one();
                        let _ = released.await;
                        ends.push("finished");
                    })
                    .await;
                });
                Ok(())
            })
            .await;
            outcome.unwrap();
        });
        until(|| seen.count() == 1).await;
        pool.cancel();
        tokio::spawn(async { release.send(()) });
        Ok(())
    })
    .await;
    outcome.unwrap();
    assert_eq!((alive.count(), log.events().as_slice()), (0, &["finished".to_owned()][..]));
}

// ===== cleanup failures =====

/// Opens a pool, has `work` done in it, and drops it when `ready` says so; the enclosing pools are to report the rest.
async fn dropped_halfway(levels: usize, work: impl FnOnce(&Pool) + Send + 'static, ready: oneshot::Receiver<()>) {
    let mut nested = nest(levels, Box::new(work));
    assert!(poll_once(nested.as_mut()).await.is_pending());
    ready.await.unwrap();
}

fn nest(levels: usize, work: Box<dyn FnOnce(&Pool) + Send>) -> Job {
    Box::pin(async move {
        let outcome: Outcome = Pool::open(async |pool| {
            if levels == 1 {
                work(&pool);
            } else {
                pool.spawn(nest(levels - 1, work));
            }
            pending().await
        })
        .await;
        outcome.unwrap();
    })
}

/// What the outermost pool reports after pools below were dropped in which `work` was done.
async fn report_after_drop<W>(levels: usize, work: impl FnOnce(oneshot::Sender<()>) -> W) -> PoolError
where
    W: FnOnce(&Pool) + Send + 'static,
{
    let (begun, ready) = oneshot::channel();
    let work = work(begun);
    let outcome: Outcome = Pool::open(async |_| {
        dropped_halfway(levels, work, ready).await;
        Ok(())
    })
    .await;
    outcome.unwrap_err()
}

#[track_caller]
fn assert_only_cleanup(error: &PoolError) -> &Failure {
    assert!(error.failures().is_empty() && error.first().is_none(), "more than cleanup failures: {error:#}");
    assert!(!error.is_cancelled() && !error.is_panic(), "a cleanup failure passes for a cause: {error:#}");
    assert_eq!(error.cleanup_failures().len(), 1, "{error:#}");
    error.cleanup_failures()[0].failure()
}

#[apply(both)]
async fn an_error_below_a_dropped_owner_is_a_cleanup_failure() {
    for levels in 1..=4 {
        let error = report_after_drop(levels, |begun| {
            |pool: &Pool| {
                pool.build_task().name("late").spawn_blocking(|| {
                    begun.send(()).unwrap();
                    block_until_closed();
                    Err("late".into())
                });
            }
        })
        .await;
        let Failure::Error(late) = assert_only_cleanup(&error) else { panic!("{error:?}") };
        assert_eq!(late.to_string(), "late", "{levels} levels");
        assert_eq!(error.cleanup_failures()[0].task().name(), Some("late"), "{levels} levels");
    }
}

#[apply(both)]
async fn a_panic_below_a_dropped_owner_is_a_cleanup_failure() {
    for levels in 1..=4 {
        let error = report_after_drop(levels, |begun| {
            |pool: &Pool| {
                pool.spawn_blocking(|| {
                    begun.send(()).unwrap();
                    block_until_closed();
                    quiet_panic("late")
                });
            }
        })
        .await;
        let Failure::Panic(late) = assert_only_cleanup(&error) else { panic!("{error:?}") };
        assert_eq!(late.message(), Some("late"), "{levels} levels");
    }
}

#[apply(both)]
async fn a_panic_in_drop_below_a_dropped_owner_is_a_cleanup_failure() {
    for levels in 1..=4 {
        let error = report_after_drop(levels, |begun| {
            |pool: &Pool| {
                pool.spawn(async {
                    let _bomb = OnDrop::new(|| quiet_panic("in drop"));
                    begun.send(()).unwrap();
                    pending::<()>().await;
                });
            }
        })
        .await;
        let Failure::Panic(late) = assert_only_cleanup(&error) else { panic!("{error:?}") };
        assert_eq!(late.message(), Some("in drop"), "{levels} levels");
    }
}

// ===== made in one pool, run in another =====

/// A pool that a task of `maker` has made, and what waits in it: a closure that ends when the sender is dropped.
async fn made_in(maker: &Pool, alive: &Alive) -> (Pool, mpsc::Sender<()>) {
    let (closure, release) = blocking(alive);
    let made = maker.spawn_with_handle(async {
        let made = Pool::builder().name("made").keep_open(true).build();
        made.build_task().name("blocks").spawn_blocking(closure);
        Ok(made)
    });
    (made.await.unwrap(), release)
}

/// How often a pool or a task is in a tree.
fn count(pool: &Pool, name: &str) -> usize {
    pool.tree().nodes().filter(|node| node.name() == Some(name)).count()
}

#[apply(both)]
async fn a_pool_is_nested_where_it_is_run_and_not_where_it_was_made() {
    let (alive, maker) = (Alive::default(), Pool::<BoxError>::builder().keep_open(true).build());
    let mut making = pin!(maker.clone().run());
    assert!(poll_once(making.as_mut()).await.is_pending());
    let (made, release) = made_in(&maker, &alive).await;
    let runner = Pool::<BoxError>::builder().name("runner").grace(Duration::MAX).build();
    let own = made.clone();
    runner.spawn(async { Ok(own.run().await?) });
    let mut running = pin!(runner.clone().run());
    assert!(poll_once(running.as_mut()).await.is_pending());
    until(|| alive.count() == 1).await;
    let seen = |pool| [count(pool, "made"), count(pool, "blocks")];
    assert_eq!([seen(&runner), seen(&maker)], [[1, 1], [0, 0]]);
    // The pool in which it was made may well close.
    maker.cancel();
    making.await.unwrap();
    stays_pending(running.as_mut()).await;
    assert!(!made.is_closed());
    // The request reaches it where it runs, and that pool waits for what is in it.
    runner.cancel();
    poll_until(running.as_mut(), || made.closing_reason().is_some()).await;
    assert!(matches!(made.closing_reason(), Some(ClosingReason::ParentClosing(_))));
    stays_pending(running.as_mut()).await;
    assert_eq!(alive.count(), 1);
    drop(release);
    running.await.unwrap();
    assert_eq!(alive.count(), 0);
}

#[apply(both)]
async fn a_pool_is_waited_for_where_its_run_was_aborted() {
    let alive = Alive::default();
    let outcome: Outcome = Pool::open(async |maker: Pool| {
        let (made, release) = made_in(&maker, &alive).await;
        let runner = Pool::<BoxError>::new();
        let running = runner.spawn_with_handle(async { Ok(made.run().await?) });
        let mut run = pin!(runner.run());
        assert!(poll_once(run.as_mut()).await.is_pending());
        until(|| alive.count() == 1).await;
        running.cancel();
        assert_eq!(running.await, Err(TaskStopped::Cancelled));
        stays_pending(run.as_mut()).await;
        assert_eq!(alive.count(), 1);
        drop(release);
        run.await.unwrap();
        assert_eq!(alive.count(), 0);
        Ok(())
    })
    .await;
    outcome.unwrap();
}

// ===== many levels =====

/// A job that opens a pool whose only task is such a job again.
fn chain(levels: usize, end: Job) -> Job {
    if levels == 0 {
        return end;
    }
    Box::pin(async move {
        let outcome: Outcome = Pool::open(async |pool| {
            pool.spawn(chain(levels - 1, end));
            Ok(())
        })
        .await;
        outcome.unwrap();
    })
}

/// A job that opens a pool whose body is such a job again.
fn inline(levels: usize) -> Job {
    if levels == 0 {
        return Box::pin(tokio::task::yield_now());
    }
    Box::pin(async move {
        let outcome: Outcome = Pool::open(async |_| {
            inline(levels - 1).await;
            Ok(())
        })
        .await;
        outcome.unwrap();
    })
}

#[apply(both)]
async fn ten_thousand_levels_of_tasks_come_to_their_end() {
    chain(10_000, Box::pin(async {})).await;
}

/// Cancels a pool below which there are so many others, the innermost with this leaf.
async fn cancel_chain(levels: usize, leaf: Leaf) {
    let alive = Alive::default();
    let outcome: Outcome = Pool::open(async |pool| {
        pool.spawn(chain(levels, leaf(alive.clone())));
        until(|| alive.count() == 1).await;
        pool.cancel();
        Ok(())
    })
    .await;
    outcome.unwrap();
    assert_eq!(alive.count(), 0, "something is left of {levels} levels");
}

#[apply(both)]
async fn ten_thousand_levels_of_tasks_are_cancelled() {
    cancel_chain(10_000, yielding).await;
}

#[apply(both)]
async fn very_many_levels_of_tasks_are_cancelled() {
    cancel_chain(many(100_000), waiting).await;
}

#[apply(both)]
async fn ten_thousand_levels_of_tasks_end_when_the_outermost_pool_is_dropped() {
    let alive = Alive::default();
    let mut outermost = chain(10_000, yielding(alive.clone()));
    assert!(poll_once(outermost.as_mut()).await.is_pending());
    until(|| alive.count() == 1).await;
    drop(outermost);
    until(|| alive.count() == 0).await;
}

/// Such a job whose pools wait for ever for whom they ask to stop.
fn patient_chain(levels: usize, end: Job) -> Job {
    if levels == 0 {
        return end;
    }
    Box::pin(async move {
        let builder = Pool::builder().grace(Duration::MAX);
        let outcome: Outcome = builder
            .open(async |pool: Pool| {
                pool.spawn(patient_chain(levels - 1, end));
                Ok(())
            })
            .await;
        outcome.unwrap();
    })
}

#[apply(both)]
async fn a_request_goes_through_ten_thousand_pools_and_child_tokens() {
    let (alive, begun) = (Alive::default(), LatchEvent::new());
    let (counted, begins) = (alive.one(), begun.clone());
    let end = Box::pin(async move {
        // All of them are kept: a token takes the place of its parent when that is dropped.
        let tokens = std::iter::successors(Some(cancellation_token()), |token| Some(token.child_token()));
        let tokens: Vec<_> = tokens.take(10_000).collect();
        begins.set();
        tokens[9_999].cancelled().await;
        drop(counted);
    });
    let builder = Pool::<BoxError>::builder().grace(Duration::MAX);
    let outcome = builder.open(async |pool: Pool| {
        pool.spawn(patient_chain(10_000, end));
        begun.wait_set().await;
        assert_eq!(alive.count(), 1);
        pool.cancel();
        Ok(())
    });
    outcome.await.unwrap();
    assert_eq!(alive.count(), 0);
}

#[apply(current_thread)]
async fn five_hundred_levels_of_bodies_fit_on_the_stack() {
    inline(500).await;
}

#[apply(both)]
async fn a_chain_of_ten_thousand_scopes_is_dropped_without_recursion() {
    /// Shielded work that leaves behind such work, and ends.
    fn leave_behind(levels: usize, end: Job) {
        drop(shield(async move {
            if levels == 0 {
                end.await;
            } else {
                leave_behind(levels - 1, end);
            }
        }));
    }
    let alive = Alive::default();
    let (release, released) = oneshot::channel::<()>();
    let one = alive.one();
    let end = Box::pin(async move {
        let _ = released.await;
        drop(one);
    });
    let outcome: Outcome = Pool::open(async |_| {
        leave_behind(10_000, end);
        release.send(()).unwrap();
        Ok(())
    })
    .await;
    outcome.unwrap();
    assert_eq!(alive.count(), 0);
}

// ===== the outermost drop =====

#[apply(both)]
async fn the_tasks_of_a_dropped_outermost_pool_end_soon() {
    for leaf in LEAVES {
        let Tree { mut job, alive, size } = Tree::new(3, leaf);
        assert!(poll_once(job.as_mut()).await.is_pending());
        until(|| alive.count() == size).await;
        drop(job);
        until(|| alive.count() == 0).await;
    }
}

#[apply(both)]
async fn the_tasks_of_an_outermost_pool_dropped_on_a_plain_thread_end_soon() {
    for leaf in LEAVES {
        let Tree { mut job, alive, size } = Tree::new(3, leaf);
        assert!(poll_once(job.as_mut()).await.is_pending());
        until(|| alive.count() == size).await;
        thread::spawn(move || drop(job)).join().unwrap();
        until(|| alive.count() == 0).await;
    }
}

// ===== destructors of a body =====

/// Writes down in which pool it is dropped.
fn says_where(log: &Log) -> OnDrop<impl FnOnce() + Send + use<>> {
    let log = log.clone();
    OnDrop::new(move || {
        let here = Pool::<BoxError>::try_current();
        log.push(here.as_ref().and_then(|pool| pool.name()).unwrap_or("nowhere"));
    })
}

#[apply(both)]
async fn the_destructors_of_a_body_that_is_dropped_are_in_its_pool() {
    let log = Log::default();
    let local = says_where(&log);
    let mut opened = Box::pin(Pool::builder().name("inner").open(async move |_: Pool| {
        let _local = local;
        pending::<Result<(), BoxError>>().await
    }));
    assert!(poll_once(opened.as_mut()).await.is_pending());
    drop(opened);
    assert_eq!(log.events(), ["inner"]);
}

#[apply(both)]
async fn the_destructors_of_a_body_that_never_ran_are_where_it_is_dropped() {
    let log = Log::default();
    let opened = Pool::builder().name("outer").open(async |_: Pool| {
        let local = says_where(&log);
        drop(Pool::builder().name("inner").open(async move |_: Pool| {
            let _local = local;
            pending::<Result<(), BoxError>>().await
        }));
        Ok::<_, BoxError>(())
    });
    opened.await.unwrap();
    assert_eq!(log.events(), ["outer"]);
}
