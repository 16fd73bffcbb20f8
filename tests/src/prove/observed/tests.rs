//! Each thing that nodes may not say, use or have filed is found, and what they may is not.

use std::fs;

use simulator::history::Kind;
use wire::proto::v1 as pb;

use super::filed::Finished;
use super::said::DestinationSaid;
use super::used::{MOST_DISK, MOST_FILES, MOST_MEMORY};
use super::*;
use crate::prove::run::Verdict;

fn entry<D>(t_ns: u64, process: &str, details: D) -> Entry<D> {
    Entry { t_ns, process: process.to_owned(), kind: Kind::Ok, op: SAID.to_owned(), details }
}

/// Said at a moment, in the first life, of a log of so many entries.
fn said(at_ns: u64, entries: u64) -> Said {
    Said {
        asked_ns: at_ns - 1,
        life: Some(1),
        term: Some(3),
        applied: entries,
        committed: entries,
        last: entries,
        ..Said::default()
    }
}

fn seen(said: Vec<Entry<Said>>) -> Observations {
    Observations { said, ..Observations::default() }
}

fn failed(seen: &Observations, accepted: &[(Position, u64)]) -> Vec<String> {
    let mut report = RunReport::new("kills", 1);
    judge(&mut report, seen, accepted);
    let failed = report.findings.into_iter().filter(|finding| finding.verdict == Verdict::Failed);
    failed.map(|finding| finding.check).collect()
}

#[test]
fn within_one_life_nothing_goes_back_and_from_one_to_the_next_positions_may() {
    let full = Said { floor: 2, horizon: 3, ..said(10, 9) };
    let lower: [fn(&mut Said); 5] = [
        |said| said.term = Some(2),
        |said| said.floor -= 1,
        |said| said.horizon -= 1,
        |said| said.applied -= 1,
        |said| said.committed -= 1,
    ];
    for (place, lower) in lower.into_iter().enumerate() {
        let mut later = full.clone();
        lower(&mut later);
        let both = |later: Said| seen(vec![entry(10, "node-1", full.clone()), entry(20, "node-1", later)]);
        assert_eq!(both(later.clone()).went_back().len(), 1, "figure {place}");
        let next_life = Said { life: Some(2), ..later.clone() };
        assert_eq!(both(next_life).went_back(), Vec::<String>::new(), "figure {place}");
        let unknown_life = Said { life: None, ..later };
        assert_eq!(both(unknown_life).went_back(), Vec::<String>::new(), "figure {place}");
    }
    let shorter = Said { last: 8, ..full.clone() };
    let truncated = seen(vec![entry(10, "node-1", full.clone()), entry(20, "node-1", shorter)]);
    assert_eq!(truncated.went_back(), Vec::<String>::new(), "what is not committed may go");
}

#[test]
fn a_node_does_not_forget_the_term_in_which_it_led() {
    let led = Said { leads: true, ..said(10, 9) };
    let later = Said { life: Some(2), term: Some(2), ..said(20, 9) };
    let both = |first: Said| seen(vec![entry(10, "node-1", first), entry(20, "node-1", later.clone())]);
    assert_eq!(both(led.clone()).went_back().len(), 1);
    let heard = Said { leads: false, ..led };
    assert_eq!(both(heard).went_back(), Vec::<String>::new(), "its vote need not have been durable");
}

#[test]
fn who_leads_has_what_was_called_committed_before_it_was_asked() {
    let leader = |asked_ns| Said { asked_ns, leads: true, term: Some(4), ..said(20, 8) };
    let both = |later: Said| seen(vec![entry(10, "node-1", said(10, 9)), entry(20, "node-2", later)]);
    assert_eq!(both(leader(11)).went_back().len(), 1);
    assert_eq!(both(leader(10)).went_back(), Vec::<String>::new(), "it may have answered before");
    let follower = Said { leads: false, ..leader(11) };
    assert_eq!(both(follower).went_back(), Vec::<String>::new(), "a follower may lack it");
}

#[test]
fn a_leaders_log_does_not_begin_behind_its_horizon() {
    let follower = Said { floor: 8, horizon: 7, ..said(10, 9) };
    assert_eq!(follower.out_of_line(), Vec::<String>::new(), "it has just installed a snapshot");
    assert_eq!(Said { leads: true, ..follower }.out_of_line().len(), 1);
}

fn with_cursor(cursor: u64) -> Said {
    let destination = |id: &str| DestinationSaid {
        id: id.to_owned(),
        is_http: id == "historian",
        is_required: true,
        cursor,
    };
    Said { horizon: 4, destinations: vec![destination("historian"), destination("files")], ..said(50, 20) }
}

#[test]
fn a_cursor_beyond_what_was_accepted_is_found() {
    let accepted = [(Position(5), 30), (Position(9), 40), (Position(12), 60)];
    let passed = |cursor| seen(vec![entry(50, "node-1", with_cursor(cursor))]).passed(&accepted).len();
    assert_eq!((passed(5), passed(10), passed(12), passed(13), passed(20)), (0, 0, 0, 1, 1));
}

#[test]
fn a_cursor_beyond_what_stands_in_finished_files_is_found() {
    let accepted = [(Position(5), 30), (Position(9), 40), (Position(12), 60)];
    let unfiled = |cursor, at_ns, position| {
        let filed = vec![entry(40, FILES, Filed { position: 0 }), entry(at_ns, FILES, Filed { position })];
        let said = vec![entry(50, "node-1", with_cursor(cursor))];
        Observations { said, filed, ..Observations::default() }.unfiled(&accepted).len()
    };
    assert_eq!((unfiled(5, 60, 0), unfiled(10, 60, 9), unfiled(12, 50, 9)), (0, 0, 0));
    assert_eq!((unfiled(10, 60, 8), unfiled(13, 60, 9)), (1, 1));
    assert_eq!(unfiled(13, 45, 9), 0, "nobody looked later");
}

