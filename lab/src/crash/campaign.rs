//! Killing over and over: rounds of short lives under load, each followed by a quiet one in which all must end well.

use std::{collections::BTreeMap, fmt, future::ready, path::PathBuf, sync::atomic::Ordering, time::Duration};

use fastrand::Rng;
use rustix::process::Signal;
use tokio::{sync::watch, task::JoinSet};
use tower_respond_async::BoxError;

use super::{
    app::Orders,
    client::Client,
    findings::{Check, Findings, Violation},
    journal::{Journal, Reader},
    load::Round,
    point::{Act, Mark, Point},
    process::{DEADLINE, End, Process, Program},
    receiver::Receiver,
    verdict::{Histories, judge},
    wait::comes_about,
};

/// How many lives there are between two quiet ones.
const LIVES: u32 = 20;

/// How many clients ask at once: some more than handlers run at once, so that tasks also wait.
const CLIENTS: u32 = 10;

/// How long a process has to come by the point at which it is to die; then it is killed wherever it is.
const MARK_LIMIT: Duration = Duration::from_millis(400);

/// The lease of processes that are frozen, and for how long they are.
const SHORT_LEASE: Duration = Duration::from_millis(300);
const FROZEN: Duration = Duration::from_millis(600);

/// How long the quiet life waits for hooks to be told of everything. What several processes died over is told later: it waits
/// for the lease of the last of them, which is 70 s.
const TELLING_TIME: Duration = Duration::from_secs(1);

/// How long hooks may take at the very end to be told of what is left.
const TELLING_LIMIT: Duration = Duration::from_secs(120);

/// What is to be done, and what came of it.
#[derive(Debug)]
pub struct Campaign {
    program: Program,
    folder: PathBuf,
    client: Client,
    random: Rng,
    journal: Reader,
    receiver: Receiver,
    door: watch::Sender<Option<std::net::SocketAddr>>,
    pub tally: Tally,
}

/// What came of it so far.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Processes that were killed, by how.
    pub killed: BTreeMap<Manner, u32>,
    /// Processes that ended by themselves when they were asked to.
    pub ended: u32,
    pub findings: Findings,
}

/// At which moment a process was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Manner {
    AtRandom,
    WhileOpening,
    WhileEnding,
    AfterFreezing,
    At(Point),
}

impl Tally {
    pub fn kills(&self) -> u32 {
        self.killed.values().sum()
    }
}

/// For people.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "kills                        {:>8}", self.kills())?;
        for (manner, kills) in &self.killed {
            let manner = match manner {
                Manner::At(point) => format!("{point:?}"),
                manner => format!("{manner:?}"),
            };
            writeln!(f, "  {manner:<27}{kills:>8}")?;
        }
        writeln!(f, "shutdowns that came through  {:>8}", self.ended)?;
        write!(f, "{}", self.findings)
    }
}

/// One life of a process.
#[derive(Clone, Copy, Debug)]
enum Life {
    /// Is killed so long after it began to serve.
    Killed(Duration),
    /// Is killed so long after it was started.
    Stillborn(Duration),
    /// Kills itself at a point.
    Marked(Mark),
    /// Is asked to end after a while, and killed so long after that, unless it dies at its mark or has ended.
    Ended {
        after: Duration,
        mark: Option<Mark>,
        killed_after: Duration,
    },
    /// Is frozen for longer than its lease, or freezes itself, and is killed some time after it was thawed.
    Frozen {
        after: Duration,
        mark: Option<Mark>,
        killed_after: Duration,
    },
}

impl Life {
    /// Freezes between an end and the write that records it, and writes that once the task is another's: what a store that
    /// takes late results cannot hide. Chance seldom gives this, so that each round begins with it.
    const LATE: Self = Self::Frozen {
        after: Duration::from_millis(100),
        mark: Some(Mark {
            point: Point::BeforeSettle,
            passage: 3,
            act: Act::Freeze,
        }),
        killed_after: Duration::from_millis(200 + 2 * SHORT_LEASE.as_millis() as u64),
    };

