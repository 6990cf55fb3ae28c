//! Runs many pieces of work on all cores; none may hang or panic.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

/// How long one piece may take before it counts as hanging.
const DEADLINE: Duration = Duration::from_secs(120);

/// Runs `work` for each item on a single-threaded runtime. A panic is returned as its message.
pub(crate) fn on_all_cores<T, R>(
    items: Vec<T>,
    work: impl AsyncFn(&T) -> R + Send + Sync + 'static,
) -> Vec<(T, Result<R, String>)>
where
    T: Clone + std::fmt::Debug + Send + Sync + 'static,
    R: Send + 'static,
{
    let (tell, told) = mpsc::channel();
    let (work, items, next) = (Arc::new(work), Arc::new(items), Arc::new(AtomicUsize::new(0)));
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    for _ in 0..threads {
        let (work, items, next, tell) = (work.clone(), items.clone(), next.clone(), tell.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
            let runtime = runtime.unwrap();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(item) = items.get(number) else { return };
                let done = catch_unwind(AssertUnwindSafe(|| runtime.block_on(work(item))));
                let _ = tell.send((number, done.map_err(|panic| message(&*panic))));
            }
        });
    }
    let mut done: Vec<Option<Result<R, String>>> = items.iter().map(|_| None).collect();
    for _ in 0..items.len() {
        let Ok((number, result)) = told.recv_timeout(DEADLINE) else {
            let begun = next.load(Ordering::Relaxed).min(items.len());
            let stuck: Vec<_> = (0..begun).filter(|n| done[*n].is_none()).map(|n| &items[n]).collect();
            panic!("no end comes of {stuck:?}");
        };
        done[number] = Some(result);
    }
    let done = done.into_iter().map(|result| result.expect("each is done"));
    items.iter().cloned().zip(done).collect()
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.unwrap_or_else(|| (*panic.downcast_ref::<&str>().unwrap_or(&"?")).to_owned())
}
