//! What can be seen of a tree from within: who is alive where, what has failed, and which promises were broken.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use aiodrive::{BoxError, Pool};
use tokio::time::Instant;

use crate::plan::AtDrop;

pub type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// How time passes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Clock {
    /// On one thread, with the paused clock: the same plan does the same, in the same order.
    Paused,
    /// A unit is a millisecond.
    Real,
    /// A unit is some turns of the scheduler; only a grace, a timeout and a deadline are real.
    Turns,
}

/// Everything that the parts of one tree share.
#[derive(Clone)]
pub struct World(Arc<Inner>);

struct Inner {
    clock: Clock,
    /// Futures, values, errors and payloads that have not been dropped.
    alive: AtomicIsize,
    realms: AtomicUsize,
    /// All that has failed, each in its place, by its number; and cancellations, which have numbers too.
    events: Mutex<Vec<Event>>,
    broken: Mutex<Vec<String>>,
    /// Failures that were found whose number cannot be seen.
    anonymous: AtomicUsize,
    /// The runtime is being dropped: nobody keeps any order now.
    gone: AtomicBool,
    /// Exit handlers that are due, were called, and have ended.
    exits: [AtomicUsize; 3],
    /// The outermost pool, to be shown if the tree hangs.
    root: Mutex<Option<Pool>>,
}

struct Event {
    place: Arc<Place>,
    found: usize,
    kind: EventKind,
}

#[derive(Clone, Copy, PartialEq)]
enum EventKind {
    Failure,
    /// A panic whose payload does not show its number.
    AnonymousPanic,
    Cancellation,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    pub fn new(clock: Clock) -> Self {
        Self(Arc::new(Inner {
            clock,
            alive: AtomicIsize::new(0),
            realms: AtomicUsize::new(0),
            events: Mutex::default(),
            broken: Mutex::default(),
            anonymous: AtomicUsize::new(0),
            gone: AtomicBool::new(false),
            exits: Default::default(),
            root: Mutex::new(None),
        }))
    }

    pub fn clock(&self) -> Clock {
        self.0.clock
    }

    /// How long a time is by the clock.
    pub fn real(&self, time: u64) -> Duration {
        Duration::from_millis(if self.0.clock == Clock::Paused { time } else { time.min(30) })
    }

