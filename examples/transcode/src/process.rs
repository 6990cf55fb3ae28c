//! A child process that cannot outlive its job.
//!
//! Dropping the future of [`run`] (by a stop, a timeout, a client that left, or a shutdown) kills the program at once.
//! A spawned task waits for its end: so there is no zombie, and the working directory is removed only when the program
//! that writes to it is gone.
//!
//! After a `SIGKILL` of this process no code can clean up. So the kernel is asked beforehand to kill the program when
//! the thread that started it is gone (`prctl(PR_SET_PDEATHSIG)`): that is what [`Program::setpriv`] does. ffmpeg would
//! not notice by itself: it ignores a broken pipe on its progress, and an input that ends. [The next
//! app](Workspace::remove_left_behind) finds and removes the working directory.

use std::{
    ffi::OsStr,
    fmt,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

use crate::error::Error;

/// A private directory for one job. It is removed when its last clone is dropped.
#[derive(Clone, Debug)]
pub struct Workspace(Arc<Inside>);

#[derive(Debug)]
struct Inside {
    /// Locked for as long as the directory is in use. The lock ends with the process, however that ends.
    _lock: File,
    directory: TempDir,
}

impl Workspace {
    /// Creates one under `root`.
    ///
    /// # Errors
    ///
    /// When the directory cannot be made.
    pub fn create(root: &Path) -> io::Result<Self> {
        let directory = tempfile::Builder::new().prefix(PREFIX).tempdir_in(root)?;
        let lock = File::create_new(directory.path().join(LOCK))?;
        // It fails only if another process takes this directory for an abandoned one in this very moment, and removes
        // it.
        lock.try_lock()?;
        let inside = Inside { _lock: lock, directory };
        Ok(Self(Arc::new(inside)))
    }

    /// Removes the directories under `root` whose process is gone. Returns how many there were.
    ///
    /// # Errors
    ///
    /// When `root` cannot be read. A directory that cannot be removed is left.
    pub fn remove_left_behind(root: &Path) -> io::Result<usize> {
        let mut removed = 0;
        for entry in fs::read_dir(root)? {
            let entry = entry?;
            let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
            // The type of the entry itself: a link is not a directory of ours, and a pipe is not a lock.
            let is_file = |path: &Path| path.symlink_metadata().is_ok_and(|data| data.is_file());
            let lock = entry.path().join(LOCK);
            if ours && entry.file_type()?.is_dir() && is_file(&lock) {
                let free = File::open(&lock).is_ok_and(|lock| lock.try_lock().is_ok());
                removed += usize::from(free && fs::remove_dir_all(entry.path()).is_ok());
            }
        }
        Ok(removed)
    }

    /// The path of a file in it.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    fn path(&self) -> &Path {
        self.0.directory.path()
    }
}

/// A program to run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Program<'a> {
    /// Its name, or a path to it.
    pub(crate) path: &'a Path,
    /// The program that starts it so that it ends with this process.
    pub(crate) setpriv: Option<&'a Path>,
}

impl Program<'_> {
    fn command(&self) -> Command {
        match self.setpriv {
            None => Command::new(self.path),
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL", "--"]).arg(self.path);
                command
            }
        }
    }

    /// The error for a program that is not there, or cannot be executed.
    fn missing(&self, source: io::Error) -> Error {
        Error::NoFfmpeg {
            program: display(self.path),
            source,
        }
    }

    /// Whether the exit status is that of `setpriv`, which did not find the program.
    fn was_not_found(&self, status: ExitStatus) -> bool {
        self.setpriv.is_some() && matches!(status.code(), Some(126 | 127))
    }
}

/// The end of a program.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) said: Said,
}

