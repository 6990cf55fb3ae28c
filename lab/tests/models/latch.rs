//! A handler gets its stop signal while it begins to wait for it.

use shuttle::{future::block_on, thread};

use crate::{
    engine::{latch::Latch, sync::Arc},
    try_orders,
};

/// A stop meets an attempt that has just begun. In every order, waiters get the signal, and later checks see it.
#[test]
fn a_stop_reaches_waiters_and_later_checks() {
    try_orders(|| {
        let stop = Arc::new(Latch::new());
        let waiting = [(); 2].map(|()| {
            let stop = stop.clone();
            thread::spawn(move || {
                block_on(stop.wait());
                assert!(stop.is_set());
            })
        });
        stop.set();
        stop.set();
        waiting.into_iter().for_each(|it| it.join().unwrap());
    });
}
