//! A disk that fails, fills up, loses its power, or changes bytes.

mod census;
mod cores;
mod flips;
mod life;
mod subject;

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::Request;
use lab::disk::{DiskCall, DiskFault, FaultDisk};
use tempfile::tempdir;
use tower_respond_async::{
    RequestId, RespondAsyncBuilder, Scope, TaskState, TaskStore,
    store::{Insert, StoreErrorKind},
    task::lifecycle::Renewal,
};
use tower_respond_async_redb::RedbStore;

use self::{
    census::{Census, a_task, builder, claim_all, insert_held, new},
    cores::on_all_cores,
    life::{STEPS, World, live},
};
use crate::{
    harness::TaskFile,
    support::{App, WithoutBody, fc, routes, soon},
};

/// What fails in a life: the call of a kind with this number, in this way, or every call from there on.
#[derive(Clone, Copy, Debug)]
struct Trouble {
    call: DiskCall,
    nth: u64,
    /// The fault of this one call; `None`: every call from there on fails.
    once: Option<DiskFault>,
}

/// Runs the same life of a file again and again. Each time another of its reads, writes, changes of length and syncs
/// fails, in each way it can. When the file is opened again, after the end of the process or a power cut, everything
/// that was acknowledged is there, and beyond that only the step that failed, whole or not at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whichever_call_of_a_life_fails_nothing_acknowledged_is_lost() {
    // The file after each step.
    let mut worlds = Vec::new();
    for steps in 0..=STEPS {
        let disk = FaultDisk::new();
        let lived = live(&disk, steps).await;
        assert_eq!(lived.acknowledged, steps);
        worlds.push(World::of(disk.file()).await.unwrap());
        assert!(steps == 0 || worlds[steps] != worlds[steps - 1], "step {steps} is seen");
    }

    let disk = FaultDisk::new();
    live(&disk, STEPS).await.store.unwrap().file.close().await;
    let mut troubles = Vec::new();
    for call in DiskCall::ALL {
        assert!(disk.calls(call) > 1, "{call:?} is called in a life");
        for nth in 1..=disk.calls(call) {
            let faults = DiskFault::ALL.iter().map(|fault| Some(*fault)).chain([None]);
            troubles.extend(faults.map(|once| Trouble { call, nth, once }));
        }
    }

    let lives = on_all_cores(troubles, async move |trouble: &Trouble| {
        let disk = FaultDisk::new();
        match trouble.once {
            Some(fault) => disk.fail_nth(trouble.call, trouble.nth, fault),
            None => disk.die_at_nth(trouble.call, trouble.nth),
        }
        let lived = live(&disk, STEPS).await;
        if let Some(store) = &lived.store {
            soon(store.file.close()).await;
        }
        assert!(!disk.is_in_use(), "it was let go of");
        if trouble.call == DiskCall::Sync && trouble.once != Some(DiskFault::Panic) {
            assert_eq!(
                disk.calls(DiskCall::Sync),
                trouble.nth,
                "a sync that failed is not repeated"
            );
        }
        let acknowledged = lived.acknowledged;
        let mut expected = worlds[acknowledged..].iter().take(2);
        let mut files = vec![disk.file()];
        if trouble.call != DiskCall::Read {
            files.extend((0..2).map(|seed| disk.file_after_power_cut(seed)));
        }
        for file in files {
            let found = World::of(file).await.unwrap();
            let fits = expected.any(|world| *world == found);
            let is = worlds.iter().position(|world| *world == found);
            assert!(
                fits,
                "{acknowledged} steps were acknowledged, and it is as after {is:?}"
            );
            expected = worlds[acknowledged..].iter().take(2);
        }
        acknowledged
    });
    let (mut failed, mut seen) = (Vec::new(), [0; STEPS + 1]);
    for (trouble, life) in lives {
        match life {
            Ok(acknowledged) => seen[acknowledged] += 1,
            Err(what) => failed.push(format!("{trouble:?}: {what}")),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(
        seen.iter().all(|lives| *lives > 0),
        "a life ended at every step: {seen:?}"
    );
}

/// After a disk failure running tasks may go on, callers get an error that says what to do, and cached data can be
/// read.
#[tokio::test]
async fn after_a_failure_nothing_is_written_and_every_call_says_so() {
    let disk = FaultDisk::new();
    let store = TaskFile::from(disk.open(builder()).unwrap());
    let kept = new(store.insert(Insert::new(a_task(1))).await).id;
    let lease = insert_held(&store, a_task(2)).await.lease();
    disk.fail_nth(DiskCall::Sync, 1, DiskFault::Error);
    let failed = store.insert(Insert::new(a_task(3))).await.unwrap_err();
    assert_eq!(failed.kind(), StoreErrorKind::Unavailable);
    let calls = [DiskCall::Write, DiskCall::Sync].map(|call| disk.calls(call));
    let later = store.insert(Insert::new(a_task(4))).await.unwrap_err();
    assert_eq!(later.kind(), StoreErrorKind::Unavailable);
    assert!(later.to_string().contains("open it again"), "{later}");
    assert!(store.file.queue_hint(None, None).failed);
    let renewed = store.file.renew(vec![lease], census::LONG).await.unwrap();
    assert_eq!(renewed, [Renewal::Renewed { stop: false }], "what runs may go on");
    assert_eq!(store.task(kept).await.unwrap().state, TaskState::Enqueued);
    assert_eq!(store.file.counts(&Scope::All).await.unwrap().of(TaskState::Running), 1);
    store.file.close().await;
    assert_eq!([DiskCall::Write, DiskCall::Sync].map(|call| disk.calls(call)), calls);
}

/// redb panics like this on pages that were changed behind its back.
#[tokio::test]
async fn a_panic_inside_redb_stops_the_store_and_not_the_process() {
    let disk = FaultDisk::new();
    let store = TaskFile::from(disk.open(builder()).unwrap());
    let first = new(store.insert(Insert::new(a_task(1))).await).id;
    disk.fail_nth(DiskCall::Sync, 1, DiskFault::Panic);
    let failed = store.insert(Insert::new(a_task(2))).await.unwrap_err();
    assert_eq!(failed.kind(), StoreErrorKind::Corrupt);
    let later = store.insert(Insert::new(a_task(3))).await.unwrap_err();
    assert_eq!(later.kind(), StoreErrorKind::Unavailable);
    assert!(store.file.counts(&Scope::All).await.unwrap().queued() >= 1);
    drop(store);
    assert!(!disk.is_in_use());
    let store = TaskFile::from(disk.open(builder()).unwrap());
    assert!(claim_all(&store).await.unwrap().contains(&first));
}

/// Nothing polls the future: the insert is there or not, but whole, and the store goes on.
#[tokio::test]
async fn a_dropped_operation_leaves_nothing_half_done() {
    let disk = FaultDisk::new();
    let store = TaskFile::from(disk.open(builder()).unwrap());
    for number in 0..100 {
        let insert = store.insert(Insert::new(a_task(number)));
        let _ = tokio::time::timeout(Duration::ZERO, insert).await;
    }
    let last = new(store.insert(Insert::new(a_task(200))).await).id;
    let found = claim_all(&store).await.unwrap();
    assert!(found.contains(&last));
    for id in found {
        assert!(store.request(&Scope::All, id).await.unwrap().is_some());
    }
}

/// The application over a store on `disk`.
async fn application(disk: &FaultDisk, configure: impl FnOnce(RespondAsyncBuilder) -> RespondAsyncBuilder) -> App {
    let store = disk.open(RedbStore::builder()).unwrap();
    App::build(store, routes(), |builder| {
        let quick = builder
            .stop_grace(Duration::from_millis(10))
            .store_timeout(Duration::from_secs(5))
            .lease(Duration::from_secs(3600));
        configure(quick)
    })
}

fn body_of(number: usize) -> Vec<u8> {
    let length = 2_000 + number % 7 * 3_000;
    number.to_le_bytes().into_iter().cycle().take(length).collect()
}

/// Sends async requests, several at a time, until one is refused. Answers with those that were accepted.
async fn fill(app: &App) -> Vec<(RequestId, usize)> {
    let mut senders = Vec::new();
    for sender in 0..8 {
        let app = app.clone();
        senders.push(tokio::spawn(async move {
            let mut accepted = Vec::new();
            for number in (sender..).step_by(8) {
                let answer = app.send(fc("/echo").with(body_of(number))).await;
                if answer.status != 202 {
                    answer.assert_refused(503, "StoreUnavailable", Some("5"));
                    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
                    assert!(detail.contains("again under the same"), "it says what to do: {detail}");
                    return accepted;
                }
                accepted.push((answer.id(), number));
            }
            unreachable!("the disk has an end")
        }));
    }
    let mut accepted = Vec::new();
    for sender in senders {
        accepted.extend(soon(sender).await.unwrap());
    }
    accepted
}

/// The disk is full.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_requests_and_loses_none_that_it_took() {
    let disk = FaultDisk::new();
    let app = application(&disk, |builder| builder.concurrency(2)).await;
    assert!(app.tasks.is_ready());
    disk.set_capacity(Some(disk.used() + 1_500_000));
    let accepted = fill(&app).await;
    assert!(accepted.len() > 20, "{} were accepted", accepted.len());

    assert!(!app.tasks.is_ready(), "whoever watches the process can restart it");
    app.send(fc("/echo").with("later"))
        .await
        .assert_refused(503, "StoreUnavailable", Some("5"));
    let synchronous = app.send(Request::post("/echo").with("now")).await;
    assert_eq!((synchronous.status, &synchronous.body[..]), (200, &b"now"[..]));
    assert_eq!(app.get("/tasks/stats").await.status, 200);
    let mut readable = 0;
    for (id, _) in &accepted {
        let shown = app.get(format!("/tasks/{id}")).await.status;
        assert!(matches!(shown, 200 | 503), "{shown}");
        readable += usize::from(shown == 200);
    }
    assert!(readable > 0, "what is in the cache is shown");
    soon(app.tasks.shutdown(Duration::ZERO)).await;
    assert!(!disk.is_in_use());

    disk.set_capacity(None);
    let app = application(&disk, |builder| builder).await;
    assert!(app.tasks.is_ready());
    for (id, number) in accepted {
        assert_eq!(app.response(id).await.body, body_of(number));
    }
    soon(app.tasks.shutdown(Duration::ZERO)).await;
}

