//! What goes wrong in a pool: how it is recorded, what it does, and what is reported in the end.
//!
//! A failure is judged first: the pool closes for it, or goes on, or forgets it, as `on_failure` says. It is recorded
//! by the task that failed, before anybody is told that the task has ended. And it is reported, with all others, when
//! the pool returns. A pool that has returned is *returned*. What it gave up on may still fail then: that is given back,
//! to be told further out.

use super::depths::{Depth, TaskEntry};
use super::on_failure::OnFailure;
use super::slab::Slab;
use super::state::{Policy, Shared, State};
use crate::closing_reason::ClosingReason;
use crate::error::{BoxError, Failure, Report, TaskError, TaskInfo, catch};
use crate::scope::{Current, Snapshot, TaskClass, TaskKey};

/// Everything that has gone wrong.
pub(super) struct Failures<E> {
    /// Of tasks and body, in order of occurrence.
    failures: Vec<TaskError<E>>,
    /// What failed below without an owner.
    cleanup_failures: Vec<TaskError>,
    /// The tasks that the pool gave up on.
    stuck: Vec<TaskInfo>,
    /// The depths that they are of.
    abandoned: Vec<(i32, Depth)>,
    /// How to pass on what fails after the pool has returned, in what it has given up on.
    returned: Option<fn(TaskError<E>) -> TaskError>,
}

impl<E> Default for Failures<E> {
    fn default() -> Self {
        Self {
            failures: Vec::new(),
            cleanup_failures: Vec::new(),
            stuck: Vec::new(),
            abandoned: Vec::new(),
            returned: None,
        }
    }
}

impl<E> Failures<E> {
    /// The tasks of a class that was given up on.
    pub(super) fn entries_mut(&mut self, class: TaskClass) -> Option<&mut Slab<TaskEntry>> {
        let (_, stage) = self.abandoned.iter_mut().find(|(depth, _)| *depth == class.depth)?;
        stage.entries_mut(class.daemon)
    }

    /// Adds what was given up on, and has not ended.
    pub(super) fn snapshot(&self, snapshot: &mut Snapshot) {
        self.abandoned.iter().for_each(|(depth, stage)| stage.snapshot(*depth, snapshot));
    }
}

impl<E> State<E> {
    /// Whether anything failed, here or below, or was given up on.
    #[inline]
    pub(super) fn has_failed(&self) -> bool {
        self.failures.is_some()
    }
}

impl<E> Shared<E> {
    /// Whether anything failed, here or below, or was given up on.
    pub(super) fn has_failed(&self) -> bool {
        self.lock().has_failed()
    }

    /// Which task is at a current. It has not said yet how it ended, so it still has its key.
    pub(super) fn info(&self, current: &Current) -> TaskInfo {
        let (class, key) = (current.scope.class(), current.key.expect("a task of a pool has a key"));
        let mut state = self.lock();
        let info = state.depths.entries_mut(class).and_then(|entries| info_of(entries, key));
        let info = info.or_else(|| info_of(state.failures.as_mut()?.entries_mut(class)?, key));
        drop(state);
        info.expect("a task keeps its key until it has said how it ended")
    }

    /// Records the failure of a task, and does what the pool's owner wants done about it. Gives back what cannot be
    /// recorded, since the pool has given up on the task and returned.
    pub(super) fn fail_task(&self, failure: TaskError<E>) -> Vec<TaskError>
    where
        E: 'static,
    {
        self.trace.failed(&failure);
        let policy = self.options.as_ref().and_then(|options| options.on_failure.as_ref());
        match policy {
            None => self.record_failure(failure, OnFailure::Cancel).into_iter().collect(),
            Some(policy) => self.apply_policy(policy, failure),
        }
    }

    /// Asks the policy what a failure does, without the lock, and does that. A panic of the policy, or of the error's
    /// destructor when it is forgotten, is a failure of its own.
    fn apply_policy(&self, policy: &Policy<E>, failure: TaskError<E>) -> Vec<TaskError>
    where
        E: 'static,
    {
        let info = failure.task().clone();
        let (unreported, panicked) = match catch(|| policy(&failure)) {
            Ok(OnFailure::Discard) => (None, catch(|| drop(failure)).err()),
            Ok(decision) => (self.record_failure(failure, decision), None),
            Err(payload) => (self.record_failure(failure, OnFailure::Cancel), Some(payload)),
        };
        let panicked = panicked.map(|payload| TaskError::new(info, Failure::Panic(payload)));
        panicked.iter().for_each(|panicked| self.trace.failed(panicked));
        unreported
            .into_iter()
            .chain(panicked.and_then(|panicked| self.record_failure(panicked, OnFailure::Cancel)))
            .collect()
    }

