//! Does what a program says.

use std::future::pending;
use std::pin::Pin;
use std::thread::panicking;
use std::time::Duration;

use aiodrive::{
    BoxError, OnFailure, Pool, PoolBuilder, TaskGroup, cancellation_token, map, race, shield, timeout, try_all,
    wait_all, with_exit,
};
use tokio::task::yield_now;

use crate::program::{Call, Program, Work};
use crate::world::{Clock, Living, Output, Several, World};

type Result<T = (), E = BoxError> = std::result::Result<T, E>;

/// A program as it runs.
pub type Played = Pin<Box<dyn Future<Output = Result> + Send>>;

/// Longer than a call takes, but for what stays.
pub const LONG: Duration = Duration::from_secs(1_000);
/// As long as what sleeps.
pub const SHORT: Duration = Duration::from_millis(1);

/// Where a part of a program runs.
#[derive(Clone)]
pub struct Here {
    world: World,
    living: Living,
    /// Whether there is a `LocalSet`.
    is_local: bool,
    /// Whether somebody cancels what does not end by itself.
    is_cancelled: bool,
}

/// What is in a call.
struct Inside {
    here: Here,
    program: Program,
    beside: Work,
}

/// Is held while work is done.
struct Bomb(Option<World>);

impl Drop for Bomb {
    /// A second panic would end the process.
    fn drop(&mut self) {
        if let Some(world) = self.0.take().filter(|_| !panicking()) {
            world.panic();
        }
    }
}

impl Here {
    pub fn new(world: &World, living: &Living, is_local: bool) -> Self {
        Self { world: world.clone(), living: living.clone(), is_local, is_cancelled: true }
    }

    pub fn play(&self, program: Program) -> Played {
        let (here, alive) = (self.clone(), self.living.one_more());
        Box::pin(async move {
            let _alive = alive;
            match program {
                Program::Work(work) => here.work(work).await,
                Program::Call(call, program, beside) => here.call(call, *program, beside).await,
            }
        })
    }

    async fn call(&self, call: Call, program: Program, beside: Work) -> Result {
        let living = self.living.within();
        let here = Self { living: living.clone(), ..self.clone() };
        let result = Inside { here, program, beside }.call(call).await;
        if call.leaves_nothing() && living.count() > 0 {
            self.world.broken(format!("{} are alive as {call:?} returns", living.count()));
        }
        result
    }

    async fn work(&self, work: Work) -> Result {
        let _bomb = Bomb((work == Work::Bomb).then(|| self.world.clone()));
        match work {
            Work::Waits | Work::WaitsAndFails | Work::WaitsAndPanics | Work::Bomb => yield_now().await,
            Work::Sleeps if self.world.clock() == Clock::Paused => tokio::time::sleep(SHORT).await,
            Work::Listens if self.is_cancelled => cancellation_token().cancelled().await,
            Work::Stays if self.is_cancelled => pending().await,
            _ => {}
        }
        self.end(work)
    }

    fn end(&self, work: Work) -> Result {
        match work {
            Work::Fails | Work::WaitsAndFails | Work::Listens => Err(self.world.error()),
            Work::Panics | Work::WaitsAndPanics => self.world.panic(),
            _ => Ok(()),
        }
    }
}

impl Inside {
    // ----- the program and the work: in the same task, in one of their own, or in one that nobody cancels -----

    fn program(&self) -> Played {
        self.here.play(self.program.clone())
    }

    fn beside(&self) -> Played {
        self.here.play(Program::Work(self.beside))
    }

    fn program_task(&self) -> Played {
        Here { is_local: false, ..self.here.clone() }.play(self.program.clone())
    }

    fn task_beside(&self) -> Played {
        self.beside()
    }

    fn shielded_program(&self) -> Played {
        Here { is_local: false, is_cancelled: false, ..self.here.clone() }.play(self.program.clone())
    }

    fn shielded_work(&self) -> Played {
        Here { is_cancelled: false, ..self.here.clone() }.play(Program::Work(self.beside))
    }

    /// With its output as a value like any other.
    fn output(&self, played: Played) -> impl Future<Output = Output> + Send + use<> {
        Output::of(self.here.world.clone(), played)
    }

    // ----- calls -----

