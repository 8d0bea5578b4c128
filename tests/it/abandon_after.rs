//! `abandon_after`: how long a pool waits for what cannot be aborted.

use std::future::pending;
use std::rc::Rc;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use aiodrive::{BoxError, LatchEvent, Pool, PoolError, TaskInfo, cancellation_token, race, shield};
use macro_rules_attribute::apply;
use tokio::sync::oneshot;
use tokio::task::{LocalSet, yield_now};
use tokio::time::{Instant, sleep};
use tokio_test::{assert_pending, assert_ready_err, task};

use crate::support::{
    Alive, KINDS_IN_TURN, LONG, Log, OnDrop, Slot, both, current_thread, fails, failures, kinds_in_turn, multi_thread,
    panic_of, quiet_panic, running, secs, stays_pending, until,
};

/// A `LocalSet` that nobody polls: what is spawned in it has no way to end, not even if it is aborted.
struct Swamp(LocalSet);

impl Swamp {
    fn new() -> Self {
        Self(LocalSet::new())
    }

    /// Spawns a task that gets stuck, in a running pool.
    fn trap(&self, pool: &Pool, name: &'static str, depth: i32) {
        let _inside = self.0.enter();
        pool.build_task().name(name).depth(depth).spawn_local(pending::<()>());
    }
}

fn impatient(wait: Duration) -> Pool {
    Pool::builder().keep_open(true).abandon_after(wait).build()
}

fn names(stuck: &[TaskInfo]) -> Vec<&str> {
    stuck.iter().map(|task| task.name().unwrap_or("-")).collect()
}

