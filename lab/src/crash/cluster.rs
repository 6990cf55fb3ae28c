//! Several processes on one database, and faults of the processes, of the server, and of the connections.

use std::{net::SocketAddr, time::Duration};

use fastrand::Rng;
use rustix::process::Signal;
use servers::{Postgres, Proxy, Stop, Way};
use tokio::{
    sync::watch,
    task::block_in_place,
    time::{sleep, timeout},
};
use tower_respond_async::BoxError;

use super::{
    app::Orders,
    point::{Act, Mark, Point},
    process::{End, Process, Program},
};

/// The lease, and the base of how long processes are frozen.
const LEASE: Duration = Duration::from_secs(2);
const FROZEN: Duration = Duration::from_secs(4);

/// How long a process has to reach the point at which it dies or freezes.
const MARK_LIMIT: Duration = Duration::from_secs(1);

/// A little longer than the store waits for a silent server.
const SILENT: Duration = Duration::from_millis(9500);

/// Something that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A process is killed at a random moment, or kills itself at this point.
    ProcessKilled,
    ProcessKilledAt(Point),
    /// A process is frozen for two leases, or freezes itself before a result is stored. The late result must be
    /// refused.
    ProcessFrozen,
    ProcessFrozenBeforeSettle,
    /// A process is asked to end, as in a deploy.
    ProcessDrained,
    ServerKilled,
    FirstOfServerKilled,
    ServerStoppedAtOnce,
    SessionsEnded,
    LinksCut,
    /// Bytes in this direction are dropped, without an error on either side.
    Silent(Way),
    LinksDelayed,
    AnswersSwallowed,
    /// The server is killed, and its synchronous standby takes over.
    Failover,
}

impl Fault {
    fn random(random: &mut Rng) -> Self {
        let point = Point::SERVING[random.usize(0..Point::SERVING.len())];
        match random.u8(0..100) {
            0..18 => Self::ServerKilled,
            18..36 => Self::FirstOfServerKilled,
            36..42 => Self::ServerStoppedAtOnce,
            42..50 => Self::ProcessKilled,
            50..58 => Self::ProcessKilledAt(point),
            58..62 => Self::ProcessFrozen,
            62..66 => Self::ProcessFrozenBeforeSettle,
            66..73 => Self::ProcessDrained,
            73..79 => Self::SessionsEnded,
            79..84 => Self::LinksCut,
            84..86 => Self::Silent(Way::ToServer),
            86..88 => Self::Silent(Way::ToClient),
            88..92 => Self::LinksDelayed,
            _ => Self::AnswersSwallowed,
        }
    }
}

/// Where, when and for how long a fault happens.
#[derive(Clone, Copy, Debug)]
struct Chosen {
    /// The number of the process.
    who: usize,
    /// The time before the fault.
    before: Duration,
    /// How long a process is frozen beyond two leases, and how long connections are silent or slow.
    short: Duration,
    /// How long a server stays down.
    down: Duration,
    /// The delay of slow connections.
    delay: Duration,
    /// Whether connections are silent for longer than the store waits.
    is_long: bool,
    /// On which pass of its point a process dies or freezes.
    passage: u32,
}

impl Chosen {
    fn random(random: &mut Rng, processes: usize) -> Self {
        let who = random.usize(0..processes);
        let mut millis = |range: std::ops::Range<u64>| Duration::from_millis(random.u64(range));
        Self {
            who,
            before: millis(50..400),
            short: millis(100..1000),
            down: millis(0..1500),
            delay: millis(0..2000),
            is_long: millis(0..8).is_zero(),
            passage: random.u32(1..8),
        }
    }
}

/// The database, the proxy in front of it, and the processes.
#[derive(Debug)]
pub(crate) struct Cluster {
    program: Program,
    orders: Orders,
    members: Vec<Member>,
    proxy: Proxy,
    server: Postgres,
    /// The standby that takes over again and again. With it, failover is the only fault.
    standby: Option<Postgres>,
}

#[derive(Debug)]
struct Member {
    process: Process,
    address: SocketAddr,
}

type Door = watch::Sender<Vec<SocketAddr>>;

impl Cluster {
    /// Starts several processes with these orders on a private server. With a standby, failover is the only fault.
    pub(crate) async fn start(
        program: Program,
        mut orders: Orders,
        processes: usize,
        with_standby: bool,
    ) -> Result<Self, BoxError> {
        let (server, standby) = block_in_place(|| {
            let server = Postgres::start("");
            let standby = with_standby.then(|| followed(&server));
            (server, standby)
        });
        let proxy = Proxy::start(server.port());
        orders.database = Some(proxy.url());
        orders.lease = LEASE;
        orders.grace = Duration::from_millis(300);
        let mut cluster = Self {
            program,
            orders,
            members: Vec::new(),
            proxy,
            server,
            standby,
        };
        for _ in 0..processes {
            let member = cluster.member(None).await?;
            cluster.members.push(member);
        }
        Ok(cluster)
    }

    /// Causes a fault, and restores what it took down. Returns the fault.
    pub(crate) async fn cycle(&mut self, random: &mut Rng, door: &Door) -> Result<Fault, BoxError> {
        let fault = match self.standby {
            Some(_) => Fault::Failover,
            None => Fault::random(random),
        };
        let chosen = Chosen::random(random, self.members.len());
        door.send_replace(self.addresses(None));
        sleep(chosen.before).await;
        let caused = self.cause(fault, chosen, door).await;
        caused.map_err(|error| format!("{fault:?} of process {}: {error}", chosen.who).into())
    }

