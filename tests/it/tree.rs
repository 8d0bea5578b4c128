//! Who is alive below a pool, as data and as a drawing.

use std::future::{pending, ready};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aiodrive::{
    BoxError, ClosingReason, LatchEvent, NodeKind, NodeState, Pool, PoolTree, TaskGroup, cancellation_token, race,
    shield, try_all, wait_all, with_exit,
};
use macro_rules_attribute::apply;
use tokio::task::{LocalSet, yield_now};

use crate::support::{
    KINDS_IN_TURN, LONG, OnDrop, both, current_thread, kinds_in_turn, multi_thread, poll_once, until, watched,
};

/// A drawing without its places, of which the numbers of lines change with every test above.
fn drawn(tree: &PoolTree) -> Vec<String> {
    let without = |line: &str| match line.split_once(&format!("  {}:", file!())) {
        Some((before, after)) => {
            format!("{before}{}", after.trim_start_matches(|c: char| c.is_ascii_digit() || c == ':'))
        }
        None => line.to_owned(),
    };
    tree.to_string().lines().map(without).collect()
}

/// A pool that is nested where it is called, and never ends by itself.
async fn nested(name: &'static str) -> Result<(), BoxError> {
    let opened = Pool::builder().name(name).open(async |pool: Pool| {
        pool.build_task().name("leaf").spawn(pending::<()>());
        pending::<Result<(), _>>().await
    });
    Ok(opened.await?)
}

/// How many nodes have a name.
fn count(tree: &PoolTree, name: &str) -> usize {
    tree.nodes().filter(|node| node.name() == Some(name)).count()
}

/// The names of the tasks below a pool, in their order.
fn task_names(tree: &PoolTree) -> Vec<&str> {
    tree.nodes().skip(1).filter_map(|node| node.name()).collect()
}

/// Runs a test in a pool, and cancels that.
async fn in_endless_pool(test: impl AsyncFnOnce(&Pool)) {
    let opened = Pool::builder().name("pool").open(async |pool: Pool| {
        test(&pool).await;
        pool.cancel();
        pending::<Result<(), _>>().await
    });
    let error = opened.await.unwrap_err();
    assert!(error.is_cancelled(), "{error:#}");
}

// ===== the drawing =====

#[apply(both)]
async fn a_tree_is_drawn_as_documented() {
    let opened = Pool::builder().name("web").open(async |pool: Pool| {
        pool.build_task().name("accept").spawn(pending::<()>());
        let accept = line!() - 1;
        let go = LatchEvent::new();
        let goes = go.wait_set();
        pool.build_task().name("conn 7").spawn(async {
            let opened = Pool::builder().grace(LONG).open(async |pool: Pool| {
                pool.build_task().name("read").spawn(goes);
                pool.cancel();
                Ok(())
            });
            opened.await?;
            Ok(())
        });
        let conn = line!() - 9;
        let read = conn + 2;
        pool.build_task().name("metrics").daemon().spawn(pending::<()>());
        let metrics = line!() - 1;

        until(|| count(&pool.tree(), "read") == 1).await;
        until(|| pool.tree().nodes().any(|node| node.state() == NodeState::Closing)).await;
        let file = file!();
        let expected = format!(
            "web (running, 3 tasks)\n\
             ├── accept  {file}:{accept}:42\n\
             ├── conn 7  {file}:{conn}:42\n\
             │   └── <pool> (closing, 1 task)\n\
             │       └── read  {file}:{read}:48\n\
             └── metrics  {file}:{metrics}:52  daemon"
        );
        let tree = pool.tree();
        go.set();
        assert_eq!(tree.to_string(), expected);
        assert_eq!(format!("{tree:#}"), expected.replace("(closing, ", "(closing: cancelled, "));
        pool.cancel();
        pending::<Result<(), _>>().await
    });
    assert!(opened.await.unwrap_err().is_cancelled());
}

#[apply(both)]
async fn depths_daemons_and_what_has_no_name_are_marked() {
    in_endless_pool(async |pool| {
        pool.build_task().depth(-1).name("storage").spawn(pending::<()>());
        pool.spawn(pending::<()>());
        pool.build_task().depth(2).daemon().spawn(pending::<()>());
        let lines = ["pool (running, 3 tasks)", "├── <task>  depth 2  daemon", "├── <task>", "└── storage  depth -1"];
        assert_eq!(drawn(&pool.tree()), lines);
    })
    .await;
}

