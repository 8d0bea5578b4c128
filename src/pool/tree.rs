//! Who is alive, and below whom.
//!
//! A pool knows its own tasks; a scope knows what began in it, and in which task. The tree is put together from both
//! when somebody asks. One pool is looked at after the other, each under its lock for a moment, so that a tree of a
//! busy pool is no single point in time.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use crate::closing_reason::ClosingReason;
use crate::error::TaskInfo;
use crate::node_state::NodeState;
use crate::scope::{Call, Census, Child, ChildOwner, Place, PoolState, Resident, Scope};

/// Who was alive below a pool at one moment, and where each was spawned; made by [`Pool::tree`](crate::Pool::tree).
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
/// `{:#}` adds why a pool closes. The same can be had as data: the tree is a list of nodes, each before those below it.
///
/// It is a copy: the tasks go on while it is looked at. Pools are visited one after the other, so that the tree of a
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
///     let names: Vec<_> = tree.nodes().filter(|node| node.kind() == NodeKind::Task).map(|node| node.name()).collect();
///     assert_eq!(names, [Some("accept")]);
///     Ok(())
/// })
/// .await
/// # }
/// ```
#[derive(Clone)]
pub struct PoolTree {
    /// Each before those below it.
    nodes: Vec<Node>,
}

/// One pool, task or function in a [`PoolTree`].
///
/// Its `Display` is its line in the drawing, without what is below it.
///
/// # Examples
///
/// ```
/// use aiodrive::Pool;
///
/// let pool: Pool = Pool::builder().name("web").build();
/// pool.build_task().name("accept").depth(1).spawn(async {});
/// let tree = pool.tree();
/// let task = tree.root().children().next().unwrap();
/// assert!(task.to_string().starts_with("accept  ") && task.to_string().ends_with("  depth 1"));
/// ```
#[derive(Clone, Copy)]
pub struct TreeNode<'a> {
    tree: &'a PoolTree,
    index: usize,
}

/// What a [`TreeNode`] is.
///
/// # Examples
///
/// ```
/// use aiodrive::{NodeKind, Pool};
///
/// let pool: Pool = Pool::new();
/// assert_eq!(pool.tree().root().kind(), NodeKind::Pool);
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum NodeKind {
    /// A pool.
    Pool,
    /// A task of the pool above it.
    Task,
    /// A call of a function that runs tasks of its own: `race`, `try_all`, `wait_all`, `shield`, or the handler of
    /// `with_exit`.
    Function,
}

#[derive(Clone)]
struct Node {
    level: usize,
    kind: NodeKind,
    name: Option<Arc<str>>,
    location: Option<&'static Location<'static>>,
    state: NodeState,
    reason: Option<ClosingReason>,
    tasks: usize,
    place: Place,
    handed_over: bool,
    asked: bool,
}

impl PoolTree {
    /// The tree below `top`, in which `asked` is marked.
    pub(super) fn new(top: Arc<dyn PoolState>, asked: &Arc<dyn PoolState>) -> Self {
        let mut nodes = Vec::new();
        walk(vec![Part::Pool(top)], |level, seen| {
            let node = match seen {
                Seen::Pool(pool, census) => Node::of_pool(census, Arc::ptr_eq(pool, asked)),
                Seen::Task(task) => Node::of_task(task),
                Seen::Call(call) => Node::of_call(call),
            };
            nodes.push(Node { level, ..node });
        });
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

    /// The pool that was asked for the tree. With [`root_tree`](crate::Pool::root_tree) it need not be the
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
    ///     let request = Pool::builder().name("request").open(async |pool: Pool| Ok(pool.root_tree()));
    ///     assert_eq!(request.await?.asked().name(), Some("request"));
    ///     Ok(())
    /// })
    /// .await
    /// # }
    /// ```
    #[must_use]
    pub fn asked(&self) -> TreeNode<'_> {
        self.nodes().find(|node| node.get().asked).unwrap_or_else(|| self.root())
    }

    /// Everything in the tree, each node before those below it.
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

