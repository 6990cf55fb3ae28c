//! Tasks that are stored in a transaction of the application: both or neither.

use std::{convert::Infallible, error::Error as _, future::poll_fn, time::Duration};

use bytes::Bytes;
use futures_util::future::{Either, join_all, select};
use http::{Request, Response, StatusCode};
use tokio::sync::mpsc::unbounded_channel;
use tokio_postgres::{AsyncMessage, Client, NoTls, Transaction, error::SqlState, types::ToSql};
use tower::{Layer as _, ServiceExt as _, service_fn, util::BoxCloneService};
use tower_respond_async::{
    BoxError, RequestBody, RequestId, RespondAsyncLayer, ResponseBody, Submission, SubmitError, Submitted,
    TaskStore as _, Tasks,
    store::StoreErrorKind,
    task::{IdempotencyKey, Labels, Scope, TaskName, TaskRecord, TaskState, Tenant},
    testing::conformance,
};
use tower_respond_async_postgres::{Param, PostgresStore};

use crate::harness::{PostgresHarness, connect};

/// An application on a store, with a table of its own in the same database.
struct App {
    harness: PostgresHarness,
    store: PostgresStore,
    tasks: Tasks,
    service: BoxCloneService<Request<RequestBody>, Response<ResponseBody>, BoxError>,
}

/// With the server's clock, since running tasks do not follow a clock that the test sets.
fn with_app(test: impl AsyncFnOnce(&App)) {
    let harness = PostgresHarness::by_the_wall_clock(Duration::from_millis(50));
    conformance::run(&PostgresHarness::new(), async |_| {
        let store = (*harness.fresh().await).clone();
        harness.run("CREATE TABLE @.orders (id int8)").await;
        let layer = RespondAsyncLayer::new(store.clone()).unwrap();
        let answer = |_: Request<RequestBody>| async {
            Ok::<_, Infallible>(Response::new(ResponseBody::from(Bytes::from_static(b"sent"))))
        };
        let app = App {
            tasks: layer.tasks(),
            service: BoxCloneService::new(layer.layer(service_fn(answer)).map_err(Into::into)),
            harness,
            store,
        };
        test(&app).await;
        let _ = app.tasks.shutdown(Duration::from_secs(10)).await;
    });
}

impl App {
    /// A connection of the application, with the name of the schema as application name.
    async fn client(&self) -> Client {
        connect(&self.harness.url()).await
    }

    async fn order(&self, transaction: &Transaction<'_>) {
        let order = format!("INSERT INTO {}.orders (id) VALUES (7)", self.harness.schema());
        transaction.batch_execute(&order).await.unwrap();
    }

    /// How many orders and how many tasks other sessions see.
    async fn stored(&self) -> (i64, u64) {
        let orders = format!("SELECT count(*) FROM {}.orders", self.harness.schema());
        let orders = self.harness.admin().await.query_one(&orders, &[]).await.unwrap().get(0);
        let counts = self.store.counts(&Scope::All).await.unwrap();
        (orders, TaskState::ALL.into_iter().map(|state| counts.of(state)).sum())
    }

    async fn ends(&self, id: RequestId) {
        let ended = self.tasks.wait(id, Duration::from_secs(60)).await.unwrap();
        assert_eq!(ended.expect("it is there").state, TaskState::Succeeded);
    }

