//! How many synced commits a disk takes, how long each takes, and how much more is written than was asked for.
//!
//! `cargo run --release -p holdfast-store --example engine_rate [DIRECTORY]`: the directory decides which disk is
//! measured; without one it is the system's directory for temporary files, which may be memory.

#![allow(clippy::print_stdout, reason = "its output is its purpose")]

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use holdfast_store::engine::rocks::{RocksEngine, RocksOptions};
use holdfast_store::engine::{Durability, Engine, Family, Write, index_key};
use rand::RngCore;
use tokio::time::Instant;

const RUN: Duration = Duration::from_secs(5);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let parent = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    println!(
        "{:>8} {:>6} {:>10} {:>8} {:>8} {:>8} {:>8} {:>10}",
        "entry", "group", "commits/s", "p50 ms", "p99 ms", "max ms", "MB/s", "written/B"
    );
    for (entry, group) in [(4_000, 1), (64_000, 1), (64_000, 8)] {
        let directory = parent.join(format!("engine-rate-{}-{entry}-{group}", std::process::id()));
        let before = written();
        let measured = measure(&directory, entry, group).await;
        std::fs::remove_dir_all(&directory)?;
        let (mut times, elapsed) = measured?;
        let asked = (times.len() * entry * group) as f64;
        let each = before.zip(written()).map_or(f64::NAN, |(before, after)| (after - before) as f64 / asked);
        times.sort();
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
        let rate = times.len() as f64 / elapsed.as_secs_f64();
        println!(
            "{entry:>8} {group:>6} {rate:>10.0} {:>8.2} {:>8.2} {:>8.2} {:>8.0} {each:>10.2}",
            at(0.5),
            at(0.99),
            at(1.0),
            rate * (entry * group) as f64 / 1e6,
        );
    }
    Ok(())
}

/// Bytes that this process has handed to the system to be written; only Linux tells.
fn written() -> Option<u64> {
    let counters = std::fs::read_to_string("/proc/self/io").ok()?;
    counters.lines().find_map(|line| line.strip_prefix("wchar: "))?.parse().ok()
}

/// The time of each commit, and of all together.
async fn measure(
    directory: &std::path::Path,
    entry: usize,
    group: usize,
) -> Result<(Vec<Duration>, Duration), Box<dyn std::error::Error>> {
    let engine = RocksEngine::open(directory, &RocksOptions::default())?;
    let mut payload = vec![0; entry];
    runtime::random::generator(None).fill_bytes(&mut payload);
    let payload = Bytes::from(payload);
    let mut times = Vec::new();
    let mut index = 0;
    let start = Instant::now();
    while start.elapsed() < RUN {
        let writes = (index..index + group as u64)
            .map(|index| Write::Put(Family::Entries, index_key(index).to_vec(), payload.clone()))
            .collect();
        index += group as u64;
        let begun = Instant::now();
        engine.commit(writes, Durability::Sync).await?;
        times.push(begun.elapsed());
    }
    Ok((times, start.elapsed()))
}