    fn node(&self, index: usize) -> TreeNode<'_> {
        TreeNode { tree: self, index }
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

impl<'a> TreeNode<'a> {
    fn get(&self) -> &'a Node {
        &self.tree.nodes[self.index]
    }

    /// What it is.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::{NodeKind, Pool};
    ///
    /// let pool: Pool = Pool::new();
    /// pool.spawn(async {});
    /// let kinds: Vec<_> = pool.tree().nodes().map(|node| node.kind()).collect();
    /// assert_eq!(kinds, [NodeKind::Pool, NodeKind::Task]);
    /// ```
    #[must_use]
    pub fn kind(&self) -> NodeKind {
        self.get().kind
    }

    /// The name that the pool or the task was given, or that of the function.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::Pool;
    ///
    /// let pool: Pool = Pool::builder().name("web").build();
    /// pool.spawn(async {});
    /// let tree = pool.tree();
    /// let names: Vec<_> = tree.nodes().map(|node| node.name()).collect();
    /// assert_eq!(names, [Some("web"), None]);
    /// ```
    #[must_use]
    pub fn name(&self) -> Option<&'a str> {
        self.get().name.as_deref()
    }

    /// Where the task was spawned, or the function called; `None` for a pool.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::panic::Location;
    /// use aiodrive::Pool;
    ///
    /// let pool: Pool = Pool::new();
    /// let (here, ()) = (Location::caller(), pool.spawn(async {}));
    /// let tree = pool.tree();
    /// let task = tree.root().children().next().unwrap();
    /// assert_eq!(task.spawned_at().unwrap().line(), here.line());
    /// assert_eq!(tree.root().spawned_at(), None);
    /// ```
    #[must_use]
    pub fn spawned_at(&self) -> Option<&'static Location<'static>> {
        self.get().location
    }

    /// Whether it is planned, waits for its turn, runs, closes or has closed.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::{NodeState, Pool};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let pool: Pool = Pool::new();
    /// assert_eq!(pool.tree().root().state(), NodeState::Planned);
    /// pool.clone().run().await.unwrap();
    /// assert_eq!(pool.tree().root().state(), NodeState::Closed);
    /// # }
    /// ```
    #[must_use]
    pub fn state(&self) -> NodeState {
        self.get().state
    }

    /// Why the pool closes; `None` while it does not, and for a task or a function.
    ///
    /// # Examples
    ///
    /// ```
    /// use aiodrive::{ClosingReason, Pool};
    ///
    /// let pool: Pool = Pool::new();
    /// pool.cancel();
    /// assert_eq!(pool.tree().root().closing_reason(), Some(&ClosingReason::Cancelled(None)));
    /// ```
    #[must_use]
    pub fn closing_reason(&self) -> Option<&'a ClosingReason> {
        self.get().reason.as_ref()
    }

    /// How many tasks the pool or the function has that have not ended. Those below them are not counted.
    ///
    /// # Examples
    ///
    /// ```
    /// let pool: aiodrive::Pool = aiodrive::Pool::new();
    /// (0..3).for_each(|_| pool.spawn(async {}));
    /// assert_eq!(pool.tree().root().tasks(), 3);
    /// ```
    #[must_use]
    pub fn tasks(&self) -> usize {
        self.get().tasks
    }

    /// The [depth](crate::TaskBuilder::depth) of the task in its pool.
    ///
    /// # Examples
    ///
    /// ```
    /// let pool: aiodrive::Pool = aiodrive::Pool::new();
    /// pool.build_task().depth(-1).spawn(async {});
    /// assert_eq!(pool.tree().root().children().next().unwrap().depth(), -1);
    /// ```
    #[must_use]
    pub fn depth(&self) -> i32 {
        self.get().place.depth
    }

    /// Whether the task is a [daemon](crate::TaskBuilder::daemon).
    ///
    /// # Examples
    ///
    /// ```
    /// let pool: aiodrive::Pool = aiodrive::Pool::new();
    /// pool.build_task().daemon().spawn(async {});
    /// assert!(pool.tree().root().children().next().unwrap().is_daemon());
    /// ```
    #[must_use]
    pub fn is_daemon(&self) -> bool {
        self.get().place.daemon
    }

    /// Whether the future of the pool or function was dropped, and its closing goes on without it. If the task in which
    /// it began is gone, it is found directly below the pool that waits for it.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use aiodrive::{Pool, prime};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), aiodrive::PoolError> {
    /// Pool::open(async |outer: Pool| {
    ///     let nested = Pool::builder().name("nested").grace(Duration::from_secs(1)).open(async |pool: Pool| {
    ///         pool.spawn(std::future::pending::<()>());
    ///         Ok(())
    ///     });
    ///     drop(prime(nested)); // opened, and dropped halfway
    ///
    ///     let tree = outer.tree();
    ///     assert!(tree.nodes().any(|node| node.name() == Some("nested") && node.is_handed_over()));
    ///     Ok(()) // after the second that the nested pool takes to close
    /// })
    /// .await
    /// # }
    /// ```
    #[must_use]
    pub fn is_handed_over(&self) -> bool {
        self.get().handed_over
    }

    /// How far it is below the root, which is at 0.
    ///
    /// # Examples
    ///
    /// ```
    /// let pool: aiodrive::Pool = aiodrive::Pool::new();
    /// pool.spawn(async {});
    /// let levels: Vec<_> = pool.tree().nodes().map(|node| node.level()).collect();
    /// assert_eq!(levels, [0, 1]);
    /// ```
    #[must_use]
    pub fn level(&self) -> usize {
        self.get().level
    }

    /// What is directly below it.
    ///
    /// # Examples
    ///
    /// ```
    /// let pool: aiodrive::Pool = aiodrive::Pool::new();
    /// (0..3).for_each(|_| pool.spawn(async {}));
    /// assert_eq!(pool.tree().root().children().count(), 3);
    /// ```
    pub fn children(&self) -> impl Iterator<Item = TreeNode<'a>> + use<'a> {
        let (tree, level) = (self.tree, self.level());
        let below = (self.index + 1..tree.nodes.len()).map(|index| tree.node(index));
        below.take_while(move |node| node.level() > level).filter(move |node| node.level() == level + 1)
    }
}

