//! The cells of the matrix: which runtime, and which kind of work is running when a rule applies.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use aiodrive::{
    BoxError, LatchEvent, Pool, PoolBuilder, PoolError, cancellation_token, try_all, try_cancellation_token,
};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::Instant;

use crate::support::{Log, on_current_thread, on_multi_thread, poll_until, quiet_panic, until};

pub type Outcome<T = ()> = Result<T, PoolError>;
pub type Job<T = ()> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// What begins to close a pool.
pub type Close = fn(&Pool);

/// A grace that is never over.
pub const ENDLESS: Option<Duration> = Some(Duration::MAX);
/// The graces with which nothing has time, unless the task around the pool gives it some.
pub const NO_TIME: [Option<Duration>; 2] = [None, Some(Duration::ZERO)];
/// All graces in question.
pub const GRACES: [Option<Duration>; 3] = [None, Some(Duration::ZERO), ENDLESS];

/// A builder of pools with this grace.
pub fn with(grace: Option<Duration>) -> PoolBuilder {
    match grace {
        Some(grace) => Pool::builder().grace(grace),
        None => Pool::builder(),
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Flavor {
    /// With the paused clock.
    CurrentThread,
    /// Time is real. Nothing here depends on how much of it passes.
    MultiThread,
}

/// What is running in a pool when a rule applies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Work {
    /// A plain task.
    Task,
    /// A task that has opened a pool without a grace of its own.
    Nested,
    /// A task in a `try_all`.
    TryAll,
    /// A task that has dropped the future of a pool with an endless grace. That closes, and the task has ended.
    HandedOn,
}

/// How the work is to end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Order {
    GoOn,
    Finish,
    Fail,
    Panic,
}

/// One cell of the matrix, with what has become of its work.
///
/// The innermost future of the work waits until it is asked to stop, and then until it may end. It writes `begun`,
/// `asked`, and then `finished`, `failed`, or `aborted`.
#[derive(Clone)]
pub struct Cell {
    pub flavor: Flavor,
    pub work: Work,
    log: Log,
    order: watch::Sender<Order>,
    /// The work does not listen.
    is_deaf: bool,
    /// The task that has handed a closing on goes on until the work may end.
    owner_stays: bool,
    handed_on: LatchEvent,
    /// The rule has looked at the work, and goes on to what is to close the pool.
    seen: LatchEvent,
}

/// Runs a rule in one cell.
pub fn run(flavor: Flavor, work: Work, rule: fn(Cell) -> Pin<Box<dyn Future<Output = ()>>>) {
    let test = || rule(Cell::new(flavor, work));
    match flavor {
        Flavor::CurrentThread => on_current_thread(test),
        Flavor::MultiThread => on_multi_thread(test),
    }
}

impl Cell {
    fn new(flavor: Flavor, work: Work) -> Self {
        Self {
            flavor,
            work,
            log: Log::default(),
            order: watch::Sender::new(Order::GoOn),
            is_deaf: false,
            owner_stays: false,
            handed_on: LatchEvent::new(),
            seen: LatchEvent::new(),
        }
    }

    /// The same cell, before anything has happened in it.
    pub fn again(&self) -> Self {
        let Self { is_deaf, owner_stays, .. } = *self;
        Self { is_deaf, owner_stays, ..Self::new(self.flavor, self.work) }
    }

    /// The same, with work that does not listen: it takes no token, and ends when it may.
    pub fn deaf(&self) -> Self {
        Self { is_deaf: true, ..self.again() }
    }

    /// The same, with an owner that goes on after it has dropped its pool.
    pub fn with_owner(&self) -> Self {
        Self { owner_stays: true, ..self.again() }
    }

    /// A plain task, on the same runtime.
    pub fn plain(&self) -> Self {
        Self::new(self.flavor, Work::Task)
    }

    pub fn is(&self, work: Work) -> bool {
        self.work == work
    }

