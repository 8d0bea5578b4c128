//! How the errors of this crate hang together with those of its users, whatever the types.
//!
//! A [`PoolError`] holds errors that may hold a `PoolError` again, as deep as somebody nests pools. So that nothing
//! recurses over that, each error of this crate says only what its own part is, and which error it goes on with.
//!
//! By the same links two things are found out: whether an error says only that something was stopped, and, with the
//! feature `tracing`, whether a nested pool has told of it already.
//!
//! A task or a body passes an error that says only "stopped" on with `?`, from a nested pool or from a handle, often with
//! an error of its own around it. To count it would turn each cancellation into a failure, and each failure into two. So
//! the whole chain of causes is searched, in every type that can be asked for one. That is done at each pool that a
//! failure passes, and yet the cost is linear in all: the search ends at the first `PoolError` that it comes to, since
//! that has the answer, which was found when it was made. Where the error type is a foreign one, so that it is not known
//! as a `PoolError`, its answer is its cause, and ends the chain.

use std::any::Any;
use std::error::Error;
use std::fmt::{Debug, Display};

use super::pool_error::{PoolError, Report};
use super::stopped::{CancelledError, IsCancellation, TaskStopped};
use super::task_error::{Failure, TaskError, catch};
use super::{BoxError, ExitError};

/// How many links of a chain are followed: one that leads back to where it was has no end. No real chain is that long.
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
        self.stop_mark().map(|mark| mark as _)
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

    /// What was cut off was stopped, by an abort or with its runtime.
    fn stop(&self) -> Option<&(dyn Error + 'static)> {
        match self.failure() {
            Failure::Cancelled => Some(&CancelledError::Cancelled),
            _ => self.inner(),
        }
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

// ===== what says only that something was stopped =====

/// What an error says, if it says only that something was stopped. Where the error itself does not tell,
/// `is_cancellation` does.
///
/// All that it calls is the user's. If that panics, the error says more than that.
pub(crate) fn cancellation<E: 'static>(
    error: &E,
    is_cancellation: Option<&IsCancellation<E>>,
) -> Option<CancelledError> {
    let found = catch(|| match (error as &dyn Any).downcast_ref() {
        Some(stopped) => cancellation_in(stopped as &TaskStopped),
        None => as_error(error).and_then(cancellation_in).or_else(|| boxed_in(error).and_then(cancellation_in)),
    });
    let asked = || is_cancellation.is_some_and(|asked| catch(|| asked(error)).unwrap_or(false));
    found.ok().flatten().or_else(|| asked().then_some(CancelledError::Cancelled))
}

/// What `anyhow::Error::from_boxed` hides from the chain of causes.
#[cfg(feature = "anyhow")]
fn boxed_in<E: 'static>(error: &E) -> Option<&(dyn Error + 'static)> {
    let error = (error as &dyn Any).downcast_ref::<anyhow::Error>()?;
    error.downcast_ref::<super::BoxError>().map(|boxed| &**boxed as _)
}

#[cfg(not(feature = "anyhow"))]
fn boxed_in<E: 'static>(_: &E) -> Option<&(dyn Error + 'static)> {
    None
}

/// The same, of an error that can be asked for its cause.
///
/// A chain without an end is followed for a million links.
pub(super) fn cancellation_in(error: &(dyn Error + 'static)) -> Option<CancelledError> {
    let mut link = error;
    for _ in 0..LONGEST_CHAIN {
        if let Some(says) = link.downcast_ref() {
            return Some(*says);
        }
        if let Some(stopped) = link.downcast_ref() {
            return match stopped {
                TaskStopped::Cancelled => Some(CancelledError::Cancelled),
                TaskStopped::Failed | TaskStopped::Panicked => Some(CancelledError::Failed),
                // It is news that a task never said that it was ready.
                TaskStopped::NotReady => None,
            };
        }
        link = match as_link(link) {
            Some(link) => link.stop()?,
            None => link.source()?,
        };
    }
    None
}

impl<E: 'static> PoolError<E> {
    /// The error with this report, by the pool's `is_cancellation`.
    pub(crate) fn new(report: Report<E>, is_cancellation: Option<&IsCancellation<E>>) -> Self {
        let mark = cancellation_of(&report, is_cancellation);
        Self::with_stop(report, mark)
    }
}

