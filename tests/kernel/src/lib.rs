//! Calls of the Linux kernel that have no safe wrapper anywhere: the power of a file system is cut, and packets of a host
//! come to this process.
//!
//! - With `preload` the only crate with `unsafe`. Each call is made by a function that is safe for every argument.
//! - What is done with them is the caller's: no policy, no names, no cleaning up.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::ioctl::{Opcode, Setter, Updater, ioctl, opcode};

/// `FS_IOC_SHUTDOWN` (Linux, `include/uapi/linux/fs.h`; before, `EXT4_IOC_SHUTDOWN` and `XFS_IOC_GOINGDOWN`).
const SHUT_DOWN: Opcode = opcode::read::<u32>(b'X', 125);
/// `FS_SHUTDOWN_FLAGS_NOLOGFLUSH`: not even the journal is written any more.
const NO_LOG_FLUSH: u32 = 2;

/// `TUNSETIFF` (Linux, `include/uapi/linux/if_tun.h`).
const SET_INTERFACE: Opcode = opcode::write::<i32>(b'T', 202);
/// `IFF_TUN`: IP packets, without the frames of a link.
const IP_PACKETS: u16 = 0x0001;
/// `IFF_NO_PI`: nothing before each packet.
const NOTHING_BEFORE: u16 = 0x1000;
/// `IFNAMSIZ`, with the zero at the end.
const NAME: usize = 16;
const TUN: &str = "/dev/net/tun";

/// `struct ifreq` (Linux, `include/uapi/linux/if.h`): a name, and a union of 24 bytes, which begins with the flags.
type InterfaceRequest = [u8; NAME + 24];

/// Cuts the power of the file system that is mounted here: what was synced stays, what was not is gone when it is mounted
/// again. Every later write fails. Takes root, and a file system that knows the call: ext4, XFS.
///
/// It models a disk without a cache of its own: that a flush of the device was forgotten is not seen.
pub fn shut_down(mount: &Path) -> io::Result<()> {
    let folder = File::open(mount)?;
    #[expect(unsafe_code, reason = "the call has no safe wrapper")]
    // SAFETY: the kernel reads 32 bits of flags through the pointer, and writes nothing to it.
    unsafe {
        ioctl(&folder, Setter::<SHUT_DOWN, u32>::new(NO_LOG_FLUSH))?;
    }
    Ok(())
}

/// Makes a network device of this name. Each read gives one IP packet that was sent out through it, each write is one that
/// comes in; neither waits (`WouldBlock`). It goes when the file is closed, wherever it was moved meanwhile. Takes root.
pub fn tunnel(name: &str) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(TUN)?;
    let mut request = interface(name)?;
    #[expect(unsafe_code, reason = "the call has no safe wrapper")]
    // SAFETY: the kernel reads and writes one `struct ifreq` through the pointer, which has all of its bytes and needs no
    // alignment, and keeps no pointer.
    unsafe {
        ioctl(&file, Updater::<SET_INTERFACE, InterfaceRequest>::new(&mut request))?;
    }
    Ok(file)
}

fn interface(name: &str) -> io::Result<InterfaceRequest> {
    if name.is_empty() || name.len() >= NAME {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is no name of a device")));
    }
    let mut request = [0; NAME + 24];
    request[..name.len()].copy_from_slice(name.as_bytes());
    let flags = (IP_PACKETS | NOTHING_BEFORE).to_ne_bytes();
    request[NAME..NAME + flags.len()].copy_from_slice(&flags);
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calls_are_those_of_the_kernels_headers() {
        assert_eq!(SHUT_DOWN, 0x8004_587d);
        assert_eq!(SET_INTERFACE, 0x4004_54ca);
        assert_eq!(size_of::<InterfaceRequest>(), 40);
    }

    #[test]
    fn a_name_that_no_device_can_have_is_refused() {
        assert!(interface("").is_err() && interface("sixteen-letters-").is_err());
        let request = interface("fifteen-letters").expect("it has room for the zero");
        assert_eq!(request[..NAME], *b"fifteen-letters\0");
        assert_eq!(request[NAME..NAME + 2], 0x1001_u16.to_ne_bytes());
        assert!(request[NAME + 2..].iter().all(|byte| *byte == 0));
    }
}
