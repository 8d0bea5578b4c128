//! Which task it was.

use std::fmt::{self, Display};
use std::panic::Location;
use std::sync::Arc;

/// Which task it was: its name, if it has one, and the line that spawned it.
///
/// The branches of [`try_all`](crate::try_all()), [`wait_all`](crate::wait_all()) and [`map`](crate::map()) are known by
/// the line of the call, and so are shielded work and exit handlers. `{}` is what stands in front of a failure: `body`,
/// `task "fetch" (src/main.rs:10:5)` or, without a name, `task at src/main.rs:10:5`.
///
/// # Examples
///
/// ```
/// use aiodrive::{Pool, TaskInfo};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let pool: Pool = Pool::new();
/// pool.build_task().name("fetch").spawn(async { Err("connection refused".into()) });
/// let error = pool.run().await.unwrap_err();
/// let task: &TaskInfo = error.first().unwrap().task();
/// assert_eq!(task.to_string(), format!("task \"fetch\" ({})", task.spawned_at()));
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct TaskInfo {
    who: Who,
    /// For a body, where its pool was opened.
    spawned_at: &'static Location<'static>,
}

/// By what it is known.
#[derive(Clone, Debug)]
enum Who {
    /// A task without a name.
    Unnamed,
    Named(Arc<str>),
    /// The body, which is polled in place and is no task of the runtime.
    Body,
    /// A branch of a function. The index is a small number, so that a failure is small.
    Branch {
        function: &'static str,
        index: u32,
    },
}

impl TaskInfo {
    /// A task.
    pub(crate) fn new(name: Option<Arc<str>>, spawned_at: &'static Location<'static>) -> Self {
        Self { who: name.map_or(Who::Unnamed, Who::Named), spawned_at }
    }

    /// A task that is spawned where this is called from, in a function that tracks its callers.
    #[track_caller]
    pub(crate) fn of_task(name: Option<Arc<str>>) -> Self {
        Self::new(name, Location::caller())
    }

    /// A task that was given no name: shielded work, an exit handler.
    pub(crate) fn unnamed(spawned_at: &'static Location<'static>) -> Self {
        Self { who: Who::Unnamed, spawned_at }
    }

    /// The body of a pool that was opened there.
    pub(crate) fn of_body(opened_at: &'static Location<'static>) -> Self {
        Self { who: Who::Body, spawned_at: opened_at }
    }

    /// A branch of a call of this function, counted from 0.
    pub(crate) fn branch(function: &'static str, index: usize, called_at: &'static Location<'static>) -> Self {
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        Self { who: Who::Branch { function, index }, spawned_at: called_at }
    }

    /// The name, to be shared.
    pub(crate) fn shared_name(&self) -> Option<Arc<str>> {
        match &self.who {
            Who::Named(name) => Some(Arc::clone(name)),
            _ => None,
        }
    }

    /// The name that it was given, if it was given one.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let pool: Pool = Pool::new();
    /// pool.build_task().name("fetch").spawn(async { Err("connection refused".into()) });
    /// let error = pool.run().await.unwrap_err();
    /// assert_eq!(error.first().unwrap().task().name(), Some("fetch"));
    /// # }
    /// ```
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match &self.who {
            Who::Named(name) => Some(name),
            _ => None,
        }
    }

    /// Where it was spawned; for a body, where its pool was opened.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let pool: Pool = Pool::new();
    /// pool.spawn(async { Err("connection refused".into()) }); let here = line!();
    /// let error = pool.run().await.unwrap_err();
    /// assert_eq!(error.first().unwrap().task().spawned_at().line(), here);
    /// # }
    /// ```
    #[must_use]
    pub fn spawned_at(&self) -> &'static Location<'static> {
        self.spawned_at
    }

    /// Whether it is the body of the pool and no spawned task.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let opened = Pool::open(async |_: Pool| Err::<(), _>("no such user".into()));
    /// let error = opened.await.unwrap_err();
    /// assert!(error.first().unwrap().task().is_body());
    /// # }
    /// ```
    #[must_use]
    pub fn is_body(&self) -> bool {
        matches!(self.who, Who::Body)
    }
}

impl Display for TaskInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.spawned_at;
        match &self.who {
            Who::Unnamed => write!(f, "task at {at}"),
            Who::Named(name) => write!(f, "task \"{name}\" ({at})"),
            Who::Body => f.write_str("body"),
            Who::Branch { function, index } => write!(f, "branch {index} of {function} at {at}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_is_known_by_its_index_and_its_function() {
        let at = Location::caller();
        let info = TaskInfo::branch("try_all", 2, at);
        assert_eq!(info.to_string(), format!("branch 2 of try_all at {at}"));
        assert!(info.name().is_none() && !info.is_body());
        assert_eq!(TaskInfo::branch("map", usize::MAX, at).to_string(), format!("branch {} of map at {at}", u32::MAX));
    }
}
