//! What waits while a statement is under way goes into the next one.

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

use crate::connection::{Pool, said_by_server};

/// How many items are written together, and how many bytes.
const ITEMS: usize = 256;
const BYTES: usize = 1024 * 1024;

/// How long those are waited for who were answered before, if they are not all here: less than a statement takes.
const PATIENCE: Duration = Duration::from_micros(200);

/// How a group is written, in one step or each item by itself.
pub(crate) trait Writes: Send + Sync + 'static {
    type Item: Send + Sync + 'static;
    type Answer: Send + 'static;

    /// About how large an item is.
    fn weight(item: &Self::Item) -> usize;

    /// Writes these, and answers for each in order.
    fn write(
        &self,
        pool: &Arc<Pool>,
        items: &[Self::Item],
    ) -> impl Future<Output = StoreResult<Vec<Self::Answer>>> + Send;
}

/// A queue in front of one connection, on which one statement is under way at a time.
pub(crate) struct Group<W: Writes> {
    queue: mpsc::UnboundedSender<Call<W>>,
}

/// Who writes, and on which connections.
pub(crate) struct Writer<W> {
    pub(crate) pool: Arc<Pool>,
    pub(crate) writes: W,
}

struct Call<W: Writes> {
    items: Vec<W::Item>,
    answer: oneshot::Sender<StoreResult<Vec<W::Answer>>>,
}

impl<W: Writes> Group<W> {
    /// The group ends when it is dropped and what was asked is answered. What a lock holds up is written apart, by `late` if
    /// there is any, so that the others need not wait for it.
    pub(crate) fn start(runtime: &Handle, writer: Writer<W>, late: Option<Writer<W>>) -> Self {
        let (queue, calls) = mpsc::unbounded_channel();
        runtime.spawn(run(calls, writer, late.map(Arc::new)));
        Self { queue }
    }

    /// Writes these with what else waits, from any runtime. They are queued as this is called; dropped, it goes on.
    pub(crate) fn write(
        &self,
        items: Vec<W::Item>,
    ) -> impl Future<Output = StoreResult<Vec<W::Answer>>> + Send + use<W> {
        let (answer, answered) = oneshot::channel();
        if items.is_empty() {
            // Nobody waits for the answer yet.
            let _ = answer.send(Ok(Vec::new()));
        } else {
            // Not taken, it is dropped, and the answer says that the store is closed.
            let _ = self.queue.send(Call { items, answer });
        }
        async move { answered.await.map_err(|_| StoreError::closed())? }
    }
}

async fn run<W: Writes>(mut calls: mpsc::UnboundedReceiver<Call<W>>, writer: Writer<W>, late: Option<Arc<Writer<W>>>) {
    let (mut waiting, mut expected) = (Vec::new(), 0);
    while calls.recv_many(&mut waiting, ITEMS).await > 0 {
        let_them_come(&mut calls, &mut waiting, expected).await;
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

/// Those who were answered mostly come back with more, and are on their way when the first of them is here: without waiting for
/// them, every other statement would have one item, at the cost of many.
async fn let_them_come<W: Writes>(
    calls: &mut mpsc::UnboundedReceiver<Call<W>>,
    waiting: &mut Vec<Call<W>>,
    expected: usize,
) {
    let began = Instant::now();
    while waiting.len() < expected.min(ITEMS) && began.elapsed() < PATIENCE {
        // What comes from other threads comes while this one gives its core away, and what is on this one then.
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
                // Nobody may be waiting any more.
                let _ = owner.send(Ok(std::mem::replace(&mut answers, rest)));
            }
        }
        // One of them is to blame, and should not fail the others.
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
                    // Nobody may be waiting any more.
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

/// Whether the server could not take something of what it was given.
fn is_of_data(error: &StoreError) -> bool {
    let code = said_by_server(error).and_then(tokio_postgres::Error::code);
    code.is_some_and(|code| ["22", "23", "54"].iter().any(|class| code.code().starts_with(class)))
}

/// Whether it gave up waiting for a lock.
fn is_held_up(error: &StoreError) -> bool {
    let code = said_by_server(error).and_then(tokio_postgres::Error::code);
    code == Some(&SqlState::LOCK_NOT_AVAILABLE)
}

/// The same error once more, for another caller.
fn again(error: &StoreError) -> StoreError {
    let again = StoreError::new(error.kind(), error.to_string());
    match error.source() {
        Some(source) => again.because(source.to_string()),
        None => again,
    }
}

/// One call may bring more than a statement should have.
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