#[apply(both)]
async fn tasks_are_drawn_in_the_order_in_which_they_will_close() {
    let opened = Pool::builder().name("pool").limit(4).open(async |pool: Pool| {
        for daemon in [true, false] {
            for depth in [0, -1, 2, 1] {
                let task = pool.build_task().name(format!("{depth} {daemon}")).depth(depth);
                if daemon { task.daemon() } else { task }.spawn(pending::<()>());
            }
        }
        // One too many for the limit, of which the daemons are no part.
        pool.build_task().name("late").depth(1).spawn(pending::<()>());
        let tree = pool.tree();
        let names: Vec<_> = tree.nodes().skip(1).filter_map(|node| node.name()).collect();
        let expected = ["2 false", "2 true", "1 false", "late", "1 true", "0 false", "0 true", "-1 false", "-1 true"];
        assert_eq!(names, expected);
        pool.cancel();
        pending::<Result<(), _>>().await
    });
    assert!(opened.await.unwrap_err().is_cancelled());
}

/// Before the pool runs, and after.
#[apply(both)]
async fn the_tasks_of_one_depth_are_drawn_in_the_order_of_their_spawns_whatever_they_are() {
    let pool = Pool::new();
    kinds_in_turn(&pool).for_each(|task| task.spawn(pending::<()>()));
    assert_eq!(task_names(&pool.tree()), KINDS_IN_TURN, "planned");
    let mut run = std::pin::pin!(pool.clone().run());
    assert!(poll_once(run.as_mut()).await.is_pending());
    assert_eq!(task_names(&pool.tree()), KINDS_IN_TURN, "running");
    pool.cancel();
    run.await.unwrap();
}

#[apply(both)]
async fn a_task_that_waits_for_its_turn_is_drawn_where_it_was_spawned() {
    let pool: Pool = Pool::builder().limit(1).build();
    for (name, unlimited, no_grace) in [
        ("A", false, false),
        ("B", false, true),
        ("C", true, false),
        ("D", false, false),
        ("E", true, true),
        ("F", false, false),
    ] {
        let task = pool.build_task().name(name);
        let task = if unlimited { task.unlimited() } else { task };
        if no_grace { task.no_grace() } else { task }.spawn(pending::<()>());
    }
    let expected = ["A", "B", "C", "D", "E", "F"];
    assert_eq!(task_names(&pool.tree()), expected, "planned");
    let mut run = std::pin::pin!(pool.clone().run());
    assert!(poll_once(run.as_mut()).await.is_pending());
    let tree = pool.tree();
    assert_eq!(task_names(&tree), expected, "running");
    let queued = tree.nodes().filter(|node| node.state() == NodeState::Queued).filter_map(|node| node.name());
    assert_eq!(queued.collect::<Vec<_>>(), ["B", "D", "F"]);
    pool.cancel();
    run.await.unwrap();
}

#[apply(both)]
async fn the_depth_that_is_being_closed_comes_first_and_its_tasks_leave_the_drawing() {
    let pool = Pool::<BoxError>::builder().grace(LONG).build();
    let asked = [0, 1, 2].map(|_| LatchEvent::new());
    let may_end = [0, 1, 2].map(|_| LatchEvent::new());
    for (depth, (asked, may_end)) in (0..).zip(asked.clone().into_iter().zip(may_end.clone())) {
        pool.build_task().depth(depth).spawn(async move {
            cancellation_token().cancelled().await;
            asked.set();
            may_end.wait_set().await;
        });
    }
    let running = tokio::spawn(pool.clone().run());
    until(|| pool.tree().root().state() == NodeState::Running).await;
    pool.cancel();
    let lines = ["├── <task>  depth 2", "├── <task>  depth 1", "└── <task>"];
    for (depth, count) in [(2, "3 tasks"), (1, "2 tasks"), (0, "1 task")] {
        asked[depth].wait_set().await;
        assert!(asked[..depth].iter().all(|asked| !asked.is_set()), "a depth below {depth} is asked before its turn");
        let drawing = drawn(&pool.tree());
        assert_eq!(drawing[0], format!("<pool> (closing, {count})"));
        assert_eq!(drawing[1..], lines[2 - depth..]);
        may_end[depth].set();
    }
    running.await.unwrap().unwrap();
}

