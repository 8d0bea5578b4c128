//! The behaviours that the crate promises, through its public interface only: a file for each topic, named after the
//! public item if it is one.
//!
//! | file | topic |
//! | --- | --- |
//! | `abandon_after` | how long a pool waits for what cannot be aborted |
//! | `abort` | how far an abort reaches, and what it spares |
//! | `cancel_at` | a deadline |
//! | `cancel_on` | a future that cancels its pool |
//! | `cancel_task` | the abort of a tokio task, and its end |
//! | `cancellation_token` | who hears that a pool closes |
//! | `closing` | how a pool closes: each cause, what it does to the body and the tasks, and what `open` and `run` return |
//! | `current` | the innermost pool around the code that asks |
//! | `daemons` | tasks that do not hold their pool open |
//! | `depths` | closing in stages, from the highest depth to the lowest |
//! | `dropped_owner` | a pool whose owner is dropped: it closes by the same steps, and the enclosing pool waits |
//! | `errors` | which failures are in a `PoolError`, in which order, and how they read |
//! | `fairness` | floods of tasks, and tasks that never give way |
//! | `futures` | the futures of the functions: what they have in common |
//! | `grace` | the time between the cancellation and the abort: each cause of a closing, with a grace and without |
//! | `handles` | values, cancelling, ids of single tasks |
//! | `hostile` | code of the user's that panics or calls back, wherever it is called |
//! | `keep_open` | a pool that waits for work |
//! | `latch_event` | waiting in both directions, and no pulse lost |
//! | `limits` | how many run at a time, in which order, and back-pressure |
//! | `map` | at most so many at a time, in order or not |
//! | `misuse` | no runtime, a closed pool, running twice |
//! | `nested_grace` | a grace within a grace: what nested pools hear, and how long they have |
//! | `nesting` | nothing outlives its pool, at any depth, whoever was dropped |
//! | `on_cleanup_failure` | whether a failure that has lost its owner closes the pool, and what it is asked |
//! | `on_failure` | what it decides, what it is asked, and when |
//! | `open` | the body, and what is waited for |
//! | `overrun` | which tasks did not end in the grace |
//! | `panic_payload` | what was panicked with, whose own destructor may panic |
//! | `panics_in_drop` | destructors that panic: each is a failure, and hides none |
//! | `prime` | a first poll at the call |
//! | `properties` | auto traits, sizes, inference |
//! | `queries` | what a handle of a pool tells: `is_closed`, `closing_reason`, `len`, `name`, its debug text |
//! | `race` | the first to finish, and the end of the others |
//! | `reentrancy` | destructors, errors, wakers and policies that call the pool back |
//! | `reports` | causes, many failures, deep ones: how they read, and that they can be dropped |
//! | `run` | tasks that are planned before the pool runs |
//! | `runtimes` | runtimes that have no drivers, are dropped, or shut down in the middle |
//! | `shield` | work that is finished even if nobody waits for it |
//! | `spawn` | `spawn` and `spawn_blocking`: from where, and how tasks run |
//! | `spawn_local` | tasks that stay on their thread |
//! | `start` | two-phase start |
//! | `stops` | what only says that something was stopped, through any wrapping |
//! | `task_group` | `TaskGroup`: results as they complete |
//! | `timeout` | `timeout` and `timeout_at` |
//! | `track_future` | a member of the pool that somebody else polls |
//! | `tree` | who is alive, as data and as a drawing |
//! | `try_all` | every value, or every error |
//! | `wait_all` | how each has ended |
//! | `wakers` | wakers that panic |
//! | `with_exit` | a handler that runs however its body ends |
//! | `support` | the tools: both runtimes, drop flags, polling by hand |

mod abandon_after;
mod abort;
mod cancel_at;
mod cancel_on;
mod cancel_task;
mod cancellation_token;
mod closing;
mod current;
mod daemons;
mod depths;
mod dropped_owner;
mod errors;
mod fairness;
mod futures;
mod grace;
mod handles;
mod hostile;
mod keep_open;
mod latch_event;
mod limits;
mod map;
mod misuse;
mod nested_grace;
mod nesting;
mod on_cleanup_failure;
mod on_failure;
mod open;
mod overrun;
mod panic_payload;
mod panics_in_drop;
mod prime;
mod properties;
mod queries;
mod race;
mod reentrancy;
mod reports;
mod run;
mod runtimes;
mod shield;
mod spawn;
mod spawn_local;
mod start;
mod stops;
mod support;
mod task_group;
mod timeout;
mod track_future;
mod tree;
mod try_all;
mod wait_all;
mod wakers;
mod with_exit;
