//! Checks whether the answers of the store can be true.
//!
//! For every task it searches for an order in which the calls took effect one at a time, each between its question and
//! its answer, and each by the rules of a task's life: the search of Wing and Gong. A call without an answer may have
//! taken effect at any time since its question, or not at all. An order that fits shows that nothing was lost, done
//! twice, or accepted from a claim that was over.
//!
//! Beside the search it keeps a register, as an external system would: each handler writes its token when it starts. A
//! change that is asked for later under a smaller token must be refused.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use tower_respond_async::RequestId;

use super::{
    client::is_terminal,
    findings::Check,
    journal::{Answered, Asked, At, Changed, Line, Wanted},
};

/// The calls in a journal, by task.
#[derive(Debug, Default)]
pub struct Calls {
    /// How many lines were read. Line numbers order the events.
    lines: usize,
    /// The first line that was not judged yet.
    from: usize,
    /// Calls without an answer so far, each with the register's tokens at the time of the call.
    open: HashMap<u64, (usize, Asked, HashMap<RequestId, u64>)>,
    tasks: BTreeMap<RequestId, Vec<Call>>,
    /// The tasks with an insert since the last judgement.
    new: BTreeSet<RequestId>,
    /// The tasks that were stored under each name or key.
    known: BTreeMap<String, BTreeSet<RequestId>>,
    /// The greatest token with which a handler started.
    register: HashMap<RequestId, u64>,
    /// The starts of handlers: a token belongs to one run.
    runs: HashSet<(RequestId, u64)>,
    wrong: Vec<(Check, String)>,
}

#[derive(Clone, Debug)]
struct Call {
    begin: usize,
    /// `None` without an answer.
    end: Option<usize>,
    step: Step,
}

/// What a call shows about one task.
#[derive(Clone, Debug)]
enum Step {
    /// The task is stored as this; if `true`, its token may be greater.
    Insert(At, bool),
    Claim(At),
    Change(Wanted),
    /// The change was refused.
    Refused(Wanted),
    Sees(Option<At>),
    /// The claim with this token holds.
    Holds(u64),
    /// The task API shows the task in this state and generation.
    Shows(Option<(String, u32)>),
}

/// A task, as far as the calls show it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Task {
    Never,
    /// If `true`, the token is this one or greater.
    There(At, bool),
    Gone,
}

impl Calls {
    /// How many lines were read.
    pub const fn lines(&self) -> usize {
        self.lines
    }

    pub fn extend(&mut self, lines: &[Line]) {
        for line in lines {
            self.lines += 1;
            match line {
                Line::Asked { call, what } => {
                    let asked = match what {
                        Asked::Change(wanted) => &wanted[..],
                        _ => &[],
                    };
                    if let Asked::Insert { id, .. } = what {
                        self.new.insert(*id);
                    }
                    let registered = asked.iter().filter_map(|wanted| {
                        let token = self.register.get(&wanted.id)?;
                        Some((wanted.id, *token))
                    });
                    let registered = registered.collect();
                    self.open.insert(*call, (self.lines, what.clone(), registered));
                }
                // An answer without a known question is skipped: the question is older than this reader.
                Line::Answered { call, answer } if *answer != Answered::Failed => {
                    if let Some((begin, what, registered)) = self.open.remove(call) {
                        self.answered(begin, what, answer, &registered);
                    }
                }
                Line::Started { id, token, .. } => {
                    if !self.runs.insert((*id, *token)) {
                        let what = format!("{id}: two runs have token {token}");
                        self.wrong.push((Check::Fenced, what));
                    }
                    let last = self.register.entry(*id).or_default();
                    *last = (*last).max(*token);
                }
                _ => {}
            }
        }
    }