/// To free one, the last takes its place in the list.
#[apply(both)]
async fn tasks_keep_their_order_when_many_others_have_been_freed() {
    in_endless_pool(async |pool| {
        let go = LatchEvent::new();
        for n in 0..10_000 {
            match n % 1_000 {
                0 => pool.build_task().name(n.to_string()).spawn(pending::<()>()),
                _ => pool.spawn(go.wait_set()),
            }
        }
        go.set();
        until(|| pool.len() == 10).await;
        // They leave by themselves, in their own turns.
        for _ in 0..200 {
            yield_now().await;
        }
        // tokio publishes the end of a task a moment after the pool knows.
        until(|| pool.tree().nodes().count() == 11).await;
        let tree = pool.tree();
        let names: Vec<_> = tree.nodes().skip(1).map(|node| node.name().unwrap().parse::<u32>().unwrap()).collect();
        assert_eq!(names, (0..10).map(|n| n * 1_000).collect::<Vec<_>>());
    })
    .await;
}

#[apply(both)]
async fn the_same_is_there_as_data() {
    in_endless_pool(async |pool| {
        pool.build_task().name("owner").depth(3).spawn(nested("inner"));
        let line = line!() - 1;
        until(|| count(&pool.tree(), "leaf") == 1).await;
        let tree = pool.tree();
        let root = tree.root();
        assert_eq!((root.kind(), root.name(), root.state()), (NodeKind::Pool, Some("pool"), NodeState::Running));
        assert_eq!((root.level(), root.tasks(), root.spawned_at()), (0, 1, None));
        let owner = root.children().next().unwrap();
        assert_eq!((owner.kind(), owner.name(), owner.depth()), (NodeKind::Task, Some("owner"), 3));
        assert_eq!((owner.level(), owner.is_daemon(), owner.spawned_at().unwrap().line()), (1, false, line));
        let [inner] = owner.children().collect::<Vec<_>>()[..] else { panic!("{tree}") };
        assert_eq!((inner.name(), inner.closing_reason(), inner.is_handed_over()), (Some("inner"), None, false));
        assert_eq!(root.children().count(), 1);
        assert_eq!(tree.nodes().count(), 4);
    })
    .await;
}

#[apply(both)]
async fn a_node_has_its_own_children_and_no_others() {
    in_endless_pool(async |pool| {
        pool.build_task().name("a").spawn(nested("inner a"));
        pool.build_task().name("b").daemon().spawn(nested("inner b"));
        until(|| count(&pool.tree(), "leaf") == 2).await;
        let tree = pool.tree();
        let children: Vec<_> = tree.root().children().collect();
        let below = |nth: usize| children[nth].children().map(|node| node.name()).collect::<Vec<_>>();
        assert_eq!((children.len(), below(0), below(1)), (2, vec![Some("inner a")], vec![Some("inner b")]));
        assert!(!children[0].is_daemon() && children[1].is_daemon());
    })
    .await;
}

// ===== every state =====

#[apply(both)]
async fn planned_and_ended_pools_have_a_tree() {
    let pool = Pool::<BoxError>::new();
    assert_eq!(drawn(&pool.tree()), ["<pool> (planned, 0 tasks)"]);
    pool.build_task().name("later").spawn(async {});
    assert_eq!(drawn(&pool.tree()), ["<pool> (planned, 1 task)", "└── later"]);
    assert_eq!(pool.tree().nodes().last().unwrap().state(), NodeState::Planned);
    pool.clone().run().await.unwrap();
    assert_eq!(drawn(&pool.tree()), ["<pool> (closed, 0 tasks)"]);
    assert_eq!(format!("{:#}", pool.tree()), "<pool> (closed: completed, 0 tasks)");
    assert_eq!(drawn(&pool.root_tree()), ["<pool> (closed, 0 tasks)"]);
}

/// A body that waits for what only itself could send is a usual reason for a program that hangs.
#[apply(both)]
async fn a_body_that_alone_keeps_its_pool_open_is_shown() {
    let opened = Pool::builder().name("web").open(async |pool: Pool| {
        let alone = drawn(&pool.tree());
        pool.build_task().name("clock").daemon().spawn(pending::<()>());
        let with_daemon = drawn(&pool.tree());
        pool.build_task().name("task").spawn(pending::<()>());
        let with_task = drawn(&pool.tree());
        pool.cancel();
        Ok([alone, with_daemon, with_task])
    });
    let [alone, with_daemon, with_task] = opened.await.unwrap();
    assert_eq!(alone, ["web (running, 0 tasks)", "└── <body>"]);
    assert_eq!(with_daemon, ["web (running, 1 task)", "├── <body>", "└── clock  daemon"]);
    assert_eq!(with_task, ["web (running, 2 tasks)", "├── task", "└── clock  daemon"]);
}