    /// Records a failure, or gives it back; closes the pool, if that is what is done on it.
    ///
    /// A waker that panics as the pool closes makes one more failure, by the same name: the task or body that has failed
    /// must not unwind before it is counted as ended.
    fn record_failure(&self, failure: TaskError<E>, decision: OnFailure) -> Option<TaskError>
    where
        E: 'static,
    {
        let mut state = self.lock();
        let failures = state.failures.get_or_insert_default();
        if let Some(boxed) = failures.returned {
            drop(state);
            return Some(boxed(failure));
        }
        let info = failure.task().clone();
        failures.failures.push(failure);
        if matches!(decision, OnFailure::Collect) {
            return None;
        }
        let payload = catch(|| self.begin_closing(state, ClosingReason::Failed)).err()?;
        let panicked = TaskError::new(info, Failure::Panic(payload));
        self.trace.failed(&panicked);
        self.record_failure(panicked, OnFailure::Collect)
    }

    /// Records what failed below, or gives it back.
    pub(super) fn record_cleanup(&self, failure: TaskError) -> Option<TaskError> {
        let mut state = self.lock();
        let failures = state.failures.get_or_insert_default();
        if failures.returned.is_some() {
            return Some(failure);
        }
        failures.cleanup_failures.push(failure);
        None
    }

    /// Records a failure and closes the pool. Gives the failure back if the pool has returned.
    pub(super) fn fail(&self, failure: TaskError<E>) -> Option<TaskError>
    where
        E: 'static,
    {
        self.trace.failed(&failure);
        self.record_failure(failure, OnFailure::Cancel)
    }

    /// Records that a task of this depth was cut off, unless it was the pool that aborted it. Gives it back if the pool
    /// has returned meanwhile.
    pub(super) fn cut_off(&self, depth: i32, failure: impl FnOnce() -> TaskError<E>) -> Option<TaskError>
    where
        E: 'static,
    {
        if self.takes(depth) { self.fail(failure()) } else { None }
    }

    /// Records that the pool has given up on a depth, and on these of its tasks.
    pub(super) fn add_stuck(&self, tasks: Vec<TaskInfo>) {
        self.lock().failures.get_or_insert_default().stuck.extend(tasks);
    }

    /// Keeps a depth that the pool gives up on; its tasks look for their seats there.
    pub(super) fn keep_abandoned(state: &mut State<E>, depth: i32, stage: Depth) {
        state.failures.get_or_insert_default().abandoned.push((depth, stage));
    }

    /// Says what was given up on; `pool` stands for what is no task.
    pub(super) fn name_stuck(&self, pool: TaskInfo) {
        if let Some(failures) = &mut self.lock().failures {
            if !failures.abandoned.is_empty() && failures.stuck.is_empty() {
                failures.stuck.push(pool);
            }
        }
    }

    /// Takes all failures, in order of occurrence. What fails from now on is passed on.
    pub(super) fn take_report(&self) -> Report<E>
    where
        E: Into<BoxError>,
    {
        let mut state = self.lock();
        // A pool that has a report has closed, and so has a reason.
        let reason = state.reason.clone().unwrap_or(ClosingReason::Dropped);
        let failures = state.failures.get_or_insert_default();
        failures.returned = Some(TaskError::boxed);
        Report {
            pool: self.name.clone(),
            failures: std::mem::take(&mut failures.failures),
            cleanup_failures: std::mem::take(&mut failures.cleanup_failures),
            stuck: std::mem::take(&mut failures.stuck),
            reason,
        }
    }
}

/// Which task has a key.
fn info_of(entries: &mut Slab<TaskEntry>, key: TaskKey) -> Option<TaskInfo> {
    entries.get_mut(key).map(|entry| entry.info())
}
