//! Drops errors that hold errors, as deep as they may be nested.
//!
//! The failure of a task may hold the failures of a nested pool, and so on. If each were dropped in the destructor of
//! the one around it, the stack would end some ten thousand levels down. So a failure that is dropped inside another is
//! put into a queue of the thread, and dropped after it.

use std::any::Any;
use std::cell::Cell;
use std::collections::VecDeque;
use std::mem::ManuallyDrop;
use std::thread;

use super::panic_payload::catch;

/// What waits to be dropped.
type Queue = VecDeque<Box<dyn Any>>;

thread_local! {
    /// `Some` while a failure is being dropped. Without a destructor of its own, so that it is still there for what a
    /// thread drops as it ends.
    static QUEUE: Cell<Option<ManuallyDrop<Queue>>> = const { Cell::new(None) };
}

/// Drops a value now, and then all that was put into the queue meanwhile; or puts it there, if that is going on
/// already.
///
/// A destructor of the user's that panics keeps none of the others from being dropped. The first panic is resumed in
/// the code that drops the value, unless that unwinds already.
pub(super) fn dispose<T: 'static>(value: T) {
    // If a platform has taken the queue away before its thread ended, the value is dropped right here.
    let Ok(Some(value)) = QUEUE.try_with(|queue| enqueue(queue, value)) else { return };
    let mut panic = catch(|| drop(value)).err();
    while let Some(next) = QUEUE.with(dequeue) {
        let panicked = catch(|| drop(next)).err();
        panic = panic.or(panicked);
    }
    match panic {
        Some(payload) if !thread::panicking() => payload.resume(),
        _ => {}
    }
}

/// Gives the value back if nobody would drop it, and begins a queue for what is dropped in it.
fn enqueue<T: 'static>(queue: &Cell<Option<ManuallyDrop<Queue>>>, value: T) -> Option<T> {
    let Some(mut waiting) = queue.take() else {
        queue.set(Some(ManuallyDrop::default()));
        return Some(value);
    };
    waiting.push_back(Box::new(value));
    queue.set(Some(waiting));
    None
}

/// The next value. With none, the queue ends.
fn dequeue(queue: &Cell<Option<ManuallyDrop<Queue>>>) -> Option<Box<dyn Any>> {
    let mut waiting = ManuallyDrop::into_inner(queue.take()?);
    let next = waiting.pop_front()?;
    queue.set(Some(ManuallyDrop::new(waiting)));
    Some(next)
}
