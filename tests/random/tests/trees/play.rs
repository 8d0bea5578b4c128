//! Does what a plan says.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use aiodrive::{
    BoxError, ClosingReason, Exit, OnFailure, Pool, PoolBuilder, PoolError, TaskError, TaskStopped, cancellation_token,
    race, shield, timeout, try_all, wait_all, with_exit,
};

use tokio::time::Instant;

use crate::found::{self, Several};
use crate::plan::{Act, AtDrop, End, How, Policy, PoolPlan, TaskPlan, TaskRules, Work};
use crate::world::{
    Boxed, Clock, Decides, Guest, Leave, Outcome, Owner, Place, Realm, RealmKind, Stay, StayKind, Value, World,
};

type Result<T = Value, E = BoxError> = std::result::Result<T, E>;

/// Where a part of the plan is carried out.
#[derive(Clone)]
pub struct Here {
    world: World,
    place: Option<Arc<Place>>,
    /// The pools around, the innermost last.
    pools: Vec<(Pool, Arc<Realm>)>,
    /// The task itself, in what it does by itself.
    task: Option<Arc<Stay>>,
    /// Whether there is a `LocalSet`.
    local: bool,
}

impl Here {
    pub fn outside(world: &World, local: bool) -> Self {
        Self { world: world.clone(), place: None, pools: Vec::new(), task: None, local }
    }

    fn place(&self) -> &Arc<Place> {
        self.place.as_ref().expect("only pools are outside")
    }

    fn at(&self, place: &Arc<Place>) -> Self {
        Self { place: Some(Arc::clone(place)), ..self.clone() }
    }

    fn error(&self, cause: impl Into<Option<BoxError>>) -> BoxError {
        self.world.error(self.place(), cause.into())
    }

    /// The error of a nested pool as its task returns it: as it is if the pool was only cancelled.
    fn pool_error(&self, error: PoolError) -> BoxError {
        if error.is_cancelled() { error.into() } else { self.error(BoxError::from(error)) }
    }

    fn guest<T>(&self, stay: &Arc<Stay>, at_drop: AtDrop, future: Boxed<T>) -> Guest<T> {
        let here = self.at(&stay.place);
        Guest::new(stay, at_drop, move |at_drop| here.at_drop(at_drop), future)
    }

    /// What a destructor does.
    fn at_drop(self, at_drop: AtDrop) {
        if at_drop == AtDrop::Cancel {
            // Has no number: it comes before the failure of its own task, which happened earlier.
            self.pools.last().into_iter().for_each(|(pool, _)| pool.cancel_with("in a destructor"));
            return;
        }
        let act = Act { work: Work::Nothing, delay: 0, end: End::Ok, at_drop: AtDrop::Nothing };
        let rules = TaskRules::default();
        self.spawn(TaskPlan { depth: 0, daemon: false, how: How::Spawn, rules, outer: false, act }, false);
    }

    // ----- acts -----

    fn act(&self, act: Act) -> Boxed<Result> {
        let here = self.clone();
        Box::pin(async move {
            here.work(act.work).await?;
            here.world.pass(act.delay).await;
            here.end(act.end).await
        })
    }

    async fn end(&self, end: End) -> Result {
        match end {
            End::Ok => Ok(self.world.count()),
            End::Err => Err(self.error(None)),
            End::Panic => self.world.panic(self.place()),
            End::Forever => std::future::pending().await,
            End::Polite(time, fails) => {
                let mut courtesy = self.courtesy();
                cancellation_token().cancelled().await;
                courtesy.asked();
                match self.place().asked_by() {
                    Some(place) => place.check_order("is asked to stop"),
                    None => self.world.broken("something was asked that nobody asks"),
                }
                self.world.pass(time).await;
                courtesy.done();
                if fails { Err(self.error(None)) } else { Ok(self.world.count()) }
            }
        }
    }

    fn courtesy(&self) -> Courtesy {
        let late = cancellation_token().is_cancelled();
        let stay = self.task.clone().filter(|stay| !late && Arc::ptr_eq(&stay.place, self.place()));
        Courtesy { stay, asked: None }
    }

