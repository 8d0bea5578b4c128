#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(missing_docs, clippy::missing_errors_doc, clippy::missing_panics_doc, clippy::unwrap_used)]

mod cancel_task;
mod cancellation_token;
pub mod docs;
mod error;
mod group;
mod latch_event;
mod map;
mod pool;
mod prime;
mod race;
mod scope;
mod shield;
#[cfg(feature = "signal")]
mod shutdown_signal;
mod task_group;
mod timeout;
mod try_all;
mod wait_all;
mod with_exit;

pub use pool::{OnFailure, Pool, PoolBuilder, Started, TaskBuilder, TaskHandle, TaskOutput};

pub use error::{CancelReason, ClosingReason, ParentReason};
pub use pool::{NodeKind, PoolTree, TreeNode};
pub use scope::NodeState;

pub use cancellation_token::{cancellation_token, try_cancellation_token};
#[cfg(feature = "signal")]
pub use shutdown_signal::{ShutdownSignals, shutdown_signal};
pub use tokio_util::sync::CancellationToken;

pub use latch_event::LatchEvent;

#[cfg(feature = "stream")]
pub use map::map_stream;
pub use map::{Map, map};
pub use task_group::{GroupTaskBuilder, TaskGroup};

pub use cancel_task::cancel_task;
pub use prime::{Primed, prime};
pub use race::{Race, race};
pub use shield::{Shield, shield};
pub use timeout::{timeout, timeout_at};
pub use try_all::{TryAll, try_all};
pub use wait_all::{WaitAll, wait_all};
pub use with_exit::{Exit, with_exit};

pub use error::{BoxError, ExitError, Failure, PanicPayload, PoolError, SpawnError, TaskError, TaskInfo, TaskStopped};

/// Futures by their names, for a field or a return type, and the sources of a [`map()`].
///
/// Those of [`race()`], [`try_all()`] and [`wait_all()`] have spawned their branches when they are made, wait for them
/// when they are polled, and abort them when they are dropped.
pub mod futures {
    #[cfg(feature = "stream")]
    pub use crate::map::FromStream;
    pub use crate::map::Source;
    pub use crate::pool::StartFuture;
    pub use crate::race::RaceFuture;
    pub use crate::try_all::TryAllFuture;
    pub use crate::wait_all::WaitAllFuture;
}
