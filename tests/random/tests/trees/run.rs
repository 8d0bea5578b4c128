//! The runtimes that trees run on, and what must hold when they have ended.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};

use aiodrive::PoolError;
use tokio::runtime::{Builder, Runtime};
use tokio::task::{LocalSet, yield_now};

use crate::found;
use crate::plan::{PoolPlan, RootEnd, RootPlan};
use crate::play::Here;
use crate::world::{Clock, Value, World};

/// How the outermost pool has ended: `None` if nobody was told.
type Told = Option<Result<Value, PoolError>>;

/// Far longer than any tree takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Shows the tree that hangs, and ends the process.
pub struct Watchdog {
    watched: Arc<Mutex<Option<(u64, World)>>>,
    bones: mpsc::Sender<()>,
}

impl Watchdog {
    pub fn new() -> Self {
        let watched = Arc::new(Mutex::new(None::<(u64, World)>));
        let (bones, fed) = mpsc::channel();
        let seen = Arc::clone(&watched);
        std::thread::spawn(move || {
            loop {
                match fed.recv_timeout(PATIENCE) {
                    Ok(()) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                    Err(RecvTimeoutError::Timeout) => {
                        if let Some((seed, world)) = &*seen.lock().expect("it is not poisoned") {
                            eprintln!("TREES_SEED={seed} hangs:\n{}", world.drawing());
                            std::process::abort();
                        }
                    }
                }
            }
        });
        Self { watched, bones }
    }

    /// Runs a tree, and says what of the promises does not hold.
    pub fn watch(&self, seed: u64, clock: Clock, run: impl FnOnce(&World) -> Vec<String>) -> Vec<String> {
        let world = World::new(clock);
        *self.watched.lock().expect("it is not poisoned") = Some((seed, world.clone()));
        let _ = self.bones.send(());
        let broken = run(&world);
        *self.watched.lock().expect("it is not poisoned") = None;
        broken
    }
}

/// Runs the outermost pool until its owner has done with it.
async fn own(here: Here, pool: PoolPlan, end: RootEnd) -> Told {
    let pool = here.pool(pool);
    let timeout = Duration::from_millis;
    match end {
        RootEnd::Awaited => caught(pool).await,
        RootEnd::Timeout(limit) => {
            drop(caught(aiodrive::timeout(timeout(limit), pool)).await);
            None
        }
        RootEnd::Dropped(limit) => {
            drop(caught(tokio::time::timeout(timeout(limit), pool)).await);
            None
        }
        RootEnd::Aborted(_) | RootEnd::RuntimeDropped(_) => {
            drop(caught(pool).await);
            None
        }
    }
}

/// The body may panic, and so may a destructor of it when the owner drops it.
async fn caught<F: Future>(future: F) -> Option<F::Output> {
    let mut future = Some(Box::pin(future));
    let ended = std::future::poll_fn(|cx| {
        let poll = || future.as_mut().expect("it is polled until it is ready").as_mut().poll(cx);
        match catch_unwind(AssertUnwindSafe(poll)) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => Poll::Ready(Some(output)),
            Err(payload) => {
                swallow(|| drop(payload));
                Poll::Ready(None)
            }
        }
    })
    .await;
    swallow(|| drop(future.take()));
    ended
}

/// Payloads may panic when they are dropped, also those of such panics.
fn swallow(code: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(code)) {
        std::mem::forget(catch_unwind(AssertUnwindSafe(|| drop(payload))));
    }
}

/// Looks whether everything that was told is what was there to be told, and whether nothing is left.
fn judge(world: &World, told: Told) -> Vec<String> {
    if let Some(Err(error)) = &told {
        found::in_pool_error(world, error);
    }
    let is_told = told.is_some();
    drop(told);
    world.set_root(None);
    let alive = world.alive();
    world.check(alive == 0, || format!("{alive} futures, values, errors and payloads are left"));
    world.verdict(is_told)
}

