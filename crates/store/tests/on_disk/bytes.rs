//! What samples cost: bytes written and bytes kept, counted and not timed.
//!
//! Bytes written are those of the whole process, so each of these tests wants a process of its own, as nextest gives it.

#![cfg(target_os = "linux")]

use std::path::Path;

use holdfast_store::engine::Engine;
use holdfast_store::engine::rocks::{RocksEngine, RocksOptions};
use holdfast_store::{Entry, Store};
use model::batch::{Batch, Sample, Source};
use model::{Cause, NodeId, Reading, Revision, TagId, Timestamp, Value};
use rand::Rng;
use runtime::random::{Random, generator};
use wire::entry::EncodedBatch;

use crate::support::{
    GRID, GROUP, Opened, acknowledge, append, beginning, entry, life, noise, open, truncate,
};

fn default_rocks(path: &Path) -> RocksEngine {
    RocksEngine::open(path, &RocksOptions::default()).expect("a directory of this test opens")
}

/// Bytes that this process has handed to the system to be written.
fn written() -> u64 {
    let counters = std::fs::read_to_string("/proc/self/io").expect("Linux has it");
    let line = counters.lines().find_map(|line| line.strip_prefix("wchar: "));
    line.and_then(|number| number.parse().ok()).expect("it has this counter")
}

/// Delivered, truncated and purged up to the end, as while everything is well.
async fn deliver<E: Engine>(opened: &Opened<E>, last: u64) -> u64 {
    opened.commit(&[entry(1, last + 1, acknowledge(last + 1)), entry(1, last + 2, truncate(last + 1))]).await;
    last + 2
}

fn stored<E: Engine>(store: &Store<E>) -> u64 {
    store.disk_usage().expect("it can be read")
}

#[test]
fn at_most_two_and_a_half_bytes_are_written_for_each_byte_of_an_entry() {
    const ENTRY: usize = 64 << 10;
    let folder = tempfile::tempdir().unwrap();
    life(false, async {
        let opened = open(default_rocks(folder.path()), 1 << 20).await.unwrap();
        opened.commit(&beginning()).await;
        let before = written();
        let (mut last, mut payload) = (3, 0);
        for sequence in 1..=2_400 {
            last += 1;
            opened.commit(&[entry(1, last, noise(1, sequence, ENTRY))]).await;
            payload += ENTRY as u64;
            if sequence % 400 == 0 {
                last = deliver(&opened, last).await;
                if let Some(at) = opened.store.keeper().newest_snapshot_position() {
                    opened.store.keeper().purge(at).unwrap();
                }
            }
        }
        let each = (written() - before) as f64 / payload as f64;
        eprintln!("{each:.3} bytes written for each byte");
        assert!(each <= 2.5, "{each:.2} bytes were written for each byte of an entry");
        opened.stop().await;
    });
}

/// 60 registers of a machine, each a slow walk with the noise of its converter, read each second.
struct Machine {
    random: Random,
    values: Vec<f32>,
}

impl Machine {
    fn read(&mut self, slot: u64) -> EncodedBatch {
        let now =
            1_700_000_000_000_000_000 + slot as i64 * 1_000_000_000 + self.random.random_range(0..2_000_000);
        let samples = self.values.iter_mut().zip(1..).map(|(value, tag)| {
            *value += self.random.random_range(-2..=2_i32) as f32 * 0.01;
            Sample {
                tag: TagId(tag),
                source_time: Timestamp(now),
                reading: Reading::Good(Value::F32(*value)),
            }
        });
        let source = Source::Polled { group: GROUP, grid: GRID, slot, skipped: Cause::Late };
        let batch = Batch::new(source, NodeId(1), Revision(1), Timestamp(now), samples.collect());
        EncodedBatch::encode(&batch.expect("it is not empty")).expect("it fits")
    }
}

#[test]
fn a_slowly_changing_value_takes_at_most_six_bytes_on_disk() {
    const SLOTS: u64 = 12_000;
    let folder = tempfile::tempdir().unwrap();
    let mut random = generator(Some(1));
    let values = (0..60).map(|_| random.random_range(0.0..100.0)).collect();
    let mut machine = Machine { random, values };
    let entries: Vec<Entry> =
        (0..SLOTS).map(|slot| entry(1, 4 + slot, append(&[machine.read(slot)]))).collect();
    let raw: usize = entries.iter().map(Entry::len).sum();
    life(false, async {
        let options = RocksOptions { entries_memtable_bytes: 1 << 20, ..RocksOptions::default() };
        let engine = RocksEngine::open(folder.path(), &options).unwrap();
        let opened = open(engine, 1 << 20).await.unwrap();
        opened.commit(&beginning()).await;
        for some in entries.chunks(50) {
            opened.commit(some).await;
        }
        opened.stop().await;
    });
    // What is still in a memtable reaches a file at the next opening.
    life(false, async {
        let opened = open(default_rocks(folder.path()), 1 << 20).await.unwrap();
        let samples = (SLOTS * 60) as f64;
        let each = stored(&opened.store) as f64 / samples;
        eprintln!("{each:.2} bytes a sample on disk, {:.2} in entries", raw as f64 / samples);
        assert!(each <= 6.0, "{each:.2} bytes on disk for each sample");
        opened.stop().await;
    });
}