    pub async fn pass(&self, time: u64) {
        let time = if self.0.clock == Clock::Paused { time } else { time.min(30) };
        match self.0.clock {
            _ if time == 0 => {}
            Clock::Paused | Clock::Real => tokio::time::sleep(Duration::from_millis(time)).await,
            Clock::Turns => {
                for _ in 0..3 * time {
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    /// The time, if it is one that stands still while something happens.
    pub fn now(&self) -> Option<Instant> {
        (self.0.clock == Clock::Paused && !self.is_gone()).then(Instant::now)
    }

    /// Notes that something is not as promised.
    pub fn broken(&self, what: impl Into<String>) {
        lock(&self.0.broken).push(what.into());
    }

    pub fn check(&self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.broken(what());
        }
    }

    pub fn set_gone(&self) {
        self.0.gone.store(true, SeqCst);
    }

    pub fn is_gone(&self) -> bool {
        self.0.gone.load(SeqCst)
    }

    pub fn alive(&self) -> isize {
        self.0.alive.load(SeqCst)
    }

    pub fn set_root(&self, pool: Option<Pool>) {
        let before = std::mem::replace(&mut *lock(&self.0.root), pool);
        drop(before);
    }

    /// What the tree looks like now.
    pub fn drawing(&self) -> String {
        lock(&self.0.root).as_ref().map_or_else(|| "no pool".to_owned(), |pool| pool.tree().to_string())
    }

    // ----- failures -----

    fn event(&self, place: &Arc<Place>, kind: EventKind) -> usize {
        let mut events = lock(&self.0.events);
        events.push(Event { place: Arc::clone(place), found: 0, kind });
        events.len() - 1
    }

    /// An error that happens now.
    pub fn error(&self, place: &Arc<Place>, cause: Option<BoxError>) -> BoxError {
        let number = self.event(place, EventKind::Failure);
        Box::new(Fault { number, cause, _counted: self.count() })
    }

    /// Panics without the hook, which would print it. Most payloads show their number; some are values, and a few of
    /// those panic when they are dropped.
    pub fn panic(&self, place: &Arc<Place>) -> ! {
        let anonymous = lock(&self.0.events).len() % 4 == 3;
        let kind = if anonymous { EventKind::AnonymousPanic } else { EventKind::Failure };
        let number = self.event(place, kind);
        if anonymous {
            resume_unwind(Box::new(Payload { counted: Some(self.count()), bitter: number % 8 == 3 }));
        }
        resume_unwind(Box::new(format!("<{number}>")))
    }

    /// Notes that a pool is cancelled now.
    pub fn cancellation(&self, place: &Arc<Place>) -> usize {
        self.event(place, EventKind::Cancellation)
    }

    /// A failure has been found where it belongs; `None` if its number cannot be seen.
    pub fn found(&self, number: Option<usize>) {
        let Some(number) = number else {
            self.0.anonymous.fetch_add(1, SeqCst);
            return;
        };
        match lock(&self.0.events).get_mut(number) {
            Some(event) => event.found += 1,
            None => self.broken(format!("a failure that never was: {number}")),
        }
    }

    // ----- exit handlers -----

    pub fn exit(&self, step: usize) {
        self.0.exits[step].fetch_add(1, SeqCst);
    }

    // ----- the end -----

    /// What of the promises does not hold; `told` says whether there was somebody to whom all failures could be told.
    pub fn verdict(&self, told: bool) -> Vec<String> {
        let mut broken = std::mem::take(&mut *lock(&self.0.broken));
        let mut unnumbered = 0;
        for (number, event) in lock(&self.0.events).iter().enumerate() {
            let anonymous = event.kind == EventKind::AnonymousPanic;
            match event.found {
                _ if event.kind == EventKind::Cancellation => {}
                0 if !told || event.place.is_hidden(number) => {}
                0 if anonymous => unnumbered += 1,
                0 => broken.push(format!("failure {number}, of {}, is lost", event.place)),
                1 => {}
                times => broken.push(format!("failure {number}, of {}, was reported {times} times", event.place)),
            }
        }
        let anonymous = self.0.anonymous.load(SeqCst);
        if anonymous < unnumbered {
            broken.push(format!("of {unnumbered} panics with a value there were {anonymous} reports"));
        }
        let exits = self.0.exits.each_ref().map(|count| count.load(SeqCst));
        if !self.is_gone() && (exits[0] != exits[1] || exits[1] != exits[2]) {
            broken.push(format!("exit handlers that were due, called, done: {exits:?}"));
        }
        broken
    }
}

/// The number that is in the message of a panic.
pub fn number_in(message: &str) -> Option<usize> {
    message.strip_prefix('<')?.strip_suffix('>')?.parse().ok()
}

/// A value that is counted until it is dropped.
pub struct Counted(World);

/// What tasks return.
pub type Value = Counted;

impl World {
    pub fn count(&self) -> Counted {
        self.0.alive.fetch_add(1, SeqCst);
        Counted(self.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.alive.fetch_sub(1, SeqCst);
    }
}

/// An error with a number, and what it was caused by.
pub struct Fault {
    pub number: usize,
    pub cause: Option<BoxError>,
    _counted: Counted,
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.number)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.number)?;
        self.cause.as_ref().map_or(Ok(()), |cause| write!(f, " because {cause:#}"))
    }
}

impl Error for Fault {}

/// What a panic carries that shows no number.
struct Payload {
    counted: Option<Counted>,
    bitter: bool,
}

impl Drop for Payload {
    fn drop(&mut self) {
        drop(self.counted.take());
        if self.bitter && !std::thread::panicking() {
            resume_unwind(Box::new(()));
        }
    }
}

// ===== places =====

/// A pool, or the call of a function, of the tree.
pub struct Realm {
    pub world: World,
    pub id: usize,
    pub kind: RealmKind,
    limit: Option<usize>,
    pub grace: Duration,
    enclosing: Option<Arc<Place>>,
    /// How many are alive in here and below, by the depth of the task that they are below, and whether it is a daemon.
    alive: Mutex<BTreeMap<(i32, bool), isize>>,
    /// Since when there is nobody but daemons.
    idle: Mutex<Option<Instant>>,
    /// How many run that count towards the limit.
    running: AtomicUsize,
    /// Since when that is less than the limit.
    free: Mutex<Option<Instant>>,
    /// Since when it is decided which branch of a function has come first.
    decided: Mutex<Option<Instant>>,
    returned: AtomicBool,
    owner_dropped: AtomicBool,
    pub body_returned: AtomicBool,
    /// Something may abort it.
    pub may_abort: AtomicBool,
    /// A failure of one of its tasks does not close it.
    pub collects: AtomicBool,
    /// The body has panicked, with the number of the panic.
    body_panicked: Mutex<Option<Option<usize>>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RealmKind {
    /// `kept_open` if it does not end by itself.
    Pool {
        kept_open: bool,
    },
    Function(Decides),
    Shield,
}

/// What ends the other branches of a function.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decides {
    End,
    Failure,
    Nothing,
}

/// Where something runs.
pub struct Place {
    pub realm: Arc<Realm>,
    pub depth: i32,
    pub daemon: bool,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "depth {} of {:?} {}", self.depth, self.realm.kind, self.realm.id)
    }
}