/// The second of two tasks waits for its turn.
async fn second_is_queued(spawn: impl Fn(&Pool, &'static str)) {
    let opened = Pool::builder().limit(1).open(async |pool: Pool| {
        for name in ["first", "second"] {
            spawn(&pool, name);
        }
        assert_eq!(drawn(&pool.tree()), ["<pool> (running, 2 tasks)", "├── first", "└── second  queued (limit 1)"]);
        pool.cancel();
        pending::<Result<(), _>>().await
    });
    assert!(opened.await.unwrap_err().is_cancelled());
}

#[apply(both)]
async fn tasks_that_wait_for_their_turn_are_queued() {
    second_is_queued(|pool, name| pool.build_task().name(name).spawn(pending::<()>())).await;
}

#[apply(both)]
async fn local_tasks_that_wait_for_their_turn_are_queued_as_well() {
    let local = |pool: &Pool, name| pool.build_task().name(name).spawn_local(pending::<()>());
    LocalSet::new().run_until(second_is_queued(local)).await;
}

#[apply(both)]
async fn the_children_of_a_pool_are_its_tasks_to_the_last() {
    in_endless_pool(async |pool| {
        for name in ["one", "two", "three"] {
            pool.build_task().name(name).spawn(pending::<()>());
        }
        let tree = pool.tree();
        let names: Vec<_> = tree.root().children().filter_map(|child| child.name()).collect();
        assert_eq!(names, ["one", "two", "three"]);
    })
    .await;
}

#[apply(both)]
async fn a_task_that_has_ended_is_gone() {
    in_endless_pool(async |pool| {
        let (short, _long) =
            (pool.spawn_with_handle(async { Ok(()) }), pool.spawn_with_handle(pending::<Result<(), _>>()));
        short.await.unwrap();
        until(|| pool.tree().root().tasks() == 1).await;
        assert_eq!(drawn(&pool.tree()), ["pool (running, 1 task)", "└── <task>"]);
    })
    .await;
}

#[apply(multi_thread)]
async fn what_is_being_aborted_is_shown_until_it_has_ended() {
    let (entered, left) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let pool = Pool::<BoxError>::new();
    let (inside, go) = (entered.clone(), left.clone());
    let begins = LatchEvent::new();
    let begun = begins.wait_set();
    pool.build_task().name("slow").spawn(async move {
        begins.set();
        let _slow = OnDrop::new(move || {
            inside.store(true, Ordering::SeqCst);
            while !go.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
        });
        pending::<()>().await;
    });
    let running = tokio::spawn(pool.clone().run());
    begun.await;
    pool.cancel();
    until(|| entered.load(Ordering::SeqCst)).await;
    let tree = pool.tree();
    left.store(true, Ordering::SeqCst);
    assert_eq!(drawn(&tree), ["<pool> (closing, 1 task)", "└── slow"]);
    running.await.unwrap().unwrap();
    assert_eq!(drawn(&pool.tree()), ["<pool> (closed, 0 tasks)"]);
}

// ===== what is nested =====

#[apply(both)]
async fn two_nested_pools_in_one_task_are_both_shown() {
    in_endless_pool(async |pool| {
        pool.build_task().name("task").spawn(async {
            let (one, two) = tokio::join!(nested("one"), nested("two"));
            one.and(two)
        });
        until(|| count(&pool.tree(), "leaf") == 2).await;
        let expected = [
            "pool (running, 1 task)",
            "└── task",
            "    ├── one (running, 1 task)",
            "    │   └── leaf",
            "    └── two (running, 1 task)",
            "        └── leaf",
        ];
        assert_eq!(drawn(&pool.tree()), expected);
    })
    .await;
}

#[apply(both)]
async fn a_pool_that_is_nested_in_the_body_is_directly_below_the_pool() {
    in_endless_pool(async |pool| {
        pool.build_task().name("task").spawn(pending::<()>());
        let mut inner = Box::pin(nested("inner"));
        assert!(poll_once(inner.as_mut()).await.is_pending());
        let expected = ["pool (running, 1 task)", "├── task", "└── inner (running, 1 task)", "    └── leaf"];
        assert_eq!(drawn(&pool.tree()), expected);
    })
    .await;
}

#[apply(both)]
async fn functions_with_tasks_of_their_own_are_shown_with_what_is_below_them() {
    in_endless_pool(async |pool| {
        pool.build_task().name("racer").spawn(async { race([nested("one")]).await.1 });
        pool.build_task().name("both").spawn(async {
            try_all((nested("three"), pending::<Result<(), BoxError>>())).await?;
            Ok(())
        });
        pool.build_task().name("all").spawn(async { drop(wait_all([nested("four")]).await) });
        pool.build_task().name("shielder").spawn(async {
            let stopped = cancellation_token();
            shield(async move { stopped.cancelled().await }).await;
        });
        // A branch can run before the next one is spawned, and before it is counted itself.
        let branches = |tree: &PoolTree| -> usize {
            let functions = ["race", "try_all", "wait_all", "shield"];
            let nodes = tree.nodes().filter(|node| functions.iter().any(|name| node.name() == Some(name)));
            nodes.map(|node| node.tasks()).sum()
        };
        until(|| pool.tree().nodes().count() == 15 && branches(&pool.tree()) == 5).await;
        let expected = [
            "pool (running, 4 tasks)",
            "├── racer",
            "│   └── <race> (running, 1 task)",
            "│       └── one (running, 1 task)",
            "│           └── leaf",
            "├── both",
            "│   └── <try_all> (running, 2 tasks)",
            "│       └── three (running, 1 task)",
            "│           └── leaf",
            "├── all",
            "│   └── <wait_all> (running, 1 task)",
            "│       └── four (running, 1 task)",
            "│           └── leaf",
            "└── shielder",
            "    └── <shield> (running, 1 task)",
        ];
        assert_eq!(drawn(&pool.tree()), expected);
    })
    .await;
}

#[apply(both)]
async fn a_group_is_shown_with_the_children_that_have_not_ended() {
    in_endless_pool(async |pool| {
        let (mut group, go) = (TaskGroup::<()>::new(), LatchEvent::new());
        let waits = go.wait_set();
        group.spawn(async move {
            waits.await;
            Ok(())
        });
        group.spawn(pending());
        assert_eq!(drawn(&pool.tree()), ["pool (running, 0 tasks)", "└── <TaskGroup> (running, 2 tasks)"]);
        go.set();
        group.next().await.unwrap().unwrap();
        let with_one = ["pool (running, 0 tasks)", "└── <TaskGroup> (running, 1 task)"];
        assert_eq!(drawn(&pool.tree()), with_one);
        group.abort_all();
        group.spawn(pending());
        group.next().await.unwrap().unwrap_err();
        assert_eq!(drawn(&pool.tree()), with_one, "it goes on after an abort");
    })
    .await;
}

#[apply(both)]
async fn an_exit_handler_is_shown_also_when_nobody_waits_for_it() {
    for cut_short in [false, true] {
        let (pool, go) = (Pool::<BoxError>::new(), LatchEvent::new());
        let (stay, begun) = (LatchEvent::new(), LatchEvent::new());
        let (goes, stays, begins) = (go.clone(), stay.clone(), begun.clone());
        let owner = pool.build_task().name("owner").spawn_with_handle(async move {
            let body = async move |_: &mut ()| {
                stays.set();
                if cut_short { pending().await } else { Ok(()) }
            };
            let handler = async move |(), _| {
                begins.set();
                goes.wait_set().await;
                Ok::<_, BoxError>(())
            };
            Ok(with_exit((), body, handler).await?)
        });
        let running = tokio::spawn(pool.clone().run());
        stay.wait_set().await;
        if cut_short {
            owner.cancel();
            until(|| count(&pool.tree(), "owner") == 0).await;
        }
        begun.wait_set().await;
        let expected: &[&str] = match cut_short {
            false => &["<pool> (running, 1 task)", "└── owner", "    └── <with_exit> (running, 1 task)"],
            true => &["<pool> (running, 0 tasks)", "└── <with_exit> (running, 1 task)"],
        };
        assert_eq!(drawn(&pool.tree()), expected, "cut short: {cut_short}");
        go.set();
        running.await.unwrap().unwrap();
    }
}

#[apply(both)]
async fn a_nested_pool_in_a_timeout_is_below_its_task() {
    in_endless_pool(async |pool| {
        pool.build_task().name("timed").spawn(async { drop(aiodrive::timeout(LONG, nested("inner")).await) });
        until(|| count(&pool.tree(), "leaf") == 1).await;
        let expected = ["pool (running, 1 task)", "└── timed", "    └── inner (running, 1 task)", "        └── leaf"];
        assert_eq!(drawn(&pool.tree()), expected);
    })
    .await;
}

#[apply(both)]
async fn a_nested_pool_in_a_blocking_closure_is_below_its_task() {
    in_endless_pool(async |pool| {
        let (stop, runtime) = (LatchEvent::new(), tokio::runtime::Handle::current());
        let stops = stop.clone();
        pool.build_task().name("blocking").spawn_blocking(move || {
            let opened = Pool::<BoxError>::builder().name("inner").open(async |pool: Pool| {
                pool.build_task().name("leaf").spawn(stops.wait_set());
                Ok(())
            });
            runtime.block_on(opened).unwrap();
        });
        until(|| count(&pool.tree(), "leaf") == 1).await;
        let expected =
            ["pool (running, 1 task)", "└── blocking", "    └── inner (running, 1 task)", "        └── leaf"];
        assert_eq!(drawn(&pool.tree()), expected);
        stop.set();
    })
    .await;
}

// ===== what was handed over =====

#[apply(both)]
async fn what_a_dropped_owner_has_handed_over_is_shown_where_it_lives() {
    let (go, pool) = (LatchEvent::new(), Pool::<BoxError>::builder().name("outer").build());
    let goes = go.clone();
    let leave = LatchEvent::new();
    let leaves = leave.clone();
    pool.build_task().name("owner").spawn(async move {
        let opened = Pool::builder().name("inner").grace(LONG).open(async |pool: Pool| {
            pool.build_task().name("leaf").spawn(async move { goes.wait_set().await });
            pending::<Result<(), _>>().await
        });
        let mut opened = Box::pin(opened);
        tokio::select! {
            opened = opened.as_mut() => opened?,
            () = leaves.wait_set() => {}
        }
        Ok(())
    });
    pool.build_task().name("other").spawn(go.wait_set());
    let running = tokio::spawn(pool.clone().run());
    until(|| count(&pool.tree(), "leaf") == 1).await;
    leave.set();
    until(|| count(&pool.tree(), "owner") == 0).await;
    let expected = ["outer (running, 1 task)", "├── other", "└── inner (closing, 1 task, handed over)", "    └── leaf"];
    assert_eq!(drawn(&pool.tree()), expected);
    assert!(format!("{:#}", pool.tree()).contains("inner (closing: dropped, 1 task, handed over)"));
    let tree = pool.tree();
    let inner = tree.nodes().find(|node| node.name() == Some("inner")).unwrap();
    assert!(inner.is_handed_over() && matches!(inner.closing_reason(), Some(ClosingReason::Dropped)));
    go.set();
    running.await.unwrap().unwrap();
}

#[apply(multi_thread)]
async fn a_function_whose_future_is_gone_is_shown_until_its_branches_have_ended() {
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    let blocked = Mutex::new(Some(blocked));
    in_endless_pool(async |pool| {
        let blocked = blocked.lock().unwrap().take().unwrap();
        let begun = LatchEvent::new();
        let begins = begun.clone();
        let branch = async move {
            begins.set();
            let _ = blocked.recv();
        };
        let (racing, line) = (race([branch]), line!());
        begun.wait_set().await;
        assert_eq!(drawn(&pool.tree())[1..], ["└── <race> (running, 1 task)"]);
        drop(racing);
        let tree = pool.tree();
        assert_eq!(drawn(&tree)[1..], ["└── <race> (closing, 1 task, handed over)"]);
        let call = tree.nodes().nth(1).unwrap();
        assert!(call.is_handed_over() && call.state() == NodeState::Closing);
        assert_eq!(call.spawned_at().unwrap().line(), line);
        drop(release);
        until(|| drawn(&pool.tree())[1..] == ["└── <body>"]).await;
    })
    .await;
}

/// A node is kept of each pool and function below, and the dead ones are thrown out now and then: not the others.
#[apply(both)]
async fn what_goes_on_is_still_shown_when_many_beside_it_have_ended() {
    in_endless_pool(async |pool| {
        let mut opened = Box::pin(nested("first"));
        assert!(poll_once(opened.as_mut()).await.is_pending());
        let _racing = race([nested("second")]);
        until(|| count(&pool.tree(), "leaf") == 2).await;
        let gate = LatchEvent::new();
        let mut shielded = shield(gate.wait_set());
        assert!(poll_once(Pin::new(&mut shielded)).await.is_pending());
        for _ in 0..1_000 {
            Pool::<BoxError>::new().run().await.unwrap();
            race([ready(())]).await;
            shield(ready(())).await;
        }
        let expected = [
            "├── first (running, 1 task)",
            "│   └── leaf",
            "├── <race> (running, 1 task)",
            "│   └── second (running, 1 task)",
            "│       └── leaf",
            "└── <shield> (running, 1 task)",
        ];
        until(|| drawn(&pool.tree())[1..] == expected).await;
        gate.set();
        shielded.await;
    })
    .await;
}

#[apply(both)]
async fn a_nested_pool_that_stays_open_with_nothing_in_it_is_shown() {
    in_endless_pool(async |pool| {
        let idle = Pool::<BoxError>::builder().name("idle").keep_open(true).build();
        let _kept = idle.clone();
        pool.build_task().name("owner").spawn(async { idle.run().await.map_err(BoxError::from) });
        until(|| count(&pool.tree(), "idle") == 1).await;
        let expected = ["pool (running, 1 task)", "└── owner", "    └── idle (running, 0 tasks)"];
        assert_eq!(drawn(&pool.tree()), expected);
    })
    .await;
}

#[apply(both)]
async fn a_nested_pool_that_has_closed_is_not_shown_though_it_has_a_handle() {
    in_endless_pool(async |pool| {
        let nested = Pool::<BoxError>::new();
        nested.spawn(async {});
        nested.clone().run().await.unwrap();
        assert_eq!(drawn(&pool.tree()), ["pool (running, 0 tasks)"]);
        assert_eq!(drawn(&nested.tree()), ["<pool> (closed, 0 tasks)"]);
    })
    .await;
}

#[apply(multi_thread)]
async fn what_a_nested_pool_gave_up_on_is_still_shown_above_it() {
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    let blocked = Mutex::new(Some(blocked));
    in_endless_pool(async |pool| {
        let blocked = blocked.lock().unwrap().take().unwrap();
        let inner = Pool::<BoxError>::builder().name("inner").abandon_after(Duration::ZERO).build();
        let begun = LatchEvent::new();
        let begins = begun.clone();
        inner.build_task().name("stuck").spawn_blocking(move || {
            begins.set();
            let _ = blocked.recv();
        });
        let (stop, kept) = (inner.clone(), inner.clone());
        pool.spawn(async move {
            begun.wait_set().await;
            stop.cancel();
        });
        let error = inner.run().await.unwrap_err();
        assert_eq!(error.stuck()[0].name(), Some("stuck"));
        assert!(
            drawn(&pool.tree()).ends_with(&["└── inner (closed, 1 task)".into(), "    └── stuck".into()]),
            "{}",
            pool.tree()
        );
        assert_eq!(count(&kept.tree(), "stuck"), 1);
        drop(release);
        until(|| count(&kept.tree(), "stuck") == 0 && count(&pool.tree(), "inner") == 0).await;
    })
    .await;
}

// ===== root_tree =====

#[apply(both)]
async fn the_tree_from_the_top_marks_its_origin() {
    in_endless_pool(async |pool| {
        let (asked, tree) = (LatchEvent::new(), Arc::new(Mutex::new(None)));
        let (done, keep) = (asked.clone(), tree.clone());
        pool.build_task().name("owner").spawn(async move {
            let opened = Pool::open(async |inner: Pool| {
                *keep.lock().unwrap() = Some((inner.root_tree(), inner.tree()));
                done.set();
                pending::<Result<(), BoxError>>().await
            });
            opened.await?;
            Ok(())
        });
        asked.wait_set().await;
        let (from_the_top, own) = tree.lock().unwrap().take().unwrap();
        let pool_of_owner = "    └── <pool> (running, 0 tasks)  ← origin";
        let expected = ["pool (running, 1 task)", "└── owner", pool_of_owner, "        └── <body>"];
        assert_eq!(drawn(&from_the_top), expected);
        assert_eq!(drawn(&own), ["<pool> (running, 0 tasks)", "└── <body>"]);
        assert_eq!(from_the_top.origin().level(), 2);
        assert_eq!(drawn(&pool.root_tree()), drawn(&pool.tree()));
    })
    .await;
}

#[apply(both)]
async fn the_tree_from_the_top_begins_at_the_outermost_pool_also_through_functions() {
    // Not how many tasks the race has: its branch may look before it is counted.
    let look = || {
        race([Pool::open(async |inner: Pool| {
            let tree = inner.root_tree();
            Ok::<_, BoxError>((drawn(&tree)[0].clone(), tree.origin().level()))
        })])
    };
    assert_eq!(look().await.1.unwrap(), ("<pool> (running, 0 tasks)".to_owned(), 0));
    in_endless_pool(async |_| {
        assert_eq!(look().await.1.unwrap(), ("pool (running, 0 tasks)".to_owned(), 2));
    })
    .await;
}

// ===== from anywhere =====

#[apply(both)]
async fn a_tree_can_be_had_in_a_destructor_while_the_pool_closes() {
    let (pool, seen) = (Pool::<BoxError>::new(), Arc::new(Mutex::new(Vec::new())));
    let (own, see) = (pool.clone(), seen.clone());
    let running = pool.clone();
    pool.spawn(async move {
        let _look = OnDrop::new(move || see.lock().unwrap().extend([own.tree(), own.root_tree()]));
        running.cancel();
        pending::<()>().await;
    });
    pool.run().await.unwrap();
    for tree in seen.lock().unwrap().drain(..) {
        assert_eq!(drawn(&tree), ["<pool> (closing, 1 task)", "└── <task>"]);
    }
}

#[apply(both)]
async fn a_tree_can_be_had_by_a_task_while_its_pool_waits_for_it() {
    let pool = Pool::<BoxError>::builder().grace(LONG).build();
    let own = pool.clone();
    pool.spawn(async move {
        own.cancel();
        cancellation_token().cancelled().await;
        for tree in [own.tree(), own.root_tree()] {
            assert_eq!(drawn(&tree), ["<pool> (closing, 1 task)", "└── <task>"]);
        }
    });
    pool.run().await.unwrap();
}

#[apply(current_thread)]
async fn a_tree_can_be_had_from_another_thread_while_a_task_blocks_its_own() {
    let pool = Pool::<BoxError>::new();
    let own = pool.clone();
    pool.build_task().name("blocks").spawn(async move {
        let tree = std::thread::spawn(move || own.tree()).join().unwrap();
        assert_eq!(drawn(&tree), ["<pool> (running, 1 task)", "└── blocks"]);
    });
    pool.run().await.unwrap();
}

#[apply(multi_thread)]
async fn eight_threads_draw_the_tree_while_ten_thousand_tasks_come_and_go() {
    let opened = Pool::<BoxError>::builder().name("busy").open(async |pool: Pool| {
        let draw = |pool: Pool| {
            move || {
                for _ in 0..100 {
                    assert!(pool.tree().to_string().starts_with("busy (running, "));
                }
            }
        };
        let threads: Vec<_> = (0..8).map(|_| std::thread::spawn(draw(pool.clone()))).collect();
        let mut rounds = 0;
        while rounds < 100 || !threads.iter().all(|thread| thread.is_finished()) {
            rounds += 1;
            for n in 0..100 {
                pool.spawn(async move {
                    if n % 10 == 0 {
                        Pool::<BoxError>::open(async |pool| {
                            pool.spawn(yield_now());
                            Ok(())
                        })
                        .await?;
                    }
                    yield_now().await;
                    Ok(())
                });
            }
            until(|| pool.len() < 200).await;
        }
        until(|| pool.is_empty()).await;
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        Ok(())
    });
    opened.await.unwrap();
}

#[test]
fn a_tree_can_be_ten_thousand_pools_deep() {
    fn descend(left: usize) -> std::pin::Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>> {
        Box::pin(async move {
            if left == 0 {
                return Ok(());
            }
            let opened = Pool::open(async |pool: Pool| {
                pool.spawn(descend(left - 1));
                if left == 1 {
                    DEEPEST.set();
                }
                pending::<Result<(), _>>().await
            });
            Ok(opened.await?)
        })
    }
    static DEEPEST: std::sync::LazyLock<LatchEvent> = std::sync::LazyLock::new(LatchEvent::new);

    watched(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            in_endless_pool(async |pool| {
                pool.spawn(descend(10_000));
                DEEPEST.wait_set().await;
                // A task and a pool at each level, the pool at the top, and the body of the deepest one.
                until(|| pool.tree().nodes().count() >= 20_002).await;
                assert_eq!(pool.tree().nodes().last().unwrap().level(), 20_001);
                // Not the square of that: the deepest levels are not moved any further to the right.
                assert!(pool.tree().to_string().len() < 20_002 * 600);
            })
            .await;
        });
    });
}

#[test]
fn states_have_names() {
    let states = [NodeState::Planned, NodeState::Queued, NodeState::Running, NodeState::Closing, NodeState::Closed];
    assert_eq!(states.map(|state| state.to_string()), ["planned", "queued", "running", "closing", "closed"]);
}

#[apply(current_thread)]
async fn a_tracked_future_of_a_planned_pool_is_in_its_tree() {
    let pool: Pool = Pool::builder().name("web").build();
    let member = pool.build_task().name("member").daemon().track_future(async {});
    pool.build_task().name("task").spawn(async {});
    let shown = drawn(&pool.tree());
    assert!(shown[1..].iter().any(|line| line.contains("member") && line.contains("daemon")), "{shown:?}");
    assert!(shown[1..].iter().any(|line| line.contains("task")), "{shown:?}");
    drop(member);
}
