//! Bytes of a small file changed in turn, each in a file of its own.
//!
//! Every flip is tried in a child process: what a changed byte may do at its worst is to end the process, and to see that
//! takes another one.

use std::{
    collections::BTreeMap,
    fmt,
    io::{BufRead, BufReader},
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend, TableHandle, backends::InMemoryBackend};
use tower_respond_async::{
    Scope, TaskStore,
    store::{Insert, QuickRepair, RedbStoreBuilder, StoreErrorKind},
    testing::FaultDisk,
};

use super::census::{Census, Compared, Known, a_task, builder, claim_all, listed};
use crate::redb::harness::table;

/// A file, and what is in it.
struct Subject {
    image: Vec<u8>,
    tasks: Vec<Known>,
    settings: RedbStoreBuilder,
}

/// A bit or several of one byte, changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Flip {
    at: usize,
    mask: u8,
}

/// What became of a file with a flip.
#[derive(Clone, Debug)]
#[expect(dead_code, reason = "what is in it is shown where a fate is not as it should be")]
enum Fate {
    /// It was not opened.
    Refused {
        kind: StoreErrorKind,
        text: String,
        /// Not a byte of it was written.
        untouched: bool,
    },
    Opened(Opened),
    /// A panic came out of the store.
    Escaped(String),
}

#[derive(Clone, Debug, Default)]
struct Opened {
    compared: Compared,
    /// How many values were set aside.
    set_aside: u64,
    /// How many of the tasks were listed.
    listed: usize,
    /// How many of the tasks that waited could be claimed.
    claimed: usize,
    /// Whether a task that was acknowledged after that is there when the file is opened once more, if it can be.
    kept: Kept,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Kept {
    #[default]
    NotAcknowledged,
    Whole,
    /// It is said to be damaged.
    Damaged,
    /// The file is refused.
    Refused,
    Lost,
}

/// Which file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum File {
    /// One that was closed.
    Closed,
    /// One whose process was killed.
    Killed,
    /// The same, with quick repair.
    KilledQuick,
}

impl File {
    const ALL: [Self; 3] = [Self::Closed, Self::Killed, Self::KilledQuick];
}

impl Subject {
    async fn new(file: File) -> Self {
        let settings = builder().quick_repair(match file {
            File::KilledQuick => QuickRepair::Always,
            _ => QuickRepair::Never,
        });
        let disk = FaultDisk::new();
        let Census { store, tasks } = Census::take(&disk, |_| settings.clone()).await;
        let image = disk.file();
        store.close().await;
        Self {
            image: if file == File::Closed { disk.file() } else { image },
            tasks,
            settings,
        }
    }

    /// Where values stand in the file; those of older versions of a page among them.
    fn values(&self) -> Vec<Range<usize>> {
        let backend = InMemoryBackend::new();
        backend.set_len(self.image.len() as u64).unwrap();
        backend.write(0, &self.image).unwrap();
        let database = Database::builder().create_with_backend(backend).unwrap();
        let transaction = database.begin_read().unwrap();
        let mut found = Vec::new();
        for handle in transaction.list_tables().unwrap() {
            // Its only value says whose the file is.
            if handle.name() == "meta" {
                continue;
            }
            for entry in transaction.open_table(table(handle.name())).unwrap().iter().unwrap() {
                let (_, value) = entry.unwrap();
                let value = value.value();
                if value.is_empty() {
                    continue;
                }
                let places = self.image.windows(value.len()).enumerate();
                let places = places.filter(|(_, window)| *window == value);
                found.extend(places.map(|(at, _)| at..at + value.len()));
            }
        }
        found
    }

    /// Which bytes are read when nothing is wrong with them: no other can make a difference.
    async fn read(&self) -> Vec<bool> {
        let disk = FaultDisk::holding(self.image.clone());
        let fate = self.fate_of(&disk).await;
        assert!(
            matches!(&fate, Fate::Opened(opened) if opened.is_well(self)),
            "{fate:?}"
        );
        (0..self.image.len()).map(|at| disk.was_read(at)).collect()
    }

