//! Who is alive, and in what it is nested, as the user sees it: as data, and drawn.
//!
//! The nodes are one list, each before those nested in it, with its level. That is the order in which they are drawn
//! and in which the [`snapshot`] finds them, and a tree of ten thousand levels is built, walked and dropped without
//! recursion.

mod node;
mod snapshot;

use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use self::snapshot::{Seen, walk};
use crate::error::{ClosingReason, TaskInfo};
use crate::scope::NodeState;
use crate::scope::{Call, ErasedPool, Snapshot, TaskClass, TaskSnapshot};

pub use self::node::{NodeKind, TreeNode};

pub(super) use self::snapshot::{tasks_of, tasks_without_grace};

/// Who was alive in a pool at one moment, and where each was spawned; made by [`Pool::tree`](crate::Pool::tree).
///
/// Its `Display` draws it, a line each:
///
/// ```text
/// web (running, 3 tasks)
/// ├── accept  src/main.rs:31:14
/// ├── conn 7  src/main.rs:52:18
/// │   └── <pool> (closing, 1 task)
/// │       └── read  src/conn.rs:20:9
/// └── metrics  src/main.rs:60:10  daemon
/// ```
///
/// `{:#}` adds why a pool closes. What is nested more than 64 levels deep is not indented any further. As data, the
/// tree is a list of nodes, each before those nested in it.
///
/// It is a copy: the tasks run on while you look at it. Pools are visited one after the other, so that the tree of a
/// busy pool is not exactly one moment.
///
/// # Examples
///
/// ```
/// use aiodrive::{NodeKind, Pool};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), aiodrive::PoolError> {
/// Pool::builder().name("web").open(async |pool: Pool| {
///     pool.build_task().name("accept").spawn(async {});
///     let tree = pool.tree();
///     assert!(tree.to_string().starts_with("web (running, 1 task)\n└── accept  "));
///
///     let tasks = tree.nodes().filter(|node| node.kind() == NodeKind::Task);
///     let names: Vec<_> = tasks.map(|node| node.name()).collect();
///     assert_eq!(names, [Some("accept")]);
///     Ok(())
/// })
/// .await
/// # }
/// ```
#[derive(Clone)]
pub struct PoolTree {
    /// Each before those nested in it.
    nodes: Vec<Node>,
}

/// What is kept of a pool, a task or a call. What only one of them has is empty in the others.
#[derive(Clone)]
struct Node {
    /// How far below the top; with the order of the list that is all there is of the tree's shape.
    level: usize,
    /// How many nodes are below it, which follow it.
    below: usize,
    kind: NodeKind,
    /// Of a call, the name of the function.
    name: Option<Arc<str>>,
    /// `None` for a pool.
    location: Option<&'static Location<'static>>,
    state: NodeState,
    /// Of a pool that closes.
    reason: Option<ClosingReason>,
    /// How many it has, as a pool or a call.
    tasks: usize,
    /// Of a task.
    class: TaskClass,
    /// Of a pool or a call whose future is gone.
    handed_over: bool,
    /// It is the pool from which the tree was taken.
    origin: bool,
    /// How many tasks run at a time in the pool of a task that waits for its turn.
    limit: Option<usize>,
}

impl PoolTree {
    /// The tree below `top`, in which `origin` is marked.
    pub(super) fn new(top: Arc<dyn ErasedPool>, origin: &Arc<dyn ErasedPool>) -> Self {
        let mut nodes = Vec::new();
        walk(top, |level, seen| {
            let node = match seen {
                Seen::Pool(pool, snapshot) => Node::of_pool(snapshot, Arc::ptr_eq(pool, origin)),
                Seen::Body(body) => Node::of_body(body),
                Seen::Task(task) => Node::of_task(task),
                Seen::Call(call) => Node::of_call(call),
            };
            nodes.push(Node { level, ..node });
        });
        count_below(&mut nodes);
        Self { nodes }
    }

