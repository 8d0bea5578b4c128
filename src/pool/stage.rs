//! The tasks of a running pool, the scopes they run in, and the runtime they run on.
//!
//! Each depth has a list of its tasks. It is what they are aborted by, and what [`Pool::tree`](crate::Pool::tree) looks
//! at. A `JoinSet` would do the first as well, but cannot be looked into; and since no one waits for the ends of single
//! tasks, what it allocates and locks for each of them to be told is not needed.

use std::collections::BTreeMap;
use std::panic::Location;
use std::sync::{Arc, Weak};

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinHandle};
use tokio_util::sync::CancellationToken;

use super::gate::Slot;
use super::handle::Control;
use super::quiet::{Dropped, quietly};
use crate::error::TaskInfo;
use crate::scope::{Census, ChildOwner, Owner, Place, PoolState, Resident, Scope, is_settled};

/// How many tasks one turn looks at, to free those that have ended: some ten microseconds.
const BATCH: usize = 256;

/// How many ended tasks may be left in a list, or freed in one go: about half a megabyte, and a tenth of a millisecond.
pub(super) const LARGE: usize = 8 * BATCH;

/// The tasks of all depths.
pub(super) struct Stages {
    pub(super) runtime: Handle,
    /// The scope around the pool, which waits for it.
    enclosing: Option<Arc<Scope>>,
    /// Depth 0, to which most belong; `None` once it has been taken out to be closed.
    zero: Option<Stage>,
    /// The other depths, each from its first task on.
    #[expect(clippy::box_collection, reason = "the pointer is what most pools are to have of it")]
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
///
/// What a task has to say it says itself, as it ends: the outputs are `()`, and the join errors, all of them
/// cancellations, are not looked at.
struct Crew {
    members: Vec<Member>,
    /// How far the list has been searched for tasks that have ended.
    searched: usize,
    /// How many tasks there have been.
    spawned: u64,
    /// All the members, once they are being aborted.
    leaving: Option<Arc<Vec<Member>>>,
    /// Held by the tasks and the body, not from here: its end is what the driver waits for. The next task makes a new
    /// one.
    scope: Weak<Scope>,
}

/// A task, as its pool knows it.
pub(super) struct Member {
    task: JoinHandle<()>,
    name: Option<Arc<str>>,
    spawned_at: &'static Location<'static>,
    /// The order in which they are shown; that of the list changes when some are freed.
    number: u64,
}

/// What one turn has taken out of the lists, to be dropped when no lock is held. The last to let go of a scope takes
/// the pool's lock itself.
#[derive(Default)]
pub(super) struct Held {
    scopes: Vec<Arc<Scope>>,
    freed: Vec<Member>,
}

/// The tasks of a depth that is being aborted.
pub(super) struct Leaving([Option<Arc<Vec<Member>>>; 2]);

impl Leaving {
    /// Aborts the tasks; no lock is held, since that may wake somebody's `LocalSet`.
    pub(super) fn abort(&self) {
        self.0.iter().flatten().flat_map(|members| members.iter()).for_each(|member| member.task.abort());
    }
}

/// A task that was spawned under the lock, and what is to be done about it after unlocking.
#[must_use = "its handle does not know it yet"]
pub(super) struct Launched {
    dropped: Option<Dropped>,
    handle: Option<(Arc<Control>, AbortHandle)>,
    turn: Option<(oneshot::Sender<Slot>, Slot)>,
}

impl Launched {
    /// Drops what could not be dropped under the lock, and lets the handle know its task.
    pub(super) fn unlocked(self) {
        drop(self.dropped);
        if let Some((control, abort)) = self.handle {
            control.spawned(abort);
        }
        if let Some((sender, slot)) = self.turn {
            drop(sender.send(slot));
        }
    }

    /// A task that has been spawned before, and is to be told that it is its turn.
    pub(super) fn turn(sender: oneshot::Sender<Slot>, slot: Slot) -> Self {
        Self { dropped: None, handle: None, turn: Some((sender, slot)) }
    }
}

/// Something that can be spawned in a stage.
pub(super) trait Launch: 'static {
    /// What its handle cancels it by, if it has one.
    fn control(&self) -> Option<Arc<Control>>;

    fn info(&self) -> TaskInfo;

    /// Spawns it; the pool's lock is held, so that this must be called quietly.
    fn launch(self, scope: Arc<Scope>, runtime: &Handle) -> JoinHandle<()>;
}

impl Stages {
    /// No tasks yet, on the runtime that this is called from.
    ///
    /// # Panics
    ///
    /// Without a runtime, naming the line that `call` is in.
    #[inline]
    pub(super) fn here(call: &str, site: &Location<'_>, enclosing: Option<Arc<Scope>>) -> Self {
        let Ok(runtime) = Handle::try_current() else {
            panic!("`{call}` (called at {site}) was polled outside of a tokio runtime");
        };
        Self { runtime, enclosing, zero: Some(Stage::new()), others: None }
    }

