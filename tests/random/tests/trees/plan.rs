//! What a tree is made of, and how one is made up.

use std::fmt::{self, Debug};

use proptest::prelude::*;

/// The outermost pool, and what becomes of it.
#[derive(Clone, Debug)]
pub struct RootPlan {
    pub pool: PoolPlan,
    pub end: RootEnd,
}

/// What the owner of the outermost pool does. The numbers are times.
#[derive(Clone, Copy, Debug)]
pub enum RootEnd {
    Awaited,
    Dropped(u64),
    /// It is awaited under `aiodrive::timeout`.
    Timeout(u64),
    /// The task that it is awaited in is aborted.
    Aborted(u64),
    /// The runtime is dropped.
    RuntimeDropped(u64),
}

#[derive(Clone, Debug)]
pub struct PoolPlan {
    pub limit: Option<usize>,
    pub grace: u64,
    pub keep_open: bool,
    pub policy: Policy,
    pub cancel_after: Option<u64>,
    /// It is cancelled by a deadline, not by a signal.
    pub by_deadline: bool,
    pub abort_after: Option<u64>,
    /// It is run without a body.
    pub planned: bool,
    pub tasks: Vec<TaskPlan>,
    pub body: Act,
}

/// What `on_failure` says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Policy {
    Cancel,
    Collect,
    Discard,
}

#[derive(Clone, Debug)]
pub struct TaskPlan {
    pub depth: i32,
    pub daemon: bool,
    pub how: How,
    pub rules: TaskRules,
    /// It is spawned in the pool around the innermost one, if there is one.
    pub outer: bool,
    pub act: Act,
}

/// How a task differs from the others of its pool.
#[derive(Clone, Copy, Debug, Default)]
pub struct TaskRules {
    pub no_grace: bool,
    pub unlimited: bool,
    pub essential: bool,
    /// `true` if its failure closes the pool, `false` if it does not, whatever the pool's policy.
    pub closes: Option<bool>,
}

/// By what a task is spawned.
#[derive(Clone, Copy, Debug)]
pub enum How {
    Spawn,
    TrySpawn,
    /// `spawn_with_handle`, with the time after which the handle cancels it.
    Handle(Option<u64>),
    /// `start`, with whether the task ever says that it is ready.
    Start(bool),
    /// `spawn_local`, where there is a `LocalSet`; otherwise `spawn`.
    Local,
    /// `spawn_blocking`, where the clock is real; otherwise `spawn`.
    Blocking,
}

/// What a task, a body or a branch does.
#[derive(Clone)]
pub struct Act {
    pub work: Work,
    /// How long it takes after the work.
    pub delay: u64,
    pub end: End,
    pub at_drop: AtDrop,
}

#[derive(Clone, Debug)]
pub enum Work {
    Nothing,
    Spawn(Box<TaskPlan>),
    Pool(Box<PoolPlan>),
    /// A pool under `aiodrive::timeout`.
    Timeout(u64, Box<PoolPlan>),
    /// A pool whose future is dropped.
    Dropped(u64, Box<PoolPlan>),
    /// A pool in `shield`, which is awaited, or else dropped.
    Shield(bool, Box<PoolPlan>),
    Race(Vec<Act>),
    TryAll(Vec<Act>),
    WaitAll(Vec<Act>),
    /// A body, and how the exit handler ends.
    WithExit(Box<Act>, End),
}

#[derive(Clone, Copy, Debug)]
pub enum End {
    Ok,
    Err,
    Panic,
    Forever,
    /// It waits until it is asked to stop, takes some time, and returns `Ok` or, if `true`, an error.
    Polite(u64, bool),
}

/// What a destructor does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum AtDrop {
    Nothing,
    Panic,
    Spawn,
    Cancel,
}

/// On one line unless there is something in it, so that a tree can be read.
impl Debug for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { work, delay, end, at_drop } = self;
        match work {
            Work::Nothing => write!(f, "Act {{ delay: {delay}, end: {end:?}, at_drop: {at_drop:?} }}"),
            work => f
                .debug_struct("Act")
                .field("work", work)
                .field("then", &format_args!("{delay}, {end:?}, {at_drop:?}"))
                .finish(),
        }
    }
}

// ===== how one is made up =====

const LEVELS: usize = 3;

/// A time so long that whatever still goes on hangs; cut short where it would really pass.
pub const FOR_EVER: u64 = 10_000;

/// Which rules there are in a tree.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rules {
    /// Those that there were when the first seeds were found, so that these still give their trees.
    First,
    All,
}

impl Rules {
    /// True now and then, if that is one of the later rules. It draws nothing if there are none.
    fn sometimes(self, probability: f64) -> BoxedStrategy<bool> {
        match self {
            Self::First => Just(false).boxed(),
            Self::All => prop::bool::weighted(probability).boxed(),
        }
    }

    fn time(self, probability: f64) -> BoxedStrategy<Option<u64>> {
        match self {
            Self::First => Just(None).boxed(),
            Self::All => prop::option::weighted(probability, 0..12_u64).boxed(),
        }
    }

    fn of_task(self) -> impl Strategy<Value = TaskRules> {
        let decides = match self {
            Self::First => Just(None).boxed(),
            Self::All => prop::option::weighted(0.1, any::<bool>()).boxed(),
        };
        (self.sometimes(0.1), self.sometimes(0.1), self.sometimes(0.07), decides)
            .prop_map(|(no_grace, unlimited, essential, closes)| TaskRules { no_grace, unlimited, essential, closes })
    }
}

