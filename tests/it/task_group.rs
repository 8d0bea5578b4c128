//! `TaskGroup`: one item for each child, as they complete, and nothing left behind.

use std::future::pending;
use std::panic::Location;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use aiodrive::{
    BoxError, Failure, LatchEvent, Pool, TaskError, TaskGroup, TaskStopped, cancellation_token, race, shield, timeout,
};
use macro_rules_attribute::apply;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::{block_in_place, yield_now};

use crate::support::{
    Alive, Count, Log, OnDrop, both, busy, current_thread, failures, multi_thread, panic_text, poll_once, quiet_panic,
    stays_pending, until,
};

type Item = Result<u32, TaskError>;

fn group() -> TaskGroup<u32> {
    TaskGroup::new()
}

/// `value 1`, `error: …`, `panic: …`, `cancelled` or `nothing`.
fn text(item: Option<Item>) -> String {
    match item {
        None => "nothing".to_owned(),
        Some(Ok(value)) => format!("value {value}"),
        Some(Err(failed)) => failures(&[failed]).remove(0),
    }
}

async fn rest(group: &mut TaskGroup<u32>) -> Vec<String> {
    let mut items = Vec::new();
    while let Some(item) = group.next().await {
        items.push(text(Some(item)));
    }
    items
}

// ===== items =====

#[apply(both)]
async fn results_come_as_the_children_complete() {
    let mut group = group();
    let gates: Vec<_> = (0..3)
        .map(|n| {
            let (gate, opened) = oneshot::channel::<()>();
            group.spawn(async move {
                opened.await?;
                Ok(n)
            });
            gate
        })
        .collect();
    let mut gates: Vec<_> = gates.into_iter().map(Some).collect();
    for n in [1, 2, 0] {
        stays_pending(pin!(group.next())).await;
        gates[n as usize].take().unwrap().send(()).unwrap();
        assert_eq!(group.next().await.unwrap().unwrap(), n);
    }
    assert!(group.next().await.is_none());
}

#[apply(both)]
async fn each_child_gives_one_item() {
    let mut group = group();
    group.spawn(async { Ok(1) });
    assert_eq!(text(group.next().await), "value 1");
    group.spawn(async { Err("broken".into()) });
    assert_eq!(text(group.next().await), "error: broken");
    group.spawn(async { quiet_panic("a bug") });
    assert_eq!(text(group.next().await), "panic: a bug");
    group.spawn(pending());
    group.abort_all();
    assert_eq!(text(group.next().await), "cancelled");
    for _ in 0..3 {
        assert_eq!(text(group.next().await), "nothing");
    }
}

#[apply(both)]
async fn a_failure_knows_the_name_and_the_line_of_its_child() {
    let mut group = group();
    let lines = [line!() + 1, line!() + 2, line!() + 3, line!() + 4];
    group.build_task().name("error").spawn(async { Err("broken".into()) });
    group.build_task().name(String::from("panic")).spawn(async { quiet_panic("a bug") });
    group.build_task().name("closure").spawn_blocking(|| Err("broken".into()));
    group.build_task().name("aborted").spawn(pending());
    let mut known = Vec::new();
    while let Some(item) = group.next().await {
        let failed = item.unwrap_err();
        let task = failed.task();
        assert_eq!(task.spawned_at().file(), file!());
        known.push((task.spawned_at().line(), task.name().unwrap().to_owned()));
        if known.len() == 3 {
            group.abort_all();
        }
    }
    known.sort();
    let names = ["error", "panic", "closure", "aborted"].map(str::to_owned);
    assert_eq!(known, lines.into_iter().zip(names).collect::<Vec<_>>());
}

#[apply(both)]
async fn a_child_without_a_name_is_known_by_its_line() {
    let mut group = group();
    let here = Location::caller();
    group.spawn(async { Err("broken".into()) });
    let failed = group.next().await.unwrap().unwrap_err();
    assert_eq!(failed.task().spawned_at().line(), here.line() + 1);
    assert_eq!(failed.to_string(), format!("task at {} failed: broken", failed.task().spawned_at()));
}

