//! Kills processes over and over: rounds of cycles under load, each followed by a quiet time in which every task must
//! end.

use std::{
    collections::BTreeMap, fmt, future::ready, net::SocketAddr, path::PathBuf, sync::atomic::Ordering, time::Duration,
};

use fastrand::Rng;
use tokio::{sync::watch, task::JoinSet};
use tower_respond_async::BoxError;

use super::{
    app::Orders,
    client::Client,
    cluster::{Cluster, Fault},
    findings::{Check, Findings, Violation},
    journal::{Journal, Reader},
    lives::Lives,
    load::Round,
    order::Calls,
    point::Point,
    process::{DEADLINE, End, Program},
    receiver::Receiver,
    verdict::{Histories, judge},
    wait::comes_about,
};

/// How many cycles there are between two quiet times.
const CYCLES: u32 = 20;

/// How many clients there are: more than handlers run at once, so that some tasks wait.
const CLIENTS: u32 = 10;

/// How long the quiet time waits for all hooks to be called. A completion whose processes died is delivered later: it
/// waits for the lease of the last of them, which is 70 s.
const TELLING_TIME: Duration = Duration::from_secs(1);

/// How long the end of the campaign waits for the remaining hooks to be called.
const TELLING_LIMIT: Duration = Duration::from_secs(120);

/// A campaign and its results so far.
#[derive(Debug)]
pub struct Campaign {
    ground: Ground,
    client: Client,
    random: Rng,
    journal: Reader,
    calls: Calls,
    _receiver: Receiver,
    door: watch::Sender<Vec<SocketAddr>>,
    pub tally: Tally,
}

/// Where a campaign runs.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    /// One process after another, on a file.
    File,
    /// Several processes on a server.
    Server { processes: usize },
    /// Several processes on a server that fails over to its standby again and again. The server commits nothing without
    /// its standby.
    Standby { processes: usize },
}

#[derive(Debug)]
enum Ground {
    Lives(Lives),
    Cluster(Cluster),
}

/// The results so far.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// The cycles, by what failed in them.
    pub cycles: BTreeMap<Manner, u32>,
    /// Processes that ended by themselves when asked to.
    pub ended: u32,
    /// Answers of the server that were lost after the statement was executed.
    pub swallowed: u64,
    pub findings: Findings,
}

/// What failed in a cycle: the moment at which a process was killed, or, with several processes, another fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Manner {
    AtRandom,
    WhileOpening,
    WhileEnding,
    AfterFreezing,
    At(Point),
    Fault(Fault),
}

impl Tally {
    pub fn cycles(&self) -> u32 {
        self.cycles.values().sum()
    }
}

/// A table for people.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "cycles                       {:>8}", self.cycles())?;
        // Not by point: there are too many.
        let mut by_name = BTreeMap::<_, u32>::new();
        for (manner, cycles) in &self.cycles {
            let name = match manner {
                Manner::Fault(Fault::ProcessKilledAt(_)) => "ProcessKilledAt".to_owned(),
                Manner::Fault(fault) => format!("{fault:?}"),
                Manner::At(point) => format!("{point:?}"),
                manner => format!("{manner:?}"),
            };
            *by_name.entry(name).or_default() += cycles;
        }
        for (name, cycles) in by_name {
            writeln!(f, "  {name:<27}{cycles:>8}")?;
        }
        writeln!(f, "answers swallowed            {:>8}", self.swallowed)?;
        writeln!(f, "shutdowns that came through  {:>8}", self.ended)?;
        write!(f, "{}", self.findings)
    }
}

impl Campaign {
    /// Everything random follows from `seed`, except the exact moments at which signals arrive.
    pub async fn new(program: Program, folder: PathBuf, place: Place, seed: u64) -> Result<Self, BoxError> {
        let mut orders = Orders::serve(&folder);
        let journal = Reader::open(&orders.journal())?;
        let receiver = Receiver::start(Journal::open(&orders.journal())?).await?;
        orders.receiver = Some(receiver.address);
        let client = Client::new(&orders);
        let ground = match place {
            Place::File => Ground::Lives(Lives::new(program, orders)),
            Place::Server { processes } => Ground::Cluster(Cluster::start(program, orders, processes, false).await?),
            Place::Standby { processes } => Ground::Cluster(Cluster::start(program, orders, processes, true).await?),
        };
        Ok(Self {
            ground,
            client,
            random: Rng::with_seed(seed),
            journal,
            calls: Calls::default(),
            _receiver: receiver,
            door: watch::Sender::new(Vec::new()),
            tally: Tally::default(),
        })
    }

