//! `map`: at most so many at a time, in order or not, and no item or failure lost.

use std::future::{pending, ready};
use std::panic::Location;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use aiodrive::{BoxError, LatchEvent, Pool, PoolError, TaskError, map, shield};
use macro_rules_attribute::apply;
use tokio::sync::{Barrier, Semaphore, oneshot};
use tokio::task::yield_now;
use tokio::time::sleep;

use crate::support::{
    Alive, Count, OnDrop, both, cleanup_of, current_thread, failures, multi_thread, panic_of, panic_text,
    panics_in_drop, poll_once, poll_until, quiet_panic, stays_pending, until,
};

async fn same(n: usize) -> Result<usize, BoxError> {
    Ok(n)
}

/// Yields so often, which differs from item to item.
async fn after_a_while(n: usize) -> Result<usize, BoxError> {
    for _ in 0..n * 7 % 5 {
        yield_now().await;
    }
    Ok(n)
}

fn all(results: Vec<Result<usize, TaskError>>) -> Vec<usize> {
    results.into_iter().map(|result| result.unwrap()).collect()
}

/// Everything that `next` gives.
macro_rules! rest {
    ($map:expr) => {{
        let (mapped, mut results) = (&mut $map, Vec::new());
        while let Some(result) = mapped.next().await {
            results.push(result);
        }
        results
    }};
}

// ===== order and limit =====

#[apply(both)]
async fn results_come_in_the_order_of_the_items() {
    for limit in [1, 2, 3, 100, usize::MAX] {
        let mut mapped = map(limit, 0..50, after_a_while);
        assert_eq!(all(rest!(mapped)), (0..50).collect::<Vec<_>>(), "limit {limit}");
        for _ in 0..3 {
            assert!(mapped.next().await.is_none(), "something comes after the end; limit {limit}");
        }
    }
}

/// The first defect of the Python original: it hung after `limit` items. The second: items of a burst were lost.
#[apply(both)]
async fn without_an_order_every_item_comes_once() {
    for limit in [1, 2, 3, 100, usize::MAX] {
        let mut results = all(rest!(map(limit, 0..50, after_a_while).unordered()));
        results.sort();
        assert_eq!(results, (0..50).collect::<Vec<_>>(), "limit {limit}");
    }
}

#[apply(both)]
async fn a_burst_that_ends_at_once_loses_nothing() {
    let gate = Arc::new(Semaphore::new(0));
    let mut mapped = map(20, 0..20, |n| {
        let gate = Arc::clone(&gate);
        async move {
            drop(gate.acquire().await?);
            Ok::<_, BoxError>(n)
        }
    })
    .unordered();
    assert!(poll_once(pin!(mapped.next())).await.is_pending());
    gate.add_permits(20);
    let mut results = all(rest!(mapped));
    results.sort();
    assert_eq!(results, (0..20).collect::<Vec<_>>());
}

#[apply(both)]
async fn without_an_order_the_first_to_complete_comes_first() {
    let mut gates = Vec::new();
    let waits = (0..3).map(|n| {
        let (gate, opened) = oneshot::channel::<()>();
        gates.push(Some(gate));
        (n, opened)
    });
    let waits: Vec<_> = waits.collect();
    let mut mapped = map(3, waits, |(n, opened)| async move {
        opened.await?;
        Ok::<_, BoxError>(n)
    })
    .unordered();
    for n in [2, 0, 1] {
        stays_pending(pin!(mapped.next())).await;
        gates[n].take().unwrap().send(()).unwrap();
        assert_eq!(mapped.next().await.unwrap().unwrap(), n);
    }
    assert!(mapped.next().await.is_none());
}

/// Counts what is running, and the most that there were.
#[derive(Clone, Default)]
struct Running(Arc<[AtomicUsize; 2]>);

impl Running {
    async fn run(self, n: usize, all_run: Option<Arc<Barrier>>) -> Result<usize, BoxError> {
        let now = self.0[0].fetch_add(1, Ordering::SeqCst) + 1;
        self.0[1].fetch_max(now, Ordering::SeqCst);
        let counted = OnDrop::new(|| {
            self.0[0].fetch_sub(1, Ordering::SeqCst);
        });
        if let Some(all_run) = all_run {
            all_run.wait().await;
        }
        after_a_while(n).await?;
        drop(counted);
        Ok(n)
    }

