//! What survives the kill of a process: many kills at random moments, and one test for each thing that can be lost.

use std::{fs, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use rustix::process::Signal;
use tempfile::{TempDir, tempdir};
use tokio::time::sleep;
use tower_respond_async::RequestId;
use tower_respond_async_redb::RedbStore;

use crate::{engine_support::eventually, support::soon};
use lab::crash::{
    app::{self, CONCURRENCY, Orders, Role, Work},
    campaign::{Campaign, Place},
    client::{Client, Document, Reply, request},
    journal::{Line, Reader, Told},
    load::asynchronous,
    point::{Act, Mark, Point},
    process::{End, Process, Program},
};

/// This test binary, as the process that is killed.
const PROGRAM: Program = Program(&["crash::the_process_that_is_killed", "--exact", "--nocapture"]);

const NOTHING: Work = Work {
    ms: 0,
    fail: 0,
    refuse: false,
    abort: false,
    gated: false,
};
const GATED: Work = Work { gated: true, ..NOTHING };
const ABORT: Work = Work { abort: true, ..NOTHING };

/// Does nothing, unless the harness started it with orders. Then it serves until it is killed.
#[test]
fn the_process_that_is_killed() {
    app::obey();
}

/// 60 kills, at random moments and named points. The example `crash_loop` makes more of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_accepted_is_lost_whenever_the_process_is_killed() {
    let folder = tempdir().unwrap();
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut campaign = Campaign::new(PROGRAM, folder.path().join(""), Place::File, seed)
        .await
        .unwrap();
    campaign
        .run(60, |_| ())
        .await
        .unwrap_or_else(|error| panic!("{error}; the seed is {seed}"));
    println!("{}", campaign.tally);
    let findings = &campaign.tally.findings;
    assert!(
        findings.violations.is_empty(),
        "{:#?}\nthe seed is {seed}",
        findings.violations
    );
    assert!(
        campaign.tally.cycles() >= 60 && findings.tasks > 100,
        "{}",
        campaign.tally
    );
}

/// The process dies before the request is stored.
#[tokio::test]
async fn a_request_that_was_not_stored_got_no_202_and_is_one_task_when_sent_again() {
    for named in [true, false] {
        let scene = Scene::new();
        let (mut process, to) = scene.start_marked(Point::BeforeInsert, Act::Die).await;
        let sent = asynchronous("once", NOTHING, named);
        assert!(scene.client.send(to, &sent).await.is_err());
        assert_eq!(process.end().await.unwrap(), End::Killed);

        let (_process, to) = scene.start().await;
        assert_eq!(scene.all(to).await.len(), 0, "nothing is stored");
        let id = scene.accepted(to, &sent).await;
        let task = scene.ended(to, 1).await.remove(0);
        assert_eq!((task.request_id, &*task.status, task.attempt), (id, "Succeeded", 1));
    }
}

/// The process dies after the task is stored. The client cannot tell a lost 202 from one that was never sent.
#[tokio::test]
async fn a_request_that_was_stored_runs_and_is_the_same_task_when_sent_again() {
    for named in [true, false] {
        let mut scene = Scene::new();
        let (mut process, to) = scene.start_marked(Point::AfterInsert, Act::Die).await;
        let sent = asynchronous("once", NOTHING, named);
        assert!(scene.client.send(to, &sent).await.is_err());
        assert_eq!(process.end().await.unwrap(), End::Killed);

        let (_process, to) = scene.start().await;
        let task = scene.ended(to, 1).await.remove(0);
        assert_eq!(task.status, "Succeeded", "it runs without being sent again");
        let again = scene.client.send(to, &sent).await.unwrap();
        assert_eq!(again.status, StatusCode::ACCEPTED);
        assert_eq!(id_of(&again), task.request_id);
        assert_eq!(scene.all(to).await.len(), 1);
        let starts = scene.starts();
        assert_eq!(starts.len(), 1, "it ran once, and not as {starts:?}");
    }
}

/// The process dies before, during and after the handler.
#[tokio::test]
async fn a_task_whose_process_dies_runs_again_as_another_attempt_and_not_as_a_retry() {
    for point in [Point::AfterClaim, Point::InHandler, Point::BeforeSettle] {
        let scene = Scene::new();
        // One more than the slots, so that there is something to claim.
        let tasks = CONCURRENCY + 1;
        let (mut process, to) = scene.start_marked(point, Act::Die).await;
        for number in 0..tasks {
            let sent = asynchronous(&format!("task-{number}"), GATED, true);
            // The process may be dead before it has answered the last request.
            let _ = scene.client.send(to, &sent).await;
        }
        scene.open_gate();
        assert_eq!(process.end().await.unwrap(), End::Killed, "{point:?}");

        let (_process, to) = scene.start().await;
        let ended = scene.ended(to, 1).await;
        let crashed = ended.iter().filter(|task| task.attempt == 2).count();
        assert!(crashed > 0, "{point:?}");
        for task in ended {
            assert_eq!(
                (&*task.status, task.already_retried_times),
                ("Succeeded", 0),
                "{point:?}"
            );
            let answer = task.answer().unwrap();
            assert_eq!(
                answer.token,
                u64::from(task.attempt),
                "{point:?}: the last claim wrote the result"
            );
        }
    }
}