#[test]
fn files_end_where_the_last_finished_one_does() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, keys: &[&str]| {
        let rows: String = keys.iter().map(|key| format!("{key},a\r\n")).collect();
        fs::write(folder.path().join(name), format!("key,tag\r\n{rows}")).expect("room");
    };
    let mut finished = Finished::new();
    let mut position = || Filed::of(folder.path(), &mut finished).expect("readable").position;
    assert_eq!(position(), 0);
    write("files.samples.1.csv", &["00000000/7/0", "00000000/8/3"]);
    write("files.gaps.1.csv", &["00000000/6/2147483648"]);
    write(".files.samples.2.csv.node-1.part", &["00000000/99/0"]);
    write("files.leader.json", &["00000000/99/0"]);
    assert_eq!(position(), 8);
    write("files.samples.2.csv", &["00000000/9/0"]);
    assert_eq!(position(), 9);
    write("files.samples.2.csv", &["00000000/9/0", "00000000/11/0"]);
    assert_eq!(position(), 11, "it came again, and is longer");
    fs::remove_file(folder.path().join("files.samples.2.csv")).expect("it is there");
    assert_eq!(position(), 8);
}

#[test]
fn each_figure_that_is_wrong_fails_the_check_that_is_there_for_it() {
    let used = Used { resident_bytes: 100 * MIB, threads: 30, files: 90, disk_bytes: Some(80 * MIB) };
    let right = || Observations {
        said: vec![entry(50, "node-1", with_cursor(10)), entry(60, "node-1", with_cursor(10))],
        used: vec![entry(50, "node-1", used.clone())],
        filed: vec![entry(50, FILES, Filed { position: 9 }), entry(60, FILES, Filed { position: 9 })],
        stalled: Vec::new(),
    };
    let accepted = [(Position(5), 30), (Position(12), 60)];
    assert_eq!(failed(&right(), &accepted), Vec::<String>::new());
    assert_eq!(failed(&Observations::default(), &[]), [BACK, PASSED, LINE, BUDGETS], "nothing was seen");
    type Spoil = fn(&mut Observations);
    let spoilt: [(Spoil, &str); 11] = [
        (|seen| seen.said[0].details.committed = 21, BACK),
        (|seen| seen.said[0].details.destinations[0].cursor = 13, PASSED),
        (|seen| seen.filed[0].details.position = 4, PASSED),
        (|seen| seen.said[1].details.destinations[0].cursor = 4, LINE),
        (|seen| seen.said[1].details.horizon = 21, LINE),
        (|seen| seen.said[0].details.floor = 21, LINE),
        (|seen| seen.said[1].details.applied = 21, LINE),
        (|seen| seen.used[0].details.resident_bytes = MOST_MEMORY + 1, BUDGETS),
        (|seen| seen.used[0].details.threads = 100_000, BUDGETS),
        (|seen| seen.used[0].details.files = MOST_FILES + 1, BUDGETS),
        (|seen| seen.used[0].details.disk_bytes = Some(MOST_DISK + 1), BUDGETS),
    ];
    for (place, (spoil, check)) in spoilt.into_iter().enumerate() {
        let mut seen = right();
        spoil(&mut seen);
        assert!(failed(&seen, &accepted).contains(&check.to_owned()), "{place}: {check}");
    }
}

#[test]
fn what_is_written_down_is_read_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(OBSERVED);
    let history = History::create(&path).expect("a file");
    let own = Used::of(std::process::id(), folder.path()).expect("this process runs");
    assert!(own.resident_bytes > 0 && own.threads > 0 && own.files > 0, "{own:?}");
    history.record_at(50, "node-1", Kind::Ok, SAID, &with_cursor(10));
    history.record_at(60, "node-1", Kind::Ok, USED, &own);
    history.record_at(70, FILES, Kind::Ok, FILED, &Filed { position: 9 });
    let stall = Stall { due_ns: 80, late_ns: 300_000_000 };
    history.record_at(90, "machine", Kind::Info, STALLED, &stall);
    history.flush().expect("room");
    let seen = Observations::read(&path).expect("it was written");
    assert_eq!(seen.said, [entry(50, "node-1", with_cursor(10))]);
    assert_eq!(seen.used.iter().map(|entry| &entry.details).collect::<Vec<_>>(), [&own]);
    assert_eq!(seen.filed[0].details, Filed { position: 9 });
    assert_eq!(seen.longest_stall(), Some(Duration::from_millis(300)));
    assert!(seen.stood_still_before(81) && !seen.stood_still_before(79));
    assert_eq!(seen.highest(), Highest { committed: Position(20), led: BTreeMap::new() });
}

#[test]
fn a_status_is_taken_at_its_word_only_with_a_live_lease() {
    let lease = |nanos| Some(wire::times::nanos_to_proto(nanos));
    let status = |lease| pb::ClusterStatus {
        node: "node-1".to_owned(),
        leader: Some(pb::Leader { name: "node-1".to_owned(), term: 7, lease, ..pb::Leader::default() }),
        buffer: Some(pb::BufferStats { committed: 9, ..pb::BufferStats::default() }),
        ..pb::ClusterStatus::default()
    };
    let leads = |lease| Said::of(&status(lease), 1, Some(1)).map(|said| (said.leads, said.term));
    assert_eq!(leads(lease(1)), Some((true, Some(7))));
    assert_eq!(leads(lease(0)), Some((false, Some(7))));
    assert_eq!(leads(None), Some((false, Some(7))));
    assert_eq!(Said::of(&pb::ClusterStatus::default(), 1, Some(1)), None);
}