    fn most(&self) -> usize {
        self.0[1].load(Ordering::SeqCst)
    }
}

#[apply(both)]
async fn no_more_run_at_a_time_than_the_limit() {
    for limit in [1, 2, 7] {
        let (running, all_run) = (Running::default(), Arc::new(Barrier::new(limit)));
        let results = map(limit, 0..100, |n| {
            let first = (n < limit).then(|| all_run.clone());
            running.clone().run(n, first)
        });
        assert_eq!(results.collect().await.unwrap().len(), 100, "limit {limit}");
        assert_eq!(running.most(), limit, "at a time");
    }
}

/// Results piled up before a slow consumer in the Python original.
#[apply(both)]
async fn an_endless_source_is_pulled_no_faster_than_results_are_taken() {
    for ordered in [true, false] {
        let pulled = AtomicUsize::new(0);
        let items = std::iter::repeat_with(|| pulled.fetch_add(1, Ordering::Relaxed));
        let mapped = map(5, items, same);
        let mut mapped = if ordered { mapped } else { mapped.unordered() };
        assert_eq!(pulled.load(Ordering::Relaxed), 0, "pulled before the first call; ordered: {ordered}");
        for taken in 1..100 {
            mapped.next().await.unwrap().unwrap();
            for _ in 0..20 {
                yield_now().await;
            }
            let pulled = pulled.load(Ordering::Relaxed);
            assert!(pulled <= taken + 5, "{pulled} pulled, {taken} taken");
        }
    }
}

#[apply(both)]
async fn a_slow_first_item_holds_back_no_more_than_the_limit() {
    let (gate, opened) = oneshot::channel::<()>();
    let (mut opened, pulled) = (Some(opened), AtomicUsize::new(0));
    let items = (0..100).inspect(|_| {
        pulled.fetch_add(1, Ordering::Relaxed);
    });
    let mut mapped = map(4, items, |n| {
        let opened = opened.take();
        async move {
            if let Some(opened) = opened {
                opened.await?;
            }
            Ok::<_, BoxError>(n)
        }
    });
    stays_pending(pin!(mapped.next())).await;
    assert_eq!(pulled.load(Ordering::Relaxed), 4);
    gate.send(()).unwrap();
    assert_eq!(all(rest!(mapped)), (0..100).collect::<Vec<_>>());
}

#[apply(both)]
async fn nothing_is_pulled_before_the_first_next() {
    let mapped = map(3, std::iter::from_fn(|| -> Option<usize> { panic!("it is pulled") }), same);
    yield_now().await;
    assert_eq!(format!("{mapped:?}"), "Map { limit: 3, pulled: 0, given: 0, .. }");
    drop(mapped);
}

#[apply(both)]
async fn an_empty_source_gives_nothing() {
    let mut mapped = map(3, Vec::new(), same);
    assert!(mapped.next().await.is_none() && mapped.next().await.is_none());
    assert_eq!(map(3, [], same).collect().await.unwrap(), []);
    assert_eq!(map(3, [], same).unordered().collect().await.unwrap(), []);
}

/// Some iterators begin anew after their end.
#[apply(both)]
async fn the_source_is_not_asked_after_its_end() {
    let mut calls = 0;
    let items = std::iter::from_fn(|| {
        calls += 1;
        (calls != 3).then_some(calls)
    });
    let mut mapped = map(1, items, same);
    assert_eq!(all(rest!(mapped)), [1, 2]);
    assert!(mapped.next().await.is_none());
    drop(mapped);
    assert_eq!(calls, 3);
}

// ===== failures =====

async fn odd_fails(n: usize) -> Result<usize, BoxError> {
    match n % 4 {
        1 => Err(format!("item {n}").into()),
        3 => quiet_panic("a bug"),
        _ => Ok(n),
    }
}

fn text(result: Result<usize, TaskError>) -> String {
    result.map_or_else(|failed| failures(&[failed]).remove(0), |value| value.to_string())
}

