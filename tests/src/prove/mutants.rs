//! Mutants: deliberate faults in the product's code, and for each the test or the fault class that must notice it.
//!
//! - A mutant is killed when its killer fails with it, and passes without it in the same build. What is not known is no
//!   kill: a test that was not found, a time-out, a class that this machine cannot run.
//! - A test is the killer wherever one can show the fault; a fault class where only a power cut or a process can. Of a class
//!   the check that must notice has to fail: a fault that did not bite, or a run that broke off, has noticed nothing.
//! - Where a promise to the outside world is broken (lease, acknowledgement) and the first killer is a test of one module, a
//!   second one runs a cluster: that the module would notice says nothing of whether anybody asks it.
//! - Every name stands in one place of the sources, and every test that is named exists: `tests/tests/mutants.rs`.
//!
//! What was considered and is not among them: a directory that is not synced, because ext4 writes a rename with the next
//! sync of anything, and one follows; an acknowledgement without a majority, because openraft counts that.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use tokio::process::Command;
use tokio::time::{Instant, timeout};

/// What tells a process which mutant it is: `crates/runtime/src/mutants.rs` reads it. Without the prefix of the node file's
/// variables, because those are kept from the nodes that tests start.
const VARIABLE: &str = "MUTANT_OF_HOLDFAST";
/// For one run of a killer.
const LONGEST: Duration = Duration::from_secs(600);
/// For building all tests of this workspace.
const LONGEST_BUILD: Duration = Duration::from_secs(3_600);
/// How a test program ends when one of its tests has failed.
const TEST_FAILED: i32 = 101;
/// How the command of a fault class ends when a check has failed.
const CLASS_FAILED: i32 = 1;

/// One deliberate fault.
#[derive(Debug, Clone, Copy)]
pub struct Mutant {
    /// What it is called in the sources.
    pub name: &'static str,
    /// The guarantee or invariant that it breaks.
    pub breaks: &'static str,
    /// Who must notice: all of these.
    pub killed_by: &'static [Killer],
}

/// Who must notice a mutant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Killer {
    /// A test beside the code of a crate: its folder below `crates`, and the test's full name.
    Unit(&'static str, &'static str),
    /// A test of a file of its own: the crate's folder, the file below its `tests`, and the test's full name.
    Scenario(&'static str, &'static str, &'static str),
    /// A fault class of the kit, and what the names of the checks begin with of which one must fail.
    Class(&'static str, &'static str),
}

use Killer::{Class, Scenario, Unit};

