//! `Pool::open`: the body, and what is waited for.

use std::future::pending;
use std::rc::Rc;
use std::time::Duration;

use aiodrive::{BoxError, Pool};
use macro_rules_attribute::apply;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::sleep;
use tokio_test::{assert_pending, assert_ready_ok, task};

use crate::support::{Alive, Count, both, current_thread, many, until};

// ===== what `open` and `run` wait for =====

#[apply(both)]
async fn all_tasks_have_ended_when_run_returns() {
    let (count, pool) = (Count::default(), Pool::<BoxError>::new());
    for turns in 0..100 {
        let count = count.clone();
        pool.spawn(async move {
            for _ in 0..turns % 7 {
                yield_now().await;
            }
            count.up();
        });
    }
    pool.run().await.unwrap();
    assert_eq!(count.get(), 100);
}

#[apply(both)]
async fn open_waits_for_tasks_that_the_body_does_not_look_at() {
    let (count, gates) = (Count::default(), [oneshot::channel(), oneshot::channel()]);
    let (open, wait): (Vec<_>, Vec<_>) = gates.into_iter().unzip();
    let mut opened = task::spawn(Pool::open(async |pool: Pool| {
        for gate in wait {
            let count = count.clone();
            pool.spawn(async move {
                gate.await?;
                count.up();
                Ok(())
            });
        }
        Ok(42)
    }));
    for gate in open {
        assert_pending!(opened.poll());
        gate.send(()).unwrap();
    }
    assert_eq!(opened.await.unwrap(), 42);
    assert_eq!(count.get(), 2);
}

#[apply(both)]
async fn open_waits_for_the_body_when_all_tasks_have_ended() {
    let (open, gate) = oneshot::channel();
    let mut opened = task::spawn(Pool::open(async |pool: Pool| {
        pool.spawn_with_handle(async { Ok(()) }).await?;
        Ok::<i32, BoxError>(gate.await?)
    }));
    assert_pending!(opened.poll());
    yield_now().await;
    assert_pending!(opened.poll());
    open.send(7).unwrap();
    assert_eq!(opened.await.unwrap(), 7);
}

#[apply(current_thread)]
async fn the_pool_returns_at_the_end_of_the_slowest_task() {
    let start = tokio::time::Instant::now();
    Pool::open(async |pool: Pool| {
        for millis in [10, 50, 30] {
            pool.spawn(sleep(Duration::from_millis(millis)));
        }
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(start.elapsed().as_millis(), 50);
}

#[apply(both)]
async fn an_empty_pool_is_ready_at_its_first_poll() {
    assert_ready_ok!(task::spawn(Pool::<BoxError>::new().run()).poll());
    assert_eq!(assert_ready_ok!(task::spawn(Pool::open(async |_: Pool| Ok(1))).poll()), 1);
    assert_eq!(assert_ready_ok!(task::spawn(Pool::<BoxError>::builder().open(async |_| Ok(2))).poll()), 2);
}

#[apply(both)]
async fn tasks_that_are_ready_at_once_end_the_pool() {
    for tasks in 0..20 {
        let pool = Pool::<BoxError>::new();
        (0..tasks).for_each(|_| pool.spawn(async {}));
        pool.run().await.unwrap();
    }
}

#[apply(current_thread)]
async fn the_owner_is_woken_once_for_ten_thousand_tasks() {
    let (ran, pool) = (Count::default(), Pool::<BoxError>::new());
    for _ in 0..10_000 {
        let ran = ran.clone();
        pool.spawn(async move { ran.up() });
    }
    let mut run = task::spawn(pool.run());
    assert_pending!(run.poll());
    while ran.get() < 10_000 {
        assert!(!run.is_woken(), "woken with {} tasks ended", ran.get());
        yield_now().await;
    }
    assert!(run.is_woken(), "not woken by the last task");
    assert_ready_ok!(run.poll());
}

#[apply(current_thread)]
async fn others_have_their_turns_while_ten_thousand_tasks_end() {
    let (ran, pool) = (Count::default(), Pool::<BoxError>::new());
    for _ in 0..10_000 {
        let ran = ran.clone();
        pool.spawn(async move { ran.up() });
    }
    let running = tokio::spawn(pool.run());
    let mut turns = 0;
    while !running.is_finished() {
        turns += usize::from((1..10_000).contains(&ran.get()));
        yield_now().await;
    }
    running.await.unwrap().unwrap();
    assert!(turns > 10, "{turns} turns");
}

#[apply(both)]
async fn very_many_tasks_all_run_and_those_that_wait_are_stopped_in_the_end() {
    const TASKS: usize = many(1_000_000);
    let (ran, alive, base) = (Count::default(), Alive::default(), Handle::current().metrics().num_alive_tasks());
    let outcome: Result<(), _> = Pool::open(async |pool: Pool| {
        for waits in [false, true].into_iter().cycle().take(TASKS) {
            let (ran, one) = (ran.clone(), alive.one());
            pool.spawn(async move {
                let _one = one;
                ran.up();
                if waits {
                    pending::<()>().await;
                }
            });
        }
        until(|| ran.get() == TASKS && alive.count() == TASKS / 2).await;
        Err("enough".into())
    })
    .await;
    assert_eq!(outcome.unwrap_err().failures().len(), 1);
    assert_eq!(alive.count(), 0);
    until(|| Handle::current().metrics().num_alive_tasks() == base).await;
}

// ===== the body =====

#[apply(both)]
async fn the_body_borrows_from_its_surroundings() {
    let (input, mut output) = (String::from("in"), String::new());
    Pool::open(async |pool: Pool| {
        let text = input.clone();
        output = pool.spawn_with_handle(async move { Ok(text + "side") }).await?;
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!((input.as_str(), output.as_str()), ("in", "inside"));
}

#[apply(both)]
async fn the_body_is_polled_in_place_and_need_not_be_send() {
    let thread = std::thread::current().id();
    let value = Pool::open(async |_: Pool| {
        let value = Rc::new(3);
        for _ in 0..10 {
            assert_eq!(std::thread::current().id(), thread);
            yield_now().await;
        }
        Ok(*value)
    });
    assert_eq!(value.await.unwrap(), 3);
}

#[apply(both)]
async fn the_body_does_not_start_before_open_is_polled() {
    let count = Count::default();
    let opened = Pool::open(async |_: Pool| {
        count.up();
        Ok(())
    });
    yield_now().await;
    assert_eq!(count.get(), 0);
    opened.await.unwrap();
    assert_eq!(count.get(), 1);
}

#[apply(both)]
async fn values_arrive_in_spawn_order_whatever_the_order_of_the_ends() {
    let values = Pool::open(async |pool: Pool| {
        let turns = |nth: usize| (nth * 37) % 11;
        let handles: Vec<_> = (0..100)
            .map(|nth| {
                pool.spawn_with_handle(async move {
                    for _ in 0..turns(nth) {
                        yield_now().await;
                    }
                    Ok(nth)
                })
            })
            .collect();
        let mut values = Vec::new();
        for handle in handles {
            values.push(handle.await?);
        }
        Ok(values)
    });
    assert!(values.await.unwrap().into_iter().eq(0..100));
}
