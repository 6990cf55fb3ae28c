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
        let slot = slots.take(0).unwrap();
        assert!(slots.take(0).is_none());
        assert_eq!((slots.used(), slots.free()), (1, 0));
        drop(slot);
        assert!(slots.take(0).is_some());
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
                    if let Some(slot) = slots.take(0) {
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

/// A process with a few slots, and what its accepts and its driver do with them: the steps of the engine's `intake`,
/// `pools` and `duties`, without the poll that would find a lost task every second.
#[derive(Clone)]
struct Engine {
    slots: Slots,
    wake: Arc<Notify>,
    /// `Hint::Work`, given and not taken.
    hinted: Arc<AtomicBool>,
    /// The pools of the tasks that wait.
    queue: Arc<Mutex<Vec<usize>>>,
    ran: Arc<AtomicUsize>,
}

impl Engine {
    /// One slot, in one pool.
    fn new() -> Self {
        Self::of_pools(1, &[usize::MAX])
    }

    fn of_pools(total: usize, pools: &[usize]) -> Self {
        let wake = Arc::new(Notify::new());
        Self {
            slots: Slots::of_pools(total, pools.iter().copied(), wake.clone()),
            wake,
            hinted: Arc::new(AtomicBool::new(false)),
            queue: Arc::new(Mutex::new(Vec::new())),
            ran: Arc::new(AtomicUsize::new(0)),
        }
    }

    /// Accepts a task: it takes a slot at once, or waits.
    fn accept(&self, pool: usize) {
        let taken = match self.slots.wanted(pool) {
            false => self.slots.take(pool),
            true => None,
        };
        match taken {
            Some(slot) => {
                self.ran.fetch_add(1, Ordering::SeqCst);
                drop(slot);
                // Only in this model, whose driver ends when all tasks have run.
                self.wake.notify_one();
            }
            None => {
                self.slots.send_to_wait(pool);
                self.queue.lock().unwrap().push(pool);
                self.hinted.store(true, Ordering::SeqCst);
                self.wake.notify_one();
            }
        }
    }

    fn drive(&self, tasks: usize) {
        let mut due = true;
        while self.ran.load(Ordering::SeqCst) < tasks {
            due |= self.hinted.swap(false, Ordering::SeqCst) | self.slots.take_freed();
            while due && self.slots.free() > 0 {
                due = self.claim();
            }
            if due && self.slots.free() == 0 {
                self.slots.send_some_to_wait();
            }
            if due && self.slots.free() > 0 {
                // A claim is due and there is a slot for it: `wake_at` answers "now".
                continue;
            }
            if self.ran.load(Ordering::SeqCst) < tasks {
                block_on(self.wake.notified());
            }
        }
    }

    /// Runs a waiting task on its own thread. Answers whether there may be more.
    fn claim(&self) -> bool {
        let sent_to_wait = self.slots.sent_to_wait();
        let mut reserved = self.slots.reserve(1);
        for pool in 0..sent_to_wait.len() {
            if reserved.of_pool(pool) == 0 {
                self.slots.send_to_wait(pool);
            }
        }
        let mut queue = self.queue.lock().unwrap();
        let found = queue.iter().position(|pool| reserved.of_pool(*pool) > 0);
        let pool = found.map(|at| queue.remove(at));
        drop(queue);
        let Some(slot) = pool.and_then(|pool| reserved.slot(pool)) else {
            for pool in 0..sent_to_wait.len() {
                if reserved.of_pool(pool) > 0 {
                    self.slots.none_waits(pool, sent_to_wait[pool]);
                }
            }
            return false;
        };
        let engine = self.clone();
        thread::spawn(move || {
            engine.ran.fetch_add(1, Ordering::SeqCst);
            drop(slot);
            engine.wake.notify_one();
        });
        true
    }
}

/// The slot is freed while the task enters the queue and the driver goes to sleep. One of the threads must notice that
/// there is both a slot and a task.
#[test]
fn a_task_that_waits_gets_the_slot_that_becomes_free() {
    try_orders(|| {
        let engine = Engine::new();
        let handler = engine.slots.take(0).unwrap();
        let freeing = thread::spawn(move || drop(handler));
        let accepting = {
            let engine = engine.clone();
            thread::spawn(move || engine.accept(0))
        };
        engine.drive(1);
        freeing.join().unwrap();
        accepting.join().unwrap();
    });
}

/// Only the freed slot can wake the driver here: the task was there before, and no task was recorded as waiting when
/// the slot was taken.
#[test]
fn a_slot_that_is_freed_as_the_driver_goes_to_sleep_wakes_it() {
    try_orders(|| {
        let engine = Engine::new();
        let handler = engine.slots.take(0).unwrap();
        engine.slots.none_waits(0, engine.slots.sent_to_wait()[0]);
        engine.queue.lock().unwrap().push(0);
        let freeing = thread::spawn(move || drop(handler));
        engine.drive(1);
        freeing.join().unwrap();
    });
}

/// A slot of another pool is freed while the task enters the queue and the driver goes to sleep.
#[test]
fn a_slot_freed_by_one_pool_goes_to_a_task_of_another() {
    try_orders(|| {
        let engine = Engine::of_pools(1, &[usize::MAX; 2]);
        let handler = engine.slots.take(0).unwrap();
        let freeing = thread::spawn(move || drop(handler));
        let accepting = {
            let engine = engine.clone();
            thread::spawn(move || engine.accept(1))
        };
        engine.drive(1);
        freeing.join().unwrap();
        accepting.join().unwrap();
    });
}

/// There are free slots, but none of the task's pool. One is freed while the driver finds that out.
#[test]
fn a_task_waits_for_a_slot_of_its_own_pool() {
    try_orders(|| {
        let engine = Engine::of_pools(3, &[1, usize::MAX]);
        let handler = engine.slots.take(0).unwrap();
        engine.slots.none_waits(0, engine.slots.sent_to_wait()[0]);
        engine.queue.lock().unwrap().push(0);
        let freeing = thread::spawn(move || drop(handler));
        let accepting = {
            let engine = engine.clone();
            thread::spawn(move || engine.accept(1))
        };
        engine.drive(2);
        freeing.join().unwrap();
        accepting.join().unwrap();
    });
}

#[test]
fn a_paused_pool_gives_no_slots_and_then_those_that_wait_run() {
    try_orders(|| {
        let engine = Engine::of_pools(2, &[1, 1]);
        engine.slots.set_paused(0, true);
        engine.accept(0);
        let resuming = {
            let engine = engine.clone();
            thread::spawn(move || engine.slots.set_paused(0, false))
        };
        engine.drive(1);
        resuming.join().unwrap();
    });
}