#[apply(both)]
async fn a_failure_is_an_item_and_stops_nothing() {
    for limit in [1, 3, 100] {
        let texts: Vec<_> = rest!(map(limit, 0..6, odd_fails)).into_iter().map(text).collect();
        assert_eq!(texts, ["0", "error: item 1", "2", "panic: a bug", "4", "error: item 5"], "limit {limit}");
    }
}

#[apply(both)]
async fn a_failure_knows_its_item_and_the_line_of_the_call() {
    let here = Location::caller().line() + 1;
    let mut mapped = map(2, [0, 1], async |n: usize| if n == 1 { Err("broken") } else { Ok(n) });
    mapped.next().await;
    let failed = mapped.next().await.unwrap().unwrap_err();
    let at = failed.task().spawned_at();
    assert_eq!((at.file(), at.line()), (file!(), here));
    assert_eq!(failed.to_string(), format!("branch 1 of map at {at} failed: broken"));

    let mut mapped = map(2, [0, 1], async |_| Err::<(), _>("broken")).name(|index| format!("page {index}"));
    for name in ["page 0", "page 1"] {
        assert_eq!(mapped.next().await.unwrap().unwrap_err().task().name(), Some(name));
    }
}

#[test]
fn a_limit_of_0_panics_with_the_callers_line() {
    let here = line!() + 1;
    let text = panic_text(|| map(0, [1], same));
    assert!(text.starts_with(&format!("`map` at {}:{here}:", file!())), "{text}");
    assert!(text.contains("limit of 0"), "{text}");
}

/// The panic goes through `next`; what the tasks come to is kept for the pool around.
#[apply(both)]
async fn a_panic_of_the_source_or_the_function_ends_it() {
    for (in_source, ordered) in [(true, true), (true, false), (false, true), (false, false)] {
        let (alive, failed) = (Alive::default(), LatchEvent::new());
        let mut lost = vec!["error: lost?"];
        let cleanup = cleanup_of(async || {
            let items = (0..10).inspect(|n| {
                if in_source && *n == 3 {
                    quiet_panic("in the source")
                }
            });
            let mapped = map(3, items, |n| {
                if n == 3 {
                    quiet_panic("in the function")
                }
                let (counted, failed) = (alive.slow(), failed.clone());
                async move {
                    let _counted = counted;
                    match n {
                        // So that the other has failed when something is given, and cannot be aborted instead.
                        0 => failed.wait_set().await,
                        1 => {
                            failed.set();
                            return Err::<_, BoxError>("lost?".into());
                        }
                        _ => pending().await,
                    }
                    Ok(n)
                }
            });
            let mut mapped = if ordered { mapped } else { mapped.unordered() };
            match mapped.next().await.unwrap() {
                Ok(first) => assert_eq!(first, 0, "in the source: {in_source}, ordered: {ordered}"),
                Err(error) if ordered => panic!("it is given too early: {error}"),
                Err(_) => lost.clear(),
            }
            let text = panic_of(async { while mapped.next().await.is_some() {} }).await;
            assert_eq!(text, if in_source { "in the source" } else { "in the function" }, "ordered: {ordered}");
            for _ in 0..3 {
                assert!(
                    mapped.next().await.is_none(),
                    "something comes after the panic; in the source: {in_source}, ordered: {ordered}"
                );
            }
            assert_eq!(alive.count(), 0, "`None` comes when nothing is left below");
        });
        assert_eq!(cleanup.await, lost, "in the source: {in_source}, ordered: {ordered}");
    }
}

#[apply(both)]
async fn a_panic_of_the_name_ends_it() {
    let mut mapped = map(3, 0..10, same).name(|index| if index == 1 { quiet_panic("no name") } else { "named" });
    assert_eq!(panic_of(mapped.next()).await, "no name");
    assert!(mapped.next().await.is_none());
}

#[test]
fn outside_of_a_runtime_it_panics() {
    let mut mapped = map(3, 0..10, same);
    let text = panic_text(|| {
        drop(pin!(mapped.next()).poll(&mut std::task::Context::from_waker(std::task::Waker::noop())));
    });
    assert!(text.starts_with("`map` at ") && text.contains("outside of a tokio runtime"), "{text}");
}

