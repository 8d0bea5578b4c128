//! How time and memory grow with all that a user can have many of, or deep. See [`USAGE`].

use std::alloc::System;
use std::env;
use std::error::Error;
use std::fmt;
use std::fs;
use std::future::{Future, pending, poll_fn};
use std::hint::black_box;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use aiodrive::{
    BoxError, LatchEvent, OnFailure, Pool, PoolError, TaskGroup, TaskHandle, TaskStopped, cancellation_token, map,
    race, shield, timeout, try_all, wait_all, with_exit,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::runtime::{Builder, Handle, Runtime, RuntimeFlavor};
use tokio::task::{JoinSet, yield_now};

const USAGE: &str = "\
cargo bench -p aiodrive-benches --bench growth [-- <word> [<times>]]
    prints what n, 2 n and 4 n of each thing take, or of those that have the word in their name; with more of them, if
    it is to be so many times what the check takes
cargo bench -p aiodrive-benches --bench growth -- check
    does this with small numbers, and fails if 4 n of anything take more than eight times what n do";

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What 4 n may take in the check, as so many times n. Linear is four, quadratic sixteen.
const LIMIT: f64 = 8.0;

/// What they should take at most.
const TARGET: f64 = 5.0;

/// How many times as many the table has as the check.
const TIMES: usize = 4;

/// How many rounds a row has, at first and each time that it seems to take too much. Of all the least counts.
const ROUNDS: [usize; 6] = [2, 4, 8, 16, 32, 64];

/// Fewer bytes than these are nothing.
const LITTLE: usize = 4_096;

/// What it takes at most to read a small file of the kernel.
const READ: Duration = Duration::from_micros(200);

/// The two kinds of runtime.
const FLAVOURS: [(&str, usize); 2] = [("current-thread", 0), ("2 workers", 2)];

/// What everything runs on that is nested without a task in between.
const STACK: usize = 1 << 30;

// ===== how it is measured =====

/// What some of the things took.
#[derive(Clone, Copy)]
struct Cost {
    time: Duration,
    /// Bytes that were allocated, whether or not they were freed meanwhile; or those that were kept.
    bytes: usize,
    /// Steps that were counted, where there are any.
    steps: Option<usize>,
}

/// Measures from its making on.
struct Meter {
    allocated: [usize; 2],
    waited: Option<Duration>,
    begin: Instant,
}

impl Meter {
    fn start() -> Self {
        let before = Instant::now();
        let (waited, allocated) = (Self::waited(), Self::allocated());
        let begin = Instant::now();
        Self { allocated, waited: waited.filter(|_| begin - before < READ), begin }
    }

    /// The time until now, without that in which this thread has waited for a core: that is somebody else's. If it has
    /// waited at one of the two ends, nobody can say on which side of it.
    fn time(&self) -> Duration {
        let end = Instant::now();
        let waited = Self::waited().filter(|_| end.elapsed() < READ);
        let waited = waited.zip(self.waited).map(|(waited, before)| waited.saturating_sub(before));
        (end - self.begin).saturating_sub(waited.unwrap_or_default())
    }

    /// How long this thread has waited for a core, where Linux says so, and if no other thread goes on meanwhile.
    fn waited() -> Option<Duration> {
        if Handle::current().runtime_flavor() != RuntimeFlavor::CurrentThread {
            return None;
        }
        let stat = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
        stat.split_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
    }

    /// How much was allocated until now, and how much freed.
    fn allocated() -> [usize; 2] {
        let stats = ALLOCATOR.stats();
        [stats.bytes_allocated, stats.bytes_deallocated]
    }

    /// With what was allocated.
    fn stop(self) -> Cost {
        let (allocated, time) = (Self::allocated(), self.time());
        let bytes = allocated[0] - self.allocated[0];
        Cost { time, bytes: bytes.max(LITTLE), steps: None }
    }

    /// With what was not freed.
    fn stop_with_kept(self) -> Cost {
        let ([allocated, freed], time) = (Self::allocated(), self.time());
        let kept = (allocated - self.allocated[0]).saturating_sub(freed - self.allocated[1]);
        Cost { time, bytes: kept.max(LITTLE), steps: None }
    }
}

impl Cost {
    fn with_steps(self, steps: usize) -> Self {
        Self { steps: Some(steps), ..self }
    }

    /// The least of each, but for the bytes: those may be too few as well, by a thread that is late.
    fn least(self, other: Self) -> Self {
        let steps = self.steps.zip(other.steps).map(|(one, other)| one.min(other));
        Self { time: self.time.min(other.time), bytes: self.bytes.midpoint(other.bytes), steps }
    }
}

/// Measures a future from its first poll to its end.
async fn whole(future: impl Future) -> Cost {
    let meter = Meter::start();
    drop(future.await);
    meter.stop()
}

/// Makes so many of a thing.
type Measure = dyn Fn(&Runtime, usize) -> Cost;

/// A thing that a user can have many of.
struct Row {
    what: &'static str,
    /// How many the check begins with.
    n: usize,
    cost: Box<Measure>,
}

fn row<F: Future<Output = Cost> + 'static>(what: &'static str, n: usize, job: fn(usize) -> F) -> Row {
    Row { what, n, cost: Box::new(move |runtime, n| runtime.block_on(job(n))) }
}

