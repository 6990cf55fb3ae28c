//! Work ends while a shutdown begins to wait for that.

use shuttle::{future::block_on, thread};

use crate::{
    engine::{busy::Busy, sync::Arc},
    try_orders,
};

/// S46: nobody is woken who did not say that they wait, and the last one may leave in the very moment in which they say so.
#[test]
fn who_waits_hears_of_the_last_one_that_leaves() {
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

/// What is begun while the last one leaves is waited for as well, if the last one began it.
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