/// The process dies between the end of the task and its hook.
#[tokio::test]
async fn a_hook_is_called_for_an_end_that_was_stored_before_the_process_died() {
    for (point, times) in [
        (Point::AfterSettle, 1),
        (Point::BeforeHook, 1),
        (Point::AfterHook, 2),
        (Point::AfterDelivery, 1),
    ] {
        let mut scene = Scene::new();
        let (mut process, to) = scene.start_marked(point, Act::Die).await;
        let id = scene.accepted(to, &asynchronous("once", NOTHING, true)).await;
        assert_eq!(process.end().await.unwrap(), End::Killed);

        let (process, to) = scene.start().await;
        let task = scene.ended(to, 1).await.remove(0);
        assert_eq!(
            (&*task.status, task.attempt),
            ("Succeeded", 1),
            "{point:?}: its end was stored"
        );
        // Remaining completions are delivered before the process ends.
        scene.end(process).await;
        let told = scene.told();
        assert_eq!(told.len(), times, "{point:?}");
        for told in told {
            assert_eq!(
                (told.webhook_id, told.id),
                (format!("msg_{id}_1_local"), id),
                "{point:?}"
            );
        }
    }
}

/// A task that kills its process is poison after three times.
#[tokio::test]
async fn a_task_that_kills_its_process_is_given_up_and_others_go_on() {
    let mut scene = Scene::new();
    let mut deaths = 0;
    loop {
        let (mut process, to) = scene.start().await;
        // The process may die before it answers either request.
        let _ = scene
            .client
            .send(to, &asynchronous(&format!("other-{deaths}"), NOTHING, true))
            .await;
        if deaths == 0 {
            let _ = scene.client.send(to, &asynchronous("culprit", ABORT, true)).await;
        }
        if !scene.dies(&mut process, to).await {
            break scene.end(process).await;
        }
        deaths += 1;
    }
    assert_eq!(deaths, 3);
    let told = scene.told();
    let (culprits, others): (Vec<_>, Vec<_>) = told.iter().partition(|told| told.answer.is_none());
    assert_eq!(culprits.len(), 1, "its hook hears of it once: {told:#?}");
    assert_eq!((&*culprits[0].state, culprits[0].attempt), ("Failed", 3));
    assert!(
        culprits[0].error.as_ref().unwrap().starts_with("poison"),
        "{culprits:?}"
    );
    assert!(
        !others.is_empty() && others.iter().all(|told| told.state == "Succeeded"),
        "{others:#?}"
    );
}

/// The tasks beside a task that kills its process are innocent.
#[tokio::test]
async fn of_those_that_ran_beside_a_task_that_kills_its_process_none_is_given_up() {
    let mut scene = Scene::new();
    let (mut process, to) = scene.start().await;
    for number in 0..7 {
        scene
            .accepted(to, &asynchronous(&format!("other-{number}"), GATED, true))
            .await;
    }
    scene.until(|scene| scene.starts().len() == 7).await;
    // Not awaited here: the process may end before it has answered.
    let (client, culprit) = (scene.client.clone(), asynchronous("culprit", ABORT, true));
    let answer = tokio::spawn(async move { client.send(to, &culprit).await });
    assert_eq!(process.end().await.unwrap(), End::Aborted);
    let _ = answer.await;
    scene.open_gate();
    let mut deaths = 1;
    let ended = loop {
        let (mut process, to) = scene.start().await;
        if !scene.dies(&mut process, to).await {
            break scene.ended(to, 8).await;
        }
        deaths += 1;
    };
    assert_eq!(deaths, 3);
    for task in ended {
        match task.nonce.as_deref() {
            Some("culprit") => assert_eq!((&*task.status, task.attempt), ("Failed", 3)),
            _ => assert_eq!((&*task.status, task.attempt), ("Succeeded", 2), "{task:?}"),
        }
    }
}

