//! The ways in which a program ends, and what must hold when it has.

use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::Poll;
use std::time::Duration;

use aiodrive::{BoxError, OnFailure, Pool, PoolError};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;
use tokio::task::{LocalSet, yield_now};
use tokio::time;

use crate::play::{Here, LONG, Played, SHORT};
use crate::program::Program;
use crate::world::{Clock, Living, World};

/// What becomes of a program after some of its polls.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ending {
    /// Its future is dropped, in the body of the enclosing pool.
    Dropped,
    /// It runs in a task of the enclosing pool, whose handle cancels it.
    Aborted,
    /// The same, and the pool is cancelled.
    Cancelled,
    /// The same, in a pool with a grace.
    CancelledWithGrace,
}

impl Ending {
    pub const ALL: [Self; 4] = [Self::Dropped, Self::Aborted, Self::Cancelled, Self::CancelledWithGrace];
}

/// What programs run on.
pub struct Runtimes(Clock, Runtime);

impl Runtimes {
    pub fn new(clock: Clock) -> Self {
        let runtime = match clock {
            Clock::Paused => Builder::new_current_thread().enable_all().start_paused(true).build(),
            Clock::Turns => Builder::new_multi_thread().worker_threads(2).enable_all().build(),
        };
        Self(clock, runtime.expect("a runtime"))
    }
}

/// So many polls, or turns, are the last that are looked at: a program that has not ended then waits for something.
const MOST: usize = 60;
const MOST_TURNS: usize = 12;

/// Longer than a program takes on the paused clock that ends at all: four calls, each with as much time as it may have.
const END: Duration = Duration::from_secs(10 * LONG.as_secs());

/// The moments of a program, one after the other.
pub struct Moments<'a> {
    runtimes: &'a Runtimes,
    number: u64,
    program: &'a Program,
    ending: Ending,
    /// After how many polls the program ends; on several threads, after how many turns.
    polls: usize,
    /// The program has come to its end before.
    is_over: bool,
}

impl<'a> Moments<'a> {
    pub fn new(runtimes: &'a Runtimes, number: u64, program: &'a Program, ending: Ending) -> Self {
        Self { runtimes, number, program, ending, polls: 0, is_over: false }
    }

    /// Plays the program to the next moment, and says what is broken then. `None` if there is no further moment.
    pub fn next(&mut self) -> Option<Vec<String>> {
        if self.is_over {
            return None;
        }
        let Runtimes(clock, runtime) = self.runtimes;
        let (ending, polls, is_reached) = (self.ending, self.polls, AtomicBool::new(false));
        let (world, living) = (World::new(*clock), Living::default().within());
        let moment = Moment { world, living, ending, polls, is_reached };
        let broken = moment.look_at(runtime, self.program.clone());
        let most = if *clock == Clock::Paused { MOST } else { MOST_TURNS };
        self.is_over = !moment.is_reached.load(SeqCst) || self.polls == most;
        self.polls += usize::from(broken.is_empty());
        Some(broken)
    }
}

impl fmt::Display for Moments<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, program, ending, polls, .. } = self;
        write!(f, "MOMENTS_PROGRAM={number}, {ending:?} after {polls}: {program:#?}")
    }
}

/// One moment of a program.
struct Moment {
    world: World,
    living: Living,
    ending: Ending,
    polls: usize,
    /// The program has not come to its end before.
    is_reached: AtomicBool,
}

impl Moment {
    fn look_at(&self, runtime: &Runtime, program: Program) -> Vec<String> {
        let patience = if self.world.clock() == Clock::Paused { 10 * END } else { Duration::from_secs(60) };
        let ended = LocalSet::new().block_on(runtime, async { time::timeout(patience, self.enclose(program)).await });
        let Ok(returned) = ended else { return vec!["it hangs".to_owned()] };
        let alive = self.living.count();
        if let Err(error) = returned {
            self.world.arrived_in_pool_error(&error);
        }
        let errors = self.world.errors();
        let mut broken = self.world.verdict();
        broken.extend((alive > 0).then(|| format!("{alive} futures are alive")));
        broken.extend((errors > 0).then(|| format!("{errors} errors are left")));
        broken
    }

    /// The pool that looks on.
    async fn enclose(&self, program: Program) -> Result<(), PoolError> {
        let builder = Pool::builder().on_failure(|_| OnFailure::Collect);
        let builder = if self.ending == Ending::CancelledWithGrace { builder.grace(SHORT) } else { builder };
        let opened = builder.open(async |pool: Pool| {
            match self.ending {
                Ending::Dropped => self.drop_it(program).await,
                _ => self.end_task(&pool, program).await,
            }
            Ok(())
        });
        opened.await
    }

    async fn drop_it(&self, program: Program) {
        let mut played = Here::new(&self.world, &self.living, true).play(program);
        if let Some(result) = self.poll(&mut played).await {
            self.world.arrived_in_result(&result);
        }
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(played))) {
            self.world.arrived_in_panic(&*payload);
        }
    }

    /// Polls to the moment, or to the end.
    async fn poll(&self, played: &mut Played) -> Option<Result<(), BoxError>> {
        let mut polls = 0;
        let polled = poll_fn(|cx| {
            if polls < self.polls {
                polls += 1;
                match catch_unwind(AssertUnwindSafe(|| played.as_mut().poll(cx))) {
                    Ok(Poll::Ready(result)) => return Poll::Ready(Some(result)),
                    Ok(Poll::Pending) => {}
                    Err(payload) => {
                        self.world.arrived_in_panic(&*payload);
                        return Poll::Ready(None);
                    }
                }
            }
            if polls == self.polls {
                self.is_reached.store(true, SeqCst);
                return Poll::Ready(None);
            }
            if self.world.clock() == Clock::Turns {
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        });
        time::timeout(END, polled).await.ok().flatten()
    }

    async fn end_task(&self, pool: &Pool, program: Program) {
        let notify = Arc::new(Notify::new());
        let played = Here::new(&self.world, &self.living, false).play(program);
        let mut handle = pool.spawn_with_handle(self.counted(played, Arc::clone(&notify)));
        let moment = async {
            match self.world.clock() {
                Clock::Paused if self.polls > 0 => notify.notified().await,
                Clock::Paused => {}
                Clock::Turns => {
                    for _ in 0..self.polls {
                        yield_now().await;
                    }
                }
            }
        };
        tokio::select! {
            biased;
            () = moment => self.is_reached.store(true, SeqCst),
            _ = &mut handle => {}
            () = time::sleep(END) => {}
        }
        match self.ending {
            Ending::Aborted => handle.cancel(),
            _ => pool.cancel(),
        }
    }

    /// Notifies after the last poll before the moment.
    fn counted(
        &self,
        mut played: Played,
        notify: Arc<Notify>,
    ) -> impl Future<Output = Result<(), BoxError>> + Send + use<> {
        let (mut polls, moment) = (0, self.polls);
        poll_fn(move |cx| {
            let polled = played.as_mut().poll(cx);
            polls += 1;
            if polls == moment {
                notify.notify_one();
            }
            polled
        })
    }
}