#[apply(both)]
async fn each_aborted_child_keeps_its_own_name() {
    let mut group = group();
    for n in 0..100 {
        group.build_task().name(format!("child {n}")).spawn(busy_value());
    }
    yield_now().await;
    group.abort_all();
    let mut names = Vec::new();
    while let Some(item) = group.next().await {
        names.push(item.unwrap_err().task().name().unwrap().to_owned());
    }
    names.sort();
    let mut all: Vec<_> = (0..100).map(|n| format!("child {n}")).collect();
    all.sort();
    assert_eq!(names, all);
}

async fn busy_value() -> Result<u32, BoxError> {
    busy().await;
    Ok(0)
}

#[apply(both)]
async fn a_destructor_that_panics_in_an_aborted_child_is_its_item() {
    let mut group = group();
    let bomb = OnDrop::new(|| quiet_panic("in a destructor"));
    group.build_task().name("bomb").spawn(async move {
        let _bomb = bomb;
        pending().await
    });
    yield_now().await;
    group.abort_all();
    let failed = group.next().await.unwrap().unwrap_err();
    assert_eq!(failed.task().name(), Some("bomb"));
    assert_eq!(failures(&[failed]), ["panic: in a destructor"]);
    assert!(group.next().await.is_none());
}

/// The value is not lost to it.
#[apply(both)]
async fn a_destructor_that_panics_in_a_finished_child_is_a_cleanup_failure() {
    let opened = Pool::open(async |_: Pool| {
        let mut group = group();
        let bomb = OnDrop::new(|| quiet_panic("in a destructor"));
        group.spawn(std::future::poll_fn(move |_| {
            let _kept = &bomb;
            Poll::Ready(Ok(1))
        }));
        assert_eq!(rest(&mut group).await, ["value 1"]);
        Ok(())
    });
    let error = opened.await.unwrap_err();
    assert_eq!(failures(error.cleanup_failures()), ["panic: in a destructor"]);
}

#[apply(both)]
async fn closures_are_children_too() {
    let mut group = group();
    group.spawn_blocking(|| Ok(1));
    assert_eq!(rest(&mut group).await, ["value 1"]);
    group.spawn_blocking(|| quiet_panic("a bug"));
    assert_eq!(rest(&mut group).await, ["panic: a bug"]);
}

#[test]
fn a_closure_that_has_not_begun_is_aborted() {
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        let (gate, opened) = std::sync::mpsc::channel::<()>();
        let (mut group, begun) = (group(), Arc::new(AtomicBool::new(false)));
        let begins = Arc::clone(&begun);
        group.spawn_blocking(move || {
            begins.store(true, Ordering::SeqCst);
            Ok(opened.recv().map(|()| 1)?)
        });
        group.spawn_blocking(|| Ok(2));
        until(|| begun.load(Ordering::SeqCst)).await;
        group.abort_all();
        gate.send(()).unwrap();
        let mut items = rest(&mut group).await;
        items.sort();
        assert_eq!(items, ["cancelled", "value 1"]);
    });
}

#[apply(both)]
async fn len_counts_what_was_not_given() {
    let mut group = group();
    assert!(group.is_empty());
    group.spawn(async { Ok(1) });
    group.spawn(pending());
    assert_eq!(group.len(), 2);
    group.next().await;
    assert_eq!((group.len(), group.is_empty()), (1, false));
    group.abort_all();
    assert_eq!(group.len(), 1);
    group.next().await;
    assert!(group.is_empty());
    assert_eq!(format!("{group:?}"), "TaskGroup { len: 0 }");
}

#[apply(both)]
async fn a_group_is_used_again_after_its_end() {
    let mut group = group();
    for n in 0..3 {
        assert!(group.next().await.is_none(), "something comes after the end, in round {n}");
        group.spawn(async move { Ok(n) });
        assert_eq!(rest(&mut group).await, [format!("value {n}")]);
    }
}