// ===== collect =====

#[apply(both)]
async fn collect_gives_all_values_in_order() {
    for limit in [1, 3, usize::MAX] {
        assert_eq!(
            map(limit, 0..50, after_a_while).collect().await.unwrap(),
            (0..50).collect::<Vec<_>>(),
            "limit {limit}"
        );
        let mut unordered = map(limit, 0..50, after_a_while).unordered().collect().await.unwrap();
        unordered.sort();
        assert_eq!(unordered, (0..50).collect::<Vec<_>>(), "limit {limit}");
    }
    let mut mapped = map(3, 0..10, after_a_while);
    assert_eq!(mapped.next().await.unwrap().unwrap(), 0);
    assert_eq!(mapped.collect().await.unwrap(), (1..10).collect::<Vec<_>>());
}

#[apply(both)]
async fn the_first_failure_aborts_the_rest_and_all_failures_are_inside() {
    let (alive, pulled, gate) = (Alive::default(), AtomicUsize::new(0), LatchEvent::new());
    let items = (0..).inspect(|_| {
        pulled.fetch_add(1, Ordering::Relaxed);
    });
    let collected = map(4, items, |n: usize| {
        let (counted, gate) = (alive.slow(), gate.clone());
        let bomb = (n == 3).then(|| OnDrop::new(|| quiet_panic("in a destructor")));
        async move {
            let (_counted, _bomb) = (counted, bomb);
            match n {
                1 => Err::<usize, BoxError>("broken".into()),
                _ => {
                    gate.wait_set().await;
                    Ok(n)
                }
            }
        }
    });
    let error: PoolError = collected.name(|index| format!("item {index}")).collect().await.unwrap_err();
    assert_eq!(failures(error.failures()), ["error: broken", "panic: in a destructor"]);
    assert_eq!(error.first().unwrap().task().name(), Some("item 1"));
    assert_eq!((alive.count(), pulled.load(Ordering::Relaxed)), (0, 4));
    assert!(error.cleanup_failures().is_empty());
}

#[apply(both)]
async fn what_fails_below_a_collect_without_an_owner_is_in_its_error() {
    let opened = Pool::open(async |_: Pool| {
        let collected = map(2, 0..4, async |n: usize| {
            drop(shield(async { quiet_panic("shielded") }));
            Ok::<_, BoxError>(n)
        });
        let error = collected.collect().await.unwrap_err();
        assert!(error.failures().is_empty());
        assert_eq!(failures(error.cleanup_failures()), ["panic: shielded"; 4]);
        Ok(())
    });
    opened.await.unwrap();
}

#[apply(both)]
async fn values_that_nobody_gets_may_panic_as_they_are_dropped() {
    let collected = map(1, 0..3, async |n: usize| match n {
        2 => Err::<_, BoxError>("broken".into()),
        _ => Ok(OnDrop::new(|| quiet_panic("in a value"))),
    });
    let Err(error) = collected.collect().await else { panic!("it has failed") };
    assert_eq!(failures(error.failures()), ["error: broken"]);
    assert_eq!(failures(error.cleanup_failures()), ["panic: in a value", "panic: in a value"]);
}

#[apply(both)]
async fn a_collect_that_is_dropped_leaves_its_failures_to_the_pool() {
    let (alive, gate) = (Alive::default(), LatchEvent::new());
    let cleanup = cleanup_of(async || {
        let shielded = Arc::new(Barrier::new(2));
        let mapped = map(3, 0..3, |n| {
            let (counted, opened, shielded) = (alive.slow(), gate.wait_set(), shielded.clone());
            async move {
                let _counted = counted;
                if n == 1 {
                    shielded.wait().await;
                    return Err::<(), BoxError>("broken".into());
                }
                if n == 2 {
                    // No abort reaches it: `collect` waits for it with the failure in hand.
                    drop(shield(opened));
                    shielded.wait().await;
                }
                pending().await
            }
        });
        let mut collected = Box::pin(mapped.collect());
        assert!(poll_once(collected.as_mut()).await.is_pending(), "it is ready too early");
        poll_until(collected.as_mut(), || alive.count() == 0).await;
        drop(collected);
        gate.set();
    });
    assert_eq!(cleanup.await, ["error: broken"]);
}