/// A full disk on a real file system: the system limits the files of a child process to half a megabyte. The child ends
/// without closing its store, and the next process, without a limit, finds everything that was acknowledged.
#[cfg(unix)]
#[test]
fn a_real_file_that_may_not_grow_loses_nothing_that_was_taken() {
    const SELF: &str = "disk::a_real_file_that_may_not_grow_loses_nothing_that_was_taken";
    const PATH: &str = "RESPOND_ASYNC_FILE_THAT_MAY_NOT_GROW";
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if let Some(path) = std::env::var_os(PATH) {
        runtime.block_on(async {
            let store = RedbStore::open(path).await.unwrap();
            let app = App::build(store, routes(), |builder| builder.concurrency(1));
            for (id, number) in fill(&app).await {
                println!("\nACCEPTED {id} {number}");
            }
            println!("\nREADY {}", app.tasks.is_ready());
        });
        std::process::exit(0);
    }
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.redb");
    // The shell's unit is 512 bytes. With the signal ignored, the write answers with an error.
    let script = "trap '' XFSZ; ulimit -f 1024; exec \"$@\"";
    let child = std::process::Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", SELF, "--nocapture"])
        .env(PATH, &path)
        .output()
        .unwrap();
    let said = String::from_utf8(child.stdout).unwrap();
    assert!(
        said.contains("READY false"),
        "{said} {}",
        String::from_utf8_lossy(&child.stderr)
    );
    let accepted: Vec<(RequestId, usize)> = said
        .lines()
        .filter_map(|line| line.strip_prefix("ACCEPTED ")?.split_once(' '))
        .map(|(id, number)| (id.parse().unwrap(), number.parse().unwrap()))
        .collect();
    assert!(accepted.len() > 3, "{said}");
    runtime.block_on(async {
        let store = RedbStore::open(&path).await.unwrap();
        let app = App::build(store, routes(), |builder| builder);
        for (id, number) in accepted {
            assert_eq!(app.response(id).await.body, body_of(number));
        }
        soon(app.tasks.shutdown(Duration::ZERO)).await;
    });
}

