//! The CSV destination, its crashes and its successors.

mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use holdfast_destinations::{AnyDestination, DeliverError, Destination, MarkerReader, NodeFacts, Receipt};
use model::plant::{Csv, DestinationKind};
use model::{Cursor, Delivery, Ordinal, Position, Record, Timestamp};
use tempfile::TempDir;

use support::{Granted, Limited, build, delivery, expiry, gap, key, node, one_entry, opening, reign, sample};

const MINUTE: Duration = Duration::from_secs(60);

fn csv(folder: &Path, max_rows: u32) -> Csv {
    Csv { directory: folder.to_owned(), every: MINUTE, max_rows }
}

fn files(folder: &TempDir, name: &str, max_rows: u32) -> AnyDestination {
    build(DestinationKind::Csv(csv(folder.path(), max_rows)), &node(name))
}

async fn begun(folder: &TempDir, name: &str, term: u64, cursor: Cursor, max_rows: u32) -> AnyDestination {
    let mut destination = files(folder, name, max_rows);
    destination.begin_reign(&reign(term, cursor), &Granted).await.expect("the directory is there");
    destination
}

fn at(position: u64, ordinal: u32) -> Cursor {
    Cursor { position: Position(position), ordinal: Ordinal(ordinal) }
}

fn names(folder: &TempDir) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(folder.path())
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
        .collect();
    names.sort();
    names
}

/// Names of finished files, without the destination and what is the same in all of them.
fn finished(folder: &TempDir) -> Vec<String> {
    names(folder).into_iter().filter(|name| name.ends_with(".csv")).collect()
}

/// How often each key stands in the finished files.
fn keys(folder: &TempDir) -> BTreeMap<String, u32> {
    let mut keys = BTreeMap::new();
    for name in finished(folder) {
        let mut reader = ::csv::Reader::from_path(folder.path().join(name)).expect("a file");
        assert_eq!(&reader.headers().expect("a header")[0], "key");
        for row in reader.records() {
            *keys.entry(row.expect("a row")[0].to_owned()).or_default() += 1;
        }
    }
    keys
}

fn each_once<'a>(records: impl IntoIterator<Item = &'a Record>) -> BTreeMap<String, u32> {
    records.into_iter().map(|record| (record.key().to_string(), 1)).collect()
}

fn held(receipt: &Receipt) -> bool {
    receipt.acknowledged < receipt.taken
}

#[tokio::test]
async fn rows_are_held_until_the_window_is_over_and_acknowledged_only_then() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut destination = begun(&folder, "gateway-a", 1, at(1, 0), 1_000).await;
    assert_eq!(destination.due(), None);
    let receipt = destination.deliver(&one_entry(1, 3), &Granted).await.expect("taken");
    assert_eq!((receipt.acknowledged, receipt.taken), (at(1, 0), at(2, 0)));
    let due = destination.due().expect("something is held");
    assert!(due <= tokio::time::Instant::now() + MINUTE);
    assert!(finished(&folder).is_empty(), "{:?}", names(&folder));
    let second = one_entry(2, 3);
    assert!(held(&destination.deliver(&second, &Granted).await.expect("taken")));
    assert_eq!(destination.flush(&Granted).await, Ok(Some(at(3, 0))));
    assert_eq!(finished(&folder).len(), 1, "one file for the window");
    assert_eq!(keys(&folder), each_once(one_entry(1, 3).records.iter().chain(&second.records)));
    assert_eq!((destination.due(), destination.flush(&Granted).await), (None, Ok(None)));
}

#[tokio::test(start_paused = true)]
async fn a_window_that_is_over_is_published_by_the_next_delivery() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut destination = begun(&folder, "gateway-a", 1, at(1, 0), 1_000).await;
    destination.deliver(&one_entry(1, 3), &Granted).await.expect("taken");
    tokio::time::advance(MINUTE).await;
    let receipt = destination.deliver(&one_entry(2, 3), &Granted).await.expect("taken");
    assert_eq!(receipt.acknowledged, at(3, 0));
}

#[tokio::test]
async fn files_are_rotated_by_rows_in_the_middle_of_a_delivery() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut destination = begun(&folder, "gateway-a", 3, at(41, 0), 10).await;
    let delivery = one_entry(41, 25);
    let receipt = destination.deliver(&delivery, &Granted).await.expect("taken");
    assert_eq!((receipt.acknowledged, receipt.taken), (at(41, 20), at(42, 0)));
    let lineage = support::lineage();
    let expected = ["0000000000", "0000000010"]
        .map(|ordinal| format!("historian.samples.{lineage}-00000000000000000041-{ordinal}.t3.csv"));
    assert_eq!(finished(&folder), expected, "named by the first key");
    destination.flush(&Granted).await.expect("written");
    assert_eq!(keys(&folder), each_once(&delivery.records));
}

