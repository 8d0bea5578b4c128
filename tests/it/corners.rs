//! What few programs come to, and line coverage has found to be without a test.

use std::fmt::{self, Display, Write};
use std::future::pending;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use aiodrive::{
    BoxError, LatchEvent, NodeKind, NodeState, Pool, PoolError, PoolTree, TaskHandle, TaskStopped, cancellation_token,
    race, shield, timeout, try_all, wait_all, with_exit,
};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio_test::{assert_pending, assert_ready, task};

use crate::support::{
    OnDrop, busy, failures, on_both, on_current_thread, on_multi_thread, panic_text, poll_once, quiet_panic, until,
    watched,
};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

// ===== the enclosing pool =====

async fn name_of_the_current_pool() -> Option<String> {
    Pool::<BoxError>::current().name().map(str::to_owned)
}

/// The functions have scopes of their own, but are no pools.
#[test]
fn the_current_pool_is_the_one_around_a_function() {
    on_both(|| async {
        let opened = Pool::builder().name("around").open(async |_: Pool| {
            let around = Some("around".to_owned());
            let named = async || Ok::<_, BoxError>(name_of_the_current_pool().await);
            assert_eq!(race([name_of_the_current_pool()]).await, (0, around.clone()));
            assert_eq!(shield(name_of_the_current_pool()).await, around);
            assert_eq!(timeout(Duration::from_secs(1_000), name_of_the_current_pool()).await?, around);
            let [tried] = try_all([async { Ok::<_, BoxError>(name_of_the_current_pool().await) }]).await?;
            assert_eq!(tried, around);
            let [waited] = wait_all([async { Ok::<_, BoxError>(name_of_the_current_pool().await) }]).await;
            assert_eq!(waited.unwrap(), around);
            let (tell, told) = oneshot::channel();
            let exit = |(), _| async {
                tell.send(name_of_the_current_pool().await).unwrap();
                Ok(())
            };
            assert_eq!(with_exit((), async |_| named().await, exit).await?, around);
            assert_eq!(told.await?, around);
            Ok(())
        });
        opened.await.unwrap();
    });
}

// ===== functions that are dropped, and their Debug forms =====

/// What a pool reports whose body drops the future of a function after its tasks have ended.
async fn reported_for_dropped<F>(call: impl FnOnce() -> F) -> Vec<String> {
    let opened: Result<(), PoolError> = Pool::open(async |_: Pool| {
        let called = call();
        yield_now().await;
        drop(called);
        Ok(())
    })
    .await;
    let error = opened.unwrap_err();
    assert!(error.failures().is_empty(), "{error}");
    failures(error.cleanup_failures())
}

#[test]
fn what_failed_in_a_wait_all_that_is_dropped_is_reported() {
    on_current_thread(|| async {
        let fails = || async { Err::<(), BoxError>("lost".into()) };
        assert_eq!(reported_for_dropped(|| wait_all(vec![fails()])).await, ["error: lost"]);
        assert_eq!(reported_for_dropped(|| wait_all([fails()])).await, ["error: lost"]);
        assert_eq!(reported_for_dropped(|| wait_all((fails(),))).await, ["error: lost"]);
    });
}

#[test]
fn the_futures_of_functions_say_how_far_they_are() {
    on_current_thread(|| async {
        let mut racing = race((async {}, busy()));
        assert_eq!(format!("{racing:?}"), "RaceFuture { decided: false }");
        yield_now().await;
        assert!(poll_once(Pin::new(&mut racing)).await.is_pending());
        assert_eq!(format!("{racing:?}"), "RaceFuture { decided: true }");
        assert_eq!(racing.await, (0, ()));

        let never = async {
            busy().await;
            Ok(())
        };
        let mut trying = try_all((async { Err::<(), BoxError>("broken".into()) }, never));
        assert_eq!(format!("{trying:?}"), "TryAllFuture { failed: false }");
        yield_now().await;
        assert!(poll_once(Pin::new(&mut trying)).await.is_pending());
        assert_eq!(format!("{trying:?}"), "TryAllFuture { failed: true }");
        assert_eq!(failures(trying.await.unwrap_err().failures()), ["error: broken"]);

        let waiting = wait_all([async { Ok::<_, BoxError>(()) }]);
        assert_eq!(format!("{waiting:?}"), "WaitAllFuture { .. }");
    });
}