    /// Spawns a task under the pool's lock, in a depth that takes it.
    #[inline]
    pub(super) fn launch<L: Launch>(&mut self, pool: &Arc<impl PoolState>, place: Place, task: L) -> Launched {
        let control = task.control();
        let TaskInfo { name, spawned_at, .. } = task.info();
        let (crew, runtime, enclosing) = self.crew(place);
        let scope = crew.scope(pool, place, enclosing);
        scope.task_spawned(crew.members.len() + 1);
        let (task, dropped) = quietly(|| task.launch(scope, runtime));
        let handle = control.map(|control| (control, task.abort_handle()));
        crew.members.push(Member { task, name, spawned_at, number: crew.spawned });
        crew.spawned += 1;
        Launched { dropped: Some(dropped), handle, turn: None }
    }

    /// The scope of a place, for somebody who holds it from now on; see [`Held`].
    pub(super) fn scope(&mut self, pool: &Arc<impl PoolState>, place: Place) -> Arc<Scope> {
        let (crew, _, enclosing) = self.crew(place);
        crew.scope(pool, place, enclosing)
    }

    /// Has the pool shown as part of what encloses it.
    pub(super) fn adopt(&self, pool: &Arc<impl PoolState>) {
        if let Some(enclosing) = &self.enclosing {
            enclosing.adopt(ChildOwner::Pool(Arc::downgrade(pool) as Weak<dyn PoolState>));
        }
    }

    pub(super) fn enclosing(&self) -> Option<&Arc<Scope>> {
        self.enclosing.as_ref()
    }

    /// The tasks of a place whose depth takes some, with what it takes to spawn more.
    #[inline(always)]
    fn crew(&mut self, place: Place) -> (&mut Crew, &Handle, Option<&Arc<Scope>>) {
        let Self { runtime, enclosing, zero, others, .. } = self;
        let stage = match zero {
            Some(zero) if place.depth == 0 => zero,
            _ => others.get_or_insert_default().entry(place.depth).or_insert_with(Stage::new),
        };
        let crew = match place.daemon {
            false => &mut stage.crew,
            true => stage.daemons.get_or_insert_with(|| Box::new(Crew::new())),
        };
        (crew, runtime, enclosing.as_ref())
    }

    /// The highest depth that is left.
    pub(super) fn highest(&self) -> Option<i32> {
        let other = self.others.as_ref().and_then(|others| others.last_key_value()).map(|(depth, _)| *depth);
        other.max(self.zero.as_ref().map(|_| 0))
    }

    pub(super) fn highest_mut(&mut self) -> Option<(i32, &mut Stage)> {
        let depth = self.highest()?;
        Some((depth, self.get_mut(depth)?))
    }

    pub(super) fn get_mut(&mut self, depth: i32) -> Option<&mut Stage> {
        if depth == 0 { self.zero.as_mut() } else { self.others.as_mut()?.get_mut(&depth) }
    }

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
        self.all(|stage| is_settled(&stage.crew.scope))
    }

    /// Whether there is nothing left at all.
    #[inline]
    pub(super) fn is_over(&self) -> bool {
        self.all(Stage::is_settled)
    }

    #[inline]
    fn all(&self, holds: impl Fn(&Stage) -> bool) -> bool {
        self.zero.as_ref().is_none_or(&holds) && self.others.as_ref().is_none_or(|others| others.values().all(holds))
    }

    /// Notes that all tasks are asked to stop, and says by which tokens.
    #[inline]
    pub(super) fn ask(&mut self) -> Vec<CancellationToken> {
        let mut tokens = Vec::new();
        self.each(|stage| tokens.extend(stage.ask()));
        tokens
    }

    /// The tasks of all depths, to be aborted. None is spawned any more.
    pub(super) fn leave(&mut self) -> Vec<Leaving> {
        let mut leaving = Vec::new();
        self.each(|stage| leaving.push(stage.leave()));
        leaving
    }

    /// Takes tasks that have ended out of the lists, a batch of each at most. Says whether there may be more.
    pub(super) fn reap(&mut self, held: &mut Held) -> bool {
        let mut more = false;
        self.each(|stage| more |= stage.reap(held));
        more
    }

    #[inline]
    fn each(&mut self, mut change: impl FnMut(&mut Stage)) {
        self.zero.iter_mut().for_each(&mut change);
        self.others.iter_mut().for_each(|others| others.values_mut().for_each(&mut change));
    }

    /// How many tasks have not ended.
    pub(super) fn alive(&self, held: &mut Held) -> usize {
        self.stages().map(|(_, stage)| stage.alive(held)).sum()
    }

    /// How many tasks have not been freed.
    #[inline]
    pub(super) fn len(&self) -> usize {
        let others = self.others.as_ref().map_or(0, |others| others.values().map(Stage::len).sum());
        self.zero.as_ref().map_or(0, Stage::len) + others
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
    fn new() -> Self {
        Self { crew: Crew::new(), daemons: None, token: None, asked: false }
    }

    fn crews(&self) -> impl Iterator<Item = &Crew> {
        std::iter::once(&self.crew).chain(self.daemons.as_deref())
    }

    fn crews_mut(&mut self) -> impl Iterator<Item = &mut Crew> {
        std::iter::once(&mut self.crew).chain(self.daemons.as_deref_mut())
    }

    /// The token of this depth.
    ///
    /// Whoever makes it sees whether the tasks have been asked; whoever asks them sees it.
    pub(super) fn token(&mut self) -> CancellationToken {
        let token = self.token.get_or_insert_with(CancellationToken::new);
        token.clone()
    }

    /// Notes that the tasks are asked to stop, and says by which token, if there is one; it has waiters to wake.
    pub(super) fn ask(&mut self) -> Option<CancellationToken> {
        self.asked = true;
        self.token.clone()
    }

    pub(super) fn is_asked(&self) -> bool {
        self.asked
    }

    /// The tasks, to be aborted. None is spawned any more.
    pub(super) fn leave(&mut self) -> Leaving {
        let daemons = self.daemons.as_mut().and_then(|daemons| daemons.leave());
        Leaving([self.crew.leave(), daemons])
    }

    /// Whether nothing is left of the tasks, the daemons and what is below them.
    #[inline]
    pub(super) fn is_settled(&self) -> bool {
        is_settled(&self.crew.scope) && self.daemons.as_ref().is_none_or(|daemons| is_settled(&daemons.scope))
    }

    fn alive(&self, held: &mut Held) -> usize {
        let mut alive = 0;
        for scope in self.crews().filter_map(|crew| crew.scope.upgrade()) {
            alive += scope.alive();
            held.scopes.push(scope);
        }
        alive
    }

    /// Takes tasks that have ended out of the lists. Says whether there may be more.
    pub(super) fn reap(&mut self, held: &mut Held) -> bool {
        self.crews_mut().fold(false, |more, crew| crew.reap(held) | more)
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.crew.len() + self.daemons.as_ref().map_or(0, |daemons| daemons.len())
    }

    /// Frees some tasks of a depth in which all have ended. Says whether there may be more.
    pub(super) fn free_some(&mut self) -> bool {
        self.crews_mut().any(Crew::free_some)
    }

    /// Adds what there is to be seen of this depth.
    pub(super) fn census(&self, depth: i32, census: &mut Census) {
        for (crew, daemon) in self.crews().zip([false, true]) {
            crew.census(Place { depth, daemon }, census);
        }
    }
}

