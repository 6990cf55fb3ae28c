//! The promises of [`TaskStore`], as one test each, for any store.
//!
//! To test your own store, implement [`Harness`] for it, which opens an empty store and lets time pass. Then write one
//! line:
//!
//! ```
//! # #![expect(clippy::needless_doctest_main, reason = "the macro makes test functions")]
//! # fn main() {}
//! use tower_respond_async::testing::conformance::MemoryHarness;
//!
//! tower_respond_async::conformance!(memory, MemoryHarness::new());
//! ```
//!
//! The macro makes one test for each promise, so that a failure reads `memory::a_stale_token_changes_nothing`. A
//! promise that a store need not keep, such as to survive the end of the process, is not skipped. It then checks that
//! the store *declares* so in its [`Abilities`](crate::store::Abilities), and that the harness has no way to do it
//! either.
//!
//! Races run on real threads, with a barrier, for many rounds. A store that has its own clock is tested in real time;
//! all durations are multiples of [`Harness::unit`].
//!
//! Besides the promises there is a [model](crate::testing::model), for random operations.
//!
//! # Panics
//!
//! Every promise panics if the store does not keep it.

mod memory;
mod steps;
mod subject;

pub mod age;
pub mod claim;
pub mod commit;
pub mod durable;
pub mod insert;
pub mod lease;
pub mod log;
pub mod outbox;
pub mod pools;
pub mod prune;
pub mod query;
pub mod rerun;
pub mod settle;
pub mod shared;
pub mod stop;

use std::{fmt, sync::Arc, time::Duration};

pub use self::memory::MemoryHarness;
pub(crate) use self::subject::Subject;
use crate::{error::BoxFuture, store::TaskStore, task::RequestId};

/// Opens and controls the store under test. Every test makes a harness of its own.
///
/// [`MemoryHarness`] is an example. The macro [`conformance!`](crate::conformance) and [`run`] test a store with it.
pub trait Harness: fmt::Debug + Send + Sync {
    /// Opens an empty store. Stores that were opened before are not used any more.
    fn open(&self) -> BoxFuture<'_, Arc<dyn TaskStore>>;

    /// Lets this much time pass on the store's clock: moves the clock, or waits.
    fn pass(&self, time: Duration) -> BoxFuture<'_, ()>;

    /// Turns the store's clock back by this much, as when a server with a slow clock takes over. `false` if that is not
    /// possible.
    fn set_back(&self, by: Duration) -> BoxFuture<'_, bool>;

    /// The smallest duration that the tests rely on. A hundred operations must take only a fraction of it. Use a second
    /// for a clock that the harness moves, and less for one that must be waited for.
    fn unit(&self) -> Duration;

    /// How often the sides of a race run against each other: at least 10, and as often as takes a second or two. The
    /// memory store needs 2,000 rounds on two busy cores so that a lock that is released too early is found every time.
    fn rounds(&self) -> usize;

    /// Opens again what the last opened store left behind when its process ended. `None` if nothing survives that: then
    /// the store's durability must say so.
    fn reopen(&self) -> BoxFuture<'_, Option<Arc<dyn TaskStore>>>;

    /// Opens the last opened store as another process would. `None` if that is refused: then the store's sharing must
    /// say so.
    fn second(&self) -> BoxFuture<'_, Option<Arc<dyn TaskStore>>>;

    /// Damages the stored request of a task. `false` if there is nothing to damage: then nothing may survive the end of
    /// the process either.
    fn corrupt(&self, id: RequestId) -> BoxFuture<'_, bool>;

    /// Rewrites a stored task as a newer build might: its record has a [format](crate::task::TaskRecord::FORMAT) that
    /// this build does not read. `false` if the store keeps no bytes: then nothing may survive the end of the process.
    fn make_newer(&self, id: RequestId) -> BoxFuture<'_, bool>;
}

/// Runs one promise on a runtime with several threads, for at most two minutes. [`conformance!`](crate::conformance)
/// calls it.
///
/// # Examples
///
/// ```
/// use tower_respond_async::testing::conformance::{self, MemoryHarness};
///
/// conformance::run(&MemoryHarness::new(), conformance::insert::an_insert_is_safe_to_repeat);
/// ```
///
/// # Panics
///
/// If the promise is not kept, or takes longer than two minutes.
pub fn run(harness: &dyn Harness, promise: impl AsyncFnOnce(&dyn Harness)) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .expect("a test may start threads");
    let kept = runtime.block_on(async { tokio::time::timeout(PATIENCE, promise(harness)).await });
    assert!(kept.is_ok(), "the store did not answer within {PATIENCE:?}");
    // A thread that a failing store blocks must not block the test.
    runtime.shutdown_background();
}