/// What n, 2 n and 4 n take.
#[derive(Clone, Copy)]
struct Growth([Cost; 3]);

impl Growth {
    fn of(row: &Row, runtime: &Runtime, n: usize) -> Self {
        Self([1, 2, 4].map(|times| (row.cost)(runtime, times * n)))
    }

    fn least(self, other: Option<Self>) -> Self {
        Self([0, 1, 2].map(|n| other.map_or(self.0[n], |other| self.0[n].least(other.0[n]))))
    }

    /// Those of the time, of the bytes, and of the steps.
    fn ratios(&self) -> [f64; 3] {
        let [first, _, last] = &self.0;
        let steps = |cost: &Cost| cost.steps.unwrap_or(1) as f64;
        [
            last.time.as_secs_f64() / first.time.as_secs_f64(),
            last.bytes as f64 / first.bytes as f64,
            steps(last) / steps(first),
        ]
    }

    /// Steps that are counted say more than the time they take.
    fn is_below(&self, limit: f64) -> bool {
        let [time, bytes, steps] = self.ratios();
        let time = if self.0[0].steps.is_some() { steps } else { time };
        time <= limit && bytes <= limit
    }

    /// The columns of the time and of the memory.
    fn columns(&self) -> [String; 2] {
        let [time, bytes, steps] = self.ratios();
        let micros = self.0.map(|cost| format!("{:.0}", cost.time.as_secs_f64() * 1e6)).join(", ");
        let kibibytes = self.0.map(|cost| format!("{:.0}", cost.bytes as f64 / 1_024.0)).join(", ");
        let polls = self.0[0].steps.map(|_| format!(", polls {}", bold(steps))).unwrap_or_default();
        [format!("{micros} | {}{polls}", bold(time)), format!("{kibibytes} | {}", bold(bytes))]
    }
}

/// In bold, if it is above the target.
fn bold(ratio: f64) -> String {
    if ratio > TARGET { format!("**{ratio:.1}**") } else { format!("{ratio:.1}") }
}

fn runtime(workers: usize) -> Runtime {
    let mut builder = if workers == 0 { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    builder.worker_threads(workers.max(1)).enable_all().build().expect("a runtime")
}

fn main() -> ExitCode {
    if !env::args().any(|argument| argument == "--bench") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let mut words = env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let (word, times) = (words.next().unwrap_or_default(), words.next());
    let times = times.map_or(TIMES, |times| times.parse().expect("a number"));
    let run = move || if word == "check" { check() } else { print(&word, times) };
    let is_well = thread::Builder::new().stack_size(STACK).spawn(run).expect("a thread").join();
    if is_well.is_ok_and(|is_well| is_well) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The rows on a kind of runtime. One that seems to take more than a limit is measured again when all others have been,
/// in more rounds: somebody else on the machine may have disturbed it.
fn measure<'a>(rows: &[&'a Row], workers: usize, times: usize, limit: f64) -> Vec<(&'a Row, Growth)> {
    let runtime = runtime(workers);
    let mut measured: Vec<(&Row, Option<Growth>)> = rows.iter().map(|row| (*row, None)).collect();
    for rounds in ROUNDS {
        for (row, least) in &mut measured {
            if least.is_none_or(|least: Growth| !least.is_below(limit)) {
                let growth = |_| Growth::of(row, &runtime, times * row.n);
                *least = (0..rounds).map(growth).fold(*least, |least, growth| Some(growth.least(least)));
            }
        }
    }
    measured.into_iter().filter_map(|(row, growth)| Some((row, growth?))).collect()
}

/// Says which rows are more than linear, and whether there are none.
fn check() -> bool {
    let mut is_well = true;
    let rows = rows();
    for (flavour, workers) in FLAVOURS {
        let measured = measure(&rows.iter().collect::<Vec<_>>(), workers, 1, LIMIT);
        for (row, growth) in measured.iter().filter(|(_, growth)| !growth.is_below(LIMIT)) {
            let [time, memory] = growth.columns();
            println!("more than linear, {flavour}: {} | {} | {time} | {memory}", row.what, row.n);
            is_well = false;
        }
    }
    is_well
}

/// Prints the rows that have a word in their name.
fn print(word: &str, times: usize) -> bool {
    let rows = rows();
    let rows: Vec<_> = rows.iter().filter(|row| row.what.contains(word)).collect();
    let [current_thread, workers] = FLAVOURS.map(|(_, workers)| measure(&rows, workers, times, TARGET));
    let [first, second] = FLAVOURS.map(|(flavour, _)| flavour);
    println!("| what | n | {first}, µs | 4 n : n | {second}, µs | 4 n : n | KiB | 4 n : n |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    for ((row, first), (_, second)) in current_thread.iter().zip(&workers) {
        let ([time, memory], [time_of_workers, _]) = (first.columns(), second.columns());
        println!("| {} | {} | {time} | {time_of_workers} | {memory} |", row.what, times * row.n);
    }
    true
}

