//! Which failures `tracing` has been told of, so that no pool tells of what one nested in it has told.

use super::chain::{LONGEST_CHAIN, as_error, as_link};
use super::failure::Failure;
use super::panic_payload::catch;
use super::task_error::TaskError;

impl<E: 'static> TaskError<E> {
    /// Marks it as told, and says whether it was before: itself, or what a nested pool has returned to its task.
    ///
    /// The search ends at the first pool, so that it is linear in all, however deep pools are nested. What it calls is
    /// the user's; if that panics, nobody was told.
    pub(crate) fn tell(&mut self) -> bool {
        std::mem::replace(&mut self.was_told, true)
            || matches!(self.failure(), Failure::Error(error) if catch(|| was_told(error)).unwrap_or(false))
    }
}

/// Whether an error ends with one of a pool that has told of its failures. Of an error type of the user's that is not
/// known.
fn was_told<E: 'static>(error: &E) -> bool {
    let mut next = as_error(error);
    for _ in 0..LONGEST_CHAIN {
        let Some(error) = next else { return false };
        next = match as_link(error) {
            Some(link) if link.was_told() => return true,
            Some(link) => link.inner(),
            None => error.source(),
        };
    }
    false
}
