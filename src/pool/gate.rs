//! The limit on how many tasks of a pool run, and the tasks that wait for their turn.
//!
//! A task takes a slot before it is spawned, and gives it back when it has ended. One that finds none is kept,
//! unspawned, in a queue, first come, first served. Whoever frees a slot launches those whose turn it is: one at a time
//! does so, and the others leave their slots to it, so that a chain of short tasks is no recursion.
//!
//! Tasks of `spawn_local` cannot be kept, since whoever frees a slot may be on another thread. They are spawned at
//! once, and wait inside for their [`Turn`]; in the queue a [`Ticket`] stands for them.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::depths::{Berth, Launch};
use super::handle::HandleInner;
use super::output::Local;
use super::state::Shared;
use crate::error::TaskInfo;
use crate::scope::NodeState;
use crate::scope::{ErasedPool, Scope, TaskClass, TaskSnapshot};

/// A task that waits for its pool to run, or for its turn.
pub(super) trait Waiting<E>: Send {
    /// Its depth, and whether it is a daemon.
    fn class(&self) -> TaskClass;

    /// What its handle cancels it by, if it has one.
    fn control(&self) -> Option<Arc<HandleInner>> {
        None
    }

    /// Whether it is spawned already.
    fn is_spawned(&self) -> bool {
        false
    }

    /// Spawns it in its berth, or tells it that it is its turn if it is spawned already, and so has no berth here.
    fn launch(self: Box<Self>, pool: &Arc<Shared<E>>, berth: Option<Berth>);

    /// Which task it is, unless it is spawned already.
    fn info(&self) -> Option<TaskInfo>;

    /// What there is to be seen of it; a task that is spawned is seen among the others.
    fn to_snapshot(&self, state: NodeState) -> Option<TaskSnapshot> {
        Some(TaskSnapshot { info: self.info()?, class: self.class(), key: None, state })
    }

    /// Whether its handle has cancelled it.
    fn is_cancelled(&self) -> bool {
        self.control().is_some_and(|control| control.is_cancelled())
    }
}

/// A task with its class.
pub(super) struct Kept<L> {
    pub(super) class: TaskClass,
    pub(super) task: L,
}

impl<E: Send + 'static, L: Launch + Send> Waiting<E> for Kept<L> {
    fn class(&self) -> TaskClass {
        self.class
    }

    fn control(&self) -> Option<Arc<HandleInner>> {
        self.task.control()
    }

    fn launch(self: Box<Self>, pool: &Arc<Shared<E>>, berth: Option<Berth>) {
        if let Some(berth) = berth {
            pool.launch(berth, self.task);
        }
    }

    fn info(&self) -> Option<TaskInfo> {
        Some(self.task.info())
    }
}

/// How many tasks run, and those that wait for one of them to end. Daemons are not counted.
pub(super) struct Gate<E> {
    /// How many may run.
    limit: usize,
    /// How many slots are taken.
    running: usize,
    /// In the order of their coming, by which their handles know them.
    queue: BTreeMap<u64, Queued<E>>,
    /// The key of the next to come.
    next: u64,
    /// Somebody is launching queued tasks; whoever frees a slot leaves it to them.
    pub(super) draining: bool,
}

/// A task that waits for its turn. It is a entry of its pool already, and so holds its scope.
pub(super) struct Queued<E> {
    pub(super) task: Box<dyn Waiting<E>>,
    /// That of its depth.
    pub(super) scope: Arc<Scope>,
}

