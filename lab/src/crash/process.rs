//! A process under the harness.

use std::{
    env, io,
    net::SocketAddr,
    os::unix::process::ExitStatusExt,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    task::spawn_blocking,
    time::timeout,
};
use tower_respond_async::BoxError;

use super::app::{ORDERS, Orders, SAYS};

/// How long a process may take for a step before it counts as hanging. Long, so that a busy machine fails no test.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The program to start again and again: the running one, with these arguments.
#[derive(Clone, Copy, Debug)]
pub struct Program(pub &'static [&'static str]);

impl Program {
    /// Starts the program. It ends when the returned value is dropped.
    pub fn start(self, orders: &Orders) -> Result<Process, BoxError> {
        let mut child = Command::new(env::current_exe()?)
            .args(self.0)
            .env(ORDERS, serde_json::to_string(orders)?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdin = child.stdin.take().ok_or("stdin was asked for")?;
        let stdout = child.stdout.take().ok_or("stdout was asked for")?;
        Ok(Process {
            child,
            stdin: Some(stdin),
            said: BufReader::new(stdout).lines(),
        })
    }
}

/// A started process.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// The process ends when this closes. It is kept apart from `child`, which would close it when waiting.
    stdin: Option<ChildStdin>,
    said: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// The next line for the harness; `None` if the process ended.
    pub async fn says(&mut self) -> Result<Option<String>, BoxError> {
        let said = timeout(DEADLINE, async {
            while let Some(line) = self.said.next_line().await? {
                // A test runner may have begun the line with its own output.
                if let Some((_, said)) = line.split_once(SAYS) {
                    return io::Result::Ok(Some(said.to_owned()));
                }
            }
            Ok(None)
        });
        Ok(said.await.map_err(|_| "the process says nothing")??)
    }

    /// The address at which the process serves; `None` if it ended before.
    pub async fn address(&mut self) -> Result<Option<SocketAddr>, BoxError> {
        let Some(said) = self.says().await? else {
            return Ok(None);
        };
        match said.strip_prefix("serving ") {
            Some(address) => Ok(Some(address.parse()?)),
            None => Err(said.into()),
        }
    }

    pub fn signal(&self, signal: Signal) -> Result<(), BoxError> {
        Ok(kill_process(self.pid()?, signal)?)
    }

    /// The process id. It cannot be reused before the process was waited for.
    fn pid(&self) -> Result<Pid, BoxError> {
        let pid = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        Ok(pid.ok_or("the process was waited for")?)
    }

    /// Waits until SIGSTOP has frozen the process.
    pub async fn frozen(&self) -> Result<(), BoxError> {
        let pid = self.pid()?;
        // `NOWAIT` leaves the status for the later wait for the end.
        let stopped = WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT;
        let waiting = spawn_blocking(move || waitid(WaitId::Pid(pid), stopped));
        timeout(DEADLINE, waiting)
            .await
            .map_err(|_| "the process does not freeze")???;
        Ok(())
    }

    /// Closes stdin, at which the process ends, and waits for the end.
    pub async fn abandon(mut self) -> Result<End, BoxError> {
        drop(self.stdin.take());
        self.end().await
    }

    /// Waits for the end.
    pub async fn end(&mut self) -> Result<End, BoxError> {
        let status = timeout(DEADLINE, self.child.wait()).await;
        Ok(status.map_err(|_| "the process does not end")??.into())
    }

    /// Waits for the end, for at most `limit`.
    pub async fn end_within(&mut self, limit: Duration) -> Result<Option<End>, BoxError> {
        match timeout(limit, self.child.wait()).await {
            Ok(status) => Ok(Some(status?.into())),
            Err(_) => Ok(None),
        }
    }

    /// Lets the process run for `time`. There is no event to wait for: the seed chose the moment of the kill.
    ///
    /// # Errors
    ///
    /// If the process ends before.
    pub async fn live_for(&mut self, time: Duration) -> Result<(), BoxError> {
        match self.end_within(time).await? {
            None => Ok(()),
            Some(end) => Err(format!("a process ended by itself: {end:?}").into()),
        }
    }

    /// Ends the process with SIGKILL.
    pub async fn kill(&mut self) -> Result<End, BoxError> {
        self.signal(Signal::KILL)?;
        self.end().await
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, without an error.
    Clean,
    /// By SIGKILL.
    Killed,
    /// By SIGABRT.
    Aborted,
    /// In another way.
    Other(ExitStatus),
}

impl From<ExitStatus> for End {
    fn from(status: ExitStatus) -> Self {
        match status.signal() {
            Some(signal) if signal == Signal::KILL.as_raw() => Self::Killed,
            Some(signal) if signal == Signal::ABORT.as_raw() => Self::Aborted,
            None if status.success() => Self::Clean,
            _ => Self::Other(status),
        }
    }
}
