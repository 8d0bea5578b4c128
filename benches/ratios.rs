//! How long work that users have takes, by how long what they write today takes.
//!
//! `cargo bench -p aiodrive-benches --bench ratios` measures it all, in some twenty minutes; with a word after `--`, the
//! rows that have it in their first column or in the name of their job.
//!
//! The two sides take turns, in one process; a run gives the median of the ratios of such turns. So whatever else the
//! machine does meets both. What is printed is the median of several runs, and the least and the most of them. Each run
//! has a process of its own: after a million tasks, an allocator is not what it was.
//!
//! There are three kinds of task: where a row says nothing else, they end at once; others wait once; others make a round
//! trip, which is a request to a server task, and its answer. All are spawned from a task of the runtime, as in services.

use std::env;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use aiodrive_benches::{Case, FLAVOURS, Pair, find, peers, runtime};
use tokio::runtime::Runtime;

/// How many runs make a figure.
const RUNS: usize = 3;
/// About how long one side works in a turn, and how long a run takes.
const TURN: Duration = Duration::from_millis(10);
const RUN: Duration = Duration::from_millis(600);
/// How many turns there are at least, in a run that takes longer, and for how long it may.
const TURNS: usize = 5;
const LONG_RUN: Duration = Duration::from_secs(5);

/// With the numbers of a row and of a kind of runtime, the program does one run of that, and prints the ratio.
const RUN_VARIABLE: &str = "RATIOS_RUN";

/// A row of the table.
struct Row {
    work: &'static str,
    against: &'static str,
    job: &'static str,
    ours: (Case, usize),
    theirs: (Case, usize),
    target: Option<f64>,
    /// Whether it needs a multi-thread runtime.
    multi_thread: bool,
}

const LOOP: &str = "loop around `JoinSet`";

/// The work, what it is measured against, the job, its size, and the target, if there is one.
const ROWS: &[(&str, &str, &str, usize, Option<f64>)] = &[
    ("open + 1 task + join", LOOP, "pool", 1, Some(1.40)),
    ("open + 4 tasks + join", LOOP, "pool", 4, Some(1.15)),
    ("spawn + join 64 tasks", LOOP, "pool", 64, Some(1.10)),
    ("spawn + join 1,000 tasks", LOOP, "pool", 1_000, Some(1.10)),
    ("spawn + join 10,000 tasks", LOOP, "pool", 10_000, Some(1.10)),
    ("spawn + join 100,000 tasks", LOOP, "pool", 100_000, Some(1.10)),
    ("spawn + join 1,000,000 tasks", LOOP, "pool", 1_000_000, Some(1.10)),
    ("open + 1 task that waits once + join", LOOP, "pool_waits", 1, Some(1.40)),
    ("open + 4 tasks that wait once + join", LOOP, "pool_waits", 4, Some(1.15)),
    ("spawn + join 64 tasks that wait once", LOOP, "pool_waits", 64, Some(1.05)),
    ("spawn + join 1,000 tasks that wait once", LOOP, "pool_waits", 1_000, Some(1.05)),
    ("spawn + join 100,000 tasks that wait once", LOOP, "pool_waits", 100_000, Some(1.05)),
    ("open + 1 round trip + join", LOOP, "pool_round_trip", 1, Some(1.40)),
    ("open + 4 round trips + join", LOOP, "pool_round_trip", 4, Some(1.15)),
    ("spawn + join 64 round trips", LOOP, "pool_round_trip", 64, Some(1.05)),
    ("spawn + join 1,000 round trips", LOOP, "pool_round_trip", 1_000, Some(1.05)),
    ("spawn + join 100,000 round trips", LOOP, "pool_round_trip", 100_000, Some(1.05)),
    ("200,000 tasks that wait once, at most 64 at a time", "`JoinSet` and `Semaphore`", "limit", 200_000, Some(1.05)),
    ("`TaskGroup`, 64 of 200,000 at a time", "`JoinSet::join_next`", "group", 200_000, Some(1.05)),
    ("`map` in order, 64 of 200,000 at a time", "the same by hand", "map", 200_000, Some(1.05)),
    ("`map` as they complete, 64 of 200,000 at a time", "`JoinSet::join_next`", "map_unordered", 200_000, Some(1.05)),
    ("`map` in order, 64 of 200,000 at a time", "`buffered(64)`", "map_buffered", 200_000, Some(0.80)),
    ("echo server, 64 connections with 100 requests each", "`tokio::spawn`", "echo", 64, Some(1.02)),
    ("first failure → all joined, 100,000 parked tasks", "`JoinSet::shutdown`", "first_failure", 100_000, Some(1.10)),
    ("100,000 tasks, spawned from 2 threads", "`Mutex<JoinSet>`", "threads", 100_000, Some(1.00)),
    ("`LatchEvent` flip, 10,000 waiters", "`watch`", "latch", 10_000, Some(1.05)),
    ("`LatchEvent` flip, 10,000 waiters in loops", "`watch`", "latch_loops", 10_000, Some(1.05)),
    ("`race` of 2, the last finishes", LOOP, "race", 2, Some(1.05)),
    ("`race` of 100", LOOP, "race", 100, Some(1.05)),
    ("`race` of 100,000", LOOP, "race", 100_000, Some(1.05)),
    ("`race` of 2, both finish", LOOP, "race_ready", 2, Some(1.05)),
    ("`try_all` of 2", LOOP, "try_all", 2, Some(1.05)),
    ("`try_all` of 100", LOOP, "try_all", 100, Some(1.05)),
    ("`try_all` of 100,000", LOOP, "try_all", 100_000, Some(1.05)),
    ("`try_all` of 2, one fails", LOOP, "try_all_fails", 2, Some(1.05)),
    ("`try_all` of 100,000, one fails", LOOP, "try_all_fails", 100_000, Some(1.05)),
    ("`wait_all` of 2", LOOP, "wait_all", 2, Some(1.05)),
    ("`wait_all` of 100", LOOP, "wait_all", 100, Some(1.05)),
    ("`wait_all` of 100,000", LOOP, "wait_all", 100_000, Some(1.05)),
    ("close 10,000 tasks", "`JoinSet::shutdown`", "close", 10_000, None),
    ("close 10,000 tasks at 4 depths", "`JoinSet::shutdown`", "depths", 10_000, None),
    ("close 100,000 pools with 3 tasks each", "nested `JoinSet`s", "small_pools", 100_000, None),
    ("close 100 × 100 × 100 nested tasks", "nested `JoinSet`s", "tree", 100, None),
];