#[tokio::test]
async fn a_full_last_file_acknowledges_the_whole_delivery() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut destination = begun(&folder, "gateway-a", 3, at(41, 0), 10).await;
    let receipt = destination.deliver(&one_entry(41, 20), &Granted).await.expect("taken");
    assert_eq!((receipt.acknowledged, destination.due()), (at(42, 0), None));
}

#[tokio::test]
async fn each_kind_of_record_has_a_file_of_its_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut destination = begun(&folder, "gateway-a", 1, at(1, 0), 1_000).await;
    let delivery = delivery(vec![sample(1, 0), gap(1), opening(2), expiry(3)]);
    destination.deliver(&delivery, &Granted).await.expect("taken");
    destination.flush(&Granted).await.expect("written");
    let kinds: Vec<_> =
        finished(&folder).iter().map(|name| name.split('.').nth(1).expect("a kind").to_owned()).collect();
    assert_eq!(kinds, ["expiries", "gaps", "openings", "samples"]);
    assert_eq!(keys(&folder), each_once(&delivery.records));
    let gaps = finished(&folder).into_iter().find(|name| name.contains(".gaps.")).expect("gaps");
    let text = std::fs::read_to_string(folder.path().join(gaps)).expect("text");
    let header = "key,device,group,grid,first_slot,last_slot,slots,from,to,cause,node,term\r\n";
    assert!(text.starts_with(header) && text.contains(",1,1,3,3,1970-01-01T00:00:00.000000000Z,"), "{text}");
}

#[tokio::test]
async fn csv_after_failover_holds_each_key_once() {
    let folder = tempfile::tempdir().expect("a share");
    let entries: Vec<Delivery> = (1..=9).map(|position| one_entry(position, 7)).collect();

    // The first leader publishes three windows, and dies when only the first has been acknowledged, with rows held.
    let mut first = begun(&folder, "gateway-a", 1, at(1, 0), 14).await;
    let mut acknowledged = at(1, 0);
    for entry in &entries[..7] {
        let receipt = first.deliver(entry, &Granted).await.expect("taken");
        if acknowledged == at(1, 0) {
            acknowledged = receipt.acknowledged;
        }
    }
    assert_eq!(acknowledged, at(3, 0));
    assert!(names(&folder).iter().any(|name| name.ends_with(".part")), "rows are held: {:?}", names(&folder));
    // It is not closed: the process is gone.
    std::mem::forget(first);

    // The second, on another node with other rotation, begins at the cursor.
    let mut second = begun(&folder, "gateway-b", 2, acknowledged, 10).await;
    assert!(!names(&folder).iter().any(|name| name.ends_with(".part")), "{:?}", names(&folder));
    assert_eq!(finished(&folder).len(), 1, "what was not acknowledged is gone");
    for entry in &entries[2..] {
        second.deliver(entry, &Granted).await.expect("taken");
    }
    second.flush(&Granted).await.expect("written");
    assert_eq!(keys(&folder), each_once(entries.iter().flat_map(|entry| &entry.records)));
}

#[tokio::test]
async fn a_late_ex_leader_can_neither_replace_nor_remove_what_its_successor_wrote() {
    let folder = tempfile::tempdir().expect("a share");
    let mut late = begun(&folder, "gateway-a", 1, at(1, 0), 1_000).await;
    late.deliver(&one_entry(1, 7), &Granted).await.expect("held");
    let mut successor = begun(&folder, "gateway-b", 2, at(1, 0), 1_000).await;
    successor.deliver(&one_entry(1, 5), &Granted).await.expect("held");
    successor.flush(&Granted).await.expect("written");
    let before = (finished(&folder), keys(&folder));

    // Paused all the while, it still believes that it may act.
    let flushed = late.flush(&Granted).await;
    assert!(flushed.is_err(), "its unfinished file is gone: {flushed:?}");
    assert_eq!((finished(&folder), keys(&folder)), before);
    late.begin_reign(&reign(1, at(1, 0)), &Granted).await.expect("it may try");
    assert_eq!((finished(&folder), keys(&folder)), before);
}

#[tokio::test]
async fn a_fenced_node_publishes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut destination = begun(&folder, "gateway-a", 1, at(1, 0), 5).await;
    let permit = Limited::to(1);
    let error = destination.deliver(&one_entry(1, 5), &permit).await.expect_err("fenced before the rename");
    assert!(matches!(error, DeliverError::Fenced(_)), "{error:?}");
    assert!(finished(&folder).is_empty());
    assert!(
        !names(&folder).iter().any(|name| name.ends_with(".part")),
        "nothing is left: {:?}",
        names(&folder)
    );
    permit.end();
    assert!(matches!(
        files(&folder, "gateway-a", 5).begin_reign(&reign(1, at(1, 0)), &permit).await,
        Err(DeliverError::Fenced(_))
    ));
}

