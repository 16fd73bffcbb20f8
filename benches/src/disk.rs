//! Bytes on disk of a sample, and bytes written for a byte of entry.
//!
//! - Three replicas in this process; nothing is delivered, so nothing is deleted.
//! - Bytes on disk: the files of a data directory after it was opened again, when the write-ahead log has become
//!   files, divided by the samples in it. A running node has about 64 MiB of write-ahead log besides.
//! - Bytes written: what the kernel counted for this process (`write_bytes`), a third of it for each node, from the
//!   first proposal until everything lies in files.

use std::path::Path;

use anyhow::Context;
use store::engine::rocks::{RocksEngine, RocksOptions};

use crate::load::{self, Shape, Until};
use crate::process;
use crate::replicas::{Replicas, directory};
use crate::table::{Figure, grouped};
use crate::world::{Bench, remove};

const BYTES_PER_SAMPLE: f64 = 6.0;
const WRITTEN_PER_BYTE: f64 = 2.5;
const NODES: usize = 3;

/// What entries may look like: many devices polled at once, or one pusher with a thousand samples.
const SHAPES: [(&str, Shape, usize); 2] = [
    ("entries of 50 devices × 60 tags, one moment", Shape { batches: 50, tags: 60, times: 1 }, 4),
    ("entries of one batch, 100 tags × 10 moments", Shape { batches: 1, tags: 100, times: 10 }, 16),
];

/// How disk usage is measured.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Args {
    /// Samples, in millions.
    #[arg(long, value_name = "MILLIONS")]
    samples: Option<u64>,
}

pub(crate) async fn run(bench: &Bench, args: &Args) -> anyhow::Result<Vec<Figure>> {
    let samples = bench.or_usual(args.samples, 100, 5) * 1_000_000;
    let mut figures = Vec::new();
    for (name, shape, proposers) in SHAPES {
        let folder = bench.subfolder("disk")?;
        figures.extend(measure(bench, &folder, name, shape, proposers, samples).await?);
        remove(&folder)?;
    }
    Ok(figures)
}

async fn measure(
    bench: &Bench,
    folder: &Path,
    name: &str,
    shape: Shape,
    proposers: usize,
    samples: u64,
) -> anyhow::Result<Vec<Figure>> {
    let replicas = Replicas::start(folder).await?;
    let own = std::process::id();
    let written_before = process::usage(own)?.written;
    let (leader, before) = replicas.leader().await?;
    let done = load::run(leader, proposers, shape, Until::Samples(samples)).await?;
    let (_, after) = replicas.leader().await?;
    replicas.stop().await?;
    for node in 1..=NODES {
        let path = directory(folder, node);
        RocksEngine::open(&path, &RocksOptions::default())
            .context("a data directory cannot be opened again")?;
    }
    let written = process::usage(own)?.written - written_before;
    let on_disk = largest(folder) as f64 / done.samples as f64;
    let encoded = done.entry_bytes as f64 / done.samples as f64;
    let per_byte = written as f64 / NODES as f64 / done.entry_bytes as f64;
    bench.say(&format!("{name}: {on_disk:.2} bytes a sample, {per_byte:.2} bytes written a byte"));
    Ok(vec![
        Figure::judged(
            &format!("bytes on disk per sample, {name}"),
            "≤ 6",
            format!("{on_disk:.2} ({encoded:.2} in the entry; {} samples)", grouped(done.samples as f64)),
            on_disk <= BYTES_PER_SAMPLE,
        ),
        Figure::judged(
            "bytes written per byte of entry, per node",
            "≤ 2.5",
            format!("{per_byte:.2} at {} samples/s", grouped(done.rate())),
            per_byte <= WRITTEN_PER_BYTE,
        ),
        Figure::elections(before.0, after.0),
    ])
}

/// The size of the largest data directory.
fn largest(folder: &Path) -> u64 {
    (1..=NODES).map(|node| process::disk_usage(&directory(folder, node))).max().unwrap_or_default()
}