// ===== early ends =====

/// In the Python original, a consumer that stopped early left tasks behind, at some positions.
#[apply(both)]
async fn a_consumer_may_stop_at_each_position() {
    for ordered in [true, false] {
        for position in 0..=12 {
            let alive = Alive::default();
            let opened = Pool::open(async |_: Pool| {
                let mapped = map(3, 0..10, |n| {
                    let counted = alive.slow();
                    async move {
                        let _counted = counted;
                        after_a_while(n).await
                    }
                });
                let mut mapped = if ordered { mapped } else { mapped.unordered() };
                for _ in 0..position {
                    drop(mapped.next().await);
                }
                Ok(())
            });
            opened.await.unwrap();
            assert_eq!(alive.count(), 0, "a task is left at position {position}; ordered: {ordered}");
        }
    }
}

#[apply(both)]
async fn next_is_cancel_safe() {
    for ordered in [true, false] {
        let mapped = map(4, 0..100, after_a_while);
        let mut mapped = if ordered { mapped } else { mapped.unordered() };
        let mut results = Vec::new();
        loop {
            match poll_once(pin!(mapped.next())).await {
                Poll::Ready(Some(result)) => results.push(result.unwrap()),
                Poll::Ready(None) => break,
                Poll::Pending => yield_now().await,
            }
        }
        results.sort_by_key(|n| if ordered { 0 } else { *n });
        assert_eq!(results, (0..100).collect::<Vec<_>>(), "ordered: {ordered}");
    }
}

/// A cancel was swallowed in the Python original while a task ignored it.
#[apply(multi_thread)]
async fn a_task_that_ignores_its_abort_is_waited_for() {
    let alive = Alive::default();
    let opened = Pool::open(async |pool: Pool| {
        let counted = alive.one();
        pool.spawn(async move {
            let (sender, began) = oneshot::channel();
            let mut parts = Some((sender, counted));
            let mut mapped = map(1, [0], |n: usize| {
                let parts = parts.take();
                async move {
                    let (sender, counted) = parts.unwrap();
                    sender.send(()).unwrap();
                    (0..100_000).for_each(|_| std::thread::yield_now());
                    drop(counted);
                    Ok::<_, BoxError>(n)
                }
            });
            let next = mapped.next();
            let cancel = async {
                began.await.unwrap();
                Pool::<BoxError>::current().cancel();
            };
            drop(tokio::join!(next, cancel));
        });
        Ok(())
    });
    opened.await.unwrap();
    assert_eq!(alive.count(), 0);
}

#[apply(both)]
async fn failures_that_nobody_took_go_to_the_pool() {
    for ordered in [true, false] {
        let taken_by_test = std::sync::Mutex::new(Vec::new());
        let opened = Pool::open(async |_: Pool| {
            let ended = Alive::default();
            let (gate, opened) = oneshot::channel::<()>();
            let mut opened = Some(opened);
            let mapped = map(3, 0..3, |n| {
                let (counted, opened) = (ended.one(), opened.take());
                async move {
                    let _counted = counted;
                    if let Some(opened) = opened {
                        drop(opened.await);
                    }
                    if n == 0 { Ok(n) } else { Err::<usize, BoxError>(format!("item {n}").into()) }
                }
            });
            let mut mapped = if ordered { mapped } else { mapped.unordered() };
            let mut taken = Vec::new();
            if ordered {
                // Both wait in their slots.
                stays_pending(pin!(mapped.next())).await;
            } else {
                taken.push(mapped.next().await.unwrap().unwrap_err());
            }
            until(|| ended.count() == 1).await;
            for _ in 0..100 {
                yield_now().await;
            }
            drop((mapped, gate));
            taken_by_test.lock().unwrap().extend(failures(&taken));
            Ok(())
        });
        let error = opened.await.unwrap_err();
        let mut texts = failures(error.cleanup_failures());
        texts.append(&mut taken_by_test.lock().unwrap());
        texts.sort();
        assert_eq!(texts, ["error: item 1", "error: item 2"], "ordered: {ordered}");
    }
}