/// The process is frozen between the end of the handler and the storing of the result. When it thaws, its lease is
/// over, and another process has the task. Then the old result arrives.
#[tokio::test]
async fn a_process_frozen_beyond_its_lease_has_its_late_result_refused() {
    let mut scene = Scene::new();
    scene.orders.lease = Duration::from_millis(400);
    let (process, to) = scene.start_marked(Point::BeforeSettle, Act::Freeze).await;
    // Not awaited here: the process may freeze before it has answered.
    let sent = asynchronous("once", NOTHING, true);
    let client = scene.client.clone();
    let answer = tokio::spawn(async move { client.send(to, &sent).await });
    process.frozen().await.unwrap();
    let refused = RedbStore::open(scene.orders.file()).await.unwrap_err();
    assert!(
        refused.to_string().contains("in use"),
        "a frozen process keeps its file: {refused}"
    );
    sleep(2 * scene.orders.lease).await;
    process.signal(Signal::CONT).unwrap();
    let id = id_of(&soon(answer).await.unwrap().unwrap());

    let task = scene.ended(to, 1).await.remove(0);
    assert_eq!(
        (&*task.status, task.attempt, task.already_retried_times),
        ("Succeeded", 2, 0)
    );
    assert_eq!(task.answer().unwrap().token, 2);
    scene.until(|scene| scene.settled(1).is_some()).await;
    assert_eq!(scene.settled(1), Some(None), "it came too late");
    assert_eq!(scene.settled(2), Some(Some("Succeeded".to_owned())));
    scene.end(process).await;
    let told = scene.told();
    assert_eq!(told.len(), 1, "the late result fires no hook: {told:#?}");
    assert_eq!((told[0].id, told[0].answer.as_ref().unwrap().token), (id, 2));
}

/// The process is frozen while the handler runs. The handler is dropped before it can return.
#[tokio::test]
async fn a_handler_frozen_beyond_its_lease_is_dropped_and_run_again() {
    let mut scene = Scene::new();
    scene.orders.lease = Duration::from_millis(400);
    let (process, to) = scene.start().await;
    scene.accepted(to, &asynchronous("once", GATED, true)).await;
    scene.until(|scene| scene.starts().len() == 1).await;
    process.signal(Signal::STOP).unwrap();
    process.frozen().await.unwrap();
    sleep(2 * scene.orders.lease).await;
    process.signal(Signal::CONT).unwrap();
    scene.until(|scene| scene.starts().len() == 2).await;
    scene.open_gate();
    let task = scene.ended(to, 1).await.remove(0);
    assert_eq!((&*task.status, task.already_retried_times), ("Succeeded", 0));
    assert_eq!(scene.settled(1), None, "the first attempt tells nothing");
    assert_eq!(task.answer().unwrap().token, u64::from(task.attempt));
}

/// The process dies after a stop was acknowledged.
#[tokio::test]
async fn a_stop_that_was_acknowledged_holds_when_the_process_dies() {
    let mut scene = Scene::new();
    scene.orders.stop_grace = Duration::from_secs(60 * 60);
    let (mut process, to) = scene.start().await;
    let id = scene.accepted(to, &asynchronous("once", GATED, true)).await;
    scene.until(|scene| scene.starts().len() == 1).await;
    let stop = request(Method::POST, &format!("/tasks/{id}/stop"));
    assert_eq!(scene.client.send(to, &stop).await.unwrap().status, StatusCode::ACCEPTED);
    assert_eq!(process.kill().await.unwrap(), End::Killed);

    let (process, to) = scene.start().await;
    let task = scene.ended(to, 1).await.remove(0);
    assert_eq!((&*task.status, task.attempt), ("Stopped", 1));
    scene.end(process).await;
    assert_eq!((scene.starts().len(), scene.told().len()), (1, 1));
}

/// A shutdown with running tasks.
#[tokio::test]
async fn a_process_asked_to_end_hands_back_what_it_runs_uncharged() {
    let mut scene = Scene::new();
    scene.orders.grace = Duration::from_millis(50);
    let (mut process, to) = scene.start().await;
    for number in 0..CONCURRENCY + 2 {
        scene
            .accepted(to, &asynchronous(&format!("task-{number}"), GATED, true))
            .await;
    }
    scene.until(|scene| scene.starts().len() == CONCURRENCY).await;
    process.signal(Signal::TERM).unwrap();
    assert_eq!(process.end().await.unwrap(), End::Clean);
    assert_eq!(scene.drained(), [(0, CONCURRENCY, 0)]);

    scene.open_gate();
    let (_process, to) = scene.start().await;
    let ended = scene.ended(to, CONCURRENCY + 2).await;
    for task in ended {
        assert_eq!(
            (&*task.status, task.attempt, task.already_retried_times),
            ("Succeeded", 1, 0)
        );
    }
    let starts = scene.starts();
    let again = starts.iter().filter(|start| **start == (1, 2)).count();
    assert_eq!(
        (again, starts.len()),
        (CONCURRENCY, 2 * CONCURRENCY + 2),
        "each under a claim of its own"
    );
}

