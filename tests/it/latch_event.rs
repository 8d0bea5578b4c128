//! `LatchEvent`: waiting in both directions, and no pulse lost.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::task::{Context, Wake, Waker};
use std::thread;

use aiodrive::{LatchEvent, Pool};
use macro_rules_attribute::apply;
use tokio_test::{assert_pending, assert_ready, assert_ready_eq, assert_ready_err, task};

use crate::support::{Alive, Log, OnDrop, both, current_thread, poll_once, watched};

/// A change of a latch.
type Step = fn(&LatchEvent);

type Wait = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The latch in a state, and waiting for that state: everything is tried both ways.
fn waiter(latch: &LatchEvent, state: bool) -> task::Spawn<Wait> {
    let wait: Wait = if state { Box::pin(latch.wait_set()) } else { Box::pin(latch.wait_unset()) };
    task::spawn(wait)
}

// These need no runtime, and run in none.

#[test]
fn a_latch_is_unset_at_first() {
    let latches = [LatchEvent::new(), LatchEvent::default(), LatchEvent::from(false)];
    for latch in latches {
        assert!(!latch.is_set());
        assert_ready!(waiter(&latch, false).poll());
        assert_pending!(waiter(&latch, true).poll());
    }
    assert!(LatchEvent::from(true).is_set());
}

#[test]
fn it_is_what_it_was_set_to_last() {
    let latch = LatchEvent::new();
    let steps: [(Step, bool); 7] = [
        (LatchEvent::set, true),
        (LatchEvent::set, true),
        (LatchEvent::unset, false),
        (LatchEvent::unset, false),
        (|latch| latch.set_to(true), true),
        (|latch| latch.set_to(false), false),
        (|latch| latch.clone().set(), true),
    ];
    for (step, state) in steps {
        step(&latch);
        assert_eq!(latch.is_set(), state);
    }
}

#[test]
fn a_state_that_is_there_is_not_waited_for() {
    for state in [false, true] {
        let latch = LatchEvent::from(state);
        assert_ready!(waiter(&latch, state).poll());
    }
}

#[test]
fn a_change_wakes_all_who_wait_for_it() {
    for state in [false, true] {
        let latch = LatchEvent::from(!state);
        let mut waiters: Vec<_> = (0..100_000).map(|_| waiter(&latch, state)).collect();
        for waiter in &mut waiters {
            assert_pending!(waiter.poll());
        }
        latch.set_to(state);
        for waiter in &mut waiters {
            assert!(waiter.is_woken(), "a waiter sleeps on; state: {state}");
            assert_ready!(waiter.poll());
        }
    }
}

#[test]
fn a_pulse_completes_who_waits_for_it() {
    for state in [false, true] {
        let latch = LatchEvent::from(!state);
        let mut waiter = waiter(&latch, state);
        assert_pending!(waiter.poll());
        latch.set_to(state);
        latch.set_to(!state);
        assert!(waiter.is_woken(), "the pulse is missed; state: {state}");
        assert_ready!(waiter.poll());
        assert_eq!(latch.is_set(), !state, "state: {state}");
    }
}

#[test]
fn a_pulse_is_seen_by_who_waits_for_it_and_not_by_who_looks_at_the_state() {
    let latch = LatchEvent::new();
    let (mut waiter, mut states) = (waiter(&latch, true), latch.subscribe());
    let mut reader = task::spawn(states.wait_for(|set| *set));
    assert_pending!(waiter.poll());
    assert_pending!(reader.poll());
    latch.set();
    latch.unset();
    assert_ready!(waiter.poll());
    assert_pending!(reader.poll());
}

#[test]
fn a_pulse_before_the_first_poll_counts() {
    for state in [false, true] {
        let latch = LatchEvent::from(!state);
        let mut waiter = waiter(&latch, state);
        latch.set_to(state);
        latch.set_to(!state);
        assert_ready!(waiter.poll());
    }
}

#[test]
fn a_state_at_the_call_counts_even_if_it_is_gone_at_the_first_poll() {
    for state in [false, true] {
        let latch = LatchEvent::from(state);
        let mut waiter = waiter(&latch, state);
        latch.set_to(!state);
        assert_ready!(waiter.poll());
    }
}

#[test]
fn a_pulse_before_the_call_does_not_count() {
    for state in [false, true] {
        let latch = LatchEvent::from(!state);
        latch.set_to(state);
        latch.set_to(!state);
        assert_pending!(waiter(&latch, state).poll());
    }
}