// ===== cancel safety =====

#[apply(both)]
async fn next_is_cancel_safe() {
    let mut group = group();
    for n in 0..100 {
        group.spawn(async move {
            for _ in 0..n % 7 {
                yield_now().await;
            }
            Ok(n)
        });
    }
    let mut sum = 0;
    while !group.is_empty() {
        // Dropped after one poll.
        if let Poll::Ready(item) = poll_once(pin!(group.next())).await {
            sum += item.unwrap().unwrap();
        }
        yield_now().await;
    }
    assert_eq!(sum, 99 * 100 / 2);
}

#[apply(both)]
async fn the_end_is_waited_for_again_after_next_was_dropped() {
    let (gate, opened) = oneshot::channel::<()>();
    let mut group = group();
    group.spawn(async {
        drop(shield(opened)); // runs on below the child
        Ok(1)
    });
    assert_eq!(group.next().await.unwrap().unwrap(), 1);
    stays_pending(pin!(group.next())).await;
    group.spawn(async { Ok(2) });
    assert_eq!(group.next().await.unwrap().unwrap(), 2);
    stays_pending(pin!(group.next())).await;
    gate.send(()).unwrap();
    assert!(group.next().await.is_none());
}

#[apply(both)]
async fn shutdown_gives_what_was_not_given() {
    let (alive, begun) = (Alive::default(), Count::default());
    let begins = || {
        let begun = begun.clone();
        move || begun.up()
    };
    let mut group = group();
    group.spawn(async { Ok(1) });
    let begin = begins();
    group.build_task().name("error").spawn(async move {
        begin();
        Err("broken".into())
    });
    let begin = begins();
    group.build_task().name("panic").spawn(async move {
        begin();
        quiet_panic("a bug")
    });
    let (begin, counted) = (begins(), alive.slow());
    group.spawn(async move {
        let _counted = counted;
        begin();
        pending().await
    });
    let begin = begins();
    group.spawn(async move {
        let _bomb = OnDrop::new(|| quiet_panic("in a destructor"));
        begin();
        pending().await
    });
    // An abort cannot come between that and the end of those that fail.
    until(|| begun.get() == 4).await;
    let mut texts = failures(&group.shutdown().await);
    texts.sort();
    assert_eq!(alive.count(), 0);
    assert_eq!(texts, ["error: broken", "panic: a bug", "panic: in a destructor"]);
    assert!(group.is_empty() && group.next().await.is_none());
    // It can be used again.
    group.spawn(async { Ok(2) });
    assert_eq!(rest(&mut group).await, ["value 2"]);
}

#[apply(current_thread)]
async fn a_shutdown_that_is_dropped_loses_nothing() {
    let mut group = group();
    let begun = Count::default();
    let (fails, blocks) = (begun.clone(), begun.clone());
    group.spawn(async move {
        fails.up();
        Err("broken".into())
    });
    group.spawn(async { Ok(1) });
    let (gate, opened) = std::sync::mpsc::channel::<()>();
    group.spawn_blocking(move || {
        blocks.up();
        Err(opened.recv().map(|()| "late")?.into())
    });
    until(|| begun.get() == 2).await;
    stays_pending(pin!(group.shutdown())).await;
    assert_eq!(group.len(), 2); // the value was dropped
    assert_eq!(text(group.next().await), "error: broken");
    group.spawn(async { Err("again".into()) });
    yield_now().await;
    stays_pending(pin!(group.shutdown())).await;
    gate.send(()).unwrap();
    assert_eq!(failures(&group.shutdown().await), ["error: again", "error: late"]);
}

// ===== nothing is left behind =====

