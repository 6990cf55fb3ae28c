//! PostgreSQL.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::Write as _,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::place::{self, Place};

/// A private server. Its superuser is `postgres` and needs no password.
#[derive(Debug)]
pub struct Postgres {
    place: Place,
    // Dropped last. `None` for a shared server, which stays for the next run.
    _folder: Option<TempDir>,
}

/// How to end a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Rolls back open transactions, and ends in good order.
    Fast,
    /// Ends at once, and recovers at the next start.
    Immediate,
    /// Kills the first process; the others notice and end.
    Kill,
    /// Kills all processes.
    KillAll,
}

/// Settings that every test server has. Many connections, because many tests share one.
const SETTINGS: &str = "listen_addresses = '127.0.0.1'\nssl = on\nmax_connections = 300\nshared_buffers = 64MB\n\
    autovacuum_naptime = 5\ndeadlock_timeout = 200\n";

/// Settings that make it fast. It loses data with the machine.
const QUICK: &str = "fsync = off\nfull_page_writes = off\n";

impl Postgres {
    /// The server that all test processes share, started if it is not up. It does not sync to disk. Each test has a
    /// schema of its own there. Never stopped by a test.
    pub fn shared() -> &'static Self {
        static SERVER: OnceLock<Postgres> = OnceLock::new();
        SERVER.get_or_init(|| Self::of_all("quick", QUICK))
    }

    /// Another shared server that syncs to disk, for code that refuses a server that does not.
    pub fn shared_and_durable() -> &'static Self {
        static SERVER: OnceLock<Postgres> = OnceLock::new();
        SERVER.get_or_init(|| Self::of_all("durable", ""))
    }

    fn of_all(name: &str, settings: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        env!("CARGO_MANIFEST_DIR").hash(&mut hasher);
        let folder = format!("respond-async-pg-{:016x}-{name}", hasher.finish());
        let folder = std::env::temp_dir().join(folder);
        let place = Place::shared(folder, answers, |place| launch(place, settings));
        Self { place, _folder: None }
    }

    /// A server for one test, with these lines in its configuration. It syncs to disk, as PostgreSQL does by default,
    /// and ends when it is dropped.
    pub fn start(settings: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("respond-async-pg-").tempdir().unwrap();
        let place = Place::own(folder.path().to_owned());
        launch(&place, settings);
        let folder = Some(folder);
        Self { place, _folder: folder }
    }

    /// A URL of the database over the socket. Tests check that its password is never shown.
    pub fn url(&self) -> String {
        let host = self.place.folder.to_str().unwrap().replace('/', "%2F");
        format!("postgres://postgres:not-shown@{host}:{}/postgres", self.port())
    }

    /// A URL of the database over TCP, where the server can encrypt.
    pub fn url_over_tcp(&self) -> String {
        format!("postgres://postgres:not-shown@127.0.0.1:{}/postgres", self.port())
    }

    /// The certificate that the server shows on TCP, in DER.
    pub fn certificate(&self) -> Vec<u8> {
        fs::read(self.place.folder.join("certificate.der")).unwrap()
    }

    /// The port on which it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.place.port()
    }

    /// The folder of its socket.
    pub fn folder(&self) -> &Path {
        &self.place.folder
    }

    /// Ends it, and waits until it is gone.
    pub fn stop(&self, how: Stop) {
        let Some(process) = self.process() else { return };
        let signal = match how {
            Stop::Fast => Signal::INT,
            Stop::Immediate => Signal::QUIT,
            Stop::Kill => Signal::KILL,
            Stop::KillAll => {
                self.freeze();
                children(process).for_each(|child| place::signal(child, Signal::KILL));
                Signal::KILL
            }
        };
        place::signal(process, signal);
        place::until("the server ends", &self.place.log(), || !self.place.listens());
    }

    /// Starts it again in the same place, and waits until it answers.
    pub fn restart(&self) {
        self.start_again(0);
    }

    fn start_again(&self, mib: u32) {
        // What a killed server leaves keeps the next one from starting until its last process is gone, so try again.
        place::until("the server starts again", &self.place.log(), || {
            run(&self.place, mib);
            (0..20).any(|_| {
                std::thread::sleep(std::time::Duration::from_millis(25));
                answers(&self.place)
            })
        });
    }

    /// Starts it again as a standby without a primary. It can be read until it is promoted.
    pub fn restart_as_standby(&self) {
        let signal = self.place.folder.join("data/standby.signal");
        fs::write(&signal, "").unwrap();
        place::lend(&[&signal]);
        self.restart();
    }

    /// Starts it again with a limit on the size of files. To the server this looks like a full disk.
    pub fn restart_with_files_up_to(&self, mib: u32) {
        self.start_again(mib);
    }

    /// A standby that follows this server through `port`: its own port, or that of a [`Proxy`](crate::Proxy). Commits
    /// do not wait for it, unless you call [`commits_wait_for_standby`](Self::commits_wait_for_standby).
    pub fn standby_by_way_of(&self, port: u16) -> Self {
        let folder = tempfile::Builder::new().prefix("respond-async-pg-").tempdir().unwrap();
        let place = Place::own(folder.path().to_owned());
        let data = place.folder.join("data");
        // No encryption: a proxy could not read the messages.
        let primary = format!("host=127.0.0.1 port={port} user=postgres sslmode=disable gssencmode=disable");
        let mut copy = place::as_server(&binaries().join("pg_basebackup"));
        copy.args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync", "-D"])
            .arg(&data)
            .args(["-d", &primary]);
        done(&mut copy);
        place.choose_port();
        configure(&place, "synchronous_standby_names = ''\n");
        run(&place, 0);
        place::until("the standby starts", &place.log(), || answers(&place));
        let folder = Some(folder);
        Self { place, _folder: folder }
    }

    /// Promotes the standby to a server of its own.
    pub fn promote(&self) {
        let mut promote = place::as_server(&binaries().join("pg_ctl"));
        done(
            promote
                .args(["promote", "--silent", "-D"])
                .arg(self.place.folder.join("data")),
        );
    }

    /// Starts it again with commits that are answered only when a standby has them as well.
    pub fn commits_wait_for_standby(&self) {
        configure(&self.place, "synchronous_standby_names = '*'\n");
        self.stop(Stop::Fast);
        self.restart();
    }

    /// Freezes it: it answers nothing, and its connections stay open.
    pub fn freeze(&self) {
        self.to_all(Signal::STOP);
    }

    /// Thaws it after a freeze.
    pub fn thaw(&self) {
        self.to_all(Signal::CONT);
    }

    fn to_all(&self, signal: Signal) {
        let first = self.process().unwrap();
        // The first process first: it starts others.
        place::signal(first, signal);
        children(first).for_each(|child| place::signal(child, signal));
    }

    /// The file of its log.
    pub fn log(&self) -> PathBuf {
        self.place.log()
    }

    fn process(&self) -> Option<i32> {
        let file = fs::read_to_string(self.place.folder.join("data/postmaster.pid")).ok()?;
        file.lines().next()?.trim().parse().ok()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // A killed server leaves a process id, which another process may have by now.
        if self._folder.is_some()
            && self.place.listens()
            && let Some(process) = self.process()
        {
            self.thaw();
            place::signal(process, Signal::QUIT);
            place::until("the server ends", &self.place.log(), || !self.place.listens());
        }
    }
}