const PATIENCE: Duration = Duration::from_secs(120);

/// Makes one test for each promise of [`TaskStore`](crate::store::TaskStore), in a module with the given name.
///
/// Every test evaluates the expression once, and gets its [`Harness`](crate::testing::conformance::Harness) from it.
/// See the [module page](crate::testing::conformance) for an example.
#[macro_export]
macro_rules! conformance {
    ($module:ident, $harness:expr $(,)?) => {
        mod $module {
            #[allow(unused_imports)] // the harness may need none of them
            use super::*;

            $crate::__promises! { tests $harness }
        }
    };
}

/// All promises that the suite tests, each as its theme and its name.
pub const PROMISES: &[(&str, &str)] = crate::__promises! { names };

/// The only list of promises, by theme. A test compares it with the functions in the theme modules.
#[doc(hidden)]
#[macro_export]
macro_rules! __promises {
    (tests $harness:expr) => {
        $crate::__promises! { @list tests { $harness } }
    };
    (names) => {
        $crate::__promises! { @list names {} }
    };

    (@tests { $harness:expr } $($theme:ident: $($promise:ident)+;)+) => {
        $($(
            #[test]
            fn $promise() {
                let harness = $harness;
                $crate::testing::conformance::run(&harness, $crate::testing::conformance::$theme::$promise);
            }
        )+)+
    };
    (@names {} $($theme:ident: $($promise:ident)+;)+) => {
        &[$($((stringify!($theme), stringify!($promise)),)+)+]
    };

    (@list $what:ident $with:tt) => {
        $crate::__promises! { @$what $with
            insert:
                an_inserted_task_can_be_read_back_byte_for_byte
                an_insert_is_safe_to_repeat
                the_same_key_and_request_gives_the_same_task
                the_same_key_and_another_request_is_refused
                keys_are_each_caller_s_own_and_names_are_not
                a_key_outlives_its_task_by_its_own_window
                the_same_key_twice_at_once_inserts_one
                a_name_is_unique_in_its_tenant
                the_same_name_twice_at_once_inserts_one
                the_same_id_twice_at_once_inserts_one
                a_name_is_free_again_once_its_task_is_gone
                a_name_and_a_key_of_two_tasks_are_a_conflict
                full_is_refused_without_a_trace
                a_task_stored_claimed_is_held
                many_inserts_are_answered_in_their_order;
            claim:
                a_task_is_claimed_by_one_worker_only
                claims_come_oldest_first
                a_delayed_task_is_not_claimed_early
                suspects_are_claimed_one_at_a_time
                suspects_claimed_at_once_are_still_one_at_a_time
                a_claim_says_when_the_next_task_is_due
                a_claim_is_written_down_before_the_handler_runs;
            lease:
                a_stale_token_changes_nothing
                a_lapsed_lease_is_rescued_exactly_once
                a_renewed_lease_is_not_rescued
                a_lapsed_lease_cannot_be_renewed
                renewal_against_rescue_has_one_winner
                a_rescued_task_counts_a_crash_not_a_failure
                three_crashes_end_it_as_poison
                a_renewal_tells_of_a_stop
                a_stopping_task_whose_worker_died_is_stopped
                renewing_works_while_the_callers_runtime_is_blocked
                a_rescue_does_no_more_than_it_is_asked_for;
            commit:
                a_change_of_an_older_version_is_refused_with_the_row_as_it_is
                a_change_of_a_task_that_is_not_there_is_stale
                a_removal_of_an_old_version_removes_nothing
                of_changes_of_one_version_one_is_made
                a_change_of_a_lapsed_claim_is_refused_once_it_was_renewed
                all_that_a_change_brings_is_there_with_it
                a_change_of_the_outbox_depends_on_the_token_it_saw
                changes_made_together_are_answered_in_their_order
                a_claimed_row_is_the_row_that_is_kept
                a_task_that_is_stored_claimed_is_as_one_that_was_claimed
                a_renewal_raises_no_version
                a_held_task_that_is_stopped_keeps_its_renewed_lease_and_its_progress
                times_are_counted_from_when_a_change_is_made
                looking_for_what_is_due_changes_nothing;
            settle:
                the_response_appears_with_the_state
                of_several_settlements_one_is_accepted
                a_released_task_is_not_charged
                a_deferred_task_is_not_charged_and_waits_for_its_time
                a_retry_waits_for_its_time_and_survives_reopening
                a_terminal_state_changes_only_by_retry
                of_progress_the_latest_wins;
            stop:
                stop_of_a_queued_task_is_final
                stop_against_claim_has_one_winner
                stop_against_settle_has_one_winner
                a_stopping_task_ends_as_stopped_whatever_is_reported;
            age:
                an_over_age_task_expires_and_never_runs
                a_delay_is_not_held_against_a_task
                a_retry_that_is_too_old_expires
                a_running_task_does_not_expire;
            outbox:
                the_outbox_entry_appears_with_the_state_for_every_way_to_end
                only_subscribed_destinations_get_a_completion
                a_delivery_is_claimed_by_one_deliverer_only
                a_delivery_whose_lease_ran_out_is_due_again
                a_delivery_is_retried_at_its_time
                a_completion_is_made_due_again_on_request
                pending_completions_are_counted
                an_unclaimed_completion_is_given_up
                a_rerun_leaves_earlier_completions_on_their_way
                a_rerun_is_refused_while_too_many_completions_are_pending;
            query:
                a_tenant_sees_its_own_tasks_only
                a_name_of_several_tenants_is_a_conflict_for_all
                listing_visits_every_task_once_while_tasks_are_added
                equal_timestamps_are_not_skipped
                filters_agree_with_a_model
                counts_agree_with_the_tasks;
            log:
                logs_keep_order_and_stay_under_their_bound;
            rerun:
                a_rerun_starts_a_new_generation
                edits_replace_what_they_name
                a_rerun_is_as_young_as_a_new_task
                rerun_against_delete_has_one_winner;
            prune:
                pruning_never_removes_a_live_task
                ended_tasks_are_kept_for_their_retention
                a_task_with_a_delivery_pending_is_not_pruned
                a_task_whose_delivery_failed_is_kept_for_its_retention_from_then_on
                a_deleted_task_is_gone_with_all_that_hung_on_it;
            durable:
                reopening_loses_nothing_that_was_acknowledged
                a_rescue_tells_of_what_a_dead_process_had
                a_rescue_takes_nothing_from_a_later_claim
                a_corrupt_record_does_not_stop_the_queue
                a_closed_store_is_unavailable;
            shared:
                two_processes_share_the_work
                a_change_made_elsewhere_is_in_the_news_or_seen_by_a_glance
                a_glance_changes_with_every_change
                a_stop_elsewhere_is_in_the_news
                work_stored_elsewhere_is_in_the_news
                limits_hold_for_two_processes_within_their_batches
                the_same_key_in_two_processes_at_once_inserts_one
                suspects_of_two_workers_run_one_each
                a_delivery_is_claimed_by_one_process
                two_processes_prune_and_rescue_each_task_once
                a_process_that_beats_is_seen_and_one_that_stopped_is_not
                counts_agree_across_processes
                a_task_of_a_newer_build_at_the_head_does_not_stop_the_queue
                a_clock_that_goes_back_makes_nothing_due_early
                a_named_value_is_changed_by_one_of_several
                a_named_value_changed_elsewhere_is_in_the_news;
            pools:
                claims_keep_to_the_maximum_of_each_pool
                a_pool_that_no_claim_names_is_claimed_with_the_others
                a_tenant_at_its_limit_is_passed_over
                limits_hold_for_each_pool
                tasks_of_a_spared_pool_do_not_expire
                a_task_of_a_resumed_pool_has_its_time_back
                a_list_can_be_of_one_pool;
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The list is in a macro, so the compiler does not report a promise that is written and never run.
    #[test]
    fn every_promise_that_is_written_is_on_the_list() {
        let themes = [
            ("insert", include_str!("insert.rs")),
            ("claim", include_str!("claim.rs")),
            ("lease", include_str!("lease.rs")),
            ("commit", include_str!("commit.rs")),
            ("settle", include_str!("settle.rs")),
            ("stop", include_str!("stop.rs")),
            ("age", include_str!("age.rs")),
            ("outbox", include_str!("outbox.rs")),
            ("query", include_str!("query.rs")),
            ("log", include_str!("log.rs")),
            ("rerun", include_str!("rerun.rs")),
            ("prune", include_str!("prune.rs")),
            ("durable", include_str!("durable.rs")),
            ("shared", include_str!("shared.rs")),
            ("pools", include_str!("pools.rs")),
        ];
        let mut written = Vec::new();
        for (theme, source) in themes {
            let functions = source.lines().filter_map(|line| line.strip_prefix("pub async fn "));
            written.extend(functions.filter_map(|rest| Some((theme, rest.split_once('(')?.0))));
        }
        let mut listed = PROMISES.to_vec();
        listed.sort_unstable();
        written.sort_unstable();
        assert_eq!(listed, written);
    }
}
