//! Changes the bytes of a small file one at a time, each in a fresh copy of the file.
//!
//! Every flip runs in a child process, because the worst effect of a changed byte is that it ends the process.

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

use super::subject::{Fate, File, Flip, Kept, Subject};

/// The effect of a flip, in short: `Ok` if it is allowed, `Err` if not.
fn verdict(file: File, in_value: bool, subject: &Subject, fate: &Fate) -> Result<&'static str, &'static str> {
    let opened = match fate {
        Fate::Escaped(_) => return Err("a panic came out of the store"),
        Fate::Refused { text, .. } if !text.contains("a disk in memory") => {
            return Err("the error does not name the file");
        }
        Fate::Refused { untouched, .. } => {
            return match (in_value, file, untouched) {
                // Opening a file that a kill left checks all of its pages.
                (true, File::Closed | File::KilledQuick | File::Small, _) => Err("refused for one value"),
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
        // A damaged value may cost its own task only.
        return match alone && goes_on && opened.claimed + 1 >= subject.claimable {
            true => Ok("one record is damaged"),
            false => Err("one value cost more than its record"),
        };
    }
    let stopped = compared.stopped || opened.kept == Kept::NotAcknowledged;
    if compared.missing > 0 && opened.set_aside == 0 && !stopped {
        return Err("tasks are gone without a word");
    }
    Ok(match () {
        () if stopped => "the store stopped",
        () if compared.missing > 0 => "keys are damaged, and their values set aside",
        () if compared.partly > 0 => "a log or a name is gone",
        () => "several records are damaged",
    })
}

/// The flips of one file to try, and the seed that chooses them.
#[derive(Clone, Debug)]
struct Plan {
    file: File,
    seed: u64,
    which: Which,
}

/// Which of the bytes that are read.
#[derive(Clone, Debug)]
enum Which {
    /// So many in values, and so many others.
    Some(usize),
    All,
    /// All, [`GROUP`] of them at once.
    Groups,
    /// All in these groups, one by one.
    In(Vec<usize>),
}

/// How many bytes are changed at once to find out whether they are ever used.
const GROUP: usize = 32;

impl Plan {
    /// The flips, those in values first. Parent and child compute the same list.
    async fn flips(&self, subject: &Subject) -> Vec<(Flip, bool)> {
        let mut random = fastrand::Rng::with_seed(self.seed);
        let read = subject.read().await;
        let values = subject.values(&read);
        let (mut inside, mut outside) = (Vec::new(), Vec::new());
        let bytes = if matches!(self.which, Which::Groups) { GROUP } else { 1 };
        for at in (0..subject.image.len()).step_by(bytes).filter(|at| read[*at]) {
            let in_value = values.iter().any(|range| range.start < at + bytes && at < range.end);
            // All bits of a byte, or one of them.
            let mask = if random.bool() { 0xff } else { 1 << random.u8(0..8) };
            let kind = if in_value { &mut inside } else { &mut outside };
            kind.push((Flip { at, bytes, mask }, in_value));
        }
        assert!(
            inside.len() * bytes > 1_000 && outside.len() * bytes > 5_000,
            "{} and {}",
            inside.len(),
            outside.len()
        );
        for kind in [&mut inside, &mut outside] {
            match &self.which {
                Which::Some(flips) => {
                    random.shuffle(kind);
                    kind.truncate(*flips);
                }
                Which::In(groups) => kind.retain(|(flip, _)| groups.binary_search(&(flip.at / GROUP)).is_ok()),
                Which::All | Which::Groups => {}
            }
        }
        inside.append(&mut outside);
        inside
    }

    fn of(text: &str) -> Self {
        let mut parts = text.split(' ');
        let mut next = || parts.next().unwrap();
        Self {
            file: File::ALL[next().parse::<usize>().unwrap()],
            seed: next().parse().unwrap(),
            which: match next() {
                "all" => Which::All,
                "groups" => Which::Groups,
                "in" => Which::In(parts.map(|group| group.parse().unwrap()).collect()),
                some => Which::Some(some.parse().unwrap()),
            },
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ", self.file as u8, self.seed)?;
        match &self.which {
            Which::Some(flips) => flips.fmt(f),
            Which::All => f.write_str("all"),
            Which::Groups => f.write_str("groups"),
            Which::In(groups) => {
                f.write_str("in")?;
                groups.iter().try_for_each(|group| write!(f, " {group}"))
            }
        }
    }
}

const PLAN: &str = "RESPOND_ASYNC_FLIPS_PLAN";
const PART: &str = "RESPOND_ASYNC_FLIPS_PART";

/// In the child: tries the flips of `part`, and prints the fate of each.
fn try_part(plan: &Plan, part: Range<usize>) {
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

/// The fate of a flip that ends its process.
const ENDED: &str = "it ended the process";

/// How long a flip may take before it counts as hanging.
const DEADLINE: Duration = Duration::from_secs(120);

/// Tries a part of the flips in a child. If the child ends early, another child goes on.
fn see_part(test: &str, plan: &Plan, part: Range<usize>, tell: &mpsc::Sender<(usize, Result<String, String>)>) {
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
                Err(mpsc::RecvTimeoutError::Disconnected) => break Ok(ENDED.to_owned()),
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

/// One byte, or one bit, of a small file is changed: in values of records, requests, responses, logs, names and keys,
/// and in redb's own pages between them.
///
/// - The store does not panic, and hands out no value other than what was stored.
/// - A changed value costs its own record, and everything else goes on.
/// - A changed page of redb can cost more, and that is reported: the file is refused with its name, or the store stops,
///   or values are counted as set aside. Some changes end the process: with a senseless list of free pages redb panics
///   in its commit, and again in a destructor while unwinding, which cannot be caught.
/// - A file that a kill left is checked whole when it is opened, and redb takes a changed byte for an interrupted
///   commit: the last commit is undone, or the file is refused. With quick repair there is no such check.
///
/// Each run tries every byte of a file with three tasks: unused bytes by the [`GROUP`], the others one by one. Of
/// larger files it tries a few hundred random bytes. `RESPOND_ASYNC_FLIPS=all cargo test --release ...` tries every
/// byte of them that is ever read, which takes two cores about ten minutes.
#[test]
fn a_changed_byte_costs_its_own_record_or_is_refused_and_is_never_handed_out() {
    const SELF: &str = "disk::flips::a_changed_byte_costs_its_own_record_or_is_refused_and_is_never_handed_out";
    if let (Ok(plan), Ok(part)) = (std::env::var(PLAN), std::env::var(PART)) {
        let (from, to) = part.split_once(' ').unwrap();
        return try_part(&Plan::of(&plan), from.parse().unwrap()..to.parse().unwrap());
    }
    let which = match std::env::var("RESPOND_ASYNC_FLIPS").as_deref() {
        Ok("all") => Which::All,
        Ok(flips) => Which::Some(flips.parse().unwrap()),
        Err(_) => Which::Some(120),
    };
    let seed = match std::env::var("RESPOND_ASYNC_FLIPS_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => fastrand::u64(..),
    };
    println!("RESPOND_ASYNC_FLIPS_SEED={seed}");
    let mut wrong = Vec::new();
    for file in File::ALL {
        let which = match file {
            File::Small => Which::In(looked_at(SELF, seed)),
            _ => which.clone(),
        };
        let mut fates = BTreeMap::<_, usize>::new();
        let plan = Plan { file, seed, which };
        let seen = see(SELF, &plan);
        let in_values = seen.iter().filter(|(_, in_value, _)| *in_value).count();
        println!(
            "{file:?}: {in_values} flips in values, {} in pages",
            seen.len() - in_values
        );
        for (flip, in_value, fate) in seen {
            let place = if in_value { "value" } else { "page" };
            match fate {
                Ok(word) if word == ENDED && in_value => wrong.push(format!("{file:?}, {flip:?} in a value: {word}")),
                Ok(word) => {
                    if word == ENDED {
                        println!("  {flip:?} ended the process");
                    }
                    *fates.entry((place, word)).or_default() += 1;
                }
                Err(word) => wrong.push(format!("{file:?}, {flip:?} in a {place}: {word}")),
            }
        }
        for ((place, word), count) in &fates {
            println!("  {count:6} in a {place}: {word}");
        }
        let costs = fates.get(&("value", "one record is damaged".to_owned()));
        assert!(file == File::Killed || costs.is_some(), "flips were seen: {fates:?}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The groups of the small file that make a difference when all of their bytes are changed at once. The bytes of other
/// groups are never used.
fn looked_at(test: &'static str, seed: u64) -> Vec<usize> {
    let which = Which::Groups;
    let file = File::Small;
    let seen = see(test, &Plan { file, seed, which });
    let total = seen.len();
    let differ = seen.into_iter().filter(|(_, _, fate)| fate.as_deref() != Ok("nothing"));
    let mut groups: Vec<_> = differ.map(|(flip, ..)| flip.at / GROUP).collect();
    groups.sort_unstable();
    println!("{file:?}: {} of {total} groups are looked at", groups.len());
    groups
}

/// Tries the flips of a plan in children. Answers for each whether it is in a value, and its fate.
fn see(test: &'static str, plan: &Plan) -> Vec<(Flip, bool, Result<String, String>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.unwrap();
    let flips = runtime.block_on(async { plan.flips(&Subject::new(plan.file).await).await });
    let total = flips.len();
    let (tell, told) = mpsc::channel();
    let threads = thread::available_parallelism().map_or(2, usize::from);
    let each = total.div_ceil(threads);
    for number in 0..threads {
        let (tell, plan) = (tell.clone(), plan.clone());
        let part = number * each..total.min((number + 1) * each);
        thread::spawn(move || see_part(test, &plan, part, &tell));
    }
    drop(tell);
    let mut fates: BTreeMap<_, _> = told.into_iter().collect();
    assert_eq!(fates.len(), total, "each flip has its fate");
    let numbered = flips.into_iter().enumerate();
    let seen = numbered.map(|(number, (flip, in_value))| (flip, in_value, fates.remove(&number).unwrap()));
    seen.collect()
}