    fn answered(&mut self, begin: usize, what: Asked, answer: &Answered, registered: &HashMap<RequestId, u64>) {
        match (what, answer) {
            (Asked::Insert { id, known_by, .. }, Answered::Stored(at)) => {
                for known_by in known_by {
                    self.known.entry(known_by).or_default().insert(id);
                }
                self.note(id, begin, Step::Insert(at.clone(), false));
            }
            (Asked::Insert { id: own, at: made, .. }, Answered::Known(id, Some(at))) => {
                // If the task still had this version, the store would have recognised its own insert.
                if own == *id && at.version > made.version {
                    let or_greater = is_held(&made.state);
                    self.may_have(own, begin, Step::Insert(made, or_greater));
                }
                self.note(*id, begin, Step::Sees(Some(at.clone())));
            }
            (Asked::Claim, Answered::Claimed(tasks)) => {
                for (id, at) in tasks {
                    self.note(*id, begin, Step::Claim(at.clone()));
                }
            }
            (Asked::Change(wanted), Answered::Changed(changed)) => {
                for (wanted, changed) in wanted.into_iter().zip(changed) {
                    let id = wanted.id;
                    if let Changed::Refused(at) = changed {
                        match at {
                            // If the change had been made and nothing after it, the store would have recognised it.
                            Some(at) if at.version <= wanted.from + 1 => self.note(id, begin, Step::Refused(wanted)),
                            _ => self.may_have(id, begin, Step::Change(wanted)),
                        }
                        self.note(id, begin, Step::Sees(at.clone()));
                        continue;
                    }
                    let token = wanted.to.as_ref().map(|to| to.token);
                    if let (Some(token), Some(newer)) = (token, registered.get(&id))
                        && token < *newer
                    {
                        let what =
                            format!("{id}: a change under token {token} was made after a run under {newer} began");
                        self.wrong.push((Check::Fenced, what));
                    }
                    self.note(id, begin, Step::Change(wanted));
                }
            }
            (Asked::Renew(leases), Answered::Renewed(held)) => {
                for ((id, token), _) in leases.into_iter().zip(held).filter(|(_, held)| **held) {
                    self.note(id, begin, Step::Holds(token));
                }
            }
            _ => {}
        }
    }

    /// Records a step that may have taken effect. A store without an answer from its server asks again; if the task was
    /// changed in between, the store cannot tell whether its first try took effect.
    fn may_have(&mut self, id: RequestId, begin: usize, step: Step) {
        let end = None;
        self.tasks.entry(id).or_default().push(Call { begin, end, step });
    }

    fn note(&mut self, id: RequestId, begin: usize, step: Step) {
        let end = Some(self.lines);
        self.tasks.entry(id).or_default().push(Call { begin, end, step });
    }

    /// Checks the tasks that were stored since the last call. `shown` are their states and generations in the task API,
    /// read after `shown_after` lines.
    pub fn judge(&mut self, shown_after: usize, shown: &HashMap<RequestId, (String, u32)>) -> Vec<(Check, String)> {
        let mut wrong = std::mem::take(&mut self.wrong);
        for (known_by, ids) in std::mem::take(&mut self.known) {
            if ids.len() > 1 {
                wrong.push((Check::Twice, format!("under {known_by} were stored {ids:?}")));
            }
        }
        // A call from before the last judgement will not be answered any more.
        self.open.retain(|_, (begin, ..)| *begin > self.from);
        let open: Vec<_> = self.open.values().cloned().collect();
        let mut lost_claims = Vec::new();
        for (begin, what, _) in open {
            match what {
                Asked::Insert { id, at, .. } => {
                    let or_greater = is_held(&at.state);
                    self.may_have(id, begin, Step::Insert(at, or_greater));
                }
                Asked::Claim => lost_claims.push(begin),
                Asked::Change(wanted) => {
                    for wanted in wanted {
                        self.may_have(wanted.id, begin, Step::Change(wanted));
                    }
                }
                Asked::Renew(_) => {}
            }
        }
        lost_claims.sort_unstable();
        let mut tasks = std::mem::take(&mut self.tasks);
        for id in std::mem::take(&mut self.new) {
            let mut calls = tasks.remove(&id).unwrap_or_default();
            calls.push(Call {
                begin: shown_after,
                end: Some(self.lines + 1),
                step: Step::Shows(shown.get(&id).cloned()),
            });
            if let Err(why) = explain(&calls, &lost_claims) {
                wrong.push((Check::Order, format!("{id}: {why}")));
            }
        }
        self.register.clear();
        self.from = self.lines;
        wrong
    }
}

/// Searches for an order that explains the answers. Lost claims may have taken the task.
fn explain(calls: &[Call], lost_claims: &[usize]) -> Result<(), String> {
    let mut search = Search {
        calls,
        lost_claims,
        tried: HashSet::new(),
        best: (0, vec![false; calls.len()], Task::Never),
    };
    if search.goes_on(vec![false; calls.len()], Task::Never, 0) {
        return Ok(());
    }
    let (_, done, task) = search.best;
    let left = calls
        .iter()
        .zip(done)
        .filter(|(call, done)| !done && call.end.is_some());
    let left: Vec<_> = left.map(|(call, _)| call).collect();
    Err(format!(
        "no order of its calls explains the answers: they lead to {task:?}, and not to {left:?}; all are {calls:?}"
    ))
}

struct Search<'a> {
    calls: &'a [Call],
    lost_claims: &'a [usize],
    tried: HashSet<(Vec<bool>, Task, usize)>,
    /// The best try: how many calls it explained, which calls, and the task afterwards.
    best: (usize, Vec<bool>, Task),
}