// ===== what is measured =====

fn rows() -> Vec<Row> {
    vec![
        row("tasks", 250, tasks),
        row("tasks that wait, and are aborted", 250, aborted_tasks),
        row("tasks one after the other in a pool that lives on: memory kept", 250, finished_tasks),
        row("daemons", 250, daemons),
        row("handles", 250, handles),
        row("handles that cancel a task with a pool in it", 250, cancelled_handles),
        row("starts", 250, starts),
        row("tracked futures", 250, tracked),
        row("tracked futures that are dropped before their pool runs", 250, tracked_unrun),
        row("`cancel_on`s", 250, cancel_ons),
        row("waiters in `Pool::cancelled`", 250, waiters_cancelled),
        row("waiters in `idle`", 250, waiters_idle),
        row("tokens of tasks", 250, tokens),
        row("pools one after the other in a body: memory kept", 100, pools_in_a_row),
        row("pools side by side", 100, pools_side_by_side),
        row("pools in pools", 50, pools_in_pools),
        row("pools in pools, cancelled from outside", 50, pools_in_pools_cancelled),
        row("pools in pools, in one task", 25, pools_in_place),
        row("depths that were used once in a pool that lives on: memory kept", 250, depths_used_once),
        row("depths, closed one after the other", 100, depths_closed),
        row("depths with a queue, closed by a failure", 100, depths_with_a_queue),
        row("tasks through a limit", 250, tasks_through_a_limit),
        row("closures through a limit", 50, closures_through_a_limit),
        row("`ready` and `spawn` in a planned pool with a limit", 250, planned_with_limit),
        row("producers in `ready`", 50, producers),
        row("calls of `len`, `is_empty` and `{:?}` with as long a queue", 100, queries_with_a_queue),
        row("failures", 100, failures),
        row("failures, discarded: memory kept", 100, discarded_failures),
        row("cleanup failures", 100, cleanup_failures),
        row("`{}` of failures", 100, |n| text_of_failures(n, |error| format!("{error}"))),
        row("`{:#}` of failures", 100, |n| text_of_failures(n, |error| format!("{error:#}"))),
        row("`{:?}` of failures", 100, |n| text_of_failures(n, |error| format!("{error:?}"))),
        row("levels that a failure is passed up", 100, levels_of_failure),
        row("levels of pools that a failure is passed up at once", 50, failure_through_pools),
        row("`{}` of a failure of so many levels", 100, |n| text_of_levels(n, |error| format!("{error}"))),
        row("`{:#}` of a failure of so many levels", 100, |n| text_of_levels(n, |error| format!("{error:#}"))),
        row("`{:?}` of a failure of so many levels", 100, |n| text_of_levels(n, |error| format!("{error:?}"))),
        row("levels with failures beside them, and `{:#}`", 50, text_of_wide_levels),
        row("levels of context, and `{:#}`", 100, levels_of_context),
        row("`tree` of tasks, and its text", 250, tree_of_tasks),
        row("`tree` of pools in pools, and `children` of each", 50, tree_of_pools),
        row("`tree` of `try_all`s in `try_all`s, and `children` of each", 50, tree_of_calls),
        row("branches of `try_all`", 250, |n| {
            whole(async move { try_all((0..n).map(one_turn).collect::<Vec<_>>()).await })
        }),
        row("branches of `wait_all`", 250, |n| {
            whole(async move { wait_all((0..n).map(one_turn).collect::<Vec<_>>()).await })
        }),
        row("branches of `race`", 250, |n| whole(async move { race((0..n).map(one_turn).collect::<Vec<_>>()).await })),
        row("`try_all`s in `try_all`s", 50, |n| {
            whole(async move { calls(n, call_try_all, Box::pin(one_turn(0))).await })
        }),
        row("`wait_all`s in `wait_all`s", 50, |n| {
            whole(async move { calls(n, call_wait_all, Box::pin(one_turn(0))).await })
        }),
        row("`race`s in `race`s", 50, |n| whole(async move { calls(n, call_race, Box::pin(one_turn(0))).await })),
        row("`shield`s in `shield`s", 50, |n| whole(async move { calls(n, call_shield, Box::pin(one_turn(0))).await })),
        row("`TaskGroup`s in `TaskGroup`s", 50, |n| {
            whole(async move { calls(n, call_group, Box::pin(one_turn(0))).await })
        }),
        row("`with_exit`s in tasks in `with_exit`s", 50, |n| {
            whole(async move { calls(n, call_with_exit, Box::pin(one_turn(0))).await })
        }),
        row("`timeout`s in tasks in `timeout`s", 50, |n| {
            whole(async move { calls(n, call_timeout, Box::pin(one_turn(0))).await })
        }),
        row("`try_all`s in `try_all`s that are dropped", 50, |n| dropped_calls(n, call_try_all)),
        row("`TaskGroup`s in `TaskGroup`s that are dropped", 50, |n| dropped_calls(n, call_group)),
        row("`with_exit`s in tasks in `with_exit`s that are dropped", 50, |n| dropped_calls(n, call_with_exit)),
        row("`shield`s in `shield`s that fail and are dropped", 50, failing_shields),
        row("tokens, one at each level of `try_all`s", 50, tokens_of_levels),
        row("`shield`s side by side", 250, shields),
        row("`with_exit`s one after the other", 100, with_exits),
        row("`timeout`s one after the other: memory kept", 250, timeouts),
        row("children of a `TaskGroup`", 250, children_of_a_group),
        row("items of `map`", 250, |n| whole(async move { map(8, 0..n, one_turn).collect().await })),
        row("items of `map`, unordered", 250, |n| {
            whole(async move { map(8, 0..n, one_turn).unordered().collect().await })
        }),
        row("items of `map` at once", 250, |n| whole(async move { map(n, 0..n, one_turn).collect().await })),
        row("waiters of a `LatchEvent`", 250, waiters_of_a_latch),
        row("clones of a pool's handle", 250, clones),
    ]
}

