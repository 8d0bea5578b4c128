//! One line of a tree.

use std::fmt;
use std::panic::Location;

use super::{Node, PoolTree};
use crate::error::ClosingReason;
use crate::scope::NodeState;

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
    /// The node with this index in the tree's list.
    pub(super) fn new(tree: &'a PoolTree, index: usize) -> Self {
        Self { tree, index }
    }

    /// What is kept of it.
    pub(super) fn get(&self) -> &'a Node {
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