/// A second signal during a shutdown.
#[tokio::test]
async fn a_process_asked_to_end_twice_ends_at_once() {
    let mut scene = Scene::new();
    scene.orders.grace = Duration::from_secs(60 * 60);
    let (mut process, to) = scene.start().await;
    scene.accepted(to, &asynchronous("once", GATED, true)).await;
    scene.until(|scene| scene.starts().len() == 1).await;
    process.signal(Signal::TERM).unwrap();
    assert_eq!(process.says().await.unwrap().as_deref(), Some("draining"));
    process.signal(Signal::TERM).unwrap();
    // Well before the hour.
    assert_eq!(process.end().await.unwrap(), End::Clean);
    assert_eq!(scene.drained(), [(0, 1, 0)]);
}

/// The process is killed during a shutdown.
#[tokio::test]
async fn a_process_killed_while_it_ends_loses_nothing() {
    // While it waits for its handlers, and while it hands them back.
    for point in [
        None,
        Some(Point::BeforeRelease),
        Some(Point::AfterRelease),
        Some(Point::BeforeClose),
    ] {
        let mut scene = Scene::new();
        let (mut process, to) = match point {
            None => {
                scene.orders.grace = Duration::from_secs(60 * 60);
                scene.start().await
            }
            Some(point) => {
                scene.orders.grace = Duration::ZERO;
                scene.start_marked(point, Act::Die).await
            }
        };
        for number in 0..3 {
            scene
                .accepted(to, &asynchronous(&format!("task-{number}"), GATED, true))
                .await;
        }
        scene.until(|scene| scene.starts().len() == 3).await;
        process.signal(Signal::TERM).unwrap();
        if point.is_none() {
            assert_eq!(process.says().await.unwrap().as_deref(), Some("draining"));
            process.signal(Signal::KILL).unwrap();
        }
        assert_eq!(process.end().await.unwrap(), End::Killed, "{point:?}");

        scene.open_gate();
        let (_process, to) = scene.start().await;
        for task in scene.ended(to, 3).await {
            let as_expected = match point {
                None => task.attempt == 2,
                // When the process dies over one task, others may have been handed back already.
                Some(Point::BeforeRelease | Point::AfterRelease) => task.attempt <= 2,
                _ => task.attempt == 1,
            };
            assert!(as_expected && task.status == "Succeeded", "{point:?}: {task:?}");
        }
    }
}

/// A process used to leave a partial file when it was killed while creating it, which every later process refused as no
/// redb file. Now the file is created under another name, and renamed when it is whole.
#[tokio::test]
async fn a_process_killed_while_it_creates_the_file_leaves_nothing_in_the_way_of_the_next() {
    for pause in (0..40).map(|step| Duration::from_micros(100 * step)) {
        let mut scene = Scene::new();
        scene.orders.role = Role::Hold;
        let mut first = PROGRAM.start(&scene.orders).unwrap();
        assert_eq!(first.says().await.unwrap().as_deref(), Some("opening"));
        sleep(pause).await;
        assert_eq!(first.kill().await.unwrap(), End::Killed);
        RedbStore::open(scene.orders.file()).await.unwrap();
    }
}

#[tokio::test]
async fn a_file_that_another_process_has_open_is_refused_until_that_has_ended() {
    let mut scene = Scene::new();
    scene.orders.role = Role::Hold;
    let path = scene.orders.file();
    for killed in [true, false] {
        let mut holder = PROGRAM.start(&scene.orders).unwrap();
        assert_eq!(holder.says().await.unwrap().as_deref(), Some("opening"));
        assert_eq!(holder.says().await.unwrap().as_deref(), Some("open"));
        let refused = RedbStore::open(&path).await.unwrap_err().to_string();
        let named = refused.contains(&*path.to_string_lossy());
        assert!(named && refused.contains("in use: another process"), "{refused}");
        match killed {
            true => assert_eq!(holder.kill().await.unwrap(), End::Killed),
            false => assert_eq!(holder.abandon().await.unwrap(), End::Clean),
        }

        let here = RedbStore::open(&path).await.unwrap();
        let mut second = PROGRAM.start(&scene.orders).unwrap();
        assert_eq!(second.says().await.unwrap().as_deref(), Some("opening"));
        let refused = second.says().await.unwrap().unwrap();
        assert!(
            refused.contains("tasks.redb") && refused.contains("in use"),
            "{refused}"
        );
        assert!(matches!(second.end().await.unwrap(), End::Other(_)));
        drop(here);
    }
}