impl Node {
    fn new(kind: NodeKind, state: NodeState) -> Self {
        Self {
            level: 0,
            kind,
            name: None,
            location: None,
            state,
            reason: None,
            tasks: 0,
            place: Place::default(),
            handed_over: false,
            asked: false,
        }
    }

    fn of_pool(census: &Census, asked: bool) -> Self {
        Self {
            name: census.name.clone(),
            reason: census.reason.clone(),
            tasks: census.tasks.len(),
            handed_over: census.handed_over,
            asked,
            ..Self::new(NodeKind::Pool, census.state)
        }
    }

    fn of_task(task: &Resident) -> Self {
        Self {
            name: task.info.name.clone(),
            location: Some(task.info.spawned_at),
            place: task.place,
            ..Self::new(NodeKind::Task, task.state)
        }
    }

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

impl fmt::Display for PoolTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let followed = self.followed();
        // Whether a line runs on beside what is drawn, at each level above it.
        let mut lines: Vec<bool> = Vec::new();
        for (node, followed) in self.nodes().zip(followed) {
            lines.truncate(node.level().saturating_sub(1));
            if node.level() > 0 {
                lines.iter().try_for_each(|line| f.write_str(if *line { "│   " } else { "    " }))?;
                f.write_str(if followed { "├── " } else { "└── " })?;
                lines.push(followed);
            }
            fmt::Display::fmt(&node, f)?;
            if node.index + 1 < self.nodes.len() {
                f.write_str("\n")?;
            }
        }
        Ok(())
    }
}