fn launch(place: &Place, settings: &str) {
    let data = place.folder.join("data");
    let _ = fs::remove_dir_all(&data);
    fs::create_dir(&data).unwrap();
    place::lend(&[&data]);
    let mut initdb = place::as_server(&binaries().join("initdb"));
    initdb.args([
        "--no-sync",
        "--auth=trust",
        "--username=postgres",
        "--encoding=UTF8",
        "--locale=C",
        "-D",
    ]);
    done(initdb.arg(&data));
    let shown = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    fs::write(place.folder.join("certificate.der"), shown.cert.der()).unwrap();
    fs::write(data.join("server.crt"), shown.cert.pem()).unwrap();
    let key = data.join("server.key");
    fs::write(&key, shown.signing_key.serialize_pem()).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    place::lend(&[&key]);
    place.choose_port();
    configure(place, &format!("{SETTINGS}{settings}"));
    run(place, 0);
    place::until("the server starts", &place.log(), || answers(place));
}

/// Adds lines to the configuration (the last one for a setting holds), and its port and socket.
fn configure(place: &Place, settings: &str) {
    let place_of_it = format!(
        "port = {}\nunix_socket_directories = '{}'\n",
        place.port(),
        place.folder.display()
    );
    let config = place.folder.join("data/postgresql.auto.conf");
    let mut config = fs::File::options().create(true).append(true).open(config).unwrap();
    config.write_all(format!("{place_of_it}{settings}").as_bytes()).unwrap();
}

fn done(command: &mut Command) {
    let done = command.stdout(Stdio::null()).output().unwrap();
    assert!(
        done.status.success(),
        "{command:?} failed: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}

/// Whether it accepts connections. It listens before it does.
fn answers(place: &Place) -> bool {
    let mut asked = Command::new(binaries().join("pg_isready"));
    asked
        .args(["--quiet", "--host=127.0.0.1", "--port"])
        .arg(place.port().to_string());
    asked.status().unwrap().success()
}

fn run(place: &Place, mib: u32) {
    let data = place.folder.join("data");
    place.run(&binaries().join("postgres"), &["-D", data.to_str().unwrap()], mib);
}

/// The binaries of the newest version that Debian has installed.
fn binaries() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<_> = versions.map(|version| version.path().join("bin")).collect();
    found.retain(|folder| folder.join("initdb").exists());
    found.sort();
    found
        .pop()
        .expect("PostgreSQL is not installed: apt-get install postgresql")
}

fn children(of: i32) -> impl Iterator<Item = i32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let processes = processes.filter_map(|process| process.file_name().to_str()?.parse::<i32>().ok());
    processes.filter(move |process| parent(*process) == Some(of))
}

fn parent(process: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    parent.trim().parse().ok()
}

/// A name that no other schema, database or role has.
pub fn a_name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("t_{}_{}_{number}", std::process::id(), now.as_nanos())
}

/// SQL that makes the store in schema `@` read its clock from a table, so that a test can set it. A replaced function
/// would have to be planned again by every session.
pub const CLOCK_BY_HAND: &str = "CREATE TABLE @.hand (ms bigint); INSERT INTO @.hand VALUES (0); \
    CREATE OR REPLACE FUNCTION @.now_ms() RETURNS bigint LANGUAGE sql VOLATILE AS $$ SELECT ms FROM @.hand $$";
