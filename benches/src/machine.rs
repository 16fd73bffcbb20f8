//! Where figures come from: processor, kernel, disk and what a sync costs on it, and the versions of what was measured.

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use model::Clock;
use runtime::SystemClock;
use tokio::time::Instant;

use crate::latency::Times;
use crate::table::millis;

/// Appends that are synced to see what a sync costs.
const SYNCS: usize = 500;
const SYNCED_BYTES: usize = 4_096;
/// What is said of dependencies: those that most figures depend on.
const NAMED: [&str; 4] = ["openraft", "rocksdb", "tokio", "tonic"];

/// The circumstances of a measurement.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    processor: String,
    cores: usize,
    memory_kb: u64,
    kernel: String,
    disk: String,
    sync_p50: Duration,
    sync_p99: Duration,
    versions: String,
}

impl Machine {
    /// Looks, and measures the disk of `folder`.
    pub(crate) fn look(folder: &Path) -> anyhow::Result<Self> {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
        let mut syncs = syncs(folder).context("the disk cannot be measured")?;
        let memory = field(&meminfo, "MemTotal").and_then(|text| text.split(' ').next()?.parse().ok());
        Ok(Self {
            processor: field(&cpuinfo, "model name").unwrap_or("unknown processor").to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_kb: memory.unwrap_or_default(),
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")
                .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned()),
            disk: disk_of(&mounts, folder),
            sync_p50: syncs.quantile(0.5),
            sync_p99: syncs.quantile(0.99),
            versions: versions(include_str!("../../Cargo.lock")),
        })
    }

    /// One paragraph for a document, with the date and the command.
    pub(crate) fn described(&self, command: &str) -> String {
        let now = SystemClock.now().to_string();
        let date = now.split('T').next().unwrap_or_default();
        format!("{date}, `{command}`: {self}.")
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} × {} ({:.0} GB), Linux {}, {}; {SYNCED_BYTES} bytes and fdatasync p50 {} p99 {}; {}",
            self.cores,
            self.processor,
            self.memory_kb as f64 / 1e6,
            self.kernel,
            self.disk,
            millis(self.sync_p50),
            millis(self.sync_p99),
            self.versions,
        )
    }
}

/// What a synced append costs on the disk of `folder`.
fn syncs(folder: &Path) -> std::io::Result<Times> {
    let path = folder.join("sync-latency");
    let mut file = File::create(&path)?;
    let block = [0x5A; SYNCED_BYTES];
    let mut times = Times::default();
    for _ in 0..SYNCS {
        let began = Instant::now();
        file.write_all(&block)?;
        file.sync_data()?;
        times.record(began.elapsed());
    }
    drop(file);
    std::fs::remove_file(path)?;
    Ok(times)
}

/// The value of `name : value` in a file of /proc.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_once(':').map(|(_, value)| value.trim())
}

/// File system, device and kind of the disk that `folder` lies on.
fn disk_of(mounts: &str, folder: &Path) -> String {
    let mounted = mounts.lines().filter_map(|line| {
        let mut parts = line.split(' ');
        Some((parts.next()?, Path::new(parts.next()?), parts.next()?))
    });
    let Some((device, _, system)) =
        mounted.filter(|(_, at, _)| folder.starts_with(at)).max_by_key(|(_, at, _)| at.as_os_str().len())
    else {
        return "unknown disk".to_owned();
    };
    let name = device.rsplit('/').next().unwrap_or_default();
    let turns = std::fs::read_to_string(format!("/sys/class/block/{name}/queue/rotational"));
    let kind = match turns.as_deref().map(str::trim) {
        // What a virtual disk says of itself may be a default.
        Ok("0") => " (not rotating, by its own word)",
        Ok("1") => " (rotating, by its own word)",
        _ => "",
    };
    format!("{system} on {device}{kind}")
}

fn versions(lock: &str) -> String {
    let rustc = said(Command::new("rustc").arg("--version"));
    let revision =
        said(Command::new("git").args(["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"]));
    let mut text = format!("holdfast {}", env!("CARGO_PKG_VERSION"));
    if let Some(revision) = revision {
        text.push_str(&format!(" ({revision})"));
    }
    for name in NAMED {
        if let Some(version) = locked(lock, name) {
            text.push_str(&format!(", {name} {version}"));
        }
    }
    if let Some(rustc) = rustc {
        text.push_str(&format!(", {}", rustc.split(" (").next().unwrap_or_default()));
    }
    if cfg!(debug_assertions) {
        text.push_str(", **not optimised**");
    }
    text
}

/// The version of a package in Cargo.lock.
fn locked<'a>(lock: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = lock.split_once(&format!("name = \"{name}\"\nversion = \""))?;
    rest.split('"').next()
}

/// What a command says, if it succeeds.
pub(crate) fn said(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_named_dependency_has_a_version() {
        for name in NAMED {
            assert!(locked(include_str!("../../Cargo.lock"), name).is_some(), "{name}");
        }
    }

    #[test]
    fn the_longest_mount_point_holds_the_folder() {
        let mounts = "/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/b /tmpx xfs rw 0 0\n";
        assert!(disk_of(mounts, Path::new("/tmp/x")).starts_with("tmpfs on tmpfs"));
        assert!(disk_of(mounts, Path::new("/home")).starts_with("ext4 on /dev/a"));
        assert_eq!(field("a : 1\nmodel name\t: Fast One\n", "model name"), Some("Fast One"));
    }
}
