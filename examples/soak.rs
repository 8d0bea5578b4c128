//! A server-like pool at the rate that the machine holds, in which one task of a hundred fails, one panics and one is
//! cancelled; nothing may be lost. Give it the seconds to run: `cargo run --release --example soak -- 600`.

use std::future::pending;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use aiodrive::{Failure, OnFailure, Pool, PoolError, TaskError, TaskStopped};
use tokio::task::yield_now;

/// How many requests have been sent, and how many have come to which end.
#[derive(Debug, Default)]
struct Tally {
    sent: AtomicU64,
    done: AtomicU64,
    errors: AtomicU64,
    panics: AtomicU64,
    cancelled: AtomicU64,
}

/// Serves a request in a pool of its own, with a task below.
async fn request(number: u64, tally: Arc<Tally>) -> Result<(), PoolError> {
    Pool::open(async move |pool: Pool| {
        pool.spawn(yield_now());
        match number % 100 {
            0 => Err("refused".into()),
            1 => std::panic::resume_unwind(Box::new("broken")), // without a line on the terminal
            2 => pending().await,
            _ => {
                tally.done.fetch_add(1, Relaxed);
                Ok(())
            }
        }
    })
    .await
}

/// Takes note of a failure that the pool need not keep.
fn note(tally: &Tally, failed: &TaskError) -> OnFailure {
    match failed.failure() {
        Failure::Error(_) => tally.errors.fetch_add(1, Relaxed),
        Failure::Panic(_) => tally.panics.fetch_add(1, Relaxed),
        _ => return OnFailure::Cancel,
    };
    OnFailure::Discard
}

/// The peak memory of the process in MiB, where the system tells it.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? / 1024)
}

#[tokio::main]
async fn main() -> ExitCode {
    let seconds = std::env::args().nth(1).map_or(10, |text| text.parse().expect("the seconds to run"));
    let (tally, begun) = (Arc::new(Tally::default()), Instant::now());
    let noted = Arc::clone(&tally);
    let server = Pool::builder().name("server").limit(1_000).on_failure(move |failed| note(&noted, failed));
    let ended = server
        .open(async |pool: Pool| {
            while begun.elapsed() < Duration::from_secs(seconds) {
                pool.ready().await;
                let (number, noted) = (tally.sent.fetch_add(1, Relaxed), Arc::clone(&tally));
                let task = pool.spawn_with_handle(async move { Ok(request(number, noted).await?) });
                if number % 100 == 2 {
                    let tally = Arc::clone(&tally);
                    pool.build_task().daemon().spawn(async move {
                        task.cancel();
                        let stopped = task.await == Err(TaskStopped::Cancelled);
                        tally.cancelled.fetch_add(stopped.into(), Relaxed);
                    });
                }
            }
            // The daemons that count the cancelled ones end with the pool.
            let awaited = tally.sent.load(Relaxed).saturating_sub(2).div_ceil(100);
            while !pool.is_empty() && tally.cancelled.load(Relaxed) < awaited {
                yield_now().await;
            }
            Ok(())
        })
        .await;
    let sent = tally.sent.load(Relaxed);
    let of_a_hundred = |remainder: u64| sent.saturating_sub(remainder).div_ceil(100);
    let expected = [sent - (0..3).map(of_a_hundred).sum::<u64>(), of_a_hundred(0), of_a_hundred(1), of_a_hundred(2)];
    let seen = [&tally.done, &tally.errors, &tally.panics, &tally.cancelled].map(|count| count.load(Relaxed));
    println!("{sent} requests in {seconds} s, {} a second", sent / seconds.max(1));
    println!("done, failed, panicked, cancelled: {seen:?}, expected {expected:?}");
    println!("peak memory: {} MiB", peak_memory().map_or("unknown".into(), |memory| memory.to_string()));
    ExitCode::from(u8::from(ended.is_err() || seen != expected))
}