async fn one_turn(n: usize) -> Result<usize, BoxError> {
    yield_now().await;
    Ok(black_box(n))
}

async fn turns(count: usize) {
    for _ in 0..count {
        yield_now().await;
    }
}

async fn until(holds: impl Fn() -> bool) {
    while !holds() {
        yield_now().await;
    }
}

#[derive(Clone, Default)]
struct Counter(Arc<AtomicUsize>);

impl Counter {
    fn add(&self) {
        self.0.fetch_add(1, SeqCst);
    }

    fn get(&self) -> usize {
        self.0.load(SeqCst)
    }

    async fn reaches(&self, count: usize) {
        until(|| self.get() == count).await;
    }

    /// Counts, and stays for ever.
    async fn park<T>(self) -> T {
        self.add();
        pending().await
    }
}

// ----- tasks -----

async fn tasks(n: usize) -> Cost {
    whole(Pool::open(async |pool: Pool| {
        (0..n).for_each(|n| pool.spawn(async move { one_turn(n).await.map(drop) }));
        Ok(())
    }))
    .await
}

async fn aborted_tasks(n: usize) -> Cost {
    let (mut meter, begun) = (None, Counter::default());
    let pool = Pool::open(async |pool: Pool| {
        (0..n).for_each(|_| pool.spawn(begun.clone().park::<()>()));
        begun.reaches(n).await;
        meter = Some(Meter::start());
        pool.cancel();
        Ok(())
    });
    pool.await.expect("nothing fails");
    meter.expect("the body has run").stop()
}

async fn finished_tasks(n: usize) -> Cost {
    in_a_living_pool(async |pool: &Pool| {
        for n in 0..n {
            pool.spawn_with_handle(one_turn(n)).await?;
        }
        Ok(())
    })
    .await
}

/// What a body takes, and what its pool keeps of it.
async fn in_a_living_pool(body: impl AsyncFnOnce(&Pool) -> Result<(), BoxError>) -> Cost {
    let opened = Pool::open(async |pool: Pool| {
        // What a pool has from its first task on.
        pool.spawn_with_handle(one_turn(0)).await?;
        let meter = Meter::start();
        body(&pool).await?;
        Ok(meter.stop_with_kept())
    });
    opened.await.expect("nothing fails")
}

async fn daemons(n: usize) -> Cost {
    whole(Pool::open(async |pool: Pool| {
        (0..n).for_each(|_| pool.build_task().daemon().spawn(pending::<()>()));
        Ok(())
    }))
    .await
}

async fn handles(n: usize) -> Cost {
    whole(Pool::open(async |pool: Pool| {
        let handles: Vec<_> = (0..n).map(|n| pool.spawn_with_handle(one_turn(n))).collect();
        for handle in handles {
            handle.await?;
        }
        Ok(())
    }))
    .await
}

async fn cancelled_handles(n: usize) -> Cost {
    let (mut meter, begun) = (None, Counter::default());
    let pool = Pool::open(async |pool: Pool| {
        let nest = |_| {
            let begun = begun.clone();
            pool.spawn_with_handle(async { Ok(Pool::open(async |_: Pool| Ok(begun.park::<u32>().await)).await?) })
        };
        let handles: Vec<_> = (0..n).map(nest).collect();
        begun.reaches(n).await;
        meter = Some(Meter::start());
        handles.iter().for_each(TaskHandle::cancel);
        for handle in handles {
            handle.await.expect_err("it was cancelled");
        }
        Ok(())
    });
    pool.await.expect("nothing fails");
    meter.expect("the body has run").stop()
}

