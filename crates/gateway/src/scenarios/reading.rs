//! The buffer as one destination reads it.

use model::{Position, Record};

use super::*;
use crate::forwarding::reader::{Reader, Run};

/// Written behind [`PLANT`], where it belongs to the press.
const ANOTHER_GROUP: &str = r#"
[[device.group]]
id = "slow"
period = "1s"
tag = [{ name = "level", address = "40103", type = "f32" }]
"#;

fn reader(node: &Node) -> Reader<SimEngine> {
    let plant = node.read(State::plant);
    Reader::new(node.replica.clone(), HISTORIAN, &plant.destinations[0])
}

/// Where the buffer begins.
fn oldest(node: &Node) -> Cursor {
    Cursor::at(node.read(|state| state.horizon.next()))
}

/// Reads runs up to the end of the buffer, as one that delivers each.
async fn runs(reader: &mut Reader<SimEngine>, from: Cursor, ahead: bool) -> Vec<Run> {
    let (mut runs, mut from): (Vec<Run>, Cursor) = (Vec::new(), from);
    loop {
        let run = reader.read(from).await.expect("it can be read");
        assert!(run.next > from || !run.is_backlog, "it goes on");
        from = run.next;
        let is_last = !run.is_backlog;
        if ahead {
            reader.read_behind(&run);
        }
        runs.push(run);
        if is_last {
            return runs;
        }
    }
}

fn samples(runs: &[Run]) -> Vec<&Record> {
    runs.iter().flat_map(|run| &run.records).filter(|record| matches!(record, Record::Sample(_))).collect()
}

/// Puts some mebibytes into the buffer.
async fn fill(node: &Node) {
    node.configure(plant(64 * MIB, WhenFull::Refuse)).await;
    for sequence in 1..=40 {
        node.push(sequence).await.expect("there is room");
    }
}

/// How many samples of a push are of tags that are in the plant.
fn known(node: &Node) -> usize {
    let catalog = node.read(|state| state.catalog().cloned()).expect("configured");
    (1..=10).filter(|tag| catalog.tag(TagId(*tag)).is_some()).count()
}

#[tokio::test]
async fn each_record_is_in_one_run_whether_runs_are_read_ahead_or_not() {
    let nodes = cluster(1).await;
    let node = &nodes[leader(&nodes).await];
    fill(node).await;
    let plain = runs(&mut reader(node), oldest(node), false).await;
    let ahead = runs(&mut reader(node), oldest(node), true).await;
    assert!(plain.len() > 2, "a few mebibytes are more than one run");
    assert_eq!(samples(&plain).len(), 40 * known(node), "what was accepted");
    assert_eq!(samples(&ahead), samples(&plain));
    let keys: Vec<_> = samples(&plain).iter().map(|record| record.key()).collect();
    assert!(keys.is_sorted_by(|one, next| one < next), "in order, none twice");
}

#[tokio::test]
async fn a_run_begins_where_less_was_taken_than_was_offered() {
    let nodes = cluster(1).await;
    let node = &nodes[leader(&nodes).await];
    fill(node).await;
    let mut reader = reader(node);
    let first = reader.read(oldest(node)).await.expect("it can be read");
    reader.read_behind(&first);
    let taken = samples(std::slice::from_ref(&first))[2].key();
    let from = Cursor { position: taken.position, ordinal: taken.ordinal };
    let again = reader.read(from).await.expect("it can be read");
    assert_eq!(again.records.first().map(Record::key), Some(taken));
    let rest = runs(&mut reader, again.next, true).await;
    let left = samples(&[again]).len() + samples(&rest).len();
    assert_eq!(left, 40 * known(node) - 2, "all but the two that were taken");
}

#[tokio::test]
async fn what_was_given_up_by_record_is_not_served_even_where_it_was_read_before() {
    let nodes = cluster(1).await;
    let node = &nodes[leader(&nodes).await];
    fill(node).await;
    let mut reader = reader(node);
    let first = reader.read(oldest(node)).await.expect("it can be read");
    reader.read_behind(&first);
    let below = Position(first.next.position.0 + 20);
    let overrun = Some(vec![(HISTORIAN, 20)]);
    assert_eq!(node.propose(Command::Truncate { below, overrun }).await, store::Outcome::Done);
    let rest = runs(&mut reader, first.next, true).await;
    let first_left = samples(&rest).first().map(|record| record.key().position);
    assert_eq!(first_left, Some(below), "its record says that the others are missing");
}