    /// Waits until a statement of this schema waits for a lock; `asked` must not end before that.
    async fn waits<T>(&self, asked: impl Future<Output = T> + Unpin) -> impl Future<Output = T> {
        let waits = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = $1";
        let (admin, name) = (self.harness.admin().await, self.harness.schema());
        let looks = async {
            while admin.query(waits, &[&name]).await.unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        match select(asked, std::pin::pin!(looks)).await {
            Either::Left(_) => panic!("it does not wait"),
            Either::Right(((), asked)) => asked,
        }
    }

    /// Sends an asynchronous request over HTTP with a key.
    async fn request(&self, key: &str) -> (StatusCode, Option<RequestId>) {
        let request = Request::post("/orders/7/mail")
            .header("prefer", "respond-async")
            .header("idempotency-key", format!("\"{key}\""))
            .body(RequestBody::from(Bytes::from_static(b"thanks")))
            .unwrap();
        let answer = self.service.clone().oneshot(request).await.unwrap();
        let id = answer.headers().get("x-fc-request-id").unwrap().to_str().unwrap();
        (answer.status(), id.parse().ok())
    }
}

fn mail() -> Submission {
    let request = Request::post("/orders/7/mail").body(Bytes::from_static(b"thanks"));
    Submission::new(request.unwrap())
}

fn another_mail() -> Submission {
    Submission::new(
        Request::post("/orders/7/mail")
            .body(Bytes::from_static(b"sorry"))
            .unwrap(),
    )
}

fn keyed(mut submission: Submission, key: &str) -> Submission {
    submission.key = Some(IdempotencyKey::new(key).unwrap());
    submission
}

fn named(mut submission: Submission, name: &str) -> Submission {
    submission.name = Some(TaskName::new(name).unwrap());
    submission
}

fn new(submitted: Result<Submitted, SubmitError>) -> RequestId {
    match submitted.unwrap() {
        Submitted::New(task) => task.id,
        known @ Submitted::Known { .. } => panic!("{known:?}"),
    }
}

/// The id of a known task, whether the answer includes the task, and whether its request is the same.
fn known(submitted: Result<Submitted, SubmitError>) -> (RequestId, bool, bool) {
    match submitted.unwrap() {
        Submitted::Known { task, id, same_request } => (id, task.is_some(), same_request),
        new @ Submitted::New(_) => panic!("{new:?}"),
    }
}

#[test]
fn an_order_and_its_mail_are_stored_together() {
    with_app(async |app| {
        let mut client = app.client().await;
        let mut transaction = client.transaction().await.unwrap();
        app.order(&transaction).await;
        let id = new(app
            .tasks
            .submit_in(&mut app.store.within(&mut transaction), mail())
            .await);
        assert_eq!(app.stored().await, (0, 0));
        assert!(app.tasks.find(id).await.unwrap().is_none());
        transaction.commit().await.unwrap();
        assert_eq!(app.stored().await, (1, 1));
        app.ends(id).await;
        let response = app.tasks.response(id).await.unwrap().unwrap();
        assert_eq!(&response.body[..], b"sent");
    });
}

#[test]
fn neither_is_stored_by_a_transaction_that_is_rolled_back_or_cut_off() {
    with_app(async |app| {
        for cut_off in [false, true] {
            let mut client = app.client().await;
            let mut transaction = client.transaction().await.unwrap();
            app.order(&transaction).await;
            let submission = named(keyed(mail(), "k"), "n");
            new(app
                .tasks
                .submit_in(&mut app.store.within(&mut transaction), submission)
                .await);
            if cut_off {
                let me: i32 = transaction
                    .query_one("SELECT pg_backend_pid()", &[])
                    .await
                    .unwrap()
                    .get(0);
                let ends = "SELECT pg_terminate_backend($1, 10000)";
                app.harness.admin().await.query(ends, &[&me]).await.unwrap();
                assert!(transaction.commit().await.is_err());
            } else {
                transaction.rollback().await.unwrap();
            }
            assert_eq!(app.stored().await, (0, 0));
        }
        // After the rollback, its name and key are free.
        let id = new(app.tasks.submit(named(keyed(mail(), "k"), "n")).await);
        app.ends(id).await;
    });
}

#[test]
fn a_task_of_a_transaction_is_as_any_other() {
    with_app(async |app| {
        let mut submission = named(keyed(mail(), "k"), "a-name");
        submission.tenant = Some(Tenant::new("an\0na"));
        submission.labels = Labels::new([("film", "a"), ("kind", "b")]).unwrap();
        submission.delay = Duration::from_secs(3600);
        let mut client = app.client().await;
        let mut transaction = client.transaction().await.unwrap();
        let id = new(app
            .tasks
            .submit_in(&mut app.store.within(&mut transaction), submission.clone())
            .await);
        transaction.commit().await.unwrap();
        submission.name = Some(TaskName::new("another-name").unwrap());
        submission.key = Some(IdempotencyKey::new("another").unwrap());
        let other = new(app.tasks.submit(submission).await);
        let [task, other] = [id, other].map(|id| app.tasks.find(id));
        let (task, other) = (task.await.unwrap().unwrap(), other.await.unwrap().unwrap());
        let said = |task: &TaskRecord| {
            let times = (
                task.run_at.since(task.created_at),
                task.expires_at.since(task.created_at),
            );
            let limits = (task.max_attempts, task.crash_allowance, task.max_age);
            let owner = (task.tenant.clone(), task.caller.clone(), task.labels.clone());
            (
                times,
                limits,
                owner,
                task.state,
                task.pool.clone(),
                task.function().to_owned(),
            )
        };
        assert_eq!(said(&task), said(&other));
        assert_eq!(said(&task).0.0, Duration::from_secs(3600));
        let [task, other] = [task.id, other.id].map(|id| app.tasks.request(id));
        assert_eq!(task.await.unwrap(), other.await.unwrap());
    });
}

#[test]
fn a_second_one_waits_for_the_transaction_that_has_its_key_or_name() {
    with_app(async |app| {
        for kind in ["key", "name"] {
            for commits in [true, false] {
                for by_itself in [true, false] {
                    let words = format!("{kind}-{commits}-{by_itself}");
                    let submission = || match kind {
                        "key" => keyed(mail(), &words),
                        _ => named(mail(), &words),
                    };
                    let (mut client, mut another) = (app.client().await, app.client().await);
                    let mut transaction = client.transaction().await.unwrap();
                    let first = new(app
                        .tasks
                        .submit_in(&mut app.store.within(&mut transaction), submission())
                        .await);
                    let mut second = another.transaction().await.unwrap();
                    let mut within = app.store.within(&mut second);
                    let asked = async {
                        match by_itself {
                            true => app.tasks.submit(submission()).await,
                            false => app.tasks.submit_in(&mut within, submission()).await,
                        }
                    };
                    let asked = app.waits(Box::pin(asked)).await;
                    match commits {
                        true => {
                            transaction.commit().await.unwrap();
                            assert_eq!(known(asked.await), (first, true, true), "{words}");
                            second.commit().await.unwrap();
                        }
                        false => {
                            transaction.rollback().await.unwrap();
                            let next = new(asked.await);
                            second.commit().await.unwrap();
                            app.ends(next).await;
                        }
                    }
                }
            }
        }
    });
}

#[test]
fn a_request_over_http_waits_for_a_transaction_with_its_key_and_delays_no_other() {
    with_app(async |app| {
        let mut client = app.client().await;
        let mut transaction = client.transaction().await.unwrap();
        let within = &mut app.store.within(&mut transaction);
        let [first, another] = ["first", "another"];
        let id = new(app.tasks.submit_in(within, keyed(mail(), first)).await);
        let _ = new(app.tasks.submit_in(within, keyed(another_mail(), another)).await);
        let asked = app.waits(Box::pin(app.request(first))).await;
        let differs = app.request(another);
        // Inserts with other keys, or without one, do not wait.
        let others = (0..20).map(|number| app.tasks.submit(keyed(mail(), &format!("other-{number}"))));
        let none = (0..20).map(|_| app.tasks.submit(mail()));
        for submitted in join_all(others).await.into_iter().chain(join_all(none).await) {
            new(submitted);
        }
        let commits = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            transaction.commit().await.unwrap();
        };
        let (asked, differs, ()) = tokio::join!(asked, differs, commits);
        assert_eq!(asked, (StatusCode::ACCEPTED, Some(id)));
        assert_eq!(differs.0, StatusCode::UNPROCESSABLE_ENTITY);
        app.ends(id).await;
    });
}