// ===== runtimes that shut down =====

#[test]
fn with_exit_resumes_the_panic_of_its_body_if_the_runtime_shuts_down_before_the_handler_has_ended() {
    let runtime = runtime();
    let body = async |(): &mut ()| -> Result<(), BoxError> { quiet_panic("broken") };
    let mut visit = task::spawn(with_exit((), body, |(), _| async { Ok(()) }));
    let entered = runtime.enter();
    assert_pending!(visit.poll());
    drop(entered);
    drop(runtime);
    assert_eq!(panic_text(|| visit.poll().is_ready()), "broken");
}

/// The runtime drops the future where it is spawned, and the handle does not know yet what to abort.
#[test]
fn a_destructor_may_cancel_its_own_task_while_a_runtime_that_has_shut_down_refuses_it() {
    watched(|| {
        let (runtime, dropped) = (runtime(), Arc::new(AtomicUsize::new(0)));
        let own: Arc<Mutex<Option<TaskHandle<()>>>> = Arc::default();
        let pool: Pool = Pool::new();
        let cancels = OnDrop::new({
            let (own, dropped) = (Arc::clone(&own), Arc::clone(&dropped));
            move || {
                dropped.fetch_add(1, Ordering::SeqCst);
                own.lock().unwrap().as_ref().unwrap().cancel();
            }
        });
        let planned = pool.spawn_with_handle(async move {
            drop(cancels);
            Ok(())
        });
        *own.lock().unwrap() = Some(planned);
        let shut_down = runtime.handle().clone();
        drop(runtime);
        let _entered = shut_down.enter();
        drop(task::spawn(pool.run()).poll());
        assert_eq!(dropped.load(Ordering::SeqCst), 1);
        let mut planned = task::spawn(own.lock().unwrap().take().unwrap());
        assert_eq!(assert_ready!(planned.poll()), Err(TaskStopped::Cancelled));
    });
}

// ===== what a pool has given up on =====

#[test]
fn what_a_pool_has_given_up_on_is_asked_to_stop_whenever_it_looks() {
    on_both(|| async {
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
    });
}

// ===== the tree =====

#[test]
fn states_have_names() {
    let states = [NodeState::Planned, NodeState::Queued, NodeState::Running, NodeState::Closing, NodeState::Closed];
    assert_eq!(states.map(|state| state.to_string()), ["planned", "queued", "running", "closing", "closed"]);
}

fn functions(tree: &PoolTree) -> Vec<String> {
    let functions = tree.nodes().filter(|node| node.kind() == NodeKind::Function);
    functions.map(|node| node.to_string().split("  ").next().unwrap().to_owned()).collect()
}

#[test]
fn a_race_that_was_dropped_is_shown_as_closing_until_its_tasks_have_ended() {
    on_multi_thread(|| async {
        let opened = Pool::open(async |pool: Pool| {
            let ((end, ended), entered) = (mpsc::channel::<()>(), Arc::new(AtomicBool::new(false)));
            let enter = Arc::clone(&entered);
            // It does not hear of its abort before it returns.
            let racing = race([async move {
                enter.store(true, Ordering::SeqCst);
                let _ = ended.recv();
            }]);
            until(|| entered.load(Ordering::SeqCst)).await;
            assert_eq!(functions(&pool.tree()), ["<race> (running, 1 task)"]);
            drop(racing);
            assert_eq!(functions(&pool.tree()), ["<race> (closing, 1 task, handed over)"]);
            drop(end);
            until(|| functions(&pool.tree()).is_empty()).await;
            Ok(())
        });
        opened.await.unwrap();
    });
}