#[test]
fn a_pulse_in_the_other_direction_completes_nobody_until_it_is_over() {
    for state in [false, true] {
        let latch = LatchEvent::from(state);
        latch.set_to(!state);
        let mut waiter = waiter(&latch, state);
        assert_pending!(waiter.poll());
        latch.set_to(!state);
        assert!(!waiter.is_woken(), "it is no change");
        assert_pending!(waiter.poll());
        latch.set_to(state);
        assert_ready!(waiter.poll());
    }
}

#[test]
fn many_pulses_at_once_complete_all_waiters_of_both_directions() {
    for pulses in [1, 2, 3, 1000] {
        let latch = LatchEvent::new();
        let mut set = [(); 5].map(|()| waiter(&latch, true));
        set.iter_mut().take(2).for_each(|waiter| assert_pending!(waiter.poll()));
        latch.set();
        let mut unset = [(); 5].map(|()| waiter(&latch, false));
        unset.iter_mut().take(2).for_each(|waiter| assert_pending!(waiter.poll()));
        for _ in 0..pulses {
            latch.unset();
            latch.set();
        }
        assert!(
            set.iter().take(2).chain(unset.iter().take(2)).all(|waiter| waiter.is_woken()),
            "a waiter sleeps on after {pulses} pulses"
        );
        for waiter in set.iter_mut().chain(&mut unset) {
            assert_ready!(waiter.poll());
        }
    }
}

#[test]
fn a_loop_over_both_directions_sees_a_burst_once() {
    let (latch, log) = (LatchEvent::new(), Log::default());
    let (handle, events) = (latch.clone(), log.clone());
    let mut following = task::spawn(async move {
        loop {
            handle.wait_set().await;
            events.push("set");
            handle.wait_unset().await;
            events.push("unset");
        }
    });
    assert_pending!(following.poll());
    latch.set();
    latch.unset();
    latch.set();
    assert_pending!(following.poll());
    assert_eq!(log.events(), ["set"], "it is set, and the waiter came for that once");
    latch.unset();
    assert_pending!(following.poll());
    assert_eq!(log.events(), ["set", "unset"]);
}

#[test]
fn setting_what_is_set_wakes_nobody() {
    for state in [false, true] {
        let latch = LatchEvent::from(state);
        let mut other = waiter(&latch, !state);
        let mut change = task::spawn(latch.wait_change());
        assert_pending!(other.poll());
        assert_pending!(change.poll());
        latch.set_to(state);
        assert!(!other.is_woken() && !change.is_woken(), "no change wakes somebody; state: {state}");
    }
}

#[test]
fn wait_change_waits_for_the_next_change_and_says_what_it_is() {
    let latch = LatchEvent::from(true);
    for state in [false, true, false] {
        let mut change = task::spawn(latch.wait_change());
        assert_pending!(change.poll());
        latch.set_to(state);
        assert!(change.is_woken(), "the change to {state} is missed");
        assert_ready_eq!(change.poll(), state);
    }
}

#[test]
fn wait_change_counts_from_the_call_and_sees_a_pulse() {
    let latch = LatchEvent::new();
    latch.set();
    let mut change = task::spawn(latch.wait_change());
    assert_pending!(change.poll());
    latch.unset();
    latch.set();
    assert_ready_eq!(change.poll(), true);
    let mut unpolled = task::spawn(latch.wait_change());
    latch.unset();
    assert_ready_eq!(unpolled.poll(), false);
}

#[test]
fn a_subscriber_sees_the_newest_state() {
    let latch = LatchEvent::new();
    let mut states = latch.subscribe();
    assert!(!states.has_changed().unwrap());
    latch.set();
    latch.unset();
    latch.set();
    assert!(states.has_changed().unwrap());
    assert!(*states.borrow_and_update());
    let mut changed = task::spawn(states.changed());
    assert_pending!(changed.poll());
    latch.unset();
    assert_ready!(changed.poll()).unwrap();
}

#[test]
fn clones_are_handles_to_one_latch() {
    let latch = LatchEvent::new();
    let clone = latch.clone();
    let mut waiter = waiter(&clone, true);
    assert_pending!(waiter.poll());
    latch.set();
    assert!(clone.is_set());
    assert_ready!(waiter.poll());
}