async fn starts(n: usize) -> Cost {
    whole(Pool::open(async |pool: Pool| {
        let begin = |_| {
            pool.start(async |started| {
                started.ready(());
                Ok(())
            })
        };
        let started: Vec<_> = (0..n).map(begin).collect();
        for started in started {
            started.await?;
        }
        Ok(())
    }))
    .await
}

async fn tracked(n: usize) -> Cost {
    whole(Pool::open(async |pool: Pool| {
        let tasks: JoinSet<_> = (0..n).map(|n| pool.track_future(one_turn(n))).collect();
        assert_eq!(tasks.join_all().await.len(), n);
        Ok(())
    }))
    .await
}

async fn tracked_unrun(n: usize) -> Cost {
    let pool: Pool = Pool::new();
    let tracked: Vec<_> = (0..n).map(|_| tokio::spawn(pool.track_future(pending::<()>()))).collect();
    let waiter = pool.clone();
    let idle = tokio::spawn(async move { waiter.idle().await });
    turns(2).await;
    let meter = Meter::start();
    for task in tracked {
        task.abort();
        task.await.expect_err("it was aborted");
    }
    idle.await.expect("it only waits");
    meter.stop()
}

async fn cancel_ons(n: usize) -> Cost {
    whole(Pool::open(async |pool: Pool| {
        (0..n).for_each(|_| pool.cancel_on(pending::<()>()));
        turns(2).await;
        Ok(())
    }))
    .await
}

async fn waiters_cancelled(n: usize) -> Cost {
    let waits = |pool: Pool, begun: Counter| async move {
        begun.add();
        pool.cancelled().await;
    };
    waiters(n, waits, |pool, _| pool.cancel()).await
}

async fn waiters_idle(n: usize) -> Cost {
    let cost = Pool::open(async |pool: Pool| {
        let (work, begun) = (LatchEvent::new(), Counter::default());
        let task = work.clone();
        pool.spawn(async move { task.wait_set().await });
        let mut waiting = JoinSet::new();
        for _ in 0..n {
            let (pool, begun) = (pool.clone(), begun.clone());
            waiting.spawn(async move {
                begun.add();
                pool.idle().await;
            });
        }
        begun.reaches(n).await;
        let meter = Meter::start();
        work.set();
        waiting.join_all().await;
        Ok(meter.stop())
    });
    cost.await.expect("nothing fails")
}

async fn tokens(n: usize) -> Cost {
    let waits = |_, begun: Counter| async move {
        let token = cancellation_token();
        begun.add();
        token.cancelled().await;
    };
    waiters(n, waits, |pool, _| pool.cancel()).await
}

/// Tasks that wait for something, from the moment when it comes on.
async fn waiters<F>(n: usize, waits: impl Fn(Pool, Counter) -> F, come: impl FnOnce(&Pool, usize)) -> Cost
where
    F: Future<Output = ()> + Send + 'static,
{
    let (mut meter, begun) = (None, Counter::default());
    let pool = Pool::builder().grace(Duration::from_secs(60)).open(async |pool: Pool| {
        (0..n).for_each(|_| pool.spawn(waits(pool.clone(), begun.clone())));
        begun.reaches(n).await;
        meter = Some(Meter::start());
        come(&pool, n);
        Ok(())
    });
    pool.await.expect("nothing fails");
    meter.expect("the body has run").stop()
}

async fn clones(n: usize) -> Cost {
    whole(Pool::open(async |pool: Pool| {
        let clones = vec![pool.clone(); n];
        clones.iter().for_each(|pool| pool.spawn(async {}));
        Ok(())
    }))
    .await
}

// ----- pools -----

async fn pools_in_a_row(n: usize) -> Cost {
    in_a_living_pool(async |_| {
        for n in 0..n {
            let nested: Pool = Pool::new();
            nested.spawn(async move { one_turn(n).await.map(drop) });
            nested.run().await?;
        }
        Ok(())
    })
    .await
}

async fn pools_side_by_side(n: usize) -> Cost {
    whole(Pool::open(async |pool: Pool| {
        for n in 0..n {
            pool.spawn(async move {
                let nested: Pool = Pool::new();
                nested.spawn(async move { one_turn(n).await.map(drop) });
                Ok(nested.run().await?)
            });
        }
        Ok(())
    }))
    .await
}

type Job = Pin<Box<dyn Future<Output = Result<usize, BoxError>> + Send>>;

/// A pool in a task of a pool, and so on.
fn nested_pools(levels: usize, end: Job) -> Job {
    if levels == 0 {
        return end;
    }
    Box::pin(async move {
        let opened = Pool::open(async move |pool: Pool| {
            pool.spawn(async move { nested_pools(levels - 1, end).await.map(drop) });
            Ok(levels)
        });
        Ok(opened.await?)
    })
}