impl Realm {
    pub fn new(world: &World, kind: RealmKind, enclosing: Option<&Arc<Place>>) -> Arc<Self> {
        Self::of_pool(world, kind, None, Duration::ZERO, enclosing)
    }

    pub fn of_pool(
        world: &World,
        kind: RealmKind,
        limit: Option<usize>,
        grace: Duration,
        enclosing: Option<&Arc<Place>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            world: world.clone(),
            id: world.0.realms.fetch_add(1, SeqCst),
            kind,
            limit,
            grace,
            enclosing: enclosing.cloned(),
            alive: Mutex::default(),
            idle: Mutex::new(None),
            running: AtomicUsize::new(0),
            free: Mutex::new(world.now()),
            decided: Mutex::new(None),
            returned: AtomicBool::new(false),
            owner_dropped: AtomicBool::new(false),
            body_returned: AtomicBool::new(false),
            may_abort: AtomicBool::new(false),
            collects: AtomicBool::new(false),
            body_panicked: Mutex::new(None),
        })
    }

    pub fn at(self: &Arc<Self>, depth: i32) -> Arc<Place> {
        self.place(depth, false)
    }

    pub fn place(self: &Arc<Self>, depth: i32, daemon: bool) -> Arc<Place> {
        Arc::new(Place { realm: Arc::clone(self), depth, daemon })
    }

    /// The number of the first cancellation from within the tree.
    pub fn first_cancellation(&self) -> Option<usize> {
        let is_one = |event: &Event| event.kind == EventKind::Cancellation && event.place.realm.id == self.id;
        lock(&self.world.0.events).iter().position(is_one)
    }

    /// Whether nothing around can abort it.
    pub fn is_outermost(&self) -> bool {
        self.enclosing.is_none() || self.is_shielded()
    }

    /// Whether nothing around asks it to stop.
    pub fn is_shielded(&self) -> bool {
        self.enclosing.as_ref().is_some_and(|place| place.realm.kind == RealmKind::Shield)
    }

    /// Whether an event has happened in here, and not below.
    pub fn is_place_of(&self, number: usize) -> bool {
        lock(&self.world.0.events).get(number).is_some_and(|event| event.place.realm.id == self.id)
    }

    /// How many are alive in depths above this one.
    fn alive_above(&self, depth: Option<i32>) -> isize {
        let alive = lock(&self.alive);
        alive.iter().filter(|((other, _), _)| depth.is_none_or(|depth| *other > depth)).map(|(_, count)| count).sum()
    }

    fn leave(&self, how: &str) {
        self.returned.store(true, SeqCst);
        let alive = self.alive_above(None);
        self.world.check(alive <= 0, || format!("{:?} {} {how}, and {alive} are alive in it", self.kind, self.id));
    }
}