fn rows() -> Vec<Row> {
    let against_bare = |&(work, against, job, size, target)| {
        let Pair { ours, bare, .. } = find(job).expect("a job");
        Row { work, against, job, ours: (ours, size), theirs: (bare, size), target, multi_thread: false }
    };
    let mut rows: Vec<_> = ROWS.iter().map(against_bare).collect();
    rows.push(scale("a task of 1,000,000", |pool| pool.ours, Some(1.30)));
    rows.push(scale("one of 1,000,000 in a loop around `JoinSet`", |pool| pool.bare, None));
    rows.extend(peer_rows());
    rows
}

/// A task among many by one among fewer.
fn scale(work: &'static str, side: fn(Pair) -> Case, target: Option<f64>) -> Row {
    let [ours, theirs] = [1_000_000, 10_000].map(|size| (side(find("pool").expect("a job")), size));
    Row { work, against: "one of 10,000", job: "scale", ours, theirs, target, multi_thread: false }
}

fn peer_rows() -> impl Iterator<Item = Row> {
    peers().into_iter().map(|(against, theirs, multi_thread)| Row {
        work: "spawn + join 100,000 tasks",
        against,
        job: "peers",
        ours: (find("pool").expect("a job").ours, 100_000),
        theirs: (theirs, 100_000),
        target: against.ends_with("`JoinHandle`s").then_some(0.05),
        multi_thread,
    })
}

