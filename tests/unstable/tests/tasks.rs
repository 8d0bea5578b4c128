//! What tokio's hooks and tokio-console show of each task: the user's line, and its name.
#![cfg(tokio_unstable)]

use std::future::{pending, ready};
use std::time::Duration;

use aiodrive::{BoxError, Pool, TaskGroup, map, race, shield, try_all, wait_all, with_exit};
use aiodrive_unstable::{Task, spawned};
use tokio::time::{Instant, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);

/// Notes the line of a call that spawns one task.
macro_rules! at {
    ($lines:ident, $call:expr) => {{
        $lines.push(line!());
        $call
    }};
}

/// The lines of tasks that were all spawned in this file.
fn lines(tasks: &[Task]) -> Vec<u32> {
    assert!(tasks.iter().all(|task| task.file == file!()), "{tasks:#?}");
    tasks.iter().map(|task| task.line).collect()
}

fn names(tasks: &[Task]) -> Vec<&str> {
    tasks.iter().map(|task| &*task.name).collect()
}

/// A task of which tokio can only show the line of ours that spawned it.
#[track_caller]
fn assert_ours(task: &Task) {
    assert!(task.file.starts_with("src/"), "{task:#?}");
}

#[test]
fn each_task_of_a_pool_that_runs_shows_the_line_that_spawned_it() {
    let mut here = Vec::new();
    let tasks = spawned(async || {
        let opened = Pool::open(async |pool: Pool| {
            at!(here, pool.spawn(async {}));
            at!(here, drop(pool.try_spawn(async {})));
            at!(here, drop(pool.spawn_with_handle(async { Ok(()) })));
            at!(here, pool.spawn_blocking(|| ()));
            at!(here, drop(pool.spawn_blocking_with_handle(|| Ok(()))));
            at!(here, pool.spawn_local(async {}));
            at!(here, drop(pool.spawn_local_with_handle(async { Ok(()) })));
            at!(here, drop(pool.start(async |started: aiodrive::Started<()>| started.ready(()))));
            Ok(())
        });
        opened.await.unwrap();
    });
    assert_eq!(lines(&tasks), here);
    assert_eq!(names(&tasks), [""; 8]);
    let kinds = ["task", "task", "task", "blocking", "blocking", "local", "local", "task"];
    assert_eq!(tasks.iter().map(|task| &*task.kind).collect::<Vec<_>>(), kinds);
}

#[test]
fn a_task_with_a_name_shows_that_too() {
    let mut here = Vec::new();
    let tasks = spawned(async || {
        let opened = Pool::open(async |pool: Pool| {
            at!(here, pool.build_task().name("spawn").spawn(async {}));
            at!(here, drop(pool.build_task().name("try").try_spawn(async {})));
            at!(here, drop(pool.build_task().name("handle").spawn_with_handle(async { Ok(()) })));
            at!(here, pool.build_task().name("blocking").spawn_blocking(|| ()));
            at!(here, drop(pool.build_task().name("value").spawn_blocking_with_handle(|| Ok(()))));
            at!(here, pool.build_task().name("local").spawn_local(async {}));
            at!(here, drop(pool.build_task().name("mine").spawn_local_with_handle(async { Ok(()) })));
            at!(here, drop(pool.build_task().name("start").start(async |_: aiodrive::Started<()>| ())));
            Ok(())
        });
        opened.await.unwrap();
    });
    assert_eq!(lines(&tasks), here);
    assert_eq!(names(&tasks), ["spawn", "try", "handle", "blocking", "value", "local", "mine", "start"]);
}

#[test]
fn a_watcher_shows_the_call_that_made_it() {
    let mut here = Vec::new();
    let tasks = spawned(async || {
        let opened = Pool::open(async |pool: Pool| {
            at!(here, pool.cancel_on(pending::<()>()));
            at!(here, pool.cancel_at(Some(Instant::now() + SECOND)));
            at!(here, pool.abort_on(pending::<()>()));
            at!(here, pool.cancel_on_signals());
            Ok(())
        });
        opened.await.unwrap();
    });
    assert_eq!(lines(&tasks), here);
    assert_eq!(names(&tasks), ["cancel_on", "cancel_at", "abort_on", "cancel_on_signals"]);
}