#[apply(both)]
async fn it_is_part_of_the_tree() {
    Pool::open(async |pool: Pool| {
        let mut mapped = map(2, 0..10, async |_| pending::<Result<(), BoxError>>().await);
        assert!(poll_once(pin!(mapped.next())).await.is_pending());
        let tree = pool.tree().to_string();
        assert!(tree.contains("<map> (running, 2 tasks)"), "{tree}");
        Ok(())
    })
    .await
    .unwrap();
}

#[apply(current_thread)]
async fn what_is_ready_at_once_starves_nobody() {
    let (gate, opened) = oneshot::channel::<()>();
    let (mut opened, ended) = (Some(opened), Alive::default());
    let mut mapped = map(usize::MAX, 0..10_000, |n| {
        let (counted, opened) = (ended.one(), opened.take());
        async move {
            let _counted = counted;
            if let Some(opened) = opened {
                opened.await?;
            }
            Ok::<_, BoxError>(n)
        }
    });
    // One poll after the other, in turns of this task: each spends no more than its budget.
    let mut polls = 0;
    while format!("{mapped:?}") != "Map { limit: 18446744073709551615, pulled: 10000, given: 0, .. }" {
        assert!(poll_once(pin!(mapped.next())).await.is_pending());
        yield_now().await;
        polls += 1;
    }
    assert!(polls > 70, "{polls} while pulling");
    for _ in 0..1_000 {
        assert!(poll_once(pin!(mapped.next())).await.is_pending());
        yield_now().await;
    }
    // All wait in their slots.
    gate.send(()).unwrap();
    until(|| ended.count() == 0).await;
    let mut pauses = 0;
    for n in 0..10_000 {
        let result = loop {
            match poll_once(pin!(mapped.next())).await {
                Poll::Ready(result) => break result,
                Poll::Pending => {
                    pauses += 1;
                    yield_now().await;
                }
            }
        };
        assert_eq!(result.unwrap().unwrap(), n);
    }
    assert!(pauses > 70, "{pauses} while giving");
}

// ===== types =====

/// Whatever the values and the items are.
#[test]
fn groups_and_maps_can_be_moved_and_shared() {
    use std::marker::PhantomPinned;
    fn check<T: Send + Sync + Unpin>() {}
    fn is_unpin<T: Unpin>() {}
    check::<aiodrive::TaskGroup<u32>>();
    check::<aiodrive::Map<std::ops::Range<u32>, fn(u32) -> std::future::Ready<Result<u32, BoxError>>, u32>>();
    is_unpin::<aiodrive::TaskGroup<PhantomPinned, PhantomPinned>>();
    is_unpin::<aiodrive::Map<PhantomPinned, PhantomPinned, PhantomPinned, PhantomPinned>>();
}

/// Borrowed items and locals, in tasks that must be `Send`. It is enough that this compiles.
#[apply(both)]
async fn it_borrows_inside_of_a_spawned_task() {
    async fn get(name: String) -> Result<usize, BoxError> {
        Ok(name.len())
    }
    async fn of_slice(names: &[String]) -> Result<Vec<usize>, PoolError> {
        map(4, names, |name| get(name.clone())).collect().await
    }
    let running = tokio::spawn(async {
        let (names, local) = (vec![String::from("a"), String::from("bc")], String::from("x"));
        let mut lengths = Vec::new();
        let mut mapped = map(4, &names, |name: &String| get(format!("{local}{name}")));
        while let Some(length) = mapped.next().await {
            lengths.push(length?);
        }
        lengths.extend(map(4, &names, |name| get(name.clone())).unordered().collect().await?);
        lengths.extend(map(4, names.iter().enumerate(), |(_, name): (_, &String)| get(name.clone())).collect().await?);
        lengths.extend(map(4, names.iter().map(String::as_str), |name| get(name.to_owned())).collect().await?);
        lengths.extend(map(4, 0..names.len(), |n| get(names[n].clone())).name(|n| format!("{n}")).collect().await?);
        lengths.extend(map(4, names.iter().cloned(), get).collect().await?);
        lengths.extend(map(4, names.clone(), async |name: String| get(name).await).collect().await?);
        lengths.extend(of_slice(&names).await?);
        Ok::<_, BoxError>(lengths.into_iter().sum::<usize>())
    });
    assert_eq!(running.await.unwrap().unwrap(), 5 + 7 * 3);
    let opened = Pool::open(async |_: Pool| {
        let names = vec![String::from("a")];
        Ok(map(4, &names, |name: &String| get(name.clone())).collect().await?)
    });
    assert_eq!(tokio::spawn(opened).await.unwrap().unwrap(), [1]);
}