    async fn work(&self, work: Work) -> Result<()> {
        match work {
            Work::Nothing => {}
            Work::Spawn(task) => drop(self.spawn(*task, false)),
            Work::Pool(plan) => drop(self.pool(*plan).await.map_err(|error| self.pool_error(error))?),
            Work::Timeout(limit, plan) => {
                let here = self.function(RealmKind::Function(Decides::Nothing));
                let pool = here.pool(*plan);
                let limited = here.owner(Box::pin(timeout(Duration::from_millis(limit), pool)));
                if let Ok(ended) = limited.await {
                    ended.map_err(|error| self.pool_error(error))?;
                }
            }
            Work::Dropped(limit, plan) => {
                tokio::select! {
                    biased;
                    ended = self.pool(*plan) => drop(ended.map_err(|error| self.pool_error(error))?),
                    () = self.world.pass(limit) => {}
                }
            }
            Work::Shield(awaited, plan) => {
                let here = self.function(RealmKind::Shield).elsewhere();
                let pool = here.pool(*plan);
                let shielded = {
                    let here = here.clone();
                    Box::pin(async move { pool.await.map_err(|error| here.pool_error(error)) })
                };
                let shield = shield(here.part(AtDrop::Nothing, Output::of(&self.world, shielded)));
                if awaited {
                    shield.await.take()?;
                } else {
                    drop(shield);
                }
            }
            Work::Race(acts) => {
                let here = self.function(RealmKind::Function(Decides::End));
                let branch = |act: Act| here.part(act.at_drop, Output::of(&self.world, here.elsewhere().act(act)));
                let race = race(acts.into_iter().map(branch).collect::<Vec<_>>());
                here.owner(Box::pin(race)).await.1.take()?;
            }
            Work::TryAll(acts) => {
                let here = self.function(RealmKind::Function(Decides::Failure));
                let branch = |act: Act| here.part(act.at_drop, here.elsewhere().act(act));
                let all = try_all(acts.into_iter().map(branch).collect::<Vec<_>>());
                let values = here.owner(Box::pin(all)).await;
                values.map_err(|error| self.error(BoxError::from(error)))?;
            }
            Work::WaitAll(acts) => {
                let here = self.function(RealmKind::Function(Decides::Nothing));
                let branch = |act: Act| here.part(act.at_drop, here.elsewhere().act(act));
                let all = wait_all(acts.into_iter().map(branch).collect::<Vec<_>>());
                let ended = here.owner(Box::pin(all)).await;
                let failures: Vec<_> =
                    ended.into_iter().filter_map(|ended: Result<_, TaskError>| ended.err()).collect();
                if !failures.is_empty() {
                    return Err(self.error(BoxError::from(Several(failures))));
                }
            }
            Work::WithExit(body, exit) => self.with_exit(*body, exit).await?,
        }
        Ok(())
    }

    /// The same, in a new call of a function.
    fn function(&self, kind: RealmKind) -> Self {
        self.at(&Realm::new(&self.world, kind, Some(self.place())).at(0))
    }

    fn owner<T>(&self, future: Boxed<T>) -> Owner<T> {
        Owner::new(&self.place().realm, future, |_, _| {})
    }

    /// The same, in a task of its own, which may be on another thread.
    fn elsewhere(&self) -> Self {
        Self { local: false, ..self.clone() }
    }

    /// A part of a task that is there from now on.
    fn part<T>(&self, at_drop: AtDrop, future: Boxed<T>) -> Guest<T> {
        let stay = Stay::new(self.place(), StayKind::Part);
        stay.admit();
        self.guest(&stay, at_drop, future)
    }