/// All of them, by the crate whose code they are in.
pub const MUTANTS: &[Mutant] = &[
    // store: durability
    Mutant {
        name: "vote-is-not-synced",
        breaks: "a vote is durable before it is answered (I11)",
        killed_by: &[Scenario("store", "on_disk", MODEL)],
    },
    Mutant {
        name: "append-is-not-synced",
        breaks: "G1: what was acknowledged is synced",
        killed_by: &[Scenario("store", "on_disk", MODEL)],
    },
    Mutant {
        name: "database-is-not-synced",
        breaks: "G1: synced means on the disk, and a process that is killed shows nothing of it",
        killed_by: &[Class("store-cuts", "store-")],
    },
    Mutant {
        name: "failed-sync-is-not-final",
        breaks: "a disk error is final: the sync that is tried again does not bring back what was lost",
        killed_by: &[Unit("store", "engine::rocks::tests::the_first_failed_write_is_final")],
    },
    Mutant {
        name: "vote-is-not-promised",
        breaks: "the floor file is written before a vote is answered",
        killed_by: &[Scenario("store", "on_disk", "amnesia::a_forgotten_vote_is_amnesia")],
    },
    Mutant {
        name: "amnesia-is-overlooked",
        breaks: "a node that lost what it had acknowledged runs no Raft",
        killed_by: &[Scenario(
            "store",
            "on_disk",
            "model::a_disk_that_forgets_is_refused_if_what_it_forgot_was_acknowledged_and_only_then",
        )],
    },
    Mutant {
        name: "snapshot-is-not-checked",
        breaks: "G4: a damaged snapshot is never installed",
        killed_by: &[Scenario(
            "store",
            "on_disk",
            "snapshots::a_damaged_incoming_snapshot_is_never_installed",
        )],
    },
    Mutant {
        name: "floor-comes-before-its-rows",
        breaks: "the log is purged only up to what the ledger on disk covers",
        killed_by: &[Scenario(
            "store",
            "on_disk",
            "crash_points::a_floor_at_a_checkpoint_that_was_received_comes_behind_the_rows_that_cover_it",
        )],
    },
    Mutant {
        name: "snapshot-lies-above-the-horizon",
        breaks: "G2: what is undelivered is in the log of whoever installs a snapshot",
        killed_by: &[Scenario("store", "on_disk", "snapshots::a_snapshot_never_lies_above_the_horizon")],
    },
    // store: what apply does
    Mutant {
        name: "applied-is-not-written-with-its-rows",
        breaks: "rows and the applied position are one commit",
        killed_by: &[Scenario("store", "on_disk", MODEL)],
    },
    Mutant {
        name: "ended-term-is-not-fenced",
        breaks: "G7: data whose term is not that of the last applied Lead is refused",
        killed_by: &[Scenario("store", "ledger_scripts", "a_batch_of_the_wrong_term_is_fenced")],
    },
    Mutant {
        name: "slot-is-taken-twice",
        breaks: "G6: each slot is in exactly one record",
        killed_by: &[Scenario("store", "ledger_scripts", "a_slot_before_the_next_is_a_duplicate")],
    },
    Mutant {
        name: "gap-is-not-recorded",
        breaks: "G6: a slot without a sample is part of a gap record",
        killed_by: &[Scenario("store", "ledger_scripts", "a_slot_behind_the_next_leaves_one_gap")],
    },
    Mutant {
        name: "gap-overlaps-a-sample",
        breaks: "G6: each slot is in exactly one record",
        killed_by: &[Scenario("store", "ledger_scripts", "a_slot_behind_the_next_leaves_one_gap")],
    },
    Mutant {
        name: "message-is-taken-twice",
        breaks: "G5: what is proposed again under its number is kept once",
        killed_by: &[Scenario("store", "ledger_scripts", "a_pushed_batch_is_accepted_once_and_in_order")],
    },
    Mutant {
        name: "cursor-moves-back",
        breaks: "G3: a cursor moves forward only",
        killed_by: &[Scenario("store", "ledger_scripts", "a_cursor_moves_forward_only")],
    },
    Mutant {
        name: "truncation-passes-a-cursor",
        breaks: "G1: it stays until it is delivered, or until an overrun that is recorded",
        killed_by: &[Scenario(
            "store",
            "ledger_scripts",
            "truncation_stops_at_the_slowest_required_destination",
        )],
    },
    // replication: who leads, and until when
    Mutant {
        name: "lease-is-ignored",
        breaks: "G7: no two nodes' requests to one device overlap",
        killed_by: &[
            Unit("replication", "lease::tests::a_barrier_ends_it_for_the_rest_of_the_term"),
            Unit("replication", "trial::leases::no_vote_leaves_a_node_whose_leadership_is_live"),
        ],
    },
    Mutant {
        name: "lease-counts-from-the-answer",
        breaks: "G7: a lease begins when the request was sent that a majority has answered",
        killed_by: &[Unit(
            "replication",
            "lease::tests::a_leader_that_was_suspended_acts_only_after_a_new_acknowledgement",
        )],
    },
    Mutant {
        name: "suspension-is-overlooked",
        breaks: "G7: a clock that stands still with its machine extends no lease",
        killed_by: &[Unit(
            "replication",
            "lease::tests::a_leader_that_was_suspended_acts_only_after_a_new_acknowledgement",
        )],
    },
    Mutant {
        name: "shorter-lease-is-overlooked",
        breaks: "G7: the lease that counts is the shortest of all voters",
        killed_by: &[
            Unit(
                "replication",
                "lease::tests::what_a_voter_says_of_its_lease_counts_more_than_what_it_was_configured_with",
            ),
            Unit("replication", "trial::leases::the_lease_is_the_shortest_of_all_voters"),
        ],
    },
    Mutant {
        name: "barrier-is-not-raised",
        breaks: "G7: who hands over never acts again in its term, whether the transfer succeeds or not",
        killed_by: &[
            Unit("replication", "lease::tests::a_barrier_ends_it_for_the_rest_of_the_term"),
            Unit("replication", "trial::leases::a_failed_transfer_leaves_no_leadership_in_its_term"),
        ],
    },
    Mutant {
        name: "restarted-voter-votes-at-once",
        breaks: "G7: a restarted voter keeps its vote for as long as a lease may rest on it",
        killed_by: &[Unit(
            "replication",
            "trial::leases::\
            a_voter_restarted_with_a_shorter_lease_keeps_the_longer_one_that_the_membership_records",
        )],
    },
    Mutant {
        name: "live-leader-votes",
        breaks: "G7: who leads helps nobody else to lead while its own operations may be under way",
        killed_by: &[Unit("replication", "trial::leases::no_vote_leaves_a_node_whose_leadership_is_live")],
    },
    Mutant {
        name: "election-bypasses-the-lease",
        breaks: "G7: nobody campaigns within the lease that it has granted",
        killed_by: &[Unit("replication", "trial::leases::no_election_bypasses_the_nodes_own_lease")],
    },
    Mutant {
        name: "reign-begins-without-lead",
        breaks: "a reign begins when its Lead is applied, which decides everything proposed before",
        killed_by: &[Unit("replication", "trial::leases::a_dead_leader_is_succeeded_when_its_lease_is_over")],
    },
    Mutant {
        name: "unanswered-leader-is-not-silent",
        breaks: "G10: a leader that nobody answers makes room for another",
        killed_by: &[Unit(
            "replication",
            "muting::tests::a_leader_that_nobody_answers_is_silent_for_two_leases_at_a_time",
        )],
    },
    Mutant {
        name: "number-is-given-twice",
        breaks: "a member's number is never given to another",
        killed_by: &[Unit("replication", "membership::tests::a_number_is_never_given_twice")],
    },
    // replication: what is sent and taken
    Mutant {
        name: "answer-is-not-held-back",
        breaks: "G7: an answer vouches for its own request, and for none that was sent later",
        killed_by: &[Unit(
            "replication",
            "network::hold_back::tests::an_acknowledgement_counts_from_the_send_of_its_own_request",
        )],
    },
    Mutant {
        name: "shortened-log-is-overlooked",
        breaks: "G1: a follower that lost what it had acknowledged counts for no majority",
        killed_by: &[Unit(
            "replication",
            "network::tripwire::tests::a_conflict_at_or_below_what_was_acknowledged_trips_for_good",
        )],
    },
    Mutant {
        name: "call-has-no-deadline",
        breaks: "every await has an end",
        killed_by: &[Unit(
            "replication",
            "network::tests::calls::a_call_that_is_never_answered_ends_at_its_deadline",
        )],
    },
    Mutant {
        name: "snapshot-is-not-bounded",
        breaks: "what a node takes from another is bounded by the room it has",
        killed_by: &[Unit(
            "replication",
            "handler::tests::a_disk_that_takes_no_entries_takes_a_snapshot_while_it_fits_four_times",
        )],
    },
    Mutant {
        name: "closed-gate-lets-samples-pass",
        breaks: "G8: without space samples are refused",
        killed_by: &[Unit(
            "gateway",
            "scenarios::limits::a_full_disk_refuses_samples_and_lets_its_way_out_pass",
        )],
    },
    // drivers, ingest
    Mutant {
        name: "bytes-leave-without-a-permit",
        breaks: "G7: the permit is asked where the bytes leave",
        killed_by: &[Unit("drivers", "fenced::tests::not_one_byte_leaves_without_a_permit")],
    },
    Mutant {
        name: "unknown-outcome-is-acknowledged",
        breaks: "G1: an acknowledgement means committed",
        killed_by: &[
            Unit(
                "ingest",
                "batcher::rule_tests::\
            an_unknown_outcome_is_proposed_again_under_its_number_once_the_rest_has_settled",
            ),
            Unit(
                "gateway",
                "scenarios::pushes::a_push_that_no_majority_takes_is_acknowledged_only_when_one_does",
            ),
        ],
    },
    Mutant {
        name: "number-changes-its-message",
        breaks: "a number never means two contents while a copy of the first may still be committed",
        killed_by: &[Unit(
            "ingest",
            "batcher::rule_tests::an_undecided_number_is_kept_while_later_messages_are_refused",
        )],
    },
    Mutant {
        name: "order-is-lost-on-retry",
        breaks: "G3: what one source sent is committed in its order, also when it is proposed again",
        killed_by: &[Unit(
            "ingest",
            "batcher::model_test::what_is_acknowledged_is_in_the_log_once_and_in_order",
        )],
    },
    // destinations, gateway
    Mutant {
        name: "refused-record-is-dropped",
        breaks: "G9: what a destination refuses is set aside and named",
        killed_by: &[Scenario(
            "destinations",
            "http",
            "a_lone_bad_sample_is_rejected_by_a_receiver_that_took_others_before",
        )],
    },
    Mutant {
        name: "any-answer-is-taken-for-yes",
        breaks: "G2: delivered is what the destination has accepted",
        killed_by: &[Unit(
            "destinations",
            "http::answer::tests::what_passes_by_itself_is_retried_and_what_needs_a_person_stalls",
        )],
    },
    Mutant {
        name: "full-queue-drops-in-silence",
        breaks: "G6: what finds the queue full is a gap with its cause",
        killed_by: &[Unit(
            "gateway",
            "scenarios::limits::what_finds_the_queue_full_is_lost_until_something_behind_it_is_in",
        )],
    },
    Mutant {
        name: "cursor-moves-before-the-answer",
        breaks: "G2: a cursor moves only by what the destination has acknowledged",
        killed_by: &[Unit(
            "gateway",
            "scenarios::forwarding::a_destination_that_never_answers_holds_up_no_other_and_misses_nothing",
        )],
    },
    Mutant {
        name: "cursor-is-not-replicated",
        breaks: "a cursor moves only through the log",
        killed_by: &[Unit(
            "gateway",
            "scenarios::forwarding::a_destination_that_never_answers_holds_up_no_other_and_misses_nothing",
        )],
    },
    Mutant {
        name: "key-differs-by-process",
        breaks: "G5: a key depends on where its record lies, and on nothing else",
        killed_by: &[Unit(
            "gateway",
            "scenarios::reading::a_run_begins_where_less_was_taken_than_was_offered",
        )],
    },
];

