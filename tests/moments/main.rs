//! Every moment of small programs: each is dropped, aborted and cancelled at each of its polls.
//!
//! A program is a stack of calls of the crate, up to four deep, with work that ends in some way at the bottom and beside
//! each call. It runs in an enclosing pool, which looks on. However the program ends, and whenever:
//!
//! | promise | where it is checked |
//! | --- | --- |
//! | nothing is alive when the enclosing pool has returned | `moment::look_at` |
//! | each failure that came up arrives exactly once: in what the program returns, in a panic of whoever polls or drops it, or in the error of the enclosing pool | `world::World::verdict` |
//! | each error is dropped | `moment::look_at` |
//! | the enclosing pool returns | `moment::Watchdog`, and the paused clock |
//!
//! `program` makes a program up from its number, `play` does what it says, `world` counts, `moment` has the ways in which
//! a program ends.
//!
//! `MOMENTS_PROGRAMS` says how many programs there are besides those that are two deep; an eighth of them on two threads.
//! A program that breaks a promise is printed with its number: `MOMENTS_PROGRAM` plays that one only.

mod moment;
mod play;
mod program;
mod world;

use self::moment::{Ending, Moments, Runtimes};
use self::program::Program;
use self::world::Clock;

/// Programs that have broken a promise once.
const FOUND: &[u64] = &[];

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|value| value.parse().expect("a number"))
}

/// The numbers of programs: of the one that was asked for, or of those that broke a promise and of some others.
fn numbers(programs: u64) -> Vec<u64> {
    match number("MOMENTS_PROGRAM") {
        Some(number) => vec![number],
        None => FOUND.iter().copied().chain(0..programs).collect(),
    }
}

fn programs() -> u64 {
    number("MOMENTS_PROGRAMS").unwrap_or(400)
}

/// Plays programs to the end in each way and at each moment, and fails at the first that breaks a promise.
fn explore(clock: Clock, programs: impl IntoIterator<Item = (u64, Program)>) {
    let (runtimes, mut played) = (Runtimes::new(clock), 0);
    for (number, program) in programs {
        for ending in Ending::ALL {
            let mut moments = Moments::new(&runtimes, number, &program, ending);
            while let Some(broken) = moments.next() {
                played += 1;
                assert!(broken.is_empty(), "{moments}\n{}", broken.join("\n"));
            }
        }
    }
    println!("{played} moments");
}

#[test]
fn of_each_call_in_each_call() {
    explore(Clock::Paused, Program::all_of_two().map(|program| (u64::MAX, program)));
}

#[test]
fn of_programs_on_one_thread_with_the_paused_clock() {
    explore(Clock::Paused, numbers(programs()).into_iter().map(|number| (number, Program::of(number))));
}

#[test]
fn of_programs_on_two_threads() {
    explore(Clock::Turns, numbers(programs() / 8).into_iter().map(|number| (number, Program::of(number))));
}