#[apply(both)]
async fn the_end_comes_when_everything_below_has_ended() {
    let alive = Alive::default();
    let mut group = group();
    let counted = alive.slow();
    group.spawn(async move {
        // Dropped halfway: it closes below the child, which ends before.
        let nested = Pool::builder().grace(Duration::from_secs(1)).open(async |pool: Pool| {
            pool.spawn(async move {
                let _counted = counted;
                cancellation_token().cancelled().await;
                for _ in 0..100 {
                    yield_now().await;
                }
            });
            pending::<Result<(), BoxError>>().await
        });
        drop(poll_once(Box::pin(nested).as_mut()).await);
        Ok(1)
    });
    assert_eq!(group.next().await.unwrap().unwrap(), 1);
    assert!(group.next().await.is_none());
    assert_eq!(alive.count(), 0);
}

#[apply(both)]
async fn a_group_that_is_aborted_again_waits_for_what_its_first_child_has_left_behind() {
    let ((gate, opens), alive, mut group) = (oneshot::channel::<()>(), Alive::default(), group());
    let (counted, begun) = (alive.one(), Arc::new(AtomicBool::new(false)));
    let begins = Arc::clone(&begun);
    group.spawn(async move {
        let mut shielded = Box::pin(shield(async move {
            let _counted = counted;
            drop(opens.await);
        }));
        assert!(poll_once(shielded.as_mut()).await.is_pending());
        begins.store(true, Ordering::SeqCst);
        pending().await
    });
    until(|| begun.load(Ordering::SeqCst)).await;
    for _ in 0..2 {
        group.abort_all();
        assert_eq!(text(group.next().await), "cancelled");
        group.spawn(pending());
    }
    group.abort_all();
    assert_eq!(text(group.next().await), "cancelled");
    let mut end = Box::pin(group.next());
    stays_pending(end.as_mut()).await;
    gate.send(()).unwrap();
    assert!(end.await.is_none());
    assert_eq!(alive.count(), 0);
}