/// Random operations, crashes and reopenings of a store.
const MODEL: &str = "model::\
    after_any_crash_the_store_is_what_it_was_after_an_operation_at_or_behind_the_last_acknowledged_one";

/// What became of a mutant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Its killer noticed.
    Killed,
    /// Its killer passed all the same.
    Survived,
    /// Nobody knows, and why.
    Unknown(String),
}

/// A mutant, and what became of it.
#[derive(Debug, Clone)]
pub struct MutantResult {
    /// Its name.
    pub name: &'static str,
    /// What became of it.
    pub fate: Fate,
    /// How long that took.
    pub took: Duration,
}

/// How one run of a killer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Ending {
    Passed,
    Failed,
    Unknown(String),
}

/// Has every mutant, or the one of this name, meet its killers, and says what became of each. `class` gives the command
/// that runs a fault class once, `None` where this machine cannot: it ends with 0 if nothing failed, with 1 if a check
/// did.
///
/// # Errors
/// There is none of that name, this build has none, or the tests cannot be built.
pub async fn run(only: Option<&str>, class: impl Fn(&str) -> Option<Command>) -> Result<Vec<MutantResult>> {
    let chosen = MUTANTS.iter().filter(|mutant| only.is_none_or(|only| mutant.name == only));
    let chosen: Vec<&Mutant> = chosen.collect();
    ensure!(!chosen.is_empty(), "there is no mutant {:?}", only.unwrap_or_default());
    ensure!(cfg!(mutants), "this build has no mutants: `make prove-mutants` makes one that has");
    let killers = Killers { programs: test_programs().await?, class };
    let mut controls: BTreeMap<Killer, Ending> = BTreeMap::new();
    let mut results = Vec::new();
    for mutant in chosen {
        let began = Instant::now();
        let mut fates = Vec::new();
        for killer in mutant.killed_by {
            let met = Instant::now();
            let control = match controls.get(killer) {
                Some(known) => known.clone(),
                None => {
                    let ending = killers.meet(*killer, None).await;
                    controls.insert(*killer, ending.clone());
                    ending
                }
            };
            let fate = match control {
                Ending::Passed => match killers.meet(*killer, Some(mutant.name)).await {
                    Ending::Failed => Fate::Killed,
                    Ending::Passed => Fate::Survived,
                    Ending::Unknown(why) => Fate::Unknown(why),
                },
                Ending::Failed => Fate::Unknown("its killer fails without it, too".to_owned()),
                Ending::Unknown(why) => Fate::Unknown(why),
            };
            eprintln!("{:<38} {fate:?} by {killer} in {:.1} s", mutant.name, met.elapsed().as_secs_f64());
            fates.push(fate);
        }
        results.push(MutantResult { name: mutant.name, fate: together(fates), took: began.elapsed() });
    }
    let killed = results.iter().filter(|result| result.fate == Fate::Killed).count();
    eprintln!("{killed} of {} mutants were killed", results.len());
    Ok(results)
}

