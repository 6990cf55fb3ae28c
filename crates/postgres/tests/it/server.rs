//! A private server from Debian's binaries: one for all test processes of a run, each test in a schema of its own.
//!
//! It runs in a folder of its own, on a Unix socket, and no longer than somebody uses it: every test process holds a shared lock
//! on a file there, and whoever watches the server ends it when that lock was free for some seconds.

use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    thread,
    time::Duration,
};

use tokio_postgres::NoTls;

/// The folder of the server that this process uses, and the lock that keeps it up.
#[derive(Debug)]
pub(crate) struct Server {
    folder: PathBuf,
    _users: File,
}

/// The server of this run, started if it is not up.
pub(crate) fn shared() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        let mut hasher = DefaultHasher::new();
        env!("CARGO_MANIFEST_DIR").hash(&mut hasher);
        let folder = std::env::temp_dir().join(format!("respond-async-pg-{:016x}", hasher.finish()));
        fs::create_dir_all(&folder).unwrap();
        Server::start(folder)
    })
}

impl Server {
    #[allow(clippy::incompatible_msrv)] // a lock is for tests alone
    fn start(folder: PathBuf) -> Self {
        let users = File::create(folder.join("users")).unwrap();
        users.lock_shared().unwrap();
        // One process at a time looks whether it is up.
        let starting = File::create(folder.join("starting")).unwrap();
        starting.lock().unwrap();
        let server = Self { folder, _users: users };
        if !server.answers() {
            server.launch();
        }
        server
    }

    /// A URL of the database, over its socket.
    pub(crate) fn url(&self) -> String {
        let host = self.folder.to_str().unwrap().replace('/', "%2F");
        format!("postgres://postgres:not-shown@{host}:{}/postgres", self.port())
    }

    /// A URL of the database over TCP, on which it can encrypt.
    pub(crate) fn url_over_tcp(&self) -> String {
        format!("postgres://postgres:not-shown@127.0.0.1:{}/postgres", self.port())
    }

    /// The certificate that it shows there.
    pub(crate) fn certificate(&self) -> Vec<u8> {
        fs::read(self.folder.join("certificate.der")).unwrap()
    }

    fn port(&self) -> u16 {
        let port = fs::read_to_string(self.folder.join("port")).ok();
        port.and_then(|port| port.parse().ok()).unwrap_or(1)
    }

    fn answers(&self) -> bool {
        let url = self.url();
        // A thread, since a test may be on a runtime already.
        let answer = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async { tokio_postgres::connect(&url, NoTls).await.is_ok() })
        });
        answer.join().unwrap()
    }

    fn launch(&self) {
        let (data, binaries) = (self.folder.join("data"), binaries());
        let _ = fs::remove_dir_all(&data);
        fs::create_dir(&data).unwrap();
        let owner = owner(&self.folder, &data);
        let mut initdb = as_owner(owner, &binaries.join("initdb"));
        let made = initdb
            .args([
                "--no-sync",
                "--auth=trust",
                "--username=postgres",
                "--encoding=UTF8",
                "--locale=C",
                "-D",
            ])
            .arg(&data)
            .stdout(Stdio::null())
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "initdb failed: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        fs::write(self.folder.join("port"), free.to_string()).unwrap();
        let shown = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        fs::write(self.folder.join("certificate.der"), shown.cert.der()).unwrap();
        fs::write(data.join("server.crt"), shown.cert.pem()).unwrap();
        let key = data.join("server.key");
        fs::write(&key, shown.signing_key.serialize_pem()).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        lend(owner, &[&key]);
        let settings = "listen_addresses = '127.0.0.1'\nssl = on\nfsync = off\nsynchronous_commit = on\nfull_page_writes = off\n\
            max_connections = 300\nshared_buffers = 64MB\nautovacuum_naptime = 5\ndeadlock_timeout = 200\n";
        let sockets = format!("port = {free}\nunix_socket_directories = '{}'\n", self.folder.display());
        let config = data.join("postgresql.auto.conf");
        fs::write(config, format!("{settings}{sockets}")).unwrap();
        let log = File::create(self.folder.join("log")).unwrap();
        // The watcher is a session of its own, so that it outlives the test process that started it.
        let mut watcher = as_owner(owner, Path::new("sh"));
        watcher
            .args(["-c", WATCH, "sh"])
            .arg(binaries.join("postgres"))
            .arg(&data)
            .arg(self.folder.join("users"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        // Whoever started it is gone before it ends.
        #[allow(clippy::zombie_processes)]
        let _ = watcher.spawn().unwrap();
        for _ in 0..200 {
            if self.answers() {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
        panic!("the server did not start: see {}", self.folder.join("log").display());
    }
}

const WATCH: &str = r#"
"$1" -D "$2" & server=$!
free=0
while kill -0 $server 2>/dev/null; do
    sleep 2
    if flock -n -x "$3" true; then free=$((free + 1)); else free=0; fi
    [ $free -ge 5 ] && kill -INT $server
done
"#;

/// Where Debian has them: the newest version.
fn binaries() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<_> = versions.map(|version| version.path().join("bin")).collect();
    found.retain(|folder| folder.join("initdb").exists());
    found.sort();
    found
        .pop()
        .expect("PostgreSQL is not installed: apt-get install postgresql")
}

/// Whether the server has a user of its own. It refuses to run as root, which then lends it to the one that Debian's package makes.
fn owner(folder: &Path, data: &Path) -> Option<()> {
    let is_root = fs::read_to_string("/proc/self/status").unwrap().contains("\nUid:\t0\t");
    let owner = is_root.then_some(());
    lend(owner, &[folder, data, &folder.join("users")]);
    owner
}

fn lend(owner: Option<()>, paths: &[&Path]) {
    if owner.is_some() {
        let lent = Command::new("chown")
            .arg("postgres:postgres")
            .args(paths)
            .status()
            .unwrap();
        assert!(lent.success(), "there is no user postgres: apt-get install postgresql");
    }
}

fn as_owner(owner: Option<()>, program: &Path) -> Command {
    let mut command = Command::new("setsid");
    if owner.is_some() {
        command.args(["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    }
    command.arg(program).current_dir("/");
    command
}
