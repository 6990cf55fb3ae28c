//! An order and its confirmation mail: the transaction that stores the order also stores the task. Both are stored, or
//! neither.
//!
//! ```text
//! DATABASE_URL=postgres://me@localhost/app cargo run -p tower-respond-async-postgres-sqlx --example orders
//!
//! curl -i http://127.0.0.1:3000/orders -d anna      # 201: the mail is sent a moment later
//! curl -i http://127.0.0.1:3000/orders -d nobody    # 402: no order is stored, and no mail is sent
//! curl -s http://127.0.0.1:3000/tasks               # the tasks that send mails, and their states
//! ```
//!
//! The task API has no access control, so keep the example on loopback. `LISTEN=127.0.0.1:0` chooses a free port.

use std::env;

use axum::{
    Router,
    extract::{Path, State},
    http::{Request, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use bytes::Bytes;
use sqlx::PgPool;
use tokio::net::TcpListener;
use tower::{Layer, make::Shared};
use tower_respond_async::{BoxError, RespondAsync, RespondAsyncLayer, Submission, TaskApi, WeakTasks, allow_everyone};
use tower_respond_async_postgres::PostgresStore;
use tower_respond_async_postgres_sqlx::Sqlx;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let url =
        env::var("DATABASE_URL").map_err(|_| "DATABASE_URL says where the database is: postgres://me@localhost/app")?;
    let app = app(&url).await?;
    let listen = env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:3000".into());
    let listener = TcpListener::bind(listen).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, Shared::new(app)).await?;
    Ok(())
}

#[derive(Clone)]
struct Shop {
    pool: PgPool,
    store: PostgresStore,
    /// Weak, since the engine owns the application that this is part of.
    tasks: WeakTasks,
}

pub(crate) async fn app(url: &str) -> Result<RespondAsync<Router>, BoxError> {
    let pool = PgPool::connect(url).await?;
    let create = "CREATE TABLE IF NOT EXISTS orders (id bigserial PRIMARY KEY, customer text NOT NULL)";
    sqlx::query(create).execute(&pool).await?;
    let store = PostgresStore::connect(url).await?;
    let layer = RespondAsyncLayer::new(store.clone())?;
    let tasks = layer.tasks();
    let shop = Shop {
        pool,
        store,
        tasks: tasks.downgrade(),
    };
    let app = Router::new()
        .route("/orders", post(order))
        .route("/orders/{id}/mail", post(mail))
        .with_state(shop)
        .nest_service("/tasks", TaskApi::new(&tasks, allow_everyone()));
    Ok(layer.layer(app))
}

/// Stores an order of the customer in the body, and the task that sends its mail.
async fn order(State(shop): State<Shop>, customer: String) -> Result<(StatusCode, String), Failed> {
    let tasks = shop.tasks.upgrade().ok_or("the application has ended")?;
    let mut transaction = shop.pool.begin().await?;
    let insert = "INSERT INTO orders (customer) VALUES ($1) RETURNING id";
    let order = sqlx::query_scalar(insert).bind(&customer);
    let id: i64 = order.fetch_one(&mut *transaction).await?;
    let mail = Request::post(format!("/orders/{id}/mail")).body(Bytes::new())?;
    let mut within = Sqlx(&mut transaction);
    tasks
        .submit_in(&mut shop.store.within(&mut within), Submission::new(mail))
        .await?;
    if customer == "nobody" {
        // The transaction is dropped, and with it the order and the task.
        return Ok((StatusCode::PAYMENT_REQUIRED, "nobody does not pay\n".into()));
    }
    transaction.commit().await?;
    Ok((
        StatusCode::CREATED,
        format!("order {id} is stored, and its mail will be sent\n"),
    ))
}

/// Sends the mail. Runs again if the process ends before this handler does.
async fn mail(State(shop): State<Shop>, Path(id): Path<i64>) -> Result<String, Failed> {
    let select = sqlx::query_scalar("SELECT customer FROM orders WHERE id = $1");
    let customer: String = select.bind(id).fetch_one(&shop.pool).await?;
    println!("to {customer}: thank you for order {id}");
    Ok(format!("the mail for order {id} is sent to {customer}\n"))
}

/// An error, as a response.
struct Failed(BoxError);

impl<E: Into<BoxError>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, format!("{}\n", self.0)).into_response()
    }
}
