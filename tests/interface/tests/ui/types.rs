//! What a task and a group may not be.

use std::cell::RefCell;
use std::rc::Rc;

use aiodrive::{BoxError, Pool, race, shield, try_all, wait_all};

/// A value has nowhere to go but a handle.
fn a_task_returns_no_value(pool: Pool) {
    pool.spawn(async { 42 });
}

/// Nor can an error of another type be passed to the pool as it is.
fn a_task_returns_no_other_error(pool: Pool<std::fmt::Error>) {
    pool.spawn(async { Err::<(), BoxError>("other".into()) });
}

/// Nor an error that could be converted: `?` does that, in an async block.
fn a_task_returns_no_error_to_be_converted(pool: Pool) {
    pool.spawn(async { std::io::Result::Ok(()) });
}

fn a_task_returns_no_value_beside_an_error(pool: Pool) {
    pool.spawn(async { Ok::<_, BoxError>(42) });
}

fn a_blocking_task_returns_no_value(pool: Pool) {
    pool.spawn_blocking(|| "text");
}

fn a_task_is_a_future(pool: Pool) {
    pool.spawn(|| {});
}

/// It may move to another thread, unless it is spawned with `spawn_local`.
fn a_task_is_send(pool: Pool) {
    let shared = Rc::new(RefCell::new(0));
    pool.spawn_local({
        let shared = Rc::clone(&shared);
        async move { *shared.borrow_mut() += 1 }
    });
    pool.spawn(async move {
        tokio::task::yield_now().await;
        *shared.borrow_mut() += 1;
    });
}

fn shielded_work_is_send(shared: Rc<u8>) {
    drop(shield(async move { *shared }));
}

fn the_futures_of_a_race_have_one_output() {
    drop(race((async { 1 }, async { "one" })));
}

fn the_futures_of_try_all_have_one_error() {
    drop(try_all((async { Ok::<_, BoxError>(1) }, async { Err::<u8, _>(std::fmt::Error) })));
}

fn futures_are_collected_first() {
    drop(race((0..3).map(|n| async move { n })));
    drop(try_all((0..3).map(|n| async move { Ok::<_, BoxError>(n) })));
    drop(wait_all((0..3).map(|n| async move { Ok::<_, BoxError>(n) })));
}

fn main() {}
