//! The tasks of a running pool, by depth, and the scopes they run in.
//!
//! Each depth has a list of its tasks. A task enters it as it is spawned, and leaves it by itself as it ends. The first
//! time that it has to wait, it also leaves its waker there. So a depth is aborted by a flag in its scope, which every
//! task looks at before it polls the user's future, and by waking those that wait. That is what tokio's own abort does,
//! but that nobody has to keep a handle to each task: a task that never waits, as most do not, is noted down once and
//! struck off once.
//!
//! The list is also what [`Pool::tree`](crate::Pool::tree) looks at. A `JoinSet` cannot be looked into, and what it
//! allocates and locks to tell of the end of each task is of no use here: nobody waits for the end of a single one.

use std::collections::BTreeMap;
use std::panic::Location;
use std::sync::{Arc, Weak};
use std::task::Waker;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::handle::Control;
use super::roster::Roster;
use crate::error::TaskInfo;
use crate::node_state::NodeState;
use crate::scope::{Census, ChildOwner, Owner, Place, PoolState, Resident, Scope, Seat};

/// How many seats are looked at, in search of who is to be woken, before others get at the lock.
const BATCH: u32 = 256;

/// The tasks of all depths.
pub(super) struct Stages {
    /// The scope around the pool, which waits for it; let go of when the pool has closed.
    enclosing: Option<Arc<Scope>>,
    /// Depth 0, to which most belong; `None` once it has closed.
    zero: Option<Stage>,
    /// The other depths, each from its first task on.
    #[expect(clippy::box_collection, reason = "most pools have one depth, and pay for a pointer only")]
    others: Option<Box<BTreeMap<i32, Stage>>>,
}

/// The tasks of one depth.
pub(super) struct Stage {
    crew: Crew,
    daemons: Option<Box<Crew>>,
    /// What asks the tasks to stop, once somebody wants to know.
    token: Option<CancellationToken>,
    /// Whether they have been asked.
    asked: bool,
}

/// Tasks that are waited for together.
struct Crew {
    members: Roster<Member>,
    /// Held by the tasks and the body, not from here. When it has ended, the next task makes a new one.
    scope: Weak<Scope>,
    /// How many scopes have not told of their end, which is what the driver waits for.
    scopes: usize,
}

/// A task, as its pool knows it. What it has to say it says itself, as it ends: its output is `()`, and nobody joins
/// it.
pub(super) struct Member {
    /// What wakes it if it is aborted; `None` until it waits for the first time.
    waker: Option<Waker>,
    name: Option<Arc<str>>,
    spawned_at: &'static Location<'static>,
}

/// What is reserved for a task that is about to be spawned. The task that is made of it gives it up as it ends.
pub(super) struct Berth {
    pub(super) seat: Seat,
    pub(super) scope: Arc<Scope>,
}

/// Something that can be spawned.
pub(super) trait Launch: 'static {
    /// What its handle cancels it by, if it has one.
    fn control(&self) -> Option<Arc<Control>> {
        None
    }

    fn info(&self) -> TaskInfo;

    /// Spawns it in its scope, and on its seat; no lock is held.
    fn launch(self, scope: Arc<Scope>, seat: Seat, runtime: &Handle) -> JoinHandle<()>;
}

impl Stages {
    pub(super) const fn new() -> Self {
        Self { enclosing: None, zero: Some(Stage::new()), others: None }
    }

    /// Puts the pool into what encloses it. Returns the scope of depth 0.
    #[inline]
    pub(super) fn enter(&mut self, pool: &Arc<impl PoolState>, enclosing: Option<Arc<Scope>>) -> Arc<Scope> {
        if let Some(enclosing) = &enclosing {
            enclosing.adopt(ChildOwner::Pool(Arc::downgrade(pool) as Weak<dyn PoolState>));
        }
        self.enclosing = enclosing;
        self.scope(pool, Place::default())
    }

    /// The scope around the pool, as long as that has not closed.
    pub(super) fn enclosing(&self) -> Option<&Arc<Scope>> {
        self.enclosing.as_ref()
    }

    /// Lets go of what encloses the pool.
    pub(super) fn leave(&mut self) -> Option<Arc<Scope>> {
        self.enclosing.take()
    }

    /// Takes a task in, in a depth that takes it.
    #[inline]
    pub(super) fn reserve(&mut self, pool: &Arc<impl PoolState>, place: Place, info: TaskInfo) -> Berth {
        let (crew, enclosing) = self.crew_at(place);
        let scope = crew.scope(pool, place, enclosing);
        let TaskInfo { name, spawned_at, .. } = info;
        let seat = crew.members.enter(Member { waker: None, name, spawned_at });
        Berth { seat, scope }
    }

