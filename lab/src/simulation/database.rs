//! A `PostgresStore` on a real server. The simulation moves the server's clock.

use std::{fmt, sync::Arc};

use servers::{CLOCK_BY_HAND, Postgres, a_name};
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::{Client, NoTls};
use tower_respond_async::{
    store::{StoreResult, TaskStore},
    testing::ManualClock,
    time::Clock,
};
use tower_respond_async_postgres::PostgresStore;

use super::ground::{Ground, see_through};

/// A private schema on the shared server. It is dropped with this value.
pub(super) struct InPostgres {
    runtime: Runtime,
    admin: Client,
    schema: String,
    clock: Option<ManualClock>,
}

impl Default for InPostgres {
    fn default() -> Self {
        let server = Postgres::shared();
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a thread can be started");
        let connecting = async { tokio_postgres::connect(&server.url(), NoTls).await };
        let (admin, connection) = runtime.block_on(connecting).expect("the server has just been started");
        runtime.spawn(connection);
        Self {
            runtime,
            admin,
            schema: a_name(),
            clock: None,
        }
    }
}

impl InPostgres {
    fn connect(&self, clock: &ManualClock) -> StoreResult<Arc<dyn TaskStore>> {
        let builder = PostgresStore::builder().schema(self.schema.clone());
        let builder = builder.clock(clock.clone()).unsafe_durability();
        let connecting = async { builder.connect(&Postgres::shared().url()).await };
        Ok(Arc::new(see_through(None, Box::pin(connecting))?))
    }

    /// Runs statements, with the name of the schema in place of `@`.
    fn run(&self, statements: &str) {
        let statements = statements.replace('@', &self.schema);
        let ran = self.runtime.block_on(self.admin.batch_execute(&statements));
        ran.expect("the server is there");
    }
}

impl fmt::Debug for InPostgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InPostgres")
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

impl Drop for InPostgres {
    fn drop(&mut self) {
        // Keep the schema of a failed life for inspection.
        if !std::thread::panicking() {
            self.run("DROP SCHEMA @ CASCADE");
        }
    }
}

impl Ground for InPostgres {
    fn open(&mut self, clock: &ManualClock) -> StoreResult<Arc<dyn TaskStore>> {
        let store = self.connect(clock)?;
        self.run(CLOCK_BY_HAND);
        self.clock = Some(clock.clone());
        self.tick();
        Ok(store)
    }

    fn handle(&self) -> Option<Arc<dyn TaskStore>> {
        let handle = self.connect(self.clock.as_ref()?);
        Some(handle.expect("the server is there"))
    }

    /// Its news arrive in real time, not in simulated time.
    fn tells_news(&self) -> bool {
        false
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn tick(&self) {
        if let Some(clock) = &self.clock {
            self.run(&format!("UPDATE @.hand SET ms = {}", clock.now().as_millis()));
        }
    }
}