#[tokio::test]
async fn a_late_gap_of_a_group_that_went_two_revisions_ago_reaches_its_destination() {
    let nodes = cluster(1).await;
    let node = &nodes[leader(&nodes).await];
    let document = format!("{PLANT}{ANOTHER_GROUP}");
    node.configure(read_bundle(&Bundle::of_document(document)).expect("it is valid").plant).await;
    let slow = node.read(|state| {
        let catalog = state.catalog().expect("configured");
        catalog.groups().find(|(group, ..)| *group.name == *"slow").expect("it is there").0.id
    });
    let grid = node.read(|state| state.grids[&slow].id);
    node.configure(plant(64 * MIB, WhenFull::Refuse)).await;
    node.configure(plant(65 * MIB, WhenFull::Refuse)).await;
    let batcher = Batcher::start(node.replica.clone(), node.leads(), READINGS, &node.spawner);
    batcher.push(&node.polled(slow, grid, 40)).expect("there is room in the queue");
    timeout(SOON, batcher.drain()).await.expect("it is decided");
    let read = runs(&mut reader(node), oldest(node), false).await;
    let gaps = read.iter().flat_map(|run| &run.records).filter_map(|record| match record {
        Record::Gap(gap) if gap.grid == grid => Some((&*gap.group, gap.last_slot)),
        _ => None,
    });
    assert_eq!(gaps.collect::<Vec<_>>().last(), Some(&("slow", 40)));
}

#[tokio::test]
async fn a_sample_whose_tag_went_while_it_was_on_its_way_reaches_its_destination() {
    let nodes = cluster(1).await;
    let node = &nodes[leader(&nodes).await];
    let document = format!("{PLANT}{ANOTHER_GROUP}");
    node.configure(read_bundle(&Bundle::of_document(document)).expect("it is valid").plant).await;
    let (tag, revision) = node.read(|state| {
        let catalog = state.catalog().expect("configured");
        (catalog.tag_named("press/level").expect("it is there").id, catalog.revision())
    });
    node.configure(plant(64 * MIB, WhenFull::Refuse)).await;
    let source = Source::Pushed { session: SessionId::from(7), sequence: 1 };
    let reading = Reading::Good(Value::F32(2.5));
    let sample = Sample { tag, source_time: Timestamp(0), reading: reading.clone() };
    let batch = Batch::new(source, node.replica.node(), revision, node.clock.now(), vec![sample]);
    let batch = EncodedBatch::encode(&batch.expect("not empty")).expect("it is small");
    node.replica.append(&[batch], PATIENCE).await.expect("it is accepted, and acknowledged");
    let read = runs(&mut reader(node), oldest(node), false).await;
    let found = samples(&read).into_iter().find_map(|record| match record {
        Record::Sample(sample) if &*sample.tag.id == "press/level" => Some(sample.reading.clone()),
        _ => None,
    });
    assert_eq!(found, Some(reading));
}

#[tokio::test]
async fn the_gap_that_ends_a_grid_goes_to_whom_its_own_tags_went() {
    let nodes = cluster(1).await;
    let node = &nodes[leader(&nodes).await];
    let before = format!("{PLANT}tags = [\"press/pressure\"]\n");
    let after = before.replace("name = \"pressure\"", "name = \"force\"");
    node.configure(read_bundle(&Bundle::of_document(before)).expect("it is valid").plant).await;
    let (group, grid) = node.grid();
    let line = node.read(|state| state.grids[&group].line);
    node.until_begun(&line, 2).await;
    node.configure(read_bundle(&Bundle::of_document(after)).expect("it is valid").plant).await;
    let read = runs(&mut reader(node), oldest(node), false).await;
    let gaps = read.iter().flat_map(|run| &run.records).filter_map(|record| match record {
        Record::Gap(gap) if gap.grid == grid => Some((gap.first_slot, &*gap.group)),
        _ => None,
    });
    assert_eq!(gaps.collect::<Vec<_>>(), [(0, "fast")], "nothing was read of it, and nobody else gets it");
}