    /// The pool at the top.
    ///
    /// # Examples
    ///
    /// ```
    /// let pool: aiodrive::Pool = aiodrive::Pool::builder().name("web").build();
    /// assert_eq!(pool.tree().root().name(), Some("web"));
    /// ```
    #[must_use]
    pub fn root(&self) -> TreeNode<'_> {
        self.node(0)
    }

    /// The pool from which the tree was taken. With [`root_tree`](crate::Pool::root_tree) it need not be the
    /// [`root`](Self::root).
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), aiodrive::PoolError> {
    /// Pool::builder().name("service").open(async |_: Pool| {
    ///     let request = Pool::builder().name("request");
    ///     let request = request.open(async |pool: Pool| Ok(pool.root_tree()));
    ///     assert_eq!(request.await?.origin().name(), Some("request"));
    ///     Ok(())
    /// })
    /// .await
    /// # }
    /// ```
    #[must_use]
    pub fn origin(&self) -> TreeNode<'_> {
        self.nodes().find(|node| node.get().origin).unwrap_or_else(|| self.root())
    }

    /// Everything in the tree, each node before those nested in it.
    ///
    /// The tasks of a pool are in the order in which they close: from the highest depth to the lowest, and in each
    /// depth the daemons after the others. Otherwise they are in the order in which they were spawned; those that wait
    /// for their turn come last.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// let pool: Pool = Pool::builder().name("web").build();
    /// pool.build_task().name("storage").depth(-1).spawn(async {});
    /// pool.build_task().name("accept").depth(1).spawn(async {});
    /// let tree = pool.tree();
    /// let names: Vec<_> = tree.nodes().filter_map(|node| node.name()).collect();
    /// assert_eq!(names, ["web", "accept", "storage"]);
    /// ```
    pub fn nodes(&self) -> impl Iterator<Item = TreeNode<'_>> {
        (0..self.nodes.len()).map(|index| self.node(index))
    }

    /// One of them, for the user.
    fn node(&self, index: usize) -> TreeNode<'_> {
        TreeNode::new(self, index)
    }

    /// For each node, whether another follows at its level below the same node.
    fn followed(&self) -> Vec<bool> {
        let mut open: Vec<bool> = Vec::new();
        let mut followed: Vec<_> = self
            .nodes
            .iter()
            .rev()
            .map(|node| {
                open.resize(node.level + 1, false);
                std::mem::replace(&mut open[node.level], true)
            })
            .collect();
        followed.reverse();
        followed
    }
}

/// Tells each node how many there are below it, from the last one up, so that each is looked at once.
fn count_below(nodes: &mut [Node]) {
    // Those that come next at each level, the lowest level last.
    let mut later: Vec<usize> = Vec::new();
    for index in (0..nodes.len()).rev() {
        while later.last().is_some_and(|next| nodes[*next].level > nodes[index].level) {
            later.pop();
        }
        nodes[index].below = later.last().copied().unwrap_or(nodes.len()) - index - 1;
        later.push(index);
    }
}

impl Node {
    /// With nothing but what every node has.
    fn new(kind: NodeKind, state: NodeState) -> Self {
        Self {
            level: 0,
            below: 0,
            kind,
            name: None,
            location: None,
            state,
            reason: None,
            tasks: 0,
            class: TaskClass::default(),
            handed_over: false,
            origin: false,
            limit: None,
        }
    }

    /// A pool, as it was found.
    fn of_pool(snapshot: &Snapshot, origin: bool) -> Self {
        Self {
            name: snapshot.name.clone(),
            reason: snapshot.reason.clone(),
            tasks: snapshot.tasks.len(),
            handed_over: snapshot.handed_over,
            origin,
            ..Self::new(NodeKind::Pool, snapshot.state)
        }
    }

    /// The body of a pool that runs.
    fn of_body(body: &TaskInfo) -> Self {
        Self { location: Some(body.spawned_at()), ..Self::new(NodeKind::Body, NodeState::Running) }
    }

    /// A task, running or not yet.
    fn of_task(task: &TaskSnapshot) -> Self {
        Self {
            name: task.info.shared_name(),
            location: Some(task.info.spawned_at()),
            class: task.class,
            limit: task.limit,
            ..Self::new(NodeKind::Task, task.state)
        }
    }

    /// A call that has tasks.
    fn of_call(call: &Call) -> Self {
        let handed_over = call.is_handed_over();
        let state = if handed_over { NodeState::Closing } else { NodeState::Running };
        Self {
            name: Some(Arc::from(call.function)),
            location: Some(call.called_at),
            tasks: call.alive(),
            handed_over,
            ..Self::new(NodeKind::Function, state)
        }
    }
}

/// How many levels are moved to the right. With all of them, a drawing would be as large as the square of its levels.
const LEVELS: usize = 64;

impl fmt::Display for PoolTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let followed = self.followed();
        // Whether a line runs on beside what is drawn, at each level above it.
        let mut lines: Vec<bool> = Vec::new();
        for (index, (node, followed)) in self.nodes().zip(followed).enumerate() {
            lines.truncate(node.level().saturating_sub(1));
            if node.level() > 0 {
                lines.iter().take(LEVELS).try_for_each(|line| f.write_str(if *line { "│   " } else { "    " }))?;
                f.write_str(if followed { "├── " } else { "└── " })?;
                lines.push(followed);
            }
            fmt::Display::fmt(&node, f)?;
            if index + 1 < self.nodes.len() {
                f.write_str("\n")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for PoolTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.nodes()).finish()
    }
}
