//! The contestant apalis, over its `MemoryStorage`.

use std::{
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use apalis::prelude::{
    MemorySink, MemoryStorage, MemoryStorageError, ParallelizeExt, Task, TaskBuilder, TaskSink, WorkerBuilder,
    WorkerContext,
};
use bytes::Bytes;
use futures_channel::mpsc;
use futures_util::{Sink, SinkExt, StreamExt, future::join_all, lock::Mutex};
use tokio::runtime::Runtime;

use crate::{BULK, SUBMITTERS, Stopwatch, made, payload, rates};

pub(crate) fn push(runtime: &Runtime, each: usize) -> Vec<f64> {
    runtime.block_on(async {
        let (sink, _storage) = storage();
        let submitters = made(SUBMITTERS, || (sink.clone(), made(each, payload)));
        let watch = Stopwatch::start();
        join_all(submitters.into_iter().map(|(mut sink, jobs)| async move {
            for job in jobs {
                // This is what `push` does, which only the storage itself offers.
                sink.send(TaskBuilder::new(job).build()).await.expect("it is open");
            }
        }))
        .await;
        rates(SUBMITTERS * each, watch.stop())
    })
}

pub(crate) fn drain(runtime: &Runtime, count: usize) -> Vec<f64> {
    runtime.block_on(async {
        let storage = filled(count).await;
        let watch = Stopwatch::start();
        let worker = WorkerBuilder::new("lab").backend(storage).build(handler(count));
        worker.run().await.expect("it runs to its end");
        rates(count, watch.stop())
    })
}

pub(crate) fn drain_spawned(runtime: &Runtime, count: usize) -> Vec<f64> {
    runtime.block_on(async {
        let storage = filled(count).await;
        let watch = Stopwatch::start();
        let worker = WorkerBuilder::new("lab").backend(storage);
        let worker = worker.parallelize(tokio::spawn).build(handler(count));
        worker.run().await.expect("it runs to its end");
        rates(count, watch.stop())
    })
}

pub(crate) fn one_by_one(runtime: &Runtime, batches: usize) -> Vec<f64> {
    in_batches(runtime, batches, async |storage, jobs| {
        for job in jobs {
            storage.push(job).await.expect("it is open");
        }
    })
}

pub(crate) fn in_one_call(runtime: &Runtime, batches: usize) -> Vec<f64> {
    in_batches(runtime, batches, async |storage, jobs| {
        storage.push_bulk(jobs).await.expect("it is open");
    })
}

fn in_batches(runtime: &Runtime, batches: usize, put: impl AsyncFn(&mut MemoryStorage<Bytes>, Vec<Bytes>)) -> Vec<f64> {
    let mut taken = [Duration::ZERO; 2];
    for _ in 0..batches {
        runtime.block_on(async {
            let mut storage = MemoryStorage::new();
            let jobs = made(BULK, payload);
            let watch = Stopwatch::start();
            put(&mut storage, jobs).await;
            for (taken, more) in taken.iter_mut().zip(watch.stop()) {
                *taken += more;
            }
        });
    }
    rates(batches * BULK, taken)
}

async fn filled(count: usize) -> MemoryStorage<Bytes> {
    let mut storage = MemoryStorage::new();
    storage.push_bulk(made(count, payload)).await.expect("it is open");
    storage
}

/// A handler that does nothing, and stops the worker at the last job.
fn handler(count: usize) -> impl Fn(Bytes, WorkerContext) -> std::future::Ready<()> + Clone {
    let done = Arc::new(AtomicUsize::new(0));
    move |job, worker| {
        black_box(job);
        if done.fetch_add(1, Ordering::Relaxed) + 1 == count {
            worker.stop().expect("it runs");
        }
        std::future::ready(())
    }
}

/// A storage, and a sink into it that can be cloned: `MemoryStorage::new` does not give its sink out.
fn storage() -> (MemorySink<Bytes>, MemoryStorage<Bytes>) {
    type Sender = Box<dyn Sink<Task<Bytes>, Error = MemoryStorageError> + Send + Sync + Unpin>;
    let (sender, receiver) = mpsc::unbounded();
    let sender: Sender = Box::new(sender.sink_map_err(MemoryStorageError::from));
    let sink = MemorySink::new(Arc::new(Mutex::new(sender)));
    (sink.clone(), MemoryStorage::new_with(sink, receiver.boxed()))
}