impl Crew {
    fn new() -> Self {
        Self { members: Vec::new(), searched: 0, spawned: 0, leaving: None, scope: Weak::new() }
    }

    /// The scope of the tasks, or a new one if the last has ended.
    #[inline]
    fn scope(&mut self, pool: &Arc<impl PoolState>, place: Place, enclosing: Option<&Arc<Scope>>) -> Arc<Scope> {
        if let Some(scope) = self.scope.upgrade() {
            return scope;
        }
        let scope = Scope::within(enclosing.cloned(), Owner::Pool(Arc::clone(pool) as Arc<dyn PoolState>, place));
        self.scope = Arc::downgrade(&scope);
        scope
    }

    fn leave(&mut self) -> Option<Arc<Vec<Member>>> {
        let leaving = self.leaving.get_or_insert_with(|| Arc::new(std::mem::take(&mut self.members)));
        let leaving = Arc::clone(leaving);
        (!is_settled(&self.scope)).then_some(leaving)
    }

    fn reap(&mut self, held: &mut Held) -> bool {
        let more = (0..BATCH).all(|_| self.reap_one(held));
        let mut alive = 0;
        if let Some(scope) = self.scope.upgrade() {
            scope.set_unfreed(self.members.len());
            alive = scope.alive();
            held.scopes.push(scope);
        }
        // Those that have ended behind the search have woken nobody.
        more || self.members.len() > 2 * alive + LARGE
    }

    /// Looks at the next member, and takes it out if it has ended. Says whether there is another; if not, the search
    /// begins anew.
    fn reap_one(&mut self, held: &mut Held) -> bool {
        match self.members.get(self.searched) {
            Some(member) if member.task.is_finished() => held.freed.push(self.members.swap_remove(self.searched)),
            _ => self.searched += 1,
        }
        let more = self.searched < self.members.len();
        if !more {
            self.searched = 0;
            self.members.shrink_to(2 * self.members.len());
        }
        more
    }

    #[inline]
    fn len(&self) -> usize {
        self.members.len() + self.leaving.as_ref().map_or(0, |leaving| leaving.len())
    }

    fn free_some(&mut self) -> bool {
        let leaving = self.leaving.as_mut().and_then(Arc::get_mut);
        let members = leaving.unwrap_or(&mut self.members);
        members.truncate(members.len().saturating_sub(BATCH));
        !members.is_empty()
    }

    fn census(&self, place: Place, census: &mut Census) {
        census.scopes.extend(self.scope.upgrade());
        let members = self.members.iter().chain(self.leaving.iter().flat_map(|leaving| leaving.iter()));
        let alive = members.filter(|member| !member.task.is_finished());
        census.tasks.extend(alive.map(|member| member.resident(place)));
    }
}

impl Member {
    fn resident(&self, place: Place) -> Resident {
        let info = TaskInfo { name: self.name.clone(), spawned_at: self.spawned_at, body: false };
        Resident { info, id: Some(self.task.id()), place, number: self.number }
    }
}