    /// Returns the fault that happened: a process that did not freeze in time was killed instead.
    async fn cause(&mut self, fault: Fault, chosen: Chosen, door: &Door) -> Result<Fault, BoxError> {
        let Chosen {
            who,
            short,
            down,
            delay,
            is_long,
            passage,
            ..
        } = chosen;
        match fault {
            Fault::ProcessKilled => self.replace(who, None, door).await?,
            Fault::ProcessKilledAt(point) => {
                let act = Act::Die;
                self.replace(who, Some(Mark { point, passage, act }), door).await?;
                let process = &mut self.members[who].process;
                match process.end_within(MARK_LIMIT).await? {
                    None | Some(End::Killed) => self.replace(who, None, door).await?,
                    Some(end) => return Err(format!("a process ended by itself: {end:?}").into()),
                }
            }
            Fault::ProcessFrozen | Fault::ProcessFrozenBeforeSettle => {
                if fault == Fault::ProcessFrozenBeforeSettle {
                    let (point, act) = (Point::BeforeSettle, Act::Freeze);
                    self.replace(who, Some(Mark { point, passage, act }), door).await?;
                    match timeout(MARK_LIMIT, self.members[who].process.frozen()).await {
                        Ok(frozen) => frozen?,
                        // It would freeze at its mark in a later cycle, and nothing would wake it.
                        Err(_) => {
                            self.replace(who, None, door).await?;
                            return Ok(Fault::ProcessKilled);
                        }
                    }
                }
                let process = &mut self.members[who].process;
                process.signal(Signal::STOP)?;
                // A request to a frozen process gets no answer, so none is sent to it.
                door.send_replace(self.addresses(Some(who)));
                sleep(FROZEN + short).await;
                self.members[who].process.signal(Signal::CONT)?;
            }
            Fault::ProcessDrained => {
                door.send_replace(self.addresses(Some(who)));
                let process = &mut self.members[who].process;
                process.signal(Signal::TERM)?;
                match process.end().await? {
                    End::Clean => self.replace(who, None, door).await?,
                    end => return Err(format!("a process that was asked to end did so: {end:?}").into()),
                }
            }
            Fault::ServerKilled => self.restart(Stop::KillAll, down).await,
            Fault::FirstOfServerKilled => self.restart(Stop::Kill, down).await,
            Fault::ServerStoppedAtOnce => self.restart(Stop::Immediate, down).await,
            Fault::SessionsEnded => {
                let all = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() \
                    AND backend_type = 'client backend'";
                self.run(all).await?;
            }
            Fault::LinksCut => self.proxy.cut(),
            Fault::Silent(way) => {
                self.proxy.silence(way);
                sleep(if is_long { SILENT } else { short }).await;
                self.proxy.cut();
            }
            Fault::LinksDelayed => {
                self.proxy.delay(delay);
                sleep(short).await;
                self.proxy.delay(Duration::ZERO);
            }
            Fault::AnswersSwallowed => {
                self.proxy.swallow_answers();
                sleep(short / 2).await;
            }
            Fault::Failover => self.fail_over(),
        }
        Ok(fault)
    }

    /// The addresses of all processes.
    pub(crate) fn quiet(&self) -> Vec<SocketAddr> {
        self.addresses(None)
    }

    /// Makes the completions that dead processes had claimed due at once.
    pub(crate) async fn forget_deliveries(&self) -> Result<(), BoxError> {
        self.run("UPDATE respond_async.outbox SET due_at = 0 WHERE claimed")
            .await
    }

    pub(crate) fn swallowed(&self) -> u64 {
        self.proxy.swallowed()
    }

    async fn run(&self, sql: &str) -> Result<(), BoxError> {
        let (client, connection) = tokio_postgres::connect(&self.server.url(), tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        Ok(client.batch_execute(sql).await?)
    }

    fn addresses(&self, without: Option<usize>) -> Vec<SocketAddr> {
        let members = self.members.iter().enumerate();
        let members = members.filter(|(number, _)| Some(*number) != without);
        members.map(|(_, member)| member.address).collect()
    }

    async fn member(&self, mark: Option<Mark>) -> Result<Member, BoxError> {
        let orders = Orders {
            mark,
            ..self.orders.clone()
        };
        let mut process = self.program.start(&orders)?;
        let address = process.address().await?.ok_or("a process ended before it served")?;
        Ok(Member { process, address })
    }

    /// Kills a process, if it still runs, and starts another in its place.
    async fn replace(&mut self, who: usize, mark: Option<Mark>, door: &Door) -> Result<(), BoxError> {
        let process = &mut self.members[who].process;
        if process.end_within(Duration::ZERO).await?.is_none() {
            process.kill().await?;
        }
        door.send_replace(self.addresses(Some(who)));
        self.members[who] = self.member(mark).await?;
        door.send_replace(self.addresses(None));
        Ok(())
    }

    async fn restart(&self, how: Stop, down: Duration) {
        block_in_place(|| self.server.stop(how));
        sleep(down).await;
        block_in_place(|| self.server.restart());
    }

    fn fail_over(&mut self) {
        block_in_place(|| {
            if let Some(standby) = self.standby.take() {
                self.server.stop(Stop::KillAll);
                standby.promote();
                // The new server gets connections only now, with a standby of its own: what it commits alone could be
                // lost with it.
                self.standby = Some(followed(&standby));
                self.proxy.lead_to(standby.port());
                self.server = standby;
            }
        });
    }
}

/// Starts a standby of the server. From now on the server's commits wait for it.
fn followed(server: &Postgres) -> Postgres {
    server.commits_wait_for_standby();
    server.standby_by_way_of(server.port())
}
