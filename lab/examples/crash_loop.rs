//! Shows that what was accepted survives: kills a process with SIGKILL over and over, under load, and checks what is left.
//!
//! ```text
//! cargo run --release -p lab --example crash_loop -- --cycles 1000
//! ```
//!
//! The process serves an application behind the layer on an embedded file. It is killed at random moments and at named
//! points: before and after a task is stored, claimed, run, settled, told of and pruned, while the file is opened, frozen
//! beyond its lease, and during a shutdown. After every 20 kills everything must end well; clients, a journal and the task
//! API are held against each other. What is checked, and how, stands in `lab/src/crash`.
//!
//! Prints how far it is, then the figures. The exit code is 0 if nothing was wrong, and 1 otherwise; then the file and the
//! journal are left where it says.

use std::{env, fs, path::PathBuf, process::ExitCode, time::Instant};

use tower_respond_async::BoxError;

use lab::crash::{
    app,
    campaign::{Campaign, Tally},
    process::Program,
};

const HELP: &str = "\
Kills a process over and over and checks that nothing it accepted is lost.

Usage: crash_loop [--cycles N] [--seed N]

  --cycles N   how often it is killed; 100 unless said
  --seed N     repeats the choices of an earlier run, though not its timing
  --help       prints this";

/// The child is the same program, started with orders in its environment.
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
    cycles: u32,
    seed: u64,
}

impl Settings {
    /// `None` if help is asked for.
    fn read(mut words: impl Iterator<Item = String>) -> Result<Option<Self>, BoxError> {
        let mut settings = Self {
            cycles: 100,
            seed: fastrand::u64(..),
        };
        while let Some(word) = words.next() {
            let mut number = || -> Result<u64, BoxError> {
                let number = words.next().ok_or_else(|| format!("{word} lacks its number"))?;
                let read = number.parse();
                Ok(read.map_err(|error| format!("{word} {number}: {error}"))?)
            };
            match &*word {
                "--cycles" => settings.cycles = number()?.try_into()?,
                "--seed" => settings.seed = number()?,
                "--help" | "-h" => return Ok(None),
                _ => return Err(format!("{word} is not known").into()),
            }
        }
        Ok(Some(settings))
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
        let mut campaign = Campaign::new(PROGRAM, folder.clone(), self.seed).await?;
        let progress = |tally: &Tally| {
            let (kills, tasks) = (tally.kills(), tally.findings.tasks);
            let wrong = tally.findings.violations.len();
            println!(
                "{:>6.0?}  {kills} kills, {tasks} tasks checked, {wrong} violations",
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
