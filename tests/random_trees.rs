//! Random trees of pools and tasks: nothing outlives the root, and no failure is lost, doubled or invented.

use std::future::Future;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use aiodrive::{BoxError, Pool, PoolError};
use proptest::prelude::*;
use tokio::time::sleep;

// ===== trees =====

/// How a task or a body ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Ok,
    Err,
    Panic,
    /// It waits for ever, and panics when it is dropped.
    PanicInDrop,
    Pending,
}

/// What a task does.
#[derive(Clone, Debug)]
enum Work {
    /// It waits, and ends.
    Leaf,
    /// It opens a pool, and returns its error.
    Nested(Tree),
    /// The same, cut off by `aiodrive::timeout`.
    Timeout(u64, Tree),
    /// The same, dropped halfway.
    Dropped(u64, Tree),
    /// The same, inside of `shield`.
    Shield(Tree),
}

#[derive(Clone, Debug)]
struct Node {
    delay: u64,
    end: End,
    work: Work,
}

/// A pool: its tasks, and its body's delay and end.
#[derive(Clone, Debug)]
struct Tree {
    children: Vec<Node>,
    delay: u64,
    end: End,
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        6 => Just(End::Ok),
        3 => Just(End::Err),
        1 => Just(End::Panic),
        1 => Just(End::PanicInDrop),
        1 => Just(End::Pending),
    ]
}

/// The body never panics: that is the one way in which failures are lost, and it is documented.
fn body_end() -> impl Strategy<Value = End> {
    prop_oneof![8 => Just(End::Ok), 1 => Just(End::Err), 1 => Just(End::PanicInDrop), 1 => Just(End::Pending)]
}

fn tree_of(node: impl Strategy<Value = Node> + 'static) -> impl Strategy<Value = Tree> {
    (prop::collection::vec(node, 0..4), 0..6_u64, body_end()).prop_map(|(children, delay, end)| Tree {
        children,
        delay,
        end,
    })
}

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = (0..6_u64, end()).prop_map(|(delay, end)| Node { delay, end, work: Work::Leaf });
    let node = leaf.prop_recursive(4, 24, 4, |inner| {
        let work = (tree_of(inner), 0..6_u64, 0..5).prop_map(|(tree, limit, kind)| match kind {
            0 | 1 => Work::Nested(tree),
            2 => Work::Timeout(limit, tree),
            3 => Work::Dropped(limit, tree),
            _ => Work::Shield(tree),
        });
        (work, 0..6_u64, end()).prop_map(|(work, delay, end)| Node { delay, end, work })
    });
    tree_of(node)
}

// ===== running them =====

/// What the tasks themselves have seen.
#[derive(Clone, Default)]
struct World(Arc<Seen>);

#[derive(Default)]
struct Seen {
    alive: AtomicUsize,
    polls: AtomicUsize,
    /// How many failures there were, which is also the number of the next.
    failed: AtomicUsize,
}

/// Panics without the hook, which would print it.
fn panic_with(text: String) -> ! {
    resume_unwind(Box::new(text))
}

impl World {
    /// The text of a failure that happens now, with its number.
    fn fail(&self) -> String {
        format!("<{}>", self.0.failed.fetch_add(1, Ordering::SeqCst))
    }

    async fn end(&self, delay: u64, end: End) -> Result<(), BoxError> {
        let _panics = PanicInDrop(matches!(end, End::PanicInDrop).then(|| self.clone()));
        if delay > 0 {
            sleep(Duration::from_millis(delay)).await;
        }
        match end {
            End::Ok => Ok(()),
            End::Err => Err(self.fail().into()),
            End::Panic => panic_with(self.fail()),
            End::PanicInDrop | End::Pending => std::future::pending().await,
        }
    }

    /// Runs a pool; boxed, since it contains itself.
    fn open(&self, tree: Tree) -> Pin<Box<dyn Future<Output = Result<(), PoolError>> + Send>> {
        let world = self.clone();
        Box::pin(Watched::new(self, async move {
            Pool::open(async |pool: Pool| {
                for child in tree.children {
                    let watched = Watched::new(&world, world.clone().work(child));
                    pool.spawn(watched);
                }
                world.end(tree.delay, tree.end).await
            })
            .await
        }))
    }