    /// Notes what wakes a task that waits. Gives back what is not needed.
    #[inline]
    pub(super) fn park(&mut self, place: Place, seat: Seat, waker: Waker) -> Option<Waker> {
        match self.members_mut(place).and_then(|members| members.get_mut(seat)) {
            Some(member) => member.waker.replace(waker),
            // Not in practice: it has a seat while it is polled.
            None => Some(waker),
        }
    }

    /// The scope of a place, for somebody who holds it from now on. The last to let go of a scope takes the pool's
    /// lock.
    pub(super) fn scope(&mut self, pool: &Arc<impl PoolState>, place: Place) -> Arc<Scope> {
        let (crew, enclosing) = self.crew_at(place);
        crew.scope(pool, place, enclosing)
    }

    /// A scope has ended. Of a depth that was given up on, nobody wants to know.
    pub(super) fn settled(&mut self, place: Place) {
        if let Some(crew) = self.get_mut(place.depth).and_then(|stage| stage.crew_mut(place.daemon)) {
            crew.scopes -= 1;
        }
    }

    /// The tasks of a place, with what it takes to make their scope.
    #[inline(always)]
    fn crew_at(&mut self, place: Place) -> (&mut Crew, Option<&Arc<Scope>>) {
        let Self { enclosing, zero, others } = self;
        let stage = match zero {
            Some(zero) if place.depth == 0 => zero,
            _ => others.get_or_insert_default().entry(place.depth).or_insert_with(Stage::new),
        };
        let crew = match place.daemon {
            false => &mut stage.crew,
            true => stage.daemons.get_or_insert_with(|| Box::new(Crew::new())),
        };
        (crew, enclosing.as_ref())
    }

    #[inline]
    pub(super) fn members_mut(&mut self, place: Place) -> Option<&mut Roster<Member>> {
        self.get_mut(place.depth)?.members_mut(place.daemon)
    }

    /// The highest depth that is left.
    pub(super) fn highest(&self) -> Option<i32> {
        let other = self.others.as_ref().and_then(|others| others.last_key_value()).map(|(depth, _)| *depth);
        other.max(self.zero.as_ref().map(|_| 0))
    }

    /// The highest depth that is left, and its tasks.
    pub(super) fn highest_mut(&mut self) -> Option<(i32, &mut Stage)> {
        let depth = self.highest()?;
        Some((depth, self.get_mut(depth)?))
    }

    #[inline]
    pub(super) fn get_mut(&mut self, depth: i32) -> Option<&mut Stage> {
        if depth == 0 { self.zero.as_mut() } else { self.others.as_mut()?.get_mut(&depth) }
    }

    /// Lets go of a depth. It takes no tasks any more.
    pub(super) fn take(&mut self, depth: i32) -> Option<Stage> {
        if depth == 0 { self.zero.take() } else { self.others.as_mut()?.remove(&depth) }
    }

    /// Whether depth 0 is the only one.
    pub(super) fn is_single(&self) -> bool {
        self.others.as_ref().is_none_or(|others| others.is_empty())
    }

    /// Whether there is nothing left but daemons.
    #[inline]
    pub(super) fn is_settled(&self) -> bool {
        self.all(|stage| stage.crew.is_settled())
    }

    /// Whether there is nothing left at all.
    #[inline]
    pub(super) fn is_over(&self) -> bool {
        self.all(Stage::is_settled)
    }

    /// Whether something holds for all depths that are left.
    #[inline]
    fn all(&self, holds: impl Fn(&Stage) -> bool) -> bool {
        self.zero.as_ref().is_none_or(&holds) && self.others.as_ref().is_none_or(|others| others.values().all(holds))
    }

    /// Notes that all tasks are asked to stop, and says by which tokens.
    #[inline]
    pub(super) fn ask(&mut self) -> Vec<CancellationToken> {
        let mut tokens = Vec::new();
        if let Some(token) = self.zero.as_mut().and_then(Stage::ask) {
            tokens.push(token);
        }
        if let Some(others) = &mut self.others {
            tokens.extend(others.values_mut().filter_map(Stage::ask));
        }
        tokens
    }

    /// The depths that are left.
    pub(super) fn depths(&self) -> Vec<i32> {
        self.stages().map(|(depth, _)| depth).collect()
    }

    /// How many tasks have not ended.
    pub(super) fn len(&self) -> usize {
        self.stages().flat_map(|(_, stage)| stage.crews()).map(|crew| crew.members.len()).sum()
    }

