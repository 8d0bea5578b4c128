//! Stands for tokio-util: that of shuttle, with the `PollSemaphore` that it lacks.

pub mod sync;
