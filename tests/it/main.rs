//! The behaviours that the crate promises, through its public interface only.
//!
//! | file | topic |
//! | --- | --- |
//! | `basics` | what runs, in which order, and what `open` and `run` return |
//! | `closing` | each row of "how a pool closes": error, panic, body, cancel, drop |
//! | `corners` | what few programs come to: text that nobody takes, functions in the tree, a runtime that is gone |
//! | `daemons` | tasks that do not hold their pool open |
//! | `depths` | closing in stages, from the highest depth to the lowest |
//! | `errors` | which failures are in a `PoolError`, in which order, and how they read |
//! | `faults` | destructors, payloads, wakers and runtimes that misbehave |
//! | `functions` | `race`, `try_all`, `wait_all`, `timeout`, `prime`, `cancel_task` |
//! | `grace` | the request to stop, the time after it, who hears it, and a closing that is handed on |
//! | `guards` | `shield` and `with_exit`: what must be finished |
//! | `handles` | values, cancelling, ids of single tasks |
//! | `hostile` | code of the user's that panics or calls back, wherever it is called |
//! | `latch_event` | waiting in both directions, and no pulse lost |
//! | `limits` | how many run at a time, in which order, and back-pressure |
//! | `map` | at most so many at a time, in order or not |
//! | `misuse` | no runtime, a closed pool, running twice |
//! | `nesting` | nothing outlives its pool, at any depth, whoever was dropped |
//! | `policies` | `on_failure`, `keep_open`, `cancel_on`, `spawn_local`, `abandon_after` |
//! | `properties` | auto traits, sizes, inference |
//! | `reports` | causes, many failures, deep ones: how they read, and that they can be dropped |
//! | `results` | random programs that use `TaskGroup` or `map`, against a model |
//! | `start` | two-phase start |
//! | `stopping` | whose time counts, how far an abort reaches, watchers, tracked futures, how one task differs |
//! | `stops` | what only says that something was stopped, through any wrapping |
//! | `task_group` | `TaskGroup`: results as they complete |
//! | `tree` | who is alive, as data and as a drawing; why a pool closes |
//! | `support` | the tools: both runtimes, drop flags, polling by hand |

mod basics;
mod closing;
mod corners;
mod daemons;
mod depths;
mod errors;
mod faults;
mod functions;
mod grace;
mod guards;
mod handles;
mod hostile;
mod latch_event;
mod limits;
mod map;
mod misuse;
mod nesting;
mod policies;
mod properties;
mod reports;
mod results;
mod start;
mod stopping;
mod stops;
mod support;
mod task_group;
mod tree;
