//! How many instructions a job takes, ours and that of bare tokio. See [`USAGE`].

use std::env;
use std::process::{Command, ExitCode};

use aiodrive_benches::{Case, FLAVOURS, Pair, find, pairs, runtime};

const USAGE: &str = "\
cargo bench -p aiodrive-benches --bench instructions -- count [<job> <size>]
    counts the instructions of a job, or of those in the chapter `speed`, under valgrind
<this program> <job> ours|bare <size> <rounds> <workers>
    does a job so many times, for valgrind --tool=callgrind; without workers on the current-thread runtime
cargo bench -p aiodrive-benches --bench instructions
    does each job once, and checks it";

/// What is counted without being named.
const ROWS: [(&str, usize); 25] = [
    ("pool", 1),
    ("pool", 4),
    ("pool", 64),
    ("pool", 1_000),
    ("pool_waits", 1),
    ("pool_waits", 4),
    ("pool_waits", 64),
    ("pool_waits", 1_000),
    ("pool_round_trip", 1),
    ("pool_round_trip", 4),
    ("pool_round_trip", 64),
    ("pool_round_trip", 1_000),
    ("race", 2),
    ("race", 100),
    ("race_ready", 2),
    ("try_all", 2),
    ("try_all", 100),
    ("try_all_fails", 2),
    ("wait_all", 2),
    ("wait_all", 100),
    ("group", 1_000),
    ("map", 1_000),
    ("map_unordered", 1_000),
    ("latch", 1_000),
    ("latch_loops", 1_000),
];

fn main() -> ExitCode {
    // What cargo adds says nothing here.
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["count"] => ROWS.iter().try_for_each(|(job, size)| count(job, *size)),
        ["count", job, size] => size.parse().ok().and_then(|size| count(job, size)),
        [job, side, size, rounds, workers] => run(job, side, size, rounds, workers),
        [job, side, size, rounds] => run(job, side, size, rounds, "0"),
        [] => check(),
        // A filter or an option that is meant for criterion.
        _ if env::args().any(|argument| argument == "--bench") => Some(()),
        _ => None,
    };
    match done {
        Some(()) => ExitCode::SUCCESS,
        None => {
            let jobs: Vec<_> = pairs().iter().map(|pair| pair.name).collect();
            eprintln!("{USAGE}\nThe jobs: {}", jobs.join(", "));
            ExitCode::FAILURE
        }
    }
}

/// Does a job so many times.
fn run(job: &str, side: &str, size: &str, rounds: &str, workers: &str) -> Option<()> {
    let case = side_of(find(job)?, side)?;
    case.run(&runtime(workers.parse().ok()?), size.parse().ok()?, rounds.parse().ok()?);
    Some(())
}

fn side_of(pair: Pair, side: &str) -> Option<Case> {
    match side {
        "ours" => Some(pair.ours),
        "bare" => Some(pair.bare),
        _ => None,
    }
}

/// Does each job once, of the smallest size, on both runtimes.
fn check() -> Option<()> {
    for (_, workers) in FLAVOURS {
        let runtime = runtime(workers);
        for Pair { ours, bare, .. } in pairs() {
            // A size that all have.
            ours.run(&runtime, 10, 1);
            bare.run(&runtime, 10, 1);
        }
    }
    Some(())
}

/// Prints the instructions of one round of a job, of both sides, and their ratio.
fn count(job: &str, size: usize) -> Option<()> {
    find(job)?;
    let [ours, bare] = ["ours", "bare"].map(|side| instructions(job, side, size));
    println!("{job:>15} of {size:<6} {ours:>12.0} {bare:>12.0} {:.3}", ours / bare);
    Some(())
}

/// The difference between many rounds and few, by round: what it takes to start and to stop is in both.
fn instructions(job: &str, side: &str, size: usize) -> f64 {
    let few = (20_000 / size).clamp(2, 500);
    let [less, more] = [few, 3 * few].map(|rounds| collected(job, side, size, rounds));
    (more - less) as f64 / (2 * few) as f64
}

/// What valgrind has counted of this program, started anew.
fn collected(job: &str, side: &str, size: usize, rounds: usize) -> u64 {
    let valgrind = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env::current_exe().expect("this program has a path"))
        .args([job, side, &size.to_string(), &rounds.to_string()])
        .output()
        .expect("valgrind is installed");
    let report = String::from_utf8_lossy(&valgrind.stderr);
    let count = report.lines().find_map(|line| line.split_once("Collected :")).map(|(_, count)| count.trim().parse());
    count.and_then(Result::ok).unwrap_or_else(|| panic!("valgrind has counted nothing: {report}"))
}
