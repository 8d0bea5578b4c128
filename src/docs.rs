//! Chapters: what does not fit into the documentation of one item.
//!
//! - [How a pool closes](how_a_pool_closes): what begins it, the steps, and what the caller gets.
//! - [Errors and panics](errors_and_panics): where each failure goes, and how to get at it.
//! - [Cancellation](cancellation): the signal, the grace and the abort, and what to do about each.
//! - [Recipes](recipes): programs to copy, from an accept loop to a heartbeat.
//! - [Speed](speed): what all this costs beside bare tokio, and how to measure it.

#[doc = include_str!("docs/how_a_pool_closes.md")]
pub mod how_a_pool_closes {}

#[doc = include_str!("docs/errors_and_panics.md")]
pub mod errors_and_panics {}

#[doc = include_str!("docs/cancellation.md")]
pub mod cancellation {}

#[doc = include_str!("docs/recipes.md")]
pub mod recipes {}

#[doc = include_str!("docs/speed.md")]
pub mod speed {}
