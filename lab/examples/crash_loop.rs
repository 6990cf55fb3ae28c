//! Kills processes with SIGKILL over and over, under load, and checks that every accepted task survives.
//!
//! ```text
//! cargo run --release -p lab --example crash_loop -- --cycles 1000
//! cargo run --release -p lab --example crash_loop -- --store postgres --processes 3 --cycles 1000
//! cargo run --release -p lab --example crash_loop -- --store postgres --failover --cycles 20
//! ```
//!
//! The process serves an application behind the layer on an embedded file. It is killed at random moments and at named
//! points: before and after a task is stored, claimed, run, settled, delivered and pruned, while the file is opened,
//! frozen for longer than its lease, and during a shutdown.
//!
//! With `--store postgres` several processes share a server. In each cycle one process is killed, frozen or asked to
//! end; or the server is killed, stopped or made to end its sessions; or connections are cut, silent, slow, or lose an
//! answer.
//!
//! After every 20 cycles everything must end, and the example compares the clients' records, a journal and the task
//! API. The checks are described in `lab/src/crash`.
//!
//! It prints its progress, then the figures. The exit code is 0 if every check held, and 1 otherwise. In that case the
//! file and the journal stay in the folder that it prints.

use std::{env, fs, path::PathBuf, process::ExitCode, time::Instant};

use tower_respond_async::BoxError;

use lab::crash::{
    app,
    campaign::{Campaign, Place, Tally},
    process::Program,
};

const HELP: &str = "\
Kills a process over and over and checks that nothing it accepted is lost.

Usage: crash_loop [--store redb|postgres] [--processes N] [--failover] [--cycles N] [--seed N]

  --store S      where tasks are kept: redb, with one process after the other, unless said; postgres, with several at once on a
                 private server, with which, and between which and the processes, things go wrong as well
  --processes N  how many at once on postgres; 3 unless said
  --failover     on postgres: nothing goes wrong but that the server is lost, and its synchronous standby takes over
  --cycles N     how often something goes wrong; 100 unless said
  --seed N       repeats the choices of an earlier run, though not its timing
  --help         prints this";

/// The child is the same program, with orders in its environment.
const PROGRAM: Program = Program(&[]);

fn main() -> ExitCode {
    if app::obey() {
        return ExitCode::SUCCESS;
    }
    match Settings::read(env::args().skip(1)) {
        Ok(Some(settings)) => settings.run(),
        Ok(None) => {
            println!("{HELP}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("crash_loop: {error}\n\n{HELP}");
            ExitCode::FAILURE
        }
    }
}

struct Settings {
    on_server: bool,
    processes: usize,
    failover: bool,
    cycles: u32,
    seed: u64,
}

impl Settings {
    /// `None` if help is requested.
    fn read(mut words: impl Iterator<Item = String>) -> Result<Option<Self>, BoxError> {
        let mut settings = Self {
            on_server: false,
            processes: 3,
            failover: false,
            cycles: 100,
            seed: fastrand::u64(..),
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} lacks its value"));
            let mut number = || -> Result<u64, BoxError> {
                let number = value()?;
                let read = number.parse();
                Ok(read.map_err(|error| format!("{word} {number}: {error}"))?)
            };
            match &*word {
                "--store" => {
                    settings.on_server = match &*value()? {
                        "redb" => false,
                        "postgres" => true,
                        other => return Err(format!("--store {other}: there are redb and postgres").into()),
                    }
                }
                "--processes" => settings.processes = number()?.try_into()?,
                "--failover" => settings.failover = true,
                "--cycles" => settings.cycles = number()?.try_into()?,
                "--seed" => settings.seed = number()?,
                "--help" | "-h" => return Ok(None),
                _ => return Err(format!("{word} is not known").into()),
            }
        }
        if settings.processes == 0 {
            return Err("--processes 0: there must be one at least".into());
        }
        if settings.failover && !settings.on_server {
            return Err("--failover is for --store postgres".into());
        }
        Ok(Some(settings))
    }

    fn place(&self) -> Place {
        let processes = self.processes;
        match (self.on_server, self.failover) {
            (false, _) => Place::File,
            (true, false) => Place::Server { processes },
            (true, true) => Place::Standby { processes },
        }
    }

    #[tokio::main(worker_threads = 2)]
    async fn run(self) -> ExitCode {
        let folder = env::temp_dir().join(format!("crash-loop-{}", std::process::id()));
        println!("seed {}", self.seed);
        match self.campaign(folder.clone()).await {
            Ok(true) => {
                let _ = fs::remove_dir_all(folder);
                ExitCode::SUCCESS
            }
            Ok(false) => {
                eprintln!(
                    "\nNOT WELL. What is left is in {}; the seed was {}",
                    folder.display(),
                    self.seed
                );
                ExitCode::FAILURE
            }
            Err(error) => {
                eprintln!(
                    "\ncrash_loop: {error}. What is left is in {}; the seed was {}",
                    folder.display(),
                    self.seed
                );
                ExitCode::FAILURE
            }
        }
    }

    async fn campaign(&self, folder: PathBuf) -> Result<bool, BoxError> {
        fs::create_dir_all(&folder)?;
        let started = Instant::now();
        let mut campaign = Campaign::new(PROGRAM, folder.clone(), self.place(), self.seed).await?;
        let progress = |tally: &Tally| {
            let (cycles, tasks) = (tally.cycles(), tally.findings.tasks);
            let wrong = tally.findings.violations.len();
            println!(
                "{:>6.0?}  {cycles} cycles, {tasks} tasks checked, {wrong} violations",
                started.elapsed()
            );
        };
        campaign.run(self.cycles, progress).await?;
        let tally = campaign.tally;
        println!("\n{tally}\n{:<29}{:>8.0?}", "time", started.elapsed());
        for violation in &tally.findings.violations {
            eprintln!("{violation}");
        }
        Ok(tally.findings.violations.is_empty())
    }
}