pub fn root(rules: Rules) -> impl Strategy<Value = RootPlan> {
    let end = prop_oneof![
        12 => Just(RootEnd::Awaited),
        1 => (0..12_u64).prop_map(RootEnd::Dropped),
        1 => (0..12_u64).prop_map(RootEnd::Timeout),
        1 => (0..12_u64).prop_map(RootEnd::Aborted),
        1 => (0..12_u64).prop_map(RootEnd::RuntimeDropped),
    ];
    let life = prop_oneof![1 => 1..60_u64, 1 => Just(FOR_EVER)];
    (pool(LEVELS, rules), end, life).prop_map(|(mut pool, end, life)| {
        // So that it comes to an end, and gives an error rather than a panic.
        pool.cancel_after.get_or_insert(life);
        if matches!(pool.body.end, End::Panic) {
            pool.body.end = End::Err;
        }
        RootPlan { pool, end }
    })
}

fn pool(level: usize, rules: Rules) -> BoxedStrategy<PoolPlan> {
    let policy = prop_oneof![8 => Just(Policy::Cancel), 1 => Just(Policy::Collect), 1 => Just(Policy::Discard)];
    let options = (
        prop::option::weighted(0.25, 1..4_usize),
        prop_oneof![2 => Just(0), 1 => 1..6_u64],
        prop::bool::weighted(0.1),
        policy,
        prop::option::weighted(0.25, 0..12_u64),
        prop::bool::weighted(0.15),
    );
    let tasks = prop::collection::vec(task(level, rules), 0..4);
    let ends = (rules.sometimes(0.3), rules.time(0.1));
    (options, tasks, act(level, false, rules), ends)
        .prop_map(|(options, tasks, body, (by_deadline, abort_after))| {
            let (limit, grace, keep_open, policy, mut cancel_after, planned) = options;
            if keep_open {
                cancel_after.get_or_insert(5);
            }
            PoolPlan { limit, grace, keep_open, policy, cancel_after, by_deadline, abort_after, planned, tasks, body }
        })
        .boxed()
}

fn task(level: usize, rules: Rules) -> BoxedStrategy<TaskPlan> {
    let how = prop_oneof![
        6 => Just(How::Spawn),
        1 => Just(How::TrySpawn),
        2 => prop::option::of(0..6_u64).prop_map(How::Handle),
        1 => any::<bool>().prop_map(How::Start),
        1 => Just(How::Local),
        1 => Just(How::Blocking),
    ];
    let depth = prop_oneof![4 => Just(0), 1 => Just(-1), 1 => Just(1), 1 => Just(2)];
    (depth, prop::bool::weighted(0.15), how, prop::bool::weighted(0.1), act(level, true, rules), rules.of_task())
        .prop_map(|(depth, daemon, how, outer, act, rules)| TaskPlan { depth, daemon, how, rules, outer, act })
        .boxed()
}

/// Most of what is not at the bottom has something below it.
fn act(level: usize, panics: bool, rules: Rules) -> BoxedStrategy<Act> {
    let at_drop = prop_oneof![
        12 => Just(AtDrop::Nothing),
        1 => Just(AtDrop::Panic),
        1 => Just(AtDrop::Spawn),
        1 => Just(AtDrop::Cancel),
    ];
    (work(level, rules), 0..6_u64, end(panics), at_drop)
        .prop_map(|(work, delay, end, at_drop)| Act { work, delay, end, at_drop })
        .boxed()
}

fn work(level: usize, rules: Rules) -> BoxedStrategy<Work> {
    if level == 0 {
        return Just(Work::Nothing).boxed();
    }
    let below = level - 1;
    let acts = || prop::collection::vec(act(below, true, rules), 1..4);
    let boxed = || pool(below, rules).prop_map(Box::new);
    prop_oneof![
        8 => Just(Work::Nothing),
        2 => task(below, rules).prop_map(|task| Work::Spawn(Box::new(task))),
        4 => boxed().prop_map(Work::Pool),
        1 => (0..8_u64, boxed()).prop_map(|(limit, pool)| Work::Timeout(limit, pool)),
        1 => (0..8_u64, boxed()).prop_map(|(limit, pool)| Work::Dropped(limit, pool)),
        1 => (any::<bool>(), boxed()).prop_map(|(awaited, mut pool)| {
            // Nothing else ends it.
            pool.cancel_after.get_or_insert(5);
            Work::Shield(awaited, pool)
        }),
        1 => acts().prop_map(Work::Race),
        1 => acts().prop_map(Work::TryAll),
        1 => acts().prop_map(Work::WaitAll),
        1 => (act(below, true, rules), exit()).prop_map(|(body, exit)| Work::WithExit(Box::new(body), exit)),
    ]
    .boxed()
}

fn end(panics: bool) -> impl Strategy<Value = End> {
    prop_oneof![
        12 => Just(End::Ok),
        4 => Just(End::Err),
        // A body that panics hides the failures of its pool, so that little can be said of them.
        if panics { 2 } else { 1 } => Just(End::Panic),
        2 => Just(End::Forever),
        3 => (0..5_u64, prop::bool::weighted(0.3)).prop_map(|(time, fails)| End::Polite(time, fails)),
    ]
}

fn exit() -> impl Strategy<Value = End> {
    prop_oneof![3 => Just(End::Ok), 1 => Just(End::Err), 1 => Just(End::Panic)]
}
