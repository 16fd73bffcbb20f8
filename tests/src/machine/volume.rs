//! A disk of a node's own, whose power can be cut, that can be full, and be exchanged for another: an ext4 file system in a
//! file on a loop device.
//!
//! - What fills it is a file beside whatever else is there; what is free is asked of the file system.
//! - Its journal is written by itself only every five minutes, so that it saves nobody by luck.
//! - Nobody may have a file open on it when its power is restored: its users are dead by then.
//! - The loop device goes with the mount, so that only mounts can be left by a process that was killed ([`unmount_below`]).
//! - The file stays when a volume is dropped, as the disk was then: whoever made it says what becomes of it.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

use super::{Unable, must_be_root, run};

/// The kernel lets go of what a killed process had open within milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);
const TRY_EVERY: Duration = Duration::from_millis(20);
/// More than a node has files, and soon made.
const INODES: &str = "4096";
/// What the file system gives room in.
const BLOCK: u64 = 4096;

/// An ext4 file system of its own, in a file on a loop device.
#[derive(Debug)]
pub struct Volume {
    file: PathBuf,
    mount: PathBuf,
}

impl Volume {
    /// Makes a file system of so many bytes in a new file, and mounts it on a folder that is made, too.
    pub fn make(file: &Path, mount: &Path, bytes: u64) -> Result<Self, Unable> {
        must_be_root()?;
        let unable = |error: io::Error| Unable(format!("a file system of its own cannot be made: {error}"));
        let space = File::create_new(file).map_err(unable)?;
        let volume = Self { file: file.to_owned(), mount: mount.to_owned() };
        space.set_len(bytes).and_then(|()| volume.set_up()).map_err(unable)?;
        Ok(volume)
    }

    fn set_up(&self) -> io::Result<()> {
        fs::create_dir_all(&self.mount)?;
        let file = text(&self.file)?;
        // Nothing is left to a thread of the kernel, which would write at any time.
        let at_once = "lazy_itable_init=0,lazy_journal_init=0";
        run("mkfs.ext4", &["-q", "-F", "-m", "0", "-N", INODES, "-E", at_once, file], "")?;
        self.mount()
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Cuts its power: every later write fails, and what was not synced is gone. An error if writes do not fail.
    pub fn cut_power(&self) -> io::Result<()> {
        kernel::shut_down(&self.mount)?;
        match self.takes_writes() {
            Ok(()) => Err(io::Error::other(format!("{} still takes writes", self.mount.display()))),
            Err(_) => Ok(()),
        }
    }

    /// Gives it power again: it is mounted anew, and its journal is replayed.
    pub fn restore_power(&self) -> io::Result<()> {
        // A mount namespace of somebody else may hold the dead one for a moment longer, and it would come back as it is.
        patiently(|| {
            unmount_below(&self.mount)?;
            self.mount()?;
            self.takes_writes()
        })
    }

    /// Puts an empty disk in its place; nothing runs there.
    pub fn exchange(&self) -> io::Result<()> {
        unmount_below(&self.mount)?;
        self.set_up()
    }

    /// Bytes that may still be written to it.
    pub fn available(&self) -> io::Result<u64> {
        let said = statvfs(&self.mount)?;
        Ok(said.f_bavail.saturating_mul(said.f_frsize))
    }

    /// Takes all the room there is, but for so many bytes; called again, it takes what has come back.
    pub fn fill(&self, leave: u64) -> io::Result<()> {
        let file = File::options().create(true).truncate(false).write(true).open(self.filler())?;
        let to_take = || Ok::<u64, io::Error>(self.available()?.saturating_sub(leave));
        let mut end = file.metadata()?.len();
        let mut step = to_take()?;
        while step >= BLOCK {
            match fallocate(&file, FallocateFlags::empty(), end, step) {
                Ok(()) => end += step,
                // A long file takes some room for itself.
                Err(Errno::NOSPC) => step /= 2,
                Err(error) => return Err(error.into()),
            }
            step = step.min(to_take()?);
        }
        Ok(())
    }

    /// Gives back what was taken.
    pub fn free(&self) -> io::Result<()> {
        match fs::remove_file(self.filler()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Whether so many bytes can be written to it now. While that is tried they are taken, as far as they are there.
    pub fn has_room_for(&self, bytes: usize) -> io::Result<bool> {
        let path = self.mount.join(".has-room");
        let written = File::create(&path).and_then(|mut file| {
            file.write_all(&vec![b'x'; bytes])?;
            file.sync_all()
        });
        fs::remove_file(path)?;
        match written {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => Ok(false),
            other => other.map(|()| true),
        }
    }

    fn filler(&self) -> PathBuf {
        self.mount.join(".filler")
    }

    fn mount(&self) -> io::Result<()> {
        let options = "loop,commit=300";
        run("mount", &["-t", "ext4", "-o", options, text(&self.file)?, text(&self.mount)?], "").map(drop)
    }

    fn takes_writes(&self) -> io::Result<()> {
        let path = self.mount.join(".takes-writes");
        File::create(&path)?.sync_all()?;
        fs::remove_file(path)
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if let Err(error) = unmount_below(&self.mount) {
            eprintln!("{} stays mounted: {error}", self.mount.display());
        }
    }
}

/// Unmounts what is mounted on a folder and below it.
pub fn unmount_below(folder: &Path) -> io::Result<()> {
    // Mounts bear the names that are no links.
    let folder = fs::canonicalize(folder).or_else(|_| std::path::absolute(folder))?;
    patiently(|| {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        // Mounted later is mounted deeper, or on top.
        for point in points.map(|point| point.replace("\\040", " ")).rev() {
            if Path::new(&point).starts_with(&folder) {
                run("umount", &[&point], "")?;
            }
        }
        Ok(())
    })
}

/// Tries until it is done, or has failed for too long.
pub(super) fn patiently(mut attempt: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => sleep(TRY_EVERY),
        }
    }
}

fn text(path: &Path) -> io::Result<&str> {
    path.to_str().ok_or_else(|| io::Error::other(format!("{} is no text", path.display())))
}

#[cfg(test)]
mod tests {
    use super::super::able;
    use super::*;

