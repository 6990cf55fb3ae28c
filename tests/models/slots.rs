//! Tasks that wait for a slot, and slots that become free.

use shuttle::{future::block_on, sync::Mutex, thread};

use crate::{
    engine::{
        slots::Slots,
        sync::{Arc, AtomicBool, AtomicUsize, Notify, Ordering},
    },
    try_orders,
};

#[test]
fn a_slot_is_free_again_when_dropped() {
    let once = || {
        let slots = Slots::new(1, Arc::new(Notify::new()));
        let slot = slots.take().unwrap();
        assert!(slots.take().is_none());
        assert_eq!((slots.used(), slots.free()), (1, 0));
        drop(slot);
        assert!(slots.take().is_some());
    };
    shuttle::check_random(once, 1);
}

#[test]
fn never_more_are_held_than_there_are() {
    try_orders(|| {
        let slots = Slots::new(2, Arc::new(Notify::new()));
        let held = Arc::new(AtomicUsize::new(0));
        let takers = [(); 3].map(|()| {
            let (slots, held) = (slots.clone(), held.clone());
            thread::spawn(move || {
                for _ in 0..2 {
                    if let Some(slot) = slots.take() {
                        assert!(held.fetch_add(1, Ordering::SeqCst) < 2);
                        held.fetch_sub(1, Ordering::SeqCst);
                        drop(slot);
                    }
                }
            })
        });
        takers.into_iter().for_each(|it| it.join().unwrap());
        assert_eq!(slots.free(), 2);
    });
}

/// A process with one slot, and what its accepts and its driver do with it: the steps of `accept.rs` and `driver.rs`,
/// without the poll that would find every second what was forgotten.
#[derive(Clone)]
struct Engine {
    slots: Slots,
    wake: Arc<Notify>,
    /// `Hint::Work`, given and not taken.
    hinted: Arc<AtomicBool>,
    queue: Arc<Mutex<usize>>,
    ran: Arc<AtomicUsize>,
}

impl Engine {
    fn new() -> Self {
        let wake = Arc::new(Notify::new());
        Self {
            slots: Slots::new(1, wake.clone()),
            wake,
            hinted: Arc::new(AtomicBool::new(false)),
            queue: Arc::new(Mutex::new(0)),
            ran: Arc::new(AtomicUsize::new(0)),
        }
    }

    /// A task is accepted: it is born claimed, or waits.
    fn accept(&self) {
        let born = match self.slots.wanted() {
            false => self.slots.take(),
            true => None,
        };
        match born {
            Some(slot) => {
                self.ran.fetch_add(1, Ordering::SeqCst);
                drop(slot);
                // For this model alone, whose driver ends when all have run.
                self.wake.notify_one();
            }
            None => {
                self.slots.send_to_wait();
                *self.queue.lock().unwrap() += 1;
                self.hinted.store(true, Ordering::SeqCst);
                self.wake.notify_one();
            }
        }
    }

    fn drive(&self, tasks: usize) {
        let mut due = true;
        while self.ran.load(Ordering::SeqCst) < tasks {
            due |= self.hinted.swap(false, Ordering::SeqCst);
            while due && self.slots.free() > 0 {
                due = self.claim();
            }
            if due && self.slots.free() == 0 {
                self.slots.send_to_wait();
                if self.slots.free() > 0 {
                    continue;
                }
            }
            if due && self.slots.free() > 0 {
                // A claim that is due, and a slot for it: `wake_at` says at once.
                continue;
            }
            if self.ran.load(Ordering::SeqCst) < tasks {
                block_on(self.wake.notified());
            }
        }
    }

    /// Runs a task that waits, on a thread of its own. Answers whether there may be more.
    fn claim(&self) -> bool {
        let Some(slot) = self.slots.take() else {
            return false;
        };
        let sent_to_wait = self.slots.sent_to_wait();
        let mut queue = self.queue.lock().unwrap();
        if *queue == 0 {
            drop(queue);
            self.slots.none_waits(sent_to_wait);
            return false;
        }
        *queue -= 1;
        drop(queue);
        let engine = self.clone();
        thread::spawn(move || {
            engine.ran.fetch_add(1, Ordering::SeqCst);
            drop(slot);
            engine.wake.notify_one();
        });
        true
    }
}

/// The slot is freed while the task is put into the queue and the driver goes to sleep: somebody must see that both are
/// there.
#[test]
fn a_task_that_waits_gets_the_slot_that_becomes_free() {
    try_orders(|| {
        let engine = Engine::new();
        let handler = engine.slots.take().unwrap();
        let freeing = thread::spawn(move || drop(handler));
        let accepting = {
            let engine = engine.clone();
            thread::spawn(move || engine.accept())
        };
        engine.drive(1);
        freeing.join().unwrap();
        accepting.join().unwrap();
    });
}

/// Nothing wakes the driver here but the slot: the task has been there, and nobody was known to wait when the slot was
/// taken.
#[test]
fn a_slot_that_is_freed_as_the_driver_goes_to_sleep_wakes_it() {
    try_orders(|| {
        let engine = Engine::new();
        let handler = engine.slots.take().unwrap();
        engine.slots.none_waits(engine.slots.sent_to_wait());
        *engine.queue.lock().unwrap() = 1;
        let freeing = thread::spawn(move || drop(handler));
        engine.drive(1);
        freeing.join().unwrap();
    });
}
