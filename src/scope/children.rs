//! What is directly below a scope, for those who look from above: [`Pool::tree`](crate::Pool::tree), and the pools that
//! name what is stuck.
//!
//! The children are held weakly, so that looking keeps nothing alive. A scope that nobody should see by itself, such as
//! that of a `timeout`, has no list: what begins in it is listed by the nearest scope further out that is shown.

use std::collections::HashSet;
use std::ptr;
use std::sync::Weak;

use tokio_util::sync::CancellationToken;

use super::{Current, ErasedPool, Scope, TaskKey, lock};

/// What is directly below a scope.
#[derive(Default)]
pub(super) struct Children {
    /// In the order in which they began. Some have ended.
    children: Vec<Child>,
    /// How many have ended, since those were last thrown out.
    ended: usize,
    /// The tasks that their handles have aborted, until they have ended.
    aborted: HashSet<TaskKey>,
}

/// Something that has tasks of its own, directly below a scope.
#[derive(Clone)]
pub(crate) struct Child {
    /// That of the task in which it began; `None` if it was none of the scope's, as in a body.
    pub(crate) key: Option<TaskKey>,
    pub(crate) owner: ChildKind,
}

/// Whose tasks they are.
#[derive(Clone)]
pub(crate) enum ChildKind {
    Pool(Weak<dyn ErasedPool>),
    /// The scope of the call, which tells what was called.
    Call(Weak<Scope>),
    /// A future of a pool that somebody else polls; this ends it.
    Tracked(Weak<CancellationToken>),
}

impl Scope {
    /// Notes what begins in here, for those who look from above. Says whether it is to be aborted: who marks this scope
    /// or the task later finds it noted, and who has marked them before is seen here.
    pub(crate) fn add_child(&self, owner: ChildKind) -> bool {
        let Some(scope) = self.visible() else { return false };
        // What begins in a task of somebody else's, as in a bare `tokio::spawn`, is in none of these.
        let here = Current::get().filter(|here| here.scope.visible().is_some_and(|shown| ptr::eq(shown, scope)));
        scope.add_child_of(owner, here.and_then(|here| here.key))
    }

    /// The same for what is of a certain task.
    pub(crate) fn add_child_of(&self, owner: ChildKind, key: Option<TaskKey>) -> bool {
        let mut below = lock(self.children.get_or_init(Box::default));
        below.children.push(Child { key, owner });
        let is_aborted = key.is_some_and(|key| below.aborted.contains(&key));
        drop(below);
        is_aborted || self.is_aborted()
    }

    /// Marks a task as aborted, and says what is nested in it.
    pub(super) fn mark_task(&self, key: TaskKey) -> Vec<Child> {
        let mut below = lock(self.children.get_or_init(Box::default));
        below.aborted.insert(key);
        below.children.iter().filter(|child| child.key == Some(key)).cloned().collect()
    }

    /// Takes the mark off a task that has ended.
    pub(crate) fn forget_task(&self, key: TaskKey) {
        if let Some(below) = self.children.get() {
            lock(below).aborted.remove(&key);
        }
    }

    /// Something in here has ended, or some of it. Throws out what has, when that is half of what is there.
    pub(crate) fn child_ended(&self) {
        let Some(below) = self.visible().and_then(|scope| scope.children.get()) else { return };
        let mut below = lock(below);
        below.ended += 1;
        if 2 * below.ended > below.children.len() + 32 {
            below.ended = 0;
            below.children.retain(Child::is_alive);
            let alive = below.children.len();
            below.children.shrink_to(2 * alive);
        }
    }

    /// Whether anything is nested in here, or tracked.
    pub(crate) fn has_children(&self) -> bool {
        self.children.get().is_some_and(|children| lock(children).children.iter().any(Child::is_alive))
    }

    /// What is directly below, in the order in which it began.
    pub(crate) fn children(&self) -> Vec<Child> {
        self.children.get().map(|below| lock(below).children.clone()).unwrap_or_default()
    }
}

impl Child {
    /// Whether anything of it is left.
    fn is_alive(&self) -> bool {
        match &self.owner {
            ChildKind::Pool(pool) => pool.strong_count() > 0,
            ChildKind::Call(scope) => scope.strong_count() > 0,
            ChildKind::Tracked(signal) => signal.strong_count() > 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::Location;
    use std::sync::Arc;

    use super::*;
    use crate::scope::{Call, ScopeKind};

    fn scope(parent: Option<&Arc<Scope>>) -> Arc<Scope> {
        Scope::within(parent.cloned(), ScopeKind::Shield(Call::new("test", Location::caller())))
    }

    /// A scope that is held by those below it only is not dropped by itself.
    #[test]
    fn what_was_held_by_those_below_takes_no_room() {
        let top = scope(None);
        for _ in 0..1_000 {
            drop(scope(Some(&scope(Some(&top)))));
        }
        let below = lock(top.children.get().expect("it has had children"));
        assert!(below.children.capacity() < 100, "{}", below.children.capacity());
    }

    #[test]
    fn what_has_come_and_gone_takes_no_room() {
        let top = scope(None);
        let long_lived: Vec<_> = (0..10).map(|_| scope(Some(&top))).collect();
        for _ in 0..1_000 {
            drop((0..100).map(|_| scope(Some(&top))).collect::<Vec<_>>());
        }
        let below = lock(top.children.get().expect("it has had children"));
        assert!(below.children.capacity() < 100, "{}", below.children.capacity());
        assert_eq!(below.children.iter().filter(|child| child.is_alive()).count(), long_lived.len());
    }
}