#[test]
fn a_wait_for_a_key_ends_with_an_error() {
    with_app(async |app| {
        let mut client = app.client().await;
        let mut transaction = client.transaction().await.unwrap();
        let id = new(app
            .tasks
            .submit_in(&mut app.store.within(&mut transaction), keyed(mail(), "k"))
            .await);
        let Err(SubmitError::Store(error)) = app.tasks.submit(keyed(mail(), "k")).await else {
            panic!("the transaction is open");
        };
        assert_eq!(error.kind(), StoreErrorKind::Unavailable);
        assert!(error.to_string().contains("a transaction that is open"), "{error}");
        transaction.commit().await.unwrap();
        assert_eq!(known(app.tasks.submit(keyed(mail(), "k")).await), (id, true, true));
    });
}

#[test]
fn what_a_transaction_has_stored_itself_is_known_to_it() {
    with_app(async |app| {
        let mut client = app.client().await;
        let mut transaction = client.transaction().await.unwrap();
        let within = &mut app.store.within(&mut transaction);
        let by_key = new(app.tasks.submit_in(within, keyed(mail(), "k")).await);
        let by_name = new(app.tasks.submit_in(within, named(mail(), "n")).await);
        // The answers cannot include the tasks before the commit.
        let again = app.tasks.submit_in(within, keyed(mail(), "k")).await;
        assert_eq!(known(again), (by_key, false, true));
        let other = app.tasks.submit_in(within, keyed(another_mail(), "k")).await;
        assert_eq!(known(other), (by_key, false, false));
        let again = app.tasks.submit_in(within, named(mail(), "n")).await;
        assert_eq!(known(again), (by_name, false, true));
        let other = app.tasks.submit_in(within, named(another_mail(), "n")).await;
        assert_eq!(known(other), (by_name, false, false));
        let both = app.tasks.submit_in(within, named(keyed(mail(), "k"), "n")).await;
        assert!(matches!(both, Err(SubmitError::Conflict)), "{both:?}");
        // A key that comes with a known name stays free.
        let again = app.tasks.submit_in(within, named(keyed(mail(), "free"), "n")).await;
        assert_eq!(known(again), (by_name, false, true));
        new(app.tasks.submit_in(within, keyed(mail(), "free")).await);
        transaction.commit().await.unwrap();
        assert_eq!(app.stored().await.1, 3);
    });
}

