//! The tables of the README and of the chapter `speed`: how long the work takes that users have, by how long what they
//! write today takes.
//!
//! `cargo bench --bench ratios` measures it all, in some eight minutes; with a word after `--`, the rows that have it in
//! their first column or in the name of their job.
//!
//! The two sides take turns, in one process; what is printed is the median of the ratios of such turns. So whatever
//! else the machine does meets both. Each row has a process of its own: after a million tasks, an allocator is not what
//! it was.

mod support;

use std::env;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::{Case, FLAVOURS, Pair, find, peers, runtime};
use tokio::runtime::Runtime;

/// About how long one side works in a turn, and how long a row may take on a runtime.
const TURN: Duration = Duration::from_millis(10);
const ROW: Duration = Duration::from_millis(1_500);
/// How many turns there are at least, however long they take.
const TURNS: usize = 7;

/// With a row's number, the program measures that row and no other.
const ROW_VARIABLE: &str = "RATIOS_ROW";

/// A row of the table.
struct Row {
    work: &'static str,
    against: &'static str,
    job: &'static str,
    ours: (Case, usize),
    theirs: (Case, usize),
    /// On the two kinds of runtime, if there is one.
    targets: Option<[f64; 2]>,
}

const LOOP: &str = "loop around `JoinSet`";

fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut row = |work, against, job, size, target: Option<[f64; 2]>| {
        let pair = find(job).expect("a job");
        rows.push(Row { work, against, job, ours: (pair.ours, size), theirs: (pair.bare, size), targets: target });
    };
    row("spawn + join 64 tasks", LOOP, "pool", 64, Some([1.0, 0.85]));
    row("spawn + join 1,000 tasks", LOOP, "pool", 1_000, Some([1.0, 0.85]));
    row("spawn + join 10,000 tasks", LOOP, "pool", 10_000, Some([1.0, 0.85]));
    row("spawn + join 100,000 tasks", LOOP, "pool", 100_000, Some([1.0, 0.85]));
    row("spawn + join 1,000,000 tasks", LOOP, "pool", 1_000_000, Some([1.0, 0.85]));
    row("open + 4 tasks + join", LOOP, "pool", 4, Some([1.1; 2]));
    row("open + 1 task + join", LOOP, "pool", 1, Some([1.2; 2]));
    row(
        "first failure → all joined, 100,000 parked tasks",
        "`JoinSet::shutdown`",
        "first_failure",
        100_000,
        Some([1.0; 2]),
    );
    row("100,000 tasks, spawned from 2 threads", "`Mutex<JoinSet>`", "threads", 100_000, Some([1.0; 2]));
    row("`LatchEvent` flip, 10,000 waiters", "`watch`", "latch", 10_000, Some([1.05; 2]));
    row("`LatchEvent` flip, 10,000 waiters in loops", "`watch`", "latch_loops", 10_000, Some([1.05; 2]));
    row("`race` of 2, the last finishes", LOOP, "race", 2, Some([1.05; 2]));
    row("`race` of 100", LOOP, "race", 100, Some([1.05; 2]));
    row("`race` of 100,000", LOOP, "race", 100_000, Some([1.05; 2]));
    row("`race` of 2, both finish", LOOP, "race_ready", 2, Some([1.05; 2]));
    row("`try_all` of 2", LOOP, "try_all", 2, Some([1.05; 2]));
    row("`try_all` of 100", LOOP, "try_all", 100, Some([1.05; 2]));
    row("`try_all` of 100,000", LOOP, "try_all", 100_000, Some([1.05; 2]));
    row("`try_all` of 2, one fails", LOOP, "try_all_fails", 2, Some([1.05; 2]));
    row("`try_all` of 100,000, one fails", LOOP, "try_all_fails", 100_000, Some([1.05; 2]));
    row("`wait_all` of 2", LOOP, "wait_all", 2, Some([1.05; 2]));
    row("`wait_all` of 100", LOOP, "wait_all", 100, Some([1.05; 2]));
    row("`wait_all` of 100,000", LOOP, "wait_all", 100_000, Some([1.05; 2]));
    row("close 10,000 tasks", "`JoinSet::shutdown`", "close", 10_000, None);
    row("close 10,000 tasks at 4 depths", "`JoinSet::shutdown`", "depths", 10_000, None);
    row("close 100,000 pools with 3 tasks each", "nested `JoinSet`s", "small_pools", 100_000, None);
    row("close 100 × 100 × 100 nested tasks", "nested `JoinSet`s", "tree", 100, None);
    rows.push(scale("a task of 1,000,000", |pool| pool.ours, Some([1.3; 2])));
    rows.push(scale("one of 1,000,000 in a loop around `JoinSet`", |pool| pool.bare, None));
    rows.extend(peer_rows());
    rows
}