#[test]
fn a_waiter_that_is_dropped_is_forgotten_and_disturbs_nobody() {
    for woken in [false, true] {
        let latch = LatchEvent::new();
        let [mut first, mut dropped, mut last] = [(); 3].map(|()| waiter(&latch, true));
        assert_pending!(first.poll());
        assert_pending!(dropped.poll());
        assert_pending!(last.poll());
        assert!(format!("{latch:?}").contains("waiters: 3"), "{latch:?}");
        if woken {
            latch.set();
        }
        drop(dropped);
        assert!(format!("{latch:?}").contains("waiters: 2"), "{latch:?}, woken: {woken}");
        latch.set();
        assert!(first.is_woken() && last.is_woken(), "somebody else is disturbed; woken: {woken}");
        assert_ready!(first.poll());
        assert_ready!(last.poll());
        drop((first, last));
        assert!(format!("{latch:?}").contains("waiters: 0"), "{latch:?}, woken: {woken}");
    }
}

#[test]
fn a_waiter_gives_up_its_waker_when_it_is_dropped() {
    let latch = LatchEvent::new();
    let alive = Alive::default();
    let waker = Waker::from(Arc::new(OnWake { calls: AtomicUsize::new(0), _alive: alive.one() }));
    let mut waiter = Box::pin(latch.wait_set());
    assert!(waiter.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    drop(waker);
    assert_eq!(alive.count(), 1);
    drop(waiter);
    assert_eq!(alive.count(), 0);
}

struct OnWake<T> {
    calls: AtomicUsize,
    _alive: T,
}

impl<T: Send + Sync + 'static> Wake for OnWake<T> {
    fn wake(self: Arc<Self>) {
        self.calls.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn the_waker_of_the_last_poll_is_the_one_that_is_woken() {
    let latch = LatchEvent::new();
    let [first, second] = [(); 2].map(|()| Arc::new(OnWake { calls: AtomicUsize::new(0), _alive: () }));
    let mut waiter = pin!(latch.wait_set());
    for waker in [&first, &second] {
        assert!(waiter.as_mut().poll(&mut Context::from_waker(&Waker::from(Arc::clone(waker)))).is_pending());
    }
    latch.set();
    assert_eq!((first.calls.load(Ordering::SeqCst), second.calls.load(Ordering::SeqCst)), (0, 1));
}

#[test]
fn a_waker_may_use_the_latch_when_it_is_dropped() {
    watched(|| {
        let latch = LatchEvent::new();
        let handle = latch.clone();
        let waker = Waker::from(Arc::new(OnWake {
            calls: AtomicUsize::new(0),
            _alive: OnDrop::new(move || {
                handle.unset();
                drop(format!("{handle:?}"));
            }),
        }));
        let mut waiter = Box::pin(latch.wait_set());
        assert!(waiter.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        drop(waker);
        latch.set();
        assert!(!latch.is_set(), "the waker's destructor has unset it");
        assert!(waiter.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
    });
}

#[test]
fn a_waiter_without_any_handle_left_waits_for_ever() {
    let latch = LatchEvent::new();
    let mut waiters = [waiter(&latch, true), waiter(&latch, true)];
    let mut change = task::spawn(latch.wait_change());
    assert_pending!(waiters[0].poll());
    drop(latch);
    for waiter in &mut waiters {
        assert_pending!(waiter.poll());
    }
    assert_pending!(change.poll());
}

#[test]
fn a_waiter_that_came_in_time_is_ready_though_no_handle_is_left() {
    for state in [false, true] {
        let latch = LatchEvent::from(!state);
        let (mut seen, mut change) = (waiter(&latch, state), task::spawn(latch.wait_change()));
        latch.set_to(state);
        let mut there = waiter(&latch, state);
        drop(latch);
        assert_ready!(seen.poll());
        assert_ready!(there.poll());
        assert_ready_eq!(change.poll(), state);
    }
}

#[test]
fn its_debug_text_has_the_state_and_the_waiters() {
    let latch = LatchEvent::new();
    assert_eq!(format!("{latch:?}"), r#"LatchEvent { state: "unset", waiters: 0 }"#);
    let waiters = [waiter(&latch, true), waiter(&latch, true)];
    latch.set();
    assert_eq!(format!("{latch:?}"), r#"LatchEvent { state: "set", waiters: 2 }"#);
    drop(waiters);
}

#[test]
fn a_change_from_another_thread_is_never_missed() {
    watched(|| {
        let executor = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (there, back) = (LatchEvent::new(), LatchEvent::new());
        let answering = {
            let (there, back) = (there.clone(), back.clone());
            thread::spawn(move || {
                let executor = tokio::runtime::Builder::new_current_thread().build().unwrap();
                for round in 0..1000 {
                    executor.block_on(async {
                        if round % 2 == 0 { there.wait_set().await } else { there.wait_unset().await }
                    });
                    back.set_to(round % 2 == 0);
                }
            })
        };
        for round in 0..1000 {
            let state = round % 2 == 0;
            let answer = back.wait_change();
            there.set_to(state);
            assert_eq!(executor.block_on(answer), state, "round {round}");
        }
        answering.join().unwrap();
    });
}

#[test]
fn a_pulse_from_another_thread_completes_every_waiter_there_is() {
    watched(|| {
        for round in 0..1000 {
            let (latch, meeting) = (LatchEvent::new(), Arc::new(Barrier::new(2)));
            let waiting = {
                let (waits, meeting) = ([latch.wait_set(), latch.wait_set()], Arc::clone(&meeting));
                thread::spawn(move || {
                    let executor = tokio::runtime::Builder::new_current_thread().build().unwrap();
                    meeting.wait();
                    executor.block_on(async {
                        for wait in waits {
                            wait.await;
                        }
                    });
                })
            };
            meeting.wait();
            // Before, during and after the first poll.
            (0..round % 10 * 50).for_each(|_| std::hint::spin_loop());
            latch.set();
            latch.unset();
            waiting.join().unwrap();
        }
    });
}

#[test]
fn a_receiver_does_not_keep_the_flag_alive() {
    let latch = LatchEvent::new();
    let (other, mut states) = (latch.clone(), latch.subscribe());
    let mut next = task::spawn(states.changed());
    assert_pending!(next.poll());
    drop(latch);
    assert!(!next.is_woken(), "there is still a handle");
    drop(other);
    assert!(next.is_woken(), "nobody can change it any more");
    assert_ready_err!(next.poll());
    drop(next);
    assert!(!*states.borrow());
}

// In a runtime.

#[apply(both)]
async fn tasks_hand_a_token_to_and_fro() {
    let (ping, pong) = (LatchEvent::new(), LatchEvent::new());
    let answering = {
        let (ping, pong) = (ping.clone(), pong.clone());
        tokio::spawn(async move {
            for _ in 0..1000 {
                ping.wait_set().await;
                ping.unset();
                pong.set();
            }
        })
    };
    for _ in 0..1000 {
        let answered = pong.wait_set();
        ping.set();
        answered.await;
        pong.unset();
    }
    answering.await.unwrap();
}

#[apply(current_thread)]
async fn a_loop_that_never_has_to_wait_lets_others_run() {
    for state in [false, true] {
        let latch = LatchEvent::from(state);
        tokio::select! {
            biased;
            () = async {
                loop {
                    latch.set_to(state);
                    if state { latch.wait_set().await } else { latch.wait_unset().await }
                }
            } => {}
            () = tokio::task::yield_now() => {}
        }
        // And one that sees a change each time.
        tokio::select! {
            biased;
            () = async {
                loop {
                    let change = latch.wait_change();
                    latch.set_to(!latch.is_set());
                    change.await;
                }
            } => {}
            () = tokio::task::yield_now() => {}
        }
    }
}

#[apply(both)]
async fn a_wait_that_is_ready_is_pending_once_the_budget_is_spent_and_then_ready() {
    let task = tokio::spawn(async {
        let latch = LatchEvent::from(true);
        let mut ready = 0;
        loop {
            let mut wait = Box::pin(latch.wait_set());
            if poll_once(wait.as_mut()).await.is_pending() {
                latch.unset();
                wait.await;
                return ready;
            }
            ready += 1;
            assert!(ready < 10_000, "it is not cooperative");
        }
    });
    assert!(task.await.unwrap() > 0);
}

#[apply(both)]
async fn a_wait_in_a_select_forgets_only_itself() {
    let latch = LatchEvent::new();
    let mut other = waiter(&latch, true);
    assert_pending!(other.poll());
    tokio::select! {
        biased;
        () = latch.wait_set() => unreachable!("it is unset"),
        () = tokio::task::yield_now() => {}
    }
    assert!(!other.is_woken());
    latch.set();
    assert!(other.is_woken());
    assert_ready!(other.poll());
}

#[apply(both)]
async fn a_latch_that_is_set_as_the_pool_is_cancelled_drops_the_waiting_body_once() {
    let (latch, alive) = (LatchEvent::new(), Alive::default());
    let outcome = Pool::open(async |pool: Pool| {
        let _counted = alive.one();
        let waiting = latch.wait_set();
        let (handle, set) = (pool.clone(), latch.clone());
        pool.spawn(async move {
            set.set();
            handle.cancel();
        });
        waiting.await;
        Ok(())
    })
    .await;
    // Either came first; nothing hangs, and nothing is left.
    assert!(outcome.is_ok() || outcome.unwrap_err().is_cancelled());
    assert_eq!(alive.count(), 0);
    assert!(latch.is_set());
}
