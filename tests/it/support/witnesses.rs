//! What a test sees: which values are alive, and what happened in which order.

use std::any::Any;
use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aiodrive::{BoxError, Pool, PoolBuilder, cancellation_token};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::yield_now;
use tokio::time::Instant;

use super::{Outcome, asked, until, with_grace};

/// Counts values that are alive.
#[derive(Clone, Default)]
pub struct Alive(Arc<AtomicUsize>);

impl Alive {
    /// A new value to count: move it into a future to see when that is dropped.
    pub fn one(&self) -> Counted {
        self.0.fetch_add(1, Ordering::SeqCst);
        Counted(Arc::clone(&self.0))
    }

    pub fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Alive {
    /// A new value to count whose destructor gives everybody else time to run ahead.
    pub fn slow(&self) -> OnDrop<impl FnOnce() + Send + use<>> {
        let counted = self.one();
        OnDrop::new(move || {
            (0..200).for_each(|_| std::thread::yield_now());
            drop(counted);
        })
    }
}

/// A value that is counted until it is dropped.
pub struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Keeps a value for as long as the process lives: as `mem::forget` does, but not a leak to a leak checker.
pub fn keep_forever(value: impl Send + 'static) {
    static KEPT: Mutex<Vec<Box<dyn Any + Send>>> = Mutex::new(Vec::new());
    KEPT.lock().unwrap().push(Box::new(value));
}

/// A record of what happened, in order.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub fn push(&self, event: impl Into<String>) {
        self.0.lock().unwrap().push(event.into());
    }

    pub fn events(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// A value that writes an event when it is dropped.
    pub fn on_drop(&self, event: &'static str) -> OnDrop<impl FnOnce() + Send + use<>> {
        let log = self.clone();
        OnDrop::new(move || log.push(event))
    }
}

/// Calls a closure when it is dropped.
pub struct OnDrop<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> OnDrop<F> {
    pub fn new(call: F) -> Self {
        Self(Some(call))
    }
}

impl<F: FnOnce()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        if let Some(call) = self.0.take() {
            call();
        }
    }
}

/// A log of what happened in which second.
#[derive(Clone)]
pub struct Clock {
    pub begin: Instant,
    pub log: Log,
}

impl Clock {
    pub fn start() -> Self {
        Self { begin: Instant::now(), log: Log::default() }
    }

    pub fn say(&self, event: &str) {
        self.log.push(format!("{}: {event}", self.begin.elapsed().as_secs_f64()));
    }

    pub fn on_drop(&self, event: &'static str) -> OnDrop<impl FnOnce() + Send + use<>> {
        let clock = self.clone();
        OnDrop::new(move || clock.say(event))
    }

    /// A task that hears of nothing, and says when it is gone.
    pub fn deaf(&self, name: &'static str) -> impl Future<Output = ()> + Send + use<> {
        let clock = self.clone();
        async move {
            let _gone = clock.on_drop(name);
            pending().await
        }
    }

    /// A task that hears the request, and does not heed it.
    pub fn stubborn(&self, name: &'static str) -> impl Future<Output = ()> + Send + use<> {
        let clock = self.clone();
        async move {
            let _gone = clock.on_drop(name);
            asked().await;
            clock.say("asked");
            pending().await
        }
    }

    pub fn events(&self) -> Vec<String> {
        self.log.events()
    }
}

/// Tasks that write down what becomes of them, for pools without a grace and with one that is never over.
pub struct Witness {
    pub grace: Duration,
    pub log: Log,
    pub alive: Alive,
}

impl Witness {
    pub fn has_grace(&self) -> bool {
        !self.grace.is_zero()
    }

    pub fn builder(&self) -> PoolBuilder {
        with_grace(self.grace)
    }

    pub fn task(&self) -> impl Future<Output = ()> + Send + use<> {
        let (one, log) = (self.alive.one(), self.log.clone());
        async move {
            let _one = one;
            let _gone = log.on_drop("gone");
            let token = cancellation_token();
            log.push(if token.is_cancelled() { "too late" } else { "began" });
            token.cancelled().await;
            log.push("asked");
            for _ in 0..10 {
                yield_now().await;
            }
            log.push("ended");
        }
    }