#[apply(current_thread)]
async fn collect_that_fails_reports_a_value_that_panics_as_it_is_dropped() {
    let mapped = map(2, [true, false], async |fails| match fails {
        true => Err(BoxError::from("broken")),
        false => Ok(panics_in_drop()),
    });
    let Err(error) = mapped.collect().await else { panic!("an item has failed") };
    assert_eq!(failures(error.failures()), ["error: broken"]);
    assert_eq!(failures(error.cleanup_failures()), ["panic: in drop"]);
}

#[apply(both)]
async fn unordered_gives_at_once_what_has_waited_for_its_turn() {
    let gate = LatchEvent::new();
    let mut waits = [Some(gate.wait_set()), None].into_iter();
    let mut mapped = map(2, 0..2, |n| {
        let wait = waits.next().flatten();
        async move {
            if let Some(wait) = wait {
                wait.await;
            }
            Ok::<_, BoxError>(n)
        }
    });
    stays_pending(pin!(mapped.next())).await;
    let mut mapped = mapped.unordered();
    assert_eq!(mapped.next().await.unwrap().unwrap(), 1);
    gate.set();
    assert_eq!(mapped.next().await.unwrap().unwrap(), 0);
    assert!(mapped.next().await.is_none());
}

// ===== streams =====

#[cfg(feature = "stream")]
mod streams {
    use aiodrive::{TaskGroup, map_stream};
    use tokio::runtime::Handle;
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::UnboundedReceiverStream;
    use tokio_stream::{Stream, StreamExt};

    use super::*;
    use crate::support::{Log, running};

    #[apply(both)]
    async fn both_are_streams() {
        let running = tokio::spawn(async {
            let names = vec![1, 2, 3];
            let doubled: Vec<usize> =
                StreamExt::collect::<Result<_, _>>(map(2, &names, |n: &usize| same(2 * n))).await?;
            let mut group: TaskGroup<usize> = TaskGroup::new();
            doubled.into_iter().for_each(|n| group.spawn(same(n)));
            assert_eq!(Stream::size_hint(&group), (3, None));
            Ok::<_, TaskError>(StreamExt::fold(group, 0, |sum, n| sum + n.unwrap()).await)
        });
        assert_eq!(running.await.unwrap().unwrap(), 12);
    }

    #[apply(both)]
    async fn a_stream_is_a_source() {
        let numbers = [1, 2, 3];
        let collected = map_stream(2, tokio_stream::iter(&numbers), |n: &usize| same(*n)).collect().await;
        assert_eq!(collected.unwrap(), numbers);
    }

    /// In the Python original, a source that ended late was waited for in vain.
    #[apply(both)]
    async fn a_stream_may_be_slow_and_end_late() {
        for ordered in [true, false] {
            let (sender, receiver) = mpsc::unbounded_channel();
            let mapped = map_stream(2, UnboundedReceiverStream::new(receiver), same);
            let mut mapped = if ordered { mapped } else { mapped.unordered() };
            for n in 0..5 {
                stays_pending(pin!(mapped.next())).await;
                sender.send(n).unwrap();
                assert_eq!(mapped.next().await.unwrap().unwrap(), n, "ordered: {ordered}");
            }
            let ended = tokio::spawn(async move { mapped.next().await.is_none() && mapped.next().await.is_none() });
            for _ in 0..100 {
                yield_now().await;
            }
            assert!(!ended.is_finished(), "it has ended before its source; ordered: {ordered}");
            drop(sender);
            assert!(ended.await.unwrap(), "something comes after the end; ordered: {ordered}");
        }
    }

