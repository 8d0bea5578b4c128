//! How a tree is put together when somebody asks.
//!
//! A pool knows its own tasks; a scope knows what began in it, and in which task. A snapshot joins the two: each task
//! with what began in it, and then what began in none that is alive, since its owner was dropped. One pool is looked at
//! after the other, each under its lock for a moment, so that the snapshot of a busy pool is no single point in time.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use crate::error::TaskInfo;
use crate::scope::{Call, Child, ChildKind, ErasedPool, Scope, Snapshot, TaskSnapshot};

/// The tasks that are alive in what `snapshot` has found, each followed by those nested in it.
pub(in crate::pool) fn tasks_of(snapshot: Snapshot) -> Vec<TaskInfo> {
    let mut tasks = Vec::new();
    walk_parts(parts_of(snapshot), |_, seen| match seen {
        Seen::Pool(..) | Seen::Body(_) => {}
        Seen::Task(task) => tasks.push(task.info.clone()),
        Seen::Call(call) => tasks.extend(std::iter::repeat_n(TaskInfo::unnamed(call.called_at), call.alive())),
    });
    tasks
}

/// The same without those of nested pools that have a grace of their own, which speak for themselves.
pub(in crate::pool) fn tasks_without_grace(snapshot: Snapshot) -> Vec<TaskInfo> {
    let mut tasks = Vec::new();
    let mut skipped = usize::MAX;
    walk_parts(parts_of(snapshot), |level, seen| {
        if level <= skipped {
            skipped = usize::MAX;
        }
        match seen {
            Seen::Pool(_, nested) if nested.has_grace && skipped == usize::MAX => skipped = level,
            Seen::Task(task) if skipped == usize::MAX => tasks.push(task.info.clone()),
            _ => {}
        }
    });
    tasks
}

/// Something that can be seen. No lock is held while one is, nor while it is dropped.
enum Part {
    Pool(Arc<dyn ErasedPool>),
    Body(TaskInfo),
    /// With what is nested in it.
    Task(TaskSnapshot, Vec<Part>),
    Call(Arc<Scope>),
}

/// The same, while it is visited.
pub(super) enum Seen<'a> {
    Pool(&'a Arc<dyn ErasedPool>, &'a Snapshot),
    Body(&'a TaskInfo),
    Task(&'a TaskSnapshot),
    Call(&'a Call),
}

/// Visits a pool and everything nested in it.
pub(super) fn walk(top: Arc<dyn ErasedPool>, visit: impl FnMut(usize, Seen<'_>)) {
    walk_parts(vec![Part::Pool(top)], visit);
}

/// Visits all parts and everything nested in them, each before those nested in it, with its level. Not by recursion,
/// since a tree can be as deep as there is memory.
fn walk_parts(parts: Vec<Part>, mut visit: impl FnMut(usize, Seen<'_>)) {
    let mut stack: Vec<_> = parts.into_iter().rev().map(|part| (0, part)).collect();
    while let Some((level, part)) = stack.pop() {
        let below = match part {
            Part::Pool(pool) => {
                let snapshot = pool.snapshot();
                if level > 0 && snapshot.is_over() {
                    continue;
                }
                visit(level, Seen::Pool(&pool, &snapshot));
                parts_of(snapshot)
            }
            Part::Body(body) => {
                visit(level, Seen::Body(&body));
                Vec::new()
            }
            Part::Task(task, below) => {
                visit(level, Seen::Task(&task));
                below
            }
            Part::Call(scope) => {
                if let Some(call) = scope.call() {
                    visit(level, Seen::Call(call));
                }
                scope.children().iter().filter_map(part_of).collect()
            }
        };
        stack.extend(below.into_iter().rev().map(|part| (level + 1, part)));
    }
}

/// The tasks of a pool as they close, each with what began in it; then what began in none of them that is alive. The
/// body, if nothing else but daemons keeps the pool open.
fn parts_of(mut snapshot: Snapshot) -> Vec<Part> {
    // Stable, so that those that were not spawned stay in the order in which they will be.
    let order = |task: &TaskSnapshot| {
        (Reverse(task.class.depth), task.class.kind.is_daemon(), task.key.map_or(u32::MAX, |key| key.generation.get()))
    };
    snapshot.tasks.sort_by_key(order);
    let mut below: HashMap<_, Vec<Part>> =
        snapshot.tasks.iter().filter_map(|task| Some(((task.class, task.key?), Vec::new()))).collect();
    let mut others = Vec::new();
    for (class, child) in
        snapshot.scopes.iter().flat_map(|(class, scope)| scope.children().into_iter().map(|child| (*class, child)))
    {
        let home = child.key.and_then(|key| below.get_mut(&(class, key))).unwrap_or(&mut others);
        home.extend(part_of(&child));
    }
    let take = |task: TaskSnapshot| {
        let below = task.key.and_then(|key| below.remove(&(task.class, key))).unwrap_or_default();
        Part::Task(task, below)
    };
    let is_daemon = |part: &Part| matches!(part, Part::Task(task, _) if task.class.kind.is_daemon());
    let body = snapshot.body.take();
    let parts: Vec<_> = snapshot.tasks.into_iter().map(take).chain(others).collect();
    let body = body.filter(|_| parts.iter().all(is_daemon)).map(Part::Body);
    body.into_iter().chain(parts).collect()
}

/// What began in a scope, if anything of it is left.
fn part_of(child: &Child) -> Option<Part> {
    match &child.owner {
        ChildKind::Pool(pool) => pool.upgrade().map(Part::Pool),
        ChildKind::Call(scope) => scope.upgrade().map(Part::Call),
        // The task that it stands for is on the list of its pool.
        ChildKind::Tracked(_) => None,
    }
}
