//! Checks a round against three witnesses: the clients, the journal, and the task API.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
};

use tower_respond_async::RequestId;

use super::{
    client::{Document, is_terminal},
    findings::{Check, Findings, Untold},
    journal::{Answer, Line, Told},
    load::{Entry, Ledger},
};

/// After how many crashes a task is given up: the default.
pub const CRASH_ALLOWANCE: u32 = 3;

/// The journal's lines about one task.
#[derive(Debug, Default)]
struct History {
    /// The generation and token of every claim.
    claims: Vec<(u32, u64)>,
    starts: u64,
    /// The tokens of settlements that ended the task.
    ends: Vec<u64>,
    told: Vec<Told>,
    /// The generations for which a webhook arrived.
    received: BTreeSet<u32>,
}

impl History {
    /// The token of the generation's last claim.
    fn holder(&self, generation: u32) -> Option<u64> {
        let of_generation = self.claims.iter().filter(|(of, _)| *of == generation);
        of_generation.map(|(_, token)| *token).max()
    }

    fn generation_of(&self, token: u64) -> Option<u32> {
        self.claims.iter().find(|(_, of)| *of == token).map(|(of, _)| *of)
    }

    /// Whether both the hook and the webhook were called for this end.
    fn is_told(&self, generation: u32) -> bool {
        self.received.contains(&generation) && self.told.iter().any(|told| told.generation == generation)
    }
}

/// The journal, by task.
#[derive(Debug, Default)]
pub struct Histories {
    tasks: BTreeMap<RequestId, History>,
    refused: u64,
    /// Which task ran with which nonce.
    nonces: Vec<(String, RequestId)>,
}

impl Histories {
    pub fn extend(&mut self, lines: Vec<Line>) {
        for line in lines {
            match line {
                Line::Claimed { id, generation, token } => self.of(id).claims.push((generation, token)),
                Line::Started { id, nonce, .. } => {
                    self.nonces.push((nonce, id));
                    self.of(id).starts += 1;
                }
                Line::Settled { id, token, state } => match state {
                    Some(state) if is_terminal(&state) => self.of(id).ends.push(token),
                    Some(_) => {}
                    None => self.refused += 1,
                },
                Line::Told(told) => self.of(told.id).told.push(told),
                Line::Received { id, generation } => {
                    self.of(id).received.insert(generation);
                }
                Line::Asked { .. } | Line::Answered { .. } | Line::Unverified { .. } | Line::Drained { .. } => {}
            }
        }
    }

    /// Whether the hook and the webhook were called for the end of every generation of these tasks.
    pub fn all_told(&self, documents: &[Document]) -> bool {
        documents.iter().all(|document| {
            let history = self.tasks.get(&document.request_id);
            history.is_some_and(|history| (1..=document.generation).all(|generation| history.is_told(generation)))
        })
    }

    fn of(&mut self, id: RequestId) -> &mut History {
        self.tasks.entry(id).or_default()
    }
}

/// Compares the witnesses of one round.
pub fn judge(ledger: Ledger, histories: &Histories, documents: &[Document]) -> Findings {
    let mut findings = Findings {
        violations: ledger.violations,
        refused: histories.refused,
        ..Findings::default()
    };
    let mut by_nonce: HashMap<&str, BTreeSet<RequestId>> = HashMap::new();
    for (nonce, id) in &histories.nonces {
        by_nonce.entry(nonce).or_default().insert(*id);
    }
    let mut by_id = HashMap::new();
    for document in documents {
        let nonce = document.nonce.as_deref().unwrap_or_default();
        by_nonce.entry(nonce).or_default().insert(document.request_id);
        if by_id.insert(document.request_id, document).is_some() {
            findings.violated(Check::Twice, format!("{} is listed twice", document.request_id));
        }
        if !ledger.entries.contains_key(nonce) {
            findings.violated(Check::Answer, format!("nobody sent {nonce:?}, which is stored"));
        }
    }
    for (nonce, entry) in &ledger.entries {
        findings.unanswered += u64::from(entry.unanswered);
        findings.stopped += u64::from(entry.stopped.is_some());
        let mut ids = by_nonce.remove(&**nonce).unwrap_or_default();
        ids.extend(entry.accepted);
        if ids.len() > 1 {
            findings.violated(Check::Twice, format!("{nonce} became several tasks: {ids:?}"));
        }
        let Some(id) = ids.first() else {
            findings.never_stored += 1;
            continue;
        };
        let none = History::default();
        let case = Case {
            nonce,
            id: *id,
            entry,
            history: histories.tasks.get(id).unwrap_or(&none),
            document: by_id.get(id).copied(),
        };
        case.judge(&mut findings);
    }
    let mut ends = HashMap::new();
    for told in histories.tasks.values().flat_map(|history| &history.told) {
        let end = (told.id, told.generation);
        let known = *ends.entry(&told.webhook_id).or_insert(end);
        if known != end {
            findings.violated(Check::Hook, format!("{} is the id of two ends", told.webhook_id));
        }
    }
    findings
}

/// One task and everything recorded about it.
struct Case<'a> {
    nonce: &'a str,
    id: RequestId,
    entry: &'a Entry,
    history: &'a History,
    document: Option<&'a Document>,
}