/// A power cut leaves any part of the unsynced data, in any order: every request that had its 202 is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_202_survives_a_power_cut_under_load() {
    let disk = FaultDisk::new();
    let app = application(&disk, |builder| builder.concurrency(2)).await;
    let over = Arc::new(AtomicBool::new(false));
    let accepted = Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut senders = Vec::new();
    for sender in 0..4 {
        let (app, over, accepted) = (app.clone(), over.clone(), accepted.clone());
        senders.push(tokio::spawn(async move {
            for number in (sender..).step_by(4) {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let id = app.accepted(fc("/echo").with(body_of(number))).await;
                accepted.lock().unwrap().push((id, number));
            }
        }));
    }
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut cuts = Vec::new();
    for cut in 0..25 {
        let known = accepted.lock().unwrap().len();
        let more = async {
            while accepted.lock().unwrap().len() < known + 3 {
                tokio::task::yield_now().await;
            }
        };
        soon(more).await;
        let acknowledged = accepted.lock().unwrap().clone();
        cuts.push((acknowledged, disk.file_after_power_cut(seed.wrapping_add(cut))));
    }
    over.store(true, Ordering::Relaxed);
    for sender in senders {
        soon(sender).await.unwrap();
    }
    soon(app.tasks.shutdown(Duration::ZERO)).await;

    for (number, (acknowledged, file)) in cuts.into_iter().enumerate() {
        let store = TaskFile::from(FaultDisk::holding(file).open(RedbStore::builder()).unwrap());
        for (id, body) in acknowledged {
            let request = store.request(&Scope::All, id).await.unwrap();
            let request = request.unwrap_or_else(|| panic!("seed {seed}, cut {number}: {id} is lost"));
            assert_eq!(request.body, body_of(body));
        }
    }
}