    async fn with_exit(&self, act: Act, exit: End) -> Result<()> {
        let here = self.function(RealmKind::Function(Decides::Nothing));
        let stay = Stay::new(here.place(), StayKind::Part);
        // Its panic would be that of the closure around, which then returns nothing.
        let at_drop = if act.at_drop == AtDrop::Panic { AtDrop::Nothing } else { act.at_drop };
        let body = {
            let (world, act) = (self.world.clone(), here.act(act));
            let body: Boxed<Result> = Box::pin(async move {
                world.exit(0);
                act.await
            });
            here.guest(&stay, at_drop, body)
        };
        let handler_here = here.elsewhere();
        let visit = with_exit(
            self.world.count(),
            async move |_: &mut Value| body.await,
            move |_resource, how| {
                let here = handler_here;
                here.world.exit(1);
                here.check_exit(&stay, how);
                let inside = here.clone();
                let handler: Boxed<Result<()>> = Box::pin(async move {
                    inside.world.pass(1).await;
                    inside.world.exit(2);
                    inside.end(exit).await.map(drop)
                });
                here.part(AtDrop::Nothing, handler)
            },
        );
        let ended = here.owner(Box::pin(visit)).await;
        ended.map(drop).map_err(|error| self.error(BoxError::from(error)))
    }

    fn check_exit(&self, body: &Stay, how: Exit) {
        let failed = body.returned_fault.load(SeqCst) || body.returned_other.load(SeqCst);
        let is_as_said = match how {
            Exit::Finished => body.returned_ok.load(SeqCst),
            Exit::Failed => failed,
            Exit::Panicked => body.panicked.load(SeqCst),
            Exit::Cancelled => !failed && !body.returned_ok.load(SeqCst),
        };
        self.world.check(is_as_said, || format!("an exit handler was told {how:?}"));
    }

    // ----- pools -----

    pub fn pool(&self, plan: PoolPlan) -> Owner<Result<Value, PoolError>> {
        let kind = RealmKind::Pool { kept_open: plan.keep_open };
        let grace = Duration::from_millis(plan.grace);
        let may_abort = plan.abort_after.is_some();
        let realm = Realm::of_pool(&self.world, kind, plan.limit, grace, self.place.as_ref());
        realm.may_abort.store(may_abort, SeqCst);
        let builder = self.builder(&realm, &plan);
        let PoolPlan { cancel_after, by_deadline, abort_after, planned, tasks, body, policy, .. } = plan;
        let cancel_on = move |here: &Self| {
            let (pool, realm) = here.pools.last().expect("it is in a pool");
            let (world, place) = (&here.world, realm.at(0));
            let after = |time| {
                let (world, place) = (world.clone(), Arc::clone(&place));
                async move {
                    world.pass(time).await;
                    // What can abort goes on until the end. A pool that closes already does so for another reason.
                    if !Pool::<BoxError>::current().is_closed() {
                        world.cancellation(&place);
                    }
                }
            };
            match cancel_after {
                Some(time) if by_deadline => pool.cancel_at(Some(Instant::now() + world.real(time))),
                Some(time) => pool.cancel_on(after(time)),
                None => {}
            }
            if let Some(time) = abort_after {
                pool.abort_on(after(time));
            }
        };
        let future: Boxed<_> = if planned {
            let pool = builder.build();
            let here = self.inside(&pool, &realm);
            cancel_on(&here);
            let planned: Vec<_> = tasks.into_iter().filter_map(|task| here.spawn(task, true)).collect();
            let (world, inner) = (self.world.clone(), Arc::clone(&realm));
            realm.body_returned.store(true, SeqCst);
            // Called here: tasks hold handles of a pool that, if it never runs, holds them.
            let run = pool.clone().run();
            Box::pin(async move {
                run.await?;
                let has_run = |stay: &Arc<Stay>| {
                    stay.has_begun() || stay.place.daemon || stay.cancelled.load(SeqCst) || !stay.is_of(&inner)
                };
                let completed = matches!(pool.closing_reason(), None | Some(ClosingReason::Completed));
                // What a runtime cuts off as it shuts down is a failure, which this policy discards.
                let discards = policy == Policy::Discard && world.is_gone();
                let all = !completed || discards || planned.iter().all(has_run);
                world.check(all, || "a planned task was forgotten".to_owned());
                Ok(world.count())
            })
        } else {
            let (outside, inner) = (self.clone(), Arc::clone(&realm));
            Box::pin(builder.open(move |pool: Pool| {
                let here = outside.inside(&pool, &inner);
                let stay = Stay::new(here.place(), StayKind::Body);
                stay.admit();
                let (at_drop, inside) = (body.at_drop, here.clone());
                let future: Boxed<Result> = Box::pin(async move {
                    cancel_on(&inside);
                    tasks.into_iter().for_each(|task| drop(inside.spawn(task, false)));
                    inside.act(body).await
                });
                here.guest(&stay, at_drop, future)
            }))
        };
        let check = if policy == Policy::Cancel { check_cause } else { check_return };
        Owner::new(&realm, future, check)
    }

