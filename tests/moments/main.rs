//! Every moment of small programs: each is dropped, aborted and cancelled at each of its polls.
//!
//! A program is a stack of calls of the crate, up to four deep, with work that ends in some way at the bottom and beside
//! each call. It runs in an enclosing pool, which looks on. However the program ends, and whenever:
//!
//! | promise | where it is checked |
//! | --- | --- |
//! | nothing is alive when the enclosing pool has returned | `moment::Moment::look_at` |
//! | nothing in a call is alive when that has returned | `play::Here::play` |
//! | each failure that came up arrives exactly once: in what the program returns, in a panic of whoever polls or drops it, or in the error of the enclosing pool | `world::World::verdict` |
//! | each error is dropped | `moment::Moment::look_at` |
//! | the enclosing pool returns | `moment::Moment::look_at` |
//!
//! `program` makes a program up from its number, `play` does what it says, `world` counts, `moment` has the ways in which
//! a program ends.
//!
//! `MOMENTS_PROGRAMS` says how many programs there are besides the pairs, which have each call in each call; on two
//! threads there are an eighth of them. A program that breaks a promise is printed with its number: `MOMENTS_PROGRAM`
//! plays that one only.

mod moment;
mod play;
mod program;
mod world;

use std::ops::Range;

use self::moment::{Ending, Moments, Runtimes};
use self::program::Program;
use self::world::Clock;

/// Programs that have broken a promise once.
const FOUND: &[u64] = &[];

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|value| value.parse().expect("a number"))
}

/// The numbers of programs: of the one that was asked for, or of those that broke a promise and of some others.
fn numbers(others: Range<u64>) -> Vec<u64> {
    match number("MOMENTS_PROGRAM") {
        Some(number) => vec![number],
        None => FOUND.iter().copied().chain(others).collect(),
    }
}

/// So many that are no pairs.
fn some(part: u64) -> Range<u64> {
    let programs = number("MOMENTS_PROGRAMS").unwrap_or(400) / part;
    Program::PAIRS.end..Program::PAIRS.end + programs
}

/// Plays programs to the end in each way and at each moment, and fails at the first that breaks a promise.
fn explore(clock: Clock, numbers: Vec<u64>) {
    let (runtimes, mut played) = (Runtimes::new(clock), 0);
    for number in numbers {
        let program = Program::of(number);
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
    explore(Clock::Paused, numbers(Program::PAIRS));
}

#[test]
fn of_programs_on_one_thread_with_the_paused_clock() {
    explore(Clock::Paused, numbers(some(1)));
}

#[test]
fn of_programs_on_two_threads() {
    explore(Clock::Turns, numbers(some(8)));
}