/// What became of a mutant that met several killers: it is killed if each of them noticed.
fn together(fates: Vec<Fate>) -> Fate {
    let nobody = Fate::Unknown("it has no killer".to_owned());
    let all_killed = fates.iter().all(|fate| *fate == Fate::Killed);
    let first = fates.into_iter().find(|fate| all_killed || *fate != Fate::Killed);
    first.unwrap_or(nobody)
}

impl std::fmt::Display for Killer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unit(folder, test) => write!(f, "{folder} {test}"),
            Scenario(folder, file, test) => write!(f, "{folder} {file} {test}"),
            Class(class, _) => write!(f, "{class}"),
        }
    }
}

/// Where killers are found.
struct Killers<C> {
    programs: Vec<TestProgram>,
    class: C,
}

/// A program that holds tests.
struct TestProgram {
    executable: PathBuf,
    /// The folder of its crate, in which it expects to run.
    folder: PathBuf,
    /// The file below `tests`; `None` for the tests beside a crate's code.
    file: Option<String>,
}

impl<C: Fn(&str) -> Option<Command>> Killers<C> {
    /// Runs a killer once, with a mutant or without.
    async fn meet(&self, killer: Killer, mutant: Option<&str>) -> Ending {
        let command = match killer {
            Unit(folder, test) => self.test(folder, None, test),
            Scenario(folder, file, test) => self.test(folder, Some(file), test),
            Class(class, _) => (self.class)(class),
        };
        let Some(mut command) = command else { return Ending::Unknown("there is no such killer".to_owned()) };
        command.env_remove(VARIABLE).envs(mutant.map(|name| (VARIABLE, name)));
        // It would write what it found beside the sources, and look for it in every later run.
        command.env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "true");
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = match timeout(LONGEST, command.output()).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => return Ending::Unknown(format!("it cannot be run: {error}")),
            Err(_) => return Ending::Unknown(format!("it had not ended after {LONGEST:?}")),
        };
        let has_said = |bytes: &[u8], words: &str| String::from_utf8_lossy(bytes).contains(words);
        let (failed, is_it) = match killer {
            // As the command tells of a check that failed.
            Class(_, check) => (CLASS_FAILED, has_said(&output.stderr, &format!("Failed: {check}"))),
            // A name that is not found is no failure to the program.
            _ => (TEST_FAILED, has_said(&output.stdout, "running 1 test\n")),
        };
        match output.status.code() {
            Some(0) if is_it || matches!(killer, Class(..)) => Ending::Passed,
            Some(code) if code == failed && is_it => Ending::Failed,
            _ if is_it => Ending::Unknown(format!("it ended with {}", output.status)),
            _ => Ending::Unknown(format!("{killer} was not run, or says nothing of it: {}", output.status)),
        }
    }

    fn test(&self, folder: &str, file: Option<&str>, test: &str) -> Option<Command> {
        let is_it = |program: &&TestProgram| {
            program.folder.ends_with(Path::new("crates").join(folder)) && program.file.as_deref() == file
        };
        let program = self.programs.iter().find(is_it)?;
        let mut command = Command::new(&program.executable);
        command.current_dir(&program.folder).args(["--exact", test]);
        Some(command)
    }
}