fn main() {
    if !env::args().any(|argument| argument == "--bench") {
        println!("a table of ratios is made by: cargo bench -p aiodrive-benches --bench ratios");
        return;
    }
    let rows = rows();
    if let Ok(run) = env::var(RUN_VARIABLE) {
        let (row, flavour) = run.split_once(' ').expect("two numbers");
        let [row, flavour] = [row, flavour].map(|number| number.parse::<usize>().expect("a number"));
        println!("{}", rows[row].run(&runtime(FLAVOURS[flavour].1)));
        return;
    }
    let word = env::args().skip(1).find(|argument| !argument.starts_with("--")).unwrap_or_default();
    println!("| work | against | target | current-thread | 2 workers |\n| --- | --- | --- | --- | --- |");
    for (n, row) in rows.iter().enumerate().filter(|(_, row)| row.work.contains(&word) || row.job.contains(&word)) {
        row.print([0, 1].map(|flavour| row.ratios(n, flavour)));
    }
}

/// Starts this program again, for one run of the row of that number; yields the ratio.
fn run_in_own_process(row: usize, flavour: usize) -> f64 {
    let mut program = Command::new(env::current_exe().expect("a path"));
    program.arg("--bench").env(RUN_VARIABLE, format!("{row} {flavour}")).stderr(Stdio::inherit());
    let ended = program.output().expect("it starts");
    assert!(ended.status.success(), "row {row} failed");
    String::from_utf8_lossy(&ended.stdout).trim().parse().expect("a ratio")
}

impl Row {
    /// Those of several runs on a kind of runtime, sorted; none where it cannot run. `n` is the number of the row.
    fn ratios(&self, n: usize, flavour: usize) -> Option<[f64; RUNS]> {
        let can_run = !self.multi_thread || FLAVOURS[flavour].1 > 0;
        can_run.then(|| {
            let mut ratios = [n; RUNS].map(|n| run_in_own_process(n, flavour));
            ratios.sort_by(f64::total_cmp);
            ratios
        })
    }

    fn print(&self, ratios: [Option<[f64; RUNS]>; 2]) {
        let target = self.target.map_or("–".into(), |target| format!("≤ {target:.2}"));
        let [first, second] = ratios.map(|ratios| ratios.map_or("–".into(), |ratios| self.figure(ratios)));
        println!("| {} | {} | {target} | {first} | {second} |", self.work, self.against);
    }

    /// The median, in bold if what is printed is above the target, and the range.
    fn figure(&self, ratios: [f64; RUNS]) -> String {
        let digits = if ratios[RUNS / 2] < 0.1 { 4 } else { 2 };
        let [least, median, most] = [0, RUNS / 2, RUNS - 1].map(|n| format!("{:.digits$}", ratios[n]));
        let missed = self.target.is_some_and(|target| median.parse::<f64>().expect("a number") > target);
        let bold = if missed { "**" } else { "" };
        format!("{bold}{median}{bold} ({least}–{most})")
    }

    /// The median of the ratios of many turns.
    fn run(&self, runtime: &Runtime) -> f64 {
        let begin = Instant::now();
        let sides = [&self.ours, &self.theirs].map(|(case, size)| (case, *size, rounds(case, *size, runtime)));
        let mut ratios = Vec::new();
        while ratios.is_empty() || begin.elapsed() < if ratios.len() < TURNS { LONG_RUN } else { RUN } {
            // Each is the first in half of the turns.
            let order = if ratios.len() % 2 == 0 { [0, 1] } else { [1, 0] };
            let mut times = [0.0; 2];
            for side in order {
                let (case, size, rounds) = &sides[side];
                times[side] = case.run(runtime, *size, *rounds).as_secs_f64() / (*rounds as f64 * *size as f64);
            }
            ratios.push(times[0] / times[1]);
        }
        ratios.sort_by(f64::total_cmp);
        ratios[ratios.len() / 2]
    }
}

/// How many rounds make a turn. The first is not counted: it finds cold caches. But if it takes very long, so do all.
///
/// The shortest of three runs counts: a slow one that is taken for a long one makes turns of one round, which measure
/// anything but that.
fn rounds(case: &Case, size: usize, runtime: &Runtime) -> u64 {
    let mut rounds = 1;
    if elapsed(|| case.run(runtime, size, 1)) > RUN / 2 {
        return rounds;
    }
    while (0..3).any(|_| elapsed(|| case.run(runtime, size, rounds)) < TURN / 2) {
        rounds *= 2;
    }
    rounds
}

fn elapsed<T>(work: impl FnOnce() -> T) -> Duration {
    let begin = Instant::now();
    work();
    begin.elapsed()
}
