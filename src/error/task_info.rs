//! Which task it was.

use std::fmt::{self, Display};
use std::panic::Location;
use std::sync::Arc;

/// Which task it was: its name, if it has one, and the line that spawned it.
///
/// The branches of [`try_all`](crate::try_all()) and [`wait_all`](crate::wait_all()) are known by the line of the call,
/// and so are shielded work and exit handlers. Its `Display` is what stands in front of a failure: `body`, `task
/// "fetch" (src/main.rs:10:5)` or, without a name, `task at src/main.rs:10:5`.
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
    pub(crate) name: Option<Arc<str>>,
    /// For a body, where its pool was opened.
    pub(crate) spawned_at: &'static Location<'static>,
    /// It is the body, which is polled in class and is no task of the runtime.
    pub(crate) body: bool,
}

impl TaskInfo {
    /// A task that is spawned where this is called from, in a function that tracks its callers.
    #[track_caller]
    pub(crate) fn of_task(name: Option<Arc<str>>) -> Self {
        Self { name, spawned_at: Location::caller(), body: false }
    }

    /// A task that was given no name: a branch of a group, shielded work, an exit handler.
    pub(crate) fn unnamed(spawned_at: &'static Location<'static>) -> Self {
        Self { name: None, spawned_at, body: false }
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
        self.name.as_deref()
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
    /// let error = Pool::open(async |_: Pool| Err::<(), _>("no such user".into())).await.unwrap_err();
    /// assert!(error.first().unwrap().task().is_body());
    /// # }
    /// ```
    #[must_use]
    pub fn is_body(&self) -> bool {
        self.body
    }
}

impl Display for TaskInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            _ if self.body => f.write_str("body"),
            Some(name) => write!(f, "task \"{name}\" ({})", self.spawned_at),
            None => write!(f, "task at {}", self.spawned_at),
        }
    }
}
