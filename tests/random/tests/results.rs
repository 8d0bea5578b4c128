//! Random programs that use a `TaskGroup` or a `map`, against a model: which child may give which item, how many there
//! may be at a time, and where each failure goes.

#[path = "../../it/support/mod.rs"]
#[allow(unused, reason = "it is the library of the tests in `it`")]
mod support;

use std::collections::BTreeSet;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::Poll;

use aiodrive::{BoxError, Failure, Pool, PoolError, TaskError, TaskGroup, map};
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::task::yield_now;

use self::support::{Alive, busy, on_both, poll_once, quiet_panic};

/// What a child does: it takes some turns, and then ends.
#[derive(Clone, Copy, Debug)]
struct Plan {
    turns: usize,
    end: End,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    Value,
    /// The same, with a pool that is left below it.
    ValueAndPool,
    Error,
    Panic,
}

fn plan() -> impl Strategy<Value = Plan> {
    let end =
        prop_oneof![4 => Just(End::Value), 1 => Just(End::ValueAndPool), 2 => Just(End::Error), 1 => Just(End::Panic)];
    (0..4_usize, end).prop_map(|(turns, end)| Plan { turns, end })
}

/// What the children of a program have in common.
#[derive(Clone, Default)]
struct World {
    alive: Alive,
    running: Alive,
    /// Those that have failed, whether or not anybody heard of it.
    failed: Arc<Mutex<BTreeSet<usize>>>,
}

impl World {
    fn child(&self, n: usize, plan: Plan) -> impl Future<Output = Result<usize, BoxError>> + Send + use<> {
        let (world, counted) = (self.clone(), self.alive.one());
        async move {
            let _counted = (counted, world.running.one());
            for _ in 0..plan.turns {
                yield_now().await;
            }
            if matches!(plan.end, End::Error | End::Panic) {
                world.failed.lock().unwrap().insert(n);
            }
            match plan.end {
                End::Value => Ok(n),
                End::ValueAndPool => {
                    drop(poll_once(world.pool().as_mut()).await);
                    Ok(n)
                }
                End::Error => Err(format!("child {n}").into()),
                End::Panic => quiet_panic("a bug"),
            }
        }
    }

    /// Its task ends some turns after it was aborted.
    fn pool(&self) -> Pin<Box<dyn Future<Output = Result<(), PoolError>> + Send>> {
        let counted = self.alive.slow();
        Box::pin(Pool::open(async |pool: Pool| {
            pool.spawn(async move {
                let _counted = counted;
                busy().await;
            });
            std::future::pending().await
        }))
    }

    /// At the end of the pool around a program: nothing is left, and each failure is known once.
    fn judge(&self, mut known: Vec<usize>, ended: Result<(), PoolError>) {
        assert_eq!(self.alive.count(), 0, "something is left");
        let error = ended.err();
        assert!(
            error.as_ref().is_none_or(|error| error.failures().is_empty()),
            "more than cleanup failures: {error:?}"
        );
        known.extend(error.iter().flat_map(PoolError::cleanup_failures).map(number));
        known.sort();
        assert_eq!(
            known,
            self.failed.lock().unwrap().iter().copied().collect::<Vec<_>>(),
            "what is known of failures, and what has failed"
        );
    }
}

/// Which child it was: the names say that.
fn number(failed: &TaskError) -> usize {
    failed.task().name().unwrap().strip_prefix("child ").unwrap().parse().unwrap()
}

/// Which child has given the item, and whether it has failed; fails if that was not planned.
fn check(item: Result<usize, TaskError>, plan: impl Fn(usize) -> Plan, aborted: bool) -> (usize, bool) {
    let failed = match item {
        Ok(n) => {
            assert!(matches!(plan(n).end, End::Value | End::ValueAndPool), "{n} was to fail");
            return (n, false);
        }
        Err(failed) => failed,
    };
    let n = number(&failed);
    match failed.failure() {
        Failure::Error(_) => assert_eq!(plan(n).end, End::Error),
        Failure::Panic(_) => assert_eq!(plan(n).end, End::Panic),
        _ => assert!(aborted, "child {n} was aborted by nobody"),
    }
    (n, !matches!(failed.failure(), Failure::Cancelled))
}

// ===== map =====

#[derive(Clone, Debug)]
struct MapProgram {
    limit: usize,
    is_ordered: bool,
    plans: Vec<Plan>,
    /// After how many results the consumer stops.
    stop: usize,
    /// How many turns it takes before each of them; its calls of `next` are dropped while that goes on.
    pauses: Vec<usize>,
}

fn map_program() -> impl Strategy<Value = MapProgram> {
    (1..6_usize, any::<bool>(), vec(plan(), 0..16), 0..24_usize, vec(0..3_usize, 24))
        .prop_map(|(limit, is_ordered, plans, stop, pauses)| MapProgram { limit, is_ordered, plans, stop, pauses })
}

async fn run_map(program: &MapProgram) {
    let (world, mut known) = (World::default(), Vec::new());
    let MapProgram { limit, is_ordered, plans, stop, pauses } = program;
    let ended = Pool::open(async |_: Pool| {
        let taken = Mutex::new(BTreeSet::new());
        let items = plans.iter().enumerate().inspect(|(n, _)| {
            assert!(n + 1 - taken.lock().unwrap().len() <= *limit, "too many were pulled");
        });
        let mapped = map(*limit, items, |(n, plan): (usize, &Plan)| world.child(n, *plan));
        let mapped = mapped.name(|n| format!("child {n}"));
        let mut mapped = if *is_ordered { mapped } else { mapped.unordered() };
        for pause in pauses.iter().take(*stop) {
            for _ in 0..*pause {
                if let Poll::Ready(item) = poll_once(pin!(mapped.next())).await {
                    known.extend(take(item, &taken, program));
                }
                yield_now().await;
            }
            assert!(world.running.count() <= *limit, "{} run, limit {limit}", world.running.count());
            known.extend(take(mapped.next().await, &taken, program));
        }
        Ok(())
    });
    let ended = ended.await;
    world.judge(known, ended);
}

