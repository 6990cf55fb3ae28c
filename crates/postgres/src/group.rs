//! Combines the items that arrive during a statement into the next one.

use std::{
    error::Error,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
};
use tokio_postgres::error::SqlState;
use tower_respond_async::store::{StoreError, StoreResult};

use crate::connection::{Pool, postgres_error};

/// The most items, and the most bytes, of one statement.
const ITEMS: usize = 256;
const BYTES: usize = 1024 * 1024;

/// How long a group waits for more items from the callers of its last statement. Shorter than a statement takes.
const PATIENCE: Duration = Duration::from_micros(200);

/// Writes a group of items.
pub(crate) trait Writes: Send + Sync + 'static {
    type Item: Send + Sync + 'static;
    type Answer: Send + 'static;

    /// The approximate size of an item, in bytes.
    fn weight(item: &Self::Item) -> usize;

    /// Writes the items, and answers each in order.
    fn write(
        &self,
        pool: &Arc<Pool>,
        items: &[Self::Item],
    ) -> impl Future<Output = StoreResult<Vec<Self::Answer>>> + Send;
}

/// A queue in front of a connection that runs one statement at a time.
pub(crate) struct Group<W: Writes> {
    queue: mpsc::UnboundedSender<Call<W>>,
}

/// Writes items, on the connections of a pool.
pub(crate) struct Writer<W> {
    pub(crate) pool: Arc<Pool>,
    pub(crate) writes: W,
}

struct Call<W: Writes> {
    items: Vec<W::Item>,
    answer: oneshot::Sender<StoreResult<Vec<W::Answer>>>,
}

impl<W: Writes> Group<W> {
    /// Starts a task that writes the items. It ends after the group is dropped and all calls are answered. A call that
    /// waited too long for a lock is repeated with `late`, if given, so that other calls do not wait for it.
    pub(crate) fn start(runtime: &Handle, writer: Writer<W>, late: Option<Writer<W>>) -> Self {
        let (queue, calls) = mpsc::unbounded_channel();
        runtime.spawn(run(calls, writer, late.map(Arc::new)));
        Self { queue }
    }

    /// Writes these items together with others. The call itself queues them: if the future is dropped, they are written
    /// all the same. Works on any runtime.
    pub(crate) fn write(
        &self,
        items: Vec<W::Item>,
    ) -> impl Future<Output = StoreResult<Vec<W::Answer>>> + Send + use<W> {
        let (answer, answered) = oneshot::channel();
        if items.is_empty() {
            // The receiver still exists, so this cannot fail.
            let _ = answer.send(Ok(Vec::new()));
        } else {
            // If the queue is closed, this drops the call, and the future below returns that the store is closed.
            let _ = self.queue.send(Call { items, answer });
        }
        async move { answered.await.map_err(|_| StoreError::closed())? }
    }
}

async fn run<W: Writes>(mut calls: mpsc::UnboundedReceiver<Call<W>>, writer: Writer<W>, late: Option<Arc<Writer<W>>>) {
    let (mut waiting, mut expected) = (Vec::new(), 0);
    while calls.recv_many(&mut waiting, ITEMS).await > 0 {
        wait_for_callers(&mut calls, &mut waiting, expected).await;
        expected = waiting.len();
        let mut together = waiting.drain(..).peekable();
        while together.peek().is_some() {
            let (mut items, mut owners, mut weight) = (Vec::new(), Vec::new(), 0);
            while let Some(next) = together.peek() {
                let more: usize = next.items.iter().map(W::weight).sum();
                if !owners.is_empty() && (items.len() + next.items.len() > ITEMS || weight + more > BYTES) {
                    break;
                }
                let Some(call) = together.next() else { break };
                weight += more;
                owners.push((call.items.len(), call.answer));
                items.extend(call.items);
            }
            answer(&writer, late.as_ref(), items, owners).await;
        }
    }
}

/// Waits briefly for the callers of the last statement, since most of them send more items. Without this, every second
/// statement would have only one item, and would cost as much as a statement with many.
async fn wait_for_callers<W: Writes>(
    calls: &mut mpsc::UnboundedReceiver<Call<W>>,
    waiting: &mut Vec<Call<W>>,
    expected: usize,
) {
    let began = Instant::now();
    while waiting.len() < expected.min(ITEMS) && began.elapsed() < PATIENCE {
        // Lets other threads, and then other tasks of this thread, run and send their calls.
        std::thread::yield_now();
        tokio::task::yield_now().await;
        while waiting.len() < ITEMS
            && let Ok(call) = calls.try_recv()
        {
            waiting.push(call);
        }
    }
}

type Owner<A> = (usize, oneshot::Sender<StoreResult<Vec<A>>>);

async fn answer<W: Writes>(
    writer: &Writer<W>,
    late: Option<&Arc<Writer<W>>>,
    items: Vec<W::Item>,
    owners: Vec<Owner<W::Answer>>,
) {
    let late = |error: &StoreError| late.filter(|_| is_held_up(error));
    match write_in_parts(writer, &items).await {
        Ok(mut answers) => {
            for (count, owner) in owners {
                let rest = answers.split_off(count);
                // An error means that the caller no longer waits.
                let _ = owner.send(Ok(std::mem::replace(&mut answers, rest)));
            }
        }
        // One call may have caused the error: write each call by itself, so that the others succeed.
        Err(error) if is_of_data(&error) || late(&error).is_some() => {
            let mut alone = (owners.len() == 1).then_some(error);
            let mut rest = items;
            for (count, owner) in owners {
                let behind = rest.split_off(count);
                let these = std::mem::replace(&mut rest, behind);
                let answer = match alone.take() {
                    Some(error) => Err(error),
                    None => write_in_parts(writer, &these).await,
                };
                match answer.as_ref().err().and_then(late) {
                    Some(late) => {
                        let late = late.clone();
                        tokio::spawn(async move { owner.send(write_in_parts(&late, &these).await) });
                    }
                    // An error means that the caller no longer waits.
                    None => _ = owner.send(answer),
                }
            }
        }
        Err(error) => {
            for (_, owner) in owners {
                let _ = owner.send(Err(again(&error)));
            }
        }
    }
}

/// Whether the server refused the data of some item.
fn is_of_data(error: &StoreError) -> bool {
    let code = postgres_error(error).and_then(tokio_postgres::Error::code);
    code.is_some_and(|code| ["22", "23", "54"].iter().any(|class| code.code().starts_with(class)))
}

/// Whether the statement failed because it waited too long for a lock.
fn is_held_up(error: &StoreError) -> bool {
    let code = postgres_error(error).and_then(tokio_postgres::Error::code);
    code == Some(&SqlState::LOCK_NOT_AVAILABLE)
}

/// A copy of the error for another caller.
fn again(error: &StoreError) -> StoreError {
    let again = StoreError::new(error.kind(), error.to_string());
    match error.source() {
        Some(source) => again.because(source.to_string()),
        None => again,
    }
}

/// Writes a call in several statements if it has too many items for one.
async fn write_in_parts<W: Writes>(writer: &Writer<W>, items: &[W::Item]) -> StoreResult<Vec<W::Answer>> {
    let mut answers = Vec::with_capacity(items.len());
    let mut from = 0;
    while from < items.len() {
        let (mut to, mut weight) = (from, 0);
        while to < items.len() && to - from < ITEMS && (to == from || weight < BYTES) {
            weight += W::weight(&items[to]);
            to += 1;
        }
        answers.extend(writer.writes.write(&writer.pool, &items[from..to]).await?);
        from = to;
    }
    Ok(answers)
}