    async fn work(self, node: Node) -> Result<(), BoxError> {
        match node.work {
            Work::Leaf => {}
            Work::Nested(tree) => self.open(tree).await?,
            Work::Timeout(limit, tree) => {
                if let Ok(ended) = aiodrive::timeout(Duration::from_millis(limit), self.open(tree)).await {
                    ended?;
                }
            }
            Work::Dropped(limit, tree) => {
                tokio::select! {
                    biased;
                    ended = self.open(tree) => ended?,
                    () = sleep(Duration::from_millis(limit)) => {}
                }
            }
            // Nothing cuts it off.
            Work::Shield(tree) if tree.runs_for_ever() => {}
            Work::Shield(tree) => shielded(self.open(tree)).await?,
        }
        self.end(node.delay, node.end).await
    }
}

/// An error of shielded work that nobody waits for is not known to `shield`, so that it panics with it.
async fn shielded(work: impl Future<Output = Result<(), PoolError>> + Send + 'static) -> Result<(), BoxError> {
    aiodrive::shield(async move {
        if let Err(error) = work.await {
            panic_with(error.to_string());
        }
    })
    .await;
    Ok(())
}

impl Tree {
    /// Whether nothing but an abort would end it.
    fn runs_for_ever(&self) -> bool {
        let for_ever = |end| matches!(end, End::PanicInDrop | End::Pending);
        for_ever(self.end)
            || self.children.iter().any(|child| {
                for_ever(child.end)
                    || match &child.work {
                        Work::Nested(tree) => tree.runs_for_ever(),
                        _ => false,
                    }
            })
    }
}

/// Panics when it is dropped, unless the thread does already.
struct PanicInDrop(Option<World>);

impl Drop for PanicInDrop {
    fn drop(&mut self) {
        if let Some(world) = &self.0 {
            if !std::thread::panicking() {
                panic_with(world.fail());
            }
        }
    }
}

/// A future that is counted while it lives, and each time it is polled.
struct Watched<F> {
    future: Pin<Box<F>>,
    counted: Counted,
}

struct Counted(World);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

impl<F> Watched<F> {
    fn new(world: &World, future: F) -> Self {
        world.0.alive.fetch_add(1, Ordering::SeqCst);
        Self { future: Box::pin(future), counted: Counted(world.clone()) }
    }
}

impl<F: Future> Future for Watched<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.counted.0.0.polls.fetch_add(1, Ordering::SeqCst);
        self.future.as_mut().poll(cx)
    }
}

// ===== the promises =====

/// The numbers of all failures in the text of an error, sorted: nested errors are part of it, each once.
fn numbers(text: &str) -> Vec<usize> {
    let parts = text.split('<').skip(1);
    let mut numbers: Vec<_> = parts.filter_map(|part| part.split_once('>')?.0.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_outlives_the_root_and_no_failure_is_lost(mut root in tree()) {
        if root.runs_for_ever() {
            root.end = End::Err;
        }
        let world = World::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let (ended, alive, polls, polls_later) = runtime.block_on(async {
            let ended = tokio::time::timeout(Duration::from_secs(1_000), world.open(root)).await;
            let (alive, polls) = (world.0.alive.load(Ordering::SeqCst), world.0.polls.load(Ordering::SeqCst));
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            (ended, alive, polls, world.0.polls.load(Ordering::SeqCst))
        });
        prop_assert!(ended.is_ok(), "it hangs");
        prop_assert_eq!((alive, polls), (0, polls_later));
        let text = ended.unwrap().err().map(|error| format!("{error:#}"));
        let failed: Vec<_> = (0..world.0.failed.load(Ordering::SeqCst)).collect();
        prop_assert_eq!(text.is_some(), !failed.is_empty());
        let text = text.unwrap_or_default();
        prop_assert_eq!(numbers(&text), failed, "{}", text);
    }
}
