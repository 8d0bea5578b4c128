//! How the errors of this crate hang together with those of its users, whatever the types.
//!
//! A [`PoolError`] holds errors that may hold a `PoolError` again, as deep as somebody nests pools. So that nothing
//! recurses over that, each error of this crate says only what its own part is, and which error it goes on with.
//!
//! By the same links it is found out, with the feature `tracing`, whether a nested pool has told of a failure already.

use std::any::Any;
use std::error::Error;
use std::fmt::{Debug, Display};

use super::pool_error::{PoolError, Report};
#[cfg(feature = "tracing")]
use super::task_error::catch;
use super::task_error::{Failure, TaskError};
use super::{BoxError, ExitError};

/// How many links of a chain are followed. One that leads back to where it was has no end, and one that is deeper by
/// right is known to nobody.
pub(super) const LONGEST_CHAIN: usize = 1 << 20;

/// An error of this crate.
pub(super) trait Link {
    /// What its text begins with, which may be nothing, and what that goes on with.
    fn text(&self) -> (String, Vec<List<'_>>);

    /// The error in it whose text is the end of its own text, if there is one.
    fn inner(&self) -> Option<&(dyn Error + 'static)>;

    /// The error in it which tells whether it says only that something was stopped.
    fn stop(&self) -> Option<&(dyn Error + 'static)>;

    /// Whether a pool has told `tracing` of everything in it.
    #[cfg(feature = "tracing")]
    fn was_told(&self) -> bool;
}

/// What has a text.
pub(super) enum Item<'a> {
    /// An error of this crate.
    Link(&'a dyn Link),
    /// An error that can be asked for its cause.
    Error(&'a (dyn Error + 'static)),
    /// Something of which only the text is known.
    Text(&'a dyn Display),
}

/// Failures of one kind.
pub(super) struct List<'a> {
    /// What stands in front of them. Of a single one it may be nothing.
    pub(super) title: String,
    pub(super) items: Vec<Item<'a>>,
}

impl<'a> Item<'a> {
    /// An error of any type.
    fn of<E: Display + 'static>(error: &'a E) -> Self {
        as_error(error).map_or(Self::Text(error), Self::Error)
    }
}

impl<'a> List<'a> {
    /// With their number before them, if there are several.
    fn new(items: impl Iterator<Item = Item<'a>>, title: impl FnOnce(usize) -> String) -> Self {
        let items: Vec<_> = items.collect();
        Self { title: if items.len() > 1 { title(items.len()) } else { String::new() }, items }
    }

    fn only(title: &str, item: Item<'a>) -> Self {
        Self { title: title.into(), items: vec![item] }
    }
}

/// An error that can be asked for its cause, if its type is known to be one.
pub(super) fn as_error<E: 'static>(error: &E) -> Option<&(dyn Error + 'static)> {
    let any = error as &dyn Any;
    if let Some(error) = any.downcast_ref::<BoxError>() {
        return Some(&**error);
    }
    #[cfg(feature = "anyhow")]
    if let Some(error) = any.downcast_ref::<anyhow::Error>() {
        return Some(&**error);
    }
    #[cfg(feature = "anyhow")]
    if let Some(error) = of_this_crate::<anyhow::Error>(any) {
        return Some(error);
    }
    of_this_crate::<BoxError>(any)
}

/// An error of this crate around an `E`, as the error type of a pool.
fn of_this_crate<E: Debug + Display + 'static>(any: &dyn Any) -> Option<&(dyn Error + 'static)> {
    let pool = any.downcast_ref::<PoolError<E>>().map(|error| error as _);
    let task = || any.downcast_ref::<TaskError<E>>().map(|error| error as _);
    pool.or_else(task).or_else(|| any.downcast_ref::<ExitError<E>>().map(|error| error as _))
}

/// An error as one of this crate, if it is one around a type that can be asked.
pub(super) fn as_link<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a dyn Link> {
    #[cfg(feature = "anyhow")]
    if let Some(link) = link_around::<anyhow::Error>(error) {
        return Some(link);
    }
    link_around::<BoxError>(error)
}