/// Its line in the drawing.
impl fmt::Display for TreeNode<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = self.get();
        match (node.kind, self.name()) {
            (NodeKind::Function, name) => write!(f, "<{}>", name.unwrap_or_default())?,
            (_, Some(name)) => f.write_str(name)?,
            (NodeKind::Pool, None) => f.write_str("<pool>")?,
            (NodeKind::Task, None) => f.write_str("<task>")?,
        }
        if node.kind != NodeKind::Task {
            write!(f, " ({}", node.state)?;
            if let (Some(reason), true) = (&node.reason, f.alternate()) {
                write!(f, ": {reason}")?;
            }
            write!(f, ", {} task{}", node.tasks, if node.tasks == 1 { "" } else { "s" })?;
            f.write_str(if node.handed_over { ", handed over)" } else { ")" })?;
        }
        if let Some(location) = node.location {
            write!(f, "  {location}")?;
        }
        if node.place.depth != 0 {
            write!(f, "  depth {}", node.place.depth)?;
        }
        f.write_str(if node.place.daemon { "  daemon" } else { "" })?;
        f.write_str(if node.state == NodeState::Queued { "  queued" } else { "" })?;
        f.write_str(if node.asked && node.level > 0 { "  ← asked" } else { "" })
    }
}

impl fmt::Debug for PoolTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.nodes()).finish()
    }
}

impl fmt::Debug for TreeNode<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {self:#}", self.level())
    }
}

// ===== how it is put together =====

/// The tasks that are alive in what `census` has found, each followed by those below it.
pub(super) fn tasks_of(census: Census) -> Vec<TaskInfo> {
    let mut tasks = Vec::new();
    walk(parts_of(census), |_, seen| match seen {
        Seen::Pool(..) => {}
        Seen::Task(task) => tasks.push(task.info.clone()),
        Seen::Call(call) => tasks.extend(std::iter::repeat_n(TaskInfo::unnamed(call.called_at), call.alive())),
    });
    tasks
}

/// Something that can be seen. No lock is held while one is, nor while it is dropped.
enum Part {
    Pool(Arc<dyn PoolState>),
    /// With what is below it.
    Task(Resident, Vec<Part>),
    Call(Arc<Scope>),
}

/// The same, while it is visited.
enum Seen<'a> {
    Pool(&'a Arc<dyn PoolState>, &'a Census),
    Task(&'a Resident),
    Call(&'a Call),
}

/// Visits all parts and what is below them, each before those below it, with its level. Not by recursion, since a tree
/// can be as deep as there is memory for.
fn walk(parts: Vec<Part>, mut visit: impl FnMut(usize, Seen<'_>)) {
    let mut stack: Vec<_> = parts.into_iter().rev().map(|part| (0, part)).collect();
    while let Some((level, part)) = stack.pop() {
        let below = match part {
            Part::Pool(pool) => {
                let census = pool.census();
                if level > 0 && census.is_over() {
                    continue;
                }
                visit(level, Seen::Pool(&pool, &census));
                parts_of(census)
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

/// The tasks of a pool as they close, each with what began in it; then what began in none of them that is alive.
fn parts_of(mut census: Census) -> Vec<Part> {
    // Stable, so that those that were not spawned stay in the order in which they will be.
    let order = |task: &Resident| {
        (Reverse(task.place.depth), task.place.daemon, task.seat.map_or(u32::MAX, |seat| seat.turn.get()))
    };
    census.tasks.sort_by_key(order);
    let mut below: HashMap<_, Vec<Part>> =
        census.tasks.iter().filter_map(|task| Some(((task.place, task.seat?), Vec::new()))).collect();
    let mut others = Vec::new();
    for (place, child) in
        census.scopes.iter().flat_map(|(place, scope)| scope.children().into_iter().map(|child| (*place, child)))
    {
        let home = child.seat.and_then(|seat| below.get_mut(&(place, seat))).unwrap_or(&mut others);
        home.extend(part_of(&child));
    }
    let take = |task: Resident| {
        let below = task.seat.and_then(|seat| below.remove(&(task.place, seat))).unwrap_or_default();
        Part::Task(task, below)
    };
    census.tasks.into_iter().map(take).chain(others).collect()
}

fn part_of(child: &Child) -> Option<Part> {
    match &child.owner {
        ChildOwner::Pool(pool) => pool.upgrade().map(Part::Pool),
        ChildOwner::Call(scope) => scope.upgrade().map(Part::Call),
    }
}
