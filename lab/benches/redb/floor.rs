//! The floors: code written by hand, with redb or with a file, that only keeps the bytes.
//!
//! One thread takes a request and everything that arrived while it was busy, makes one durable write, and answers all.
//! There is no search for ids, and no indexes, checksums or states. The store also lets the callers that it answered
//! send their next request before it writes again, which makes its commits larger. One form does that as well, and so
//! shows the remaining difference.

use std::{collections::VecDeque, fs::File, io::Write, thread, time::Instant};

use redb::{Database, TableDefinition, WriteTransaction};
use tokio::{
    runtime::Runtime,
    sync::{mpsc, oneshot},
};
use tower_respond_async::RequestId;
use tower_respond_async_redb::RedbStoreBuilder;

use crate::{
    at_once::{Figures, Work, at_once},
    file::{Fresh, id},
};

/// The form of the storage.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Form {
    /// One table each for records, requests and responses, with keys and values as long as the store's.
    SameTables,
    /// The same, and the thread yields once before each commit.
    SameTablesPatient,
    /// One value for everything of a task.
    OneTable,
    /// Appends to a file: the cost of the disk alone.
    File,
}

enum Asked {
    Accept(RequestId),
    Settle(RequestId),
}

type Waiting = (Asked, oneshot::Sender<()>);

pub(crate) fn turn(runtime: &Runtime, form: Form, work: Work, submitters: usize, each: usize) -> Figures {
    let file = Fresh::new();
    let (writer, asked) = mpsc::channel(1024);
    let path = file.0.clone();
    let thread = thread::spawn(move || match form {
        Form::File => append(File::create(path).expect("a new file can be made"), asked),
        tables => insert(Database::create(path).expect("a new file can be made"), asked, tables),
    });
    let figures = at_once(runtime, submitters, each, move || {
        let writer = writer.clone();
        async move {
            let id = id();
            ask(&writer, Asked::Accept(id)).await;
            if work == Work::Life {
                ask(&writer, Asked::Settle(id)).await;
            }
        }
    });
    thread.join().expect("the writer ends");
    figures
}

async fn ask(writer: &mpsc::Sender<Waiting>, what: Asked) {
    let (reply, done) = oneshot::channel();
    assert!(writer.send((what, reply)).await.is_ok(), "the writer lives");
    done.await.expect("it is done");
}

/// The next batch, of up to 256 as in the store. The thread yields once if there are fewer than `expected`.
fn next(asked: &mut mpsc::Receiver<Waiting>, mut expected: usize) -> Option<Vec<Waiting>> {
    let mut batch = vec![asked.blocking_recv()?];
    while batch.len() < 256 {
        if let Ok(next) = asked.try_recv() {
            batch.push(next);
        } else if batch.len() < expected {
            expected = 0;
            thread::yield_now();
        } else {
            break;
        }
    }
    Some(batch)
}

/// About the size of a row while it waits or runs, and after it has ended.
const RECORD: [usize; 2] = [150, 170];
/// A body of 1 KiB and its head.
const PAYLOAD: usize = 1050;

type Pairs = TableDefinition<'static, &'static [u8], &'static [u8]>;
const TASKS: Pairs = TableDefinition::new("tasks");
const REQUESTS: Pairs = TableDefinition::new("requests");
const RESPONSES: Pairs = TableDefinition::new("responses");

fn insert(database: Database, mut asked: mpsc::Receiver<Waiting>, form: Form) {
    let mut expected = 0;
    while let Some(batch) = next(&mut asked, expected) {
        if form == Form::SameTablesPatient {
            expected = batch.len();
        }
        let transaction = database.begin_write().expect("begin");
        write(&transaction, form, batch.iter().map(|(asked, _)| asked));
        transaction.commit().expect("commit");
        answer(batch);
    }
}

fn write<'a>(transaction: &WriteTransaction, form: Form, batch: impl Iterator<Item = &'a Asked>) {
    let body = [b'x'; PAYLOAD];
    let mut tasks = transaction.open_table(TASKS).expect("tasks");
    let mut bodies = (form != Form::OneTable).then(|| {
        let requests = transaction.open_table(REQUESTS).expect("requests");
        (requests, transaction.open_table(RESPONSES).expect("responses"))
    });
    for asked in batch {
        let (id, length, settles) = match asked {
            Asked::Accept(id) => (id, RECORD[0], false),
            Asked::Settle(id) => (id, RECORD[1], true),
        };
        let key = &id.as_bytes()[..];
        match &mut bodies {
            Some((requests, responses)) => {
                tasks.insert(key, &body[..length]).expect("insert");
                let table = if settles { responses } else { requests };
                table.insert(key, &body[..]).expect("insert");
            }
            None => {
                let whole = [&body[..], &body[..length]].concat();
                tasks.insert(key, &whole[..]).expect("insert");
            }
        }
    }
}

/// A file with the same tables that holds ended tasks already.
pub(crate) struct Kept {
    database: Database,
    ids: VecDeque<RequestId>,
    _file: Fresh,
}

impl Kept {
    pub(crate) fn new(count: usize) -> Self {
        let file = Fresh::new();
        let mut builder = Database::builder();
        builder.set_cache_size(RedbStoreBuilder::CACHE_BYTES);
        let mut kept = Self {
            database: builder.create(&file.0).expect("a new file can be made"),
            ids: VecDeque::new(),
            _file: file,
        };
        kept.live(count);
        kept
    }

    /// Accepts and settles `count` tasks. Answers with the time for one.
    pub(crate) fn live(&mut self, count: usize) -> f64 {
        let ids: Vec<_> = (0..count).map(|_| id()).collect();
        let start = Instant::now();
        for ids in ids.chunks(256) {
            for step in [Asked::Accept, Asked::Settle] {
                let batch: Vec<_> = ids.iter().copied().map(step).collect();
                self.commit(|transaction| write(transaction, Form::SameTables, batch.iter()));
            }
        }
        self.ids.extend(ids);
        per_task(start, count)
    }

    /// Removes the `count` oldest tasks. Answers with the time for one.
    pub(crate) fn prune(&mut self, count: usize) -> f64 {
        let oldest: Vec<_> = self.ids.drain(..count).collect();
        let start = Instant::now();
        for ids in oldest.chunks(256) {
            let run = &ids[0].as_bytes()[..]..=&ids[ids.len() - 1].as_bytes()[..];
            self.commit(|transaction| {
                for table in [TASKS, REQUESTS, RESPONSES] {
                    let mut table = transaction.open_table(table).expect("a table");
                    table.retain_in(run.clone(), |_, _| false).expect("remove");
                }
            });
        }
        per_task(start, count)
    }

    fn commit(&self, change: impl FnOnce(&WriteTransaction)) {
        let transaction = self.database.begin_write().expect("begin");
        change(&transaction);
        transaction.commit().expect("commit");
    }
}

/// The nanoseconds for one of `count` since `start`.
pub(crate) fn per_task(start: Instant, count: usize) -> f64 {
    start.elapsed().as_nanos() as f64 / count as f64
}

fn append(mut file: File, mut asked: mpsc::Receiver<Waiting>) {
    let entry = [b'x'; PAYLOAD + RECORD[0]];
    while let Some(batch) = next(&mut asked, 0) {
        file.write_all(&entry.repeat(batch.len())).expect("write");
        file.sync_data().expect("sync");
        answer(batch);
    }
}

fn answer(batch: Vec<Waiting>) {
    for (_, reply) in batch {
        let _ = reply.send(());
    }
}