    /// Spawns the witnesses.
    pub fn enter(&self, pool: &Pool) {
        (0..WITNESSES).for_each(|_| pool.spawn(self.task()));
    }

    /// Waits until all of them run.
    pub async fn begun(&self) {
        until(|| self.count("began") == WITNESSES).await;
    }

    /// Opens a pool whose witnesses run before the body goes on.
    pub async fn open<T>(&self, body: impl AsyncFnOnce(Pool) -> Result<T, BoxError>) -> Outcome<T> {
        let opened = self.builder().open(async |pool| {
            self.enter(&pool);
            self.begun().await;
            body(pool).await
        });
        opened.await
    }

    /// What a body does that is not polled without a grace.
    pub async fn body(&self) -> Result<i32, BoxError> {
        let _one = self.alive.one();
        let _gone = self.log.on_drop("body gone");
        asked().await;
        self.log.push("body asked");
        yield_now().await;
        self.log.push("body ended");
        Ok(7)
    }

    pub fn count(&self, event: &str) -> usize {
        self.log.events().iter().filter(|seen| *seen == event).count()
    }

    /// That nothing is left, and that the witnesses could end by themselves if there was a grace.
    #[track_caller]
    pub fn check(&self) {
        assert_eq!(
            (self.alive.count(), self.count("gone")),
            (0, WITNESSES),
            "somebody is left, or not all are gone; grace: {:?}",
            self.grace
        );
        if self.has_grace() {
            assert_eq!(
                (self.count("asked"), self.count("ended")),
                (WITNESSES, WITNESSES),
                "not all could end by themselves in the grace"
            );
        } else if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
            // Elsewhere a task may be quicker than its abort.
            assert_eq!((self.count("asked"), self.count("ended")), (0, 0), "somebody heard of it without a grace");
        }
    }

    /// The same for the body.
    #[track_caller]
    pub fn check_body(&self) {
        assert_eq!(self.count("body gone"), 1, "how often the body was dropped");
        assert_eq!(
            (self.count("body asked"), self.count("body ended")),
            match self.has_grace() {
                true => (1, 1),
                false => (0, 0),
            },
            "whether the body heard, and could end; grace: {:?}",
            self.grace
        );
    }
}

pub const WITNESSES: usize = 3;

pub async fn with_and_without_grace(test: impl AsyncFn(Witness)) {
    for grace in [Duration::ZERO, Duration::MAX] {
        test(Witness { grace, log: Log::default(), alive: Alive::default() }).await;
    }
}

/// Counts the times that tasks came to some point.
#[derive(Clone, Default)]
pub struct Count(pub Arc<AtomicUsize>);

impl Count {
    pub fn up(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    pub fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// How many are inside, and how many have been at most.
#[derive(Clone, Default)]
pub struct Crowd(Arc<[AtomicUsize; 3]>);

impl Crowd {
    pub fn enter(&self) -> OnDrop<impl FnOnce() + Send + use<>> {
        let Self(counts) = self.clone();
        counts[1].fetch_max(counts[0].fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        counts[2].fetch_add(1, Ordering::SeqCst);
        OnDrop::new(move || {
            counts[0].fetch_sub(1, Ordering::SeqCst);
        })
    }

    /// Some turns inside.
    pub fn visit(&self) -> impl Future<Output = ()> + Send + use<> {
        let crowd = self.clone();
        async move {
            let _inside = crowd.enter();
            for _ in 0..5 {
                yield_now().await;
            }
        }
    }

    /// Sees that all have come and gone, and never more at a time than the limit allows. On two threads they may be too
    /// quick to meet at all.
    #[track_caller]
    pub fn respected(&self, limit: usize, tasks: usize) {
        let [inside, most, ever] = self.counts();
        assert_eq!((inside, ever), (0, tasks), "how many are still inside, and have ever been");
        assert!((1..=limit).contains(&most), "{most} at a time");
    }

    /// How many are inside, have been at most, and have ever been.
    pub fn counts(&self) -> [usize; 3] {
        [0, 1, 2].map(|n| self.0[n].load(Ordering::SeqCst))
    }
}
