//! The name of a task as tokio has it, for tokio-console: with the feature `tracing` under `cfg(tokio_unstable)`, where
//! tokio has names. Elsewhere none of this costs anything.

use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinSet};

#[cfg(all(tokio_unstable, feature = "tracing"))]
pub(crate) use self::on::TaskName;

#[cfg(not(all(tokio_unstable, feature = "tracing")))]
pub(crate) use self::off::TaskName;

#[cfg(all(tokio_unstable, feature = "tracing"))]
mod on {
    use std::sync::Arc;

    use super::{AbortHandle, Handle, JoinSet};
    use crate::error::TaskInfo;

    /// Spawns a task under its name, if it has one.
    pub(crate) struct TaskName(Option<Arc<str>>);

    impl TaskName {
        pub(crate) fn of(task: &TaskInfo) -> Self {
            Self(task.shared_name())
        }

        #[track_caller]
        pub(crate) fn spawn<T, F>(&self, set: &mut JoinSet<T>, task: F, runtime: &Handle) -> AbortHandle
        where
            F: Future<Output = T> + Send + 'static,
            T: Send + 'static,
        {
            let spawned = set.build_task().name(self.text()).spawn_on(task, runtime);
            spawned.expect("only a thread can be refused")
        }

        #[track_caller]
        pub(crate) fn spawn_local<T: 'static>(
            &self,
            set: &mut JoinSet<T>,
            task: impl Future<Output = T> + 'static,
        ) -> AbortHandle {
            let spawned = set.build_task().name(self.text()).spawn_local(task);
            spawned.expect("only a thread can be refused")
        }

        #[track_caller]
        pub(crate) fn spawn_blocking<T, F>(&self, set: &mut JoinSet<T>, task: F, runtime: &Handle) -> AbortHandle
        where
            F: FnOnce() -> T + Send + 'static,
            T: Send + 'static,
        {
            let spawned = set.build_task().name(self.text()).spawn_blocking_on(task, runtime);
            spawned.expect("the OS can spawn a worker thread")
        }

        /// What tokio, too, takes for no name.
        fn text(&self) -> &str {
            self.0.as_deref().unwrap_or_default()
        }
    }
}

#[cfg(not(all(tokio_unstable, feature = "tracing")))]
mod off {
    use super::{AbortHandle, Handle, JoinSet};
    use crate::error::TaskInfo;

    /// Spawns a task without its name.
    pub(crate) struct TaskName(());

    impl TaskName {
        pub(crate) fn of(_: &TaskInfo) -> Self {
            Self(())
        }

        #[track_caller]
        pub(crate) fn spawn<T, F>(&self, set: &mut JoinSet<T>, task: F, runtime: &Handle) -> AbortHandle
        where
            F: Future<Output = T> + Send + 'static,
            T: Send + 'static,
        {
            set.spawn_on(task, runtime)
        }

        #[track_caller]
        pub(crate) fn spawn_local<T: 'static>(
            &self,
            set: &mut JoinSet<T>,
            task: impl Future<Output = T> + 'static,
        ) -> AbortHandle {
            set.spawn_local(task)
        }

        #[track_caller]
        pub(crate) fn spawn_blocking<T, F>(&self, set: &mut JoinSet<T>, task: F, runtime: &Handle) -> AbortHandle
        where
            F: FnOnce() -> T + Send + 'static,
            T: Send + 'static,
        {
            set.spawn_blocking_on(task, runtime)
        }
    }
}