impl Place {
    /// This place, then those around it.
    fn outwards(self: &Arc<Self>) -> impl Iterator<Item = &Arc<Self>> {
        std::iter::successors(Some(self), |place| place.realm.enclosing.as_ref())
    }

    fn add(self: &Arc<Self>, count: isize) {
        for place in self.outwards() {
            let mut alive = lock(&place.realm.alive);
            *alive.entry((place.depth, place.daemon)).or_default() += count;
            let others: isize = alive.iter().filter(|((_, daemon), _)| !daemon).map(|(_, count)| count).sum();
            *lock(&place.realm.idle) = if others > 0 { None } else { place.realm.world.now() };
        }
    }

    /// Depths are closed from the highest to the lowest, each with all that is below it.
    pub fn check_order(&self, what: &str) {
        let above = self.realm.alive_above(Some(self.depth));
        let world = &self.realm.world;
        world.check(above <= 0 || world.is_gone(), || format!("{self} {what}, and {above} are alive in higher depths"));
    }

    /// The pool whose token something in here listens to.
    pub fn asked_by(self: &Arc<Self>) -> Option<&Arc<Self>> {
        let place = self.outwards().find(|place| !matches!(place.realm.kind, RealmKind::Function(_)))?;
        matches!(place.realm.kind, RealmKind::Pool { .. }).then_some(place)
    }

    /// Whether a failure in here is lost since the body of a pool around has panicked: with something else.
    fn is_hidden(self: &Arc<Self>, number: usize) -> bool {
        self.outwards().any(|place| lock(&place.realm.body_panicked).is_some_and(|panic| panic != Some(number)))
    }
}

/// The future of a pool or function: notes whether it is dropped, and checks that nothing is left when it is ready.
pub struct Owner<T> {
    realm: Arc<Realm>,
    future: Boxed<T>,
    check: fn(&Realm, &T),
}

impl<T> Owner<T> {
    pub fn new(realm: &Arc<Realm>, future: Boxed<T>, check: fn(&Realm, &T)) -> Self {
        Self { realm: Arc::clone(realm), future, check }
    }
}

impl<T> Future for Owner<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let this = &mut *self;
        let unwinding = OnUnwind(|| this.realm.leave("has panicked"));
        let polled = this.future.as_mut().poll(cx);
        std::mem::forget(unwinding);
        if let Poll::Ready(output) = &polled {
            this.realm.leave("has returned");
            (this.check)(&this.realm, output);
        }
        polled
    }
}

impl<T> Drop for Owner<T> {
    fn drop(&mut self) {
        self.realm.owner_dropped.store(!self.realm.returned.load(SeqCst), SeqCst);
    }
}

struct OnUnwind<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnUnwind<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

// ===== those who are there =====

/// What is known of a task, a body or a branch, also when its future is gone.
pub struct Stay {
    pub place: Arc<Place>,
    pub kind: StayKind,
    counted: AtomicUsize,
    pub cancelled: AtomicBool,
    pub no_grace: AtomicBool,
    pub returned_ok: AtomicBool,
    pub returned_fault: AtomicBool,
    pub returned_other: AtomicBool,
    pub panicked: AtomicBool,
    polled: AtomicBool,
    admitted_at: Mutex<Option<Instant>>,
    dropped_at: Mutex<Option<Instant>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum StayKind {
    /// `limited` if it counts towards the limit of its pool.
    Task {
        limited: bool,
    },
    Body,
    /// Something that runs in a task, or beside it.
    Part,
}

/// Longer than it takes to close any tree, on the paused clock.
const LONG: Duration = Duration::from_millis(500);

const COUNTED: usize = 1;
const DROPPED: usize = 2;

impl Stay {
    pub fn new(place: &Arc<Place>, kind: StayKind) -> Arc<Self> {
        Arc::new(Self {
            place: Arc::clone(place),
            kind,
            counted: AtomicUsize::new(0),
            cancelled: AtomicBool::new(false),
            no_grace: AtomicBool::new(false),
            returned_ok: AtomicBool::new(false),
            returned_fault: AtomicBool::new(false),
            returned_other: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
            polled: AtomicBool::new(false),
            admitted_at: Mutex::new(None),
            dropped_at: Mutex::new(None),
        })
    }

