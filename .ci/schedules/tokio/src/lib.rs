//! Stands for tokio: that of shuttle, with what it lacks.
//!
//! Each module says what it puts in the place of shuttle's, and which of tokio's promises it keeps.

pub use shuttle_tokio::*;

pub mod runtime;
pub mod sync;
pub mod task;
pub mod time;

pub use task::spawn;

use shuttle::sync::atomic::{AtomicBool, Ordering};

/// A point at which another task may go on: shuttle has one in each step of an atomic.
fn point() {
    AtomicBool::new(false).load(Ordering::SeqCst);
}