    /// Adds what there is to be seen, in no order.
    pub(super) fn census(&self, census: &mut Census) {
        self.stages().for_each(|(depth, stage)| stage.census(depth, census));
    }

    /// All depths that are left, in no order.
    fn stages(&self) -> impl Iterator<Item = (i32, &Stage)> {
        let others = self.others.iter().flat_map(|others| others.iter());
        self.zero.iter().map(|stage| (0, stage)).chain(others.map(|(depth, stage)| (*depth, stage)))
    }
}

impl Stage {
    const fn new() -> Self {
        Self { crew: Crew::new(), daemons: None, token: None, asked: false }
    }

    #[inline]
    pub(super) fn members_mut(&mut self, daemon: bool) -> Option<&mut Roster<Member>> {
        Some(&mut self.crew_mut(daemon)?.members)
    }

    #[inline]
    fn crew_mut(&mut self, daemon: bool) -> Option<&mut Crew> {
        if daemon { self.daemons.as_deref_mut() } else { Some(&mut self.crew) }
    }

    /// The tasks, then the daemons, if there are any.
    fn crews(&self) -> impl Iterator<Item = &Crew> {
        std::iter::once(&self.crew).chain(self.daemons.as_deref())
    }

    /// The token of this depth.
    ///
    /// Whoever makes it sees whether the tasks have been asked; whoever asks them sees it.
    pub(super) fn token(&mut self) -> CancellationToken {
        let token = self.token.get_or_insert_with(CancellationToken::new);
        token.clone()
    }

    /// Notes that the tasks are asked to stop, and says by which token, if there is one; it has waiters to wake.
    #[inline]
    pub(super) fn ask(&mut self) -> Option<CancellationToken> {
        self.asked = true;
        self.token.clone()
    }

    /// Whether the tasks have been asked to stop.
    pub(super) fn is_asked(&self) -> bool {
        self.asked
    }

    /// Whether nothing is left of the tasks, the daemons and what is below them.
    #[inline]
    pub(super) fn is_settled(&self) -> bool {
        self.crews().all(Crew::is_settled)
    }

    /// Has all tasks end that are polled from now on. Returns their scopes, to be let go of without the lock.
    pub(super) fn abort(&self) -> [Option<Arc<Scope>>; 2] {
        let scopes = [Some(&self.crew), self.daemons.as_deref()].map(|crew| crew?.scope.upgrade());
        scopes.iter().flatten().for_each(|scope| scope.abort());
        scopes
    }

    /// Takes the wakers of a batch of seats, from an index on. Returns where the next batch begins, if there is one.
    pub(super) fn wake_from(&mut self, daemon: bool, index: u32, wakers: &mut Vec<Waker>) -> Option<u32> {
        let members = self.members_mut(daemon)?;
        wakers.extend(members.range(index, BATCH).filter_map(|member| member.waker.take()));
        index.checked_add(BATCH).filter(|next| *next < members.chairs())
    }

    /// Adds what there is to be seen of this depth.
    pub(super) fn census(&self, depth: i32, census: &mut Census) {
        for (crew, daemon) in self.crews().zip([false, true]) {
            let place = Place { depth, daemon };
            census.scopes.extend(crew.scope.upgrade().map(|scope| (place, scope)));
            census.tasks.extend(crew.members.iter().map(|(seat, member)| member.resident(place, seat)));
        }
    }
}

impl Crew {
    const fn new() -> Self {
        Self { members: Roster::new(), scope: Weak::new(), scopes: 0 }
    }

    /// The scope of the tasks, or a new one if the last has ended.
    #[inline]
    fn scope(&mut self, pool: &Arc<impl PoolState>, place: Place, enclosing: Option<&Arc<Scope>>) -> Arc<Scope> {
        if let Some(scope) = self.scope.upgrade() {
            return scope;
        }
        let scope = Scope::within(enclosing.cloned(), Owner::Pool(Arc::clone(pool) as Arc<dyn PoolState>, place));
        self.scope = Arc::downgrade(&scope);
        self.scopes += 1;
        scope
    }

    /// Whether nothing is left of the tasks, nor below them.
    #[inline]
    fn is_settled(&self) -> bool {
        self.scopes == 0
    }
}

impl Member {
    /// The task as a snapshot shows it.
    fn resident(&self, place: Place, seat: Seat) -> Resident {
        Resident { info: self.info(), place, seat: Some(seat), state: NodeState::Running }
    }

    /// Which task it is.
    pub(super) fn info(&self) -> TaskInfo {
        TaskInfo { name: self.name.clone(), spawned_at: self.spawned_at, body: false }
    }
}