    fn world(&self) -> &World {
        &self.place.realm.world
    }

    /// From here on it is alive, unless it is gone already.
    pub fn admit(&self) {
        if self.counted.compare_exchange(0, COUNTED, SeqCst, SeqCst).is_ok() {
            *lock(&self.admitted_at) = self.world().now();
            self.place.add(1);
        }
    }

    pub fn is_of(&self, realm: &Arc<Realm>) -> bool {
        Arc::ptr_eq(&self.place.realm, realm)
    }

    pub fn has_begun(&self) -> bool {
        self.polled.load(SeqCst)
    }

    /// Looks whether somebody who waits for this to end, and is cut off, should have been told long before.
    pub fn check_told(&self) {
        let dropped = *lock(&self.dropped_at);
        let late = dropped.zip(self.world().now()).is_some_and(|(dropped, now)| dropped < now);
        self.world().check(!late, || format!("nobody was told that a task of {} had ended", self.place));
    }

    pub fn is_dropped(&self) -> bool {
        self.counted.load(SeqCst) == DROPPED
    }

    fn has_returned(&self) -> bool {
        [&self.returned_ok, &self.returned_fault, &self.returned_other].iter().any(|flag| flag.load(SeqCst))
    }

    fn is_limited(&self) -> bool {
        self.kind == StayKind::Task { limited: true }
    }

    pub fn enter(&self) {
        for place in self.place.outwards() {
            let returned = place.realm.returned.load(SeqCst);
            self.world().check(!returned, || format!("{} is polled after {place} has returned", self.place));
        }
        self.check_time();
        if !self.polled.swap(true, SeqCst) {
            self.admit();
            let realm = &self.place.realm;
            if let (true, Some(limit)) = (self.is_limited(), realm.limit) {
                let running = realm.running.fetch_add(1, SeqCst) + 1;
                if running == limit {
                    *lock(&realm.free) = None;
                }
                self.world().check(running <= limit, || format!("{running} run in {}, of {limit}", self.place));
            }
        }
    }

    /// Looks whether it should have been cut off before.
    fn check_time(&self) {
        let realm = &self.place.realm;
        let (Some(now), decided, idle) = (self.world().now(), *lock(&realm.decided), *lock(&realm.idle)) else {
            return;
        };
        let late = decided.is_some_and(|decided| decided < now);
        self.world().check(!late, || format!("a branch of {} goes on though it is decided", self.place));
        if self.place.daemon && realm.kind == (RealmKind::Pool { kept_open: false }) {
            let late = idle.is_some_and(|idle| idle + LONG < now);
            self.world().check(!late, || format!("a daemon at {} holds its pool open", self.place));
        }
    }

    /// A branch of a function has ended.
    fn decide(&self, failed: bool) {
        let decided = match self.place.realm.kind {
            RealmKind::Function(Decides::End) => true,
            RealmKind::Function(Decides::Failure) => failed,
            _ => false,
        };
        if decided {
            let mut first = lock(&self.place.realm.decided);
            *first = first.or(self.world().now());
        }
    }

    /// Looks whether it has waited for its turn, and why.
    fn check_queued(&self) {
        let admitted = *lock(&self.admitted_at);
        let free = if self.is_limited() && self.place.realm.limit.is_some() {
            *lock(&self.place.realm.free)
        } else {
            admitted
        };
        let (Some(admitted), Some(free), Some(now)) = (admitted, free, self.world().now()) else { return };
        let late = admitted.max(free) < now;
        self.world().check(!late, || format!("a task of {} was never run though it was its turn", self.place));
    }