    async fn fate(&self, flip: Flip) -> Fate {
        let mut image = self.image.clone();
        image[flip.at] ^= flip.mask;
        self.fate_of(&FaultDisk::holding(image)).await
    }
    async fn fate_of(&self, disk: &FaultDisk) -> Fate {
        let image = disk.file();
        let store = match disk.open(self.settings.clone()) {
            Ok(store) => store,
            Err(error) => {
                assert!(!disk.is_in_use(), "it was let go of");
                return Fate::Refused {
                    kind: error.kind(),
                    text: error.to_string(),
                    untouched: disk.file() == image,
                };
            }
        };
        let mut opened = Opened::default();
        for known in self.tasks.iter() {
            known.compare(&store, &mut opened.compared).await;
        }
        opened.listed = listed(&store).await.map_or(0, |listed| listed.len());
        opened.claimed = claim_all(&store).await.map_or(0, |claimed| claimed.len());
        let new = a_task(77);
        let acknowledged = store.insert(Insert::new(new.clone())).await.is_ok();
        opened.set_aside = store.set_aside().await.unwrap_or(0);
        store.close().await;
        assert!(!disk.is_in_use(), "it was let go of");
        if acknowledged {
            opened.kept = match disk.open(self.settings.clone()) {
                Err(_) => Kept::Refused,
                Ok(store) => {
                    let found = store.find(&Scope::All, &new.id.into()).await;
                    let input = store.input(&Scope::All, new.id).await;
                    match (found, input) {
                        (Ok(Some(_)), Ok(Some(input))) if input == new.input => Kept::Whole,
                        (Err(_), _) | (_, Err(_)) => Kept::Damaged,
                        _ => Kept::Lost,
                    }
                }
            };
        }
        Fate::Opened(opened)
    }
}

impl Opened {
    fn is_well(&self, subject: &Subject) -> bool {
        self.compared.whole == subject.tasks.len() && self.compared.wrong.is_empty() && self.kept == Kept::Whole
    }
}

/// What a flip did, in a word, and whether that may be.
fn verdict(file: File, in_value: bool, subject: &Subject, fate: &Fate) -> Result<&'static str, &'static str> {
    let opened = match fate {
        Fate::Escaped(_) => return Err("a panic came out of the store"),
        Fate::Refused { text, .. } if !text.contains("a disk in memory") => {
            return Err("the error does not name the file");
        }
        Fate::Refused { untouched, .. } => {
            return match (in_value, file, untouched) {
                // Opening a file that was left by a kill checks all of its pages.
                (true, File::Closed | File::KilledQuick, _) => Err("refused for one value"),
                (_, _, true) => Ok("refused, not a byte written"),
                (_, _, false) => Ok("refused after redb had opened it"),
            };
        }
        Fate::Opened(opened) => opened,
    };
    let compared = &opened.compared;
    let total = subject.tasks.len();
    // The stop of the third task is the last commit before the kill.
    let undone = [format!("record of {}", subject.tasks[2].record.id)];
    if file == File::Killed && compared.wrong == undone && compared.whole == total {
        return Ok("the last commit is undone");
    }
    if !compared.wrong.is_empty() {
        return Err("a wrong value was handed out");
    }
    if opened.kept == Kept::Lost {
        return Err("a task that was acknowledged after that is lost");
    }
    if opened.is_well(subject) && opened.set_aside == 0 {
        return Ok("nothing");
    }
    if in_value {
        let alone = compared.whole >= total - 1 && compared.damaged <= 1 && compared.missing + compared.partly == 0;
        let goes_on = opened.kept == Kept::Whole && opened.listed >= total - 1 && !compared.stopped;
        // Four can be claimed; a value costs its own task only.
        return match alone && goes_on && opened.claimed >= 3 {
            true => Ok("one record is damaged"),
            false => Err("one value cost more than its record"),
        };
    }
    if compared.missing > 0 && opened.set_aside == 0 && !compared.stopped {
        return Err("tasks are gone without a word");
    }
    Ok(match () {
        () if compared.stopped || opened.kept == Kept::NotAcknowledged => "the store stopped",
        () if compared.missing > 0 => "keys are damaged, and their values set aside",
        () if compared.partly > 0 => "a log or a name is gone",
        () => "several records are damaged",
    })
}