    pub fn runtime(&self) -> Runtime {
        let mut builder = match self.flavor {
            Flavor::CurrentThread => Builder::new_current_thread(),
            Flavor::MultiThread => Builder::new_multi_thread(),
        };
        builder.worker_threads(2).enable_all().build().unwrap()
    }

    // ----- the work -----

    /// The work, as the future of a task.
    pub fn work(&self) -> Job {
        let (cell, leaf) = (self.clone(), self.clone().leaf());
        match self.work {
            Work::Task => Box::pin(leaf),
            Work::Nested => Box::pin(async move {
                let opened = Pool::open(async move |inner: Pool| {
                    inner.build_task().name("leaf").spawn(leaf);
                    Ok(())
                });
                Ok(opened.await?)
            }),
            Work::TryAll => Box::pin(async move {
                try_all([leaf]).await?;
                Ok(())
            }),
            Work::HandedOn => Box::pin(async move {
                let inner = with(ENDLESS).build();
                inner.build_task().name("leaf").spawn(leaf);
                let mut run = Box::pin(inner.run());
                poll_until(run.as_mut(), || cell.has("begun")).await;
                drop(run);
                cell.handed_on.set();
                if cell.owner_stays {
                    cell.may_end().await;
                }
                Ok(())
            }),
        }
    }

    async fn leaf(self) -> Result<(), BoxError> {
        let mut end = OnEnd { log: self.log.clone(), event: "aborted" };
        self.log.push("begun");
        if !self.is_deaf {
            assert!(try_cancellation_token().is_some(), "everything that belongs to a pool has a token");
            cancellation_token().cancelled().await;
            self.log.push("asked");
        }
        let order = self.may_end().await;
        end.event = if order == Order::Finish { "finished" } else { "failed" };
        match order {
            Order::Fail => Err("work".into()),
            Order::Panic => quiet_panic("work"),
            Order::Finish | Order::GoOn => Ok(()),
        }
    }

    /// Waits until the work may end, and says how.
    async fn may_end(&self) -> Order {
        let mut orders = self.order.subscribe();
        *orders.wait_for(|order| *order != Order::GoOn).await.expect("the cell has the sender")
    }

    /// Lets the work end well.
    pub fn finish(&self) {
        self.order.send_replace(Order::Finish);
    }

    /// Has the work fail.
    pub fn fail(&self) {
        self.order.send_replace(Order::Fail);
    }

    /// Has the work panic.
    pub fn panic(&self) {
        self.order.send_replace(Order::Panic);
    }

    // ----- what comes about -----

    pub fn has(&self, event: &str) -> bool {
        self.log.events().iter().any(|seen| seen == event)
    }

    /// Whether the work runs. If it is handed on, then its closing has begun.
    pub fn is_running(&self) -> bool {
        let closes = || self.handed_on.is_set() && (self.is_deaf || self.has("asked"));
        self.has("begun") && (!self.is(Work::HandedOn) || closes())
    }

    /// Waits until the work runs.
    pub async fn begun(&self) {
        until(|| self.is_running()).await;
    }

    /// Waits until the work has heard that it is to stop.
    pub async fn asked(&self) {
        until(|| self.has("asked")).await;
    }

    /// Runs a pool in a task of the runtime, and waits until the work runs.
    pub async fn run(&self, pool: &Pool) -> JoinHandle<Outcome> {
        let run = tokio::spawn(pool.clone().run());
        self.begun().await;
        run
    }

    /// Waits until work that has this grace has heard of the request, sees that it goes on, and lets it end.
    ///
    /// If it has no time, there is nothing to do.
    pub async fn uses(&self, grace: Option<Duration>) {
        if grace == ENDLESS {
            self.asked().await;
            // A closing that was handed on has heard of it before.
            until(|| !self.is(Work::HandedOn) || self.seen.is_set()).await;
            self.goes_on().await;
            self.finish();
        }
    }

    /// The same, once a pool has begun to close.
    pub async fn closes_with(&self, pool: &Pool, grace: Option<Duration>) {
        until(|| pool.is_closed()).await;
        self.seen.set();
        self.uses(grace).await;
    }