/// Runs a program inside `workspace` until it ends, and calls `on_line` for each line of its standard output.
///
/// There is no shell. The program's input is empty. It sees only the environment variables that it needs to start,
/// since it reads a stranger's file and the environment may hold the keys of the buckets.
///
/// # Cancel safety
///
/// Dropping the future kills the program.
pub(crate) async fn run<I>(
    program: Program<'_>,
    arguments: I,
    workspace: &Workspace,
    mut on_line: impl FnMut(&str),
) -> Result<Ended, Error>
where
    I: IntoIterator,
    I::Item: AsRef<OsStr>,
{
    let mut process = Process::spawn(program, arguments, workspace)?;
    let child = process.child.as_mut().expect("taken in drop only");
    let mut lines = child.stdout.take().map(|out| BufReader::new(out).lines());
    let mut complaints = child.stderr.take();
    let mut piece = [0; 4096];
    let mut said = Said::default();

    let talk = async {
        while lines.is_some() || complaints.is_some() {
            let heard = timeout(SILENCE, async {
                tokio::select! {
                    Some(line) = async { Some(lines.as_mut()?.next_line().await) } => match line? {
                        Some(line) => on_line(&line),
                        None => lines = None,
                    },
                    Some(read) = async { Some(complaints.as_mut()?.read(&mut piece).await) } => match read? {
                        0 => complaints = None,
                        length => said.push(&piece[..length]),
                    },
                }
                Ok::<_, io::Error>(())
            });
            heard.await??;
        }
        timeout(SILENCE, child.wait()).await?
    };
    match talk.await {
        Ok(status) if program.was_not_found(status) => Err(program.missing(io::ErrorKind::NotFound.into())),
        Ok(status) => Ok(Ended { status, said }),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(Error::Hung {
            program: display(program.path),
            waited: SILENCE,
        }),
        Err(error) => Err(Error::io("talk to ffmpeg")(error)),
    }
}

/// A running program. Dropping it kills and reaps it.
struct Process {
    /// `None` only while it is being dropped.
    child: Option<Child>,
    workspace: Workspace,
}

impl Process {
    fn spawn<I>(program: Program<'_>, arguments: I, workspace: &Workspace) -> Result<Self, Error>
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        let mut command = program.command();
        command
            .args(arguments)
            .current_dir(workspace.path())
            .env_clear()
            .envs(KEPT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .env("AV_LOG_FORCE_NOCOLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // For the case in which `drop` below has no runtime to wait on.
            .kill_on_drop(true);
        // Ctrl-C in a terminal goes to the whole process group, and must not kill a job that has its grace.
        #[cfg(unix)]
        command.process_group(0);

        match command.spawn() {
            Ok(child) => Ok(Self {
                child: Some(child),
                workspace: workspace.clone(),
            }),
            Err(source) if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
                Err(program.missing(source))
            }
            Err(source) => Err(Error::Io {
                step: "start ffmpeg",
                source,
            }),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        // The order matters. The kill is sent before the caller sees the end of the job. The directory stays until the
        // program cannot write to it any more: a file created in between would keep it from being removed.
        let _ = child.start_kill();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let workspace = self.workspace.clone();
            runtime.spawn(async move {
                let _ = child.wait().await;
                drop(workspace);
            });
        }
    }
}

/// The last part of a program's standard error.
#[derive(Clone, Debug, Default)]
pub struct Said(Vec<u8>);

impl Said {
    fn push(&mut self, piece: &[u8]) {
        self.0.extend_from_slice(piece);
        if self.0.len() > 2 * KEPT_BYTES {
            self.0.drain(..self.0.len() - KEPT_BYTES);
        }
    }

    pub(crate) fn mentions(&self, words: &str) -> bool {
        String::from_utf8_lossy(&self.0).contains(words)
    }
}

/// The last lines, on one line and without control characters.
impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy(&self.0);
        let lines: Vec<_> = text
            .lines()
            .map(without_address)
            .filter(|line| !line.is_empty())
            .collect();
        if lines.is_empty() {
            return f.write_str("ffmpeg gave no reason");
        }
        let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("; ");
        last.chars()
            .filter(|c| !c.is_control())
            .take(LONGEST)
            .try_for_each(|c| fmt::Write::write_char(f, c))
    }
}

/// Turns `[mov,mp4 @ 0x55d0c81f] moov atom not found` into `moov atom not found`: the address is meaningless.
fn without_address(line: &str) -> &str {
    match line.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        Some((tag, rest)) if tag.contains(" @ 0x") => rest.trim(),
        _ => line.trim(),
    }
}

fn display(program: &Path) -> String {
    program.display().to_string()
}