#[tokio::test]
async fn what_was_published_is_not_written_twice_in_one_reign() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut destination = begun(&folder, "gateway-a", 1, at(1, 0), 10).await;
    let delivery = one_entry(1, 14);
    destination.deliver(&delivery, &Granted).await.expect("taken");
    let inodes = || -> Vec<u64> {
        let of = |name| std::fs::metadata(folder.path().join(name)).expect("a file").ino();
        finished(&folder).into_iter().map(of).collect()
    };
    let published = inodes();
    // The acknowledgement was not committed; the caller begins where it knows.
    let receipt = destination.deliver(&delivery, &Granted).await.expect("taken again");
    assert_eq!(
        (published.len(), &inodes()),
        (1, &published),
        "who reads it sees one file, not another of its name"
    );
    assert_eq!((receipt.acknowledged, receipt.taken), (at(1, 10), at(2, 0)));
    destination.flush(&Granted).await.expect("written");
    assert_eq!(keys(&folder), each_once(&delivery.records));
}

#[tokio::test]
async fn a_replay_is_a_reign_that_begins_further_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut destination = begun(&folder, "gateway-a", 1, at(1, 0), 7).await;
    for position in 1..=3 {
        destination.deliver(&one_entry(position, 7), &Granted).await.expect("taken");
    }
    destination.begin_reign(&reign(1, at(2, 0)), &Granted).await.expect("begun");
    for position in 2..=3 {
        destination.deliver(&one_entry(position, 7), &Granted).await.expect("taken");
    }
    let all: Vec<_> = (1..=3).flat_map(|position| one_entry(position, 7).records).collect();
    assert_eq!(keys(&folder), each_once(&all));
}

#[tokio::test]
async fn after_an_error_the_next_delivery_begins_at_what_was_acknowledged() {
    let folder = tempfile::tempdir().expect("a folder");
    let inner = folder.path().join("reports");
    std::fs::create_dir(&inner).expect("made");
    let mut destination = build(DestinationKind::Csv(csv(&inner, 10)), &node("gateway-a"));
    destination.begin_reign(&reign(1, at(1, 0)), &Granted).await.expect("begun");
    destination.deliver(&one_entry(1, 4), &Granted).await.expect("held");
    std::fs::remove_dir_all(&inner).expect("the share is gone");
    let error = destination.deliver(&one_entry(2, 8), &Granted).await.expect_err("nowhere to write");
    assert!(
        matches!(&error, DeliverError::Misconfigured { reason } if reason.contains("reports")),
        "{error:?}"
    );
    assert_eq!(destination.due(), None, "nothing is held");
    std::fs::create_dir(&inner).expect("made");

    let careless = destination.deliver(&one_entry(3, 8), &Granted).await;
    assert!(careless.is_err(), "rows that were given up cannot be skipped: {careless:?}");
    let mut all = Vec::new();
    for entry in [one_entry(1, 4), one_entry(2, 8), one_entry(3, 8)] {
        destination.deliver(&entry, &Granted).await.expect("taken");
        all.extend(entry.records);
    }
    destination.flush(&Granted).await.expect("written");
    let moved = TempDir::new().expect("a folder");
    for entry in std::fs::read_dir(&inner).expect("a folder") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), moved.path().join(entry.file_name())).expect("copied");
    }
    assert_eq!(keys(&moved), each_once(&all));
}

#[tokio::test]
async fn a_call_that_is_dropped_half_way_loses_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut destination = begun(&folder, "gateway-a", 1, at(1, 0), 1_000).await;
    destination.deliver(&one_entry(1, 4), &Granted).await.expect("held");
    let is_finished = {
        let second = one_entry(2, 4);
        let mut dropped = std::pin::pin!(destination.deliver(&second, &Granted));
        // Polled once, so that file work has begun.
        let polled =
            std::future::poll_fn(|context| std::task::Poll::Ready(dropped.as_mut().poll(context).is_ready()));
        polled.await
    };
    if !is_finished {
        assert!(destination.deliver(&one_entry(3, 4), &Granted).await.is_err(), "rows were given up");
    }
    for position in 1..=3 {
        destination.deliver(&one_entry(position, 4), &Granted).await.expect("taken");
    }
    destination.flush(&Granted).await.expect("written");
    let all: Vec<_> = (1..=3).flat_map(|position| one_entry(position, 4).records).collect();
    assert_eq!(keys(&folder), each_once(&all));
}