impl<E> Gate<E> {
    /// A gate at which nobody waits.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, running: 0, queue: BTreeMap::new(), next: 0, draining: false }
    }

    /// The tasks that wait, but for those that are spawned.
    pub(super) fn snapshots(&self) -> impl Iterator<Item = TaskSnapshot> {
        self.queue.values().filter_map(|queued| queued.task.to_snapshot(NodeState::Queued))
    }

    /// Whether a task that comes now need not wait.
    pub(super) fn is_free(&self) -> bool {
        self.running < self.limit && self.queue.is_empty()
    }

    /// Whether `planned` tasks would leave a slot free.
    pub(super) fn has_room_for_more_than(&self, planned: usize) -> bool {
        planned < self.limit
    }

    /// Takes a slot, if one is free.
    pub(super) fn enter(&mut self) -> bool {
        let free = self.is_free();
        self.running += usize::from(free);
        free
    }

    /// Gives a slot back.
    pub(super) fn leave(&mut self) {
        self.running -= 1;
    }

    /// Puts a task into the queue of `pool`, whose handle can take it out again by cancelling it.
    pub(super) fn push(&mut self, queued: Queued<E>, pool: &Arc<Shared<E>>)
    where
        E: Send + 'static,
    {
        if let Some(control) = queued.task.control() {
            control.queued(pool, self.next);
        }
        self.queue.insert(self.next, queued);
        self.next += 1;
    }

    /// The next task to launch, which takes a slot.
    pub(super) fn pop(&mut self) -> Option<Queued<E>> {
        if self.running >= self.limit {
            return None;
        }
        let (_, next) = self.queue.pop_first()?;
        self.running += 1;
        Some(next)
    }

    /// Takes out a task that its handle has cancelled.
    pub(super) fn remove(&mut self, key: u64) -> Option<Queued<E>> {
        self.queue.remove(&key)
    }

    /// Takes out all tasks from a depth on up, which will not run any more.
    pub(super) fn remove_from(&mut self, depth: i32) -> BTreeMap<u64, Queued<E>> {
        let (removed, kept) =
            std::mem::take(&mut self.queue).into_iter().partition(|(_, queued)| queued.task.class().depth >= depth);
        self.queue = kept;
        removed
    }

    /// How many tasks wait that are not spawned.
    pub(super) fn len(&self) -> usize {
        self.queue.values().filter(|queued| !queued.task.is_spawned()).count()
    }
}

/// When a task may begin that is spawned at once, since it cannot be sent to whoever frees a slot.
pub(super) enum Turn {
    /// Now, in its slot, if the pool has any.
    Now(Option<Slot>),
    /// When it is given a slot.
    Later(oneshot::Receiver<Slot>),
}

impl Turn {
    /// Waits for the slot, and has the task keep it. Without one the pool is closing, and has aborted the task.
    pub(super) async fn come(self, task: Arc<Local>) {
        let slot = match self {
            Self::Now(None) => return,
            Self::Now(Some(slot)) => slot,
            Self::Later(slot) => match slot.await {
                Ok(slot) => slot,
                Err(_) => std::future::pending().await,
            },
        };
        task.keep(slot);
    }
}

/// A slot of a task that gives it back itself, by dropping it.
pub(super) struct Slot(Arc<dyn ErasedPool>);

impl Slot {
    /// One that was taken from the gate before.
    pub(super) fn new(pool: &Arc<impl ErasedPool>) -> Self {
        Self(Arc::clone(pool) as Arc<dyn ErasedPool>)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        Arc::clone(&self.0).slot_freed();
    }
}

/// What stands in the queue for a task that has been spawned.
pub(super) struct Ticket {
    class: TaskClass,
    /// Where the task waits for its slot.
    turn: oneshot::Sender<Slot>,
}

impl Ticket {
    /// A ticket, and where its slot arrives.
    pub(super) fn new(class: TaskClass) -> (Self, oneshot::Receiver<Slot>) {
        let (turn, receiver) = oneshot::channel();
        (Self { class, turn }, receiver)
    }
}

impl<E: Send + 'static> Waiting<E> for Ticket {
    fn class(&self) -> TaskClass {
        self.class
    }

    fn is_spawned(&self) -> bool {
        true
    }

    /// That wakes its `LocalSet`. If the task is gone, the slot is given back.
    fn launch(self: Box<Self>, pool: &Arc<Shared<E>>, _: Option<Berth>) {
        drop(self.turn.send(Slot::new(pool)));
    }

    fn info(&self) -> Option<TaskInfo> {
        None
    }
}