    async fn call(&self, call: Call) -> Result {
        let builder = Pool::builder();
        let builder = match call {
            Call::Run => return self.run(builder).await,
            Call::Limit => return self.run(builder.limit(1)).await,
            Call::Grace => builder.grace(SHORT),
            Call::Collect => builder.on_failure(|_| OnFailure::Collect),
            _ => builder,
        };
        match call {
            Call::Race
            | Call::TryAll
            | Call::WaitAll
            | Call::Group
            | Call::Map
            | Call::Collected
            | Call::Shield
            | Call::Shielded
            | Call::Timeout
            | Call::Short
            | Call::WithExit
            | Call::Handler => self.function(call).await,
            _ => Ok(builder.open(|pool| self.body(pool, call)).await?),
        }
    }

    async fn run(&self, builder: PoolBuilder) -> Result {
        let pool = builder.build();
        pool.spawn(self.program_task());
        pool.spawn(self.task_beside());
        Ok(pool.run().await?)
    }

    /// The body of a pool.
    async fn body(&self, pool: Pool, call: Call) -> Result {
        match call {
            Call::Body => {
                pool.spawn(self.task_beside());
                self.program().await
            }
            Call::Depths => {
                pool.build_task().depth(1).spawn(self.program_task());
                pool.build_task().depth(-1).spawn(self.task_beside());
                Ok(())
            }
            Call::CancelOn => {
                pool.cancel_on(self.output(self.task_beside()));
                pool.spawn(self.program_task());
                Ok(())
            }
            Call::Idle => {
                pool.spawn(self.program_task());
                pool.idle().await;
                self.beside().await
            }
            Call::Handle => {
                let handle = pool.spawn_with_handle(self.program_task());
                self.beside().await?;
                Ok(handle.await?)
            }
            Call::HandleCancels => {
                let handle = pool.spawn_with_handle(self.program_task());
                self.beside().await?;
                handle.cancel();
                let _ = handle.await;
                Ok(())
            }
            Call::Local if self.here.is_local => {
                let handle = pool.spawn_local_with_handle(self.program_task());
                self.beside().await?;
                Ok(handle.await?)
            }
            Call::Blocking => {
                let (here, work, alive) = (self.here.clone(), self.beside, self.here.living.one_more());
                let handle = pool.spawn_blocking_with_handle(move || {
                    let _alive = alive;
                    here.end(work)
                });
                pool.spawn(self.program_task());
                Ok(handle.await?)
            }
            Call::Start => {
                let program = self.program_task();
                let started = pool.start(async move |started| {
                    started.ready(());
                    program.await
                });
                started.await?;
                self.beside().await
            }
            Call::Track => {
                pool.spawn(self.task_beside());
                pool.track_future(self.output(self.program())).await?.take()
            }
            _ => {
                pool.spawn(self.program_task());
                self.beside().await
            }
        }
    }

    async fn function(&self, call: Call) -> Result {
        match call {
            Call::Race => {
                let branches = [self.program_task(), self.task_beside()].map(|played| self.output(played));
                race(branches).await.1.take()
            }
            Call::TryAll => Ok(try_all([self.program_task(), self.task_beside()]).await.map(drop)?),
            Call::WaitAll => {
                let ended = wait_all([self.program_task(), self.task_beside()]).await;
                let failures: Vec<_> = ended.into_iter().filter_map(Result::err).collect();
                if failures.is_empty() { Ok(()) } else { Err(Several(failures).into()) }
            }
            Call::Group => {
                let mut group = TaskGroup::<()>::new();
                group.spawn(self.program_task());
                group.spawn(self.task_beside());
                while let Some(ended) = group.next().await {
                    ended?;
                }
                Ok(())
            }
            Call::Map => {
                let mut items = map(2, [self.program_task(), self.task_beside()], |played| played);
                while let Some(ended) = items.next().await {
                    ended?;
                }
                Ok(())
            }
            Call::Collected => {
                let items = map(1, [self.program_task(), self.task_beside()], |played| played);
                Ok(items.collect().await.map(drop)?)
            }
            Call::Shield => {
                let shielded = shield(self.output(self.shielded_program()));
                self.beside().await?;
                shielded.await.take()
            }
            Call::Shielded => {
                drop(shield(self.output(self.shielded_program())));
                self.beside().await
            }
            Call::Short => {
                timeout(SHORT, self.output(self.program())).await?.take()?;
                self.beside().await
            }
            Call::WithExit => {
                let (body, handler) = (self.program(), self.shielded_work());
                Ok(with_exit((), async move |_: &mut ()| body.await, |(), _| handler).await?)
            }
            Call::Handler => {
                let (body, handler) = (self.beside(), self.shielded_program());
                Ok(with_exit((), async move |_: &mut ()| body.await, |(), _| handler).await?)
            }
            _ => timeout(LONG, self.output(self.program())).await?.take(),
        }
    }
}