#[apply(both)]
async fn the_enclosing_pool_waits_for_a_group_that_is_dropped_halfway() {
    let alive = Alive::default();
    let counted: Vec<_> = (0..20).map(|_| alive.slow()).collect();
    Pool::open(async |_: Pool| {
        let mut group = group();
        group.spawn(async { Ok(1) });
        for counted in counted {
            group.spawn(async move {
                let mut below = TaskGroup::<u32>::new();
                below.spawn(async move {
                    let _counted = counted;
                    busy_value().await
                });
                below.next().await.unwrap().map_err(BoxError::from)
            });
        }
        assert_eq!(group.next().await.unwrap().unwrap(), 1);
        yield_now().await;
        drop(group);
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(alive.count(), 0);
}

#[apply(both)]
async fn a_group_in_a_task_that_is_aborted_leaves_nothing() {
    for rounds in 0..10 {
        let alive = Alive::default();
        let counted = alive.slow();
        let opened = Pool::open(async |pool: Pool| {
            pool.spawn(async move {
                let mut outer = TaskGroup::<u32>::new();
                outer.spawn(async move {
                    let mut inner = TaskGroup::<u32>::new();
                    inner.spawn(async move {
                        let _counted = counted;
                        busy_value().await
                    });
                    inner.next().await;
                    Ok(0)
                });
                outer.next().await;
            });
            for _ in 0..rounds {
                yield_now().await;
            }
            pool.cancel();
            Ok(())
        });
        opened.await.unwrap();
        assert_eq!(alive.count(), 0, "something is left after {rounds} turns");
    }
}

#[apply(both)]
async fn timeout_and_race_wait_for_a_group_inside() {
    let alive = Alive::default();
    let hold = |alive: &Alive| {
        let counted = alive.slow();
        async move {
            let mut group = group();
            group.spawn(async move {
                let _counted = counted;
                pending().await // a paused clock stands still beside what is busy
            });
            group.next().await;
        }
    };
    let late = timeout(Duration::from_millis(1), hold(&alive));
    assert!(late.await.is_err());
    assert_eq!(alive.count(), 0);
    let (winner, ()) =
        race([Box::pin(hold(&alive)) as std::pin::Pin<Box<dyn Future<Output = ()> + Send>>, Box::pin(yield_now())])
            .await;
    assert_eq!((winner, alive.count()), (1, 0));
}

#[apply(both)]
async fn what_nobody_took_is_a_cleanup_failure() {
    let ended = Alive::default();
    let opened = Pool::open(async |_: Pool| {
        let mut group = group();
        for (name, text) in [("a", "first"), ("b", "second")] {
            let counted = ended.one();
            group.build_task().name(name).spawn(async move {
                let _counted = counted;
                Err(text.into())
            });
        }
        let bomb = OnDrop::new(|| quiet_panic("in a destructor"));
        group.build_task().name("c").spawn(async move {
            let _bomb = bomb;
            pending().await
        });
        until(|| ended.count() == 0).await;
        for _ in 0..100 {
            yield_now().await;
        }
        drop(group);
        Ok(())
    });
    let error = opened.await.unwrap_err();
    assert!(error.failures().is_empty());
    let mut names: Vec<_> = error.cleanup_failures().iter().map(|failed| failed.task().name().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["a", "b", "c"]);
}

#[apply(both)]
async fn what_fails_below_without_an_owner_goes_to_the_enclosing_pool() {
    let opened = Pool::open(async |_: Pool| {
        let mut group = group();
        group.spawn(async {
            drop(shield(async { quiet_panic("shielded") }));
            Ok(1)
        });
        assert_eq!(rest(&mut group).await, ["value 1"]);
        Ok(())
    });
    let error = opened.await.unwrap_err();
    assert_eq!(failures(error.cleanup_failures()), ["panic: shielded"]);
}

// ===== where the children belong =====

#[apply(both)]
async fn children_belong_to_what_encloses_the_call_of_new() {
    let mut outside = TaskGroup::<Option<String>>::new();
    let name = || async { Ok(Pool::<BoxError>::try_current().and_then(|pool| pool.name().map(str::to_owned))) };
    Pool::builder()
        .name("outer")
        .open(async |_: Pool| {
            let mut inside = TaskGroup::<Option<String>>::new();
            outside.spawn(name());
            assert_eq!(outside.next().await.unwrap().unwrap(), None);
            Pool::builder()
                .name("inner")
                .open(async |_: Pool| {
                    inside.spawn(name());
                    assert_eq!(inside.next().await.unwrap().unwrap().as_deref(), Some("outer"));
                    Ok(())
                })
                .await?;
            Ok(())
        })
        .await
        .unwrap();
}

#[apply(both)]
async fn a_group_that_has_left_its_pool_keeps_it_not_waiting() {
    let opened = Pool::open(async |_: Pool| {
        let mut group = group();
        group.spawn(async { Ok(1) });
        group.spawn(async { Err("broken".into()) });
        Ok(group)
    });
    let mut group = opened.await.unwrap();
    let mut items = [text(group.next().await), text(group.next().await)];
    items.sort();
    assert_eq!(items, ["error: broken", "value 1"]);

    // What comes now belongs to whatever encloses the spawn.
    let alive = Alive::default();
    let counted = alive.slow();
    Pool::open(async |_: Pool| {
        group.spawn(async move {
            let _counted = counted;
            yield_now().await;
            Ok(2)
        });
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(alive.count(), 0);
    assert_eq!(rest(&mut group).await, ["value 2"]);
}

#[apply(both)]
async fn children_hear_that_the_pool_around_them_stops() {
    let opened = Pool::builder().grace(Duration::from_secs(10)).open(async |pool: Pool| {
        let mut group = group();
        group.spawn(async {
            cancellation_token().cancelled().await;
            Ok(1)
        });
        yield_now().await;
        pool.cancel();
        Ok(rest(&mut group).await)
    });
    assert_eq!(opened.await.unwrap(), ["value 1"]);
}

// ===== aborts =====

/// No time is left to what is below, and the children that come later have theirs.
#[apply(both)]
async fn an_abort_goes_all_the_way_down_and_no_further() {
    async fn nested(began: LatchEvent, log: Log) -> Result<u32, BoxError> {
        Pool::builder()
            .grace(Duration::from_secs(1_000))
            .open(async |pool: Pool| {
                pool.spawn(async move {
                    began.set();
                    let _dropped = log.on_drop("dropped");
                    cancellation_token().cancelled().await;
                    yield_now().await;
                    log.push("finished");
                });
                pending::<Result<(), BoxError>>().await
            })
            .await?;
        Ok(0)
    }
    let (log, began) = (Log::default(), LatchEvent::new());
    let mut group = group();
    group.spawn(nested(began.clone(), log.clone()));
    began.wait_set().await;
    group.abort_all();
    // The nested pool may have closed before its own task is dropped.
    let item = text(group.next().await);
    assert!(item == "cancelled" || item == "error: pool cancelled", "{item}");
    assert!(group.next().await.is_none());
    assert_eq!(log.events(), ["dropped"]);

    let (log, began) = (Log::default(), LatchEvent::new());
    let later = log.clone();
    group.spawn(async move {
        let cut_off = began.wait_set();
        tokio::select! {
            ended = nested(began, later) => drop(ended?),
            () = cut_off => {}
        }
        Ok(1)
    });
    assert_eq!(rest(&mut group).await, ["value 1"]);
    assert_eq!(log.events(), ["finished", "dropped"]);
}

#[apply(both)]
async fn children_that_come_after_an_abort_run() {
    let mut group = group();
    group.spawn(busy_value());
    group.abort_all();
    group.spawn(async {
        yield_now().await;
        Ok(1)
    });
    let mut items = rest(&mut group).await;
    items.sort();
    assert_eq!(items, ["cancelled", "value 1"]);
}

/// Nobody drops a group that is polled in place in a blocking call.
#[apply(multi_thread)]
async fn an_abort_reaches_a_group_that_is_polled_in_place() {
    let (began, alive) = (LatchEvent::new(), Alive::default());
    let counted = alive.one();
    let task = began.clone();
    Pool::open(async |pool: Pool| {
        pool.spawn(async move {
            tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(async {
                    let mut group = group();
                    group.spawn(async move {
                        let _counted = counted;
                        pending().await
                    });
                    task.set();
                    assert_eq!(rest(&mut group).await, ["cancelled"]);
                    // What begins now has no time either.
                    group.spawn(pending());
                    assert_eq!(rest(&mut group).await, ["cancelled"]);
                });
            });
        });
        began.wait_set().await;
        pool.abort();
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(alive.count(), 0);
}

#[test]
fn a_runtime_that_shuts_down_cuts_its_children_off() {
    let other = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let handle = other.handle().clone();
    let mut group = group();
    other.block_on(async {
        group.build_task().name("cut off").spawn(pending());
        group.spawn(async { Ok(1) });
        assert_eq!(group.next().await.unwrap().unwrap(), 1);
    });
    drop(other);
    {
        // What is spawned there is dropped at once.
        let _entered = handle.enter();
        group.build_task().name("too late").spawn(async { Ok(2) });
    }
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
        let mut names = Vec::new();
        while let Some(item) = group.next().await {
            let failed = item.unwrap_err();
            assert!(matches!(failed.failure(), Failure::Cancelled));
            names.push(failed.task().name().unwrap().to_owned());
        }
        names.sort();
        assert_eq!(names, ["cut off", "too late"]);
    });
}

#[test]
fn outside_of_a_runtime_it_panics_where_it_was_called() {
    let mut group = TaskGroup::<u32>::new();
    let here = Location::caller().line() - 1;
    let text = panic_text(|| group.spawn(async { Ok(1) }));
    assert!(text.starts_with(&format!("`TaskGroup` at {}:{here}:", file!())), "{text}");
    assert!(text.contains("outside of a tokio runtime"), "{text}");
    assert!(panic_text(|| group.spawn_blocking(|| Ok(1))).contains("outside of a tokio runtime"));
    // Nothing of it is left.
    assert!(group.is_empty());
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
        group.build_task().name("later").spawn(pending());
        group.abort_all();
        assert_eq!(group.next().await.unwrap().unwrap_err().task().name(), Some("later"));
        assert!(group.next().await.is_none());
    });
}