    fn builder(&self, realm: &Arc<Realm>, plan: &PoolPlan) -> PoolBuilder {
        let mut builder = Pool::builder().name(format!("pool {}", realm.id)).keep_open(plan.keep_open);
        // Without one, a pool has the time of the task around it.
        if plan.grace > 0 {
            builder = builder.grace(Duration::from_millis(plan.grace));
        }
        if let Some(limit) = plan.limit {
            builder = builder.limit(limit);
        }
        let world = self.world.clone();
        match plan.policy {
            Policy::Cancel => builder,
            Policy::Collect => builder.on_failure(|_: &TaskError| OnFailure::Collect),
            Policy::Discard => builder.on_failure(move |failed: &TaskError| {
                found::in_task_error(&world, failed);
                OnFailure::Discard
            }),
        }
    }

    /// In the body of a pool.
    fn inside(&self, pool: &Pool, realm: &Arc<Realm>) -> Self {
        let mut here = self.at(&realm.at(0));
        if here.pools.is_empty() {
            self.world.set_root(Some(pool.clone()));
        }
        here.pools.push((pool.clone(), Arc::clone(realm)));
        here
    }

    /// Spawns a task; a planned one is not there before it is polled.
    fn spawn(&self, plan: TaskPlan, planned: bool) -> Option<Arc<Stay>> {
        let mut here = self.clone();
        let outer = plan.outer && here.pools.len() > 1;
        if outer {
            here.pools.pop();
        }
        // The pool around runs.
        let planned = planned && !outer;
        let (pool, realm) = here.pools.last().cloned()?;
        let place = realm.place(plan.depth, plan.daemon);
        let how = here.how(&pool, &plan, planned);
        here.place = Some(Arc::clone(&place));
        here.local = here.local && matches!(how, How::Local);
        let stay = Stay::new(&place, StayKind::Task { limited: !plan.daemon && !plan.rules.unlimited });
        stay.no_grace.store(plan.rules.no_grace, SeqCst);
        if plan.rules.closes == Some(false) {
            realm.collects.store(true, SeqCst);
        }
        here.task = Some(Arc::clone(&stay));
        let plain = || pool.build_task().depth(plan.depth);
        let builder = || {
            let TaskRules { no_grace, unlimited, essential, closes } = plan.rules;
            let mut builder = plain();
            if plan.daemon {
                builder = builder.daemon();
            }
            if no_grace {
                builder = builder.no_grace();
            }
            if unlimited {
                builder = builder.unlimited();
            }
            if essential {
                builder = builder.essential().name(found::ESSENTIAL);
            }
            if let Some(closes) = closes {
                builder = builder.on_failure(if closes { OnFailure::Cancel } else { OnFailure::Collect });
            }
            builder
        };
        let guest = {
            let (here, stay, at_drop) = (here.clone(), Arc::clone(&stay), plan.act.at_drop);
            move |act: Boxed<Result>| {
                let act: Boxed<Result<()>> = Box::pin(async move { act.await.map(drop) });
                here.guest(&stay, at_drop, act)
            }
        };
        let end = plan.act.end;
        let act = here.act(plan.act.clone());
        match how {
            How::Spawn => builder().spawn(guest(act)),
            How::TrySpawn => drop(builder().try_spawn(guest(act))),
            How::Local => builder().spawn_local(guest(act)),
            How::Handle(cancel_after) => {
                let handle = builder().spawn_with_handle(here.guest(&stay, plan.act.at_drop, act));
                let (world, stay) = (here.world.clone(), Arc::clone(&stay));
                here.watch(plain(), async move {
                    let mut cancelled = None;
                    if let Some(time) = cancel_after {
                        world.pass(time).await;
                        stay.cancelled.store(true, SeqCst);
                        handle.cancel();
                        cancelled = world.now();
                    }
                    let mut waits = Waits(Some(Arc::clone(&stay)));
                    let ended = handle.await;
                    waits.0 = None;
                    world.check(cancelled.is_none() || cancelled == world.now(), || "a handle was ignored".to_owned());
                    world.check(stay.is_dropped(), || "a handle is ready before its task is gone".to_owned());
                    check_handle(&world, &stay, ended.map(drop));
                });
            }
            How::Start(ready) => {
                let (world, told) = (here.world.clone(), Arc::new(AtomicBool::new(false)));
                let tell = Arc::clone(&told);
                let call = builder().start(move |started| {
                    let act: Boxed<Result> = Box::pin(async move {
                        if ready {
                            tell.store(true, SeqCst);
                            started.ready(world.count());
                        } else {
                            drop(started);
                        }
                        act.await
                    });
                    guest(act)
                });
                let (world, stay) = (here.world.clone(), Arc::clone(&stay));
                here.watch(plain(), async move {
                    let mut waits = Waits(Some(Arc::clone(&stay)));
                    let answer = call.await.map(drop);
                    waits.0 = None;
                    match answer {
                        Ok(()) => world.check(told.load(SeqCst), || "it was never ready".to_owned()),
                        Err(TaskStopped::NotReady) => world.check(!ready, || "it was ready".to_owned()),
                        ended => check_handle(&world, &stay, ended),
                    }
                });
            }
            How::Blocking => {
                let (leave, counted, here) = (Leave(Arc::clone(&stay)), here.world.count(), here.clone());
                builder().spawn_blocking(move || {
                    let _held = (&leave, counted);
                    leave.0.enter();
                    match end {
                        End::Err | End::Polite(_, true) => Err(here.error(None)),
                        End::Panic => here.world.panic(here.place()),
                        _ => Ok(()),
                    }
                });
            }
        }
        if !planned {
            stay.admit();
        }
        Some(stay)
    }