/// ffmpeg reports twice a second while it works. On a machine so loaded that it is silent for two minutes, give up the
/// job.
const SILENCE: Duration = Duration::from_secs(120);
const PREFIX: &str = "transcode-";
const LOCK: &str = "in-use";
/// What a program needs to start; on Windows also to find its libraries.
const KEPT: [&str; 5] = ["PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SystemRoot", "LANG"];
/// A few screens of messages: the last ones count.
const KEPT_BYTES: usize = 4096;
const LAST_LINES: usize = 3;
const LONGEST: usize = 400;

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace() -> Workspace {
        Workspace::create(&std::env::temp_dir()).unwrap()
    }

    fn program(name: &str) -> Program<'_> {
        Program {
            path: Path::new(name),
            setpriv: None,
        }
    }

    #[test]
    fn what_a_dead_process_left_is_removed_and_what_is_in_use_is_not() {
        let root = tempfile::tempdir().unwrap();
        let used = Workspace::create(root.path()).unwrap();
        // As after a kill: the files are there, and the lock is free.
        let left = root.path().join("transcode-left");
        fs::create_dir(&left).unwrap();
        fs::write(left.join(LOCK), "").unwrap();
        fs::write(left.join("source"), "half a film").unwrap();
        let another_s = root.path().join("transcode-another");
        fs::create_dir(&another_s).unwrap();

        assert_eq!(Workspace::remove_left_behind(root.path()).unwrap(), 1);

        assert!(!left.exists());
        assert!(another_s.exists() && used.path().exists());
        let path = used.path().to_owned();
        drop(used);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_program_that_setpriv_does_not_find_is_missing() {
        let missing = Program {
            path: Path::new("/nowhere/ffmpeg"),
            setpriv: Some(Path::new("setpriv")),
        };
        let ended = run(missing, [""; 0], &workspace(), |_| ()).await;
        assert!(
            matches!(&ended, Err(Error::NoFfmpeg { program, .. }) if program == "/nowhere/ffmpeg"),
            "{ended:?}"
        );
    }

    /// The paused clock runs ahead when nothing happens, so two minutes of silence pass at once.
    #[tokio::test(start_paused = true)]
    async fn a_program_that_falls_silent_is_given_up() {
        let ended = run(program("sleep"), ["1000"], &workspace(), |_| ()).await;
        assert!(matches!(ended, Err(Error::Hung { .. })), "{ended:?}");
    }

    #[tokio::test]
    async fn a_program_does_not_see_our_environment() {
        let (mut seen, workspace) = (Vec::new(), workspace());
        let ended = run(program("env"), [""; 0], &workspace, |line| {
            seen.extend(line.split_once('=').map(|(name, _)| name.to_owned()));
        });
        assert!(ended.await.unwrap().status.success());
        assert!(
            std::env::var_os("CARGO_MANIFEST_DIR").is_some(),
            "there is something to hide"
        );
        assert!(
            seen.iter()
                .all(|name| KEPT.contains(&&**name) || name == "AV_LOG_FORCE_NOCOLOR"),
            "{seen:?}"
        );
    }

    #[tokio::test]
    async fn a_program_that_writes_much_to_both_ends_is_read_to_its_end() {
        let mut lines = 0;
        let script = "i=0; while [ $i -lt 20000 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done; exit 3";
        let ended = run(program("sh"), ["-c", script], &workspace(), |_| {
            lines += 1;
        })
        .await
        .unwrap();
        assert_eq!((lines, ended.status.code()), (20_000, Some(3)));
        assert_eq!(ended.said.to_string(), "err 19997; err 19998; err 19999");
    }

    #[test]
    fn what_a_program_said_is_short_and_printable() {
        let mut said = Said::default();
        assert_eq!(said.to_string(), "ffmpeg gave no reason");
        for i in 0..1000 {
            said.push(format!("[mov,mp4 @ 0x55d0] line {i}\x1b[31m\r\n").as_bytes());
        }
        assert!(said.0.len() <= 2 * KEPT_BYTES);
        assert_eq!(said.to_string(), "line 997[31m; line 998[31m; line 999[31m");
        said.push("é".repeat(5000).as_bytes());
        assert_eq!(said.to_string().chars().count(), LONGEST);
    }
}