async fn pools_in_pools(n: usize) -> Cost {
    whole(nested_pools(n, Box::pin(one_turn(0)))).await
}

async fn pools_in_pools_cancelled(n: usize) -> Cost {
    let (mut meter, begun) = (None, Counter::default());
    let opened = Pool::open(async |pool: Pool| {
        let end = begun.clone().park();
        pool.spawn(async move { nested_pools(n, Box::pin(end)).await.map(drop) });
        begun.reaches(1).await;
        meter = Some(Meter::start());
        pool.cancel();
        Ok(())
    });
    opened.await.expect("nothing fails");
    meter.expect("the body has run").stop()
}

/// A body opens a pool whose body opens a pool, and so on; the innermost ends at once.
async fn pools_in_place(n: usize) -> Cost {
    fn nested(levels: usize) -> Job {
        Box::pin(async move {
            if levels == 0 {
                return Ok(0);
            }
            Ok(Pool::open(async move |_: Pool| nested(levels - 1).await).await?)
        })
    }
    whole(nested(n)).await
}

// ----- depths, limits, and the queue -----

async fn depths_used_once(n: usize) -> Cost {
    in_a_living_pool(async |pool| {
        for depth in 1..=n as i32 {
            pool.build_task().depth(depth).spawn_with_handle(async { Ok(()) }).await?;
        }
        Ok(())
    })
    .await
}

async fn depths_closed(n: usize) -> Cost {
    let (mut meter, begun) = (None, Counter::default());
    let pool = Pool::open(async |pool: Pool| {
        (0..n).for_each(|depth| pool.build_task().depth(depth as i32).spawn(begun.clone().park::<()>()));
        begun.reaches(n).await;
        meter = Some(Meter::start());
        pool.cancel();
        Ok(())
    });
    pool.await.expect("nothing fails");
    meter.expect("the body has run").stop()
}

async fn depths_with_a_queue(n: usize) -> Cost {
    let (mut meter, begun) = (None, Counter::default());
    let pool = Pool::builder().limit(1).open(async |pool: Pool| {
        pool.build_task().depth(i32::MIN).spawn(begun.clone().park::<()>());
        begun.reaches(1).await;
        (0..n).for_each(|depth| pool.build_task().depth(-(depth as i32)).spawn_blocking(|| ()));
        meter = Some(Meter::start());
        Err::<(), _>("now".into())
    });
    pool.await.expect_err("the body fails");
    meter.expect("the body has run").stop()
}

async fn tasks_through_a_limit(n: usize) -> Cost {
    whole(Pool::builder().limit(2).open(async |pool: Pool| {
        (0..n).for_each(|n| pool.spawn(async move { one_turn(n).await.map(drop) }));
        Ok(())
    }))
    .await
}

async fn closures_through_a_limit(n: usize) -> Cost {
    whole(Pool::builder().limit(2).open(async |pool: Pool| {
        (0..n).for_each(|n| pool.spawn_blocking(move || _ = black_box(n)));
        Ok(())
    }))
    .await
}

async fn planned_with_limit(n: usize) -> Cost {
    let pool: Pool = Pool::builder().limit(n + 1).build();
    let cost = whole(async {
        for n in 0..n as i32 {
            pool.ready().await;
            pool.build_task().depth(n % 3).spawn(async {});
        }
    })
    .await;
    pool.run().await.expect("nothing fails");
    cost
}

/// How often the futures of `ready` are polled.
async fn producers(n: usize) -> Cost {
    let polls = Counter::default();
    // With one slot, each end of a task leaves the pool idle.
    let cost = whole(Pool::builder().limit(1).open(async |pool: Pool| {
        let produce = |_| {
            let (own, polls) = (pool.clone(), polls.clone());
            pool.build_task().daemon().spawn_with_handle(async move {
                let mut ready = Box::pin(own.ready());
                poll_fn(|cx| {
                    polls.add();
                    ready.as_mut().poll(cx)
                })
                .await;
                own.spawn(turns(2));
                Ok(())
            })
        };
        let producers: Vec<_> = (0..n).map(produce).collect();
        for producer in producers {
            producer.await?;
        }
        Ok(())
    }))
    .await;
    // Whoever waits is polled twice, and who finds a place at once only once.
    cost.with_steps(polls.get().max(2 * n))
}

async fn queries_with_a_queue(n: usize) -> Cost {
    let cost = Pool::builder().limit(1).open(async |pool: Pool| {
        (0..=n).for_each(|_| pool.spawn(pending::<()>()));
        let meter = Meter::start();
        for _ in 0..n {
            black_box(pool.len());
            black_box(pool.is_empty());
            black_box(format!("{pool:?}"));
        }
        let cost = meter.stop();
        pool.cancel();
        Ok(cost)
    });
    cost.await.expect("nothing fails")
}

// ----- failures -----