#[tokio::test]
async fn other_files_and_other_destinations_are_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let lineage = support::lineage();
    let others = [
        "report.csv".to_owned(),
        format!("mes.samples.{lineage}-00000000000000000041-0000000000.t1.csv"),
        "historian.samples.zzzzzzzz-00000000000000000041-0000000000.t1.csv".to_owned(),
        format!(".mes.samples.{lineage}-00000000000000000041-0000000000.t1.csv.gateway-a.part"),
    ];
    for name in &others {
        std::fs::write(folder.path().join(name), "key\r\n").expect("written");
    }
    begun(&folder, "gateway-a", 9, at(1, 0), 10).await;
    for name in &others {
        assert!(names(&folder).contains(name), "{name} is gone");
    }
}

#[tokio::test]
async fn a_follower_sees_whose_files_lie_in_its_directory() {
    let (share, elsewhere) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let mut leader = begun(&share, "gateway-a", 1, at(1, 0), 10).await;
    leader.begin_reign(&reign(4, at(1, 0)), &Granted).await.expect("begun");
    let reader =
        |folder: &TempDir| MarkerReader::new("historian", &csv(folder.path(), 10), &node("gateway-b"));
    let marker = reader(&share).expect("built").read().await.expect("readable").expect("a marker");
    assert_eq!((marker.node.as_str(), marker.term, marker.cluster.as_str()), ("gateway-a", 4, "plant-7"));
    assert_eq!(reader(&elsewhere).expect("built").read().await, Ok(None));
}

#[tokio::test]
async fn a_directory_that_is_missing_or_unknown_stalls_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = folder.path().join("not-mounted");
    let mut destination = build(DestinationKind::Csv(csv(&missing, 10)), &node("gateway-a"));
    let error = destination.begin_reign(&reign(1, at(1, 0)), &Granted).await.expect_err("no directory");
    assert!(
        matches!(&error, DeliverError::Misconfigured { reason } if reason.contains("not-mounted")),
        "{error:?}"
    );
    assert!(!missing.exists(), "it is not made: a share may be missing there");

    let vars = BTreeMap::from([("csv-dir".to_owned(), folder.path().display().to_string())]);
    let node = NodeFacts { vars, ..node("gateway-a") };
    let mut destination = build(DestinationKind::Csv(csv(Path::new("${var.csv-dir}"), 1)), &node);
    destination.begin_reign(&reign(1, at(1, 0)), &Granted).await.expect("the variable is filled in");
    destination.deliver(&one_entry(1, 1), &Granted).await.expect("written");
    assert_eq!(keys(&folder), BTreeMap::from([(key(1, 0).to_string(), 1)]));
}

#[tokio::test]
async fn what_is_offered_again_is_in_files_of_its_own_and_nothing_that_is_held_is_touched() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut destination = begun(&folder, "gateway-a", 3, at(41, 0), 10).await;
    let live = one_entry(41, 5);
    assert!(held(&destination.deliver(&live, &Granted).await.expect("taken")));
    let again = delivery(vec![sample(7, 0), sample(9, 4), gap(12)]);
    let receipt = destination.offer_again(&again, Timestamp(77), &Granted).await.expect("written");
    assert_eq!((receipt.acknowledged, receipt.rejected), (again.upto, Vec::new()));
    assert_eq!(keys(&folder), each_once(&again.records), "there at once");
    // What was not acknowledged is written again by the next reign; what was offered again stays.
    drop(destination);
    let mut next = begun(&folder, "gateway-b", 4, at(41, 0), 10).await;
    assert_eq!(keys(&folder), each_once(&again.records));
    next.deliver(&live, &Granted).await.expect("taken");
    next.flush(&Granted).await.expect("written");
    assert_eq!(keys(&folder), each_once(again.records.iter().chain(&live.records)));
}

#[tokio::test]
async fn what_is_offered_again_is_rotated_by_rows_and_leaves_nothing_when_the_permit_ends() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut destination = begun(&folder, "gateway-a", 3, at(41, 0), 10).await;
    let again = one_entry(7, 25);
    destination.offer_again(&again, Timestamp(77), &Granted).await.expect("written");
    assert_eq!((finished(&folder).len(), keys(&folder)), (3, each_once(&again.records)));
    let permit = Limited::to(1);
    let late = destination.offer_again(&one_entry(8, 5), Timestamp(77), &permit).await;
    assert!(matches!(late, Err(DeliverError::Fenced(_))), "{late:?}");
    assert_eq!(keys(&folder), each_once(&again.records));
    assert!(names(&folder).iter().all(|name| !name.ends_with(".part")), "{:?}", names(&folder));
}
