//! Hand-made histories of a task's calls: which can be explained, and which cannot.

use tower_respond_async::RequestId;

use lab::crash::{
    findings::Check,
    journal::{Answered, Asked, At, Changed, Line, Wanted},
    order::Calls,
};

const ID: RequestId = RequestId::from_bytes([1; 16]);

fn at(version: u64, token: u64, state: &str) -> At {
    At {
        version,
        generation: 1,
        token,
        state: state.to_owned(),
    }
}

/// A question, and its answer if there is one.
type Call = (Asked, Option<Answered>);

fn inserts_as(id: RequestId, key: &str, answer: Option<Answered>) -> Call {
    let asked = Asked::Insert {
        id,
        at: at(1, 0, "Enqueued"),
        known_by: vec![key.to_owned()],
    };
    (asked, answer)
}

fn inserts(answer: Option<Answered>) -> Call {
    inserts_as(ID, "key", answer)
}

fn stored() -> Call {
    inserts(Some(Answered::Stored(at(1, 0, "Enqueued"))))
}

fn claims(version: u64, token: u64) -> Call {
    let taken = vec![(ID, at(version, token, "Running"))];
    (Asked::Claim, Some(Answered::Claimed(taken)))
}

fn becomes(from: u64, token: u64, state: &str, answer: Option<Changed>) -> Call {
    let to = at(from + 1, token, state);
    let wanted = Wanted {
        id: ID,
        from,
        more: false,
        to: Some(to),
    };
    let answer = answer.map(|changed| Answered::Changed(vec![changed]));
    (Asked::Change(vec![wanted]), answer)
}

fn ends(from: u64, token: u64) -> Call {
    becomes(from, token, "Succeeded", Some(Changed::Done))
}

fn removes(from: u64) -> Call {
    let wanted = Wanted {
        id: ID,
        from,
        more: false,
        to: None,
    };
    (
        Asked::Change(vec![wanted]),
        Some(Answered::Changed(vec![Changed::Done])),
    )
}

fn starts(token: u64) -> Line {
    Line::Started {
        id: ID,
        attempt: 1,
        token,
        nonce: "once".to_owned(),
    }
}

/// The calls of one process, each answered before the next.
fn one_by_one(calls: Vec<Call>) -> Vec<Line> {
    let numbered = (0..).zip(calls);
    let lines = numbered.flat_map(|(call, (what, answer))| {
        let answer = answer.map(|answer| Line::Answered { call, answer });
        [Line::Asked { call, what }].into_iter().chain(answer)
    });
    lines.collect()
}

/// The checks that fail for these lines, if the task ends up in this state.
fn wrong_with(lines: &[Line], shown: Option<&str>) -> Vec<Check> {
    let mut calls = Calls::default();
    calls.extend(lines);
    let shown = shown.map(|state| (ID, (state.to_owned(), 1)));
    let wrong = calls.judge(calls.lines(), &shown.into_iter().collect());
    wrong.into_iter().map(|(check, _)| check).collect()
}

fn wrong_in(calls: Vec<Call>, shown: Option<&str>) -> Vec<Check> {
    wrong_with(&one_by_one(calls), shown)
}

#[test]
fn a_life_is_explained() {
    let life = || vec![stored(), claims(2, 1), ends(2, 1)];
    assert_eq!(wrong_in(life(), Some("Succeeded")), []);
    let mut pruned = life();
    pruned.push(removes(3));
    assert_eq!(wrong_in(pruned, None), []);
    let crashed = vec![
        stored(),
        claims(2, 1),
        becomes(2, 1, "Enqueued", Some(Changed::Done)),
        claims(4, 2),
        becomes(2, 1, "Succeeded", Some(Changed::Refused(Some(at(4, 2, "Running"))))),
        ends(4, 2),
    ];
    assert_eq!(wrong_in(crashed, Some("Succeeded")), []);
}

#[test]
fn what_was_accepted_and_is_gone_is_not_explained() {
    assert_eq!(wrong_in(vec![stored()], None), [Check::Order]);
    assert_eq!(wrong_in(vec![stored(), claims(2, 1), ends(2, 1)], None), [Check::Order]);
    // The task is back in its state before the claim.
    assert_eq!(wrong_in(vec![stored(), claims(2, 1)], Some("Enqueued")), [Check::Order]);
}

#[test]
fn an_end_that_was_accepted_twice_is_not_explained() {
    let twice = vec![stored(), claims(2, 1), ends(2, 1), ends(2, 1)];
    assert_eq!(wrong_in(twice, Some("Succeeded")), [Check::Order]);
    let again = vec![
        stored(),
        claims(2, 1),
        ends(2, 1),
        becomes(3, 1, "Failed", Some(Changed::Done)),
    ];
    assert_eq!(wrong_in(again, Some("Failed")), [Check::Order]);
}

/// After a failover that lost a claim, the next claim makes the same version of the row.
#[test]
fn a_fenced_end_that_was_accepted_is_not_explained() {
    let fenced = vec![stored(), claims(2, 1), claims(2, 2), ends(2, 1)];
    assert_eq!(wrong_in(fenced, Some("Succeeded")), [Check::Order]);
    // The same is found without versions, by the register of tokens.
    let mut lines = one_by_one(vec![stored(), claims(2, 1), claims(3, 2)]);
    lines.extend([starts(1), starts(2)]);
    let (what, answer) = becomes(3, 1, "Succeeded", Some(Changed::Done));
    let answer = answer.unwrap();
    lines.extend([Line::Asked { call: 9, what }, Line::Answered { call: 9, answer }]);
    assert!(wrong_with(&lines, Some("Succeeded")).contains(&Check::Fenced));
}