impl Case<'_> {
    fn judge(&self, findings: &mut Findings) {
        findings.tasks += 1;
        findings.run_again += self.history.starts.saturating_sub(1);
        let told_of = self.history.told.iter().map(|told| told.generation).max();
        let generations = match self.document {
            Some(document) => {
                self.judge_document(document, findings);
                document.generation
            }
            None => {
                let last = self.history.told.iter().rfind(|told| Some(told.generation) == told_of);
                match last {
                    Some(told) if told.state != "Succeeded" => findings.pruned += 1,
                    _ => self.violated(findings, Check::Lost, "it is gone, and nobody was told of its end"),
                }
                told_of.unwrap_or(0)
            }
        };
        for generation in 1..=generations {
            self.judge_end(generation, findings);
        }
        let told = self.history.told.iter().map(|told| (Check::Hook, told.generation));
        let received = self.history.received.iter();
        for (check, generation) in told.chain(received.map(|generation| (Check::Webhook, *generation))) {
            if generation > generations {
                let what = format!("the end of generation {generation} was told, and there are {generations}");
                self.violated(findings, check, what);
            }
        }
        if let Some(generation) = self.entry.rerun.filter(|rerun| *rerun > generations) {
            let what = format!("generation {generation} was acknowledged, and there are {generations}");
            self.violated(findings, Check::Rerun, what);
        }
        for told in &self.history.told {
            if told.attempt > 4 + CRASH_ALLOWANCE {
                self.violated(
                    findings,
                    Check::Attempts,
                    format!("it ended in attempt {}", told.attempt),
                );
            }
        }
    }

    fn judge_document(&self, document: &Document, findings: &mut Findings) {
        if !document.is_terminal() {
            self.violated(findings, Check::Unfinished, format!("it is {}", document.status));
            return;
        }
        if document.attempt > document.max_attempts + CRASH_ALLOWANCE
            || document.already_retried_times >= document.max_attempts
        {
            let what = format!(
                "{} attempts and {} retries, of {} attempts allowed",
                document.attempt, document.already_retried_times, document.max_attempts
            );
            self.violated(findings, Check::Attempts, what);
        }
        if document
            .error
            .as_deref()
            .is_some_and(|error| error.starts_with("poison"))
        {
            findings.poisoned += 1;
            if document.attempt < CRASH_ALLOWANCE {
                let what = format!("it was given up in attempt {}", document.attempt);
                self.violated(findings, Check::Attempts, what);
            }
        }
        match document.answer() {
            Some(answer) => self.judge_answer(document.generation, &answer, findings),
            None if document.status == "Succeeded" => {
                self.violated(
                    findings,
                    Check::Answer,
                    format!("its result is {:?}", document.response),
                );
            }
            None => {}
        }
        let mut ends = 0;
        let mut stopping = false;
        for event in &document.events {
            if is_terminal(&event.status) {
                ends += 1;
                stopping = false;
            }
            match &*event.status {
                "Stopping" => stopping = true,
                "Running" | "Enqueued" | "Retrying" if stopping => {
                    self.violated(findings, Check::Stop, "it was run again after a stop");
                }
                _ => {}
            }
        }
        if ends != document.generation {
            let what = format!("its history has {ends} ends in {} generations", document.generation);
            self.violated(findings, Check::Twice, what);
        }
    }

    /// Checks the end of a generation.
    fn judge_end(&self, generation: u32, findings: &mut Findings) {
        findings.ends += 1;
        let told: Vec<_> = self
            .history
            .told
            .iter()
            .filter(|told| told.generation == generation)
            .collect();
        if !self.history.is_told(generation) {
            let state = self.document.filter(|document| document.generation == generation);
            findings.untold.push(Untold {
                nonce: self.nonce.to_owned(),
                id: self.id,
                generation,
                told: !told.is_empty(),
                received: self.history.received.contains(&generation),
                state: state.map(|document| document.status.clone()),
            });
        }
        let Some(first) = told.first() else { return };
        findings.told_again += told.len() as u64 - 1;
        for again in &told[1..] {
            if again.webhook_id != first.webhook_id {
                self.violated(
                    findings,
                    Check::Hook,
                    format!("generation {generation} was told under two ids"),
                );
            }
            if (&again.state, again.attempt) != (&first.state, first.attempt) {
                let what = format!(
                    "generation {generation} ended as {}, and as {}",
                    first.state, again.state
                );
                self.violated(findings, Check::Twice, what);
            }
        }
        if let Some(document) = self.document.filter(|document| document.generation == generation)
            && document.is_terminal()
            && document.status != first.state
        {
            let what = format!("it is {}, and {} was told", document.status, first.state);
            self.violated(findings, Check::Twice, what);
        }
        if self.entry.stopped == Some(generation) && first.state != "Stopped" {
            self.violated(
                findings,
                Check::Stop,
                format!("a stop was acknowledged, and it is {}", first.state),
            );
        }
        for answer in told.iter().filter_map(|told| told.answer.as_ref()) {
            self.judge_answer(generation, answer, findings);
        }
        let of_generation = |token: &&u64| self.history.generation_of(**token) == Some(generation);
        let ends: Vec<_> = self.history.ends.iter().filter(of_generation).collect();
        if ends.len() > 1 {
            self.violated(
                findings,
                Check::Twice,
                format!("generation {generation} was ended by claims {ends:?}"),
            );
        }
        for token in ends {
            self.judge_token(generation, *token, findings);
        }
    }

    fn judge_answer(&self, generation: u32, answer: &Answer, findings: &mut Findings) {
        if answer.nonce != self.nonce {
            self.violated(
                findings,
                Check::Answer,
                format!("its result is that of {}", answer.nonce),
            );
        }
        self.judge_token(generation, answer.token, findings);
    }

    /// An end must come from the last claim of its generation: no claim can follow an end.
    fn judge_token(&self, generation: u32, token: u64, findings: &mut Findings) {
        let holder = self.history.holder(generation);
        if holder != Some(token) {
            let what = format!("generation {generation} was ended by claim {token}, and held by {holder:?}");
            self.violated(findings, Check::Fenced, what);
        }
    }

    fn violated(&self, findings: &mut Findings, check: Check, what: impl fmt::Display) {
        findings.violated(check, format!("{} ({}): {what}", self.nonce, self.id));
    }
}