impl Search<'_> {
    /// Whether the remaining calls can follow, after so many lost claims were used.
    fn goes_on(&mut self, mut done: Vec<bool>, task: Task, lost: usize) -> bool {
        let calls = self.calls;
        loop {
            let open = |at: &usize| !done[*at];
            // The next call to take effect was asked before the first of the open calls was answered.
            let answered = (0..calls.len()).filter(open).filter_map(|at| calls[at].end).min();
            let Some(answered) = answered else { return true };
            let next: Vec<usize> = (0..calls.len())
                .filter(|at| open(at) && calls[*at].begin < answered)
                .collect();
            // A call that fits and changes nothing may come first in any order.
            let same = next
                .iter()
                .find(|at| calls[**at].step.applied_to(&task).as_ref() == Some(&task));
            if let Some(same) = same {
                done[*same] = true;
                continue;
            }
            if !self.tried.insert((done.clone(), task.clone(), lost)) {
                return false;
            }
            let count = done.iter().filter(|done| **done).count();
            if count >= self.best.0 {
                self.best = (count, done.clone(), task.clone());
            }
            for at in next {
                if let Some(after) = calls[at].step.applied_to(&task) {
                    let mut done = done.clone();
                    done[at] = true;
                    if self.goes_on(done, after, lost) {
                        return true;
                    }
                }
            }
            // Lost claims are interchangeable: use the earliest first.
            let has_lost = self.lost_claims.get(lost).is_some_and(|begin| *begin < answered);
            return match task {
                Task::There(at, _) if has_lost && is_queued(&at.state) => {
                    let taken = At {
                        version: at.version + 1,
                        token: at.token + 1,
                        state: "Running".to_owned(),
                        ..at
                    };
                    self.goes_on(done, Task::There(taken, true), lost + 1)
                }
                _ => false,
            };
        }
    }
}

impl Step {
    /// The task after this step, or `None` if the step does not fit.
    fn applied_to(&self, task: &Task) -> Option<Task> {
        match (self, task) {
            (Self::Insert(at, or_greater), Task::Never) => Some(Task::There(at.clone(), *or_greater)),
            (Self::Claim(at), Task::There(was, _)) => {
                let takes = is_queued(&was.state) && at.state == "Running" && at.token > was.token;
                let follows = at.version == was.version + 1 && at.generation == was.generation;
                (takes && follows).then(|| Task::There(at.clone(), false))
            }
            // A removal without an answer finds the task gone when repeated, and cannot tell which removal it was.
            (Self::Change(Wanted { to: None, .. }), Task::Gone) => Some(Task::Gone),
            (Self::Change(wanted), Task::There(was, _)) if was.version == wanted.from => match &wanted.to {
                None => is_terminal(&was.state).then_some(Task::Gone),
                Some(to) => {
                    let may = fits(task, to.token) && may_become(was, to);
                    may.then(|| Task::There(to.clone(), false))
                }
            },
            (Self::Refused(wanted), Task::There(was, _)) => {
                let other_token = wanted.to.as_ref().is_some_and(|to| to.token != was.token);
                (was.version != wanted.from || wanted.more || other_token).then(|| task.clone())
            }
            (Self::Refused(_), Task::Never | Task::Gone) => Some(task.clone()),
            (Self::Sees(Some(at)), Task::There(was, _)) => {
                let same = (at.version, at.generation, &at.state) == (was.version, was.generation, &was.state);
                (same && fits(task, at.token)).then(|| Task::There(at.clone(), false))
            }
            (Self::Sees(None) | Self::Shows(None), Task::Never | Task::Gone) => Some(task.clone()),
            (Self::Holds(token), Task::There(was, _)) if is_held(&was.state) && fits(task, *token) => {
                let token = *token;
                Some(Task::There(At { token, ..was.clone() }, false))
            }
            (Self::Shows(Some((state, generation))), Task::There(was, _)) => {
                (*state == was.state && *generation == was.generation).then(|| task.clone())
            }
            _ => None,
        }
    }
}

/// Whether the task may have this token.
fn fits(task: &Task, token: u64) -> bool {
    match task {
        Task::There(at, true) => token >= at.token,
        Task::There(at, false) => token == at.token,
        Task::Never | Task::Gone => false,
    }
}

/// Whether a change may turn `was` into `to`. An ended task can only run again in a new generation, and only a claim
/// makes a task held.
fn may_become(was: &At, to: &At) -> bool {
    let same = to.generation == was.generation;
    if is_terminal(&was.state) {
        let again = to.generation == was.generation + 1 && is_queued(&to.state);
        return again || same && to.state == was.state;
    }
    same && (is_held(&was.state) || !is_held(&to.state))
}

fn is_held(state: &str) -> bool {
    ["Running", "Stopping"].contains(&state)
}

fn is_queued(state: &str) -> bool {
    ["Enqueued", "Retrying"].contains(&state)
}