/// A file that was cut short is refused and left as it is, except if a kill left it, or if nothing of it is missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_cut_short_at_any_page_is_refused_or_whole() {
    for killed in [false, true] {
        let disk = FaultDisk::new();
        let Census { store, tasks } = Census::take(&disk, |settings| settings).await;
        let open = disk.file();
        store.file.close().await;
        let file = if killed { open } else { disk.file() };
        let pages = (0..file.len()).step_by(4096);
        let lengths: Vec<usize> = pages.flat_map(|at| [at, at + 1, at + 511, at + 4095]).collect();
        let tasks = Arc::new(tasks);
        let fates = on_all_cores(lengths, async move |length: &usize| {
            let file = file[..*length].to_vec();
            let disk = FaultDisk::holding(file.clone());
            match disk.open(builder()) {
                Err(error) => {
                    assert!(error.to_string().contains("a disk in memory"), "{error}");
                    assert_eq!(error.kind(), StoreErrorKind::Corrupt, "{error}");
                    // Opening a file that a kill left begins with a repair.
                    assert!(killed || disk.file() == file, "{error}: it was left as it is");
                    true
                }
                // An empty file is a new one.
                Ok(store) if *length == 0 => {
                    assert_eq!(
                        store
                            .counts(&Scope::All)
                            .await
                            .unwrap()
                            .iter()
                            .map(|(_, n)| n)
                            .sum::<u64>(),
                        0
                    );
                    false
                }
                Ok(store) => {
                    let (store, mut compared) = (TaskFile::from(store), census::Compared::default());
                    for known in tasks.iter() {
                        known.compare(&store, &mut compared).await;
                    }
                    assert_eq!(compared.whole, tasks.len(), "{compared:?}");
                    false
                }
            }
        });
        let refused = fates.iter().filter(|(_, refused)| *refused == Ok(true)).count();
        let wrong: Vec<_> = fates.iter().filter(|(_, fate)| fate.is_err()).collect();
        assert!(wrong.is_empty(), "killed {killed}: {wrong:?}");
        assert!(refused > 10, "{refused} of {} were refused", fates.len());
    }
}

/// If this file were refused, an application killed at its first start could never start again.
#[tokio::test]
async fn a_creation_that_was_cut_off_is_begun_again_and_nothing_else_is_taken_for_one() {
    let disk = FaultDisk::new();
    drop(disk.open(builder()).unwrap());
    let whole = disk.file();
    let mut unfinished = whole.clone();
    unfinished[..9].fill(0);
    unfinished[512..].fill(0);
    for file in [unfinished.clone(), vec![0; 12_345]] {
        let store = TaskFile::from(FaultDisk::holding(file).open(builder()).unwrap());
        new(store.insert(Insert::new(a_task(1))).await);
    }

    let last = unfinished.len() - 1;
    for (at, byte) in [(0, b'x'), (8, 1), (512, 1), (last, 1)] {
        let mut theirs = unfinished.clone();
        theirs[at] = byte;
        let disk = FaultDisk::holding(theirs.clone());
        let refused = disk.open(builder()).unwrap_err();
        assert_eq!(refused.kind(), StoreErrorKind::Corrupt, "{at}");
        assert!(disk.file() == theirs, "byte {at}: it was left as it is");
    }

    // The same on a real disk, with the lock between two processes that start at once.
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.redb");
    fs::write(&path, &unfinished).unwrap();
    let store = TaskFile::at(&path).await;
    let task = new(store.insert(Insert::new(a_task(1))).await).id;
    let refused = RedbStore::open(&path).await.unwrap_err();
    assert!(refused.to_string().contains("in use"), "{refused}");
    store.file.close().await;
    assert!(TaskFile::at(&path).await.task(task).await.is_ok());
}

/// Each error contains the path, which may be mistyped.
#[tokio::test]
async fn what_cannot_be_a_file_of_tasks_is_refused_by_its_path() {
    let folder = tempdir().unwrap();
    fs::create_dir(folder.path().join("folder")).unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let mut paths = vec![
        folder.path().join("folder"),
        folder.path().join("no/parent/tasks.redb"),
        folder.path().join("file/tasks.redb"),
        folder.path().join("long".repeat(100)),
    ];
    if cfg!(target_os = "linux") {
        // No user can create a file there.
        paths.push("/sys/tasks.redb".into());
        paths.push("/dev/full".into());
    }
    for path in paths {
        let refused = RedbStore::open(&path).await.unwrap_err();
        assert_ne!(refused.kind(), StoreErrorKind::Incompatible, "{refused}");
        let text = refused.to_string();
        assert!(text.contains(path.to_str().unwrap()), "{text}");
    }
    assert!(folder.path().join("folder").is_dir());
    let store = TaskFile::at(&folder.path().join("file")).await;
    new(store.insert(Insert::new(a_task(1))).await);
    assert_eq!(claim_all(&store).await.unwrap().len(), 1, "an empty file is a new one");
}
