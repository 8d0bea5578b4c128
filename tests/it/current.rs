//! `Pool::current`: the innermost pool around the code that asks.

use std::future::pending;
use std::time::Duration;
use std::{io, thread};

use aiodrive::{BoxError, OnFailure, Pool, race, shield, timeout, try_all, wait_all, with_exit};
use macro_rules_attribute::apply;
use tokio::sync::oneshot;
use tokio::task::yield_now;

use crate::support::{Log, OnDrop, Outcome, both, in_pool, quiet_panic};

/// The name of the innermost pool of boxed errors.
fn current_name() -> Option<String> {
    Pool::<BoxError>::try_current().and_then(|pool| pool.name().map(str::to_owned))
}

#[apply(both)]
async fn there_is_no_current_pool_outside() {
    assert_eq!(current_name(), None);
    in_pool("a", async |_| ()).await;
    assert_eq!(current_name(), None);
}

#[apply(both)]
async fn the_current_pool_is_the_one_that_the_body_and_the_tasks_are_in() {
    in_pool("a", async |pool| {
        assert_eq!(current_name().as_deref(), Some("a"));
        let task = pool.spawn_with_handle(async {
            yield_now().await;
            Ok(current_name())
        });
        assert_eq!(task.await.unwrap().as_deref(), Some("a"));
        in_pool("b", async |_| assert_eq!(current_name().as_deref(), Some("b"))).await;
        assert_eq!(current_name().as_deref(), Some("a"));
    })
    .await;
}

#[apply(both)]
async fn the_current_pool_is_the_innermost_one_of_its_error_type() {
    in_pool("boxed", async |_| {
        let outcome = Pool::builder().name("io").open(async |pool: Pool<io::Error>| {
            pool.spawn(async {
                assert_eq!(Pool::<io::Error>::current().name(), Some("io"));
                assert_eq!(current_name().as_deref(), Some("boxed"));
                assert!(Pool::<String>::try_current().is_none());
            });
            in_pool("deep", async |_| {
                assert_eq!(Pool::<io::Error>::current().name(), Some("io"));
                assert_eq!(current_name().as_deref(), Some("deep"));
            })
            .await;
            Ok(())
        });
        outcome.await.unwrap();
    })
    .await;
}

#[apply(both)]
async fn the_current_pool_is_known_in_destructors() {
    let log = Log::default();
    let note = |what: &'static str| {
        let log = log.clone();
        OnDrop::new(move || log.push(format!("{what} in {}", current_name().unwrap_or_default())))
    };
    in_pool("a", async |pool| {
        let (finished, polled, unpolled) = (note("finished"), note("polled"), note("unpolled"));
        pool.spawn_with_handle(async {
            let _finished = finished;
            Ok(())
        })
        .await
        .unwrap();
        let (began, has_begun) = oneshot::channel();
        pool.spawn(async {
            let _polled = polled;
            began.send(()).unwrap();
            pending::<()>().await;
        });
        has_begun.await.unwrap();
        pool.spawn(async {
            let _unpolled = unpolled;
            pending::<()>().await;
        });
        pool.cancel();
    })
    .await;
    let mut events = log.events();
    events.sort();
    assert_eq!(events, ["finished in a", "polled in a", "unpolled in a"]);
}

#[apply(both)]
async fn the_current_pool_is_known_in_destructors_while_a_task_panics() {
    let log = Log::default();
    let outcome: Outcome = Pool::builder()
        .name("a")
        .open(async |pool| {
            let log = log.clone();
            pool.spawn(async move {
                let _unwound = OnDrop::new(move || log.push(current_name().unwrap_or_default()));
                yield_now().await;
                quiet_panic("task")
            });
            pending().await
        })
        .await;
    assert!(outcome.unwrap_err().is_panic());
    assert_eq!(log.events(), ["a"]);
}

#[apply(both)]
async fn the_current_pool_is_known_in_blocking_tasks() {
    let log = Log::default();
    in_pool("a", async |pool| {
        let log = log.clone();
        pool.spawn_blocking(move || log.push(current_name().unwrap()));
    })
    .await;
    assert_eq!(log.events(), ["a"]);
}

#[apply(both)]
async fn a_bare_task_is_in_no_pool() {
    in_pool("a", async |_| {
        assert_eq!(tokio::spawn(async { current_name() }).await.unwrap(), None);
        assert_eq!(tokio::task::spawn_blocking(current_name).await.unwrap(), None);
        assert_eq!(thread::spawn(current_name).join().unwrap(), None);
    })
    .await;
}

#[apply(both)]
async fn a_task_is_in_the_pool_that_it_was_spawned_in_whoever_spawned_it() {
    in_pool("a", async |outer| {
        in_pool("b", async |_| {
            let task = outer.spawn_with_handle(async { Ok(current_name()) });
            assert_eq!(task.await.unwrap().as_deref(), Some("a"));
        })
        .await;
    })
    .await;
}

#[apply(both)]
async fn a_planned_pool_is_nested_where_it_is_run() {
    let planned = in_pool("made", async |_| Pool::<io::Error>::new()).await;
    let log = Log::default();
    let seen = log.clone();
    planned.spawn(async move { seen.push(current_name().unwrap()) });
    in_pool("run", async |_| planned.run().await.unwrap()).await;
    assert_eq!(log.events(), ["run"]);
}

/// The functions have scopes of their own, but are no pools.
#[apply(both)]
async fn the_current_pool_is_the_one_around_a_function() {
    let opened = Pool::builder().name("around").open(async |_: Pool| {
        let around = Some("around".to_owned());
        let named = || async { Ok::<_, BoxError>(current_name()) };
        assert_eq!(race([async { current_name() }]).await, (0, around.clone()));
        assert_eq!(shield(async { current_name() }).await, around);
        assert_eq!(timeout(Duration::from_secs(1_000), async { current_name() }).await?, around);
        let [tried] = try_all([named()]).await?;
        assert_eq!(tried, around);
        let [waited] = wait_all([named()]).await;
        assert_eq!(waited.unwrap(), around);
        let (tell, told) = oneshot::channel();
        let exit = |(), _| async {
            tell.send(current_name()).unwrap();
            Ok(())
        };
        assert_eq!(with_exit((), async |_| named().await, exit).await?, around);
        assert_eq!(told.await?, around);
        Ok(())
    });
    opened.await.unwrap();
}

#[apply(both)]
async fn a_policy_is_asked_where_the_task_has_failed() {
    let log = Log::default();
    let seen = log.clone();
    let pool: Pool = Pool::builder()
        .name("a")
        .on_failure(move |_| {
            seen.push(current_name().unwrap_or_default());
            Pool::<BoxError>::current().spawn(async {});
            OnFailure::Discard
        })
        .build();
    pool.spawn(async { Err("broken".into()) });
    pool.run().await.unwrap();
    assert_eq!(log.events(), ["a"]);
}