    /// How it can be spawned here.
    fn how(&self, pool: &Pool, plan: &TaskPlan, planned: bool) -> How {
        match plan.how {
            // The threads for blocking work know nothing of the paused clock.
            How::Blocking if self.world.clock() == Clock::Paused => How::Spawn,
            How::Local if planned || plan.outer || !self.local || pool.is_closed() => How::Spawn,
            how => how,
        }
    }

    /// Has a daemon look how a task ends.
    fn watch(&self, builder: aiodrive::TaskBuilder<'_>, future: impl Future<Output = ()> + Send + 'static) {
        let stay = Stay::new(self.place(), StayKind::Task { limited: false });
        let future: Boxed<Result<()>> = Box::pin(async move {
            future.await;
            Ok(())
        });
        builder.daemon().spawn(self.guest(&stay, AtDrop::Nothing, future));
    }
}

/// A task that waits until it is asked to stop, and then has the grace of its pool.
struct Courtesy {
    /// `None` if it is done, or nothing is known of it.
    stay: Option<Arc<Stay>>,
    asked: Option<Instant>,
}

impl Courtesy {
    fn asked(&mut self) {
        self.asked = self.stay.as_ref().and_then(|stay| stay.place.realm.world.now());
    }

    fn done(&mut self) {
        self.stay = None;
    }
}

impl Drop for Courtesy {
    fn drop(&mut self) {
        let Some(stay) = self.stay.take().filter(|stay| !stay.cancelled.load(SeqCst)) else { return };
        let realm = &stay.place.realm;
        // An abort from outside may come before the grace is over.
        let may_be_aborted = stay.no_grace.load(SeqCst) || realm.may_abort.load(SeqCst);
        let has_all_its_time = !realm.grace.is_zero() && realm.is_outermost() && !may_be_aborted;
        let Some(now) = realm.world.now().filter(|_| has_all_its_time) else { return };
        match self.asked {
            Some(asked) => realm.world.check(asked + realm.grace <= now, || {
                format!("a task of {} had {:?} of {:?}", stay.place, now - asked, realm.grace)
            }),
            None => realm.world.broken(format!("a task of {} was not asked", stay.place)),
        }
    }
}

