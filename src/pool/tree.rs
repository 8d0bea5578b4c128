//! Who is alive, and in what it is nested, as the user sees it: as data, and drawn.
//!
//! The nodes are one list, each before those nested in it, with its level. That is the order in which they are drawn
//! and in which they are found, and a tree of ten thousand levels is built, walked and dropped without recursion.
//!
//! A pool knows its own tasks; a scope knows what began in it, and in which task. A tree joins the two: each task with
//! what began in it, and then what began in none that is alive, since its owner was dropped. One pool is looked at after
//! the other, each under its lock for a moment, so that the tree of a busy pool is no single point in time.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use crate::error::{ClosingReason, TaskInfo};
use crate::scope::{Call, Child, ChildKind, ErasedPool, NodeState, Scope, Snapshot, TaskClass, TaskSnapshot};

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
        walk(vec![Part::Pool(top)], |level, seen| {
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
    /// depth the daemons after the others. Otherwise they are in the order in which they were spawned.
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
        TreeNode { tree: self, index }
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
        // Whether a line runs on beside what is drawn, at each level above it.
        let mut lines: Vec<bool> = Vec::new();
        for (index, node) in self.nodes().enumerate() {
            // What comes after all that is below it.
            let next = self.nodes.get(index + 1 + node.get().below);
            let followed = next.is_some_and(|next| next.level == node.level());
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

// ===== one line of a tree =====

/// One pool, task or function in a [`PoolTree`].
///
/// Its `Display` is its line in the drawing, without the nodes nested in it.
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
/// let line = task.to_string();
/// assert!(line.starts_with("accept  ") && line.ends_with("  depth 1"));
/// ```
#[derive(Clone, Copy)]
pub struct TreeNode<'a> {
    tree: &'a PoolTree,
    /// Its index in the list of the tree.
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
    /// The body of the pool above it, if the pool waits for nothing else but daemons.
    Body,
    /// A task of the pool above it.
    Task,
    /// A `TaskGroup`, or a call of a function that runs tasks of its own: `race`, `try_all`, `wait_all`, `map`, `shield`,
    /// or the handler of `with_exit`.
    Function,
}

impl<'a> TreeNode<'a> {
    /// What is kept of it.
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
    /// assert!(matches!(pool.tree().root().closing_reason(), Some(ClosingReason::Cancelled(_))));
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
        self.get().class.depth
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
        self.get().class.kind.is_daemon()
    }

    /// Whether the future of the pool or function was dropped, and its closing goes on without it. If the task in which
    /// it began is gone, it is listed directly under the pool that waits for it.
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
    ///     let nested = Pool::builder().name("nested").grace(Duration::from_secs(1));
    ///     let nested = nested.open(async |pool: Pool| {
    ///         pool.spawn(std::future::pending::<()>());
    ///         Ok(())
    ///     });
    ///     drop(prime(nested)); // opened, and dropped halfway
    ///
    ///     let tree = outer.tree();
    ///     let nested = tree.nodes().find(|node| node.name() == Some("nested")).unwrap();
    ///     assert!(nested.is_handed_over());
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
        let (tree, end) = (self.tree, self.index + 1 + self.get().below);
        let next = move |index: usize| Some(index).filter(|index| *index < end);
        let siblings =
            std::iter::successors(next(self.index + 1), move |index| next(index + 1 + tree.nodes[*index].below));
        siblings.map(|index| tree.node(index))
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
            (NodeKind::Body, None) => f.write_str("<body>")?,
            (NodeKind::Task, None) => f.write_str("<task>")?,
        }
        if matches!(node.kind, NodeKind::Pool | NodeKind::Function) {
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
        if node.class.depth != 0 {
            write!(f, "  depth {}", node.class.depth)?;
        }
        f.write_str(if node.class.kind.is_daemon() { "  daemon" } else { "" })?;
        if node.state == NodeState::Queued {
            f.write_str("  queued")?;
            node.limit.map_or(Ok(()), |limit| write!(f, " (limit {limit})"))?;
        }
        f.write_str(if node.origin && node.level > 0 { "  ← origin" } else { "" })
    }
}

impl fmt::Debug for TreeNode<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {self:#}", self.level())
    }
}

// ===== how a tree is put together =====

/// The tasks that are alive in what `snapshot` has found, each followed by those nested in it.
pub(super) fn tasks_of(snapshot: Snapshot) -> Vec<TaskInfo> {
    let mut tasks = Vec::new();
    walk(parts_of(snapshot), |_, seen| match seen {
        Seen::Pool(..) | Seen::Body(_) => {}
        Seen::Task(task) => tasks.push(task.info.clone()),
        Seen::Call(call) => tasks.extend(std::iter::repeat_n(TaskInfo::unnamed(call.called_at), call.alive())),
    });
    tasks
}

/// The same without those of nested pools that have a grace of their own, which speak for themselves.
pub(super) fn tasks_without_grace(snapshot: Snapshot) -> Vec<TaskInfo> {
    let mut tasks = Vec::new();
    let mut skipped = usize::MAX;
    walk(parts_of(snapshot), |level, seen| {
        if level <= skipped {
            skipped = usize::MAX;
        }
        match seen {
            Seen::Pool(_, nested) if nested.has_grace && skipped == usize::MAX => skipped = level,
            // It had no grace, nor has what is nested in it.
            Seen::Task(task) if task.class.kind.has_no_grace() && skipped == usize::MAX => skipped = level,
            Seen::Task(task) if skipped == usize::MAX => tasks.push(task.info.clone()),
            _ => {}
        }
    });
    tasks
}

/// Something that can be seen. No lock is held while a part is visited or dropped.
enum Part {
    Pool(Arc<dyn ErasedPool>),
    Body(TaskInfo),
    /// With what is nested in it.
    Task(TaskSnapshot, Vec<Part>),
    Call(Arc<Scope>),
}

/// The same, while it is visited.
enum Seen<'a> {
    Pool(&'a Arc<dyn ErasedPool>, &'a Snapshot),
    Body(&'a TaskInfo),
    Task(&'a TaskSnapshot),
    Call(&'a Call),
}

/// Visits all parts and everything nested in them, each before those nested in it, with its level. Not by recursion,
/// since a tree can be as deep as there is memory.
fn walk(parts: Vec<Part>, mut visit: impl FnMut(usize, Seen<'_>)) {
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
    // Stable, so that planned tasks stay in the order in which they will be spawned.
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