/// An error with what is `stuck`, after the task "fails" has failed or not.
async fn stuck_error(stuck: &[&'static str], failing: bool) -> PoolError {
    let (swamp, builder) = (Swamp::new(), Pool::builder().name("web").keep_open(true).abandon_after(secs(10)));
    let pool: Pool = builder.build();
    let mut running = task::spawn(pool.clone().run());
    assert_pending!(running.poll());
    stuck.iter().for_each(|name| swamp.trap(&pool, name, 0));
    if failing {
        pool.build_task().name("fails").spawn(fails("broken"));
    } else {
        pool.cancel();
    }
    running.await.unwrap_err()
}

// ===== abandon_after =====

#[apply(multi_thread)]
async fn a_blocking_closure_that_does_not_end_is_given_up_on_and_named() {
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    let (log, (begun, wait)) = (Log::default(), oneshot::channel());
    let pool = impatient(Duration::from_millis(1));
    let ended = log.on_drop("ended");
    pool.build_task().name("culprit").spawn_blocking(move || {
        let _ended = ended;
        begun.send(()).unwrap();
        let _ = blocked.recv();
    });
    let line = line!() - 5;
    let running = running(&pool);
    wait.await.unwrap();
    pool.cancel();
    let error = running.await.unwrap().unwrap_err();
    assert!(log.events().is_empty(), "it runs on");
    assert!(pool.is_empty(), "but not in the pool");
    let [stuck] = error.stuck() else { panic!("{error:?}") };
    assert_eq!((stuck.name(), stuck.spawned_at().file(), stuck.spawned_at().line()), (Some("culprit"), file!(), line));
    assert!(!error.is_cancelled() && error.failures().is_empty() && error.first().is_none() && !stuck.is_body());
    drop(release);
    until(|| log.events() == ["ended"]).await;
}

#[apply(current_thread)]
async fn what_is_stuck_is_named_in_the_order_of_the_spawns() {
    let (pool, swamp, begin) = (impatient(secs(10)), Swamp::new(), Instant::now());
    let mut running = task::spawn(pool.clone().run());
    assert_pending!(running.poll());
    for name in ["one", "two", "three"] {
        pool.spawn(pending::<()>());
        swamp.trap(&pool, name, 0);
        pool.spawn(async {});
    }
    pool.cancel();
    let error = running.await.unwrap_err();
    assert_eq!(names(error.stuck()), ["one", "two", "three"]);
    assert!(error.stuck().iter().all(|task| task.spawned_at().file() == file!()));
    assert_eq!(begin.elapsed(), secs(10));
    assert_eq!(pool.len(), 0);
}

#[apply(current_thread)]
async fn tasks_without_a_grace_are_named_in_the_order_of_the_spawns_too_and_daemons_after_the_others() {
    let (pool, swamp) = (impatient(secs(10)), Swamp::new());
    let mut running = task::spawn(pool.clone().run());
    assert_pending!(running.poll());
    kinds_in_turn(&pool).for_each(|task| {
        let _inside = swamp.0.enter();
        task.spawn_local(pending::<()>());
    });
    pool.cancel();
    assert_eq!(names(running.await.unwrap_err().stuck()), KINDS_IN_TURN);
}

#[apply(current_thread)]
async fn tasks_that_wait_for_their_turn_are_named_in_the_order_of_the_spawns_too() {
    let (builder, swamp) = (Pool::builder().limit(1).keep_open(true).abandon_after(secs(10)), Swamp::new());
    let pool: Pool = builder.build();
    let mut running = task::spawn(pool.clone().run());
    assert_pending!(running.poll());
    for (name, unlimited) in [("A", false), ("B", false), ("C", true), ("D", false), ("E", true)] {
        let _inside = swamp.0.enter();
        let task = pool.build_task().name(name);
        if unlimited { task.unlimited() } else { task }.spawn_local(pending::<()>());
    }
    pool.cancel();
    assert_eq!(names(running.await.unwrap_err().stuck()), ["A", "B", "C", "D", "E"]);
}

#[apply(current_thread)]
async fn the_time_begins_with_the_abort_after_the_grace() {
    let pool: Pool = Pool::builder().keep_open(true).grace(secs(5)).abandon_after(secs(10)).build();
    let (swamp, begin) = (Swamp::new(), Instant::now());
    let mut running = task::spawn(pool.clone().run());
    assert_pending!(running.poll());
    swamp.trap(&pool, "stuck", 0);
    pool.cancel();
    assert_eq!(names(running.await.unwrap_err().stuck()), ["stuck"]);
    assert_eq!(begin.elapsed(), secs(15));
}

#[apply(current_thread)]
async fn each_depth_has_the_time_for_itself() {
    let (pool, swamp, begin) = (impatient(secs(10)), Swamp::new(), Instant::now());
    let (log, mut running) = (Log::default(), task::spawn(pool.clone().run()));
    assert_pending!(running.poll());
    for (name, depth) in [("deep", -1), ("zero", 0), ("high", 1)] {
        swamp.trap(&pool, name, depth);
    }
    let ended = log.clone();
    pool.build_task().depth(-1).spawn(async move {
        let _ended = OnDrop::new(move || ended.push(format!("{}", begin.elapsed().as_secs())));
        pending::<()>().await;
    });
    yield_now().await;
    pool.cancel();
    assert_eq!(names(running.await.unwrap_err().stuck()), ["high", "zero", "deep"]);
    assert_eq!((begin.elapsed(), log.events()), (secs(30), vec!["20".to_owned()]));
}

#[apply(current_thread)]
async fn what_ends_in_time_is_not_named() {
    let (pool, begin) = (impatient(secs(10)), Instant::now());
    let (shielded, waits) = (LatchEvent::new(), LatchEvent::new());
    let (begun, wait) = (waits.clone(), waits.wait_set());
    pool.build_task().name("owner").spawn(async move {
        let work = shield(async move {
            sleep(secs(9)).await;
            shielded.set();
        });
        begun.set();
        work.await;
    });
    let running = running(&pool);
    wait.await;
    pool.cancel();
    running.await.unwrap().unwrap();
    assert_eq!(begin.elapsed(), secs(9));
}

#[apply(current_thread)]
async fn a_pool_that_is_not_closing_is_not_impatient() {
    let (pool, begin): (Pool, _) = (Pool::builder().abandon_after(secs(1)).build(), Instant::now());
    pool.spawn(sleep(secs(100)));
    pool.run().await.unwrap();
    assert_eq!(begin.elapsed(), secs(100));
}

#[apply(both)]
async fn nothing_is_stuck_in_another_error() {
    let error = Pool::builder().abandon_after(LONG).open(async |pool: Pool| {
        pool.spawn(pending::<()>());
        pool.spawn(fails("broken"));
        Ok(())
    });
    let error = error.await.unwrap_err();
    assert!(error.stuck().is_empty());
    assert_eq!(failures(error.failures()), ["error: broken"]);
    let cancelled = Pool::builder().abandon_after(LONG).open(async |pool: Pool| {
        pool.spawn(pending::<()>());
        pool.cancel();
        pending::<()>().await;
        Ok(())
    });
    let cancelled = cancelled.await.unwrap_err();
    assert!(cancelled.stuck().is_empty() && cancelled.is_cancelled());
}

#[apply(current_thread)]
async fn a_body_that_has_returned_loses_its_value_to_what_is_stuck() {
    let (swamp, alive) = (Swamp::new(), Alive::default());
    let opened = Pool::builder().abandon_after(secs(10)).open(async |pool: Pool| {
        swamp.trap(&pool, "stuck", 0);
        pool.cancel_with("enough");
        Ok(alive.one())
    });
    let error = opened.await.map(drop).unwrap_err();
    assert_eq!(alive.count(), 0);
    assert!(!error.is_cancelled() && !error.is_panic());
    assert_eq!((names(error.stuck()), error.cancel_reason()), (vec!["stuck"], Some("enough")));
}

#[apply(current_thread)]
async fn a_body_that_panics_is_resumed_when_the_time_is_over() {
    let (swamp, begin) = (Swamp::new(), Instant::now());
    let opened = Pool::builder().abandon_after(secs(10)).open(async |pool: Pool| {
        swamp.trap(&pool, "stuck", 0);
        quiet_panic("body") as Result<(), _>
    });
    assert_eq!(panic_of(opened).await, "body");
    assert_eq!(begin.elapsed(), secs(10));
}

#[apply(current_thread)]
async fn an_error_says_what_is_stuck() {
    let error = stuck_error(&["one"], false).await;
    let site = error.stuck()[0].spawned_at();
    assert_eq!(error.to_string(), format!("pool \"web\": gave up on task \"one\" ({site})"));
    assert_eq!(format!("{error:#}"), error.to_string());

    let error = stuck_error(&["one", "two"], false).await;
    let (one, two) = (format!("task \"one\" ({site})"), format!("task \"two\" ({site})"));
    assert_eq!(error.to_string(), format!("pool \"web\": gave up on 2 tasks: {one}; {two}"));
    assert_eq!(format!("{error:#}"), format!("pool \"web\": gave up on 2 tasks:\n  {one}\n  {two}"));
    assert!(format!("{error:#?}").contains("stuck: [\n        TaskInfo"), "{error:#?}");
}

#[apply(current_thread)]
async fn an_error_says_what_has_failed_and_what_is_stuck() {
    let error = stuck_error(&["one", "two"], true).await;
    assert_eq!(failures(error.failures()), ["error: broken"]);
    let site = error.stuck()[0].spawned_at();
    let failed = format!("task \"fails\" ({}) failed: broken", error.first().unwrap().task().spawned_at());
    let (one, two) = (format!("task \"one\" ({site})"), format!("task \"two\" ({site})"));
    assert_eq!(error.to_string(), format!("pool \"web\": {failed}; gave up on 2 tasks: {one}; {two}"));
    let lines = format!("pool \"web\":\n  {failed}\n  gave up on 2 tasks:\n    {one}\n    {two}");
    assert_eq!(format!("{error:#}"), lines);
    assert_eq!(error.into_first_error().unwrap().to_string(), "broken");
}

#[apply(current_thread)]
async fn with_no_time_the_pool_does_not_wait_for_what_it_has_aborted() {
    let (pool, swamp, begin) = (impatient(Duration::ZERO), Swamp::new(), Instant::now());
    let mut running = task::spawn(pool.clone().run());
    assert_pending!(running.poll());
    swamp.trap(&pool, "stuck", 0);
    pool.cancel();
    assert_eq!(names(running.await.unwrap_err().stuck()), ["stuck"]);
    assert_eq!(begin.elapsed(), Duration::ZERO);

    let pool: Pool = Pool::builder().abandon_after(Duration::ZERO).build();
    pool.spawn(async {});
    pool.run().await.unwrap();
}

#[apply(current_thread)]
async fn with_all_the_time_there_is_the_pool_waits() {
    let (pool, swamp) = (impatient(Duration::MAX), Swamp::new());
    let mut running = Box::pin(pool.clone().run());
    stays_pending(running.as_mut()).await;
    swamp.trap(&pool, "stuck", 0);
    pool.cancel();
    stays_pending(running.as_mut()).await;
    tokio::time::advance(secs(100_000)).await;
    stays_pending(running.as_mut()).await;
    drop(swamp);
    running.await.unwrap();
}

/// The waker of a driver used to stay in its pool, with all that the waker kept alive, for as long as there was a
/// handle; and what ended late woke somebody who had long gone on.
#[apply(current_thread)]
async fn what_was_given_up_on_does_not_wake_its_pool_when_it_ends() {
    let (pool, swamp) = (impatient(Duration::ZERO), Swamp::new());
    let mut running = task::spawn(pool.clone().run());
    assert_pending!(running.poll());
    swamp.trap(&pool, "stuck", 0);
    pool.cancel();
    let error = assert_ready_err!(running.poll());
    assert_eq!(names(error.stuck()), ["stuck"]);
    drop(swamp);
    assert!(!running.is_woken());
}

#[apply(current_thread)]
async fn what_waits_for_its_turn_is_not_stuck() {
    let pool: Pool = Pool::builder().keep_open(true).limit(1).abandon_after(secs(10)).build();
    let (swamp, alive) = (Swamp::new(), Alive::default());
    let mut running = task::spawn(pool.clone().run());
    assert_pending!(running.poll());
    swamp.trap(&pool, "stuck", 0);
    let one = alive.one();
    pool.build_task().name("queued").spawn(async move {
        let _one = one;
    });
    pool.cancel();
    assert_eq!(names(running.await.unwrap_err().stuck()), ["stuck"]);
    assert_eq!(alive.count(), 0);
}

#[apply(current_thread)]
async fn daemons_that_are_stuck_are_named() {
    let swamp = Swamp::new();
    let opened = Pool::builder().abandon_after(secs(10)).open(async |pool: Pool| {
        let _inside = swamp.0.enter();
        pool.build_task().name("daemon").daemon().spawn_local(pending::<()>());
        Ok(())
    });
    assert_eq!(names(opened.await.unwrap_err().stuck()), ["daemon"]);
}

#[apply(current_thread)]
async fn what_is_stuck_below_an_owner_that_was_aborted_is_named() {
    let (pool, swamp) = (impatient(secs(10)), Rc::new(Swamp::new()));
    let inner = Slot::<Pool>::default();
    let keep = Arc::clone(&inner);
    pool.build_task().name("owner").spawn(async move {
        let opened = Pool::open(async |inner: Pool| {
            *keep.lock().unwrap() = Some(inner);
            pending::<()>().await;
            Ok(())
        });
        drop(opened.await);
    });
    let mut running = Box::pin(pool.clone().run());
    stays_pending(running.as_mut()).await;
    let inner = inner.lock().unwrap().take().unwrap();
    swamp.trap(&pool, "outer 1", 0);
    swamp.trap(&inner, "inner", 0);
    swamp.trap(&inner, "deep in inner", -1);
    swamp.trap(&pool, "outer 2", 0);
    pool.cancel();
    assert_eq!(names(running.await.unwrap_err().stuck()), ["outer 1", "outer 2", "inner", "deep in inner"]);
}

#[apply(current_thread)]
async fn shielded_work_that_is_stuck_is_named_with_its_site() {
    let (pool, begin) = (impatient(secs(10)), Instant::now());
    pool.build_task().name("owner").spawn(async {
        shield(pending::<()>()).await;
    });
    let line = line!() - 2;
    let mut running = Box::pin(pool.clone().run());
    stays_pending(running.as_mut()).await;
    pool.cancel();
    let error = running.await.unwrap_err();
    let [stuck] = error.stuck() else { panic!("{error:?}") };
    assert_eq!((stuck.name(), stuck.spawned_at().file(), stuck.spawned_at().line()), (None, file!(), line));
    assert_eq!(begin.elapsed(), secs(10));
    assert_eq!(error.to_string(), format!("gave up on task at {}", stuck.spawned_at()));
}

#[apply(multi_thread)]
async fn a_branch_of_a_race_that_is_stuck_is_named_with_the_site_of_the_race() {
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    let (pool, (begun, wait)) = (impatient(Duration::from_millis(1)), oneshot::channel());
    let line = line!() + 2;
    pool.build_task().name("racer").spawn(async move {
        race((
            async move {
                begun.send(()).unwrap();
                let _ = blocked.recv();
            },
            pending::<()>(),
        ))
        .await;
    });
    let running = running(&pool);
    wait.await.unwrap();
    pool.cancel();
    let error = running.await.unwrap().unwrap_err();
    // What was only aborted may be late as well: a millisecond is not long.
    let sites: Vec<_> = error.stuck().iter().map(|task| (task.name(), task.spawned_at().line())).collect();
    assert!(sites.contains(&(None, line)), "{sites:?}, not {line}");
    drop(release);
}

#[apply(current_thread)]
async fn an_enclosing_pool_that_is_patient_waits_for_what_was_given_up_on() {
    let (outer, swamp, alive) = (Pool::<BoxError>::new(), Swamp::new(), Alive::default());
    let (inner, log) = (impatient(secs(10)), Log::default());
    let (run, events) = (inner.clone(), log.clone());
    outer.spawn(async move {
        let error = run.run().await.unwrap_err();
        events.push(names(error.stuck()).join(" "));
    });
    let mut running = Box::pin(outer.clone().run());
    stays_pending(running.as_mut()).await;
    let one = alive.one();
    {
        let _inside = swamp.0.enter();
        inner.build_task().name("stuck").spawn_local(async move {
            let _one = one;
            pending::<()>().await;
        });
    }
    inner.cancel();
    stays_pending(running.as_mut()).await;
    tokio::time::advance(secs(11)).await;
    stays_pending(running.as_mut()).await;
    assert_eq!((log.events(), alive.count()), (vec!["stuck".to_owned()], 1));
    drop(swamp);
    running.await.unwrap();
    assert_eq!(alive.count(), 0);
}

#[apply(current_thread)]
async fn pools_that_are_both_impatient_both_name_it() {
    let (outer, inner, swamp) = (impatient(secs(20)), impatient(secs(10)), Swamp::new());
    let (log, run, begin) = (Log::default(), inner.clone(), Instant::now());
    let events = log.clone();
    outer.spawn(async move {
        let error = run.run().await.unwrap_err();
        events.push(names(error.stuck()).join(" "));
    });
    let mut running = Box::pin(outer.clone().run());
    stays_pending(running.as_mut()).await;
    swamp.trap(&inner, "stuck", 0);
    inner.cancel();
    stays_pending(running.as_mut()).await;
    tokio::time::advance(secs(11)).await;
    stays_pending(running.as_mut()).await;
    assert_eq!(log.events(), ["stuck"]);
    outer.cancel();
    assert_eq!(names(running.await.unwrap_err().stuck()), ["stuck"]);
    assert!(begin.elapsed() >= secs(31));
}

#[apply(multi_thread)]
async fn what_was_given_up_on_runs_on() {
    let (pool, (begun, wait)) = (impatient(Duration::from_millis(1)), oneshot::channel());
    let ((release, blocked), (value, given)) = (oneshot::channel(), oneshot::channel());
    pool.spawn(async move {
        shield(async move {
            begun.send(()).unwrap();
            let asked: u32 = blocked.await.unwrap();
            value.send(asked).unwrap();
        })
        .await;
    });
    let running = running(&pool);
    wait.await.unwrap();
    pool.cancel();
    // The owner, which was aborted, may be late as well.
    assert!(!running.await.unwrap().unwrap_err().stuck().is_empty());
    release.send(42).unwrap();
    assert_eq!(given.await.unwrap(), 42);
}

#[apply(multi_thread)]
async fn what_fails_after_it_was_given_up_on_is_a_cleanup_failure_of_the_enclosing_pool() {
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    let (inner, (begun, wait)) = (impatient(Duration::from_millis(1)), oneshot::channel());
    inner.build_task().name("late").spawn_blocking(move || {
        begun.send(()).unwrap();
        let _ = blocked.recv();
        Err("too late".into())
    });
    let outer = Pool::open(async |outer: Pool| {
        let (run, (gave_up, told)) = (inner.clone(), oneshot::channel());
        outer.spawn(async move {
            let error = run.run().await.unwrap_err();
            gave_up.send(names(error.stuck()).join(" ")).unwrap();
        });
        wait.await?;
        inner.cancel();
        assert_eq!(told.await?, "late");
        drop(release);
        Ok(())
    });
    let error = outer.await.unwrap_err();
    assert_eq!(failures(error.cleanup_failures()), ["error: too late"]);
}

#[apply(multi_thread)]
async fn what_fails_after_it_was_given_up_on_by_a_pool_that_panicked_is_a_cleanup_failure_of_the_enclosing_pool() {
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    let blocked = Mutex::new(blocked);
    let outer = Pool::<BoxError>::new();
    outer.spawn(async move {
        // Goes when the panic has come out of the inner pool.
        let _release = release;
        let (begun, wait) = oneshot::channel();
        let inner = Pool::builder().abandon_after(Duration::from_millis(1));
        let opened: Result<(), PoolError> = inner
            .open(async move |inner: Pool| {
                inner.spawn_blocking(move || {
                    begun.send(()).unwrap();
                    let _ = blocked.lock().unwrap().recv();
                    Err("too late".into())
                });
                wait.await?;
                quiet_panic("body") as Result<(), BoxError>
            })
            .await;
        drop(opened);
    });
    let error = outer.run().await.unwrap_err();
    assert_eq!(failures(error.failures()), ["panic: body"]);
    assert_eq!(failures(error.cleanup_failures()), ["error: too late"]);
}

#[apply(current_thread)]
async fn a_pool_that_gives_up_on_something_that_is_no_task_says_so() {
    let (pool, slot) = (impatient(secs(10)), Slot::default());
    let keep = Arc::clone(&slot);
    // An inner pool that is taken out of its task: the outer one waits for it all the same.
    pool.spawn(async move {
        let mut opened = Box::pin(Pool::open(async |_: Pool| {
            pending::<()>().await;
            Ok(())
        }));
        assert!(crate::support::poll_once(opened.as_mut()).await.is_pending());
        *keep.lock().unwrap() = Some(opened);
    });
    let mut running = Box::pin(pool.clone().run());
    stays_pending(running.as_mut()).await;
    let begin = Instant::now();
    pool.cancel();
    let ended = running.await;
    assert_eq!(begin.elapsed(), secs(10));
    assert!(slot.lock().unwrap().is_some(), "it is alive");
    assert!(!ended.unwrap_err().is_cancelled());
}

// ===== what a pool has given up on =====

#[apply(both)]
async fn what_a_pool_has_given_up_on_is_asked_to_stop_whenever_it_looks() {
    let ((begin, begun), (go_on, gone_on)) = (oneshot::channel(), mpsc::channel::<()>());
    let (tell, told) = oneshot::channel();
    let opened: Result<(), PoolError> = Pool::builder()
        .abandon_after(Duration::ZERO)
        .open(async move |pool: Pool| {
            pool.spawn_blocking(move || {
                begin.send(()).unwrap();
                gone_on.recv().unwrap();
                tell.send(cancellation_token().is_cancelled()).unwrap();
            });
            begun.await?;
            Err("broken".into())
        })
        .await;
    assert_eq!(opened.unwrap_err().stuck().len(), 1);
    go_on.send(()).unwrap();
    assert!(told.await.unwrap());
}

#[apply(multi_thread)]
async fn a_signal_that_does_not_yield_is_given_up_on_and_named() {
    let (release, blocked) = mpsc::channel::<()>();
    let (begun, wait) = oneshot::channel();
    let pool = impatient(Duration::from_millis(1));
    pool.abort_on(async move {
        begun.send(()).unwrap();
        let _ = blocked.recv();
    });
    let running = running(&pool);
    wait.await.unwrap();
    pool.cancel();
    let error = running.await.unwrap().unwrap_err();
    assert_eq!((names(error.stuck()), error.failures().len()), (vec!["abort_on"], 0));
    drop(release);
}

#[apply(both)]
async fn a_pool_with_no_patience_does_not_give_up_on_its_own_body() {
    let alive = Alive::default();
    let mut opened = Box::pin(Pool::<BoxError>::builder().abandon_after(Duration::ZERO).open(async |pool: Pool| {
        let _one = alive.one();
        pool.cancel();
        pending::<Result<(), _>>().await
    }));
    let error = opened.as_mut().await.unwrap_err();
    assert!(error.is_cancelled(), "{error}");
    assert_eq!(alive.count(), 0, "the body is dropped before the pool returns");
}
