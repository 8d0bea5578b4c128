//! The rules by which a pool closes, each in every cell of one matrix: both runtimes × what is running in the pool.
//!
//! | file | rules |
//! | --- | --- |
//! | `causes` | each cause for which a pool closes, and what `open` and `run` return |
//! | `time` | whose time counts: an own grace, that of the task around, none; depths, daemons, the queue, an overrun |
//! | `abort` | how far an abort reaches, whoever aborts; what it spares |
//! | `tasks` | how one task differs: no grace, no limit, essential, its own policy, tracked |
//! | `watchers` | `cancel_on`, `abort_on`, `cancel_at` |
//! | `waiting` | what holds a pool open, `idle`, spawns while it closes, a runtime that is gone |
//! | `cell` | the cells, and the work that runs in them |
//!
//! A rule is an `async fn`, with the rule in its comment. The list at the end of each file makes a test of it for each
//! cell, so that the name of a failed test says which cell it is:
//! `abort::an_outer_abort_cuts_a_grace_short::nested::current_thread`.
//!
//! The kinds of work are a plain task, a task with a nested pool, a task in a `try_all`, and a nested pool whose future
//! was dropped halfway, so that its closing was handed on to the runtime.

#[macro_use]
mod cell;

mod abort;
mod causes;
#[path = "../it/support/mod.rs"]
#[allow(unused, reason = "it is the library of the tests in `it`")]
mod support;
mod tasks;
mod time;
mod waiting;
mod watchers;