/// A folder with a sequence of processes, and their orders.
struct Scene {
    orders: Orders,
    client: Client,
    journal: Reader,
    lines: Vec<Line>,
    _folder: TempDir,
}

impl Scene {
    fn new() -> Self {
        let folder = tempdir().unwrap();
        let orders = Orders::serve(&folder.path().join(""));
        Self {
            journal: Reader::open(&orders.journal()).unwrap(),
            client: Client::new(&orders),
            orders,
            lines: Vec::new(),
            _folder: folder,
        }
    }

    async fn start(&self) -> (Process, SocketAddr) {
        serving(&self.orders).await
    }

    async fn start_marked(&self, point: Point, act: Act) -> (Process, SocketAddr) {
        let mark = Some(Mark { point, passage: 1, act });
        serving(&Orders {
            mark,
            ..self.orders.clone()
        })
        .await
    }

    /// Sends SIGTERM, and expects a clean end.
    async fn end(&self, mut process: Process) {
        process.signal(Signal::TERM).unwrap();
        assert_eq!(process.end().await.unwrap(), End::Clean);
    }

    /// Waits until a process has aborted, or has nothing left to do. Answers whether it aborted.
    async fn dies(&self, process: &mut Process, to: SocketAddr) -> bool {
        soon(async {
            loop {
                if let Some(end) = process.end_within(Duration::from_millis(20)).await.unwrap() {
                    assert_eq!(end, End::Aborted);
                    return true;
                }
                if matches!(self.client.unfinished(to).await, Ok(0)) {
                    return false;
                }
            }
        })
        .await
    }

    async fn accepted(&self, to: SocketAddr, sent: &Request<Bytes>) -> RequestId {
        let reply = self.client.send(to, sent).await.unwrap();
        assert_eq!(reply.status, StatusCode::ACCEPTED);
        id_of(&reply)
    }

    async fn all(&self, to: SocketAddr) -> Vec<Document> {
        self.client.tasks(to, "sortOrderByTime=asc").await.unwrap()
    }

    /// All tasks, as soon as there are at least so many and all have ended.
    async fn ended(&self, to: SocketAddr, tasks: usize) -> Vec<Document> {
        let mut all = Vec::new();
        eventually("all tasks end", async || {
            all = self.all(to).await;
            all.len() >= tasks && all.iter().all(Document::is_terminal)
        })
        .await;
        all
    }

    fn open_gate(&self) {
        fs::write(self.orders.gate(), "").unwrap();
    }

    async fn until(&mut self, mut is_so: impl FnMut(&mut Self) -> bool) {
        eventually("what the journal is to say", async || is_so(self)).await;
    }

    fn lines(&mut self) -> &[Line] {
        self.lines.extend(self.journal.lines().unwrap());
        &self.lines
    }

    /// The attempt and token of every start of a handler.
    fn starts(&mut self) -> Vec<(u32, u64)> {
        let starts = self.lines().iter().filter_map(|line| match line {
            Line::Started { attempt, token, .. } => Some((*attempt, *token)),
            _ => None,
        });
        starts.collect()
    }

    /// The answer of the store to the settlement under the token: the state, or `Some(None)` if it was fenced. `None`
    /// without a settlement.
    fn settled(&mut self, of: u64) -> Option<Option<String>> {
        self.lines().iter().find_map(|line| match line {
            Line::Settled { token, state, .. } if *token == of => Some(state.clone()),
            _ => None,
        })
    }

    fn told(&mut self) -> Vec<Told> {
        let told = self.lines().iter().filter_map(|line| match line {
            Line::Told(told) => Some(told.clone()),
            _ => None,
        });
        told.collect()
    }

    /// The numbers of finished, handed back and dropped tasks of every shutdown.
    fn drained(&mut self) -> Vec<(usize, usize, usize)> {
        let drained = self.lines().iter().filter_map(|line| match line {
            Line::Drained {
                finished,
                handed_back,
                dropped,
            } => Some((*finished, *handed_back, *dropped)),
            _ => None,
        });
        drained.collect()
    }
}

async fn serving(orders: &Orders) -> (Process, SocketAddr) {
    let mut process = PROGRAM.start(orders).unwrap();
    let to = process.address().await.unwrap().expect("it serves before it dies");
    (process, to)
}

fn id_of(reply: &Reply) -> RequestId {
    reply.headers["x-fc-request-id"].to_str().unwrap().parse().unwrap()
}