/// An error of this crate around an `E`.
fn link_around<'a, E: Debug + Display + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a dyn Link> {
    let pool = error.downcast_ref::<PoolError<E>>().map(|error| error as _);
    let task = || error.downcast_ref::<TaskError<E>>().map(|error| error as _);
    pool.or_else(task).or_else(|| error.downcast_ref::<ExitError<E>>().map(|error| error as _))
}

impl<E: Display + 'static> Link for PoolError<E> {
    fn text(&self) -> (String, Vec<List<'_>>) {
        let Report { pool, failures, cleanup_failures, stuck, .. } = self.report();
        let mut head = pool.as_ref().map(|name| format!("pool \"{name}\"")).unwrap_or_default();
        if self.is_cancelled() {
            let reason = self.cancel_reason().map(|reason| format!(": {reason}")).unwrap_or_default();
            head += if head.is_empty() { "" } else { ": " };
            return (head + "pool cancelled" + &reason, Vec::new());
        }
        let failures = failures.iter().map(|failed| Item::Link(failed));
        let cleanup_failures = cleanup_failures.iter().map(|failed| Item::Link(failed));
        let mut lists = vec![
            List::new(failures, |n| format!("{n} tasks failed")),
            List::new(cleanup_failures, |n| format!("{n} failed while cleaning up")),
            match &stuck[..] {
                [only] => List::only("gave up on ", Item::Text(only)),
                _ => List::new(stuck.iter().map(|task| Item::Text(task)), |n| format!("gave up on {n} tasks")),
            },
        ];
        lists.retain(|list| !list.items.is_empty());
        (head, lists)
    }

    fn inner(&self) -> Option<&(dyn Error + 'static)> {
        match self.failures() {
            [only] => only.inner(),
            _ => None,
        }
    }

    fn stop(&self) -> Option<&(dyn Error + 'static)> {
        self.stop_mark()
    }

    #[cfg(feature = "tracing")]
    fn was_told(&self) -> bool {
        let Report { failures, cleanup_failures, stuck, .. } = self.report();
        let is_empty = failures.is_empty() && cleanup_failures.is_empty() && stuck.is_empty();
        !is_empty && failures.iter().all(Link::was_told) && cleanup_failures.iter().all(Link::was_told)
    }
}

impl<E: Display + 'static> Link for TaskError<E> {
    fn text(&self) -> (String, Vec<List<'_>>) {
        let task = self.task();
        match self.failure() {
            Failure::Error(error) => (format!("{task} failed"), vec![List::only("", Item::of(error))]),
            Failure::Panic(payload) => (format!("{task} panicked: {payload}"), Vec::new()),
            Failure::Cancelled => (format!("{task} was cut off by an abort or its runtime shutting down"), Vec::new()),
            Failure::Ended => (format!("{task} ended although it was essential"), Vec::new()),
        }
    }

    fn inner(&self) -> Option<&(dyn Error + 'static)> {
        match self.failure() {
            Failure::Error(error) => as_error(error),
            _ => None,
        }
    }

    fn stop(&self) -> Option<&(dyn Error + 'static)> {
        self.inner()
    }

    #[cfg(feature = "tracing")]
    fn was_told(&self) -> bool {
        self.was_told
    }
}

impl<E: Display + 'static> Link for ExitError<E> {
    fn text(&self) -> (String, Vec<List<'_>>) {
        match self {
            Self::Body(body) => (String::new(), vec![List::only("", Item::of(body))]),
            Self::Exit(exit) => (String::from("exit handler failed"), vec![List::only("", Item::of(exit))]),
            Self::Both { body, exit } => {
                let exit = List::only("exit handler failed: ", Item::of(exit));
                (String::new(), vec![List::only("", Item::of(body)), exit])
            }
        }
    }

    fn inner(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Body(error) | Self::Exit(error) => as_error(error),
            Self::Both { .. } => None,
        }
    }

    /// Nobody stops a handler, so that its error always counts.
    fn stop(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Body(body) => as_error(body),
            Self::Exit(_) | Self::Both { .. } => None,
        }
    }

    /// That of an exit handler is told by nobody else.
    #[cfg(feature = "tracing")]
    fn was_told(&self) -> bool {
        false
    }
}

// ===== what `tracing` was told, so that no pool tells of what one nested in it has told =====

#[cfg(feature = "tracing")]
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
#[cfg(feature = "tracing")]
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