/// A snapshot from before the commit cannot show which task has the key.
#[test]
fn a_transaction_that_sees_the_past_fails_as_with_any_conflict() {
    with_app(async |app| {
        let mut client = app.client().await;
        let begin = client
            .build_transaction()
            .isolation_level(tokio_postgres::IsolationLevel::RepeatableRead);
        let mut transaction = begin.start().await.unwrap();
        transaction.batch_execute("SELECT FROM pg_class").await.unwrap();
        new(app.tasks.submit(keyed(mail(), "k")).await);
        let failed = app
            .tasks
            .submit_in(&mut app.store.within(&mut transaction), keyed(mail(), "k"))
            .await;
        let Err(SubmitError::Store(error)) = failed else {
            panic!("{failed:?}");
        };
        let said = error
            .source()
            .and_then(|said| said.downcast_ref::<tokio_postgres::Error>());
        assert_eq!(
            said.and_then(|said| said.code()),
            Some(&SqlState::T_R_SERIALIZATION_FAILURE),
            "{error:?}"
        );
        transaction.rollback().await.unwrap();
    });
}

/// For drivers without an implementation of `Connection`.
#[test]
fn a_prepared_insert_stores_a_task_with_any_driver() {
    with_app(async |app| {
        let mut client = app.client().await;
        let transaction = client.transaction().await.unwrap();
        let submit = async |submission| {
            let insert = app.store.prepare(&app.tasks, submission).unwrap();
            let values: Vec<&(dyn ToSql + Sync)> = insert
                .params()
                .iter()
                .map(|param| match param {
                    Param::Bigint(value) => value as &(dyn ToSql + Sync),
                    Param::Text(value) => value,
                    Param::Bytea(value) => value,
                    other => panic!("{other:?} is new"),
                })
                .collect();
            let answer: Vec<u8> = transaction.query_one(insert.sql(), &values).await.unwrap().get(0);
            assert!(matches!(insert.answered(&answer[..0]), Err(SubmitError::Store(_))));
            insert.answered(&answer)
        };
        let id = new(submit(keyed(mail(), "k")).await);
        assert_eq!(known(submit(keyed(mail(), "k")).await), (id, false, true));
        transaction.commit().await.unwrap();
        app.ends(id).await;
    });
}

#[test]
fn a_commit_notifies_listeners_unless_quiet() {
    with_app(async |app| {
        // FNV-1a, as in the store.
        let channel = app
            .harness
            .schema()
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        let channel = format!("ra_{channel:016x}");
        let (listens, mut connection) = tokio_postgres::connect(&app.harness.url(), NoTls).await.unwrap();
        let (heard, mut told) = unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
                if let AsyncMessage::Notification(message) = message {
                    let _ = heard.send(message.payload().to_owned());
                }
            }
        });
        listens.batch_execute(&format!("LISTEN {channel}")).await.unwrap();
        let mut client = app.client().await;
        for is_quiet in [true, false] {
            let mut transaction = client.transaction().await.unwrap();
            let within = app.store.within(&mut transaction);
            let mut within = if is_quiet { within.quiet() } else { within };
            let id = new(app.tasks.submit_in(&mut within, mail()).await);
            transaction.commit().await.unwrap();
            client
                .batch_execute(&format!("NOTIFY {channel}, 'done'"))
                .await
                .unwrap();
            // Notifications of other handles are not counted.
            let told = async {
                let mut ours = 0;
                loop {
                    match told.recv().await.unwrap() {
                        done if done == "done" => break ours,
                        by_the_commit if by_the_commit.starts_with("0;w") => ours += 1,
                        _ => {}
                    }
                }
            };
            assert_eq!(told.await, i32::from(!is_quiet));
            app.ends(id).await;
        }
    });
}
