//! The ledger, script by script: commands in, outcomes and rows out.
//!
//! - Each file of `tests/scripts` is one test, named after the sentence it checks. The commands are explained in
//!   [`script`].
//! - `UPDATE_SCRIPTS=1` writes what was seen into the files instead of comparing; the difference is then reviewed.
//! - Besides what a script expects, after every command: each slot of each grid has been said exactly once, and the
//!   ledger, its rows and a ledger loaded from its rows agree.

mod script;

/// One test for each script, and the list of them.
macro_rules! scripts {
    ($($name:ident),+ $(,)?) => {
        $(
            #[test]
            fn $name() {
                script::run(stringify!($name));
            }
        )+

        const SCRIPTS: &[&str] = &[$(stringify!($name)),+];
    };
}

scripts!(
    // The slot rules of the guarantees, sentence by sentence.
    the_next_slot_is_the_ledgers_and_no_clock_moves_it,
    a_batch_of_the_wrong_term_is_fenced,
    a_batch_for_a_grid_that_is_not_open_is_stale,
    a_slot_before_the_next_is_a_duplicate,
    a_slot_behind_the_next_leaves_one_gap,
    a_new_leader_explains_the_gap_before_its_first_batch,
    a_batch_is_indivisible,
    configure_closes_the_grids_of_groups_that_change,
    configure_keeps_the_grids_of_groups_that_do_not_change,
    the_slots_between_two_grids_are_a_gap_with_its_cause,
    a_poll_in_flight_is_inside_the_gap_of_its_configuration,
    a_poll_that_was_not_committed_before_its_grid_closed_is_inside_the_gap,
    a_slot_refused_without_a_majority_while_its_grid_is_closed_is_in_one_gap,
    a_disabled_device_owes_no_slots,
    a_new_leader_whose_clocks_agree_skips_what_passed,
    a_new_leader_one_hour_behind_is_not_blind,
    a_new_leader_one_hour_ahead_invents_no_gap,
    a_leader_that_applied_the_last_slot_late_believes_its_wall_clock,
    a_grid_whose_last_slot_was_applied_late_ends_where_the_wall_clock_says,
    reclock_closes_each_grid_with_a_gap_of_monotonic_length,
    of_each_group_the_newest_two_closed_grids_are_remembered,
    the_length_of_a_gap_across_a_failover_is_exact_to_one_period,
    a_source_time_may_step_back,
    a_device_that_does_not_answer_is_one_bad_batch_and_a_gap_in_pieces,
    each_opening_of_a_grid_is_a_record,
    every_cause_is_in_the_closed_list,
    // Everything else that apply decides.
    a_cursor_moves_forward_only,
    a_cursor_stops_behind_what_is_applied,
    truncation_stops_at_the_slowest_required_destination,
    truncation_forgets_what_only_lower_positions_need,
    an_overrun_moves_the_cursors_left_behind_by_record,
    an_optional_destination_is_detached_by_record,
    a_removed_destination_with_a_backlog_must_be_named,
    a_destination_added_again_is_a_new_one,
    a_destination_that_comes_again_is_another_one_in_old_revisions_too,
    a_new_destination_begins_now_or_with_the_oldest,
    a_pushed_batch_is_accepted_once_and_in_order,
    a_push_of_unknown_outcome_survives_a_failover_once,
    pushed_samples_whose_catalog_is_gone_are_refused,
    a_session_ends_after_a_day_without_use,
    a_clock_that_is_set_ends_no_session,
    a_clock_that_goes_to_and_fro_passes_no_time_twice,
    nothing_but_lead_and_found_passes_the_fence,
    an_old_lead_changes_nothing,
    a_cluster_is_founded_once,
    configure_is_compare_and_set_on_the_revision,
    a_large_plant_is_staged_in_parts_and_used_once,
    an_unknown_name_is_refused,
    a_rejected_record_is_set_aside_and_can_be_retried,
    what_is_accepted_at_last_leaves_quarantine_and_what_is_refused_again_stays,
    a_full_quarantine_gives_up_its_oldest_records_and_says_so,
    a_removed_member_leaves_nothing_behind_but_its_number,
    leadership_lost_soon_after_a_hand_over_is_a_relapse,
    standing_orders_last_until_they_are_taken_back,
    an_order_about_a_device_ends_with_it,
    events_are_kept_in_order,
    what_operators_do_is_an_event_with_who_and_why,
    an_alarm_stands_from_its_raising_to_its_clearing,
    a_device_comes_back_only_from_the_end_that_was_set,
    a_member_that_joins_has_its_system_tag_at_once,
    who_joins_votes_and_goes_is_an_event,
    a_slot_on_its_way_at_a_reclock_is_not_missed_as_well,
    a_lasting_loss_of_quorum_is_told_by_the_next_leader,
);

#[test]
fn every_script_is_a_test() {
    let mut files: Vec<String> = std::fs::read_dir(script::folder())
        .expect("the folder of the scripts")
        .map(|file| file.expect("an entry").path())
        .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    files.sort();
    let mut listed: Vec<String> = SCRIPTS.iter().map(|name| (*name).to_owned()).collect();
    listed.sort();
    assert_eq!(files, listed, "the files of tests/scripts are the scripts listed here");
}