#[test]
fn each_future_of_a_function_shows_its_call() {
    let mut here = Vec::new();
    let tasks = spawned(async || {
        type Ok = Result<(), BoxError>;
        at!(here, race([ready(()), ready(())])).await;
        at!(here, race(vec![ready(())])).await;
        at!(here, race((ready(()), async {}))).await;
        let _: [(); 1] = at!(here, try_all([ready(Ok::Ok(()))])).await.unwrap();
        at!(here, try_all((ready(Ok::Ok(())), async { Ok::Ok(()) }))).await.unwrap();
        drop(at!(here, wait_all(vec![ready(Ok::Ok(()))])).await);
        at!(here, shield(async {})).await;
    });
    // The calls with two futures.
    let twice = [here[0], here[2], here[4]];
    let mut expected: Vec<_> = here.iter().chain(&twice).copied().collect();
    expected.sort_unstable();
    assert_eq!(lines(&tasks), expected);
}

#[test]
fn a_child_of_a_group_shows_the_line_that_spawned_it() {
    let mut here = Vec::new();
    let tasks = spawned(async || {
        let mut group: TaskGroup<u32> = TaskGroup::new();
        at!(here, group.spawn(async { Ok(1) }));
        at!(here, group.spawn_blocking(|| Ok(2)));
        at!(here, group.build_task().name("third").spawn(async { Ok(3) }));
        at!(here, group.build_task().name("fourth").spawn_blocking(|| Ok(4)));
        while group.next().await.is_some() {}
    });
    assert_eq!(lines(&tasks), here);
    assert_eq!(names(&tasks), ["", "", "third", "fourth"]);
}

/// It is tokio's from the call on, and waits there for its turn.
#[test]
fn a_queued_task_shows_the_line_that_spawned_it() {
    let mut here = Vec::new();
    let tasks = spawned(async || {
        let opened = Pool::builder().limit(1).open(async |pool: Pool| {
            at!(here, pool.spawn(sleep(SECOND)));
            at!(here, pool.build_task().name("second").spawn(async {}));
            at!(here, pool.build_task().name("local").spawn_local(async {}));
            Ok(())
        });
        opened.await.unwrap();
    });
    assert_eq!(lines(&tasks), here);
    assert_eq!(names(&tasks), ["", "second", "local"]);
}

/// Tokio has no way to spawn in the name of an earlier call.
#[test]
fn a_planned_task_shows_its_name_and_no_line_of_the_user() {
    let tasks = spawned(async || {
        let pool: Pool = Pool::new();
        pool.build_task().name("planned").spawn(async {});
        pool.build_task().name("closure").spawn_blocking(|| ());
        pool.cancel_on(pending::<()>());
        pool.run().await.unwrap();
    });
    assert_eq!(names(&tasks), ["planned", "closure", "cancel_on"]);
    tasks.iter().for_each(assert_ours);
}

/// A closure must not take up a thread while it waits: it is a second task when its turn has come.
#[test]
fn a_queued_closure_shows_the_users_line_while_it_waits() {
    let mut here = Vec::new();
    let tasks = spawned(async || {
        let opened = Pool::builder().limit(1).open(async |pool: Pool| {
            at!(here, pool.spawn(sleep(SECOND)));
            at!(here, pool.build_task().name("closure").spawn_blocking(|| ()));
            Ok(())
        });
        opened.await.unwrap();
    });
    assert_eq!(lines(&tasks[..2]), here);
    assert_eq!(names(&tasks), ["", "closure", "closure"]);
    assert_eq!(tasks[2].kind, "blocking");
    assert_ours(&tasks[2]);
}

/// These are spawned while a future of ours is polled or dropped, of which nobody is the caller.
#[test]
fn what_is_spawned_later_than_at_a_call_shows_no_line_of_the_user() {
    let tasks = spawned(async || {
        let named = map(1, 0..2, async |n| Ok::<_, BoxError>(n)).name(|n| format!("item {n}"));
        named.collect().await.unwrap();
        with_exit((), async |()| Ok::<(), BoxError>(()), async |(), _| Ok(())).await.unwrap();
        let opened = Pool::<BoxError>::builder().grace(SECOND).open(async |pool| {
            pool.build_task().name("with a grace").spawn(async {
                aiodrive::cancellation_token().cancelled().await;
                sleep(SECOND / 2).await;
            });
            pending::<Result<(), BoxError>>().await
        });
        timeout(SECOND, opened).await.unwrap_err(); // the pool closes in a task of ours
    });
    assert_eq!(names(&tasks), ["item 0", "item 1", "", "with a grace", ""]);
    [0, 1, 2, 4].iter().for_each(|ours| assert_ours(&tasks[*ours]));
}
