//! PgBouncer.

use std::{fs, path::Path, sync::OnceLock};

use tempfile::TempDir;

use crate::{
    place::{self, Place},
    postgres::Postgres,
};

/// A pooler in transaction mode, with Debian's strict defaults: it refuses settings in the startup packet, and does not
/// support prepared statements.
#[derive(Debug)]
pub struct PgBouncer {
    place: Place,
    // Dropped last. `None` for the shared pooler, which stays for the next run.
    _folder: Option<TempDir>,
}

impl PgBouncer {
    /// The pooler before the [shared](Postgres::shared) server, one for all test processes. Starts it if it is not up.
    /// Never stopped by a test.
    pub fn shared() -> &'static Self {
        static POOLER: OnceLock<PgBouncer> = OnceLock::new();
        POOLER.get_or_init(|| {
            let server = Postgres::shared();
            let folder = server.folder().join("pgbouncer");
            let place = Place::shared(folder, Place::listens, |place| {
                launch(place, server, "default_pool_size = 40");
            });
            Self { place, _folder: None }
        })
    }

    /// A pooler for one test, with these lines in its configuration. It ends some seconds after it is dropped.
    pub fn start(server: &Postgres, settings: &str) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("respond-async-pgbouncer-")
            .tempdir()
            .unwrap();
        let place = Place::own(folder.path().to_owned());
        launch(&place, server, settings);
        let folder = Some(folder);
        Self { place, _folder: folder }
    }

    /// The port on which it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.place.port()
    }

    /// A URL of the server's database through the pooler.
    pub fn url(&self) -> String {
        format!("postgres://postgres:not-shown@127.0.0.1:{}/postgres", self.port())
    }
}

fn launch(place: &Place, server: &Postgres, settings: &str) {
    let program = Path::new("/usr/sbin/pgbouncer");
    assert!(
        program.exists(),
        "PgBouncer is not installed: apt-get install pgbouncer"
    );
    let (port, folder) = (place.choose_port(), place.folder.display());
    let config = place.folder.join("pgbouncer.ini");
    let settings = format!(
        "[databases]\n* = host={} port={} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
        unix_socket_dir = {folder}\nauth_type = any\npool_mode = transaction\nmax_client_conn = 1000\n\
        {settings}\n",
        server.folder().display(),
        server.port(),
    );
    fs::write(&config, settings).unwrap();
    place::lend(&[&config]);
    place.run(program, &[config.to_str().unwrap()], 0);
    place::until("PgBouncer starts", &place.log(), || place.listens());
}
