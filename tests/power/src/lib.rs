//! The power of one file system, to be cut: what was synced stays, what was not is gone.
//!
//! - With `preload` the only crate with `unsafe`: the kernel's call for this has no safe wrapper anywhere.
//! - Models a disk without a cache of its own. That a flush of the device was forgotten is not seen.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::ioctl::{Opcode, Setter, ioctl, opcode};

/// `FS_IOC_SHUTDOWN` (Linux, `include/uapi/linux/fs.h`; before, `EXT4_IOC_SHUTDOWN` and `XFS_IOC_GOINGDOWN`).
const SHUT_DOWN: Opcode = opcode::read::<u32>(b'X', 125);
/// `FS_SHUTDOWN_FLAGS_NOLOGFLUSH`: not even the journal is written any more.
const NO_LOG_FLUSH: u32 = 2;

/// Cuts the power of the file system that is mounted here. Every later write fails, and what was not synced is gone when
/// it is mounted again. Takes root, and a file system that knows the call: ext4, XFS.
pub fn shut_down(mount: &Path) -> io::Result<()> {
    let folder = File::open(mount)?;
    #[expect(unsafe_code, reason = "the call has no safe wrapper")]
    // SAFETY: the kernel reads 32 bits of flags through the pointer, and writes nothing to it.
    unsafe {
        ioctl(&folder, Setter::<SHUT_DOWN, u32>::new(NO_LOG_FLUSH))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_call_is_the_one_of_the_kernels_header() {
        assert_eq!(SHUT_DOWN, 0x8004_587d);
    }
}