    const BYTES: u64 = 64 << 20;
    const WRITES: usize = 10;

    #[test]
    fn a_power_cut_takes_what_was_not_synced_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let made = Volume::make(&folder.path().join("disk.ext4"), &folder.path().join("disk"), BYTES);
        let Some(volume) = able(made) else { return };
        for round in 1..=3 {
            let (log, unsynced) = (volume.path().join("log"), volume.path().join("unsynced"));
            let mut file = File::options().create(true).append(true).open(&log).expect("a file");
            for _ in 0..WRITES {
                file.write_all(&[b'S'; 1000]).expect("room");
                file.sync_all().expect("a disk");
            }
            for _ in 0..WRITES {
                file.write_all(&[b'U'; 1000]).expect("room");
            }
            fs::write(&unsynced, "x").expect("room");
            volume.cut_power().expect("power to cut");
            assert!(file.write_all(b"z").and_then(|()| file.sync_all()).is_err(), "it has no power");
            drop(file);
            volume.restore_power().expect("its journal is whole");
            let found = fs::read(&log).expect("it was synced");
            assert!(found == vec![b'S'; round * WRITES * 1000], "{} bytes after cut {round}", found.len());
            assert!(!unsynced.exists(), "it was never synced");
        }
        let (file, mount) = (volume.file.clone(), volume.mount.clone());
        drop(volume);
        assert!(!mount.join("log").exists(), "it is mounted no more");
        // Whoever wants to know what was on it can look.
        let again = Volume { file, mount };
        again.mount().expect("it is there");
        let found = fs::read(again.path().join("log")).expect("it was synced").len();
        assert_eq!(found, 3 * WRITES * 1000);
    }

    #[test]
    fn a_full_disk_takes_nothing_until_it_is_freed_and_an_exchanged_one_is_empty() {
        const ROOM: usize = 1 << 20;
        let folder = tempfile::tempdir().expect("a folder");
        let made = Volume::make(&folder.path().join("disk.ext4"), &folder.path().join("disk"), BYTES);
        let Some(volume) = able(made) else { return };
        let kept = volume.path().join("kept");
        fs::write(&kept, [b'K'; 1000]).expect("room");
        assert!(volume.has_room_for(ROOM).expect("it can be tried"));
        for leave in [0, 300 << 10] {
            volume.fill(leave).expect("it can be filled");
            let available = volume.available().expect("it says so");
            assert!(available <= leave + BLOCK, "{available} bytes are left instead of {leave}");
            assert!(!volume.has_room_for(ROOM).expect("it can be tried"));
            fs::remove_file(&kept).expect("it is there");
            volume.fill(leave).expect("what came back is taken, too");
            assert!(!volume.has_room_for(ROOM).expect("it can be tried"));
            volume
                .free()
                .and_then(|()| volume.free())
                .expect("the second time there is nothing to give back");
            assert!(volume.has_room_for(ROOM).expect("it can be tried"));
            fs::write(&kept, [b'K'; 1000]).expect("room");
        }
        volume.exchange().expect("another disk");
        assert!(!kept.exists() && volume.has_room_for(ROOM).expect("it can be tried"));
    }
}