/// What a pool says that has failed with nothing but such errors. If both kinds occur it says `Cancelled`, the stricter
/// one: a pool that runs swallows only `Failed`.
fn cancellation_of<E: 'static>(
    report: &Report<E>,
    is_cancellation: Option<&IsCancellation<E>>,
) -> Option<CancelledError> {
    if !report.cleanup_failures.is_empty() || !report.stuck.is_empty() {
        return None;
    }
    let mut all = report.failures.iter().map(|failed| match failed.failure() {
        Failure::Error(error) => cancellation(error, is_cancellation),
        _ => None,
    });
    let first = all.next().unwrap_or(Some(CancelledError::Cancelled))?;
    all.try_fold(first, |says, next| next.map(|next| if next == says { says } else { CancelledError::Cancelled }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{BoxError, ClosingReason, TaskError, TaskInfo};

    /// An opaque type, as `eyre::Report` is one: not an error itself, and made of any.
    struct Opaque(BoxError);

    fn asks(report: &Opaque) -> bool {
        cancellation_in(&*report.0).is_some()
    }

    /// An error type of a user's.
    #[derive(Debug, thiserror::Error)]
    enum AppError {
        #[error("a component has failed")]
        Component(#[from] PoolError<AppError>),
        #[error("a task has failed")]
        Task(#[source] TaskStopped),
    }

    fn asks_variants(error: &AppError) -> bool {
        match error {
            AppError::Component(error) => error.is_cancelled(),
            AppError::Task(stopped) => *stopped != TaskStopped::NotReady,
        }
    }

    fn failed_with<E: 'static>(
        errors: impl IntoIterator<Item = E>,
        is_cancellation: Option<&IsCancellation<E>>,
    ) -> PoolError<E> {
        let failed = |error| TaskError::new(TaskInfo::of_task(None), Failure::Error(error));
        let report = Report {
            pool: None,
            failures: errors.into_iter().map(failed).collect(),
            cleanup_failures: Vec::new(),
            stuck: Vec::new(),
            reason: ClosingReason::Failed,
        };
        PoolError::new(report, is_cancellation)
    }

    #[test]
    fn a_type_that_nothing_is_known_of_is_told_by_the_hook() {
        let stopped = Opaque(TaskStopped::Cancelled.into());
        assert_eq!(cancellation(&stopped, None), None);
        assert_eq!(cancellation(&stopped, Some(&asks)), Some(CancelledError::Cancelled));
        assert_eq!(cancellation(&Opaque("broken".into()), Some(&asks)), None);
        for (error, says) in [
            (AppError::Task(TaskStopped::Cancelled), Some(CancelledError::Cancelled)),
            (AppError::Task(TaskStopped::NotReady), None),
            (AppError::from(failed_with([], None)), Some(CancelledError::Cancelled)),
            (AppError::from(failed_with([AppError::Task(TaskStopped::NotReady)], None)), None),
        ] {
            assert_eq!(cancellation(&error, Some(&asks_variants)), says, "{error:?}");
        }
    }

    #[test]
    fn a_hook_that_panics_says_nothing() {
        let panics = |_: &Opaque| std::panic::resume_unwind(Box::new("asked"));
        assert_eq!(cancellation(&Opaque(TaskStopped::Cancelled.into()), Some(&panics)), None);
    }

    #[test]
    fn the_hook_is_asked_about_what_a_type_does_not_tell_itself() {
        let own = |error: &BoxError| error.to_string() == "stop";
        assert_eq!(cancellation::<BoxError>(&"stop".into(), Some(&own)), Some(CancelledError::Cancelled));
        assert_eq!(cancellation::<BoxError>(&TaskStopped::Failed.into(), Some(&own)), Some(CancelledError::Failed));
    }

    #[test]
    fn that_another_task_failed_is_told_from_a_cancellation() {
        let says = |stopped: &[TaskStopped]| {
            let errors = stopped.iter().map(|stopped| BoxError::from(*stopped));
            cancellation::<BoxError>(&failed_with(errors, None).into(), None)
        };
        assert_eq!(says(&[TaskStopped::Failed, TaskStopped::Panicked]), Some(CancelledError::Failed));
        assert_eq!(says(&[TaskStopped::Failed, TaskStopped::Cancelled]), Some(CancelledError::Cancelled));
        assert_eq!(says(&[TaskStopped::Cancelled]), Some(CancelledError::Cancelled));
        assert_eq!(says(&[TaskStopped::Cancelled, TaskStopped::NotReady]), None);
        assert_eq!(says(&[]), Some(CancelledError::Cancelled));
    }

    /// By its cause, since a pool of another type does not know it as a `PoolError`.
    #[test]
    fn a_pool_whose_failures_the_hook_knows_says_it_to_others() {
        let stopped = || AppError::Task(TaskStopped::Cancelled);
        let typed = failed_with([stopped(), stopped()], Some(&asks_variants));
        assert_eq!(cancellation::<BoxError>(&typed.into(), None), Some(CancelledError::Cancelled));
        let typed = failed_with([stopped(), AppError::Task(TaskStopped::NotReady)], Some(&asks_variants));
        assert_eq!(cancellation::<BoxError>(&typed.into(), None), None);
    }
}