    /// Lets everybody else run for a while, and fails if the work has ended.
    pub async fn goes_on(&self) {
        for _ in 0..50 {
            assert!(!self.has_ended(), "{:?}", self.log.events());
            yield_now().await;
        }
    }

    fn has_ended(&self) -> bool {
        ["finished", "failed", "aborted"].into_iter().any(|event| self.has(event))
    }

    // ----- what has come about -----

    #[track_caller]
    fn assert(&self, events: &[&str]) {
        assert_eq!(self.log.events(), events);
    }

    /// Nobody has asked it to stop, except that a closing which was handed on has done so before.
    #[track_caller]
    pub fn assert_not_asked(&self) {
        self.seen.set();
        match self.work {
            Work::HandedOn if !self.is_deaf => self.assert(&["begun", "asked"]),
            _ => self.assert(&["begun"]),
        }
    }

    /// It was asked, and has ended by itself.
    #[track_caller]
    pub fn assert_finished(&self) {
        self.assert(if self.is_deaf { &["begun", "finished"] } else { &["begun", "asked", "finished"] });
    }

    /// It was asked, and cut off later.
    #[track_caller]
    pub fn assert_asked_and_aborted(&self) {
        self.assert(&["begun", "asked", "aborted"]);
    }

    /// It was cut off, and that before it could hear anything.
    #[track_caller]
    pub fn assert_aborted_at_once(&self) {
        let unheard = self.flavor == Flavor::CurrentThread && !self.is(Work::HandedOn);
        match self.has("asked") {
            // On several threads it may hear of the signal as the abort is on its way.
            true if !unheard => self.assert_asked_and_aborted(),
            _ => self.assert(&["begun", "aborted"]),
        }
    }

    /// It has ended by itself if the grace was endless, and was aborted at once if there was no time.
    #[track_caller]
    pub fn assert_used(&self, grace: Option<Duration>) {
        if grace == ENDLESS { self.assert_finished() } else { self.assert_aborted_at_once() }
    }

    /// It was cut off, whatever it had heard.
    #[track_caller]
    pub fn assert_aborted(&self) {
        assert_eq!(self.log.events().last().map(String::as_str), Some("aborted"));
    }

    // ----- time -----

    /// A grace that is soon over.
    pub fn short(&self) -> Duration {
        match self.flavor {
            Flavor::CurrentThread => Duration::from_secs(5),
            Flavor::MultiThread => Duration::from_millis(5),
        }
    }

    /// Exactly so much time has passed, if there is a clock that can be trusted.
    #[track_caller]
    pub fn assert_took(&self, begin: Instant, time: Duration) {
        if self.flavor == Flavor::CurrentThread {
            assert_eq!(begin.elapsed(), time);
        }
    }
}

/// Writes what has become of the work, when that is dropped.
struct OnEnd {
    log: Log,
    event: &'static str,
}

impl Drop for OnEnd {
    fn drop(&mut self) {
        self.log.push(self.event);
    }
}

/// Makes a test of each rule in each cell: `a_rule::nested::current_thread`.
macro_rules! matrix {
    ($($rule:ident,)*) => {
        $(mod $rule {
            matrix!(@ $rule, task, Task);
            matrix!(@ $rule, nested, Nested);
            matrix!(@ $rule, try_all, TryAll);
            matrix!(@ $rule, handed_on, HandedOn);
        })*
    };
    (@ $rule:ident, $name:ident, $work:ident) => {
        mod $name {
            use crate::cell::{Flavor, Work, run};

            #[test]
            fn current_thread() {
                run(Flavor::CurrentThread, Work::$work, |cell| Box::pin(super::super::$rule(cell)));
            }

            #[test]
            fn multi_thread() {
                run(Flavor::MultiThread, Work::$work, |cell| Box::pin(super::super::$rule(cell)));
            }
        }
    };
}