// ===== neighbours =====

#[apply(current_thread)]
async fn what_is_ready_at_once_starves_nobody() {
    let mut group = group();
    let running = Alive::default();
    for n in 0..10_000 {
        let counted = running.one();
        group.spawn(async move {
            drop(counted);
            Ok(n)
        });
    }
    until(|| running.count() == 0).await;
    let turns = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let neighbour = tokio::spawn({
        let turns = Arc::clone(&turns);
        async move {
            loop {
                turns.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                yield_now().await;
            }
        }
    });
    assert_eq!(rest(&mut group).await.len(), 10_000);
    let turns = turns.load(std::sync::atomic::Ordering::Relaxed);
    assert!(turns > 50, "{turns}");
    neighbour.abort();
}

/// Somebody's crawler.
struct Crawler {
    pages: TaskGroup<u32>,
}

#[apply(both)]
async fn a_group_is_a_field_of_a_struct() {
    let mut crawler = Crawler { pages: TaskGroup::default() };
    crawler.pages.spawn(async { Ok(1) });
    let running = tokio::spawn(async move {
        let local = String::from("borrowed");
        let borrowed = &local;
        let mut sum = 0;
        while let Some(page) = crawler.pages.next().await {
            sum += page?;
            assert_eq!(borrowed, "borrowed");
        }
        Ok::<_, BoxError>(sum)
    });
    assert_eq!(running.await.unwrap().unwrap(), 1);
}

