//! The store of `examples/custom_store` keeps every promise, and an application runs on it.

use std::{
    fs,
    sync::{Arc, Mutex},
    time::Duration,
};

use redb::{Database, ReadableTable};
use tempfile::{TempDir, tempdir};
use tower_respond_async::{
    RequestId, TaskStore,
    error::BoxFuture,
    store::{Row, kit::Kind},
    task::TaskRecord,
    testing::{
        ManualClock,
        conformance::{self, Harness},
        model,
    },
    time::{SystemClock, Timestamp},
};

use self::example::store::{KvStore, VALUES};
use crate::examples::{async_post, get, result_of, send};

#[path = "../../examples/custom_store/main.rs"]
#[expect(dead_code, reason = "its main is for people")]
mod example;

tower_respond_async::conformance!(promises, KvHarness::default());

#[test]
fn the_custom_store_agrees_with_the_model() {
    conformance::run(&KvHarness::default(), async |harness| {
        model::agrees_with_the_model(harness, 0..20).await;
        model::agrees_with_the_model_across_reopening(harness, 100..110).await;
    });
}

#[tokio::test]
async fn an_application_runs_on_it() {
    let folder = tempdir().unwrap();
    let store = KvStore::open(&folder.path().join("tasks.kv"), SystemClock::new()).unwrap();
    let app = example::app(store).unwrap();
    let accepted = send(&app, async_post("/shout", "hello")).await;
    assert_eq!(result_of(&app, &accepted).await.body(), "HELLO");
    assert!(send(&app, get("/tasks")).await.body().starts_with(br#"{"tasks":[{"#));
}

/// It is one file, short enough to read at one sitting.
#[test]
fn the_custom_store_is_short() {
    let lines = include_str!("../../examples/custom_store/store.rs").lines().count();
    assert!(lines <= 300, "{lines} lines");
}

#[derive(Debug)]
struct KvHarness {
    clock: ManualClock,
    folder: TempDir,
    opened: Mutex<Option<Arc<KvStore>>>,
}

impl Default for KvHarness {
    fn default() -> Self {
        Self {
            clock: ManualClock::new(Timestamp::from_millis(1_700_000_000_000)),
            folder: tempdir().unwrap(),
            opened: Mutex::default(),
        }
    }
}

impl KvHarness {
    fn open_file(&self) -> Arc<dyn TaskStore> {
        let store = KvStore::open(&self.folder.path().join("tasks.kv"), self.clock.clone());
        let store = Arc::new(store.expect("nobody else has it open"));
        *self.opened.lock().unwrap() = Some(store.clone());
        store
    }

    async fn close(&self) {
        let opened = self.opened.lock().unwrap().take();
        if let Some(store) = opened {
            store.close().await;
        }
    }
}

impl Harness for KvHarness {
    fn open(&self) -> BoxFuture<'_, Arc<dyn TaskStore>> {
        Box::pin(async {
            self.close().await;
            let _ = fs::remove_file(self.folder.path().join("tasks.kv"));
            self.open_file()
        })
    }

    fn pass(&self, time: Duration) -> BoxFuture<'_, ()> {
        self.clock.advance(time);
        Box::pin(async {})
    }

    fn set_back(&self, by: Duration) -> BoxFuture<'_, bool> {
        self.clock.turn_back(by);
        Box::pin(async { true })
    }

    fn unit(&self) -> Duration {
        Duration::from_secs(1)
    }

    /// Few, because each operation reads every task and syncs the file.
    fn rounds(&self) -> usize {
        20
    }

    fn reopen(&self) -> BoxFuture<'_, Option<Arc<dyn TaskStore>>> {
        Box::pin(async {
            self.close().await;
            Some(self.open_file())
        })
    }

    fn second(&self) -> BoxFuture<'_, Option<Arc<dyn TaskStore>>> {
        let second = KvStore::open(&self.folder.path().join("tasks.kv"), self.clock.clone());
        Box::pin(async { second.ok().map(|store| Arc::new(store) as Arc<dyn TaskStore>) })
    }

    fn corrupt(&self, id: RequestId) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            self.close().await;
            let database = Database::open(self.folder.path().join("tasks.kv")).unwrap();
            let transaction = database.begin_write().unwrap();
            let mut values = transaction.open_table(VALUES).unwrap();
            let key = (Kind::Request as u8, &id.as_bytes()[..]);
            values.insert(key, &b"garbage"[..]).unwrap();
            drop(values);
            transaction.commit().unwrap();
            true
        })
    }

    fn make_newer(&self, id: RequestId) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            self.close().await;
            let database = Database::open(self.folder.path().join("tasks.kv")).unwrap();
            let transaction = database.begin_write().unwrap();
            let mut values = transaction.open_table(VALUES).unwrap();
            let key = (Kind::Row as u8, &id.as_bytes()[..]);
            let mut row = values.get(key).unwrap().unwrap().value()[4..].to_vec();
            let record = Row::decode(id, &row).unwrap().1.len();
            let at = row.len() - record;
            row[at] = TaskRecord::FORMAT + 1;
            let value = [&crc32fast::hash(&row).to_be_bytes(), &row[..]].concat();
            values.insert(key, &*value).unwrap();
            drop(values);
            transaction.commit().unwrap();
            true
        })
    }
}
