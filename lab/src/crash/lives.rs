//! Lives of one process after another on an embedded file.

use std::{net::SocketAddr, time::Duration};

use fastrand::Rng;
use rustix::process::Signal;
use tokio::sync::watch;
use tower_respond_async::BoxError;

use super::{
    app::Orders,
    campaign::Manner,
    point::{Act, Mark, Point},
    process::{End, Process, Program},
};

/// How long a process has to reach the point at which it dies. After that it is killed wherever it is.
const MARK_LIMIT: Duration = Duration::from_millis(400);

/// The lease of processes that are frozen, and how long they are frozen.
const SHORT_LEASE: Duration = Duration::from_millis(300);
const FROZEN: Duration = Duration::from_millis(600);

/// A file and the process that has it open.
#[derive(Debug)]
pub(crate) struct Lives {
    program: Program,
    orders: Orders,
    /// Whether this is the first cycle of a round.
    is_first: bool,
    /// The process of the quiet time.
    quiet: Option<Process>,
}

/// One life of a process.
#[derive(Clone, Copy, Debug)]
enum Life {
    /// Killed this long after it began to serve.
    Killed(Duration),
    /// Killed this long after it was started.
    Stillborn(Duration),
    /// Kills itself at a point.
    Marked(Mark),
    /// Asked to end after a while, and killed after another while, unless it has died at its mark or ended by then.
    Ended {
        after: Duration,
        mark: Option<Mark>,
        killed_after: Duration,
    },
    /// Frozen, or freezes itself, for longer than its lease. Killed some time after it was thawed.
    Frozen {
        after: Duration,
        mark: Option<Mark>,
        killed_after: Duration,
    },
}

impl Life {
    /// Freezes between the end of a handler and the write that records it. It writes only after another claim took the
    /// task: a store that accepts late results cannot hide that. This is rare at random, so each round begins with it.
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
                // Long enough for its tasks to be taken from it and given to it again.
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

impl Lives {
    pub(crate) const fn new(program: Program, orders: Orders) -> Self {
        Self {
            program,
            orders,
            is_first: true,
            quiet: None,
        }
    }

    /// Runs one life of a process. Answers how it was killed, or `None` if it ended by itself.
    pub(crate) async fn cycle(
        &mut self,
        random: &mut Rng,
        door: &watch::Sender<Vec<SocketAddr>>,
    ) -> Result<Option<Manner>, BoxError> {
        let life = match std::mem::take(&mut self.is_first) {
            true => Life::LATE,
            false => Life::random(random),
        };
        let mut orders = self.orders.clone();
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
            door.send_replace(vec![address]);
        }
        let manner = die(life, &mut process).await;
        door.send_replace(Vec::new());
        manner
    }

    /// Starts a process that is not killed. Answers with its address.
    pub(crate) async fn quiet(&mut self) -> Result<Vec<SocketAddr>, BoxError> {
        let mut process = self.program.start(&self.orders)?;
        let to = process.address().await?.ok_or("the quiet process ended")?;
        self.quiet = Some(process);
        Ok(vec![to])
    }

    /// Ends the quiet process. Answers how it ended.
    pub(crate) async fn end_quiet(&mut self) -> Result<End, BoxError> {
        self.is_first = true;
        let mut process = self.quiet.take().ok_or("there is a quiet process")?;
        process.signal(Signal::TERM)?;
        process.end().await
    }
}

async fn die(life: Life, process: &mut Process) -> Result<Option<Manner>, BoxError> {
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