/// What cargo says of something that it has built.
#[derive(Deserialize)]
struct Built {
    manifest_path: PathBuf,
    target: Target,
    profile: Profile,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
    name: String,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// Builds all tests, as the environment says, and says where they are. All at once, so that cargo chooses the same features
/// for each as when it built this program.
async fn test_programs() -> Result<Vec<TestProgram>> {
    let mut cargo = Command::new("cargo");
    cargo.args(["test", "--locked", "--workspace", "--lib", "--bins", "--tests", "--no-run"]);
    cargo.args(["--message-format", "json-render-diagnostics"]);
    cargo.current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null()).stderr(Stdio::inherit());
    cargo.stdout(Stdio::piped()).kill_on_drop(true);
    let building = cargo.spawn().context("cargo cannot be run")?.wait_with_output();
    let built = timeout(LONGEST_BUILD, building).await.context("the tests are not built in time")??;
    ensure!(built.status.success(), "the tests cannot be built");
    // Messages of other kinds lack what this one has.
    let lines = built.stdout.split(|byte| *byte == b'\n');
    let programs = lines.filter_map(|line| program(serde_json::from_slice(line).ok()?));
    Ok(programs.collect())
}

fn program(built: Built) -> Option<TestProgram> {
    let Built { manifest_path, target, profile, executable } = built;
    let is_file = target.kind.iter().any(|kind| kind == "test");
    let is_one = profile.test && (is_file || target.kind.iter().any(|kind| kind == "lib"));
    let folder = manifest_path.parent()?.to_path_buf();
    Some(TestProgram {
        executable: executable.filter(|_| is_one)?,
        folder,
        file: is_file.then_some(target.name),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mutant_is_killed_only_if_each_of_its_killers_noticed() {
        let unknown = || Fate::Unknown("it was not run".to_owned());
        assert_eq!(together(vec![Fate::Killed, Fate::Killed]), Fate::Killed);
        assert_eq!(together(vec![Fate::Killed, Fate::Survived]), Fate::Survived);
        assert_eq!(together(vec![unknown(), Fate::Killed]), unknown());
        assert!(matches!(together(Vec::new()), Fate::Unknown(_)));
    }

    #[test]
    fn every_mutant_has_a_killer() {
        for mutant in MUTANTS {
            assert!(!mutant.killed_by.is_empty(), "{}", mutant.name);
        }
    }
}
