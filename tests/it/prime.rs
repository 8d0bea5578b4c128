//! `prime`: a first poll at the call.

use std::cell::{Cell, RefCell};
use std::future::{Pending, pending, poll_fn, ready};
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use aiodrive::prime;
use macro_rules_attribute::apply;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, advance, sleep};
use tokio_test::{assert_pending, assert_ready, assert_ready_eq, task};

use crate::support::{Alive, both, current_thread, panic_text, poll_once, watched};

#[apply(both)]
async fn prime_polls_once_now_and_not_again_before_it_is_awaited() {
    let polls = AtomicUsize::new(0);
    let waker = RefCell::new(None);
    let mut primed = prime(poll_fn(|cx| {
        waker.replace(Some(cx.waker().clone()));
        if polls.fetch_add(1, Ordering::SeqCst) == 2 { Poll::Ready("done") } else { Poll::Pending }
    }));
    assert_eq!(polls.load(Ordering::SeqCst), 1);
    waker.take().unwrap().wake();
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert_eq!(polls.load(Ordering::SeqCst), 1, "a wake-up changes nothing");
    assert!(poll_once(pin!(&mut primed)).await.is_pending());
    assert_eq!(primed.await, "done");
}

#[apply(both)]
async fn prime_keeps_the_output_of_a_future_that_is_ready_at_once() {
    let polls = AtomicUsize::new(0);
    let primed = prime(poll_fn(|_| Poll::Ready(polls.fetch_add(1, Ordering::SeqCst))));
    assert_eq!(polls.load(Ordering::SeqCst), 1);
    assert_eq!(primed.await, 0);
    assert_eq!(polls.load(Ordering::SeqCst), 1, "it is not polled again");
}

#[apply(both)]
async fn prime_yields_an_error_when_it_is_awaited() {
    assert_eq!(prime(async { Err::<(), _>("failed") }).await, Err("failed"))
}

#[test]
fn prime_panics_with_the_panic_of_the_first_poll() {
    assert_eq!(panic_text(|| drop(prime(async { panic!("at once") }))), "at once");
}

#[apply(both)]
async fn prime_loses_no_wake_up_between_the_call_and_the_await() {
    let (sender, receiver) = oneshot::channel();
    let primed = prime(receiver);
    sender.send(1).unwrap();
    assert_eq!(primed.await, Ok(1));
}

#[apply(both)]
async fn prime_is_woken_once_it_is_awaited() {
    let (sender, receiver) = oneshot::channel();
    let mut primed = task::spawn(prime(receiver));
    assert_pending!(primed.poll());
    assert!(!primed.is_woken());
    sender.send(1).unwrap();
    assert!(primed.is_woken());
    assert_ready_eq!(primed.poll(), Ok(1));
}

#[test]
fn prime_that_is_dropped_drops_the_future() {
    let alive = Alive::default();
    let counted = alive.one();
    let primed = prime(async {
        let _counted = counted;
        pending::<()>().await
    });
    assert_eq!(alive.count(), 1);
    drop(primed);
    assert_eq!(alive.count(), 0);
}

#[test]
fn prime_borrows_and_needs_neither_send_nor_a_runtime() {
    let gate = Rc::new(Cell::new(false));
    let text = String::from("borrowed");
    let mut primed = task::spawn(prime(async {
        poll_fn(|_| if gate.get() { Poll::Ready(()) } else { Poll::Pending }).await;
        text.as_str()
    }));
    assert_pending!(primed.poll());
    gate.set(true);
    assert_ready_eq!(primed.poll(), "borrowed");
}

#[test]
fn prime_panics_when_it_is_polled_after_it_was_ready() {
    for waits in [false, true] {
        let mut waiting = waits;
        let mut primed =
            task::spawn(prime(poll_fn(
                move |_| {
                    if std::mem::take(&mut waiting) { Poll::Pending } else { Poll::Ready(()) }
                },
            )));
        assert_ready!(primed.poll());
        assert_eq!(panic_text(|| primed.poll()), "a `Primed` was polled after it was ready");
    }
}

#[apply(current_thread)]
async fn prime_starts_a_timer_at_the_call() {
    let start = Instant::now();
    let primed = prime(async { sleep(Duration::from_secs(5)).await });
    advance(Duration::from_secs(3)).await;
    primed.await;
    assert_eq!(start.elapsed(), Duration::from_secs(5));
}

/// A timer is bound to the runtime in which it was primed, and not to that in which it is awaited.
#[test]
fn prime_of_a_timer_can_be_awaited_on_a_runtime_without_timers() {
    watched(|| {
        let with_timers = Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
        let inside = with_timers.enter();
        let timer = prime(async { sleep(Duration::from_millis(1)).await });
        drop(inside);
        Builder::new_current_thread().build().unwrap().block_on(timer);
    });
}

#[test]
fn prime_of_a_timer_outside_of_a_runtime_panics_at_the_call() {
    let message = panic_text(|| drop(prime(async { sleep(Duration::from_secs(1)).await })));
    assert!(message.contains("there is no reactor running"), "{message}");
}

#[apply(both)]
async fn prime_does_not_see_the_budget_of_the_task() {
    let task = tokio::spawn(async {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        (0..10_000).for_each(|n| sender.send(n).unwrap());
        // Uses up what this task may do before it has to yield.
        let mut exhausting = Box::pin(async {
            loop {
                receiver.recv().await;
            }
        });
        assert!(poll_once(exhausting.as_mut()).await.is_pending());
        let mut channels: Vec<_> = (0..1000).map(|_| mpsc::unbounded_channel()).collect();
        for (n, (sender, _)) in channels.iter().enumerate() {
            sender.send(n).unwrap();
        }
        let primed: Vec<_> = channels.iter_mut().map(|(_, receiver)| prime(receiver.recv())).collect();
        let pending = primed.iter().filter(|primed| format!("{primed:?}").contains("pending")).count();
        for (n, primed) in primed.into_iter().enumerate() {
            assert_eq!(primed.await, Some(n));
        }
        pending
    });
    assert_eq!(task.await.unwrap(), 0, "all were ready at the call");
}

#[test]
fn prime_says_in_its_debug_text_how_far_it_is() {
    let mut primed = task::spawn(prime(ready(())));
    assert_eq!(format!("{:?}", *primed), r#"Primed { state: "ready" }"#);
    assert_ready!(primed.poll());
    assert_eq!(format!("{:?}", *primed), r#"Primed { state: "done" }"#);
    let waiting: aiodrive::Primed<Pending<()>> = prime(pending());
    assert_eq!(format!("{waiting:?}"), r#"Primed { state: "pending" }"#);
}