    /// Looks whether it is its turn to be cut off, if it is.
    fn check_cut_off(&self) {
        let ended = self.has_returned() || self.panicked.load(SeqCst);
        let begun = self.counted.load(SeqCst) == COUNTED;
        let excused = match self.kind {
            StayKind::Task { .. } => self.cancelled.load(SeqCst),
            StayKind::Body => self.place.realm.owner_dropped.load(SeqCst),
            StayKind::Part => true,
        };
        if begun && !ended && !excused {
            self.place.check_order("is cut off");
            self.check_time();
            if !self.has_begun() && self.kind != StayKind::Body {
                self.check_queued();
            }
        }
    }

    pub fn leave(&self) {
        if std::thread::panicking() {
            self.panicked.store(true, SeqCst);
        }
        if self.polled.load(SeqCst) && self.is_limited() && self.place.realm.limit.is_some() {
            self.place.realm.running.fetch_sub(1, SeqCst);
            let mut free = lock(&self.place.realm.free);
            *free = free.or(self.world().now());
        }
        *lock(&self.dropped_at) = self.world().now();
        if self.counted.swap(DROPPED, SeqCst) == COUNTED {
            self.place.add(-1);
        }
    }
}

/// Calls [`Stay::leave`] when it is dropped.
pub struct Leave(pub Arc<Stay>);

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// The future of a task, a body or a branch.
pub struct Guest<T> {
    stay: Arc<Stay>,
    at_drop: AtDrop,
    spawn: Option<Box<dyn FnOnce(AtDrop) + Send>>,
    // Dropped in this order.
    future: Boxed<T>,
    _leave: Leave,
    _counted: Counted,
}

/// What a guest returns.
pub trait Outcome {
    fn result(&self) -> Result<(), &BoxError>;
}

impl<T> Outcome for Result<T, BoxError> {
    fn result(&self) -> Result<(), &BoxError> {
        self.as_ref().map(drop)
    }
}

impl<T> Guest<T> {
    /// `spawn` is called by the destructor, if that is to spawn or to cancel.
    pub fn new(
        stay: &Arc<Stay>,
        at_drop: AtDrop,
        spawn: impl FnOnce(AtDrop) + Send + 'static,
        future: Boxed<T>,
    ) -> Self {
        Self {
            stay: Arc::clone(stay),
            at_drop,
            spawn: Some(Box::new(spawn)),
            future,
            _leave: Leave(Arc::clone(stay)),
            _counted: stay.world().count(),
        }
    }
}

impl<T: Outcome> Future for Guest<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let this = &mut *self;
        this.stay.enter();
        let stay = &this.stay;
        let polled = match catch_unwind(AssertUnwindSafe(|| this.future.as_mut().poll(cx))) {
            Ok(polled) => polled,
            Err(payload) => {
                stay.panicked.store(true, SeqCst);
                stay.decide(true);
                if stay.kind == StayKind::Body {
                    let message = payload.downcast_ref::<String>().map(String::as_str);
                    *lock(&stay.place.realm.body_panicked) = Some(message.and_then(number_in));
                }
                resume_unwind(payload)
            }
        };
        if let Poll::Ready(output) = &polled {
            let flag = match output.result() {
                Ok(()) => &stay.returned_ok,
                Err(error) if error.is::<Fault>() => &stay.returned_fault,
                Err(_) => &stay.returned_other,
            };
            flag.store(true, SeqCst);
            stay.decide(output.result().is_err());
            if stay.kind == StayKind::Body && output.result().is_ok() {
                stay.place.realm.body_returned.store(true, SeqCst);
            }
        }
        polled
    }
}

impl<T> Drop for Guest<T> {
    fn drop(&mut self) {
        self.stay.check_cut_off();
        if !self.stay.polled.load(SeqCst) {
            return;
        }
        match (self.at_drop, self.spawn.take()) {
            (AtDrop::Panic, _) if !std::thread::panicking() => {
                let stay = &self.stay;
                stay.panicked.store(true, SeqCst);
                stay.world().panic(&stay.place)
            }
            (AtDrop::Spawn | AtDrop::Cancel, Some(spawn)) => spawn(self.at_drop),
            _ => {}
        }
    }
}