/// Waits until nothing is left, of the tree or in the runtime; some while after the outermost pool if it was dropped.
async fn settle(world: &World, told: bool, base: usize) {
    let metrics = tokio::runtime::Handle::current().metrics();
    // A pool whose body has panicked keeps its failures as long as there is a handle.
    world.set_root(None);
    let (began, began_there) = (Instant::now(), tokio::time::Instant::now());
    // On the paused clock, what waits for nothing but time has it at once.
    let too_late = || match world.clock() {
        Clock::Paused => began_there.elapsed() > PATIENCE / 100,
        Clock::Real | Clock::Turns => began.elapsed() > PATIENCE / 2,
    };
    let tasks = || metrics.num_alive_tasks();
    // What was told as ended is gone; tokio counts a task for a moment longer.
    let gone = told.then(|| world.alive());
    while (gone.is_none() && world.alive() > 0) || tasks() > base {
        if too_late() {
            world.broken(format!("{} are alive, and {} tasks, of {base}", world.alive(), tasks()));
            return;
        }
        match world.clock() {
            Clock::Paused => tokio::time::sleep(Duration::from_millis(1)).await,
            Clock::Real | Clock::Turns => yield_now().await,
        }
    }
}

// ===== one thread =====

fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime")
}

/// How the outermost pool ends on one thread.
fn play_paused(world: &World, RootPlan { pool, end }: RootPlan) -> Told {
    let runtime = one_thread();
    let here = Here::outside(world, matches!(end, RootEnd::Awaited | RootEnd::Timeout(_) | RootEnd::Dropped(_)));
    let owned = Box::pin(own(here, pool, end));
    match end {
        RootEnd::Awaited | RootEnd::Timeout(_) | RootEnd::Dropped(_) => {
            let local = LocalSet::new();
            local.block_on(&runtime, async {
                let told = tokio::time::timeout(Duration::from_secs(1_000_000), owned).await;
                let told = told.unwrap_or_else(|_| {
                    world.broken(format!("it hangs:\n{}", world.drawing()));
                    None
                });
                settle(world, told.is_some(), 0).await;
                told
            })
        }
        RootEnd::Aborted(time) => runtime.block_on(async {
            let task = tokio::spawn(owned);
            tokio::time::sleep(Duration::from_millis(time)).await;
            task.abort();
            let ended = task.await;
            swallow(|| drop(ended));
            settle(world, false, 0).await;
            None
        }),
        RootEnd::RuntimeDropped(time) => {
            runtime.block_on(async {
                drop(tokio::spawn(owned));
                tokio::time::sleep(Duration::from_millis(time)).await;
            });
            world.set_gone();
            drop(runtime);
            None
        }
    }
}

pub fn paused(world: &World, plan: RootPlan) -> Vec<String> {
    let told = play_paused(world, plan);
    judge(world, told)
}

/// What the error of the outermost pool says.
pub fn told(world: &World, plan: RootPlan) -> String {
    match play_paused(world, plan) {
        Some(Err(error)) => format!("{error:#}"),
        Some(Ok(_)) => "well".to_owned(),
        None => "nobody was told".to_owned(),
    }
}

// ===== several threads =====

/// A runtime for many trees.
pub struct Workers(Runtime);

fn several_threads() -> Runtime {
    Builder::new_multi_thread().worker_threads(3).enable_all().build().expect("a runtime")
}

impl Workers {
    pub fn new() -> Self {
        Self(several_threads())
    }

    pub fn run(&self, world: &World, RootPlan { pool, end }: RootPlan) -> Vec<String> {
        let owned = Box::pin(own(Here::outside(world, false), pool, end));
        let told = match end {
            RootEnd::RuntimeDropped(time) => {
                let runtime = several_threads();
                drop(runtime.spawn(owned));
                runtime.block_on(world.pass(time));
                world.set_gone();
                drop(runtime);
                None
            }
            RootEnd::Aborted(time) => self.0.block_on(async {
                let task = tokio::spawn(owned);
                world.pass(time).await;
                task.abort();
                let ended = task.await;
                swallow(|| drop(ended));
                settle(world, false, 0).await;
                None
            }),
            RootEnd::Awaited | RootEnd::Timeout(_) | RootEnd::Dropped(_) => self.0.block_on(async {
                // On a worker, as most pools are.
                let told = tokio::spawn(owned).await.expect("it does not panic");
                settle(world, told.is_some(), 0).await;
                told
            }),
        };
        judge(world, told)
    }
}
