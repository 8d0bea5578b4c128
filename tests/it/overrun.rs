//! `overrun`: which tasks did not end in the grace.

use std::future::pending;

use aiodrive::Pool;
use macro_rules_attribute::apply;
use tokio::task::yield_now;
use tokio::time::sleep;

use crate::support::{Clock, both, current_thread, polite, secs, until_running, with_grace};

#[apply(current_thread)]
async fn what_overran_a_grace_is_known_after_the_run() {
    let clock = Clock::start();
    let pool: Pool = with_grace(secs(2)).build();
    pool.build_task().name("polite").spawn(async { drop(polite(1).await) });
    pool.build_task().name("upload").spawn(clock.deaf("upload"));
    pool.build_task().name("deep").depth(-1).spawn(clock.deaf("deep"));
    pool.build_task().name("request").spawn(async move {
        let part: Pool = Pool::new();
        part.build_task().name("part").spawn(clock.deaf("part"));
        let timed: Pool = with_grace(secs(1)).build();
        timed.build_task().name("tells it itself").spawn(clock.deaf("timed"));
        let other: Pool = Pool::new();
        other.build_task().name("other").spawn(clock.deaf("other"));
        let (one, two, three) = tokio::join!(part.run(), timed.clone().run(), other.run());
        drop((one, two, three));
        pending::<()>().await
    });
    pool.cancel_on(yield_now());
    pool.clone().run().await.unwrap();
    let overrun = pool.overrun();
    let names: Vec<_> = overrun.iter().filter_map(|task| task.name()).collect();
    assert_eq!(names, ["upload", "request", "part", "other", "deep"]);
    assert!(overrun.iter().all(|task| task.spawned_at().file() == file!()));

    let well: Pool = with_grace(secs(2)).build();
    well.spawn(async { drop(polite(1).await) });
    well.cancel_on(yield_now());
    well.clone().run().await.unwrap();
    assert!(well.overrun().is_empty());
}

#[apply(current_thread)]
async fn what_an_abort_cuts_out_of_a_grace_has_overrun_it() {
    let clock = Clock::start();
    let pool: Pool = with_grace(secs(10)).build();
    pool.build_task().name("polite").spawn(async { drop(polite(1).await) });
    pool.build_task().name("upload").spawn(clock.deaf("upload"));
    // The abort takes all of its time.
    pool.build_task().name("deep").depth(-1).spawn(clock.deaf("deep"));
    // This has none.
    pool.build_task().name("without").depth(-1).no_grace().spawn(clock.deaf("without"));
    pool.cancel_on(yield_now());
    pool.abort_on(sleep(secs(3)));
    pool.clone().run().await.unwrap();
    let mut ended = clock.events();
    ended.sort();
    assert_eq!(ended, ["3: deep", "3: upload", "3: without"]);
    assert_eq!(pool.overrun().iter().map(|task| task.name()).collect::<Vec<_>>(), [Some("upload"), Some("deep")]);
}

#[apply(both)]
async fn an_abort_right_after_the_cancel_takes_the_whole_grace() {
    let pool: Pool = with_grace(secs(10)).build();
    for (name, depth) in [("above", 1), ("middle", 0), ("below", -1)] {
        pool.build_task().name(name).depth(depth).spawn(pending::<()>());
    }
    pool.cancel();
    pool.abort();
    pool.clone().run().await.unwrap();
    assert!(pool.overrun().is_empty(), "its tasks were dropped before it ran");

    let running: Pool = with_grace(secs(10)).keep_open(true).build();
    let run = tokio::spawn(running.clone().run());
    for (name, depth) in [("above", 1), ("middle", 0), ("below", -1)] {
        running.build_task().name(name).depth(depth).spawn(pending::<()>());
    }
    until_running(&running).await;
    running.cancel();
    running.abort();
    run.await.unwrap().unwrap();
    let overrun = running.overrun();
    assert_eq!(overrun.iter().filter_map(|task| task.name()).collect::<Vec<_>>(), ["above", "middle", "below"]);
}

#[apply(current_thread)]
async fn an_abort_that_cuts_no_grace_short_leaves_no_overrun() {
    let aborted: Pool = with_grace(secs(10)).build();
    aborted.spawn(pending::<()>());
    aborted.abort_on(sleep(secs(1)));
    aborted.clone().run().await.unwrap();
    assert!(aborted.overrun().is_empty(), "it was never cancelled");

    let ended: Pool = with_grace(secs(10)).build();
    ended.spawn(async { drop(polite(1).await) });
    ended.build_task().depth(-1).spawn(async { drop(polite(1).await) });
    ended.cancel_on(yield_now());
    ended.abort_on(sleep(secs(5)));
    ended.clone().run().await.unwrap();
    assert!(ended.overrun().is_empty(), "it had ended before the abort");
}