/// A pool with so many failures.
async fn failed(n: usize) -> PoolError {
    let pool = Pool::builder().on_failure(|_| OnFailure::Collect).open(async |pool: Pool| {
        (0..n).for_each(|_| pool.spawn(async { Err("a failure".into()) }));
        Ok(())
    });
    pool.await.expect_err("all fail")
}

async fn failures(n: usize) -> Cost {
    whole(async move { drop(failed(n).await) }).await
}

async fn discarded_failures(n: usize) -> Cost {
    in_a_living_pool(async |pool| {
        for _ in 0..n {
            let task = pool.build_task().on_failure(OnFailure::Discard);
            let ended = task.spawn_with_handle(async { Err::<(), _>("a failure".into()) }).await;
            assert_eq!(ended, Err(TaskStopped::Failed));
        }
        Ok(())
    })
    .await
}

async fn cleanup_failures(n: usize) -> Cost {
    whole(async move {
        let pool = Pool::open(async |_: Pool| {
            for _ in 0..n {
                let exit = async |(), _| Err("a failure".into());
                let mut visit = Box::pin(with_exit((), async |()| pending::<Result<(), BoxError>>().await, exit));
                assert!(poll_fn(|cx| std::task::Poll::Ready(visit.as_mut().poll(cx))).await.is_pending());
            }
            Ok(())
        });
        assert_eq!(pool.await.expect_err("all fail").cleanup_failures().len(), n);
    })
    .await
}

async fn text_of_failures(n: usize, text: fn(&PoolError) -> String) -> Cost {
    let error = failed(n).await;
    whole(async { black_box(text(&error)) }).await
}

/// A failure that has passed through so many pools, one after the other.
async fn wrapped(levels: usize) -> BoxError {
    let mut error: BoxError = "the leaf".into();
    for _ in 0..levels {
        let pool: Pool = Pool::new();
        pool.spawn(async move { Err(error) });
        error = pool.run().await.expect_err("its task fails").into();
    }
    error
}

async fn levels_of_failure(n: usize) -> Cost {
    whole(async move { drop(wrapped(n).await) }).await
}

async fn failure_through_pools(n: usize) -> Cost {
    let end = async {
        yield_now().await;
        Err("the leaf".into())
    };
    whole(nested_pools(n, Box::pin(end))).await
}

async fn text_of_levels(n: usize, text: fn(&BoxError) -> String) -> Cost {
    let error = wrapped(n).await;
    whole(async { black_box(text(&error)) }).await
}

/// Each level has the failure of a task beside it, so that it is indented.
async fn text_of_wide_levels(n: usize) -> Cost {
    whole(async move {
        let mut error: BoxError = "the leaf".into();
        for _ in 0..n {
            let pool = Pool::builder().on_failure(|_| OnFailure::Collect).open(async |pool: Pool| {
                pool.spawn_with_handle(async { Err::<(), _>("beside it".into()) }).await.ok();
                Err::<(), _>(error)
            });
            error = pool.await.expect_err("all fail").into();
        }
        black_box(format!("{error:#}"));
    })
    .await
}

/// A line of context.
#[derive(Debug)]
struct Context(Option<BoxError>);

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("in this context")
    }
}

impl Error for Context {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.as_deref().map(|error| error as _)
    }
}

/// Not by recursion, as the crate's own.
impl Drop for Context {
    fn drop(&mut self) {
        let mut next = self.0.take();
        while let Some(mut context) = next.and_then(|error| error.downcast::<Self>().ok()) {
            next = context.0.take();
        }
    }
}

async fn levels_of_context(n: usize) -> Cost {
    whole(async move {
        let pool: Pool = Pool::new();
        let error = (0..n).fold(BoxError::from("the leaf"), |cause, _| Context(Some(cause)).into());
        pool.spawn(async { Err(error) });
        black_box(format!("{:#}", pool.run().await.expect_err("its task fails")));
    })
    .await
}

// ----- the tree -----

async fn tree_of_tasks(n: usize) -> Cost {
    let cost = Pool::open(async |pool: Pool| {
        (0..n).for_each(|_| pool.spawn(pending::<()>()));
        let cost = whole(async { black_box(pool.tree().to_string()) }).await;
        pool.cancel();
        Ok(cost)
    });
    cost.await.expect("nothing fails")
}

async fn tree_of_pools(n: usize) -> Cost {
    tree_of(|end| nested_pools(n, end)).await
}

async fn tree_of_calls(n: usize) -> Cost {
    tree_of(|end| calls(n, call_try_all, end)).await
}

/// To take the tree of what is nested, and the children of each node.
async fn tree_of(nested: impl FnOnce(Job) -> Job) -> Cost {
    let begun = Counter::default();
    let cost = Pool::open(async |pool: Pool| {
        let end = begun.clone().park();
        let task = nested(Box::pin(end));
        pool.spawn(async { task.await.map(drop) });
        begun.reaches(1).await;
        let meter = Meter::start();
        let tree = pool.tree();
        let children: usize = tree.nodes().map(|node| node.children().count()).sum();
        let cost = meter.stop();
        assert_eq!(children + 1, tree.nodes().count());
        pool.cancel();
        Ok(cost)
    });
    cost.await.expect("nothing fails")
}