    /// Runs until there were `cycles` cycles or a check failed. Calls `progress` after every round.
    pub async fn run(&mut self, cycles: u32, mut progress: impl FnMut(&Tally)) -> Result<(), BoxError> {
        while self.tally.cycles() < cycles && self.tally.findings.violations.is_empty() {
            self.round(CYCLES.min(cycles - self.tally.cycles())).await?;
            progress(&self.tally);
        }
        self.tell_the_rest().await
    }

    async fn round(&mut self, cycles: u32) -> Result<(), BoxError> {
        let round = Round::new(
            self.tally.cycles().to_string(),
            self.client.clone(),
            self.door.subscribe(),
        );
        let began = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)?
            .as_millis();
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            clients.spawn(round.clone().ask(number, self.random.fork()));
        }
        let upto = self.tally.cycles() + cycles;
        while self.tally.cycles() < upto {
            let manner = match &mut self.ground {
                Ground::Lives(lives) => lives.cycle(&mut self.random, &self.door).await?,
                Ground::Cluster(cluster) => {
                    let fault = cluster.cycle(&mut self.random, &self.door).await?;
                    Some(Manner::Fault(fault))
                }
            };
            match manner {
                Some(manner) => *self.tally.cycles.entry(manner).or_default() += 1,
                None => self.tally.ended += 1,
            }
        }
        round.last_orders.store(true, Ordering::SeqCst);
        let findings = self.settle_up(&round, clients, began).await?;
        self.tally.findings.add(findings);
        Ok(())
    }

    /// Ends all faults. Answers with the addresses of the serving processes.
    async fn quiet(&mut self) -> Result<Vec<SocketAddr>, BoxError> {
        match &mut self.ground {
            Ground::Lives(lives) => lives.quiet().await,
            Ground::Cluster(cluster) => Ok(cluster.quiet()),
        }
    }

    /// A time without faults: everything under way ends, and is checked.
    async fn settle_up(&mut self, round: &Round, mut clients: JoinSet<()>, began: u128) -> Result<Findings, BoxError> {
        let open = self.quiet().await?;
        let to = open[0];
        self.door.send_replace(open);
        while let Some(left) = clients.join_next().await {
            left?;
        }
        comes_about(DEADLINE, || async { Ok(round.client.unfinished(to).await? == 0) }).await?;
        let mut histories = Histories::default();
        self.hear(&mut histories)?;
        let shown_after = self.calls.lines();
        let documents = round.client.tasks(to, &format!("startedTimeBegin={began}")).await?;
        self.hear(&mut histories)?;
        let shown = documents.iter().map(|document| {
            let shown = (document.status.clone(), document.generation);
            (document.request_id, shown)
        });
        let wrong = self.calls.judge(shown_after, &shown.collect());
        comes_about(TELLING_TIME, || {
            let heard = self.hear(&mut histories);
            ready(heard.map(|()| histories.all_told(&documents)))
        })
        .await?;
        self.door.send_replace(Vec::new());
        let end = match &mut self.ground {
            Ground::Lives(lives) => lives.end_quiet().await?,
            Ground::Cluster(cluster) => {
                self.tally.swallowed = cluster.swallowed();
                End::Clean
            }
        };
        self.hear(&mut histories)?;
        let ledger = std::mem::take(&mut *round.ledger());
        let mut findings = judge(ledger, &histories, &documents);
        for (check, what) in wrong {
            findings.violated(check, what);
        }
        if end != End::Clean {
            let what = format!("the quiet process ended so: {end:?}");
            findings.violations.push(Violation {
                check: Check::Shutdown,
                what,
            });
        }
        Ok(findings)
    }

    fn hear(&mut self, histories: &mut Histories) -> Result<(), BoxError> {
        let lines = self.journal.lines()?;
        self.tally.findings.hear(&lines);
        self.calls.extend(&lines);
        histories.extend(lines);
        Ok(())
    }

    /// Waits for the hook and webhook calls that were missing when their ends were checked.
    async fn tell_the_rest(&mut self) -> Result<(), BoxError> {
        if self.tally.findings.untold.is_empty() {
            return Ok(());
        }
        if let Ground::Cluster(cluster) = &self.ground {
            cluster.forget_deliveries().await?;
        }
        self.quiet().await?;
        comes_about(TELLING_LIMIT, || {
            let heard = self.hear(&mut Histories::default());
            ready(heard.map(|()| self.tally.findings.untold.is_empty()))
        })
        .await?;
        self.tally.findings.give_up_on_the_untold();
        Ok(())
    }
}