/// What is tried: the flips of one file, by the seed that chose them.
#[derive(Clone, Copy, Debug)]
struct Plan {
    file: File,
    seed: u64,
    /// How many flips at most, of bytes in values and of others; all, if there is no end to it.
    flips: Option<usize>,
}

impl Plan {
    /// The flips, those in values first; the same for parent and child.
    async fn flips(&self, subject: &Subject) -> Vec<(Flip, bool)> {
        let mut random = fastrand::Rng::with_seed(self.seed);
        let (read, values) = (subject.read().await, subject.values());
        let (mut inside, mut outside) = (Vec::new(), Vec::new());
        for at in (0..subject.image.len()).filter(|at| read[*at]) {
            let in_value = values.iter().any(|range| range.contains(&at));
            // All bits of a byte, or one of them.
            let mask = if random.bool() { 0xff } else { 1 << random.u8(0..8) };
            let kind = if in_value { &mut inside } else { &mut outside };
            kind.push((Flip { at, mask }, in_value));
        }
        assert!(
            inside.len() > 5_000 && outside.len() > 5_000,
            "{} and {}",
            inside.len(),
            outside.len()
        );
        for kind in [&mut inside, &mut outside] {
            if let Some(flips) = self.flips {
                random.shuffle(kind);
                kind.truncate(flips);
            }
        }
        inside.append(&mut outside);
        inside
    }

    fn of(text: &str) -> Self {
        let mut parts = text.split(' ').map(|part| part.parse::<u64>().unwrap());
        let mut next = || parts.next().unwrap();
        Self {
            file: File::ALL[next() as usize],
            seed: next(),
            flips: Some(next() as usize).filter(|flips| *flips > 0),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.file as u8, self.seed, self.flips.unwrap_or(0))
    }
}

const PLAN: &str = "RESPOND_ASYNC_FLIPS_PLAN";
const PART: &str = "RESPOND_ASYNC_FLIPS_PART";

/// The child: tries the flips from `from` to `to`, and says of each what became of it.
fn try_part(plan: Plan, part: Range<usize>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.unwrap();
    let subject = runtime.block_on(Subject::new(plan.file));
    let flips = runtime.block_on(plan.flips(&subject));
    println!("\nFLIPS {}", flips.len());
    for (number, (flip, in_value)) in flips.into_iter().enumerate().take(part.end).skip(part.start) {
        let fate = catch_unwind(AssertUnwindSafe(|| runtime.block_on(subject.fate(flip))));
        let fate = fate.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            Fate::Escaped(text.unwrap_or_default())
        });
        match verdict(plan.file, in_value, &subject, &fate) {
            Ok(word) => println!("\nFLIP {number} fine {word}"),
            Err(wrong) => println!("\nFLIP {number} wrong {wrong}: {flip:?} in a value: {in_value}, {fate:?}"),
        }
    }
}

/// How long a flip may take before it counts as never ending.
const DEADLINE: Duration = Duration::from_secs(120);