    fn random(random: &mut Rng) -> Self {
        let mut millis = |range: std::ops::Range<u64>| Duration::from_millis(random.u64(range));
        let (early, soon, later) = (millis(0..25), millis(0..120), millis(60..200));
        match random.u8(0..20) {
            0..=7 => Self::Marked(mark(&Point::SERVING, Act::Die, random)),
            8..=13 => Self::Killed(soon),
            14..=15 => Self::Stillborn(early),
            16..=18 => Self::Ended {
                after: soon,
                mark: random.bool().then(|| mark(&Point::ENDING, Act::Die, random)),
                killed_after: later,
            },
            _ => Self::Frozen {
                after: soon,
                mark: random.bool().then(|| Mark {
                    point: Point::BeforeSettle,
                    passage: random.u32(1..6),
                    act: Act::Freeze,
                }),
                // Long enough for the tasks to be taken from it, and given to it again.
                killed_after: later + 2 * SHORT_LEASE,
            },
        }
    }

    const fn mark(self) -> Option<Mark> {
        match self {
            Self::Marked(mark) => Some(mark),
            Self::Ended { mark, .. } | Self::Frozen { mark, .. } => mark,
            Self::Killed(_) | Self::Stillborn(_) => None,
        }
    }
}

fn mark(points: &[Point], act: Act, random: &mut Rng) -> Mark {
    let point = points[random.usize(0..points.len())];
    let passage = match point {
        Point::BeforePrune | Point::AfterPrune | Point::BeforeClose | Point::AfterClose => 1,
        Point::BeforeClaim | Point::BeforeRelease | Point::AfterRelease => random.u32(1..4),
        _ => random.u32(1..12),
    };
    Mark { point, passage, act }
}

impl Campaign {
    /// Everything that is random follows from `seed`, the moments at which signals arrive aside.
    pub async fn new(program: Program, folder: PathBuf, seed: u64) -> Result<Self, BoxError> {
        let orders = Orders::serve(&folder);
        let journal = Reader::open(&orders.journal())?;
        let receiver = Receiver::start(Journal::open(&orders.journal())?).await?;
        Ok(Self {
            program,
            folder,
            client: Client::new(&orders),
            random: Rng::with_seed(seed),
            journal,
            receiver,
            door: watch::Sender::new(None),
            tally: Tally::default(),
        })
    }

    /// Kills processes until `kills` are dead or something is wrong, and says after every round how far it is.
    pub async fn run(&mut self, kills: u32, mut progress: impl FnMut(&Tally)) -> Result<(), BoxError> {
        while self.tally.kills() < kills && self.tally.findings.violations.is_empty() {
            let lives = LIVES.min(kills - self.tally.kills());
            self.round(lives).await?;
            progress(&self.tally);
        }
        self.tell_the_rest().await
    }

    fn orders(&self) -> Orders {
        Orders {
            receiver: Some(self.receiver.address),
            ..Orders::serve(&self.folder)
        }
    }