#[apply(current_thread)]
async fn the_debug_text_of_a_builder_names_the_child() {
    let mut group: TaskGroup<()> = TaskGroup::new();
    assert_eq!(format!("{:?}", group.build_task().name("fetch")), r#"GroupTaskBuilder { name: Some("fetch"), .. }"#);
}

#[apply(current_thread)]
async fn a_destructor_of_an_aborted_task_may_spawn_into_the_group_of_somebody_else() {
    let opened = Pool::open(async |pool: Pool| {
        let group = Arc::new(Mutex::new(group()));
        let (begun, wait) = oneshot::channel();
        let (used, gate) = (Arc::clone(&group), LatchEvent::new());
        let cleanup = gate.wait_set();
        let task = pool.spawn_with_handle(async move {
            let _cleans_up = OnDrop::new(move || {
                used.lock().unwrap().spawn(async {
                    cleanup.await;
                    Ok(1)
                });
            });
            begun.send(()).unwrap();
            pending::<Result<(), _>>().await
        });
        wait.await?;
        task.cancel();
        task.await.unwrap_err();
        let mut group = Arc::into_inner(group).unwrap().into_inner().unwrap();
        group.spawn(async { Ok(2) });
        gate.set();
        let mut texts = [text(group.next().await), text(group.next().await)];
        texts.sort();
        assert_eq!(texts, ["value 1", "value 2"]);
        Ok(())
    });
    opened.await.unwrap();
}

#[apply(current_thread)]
async fn children_come_in_their_order_although_the_budget_is_spent() {
    let mut group = group();
    let ended = Count::default();
    for number in 0..400 {
        let ended = ended.clone();
        group.spawn(async move {
            ended.up();
            Ok(number)
        });
    }
    // They end in this order, before the first is taken.
    until(|| ended.get() == 400).await;
    for number in 0..400 {
        assert_eq!(group.next().await.unwrap().unwrap(), number);
    }
}

/// The task that spawned the first child has no other part in the group.
#[apply(both)]
async fn a_task_that_only_spawned_into_a_group_takes_no_child_along() {
    let opened = Pool::open(async |_: Pool| {
        let (pool, gate, shared) = (Pool::<BoxError>::current(), LatchEvent::new(), Arc::new(Mutex::new(group())));
        let (spawner, open) = (Arc::clone(&shared), gate.wait_set());
        let (begun, wait) = oneshot::channel();
        let request = pool.spawn_with_handle(async move {
            spawner.lock().unwrap().spawn(async {
                open.await;
                Ok(1)
            });
            drop(spawner);
            begun.send(()).unwrap();
            pending::<Result<(), _>>().await
        });
        wait.await?;
        let mut group = Arc::into_inner(shared).unwrap().into_inner().unwrap();
        stays_pending(pin!(group.next())).await;
        request.cancel();
        request.await.unwrap_err();
        stays_pending(pin!(group.next())).await;
        gate.set();
        assert_eq!(text(group.next().await), "value 1");
        Ok(())
    });
    opened.await.unwrap();
}

#[apply(both)]
async fn a_group_that_has_survived_its_pool_spawns_once_more() {
    let mut kept = None;
    let (gate, begun) = (LatchEvent::new(), LatchEvent::new());
    let opened = Pool::<BoxError>::open(async |pool: Pool| {
        let group = kept.insert(group());
        let (open, begins) = (gate.wait_set(), begun.clone());
        group.spawn(async move {
            shield(async move {
                begins.set();
                open.await;
            })
            .await;
            Ok(1)
        });
        begun.wait_set().await;
        pool.abort();
        gate.set();
        Ok(())
    });
    drop(opened.await);
    let mut group = kept.unwrap();
    while group.next().await.is_some() {}
    group.spawn(async {
        yield_now().await;
        Ok(2)
    });
    assert_eq!(text(group.next().await), "value 2");
}

#[apply(both)]
async fn what_is_dropped_when_its_scope_has_ended_reports_to_the_pool_around() {
    let opened = Pool::open(async |_: Pool| {
        let (mut group, work) = timeout(Duration::MAX, async {
            let mut group = group();
            group.spawn(async { Err("broken".into()) });
            (group, shield(async { quiet_panic("in a shield") }))
        })
        .await
        .unwrap();
        until(|| !format!("{work:?}").contains("false")).await;
        stays_pending(pin!(pending::<()>())).await;
        drop(work);
        assert_eq!(group.len(), 1);
        group.abort_all();
        drop(group);
        Ok(())
    });
    let mut failed = failures(opened.await.unwrap_err().cleanup_failures());
    failed.sort();
    assert_eq!(failed, ["error: broken", "panic: in a shield"]);
}

/// A pool in a blocking call hears of the abort before its task is aborted, and returns that.
#[apply(multi_thread)]
async fn what_only_says_that_it_was_aborted_is_no_failure_of_a_shutdown() {
    let (begun, wait) = oneshot::channel();
    let mut group = group();
    group.spawn(async {
        block_in_place(|| {
            Handle::current().block_on(Pool::open(async |_: Pool| {
                begun.send(()).unwrap();
                Ok(pending::<u32>().await)
            }))
        })
        .map_err(BoxError::from)
    });
    wait.await.unwrap();
    assert!(group.shutdown().await.is_empty());
}

/// Also if that only says that something was stopped: nobody had aborted them.
#[apply(both)]
async fn a_shutdown_gives_each_error_of_many_children_that_have_ended() {
    const MANY: usize = 400;
    let (mut group, ended) = (group(), Count::default());
    for _ in 0..MANY {
        let ended = ended.clone();
        group.spawn(async move {
            ended.up();
            Err(TaskStopped::Cancelled.into())
        });
    }
    until(|| ended.get() == MANY).await;
    // Their ends are known a moment later.
    for _ in 0..1_000 {
        yield_now().await;
    }
    assert_eq!(failures(&group.shutdown().await), ["error: task was cancelled"; MANY]);
}