    #[apply(both)]
    async fn a_stream_is_polled_only_when_there_is_room() {
        let polled = AtomicUsize::new(0);
        let items = tokio_stream::iter(0..).map(|n| {
            polled.fetch_add(1, Ordering::Relaxed);
            n
        });
        let mut mapped = map_stream(3, items, same);
        for taken in 1..20 {
            mapped.next().await.unwrap().unwrap();
            assert!(polled.load(Ordering::Relaxed) <= taken + 3, "polled ahead of {taken} results");
        }
    }

    /// In a blocking call, in which the map cannot be dropped.
    #[apply(multi_thread)]
    async fn a_map_that_was_aborted_gives_nothing_after_its_end() {
        let ((send, receive), (begun, wait)) = (mpsc::unbounded_channel(), oneshot::channel());
        let (pool, log) = (Pool::<BoxError>::builder().keep_open(true).build(), Log::default());
        let said = log.clone();
        pool.spawn_blocking(move || {
            let items = UnboundedReceiverStream::new(receive);
            let mut items = map_stream(2, items, async |_: u32| pending::<Result<(), BoxError>>().await);
            send.send(1).unwrap();
            Handle::current().block_on(async {
                stays_pending(pin!(items.next())).await;
                begun.send(()).unwrap();
                for _ in 0..4 {
                    send.send(2).unwrap();
                    said.push(if items.next().await.is_some() { "cut off" } else { "none" });
                }
            });
        });
        let run = running(&pool);
        wait.await.unwrap();
        pool.abort();
        run.await.unwrap().unwrap();
        assert_eq!(log.events(), ["cut off", "cut off", "none", "none"]);
    }

    #[test]
    fn a_limit_of_0_panics() {
        assert!(panic_text(|| map_stream(0, tokio_stream::empty(), same)).starts_with("`map_stream` at "));
    }
}

/// Values that panic as they are dropped, one while another panic unwinds: that would end the process.
#[apply(both)]
async fn values_that_panic_as_they_are_dropped_end_no_process() {
    let opened = Pool::<BoxError>::open(async |_| {
        let values = map(1, 0..3, |item| {
            if item == 2 {
                quiet_panic("in the function");
            }
            ready(Ok::<_, BoxError>(panics_in_drop()))
        });
        drop(values.collect().await);
        Ok(())
    });
    assert_eq!(panic_of(opened).await, "in the function");
    let opened = Pool::<BoxError>::open(async |_| {
        let made = Count::default();
        let counts = made.clone();
        let mut values = pin!(
            map(3, 0..3, move |item| {
                let made = counts.clone();
                async move {
                    if item == 2 {
                        return pending().await;
                    }
                    made.up();
                    Ok::<_, BoxError>(panics_in_drop())
                }
            })
            .collect()
        );
        poll_until(values.as_mut(), || made.get() == 2).await;
        stays_pending(values.as_mut()).await;
        Ok(())
    });
    assert_eq!(failures(opened.await.unwrap_err().cleanup_failures()), ["panic: in drop"; 2]);
}

#[apply(current_thread)]
async fn failures_that_came_before_a_collect_stay_in_their_order() {
    let mut items = map(4, [50, 10, 20, 1_000], async |time| {
        sleep(Duration::from_millis(time)).await;
        Err::<(), _>(BoxError::from(time.to_string()))
    });
    assert!(tokio::time::timeout(Duration::from_millis(30), items.next()).await.is_err());
    assert_eq!(failures(items.collect().await.unwrap_err().failures()), ["error: 10", "error: 20"]);
}

#[apply(current_thread)]
async fn a_value_that_panics_as_it_is_dropped_does_so_by_the_name_of_its_task() {
    let pages = map(2, 0..2, async |page| match page {
        0 => Ok(panics_in_drop()),
        _ => {
            yield_now().await;
            Err(BoxError::from("broken"))
        }
    });
    let error = pages.name(|page| format!("page {page}")).collect().await.err().unwrap();
    let names: Vec<_> = error.cleanup_failures().iter().map(|failed| failed.task().name()).collect();
    assert_eq!(names, [Some("page 0")]);
}