    async fn round(&mut self, lives: u32) -> Result<(), BoxError> {
        let round = Round::new(
            self.tally.kills().to_string(),
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
        let upto = self.tally.kills() + lives;
        let mut next = Some(Life::LATE);
        while self.tally.kills() < upto {
            let life = next.take().unwrap_or_else(|| Life::random(&mut self.random));
            match self.live(life).await? {
                Some(manner) => *self.tally.killed.entry(manner).or_default() += 1,
                None => self.tally.ended += 1,
            }
        }
        round.last_orders.store(true, Ordering::SeqCst);
        let findings = self.settle_up(&round, clients, began).await?;
        self.tally.findings.add(findings);
        Ok(())
    }

    /// Lets a process live. Answers how it was killed, unless it ended by itself.
    async fn live(&self, life: Life) -> Result<Option<Manner>, BoxError> {
        let mut orders = self.orders();
        orders.mark = life.mark();
        match life {
            Life::Frozen { .. } => orders.lease = SHORT_LEASE,
            Life::Ended { .. } => orders.grace = Duration::from_millis(5),
            _ => {}
        }
        let mut process = self.program.start(&orders)?;
        if let Life::Stillborn(after) = life {
            process.live_for(after).await?;
            process.kill().await?;
            return Ok(Some(Manner::WhileOpening));
        }
        if let Some(address) = process.address().await? {
            self.door.send_replace(Some(address));
        }
        let manner = self.die(life, &mut process).await;
        self.door.send_replace(None);
        manner
    }

    async fn die(&self, life: Life, process: &mut Process) -> Result<Option<Manner>, BoxError> {
        let (ended, otherwise) = match life {
            Life::Marked(_) => (process.end_within(MARK_LIMIT).await?, Manner::AtRandom),
            Life::Killed(after) | Life::Stillborn(after) => (process.end_within(after).await?, Manner::AtRandom),
            Life::Ended {
                after, killed_after, ..
            } => {
                process.live_for(after).await?;
                process.signal(Signal::TERM)?;
                (process.end_within(killed_after).await?, Manner::WhileEnding)
            }
            Life::Frozen {
                after,
                mark,
                killed_after,
            } => {
                process.live_for(after).await?;
                if mark.is_none() {
                    process.signal(Signal::STOP)?;
                }
                process.live_for(FROZEN).await?;
                process.signal(Signal::CONT)?;
                (process.end_within(killed_after).await?, Manner::AfterFreezing)
            }
        };
        match (ended, life.mark()) {
            (None, _) => {
                process.kill().await?;
                Ok(Some(otherwise))
            }
            (Some(End::Killed), Some(mark)) => Ok(Some(Manner::At(mark.point))),
            (Some(End::Clean), _) if matches!(life, Life::Ended { .. }) => Ok(None),
            (Some(end), _) => Err(format!("a process ended by itself: {end:?}, in {life:?}").into()),
        }
    }

    /// A life in which nobody dies: what is under way ends, and is checked.
    async fn settle_up(&mut self, round: &Round, mut clients: JoinSet<()>, began: u128) -> Result<Findings, BoxError> {
        let mut process = self.program.start(&self.orders())?;
        let to = process.address().await?.ok_or("the quiet process ended")?;
        self.door.send_replace(Some(to));
        while let Some(left) = clients.join_next().await {
            left?;
        }
        comes_about(DEADLINE, || async { Ok(round.client.unfinished(to).await? == 0) }).await?;
        let documents = round.client.tasks(to, &format!("startedTimeBegin={began}")).await?;
        let mut histories = Histories::default();
        comes_about(TELLING_TIME, || {
            let heard = self.hear(&mut histories);
            ready(heard.map(|()| histories.all_told(&documents)))
        })
        .await?;
        self.door.send_replace(None);
        process.signal(Signal::TERM)?;
        let end = process.end().await?;
        self.hear(&mut histories)?;
        let ledger = std::mem::take(&mut *round.ledger());
        let mut findings = judge(ledger, &histories, &documents);
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
        histories.extend(lines);
        Ok(())
    }

    /// Waits for hook and webhook to be told of the ends that they had not heard of when that was looked for.
    async fn tell_the_rest(&mut self) -> Result<(), BoxError> {
        if self.tally.findings.untold.is_empty() {
            return Ok(());
        }
        let mut process = self.program.start(&self.orders())?;
        comes_about(TELLING_LIMIT, || {
            let heard = self.hear(&mut Histories::default());
            ready(heard.map(|()| self.tally.findings.untold.is_empty()))
        })
        .await?;
        process.kill().await?;
        self.tally.findings.give_up_on_the_untold();
        Ok(())
    }
}