/// Looks, if it is cut off, whether somebody was to be told something.
struct Waits(Option<Arc<Stay>>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.iter().for_each(|stay| stay.check_told());
    }
}

/// The output of a branch or of shielded work: an error that nobody takes is a value that nobody takes.
pub struct Output(Option<Result>, World);

impl Output {
    fn of(world: &World, future: Boxed<Result>) -> Boxed<Self> {
        let world = world.clone();
        Box::pin(async move { Self(Some(future.await), world) })
    }

    fn take(mut self) -> Result {
        self.0.take().expect("it was not taken")
    }
}

impl Outcome for Output {
    fn result(&self) -> Result<(), &BoxError> {
        self.0.as_ref().map_or(Ok(()), |result| result.result())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(Err(error)) = &self.0 {
            found::in_error(&self.1, error);
        }
    }
}

// ----- checks -----

/// A value is there if and only if the body has returned, and nothing has failed.
fn check_return(realm: &Realm, ended: &Result<Value, PoolError>) {
    let returned = realm.body_returned.load(SeqCst);
    match ended {
        Ok(_) => realm.world.check(returned, || format!("pool {} has a value and its body has not", realm.id)),
        Err(error) if error.is_cancelled() => {
            realm.world.check(!returned, || format!("pool {} has lost the value of its body", realm.id));
        }
        Err(error) => realm.world.check(error.stuck().is_empty(), || "a task was given up on".to_owned()),
    }
    if let (Err(error), true) = (ended, realm.is_shielded()) {
        let asked = matches!(error.closing_reason(), ClosingReason::ParentClosing(_));
        realm.world.check(!asked, || format!("pool {} was asked to stop in a shield", realm.id));
    }
    if let (Err(error), Clock::Paused) = (ended, realm.world.clock()) {
        let numbers: Vec<_> = error.failures().iter().filter_map(|failed| number_in(realm, failed)).collect();
        let sorted = numbers.is_sorted_by(|one, next| one < next);
        realm.world.check(sorted, || format!("the failures of pool {} are out of order: {numbers:?}", realm.id));
    }
}

/// The number of a failure that has come up in the pool itself, and so was known there at once.
fn number_in(realm: &Realm, failed: &TaskError) -> Option<usize> {
    found::number_of(failed).filter(|number| realm.is_place_of(*number))
}

/// What was first is what closed the pool.
fn check_cause(realm: &Realm, ended: &Result<Value, PoolError>) {
    check_return(realm, ended);
    let (Err(error), Clock::Paused) = (ended, realm.world.clock()) else { return };
    if realm.collects.load(SeqCst) {
        return;
    }
    let first = error.first().and_then(|failed| number_in(realm, failed));
    let cancelled = realm.first_cancellation();
    let (Some(first), Some(cancelled)) = (first, cancelled) else { return };
    let holds = match error.closing_reason() {
        ClosingReason::Failed => first < cancelled,
        ClosingReason::Cancelled(_) => cancelled < first,
        _ => true,
    };
    let reason = error.closing_reason();
    realm.world.check(holds, || {
        format!("pool {} was cancelled by {cancelled}, failed first by {first}, and was closed by {reason:?}", realm.id)
    });
}

/// A handle says how its task has ended.
fn check_handle(world: &World, stay: &Stay, ended: Result<(), TaskStopped>) {
    let seen = |flag: &AtomicBool| flag.load(SeqCst);
    let holds = match ended {
        Ok(()) => seen(&stay.returned_ok) && !seen(&stay.panicked),
        Err(TaskStopped::Failed) => seen(&stay.returned_fault) || seen(&stay.returned_other),
        Err(TaskStopped::Panicked) => seen(&stay.panicked),
        Err(_) => !seen(&stay.returned_ok) && !seen(&stay.returned_fault) && !seen(&stay.panicked),
    };
    world.check(holds, || format!("the handle of a task of {} says {ended:?}", stay.place));
}
