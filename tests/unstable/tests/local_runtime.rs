//! On tokio's `LocalRuntime`, which is stable from tokio 1.51 on: `spawn_local` in a pool, without a `LocalSet`.

use std::cell::RefCell;
use std::future::pending;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use aiodrive::{BoxError, Pool, PoolError, cancellation_token};
use tokio::runtime::{Builder, LocalRuntime};
use tokio::time::{Instant, sleep};

const MINUTE: Duration = Duration::from_secs(60);

fn runtime() -> LocalRuntime {
    Builder::new_current_thread().enable_all().start_paused(true).build_local(Default::default()).unwrap()
}

#[test]
fn spawn_local_needs_no_local_set() {
    let ended = Rc::new(RefCell::new(Vec::new()));
    let value = runtime().block_on(Pool::open(async |pool: Pool| {
        let (first, second) = (Rc::clone(&ended), Rc::clone(&ended));
        pool.spawn_local(async move {
            sleep(MINUTE).await;
            first.borrow_mut().push("first");
        });
        let value = pool.spawn_local_with_handle(async move {
            second.borrow_mut().push("second");
            Ok(42)
        });
        pool.spawn(sleep(MINUTE));
        pool.spawn_blocking(|| ());
        Ok(value.await?)
    }));
    assert_eq!(value.unwrap(), 42);
    assert_eq!(*ended.borrow(), ["second", "first"]);
    assert_eq!(Rc::strong_count(&ended), 1, "nothing outlives the pool");
}

#[test]
fn a_local_task_spawns_more_of_them() {
    let count = Rc::new(RefCell::new(0));
    fn spawn(pool: &Pool, depth: u32, count: Rc<RefCell<u32>>) {
        pool.spawn_local(async move {
            *count.borrow_mut() += 1;
            if depth > 0 {
                let pool: Pool = Pool::current();
                spawn(&pool, depth - 1, Rc::clone(&count));
                spawn(&pool, depth - 1, count);
            }
        });
    }
    runtime().block_on(async {
        let opened = Pool::open(async |pool: Pool| {
            spawn(&pool, 5, Rc::clone(&count));
            Ok(())
        });
        opened.await.unwrap();
    });
    assert_eq!(*count.borrow(), 63);
    assert_eq!(Rc::strong_count(&count), 1);
}

#[test]
fn a_failed_local_task_cancels_the_others_which_have_the_grace() {
    let said = Rc::new(RefCell::new(Vec::new()));
    let error: PoolError = runtime().block_on(async {
        let begin = Instant::now();
        let opened = Pool::builder().grace(MINUTE).open(async |pool: Pool| {
            let said = Rc::clone(&said);
            pool.spawn_local(async move {
                cancellation_token().cancelled().await;
                sleep(MINUTE / 2).await;
                said.borrow_mut().push("goodbye");
            });
            pool.spawn_local(pending::<()>());
            pool.build_task().name("broken").spawn_local(async { Err::<(), BoxError>("no such host".into()) });
            Ok(())
        });
        let error = opened.await.unwrap_err();
        assert_eq!(begin.elapsed(), MINUTE);
        error
    });
    assert_eq!(error.first().unwrap().task().name(), Some("broken"));
    assert_eq!(*said.borrow(), ["goodbye"]);
    assert_eq!(Rc::strong_count(&said), 1);
}

#[test]
fn under_a_limit_local_tasks_run_one_by_one() {
    runtime().block_on(async {
        let (begin, running) = (Instant::now(), Rc::new(RefCell::new(0)));
        let opened = Pool::builder().limit(1).open(async |pool: Pool| {
            for _ in 0..3 {
                let running = Rc::clone(&running);
                pool.spawn_local(async move {
                    *running.borrow_mut() += 1;
                    sleep(MINUTE).await;
                    assert_eq!(running.replace(0), 1);
                });
            }
            Ok::<(), BoxError>(())
        });
        opened.await.unwrap();
        assert_eq!(begin.elapsed(), 3 * MINUTE);
    });
}

#[test]
fn elsewhere_spawn_local_panics_and_the_pool_goes_on() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for limit in [1, 2] {
            let held = Rc::new(());
            let opened = Pool::builder().limit(limit).open(async |pool: Pool| {
                for _ in 0..3 {
                    let held = Rc::clone(&held);
                    let spawned = catch_unwind(AssertUnwindSafe(|| pool.spawn_local(async move { drop(held) })));
                    let text = spawned.unwrap_err().downcast::<&str>().unwrap();
                    assert!(text.starts_with("`spawn_local` called from outside of a `task::LocalSet`"), "{text}");
                }
                assert_eq!((pool.len(), pool.is_closed()), (0, false));
                Ok(pool.spawn_with_handle(async { Ok(42) }).await?)
            });
            assert_eq!(opened.await.unwrap(), 42, "the slots were given back");
            assert_eq!(Rc::strong_count(&held), 1);
        }
    });
}
