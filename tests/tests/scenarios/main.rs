//! Whole clusters at work in a simulated plant, each broken in one way. Every scenario ends with an account of what
//! devices, pushers and receivers saw, which must add up: see `holdfast_tests::scene`.

mod a_cut_off_leader_acts_no_more_and_acknowledges_nothing;
mod a_paused_leader_is_ended_by_the_kernel_before_another_reads;
mod a_paused_leader_wakes_and_gives_up;
mod a_planned_switchover_misses_no_slot;
mod a_receiver_that_was_away_for_minutes_across_two_failovers_gets_everything_in_order;
mod a_wiped_node_is_refused_and_replaced_under_load;
mod configuration_changed_during_a_failover_is_in_force_on_all_nodes_or_on_none;
mod every_node_is_restarted_under_load;
mod followers_hand_on_over_tls_across_a_change_of_leader;
mod three_nodes_found_one_cluster_and_come_back_from_darkness;
