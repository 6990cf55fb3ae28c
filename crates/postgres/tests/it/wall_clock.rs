//! The promises that depend on time, with the server's own clock. The other tests replace that clock.
//!
//! Two kinds of promises are left out: those in which no time passes, since they are the same with either clock, and
//! races, since they take long. The whole suite would take 45 s of two busy cores instead of about 20.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    time::Duration,
};

use tower_respond_async::testing::conformance::{self, Harness};

use crate::harness::PostgresHarness;

/// On a busy machine every operation is late, so that something is due too early. A promise that fails at a quick pace
/// is tried at a slower one: a store that does not keep it fails at both.
const PACES: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(500)];

fn at_some_pace(promise: impl AsyncFn(&dyn Harness)) {
    let mut kept = Ok(());
    for unit in PACES {
        let harness = PostgresHarness::by_the_wall_clock(unit);
        kept = catch_unwind(AssertUnwindSafe(|| conformance::run(&harness, &promise)));
        if kept.is_ok() {
            return;
        }
    }
    kept.unwrap_or_else(|failed| resume_unwind(failed));
}

macro_rules! promises {
    ($($theme:ident: $($promise:ident)+;)+) => {
        $($(
            #[test]
            fn $promise() {
                at_some_pace(conformance::$theme::$promise);
            }
        )+)+
    };
}

promises! {
    insert:
        a_task_stored_claimed_is_held
        a_key_outlives_its_task_by_its_own_window;
    claim:
        claims_come_oldest_first
        a_delayed_task_is_not_claimed_early
        a_claim_says_when_the_next_task_is_due;
    lease:
        a_lapsed_lease_is_rescued_exactly_once
        a_renewed_lease_is_not_rescued
        a_lapsed_lease_cannot_be_renewed
        a_rescued_task_counts_a_crash_not_a_failure
        three_crashes_end_it_as_poison
        a_stopping_task_whose_worker_died_is_stopped;
    commit:
        a_change_of_a_lapsed_claim_is_refused_once_it_was_renewed
        a_task_that_is_stored_claimed_is_as_one_that_was_claimed
        times_are_counted_from_when_a_change_is_made
        looking_for_what_is_due_changes_nothing;
    settle:
        a_deferred_task_is_not_charged_and_waits_for_its_time
        a_retry_waits_for_its_time_and_survives_reopening;
    age:
        an_over_age_task_expires_and_never_runs
        a_delay_is_not_held_against_a_task
        a_retry_that_is_too_old_expires
        a_running_task_does_not_expire;
    outbox:
        a_delivery_whose_lease_ran_out_is_due_again
        a_delivery_is_retried_at_its_time
        an_unclaimed_completion_is_given_up;
    query:
        listing_visits_every_task_once_while_tasks_are_added
        counts_agree_with_the_tasks;
    rerun:
        a_rerun_is_as_young_as_a_new_task;
    prune:
        pruning_never_removes_a_live_task
        ended_tasks_are_kept_for_their_retention
        a_task_whose_delivery_failed_is_kept_for_its_retention_from_then_on;
    shared:
        two_processes_prune_and_rescue_each_task_once
        a_process_that_beats_is_seen_and_one_that_stopped_is_not;
    pools:
        tasks_of_a_spared_pool_do_not_expire
        a_task_of_a_resumed_pool_has_its_time_back;
}