// ----- functions -----

/// A call of a function around a job, each in a task of its own.
type Call = fn(Job) -> Job;

/// So many of these, one in the other.
fn calls(levels: usize, call: Call, end: Job) -> Job {
    if levels == 0 {
        return end;
    }
    // Not made at once: each is made where it runs.
    call(Box::pin(async move { calls(levels - 1, call, end).await }))
}

fn call_try_all(job: Job) -> Job {
    Box::pin(async { Ok(try_all([job]).await?[0]) })
}

fn call_wait_all(job: Job) -> Job {
    Box::pin(async {
        let [ended] = wait_all([job]).await;
        Ok(ended?)
    })
}

fn call_race(job: Job) -> Job {
    Box::pin(async { race([job]).await.1 })
}

fn call_shield(job: Job) -> Job {
    Box::pin(async { shield(job).await })
}

fn call_group(job: Job) -> Job {
    Box::pin(async {
        let mut group = TaskGroup::<usize>::new();
        group.spawn(job);
        Ok(group.next().await.expect("a child")?)
    })
}

fn call_with_exit(job: Job) -> Job {
    let body = async move |()| call_try_all(job).await;
    Box::pin(async move { Ok(with_exit((), async move |_: &mut ()| body(()).await, async |(), _| Ok(())).await?) })
}

fn call_timeout(job: Job) -> Job {
    Box::pin(async { timeout(Duration::from_secs(60), call_try_all(job)).await? })
}

/// From the drop of the outermost call to the end of all that was in it.
async fn dropped_calls(n: usize, call: Call) -> Cost {
    let (mut meter, begun) = (None, Counter::default());
    let pool = Pool::open(async |_: Pool| {
        let end = begun.clone().park();
        let mut outermost = calls(n, call, Box::pin(end));
        until_polling(&mut outermost, || begun.get() == 1).await;
        meter = Some(Meter::start());
        drop(outermost);
        Ok(())
    });
    pool.await.expect("nothing fails");
    meter.expect("the body has run").stop()
}

/// Polls a job until something has come about.
async fn until_polling(job: &mut Job, holds: impl Fn() -> bool) {
    while !holds() {
        assert!(poll_fn(|cx| std::task::Poll::Ready(job.as_mut().poll(cx))).await.is_pending());
        yield_now().await;
    }
}

/// Each begins the next one, lets go of it, and panics: the pool has n cleanup failures of up to n levels.
async fn failing_shields(n: usize) -> Cost {
    fn nested(levels: usize) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            if levels > 0 {
                drop(shield(nested(levels - 1)));
                yield_now().await;
                std::panic::resume_unwind(Box::new("a panic"));
            }
        })
    }
    whole(Pool::open(async |_: Pool| {
        drop(shield(nested(n)));
        Ok(())
    }))
    .await
}

/// A token is taken in each of the calls that are nested.
async fn tokens_of_levels(n: usize) -> Cost {
    fn call(job: Job) -> Job {
        Box::pin(async {
            let token = cancellation_token();
            let value = call_try_all(job).await;
            assert!(!token.is_cancelled());
            value
        })
    }
    whole(Pool::open(async |_: Pool| calls(n, call, Box::pin(one_turn(0))).await)).await
}

async fn shields(n: usize) -> Cost {
    whole(Pool::open(async |_: Pool| {
        (0..n).for_each(|n| drop(shield(one_turn(n))));
        Ok(())
    }))
    .await
}

async fn with_exits(n: usize) -> Cost {
    whole(Pool::open(async |_: Pool| {
        for n in 0..n {
            with_exit((), async move |_: &mut ()| one_turn(n).await, async |(), _| Ok(())).await?;
        }
        Ok(())
    }))
    .await
}

async fn timeouts(n: usize) -> Cost {
    in_a_living_pool(async |_| {
        for n in 0..n {
            timeout(Duration::from_secs(60), one_turn(n)).await??;
        }
        Ok(())
    })
    .await
}

async fn children_of_a_group(n: usize) -> Cost {
    whole(async move {
        let mut group = TaskGroup::<usize>::new();
        (0..n).for_each(|n| group.spawn(one_turn(n)));
        while let Some(ended) = group.next().await {
            black_box(ended.expect("none fails"));
        }
    })
    .await
}

async fn waiters_of_a_latch(n: usize) -> Cost {
    let (latch, begun, mut waiting) = (LatchEvent::new(), Counter::default(), JoinSet::new());
    for _ in 0..n {
        let (latch, begun) = (latch.clone(), begun.clone());
        waiting.spawn(async move {
            let set = latch.wait_set();
            begun.add();
            set.await;
        });
    }
    begun.reaches(n).await;
    let meter = Meter::start();
    latch.set();
    waiting.join_all().await;
    meter.stop()
}
