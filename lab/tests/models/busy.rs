//! Work ends while a shutdown begins to wait for it.

use shuttle::{future::block_on, thread};

use crate::{
    engine::{busy::Busy, sync::Arc},
    try_orders,
};

/// The last work may end in the very moment in which a waiter registers. The waiter must be woken.
#[test]
fn the_last_end_wakes_the_waiter() {
    try_orders(|| {
        let busy = Arc::new(Busy::default());
        busy.begin();
        busy.begin();
        let leaving = [(); 2].map(|()| {
            let busy = busy.clone();
            thread::spawn(move || busy.end())
        });
        block_on(busy.idle());
        assert_eq!(busy.count(), 0);
        leaving.into_iter().for_each(|it| it.join().unwrap());
    });
}

/// Work that begins while the last work ends is waited for as well, if the last work began it.
#[test]
fn what_the_last_one_begins_is_waited_for() {
    try_orders(|| {
        let busy = Arc::new(Busy::default());
        busy.begin();
        let leaving = {
            let busy = busy.clone();
            thread::spawn(move || {
                busy.begin();
                busy.end();
                let next = busy.clone();
                thread::spawn(move || next.end())
            })
        };
        block_on(busy.idle());
        assert_eq!(busy.count(), 0);
        leaving.join().unwrap().join().unwrap();
    });
}