/// Has children try a part of the flips, one child after the other if one does not live to the end of it.
fn see_part(test: &str, plan: Plan, part: Range<usize>, tell: &mpsc::Sender<(usize, Result<String, String>)>) {
    let mut from = part.start;
    while from < part.end {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env(PLAN, plan.to_string())
            .env(PART, format!("{from} {}", part.end))
            .env("RUST_BACKTRACE", "0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (line, lines) = mpsc::channel();
        let reader = thread::spawn(move || {
            output
                .lines()
                .map_while(Result::ok)
                .try_for_each(|text| line.send(text))
        });
        let ended = loop {
            let text = match lines.recv_timeout(DEADLINE) {
                Ok(text) => text,
                Err(mpsc::RecvTimeoutError::Disconnected) => break Ok("it ended the process".to_owned()),
                Err(mpsc::RecvTimeoutError::Timeout) => break Err("there was no end to it".to_owned()),
            };
            let Some(rest) = text.strip_prefix("FLIP ") else {
                continue;
            };
            let (number, rest) = rest.split_once(' ').unwrap();
            let number: usize = number.parse().unwrap();
            assert_eq!(number, from, "they come in order");
            let told = match rest.split_once(' ').unwrap() {
                ("fine", word) => Ok(word.to_owned()),
                (_, wrong) => Err(wrong.to_owned()),
            };
            tell.send((number, told)).unwrap();
            from += 1;
        };
        let _ = child.kill();
        let status = child.wait().unwrap();
        let _ = reader.join();
        if from < part.end {
            assert!(!status.success(), "a child that is well does all it is told");
            tell.send((from, ended)).unwrap();
            from += 1;
        }
    }
}

/// S49. One byte, or one bit, of a small file is changed: values of records, requests, responses, logs, names and keys,
/// and redb's own pages between them.
///
/// - No panic comes out of the store, and no value that is not what was stored.
/// - A value costs its own record, and everything else goes on.
/// - redb's own pages can cost more, and are said to: the file is refused by its name, or the store stops, or values are
///   counted as set aside. A few in ten thousand end the process, since redb panics over its own list of free pages
///   while it cleans up after a panic.
/// - A file that a kill left is checked whole as it is opened, and redb takes a changed byte for a commit that was cut
///   off: then the last commit is undone, or the file is refused; with quick repair it is not.
///
/// A few hundred bytes, chosen anew each time; `RESPOND_ASYNC_FLIPS=all cargo test --release ...` tries every byte that is
/// ever read.
#[test]
fn a_changed_byte_costs_its_own_record_or_is_refused_and_is_never_handed_out() {
    const SELF: &str = "disk::flips::a_changed_byte_costs_its_own_record_or_is_refused_and_is_never_handed_out";
    if let (Ok(plan), Ok(part)) = (std::env::var(PLAN), std::env::var(PART)) {
        let (from, to) = part.split_once(' ').unwrap();
        return try_part(Plan::of(&plan), from.parse().unwrap()..to.parse().unwrap());
    }
    let flips = match std::env::var("RESPOND_ASYNC_FLIPS").as_deref() {
        Ok("all") => None,
        Ok(flips) => Some(flips.parse().unwrap()),
        Err(_) => Some(120),
    };
    let seed = match std::env::var("RESPOND_ASYNC_FLIPS_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => fastrand::u64(..),
    };
    println!("RESPOND_ASYNC_FLIPS_SEED={seed}");
    let mut wrong = Vec::new();
    for file in File::ALL {
        let plan = Plan { file, seed, flips };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let (total, in_values) = runtime.block_on(async {
            let flips = plan.flips(&Subject::new(file).await).await;
            (flips.len(), flips.iter().filter(|(_, in_value)| *in_value).count())
        });
        let (tell, told) = mpsc::channel();
        let threads = thread::available_parallelism().map_or(2, usize::from);
        let each = total.div_ceil(threads);
        for number in 0..threads {
            let (tell, part) = (tell.clone(), number * each..total.min((number + 1) * each));
            thread::spawn(move || see_part(SELF, plan, part, &tell));
        }
        drop(tell);
        let mut fates = BTreeMap::<_, usize>::new();
        let mut seen = 0;
        for (number, fate) in told {
            seen += 1;
            let place = if number < in_values { "value" } else { "page" };
            match fate {
                // It is redb that ends it, and never over a value.
                Ok(word) if word != "it ended the process" || number >= in_values => {
                    *fates.entry((place, word)).or_default() += 1;
                }
                Ok(word) | Err(word) => wrong.push(format!("{file:?}, flip {number} in a {place}: {word}")),
            }
        }
        assert_eq!(seen, total, "each flip has its fate");
        println!("{file:?}: {in_values} flips in values, {} in pages", total - in_values);
        for ((place, word), count) in &fates {
            println!("  {count:6} in a {place}: {word}");
        }
        let costs = fates.get(&("value", "one record is damaged".to_owned()));
        assert!(file == File::Killed || costs.is_some(), "flips were seen: {fates:?}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
