//! A handler is told to end while it begins to wait for that.

use shuttle::{future::block_on, thread};

use crate::{
    engine::{sync::Arc, told::Told},
    try_orders,
};

/// S42: a stop meets an attempt that has just begun. Whoever waits hears of it, in every order, and so does who asks
/// later.
#[test]
fn whoever_waits_is_told_and_whoever_asks_later_knows() {
    try_orders(|| {
        let stop = Arc::new(Told::new());
        let waiting = [(); 2].map(|()| {
            let stop = stop.clone();
            thread::spawn(move || {
                block_on(stop.told());
                assert!(stop.is_told());
            })
        });
        stop.tell();
        stop.tell();
        waiting.into_iter().for_each(|it| it.join().unwrap());
    });
}
