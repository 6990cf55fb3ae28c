//! The folder in which a server runs, its user, and how long it runs.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal};

/// A folder, and the lock that keeps its server up.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) folder: PathBuf,
    _users: File,
}

impl Place {
    /// Uses the server of this folder, and starts it if it is not up. A lock lets one process at a time check that.
    pub(crate) fn shared(folder: PathBuf, is_up: impl Fn(&Self) -> bool, start: impl FnOnce(&Self)) -> Self {
        let place = Self::own(folder);
        let starting = File::create(place.folder.join("starting")).unwrap();
        starting.lock().unwrap();
        if !is_up(&place) {
            start(&place);
        }
        place
    }

    /// A private folder.
    pub(crate) fn own(folder: PathBuf) -> Self {
        fs::create_dir_all(&folder).unwrap();
        let users = File::create(folder.join("users")).unwrap();
        users.lock_shared().unwrap();
        lend(&[&folder, &folder.join("users")]);
        Self { folder, _users: users }
    }

    /// Runs a program in the background for as long as the folder is in use. Its output goes into `log` there. `mib`
    /// limits the size of the files that it writes; 0 is no limit.
    pub(crate) fn run(&self, program: &Path, arguments: &[&str], mib: u32) {
        let log = File::options().create(true).append(true).open(self.log()).unwrap();
        // The watcher has its own session, so that it outlives the test process that started it.
        let mut watcher = as_server(Path::new("sh"));
        watcher
            .args(["-c", WATCH, "sh"])
            .arg(self.folder.join("users"))
            .arg((mib * 2048).to_string())
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let mut watcher = watcher.spawn().unwrap();
        // The watcher may outlive this process. If it does not, this thread reaps it: there is one per start of a
        // server.
        std::thread::spawn(move || watcher.wait());
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// The chosen port, or port 1, on which nothing listens.
    pub(crate) fn port(&self) -> u16 {
        let port = fs::read_to_string(self.folder.join("port")).ok();
        port.and_then(|port| port.parse().ok()).unwrap_or(1)
    }

    /// Chooses a free port.
    pub(crate) fn choose_port(&self) -> u16 {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        fs::write(self.folder.join("port"), free.to_string()).unwrap();
        free
    }

    pub(crate) fn listens(&self) -> bool {
        let address = SocketAddr::from(([127, 0, 0, 1], self.port()));
        TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
    }
}

/// Runs the server, and ends it when nothing uses it.
const WATCH: &str = r#"
users=$1 blocks=$2; shift 2
[ "$blocks" = 0 ] || ulimit -f "$blocks"
"$@" & server=$!
free=0
while kill -0 $server 2>/dev/null; do
    sleep 2
    # Its folder is gone with whoever had it.
    [ -e "$users" ] || { kill -TERM $server; continue; }
    if flock -n -x "$users" true; then free=$((free + 1)); else free=0; fi
    # Under the lock: whoever comes meanwhile finds the server gone, and starts another.
    [ $free -ge 5 ] && flock -n -x "$users" sh -c '
        kill -INT $0
        while kill -0 $0 2>/dev/null && ! grep -q "^State:.*Z" /proc/$0/status 2>/dev/null; do sleep 0.1; done' $server
done
"#;

/// Waits until `is_so` is true. Panics with what was expected after 30 s.
pub(crate) fn until(expected: &str, log: &Path, is_so: impl Fn() -> bool) {
    for _ in 0..600 {
        if is_so() {
            return;
        }
        thread::sleep(Duration::from_millis(50));
    }
    let said = fs::read_to_string(log).unwrap_or_default();
    let last: Vec<&str> = said.lines().rev().take(20).collect();
    panic!(
        "{expected}, not within 30 s; {} ends:\n{}",
        log.display(),
        last.join("\n")
    );
}

/// Sends a signal to a process of one of these servers.
pub(crate) fn signal(process: i32, signal: Signal) {
    // The process may have ended by itself.
    let _ = Pid::from_raw(process).map(|process| rustix::process::kill_process(process, signal));
}

/// Whether the tests run as root. Then the servers, which refuse to run as root, run as the user of Debian's package.
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Gives files to the user of the servers.
pub(crate) fn lend(paths: &[&Path]) {
    if is_root() {
        let lent = Command::new("chown")
            .arg("postgres:postgres")
            .args(paths)
            .status()
            .unwrap();
        assert!(lent.success(), "there is no user postgres: apt-get install postgresql");
    }
}

/// A command that runs as the user of the servers.
pub(crate) fn as_server(program: &Path) -> Command {
    let mut command = Command::new("setsid");
    if is_root() {
        command.args(["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    }
    command.arg(program).current_dir("/");
    command
}