#[test]
fn a_token_that_two_runs_have_is_wrong() {
    let mut lines = one_by_one(vec![stored(), claims(2, 1)]);
    lines.extend([starts(1), starts(1)]);
    assert_eq!(wrong_with(&lines, Some("Running")), [Check::Fenced]);
}

#[test]
fn a_key_that_two_tasks_have_is_wrong() {
    let second = RequestId::from_bytes([2; 16]);
    let stored_too = Answered::Stored(at(1, 0, "Enqueued"));
    let mut lines = one_by_one(vec![stored(), inserts_as(second, "key", Some(stored_too.clone()))]);
    assert!(wrong_with(&lines, Some("Enqueued")).contains(&Check::Twice));
    lines = one_by_one(vec![stored(), inserts_as(second, "other", Some(stored_too))]);
    assert!(!wrong_with(&lines, Some("Enqueued")).contains(&Check::Twice));
}

/// A call without an answer may have been done once, or not at all.
#[test]
fn a_call_that_was_not_answered_explains_either() {
    for failed in [None, Some(Answered::Failed)] {
        let insert = || inserts(failed.clone());
        assert_eq!(wrong_in(vec![insert()], None), []);
        assert_eq!(wrong_in(vec![insert()], Some("Enqueued")), []);
        assert_eq!(
            wrong_in(vec![insert(), claims(2, 1), ends(2, 1)], Some("Succeeded")),
            []
        );
    }
    let end = || becomes(2, 1, "Succeeded", None);
    assert_eq!(wrong_in(vec![stored(), claims(2, 1), end()], Some("Succeeded")), []);
    assert_eq!(wrong_in(vec![stored(), claims(2, 1), end()], Some("Running")), []);
    // It explains one effect only.
    let twice = vec![
        stored(),
        claims(2, 1),
        end(),
        becomes(3, 1, "Failed", Some(Changed::Done)),
    ];
    assert_eq!(wrong_in(twice, Some("Failed")), [Check::Order]);
}

#[test]
fn a_lost_claim_explains_a_run_with_an_unreported_token() {
    let lost = || (Asked::Claim, None);
    let renewed = || (Asked::Renew(vec![(ID, 5)]), Some(Answered::Renewed(vec![true])));
    let calls = vec![stored(), lost(), renewed(), ends(2, 5)];
    assert_eq!(wrong_in(calls, Some("Succeeded")), []);
    let calls = vec![stored(), renewed(), ends(2, 5)];
    assert_eq!(wrong_in(calls, Some("Succeeded")), [Check::Order]);
    // Asked too late to explain it.
    let calls = vec![stored(), renewed(), lost(), ends(2, 5)];
    assert_eq!(wrong_in(calls, Some("Succeeded")), [Check::Order]);
}

/// A store repeats a call that was not answered, and does not recognise its own work: it answers that another insert or
/// change was first, but there was none.
#[test]
fn an_answer_that_knows_nothing_of_its_own_work_is_not_explained() {
    let known = || inserts(Some(Answered::Known(ID, Some(at(1, 0, "Enqueued")))));
    assert_eq!(wrong_in(vec![known()], Some("Enqueued")), [Check::Order]);
    // The task was claimed before the insert was repeated.
    let taken = || inserts(Some(Answered::Known(ID, Some(at(2, 1, "Running")))));
    assert_eq!(wrong_in(vec![taken(), claims(2, 1)], Some("Running")), [Check::Order]);
    let mut lines = one_by_one(vec![taken()]);
    let claimed = one_by_one(vec![claims(2, 1)]);
    let claimed = claimed.into_iter().map(|line| match line {
        Line::Asked { what, .. } => Line::Asked { call: 9, what },
        Line::Answered { answer, .. } => Line::Answered { call: 9, answer },
        other => other,
    });
    lines.splice(1..1, claimed);
    assert_eq!(wrong_with(&lines, Some("Running")), []);
    // The engine may also insert twice.
    assert_eq!(wrong_in(vec![inserts(None), known()], Some("Enqueued")), []);
    let stale = Some(Changed::Refused(Some(at(3, 1, "Succeeded"))));
    let calls = vec![stored(), claims(2, 1), becomes(2, 1, "Succeeded", stale)];
    assert_eq!(wrong_in(calls, Some("Succeeded")), [Check::Order]);
}

/// The two refusals and a done change must survive serialization.
#[test]
fn an_answer_is_read_back_as_it_was_written() {
    let stands = at(2, 1, "Running");
    for changed in [Changed::Done, Changed::Refused(None), Changed::Refused(Some(stands))] {
        let written = Answered::Changed(vec![changed]);
        let (call, answer) = (7, written.clone());
        let line = serde_json::to_string(&Line::Answered { call, answer }).unwrap();
        let Line::Answered { answer, .. } = serde_json::from_str(&line).unwrap() else {
            panic!("{line}");
        };
        assert_eq!(answer, written);
    }
}