/// Those that have ended are thrown out from time to time, and the one that has not must not be.
#[test]
fn a_function_that_has_not_ended_is_shown_however_many_others_have() {
    on_both(|| async {
        let opened = Pool::open(async |pool: Pool| {
            let gate = LatchEvent::new();
            let mut waiting = pin!(shield(gate.wait_set()));
            assert!(poll_once(waiting.as_mut()).await.is_pending());
            for _ in 0..1_000 {
                shield(async {}).await;
            }
            until(|| functions(&pool.tree()) == ["<shield> (running, 1 task)"]).await;
            gate.set();
            waiting.await;
            Ok(())
        });
        opened.await.unwrap();
    });
}

// ===== text that nobody takes =====

/// Has room for some bytes, and fails when they are used up.
struct Room(usize);

impl Write for Room {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 = self.0.checked_sub(text.len()).ok_or(fmt::Error)?;
        Ok(())
    }
}

/// A writer that fails is told of at once, wherever it fails.
#[track_caller]
fn assert_passes_on_that_there_is_no_room(shown: impl Display) {
    for room in 0..shown.to_string().len() {
        assert!(write!(Room(room), "{shown}").is_err(), "with room for {room} bytes of\n{shown}");
    }
    let alternate = format!("{shown:#}");
    for room in 0..alternate.len() {
        assert!(write!(Room(room), "{shown:#}").is_err(), "with room for {room} bytes of\n{alternate}");
    }
    assert!(write!(Room(alternate.len()), "{shown:#}").is_ok());
}

#[test]
fn an_error_that_cannot_be_written_says_so() {
    on_current_thread(|| async {
        let ((begin, begun), (end, ended)) = (oneshot::channel(), mpsc::channel::<()>());
        let opened: Result<(), PoolError> = Pool::builder()
            .name("web")
            .abandon_after(Duration::ZERO)
            .open(async move |pool: Pool| {
                drop(shield(async { quiet_panic("in shielded work") }));
                pool.build_task().name("stuck").spawn_blocking(move || {
                    begin.send(()).unwrap();
                    let _ = ended.recv();
                });
                begun.await?;
                pool.spawn(async { Err("first".into()) });
                pool.build_task().name("second").spawn(async { Err("one line\nand another".into()) });
                pending().await
            })
            .await;
        let error = opened.unwrap_err();
        assert_eq!((error.failures().len(), error.stuck().len(), error.cleanup_failures().len()), (2, 1, 1), "{error}");
        assert_passes_on_that_there_is_no_room(error);
        drop(end);

        let cancelled: Result<(), PoolError> = Pool::open(async |pool: Pool| {
            pool.cancel_with("deployment");
            pending().await
        })
        .await;
        assert_passes_on_that_there_is_no_room(cancelled.unwrap_err());
    });
}

#[test]
fn a_tree_that_cannot_be_written_says_so() {
    on_current_thread(|| async {
        let opened = Pool::builder().name("web").limit(1).grace(Duration::from_secs(1)).open(async |pool: Pool| {
            pool.spawn(async {
                let nested: Pool = Pool::new();
                nested.spawn(pending::<()>());
                Ok(nested.run().await?)
            });
            pool.build_task().name("queued").depth(-1).spawn(pending::<()>());
            pool.build_task().daemon().spawn(pending::<()>());
            let mut racing = race([pending::<()>()]);
            assert!(poll_once(Pin::new(&mut racing)).await.is_pending());
            yield_now().await;
            pool.cancel_with("deployment");
            let tree = pool.tree();
            let drawn = format!("{tree:#}");
            for part in ["web (closing: ", "<pool>", "<task>", "<race>", "queued", "daemon", "depth -1"] {
                assert!(drawn.contains(part), "{drawn}");
            }
            assert_passes_on_that_there_is_no_room(tree);
            Ok(())
        });
        opened.await.unwrap();
    });
}