/// The child, if it has failed.
fn take(item: Option<Result<usize, TaskError>>, taken: &Mutex<BTreeSet<usize>>, program: &MapProgram) -> Option<usize> {
    let mut taken = taken.lock().unwrap();
    let Some(item) = item else {
        assert_eq!(taken.len(), program.plans.len(), "the end came too early");
        return None;
    };
    let (n, has_failed) = check(item, |n| program.plans[n], false);
    assert!(!program.is_ordered || n == taken.len(), "{n} came out of order");
    assert!(taken.insert(n), "{n} came twice");
    has_failed.then_some(n)
}

async fn run_collect(program: &MapProgram) {
    let (world, mut known) = (World::default(), Vec::new());
    let ended = Pool::open(async |_: Pool| {
        let mapped = map(program.limit, 0..program.plans.len(), |n| world.child(n, program.plans[n]));
        let mapped = mapped.name(|n| format!("child {n}"));
        let mapped = if program.is_ordered { mapped } else { mapped.unordered() };
        match mapped.collect().await {
            Ok(mut values) => {
                assert!(world.failed.lock().unwrap().is_empty(), "values, although something has failed");
                values.sort_by_key(|n| if program.is_ordered { 0 } else { *n });
                assert_eq!(
                    values,
                    (0..program.plans.len()).collect::<Vec<_>>(),
                    "values of some children are missing, or out of order"
                );
            }
            Err(error) => {
                assert!(!error.failures().is_empty() && error.cleanup_failures().is_empty(), "{error:?}");
                known.extend(error.failures().iter().map(number));
            }
        }
        assert_eq!(world.alive.count(), 0, "something is left when it has ended");
        Ok(())
    });
    let ended = ended.await;
    world.judge(known, ended);
}

// ===== TaskGroup =====

#[derive(Clone, Copy, Debug)]
enum Step {
    Spawn(Plan),
    /// If there is a child.
    Next,
    /// A `next` that is dropped after one poll.
    Poll,
    Turn,
    AbortAll,
    Shutdown,
    /// A `shutdown` that is dropped after one poll.
    PollShutdown,
    /// The group is dropped, and another one is made.
    Drop,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => plan().prop_map(Step::Spawn),
        4 => Just(Step::Next),
        2 => Just(Step::Poll),
        4 => Just(Step::Turn),
        1 => Just(Step::AbortAll),
        1 => Just(Step::Shutdown),
        1 => Just(Step::PollShutdown),
        1 => Just(Step::Drop),
    ]
}

async fn run_group(steps: &[Step]) {
    let (world, mut known) = (World::default(), Vec::new());
    let ended = Pool::open(async |_: Pool| {
        let mut plans = Vec::new();
        // Those that were not given, and those of them that were aborted.
        let (mut left, mut aborted) = (BTreeSet::new(), BTreeSet::new());
        let (mut group, mut has_dropped) = (TaskGroup::new(), false);
        for step in steps {
            let item = match *step {
                Step::Spawn(plan) => {
                    let n = plans.len();
                    group.build_task().name(format!("child {n}")).spawn(world.child(n, plan));
                    plans.push(plan);
                    left.insert(n);
                    None
                }
                Step::Next if left.is_empty() => None,
                Step::Next => Some(group.next().await),
                Step::Poll => match poll_once(pin!(group.next())).await {
                    Poll::Ready(item) => Some(item),
                    Poll::Pending => None,
                },
                Step::Turn => {
                    yield_now().await;
                    None
                }
                Step::AbortAll => {
                    group.abort_all();
                    aborted.clone_from(&left);
                    None
                }
                Step::Shutdown => {
                    known.extend(group.shutdown().await.iter().map(number));
                    assert!(has_dropped || world.alive.count() == 0, "something is left after the shutdown");
                    left.clear();
                    None
                }
                Step::PollShutdown => {
                    if let Poll::Ready(failures) = poll_once(pin!(group.shutdown())).await {
                        known.extend(failures.iter().map(number));
                    }
                    // Values and aborted ones are gone; how many, only the group knows.
                    aborted.clone_from(&left);
                    known.extend(group.shutdown().await.iter().map(number));
                    left.clear();
                    None
                }
                Step::Drop => {
                    (group, has_dropped) = (TaskGroup::new(), true);
                    left.clear();
                    None
                }
            };
            match item {
                None => {}
                Some(None) => assert!(left.is_empty(), "the end came too early"),
                Some(Some(item)) => {
                    let n = item.as_ref().map_or_else(number, |n| *n);
                    let (n, has_failed) = check(item, |n| plans[n], aborted.contains(&n));
                    assert!(left.remove(&n), "{n} came twice, or from a group that is gone");
                    known.extend(has_failed.then_some(n));
                }
            }
            assert_eq!(group.len(), left.len(), "how many were not given, after {step:?}");
        }
        Ok(())
    });
    let ended = ended.await;
    world.judge(known, ended);
}

fn config() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(50) }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn map_does_as_the_model(program in map_program()) {
        on_both(|| run_map(&program));
    }

    #[test]
    fn collect_does_as_the_model(program in map_program()) {
        on_both(|| run_collect(&program));
    }

    #[test]
    fn a_group_does_as_the_model(steps in vec(step(), 0..40)) {
        on_both(|| run_group(&steps));
    }
}
