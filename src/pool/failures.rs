//! What goes wrong in a pool: how it is recorded, what it does, and what is reported in the end.
//!
//! A failure is judged first: the pool closes for it, or goes on, or forgets it, as `on_failure` says. It is recorded
//! by the task that failed, before anybody is told that the task has ended. And it is reported, with all others, when
//! the pool returns. A pool that has returned is *retired*. What it gave up on may still fail then: that is given back,
//! to be told further out.

use super::on_failure::OnFailure;
use super::roster::Roster;
use super::stage::{Member, Stage};
use super::state::{Policy, Shared, State};
use crate::closing_reason::ClosingReason;
use crate::error::{BoxError, Failure, Report, TaskError, TaskInfo, catch};
use crate::scope::{Census, Place, Seat, Spot};

/// Everything that has gone wrong.
pub(super) struct Losses<E> {
    /// Of tasks and body, in order of occurrence.
    failures: Vec<TaskError<E>>,
    /// What failed below without an owner.
    cleanup_failures: Vec<TaskError>,
    /// The tasks that the pool gave up on.
    stuck: Vec<TaskInfo>,
    /// The depths that they are of.
    abandoned: Vec<(i32, Stage)>,
    /// How to pass on what fails after the pool has returned, in what it has given up on.
    retired: Option<fn(TaskError<E>) -> TaskError>,
}

impl<E> Default for Losses<E> {
    fn default() -> Self {
        Self {
            failures: Vec::new(),
            cleanup_failures: Vec::new(),
            stuck: Vec::new(),
            abandoned: Vec::new(),
            retired: None,
        }
    }
}

impl<E> Losses<E> {
    /// The tasks of a place that was given up on.
    pub(super) fn members_mut(&mut self, place: Place) -> Option<&mut Roster<Member>> {
        let (_, stage) = self.abandoned.iter_mut().find(|(depth, _)| *depth == place.depth)?;
        stage.members_mut(place.daemon)
    }

    /// Adds what was given up on, and has not ended.
    pub(super) fn census(&self, census: &mut Census) {
        self.abandoned.iter().for_each(|(depth, stage)| stage.census(*depth, census));
    }
}

impl<E> State<E> {
    /// Whether anything failed, here or below, or was given up on.
    #[inline]
    pub(super) fn has_failed(&self) -> bool {
        self.losses.is_some()
    }
}

impl<E> Shared<E> {
    /// Whether anything failed, here or below, or was given up on.
    pub(super) fn has_failed(&self) -> bool {
        self.lock().has_failed()
    }

    /// Which task is at a spot. It has not said yet how it ended, so it still has its seat.
    pub(super) fn info(&self, spot: &Spot) -> TaskInfo {
        let (place, seat) = (spot.scope.place(), spot.seat.expect("a task of a pool has a seat"));
        let mut state = self.lock();
        let info = state.stages.members_mut(place).and_then(|members| info_of(members, seat));
        let info = info.or_else(|| info_of(state.losses.as_mut()?.members_mut(place)?, seat));
        drop(state);
        info.expect("a task keeps its seat until it has said how it ended")
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
            None => self.lose(failure, OnFailure::Cancel).into_iter().collect(),
            Some(policy) => self.judge(policy, failure),
        }
    }

    /// Asks the policy what a failure does, without the lock, and does that. A panic of the policy, or of the error's
    /// destructor when it is forgotten, is a failure of its own.
    fn judge(&self, policy: &Policy<E>, failure: TaskError<E>) -> Vec<TaskError>
    where
        E: 'static,
    {
        let info = failure.task().clone();
        let (untold, panicked) = match catch(|| policy(&failure)) {
            Ok(OnFailure::Discard) => (None, catch(|| drop(failure)).err()),
            Ok(decision) => (self.lose(failure, decision), None),
            Err(payload) => (self.lose(failure, OnFailure::Cancel), Some(payload)),
        };
        let panicked = panicked.map(|payload| TaskError::new(info, Failure::Panic(payload)));
        panicked.iter().for_each(|panicked| self.trace.failed(panicked));
        untold.into_iter().chain(panicked.and_then(|panicked| self.lose(panicked, OnFailure::Cancel))).collect()
    }

    /// Records a failure, or gives it back; closes the pool, if that is what is done on it.
    ///
    /// A waker that panics as the pool closes makes one more failure, by the same name: the task or body that has failed
    /// must not unwind before it is counted as ended.
    fn lose(&self, failure: TaskError<E>, decision: OnFailure) -> Option<TaskError>
    where
        E: 'static,
    {
        let mut state = self.lock();
        let losses = state.losses.get_or_insert_default();
        if let Some(boxed) = losses.retired {
            drop(state);
            return Some(boxed(failure));
        }
        let info = failure.task().clone();
        losses.failures.push(failure);
        if matches!(decision, OnFailure::Collect) {
            return None;
        }
        let payload = catch(|| self.begin_closing(state, ClosingReason::Failed)).err()?;
        let panicked = TaskError::new(info, Failure::Panic(payload));
        self.trace.failed(&panicked);
        self.lose(panicked, OnFailure::Collect)
    }

    /// Records what failed below, or gives it back.
    pub(super) fn lose_below(&self, failure: TaskError) -> Option<TaskError> {
        let mut state = self.lock();
        let losses = state.losses.get_or_insert_default();
        if losses.retired.is_some() {
            return Some(failure);
        }
        losses.cleanup_failures.push(failure);
        None
    }

    /// Records a failure and closes the pool. Gives the failure back if the pool has returned.
    pub(super) fn fail(&self, failure: TaskError<E>) -> Option<TaskError>
    where
        E: 'static,
    {
        self.trace.failed(&failure);
        self.lose(failure, OnFailure::Cancel)
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
    pub(super) fn give_up_on(&self, tasks: Vec<TaskInfo>) {
        self.lock().losses.get_or_insert_default().stuck.extend(tasks);
    }

    /// Keeps a depth that the pool gives up on; its tasks look for their seats there.
    pub(super) fn keep_abandoned(state: &mut State<E>, depth: i32, stage: Stage) {
        state.losses.get_or_insert_default().abandoned.push((depth, stage));
    }

    /// Says what was given up on; `pool` stands for what is no task.
    pub(super) fn name_stuck(&self, pool: TaskInfo) {
        if let Some(losses) = &mut self.lock().losses {
            if !losses.abandoned.is_empty() && losses.stuck.is_empty() {
                losses.stuck.push(pool);
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
        let losses = state.losses.get_or_insert_default();
        losses.retired = Some(TaskError::boxed);
        Report {
            pool: self.name.clone(),
            failures: std::mem::take(&mut losses.failures),
            cleanup_failures: std::mem::take(&mut losses.cleanup_failures),
            stuck: std::mem::take(&mut losses.stuck),
            reason,
        }
    }
}

/// Which task has a seat.
fn info_of(members: &mut Roster<Member>, seat: Seat) -> Option<TaskInfo> {
    members.get_mut(seat).map(|member| member.info())
}