/// A task among many by one among fewer.
fn scale(work: &'static str, side: fn(Pair) -> Case, targets: Option<[f64; 2]>) -> Row {
    let [ours, theirs] = [1_000_000, 10_000].map(|size| (side(find("pool").expect("a job")), size));
    Row { work, against: "one of 10,000", job: "scale", ours, theirs, targets }
}

fn peer_rows() -> impl Iterator<Item = Row> {
    peers().into_iter().map(|(against, theirs, _)| Row {
        work: "spawn + join 100,000 tasks",
        against,
        job: "peers",
        ours: (find("pool").expect("a job").ours, 100_000),
        theirs: (theirs, 100_000),
        targets: against.ends_with("`JoinHandle`s").then_some([0.05; 2]),
    })
}

fn main() {
    if !env::args().any(|argument| argument == "--bench") {
        println!("a table of ratios is made by: cargo bench --bench ratios");
        return;
    }
    let rows = rows();
    if let Ok(row) = env::var(ROW_VARIABLE) {
        rows[row.parse::<usize>().expect("a number")].print();
        return;
    }
    let word = env::args().skip(1).find(|argument| !argument.starts_with("--")).unwrap_or_default();
    println!("| work | against | target | current-thread | 2 workers |\n| --- | --- | --- | --- | --- |");
    for (n, _) in rows.iter().enumerate().filter(|(_, row)| row.work.contains(&word) || row.job.contains(&word)) {
        print_in_own_process(n);
    }
}

/// Starts this program again, to measure the row of that number.
fn print_in_own_process(row: usize) {
    let program = env::current_exe().expect("a path");
    let ended = Command::new(program).arg("--bench").env(ROW_VARIABLE, row.to_string()).stdin(Stdio::null()).status();
    assert!(ended.expect("it starts").success(), "row {row} failed");
}

impl Row {
    fn print(&self) {
        let [first, second] = [0, 1].map(|flavour| self.measure(flavour, &runtime(FLAVOURS[flavour].1)));
        println!("| {} | {} | {} | {first} | {second} |", self.work, self.against, self.target());
    }

    fn target(&self) -> String {
        match self.targets {
            None => "–".into(),
            Some([first, second]) if first == second => format!("≤ {first:.2}"),
            Some([first, second]) => format!("≤ {first:.2}, {second:.2}"),
        }
    }

    /// The ratio, in bold if it is above the target.
    fn measure(&self, flavour: usize, runtime: &Runtime) -> String {
        if flavour == 0 && peers().iter().any(|(name, _, multi_thread)| *multi_thread && *name == self.against) {
            return "–".into();
        }
        let ratio = self.ratio(runtime);
        let digits = if ratio < 0.1 { 4 } else { 2 };
        match self.targets {
            Some(targets) if ratio > targets[flavour] => format!("**{ratio:.digits$}**"),
            _ => format!("{ratio:.digits$}"),
        }
    }

    fn ratio(&self, runtime: &Runtime) -> f64 {
        let begin = Instant::now();
        let sides = [&self.ours, &self.theirs].map(|(case, size)| (case, *size, rounds(case, *size, runtime)));
        let mut ratios = Vec::new();
        while ratios.len() < TURNS || begin.elapsed() < ROW && ratios.len() < 101 {
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

/// How many rounds make a turn. The first is not counted: it finds cold caches.
///
/// The shortest of three runs counts: a slow one that is taken for a long one makes turns of one round, which measure
/// anything but that.
fn rounds(case: &Case, size: usize, runtime: &Runtime) -> u64 {
    let mut rounds = 1;
    case.run(runtime, size, 1);
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
